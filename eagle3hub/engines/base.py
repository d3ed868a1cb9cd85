"""The interface of an engine: print how to serve a head on it, run it once, and count acceptance."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from eagle3hub.engines.specs import Device
from eagle3hub.errors import assert_never
from eagle3hub.system.progress import Progress

if TYPE_CHECKING:  # a conversion asks what engines there are, and fetches and measures nothing
    from eagle3hub.metrics import Counts
    from eagle3hub.prompts import PromptSet

Verdict = Literal["pass", "fail", "inconclusive", "unavailable"]
Dtype = Literal["float32", "bfloat16", "float16"]
Scalar = str | int | float | bool | None
"""What an environment says of one thing: a version, a number of threads."""

Method = Literal["none", "eagle3", "mtp", "ngram"]
"""How an engine drafts: not at all, with a head, with the target's own MTP layers, or from the text so far."""

METHODS: tuple[Method, ...] = ("none", "eagle3", "mtp", "ngram")
DTYPES: tuple[Dtype, ...] = ("float32", "bfloat16", "float16")


def worst_verdict(verdicts: Iterable[Verdict]) -> Verdict:
    """The worst of some verdicts (pass < inconclusive < unavailable < fail); ``unavailable`` if there are none."""
    return max(verdicts, key=_severity, default="unavailable")


