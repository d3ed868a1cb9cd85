"""One look for every chart, and bytes that depend on nothing but the numbers.

A README is read on white (#ffffff) and on GitHub's and the Hub's dark pages (#0d1117), and its pictures cannot know
which. So the background is transparent and every colour lies in the middle: at least 3:1 against both, which is what
WCAG 2.2 asks of graphics (1.4.11) and of large text. Four colours are Okabe and Ito's as they are; orange and sky
blue are darkened, since they vanish on white. Shapes and dashes say the same as colours, for who sees few of them.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eagle3hub.visible import visible

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEXT = "#797979"
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b07c00", "#3a92c4")
_MARKERS = ("o", "s", "D", "^", "v", "P", "X")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.2, 1.2, 1.2)))
_PNG_DPI = 192
_RC: dict[str, Any] = {
    "font.family": ["DejaVu Sans"],
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
    """The look of the series at ``index``: colour and marker differ for the first 42, dashes after each palette."""
    return Look(PALETTE[index % len(PALETTE)], _MARKERS[index % len(_MARKERS)], _DASHES[index % len(_DASHES)])


@contextmanager
def styled() -> Iterator[None]:
    """Matplotlib as this project draws, whatever the user's own settings are."""
    import matplotlib

    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        matplotlib.rcdefaults()
        settings: Any = matplotlib.rcParams
        settings.update(_RC)
        yield


def saved(figure: Figure, title: str) -> tuple[bytes, bytes]:
    """SVG and PNG bytes of a figure, without dates or versions in them."""
    svg, png = io.BytesIO(), io.BytesIO()
    figure.savefig(svg, format="svg", metadata={"Title": visible(title), "Creator": None, "Date": None})
    figure.savefig(png, format="png", dpi=_PNG_DPI, metadata={"Software": None})
    return svg.getvalue(), png.getvalue()
