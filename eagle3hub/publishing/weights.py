"""The header of a safetensors file among the files of a release."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from eagle3hub.checkpoint.header import MAX_HEADER_BYTES, Header, parse_header
from eagle3hub.errors import CheckpointError
from eagle3hub.publishing.files import LocalFile


class _Reader:
    """A `ByteReader` of a file of a release, by which messages begin with ``it``."""

    remote: Callable[[int, int], bytes] | None = None
    shown = "it"

    def __init__(self, file: LocalFile) -> None:
        self.path = Path(file.path)
        self.size = file.size
        self._file = file

    def read(self, offset: int, count: int) -> bytes:
        source = self._file.source
        if isinstance(source, bytes):
            data = source[offset : offset + count]
        else:
            with source.open("rb") as f:
                f.seek(offset)
                data = f.read(count)
        if len(data) != count:
            raise CheckpointError("it ends before it should", code="checkpoint-truncated")
        return data


def header(file: LocalFile) -> Header:
    """The header of a safetensors file. Raises CheckpointError, whose message begins with ``it``, and OSError."""
    return parse_header(_Reader(file))


def header_bytes(file: LocalFile) -> bytes:
    """Everything in a safetensors file that is not the numbers of a tensor. Raises as `header`."""
    header(file)
    reader = _Reader(file)
    length = int.from_bytes(reader.read(0, 8), "little")
    return reader.read(8, min(length, MAX_HEADER_BYTES))
