"""Plan a benchmark: heads x data sets x draft tokens x temperatures x engines, checked before it runs."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from eagle3hub.address import HubAddress, head_address
from eagle3hub.checkpoint.digest import folder_digest
from eagle3hub.checkpoint.folder import open_checkpoint
from eagle3hub.engines import ENGINES
from eagle3hub.engines.base import DTYPES, Dtype, EngineSettings
from eagle3hub.engines.options import template_in_words
from eagle3hub.engines.specs import DEVICES, Device
from eagle3hub.errors import UsageError
from eagle3hub.layouts import open_head
from eagle3hub.prompts import PromptSet, contexts_of, datasets, is_cached
from eagle3hub.system.documents import did_you_mean
from eagle3hub.system.progress import Progress, silent
from eagle3hub.validation.gates import COLLAPSE
from eagle3hub.validation.options import DEFAULT_TIMEOUT, DRAFTING, REFERENCE, Drafting, check_started, check_tree
from eagle3hub.validation.report import MeasuredTarget
from eagle3hub.validation.target import Target, check_rendering, identify_target, load_prompts_for

KNOWN_ENGINES = (REFERENCE, *ENGINES)
MOST_DRAFT_TOKENS = 16


@dataclass(frozen=True, slots=True)
class BenchHead:
    """A head: its name in the tables, where it is, its layout and the digest of its files.

    ``context`` is the longest context in tokens that its config states, or None.
    """

    name: str
    source: str
    layout: str
    digest: str
    context: int | None = None


@dataclass(frozen=True, slots=True)
class CellSettings:
    """The ``settings`` object of a cell: a report's settings, and the shape of a draft tree (None for a chain)."""

    draft_tokens: int
    temperature: float
    max_new_tokens: int
    seed: int
    dtype: str
    device: str
    concurrency: int
    min_acceptance_length: float | None
    collapse_acceptance_length: float
    chat_template: str
    system_prompt: str | None
    drafting: str
    topk: int | None
    num_draft_tokens: int | None
    engine_settings: EngineSettings = field(default_factory=EngineSettings)

    def to_json(self) -> dict[str, Any]:
        """The ``settings`` object of a cell."""
        plain = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "engine_settings"}
        return plain | ({"engine_settings": self.engine_settings.to_json()} if self.engine_settings else {})

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> CellSettings:
        """What `to_json` gave."""
        return cls(**{**data, "engine_settings": EngineSettings.from_json(data.get("engine_settings", {}))})


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings that change the acceptance length and are the same in every cell.

    Head, prompts, K, temperature and engine are not among them.

    Attributes:
        max_new_tokens: limit per prompt, in tokens.
        drafting: how tokens are drafted above temperature 0: the likeliest, or drawn from the head's probabilities.
        attached: engines that run as servers already; each server chose its own device.
        topk, num_draft_tokens: branches per level and nodes of a draft tree; both None for a chain.
        min_acceptance_length: lowest acceptance length that passes, or None.
        engine_settings: how engines are started and prompts are rendered beyond that.
    """

    max_new_tokens: int = 128
    seed: int = 0
    dtype: Dtype = "float32"
    device: Device = "cpu"
    drafting: Drafting = "greedy"
    topk: int | None = None
    num_draft_tokens: int | None = None
    min_acceptance_length: float | None = None
    system_prompt: str | None = None
    attached: tuple[str, ...] = ()
    engine_settings: EngineSettings = field(default_factory=EngineSettings)


def measurement_key(
    head: str, target: MeasuredTarget, prompts: str, engine: str, engine_version: str, settings: CellSettings
) -> str:
    """Return the SHA-256 (hex) of everything a cell's result depends on; ``head`` and ``prompts`` are digests."""
    what = {
        "head": head,
        "target": target.to_json(),
        "prompts": prompts,
        "engine": [engine, engine_version],
        "settings": settings.to_json(),
    }
    return hashlib.sha256(json.dumps(what, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Cell:
    """One measurement: a head over the prompts of one data set, at one K and one temperature, on one engine."""

    head: BenchHead
    target: Target
    prompts: PromptSet
    draft_tokens: int
    temperature: float
    engine: str
    common: Settings

    @property
    def settings(self) -> CellSettings:
        """What the acceptance length depends on besides head, prompts and engine."""
        common = self.common
        return CellSettings(
            draft_tokens=self.draft_tokens,
            temperature=self.temperature,
            max_new_tokens=common.max_new_tokens,
            seed=common.seed,
            dtype=common.dtype,
            device="server" if self.engine in common.attached else common.device,
            concurrency=1,
            min_acceptance_length=common.min_acceptance_length,
            collapse_acceptance_length=COLLAPSE,
            chat_template=template_in_words(common.engine_settings.chat_template),
            system_prompt=common.system_prompt,
            drafting=common.drafting,
            topk=common.topk,
            num_draft_tokens=None if common.topk is None else common.num_draft_tokens,
            engine_settings=common.engine_settings.of_run(
                [self.engine] if self.engine != REFERENCE and self.engine not in common.attached else []
            ),
        )

    def key(self, engine_version: str) -> str:
        """Return the SHA-256 (hex) of everything the result depends on.

        Two cells with the same key are the same measurement.
        """
        return measurement_key(
            self.head.digest, self.target.identity, self.prompts.sha256, self.engine, engine_version, self.settings
        )

    def __str__(self) -> str:
        return f"{self.head.name} on {self.prompts.name}, K = {self.draft_tokens}, T = {self.temperature:g}"


@dataclass(frozen=True, slots=True)
class CellGroup:
    """Cells that share engine, target, prompts and temperature.

    They need only one load of the target and one set of its texts.

    The cells of one head follow each other.
    """

    engine: str
    target: Target
    prompts: PromptSet
    temperature: float
    cells: tuple[Cell, ...]

    @property
    def longest_draft(self) -> int:
        """The largest K among the cells: how many tokens past a response's end the texts must contain."""
        return max(cell.draft_tokens for cell in self.cells)

    def only(self, cells: Sequence[Cell]) -> CellGroup:
        """Return this group with only these cells."""
        return replace(self, cells=tuple(cells))


@dataclass(frozen=True, slots=True)
class BenchPlan:
    """A benchmark before it is run.

    Attributes:
        base: name of the head that the others are compared with.

    Raises UsageError for an empty list, a duplicate, an unknown engine, K outside 1 … 16, a negative temperature,
    impossible settings, and several heads or K for a running server, which serves one head at one K.
    """

    heads: tuple[BenchHead, ...]
    target: Target
    datasets: tuple[PromptSet, ...]
    draft_tokens: tuple[int, ...]
    temperatures: tuple[float, ...]
    engines: tuple[str, ...]
    settings: Settings
    base: str

    def __post_init__(self) -> None:
        _distinct("HEAD", [head.name for head in self.heads], "name them apart: first=FOLDER second=FOLDER")
        _distinct("--datasets", [dataset.name for dataset in self.datasets])
        _distinct("--draft-tokens", self.draft_tokens)
        _distinct("--temperature", self.temperatures)
        _distinct("--engine", self.engines)
        for k in self.draft_tokens:
            if not 1 <= k <= MOST_DRAFT_TOKENS:
                raise _usage(f"--draft-tokens {k} is not between 1 and {MOST_DRAFT_TOKENS}")
        for temperature in self.temperatures:
            if not (temperature >= 0 and math.isfinite(temperature)):
                raise _usage(f"--temperature {temperature:g} is not 0 or more")
        for engine in self.engines:
            _one_of("--engine", engine, KNOWN_ENGINES)
        if self.base not in [head.name for head in self.heads]:
            raise _usage(f"--base {self.base!r} is none of the heads", [head.name for head in self.heads])
        self._check_settings()

    def _check_settings(self) -> None:
        settings = self.settings
        _one_of("--dtype", settings.dtype, DTYPES)
        _one_of("--device", settings.device, DEVICES)
        _one_of("--drafting", settings.drafting, DRAFTING)
        if settings.max_new_tokens < 1:
            raise _usage(f"--max-new-tokens must be 1 or more, not {settings.max_new_tokens}")
        for k in self.draft_tokens:
            check_tree(k, 1 if settings.topk is None else settings.topk, settings.num_draft_tokens)
        if settings.attached and (len(self.heads) > 1 or len(self.draft_tokens) > 1):
            raise UsageError(
                "--endpoint is a server of one head at one K, and this asks for several",
                hint="measure one server at a time",
                code="usage-endpoint",
            )
        bar = settings.min_acceptance_length
        if bar is not None and not 1 <= bar <= min(self.draft_tokens) + 1:
            raise _usage(
                f"--min-acceptance-length {bar:g} is impossible: with {min(self.draft_tokens)} draft tokens the "
                f"acceptance length lies between 1 and {min(self.draft_tokens) + 1}"
            )

    def groups(self) -> Iterator[CellGroup]:
        """Yield all cells, each once, in groups that share the expensive work."""
        for engine in self.engines:
            for prompts in self.datasets:
                for temperature in self.temperatures:
                    cells = tuple(
                        Cell(head, self.target, prompts, k, temperature, engine, self.settings)
                        for head in self.heads
                        for k in self.draft_tokens
                    )
                    yield CellGroup(engine, self.target, prompts, temperature, cells)

    @property
    def size(self) -> int:
        """Number of cells."""
        return (
            len(self.heads) * len(self.datasets) * len(self.draft_tokens) * len(self.temperatures) * len(self.engines)
        )


def _distinct(option: str, values: Sequence[object], hint: str | None = None) -> None:
    if not values:
        raise _usage(f"{option} is empty")
    for i, value in enumerate(values):
        if value in values[:i]:
            raise UsageError(f"{option} has {value} twice", hint=hint, code="usage-bench")


def _one_of(option: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise _usage(f"{option} {value!r} is not known{did_you_mean(value, list(known))}", known)


def _usage(message: str, known: Sequence[str] = ()) -> UsageError:
    return UsageError(message, hint=f"there are: {', '.join(known)}" if known else None, code="usage-bench")


# The options of a benchmark, and the plan made from them.


T = TypeVar("T")
_NAMED = re.compile(r"(?P<name>[A-Za-z0-9][\w.+-]*)=(?P<source>.+)", re.ASCII)


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """What a benchmark measures, and how; lists are text with commas (``3,5,7``), as typed on the command line.

    Attributes:
        datasets: names of prompt sets, or JSON Lines files. num_prompts: how many prompts to take from the start of
            each.
        context: lengths in tokens (``1k,4k``) that prompts are brought to with text of their set, each a data set of
            its own; None: prompts as they are.
        system_prompt: goes before every prompt; None for none.
        second_turns: file of the target's responses to the first turns, to measure the second ones; None: the first.
        draft_tokens, temperature, engine: one or several of each; every combination is measured.
        topk, num_draft_tokens: with ``topk`` above 1, SGLang's trees: branches per token, and nodes, root included.
        drafting: how tokens are drafted above temperature 0: ``greedy`` or ``probabilistic``.
        base: name of the head that the others are compared with; None: the first.
        target_name: what the results call the target.
        engine_python: interpreter by engine. endpoints: address of a running server by engine.
        timeout: seconds for each run of an engine.
        device_map, batch_tokens: as in `eagle3hub.validation.options.ReferenceOptions`.
        run_anyway: also start an engine that will refuse the files, or serve them silently wrong.
        engine_settings: how engines are started and prompts are rendered beyond all this.
    """

    datasets: str = "mt_bench,humaneval,gsm8k"
    draft_tokens: str = "3"
    topk: int = 1
    num_draft_tokens: int | None = None
    temperature: str = "0"
    engine: str = REFERENCE
    num_prompts: int | None = None
    context: str | None = None
    system_prompt: str | None = None
    second_turns: str | Path | None = None
    max_new_tokens: int = 128
    drafting: str = "greedy"
    seed: int = 0
    device: str = "cpu"
    dtype: str = "float32"
    min_acceptance_length: float | None = None
    base: str | None = None
    target_name: str | None = None
    engine_python: Mapping[str, str | Path] = field(default_factory=dict)
    endpoints: Mapping[str, str] = field(default_factory=dict)
    timeout: float = DEFAULT_TIMEOUT
    device_map: str | None = None
    batch_tokens: int | None = None
    run_anyway: bool = False
    engine_settings: EngineSettings = field(default_factory=EngineSettings)

    @property
    def settings(self) -> Settings:
        """The settings that all cells share; the plan refuses unknown names in them."""
        return Settings(
            max_new_tokens=self.max_new_tokens,
            seed=self.seed,
            dtype=self.dtype,  # type: ignore[arg-type]
            device=self.device,  # type: ignore[arg-type]
            drafting=self.drafting,  # type: ignore[arg-type]
            min_acceptance_length=self.min_acceptance_length,
            topk=None if self.topk == 1 else self.topk,
            num_draft_tokens=self.num_draft_tokens,
            system_prompt=self.system_prompt,
            attached=tuple(self.endpoints),
            engine_settings=self.engine_settings,
        )


def bench_plan(heads: Sequence[str], target: str, options: BenchOptions, progress: Progress = silent) -> BenchPlan:
    """Read heads, target and prompts, and check the whole plan; the first head is the base unless one is named.

    Raises UsageError for impossible lists and names, and whatever reading heads, target and prompts raises.
    """
    drafts = parse_list("--draft-tokens", options.draft_tokens, int, "whole numbers")
    temperatures = parse_list("--temperature", options.temperature, float, "numbers")
    engines = parse_list("--engine", options.engine, str, "names")
    engines += [name for name in options.endpoints if name not in engines]
    names = parse_list("--datasets", options.datasets, str, "names or files")
    identity = identify_target(target, options.target_name, progress)
    check_rendering(identity, options.engine_settings.chat_template, progress)
    prompts = [
        one
        for name in names
        for one in load_prompts_for(
            identity,
            name,
            num_prompts=options.num_prompts,
            contexts=[] if options.context is None else contexts_of(options.context),
            system_prompt=options.system_prompt,
            template_options=options.engine_settings.chat_template,
            new_tokens=options.max_new_tokens + max(drafts),
            after=options.second_turns,
            progress=progress,
        )
    ]
    read = [read_head(text, identity, progress) for text in heads]
    started = [name for name in engines if name in ENGINES]
    check_started(options.engine_settings, started, options.endpoints, options.engine_python)
    return BenchPlan(
        heads=tuple(read),
        target=identity,
        datasets=tuple(prompts),
        draft_tokens=tuple(drafts),
        temperatures=tuple(temperatures),
        engines=tuple(engines),
        settings=options.settings,
        base=options.base if options.base is not None else read[0].name if read else "",
    )


def refuse_uneven(plan: BenchPlan) -> None:
    """Raise UsageError (``usage-context``) for lengths that would take other prompts if each were run alone.

    Those that do not fit into the shortest are left out of every length.
    """
    contexts = [prompts.context for prompts in plan.datasets if prompts.context is not None]
    if len({context.tokens for context in contexts}) > 1 and any(context.left_out for context in contexts):
        raise UsageError(
            f"prompts of {contexts[0].of} that do not fit into the shortest --context are left out of all, and an "
            "array measures each length apart",
            hint="begin with a longer one, or run it in an allocation of its own: sbatch --wrap 'eagle3hub bench …'",
            code="usage-context",
        )


def parse_list(option: str, text: str, kind: Callable[[str], T], what: str) -> list[T]:
    """Read ``"3,5,7"`` as ``[3, 5, 7]``; UsageError (``usage-bench``) for an empty item or one of another kind."""
    out = []
    for part in text.split(","):
        try:
            if not part.strip():
                raise ValueError
            out.append(kind(part.strip()))
        except ValueError:
            raise UsageError(
                f"{option} {text!r} is not a list of {what}", hint="write them with commas between", code="usage-bench"
            ) from None
    return out


def name_and_source(text: str) -> tuple[str | None, str]:
    """The name and the address in ``NAME=HEAD``; no name in an address alone."""
    match = None if Path(text).expanduser().exists() else _NAMED.fullmatch(text)
    return (match["name"], match["source"]) if match else (None, text)


def read_head(text: str, target: Target, progress: Progress = silent) -> BenchHead:
    """Read the head at an address (`head_address`), or at the address after ``NAME=``.

    Raises SourceError where there is no folder, the first error among the head's problems, and whatever reading it
    raises.
    """
    given, source = name_and_source(text)
    at = head_address(source)
    place = at if isinstance(at, HubAddress) else at.path.resolve()
    name = given or place.name
    progress(f"reading {name}")
    checkpoint = open_checkpoint(place, progress=progress)
    head = open_head(checkpoint, target=target.source)
    for problem in head.problems:
        if problem.severity == "error":
            raise problem.to_error()
    digest = folder_digest(checkpoint.folder)[0]
    return BenchHead(name, str(checkpoint.folder), head.layout, digest, head.max_position_embeddings)


def listing() -> list[dict[str, object]]:
    """Return the data sets that can be fetched, as plain data."""
    return [
        {
            "name": one.name,
            "title": one.title,
            "prompts": one.prompts,
            "bytes": one.bytes,
            "cached": is_cached(one),
            **one.to_json(),
        }
        for one in datasets().values()
    ]
