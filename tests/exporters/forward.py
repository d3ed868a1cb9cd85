"""What a draft head computes, in plain torch, from what our codecs say of it: `Head` in, logits out.

Written to be held against the exporters' own logits; it shares no code with them and none with the package's codecs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from eagle3hub.checkpoint.folder import read_tensor
from eagle3hub.head import Head, Semantics

DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}


def weights(head: Head) -> dict[str, torch.Tensor]:
    """Every float tensor of a head, by canonical name, in float32."""
    out = {}
    for name, ref in head.tensors.items():
        raw = torch.frombuffer(bytearray(read_tensor(ref)), dtype=DTYPES[ref.dtype])
        out[name] = raw.reshape(ref.shape).float()
    return out


@dataclass
class Draft:
    """A head ready to run. ``double_norm`` applies input_layernorm to the hidden state as well, as ModelOpt trains."""

    head: Head
    semantics: Semantics
    double_norm: bool = False

    def __post_init__(self) -> None:
        self.w = weights(self.head)

    def __call__(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """First-step logits [B, T, draft vocabulary] and the hidden state [B, T, H] that the next step receives."""
        s = self.semantics
        embeds = F.embedding(batch["token_ids"], self.w.get("embed_tokens.weight", batch["embed_tokens"]))
        hidden = self.project(batch["aux_hidden_states"])
        for i in range(s.num_layers):
            hidden = self.layer(i, hidden, embeds)
        normed = self.norm("norm", hidden)
        feedback = normed if s.feedback == "post_norm" else hidden
        return normed @ self.w["lm_head.weight"].T, feedback

    def project(self, aux: torch.Tensor) -> torch.Tensor:
        s = self.semantics
        if not s.uses_aux:
            return aux
        if s.norm_before_fc:
            aux = self.norm("input_norm", aux)
        if s.fc_norm:
            blocks = aux.split(self.head.dims.target_hidden_size, dim=-1)
            aux = torch.cat([self.norm(f"fc_norm.{j}", block) for j, block in enumerate(blocks)], dim=-1)
        return self.linear("fc", aux)

    def layer(self, i: int, hidden: torch.Tensor, embeds: torch.Tensor) -> torch.Tensor:
        s, at = self.semantics, f"layers.{i}."
        residual = hidden
        if i == 0 and s.uses_aux:
            inner = self.norm(at + "input_layernorm", hidden) if self.double_norm else hidden
            normed = self.norm(at + "hidden_norm", inner)
            if s.norm_before_residual:
                residual = normed
            x = torch.cat([self.norm(at + "input_layernorm", embeds), normed], dim=-1)
        else:
            x = self.norm(at + "input_layernorm", hidden)
        hidden = residual + self.attention(i, x)
        x = self.norm(at + "post_attention_layernorm", hidden)
        x = F.silu(self.linear(at + "mlp.gate_proj", x)) * self.linear(at + "mlp.up_proj", x)
        return hidden + self.linear(at + "mlp.down_proj", x)

    def attention(self, i: int, x: torch.Tensor) -> torch.Tensor:
        s, d, at = self.semantics, self.head.dims, f"layers.{i}.self_attn."
        size, length, _ = x.shape
        q, k, v = (
            self.linear(f"{at}{which}_proj", x).view(size, length, -1, d.head_dim).transpose(1, 2) for which in "qkv"
        )
        if s.qk_norm:
            q, k = self.norm(at + "q_norm", q), self.norm(at + "k_norm", k)
        cos, sin = self.rotation(length)
        q, k = (y * cos + rotate_half(y) * sin for y in (q, k))
        groups = d.num_attention_heads // d.num_key_value_heads
        k, v = (y.repeat_interleave(groups, dim=1) for y in (k, v))
        distance = torch.arange(length)[:, None] - torch.arange(length)[None, :]
        seen = distance >= 0
        if i in self.sliding_layers():
            seen &= distance < s.sliding_window
        scores = (q @ k.transpose(-1, -2) / d.head_dim**0.5).masked_fill(~seen, float("-inf"))
        out = scores.softmax(-1) @ v
        return self.linear(at + "o_proj", out.transpose(1, 2).reshape(size, length, -1))

    def sliding_layers(self) -> tuple[int, ...]:
        if self.semantics.sliding_window is None:
            return ()
        return tuple(getattr(self.semantics, "sliding_layers", range(self.semantics.num_layers)))

    def rotation(self, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosine and sine tables [T, head_dim]; scaled kinds come from transformers."""
        rope, dim = self.semantics.rope, self.head.dims.head_dim
        scale = 1.0
        inverse = 1.0 / rope.theta ** (torch.arange(0, dim, 2).float() / dim)
        if rope.scaling is not None:
            inverse, scale = scaled(rope.theta, dict(rope.scaling), dim, self.head.max_position_embeddings or 2048)
        angles = torch.outer(torch.arange(length).float(), inverse)
        table = torch.cat([angles, angles], dim=-1)
        return table.cos() * scale, table.sin() * scale

    def norm(self, name: str, x: torch.Tensor) -> torch.Tensor:
        eps = self.semantics.rms_norm_eps
        return self.w[f"{name}.weight"] * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)

    def linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.w[f"{name}.weight"], self.w.get(f"{name}.bias"))


def rotate_half(x: torch.Tensor) -> torch.Tensor:
    a, b = x.chunk(2, dim=-1)
    return torch.cat([-b, a], dim=-1)


def scaled(theta: float, scaling: dict[str, Any], dim: int, context: int) -> tuple[torch.Tensor, float]:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = LlamaConfig(
        head_dim=dim,
        hidden_size=dim,
        num_attention_heads=1,
        max_position_embeddings=context,
        rope_parameters={**scaling, "rope_theta": theta},
    )
    return ROPE_INIT_FUNCTIONS[scaling["rope_type"]](config, device=torch.device("cpu"))
