"""The codec of layouts whose config is one flat Llama config (SpecJAX, SpecForge, ModelOpt)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eagle3hub.checkpoint.dtypes import TORCH_NAME
from eagle3hub.checkpoint.folder import Checkpoint
from eagle3hub.errors import ConfigError, Problem
from eagle3hub.fields import Fields
from eagle3hub.head import AuxTaps, Head
from eagle3hub.layouts.base import Contract, ReadOptions, Spelled, WriteOptions, refuse_inexpressible
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


class FlatLayout:
    """Everything the flat layouts do alike; each one adds its detection and its own config fields."""

    name: str
    contract: Contract
    hard_coded_act: str | None = None

    def interpret(self, config: Mapping[str, Any]) -> Interpretation:
        """What the config says. Raises ConfigError."""
        c = Fields(config)
        for flag in ("norm_before_residual", "norm_before_fc", "fc_norm"):
            if c.flag(flag, default=False) and flag not in self.contract.expresses:
                raise ConfigError(
                    f"config.json says {flag}: true, which a {self.contract.title} head cannot have",
                    hint="if another tool wrote this folder, name its layout with --from",
                    code="config-layout",
                )
        if not c.section("eagle_config").flag("use_aux_hidden_state", default=True):
            raise ConfigError(
                "config.json says use_aux_hidden_state: false: the head reads the final hidden state only and has "
                "no fc; this version reads heads with aux hidden states",
                code="config-no-aux",
            )
        llama = parse_llama(c, hidden_act=self.hard_coded_act)
        aux = read_aux(c)
        return Interpretation(
            llama=llama,
            semantics=plain_semantics(llama, fc_norm=c.flag("fc_norm", default=False)),
            aux=aux,
            draft_vocab_size=c.number("draft_vocab_size", default=None),
            problems=_aux_warnings(c),
        )

    def read(self, checkpoint: Checkpoint, options: ReadOptions = ReadOptions()) -> Head:
        """The head in the folder."""
        return build_head(self.name, self.contract, checkpoint, self.interpret(checkpoint.config))

    def write(self, head: Head, options: WriteOptions) -> Spelled:
        """The head in this layout's spelling. Raises Refusal."""
        refuse_inexpressible(head, self.name, self.contract)
        notes: list[str] = []
        before = earlier_spelling(head, self.name, self.interpret)
        if before is not None:
            config = dict(before.config)
            notes.append(f"config.json is that of the {self.contract.title} folder this head came from, as it was")
            notes += [p.message for p in self.interpret(config).problems]
        elif head.layout == self.name:
            config = completed(head.config, self.spell_config(head))
        else:
            config = self.spell_config(head)
        tensors, metadata, origin = spell_tensors(head, self.name, self.contract, before)
        return Spelled(config, tensors, metadata, origin, [], notes)

    def spell_config(self, head: Head) -> dict[str, Any]:
        """config.json from the head alone."""
        raise NotImplementedError(self.name)


def common_config(head: Head, architecture: str) -> dict[str, Any]:
    """The flat fields that SpecForge's and ModelOpt's configs share, readable by every engine.

    Layer ids are written twice on purpose: boundary ids at top level, which vLLM looks at first, and after-layer
    ids inside ``eagle_config``, the only place SGLang and the trainers look (vLLM 0.32.0
    ``v1/worker/gpu_model_runner.py``; SGLang 0.5.23 ``spec_aux_hidden_state.py``). RoPE is written in both
    spellings; a null would be read as a value, so absent fields are left out.
    """
    dtype = TORCH_NAME[head.dtype]
    d = head.dims
    return {
        "architectures": [architecture],
        **spell_llama(head.semantics, d),
        "draft_vocab_size": d.draft_vocab_size,
        **({"target_hidden_size": d.target_hidden_size} if d.target_hidden_size != d.hidden_size else {}),
        **({"max_position_embeddings": head.max_position_embeddings} if head.max_position_embeddings else {}),
        **head.token_ids,
        **spell_rope(head.semantics.rope),
        "torch_dtype": dtype,
        "tie_word_embeddings": False,
        "norm_before_residual": False,
        **({AUX_IDS: head.aux.boundary} if head.aux is not None else {}),
        **({"num_aux_hidden_states": len(head.aux)} if head.aux is not None and len(head.aux) != 3 else {}),
    }


def read_aux(config: Fields) -> AuxTaps | None:
    """Aux layers of a flat config: boundary ids at top level, after-layer ids in ``eagle_config``.

    Raises ConfigError where both are there and name different layers.
    """
    top, nested = config.layer_ids(AUX_IDS), config.section("eagle_config").layer_ids(AUX_IDS)
    from_top = None if top is None else AuxTaps.from_boundary(top, "config")
    from_nested = None if nested is None else AuxTaps.from_after_layer(nested, "config")
    if from_top is not None and from_nested is not None and from_top.taps != from_nested.taps:
        raise ConfigError(
            f"config.json names different aux layers: {top} at top level (boundary ids) and {nested} in eagle_config "
            f"(after-layer ids, so boundaries {from_nested.boundary})",
            hint="SGLang would read one and vLLM the other: correct the list that is wrong",
            code="config-aux-conflict",
        )
    return from_top or from_nested


def _aux_warnings(config: Fields) -> list[Problem]:
    nested = config.section("eagle_config").layer_ids(AUX_IDS)
    if nested is None or config.layer_ids(AUX_IDS) is not None:
        return []
    return [
        Problem(
            "warning",
            "aux-ids-nested-only",
            f"aux layer ids {nested} stand in eagle_config only: vLLM's CPU runner takes them one layer too low "
            "and its GPU runner ignores them",
            f"eagle3hub convert also writes {AUX_IDS}: {[i + 1 for i in nested]} at top level",
        )
    ]
