"""Kinds of checkpoints that are recognised but not read, each with its own sentence."""

from __future__ import annotations

import re
from collections.abc import Mapping

from eagle3hub.checkpoint.folder import Checkpoint
from eagle3hub.checkpoint.tensors import TensorRef
from eagle3hub.errors import LayoutError

_MEDUSA = re.compile(r"(.+\.)?[0-9]+\.[0-9]+\.linear\.weight|lm_heads\.[0-9]+\.weight")
_ADAPTER = ("adapter_config.json", "adapter_model.safetensors")


def refuse_recognised(checkpoint: Checkpoint) -> None:
    """Raise LayoutError if the folder is a kind of draft model that no codec of this version reads."""
    tensors, config = checkpoint.tensors, checkpoint.config
    stated = config.get("architectures")
    architectures = stated if isinstance(stated, list) else []

    def named(*parts: str) -> bool:
        return any(part in name for name in tensors for part in parts)

    def of_class(part: str) -> bool:
        return any(isinstance(name, str) and part in name for name in architectures)

    if named("eh_proj.") or of_class("NextN") or of_class("MTP") or any(n.startswith("mtp.") for n in tensors):
        raise _not_read(checkpoint, "layers for multi-token prediction (MTP)", "mtp")
    if config.get("dflash_config") or of_class("DFlash"):
        raise _not_read(checkpoint, "a DFlash draft model", "dflash")
    if named("kv_a_proj_with_mqa", "q_a_proj") or "Eagle3DeepseekV2ForCausalLM" in architectures:
        raise _not_read(
            checkpoint,
            "an MLA draft head (DeepSeek-style attention)",
            "mla",
            "serve it as it is: vLLM, SGLang and TensorRT-LLM load it in the layout it was exported in",
        )
    if named("parallel_draft_heads."):
        raise _not_read(checkpoint, "an EAGLE-3 head with Medusa heads (parallel_draft_heads)", "medusa")
    if config.get("medusa_num_heads") or of_class("Medusa") or any(_MEDUSA.fullmatch(n) for n in tensors):
        raise _not_read(checkpoint, "Medusa heads", "medusa")
    if _is_eagle1(tensors):
        raise _not_read(checkpoint, "an EAGLE-1 or EAGLE-2 head, not an EAGLE-3 head", "eagle1")
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


def _is_eagle1(tensors: Mapping[str, TensorRef]) -> bool:
    """Whether fc joins a token's embedding with one hidden state, and attention reads one state as wide as fc's."""
    fc, query = tensors.get("fc.weight"), tensors.get("layers.0.self_attn.q_proj.weight")
    if fc is None or query is None or any("hidden_norm" in name for name in tensors):
        return False
    return len(fc.shape) == 2 and fc.shape[1] == 2 * fc.shape[0] and query.shape[1:] == fc.shape[:1]


def _not_read(checkpoint: Checkpoint, what: str, code: str, hint: str | None = None) -> LayoutError:
    return LayoutError(
        f"{checkpoint.source} holds {what}; this version reads Llama-style EAGLE-3 and P-EAGLE heads",
        hint=hint,
        code=f"layout-{code}",
    )
