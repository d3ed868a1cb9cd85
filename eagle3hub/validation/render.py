"""Reports and matrices for a terminal and as a page."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eagle3hub.charts import Chart, Panel, Series, acceptance_by_dataset, acceptance_by_position
from eagle3hub.checkpoint.staging import replace_file
from eagle3hub.metrics import MIN_PROMPTS, too_few
from eagle3hub.system.resources import data_path
from eagle3hub.system.text import visible
from eagle3hub.validation.matrix import Matrix
from eagle3hub.validation.report import Report

if TYPE_CHECKING:
    from rich.console import Console

# Words for reports and the cells of a matrix, the same on a terminal and on a page.


MARKS = {"pass": "✓", "fail": "✗", "inconclusive": "?", "unavailable": "?", "refused": "–"}
_WORDS = {
    ("pass", "run"): "",
    ("fail", "run"): "fails",
    ("fail", "preflight"): "preflight",
    ("unavailable", "none"): "not here",
    ("unavailable", "run"): "not here",
}


def cell_word(cell: Mapping[str, Any]) -> str:
    """What a cell says beside its mark; nothing for a pass."""
    return _WORDS.get((cell["verdict"], cell["how"]), str(cell["verdict"]))


def reasons_of(matrix: Mapping[str, Any]) -> dict[str, list[str]]:
    """Where each reason for a cell that is no pass holds: an engine that is not there says the same in every row."""
    found: dict[tuple[str, str | None], list[str]] = {}
    for cell in matrix["cells"]:
        if cell["verdict"] != "pass":
            found.setdefault((cell["reason"], cell["engine"]), []).append(cell["layout"])
    out: dict[str, list[str]] = {}
    for (reason, engine), layouts in found.items():
        everywhere = len(layouts) == len(matrix["layouts"]) > 1
        where = "every layout" if everywhere else ", ".join(layouts)
        out.setdefault(reason, []).append(where if engine is None else f"{where} on {engine}")
    return out


def interval_of(entry: Mapping[str, Any], between: str = "to") -> str:
    """The 95 % interval of an entry that has ``acceptance``, its ends joined by a word, or why it has none."""
    acceptance = entry["acceptance"]
    if acceptance["ci95"]:
        low, high = acceptance["ci95"]
        return f"95 % interval {low:.3f} {between} {high:.3f}"
    prompts = sum(1 for row in entry["per_prompt"] if row["rounds"])
    return f"no interval: {too_few(prompts)}" if prompts < MIN_PROMPTS else "no interval"


# A report for people: the verdict first, then the numbers it rests on.


STYLE = {"pass": "bold green", "fail": "bold red", "inconclusive": "bold yellow", "unavailable": "bold yellow"}
_MARK = {"pass": "[green]✓[/]", "fail": "[red]✗[/]", "inconclusive": "[yellow]?[/]", "unavailable": "[yellow]?[/]"}
_EXPECTED = {
    "right": "[green]✓[/] right",
    "silently_wrong": "[red]✗[/] silently wrong",
    "refuses": "[red]✗[/] refuses",
    "unknown": "[yellow]?[/] depends",
}
_WIDTH = 24
_LOG_LINES = 12


def render(report: Report, out: Console, *, saved: Path | None = None) -> None:
    """Print the report to a console; ``saved`` is where it was written, if it was."""
    from rich.markup import escape

    document = report.document
    style = STYLE[report.verdict]
    out.print(f"[{style}]{report.verdict.upper()}[/]  {escape(report.reason)}")
    for problem in document["static"]["problems"]:
        out.print(f"  [{_severity(problem['severity'])}]{problem['severity']}[/]  {escape(problem['message'])}")
        if problem["hint"]:
            out.print(f"         [dim]{escape(problem['hint'])}[/]")
    for assumption in document["static"]["assumptions"]:
        value = escape(str(assumption["value"]))
        out.print(f"  [yellow]assumed[/]  {escape(assumption['field'])} = {value}: {escape(assumption['why'])}")
    if document["engines"]:
        _conditions(document, out)
    for engine in document["engines"]:
        _engine(engine, out, alone=len(document["engines"]) == 1)
    if saved is not None:
        out.print(f"\nreport    {escape(str(saved))}")


def _conditions(document: Mapping[str, Any], out: Console) -> None:
    from rich.markup import escape

    head, target, prompts = document["head"], document["target"], document["prompts"]
    settings = document["settings"]
    out.print()
    _row(out, "head", f"{escape(head['source'])} [dim]({head['layout']} layout, {head['digest'][:19]})[/]")
    _row(out, "target", escape(target["name"]))
    sampling = "greedy" if settings["temperature"] == 0 else f"temperature {settings['temperature']:g}"
    _row(
        out,
        "prompts",
        f"{prompts['count']} of {escape(prompts['name'])}, up to {settings['max_new_tokens']} new tokens, "
        f"K = {settings['draft_tokens']}, {sampling}",
    )


def _engine(engine: Mapping[str, Any], out: Console, *, alone: bool) -> None:
    from rich.markup import escape

    what = f"{engine['engine']} {engine['version']} on {engine['device']}, {engine['dtype']}"
    if alone:
        _row(out, "engine", what)
    else:
        verdict = engine["verdict"]
        out.print(f"\n[bold]{what}[/]  [{STYLE[verdict]}]{verdict}[/]")
        if verdict != "pass":
            out.print(escape(engine["reason"]))
    if "preflight" in engine:
        _row(out, "preflight", _preflight(engine["preflight"]))
    if "load" not in engine:
        if engine["log_tail"]:
            out.print("\n[dim]last lines of the engine's log[/]")
        for line in engine["log_tail"][-_LOG_LINES:]:
            out.print(f"[dim]  {escape(line)}[/]")
        return
    if kernels := engine.get("environment", {}).get("kernels"):
        _row(out, "kernels", escape(str(kernels)))
    if engine["acceptance"]:
        _acceptance(engine, out)
    out.print()
    for gate in engine.get("gates", ()):
        _row(out, gate["name"], f"{_MARK[gate['verdict']]} {escape(gate['reason'])}")
    if engine["recipe"] is None:  # the reference reads texts, it serves nothing
        seconds = engine["seconds"]
        _row(
            out, "time", f"[dim]{seconds['start']:.1f} s to load, {seconds['generate']:.1f} s for texts and replay[/]"
        )
        return
    attached = "unchecked" in engine
    _row(out, "lossless", _lossless(engine["lossless"], attached=attached))
    if attached:
        _row(out, "unchecked", f"[yellow]?[/] {escape(', '.join(engine['unchecked']))}")
    else:
        _row(out, "tensors", _load(engine["load"]))
    _row(out, "speed", f"[dim]{_speed(engine['throughput'])}[/]")


def _preflight(preflight: Mapping[str, Any]) -> str:
    from rich.markup import escape

    verdict = preflight["verdict"]
    deciding = [r for r in preflight["reasons"] if r["effect"] == verdict]
    if verdict == "right" or not deciding:
        return f"{_EXPECTED[verdict]} [dim](as {escape(preflight['title'])} reads these files)[/]"
    why = "; ".join(f"{r['sentence']} ({r['code']})" for r in deciding)
    return f"{_EXPECTED[verdict]}: {escape(why)}"


def _row(out: Console, name: str, value: str) -> None:
    out.print(f"{name:<10}{value}")


def _acceptance(engine: Mapping[str, Any], out: Console) -> None:
    acceptance, interval = engine["acceptance"], interval_of(engine, "–")
    tau = f"{acceptance['mean_acceptance_length']:.3f}"
    out.print(f"\n[bold]τ = {tau}[/] tokens per round  [dim]{interval}, {acceptance['rounds']} rounds[/]\n")
    out.print(f"  [dim]{'position':>8}  {'accepted':>8}  {'rate':>6}  {'given the one before':>20}[/]")
    rows = zip(
        acceptance["accepted_per_position"],
        acceptance["marginal_acceptance_rates"],
        acceptance["conditional_acceptance_rates"],
        strict=True,
    )
    for position, (count, marginal, conditional) in enumerate(rows, 1):
        given = "–" if conditional is None else f"{conditional:.1%}"
        bar = "█" * round(marginal * _WIDTH)
        out.print(f"  {position:>8}  {count:>8}  {marginal:>6.1%}  {given:>20}  [cyan]{bar}[/]")


def _lossless(lossless: Mapping[str, Any] | None, *, attached: bool) -> str:
    if lossless is None:
        why = "greedy output of a server, with the reference's" if attached else "only greedy output"
        return f"not compared [dim]({why} can be)[/]"
    same = f"{lossless['identical']} of {lossless['prompts']} prompts give the target's own tokens"
    if not lossless["divergences"]:
        return f"[green]✓[/] {same}"
    first = lossless["divergences"][0]
    return f"[red]✗[/] {same}; prompt {first['question_id']} changes at new token {first['position']}"


def _load(load: Mapping[str, Any]) -> str:
    from rich.markup import escape

    if not load["checked"]:
        return "[yellow]?[/] loading could not be watched"
    ignored = f" [dim](unused: {escape(', '.join(load['ignored']))})[/]" if load["ignored"] else ""
    if load["not_loaded"]:
        return f"[red]✗[/] not filled: {escape(', '.join(load['not_loaded']))}{ignored}"
    return f"[green]✓[/] every parameter of the head was filled from the file{ignored}"


def _speed(throughput: Mapping[str, Any]) -> str:
    alone, drafted = throughput["target_tokens_per_second"], throughput["speculative_tokens_per_second"]
    parts = [] if alone is None else [f"{alone:.1f} tokens/s alone"]
    unit = " tokens/s" if alone is None else ""
    parts += [] if drafted is None else [f"{drafted:.1f}{unit} with the head"]
    return f"{', '.join(parts)} ({throughput['note']})"


def _severity(severity: str) -> str:
    return {"error": "red", "warning": "yellow", "info": "dim"}[severity]


# A matrix for people: a table of layouts and engines, then why each cell that is no pass is none.


_EXPECTED_IN_MATRIX = {"right": ", would be right", "refuses": ", would refuse", "silently_wrong": ", silently wrong"}
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
    expected = _EXPECTED_IN_MATRIX.get(cell["preflight"], "") if verdict == "unavailable" else ""
    said = f"{MARKS[verdict]} {cell_word(cell)}".rstrip()
    return f"[{_STYLES[verdict]}]{said}{expected}[/] {number}".rstrip()


# A report or a matrix as one HTML file that needs nothing else: no script, no font, no request.


_EXPECTED_ON_PAGE = {"right": "pass", "silently_wrong": "fail", "refuses": "fail", "unknown": "inconclusive"}
_PROLOG = re.compile(rb"^.*?(?=<svg)|\s*<metadata>.*?</metadata>", re.DOTALL)
_NAMED = re.compile(r'(\sid="|url\(#|href="#)')


def save_html(found: Report | Matrix, path: Path) -> None:
    """Write `to_html` to a file: completely, or not at all. Raises OutputError."""
    replace_file(path, visible(to_html(found), keep_lines=True).encode())


def to_html(found: Report | Matrix) -> str:
    """The page. What it shows comes from the document alone; every word of it is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    folder = data_path("templates/report")
    matrix = isinstance(found, Matrix)
    document = found.document
    reports = [row["report"] for row in document["layouts"] if row["report"]] if matrix else [document]
    charts = _charts_of_layouts(document) if matrix else _charts_of_engines(document)
    env = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    plain = [{**r, "engines": [_with_defaults(e) for e in r["engines"]]} for r in reports]
    return env.get_template("report.html.j2").render(
        document=document,
        matrix=matrix,
        reason=found.document["reason"] if isinstance(found, Matrix) else found.reason,
        conditions=_page_conditions(reports[0]) if reports else None,
        reports=plain,
        reasons=reasons_of(document) if matrix else {},
        charts=[Markup(_inline(chart, f"c{i}-")) for i, chart in enumerate(charts)],
        style=Markup((folder / "style.css").read_text(encoding="utf-8").strip()),
        marks=MARKS,
        words=cell_word,
        expected=_EXPECTED_ON_PAGE,
        percent=_percent,
        interval_of=interval_of,
    )


