"""The command line without its effects: what a command line would call, and the shell blocks of a page."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import typer.main

from eagle3hub.cli.app import build

_BLOCK = re.compile(
    r"(?:<!-- (?P<mark>run|run with a Hub|not run: [^>]+) -->\n)?```console\n(?P<body>.*?)```", re.DOTALL
)
_STATUS = re.compile(r"\s+# exit status (\d+)$")


def root() -> Any:
    """The root command."""
    return typer.main.get_command(build())


def leaves(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every command below ``command``, by its words; groups are left out."""
    for name, below in getattr(command, "commands", {}).items():
        if hasattr(below, "commands"):
            yield from leaves(below, (*words, name))
        else:
            yield " ".join((*words, name)), below


@cache
def _inert() -> Any:
    """The root command, none of whose commands does anything but return what it was given."""
    top = root()
    for option in top.params:
        option.callback = None
    for _, command in leaves(top):
        command.callback = lambda **parameters: parameters
    return top


def understood(line: str) -> dict[str, Any]:
    """The parameters a command would be called with; nothing is called. Raises what the parser raises."""
    program, *argv = shlex.split(line, comments=True)
    assert program == "eagle3hub", line
    called = _inert()(argv, prog_name="eagle3hub", standalone_mode=False)
    assert isinstance(called, dict), f"{line}: calls no command"
    return called


@dataclass(frozen=True)
class Command:
    """One command of a page: the line, what it prints, its exit status."""

    line: str
    printed: list[str]
    status: int


@dataclass(frozen=True)
class Block:
    """One ``console`` block of a page, and whether it is to be run: ``run``, ``run with a Hub``, ``not run: why``."""

    mark: str | None
    commands: list[Command]


def blocks(page: Path) -> list[Block]:
    """The ``console`` blocks of a Markdown page. A command that ends in a backslash goes on in the next line."""
    found = []
    for block in _BLOCK.finditer(page.read_text()):
        commands: list[Command] = []
        for line in re.sub(r"^\$ (?:.*\\\n)+.*", _joined, block["body"], flags=re.MULTILINE).splitlines():
            if line.startswith("$ "):
                status = _STATUS.search(line)
                commands.append(Command(_STATUS.sub("", line[2:]), [], int(status[1]) if status else 0))
            else:
                commands[-1].printed.append(line)
        found.append(Block(block["mark"], commands))
    return found


def _joined(command: re.Match[str]) -> str:
    return re.sub(r"\\\n\s*", "", command[0])


def matches(printed: list[str], shown: str) -> bool:
    """Whether the text is what a page prints: ``…`` stands for any text, alone on a line for any lines."""
    pattern = ""
    for line in printed:
        if line.strip() == "…":
            pattern += r"(?:.*\n)*?"
        else:
            pattern += ".*".join(re.escape(part) for part in line.rstrip().split("…")) + r" *\n"
    return re.fullmatch(pattern, "".join(f"{line.rstrip()}\n" for line in shown.splitlines())) is not None
