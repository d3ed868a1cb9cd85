"""vLLM: its recipe, the arguments of a run, and the run itself. Versions are data in ``vllm.toml``."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eagle3hub.engines.base import EngineFailure, EngineRun, Job, LoadReport, PromptResult, Recipe
from eagle3hub.engines.process import Event, Outcome, run_worker
from eagle3hub.engines.specs import default_version, greedy_only_devices
from eagle3hub.errors import InputError
from eagle3hub.metrics import Counts
from eagle3hub.progress import Progress

_WORKER = Path(__file__).resolve().parent / "workers" / "vllm_worker.py"
_DROPPED_ENV = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")
_STARTED = 0.25
_BEGINNING = {"import": ("starting", 0.0), "load": ("loading", 0.1)}
_STAGES = {
    "import": "vLLM could not be imported",
    "load": "vLLM could not load the model",
    "generate": "vLLM failed while generating",
}


class VLLM:
    """vLLM in process, one sequence at a time, torch.compile off."""

    name = "vllm"

    def __init__(self) -> None:
        self.version = default_version("vllm")

    def recipe(self, target: str, head: str, *, draft_tokens: int, dtype: str | None = None) -> Recipe:
        """Server command and offline snippet; ``method`` is always given, vLLM cannot infer it for all layouts."""
        config = _speculative_config(head, draft_tokens)
        argv = ["vllm", "serve", target, "--speculative-config", json.dumps(config)]
        if dtype:
            argv += ["--dtype", dtype]
        arguments = [f"model={target!r}", f"speculative_config={config!r}"]
        if dtype:
            arguments.append(f"dtype={dtype!r}")
        snippet = "from vllm import LLM, SamplingParams\n\nllm = LLM(\n"
        snippet += "".join(f"    {argument},\n" for argument in arguments)
        snippet += (
            ")\n"
            'messages = [{"role": "user", "content": "Why is the sky blue?"}]\n'
            "print(llm.chat(messages, SamplingParams(temperature=0, max_tokens=128))[0].outputs[0].text)\n"
        )
        return Recipe(self.name, self.version, tuple(argv), {}, snippet)

    def unable(self, job: Job) -> str | None:
        """See `Engine.unable`; the facts are in ``vllm.toml``."""
        if job.temperature > 0 and job.device in greedy_only_devices(self.name):
            return f"vLLM {self.version} on {job.device} loses the temperature when it speculates, so it samples noise"
        return None

    def flags(self, job: Job) -> dict[str, Any]:
        """What a run of ``job`` passes to ``vllm.LLM``, to ``SamplingParams`` and in the environment."""
        return {"llm": _llm_arguments(job), "sampling": _sampling(job), "env": _own_environment(job)}

    def run(self, job: Job, python: Path, *, timeout: float, progress: Progress) -> EngineRun | EngineFailure:
        """Run ``job`` in the environment of ``python``; see `Engine.run`."""
        listener = _Listener(job, progress)
        request = {
            "llm": _llm_arguments(job),
            "device": job.device,
            "sampling": _sampling(job),
            "prompts": [prompt.text for prompt in job.prompts.prompts],
        }
        environment = {k: v for k, v in os.environ.items() if k not in _DROPPED_ENV} | _own_environment(job)
        outcome = run_worker(
            [str(python), "-s", str(_WORKER)], request, env=environment, timeout=timeout, on_event=listener
        )
        return _conclude(outcome, listener, job)


def _speculative_config(head: str, draft_tokens: int) -> dict[str, Any]:
    return {"method": "eagle3", "model": head, "num_speculative_tokens": draft_tokens}


def _llm_arguments(job: Job) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "model": job.target,
        "dtype": job.dtype,
        "seed": job.seed,
        "max_model_len": job.max_model_len,
        "max_num_seqs": 1,
        "enforce_eager": True,
        "enable_prefix_caching": False,
        "disable_log_stats": False,
        "trust_remote_code": False,
    }
    if job.head is not None:
        arguments["speculative_config"] = _speculative_config(str(job.head), job.draft_tokens)
    return arguments


def _sampling(job: Job) -> dict[str, Any]:
    sampling: dict[str, Any] = {"temperature": job.temperature, "max_tokens": job.max_new_tokens}
    if job.temperature > 0:
        sampling["seed"] = job.seed
    return sampling


def _own_environment(job: Job) -> dict[str, str]:
    environment = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if job.device == "cpu":
        environment["VLLM_CPU_KVCACHE_SPACE"] = str(job.kv_cache_gib)
        # Threads that spin while they wait starve each other on a busy machine: 15 s became 4 s, tokens unchanged.
        environment["OMP_WAIT_POLICY"] = os.environ.get("OMP_WAIT_POLICY", "PASSIVE")
    if job.target_is_local:
        environment["HF_HUB_OFFLINE"] = "1"
    return environment


class _Listener:
    """Collects a worker's events into results, and tells the user how far it is."""

    def __init__(self, job: Job, progress: Progress) -> None:
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
            self._progress(f"vLLM, {self._what}: {doing}", done)
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
            self._progress(f"vLLM, {self._what}: generating", done)


def _counts(counters: Mapping[str, Any] | None) -> Counts:
    if counters is None:
        raise ValueError("no counters of speculative decoding")
    return Counts(
        counters["rounds"], counters["drafted"], counters["accepted"], tuple(counters["accepted_per_position"])
    )


def _conclude(outcome: Outcome, listener: _Listener, job: Job) -> EngineRun | EngineFailure:
    tail = _anonymous(outcome.log_tail, job)
    message = _one_line(str(outcome.detail.get("message", "")), job)
    if outcome.status == "error":
        stage = outcome.detail.get("stage")
        if stage == "device":
            return EngineFailure(f"vLLM cannot run on {job.device}: {message}", "unavailable", tail)
        kind = outcome.detail.get("kind", "error")
        doing = _STAGES.get(str(stage), "vLLM failed")
        if stage == "load":
            doing += " with the head" if job.head is not None else " (target alone)"
        verdict: Any = "unavailable" if stage == "import" else "fail"
        return EngineFailure(f"{doing}: {kind}: {message}", verdict, tail)
    if outcome.status == "absent":
        return EngineFailure(f"vLLM's interpreter {message}", "unavailable", tail)
    if outcome.status != "done":
        where = "while it started" if not listener.ready else f"at prompt {len(listener.prompts) + 1}"
        return EngineFailure(f"vLLM did not finish ({where}): {message}", "fail", tail)
    fault = listener.fault
    if fault is None and (not listener.ready or len(listener.prompts) != len(job.prompts.prompts)):
        fault = f"it reported {len(listener.prompts)} of {len(job.prompts.prompts)} prompts"
    if fault is not None:
        return EngineFailure(f"vLLM's results cannot be used: {fault}", "fail", tail)
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
