"""The preflight inside a validation: an engine that will not get the files right is not started."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.validation import validate
from support.versions import VLLM

from eagle3hub.engines.specs import versions_with
from eagle3hub.validation.derive import contradictions
from eagle3hub.validation.report import load_report

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def starts(tmp_path: Path) -> tuple[Path, Path]:
    """An interpreter that only leaves a mark where an engine is started, and the mark."""
    return interpreter(tmp_path, VLLM), tmp_path / "started"


def interpreter(folder: Path, version: str) -> Path:
    """An interpreter that tells the version of its engine, and only leaves a mark where the engine is started."""
    python = folder / "python"
    python.write_text(f"#!/bin/sh\n[ $2 = -c ] && echo version {version} && exit\ntouch {folder}/started\nexit 7\n")
    python.chmod(0o755)
    return python


def off_by_one(head: Path) -> None:
    """After-layer ids where vLLM's CPU runner reads boundary ids: it serves, with every tap one layer too low."""
    file = head / "config.json"
    config = json.loads(file.read_text())
    config["architectures"] = ["LlamaForCausalLMEagle3"]
    config["eagle_config"] = {"use_aux_hidden_state": True, "eagle_aux_hidden_state_layer_ids": [1, 14, 26]}
    file.write_text(json.dumps(config))


def entry_of(head: Path, target: Path, engine: str, python: Path, **options: Any) -> dict[str, Any]:
    report = validate(head, target=target, engine=engine, engine_python={engine: python}, **options)
    (entry,) = report.document["engines"]
    return dict(entry)


def test_what_is_silently_wrong_fails_unstarted(
    head: Path, paper_target: Path, starts: tuple[Path, Path], tmp_path: Path, cli: Cli
) -> None:
    python, mark = starts
    off_by_one(head)
    command = ("validate", head, "--target", paper_target, "--engine", "vllm", "--engine-python", f"vllm={python}")
    status, out, _ = cli(*command, "--report", tmp_path / "report.json")
    (entry,) = load_report(tmp_path / "report.json").document["engines"]
    assert (status, entry["verdict"], entry["preflight"]["verdict"]) == (1, "fail", "silently_wrong")
    assert entry["preflight"]["version"] == f"{VLLM} V1"
    assert "would serve these files silently wrong" in entry["reason"]
    assert "(aux-layers)" in entry["reason"]
    assert "silently wrong: " in out
    assert not mark.exists()


def test_a_fault_of_the_engine_is_said_once_where_its_verdict_is_right(
    head: Path, paper_target: Path, cli: Cli
) -> None:
    shown = " ".join(cli("inspect", head, "--target", paper_target)[1].split())
    (engine,) = [
        one
        for one in json.loads(cli("inspect", head, "--target", paper_target, "--json")[1])["engines"]
        if "note" in one
    ]
    assert (engine["engine"], engine["verdict"]) == ("sglang_jax", "right")
    assert "one position too far" in engine["note"]
    assert shown.count(engine["note"]) == 1
    recipe = cli("recipe", head, "--target", paper_target, "--engine", "sglang-jax")[1]
    assert " ".join(recipe.split()).count(engine["note"]) == 1
    assert "too far" not in cli("recipe", head, "--target", paper_target)[1]


NEWER = "9.8.7"


