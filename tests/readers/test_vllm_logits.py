"""vLLM's own draft model classes, loaded by vLLM's own loader, give the reference's logits.

speculators, SpecForge, ModelOpt and SpecJAX are held against the reference by the fixtures of tests/exporters.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from exporters import environments
from reference.support import wrong
from safetensors import safe_open
from safetensors.torch import save_file
from support import heads, variants
from support.variants import Has

from eagle3hub.head import Rope
from eagle3hub.layouts import open_head
from eagle3hub.reference.attention import Memory
from eagle3hub.reference.load import load_draft
from eagle3hub.reference.model import DraftModel
from readers.support import HERE

pytestmark = pytest.mark.engine

D = heads.dims(hidden=64, inter=96, heads=4, kv=2, head_dim=32, vocab=96, draft=40, aux=3)
LENGTH, DRAFTED = 10, 3
# float32 on both sides; the largest logits are about 5
CLOSE = {"rtol": 1e-4, "atol": 1e-4}
WINDOW = {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 4, "use_sliding_window": True}
LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": 16}
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "full vocabulary": {"d": {**D, "draft": D["vocab"]}, "draft_vocab_size": D["vocab"]},
    "unsorted vocabulary": {"unsorted": True},
    "norm before residual": {"norm_before_residual": True},
    "norm before fc": {"has": Has(input_norm=True)},
    "fc norm": {"has": Has(fc_norm=True)},
    "norm output": {"norm_output": True},
    "attention bias": {"has": Has(attention_bias=True)},
    "two layers": {"has": Has(layers=2), "norm_before_residual": True},
    "window": {"has": Has(layers=2), "layer": WINDOW},
    "q/k norm": {"has": Has(qk_norm=True), "norm_before_residual": True},
    "q/k norm, window, norm output": {"has": Has(layers=2, qk_norm=True), "layer": WINDOW, "norm_output": True},
    "own embeddings": {"has": Has(embeddings=True)},
    "large eps": {"layer": {"rms_norm_eps": 1e-2}},
    "theta": {"layer": {"rope_parameters": {"rope_type": "default", "rope_theta": 300.0}}},
    "partial rope": {
        "layer": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}}
    },
    "llama3 rope": {
        "layer": {"rope_parameters": {**LLAMA3, "rope_theta": 1e4, "original_max_position_embeddings": 16}}
    },
    "yarn rope": {"layer": {"rope_parameters": YARN}},
    "parallel": {"has": Has(mask_hidden=True, input_norm=True)},
}


def write(folder: Path, **kind: Any) -> Path:
    """A head of one kind in the speculators layout, with weights of the size that training gives them."""
    options = {"d": D, **kind}
    head = variants.speculators(folder, options.pop("d"), options.pop("has", Has()), **options)
    soft = {}
    for name, tensor in variants.tensors_of(head).items():
        if name.endswith("norm.weight") or "fc_norm" in name:
            soft[name] = (1 + 0.3 * tensor.float()).to(tensor.dtype)
        elif tensor.is_floating_point() and tensor.dim() == 2 and "embed" not in name:
            soft[name] = (tensor.float() / tensor.shape[1] ** 0.5).to(tensor.dtype)
    return variants.replace(head, {"format": "pt"}, **soft)


def inputs(name: str) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(len(name))
    taps = KINDS[name].get("d", D)["aux"]
    return {
        "token_ids": torch.randint(D["vocab"], (LENGTH,), generator=generator),
        "aux": torch.randn(LENGTH, taps * D["hidden"], generator=generator),
        "drafted": torch.randint(D["vocab"], (DRAFTED,), generator=generator),
    }


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vllm-logits")


@pytest.fixture(scope="module")
def embeddings(work: Path) -> torch.Tensor:
    """Those of the target that is written here."""
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
        max_position_embeddings=64,
        initializer_range=1.0,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(work / "target")
    return model.get_input_embeddings().weight.detach()


@pytest.fixture(scope="module")
def folders(work: Path) -> dict[str, Path]:
    return {name: write(work / str(i), **kind) for i, (name, kind) in enumerate(KINDS.items())}


@pytest.fixture(scope="module")
def ran(
    work: Path, folders: dict[str, Path], embeddings: torch.Tensor, vllm_python: Path
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """What vLLM's interpreter computed: tensors, and the class of each head."""
    files = {name: str(work / f"inputs-{i}.safetensors") for i, name in enumerate(KINDS)}
    for name, file in files.items():
        save_file(inputs(name), file)
    job, result = work / "job.json", work / "result.safetensors"
    asked = {"target": str(work / "target"), "heads": {k: str(v) for k, v in folders.items()}, "inputs": files}
    job.write_text(json.dumps({**asked, "result": str(result)}))
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")} | environments.QUIET
    env |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    command = [str(vllm_python), "-s", str(HERE / "vllm_logits.py"), str(job)]
    done = subprocess.run(command, env=env, cwd=work, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    with safe_open(result, "pt") as file:
        failed = json.loads(file.metadata()["failed"])
        assert not failed, "\n".join(f"{name}: {why}" for name, why in failed.items())
        return {key: file.get_tensor(key) for key in file.keys()}, json.loads(file.metadata()["classes"])  # noqa: SIM118


def ours(model: DraftModel, given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same over the target's vocabulary, minus infinity where a token cannot be drafted."""
    memory = Memory(model.windows)
    features, at = model.features(given["aux"]), torch.arange(LENGTH + DRAFTED)
    hidden = model.hidden(features, given["token_ids"], at[:LENGTH], memory.attend)
    first = model.logits(hidden)
    draft, hidden = [first[-1]], hidden[-1:]
    for step in range(DRAFTED):
        token, features = given["drafted"][step : step + 1], model.feedback(hidden)
        if model.semantics.parallel_drafting:
            masked, mask = model.masked()
            token, features = torch.tensor([mask]), masked[None]
        hidden = model.hidden(features, token, at[LENGTH + step : LENGTH + step + 1], memory.attend)
        draft.append(model.logits(hidden)[0])
    return {"first": over_target(model, first), "draft": over_target(model, torch.stack(draft))}


def over_target(model: DraftModel, logits: torch.Tensor) -> torch.Tensor:
    wide = torch.full((len(logits), model.dims.vocab_size), float("-inf"))
    wide[:, model.to_target(torch.arange(logits.shape[1]))] = logits
    return wide


@pytest.mark.parametrize("name", KINDS)
def test_the_logits_are_vllms(
    ran: tuple[dict[str, torch.Tensor], dict[str, str]],
    folders: dict[str, Path],
    embeddings: torch.Tensor,
    name: str,
):
    tensors, classes = ran
    assert classes[name] == ("Eagle3Qwen3ForCausalLM" if "q/k norm" in name else "Eagle3LlamaForCausalLM")
    model = load_draft(open_head(folders[name]), embeddings)
    for part, logits in ours(model, inputs(name)).items():
        theirs = tensors[f"{name}/{part}"]
        assert theirs.isfinite().sum() == len(logits) * model.dims.draft_vocab_size
        torch.testing.assert_close(logits, theirs, **CLOSE)
    # the comparison can tell
    other = ours(wrong(model, rope=Rope(77.0)), inputs(name))["draft"]
    assert not torch.allclose(other, tensors[f"{name}/draft"], **CLOSE)
