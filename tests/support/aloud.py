"""What commands print, as somebody hears it who sees neither colours nor signs: every meaning has a word."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from rich.segment import Segment

from eagle3hub.cli.output import COLOURS, CleanConsole

VERDICTS = {COLOURS[name] for name in ("red", "green", "yellow")}
LINES = {chr(code) for code in range(0x2500, 0x2580)}
"""Rules between the parts of a table or a tree (box drawing): who does not hear them misses nothing."""
SPOKEN = set("≤≥±×·→−°%§")
"""Signs that are read out as what they mean."""
BESIDE_A_NUMBER = "█"


def faults(pieces: Iterable[Segment]) -> Iterator[str]:
    """What is said by a colour or by a sign alone, in the pieces of one line."""
    line = ""
    for piece in pieces:
        text = piece.text.strip()
        colour = piece.style.color.number if piece.style and piece.style.color else None
        if text and colour in VERDICTS and not re.search(r"[^\W\d_]{2}", text):
            yield f"{text!r} is a colour and no word"
        line += piece.text
    for i, sign in enumerate(line):
        if unicodedata.category(sign) not in ("So", "Sm") or sign.isascii() or sign in SPOKEN | LINES:
            continue
        if sign == BESIDE_A_NUMBER:
            if not re.search(r"\d", line):
                yield f"a bar and no number: {line!r}"
        elif not re.match(r" ?[a-z]{2}|\ufe0f \*\*[A-Z][a-z]", line[i + 1 :]):  # the second, in a card's Markdown
            yield f"{sign} and no word after it: {line!r}"


def watch(patch: pytest.MonkeyPatch, found: list[str]) -> None:
    """Add to ``found`` what consoles of this process say by a colour or a sign alone, from now on."""
    plain = CleanConsole.render

    def render(self: CleanConsole, renderable: Any, options: Any = None) -> Iterator[Segment]:
        line: list[Segment] = []
        for segment in plain(self, renderable, options):
            line.append(segment)
            if "\n" in segment.text:
                found.extend(faults(line))
                line = []
            yield segment
        found.extend(faults(line))

    patch.setattr(CleanConsole, "render", render)
