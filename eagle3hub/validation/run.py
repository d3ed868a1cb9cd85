"""Validate a head: static checks, the reference, engines with and without the head, then the rules."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eagle3hub._version import __version__
from eagle3hub.address import HubAddress, head_address
from eagle3hub.checkpoint.digest import folder_digest
from eagle3hub.checkpoint.folder import open_checkpoint
from eagle3hub.engines import get_engine
from eagle3hub.engines.base import DTYPES, Engine, EngineFailure, EngineRun, Job, Verdict, worst
from eagle3hub.errors import UnavailableError
from eagle3hub.head.target import require_files, require_weights
from eagle3hub.layouts import open_head
from eagle3hub.metrics import Counts
from eagle3hub.prompts import load_prompts
from eagle3hub.system.progress import Progress, silent
from eagle3hub.validation.derive import ALWAYS, Measured, counts_within_response, entry_of, head_name
from eagle3hub.validation.engine_runner import Kept, Trial, device_of, engine_for, outlook, stops
from eagle3hub.validation.gates import COLLAPSE
from eagle3hub.validation.measurement import load_reference
from eagle3hub.validation.options import REFERENCE, check_options, check_original, check_tree, engine_names
from eagle3hub.validation.reference_runner import Referee, ReferenceOptions, Trained, require_packages
from eagle3hub.validation.report import SCHEMA_NAME, Report
from eagle3hub.validation.target import Target, identify_target, with_room

DEFAULT_TIMEOUT = 1800.0
DEFAULTS = ReferenceOptions()


def validate(
    head_source: str | Path,
    *,
    target: str | Path,
    engine: str | Sequence[str] = REFERENCE,
    device: str = "cpu",
    dtype: str = "float32",
    prompts: str | Path = "smoke",
    num_prompts: int | None = None,
    max_new_tokens: int = 64,
    draft_tokens: int = 3,
    topk: int = 1,
    num_draft_tokens: int | None = None,
    temperature: float = 0.0,
    seed: int = 0,
    min_acceptance_length: float | None = None,
    acceptance_reference: str | Path | None = None,
    reference_head: str | Path | None = None,
    reference: ReferenceOptions = DEFAULTS,
    engine_python: Mapping[str, str | Path] | None = None,
    timeout: float = DEFAULT_TIMEOUT,
    run_anyway: bool = False,
    endpoints: Mapping[str, str] | None = None,
    target_name: str | None = None,
    kept: Kept | None = None,
    progress: Progress = silent,
) -> Report:
    """Validate a head against its target, by the reference and on engines.

    Args:
        head_source: where the head is (`parse_address`), in any known layout.
        target: where the target is (`target_address`).
        engine: ``reference``, an engine, or several. With the reference among them, every engine is held to it.
        prompts: name of a prompt set, or a JSON Lines file; ``num_prompts`` takes the first so many.
        draft_tokens: K of a chain, or the depth of a tree. max_new_tokens: per prompt.
        topk, num_draft_tokens: with ``topk`` above 1, SGLang's trees: branches per token, and nodes, root included.
        min_acceptance_length: bar for the acceptance length; without it only the collapse line counts.
        acceptance_reference: file of an earlier measurement (``acceptance.reference.yaml``) to hold this one against.
        reference_head: the head whose replay engines are held against, in place of the head itself: the original of
            a converted head shows also what is wrong with the conversion.
        reference: how the reference measures.
        engine_python: interpreter to use instead of the installed environment, by engine.
        timeout: seconds for each of the two runs of an engine.
        endpoints: address of a running server to attach to in place of starting the engine, by engine; those not
            among the engines are added. No preflight foresees what it read, and the report says what it does not show.
        run_anyway: start also an engine that will refuse the files, or serve them silently wrong.
        target_name: what the report calls the target.
        kept: what another head of the same target need not repeat.

    Returns:
        The report, whatever its verdict. A head with errors is not run: its report has no engines.

    Raises:
        UsageError, InputError: bad options, unreadable head, target or prompts, a target that does not fit.
        UnavailableError: the only engine asked for is not installed, or not for this device.
    """
    names = engine_names(engine, endpoints or ())
    check_options(device, dtype, max_new_tokens, draft_tokens, temperature, min_acceptance_length, timeout)
    check_tree(draft_tokens, topk, num_draft_tokens)
    check_original(names, reference_head)
    kept = kept if kept is not None else Kept()
    at = head_address(head_source)
    earlier = None if acceptance_reference is None else load_reference(acceptance_reference)
    chosen = load_prompts(prompts, num_prompts)
    require_files(target)  # before torch is imported
    subject = identify_target(target, target_name, progress)
    progress("reading the head")
    checkpoint = open_checkpoint(at if isinstance(at, HubAddress) else at.path.resolve(), progress=progress)
    folder = checkpoint.folder
    head = open_head(checkpoint, target=subject.source)
    for problem in head.problems:
        if problem.code == "target-mismatch":  # nothing about the head: another target was meant
            raise problem.to_error()
    static_verdict: Verdict = "fail" if any(p.severity == "error" for p in head.problems) else "pass"
    job = Job(
        target=subject.source,
        head=folder,
        prompts=chosen,
        device="cuda" if device == "cuda" else "cpu",
        dtype=next(d for d in DTYPES if d == dtype),
        draft_tokens=draft_tokens,
        topk=topk,
        num_draft_tokens=num_draft_tokens,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
    )
    job = with_room(job, subject)
    digest, files = folder_digest(folder)
    frame: dict[str, Any] = {
        "schema": SCHEMA_NAME,
        "tool": {"name": "eagle3hub", "version": __version__},
        "measured_at": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "verdict": static_verdict,
        "head": {
            "source": checkpoint.source if isinstance(at, HubAddress) else folder.name,
            "layout": head.layout,
            "digest": digest,
            "files": [dict(f) for f in files],
        },
        "target": subject.to_json(),
        "prompts": chosen.to_json(),
        "settings": _settings(job, min_acceptance_length, reference),
        "static": {
            "verdict": static_verdict,
            "problems": [problem.to_json() for problem in head.problems],
            "assumptions": [assumption.to_json() for assumption in head.assumptions],
        },
        "engines": [],
    }
    if static_verdict != "pass":
        return Report(frame)
    on_trial = original = Trained(head, digest)
    if reference_head is not None:
        other = open_checkpoint(reference_head, progress=progress)
        original = Trained(open_head(other, target=subject.source), folder_digest(other.folder)[0])
    referee = None
    if REFERENCE in names:
        require_packages()
        if reference.hidden_states is None:
            require_weights(str(target))
        referee = Referee(job, subject, on_trial, original, reference, kept, progress)
    expects = outlook(checkpoint, head, subject.source)
    plans = [
        _planned(name, job, engine_python, endpoints, alone=len(names) == 1) for name in names if name != REFERENCE
    ]
    called = head_name(frame["head"]["source"])
    found: dict[str, Measured] = {}
    for plan in plans:
        if plan.name in (endpoints or ()):
            measured = _run(plan, job, called, subject, timeout, kept, progress, None)
            found[plan.name] = replace(measured, device=device_of(plan.engine))
            continue
        expected = expects(plan.name, plan.engine.version, job.device)
        measured = _run(plan, job, called, subject, timeout, kept, progress, None if run_anyway else stops(expected))
        found[plan.name] = replace(measured, preflight=expected.to_json())
    if referee is not None:
        found[REFERENCE] = referee.run()
        own = found[REFERENCE].outcome
        if referee.speaks_for_target and isinstance(own, EngineRun):
            for name in endpoints or ():
                found[name] = replace(found[name], own_output=own)
    for name in names:
        counts = _expected(found[name], referee)
        frame["engines"].append(entry_of(found[name], job, head, frame, counts, earlier))
    frame["verdict"] = worst([static_verdict, *(entry["verdict"] for entry in frame["engines"])])
    return Report(frame)


@dataclass(frozen=True, slots=True)
class _Plan:
    """An engine that is about to run, with its interpreter; or why it cannot."""

    engine: Engine
    python: Path | None
    problem: UnavailableError | None

    @property
    def name(self) -> str:
        return self.engine.name


def _planned(
    name: str,
    job: Job,
    pythons: Mapping[str, str | Path] | None,
    endpoints: Mapping[str, str] | None,
    *,
    alone: bool,
) -> _Plan:
    """Find an engine before anything is run; where it is the only one asked for, its absence is an error."""
    try:
        return _Plan(*engine_for(name, job, pythons, endpoints), None)
    except UnavailableError as error:
        if alone:
            raise
        return _Plan(get_engine(name), None, error)


def _run(
    plan: _Plan,
    job: Job,
    head: str,
    subject: Target,
    timeout: float,
    kept: Kept,
    progress: Progress,
    stopped: str | None,
) -> Measured:
    """Run an engine, unless it cannot run here or there is a reason (``stopped``) not to start it."""
    if plan.python is None:
        reason = plan.problem.message if plan.problem is not None else "it cannot run"
        return Measured(plan.name, plan.engine.version, EngineFailure(reason, "unavailable"), None, {}, None)
    if stopped is not None:
        return Measured(plan.name, plan.engine.version, EngineFailure(stopped), None, {}, None)
    return Trial(plan.engine, job, head, subject, plan.python, timeout, progress).run(kept.baselines)


def _expected(measured: Measured, referee: Referee | None) -> list[Counts] | str | None:
    """What the reference counts on a run's own texts, or why it cannot; None where the run is not held against it."""
    run = measured.outcome
    if isinstance(run, EngineFailure) or referee is None:
        return None
    if measured.engine == REFERENCE and not referee.has_original:
        return None
    return referee.expects(run, within_response=counts_within_response(measured.engine))


def _settings(job: Job, bar: float | None, reference: ReferenceOptions) -> dict[str, Any]:
    return {
        "draft_tokens": job.draft_tokens,
        "topk": job.topk,
        "num_draft_tokens": job.verified_tokens,
        "temperature": job.temperature,
        "max_new_tokens": job.max_new_tokens,
        "seed": job.seed,
        "drafting": reference.drafting,
        "dtype": job.dtype,
        "device": job.device,
        "min_acceptance_length": bar,
        "collapse_acceptance_length": COLLAPSE,
        **ALWAYS,
    }
