"""Kinds of checkpoints that are recognised but not read, each with its own sentence."""

from __future__ import annotations

from eagle3hub.checkpoint.folder import Checkpoint
from eagle3hub.errors import LayoutError

_ADAPTER = ("adapter_config.json", "adapter_model.safetensors")


def refuse_recognised(checkpoint: Checkpoint) -> None:
    """Raise LayoutError if the folder is a kind of draft model that no codec of this version reads."""
    tensors, config = checkpoint.tensors, checkpoint.config
    architectures = config.get("architectures") or []

    def named(*parts: str) -> bool:
        return any(part in name for name in tensors for part in parts)

    if named("kv_a_proj_with_mqa", "q_a_proj") or "Eagle3DeepseekV2ForCausalLM" in architectures:
        raise _not_read(
            checkpoint,
            "an MLA draft head (DeepSeek-style attention)",
            "mla",
            "serve it as it is: vLLM, SGLang and TensorRT-LLM load it in the layout it was exported in",
        )
    if named("parallel_draft_heads."):
        raise _not_read(checkpoint, "an EAGLE-3 head with Medusa heads (parallel_draft_heads)", "medusa")
    if named("enorm.", "hnorm.") or architectures == ["LlamaForCausalLMEagle"]:
        raise _not_read(checkpoint, "an EAGLE-1 head (enorm / hnorm), not an EAGLE-3 head", "eagle1")
    if any((checkpoint.folder / name).exists() for name in _ADAPTER):
        raise _not_read(
            checkpoint,
            "a head trained together with a LoRA adapter of the target (adapter_config.json)",
            "lora",
            "it is right only for the adapted target: merge the adapter into the target, move it out of this folder, "
            "and validate the head against the merged target",
        )
    if "lm_head_layernorm.weight" in tensors and "speculators_model_type" not in config:
        raise _not_read(
            checkpoint,
            "a raw head of speculators' research code (lm_head_layernorm)",
            "research",
            "put the config.json of its speculators release beside it",
        )


def _not_read(checkpoint: Checkpoint, what: str, code: str, hint: str | None = None) -> LayoutError:
    return LayoutError(
        f"{checkpoint.source} holds {what}; this version reads Llama-style EAGLE-3 and P-EAGLE heads",
        hint=hint,
        code=f"layout-{code}",
    )