def _with_defaults(entry: Mapping[str, Any]) -> dict[str, Any]:
    optional = ("preflight", "environment", "gates", "acceptance", "lossless", "load", "log_tail", "per_prompt")
    return {**dict.fromkeys(optional), **entry}


def _page_conditions(report: Mapping[str, Any]) -> str:
    prompts, settings = report["prompts"], report["settings"]
    sampling = "greedy" if settings["temperature"] == 0 else f"temperature {settings['temperature']:g}"
    return (
        f"{prompts['count']} of {prompts['name']}, up to {settings['max_new_tokens']} new tokens, "
        f"K = {settings['draft_tokens']}, {sampling}"
    )


def _percent(rate: float | None) -> str:
    return "–" if rate is None else f"{rate:.1%}"


def _charts_of_engines(report: Mapping[str, Any]) -> list[Chart]:
    """Acceptance by position and by category, a series for each engine that measured some."""
    measured = [entry for entry in report["engines"] if entry.get("acceptance")]
    if not measured:
        return []
    count = max(len(entry["acceptance"]["marginal_acceptance_rates"]) for entry in measured)
    positions = tuple(str(i + 1) for i in range(count))
    by_position = tuple(
        Series(
            _name(entry),
            _padded(entry["acceptance"]["marginal_acceptance_rates"], count),
            _intervals(entry["acceptance"].get("marginal_ci95"), count),
        )
        for entry in measured
    )
    categories = tuple(dict.fromkeys(name for entry in measured for name in entry["categories"]))
    by_category = tuple(
        Series(_name(entry), tuple(_tau(entry["categories"].get(name)) for name in categories)) for entry in measured
    )
    return [
        acceptance_by_position([Panel("", positions, by_position)], title="Acceptance rate by draft position"),
        acceptance_by_dataset(
            [Panel("", categories, by_category)],
            title="Acceptance length by category of prompt",
            note="Few prompts each: intervals would be wide and are not shown.",
        ),
    ]


