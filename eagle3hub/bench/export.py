"""A benchmark on disk: the tables as Markdown, one CSV row per cell, and the charts."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eagle3hub.bench.chart import charts
from eagle3hub.bench.plan import MOST_DRAFT_TOKENS
from eagle3hub.bench.results import CellRecord, Results
from eagle3hub.bench.table import Table, conditions, tables
from eagle3hub.charts import Chart
from eagle3hub.staging import replace_file
from eagle3hub.visible import visible

_PLAIN = (
    "head",
    "head_layout",
    "head_digest",
    "target",
    "target_revision",
    "engine",
    "engine_version",
    "device",
    "dtype",
    "dataset",
    "prompts",
    "prompts_sha256",
    "turns",
    "draft_tokens",
    "temperature",
    "max_new_tokens",
    "drafting",
    "topk",
    "num_draft_tokens",
    "seed",
    "verdict",
    "reason",
    "rounds",
    "drafted_tokens",
    "accepted_tokens",
    "acceptance_length_tokens_per_round",
    "ci95_low_tokens_per_round",
    "ci95_high_tokens_per_round",
    "standard_error_tokens_per_round",
    "acceptance_length_mean_of_requests_tokens_per_round",
    "draft_acceptance_rate_fraction",
    "target_tokens_per_second",
    "speculative_tokens_per_second",
    "measuring_seconds",
)
CSV_COLUMNS = (*_PLAIN, *(f"marginal_rate_position_{i + 1}_fraction" for i in range(MOST_DRAFT_TOKENS)))
"""Stable: columns are only ever added, at the end."""


def write_all(results: Results, folder: Path) -> list[Path]:
    """Write ``results.csv``, ``tables.md`` and ``charts/``; returns the files. Raises OutputError."""
    pictures = charts(results)
    files: dict[str, bytes] = {
        "results.csv": visible(to_csv(results), keep_lines=True).encode(),
        "tables.md": visible(to_markdown(results, pictures), keep_lines=True).encode(),
    }
    for name, chart in pictures.items():
        files[f"charts/{name}.svg"] = chart.svg
        files[f"charts/{name}.png"] = chart.png
    for name, data in files.items():
        replace_file(folder / name, data, parents=True)
    return [folder / name for name in files]


def to_csv(results: Results) -> str:
    """One row per cell; a cell of the table is empty where there is no number."""
    out = io.StringIO()
    writer = csv.DictWriter(out, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for cell in results.cells:
        writer.writerow(_row(cell, results.document))
    return out.getvalue()


def _row(cell: CellRecord, document: Mapping[str, Any]) -> dict[str, Any]:
    head = next(h for h in document["heads"] if h["name"] == cell["head"])
    settings, acceptance, speed = cell["settings"], cell["acceptance"] or {}, cell["throughput"] or {}
    low, high = acceptance.get("ci95") or (None, None)
    rates: Sequence[float] = acceptance.get("marginal_acceptance_rates", ())
    return {
        "head": cell["head"],
        "head_layout": head["layout"],
        "head_digest": head["digest"],
        "target": document["target"]["name"],
        "target_revision": document["target"]["revision"],
        "engine": cell["engine"]["name"],
        "engine_version": cell["engine"]["version"],
        "dataset": cell["prompts"]["name"],
        "prompts": cell["prompts"]["count"],
        "prompts_sha256": cell["prompts"]["sha256"],
        "turns": cell["prompts"]["turns"],
        **{key: settings[key] for key in _PLAIN if key in settings},
        "verdict": cell["verdict"],
        "reason": cell["reason"],
        "rounds": acceptance.get("rounds"),
        "drafted_tokens": acceptance.get("drafted"),
        "accepted_tokens": acceptance.get("accepted"),
        "acceptance_length_tokens_per_round": acceptance.get("mean_acceptance_length"),
        "ci95_low_tokens_per_round": low,
        "ci95_high_tokens_per_round": high,
        "standard_error_tokens_per_round": acceptance.get("standard_error"),
        "acceptance_length_mean_of_requests_tokens_per_round": acceptance.get("mean_acceptance_length_per_request"),
        "draft_acceptance_rate_fraction": acceptance.get("draft_acceptance_rate"),
        "target_tokens_per_second": speed.get("target_tokens_per_second"),
        "speculative_tokens_per_second": speed.get("speculative_tokens_per_second"),
        "measuring_seconds": cell["seconds"],
        **{f"marginal_rate_position_{i + 1}_fraction": rate for i, rate in enumerate(rates)},
    }


def to_markdown(results: Results, pictures: Mapping[str, Chart] | None = None) -> str:
    """The tables, the charts with their words, and the conditions, as a Markdown page."""
    parts = ["# Benchmark"]
    parts += [_markdown_table(table) for table in tables(results)]
    parts += [f"![{_escaped(chart.alt)}](charts/{name}.svg)" for name, chart in (pictures or {}).items()]
    parts += ["## Conditions", "\n".join(f"- {_escaped(line)}" for line in conditions(results))]
    return "\n\n".join(parts) + "\n"


def _markdown_table(table: Table) -> str:
    headings = [_escaped(" ".join(column.heading)) for column in table.columns]
    rules = ["---" if column.align == "left" else "---:" for column in table.columns]
    rows = [headings, rules, *([_escaped(text) for text in row] for row in table.rows)]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    notes = "".join(f"\n\n{_escaped(note)}" for note in table.notes)
    return f"## {_escaped(table.title)}\n\n" + "\n".join(lines) + notes


def _escaped(text: str) -> str:
    """``text`` as Markdown that shows it as it is: names come from folders and files that anybody may have named."""
    text = " ".join(text.split())
    for mark in "\\`*_[]<>|":
        text = text.replace(mark, f"\\{mark}")
    return text
