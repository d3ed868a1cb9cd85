"""The tables on a terminal, at most 100 columns wide; plain text in a pipe."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from eagle3hub.bench.results import Results
from eagle3hub.bench.table import Table, conditions, tables

if TYPE_CHECKING:
    from rich.console import Console

WIDTH = 100
_LONGEST_KEY = 24
_LONGEST_HEADING = 16
_GAP = 2


def render(results: Results, out: Console) -> None:
    """Print every table, and the conditions they hold under."""
    from rich.markup import escape

    width = min(WIDTH, out.width)
    for table in tables(results):
        parts = list(_parts(table, width))
        for i, columns in enumerate(parts):
            part = f" ({i + 1} of {len(parts)})" if len(parts) > 1 else ""
            out.print(f"[bold]{escape(table.title)}[/]{part}", width=width, soft_wrap=False)
            _print(table, columns, out, width)
        for note in table.notes:
            out.print(f"[dim]{escape(note)}[/]", width=width, soft_wrap=False)
        out.print()
    for line in conditions(results):
        out.print(f"[dim]{escape(line)}[/]", width=width, soft_wrap=False)


def _print(table: Table, columns: list[int], out: Console, width: int) -> None:
    from rich import box
    from rich.markup import escape
    from rich.table import Table as RichTable

    rich = RichTable(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    for i in columns:
        column = table.columns[i]
        rich.add_column(
            escape("\n".join(column.heading)),
            justify=column.align,
            vertical="top",
            overflow="fold",
            max_width=_LONGEST_KEY if i < table.keys else _LONGEST_HEADING,
            style=None if i >= table.keys else "dim" if i else "bold",
        )
    before: tuple[str, ...] = ()
    for row in table.rows:
        if before and row[0] != before[0]:
            rich.add_section()
        same = 0
        while before and same < table.keys - 1 and row[same] == before[same]:
            same += 1
        shown = [("" if i < same else row[i]) for i in columns]
        rich.add_row(*(escape(text) for text in shown))
        before = row
    out.print(rich, width=width, soft_wrap=False)


def _parts(table: Table, width: int) -> Iterator[list[int]]:
    """The columns of a table in parts that fit side by side, each with the keys in front."""
    keys = list(range(table.keys))
    used = sum(_width(table, i) for i in keys)
    part, taken = list(keys), used
    for i in range(table.keys, len(table.columns)):
        if taken + _width(table, i) > width and len(part) > len(keys):
            yield part
            part, taken = list(keys), used
        part.append(i)
        taken += _width(table, i)
    yield part


def _width(table: Table, column: int) -> int:
    cells = max((len(row[column]) for row in table.rows), default=0)
    heading = max(len(line) for line in table.columns[column].heading)
    longest = _LONGEST_KEY if column < table.keys else _LONGEST_HEADING
    return min(max(cells, heading), longest) + _GAP
