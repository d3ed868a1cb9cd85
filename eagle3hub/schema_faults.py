"""JSON Schema faults in the words of the file's author: which field, what it holds, what is allowed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from typing import TYPE_CHECKING, Any

Location = tuple[str | int, ...]
_ECMA = re.compile(r"\\.|\[(?:\\.|[^\]\\])*\]|\$")

if TYPE_CHECKING:
    from jsonschema import ValidationError


@dataclass(frozen=True, slots=True)
class Fault:
    """One departure from a schema: where, what is wrong, and what is allowed there.

    ``rank`` orders faults by use to the author: an unknown field often is the misspelt one that is missing.
    """

    location: Location
    message: str
    hint: str | None
    rank: int = 1


def faults(data: Any, schema: Mapping[str, Any]) -> Iterator[Fault]:
    """Every departure of ``data`` from ``schema``, in the order of the schema's own walk."""
    for error in _validator()(schema).iter_errors(data):
        yield from _explain(error)


@cache
def _validator() -> Any:
    from jsonschema import Draft202012Validator
    from jsonschema.validators import extend

    return extend(Draft202012Validator, {"pattern": _fits})  # type: ignore[no-untyped-call]


def _fits(_validator: Any, pattern: str, text: Any, _schema: Any) -> Iterator[ValidationError]:
    from jsonschema import ValidationError

    if isinstance(text, str) and not compiled(pattern).search(text):
        yield ValidationError(f"{text!r} does not match {pattern!r}")


@cache
def compiled(pattern: str) -> re.Pattern[str]:
    r"""A schema's regular expression as ECMA 262 means it (JSON Schema 2020-12, core 6.4).

    ``$`` is the end, and not also before a line break that ends the text as in Python; ``\d`` is 0 to 9 alone.
    """
    return re.compile(_ECMA.sub(lambda found: {"$": r"\Z", r"\d": "[0-9]"}.get(found[0], found[0]), pattern))


def field_name(location: Location) -> str:
    """``release.tags[2]`` for ("release", "tags", 2); the whole document has no name."""
    out = ""
    for part in location:
        out += f"[{part}]" if isinstance(part, int) else f".{part}" if out else part
    return out


def near(word: str, known: list[str]) -> str:
    """``; did you mean 'x'?`` for the closest known word, else nothing."""
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
                message = f"unknown field {field_name((*where, key))!r}{near(key, known)}"
                yield Fault((*where, key), message, f"fields allowed here: {', '.join(known)}", rank=0)
        return
    if error.validator == "required" and isinstance(value, dict):
        for key in schema["required"]:
            if key not in value and f"{key!r} is a required" in error.message:
                yield Fault(where, f"the field {field_name((*where, key))!r} is missing", _describe(schema, key))
        return
    allowed = _allowed(schema, error)
    suggestion = near(value, [str(v) for v in schema["enum"]]) if "enum" in schema and isinstance(value, str) else ""
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
