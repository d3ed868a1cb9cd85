"""Where a file is to be written lies something else: it is written through or refused, and never replaced.

The table of `eagle3hub.checkpoint.destination`, held for every option that writes a file.
"""

from __future__ import annotations

import json
import os
import re
import select
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from support.commands import leaves, root
from support.unprivileged import drop_overrides
from workflows import agreeing

Cli = Callable[..., tuple[int, str, str]]
EXAMPLE = Path(__file__).parent.parent / "examples" / "smollm2-135m"
SHORT = ("--num-prompts", "8", "--max-new-tokens", "8")
REPORT = Path(__file__).parent / "card" / "fixtures"
IMPORTED = REPORT / "imported"

FILES = {
    "validate": ("report", "html", "write_acceptance_reference", "save_responses"),
    "jobs collect": ("report", "html"),
    "compare-reports": ("html",),
    "card write": ("output",),
    "card init": ("output",),
    "card import": ("output",),
    "profile": ("output",),
    "card preview": ("output",),
    "release": ("summary",),
    "engines probe": ("output",),
}
"""Options that write one file, by command."""
FOLDERS = {
    "validate": ("save_hidden_states", "run_folder"),
    "bench": ("output", "run_folder"),
    "jobs collect": ("output",),
    "convert": ("destination",),
    "card write": ("folder",),
    "release": ("output", "work", "run_folder"),
    "demo": ("output",),
    "states": ("output",),
}
"""Options that write a folder."""
READ = {
    "validate": ("_manifest", "acceptance_reference", "responses", "hidden_states", "second_turns", "slurm_profile"),
    "bench": ("against", "second_turns", "slurm_profile"),
    "jobs resume": ("run_folder", "slurm_profile"),
    "publish": ("folder", "manifest", "sign"),
    "verify": ("key",),
    "release": ("manifest", "templates", "sign", "slurm_profile"),
    "card write": ("report", "templates"),
    "card preview": ("source",),
    "card import": ("file",),
    "profile": ("source",),
    "engines check": ("file",),
    "engines probe": ("python",),
    "inspect": ("contract",),
    "compare-reports": ("a", "b"),
}
"""Options and arguments that name what is read."""
_WRITES = re.compile(r"^output|report|html|save|write|summary|destination")


def test_every_option_that_takes_a_path_is_known():
    """A new option that writes a file belongs into the tables above, and is then tried on every kind of place."""
    found = {
        (name, parameter.name)
        for name, command in leaves(root())
        for parameter in command.params
        if "Path" in type(parameter.type).__name__ or _WRITES.search(parameter.name)
    }
    known = {
        (name, option) for table in (FILES, FOLDERS, READ) for name, options in table.items() for option in options
    }
    assert found - known == set()
    assert known - found == set()


