"""What is known of each engine's versions, read from the ``.toml`` files beside this module."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from eagle3hub.errors import Severity, UnavailableError, UsageError
from eagle3hub.system.resources import read_toml

_HERE = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True)
class Sources:
    """Files an environment needs out of a source archive, of which nothing is built.

    ``requirements`` names the archive and its digest; ``keep`` are files and folders (with a slash at the end) below
    ``folder`` in it; they go into the environment's folder ``into``.
    """

    requirements: Path
    folder: str
    keep: tuple[str, ...]
    into: str

    def wanted(self, member: str) -> str | None:
        """Where a member of the archive goes, below ``into``; None for one that is not kept."""
        _, found, inner = member.partition(f"/{self.folder}/")
        folders = tuple(kept for kept in self.keep if kept.endswith("/"))
        kept = inner in self.keep or inner.startswith(folders)
        return inner if found and kept and ".." not in inner.split("/") else None


@dataclass(frozen=True, slots=True)
class EnvironmentSpec:
    """How to make an environment: the frozen requirements, and where they can be installed.

    ``platforms`` are ``{sys.platform}-{machine}`` pairs; ``disk_gib`` is what the finished environment takes;
    ``resolve`` lets pip add what the requirements need (else they are complete); ``tested`` is whether it was tried;
    ``import_path`` is a folder of modules without which the engine does not import; ``module`` is what is imported,
    where it is not called as the engine is.
    """

    engine: str
    version: str
    device: str
    distribution: str
    requirements: Path
    platforms: tuple[str, ...]
    disk_gib: float
    resolve: bool = False
    tested: bool = True
    import_path: Path | None = None
    module: str | None = None
    sources: Sources | None = None


@dataclass(frozen=True, slots=True)
class Fact:
    """What became of a flag, an environment variable, a YAML key or a Python name, and what to write instead."""

    names: tuple[str, ...]
    code: str
    severity: Severity
    says: str
    instead: str
    source: str


@cache
def _document(engine: str) -> dict[str, Any]:
    return read_toml(_HERE / f"{engine}.toml")


def default_version(engine: str) -> str:
    """The version of ``engine`` that is installed and run unless another is asked for."""
    return str(_document(engine)["default"])


def greedy_only_devices(engine: str) -> tuple[str, ...]:
    """Devices on which ``engine`` speculates correctly at temperature 0 only."""
    return tuple(version_data(engine)["greedy_only"])


def counts_end_with_response(engine: str) -> bool:
    """Whether ``engine`` accepts nothing past the end of a response, and drafts nothing past the token limit."""
    return bool(version_data(engine).get("counts_end_with_response", False))


def preflight_version(engine: str, version: str, device: str) -> str:
    """What the preflight calls ``version`` of ``engine`` on ``device``."""
    by_device: dict[str, str] = version_data(engine, version).get("preflight", {})
    return by_device.get(device, version)


def engine_title(engine: str) -> str:
    """What ``engine`` calls itself."""
    return str(_document(engine)["title"])


def engine_module(engine: str) -> str:
    """The Python module of ``engine``."""
    return str(_document(engine).get("module", engine))


def versions(engine: str) -> tuple[str, ...]:
    """The versions of ``engine`` that a recipe can be spelled for."""
    return tuple(_document(engine)["versions"])


def version_data(engine: str, version: str | None = None) -> dict[str, Any]:
    """What is known of one version; UsageError names those there are."""
    known = _document(engine)["versions"]
    wanted = default_version(engine) if version is None else version
    if wanted not in known:
        raise UsageError(
            f"nothing is known of {engine_title(engine)} {wanted}",
            hint=f"versions: {', '.join(known)}",
            code="usage-engine-version",
        )
    return dict(known[wanted])


def section(engine: str, name: str) -> dict[str, Any]:
    """A table of the engine's file that holds for every version; empty where it has none."""
    return dict(_document(engine).get(name, {}))


@cache
def facts(engine: str) -> tuple[Fact, ...]:
    """Names of earlier versions, and what they have become."""
    return tuple(
        Fact(tuple(f["names"]), f["code"], f.get("severity", "error"), f["says"], f["instead"], f["source"])
        for f in _document(engine).get("facts", [])
    )


@cache
def interface(engine: str) -> dict[str, Any] | None:
    """Flags, variables and names of the engine's default version as its package has them; None if it was not had."""
    file = version_data(engine).get("interface")
    if file is None:
        return None
    return dict(json.loads((_HERE / "interfaces" / file).read_text(encoding="utf-8")))


def environment_devices(engine: str) -> tuple[str, ...]:
    """Devices for which an environment of ``engine`` can be installed."""
    return tuple(version_data(engine).get("environments", {}))


def no_environment(engine: str, device: str) -> str | None:
    """Why no environment can be made, where that is known."""
    reasons: dict[str, str] = version_data(engine).get("no_environment", {})
    return reasons.get(device)


def environment_spec(engine: str, device: str) -> EnvironmentSpec:
    """How to make an environment of ``engine`` for ``device``; UnavailableError where none is known."""
    version = default_version(engine)
    environments = version_data(engine).get("environments", {})
    if device not in environments:
        why = no_environment(engine, device)
        raise UnavailableError(
            why or f"there is no tested environment of {engine} {version} for {device}",
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
        resolve=bool(found.get("resolve", False)),
        tested=bool(found.get("tested", True)),
        module=engine_module(engine),
        sources=_sources(found["sources"]) if "sources" in found else None,
    )


def _sources(found: dict[str, Any]) -> Sources:
    return Sources(
        _HERE / "requirements" / found["requirements"], found["folder"], tuple(found["keep"]), found["into"]
    )
