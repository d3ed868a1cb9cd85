"""Two tensors, bit by bit and number by number, in small pieces.

Every dtype of the safetensors format with whole bytes per element is decoded by numpy, so that a BF16 tensor can be
held against an F32 one; peak memory is a few blocks, whatever the size of the tensors.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from eagle3hub.checkpoint.dtypes import BITS
from eagle3hub.checkpoint.tensors import TensorRef
from eagle3hub.errors import CheckpointError
from eagle3hub.reading import open_regular

if TYPE_CHECKING:
    from numpy.typing import NDArray

Status = Literal["bit-equal", "equal-values", "differs", "shape", "only-a", "only-b"]

_BLOCK = 1 << 18
"""Elements decoded at a time (2 MB as float64)."""


@dataclass(frozen=True, slots=True)
class TensorDiff:
    """How one tensor of a head differs from the same tensor of another.

    Attributes:
        name: canonical name. a, b: dtype and shape on each side, None where it is absent.
        status: ``bit-equal``; ``equal-values`` (other dtype, zero signs or NaN payloads); ``differs``; ``shape``;
            ``only-a``, ``only-b``.
        differing: elements whose values differ (two NaNs do not); None where elements cannot be paired.
        max_abs: largest |a - b| over pairs of finite numbers. relative: ‖a - b‖ / ‖a‖ over the same pairs.
        nonfinite: differing elements of which at least one is infinite or NaN.
        max_abs, relative and nonfinite are None where no numbers were compared.
    """

    name: str
    status: Status
    a: tuple[str, tuple[int, ...]] | None
    b: tuple[str, tuple[int, ...]] | None
    differing: int | None = None
    max_abs: float | None = None
    relative: float | None = None
    nonfinite: int | None = None

    @property
    def elements(self) -> int:
        """Number of elements on the side that has the tensor."""
        shape = (self.a or self.b or ("", ()))[1]
        n = 1
        for d in shape:
            n *= d
        return n

    def to_json(self) -> dict[str, Any]:
        """The entry of ``tensors`` in ``diff --json``; a norm that overflows is null."""
        out = asdict(self)
        for side in ("a", "b"):
            found = getattr(self, side)
            out[side] = None if found is None else {"dtype": found[0], "shape": list(found[1])}
        return {**out, "elements": self.elements}


def diff_tensors(name: str, a: TensorRef | None, b: TensorRef | None, rows: Sequence[int] | None = None) -> TensorDiff:
    """Compare two tensors.

    Args:
        name: what to call them. a, b: where their bytes lie; one of them may be None.
        rows: ``rows[r]`` is the row of ``b`` that belongs to row ``r`` of ``a``, where the order differs.

    Raises CheckpointError where a file cannot be read or has become shorter than its header says.
    """
    left, right = (None if t is None else (t.dtype, t.shape) for t in (a, b))
    if a is None or b is None:
        return TensorDiff(name, "only-b" if a is None else "only-a", left, right)
    if a.shape != b.shape:
        return TensorDiff(name, "shape", left, right)
    if a.dtype == b.dtype and all(x == y for x, y in _paired(a, b, rows)):
        return TensorDiff(name, "bit-equal", left, right, differing=0)
    decode_a, decode_b = _decoder(a.dtype), _decoder(b.dtype)
    if decode_a is None or decode_b is None:
        return TensorDiff(name, "differs", left, right)
    return _numbers(name, a, b, rows, decode_a, decode_b)


def _numbers(
    name: str, a: TensorRef, b: TensorRef, rows: Sequence[int] | None, decode_a: Decoder, decode_b: Decoder
) -> TensorDiff:
    import numpy as np

    differing = nonfinite = 0
    largest = squares = scale = 0.0
    same_dtype = a.dtype == b.dtype
    for raw_a, raw_b in _paired(a, b, rows):
        x = decode_a(raw_a)
        with np.errstate(over="ignore", invalid="ignore"):
            if same_dtype and raw_a == raw_b:
                norm = float(x @ x)
                scale += norm if np.isfinite(norm) else float((x[np.isfinite(x)] ** 2).sum())
                continue
            y = decode_b(raw_b)
            unequal = (x != y) & ~(np.isnan(x) & np.isnan(y))
            differing += int(np.count_nonzero(unequal))
            finite = np.isfinite(x) & np.isfinite(y)
            if not finite.all():
                nonfinite += int(np.count_nonzero(unequal & ~finite))
                x, y = x[finite], y[finite]
            gap = np.abs(x - y)
            largest = max(largest, float(gap.max(initial=0.0)))
            squares += float(gap @ gap)
            scale += float(x @ x)
    relative = None if not scale or max(squares, scale) == float("inf") else (squares / scale) ** 0.5
    return TensorDiff(
        name,
        "differs" if differing else "equal-values",
        (a.dtype, a.shape),
        (b.dtype, b.shape),
        differing,
        largest if largest < float("inf") else None,
        relative,
        nonfinite,
    )


def _paired(a: TensorRef, b: TensorRef, rows: Sequence[int] | None) -> Iterator[tuple[bytes, bytes]]:
    """The bytes of both tensors block by block, the rows of ``b`` in the order of ``a``'s."""
    first = open_regular(a.path)
    try:
        second = open_regular(b.path)
        try:
            pieces = (_even(a), _even(b)) if rows is None else (_by_row(a, range(len(rows))), _by_row(b, rows))
            for (at_a, n_a), (at_b, n_b) in zip(*pieces, strict=True):
                yield _read(first, a, at_a, n_a), _read(second, b, at_b, n_b)
        finally:
            os.close(second)
    finally:
        os.close(first)


