"""What is known of each engine and of each of its versions: the files in ``data``, typed.

``data/ENGINE/common.toml`` holds what is true of an engine whatever its version, and which version is pinned.
``data/ENGINE/VERSION/`` holds one version: ``engine.toml`` (recipe, environments, image; read here), ``contract.toml``
(what it reads of a head; read by ``preflight.contracts``), ``interface.json`` (flags, variables and names of its
package) and ``requirements-DEVICE.txt``. An ``engine.toml`` or ``contract.toml`` may build on another version's
(``builds_on``) and then states only what differs. A folder more is a version more.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

from eagle3hub.errors import Severity, UnavailableError, UsageError
from eagle3hub.system.resources import read_toml
from eagle3hub.system.typed import build

T = TypeVar("T")
DATA = Path(__file__).resolve().parent / "data"
_OF_ONE_VERSION = ("builds_on", "environments", "image", "called")
"""Keys that hold for one version alone: a version that builds on it does not inherit them."""

Device = Literal["cpu", "cuda"]
Setting = Literal[
    "target", "head", "config", "algorithm", "method", "steps", "topk", "draft_tokens", "no_overlap",
    "tensor_parallel", "dtype", "context",
]  # fmt: skip
"""What a recipe says to an engine."""


@dataclass(frozen=True, slots=True)
class Fact:
    """What became of a flag, an environment variable, a YAML key or a Python name, and what to write instead."""

    names: tuple[str, ...]
    code: str
    says: str
    instead: str
    source: str
    severity: Severity = "error"


@dataclass(frozen=True, slots=True)
class Minimum:
    """The first version that has EAGLE-3, where a plain install gives none: the version, a sentence, its source."""

    version: str
    says: str
    source: str


@dataclass(frozen=True, slots=True)
class Common:
    """What is true of an engine whatever its version.

    Attributes:
        title: what it calls itself. module: its Python module, where that is not called as the engine is here.
        pinned: the version that is installed and run unless another is asked for.
        beside: versions that every preflight looks at as well, besides the pinned one.
        facts: names of earlier versions, and what they have become.
        yaml: keys of the YAML it takes, by section. minimum: see `Minimum`.
    """

    title: str
    pinned: str
    module: str | None = None
    beside: tuple[str, ...] = ()
    facts: tuple[Fact, ...] = ()
    yaml: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    minimum: Minimum | None = None


@dataclass(frozen=True, slots=True)
class SourceArchive:
    """Files that an environment needs out of a source archive; see `Sources`."""

    folder: str
    keep: tuple[str, ...]
    into: str


@dataclass(frozen=True, slots=True)
class EnvironmentData:
    """An environment as ``engine.toml`` describes it; see `EnvironmentSpec`. ``distribution`` is a name alone."""

    distribution: str
    platforms: tuple[str, ...]
    disk_gib: float
    resolve: bool = False
    tested: bool = True
    sources: SourceArchive | None = None


@dataclass(frozen=True, slots=True)
class ImageData:
    """A container image: its address, the devices it computes on, the flavor it gets if none is asked for."""

    address: str
    devices: tuple[Device, ...]
    flavor: str


@dataclass(frozen=True, slots=True)
class VersionData:
    """What is known of one version of an engine, besides what it reads of a head.

    Attributes:
        command: the words that start its server. spelling: its flag for each setting of a recipe.
        convert: words that make a file it serves out of a folder; empty where it serves folders.
        dtypes: its name for a dtype, where that is another.
        greedy_only: devices on which it speculates correctly at temperature 0 only.
        counts_end_with_response: it accepts nothing past the end of a response, drafts nothing past the token limit.
        runners: by device, what the preflight adds to the version where devices read files differently.
        decoding_type, python_config, head_key: TensorRT-LLM's names for EAGLE-3 in its YAML and in Python.
        environments: by device, how to make one. no_environment: by device, why there is none.
        image: the container image that a job runs in, or None.
    """

    command: tuple[str, ...]
    spelling: Mapping[Setting, str]
    convert: tuple[str, ...] = ()
    dtypes: Mapping[str, str] = field(default_factory=dict)
    greedy_only: tuple[Device, ...] = ()
    counts_end_with_response: bool = False
    runners: Mapping[Device, str] = field(default_factory=dict)
    decoding_type: str = ""
    python_config: str = ""
    head_key: str = ""
    environments: Mapping[Device, EnvironmentData] = field(default_factory=dict)
    no_environment: Mapping[Device, str] = field(default_factory=dict)
    image: ImageData | None = None


@dataclass(frozen=True, slots=True)
class Interface:
    """Names that a version's package has, as the package itself told them (``workers/interface_worker.py``).

    Attributes:
        version: as the package states it. flags: of its server. environment: variables it reads.
        names: what its top-level module exports. keywords: by constructor, those it takes.
        speculative_config: keys of vLLM's. algorithms, chat_templates: values that SGLang's flags take.
    """

    version: str
    flags: tuple[str, ...]
    environment: tuple[str, ...]
    names: tuple[str, ...] | None = None
    keywords: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    speculative_config: tuple[str, ...] = ()
    algorithms: tuple[str, ...] = ()
    chat_templates: tuple[str, ...] = ()


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


@cache
def common(engine: str) -> Common:
    """What is true of ``engine`` whatever its version."""
    return build(Common, read_toml(DATA / engine / "common.toml"), f"engines/data/{engine}/common.toml")


def engine_title(engine: str) -> str:
    """What ``engine`` calls itself."""
    return common(engine).title


def engine_module(engine: str) -> str:
    """The Python module of ``engine``."""
    return common(engine).module or engine


def facts(engine: str) -> tuple[Fact, ...]:
    """Names of earlier versions, and what they have become."""
    return common(engine).facts


def default_version(engine: str) -> str:
    """The version of ``engine`` that is pinned: installed and run unless another is asked for."""
    return common(engine).pinned


@cache
def versions_with(engine: str, file: str) -> tuple[str, ...]:
    """The versions of ``engine`` whose folder has ``file``, oldest first; those without a number come last."""
    return tuple(sorted((path.parent.name for path in (DATA / engine).glob(f"*/{file}")), key=_age))


def versions(engine: str) -> tuple[str, ...]:
    """The versions of ``engine`` that a recipe can be spelled for, oldest first."""
    return versions_with(engine, "engine.toml")


def _age(version: str) -> tuple[bool, list[tuple[int, int, str]]]:
    """A key that sorts versions: 0.2rc1 < 0.2 < 0.2.1 < 0.10 < main."""
    parts = re.findall(r"\d+|[a-z]+", version)
    key = [(2, int(part), "") if part.isdigit() else (0, 0, part) for part in parts]
    return not version[:1].isdigit(), [*key, (1, 0, "")]


def document(engine: str, version: str, file: str) -> dict[str, Any]:
    """A ``.toml`` file of one version, merged over that of the version it builds on.

    Tables are merged key by key, except ``aux`` and ``architectures``; any other value replaces the one it builds on.
    """
    own = read_toml(DATA / engine / version / file)
    base = document(engine, own["builds_on"], file) if "builds_on" in own else {}
    merge = merged({key: value for key, value in base.items() if key not in _OF_ONE_VERSION}, own)
    return {key: value for key, value in merge.items() if key != "builds_on"}


def merged(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """``own`` over ``base``; see `document`."""
    out = dict(base)
    for key, value in own.items():
        whole = key in {"aux", "architectures"} or not isinstance(value, dict)
        out[key] = value if whole else merged(out.get(key, {}), value)
    return out


@cache
def _version_data(engine: str, version: str) -> VersionData:
    read = document(engine, version, "engine.toml")
    return build(VersionData, read, f"engines/data/{engine}/{version}/engine.toml")


def version_data(engine: str, version: str | None = None) -> VersionData:
    """What is known of one version, the pinned one if none is named; UsageError names those there are."""
    known = versions(engine)
    wanted = default_version(engine) if version is None else version
    if wanted not in known:
        raise UsageError(
            f"nothing is known of {engine_title(engine)} {wanted}",
            hint=f"versions: {', '.join(known)}",
            code="usage-engine-version",
        )
    return _version_data(engine, wanted)


def preflight_version(engine: str, version: str, device: str) -> str:
    """What the preflight calls ``version`` of ``engine`` on ``device``."""
    runner = _of(version_data(engine, version).runners, device)
    return version if runner is None else f"{version} {runner}"


@cache
def interface(engine: str) -> Interface | None:
    """Flags, variables and names of the engine's pinned version as its package has them; None if it was not had."""
    file = DATA / engine / default_version(engine) / "interface.json"
    if not file.is_file():
        return None
    place = f"engines/data/{engine}/{default_version(engine)}/interface.json"
    return build(Interface, json.loads(file.read_text(encoding="utf-8")), place)


