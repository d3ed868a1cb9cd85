"""vLLM: its recipe, the arguments of a run, and the run itself. Versions are data in ``data/vllm``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eagle3hub.engines.base import EngineFailure, EngineRun, Job, Recipe
from eagle3hub.engines.process import offline, run_job
from eagle3hub.engines.recipes import Serving, make_recipe
from eagle3hub.engines.specs import default_version, version_data
from eagle3hub.system.progress import Progress


class VLLM:
    """vLLM in process, one sequence at a time, torch.compile off."""

    name = "vllm"
    runs_alone = True

    def __init__(self) -> None:
        self.version = default_version("vllm")

    def recipe(self, target: str, head: str, *, draft_tokens: int, dtype: str | None = None) -> Recipe:
        """Server command and offline snippet; ``method`` is always given, vLLM cannot infer it for all layouts."""
        serving = Serving(target, head, draft_tokens=draft_tokens, dtype=dtype)
        return make_recipe(self.name, serving, self.version)

    def unable(self, job: Job) -> str | None:
        """See `Engine.unable`; the facts are in ``engine.toml``."""
        if job.topk > 1:
            return f"vLLM {self.version} drafts EAGLE-3 chains, not trees"
        if job.temperature > 0 and job.device in version_data(self.name).greedy_only:
            return f"vLLM {self.version} on {job.device} loses the temperature when it speculates, so it samples noise"
        return None

    def flags(self, job: Job) -> dict[str, Any]:
        """What a run of ``job`` passes to ``vllm.LLM``, to ``SamplingParams`` and in the environment."""
        return {"llm": _llm_arguments(job), "sampling": _sampling(job), "env": _environment(job)}

    def run(self, job: Job, python: Path, *, timeout: float, progress: Progress) -> EngineRun | EngineFailure:
        """Run ``job`` in the environment of ``python``; see `Engine.run`."""
        request = {"llm": _llm_arguments(job), "sampling": _sampling(job)}
        return run_job(
            "vLLM", "vllm_worker.py", request, job, python, env=_environment(job), timeout=timeout, progress=progress
        )


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


def _environment(job: Job) -> dict[str, str]:
    environment = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1", **offline(job)}
    if job.device == "cpu":
        environment["VLLM_CPU_KVCACHE_SPACE"] = str(job.kv_cache_gib)
    return environment
