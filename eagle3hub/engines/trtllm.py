"""TensorRT-LLM: its recipe, and a run that nobody has tried yet. ``data/trtllm`` describes its versions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eagle3hub.engines.base import EngineFailure, EngineRun, Recipe, RunSpec
from eagle3hub.engines.process import base_environment, run_engine
from eagle3hub.engines.recipes import Serving, make_recipe
from eagle3hub.engines.specs import default_version, version_data
from eagle3hub.system.progress import Progress


class TensorRTLLM:
    """TensorRT-LLM's PyTorch backend in one-model mode, one sequence at a time.

    Written from the documented API of 1.2. The package index does not offer its package, so this code has never
    finished a run.
    """

    name = "trtllm"
    runs_alone = True

    def __init__(self, version: str | None = None) -> None:
        self.version = version or default_version("trtllm")

    def recipe(
        self, target: str, head: str, *, draft_tokens: int, dtype: str | None = None, parallel_drafting: bool = False
    ) -> Recipe:
        """Return the server's command, YAML and an offline snippet, for a head with default aux layers."""
        serving = Serving(target, head, draft_tokens=draft_tokens, dtype=dtype, parallel_drafting=parallel_drafting)
        return make_recipe(self.name, serving, self.version)

    def unable(self, spec: RunSpec) -> str | None:
        """See `Engine.unable`."""
        if spec.device == "cpu":
            return "TensorRT-LLM needs a CUDA device"
        if spec.topk > 1:
            return "TensorRT-LLM drafts EAGLE-3 chains here, not trees"
        if spec.temperature > 0:
            return f"TensorRT-LLM {self.version} is greedy in one-model mode whatever the temperature"
        return None

    def flags(self, spec: RunSpec) -> dict[str, Any]:
        """Return what a run of ``spec`` passes to ``tensorrt_llm.LLM``, the draft's config and the environment."""
        return {**_arguments(spec), "env": base_environment(spec)}

    def run(self, spec: RunSpec, python: Path, *, timeout: float, progress: Progress) -> EngineRun | EngineFailure:
        """Run ``spec`` in the environment of ``python``; see `Engine.run`."""
        return run_engine(
            "TensorRT-LLM",
            "trtllm_worker.py",
            _arguments(spec),
            spec,
            python,
            env=base_environment(spec),
            timeout=timeout,
            progress=progress,
        )


def _arguments(spec: RunSpec) -> dict[str, Any]:
    llm: dict[str, Any] = {
        "model": spec.target,
        "dtype": spec.dtype,
        "max_batch_size": 1,
        "max_seq_len": spec.max_model_len,
        "trust_remote_code": False,
        "enable_iter_perf_stats": True,
        "cuda_graph_config": None,
    }
    draft = None
    if spec.head is not None:
        draft = {"max_draft_len": spec.draft_tokens, version_data("trtllm").head_key: str(spec.head)}
    sampling = {"temperature": spec.temperature, "max_tokens": spec.max_new_tokens}
    return {"llm": llm, "draft": draft, "sampling": sampling}
