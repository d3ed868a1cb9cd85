"""Make speculators fixtures with speculators 0.9.0's own models, checkpointer and `speculators convert`.

    python tests/exporters/make_speculators.py --cache CACHE --output DIR

The conversions start from the SpecForge and ModelOpt fixtures in DIR, so make those first.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from pathlib import Path
from typing import Any

import common
import speculators_forward

PLAIN: dict[str, Any] = {"norm_before_residual": False, "norm_before_fc": False, "norm_output": False}
# what `speculators train` takes for eagle3 unless told otherwise
DEFAULTS: dict[str, Any] = {"norm_before_residual": True, "norm_before_fc": True, "norm_output": True}
FULL = {"full_attention_indices": [0]}

# flags of the head, shape of its layers
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "default": (DEFAULTS, {}),
    "plain": (PLAIN, FULL),
    "window": (PLAIN, {"sliding_window": 4}),
    "qwen3": (PLAIN, {**FULL, "draft_arch": "qwen3"}),
    "two-layers": (PLAIN, {"num_layers": 2, "full_attention_indices": [0, 1]}),
    "mixed-layers": (PLAIN, {"num_layers": 2, "full_attention_indices": [1], "sliding_window": 4}),
    "fc-norm": ({**PLAIN, "fc_norm": True}, FULL),
    "norm-output": ({**PLAIN, "norm_output": True}, FULL),
    "full-vocabulary": ({**PLAIN, "draft_vocab_size": common.VOCAB}, FULL),
    "last-layer": ({**PLAIN, "target_layer_ids": [2, 4, common.TARGET_LAYERS]}, FULL),
    "bias": (PLAIN, {"draft_config": {"attention_bias": True}}),
    "peagle": ({**PLAIN, "mask_token_id": common.VOCAB - 1, "num_depths": 4}, FULL),
}
CONVERTED = ("specforge-sglang-plain", "modelopt-plain-rope")


def main(options: argparse.Namespace, scratch: Path) -> None:
    fixtures = options.output.resolve()
    os.chdir(scratch)  # the verifier's path ends up in the config: let it be a relative one
    common.write_target(Path("target"))
    for name, (flags, shape) in VARIANTS.items():
        model = build(flags, shape)
        golden = {**common.inputs(len(model.target_layer_ids)), **speculators_forward.run(model, common.inputs())}
        if "mask_token_id" in flags:
            golden["masked_logits"] = speculators_forward.run_masked(model, common.inputs(), depths=3)
        common.write_fixture(
            fixtures / f"speculators-{name}",
            save(model, Path(name)),
            golden,
            exporter="speculators",
            version="0.9.0",
            how=f"{type(model).__name__}.from_training_args, SingleGPUCheckpointer.save_checkpoint; logits of "
            "Eagle3DraftModel.forward",
            flags=flags,
            shape=shape,
        )
    for name in CONVERTED:
        convert(fixtures / name, Path(f"converted-{name}"), fixtures / f"speculators-converted-from-{name}")


def build(flags: dict[str, Any], shape: dict[str, Any]) -> Any:
    """A draft model as `speculators train` builds one, with its weights set."""
    import torch
    from speculators.models.eagle3 import Eagle3DraftModel
    from speculators.models.peagle import PEagleDraftModel
    from speculators.train.cli import create_transformer_layer_config, load_draft_transformer_layer_config
    from speculators.train.vocab_mapping import build_vocab_mappings_from_distribution

    shape = dict(shape)
    if "draft_config" in shape:
        config = {**common.TARGET_CONFIG, "num_hidden_layers": 1, **shape["draft_config"]}
        Path("draft.json").write_text(json.dumps(config), encoding="utf-8")
        layer = load_draft_transformer_layer_config("draft.json", "target")
    else:
        defaults = {"num_layers": 1, "draft_arch": "llama", "sliding_window": 2048, "full_attention_indices": []}
        layer = create_transformer_layer_config("target", hidden_act=None, **{**defaults, **shape})
    size = flags.get("draft_vocab_size", common.DRAFT_VOCAB)
    d2t = t2d = None
    if size < common.VOCAB:
        frequencies = {int(token): 100 - rank for rank, token in enumerate(common.draft_ids())}
        d2t, t2d = build_vocab_mappings_from_distribution(frequencies, size, common.VOCAB)
    kind = PEagleDraftModel if "mask_token_id" in flags else Eagle3DraftModel
    model = kind.from_training_args(
        layer,
        t2d=t2d,
        d2t=d2t,
        verifier_name_or_path="target",
        ttt_steps=3,
        **{"draft_vocab_size": size, **flags},
    )
    embeddings = model.embed_tokens.weight.detach().clone()
    common.fill(model, "speculators.")
    with torch.no_grad():
        model.embed_tokens.weight.copy_(embeddings)
    return model.eval()


def save(model: Any, folder: Path) -> Path:
    import torch
    from speculators.train.checkpointer import SingleGPUCheckpointer

    trained = [p for p in model.parameters() if p.requires_grad]
    SingleGPUCheckpointer(folder).save_checkpoint(model, torch.optim.SGD(trained, lr=1e-3), 0)
    return folder / "0"


def convert(source: Path, out: Path, fixture: Path) -> None:
    """The library's own conversion of another layout."""
    import numpy as np
    from safetensors.numpy import load_file
    from speculators.__main__ import app

    head = Path(shutil.copytree(source / "head", f"{out.name}-source"))
    command = ["convert", str(head), "--verifier", "target", "--algorithm", "eagle3", "--output-path", str(out)]
    app([*command, "--validate-device", "cpu"], standalone_mode=False)
    golden: dict[str, np.ndarray] = load_file(source / "golden.safetensors")
    common.write_fixture(
        fixture,
        out,
        golden,
        exporter="speculators",
        version="0.9.0",
        how=f"speculators convert --algorithm eagle3 of {source.name}; logits are those of {source.name}",
        converted_from=source.name,
    )


if __name__ == "__main__":
    common.run_in("torch-exporters", main)
