"""The full verdict of a head: every layout on every engine."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from eagle3hub._version import __version__
from eagle3hub.address import HubAddress, head_address
from eagle3hub.checkpoint.digest import folder_digest
from eagle3hub.checkpoint.folder import open_checkpoint
from eagle3hub.checkpoint.scratch import scratch_folder
from eagle3hub.checkpoint.staging import replace_file
from eagle3hub.conversion.plan import ConvertOptions
from eagle3hub.engines.base import Verdict, worst_verdict
from eagle3hub.engines.preflight.contracts import Effect
from eagle3hub.errors import ManifestError, Refusal, UsageError
from eagle3hub.head.target import read_target
from eagle3hub.layouts import LAYOUTS, get_layout, open_head
from eagle3hub.metrics.estimate import Interval, interval_from_json, interval_to_json
from eagle3hub.system.documents import schema_faults
from eagle3hub.system.progress import Progress, silent
from eagle3hub.system.resources import schema
from eagle3hub.system.text import escaped_json
from eagle3hub.validation.engine_runner import Cache
from eagle3hub.validation.layouts import LayoutResult, LayoutRunner, judge_layouts, labelled
from eagle3hub.validation.options import ValidateOptions
from eagle3hub.validation.report import Entry, MeasuredTarget, Report
from eagle3hub.validation.target import identify_target

MATRIX_SCHEMA = "eagle3hub/matrix/1"
ALL = "all"

CellVerdict = Verdict | Literal["refused"]
How = Literal["run", "preflight", "none", "static", "conversion"]


@dataclass(frozen=True, slots=True)
class MatrixCell:
    """One layout on one engine.

    Attributes:
        engine: None where no engine's turn came.
        verdict: the entry's, or ``refused`` where the layout cannot hold the head.
        how: what gave the verdict: a ``run``, the ``preflight``, the ``static`` checks, the ``conversion``, or
            ``none`` for an engine that is not here.
        preflight: what the files promised, or None.
    """

    layout: str
    engine: str | None
    verdict: CellVerdict
    how: How
    mean_acceptance_length: float | None
    ci95: Interval | None
    preflight: Effect | None
    reason: str

    def to_json(self) -> dict[str, Any]:
        """An item of ``cells``."""
        return {**asdict(self), "ci95": interval_to_json(self.ci95)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> MatrixCell:
        """What `to_json` gave."""
        return cls(**{**data, "ci95": interval_from_json(data["ci95"])})


@dataclass(frozen=True, slots=True)
class ConversionRefusal:
    """Why a layout cannot hold the head."""

    code: str
    message: str
    hint: str | None


@dataclass(frozen=True, slots=True)
class MatrixRow:
    """One layout: its report, or why it cannot hold the head.

    ``verdict`` is None for a layout that was refused and not asked for by name.
    """

    layout: str
    verdict: Verdict | None
    refusal: ConversionRefusal | None
    report: Report | None

    def to_json(self) -> dict[str, Any]:
        """An item of ``layouts``."""
        return {
            "layout": self.layout,
            "verdict": self.verdict,
            "refusal": None if self.refusal is None else asdict(self.refusal),
            "report": None if self.report is None else self.report.to_json(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> MatrixRow:
        """What `to_json` gave. Raises ManifestError for a report that is none."""
        refusal, report = data["refusal"], data["report"]
        return cls(
            data["layout"],
            data["verdict"],
            None if refusal is None else ConversionRefusal(**refusal),
            None if report is None else Report.from_json(report, f"the report of {data['layout']}"),
        )


@dataclass(frozen=True, slots=True)
class Matrix:
    """Every layout of a head on every engine.

    Attributes:
        verdict: the worst of what was asked for; ``reason`` says why.
        head_source, head_layout, head_digest: the head as it was given.
        cells: every layout on every engine, layout by layout.
    """

    tool_version: str
    measured_at: str
    verdict: Verdict
    reason: str
    head_source: str
    head_layout: str
    head_digest: str
    target: MeasuredTarget
    engines: tuple[str, ...]
    cells: tuple[MatrixCell, ...]
    layouts: tuple[MatrixRow, ...]

    def to_json(self) -> dict[str, Any]:
        """The document of schema ``matrix``."""
        return {
            "schema": MATRIX_SCHEMA,
            "tool": {"name": "eagle3hub", "version": self.tool_version},
            "measured_at": self.measured_at,
            "verdict": self.verdict,
            "reason": self.reason,
            "head": {"source": self.head_source, "layout": self.head_layout, "digest": self.head_digest},
            "target": self.target.to_json(),
            "engines": list(self.engines),
            "cells": [cell.to_json() for cell in self.cells],
            "layouts": [row.to_json() for row in self.layouts],
        }

    @classmethod
    def from_json(cls, document: Any) -> Matrix:
        """Hold a document to the schemas and read it. Raises ManifestError (``matrix-schema``, or of a report)."""
        _check(document)
        head = document["head"]
        return cls(
            tool_version=document["tool"]["version"],
            measured_at=document["measured_at"],
            verdict=document["verdict"],
            reason=document["reason"],
            head_source=head["source"],
            head_layout=head["layout"],
            head_digest=head["digest"],
            target=MeasuredTarget.from_json(document["target"]),
            engines=tuple(document["engines"]),
            cells=tuple(MatrixCell.from_json(cell) for cell in document["cells"]),
            layouts=tuple(MatrixRow.from_json(row) for row in document["layouts"]),
        )

    @property
    def document(self) -> dict[str, Any]:
        """`to_json`, for whoever prints the document."""
        return self.to_json()

    @property
    def reports(self) -> list[Report]:
        """The reports of the layouts that hold the head."""
        return [row.report for row in self.layouts if row.report is not None]

    def save(self, path: Path) -> None:
        """Write it as JSON: completely, or not at all. Raises ManifestError (``matrix-schema``), OutputError."""
        document = self.to_json()
        _check(document)
        text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        replace_file(path, escaped_json(text).encode())


def _check(document: Any) -> None:
    for fault in schema_faults(document, schema("matrix")):
        raise ManifestError(f"the matrix: {fault.message}", hint=fault.hint, code="matrix-schema")


def layout_names(asked: str | Sequence[str]) -> list[str]:
    """``"all"``, ``"specforge,modelopt"`` or a list of names as a list; UsageError for an unknown or doubled name."""
    if asked == ALL:
        return list(LAYOUTS)
    parts = asked.split(",") if isinstance(asked, str) else asked
    names = [get_layout(name.strip()).name for name in parts]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"--layouts names {name} twice", code="usage-layout")
    return names


def validate_layouts(
    head_source: str | Path,
    layouts: str | Sequence[str],
    target: str | Path,
    options: ValidateOptions,
    *,
    cache: Cache | None = None,
    progress: Progress = silent,
) -> Matrix:
    """Convert a head to layouts, one after the other in a temporary folder, and validate each on every engine.

    Args:
        head_source, target, cache: as for `validate`.
        layouts: names, or ``all`` that this version knows.
        options: as for `validate`. With the reference among the engines, every layout is held against the head as it
            was given, whatever ``reference_head`` says.

    A layout that cannot hold the head is a row without a report. It is a failure only where the layout was asked for
    by name. Raises what `validate` raises, and InputError for a head with errors.
    """
    names = layout_names(layouts)
    asked_by_name = layouts != ALL
    at = head_address(head_source)
    source = str(at) if isinstance(at, HubAddress) else at.path.resolve()
    identity = identify_target(target, options.target_name, progress)
    checkpoint = open_checkpoint(source, progress=progress)
    head = open_head(checkpoint, target=identity.source)
    head.raise_for_errors()
    k = head.speculative_tokens or options.draft_tokens
    plain = ConvertOptions(target=read_target(target, options.target_name), speculative_tokens=k, digests=True)
    runner = LayoutRunner(
        source=source,
        target=identity.source,
        conversion=lambda _layout: plain,
        options=replace(options, reference_head=None),
        cache=cache if cache is not None else Cache(),
    )
    rows: list[MatrixRow] = []
    with scratch_folder() as scratch:
        for i, name in enumerate(names):
            say = labelled(progress, f"{name} ({i + 1} of {len(names)})", i / len(names), (i + 1) / len(names))
            try:
                report = runner.run(name, scratch / name, say).report
            except Refusal as refusal:
                why = ConversionRefusal(refusal.code, refusal.message, refusal.hint)
                rows.append(MatrixRow(name, "fail" if asked_by_name else None, why, None))
                continue
            rows.append(MatrixRow(name, report.verdict, None, report))
    verdict, reason = _judge(rows, asked_by_name=asked_by_name)
    return Matrix(
        tool_version=__version__,
        measured_at=datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        verdict=verdict,
        reason=reason,
        head_source=checkpoint.source if isinstance(at, HubAddress) else Path(source).name,
        head_layout=head.layout,
        head_digest=folder_digest(checkpoint.folder)[0],
        target=identity.identity,
        engines=tuple(options.engines),
        cells=tuple(cell for row in rows for cell in cells_of(row)),
        layouts=tuple(rows),
    )


def merged(matrices: Sequence[Matrix], *, asked_by_name: bool) -> Matrix:
    """Join matrices of the same head and target, each with layouts of its own, and judge them together."""
    rows = tuple(row for matrix in matrices for row in matrix.layouts)
    if not asked_by_name:
        rows = tuple(replace(row, verdict=None) if row.refusal is not None else row for row in rows)
    verdict, reason = _judge(rows, asked_by_name=asked_by_name)
    return replace(
        matrices[0],
        measured_at=max(matrix.measured_at for matrix in matrices),
        verdict=verdict,
        reason=reason,
        cells=tuple(cell for matrix in matrices for cell in matrix.cells),
        layouts=rows,
    )


def cells_of(row: MatrixRow) -> list[MatrixCell]:
    """The cells of one layout: one for each engine, or a single one where no engine's turn came."""
    layout, report = row.layout, row.report
    if report is None:
        assert row.refusal is not None
        reason = f"{row.refusal.message} ({row.refusal.code})"
        return [MatrixCell(layout, None, "refused", "conversion", None, None, None, reason)]
    if report.static.verdict != "pass":
        first = report.static.errors[0]
        return [MatrixCell(layout, None, "fail", "static", None, None, None, f"{first.message} ({first.code})")]
    return [_cell(layout, entry) for entry in report.engines]


