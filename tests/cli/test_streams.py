"""A reader that leaves early does not change what a command finds: its exit status is what it would have been."""

from __future__ import annotations

import json
import os
import pty
import re
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from rich.color import ANSI_COLOR_NAMES
from rich.color_triplet import ColorTriplet
from support import heads

import eagle3hub
from eagle3hub.cli.output import COLOURS, CleanConsole

NOTHING: Mapping[str, str] = MappingProxyType({})
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
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


def finished(
    argv: list[object], environment: Mapping[str, str] = NOTHING, **streams: Any
) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "eagle3hub", *map(str, argv)]
    return subprocess.run(command, env={**ENVIRONMENT, **environment}, timeout=60, **streams)


def status(argv: list[object], **streams: Any) -> int:
    return finished(argv, **streams).returncode


def status_unread(argv: list[object], ends: tuple[int, int]) -> int:
    """The exit status of a command that writes to the second end, whose first has been closed."""
    reader, writer = ends
    os.close(reader)
    try:
        return status(argv, stdout=writer, stderr=writer)
    finally:
        os.close(writer)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_pipe_without_a_reader(tmp_path: Path, name: str):
    argv, expected = COMMANDS[name]
    assert status_unread(argv(tmp_path), os.pipe()) == expected


@pytest.mark.parametrize("name", ["equal", "no head"])
def test_a_closed_terminal(tmp_path: Path, name: str):
    argv, expected = COMMANDS[name]
    assert status_unread(argv(tmp_path), pty.openpty()) == expected


@pytest.mark.parametrize("name", ["equal", "no head"])
def test_streams_closed_from_the_start(tmp_path: Path, name: str):
    argv, expected = COMMANDS[name]
    assert status(argv(tmp_path), preexec_fn=lambda: os.closerange(1, 3)) == expected


