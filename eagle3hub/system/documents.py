"""Read JSON and YAML strictly, write JSON in one way, and name the line of a fault."""

from __future__ import annotations

import errno
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache, lru_cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eagle3hub.errors import ManifestError, SourceError
from eagle3hub.system.reading import read_bytes

if TYPE_CHECKING:
    import yaml
    from jsonschema import ValidationError

# Schema faults, in words for the author of the file: which field, what it holds, what is allowed


Location = tuple[str | int, ...]
_QUOTES = "put quotes around a text with a comma inside { }, where a comma ends it; "
_ECMA = re.compile(r"\\.|\[(?:\\.|[^\]\\])*\]|\$")


@dataclass(frozen=True, slots=True)
class Fault:
    """One way in which a document does not fit a schema.

    Attributes:
        location: the place in the document.
        message: what is wrong there.
        hint: what is allowed there.
        rank: lower ranks are more useful to the author. An unknown field is often the misspelt name of a missing
            one.
    """

    location: Location
    message: str
    hint: str | None
    rank: int = 1


def schema_faults(data: Any, schema: Mapping[str, Any]) -> Iterator[Fault]:
    """Yield every way in which ``data`` does not fit ``schema``, in the order in which the schema is walked."""
    digest = _digest(data)
    if digest is not None and _SOUND.get(digest) is schema:
        return
    fits = True
    for error in _validator()(schema).iter_errors(data):
        fits = False
        yield from _explain(error)
    if fits and digest is not None:
        if len(_SOUND) == _MOST_SOUND:
            _SOUND.clear()
        _SOUND[digest] = schema


_SOUND: dict[bytes, Mapping[str, Any]] = {}
"""Documents that fit a schema, by digest: each step of a release reads the same reports."""
_MOST_SOUND = 1024


def _digest(data: Any) -> bytes | None:
    """Return the digest of a document as it would be written, or None if it cannot be written as JSON."""
    try:
        text = json.dumps(data)
    except (TypeError, ValueError, RecursionError):
        return None
    return sha256(text.encode("utf-8", "surrogatepass")).digest()


@cache
def _validator() -> Any:
    from jsonschema import Draft202012Validator
    from jsonschema.validators import extend

    whole = Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)
    return extend(Draft202012Validator, {"pattern": _fits}, type_checker=whole)  # type: ignore[no-untyped-call]


def _fits(_validator: Any, pattern: str, text: Any, _schema: Any) -> Iterator[ValidationError]:
    from jsonschema import ValidationError

    if isinstance(text, str) and not ecma_pattern(pattern).search(text):
        yield ValidationError(f"{text!r} does not match {pattern!r}")


@cache
def ecma_pattern(pattern: str) -> re.Pattern[str]:
    r"""Compile a schema's regular expression as ECMA 262 means it (JSON Schema 2020-12, core 6.4).

    ``$`` matches only the end of the text, and not before a final line break as in Python. ``\d`` matches only 0 to 9.
    """
    return re.compile(_ECMA.sub(lambda found: {"$": r"\Z", r"\d": "[0-9]"}.get(found[0], found[0]), pattern))


def field_name(location: Location) -> str:
    """Return ``release.tags[2]`` for ("release", "tags", 2), and an empty text for the whole document."""
    out = ""
    for part in location:
        out += f"[{part}]" if isinstance(part, int) else f".{part}" if out else part
    return out


def did_you_mean(word: str, known: list[str]) -> str:
    """Return ``; did you mean 'x'?`` for the closest known word, or an empty text."""
    matches = get_close_matches(word.lower(), known, n=1, cutoff=0.6)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def _explain(error: ValidationError) -> Iterator[Fault]:
    if error.validator in ("anyOf", "oneOf") and error.context:
        from jsonschema.exceptions import best_match

        yield from _explain(best_match(error.context))
        return
    where: Location = tuple(error.absolute_path)
    schema: Mapping[str, Any] = error.schema if isinstance(error.schema, dict) else {}
    value = error.instance
    name = field_name(where) or "the document"
    if error.validator == "additionalProperties" and isinstance(value, dict):
        known = sorted(schema.get("properties", {}))
        for key in value:
            if key not in known:
                message = f"unknown field {field_name((*where, key))!r}{did_you_mean(key, known)}"
                quotes = "" if value[key] is not None or " " not in key else _QUOTES
                yield Fault((*where, key), message, f"{quotes}fields allowed here: {', '.join(known)}", rank=0)
        return
    if error.validator == "required" and isinstance(value, dict):
        for key in schema["required"]:
            if key not in value and f"{key!r} is a required" in error.message:
                yield Fault(where, f"the field {field_name((*where, key))!r} is missing", _describe(schema, key))
        return
    allowed = _allowed(schema, error)
    suggestion = (
        did_you_mean(value, [str(v) for v in schema["enum"]]) if "enum" in schema and isinstance(value, str) else ""
    )
    yield Fault(where, f"{name} is {_show(value)}{suggestion}", f"allowed: {allowed}")


