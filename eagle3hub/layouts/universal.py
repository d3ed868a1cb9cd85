"""Our own layout: one flat folder that every engine it is made for loads correctly as it is."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial

from eagle3hub.checkpoint.folder import Checkpoint
from eagle3hub.errors import ConfigError, Hint, Refusal
from eagle3hub.head import Assumption, AuxTaps, Head, MlaDims
from eagle3hub.head.aux_defaults import AUX_CAPTURE, AUX_IDS, FINAL_STATE, target_types
from eagle3hub.head.fields import Fields
from eagle3hub.head.rope import bound_by_context, type_of
from eagle3hub.layouts.aux_layers import Taps, taps_from
from eagle3hub.layouts.base import (
    Contract,
    LayoutFiles,
    Match,
    Need,
    WriteOptions,
    alternatives,
    assumed_depth,
    refuse_inexpressible,
)
from eagle3hub.layouts.flat import (
    POST_NORM_OF_TRTLLM,
    FlatLayout,
    common_config,
    tensors_to_write,
    with_quantization,
)
from eagle3hub.layouts.hf_config import MLA_CLASS, rope_fields
from eagle3hub.layouts.interpret import earlier_files
from eagle3hub.layouts.specjax import saved_by_specjax
from eagle3hub.system.text import listed

# Which heads an engine would get wrong in the universal layout, and why.
#
# Facts: vLLM ``model_executor/models/llama_eagle3.py``, SGLang ``srt/models/llama_eagle3.py`` and the
# targets' ``set_eagle3_layers_to_capture``, TensorRT-LLM ``modeling_speculative.py``, sglang-jax
# ``sgl_jax/srt/models/llama_eagle3.py``.


@dataclass(frozen=True, slots=True)
class _Stop:
    """What some engines do that keeps a head out of a folder for them.

    Attributes:
        who: the engines, each as the sentence calls it.
        do: the words that follow; "(s)" marks the end of a verb that takes an s if there is one engine.
    """

    who: Mapping[str, str]
    do: str

    def says(self, engines: Collection[str]) -> str:
        """The clause about these engines; empty where it is about none of them."""
        named = [name for engine, name in self.who.items() if engine in engines]
        return f"{listed(named)} {self.do.replace('(s)', 's' if len(named) == 1 else '')}" if named else ""


_VLLM, _SGLANG, _TRTLLM, _JAX = (
    {"vllm": "vLLM"},
    {"sglang": "SGLang"},
    {"trtllm": "TensorRT-LLM"},
    {"sglang_jax": "sglang-jax"},
)
_RELEASED = {"trtllm": "released TensorRT-LLM"}
_STOPS: Mapping[str, tuple[_Stop, ...]] = {
    "no_lm_head": (_Stop(_JAX, "make(s) one of random numbers"),),
    "mla": (_Stop(_JAX, "lack(s) a draft class with MLA attention"),),
    "quantization": (_Stop(_JAX, "load(s) no quantized heads"),),
    "no_aux": (
        _Stop({"sglang_jax": "sglang-jax's fc"}, "take(s) 3 hidden states"),
        _Stop({"vllm": "the GPU runner of vLLM before 0.33"}, "force(s) aux hidden states on"),
    ),
    "several_layers": (
        _Stop(_SGLANG | _TRTLLM, "look(s) for hidden_norm in layers 1 and up where vLLM looks for input_layernorm"),
        _Stop(_JAX, "load(s) one layer"),
    ),
    "attention_bias": (_Stop(_SGLANG | _JAX, "drop(s) the biases without a word"),),
    "fc_bias": (_Stop(_VLLM, "drop(s) the bias of fc without a word"),),
    "qk_norm": (_Stop(_SGLANG | _TRTLLM | _JAX, "lack(s) query and key norms in a draft head"),),
    "norm_before_residual": (_Stop(_SGLANG | _TRTLLM | _JAX, "ignore(s) it and compute(s) another residual"),),
    "norm_before_fc": (_Stop(_JAX | _RELEASED, "ignore(s) it"),),
    "fc_norm": (_Stop(_JAX | _RELEASED, "ignore(s) it"),),
    "post_norm_feedback": (_Stop(_JAX, "ignore(s) it"), _Stop(_RELEASED, "know(s) another key for it")),
    "sliding_window": (_Stop(_SGLANG, "ignore(s) the window a config states"),),
    "hidden_act": (_Stop(_VLLM, "accept(s) silu only"),),
    "embed_tokens": (
        _Stop(_SGLANG | _TRTLLM | _JAX, "always take(s) the target's embeddings, whatever the file holds"),
    ),
    "target_width": (_Stop(_JAX, "embed(s) with the target's tokens, which are of another width than the head's"),),
    "permuted_vocabulary": (_Stop(_VLLM, "lack(s) a slot for a map where the vocabulary is full"),),
}
_ENGINES = ("vllm", "sglang", "trtllm", "sglang_jax")


def cannot(engines: Collection[str]) -> dict[str, str]:
    """Why a folder for these engines cannot hold a feature, in words that name no other engine."""
    said = {
        feature: ", and ".join(filter(None, (s.says(engines) for s in stops))) for feature, stops in _STOPS.items()
    }
    return {"parallel_drafting": "only vLLM runs P-EAGLE heads"} | {
        feature: why for feature, why in said.items() if why
    }


HELD_FOR = {
    "quantization": frozenset({"vllm", "sglang", "trtllm"}),
    "no_aux": frozenset({"vllm", "sglang", "trtllm"}),
    "no_lm_head": frozenset({"vllm", "sglang", "trtllm"}),
    "mla": frozenset({"vllm", "sglang", "trtllm"}),
    "norm_before_residual": frozenset({"vllm"}),
    "norm_before_fc": frozenset({"vllm", "sglang"}),
    "fc_norm": frozenset({"vllm", "sglang"}),
    "post_norm_feedback": frozenset({"vllm", "sglang", "trtllm"}),
    "attention_bias": frozenset({"vllm", "trtllm"}),
    "embed_tokens": frozenset({"vllm"}),
    "target_width": frozenset({"vllm", "sglang", "trtllm"}),
}
"""What a folder holds if it is made for these engines or some of them only."""


_OF_OTHERS = ("parallel_drafting", "several_layers", "qk_norm", "sliding_window")
"""What vLLM reads in other layouts, so that only other engines stand in the way of a universal folder with it."""
_NO_FORM = "a universal folder has no form for it, even one for vLLM alone"
_JAX_ROPE = ("default", "yarn", "proportional")
"""Types of RoPE that sglang-jax computes: it takes llama3, and rotates without (executed)."""


def _serves(head: Head, engine: str) -> bool:
    """Whether the folder has to serve this engine."""
    return not head.made_for or engine in head.made_for


def narrowed(head: Head, contract: Contract) -> Contract:
    """The contract of a folder for the engines that this head's is made for.

    Engines that take a head of another width than its target's take its own embeddings too: the target's do not fit.
    """
    able = contract.for_engines(head.made_for)
    if head.made_for:
        able = replace(able, cannot={**able.cannot, **cannot(head.made_for)})
    if head.made_for == ("vllm",):
        able = replace(able, cannot={**able.cannot, **dict.fromkeys(_OF_OTHERS, _NO_FORM)})
    if head.dims.hidden_size != head.dims.target_hidden_size and "target_width" in able.expresses:
        return replace(able, expresses=able.expresses | {"embed_tokens"})
    return able


def refuse_engines(head: Head, name: str, contract: Contract) -> AuxTaps:
    """The aux taps of a head that every engine gets right. Raises Refusal naming an engine that would not."""
    refuse_inexpressible(head, name, narrowed(head, contract))
    if head.dims.mla is not None:
        _refuse_mla(head, head.dims.mla)
    aux = head.aux
    if aux is None:
        raise _refusal(
            "no aux layers are known, and without a list engines take different ones",
            Hint("give --target, --num-target-layers or --aux-layers", "--num-target-layers", "--aux-layers"),
            "aux-unknown",
        )
    if head.max_position_embeddings is None and head.target_context is None:
        raise _refusal(
            "no context length is known: SGLang and sglang-jax would take 2048 tokens for it, and SGLang then refuses "
            "the head",
            "give --target: its context length is then written",
            "context-unknown",
        )
    if "mrope_section" in (head.semantics.rope.scaling or {}) and _serves(head, "sglang_jax"):
        raise _not_universal(head, "the head has multimodal RoPE, which sglang-jax ignores", "mrope")
    if not head.semantics.joins_embedding:
        raise _not_universal(
            head,
            "the head has use_aux_hidden_state: false and no hidden_norm, and every engine builds one, and q/k/v over "
            "the token's embedding and the target's state together",
            "no-aux",
        )
    if not aux.numbered:
        return aux
    if len(aux) == 1 and _serves(head, "sglang"):
        raise _not_universal(
            head,
            "the head reads one aux hidden state: SGLang skips fc where its input is as wide as the embeddings",
            "single-aux",
        )
    _refuse_layers(head, aux)
    return aux


def _refuse_mla(head: Head, dims: MlaDims) -> None:
    """Raise Refusal for what an engine's class of MLA drafts lacks though its class of Llama drafts has it."""
    s = head.semantics
    if dims.q_lora_rank is None:
        raise _not_universal(
            head,
            "the head makes its queries straight from its input (q_lora_rank: null), and vLLM and SGLang have MLA "
            "drafts with a latent of queries only",
            "mla-query",
        )
    if s.attention_bias:
        raise _not_universal(
            head, "the head has attention biases, and vLLM drops them in MLA drafts without a word", "attention-bias"
        )
    if s.norm_before_fc:
        raise _not_universal(
            head, "the head has a norm before fc, and vLLM and SGLang have none in MLA drafts", "norm-before-fc"
        )
    kind = (s.rope.scaling or {}).get("rope_type")
    if kind not in (None, "yarn"):
        raise _not_universal(
            head,
            f"the head has RoPE scaling of type {kind}, and vLLM and SGLang compute every scaling of an MLA head as "
            "DeepSeek's YaRN",
            "mla-rope",
        )


