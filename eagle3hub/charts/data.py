"""What a chart shows, and what it is when it is done."""

from __future__ import annotations

from dataclasses import dataclass

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Series:
    """One head's numbers, one for each label of its panel; None where there is none.

    ``intervals`` are the ends of 95 % intervals, in the values' unit; empty where none are known.
    """

    name: str
    values: tuple[float | None, ...]
    intervals: tuple[Interval | None, ...] = ()


@dataclass(frozen=True, slots=True)
class Panel:
    """One set of axes: its title (may be empty), the labels of its categories, and the series over them.

    Raises ValueError where a series has not one value (and one interval, or none at all) for each label.
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
    """A picture in two formats: SVG, PNG at twice its size, and the same in words for who cannot see it."""

    svg: bytes
    png: bytes
    alt: str
