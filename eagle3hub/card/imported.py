"""Measurements that others made and reported: numbers as they were printed, with who measured and where it stands.

A file is checked against ``schemas/imported.schema.json``. What its source leaves out stays out: a missing condition
is printed as not reported, never guessed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from eagle3hub import resources
from eagle3hub.card.files import find
from eagle3hub.schema_faults import Location
from eagle3hub.yaml_lines import Document, hold_to_schema, read_yaml

LENGTH = "acceptance_length"
Metric = Literal[
    "acceptance_length",
    "throughput",
    "marginal_acceptance_rate",
    "conditional_acceptance_rate",
    "training_agreement",
]
RATES = ("marginal_acceptance_rate", "conditional_acceptance_rate", "training_agreement")
"""Metrics whose values are percentages."""
_CONDITIONS = (
    "engine", "engine_version", "hardware", "dtype", "draft_tokens", "temperature", "prompts", "concurrency",
    "max_new_tokens", "runs", "estimator", "baseline",
)  # fmt: skip
_OF_ROWS = ("draft_tokens", "temperature", "prompts")


@dataclass(frozen=True, slots=True)
class Value:
    """A number, and its digits as they were typed: 257.60 is not 257.6."""

    number: float
    text: str


@dataclass(frozen=True, slots=True)
class Source:
    """Where numbers stand and who measured them; ``url`` and ``accessed`` may be empty."""

    title: str
    measured_by: str
    url: str
    accessed: str


@dataclass(frozen=True, slots=True)
class Row:
    """One row: this head's value with its interval (None: not reported), and others' by name.

    ``conditions`` are those of the table, and this row's where it has its own.
    """

    name: str
    value: Value
    interval: tuple[Value, Value] | None
    others: Mapping[str, Value]
    conditions: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Measurement:
    """One table. ``this`` is what the head is called in it; ``base`` what differences are taken of, or empty."""

    title: str
    metric: Metric
    unit: str
    rows_are: str
    dataset: str
    this: str
    base: str
    note: str
    source: Source
    conditions: Mapping[str, str]
    rows: tuple[Row, ...]

    @property
    def others(self) -> tuple[str, ...]:
        """Names of the other heads or methods, in order of first appearance."""
        return tuple(dict.fromkeys(name for row in self.rows for name in row.others))


def load_imported(folder: Path, patterns: Sequence[str]) -> tuple[Measurement, ...]:
    """The measurements of every file below ``folder`` that the patterns name, in the files' order.

    Raises SourceError for a file that cannot be read, ManifestError (file, line, field) for one that is wrong.
    """
    return tuple(m for path in find(folder, patterns) for m in read_imported(path))


def read_imported(path: Path) -> tuple[Measurement, ...]:
    """The measurements of one file. Raises as `load_imported`."""
    document = read_imported_document(path)
    found = document.data["source"]
    source = Source(found["title"], document.data["measured_by"], found.get("url", ""), found.get("accessed", ""))
    measurements = enumerate(document.data["measurements"])
    return tuple(_measurement(document, ("measurements", i), m, source) for i, m in measurements)


def read_imported_document(path: Path) -> Document:
    """One file of measurements, held to its schema. Raises as `load_imported`."""
    document = read_yaml(path)
    hold_to_schema(document, resources.schema("imported"), "imported")
    return document


def _measurement(document: Document, at: Location, data: Mapping[str, Any], source: Source) -> Measurement:
    shared = _conditions(document, at, data, _CONDITIONS)
    rows = tuple(_row(document, (*at, "rows", i), data, row, shared) for i, row in enumerate(data["rows"]))
    made = Measurement(
        title=data["title"],
        metric=data["metric"],
        unit=data.get("unit", ""),
        rows_are=data["rows_are"],
        dataset=data.get("dataset", ""),
        this=data.get("this", "This head"),
        base=data.get("base", ""),
        note=data.get("note", ""),
        source=source,
        conditions=shared,
        rows=rows,
    )
    if made.base and made.base not in made.others:
        known = ", ".join(made.others) or "no others are given"
        raise document.error((*at, "base"), f"no row has a value of {made.base!r}", f"allowed: {known}", "imported")
    if made.this in made.others:
        raise document.error((*at, "this"), f"{made.this!r} is one of the others too", "rename one", "imported")
    return made


def _row(
    document: Document, at: Location, table: Mapping[str, Any], data: Mapping[str, Any], shared: Mapping[str, str]
) -> Row:
    def value(*place: str | int) -> Value:
        number: Any = data
        for key in place:
            number = number[key]
        return Value(float(number), document.texts[(*at, *place)])

    own = _conditions(document, at, data, _OF_ROWS)
    row = Row(
        name=data["name"],
        value=value("value"),
        interval=(value("interval", 0), value("interval", 1)) if "interval" in data else None,
        others={name: value("others", name) for name in data.get("others", {})},
        conditions={**shared, **own},
    )
    most = data.get("draft_tokens", table.get("draft_tokens"))
    for name, found in [("value", row.value), *row.others.items()]:
        if fault := _fault(table["metric"], found.number, most):
            place = (*at, "value") if name == "value" else (*at, "others", name)
            raise document.error(place, f"{found.text} {fault}", "check the number and its metric", "imported")
    if row.interval and not row.interval[0].number <= row.value.number <= row.interval[1].number:
        raise document.error((*at, "interval"), "the interval does not hold the value", None, "imported")
    return row


def _fault(metric: str, number: float, draft_tokens: int | None) -> str:
    if metric == LENGTH and number < 1:
        return "is no acceptance length: a verification step emits at least 1 token"
    if metric == LENGTH and draft_tokens is not None and number > draft_tokens + 1:
        return f"is no acceptance length for K = {draft_tokens}: at most {draft_tokens + 1} tokens are emitted"
    if metric in RATES and not 0 <= number <= 100:
        return "is no percentage"
    return "is no throughput" if metric == "throughput" and number <= 0 else ""


def _conditions(document: Document, at: Location, data: Mapping[str, Any], keys: Sequence[str]) -> dict[str, str]:
    return {key: document.texts[(*at, key)] for key in keys if key in data}
