"""The composite action, run as a pull request runs it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from workflows.conftest import ROOT
from workflows.expressions import condition
from workflows.runner import Runner, load
from workflows.test_several_heads import TRAINED, of_two

pytestmark = pytest.mark.slow  # each runs a whole workflow, command by command

CHECK = ROOT / "examples/actions/check-my-head.yml"
Repository = Callable[..., Path]
Machine = Callable[[Path], Runner]


def test_a_good_head(repository: Repository, machine: Machine):
    runner = machine(repository())
    assert runner.run(CHECK) == "success", runner.jobs["check"][0].log
    (job,) = runner.jobs["check"]
    checkout, action, alerts = load(CHECK)["jobs"]["check"]["steps"]
    every = [checkout, action, *load(ROOT / "action.yml")["runs"]["steps"], alerts]
    assert job.ran == [step.get("name") or step["uses"] for step in every]
    (sarif,) = runner.uploaded_sarif
    assert json.loads(sarif.read_text())["version"] == "2.1.0"
    assert Path(ROOT / "constraints.txt").is_file(), "torch and transformers are held to its versions"
    assert "PASS" in job.summary
    assert "::error" not in job.log


@pytest.mark.parametrize("fork", [True, False])
def test_alerts_are_not_sent_from_a_fork(fork: bool):
    """GitHub gives its pull requests no token that may send them."""
    alerts = load(CHECK)["jobs"]["check"]["steps"][-1]
    event = {"pull_request": {"head": {"repo": {"fork": fork}}}}
    contexts = {"github": {"event": event}, "steps": {"head": {"outputs": {"sarif": "card.sarif"}}}}
    assert condition(alerts["if"], contexts, {"success": False, "failure": True, "cancelled": False}) is not fork


def test_what_is_wrong_is_annotated(repository: Repository, machine: Machine, tmp_path: Path):
    here = repository()
    config = here / "head/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"intermediate_size": 1025}))
    runner = machine(here)
    assert runner.run(CHECK) == "failure"
    (job,) = runner.jobs["check"]
    assert "::error file=release.yaml,title=The head cannot be converted::" in job.log
    assert "::error file=release.yaml,title=The card cannot be checked::" in job.log
    assert "Validate" not in job.ran


def test_findings_about_a_card_are_annotated(repository: Repository, machine: Machine, tmp_path: Path):
    here = repository()
    (here / "README.md").write_text(
        "# An EAGLE-3 draft head\n\nWith K = 3 draft tokens the acceptance length is 9.5: 100% lossless.\n"
    )
    check = CHECK.read_text().replace("engine: reference", "card: README.md")
    (tmp_path / "check.yml").write_text(check)
    runner = machine(here)
    assert runner.run(tmp_path / "check.yml") == "failure"
    (job,) = runner.jobs["check"]
    assert "Validate" not in job.ran
    annotations = [line for line in job.log.splitlines() if line.startswith("::")]
    assert any(line.startswith("::error file=README.md,line=") for line in annotations), annotations
    assert all("100% " not in line for line in annotations), "a percent sign stands for itself only when it is escaped"


def test_one_of_several_heads_is_checked(repository: Repository, machine: Machine, tmp_path: Path):
    here = of_two(repository())
    check = CHECK.read_text().replace("engine: reference", 'engine: ""')
    (tmp_path / "all.yml").write_text(check)
    (tmp_path / "one.yml").write_text(check.replace("manifest: release.yaml", "manifest: release.yaml#here"))
    runner = machine(here)
    assert runner.run(tmp_path / "one.yml") == "success", runner.jobs["check"][0].log
    document = (here / "release.yaml").read_text().replace(f"hf://{TRAINED}@epochs%2F4", "head")
    (here / "release.yaml").write_text(document)
    runner = machine(here)
    assert runner.run(tmp_path / "all.yml") == "failure"
    assert "::error file=release.yaml,title=The manifest has several heads::name one" in runner.jobs["check"][0].log


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("chat-template-args: |\n            messages_of=high low\n            x=1", "has no argument messages_of"),
        (
            'engine-args: |\n            vllm.seed=1\n            vllm.dtype=x\n          tensor-parallel: "2"',
            "--engine-arg vllm.seed: this run does not start vLLM",
        ),
    ],
)
def test_how_the_engine_is_started_is_an_input(
    repository: Repository, machine: Machine, tmp_path: Path, given: str, says: str
):
    check = CHECK.read_text().replace("engine: reference", f"engine: reference\n          {given}")
    (tmp_path / "check.yml").write_text(check)
    runner = machine(repository())
    assert runner.run(tmp_path / "check.yml") == "failure"
    (job,) = runner.jobs["check"]
    assert says in " ".join(job.log.split())
