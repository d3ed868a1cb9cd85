"""What is known of each engine's versions, read from the ``.toml`` files beside this module."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from eagle3hub.errors import UnavailableError

_HERE = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True)
class EnvironmentSpec:
    """How to make an environment: the frozen requirements, and where they can be installed.

    ``platforms`` are ``{sys.platform}-{machine}`` pairs; ``disk_gib`` is what the finished environment takes.
    """

    engine: str
    version: str
    device: str
    distribution: str
    requirements: Path
    platforms: tuple[str, ...]
    disk_gib: float


@cache
def _document(engine: str) -> dict[str, Any]:
    text = (_HERE / f"{engine}.toml").read_text(encoding="utf-8")
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    return tomllib.loads(text)


def default_version(engine: str) -> str:
    """The version of ``engine`` that is installed and run unless another is asked for."""
    return str(_document(engine)["default"])


def greedy_only_devices(engine: str) -> tuple[str, ...]:
    """Devices on which ``engine`` speculates correctly at temperature 0 only."""
    return tuple(_document(engine)["versions"][default_version(engine)]["greedy_only"])


def environment_devices(engine: str) -> tuple[str, ...]:
    """Devices for which an environment of ``engine`` can be installed."""
    return tuple(_document(engine)["versions"][default_version(engine)]["environments"])


def environment_spec(engine: str, device: str) -> EnvironmentSpec:
    """How to make an environment of ``engine`` for ``device``; UnavailableError where none is known."""
    version = default_version(engine)
    environments = _document(engine)["versions"][version]["environments"]
    if device not in environments:
        raise UnavailableError(
            f"there is no tested environment of {engine} {version} for {device}",
            hint=f"install {engine} yourself and give its interpreter: --engine-python {engine}=/path/to/python",
            code="engine-no-environment",
        )
    found = environments[device]
    return EnvironmentSpec(
        engine=engine,
        version=version,
        device=device,
        distribution=found["distribution"],
        requirements=_HERE / "requirements" / found["requirements"],
        platforms=tuple(found["platforms"]),
        disk_gib=float(found["disk_gib"]),
    )
