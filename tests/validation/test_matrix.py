"""Every layout on every engine: what is converted, what is measured, and what the whole is worth."""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from support import heads, targets
from support.validation import validate_layouts
from validation import samples

from eagle3hub.conversion.plan import ConvertOptions
from eagle3hub.conversion.run import convert
from eagle3hub.errors import ManifestError, UnavailableError, UsageError
from eagle3hub.layouts import LAYOUTS
from eagle3hub.validation.layouts import LayoutResult, judge_layouts
from eagle3hub.validation.matrix import Matrix, layout_names
from eagle3hub.validation.render import render_matrix
from eagle3hub.validation.report import Report

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """An interpreter that only fails."""
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 7\n")
    python.chmod(0o755)
    return python


def only_speculators_holds(head: Path, folder: Path, target: Path) -> Path:
    """The example with a residual after its norm, which the flat layouts have no field for."""
    convert(head, folder, "speculators", ConvertOptions(target=str(target), speculative_tokens=3))
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "norm_before_residual": True}))
    (folder / "eagle3hub.json").unlink()
    return folder


def cells(matrix: Matrix, key: str) -> dict[tuple[str, str | None], Any]:
    return {(cell["layout"], cell["engine"]): cell[key] for cell in matrix.document["cells"]}


def test_names_of_layouts() -> None:
    assert layout_names("all") == list(LAYOUTS)
    assert layout_names("modelopt, specforge") == ["modelopt", "specforge"]
    for wrong in ("", "specforge,specforge", "gguf", "all,specforge"):
        with pytest.raises(UsageError):
            layout_names(wrong)


