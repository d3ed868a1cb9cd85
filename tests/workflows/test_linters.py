"""The linters of `make lint` say nothing of our workflows, and say what is wrong with bad ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from workflows.conftest import ROOT

OURS = sorted([*ROOT.glob(".github/workflows/*.yml"), *ROOT.glob("examples/actions/*-my-head.yml")])
GOOD = """\
name: good
on: push
permissions: {}
concurrency: {group: good, cancel-in-progress: true}
jobs:
  one:
    name: one
    runs-on: ubuntu-24.04
    timeout-minutes: 5
    permissions:
      contents: read # necessary for checkout
    steps:
      - uses: actions/checkout@3d3c42e5aac5ba805825da76410c181273ba90b1 # v7.0.1
        with: {persist-credentials: false}
      - name: Say it
        env: {TITLE: "${{ github.event.head_commit.message }}"}
        run: echo "$TITLE"
"""
FAULTS = {
    "unpinned action": ("@3d3c42e5aac5ba805825da76410c181273ba90b1 # v7.0.1", "@v7", "zizmor", "unpinned-uses"),
    "template injection": ('"$TITLE"', '"${{ github.event.head_commit.message }}"', "zizmor", "template-injection"),
    "untrusted input": ('"$TITLE"', '"${{ github.event.head_commit.message }}"', "actionlint", "untrusted"),
    "credentials kept": ("with: {persist-credentials: false}", "with: {}", "zizmor", "artipacked"),
    "unknown property": ("github.event.head_commit.message", "github.evnet", "actionlint", "evnet"),
    "unknown property of a job": ('"$TITLE"', '"${{ job.workflow_shas }}"', "actionlint", "workflow_shas"),
    "every permission": ("permissions: {}\nconc", "permissions: write-all\nconc", "zizmor", "excessive-permissions"),
}
COMMANDS = {"actionlint": ["-no-color"], "zizmor": ["--offline", "--quiet", "--persona", "auditor"]}


def lint(linter: str, *files: Path) -> tuple[int, str]:
    command = [str(Path(sys.executable).parent / linter), *COMMANDS[linter], *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


def folder(tmp_path: Path, text: str) -> Path:
    (tmp_path / ".github/workflows").mkdir(parents=True)
    file = tmp_path / ".github/workflows/one.yml"
    file.write_text(text)
    return file


@pytest.mark.parametrize("linter", COMMANDS)
def test_ours_and_a_good_one_are_clean(linter: str, tmp_path: Path):
    more = [ROOT / "action.yml", ROOT / ".github/dependabot.yml"] if linter == "zizmor" else []
    status, said = lint(linter, *OURS, folder(tmp_path, GOOD), *more)
    assert status == 0, said


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found(name: str, tmp_path: Path):
    good, bad, linter, words = FAULTS[name]
    assert good in GOOD
    status, said = lint(linter, folder(tmp_path, GOOD.replace(good, bad)))
    assert status != 0
    assert words in said


def test_a_fault_in_the_composite_action_and_in_an_example_is_found(tmp_path: Path):
    for file, good, bad in (
        (ROOT / "action.yml", 'card --check "${CARD:-$MANIFEST}"', "card --check ${{ inputs.card }}"),
        (ROOT / "examples/actions/release-my-head.yml", "contents: read # necessary for checkout", "contents: write"),
    ):
        text = file.read_text()
        assert good in text
        (tmp_path / file.name).write_text(text.replace(good, bad))
        assert lint("zizmor", tmp_path / file.name)[0] != 0, file.name
