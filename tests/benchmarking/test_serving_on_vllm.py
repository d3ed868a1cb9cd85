"""Real servers of vLLM on CPU under load, sent to by the real AIPerf: the example head, and every baseline."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from support.mtp import save_target, train_mtp
from support.versions import VLLM
from validation.trained import write_prompts

from eagle3hub.benchmarking import BenchOptions
from eagle3hub.benchmarking.serving.measure import RealServers, run_serving
from eagle3hub.benchmarking.serving.plan import Contender, ServingPlan
from eagle3hub.benchmarking.serving.results import ServingResults, load_any_results
from eagle3hub.prompts import load_prompts
from eagle3hub.validation.target import identify_target

pytestmark = pytest.mark.engine
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "smollm2-135m" / "head"


def _lengths(found: ServingResults) -> dict[str, float]:
    return {
        cell.server: cell.summary.acceptance.mean_acceptance_length
        for cell in found.cells
        if cell.summary is not None and cell.summary.acceptance is not None
    }


def _same_texts(found: ServingResults) -> bool:
    """Whether every server gave the same tokens as every other, prompt by prompt."""
    texts = {}
    for cell in found.cells:
        texts.setdefault(cell.place, set()).add(tuple(row.tokens_sha256 for row in cell.requests))
    return all(len(one) == 1 for one in texts.values())


@pytest.mark.slow
def test_a_head_and_its_baselines(
    cli: Callable[..., tuple[int, str, str]], smollm2_target: Path, vllm_python: Path, tmp_path: Path
) -> None:
    command = ["bench", f"ours={EXAMPLE}", "--target", str(smollm2_target), "--engine", "vllm", "--datasets", "smoke"]
    command += ["--engine-python", f"vllm={vllm_python}", "--num-prompts", "8", "--max-new-tokens", "24"]
    command += ["--concurrency", "4", "--baseline", "none,ngram", "--runs", "1", "--output", str(tmp_path)]
    code, _, err = cli(*command)
    assert code == 0, err
    found = load_any_results(tmp_path / "results.json")
    assert isinstance(found, ServingResults)
    assert {cell.engine_version for cell in found.cells} == {VLLM}
    methods = [(server.name, server.method) for server in found.servers]
    assert methods == [("ours", "eagle3"), ("none", "none"), ("ngram", "ngram")]
    assert _lengths(found)["ours"] > 1.2
    assert {comparison.identical for comparison in found.comparisons} == {8}, "lossless in float32, every one"
    for cell in found.cells:
        assert cell.summary is not None
        assert all(row.sent < row.first <= row.last for row in cell.requests)
        assert cell.environment["processor"]


@pytest.mark.slow
def test_mtp_of_the_target(vllm_python: Path, tmp_path: Path) -> None:
    prompts = load_prompts(str(write_prompts(tmp_path / "questions.jsonl")))
    target = save_target(tmp_path / "target")
    assert train_mtp(target, [prompt.text for prompt in prompts.prompts], 48) > 0.1
    assert json.loads((target / "config.json").read_text())["num_nextn_predict_layers"] == 1
    options = BenchOptions(engine="vllm", engine_python={"vllm": vllm_python}, max_new_tokens=40)
    mtp = Contender("mtp", "mtp", None, 1, is_baseline=True)
    none = Contender("none", "none", None, 0, is_baseline=True)
    plan = ServingPlan(identify_target(target), (mtp, none), (prompts,), (4,), 1, 0, ("vllm",), options, 0.0)
    found = run_serving(plan, RealServers(plan))
    assert found.verdict == "pass", [cell.reason for cell in found.cells]
    assert 1 < _lengths(found)["mtp"] <= 2
    assert _same_texts(found), "four at a time as well"
    assert replace(found.cells[0].settings, draft_tokens=0) == found.cells[1].settings
