"""One engine's part of a validation: its interpreter, the preflight check of the head's files, and its runs."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from eagle3hub.engines import get_engine
from eagle3hub.engines.base import Engine, EngineFailure, EngineRun, RunSpec
from eagle3hub.engines.preflight import PreflightVerdict, examine, preflight, target_embeddings, told_layers
from eagle3hub.engines.specs import DEVICES, PARALLEL_DRAFTING, preflight_version
from eagle3hub.errors import UnavailableError, assert_never
from eagle3hub.head.target import read_target
from eagle3hub.system.progress import Progress
from eagle3hub.validation.derive import RanEngine, public
from eagle3hub.validation.options import REFERENCE
from eagle3hub.validation.target import Target

if TYPE_CHECKING:
    from eagle3hub.checkpoint.folder import Checkpoint
    from eagle3hub.engines.specs import Device
    from eagle3hub.head import Head
    from eagle3hub.metrics import Rounds
    from eagle3hub.reference.target import TargetModel
    from eagle3hub.reference.text import Text

# Which engine measures, and which interpreter runs it.


_CUDA = Path("/dev/nvidiactl")
"""The device file that NVIDIA's driver makes where it finds a GPU."""


def engine_for(
    name: str, job: RunSpec, pythons: Mapping[str, str | Path], endpoints: Mapping[str, str]
) -> tuple[Engine, Path]:
    """The engine that measures ``job``, and its interpreter (for a running server our own, which asks it).

    An engine whose interpreter was given has the version that lies there.

    Raises UnavailableError where there is none, or its results would say nothing; InputError for a server that serves
    something else.
    """
    from eagle3hub.engines.environments import version_in

    url = endpoints.get(name)
    engine = get_engine(name, version_in(name, pythons))
    if url is not None:
        from eagle3hub.engines.endpoints import attach

        endpoint = attach(name, url)
        endpoint.compare_settings(job)
        engine = endpoint
    inability = engine.unable(job)
    if inability:
        raise UnavailableError(
            inability, hint="measure with other settings, or on another engine or device", code="engine-unable"
        )
    if url is not None:
        return engine, Path(sys.executable)
    return engine, interpreter(engine, job.device, pythons, job.engine_settings.tensor_parallel)


def device_of(server: Engine) -> str:
    """The device of a running server in a report: its own if it shows one that we know, else ``server``."""
    shown = getattr(server, "device", None)
    return shown if shown in DEVICES else "server"


def interpreter(engine: Engine, device: str, given: Mapping[str, str | Path] | None, devices: int = 1) -> Path:
    """The interpreter given for the engine, else that of its installed environment.

    Raises UnavailableError where there is none, no such device, or fewer than ``devices`` of it.
    """
    from eagle3hub.engines import environments

    if given and engine.name in given:
        python = Path(given[engine.name]).expanduser()
        if not python.is_file():
            raise UnavailableError(
                f"there is no interpreter {str(python)!r} for {engine.name}", code="engine-python-missing"
            )
        return python.absolute()
    if device == "cuda" and not _CUDA.exists():
        raise UnavailableError(
            "this machine has no CUDA device", hint="validate on CPU with --device cpu", code="device-missing"
        )
    there = len(list(_CUDA.parent.glob("nvidia[0-9]*"))) if device == "cuda" else devices
    if there < devices:
        raise UnavailableError(
            f"--tensor-parallel {devices} needs {devices} CUDA devices, and this machine has {there}",
            hint=f"--tensor-parallel {there}" if there else "see whether the driver made /dev/nvidia0",
            code="device-missing",
        )
    return environments.environment_python(engine.name, device)


def default_device(
    engines: Sequence[str], pythons: Mapping[str, str | Path], endpoints: Collection[str] = ()
) -> tuple[Device, str | None]:
    """The device of a run where nobody names one, and the sentence that says why where this machine has a GPU.

    It is cuda where this machine has a GPU that everything which is to run can use: the reference's PyTorch, an
    interpreter that was given, or the environment that eagle3hub makes for an engine. Without a GPU nothing is asked.
    Servers (``endpoints``) count with their own device.
    """
    if not _CUDA.exists():
        return "cpu", None
    for name in engines:
        if name not in endpoints and (why := _no_cuda(name, pythons)) is not None:
            return "cpu", f"device cpu, though this machine has a GPU: {why}"
    return "cuda", "device cuda, since this machine has a GPU; --device cpu runs without it"


def _no_cuda(name: str, pythons: Mapping[str, str | Path]) -> str | None:
    """Why an engine, or the reference, does not compute on this machine's GPU; None if it does, as far as we see."""
    from eagle3hub.engines import environments
    from eagle3hub.engines.specs import environment_devices

    if name == REFERENCE:
        return None if environments.sees_cuda(Path(sys.executable)) else "PyTorch here does not see it"
    if name in pythons:
        return None if environments.sees_cuda(Path(pythons[name])) else f"PyTorch of {pythons[name]} does not see it"
    devices = environment_devices(name)
    if not devices or "cuda" in devices:
        return None
    return f"the environment of {name} is for {' and '.join(devices)}"


