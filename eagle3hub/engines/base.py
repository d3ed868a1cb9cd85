"""What every engine offers: how to serve a head on it, and how to run it once and count."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from eagle3hub.errors import assert_never
from eagle3hub.metrics import Counts
from eagle3hub.prompts import PromptSet
from eagle3hub.system.progress import Progress

Verdict = Literal["pass", "fail", "inconclusive", "unavailable"]
Device = Literal["cpu", "cuda"]
Dtype = Literal["float32", "bfloat16", "float16"]

DEVICES: tuple[Device, ...] = ("cpu", "cuda")
DTYPES: tuple[Dtype, ...] = ("float32", "bfloat16", "float16")


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The worst of some verdicts (pass < inconclusive < unavailable < fail); of none, ``unavailable``."""
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
        python: offline snippet; empty where there is none.
        yaml: contents of the file that the command names, for an engine that takes one.
        prepare: shell lines that make the files the command names, for an engine that takes no checkpoint folders.
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
        """The argument vector as one shell line."""
        return shlex.join(self.argv)

    def to_json(self) -> dict[str, Any]:
        """The ``recipe`` object of a report."""
        document: dict[str, Any] = {
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
class Job:
    """One run of an engine: a target, with a head or alone, over a set of prompts, one sequence at a time.

    Attributes:
        target: a local folder or a Hub id.
        head: the head's folder, or None for the target alone.
        draft_tokens: K, tokens drafted per round; of a tree, its depth.
        max_new_tokens: limit per prompt, in tokens.
        temperature: 0 is greedy.
        max_model_len: context in tokens to make room for.
        kv_cache_gib: memory for the KV cache on CPU, in GiB.
        topk: branches per drafted token; 1 is a chain.
        num_draft_tokens: nodes of a tree, the root included; None is K + 1, a chain.
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

    @property
    def verified_tokens(self) -> int:
        """Tokens the target looks at per round, the last verified one included (``num_draft_tokens``, or K + 1)."""
        return self.draft_tokens + 1 if self.num_draft_tokens is None else self.num_draft_tokens

    @property
    def target_is_local(self) -> bool:
        """Whether the target is a folder of this machine."""
        return Path(self.target).is_dir()


@dataclass(frozen=True, slots=True)
class PromptResult:
    """What an engine did with one prompt: token ids it generated, counters (with a head), wall seconds."""

    prompt_tokens: int
    tokens: tuple[int, ...]
    counts: Counts | None
    seconds: float


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What became of the head's tensors inside the engine.

    Attributes:
        checked: whether the engine's loading could be watched.
        not_loaded: parameters of the draft model, by their canonical names, that no tensor of the file filled.
        ignored: tensors of the file that no parameter took.
        aux_boundaries: which states of the target the engine feeds to the head, as boundary ids, if known.
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
    """A run that came to its end.

    ``unchecked`` says, as phrases, what of a running server could not be looked at; of what we start it is empty.
    """

    prompts: tuple[PromptResult, ...]
    load: LoadReport | None
    version: str
    environment: Mapping[str, Any]
    start_seconds: float
    generate_seconds: float
    unchecked: tuple[str, ...] = ()

    @property
    def tokens_per_second(self) -> float | None:
        """New tokens per second of generation, one sequence at a time; None where no time passed."""
        tokens = sum(len(result.tokens) for result in self.prompts)
        return round(tokens / self.generate_seconds, 2) if self.generate_seconds > 0 else None


@dataclass(frozen=True, slots=True)
class EngineFailure:
    """A run that did not: why, in one sentence, and the last lines of the engine's log.

    ``verdict`` is ``unavailable`` where the engine or the device is not there, ``inconclusive`` where the run was
    disturbed, else ``fail``.
    """

    reason: str
    verdict: Literal["fail", "inconclusive", "unavailable"] = "fail"
    log_tail: tuple[str, ...] = field(default=())


class Engine(Protocol):
    """An inference engine: run by a worker in its own environment, or a server that runs already.

    ``runs_alone`` says whether it can also run the target without the head.
    """

    name: str
    version: str
    runs_alone: bool

    def recipe(self, target: str, head: str, *, draft_tokens: int, dtype: str | None = None) -> Recipe:
        """How to serve ``head`` with ``target`` (names or paths as the user will type them)."""

    def unable(self, job: Job) -> str | None:
        """Why this engine's results of ``job`` would say nothing about the head, in one sentence, or None."""

    def flags(self, job: Job) -> dict[str, Any]:
        """The arguments and environment variables a run of ``job`` uses."""

    def run(self, job: Job, python: Path, *, timeout: float, progress: Progress) -> EngineRun | EngineFailure:
        """Run ``job`` with the interpreter ``python`` for at most ``timeout`` seconds; never raises for the engine."""
