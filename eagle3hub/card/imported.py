"""Read files that a manifest includes by pattern, and print the measurements of others that they report."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import translate
from pathlib import Path
from typing import Any, Literal

from eagle3hub.card.vocabulary import CONDITIONS
from eagle3hub.errors import ManifestError
from eagle3hub.system import resources
from eagle3hub.system.documents import Document, Location, did_you_mean, hold_to_schema, read_yaml

# Files that a manifest includes by pattern.


MOST = 20_000
"""Most names to look at for one pattern: a pattern names reports, it does not search a disk."""
_WILD = re.compile(r"[*?\[]")


def find(folder: Path, patterns: Sequence[str]) -> list[Path]:
    """Find the files below ``folder`` that the patterns match, sorted, each once.

    Patterns are those of `glob.glob`, except that ``**`` does not follow links. Raises ManifestError for a pattern
    that no file can match, or that needs more than `MOST` names to be looked at.
    """
    found: set[Path] = set()
    for pattern in patterns:
        if "\0" in pattern:
            raise ManifestError(f"the pattern {pattern!r} has a NUL in it", code="manifest-pattern")
        found |= set(_Search(folder, pattern).files())
    return sorted(found)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a link that must not be followed, or a name that is too long
        return False


class _Search:
    def __init__(self, folder: Path, pattern: str) -> None:
        self._pattern = pattern
        self._left = MOST
        path = Path(pattern)
        self._start = Path(path.anchor) if path.is_absolute() else folder
        self._parts = path.parts[1:] if path.is_absolute() else path.parts

    def files(self) -> Iterator[Path]:
        return (path for path in self._below(self._start, self._parts) if _is_file(path))

    def _below(self, here: Path, parts: Sequence[str]) -> Iterator[Path]:
        if not parts:
            yield here
            return
        part, rest = parts[0], parts[1:]
        if part == "**":
            yield from self._below(here, rest)
            for entry in self._entries(here, "*"):
                if entry.is_dir(follow_symlinks=False):
                    yield from self._below(here / entry.name, parts)
                elif not rest:
                    yield here / entry.name
        elif _WILD.search(part):
            for entry in self._entries(here, part):
                yield from self._below(here / entry.name, rest)
        else:
            yield from self._below(here / part, rest)

    def _entries(self, here: Path, part: str) -> Iterator[os.DirEntry[str]]:
        """Yield the entries of a folder that match; names that begin with a dot only if the pattern does."""
        fits = re.compile(translate(part)).match
        try:
            with os.scandir(here) as inside:
                entries = []
                for entry in inside:
                    self._left -= 1
                    if self._left < 0:
                        raise ManifestError(
                            f"the pattern {self._pattern!r} would look at more than {MOST:,} files",
                            hint="name the folder that the files are in, as in reports/*.json",
                            code="manifest-pattern",
                        )
                    entries.append(entry)
        except OSError:
            return
        for entry in entries:
            if fits(entry.name) and (entry.name[0] != "." or part[0] == "."):
                yield entry


# Measurements that others made: the numbers as they printed them, who measured, and where that is published.
#
# A file is checked against ``schemas/imported.schema.json``. What its source does not say stays unsaid: the card
# prints a missing condition as not reported and never guesses it.


LENGTH = "acceptance_length"
Metric = Literal[
    "acceptance_length",
    "throughput",
    "speedup",
    "latency",
    "marginal_acceptance_rate",
    "conditional_acceptance_rate",
    "draft_acceptance_rate",
    "training_agreement",
]
RATES = ("marginal_acceptance_rate", "conditional_acceptance_rate", "draft_acceptance_rate", "training_agreement")
"""Metrics whose values are percentages."""
_COLUMNS = tuple(key for key, one in CONDITIONS.items() if one.head)
"""Conditions that may differ from row to row."""
_CONDITIONS = (*_COLUMNS, "runs", "estimator", "baseline")


@dataclass(frozen=True, slots=True)
class Value:
    """A number and its digits as typed: 257.60 is not 257.6."""

    number: float
    text: str


@dataclass(frozen=True, slots=True)
class Source:
    """Where numbers are published and who measured them; all but the first two may be empty.

    ``file`` and ``sha256`` are those of a file that ``tool`` wrote, from which the numbers were taken.
    """

    title: str
    measured_by: str
    url: str = ""
    accessed: str = ""
    file: str = ""
    sha256: str = ""
    tool: str = ""
    tool_version: str = ""

    @property
    def described(self) -> str:
        """The title, with the digest of the file and the version of the tool where they are known."""
        version = f"{self.tool} {self.tool_version}".strip() if self.tool_version else ""
        digest = f"SHA-256 {self.sha256}" if self.sha256 else ""
        more = ", ".join(filter(None, [version, digest]))
        return f"{self.title} ({more})" if more else self.title


@dataclass(frozen=True, slots=True)
class Row:
    """One row: this head's value with its interval (None: not reported), and the others' values by name.

    ``columns`` are further numbers of this head, by the table's columns. ``conditions`` are the table's, replaced by
    the row's own where it has some.
    """

    name: str
    value: Value
    interval: tuple[Value, Value] | None
    others: Mapping[str, Value]
    columns: Mapping[str, Value]
    conditions: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Column:
    """Further numbers of this head: the heading, what they are, and the unit of a throughput or a latency."""

    name: str
    metric: Metric
    unit: str = ""


@dataclass(frozen=True, slots=True)
class ImportedTable:
    """One table. ``this`` is the table's name for the head; ``base`` is what differences are relative to, or empty."""

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
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]

    @property
    def varying(self) -> tuple[str, ...]:
        """Conditions that differ between rows, in the order of their columns."""
        return tuple(key for key in _COLUMNS if len({row.conditions.get(key) for row in self.rows}) > 1)

    def of(self, metric: str) -> tuple[tuple[Row, Value], ...]:
        """Return this head's numbers of a metric and their rows: the values, or the first column of them."""
        if self.metric == metric:
            return tuple((row, row.value) for row in self.rows)
        named = next((column.name for column in self.columns if column.metric == metric), None)
        return tuple((row, row.columns[named]) for row in self.rows if named in row.columns) if named else ()

    @property
    def others(self) -> tuple[str, ...]:
        """Names of the other heads or methods, in order of first appearance."""
        return tuple(dict.fromkeys(name for row in self.rows for name in row.others))


