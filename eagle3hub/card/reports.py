"""Reports as the card reads them: in a fixed order, one unit per table row."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eagle3hub.card.imported import find
from eagle3hub.card.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Run:
    """One engine's entry of one report: the unit that a row of a results table stands for.

    ``file`` is the report's path in the published repository, or empty.
    """

    report: Mapping[str, Any]
    engine: Mapping[str, Any]
    file: str = ""

    @property
    def layout(self) -> str:
        """Layout of the files that were measured."""
        return str(self.report["head"]["layout"])

    @property
    def acceptance(self) -> Mapping[str, Any] | None:
        """The counters and rates, or None where the engine produced none."""
        found: Mapping[str, Any] | None = self.engine.get("acceptance")
        return found if found and found.get("rounds") else None

    @property
    def passed(self) -> bool:
        """Whether both this engine's verdict and the whole report's is ``pass``."""
        return bool(self.engine["verdict"] == "pass" and self.report["verdict"] == "pass")


def find_reports(manifest: Manifest) -> list[Path]:
    """The report files the manifest's patterns name, sorted, each once."""
    return find(manifest.path.parent, manifest.reports)


def runs(reports: Sequence[Mapping[str, Any]], layouts: Sequence[str], files: Sequence[str] = ()) -> list[Run]:
    """Every engine entry of every report: in the order of ``layouts``, then by engine and settings.

    ``files`` are the paths of the reports in the published repository, in the same order; empty: not known.
    """
    order = {name: i for i, name in enumerate(layouts)}

    def key(run: Run) -> tuple[Any, ...]:
        settings = run.report["settings"]
        return (
            order.get(run.layout, len(order)),
            run.layout,
            run.engine["engine"],
            run.engine["device"],
            run.report["prompts"]["name"],
            settings["draft_tokens"],
            settings["temperature"],
            json.dumps([run.report, run.engine], sort_keys=True),
        )

    paired = zip(reports, files or [""] * len(reports), strict=True)
    return sorted((Run(report, entry, file) for report, file in paired for entry in report["engines"]), key=key)
