"""One engine's part of a validation: the runs, the comparison of their outputs, and their entry in the report."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eagle3hub import metrics
from eagle3hub.engines.base import Engine, EngineFailure, EngineRun, Job
from eagle3hub.errors import ConfigError
from eagle3hub.progress import Progress
from eagle3hub.prompts import PromptSet
from eagle3hub.validation.judge import Lossless, compare, judge
from eagle3hub.validation.subject import Target

if TYPE_CHECKING:
    from eagle3hub.head import Head


class Trial:
    """One engine's part of a validation."""

    def __init__(
        self,
        engine: Engine,
        job: Job,
        target: Target,
        head: Head,
        python: Path,
        timeout: float,
        bar: float | None,
        progress: Progress,
    ) -> None:
        self._engine = engine
        self._job = job
        self._target = target
        self._head = head
        self._python = python
        self._timeout = timeout
        self._bar = bar
        self._progress = progress

    def run(self, cache: dict[str, EngineRun]) -> dict[str, Any]:
        """The entry of ``engines`` in a report. The head is run first: a head that does not load costs one start."""
        greedy = self._job.temperature == 0
        alone = replace(self._job, head=None)
        key = self._key(alone)
        half = 0.5 if greedy and key not in cache else 1.0
        run = self._once(self._job, 0.0, half)
        if isinstance(run, EngineFailure):
            return self._failed(run)
        base: EngineRun | None = None
        if greedy:
            if key not in cache:
                found = self._once(alone, half, 1.0)
                if isinstance(found, EngineFailure):
                    return self._failed(found)
                cache[key] = found
            base = cache[key]
        return self._entry(run, base)

    def _once(self, job: Job, begin: float, end: float) -> EngineRun | EngineFailure:
        """Run ``job``; its progress is the part of the whole from ``begin`` to ``end``."""

        def report(message: str, fraction: float | None = None) -> None:
            self._progress(message, begin + (end - begin) * (fraction or 0.0))

        return self._engine.run(job, self._python, timeout=self._timeout, progress=report)

    def _key(self, job: Job) -> str:
        """Everything that could change what the target alone generates."""
        parts: list[Any] = [self._engine.name, str(self._python), job.device, job.prompts.sha256]
        parts += [self._engine.flags(job), self._target.config_sha256, self._target.weights_digest]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def _common(self, version: str, verdict: str, reason: str) -> dict[str, Any]:
        return {
            "engine": self._engine.name,
            "version": version,
            "device": self._job.device,
            "dtype": self._job.dtype,
            "verdict": verdict,
            "reason": reason,
            "flags": _public(self._engine.flags(self._job), self._job, self._target),
            "recipe": self._engine.recipe(
                self._target.name, self._job_head().name, draft_tokens=self._job.draft_tokens
            ).to_json(),
        }

    def _job_head(self) -> Path:
        assert self._job.head is not None
        return self._job.head

    def _failed(self, failure: EngineFailure) -> dict[str, Any]:
        entry = self._common(self._engine.version, failure.verdict, failure.reason)
        return {**entry, "log_tail": list(failure.log_tail)}

    def _entry(self, run: EngineRun, base: EngineRun | None) -> dict[str, Any]:
        prompts = self._job.prompts
        counts = [result.counts for result in run.prompts if result.counts is not None]
        measured = metrics.acceptance(counts) if sum(c.rounds for c in counts) else None
        lossless = compare([p.question_id for p in prompts.prompts], base, run) if base is not None else None
        assert run.load is not None
        verdict, reason = judge(
            load=run.load,
            expected_taps=_expected_taps(self._head),
            lossless=lossless,
            dtype=self._job.dtype,
            acceptance=measured,
            min_acceptance_length=self._bar,
        )
        taps = run.load.aux_boundaries
        return {
            **self._common(run.version, verdict, reason),
            "environment": dict(run.environment),
            "acceptance": measured.to_json() if measured else None,
            "categories": metrics.by_category((p.category, c) for p, c in zip(prompts.prompts, counts, strict=True)),
            "lossless": _lossless_json(lossless),
            "load": {
                "checked": run.load.checked,
                "not_loaded": list(run.load.not_loaded),
                "ignored": list(run.load.ignored),
                "aux_boundaries": list(taps) if taps else None,
            },
            "throughput": _throughput(run, base),
            "per_prompt": _per_prompt(prompts, run, base),
            "seconds": {"start": round(run.start_seconds, 3), "generate": round(run.generate_seconds, 3)},
        }


def _expected_taps(head: Head) -> list[int] | None:
    if head.aux is None or not head.semantics.uses_aux:
        return None
    try:
        return head.aux.boundary
    except ConfigError:
        return None


def _public(flags: Any, job: Job, target: Target) -> Any:
    """The flags with names in place of this machine's paths."""
    if isinstance(flags, dict):
        return {key: _public(value, job, target) for key, value in flags.items()}
    if flags == str(job.head):
        return job.head.name if job.head else None
    return target.name if flags == job.target else flags


def _lossless_json(lossless: Lossless | None) -> dict[str, Any] | None:
    if lossless is None:
        return None
    return {
        "identical": lossless.identical,
        "prompts": lossless.prompts,
        "divergences": [{"question_id": d.question_id, "position": d.position} for d in lossless.divergences],
    }


def _throughput(run: EngineRun, base: EngineRun | None) -> dict[str, Any]:
    return {
        "target_tokens_per_second": _rate(base) if base is not None else None,
        "speculative_tokens_per_second": _rate(run),
        "note": "one sequence at a time; smoke test, not a benchmark",
    }


def _rate(run: EngineRun) -> float | None:
    tokens = sum(len(result.tokens) for result in run.prompts)
    return round(tokens / run.generate_seconds, 2) if run.generate_seconds > 0 else None


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
