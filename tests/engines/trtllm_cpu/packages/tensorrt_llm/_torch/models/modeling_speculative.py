"""The draft model: the engine's names of modules and parameters, and what they compute, with plain attention."""

from __future__ import annotations

import re
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

FUSED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}


class Linear(nn.Module):
    """A linear map, perhaps of several fused ones."""

    def __init__(self, inputs: int, outputs: int, bias: bool, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs, dtype=dtype), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(outputs, dtype=dtype), requires_grad=False) if bias else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight, self.bias)


class RMSNorm(nn.Module):
    """Norm, after adding the residual if one is given; then it returns both."""

    def __init__(self, size: int, eps: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.empty(size, dtype=dtype), requires_grad=False), eps

    def forward(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> Any:
        total = x if residual is None else x + residual
        normed = F.rms_norm(total.float(), total.shape[-1:], self.weight.float(), self.eps).to(total.dtype)
        return normed if residual is None else (normed, total)


class Eagle3Attention(nn.Module):
    def __init__(self, config: Any, width: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.size = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        bias = bool(getattr(config, "attention_bias", False))
        rows = (self.heads + 2 * self.kv_heads) * self.size
        self.qkv_proj = Linear(width, rows, bias, dtype)
        self.o_proj = Linear(self.heads * self.size, config.hidden_size, bias, dtype)
        self.rotary_emb = LlamaRotaryEmbedding(config)

    def forward(self, position_ids: torch.Tensor, hidden_states: torch.Tensor, attn_metadata: Any, layer: int) -> Any:
        parts = [self.heads * self.size, self.kv_heads * self.size, self.kv_heads * self.size]
        q, k, v = (
            part.view(1, len(hidden_states), -1, self.size).transpose(1, 2)
            for part in self.qkv_proj(hidden_states).split(parts, -1)
        )
        q, k = apply_rotary_pos_emb(q, k, *self.rotary_emb(hidden_states, position_ids.view(1, -1)))
        k, v = attn_metadata.extend(layer, k, v)
        seen = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril(k.shape[2] - q.shape[2])
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=True)
        return self.o_proj(out.transpose(1, 2).flatten(2)[0])


class GatedMLP(nn.Module):
    def __init__(self, config: Any, dtype: torch.dtype) -> None:
        super().__init__()
        bias = bool(getattr(config, "mlp_bias", False))
        self.gate_up_proj = Linear(config.hidden_size, 2 * config.intermediate_size, bias, dtype)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size, bias, dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate, up = self.gate_up_proj(x).chunk(2, -1)
        return self.down_proj(F.silu(gate) * up)


class Eagle3DecoderLayer(nn.Module):
    def __init__(self, config: Any, layer: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.layer, self.regular = layer, layer > 0
        width = config.hidden_size * (1 if self.regular else 2)
        self.self_attn = Eagle3Attention(config, width, dtype)
        self.mlp = GatedMLP(config, dtype)
        if not self.regular:
            self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps, dtype)
        self.hidden_norm = RMSNorm(config.hidden_size, config.rms_norm_eps, dtype)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps, dtype)

    def forward(
        self, position_ids: torch.Tensor, embeds: torch.Tensor, hidden: torch.Tensor, attn_metadata: Any
    ) -> Any:
        residual, hidden = hidden, self.hidden_norm(hidden)
        if not self.regular:
            hidden = torch.cat([self.input_layernorm(embeds), hidden], dim=-1)
        hidden = self.self_attn(position_ids, hidden, attn_metadata, self.layer)
        hidden, residual = self.post_attention_layernorm(hidden, residual)
        return self.mlp(hidden), residual


