"""llama.cpp: the arguments of a run, and the run itself. Versions are data in ``data/llamacpp``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from eagle3hub.engines.base import EngineFailure, EngineRun, Job, Recipe
from eagle3hub.engines.process import offline, run_job
from eagle3hub.engines.recipes import Serving, make_recipe
from eagle3hub.engines.specs import default_version, version_data
from eagle3hub.system.progress import Progress


class LlamaCpp:
    """llama.cpp's server inside a Python process (xllamacpp), one sequence at a time.

    Target and head are converted to GGUF by llama.cpp's own converter, in a folder that is gone after the run.
    """

    name = "llamacpp"
    runs_alone = True

    def __init__(self) -> None:
        self.version = default_version("llamacpp")

    def recipe(self, target: str, head: str, *, draft_tokens: int, dtype: str | None = None) -> Recipe:
        """Commands that convert target and head, the server's command and an offline snippet."""
        serving = Serving(target, head, draft_tokens=draft_tokens, dtype=dtype)
        return make_recipe(self.name, serving, self.version)

    def unable(self, job: Job) -> str | None:
        """See `Engine.unable`."""
        if job.device != "cpu":
            return "llama.cpp is run on CPU here: the wheel of the package index has no other backend"
        if job.topk > 1:
            return "llama.cpp drafts EAGLE-3 chains, not trees"
        if not job.target_is_local:
            return "llama.cpp's converter reads the target from a folder, not from the Hub"
        return None

    def flags(self, job: Job) -> dict[str, Any]:
        """What a run of ``job`` passes to the converter, to the server and in the environment."""
        return {**_arguments(job), "env": offline(job)}

    def run(self, job: Job, python: Path, *, timeout: float, progress: Progress) -> EngineRun | EngineFailure:
        """Run ``job`` in the environment of ``python``; see `Engine.run`."""
        return run_job(
            "llama.cpp",
            "llamacpp_worker.py",
            _arguments(job),
            job,
            python,
            env=offline(job),
            timeout=timeout,
            progress=progress,
        )


def _arguments(job: Job) -> dict[str, Any]:
    dtype = version_data("llamacpp").dtypes[job.dtype]
    return {
        "target": job.target,
        "head": None if job.head is None else str(job.head),
        "dtype": dtype,
        "cache_type": f"GGML_TYPE_{dtype.upper()}",
        "context": job.max_model_len,
        "draft_tokens": job.draft_tokens,
        "threads": int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1),
        "sampling": _sampling(job),
    }


def _sampling(job: Job) -> dict[str, Any]:
    """Fields of a chat completion: nothing of llama.cpp's own sampling defaults, and the token ids of the answer."""
    sampling = {
        "max_tokens": job.max_new_tokens,
        "temperature": job.temperature,
        "top_k": 0,
        "top_p": 1.0,
        "min_p": 0.0,
        "verbose": True,
        "return_tokens": True,
    }
    return sampling if job.temperature == 0 else {**sampling, "seed": job.seed}
