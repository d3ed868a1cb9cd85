"""Everything that can go wrong during publishing: what the user sees, what the Hub has, what another run does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from publishing.conftest import TOKEN
from publishing.folders import REPO
from publishing.test_publish import one_more_section
from support.hub_writes import WritableHub
from support.signals import default_signals

from eagle3hub.publishing import GATES

Cli = Callable[..., tuple[int, str, str]]
MAIN = "import sys; from eagle3hub.cli.app import run; sys.exit(run(sys.argv[1:]))"
OLD = {"README.md": b"---\nlicense: mit\n---\nold", "config.json": b"{}"}
SHELF = "alice/heads-64f9a55bb3115b4f513ec026"
DOCS = Path(__file__).parents[2] / "docs" / "publishing.md"
ALWAYS = 99


def expected(release: Path) -> dict[str, bytes]:
    return {p.relative_to(release).as_posix(): p.read_bytes() for p in release.rglob("*") if p.is_file()}


def is_new(hub: WritableHub, release: Path) -> bool:
    """Return whether the Hub holds everything new. It must hold either all of the new or all of the old."""
    files = hub.files(REPO)
    new = {n: b for n, b in files.items() if n != "SHA256SUMS"} == expected(release)
    assert new or files in (OLD, {}), "half a release"
    return new


# fault -> (where, method, how), what the user reads, exit status, whether the new files are there
FAULTS: dict[str, tuple[tuple[str, str, dict[str, Any]], str, int, bool]] = {
    "401 at look": (
        ("/api/models/", "GET", {"status": 401, "times": ALWAYS}),
        "does not accept this access",
        5,
        False,
    ),
    "403 at commit": (("/commit/", "POST", {"status": 403}), "the Hub forbids access to alice/head", 5, False),
    "409 at commit": (("/commit/", "POST", {"status": 409}), "the Hub reports a conflict", 5, False),
    "412 at commit": (("/commit/", "POST", {"status": 412}), "the branch moved meanwhile", 5, False),
    "429 at commit, once": (("/commit/", "POST", {"status": 429, "headers": {"Retry-After": "3"}}), "", 0, True),
    "429 at commit, long": (
        ("/commit/", "POST", {"status": 429, "headers": {"Retry-After": "300"}, "times": ALWAYS}),
        "the Hub asks to wait",
        5,
        False,
    ),
    "500 at look, once": (("/refs", "GET", {"status": 500}), "", 0, True),
    "503 at preupload": (("/preupload/", "POST", {"status": 503, "times": ALWAYS}), "the Hub has a problem", 5, False),
    "500 at batch": (("objects/batch", "POST", {"status": 500, "times": ALWAYS}), "the Hub has a problem", 5, False),
    "500 at commit": (("/commit/", "POST", {"status": 500, "times": ALWAYS}), "the Hub has a problem", 5, False),
    "cut mid-upload, once": (("/put/", "PUT", {"hang_up": 5_000}), "", 0, True),
    "cut mid-upload": (("/put/", "PUT", {"hang_up": 5_000, "times": ALWAYS}), "the connection to the Hub", 5, False),
    "commit not delivered": (("/commit/", "POST", {"hang_up": 10, "times": ALWAYS}), "the connection to", 5, False),
    "commit's answer lost": (("/commit/", "POST", {"cut_after": 0}), "", 0, True),
    "502 instead of the commit's answer": (("/commit/", "POST", {"status": 502}), "", 0, True),
    "500 at the list of files": (
        ("/tree/", "GET", {"status": 500, "times": ALWAYS}),
        "the Hub has a problem",
        5,
        False,
    ),
    "403 at tag": (("/tag/", "POST", {"status": 403}), "the Hub forbids access to the tag v1", 5, True),
    "tag's answer lost": (("/tag/", "POST", {"cut_after": 0}), "", 0, True),
    "403 at collection": (
        ("/items", "POST", {"status": 403}),
        "the Hub forbids access to the collection alice/heads",
        5,
        True,
    ),
    "collection's answer lost": (("/items", "POST", {"cut_after": 0}), "", 0, True),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_faults(hub: WritableHub, release: Path, cli: Cli, waits: list[float], name: str):
    (path, method, how), words, wanted, there = FAULTS[name]
    hub.commit(REPO, OLD)
    hub.collections[SHELF] = []
    hub.fail(path, method, **how)
    argv = ("publish", release, "--repo", REPO, "--tag", "v1", "--collection", SHELF, "--quiet")
    status, out, err = cli(*argv)
    assert status == wanted, err
    assert words in err
    assert len([line for line in err.splitlines() if line.startswith("error: ")]) == (status != 0)
    assert len(err.splitlines()) <= 2
    assert "Traceback" not in err
    assert is_new(hub, release) == there
    hub.faults.clear()
    large = sum(u.startswith("PUT /put/") for u in hub.uploads)
    status, out, err = cli(*argv, "--json")
    assert status == 0, err
    assert is_new(hub, release)
    assert hub.repos[REPO].tags == {"v1": hub.repos[REPO].refs["main"]}
    assert len(hub.repos[REPO].commits) == 2, "the old commit and one of ours"
    assert hub.collections[SHELF] == [REPO]
    if there:
        assert json.loads(out)["uploaded"] == {}
        assert sum(u.startswith("PUT /put/") for u in hub.uploads) == large


@pytest.mark.slow
def test_the_branch_moves_between_plan_and_commit(hub: WritableHub, release: Path, cli: Cli):
    hub.commit(REPO, OLD)
    hub.fail("/preupload/", "POST", before=lambda: hub.commit(REPO, {"other.txt": b"x"}))
    status, _, err = cli("publish", release, "--repo", REPO)
    assert status == 5
    assert "the branch moved meanwhile" in err
    assert hub.files(REPO) == {**OLD, "other.txt": b"x"}
    assert cli("publish", release, "--repo", REPO)[0] == 0
    assert hub.files(REPO)["other.txt"] == b"x"


@pytest.mark.slow
def test_a_file_stored_wrongly_is_seen_and_mended(hub: WritableHub, release: Path, cli: Cli):
    for name in ("model.safetensors", "README.md"):
        (release / "NOTICE").write_text(f"{name}\n")
        if name == "README.md":
            one_more_section(release)
        hub.garble = {name}
        status, _, err = cli("publish", release, "--repo", REPO)
        assert status == 5
        assert f"is not what was uploaded: {name} has other bytes" in err
        assert cli("publish", release, "--repo", REPO)[0] == 0
        assert is_new(hub, release)


def cell(text: str) -> str:
    return text.replace("|", "\\|")


def test_the_documented_table_is_this_one():
    """Yield every fault at every step, with the message, the exit status, and what the Hub has."""
    page = DOCS.read_text()
    rows = [
        f"| {cell(name)} | {f'“{words}”' if words else 'nothing: it goes on'} | {status} | "
        f"{'new' if there else 'old'} | {'sends nothing' if there else 'publishes'} |"
        for name, (_, words, status, there) in FAULTS.items()
    ]
    rows += [
        f"| {step} | {'new' if there else 'old'} | {'sends nothing' if there else 'publishes'} |"
        for step, (_, _, _, there) in STEPS.items()
    ]
    lacking = [row for row in rows if row not in page.splitlines()]
    assert not lacking, "docs/publishing.md lacks:\n" + "\n".join(lacking)
    table = [line for line in page.splitlines() if line.endswith(("| publishes |", "| sends nothing |"))]
    assert table == rows, "docs/publishing.md has more, or another order"


def test_every_gate_is_documented():
    for code, wants in GATES.items():
        assert f"| `{code}` | {wants} |" in DOCS.read_text()


# step -> (where the process is killed: before the request arrives or after it is carried out), whether all is new then
STEPS: dict[str, tuple[str, str, str, bool]] = {
    "repository made": ("/repos/create", "POST", "after", False),
    "before preupload": ("/preupload/", "POST", "before", False),
    "before the large files": ("/put/", "PUT", "before", False),
    "after a large file": ("/put/", "PUT", "after", False),
    "before the commit": ("/commit/", "POST", "before", False),
    "after the commit": ("/commit/", "POST", "after", True),
    "before the tag": ("/tag/", "POST", "before", True),
    "before it is public": ("/settings", "PUT", "before", True),
    "after it is public": ("/settings", "PUT", "after", True),
    "after the collection": ("/items", "POST", "after", True),
}


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS)
def test_killed(hub: WritableHub, release: Path, cli: Cli, home: Path, step: str):
    path, method, when, there = STEPS[step]
    started: list[subprocess.Popen[bytes]] = []
    argv = ["publish", str(release), "--repo", REPO, "--stage", "--tag", "v1", "--collection", SHELF]
    hub.collections[SHELF] = []

    def kill() -> None:
        os.kill(started[0].pid, signal.SIGKILL)
        started[0].wait()

    hub.fail(path, method, **{when: kill}, hang_up=1 if when == "before" else None)
    env = {**os.environ, **hub.env(home, TOKEN)}
    started.append(
        subprocess.Popen(
            [sys.executable, "-c", MAIN, *argv],
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=default_signals,
        )
    )
    assert started[0].wait(timeout=60) == -signal.SIGKILL
    assert is_new(hub, release) == there
    verified = step in {"after it is public", "after the collection"}
    assert hub.repos[REPO].private != verified, "nobody sees what was not verified"
    hub.faults.clear()
    large = sum(u.startswith("PUT /put/") for u in hub.uploads)
    status, out, err = cli(*argv, "--json")
    assert status == 0, err
    assert is_new(hub, release)
    assert not hub.repos[REPO].private
    assert hub.repos[REPO].tags == {"v1": hub.repos[REPO].refs["main"]}
    assert len(hub.repos[REPO].commits) == 2
    assert hub.collections[SHELF] == [REPO]
    if there:
        assert json.loads(out)["uploaded"] == {}
        assert sum(u.startswith("PUT /put/") for u in hub.uploads) == large
