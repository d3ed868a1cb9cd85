"""Real servers of vLLM on CPU under load, sent to by the real AIPerf: a head, and every baseline it has."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support import heads, targets, variants
from support.mtp import HIDDEN, save_target, train_mtp
from support.versions import VLLM
from validate.trained import trained, write_prompts

from eagle3hub.benchmarking.serving.results import ServingResults, load_any_results
from eagle3hub.conversion.plan import ConvertOptions
from eagle3hub.conversion.run import convert
from eagle3hub.head import Rope, Semantics

pytestmark = pytest.mark.engine
NEW = 48
D = {**heads.DIMS, "hidden": HIDDEN, "inter": 192, "heads": 4, "kv": 2, "head_dim": 32}
D |= {"vocab": targets.VOCAB, "draft": 60}


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prompts(tmp_path_factory.mktemp("prompts") / "questions.jsonl")


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory, prompts: Path) -> Path:
    folder = save_target(tmp_path_factory.mktemp("mtp") / "target")
    asked = [json.loads(line)["turns"][0] for line in prompts.read_text().splitlines()]
    assert train_mtp(folder, asked, NEW) > 0.1
    return folder


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory, target: Path, prompts: Path) -> Path:
    semantics = Semantics(rope=Rope(700.0), rms_norm_eps=1e-6)
    draft, taps = trained(target, prompts, semantics, D, NEW, epochs=20, rate=0.006)
    assert draft.target_ids is not None
    folder = tmp_path_factory.mktemp("head")
    plain = variants.modelopt(
        folder / "trained",
        D,
        variants.Has(),
        rope_theta=700.0,
        rms_norm_eps=1e-6,
        max_position_embeddings=512,
        torch_dtype="float32",
        mlp_bias=False,
        bos_token_id=1,
        eagle_config={"eagle_aux_hidden_state_layer_ids": taps.after_layer, "use_aux_hidden_state": True},
        eagle_aux_hidden_state_layer_ids=taps.boundary,
    )
    own = variants.replace(plain, **draft.weights, d2t=draft.target_ids - torch.arange(D["draft"]))
    convert(own, folder / "universal", "universal", ConvertOptions(target=str(target), engines=("vllm", "sglang")))
    return folder / "universal"


def test_a_head_and_all_its_baselines(
    cli: Callable[..., tuple[int, str, str]],
    head: Path,
    target: Path,
    prompts: Path,
    vllm_python: Path,
    tmp_path: Path,
) -> None:
    command = ["bench", f"ours={head}", "--target", str(target), "--target-name", "owner/target", "--engine", "vllm"]
    command += ["--engine-python", f"vllm={vllm_python}", "--datasets", str(prompts), "--concurrency", "4"]
    command += ["--baseline", "none,mtp:1,ngram", "--runs", "2", "--max-new-tokens", "40", "--output", str(tmp_path)]
    code, _, err = cli(*command)
    assert code == 0, err
    found = load_any_results(tmp_path / "results.json")
    assert isinstance(found, ServingResults)
    assert {cell.engine_version for cell in found.cells} == {VLLM}
    assert [(server.name, server.method) for server in found.servers] == [
        ("ours", "eagle3"),
        ("none", "none"),
        ("mtp", "mtp"),
        ("ngram", "ngram"),
    ]
    tau = {
        cell.server: cell.summary.acceptance.mean_acceptance_length
        for cell in found.cells
        if cell.summary is not None and cell.summary.acceptance is not None
    }
    assert tau["ours"] > 1.5
    assert 1 < tau["mtp"] <= 2
    assert {comparison.identical for comparison in found.comparisons} == {2 * 8}, "lossless in float32, every one"
    for cell in found.cells:
        assert cell.summary is not None
        assert cell.summary.new_tokens == 8 * 40
        assert all(row.sent < row.first <= row.last for row in cell.requests)
        assert (cell.summary.acceptance is None) is (cell.server == "none")
    both = [[row.counts for row in cell.requests] for cell in found.cells if cell.server == "ours"]
    assert both[0] == both[1]
