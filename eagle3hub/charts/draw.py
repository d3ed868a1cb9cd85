"""Draw a chart as SVG, for light and dark pages."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from importlib.util import find_spec
from itertools import pairwise, zip_longest
from typing import TYPE_CHECKING, Any, TypeVar, cast

from eagle3hub.charts.data import INTERVALS, Chart, Panel, Series, alt_text, shortened, wrapped
from eagle3hub.errors import UnavailableError
from eagle3hub.system.installation import command_for_extra
from eagle3hub.system.text import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# One look for every chart; the bytes depend on nothing but the numbers.
#
# A README is read on white and on dark pages, and its pictures cannot know which. No grey has a contrast of 4.5:1
# on both, which WCAG 2.2 requires of text (1.4.3). So the PNG, which cards show, has white paper, on which the text
# has 6:1. The SVG has none, and a page that takes it in may give its text another colour. All other colours have 3:1
# on white and on #0d1117, which graphics need (1.4.11). Four are those of Okabe and Ito; orange and sky blue are
# darker than theirs, because those vanish on white. Shapes and dashes repeat what colours say, for readers who cannot
# tell the colours apart.


TEXT = "#59636e"
PAPER = "#ffffff"
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b07c00", "#3a92c4")
_MARKERS = ("o", "s", "D", "^", "v", "P", "X")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.2, 1.2, 1.2)))
_PNG_DPI = 192
_FONT = "DejaVu Sans"
_RC: dict[str, object] = {
    "font.family": [_FONT],
    "font.size": 9.0,
    "text.color": TEXT,
    "text.parse_math": False,
    "axes.edgecolor": TEXT,
    "axes.labelcolor": TEXT,
    "axes.titlecolor": TEXT,
    "axes.titlesize": 9.0,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.linewidth": 0.8,
    "xtick.color": TEXT,
    "ytick.color": TEXT,
    "grid.color": TEXT,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "svg.fonttype": "path",
    "svg.hashsalt": "eagle3hub",
}


@dataclass(frozen=True, slots=True)
class Look:
    """How one series is drawn everywhere."""

    color: str
    marker: str
    dashes: Any


def look(index: int) -> Look:
    """Return the look of the series at ``index``.

    Colour and marker differ for the first 42; the dashes change after each palette.
    """
    return Look(PALETTE[index % len(PALETTE)], _MARKERS[index % len(_MARKERS)], _DASHES[index % len(_DASHES)])


def require_drawing() -> None:
    """Raise UnavailableError (``unavailable-charts-extra``) where matplotlib, which draws charts, is not installed."""
    if find_spec("matplotlib") is None:
        raise UnavailableError(
            "charts are drawn with matplotlib, which this environment does not have",
            hint=command_for_extra("charts"),
            code="unavailable-charts-extra",
        )


def has_glyphs(text: str) -> bool:
    """Return whether the charts' font, which comes with matplotlib, has every character of ``text``."""
    require_drawing()
    from matplotlib.font_manager import findfont, get_font

    known = get_font(findfont(_FONT)).get_charmap()
    return all(ord(character) in known for character in visible(text))


