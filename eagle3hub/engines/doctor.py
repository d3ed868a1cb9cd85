"""What each engine can do on this machine: interpreter, versions, device, memory, and what mends what is missing."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from eagle3hub.engines import envs
from eagle3hub.engines.process import Event, run_worker
from eagle3hub.engines.specs import (
    default_version,
    engine_module,
    engine_title,
    environment_devices,
    environment_spec,
    no_environment,
    version_data,
)

State = Literal["ready", "not_installed", "broken", "unobtainable"]

_PROBE = Path(__file__).resolve().parent / "workers" / "environment_probe.py"
_TIMEOUT = 180.0


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One engine on one device of this machine.

    Attributes:
        version: the version this program knows; engine_version, python_version, torch_version, processor: what was
            found in the interpreter, None where none was asked.
        free_gib: free memory of the device, in GiB.
        problem: what is missing or wrong, or None. mend: the command or the step that mends it.
        tested: whether this kind of environment was ever tried by the authors.
    """

    engine: str
    device: str
    version: str
    state: State
    python: str | None = None
    engine_version: str | None = None
    python_version: str | None = None
    torch_version: str | None = None
    processor: str | None = None
    free_gib: float | None = None
    problem: str | None = None
    mend: str | None = None
    tested: bool = True

    def to_json(self) -> dict[str, Any]:
        """Every field by name."""
        return asdict(self)


def diagnose(engines: Sequence[str], pythons: Mapping[str, Path] | None = None) -> list[Diagnosis]:
    """Look at every engine on every device it is known for; ``pythons`` names interpreters to look into instead."""
    given = pythons or {}
    found = []
    for engine in engines:
        known = [*environment_devices(engine), *version_data(engine).no_environment]
        for device in sorted(set(known)):
            found.append(_diagnose(engine, device, given.get(engine)))
    return found


def _diagnose(engine: str, device: str, given: Path | None) -> Diagnosis:
    version = default_version(engine)
    if given is not None:
        return _probe(engine, device, given, f"install {engine_title(engine)} {version} for {given}")
    why = no_environment(engine, device)
    if why is not None:
        mend = f"run {engine_title(engine)} where it runs, and name its interpreter: --engine-python {engine}=PATH"
        return Diagnosis(engine, device, version, "unobtainable", problem=why, mend=mend)
    environment = envs.environment(engine, device)
    install = f"eagle3hub engines install {engine} --device {device}"
    tested = environment_spec(engine, device).tested
    if not environment.ready:
        half = environment.path.exists()
        problem = "its environment is unfinished or out of date" if half else "it is not installed"
        return Diagnosis(engine, device, version, "not_installed", problem=problem, mend=install, tested=tested)
    return _probe(engine, device, environment.python, f"{install} --force", tested=tested)


def _probe(engine: str, device: str, python: Path, mend: str, *, tested: bool = True) -> Diagnosis:
    answer: Event = {}
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    request = {"module": engine_module(engine), "device": device}
    outcome = run_worker(
        [str(python), "-s", str(_PROBE)],
        request,
        env=env,
        timeout=_TIMEOUT,
        on_event=lambda event: answer.update(event),
    )
    version = default_version(engine)
    problem = answer.get("problem") if outcome.status == "done" else str(outcome.detail.get("message", outcome.status))
    if problem is None and answer["engine"] != version:
        problem = f"it is {engine_title(engine)} {answer['engine']}, and {version} is what this program knows"
    if problem == "PyTorch sees no CUDA device":
        mend = "run it on a machine with a CUDA device, or ask for --device cpu"
    return Diagnosis(
        engine,
        device,
        version,
        "ready" if problem is None else "broken",
        python=str(python),
        engine_version=answer.get("engine"),
        python_version=answer.get("python"),
        torch_version=answer.get("torch"),
        processor=answer.get("processor"),
        free_gib=answer.get("free_gib") if device == "cuda" else _free_memory(),
        problem=problem,
        mend=mend if problem else None,
        tested=tested,
    )


def _free_memory() -> float | None:
    """Memory of this machine that can be had without swapping, in GiB."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return round(next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) / 2**20, 1)
    except (OSError, StopIteration, ValueError):
        return None
