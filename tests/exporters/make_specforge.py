"""Make SpecForge fixtures with specforge 0.2.0's own model, checkpoint manager and export command.

python tests/exporters/make_specforge.py --cache CACHE --output DIR
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import common

# the fields of SpecForge's own configs/llama3-8B-eagle3.json, with small sizes
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLMEagle3"],
    "model_type": "llama",
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "hidden_act": "silu",
    "hidden_size": common.HIDDEN,
    "initializer_range": 0.02,
    "intermediate_size": common.INTERMEDIATE,
    "max_position_embeddings": common.CONTEXT,
    "num_attention_heads": common.HEADS,
    "num_key_value_heads": common.KV_HEADS,
    "head_dim": common.HEAD_DIM,
    "num_hidden_layers": 1,
    "rms_norm_eps": common.EPS,
    "rope_theta": common.ROPE_THETA,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": common.VOCAB,
    "draft_vocab_size": common.DRAFT_VOCAB,
}
AUX = {"eagle_config": {"eagle_aux_hidden_state_layer_ids": [1, 3, 4], "use_aux_hidden_state": True}}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "fc-norm": {"fc_norm": True, **AUX},
    "llama3-rope": {"rope_scaling": LLAMA3, **AUX},
    "norm-output": {"norm_output": True, **AUX},
    "full-vocabulary": {"draft_vocab_size": common.VOCAB},
    "float32-weights": {},
    "peagle": {"architectures": ["PEagleDraftModel"], "num_hidden_layers": 2, **AUX},
}
MASK_TOKEN = 127
# which exports of a variant become fixtures
KEEP = {
    "plain": ("sglang", "hf", "training"),
    "fc-norm": ("sglang", "hf"),
    "float32-weights": ("hf",),
    "peagle": ("hf",),
}


def main(options: argparse.Namespace, scratch: Path) -> None:
    from specforge.cli import main as command

    target = common.write_target(scratch / "target")
    for name, changes in VARIANTS.items():
        work = scratch / name
        work.mkdir()
        config = work / "draft.json"
        config.write_text(json.dumps({**CONFIG, **changes}), encoding="utf-8")
        model, checkpoint = train(work, config, target, "float32" if name == "float32-weights" else "bfloat16")
        golden = {**common.inputs(), **forward(model)}
        about = {"exporter": "SpecForge (specforge)", "version": "0.2.0", "draft_config": {**CONFIG, **changes}}
        for to in KEEP.get(name, ("sglang",)):
            if to == "training":
                exported, how = checkpoint, "CheckpointManager.save, as a training run does"
            else:
                exported = work / to
                arguments = ["--checkpoint", str(checkpoint), "--draft-config", str(config)]
                arguments += ["--embedding-source", str(target)] if to == "hf" else []
                command(["export", "--to", to, *arguments, "--output-dir", str(exported)])
                how = f"specforge export --to {to}"
            how += "; logits by project_hidden_states, backbone, compute_logits in float32"
            how += " (positions that are not masked)" if name == "peagle" else ""
            common.write_fixture(options.output / f"specforge-{to}-{name}", exported, golden, **about, how=how)


def train(work: Path, config: Path, target: Path, dtype: str) -> tuple[Any, Path]:
    """A draft model with its weights set, and the checkpoint a training run would have written of it."""
    import torch
    from specforge.algorithms.eagle3.model import OnlineEagle3Model
    from specforge.algorithms.peagle.model import OnlinePEagleModel
    from specforge.modeling.auto import AutoDraftModel, AutoDraftModelConfig
    from specforge.training.checkpoint import CheckpointManager
    from specforge.training.strategies.base import Eagle3TrainStrategy, PEagleTrainStrategy

    model = AutoDraftModel.from_config(AutoDraftModelConfig.from_file(str(config)))
    common.fill(model, "specforge.")
    mapping = work / "vocab_mapping.pt"
    ids = torch.from_numpy(common.draft_ids())
    if model.draft_vocab_size == common.VOCAB:
        ids = torch.arange(common.VOCAB)
    t2d = torch.zeros(common.VOCAB, dtype=torch.bool)
    t2d[ids] = True
    torch.save({"d2t": ids - torch.arange(len(ids)), "t2d": t2d}, mapping)
    model.load_vocab_mapping(str(mapping))
    model.load_embedding(str(target))
    model.to(getattr(torch, dtype))
    strategy: Any
    if hasattr(model, "mask_hidden"):
        strategy = PEagleTrainStrategy(OnlinePEagleModel(model, mask_token_id=MASK_TOKEN))
    else:
        model.freeze_embedding()
        strategy = Eagle3TrainStrategy(OnlineEagle3Model(model, length=2), target_head=None)
    state = {
        "draft_state_dict": strategy.checkpoint_state_filter(strategy.trainable_module().state_dict()),
        "global_step": 1,
        "epoch": 0,
        "strategy": strategy.name,
        "run_id": "run",
        "world_size": 1,
    }
    rank_state = {"optimizer": None, "rng": torch.zeros(8, dtype=torch.uint8)}
    saved = Path(CheckpointManager(str(work / "run"), "run").save(state, 1, rank_state=rank_state))
    for leftover in saved.glob("*.tmp"):
        leftover.unlink()
    return model, saved


def forward(model: Any) -> dict[str, Any]:
    """First-step logits and the hidden state that feeds the next step, as OnlineEagle3Model.forward runs them."""
    import torch
    from specforge.modeling.auto import AutoDraftModel
    from torch.nn.attention.flex_attention import create_block_mask

    # a model of its own: one that was cast to bfloat16 has rotary tables of that precision
    trained, model = model, AutoDraftModel.from_config(model.config).eval()
    model.load_state_dict(trained.state_dict())
    batch = {k: torch.from_numpy(v) for k, v in common.inputs().items()}
    if not torch.equal(model.embed_tokens.weight, batch["embed_tokens"]):
        raise SystemExit("the draft model does not have the target's embeddings")
    with torch.no_grad():
        hidden = model.project_hidden_states(batch["aux_hidden_states"])
        size, length, _ = hidden.shape
        mask = model.prepare_decoder_attention_mask(
            torch.ones(size, length, dtype=torch.bool), hidden, size, length, 0
        )
        positions = torch.arange(length).unsqueeze(0)
        if hasattr(model, "mask_hidden"):  # attends by flex_attention, in training over sampled positions
            mask = create_block_mask(lambda b, h, q, k: q >= k, None, None, length, length, device="cpu")
        out = model.backbone(model.embed_input_ids(batch["token_ids"]), hidden, [[], []], mask, positions)
        return {"logits": model.compute_logits(out).numpy(), "feedback": out.numpy()}


if __name__ == "__main__":
    common.run_in("specforge", main)
