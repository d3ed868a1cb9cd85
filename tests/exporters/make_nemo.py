"""Make NeMo Automodel fixtures with the draft model of a checkout of NVIDIA-NeMo/Automodel.

python tests/exporters/make_nemo.py --cache CACHE --output DIR --checkout /path/to/Automodel
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import common

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "eagle31": {"fc_norm": True, "norm_output": True},
    "peagle": {
        "parallel_drafting": True,
        "mask_token_id": 127,
        "num_depths": 4,
        "down_sample_ratio": 0.7,
        "down_sample_ratio_min": 0.2,
        "num_hidden_layers": 2,
    },
}


def main(options: argparse.Namespace, scratch: Path) -> None:
    sys.path.insert(0, str(options.checkout))
    import torch
    from nemo_automodel.components.speculative.eagle.draft_llama import LlamaEagle3DraftModel
    from transformers import LlamaConfig

    version = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=options.checkout, text=True).strip()
    base = LlamaConfig(**common.TARGET_CONFIG)
    ids = torch.from_numpy(common.draft_ids()).flip(0)  # build_eagle3_token_mapping orders them by frequency
    for name, changes in VARIANTS.items():
        config = draft_config(base, changes)
        model = LlamaEagle3DraftModel(LlamaConfig.from_dict(config)).eval().float()
        common.fill(model, "nemo.")
        embeddings = torch.nn.Embedding.from_pretrained(torch.from_numpy(common.embeddings()))
        model.copy_embeddings_from_target(embeddings)
        model.set_vocab_mapping(ids)
        # its rotary tables are rounded to the config's dtype: logits come from a twin whose dtype is float32
        exact = LlamaEagle3DraftModel(LlamaConfig.from_dict({**config, "dtype": "float32"})).eval().float()
        exact.load_state_dict(model.state_dict())
        golden = None if "parallel_drafting" in changes else {**common.inputs(), **forward(exact)}
        folder = scratch / name
        model.to(torch.bfloat16).save_pretrained(folder)
        about = {"exporter": "NeMo Automodel (NVIDIA-NeMo/Automodel)", "version": version, "draft_config": config}
        how = (
            "LlamaEagle3DraftModel over the config that recipes/llm/train_eagle3.py makes of its target's, saved by "
            "save_pretrained; logits by project_hidden_states, forward, compute_logits in float32"
        )
        common.write_fixture(options.output / f"nemo-{name}", folder, golden, **about, how=how)


def draft_config(base: Any, changes: dict[str, Any]) -> dict[str, Any]:
    """The draft's config as ``TrainEagle3Recipe.setup`` derives it from the target's."""
    return {
        **base.to_dict(),
        "draft_vocab_size": common.DRAFT_VOCAB,
        "target_hidden_size": base.hidden_size,
        "architectures": ["LlamaEagle3DraftModel"],
        "tie_word_embeddings": False,
        "attn_implementation": "eager",
        "fc_norm": False,
        "norm_output": False,
        "parallel_drafting": False,
        **changes,
    }


def forward(model: Any) -> dict[str, Any]:
    """First-step logits and the hidden state that feeds the next step, as Eagle3TrainerModule.forward runs them."""
    import torch

    batch = {k: torch.from_numpy(v) for k, v in common.inputs().items()}
    with torch.no_grad():
        projected = model.project_hidden_states(batch["aux_hidden_states"])
        mask = torch.ones(projected.shape[:2], dtype=torch.long)
        out = model(batch["token_ids"], projected, mask)
        return {"logits": model.compute_logits(out).numpy(), "feedback": out.numpy()}


if __name__ == "__main__":
    common.run_in("torch-exporters", main, extra=["checkout"])
