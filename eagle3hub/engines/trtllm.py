"""TensorRT-LLM: recipes, and a run that was never tried. Versions are data in ``data/trtllm``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eagle3hub.engines.base import EngineFailure, EngineRun, Job, Recipe
from eagle3hub.engines.process import offline, run_job
from eagle3hub.engines.recipes import Serving, make_recipe
from eagle3hub.engines.specs import default_version, version_data
from eagle3hub.system.progress import Progress


class TensorRTLLM:
    """TensorRT-LLM's PyTorch backend in one-model mode, one sequence at a time.

    Written against the documented API of 1.2. Its package cannot be had from a package index, so no run of it has ever
    come to its end here.
    """

    name = "trtllm"
    runs_alone = True

    def __init__(self) -> None:
        self.version = default_version("trtllm")

    def recipe(self, target: str, head: str, *, draft_tokens: int, dtype: str | None = None) -> Recipe:
        """Server command, YAML and offline snippet, for a head with the default aux layers."""
        serving = Serving(target, head, draft_tokens=draft_tokens, dtype=dtype)
        return make_recipe(self.name, serving, self.version)

    def unable(self, job: Job) -> str | None:
        """See `Engine.unable`."""
        if job.device == "cpu":
            return "TensorRT-LLM needs a CUDA device"
        if job.topk > 1:
            return "TensorRT-LLM drafts EAGLE-3 chains here, not trees"
        if job.temperature > 0:
            return f"TensorRT-LLM {self.version} is greedy in one-model mode whatever the temperature"
        return None

    def flags(self, job: Job) -> dict[str, Any]:
        """What a run of ``job`` passes to ``tensorrt_llm.LLM``, to the draft's config and in the environment."""
        return {**_arguments(job), "env": offline(job)}

    def run(self, job: Job, python: Path, *, timeout: float, progress: Progress) -> EngineRun | EngineFailure:
        """Run ``job`` in the environment of ``python``; see `Engine.run`."""
        return run_job(
            "TensorRT-LLM",
            "trtllm_worker.py",
            _arguments(job),
            job,
            python,
            env=offline(job),
            timeout=timeout,
            progress=progress,
        )


def _arguments(job: Job) -> dict[str, Any]:
    llm: dict[str, Any] = {
        "model": job.target,
        "dtype": job.dtype,
        "max_batch_size": 1,
        "max_seq_len": job.max_model_len,
        "trust_remote_code": False,
        "enable_iter_perf_stats": True,
        "cuda_graph_config": None,
    }
    draft = None
    if job.head is not None:
        draft = {"max_draft_len": job.draft_tokens, version_data("trtllm").head_key: str(job.head)}
    sampling = {"temperature": job.temperature, "max_tokens": job.max_new_tokens}
    return {"llm": llm, "draft": draft, "sampling": sampling}
