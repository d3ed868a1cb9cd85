"""A tiny target that says the same token whatever it is asked, and a head that knows it: measured in no time."""

from __future__ import annotations

from pathlib import Path

import torch
from support import heads, targets

SHAPE = heads.dims(hidden=16, inter=24, heads=4, kv=2, head_dim=4, vocab=targets.VOCAB, draft=20)
TAPS = [1, 2, 3]


def make_target(folder: Path) -> Path:
    model = targets.model("llama")
    with torch.no_grad():
        model.model.embed_tokens.weight.add_(2.0)  # every hidden state points one way …
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.lm_head.weight.zero_()
        model.lm_head.weight[_said()] = 1.0  # … which is this token's
    model.save_pretrained(folder)
    targets.save_tokenizer(folder)
    return folder


def make_head(folder: Path) -> Path:
    tensors = heads.weights(SHAPE)
    tensors["fc.weight"] = torch.eye(SHAPE["hidden"]).repeat(1, 3).to(torch.bfloat16)
    for name in ("self_attn.o_proj", "mlp.down_proj"):
        tensors[f"midlayer.{name}.weight"].zero_()
    tensors["norm.weight"].fill_(1.0)
    tensors["lm_head.weight"].zero_()
    tensors["lm_head.weight"][SHAPE["draft"] // 2] = 1.0
    tensors |= heads.buffers(heads.sorted_ids(SHAPE), SHAPE["vocab"])
    config = heads.flat_config(
        SHAPE,
        architectures=["LlamaForCausalLMEagle3"],
        hidden_act="silu",
        max_position_embeddings=256,
        eagle_config={"use_aux_hidden_state": True, "eagle_aux_hidden_state_layer_ids": TAPS},
    )
    return heads.write(folder, tensors, config, {"format": "pt"})


def _said() -> int:
    return int(heads.sorted_ids(SHAPE)[SHAPE["draft"] // 2])
