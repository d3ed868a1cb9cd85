"""Quantized exports of ModelOpt: packed weights with scales beside them (``export/quant_utils.py``, 0.47).

FP8: weight ``F8_E4M3`` with one F32 ``weight_scale``. NVFP4: weight ``U8`` with two values a byte, one F8 scale for
every 16 inputs (``weight_scale``) and an F32 ``weight_scale_2``. Both may have an ``input_scale``; attention may
have ``k_scale`` and ``v_scale`` for an FP8 KV cache.
"""

from __future__ import annotations

from collections.abc import Mapping

from eagle3hub.checkpoint.dtypes import FLOATS
from eagle3hub.checkpoint.tensors import TensorRef, is_scale
from eagle3hub.errors import TensorError

QUANT_CONFIG = "hf_quant_config.json"
"""How the weights are quantized, in a file of its own (up to ModelOpt 0.29 only there)."""
PACKED = {"F8_E4M3": "FP8", "U8": "NVFP4"}
_BLOCK = 16


def quantization_of(tensors: Mapping[str, TensorRef]) -> str | None:
    """``FP8``, ``NVFP4`` (or both, joined by ``+``) if the weights are quantized, else None.

    The tensors decide: Megatron's exporter copies the quantization_config of another model into its configs.
    """
    kinds = {PACKED[ref.dtype] for name, ref in tensors.items() if name.endswith(".weight") and ref.dtype in PACKED}
    if not kinds and not any(is_scale(name) for name in tensors):
        return None
    return "+".join(sorted(kinds)) or "scales only"


def split_scales(tensors: Mapping[str, TensorRef]) -> tuple[dict[str, TensorRef], dict[str, TensorRef]]:
    """The weights, and the scales beside them."""
    weights = {name: ref for name, ref in tensors.items() if not is_scale(name)}
    return weights, {name: ref for name, ref in tensors.items() if name not in weights}


def stored_shape(ref: TensorRef, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape a weight of logical ``shape`` has on disk, given its dtype: NVFP4 packs two inputs into a byte."""
    return (shape[0], shape[1] // 2) if ref.dtype == "U8" and len(shape) == 2 else shape


def check_scales(
    weights: Mapping[str, TensorRef], scales: Mapping[str, TensorRef], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Hold every packed weight and every scale against what the format says. Raises TensorError."""
    for name, ref in weights.items():
        packed = ref.dtype in PACKED and len(shapes.get(name, ())) == 2
        if not packed and ref.dtype not in FLOATS:
            raise TensorError(f"{ref.name} is {ref.dtype}, which is neither FP8 nor NVFP4", code="tensor-dtype")
        needed = {"U8": ("weight_scale", "weight_scale_2"), "F8_E4M3": ("weight_scale",)}.get(ref.dtype, ())
        for scale in needed:
            if f"{name.removesuffix('weight')}{scale}" not in scales:
                raise TensorError(
                    f"{ref.name} is quantized ({ref.dtype}) but its {scale} is missing",
                    hint="export the head again: without its scales the packed values mean nothing",
                    code="tensor-missing",
                )
    for name, ref in scales.items():
        stem, _, kind = name.rpartition(".")
        shape = shapes.get(f"{stem}.weight")
        if shape is None or len(shape) != 2:
            raise TensorError(f"{ref.name} is a scale of nothing this head has", code="tensor-unknown")
        if not _fits(ref, kind, shape, weights[f"{stem}.weight"].dtype):
            raise TensorError(
                f"{ref.name} is {ref.dtype} {list(ref.shape)}, which is no {kind} of a weight {list(shape)}",
                code="tensor-shape",
            )


def _fits(ref: TensorRef, kind: str, shape: tuple[int, ...], weight_dtype: str) -> bool:
    if kind == "weight_scale" and weight_dtype == "U8":
        return ref.dtype == "F8_E4M3" and ref.shape == (shape[0], shape[1] // _BLOCK)
    if kind == "weight_scale":
        return ref.dtype in FLOATS and ref.shape in {(), (1,), (shape[0],), (shape[0], 1)}
    if kind == "pre_quant_scale":
        return ref.dtype in FLOATS and ref.shape == (shape[1],)
    return ref.dtype in FLOATS and ref.num_elements == 1
