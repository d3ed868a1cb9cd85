"""One flat folder that vLLM (both runners), SGLang, TensorRT-LLM and sglang-jax all load correctly as it is.

Every engine's own keys are written, and they do not clash: boundary ids at top level (vLLM looks there first),
after-layer ids in ``eagle_config`` (SGLang looks nowhere else), RoPE in both spellings (sglang-jax and released
TensorRT-LLM read the old one only), ``midlayer.*`` names (the one spelling all know), an integer draft_vocab_size, no
nulls, an architecture name all accept. What each of them reads is in its contract (``engines/data``).
Where one of them would load the head and compute something else, `universal_engines.refuse_engines` refuses.
"""

from __future__ import annotations

from typing import Any

from eagle3hub.checkpoint.folder import Checkpoint
from eagle3hub.errors import ConfigError
from eagle3hub.fields import Fields
from eagle3hub.head import Assumption, Head
from eagle3hub.layouts.base import Contract, Match, Spelled, WriteOptions, assumed_depth
from eagle3hub.layouts.flat import FlatLayout, common_config
from eagle3hub.layouts.interpret import earlier_spelling
from eagle3hub.layouts.rope import spell_rope
from eagle3hub.layouts.specjax import saved_by_specjax
from eagle3hub.layouts.spell import spell_tensors
from eagle3hub.layouts.taps import AUX_IDS, Taps, taps_from
from eagle3hub.layouts.universal_engines import (
    CANNOT,
    counts_context,
    nested_ids,
    refuse_engines,
    trtllm_note,
)

MARK = "eagle3hub_layout"
"""The config key that says a folder is in this layout: its nested ids follow SGLang's rule for the target."""


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
        needs={"aux layer ids and context length": "--target, where the source does not state them"},
        cannot=CANNOT,
        reads=("its own",),
        writes="what vLLM, SGLang, TensorRT-LLM and sglang-jax read, in the versions pinned here",
    )

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

    def write(self, head: Head, options: WriteOptions) -> Spelled:
        """The head as all engines read it. Raises Refusal naming the engine that could not, and why."""
        aux = refuse_engines(head, self.name, self.contract)
        assumptions = assumed_depth(head, "sglang-jax")
        notes = trtllm_note(head, aux)
        context, note = counts_context(head)
        if note:
            notes.append(note)
        if head.target_context is None:
            why = (
                f"SGLang refuses a draft whose context ({context} tokens) is shorter than its target's, not known here"
            )
            assumptions.append(Assumption("max_position_embeddings", context, why, "give --target"))
        rope = head.semantics.rope
        by_target = {
            "max_position_embeddings": context,
            **(spell_rope(rope) if rope.scaling else {}),  # with the length that else would follow the context
            "eagle_config": {"use_aux_hidden_state": True, AUX_IDS: nested_ids(head, aux)},
        }
        before = earlier_spelling(head, self.name, self.interpret)
        if before is not None and all(before.config.get(k) == v for k, v in by_target.items()):
            config = dict(before.config)
        else:
            before = None
            own = self._mended(head) if head.layout == self.name else self.spell_config(head)
            config = own | by_target
        tensors, metadata, origin = spell_tensors(head, self.name, self.contract, before)
        return Spelled(config, tensors, metadata, origin, assumptions, notes)

    def spell_config(self, head: Head) -> dict[str, Any]:
        """The flat config, still without what depends on the target."""
        return {MARK: self.name, **common_config(head, "LlamaForCausalLMEagle3")}
