"""The time of ``card --check`` grows with the size of a card, and not with its square."""

from __future__ import annotations

import time

import pytest

from eagle3hub.lint import lint_text
from eagle3hub.lint.parse import MAX_ENTRIES

UNITS = {
    "brackets": "[",
    "pictures": "![",
    "stars": "*",
    "strong": "**a ",
    "backticks": "`a",
    "rows": "| a | b |\n",
    "cells": "|",
    "comments": "<!-- x -->",
    "comments without an end": "<!--",
    "instructions without an end": "<?",
    "declarations without an end": "<![CDATA[",
    "tags": "<b>",
    "digits": "1",
    "a word": "draft",
    "hyphens": "a-",
    "headings": "# h\n",
    "commands": "hf download \\\n",
}
SIZE = 25_000


def seconds(text: str) -> float:
    begun = time.process_time()
    lint_text(f"---\nlicense: mit\n---\n# A\n\n{text}\n")
    return time.process_time() - begun


@pytest.mark.slow
@pytest.mark.parametrize("unit", UNITS.values(), ids=UNITS)
def test_four_times_the_size_takes_about_four_times_as_long(unit: str):
    small, large = (seconds(unit * (size // len(unit))) for size in (SIZE, 4 * SIZE))
    assert large < 0.4 + 8 * small, f"{small:.2f} s, then {large:.2f} s"
    assert large < 10


@pytest.mark.slow
def test_no_more_entries_than_any_card_has_are_parsed():
    assert seconds("@article{a,\n" * 20_000) < 20
    text = "# A\n\n" + "```bibtex\n@misc{a, title={b}}\n```\n" * (MAX_ENTRIES + 5)
    assert sum(f"the first {MAX_ENTRIES} entries" in f.message for f in lint_text(text)) == 1


def test_the_end_of_a_comment_is_found_and_what_follows_is_read():
    found = [f.code for f in lint_text('# A\n\n<div><!-- a\n<b> --><script src="x"></script></div>\n')]
    again = [f.code for f in lint_text('# A\n\n<div><script src="x"></script></div>\n')]
    assert found == again
