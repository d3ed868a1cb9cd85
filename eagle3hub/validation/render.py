"""Reports and matrices for a terminal and as a page."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from eagle3hub.charts import NARROW, TEXT, Chart, Panel, Series, acceptance_by_dataset, acceptance_by_position
from eagle3hub.checkpoint.staging import replace_file
from eagle3hub.engines.base import LoadReport, Verdict
from eagle3hub.engines.options import settings_in_words
from eagle3hub.engines.preflight.contracts import Effect
from eagle3hub.engines.preflight.contracts import PreflightVerdict as Preflight
from eagle3hub.errors import Severity, assert_never
from eagle3hub.metrics import MIN_PROMPTS, Acceptance, too_few
from eagle3hub.system.resources import compiled, data_path
from eagle3hub.system.text import visible
from eagle3hub.validation.matrix import CellVerdict, Matrix, MatrixCell
from eagle3hub.validation.report import Counted, Entry, Report, Throughput

if TYPE_CHECKING:
    from rich.console import Console

# Words and marks, the same on a terminal and on a page.


def mark(verdict: CellVerdict) -> str:
    """The sign of a verdict."""
    match verdict:
        case "pass":
            return "✓"
        case "fail":
            return "✗"
        case "inconclusive" | "unavailable":
            return "?"
        case "refused":
            return "–"
    return assert_never(verdict)


def colour(verdict: CellVerdict) -> str:
    """The colour of a verdict on a terminal."""
    match verdict:
        case "pass":
            return "green"
        case "fail":
            return "red"
        case "inconclusive" | "unavailable":
            return "yellow"
        case "refused":
            return "dim"
    return assert_never(verdict)


def preflight_verdict(effect: Effect) -> Verdict:
    """What the preflight's answer would mean for the head, for its mark and colour."""
    match effect:
        case "right":
            return "pass"
        case "silently_wrong" | "refuses":
            return "fail"
        case "depends" | "unknown":
            return "inconclusive"
    return assert_never(effect)


def cell_word(cell: MatrixCell) -> str:
    """What a cell says beside its mark."""
    match cell.verdict, cell.how:
        case "fail", "run":
            return "fails"
        case "fail", "preflight":
            return "preflight"
        case "unavailable", "none" | "run":
            return "not here"
    return cell.verdict


def reasons_of(matrix: Matrix) -> dict[str, list[str]]:
    """The reasons of the cells that did not pass, each with the places where it holds."""
    found: dict[tuple[str, str | None], list[str]] = {}
    for cell in matrix.cells:
        if cell.verdict != "pass":
            found.setdefault((cell.reason, cell.engine), []).append(cell.layout)
    out: dict[str, list[str]] = {}
    for (reason, engine), layouts in found.items():
        everywhere = len(layouts) == len(matrix.layouts) > 1
        where = "every layout" if everywhere else ", ".join(layouts)
        out.setdefault(reason, []).append(where if engine is None else f"{where} on {engine}")
    return out


def interval_of(counted: Counted, between: str = "to") -> str:
    """The 95 % interval of the acceptance length, its ends joined by a word; or why there is none."""
    acceptance = counted.acceptance
    if acceptance is not None and acceptance.ci95:
        low, high = acceptance.ci95
        return f"95 % interval {low:.3f} {between} {high:.3f}"
    prompts = sum(1 for row in counted.per_prompt if row.counts.rounds)
    return f"no interval: {too_few(prompts)}" if prompts < MIN_PROMPTS else "no interval"


def _conditions(report: Report) -> str:
    """Prompts and settings in one line."""
    prompts, settings = report.prompts, report.settings
    given = settings.engine_settings.chat_template
    rendered = f", chat template {settings.chat_template}" if given else ""
    sampling = "greedy" if settings.temperature == 0 else f"temperature {settings.temperature:g}"
    return (
        f"{prompts.count} of {prompts.name}, up to {settings.max_new_tokens} new tokens, "
        f"K = {settings.draft_tokens}, {sampling}{rendered}"
    )


# A report for people: the verdict first, then the numbers it rests on.


_WIDTH = 24
_LOG_LINES = 12


def render(report: Report, out: Console, *, saved: Path | None = None) -> None:
    """Print the report to a console; ``saved`` is where it was written, if it was."""
    from rich.markup import escape

    out.print(f"{_styled(report.verdict, report.verdict.upper())}  {escape(report.reason)}")
    for problem in report.static.problems:
        out.print(f"  [{_severity(problem.severity)}]{problem.severity}[/]  {escape(problem.message)}")
        if problem.hint:
            out.print(f"         [dim]{escape(problem.hint)}[/]")
    for assumption in report.static.assumptions:
        out.print(f"  [yellow]assumed[/]  {escape(assumption.said)}: {escape(assumption.why)}")
    if report.engines:
        head = report.head
        out.print()
        _row(out, "head", f"{escape(head.source)} [dim]({head.layout} layout, {head.digest[:19]})[/]")
        _row(out, "target", escape(report.target.name))
        _row(out, "prompts", escape(_conditions(report)))
        if started := settings_in_words(report.settings.engine_settings):
            _row(out, "started", escape(started))
    for entry in report.engines:
        _engine(entry, out, alone=len(report.engines) == 1)
    if saved is not None:
        out.print(f"\nreport    {escape(str(saved))}")


