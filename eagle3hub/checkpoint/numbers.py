"""The numbers in tensors: cast between the dtypes of draft heads, and compared.

numpy computes them where it is installed, as it is with torch. Without it Python does: the same bits, in four to
twenty-five times the time (more for float64 to bfloat16). An installation that only moves bytes is 70 MB smaller so.
"""

from __future__ import annotations

import math
import operator
import struct
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

_MANTISSA_BITS = {"BF16": 7, "F16": 10, "F32": 23, "F64": 52}
_EXPONENT_BITS = {"BF16": 8, "F16": 5, "F32": 8, "F64": 11}
_CODES = {
    "BOOL": "B",
    "U8": "B",
    "I8": "b",
    "U16": "H",
    "I16": "h",
    "U32": "I",
    "I32": "i",
    "U64": "Q",
    "I64": "q",
    "F16": "e",
    "F32": "f",
    "F64": "d",
}
"""Codes of `struct`, little-endian with a ``<`` before them, which numpy takes too."""


def numpy() -> Any:
    """numpy, or None where it is not installed."""
    return import_module("numpy") if find_spec("numpy") else None


# Cast floating-point numbers, rounding to nearest even.
#
# Neither numpy nor Python has bfloat16, so its conversions are done on the bits (a bfloat16 is the upper half of a
# float32).


class CastOverflow(ArithmeticError):
    """A finite number is too large for the dtype asked for."""

    def __init__(self, value: float) -> None:
        super().__init__(value)
        self.value = value


def is_exact(source: str, target: str) -> bool:
    """Whether every number of dtype ``source`` is one of dtype ``target`` too."""
    return _MANTISSA_BITS[source] <= _MANTISSA_BITS[target] and _EXPONENT_BITS[source] <= _EXPONENT_BITS[target]


def cast_bytes(data: memoryview, source: str, target: str) -> memoryview:
    """The little-endian numbers in ``data``, of dtype ``source``, as the bytes of dtype ``target``.

    Rounds to nearest, ties to even, once; NaN stays NaN. Raises CastOverflow where a finite number would become
    infinite.
    """
    np = numpy()
    return memoryview(_cast_plainly(data, source, target)) if np is None else _cast(np, data, source, target)


def _cast(np: Any, data: memoryview, source: str, target: str) -> memoryview:
    with np.errstate(over="ignore", invalid="ignore"):
        values = _singles(np, data) if source == "BF16" else np.frombuffer(data, "<" + _CODES[source])
        if target == "BF16":
            out = _to_bfloat16(np, values)
            became_infinite = (out & 0x7FFF) == 0x7F80
        else:
            out = values.astype("<" + _CODES[target])
            became_infinite = np.isinf(out)
        lost = became_infinite & np.isfinite(values)
    if lost.any():
        raise CastOverflow(float(values[int(lost.argmax())]))
    return memoryview(out.view(np.uint8))


def _singles(np: Any, data: memoryview | bytes) -> Any:
    """The bfloat16 numbers in ``data`` as an array of float32."""
    bits = np.frombuffer(data, "<u2").astype("<u4")
    bits <<= 16
    return bits.view("<f4")


def _to_bfloat16(np: Any, values: Any) -> Any:
    single = values.astype("<f4")
    bits = single.view("<u4")
    if values.dtype.itemsize == 8:
        # round to odd first: rounding twice to nearest could land on the wrong side of a tie
        too_far = np.abs(single.astype("<f8")) > np.abs(values)
        inexact = (single.astype("<f8") != values) & np.isfinite(values)
        bits -= too_far & inexact
        bits |= inexact
    nan = np.isnan(values)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16
    return np.where(nan, (bits >> 16) | 0x40, rounded).astype("<u2")


def _cast_plainly(data: memoryview | bytes, source: str, target: str) -> bytes | bytearray:
    if source == "BF16" and target == "F32":
        return _widened(data)
    if target == "BF16":
        return _to_bfloat16_plainly(data, source)
    values = _floats(data, source)
    try:
        return struct.pack(f"<{len(values)}{_CODES[target]}", *values)
    except OverflowError:
        raise CastOverflow(next(v for v in values if _is_too_large(v, _CODES[target]))) from None


