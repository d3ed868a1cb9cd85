"""A small target with an MTP layer of its own, trained within seconds to know what the target says.

It is a DeepSeek-V3 of random weights without experts. vLLM reads its MTP layer as that of DeepSeek's own checkpoints
(``deepseek_mtp.py``): the embedding of the next token and the target's final state, each normed, side by side through
``eh_proj``, one decoder layer, and a norm before the head. The sizes of its attention are those that vLLM's MLA on CPU
takes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, DeepseekV3Config, DeepseekV3ForCausalLM
from transformers.models.deepseek_v3.modeling_deepseek_v3 import (
    DeepseekV3DecoderLayer,
    DeepseekV3RMSNorm,
    DeepseekV3RotaryEmbedding,
)

from support.targets import VOCAB, save_tokenizer

HIDDEN, LAYERS = 256, 8


def save_target(folder: Path) -> Path:
    """A target without its MTP layer, which `train_mtp` adds."""
    torch.manual_seed(0)
    config = DeepseekV3Config(
        vocab_size=VOCAB,
        hidden_size=HIDDEN,
        intermediate_size=256,
        moe_intermediate_size=64,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=4,
        q_lora_rank=64,
        kv_lora_rank=512,
        qk_nope_head_dim=128,
        qk_rope_head_dim=64,
        v_head_dim=128,
        n_routed_experts=4,
        num_experts_per_tok=2,
        n_group=1,
        topk_group=1,
        first_k_dense_replace=LAYERS + 1,
        max_position_embeddings=512,
        # without a scaling vLLM calls its CPU kernel, ``_custom_ops.rotary_embedding``, with queries of three
        # dimensions, of which it rotates the first token's alone: texts then depend on a token's place in its batch
        rope_parameters={
            "rope_type": "yarn",
            "rope_theta": 10000.0,
            "factor": 2.0,
            "original_max_position_embeddings": 256,
            "beta_fast": 32,
            "beta_slow": 1,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
        },
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    model = DeepseekV3ForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.1)
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return folder


class Mtp(nn.Module):
    """The MTP layer; its parameters are named as in a checkpoint, without ``model.layers.N.``."""

    def __init__(self, config: DeepseekV3Config) -> None:
        super().__init__()
        self.enorm = DeepseekV3RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.hnorm = DeepseekV3RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.eh_proj = nn.Linear(2 * config.hidden_size, config.hidden_size, bias=False)
        self.block = DeepseekV3DecoderLayer(config, 0)
        self.norm = DeepseekV3RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(self, embedded: torch.Tensor, hidden: torch.Tensor, rotary: Any, mask: torch.Tensor) -> torch.Tensor:
        """The states from which the token after next is told: ``[texts, tokens, hidden]`` like its arguments."""
        both = torch.cat([self.enorm(embedded), self.hnorm(hidden)], -1)
        out = self.block(self.eh_proj(both), position_embeddings=rotary, attention_mask=mask)
        return self.norm(out[0] if isinstance(out, tuple) else out)

    def tensors(self, layer: int) -> dict[str, torch.Tensor]:
        """The parameters under their names in a checkpoint."""
        names = {"block.": "", "norm.": "shared_head.norm."}
        out = {}
        for name, value in self.state_dict().items():
            old = next((old for old in names if name.startswith(old)), None)
            new = name if old is None else names[old] + name.removeprefix(old)
            out[f"model.layers.{layer}.{new}"] = value.detach().contiguous()
        return out


def train_mtp(folder: Path, questions: Sequence[str], new: int, epochs: int = 25, rate: float = 0.006) -> float:
    """Add an MTP layer to the target that knows its answers to ``questions``; the share of tokens it then tells."""
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = []
    for question in questions:
        asked = [{"role": "user", "content": question}]
        ids = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=False, return_tensors="pt")
        texts.append(model.generate(ids, max_new_tokens=new, min_new_tokens=new, do_sample=False)[0])
    ids = torch.stack(texts)
    with torch.no_grad():
        hidden = model.model(ids).last_hidden_state
    embedded = model.model.embed_tokens(ids[:, 1:]).detach()
    count = ids.shape[1] - 1
    positions = torch.arange(count)[None]
    rotary = DeepseekV3RotaryEmbedding(model.config)(embedded, positions)
    mask = torch.full((count, count), float("-inf")).triu(1)[None, None]
    mtp = Mtp(model.config)
    optimizer = torch.optim.Adam(mtp.parameters(), lr=rate)
    known = ids[:, 2:]
    for _ in range(epochs):
        optimizer.zero_grad()
        states = mtp(embedded, hidden[:, :-1], rotary, mask)
        logits = model.lm_head(states[:, :-1])
        F.cross_entropy(logits.flatten(0, 1), known.flatten()).backward()
        optimizer.step()
    weights = load_file(folder / "model.safetensors")
    own = {"embed_tokens": weights["model.embed_tokens.weight"], "shared_head.head": weights["lm_head.weight"]}
    weights |= {f"model.layers.{LAYERS}.{name}.weight": value.clone() for name, value in own.items()}
    weights |= mtp.tensors(LAYERS)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_nextn_predict_layers": 1}))
    return float((logits.argmax(-1) == known)[:, -new:].float().mean())
