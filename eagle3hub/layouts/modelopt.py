"""NVIDIA ModelOpt's Hugging Face export from 0.43 on (``export/plugins/hf_spec_export.py``).

``layers.0.*`` names, no header metadata, d2t as int64 offsets only where the vocabulary is reduced (often in
frequency order), never t2d or embeddings; a flat Llama config with ``eagle_config`` and after-layer ids.
"""

from __future__ import annotations

from typing import Any

from eagle3hub.checkpoint.folder import Checkpoint
from eagle3hub.errors import Refusal
from eagle3hub.head import Head
from eagle3hub.layouts.base import Contract, Match
from eagle3hub.layouts.flat import FlatLayout, common_config
from eagle3hub.layouts.interpret import AUX_IDS


class ModelOpt(FlatLayout):
    """Codec of ModelOpt folders."""

    name = "modelopt"
    contract = Contract(
        title="ModelOpt",
        tensor_prefix="layers.0.",
        expresses=frozenset(
            {"hidden_act", "rope_scaling", "aux_ids", "aux_count", "full_vocabulary", "unsorted_vocabulary"}
        ),
        vocab_dtype="I64",
        has_t2d=False,
        identity_map=False,
        metadata=None,
        aux_ids="eagle_config (after-layer) and top level (boundary)",
        needs={"aux layer ids": "--target, where the source does not name them"},
    )

    def detect(self, checkpoint: Checkpoint) -> Match | None:
        """layers.0 names without t2d and embeddings, and ModelOpt's eagle_config."""
        tensors, config = checkpoint.tensors, checkpoint.config
        if not any(n.startswith("layers.0.") for n in tensors) or "speculators_model_type" in config:
            return None
        eagle = config.get("eagle_config")
        evidence = ["layers.0.* names"]
        if isinstance(eagle, dict) and "next_layer_regular" in eagle:
            evidence.append("eagle_config.next_layer_regular")
        if "t2d" not in tensors and "embed_tokens.weight" not in tensors:
            evidence.append("neither t2d nor embed_tokens")
        if config.get("architectures") == ["LlamaForCausalLMEagle3"]:
            evidence.append("architecture LlamaForCausalLMEagle3")
        return Match((len(evidence) - 1) / 3, tuple(evidence)) if len(evidence) > 1 else None

    def spell_config(self, head: Head) -> dict[str, Any]:
        """A flat config with ModelOpt's eagle_config."""
        if head.aux is None:
            raise Refusal(
                "a ModelOpt config names its aux layers, and neither the source nor a target says which they are",
                hint="give --target: the trainer's default layers follow from its number of layers",
                code="refused-aux-unknown",
            )
        return {
            **common_config(head, "LlamaForCausalLMEagle3"),
            "eagle_config": {
                AUX_IDS: head.aux.after_layer,
                "use_aux_hidden_state": True,
                "use_input_layernorm_in_first_layer": True,
                "use_last_layernorm": True,
                "use_mtp_layernorm": False,
                "next_layer_regular": True,
                "parallel_draft_step": 1,
                "parallel_draft_heads_num_layers": 1,
            },
        }
