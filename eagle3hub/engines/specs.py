"""Read the facts about each engine and each of its versions from ``data`` into typed objects.

``data/ENGINE/common.toml`` holds the facts that do not depend on the version, and names the pinned version.
``data/ENGINE/VERSION/`` holds one version: ``engine.toml`` (recipe, environments, image; read here), ``contract.toml``
and ``probed.json`` (how it reads a head; read by ``preflight``), ``interface.json`` (flags, variables and names of its
package) and ``requirements-DEVICE.txt``. An ``engine.toml`` or ``contract.toml`` may build on another version's file
(``builds_on``) and then states only the differences. To add a version, add a folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

from eagle3hub.errors import Severity, UnavailableError, UsageError
from eagle3hub.system.resources import read_toml
from eagle3hub.system.typed import build

T = TypeVar("T")
Device = Literal["cpu", "cuda", "tpu"]
DEVICES: tuple[Device, ...] = ("cpu", "cuda", "tpu")
PARALLEL_DRAFTING = "parallel_drafting"
"""The key of vLLM's speculative_config that makes it draft in parallel (``config/speculative.py:478``)."""
_PYTHONS = (11, 14)
"""The oldest and the newest minor version of Python 3 that engines support, unless their data say otherwise."""
DATA = Path(__file__).resolve().parent / "data"
_OF_ONE_VERSION = ("builds_on", "environments", "image", "called")
"""Keys that a version does not inherit from the version it builds on."""

Setting = Literal[
    "target", "head", "config", "algorithm", "method", "steps", "topk", "draft_tokens", "no_overlap",
    "tensor_parallel", "dtype", "context", "nodes", "node_rank", "meeting", "follower",
]  # fmt: skip
"""Names of the settings that a recipe passes to an engine."""


@dataclass(frozen=True, slots=True)
class NameFact:
    """A flag, environment variable, YAML key or Python name that changed or never existed, and its replacement."""

    names: tuple[str, ...]
    code: str
    says: str
    instead: str
    source: str
    severity: Severity = "error"


@dataclass(frozen=True, slots=True)
class AcceptanceFact:
    """A setting with which acceptance is simulated or lossy, so that an acceptance length says nothing of the head.

    It holds for one of ``values``, or for numbers below ``below`` or above ``above``. ``names`` are keys, flags with
    underscores, or environment variables.
    """

    names: tuple[str, ...]
    code: str
    says: str
    source: str
    values: tuple[str, ...] = ()
    below: float | None = None
    above: float | None = None

    def holds(self, value: Any) -> bool:
        """Whether the setting has this value; text that is no number is compared with ``values`` alone."""
        try:
            number = float(value)
        except (TypeError, ValueError):
            return str(value).lower() in self.values
        inside = (self.below is not None and number < self.below) or (self.above is not None and number > self.above)
        return inside or str(value).lower() in self.values


@dataclass(frozen=True, slots=True)
class Minimum:
    """The first version with EAGLE-3, if a plain install gives an older one; with a sentence and its source."""

    version: str
    says: str
    source: str


@dataclass(frozen=True, slots=True)
class EngineData:
    """The facts about an engine that do not depend on its version.

    Attributes:
        title: the engine's own name. module: its Python module, if that differs from the name used here.
        framework: what it computes with.
        pinned: the version that is installed and run by default.
        released_as: its distributions on the package index, where `tools/engine_releases.py` looks.
        beside: further versions that every preflight checks.
        facts: names that changed or never existed, with their replacements. acceptance: see `AcceptanceFact`.
        yaml: keys of the YAML it takes, by section, and values of some. flags: of its server, where no version has an
        ``interface.json``; the list may lack some. minimum: see `Minimum`.
    """

    title: str
    pinned: str
    released_as: tuple[str, ...] = ()
    module: str | None = None
    framework: Literal["torch", "jax"] = "torch"
    beside: tuple[str, ...] = ()
    facts: tuple[NameFact, ...] = ()
    acceptance: tuple[AcceptanceFact, ...] = ()
    flags: tuple[str, ...] = ()
    yaml: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    minimum: Minimum | None = None


@dataclass(frozen=True, slots=True)
class SourceArchive:
    """The files of a source archive that an environment needs; see `Sources`."""

    folder: str
    keep: tuple[str, ...]
    into: str


