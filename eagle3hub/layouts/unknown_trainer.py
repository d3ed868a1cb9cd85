"""Flat folders that bear no trainer's marks: read as engines read them, and written in another layout.

A flat Llama config and ``midlayer.*`` or ``layers.{i}.*`` names are common to many trainers, and so are conversions by
hand: the P-EAGLE heads of the method's authors, heads with a draft class that only vLLM registers, maps without t2d.
What another layout knows of its trainer (which layers it taps where a config names none, how it numbers them) is not
known here, so it is an assumption.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from eagle3hub.checkpoint.folder import Checkpoint
from eagle3hub.errors import Hint
from eagle3hub.head import Assumption
from eagle3hub.head.aux_defaults import AUX_IDS
from eagle3hub.head.fields import Fields
from eagle3hub.layouts.base import FEATURES, Contract, Match
from eagle3hub.layouts.flat import FlatReader
from eagle3hub.layouts.interpret import Interpretation


class UnknownTrainer(FlatReader):
    """Reader of flat folders of an unknown trainer."""

    name = "flat"
    one_layer = False
    contract = Contract(
        title="flat, trainer unknown",
        tensor_prefix="layers.0.",
        forms=frozenset({"layers", "midlayer", "midlayers"}),
        expresses=frozenset(feature.name for feature in FEATURES),
        vocab_dtype="I64",
        has_t2d=True,
        identity_map=False,
        metadata=None,
        aux_ids="eagle_config (after-layer) and top level (boundary)",
        full_title="flat (trainer unknown)",
        trainer_sorts=False,
        reads=("flat folders without a trainer's marks", "P-EAGLE of the method's authors"),
    )

    def detect(self, checkpoint: Checkpoint) -> Match | None:
        """Names and a flat config that every engine knows; any sign of a trainer weighs more."""
        tensors, config = checkpoint.tensors, checkpoint.config
        style = next((s for s in ("midlayer.", "layers.0.") if any(n.startswith(s) for n in tensors)), None)
        if style is None or "speculators_model_type" in config or "hidden_size" not in config:
            return None
        if not any(n == "fc.weight" or n.endswith("hidden_norm.weight") for n in tensors):
            return None
        return Match(0.0, (f"{style}* names", "no trainer's marks"))

    def interpret(self, config: Mapping[str, Any], *, names: Collection[str] = ()) -> Interpretation:
        """As every flat config; what depends on the trainer is an assumption."""
        meaning = super().interpret(config, names=names)
        c = Fields(config)
        if meaning.aux is None or not meaning.aux.numbered or c.layer_ids(AUX_IDS) is not None:
            return meaning
        why = (
            "the ids stand in eagle_config, and no mark says which trainer wrote them: they are taken for after-layer "
            "ids, as trainers and SGLang number them"
        )
        doubt = Assumption(AUX_IDS, meaning.aux.after_layer, why, Hint("give --aux-layers", "--aux-layers"))
        return replace(meaning, assumptions=[*meaning.assumptions, doubt])
