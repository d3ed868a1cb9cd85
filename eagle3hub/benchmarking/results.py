"""The results of a benchmark: one JSON document, held to ``schemas/bench.schema.json`` whenever it is made or read.

Cells hold raw counters per prompt. Whatever else is in the document is computed from them.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eagle3hub._version import __version__
from eagle3hub.benchmarking.plan import BenchPlan, Cell
from eagle3hub.benchmarking.run import CellResult
from eagle3hub.checkpoint.staging import replace_file
from eagle3hub.engines.base import Verdict, worst
from eagle3hub.errors import ManifestError
from eagle3hub.metrics import Counts, acceptance_if_any, by_category, paired
from eagle3hub.system.documents import nearly_equal, read_document, schema_faults
from eagle3hub.system.resources import schema
from eagle3hub.system.text import escaped_json
from eagle3hub.validation.gates import collapse

SCHEMA_NAME = "eagle3hub/bench/1"
MAX_BYTES = 256 << 20
CellRecord = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Results:
    """Results that fit the schema and whose numbers follow from their counters; else ManifestError."""

    document: Mapping[str, Any]

    def __post_init__(self) -> None:
        check_results(self.document)

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of the cells."""
        return worst([cell["verdict"] for cell in self.document["cells"]])

    @property
    def cells(self) -> Sequence[CellRecord]:
        """The cells, in the order of the plan."""
        cells: Sequence[CellRecord] = self.document["cells"]
        return cells

    def save(self, path: Path) -> None:
        """Write the results as JSON: completely, or not at all. Raises OutputError."""
        save_document(self.document, path)


def save_document(document: Mapping[str, Any], path: Path) -> None:
    """Write what `document_of` made, without holding it to the schema: that grows with every cell of a run."""
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    replace_file(path, escaped_json(text).encode(), parents=True)


def load_results(path: str | Path) -> Results:
    """Read results and hold them to the schema.

    Raises SourceError if the file cannot be read, ManifestError naming file and field if it holds no results.
    """
    path = Path(path)
    document = read_document(path, "bench", MAX_BYTES)
    check_results(document, path.name)
    return Results(document)


def check_results(document: Any, name: str = "the results") -> None:
    """Raise ManifestError for the first departure from the schema, or of a number from the counters it rests on."""
    for fault in schema_faults(document, schema("bench")):
        raise ManifestError(f"{name}: {fault.message}", hint=fault.hint, code="bench-schema")
    heads = [head["name"] for head in document["heads"]]
    for i, cell in enumerate(document["cells"]):
        where = f"{name}: cells[{i}]"
        if cell["head"] not in heads:
            raise ManifestError(f"{where}.head is {cell['head']!r}, none of the heads", code="bench-head")
        if any(len(p["accepted_per_position"]) != cell["settings"]["draft_tokens"] for p in cell["per_prompt"]):
            raise ManifestError(f"{where} has counters of another K than its settings", code="bench-numbers")
        if cell["per_prompt"] and len(cell["per_prompt"]) != cell["prompts"]["count"]:
            asked, have = cell["prompts"]["count"], len(cell["per_prompt"])
            raise ManifestError(f"{where} has counters of {have} prompts, not of {asked}", code="bench-numbers")
        computed = _acceptance(counts(cell))
        if not nearly_equal(computed, cell["acceptance"]):
            raise ManifestError(
                f"{where}.acceptance does not follow from the counters of its prompts",
                hint="results are written by eagle3hub bench and not edited; measure again",
                code="bench-numbers",
            )
        measured = acceptance_if_any(counts(cell))
        if cell["verdict"] == "pass" and (measured is None or collapse(measured).verdict != "pass"):
            raise ManifestError(f"{where} is stated to pass, and its counters do not", code="bench-numbers")
        rows = zip(cell["per_prompt"], counts(cell), strict=True)
        if not nearly_equal(by_category((row["category"], one) for row, one in rows), cell["categories"]):
            raise ManifestError(f"{where}.categories do not follow from its prompts", code="bench-numbers")
    if not nearly_equal(comparisons(document["cells"], document["base"]), document["comparisons"]):
        raise ManifestError(f"{name}: the comparisons do not follow from the cells", code="bench-numbers")