def test_a_version_that_is_not_known_is_judged_as_the_nearest_and_said_so_once(
    head: Path, paper_target: Path, tmp_path: Path, cli: Cli
) -> None:
    newest = versions_with("vllm", "contract.toml")[-1]
    said = f"vLLM {NEWER} is newer than every version that eagle3hub knows: it is judged as {newest}"
    off_by_one(head)
    python = interpreter(tmp_path, f"{NEWER}+cu129")
    command = ("validate", head, "--target", paper_target, "--engine", "vllm", "--engine-python", f"vllm={python}")
    status, out, _ = cli(*command, "--report", tmp_path / "report.json", "--html", tmp_path / "page.html")
    report = load_report(tmp_path / "report.json")
    (entry,) = report.document["engines"]
    assert (status, entry["version"]) == (1, NEWER)
    assert (entry["preflight"]["version"], entry["preflight"]["warning"]) == (f"{newest} V1", said)
    assert out.count(said) == 1
    assert (tmp_path / "page.html").read_text().count(said) == 1 + entry["reason"].count(said)
    assert contradictions(report) == []
    matrix = cli(*command, "--layouts", "specforge,modelopt")[1]
    assert matrix.count(said) == 1
    status, out, _ = cli("inspect", head, "--engine-version", f"vllm={NEWER}")
    assert out.count(said) == 1
    assert VLLM not in out or newest == VLLM
    status, out, _ = cli("inspect", head, "--engine-version", f"vllm={NEWER}", "--json")
    told = [one for one in json.loads(out)["engines"] if one["engine"] == "vllm"]
    assert [one["warning"] for one in told] == [said] * len(told)
    assert {one["version"].split()[0] for one in told} == {newest}
    status, out, _ = cli("recipe", head, "--target", paper_target, "--version", NEWER)
    assert (status, out.count(said), out.count(f"vLLM {NEWER}")) == (0, 1, 2)
    status, out, _ = cli("recipe", head, "--target", paper_target, "--version", NEWER, "--json")
    assert (json.loads(out)["warning"], json.loads(out)["version"]) == (said, NEWER)


@pytest.mark.parametrize("value", ["vllm", "vllm=", "vllm=newest", "vlm=1.0"])
def test_an_engine_version_that_is_none_is_a_usage_error(head: Path, cli: Cli, value: str) -> None:
    status, out, err = cli("inspect", head, "--engine-version", value)
    assert (status, out) == (2, ""), err


def test_what_is_refused_fails_unstarted(head: Path, paper_target: Path, starts: tuple[Path, Path]) -> None:
    python, mark = starts
    entry = entry_of(head, paper_target, "sglang", python)
    assert (entry["verdict"], entry["preflight"]["verdict"]) == ("fail", "refuses")
    assert "will refuse these files" in entry["reason"]
    assert any(f"({r['code']})" in entry["reason"] for r in entry["preflight"]["reasons"])
    assert not mark.exists()


def test_it_runs_anyway_if_asked(head: Path, paper_target: Path, starts: tuple[Path, Path]) -> None:
    python, mark = starts
    entry = entry_of(head, paper_target, "sglang", python, run_anyway=True)
    assert mark.exists()
    assert (entry["verdict"], entry["preflight"]["verdict"]) == ("fail", "refuses")
    assert "exit status 7" in entry["reason"], "the run's own end, not the preflight's word"


def test_what_is_right_is_started(head: Path, paper_target: Path, starts: tuple[Path, Path]) -> None:
    python, mark = starts
    entry = entry_of(head, paper_target, "vllm", python)
    assert mark.exists()
    assert entry["preflight"]["verdict"] == "right"


def test_the_runner_of_the_device_is_the_one_asked(head: Path, paper_target: Path, tmp_path: Path) -> None:
    """The same files: the CPU runner reads nested ids one layer too low, the GPU runner does not read them at all."""
    from eagle3hub.checkpoint.folder import open_checkpoint
    from eagle3hub.layouts import open_head
    from eagle3hub.validation.engine_runner import preflight_check

    off_by_one(head)
    checkpoint = open_checkpoint(head)
    expects = preflight_check(checkpoint, open_head(checkpoint, target=str(paper_target)), str(paper_target))
    found = [expects("vllm", VLLM, device) for device in ("cpu", "cuda")]
    assert [v.version for v in found] == [f"{VLLM} V1", f"{VLLM} V2"]
    assert [v.kind for v in found] == ["silently_wrong", "right"]


def test_an_engine_that_is_not_there_is_still_told_of(
    head: Path, paper_target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EAGLE3HUB_CACHE", str(tmp_path / "cache"))
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexit 7\n")
    python.chmod(0o755)
    report = validate(head, target=paper_target, engine="vllm,sglang", engine_python={"vllm": python})
    vllm, sglang = report.document["engines"]
    assert (sglang["verdict"], sglang["preflight"]["verdict"]) == ("unavailable", "refuses")
    assert "preflight" not in sglang["reason"], "it did not get as far as that"
    assert vllm["verdict"] == "fail"
