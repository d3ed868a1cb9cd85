"""--tensor-parallel, --engine-arg, --engine-env and --chat-template-arg: read, refused, stated, and derived again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.versions import SGLANG, VLLM

from eagle3hub.engines.base import EngineSettings, RunSpec
from eagle3hub.engines.options import (
    arguments_in_words,
    check_engine_settings,
    engine_options,
    read_engine_settings,
    template_in_words,
)
from eagle3hub.engines.recipes import Serving, make_recipe
from eagle3hub.engines.sglang import SGLang
from eagle3hub.engines.specs import interface
from eagle3hub.engines.trtllm import TensorRTLLM
from eagle3hub.engines.vllm import VLLM as VLLMEngine
from eagle3hub.errors import UsageError
from eagle3hub.prompts import load_prompts

BOTH = ("vllm", "sglang")
SECRET = "hf_" + "a" * 30
Cli = Callable[..., tuple[int, str, str]]


def arguments(*pairs: str, started: tuple[str, ...] = ("vllm",), **more: Any) -> dict[str, Any]:
    read = read_engine_settings(started, engine_arg=pairs, **more)
    return dict(read.arguments[started[0]])


@pytest.mark.parametrize(
    ("pair", "value"),
    [
        ("kv_cache_dtype=fp8", {"kv_cache_dtype": "fp8"}),
        ("--kv-cache-dtype=fp8", {"kv_cache_dtype": "fp8"}),
        ("vllm.enforce_eager=false", {"enforce_eager": False}),
        ("enforce-eager=False", {"enforce_eager": False}),
        ("max_model_len=4096", {"max_model_len": 4096}),
        ("gpu_memory_utilization=1", {"gpu_memory_utilization": 1}),
        ("gpu_memory_utilization=0.8", {"gpu_memory_utilization": 0.8}),
        ("served_model_name=7", {"served_model_name": "7"}),
        ('served_model_name=["a", "b"]', {"served_model_name": ["a", "b"]}),
        ("quantization=null", {"quantization": None}),
        ('limit_mm_per_prompt={"image": 1}', {"limit_mm_per_prompt": {"image": 1}}),
        # of these the package does not tell the type: JSON, or else text
        ("compilation_config=3", {"compilation_config": 3}),
        ("distributed_executor_backend=mp", {"distributed_executor_backend": "mp"}),
        ("speculative_config.draft_tensor_parallel_size=1", {"speculative_config": {"draft_tensor_parallel_size": 1}}),
        ("compilation_config.mode=NONE", {"compilation_config": {"mode": "NONE"}}),
    ],
)
def test_an_argument_has_the_type_that_the_engine_takes(pair: str, value: dict[str, Any]) -> None:
    found = arguments(pair)
    assert found == value
    assert [type(v) for v in found.values()] == [type(v) for v in value.values()]


@pytest.mark.parametrize(
    ("option", "given", "code", "message", "hint"),
    [
        ("engine_arg", "max_model_len", "usage-engine-arg", "'max_model_len' is not [ENGINE.]NAME=VALUE", "vllm."),
        ("engine_arg", "=3", "usage-engine-arg", "is not [ENGINE.]NAME=VALUE", None),
        ("engine_arg", "max_modle_len=4096", "usage-engine-arg", "has no keyword max_modle_len", "max_model_len?"),
        ("engine_arg", "speculative_model=x", "usage-engine-arg", "is gone", "--speculative-config"),
        ("engine_arg", "sglang.page_size=1", "usage-engine-arg", "does not start SGLang", "vllm"),
        ("engine_arg", "max_model_len=long", "usage-engine-arg-value", 'a whole number, not "long"', None),
        ("engine_arg", "max_model_len=1.5", "usage-engine-arg-value", "a whole number", None),
        ("engine_arg", "enforce_eager=3", "usage-engine-arg-value", "true or false", None),
        ("engine_arg", "allowed_media_domains=x", "usage-engine-arg-value", "a JSON list", None),
        ("engine_arg", "kv_cache_dtype=fp9", "usage-engine-arg-value", "takes no 'fp9' for kv_cache_dtype", "fp8"),
        ("engine_arg", "speculative_config.xyz=1", "usage-engine-arg-value", "no key of the speculative config", None),
        (
            "engine_arg",
            "speculative_config.rejection_sample_method=synthetic",
            "usage-engine-arg-value",
            "does not compare them with the target",
            "without it",
        ),
        (
            "engine_arg",
            "speculative_config.draft_tensor_parallel_size=2",
            "usage-engine-arg-value",
            "refuses draft_tensor_parallel_size 2 for a target on 1",
            None,
        ),
        ("engine_arg", "speculative_config.model=x", "usage-engine-arg-decided", "names the head", "--draft-tokens"),
        ("engine_arg", "dtype=float16", "usage-engine-arg-decided", "decides the dtype", "--dtype"),
        ("engine_arg", "seed=3", "usage-engine-arg-decided", "decides the seed", "--seed"),
        ("engine_arg", "model=x", "usage-engine-arg-decided", "names the target", "--target"),
        ("engine_arg", "tensor-parallel-size=2", "usage-engine-arg-decided", "devices", "--tensor-parallel"),
        ("engine_arg", "chat_template=x", "usage-engine-arg-decided", "own chat template", "--chat-template-arg"),
        ("engine_arg", "trust_remote_code=true", "usage-engine-arg-decided", "never run", None),
        ("engine_arg", f"hf_token={SECRET}", "usage-engine-secret", "a secret", "environment"),
        ("engine_arg", f"download_dir={SECRET}", "usage-engine-secret", "a secret", "environment"),
        ("engine_env", "VLLM_LOGGING_LEVEL", "usage-engine-env", "is not [ENGINE.]NAME=VALUE", None),
        ("engine_env", "VLLM_LOGGING_LEVLE=INFO", "usage-engine-env", "VLLM_LOGGING_LEVLE", "VLLM_LOGGING_LEVEL?"),
        ("engine_env", "VLLM_USE_V1=1", "usage-engine-env", "is not read any more", "leave it out"),
        ("engine_env", "1X=2", "usage-engine-env", "is no environment variable", None),
        ("engine_env", "TMPDIR=/tmp", "usage-engine-env", "the run decides it", None),
        ("engine_env", f"HF_TOKEN={SECRET}", "usage-engine-secret", "a secret", "environment"),
        ("engine_env", f"MY_NOTE={SECRET}", "usage-engine-secret", "a secret", "environment"),
        (
            "chat_template_arg",
            "enable_thinking",
            "usage-chat-template-arg",
            "is not KEY=VALUE",
            "enable_thinking=false",
        ),
        ("chat_template_arg", "messages=[]", "usage-chat-template-arg", "no argument of a chat template", None),
        ("chat_template_arg", "a b=1", "usage-chat-template-arg", "no argument of a chat template", None),
    ],
)
def test_what_an_engine_does_not_take_is_refused(
    option: str, given: str, code: str, message: str, hint: str | None
) -> None:
    with pytest.raises(UsageError) as refused:
        read_engine_settings(("vllm",), **{option: [given]})  # type: ignore[arg-type]
    assert refused.value.code == code
    assert message in refused.value.message
    assert hint is None or hint in str(refused.value.hint)
    assert SECRET not in f"{refused.value.message} {refused.value.hint}"


@pytest.mark.parametrize("devices", [0, -1, 2000])
def test_a_number_of_devices_that_is_none(devices: int) -> None:
    with pytest.raises(UsageError, match=f"1 to 1024, not {devices}"):
        check_engine_settings(EngineSettings(devices))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (EngineSettings(arguments={"vllm": {"max_model_len": "long"}}), "a whole number"),
        (EngineSettings(arguments={"llamacpp": {"n_batch": 8}}), "llama.cpp is run through its library here"),
        (EngineSettings(arguments={"sglang": {"attention_backend": "nonesuch"}}), "takes no 'nonesuch'"),
        (EngineSettings(arguments={"sglang_jax": {"max_prefil_tokens": 8}}), "no keyword max_prefil_tokens"),
        (EngineSettings(arguments={"trtllm": {"max_num_tokns": 8}}), "no keyword max_num_tokns"),
    ],
)
def test_settings_that_a_program_gives_are_held_to_the_same(settings: EngineSettings, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_engine_settings(settings)


def test_several_engines_are_told_apart() -> None:
    read = read_engine_settings(
        BOTH,
        tensor_parallel=2,
        engine_arg=["vllm.kv_cache_dtype=fp8", "sglang.page_size=16", "sglang.schedule-policy=lpm"],
        engine_env=["vllm.VLLM_LOGGING_LEVEL=INFO", "sglang.NCCL_DEBUG=INFO"],
        chat_template_arg=["enable_thinking=false", "reasoning_effort=high", "budget=100", 'note="true"'],
    )
    assert read.arguments == {
        "vllm": {"kv_cache_dtype": "fp8"},
        "sglang": {"page_size": 16, "schedule_policy": "lpm"},
    }
    assert read.environment == {"vllm": {"VLLM_LOGGING_LEVEL": "INFO"}, "sglang": {"NCCL_DEBUG": "INFO"}}
    thinking = {"enable_thinking": False, "reasoning_effort": "high", "budget": 100, "note": "true"}
    assert read.chat_template == thinking
    assert EngineSettings.from_json(json.loads(json.dumps(read.to_json()))) == read
    assert hash(EngineSettings.from_json(read.to_json())) == hash(read)
    assert read_engine_settings(BOTH, **engine_options(read)) == read
    assert read.of_run(["vllm"]) == EngineSettings(
        2, {"vllm": {"kv_cache_dtype": "fp8"}}, {"vllm": {"VLLM_LOGGING_LEVEL": "INFO"}}, thinking
    )
    assert read.of_run([]) == EngineSettings(chat_template=thinking)
    for started, says in ((BOTH, "this run starts vllm and sglang"), ((), "this run starts no engine")):
        with pytest.raises(UsageError, match=says):
            read_engine_settings(started, engine_arg=["page_size=16"])
    with pytest.raises(UsageError, match="this run starts none"):
        read_engine_settings((), tensor_parallel=2)


def test_nothing_set_says_nothing() -> None:
    assert not EngineSettings()
    assert engine_options(EngineSettings()) == engine_options(EngineSettings(arguments={"vllm": {}})) == {}
    assert EngineSettings().to_json() == EngineSettings(arguments={"vllm": {}}).to_json() == {}
    assert template_in_words({}) == "the target's own"
    assert template_in_words({"b": 1, "a": False}) == "the target's own with a=false, b=1"
    assert arguments_in_words(EngineSettings(), "vllm") is None
    assert arguments_in_words(EngineSettings(arguments={"vllm": {"kv_cache_dtype": "fp8"}}), "vllm") == (
        "kv_cache_dtype=fp8"
    )


@pytest.mark.parametrize(("engine", "version"), [("vllm", VLLM), ("sglang", SGLANG)])
def test_the_package_tells_types_of_the_arguments_that_it_has(engine: str, version: str) -> None:
    own = interface(engine, version)
    assert own is not None
    known = {name for names in own.keywords.values() for name in names}
    kinds = {"boolean", "integer", "number", "string", "array", "object"}
    assert all(set(told) <= kinds for told in own.types.values())
    assert len(own.types.keys() & known) > 0.8 * len(known)


def spec(settings: EngineSettings, head: Path | None = Path("/h"), **more: Any) -> RunSpec:
    return RunSpec("/t", head, load_prompts("smoke", 1), engine_settings=settings, **more)


def test_a_run_is_given_them_over_its_own() -> None:
    given = {"enforce_eager": False, "speculative_config": {"draft_tensor_parallel_size": 1}}
    settings = EngineSettings(2, {"vllm": given}, {"vllm": {"VLLM_CPU_KVCACHE_SPACE": "9"}})
    with_head, alone = (VLLMEngine().flags(spec(settings, head)) for head in (Path("/h"), None))
    for flags in (with_head, alone):
        assert (flags["llm"]["enforce_eager"], flags["llm"]["tensor_parallel_size"]) == (False, 2)
        assert flags["env"]["VLLM_CPU_KVCACHE_SPACE"] == "9"
        assert flags["env"]["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
    assert with_head["llm"]["speculative_config"] == {
        "method": "eagle3",
        "model": "/h",
        "num_speculative_tokens": 3,
        "draft_tensor_parallel_size": 1,
    }
    assert "speculative_config" not in alone["llm"]
    assert "tensor_parallel_size" not in VLLMEngine().flags(spec(EngineSettings()))["llm"]
    split = SGLang().flags(spec(EngineSettings(2)))
    assert split["engine"]["tp_size"] == 2
    assert len(split["env"]["SGLANG_CPU_OMP_THREADS_BIND"].split("|")) == 2


def test_tensorrt_llm_split_over_devices_starts_its_own_processes() -> None:
    one, two = (TensorRTLLM().flags(spec(EngineSettings(n), device="cuda")) for n in (1, 2))
    assert "TLLM_WORKER_USE_SINGLE_PROCESS" in one["env"]
    assert "TLLM_WORKER_USE_SINGLE_PROCESS" not in two["env"]
    assert (two["llm"]["tensor_parallel_size"], "tensor_parallel_size" in one["llm"]) == (2, False)
    settings = EngineSettings(
        arguments={
            "trtllm": {
                "kv_cache_config": {"free_gpu_memory_fraction": 0.9},
                "speculative_config": {"max_concurrency": 4},
            }
        }
    )
    flags = TensorRTLLM().flags(spec(settings, device="cuda"))
    assert flags["llm"]["kv_cache_config"] == {"enable_block_reuse": False, "free_gpu_memory_fraction": 0.9}
    assert flags["draft"] == {"max_draft_len": 3, "speculative_model": "/h", "max_concurrency": 4}
    assert "speculative_config" not in flags["llm"]


@pytest.mark.parametrize(("engine", "device"), [("llamacpp", "cpu"), ("sglang_jax", "cpu")])
def test_an_engine_that_cannot_be_split_says_so(engine: str, device: Any) -> None:
    from eagle3hub.engines import get_engine

    assert get_engine(engine).unable(spec(EngineSettings(), device=device)) in (None, _folder(engine))
    assert "device" in str(get_engine(engine).unable(spec(EngineSettings(2), device=device)))


def _folder(engine: str) -> str | None:
    return "llama.cpp's converter reads the target from a folder, not from the Hub" if engine == "llamacpp" else None


def test_a_recipe_serves_with_them() -> None:
    settings = EngineSettings(
        4,
        {
            "vllm": {
                "kv_cache_dtype": "fp8",
                "enforce_eager": True,
                "enable_prefix_caching": False,
                "speculative_config": {"draft_tensor_parallel_size": 1},
            },
            "sglang": {"page_size": 16, "cuda_graph_bs_decode": [1, 2]},
            "trtllm": {"kv_cache_config": {"free_gpu_memory_fraction": 0.9}},
        },
        {"vllm": {"VLLM_LOGGING_LEVEL": "INFO"}},
        {"enable_thinking": False},
    )
    serving = Serving("org/t", "org/d", draft_tokens=3)
    made = {name: make_recipe(name, serving.with_settings(name, settings)) for name in ("vllm", "sglang", "trtllm")}
    vllm = made["vllm"]
    assert vllm.env == {"VLLM_LOGGING_LEVEL": "INFO"}
    for words in (
        ["--tensor-parallel-size", "4", "--kv-cache-dtype", "fp8", "--enforce-eager", "--no-enable-prefix-caching"],
        ["--default-chat-template-kwargs", '{"enable_thinking": false}'],
    ):
        at = vllm.argv.index(words[0])
        assert list(vllm.argv[at : at + len(words)]) == words
    assert '"draft_tensor_parallel_size": 1' in vllm.server_command
    compile(vllm.python, "vllm", "exec")
    assert "kv_cache_dtype='fp8'" in vllm.python
    assert "chat_template_kwargs={'enable_thinking': False}" in vllm.python
    sglang = made["sglang"]
    assert sglang.server_command.endswith(
        "--tp-size 4 --page-size 16 --cuda-graph-bs-decode 1 2 --default-chat-template-kwargs "
        "'{\"enable_thinking\": false}'"
    )
    compile(sglang.python, "sglang", "exec")
    assert "page_size=16" in sglang.python
    assert "free_gpu_memory_fraction: 0.9" in str(made["trtllm"].yaml)
    from eagle3hub.engines.check import check_recipe

    for recipe in made.values():
        assert [f for f in check_recipe(recipe.to_json()).findings if f.severity == "error"] == []


def test_what_several_processes_saw_is_one_load() -> None:
    from eagle3hub.engines.workers.protocol import load_of_all

    first = {"checked": True, "not_loaded": ["fc.weight"], "ignored": ["t2d", "x"], "aux_boundaries": [2, 4, 5]}
    second = {**first, "not_loaded": ["norm.weight"], "ignored": ["t2d"]}
    assert load_of_all([first, second]) == {
        **first,
        "not_loaded": ["fc.weight", "norm.weight"],
        "ignored": ["t2d"],
    }
    assert load_of_all([first]) == first
    assert load_of_all([first, {**second, "aux_boundaries": [1, 3, 4]}])["aux_boundaries"] is None
    for seen in ([], [{}], [first, {}], [first, {"checked": False}]):
        assert load_of_all(seen) == {"checked": False}


def test_each_process_of_sglang_has_its_share_of_the_cores() -> None:
    from eagle3hub.engines.sglang import _shares

    assert _shares([0, 1, 2, 3], 2) == "0,1|2,3"
    assert _shares([0, 1, 2, 3, 4], 2) == "0,1|2,3"
    assert _shares([4, 6], 4) == "4|6|4|6"
