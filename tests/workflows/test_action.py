"""The composite action, run as a pull request runs it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from workflows.conftest import ROOT
from workflows.runner import Runner

CHECK = ROOT / "examples/actions/check-my-head.yml"
Repository = Callable[..., Path]
Machine = Callable[[Path], Runner]


def test_a_good_head(repository: Repository, machine: Machine):
    runner = machine(repository())
    assert runner.run(CHECK) == "success", runner.jobs["check"][0].log
    (job,) = runner.jobs["check"]
    assert job.ran[-4:] == ["Install", "Convert", "Validate", "Check the card"]
    assert "PASS" in job.summary
    assert "::error" not in job.log


def test_what_is_wrong_is_annotated(repository: Repository, machine: Machine):
    here = repository()
    manifest = here / "release.yaml"
    manifest.write_text(
        manifest.read_text().replace("Most of the tokens", "100% lossless, 5x faster. Most of the tokens")
    )
    config = here / "head/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"intermediate_size": 1025}))
    runner = machine(here)
    assert runner.run(CHECK) == "failure"
    log = runner.jobs["check"][0].log
    assert "::error file=release.yaml,title=The head cannot be converted::" in log
    assert "100%25" not in log.split("::error")[0]
    assert runner.jobs["check"][0].ran[-1] == "Check the card"