@dataclass(frozen=True, slots=True)
class EnvironmentData:
    """An environment in ``engine.toml``; see `EnvironmentSpec`.

    ``distribution`` has no version here; ``leaves_out`` names what its metadata asks for and text models do without.
    """

    distribution: str
    platforms: tuple[str, ...]
    disk_gib: float
    pythons: tuple[int, int] = _PYTHONS
    resolve: bool = False
    tested: bool = True
    leaves_out: tuple[str, ...] = ()
    sources: SourceArchive | None = None


@dataclass(frozen=True, slots=True)
class ImageData:
    """A container image: its address, the devices it supports, and its default flavor of Hugging Face Jobs."""

    address: str
    devices: tuple[Device, ...]
    flavor: str


@dataclass(frozen=True, slots=True)
class VersionData:
    """The facts about one version of an engine, except how it reads a head.

    Attributes:
        command: the words that start its server. flags: its flag for each setting of a recipe.
        meeting_port: port that its nodes meet on, where the flag takes one with the address.
        node_launcher: the words before the command that start it on all nodes at once, in an allocation of Slurm.
        convert: the words that convert a folder into a file it can serve; empty if it serves folders.
        dtypes: its name for a dtype, if that differs from ours.
        greedy_only: devices on which it speculates correctly only at temperature 0.
        counts_end_with_response: whether it accepts no token past the end of a response, and drafts none past the
            token limit.
        drafts_wrongly: what it computes otherwise than heads are trained to, whatever the files; empty if nothing.
        runners: by device, the runner whose name the preflight adds to the version, if runners read files differently.
        decoding_type, python_config, head_key: TensorRT-LLM's names for EAGLE-3 in its YAML and in Python.
        environments: by device, how to make one. no_environment: by device, why there is none.
        image: the container image for Hugging Face Jobs, or None.
    """

    command: tuple[str, ...]
    flags: Mapping[Setting, str]
    meeting_port: int | None = None
    node_launcher: tuple[str, ...] = ()
    convert: tuple[str, ...] = ()
    dtypes: Mapping[str, str] = field(default_factory=dict)
    greedy_only: tuple[Device, ...] = ()
    counts_end_with_response: bool = False
    drafts_wrongly: str = ""
    runners: Mapping[Device, str] = field(default_factory=dict)
    decoding_type: str = ""
    python_config: str = ""
    head_key: str = ""
    environments: Mapping[Device, EnvironmentData] = field(default_factory=dict)
    no_environment: Mapping[Device, str] = field(default_factory=dict)
    image: ImageData | None = None


@dataclass(frozen=True, slots=True)
class Interface:
    """The names that a version's package has, as the package itself reports them (``workers/interface_worker.py``).

    Attributes:
        version: as the package states it. flags: of its server. environment: variables it reads.
        choices: by flag, the values it is limited to. arity: by flag, how many values follow it as argparse writes it
        (``0``, ``?``, ``*``, ``+``), if that is not one; empty if that is not known of any flag.
        names: exports of its top-level module. keywords: by constructor, the keywords it takes. types: by keyword, the
        JSON types it takes, for those that take nothing else.
        speculative_config: keys of vLLM's speculative config; speculative_values: by key, the values it is limited to.
        algorithms, chat_templates: values of SGLang's flags.
    """

    version: str
    flags: tuple[str, ...]
    environment: tuple[str, ...]
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    arity: Mapping[str, str] = field(default_factory=dict)
    names: tuple[str, ...] | None = None
    keywords: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    types: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    speculative_config: tuple[str, ...] = ()
    speculative_values: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    algorithms: tuple[str, ...] = ()
    chat_templates: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Sources:
    """Files to copy from a source archive into an environment; nothing in the archive is built.

    ``requirements`` names the archive and its digest; ``keep`` lists files and folders (with a slash at the end) below
    ``folder`` in the archive; ``into`` is the folder of the environment that they go to.
    """

    requirements: Path
    folder: str
    keep: tuple[str, ...]
    into: str

    def wanted(self, member: str) -> str | None:
        """Return the path of a member below ``into``, or None if it is not kept."""
        _, found, inner = member.partition(f"/{self.folder}/")
        folders = tuple(kept for kept in self.keep if kept.endswith("/"))
        kept = inner in self.keep or inner.startswith(folders)
        return inner if found and kept and ".." not in inner.split("/") else None