def _charts_of_layouts(document: Mapping[str, Any]) -> list[Chart]:
    """Acceptance length by layout, a series for each engine that measured some."""
    cells = [cell for cell in document["cells"] if cell["mean_acceptance_length"] is not None]
    layouts = tuple(dict.fromkeys(cell["layout"] for cell in cells))
    found = {(cell["layout"], cell["engine"]): cell for cell in cells}
    series = tuple(
        Series(
            engine,
            tuple(_tau(found.get((layout, engine))) for layout in layouts),
            tuple(_interval((found.get((layout, engine)) or {}).get("ci95")) for layout in layouts),
        )
        for engine in document["engines"]
        if any(cell["engine"] == engine for cell in cells)
    )
    if not series:
        return []
    return [acceptance_by_dataset([Panel("", layouts, series)], title="Acceptance length by layout")]


def _name(entry: Mapping[str, Any]) -> str:
    return f"{entry['engine']} {entry['version']}"


def _tau(found: Mapping[str, Any] | None) -> float | None:
    return None if found is None else found["mean_acceptance_length"]


def _padded(values: Sequence[float], count: int) -> tuple[float | None, ...]:
    return (*values, *[None] * (count - len(values)))


def _intervals(values: Sequence[Any] | None, count: int) -> tuple[tuple[float, float] | None, ...]:
    return () if values is None else tuple(_interval(v) for v in _padded(values, count))


def _interval(ends: Any) -> tuple[float, float] | None:
    return None if ends is None else (float(ends[0]), float(ends[1]))


def _inline(chart: Chart, prefix: str) -> str:
    """The chart as an element of a page: no prolog, no metadata, ids of its own, words for who cannot see it."""
    from markupsafe import escape

    svg = _PROLOG.sub(b"", chart.svg).decode()
    svg = _NAMED.sub(rf"\g<1>{prefix}", svg.replace("xlink:href", "href"))
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(chart.alt)}" ', 1)
