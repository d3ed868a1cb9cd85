"""The report: one JSON document per validation, held to ``schemas/report.schema.json`` whenever it is made or read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eagle3hub.checkpoint.staging import replace_file
from eagle3hub.engines.base import Verdict
from eagle3hub.errors import ManifestError
from eagle3hub.system.documents import read_document, schema_faults
from eagle3hub.system.resources import schema
from eagle3hub.system.text import escaped_json

SCHEMA_NAME = "eagle3hub/report/1"
MAX_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Report:
    """A report that fits the schema. Making one from a document that does not raises ManifestError."""

    document: Mapping[str, Any]

    def __post_init__(self) -> None:
        check_report(self.document)

    @property
    def verdict(self) -> Verdict:
        """The worst verdict in the report."""
        verdict: Verdict = self.document["verdict"]
        return verdict

    @property
    def reason(self) -> str:
        """Why the verdict is what it is, in one sentence: that of the first engine, or of the static checks."""
        static = self.document["static"]
        if static["verdict"] == "fail":
            first = next(p for p in static["problems"] if p["severity"] == "error")
            return str(first["message"])
        engines = [e for e in self.document["engines"] if e["verdict"] == self.verdict]
        return str(engines[0]["reason"]) if engines else "no engine was run"

    def save(self, path: Path) -> None:
        """Write the report as JSON: completely, or not at all. Raises OutputError."""
        text = json.dumps(self.document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        replace_file(path, escaped_json(text).encode())


def load_report(path: str | Path) -> Report:
    """Read a report and hold it to the schema.

    Raises SourceError if the file cannot be read, ManifestError naming the file and the field if it is no report.
    """
    path = Path(path)
    document = read_document(path, "report", MAX_BYTES)
    check_report(document, path.name)
    return Report(document)


def check_report(document: Any, name: str = "the report") -> None:
    """Raise ManifestError for the first departure of ``document`` from the report schema."""
    for fault in schema_faults(document, schema("report")):
        raise ManifestError(f"{name}: {fault.message}", hint=fault.hint, code="report-schema")
