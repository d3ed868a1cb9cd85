"""The card's charts: which of its numbers are drawn. Only acceptance lengths and marginal rates are."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from eagle3hub.bench import chart
from eagle3hub.card.bench import Benchmark
from eagle3hub.card.context import Picture
from eagle3hub.card.imported import LENGTH, Measurement, Row
from eagle3hub.card.manifest import Manifest
from eagle3hub.card.reported import CHARTS, chart_name
from eagle3hub.card.reports import Run
from eagle3hub.card.results import view
from eagle3hub.charts import Chart, Panel, Series, acceptance_by_dataset, acceptance_by_position

_SHOWN = (("draft_tokens", "K"), ("temperature", "T"))


def draw(
    manifest: Manifest, runs: Sequence[Run], benchmarks: Sequence[Benchmark]
) -> tuple[list[Picture], dict[str, bytes]]:
    """The charts of a card, and their files by path relative to the card."""
    charts: dict[str, tuple[str, Chart]] = {}
    for i, m in enumerate(manifest.imported, 1):
        if m.metric == LENGTH and len(m.rows) > 1:
            charts[chart_name(i, m)] = ("imported", reported(m))
    for i, benchmark in enumerate(benchmarks, 1):
        for name, found in chart.charts(benchmark.results).items():
            charts[_name("benchmark", str(i), name)] = (f"benchmark-{i}", found)
    measured = [run for run in runs if run.layout == manifest.layouts.main and run.acceptance]
    if measured:
        charts["acceptance-by-position"] = ("reports", by_position(manifest, measured))
    pictures = [Picture(f"{CHARTS}/{name}", made.alt, of) for name, (of, made) in charts.items()]
    files = {}
    for name, (_, made) in charts.items():
        files[f"{CHARTS}/{name}.png"] = made.png
        files[f"{CHARTS}/{name}.svg"] = made.svg
    return pictures, files


def reported(m: Measurement) -> Chart:
    """Imported acceptance lengths, one row for each row of their table."""
    labels = tuple(_label(m, row) for row in m.rows)
    series = [Series(m.this, tuple(row.value.number for row in m.rows), _intervals(m))]
    for name in m.others:
        values = [row.others[name].number if name in row.others else None for row in m.rows]
        series.append(Series(name, tuple(values)))
    conditions = m.rows[0].conditions
    told = [f"{word} = {conditions[key]}" for key, word in _SHOWN if key in m.conditions]
    note = " · ".join([*told, f"reported by {m.source.measured_by}, not measured with eagle3hub"])
    return acceptance_by_dataset([Panel("", labels, tuple(series))], title=m.title, note=note)


def _label(m: Measurement, row: Row) -> str:
    own = [f"{word} = {row.conditions[key]}" for key, word in _SHOWN if key in row.conditions.keys() - m.conditions]
    return ", ".join([row.name, *own])


def _intervals(m: Measurement) -> tuple[tuple[float, float] | None, ...]:
    if not any(row.interval for row in m.rows):
        return ()
    return tuple((row.interval[0].number, row.interval[1].number) if row.interval else None for row in m.rows)


def by_position(manifest: Manifest, runs: Sequence[Run]) -> Chart:
    """Marginal acceptance rates of the runs of the main layout."""
    rates = [_rates(run) for run in runs]
    longest = max(len(r) for r in rates)
    labels = tuple(str(i + 1) for i in range(longest))
    views = [view(run, manifest) for run in runs]
    became = ["" if v.verdict == "pass" else f" ({v.outcome})" for v in views]
    names = [
        f"{v.engine}, {v.dtype}, {v.prompts}, T = {v.temperature}{how}" for v, how in zip(views, became, strict=True)
    ]
    series = tuple(
        Series(name, tuple(r[i] if i < len(r) else None for i in range(longest)))
        for name, r in zip(names, rates, strict=True)
    )
    return acceptance_by_position([Panel("", labels, series)], title="Acceptance by draft position", note=names[0])


def _rates(run: Run) -> list[float]:
    found: Mapping[str, Any] = run.acceptance or {}
    return [float(rate) for rate in found["marginal_acceptance_rates"]]


def _name(*parts: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", "-".join(parts).lower()).strip("-")[:80]
