"""SVG pictures as matplotlib writes them: an allow-list of what is in them, so that nothing runs or is fetched."""

from __future__ import annotations

import base64
import binascii
import io
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from xml.sax import SAXException
from xml.sax.handler import ContentHandler, feature_namespaces, property_lexical_handler

from eagle3hub.publishing.jpeg import check_jpeg
from eagle3hub.publishing.png import Malformed, check_png
from eagle3hub.publishing.text import plain

if TYPE_CHECKING:
    from xml.sax.xmlreader import AttributesNSImpl

    Name = tuple[str | None, str]

_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_XML = "http://www.w3.org/XML/1998/namespace"
_METADATA = {
    "http://www.w3.org/1999/02/22-rdf-syntax-ns#": "RDF Bag li",
    "http://creativecommons.org/ns#": "Work Agent",
    "http://purl.org/dc/elements/1.1/": "type format date title creator description subject source rights language "
    "publisher contributor coverage identifier relation",
}
_DRAWN = """
    svg g defs path use rect circle ellipse line polyline polygon text tspan title desc metadata style clipPath
    image linearGradient radialGradient stop pattern marker symbol filter feColorMatrix feComposite
"""
_ELEMENTS = frozenset(_DRAWN.split())
_PROPERTIES = """
    id class d x y x1 y1 x2 y2 cx cy r rx ry dx dy fx fy width height viewBox version transform style clip-path
    clip-rule fill fill-opacity fill-rule stroke stroke-width stroke-opacity stroke-dasharray stroke-dashoffset
    stroke-linecap stroke-linejoin stroke-miterlimit opacity points offset stop-color stop-opacity gradientUnits
    gradientTransform spreadMethod patternUnits patternTransform patternContentUnits clipPathUnits
    preserveAspectRatio text-anchor font-family font-size font-style font-weight font-variant font-stretch
    letter-spacing dominant-baseline markerWidth markerHeight markerUnits refX refY orient overflow display
    visibility color shape-rendering text-rendering image-rendering vector-effect paint-order type in in2 result
    values operator k1 k2 k3 k4 filter filterUnits color-interpolation-filters role aria-label aria-labelledby
    lang rotate textLength lengthAdjust baseProfile
"""
_ATTRIBUTES = frozenset(_PROPERTIES.split())
_DOCTYPE = ("svg", "-//W3C//DTD SVG 1.1//EN", "http://www.w3.org/Graphics/SVG/1.1/DTD/svg11.dtd")
_WITHIN = re.compile(r"url\(\s*#[\w.:-]+\s*\)")
_ACTIVE = re.compile(r"url\(|@|\\|<|expression|behaviou?r|-moz-binding|javascript|vbscript|data:|image\(|src\(", re.I)
_PICTURE = re.compile(r"data:image/(png|jpeg);base64,([A-Za-z0-9+/=\s]+)")
_ENCODING = re.compile(r"<\?xml[^>]{0,200}encoding\s*=\s*[\"'](?!utf-8[\"'])", re.I)
_MOST = 500_000
_DEEPEST = 100


def check_svg(data: bytes) -> None:
    """Raise Malformed unless the bytes are an SVG picture of allowed elements that shows what it holds itself."""
    from defusedxml.common import DefusedXmlException
    from defusedxml.sax import make_parser

    text = plain(data)
    if _ENCODING.match(text):
        raise Malformed("states another encoding than UTF-8")
    if re.search(r"<!DOCTYPE[^>]{0,500}\[", text):
        raise Malformed("has a document type with declarations of its own")
    checker = _Checker()
    parser = make_parser()
    parser.forbid_external = False  # the document type that matplotlib names is never fetched; `_Checker` knows it
    parser.setFeature(feature_namespaces, True)
    parser.setContentHandler(checker)
    parser.setProperty(property_lexical_handler, checker)
    try:
        parser.parse(io.BytesIO(data))
    except DefusedXmlException as e:
        raise Malformed("declares entities") from e
    except SAXException as e:
        line = getattr(e, "getLineNumber", lambda: None)()
        raise Malformed("is not well-formed XML" + (f": line {line}" if line else "")) from e


class _Checker(ContentHandler):
    """Refuses what is not on the lists as it is read."""

    def __init__(self) -> None:
        super().__init__()
        self._open: list[Name] = []
        self._seen = 0
        self._style: list[str] = []

    def startElementNS(self, name: Name, qname: str | None, attrs: AttributesNSImpl) -> None:
        space, local = name
        self._seen += 1
        self._open.append(name)
        if self._seen == 1 and name != (_SVG, "svg"):
            raise Malformed(f"is XML, but its element is {local[:40]}, not svg")
        if self._seen > _MOST or len(self._open) > _DEEPEST:
            raise Malformed("has more elements than a chart has")
        allowed = local in _ELEMENTS if space == _SVG else local in _METADATA.get(space or "", "").split()
        if not allowed:
            raise Malformed(f"holds the element {local[:40]}, which a picture of a card may not")
        for (where, attribute), value in _pairs(attrs):
            self._attribute(name, where, attribute, value)

    def endElementNS(self, name: Name, qname: str | None) -> None:
        self._open.pop()
        if name == (_SVG, "style"):
            _check_style("".join(self._style))
            self._style.clear()

    def characters(self, content: str) -> None:
        if self._open and self._open[-1] == (_SVG, "style"):
            self._style.append(content)

    def processingInstruction(self, target: str, data: str) -> None:
        raise Malformed(f"holds an instruction to programs ({target[:40]})")

    def startDTD(self, name: str, public_id: str | None, system_id: str | None) -> None:
        """Part of the handler of document types, comments and CDATA."""
        if (name, public_id, system_id) != _DOCTYPE:
            raise Malformed("has a document type other than that of SVG 1.1")

    def _ignored(self, *_: Any) -> None:
        """Comments and CDATA say nothing that other text could not."""

    endDTD = startCDATA = endCDATA = comment = _ignored

    def _attribute(self, element: Name, space: str | None, name: str, value: str) -> None:
        if name == "href" and (space == _XLINK or (space is None and element[0] == _SVG)):
            return self._reference(element[1], value)
        if element[0] != _SVG:
            if not (name in ("resource", "about") and len(value) < 200):
                raise Malformed(f"holds the attribute {name[:40]} in its metadata")
            return None
        if space == _XML and name in ("space", "lang"):
            return None
        if space is not None or name not in _ATTRIBUTES:
            raise Malformed(f"holds the attribute {name[:40]}, which a picture of a card may not")
        _check_style(value)
        return None

    def _reference(self, element: str, value: str) -> None:
        if re.fullmatch(r"#[\w.:-]+", value):
            return
        found = _PICTURE.fullmatch(value.strip())
        if element != "image" or found is None:
            raise Malformed("refers to something outside of it")
        try:
            picture = base64.b64decode(found[2])
        except binascii.Error as e:
            raise Malformed("holds a picture that is not base64") from e
        (check_png if found[1] == "png" else check_jpeg)(picture)


def _pairs(attrs: AttributesNSImpl) -> Iterable[tuple[Name, str]]:
    return attrs.items()


def _check_style(value: str) -> None:
    found = _ACTIVE.search(_WITHIN.sub("", re.sub(r"/\*.*?\*/", "", value, flags=re.S)))
    if found:
        raise Malformed(f"holds a style or value that a picture of a card may not ({found[0]})")