@pytest.mark.parametrize("name", ["equal", "different in JSON", "help", "version"])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_is_one_error(tmp_path: Path, name: str, unbuffered: str):
    argv, _ = COMMANDS[name]
    with Path("/dev/full").open("wb") as full:
        done = finished(argv(tmp_path), {"PYTHONUNBUFFERED": unbuffered}, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 3
    error, hint = done.stderr.decode().splitlines()
    assert error == "error: cannot write the output: No space left on device"
    assert hint.startswith("hint: ")


def test_every_colour_can_be_read_on_black_and_on_white():
    def luminance(colour: ColorTriplet) -> float:
        linear = [v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4 for v in colour.normalized]
        return sum(part * share for part, share in zip(linear, (0.2126, 0.7152, 0.0722), strict=True))

    for name in COLOURS:
        colour = CleanConsole().get_style(name).color
        assert colour is not None and colour.number == COLOURS[name]
        light = luminance(colour.get_truecolor())
        assert (light + 0.05) / 0.05 >= 3.9 and 1.05 / (light + 0.05) >= 3.9, name


def test_no_style_is_a_colour_of_the_terminal():
    """A style of several words, or another colour, would not be one of `COLOURS`."""
    named = re.compile(r"\[(?!/)([a-z ]+)\]|style=\"([a-z ]+)\"")
    for file in Path(eagle3hub.__file__).parent.rglob("*.py"):
        text = file.read_text()
        if "rich" in text or "out.print(" in text:
            styles = {a or b for a, b in named.findall(text)}
            wrong = {s for s in styles if set(s.split()) & {*ANSI_COLOR_NAMES, "dim"} and s not in COLOURS}
            assert not wrong, f"{file}: {wrong}"


def test_an_error_in_json_that_cannot_be_written(tmp_path: Path):
    with Path("/dev/full").open("wb") as full:
        done = finished(["inspect", tmp_path / "nowhere", "--json"], stdout=full, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr.count(b"\n")) == (3, 2)
    assert done.stderr.startswith(b"error: cannot write the output: ")


def test_errors_that_cannot_be_written_leave_the_status(tmp_path: Path):
    argv, expected = COMMANDS["no such option"]
    with Path("/dev/full").open("wb") as full:
        assert status(argv(tmp_path), stderr=full) == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    "encoding",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1"},
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    ],
    ids=["ascii", "latin-1", "C"],
)
def test_what_the_encoding_lacks_is_replaced(tmp_path: Path, encoding: dict[str, str]):
    head = heads.specforge(tmp_path / "köpfchen ✓")
    printed = finished(["inspect", head], encoding, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert (printed.returncode, printed.stderr) == (0, b"")
    assert b"?" in printed.stdout
    as_json = finished(["inspect", head, "--json"], encoding, stdout=subprocess.PIPE)
    assert os.fsencode(json.loads(as_json.stdout.decode("ascii"))["source"]) == os.fsencode(head)
    none = finished(["inspect", tmp_path / "✓", "--json"], encoding, stdout=subprocess.PIPE)
    assert json.loads(none.stdout.decode("ascii"))["error"]["exit_code"] == none.returncode == 3


def test_a_connection_that_was_reset(tmp_path: Path):
    argv, expected = COMMANDS["equal"]
    with socket.create_server(("127.0.0.1", 0)) as server:
        ours = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
    with theirs:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        ours.close()
        done = finished(argv(tmp_path), stdout=theirs, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (expected, b"")


def test_unbuffered_output_is_not_held_back():
    program = "import os; from eagle3hub.cli import output; output.outlive_readers(); print('x', end=''); os._exit(0)"
    command = [sys.executable, "-u", "-c", program]
    assert subprocess.run(command, env=ENVIRONMENT, timeout=60, stdout=subprocess.PIPE).stdout == b"x"


def test_a_reader_that_stays_reads_everything(tmp_path: Path):
    argv, _ = COMMANDS["different"]
    output = tmp_path / "output"
    with output.open("wb") as file:
        assert status(argv(tmp_path), stdout=file) == 1
    assert "different: in " in output.read_text()
    assert "tensors are bit-equal" in output.read_text()


def test_no_word_of_an_error_is_cut_at_the_edge_of_a_terminal(tmp_path: Path):
    """The message breaks between words; the hint stays one line, because a command in it is copied as one."""
    mine, theirs = pty.openpty()
    os.set_blocking(mine, False)
    name = "a-long-name-of-a-folder/" * 2 + "and-nothing-there"
    command = [sys.executable, "-m", "eagle3hub", "validate", "runs of last week/" + name]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "60", "LINES": "24"}
    done = subprocess.run(command, stderr=theirs, stdout=subprocess.PIPE, env=environment, timeout=120)
    assert done.returncode == 3
    error, hint = os.read(mine, 1 << 20).decode().replace("\r\n", "\n").rstrip().split("\nhint: ")
    lines = error.splitlines()
    assert len(lines) > 2
    assert [line for line in lines if len(line) > 60 and " " in line] == []
    assert " ".join(lines) == f"error: the head 'runs of last week/{name}' is not a folder"
    assert "\n" not in hint


def on_a_terminal(columns: int, *words: object) -> list[str]:
    """The lines that a command prints on a terminal of so many columns."""
    mine, theirs = pty.openpty()
    os.set_blocking(mine, False)
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": str(columns), "LINES": "24", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "eagle3hub", *map(str, words)]
    subprocess.run(command, stdout=theirs, stderr=subprocess.PIPE, env=environment, timeout=120)
    printed = re.sub(r"\x1b\[[0-9;]*m", "", os.read(mine, 1 << 20).decode())
    return printed.replace("\r\n", "\n").splitlines()


@pytest.mark.slow
def test_a_text_that_is_too_long_goes_on_indented():
    card = Path(__file__).parents[2] / "examples" / "cards" / "qwen3-8b-specjax" / "README.md"
    lines = on_a_terminal(80, "card", "--check", card)
    assert max(map(len, lines)) <= 80
    (why,) = [i for i, line in enumerate(lines) if line.startswith("    Results are there and were not read.")]
    assert lines[why + 1].startswith("      not say what the numbers are")
    whole = on_a_terminal(400, "card", "--check", card)
    assert [line[:4] for line in whole].count("    ") == 6
    assert " ".join("\n".join(lines).split()) == " ".join("\n".join(whole).split())


@pytest.mark.slow
def test_names_that_a_narrow_terminal_would_cut_are_printed_whole(tmp_path: Path):
    a, b = heads.specforge(tmp_path / "a"), heads.specforge(tmp_path / "b", WIDER)
    every = {line.split()[0].rstrip(":") for line in on_a_terminal(200, "diff", a, b) if ".weight" in line}
    assert len(every) == 5
    assert {line.split()[0].rstrip(":") for line in on_a_terminal(60, "diff", a, b) if ".weight" in line} == every
