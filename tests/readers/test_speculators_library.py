"""The speculators library loads what we write for it, and its own model gives the exporters' logits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from exporters import forward
from exporters.expectations import CANNOT, EXPECTED, FOLDER, TARGET, USABLE
from safetensors.torch import load_file, save_file

from eagle3hub.layouts import open_head
from readers.support import convert_all, run_reader, speculators_python

pytestmark = pytest.mark.exporters

NAMES = [n for n in USABLE if not EXPECTED[n].has & CANNOT["speculators"] and "speculators" not in EXPECTED[n].lacks]
# float32 on both sides, the same operations in another order
CLOSE = {"rtol": 1e-4, "atol": 2e-5}


def broken(folder: Path, source: Path, config: dict[str, Any] | None = None, drop: str | None = None) -> Path:
    """A copy with some config fields changed, or without one tensor."""
    shutil.copytree(source, folder)
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **(config or {})}))
    if drop is not None:
        tensors = load_file(folder / "model.safetensors")
        del tensors[drop]
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("speculators")


@pytest.fixture(scope="module")
def reports(work: Path) -> dict[str, dict[str, Any]]:
    heads, failed = convert_all(NAMES, "speculators", work)
    plain = heads["specforge-sglang-plain"]
    heads["broken-residual"] = broken(work / "broken-residual", plain, {"norm_before_residual": True})
    heads["broken-feedback"] = broken(work / "broken-feedback", plain, {"norm_output": True})
    heads["broken-tensor"] = broken(work / "broken-tensor", plain, drop="layers.0.hidden_norm.weight")
    return run_reader(speculators_python(), "speculators_reader.py", heads, work) | failed


def same(report: dict[str, Any], logits: torch.Tensor, feedback: torch.Tensor) -> bool:
    pairs = (report["logits"], logits), (report["feedback"], feedback)
    return all(torch.allclose(torch.tensor(seen), wanted, **CLOSE) for seen, wanted in pairs)


@pytest.mark.parametrize("name", NAMES)
def test_the_library_reads_it_as_the_exporter_meant_it(reports: dict[str, dict[str, Any]], name: str):
    head = open_head(FOLDER / name / "head", target=str(TARGET))
    report = reports[name]
    assert "failed" not in report, report
    assert report["class"] == ("PEagleDraftModel" if head.semantics.parallel_drafting else "Eagle3DraftModel")
    assert (report["ignored"], report["unset"], report["changed"]) == ([], [], [])
    assert report["target_ids"] == (None if head.vocab_map is None else list(head.vocab_map.target_id))
    assert head.aux is not None
    assert report["taps"] == head.aux.boundary
    if EXPECTED[name].golden == "none":
        return
    golden = load_file(FOLDER / name / "golden.safetensors")
    assert same(report, *forward.run(head, golden))
    assert same(report, golden["logits"], golden["feedback"]) == (EXPECTED[name].golden == "equal")


def test_a_wrong_folder_is_noticed(reports: dict[str, dict[str, Any]]):
    golden = load_file(FOLDER / "specforge-sglang-plain" / "golden.safetensors")
    for name in ("broken-residual", "broken-feedback", "broken-tensor"):
        assert not same(reports[name], golden["logits"], golden["feedback"])
    assert reports["broken-tensor"]["unset"] == ["layers.0.hidden_norm.weight"]
