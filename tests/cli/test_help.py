"""``--help`` and completion: what a stranger sees first is complete, and works as it stands."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer.main
from support.commands import leaves, root, understood

from eagle3hub.cli import app
from eagle3hub.cli.app import build
from eagle3hub.cli.output import FIRST, GROUPS, grouped, metavar

Cli = Callable[..., tuple[int, str, str]]
COMMANDS = dict(leaves(root()))


def test_every_command_is_seen():
    assert {"inspect", "convert", "release", "card write", "card preview", "engines install"} <= set(COMMANDS)


@pytest.mark.parametrize("name", ["", "card", "engines", *COMMANDS])
def test_help_has_an_example_that_is_understood(name: str):
    command = COMMANDS[name] if name in COMMANDS else root().commands[name] if name else root()
    examples = re.findall(r"^Example: (.+?)(?:\n\n|\Z)", command.help, re.DOTALL | re.MULTILINE)
    assert examples
    for example in examples:
        line = " ".join(example.split())
        assert line.startswith(f"eagle3hub {name.split()[0] if name else ''}")
        understood(line)


@pytest.mark.parametrize("name", [*root().commands])
def test_what_is_not_asked_for_is_not_registered(name: str):
    alone = typer.main.get_command(build(name))
    assert [*alone.commands] == [name]
    assert [o.name for o in alone.commands[name].params] == [o.name for o in root().commands[name].params]
    assert [*typer.main.get_command(build("no such command")).commands] == [*root().commands]


def test_an_example_with_an_option_that_is_gone_is_noticed():
    with pytest.raises(Exception, match="No such option: --rank"):
        understood("eagle3hub inspect ./head --rank 3")


@pytest.mark.parametrize("name", ["convert", "validate", "bench", "recipe"])
def test_the_number_of_draft_tokens_is_called_the_same_everywhere(name: str):
    assert "--draft-tokens" in [word for option in COMMANDS[name].params for word in option.opts]
    if name == "convert":
        line = "eagle3hub convert head out --to speculators"
        assert understood(f"{line} --draft-tokens 4") == understood(f"{line} --speculative-tokens 4")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_shown_as_it_is_written(name: str):
    """The terminal's renderer takes ``[…]`` for markup and drops it."""
    command = COMMANDS[name]
    texts = [command.help, *(p.help for p in command.params if p.name != "help")]
    assert all(texts)
    assert not [text for text in texts if "[" in text]


LARGE = ("validate", "bench", "convert")


@pytest.mark.parametrize("name", ["", "card", "engines", "jobs", *COMMANDS])
@pytest.mark.parametrize("width", [80, 120])
def test_help_keeps_names_whole_and_lines_short(name: str, width: int, monkeypatch: pytest.MonkeyPatch, cli: Cli):
    monkeypatch.setenv("COLUMNS", str(width))
    status, out, _ = cli(*name.split(), "--help")
    assert status == 0
    assert [line for line in out.splitlines() if len(line) > width] == []
    assert not re.search(r"<(bool|str|int|float|path)>|…[a-z]|[a-z]…\s", out)
    command = COMMANDS[name] if name in COMMANDS else root().commands[name] if name else root()
    words = out.split()
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            assert any(metavar(parameter).split()[0] in word for word in words)
        else:
            assert {*parameter.opts, *parameter.secondary_opts} <= {word.rstrip(",") for word in words}


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_of_help_run_as_they_are_shown(name: str, monkeypatch: pytest.MonkeyPatch, cli: Cli):
    monkeypatch.setenv("COLUMNS", "80")
    out = cli(*name.split(), "--help")[1]
    shown = re.findall(r"^Example:\n((?:  .+\n)+)", out, re.MULTILINE)
    assert shown
    for example in shown:
        line = re.sub(r" \\\n\s+", " ", example).strip()
        assert "\n" not in line, "a shell would take it for several commands"
        understood(line)


