"""The kinds of files that may be published, and the check of each kind."""

from __future__ import annotations

import base64
import binascii
import io
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax import SAXException
from xml.sax.handler import ContentHandler, feature_namespaces, property_lexical_handler

from eagle3hub.checkpoint.safetensors import is_pickle
from eagle3hub.errors import CheckpointError, ManifestError, SourceError
from eagle3hub.publishing.content import (
    RECOGNISED_BYTES,
    Malformed,
    check_jpeg,
    check_license,
    check_png,
    check_text,
    plain_text,
    recognised_kind,
    safetensors_header,
    text_of,
)
from eagle3hub.publishing.files import LocalFile, parse_digest_list
from eagle3hub.system import resources
from eagle3hub.system.documents import hold_to_schema, parse_yaml, schema_faults
from eagle3hub.system.resources import schema

# JSON, YAML and templates


_MAX_BRACKETS = 100
"""The most brackets open at a time. PyYAML looks at every open bracket for each token, so more take for ever."""
_CITATION = {"cff-version", "message", "title", "authors"}


def check_json(data: bytes, schemas: Sequence[str], *, plain: bool) -> None:
    """Raise Malformed unless the bytes are one strict JSON object that fits a schema.

    Args:
        schemas: the names of the schemas that the object may fit. If there are several, its ``schema`` field
            chooses one.
        plain: also require `plain_text`. Vocabularies hold every character there is.
    """
    text = text_of(data)
    if plain:
        check_text(data)
    document = strict_json(text)
    if not isinstance(document, dict):
        raise Malformed("is JSON, but not an object")
    chosen = [found for name in schemas if _fits(document, found := _schema(name))]
    if not chosen:
        titles = " or ".join(str(_schema(name)["title"]) for name in schemas)
        raise Malformed(f"does not state the schema of {titles}")
    for fault in schema_faults(document, chosen[0]):
        raise Malformed(f"does not fit {chosen[0]['title']}: {fault.message}")


def strict_json(text: str) -> Any:
    """Parse JSON. Raises Malformed if a name occurs twice in an object or a number is not finite."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            twice = next(name for name, times in Counter(name for name, _ in pairs).items() if times > 1)
            raise Malformed(f"has the name {twice[:60]!a} twice in one object")
        return made

    def number(digits: str) -> float:
        value = float(digits)
        if not math.isfinite(value):
            raise Malformed(f"has a number that is not finite ({digits[:30]})")
        return value

    def constant(name: str) -> None:
        raise Malformed(f"holds {name}, which JSON does not have")

    try:
        return json.loads(text, object_pairs_hook=unique, parse_float=number, parse_constant=constant)
    except Malformed:
        raise
    except json.JSONDecodeError as e:
        raise Malformed(f"is not valid JSON: line {e.lineno}: {e.msg}") from e
    except (ValueError, RecursionError) as e:
        raise Malformed("is not usable JSON: it nests too deeply, or a number is too long") from e


def check_citation(data: bytes) -> None:
    """Raise Malformed unless the bytes are a CITATION.cff: YAML without anchors, aliases and tags."""
    import yaml

    text = plain_text(data)
    brackets = re.findall(r"[\[{]|[\]}]", text)
    if max(accumulate((1 if bracket in "[{" else -1 for bracket in brackets), initial=0)) > _MAX_BRACKETS:
        raise Malformed(f"opens more than {_MAX_BRACKETS} brackets without closing them")
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            tag = getattr(event, "tag", None)
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) or tag not in (None, "!"):
                raise Malformed("has an anchor, an alias or a tag, which a citation does not need")
        document = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as e:
        if isinstance(e, Malformed):
            raise
        raise Malformed("is not valid YAML") from e
    if not isinstance(document, dict) or not set(document) >= _CITATION:
        raise Malformed(f"lacks fields of a citation file ({', '.join(sorted(_CITATION))})")


def check_template(data: bytes) -> None:
    """Raise Malformed unless the bytes are a Jinja template that can be a chat template."""
    text = plain_text(data)
    if "{{" not in text and "{%" not in text:
        raise Malformed("has nothing that a template fills in")
    check_jinja(data)


def check_jinja(data: bytes) -> None:
    """Raise Malformed unless the bytes are a Jinja template."""
    from jinja2 import TemplateError

    text = plain_text(data)
    try:
        _environment().parse(text)
    except (TemplateError, RecursionError) as e:
        raise Malformed("is not a Jinja template") from e


@cache
def _environment() -> Any:
    """Return Jinja as transformers sets it up for chat templates: loop controls and the block ``generation``."""
    from jinja2 import Environment, nodes
    from jinja2.ext import Extension
    from jinja2.parser import Parser

    class Generation(Extension):
        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Parser) -> nodes.Node:
            block = nodes.Scope(lineno=next(parser.stream).lineno)
            block.body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return block

    return Environment(extensions=["jinja2.ext.loopcontrols", Generation])


def _fits(document: Mapping[str, Any], schema: Mapping[str, Any]) -> bool:
    wanted = schema.get("properties", {}).get("schema", {}).get("const")
    return wanted is None or document.get("schema") == wanted


@cache
def _foreign() -> dict[str, Any]:
    text = Path(__file__).with_name("file_schemas.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def _schema(name: str) -> dict[str, Any]:
    """Return a schema: of another program's files, or of this project."""
    found: dict[str, Any] = _foreign().get(name) or schema(name)
    return found


