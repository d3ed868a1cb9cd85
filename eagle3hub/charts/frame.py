"""What surrounds the axes: title, legend and note, on lines of their own that nothing else is drawn on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from eagle3hub.charts.data import Panel
from eagle3hub.charts.style import look, styled
from eagle3hub.charts.words import shortened

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 3
"""Panels side by side."""
_WIDTH = 7.6
_MARGIN = 0.09
_TITLE = 0.27
_LINE = 0.18
_KEY = 0.26
_GAP = 0.2
_LONGEST_NAME = 92
_LONGEST_TITLE = 78
_LONGEST_NOTE = 124


def series_names(panels: Sequence[Panel]) -> list[str]:
    """Names of the panels' series, each once, in order of first appearance: its place decides a series' look."""
    return list(dict.fromkeys(one.name for panel in panels for one in panel.series))


@contextmanager
def framed(
    panels: Sequence[Panel], height: float, title: str, note: str, **share: bool
) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure, and one set of axes for each panel, in a grid.

    Args:
        height: of each row of axes, in inches.
        note: small print below the axes; lines end with a newline.
        share: axes the panels have in common, as ``subplots`` calls them.

    Raises ValueError without a panel.
    """
    if not panels:
        raise ValueError("a chart needs a panel")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with styled():
        columns = min(len(panels), COLUMNS)
        rows = -(-len(panels) // columns)
        figure = Figure(figsize=(_WIDTH, 1))
        FigureCanvasAgg(figure)
        names = series_names(panels)
        legend = _legend_rows(figure, names) if len(names) > 1 else []
        notes = [shortened(line, _LONGEST_NOTE) for line in note.split("\n") if line]
        above = _MARGIN + _TITLE + _LINE * len(legend)
        below = _MARGIN + _LINE * len(notes)
        body = rows * (height + (0.22 if panels[0].title else 0.0)) + 0.35
        figure.set_size_inches(_WIDTH, above + body + below)
        _surround(figure, title, names, legend, notes)
        engine: Any = _constrained(below, body, above)
        figure.set_layout_engine(engine)
        grid = figure.subplots(rows, columns, squeeze=False, **share).flatten().tolist()  # type: ignore[call-overload]
        for axis, panel in zip_longest(grid, panels):
            if panel is None:
                axis.set_visible(False)
            else:
                axis.tick_params(labelbottom=True)
                axis.set_title(shortened(panel.title, 96 // columns))
        yield figure, grid[: len(panels)]


def named(axes: Sequence[Axes], x: str, y: str) -> None:
    """Name the horizontal axis below the last panel of each column, the vertical one left of the first column."""
    for i, axis in enumerate(axes):
        if i + COLUMNS >= len(axes):
            axis.set_xlabel(x)
        if i % COLUMNS == 0:
            axis.set_ylabel(y)


def _constrained(below: float, body: float, above: float) -> Any:
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    height = below + body + above
    return ConstrainedLayoutEngine(
        h_pad=0.04, w_pad=0.06, hspace=0.06, wspace=0.03, rect=(0, below / height, 1, body / height)
    )


def _legend_rows(figure: Figure, names: Sequence[str]) -> list[list[tuple[str, float]]]:
    """Names with the place (in inches from the left) of each, in as many rows as their widths need."""
    rows: list[list[tuple[str, float]]] = [[]]
    x = _MARGIN
    for name in names:
        text = figure.text(0, 0, shortened(name, _LONGEST_NAME))
        width = _KEY + 0.07 + text.get_window_extent().width / figure.dpi
        text.remove()
        if rows[-1] and x + width > _WIDTH - _MARGIN:
            rows.append([])
            x = _MARGIN
        rows[-1].append((name, x))
        x += width + _GAP
    return rows


def _surround(
    figure: Figure,
    title: str,
    names: Sequence[str],
    legend: Sequence[Sequence[tuple[str, float]]],
    notes: Sequence[str],
) -> None:
    from matplotlib.lines import Line2D

    height = figure.get_figheight()
    y = height - _MARGIN
    figure.text(_MARGIN / _WIDTH, y / height, shortened(title, _LONGEST_TITLE), fontsize=10.5, weight="bold", va="top")
    y -= _TITLE + _LINE / 2
    for row in legend:
        for name, x in row:
            style = look(names.index(name))
            key = Line2D(
                [x / _WIDTH, (x + _KEY / 2) / _WIDTH, (x + _KEY) / _WIDTH],
                [y / height] * 3,
                color=style.color,
                linestyle=style.dashes,
                linewidth=1.6,
                marker=style.marker,
                markersize=5.2,
                markevery=[1],
            )
            figure.add_artist(key)
            label = shortened(name, _LONGEST_NAME)
            figure.text((x + _KEY + 0.07) / _WIDTH, y / height, label, va="center_baseline")
        y -= _LINE
    for i, line in enumerate(reversed(notes)):
        figure.text(_MARGIN / _WIDTH, (_MARGIN + i * _LINE) / height, line, fontsize=7.5, va="bottom")
