"""Default aux layers and special types of targets: what ``aux_defaults.toml`` says, typed.

This module knows numbers only; `eagle3hub.head.AuxTaps` gives them their meaning.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from eagle3hub.system.resources import read_toml

AUX_IDS = "eagle_aux_hidden_state_layer_ids"
"""The config key that lists aux layers. Top level: boundary ids; inside ``eagle_config``: after-layer ids."""
AUX_COUNT = "num_aux_hidden_states"
"""The config key that says how many aux hidden states fc takes, where they are not three."""
AUX_LAYERS = "target_layer_ids"
"""The config key of DeepSpec's heads that lists aux layers, as after-layer ids (vLLM's V2 runner)."""
AUX_CAPTURE = "eagle3_layers_to_capture"
"""The key of TensorRT-LLM's own YAML that lists aux layers, as after-layer ids."""
FINAL_STATE = (-1,)
"""What that key lists for a head that reads the target's final, normed hidden state."""

_TERM = re.compile(r"(?P<of>L//2|L)?(?P<plus>[+-]?[0-9]+)?")


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer of a target of L layers: ``of`` (nothing, ``L//2`` or ``L``) with ``plus`` added."""

    of: str
    plus: int

    @classmethod
    def parse(cls, text: str) -> Layer:
        """The layer that ``text`` means, such as ``L//2-1``. Raises ValueError."""
        match = _TERM.fullmatch(text)
        if not text or match is None:
            raise ValueError(f"{text!r} is no layer of a target: write a number, L//2 or L, and what to add")
        return cls(match["of"] or "", int(match["plus"] or 0))

    def number(self, num_target_layers: int) -> int:
        """Its number in a target of that many layers."""
        return {"": 0, "L//2": num_target_layers // 2, "L": num_target_layers}[self.of] + self.plus

    def __str__(self) -> str:
        return f"{self.of}{self.plus:+}" if self.of and self.plus else self.of or str(self.plus)


@dataclass(frozen=True, slots=True)
class AuxDefault:
    """The layers that a trainer taps where a run names none, as after-layer ids.

    Attributes:
        layers: for any target. targets: other layers, by the target's model_type.
        merges: whether layers below 0 become 0 and equal layers become one.
        fixed: whether a run cannot tap other layers, but for ``targets``.
        unnamed: what it means that a config names no layers: ``certain`` (the default was tapped), ``open`` (a run may
            tap others and records nothing) or ``suspicious`` (the trainer always writes a list, so one was lost).
    """

    layers: tuple[Layer, ...]
    targets: Mapping[str, tuple[Layer, ...]] = field(default_factory=dict)
    merges: bool = False
    fixed: bool = False
    unnamed: Literal["certain", "open", "suspicious"] = "open"

    def layers_for(self, model_type: str | None) -> tuple[Layer, ...]:
        """The layers for a type of target; None is a target of which nothing is known."""
        return self.targets.get(model_type or "", self.layers)

    def numbers(self, num_target_layers: int, model_type: str | None = None) -> list[int]:
        """After-layer ids for a target; they ascend only if it has layers enough."""
        ids = [layer.number(num_target_layers) for layer in self.layers_for(model_type)]
        return sorted({max(0, i) for i in ids}) if self.merges else ids


def shown(layers: Sequence[Layer]) -> str:
    """Layers in words, such as ``1, L//2-1, L-4``."""
    return ", ".join(map(str, layers))


def boundaries(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """The same layers as boundary ids, each one higher than its after-layer id."""
    return tuple(Layer(layer.of, layer.plus + 1) for layer in layers)


@cache
def aux_default(layout: str | None = None) -> AuxDefault:
    """The default of the trainer whose layout this is; without one, or with one of no special habit, everybody's."""
    data = _data()
    common = _layers(data["default"]["layers"])
    own: dict[str, Any] = data["trainers"].get(layout, {})
    targets = {name: _layers(texts) for name, texts in own.get("targets", {}).items()}
    return AuxDefault(common, targets, **{key: value for key, value in own.items() if key != "targets"})


def special_trainers() -> list[str]:
    """Layouts whose trainers depart from everybody's default."""
    return list(_data()["trainers"])


def captured_by_sglang(layout: str) -> bool:
    """Whether SGLang's own code may have captured the aux hidden states that a head of this layout was trained on."""
    return layout in _data()["captured_by"]["sglang"]


@cache
def target_types(name: str) -> frozenset[str]:
    """The list of target types of that name, as ``model_type`` of a target's config.json."""
    return frozenset(_data()["target_types"][name])


def _layers(texts: Sequence[str]) -> tuple[Layer, ...]:
    return tuple(Layer.parse(text) for text in texts)


@cache
def _data() -> dict[str, Any]:
    return read_toml(Path(__file__).with_name("aux_defaults.toml"))
