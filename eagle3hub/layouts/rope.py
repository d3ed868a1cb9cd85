"""RoPE in both spellings: ``rope_theta`` + ``rope_scaling``, and transformers 5's ``rope_parameters``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eagle3hub.errors import ConfigError
from eagle3hub.fields import Fields
from eagle3hub.head import Rope

Scaling = dict[str, Any]


def parse_rope(config: Fields) -> tuple[float | None, Scaling | None]:
    """Base (None where none is stated) and scaling (None where it is plain), from either spelling or both.

    Raises ConfigError where the two disagree, or for a rotation no EAGLE-3 head has.
    """
    if config.flag("rope_interleave", default=False) or not config.flag("is_neox_style", default=True):
        raise ConfigError(
            f"{config.where} asks for interleaved RoPE, which no layout and no engine has for a Llama draft head",
            code="config-rope",
        )
    top = config.real("rope_theta", default=None)
    stated: list[tuple[str, float | None, Scaling | None]] = []
    for key in ("rope_scaling", "rope_parameters"):
        if (given := config.mapping(key)) is not None:
            if any(isinstance(value, dict) for value in given.values()):
                raise ConfigError(
                    f"{config.where}: {key} differs by layer type, which no EAGLE-3 head has", code="config-rope"
                )
            theta = Fields(given, f"{config.where}: {key}").real("rope_theta", default=None)
            stated.append((key, theta, plain_scaling(given)))
    for key, theta, scaling in stated:
        if theta is not None and top is not None and theta != top:
            raise ConfigError(f"{config.where}: rope_theta is {top:g} but {key} says {theta:g}", code="config-rope")
        if scaling != stated[0][2]:
            raise ConfigError(f"{config.where}: rope_scaling and rope_parameters disagree", code="config-rope")
        top = theta if theta is not None else top
    return top, stated[0][2] if stated else None


def unscaled(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """What ``rope_parameters`` say of the base alone."""
    return {k: v for k, v in parameters.items() if k == "rope_theta"}


def plain_scaling(scaling: Mapping[str, Any]) -> Scaling | None:
    """The scaling parameters under their current key names, or None for plain RoPE."""
    out = {("rope_type" if k == "type" else k): v for k, v in scaling.items() if k != "rope_theta"}
    if out.get("partial_rotary_factor") in (None, 1.0):
        out.pop("partial_rotary_factor", None)
    return None if out.get("rope_type", "default") == "default" and len(out) <= 1 else out


def spell_rope(rope: Rope) -> dict[str, Any]:
    """RoPE in both spellings: engines before transformers 5 read the first two keys only."""
    scaling = dict(rope.scaling) if rope.scaling else None
    return {
        "rope_theta": rope.theta,
        **({"rope_scaling": scaling} if scaling else {}),
        "rope_parameters": {**(scaling or {"rope_type": "default"}), "rope_theta": rope.theta},
    }
