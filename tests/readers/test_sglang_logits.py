"""SGLang's own draft model class, with its own loader, gives the reference's logits wherever it has the variant."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from engines.sglang_cpu.environment import ensure
from support import variants
from support.variants import Has

from eagle3hub.head import Head
from eagle3hub.layouts import open_head
from eagle3hub.layouts.base import ReadOptions
from readers.engine_logits import DEEP, LATENT, D, Ran, compare, run, soften, write_target

pytestmark = pytest.mark.engine

NOTHING = Has()
LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 16}


def modelopt(at: Path, has: Has = NOTHING, d: dict[str, int] = D, **options: Any) -> Path:
    return variants.modelopt(at, d, has, mlp_bias=False, bos_token_id=1, **options)


def latent(at: Path, d: dict[str, int] = LATENT, **options: Any) -> Path:
    """With a scaling, without which SGLang stops on CPU (``rotary_embedding/factory.py:478``)."""
    scaling = {**DEEP, "mscale": 1.0, "mscale_all_dim": 1.0}
    return modelopt(at, Has(mla=True), d, **{"rope_scaling": scaling, **options})


KINDS: dict[str, Callable[[Path], Path]] = {
    "plain": lambda at: variants.specforge(at, D),
    "fc norm": lambda at: variants.specforge(at, D, Has(fc_norm=True)),
    "norm output": lambda at: variants.specforge(at, D, norm_output=True),
    "unsorted vocabulary": lambda at: modelopt(at, unsorted=True),
    "full vocabulary": lambda at: modelopt(at, d={**D, "draft": D["vocab"]}, draft_vocab_size=D["vocab"]),
    "norm before fc": lambda at: modelopt(at, Has(input_norm=True)),
    "bias of fc": lambda at: modelopt(at, Has(fc_bias=True), bias=True),
    "two layers": lambda at: modelopt(at, Has(layers=2)),
    "large eps": lambda at: variants.specforge(at, D, rms_norm_eps=1e-2),
    "llama3 rope": lambda at: variants.specforge(at, D, rope_scaling=LLAMA3),
    "mla": lambda at: latent(at),
    "mla, reduced vocabulary, large eps": lambda at: latent(at, rms_norm_eps=1e-2),
    "mla, full vocabulary": lambda at: latent(at, {**LATENT, "draft": D["vocab"]}, draft_vocab_size=D["vocab"]),
    "mla, yarn of DeepSeek-V2": lambda at: latent(at, rope_scaling={**DEEP, "mscale": 0.9, "mscale_all_dim": 0.707}),
    "mla, yarn without mscale": lambda at: latent(at, rope_scaling=DEEP),
    "mla, theta": lambda at: latent(at, rope_theta=300.0),
    "mla, fc norm, norm output": lambda at: variants.specforge(
        at,
        LATENT,
        Has(mla=True, fc_norm=True),
        norm_output=True,
        model_type="kimi_k2",
        architectures=["Eagle3DeepseekV2ForCausalLM"],
        rope_scaling=DEEP,
    ),
    "mla, deepseek_v3": lambda at: latent(at, model_type="deepseek_v3"),
}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sglang-logits")


@pytest.fixture(scope="module")
def embeddings(work: Path) -> torch.Tensor:
    return write_target(work / "target")


def read(name: str, folder: Path) -> Head:
    return open_head(folder, options=ReadOptions(norm_output="post" if "norm output" in name else None))


@pytest.fixture(scope="module")
def folders(work: Path) -> dict[str, Path]:
    return {name: soften(make(work / name)) for name, make in KINDS.items()}


@pytest.fixture(scope="module")
def ran(work: Path, folders: dict[str, Path], embeddings: torch.Tensor) -> Ran:
    # SGLang calls the input norms of later layers otherwise than every trainer
    renamed = Path(shutil.copytree(folders["two layers"], work / "two layers renamed"))
    variants.renamed(renamed, lambda name: name.replace("layers.1.input_layernorm", "layers.1.hidden_norm"))
    return run(ensure(), "sglang_logits.py", {**folders, "two layers": renamed}, work / "target", work)


@pytest.mark.parametrize("name", KINDS)
def test_the_logits_are_sglangs(ran: Ran, folders: dict[str, Path], embeddings: torch.Tensor, name: str):
    own = "Eagle3DeepseekV2ForCausalLM" if name.startswith("mla") else "LlamaForCausalLMEagle3"
    assert ran.classes[name] == own
    compare(read(name, folders[name]), embeddings, ran, name)
