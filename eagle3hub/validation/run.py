"""Validate a head: check its files, replay it, run it on engines with and without it, and derive the verdict."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, replace
from pathlib import Path

from eagle3hub._version import __version__
from eagle3hub.address import HubAddress, head_address
from eagle3hub.checkpoint.digest import folder_digest
from eagle3hub.checkpoint.folder import Checkpoint, open_checkpoint
from eagle3hub.engines import get_engine
from eagle3hub.engines.base import DTYPES, Engine, EngineFailure, EngineRun, RunSpec
from eagle3hub.engines.options import template_in_words
from eagle3hub.engines.preflight import told_layers
from eagle3hub.engines.specs import DEVICES, default_version, engine_title, version_data
from eagle3hub.errors import UnavailableError
from eagle3hub.head import Head
from eagle3hub.head.target import require_files, require_weights
from eagle3hub.layouts import open_head
from eagle3hub.prompts import PromptSet, load_prompts
from eagle3hub.system.progress import Progress, silent
from eagle3hub.validation.derive import ALWAYS, RanEngine, counts_within_response, entry_of, head_name, verdict_of
from eagle3hub.validation.engine_runner import Cache, EngineRunner, device_of, engine_for, preflight_check, stops
from eagle3hub.validation.gates import COLLAPSE
from eagle3hub.validation.measurement import load_reference
from eagle3hub.validation.options import OWN_PROMPTS, REFERENCE, ValidateOptions
from eagle3hub.validation.reference_runner import HashedHead, ReferenceRunner, require_packages
from eagle3hub.validation.report import Expected, MeasuredHead, MeasuredPrompts, Report, Settings, StaticChecks
from eagle3hub.validation.target import (
    Target,
    check_images,
    check_rendering,
    identify_target,
    load_prompts_for,
    with_room,
)

DEFAULTS = ValidateOptions()


def validate(
    head_source: str | Path,
    target: str | Path,
    options: ValidateOptions = DEFAULTS,
    *,
    cache: Cache | None = None,
    progress: Progress = silent,
) -> Report:
    """Validate a head against its target, by the reference and on engines.

    Args:
        head_source: where the head is (`parse_address`), in any known layout.
        target: where the target is (`target_address`).
        cache: work on this target that another head has done already.

    Returns:
        The report, whatever its verdict. A head with errors is not run: its report has no engines.

    Raises:
        UsageError, InputError: unreadable head, target or prompts, a target that does not fit.
        UnavailableError: the only engine asked for is not installed, or not for this device.
    """
    cache = cache if cache is not None else Cache()
    names = options.engines
    at = head_address(head_source)
    earlier = None if options.acceptance_reference is None else load_reference(options.acceptance_reference)
    prompts = (
        None if options.contexts or options.second_turns else _prompts(options).with_system(options.system_prompt)
    )
    require_files(target)  # before torch is imported
    identity = identify_target(target, options.target_name, progress)
    check_rendering(identity, options.engine_settings.chat_template, progress)
    if prompts is not None:
        _refuse_images(prompts, options)
        check_images(identity, prompts, progress)
    if prompts is None:  # they depend on the target's tokenizer
        require_packages()
        (prompts,) = load_prompts_for(
            identity,
            options.prompts,
            num_prompts=options.num_prompts,
            contexts=options.contexts,
            system_prompt=options.system_prompt,
            template_options=options.engine_settings.chat_template,
            new_tokens=options.max_new_tokens + options.draft_tokens,
            after=options.second_turns,
            progress=progress,
        )
    progress("reading the head")
    checkpoint = open_checkpoint(at if isinstance(at, HubAddress) else at.path.resolve(), progress=progress)
    head = open_head(checkpoint, target=identity.source)
    for problem in head.problems:
        if problem.code == "target-mismatch":  # nothing about the head: another target was meant
            raise problem.to_error()
    job = _job(checkpoint, head, identity, prompts, options)
    name = checkpoint.source if isinstance(at, HubAddress) else checkpoint.folder.name
    report = _frame(checkpoint, head, identity, job, options, name=name)
    if report.static.verdict != "pass":
        return report
    hashed = original = HashedHead(head, report.head.digest)
    if options.reference_head is not None:
        other = open_checkpoint(options.reference_head, progress=progress)
        original = HashedHead(open_head(other, target=identity.source), folder_digest(other.folder)[0])
    reference = None
    if REFERENCE in names:
        require_packages()
        if options.reference.hidden_states is None:
            require_weights(str(target))
        reference = ReferenceRunner(job, identity, hashed, original, options.reference, cache, progress)
    foreseen = preflight_check(checkpoint, head, identity.source, job.engine_settings.tensor_parallel)
    starts = [_start(name, job, options) for name in names if name != REFERENCE]
    ran: dict[str, RanEngine] = {}
    for start in starts:
        runner = _Runner(job, head_name(report.head.source), identity, options, cache, progress)
        if start.name in options.endpoints:
            ran[start.name] = replace(runner.run(start, None), device=device_of(start.engine))
            continue
        verdict = foreseen(start.name, start.engine.version, job.device)
        stopped = None if options.run_anyway else stops(verdict)
        ran[start.name] = replace(runner.run(start, stopped), preflight=verdict)
    if reference is not None:
        ran[REFERENCE] = reference.run()
        own = ran[REFERENCE].outcome
        if reference.generates_greedily and isinstance(own, EngineRun):
            for name in options.endpoints:
                ran[name] = replace(ran[name], own_output=own)
    margins = None if reference is None else reference.margins
    entries = [
        entry_of(ran[name], job, head, report, _expected(ran[name], reference), earlier, margins) for name in names
    ]
    report = replace(report, engines=tuple(entries))
    return replace(report, verdict=verdict_of(report))


def _prompts(options: ValidateOptions) -> PromptSet:
    """The prompts asked for; they may be the texts of hidden states."""
    if options.prompts != OWN_PROMPTS:
        return load_prompts(options.prompts, options.num_prompts)
    from eagle3hub.reference.dumps import dumped_prompts

    assert options.reference.hidden_states is not None  # the options have been checked
    return dumped_prompts(options.reference.hidden_states, OWN_PROMPTS, options.num_prompts)


def _refuse_images(prompts: PromptSet, options: ValidateOptions) -> None:
    """Raise UsageError (``usage-images``) for options whose files hold texts alone, and prompts with images."""
    given = options.reference
    for option, value in (
        ("--responses", given.responses),
        ("--hidden-states", given.hidden_states),
        ("--save-hidden-states", given.save_hidden_states),
    ):
        if value is not None:
            prompts.refuse_images(option)


def _job(checkpoint: Checkpoint, head: Head, target: Target, prompts: PromptSet, options: ValidateOptions) -> RunSpec:
    started = [name for name in options.engines if name != REFERENCE and name not in options.endpoints]
    job = RunSpec(
        target=target.source,
        head=checkpoint.folder,
        prompts=prompts,
        device=next(d for d in DEVICES if d == options.device),
        dtype=next(d for d in DTYPES if d == options.dtype),
        draft_tokens=options.draft_tokens,
        topk=options.topk,
        num_draft_tokens=options.num_draft_tokens,
        max_new_tokens=options.max_new_tokens,
        temperature=options.temperature,
        seed=options.seed,
        parallel_drafting=head.semantics.parallel_drafting,
        aux_layers=told_layers(head, "trtllm"),
        engine_settings=options.engine_settings.of_run(started),
    )
    return with_room(job, target)


def _frame(
    checkpoint: Checkpoint, head: Head, target: Target, job: RunSpec, options: ValidateOptions, *, name: str
) -> Report:
    """The report before any engine has run: what is measured, how, and what the files alone say."""
    digest, files = folder_digest(checkpoint.folder)
    failed = any(problem.severity == "error" for problem in head.problems)
    static = StaticChecks("fail" if failed else "pass", tuple(head.problems), tuple(head.assumptions))
    return Report(
        tool_version=__version__,
        measured_at=datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        verdict=static.verdict,
        head=MeasuredHead(name, head.layout, digest, tuple(files)),
        target=target.identity,
        prompts=MeasuredPrompts.from_json(job.prompts.to_json()),
        settings=Settings(
            draft_tokens=job.draft_tokens,
            topk=job.topk,
            num_draft_tokens=job.verified_tokens,
            temperature=job.temperature,
            max_new_tokens=job.max_new_tokens,
            seed=job.seed,
            drafting=options.reference.drafting,
            dtype=job.dtype,
            device=job.device,
            min_acceptance_length=options.min_acceptance_length,
            collapse_acceptance_length=COLLAPSE,
            chat_template=template_in_words(job.engine_settings.chat_template),
            engine_settings=job.engine_settings,
            system_prompt=options.system_prompt,
            **ALWAYS,
        ),
        static=static,
    )


@dataclass(frozen=True, slots=True)
class _Start:
    """An engine that is about to run, with its interpreter; or why it cannot run."""

    engine: Engine
    python: Path | None
    problem: UnavailableError | None

    @property
    def name(self) -> str:
        return self.engine.name


def _start(name: str, job: RunSpec, options: ValidateOptions) -> _Start:
    """Find an engine before anything is run; where it is the only one asked for, its absence is an error."""
    try:
        return _Start(*engine_for(name, job, options.engine_python, options.endpoints), None)
    except UnavailableError as error:
        if len(options.engines) == 1:
            raise
        return _Start(get_engine(name), None, error)


@dataclass(frozen=True, slots=True)
class _Runner:
    """Runs the engines of one validation."""

    job: RunSpec
    head: str
    target: Target
    options: ValidateOptions
    cache: Cache
    progress: Progress

    def run(self, start: _Start, stopped: str | None) -> RanEngine:
        """Run an engine, unless it cannot run here or there is a reason (``stopped``) not to start it."""
        engine = start.engine
        if start.python is None:
            reason = start.problem.message if start.problem is not None else "it cannot run"
            return RanEngine(start.name, engine.version, EngineFailure(reason, "unavailable"))
        if stopped is not None:
            return RanEngine(start.name, engine.version, EngineFailure(stopped))
        runner = EngineRunner(
            engine, self.job, self.head, self.target, start.python, self.options.timeout, self.progress
        )
        return runner.run(self.cache.baselines)


def _expected(ran: RanEngine, reference: ReferenceRunner | None) -> Expected | None:
    """What the reference counts on a run's own texts; None where the run is not held against the reference."""
    run = ran.outcome
    if isinstance(run, EngineFailure) or reference is None:
        return None
    if ran.engine == REFERENCE and not reference.has_original:
        return None
    wrong = None if ran.engine == REFERENCE else version_data(ran.engine).drafts_wrongly
    if wrong and run.version == default_version(ran.engine):
        return Expected(unknown=f"{engine_title(ran.engine)} {run.version} {wrong}")
    return reference.expects(run, within_response=counts_within_response(ran.engine))
