"""RoPE in both spellings: ``rope_theta`` + ``rope_scaling``, and transformers 5's ``rope_parameters``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard

from eagle3hub.errors import ConfigError
from eagle3hub.fields import Fields
from eagle3hub.head import Rope

Scaling = dict[str, Any]
ORIGINAL = "original_max_position_embeddings"
_FROM_ORIGINAL = ("llama3", "yarn", "longrope")
"""Types computed from the length trained with; engines take the context for it where a config names none."""


def parse_rope(config: Fields) -> tuple[float | None, Scaling | None]:
    """Base (None where none is stated) and scaling (None where it is plain), from either spelling or both.

    Raises ConfigError where the two disagree, or for a rotation no EAGLE-3 head has.
    """
    halves = config.flag("is_neox_style", default=True) and config.flag("rope_is_neox_style", default=True)
    if config.flag("rope_interleave", default=False) or not halves:
        raise ConfigError(
            f"{config.where} asks for interleaved RoPE, which no layout and no engine has for a Llama draft head",
            code="config-rope",
        )
    top = config.real("rope_theta", default=None)
    original, context = config.number(ORIGINAL, default=None), config.number("max_position_embeddings", default=None)
    stated: list[Scaling | None] = []
    for key in ("rope_scaling", "rope_parameters"):
        if (given := config.mapping(key)) is None:
            continue
        if any(isinstance(value, dict) for value in given.values()):
            raise ConfigError(
                f"{config.where}: {key} differs by layer type, which no EAGLE-3 head has", code="config-rope"
            )
        theta, scaling = Fields(given, f"{config.where}: {key}").real("rope_theta", default=None), plain_scaling(given)
        if theta is not None and top is not None and theta != top:
            raise ConfigError(f"{config.where}: rope_theta is {top:g} but {key} says {theta:g}", code="config-rope")
        if original is not None and _from_original(scaling) and scaling.get(ORIGINAL) not in (None, original):
            raise ConfigError(
                f"{config.where}: {ORIGINAL} is {original} at top level but {scaling[ORIGINAL]} in {key}",
                hint="transformers and SGLang obey the one at top level: make the other say the same, as in training",
                code="config-rope",
            )
        stated.append(with_original(scaling, original))
        if with_original(stated[0], context) != with_original(stated[-1], context):
            raise ConfigError(f"{config.where}: rope_scaling and rope_parameters disagree", code="config-rope")
        top = theta if theta is not None else top
    return top, max(stated, key=lambda scaling: ORIGINAL in (scaling or {}), default=None)


def bound_by_context(scaling: Mapping[str, Any] | None) -> bool:
    """Whether ``max_position_embeddings`` changes what the scaling computes, so that no other may be written."""
    kind = (scaling or {}).get("rope_type")
    return kind in ("dynamic", "longrope") or (kind == "yarn" and (scaling or {}).get("factor") is None)


def needs_context(scaling: Mapping[str, Any] | None) -> bool:
    """Whether the scaling cannot be computed without ``max_position_embeddings``."""
    return bound_by_context(scaling) or (_from_original(scaling) and scaling.get(ORIGINAL) is None)


def with_original(scaling: Mapping[str, Any] | None, *lengths: int | None) -> Scaling | None:
    """The scaling, and in it the length trained with where it is computed from it: the first there is, if not its own.

    Without one, transformers 5 (``RotaryEmbeddingConfigMixin.standardize_rope_params``) and SGLang
    (``layers/rotary_embedding/factory.py``) take the context. Once named, it no longer changes with the context.
    """
    known = next((length for length in lengths if length is not None), None)
    if _from_original(scaling) and scaling.get(ORIGINAL) is None and known is not None:
        return {**scaling, ORIGINAL: known}
    return None if scaling is None else dict(scaling)


def _from_original(scaling: Mapping[str, Any] | None) -> TypeGuard[Mapping[str, Any]]:
    return scaling is not None and scaling.get("rope_type") in _FROM_ORIGINAL


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
