"""The workflow that publishes eagle3hub itself: only what was tagged, built and tested leaves, and only from here."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from workflows.conftest import ROOT
from workflows.expressions import condition
from workflows.runner import Job, Runner, _list, load

from eagle3hub._version import __version__

PACKAGE = ROOT / ".github/workflows/package.yml"
WORKFLOW = load(PACKAGE)
JOBS = WORKFLOW["jobs"]
Machine = Callable[[Path], Runner]


def run(runner: Runner, name: str, steps: set[str], digest: str = "", tag: str = "") -> Job:
    """Those steps of a job, by what their names begin with."""
    wanted = [s for s in JOBS[name]["steps"] if (s.get("name") or s["uses"]).startswith(tuple(steps))]
    job = {**JOBS[name], "steps": wanted}
    assert len(job["steps"]) == len(steps)
    contexts = {
        "needs": {"build": {"outputs": {"digest": digest}}},
        "github": {"event": {"release": {"tag_name": tag}}},
        "matrix": {"python": "3.11"},
    }
    return runner._job(name, job, WORKFLOW, contexts)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    (folder / "eagle3hub/system").mkdir(parents=True)
    for name in ("_version.py", "system/installation.toml"):
        shutil.copy(ROOT / "eagle3hub" / name, folder / "eagle3hub" / name)
    return folder


def test_only_a_release_of_this_project_starts_it():
    assert WORKFLOW["on"] == {"release": {"types": ["published"]}}
    assert WORKFLOW["permissions"] == {}
    for owner, runs in (("eagle3hub", True), ("somebody", False)):
        contexts: dict[str, Any] = {"github": {"repository_owner": owner}}
        assert condition(JOBS["build"]["if"], contexts, {"success": True}) is runs
    waits = {"test": {"build"}, "attest": {"build", "test"}, "publish": {"build", "attest"}}
    assert {name: set(_list(job["needs"])) for name, job in JOBS.items() if "needs" in job} == waits
    assert "if" not in JOBS["test"], "what needs a job that was skipped is skipped"
    assert [name for name, job in JOBS.items() if "id-token" in job["permissions"]] == ["attest", "publish"]
    assert [name for name, job in JOBS.items() if "environment" in job] == ["publish"]
    for name in ("attest", "publish"):
        assert not any("pip" in step.get("run", "") for step in JOBS[name]["steps"]), "nothing is installed there"


@pytest.mark.parametrize(
    ("tag", "switch", "result"),
    [
        (f"v{__version__}", __version__, "success"),
        (f"v{__version__}", "", "failure"),
        (f"v{__version__}", "9.9", "failure"),
        ("v9.9", "9.9", "failure"),
        (__version__, __version__, "failure"),
        ("", "", "failure"),
    ],
)
def test_tag_version_and_switch_say_the_same(machine: Machine, checkout: Path, tag: str, switch: str, result: str):
    file = checkout / "eagle3hub/system/installation.toml"
    text = file.read_text()
    assert 'version = ""' in text
    file.write_text(text.replace('version = ""', f'version = "{switch}"'))
    done = run(machine(checkout), "build", {"actions/checkout", "Check that the tag"}, tag=tag)
    assert done.result == result, done.log
    assert ("::error title=Not a release::" in done.log) == (result == "failure")


@pytest.mark.parametrize("tampered", [None, "changed", "another", "gone", "renamed"])
def test_what_was_built_is_what_is_tested_attested_and_published(
    machine: Machine, checkout: Path, tmp_path: Path, tampered: str | None
):
    built = tmp_path / "checkout/dist"
    built.mkdir()
    for name in ("eagle3hub-0.1.0-py3-none-any.whl", "eagle3hub-0.1.0.tar.gz"):
        (built / name).write_text(f"these are the bytes of {name}")
    runner = machine(checkout)
    made = run(runner, "build", {"actions/checkout", "State what was built", "actions/upload-artifact"})
    assert made.result == "success", made.log
    dist = runner.artifacts["dist"]
    (wheel,) = dist.glob("*.whl")
    if tampered == "changed":
        wheel.write_text("other bytes")
    elif tampered == "another":
        (dist / "eagle3hub-0.1.0-cp311-none-any.whl").write_text("first in line")
    elif tampered == "gone":
        wheel.unlink()
    elif tampered == "renamed":
        wheel.rename(dist / "eagle3hub-9.9-py3-none-any.whl")
    digest = made.outputs["digest"]
    checks = {"actions/download-artifact", "Check that this is what was built"}
    assert run(runner, "test", checks, digest).result == ("failure" if tampered else "success")
    attest = run(runner, "attest", {*checks, "actions/attest-build-provenance"}, digest)
    publish = run(runner, "publish", {*checks, "Say what to put", "pypa/gh-action-pypi-publish"}, digest)
    assert attest.result == publish.result == ("failure" if tampered else "success")
    names = [] if tampered else ["dist/eagle3hub-0.1.0-py3-none-any.whl", "dist/eagle3hub-0.1.0.tar.gz"]
    assert sorted(runner.attested) == sorted(runner.to_index) == names
    assert ("sha256 = " in publish.summary) == (tampered is None)


def test_every_step_is_tried_but_the_long_ones():
    """The build is that of `make dist`, and the wheel's use that of ci.yml: both are tried on GitHub, at each push."""
    names = {s.get("name") or s["uses"].partition("@")[0] for job in JOBS.values() for s in job["steps"]}
    ci = {s.get("name") for job in load(ROOT / ".github/workflows/ci.yml")["jobs"].values() for s in job["steps"]}
    assert names - ci == {
        *("actions/checkout", "actions/setup-python", "actions/upload-artifact", "actions/download-artifact"),
        *("actions/attest-build-provenance", "pypa/gh-action-pypi-publish"),
        *("Check that the tag, the version and the switch say the same", "Check that this is what was built"),
        *("State what was built", "Build once, for every job that follows"),
        "Say what to put into eagle3hub/system/installation.toml",
    }
