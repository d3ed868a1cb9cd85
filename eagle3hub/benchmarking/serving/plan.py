"""Plan a serving measurement: servers x data sets x concurrencies x runs, checked before anything starts."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from eagle3hub.benchmarking.plan import MOST_DRAFT_TOKENS, BenchHead, BenchOptions, parse_list, read_head
from eagle3hub.benchmarking.serving.load import AIPERF
from eagle3hub.engines.base import DTYPES, EngineSettings, Method
from eagle3hub.engines.options import ENDPOINT_ENGINES, endpoint_urls, template_in_words
from eagle3hub.engines.specs import DEVICES
from eagle3hub.errors import InputError, UsageError
from eagle3hub.prompts import PromptSet, contexts_of
from eagle3hub.system.documents import did_you_mean
from eagle3hub.system.progress import Progress, silent
from eagle3hub.validation.options import REFERENCE, check_started
from eagle3hub.validation.target import Target, check_rendering, identify_target, load_prompts_for

LOAD_GENERATOR = f"AIPerf {AIPERF.version}"
MOST_RUNS = 100
MOST_AT_A_TIME = 4096
OWN_BASELINES: Mapping[str, Method] = {"none": "none", "mtp": "mtp", "ngram": "ngram"}
"""Baselines that need no files: the target alone, with its own MTP layers, with n-grams of the text so far."""

_MTP_LAYERS = ("num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_layers")
"""Where configs state their MTP layers (vLLM, ``config/speculative.py``: ``n_predict``)."""
_BASELINE = re.compile(r"(?P<name>none|mtp|ngram)(?::(?P<k>[0-9]{1,3}))?(?:=(?P<url>.+))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class ServingOptions:
    """What is asked of a serving measurement beyond `BenchOptions`; lists are text with commas.

    Attributes:
        concurrency: how many requests are under way at a time.
        baseline: ``none``, ``mtp``, ``ngram`` or heads; ``mtp:1`` drafts 1 token per round. With a running server, a
            baseline is another one: ``none=http://host:8001``.
        runs: how often each server answers all prompts.
        warmup: requests sent before each run, and not counted; None: as many as are under way at a time.
    """

    concurrency: str = "1"
    baseline: str = "none"
    runs: int = 3
    warmup: int | None = None


@dataclass(frozen=True, slots=True)
class Contender:
    """One server to measure: how it drafts, with which head, and how many tokens per round (0: it does not draft).

    ``url`` is its address if it runs already.
    """

    name: str
    method: Method
    head: BenchHead | None
    draft_tokens: int
    is_baseline: bool
    url: str | None = None


@dataclass(frozen=True, slots=True)
class ServingSettings:
    """The ``settings`` object of a cell: everything that its speed and acceptance depend on besides the server.

    Attributes:
        concurrency: requests under way at a time. warmup: requests sent beforehand. seats: the most requests that the
            server takes at a time; None if it runs already.
    """

    draft_tokens: int
    temperature: float
    max_new_tokens: int
    seed: int
    dtype: str
    device: str
    concurrency: int
    warmup: int
    seats: int | None
    chat_template: str
    system_prompt: str | None
    load_generator: str
    engine_settings: EngineSettings = field(default_factory=EngineSettings)

    def to_json(self) -> dict[str, Any]:
        """The ``settings`` object of a cell."""
        plain = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "engine_settings"}
        return plain | {"engine_settings": self.engine_settings.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ServingSettings:
        """What `to_json` gave."""
        return cls(**{**data, "engine_settings": EngineSettings.from_json(data["engine_settings"])})


@dataclass(frozen=True, slots=True)
class ServingCell:
    """One measurement: a server answers all prompts of a data set once, so many at a time."""

    contender: Contender
    target: Target
    prompts: PromptSet
    engine: str
    run: int
    settings: ServingSettings

    def key(self, engine_version: str) -> str:
        """Return the SHA-256 (hex) of everything that makes this measurement; the same key is the same one."""
        one = self.contender
        what = {
            "server": [one.method, None if one.head is None else one.head.digest],
            "target": self.target.identity.to_json(),
            "prompts": self.prompts.sha256,
            "engine": [self.engine, engine_version],
            "settings": self.settings.to_json(),
            "run": self.run,
        }
        return hashlib.sha256(json.dumps(what, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    @property
    def place(self) -> tuple[object, ...]:
        """Where the cell stands in its plan."""
        return self.engine, self.contender.name, self.prompts.name, self.settings.concurrency, self.run

    def __str__(self) -> str:
        return f"{self.contender.name} on {self.prompts.name}, {self.settings.concurrency} at a time, run {self.run}"


@dataclass(frozen=True, slots=True)
class ServingPlan:
    """A serving measurement before it is run; the contenders that are no baselines come first."""

    target: Target
    contenders: tuple[Contender, ...]
    datasets: tuple[PromptSet, ...]
    concurrencies: tuple[int, ...]
    runs: int
    warmup: int | None
    engines: tuple[str, ...]
    options: BenchOptions
    temperature: float

    @property
    def heads(self) -> tuple[BenchHead, ...]:
        """The heads, each once."""
        return tuple({one.head.name: one.head for one in self.contenders if one.head is not None}.values())

    @property
    def seats(self) -> int:
        """The most requests that are ever under way at a time."""
        return max(self.concurrencies)

    @property
    def size(self) -> int:
        """Number of cells."""
        return len(self.engines) * len(self.contenders) * len(self.datasets) * len(self.concurrencies) * self.runs

    def groups(self) -> Iterator[tuple[str, Contender, tuple[ServingCell, ...]]]:
        """Yield engine, contender and cells of each server, in the order in which they are measured."""
        for engine in self.engines:
            for contender in self.contenders:
                cells = tuple(
                    ServingCell(contender, self.target, prompts, engine, run, self._settings(contender, at_a_time))
                    for prompts in self.datasets
                    for at_a_time in self.concurrencies
                    for run in range(1, self.runs + 1)
                )
                yield engine, contender, cells

    def _settings(self, contender: Contender, at_a_time: int) -> ServingSettings:
        options = self.options
        return ServingSettings(
            draft_tokens=contender.draft_tokens,
            temperature=self.temperature,
            max_new_tokens=options.max_new_tokens,
            seed=options.seed,
            dtype=options.dtype,
            device="server" if contender.url is not None else options.device,
            concurrency=at_a_time,
            warmup=at_a_time if self.warmup is None else self.warmup,
            seats=None if contender.url is not None else self.seats,
            chat_template=template_in_words(options.engine_settings.chat_template),
            system_prompt=options.system_prompt,
            load_generator=LOAD_GENERATOR,
            engine_settings=options.engine_settings,
        )


def serving_plan(
    heads: Sequence[str], target: str, options: BenchOptions, asked: ServingOptions, progress: Progress = silent
) -> ServingPlan:
    """Read heads, target and prompts, and check the whole plan.

    Raises UsageError (``usage-serving``) for what cannot be measured this way, InputError (``serving-no-mtp``) for an
    MTP baseline of a target without MTP layers, and whatever reading heads, target and prompts raises.
    """
    concurrencies = parse_list("--concurrency", asked.concurrency, int, "whole numbers")
    drafts = parse_list("--draft-tokens", options.draft_tokens, int, "whole numbers")
    temperatures = parse_list("--temperature", options.temperature, float, "numbers")
    _check(options, asked, concurrencies, drafts, temperatures)
    engines = _engines(options)
    check_started(options.engine_settings, engines, options.endpoints, options.engine_python)
    identity = identify_target(target, options.target_name, progress)
    check_rendering(identity, options.engine_settings.chat_template, progress)
    sets = parse_list("--datasets", options.datasets, str, "names or files")
    prompts = tuple(
        one
        for name in sets
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
    )
    _distinct("--datasets", [one.name for one in prompts])
    for one in prompts:
        if len(one.prompts) < max(concurrencies):
            raise _usage(
                f"--concurrency {max(concurrencies)} is more than the {len(one.prompts)} prompts of {one.name}: so "
                "many requests would never be under way at a time",
                "take more prompts, or a lower concurrency",
            )
    url = options.endpoints.get(engines[0])
    contenders = [
        Contender(_with_k(head.name, k, drafts), "eagle3", head, k, False, url)
        for head in [read_head(text, identity, progress) for text in heads]
        for k in drafts
    ]
    for text in parse_list("--baseline", asked.baseline, str, "names"):
        contenders.append(_baseline(text, identity, drafts[0], url is not None, progress))
    _distinct("HEAD or --baseline", [one.name for one in contenders])
    return ServingPlan(
        target=identity,
        contenders=tuple(contenders),
        datasets=prompts,
        concurrencies=tuple(concurrencies),
        runs=asked.runs,
        warmup=asked.warmup,
        engines=tuple(engines),
        options=options,
        temperature=temperatures[0],
    )


def _with_k(name: str, k: int, drafts: Sequence[int]) -> str:
    return name if len(drafts) == 1 else f"{name} K={k}"


def _baseline(text: str, target: Target, k: int, attached: bool, progress: Progress) -> Contender:
    found = _BASELINE.fullmatch(text)
    if found is None:
        if attached:
            raise _usage(
                f"--baseline {text!r} names no running server{did_you_mean(text, list(OWN_BASELINES))}",
                "beside --endpoint, a baseline is a server too: none=http://host:8001, mtp=… or ngram=…",
            )
        if "/" not in text and "=" not in text and (near := did_you_mean(text, list(OWN_BASELINES))):
            raise _usage(f"--baseline {text!r} is not known{near}", "there are: none, mtp, ngram, and heads")
        head = read_head(text, target, progress)
        return Contender(head.name, "eagle3", head, k, True)
    method = OWN_BASELINES[found["name"]]
    if attached is not bool(found["url"]):
        raise _usage(
            f"--baseline {text} and --endpoint do not go together"
            if attached
            else f"--baseline {text} names a running server, and the head is not on one",
            "measure all on running servers (--endpoint vllm=… --baseline none=http://…), or none",
        )
    drafted = 0 if method == "none" else int(found["k"] or k)
    if found["k"] and not (method != "none" and 1 <= drafted <= MOST_DRAFT_TOKENS):
        raise _usage(
            f"--baseline {text} asks for {found['k']} drafted tokens", f"1 to {MOST_DRAFT_TOKENS}, not for none"
        )
    if method == "mtp":
        _require_mtp(target)
    url = None if found["url"] is None else endpoint_urls([f"vllm={found['url']}"])["vllm"]
    return Contender(found["name"], method, None, drafted, True, url)


def _require_mtp(target: Target) -> None:
    """Raise InputError if a target on this machine states no MTP layers; of a Hub id, the engine finds out."""
    config = target.config
    if config is None:
        return
    inner = config.get("text_config")
    places = [config, *([inner] if isinstance(inner, Mapping) else [])]
    layers = [place.get(name) for place in places for name in _MTP_LAYERS]
    if not any(isinstance(count, int) and count > 0 for count in layers):
        raise InputError(
            f"the target {target.name} has no MTP layers to compare with: its config.json states none of "
            f"{', '.join(_MTP_LAYERS)}",
            hint="leave mtp out of --baseline",
            code="serving-no-mtp",
        )


def _engines(options: BenchOptions) -> list[str]:
    asked = [name for name in parse_list("--engine", options.engine, str, "names") if name != REFERENCE]
    engines = asked + [name for name in options.endpoints if name not in asked]
    for name in engines:
        if name not in ENDPOINT_ENGINES:
            near = did_you_mean(name, list(ENDPOINT_ENGINES))
            raise _usage(f"--engine {name!r} has no server that can be measured{near}", "there are: vllm, sglang")
    _distinct("--engine", engines, "name one: --engine vllm")
    if options.endpoints and len(engines) > 1:
        raise _usage("--endpoint is one server, and several engines are named", "measure one engine at a time")
    return engines


def _check(
    options: BenchOptions,
    asked: ServingOptions,
    concurrencies: Sequence[int],
    drafts: Sequence[int],
    temperatures: Sequence[float],
) -> None:
    for number in concurrencies:
        if not 1 <= number <= MOST_AT_A_TIME:
            raise _usage(f"--concurrency {number} is not between 1 and {MOST_AT_A_TIME}")
    for k in drafts:
        if not 1 <= k <= MOST_DRAFT_TOKENS:
            raise _usage(f"--draft-tokens {k} is not between 1 and {MOST_DRAFT_TOKENS}")
    _distinct("--concurrency", concurrencies)
    _distinct("--draft-tokens", drafts)
    if not 1 <= asked.runs <= MOST_RUNS:
        raise _usage(f"--runs {asked.runs} is not between 1 and {MOST_RUNS}")
    if asked.warmup is not None and not 0 <= asked.warmup <= MOST_AT_A_TIME:
        raise _usage(f"--warmup {asked.warmup} is not between 0 and {MOST_AT_A_TIME}")
    if len(temperatures) != 1 or not (temperatures[0] >= 0 and math.isfinite(temperatures[0])):
        raise _usage(f"--temperature {options.temperature} is not one number of 0 or more")
    if options.dtype not in DTYPES or options.device not in DEVICES or options.max_new_tokens < 2:
        raise _usage(
            f"--dtype {options.dtype}, --device {options.device} and --max-new-tokens {options.max_new_tokens} cannot "
            "be served",
            f"dtypes: {', '.join(DTYPES)}; devices: {', '.join(DEVICES)}; 2 new tokens or more",
        )
    if options.endpoints and len(drafts) > 1:
        raise _usage("--endpoint is a server of one K, and this asks for several", "measure one K at a time")
    other = BenchOptions()
    for name in (
        "topk",
        "num_draft_tokens",
        "drafting",
        "min_acceptance_length",
        "base",
        "device_map",
        "batch_tokens",
    ):
        if getattr(options, name) != getattr(other, name):
            raise _usage(
                f"--{name.replace('_', '-')} does not go with --concurrency",
                "leave it out, or measure acceptance without --concurrency",
            )


def _distinct(option: str, values: Sequence[object], hint: str | None = None) -> None:
    if not values:
        raise _usage(f"{option} names nothing that can be measured", hint)
    for i, value in enumerate(values):
        if value in values[:i]:
            raise _usage(f"{option} has {value} twice", hint or "name each once; heads can be named: first=FOLDER")


def _usage(message: str, hint: str | None = None) -> UsageError:
    return UsageError(message, hint=hint, code="usage-serving")
