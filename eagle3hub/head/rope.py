"""Rotary position embedding (RoPE): its types, what each needs, and how a config states it.

A config states RoPE in ``rope_theta`` with ``rope_scaling``, in transformers 5's ``rope_parameters``, or in both; the
base may lie at top level or inside. Everything that reads or writes RoPE uses this module: codecs, the reference,
the engines' preflight. Executed with vLLM 0.32 and SGLang 0.5, both on transformers 5.19.0; transformers 4.57.1
read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeGuard

Scaling = dict[str, Any]
ORIGINAL = "original_max_position_embeddings"
"""The length in tokens that a model was trained with, before its RoPE was scaled."""
ROPE_THETA = 10000.0
"""The base where a config states none: transformers' default, which every engine takes."""
PARTIAL = "partial_rotary_factor"
"""The part of each attention head that is rotated."""
OTHER_PARTIALS = ("rotary_pct", "rotary_emb_fraction")
"""Names for it at top level that vLLM also takes, the first one first (0.32 ``transformers_utils/config.py:629``)."""


@dataclass(frozen=True, slots=True)
class RopeType:
    """One ``rope_type``, as transformers knows it.

    Attributes:
        needs: keys without which transformers, and so vLLM and SGLang, stop with a KeyError.
        from_original: whether it is computed from `ORIGINAL`; where a config names none, engines take the context.
        follows_context: whether it changes with ``max_position_embeddings`` even where `ORIGINAL` is named.
    """

    needs: tuple[str, ...] = ()
    from_original: bool = False
    follows_context: bool = False


ROPE_TYPES: Mapping[str, RopeType] = {
    "default": RopeType(),
    "linear": RopeType(("factor",)),
    "dynamic": RopeType(("factor",), follows_context=True),
    "yarn": RopeType(("factor",), from_original=True),
    "llama3": RopeType(("factor", "low_freq_factor", "high_freq_factor"), from_original=True),
    "longrope": RopeType(("short_factor", "long_factor"), from_original=True, follows_context=True),
    "proportional": RopeType(),
}
"""transformers 5.19 ``modeling_rope_utils.py`` (``_validate_*_rope_parameters``)."""
ALIASES: Mapping[str, str] = {"su": "longrope", "mrope": "default"}
"""Older names of types (vLLM 0.32 ``transformers_utils/config.py``, ``patch_legacy_rope_type``)."""
POSITIVE = (
    "factor",
    "low_freq_factor",
    "high_freq_factor",
    "attention_factor",
    "beta_fast",
    "beta_slow",
    ORIGINAL,
    PARTIAL,
)
"""Keys of a scaling whose value is a number above zero, where there is one."""
_SECTION = "mrope_section"
_OF_DEFAULT = (_SECTION, "mrope_interleaved", PARTIAL)
"""Keys that change a rotation of type ``default``; it ignores all others."""


def type_of(stated: Mapping[str, object]) -> str:
    """The type that a ``rope_scaling`` or ``rope_parameters`` names: ``rope_type``, ``type`` or ``default``."""
    kind = stated.get("rope_type", stated.get("type"))
    return kind if isinstance(kind, str) else "default"


def untyped(stated: Mapping[str, object]) -> bool:
    """Whether it states a factor to scale by, and no type that would say how."""
    return stated.get("factor") is not None and "type" not in stated and "rope_type" not in stated


def lacking(stated: Mapping[str, object]) -> tuple[str, ...]:
    """The keys that its type needs and that it does not state (a null is no value); `ORIGINAL` is never among them."""
    kind = type_of(stated)
    needs = ROPE_TYPES.get(ALIASES.get(kind, kind), RopeType()).needs
    return tuple(key for key in ((_SECTION,) if kind == "mrope" else needs) if stated.get(key) is None)


