"""Measure a serving plan, one server after the other; keep every cell, and measure nothing twice."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from eagle3hub.benchmarking.plan import BenchOptions
from eagle3hub.benchmarking.serving.load import Load, LoadFault, load_generator, send
from eagle3hub.benchmarking.serving.plan import Contender, ServingCell, ServingOptions, ServingPlan, serving_plan
from eagle3hub.benchmarking.serving.results import (
    RequestRow,
    ServingRecord,
    ServingResults,
    load_any_results,
    record,
    results_of,
)
from eagle3hub.benchmarking.session import RESULTS, require_writable
from eagle3hub.checkpoint.folder import open_checkpoint
from eagle3hub.engines import get_engine
from eagle3hub.engines.base import RunSpec, Scalar
from eagle3hub.engines.endpoints import Endpoint, attach
from eagle3hub.engines.endpoints.dialects import UnexpectedAnswer
from eagle3hub.engines.environments import diagnose, version_in
from eagle3hub.engines.servers import Server, Serves, free_port, started
from eagle3hub.engines.specs import engine_title
from eagle3hub.errors import InputError, OutputError, UnavailableError
from eagle3hub.layouts import open_head
from eagle3hub.metrics import Counts
from eagle3hub.system.progress import Progress, silent
from eagle3hub.validation.derive import tokens_sha256
from eagle3hub.validation.engine_runner import interpreter, preflight_check, stops
from eagle3hub.validation.target import kv_cache_gib, with_room

DEFAULTS = ServingOptions()
_START_SECONDS = 1800.0
Send = Callable[[Load], Sequence[Any]]


@dataclass(frozen=True, slots=True)
class Answered:
    """What a server made of a cell: its rows, what it ran on, and what it did not show."""

    requests: tuple[RequestRow, ...]
    environment: Mapping[str, Scalar] = field(default_factory=dict)
    unchecked: tuple[str, ...] = ()


class CellFault(Exception):
    """A cell could not be measured; ``code`` names the fault, and the message is one sentence."""

    def __init__(self, code: str, says: str) -> None:
        super().__init__(says)
        self.code = code
        self.says = says


class Measure(Protocol):
    """Measures one cell on the server that is up."""

    def __call__(self, cell: ServingCell) -> Answered:
        """Measure a cell. Raises CellFault."""


class Servers(Protocol):
    """Brings up the servers of a plan, one at a time."""

    def version(self, engine: str) -> str:
        """Return the version of ``engine`` that will run. Raises UnavailableError."""

    def up(self, engine: str, contender: Contender, cells: Sequence[ServingCell]) -> AbstractContextManager[Measure]:
        """Bring up a server for these cells, and end it. Raises UnavailableError, InputError and CellFault."""


class RealServers:
    """The `Servers` that start engines on this machine, or attach to servers that run, and load them with AIPerf."""

    def __init__(self, plan: ServingPlan, progress: Progress = silent) -> None:
        self._plan = plan
        self._progress = progress
        self._environments: dict[str, Mapping[str, Scalar]] = {}

    def version(self, engine: str) -> str:
        """See `Servers.version`."""
        options = self._plan.options
        if engine in options.endpoints:
            return attach(engine, options.endpoints[engine]).version
        return get_engine(engine, version_in(engine, options.engine_python)).version

    @contextmanager
    def up(self, engine: str, contender: Contender, cells: Sequence[ServingCell]) -> Iterator[Measure]:
        """See `Servers.up`."""
        aiperf = load_generator(self._progress).python
        spec = self._spec(contender, cells)
        if contender.url is not None:
            yield self._measure(engine, spec, contender.url, None, {}, aiperf)
            return
        server = get_engine(engine, version_in(engine, self._plan.options.engine_python))
        assert isinstance(server, Serves), "serving_plan takes no other engine"
        self._foresee(engine, server.version, contender, spec)
        why = server.unable(spec)
        if why is not None:
            raise CellFault("engine-unable", why)
        python = interpreter(server, spec.device, self._plan.options.engine_python)
        environment = self._environment(engine, spec.device, python)
        port = free_port()
        command, variables = server.server(spec, python, port)
        seconds = max(self._plan.options.timeout, _START_SECONDS)
        title = engine_title(engine)
        with started(title, command, variables, port, seconds=seconds, progress=self._progress) as running:
            yield self._measure(engine, spec, running.url, running, environment, aiperf)

    def _spec(self, contender: Contender, cells: Sequence[ServingCell]) -> RunSpec:
        options, target, prompts = self._plan.options, self._plan.target, [cell.prompts for cell in cells]
        head = None if contender.head is None else open_head(contender.head.source, target=target.source)
        spec = RunSpec(
            target=target.source,
            head=None if contender.head is None else Path(contender.head.source),
            prompts=prompts[0],
            device=options.settings.device,
            dtype=options.settings.dtype,
            draft_tokens=contender.draft_tokens or 1,
            max_new_tokens=options.max_new_tokens,
            temperature=self._plan.temperature,
            seed=options.seed,
            parallel_drafting=head is not None and head.semantics.parallel_drafting,
            engine_settings=options.engine_settings,
            baseline="none" if contender.head is not None else contender.method,
            concurrency=self._plan.seats,
            serves=True,
        )
        tokens = max(with_room(replace(spec, prompts=one), target).max_model_len for one in prompts)
        room = kv_cache_gib(target, tokens * self._plan.seats)
        return replace(spec, max_model_len=tokens, kv_cache_gib=room)

    def _foresee(self, engine: str, version: str, contender: Contender, spec: RunSpec) -> None:
        """Raise CellFault where the engine would refuse a head's files, or serve them silently wrong."""
        if contender.head is None or self._plan.options.run_anyway:
            return
        checkpoint = open_checkpoint(contender.head.source)
        head = open_head(checkpoint, target=spec.target)
        why = stops(preflight_check(checkpoint, head, spec.target)(engine, version, spec.device))
        if why is not None:
            raise CellFault("serving-preflight", why)

    def _environment(self, engine: str, device: str, python: Path) -> Mapping[str, Scalar]:
        if engine not in self._environments:
            found = next((d for d in diagnose([engine], {engine: python}) if d.device == device), None)
            self._environments[engine] = (
                {}
                if found is None
                else {
                    "processor": found.processor,
                    "framework": found.framework,
                    "python": found.python_version,
                    "threads": os.cpu_count() if device == "cpu" else None,
                }
            )
        return self._environments[engine]

    def _measure(
        self,
        engine: str,
        spec: RunSpec,
        url: str,
        server: Server | None,
        environment: Mapping[str, Scalar],
        aiperf: Path,
    ) -> Measure:
        endpoint = attach(engine, url, drafts=spec.method != "none")
        unchecked = () if server is not None else endpoint.compare_settings(spec)
        head_runs = self.version(engine)
        if server is None and endpoint.version != head_runs:
            raise CellFault(
                "serving-version",
                f"the baseline's server is {engine_title(engine)} {endpoint.version}, and the head's is {head_runs}: "
                "what is compared would be two versions",
            )

        def measure(cell: ServingCell) -> Answered:
            job = replace(spec, prompts=cell.prompts)
            rows = measured_rows(
                cell, endpoint, job, self._plan.options.timeout, lambda load: send(load, aiperf), server
            )
            return Answered(rows, environment, unchecked)

        return measure


