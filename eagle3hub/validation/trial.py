"""One engine's runs in a validation: with the head, and at temperature 0 the target alone."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from eagle3hub.engines.base import Engine, EngineFailure, EngineRun, Job
from eagle3hub.progress import Progress
from eagle3hub.validation.entry import Measured, public
from eagle3hub.validation.subject import Target


class Trial:
    """Runs one engine for a job. The head is run first: a head that does not load costs one start."""

    def __init__(
        self, engine: Engine, job: Job, target: Target, python: Path, timeout: float, progress: Progress
    ) -> None:
        self._engine = engine
        self._job = job
        self._target = target
        self._python = python
        self._timeout = timeout
        self._progress = progress

    def run(self, baselines: dict[str, EngineRun]) -> Measured:
        """Run the engine; ``baselines`` keeps runs of the target alone for other heads of the same target."""
        compares = self._job.temperature == 0 and self._engine.runs_alone
        alone = replace(self._job, head=None)
        key = self._key(alone)
        half = 0.5 if compares and key not in baselines else 1.0
        run = self._once(self._job, 0.0, half)
        if isinstance(run, EngineFailure) or not compares:
            return self._measured(run, None)
        if key not in baselines:
            found = self._once(alone, half, 1.0)
            if isinstance(found, EngineFailure):
                return self._measured(found, None)
            baselines[key] = found
        return self._measured(run, baselines[key])

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

    def _measured(self, outcome: EngineRun | EngineFailure, base: EngineRun | None) -> Measured:
        assert self._job.head is not None
        recipe = self._engine.recipe(self._target.name, self._job.head.name, draft_tokens=self._job.draft_tokens)
        flags = public(self._engine.flags(self._job), self._job, self._target)
        return Measured(self._engine.name, self._engine.version, outcome, base, flags, recipe.to_json())
