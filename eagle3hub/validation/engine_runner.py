"""Run a validation on an engine: choose its interpreter, check the head's files, run with the head and without."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eagle3hub.engines import get_engine
from eagle3hub.engines.base import DEVICES, Engine, EngineFailure, EngineRun, Job
from eagle3hub.engines.preflight import Verdict, examine, preflight, target_embeddings
from eagle3hub.engines.specs import preflight_version
from eagle3hub.errors import UnavailableError
from eagle3hub.head.target import read_target
from eagle3hub.system.progress import Progress
from eagle3hub.validation.derive import Measured, public
from eagle3hub.validation.target import Target

if TYPE_CHECKING:
    from eagle3hub.checkpoint.folder import Checkpoint
    from eagle3hub.engines.base import Device
    from eagle3hub.head import Head
    from eagle3hub.metrics import Rounds
    from eagle3hub.reference.target import TargetModel
    from eagle3hub.reference.text import Text

# Which engine measures, and which interpreter runs it.


def engine_for(
    name: str, job: Job, pythons: Mapping[str, str | Path] | None, endpoints: Mapping[str, str] | None
) -> tuple[Engine, Path]:
    """The engine that measures ``job`` and its interpreter: a running server (then ours), or one to be started.

    Raises UnavailableError where there is none, or its results would say nothing; InputError for a server that serves
    something else.
    """
    url = (endpoints or {}).get(name)
    engine = get_engine(name)
    if url is not None:
        from eagle3hub.engines.endpoints import attach

        endpoint = attach(name, url)
        endpoint.hold_against(job)
        engine = endpoint
    inability = engine.unable(job)
    if inability:
        raise UnavailableError(
            inability, hint="measure with other settings, or on another engine or device", code="engine-unable"
        )
    return engine, Path(sys.executable) if url is not None else interpreter(engine, job.device, pythons)


def device_of(server: Engine) -> str:
    """What a report calls the device of a running server: its own where it shows one we know, else ``server``."""
    shown = getattr(server, "device", None)
    return shown if shown in DEVICES else "server"


def interpreter(engine: Engine, device: str, given: Mapping[str, str | Path] | None) -> Path:
    """The interpreter given for the engine, else that of its installed environment.

    Raises UnavailableError where there is none, or no such device.
    """
    from eagle3hub.engines import environments

    if given and engine.name in given:
        python = Path(given[engine.name]).expanduser()
        if not python.is_file():
            raise UnavailableError(
                f"there is no interpreter {str(python)!r} for {engine.name}", code="engine-python-missing"
            )
        return python.absolute()
    if device == "cuda" and not Path("/dev/nvidiactl").exists():
        raise UnavailableError(
            "this machine has no CUDA device", hint="validate on CPU with --device cpu", code="device-missing"
        )
    return environments.interpreter(engine.name, device)


# What an engine will do with a head's files, decided before it is started.


_SAYS = {"refuses": "will refuse these files", "silently_wrong": "would serve these files silently wrong"}


Outlook = Callable[[str, str, "Device"], Verdict]
"""The preflight's verdict by engine, version and device."""


def outlook(checkpoint: Checkpoint, head: Head, target: str) -> Outlook:
    """Look at a head's folder once, for any number of engines. ``target`` is a folder or a Hub id."""
    facts = read_target(target)
    subject = examine(checkpoint, head, target_embeddings(head, target))

    def on(engine: str, version: str, device: Device) -> Verdict:
        return preflight(subject, engine, preflight_version(engine, version, device), facts)

    return on


def stops(verdict: Verdict) -> str | None:
    """Why an engine need not be started, naming the finding's code; None where it may load the files right."""
    if verdict.kind not in _SAYS:
        return None
    deciding = [reason for reason in verdict.reasons if reason.effect == verdict.kind]
    told = "; ".join(f"{reason.sentence} ({reason.code})" for reason in deciding[:2])
    more = f"; and {len(deciding) - 2} more" if len(deciding) > 2 else ""
    return f"preflight, engine not started: {verdict.title} {_SAYS[verdict.kind]}: {told}{more}"


# One engine's runs in a validation: with the head, and at temperature 0 the target alone.


class Trial:
    """Runs one engine for a job. The head is run first: a head that does not load costs one start.

    ``head`` is what recipe and flags call the head (`head_name`).
    """

    def __init__(
        self, engine: Engine, job: Job, head: str, target: Target, python: Path, timeout: float, progress: Progress
    ) -> None:
        self._engine = engine
        self._job = job
        self._head = head
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
        recipe = self._engine.recipe(self._target.name, self._head, draft_tokens=self._job.draft_tokens)
        flags = public(self._engine.flags(self._job), self._job, self._head, self._target)
        return Measured(self._engine.name, self._engine.version, outcome, base, flags, recipe.to_json())


# What several validations of one target share.


@dataclass(slots=True)
class Kept:
    """Work that the next head of the same target need not repeat.

    Attributes:
        baselines: runs of the target alone on an engine, by everything that could change them.
        targets: targets in memory, by source, device and dtype. Only those on CPU: a GPU's memory is the engines'.
        texts: what a target said, by prompts and settings.
        rounds: of a head on a text, by the head's digest, the text and the conditions.
    """

    baselines: dict[str, EngineRun] = field(default_factory=dict)
    targets: dict[tuple[Any, ...], TargetModel] = field(default_factory=dict)
    texts: dict[tuple[Any, ...], Sequence[Text]] = field(default_factory=dict)
    rounds: dict[tuple[Any, ...], Rounds] = field(default_factory=dict)
