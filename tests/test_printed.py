"""Every command that a page or a message prints is one that the program takes; blocks say whether they were run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from card import card_samples as samples
from support.commands import blocks, leaves, root, understood
from support.printed import FIELD, GROUPS, NAMES, ROOT, Printed, of_code, of_other_texts, of_pages

from eagle3hub.card import load_manifest, render_text
from eagle3hub.engines import ENGINES
from eagle3hub.engines.specs import DEVICES
from eagle3hub.layouts import LAYOUTS
from eagle3hub.prompts import PACKAGED, datasets
from eagle3hub.publishing import GATES

COMMANDS = dict(leaves(root()))
PUT_TOGETHER = Printed("eagle3hub/card/results.py", f"eagle3hub validate {FIELD}", True)
"""What a card prints to measure again: its options follow one by one, and the test after the next takes it whole."""
SHELL = re.compile(r"eagle3hub (?:--(?:install|show)-completion|val<TAB>)(?:\s+#.*)?")
"""What concerns the shell's completion of commands, which `test_help` tries in a shell."""
VALUES = {
    "engine": {*ENGINES, "reference", "sglang-jax"},
    "to": {*LAYOUTS},
    "layouts": {*LAYOUTS, "all"},
    "device": {*DEVICES},
    "dtype": {"float32", "bfloat16", "float16", "auto", "keep"},
    "prompts": {*PACKAGED, *datasets()},
    "datasets": {*PACKAGED, *datasets()},
    "allow": {*GATES},
    "gated": {"auto", "manual"},
    "start": {"convert", "card", "publish"},
    "until": {"convert", "validate", "card", "publish"},
    "on": {"hf-jobs", "slurm"},
}
PLACEHOLDER = re.compile(rf"{FIELD}|[A-Z][A-Z_,…]*|…|<.*>")


def wrong(command: Printed) -> str | None:
    """What is wrong with a printed command; None where it would do something."""
    if SHELL.fullmatch(command.line) or command.named:
        return None
    if not command.block and (names := _names_options(shlex.split(command.line, comments=True)[1:])) is not None:
        return names or None
    try:
        given = understood(command.line)
    except Exception as error:
        return str(error)
    return next(_values(given), None)


def _names_options(words: list[str]) -> str | None:
    """For a command with options and without any argument: those that it does not have; None for another line."""
    name = next((n for n in sorted(NAMES, key=len, reverse=True) if words[: len(n.split())] == n.split()), None)
    rest = words[len(name.split()) :] if name else words[1:]
    found = COMMANDS.get(name or f"{words[0]} write")  # a card is written unless another word is said
    if found is None or not rest:
        return None
    options = {o: p for p in found.params for o in (*p.opts, *p.secondary_opts) if o.startswith("-")}
    unknown = []
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            return None
        if word not in options:
            unknown.append(word)
        elif rest and not rest[0].startswith("-") and not options[word].is_flag:
            rest.pop(0)
    return f"no options {', '.join(unknown)}" if unknown else ""


def _values(given: dict[str, Any]) -> Iterator[str]:
    for option, known in VALUES.items():
        value = given.get(option)
        for one in value if isinstance(value, list | tuple) else [value] * (value is not None):
            for part in str(one).split(","):
                if part not in known and not PLACEHOLDER.fullmatch(part) and not Path(part).suffix:
                    yield f"{option} is never {part!r}"


@pytest.mark.slow
def test_every_printed_command_is_whole():
    printed = sorted({*of_pages(), *of_other_texts(), *of_code()} - {PUT_TOGETHER}, key=lambda p: (p.place, p.line))
    assert {p.place.split("/")[0] for p in printed} >= {
        "README.md",
        "docs",
        "examples",
        "schemas",
        "eagle3hub",
        "Makefile",
    }
    assert len(printed) > 180
    assert {f"{p.place}: {p.line}": why for p in printed if (why := wrong(p)) is not None} == {}


def test_what_a_card_prints_to_measure_again_is_whole():
    text = render_text(load_manifest(samples.EXAMPLE), samples.typed(samples.make_report()), samples.make_head())
    lines = [line for line in text.replace("\\\n", "").splitlines() if line.startswith("eagle3hub validate")]
    assert lines
    assert {line: why for line in lines if (why := wrong(Printed("card", line, True))) is not None} == {}


