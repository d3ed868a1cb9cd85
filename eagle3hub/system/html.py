"""Make HTML panels and tables for notebooks. All text in them is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from eagle3hub.system.text import visible

_GOOD, _BAD, _DOUBT = "#1a7f37", "#cf222e", "#9a6700"
_COLOURS = {
    **dict.fromkeys(("pass", "right", "equal", "equal-up-to-spelling", "bit-equal"), _GOOD),
    **dict.fromkeys(("fail", "refuses", "error", "different", "differs"), _BAD),
    **dict.fromkeys(("inconclusive", "unavailable", "silently_wrong", "warning", "unknown", "depends"), _DOUBT),
}
_PANEL = "border:1px solid #8884;border-radius:6px;padding:8px 12px;max-width:70em;font-family:system-ui,sans-serif"
_TABLE = "border-collapse:collapse;margin:8px 0 0;font-size:90%"
_CELL = "text-align:left;vertical-align:top;padding:2px 14px 2px 0;white-space:normal"


@dataclass(frozen=True, slots=True)
class Cell:
    """The text of a cell. ``kind`` sets its colour: a verdict, an engine's effect, or a severity."""

    text: str
    kind: str = ""


def rows(body: Iterable[Sequence[str | Cell]], headings: Sequence[str] = ()) -> str:
    """Return a table, or an empty text if there are no rows."""
    lines = ["".join(f'<td style="{_CELL}">{_text(cell)}</td>' for cell in row) for row in body]
    if not lines:
        return ""
    head = "".join(f'<th style="{_CELL};font-weight:600">{_text(cell)}</th>' for cell in headings)
    inside = (f"<thead><tr>{head}</tr></thead>" if head else "") + "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<table style="{_TABLE}">{inside}</table>'


def panel(title: str | Cell, *parts: str, subtitle: str = "") -> str:
    """Return a box with a title, a sentence below it, and parts that are already HTML."""
    below = f'<div style="margin-top:2px">{_text(subtitle)}</div>' if subtitle else ""
    return f'<div style="{_PANEL}"><strong>{_text(title)}</strong>{below}{"".join(parts)}</div>'


def _text(cell: str | Cell) -> str:
    text, kind = (cell.text, cell.kind) if isinstance(cell, Cell) else (cell, "")
    shown = escape(visible(text))
    return f'<span style="color:{_COLOURS[kind]};font-weight:600">{shown}</span>' if kind in _COLOURS else shown