# SVG pictures as matplotlib writes them: only listed elements are allowed, so nothing runs and nothing is fetched


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
_MAX_ELEMENTS = 500_000
_MAX_DEPTH = 100


def check_svg(data: bytes) -> None:
    """Raise Malformed unless the bytes are an SVG picture of allowed elements that refers to nothing outside."""
    from defusedxml.common import DefusedXmlException
    from defusedxml.sax import make_parser

    text = plain_text(data)
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
    """Refuses each element and attribute that is not on the lists, while the file is read."""

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
        if self._seen > _MAX_ELEMENTS or len(self._open) > _MAX_DEPTH:
            raise Malformed("has more elements than a chart needs")
        allowed = local in _ELEMENTS if space == _SVG else local in _METADATA.get(space or "", "").split()
        if not allowed:
            raise Malformed(f"holds the element {local[:40]}, which is not allowed in a picture of a card")
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
        """Check the document type. This method belongs to the handler of document types, comments and CDATA."""
        if (name, public_id, system_id) != _DOCTYPE:
            raise Malformed("has a document type other than that of SVG 1.1")

    def _ignored(self, *_: Any) -> None:
        """Accept comments and CDATA, which can say nothing that other text cannot."""

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
            raise Malformed(f"holds the attribute {name[:40]}, which is not allowed in a picture of a card")
        _check_style(value)
        return None

    def _reference(self, element: str, value: str) -> None:
        if re.fullmatch(r"#[\w.:-]+", value):
            return
        found = _PICTURE.fullmatch(value.strip())
        if element != "image" or found is None:
            raise Malformed("refers to something outside of itself")
        try:
            picture = base64.b64decode(found[2])
        except binascii.Error as e:
            raise Malformed("holds a picture that is not base64") from e
        (check_png if found[1] == "png" else check_jpeg)(picture)


def _pairs(attrs: AttributesNSImpl) -> Iterable[tuple[Name, str]]:
    return attrs.items()


def _check_style(value: str) -> None:
    found = _ACTIVE.search(_WITHIN.sub("", _without_comments(value)))
    if found:
        raise Malformed(f"holds a style or value that is not allowed in a picture of a card ({found[0]})")


def _without_comments(style: str) -> str:
    """Return a style without its comments. A comment that does not end stays, and is searched."""
    kept, at = [], 0
    while (start := style.find("/*", at)) >= 0 and (end := style.find("*/", start + 2)) >= 0:
        kept.append(style[at:start])
        at = end + 2
    return "".join([*kept, style[at:]])


# The kind of each file, by its path
#
# `FILE_KINDS` lists every file that may be published; a path that matches no line of it is no part of a release. To
# allow another JSON file, add a line that names its schema: one in `file_schemas.json` or in ``schemas/``.


_TEXT_BYTES = 4 << 20
_JSON_BYTES = 64 << 20
_PICTURE_BYTES = 32 << 20
_FOLDER = r"([\w.-]+/)?"
_PICTURES = r"(assets|images|charts)/[\w.-]+\."
_RESULTS = ("report", "bench", "serving", "matrix", "imported")


@dataclass(frozen=True, slots=True)
class FileKind:
    """A kind of file.

    Attributes:
        name: the name of the kind, with its article.
        check: raises Malformed for bytes that are not of this kind. Its message completes a sentence that starts
            with ``it``.
        most: the most bytes that a file of this kind may have.
    """

    name: str
    check: Callable[[bytes], None]
    most: int = _TEXT_BYTES


def _json(name: str, *schemas: str, most: int = _JSON_BYTES, plain: bool = True) -> FileKind:
    return FileKind(name, lambda data: check_json(data, schemas, plain=plain), most)


