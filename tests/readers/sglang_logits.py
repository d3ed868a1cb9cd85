"""Logits of SGLang's own draft model class, on CPU. Run by SGLang's interpreter:

    python sglang_logits.py JOB.json

JOB: {"target": folder, "heads": {name: folder}, "inputs": {name: safetensors file}, "result": safetensors file}.
SGLang resolves its own configuration, picks its own class and loads the weights with it; its own native layers run.
Only ``self_attn.attn`` is replaced, whose kernels have no CPU build outside the Engine.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from sglang_reader import NoKernels, declare_torchvision_operators, start

sys.path.insert(0, str(Path(__file__).parents[2] / "eagle3hub/engines/workers"))
import sglang_probe


def load(folder: str, arguments: Any, embeddings: torch.Tensor) -> Any:
    """The draft model, with the target's embeddings."""
    from sglang.srt.configs.model_config import ModelConfig
    from sglang.srt.model_loader.utils import get_model_architecture
    from sglang.srt.runtime_context import get_model

    config = ModelConfig.from_server_args(arguments, model_path=folder, is_draft_model=True)
    model_class, _ = get_model_architecture(config)
    with get_model().override(shared_experts=None):
        model = model_class(config=config.hf_config, quant_config=None)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(float("nan"))  # what the file does not fill shows
        model.load_weights(load_file(Path(folder) / "model.safetensors").items())
        model.model.embed_tokens.weight[: len(embeddings)] = embeddings
        for layer in sglang_probe.layers_of(model):
            if layer.self_attn.o_proj.bias is not None:  # "bias", meant for fc, makes one that no trainer's file has
                layer.self_attn.o_proj.bias.zero_()
    sglang_probe.unpage(model)
    return model


@torch.no_grad()
def run(model: Any, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """See `probe_loop.draft`; logits are over the target's vocabulary."""
    return sglang_probe.draft_logits(model, model.hot_token_id, inputs, model.config.vocab_size)


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    keep = declare_torchvision_operators()
    sys.modules["sgl_kernel"] = NoKernels("sgl_kernel")
    embeddings = load_file(Path(job["target"]) / "model.safetensors")["model.embed_tokens.weight"].float()
    arguments = start(Path(job["target"]), next(iter(job["heads"].values())))
    torch.set_default_dtype(torch.float32)
    out: dict[str, torch.Tensor] = {}
    failed: dict[str, str] = {}
    classes: dict[str, str] = {}
    for name, folder in job["heads"].items():
        try:
            model = load(folder, arguments, embeddings)
            classes[name] = type(model).__name__
            out |= {f"{name}/{k}": v for k, v in run(model, load_file(job["inputs"][name])).items()}
        except Exception as e:
            failed[name] = f"{type(e).__name__}: {e}"
    save_file(out, job["result"], metadata={"failed": json.dumps(failed), "classes": json.dumps(classes)})
    del keep


if __name__ == "__main__":
    main()
