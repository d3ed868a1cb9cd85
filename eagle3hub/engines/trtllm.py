"""TensorRT-LLM: its recipe, the arguments of a run, and the run. ``data/trtllm`` describes its versions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from eagle3hub.checkpoint.source import parse_json_object
from eagle3hub.engines.base import NO_SETTINGS, EngineFailure, EngineRun, EngineSettings, Recipe, RunSpec, merged
from eagle3hub.engines.process import base_environment, run_engine
from eagle3hub.engines.recipes import Serving, make_recipe
from eagle3hub.engines.specs import default_version, version_data
from eagle3hub.head.aux_defaults import AUX_CAPTURE
from eagle3hub.system.progress import Progress
from eagle3hub.system.reading import read_bytes


class TensorRTLLM:
    """TensorRT-LLM's PyTorch backend in one-model mode, one sequence at a time.

    Written from the documentation of 1.2.1 and of the candidates of 1.3. The package index does not offer its package,
    so this code has finished a run only with a stand-in of its API (tests/support/tensorrt_llm).
    """

    name = "trtllm"
    runs_alone = True

    def __init__(self, version: str | None = None) -> None:
        self.version = version or default_version("trtllm")

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
        """Return the server's command, YAML and an offline snippet, for a head with default aux layers."""
        serving = Serving(target, head, draft_tokens=draft_tokens, dtype=dtype, parallel_drafting=parallel_drafting)
        return make_recipe(self.name, serving.with_settings(self.name, settings), self.version)

    def unable(self, spec: RunSpec) -> str | None:
        """See `Engine.unable`."""
        if spec.device == "cpu":
            return "TensorRT-LLM needs a CUDA device"
        if spec.topk > 1:
            return "TensorRT-LLM drafts EAGLE-3 chains here, not trees"
        if spec.temperature > 0 and spec.device in version_data(self.name).greedy_only:
            return f"TensorRT-LLM {self.version} is greedy in one-model mode whatever the temperature"
        if spec.head is not None and _brings_code(spec.head):
            return (
                "TensorRT-LLM would run the Python code that auto_map in the head's config.json names: it loads the "
                "config with trust_remote_code=True"
            )
        return spec.images_refused("TensorRT-LLM")

    def flags(self, spec: RunSpec) -> dict[str, object]:
        """Return what a run of ``spec`` passes to ``tensorrt_llm.LLM``, the draft's config and the environment."""
        return {**_arguments(spec), "env": _environment(spec)}

    def run(self, spec: RunSpec, python: Path, *, timeout: float, progress: Progress) -> EngineRun | EngineFailure:
        """Run ``spec`` in the environment of ``python``; see `Engine.run`."""
        return run_engine(
            "TensorRT-LLM",
            "trtllm_worker.py",
            _arguments(spec),
            spec,
            python,
            env=_environment(spec),
            timeout=timeout,
            progress=progress,
        )


def _brings_code(head: Path) -> bool:
    config = head / "config.json"
    return config.is_file() and "auto_map" in parse_json_object(read_bytes(config), str(config))


def _environment(spec: RunSpec) -> dict[str, str]:
    """Run the executor in the worker's own process, and load weights one by one, so that the worker can watch it.

    Split over several devices it has processes of its own, whose loading nobody watches: the report says so.
    """
    watched = {"TLLM_WORKER_USE_SINGLE_PROCESS": "1", "TRT_LLM_DISABLE_LOAD_WEIGHTS_IN_PARALLEL": "True"}
    if spec.engine_settings.tensor_parallel > 1:
        watched = {}  # its processes are then started by MPI, where the worker cannot watch
    return spec.engine_settings.environment_of("trtllm", {**watched, **base_environment(spec)})


def _arguments(spec: RunSpec) -> dict[str, object]:
    llm: dict[str, object] = {
        "model": spec.target,
        "dtype": spec.dtype,
        "max_batch_size": 1,
        "max_seq_len": spec.max_model_len,
        "trust_remote_code": False,
        "enable_iter_perf_stats": True,
        "cuda_graph_config": None,
        "disable_overlap_scheduler": True,
        "kv_cache_config": {"enable_block_reuse": False, "free_gpu_memory_fraction": 0.5},
    }
    draft: dict[str, object] | None = None
    if spec.head is not None:
        draft = {"max_draft_len": spec.draft_tokens, "speculative_model": str(spec.head)}
        if spec.aux_layers is not None:
            draft[AUX_CAPTURE] = list(spec.aux_layers)
    sampling: dict[str, object] = {"temperature": spec.temperature, "max_tokens": spec.max_new_tokens}
    if spec.temperature > 0:
        sampling["seed"] = spec.seed
    if spec.engine_settings.tensor_parallel > 1:
        llm["tensor_parallel_size"] = spec.engine_settings.tensor_parallel
    llm = spec.engine_settings.arguments_of("trtllm", llm, drafts=draft is not None)
    if draft is not None:
        given = llm.pop("speculative_config", {})
        draft = merged(draft, given) if isinstance(given, Mapping) else draft
    return {"llm": llm, "draft": draft, "sampling": sampling}
