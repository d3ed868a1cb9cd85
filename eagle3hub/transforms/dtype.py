"""Another dtype for the weights, only where it is asked for."""

from __future__ import annotations

from dataclasses import replace

from eagle3hub.checkpoint.casting import is_exact
from eagle3hub.checkpoint.derived import cast
from eagle3hub.checkpoint.dtypes import FLOATS, TORCH_NAME
from eagle3hub.errors import Refusal, UsageError
from eagle3hub.head import Head
from eagle3hub.transforms.change import Change, edited_configs

DTYPES = {"bf16": "BF16", "fp16": "F16", "fp32": "F32"}
"""Names on the command line, and in safetensors."""


def change_dtype(head: Head, name: str) -> tuple[Head, Change | None]:
    """Cast every weight that is not of dtype ``name`` yet, rounding to nearest even; None where all are.

    Raises UsageError for an unknown name, Refusal for a quantized head.
    """
    if name not in DTYPES:
        raise UsageError(f"there is no dtype {name}", hint=f"choose one of {', '.join(DTYPES)}", code="usage-dtype")
    dtype = DTYPES[name]
    other = sorted({t.dtype for t in head.tensors.values()} - FLOATS)
    if other or head.semantics.quantization is not None:
        raise Refusal(
            f"--dtype {name}: the head is quantized ({', '.join(other) or head.semantics.quantization}), and casting "
            "its numbers would not dequantize it",
            hint="leave the option out, or export the head unquantized",
            code="refused-dtype-quantized",
        )
    changed = {n: t for n, t in head.tensors.items() if t.dtype != dtype}
    if not changed:
        return head, None
    lossy = sorted({t.dtype for t in changed.values() if not is_exact(t.dtype, dtype)})
    sources = ", ".join(sorted({t.dtype for t in changed.values()}))
    what = f"{len(changed)} of {len(head.tensors)} weights were cast from {sources} to {dtype}, " + (
        f"which is lossy: {', '.join(lossy)} holds numbers that {dtype} rounds"
        if lossy
        else "which is exact: every number keeps its value"
    )
    tensors = {n: cast(t, dtype) for n, t in head.tensors.items()}
    out = edited_configs(
        replace(head, tensors=tensors), dict.fromkeys(("torch_dtype", "dtype"), lambda _: TORCH_NAME[dtype])
    )
    names = sorted(t.name for t in changed.values())
    evidence = "rounded to nearest, ties to even" if lossy else f"{dtype} has every value of {sources}"
    return out, Change(f"dtype:{name}", what, evidence, names, not lossy)