def _refuse_layers(head: Head, aux: AuxTaps) -> None:
    target = head.target_model_type
    jax = _serves(head, "sglang_jax") and (not target or target in target_types("sglang_jax"))
    if not head.has_default_aux and jax:
        raise _not_universal(
            head,
            f"the head taps layers {aux.after_layer}, and sglang-jax taps the default layers whatever the config says",
            "aux-ids",
        )
    if not _serves(head, "sglang"):
        return
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
    """What a user must tell TensorRT-LLM, which the folder cannot."""
    if head.has_default_aux or not _serves(head, "trtllm"):
        return []
    told = aux.after_layer if aux.numbered else list(FINAL_STATE)
    return [f"TensorRT-LLM reads aux layers from its own YAML only: {AUX_CAPTURE}: {told}"]


def context_to_write(head: Head) -> tuple[int, str | None]:
    """max_position_embeddings to write (SGLang demands at least the target's), and a note where it is changed."""
    own, needed = head.max_position_embeddings, head.target_context
    if own is None or needed is None or own >= needed or not _serves(head, "sglang"):
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
    return _refusal(message, partial(alternatives, head, "universal"), code)


# The codec of one flat folder that vLLM (both runners), SGLang, TensorRT-LLM and sglang-jax load correctly as it is;
# a folder that is made for some of them serves those.
#
# Every engine's own keys are written, and they do not clash: boundary ids at top level (vLLM looks there first),
# after-layer ids in ``eagle_config`` (SGLang looks nowhere else), RoPE in both forms (sglang-jax and TensorRT-LLM
# read the old one only), ``midlayer.*`` names (which all engines know), an integer draft_vocab_size (null for a head
# without lm_head, so that SGLang takes the target's; no other nulls), an architecture name all accept. What each one
# reads: ``engines/data``.
# Where one of them would load the head and compute something else, `refuse_engines` refuses.


