"""Read and check the header of a safetensors file.

Format: 8 bytes little-endian length N, N bytes of JSON, then the data; ``data_offsets`` are relative to the
data, must cover it without holes or overlaps, and N is at most 100 MB (safetensors 0.8, ``tensor.rs``).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from eagle3hub.checkpoint.dtypes import BITS, num_bytes
from eagle3hub.errors import CheckpointError
from eagle3hub.head import TensorRef

MAX_HEADER_BYTES = 100_000_000
_PICKLE_MAGIC = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


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
    """Read the header of ``path``. Raises CheckpointError saying what is wrong with the file."""
    try:
        with path.open("rb") as f:
            size = os.fstat(f.fileno()).st_size
            start = f.read(9)
            prefix = start[:8]
            if start.startswith(_PICKLE_MAGIC) and start[8:] != b"{":  # a header may be 0x0280 bytes long
                raise _bad(path, "pickle", "is a torch pickle, whatever its name says", "save it as safetensors first")
            if len(prefix) < 8:
                raise _bad(path, "truncated", f"is only {size} bytes long, too short for a safetensors header")
            length = int.from_bytes(prefix, "little")
            if length > MAX_HEADER_BYTES:
                raise _bad(path, "header", f"claims a header of {length} bytes; the format allows {MAX_HEADER_BYTES}")
            if 8 + length > size:
                raise _bad(path, "truncated", f"claims a header of {length} bytes but is only {size} bytes long")
            f.seek(8)
            raw = f.read(length)
    except OSError as e:
        raise CheckpointError(f"cannot read {path}: {e.strerror}", code="checkpoint-unreadable") from e
    entries, metadata = _parse(path, raw)
    tensors = {name: _entry(path, name, entry, 8 + length) for name, entry in entries.items()}
    _check_coverage(path, tensors.values(), start=8 + length, size=size)
    return Header(tensors, metadata, sha256(prefix + raw).hexdigest())


def _parse(path: Path, raw: bytes) -> tuple[dict[str, Any], dict[str, str] | None]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        out = dict(pairs)
        if len(out) != len(pairs):
            raise ValueError("a name occurs twice")
        return out

    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as e:
        raise _bad(path, "header", f"has a header that is not valid JSON ({e})") from e
    if not isinstance(header, dict):
        raise _bad(path, "header", "has a header that is not a JSON object")
    metadata = header.pop("__metadata__", None)
    if metadata is not None and not (
        isinstance(metadata, dict) and all(isinstance(v, str) for v in metadata.values())
    ):
        raise _bad(path, "header", "has __metadata__ that does not map strings to strings")
    return header, metadata


def _entry(path: Path, name: str, entry: Any, data_start: int) -> TensorRef:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _bad(path, "header", f"describes tensor {name!r} without exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise _bad(path, "dtype", f"gives tensor {name!r} the unknown dtype {dtype!r}")
    if not _is_naturals(shape) or not _is_naturals(offsets) or len(offsets) != 2:
        raise _bad(path, "header", f"gives tensor {name!r} a shape or offsets that are not lists of natural numbers")
    begin, end = offsets
    expected = num_bytes(dtype, tuple(shape))
    if end < begin or expected != end - begin:
        raise _bad(
            path,
            "offsets",
            f"gives tensor {name!r} ({dtype} {shape}) the byte range {begin}…{end}, not {expected} bytes",
        )
    return TensorRef(name, dtype, tuple(shape), path, data_start + begin, end - begin)


def _check_coverage(path: Path, tensors: Iterable[TensorRef], *, start: int, size: int) -> None:
    at, before = start, "the header"
    for t in sorted(tensors, key=lambda t: (t.offset, t.nbytes)):
        if t.offset < at:
            raise _bad(path, "offsets", f"has overlapping tensors: {t.name!r} begins before {before} ends")
        if t.offset > at:
            raise _bad(path, "offsets", f"has {t.offset - at} unaccounted bytes between {before} and {t.name!r}")
        at, before = t.offset + t.nbytes, repr(t.name)
    if at > size:
        raise _bad(
            path,
            "truncated",
            f"is truncated: its tensors need {at} bytes but the file has {size}",
            "copy or download the file again",
        )
    if at < size:
        raise _bad(path, "offsets", f"has {size - at} bytes after its last tensor")


def _is_naturals(value: Any) -> bool:
    return isinstance(value, list) and all(type(x) is int and 0 <= x < 2**63 for x in value)


def _bad(path: Path, code: str, what: str, hint: str | None = None) -> CheckpointError:
    return CheckpointError(f"{path} {what}", hint=hint, code=f"checkpoint-{code}")
