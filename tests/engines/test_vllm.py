"""The parent's side of a vLLM run. Interpreters here are scripts that fail on purpose, or one without vLLM."""

from __future__ import annotations

import importlib
import json
import shlex
import stat
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.versions import VLLM

from eagle3hub import engines
from eagle3hub.engines import get_engine
from eagle3hub.engines.base import EngineFailure, RunSpec, worst_verdict
from eagle3hub.errors import UsageError
from eagle3hub.prompts import load_prompts
from eagle3hub.system.progress import silent


@pytest.fixture
def job(tmp_path: Path) -> RunSpec:
    for name in ("target", "head"):
        (tmp_path / name).mkdir()
    return RunSpec(target=str(tmp_path / "target"), head=tmp_path / "head", prompts=load_prompts("smoke", 2))


def says(folder: Path, *lines: str) -> Path:
    """Make an interpreter that ignores its arguments, writes ``lines`` to standard output and ends."""
    file = folder / "python"
    file.write_text("#!/bin/sh\nread request\n" + "".join(f"printf '%s\\n' {shlex.quote(line)}\n" for line in lines))
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return file


def failure(job: RunSpec, python: Path, timeout: float = 20.0) -> EngineFailure:
    found = get_engine("vllm").run(job, python, timeout=timeout, progress=silent)
    assert isinstance(found, EngineFailure)
    return found


READY = {
    "event": "ready",
    "version": VLLM,
    "environment": {"python": "3", "torch": "2", "transformers": "5", "processor": "x", "threads": 1},
    "load": {"checked": True, "not_loaded": [], "ignored": [], "aux_boundaries": [2, 15, 27]},
    "seconds": 1.0,
}
COUNTERS = {"rounds": 5, "drafted": 15, "accepted": 3, "accepted_per_position": [2, 1, 0]}
PROMPT = {"event": "prompt", "index": 0, "prompt_tokens": 9, "tokens": [1, 2], "counters": COUNTERS, "seconds": 0.5}
DONE = {"event": "done"}


def test_an_engine_that_is_not_there_is_a_usage_error() -> None:
    with pytest.raises(UsageError) as error:
        get_engine("sglong")
    assert "vllm" in (error.value.hint or "")


def test_the_recipe_is_one_shell_line_that_names_the_method() -> None:
    recipe = get_engine("vllm").recipe("org/target", "org/my head", draft_tokens=5)
    words = shlex.split(recipe.server_command)
    assert words[:3] == ["vllm", "serve", "org/target"]
    config = json.loads(words[words.index("--speculative-config") + 1])
    assert config == {"method": "eagle3", "model": "org/my head", "num_speculative_tokens": 5}
    compile(recipe.python, "snippet", "exec")
    assert "trust" not in recipe.server_command + recipe.python


def test_a_local_target_is_run_offline_and_nothing_is_trusted(job: RunSpec) -> None:
    flags = get_engine("vllm").flags(job)
    assert flags["env"]["HF_HUB_OFFLINE"] == "1"
    assert flags["llm"]["trust_remote_code"] is False
    assert flags["llm"]["speculative_config"]["method"] == "eagle3"
    assert "HF_HUB_OFFLINE" not in get_engine("vllm").flags(replace(job, target="owner/name"))["env"]
    assert "speculative_config" not in get_engine("vllm").flags(replace(job, head=None))["llm"]


def test_only_sampling_uses_the_request_seed(job: RunSpec) -> None:
    engine = get_engine("vllm")
    assert engine.flags(replace(job, seed=3))["sampling"] == {"temperature": 0.0, "max_tokens": 64}
    assert engine.flags(replace(job, seed=3, temperature=0.7))["sampling"]["seed"] == 3


def test_vllm_is_not_asked_for_a_tree(job: RunSpec) -> None:
    assert "not trees" in str(get_engine("vllm").unable(replace(job, topk=4, num_draft_tokens=8)))
    assert get_engine("vllm").unable(job) is None


def test_the_worst_verdict_wins() -> None:
    assert worst_verdict(["pass", "inconclusive"]) == "inconclusive"
    assert worst_verdict(["unavailable", "inconclusive", "pass"]) == "unavailable"
    assert worst_verdict(["unavailable", "fail"]) == "fail"
    assert worst_verdict(["pass", "pass"]) == "pass"
    assert worst_verdict([]) == "unavailable"


@pytest.mark.slow
def test_an_interpreter_without_vllm_is_unavailable_and_says_so(job: RunSpec) -> None:
    found = failure(job, Path(sys.executable))
    assert found.verdict == "unavailable"
    assert "No module named" in found.reason
    assert any("Traceback" in line for line in found.log_tail)