MARK = "eagle3hub_layout"
"""The config key that marks this layout, whose nested ids follow SGLang's rule for the target."""


class Universal(FlatLayout):
    """Codec of folders that every engine reads."""

    name = "universal"
    contract = Contract(
        title="universal",
        tensor_prefix="midlayer.",
        forms=frozenset({"midlayer"}),
        expresses=frozenset({"rope_scaling", "aux_ids", "aux_count", "full_vocabulary", "unsorted_vocabulary"}),
        vocab_dtype="I64",
        has_t2d=True,
        identity_map=False,
        metadata={"format": "pt"},
        aux_ids="top level (boundary) and eagle_config (after-layer, or as SGLang reads them for the target)",
        engines=_ENGINES,
        trainer_sorts=False,
        needs=(
            Need("aux layer ids", "--target", "refused-aux-unknown", "where the source does not name them"),
            Need("context length", "--target", "refused-context-unknown", "where the source does not state it"),
        ),
        cannot=cannot(_ENGINES),
        held_for=HELD_FOR,
        reads=("its own",),
        writes="what vLLM, SGLang, TensorRT-LLM and sglang-jax read, in the versions pinned here",
    )

    def contract_for(self, parallel_drafting: bool) -> Contract:
        """What a folder made for some engine may hold; `write` narrows it to the engines that are asked for."""
        return replace(self.contract, expresses=self.contract.expresses | set(self.contract.held_for), cannot={})

    def detect(self, checkpoint: Checkpoint) -> Match | None:
        """Its own mark in config.json."""
        marked = checkpoint.config.get(MARK) == self.name and not saved_by_specjax(checkpoint)
        return Match(1.0, (f"{MARK}: {self.name}",), certain=True) if marked else None

    def read_taps(self, config: Fields) -> Taps:
        """The boundary ids at top level; those in eagle_config must be the same layers in SGLang's numbering."""
        top, nested = config.layer_ids(AUX_IDS), config.section("eagle_config").layer_ids(AUX_IDS)
        if top is None:
            raise ConfigError(f"{config.where} has no {AUX_IDS}, which a universal folder has", code="config-missing")
        taps = taps_from(top, "boundary", "config", where=config.where)
        if nested is not None and nested not in (top, [i - 1 for i in top]):
            raise ConfigError(
                f"config.json names different aux layers: {top} at top level and {nested} in eagle_config",
                hint="SGLang would read one and vLLM the other: correct the list that is wrong",
                code="config-aux-conflict",
            )
        return taps

    def write(self, head: Head, options: WriteOptions) -> LayoutFiles:
        """The head as all engines read it. Raises Refusal naming the engine that could not, and why."""
        aux = refuse_engines(head, self.name, self.contract)
        assumptions = assumed_depth(head, "sglang-jax") if _serves(head, "sglang_jax") else []
        notes = trtllm_note(head, aux)
        context, note = context_to_write(head)
        kind = type_of(head.semantics.rope.scaling or {})
        if kind not in _JAX_ROPE and _serves(head, "sglang_jax"):
            what = f"the head has RoPE of type {kind}, which sglang-jax does not compute"
            raise _not_universal(head, what, "rope-type")
        if note:
            notes.append(note)
        if head.target_context is None and _serves(head, "sglang"):
            why = (
                f"SGLang refuses a draft whose context ({context} tokens) is shorter than its target's, not known here"
            )
            assumptions.append(Assumption("max_position_embeddings", context, why, "give --target"))
        rope = head.semantics.rope
        by_target = {
            "max_position_embeddings": context,
            **(rope_fields(rope) if rope.scaling else {}),  # names the length that would otherwise follow the context
            "eagle_config": {
                "use_aux_hidden_state": aux.numbered,
                **({AUX_IDS: nested_ids(head, aux)} if aux.numbered else {}),
                **({POST_NORM_OF_TRTLLM: True} if head.semantics.feedback == "post_norm" else {}),
            },
        }
        before = earlier_files(head, self.name, self.interpret)
        if before is not None and all(before.config.get(k) == v for k, v in by_target.items()):
            config = dict(before.config)
        else:
            before = None
            own = self._completed_config(head) if head.layout == self.name else self.new_config(head)
            config = own | by_target
        contract = self.contract_for(False)
        if "sglang_jax" in head.made_for and "vllm" not in head.made_for:  # it stops without d2t, and vLLM with one
            contract = replace(contract, identity_map=True)
        tensors, metadata, origin = tensors_to_write(head, self.name, contract, before)
        return with_quantization(LayoutFiles(config, tensors, metadata, origin, assumptions, notes), head)

    def new_config(self, head: Head) -> dict[str, object]:
        """The flat config without what depends on the target."""
        own = "LlamaForCausalLMEagle3" if head.semantics.attention == "gqa" else MLA_CLASS
        return {MARK: self.name, **common_config(head, own)}
