"""Which interpreter runs an engine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from eagle3hub.engines.base import Engine, Job
from eagle3hub.errors import UnavailableError


def interpreter_for(job: Job, engine: Engine, given: Mapping[str, str | Path] | None) -> Path:
    """`interpreter` for a run of ``job``; UnavailableError also where its results would say nothing."""
    inability = engine.unable(job)
    if inability:
        raise UnavailableError(
            inability, hint="measure with other settings, or on another engine or device", code="engine-unable"
        )
    return interpreter(engine, job.device, given)


def interpreter(engine: Engine, device: str, given: Mapping[str, str | Path] | None) -> Path:
    """The interpreter given for the engine, else that of its installed environment.

    Raises UnavailableError where there is none, or no such device.
    """
    from eagle3hub.engines import envs

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
    return envs.interpreter(engine.name, device)
