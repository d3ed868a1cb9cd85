"""SGLang: the arguments of a run, and the run itself. Versions are data in ``data/sglang``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eagle3hub.engines.base import EngineFailure, EngineRun, Job, Recipe
from eagle3hub.engines.process import offline, run_job
from eagle3hub.engines.recipes import Serving, make_recipe
from eagle3hub.engines.specs import default_version, version_data
from eagle3hub.system.progress import Progress


class SGLang:
    """SGLang's offline engine, one sequence at a time, without CUDA graphs, radix cache or overlap scheduling."""

    name = "sglang"
    runs_alone = True

    def __init__(self) -> None:
        self.version = default_version("sglang")

    def recipe(self, target: str, head: str, *, draft_tokens: int, dtype: str | None = None) -> Recipe:
        """Server command and offline snippet of a chain."""
        serving = Serving(target, head, draft_tokens=draft_tokens, dtype=dtype)
        return make_recipe(self.name, serving, self.version)

    def unable(self, job: Job) -> str | None:
        """See `Engine.unable`; the facts are in ``engine.toml``."""
        if job.temperature > 0 and job.device in version_data(self.name).greedy_only:
            return f"SGLang {self.version} on {job.device} verifies drafts greedily whatever the temperature"
        return None

    def flags(self, job: Job) -> dict[str, Any]:
        """What a run of ``job`` passes to ``sglang.Engine``, to a request and in the environment."""
        return {"engine": _engine_arguments(job), "sampling": _sampling(job), "env": _environment(job)}

    def run(self, job: Job, python: Path, *, timeout: float, progress: Progress) -> EngineRun | EngineFailure:
        """Run ``job`` in the environment of ``python``; see `Engine.run`."""
        request = {"engine": _engine_arguments(job), "sampling": _sampling(job)}
        return run_job(
            "SGLang",
            "sglang_worker.py",
            request,
            job,
            python,
            env=_environment(job),
            timeout=timeout,
            progress=progress,
        )


def _engine_arguments(job: Job) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "model_path": job.target,
        "device": job.device,
        "dtype": job.dtype,
        "random_seed": job.seed,
        "context_length": job.max_model_len,
        "max_running_requests": 1,
        "disable_cuda_graph": True,
        "disable_radix_cache": True,
        "disable_overlap_schedule": True,
        "trust_remote_code": False,
        "log_level": "info",
    }
    if job.device == "cpu":
        # Without AMX, SGLang falls back to torch_native, which refuses EAGLE; asked for per phase it does not.
        arguments |= {"prefill_attention_backend": "intel_amx", "decode_attention_backend": "intel_amx"}
        # The pool's size is given; the fraction must only leave room for it while other programs take memory too.
        arguments |= {"mem_fraction_static": 0.8, "max_total_tokens": job.max_model_len + _draft_room(job)}
    if job.head is not None:
        arguments |= {
            "speculative_algorithm": "EAGLE3",
            "speculative_draft_model_path": str(job.head),
            "speculative_num_steps": job.draft_tokens,
            "speculative_eagle_topk": job.topk,
            "speculative_num_draft_tokens": job.verified_tokens,
        }
        if job.device == "cpu":
            arguments["speculative_draft_attention_backend"] = "intel_amx"
    return arguments


def _draft_room(job: Job) -> int:
    """Slots of the KV pool, in tokens, for what is drafted beyond the context."""
    return 2 * (job.verified_tokens + job.topk * job.draft_tokens) + 64


def _sampling(job: Job) -> dict[str, Any]:
    return {"temperature": job.temperature, "max_new_tokens": job.max_new_tokens}


def _environment(job: Job) -> dict[str, str]:
    environment = offline(job)
    if job.device == "cpu":
        # Compiling small functions for one short run takes longer than the run: 46 s became 2 s, tokens unchanged.
        environment |= {"SGLANG_USE_CPU_ENGINE": "1", "TORCHDYNAMO_DISABLE": "1"}
    return environment