def environment_devices(engine: str) -> tuple[str, ...]:
    """Devices for which an environment of ``engine`` can be installed."""
    return tuple(version_data(engine).environments)


def no_environment(engine: str, device: str) -> str | None:
    """Why no environment can be made, where that is known."""
    data = version_data(engine)
    return None if device in data.environments else _of(data.no_environment, device)


def environment_spec(engine: str, device: str) -> EnvironmentSpec:
    """How to make an environment of ``engine`` for ``device``; UnavailableError where none is known."""
    version = default_version(engine)
    found, folder = _of(version_data(engine).environments, device), DATA / engine / version
    if found is None:
        why = no_environment(engine, device)
        raise UnavailableError(
            why or f"there is no tested environment of {engine} {version} for {device}",
            hint=f"install {engine} yourself and give its interpreter: --engine-python {engine}=/path/to/python",
            code="engine-no-environment",
        )
    archive = found.sources
    return EnvironmentSpec(
        engine=engine,
        version=version,
        device=device,
        distribution=f"{found.distribution}=={version}",
        requirements=folder / f"requirements-{device}.txt",
        platforms=found.platforms,
        disk_gib=found.disk_gib,
        resolve=found.resolve,
        tested=found.tested,
        module=engine_module(engine),
        sources=None
        if archive is None
        else Sources(folder / "requirements-sources.txt", archive.folder, archive.keep, archive.into),
    )


def _of(table: Mapping[Device, T], device: str) -> T | None:
    """What a table has for ``device``, which may be the name of another kind of place (``server``)."""
    return next((found for name, found in table.items() if name == device), None)