@dataclass(frozen=True, slots=True)
class EnvironmentSpec:
    """How to make an environment: the frozen requirements, and where they can be installed.

    ``platforms`` are ``{sys.platform}-{machine}`` pairs; ``disk_gib`` is the size of the complete environment in GiB;
    ``pythons`` are the oldest and the newest minor version of Python 3 that it supports;
    ``resolve`` lets pip add missing dependencies (otherwise the requirements are complete); ``tested`` says whether
    the authors tried it; ``import_path`` is a folder of modules that the engine needs to import; ``module`` is the
    module to import, if its name differs from the engine's.
    """

    engine: str
    version: str
    device: str
    distribution: str
    requirements: Path
    platforms: tuple[str, ...]
    disk_gib: float
    pythons: tuple[int, int] = _PYTHONS
    resolve: bool = False
    tested: bool = True
    import_path: Path | None = None
    module: str | None = None
    sources: Sources | None = None


@cache
def engine_data(engine: str) -> EngineData:
    """Return the facts about ``engine`` that do not depend on its version."""
    return build(EngineData, read_toml(DATA / engine / "common.toml"), f"engines/data/{engine}/common.toml")


def engine_title(engine: str) -> str:
    """Return the engine's own name, for messages."""
    return engine_data(engine).title


def engine_module(engine: str) -> str:
    """Return the name of the engine's Python module."""
    return engine_data(engine).module or engine


def name_facts(engine: str) -> tuple[NameFact, ...]:
    """Return the names that changed or never existed, with their replacements."""
    return engine_data(engine).facts


def default_version(engine: str) -> str:
    """Return the pinned version of ``engine``: the one that is installed and run by default."""
    return engine_data(engine).pinned


@cache
def versions_with(engine: str, file: str) -> tuple[str, ...]:
    """Return the versions of ``engine`` whose folder has ``file``, oldest first; names without a number come last."""
    return tuple(sorted((path.parent.name for path in (DATA / engine).glob(f"*/{file}")), key=_age))


def recipe_versions(engine: str) -> tuple[str, ...]:
    """Return the versions of ``engine`` that a recipe can be written for, oldest first."""
    return versions_with(engine, "engine.toml")


_Age = tuple[bool, tuple[tuple[int, int, str], ...]]


def _age(version: str) -> _Age:
    """Return a key that sorts versions: 0.2rc1 < 0.2 < 0.2.post1 < 0.2.1 < 0.10 < nightly."""
    parts = re.findall(r"\d+|[a-z]+", version)
    key = [(2, int(part), "") if part.isdigit() else (1 if part == "post" else 0, 0, part) for part in parts]
    return not version[:1].isdigit(), (*key, (1, 0, ""))


@dataclass(frozen=True, slots=True)
class KnownVersion:
    """The known version that a version of an engine is judged as.

    ``warning`` is None if that is the version itself, else a sentence that says which version stands for which.
    ``newer`` says whether the version in question is newer than every known one.
    """

    version: str
    warning: str | None = None
    newer: bool = False


def known_version(engine: str, asked: str | None = None, file: str = "engine.toml") -> KnownVersion:
    """Return the version among those with ``file`` that ``asked`` is judged as; None asks for the pinned one.

    This is the one rule for versions that are not known. A version is judged as the newest known release that is not
    newer; without one, as the oldest; a candidate or a development build of a known release as that release. Local
    parts (``+cpu``) and zeros at the end do not count: 1.2.0 is 1.2. A known version of two numbers is known for the
    whole series: 1.2.1 and 1.3.0rc2 are 1.2 and 1.3. Raises UsageError for text that is no version.
    """
    known = versions_with(engine, file)
    if asked is None or asked in known:
        return KnownVersion(asked or default_version(engine))
    found = _RELEASE.match(asked)
    if found is None:
        raise UsageError(
            f"nothing is known of {engine_title(engine)} {asked}",
            hint=f"versions: {', '.join(known)}",
            code="usage-engine-version",
        )
    releases = {_age(_plain(version)): version for version in known}
    own, whole = _age(_plain(asked)), _age(_plain(found[1]))
    if own in releases:
        return KnownVersion(releases[own])
    for version in known:
        if version.count(".") == 1 and found[1].startswith(f"{version}."):
            return KnownVersion(version)
    not_newer = [age for age in releases if age <= max(own, whole)]
    nearest = releases[max(not_newer, default=min(releases))]
    title = engine_title(engine)
    if asked in recipe_versions(engine):
        what = f"how {title} {asked} reads a head" if file == "contract.toml" else f"what {title} {asked} accepts"
        return KnownVersion(nearest, f"{what} is not known: it is judged as {nearest}")
    if own < min(releases) and not not_newer:
        how = "older than every version that eagle3hub knows"
    elif own > max(releases):
        how = "newer than every version that eagle3hub knows"
    else:
        how = "not a version that eagle3hub knows"
    return KnownVersion(nearest, f"{title} {asked} is {how}: it is judged as {nearest}", own > max(releases))


