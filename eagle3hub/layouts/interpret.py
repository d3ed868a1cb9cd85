"""From a parsed config to the canonical description, and back to a config that was seen before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from eagle3hub.checkpoint.folder import Checkpoint
from eagle3hub.errors import ConfigError, InputError, Problem
from eagle3hub.head import Assumption, AuxTaps, Carried, Head, Semantics
from eagle3hub.layouts.base import Contract
from eagle3hub.layouts.llama import LlamaConfig, buffer_dtypes, collect_tensors, read_vocab_map

AUX_IDS = "eagle_aux_hidden_state_layer_ids"


@dataclass(frozen=True, slots=True)
class Interpretation:
    """What one config.json says, in canonical terms.

    ``draft_vocab_size`` is what the config states (None if it does not), to be held against lm_head.
    """

    llama: LlamaConfig
    semantics: Semantics
    aux: AuxTaps | None
    draft_vocab_size: int | None
    target_name: str | None = None
    target_architectures: list[str] = field(default_factory=list)
    speculative_tokens: int | None = None
    assumptions: list[Assumption] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def plain_semantics(llama: LlamaConfig, **changes: Any) -> Semantics:
    """The semantics of a Llama head with the given fields changed from EAGLE-3's defaults."""
    return Semantics(
        rope=llama.rope,
        rms_norm_eps=llama.rms_norm_eps,
        hidden_act=llama.hidden_act,
        sliding_window=llama.sliding_window,
        **changes,
    )


def build_head(name: str, contract: Contract, checkpoint: Checkpoint, meaning: Interpretation) -> Head:
    """Join a config's meaning with the tensors. Raises TensorError or ConfigError where they contradict."""
    s = meaning.semantics
    tensors, dims = collect_tensors(
        checkpoint, meaning.llama, prefix=contract.tensor_prefix, norm_before_fc=s.norm_before_fc, fc_norm=s.fc_norm
    )
    fc_in = tensors["fc.weight"].shape[1]
    count = fc_in // dims.target_hidden_size
    if count * dims.target_hidden_size != fc_in or (meaning.aux is not None and len(meaning.aux) != count):
        named = f"{len(meaning.aux)} aux layers" if meaning.aux is not None else "a whole number of aux layers"
        raise ConfigError(
            f"fc.weight takes {fc_in} inputs, which is not {named} of {dims.target_hidden_size}",
            code="config-aux-count",
        )
    vocab_map, status, problems = read_vocab_map(checkpoint, dims, meaning.draft_vocab_size)
    return Head(
        layout=name,
        source=checkpoint.source,
        dims=dims,
        semantics=s,
        aux=meaning.aux,
        vocab_map=vocab_map,
        vocab_status=status,
        tensors=tensors,
        buffers=buffer_dtypes(checkpoint),
        metadata=checkpoint.metadata,
        config=checkpoint.config,
        max_position_embeddings=meaning.llama.max_position_embeddings,
        token_ids=dict(meaning.llama.token_ids),
        target_name=meaning.target_name,
        target_architectures=list(meaning.target_architectures),
        speculative_tokens=meaning.speculative_tokens,
        assumptions=[*meaning.llama.assumptions, *meaning.assumptions],
        problems=[*meaning.problems, *problems],
    )


def same_meaning(meaning: Interpretation, head: Head) -> bool:
    """Whether a config says of a head exactly what the head is, so that it may be written back as it was."""
    c, d = meaning.llama, head.dims
    sizes = (c.hidden_size, c.target_hidden_size, c.intermediate_size, c.num_attention_heads, c.num_key_value_heads)
    same_dims = (*sizes, c.head_dim, c.vocab_size, meaning.draft_vocab_size or d.draft_vocab_size) == (
        *(d.hidden_size, d.target_hidden_size, d.intermediate_size, d.num_attention_heads, d.num_key_value_heads),
        *(d.head_dim, d.vocab_size, d.draft_vocab_size),
    )
    if meaning.aux is None:
        same_aux = head.aux is None or head.aux.is_default
    else:
        same_aux = head.aux is not None and head.aux.taps == meaning.aux.taps
    return same_dims and same_aux and meaning.semantics == head.semantics


def earlier_spelling(head: Head, name: str, interpret: Any) -> Carried | None:
    """How the head was spelled in layout ``name`` once, if that still says what the head is."""
    carried = head.carried.get(name)
    if carried is None or head.layout == name:
        return None
    try:
        return carried if same_meaning(interpret(carried.config), head) else None
    except InputError:
        return None


def completed(source: Mapping[str, Any], fresh: Mapping[str, Any]) -> dict[str, Any]:
    """A config of the same layout: every field of the source as it was, plus what it did not state.

    Nested objects are completed the same way; a JSON null counts as not stated.
    """
    out = dict(source)
    for key, value in fresh.items():
        have = out.get(key)
        if have is None:
            out[key] = value
        elif isinstance(have, dict) and isinstance(value, dict) and key == "eagle_config":
            out[key] = completed(have, value)
    return out