def _styled(verdict: Verdict, text: str) -> str:
    return f"[bold {colour(verdict)}]{text}[/]"


def _marked(verdict: Verdict, text: str) -> str:
    """A sentence after its verdict: a sign and a word, because not everybody sees signs and colours."""
    return f"[{colour(verdict)}]{mark(verdict)} {verdict}[/]: {text}"


def _engine(entry: Entry, out: Console, *, alone: bool) -> None:
    from rich.markup import escape

    what = f"{entry.name} on {entry.device}, {entry.dtype}"
    if alone:
        _row(out, "engine", what)
    else:
        out.print(f"\n[bold]{what}[/]  {_styled(entry.verdict, entry.verdict)}")
        if entry.verdict != "pass":
            out.print(escape(entry.reason))
    if entry.preflight is not None and entry.preflight.warning:
        _row(out, "version", f"[yellow]warning[/]: {escape(entry.preflight.warning)}")
    if entry.preflight is not None:
        _row(out, "preflight", _preflight(entry.preflight))
    outcome = entry.outcome
    if isinstance(outcome, Counted):
        _counted(outcome, out, serves=entry.recipe is not None)
        return
    if outcome.log_tail:
        out.print("\n[dim]last lines of the engine's log[/]")
    for line in outcome.log_tail[-_LOG_LINES:]:
        out.print(f"[dim]  {escape(line)}[/]")


def _counted(counted: Counted, out: Console, *, serves: bool) -> None:
    from rich.markup import escape

    if kernels := counted.environment.get("kernels"):
        _row(out, "kernels", escape(str(kernels)))
    if counted.acceptance is not None:
        _acceptance(counted.acceptance, interval_of(counted, "–"), out)
    out.print()
    for gate in counted.gates:
        _row(out, gate.name, _marked(gate.verdict, escape(gate.reason)))
    if not serves:
        times = f"{counted.start_seconds:.1f} s to load, {counted.generate_seconds:.1f} s for texts and replay"
        _row(out, "time", f"[dim]{times}[/]")
        return
    _row(out, "lossless", _lossless(counted))
    if counted.attached:
        _row(out, "unchecked", escape(", ".join(counted.unchecked)))
    else:
        _row(out, "tensors", _load(counted.load))
    _row(out, "speed", f"[dim]{_speed(counted.throughput)}[/]")


def _preflight(found: Preflight) -> str:
    from rich.markup import escape

    verdict = preflight_verdict(found.kind)
    shown = f"[{colour(verdict)}]{mark(verdict)} {escape(found.words)}[/]"
    deciding = [reason for reason in found.reasons if reason.effect == found.kind]
    if found.kind in ("right", "depends") or not deciding:
        return f"{shown} [dim](as {escape(found.title)} reads these files)[/]"
    why = "; ".join(f"{reason.sentence} ({reason.code})" for reason in deciding)
    return f"{shown}: {escape(why)}"


def _row(out: Console, name: str, value: str) -> None:
    out.print(f"{name:<10}{value}")


def _acceptance(found: Acceptance, interval: str, out: Console) -> None:
    tau = f"{found.mean_acceptance_length:.3f}"
    out.print(f"\n[bold]τ = {tau}[/] tokens per round  [dim]{interval}, {found.rounds} rounds[/]\n")
    out.print(f"  [dim]{'position':>8}  {'accepted':>8}  {'rate':>6}  {'given the one before':>20}[/]")
    rows = zip(found.accepted_per_position, found.marginal_rates, found.conditional_rates, strict=True)
    for position, (count, marginal, conditional) in enumerate(rows, 1):
        bar = "█" * round(marginal * _WIDTH)
        out.print(f"  {position:>8}  {count:>8}  {marginal:>6.1%}  {_percent(conditional):>20}  [cyan]{bar}[/]")