def _cell(layout: str, entry: Entry) -> MatrixCell:
    acceptance = entry.acceptance
    return MatrixCell(
        layout=layout,
        engine=entry.engine,
        verdict=entry.verdict,
        how=_how(entry),
        mean_acceptance_length=None if acceptance is None else acceptance.mean_acceptance_length,
        ci95=None if acceptance is None else acceptance.ci95,
        preflight=None if entry.preflight is None else entry.preflight.kind,
        reason=entry.reason,
    )


def _how(entry: Entry) -> How:
    """What gave an entry's verdict: an engine that was not started was given no flags."""
    if entry.flags:
        return "run"
    return "none" if entry.verdict == "unavailable" else "preflight"


def _judge(rows: Sequence[MatrixRow], *, asked_by_name: bool) -> tuple[Verdict, str]:
    results = [LayoutResult(row.layout, row.report) for row in rows if row.report is not None]
    refused = [(row.layout, row.refusal) for row in rows if row.refusal is not None]
    why = "; ".join(f"{layout}: {refusal.message}" for layout, refusal in refused)
    if not results:
        return "fail", f"no layout can hold this head: {why}"
    verdict, reason = judge_layouts(results)
    if refused and asked_by_name and worst_verdict([verdict, "fail"]) != verdict:
        return "fail", why
    return verdict, reason
