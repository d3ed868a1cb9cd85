"""The results of a serving measurement: typed in memory, one JSON document on disk (``schemas/serving.schema.json``).

Cells hold times, tokens and counters of every request. Everything else in the document is computed from them, and is
computed again when a document is read.
"""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from eagle3hub._version import __version__
from eagle3hub.benchmarking.results import MAX_BYTES, BenchedHead, CellPrompts, PairedComparison, Results, prompts_of
from eagle3hub.benchmarking.serving.plan import Contender, ServingCell, ServingPlan, ServingSettings
from eagle3hub.checkpoint.staging import replace_file
from eagle3hub.engines.base import Method, Scalar, Verdict, worst_verdict
from eagle3hub.errors import InputError, ManifestError
from eagle3hub.metrics import Acceptance, Counts, Speedup, acceptance_if_any, speedup
from eagle3hub.metrics.counters import row_counts
from eagle3hub.metrics.estimate import Interval
from eagle3hub.system.documents import nearly_equal, read_document, schema_faults
from eagle3hub.system.resources import schema
from eagle3hub.system.text import escaped_json
from eagle3hub.validation.report import MeasuredTarget

SCHEMA_NAME = "eagle3hub/serving/1"
QUANTILES = (0.5, 0.9, 0.99)


@dataclass(frozen=True, slots=True)
class RequestRow:
    """One request of a run.

    Attributes:
        prompt_tokens, new_tokens: lengths. tokens_sha256: of the new tokens' ids.
        sent, first, last: when it was sent, and when its first and last token came, in seconds of the run's clock.
        counts: None if the server does not draft, or does not count each request.
    """

    question_id: int | str
    category: str
    prompt_tokens: int
    new_tokens: int
    tokens_sha256: str
    sent: float
    first: float
    last: float
    counts: Counts | None

    @property
    def latency(self) -> float:
        """Seconds from sending the request to its last token."""
        return self.last - self.sent

    @property
    def time_to_first_token(self) -> float:
        """Seconds from sending the request to its first token."""
        return self.first - self.sent

    @property
    def time_per_output_token(self) -> float | None:
        """Seconds per token after the first; None for an answer of one token."""
        return None if self.new_tokens < 2 else (self.last - self.first) / (self.new_tokens - 1)

    def to_json(self) -> dict[str, Any]:
        """Return the row as an item of ``requests``."""
        counts = None if self.counts is None else {**self.counts.to_json(), "accepted": self.counts.accepted}
        return {**{name: getattr(self, name) for name in _ROW}, "counts": counts}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RequestRow:
        """Read what `to_json` wrote. Raises InputError (``metrics-counters``), naming the prompt."""
        counts = data["counts"]
        found = None if counts is None else row_counts({**counts, "question_id": data["question_id"]})
        return cls(**{name: data[name] for name in _ROW}, counts=found)


_ROW = ("question_id", "category", "prompt_tokens", "new_tokens", "tokens_sha256", "sent", "first", "last")


@dataclass(frozen=True, slots=True)
class Spread:
    """A time in seconds over requests: mean, and the quantiles in `QUANTILES` (the lowest value that enough reach)."""

    mean: float
    p50: float
    p90: float
    p99: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """Return the spread of some values; None of none."""
        if not values:
            return None
        ordered = sorted(values)
        places = [ordered[max(math.ceil(q * len(ordered)), 1) - 1] for q in QUANTILES]
        return cls(math.fsum(ordered) / len(ordered), *places)


@dataclass(frozen=True, slots=True)
class Summary:
    """What the requests of one run, or of several, say together.

    Attributes:
        seconds: from the first request sent to the last token, summed over runs.
        output_tokens_per_second: new tokens over these seconds.
        acceptance: pooled over requests, None if none was counted; its interval is over requests of one run, and None
            over several.
    """

    requests: int
    new_tokens: int
    seconds: float
    output_tokens_per_second: float
    time_to_first_token: Spread
    time_per_output_token: Spread | None
    latency: Spread
    acceptance: Acceptance | None

    def to_json(self) -> dict[str, Any]:
        """Return the ``summary`` object of a cell."""
        spreads = ("time_to_first_token", "time_per_output_token", "latency")
        return {
            "requests": self.requests,
            "new_tokens": self.new_tokens,
            "seconds": self.seconds,
            "output_tokens_per_second": self.output_tokens_per_second,
            **{name: None if (one := getattr(self, name)) is None else asdict(one) for name in spreads},
            "acceptance": None if self.acceptance is None else self.acceptance.to_json(),
        }