def _allowed(schema: Mapping[str, Any], error: ValidationError) -> str:
    if "x-allowed" in schema:
        return str(schema["x-allowed"])
    if "enum" in schema:
        return ", ".join(str(v) for v in schema["enum"])
    if error.validator == "uniqueItems":
        return "each entry once"
    kinds = {"object": "a mapping (key: value)", "array": "a list", "string": "text", "integer": "a whole number"}
    if error.validator == "type":
        wanted = error.validator_value if isinstance(error.validator_value, list) else [error.validator_value]
        return " or ".join(kinds.get(str(kind), f"a {kind}") for kind in wanted)
    if error.validator in ("minLength", "maxLength"):
        return f"text of {schema.get('minLength', 0)} to {schema.get('maxLength', 'any number of')} characters"
    return f"{error.validator} {json.dumps(error.validator_value)[:200]}"


def _describe(schema: Mapping[str, Any], key: str) -> str | None:
    entry = schema.get("properties", {}).get(key)
    if not entry:
        return None
    text: str = entry.get("description", "")
    return f"{key}: {text}" if text else None


def _show(value: Any) -> str:
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if value is None:
        return "empty"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + '…"'


# JSON documents, as this package writes them and reads them again


_DIGITS = 21
"""A 64-bit integer has at most this many characters, with its sign."""


def document_bytes(document: Mapping[str, Any]) -> bytes:
    """Return the bytes of a JSON document in UTF-8. What UTF-8 cannot hold (half a surrogate pair) is escaped."""
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def read_document(path: Path, kind: str, max_bytes: int) -> Any:
    """Read the JSON in a file of at most ``max_bytes``. ``kind`` is part of the codes of its errors.

    Raises SourceError (``source-KIND``) if the file cannot be read, and ManifestError (``KIND-size``, ``KIND-json``)
    if it is too large or is not JSON that all readers understand alike (see `parse_json`).
    """
    try:
        raw = read_bytes(path, max_bytes)
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise ManifestError(
                f"{path.name}: larger than {max_bytes:,} bytes, too large for such a file", code=f"{kind}-size"
            ) from error
        raise SourceError(f"cannot read {path}: {error.strerror or error}", code=f"source-{kind}") from error
    try:
        return parse_json(raw)
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{path.name}: not valid JSON: {error}", code=f"{kind}-json") from error


def parse_json(raw: bytes | str) -> Any:
    """Parse JSON strictly: no key twice in one object, only finite numbers, integers of at most 64 bits.

    Readers disagree about the rest (RFC 8259, sections 4 and 6), so such a document would mean different things to
    different people. Raises ValueError, and RecursionError if the document is nested too deeply.
    """
    return json.loads(
        raw, object_pairs_hook=_object, parse_constant=_constant, parse_float=_finite, parse_int=_of_64_bits
    )


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} appears twice in one object")
        found[key] = value
    return found


def _constant(text: str) -> float:
    raise ValueError(f"{text} is not a valid JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:40]} is too large")
    return value


def _of_64_bits(text: str) -> int:
    value = int(text) if len(text) <= _DIGITS else 1 << 64
    if not -(1 << 63) <= value < 1 << 64:
        raise ValueError(f"the number {text[:40]} is too large")
    return value


def nearly_equal(a: Any, b: Any) -> bool:
    """Return whether two JSON values are equal, except for the last digits of computed numbers."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(nearly_equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(nearly_equal(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, int | float) and isinstance(b, int | float):
        return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12)
    return bool(a == b)


# YAML with the line of every value, so that an error can name its line
#
# The dialect is the core of YAML 1.2: only ``true`` and ``false`` are booleans (the language code ``no`` is text), and
# dates and ``1:30`` are text. Anchors and aliases work, but what they expand to is limited. Merge keys, custom tags,
# duplicate keys, and keys that are not text are errors.


MAX_BYTES = 1 << 20
MAX_NODES = 200_000
"""The most nodes that a document may have after its aliases are expanded."""
TAG = "tag:yaml.org,2002:"
"""The prefix of the names of core types in YAML tags."""
_SCALARS = {
    "null": (r"^(?:null|~|)\Z", ["n", "~", ""]),
    "bool": (r"^(?:true|false)\Z", ["t", "f"]),
    "int": (r"^[-+]?[0-9]+\Z", list("-+0123456789")),
    "float": (r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z", list("-+.0123456789")),
}


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed file: plain data, and for each place in it the line (from 1) and the text as typed.

    ``key_lines`` holds the line of a mapping's key, ``lines`` the line of its value.
    """

    name: str
    data: Any
    lines: dict[Location, int] = field(default_factory=dict)
    key_lines: dict[Location, int] = field(default_factory=dict)
    texts: dict[Location, str] = field(default_factory=dict)

    def line(self, location: Location) -> int:
        """Return the line of a place, or of the nearest place around it if it does not exist."""
        while location and location not in self.key_lines and location not in self.lines:
            location = location[:-1]
        return self.key_lines.get(location) or self.lines.get(location, 1)

    def error(
        self, location: Location, message: str, hint: str | None = None, code: str = "manifest"
    ) -> ManifestError:
        """Return an error that names this file and the line of a place."""
        return ManifestError(f"{self.name}:{self.line(location)}: {message}", hint=hint, code=code)