def _severity(verdict: Verdict) -> int:
    match verdict:
        case "pass":
            return 0
        case "inconclusive":
            return 1
        case "unavailable":
            return 2
        case "fail":
            return 3
    return assert_never(verdict)


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to serve a (target, head) pair on one engine.

    Attributes:
        argv: the server's command. env: environment variables it needs.
        python: snippet for offline use; empty if the engine has none.
        yaml: contents of the YAML file that the command names, for an engine that takes one.
        prepare: shell lines to run first, for an engine that cannot load checkpoint folders.
    """

    engine: str
    version: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    python: str
    yaml: str | None = None
    prepare: tuple[str, ...] = ()

    @property
    def server_command(self) -> str:
        """The command as one shell line."""
        return shlex.join(self.argv)

    def to_json(self) -> dict[str, Any]:
        """Return the ``recipe`` object of a report."""
        document: dict[str, object] = {
            "engine": self.engine,
            "version": self.version,
            "server_command": self.server_command,
            "env": dict(self.env),
            "python": self.python,
        }
        if self.yaml is not None:
            document["yaml"] = self.yaml
        if self.prepare:
            document["prepare"] = list(self.prepare)
        return document


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How engines are started and prompts are rendered, where a run does not decide it already.

    Validation, benchmark, manifest, report, jobs and recipes share it; `eagle3hub.engines.options` reads it from the
    command line and checks it.

    Attributes:
        tensor_parallel: number of devices (on CPU, of processes) that an engine splits target and draft over.
        arguments: by engine, further arguments of its constructor (of ``vllm.LLM``, ``sglang.Engine``), JSON values.
            An object is merged into the run's own, key by key.
        environment: by engine, further environment variables of its processes.
        chat_template: arguments of the target's chat template, such as ``enable_thinking``; reference and engines
            render every prompt with them.
    """

    tensor_parallel: int = 1
    arguments: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    environment: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    chat_template: Mapping[str, object] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Whether anything is set."""
        return bool(self.to_json())

    def __hash__(self) -> int:
        return hash(json.dumps(self.to_json(), sort_keys=True))

    def of_run(self, started: Iterable[str]) -> EngineSettings:
        """Return the settings for a run that starts these engines, none of them a server or the reference."""
        names = list(started)
        return EngineSettings(
            self.tensor_parallel if names else 1,
            {engine: given for engine, given in self.arguments.items() if engine in names},
            {engine: given for engine, given in self.environment.items() if engine in names},
            self.chat_template,
        )

    def arguments_of(self, engine: str, own: Mapping[str, object], *, drafts: bool) -> dict[str, object]:
        """Return ``own``, the arguments of a run, with those given for ``engine``.

        A run of the target alone (``drafts`` is false) takes none about speculation.
        """
        given = self.arguments.get(engine, {})
        return merged(own, {k: v for k, v in given.items() if drafts or not k.startswith("speculative")})

    def environment_of(self, engine: str, own: Mapping[str, str]) -> dict[str, str]:
        """Return ``own``, the variables of a run, with those given for ``engine``."""
        return {**own, **self.environment.get(engine, {})}

    def to_json(self) -> dict[str, Any]:
        """The ``engine_settings`` object of a report, a manifest or a benchmark: only what is set."""
        found: dict[str, object] = {} if self.tensor_parallel == 1 else {"tensor_parallel": self.tensor_parallel}
        for name in ("arguments", "environment"):
            by_engine = {engine: dict(given) for engine, given in getattr(self, name).items() if given}
            found |= {name: by_engine} if by_engine else {}
        return found | ({"chat_template": dict(self.chat_template)} if self.chat_template else {})

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> EngineSettings:
        """What `to_json` gave."""
        return cls(**data)


NO_SETTINGS = EngineSettings()


def merged(own: Mapping[str, object], given: Mapping[str, object]) -> dict[str, object]:
    """Return ``own`` with ``given`` over it; objects are merged key by key."""
    out = dict(own)
    for key, value in given.items():
        known = out.get(key)
        out[key] = merged(known, value) if isinstance(known, Mapping) and isinstance(value, Mapping) else value
    return out


@dataclass(frozen=True, slots=True)
class RunSpec:
    """What to run on an engine: a target, with a head or alone, over a set of prompts.

    Attributes:
        target: a local folder or a Hub id.
        head: the head's folder, or None for the target alone.
        draft_tokens: K, tokens drafted per round; for a tree, its depth.
        max_new_tokens: limit per prompt, in tokens.
        temperature: 0 is greedy.
        max_model_len: longest context, in tokens.
        kv_cache_gib: memory for the KV cache on CPU, in GiB.
        topk: branches per drafted token; 1 is a chain.
        num_draft_tokens: nodes of a tree, including the root; None means a chain of K + 1.
        parallel_drafting: whether the head drafts all K tokens at once (P-EAGLE).
        aux_layers: after-layer ids of the aux hidden states, if they are not the default; ``(-1,)`` for the final
            hidden state. TensorRT-LLM must be told them; other engines read them in the head's files.
        engine_settings: how engines are started and prompts are rendered beyond that.
        baseline: what a run without a head drafts with, if anything: ``mtp`` or ``ngram``.
        concurrency: how many sequences may run at a time.
        serves: whether speed is measured, so that settings which make a run repeatable but slow are left out.
    """

    target: str
    head: Path | None
    prompts: PromptSet
    device: Device = "cpu"
    dtype: Dtype = "float32"
    draft_tokens: int = 3
    max_new_tokens: int = 64
    temperature: float = 0.0
    seed: int = 0
    max_model_len: int = 2048
    kv_cache_gib: int = 1
    topk: int = 1
    num_draft_tokens: int | None = None
    parallel_drafting: bool = False
    aux_layers: tuple[int, ...] | None = None
    engine_settings: EngineSettings = field(default_factory=EngineSettings)
    baseline: Method = "none"
    concurrency: int = 1
    serves: bool = False

    @property
    def method(self) -> Method:
        """How the engine drafts."""
        return self.baseline if self.head is None else "eagle3"

    @property
    def verified_tokens(self) -> int:
        """Tokens the target checks per round, including the last verified one (``num_draft_tokens``, or K + 1)."""
        return self.draft_tokens + 1 if self.num_draft_tokens is None else self.num_draft_tokens

    @property
    def question_ids(self) -> list[int | str]:
        """The ids of the prompts, in order."""
        return [prompt.question_id for prompt in self.prompts.prompts]

    @property
    def target_is_local(self) -> bool:
        """Whether the target is a folder on this machine."""
        return Path(self.target).is_dir()

    def images_refused(self, title: str) -> str | None:
        """Return one sentence where prompts hold images, for an engine that gets text alone here; else None."""
        if not self.prompts.has_images:
            return None
        return f"{title} is given text alone here, and the prompts of {self.prompts.name} hold images"


@dataclass(frozen=True, slots=True)
class PromptResult:
    """The result of one prompt: generated token ids, counters (with a head), and wall-clock seconds."""

    prompt_tokens: int
    tokens: tuple[int, ...]
    counts: Counts | None
    seconds: float


@dataclass(frozen=True, slots=True)
class LoadReport:
    """How the engine loaded the head's tensors.

    Attributes:
        checked: whether the loading could be watched.
        not_loaded: parameters of the draft model (canonical names) that no tensor of the file filled.
        ignored: tensors of the file that the engine did not use.
        aux_boundaries: the hidden states of the target that the engine feeds to the head (boundary ids), if known.
    """

    checked: bool
    not_loaded: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    aux_boundaries: tuple[int, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """The ``load`` object of a report."""
        return {
            "checked": self.checked,
            "not_loaded": list(self.not_loaded),
            "ignored": list(self.ignored),
            "aux_boundaries": None if self.aux_boundaries is None else list(self.aux_boundaries),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LoadReport:
        """What `to_json` gave."""
        taps = data["aux_boundaries"]
        return cls(
            data["checked"], tuple(data["not_loaded"]), tuple(data["ignored"]), None if taps is None else tuple(taps)
        )


@dataclass(frozen=True, slots=True)
class EngineRun:
    """The results of a run that finished.

    ``unchecked`` lists, as phrases, what a running server did not show; it is empty for an engine that we start.
    """

    prompts: tuple[PromptResult, ...]
    load: LoadReport | None
    version: str
    environment: Mapping[str, Scalar]
    start_seconds: float
    generate_seconds: float
    unchecked: tuple[str, ...] = ()

    @property
    def tokens_per_second(self) -> float | None:
        """New tokens per second of generation, one sequence at a time; None if no time passed."""
        tokens = sum(len(result.tokens) for result in self.prompts)
        return round(tokens / self.generate_seconds, 2) if self.generate_seconds > 0 else None


@dataclass(frozen=True, slots=True)
class EngineFailure:
    """A run that did not finish: the reason in one sentence, and the last lines of the engine's log.

    ``verdict`` is ``unavailable`` if the engine or the device is missing, ``inconclusive`` if something disturbed the
    run, else ``fail``.
    """

    reason: str
    verdict: Literal["fail", "inconclusive", "unavailable"] = "fail"
    log_tail: tuple[str, ...] = field(default=())


class Engine(Protocol):
    """An inference engine: one that a worker runs in its own environment, or a server that is already running.

    ``runs_alone`` says whether it can also run the target without a head.
    """

    name: str
    version: str
    runs_alone: bool

    def recipe(
        self,
        target: str,
        head: str,
        *,
        draft_tokens: int,
        dtype: str | None = None,
        parallel_drafting: bool = False,
        settings: EngineSettings = NO_SETTINGS,
    ) -> Recipe:
        """Return how to serve ``head`` with ``target`` (names or paths, as the user will type them).

        ``parallel_drafting``: whether it is a P-EAGLE head, which an engine that can draft so must be told.
        ``settings``: how a run started the engine beyond that.
        """

    def unable(self, spec: RunSpec) -> str | None:
        """Return one sentence on why this engine cannot measure the head with ``spec``, or None if it can."""

    def flags(self, spec: RunSpec) -> dict[str, object]:
        """Return the arguments and environment variables that a run of ``spec`` uses."""

    def run(self, spec: RunSpec, python: Path, *, timeout: float, progress: Progress) -> EngineRun | EngineFailure:
        """Run ``spec`` with the interpreter ``python`` for at most ``timeout`` seconds.

        A failure of the engine is returned, never raised.
        """