def summary(rows: Sequence[RequestRow]) -> Summary | None:
    """Return what the requests of one run say together; None of none."""
    if not rows:
        return None
    seconds = max(row.last for row in rows) - min(row.sent for row in rows)
    tokens = sum(row.new_tokens for row in rows)
    first, latency = (Spread.of([getattr(r, n) for r in rows]) for n in ("time_to_first_token", "latency"))
    assert first is not None and latency is not None
    per_token = [found for row in rows if (found := row.time_per_output_token) is not None]
    counted = [row.counts for row in rows if row.counts is not None]
    return Summary(
        requests=len(rows),
        new_tokens=tokens,
        seconds=seconds,
        output_tokens_per_second=tokens / seconds,
        time_to_first_token=first,
        time_per_output_token=Spread.of(per_token),
        latency=latency,
        acceptance=acceptance_if_any(counted) if len(counted) == len(rows) else None,
    )


@dataclass(frozen=True, slots=True)
class MeasuredServer:
    """A server in the tables: its name, how it drafts, its head's name, tokens drafted per round, and its part."""

    name: str
    method: Method
    head: str | None
    draft_tokens: int
    is_baseline: bool

    @classmethod
    def of(cls, one: Contender) -> MeasuredServer:
        """Return what results state of a contender."""
        head = None if one.head is None else one.head.name
        return cls(one.name, one.method, head, one.draft_tokens, one.is_baseline)


