"""The three charts: tau by data set, acceptance by draft position, tau by number of draft tokens.

Matplotlib is imported when a chart is drawn. Nothing is drawn with pyplot, so no window, no state and no backend of
the user's is involved.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from eagle3hub.charts.data import Chart, Panel, Series
from eagle3hub.charts.frame import COLUMNS, framed, named, series_names
from eagle3hub.charts.style import look, saved
from eagle3hub.charts.words import alt_text, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TAU = "acceptance length τ, tokens per round"


def acceptance_by_dataset(panels: Sequence[Panel], *, title: str, note: str = "") -> Chart:
    """Acceptance length with its interval, one row for each data set (the panels' labels) and series.

    Args:
        title: what is shown, in one line. ``note``: the conditions, in small print below.

    Raises ValueError without a panel, and for panels whose labels differ.
    """
    if len({panel.labels for panel in panels}) > 1:
        raise ValueError("panels that share their rows must have the same labels")
    from matplotlib.ticker import MaxNLocator

    names = series_names(panels)
    labels = panels[0].labels if panels else ()
    rows = len(labels) * (len(names) * 0.19 + 0.2)
    with framed(panels, rows + 0.25, title, note, sharex=True, sharey=True) as (figure, axes):
        for axis, panel in zip(axes, panels, strict=True):
            for one in panel.series:
                _rows_of(axis, one, names.index(one.name), len(names))
            axis.set_yticks(range(len(labels)), [wrapped(label, 20) for label in labels])
            axis.set_ylim(len(labels) - 0.5, -0.5)
            axis.tick_params(axis="y", length=0)
            axis.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
            axis.grid(axis="x")
            _room_on_the_right(axis, panels)
        named(axes, TAU if len(panels) < COLUMNS else "τ, tokens per round", "")
        return _finished(figure, panels, title, _tau, "")


def acceptance_by_position(panels: Sequence[Panel], *, title: str, note: str = "") -> Chart:
    """Marginal acceptance rate (a fraction of 1) by draft position, which the panels' labels number from 1.

    Arguments and errors as for `acceptance_by_dataset`.
    """
    from matplotlib.ticker import PercentFormatter

    names = series_names(panels)
    with framed(panels, 2.1, title, note, sharey=True) as (figure, axes):
        for axis, panel in zip(axes, panels, strict=True):
            for one in panel.series:
                _line_of(axis, one, [float(label) for label in panel.labels], names.index(one.name), 0.0)
            axis.set_xticks([float(label) for label in panel.labels], panel.labels)
            axis.set_ylim(0, 1)
            axis.yaxis.set_major_formatter(PercentFormatter(1.0))
            axis.grid(axis="y")
        named(axes, "draft position", "marginal acceptance rate")
        return _finished(figure, panels, title, lambda rate: f"{rate:.1%}", "position ")


def acceptance_by_draft_tokens(panels: Sequence[Panel], *, title: str, note: str = "") -> Chart:
    """Acceptance length with its interval by K, the draft tokens of a round, which the panels' labels are.

    Arguments and errors as for `acceptance_by_dataset`.
    """
    names = series_names(panels)
    with framed(panels, 2.1, title, note, sharey=True) as (figure, axes):
        for axis, panel in zip(axes, panels, strict=True):
            numbers = [float(label) for label in panel.labels]
            gap = min((b - a for a, b in pairwise(numbers)), default=1.0)
            across = (numbers[-1] - numbers[0] or 1.0) * 0.011 * min(len(panels), COLUMNS)
            step = min(across, gap * 0.5 / len(names))
            for one in panel.series:
                index = names.index(one.name)
                _line_of(axis, one, numbers, index, (index - (len(names) - 1) / 2) * step)
            axis.set_xticks(numbers, panel.labels)
            axis.margins(x=0.08, y=0.08)
            axis.grid(axis="y")
        named(axes, "draft tokens per round, K", "τ, tokens per round")
        return _finished(figure, panels, title, _tau, "K = ")


def _rows_of(axis: Axes, one: Series, index: int, count: int) -> None:
    """One series of a panel whose labels are rows: from 1, where nothing is accepted, to the value."""
    style = look(index)
    step = 0.72 / count
    for row, value in enumerate(one.values):
        y = row + (index - (count - 1) / 2) * step
        if value is None:
            axis.annotate("not measured", (1, y), (4, 0), textcoords="offset points", va="center", fontsize=7.5)
            continue
        axis.plot([1, value], [y, y], color=style.color, linewidth=1.1, alpha=0.55, solid_capstyle="butt")
        low, high = _interval(one, row) or (value, value)
        axis.plot([low, high], [y, y], color=style.color, linewidth=2.6, solid_capstyle="butt")
        axis.plot([value], [y], color=style.color, marker=style.marker, markersize=4.8)
        axis.annotate(
            f"{value:.2f}", (max(high, value), y), (6, -0.4), textcoords="offset points", va="center", fontsize=7.5
        )


def _line_of(axis: Axes, one: Series, x: Sequence[float], index: int, shift: float) -> None:
    """One series of a panel whose labels are numbers, moved to the side a little so that whiskers stay apart."""
    style = look(index)
    known = [
        (at + shift, value, _interval(one, i))
        for i, (at, value) in enumerate(zip(x, one.values, strict=True))
        if value is not None
    ]
    axis.plot(
        [at for at, _, _ in known],
        [value for _, value, _ in known],
        color=style.color,
        marker=style.marker,
        markersize=5.2,
        linestyle=style.dashes,
        linewidth=1.6,
        clip_on=False,
    )
    for at, _, interval in known:
        if interval:
            axis.plot([at, at], interval, color=style.color, linewidth=1.8, solid_capstyle="butt")


def _room_on_the_right(axis: Axes, panels: Sequence[Panel]) -> None:
    """The same scale in every panel, from 1, with room for the number beside the longest row."""
    ends = [
        max((value, *(_interval(one, i) or ())))
        for panel in panels
        for one in panel.series
        for i, value in enumerate(one.values)
        if value is not None
    ]
    reach = max([*ends, 1.5]) - 1
    axis.set_xlim(1, 1 + reach * (1.06 + 0.13 * min(len(panels), COLUMNS)))


def _interval(one: Series, index: int) -> tuple[float, float] | None:
    return one.intervals[index] if one.intervals else None


def _tau(value: float) -> str:
    return f"{value:.2f}"


def _finished(
    figure: Figure, panels: Sequence[Panel], title: str, number: Callable[[float], str], label: str
) -> Chart:
    svg, png = saved(figure, title)
    return Chart(svg, png, alt_text(title, panels, number, label))
