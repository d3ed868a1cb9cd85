"""Render a card and its charts."""

from __future__ import annotations

import re
import traceback
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eagle3hub.benchmarking.serving.table import any_charts
from eagle3hub.card import context, markdown, results
from eagle3hub.card.context import NOTHING_ELSE, Picture, Shown
from eagle3hub.card.imported import CHARTS, LENGTH, METRICS, ImportedTable, chart_name, label
from eagle3hub.card.manifest import Manifest
from eagle3hub.card.reports import Run, runs
from eagle3hub.card.results import Benchmark, told_apart, view
from eagle3hub.card.vocabulary import CONDITIONS
from eagle3hub.charts import NARROW, Chart, Panel, Series, acceptance_by_dataset, acceptance_by_position, has_glyphs
from eagle3hub.errors import InputError, ManifestError, SourceError
from eagle3hub.head import Head
from eagle3hub.system import resources
from eagle3hub.validation.derive import check_derived
from eagle3hub.validation.report import Report

if TYPE_CHECKING:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

# The card's charts: they draw acceptance lengths and marginal rates, and nothing else.


_SHOWN = ("draft_tokens", "temperature")


def draw(
    manifest: Manifest, runs: Sequence[Run], benchmarks: Sequence[Benchmark]
) -> tuple[list[Picture], dict[str, bytes]]:
    """Draw the charts of a card; the files are keyed by path relative to the card."""
    charts: dict[str, tuple[str, Chart]] = {}
    for i, m in enumerate(manifest.imported, 1):
        if len(m.of(LENGTH)) > 1 and has_glyphs("".join([m.this, *m.others, *(label(m, row) for row in m.rows)])):
            charts[chart_name(i, m)] = ("imported", reported(m))
    for i, benchmark in enumerate(benchmarks, 1):
        for name, found in any_charts(benchmark.results).items():
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


def reported(m: ImportedTable) -> Chart:
    """Draw imported acceptance lengths, one row for each row of their table that has one."""
    found = m.of(LENGTH)
    intervals = [row.interval for row, _ in found if m.metric == LENGTH]
    ends = tuple((ends[0].number, ends[1].number) if ends else None for ends in intervals) if any(intervals) else ()
    series = [Series(m.this, tuple(value.number for _, value in found), ends)]
    for name in m.others if m.metric == LENGTH else ():
        values = [row.others[name].number if name in row.others else None for row, _ in found]
        series.append(Series(name, tuple(values)))
    told = [CONDITIONS[key].given(m.conditions[key]) for key in _SHOWN if key in m.conditions and key not in m.varying]
    note = " · ".join([*told, f"reported by {m.source.measured_by}, not measured with eagle3hub"])
    labels = tuple(label(m, row).replace(" = ", "=") for row, _ in found)  # which is never broken over two lines
    title = m.title if m.metric == LENGTH and has_glyphs(m.title) else METRICS[LENGTH]
    return acceptance_by_dataset([Panel("", labels, tuple(series))], title=title, note=note, width=NARROW)


def by_position(manifest: Manifest, runs: Sequence[Run]) -> Chart:
    """Draw marginal acceptance rates of the runs of the main layout."""
    rates = [_rates(run) for run in runs]
    longest = max(len(r) for r in rates)
    labels = tuple(str(i + 1) for i in range(longest))
    views = [view(run, manifest) for run in runs]
    became = ["" if v.verdict == "pass" else f" ({v.outcome})" for v in views]
    full = [f"{v.engine}, {v.dtype}, {v.prompts}, T = {v.temperature}" for v in views]
    apart = [name if has_glyphs(name) else f"run {i}" for i, name in enumerate(told_apart(views), 1)]
    names = [name + how for name, how in zip(apart if len(views) > 1 else full, became, strict=True)]
    same = [words for words in full[0].split(", ") if all(words in other.split(", ") for other in full)]
    series = tuple(
        Series(name, tuple(r[i] if i < len(r) else None for i in range(longest)))
        for name, r in zip(names, rates, strict=True)
    )
    return acceptance_by_position(
        [Panel("", labels, series)], title="Acceptance by draft position", note=", ".join(same), width=NARROW
    )


def _rates(run: Run) -> list[float]:
    return [] if run.acceptance is None else list(run.acceptance.marginal_rates)