def _lossless(counted: Counted) -> str:
    lossless = counted.lossless
    if lossless is None:
        why = "greedy output of a server, with the reference's" if counted.attached else "only greedy output"
        return f"not compared [dim]({why} can be)[/]"
    same = f"{lossless.identical} of {lossless.prompts} prompts give the target's own tokens"
    worst = lossless.worst
    if worst is None:
        return _marked("pass", same)
    where = f"prompt {worst.question_id} changes at new token {worst.position}"
    match lossless.verdict:
        case "ties only":
            return _marked("pass", f"{same}; the others change at a tie [dim]({where}, {worst.says})[/]")
        case "not checked":
            unsettled = f"{where}, and whether at a tie is not checked [dim]({worst.says})[/]"
            return _marked("inconclusive", f"{same}; {unsettled}")
        case "identical" | "not lossless" | None:
            return _marked("fail", f"{same}; {where}{f' [dim]({worst.says})[/]' if worst.says else ''}")
        case _:
            return assert_never(lossless.verdict)


def _load(load: LoadReport) -> str:
    from rich.markup import escape

    if not load.checked:
        return _marked("inconclusive", "loading could not be watched")
    ignored = f" [dim](unused: {escape(', '.join(load.ignored))})[/]" if load.ignored else ""
    if load.not_loaded:
        return _marked("fail", f"not filled: {escape(', '.join(load.not_loaded))}{ignored}")
    return _marked("pass", f"every parameter of the head was filled from the file{ignored}")


def _speed(throughput: Throughput) -> str:
    alone, drafted = throughput.target_tokens_per_second, throughput.speculative_tokens_per_second
    parts = [] if alone is None else [f"{alone:.1f} tokens/s alone"]
    unit = " tokens/s" if alone is None else ""
    parts += [] if drafted is None else [f"{drafted:.1f}{unit} with the head"]
    return f"{', '.join(parts)} ({throughput.note})"


def _severity(severity: Severity) -> str:
    match severity:
        case "error":
            return "red"
        case "warning":
            return "yellow"
        case "info":
            return "dim"
    return assert_never(severity)


# A matrix for people: a table of layouts and engines, then the reasons of the cells that did not pass.


def render_matrix(matrix: Matrix, out: Console, *, saved: Path | None = None) -> None:
    """Print the matrix to a console; ``saved`` is where it was written, if it was."""
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    out.print(f"{_styled(matrix.verdict, matrix.verdict.upper())}  {escape(matrix.reason)}\n")
    out.print(f"head      {escape(matrix.head_source)} [dim]({escape(matrix.head_layout)} layout)[/]")
    out.print(f"target    {escape(matrix.target.name)}")
    table = Table("layout", *matrix.engines, box=SIMPLE_HEAD, header_style="dim", padding=(0, 1))
    for row in matrix.layouts:
        cells = [cell for cell in matrix.cells if cell.layout == row.layout]
        if cells[0].engine is None:
            why = "cannot hold this head" if cells[0].verdict == "refused" else "the files have errors"
            shown = [f"[{colour(cells[0].verdict)}]{why}[/]"]
        else:
            shown = [_shown(cell) for cell in cells]
        table.add_row(escape(row.layout), *shown)
    out.print(table)
    for reason, where in reasons_of(matrix).items():
        out.print(f"[bold]{escape(', '.join(where))}[/]: {escape(reason)}")
    entries = [entry for report in matrix.reports for entry in report.engines]
    for warning in dict.fromkeys(e.preflight.warning for e in entries if e.preflight and e.preflight.warning):
        out.print(f"[yellow]{escape(warning)}[/]")
    if saved is not None:
        out.print(f"\nreport    {escape(str(saved))}")


def _shown(cell: MatrixCell) -> str:
    tau = cell.mean_acceptance_length
    number = "" if tau is None else f"τ {tau:.3f}"
    foreseen = _foreseen(cell.preflight) if cell.verdict == "unavailable" else ""
    text = f"{mark(cell.verdict)} {cell_word(cell)}"
    return f"[{colour(cell.verdict)}]{text}{foreseen}[/] {number}".rstrip()


def _foreseen(effect: Effect | None) -> str:
    """What an engine that is not here would do, by the preflight."""
    match effect:
        case "right":
            return ", would be right"
        case "depends":
            return ", right if assumed rightly"
        case "refuses":
            return ", would refuse"
        case "silently_wrong":
            return ", silently wrong"
        case "unknown" | None:
            return ""
    return assert_never(effect)


# A report or a matrix as one HTML file that needs nothing else: no script, no font, no request.


_PROLOG = re.compile(rb"^.*?(?=<svg)|\s*<metadata>.*?</metadata>", re.DOTALL)
_NAMED = re.compile(r'(\sid="|url\(#|href="#)')


def save_html(found: Report | Matrix, path: Path) -> None:
    """Write `to_html` to a file: completely, or not at all. Raises OutputError."""
    replace_file(path, visible(to_html(found), keep_lines=True).encode())


