"""One engine's entry in a report."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eagle3hub import metrics
from eagle3hub.engines.base import EngineFailure, EngineRun, Job
from eagle3hub.prompts import PromptSet
from eagle3hub.validation.derive import derive, expected_taps
from eagle3hub.validation.judge import compare
from eagle3hub.validation.reference_file import Reference
from eagle3hub.validation.subject import Target

if TYPE_CHECKING:
    from eagle3hub.head import Head


@dataclass(frozen=True, slots=True)
class Measured:
    """What came of one engine: a run with the head, and at temperature 0 one of the target alone; or a failure.

    ``flags`` are the run's arguments, ``recipe`` how to serve the head on this engine (None: it does not serve),
    ``preflight`` what was expected of the files (None: of the reference nothing is). ``device`` is that of a running
    server (``server`` if it does not say). It cannot run the target alone: ``own_output`` is the reference's instead.
    """

    engine: str
    version: str
    outcome: EngineRun | EngineFailure
    base: EngineRun | None
    flags: Mapping[str, Any]
    recipe: Mapping[str, Any] | None
    preflight: Mapping[str, Any] | None = None
    device: str | None = None
    own_output: EngineRun | None = None


def entry_of(
    measured: Measured,
    job: Job,
    head: Head,
    frame: Mapping[str, Any],
    expected: Sequence[metrics.Counts] | str | None = None,
    earlier: Reference | None = None,
) -> dict[str, Any]:
    """The entry: what ran, what was counted, and everything that follows from it (`derive`).

    Args:
        frame: the report, as far as it is known: settings, prompts, target, head.
        expected: what the reference counts on the engine's own texts, prompt by prompt; why that cannot be known; or
            None where the run is not held against it.
        earlier: an earlier measurement that the run is held against.
    """
    run, base = measured.outcome, measured.base
    if isinstance(run, EngineFailure):
        common = _common(measured, job, measured.version, run.verdict, run.reason)
        return {**common, "log_tail": list(run.log_tail)}
    prompts = job.prompts
    alone = _without_head(measured, run)
    lossless = None if alone is None else compare([p.question_id for p in prompts.prompts], alone, run)
    unchecked = list(run.unchecked)
    if unchecked and lossless is None and job.temperature == 0:
        unchecked.append("its output without the head")
    assert run.load is not None
    taps = run.load.aux_boundaries
    entry = {
        **_common(measured, job, run.version, "inconclusive", "-"),
        "gates": [],
        **({"unchecked": unchecked} if unchecked else {}),
        **({"environment": dict(run.environment)} if run.environment else {}),
        "acceptance": None,
        "categories": {},
        "lossless": None
        if lossless is None
        else {"divergences": [{"question_id": d.question_id, "position": d.position} for d in lossless.divergences]},
        "load": {
            "checked": run.load.checked,
            "not_loaded": list(run.load.not_loaded),
            "ignored": list(run.load.ignored),
            "aux_boundaries": list(taps) if taps else None,
        },
        "throughput": _throughput(run, base) if measured.recipe is not None else _no_throughput(),
        "per_prompt": _per_prompt(prompts, run, alone),
        **({} if expected is None else {"reference_counts": _reference_counts(expected)}),
        **({} if earlier is None else {"earlier": earlier.to_json()}),
        "seconds": {"start": round(run.start_seconds, 3), "generate": round(run.generate_seconds, 3)},
    }
    return entry | derive(frame, entry, expected_taps(head))


def _reference_counts(expected: Sequence[metrics.Counts] | str) -> dict[str, Any]:
    return (
        {"unknown": expected}
        if isinstance(expected, str)
        else {"per_prompt": [counts.to_json() for counts in expected]}
    )


def public(flags: Any, job: Job, target: Target) -> Any:
    """The flags with names in place of this machine's paths."""
    if isinstance(flags, dict):
        return {key: public(value, job, target) for key, value in flags.items()}
    if isinstance(flags, str | Path) and job.head is not None and str(flags) == str(job.head):
        return job.head.name
    return target.name if flags == job.target else flags


def _common(measured: Measured, job: Job, version: str, verdict: str, reason: str) -> dict[str, Any]:
    return {
        "engine": measured.engine,
        "version": version,
        "device": measured.device or job.device,
        "dtype": job.dtype,
        "verdict": verdict,
        "reason": reason,
        "flags": dict(measured.flags),
        "recipe": None if measured.recipe is None else dict(measured.recipe),
        **({} if measured.preflight is None else {"preflight": dict(measured.preflight)}),
    }


def _without_head(measured: Measured, run: EngineRun) -> EngineRun | None:
    """What the output is held against: the target alone on the engine, or the reference if it was asked the same."""
    own = measured.own_output
    if measured.base is not None or own is None:
        return measured.base
    same = [p.prompt_tokens for p in own.prompts] == [p.prompt_tokens for p in run.prompts]
    return own if same else None


def _throughput(run: EngineRun, base: EngineRun | None) -> dict[str, Any]:
    return {
        "target_tokens_per_second": base.tokens_per_second if base is not None else None,
        "speculative_tokens_per_second": run.tokens_per_second,
        "note": "one sequence at a time; smoke test, not a benchmark",
    }


def _no_throughput() -> dict[str, Any]:
    return {
        "target_tokens_per_second": None,
        "speculative_tokens_per_second": None,
        "note": "the reference replays texts, it does not serve",
    }


def _per_prompt(prompts: PromptSet, run: EngineRun, base: EngineRun | None) -> list[dict[str, Any]]:
    rows = []
    for index, (prompt, result) in enumerate(zip(prompts.prompts, run.prompts, strict=True)):
        counts = result.counts
        assert counts is not None
        rows.append(
            {
                "question_id": prompt.question_id,
                "category": prompt.category,
                "prompt_tokens": result.prompt_tokens,
                "new_tokens": len(result.tokens),
                "rounds": counts.rounds,
                "drafted": counts.drafted,
                "accepted": counts.accepted,
                "accepted_per_position": list(counts.accepted_per_position),
                "identical": result.tokens == base.prompts[index].tokens if base is not None else None,
                "tokens_sha256": hashlib.sha256(json.dumps(list(result.tokens)).encode()).hexdigest(),
            }
        )
    return rows
