"""vLLM: its recipe, the arguments of a run, and the run. ``data/vllm`` describes its versions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eagle3hub.engines.base import NO_SETTINGS, EngineFailure, EngineRun, EngineSettings, Recipe, RunSpec
from eagle3hub.engines.process import base_environment, run_engine
from eagle3hub.engines.recipes import Serving, make_recipe, vllm_config
from eagle3hub.engines.servers import options
from eagle3hub.engines.specs import default_version, version_data
from eagle3hub.head.aux_defaults import AUX_IDS
from eagle3hub.system.progress import Progress

_TOGETHER = 32
"""Sequences that answer prompts, or whose states are computed, at once."""


class VLLM:
    """vLLM, one sequence at a time, without torch.compile; in one process, unless it is split over devices."""

    name = "vllm"
    runs_alone = True

    def __init__(self, version: str | None = None) -> None:
        self.version = version or default_version("vllm")

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
        """Return the server's command and an offline snippet.

        Both always state ``method``, because vLLM cannot infer it for every layout.
        """
        serving = Serving(target, head, draft_tokens=draft_tokens, dtype=dtype, parallel_drafting=parallel_drafting)
        return make_recipe(self.name, serving.with_settings(self.name, settings), self.version)

    def unable(self, spec: RunSpec) -> str | None:
        """See `Engine.unable`; ``engine.toml`` holds the facts."""
        if spec.topk > 1:
            return f"vLLM {self.version} drafts EAGLE-3 chains, not trees"
        if spec.temperature > 0 and spec.device in version_data(self.name, self.version).greedy_only:
            return (
                f"vLLM {self.version} on {spec.device} loses the temperature when it speculates, so it samples noise"
            )
        return None

    def flags(self, spec: RunSpec) -> dict[str, object]:
        """Return what a run of ``spec`` passes to ``vllm.LLM``, to ``SamplingParams`` and in the environment."""
        return {"llm": _llm_arguments(spec), "sampling": _sampling(spec), "env": _environment(spec)}

    def server(self, spec: RunSpec, python: Path, port: int) -> tuple[list[str], dict[str, str]]:
        """Return the command of a server of ``spec`` on this machine, and its environment variables."""
        arguments = {k: v for k, v in _llm_arguments(spec).items() if k != "disable_log_stats"}
        command = [str(python), "-s", "-m", "vllm.entrypoints.openai.api_server"]
        words = [*command, *options(arguments, negated=("enable_prefix_caching",))]
        return [*words, "--host", "127.0.0.1", "--port", str(port)], _environment(spec)

    def run(self, spec: RunSpec, python: Path, *, timeout: float, progress: Progress) -> EngineRun | EngineFailure:
        """Run ``spec`` in the environment of ``python``; see `Engine.run`."""
        request = {"llm": _llm_arguments(spec), "sampling": _sampling(spec)}
        return run_engine(
            "vLLM", "vllm_worker.py", request, spec, python, env=_environment(spec), timeout=timeout, progress=progress
        )


def states_request(spec: RunSpec, boundary_ids: Sequence[int] = (), scratch: Path | None = None) -> dict[str, Any]:
    """What ``workers/vllm_states.py`` needs to run a target alone: arguments of ``vllm.LLM`` and of sampling.

    Args:
        boundary_ids: the layers whose states are wanted, by the number of layers that have run; none for answers.
        scratch: where vLLM puts them.

    Log-probabilities are those after the temperature. States are extracted from whole prompts, so that neither
    chunks nor a cached prefix leave any out (``config/speculative.py``, ``extract_hidden_states``).
    """
    arguments = {**_llm_arguments(spec), "max_num_seqs": _TOGETHER}
    sampling = {"temperature": spec.temperature, "max_tokens": spec.max_new_tokens}
    if spec.temperature > 0:
        arguments["logprobs_mode"] = "processed_logprobs"
        sampling["logprobs"] = 0
    if boundary_ids:
        on_cpu = spec.device == "cpu"
        arguments |= {
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(spec.max_model_len, 2048),
            "speculative_config": {
                "method": "extract_hidden_states",
                "num_speculative_tokens": 1,
                "draft_model_config": {"hf_config": {AUX_IDS: list(boundary_ids)}},
            },
            "kv_transfer_config": {
                "kv_connector": "StatesOnCpu" if on_cpu else "ExampleHiddenStatesConnector",
                "kv_role": "kv_producer",
                "kv_connector_extra_config": {"shared_storage_path": str(scratch)},
                **({"kv_connector_module_path": "vllm_cpu_states"} if on_cpu else {}),
            },
        }
    chat_template = dict(spec.engine_settings.chat_template)
    return {"llm": arguments, "sampling": sampling, "seed": spec.seed, "chat_template": chat_template}


def states_environment(spec: RunSpec) -> dict[str, str]:
    """The environment variables of such a run.

    vLLM's engine runs in a process of its own: in the caller's it would take no step after the last answer, and that
    step writes the states of finished requests.
    """
    return {**_environment(spec), "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}


def _llm_arguments(spec: RunSpec) -> dict[str, object]:
    arguments: dict[str, object] = {
        "model": spec.target,
        "dtype": spec.dtype,
        "seed": spec.seed,
        "max_model_len": spec.max_model_len,
        "max_num_seqs": spec.concurrency,
        "enforce_eager": not spec.serves or spec.device == "cpu",
        "enable_prefix_caching": False,
        "disable_log_stats": False,
        "trust_remote_code": False,
    }
    devices = spec.engine_settings.tensor_parallel
    if devices > 1:
        arguments["tensor_parallel_size"] = devices
    if spec.head is not None:
        arguments["speculative_config"] = vllm_config(str(spec.head), spec.draft_tokens, spec.parallel_drafting)
    elif spec.method != "none":
        arguments["speculative_config"] = {"method": spec.method, "num_speculative_tokens": spec.draft_tokens}
    if spec.serves and spec.method != "none":
        arguments["per_request_spec_decode_metrics"] = "summary"
    return spec.engine_settings.arguments_of("vllm", arguments, drafts=spec.head is not None)


def _sampling(spec: RunSpec) -> dict[str, object]:
    sampling: dict[str, object] = {"temperature": spec.temperature, "max_tokens": spec.max_new_tokens}
    if spec.temperature > 0:
        sampling["seed"] = spec.seed
    return sampling


def _environment(spec: RunSpec) -> dict[str, str]:
    environment = {"VLLM_NO_USAGE_STATS": "1", **base_environment(spec)}
    if not spec.serves:
        environment["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    if spec.device == "cpu":
        environment["VLLM_CPU_KVCACHE_SPACE"] = str(spec.kv_cache_gib)
        if spec.engine_settings.tensor_parallel > 1:
            # Else vLLM gives each process a NUMA node of its own, and does not start where there are fewer.
            environment["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
    return spec.engine_settings.environment_of("vllm", environment)