def _sums(data: bytes) -> None:
    try:
        parse_digest_list(text_of(data))
    except SourceError as e:
        raise Malformed("is not a list of digests") from e


def _yaml(name: str, schema: str) -> FileKind:
    def check(data: bytes) -> None:
        try:
            hold_to_schema(parse_yaml(text_of(data), name), resources.schema(schema))
        except ManifestError as e:
            raise Malformed(f"does not fit its schema: {e.message}") from e

    return FileKind(name, check)


_WEIGHTS = FileKind("a safetensors file", lambda _: None)
FILE_KINDS: tuple[tuple[str, FileKind], ...] = (
    (rf"{_FOLDER}[\w.-]+\.safetensors", _WEIGHTS),
    (rf"{_FOLDER}config\.json", _json("a model's configuration", "config")),
    (rf"{_FOLDER}generation_config\.json", _json("a generation configuration", "generation_config")),
    (rf"{_FOLDER}model\.safetensors\.index\.json", _json("an index of weights", "index")),
    (rf"{_FOLDER}hf_quant_config\.json", _json("a quantization record", "hf_quant_config")),
    (rf"{_FOLDER}eagle3hub\.json", _json("a record of eagle3hub convert", "provenance")),
    (rf"{_FOLDER}tokenizer\.json", _json("a tokenizer", "tokenizer", plain=False)),
    (rf"{_FOLDER}tokenizer_config\.json", _json("a tokenizer's configuration", "tokenizer_config", plain=False)),
    (rf"{_FOLDER}special_tokens_map\.json", _json("a map of special tokens", "special_tokens_map", plain=False)),
    (r"(reports|benchmarks)/[\w.-]+\.json", _json("a report or benchmark of eagle3hub", *_RESULTS)),
    (r"release\.json", _json("a record of a release", "release")),
    (r"release\.yaml", _yaml("a release's manifest", "manifest")),
    (r"imported/[0-9]+\.yaml", _yaml("a file of imported measurements", "imported")),
    (r"templates/[\w.-]+\.j2", FileKind("a template of a card", check_jinja)),
    (r"model\.sig", _json("a sigstore bundle", "sigstore_bundle")),
    (rf"{_FOLDER}README\.md", FileKind("Markdown", check_text)),
    (rf"{_FOLDER}(LICENSE|NOTICE|COPYING)[\w.-]*", FileKind("plain text", check_license)),
    (rf"{_FOLDER}CITATION\.cff", FileKind("a citation file", check_citation)),
    (rf"{_FOLDER}chat_template\.jinja", FileKind("a chat template", check_template)),
    (r"SHA256SUMS", FileKind("a list of digests", _sums)),
    (rf"{_PICTURES}png", FileKind("a PNG picture", check_png, _PICTURE_BYTES)),
    (rf"{_PICTURES}jpe?g", FileKind("a JPEG picture", check_jpeg, _PICTURE_BYTES)),
    (rf"{_PICTURES}svg", FileKind("an SVG picture", check_svg, _PICTURE_BYTES)),
)
"""What may be published: a pattern for the whole path of a file, and the kind that the file must have."""
_COMPILED = [(re.compile(pattern, re.ASCII), kind) for pattern, kind in FILE_KINDS]


def file_kind(path: str) -> FileKind | None:
    """Return the kind that a file at ``path`` must have, or None if no file of a release has this path."""
    return next((kind for pattern, kind in _COMPILED if pattern.fullmatch(path)), None)


def is_executed(file: LocalFile) -> bool:
    """Return whether the first bytes are a pickle, or a ZIP archive, in which torch stores pickles."""
    return is_pickle(file.head(9))


def mismatch(file: LocalFile, kind: FileKind) -> str | None:
    """Return the reason why a file is not of its kind, or None.

    The reason completes a sentence that starts with the file's path. The bytes decide: name and ending only say what
    the bytes must be.
    """
    try:
        if file.size == 0:
            return f"is empty, not {kind.name}"
        if kind is _WEIGHTS:
            safetensors_header(file)
            return None
        if file.size > kind.most:
            return f"is larger than {kind.most >> 20} MiB, too large for {kind.name}"
        kind.check(file.head(kind.most + 1))
    except (Malformed, CheckpointError) as e:
        what = recognised_kind(file.head(RECOGNISED_BYTES))
        if what is not None and what != kind.name:
            return f"is {what}, not {kind.name}"
        why = str(e) if isinstance(e, CheckpointError) else f"it {e}"
        return f"is not {kind.name}: {why}"
    except OSError as e:
        return f"cannot be read: {e.strerror}"
    return None