class Kind:
    """A kind of place: ``make`` puts it there, ``check`` says whether it is still what it was, ``takes`` the bytes."""

    def __init__(self, name: str, takes: bool) -> None:
        self.name, self.takes = name, takes
        self._heard: list[bytes] = []

    def make(self, path: Path) -> Path:
        beside = path.with_name(path.name + "-target")
        match self.name:
            case "new" | "missing folder":
                return path if self.name == "new" else path.parent / "nowhere" / path.name
            case "file":
                path.write_text("old")
                path.chmod(0o640)
            case "link to a file":
                beside.write_text("old")
                beside.chmod(0o604)
                path.symlink_to(beside.name)
            case "link to a link":
                beside.write_text("old")
                path.with_name("between").symlink_to(beside)
                path.symlink_to("between")
            case "dangling link":
                path.symlink_to(beside)
            case "link to itself":
                path.symlink_to(path.name)
            case "folder":
                path.mkdir()
            case "link to a folder":
                beside.mkdir()
                path.symlink_to(beside)
            case "pipe nobody reads":
                os.mkfifo(path)
            case "pipe":
                os.mkfifo(path)
                fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
                self._reader = threading.Thread(target=self._read, args=(fd,), daemon=True)
            case "socket":
                self._socket = socket.socket(socket.AF_UNIX)
                here = Path.cwd()
                os.chdir(path.parent)  # the path of a socket is short
                self._socket.bind(path.name)
                os.chdir(here)
            case "/dev/null" | "/dev/full" | "/dev/random":
                return Path(self.name)
            case "link to /dev/null":
                path.symlink_to("/dev/null")
            case "descriptor":
                reader, self._writer = os.pipe()
                self._reader = threading.Thread(target=self._read, args=(reader,), daemon=True)
                return Path(f"/dev/fd/{self._writer}")
            case _:
                raise AssertionError(self.name)
        return path

    def start(self) -> None:
        if self.name in ("pipe", "descriptor"):
            self._reader.start()

    def _read(self, fd: int) -> None:
        with os.fdopen(fd, "rb") as f:
            select.select([f], [], [], 60)
            os.set_blocking(fd, True)
            self._heard.append(f.read())

    def written(self, path: Path) -> bytes | None:
        """What was written there, or None where that cannot be known."""
        if self.name == "descriptor":
            os.close(self._writer)
        if self.name in ("pipe", "descriptor"):
            self._reader.join(30)
            return self._heard[0]
        return None if self.name.endswith("/dev/null") else path.read_bytes()

    def is_intact(self, path: Path) -> bool:
        beside = path.with_name(path.name + "-target")
        there = path.lstat() if os.path.lexists(path) else None
        match self.name:
            case "new" | "missing folder":
                return self.takes or there is None
            case "file":
                return stat.S_IMODE(there.st_mode) == 0o640
            case "link to a file":
                return path.is_symlink() and stat.S_IMODE(beside.stat().st_mode) == 0o604
            case "link to a link" | "dangling link" | "link to itself" | "link to /dev/null":
                return path.is_symlink() and beside.exists() == (self.name == "link to a link")
            case "folder" | "link to a folder":
                return path.is_dir() and not list(path.iterdir()) and path.is_symlink() == ("link" in self.name)
            case "pipe" | "pipe nobody reads":
                return stat.S_ISFIFO(there.st_mode)
            case "socket":
                self._socket.close()
                return stat.S_ISSOCK(there.st_mode)
            case "descriptor":
                return True
        return stat.S_ISCHR(there.st_mode)


TAKEN = ["new", "file", "link to a file", "link to a link", "pipe", "/dev/null", "link to /dev/null", "descriptor"]
REFUSED = [
    "missing folder", "dangling link", "link to itself", "folder", "link to a folder", "pipe nobody reads", "socket",
    "/dev/random",
]  # fmt: skip


