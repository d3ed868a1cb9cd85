"""A report for people: the verdict first, then the numbers it rests on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eagle3hub.report import Report
from eagle3hub.validation.words import interval_of

if TYPE_CHECKING:
    from rich.console import Console

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