def read_yaml(path: Path, max_bytes: int = MAX_BYTES) -> Document:
    """Read a YAML file of at most ``max_bytes``.

    Raises SourceError if the file cannot be read, and ManifestError with file and line if it is not valid YAML.
    """
    try:
        raw = read_bytes(path, max_bytes)
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise ManifestError(
                f"{path.name}: larger than {max_bytes:,} bytes, too large for such a file", code="manifest-size"
            ) from error
        raise SourceError(f"cannot read {path}: {error.strerror or error}", code="source-manifest") from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ManifestError(f"{path.name}:{line}: not UTF-8 text", code="manifest-encoding") from error
    return parse_yaml(text, path.name)


def hold_to_schema(document: Document, schema: Mapping[str, Any], code: str = "manifest") -> None:
    """Raise ManifestError (``code``) if a document does not fit a schema.

    The message names the most useful fault, and the hint names up to five others.
    """
    found = sorted(schema_faults(document.data, schema), key=lambda f: (f.rank, document.line(f.location)))
    if found:
        first, others = found[0], [f"line {document.line(f.location)}: {f.message}" for f in found[1:]]
        hint = "; ".join(filter(None, [first.hint, *([f"also {', '.join(others[:5])}"] if others else [])]))
        raise document.error(first.location, first.message, hint or None, code)


def parse_yaml(text: str, name: str) -> Document:
    """Parse YAML text. ``name`` is the name of the file in errors."""
    # a release's manifest is read by each of its steps
    if len(text) > _SMALL:
        return _parse_yaml(text, name)
    found = _parsed_before(text, name)
    try:
        data = deepcopy(found.data)
    except RecursionError:
        raise _too_deep(name) from None
    return Document(name, data, dict(found.lines), dict(found.key_lines), dict(found.texts))


_SMALL = 1 << 16


@lru_cache(maxsize=32)
def _parsed_before(text: str, name: str) -> Document:
    return _parse_yaml(text, name)


def _parse_yaml(text: str, name: str) -> Document:
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
        raise _too_deep(name) from None
    return Document(name, data, document.lines, document.key_lines, document.texts)


def front_matter(lines: Sequence[str], name: str) -> tuple[Document | None, tuple[int, str] | None, int]:
    """Return the metadata block of a card, the error that made it unreadable, and the number of its lines.

    Without a block: None, None, 0. The error is a line and a reason.
    """
    if not lines or lines[0].rstrip() != "---":
        return None, None, 0
    end = next((i for i, line in enumerate(lines[1:], 1) if line.rstrip() == "---"), None)
    if end is None:
        return None, (1, "the metadata block has no closing line of three dashes"), 0
    try:
        document = parse_yaml("\n".join(["", *lines[1:end]]), name)
    except ManifestError as fault:
        where, _, why = fault.message.removeprefix(f"{name}:").partition(": ")
        return None, (int(where) if where.isdigit() else 1, why or fault.message), end + 1
    if document.data is not None and not isinstance(document.data, dict):
        return None, (2, "the metadata block is not a mapping of fields"), end + 1
    return document, None, end + 1


def _too_deep(name: str) -> ManifestError:
    return ManifestError(f"{name}: nested too deeply", code="manifest-yaml")


@cache
def _loader() -> type[yaml.SafeLoader]:
    import yaml

    class CoreLoader(yaml.SafeLoader):
        yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    core_resolvers(CoreLoader)
    return CoreLoader


def core_resolvers(loader_or_dumper: Any) -> None:
    """Set up a PyYAML loader or dumper for the scalars of YAML 1.2's core; all other scalars are text."""
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
            raise self._error(line, "an alias is inside its own anchor", "write the value out")
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
