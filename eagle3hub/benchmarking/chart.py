"""Draw a benchmark's charts and write its files: JSON, CSV, Markdown."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from eagle3hub.benchmarking.plan import MOST_DRAFT_TOKENS
from eagle3hub.benchmarking.results import CellRecord, ContextCurve, Results
from eagle3hub.benchmarking.table import Table, conditions, tables
from eagle3hub.charts import (
    Chart,
    Panel,
    Series,
    acceptance_by_context,
    acceptance_by_dataset,
    acceptance_by_draft_tokens,
    acceptance_by_position,
)
from eagle3hub.checkpoint.staging import replace_file
from eagle3hub.metrics import MIN_PROMPTS, Acceptance
from eagle3hub.prompts import context_name
from eagle3hub.system.text import visible

# The charts of a benchmark: which of its numbers each chart shows.


_NO_WHISKERS = f"no intervals: fewer than {MIN_PROMPTS} prompts"


def charts(results: Results) -> dict[str, Chart]:
    """Draw up to four kinds of chart for each engine and temperature with numbers; keys are file names without ending.

    The kinds are tau by data set (a panel for each K), acceptance by position at the largest K (a panel for each data
    set), with several K tau by K (a panel for each data set), and with several lengths of prompts tau by length (a
    panel for each data set and K).
    """
    out = {}
    cells = [cell for cell in results.cells if cell.acceptance]
    for engine, temperature in dict.fromkeys((c.engine, c.settings.temperature) for c in cells):
        here = [c for c in cells if (c.engine, c.settings.temperature) == (engine, temperature)]
        suffix = re.sub(r"[^A-Za-z0-9.]+", "-", f"{engine}-T{temperature:g}")
        for name, chart in _of(here, results).items():
            out[f"{name}-{suffix}"] = chart
    return out


def _of(cells: Sequence[CellRecord], results: Results) -> dict[str, Chart]:
    heads = [h.name for h in results.heads if any(c.head == h.name for c in cells)]
    sets = list(dict.fromkeys(c.prompts.name for c in cells))
    drafts = sorted({c.settings.draft_tokens for c in cells})
    found = {(c.prompts.name, c.settings.draft_tokens, c.head): c for c in cells}
    temperature = cells[0].settings.temperature
    note = _note(cells, results)
    known = any(cell.acceptance and cell.acceptance.ci95 for cell in cells)
    whiskers = f"{note} · {'whiskers: 95 % intervals over prompts' if known else _NO_WHISKERS}"

    def tau(name: str, places: Sequence[tuple[str, int]]) -> Series:
        cells_there = [found.get((dataset, k, name)) for dataset, k in places]
        values = [None if cell is None else cell.acceptance for cell in cells_there]
        return Series(
            name,
            tuple(None if v is None else v.mean_acceptance_length for v in values),
            tuple(None if v is None else v.ci95 for v in values),
        )

    def rates(name: str, dataset: str, k: int) -> Series:
        cell = found.get((dataset, k, name))
        return Series(name, cell.acceptance.marginal_rates if cell and cell.acceptance else (None,) * k)

    by_set = [
        Panel(f"K = {k}", tuple(sets), tuple(tau(head, [(s, k) for s in sets]) for head in heads)) for k in drafts
    ]
    k = drafts[-1]
    positions = tuple(str(i + 1) for i in range(k))
    by_position = [Panel(s, positions, tuple(rates(head, s, k) for head in heads)) for s in sets]
    out = {
        "tau-by-dataset": acceptance_by_dataset(by_set, title="Acceptance length by data set", note=whiskers),
        "rate-by-position": acceptance_by_position(
            by_position, title=f"Acceptance by draft position, K = {k}", note=note
        ),
    }
    if len(drafts) > 1:
        labels = tuple(str(k) for k in drafts)
        by_k = [Panel(s, labels, tuple(tau(head, [(s, k) for k in drafts]) for head in heads)) for s in sets]
        out["tau-by-draft-tokens"] = acceptance_by_draft_tokens(
            by_k, title="Acceptance length by draft tokens", note=whiskers
        )
    curves = [one for one in results.contexts if (one.engine, one.temperature) == (cells[0].engine, temperature)]
    if curves:
        out["tau-by-context"] = acceptance_by_context(
            _by_context(curves), title="Acceptance length by length of the prompts", note=whiskers
        )
    return out


def _by_context(curves: Sequence[ContextCurve]) -> list[Panel]:
    panels = []
    for dataset, k in dict.fromkeys((one.dataset, one.draft_tokens) for one in curves):
        here = [one for one in curves if (one.dataset, one.draft_tokens) == (dataset, k)]
        lengths = sorted({tokens for one in here for tokens in one.lengths})
        series = []
        for one in here:
            found = dict(zip(one.lengths, one.acceptance, strict=True))
            values = [found.get(tokens) for tokens in lengths]
            series.append(
                Series(
                    one.head,
                    tuple(None if v is None else v.mean_acceptance_length for v in values),
                    tuple(None if v is None else v.ci95 for v in values),
                )
            )
        panels.append(Panel(f"{dataset}, K = {k}", tuple(map(context_name, lengths)), tuple(series)))
    return panels


def _note(cells: Sequence[CellRecord], results: Results) -> str:
    settings, engine = cells[0].settings, cells[0]
    sizes = sorted({c.prompts.count for c in cells})
    prompts = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    temperature = settings.temperature
    sampling = "greedy (T = 0)" if temperature == 0 else f"T = {temperature:g}, {settings.drafting} drafting"
    return (
        f"{results.target.name} · {engine.engine} {engine.engine_version}, {settings.dtype} on "
        f"{settings.device}\n{sampling} · up to {settings.max_new_tokens} new tokens · {prompts} prompts a set"
    )


# A benchmark on disk: the tables as Markdown, one CSV row per cell, and the charts.


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
"""The columns never change; new columns are only added at the end."""


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
    return written(files, folder)


def written(files: Mapping[str, bytes], folder: Path) -> list[Path]:
    """Write files by their path in a folder; returns them. Raises OutputError."""
    for name, data in files.items():
        replace_file(folder / name, data, parents=True)
    return [folder / name for name in files]


def to_csv(results: Results) -> str:
    """Return the results as CSV, one row per cell; a field without a number is empty."""
    out = io.StringIO()
    writer = csv.DictWriter(out, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for cell in results.cells:
        writer.writerow(_row(cell, results))
    return out.getvalue()


def _row(cell: CellRecord, results: Results) -> dict[str, object]:
    head = next(h for h in results.heads if h.name == cell.head)
    settings = cell.settings.to_json()
    found: dict[str, object] = {
        "head": cell.head,
        "head_layout": head.layout,
        "head_digest": head.digest,
        "target": results.target.name,
        "target_revision": results.target.revision,
        "engine": cell.engine,
        "engine_version": cell.engine_version,
        "dataset": cell.prompts.name,
        "prompts": cell.prompts.count,
        "prompts_sha256": cell.prompts.sha256,
        "turns": cell.prompts.turns,
        **{key: settings[key] for key in _PLAIN if key in settings},
        "verdict": cell.verdict,
        "reason": cell.reason,
        "measuring_seconds": cell.seconds,
    }
    if cell.throughput is not None:
        found["target_tokens_per_second"] = cell.throughput.target_tokens_per_second
        found["speculative_tokens_per_second"] = cell.throughput.speculative_tokens_per_second
    return found if cell.acceptance is None else found | _acceptance(cell.acceptance)


def _acceptance(found: Acceptance) -> dict[str, object]:
    low, high = found.ci95 or (None, None)
    return {
        "rounds": found.rounds,
        "drafted_tokens": found.drafted,
        "accepted_tokens": found.accepted,
        "acceptance_length_tokens_per_round": found.mean_acceptance_length,
        "ci95_low_tokens_per_round": low,
        "ci95_high_tokens_per_round": high,
        "standard_error_tokens_per_round": found.standard_error,
        "acceptance_length_mean_of_requests_tokens_per_round": found.mean_acceptance_length_per_request,
        "draft_acceptance_rate_fraction": found.draft_acceptance_rate,
        **{f"marginal_rate_position_{i + 1}_fraction": rate for i, rate in enumerate(found.marginal_rates)},
    }


def to_markdown(results: Results, pictures: Mapping[str, Chart] | None = None) -> str:
    """Return the tables, the charts with their alt texts, and the conditions, as a Markdown page."""
    return markdown_page("Benchmark", tables(results), pictures or {}, conditions(results))


def markdown_page(
    title: str, tables: Sequence[Table], pictures: Mapping[str, Chart], conditions: Sequence[str]
) -> str:
    """Return tables, charts with their alt texts, and conditions, as a Markdown page."""
    parts = [f"# {title}"]
    parts += [_markdown_table(table) for table in tables]
    parts += [f"![{_escaped(chart.alt)}](charts/{name}.svg)" for name, chart in pictures.items()]
    parts += ["## Conditions", "\n".join(f"- {_escaped(line)}" for line in conditions)]
    return "\n\n".join(parts) + "\n"


def _markdown_table(table: Table) -> str:
    headings = [_escaped(" ".join(column.heading)) for column in table.columns]
    rules = ["---" if column.align == "left" else "---:" for column in table.columns]
    rows = [headings, rules, *([_escaped(text) for text in row] for row in table.rows)]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    notes = "".join(f"\n\n{_escaped(note)}" for note in table.notes)
    return f"## {_escaped(table.title)}\n\n" + "\n".join(lines) + notes


def _escaped(text: str) -> str:
    """Escape ``text`` so that Markdown shows it unchanged: anybody may have chosen the names of folders and files."""
    text = " ".join(text.split())
    for mark in "\\`*_[]<>|":
        text = text.replace(mark, f"\\{mark}")
    return text
