"""A reader that leaves early does not change what a command finds: its exit status is what it would have been."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support import heads

WIDER = heads.dims(inter=16)
COMMANDS: dict[str, tuple[Callable[[Path], list[object]], int]] = {
    "equal": (lambda f: ["diff", heads.specforge(f / "a"), heads.specforge(f / "b")], 0),
    "different": (lambda f: ["diff", heads.specforge(f / "a"), heads.specforge(f / "b", WIDER)], 1),
    "different in JSON": (lambda f: ["diff", heads.specforge(f / "a"), heads.specforge(f / "b", WIDER), "--json"], 1),
    "no head": (lambda f: ["inspect", f / "nowhere"], 3),
    "no such option": (lambda _: ["diff", "--nowhere"], 2),
    "help": (lambda _: ["convert", "--help"], 0),
    "version": (lambda _: ["--version"], 0),
}


def status(argv: list[object], **streams: object) -> int:
    command = [sys.executable, "-m", "eagle3hub", *map(str, argv)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    return subprocess.run(command, env=environment, timeout=60, **streams).returncode


@pytest.mark.parametrize("name", COMMANDS)
def test_a_pipe_without_a_reader(tmp_path: Path, name: str):
    argv, expected = COMMANDS[name]
    reader, writer = os.pipe()
    os.close(reader)
    try:
        assert status(argv(tmp_path), stdout=writer, stderr=writer) == expected
    finally:
        os.close(writer)


@pytest.mark.parametrize("name", ["equal", "no head"])
def test_a_closed_terminal(tmp_path: Path, name: str):
    argv, expected = COMMANDS[name]
    ours, theirs = pty.openpty()
    os.close(ours)
    try:
        assert status(argv(tmp_path), stdout=theirs, stderr=theirs) == expected
    finally:
        os.close(theirs)


@pytest.mark.parametrize("name", ["equal", "no head"])
def test_streams_closed_from_the_start(tmp_path: Path, name: str):
    argv, expected = COMMANDS[name]
    assert status(argv(tmp_path), preexec_fn=lambda: os.closerange(1, 3)) == expected


def test_a_full_disk_is_not_taken_for_a_reader_that_left(tmp_path: Path):
    argv, _ = COMMANDS["equal"]
    with Path("/dev/full").open("wb") as full:
        assert status(argv(tmp_path), stdout=full, stderr=subprocess.DEVNULL) not in (0, 1)


def test_a_reader_that_stays_reads_everything(tmp_path: Path):
    argv, _ = COMMANDS["different"]
    output = tmp_path / "output"
    with output.open("wb") as file:
        assert status(argv(tmp_path), stdout=file) == 1
    assert "different: in " in output.read_text()
    assert "tensors are bit-equal" in output.read_text()
