"""SpecForge (sgl-project/SpecForge a6b6b02, ``modeling/draft/llama3_eagle.py``, ``export/to_sglang.py``).

``midlayer.*`` names, safetensors metadata ``format: pt``, d2t as int64 offsets and t2d as bool (always both, also
for a full vocabulary), embeddings in ``--to hf`` exports only; a flat Llama config with the architecture
``LlamaForCausalLMEagle3`` and, if at all, after-layer ids in ``eagle_config``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from eagle3hub.checkpoint.folder import Checkpoint
from eagle3hub.errors import Problem
from eagle3hub.head import Assumption, Head
from eagle3hub.layouts.base import Contract, Match
from eagle3hub.layouts.flat import FlatLayout, common_config
from eagle3hub.layouts.interpret import AUX_IDS, Interpretation


class SpecForge(FlatLayout):
    """Codec of SpecForge folders."""

    name = "specforge"
    contract = Contract(
        title="SpecForge",
        tensor_prefix="midlayer.",
        expresses=frozenset(
            {"fc_norm", "hidden_act", "rope_scaling", "embed_tokens", "target_width", "aux_ids", "full_vocabulary"}
        ),
        vocab_dtype="I64",
        has_t2d=True,
        identity_map=True,
        metadata={"format": "pt"},
        aux_ids="eagle_config (after-layer) and top level (boundary)",
        cannot={
            "aux_count": "SpecForge's fc takes exactly 3 aux hidden states",
            "unsorted_vocabulary": "SpecForge takes row r of lm_head for the r-th true entry of t2d",
        },
    )

    def detect(self, checkpoint: Checkpoint) -> Match | None:
        """Midlayer names with t2d, pt metadata, int64 d2t and the Eagle3 architecture name."""
        tensors, config = checkpoint.tensors, checkpoint.config
        if not any(n.startswith("midlayer.") for n in tensors) or "t2d" not in tensors:
            return None
        evidence = ["midlayer.* names"]
        if config.get("architectures") == ["LlamaForCausalLMEagle3"]:
            evidence.append("architecture LlamaForCausalLMEagle3")
        if (checkpoint.metadata or {}).get("format") == "pt":
            evidence.append("header metadata format: pt")
        if "d2t" in tensors and tensors["d2t"].dtype == "I64":
            evidence.append("int64 d2t with t2d")
        return Match((len(evidence) - 1) / 3, tuple(evidence)) if len(evidence) > 1 else None

    def interpret(self, config: Mapping[str, Any]) -> Interpretation:
        """As every flat config, and norm_output, whose meaning changed."""
        meaning = super().interpret(config)
        problems, assumptions = list(meaning.problems), list(meaning.assumptions)
        if config.get("norm_output") is True:
            problems.append(
                Problem(
                    "error",
                    "config-norm-output",
                    "config.json says norm_output: true, which SpecForge gave two meanings: the norm before lm_head "
                    "(up to 0.2.0) or post-norm feedback (September 2026 and later)",
                    "remove the key if the head was trained with 0.2.0 or earlier; this version converts no "
                    "post-norm-feedback head of SpecForge",
                )
            )
        if config.get("norm_output") is False:
            why = "norm_output: false skipped the norm before lm_head up to SpecForge 0.2.0; engines always apply it"
            assumptions.append(
                Assumption("feedback", "pre_norm", why, "remove norm_output from config.json if it is so")
            )
        return replace(meaning, problems=problems, assumptions=assumptions)

    def spell_config(self, head: Head) -> dict[str, Any]:
        """A flat config that SpecForge and every engine reads alike."""
        return {
            **common_config(head, "LlamaForCausalLMEagle3"),
            **({"fc_norm": True} if head.semantics.fc_norm else {}),
            "eagle_config": {
                "use_aux_hidden_state": True,
                **({AUX_IDS: head.aux.after_layer} if head.aux is not None else {}),
            },
        }
