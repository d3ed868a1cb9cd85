"""A small target with an MTP layer of its own, trained within seconds to know what the target says.

It is a Qwen3.5 of random weights with full attention in every layer. vLLM reads its MTP layer as that of Qwen's own
checkpoints (``qwen3_5_mtp.py``): the embedding of the next token and the target's final state, each normed, side by
side through ``fc``, one decoder layer, a norm, and the target's own lm_head.
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
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.models.qwen3_5.configuration_qwen3_5 import Qwen3_5TextConfig
from transformers.models.qwen3_5.modeling_qwen3_5 import (
    Qwen3_5DecoderLayer,
    Qwen3_5ForCausalLM,
    Qwen3_5RMSNorm,
    Qwen3_5TextRotaryEmbedding,
)

from support.targets import VOCAB, save_tokenizer

HIDDEN, INTER, LAYERS, HEADS, KV, HEAD_DIM = 128, 192, 8, 4, 2, 32


def save_target(folder: Path) -> Path:
    """A target without its MTP layer, which `train_mtp` adds."""
    torch.manual_seed(0)
    config = Qwen3_5TextConfig(
        vocab_size=VOCAB,
        hidden_size=HIDDEN,
        intermediate_size=INTER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV,
        head_dim=HEAD_DIM,
        max_position_embeddings=512,
        layer_types=["full_attention"] * LAYERS,
        tie_word_embeddings=False,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    model = Qwen3_5ForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return folder


class Mtp(nn.Module):
    """The MTP layer; its parameters are named as in a checkpoint, without ``mtp.``."""

    def __init__(self, config: Qwen3_5TextConfig) -> None:
        super().__init__()
        self.fc = nn.Linear(2 * config.hidden_size, config.hidden_size, bias=False)
        self.layers = nn.ModuleList([Qwen3_5DecoderLayer(config, 0)])
        self.norm = Qwen3_5RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.pre_fc_norm_hidden = Qwen3_5RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.pre_fc_norm_embedding = Qwen3_5RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(self, embedded: torch.Tensor, hidden: torch.Tensor, rotary: Any, mask: torch.Tensor) -> torch.Tensor:
        """The states from which the token after next is told: ``[texts, tokens, hidden]`` like its arguments."""
        both = torch.cat([self.pre_fc_norm_embedding(embedded), self.pre_fc_norm_hidden(hidden)], -1)
        out = self.layers[0](self.fc(both), position_embeddings=rotary, attention_mask=mask)
        return self.norm(out[0] if isinstance(out, tuple) else out)


def train_mtp(folder: Path, questions: Sequence[str], new: int, epochs: int = 60, rate: float = 0.003) -> float:
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
    rotary = Qwen3_5TextRotaryEmbedding(model.config)(embedded, positions)
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
    weights |= {f"mtp.{name}": value.detach().contiguous() for name, value in mtp.state_dict().items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "mtp_num_hidden_layers": 1}))
    return float((logits.argmax(-1) == known)[:, -new:].float().mean())