def _even(ref: TensorRef) -> Iterator[tuple[int, int]]:
    """Offsets and lengths of blocks of `_BLOCK` elements (8 times as many where elements are parts of bytes)."""
    step = _BLOCK * max(BITS[ref.dtype], 8) // 8
    for at in range(0, ref.nbytes, step):
        yield ref.offset + at, min(step, ref.nbytes - at)


def _by_row(ref: TensorRef, rows: Sequence[int]) -> Iterator[tuple[int, int]]:
    length = ref.nbytes // ref.shape[0]
    for row in rows:
        yield ref.offset + row * length, length


def _read(fd: int, ref: TensorRef, offset: int, count: int) -> bytes:
    data = os.pread(fd, count, offset)
    while len(data) < count:
        more = os.pread(fd, count - len(data), offset + len(data))
        if not more:
            raise CheckpointError(f"{ref.path} became shorter while it was read", code="checkpoint-truncated")
        data += more
    return data


_NUMPY = {
    "BOOL": "u1",
    "U8": "u1",
    "I8": "i1",
    "U16": "<u2",
    "I16": "<i2",
    "U32": "<u4",
    "I32": "<i4",
    "U64": "<u8",
    "I64": "<i8",
    "F16": "<f2",
    "F32": "<f4",
    "F64": "<f8",
}
Decoder = Callable[[bytes], "NDArray[Any]"]


def _decoder(dtype: str) -> Decoder | None:
    """What turns bytes of ``dtype`` into float64, or None where elements are not numbers of whole bytes."""
    import numpy as np

    if dtype in _NUMPY:
        return lambda raw: np.frombuffer(raw, _NUMPY[dtype]).astype(np.float64)
    if dtype == "BF16":
        return lambda raw: (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    if dtype in _SMALL_FLOATS:
        table = np.array([_SMALL_FLOATS[dtype](code) for code in range(256)])
        return lambda raw: table[np.frombuffer(raw, "u1")]
    return None


def _e4m3(code: int) -> float:
    """OCP FP8 E4M3 as in ``float8_e4m3fn``: no infinities, one NaN per sign, bias 7."""
    if code & 0x7F == 0x7F:
        return float("nan")
    return _minifloat(code, exponent_bits=4, bias=7)


def _e5m2(code: int) -> float:
    """OCP FP8 E5M2: an IEEE half with two bits of fraction, bias 15."""
    if code & 0x7C == 0x7C:
        return float("nan") if code & 0x03 else float("-inf" if code & 0x80 else "inf")
    return _minifloat(code, exponent_bits=5, bias=15)


def _e8m0(code: int) -> float:
    """OCP scale E8M0: a power of two, bias 127, 255 is NaN."""
    return float("nan") if code == 0xFF else 2.0 ** (code - 127)


def _minifloat(code: int, *, exponent_bits: int, bias: int) -> float:
    fraction_bits = 7 - exponent_bits
    sign = -1.0 if code & 0x80 else 1.0
    exponent = (code & 0x7F) >> fraction_bits
    fraction = (code & ((1 << fraction_bits) - 1)) / (1 << fraction_bits)
    return sign * ((1.0 + fraction) * 2.0 ** (exponent - bias) if exponent else fraction * 2.0 ** (1 - bias))


_SMALL_FLOATS: dict[str, Callable[[int], float]] = {"F8_E4M3": _e4m3, "F8_E5M2": _e5m2, "F8_E8M0": _e8m0}
