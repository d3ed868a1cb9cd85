"""The dtypes of the safetensors format.

The order is that of the format's own library (safetensors 0.8, ``tensor.rs``), which writes tensors by
descending dtype, then by name; `layout_key` reproduces it so that our files equal the library's byte for byte.
"""

from __future__ import annotations

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

_RANK = {name: rank for rank, name in enumerate(BITS)}


def num_bytes(dtype: str, shape: tuple[int, ...]) -> int | None:
    """Bytes of a tensor, or None where sub-byte elements do not fill whole bytes."""
    bits = BITS[dtype]
    for d in shape:
        bits *= d
    return bits // 8 if bits % 8 == 0 else None


def layout_key(dtype: str, name: str) -> tuple[int, str]:
    """Sort key that puts tensors in the order the safetensors library writes them."""
    return -_RANK[dtype], name
