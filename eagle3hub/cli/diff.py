"""``eagle3hub diff`` and ``compare-reports``: say how two heads differ, and how two measurements do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eagle3hub.cli.output import JsonFlag, ProgressOption, QuietFlag, emit, progress, shown_for
from eagle3hub.cli.parameters import HEAD, AnyTargetOption
from eagle3hub.system.text import readable_count

if TYPE_CHECKING:
    from rich.console import Console

    from eagle3hub.benchmarking.compare import Pair, ReportComparison

_SHOWN = 8
_WIDTH = 60


def diff(
    ctx: typer.Context,
    a: Annotated[str, typer.Argument(metavar="A", help=f"A draft head: {HEAD}.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Another, in any layout.")],
    from_a: Annotated[
        str | None, typer.Option("--from-a", metavar="LAYOUT", help="Layout of A; detected if not given.")
    ] = None,
    from_b: Annotated[
        str | None, typer.Option("--from-b", metavar="LAYOUT", help="Layout of B; detected if not given.")
    ] = None,
    target: AnyTargetOption = None,
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor, equal ones too.")] = False,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
    _progress: ProgressOption = "text",
) -> None:
    """Say whether two draft heads are the same: equal, equal up to how their files are written, or different.

    Layouts may differ: weights are compared bit by bit, then as numbers; semantics field by field; vocabulary maps by
    what they map.

    Exit status: 0 equal, or only written differently; 1 they differ; 3 one of them cannot be read; 5 the Hub failed.

    Example: eagle3hub diff runs/final out
    """
    from eagle3hub.comparison import CompareOptions, compare

    with progress(quiet=quiet or as_json) as report:
        found = compare(a, b, CompareOptions(from_a, from_b, target), progress=report)
    document = found.to_json()
    emit("diff", document, lambda console: _print(document, console, tensors, ctx.command), as_json=as_json)
    if found.verdict == "different":
        raise typer.Exit(1)


def _print(doc: dict[str, Any], console: Console, tensors: bool, command: Any) -> None:
    from rich.markup import escape

    from eagle3hub.head import assumed_in_words

    console.print(_headline(doc))
    for side in ("a", "b"):
        s = doc[side]
        console.print(
            f"  {side.upper()}  {escape(s['source'])}: {s['layout']}, {readable_count(s['parameters'])} parameters, "
            f"{s['dtype']}"
        )
    other = [d for d in doc["differences"] if d["where"] != "tensors"]
    _table(console, "differs", "red", [(f"{d['where']}: {d['name']}", d["a"], d["b"]) for d in other[:_SHOWN]])
    _more(console, len(other) - _SHOWN, "differences (all are in --json)")
    vocab = doc["vocab_map"]
    if vocab["status"] == "different":
        console.print(f"  {vocab['only_a']:,} tokens can be drafted by A only, {vocab['only_b']:,} by B only")
    _tensors(console, doc["tensors"], every=tensors)
    _table(console, "spelled", "cyan", [(s["name"], s["a"], s["b"]) for s in doc["spelling"]])
    for side in ("a", "b"):
        for p in doc[side]["problems"]:
            if p["severity"] == "error":
                console.print(f"[red]error[/] in {side.upper()}: {escape(p['message'])} [dim]({p['code']})[/]")
        for assumption in doc[side]["assumptions"]:
            what = assumed_in_words(assumption["field"], assumption["value"])
            settle = shown_for(assumption["settle"], command)
            console.print(f"[cyan]assumed[/] of {side.upper()}: {escape(what)} [dim]({escape(settle)})[/]")


def _headline(doc: dict[str, Any]) -> str:
    from rich.markup import escape

    if doc["verdict"] == "equal":
        return "[green]equal[/]: every weight bit by bit, semantics, vocabulary map and spelling"
    spelled = escape(", ".join(s["name"] for s in doc["spelling"]))
    if doc["verdict"] == "equal-up-to-spelling":
        return f"[green]equal up to spelling[/]: {spelled}"
    places = list(dict.fromkeys(d["where"] for d in doc["differences"]))
    return f"[red]different[/]: in {', '.join(places)}"


def _tensors(console: Console, tensors: list[dict[str, Any]], *, every: bool) -> None:
    from rich.markup import escape
    from rich.table import Table

    equal = sum(t["status"] == "bit-equal" for t in tensors)
    console.print(f"  {equal} of {len(tensors)} tensors are bit-equal")
    chosen = sorted(
        (t for t in tensors if every or t["status"] != "bit-equal"),
        key=lambda t: (t["status"] == "bit-equal", -(t["relative"] or 0.0), t["name"]),
    )
    shown = chosen if every else chosen[:_SHOWN]
    if not shown:
        return
    cells = [(t["name"], _stored(t["a"]), _stored(t["b"]), _what(t)) for t in shown]
    if sum(max(map(len, column)) + 4 for column in zip(*cells, strict=True)) <= console.width:
        table = Table("tensor", "A", "B", "what", box=None, header_style="dim", padding=(0, 2))
        for row in cells:
            table.add_row(*map(escape, row))
        console.print(table)
    else:  # a column that is too narrow cuts names until they are all the same
        for name, a, b, what in cells:
            console.print(f"  {escape(name)}: {escape(a)} [dim]|[/] {escape(b)}, {what}")
    _more(console, len(chosen) - len(shown), "tensors (--tensors lists them)")


def _what(t: dict[str, object]) -> str:
    if t["status"] == "shape":
        return "other shape"
    if t["status"] in {"only-a", "only-b"}:
        return f"in {t['status'][-1].upper()} only"
    if t["status"] == "bit-equal":
        return "bit-equal"
    if t["status"] == "equal-values":
        return "other bits, same values"
    if t["differing"] is None:
        return "bytes differ"
    parts = [f"{t['differing']:,} of {t['elements']:,} differ"]
    parts += [f"max abs {t['max_abs']:.3g}"] if t["max_abs"] is not None else []
    parts += [f"relative {t['relative']:.3g}"] if t["relative"] is not None else []
    parts += [f"{t['nonfinite']:,} not finite"] if t["nonfinite"] else []
    return ", ".join(parts)


def _table(console: Console, verb: str, colour: str, rows: list[tuple[str, Any, Any]]) -> None:
    from rich.markup import escape

    for name, a, b in rows:
        console.print(f"[{colour}]{verb}[/] {escape(name)}: {escape(_short(a))} [dim]|[/] {escape(_short(b))}")


def _short(value: Any) -> str:
    text = "absent" if value is None else str(value)
    return text if len(text) <= _WIDTH else text[: _WIDTH - 1] + "…"


def _stored(side: dict[str, object] | None) -> str:
    return "absent" if side is None else f"{side['dtype']} {side['shape']}"


def _more(console: Console, count: int, what: str) -> None:
    if count > 0:
        console.print(f"  [dim]and {count} more {what}[/]")


# Two measurements.


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
    emit("compare-reports", found.to_json(), lambda out: _print_comparison(found, html, out), as_json=as_json)


def _print_comparison(found: ReportComparison, html: Path | None, out: Console) -> None:
    from rich.markup import escape

    for side, one in (("A", found.a), ("B", found.b)):
        out.print(f"{side}         {escape(one.name)}: {escape(', '.join(one.heads))}, measured {one.measured_at}")
    out.print(f"target    {escape(found.a.target.name)}")
    for what in found.unproven:
        out.print(f"[yellow]unproven[/]  {escape(what)}")
    for pair in found.pairs:
        _print_pair(pair, out)
    for what in found.left_out:
        out.print(f"[yellow]left out[/]  {escape(what)}")
    if html is not None:
        out.print(f"\npage      {escape(str(html))}")


def _print_pair(pair: Pair, out: Console) -> None:
    from rich.markup import escape
    from rich.table import Table

    from eagle3hub.benchmarking.compare import signed

    found = pair.found
    out.print(f"\n[bold]{escape(pair.title)}[/]")
    interval = "" if found.ci95 is None else ", 95 % interval {:+.3f} to {:+.3f}".format(*found.ci95)
    out.print(f"τ         A {found.base_tau:.3f}, B {found.tau:.3f}, B − A {found.difference:+.3f}{interval}")
    out.print(f"prompts   {found.prompts}, {found.identical} with the same counters")
    out.print(f"finding   {escape(pair.finding)}")
    for one in pair.differs:
        out.print(f"differs   {one.what}: {escape(' | '.join(one.shown))}")
    positions = Table("position", "A", "B", "B − A, points", box=None, header_style="dim", padding=(0, 2))
    for place in pair.positions:
        difference = signed(place.difference, place.ci95, percent=True)
        positions.add_row(str(place.position), f"{place.a:.1%}", f"{place.b:.1%}", difference)
    categories = Table("category", "prompts", "A", "B", "B − A", box=None, header_style="dim", padding=(0, 2))
    for name, own in pair.categories.items():
        difference = signed(own.difference, own.ci95)
        categories.add_row(escape(name), str(own.prompts), f"{own.base_tau:.3f}", f"{own.tau:.3f}", difference)
    out.print(positions)
    out.print(categories)
