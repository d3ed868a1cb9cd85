"""speculators (vllm-project/speculators 0.9.0, ``models/eagle3/config.py``, ``models/eagle3/core.py``).

``layers.0.*`` names, metadata ``format: pt``, d2t (int64 offsets) and t2d (bool) only where the vocabulary is
reduced; a nested config: ``transformer_layer_config`` holds the Llama fields, ``speculators_config`` names the
verifier and the number of speculative tokens, and the aux layer ids are boundary ids at top level.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eagle3hub.checkpoint.dtypes import TORCH_NAME
from eagle3hub.checkpoint.folder import Checkpoint
from eagle3hub.errors import ConfigError, Refusal
from eagle3hub.fields import Fields
from eagle3hub.head import Assumption, AuxTaps, Head
from eagle3hub.layouts.base import Contract, Match, Spelled, WriteOptions, refuse_inexpressible
from eagle3hub.layouts.interpret import (
    AUX_IDS,
    Interpretation,
    build_head,
    completed,
    earlier_spelling,
    plain_semantics,
)
from eagle3hub.layouts.llama import parse_llama, spell_llama, spell_rope
from eagle3hub.layouts.spell import spell_tensors

SCHEMA_VERSION = "0.9.0"
"""The release of speculators whose config we write."""


class Speculators:
    """Codec of speculators folders."""

    name = "speculators"
    contract = Contract(
        title="speculators",
        tensor_prefix="layers.0.",
        expresses=frozenset(
            {
                *("norm_before_residual", "norm_before_fc", "fc_norm", "post_norm_feedback", "sliding_window"),
                *("hidden_act", "rope_scaling", "embed_tokens", "aux_ids", "aux_count"),
                *("full_vocabulary", "unsorted_vocabulary"),
            }
        ),
        vocab_dtype="I64",
        has_t2d=True,
        identity_map=False,
        metadata={"format": "pt"},
        aux_ids="top level (boundary)",
        needs={"verifier": "--target", "number of draft tokens": "--speculative-tokens"},
        cannot={"target_width": "speculators' model sizes fc by the head's own hidden size"},
    )

    def detect(self, checkpoint: Checkpoint) -> Match | None:
        """speculators_model_type, which no other layout has."""
        kind = checkpoint.config.get("speculators_model_type")
        return None if kind is None else Match(1.0, (f"speculators_model_type: {kind}",))

    def interpret(self, config: Mapping[str, Any]) -> Interpretation:
        """What the config says. Raises ConfigError."""
        c = Fields(config)
        kind = c.text("speculators_model_type")
        if kind != "eagle3":
            raise ConfigError(
                f"config.json says speculators_model_type: {kind}; this version reads eagle3", code="config-kind"
            )
        layer = c.section("transformer_layer_config")
        layer_type = layer.text("model_type", default="llama")
        if layer_type != "llama":
            raise ConfigError(
                f"config.json: transformer_layer_config: model_type is {layer_type}; this version reads llama layers",
                code="config-kind",
            )
        llama = parse_llama(layer)
        assumptions: list[Assumption] = []
        before_residual = c.flag("norm_before_residual", default=None)
        if before_residual is None:
            before_residual = False
            why = "the key is missing: the speculators library takes false, but vLLM takes true for such a folder"
            assumptions.append(
                Assumption("norm_before_residual", False, why, "write norm_before_residual into config.json")
            )
        top = c.layer_ids(AUX_IDS)
        verifier = c.section("speculators_config").section("verifier")
        names = verifier.get("architectures")
        return Interpretation(
            llama=llama,
            semantics=plain_semantics(
                llama,
                norm_before_residual=before_residual,
                norm_before_fc=c.flag("norm_before_fc", default=False),
                fc_norm=c.flag("fc_norm", default=False),
                feedback="post_norm" if c.flag("norm_output", default=False) else "pre_norm",
            ),
            aux=None if top is None else AuxTaps.from_boundary(top, "config"),
            draft_vocab_size=c.number("draft_vocab_size", default=None),
            target_name=verifier.text("name_or_path", default=None),
            target_architectures=[a for a in names if isinstance(a, str)] if isinstance(names, list) else [],
            speculative_tokens=_speculative_tokens(c),
            assumptions=assumptions,
        )

    def read(self, checkpoint: Checkpoint) -> Head:
        """The head in the folder."""
        return build_head(self.name, self.contract, checkpoint, self.interpret(checkpoint.config))

    def write(self, head: Head, options: WriteOptions) -> Spelled:
        """The head in speculators' spelling. Raises Refusal without a verifier or a number of draft tokens."""
        refuse_inexpressible(head, self.name, self.contract)
        before = earlier_spelling(head, self.name, self.interpret)
        assumptions: list[Assumption] = []
        notes: list[str] = []
        if before is not None:
            config = dict(before.config)
            notes.append("config.json is that of the speculators folder this head came from, as it was")
        else:
            config = self._spell_config(head, options)
            if head.layout == self.name:
                config = completed(head.config, config)
            name = config["speculators_config"]["verifier"]["name_or_path"]
            if name.startswith(("/", ".", "~")):
                why = "it is a local folder: others cannot serve the head by its own name"
                settle = "name the target's Hub id with --target-name"
                assumptions.append(Assumption("speculators_config.verifier.name_or_path", name, why, settle))
        tensors, metadata, origin = spell_tensors(head, self.name, self.contract, before)
        return Spelled(config, tensors, metadata, origin, assumptions, notes)

    def _spell_config(self, head: Head, options: WriteOptions) -> dict[str, Any]:
        tokens = options.speculative_tokens or head.speculative_tokens
        if head.target_name is None:
            raise Refusal(
                "a speculators config names the verifier, and neither the source nor an option says which it is",
                hint="give --target, a folder or Hub id of the target model",
                code="refused-no-target",
            )
        if tokens is None:
            raise Refusal(
                "a speculators config says how many tokens to draft (vLLM requires it); no number is safe to guess",
                hint="give --speculative-tokens K",
                code="refused-no-speculative-tokens",
            )
        s, d = head.semantics, head.dims
        layer = {
            "architectures": ["LlamaForCausalLM"],
            **spell_llama(s, d),
            **({"max_position_embeddings": head.max_position_embeddings} if head.max_position_embeddings else {}),
            **head.token_ids,
            **spell_rope(s.rope),
            **(
                {"sliding_window": s.sliding_window, "layer_types": ["sliding_attention"]}
                if s.sliding_window is not None
                else {}
            ),
            "tie_word_embeddings": False,
        }
        proposal = {
            "proposal_type": "greedy",
            "speculative_tokens": tokens,
            "verifier_accept_k": 1,
            "accept_tolerance": 0.0,
        }
        return {
            "architectures": ["Eagle3Speculator"],
            "speculators_model_type": "eagle3",
            "speculators_version": SCHEMA_VERSION,
            "draft_vocab_size": d.draft_vocab_size,
            "norm_before_residual": s.norm_before_residual,
            "norm_before_fc": s.norm_before_fc,
            "fc_norm": s.fc_norm,
            "norm_output": s.feedback == "post_norm",
            **({AUX_IDS: head.aux.boundary} if head.aux is not None else {}),
            "tie_word_embeddings": False,
            "dtype": TORCH_NAME[head.dtype],
            "transformer_layer_config": layer,
            "speculators_config": {
                "algorithm": "eagle3",
                "default_proposal_method": "greedy",
                "proposal_methods": [proposal],
                "verifier": {"name_or_path": head.target_name, "architectures": head.target_architectures},
            },
        }


def _speculative_tokens(config: Fields) -> int | None:
    methods = config.section("speculators_config").get("proposal_methods")
    if not isinstance(methods, list) or not methods or not isinstance(methods[0], dict):
        return None
    return Fields(methods[0], "config.json: proposal_methods[0]").number("speculative_tokens", default=None)
