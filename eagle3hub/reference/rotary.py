"""Rotary position embedding of a draft head: plain, partial, and the scaled kinds of transformers."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch

from eagle3hub.errors import Refusal

if TYPE_CHECKING:
    from eagle3hub.head import Rope

_DEPENDS_ON_LENGTH = ("dynamic", "longrope")


def rotary_table(
    rope: Rope, head_dim: int, positions: torch.Tensor, context: int | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines, float32 [..., 1, rotated dimensions], for positions [...] (int64).

    ``context`` is the head's ``max_position_embeddings``, which some scaled kinds need. Raises Refusal
    (``reference-rope``) for a kind whose angles depend on the length of the text, or that transformers does not know.
    """
    scaling = tuple(sorted((k, _frozen(v)) for k, v in rope.scaling.items())) if rope.scaling else ()
    inverse, scale = _frequencies(rope.theta, scaling, head_dim, context)
    angles = positions[..., None, None].float() * inverse.to(positions.device)
    table = torch.cat([angles, angles], dim=-1)
    return table.cos() * scale, table.sin() * scale


def rotate(x: torch.Tensor, table: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Rotate [..., heads, head_dim] by a table: half-split pairs (i, i + n/2) of the first n dimensions."""
    cos, sin = (part.to(x.dtype) for part in table)
    turned, rest = x.split([cos.shape[-1], x.shape[-1] - cos.shape[-1]], dim=-1)
    a, b = turned.chunk(2, dim=-1)
    return torch.cat([turned * cos + torch.cat([-b, a], dim=-1) * sin, rest], dim=-1)


@lru_cache(maxsize=64)
def _frequencies(
    theta: float, scaling: tuple[tuple[str, Any], ...], head_dim: int, context: int | None
) -> tuple[torch.Tensor, float]:
    parameters = {k: list(v) if isinstance(v, tuple) else v for k, v in scaling}
    kind = str(parameters.get("rope_type", "default"))
    rotated = int(head_dim * float(parameters.get("partial_rotary_factor", 1.0)))
    if kind == "default":
        return 1.0 / theta ** (torch.arange(0, rotated, 2).float() / rotated), 1.0
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    if kind not in ROPE_INIT_FUNCTIONS or kind in _DEPENDS_ON_LENGTH:
        raise Refusal(
            f"the head's RoPE is of type {kind!r}, which the reference cannot compute",
            hint="types it knows: default, linear, llama3, yarn",
            code="reference-rope",
        )
    config = LlamaConfig(
        head_dim=head_dim,
        hidden_size=head_dim,
        num_attention_heads=1,
        max_position_embeddings=context or 2048,
        rope_parameters={**parameters, "rope_theta": theta},
    )
    inverse, scale = ROPE_INIT_FUNCTIONS[kind](config, device=torch.device("cpu"))
    return inverse, float(scale)


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
