"""Turn the package's own TOML and JSON into frozen dataclasses that refuse unknown keys."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Mapping
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
    made: Any = kind
    readers, required = _shape(made)
    for key in table:
        if key not in readers:
            raise ValueError(f"{place}: nothing reads the key {key!r}; known keys: {', '.join(sorted(readers))}")
    for name in required:
        if name not in table:
            raise ValueError(f"{place}: the key {name!r} is missing")
    return kind(**{key: readers[key](value, place, key) for key, value in table.items()})


def build_each(kind: type[T], tables: Mapping[str, Any], place: str) -> dict[str, T]:
    """Make a dataclass ``kind`` of each table by its name, as `build` does."""
    return {name: build(kind, table, f"{place}, {name}") for name, table in tables.items()}


_Reader = Callable[[Any, str, str], Any]
"""Reads a value, given the place and the key that an error names."""


@cache
def _shape(kind: Any) -> tuple[dict[str, _Reader], tuple[str, ...]]:
    """Return what reads each field of a dataclass, by name, and the names of the fields without a default."""
    hints, missing = get_type_hints(kind), dataclasses.MISSING
    fields = dataclasses.fields(kind)
    required = tuple(f.name for f in fields if f.default is missing and f.default_factory is missing)
    return {f.name: _reader(hints[f.name]) for f in fields}, required


def _reader(hint: Any) -> _Reader:
    """Return what reads a value of a type. Thousands of values are read at every start: types are looked at once."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any or hint is object:
        return lambda value, _place, _key: value
    if origin in (Union, types.UnionType):
        return _reader_of_union(inner)
    if origin is Literal:
        words = ", ".join(map(repr, inner))
        return lambda value, place, key: value if value in inner else _wrong(place, key, f"one of {words}", value)
    if dataclasses.is_dataclass(hint):
        made: Any = hint
        return lambda value, place, key: build(made, _table(value, place, key), f"{place}, {key}")
    if origin in (tuple, frozenset):
        return _reader_of_list(origin, inner)
    if origin is not None and issubclass(origin, Mapping):
        keyed, read = _reader(inner[0]), _reader(inner[1])
        return lambda value, place, key: {
            keyed(k, place, key): read(v, place, f"{key}.{k}") for k, v in _table(value, place, key).items()
        }
    if hint is float:
        return lambda value, place, key: (
            float(value) if type(value) in (int, float) else _wrong(place, key, _PLAIN[float], value)
        )
    return lambda value, place, key: value if type(value) is hint else _wrong(place, key, _PLAIN[hint], value)


def _table(value: Any, place: str, key: str) -> Any:
    return value if isinstance(value, dict) else _wrong(place, key, "a table", value)


def _reader_of_list(origin: Any, inner: tuple[Any, ...]) -> _Reader:
    alike = origin is frozenset or inner[-1] is Ellipsis
    readers = [_reader(kind) for kind in inner if kind is not Ellipsis]

    def read(value: Any, place: str, key: str) -> Any:
        listed = value if isinstance(value, list) else _wrong(place, key, "a list", value)
        each = readers * len(listed) if alike else readers
        if len(each) != len(listed):
            _wrong(place, key, f"a list of {len(each)}", value)
        return origin(one(v, place, f"{key}[{i}]") for i, (one, v) in enumerate(zip(each, listed, strict=True)))

    return read


def _reader_of_union(hints: tuple[Any, ...]) -> _Reader:
    readers = [_reader(hint) for hint in hints if hint is not types.NoneType]

    def read(value: Any, place: str, key: str) -> Any:
        if value is None and types.NoneType in hints:
            return None
        tried = []
        for one in readers:
            try:
                return one(value, place, key)
            except ValueError as error:
                tried.append(error)
        raise tried[-1]

    return read


def _wrong(place: str, key: str, wanted: str, value: Any) -> Any:
    raise ValueError(f"{place}: {key} must be {wanted}, but it is {value!r:.60}")
