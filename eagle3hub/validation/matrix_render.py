"""A matrix for people: a table of layouts and engines, then why each cell that is no pass is none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eagle3hub.validation.matrix import Matrix
from eagle3hub.validation.render import STYLE
from eagle3hub.validation.words import MARKS, cell_word, reasons_of

if TYPE_CHECKING:
    from rich.console import Console

_EXPECTED = {"right": ", would be right", "refuses": ", would refuse", "silently_wrong": ", silently wrong"}
_STYLES = {"pass": "green", "fail": "red", "inconclusive": "yellow", "unavailable": "yellow", "refused": "dim"}


def render_matrix(matrix: Matrix, out: Console, *, saved: Path | None = None) -> None:
    """Print the matrix to a console; ``saved`` is where it was written, if it was."""
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    document = matrix.document
    out.print(f"[{STYLE[matrix.verdict]}]{matrix.verdict.upper()}[/]  {escape(document['reason'])}\n")
    out.print(f"head      {escape(document['head']['source'])} [dim]({escape(document['head']['layout'])} layout)[/]")
    out.print(f"target    {escape(document['target']['name'])}")
    table = Table("layout", *document["engines"], box=SIMPLE_HEAD, header_style="dim", padding=(0, 1))
    for row in document["layouts"]:
        cells = [cell for cell in document["cells"] if cell["layout"] == row["layout"]]
        if cells[0]["engine"] is None:
            said = "cannot hold this head" if cells[0]["verdict"] == "refused" else "the files have errors"
            shown = [f"[{_STYLES[cells[0]['verdict']]}]{said}[/]"]
        else:
            shown = [_shown(cell) for cell in cells]
        table.add_row(escape(row["layout"]), *shown)
    out.print(table)
    for reason, where in reasons_of(document).items():
        out.print(f"[bold]{escape(', '.join(where))}[/]: {escape(reason)}")
    if saved is not None:
        out.print(f"\nreport    {escape(str(saved))}")


def _shown(cell: Mapping[str, Any]) -> str:
    verdict, tau = cell["verdict"], cell["mean_acceptance_length"]
    number = "" if tau is None else f"τ {tau:.3f}"
    expected = _EXPECTED.get(cell["preflight"], "") if verdict == "unavailable" else ""
    said = f"{MARKS[verdict]} {cell_word(cell)}".rstrip()
    return f"[{_STYLES[verdict]}]{said}{expected}[/] {number}".rstrip()
