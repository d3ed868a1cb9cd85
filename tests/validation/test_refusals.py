"""What validation refuses before and after it measures: the code, the sentence, nothing written."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from support import heads
from validation.samples import failed, report

from eagle3hub.errors import InputError, SourceError
from eagle3hub.head.target import require_files
from eagle3hub.validation import reference_runner
from eagle3hub.validation.report import Report, keep_reference

Cli = Callable[..., tuple[int, str, str]]


def test_the_reference_without_its_packages(tmp_path: Path, target: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reference_runner, "_PACKAGES", ("torch", "a_package_of_nobody"))
    head = heads.specforge(tmp_path / "head")
    saved = tmp_path / "report.json"
    status, out, _ = cli("validate", head, "--target", target, "--report", saved, "--json")
    error = json.loads(out)["error"]
    assert (status, error["code"]) == (4, "reference-packages")
    assert error["message"] == "the reference needs a_package_of_nobody, which this environment does not have"
    assert "--engine vllm" in error["hint"]
    assert not saved.exists()


def test_only_a_measurement_that_passed_is_kept(tmp_path: Path):
    made = Report.from_json(report())
    dubious = replace(made, verdict="inconclusive", engines=(replace(made.engines[0], verdict="inconclusive"),))
    for wanting in (Report.from_json(failed()), dubious):
        says = f"there is no measurement to keep: the verdict is {wanting.verdict}"
        with pytest.raises(InputError, match=says) as refused:
            keep_reference(wanting, tmp_path / "acceptance.yaml")
        assert refused.value.code == "reference-nothing"
        assert list(tmp_path.iterdir()) == []
    keep_reference(made, tmp_path / "acceptance.yaml")
    assert (tmp_path / "acceptance.yaml").is_file()


def test_a_target_without_a_config(tmp_path: Path, cli: Cli):
    head = heads.specforge(tmp_path / "head")
    (tmp_path / "target").mkdir()
    status, out, _ = cli("inspect", head, "--target", tmp_path / "target", "--json")
    error = json.loads(out)["error"]
    assert (status, error["code"]) == (3, "source-no-config")
    assert error["message"] == f"there is no config.json in the target folder {tmp_path / 'target'}"


def test_a_folder_of_a_target_that_cannot_be_looked_into(tmp_path: Path):
    with pytest.raises(SourceError, match=r"cannot read the target folder .*: File name too long") as refused:
        require_files(tmp_path / ("x" * 300))
    assert refused.value.code == "source-unreadable"