# The preflight check: what an engine will do with a head's files, known before it is started.


PreflightCheck = Callable[[str, str, "Device"], PreflightVerdict]
"""The preflight's verdict by engine, version and device."""


def preflight_check(checkpoint: Checkpoint, head: Head, target: str, tensor_parallel: int = 1) -> PreflightCheck:
    """Read a head's folder once, for any number of engines.

    ``target`` is a folder or a Hub id, ``tensor_parallel`` the number of devices that an engine splits both over.
    """
    facts = read_target(target)
    subject = examine(checkpoint, head, target_embeddings(head, target))

    def check(engine: str, version: str, device: Device) -> PreflightVerdict:
        told = told_layers(head, engine)
        judged = preflight_version(engine, version, device)
        verdict = preflight(subject, engine, judged, facts, told, tensor_parallel)
        return verdict.with_settings([PARALLEL_DRAFTING])  # a run of a P-EAGLE head states it

    return check


def stops(verdict: PreflightVerdict) -> str | None:
    """Why an engine need not be started, with the codes of the reasons; None where it may load the files right."""
    match verdict.kind:
        case "right" | "depends" | "unknown":
            return None
        case "refuses":
            does = "will refuse these files"
        case "silently_wrong":
            does = "would serve these files silently wrong"
        case _:
            assert_never(verdict.kind)
    deciding = [reason for reason in verdict.reasons if reason.effect == verdict.kind]
    why = "; ".join(f"{reason.sentence} ({reason.code})" for reason in deciding[:2])
    more = f"; and {len(deciding) - 2} more" if len(deciding) > 2 else ""
    return f"preflight, engine not started: {verdict.title} {does}: {why}{more}"


# One engine's runs: with the head, and at temperature 0 the target alone.


class EngineRunner:
    """Runs one engine for a job. The head is run first, so that a head that does not load costs only one start.

    ``head`` is what recipe and flags call the head (`head_name`).
    """

    def __init__(
        self, engine: Engine, job: RunSpec, head: str, target: Target, python: Path, timeout: float, progress: Progress
    ) -> None:
        self._engine = engine
        self._job = job
        self._head = head
        self._target = target
        self._python = python
        self._timeout = timeout
        self._progress = progress

    def run(self, baselines: dict[str, EngineRun]) -> RanEngine:
        """Run the engine; ``baselines`` keeps runs of the target alone for other heads of the same target."""
        compares = self._job.temperature == 0 and self._engine.runs_alone
        alone = replace(self._job, head=None)
        key = self._key(alone)
        half = 0.5 if compares and key not in baselines else 1.0
        run = self._once(self._job, 0.0, half)
        if isinstance(run, EngineFailure) or not compares:
            return self._ran(run, None)
        if key not in baselines:
            found = self._once(alone, half, 1.0)
            if isinstance(found, EngineFailure):
                return self._ran(found, None)
            baselines[key] = found
        return self._ran(run, baselines[key])

    def _once(self, job: RunSpec, begin: float, end: float) -> EngineRun | EngineFailure:
        """Run ``job``; its progress counts as the part of the whole from ``begin`` to ``end``."""

        def report(message: str, fraction: float | None = None) -> None:
            self._progress(message, begin + (end - begin) * (fraction or 0.0))

        return self._engine.run(job, self._python, timeout=self._timeout, progress=report)

    def _key(self, job: RunSpec) -> str:
        """Everything that could change what the target alone generates."""
        parts: list[object] = [self._engine.name, str(self._python), job.device, job.prompts.sha256]
        parts += [self._engine.flags(job), self._target.config_sha256, self._target.weights_digest]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def _ran(self, outcome: EngineRun | EngineFailure, base: EngineRun | None) -> RanEngine:
        job = self._job
        recipe = self._engine.recipe(
            self._target.name,
            self._head,
            draft_tokens=job.draft_tokens,
            parallel_drafting=job.parallel_drafting,
            settings=job.engine_settings,
        )
        flags = public(self._engine.flags(self._job), self._job, self._head, self._target)
        return RanEngine(self._engine.name, self._engine.version, outcome, base, flags, recipe)


# What several validations of one target share.


@dataclass(slots=True)
class Cache:
    """Work on one target that the next head need not repeat.

    Attributes:
        baselines: an engine's runs of the target alone, by everything that could change them.
        targets: targets in memory, by source, device and dtype; only those on CPU, for engines need a GPU's memory.
        texts: texts that a target generated, by prompts and settings.
        rounds: the rounds of a head on a text, by the head's digest, the text and the settings.
    """

    baselines: dict[str, EngineRun] = field(default_factory=dict)
    targets: dict[tuple[object, ...], TargetModel] = field(default_factory=dict)
    texts: dict[tuple[object, ...], Sequence[Text]] = field(default_factory=dict)
    rounds: dict[tuple[object, ...], Rounds] = field(default_factory=dict)