def plain_scaling(stated: Mapping[str, object]) -> Scaling | None:
    """The scaling parameters under today's names of keys and types, or None for plain RoPE."""
    kind = type_of(stated)
    kind = ALIASES.get(kind, kind)
    rest = {k: v for k, v in stated.items() if k not in ("type", "rope_type", "rope_theta")}
    if rest.get(PARTIAL) in (None, 1.0):
        rest.pop(PARTIAL, None)
    if kind == "default":
        rest = {k: v for k, v in rest.items() if k in _OF_DEFAULT}
    return {"rope_type": kind, **rest} if rest or kind != "default" else None


def of_whole_heads(stated: Mapping[str, object]) -> Scaling | None:
    """`plain_scaling` without `PARTIAL`: every trainer of EAGLE-3 heads rotates whole attention heads."""
    return plain_scaling({k: v for k, v in stated.items() if k != PARTIAL})


def by_layer_type(stated: Mapping[str, object]) -> bool:
    """Whether it has an object for each kind of layer (``full_attention``, ``sliding_attention``)."""
    return any(isinstance(value, dict) for value in stated.values())


def bound_by_context(scaling: Mapping[str, object] | None) -> bool:
    """Whether the scaling depends on ``max_position_embeddings``, so that it must not be changed."""
    return scaling is not None and ROPE_TYPES.get(type_of(scaling), RopeType()).follows_context


def needs_context(scaling: Mapping[str, object] | None) -> bool:
    """Whether the scaling cannot be computed without ``max_position_embeddings``."""
    return bound_by_context(scaling) or (from_original(scaling) and scaling.get(ORIGINAL) is None)


def from_original(scaling: Mapping[str, object] | None) -> TypeGuard[Mapping[str, object]]:
    """Whether the scaling is computed from `ORIGINAL`."""
    return scaling is not None and ROPE_TYPES.get(type_of(scaling), RopeType()).from_original


def with_original(scaling: Mapping[str, object] | None, *lengths: int | None) -> Scaling | None:
    """The scaling; if it is computed from the trained length, with a length in it (the first of ``lengths`` there is).

    Without one, transformers 5 (``RotaryEmbeddingConfigMixin.standardize_rope_params``) and SGLang
    (``layers/rotary_embedding/factory.py``) take the context. Once named, it no longer changes with the context.
    """
    known = next((length for length in lengths if length is not None), None)
    if from_original(scaling) and scaling.get(ORIGINAL) is None and known is not None:
        return {**scaling, ORIGINAL: known}
    return None if scaling is None else dict(scaling)


def unscaled(parameters: Mapping[str, object]) -> dict[str, object]:
    """``rope_parameters`` without the scaling."""
    return {k: v for k, v in parameters.items() if k == "rope_theta"}


def in_words(theta: float, scaling: Mapping[str, object] | None) -> str:
    """Base and scaling in the middle of a sentence: ``base 500000, yarn, factor 8``."""
    return f"base {theta:.15g}" if not scaling else f"base {theta:.15g}, {scaling_in_words(scaling)}"


def beside_in_words(
    theta: float, scaling: Mapping[str, object] | None, theta_of_target: float, scaling_of_target: Scaling | None
) -> str:
    """The RoPE of a head beside its target's, after "has": where one scales, the other is said not to."""
    if not scaling and not scaling_of_target:
        return f"{in_words(theta, None)}, its target's {in_words(theta_of_target, None)}"
    both = ((theta, scaling), (theta_of_target, scaling_of_target))
    return "; its target's ".join(in_words(t, s) + ("" if s else ", no scaling") for t, s in both)


def scaling_in_words(scaling: Mapping[str, object]) -> str:
    """Scaling in the middle of a sentence: ``yarn, factor 8``; a list as its length: ``short_factor[48]``."""
    facts = [
        f"{key}[{len(value)}]" if isinstance(value, list) else f"{key} {value:.15g}"
        for key, value in scaling.items()
        if isinstance(value, list) or type(value) in (int, float)
    ]
    return ", ".join([type_of(scaling), *facts])


# How a program reads RoPE from a config.


