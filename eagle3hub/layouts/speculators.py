"""speculators (vllm-project/speculators 0.1 to 0.9, ``models/eagle3/config.py``, ``models/eagle3/core.py``).

``layers.{i}.*`` names, metadata ``format: pt``, d2t (int64 offsets) and t2d (bool) only where the vocabulary is
reduced; a nested config: ``transformer_layer_config`` holds the Llama or Qwen3 fields, ``speculators_config`` names
the verifier and the number of speculative tokens, and the aux layer ids are boundary ids at top level.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from eagle3hub.checkpoint.folder import Checkpoint, read_tensor
from eagle3hub.errors import Problem
from eagle3hub.head import Assumption, Head, TensorRef
from eagle3hub.layouts.base import (
    AS_FOUND,
    Contract,
    Match,
    ReadOptions,
    Spelled,
    WriteOptions,
    refuse_inexpressible,
)
from eagle3hub.layouts.features import aux_count
from eagle3hub.layouts.interpret import Interpretation, build_head, earlier_spelling, rewritten
from eagle3hub.layouts.names import by_research_code
from eagle3hub.layouts.speculators_config import (
    SCHEMA_VERSION,
    SETTLE_RESIDUAL,
    interpret_config,
    spell,
    version_of,
    with_said,
)
from eagle3hub.layouts.spell import spell_tensors

__all__ = ["SCHEMA_VERSION", "Speculators"]

_RANDOM_WEIGHTS = ((0, 2), (0, 4))
"""Releases whose converter left the decoder layer at its random initial values (fixed in 0.5.0)."""
_NORMS = ("input_layernorm", "hidden_norm", "post_attention_layernorm")
_ONE = {"BF16": b"\x80\x3f", "F16": b"\x00\x3c", "F32": b"\x00\x00\x80\x3f"}


class Speculators:
    """Codec of speculators folders."""

    name = "speculators"
    contract = Contract(
        title="speculators",
        tensor_prefix="layers.0.",
        forms=frozenset({"layers", "research"}),
        expresses=frozenset(
            {
                *("norm_before_residual", "norm_before_fc", "fc_norm", "post_norm_feedback", "sliding_window"),
                *("hidden_act", "rope_scaling", "embed_tokens", "aux_ids", "aux_count", "several_layers"),
                *("full_vocabulary", "unsorted_vocabulary", "attention_bias", "qk_norm", "parallel_drafting"),
            }
        ),
        vocab_dtype="I64",
        has_t2d=True,
        identity_map=False,
        metadata={"format": "pt"},
        aux_ids="top level (boundary)",
        needs={
            "verifier": "--target",
            "number of draft tokens": "--speculative-tokens",
            "mask token of a P-EAGLE head": "--mask-token-id, where the source does not state it",
        },
        cannot={
            "target_width": "speculators' model sizes fc by the head's own hidden size",
            "permuted_vocabulary": "speculators has no map where the vocabulary is full, and vLLM crashes on one",
            "no_aux": "speculators' model always has fc and hidden_norm",
        },
        reads=("0.1 (research names too)", "0.2-0.4 (random layers refused)", "0.5-0.9", "P-EAGLE"),
        writes=SCHEMA_VERSION,
    )

    def detect(self, checkpoint: Checkpoint) -> Match | None:
        """speculators_model_type, which no other layout has."""
        kind = checkpoint.config.get("speculators_model_type")
        return None if kind is None else Match(1.0, (f"speculators_model_type: {kind}",), certain=True)

    def interpret(self, config: Mapping[str, Any]) -> Interpretation:
        """What the config says. Raises ConfigError."""
        return interpret_config(config)

    def _meaning(self, config: Mapping[str, Any], names: Collection[str]) -> Interpretation:
        """What the config says, and for tensors of the research code's names what its heads have in common."""
        meaning = self.interpret(config)
        if config.get("norm_before_residual") is not None or not by_research_code(names):
            return meaning
        why = (
            "the key is missing, and speculators' research code, which called the tensors as they are here, trained "
            "with true"
        )
        doubt = Assumption("norm_before_residual", True, why, SETTLE_RESIDUAL)
        others = [a for a in meaning.assumptions if a.field != doubt.field]
        semantics = replace(meaning.semantics, norm_before_residual=True)
        return replace(meaning, semantics=semantics, assumptions=[*others, doubt])

    def read(self, checkpoint: Checkpoint, options: ReadOptions = AS_FOUND) -> Head:
        """The head in the folder."""
        meaning = self._meaning(checkpoint.config, checkpoint.tensors)
        head = build_head(self.name, self.contract, checkpoint, meaning, options)
        version = version_of(checkpoint.config)
        if version is not None and _RANDOM_WEIGHTS[0] <= version <= _RANDOM_WEIGHTS[1] and _untrained(head):
            head.problems.append(
                Problem(
                    "warning" if options.allow_suspicious else "error",
                    "tensor-suspicious",
                    f"the norms of layer 0 are exactly one and speculators_version is {version[0]}.{version[1]}, "
                    "a release whose converter left the decoder layer at random initial values",
                    "convert the original head again, with eagle3hub or speculators 0.5 and later",
                )
            )
        return head

    def write(self, head: Head, options: WriteOptions) -> Spelled:
        """The head in speculators' spelling. Raises Refusal without a verifier or a number of draft tokens."""
        refuse_inexpressible(head, self.name, self.contract)
        names = head.carried[self.name].names.values() if self.name in head.carried else ()
        before = earlier_spelling(head, self.name, lambda config: self._meaning(config, names))
        assumptions: list[Assumption] = []
        notes: list[str] = []
        if before is not None:
            config = with_said(before.config, head, options)
            how = "as it was" if config == before.config else "with the verifier and draft tokens that were given"
            notes.append(f"config.json is that of the speculators folder this head came from, {how}")
        else:
            config = spell(head, options)
            if head.layout == self.name:
                fresh, config = config, rewritten(head, config, self.interpret)
                config["speculators_config"] = _filled(config["speculators_config"], fresh["speculators_config"])
                config = with_said(config, head, options)
            name = config["speculators_config"]["verifier"]["name_or_path"]
            if isinstance(name, str) and name.startswith(("/", ".", "~")):
                why = "it is a local folder: others cannot serve the head by its own name"
                settle = "name the target's Hub id with --target-name"
                assumptions.append(Assumption("speculators_config.verifier.name_or_path", name, why, settle))
        if aux_count(head) != 3 and not head.semantics.qk_norm:
            notes.append(
                f"vLLM sizes fc of a speculators head with Llama layers for 3 hidden states and fails to load "
                f"this one, which takes {aux_count(head)}; --to modelopt writes what it needs"
            )
        tensors, metadata, origin = spell_tensors(head, self.name, self.contract, before)
        return Spelled(config, tensors, metadata, origin, assumptions, notes)


def _filled(source: Mapping[str, Any], fresh: Mapping[str, Any]) -> dict[str, Any]:
    """An object of the source with what it does not state, at any depth; null and an empty list state nothing."""
    out = dict(source)
    for key, value in fresh.items():
        have = out.get(key)
        if have is None or have == []:
            out[key] = value
        elif isinstance(have, dict) and isinstance(value, dict):
            out[key] = _filled(have, value)
    return out


def _untrained(head: Head) -> bool:
    return all(_all_ones(head.tensors[f"layers.0.{norm}.weight"]) for norm in _NORMS)


def _all_ones(ref: TensorRef) -> bool:
    one = _ONE.get(ref.dtype)
    return one is not None and read_tensor(ref) == one * ref.num_elements
