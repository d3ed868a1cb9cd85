"""The release workflow with a manifest of several heads, a gated target, and a head on a private branch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from workflows.conftest import JOBS_TOKEN, ROOT, TARGET, TOKEN, Hub
from workflows.runner import Runner, called_with

pytestmark = pytest.mark.slow  # each runs a whole workflow, command by command

RELEASE = ROOT / ".github/workflows/release.yml"
TRAINED = "alice/trained"
READ_TOKEN = "hf_reads"
Repository = Callable[..., Path]
Machine = Callable[[Path], Runner]


def of_two(repository: Path) -> Path:
    """Make the manifest one of two heads: the folder's, and one on a branch of a private repository."""
    path = repository / "release.yaml"
    document = yaml.safe_load(path.read_text())
    own = document.pop("head")
    document["heads"] = [
        {"name": "here", "head": own, "release": {"repo": "alice/here"}},
        {"name": "there", "head": {"source": f"hf://{TRAINED}@epochs%2F4"}, "release": {"repo": "alice/there"}},
    ]
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return repository


def test_each_is_measured_and_published_with_a_token_that_reads(
    hub: Hub, repository: Repository, machine: Machine, models: Path
):
    hub.commit(TARGET, models / "target", gated=True)
    pinned = hub.commit(TRAINED, models / "head", revision="epochs/4", private=True)
    here = of_two(repository(target=None))
    runner = machine(here)
    assert runner.run(RELEASE) == "failure"
    assert f"{TARGET} is gated" in runner.jobs["convert"][0].log
    assert "set HF_TOKEN" in runner.jobs["convert"][0].log
    assert hub.uploads == []

    hub.tokens[READ_TOKEN] = "alice"
    runner = machine(here)
    runner.secrets, runner.work = {**runner.secrets, "HF_READ_TOKEN": READ_TOKEN}, runner.work / "again"
    convert = runner._upload

    def moves(*given: object) -> None:
        """Somebody trains on while the release is under way."""
        hub.commit(TRAINED, {"config.json": b"{}"}, revision="epochs/4")
        convert(*given)  # type: ignore[arg-type]

    runner._upload = moves  # type: ignore[method-assign, assignment]
    assert runner.run(RELEASE) == "success", "".join(leg.log for legs in runner.jobs.values() for leg in legs)
    heads = json.loads(runner.jobs["convert"][0].outputs["heads"])
    assert [(head["name"], head["repo"]) for head in heads] == [("here", "alice/here"), ("there", "alice/there")]
    assert heads[1]["source"] == f"hf://{TRAINED}@{pinned}"
    assert set(runner.artifacts) == {
        "heads",
        *(f"reports.{name}.reference" for name in ("here", "there")),
        "release",
    }
    assert {p.rpartition("/")[0] for p in runner.attested} >= {
        "release/here",
        "release/there",
    }
    for name in ("here", "there"):
        assert f"reports/{name}-reference-cpu.json" in hub.files(f"alice/{name}")
    for name, legs in runner.jobs.items():
        for leg in legs:
            assert not any(token in leg.log + leg.summary for token in (TOKEN, JOBS_TOKEN, READ_TOKEN))
            given = sum(READ_TOKEN in env.values() for env in leg.env)
            assert given == (name in ("convert", "validate", "card")), "one step of each reads the Hub"
            assert not any(JOBS_TOKEN in env.values() for env in leg.env)


def test_weights_in_a_training_state_are_not_staged(hub: Hub, repository: Repository, machine: Machine, models: Path):
    from safetensors.torch import load_file
    from torch import save

    hub.commit(TARGET, models / "target")
    here = repository(target=None)
    weights = here / "head" / "model.safetensors"
    save(load_file(weights), here / "head" / "model.pt")
    weights.unlink()
    runner = machine(here)
    calling = called_with(here, {"hf-jobs-flavor": "cpu-upgrade", "staging-repo": "alice/staged"})
    assert runner.run(calling) == "failure"
    assert "the weights of head lie in a training state" in runner.jobs["convert"][0].log
    assert "alice/staged" not in hub.repos
