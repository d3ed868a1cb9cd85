"""The results of a benchmark: typed in memory, one JSON document on disk (``schemas/bench.schema.json``).

Cells hold raw counters per prompt. Everything else in the document is computed from them, and is computed again when a
document is read.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from eagle3hub._version import __version__
from eagle3hub.benchmarking.plan import BenchPlan, Cell, CellSettings
from eagle3hub.benchmarking.run import CellResult, Throughput
from eagle3hub.checkpoint.staging import replace_file
from eagle3hub.engines.base import EngineSettings, Scalar, Verdict, worst_verdict
from eagle3hub.errors import InputError, ManifestError
from eagle3hub.metrics import (
    Acceptance,
    CategoryAcceptance,
    Counts,
    PromptRow,
    SpeedByDraftTokens,
    TimedPrompt,
    acceptance_if_any,
    by_category,
    paired,
    speed_by_draft_tokens,
)
from eagle3hub.metrics.estimate import Interval, interval_from_json, interval_to_json
from eagle3hub.prompts import Context, ImagesUsed, PromptSet
from eagle3hub.system import html
from eagle3hub.system.documents import nearly_equal, read_document, schema_faults
from eagle3hub.system.resources import schema
from eagle3hub.system.text import escaped_json
from eagle3hub.validation.gates import Gate, collapse, loss, over_context
from eagle3hub.validation.report import MeasuredTarget, in_words

SCHEMA_NAME = "eagle3hub/bench/1"
MAX_BYTES = 256 << 20
Compared = TypeVar("Compared", bound="PairedComparison")


@dataclass(frozen=True, slots=True)
class BenchedHead:
    """A head in the tables: its name, its layout, and the digest of its files.

    ``context`` is the longest context in tokens that its config states; None where it states none, or in results of an
    earlier version.
    """

    name: str
    layout: str
    digest: str
    context: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the head as an item of ``heads``."""
        return {key: value for key, value in asdict(self).items() if key != "context" or value is not None}


@dataclass(frozen=True, slots=True)
class CellPrompts:
    """The prompts of a cell.

    Attributes:
        turns: which of the user's turns were used.
        source: where a fetched set comes from (url, revision, license …); None for the packaged set and for files.
        context: how they were made long; None for prompts as their set has them.
        images: those that they hold; None for text alone.
    """

    name: str
    sha256: str
    count: int
    categories: Mapping[str, int]
    turns: str
    source: Mapping[str, str | bool] | None
    context: Context | None = None
    images: ImagesUsed | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the ``prompts`` object of a cell."""
        left_out = ("context", "images")
        return {key: value for key, value in asdict(self).items() if key not in left_out or value is not None}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> CellPrompts:
        """Read what `to_json` wrote."""
        context = Context(**data["context"]) if "context" in data else None
        images = ImagesUsed(**data["images"]) if "images" in data else None
        return cls(**{**data, "context": context, "images": images})


@dataclass(frozen=True, slots=True)
class BenchRow(PromptRow):
    """One prompt of a cell, with times where they were measured.

    Attributes:
        seconds: of its answer. alone_new_tokens, alone_seconds: of the target's answer without the head.
    """

    seconds: float | None = None
    alone_new_tokens: int | None = None
    alone_seconds: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the row as an entry of ``per_prompt``."""
        times = {name: getattr(self, name) for name in _TIMES}
        return {**PromptRow.to_json(self), **{name: value for name, value in times.items() if value is not None}}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> BenchRow:
        """Read what `to_json` wrote. Raises InputError (``metrics-counters``), naming the prompt."""
        row = PromptRow.from_json(data)
        times = (data.get(name) for name in _TIMES)
        return cls(row.question_id, row.category, row.prompt_tokens, row.new_tokens, row.counts, *times)

    @property
    def timed(self) -> TimedPrompt | None:
        """The times with and without the head; None where they were not measured."""
        if self.seconds is None or self.alone_new_tokens is None or self.alone_seconds is None:
            return None
        return TimedPrompt(self.counts, (self.new_tokens, self.seconds), (self.alone_new_tokens, self.alone_seconds))


_TIMES = ("seconds", "alone_new_tokens", "alone_seconds")