class Eagle3DraftModel(nn.Module):
    def __init__(self, config: Any, spec_config: Any, new: bool) -> None:
        super().__init__()
        eagle = getattr(config, "eagle_config", None) or {}
        self.dtype = config.dtype or torch.bfloat16
        self.hidden_size, self.num_layers, self.d2t = config.hidden_size, config.num_hidden_layers, None
        width, taps = getattr(config, "target_hidden_size", config.hidden_size), spec_config.num_capture_layers
        post = eagle.get("return_hidden_post_norm", False) or (new and getattr(config, "norm_output", False))
        self._return_hidden_post_norm = post
        self._norm_before_fc = new and eagle.get("norm_before_fc", False)
        norms = [RMSNorm(width, config.rms_norm_eps, self.dtype) for _ in range(taps)]
        self.fc_norm = nn.ModuleList(norms) if new and getattr(config, "fc_norm", False) else None
        if taps > 1:
            self.fc = Linear(width * taps, config.hidden_size, bool(getattr(config, "bias", False)), self.dtype)
        if self._norm_before_fc:
            self.input_norm = RMSNorm(width * taps, config.rms_norm_eps, self.dtype)
        layers = [Eagle3DecoderLayer(config, i, self.dtype) for i in range(self.num_layers)]
        self.midlayer = nn.ModuleList(layers) if self.num_layers > 1 else layers[0]
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps, self.dtype)
        if config.draft_vocab_size != config.vocab_size:
            del self.d2t
            self.d2t = nn.Parameter(torch.empty(config.draft_vocab_size, dtype=torch.int32), requires_grad=False)
        self.embed_tokens = None
        if width != config.hidden_size:
            self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, dtype=self.dtype)

    def forward(
        self,
        attn_metadata: Any,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        hidden_states: torch.Tensor,
        spec_metadata: Any = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        embeds = self.embed_tokens(input_ids).to(self.dtype)
        residual = None
        for layer in self.midlayer if self.num_layers > 1 else [self.midlayer]:
            hidden_states = hidden_states if residual is None else hidden_states + residual
            hidden_states, residual = layer(position_ids, embeds, hidden_states, attn_metadata)
        normed, carried = self.norm(hidden_states, residual)
        return normed, normed if self._return_hidden_post_norm else carried


class LogitsProcessor(nn.Module):
    def forward(
        self, hidden_states: torch.Tensor, lm_head: nn.Module, attn_metadata: Any, return_context_logits: bool = False
    ) -> torch.Tensor:
        return lm_head(hidden_states if return_context_logits else hidden_states[-1:]).float()


class Eagle3ForCausalLM(nn.Module):
    """``lenient``: load and read flags as the candidates of 1.3 do, else as 1.2.1 does."""

    def __init__(self, config: Any, spec_config: Any, lenient: bool) -> None:
        super().__init__()
        if getattr(config, "draft_vocab_size", None) is None:
            config.draft_vocab_size = config.vocab_size
        self.model = Eagle3DraftModel(config, spec_config, lenient)
        self.lm_head = Linear(config.hidden_size, config.draft_vocab_size, False, self.model.dtype)
        self.logits_processor = LogitsProcessor()
        self.load_lm_head_from_target, self._lenient = True, lenient
        self._tied = bool(getattr(config, "tie_word_embeddings", False))

    def load_weights(self, weights: dict[str, torch.Tensor], weight_mapper: Any) -> None:
        if self._lenient:
            new = "midlayer." if self.model.num_layers == 1 else r"midlayer.\1."
            weights = {re.sub(r"^layers\.(\d+)\.", new, name): value for name, value in weights.items()}
        self.load_lm_head_from_target = not any("lm_head" in name for name in weights)
        weights = {name if "lm_head" in name else f"model.{name}": value for name, value in weights.items()}
        for name, module in self.named_modules():
            own = dict(module.named_parameters(recurse=False))
            if not own or (name == "lm_head" and (self.load_lm_head_from_target or self._tied)):
                continue
            parts = FUSED.get(name.rpartition(".")[2])
            for part, parameter in own.items():
                path = f"{name}.{part}" if name else part
                if parts:
                    pieces = [weights[path.replace(name.rpartition(".")[2], one)] for one in parts]
                    parameter.data.copy_(torch.cat([piece.to(parameter.dtype) for piece in pieces]))
                elif path in weights:
                    parameter.data.copy_(weights[path])
                elif not self._lenient:
                    raise KeyError(part)

    def load_weights_from_target_model(self, target: Any) -> None:
        if self.model.embed_tokens is None:
            self.model.embed_tokens = target.get_input_embeddings()
        if self.load_lm_head_from_target:
            self.lm_head = target.get_output_embeddings()

    def apply_eagle3_fc(self, hidden_states: torch.Tensor) -> torch.Tensor:
        hidden_states = hidden_states.to(self.model.dtype)
        if hidden_states.shape[-1] == self.model.hidden_size:
            return hidden_states
        if self.model.fc_norm is not None:
            chunks = hidden_states.chunk(len(self.model.fc_norm), dim=-1)
            hidden_states = torch.cat([norm(x) for norm, x in zip(self.model.fc_norm, chunks, strict=True)], dim=-1)
        elif self.model._norm_before_fc:
            hidden_states = self.model.input_norm(hidden_states)
        return self.model.fc(hidden_states)
