"""Kinds of checkpoints that are recognised but not read, each with its own sentence."""

from __future__ import annotations

from eagle3hub.checkpoint.folder import Checkpoint
from eagle3hub.errors import LayoutError


def refuse_recognised(checkpoint: Checkpoint) -> None:
    """Raise LayoutError if the folder is a kind of draft model that no codec of this version reads."""
    tensors, config = checkpoint.tensors, checkpoint.config
    architectures = config.get("architectures") or []

    def named(*parts: str) -> bool:
        return any(part in name for name in tensors for part in parts)

    if named("kv_a_proj_with_mqa", "q_a_proj") or "Eagle3DeepseekV2ForCausalLM" in architectures:
        raise _not_read(checkpoint, "an MLA draft head (DeepSeek-style attention)", "mla")
    if "quantization_config" in config or named("_scale"):
        raise _not_read(checkpoint, "a quantized draft head", "quantized")
    if "mask_hidden" in tensors or "PEagleDraftModel" in architectures:
        raise _not_read(checkpoint, "a P-EAGLE head (parallel drafting)", "peagle")
    if named("parallel_draft_heads."):
        raise _not_read(checkpoint, "an EAGLE-3 head with Medusa heads (parallel_draft_heads)", "medusa")
    if named("enorm.", "hnorm."):
        raise _not_read(checkpoint, "an EAGLE-1 head (enorm / hnorm), not an EAGLE-3 head", "eagle1")
    if named("midlayer.0.", "layers.1.", "midlayer.1."):
        raise _not_read(checkpoint, "a head of several decoder layers", "multi-layer")
    if tensors and all(name.startswith("model.") or name in {"d2t", "t2d", "lm_head.weight"} for name in tensors):
        what = (
            "a whole language model"
            if named("embed_tokens") and not named("fc.weight")
            else "a head whose names begin with model."
        )
        raise _not_read(checkpoint, what, "prefixed")


def _not_read(checkpoint: Checkpoint, what: str, code: str) -> LayoutError:
    return LayoutError(
        f"{checkpoint.source} holds {what}; this version reads one-layer Llama EAGLE-3 heads", code=f"layout-{code}"
    )
