"""The report: one JSON document per validation, held to ``schemas/report.schema.json`` whenever it is made or read."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eagle3hub.engines.base import Verdict
from eagle3hub.errors import ManifestError, OutputError
from eagle3hub.resources import schema

SCHEMA_NAME = "eagle3hub/report/1"


@dataclass(frozen=True, slots=True)
class Report:
    """A report that fits the schema. Making one from a document that does not raises ManifestError."""

    document: Mapping[str, Any]

    def __post_init__(self) -> None:
        check(self.document, "the report")

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
        partial: Path | None = None
        try:
            with tempfile.NamedTemporaryFile(
                "w", encoding="utf-8", dir=path.parent, prefix=f".{path.name}.", delete=False
            ) as out:
                partial = Path(out.name)
                out.write(text)
                out.flush()
                os.fsync(out.fileno())
            partial.chmod(0o666 & ~_umask())
            partial.replace(path)
        except OSError as error:
            if partial is not None:
                with contextlib.suppress(OSError):
                    partial.unlink()
            raise OutputError(f"cannot write the report {path}: {error.strerror or error}") from error


def load_report(path: Path) -> Report:
    """Read a report and hold it to the schema; ManifestError names the file and the field that is wrong."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        what = f"cannot read the report {path}: {error.strerror or error}"
        raise ManifestError(what, code="manifest-report") from error
    except ValueError as error:
        raise ManifestError(f"the report {path} is not JSON: {error}", code="manifest-report") from error
    check(document, str(path))
    return Report(document)


def check(document: Any, name: str) -> None:
    """Raise ManifestError (``manifest-report``) naming the first field of ``document`` that the schema rejects."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    error = best_match(Draft202012Validator(schema("report")).iter_errors(document))
    if error is not None:
        where = "/".join(str(part) for part in error.absolute_path) or "the document"
        raise ManifestError(
            f"{name} does not fit the schema {SCHEMA_NAME}: {where}: {error.message[:300]}", code="manifest-report"
        )


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