@contextmanager
def styled() -> Iterator[None]:
    """Within the block, draw in this project's style, whatever the user's own matplotlib settings are."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        matplotlib.rcdefaults()
        settings: Any = matplotlib.rcParams
        settings.update(_RC)
        yield


def saved(figure: Figure, title: str) -> tuple[bytes, bytes]:
    """Return the SVG and PNG bytes of a figure, without dates or versions in them."""
    svg, png = io.BytesIO(), io.BytesIO()
    figure.savefig(svg, format="svg", metadata={"Title": visible(title), "Creator": None, "Date": None})
    figure.savefig(png, format="png", dpi=_PNG_DPI, facecolor=PAPER, metadata={"Software": None})
    return svg.getvalue(), png.getvalue()


# Around the axes: title, legend and note, each on lines of its own.


COLUMNS = 3
"""Largest number of panels side by side."""
WIDE, NARROW = 7.6, 3.7
"""Widths of a chart in inches: for a page, and for a phone; the text of both has the same size."""
_MARGIN = 0.09
_TITLE = 0.27
_LINE = 0.18
_KEY = 0.26
_GAP = 0.2
_LONGEST_NAME = 92
_LONGEST_TITLE = 78
_LONGEST_NOTE = 124
"""Characters that fit into a line of a wide chart."""


def series_names(panels: Sequence[Panel]) -> list[str]:
    """List the names of the panels' series, each once, in order of first appearance, which sets each series' look."""
    return list(dict.fromkeys(one.name for panel in panels for one in panel.series))


@contextmanager
def framed(
    panels: Sequence[Panel], height: float, title: str, note: str, width: float = WIDE, **share: bool
) -> Iterator[tuple[Figure, list[Axes]]]:
    """Make a figure, and one set of axes for each panel, in a grid.

    Args:
        height: of each row of axes, in inches. ``width``: of the whole figure.
        note: small print below the axes; lines end with a newline.
        share: which axes the panels share, as arguments of ``subplots``.

    Raises ValueError if there is no panel, and UnavailableError as `require_drawing` does.
    """
    if not panels:
        raise ValueError("a chart needs a panel")
    require_drawing()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with styled():
        columns = min(len(panels), COLUMNS)
        rows = -(-len(panels) // columns)
        figure = Figure(figsize=(width, 1))
        FigureCanvasAgg(figure)
        names = series_names(panels)
        legend = _legend_rows(figure, names) if len(names) > 1 else []
        lines = 1 if width == WIDE else 2
        titles = wrapped(title, _fitting(_LONGEST_TITLE, width), lines).split("\n")
        notes = [
            piece
            for line in note.split("\n")
            if line
            for piece in wrapped(line, _fitting(_LONGEST_NOTE, width), lines).split("\n")
        ]
        above = _MARGIN + _TITLE + _LINE * (len(legend) + len(titles) - 1)
        below = _MARGIN + _LINE * len(notes)
        body = rows * (height + (0.22 if panels[0].title else 0.0)) + 0.35
        figure.set_size_inches(width, above + body + below)
        _surround(figure, titles, names, legend, notes)
        engine: Any = _constrained(below, body, above)
        figure.set_layout_engine(engine)
        grid = figure.subplots(rows, columns, squeeze=False, **share).flatten().tolist()  # type: ignore[call-overload]
        for axis, panel in zip_longest(grid, panels):
            if panel is None:
                axis.set_visible(False)
            else:
                axis.tick_params(labelbottom=True)
                axis.set_title(shortened(panel.title, _fitting(96, width) // columns))
        yield figure, grid[: len(panels)]


def _fitting(longest: int, width: float) -> int:
    return int(longest * width / WIDE)


def named(axes: Sequence[Axes], x: str, y: str) -> None:
    """Name the horizontal axis below the last panel of each column, and the vertical one left of the first column."""
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
    """Place the names (in inches from the left), in as many rows as their widths need."""
    rows: list[list[tuple[str, float]]] = [[]]
    x = _MARGIN
    for name in names:
        text = figure.text(0, 0, shortened(name, _fitting(_LONGEST_NAME, figure.get_figwidth())))
        width = _KEY + 0.07 + text.get_window_extent().width / figure.dpi
        text.remove()
        if rows[-1] and x + width > figure.get_figwidth() - _MARGIN:
            rows.append([])
            x = _MARGIN
        rows[-1].append((name, x))
        x += width + _GAP
    return rows


def _surround(
    figure: Figure,
    titles: Sequence[str],
    names: Sequence[str],
    legend: Sequence[Sequence[tuple[str, float]]],
    notes: Sequence[str],
) -> None:
    from matplotlib.lines import Line2D

    width, height = figure.get_figwidth(), figure.get_figheight()
    y = height - _MARGIN
    for line in titles:
        figure.text(_MARGIN / width, y / height, line, fontsize=10.5, weight="bold", va="top")
        y -= _LINE
    y -= _TITLE - _LINE / 2
    for row in legend:
        for name, x in row:
            style = look(names.index(name))
            key = Line2D(
                [x / width, (x + _KEY / 2) / width, (x + _KEY) / width],
                [y / height] * 3,
                color=style.color,
                linestyle=style.dashes,
                linewidth=1.6,
                marker=style.marker,
                markersize=5.2,
                markevery=[1],
            )
            figure.add_artist(key)
            label = shortened(name, _fitting(_LONGEST_NAME, width))
            figure.text((x + _KEY + 0.07) / width, y / height, label, va="center_baseline")
        y -= _LINE
    for i, line in enumerate(reversed(notes)):
        figure.text(_MARGIN / width, (_MARGIN + i * _LINE) / height, line, fontsize=7.5, va="bottom")


# The charts: tau by data set, acceptance by draft position, tau by number of draft tokens and by length of prompts.
#
# Matplotlib is imported only when a chart is drawn. Pyplot is not used, so no window opens, no state is kept and the
# user's backend does not matter.


TAU = "acceptance length τ, tokens per round"
_DRAWN: dict[tuple[object, ...], Chart] = {}
"""Charts that this process drew, by everything that decides their bytes."""
_MOST_KEPT = 64

_Draw = TypeVar("_Draw", bound=Callable[..., Chart])


def _once(draw: _Draw) -> _Draw:
    """Draw a chart only once in a process: a release draws it, checks it before it is sent, and checks it again."""

    @wraps(draw)
    def drawn(panels: Sequence[Panel], *, title: str, note: str = "", **options: float) -> Chart:
        shown = (draw, tuple(panels), title, note, *options.items())
        if shown not in _DRAWN:
            if len(_DRAWN) == _MOST_KEPT:
                _DRAWN.clear()
            _DRAWN[shown] = draw(panels, title=title, note=note, **options)
        return _DRAWN[shown]

    return cast(_Draw, drawn)


@_once
def acceptance_by_dataset(panels: Sequence[Panel], *, title: str, note: str = "", width: float = WIDE) -> Chart:
    """Draw acceptance lengths with intervals, one row for each data set (the panels' labels) and series.

    Args:
        title: what is shown, in one line. ``note``: the conditions, in small print below.
        width: in inches: `WIDE`, or `NARROW` for pages that a phone shows.

    Raises ValueError if there is no panel, or if the panels' labels differ.
    """
    if len({panel.labels for panel in panels}) > 1:
        raise ValueError("panels that share their rows must have the same labels")
    from matplotlib.ticker import MaxNLocator

    names = series_names(panels)
    labels = panels[0].labels if panels else ()
    rows = len(labels) * (len(names) * 0.19 + 0.2)
    with framed(panels, rows + 0.25, title, note, width, sharex=True, sharey=True) as (figure, axes):
        for axis, panel in zip(axes, panels, strict=True):
            for one in panel.series:
                _rows_of(axis, one, names.index(one.name), len(names))
            axis.set_yticks(range(len(labels)), [wrapped(label, 20 if width == WIDE else 14) for label in labels])
            axis.set_ylim(len(labels) - 0.5, -0.5)
            axis.tick_params(axis="y", length=0)
            axis.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
            axis.grid(axis="x")
            _room_on_the_right(axis, panels, width)
        named(axes, TAU if len(panels) < COLUMNS and width == WIDE else "τ, tokens per round", "")
        return _finished(figure, panels, title, _tau, "")


@_once
def acceptance_by_position(panels: Sequence[Panel], *, title: str, note: str = "", width: float = WIDE) -> Chart:
    """Draw marginal acceptance rates (fractions of 1) by draft position; the panels' labels are positions from 1.

    Arguments and errors as for `acceptance_by_dataset`.
    """
    from matplotlib.ticker import PercentFormatter

    names = series_names(panels)
    with framed(panels, 2.1, title, note, width, sharey=True) as (figure, axes):
        for axis, panel in zip(axes, panels, strict=True):
            for one in panel.series:
                _line_of(axis, one, [float(label) for label in panel.labels], names.index(one.name), 0.0)
            axis.set_xticks([float(label) for label in panel.labels], panel.labels)
            axis.set_ylim(0, 1)
            axis.yaxis.set_major_formatter(PercentFormatter(1.0))
            axis.grid(axis="y")
        named(axes, "draft position", "marginal acceptance rate")
        return _finished(figure, panels, title, lambda rate: f"{rate:.1%}", "position ")


@_once
def acceptance_by_draft_tokens(panels: Sequence[Panel], *, title: str, note: str = "") -> Chart:
    """Draw acceptance lengths with intervals by K, the draft tokens of a round, which are the panels' labels.

    Arguments and errors as for `acceptance_by_dataset`.
    """
    return _lines(panels, title, note, ("draft tokens per round, K", "τ, tokens per round"), (_tau, "K = ", INTERVALS))


@_once
def throughput_by_concurrency(panels: Sequence[Panel], *, title: str, note: str = "") -> Chart:
    """Draw new tokens per second by the requests under way at a time, which are the panels' labels.

    Arguments and errors as for `acceptance_by_dataset`.
    """
    names = ("requests under way at a time", "new tokens per second")
    return _lines(panels, title, note, names, (lambda value: f"{value:.1f}", "", "Lowest and highest run"))


def _lines(
    panels: Sequence[Panel],
    title: str,
    note: str,
    axes_named: tuple[str, str],
    told: tuple[Callable[[float], str], str, str],
) -> Chart:
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
        named(axes, *axes_named)
        return _finished(figure, panels, title, *told)


@_once
def acceptance_by_context(panels: Sequence[Panel], *, title: str, note: str = "") -> Chart:
    """Draw acceptance lengths with intervals by the prompts' length, which the panels' labels name: 512, 1k, 16k.

    Arguments and errors as for `acceptance_by_dataset`.
    """
    names = series_names(panels)
    with framed(panels, 2.1, title, note, sharey=True) as (figure, axes):
        for axis, panel in zip(axes, panels, strict=True):
            numbers = [math.log2(_tokens(label)) for label in panel.labels]
            step = (numbers[-1] - numbers[0] or 1.0) * 0.011 * min(len(panels), COLUMNS)
            for one in panel.series:
                index = names.index(one.name)
                _line_of(axis, one, numbers, index, (index - (len(names) - 1) / 2) * step)
            axis.set_xticks(numbers, panel.labels)
            axis.margins(x=0.08, y=0.08)
            axis.set_ylim(bottom=1)
            axis.grid(axis="y")
        named(axes, "length of the prompts, tokens", "τ, tokens per round")
        return _finished(figure, panels, title, _tau, "")


def _tokens(label: str) -> float:
    return float(label.removesuffix("k")) * (1024 if label.endswith("k") else 1)


def _rows_of(axis: Axes, one: Series, index: int, count: int) -> None:
    """Draw one series of a panel whose labels are rows, from 1 (nothing accepted) to the value."""
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
    """Draw one series of a panel whose labels are numbers, shifted a little so that whiskers stay apart."""
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


def _room_on_the_right(axis: Axes, panels: Sequence[Panel], width: float) -> None:
    """Give every panel the same scale from 1, with room for the number beside the longest row."""
    ends = [
        max((value, *(_interval(one, i) or ())))
        for panel in panels
        for one in panel.series
        for i, value in enumerate(one.values)
        if value is not None
    ]
    reach = max([*ends, 1.5]) - 1
    axis.set_xlim(1, 1 + reach * (1.06 + 0.13 * min(len(panels), COLUMNS) * WIDE / width))


def _interval(one: Series, index: int) -> tuple[float, float] | None:
    return one.intervals[index] if one.intervals else None


def _tau(value: float) -> str:
    return f"{value:.2f}"


def _finished(
    figure: Figure,
    panels: Sequence[Panel],
    title: str,
    number: Callable[[float], str],
    label: str,
    ends: str = INTERVALS,
) -> Chart:
    svg, png = saved(figure, title)
    return Chart(svg, png, alt_text(title, panels, number, label, ends))