def test_cells_say_how_they_came_about(
    head: Path, paper_target: Path, broken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EAGLE3HUB_CACHE", str(tmp_path / "cache"))
    before = sorted(tmp_path.iterdir())
    matrix = validate_layouts(
        head,
        ["specjax", "specforge"],
        target=paper_target,
        engine="vllm,sglang,trtllm",
        engine_python={"sglang": broken},
    )
    assert cells(matrix, "how") == {
        ("specjax", "vllm"): "none",
        ("specjax", "sglang"): "preflight",
        ("specjax", "trtllm"): "none",
        ("specforge", "vllm"): "none",
        ("specforge", "sglang"): "run",
        ("specforge", "trtllm"): "none",
    }
    assert cells(matrix, "verdict")[("specjax", "vllm")] == "unavailable"
    assert cells(matrix, "preflight")[("specjax", "vllm")] == "right"
    assert matrix.verdict == "fail"
    assert matrix.document["reason"].startswith("specjax: preflight")
    assert str(tmp_path) not in json.dumps(matrix.document)
    assert sorted(tmp_path.iterdir()) == before


def test_a_layout_that_cannot_hold_the_head_is_a_row_of_its_own(
    head: Path, paper_target: Path, broken: Path, tmp_path: Path
) -> None:
    odd = only_speculators_holds(head, tmp_path / "odd", paper_target)
    options: dict[str, Any] = {"target": paper_target, "engine": "vllm,sglang"}
    pythons = {"vllm": broken, "sglang": broken}
    matrix = validate_layouts(odd, "speculators,modelopt", engine_python=pythons, **options)
    assert cells(matrix, "verdict")[("modelopt", None)] == "refused"
    row = matrix.document["layouts"][1]
    assert (row["verdict"], row["report"]) == ("fail", None)
    assert row["refusal"]["code"].startswith("refused")
    everything = validate_layouts(odd, "all", engine_python=pythons, **options)
    by_name = {row["layout"]: row["verdict"] for row in everything.document["layouts"]}
    assert by_name["modelopt"] is None, "nobody asked for it"
    nothing = validate_layouts(odd, "modelopt", engine_python=pythons, **options)
    assert nothing.verdict == "fail"
    assert nothing.document["reason"].startswith("no layout can hold this head: modelopt: ")


def test_a_single_engine_that_is_not_there_is_an_error(
    head: Path, paper_target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EAGLE3HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UnavailableError, match="not installed"):
        validate_layouts(head, "specforge", target=paper_target, engine="vllm")


@pytest.mark.slow
def test_layouts_of_the_example_count_alike(cli: Cli, head: Path, smollm2_target: Path, tmp_path: Path) -> None:
    file = tmp_path / "matrix.json"
    words = ("validate", head, "--target", smollm2_target, "--num-prompts", 8, "--max-new-tokens", 12, "--quiet")
    status, out, err = cli(*words, "--layouts", "specforge,modelopt", "--report", file)
    assert status == 0, err
    assert "all 2 layouts pass, with the same counters and the same text" in out
    matrix = Matrix.from_json(json.loads(file.read_text()))
    assert len(set(map(str, cells(matrix, "mean_acceptance_length").values()))) == 1
    first, second = (row["report"] for row in matrix.document["layouts"])
    assert first["head"]["digest"] != second["head"]["digest"]
    assert [gate["name"] for gate in first["engines"][0]["gates"]] == ["collapse", "agreement"]


def test_a_matrix_is_printed_as_it_is_written(cli: Cli, tmp_path: Path) -> None:
    """Of a head that learnt nothing, on two prompts: the layouts count alike, and that is too little to judge by."""
    target = targets.save(tmp_path / "target", tokenizer=True, max_position_embeddings=4096)
    sizes = heads.dims(hidden=16, inter=24, heads=4, kv=2, vocab=targets.VOCAB, draft=24)
    taps = {"use_aux_hidden_state": True, "eagle_aux_hidden_state_layer_ids": [0, 1, 2]}
    small = heads.specforge(tmp_path / "head", sizes, eagle_config=taps)
    words = ("validate", small, "--target", target, "--engine", "reference", "--num-prompts", 2, "--max-new-tokens", 8)
    file = tmp_path / "matrix.json"
    status, out, err = cli(*words, "--layouts", "specforge,modelopt", "--report", file, "--json")
    assert status == 1, err
    printed = json.loads(out)
    assert printed == json.loads(file.read_text())
    assert printed["verdict"] == "inconclusive"
    found = cells(Matrix.from_json(printed), "mean_acceptance_length")
    assert list(found) == [("specforge", "reference"), ("modelopt", "reference")]
    assert len(set(found.values())) == 1


@pytest.mark.parametrize("option", ["--reference-head", "--save-responses", "--write-acceptance-reference"])
def test_options_of_one_folder(cli: Cli, head: Path, paper_target: Path, tmp_path: Path, option: str) -> None:
    status, _, err = cli("validate", head, "--target", paper_target, "--layouts", "all", option, tmp_path / "x")
    assert status == 2
    assert option in err


def result(layout: str, **changes: Any) -> LayoutResult:
    document = samples.report()
    document["head"]["layout"] = layout
    document["engines"][0].update(changes)
    document["verdict"] = document["engines"][0]["verdict"]
    return LayoutResult(layout, Report.from_json(document))


def test_layouts_are_judged_together() -> None:
    one, two = result("specforge"), result("modelopt")
    assert judge_layouts([one])[0] == "pass"
    assert judge_layouts([one, two])[0] == "pass"
    rows = copy.deepcopy(two.report.document["engines"][0]["per_prompt"])
    rows[0]["rounds"] += 1
    verdict, reason = judge_layouts([one, result("modelopt", per_prompt=rows)])
    assert verdict == "fail"
    assert "modelopt and specforge are the same head, but vllm counts differently: question 1" in reason
    failed = result("modelopt", per_prompt=rows, verdict="inconclusive", reason="too few prompts")
    assert judge_layouts([one, failed]) == ("inconclusive", "modelopt: too few prompts")


def matrix_of(**verdicts: str) -> dict[str, Any]:
    names = ("reference", "vllm", "sglang", "trtllm")
    common = {"ci95": None, "preflight": "right", "how": "run", "reason": "the head collapses"}
    return {
        "schema": "eagle3hub/matrix/1",
        **{key: samples.report()[key] for key in ("tool", "measured_at", "target")},
        "verdict": "fail",
        "reason": "it [fails]",
        "head": {key: samples.report()["head"][key] for key in ("source", "layout", "digest")},
        "engines": list(names),
        "cells": [
            {
                "layout": layout,
                "engine": e,
                "verdict": verdicts.get(e, "pass"),
                "mean_acceptance_length": 1.4,
                **common,
            }
            for layout in LAYOUTS
            for e in names
        ],
        "layouts": [
            {"layout": layout, "verdict": "fail", "refusal": None, "report": result(layout).report.document}
            for layout in LAYOUTS
        ],
    }


@pytest.mark.parametrize(
    ("expected", "says"),
    [("right", "would be right"), ("refuses", "would refuse"), ("silently_wrong", "silently wrong")],
)
def test_what_is_known_of_an_engine_that_is_not_here(expected: str, says: str) -> None:
    document = matrix_of(trtllm="unavailable")
    for cell in document["cells"]:
        if cell["engine"] == "trtllm":
            cell.update(how="none", mean_acceptance_length=None, preflight=expected)
    out = Console(file=io.StringIO(), width=100, highlight=False)
    render_matrix(Matrix.from_json(document), out)
    assert isinstance(out.file, io.StringIO)
    assert out.file.getvalue().count(f"? not here, {says}") == len(LAYOUTS)


def test_the_table_fits_a_hundred_columns() -> None:
    out = Console(file=io.StringIO(), width=100, highlight=False)
    render_matrix(Matrix.from_json(matrix_of(vllm="inconclusive", sglang="inconclusive", trtllm="fail")), out)
    assert isinstance(out.file, io.StringIO)
    lines = out.file.getvalue().splitlines()
    assert lines[0] == "FAIL  it [fails]"
    assert max(map(len, lines)) <= 100
    (row,) = [line for line in lines if line.startswith("  speculators")]
    assert " ".join(row.split()) == (
        "speculators ✓ pass τ 1.400 ? inconclusive τ 1.400 ? inconclusive τ 1.400 ✗ fails τ 1.400"
    )
    assert "every layout on vllm, every layout on sglang, every layout on trtllm: the head collapses" in " ".join(
        lines
    )


@pytest.mark.parametrize("key", ["cells", "head", "reason", "layouts"])
def test_what_does_not_fit_is_refused(key: str) -> None:
    document = matrix_of()
    del document[key]
    with pytest.raises(ManifestError, match=key):
        Matrix.from_json(document)
    document = matrix_of()
    document["layouts"][0]["report"]["verdict"] = "fine"
    with pytest.raises(ManifestError, match="the report of specjax"):
        Matrix.from_json(document)