def load_imported(folder: Path, patterns: Sequence[str]) -> tuple[ImportedTable, ...]:
    """Read the measurements of every file below ``folder`` that the patterns match, in the files' order.

    Raises SourceError for a file that cannot be read, and ManifestError (file, line, field) for one that is wrong.
    """
    return tuple(m for path in find(folder, patterns) for m in read_imported(path))


def read_imported(path: Path) -> tuple[ImportedTable, ...]:
    """Read the measurements of one file. Raises as `load_imported` does."""
    document = read_imported_document(path)
    return _measurements(document)


def check_imported(document: Document) -> None:
    """Hold measurements that were not read from a file to the schema and to what numbers can be.

    Raises ManifestError as `load_imported` does.
    """
    hold_to_schema(document, resources.schema("imported"), "imported")
    _measurements(document)


def _measurements(document: Document) -> tuple[ImportedTable, ...]:
    source = Source(measured_by=document.data["measured_by"], **document.data["source"])
    measurements = enumerate(document.data["measurements"])
    return tuple(_measurement(document, ("measurements", i), m, source) for i, m in measurements)


def read_imported_document(path: Path) -> Document:
    """Read one file of measurements and check it against its schema. Raises as `load_imported` does."""
    document = read_yaml(path)
    hold_to_schema(document, resources.schema("imported"), "imported")
    return document


