"""Compile Jinja templates once in a process."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import CodeType

    from jinja2 import BytecodeCache


@cache
def compiled() -> BytecodeCache:
    """Return the store of compiled templates, for environments of which all of one class are set up alike.

    A template is read each time, and its code is used again only if the text is the one that was compiled.
    """
    from jinja2.bccache import Bucket, BytecodeCache

    class Compiled(BytecodeCache):
        def __init__(self) -> None:
            self.known: dict[tuple[type, str], tuple[str, CodeType]] = {}

        def load_bytecode(self, bucket: Bucket) -> None:
            checksum, code = self.known.get((type(bucket.environment), bucket.key), ("", None))
            if checksum == bucket.checksum:
                bucket.code = code

        def dump_bytecode(self, bucket: Bucket) -> None:
            if bucket.code is not None:
                self.known[type(bucket.environment), bucket.key] = bucket.checksum, bucket.code

    return Compiled()