@pytest.mark.parametrize(
    ("line", "block", "why"),
    [
        ("eagle3hub publish", True, None),
        ("eagle3hub publish --dry-run", True, "Missing"),
        ("eagle3hub publish --dry-run", False, None),
        ("eagle3hub publish --dryrun", False, "no options"),
        ("eagle3hub verify DIR --rank 3", False, "No such option"),
        ("eagle3hub convert head", True, "Missing"),
        ("eagle3hub convert head out", True, None),
        ("eagle3hub convert head out --to spechub", True, "never 'spechub'"),
        ("eagle3hub convert head out --to specjax", True, None),
        ("eagle3hub validate head --target T --draft-tokens three", True, "not a valid int"),
        ("eagle3hub validate head --target T --engine vllm,triton", True, "never 'triton'"),
        ("eagle3hub publishes", False, "No such command"),
        ("eagle3hub publish DIR --allow publish-everything", True, "never"),
    ],
)
def test_what_is_wrong_with_a_command_is_seen(line: str, block: bool, why: str | None):
    found = wrong(Printed("here", line, block))
    assert (found is None) is (why is None), found
    assert why is None or why in str(found)


def test_the_code_is_read_for_every_form_of_printing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "eagle3hub").mkdir()
    (tmp_path / "eagle3hub/some.py").write_text(
        'def f(x):\n    """Like `eagle3hub verify X --key K`.\n\n    Example: eagle3hub diff a\n      b\n    """\n'
        '    hint = f"take it with: eagle3hub jobs collect {x} --report r.json"\n'
        '    hint = f"eagle3hub engines install {x} --device cpu"\n'
        '    hint = "write it with eagle3hub card --sign, or leave it out"\n'
        '    hint = "eagle3hub validate head --target T"\n    hint = "eagle3hub bench writes it"\n'
        '    hint = ("run `eagle3hub publish DIR "\n            "--repo O/N`")\n'
    )
    monkeypatch.setattr("support.printed.ROOT", tmp_path)
    assert {p.line for p in of_code()} == {
        "eagle3hub verify X --key K",
        "eagle3hub diff a b",
        "eagle3hub jobs collect FIELD --report r.json",
        "eagle3hub engines install FIELD --device cpu",
        "eagle3hub card --sign",
        "eagle3hub validate head --target T",
        "eagle3hub bench",
        "eagle3hub publish DIR --repo O/N",
    }


def test_the_hubs_own_commands_are_whole_too():
    """Those of huggingface_hub that messages and pages name, held to its own command line."""
    from huggingface_hub.cli.hf import app

    found = set()
    files = [*(ROOT / "eagle3hub").rglob("*.py"), *(ROOT / "docs").rglob("*.md"), ROOT / "README.md"]
    for file in files:
        for line in re.findall(r"(?<![\w-])hf (?:jobs|auth|download|upload|repos) ?[^\"'`()\n\\;]*", file.read_text()):
            found.add(re.sub(r"\{[^}]*\}", "alice/0123", line.strip()))
    assert {"hf jobs cancel alice/0123", "hf auth login"} <= found
    for line in found:
        command, words = app, line.split()[1:]
        with command.make_context("hf", ["--help"], resilient_parsing=True) as context:
            while words and hasattr(command, "commands"):
                inner = command.get_command(context, words[0])
                assert inner is not None, line
                command, words = getattr(inner, "materialize", lambda it=inner: it)(), words[1:]
            command.make_context(line, words, parent=context) if words else None


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
RUN_ELSEWHERE = {"docs/troubleshooting.md"}
"""Mistakes, which `test_troubleshooting` makes one by one."""


def test_every_block_says_whether_it_is_run():
    unsaid = {
        str(page.relative_to(ROOT)): [block.commands[0].line for block in blocks(page) if block.mark is None]
        for page in PAGES
        if str(page.relative_to(ROOT)) not in RUN_ELSEWHERE
    }
    assert {page: lines for page, lines in unsaid.items() if lines} == {}


def test_groups_are_known():
    assert {"card", "engines", "jobs"} <= GROUPS
