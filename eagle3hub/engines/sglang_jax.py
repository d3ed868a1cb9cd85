"""sglang-jax: its recipe, the arguments of a run, and the run. ``data/sglang_jax`` describes its versions."""

from __future__ import annotations

from pathlib import Path

from eagle3hub.engines.base import NO_SETTINGS, EngineFailure, EngineRun, EngineSettings, Recipe, RunSpec
from eagle3hub.engines.process import base_environment, run_engine
from eagle3hub.engines.recipes import Serving, make_recipe
from eagle3hub.engines.specs import default_version, version_data
from eagle3hub.system.progress import Progress


class SGLangJAX:
    """sglang-jax's offline engine in one process, one sequence at a time, without radix cache."""

    name = "sglang_jax"
    runs_alone = True

    def __init__(self, version: str | None = None) -> None:
        self.version = version or default_version("sglang_jax")

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
        """Return the server's command and an offline snippet, for a chain."""
        serving = Serving(target, head, draft_tokens=draft_tokens, dtype=dtype, parallel_drafting=parallel_drafting)
        return make_recipe(self.name, serving.with_settings(self.name, settings), self.version)

    def unable(self, spec: RunSpec) -> str | None:
        """See `Engine.unable`; ``engine.toml`` holds the facts."""
        if spec.device == "cuda":
            return f"sglang-jax {self.version} drafts with an attention kernel for TPU, and has none for cuda"
        if spec.device == "cpu" and spec.engine_settings.tensor_parallel > 1:
            return f"sglang-jax {self.version} on cpu has one device, and --tensor-parallel needs several"
        if spec.topk > 1:
            return f"sglang-jax {self.version} is run with chains here: its trees were not tried"
        if spec.temperature > 0 and spec.device in version_data(self.name).greedy_only:
            return f"sglang-jax {self.version} was not tried above temperature 0 on {spec.device}"
        return spec.images_refused("sglang-jax")

    def flags(self, spec: RunSpec) -> dict[str, object]:
        """Return what a run of ``spec`` passes to the engine, to each request and in the environment."""
        return {"engine": _engine_arguments(spec), "sampling": _sampling(spec), "env": _environment(spec)}

    def run(self, spec: RunSpec, python: Path, *, timeout: float, progress: Progress) -> EngineRun | EngineFailure:
        """Run ``spec`` in the environment of ``python``; see `Engine.run`."""
        request = {"engine": _engine_arguments(spec), "sampling": _sampling(spec)}
        return run_engine(
            "sglang-jax",
            "sglang_jax_worker.py",
            request,
            spec,
            python,
            env=_environment(spec),
            timeout=timeout,
            progress=progress,
        )


def _engine_arguments(spec: RunSpec) -> dict[str, object]:
    arguments: dict[str, object] = {
        "model_path": spec.target,
        "device": spec.device,
        "dtype": spec.dtype,
        "random_seed": spec.seed,
        "context_length": spec.max_model_len,
        "max_running_requests": 1,
        "disable_radix_cache": True,
        "disable_precompile": True,
        "enable_single_process": True,
        "trust_remote_code": False,
        "log_level": "info",
    }
    if spec.device == "cpu":
        arguments |= {"max_prefill_tokens": spec.max_model_len, "chunked_prefill_size": -1}
    if spec.head is not None:
        arguments |= {
            "speculative_algorithm": "EAGLE3",
            "speculative_draft_model_path": str(spec.head),
            "speculative_num_steps": spec.draft_tokens,
            "speculative_eagle_topk": spec.topk,
            "speculative_num_draft_tokens": spec.verified_tokens,
        }
    if spec.engine_settings.tensor_parallel > 1:
        arguments["tp_size"] = spec.engine_settings.tensor_parallel
    return spec.engine_settings.arguments_of("sglang_jax", arguments, drafts=spec.head is not None)


def _draft_room(spec: RunSpec) -> int:
    """Return the extra slots of the KV pool, in tokens, for tokens drafted beyond the context."""
    return 4 * spec.verified_tokens + 64


def _sampling(spec: RunSpec) -> dict[str, object]:
    return {"temperature": spec.temperature, "max_new_tokens": spec.max_new_tokens}


def _environment(spec: RunSpec) -> dict[str, str]:
    environment = {**base_environment(spec), "JAX_PLATFORMS": spec.device}
    if spec.device == "cpu":
        # Compiling takes longer than a short run, and optimising takes most of that.
        environment["XLA_FLAGS"] = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
        # The draft's pool takes half of the memory, whatever max_total_tokens says; this sets both pools, in tokens.
        environment["SGLANG_CI_SMALL_KV_SIZE"] = str(spec.max_model_len + _draft_room(spec))
    return spec.engine_settings.environment_of("sglang_jax", environment)
