"""vLLM's own draft model classes, loaded by vLLM's own loader, give the reference's logits.

speculators, SpecForge, ModelOpt and SpecJAX are held against the reference by the fixtures of tests/exporters.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support import variants
from support.variants import Has

from eagle3hub.layouts import open_head
from readers.engine_logits import D, Ran, compare, run, soften, write_target

pytestmark = pytest.mark.engine

WINDOW = {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 4, "use_sliding_window": True}
LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
SCALED = {"rope_theta": 1e4, "original_max_position_embeddings": 16}
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
    "llama3 rope": {"layer": {"rope_parameters": {**LLAMA3, **SCALED}}},
    "yarn rope": {"layer": {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, **SCALED}}},
    "parallel": {"has": Has(mask_hidden=True, input_norm=True)},
}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vllm-logits")


@pytest.fixture(scope="module")
def embeddings(work: Path) -> torch.Tensor:
    return write_target(work / "target")


@pytest.fixture(scope="module")
def folders(work: Path) -> dict[str, Path]:
    out = {}
    for name, kind in KINDS.items():
        options = {"d": D, "has": Has(), **kind}
        out[name] = soften(variants.speculators(work / name.replace("/", " "), **options))
    return out


@pytest.fixture(scope="module")
def ran(work: Path, folders: dict[str, Path], embeddings: torch.Tensor, vllm_python: Path) -> Ran:
    env = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    return run(vllm_python, "vllm_logits.py", folders, work / "target", work, **env)


@pytest.mark.parametrize("name", KINDS)
def test_the_logits_are_vllms(ran: Ran, folders: dict[str, Path], embeddings: torch.Tensor, name: str):
    assert ran.classes[name] == ("Eagle3Qwen3ForCausalLM" if "q/k norm" in name else "Eagle3LlamaForCausalLM")
    compare(open_head(folders[name]), embeddings, ran, name)
