"""Print the tables on a terminal, at most 100 columns wide, or as plain text in a pipe."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from eagle3hub.benchmarking.results import Results
from eagle3hub.benchmarking.table import Table, conditions, tables
from eagle3hub.charts.data import shortened, wrapped

if TYPE_CHECKING:
    from rich.console import Console

WIDTH = 100
_LONGEST_KEY = 20
_LONGEST_HEADING = 16
_LONGEST_VALUE = 32
_GAP = 2


def render(results: Results, out: Console) -> None:
    """Print every table, and the conditions that apply to it."""
    render_tables(tables(results), conditions(results), out)


def render_tables(tables: Sequence[Table], conditions: Sequence[str], out: Console) -> None:
    """Print tables, and the conditions that apply to them."""
    from rich.markup import escape

    width = min(WIDTH, out.width)
    for table in tables:
        parts = list(_parts(table, width))
        for i, columns in enumerate(parts):
            part = f" ({i + 1} of {len(parts)})" if len(parts) > 1 else ""
            out.print(f"[bold]{escape(table.title)}[/]{part}", width=width, soft_wrap=False)
            _print(table, columns, out, width)
        for note in table.notes:
            out.print(f"[dim]{escape(note)}[/]", width=width, soft_wrap=False)
        out.print()
    for line in conditions:
        out.print(f"[dim]{escape(line)}[/]", width=width, soft_wrap=False)


def _print(table: Table, columns: list[int], out: Console, width: int) -> None:
    from rich import box
    from rich.markup import escape
    from rich.table import Table as RichTable

    rich = RichTable(box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, show_edge=False)
    for i in columns:
        column = table.columns[i]
        rich.add_column(
            escape("\n".join(wrapped(line, _LONGEST_HEADING, 3) for line in column.heading)),
            justify=column.align,
            vertical="top",
            overflow="fold",
            style=None if i >= table.keys else "dim" if i else "bold",
        )
    seen = out.is_terminal and not out.is_dumb_terminal  # a row that is read aloud, or found by grep, says all of it
    before: tuple[str, ...] = ()
    for row in table.rows:
        if before and row[0] != before[0]:
            rich.add_section()
        same = 0
        while seen and before and same < table.keys - 1 and row[same] == before[same]:
            same += 1
        shown = ["" if i < same else shortened(row[i], _longest(table, i)) for i in columns]
        rich.add_row(*(escape(text) for text in shown))
        before = row
    out.print(rich, width=width, soft_wrap=False)


def _parts(table: Table, width: int) -> Iterator[list[int]]:
    """Yield the columns of a table in parts that fit, the key columns first; joined columns stay together."""
    keys = list(range(table.keys))
    used = sum(_width(table, i) for i in keys)
    part, taken = list(keys), used
    for unit in _units(table):
        wide = sum(_width(table, i) for i in unit)
        if taken + wide > width and len(part) > len(keys):
            yield part
            part, taken = list(keys), used
        part += unit
        taken += wide
    yield part


def _units(table: Table) -> list[list[int]]:
    units: list[list[int]] = []
    for i in range(table.keys, len(table.columns)):
        if table.columns[i].joined:
            units[-1].append(i)
        else:
            units.append([i])
    return units


def _width(table: Table, column: int) -> int:
    cells = max((len(row[column]) for row in table.rows), default=0)
    heading = min(max(len(line) for line in table.columns[column].heading), _LONGEST_HEADING)
    return min(max(cells, heading), _longest(table, column)) + _GAP


def _longest(table: Table, column: int) -> int:
    return _LONGEST_KEY if column < table.keys else _LONGEST_VALUE
