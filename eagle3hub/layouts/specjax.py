"""SpecJAX (tails-mpt/SpecJAX d047ed4, ``models/draft/eagle3.py``).

One model.safetensors without header metadata, ``midlayer.*`` names, d2t as int32 offsets (JAX without x64) and
t2d as bool; a minimal config with the architecture of a plain Llama, no context length, no aux layer ids. The
trainer hard-codes silu, plain RoPE and the default taps; a resumed run copies its source's config unread.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from eagle3hub.checkpoint.folder import Checkpoint
from eagle3hub.errors import Hint, Refusal
from eagle3hub.head import Assumption, AuxTaps, Head
from eagle3hub.head.aux_defaults import AUX_IDS, aux_default
from eagle3hub.head.fields import Fields
from eagle3hub.layouts.aux_layers import read_flat_taps, taps_or_fault
from eagle3hub.layouts.base import Contract, LayoutFiles, Match, WriteOptions, alternatives
from eagle3hub.layouts.flat import FlatLayout, Obeyed
from eagle3hub.layouts.interpret import torch_dtype


def saved_by_specjax(checkpoint: Checkpoint) -> bool:
    """Whether SpecJAX saved the weights; the config beside them may be one that a resumed run copied."""
    d2t = checkpoint.tensors.get("d2t")
    return d2t is not None and d2t.dtype == "I32" and checkpoint.metadata is None


class SpecJax(FlatLayout):
    """Codec of SpecJAX folders."""

    name = "specjax"
    hard_coded_act = "silu"
    one_layer = False  # it always writes num_hidden_layers: 1, so any other number comes from another head's config
    inert = frozenset({"rope_scaling", "attention_bias", "norm_before_residual"})
    contract = Contract(
        title="SpecJAX",
        tensor_prefix="midlayer.",
        forms=frozenset({"midlayer"}),
        expresses=frozenset(),
        vocab_dtype="I32",
        has_t2d=True,
        identity_map=False,
        metadata=None,
        aux_ids=None,
        engines=("sglang_jax",),
        single_file=True,
        cannot={
            "aux_ids": "SpecJAX writes no aux layer ids: its trainer always taps the default layers",
            "aux_count": "SpecJAX's fc takes exactly 3 aux hidden states",
            "rope_scaling": "SpecJAX knows no RoPE scaling, in the draft or in the target",
            "full_vocabulary": "SpecJAX always trains a reduced vocabulary with a map",
            "unsorted_vocabulary": "SpecJAX takes row r of lm_head for the r-th true entry of t2d",
            "several_layers": "SpecJAX knows one decoder layer",
        },
        reads=("SpecJAX d047ed4",),
        writes="SpecJAX d047ed4",
    )

    def detect(self, checkpoint: Checkpoint) -> Match | None:
        """Midlayer names, and signs of SpecJAX alone: int32 d2t, no metadata, a plain architecture.

        JAX has no 64-bit integers unless it is told to (jax_enable_x64), so a map of them is of another trainer.
        """
        tensors, config = checkpoint.tensors, checkpoint.config
        d2t = tensors.get("d2t")
        if not any(n.startswith("midlayer.") for n in tensors) or (d2t is not None and d2t.dtype == "I64"):
            return None
        evidence = ["midlayer.* names"]
        if d2t is not None and d2t.dtype == "I32":
            evidence.append("int32 d2t")
        if checkpoint.metadata is None:
            evidence.append("no header metadata")
        if config.get("architectures") == ["LlamaForCausalLM"] and "max_position_embeddings" not in config:
            evidence.append("plain LlamaForCausalLM config without max_position_embeddings")
        if "t2d" not in tensors or "embed_tokens.weight" in tensors:
            return None
        if "eagle_config" in config and not saved_by_specjax(checkpoint):
            return None
        return Match((len(evidence) - 1) / 3, tuple(evidence)) if len(evidence) > 1 else None

    def _without_ignored(self, config: Fields, contract: Contract) -> Obeyed:
        """As for every flat config; aux layers in it are doubtful, since the trainer writes none."""
        kept, assumptions, problems = super()._without_ignored(config, contract)
        named = taps_or_fault(lambda: read_flat_taps(config, order_ignored=True)).aux
        if named is not None and not named.is_default:
            why = (
                "SpecJAX writes no aux layers: those in config.json were added, or copied from the head that training "
                "began with, and the trainer taps the default ones unless it is told otherwise"
            )
            assumptions.append(Assumption(AUX_IDS, named.after_layer, why, Hint("give --aux-layers", "--aux-layers")))
        return kept, assumptions, problems

    def write(self, head: Head, options: WriteOptions) -> LayoutFiles:
        """The files of the head for SpecJAX. Raises Refusal, also where its trainer would tap other layers."""
        layers = head.num_target_layers
        as_written = head
        if head.aux is not None and layers is not None and head.target_model_type in aux_default(self.name).targets:
            its_own = AuxTaps.default_for(layers, self.name, head.target_model_type)
            if head.aux.taps != its_own.taps:
                raise Refusal(
                    f"the head taps layers {head.aux.after_layer}, and SpecJAX writes no aux layer ids: its trainer "
                    f"taps {its_own.after_layer} of a {head.target_model_type} target of {layers} layers",
                    hint=partial(alternatives, head, self.name),
                    code="refused-aux-ids",
                )
            as_written = replace(head, aux=None)
        files = super().write(as_written, options)
        other = sorted({ref.dtype for ref in head.tensors.values()} - {"BF16"})
        if not other:
            return files
        note = (
            f"weights are {' and '.join(other)}, and SpecJAX rounds all to BF16 when it loads them: it would train on "
            "from other numbers"
        )
        return replace(files, notes=[*files.notes, note])

    def new_config(self, head: Head) -> dict[str, object]:
        """The fifteen fields SpecJAX writes, in its order."""
        d = head.dims
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": d.hidden_size,
            "intermediate_size": d.intermediate_size,
            "num_hidden_layers": 1,
            "num_attention_heads": d.num_attention_heads,
            "num_key_value_heads": d.num_key_value_heads,
            "head_dim": d.head_dim,
            "vocab_size": d.vocab_size,
            "draft_vocab_size": d.draft_vocab_size,
            "rope_theta": head.semantics.rope.theta,
            "rms_norm_eps": head.semantics.rms_norm_eps,
            "torch_dtype": torch_dtype(head),
            "tie_word_embeddings": False,
        }
