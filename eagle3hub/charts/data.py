"""The content of a chart: its bars, and the words that describe it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from eagle3hub.system.text import visible

# What goes into a chart, and what comes out.


Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Series:
    """One head's numbers, one for each label of its panel; None where there is no number.

    ``intervals`` are the ends of 95 % intervals, in the values' unit; empty if none are known.
    """

    name: str
    values: tuple[float | None, ...]
    intervals: tuple[Interval | None, ...] = ()


@dataclass(frozen=True, slots=True)
class Panel:
    """One set of axes: its title (may be empty), the labels of its categories, and the series over them.

    Raises ValueError unless each series has one value for each label, and one interval for each or none at all.
    """

    title: str
    labels: tuple[str, ...]
    series: tuple[Series, ...]

    def __post_init__(self) -> None:
        for one in self.series:
            if len(one.values) != len(self.labels) or len(one.intervals) not in (0, len(self.labels)):
                raise ValueError(
                    f"{one.name!r} has {len(one.values)} values and {len(one.intervals)} intervals for "
                    f"{len(self.labels)} labels"
                )


@dataclass(frozen=True, slots=True)
class Chart:
    """A picture in two formats, SVG and PNG at twice its size, and its alt text."""

    svg: bytes
    png: bytes
    alt: str

    def _repr_mimebundle_(self, **_wanted: object) -> dict[str, str]:
        """What a notebook shows: the picture, or its numbers in words where there are no pictures."""
        return {"image/svg+xml": self.svg.decode(), "text/plain": self.alt}


# A chart in words: its alt text, and names short enough to fit beside an axis.


_MOST_NUMBERS = 24


INTERVALS = "95 % intervals"


def alt_text(
    title: str, panels: Sequence[Panel], number: Callable[[float], str], label: str, ends: str = INTERVALS
) -> str:
    """Describe a chart with its numbers; if there are too many, with each series' lowest and highest.

    Args:
        number: writes a value with its unit.
        label: what the panels' labels mean, for example ``K``.
        ends: what the series' intervals are.
    """
    count = sum(len(one.values) for panel in panels for one in panel.series)
    describe = _every_number if count <= _MOST_NUMBERS else _ends
    parts = []
    for panel in panels:
        heading = f"{panel.title}: " if panel.title else ""
        parts += [heading + describe(one, panel.labels, number, label) for one in panel.series]
    if describe is _every_number and any(any(one.intervals) for panel in panels for one in panel.series):
        parts.append(f"{ends} in parentheses.")
    return f"{title}. " + " ".join(parts)


def _every_number(one: Series, labels: Sequence[str], number: Callable[[float], str], label: str) -> str:
    numbers = []
    for i, (name, value) in enumerate(zip(labels, one.values, strict=True)):
        interval = one.intervals[i] if one.intervals else None
        within = f" ({number(interval[0])} to {number(interval[1])})" if interval else ""
        numbers.append(f"{label}{name} " + ("not measured" if value is None else number(value) + within))
    return f"{one.name}: {', '.join(numbers)}."


def _ends(one: Series, labels: Sequence[str], number: Callable[[float], str], label: str) -> str:
    known = [(value, name) for name, value in zip(labels, one.values, strict=True) if value is not None]
    if not known:
        return f"{one.name}: not measured."
    (low, at_low), (high, at_high) = min(known, key=_value), max(known, key=_value)
    return f"{one.name}: from {number(low)} ({label}{at_low}) to {number(high)} ({label}{at_high})."


def _value(known: tuple[float, str]) -> float:
    return known[0]


def shortened(text: str, width: int) -> str:
    """Shorten ``text`` to one line of at most ``width`` characters; its start and end stay, as names differ in both.

    Invisible characters are made `visible`.
    """
    text = " ".join(visible(text).split())
    if len(text) <= width:
        return text
    head = (width - 1) * 2 // 3
    return f"{text[:head]}…{text[len(text) - (width - 1 - head) :]}"


def wrapped(text: str, width: int, lines: int = 2) -> str:
    """Break ``text`` into lines of ``width`` characters, after hyphens, underscores, slashes and spaces.

    If it needs more than ``lines`` lines, its middle is left out.
    """
    text = shortened(text, width * lines)
    out = [""]
    for piece in re.findall(r"[^-_/ ]*[-_/ ]?", text):
        if out[-1] and len(out[-1]) + len(piece.rstrip()) > width and len(out) < lines:
            out.append("")
        out[-1] += piece
    return "\n".join(shortened(line.strip(), width) for line in out)