@pytest.fixture(scope="module")
def agreed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny head, its target, a report of theirs, a manifest and a card."""
    from eagle3hub.cli.app import run

    here = tmp_path_factory.mktemp("agreed")
    agreeing.make_target(here / "target")
    agreeing.make_head(here / "head")
    report = here / "reports" / "one.json"
    report.parent.mkdir()
    argv = ["validate", here / "head", "--target", here / "target", *SHORT, "--report", report, "-q"]
    assert run([str(a) for a in (*argv, "--target-name", "alice/target")]) == 0
    (here / "release.yaml").write_text(
        "schema: eagle3hub/manifest/1\nhead: {source: head}\ntarget: {id: alice/target, license: mit, path: target}\n"
        "release: {repo: alice/head, title: T, summary: S, license: mit}\nlayouts: {main: specforge}\n"
        "validate: {engine: reference, num_prompts: 8, max_new_tokens: 8}\nspeculative_tokens: 3\n"
    )
    return here


def commands(agreed: Path, option: str, place: Path) -> list[object]:
    """A command line that writes with ``option`` (``command option``) to ``place``."""
    name, _, parameter = option.rpartition(" ")
    flag = "--" + parameter.replace("_", "-")
    return {
        "validate": ["validate", agreed / "head", "--target", agreed / "target", *SHORT, flag, place, "-q"],
        "card write": ["card", "write", agreed / "release.yaml", "--head", agreed / "head", flag, place],
        "card init": ["card", "init", agreed / "head", "--target", "alice/target", flag, place],
        "card preview": [
            "card",
            "preview",
            agreed / "release.yaml",
            flag,
            place,
        ],
        "compare-reports": ["compare-reports", *[agreed / "reports" / "one.json"] * 2, flag, place],
        "profile": ["profile", IMPORTED / "speculation_profile.json", flag, place],
        "card import": ["card", "import", IMPORTED / "specbench_results.json", "--measured-by", "us", flag, place],
        "release": ["release", agreed / "release.yaml", "--until", "convert", flag, place, "-q"],
    }[name]


ELSEWHERE = ("jobs collect", "engines probe")
"""Commands whose tests lie beside others of theirs: they need more than a folder."""
OPTIONS = [f"{name} {option}" for name, options in FILES.items() for option in options if name not in ELSEWHERE]


@pytest.mark.parametrize("kind", [*TAKEN, *REFUSED])
@pytest.mark.parametrize("option", OPTIONS)
def test_a_place_is_written_through_or_refused(agreed: Path, tmp_path: Path, cli: Cli, option: str, kind: str):
    place = Kind(kind, kind in TAKEN)
    path = place.make(tmp_path / "out.txt")
    takes = place.takes and (kind == "new" or option != "card init output")  # which replaces no manifest that exists
    place.start()
    status, out, err = cli(*commands(agreed, option, path))
    if takes:
        assert status == 0, err
        data = place.written(path)
        assert data is None or (data != b"old" and len(data) > 100)
    else:
        if kind == "descriptor":
            place.written(path)
        assert status in (2, 3), (status, out)
        assert err.startswith("error: ")
        assert "Traceback" not in err
    assert place.is_intact(path)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_full_device_is_a_full_disk(agreed: Path, cli: Cli):
    status, _, err = cli(*commands(agreed, "validate report", Path("/dev/full")))
    assert (status, "the disk is full" in err) == (3, True), err
    assert stat.S_ISCHR(Path("/dev/full").stat().st_mode)


def test_a_refusal_comes_before_the_work(agreed: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("eagle3hub.validation.validate", lambda *_, **__: pytest.fail("it was run"))
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for option in FILES["validate"]:
        status, out, _ = cli(*commands(agreed, f"validate {option}", tmp_path / "link"), "--json")
        assert status == 3
        assert json.loads(out)["error"]["code"] == "output-not-a-file"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "link"])
def test_standard_output_is_written_to(agreed: Path, tmp_path: Path, name: str):
    """In a file, a pipe and with a link of one's own: what was there before stays, and so does what comes after."""
    if name == "link":
        (tmp_path / "link").symlink_to("/dev/stdout")
        name = str(tmp_path / "link")
    argv = [sys.executable, "-m", "eagle3hub", *map(str, commands(agreed, "card write output", Path(name)))]
    piped = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert piped.stdout.startswith("---\n")
    assert piped.stdout.endswith(f"wrote {name}\n")
    with (tmp_path / "file").open("w") as f:
        f.write("before\n")
        f.flush()
        subprocess.run(argv, stdout=f, check=True)
    assert (tmp_path / "file").read_text() == f"before\n{piped.stdout}"


@pytest.mark.slow
def test_a_file_that_may_not_be_written_to_stays(agreed: Path, tmp_path: Path):
    path = tmp_path / "out.md"
    path.write_text("old")
    path.chmod(0o444)
    argv = [sys.executable, "-m", "eagle3hub", *map(str, commands(agreed, "card write output", path))]
    tmp_path.chmod(0o777)
    done = subprocess.run(argv, capture_output=True, text=True, preexec_fn=drop_overrides)
    assert (done.returncode, path.read_text()) == (3, "old"), done.stderr
    assert f"cannot write {path}: Permission denied" in done.stderr
