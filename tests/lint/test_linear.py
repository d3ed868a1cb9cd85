"""The work of a check grows with the size of a card, and not with its square: calls are counted, not seconds."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from eagle3hub.lint import lint_text

HEAD = "---\nlicense: mit\ntags: [eagle3]\n---\n# EAGLE-3 head\n\n"
RESULTS = "## Results\n\n| Set | τ | Throughput (tok/s) | Speedup |\n|---|---|---|---|\n"

SHAPES: dict[str, Callable[[int], str]] = {
    "rows": lambda n: (
        RESULTS + "".join(f"| set {i} | 2.{i % 10} | {200 + i} | 1.{i % 100:02d}x |\n" for i in range(n))
    ),
    "far values": lambda n: RESULTS + "".join(f"| set {i} | 2.1 | {9 ** (i % 5)} | 1.1x |\n" for i in range(n)),
    "HTML rows": lambda n: (
        "<table><tr><th>Set</th><th>τ</th></tr>"
        + "".join(f"<tr><td>{i}</td><td>2.1</td></tr>\n" for i in range(n))
        + "</table>\n"
    ),
    "unclosed HTML tables": lambda n: "<table>\n\n" * n,
    "tables": lambda n: "".join(f"K = 3\n\n| Set | τ |\n|---|---|\n| s{i} | 2.1 |\n\n" for i in range(n)),
    "tables after one paragraph": lambda n: (
        "K = 3 " * 50 + "\n\n" + "| Set | τ |\n|---|---|\n| s | 2.1 |\n\n---\n\n" * n
    ),
    "columns": lambda n: f"## Results\n\n{'| τ ' * n}|\n{'|---' * n}|\n{'| 2.1 ' * n}|\n",
    "paragraphs": lambda n: "Measured with vLLM on an H100, mean acceptance length 2.1, 1.5x faster.\n\n" * n,
    "sections": lambda n: "".join(f"## License {i}\n\nMIT, K = 3.\n\n" for i in range(n)),
    "empty sections": lambda n: "".join(f"## Part {i}\n\n![](a.png)\n\n" for i in range(n)),
    "links": lambda n: "".join(f"[EAGLE](https://arxiv.org/abs/2503.{i:05d})\n" for i in range(n)),
    "data sets": lambda n: (
        "## Data\n\n" + "".join(f"[d](https://huggingface.co/datasets/a/d{i})\n\n" for i in range(n))
    ),
    "JSON": lambda n: "```json\n{" + '"accept_length": 2.1,\n' * n + '"a": 1}\n```\n',
    "series of rates": lambda n: "Acceptance rates by position: 0.7, 0.5, 0.3.\n\n" * n,
    "comments": lambda n: "<!-- internal -->\n\ntext\n\n" * n,
    "custom licenses": lambda n: "## License\n\n" + "".join(f"[a](b{i})\n\nsome-own{i}-license\n\n" for i in range(n)),
}


def calls(work: Callable[[str], object], text: str) -> int:
    """Return the number of calls, of functions and of what is built in, that some work on a text makes."""
    count = 0

    def counted(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal count
        count += event in {"call", "c_call"}

    sys.setprofile(counted)
    try:
        work(text)
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_twice_the_card_is_twice_the_work(shape: Callable[[int], str]) -> None:
    """The constant part of a check cancels out: the last 160 repetitions must not cost more than those before them."""
    lint_text(HEAD + shape(3))  # what is loaded and compiled once
    small, middle, large = (calls(lint_text, HEAD + shape(n)) for n in (80, 240, 400))
    assert large - middle < 1.25 * (middle - small) + 2000, (small, middle, large)


def test_the_count_would_see_a_square() -> None:
    def square(text: str) -> int:
        return sum(1 for a in text.split() for b in text.split() if a.strip() and b.strip())

    assert calls(square, "a " * 200) > 3 * calls(square, "a " * 100)
