"""Two names SGLang's server imports to check the schemas of tools. The tests send none."""

from __future__ import annotations

from typing import Any


class SchemaError(Exception):
    """What a schema that is none would raise."""


class Draft202012Validator:
    """No validator at all."""

    @classmethod
    def check_schema(cls, schema: Any) -> None:
        raise NotImplementedError("the tests send no tools")