@pytest.mark.parametrize("name", LARGE)
def test_options_of_large_commands_are_in_groups_with_eight_at_the_top(name: str):
    groups = GROUPS[name]
    listed = [option for names in groups.values() for option in names]
    assert len(listed) == len(set(listed))
    with_panels = [p.name for p in COMMANDS[name].params if getattr(p, "rich_help_panel", None)]
    options = [p.name for p in COMMANDS[name].params if p.param_type_name != "argument"]
    assert sorted(listed + with_panels) == sorted(options)
    first = next(iter(grouped(COMMANDS[name]).items()))
    assert (first[0], len(first[1])) == (FIRST, 8)


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("validate", "head", "--engin", "vllm"), "No such option: --engin; did you mean '--engine'?"),
        (("convert", "head", "out", "--too", "universal"), "No such option: --too; did you mean '--to'?"),
        (("inspect", "head", "--quite-another"), "No such option: --quite-another"),
    ],
)
def test_the_option_that_was_meant_is_named(argv: tuple[str, ...], says: str, cli: Cli):
    status, out, _ = cli(*argv, "--json")
    assert (status, json.loads(out)["error"]["message"]) == (2, says)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
@pytest.mark.parametrize("argv", [["convert", "head"], ["card", "init", "head"]])
def test_what_lacks_an_argument_gets_an_example(argv: list[str], cli: Cli):
    status, _, err = cli(*argv)
    name = " ".join(argv[:-1])
    assert status == 2 and err.startswith("error: Missing ")
    example = err.partition("hint: for example: ")[2].partition(";")[0]
    assert example.startswith(f"eagle3hub {name} ") and cli(*example.split()[1:], "--help")[0] == 0
    assert err.endswith(f"; all options: eagle3hub {name} --help\n")


@pytest.mark.slow
def test_bash_completes_commands_and_options(tmp_path: Path):
    program = tmp_path / "eagle3hub"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m eagle3hub "$@"\n')
    program.chmod(0o755)
    script = """
        eval "$(_EAGLE3HUB_COMPLETE=source_bash eagle3hub)"
        complete -p eagle3hub
        try() { COMP_WORDS=(eagle3hub "$@"); COMP_CWORD=$#; _eagle3hub_completion eagle3hub; echo "${COMPREPLY[@]}"; }
        try val; try engines in; try convert --resort
        try convert a b --to sp; try validate a --engine reference,ll; try validate a --layouts model
        try bench a --datasets mt_; try inspect a --from torch; try recipe a --engine trt
    """
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=120)
    registered, *completed = done.stdout.splitlines()
    assert registered.endswith("_eagle3hub_completion eagle3hub"), done.stderr
    assert completed[:3] == ["validate", "install", "--resort-vocab"]
    assert completed[3:] == [
        *("specjax specforge speculators", "reference,llamacpp", "modelopt"),
        *("mt_bench", "torchspec", "trtllm"),
    ]


@pytest.mark.parametrize(
    ("line", "commands"),
    [
        ("eagle3hub convert a --to sp", {"convert"}),
        ("eagle3hub convert ", {"convert"}),
        ("eagle3hub engines in", {"engines"}),
        ("eagle3hub con", {"convert", "engines", "inspect"}),
        ("eagle3hub nonsense a", {"convert", "engines", "inspect"}),
    ],
)
def test_completing_loads_only_the_command_on_the_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str, commands: set[str]
):
    monkeypatch.setenv("_EAGLE3HUB_COMPLETE", "complete_zsh")
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", line)
    loaded: list[object] = []
    command = app._command
    monkeypatch.setattr(app, "_command", lambda *wanted: loaded.append(command(*wanted)) or loaded[-1])
    with pytest.raises(SystemExit) as end:
        app.run([])
    assert end.value.code == 0
    assert commands <= set(loaded[0].commands)
    assert len(commands) > 1 or set(loaded[0].commands) == commands
    assert capsys.readouterr().out.startswith("_")


OTHER_THINGS = {"--from", "--to", "--on", "--version", "--context"}
"""Options whose name means another thing in another command: a layout or a step, a target or a tool."""


def test_one_option_has_one_name_for_its_value():
    found: dict[str, set[str]] = {}
    for _, command in leaves(root()):
        for option in (p for p in command.params if p.param_type_name != "argument"):
            found.setdefault(option.opts[0], set()).add(metavar(option).removesuffix(",…"))
    several = {option for option, names in found.items() if len(names) > 1}
    assert several - {"--output"} == OTHER_THINGS & several
    assert found["--output"] == {"FILE", "DIR"}