def counts(cell: CellRecord) -> list[Counts]:
    """The counters of a cell's prompts, in order."""
    return [
        Counts(p["rounds"], p["drafted"], p["accepted"], tuple(p["accepted_per_position"])) for p in cell["per_prompt"]
    ]


def cell_record(cell: Cell, version: str, result: CellResult) -> CellRecord:
    """A cell of the document. ValueError if the result has not one entry for each prompt, or none at all."""
    prompts = cell.prompts.prompts if result.prompts else ()
    pairs = list(zip(prompts, result.prompts, strict=True))
    throughput = result.throughput
    return {
        "key": cell.key(version),
        "head": cell.head.name,
        "engine": {"name": cell.engine, "version": version, "environment": dict(result.environment)},
        "prompts": {
            **cell.prompts.to_json(),
            "turns": "first",
            "source": None if cell.prompts.dataset is None else cell.prompts.dataset.to_json(),
        },
        "settings": cell.settings,
        "verdict": result.verdict,
        "reason": result.reason,
        "acceptance": _acceptance([one.counts for _, one in pairs]),
        "categories": by_category((prompt.category, one.counts) for prompt, one in pairs),
        "per_prompt": [
            {
                "question_id": prompt.question_id,
                "category": prompt.category,
                "prompt_tokens": one.prompt_tokens,
                "new_tokens": one.new_tokens,
                "rounds": one.counts.rounds,
                "drafted": one.counts.drafted,
                "accepted": one.counts.accepted,
                "accepted_per_position": list(one.counts.accepted_per_position),
            }
            for prompt, one in pairs
        ],
        "throughput": None
        if throughput is None
        else {
            "target_tokens_per_second": throughput.target_tokens_per_second,
            "speculative_tokens_per_second": throughput.speculative_tokens_per_second,
            "unit": "tokens/s",
            "conditions": throughput.conditions,
        },
        "seconds": result.seconds,
    }


def document_of(plan: BenchPlan, cells: Sequence[CellRecord]) -> dict[str, Any]:
    """The document of a plan and what has been measured of it so far."""
    return {
        "schema": SCHEMA_NAME,
        "tool": {"name": "eagle3hub", "version": __version__},
        "measured_at": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "target": plan.target.to_json(),
        "heads": [head.to_json() for head in plan.heads],
        "base": plan.base,
        "cells_planned": plan.size,
        "cells": list(cells),
        "comparisons": comparisons(cells, plan.base),
    }


def comparisons(cells: Sequence[CellRecord], base: str) -> list[dict[str, Any]]:
    """Every other head with the base, wherever both were measured alike over the same prompts."""
    bases = {_conditions(cell): cell for cell in cells if cell["head"] == base and cell["acceptance"]}
    out = []
    for cell in cells:
        against = bases.get(_conditions(cell))
        if cell["head"] == base or against is None or not cell["acceptance"]:
            continue
        found = paired(counts(cell), counts(against))
        out.append(
            {
                "dataset": cell["prompts"]["name"],
                "draft_tokens": cell["settings"]["draft_tokens"],
                "temperature": cell["settings"]["temperature"],
                "engine": cell["engine"]["name"],
                "base": base,
                "other": cell["head"],
                "prompts": found.prompts,
                "base_mean_acceptance_length": found.base_tau,
                "mean_acceptance_length": found.tau,
                "difference": found.difference,
                "relative_percent": found.relative,
                "ci95": None if found.ci95 is None else list(found.ci95),
                "identical": found.identical,
            }
        )
    return out


def _conditions(cell: CellRecord) -> str:
    """All that must be equal for two heads to be compared."""
    engine = [cell["engine"]["name"], cell["engine"]["version"]]
    return json.dumps([engine, cell["prompts"]["sha256"], cell["settings"]], sort_keys=True)


def _acceptance(prompts: Sequence[Counts]) -> dict[str, Any] | None:
    found = acceptance_if_any(prompts)
    return None if found is None else found.to_json()