def measured_rows(
    cell: ServingCell, endpoint: Endpoint, spec: RunSpec, timeout: float, load: Send, server: Server | None = None
) -> tuple[RequestRow, ...]:
    """Send the prompts of a cell, and read the answers; ``load`` sends them.

    Raises CellFault: ``serving-stopped`` if the server ended or the traffic stopped, ``serving-answer`` if an answer
    cannot be used.
    """
    prompts = cell.prompts.prompts
    asked = Load(
        url=endpoint.url,
        requests=[endpoint.streamed_request(spec, prompt) for prompt in prompts],
        concurrency=cell.settings.concurrency,
        warmup=cell.settings.warmup,
        tokenizer=cell.target.source,
        timeout=timeout,
        deadline=timeout * 2,
    )
    try:
        exchanges = load(asked)
    except LoadFault as fault:
        gone = None if server is None else server.fault()
        raise CellFault("serving-stopped", gone or f"the server stopped answering: {fault}") from fault
    begun = min(exchange.sent for exchange in exchanges)
    rows = []
    for number, (prompt, exchange) in enumerate(zip(prompts, exchanges, strict=True), 1):
        try:
            got = endpoint.read_stream(exchange.pieces, cell.settings.draft_tokens)
            counts = None if got.counters is None or spec.method == "none" else Counts.from_json(got.counters)
        except (UnexpectedAnswer, InputError) as fault:
            says = fault.says if isinstance(fault, UnexpectedAnswer) else fault.message
            raise CellFault("serving-answer", f"the answer to prompt {number} cannot be used: {says}") from fault
        rows.append(
            RequestRow(
                question_id=prompt.question_id,
                category=prompt.category,
                prompt_tokens=got.prompt_tokens,
                new_tokens=len(got.tokens),
                tokens_sha256=tokens_sha256(got.tokens),
                sent=round(exchange.sent - begun, 6),
                first=round(got.first - begun, 6),
                last=round(got.last - begun, 6),
                counts=counts,
            )
        )
    return tuple(rows)


# Run a plan that can be interrupted: every finished cell is saved, and a later run continues


