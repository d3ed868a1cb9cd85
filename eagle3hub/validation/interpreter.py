"""Which engine measures, and which interpreter runs it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from eagle3hub.engines import get_engine
from eagle3hub.engines.base import DEVICES, Engine, Job
from eagle3hub.errors import UnavailableError


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
