"""Make TorchSpec fixtures with the draft model and the export functions of a checkout of lightseekorg/TorchSpec.

python tests/exporters/make_torchspec.py --cache CACHE --output DIR --checkout /path/to/TorchSpec
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import common

# the fields of TorchSpec's own configs/draft_models/qwen3_8b_eagle3.json, with small sizes
CONFIG: dict[str, Any] = {
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


def main(options: argparse.Namespace, scratch: Path) -> None:
    sys.path[:0] = [str(options.checkout), str(options.checkout / "tools")]
    import convert_to_hf as export
    import torch
    from torchspec.data.preprocessing import process_token_dict_to_mappings
    from torchspec.models.draft import AutoDraftModelConfig, AutoEagle3DraftModel

    config = scratch / "draft.json"
    config.write_text(json.dumps(CONFIG), encoding="utf-8")
    model = AutoEagle3DraftModel.from_config(AutoDraftModelConfig.from_file(str(config))).eval()
    common.fill(model, "torchspec.")
    with torch.no_grad():
        model.embed_tokens.weight.copy_(torch.from_numpy(common.embeddings()))
    golden = {**common.inputs(), **forward(model)}
    model.to(torch.bfloat16)
    counts = Counter({int(token): common.VOCAB - i for i, token in enumerate(common.draft_ids())})
    d2t, t2d = process_token_dict_to_mappings(counts, common.DRAFT_VOCAB, common.VOCAB)
    version = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=options.checkout, text=True).strip()
    about = {"exporter": "TorchSpec (lightseekorg/TorchSpec)", "version": version, "draft_config": CONFIG}
    folder = scratch / "full"
    folder.mkdir()
    export._save_without_vocab_pruning(model, str(folder), CONFIG, common.VOCAB)
    how = (
        "_save_without_vocab_pruning of tools/convert_to_hf.py; logits by project_hidden_states, backbone, "
        "compute_logits in float32"
    )
    common.write_fixture(options.output / "torchspec-full-vocabulary", folder, golden, **about, how=how)
    folder = scratch / "pruned"
    folder.mkdir()
    export._save_with_vocab_pruning(model, str(folder), CONFIG, common.VOCAB, common.DRAFT_VOCAB, d2t, t2d)
    how = "_save_with_vocab_pruning of tools/convert_to_hf.py, which takes the rows of lm_head by offset"
    common.write_fixture(options.output / "torchspec-pruned", folder, None, **about, how=how)


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
        positions = torch.arange(length).unsqueeze(0)
        out, _, _ = model.backbone(model.embed_input_ids(batch["token_ids"]), hidden, mask, positions)
        return {"logits": model.compute_logits(out).numpy(), "feedback": out.numpy()}


if __name__ == "__main__":
    common.run_in("torchspec", main, extra=["checkout"])
