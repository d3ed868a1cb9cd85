"""A report or a matrix as one HTML file that needs nothing else: no script, no font, no request."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eagle3hub.charts import Chart, Panel, Series, acceptance_by_dataset, acceptance_by_position
from eagle3hub.report import Report
from eagle3hub.resources import data_path
from eagle3hub.staging import replace_file
from eagle3hub.validation.matrix import Matrix
from eagle3hub.validation.words import MARKS, cell_word, interval_of, reasons_of
from eagle3hub.visible import visible

_EXPECTED = {"right": "pass", "silently_wrong": "fail", "refuses": "fail", "unknown": "inconclusive"}
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
        conditions=_conditions(reports[0]) if reports else None,
        reports=plain,
        reasons=reasons_of(document) if matrix else {},
        charts=[Markup(_inline(chart, f"c{i}-")) for i, chart in enumerate(charts)],
        style=Markup((folder / "style.css").read_text(encoding="utf-8").strip()),
        marks=MARKS,
        words=cell_word,
        expected=_EXPECTED,
        percent=_percent,
        interval_of=interval_of,
    )


def _with_defaults(entry: Mapping[str, Any]) -> dict[str, Any]:
    optional = ("preflight", "environment", "gates", "acceptance", "lossless", "load", "log_tail", "per_prompt")
    return {**dict.fromkeys(optional), **entry}


def _conditions(report: Mapping[str, Any]) -> str:
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
