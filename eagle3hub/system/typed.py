"""Turn the package's own TOML and JSON into frozen dataclasses that refuse unknown keys."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")
_PLAIN = {str: "a string", bool: "true or false", int: "a whole number", float: "a number"}


def build(kind: type[T], table: Mapping[str, Any], place: str) -> T:
    """Make the dataclass ``kind`` from a parsed table. Errors name ``place``: the file and the table in it.

    A field without a default is required. A field is a string, flag, number, ``Literal``, tuple, frozenset, mapping
    with string keys, dataclass, a union of those, ``object`` or ``Any``, which are not looked into.

    Raises ValueError, one sentence with file and key, for a key that is not a field (it lists the fields), for a
    missing key, and for a value of another type.
    """
    return kind(**_fields(kind, table, place))


def build_each(kind: type[T], tables: Mapping[str, Any], place: str) -> dict[str, T]:
    """Make a dataclass ``kind`` of each table by its name, as `build` does."""
    return {name: build(kind, table, f"{place}, {name}") for name, table in tables.items()}


def _fields(kind: Any, table: Mapping[str, Any], place: str) -> dict[str, Any]:
    hints, required = _shape(kind)
    for key in table:
        if key not in hints:
            raise ValueError(f"{place}: nothing reads the key {key!r}; known keys: {', '.join(sorted(hints))}")
    for name in required:
        if name not in table:
            raise ValueError(f"{place}: the key {name!r} is missing")
    return {key: _value(hints[key], value, place, key) for key, value in table.items()}


@cache
def _shape(kind: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the types of a dataclass's fields by name, and the names of the fields without a default."""
    hints, missing = get_type_hints(kind), dataclasses.MISSING
    fields = dataclasses.fields(kind)
    required = tuple(f.name for f in fields if f.default is missing and f.default_factory is missing)
    return {f.name: hints[f.name] for f in fields}, required


def _value(hint: Any, value: Any, place: str, key: str) -> Any:
    if hint is Any or hint is object:
        return value
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _one_of(inner, value, place, key)
    if origin is Literal:
        return value if value in inner else _wrong(place, key, f"one of {', '.join(map(repr, inner))}", value)
    if dataclasses.is_dataclass(hint):
        table = value if isinstance(value, dict) else _wrong(place, key, "a table", value)
        return build(hint, table, f"{place}, {key}")  # type: ignore[arg-type]
    if origin in (tuple, frozenset):
        listed = value if isinstance(value, list) else _wrong(place, key, "a list", value)
        kinds = inner[:1] * len(listed) if origin is frozenset or inner[-1] is Ellipsis else inner
        if len(kinds) != len(listed):
            _wrong(place, key, f"a list of {len(kinds)}", value)
        return origin(_value(k, v, place, f"{key}[{i}]") for i, (k, v) in enumerate(zip(kinds, listed, strict=True)))
    if origin is not None and issubclass(origin, Mapping):
        table = value if isinstance(value, dict) else _wrong(place, key, "a table", value)
        return {_value(inner[0], k, place, key): _value(inner[1], v, place, f"{key}.{k}") for k, v in table.items()}
    if hint is float and type(value) is int:
        return float(value)
    return value if type(value) is hint else _wrong(place, key, _PLAIN[hint], value)


def _one_of(hints: tuple[Any, ...], value: Any, place: str, key: str) -> Any:
    if value is None and types.NoneType in hints:
        return None
    tried = []
    for hint in hints:
        if hint is types.NoneType:
            continue
        try:
            return _value(hint, value, place, key)
        except ValueError as error:
            tried.append(error)
    raise tried[-1]


def _wrong(place: str, key: str, wanted: str, value: Any) -> Any:
    raise ValueError(f"{place}: {key} must be {wanted}, but it is {value!r:.60}")
