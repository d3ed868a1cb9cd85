"""Measure the cells of a benchmark, with the reference or on an engine."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from eagle3hub import metrics
from eagle3hub._version import __version__
from eagle3hub.benchmarking.plan import BenchOptions, Cell, CellGroup
from eagle3hub.benchmarking.run import CellResult, Measure, PromptCounts, Throughput
from eagle3hub.checkpoint.folder import open_checkpoint
from eagle3hub.engines import get_engine
from eagle3hub.engines.base import Engine, EngineFailure, EngineRun, LoadReport, RunSpec
from eagle3hub.engines.endpoints import attach
from eagle3hub.engines.environments import version_in
from eagle3hub.engines.preflight import told_layers
from eagle3hub.layouts import open_head
from eagle3hub.system.progress import Progress, silent, starting_torch
from eagle3hub.validation.derive import expected_taps
from eagle3hub.validation.engine_runner import (
    EngineRunner,
    PreflightCheck,
    engine_for,
    preflight_check,
    stops,
)
from eagle3hub.validation.gates import compare, judge
from eagle3hub.validation.options import REFERENCE
from eagle3hub.validation.reference_runner import require_packages
from eagle3hub.validation.target import with_room

if TYPE_CHECKING:
    from eagle3hub.checkpoint.folder import Checkpoint
    from eagle3hub.head import Head
    from eagle3hub.reference.target import TargetModel

_LOADED = LoadReport(checked=True)


class BenchRunner:
    """The `Runner` that measures with the reference and on engines.

    The reference loads a target once, generates its texts once per data set and temperature, and replays a head at
    every K in one pass. An engine runs each of its cells; at temperature 0 it also runs the target alone, once per
    group.
    """

    def __init__(self, options: BenchOptions, progress: Progress = silent) -> None:
        self._options = options
        self._progress = progress
        self._target: tuple[object, TargetModel] | None = None
        self._baselines: dict[str, EngineRun] = {}
        self._versions: dict[str, str] = {}
        self._checks: dict[tuple[str, str], PreflightCheck] = {}

    def version(self, engine: str) -> str:
        """See `Runner.version`. The reference's version is that of this package."""
        if engine == REFERENCE:
            require_packages()
            return __version__
        if engine in self._options.endpoints:
            return attach(engine, self._options.endpoints[engine]).version
        if engine not in self._versions:
            self._versions[engine] = get_engine(engine, version_in(engine, self._options.engine_python)).version
        return self._versions[engine]

    @contextmanager
    def group(self, group: CellGroup) -> Iterator[Measure]:
        """See `Runner.group`."""
        yield self._by_reference(group) if group.engine == REFERENCE else self._on_engine

    def _by_reference(self, group: CellGroup) -> Measure:
        with starting_torch(self._progress, "reference: "):
            from eagle3hub.reference.measure import ReplayedHead, Speech, environment, replay_texts, speak
        from eagle3hub.reference.replay import ReplaySettings
        from eagle3hub.reference.tree import TreeShape

        first = group.cells[0].common
        target = self._loaded(group)
        rendering = first.engine_settings.chat_template
        prompts = [target.prompt(prompt, rendering) for prompt in group.prompts.prompts]
        speech = Speech(first.max_new_tokens, group.longest_draft, group.temperature, first.seed)
        texts = speak(target, prompts, speech, progress=self._progress)
        found: dict[object, tuple[dict[int, list[metrics.Rounds]], float]] = {}

        def measure(cell: Cell) -> CellResult:
            name, common = cell.head.name, cell.common
            tree = None
            key: object = name
            if common.topk is not None and common.num_draft_tokens is not None:
                tree = TreeShape(cell.draft_tokens, common.topk, common.num_draft_tokens)
                key = name, tree  # a small tree is not the start of a deeper one
            if key not in found:
                begun = time.monotonic()
                every = [other.draft_tokens for other in group.cells if other.head.name == name]
                ks = every if tree is None else [cell.draft_tokens]
                head = _head(cell)
                target.fit(head)
                settings = ReplaySettings(max(ks), common.drafting, cell.temperature, common.seed)
                rounds = replay_texts(
                    target,
                    ReplayedHead(head, cell.head.digest, target.device, target.dtype),
                    texts,
                    settings,
                    ks,
                    tree=tree,
                    progress=self._progress,
                )
                found[key] = rounds, (time.monotonic() - begun) / len(ks)
            rounds, seconds = found[key]
            rows = tuple(
                PromptCounts(text.prompt_length, text.response_length, metrics.counts_of(r))
                for text, r in zip(texts, rounds[cell.draft_tokens], strict=True)
            )
            judged = judge(
                load=_LOADED,
                expected_taps=None,
                lossless=None,
                dtype=cell.common.dtype,
                acceptance=metrics.acceptance_if_any([row.counts for row in rows]),
                min_acceptance_length=cell.common.min_acceptance_length,
            )
            return CellResult(judged.verdict, judged.reason, rows, environment(target.device), None, round(seconds, 3))

        return measure

    def _loaded(self, group: CellGroup) -> TargetModel:
        from eagle3hub.reference.target import TargetModel

        common = group.cells[0].common
        key = (group.target.source, common.device, common.dtype)
        if self._target is None or self._target[0] != key:
            self._target = None  # free it before the next one is loaded
            self._progress("reference: loading the target")
            loaded = TargetModel.load(
                group.target.source,
                name=group.target.name,
                device=common.device,
                dtype=common.dtype,
                device_map=self._options.device_map,
                batch_tokens=self._options.batch_tokens,
            )
            self._target = key, loaded
        return self._target[1]

    def _on_engine(self, cell: Cell) -> CellResult:
        self._target = None  # leave the machine to the engine
        common = cell.common
        checkpoint = open_checkpoint(cell.head.source)
        head = open_head(checkpoint, target=cell.target.source)
        head.raise_for_errors()
        job = RunSpec(
            target=cell.target.source,
            head=checkpoint.folder,
            prompts=cell.prompts,
            device=common.device,
            dtype=common.dtype,
            draft_tokens=cell.draft_tokens,
            topk=common.topk or 1,
            num_draft_tokens=common.num_draft_tokens,
            max_new_tokens=common.max_new_tokens,
            temperature=cell.temperature,
            seed=common.seed,
            parallel_drafting=head.semantics.parallel_drafting,
            aux_layers=told_layers(head, "trtllm"),
            engine_settings=common.engine_settings,
        )
        job = with_room(job, cell.target)
        engine, python = engine_for(cell.engine, job, self._options.engine_python, self._options.endpoints)
        stopped = None if self._options.run_anyway else self._foreseen(cell, engine, checkpoint, head)
        if stopped is not None:
            return CellResult("fail", stopped)
        begun = time.monotonic()
        runner = EngineRunner(
            engine, job, checkpoint.folder.name, cell.target, python, self._options.timeout, self._progress
        )
        ran = runner.run(self._baselines)
        run, base, seconds = ran.outcome, ran.base, round(time.monotonic() - begun, 3)
        if isinstance(run, EngineFailure):
            return CellResult(run.verdict, run.reason, seconds=seconds)
        alone = [None] * len(run.prompts) if base is None else [(len(p.tokens), p.seconds) for p in base.prompts]
        rows = tuple(
            PromptCounts(result.prompt_tokens, len(result.tokens), result.counts, result.seconds, without)
            for result, without in zip(run.prompts, alone, strict=True)
            if result.counts is not None
        )
        judged = judge(
            load=run.load or LoadReport(checked=False),
            expected_taps=expected_taps(head),
            lossless=None if base is None else compare(job.question_ids, base, run).judged(common.dtype),
            dtype=common.dtype,
            acceptance=metrics.acceptance_if_any([row.counts for row in rows]),
            min_acceptance_length=common.min_acceptance_length,
            unchecked=run.unchecked,
        )
        speed = Throughput(
            None if base is None else base.tokens_per_second,
            run.tokens_per_second,
            f"one sequence at a time on {run.environment.get('processor', 'a running server')}, {common.dtype}",
        )
        return CellResult(judged.verdict, judged.reason, rows, run.environment, speed, seconds)

    def _foreseen(self, cell: Cell, engine: Engine, checkpoint: Checkpoint, head: Head) -> str | None:
        """Return why the engine need not start on these files; None for a server, whose files are unknown."""
        if cell.engine in self._options.endpoints:
            return None
        key = (cell.head.digest, cell.target.source)
        if key not in self._checks:
            devices = cell.common.engine_settings.tensor_parallel
            self._checks[key] = preflight_check(checkpoint, head, cell.target.source, devices)
        return stops(self._checks[key](cell.engine, engine.version, cell.common.device))


def _head(cell: Cell) -> Head:
    head = open_head(cell.head.source, target=cell.target.source)
    head.raise_for_errors()
    return head
