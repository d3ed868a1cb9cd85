"""The full verdict of a head: every layout on every engine."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eagle3hub._version import __version__
from eagle3hub.address import HubAddress, head_address
from eagle3hub.checkpoint.digest import folder_digest
from eagle3hub.checkpoint.folder import open_checkpoint
from eagle3hub.checkpoint.scratch import scratch_folder
from eagle3hub.checkpoint.staging import replace_file
from eagle3hub.engines.base import Verdict, worst
from eagle3hub.errors import ManifestError, Refusal, UsageError
from eagle3hub.head.target import read_target
from eagle3hub.layouts import LAYOUTS, get_layout, open_head
from eagle3hub.system.documents import schema_faults
from eagle3hub.system.progress import Progress, silent
from eagle3hub.system.resources import schema
from eagle3hub.system.text import escaped_json
from eagle3hub.validation.engine_runner import Kept
from eagle3hub.validation.layouts import LayoutResult, judge_layouts, labelled, measure_layout
from eagle3hub.validation.options import engine_names
from eagle3hub.validation.report import check_report
from eagle3hub.validation.target import identify_target

MATRIX_SCHEMA = "eagle3hub/matrix/1"
ALL = "all"


@dataclass(frozen=True, slots=True)
class Matrix:
    """A matrix that fits its schema, and whose reports fit theirs. Making another raises ManifestError."""

    document: Mapping[str, Any]

    def __post_init__(self) -> None:
        for fault in schema_faults(self.document, schema("matrix")):
            raise ManifestError(f"the matrix: {fault.message}", hint=fault.hint, code="matrix-schema")
        for row in self.document["layouts"]:
            if row["report"] is not None:
                check_report(row["report"], f"the report of {row['layout']}")

    @property
    def verdict(self) -> Verdict:
        """The worst of what was asked for."""
        verdict: Verdict = self.document["verdict"]
        return verdict

    def save(self, path: Path) -> None:
        """Write it as JSON: completely, or not at all. Raises OutputError."""
        text = json.dumps(self.document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        replace_file(path, escaped_json(text).encode())


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
    layouts: str | Sequence[str] = ALL,
    *,
    target: str | Path,
    engine: str | Sequence[str],
    draft_tokens: int = 3,
    prompts: str | Path = "smoke",
    num_prompts: int | None = None,
    target_name: str | None = None,
    kept: Kept | None = None,
    progress: Progress = silent,
    **options: Any,
) -> Matrix:
    """Convert a head to layouts, one after the other in a temporary folder, and validate each on every engine.

    Args:
        head_source: as for `validate`. layouts: names, or ``all`` this version knows.
        options: further arguments of `validate`. With the reference among the engines, every layout is held
            against the head as it was given.

    A layout that cannot hold the head is a row without a report, and a failure only where the layout was asked for by
    name. Raises what `validate` raises, and InputError for a head with errors.
    """
    names, engines = layout_names(layouts), engine_names(engine)
    asked_by_name = layouts != ALL
    at = head_address(head_source)
    source = str(at) if isinstance(at, HubAddress) else at.path.resolve()
    subject, facts = identify_target(target, target_name, progress), read_target(target, target_name)
    checkpoint = open_checkpoint(source, progress=progress)
    head = open_head(checkpoint, target=subject.source)
    head.raise_for_errors()
    kept = kept if kept is not None else Kept()
    given = {
        **options,
        "engine": engines,
        "draft_tokens": draft_tokens,
        "prompts": prompts,
        "num_prompts": num_prompts,
        "target_name": target_name,
    }
    results: list[LayoutResult] = []
    rows: list[dict[str, Any]] = []
    with scratch_folder() as scratch:
        for i, name in enumerate(names):
            say = labelled(progress, f"{name} ({i + 1} of {len(names)})", i / len(names), (i + 1) / len(names))
            try:
                result = measure_layout(
                    source,
                    name,
                    scratch / name,
                    target=subject.source,
                    facts=facts,
                    speculative_tokens=head.speculative_tokens or draft_tokens,
                    options=given,
                    kept=kept,
                    progress=say,
                )
            except Refusal as refusal:
                found = {"code": refusal.code, "message": refusal.message, "hint": refusal.hint}
                rows.append({"layout": name, "verdict": "fail" if asked_by_name else None, "refusal": found})
                continue
            results.append(result)
            rows.append({"layout": name, "verdict": result.report.verdict, "refusal": None})
    verdict, reason = _judge(results, rows, asked_by_name=asked_by_name)
    reports = {result.layout: result.report.document for result in results}
    return Matrix(
        {
            "schema": MATRIX_SCHEMA,
            "tool": {"name": "eagle3hub", "version": __version__},
            "measured_at": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "verdict": verdict,
            "reason": reason,
            "head": {
                "source": checkpoint.source if isinstance(at, HubAddress) else Path(source).name,
                "layout": head.layout,
                "digest": folder_digest(checkpoint.folder)[0],
            },
            "target": subject.to_json(),
            "engines": engines,
            "cells": [cell for row in rows for cell in cells_of(row, reports.get(row["layout"]))],
            "layouts": [{**row, "report": reports.get(row["layout"])} for row in rows],
        }
    )


def cells_of(row: Mapping[str, Any], report: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The cells of one layout: one for each engine, or a single one where no engine's turn came."""
    layout = row["layout"]
    if report is None:
        refusal = row["refusal"]
        return [_cell(layout, None, "refused", "conversion", f"{refusal['message']} ({refusal['code']})")]
    if report["static"]["verdict"] != "pass":
        first = next(p for p in report["static"]["problems"] if p["severity"] == "error")
        return [_cell(layout, None, "fail", "static", f"{first['message']} ({first['code']})")]
    out = []
    for entry in report["engines"]:
        cell = _cell(layout, entry["engine"], entry["verdict"], _how(entry), entry["reason"])
        acceptance = entry.get("acceptance") or {}
        for key in ("mean_acceptance_length", "ci95"):
            cell[key] = acceptance.get(key)
        cell["preflight"] = entry["preflight"]["verdict"] if "preflight" in entry else None
        out.append(cell)
    return out


def _cell(layout: str, engine: str | None, verdict: str, how: str, reason: str) -> dict[str, Any]:
    return {
        "layout": layout,
        "engine": engine,
        "verdict": verdict,
        "how": how,
        "mean_acceptance_length": None,
        "ci95": None,
        "preflight": None,
        "reason": reason,
    }


def _how(entry: Mapping[str, Any]) -> str:
    """How a cell came about: an engine that was not started was given no flags."""
    if entry["flags"]:
        return "run"
    return "none" if entry["verdict"] == "unavailable" else "preflight"


def _judge(
    results: Sequence[LayoutResult], rows: Sequence[Mapping[str, Any]], *, asked_by_name: bool
) -> tuple[Verdict, str]:
    refused = [row for row in rows if row["refusal"] is not None]
    told = "; ".join(f"{row['layout']}: {row['refusal']['message']}" for row in refused)
    if not results:
        return "fail", f"no layout can hold this head: {told}"
    verdict, reason = judge_layouts(results)
    if refused and asked_by_name and worst([verdict, "fail"]) != verdict:
        return "fail", told
    return verdict, reason