def _measurement(document: Document, at: Location, data: Mapping[str, Any], source: Source) -> ImportedTable:
    shared = _conditions(document, at, data, _CONDITIONS)
    columns = tuple(Column(**column) for column in data.get("columns", ()))
    for i, column in enumerate(columns):
        if column.name in [earlier.name for earlier in columns[:i]]:
            raise document.error((*at, "columns", i), f"two columns are called {column.name!r}", "name each once")
    rows = tuple(_row(document, (*at, "rows", i), data, columns, shared) for i in range(len(data["rows"])))
    for i, row in enumerate(rows):
        if (row.name, row.conditions) in [(earlier.name, earlier.conditions) for earlier in rows[:i]]:
            raise document.error(
                (*at, "rows", i),
                f"{f'two rows are called {row.name!r} and have' if row.name else 'two rows have'} the same conditions",
                "say in each row what differs: mode, draft_tokens, temperature, concurrency …",
            )
    made = ImportedTable(
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
        columns=columns,
        rows=rows,
    )
    if made.base and made.base not in made.others:
        known = ", ".join(made.others) or "no others are given"
        raise document.error((*at, "base"), f"no row has a value of {made.base!r}", f"allowed: {known}", "imported")
    if made.this in made.others:
        raise document.error((*at, "this"), f"{made.this!r} is one of the others too", "rename one", "imported")
    return made


def _row(
    document: Document, at: Location, table: Mapping[str, Any], columns: Sequence[Column], shared: Mapping[str, str]
) -> Row:
    data = table["rows"][at[-1]]

    def value(*place: str | int) -> Value:
        number: Any = data
        for key in place:
            number = number[key]
        return Value(float(number), document.texts[(*at, *place)])

    metrics = {column.name: column.metric for column in columns}
    for name in data.get("columns", {}):
        if name not in metrics:
            meant = did_you_mean(name, list(metrics))
            known = f"the table's columns: {', '.join(metrics)}" if metrics else "name it in the table's columns"
            raise document.error((*at, "columns", name), f"the table has no column {name!r}{meant}", known, "imported")
    if ("name" in data) == (table["rows_are"] == "conditions"):
        if "name" in data:
            raise document.error((*at, "name"), "rows that are conditions have no names", "leave it out", "imported")
        hint = "name the row, or let `rows_are` be conditions"
        raise document.error(at, "the field 'name' is missing", hint, "imported")
    row = Row(
        name=data.get("name", ""),
        value=value("value"),
        interval=(value("interval", 0), value("interval", 1)) if "interval" in data else None,
        others={name: value("others", name) for name in data.get("others", {})},
        columns={name: value("columns", name) for name in data.get("columns", {})},
        conditions={**shared, **_conditions(document, at, data, _COLUMNS)},
    )
    most = data.get("draft_tokens", table.get("draft_tokens"))
    found: list[tuple[Location, str, Value]] = [((*at, "value"), table["metric"], row.value)]
    found += [((*at, "others", name), table["metric"], other) for name, other in row.others.items()]
    found += [((*at, "columns", name), metrics[name], number) for name, number in row.columns.items()]
    for place, metric, number in found:
        if fault := _fault(metric, number.number, most):
            raise document.error(place, f"{number.text} {fault}", "check the number and its metric", "imported")
    if row.interval and not row.interval[0].number <= row.value.number <= row.interval[1].number:
        raise document.error((*at, "interval"), "the interval does not hold the value", None, "imported")
    return row


_ABOVE_ZERO = {"throughput": "is no throughput", "speedup": "is no speed-up", "latency": "is no latency"}


def _fault(metric: str, number: float, draft_tokens: int | None) -> str:
    if metric == LENGTH and number < 1:
        return "is no acceptance length: a verification step emits at least 1 token"
    if metric == LENGTH and draft_tokens is not None and number > draft_tokens + 1:
        return f"is no acceptance length for K = {draft_tokens}: at most {draft_tokens + 1} tokens are emitted"
    if metric in RATES and not 0 <= number <= 100:
        return "is no percentage"
    return _ABOVE_ZERO.get(metric, "") if number <= 0 else ""


def _conditions(document: Document, at: Location, data: Mapping[str, object], keys: Sequence[str]) -> dict[str, str]:
    return {key: document.texts[(*at, key)] for key in keys if key in data}


# What the card prints about imported measurements: the reported numbers, and differences computed here.


