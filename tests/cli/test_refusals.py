"""Command lines that are refused before anything is read, and faults that no command expects: one sentence each.

Processes of their own hold the same of standard output and signals: `test_streams.py`, `convert/test_unreadable.py`.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support import heads

import eagle3hub.comparison
from eagle3hub.cli import app, output

Cli = Callable[..., tuple[int, str, str]]

OF_A_CARD = ("card", "release.yaml")
OF_A_HEAD = ("inspect", "head")
VALIDATE = ("validate", "head", "--target", "target")

USAGE: dict[str, tuple[tuple[str, ...], str]] = {
    "a card into a folder, and elsewhere": (
        (*OF_A_CARD, "--folder", "made", "--output", "README.md"),
        "--folder cannot be used with --report, --head or --output",
    ),
    "a card into a folder, of other reports": (
        (*OF_A_CARD, "--folder", "made", "--report", "r.json"),
        "--folder cannot be used with --report, --head or --output",
    ),
    "a check of a folder's card": (
        ("card", "--check", "made", "--folder", "made"),
        "--folder cannot be used with --check",
    ),
    "a check that waives a gate": (
        ("card", "--check", "made", "--allow", "publish-card"),
        "--allow cannot be used with --check",
    ),
    "a check that writes": (
        ("card", "--check", "made", "--output", "README.md"),
        "--output cannot be used with --check",
    ),
    "a numbering of no layers": (
        (*OF_A_HEAD, "--aux-convention", "hf"),
        "--aux-convention says how --aux-layers counts, and there is none",
    ),
    "layers that are no numbers": (
        (*OF_A_HEAD, "--aux-layers", "one,14,26"),
        "--aux-layers one,14,26: it must be a list of numbers",
    ),
    "a server, and a job": (
        (*VALIDATE, "--endpoint", "vllm=http://127.0.0.1:9", "--on", "hf-jobs"),
        "--endpoint is a server that runs already, and --on starts a job",
    ),
    "a chain with the size of a tree": (
        (*VALIDATE, "--draft-tokens", "3", "--num-draft-tokens", "9"),
        "--num-draft-tokens 9: a chain of 3 verifies 4 tokens",
    ),
    "a tree of no branches": ((*VALIDATE, "--topk", "0"), "--topk must be 1 or more, not 0"),
    "a tree without a size": (
        (*VALIDATE, "--topk", "2"),
        "--topk drafts a tree, but nothing says how many of its tokens are verified",
    ),
}


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", USAGE)
def test_options_that_make_no_sense(tmp_path: Path, cli: Cli, name: str):
    argv, sentence = USAGE[name]
    status, out, err = cli(*argv)
    assert (status, out) == (2, "")
    assert err.startswith(f"error: {sentence}"), err
    assert list(tmp_path.iterdir()) == []


# What no code below the command line expects of a place: `_run` says it in place of a traceback


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str, str]:
    capsys.readouterr()
    status = app._run([*argv, "--json"])
    error = json.loads(capsys.readouterr().out)["error"]
    return status, error["code"], error["message"]


def raising(error: Exception) -> Callable[..., None]:
    def compare(*_: object, **__: object) -> None:
        raise error

    return compare


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("~nobody-of-this-name/head", "a path begins with ~ and a name that no user has here"),
        ("a\0b", "a path has a NUL in it, which no file's name can have"),
        ("\ud800", r"the text '\ud800' has half of a surrogate pair in it, which no file or name can have"),
    ],
)
def test_names_that_no_place_can_have(capsys: pytest.CaptureFixture[str], path: str, sentence: str):
    head = str(heads.specforge(Path("head").absolute()))
    for argv in (("inspect", path), ("inspect", head, "--target", path), ("diff", head, path)):
        assert refused(capsys, *argv) == (3, "source-missing", sentence), argv


def test_a_place_that_may_not_be_used(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    forbidden = PermissionError(errno.EACCES, os.strerror(errno.EACCES), "some/file")
    monkeypatch.setattr(eagle3hub.comparison, "compare", raising(forbidden))
    said = (3, "source-unreadable", "cannot use some/file: Permission denied")
    assert refused(capsys, "diff", "a", "b") == said


def test_a_working_directory_that_is_gone(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    monkeypatch.setattr(eagle3hub.comparison, "compare", lambda *_, **__: os.getcwd())
    said = (3, "source-no-cwd", "the working directory does not exist any more")
    assert refused(capsys, "diff", "a", "b") == said


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("can't start new thread"),
        ImportError("libtorch.so: failed to map segment from shared object"),
    ],
    ids=["Python", "system", "threads", "libraries"],
)
def test_too_little_memory_whoever_says_so(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, error: Exception
):
    monkeypatch.setattr(eagle3hub.comparison, "compare", raising(error))
    assert refused(capsys, "diff", "a", "b") == (4, "memory", "there is not enough memory for this")


def test_a_mistake_of_this_program_is_called_one(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(eagle3hub.comparison, "compare", raising(ValueError("too\nfew")))
    assert refused(capsys, "diff", "a", "b") == (70, "internal", r"ValueError: too\nfew")


def test_output_for_which_there_is_no_room():
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        needed = output._Outliving(full, needed=True)
        with pytest.raises(output.Unwritable, match="cannot write the output: No space left on device"):
            needed.write(b"the answer\n")
        assert needed.write(b"more\n") == 5, "what comes after it is lost in silence"
    finally:
        os.close(full)
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        assert output._Outliving(full, needed=False).write(b"progress\n") == 9, "nobody needs it"
    finally:
        os.close(full)