def serving(
    heads: Sequence[str],
    target: str,
    options: BenchOptions,
    asked: ServingOptions = DEFAULTS,
    *,
    folder: Path | None = None,
    resume: bool = False,
    progress: Progress = silent,
) -> ServingResults:
    """Measure speed and acceptance of heads and baselines under load.

    Args:
        heads: ``FOLDER``, ``hf://owner/name`` or ``NAME=`` one of these. target: folder or Hub id.
        folder, resume: as for `run_serving`.

    Raises whatever `serving_plan` and `run_serving` raise.
    """
    plan = serving_plan(heads, target, options, asked, progress)
    return run_serving(plan, RealServers(plan, progress), folder=folder, resume=resume, progress=progress)


def run_serving(
    plan: ServingPlan,
    servers: Servers,
    *,
    folder: Path | None = None,
    resume: bool = False,
    progress: Progress = silent,
) -> ServingResults:
    """Run a plan and return its complete results.

    A server that does not start, or stops, fails its remaining cells, and the next server is measured.

    Args:
        folder: where ``results.json`` is written again after every cell; None to write nothing.
        resume: take from the folder's ``results.json`` each cell that is the same measurement. Cells that failed are
            measured again.

    Raises OutputError as `eagle3hub.benchmarking.session.run_bench` does, and InputError if a running server serves
    something else.
    """
    records: dict[tuple[object, ...], ServingRecord] = {}
    if folder is not None:
        require_writable(folder)
        records = _earlier(plan, servers, folder / RESULTS, resume)
    order = [cell.place for _, _, cells in plan.groups() for cell in cells]

    def so_far() -> ServingResults:
        return results_of(plan, [records[place] for place in order if place in records])

    def keep(cell: ServingCell, found: ServingRecord) -> None:
        records[cell.place] = found
        if folder is not None:
            so_far().save(folder / RESULTS)

    for engine, contender, cells in plan.groups():
        left = [cell for cell in cells if cell.place not in records]
        if left:
            progress(f"{contender.name} on {engine}", (plan.size - len(left)) / plan.size)
            _group(servers, engine, contender, left, keep, progress, plan.size)
    return ServingResults.from_json(so_far().to_json())


def _group(
    servers: Servers,
    engine: str,
    contender: Contender,
    cells: Sequence[ServingCell],
    keep: Callable[[ServingCell, ServingRecord], None],
    progress: Progress,
    size: int,
) -> None:
    left, version = list(cells), "unknown"

    def fail(code: str, says: str, *, unavailable: bool = False) -> None:
        verdict: Any = "unavailable" if unavailable else "fail"
        for cell in left:
            keep(cell, record(cell, version, verdict=verdict, reason=says, code=code))

    try:
        version = servers.version(engine)
        with servers.up(engine, contender, cells) as measure:
            for cell in cells:
                begun = time.monotonic()
                progress(str(cell), 1 - len(left) / size)
                got = measure(cell)
                left.remove(cell)
                keep(cell, _measured(cell, version, got, time.monotonic() - begun))
    except UnavailableError as error:
        fail(error.code, error.message, unavailable=True)
    except CellFault as fault:
        fail(fault.code, fault.says)


def _measured(cell: ServingCell, version: str, got: Answered, seconds: float) -> ServingRecord:
    open_points = "" if not got.unchecked else f"; not checked of the server: {', '.join(got.unchecked)}"
    return record(
        cell,
        version,
        verdict="pass",
        reason=f"{len(got.requests)} requests were answered in {seconds:.1f} seconds{open_points}",
        environment=got.environment,
        unchecked=got.unchecked,
        requests=got.requests,
    )


def _earlier(plan: ServingPlan, servers: Servers, path: Path, resume: bool) -> dict[tuple[object, ...], ServingRecord]:
    """Return the cells of earlier results that this plan need not measure again, by their place in the plan."""
    if not path.exists():
        return {}
    if not resume:
        raise OutputError(
            f"{path} holds the results of another run",
            hint="go on with it with --resume, or choose another folder",
            code="output-exists",
        )
    found = load_any_results(path)
    if not isinstance(found, ServingResults):
        raise OutputError(
            f"{path} holds results without --concurrency, which a serving measurement does not go on with",
            hint="choose another folder",
            code="output-other-results",
        )
    measured = {cell.key: cell for cell in found.cells if cell.requests}
    versions = {engine: servers.version(engine) for engine in plan.engines} if measured else {}
    records: dict[tuple[object, ...], ServingRecord] = {}
    for engine, contender, cells in plan.groups():
        for cell in cells if versions else ():
            known = measured.pop(cell.key(versions[engine]), None)
            if known is not None:
                prompts = replace(known.prompts, name=cell.prompts.name)
                records[cell.place] = replace(known, server=contender.name, prompts=prompts)
    if measured:
        lost = next(iter(measured.values()))
        raise OutputError(
            f"{path} holds a cell that this run would not measure, and would lose: {lost.server} on "
            f"{lost.prompts.name}, {lost.settings.concurrency} at a time, run {lost.run}, {lost.engine} "
            f"{lost.engine_version}",
            hint="ask for the same servers, data sets, concurrencies, runs and settings, or more; or choose another "
            "folder",
            code="output-other-results",
        )
    return records