@dataclass(frozen=True, slots=True)
class ServingRecord:
    """One cell of the results: a server answered all prompts of a data set once, so many at a time.

    Attributes:
        key: identifies the measurement (`ServingCell.key`).
        environment: what the engine ran on.
        code: the code of the fault, if it failed.
        unchecked: what a running server did not show, as phrases.
        requests: in the order of the prompts; empty where nothing was measured.
    """

    key: str
    server: str
    engine: str
    engine_version: str
    environment: Mapping[str, Scalar]
    prompts: CellPrompts
    settings: ServingSettings
    run: int
    verdict: Verdict
    code: str | None
    reason: str
    unchecked: tuple[str, ...]
    requests: tuple[RequestRow, ...]

    @property
    def summary(self) -> Summary | None:
        """What its requests say together."""
        return summary(self.requests)

    @property
    def place(self) -> tuple[str, str, int]:
        """Engine, data set and concurrency: what must be equal before two servers can be compared."""
        return self.engine, self.prompts.name, self.settings.concurrency

    def to_json(self) -> dict[str, Any]:
        """Return the cell as an item of ``cells``."""
        found = self.summary
        return {
            "key": self.key,
            "server": self.server,
            "engine": {"name": self.engine, "version": self.engine_version, "environment": dict(self.environment)},
            "prompts": self.prompts.to_json(),
            "settings": self.settings.to_json(),
            "run": self.run,
            "verdict": self.verdict,
            "code": self.code,
            "reason": self.reason,
            "unchecked": list(self.unchecked),
            "requests": [row.to_json() for row in self.requests],
            "summary": None if found is None else found.to_json(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ServingRecord:
        """Read what `to_json` wrote. Raises InputError (``metrics-counters``) for counters that no run can produce."""
        return cls(
            key=data["key"],
            server=data["server"],
            engine=data["engine"]["name"],
            engine_version=data["engine"]["version"],
            environment=data["engine"]["environment"],
            prompts=CellPrompts.from_json(data["prompts"]),
            settings=ServingSettings.from_json(data["settings"]),
            run=data["run"],
            verdict=data["verdict"],
            code=data["code"],
            reason=data["reason"],
            unchecked=tuple(data["unchecked"]),
            requests=tuple(RequestRow.from_json(row) for row in data["requests"]),
        )


@dataclass(frozen=True, slots=True)
class ServingComparison(PairedComparison):
    """How many times faster a server answered than a baseline, over the same prompts and runs.

    Attributes:
        tokens_per_second, base_tokens_per_second: new tokens per second of request, pooled.
        ratio, ci95: of the two, paired by prompt and run; see `eagle3hub.metrics.speedup`.
        identical: answers with the same tokens, of ``prompts`` times ``runs``.
    """

    engine: str
    dataset: str
    concurrency: int
    server: str
    base: str
    prompts: int
    runs: int
    tokens_per_second: float
    base_tokens_per_second: float
    ratio: float
    ci95: Interval | None
    identical: int


@dataclass(frozen=True, slots=True)
class ServingResults:
    """The results of a serving measurement.

    Attributes:
        runs: how often each server was to answer all prompts.
        cells_planned: how many cells the plan has; ``cells`` holds the measured ones, in the plan's order.
    """

    tool_version: str
    measured_at: str
    target: MeasuredTarget
    heads: tuple[BenchedHead, ...]
    servers: tuple[MeasuredServer, ...]
    runs: int
    cells_planned: int
    cells: tuple[ServingRecord, ...]
    comparisons: tuple[ServingComparison, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the document of schema ``serving``."""
        return {
            "schema": SCHEMA_NAME,
            "tool": {"name": "eagle3hub", "version": self.tool_version},
            "measured_at": self.measured_at,
            "target": self.target.to_json(),
            "heads": [head.to_json() for head in self.heads],
            "servers": [asdict(server) for server in self.servers],
            "runs": self.runs,
            "cells_planned": self.cells_planned,
            "cells": [cell.to_json() for cell in self.cells],
            "comparisons": [one.to_json() for one in self.comparisons],
        }

    @property
    def document(self) -> dict[str, Any]:
        """The document that `to_json` returns, for printing."""
        return self.to_json()

    @classmethod
    def from_json(cls, document: Any, name: str = "the results") -> ServingResults:
        """Check a document against the schema, read it, and compute its numbers again.

        Raises ManifestError for the first place that does not fit the schema (``serving-schema``), and for what does
        not follow from the requests (``serving-numbers``).
        """
        for fault in schema_faults(document, schema("serving")):
            raise ManifestError(f"{name}: {fault.message}", hint=fault.hint, code="serving-schema")
        try:
            cells = tuple(ServingRecord.from_json(cell) for cell in document["cells"])
        except InputError as error:
            raise ManifestError(f"{name}: {error.message}", hint=error.hint, code="serving-numbers") from error
        found = cls(
            tool_version=document["tool"]["version"],
            measured_at=document["measured_at"],
            target=MeasuredTarget.from_json(document["target"]),
            heads=tuple(BenchedHead(**head) for head in document["heads"]),
            servers=tuple(MeasuredServer(**server) for server in document["servers"]),
            runs=document["runs"],
            cells_planned=document["cells_planned"],
            cells=cells,
            comparisons=tuple(ServingComparison.from_json(one) for one in document["comparisons"]),
        )
        _check_numbers(found, [cell["summary"] for cell in document["cells"]], name)
        return found

    @property
    def verdict(self) -> Verdict:
        """The worst verdict among the cells."""
        return worst_verdict([cell.verdict for cell in self.cells])

    def save(self, path: Path) -> None:
        """Write the results as JSON, all or nothing. Raises OutputError."""
        text = json.dumps(self.to_json(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        replace_file(path, escaped_json(text).encode(), parents=True)

    def runs_of(self, server: str, place: tuple[str, str, int]) -> list[ServingRecord]:
        """Return the measured runs of a server at a place (`ServingRecord.place`), in order."""
        found = [c for c in self.cells if c.server == server and c.place == place and c.requests]
        return sorted(found, key=lambda cell: cell.run)

    @property
    def places(self) -> list[tuple[str, str, int]]:
        """The places at which something was measured, in the order of the plan."""
        return list(dict.fromkeys(cell.place for cell in self.cells if cell.requests))


def load_any_results(path: str | Path) -> Results | ServingResults:
    """Read what ``eagle3hub bench`` wrote, with or without ``--concurrency``.

    Raises SourceError if the file cannot be read, and ManifestError, naming file and field, if it does not hold
    results.
    """
    path = Path(path)
    document = read_document(path, "bench", MAX_BYTES)
    if isinstance(document, dict) and document.get("schema") == SCHEMA_NAME:
        return ServingResults.from_json(document, path.name)
    return Results.from_json(document, path.name)


def _check_numbers(results: ServingResults, summaries: Sequence[object], name: str) -> None:
    servers = {server.name: server for server in results.servers}
    heads = {head.name for head in results.heads}
    for server in results.servers:
        if (server.head is None) is (server.method == "eagle3") or (
            server.head is not None and server.head not in heads
        ):
            raise _numbers(f"{name}: the server {server.name!r} names no head of these results, or one too many")
    for i, (cell, stated) in enumerate(zip(results.cells, summaries, strict=True)):
        where = f"{name}: cells[{i}]"
        own = servers.get(cell.server)
        if own is None or own.draft_tokens != cell.settings.draft_tokens:
            raise _numbers(f"{where} is of no server of these results, or of another number of draft tokens")
        if bool(cell.requests) is not (cell.verdict == "pass"):
            raise _numbers(f"{where} is stated as {cell.verdict}, with {len(cell.requests)} requests")
        if cell.requests and len(cell.requests) != cell.prompts.count:
            raise _numbers(
                f"{where} has {len(cell.requests)} requests, not one for each of {cell.prompts.count} prompts"
            )
        if any(not row.sent <= row.first <= row.last for row in cell.requests) or _stands_still(cell):
            raise _numbers(f"{where} has a request that was answered before it was sent, or in no time")
        if own.method in ("eagle3", "mtp") and any(
            row.counts is not None and len(row.counts.accepted_per_position) != own.draft_tokens
            for row in cell.requests
        ):
            raise _numbers(f"{where} has counters of another number of draft tokens")
        if not nearly_equal(cell.to_json()["summary"], stated):
            raise _numbers(f"{where}.summary does not follow from its requests")
    computed = [one.to_json() for one in comparisons(results.cells, results.servers)]
    if not nearly_equal(computed, [one.to_json() for one in results.comparisons]):
        raise _numbers(f"{name}: the comparisons do not follow from the cells")


def _stands_still(cell: ServingRecord) -> bool:
    return any(row.last <= row.sent for row in cell.requests)


def _numbers(message: str) -> ManifestError:
    return ManifestError(
        message, hint="results are written by eagle3hub bench and not edited; measure again", code="serving-numbers"
    )


def record(
    cell: ServingCell,
    version: str,
    *,
    verdict: Verdict,
    reason: str,
    code: str | None = None,
    environment: Mapping[str, Scalar] | None = None,
    unchecked: Sequence[str] = (),
    requests: Sequence[RequestRow] = (),
) -> ServingRecord:
    """Make a cell of the results."""
    return ServingRecord(
        key=cell.key(version),
        server=cell.contender.name,
        engine=cell.engine,
        engine_version=version,
        environment=environment or {},
        prompts=prompts_of(cell.prompts),
        settings=cell.settings,
        run=cell.run,
        verdict=verdict,
        code=code,
        reason=reason,
        unchecked=tuple(unchecked),
        requests=tuple(requests),
    )


def results_of(plan: ServingPlan, cells: Sequence[ServingRecord]) -> ServingResults:
    """Return the results of a plan; cells not measured yet are missing."""
    servers = tuple(map(MeasuredServer.of, plan.contenders))
    return ServingResults(
        tool_version=__version__,
        measured_at=datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        target=plan.target.identity,
        heads=tuple(BenchedHead(head.name, head.layout, head.digest, head.context) for head in plan.heads),
        servers=servers,
        runs=plan.runs,
        cells_planned=plan.size,
        cells=tuple(cells),
        comparisons=tuple(comparisons(cells, servers)),
    )


def comparisons(cells: Sequence[ServingRecord], servers: Sequence[MeasuredServer]) -> list[ServingComparison]:
    """Compare every server with every baseline, wherever both answered the same prompts in the same runs."""
    runs: dict[tuple[str, tuple[str, str, int]], dict[int, ServingRecord]] = {}
    for cell in cells:
        if cell.requests:
            runs.setdefault((cell.server, cell.place), {})[cell.run] = cell
    places = list(dict.fromkeys(cell.place for cell in cells))
    out = []
    for place in places:
        for server in servers:
            for base in servers:
                ours, theirs = runs.get((server.name, place), {}), runs.get((base.name, place), {})
                both = sorted(ours.keys() & theirs.keys())
                same = both and ours[both[0]].prompts.sha256 == theirs[both[0]].prompts.sha256
                if server.is_baseline or not base.is_baseline or not same:
                    continue
                out.append(_compared(place, server.name, base.name, [(ours[run], theirs[run]) for run in both]))
    return out


def _compared(
    place: tuple[str, str, int], server: str, base: str, pairs: Sequence[tuple[ServingRecord, ServingRecord]]
) -> ServingComparison:
    found: Speedup = speedup(
        *([[(r.new_tokens, r.latency) for r in one.requests] for one in side] for side in zip(*pairs, strict=True))
    )
    alike = sum(
        a.tokens_sha256 == b.tokens_sha256
        for one, other in pairs
        for a, b in zip(one.requests, other.requests, strict=True)
    )
    return ServingComparison(
        engine=place[0],
        dataset=place[1],
        concurrency=place[2],
        server=server,
        base=base,
        prompts=found.prompts,
        runs=found.runs,
        tokens_per_second=found.tokens_per_second,
        base_tokens_per_second=found.base_tokens_per_second,
        ratio=found.ratio,
        ci95=found.ci95,
        identical=alike,
    )
