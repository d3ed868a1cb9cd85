"""The real thing: llama.cpp on CPU, from a head's folder through its own converter to counters; two short prompts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from support.rewriting import edit, read
from support.validation import validate
from support.versions import LLAMACPP

from eagle3hub.engines import get_engine
from eagle3hub.engines.base import EngineFailure, RunSpec
from eagle3hub.prompts import load_prompts
from eagle3hub.system.progress import silent
from eagle3hub.validation.engine_runner import Cache
from eagle3hub.validation.report import Report

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def cache() -> Cache:
    """The target alone, and what the reference knows of it, is the same for every head here."""
    return Cache()


def check(head: Path, original: Path, target: Path, python: Path, cache: Cache) -> Report:
    return validate(
        head,
        target=target,
        engine="reference,llamacpp",
        engine_python={"llamacpp": python},
        reference_head=original,
        num_prompts=8,
        max_new_tokens=20,
        run_anyway=True,  # what the preflight foresees is measured here
        cache=cache,
    )


def test_it_counts_what_the_reference_counts(
    head: Path, smollm2_target: Path, llamacpp_python: Path, cache: Cache, tmp_path: Path
) -> None:
    report = check(head, head, smollm2_target, llamacpp_python, cache)
    assert report.verdict == "pass", report.reason
    ours, theirs = report.document["engines"]
    assert theirs["version"] == LLAMACPP
    assert theirs["preflight"]["verdict"] == "right"
    assert theirs["load"] == {"checked": True, "not_loaded": [], "ignored": ["t2d"], "aux_boundaries": [2, 15, 27]}
    assert theirs["lossless"] == {"verdict": "identical", "identical": 8, "prompts": 8, "divergences": []}
    assert theirs["gates"][1]["reason"] == (
        "all 8 prompts have the counters of the reference exactly, "
        "counted as llama.cpp does: nothing past the response's end"
    )
    same = ("prompt_tokens", "new_tokens", "tokens_sha256")
    assert [[row[k] for k in same] for row in ours["per_prompt"]] == [
        [row[k] for k in same] for row in theirs["per_prompt"]
    ]
    drafted = [sum(row["drafted"] for row in entry["per_prompt"]) for entry in (ours, theirs)]
    assert drafted[1] < drafted[0], "it drafts no further than the limit leaves room for"
    text = json.dumps(report.document)
    assert str(smollm2_target) not in text
    assert str(tmp_path) not in text


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["map", "taps"])
def test_what_it_loads_without_a_word_is_caught(
    head: Path, example_head: Path, smollm2_target: Path, llamacpp_python: Path, cache: Cache, fault: str
) -> None:
    if fault == "map":
        tensors = read(head)[0]
        d2t, t2d = tensors["d2t"], torch.zeros_like(tensors["t2d"])
        another = torch.randperm(len(t2d), generator=torch.Generator().manual_seed(0))[: len(d2t)].sort().values
        t2d[another] = True
        edit(head, d2t=(another - torch.arange(len(d2t))).to(d2t.dtype), t2d=t2d)
    else:
        edit(head, config={"eagle_aux_hidden_state_layer_ids": [3, 16, 28]})
    report = check(head, example_head, smollm2_target, llamacpp_python, cache)
    theirs = report.document["engines"][1]
    assert theirs["verdict"] == "fail"
    assert theirs["load"]["not_loaded"] == []
    assert theirs["lossless"]["identical"] == 8, "the text does not tell"
    assert theirs["load"]["aux_boundaries"] == ([2, 15, 27] if fault == "map" else [3, 16, 28])
    tau = theirs["acceptance"]["mean_acceptance_length"]
    assert (tau <= 1.1) == (fault == "map"), "of taps one layer off only the rounds tell"
    assert "the rounds differ from the reference's in" in theirs["reason"]


def test_what_its_converter_refuses_is_told(head: Path, smollm2_target: Path, llamacpp_python: Path) -> None:
    edit(head, extra=torch.ones(3))
    job = RunSpec(target=str(smollm2_target), head=head, prompts=load_prompts("smoke", 1))
    found = get_engine("llamacpp").run(job, llamacpp_python, timeout=120, progress=silent)
    assert isinstance(found, EngineFailure)
    assert found.reason == (
        "llama.cpp could not load the model with the head: ConversionError: ValueError: Can not map tensor 'extra'"
    )
    assert found.log_tail