_RELEASE = re.compile(r"v?(\d+(?:\.\d+)+)")


def _plain(version: str) -> str:
    """Return a version without a local part, a leading v, and zeros at the end of its release."""
    text = version.partition("+")[0].removeprefix("v")
    return re.sub(r"^(\d+(?:\.\d+)*?)(?:\.0)+(?!\.?\d)", r"\1", text)


def version_document(
    engine: str,
    version: str,
    file: str,
    over: Callable[[str, str, dict[str, object]], dict[str, object]] | None = None,
) -> dict[str, object]:
    """Read a ``.toml`` file of one version, merged over the file of the version it builds on.

    Tables are merged key by key, except ``aux``, ``architectures`` and ``rope``; other values replace the older ones.
    ``over`` changes what each version states, the one built on included, by engine and version.
    """
    own = read_toml(DATA / engine / version / file)
    base = version_document(engine, own["builds_on"], file, over) if "builds_on" in own else {}
    merge = merge_tables({key: value for key, value in base.items() if key not in _OF_ONE_VERSION}, own)
    stated = {key: value for key, value in merge.items() if key != "builds_on"}
    return stated if over is None else over(engine, version, stated)


def merge_tables(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Merge ``own`` over ``base``; see `version_document`."""
    out = dict(base)
    for key, value in own.items():
        whole = key in {"aux", "architectures", "rope"} or not isinstance(value, dict)
        out[key] = value if whole else merge_tables(out.get(key, {}), value)
    return out


@cache
def _version_data(engine: str, version: str) -> VersionData:
    read = version_document(engine, version, "engine.toml")
    return build(VersionData, read, f"engines/data/{engine}/{version}/engine.toml")


def version_data(engine: str, version: str | None = None) -> VersionData:
    """Return the facts about a version, by default the pinned one; see `known_version` for one that is not known."""
    return _version_data(engine, known_version(engine, version).version)


def preflight_version(engine: str, version: str, device: str) -> str:
    """Return the preflight's name for ``version`` of ``engine`` on ``device``."""
    runner = _of(version_data(engine, version).runners, device)
    return version if runner is None else f"{version} {runner}"


def interface(engine: str, version: str | None = None) -> Interface | None:
    """Return the flags, variables and names of a version, by default the pinned one.

    None if we never had that version's package; see `known_version` for a version that is not known.
    """
    return _interface(engine, known_version(engine, version).version)


@cache
def _interface(engine: str, version: str) -> Interface | None:
    file = DATA / engine / version / "interface.json"
    if not file.is_file():
        return None
    return build(
        Interface, json.loads(file.read_text(encoding="utf-8")), f"engines/data/{engine}/{version}/interface.json"
    )


def environment_devices(engine: str) -> tuple[str, ...]:
    """Return the devices for which an environment of ``engine`` can be installed."""
    return tuple(version_data(engine).environments)


def no_environment(engine: str, device: str) -> str | None:
    """Return why no environment can be made, or None if one can or the reason is unknown."""
    data = version_data(engine)
    return None if device in data.environments else _of(data.no_environment, device)


def environment_spec(engine: str, device: str) -> EnvironmentSpec:
    """Return how to make an environment of ``engine`` for ``device``. Raises UnavailableError if there is no way."""
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
        pythons=found.pythons,
        resolve=found.resolve,
        tested=found.tested,
        module=engine_module(engine),
        sources=None
        if archive is None
        else Sources(folder / "requirements-sources.txt", archive.folder, archive.keep, archive.into),
    )


def _of(table: Mapping[Device, T], device: str) -> T | None:
    """Return the table's value for ``device`` or None; ``device`` may also be another place, such as ``server``."""
    return next((found for name, found in table.items() if name == device), None)
