"""The guides, word for word: every command is understood, those marked so are run, and print what the page shows."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from support.commands import blocks, matches, understood

Cli = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).parent.parent
PAGES = {str(page.relative_to(ROOT)): page for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]}
GUIDES = [name for name in PAGES if any(block.mark == "run" for block in blocks(PAGES[name]))]
SAID = ("error: ", "hint: ", "warning: ")  # on standard error, besides progress
TARGET = "~/.cache/eagle3hub/targets/smollm2-135m-instruct"


@pytest.mark.parametrize("name", PAGES)
def test_every_command_of_the_documentation_is_understood(name: str):
    for block in blocks(PAGES[name]):
        for command in block.commands:
            if command.line.startswith("eagle3hub ") and "completion" not in command.line and "<" not in command.line:
                understood(command.line.partition(" > ")[0])


LONG = "docs/index.md"
"""The guide that measures."""


RUN_WHOLE = ("docs/troubleshooting.md", "docs/api.md")
"""Pages of which another test runs every block."""


def fenced(page: Path) -> Iterator[tuple[str, str, str]]:
    """The language and the text of every block of code of a page, and the mark above it."""
    for mark, language, text in re.findall(
        r"^([^\n]*)\n```(\w+)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL
    ):
        yield language, text, mark if mark.startswith("<!-- ") else ""


@pytest.mark.parametrize("name", [name for name in PAGES if name not in RUN_WHOLE])
def test_every_page_says_of_every_block_whether_it_is_run(name: str):
    assert [text for language, text, mark in fenced(PAGES[name]) if language == "console" and not mark] == []
    assert len(GUIDES) > 5


@pytest.mark.parametrize("name", PAGES)
def test_what_is_no_command_is_at_least_well_formed(name: str):
    """Commands are read by their own parser; Python and YAML that no test runs can be read by theirs."""
    for language, text, _ in fenced(PAGES[name]):
        match language:
            case "python":
                compile(text, name, "exec")
            case "yaml":
                list(yaml.safe_load_all(text))
            case _:
                assert language in ("console", "text", "json"), f"{language}: say how such a block is checked"


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n == LONG)) for n in GUIDES])
def test_a_newcomer_gets_what_the_guide_shows(
    name: str, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
):
    for entry in ("examples", "tests"):
        (tmp_path / entry).symlink_to(ROOT / entry)
    monkeypatch.chdir(tmp_path)
    for command in [c for block in blocks(PAGES[name]) if block.mark == "run" for c in block.commands]:
        program, *argv = shlex.split(command.line, comments=True)
        if program == "eagle3hub":
            status, out, err = cli(*argv)
            shown = out + "".join(line for line in err.splitlines(keepends=True) if line.startswith(SAID))
        else:
            line = command.line
            if TARGET in line:
                line = line.replace(TARGET, shlex.quote(str(request.getfixturevalue("smollm2_target"))))
            done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60)
            status, shown = done.returncode, done.stdout + done.stderr
        assert (status, command.line) == (command.status, command.line), shown
        assert matches(command.printed, shown), f"{command.line}\n{shown}"


@pytest.mark.parametrize("page", ["a…c", "…\nc", "a\nb\nc", "…"])
def test_an_ellipsis_stands_for_text_or_lines(page: str):
    shown = "abc\n" if page == "a…c" else "a\nb  \nc\n"
    assert matches(page.split("\n"), shown)
    assert not matches(page.split("\n"), shown + "more") or page == "…"
    assert not matches(["a", "c"], shown)