def test_an_interpreter_that_is_not_there_is_unavailable(job: RunSpec, tmp_path: Path) -> None:
    found = failure(job, tmp_path / "nowhere")
    assert found.verdict == "unavailable"
    assert "nowhere" in found.reason


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        ([], "did not finish (while it started): it ended with exit status 0"),
        ([READY], "did not finish (at prompt 1)"),
        ([READY, DONE], "it reported 0 of 2 prompts"),
        ([READY, PROMPT, DONE], "it reported 1 of 2 prompts"),
        ([PROMPT, {**PROMPT, "index": 1}, DONE], "it reported 2 of 2 prompts"),
        ([READY, {**PROMPT, "index": 1}, DONE], "out of turn"),
        ([READY, {**PROMPT, "counters": None}, DONE], "no counters"),
        ([READY, {**PROMPT, "counters": {**COUNTERS, "accepted": 4}}, DONE], "contradict each other"),
        ([READY, {k: v for k, v in PROMPT.items() if k != "tokens"}, DONE], "malformed (KeyError"),
        (
            [{"event": "error", "stage": "load", "kind": "ValueError", "message": "no\nway"}],
            "load the model with the head: ValueError: no",
        ),
        ([{"event": "error", "stage": "generate", "kind": "E", "message": ""}], "while generating: E: no message"),
    ],
)
def test_every_bad_end_is_a_failure_with_a_reason(
    job: RunSpec, tmp_path: Path, events: list[dict[str, Any]], reason: str
) -> None:
    found = failure(job, says(tmp_path, *(json.dumps(event) for event in events)))
    assert found.verdict == "fail"
    assert reason in found.reason
    assert "\n" not in found.reason


def test_a_missing_device_is_unavailable(job: RunSpec, tmp_path: Path) -> None:
    event = {"event": "error", "stage": "device", "kind": "RuntimeError", "message": "no CUDA"}
    assert failure(job, says(tmp_path, json.dumps(event))).verdict == "unavailable"


def test_a_kernel_that_the_build_has_not_for_this_processor_is_unavailable(job: RunSpec, tmp_path: Path) -> None:
    message = "'_OpNamespace' '_C' object has no attribute 'cpu_gemm_wna16'"
    event = {"event": "error", "stage": "generate", "kind": "AttributeError", "message": message}
    found = failure(job, says(tmp_path, json.dumps(READY), json.dumps(event)))
    assert found.verdict == "unavailable"
    assert found.reason == "vLLM cannot run these files here: its build has no kernel cpu_gemm_wna16 for this device"


def test_garbage_and_silence_are_failures(job: RunSpec, tmp_path: Path) -> None:
    assert "expected" in failure(job, says(tmp_path, "INFO 11-22 loading")).reason
    sleeper = says(tmp_path)
    sleeper.write_text("#!/bin/sh\necho starting >&2\nsleep 100\n")
    found = failure(job, sleeper, timeout=1.0)
    assert "within 1 seconds" in found.reason
    assert found.log_tail == ("starting",)


def test_no_path_of_this_machine_gets_into_a_reason_or_a_log(job: RunSpec, tmp_path: Path) -> None:
    message = f"cannot read {job.head}/model.safetensors for {job.target}"
    python = says(tmp_path, json.dumps({"event": "error", "stage": "load", "kind": "OSError", "message": message}))
    python.write_text(python.read_text().replace("read request\n", f"read request\necho {shlex.quote(message)} >&2\n"))
    found = failure(job, python)
    assert "cannot read <head>/model.safetensors for <target>" in found.reason
    assert str(tmp_path) not in " ".join((found.reason, *found.log_tail))


def test_a_target_that_takes_images_needs_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM imports it for every class of such targets, also where prompts are text alone."""
    monkeypatch.syspath_prepend(str(Path(engines.__file__).parent / "workers"))
    worker = importlib.import_module("vllm_worker")
    monkeypatch.setitem(sys.modules, "torchvision", None)
    config = tmp_path / "config.json"
    for text in ({"model_type": "llava", "vision_config": {}}, {"model_type": "llama"}):
        config.write_text(json.dumps(text))
        if "vision_config" in text:
            with pytest.raises(
                RuntimeError, match="lacks torchvision, which vLLM imports for targets that take images"
            ):
                worker.check_images(str(tmp_path))
        else:
            worker.check_images(str(tmp_path))
    worker.check_images("owner/on-the-hub")
    config.write_text('{"vision_config": {}}')
    monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
    worker.check_images(str(tmp_path))


def test_the_layers_that_are_tapped_are_found_in_the_language_model_of_a_target_that_takes_images(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(Path(engines.__file__).parent / "workers"))
    worker = importlib.import_module("vllm_worker")
    decoder = types.SimpleNamespace(aux_hidden_state_layers=(2, 4, 5))
    inner = types.SimpleNamespace(model=decoder)
    for target in (inner, types.SimpleNamespace(language_model=inner), types.SimpleNamespace(language_model=decoder)):
        assert worker.aux_boundaries(target) == [2, 4, 5]
    assert worker.aux_boundaries(types.SimpleNamespace(language_model=types.SimpleNamespace())) is None


@pytest.mark.engine
def test_a_target_that_takes_images_is_unavailable_without_torchvision(job: RunSpec, vllm_python: Path) -> None:
    """The installed environment leaves it out: no index has a build for the CPU build of torch."""
    Path(job.target, "config.json").write_text('{"model_type": "llava", "vision_config": {}}')
    found = failure(job, vllm_python, timeout=600)
    assert found.verdict == "unavailable"
    assert "lacks torchvision" in found.reason
