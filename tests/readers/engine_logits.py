"""Small heads for an engine's own draft model, what is fed to both it and the reference, and the comparison."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from exporters import environments
from reference.support import wrong
from safetensors import safe_open
from safetensors.torch import save_file
from support import heads, variants

from eagle3hub.head import Head, Rope
from eagle3hub.probing.run import DRAFTED, LENGTH, compute
from eagle3hub.reference.model import load_draft
from readers.support import HERE

D = heads.dims(hidden=64, inter=96, heads=4, kv=2, head_dim=32, vocab=96, draft=40, aux=3)
# MLA heads of the sizes that vLLM's CPU backend of MLA takes, and DeepSeek's scaling without mscale
LATENT = {
    **D,
    "q_lora_rank": 48,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 64,
    "v_head_dim": 48,
}
DEEP = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "beta_fast": 32.0, "beta_slow": 1.0}
# float32 on both sides; logits are about 3 in size, and vLLM's differ by less than 2e-6
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def soften(head: Path) -> Path:
    """Give weights the size that training gives them."""
    soft = {}
    for name, tensor in variants.tensors_of(head).items():
        if name.endswith("norm.weight") or "fc_norm" in name:
            soft[name] = (1 + 0.3 * tensor.float()).to(tensor.dtype)
        elif tensor.is_floating_point() and tensor.dim() == 2 and "embed" not in name:
            soft[name] = (tensor.float() / tensor.shape[1] ** 0.5).to(tensor.dtype)
    return variants.replace(head, {"format": "pt"}, **soft)


def write_target(folder: Path) -> torch.Tensor:
    """A target with weights; returns its embeddings."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=D["hidden"],
        intermediate_size=96,
        num_hidden_layers=heads.TARGET_LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        vocab_size=D["vocab"],
        max_position_embeddings=512,
        initializer_range=1.0,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    return model.get_input_embeddings().weight.detach()


def inputs(name: str) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(len(name))
    return {
        "token_ids": torch.randint(D["vocab"], (LENGTH,), generator=generator),
        "aux": torch.randn(LENGTH, 3 * D["hidden"], generator=generator),
        "drafted": torch.randint(D["vocab"], (DRAFTED,), generator=generator),
    }


@dataclass(frozen=True)
class Ran:
    """What an engine's interpreter computed: tensors, and the class it took for each head."""

    tensors: dict[str, torch.Tensor]
    classes: dict[str, str]


def run(python: Path, script: str, folders: Mapping[str, Path], target: Path, work: Path, **env: str) -> Ran:
    """Run a script of this folder over some heads."""
    files = {name: str(work / f"inputs-{i}.safetensors") for i, name in enumerate(folders)}
    for name, file in files.items():
        save_file(inputs(name), file)
    job, result = work / "job.json", work / "result.safetensors"
    asked = {"target": str(target), "heads": {k: str(v) for k, v in folders.items()}, "inputs": files}
    job.write_text(json.dumps({**asked, "result": str(result)}))
    own = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")} | environments.QUIET | env
    command = [str(python), "-s", str(HERE / script), str(job)]
    done = subprocess.run(command, env=own, cwd=work, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    with safe_open(result, "pt") as file:
        failed = json.loads(file.metadata()["failed"])
        assert not failed, "\n".join(f"{name}: {why}" for name, why in failed.items())
        return Ran(
            {key: file.get_tensor(key) for key in file.keys()},  # noqa: SIM118
            json.loads(file.metadata()["classes"]),
        )


def compare(head: Head, embeddings: torch.Tensor, ran: Ran, name: str) -> None:
    """Hold the engine's logits of a head against the reference's, and see that the comparison can tell."""
    model, given = load_draft(head, embeddings), inputs(name)
    for part, logits in compute(model, given).items():
        theirs = ran.tensors[f"{name}/{part}"]
        assert theirs.isfinite().sum() == len(logits) * model.dims.draft_vocab_size
        torch.testing.assert_close(logits, theirs, **CLOSE)
    for other in (wrong(model, rope=Rope(77.0)), wrong(model, rms_norm_eps=0.3)):
        assert not torch.allclose(compute(other, given)["draft"], ran.tensors[f"{name}/draft"], **CLOSE)
