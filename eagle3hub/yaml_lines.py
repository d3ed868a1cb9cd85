"""YAML that remembers where everything stood, so that an error can name its line.

The dialect is YAML 1.2's core: only ``true`` and ``false`` are booleans (the language code ``no`` is text), dates
and ``1:30`` are text. Anchors and aliases work, up to a bound on what they expand to; merge keys, custom tags,
duplicate keys and keys that are not text are errors.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eagle3hub.errors import ManifestError, SourceError
from eagle3hub.reading import read_bytes
from eagle3hub.schema_faults import Location, faults

if TYPE_CHECKING:
    import yaml

MAX_BYTES = 1 << 20
MAX_NODES = 200_000
"""Most nodes a document may have once its aliases are written out."""
TAG = "tag:yaml.org,2002:"
"""Before the name of a core type in a YAML tag."""
_SCALARS = {
    "null": (r"^(?:null|~|)\Z", ["n", "~", ""]),
    "bool": (r"^(?:true|false)\Z", ["t", "f"]),
    "int": (r"^[-+]?[0-9]+\Z", list("-+0123456789")),
    "float": (r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z", list("-+.0123456789")),
}


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed file: plain data, and for each place in it the line (1-based) and the text as typed.

    ``key_lines`` holds the line of a mapping's key, ``lines`` that of its value.
    """

    name: str
    data: Any
    lines: dict[Location, int] = field(default_factory=dict)
    key_lines: dict[Location, int] = field(default_factory=dict)
    texts: dict[Location, str] = field(default_factory=dict)

    def line(self, location: Location) -> int:
        """Line of a place; of the nearest enclosing place where this one does not exist."""
        while location and location not in self.key_lines and location not in self.lines:
            location = location[:-1]
        return self.key_lines.get(location) or self.lines.get(location, 1)

    def error(
        self, location: Location, message: str, hint: str | None = None, code: str = "manifest"
    ) -> ManifestError:
        """The error that names this file and the line of the place."""
        return ManifestError(f"{self.name}:{self.line(location)}: {message}", hint=hint, code=code)


def read_yaml(path: Path, max_bytes: int = MAX_BYTES) -> Document:
    """Read a YAML file of at most ``max_bytes``.

    Raises SourceError if it cannot be read, ManifestError with file and line if it is not such YAML.
    """
    try:
        raw = read_bytes(path, max_bytes)
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise ManifestError(
                f"{path.name}: larger than {max_bytes:,} bytes, which no such file is", code="manifest-size"
            ) from error
        raise SourceError(f"cannot read {path}: {error.strerror or error}", code="source-manifest") from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ManifestError(f"{path.name}:{line}: not UTF-8 text", code="manifest-encoding") from error
    return parse_yaml(text, path.name)


def hold_to_schema(document: Document, schema: Mapping[str, Any], code: str = "manifest") -> None:
    """Raise ManifestError (``code``) for the document's most telling departure from a schema; the hint has others."""
    found = sorted(faults(document.data, schema), key=lambda f: (f.rank, document.line(f.location)))
    if found:
        first, others = found[0], [f"line {document.line(f.location)}: {f.message}" for f in found[1:]]
        hint = "; ".join(filter(None, [first.hint, *([f"also {', '.join(others[:5])}"] if others else [])]))
        raise document.error(first.location, first.message, hint or None, code)


def parse_yaml(text: str, name: str) -> Document:
    """Parse YAML text; ``name`` is the file name used in errors."""
    import yaml

    document = Document(name, None)
    try:
        root = yaml.compose(text, Loader=_loader())
        data = _Builder(document).build(root, ()) if root is not None else None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = f":{mark.line + 1}" if mark else ""
        raise ManifestError(
            f"{name}{at}: not valid YAML: {error.problem or error.context}", code="manifest-yaml"
        ) from error
    except yaml.YAMLError as error:
        raise ManifestError(f"{name}: not valid YAML: {error}", code="manifest-yaml") from error
    except RecursionError:
        raise ManifestError(f"{name}: nested too deeply", code="manifest-yaml") from None
    return Document(name, data, document.lines, document.key_lines, document.texts)


@cache
def _loader() -> type[yaml.SafeLoader]:
    import yaml

    class CoreLoader(yaml.SafeLoader):
        yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    core_resolvers(CoreLoader)
    return CoreLoader


def core_resolvers(loader_or_dumper: Any) -> None:
    """Have a loader or dumper of PyYAML take the scalars of YAML 1.2's core, and no others, for more than text."""
    for kind, (pattern, first) in _SCALARS.items():
        loader_or_dumper.add_implicit_resolver(TAG + kind, re.compile(pattern), first)


class _Builder:
    def __init__(self, document: Document) -> None:
        self.document = document
        self.open: set[int] = set()
        self.nodes = 0

    def build(self, node: yaml.Node, location: Location) -> Any:
        import yaml

        line = node.start_mark.line + 1
        self.document.lines[location] = line
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise self._error(line, f"aliases expand to more than {MAX_NODES:,} values", "write fewer of them")
        if isinstance(node, yaml.ScalarNode):
            self._require(node, "str", *_SCALARS)
            self.document.texts[location] = node.value
            return self._scalar(node)
        if id(node) in self.open:
            raise self._error(line, "an alias stands inside its own anchor", "write the value out")
        self.open.add(id(node))
        built: Any
        if isinstance(node, yaml.MappingNode):
            self._require(node, "map")
            built = {key: self.build(value, (*location, key)) for key, value in self._items(node, location)}
        else:
            self._require(node, "seq")
            built = [self.build(value, (*location, i)) for i, value in enumerate(node.value)]
        self.open.remove(id(node))
        return built

    def _items(self, node: yaml.MappingNode, location: Location) -> list[tuple[str, yaml.Node]]:
        out: dict[str, yaml.Node] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.tag != TAG + "str" and key.tag not in {TAG + kind for kind in _SCALARS}:
                raise self._error(line, "a key must be plain text")
            if key.value in out:
                raise self._error(line, f"the key {key.value!r} appears twice")
            out[key.value] = value
            self.document.key_lines[(*location, key.value)] = line
        return list(out.items())

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        kind, text = node.tag.removeprefix(TAG), node.value
        if kind == "str":
            return text
        if not re.match(_SCALARS[kind][0], text):
            raise self._error(node.start_mark.line + 1, f"{text!r} is not a value of type {kind}")
        if kind == "int" and len(text) > 30:
            raise self._error(node.start_mark.line + 1, "the number has too many digits")
        if kind == "null":
            return None
        return text == "true" if kind == "bool" else int(text) if kind == "int" else float(text)

    def _require(self, node: yaml.Node, *kinds: str) -> None:
        if node.tag not in {TAG + kind for kind in kinds}:
            raise self._error(node.start_mark.line + 1, f"the tag {node.tag!r} is not allowed", "write plain YAML")

    def _error(self, line: int, message: str, hint: str | None = None) -> ManifestError:
        return ManifestError(f"{self.document.name}:{line}: {message}", hint=hint, code="manifest-yaml")
