"""``eagle3hub compare-reports``: compare two measurements, prompt by prompt."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eagle3hub.cli.output import JsonFlag, emit

if TYPE_CHECKING:
    from rich.console import Console

    from eagle3hub.benchmarking.compare import Pair, ReportComparison


def compare_reports(
    a: Annotated[Path, typer.Argument(metavar="A", help="A report (validate --report), or results.json of bench.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another, of the same target and prompts.")],
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the comparison as one page.", show_default="none")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Compare two reports, or two results of benchmarks, prompt by prompt: how much more does B accept than A?

    Both must have the same target, prompts, draft tokens, temperature and limits; head, engine, version, precision and
    device may differ, and what differs is named. Every number is computed from the counters in the files.

    Exit status: 0 they were compared, whatever was found; 3 one of them cannot be read, or they cannot be compared.

    Example: eagle3hub compare-reports before.json after.json --html compared.html
    """
    from eagle3hub.benchmarking.compare import compare_reports as compare
    from eagle3hub.benchmarking.compare import save_page
    from eagle3hub.validation.options import writable_page

    if html is not None:
        writable_page(html)
    found = compare(a, b)
    if html is not None:
        save_page(found, html)
    emit(found.to_json(), lambda out: _print(found, html, out), as_json=as_json)


def _print(found: ReportComparison, html: Path | None, out: Console) -> None:
    from rich.markup import escape

    for side, one in (("A", found.a), ("B", found.b)):
        out.print(f"{side}         {escape(one.name)}: {escape(', '.join(one.heads))}, measured {one.measured_at}")
    out.print(f"target    {escape(found.a.target.name)}")
    for what in found.unproven:
        out.print(f"[yellow]not proven[/]  {escape(what)}")
    for pair in found.pairs:
        _print_pair(pair, out)
    for what in found.left_out:
        out.print(f"[yellow]not compared[/]  {escape(what)}")
    if html is not None:
        out.print(f"\npage      {escape(str(html))}")


def _print_pair(pair: Pair, out: Console) -> None:
    from rich.markup import escape
    from rich.table import Table

    from eagle3hub.benchmarking.compare import signed

    found = pair.found
    out.print(f"\n[bold]{escape(pair.title)}[/]")
    out.print(f"τ         A {found.base_tau:.3f}, B {found.tau:.3f}, B − A {signed(found.difference, found.ci95)}")
    out.print(f"prompts   {found.prompts}, {found.identical} with the same counters")
    out.print(f"finding   {escape(pair.finding)}")
    for one in pair.differs:
        out.print(f"differs   {one.what}: {escape(' | '.join(one.shown))}")
    positions = Table("position", "A", "B", "B − A, points", box=None, header_style="dim", padding=(0, 2))
    for place in pair.positions:
        difference = signed(place.difference, place.ci95, percent=True)
        positions.add_row(str(place.position), f"{place.a:.1%}", f"{place.b:.1%}", difference)
    categories = Table("category", "prompts", "A", "B", "B − A", box=None, header_style="dim", padding=(0, 2))
    for name, one in pair.categories.items():
        difference = signed(one.difference, one.ci95)
        categories.add_row(escape(name), str(one.prompts), f"{one.base_tau:.3f}", f"{one.tau:.3f}", difference)
    out.print(positions)
    out.print(categories)
