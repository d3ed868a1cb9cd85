"""What each engine makes of a head in the universal layout, and which heads one of them would get wrong.

Facts: vLLM ``model_executor/models/llama_eagle3.py``, SGLang ``srt/models/llama_eagle3.py`` and the
targets' ``set_eagle3_layers_to_capture``, TensorRT-LLM ``modeling_speculative.py``, sglang-jax
``sgl_jax/srt/models/llama_eagle3.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from eagle3hub.errors import Refusal
from eagle3hub.head import AuxTaps, Head
from eagle3hub.layouts.base import Contract, refuse_inexpressible, way_out
from eagle3hub.layouts.rope import bound_by_context
from eagle3hub.target_types import target_types

CANNOT = {
    "quantization": "sglang-jax loads no quantized heads",
    "no_aux": "sglang-jax's fc takes 3 hidden states, and vLLM's GPU runner forces aux hidden states on",
    "parallel_drafting": "only vLLM runs P-EAGLE heads",
    "several_layers": "SGLang and TensorRT-LLM look for hidden_norm in layers 1 and up where vLLM looks for "
    "input_layernorm, and sglang-jax loads one layer",
    "attention_bias": "SGLang and sglang-jax drop the biases without a word",
    "fc_bias": "vLLM drops the bias of fc without a word",
    "qk_norm": "SGLang, TensorRT-LLM and sglang-jax have no query and key norms in a draft head",
    "norm_before_residual": "SGLang, TensorRT-LLM and sglang-jax ignore it and compute another residual",
    "norm_before_fc": "sglang-jax and released TensorRT-LLM ignore it",
    "fc_norm": "sglang-jax and released TensorRT-LLM ignore it",
    "post_norm_feedback": "sglang-jax ignores it, and released TensorRT-LLM knows another key for it",
    "sliding_window": "SGLang ignores the window a config states",
    "hidden_act": "vLLM accepts silu only",
    "embed_tokens": "SGLang, TensorRT-LLM and sglang-jax always take the target's embeddings, whatever the file holds",
    "target_width": "sglang-jax embeds with the target's tokens, which are of another width than the head's",
    "permuted_vocabulary": "vLLM has no slot for a map where the vocabulary is full",
}


def refuse_engines(head: Head, name: str, contract: Contract) -> AuxTaps:
    """The aux taps of a head that every engine gets right. Raises Refusal naming the engine that would not."""
    refuse_inexpressible(head, name, contract)
    aux = head.aux
    if aux is None:
        raise _refusal(
            "no aux layers are known, and engines do not all mean the same by naming none",
            "give --target, --num-target-layers or --aux-layers",
            "aux-unknown",
        )
    if head.max_position_embeddings is None and head.target_context is None:
        raise _refusal(
            "no context length is known: SGLang and sglang-jax would take 2048 tokens for it, and SGLang then refuses "
            "the head",
            "give --target: its context length is then written",
            "context-unknown",
        )
    if "mrope_section" in (head.semantics.rope.scaling or {}):
        raise _not_universal(head, "the head has multimodal RoPE, which sglang-jax ignores", "mrope")
    if len(aux) == 1:
        raise _not_universal(
            head,
            "the head reads one aux hidden state: SGLang skips fc where its input is as wide as the embeddings",
            "single-aux",
        )
    _refuse_layers(head, aux)
    return aux


def _refuse_layers(head: Head, aux: AuxTaps) -> None:
    target = head.target_model_type
    if not head.has_default_aux and (not target or target in target_types("sglang_jax")):
        raise _not_universal(
            head,
            f"the head taps layers {aux.after_layer}, and sglang-jax taps the default layers whatever the config says",
            "aux-ids",
        )
    if head.num_target_layers in aux.boundary and target not in target_types("sglang_last_layer"):
        raise _not_universal(
            head,
            f"the head taps the last layer ({aux.after_layer[-1]}), which SGLang never captures for this target",
            "aux-last",
        )
    if _raw_unless_one(target) and aux.after_layer[0] != 1 and aux.boundary[0] == 1:
        raise _not_universal(
            head,
            f"the head taps layer 0 of a {target} target: SGLang would take the ids {aux.boundary} for after-layer "
            "ids because the first is 1",
            "aux-first",
        )


def nested_ids(head: Head, aux: AuxTaps) -> list[int]:
    """The list for ``eagle_config``, in the numbering SGLang applies for this target.

    After-layer ids, except that targets of DeepSeek's kind (Kimi and GLM-DSA among them) and GLM-lite take a list that
    does not begin with 1 for boundary ids. gpt_oss takes boundary ids where the highest is the number of layers, which
    after-layer ids never reach; minimax_m3_vl shifts its default, which explicit ids avoid.
    """
    raw = _raw_unless_one(head.target_model_type) and aux.after_layer[0] != 1
    return aux.boundary if raw else aux.after_layer


def _raw_unless_one(target: str | None) -> bool:
    return target in target_types("sglang_boundary_unless_1")


def trtllm_note(head: Head, aux: AuxTaps) -> list[str]:
    """What must be said to TensorRT-LLM besides the folder."""
    if head.has_default_aux:
        return []
    return [f"TensorRT-LLM reads aux layers from its own YAML only: eagle3_layers_to_capture: {aux.after_layer}"]


def counts_context(head: Head) -> tuple[int, str | None]:
    """max_position_embeddings to write, and what to say of it: at least the target's, which SGLang demands."""
    own, needed = head.max_position_embeddings, head.target_context
    if own is None or needed is None or own >= needed:
        return own or needed or 0, None
    if bound_by_context(head.semantics.rope.scaling):
        raise _not_universal(
            head,
            f"the head's context is {own} tokens and its target's {needed}: SGLang refuses a shorter one, and this "
            "head's RoPE scaling depends on it",
            "context",
        )
    note = (
        f"max_position_embeddings is the target's {needed} instead of the head's {own}: SGLang refuses a shorter one"
    )
    return needed, note


def _refusal(message: str, hint: str | Callable[[], str], code: str) -> Refusal:
    return Refusal(message, hint=hint, code=f"refused-{code}")


def _not_universal(head: Head, message: str, code: str) -> Refusal:
    """A refusal that points to the layouts that take the head."""
    return _refusal(message, partial(way_out, head, "universal"), code)
