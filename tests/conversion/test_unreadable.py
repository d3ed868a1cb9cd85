"""What may not be read or is gone: one clear sentence, exit status 3, whatever is asked for."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import heads
from support.unprivileged import drop_overrides

from eagle3hub.cli import app

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}


def python(folder: Path, *argv: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, argv)],
        cwd=folder,
        env=ENVIRONMENT,
        preexec_fn=drop_overrides,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A head, its target, and an older result, somewhere whose permissions are given back at the end."""
    heads.specforge(tmp_path / "head")
    heads.target(tmp_path / "target")
    assert app.run(["convert", f"{tmp_path}/head", f"{tmp_path}/out", "--to", "specjax"]) == 0
    (tmp_path / "parent").mkdir()
    yield tmp_path
    for path in (tmp_path, *tmp_path.iterdir(), *(tmp_path / "target").iterdir()):
        path.chmod(0o755)


CONVERT = ("convert", "head", "out", "--to", "specforge", "--force")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("closed", "argv", "said"),
    [
        ("parent", ("inspect", "parent/head"), "cannot read parent/head: Permission denied"),
        ("parent", ("inspect", "head", "--target", "parent/target"), "cannot read parent/target: Permission denied"),
        ("target", ("inspect", "head", "--target", "target"), "cannot read target/config.json: Permission denied"),
        ("target/config.json", (*CONVERT, "--target", "target"), "cannot read target/config.json: Permission denied"),
        ("out", CONVERT, "cannot … out: Permission denied"),
    ],
)
def test_what_may_not_be_read(place: Path, closed: str, argv: tuple[str, ...], said: str):
    (place / closed).chmod(0)
    done = python(place, "-m", "eagle3hub", *argv)
    assert (done.returncode, done.stdout) == (3, "")
    assert re.fullmatch(f"error: {said.replace('…', '[a-z]+')}", done.stderr.splitlines()[0]), done.stderr


def test_names_that_are_too_long(tmp_path: Path, cli: Callable[..., tuple[int, str, str]]):
    name = "x" * 300
    assert cli("inspect", name)[0] == 3
    assert cli("inspect", heads.specforge(tmp_path / "head"), "--target", name)[0] == 3


MAIN = """
import eagle3hub.comparison
def compare(*_, **__):
    {}
eagle3hub.comparison.compare = compare
from eagle3hub.cli.app import main; main()
"""


def test_what_no_code_expected_to_be_forbidden(tmp_path: Path):
    done = python(
        tmp_path, "-c", MAIN.format("raise PermissionError(13, 'Permission denied', 'some/file')"), "diff", "a", "b"
    )
    assert (done.returncode, done.stderr) == (3, "error: cannot use some/file: Permission denied\n")


def test_a_working_directory_that_is_gone(tmp_path: Path):
    """Absolute paths are still there: only who needs the directory is told."""
    lost = "import os, pathlib; os.rmdir(os.getcwd()); pathlib.Path('a').resolve()"
    folder = tmp_path / "gone"
    folder.mkdir()
    done = python(folder, "-c", MAIN.format(lost), "diff", "a", "b", "--json")
    assert (done.returncode, done.stderr) == (3, "")
    assert json.loads(done.stdout)["error"]["message"] == "the working directory does not exist any more"


def test_a_mistake_of_this_program_is_no_answer(tmp_path: Path):
    broken = MAIN.format("raise ValueError('too\\nfew')")
    told = python(tmp_path, "-c", broken, "diff", "a", "b")
    assert (told.returncode, told.stdout) == (70, "")
    assert told.stderr.startswith("Traceback")
    assert told.stderr.splitlines()[-2] == "error: ValueError: too\\nfew"
    as_json = python(tmp_path, "-c", broken, "diff", "a", "b", "--json")
    assert (as_json.returncode, json.loads(as_json.stdout)["error"]["code"]) == (70, "internal")


def test_the_home_of_nobody(place: Path):
    done = python(place, "-m", "eagle3hub", "inspect", "~nobody-of-this-name/head")
    assert (done.returncode, done.stderr) == (3, "error: a path begins with ~ and a name that no user has here\n")