Reader = Literal["standard", "top_level"]
"""``standard``: as transformers 5 does, before vLLM, SGLang and llama.cpp's converter read. ``top_level``: as
transformers 4 does: ``rope_theta`` and ``rope_scaling``, with no base inside, and no ``rope_parameters``."""
Place = Literal["top_level", "inside", "other_name"]


@dataclass(frozen=True, slots=True)
class StatedRope:
    """RoPE as a program reads it from a config.

    Attributes:
        theta: the base, `ROPE_THETA` where none is stated; None for a null in its place.
        kind: the type as it is named there (``su``), or None where no object states one.
        scaling: its parameters under today's names, without `PARTIAL`.
        lacks: keys that the type needs and that are missing.
        by_layer: whether the fields differ by kind of layer, which no draft class reads.
        partial: the part of each attention head to rotate, by the place that says so.
    """

    theta: float | None
    kind: str | None
    scaling: Scaling | None
    lacks: tuple[str, ...]
    by_layer: bool
    partial: Mapping[Place, float]


def read_rope(
    fields: Mapping[str, object],
    reader: Reader = "standard",
    *,
    context: int | None = None,
    original: int | None = None,
) -> StatedRope:
    """RoPE as a program of this kind reads it from the fields of a flat config.

    In transformers 5 (``convert_rope_params_to_dict``), a ``rope_scaling`` that is not empty replaces
    ``rope_parameters``, the base inside it outweighs the one at top level, `ORIGINAL` at top level the one inside.

    Args:
        context: taken for `ORIGINAL` where no key states one. original: taken instead of the context.
    """
    scaling, parameters = fields.get("rope_scaling"), fields.get("rope_parameters")
    found = scaling if isinstance(scaling, dict) and scaling else None
    if found is None and reader == "standard":
        found = parameters if isinstance(parameters, dict) else None
    found = found or {}
    at_top = fields.get("rope_theta", ROPE_THETA)
    theta = found.get("rope_theta", at_top) if reader == "standard" else at_top
    own = of_whole_heads(found)
    trained = next((v for v in (fields.get(ORIGINAL), found.get(ORIGINAL), original, context) if type(v) is int), None)
    if from_original(own) and trained is not None:
        own = {**own, ORIGINAL: trained}
    partial: dict[Place, float] = {}
    other = next((name for name in OTHER_PARTIALS if fields.get(name) is not None), PARTIAL)
    places: tuple[tuple[Place, Any], ...] = (
        ("top_level", fields.get(PARTIAL)),
        ("inside", found.get(PARTIAL)),
        ("other_name", fields.get(other)),
    )
    for place, value in places:
        if isinstance(value, int | float) and not isinstance(value, bool) and value != 1:
            partial[place] = float(value)
    lacks = lacking(found)
    if reader == "top_level" and found:  # transformers 4 checks rope_scaling alone, as it stands
        needs = [key for key in ("rope_type",) if not {"type", "rope_type"} & found.keys()]
        lacks = (*needs, *lacks, *((ORIGINAL,) if type_of(found) == "llama3" and ORIGINAL not in found else ()))
    return StatedRope(
        theta=None if theta is None else float(theta) if isinstance(theta, (int, float)) else ROPE_THETA,
        kind=type_of(found) if found else None,
        scaling=own,
        lacks=lacks,
        by_layer=by_layer_type(found),
        partial=partial,
    )


def settled_base(fields: Mapping[str, object], theta: float) -> dict[str, object]:
    """The fields with one base in every place; where they differ by kind of layer, with it alone and no scaling."""
    out = dict(fields) | {"rope_theta": theta}
    for key in ("rope_scaling", "rope_parameters"):
        stated = out.get(key)
        if not isinstance(stated, dict) or not stated:
            continue
        if by_layer_type(stated):
            del out[key]
        elif "rope_theta" in stated:
            out[key] = {**stated, "rope_theta": theta}
    return out