@dataclass(frozen=True, slots=True)
class CellRecord:
    """One cell of the results: a head over a data set, at one K and one temperature, on one engine.

    Attributes:
        key: identifies the measurement (`Cell.key`).
        environment: what the engine ran on.
        acceptance: None if no round ran.
        per_prompt: empty where nothing was measured. seconds: wall time of measuring.
    """

    key: str
    head: str
    engine: str
    engine_version: str
    environment: Mapping[str, Scalar]
    prompts: CellPrompts
    settings: CellSettings
    verdict: Verdict
    reason: str
    acceptance: Acceptance | None
    categories: Mapping[str, CategoryAcceptance]
    per_prompt: tuple[BenchRow, ...]
    throughput: Throughput | None
    seconds: float

    @property
    def counts(self) -> list[Counts]:
        """The counters of the prompts, in order."""
        return [row.counts for row in self.per_prompt]

    def to_json(self) -> dict[str, Any]:
        """Return the cell as an item of ``cells``."""
        return {
            "key": self.key,
            "head": self.head,
            "engine": {"name": self.engine, "version": self.engine_version, "environment": dict(self.environment)},
            "prompts": self.prompts.to_json(),
            "settings": self.settings.to_json(),
            "verdict": self.verdict,
            "reason": self.reason,
            "acceptance": None if self.acceptance is None else self.acceptance.to_json(),
            "categories": {name: found.to_json() for name, found in self.categories.items()},
            "per_prompt": [row.to_json() for row in self.per_prompt],
            "throughput": None if self.throughput is None else self.throughput.to_json(),
            "seconds": self.seconds,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> CellRecord:
        """Read what `to_json` wrote. Raises InputError (``metrics-counters``) for counters that no run can produce."""
        acceptance, throughput = data["acceptance"], data["throughput"]
        return cls(
            key=data["key"],
            head=data["head"],
            engine=data["engine"]["name"],
            engine_version=data["engine"]["version"],
            environment=data["engine"]["environment"],
            prompts=CellPrompts.from_json(data["prompts"]),
            settings=CellSettings.from_json(data["settings"]),
            verdict=data["verdict"],
            reason=data["reason"],
            acceptance=None if acceptance is None else Acceptance.from_json(acceptance),
            categories={name: CategoryAcceptance.from_json(one) for name, one in data["categories"].items()},
            per_prompt=tuple(BenchRow.from_json(row) for row in data["per_prompt"]),
            throughput=None if throughput is None else Throughput.from_json(throughput),
            seconds=data["seconds"],
        )


@dataclass(frozen=True, slots=True)
class PairedComparison:
    """How one measurement compares with another over the same prompts: numbers, and ``ci95``, an interval or None."""

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as an item of ``comparisons``."""
        document = asdict(self)
        return {**document, "ci95": interval_to_json(document["ci95"])}

    @classmethod
    def from_json(cls: type[Compared], data: Mapping[str, Any]) -> Compared:
        """Read what `to_json` wrote."""
        return cls(**{**data, "ci95": interval_from_json(data["ci95"])})


@dataclass(frozen=True, slots=True)
class AcceptanceComparison(PairedComparison):
    """The comparison of another head with the base: the same prompts, settings and engine.

    Attributes:
        prompts: pairs in which at least one head had a round. identical: pairs with the same counters.
        difference: of the acceptance lengths, other - base, in tokens per round.
        relative_percent: the same in percent of the base's.
        ci95: of the difference; None where the pairs do not give one.
    """

    dataset: str
    draft_tokens: int
    temperature: float
    engine: str
    base: str
    other: str
    prompts: int
    base_mean_acceptance_length: float
    mean_acceptance_length: float
    difference: float
    relative_percent: float
    ci95: Interval | None
    identical: int


@dataclass(frozen=True, slots=True)
class ContextCurve:
    """A head over the same prompts at several lengths, at one K and one temperature, on one engine.

    Attributes:
        dataset: name of the set that the prompts are made of.
        lengths: of the prompts, in tokens, ascending. acceptance: of each.
        gate: what a head that collapses with length does not pass (`over_context`).
    """

    dataset: str
    draft_tokens: int
    temperature: float
    engine: str
    head: str
    lengths: tuple[int, ...]
    acceptance: tuple[Acceptance, ...]
    gate: Gate

    def to_json(self) -> dict[str, Any]:
        """Return the curve as an item of ``contexts``."""
        points = [
            {
                "tokens": tokens,
                "mean_acceptance_length": found.mean_acceptance_length,
                "ci95": interval_to_json(found.ci95),
                "prompts": found.prompts,
            }
            for tokens, found in zip(self.lengths, self.acceptance, strict=True)
        ]
        return {
            "dataset": self.dataset,
            "draft_tokens": self.draft_tokens,
            "temperature": self.temperature,
            "engine": self.engine,
            "head": self.head,
            "points": points,
            "gate": self.gate.to_json(),
        }


@dataclass(frozen=True, slots=True)
class SpeedRecord:
    """Which K pays for a head over a data set, at one temperature, on one engine, one sequence at a time."""

    dataset: str
    temperature: float
    engine: str
    head: str
    found: SpeedByDraftTokens

    def to_json(self) -> dict[str, Any]:
        """Return the answer as an item of ``speeds``."""
        where = {"dataset": self.dataset, "temperature": self.temperature, "engine": self.engine, "head": self.head}
        return {**where, **self.found.to_json()}


@dataclass(frozen=True, slots=True)
class Loss:
    """What a cell loses against the cell of earlier results over the same prompts, with the same settings.

    Attributes:
        differs: what is not the same, each as ``target: A, was B``.
        gate: whether it loses more than it may (`eagle3hub.validation.gates.loss`); its evidence has the numbers.
    """

    dataset: str
    draft_tokens: int
    temperature: float
    engine: str
    head: str
    earlier_head: str
    differs: tuple[str, ...]
    gate: Gate

    def to_json(self) -> dict[str, Any]:
        """Return the loss as an item of ``losses``."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**plain, "differs": list(self.differs), "gate": self.gate.to_json()}


@dataclass(frozen=True, slots=True)
class Against:
    """Earlier results to compare these with, prompt by prompt; the target or the head had another format then.

    ``cells`` are those that a cell of these results can be compared with.
    """

    measured_at: str
    target: MeasuredTarget
    heads: tuple[BenchedHead, ...]
    cells: tuple[CellRecord, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the ``against`` object."""
        return {
            "measured_at": self.measured_at,
            "target": self.target.to_json(),
            "heads": [head.to_json() for head in self.heads],
            "cells": [cell.to_json() for cell in self.cells],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Against:
        """Read what `to_json` wrote. Raises InputError (``metrics-counters``)."""
        return cls(
            data["measured_at"],
            MeasuredTarget.from_json(data["target"]),
            tuple(BenchedHead(**head) for head in data["heads"]),
            tuple(CellRecord.from_json(cell) for cell in data["cells"]),
        )


@dataclass(frozen=True, slots=True)
class Results:
    """The results of a benchmark.

    Attributes:
        base: name of the head that the others are compared with.
        cells_planned: how many cells the plan has; ``cells`` holds the measured ones, in the plan's order.
        against: earlier results that these are compared with, or None.
    """

    tool_version: str
    measured_at: str
    target: MeasuredTarget
    heads: tuple[BenchedHead, ...]
    base: str
    cells_planned: int
    cells: tuple[CellRecord, ...]
    comparisons: tuple[AcceptanceComparison, ...]
    against: Against | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the document of schema ``bench``."""
        return {
            "schema": SCHEMA_NAME,
            "tool": {"name": "eagle3hub", "version": self.tool_version},
            "measured_at": self.measured_at,
            "target": self.target.to_json(),
            "heads": [head.to_json() for head in self.heads],
            "base": self.base,
            "cells_planned": self.cells_planned,
            "cells": [cell.to_json() for cell in self.cells],
            "comparisons": [one.to_json() for one in self.comparisons],
            **({"contexts": [curve.to_json() for curve in self.contexts]} if self.contexts else {}),
            **({"speeds": [one.to_json() for one in self.speeds]} if self.speeds else {}),
            **({} if self.against is None else {"against": self.against.to_json()}),
            **({} if self.against is None else {"losses": [one.to_json() for one in self.losses]}),
        }

    def _repr_html_(self) -> str:
        measured = [
            (
                cell.head,
                cell.prompts.name,
                cell.engine,
                str(cell.settings.draft_tokens),
                f"{cell.settings.temperature:g}",
                html.Cell(cell.verdict, cell.verdict),
                "–" if cell.acceptance is None else in_words(cell.acceptance),
            )
            for cell in self.cells
        ]
        return html.panel(
            html.Cell(f"{self.target.name}: {self.verdict}", self.verdict),
            html.rows(measured, ("head", "data set", "engine", "K", "temperature", "verdict", "τ")),
            subtitle=f"{len(self.cells)} of {self.cells_planned} measurements",
        )

    @property
    def contexts(self) -> list[ContextCurve]:
        """Every head over the same prompts at two lengths or more."""
        return context_curves(self.cells)

    @property
    def speeds(self) -> list[SpeedRecord]:
        """Which K pays, wherever two or more were timed."""
        return speeds(self.cells)

    @property
    def losses(self) -> list[Loss]:
        """What every cell loses against the earlier results."""
        return losses(self)

    @classmethod
    def from_json(cls, document: Any, name: str = "the results") -> Results:
        """Check a document against the schema, read it, and compute its numbers again.

        Raises ManifestError for the first place that does not fit the schema (``bench-schema``), and for a number that
        does not follow from its counters (``bench-numbers``, ``bench-head``).
        """
        for fault in schema_faults(document, schema("bench")):
            raise ManifestError(f"{name}: {fault.message}", hint=fault.hint, code="bench-schema")
        try:
            cells = tuple(CellRecord.from_json(cell) for cell in document["cells"])
        except InputError as error:
            raise ManifestError(f"{name}: {error.message}", hint=error.hint, code="bench-numbers") from error
        earlier = document.get("against")
        found = cls(
            tool_version=document["tool"]["version"],
            measured_at=document["measured_at"],
            target=MeasuredTarget.from_json(document["target"]),
            heads=tuple(BenchedHead(**head) for head in document["heads"]),
            base=document["base"],
            cells_planned=document["cells_planned"],
            cells=cells,
            comparisons=tuple(AcceptanceComparison.from_json(one) for one in document["comparisons"]),
            against=None if earlier is None else Against.from_json(earlier),
        )
        _check_numbers(found, name)
        if not nearly_equal(document.get("contexts", []), [curve.to_json() for curve in found.contexts]):
            raise ManifestError(f"{name}: the contexts do not follow from the cells", code="bench-numbers")
        if not nearly_equal(document.get("speeds", []), [one.to_json() for one in found.speeds]):
            raise ManifestError(f"{name}: the speeds do not follow from the cells", code="bench-numbers")
        if not nearly_equal(document.get("losses", []), [one.to_json() for one in found.losses]):
            raise ManifestError(f"{name}: the losses do not follow from the cells", code="bench-numbers")
        return found

    @property
    def document(self) -> dict[str, Any]:
        """The document that `to_json` returns, for printing."""
        return self.to_json()

    @property
    def verdict(self) -> Verdict:
        """The worst verdict among the cells, of the heads over longer prompts, and against earlier results."""
        gates = [*(one.gate.verdict for one in self.contexts), *(one.gate.verdict for one in self.losses)]
        return worst_verdict([*(cell.verdict for cell in self.cells), *gates])

    def save(self, path: Path) -> None:
        """Write the results as JSON, all or nothing. Raises OutputError."""
        text = json.dumps(self.to_json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        replace_file(path, escaped_json(text).encode(), parents=True)


def load_results(path: str | Path) -> Results:
    """Read results; see `Results.from_json`.

    Raises SourceError if the file cannot be read, and ManifestError, naming file and field, if it does not hold
    results.
    """
    path = Path(path)
    return Results.from_json(read_document(path, "bench", MAX_BYTES), path.name)


def _check_numbers(results: Results, name: str) -> None:
    heads = [head.name for head in results.heads]
    for i, cell in enumerate(results.cells):
        where = f"{name}: cells[{i}]"
        if cell.head not in heads:
            raise ManifestError(f"{where}.head is {cell.head!r}, none of the heads", code="bench-head")
        if any(len(one.accepted_per_position) != cell.settings.draft_tokens for one in cell.counts):
            raise ManifestError(f"{where} has counters of another K than its settings", code="bench-numbers")
        if cell.per_prompt and len(cell.per_prompt) != cell.prompts.count:
            asked, have = cell.prompts.count, len(cell.per_prompt)
            raise ManifestError(f"{where} has counters of {have} prompts, not of {asked}", code="bench-numbers")
        computed = acceptance_if_any(cell.counts)
        if not nearly_equal(_json(computed), _json(cell.acceptance)):
            raise ManifestError(
                f"{where}.acceptance does not follow from the counters of its prompts",
                hint="results are written by eagle3hub bench and not edited; measure again",
                code="bench-numbers",
            )
        if cell.verdict == "pass" and (computed is None or collapse(computed).verdict != "pass"):
            raise ManifestError(f"{where} is stated to pass, and its counters do not", code="bench-numbers")
        categories = by_category((row.category, row.counts) for row in cell.per_prompt)
        if not nearly_equal(*({key: one.to_json() for key, one in c.items()} for c in (categories, cell.categories))):
            raise ManifestError(f"{where}.categories do not follow from its prompts", code="bench-numbers")
    computed_again = comparisons(results.cells, results.base)
    if not nearly_equal(*([one.to_json() for one in c] for c in (computed_again, results.comparisons))):
        raise ManifestError(f"{name}: the comparisons do not follow from the cells", code="bench-numbers")


def cell_record(cell: Cell, version: str, result: CellResult) -> CellRecord:
    """Make a cell of the results. Raises ValueError unless the result has one entry for each prompt, or none."""
    prompts = cell.prompts.prompts if result.prompts else ()
    rows = tuple(
        BenchRow(
            prompt.question_id,
            prompt.category,
            one.prompt_tokens,
            one.new_tokens,
            one.counts,
            None if one.seconds is None else round(one.seconds, 6),
            *((None, None) if one.alone is None else (one.alone[0], round(one.alone[1], 6))),
        )
        for prompt, one in zip(prompts, result.prompts, strict=True)
    )
    return CellRecord(
        key=cell.key(version),
        head=cell.head.name,
        engine=cell.engine,
        engine_version=version,
        environment=result.environment,
        prompts=prompts_of(cell.prompts),
        settings=cell.settings,
        verdict=result.verdict,
        reason=result.reason,
        acceptance=acceptance_if_any([row.counts for row in rows]),
        categories=by_category((row.category, row.counts) for row in rows),
        per_prompt=rows,
        throughput=result.throughput,
        seconds=result.seconds,
    )


def prompts_of(prompts: PromptSet) -> CellPrompts:
    """Return what results state of a prompt set."""
    source = None if prompts.dataset is None else prompts.dataset.to_json()
    return CellPrompts.from_json({**prompts.to_json(), "turns": prompts.turns, "source": source})


def results_of(plan: BenchPlan, cells: Sequence[CellRecord]) -> Results:
    """Return the results of a plan; cells not measured yet are missing."""
    return Results(
        tool_version=__version__,
        measured_at=datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        target=plan.target.identity,
        heads=tuple(BenchedHead(head.name, head.layout, head.digest, head.context) for head in plan.heads),
        base=plan.base,
        cells_planned=plan.size,
        cells=tuple(cells),
        comparisons=tuple(comparisons(cells, plan.base)),
    )


def comparisons(cells: Sequence[CellRecord], base: str) -> list[AcceptanceComparison]:
    """Compare every other head with the base, wherever both ran the same prompts under the same conditions."""
    bases = {_conditions(cell): cell for cell in cells if cell.head == base and cell.acceptance}
    out = []
    for cell in cells:
        against = bases.get(_conditions(cell))
        if cell.head == base or against is None or not cell.acceptance:
            continue
        found = paired(cell.counts, against.counts)
        out.append(
            AcceptanceComparison(
                dataset=cell.prompts.name,
                draft_tokens=cell.settings.draft_tokens,
                temperature=cell.settings.temperature,
                engine=cell.engine,
                base=base,
                other=cell.head,
                prompts=found.prompts,
                base_mean_acceptance_length=found.base_tau,
                mean_acceptance_length=found.tau,
                difference=found.difference,
                relative_percent=found.relative,
                ci95=found.ci95,
                identical=found.identical,
            )
        )
    return out


def context_curves(cells: Sequence[CellRecord]) -> list[ContextCurve]:
    """Join the cells of one head over the same prompts at several lengths."""
    found: dict[tuple[Any, ...], dict[int, CellRecord]] = {}
    for cell in cells:
        context = cell.prompts.context
        if context is not None and cell.acceptance:
            asked = tuple(row.question_id for row in cell.per_prompt)
            key = (context.of, cell.head, cell.engine, cell.engine_version, cell.settings, asked)
            found.setdefault(key, {})[context.tokens] = cell
    curves = []
    for (dataset, head, engine, _, settings, _), by_length in found.items():
        if len(by_length) < 2:
            continue
        lengths = sorted(by_length)
        curves.append(
            ContextCurve(
                dataset=dataset,
                draft_tokens=settings.draft_tokens,
                temperature=settings.temperature,
                engine=engine,
                head=head,
                lengths=tuple(lengths),
                acceptance=tuple(one for n in lengths if (one := by_length[n].acceptance) is not None),
                gate=over_context({tokens: cell.counts for tokens, cell in by_length.items()}),
            )
        )
    return curves


def held_against(results: Results, earlier: Results) -> Results:
    """Return the results with the cells of earlier ones that they can be compared with, prompt by prompt.

    Raises InputError (``bench-against``) where there is none.
    """
    measured = [cell for cell in results.cells if cell.acceptance]
    if not measured:
        why = next((cell.reason for cell in results.cells if cell.reason), "nothing was measured")
        raise InputError(
            f"no cell of these results ran a round that could be compared: {why}",
            hint="look into the results for each cell's reason",
            code="bench-against",
        )
    wanted = {_same(cell) for cell in measured}
    cells = tuple(cell for cell in earlier.cells if cell.acceptance and _same(cell) in wanted)
    found = replace(results, against=Against(earlier.measured_at, earlier.target, earlier.heads, cells))
    if not found.losses:
        raise InputError(
            "the earlier results have no cell over the same prompts with the same engine, K and settings",
            hint="measure both with the same --datasets, --num-prompts, --draft-tokens, --engine and limits",
            code="bench-against",
        )
    return Results.from_json(found.to_json())


def losses(results: Results) -> list[Loss]:
    """Compare every cell with the earlier cell of the head of the same name, or of the only head."""
    against = results.against
    if against is None:
        return []
    out = []
    for cell in results.cells:
        there = [one for one in against.cells if _same(one) == _same(cell)]
        named = [one for one in there if one.head == cell.head]
        base = (named or there)[0] if len(named or there) == 1 and cell.acceptance else None
        if base is None:
            continue
        pairs = (
            ("target", results.target.name, against.target.name),
            ("target's weights", results.target.weights_digest, against.target.weights_digest),
            ("head's files", _digest_in(results.heads, cell.head), _digest_in(against.heads, base.head)),
            ("version", cell.engine_version, base.engine_version),
            ("dtype", cell.settings.dtype, base.settings.dtype),
            ("device", cell.settings.device, base.settings.device),
            ("engine settings", _started(cell.settings), _started(base.settings)),
        )
        differs = tuple(
            f"{what}: {str(ours)[:19]}, was {str(theirs)[:19]}" for what, ours, theirs in pairs if ours != theirs
        )
        out.append(
            Loss(
                cell.prompts.name,
                cell.settings.draft_tokens,
                cell.settings.temperature,
                cell.engine,
                cell.head,
                base.head,
                differs,
                loss(cell.counts, base.counts),
            )
        )
    return out


def _digest_in(heads: Sequence[BenchedHead], name: str) -> str | None:
    return next((head.digest for head in heads if head.name == name), None)


def _started(settings: CellSettings) -> str:
    """How the engine was started beyond the run's own arguments, such as with ``quantization: fp8``."""
    plain = {key: value for key, value in settings.engine_settings.to_json().items() if key != "chat_template"}
    return json.dumps(plain, sort_keys=True) if plain else "none"


def _same(cell: CellRecord) -> tuple[Any, ...]:
    """What two cells must have in common to be compared.

    That is all but target, head, format, device, version, and how the engine was started: an engine may quantise the
    target itself.
    """
    rendering = EngineSettings(chat_template=cell.settings.engine_settings.chat_template)
    settings = replace(cell.settings, dtype="", device="", min_acceptance_length=None, engine_settings=rendering)
    return cell.engine, cell.prompts.sha256, tuple(row.question_id for row in cell.per_prompt), settings


def speeds(cells: Sequence[CellRecord]) -> list[SpeedRecord]:
    """Join the timed cells of one head over the same prompts, with chains of several K."""
    found: dict[tuple[Any, ...], dict[int, list[TimedPrompt]]] = {}
    names: dict[tuple[Any, ...], str] = {}
    for cell in cells:
        timed = [one for row in cell.per_prompt if (one := row.timed) is not None]
        if not cell.acceptance or len(timed) != len(cell.per_prompt) or cell.settings.topk is not None:
            continue
        settings = replace(cell.settings, draft_tokens=0)
        key = (cell.prompts.sha256, cell.settings.temperature, cell.engine, cell.head, cell.engine_version, settings)
        names[key] = cell.prompts.name
        found.setdefault(key, {})[cell.settings.draft_tokens] = timed
    out = []
    for key, runs in found.items():
        answer = speed_by_draft_tokens(runs)
        if answer is not None:
            out.append(SpeedRecord(names[key], *key[1:4], answer))
    return out


def _conditions(cell: CellRecord) -> tuple[str, str, str, CellSettings]:
    """Return everything that must be equal before two heads can be compared."""
    return cell.engine, cell.engine_version, cell.prompts.sha256, cell.settings


def _json(acceptance: Acceptance | None) -> dict[str, object] | None:
    return None if acceptance is None else acceptance.to_json()