def _name(*parts: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", "-".join(parts).lower()).strip("-")[:80]


# Checks before a card is written: each report must agree with itself, with the target and with the head's bytes.


def check_reports(manifest: Manifest, reports: Sequence[Report], digests: Collection[str] | None) -> None:
    """Raise ManifestError if a report contradicts itself or describes another target or other bytes.

    Everything a report states is computed again from its counters (`eagle3hub.validation.derive`).

    ``digests`` are the folder digests of this release; None skips that check.
    """
    for report in reports:
        _check_target(manifest, report)
        if digests is not None:
            _check_digest(report, digests)
        check_derived(report)


def _check_target(manifest: Manifest, report: Report) -> None:
    name, wanted = report.target.name, manifest.target.id
    if name not in (wanted, wanted.split("/")[-1]):
        raise ManifestError(
            f"the report was measured with the target {name!r}, but the manifest's target is {wanted!r}",
            hint=f"if they are the same model, measure with --target-name {wanted}",
            code="report-target",
        )


def _check_digest(report: Report, digests: Collection[str]) -> None:
    head = report.head
    if head.digest not in digests:
        raise ManifestError(
            f"the report measured other bytes: head {head.source!r} ({head.layout}) with {head.digest} "
            "is no folder of this release",
            hint=f"measure again, or name its folder too; this release has {', '.join(sorted(digests))}",
            code="report-digest",
        )


# A card depends on manifest, reports and head, and on nothing else.


TEMPLATES = {
    "standard": "card.md.j2",
    "short": "short.md.j2",
    "model-card-plus-plus": "model-card-plus-plus.md.j2",
}
"""Main template of each style."""


def render_text(
    manifest: Manifest,
    reports: Sequence[Report],
    head: Head | None,
    templates: str | Path | None = None,
    shown: Shown = NOTHING_ELSE,
) -> str:
    """Render the model card as one Markdown document with its metadata block. The same input gives the same bytes.

    Args:
        head: None for a release without a head, whose results are all imported.
        reports: their order does not matter.
        templates: a folder whose files replace the shipped templates of the same name, one by one.
        shown: everything else; the default is nothing.

    Raises ManifestError for a report that contradicts itself or measured something else, and InputError for a template
    that fails.
    """
    if head is None and (reports or shown.benchmarks):
        raise ManifestError(
            "there are reports or benchmarks, but the manifest names no head",
            hint="add head and layouts, so that the card shows what was measured",
            code="manifest-no-head",
        )
    files = list(shown.report_files) or [""] * len(reports)
    paired = sorted(zip(reports, files, strict=True), key=lambda pair: _order(manifest, *pair))
    reports = [report for report, _ in paired]
    all_runs = runs(reports, list(manifest.layouts), [file for _, file in paired])
    check_reports(manifest, reports, shown.digests)
    for benchmark in shown.benchmarks:
        results.check_benchmark(benchmark, manifest, shown.digests)
    shown = replace(shown, report_files=[file for _, file in paired])
    values = context.build(manifest, reports, all_runs, head, shown)
    return _render(templates, TEMPLATES[manifest.style], values)


def _order(manifest: Manifest, report: Report, file: str) -> tuple[object, ...]:
    layouts = list(manifest.layouts)
    layout = report.head.layout
    known = layouts.index(layout) if layout in layouts else len(layouts)
    return (known, layout, report.measured_at, file, repr(report.to_json()))


def environment(templates: str | Path | None = None) -> ImmutableSandboxedEnvironment:
    """Make the Jinja environment: sandboxed, undefined names are errors, all output is escaped (`markdown`)."""
    from jinja2 import ChoiceLoader, FileSystemLoader, StrictUndefined, Undefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    folders = [*([Path(templates)] if templates else []), resources.data_path("templates/card")]
    if not folders[0].is_dir():
        raise SourceError(f"no folder of templates at {folders[0]}", code="source-templates")

    def finalize(value: Any) -> str:
        return str(value) if isinstance(value, Undefined) else markdown.finalize(value)

    env = ImmutableSandboxedEnvironment(
        loader=ChoiceLoader([FileSystemLoader(folder) for folder in folders]),
        undefined=StrictUndefined,
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        bytecode_cache=resources.compiled(),
    )
    del env.globals["lipsum"]
    env.globals |= {
        "fence": markdown.fence,
        "link": markdown.link,
        "file_link": markdown.file_link,
        "jump": markdown.jump,
        "chart": markdown.chart,
        "table": markdown.table,
    }
    env.filters |= {"code": markdown.code}
    return env


def _render(templates: str | Path | None, main: str, values: Mapping[str, object]) -> str:
    from jinja2 import TemplateError, TemplateNotFound

    safe = {**values, "front_matter": markdown.Md(values["front_matter"])}
    try:
        text = environment(templates).get_template(main).render(safe)
    except TemplateNotFound as error:
        raise InputError(f"there is no template called {error.name!r}", code="template") from error
    except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
        raise InputError(f"{_place(error)}: {error}", hint="correct the template", code="template") from error
    return re.sub(r"[ \t]+\n", "\n", re.sub(r"\n{3,}", "\n\n", text)).strip() + "\n"


def _place(error: Exception) -> str:
    """Return ``template:line`` of an error, from the error itself or from its traceback."""
    if getattr(error, "lineno", None):
        return f"{getattr(error, 'name', None) or 'a template'}:{getattr(error, 'lineno', '')}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.endswith(".j2")]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "a template"