CHARTS = "charts"
"""Folder of charts, beside the card."""
METRICS = {
    "acceptance_length": "Acceptance length τ",
    "throughput": "Throughput",
    "speedup": "Speed-up",
    "latency": "Latency",
    "marginal_acceptance_rate": "Marginal rate",
    "conditional_acceptance_rate": "Conditional rate",
    "draft_acceptance_rate": "Drafted tokens accepted",
    "training_agreement": "Agreement in training",
}
_ROWS_ARE = {"dataset": "Data set", "category": "Category", "position": "Position", "setting": "Setting"}
_NEEDED = {
    LENGTH: ("engine", "engine_version", "draft_tokens", "temperature", "prompts", "estimator"),
    "throughput": (
        "engine", "engine_version", "hardware", "draft_tokens", "temperature", "prompts", "concurrency",
        "max_new_tokens",
    ),
    "speedup": (
        "engine", "engine_version", "hardware", "draft_tokens", "temperature", "prompts", "concurrency",
        "max_new_tokens", "baseline",
    ),
    "latency": (
        "engine", "engine_version", "hardware", "draft_tokens", "temperature", "prompts", "concurrency",
    ),
    "marginal_acceptance_rate": ("engine", "engine_version", "temperature", "prompts"),
    "conditional_acceptance_rate": ("engine", "engine_version", "temperature", "prompts"),
    "draft_acceptance_rate": ("engine", "engine_version", "draft_tokens", "temperature", "prompts"),
    "training_agreement": ("prompts",),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Table:
    """One imported table, ready to print.

    ``given`` are the conditions that the source reports, ``missing`` those that it leaves out. ``base`` is what the
    differences in the last columns are relative to, or empty.
    """

    title: str
    metric: str
    meaning: str
    dataset: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    base: str
    given: tuple[str, ...]
    missing: tuple[str, ...]
    note: str
    source: str
    url: str
    accessed: str
    measured_by: str
    picture: str
    this: str


_MEANINGS = {
    "training_agreement": "Share of training positions at which the most likely token of the head is the target's, "
    "step by step of training-time test. It is not an acceptance rate of an engine and does not convert to τ.",
    "marginal_acceptance_rate": "Marginal: share of all rounds in which the token at this position was accepted.",
    "draft_acceptance_rate": "Accepted of all drafted tokens; with K of them a round, τ is 1 plus K times this share.",
    "conditional_acceptance_rate": "Conditional: share of the rounds whose earlier tokens were all accepted.",
}


_COLUMN: dict[Metric, str] = {
    "acceptance_length": "τ",
    "speedup": "speed-up",
    "marginal_acceptance_rate": "marginal rate",
    "conditional_acceptance_rate": "conditional rate",
    "draft_acceptance_rate": "drafted tokens accepted",
    "training_agreement": "agreement",
}


def tables(measurements: Sequence[ImportedTable]) -> list[Table]:
    """Format every measurement as a table, in order."""
    return [table(m, f"{CHARTS}/{chart_name(i, m)}") for i, m in enumerate(measurements, 1)]


def chart_name(number: int, m: ImportedTable) -> str:
    """Return the file name, without ending, of the chart of measurement ``number``, counted from 1."""
    return re.sub(r"[^a-z0-9]+", "-", f"reported-{number}-{m.title}".lower()).strip("-")[:60].strip("-")


def label(m: ImportedTable, row: Row) -> str:
    """Name a row outside its table: its name, and the conditions in which it differs from other rows."""
    own = [CONDITIONS[key].said.format(row.conditions[key]) for key in m.varying if key in row.conditions]
    return ", ".join([*([row.name] if row.name else []), *own])


def table(m: ImportedTable, picture: str = "") -> Table:
    """Format one measurement as a table; ``picture`` is the path, without ending, of its chart."""
    what = _what(m.metric, m.unit)
    with_interval = any(row.interval for row in m.rows)
    header = [
        *([_ROWS_ARE[m.rows_are]] if m.rows_are in _ROWS_ARE else []),
        *(CONDITIONS[key].head for key in m.varying),
        f"{m.this}, {what}",
    ]
    header += ["95% interval"] if with_interval else []
    header += [f"{name}, {what}" for name in m.others]
    header += ["Difference"] if m.base else []
    header += [_headed(column) for column in m.columns]
    return Table(
        title=m.title,
        metric=METRICS[m.metric],
        meaning=_MEANINGS.get(m.metric, ""),
        dataset=m.dataset,
        header=tuple(header),
        rows=tuple(_cells(m, row, with_interval) for row in m.rows),
        base=m.base,
        given=tuple(_given(m)),
        missing=tuple(missing(m)),
        note=m.note,
        source=m.source.described,
        url=m.source.url,
        accessed=m.source.accessed,
        measured_by=m.source.measured_by,
        picture=picture,
        this=m.this,
    )


@dataclass(frozen=True, slots=True)
class Headline:
    """The lowest and the highest of a table's numbers in one line; ``high`` is empty where there is one number."""

    what: str
    by: str
    low: str
    at_low: str
    high: str
    at_high: str


def headlines(measurements: Sequence[ImportedTable]) -> list[Headline]:
    """Return the first acceptance lengths and the first speed-ups of this head, for the start of the card."""
    found = []
    for metric, what in ((LENGTH, "Acceptance length τ"), ("speedup", "Speed-up")):
        m = next((m for m in measurements if m.of(metric)), None)
        if m is not None:
            numbers = sorted(m.of(metric), key=lambda pair: pair[1].number)
            (row, low), (other, high) = numbers[0], numbers[-1]
            ends = [(_shown(metric, value), label(m, of)) for of, value in ((row, low), (other, high))]
            several = len(numbers) > 1
            found.append(Headline(what, m.source.measured_by, *ends[0], *(ends[1] if several else ("", ""))))
    return found


def _what(metric: Metric, unit: str) -> str:
    """Say in the head of a column what its numbers are."""
    if metric == "throughput":
        return unit or metric
    if metric == "latency":
        return f"{metric} ({unit})" if unit else metric
    return _COLUMN[metric]


def _headed(column: Column) -> str:
    """Return the head of a further column: its name, and what its numbers are where the name does not say it."""
    what = _what(column.metric, column.unit)
    return column.name if what.casefold() in column.name.casefold() else f"{column.name}, {what}"


def _shown(metric: str, value: Value | None) -> str:
    if value is None:
        return "–"
    return value.text + ("%" if metric in RATES else "×" if metric == "speedup" else "")


def _cells(m: ImportedTable, row: Row, with_interval: bool) -> tuple[str, ...]:
    cells = [
        *([row.name] if row.name else []),
        *(row.conditions.get(key, "–") for key in m.varying),
        _shown(m.metric, row.value),
    ]
    if with_interval:
        cells.append(f"{row.interval[0].text} – {row.interval[1].text}" if row.interval else "–")
    cells += [_shown(m.metric, row.others.get(name)) for name in m.others]
    if m.base:
        cells.append(difference(row.value, row.others.get(m.base)))
    cells += [_shown(column.metric, row.columns.get(column.name)) for column in m.columns]
    return tuple(cells)


def difference(value: Value, base: Value | None) -> str:
    """Write ``value`` relative to ``base``, in percent of ``base``, with its sign; a dash if there is no base."""
    if base is None or base.number == 0:
        return "–"
    return f"{value.number / base.number - 1:+.1%}".replace("-", "−")


def _given(m: ImportedTable) -> list[str]:
    """List the conditions that hold for every row, as the source gives them."""
    conditions = {key: text for key, text in m.rows[0].conditions.items() if key not in m.varying}
    engine = " ".join(filter(None, (conditions.pop("engine", ""), conditions.pop("engine_version", ""))))
    shown = [f"measured with {engine}"] if engine else []
    return shown + [CONDITIONS[key].given(conditions[key]) for key in _CONDITIONS if key in conditions]


def missing(m: ImportedTable) -> list[str]:
    """List the conditions that a reader needs to compare the numbers, and that the source leaves out."""
    absent = [CONDITIONS[key].name for key in _NEEDED[m.metric] if any(key not in row.conditions for row in m.rows)]
    if m.metric in ("throughput", "latency") and not m.unit:
        absent = [f"unit of {m.metric}", *absent]
    if m.metric == "throughput" and not m.others and "baseline" not in m.rows[0].conditions:
        absent.append("baseline")
    if m.metric == LENGTH and m.rows_are == "category":
        absent.append("overall τ")
    if not all(row.interval for row in m.rows):
        absent.append("intervals")
    return absent
