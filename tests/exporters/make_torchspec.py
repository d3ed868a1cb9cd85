"""Make fixtures with TorchSpec's own draft model and conversion tool, of a checkout of its repository.

python tests/exporters/make_torchspec.py --cache CACHE --output DIR --checkout TORCHSPEC

TORCHSPEC: a checkout of lightseekorg/TorchSpec at commit 6f21829 (April 2026), the newest that is public.
"""

from __future__ import annotations

import argparse
import json
import runpy
import sys
from pathlib import Path
from typing import Any

import common

RANKS = {"q_lora_rank": 20, "kv_lora_rank": 24, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 6}
# the fields of TorchSpec's own configs/draft_models/qwen3_8b_eagle3_mla.json, with small sizes and no scaling
CONFIG: dict[str, Any] = {
    "architectures": ["Eagle3DeepseekV2ForCausalLM"],
    "model_type": "deepseek_v3",
    "hidden_size": common.HIDDEN,
    "num_attention_heads": common.HEADS,
    "num_key_value_heads": common.HEADS,
    "num_hidden_layers": 1,
    "intermediate_size": common.INTERMEDIATE,
    "hidden_act": "silu",
    "rms_norm_eps": common.EPS,
    **RANKS,
    "max_position_embeddings": common.CONTEXT,
    "rope_theta": common.ROPE_THETA,
    "rope_scaling": None,
    "vocab_size": common.VOCAB,
    "tie_word_embeddings": False,
    "pretraining_tp": 1,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
# the scaling and the list of layers of its configs/draft_models/kimi_k25_eagle3_mla.json
KIMI: dict[str, Any] = {
    "model_type": "kimi_k2",
    "draft_vocab_size": common.VOCAB,
    "torch_dtype": "bfloat16",
    "rope_scaling": {
        "beta_fast": 1.0,
        "beta_slow": 1.0,
        "factor": 64.0,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 64,
        "type": "yarn",
    },
    "eagle_config": {
        "eagle_aux_hidden_state_layer_ids": [1, 3, 4],
        "use_aux_hidden_state": True,
        "use_input_layernorm_in_first_layer": True,
        "use_last_layernorm": True,
        "use_mtp_layernorm": False,
    },
}
# the fields of its configs/draft_models/qwen3_8b_eagle3.json, with small sizes
LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLMEagle3"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "head_dim": common.HEAD_DIM,
    "hidden_act": "silu",
    "hidden_size": common.HIDDEN,
    "initializer_range": 0.02,
    "intermediate_size": common.INTERMEDIATE,
    "max_position_embeddings": common.CONTEXT,
    "max_window_layers": 36,
    "model_type": "llama",
    "num_attention_heads": common.HEADS,
    "num_hidden_layers": 1,
    "num_key_value_heads": common.KV_HEADS,
    "rms_norm_eps": common.EPS,
    "rope_scaling": None,
    "rope_theta": common.ROPE_THETA,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.51.0",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": common.VOCAB,
}
VARIANTS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "full-vocabulary": (LLAMA, []),
    "mla": ({}, []),
    "mla-no-latent": ({"q_lora_rank": None}, []),
    "mla-kimi": (KIMI, []),
    "mla-kimi-vllm": (KIMI, ["--vllm"]),
}


def main(options: argparse.Namespace, scratch: Path) -> None:
    import torch.distributed.checkpoint as checkpoints

    sys.path.insert(0, str(options.checkout))
    for name, (changes, flags) in VARIANTS.items():
        work = scratch / name
        work.mkdir()
        config = changes if changes is LLAMA else {**CONFIG, **changes}
        (work / "config.json").write_text(json.dumps(config), encoding="utf-8")
        model = make(work / "config.json")
        state = {f"draft_model.{key}": value.contiguous() for key, value in model.state_dict().items()}
        checkpoints.save(state, checkpoint_id=str(work / "model"), no_dist=True)
        exported = scratch / f"{name}-hf"
        sys.argv = ["convert_to_hf.py", "--input-dir", str(work), "--output-dir", str(exported)]
        sys.argv += ["--dtype", "bfloat16", *flags]
        runpy.run_path(str(options.checkout / "tools" / "convert_to_hf.py"), run_name="__main__")
        how = " ".join(["tools/convert_to_hf.py --dtype bfloat16", *flags])
        how += "; logits by project_hidden_states, backbone, compute_logits in float32"
        about = {"exporter": "TorchSpec", "version": "6f21829", "draft_config": config}
        golden = {**common.inputs(), **forward(model)}
        common.write_fixture(options.output / f"torchspec-{name}", exported, golden, **about, how=how)

    prune(options, scratch)


def prune(options: argparse.Namespace, scratch: Path) -> None:
    """What the tool makes of a full lm_head and a map: rows by offset, since 88ca60b of April 2026."""
    import torch

    (scratch / "llama.json").write_text(json.dumps(LLAMA), encoding="utf-8")
    model = make(scratch / "llama.json").to(torch.bfloat16)
    ids = torch.from_numpy(common.draft_ids())
    mask = torch.zeros(common.VOCAB, dtype=torch.bool)
    mask[ids] = True
    tool = runpy.run_path(str(options.checkout / "tools" / "convert_to_hf.py"))
    exported = scratch / "pruned"
    exported.mkdir()
    tool["_save_with_vocab_pruning"](
        model, str(exported), LLAMA, common.VOCAB, common.DRAFT_VOCAB, ids - torch.arange(len(ids)), mask
    )
    how = "_save_with_vocab_pruning of tools/convert_to_hf.py, with the map of process_token_dict_to_mappings"
    about = {"exporter": "TorchSpec", "version": "6f21829", "draft_config": LLAMA}
    common.write_fixture(options.output / "torchspec-pruned", exported, None, **about, how=how)


def make(config: Path) -> Any:
    """The draft model with its weights set, and the target's embeddings."""
    import torch
    from torchspec.models.draft import AutoDraftModelConfig, AutoEagle3DraftModel

    model = AutoEagle3DraftModel.from_config(AutoDraftModelConfig.from_file(str(config))).eval()
    common.fill(model, "torchspec.")
    with torch.no_grad():
        model.embed_tokens.weight.copy_(torch.from_numpy(common.embeddings()))
    return model


def forward(model: Any) -> dict[str, Any]:
    """First-step logits and the hidden state that feeds the next step, as Eagle3Model.forward runs them."""
    import torch

    batch = {k: torch.from_numpy(v) for k, v in common.inputs().items()}
    with torch.no_grad():
        hidden = model.project_hidden_states(batch["aux_hidden_states"])
        size, length, _ = hidden.shape
        mask = model.prepare_decoder_attention_mask(
            torch.ones(size, length, dtype=torch.bool), hidden, size, length, 0
        )
        positions = torch.arange(length)[None].expand(size, -1)
        out, _, _ = model.backbone(model.embed_input_ids(batch["token_ids"]), hidden, mask, positions, use_cache=True)
        return {"logits": model.compute_logits(out).numpy(), "feedback": out.numpy()}


if __name__ == "__main__":
    common.run_in("torchspec", main, extra=("checkout",))
