"""Typed access to the fields of a config, with errors that name the field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, cast, overload

from eagle3hub.errors import ConfigError

TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
"""The special tokens a config states."""
MASK_TOKENS = ("mask_token_id", "pard_token", "ptd_token_id")
"""Keys that name the token of positions not drafted yet, the one that vLLM takes first coming first.

vLLM ``v1/spec_decode/llm_base_proposer.py:362-377``.
"""
T = TypeVar("T")
_REQUIRED: Any = object()


def is_whole(value: object) -> bool:
    """Whether a value of JSON is a whole number, also one with a point."""
    return type(value) is int or (isinstance(value, float) and value.is_integer())


class Fields:
    """A JSON object whose values are read with the type they must have.

    A JSON null counts as absent: ModelOpt writes every key of its template, unresolved ones as null
    (0.47, ``export/plugins/hf_spec_export.py``).
    """

    def __init__(self, data: Mapping[str, Any], where: str = "config.json") -> None:
        self.data = data
        self.where = where

    def known(self, name: str, *others: str) -> str:
        """The first of the names that a field of this object has; ``name`` where none has."""
        return next((n for n in (name, *others) if self.data.get(n) is not None), name)

    def get(self, name: str) -> Any:
        """The raw value, or None."""
        return self.data.get(name)

    @overload
    def number(self, name: str, *, most: int = ...) -> int: ...
    @overload
    def number(self, name: str, *, default: T, most: int = ...) -> int | T: ...
    def number(self, name: str, *, default: Any = _REQUIRED, most: int = 2**31 - 1) -> Any:
        """A positive integer of at most ``most``."""
        kind = f"a positive integer (of at most {most})"
        return self._typed(name, default, kind, lambda v: type(v) is int and 0 < v <= most)

    @overload
    def real(self, name: str) -> float: ...
    @overload
    def real(self, name: str, *, default: T) -> float | T: ...
    def real(self, name: str, *, default: Any = _REQUIRED) -> Any:
        """A positive number, as float."""
        value = self._typed(name, default, "a positive number", lambda v: type(v) in (int, float) and 0 < v < 1e300)
        return float(value) if type(value) is int else value

    @overload
    def text(self, name: str) -> str: ...
    @overload
    def text(self, name: str, *, default: T) -> str | T: ...
    def text(self, name: str, *, default: Any = _REQUIRED) -> Any:
        """A string."""
        return self._typed(name, default, "a string", lambda v: isinstance(v, str))

    @overload
    def flag(self, name: str) -> bool: ...
    @overload
    def flag(self, name: str, *, default: T) -> bool | T: ...
    def flag(self, name: str, *, default: Any = _REQUIRED) -> Any:
        """True or false."""
        return self._typed(name, default, "true or false", lambda v: isinstance(v, bool))

    def mapping(self, name: str) -> Mapping[str, Any] | None:
        """An object, or None."""
        value = self._typed(name, None, "an object", lambda v: isinstance(v, dict))
        return cast("Mapping[str, Any] | None", value)

    def section(self, name: str) -> Fields:
        """The fields of a nested object, empty where it is absent."""
        return Fields(self.mapping(name) or {}, f"{self.where}: {name}")

    def layer_ids(self, name: str) -> list[int] | None:
        """A list of integers, or None where the field is absent or an empty list.

        Numbers such as ``2.0`` are integers: engines compare the ids with the numbers of layers.
        """
        value = self._typed(
            name, None, "a list of integers", lambda v: isinstance(v, list) and all(is_whole(x) for x in v)
        )
        return [int(x) for x in value] if value else None

    def token_ids(self, name: str) -> int | list[int] | None:
        """A token id or a list of them, or None."""
        return cast(
            "int | list[int] | None",
            self._typed(
                name,
                None,
                "a token id or a list of them",
                lambda v: type(v) is int or (isinstance(v, list) and all(type(x) is int for x in v)),
            ),
        )

    def _typed(self, name: str, default: Any, kind: str, accepts: Any) -> Any:
        value = self.data.get(name)
        if value is None:
            if default is _REQUIRED:
                raise ConfigError(f"{self.where} has no {name}", hint=f"it must be {kind}", code="config-missing")
            return default
        if not accepts(value):
            shown = repr(value)
            raise ConfigError(
                f"{self.where}: {name} is {shown if len(shown) < 60 else shown[:57] + '...'}, not {kind}",
                code="config-type",
            )
        return value
