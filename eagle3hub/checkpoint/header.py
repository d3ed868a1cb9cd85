"""Read and check the header of a safetensors file.

Format: 8 bytes little-endian length N, N bytes of JSON, then the data; ``data_offsets`` are relative to the
data, must cover it without holes or overlaps, and N is at most 100 MB by the format (safetensors 0.8, ``tensor.rs``).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from eagle3hub.checkpoint.dtypes import BITS, num_bytes
from eagle3hub.checkpoint.reader import ByteReader, open_local
from eagle3hub.checkpoint.tensors import TensorRef
from eagle3hub.errors import CheckpointError

MAX_HEADER_BYTES = 4_000_000
"""The format allows 100 MB, of which the parsed JSON takes 2.5 GB; a head needs some kilobytes."""
_FIRST_READ = 16 << 10
_MAX_RANK = 64  # as in torch; the product of a longer shape would take for ever


@dataclass(frozen=True, slots=True)
class Header:
    """What a safetensors file contains, without its data.

    Attributes:
        tensors: by name, with absolute byte offsets.
        metadata: the ``__metadata__`` object, or None where there is none.
        digest: SHA-256 of the length field and the JSON, in hex.
    """

    tensors: dict[str, TensorRef]
    metadata: dict[str, str] | None
    digest: str


def read_header(path: Path) -> Header:
    """Read the header of a local file. Raises CheckpointError saying what is wrong with the file."""
    with open_local(path) as reader:
        return parse_header(reader)


def parse_header(reader: ByteReader) -> Header:
    """Read the header of a safetensors file. Raises CheckpointError saying what is wrong with the file."""
    size = reader.size
    start = reader.read(0, min(size, _FIRST_READ))
    if len(start) < 8:
        raise _bad(reader, "truncated", f"is only {size} bytes long, too short for a safetensors header")
    length = int.from_bytes(start[:8], "little")
    if length > MAX_HEADER_BYTES:
        raise _bad(reader, "header", f"claims a header of {length} bytes; a head needs less than {MAX_HEADER_BYTES}")
    if 8 + length > size:
        raise _bad(reader, "truncated", f"claims a header of {length} bytes but is only {size} bytes long")
    raw = start[8 : 8 + length]
    raw += reader.read(8 + len(raw), length - len(raw))
    entries, metadata = _parse(reader, raw)
    tensors = {name: _entry(reader, name, entry, 8 + length) for name, entry in entries.items()}
    _check_coverage(reader, tensors.values(), start=8 + length)
    return Header(tensors, metadata, sha256(start[:8] + raw).hexdigest())


def _parse(reader: ByteReader, raw: bytes) -> tuple[dict[str, Any], dict[str, str] | None]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        out = dict(pairs)
        if len(out) != len(pairs):
            raise ValueError("a name occurs twice")
        return out

    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as e:
        raise _bad(reader, "header", f"has a header that is not valid JSON ({e})") from e
    if not isinstance(header, dict):
        raise _bad(reader, "header", "has a header that is not a JSON object")
    metadata = header.pop("__metadata__", None)
    if metadata is not None and not (
        isinstance(metadata, dict) and all(isinstance(v, str) for v in metadata.values())
    ):
        raise _bad(reader, "header", "has __metadata__ that does not map strings to strings")
    return header, metadata


def _entry(reader: ByteReader, name: str, entry: Any, data_start: int) -> TensorRef:
    if not name.isprintable() and any(0xD800 <= ord(c) < 0xE000 for c in name):
        raise _bad(reader, "header", f"has a tensor name that is not Unicode text: {name!a}")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _bad(reader, "header", f"describes tensor {name!r} without exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise _bad(reader, "dtype", f"gives tensor {name!r} the unknown dtype {dtype!r}")
    if not _is_naturals(shape) or len(shape) > _MAX_RANK or not _is_naturals(offsets) or len(offsets) != 2:
        raise _bad(reader, "header", f"gives tensor {name!r} a shape or offsets that are not lists of natural numbers")
    begin, end = offsets
    expected = num_bytes(dtype, tuple(shape))
    if end < begin or expected != end - begin:
        raise _bad(
            reader,
            "offsets",
            f"gives tensor {name!r} ({dtype} {shape}) the byte range {begin}…{end}, not {expected} bytes",
        )
    return TensorRef(name, dtype, tuple(shape), reader.path, data_start + begin, end - begin, reader.remote)


def _check_coverage(reader: ByteReader, tensors: Iterable[TensorRef], *, start: int) -> None:
    at, before, size = start, "the header", reader.size
    for t in sorted(tensors, key=lambda t: (t.offset, t.nbytes)):
        if t.offset < at:
            raise _bad(reader, "offsets", f"has overlapping tensors: {t.name!r} begins before {before} ends")
        if t.offset > at:
            raise _bad(reader, "offsets", f"has {t.offset - at} unaccounted bytes between {before} and {t.name!r}")
        at, before = t.offset + t.nbytes, repr(t.name)
    if at > size:
        raise _bad(
            reader,
            "truncated",
            f"is truncated: its tensors need {at} bytes but the file has {size}",
            "copy or download the file again",
        )
    if at < size:
        raise _bad(reader, "offsets", f"has {size - at} bytes after its last tensor")


def _is_naturals(value: Any) -> bool:
    return isinstance(value, list) and all(type(x) is int and 0 <= x < 2**63 for x in value)


def _bad(reader: ByteReader, code: str, what: str, hint: str | None = None) -> CheckpointError:
    return CheckpointError(f"{reader.shown} {what}", hint=hint, code=f"checkpoint-{code}")
