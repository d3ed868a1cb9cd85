"""A matrix for people: a table of layouts and engines, then why each cell that is no pass is none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eagle3hub.validation.matrix import Matrix
from eagle3hub.validation.render import STYLE

if TYPE_CHECKING:
    from rich.console import Console

_WORDS = {
    ("fail", "run"): "fails",
    ("fail", "preflight"): "preflight",
    ("inconclusive", "run"): "inconclusive",
    ("unavailable", "none"): "not here",
    ("unavailable", "run"): "not here",
}
_EXPECTED = {"refuses": ", would refuse", "silently_wrong": ", silently wrong"}
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
    for reason, where in _reasons(document).items():
        out.print(f"[bold]{escape(', '.join(where))}[/]: {escape(reason)}")
    if saved is not None:
        out.print(f"\nreport    {escape(str(saved))}")


def _shown(cell: Mapping[str, Any]) -> str:
    verdict, tau = cell["verdict"], cell["mean_acceptance_length"]
    number = "" if tau is None else f"τ {tau:.3f}"
    if verdict == "pass":
        return f"[green]✓[/] {number}"
    word = _WORDS.get((verdict, cell["how"]), verdict)
    mark = "✗" if verdict == "fail" else "?"
    expected = _EXPECTED.get(cell["preflight"], "") if verdict == "unavailable" else ""
    return f"[{_STYLES[verdict]}]{mark} {word}{expected}[/] {number}".rstrip()


def _reasons(document: Mapping[str, Any]) -> dict[str, list[str]]:
    """Where each reason holds: an engine that is not there says the same in every row."""
    found: dict[tuple[str, str | None], list[str]] = {}
    for cell in document["cells"]:
        if cell["verdict"] != "pass":
            found.setdefault((cell["reason"], cell["engine"]), []).append(cell["layout"])
    out: dict[str, list[str]] = {}
    for (reason, engine), layouts in found.items():
        everywhere = len(layouts) == len(document["layouts"]) > 1
        where = "every layout" if everywhere else ", ".join(layouts)
        out.setdefault(reason, []).append(where if engine is None else f"{where} on {engine}")
    return out
