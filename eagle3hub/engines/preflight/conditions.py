"""What a verdict rests on beside the files: assumptions about the training, and errors that reading found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from eagle3hub.head import Assumption
from eagle3hub.head.aux_defaults import AUX_IDS

_NO_MATTER = frozenset({"num_target_layers", "speculators_config.verifier.name_or_path"})
"""Assumptions about what to write into a config, which change nothing that an engine computes."""


def _layers(value: Any) -> str:
    if not isinstance(value, list | tuple):
        return "trained on the default layers of its target, whose depth is not known"
    return f"trained on layers {', '.join(str(i + 1) for i in value)}"


def _with(name: str) -> Callable[[Any], str]:
    return lambda value: f"trained {'with' if value else 'without'} {name}"


_CONDITIONS: dict[str, Callable[[Any], str]] = {
    "aux": _layers,
    AUX_IDS: _layers,
    "rope_theta": lambda value: f"trained with RoPE base {value:g}" if isinstance(value, int | float) else "",
    "rope_scaling": _with("RoPE scaling"),
    "feedback": lambda value: f"trained with {str(value).replace('_', '-')} feedback",
    "norm_before_residual": _with("norm_before_residual"),
    "norm_before_fc": _with("norm_before_fc"),
    "fc_norm": _with("fc_norm"),
    "mask_token_id": lambda value: f"trained with mask token {value}",
    "max_position_embeddings": lambda value: f"trained with a context of {value} tokens",
    "embed_tokens": lambda value: f"trained with {value} embeddings",
}
"""By field, what must hold of the training; layers are boundary ids, as in every sentence about aux layers."""

_SHOWN_BY: dict[str, tuple[str, ...]] = {
    "aux": ("aux-",),
    AUX_IDS: ("aux-",),
    "rope_theta": ("rope-theta",),
    "rope_scaling": ("rope-scaling",),
    "max_position_embeddings": ("rope-scaling",),
    "feedback": ("feedback",),
    "norm_before_residual": ("norm-before-residual",),
    "norm_before_fc": ("norm-before-fc",),
    "fc_norm": ("fc-norm",),
    "embed_tokens": ("embedding-",),
}
"""By field, the beginnings of the codes of findings that compare an engine with it."""


def doubts(assumptions: Sequence[Assumption]) -> tuple[Assumption, ...]:
    """The assumptions that a verdict depends on: doubtful ones about what the head was trained to compute."""
    return tuple(a for a in assumptions if a.doubtful and a.field not in _NO_MATTER)


def condition(assumption: Assumption) -> str:
    """What must hold for an assumption to be true, to follow "right if", such as ``trained on layers 2, 40, 77``."""
    told = _CONDITIONS.get(assumption.field)
    return (told(assumption.value) if told else "") or f"{assumption.field} is {assumption.value}"


def shown_by(assumption: Assumption, code: str) -> bool:
    """Whether a finding of this code compares the engine with what was assumed."""
    return code.startswith(_SHOWN_BY.get(assumption.field, ("?",)))
