"""Read reports as the card needs them: one `Run` for each row of a results table, in a fixed order."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from eagle3hub.card.imported import find
from eagle3hub.card.manifest import DEFAULT_REPORTS, Manifest
from eagle3hub.errors import ManifestError
from eagle3hub.metrics import Acceptance
from eagle3hub.validation.report import Entry, Report


@dataclass(frozen=True, slots=True)
class Run:
    """One engine's entry of one report.

    ``file`` is the report's path in the published repository, or empty.
    """

    report: Report
    entry: Entry
    file: str = ""

    @property
    def layout(self) -> str:
        """The layout of the files that were measured."""
        return self.report.head.layout

    @property
    def acceptance(self) -> Acceptance | None:
        """The counters and rates, or None if no round ran."""
        found = self.entry.acceptance
        return found if found is not None and found.rounds else None

    @property
    def passed(self) -> bool:
        """Whether this engine's verdict and the whole report's verdict are both ``pass``."""
        return self.entry.verdict == "pass" and self.report.verdict == "pass"


def find_reports(manifest: Manifest) -> list[Path]:
    """Find the report files that the manifest's patterns match, sorted, each once."""
    return find(manifest.path.parent, DEFAULT_REPORTS if manifest.reports is None else manifest.reports)


def named_reports(manifest: Manifest) -> list[Path]:
    """Find the report files that the manifest names; none if it does not say where they are.

    Raises ManifestError (``report-missing``) for a pattern without a file.
    """
    for pattern in manifest.reports or ():
        if not find(manifest.path.parent, [pattern]):
            raise ManifestError(
                f"{manifest.path.name}: reports: there is no file {pattern}",
                hint="write it with eagle3hub validate --report, or leave the pattern out",
                code="report-missing",
            )
    return find(manifest.path.parent, manifest.reports or ())


def runs(reports: Sequence[Report], layouts: Sequence[str], files: Sequence[str] = ()) -> list[Run]:
    """Return every engine entry of every report: in the order of ``layouts``, then by engine and settings.

    ``files`` are the reports' paths in the published repository, in the same order; empty if not known.
    """
    order = {name: i for i, name in enumerate(layouts)}

    def key(run: Run) -> tuple[object, ...]:
        settings = run.report.settings
        return (
            order.get(run.layout, len(order)),
            run.layout,
            run.entry.engine,
            run.entry.device,
            run.report.prompts.name,
            settings.draft_tokens,
            settings.temperature,
            json.dumps([run.report.to_json(), run.entry.to_json()], sort_keys=True),
        )

    paired = zip(reports, files or [""] * len(reports), strict=True)
    return sorted((Run(report, entry, file) for report, file in paired for entry in report.engines), key=key)
