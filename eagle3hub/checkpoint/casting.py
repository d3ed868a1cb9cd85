"""Cast floating-point numbers between the dtypes of draft heads, rounding to nearest even.

numpy has no bfloat16, so its conversions are done on the bits (a bfloat16 is the upper half of a float32).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

_MANTISSA_BITS = {"BF16": 7, "F16": 10, "F32": 23, "F64": 52}
_EXPONENT_BITS = {"BF16": 8, "F16": 5, "F32": 8, "F64": 11}


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
    import numpy as np

    with np.errstate(over="ignore", invalid="ignore"):
        values = _decode(np, data, source)
        if target == "BF16":
            out = _to_bfloat16(np, values)
            became_infinite = (out & 0x7FFF) == 0x7F80
        else:
            out = values.astype({"F16": "<f2", "F32": "<f4"}[target])
            became_infinite = np.isinf(out)
        lost = became_infinite & np.isfinite(values)
    if lost.any():
        raise CastOverflow(float(values[int(lost.argmax())]))
    raw: Any = out.view(np.uint8)
    return memoryview(raw)


def _decode(np: Any, data: memoryview, dtype: str) -> Array:
    if dtype == "BF16":
        bits: Array = np.frombuffer(data, "<u2").astype("<u4")
        bits <<= 16
        return bits.view("<f4")
    decoded: Array = np.frombuffer(data, {"F16": "<f2", "F32": "<f4", "F64": "<f8"}[dtype])
    return decoded


def _to_bfloat16(np: Any, values: Array) -> Array:
    single = values.astype("<f4")
    bits: Array = single.view("<u4")
    if values.dtype.itemsize == 8:
        # round to odd first: rounding twice to nearest could land on the wrong side of a tie
        too_far = np.abs(single.astype("<f8")) > np.abs(values)
        inexact = (single.astype("<f8") != values) & np.isfinite(values)
        bits -= too_far & inexact
        bits |= inexact
    nan = np.isnan(values)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16
    out: Array = np.where(nan, (bits >> 16) | 0x40, rounded).astype("<u2")
    return out
