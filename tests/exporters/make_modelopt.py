"""Make NVIDIA ModelOpt fixtures with nvidia-modelopt 0.47.0's own conversion and export.

    python tests/exporters/make_modelopt.py --cache CACHE --output DIR

The training forward applies ``layers.0.input_layernorm`` to the hidden state as well (then ``hidden_norm``), which no
engine does. Where that weight is constant the two agree, so it is one in every fixture but ``modelopt-double-norm``.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path
from typing import Any

import common

SIZES: dict[str, Any] = {
    "intermediate_size": common.INTERMEDIATE,
    "num_attention_heads": common.HEADS,
    "num_key_value_heads": common.KV_HEADS,
    "head_dim": common.HEAD_DIM,
    "rms_norm_eps": common.EPS,
    "use_aux_hidden_state": True,
    "use_last_layernorm": True,
    "draft_vocab_size": common.DRAFT_VOCAB,
}
CONSTANT = "eagle_module.layers.0.input_layernorm.weight"
NO_INJECTED_ROPE: dict[str, Any] = {"eagle_export_rope_scaling": {}}

# architecture changes, changes of the conversion's settings, quantization
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any], str | None]] = {
    "default": ({}, {}, None),
    "plain-rope": ({}, NO_INJECTED_ROPE, None),
    "double-norm": ({}, NO_INJECTED_ROPE, None),
    "full-vocabulary": ({"draft_vocab_size": common.VOCAB, "has_lm_head": True}, NO_INJECTED_ROPE, None),
    "two-layers": ({"num_hidden_layers": 2}, NO_INJECTED_ROPE, None),
    "bias": ({"attention_bias": True}, NO_INJECTED_ROPE, None),
    "four-aux": ({"eagle_aux_hidden_state_layer_ids": [0, 2, 4, 6]}, NO_INJECTED_ROPE, None),
    "no-aux": ({"use_aux_hidden_state": False}, NO_INJECTED_ROPE, None),
    "fp8": ({}, NO_INJECTED_ROPE, "FP8_DEFAULT_CFG"),
    "nvfp4": ({}, NO_INJECTED_ROPE, "NVFP4_DEFAULT_CFG"),
}


class Tokenizer:
    """Reads a text of numbers as the token ids they are, as far as calibrate_frequent_vocab asks."""

    def __init__(self, ids: list[int]) -> None:
        self.ids = ids

    def apply_chat_template(self, conversation: Any, **options: Any) -> list[int]:
        return self.ids


def main(options: argparse.Namespace, scratch: Path) -> None:
    import modelopt.torch.speculative as mtsp
    import numpy as np
    import torch
    from modelopt.torch.export import export_speculative_decoding
    from modelopt.torch.speculative.config import eagle3_default_config
    from modelopt.torch.speculative.plugins.hf_eagle import HFEagleModel
    from modelopt.torch.speculative.utils import calibrate_frequent_vocab
    from transformers import AutoModelForCausalLM

    target = common.write_target(scratch / "target")
    vocabulary = scratch / "d2t.pt"
    order = np.random.default_rng(5).permutation(common.draft_ids())
    text = [int(token) for rank, token in enumerate(order) for _ in range(len(order) - rank)]
    calibrate_frequent_vocab(Tokenizer(text), [], common.DRAFT_VOCAB, output_file=str(vocabulary))
    for name, (architecture, settings, quantization) in VARIANTS.items():
        model = AutoModelForCausalLM.from_pretrained(target, dtype=torch.bfloat16)
        arch = {**copy.deepcopy(eagle3_default_config), **SIZES, **architecture}
        config = {"eagle_architecture_config": arch, "eagle_use_torch_compile": False, **settings}
        mtsp.convert(model, [("eagle", config)])
        HFEagleModel.load_draft_vocab_cache(model, str(vocabulary))
        common.fill(model.eagle_module, "modelopt.", constant=() if name == "double-norm" else (CONSTANT[13:],))
        golden = {**common.inputs(golden_width(model)), **forward(model)} if quantization is None else None
        if quantization is not None:
            quantize(model, quantization)
        exported = scratch / name
        with torch.inference_mode():
            export_speculative_decoding(model, dtype=torch.bfloat16, export_dir=exported)
        common.write_fixture(
            options.output / f"modelopt-{name}",
            exported,
            golden,
            exporter="NVIDIA ModelOpt (nvidia-modelopt)",
            version="0.47.0",
            how="mtsp.convert, calibrate_frequent_vocab, export_speculative_decoding; logits by _eagle_forward",
            architecture=architecture,
            settings=settings,
            quantization=quantization,
        )


def golden_width(model: Any) -> int:
    """How many hidden states of the target feed the head."""
    config = model.eagle_config
    return len(config.eagle_aux_hidden_state_layer_ids) if config.use_aux_hidden_state else 1


def forward(model: Any) -> dict[str, Any]:
    """First-step logits and the hidden state that feeds the next step, as HFEagleModel.forward runs them."""
    import torch

    model = copy.deepcopy(model).float().eval()
    batch = {k: torch.from_numpy(v) for k, v in common.inputs(golden_width(model)).items()}
    with torch.no_grad():
        hidden = batch["aux_hidden_states"]
        if model.eagle_config.use_aux_hidden_state:
            hidden = model.eagle_module.fc(hidden)
        size, length, _ = hidden.shape
        ones = torch.ones(size, length, dtype=torch.bool)
        mask = model._prepare_decoder_attention_mask(ones, (size, length), 0, hidden.device, hidden.dtype)
        model.eagle_module._maybe_init_rope(device=hidden.device)
        embeds = model._base_model_embeddings(batch["token_ids"])
        if not torch.equal(model._base_model_embeddings.weight, batch["embed_tokens"]):
            raise SystemExit("the base model does not have the target's embeddings")
        _, feedback, logits, _ = model._eagle_forward(hidden, embeds, mask, None)
    return {"logits": logits.numpy(), "feedback": feedback.numpy()}


def quantize(model: Any, name: str) -> None:
    """Quantize the draft module alone, with a few calibration batches."""
    import modelopt.torch.quantization as mtq
    import torch

    config = copy.deepcopy(getattr(mtq, name))
    config["quant_cfg"].append({"quantizer_name": "model.*", "enable": False})
    batch = torch.from_numpy(common.inputs()["token_ids"])
    mtq.quantize(model, config, forward_loop=lambda m: m(batch))


if __name__ == "__main__":
    common.run_in("torch-exporters", main)
