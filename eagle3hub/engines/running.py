"""The parent's side of a run: start an engine's worker, collect what it reports, and say what became of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eagle3hub.engines.base import EngineFailure, EngineRun, Job, LoadReport, PromptResult, counts_from
from eagle3hub.engines.process import Event, Outcome, run_worker
from eagle3hub.errors import InputError
from eagle3hub.metrics import Counts
from eagle3hub.progress import Progress

_WORKERS = Path(__file__).resolve().parent / "workers"
_DROPPED_ENV = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")
_STARTED = 0.25
_BEGINNING = {"import": ("starting", 0.0), "load": ("loading", 0.1)}
_STAGES = {
    "import": "{} could not be imported",
    "load": "{} could not load the model",
    "generate": "{} failed while generating",
}


def run_job(
    title: str,
    worker: str,
    request: Mapping[str, Any],
    job: Job,
    python: Path,
    *,
    env: Mapping[str, str],
    timeout: float,
    progress: Progress,
) -> EngineRun | EngineFailure:
    """Run ``worker`` (a file of ``workers/``) with ``python`` for the engine called ``title``; see `Engine.run`.

    ``request`` is what the engine is asked, to which the device and the prompts' texts are added.
    ``env`` is added to this process's environment, from which what belongs to this process's Python is taken out.
    """
    listener = _Listener(title, job, progress)
    environment = {k: v for k, v in os.environ.items() if k not in _DROPPED_ENV} | dict(env)
    asked = {**request, "device": job.device, "prompts": [prompt.text for prompt in job.prompts.prompts]}
    outcome = run_worker(
        [str(python), "-s", str(_WORKERS / worker)], asked, env=environment, timeout=timeout, on_event=listener
    )
    return _conclude(title, outcome, listener, job)


def offline(job: Job) -> dict[str, str]:
    """Environment variables every run sets: nothing is phoned home, and a local target needs no network."""
    environment = {"HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}
    if job.device == "cpu":
        # Threads that spin while they wait starve each other on a busy machine: 15 s became 4 s, tokens unchanged.
        environment["OMP_WAIT_POLICY"] = os.environ.get("OMP_WAIT_POLICY", "PASSIVE")
    if job.target_is_local:
        environment["HF_HUB_OFFLINE"] = "1"
    return environment


class _Listener:
    """Collects a worker's events into results, and tells the user how far it is."""

    def __init__(self, title: str, job: Job, progress: Progress) -> None:
        self._title = title
        self._progress = progress
        self._what = "with the head" if job.head is not None else "the target alone"
        self._count = len(job.prompts.prompts)
        self._speculative = job.head is not None
        self.ready: Event = {}
        self.prompts: list[PromptResult] = []
        self.fault: str | None = None

    def __call__(self, event: Event) -> None:
        try:
            self._take(event)
        except (KeyError, TypeError, ValueError) as error:
            self.fault = f"its report {event.get('event')!r} is malformed ({type(error).__name__}: {error})"
        except InputError as error:
            self.fault = error.message

    def _take(self, event: Event) -> None:
        kind = event["event"]
        if kind == "stage":
            doing, done = _BEGINNING.get(event["stage"], (event["stage"], 0.0))
            self._progress(f"{self._title}, {self._what}: {doing}", done)
        elif kind == "ready":
            self.ready = event
        elif kind == "prompt":
            if event["index"] != len(self.prompts):
                raise ValueError(f"prompt {event['index']} reported out of turn")
            self.prompts.append(
                PromptResult(
                    prompt_tokens=int(event["prompt_tokens"]),
                    tokens=tuple(int(token) for token in event["tokens"]),
                    counts=_counts(event["counters"]) if self._speculative else None,
                    seconds=float(event["seconds"]),
                )
            )
            done = _STARTED + (1 - _STARTED) * len(self.prompts) / self._count
            self._progress(f"{self._title}, {self._what}: generating", done)


def _counts(counters: Mapping[str, Any] | None) -> Counts:
    if counters is None:
        raise ValueError("no counters of speculative decoding")
    return counts_from(counters)


def _conclude(title: str, outcome: Outcome, listener: _Listener, job: Job) -> EngineRun | EngineFailure:
    tail = _anonymous(outcome.log_tail, job)
    message = _one_line(str(outcome.detail.get("message", "")), job)
    if outcome.status == "error":
        stage = outcome.detail.get("stage")
        if stage == "device":
            return EngineFailure(f"{title} cannot run on {job.device}: {message}", "unavailable", tail)
        kind = outcome.detail.get("kind", "error")
        doing = _STAGES.get(str(stage), "{} failed").format(title)
        if stage == "load":
            doing += " with the head" if job.head is not None else " (target alone)"
        verdict: Any = "unavailable" if stage == "import" else "fail"
        return EngineFailure(f"{doing}: {kind}: {message}", verdict, tail)
    if outcome.status == "absent":
        return EngineFailure(f"{title}'s interpreter {message}", "unavailable", tail)
    if outcome.status != "done":
        where = "while it started" if not listener.ready else f"at prompt {len(listener.prompts) + 1}"
        return EngineFailure(f"{title} did not finish ({where}): {message}", "fail", tail)
    fault = listener.fault
    if fault is None and (not listener.ready or len(listener.prompts) != len(job.prompts.prompts)):
        fault = f"it reported {len(listener.prompts)} of {len(job.prompts.prompts)} prompts"
    if fault is not None:
        return EngineFailure(f"{title}'s results cannot be used: {fault}", "fail", tail)
    ready = listener.ready
    return EngineRun(
        prompts=tuple(listener.prompts),
        load=_load_report(ready.get("load") or {}) if job.head is not None else None,
        version=str(ready["version"]),
        environment=ready["environment"],
        start_seconds=float(ready["seconds"]),
        generate_seconds=sum(prompt.seconds for prompt in listener.prompts),
    )


def _load_report(load: Mapping[str, Any]) -> LoadReport:
    taps = load.get("aux_boundaries")
    return LoadReport(
        checked=bool(load.get("checked")),
        not_loaded=tuple(load.get("not_loaded", ())),
        ignored=tuple(load.get("ignored", ())),
        aux_boundaries=tuple(taps) if taps else None,
    )


def _one_line(text: str, job: Job) -> str:
    first = next((line.strip() for line in text.splitlines() if line.strip()), "no message")
    return _anonymous((first if len(first) <= 300 else first[:299] + "…",), job)[0]


def _anonymous(lines: tuple[str, ...], job: Job) -> tuple[str, ...]:
    """The lines without this machine's paths: a report may be published."""
    names = [(str(job.head), "<head>")] if job.head is not None else []
    names += [(job.target, "<target>")] if job.target_is_local else []
    names.append((str(Path.home()), "~"))
    out = []
    for line in lines:
        for path, name in names:
            line = line.replace(path, name)
        out.append(line)
    return tuple(out)
