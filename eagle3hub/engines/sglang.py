"""SGLang: its recipe, the arguments of a run, and the run. ``data/sglang`` describes its versions."""

from __future__ import annotations

import os
from pathlib import Path

from eagle3hub.engines.base import NO_SETTINGS, EngineFailure, EngineRun, EngineSettings, Recipe, RunSpec
from eagle3hub.engines.process import base_environment, run_engine
from eagle3hub.engines.recipes import Serving, make_recipe
from eagle3hub.engines.servers import options
from eagle3hub.engines.specs import default_version, version_data
from eagle3hub.system.progress import Progress


class SGLang:
    """SGLang's offline engine, one sequence at a time, without CUDA graphs, radix cache or overlap scheduling."""

    name = "sglang"
    runs_alone = True

    def __init__(self, version: str | None = None) -> None:
        self.version = version or default_version("sglang")

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
        if spec.device == "tpu":
            return "SGLang does not run on TPU: sglang-jax does"
        if spec.temperature > 0 and spec.device in version_data(self.name, self.version).greedy_only:
            return f"SGLang {self.version} on {spec.device} verifies drafts greedily whatever the temperature"
        return spec.images_refused("SGLang")

    def flags(self, spec: RunSpec) -> dict[str, object]:
        """Return what a run of ``spec`` passes to ``sglang.Engine``, to each request and in the environment."""
        return {"engine": _engine_arguments(spec), "sampling": _sampling(spec), "env": _environment(spec)}

    def server(self, spec: RunSpec, python: Path, port: int) -> tuple[list[str], dict[str, str]]:
        """Return the command of a server of ``spec`` on this machine, and its environment variables."""
        command = [str(python), "-s", "-m", "sglang.launch_server"]
        arguments = {**_engine_arguments(spec), "skip_server_warmup": True}
        return [*command, *options(arguments), "--host", "127.0.0.1", "--port", str(port)], _environment(spec)

    def run(self, spec: RunSpec, python: Path, *, timeout: float, progress: Progress) -> EngineRun | EngineFailure:
        """Run ``spec`` in the environment of ``python``; see `Engine.run`."""
        request = {"engine": _engine_arguments(spec), "sampling": _sampling(spec)}
        return run_engine(
            "SGLang",
            "sglang_worker.py",
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
        "max_running_requests": spec.concurrency,
        "disable_cuda_graph": not spec.serves or spec.device == "cpu",
        "disable_radix_cache": True,
        "disable_overlap_schedule": not spec.serves or spec.device == "cpu",
        "trust_remote_code": False,
        "log_level": "info",
    }
    if spec.device == "cpu":
        # Without AMX, SGLang falls back to torch_native, which refuses EAGLE, unless each phase names its backend.
        arguments |= {"prefill_attention_backend": "intel_amx", "decode_attention_backend": "intel_amx"}
        # max_total_tokens sets the size of the pool; the fraction only has to leave room for it on a busy machine.
        arguments |= {"mem_fraction_static": 0.8, "max_total_tokens": _pool(spec)}
    elif spec.dtype == "float32":
        arguments["attention_backend"] = "triton"  # SGLang's choice for CUDA takes half precision only; not run by us
    if spec.head is not None:
        arguments |= {
            "speculative_algorithm": "EAGLE3",
            "speculative_draft_model_path": str(spec.head),
            "speculative_num_steps": spec.draft_tokens,
            "speculative_eagle_topk": spec.topk,
            "speculative_num_draft_tokens": spec.verified_tokens,
        }
    elif spec.method == "mtp":  # SGLang takes the MTP layers from the target where no draft model is named
        arguments |= {
            "speculative_algorithm": "EAGLE",
            "speculative_num_steps": spec.draft_tokens,
            "speculative_eagle_topk": 1,
            "speculative_num_draft_tokens": spec.draft_tokens + 1,
        }
    elif spec.method == "ngram":  # a chain: its own default is a tree of 12 nodes
        arguments |= {
            "speculative_algorithm": "NGRAM",
            "speculative_num_draft_tokens": spec.draft_tokens + 1,
            "speculative_ngram_max_bfs_breadth": 1,
        }
    if spec.method in ("eagle3", "mtp") and spec.device == "cpu":
        arguments["speculative_draft_attention_backend"] = "intel_amx"
    if spec.engine_settings.tensor_parallel > 1:
        arguments["tp_size"] = spec.engine_settings.tensor_parallel
    return spec.engine_settings.arguments_of("sglang", arguments, drafts=spec.head is not None)


def _pool(spec: RunSpec) -> int:
    """Return the slots of the KV pool, in tokens: for every sequence its context, and what is drafted beyond it."""
    return spec.concurrency * (spec.max_model_len + _draft_room(spec))


def _draft_room(spec: RunSpec) -> int:
    return 2 * (spec.verified_tokens + spec.topk * spec.draft_tokens) + 64


def _sampling(spec: RunSpec) -> dict[str, object]:
    return {"temperature": spec.temperature, "max_new_tokens": spec.max_new_tokens}


def _environment(spec: RunSpec) -> dict[str, str]:
    environment = base_environment(spec)
    if spec.device == "cpu":
        # Compiling takes longer than one short run: without it 46 s became 2 s, with the same tokens.
        environment |= {"SGLANG_USE_CPU_ENGINE": "1", "TORCHDYNAMO_DISABLE": "1"}
        devices = spec.engine_settings.tensor_parallel
        if devices > 1:
            # Else SGLang gives each process a NUMA node of its own, and does not start where there are fewer.
            environment["SGLANG_CPU_OMP_THREADS_BIND"] = _shares(sorted(os.sched_getaffinity(0)), devices)
    return spec.engine_settings.environment_of("sglang", environment)


def _shares(cores: list[int], processes: int) -> str:
    """Return each process's share of the cores as SGLang reads it, ``0,1|2,3``; processes share too few cores."""
    width = max(1, len(cores) // processes)
    starts = [(i * width) % len(cores) for i in range(processes)]
    return "|".join(",".join(map(str, cores[start : start + width])) for start in starts)
