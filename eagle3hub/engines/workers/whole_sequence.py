"""Attention without a KV cache, for `probe_loop.draft`: over the whole sequence in every step. Needs torch only."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F


class Attention(torch.nn.Module):
    """Causal attention over the whole sequence, in place of an engine's paged one.

    ``value``: the length of a value, where it is another than that of queries and keys (``size``).
    """

    def __init__(
        self, heads: int, kv_heads: int, size: int, scale: float, window: int | None, value: int | None = None
    ) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.size, self.scale, self.window = heads, kv_heads, size, scale, window
        self.value = value or size

    def forward(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *_context: Any, **_options: Any
    ) -> torch.Tensor:
        """Attend over queries, keys and values [n, heads * size], as an engine hands them over."""
        q = q.view(1, -1, self.heads, self.size).transpose(1, 2)
        k = k.view(1, -1, self.kv_heads, self.size).transpose(1, 2)
        v = v.reshape(1, -1, self.kv_heads, self.value).transpose(1, 2)
        at = torch.arange(q.shape[2], device=q.device)
        seen = at[None, :] <= at[:, None]
        if self.window is not None:
            seen &= at[:, None] - at[None, :] < self.window
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=self.scale, enable_gqa=True)
        return out.transpose(1, 2).flatten(2)[0]


class Latent(torch.nn.Module):
    """The same for vLLM's MLA, which hands its kernel queries, the normed latent [n, rank] and the key's rotated part.

    ``paged``: the kernel it takes the place of. ``expand``: vLLM's kv_b_proj.
    """

    def __init__(self, paged: Any, expand: Any) -> None:
        super().__init__()
        self.scale, self.expand = paged.scale, expand
        self.plain, self.value = paged.qk_nope_head_dim, paged.v_head_dim

    def forward(self, q: torch.Tensor, latent: torch.Tensor, turned: torch.Tensor, **_options: Any) -> torch.Tensor:
        """Attend over queries [n, heads, size], the latent [n, rank] and the key's rotated part [n, 1, size]."""
        heads = q.shape[1]
        both = self.expand(latent)[0].view(-1, heads, self.plain + self.value)
        k, v = both.split([self.plain, self.value], dim=-1)
        k = torch.cat([k, turned.expand(-1, heads, -1)], dim=-1)
        q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.scale)
        return out[0].transpose(0, 1).flatten(1)
