"""AngelSlim (Tencent/AngelSlim 67394ce, ``compressor/speculative/train/models/draft/llama_eagle3.py``).

``midlayer.*`` names, d2t as int64 offsets and t2d as bool (always both), usually the embeddings; the architecture
``Eagle3LlamaForCausalLM`` and the draft config as the user wrote it: tie_word_embeddings is often true though lm_head
is separate, and the RoPE base it states is not the one trained with (10000 unless the scaling is mrope).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from eagle3hub.checkpoint.folder import Checkpoint
from eagle3hub.errors import Hint
from eagle3hub.head import Assumption, Head, Rope
from eagle3hub.head.fields import Fields
from eagle3hub.head.rope import ROPE_THETA
from eagle3hub.layouts.aux_layers import Taps, taps_from
from eagle3hub.layouts.base import Contract, LayoutFiles, Match, WriteOptions
from eagle3hub.layouts.flat import FlatLayout, common_config
from eagle3hub.layouts.interpret import Interpretation
from eagle3hub.layouts.specjax import saved_by_specjax

_ARCHITECTURES = (["Eagle3LlamaForCausalLM"], ["CosyVoice3Eagle3LlamaForCausalLM"])
_TARGET = "target_model_type"
"""A field of AngelSlim's draft configs; SpecForge's have it for vision targets only."""
_LISTED = "aux_hidden_states_layer_ids"
"""The field of a draft config that lists other layers to tap, by after-layer ids (``online_eagle3_trainer.py``)."""
_TRAINED_THETA = 10000.0


class AngelSlim(FlatLayout):
    """Codec of AngelSlim folders."""

    name = "angelslim"
    theta_by_library = True
    contract = Contract(
        title="AngelSlim",
        tensor_prefix="midlayer.",
        forms=frozenset({"midlayer"}),
        expresses=frozenset({"hidden_act", "rope_scaling", "embed_tokens", "full_vocabulary"}),
        vocab_dtype="I64",
        has_t2d=True,
        identity_map=True,
        metadata={"format": "pt"},
        aux_ids=None,
        engines=("vllm",),
        cannot={
            "aux_ids": "AngelSlim names other aux layers than the default ones in a key that no engine reads",
            "aux_count": "AngelSlim's fc takes exactly 3 aux hidden states",
            "unsorted_vocabulary": "AngelSlim takes row r of lm_head for the r-th true entry of t2d",
            "several_layers": "AngelSlim knows one decoder layer (midlayer)",
        },
        reads=("training output of 67394ce",),
        writes="training output of 67394ce",
    )

    def detect(self, checkpoint: Checkpoint) -> Match | None:
        """Midlayer names and AngelSlim's architecture name, or SpecForge's beside a field that AngelSlim adds.

        vLLM has a class of AngelSlim's name too, so that a map must be of the dtype that AngelSlim stores. SpecForge's
        configs for Gemma and vision targets have that field as well (configs/gemma3-1b-eagle3.json: gemma3_text,
        minicpm-v4), some beside its eagle_config, which AngelSlim does not write.
        """
        tensors, config = checkpoint.tensors, checkpoint.config
        architecture = config.get("architectures")
        if not any(n.startswith("midlayer.") for n in tensors) or saved_by_specjax(checkpoint):
            return None
        if "d2t" in tensors and tensors["d2t"].dtype != "I64":
            return None
        if architecture in _ARCHITECTURES:
            return Match(1.0, ("midlayer.* names", f"architecture {architecture[0]}"), certain=True)
        kind = config.get(_TARGET)
        of_text = isinstance(kind, str) and not {"vl", "v", "text"} & set(kind.split("_"))
        if architecture == ["LlamaForCausalLMEagle3"] and of_text and "eagle_config" not in config:
            return Match(1.0, ("midlayer.* names", f"{_TARGET} of a text target"), certain=True)
        return None

    def interpret(self, config: Mapping[str, object], *, names: Collection[str] = ()) -> Interpretation:
        """As every flat config; a RoPE base that the trainer ignores is an assumption."""
        meaning = super().interpret(config, names=names)
        rope = meaning.semantics.rope
        if _trains_with(rope):
            return meaning
        stated = f"{rope.theta:.15g}"
        why = (
            f"config.json says so, but AngelSlim's own code trains with base {ROPE_THETA:.15g} unless the scaling is "
            "mrope"
        )
        doubt = Assumption(
            "rope_theta",
            rope.theta,
            why,
            Hint(
                f"give --rope-theta {ROPE_THETA:.15g} if that code trained the head, or --rope-theta {stated} if the "
                "config was obeyed",
                "--rope-theta",
            ),
        )
        return replace(meaning, assumptions=[*meaning.assumptions, doubt])

    def read_taps(self, config: Fields) -> Taps:
        """The layers in AngelSlim's own field, else those in the fields that engines read."""
        ids = config.layer_ids(_LISTED)
        return super().read_taps(config) if ids is None else taps_from(ids, "after", "config", where=config.where)

    def write(self, head: Head, options: WriteOptions) -> LayoutFiles:
        """As every flat layout, with a note if AngelSlim's trainer would ignore the RoPE base."""
        files = super().write(head, options)
        return files if _trains_with(head.semantics.rope) else self.noting_base(files, head)

    def new_config(self, head: Head) -> dict[str, object]:
        """A flat config under AngelSlim's architecture name, which vLLM knows too."""
        return common_config(head, "Eagle3LlamaForCausalLM")


def _trains_with(rope: Rope) -> bool:
    """Whether AngelSlim's code rotates as the config says: its base is 10000, except for mrope."""
    return rope.theta == _TRAINED_THETA or bool({"mrope_section", "mrope_interleaved"} & set(rope.scaling or ()))
