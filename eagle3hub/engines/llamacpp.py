"""llama.cpp: its recipe, the arguments of a run, and the run. ``data/llamacpp`` describes its versions."""

from __future__ import annotations

import os
from pathlib import Path

from eagle3hub.engines.base import NO_SETTINGS, EngineFailure, EngineRun, EngineSettings, Recipe, RunSpec
from eagle3hub.engines.process import base_environment, run_engine
from eagle3hub.engines.recipes import Serving, make_recipe
from eagle3hub.engines.specs import default_version, version_data
from eagle3hub.system.progress import Progress


class LlamaCpp:
    """llama.cpp's server inside a Python process (xllamacpp), one sequence at a time.

    llama.cpp's own converter turns target and head into GGUF files, in a folder that is deleted after the run.
    """

    name = "llamacpp"
    runs_alone = True

    def __init__(self, version: str | None = None) -> None:
        self.version = version or default_version("llamacpp")

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
        """Return the commands that convert target and head, the server's command and an offline snippet."""
        serving = Serving(target, head, draft_tokens=draft_tokens, dtype=dtype, parallel_drafting=parallel_drafting)
        return make_recipe(self.name, serving.with_settings(self.name, settings), self.version)

    def unable(self, spec: RunSpec) -> str | None:
        """See `Engine.unable`."""
        if spec.device != "cpu":
            return "llama.cpp is run on CPU here: the wheel of the package index has no other backend"
        if spec.topk > 1:
            return "llama.cpp drafts EAGLE-3 chains, not trees"
        if spec.engine_settings.tensor_parallel > 1:
            return "llama.cpp has no tensor parallel size: it splits a model over what devices it finds"
        if not spec.target_is_local:
            return "llama.cpp's converter reads the target from a folder, not from the Hub"
        return spec.images_refused("llama.cpp")

    def flags(self, spec: RunSpec) -> dict[str, object]:
        """Return what a run of ``spec`` passes to the converter, to the server and in the environment."""
        return {**_arguments(spec), "env": _environment(spec)}

    def run(self, spec: RunSpec, python: Path, *, timeout: float, progress: Progress) -> EngineRun | EngineFailure:
        """Run ``spec`` in the environment of ``python``; see `Engine.run`."""
        return run_engine(
            "llama.cpp",
            "llamacpp_worker.py",
            _arguments(spec),
            spec,
            python,
            env=_environment(spec),
            timeout=timeout,
            progress=progress,
        )


def _environment(spec: RunSpec) -> dict[str, str]:
    return spec.engine_settings.environment_of("llamacpp", base_environment(spec))


def _arguments(spec: RunSpec) -> dict[str, object]:
    dtype = version_data("llamacpp").dtypes[spec.dtype]
    return {
        "target": spec.target,
        "head": None if spec.head is None else str(spec.head),
        "dtype": dtype,
        "cache_type": f"GGML_TYPE_{dtype.upper()}",
        "context": spec.max_model_len,
        "draft_tokens": spec.draft_tokens,
        "threads": int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1),
        "sampling": _sampling(spec),
    }


def _sampling(spec: RunSpec) -> dict[str, object]:
    """Return the fields of a chat request: they override llama.cpp's sampling defaults and ask for token ids."""
    sampling: dict[str, object] = {
        "max_tokens": spec.max_new_tokens,
        "temperature": spec.temperature,
        "top_k": 0,
        "top_p": 1.0,
        "min_p": 0.0,
        "verbose": True,
        "return_tokens": True,
    }
    return sampling if spec.temperature == 0 else {**sampling, "seed": spec.seed}
