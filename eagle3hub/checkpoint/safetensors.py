"""Headers of safetensors files: where each tensor lies, and bounded reads of its bytes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

from eagle3hub.errors import CheckpointError
from eagle3hub.system.reading import open_regular

# Where the bytes of one tensor lie.


_SCALES = frozenset(
    {
        *("weight_scale", "weight_scale_2", "weight_scale_inv", "weight_global_scale", "weight_zero_point"),
        *("weight_shape", "weight_g_idx", "input_scale", "input_global_scale", "input_zero_point", "pre_quant_scale"),
        *("k_scale", "v_scale", "q_scale", "output_scale", "scales", "qzeros", "g_idx"),
    }
)


ZIP = b"PK\x03\x04"
"""How a zip archive begins, and so a torch pickle."""


def is_pickle(start: bytes) -> bool:
    """Whether a weights file that begins with these (nine or more) bytes is a pickle, whatever its name.

    A safetensors file may begin with the length 0x0280, but its ninth byte always opens a JSON object.
    """
    if start[8:9] == b"{":
        return False
    return start.startswith(ZIP) or (start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"))


def is_scale(name: str) -> bool:
    """Whether a tensor's name is that of a quantizer's scale, or of what else lies beside quantized values."""
    return name.rpartition(".")[2] in _SCALES


def scales_among(names: Iterable[str]) -> set[str]:
    """Those of the names that are a quantizer's scales."""
    return {name for name in names if is_scale(name)}


@dataclass(frozen=True, slots=True)
class TensorRef:
    """Where the bytes of one tensor lie: ``nbytes`` bytes at ``offset`` of ``path``.

    ``dtype`` is the safetensors name (``BF16``, ``I64``, ``BOOL`` …). ``remote`` reads (offset, count) of a file
    that is not on this machine; ``path`` is then where it would lie once downloaded.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    offset: int
    nbytes: int
    remote: Callable[[int, int], bytes] | None = field(default=None, compare=False, repr=False)

    @property
    def num_elements(self) -> int:
        """Number of elements (1 for a scalar)."""
        n = 1
        for d in self.shape:
            n *= d
        return n

    @property
    def num_parameters(self) -> int:
        """Number of weights in it: of 4-bit values two in a byte and eight in an I32; none in a quantizer's scales."""
        return 0 if is_scale(self.name) else self.num_elements * {"U8": 2, "I32": 8}.get(self.dtype, 1)


def main_dtype(tensors: Iterable[TensorRef]) -> str:
    """The dtype that most elements of some tensors (one at least) have, by its safetensors name."""
    counts: dict[str, int] = {}
    for t in tensors:
        counts[t.dtype] = counts.get(t.dtype, 0) + t.num_elements
    return max(counts, key=lambda k: (counts[k], k))


# The dtypes of the safetensors format.
#
# The order is that of the format's own library (safetensors 0.8, ``tensor.rs``), which writes tensors by
# descending dtype, then by name.


BITS: dict[str, int] = {
    "BOOL": 8,
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "C64": 64,
    "F64": 64,
    "I64": 64,
    "U64": 64,
}
FLOATS = frozenset({"F16", "BF16", "F32", "F64"})
TORCH_NAME = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}


def num_bytes(dtype: str, shape: tuple[int, ...]) -> int | None:
    """Bytes of a tensor, or None where sub-byte elements do not fill whole bytes."""
    bits = BITS[dtype]
    for d in shape:
        bits *= d
    return bits // 8 if bits % 8 == 0 else None


# Bounded reads of a weights file, wherever it lies.


class ByteReader(Protocol):
    """A file that is read in pieces."""

    @property
    def path(self) -> Path:
        """Where the file lies on this machine, or would lie once downloaded."""

    @property
    def shown(self) -> str:
        """What messages call it."""

    @property
    def size(self) -> int:
        """Its length in bytes."""

    @property
    def remote(self) -> Callable[[int, int], bytes] | None:
        """None for a file on this machine, else what a `TensorRef` reads its bytes with."""

    def read(self, offset: int, count: int) -> bytes:
        """Exactly ``count`` bytes from ``offset``. Raises CheckpointError where the file ends before."""


class LocalReader:
    """A `ByteReader` of an open file."""

    remote = None

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self.shown = str(path)
        self.size = os.fstat(fd).st_size
        self._fd = fd

    def read(self, offset: int, count: int) -> bytes:
        """Exactly ``count`` bytes from ``offset``. Raises CheckpointError where the file ends before."""
        if offset < 0 or count < 0 or offset + count > self.size:
            raise truncated(self)
        try:
            data = os.pread(self._fd, count, offset)
        except OSError as e:
            raise _unreadable(self.path, e) from e
        if len(data) != count:
            raise truncated(self)
        return data


@contextmanager
def open_local(path: Path) -> Iterator[LocalReader]:
    """Open a file for bounded reads. Raises CheckpointError where the system refuses."""
    try:
        fd = open_regular(path)
    except OSError as e:
        raise _unreadable(path, e) from e
    try:
        yield LocalReader(path, fd)
    finally:
        os.close(fd)


def read_range(path: Path, offset: int, count: int) -> bytes:
    """Exactly ``count`` bytes of a local file. Raises CheckpointError where it ends before or cannot be read."""
    with open_local(path) as reader:
        return reader.read(offset, count)


def truncated(reader: ByteReader) -> CheckpointError:
    """The error of a file that ends before what it promises."""
    return CheckpointError(
        f"{reader.shown} is truncated: it has only {reader.size} bytes",
        hint="copy or download the file again",
        code="checkpoint-truncated",
    )


def _unreadable(path: Path, e: OSError) -> CheckpointError:
    return CheckpointError(f"cannot read {path}: {e.strerror}", code="checkpoint-unreadable")


# Read and check the header of a safetensors file.
#
# Format: 8 bytes little-endian length N, N bytes of JSON, then the data; ``data_offsets`` are relative to the data,
# must cover it without holes or overlaps, and N is at most 100 MB by the format (safetensors 0.8, ``tensor.rs``).


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
        part: of a torch pickle, the key of the table in it that holds the tensors; None where they are at its top.
    """

    tensors: dict[str, TensorRef]
    metadata: dict[str, str] | None
    digest: str
    part: str | None = None


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


def _parse(reader: ByteReader, raw: bytes) -> tuple[dict[str, object], dict[str, str] | None]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, object]:
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
