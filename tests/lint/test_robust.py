"""Any text can be linted: rules do not fail, take little time, and do not depend on line ends."""

from __future__ import annotations

import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lint_cases import FRONT, files, numbers, words
from support.sampling import examples

from eagle3hub.lint import lint_text

CASES = [*words.CASES, *numbers.CASES, *files.CASES]
PIECES = sorted(
    {line for case in CASES for line in case.bad_text.split("\n")} | {"", "```", "---", "|", "Downloads last month"}
)


@pytest.mark.slow
@settings(max_examples=examples(0.6), suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=20), max_size=25), st.booleans())
def test_lines_in_any_order(lines: list[str], front: bool):
    text = (FRONT if front else "") + "\n".join(lines)
    found = lint_text(text, files=["README.md"])
    last = text.count("\n") + text.count("\r") + 1
    assert all(1 <= f.line <= last for f in found)
    assert found == lint_text(text, files=["README.md"])


@pytest.mark.slow
def test_line_ends_do_not_matter():
    for case in CASES:
        unix, dos = case.bad_text, case.bad_text.replace("\n", "\r\n")
        assert [(f.code, f.line) for f in lint_text(unix)] == [(f.code, f.line) for f in lint_text(dos)], case.code


@pytest.mark.slow
def test_long_cards_take_seconds_at_most():
    started = time.monotonic()
    pieces = [
        "| a | 2.15 | 3% |\n",
        "tokens ",
        "K = 3, ",
        "- x\n",
        "[a](b)",
        "**",
        "# h\n",
        "@misc{a,\n",
        "<b>",
        "2 x ",
    ]
    for piece in pieces:
        lint_text(FRONT + "| Set | τ | Difference |\n|---|---|---|\n" + piece * 3000)
    assert time.monotonic() - started < 60
