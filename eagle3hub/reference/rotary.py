"""Rotary position embedding of a draft head: plain, partial, and the scaled kinds linear, llama3 and yarn.

A scaled kind changes the frequencies, and yarn the length of the rotated vectors too. Formulas and the keys' names
are those of transformers ``modeling_rope_utils.py``, which vLLM and SGLang follow.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch

from eagle3hub.errors import Refusal

if TYPE_CHECKING:
    from eagle3hub.head import Rope

Table = tuple[torch.Tensor, torch.Tensor]
"""Cosines and sines, float32 [..., 1, rotated dimensions / 2]: one of each for every position and frequency."""


def rotary_table(rope: Rope, head_dim: int, positions: torch.Tensor, context: int | None) -> Table:
    """The rotation at positions [...] (int64).

    ``context`` is the head's ``max_position_embeddings``, for scaled kinds that do not state the length trained with.
    Raises Refusal (``reference-rope``) for a kind the reference does not compute, or one with too few parameters.
    """
    scaling = tuple(sorted((k, v) for k, v in (rope.scaling or {}).items() if isinstance(v, (str, int, float))))
    inverse, length = _frequencies(rope.theta, scaling, head_dim, context)
    angles = positions[..., None, None].float() * inverse.to(positions.device)
    return angles.cos() * length, angles.sin() * length


def rotate(x: torch.Tensor, table: Table) -> torch.Tensor:
    """Rotate [..., heads, head_dim]: pairs (i, i + n/2) of the first n dimensions; the others stay as they are."""
    cos, sin = (part.to(x.dtype) for part in table)
    half = cos.shape[-1]
    a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], dim=-1)


@lru_cache(maxsize=64)
def _frequencies(
    theta: float, scaling: tuple[tuple[str, Any], ...], head_dim: int, context: int | None
) -> tuple[torch.Tensor, float]:
    """Radians per position, float32 [rotated dimensions / 2], and the factor on the length of rotated vectors."""
    given: dict[str, Any] = {**dict(scaling), "rope_theta": theta}
    kind = given.get("rope_type", "default")
    if kind not in _SCALED and kind != "default":
        raise Refusal(
            f"the head's RoPE is of type {kind!r}, which the reference cannot compute",
            hint=f"types it knows: default, {', '.join(_SCALED)}",
            code="reference-rope",
        )
    if kind in ("llama3", "yarn"):
        given.setdefault("original_max_position_embeddings", context)
    if kind == "yarn" and given.get("factor") is None and context is not None:
        given["factor"] = context / given["original_max_position_embeddings"]
    missing = [key for key in _NEEDS.get(kind, ()) if given.get(key) is None]
    if missing:
        raise Refusal(
            f"the head's RoPE is of type {kind!r} but its config does not say {' or '.join(missing)}",
            hint="add it to rope_scaling in the head's config.json, as trained",
            code="reference-rope",
        )
    rotated = int(head_dim * float(given.get("partial_rotary_factor", 1.0)))
    inverse = 1.0 / theta ** (torch.arange(0, rotated, 2).float() / rotated)
    return (inverse, 1.0) if kind == "default" else _SCALED[kind](inverse, given)


def _linear(inverse: torch.Tensor, given: dict[str, Any]) -> tuple[torch.Tensor, float]:
    return inverse / given["factor"], 1.0


def _llama3(inverse: torch.Tensor, given: dict[str, Any]) -> tuple[torch.Tensor, float]:
    """Slow down what turns less than ``low_freq_factor`` times within the trained length, blending to the others."""
    turns = given["original_max_position_embeddings"] * inverse / (2 * math.pi)
    low, high = given["low_freq_factor"], given["high_freq_factor"]
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return inverse * kept + inverse / given["factor"] * (1 - kept), 1.0


def _yarn(inverse: torch.Tensor, given: dict[str, Any]) -> tuple[torch.Tensor, float]:
    """Like llama3, with a blend that is linear in the index of the dimension (arXiv:2309.00071, section 3)."""
    factor, rotated = given["factor"], 2 * len(inverse)

    def index_that_turns(times: float) -> float:
        trained = given["original_max_position_embeddings"]
        return rotated * math.log(trained / (times * 2 * math.pi)) / (2 * math.log(given["rope_theta"]))

    low, high = index_that_turns(given.get("beta_fast") or 32), index_that_turns(given.get("beta_slow") or 1)
    if given.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rotated - 1)
    slowed = ((torch.arange(len(inverse)) - low) / max(high - low, 0.001)).clamp(0, 1)
    length = given.get("attention_factor")
    if length is None:
        some, every = given.get("mscale"), given.get("mscale_all_dim")
        length = _mscale(factor, some) / _mscale(factor, every) if some and every else _mscale(factor, 1)
    return inverse * (1 - slowed) + inverse / factor * slowed, float(length)


def _mscale(factor: float, weight: float) -> float:
    return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0


_SCALED = {"linear": _linear, "llama3": _llama3, "yarn": _yarn}
_NEEDS = {
    "linear": ("factor",),
    "llama3": ("factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor", "original_max_position_embeddings"),
}