def to_html(found: Report | Matrix) -> str:
    """The page. It shows nothing but the document, and escapes every word of it."""
    matrix = found if isinstance(found, Matrix) else None
    reports = matrix.reports if matrix is not None else [found] if isinstance(found, Report) else []
    return page(
        "report.html.j2",
        charts=_charts_of_layouts(matrix) if matrix is not None else _charts_of_engines(reports[0]),
        document=found.to_json(),
        matrix=matrix is not None,
        cells=matrix.cells if matrix is not None else (),
        reason=found.reason,
        conditions=_conditions(reports[0]) if reports else None,
        reports=[{**r.to_json(), "engines": [_for_page(entry) for entry in r.engines]} for r in reports],
        reasons=reasons_of(matrix) if matrix is not None else {},
        mark=mark,
        words=cell_word,
        foreseen=preflight_verdict,
        percent=_percent,
    )


def page(template: str, *, charts: Sequence[Chart], **shown: object) -> str:
    """Fill a template of ``templates/report``: every word is escaped, and charts and style are in the page itself."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    folder = data_path("templates/report")
    env = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        bytecode_cache=compiled(),
    )
    return env.get_template(template).render(
        charts=[Markup(_inline(chart, f"c{i}-")) for i, chart in enumerate(charts)],
        style=Markup((folder / "style.css").read_text(encoding="utf-8").strip()),
        **shown,
    )


def _for_page(entry: Entry) -> dict[str, object]:
    """An entry as the template reads it: every field is there, and the interval in words."""
    optional = ("preflight", "environment", "gates", "acceptance", "lossless", "load", "log_tail", "per_prompt")
    interval = interval_of(entry.counted) if entry.counted is not None else ""
    foreseen = entry.preflight and {"warning": None, **entry.preflight.to_json(), "words": entry.preflight.words}
    return {**dict.fromkeys(optional), **entry.to_json(), "preflight": foreseen, "interval": interval}


def _percent(rate: float | None) -> str:
    return "–" if rate is None else f"{rate:.1%}"


def _charts_of_engines(report: Report) -> list[Chart]:
    """Acceptance by position and by category, a series for each engine that measured some."""
    measured = [(e.name, e.counted, e.acceptance) for e in report.engines if e.counted and e.acceptance]
    if not measured:
        return []
    count = max(len(acceptance.marginal_rates) for _, _, acceptance in measured)
    positions = tuple(str(i + 1) for i in range(count))
    by_position = tuple(
        Series(
            name,
            _padded(found.marginal_rates, count),
            _padded(found.marginal_ci95, count) if found.marginal_ci95 else (),
        )
        for name, _, found in measured
    )
    categories = tuple(dict.fromkeys(category for _, counted, _ in measured for category in counted.categories))
    by_category = tuple(
        Series(
            name,
            tuple(c.mean_acceptance_length if (c := counted.categories.get(one)) else None for one in categories),
        )
        for name, counted, _ in measured
    )
    return [
        acceptance_by_position(
            [Panel("", positions, by_position)], title="Acceptance rate by draft position", width=NARROW
        ),
        acceptance_by_dataset(
            [Panel("", categories, by_category)],
            title="Acceptance length by category of prompt",
            note="Few prompts each: intervals would be wide and are not shown.",
            width=NARROW,
        ),
    ]


def _charts_of_layouts(matrix: Matrix) -> list[Chart]:
    """Acceptance length by layout, a series for each engine that measured some."""
    cells = [cell for cell in matrix.cells if cell.mean_acceptance_length is not None]
    layouts = tuple(dict.fromkeys(cell.layout for cell in cells))
    found = {(cell.layout, cell.engine): cell for cell in cells}
    series = tuple(
        Series(
            engine,
            tuple(cell.mean_acceptance_length if (cell := found.get((one, engine))) else None for one in layouts),
            tuple(cell.ci95 if (cell := found.get((one, engine))) else None for one in layouts),
        )
        for engine in matrix.engines
        if any(cell.engine == engine for cell in cells)
    )
    if not series:
        return []
    return [acceptance_by_dataset([Panel("", layouts, series)], title="Acceptance length by layout", width=NARROW)]


_T = TypeVar("_T")


def _padded(values: Sequence[_T], count: int) -> tuple[_T | None, ...]:
    return (*values, *[None] * (count - len(values)))


def _inline(chart: Chart, prefix: str) -> str:
    """The chart as an element of a page: no prolog, no metadata, ids of its own, and a description in words.

    Its text has the colour of the page's, which a picture of its own cannot know.
    """
    from markupsafe import escape

    svg = _PROLOG.sub(b"", chart.svg).decode().replace(TEXT, "currentColor")
    svg = _NAMED.sub(rf"\g<1>{prefix}", svg.replace("xlink:href", "href"))
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(chart.alt)}" ', 1)
