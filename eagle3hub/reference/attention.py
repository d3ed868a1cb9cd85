"""The two memories of a draft head's attention: of one growing draft, and of drafts at all positions of a text.

Keys and values of a draft position computed from the target's own aux states are the same whichever draft looks at
them; only what a draft appends to itself is its own. `Memory` keeps one sequence and forgets what verification
rejected. `Everywhere` keeps what all positions share once, and each draft's own few entries beside it, so that all
positions of many texts draft at the same time, as in training-time test.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

_CHUNK = 1 << 24
"""Attention scores held at a time, in elements: 64 MiB in float32, of which some copies are alive at once."""


@dataclass(slots=True)
class Memory:
    """Keys and values of one draft, position by position: [length, kv heads, head_dim] per layer.

    ``windows[layer]`` limits how far back a layer sees, in positions, itself included; None is without limit.
    """

    windows: tuple[int | None, ...]
    keys: dict[int, torch.Tensor] = field(default_factory=dict)
    values: dict[int, torch.Tensor] = field(default_factory=dict)

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Append n positions, and let each see everything up to itself. All arguments [n, heads, head_dim]."""
        if layer in self.keys:
            k, v = torch.cat([self.keys[layer], k]), torch.cat([self.values[layer], v])
        self.keys[layer], self.values[layer] = k, v
        q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
        return _causal(q, k, v, self.windows[layer])[0].transpose(0, 1)

    def forget(self, length: int) -> None:
        """Keep the first ``length`` positions."""
        for layer in self.keys:
            self.keys[layer] = self.keys[layer][:length]
            self.values[layer] = self.values[layer][:length]


class Everywhere:
    """Drafts that begin at chosen positions of B texts, all at once.

    First `shared` is the memory of one pass over every position [B, T]. Then, with ``starts`` [B, Q] (positions, with
    padding anywhere that is computed and thrown away), each `attend` appends one entry to every draft: a draft that
    began at position i sees what is shared up to i, and its own entries. `keep` drops drafts.
    """

    def __init__(self, windows: tuple[int | None, ...]) -> None:
        self._windows = windows
        self._shared: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # [B, kv, T, d]
        self._own: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # [B, Q, s, kv, d]
        self._starts: torch.Tensor | None = None

    def shared(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Causal attention of every position [B, T, heads, head_dim]; what it keeps is what all drafts share."""
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        self._shared[layer] = k, v
        return _causal(q, k, v, self._windows[layer]).transpose(1, 2)

    def begin(self, starts: torch.Tensor) -> None:
        """Begin a draft at each of ``starts``, int64 [B, Q]."""
        self._starts = starts
        self._own.clear()

    def keep(self, chosen: torch.Tensor) -> None:
        """Keep of each text the drafts at ``chosen``, int64 [B, Q'], indices into the present ones."""
        assert self._starts is not None
        self._starts = self._starts.gather(1, chosen)
        for layer, (k, v) in self._own.items():
            index = chosen[:, :, None, None, None].expand(-1, -1, *k.shape[2:])
            self._own[layer] = k.gather(1, index), v.gather(1, index)

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """One more entry of every draft: arguments [B, Q, heads, head_dim]."""
        assert self._starts is not None
        k, v = k.unsqueeze(2), v.unsqueeze(2)
        if layer in self._own:
            k, v = torch.cat([self._own[layer][0], k], dim=2), torch.cat([self._own[layer][1], v], dim=2)
        self._own[layer] = k, v
        texts, drafts, heads, _ = q.shape
        step = max(1, _CHUNK // (texts * heads * self._shared[layer][0].shape[2]))
        parts = [self._mix(layer, q[:, i : i + step], slice(i, i + step)) for i in range(0, drafts, step)]
        return torch.cat(parts, dim=1)

    def _mix(self, layer: int, q: torch.Tensor, part: slice) -> torch.Tensor:
        """Softmax over the shared and the own entries together, for the drafts in ``part``."""
        assert self._starts is not None
        shared_k, shared_v = self._shared[layer]
        own_k, own_v = (x[:, part] for x in self._own[layer])
        starts, window = self._starts[:, part], self._windows[layer]
        texts, drafts, heads, size = q.shape
        kv_heads, length, own = shared_k.shape[1], shared_k.shape[2], own_k.shape[2]
        q = q.reshape(texts, drafts, kv_heads, heads // kv_heads, size) * size**-0.5

        far = q.permute(0, 2, 3, 1, 4).flatten(2, 3) @ shared_k.transpose(-1, -2)  # [B, kv, group * Q, T]
        far = far.view(texts, kv_heads, -1, drafts, length)
        near = torch.einsum("bqkgd,bqskd->bkgqs", q, own_k)
        at = torch.arange(length, device=q.device)
        hidden = at > starts[..., None]  # [B, Q, T]
        if window is not None:
            here = starts[..., None] + own  # the position of this draft's newest entry
            hidden = hidden | (here - at >= window)
            age = own - 1 - torch.arange(own, device=q.device)
            near = near.masked_fill(age >= window, float("-inf"))
        far = far.masked_fill_(hidden[:, None, None], float("-inf"))
        weights = torch.cat([far, near], dim=-1).float().softmax(-1).to(q.dtype)
        from_shared, from_own = weights[..., :length], weights[..., length:]
        mixed = (from_shared.flatten(2, 3) @ shared_v).view(texts, kv_heads, -1, drafts, size)
        mixed = mixed + torch.einsum("bkgqs,bqskd->bkgqd", from_own, own_v)
        return mixed.permute(0, 3, 1, 2, 4).flatten(2, 3)


def _causal(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int | None) -> torch.Tensor:
    """Attention [B, heads, n, d] of the last n of the positions in ``k``; in parts, lest scores fill the memory."""
    texts, heads, new, _ = q.shape
    length = k.shape[2]
    step = max(1, _CHUNK // (texts * heads * length))
    parts = []
    for begin in range(length - new, length, step):
        end = min(begin + step, length)
        at, key = (torch.arange(*ends, device=q.device) for ends in ((begin, end), (0, end)))
        seen = key <= at[:, None]
        if window is not None:
            seen = seen & (at[:, None] - key < window)
        here = q[:, :, begin - (length - new) : end - (length - new)]
        parts.append(
            F.scaled_dot_product_attention(here, k[:, :, :end], v[:, :, :end], attn_mask=seen, enable_gqa=True)
        )
    return torch.cat(parts, dim=2)