def _widened(data: memoryview | bytes) -> bytearray:
    """The bfloat16 numbers in ``data`` as float32."""
    out = bytearray(2 * len(data))
    out[2::4], out[3::4] = data[0::2], data[1::2]
    return out


def _floats(data: memoryview | bytes, dtype: str) -> Sequence[Any]:
    raw, code = (_widened(data), "f") if dtype == "BF16" else (data, _CODES[dtype])
    return struct.unpack(f"<{len(raw) // struct.calcsize('<' + code)}{code}", raw)


def _to_bfloat16_plainly(data: memoryview | bytes, source: str) -> bytes:
    if source == "F32":
        raw = bytes(data)
    else:
        values = _floats(data, source)
        if source == "F64":
            raw = struct.pack(f"<{len(values)}I", *map(_rounded_to_odd, values))
        else:
            raw = struct.pack(f"<{len(values)}f", *values)
    count, tops = len(raw) // 4, raw[3::4]
    if b"\x7f" not in tops and b"\xff" not in tops:  # no NaN, and nothing that may become infinite
        return _upper_halves(raw, count)
    out = [
        (bits >> 16) | 0x40 if bits & 0x7FFFFFFF > 0x7F800000 else (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
        for bits in struct.unpack(f"<{count}I", raw)
    ]
    values = _floats(data, source)
    for i, bits in enumerate(out):
        if bits & 0x7FFF == 0x7F80 and math.isfinite(values[i]):
            raise CastOverflow(values[i])
    return struct.pack(f"<{count}H", *out)


_ROUNDS_UP = bytes(128) + b"\1" * 128


def _upper_halves(raw: bytes, count: int) -> bytes:
    """The upper half of each of ``count`` numbers of 32 bits, rounded: one addition over all of them."""
    lowest, higher, upper = raw[0::4], raw[1::4], bytearray(2 * count)
    upper[0::2], upper[1::2] = raw[2::4], raw[3::4]
    up = bytearray(2 * count)
    up[0::2] = higher.translate(_ROUNDS_UP)
    at = higher.find(0x80)
    while at >= 0:
        if not lowest[at] and not upper[2 * at] & 1:  # halfway, and even already
            up[2 * at] = 0
        at = higher.find(0x80, at + 1)
    return (int.from_bytes(upper, "little") + int.from_bytes(up, "little")).to_bytes(2 * count, "little")


def _rounded_to_odd(value: float) -> int:
    """The bits of a float32 near ``value``: rounding these once more gives what rounding ``value`` once would."""
    single = array("f", [value])
    (near,), (bits,) = single, array("I", single.tobytes())
    if near == value or not math.isfinite(value):
        return bits
    return (bits - (abs(near) > abs(value))) | 1


def _is_too_large(value: float, code: str) -> bool:
    try:
        struct.pack("<" + code, value)
    except OverflowError:
        return True
    return False


# Compare numbers, whatever their dtypes: a BF16 tensor with an F32 one.


@dataclass(slots=True)
class Gaps:
    """What separates the numbers of two tensors, block by block.

    Attributes:
        differing: pairs of unequal numbers; two NaNs are equal. nonfinite: those of which one is infinite or NaN.
        largest: largest |a - b|, squares: sum of (a - b)², scale: sum of a², over pairs of finite numbers.
    """

    differing: int = 0
    nonfinite: int = 0
    largest: float = 0.0
    squares: float = 0.0
    scale: float = 0.0


def comparable(dtype: str) -> bool:
    """Whether the numbers of a dtype can be compared: its elements are whole bytes."""
    return dtype in _CODES or dtype in _SMALL_FLOATS or dtype == "BF16"


def add_gaps(gaps: Gaps, a: bytes, dtype_a: str, b: bytes, dtype_b: str) -> None:
    """Add to ``gaps`` what separates the numbers in ``a`` from those in ``b``, which are as many."""
    np = numpy()
    same = dtype_a == dtype_b and a == b
    if np is None:
        x = _numbers(a, dtype_a)
        _add_plainly(gaps, x, x if same else _numbers(b, dtype_b))
        return
    x = _doubles(np, a, dtype_a)
    with np.errstate(over="ignore", invalid="ignore"):
        if same:
            norm = float(x @ x)
            gaps.scale += norm if np.isfinite(norm) else float((x[np.isfinite(x)] ** 2).sum())
            return
        y = _doubles(np, b, dtype_b)
        unequal = (x != y) & ~(np.isnan(x) & np.isnan(y))
        gaps.differing += int(np.count_nonzero(unequal))
        finite = np.isfinite(x) & np.isfinite(y)
        if not finite.all():
            gaps.nonfinite += int(np.count_nonzero(unequal & ~finite))
            x, y = x[finite], y[finite]
        gap = np.abs(x - y)
        gaps.largest = max(gaps.largest, float(gap.max(initial=0.0)))
        gaps.squares += float(gap @ gap)
        gaps.scale += float(x @ x)


def _doubles(np: Any, raw: bytes, dtype: str) -> Any:
    if dtype in _SMALL_FLOATS:
        return np.array(_table(dtype))[np.frombuffer(raw, "u1")]
    found = _singles(np, raw) if dtype == "BF16" else np.frombuffer(raw, "<" + _CODES[dtype])
    return found.astype(np.float64)


def _add_plainly(gaps: Gaps, x: list[float], y: list[float]) -> None:
    if not (all(map(math.isfinite, x)) and all(map(math.isfinite, y))):
        unequal = [(v, w) for v, w in zip(x, y, strict=True) if v != w and not (math.isnan(v) and math.isnan(w))]
        wild = sum(not (math.isfinite(v) and math.isfinite(w)) for v, w in unequal)
        gaps.differing, gaps.nonfinite = gaps.differing + wild, gaps.nonfinite + wild
        finite = [(v, w) for v, w in zip(x, y, strict=True) if math.isfinite(v) and math.isfinite(w)]
        x, y = [v for v, _ in finite], [w for _, w in finite]
    gaps.scale += sum(map(operator.mul, x, x))
    if x is y:
        return
    gaps.differing += sum(map(operator.ne, x, y))
    between = list(map(operator.sub, x, y))
    gaps.largest = max(gaps.largest, max(between, default=0.0), -min(between, default=0.0))
    gaps.squares += sum(map(operator.mul, between, between))


def _numbers(raw: bytes, dtype: str) -> list[float]:
    if dtype in _SMALL_FLOATS:
        return list(map(_table(dtype).__getitem__, raw))
    return list(map(float, _floats(raw, dtype)))


@cache
def _table(dtype: str) -> tuple[float, ...]:
    return tuple(_SMALL_FLOATS[dtype](code) for code in range(256))


def _e4m3(code: int) -> float:
    """Decode OCP FP8 E4M3 as in ``float8_e4m3fn``: no infinities, one NaN per sign, bias 7."""
    if code & 0x7F == 0x7F:
        return float("nan")
    return _minifloat(code, exponent_bits=4, bias=7)


def _e5m2(code: int) -> float:
    """Decode OCP FP8 E5M2: an IEEE half with two bits of fraction, bias 15."""
    if code & 0x7C == 0x7C:
        return float("nan") if code & 0x03 else float("-inf" if code & 0x80 else "inf")
    return _minifloat(code, exponent_bits=5, bias=15)


def _e8m0(code: int) -> float:
    """Decode the OCP scale E8M0: a power of two, bias 127; 255 is NaN."""
    return float("nan") if code == 0xFF else 2.0 ** (code - 127)


def _minifloat(code: int, *, exponent_bits: int, bias: int) -> float:
    fraction_bits = 7 - exponent_bits
    sign = -1.0 if code & 0x80 else 1.0
    exponent = (code & 0x7F) >> fraction_bits
    fraction = (code & ((1 << fraction_bits) - 1)) / (1 << fraction_bits)
    return sign * ((1.0 + fraction) * 2.0 ** (exponent - bias) if exponent else fraction * 2.0 ** (1 - bias))


_SMALL_FLOATS: dict[str, Callable[[int], float]] = {"F8_E4M3": _e4m3, "F8_E5M2": _e5m2, "F8_E8M0": _e8m0}
