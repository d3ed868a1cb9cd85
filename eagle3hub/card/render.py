"""A card is a pure function of manifest, reports and head."""

from __future__ import annotations

import re
import traceback
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eagle3hub import resources
from eagle3hub.card import bench, context, markdown
from eagle3hub.card.bench import Benchmark
from eagle3hub.card.lint import reports as consistency
from eagle3hub.card.manifest import Manifest
from eagle3hub.card.reports import runs
from eagle3hub.errors import InputError, ManifestError, SourceError
from eagle3hub.head import Head
from eagle3hub.report import check_report
from eagle3hub.source_tree import SourceTree

if TYPE_CHECKING:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

TEMPLATES = {
    "standard": "card.md.j2",
    "short": "short.md.j2",
    "model-card-plus-plus": "model-card-plus-plus.md.j2",
}
"""Main template of each style."""


def render_card(
    manifest: Manifest,
    reports: Sequence[Mapping[str, Any]],
    head: Head | None,
    templates: str | Path | None = None,
    *,
    digests: Collection[str] | None = None,
    report_files: Sequence[str] = (),
    benchmarks: Sequence[Benchmark] = (),
    pictures: Sequence[context.Picture] = (),
    waived: Sequence[str] = (),
    tree: SourceTree | None = None,
    heads: Mapping[str, Head] | None = None,
) -> str:
    """The model card as one Markdown document with its metadata block. The same input gives the same bytes.

    Args:
        head: None for a release without one, whose results are all imported.
        reports: documents of schema ``eagle3hub/report/1``; their order does not matter.
        templates: a folder whose files replace the shipped templates of the same name, one by one.
        digests: folder digests that belong to this release; a report of other bytes is refused, and a benchmark that
            measured none of them. None: not checked.
        report_files: each report's path in the published repository, in the order of ``reports``; empty: no links.
        benchmarks: results of ``eagle3hub bench``. pictures: charts that lie beside the card.
        waived: gates of publishing that are waived, by code; the card says so.
        tree: the commit the release is made from; the card says if files differed from it.
        heads: the head of every layout folder, opened, by folder in the repository (the root is empty); default: the
            ``head`` in the root. Serving recipes are held against the preflight of these files.

    Raises ManifestError for a report that is malformed, contradicts itself or measured something else; InputError
    for a template that fails.
    """
    if head is None and (reports or benchmarks):
        raise ManifestError(
            "there are reports or benchmarks, but the manifest names no head",
            hint="add head and layouts, so that the card shows what was measured",
            code="manifest-no-head",
        )
    for report in reports:
        check_report(report)
    files = list(report_files) or [""] * len(reports)
    paired = sorted(zip(reports, files, strict=True), key=lambda pair: _order(manifest, *pair))
    reports = [report for report, _ in paired]
    all_runs = runs(reports, list(manifest.layouts), [file for _, file in paired])
    consistency.check(manifest, reports, digests)
    for benchmark in benchmarks:
        bench.check(benchmark, manifest, digests)
    names = {i: file for i, (_, file) in enumerate(paired) if file}
    values = context.build(
        manifest, reports, all_runs, head, names, benchmarks, pictures, waived, digests or (), tree, heads
    )
    return _render(templates, TEMPLATES[manifest.style], values)


def _order(manifest: Manifest, report: Mapping[str, Any], file: str) -> tuple[Any, ...]:
    layouts = list(manifest.layouts)
    layout = report["head"]["layout"]
    known = layouts.index(layout) if layout in layouts else len(layouts)
    return (known, layout, report["measured_at"], file, repr(report))


def environment(templates: str | Path | None = None) -> ImmutableSandboxedEnvironment:
    """The Jinja environment: sandboxed, undefined names are errors, everything printed is escaped (`markdown`)."""
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
    )
    del env.globals["lipsum"]
    env.globals |= {
        "fence": markdown.fence,
        "link": markdown.link,
        "file_link": markdown.file_link,
        "chart": markdown.chart,
    }
    env.filters |= {"code": markdown.code}
    return env


def _render(templates: str | Path | None, main: str, values: Mapping[str, Any]) -> str:
    from jinja2 import TemplateError, TemplateNotFound

    safe = {**values, "front_matter": markdown.Md(values["front_matter"])}
    try:
        text = environment(templates).get_template(main).render(safe)
    except TemplateNotFound as error:
        raise InputError(f"there is no template called {error.name!r}", code="template") from error
    except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
        raise InputError(f"{_place(error)}: {error}", hint="mend the template", code="template") from error
    return re.sub(r"[ \t]+\n", "\n", re.sub(r"\n{3,}", "\n\n", text)).strip() + "\n"


def _place(error: Exception) -> str:
    """``template:line`` of an error, from the error itself or from the frames it came through."""
    if getattr(error, "lineno", None):
        return f"{getattr(error, 'name', None) or 'a template'}:{getattr(error, 'lineno', '')}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.endswith(".j2")]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "a template"
