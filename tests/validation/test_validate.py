"""Validation up to the door of the engine, and what a failing engine turns into. No vLLM is needed here."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import heads, targets
from support.signals import default_signals
from support.validation import validate

from eagle3hub.errors import InputError, UnavailableError, UsageError
from eagle3hub.validation import engine_runner
from eagle3hub.validation.report import load_report

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def no_engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EAGLE3HUB_CACHE", str(tmp_path / "cache"))


def interpreter(folder: Path, body: str) -> Path:
    file = folder / "broken-python"
    file.write_text(f'#!/bin/sh\n[ "$2" = -c ] && exit 1  # it tells no version\n{body}\n')
    file.chmod(0o755)
    return file


def break_map(head: Path) -> None:
    """All zeros in d2t: the classic map that was never initialised."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(head / "model.safetensors")
    tensors["d2t"].zero_()
    save_file(tensors, head / "model.safetensors")


def test_a_head_with_errors_fails_without_an_engine(
    cli: Cli, head: Path, fitting_target: Path, tmp_path: Path
) -> None:
    break_map(head)
    status, out, _ = cli(
        "validate", head, "--engine", "vllm", "--target", fitting_target, "--report", tmp_path / "report.json"
    )
    assert status == 1
    assert out.startswith("FAIL")
    report = load_report(tmp_path / "report.json").document
    assert report["engines"] == []
    assert report["static"]["verdict"] == "fail"
    assert [p["code"] for p in report["static"]["problems"] if p["severity"] == "error"]


def test_an_engine_that_is_not_installed(cli: Cli, head: Path, fitting_target: Path) -> None:
    status, out, err = cli("validate", head, "--engine", "vllm", "--target", fitting_target)
    assert status == 4
    assert out == ""
    assert "eagle3hub engines install vllm --device cpu" in err


def test_errors_in_json_are_one_document(cli: Cli, head: Path, fitting_target: Path) -> None:
    status, out, _ = cli("validate", head, "--engine", "vllm", "--target", fitting_target, "--json")
    assert status == 4
    assert json.loads(out)["error"]["code"] == "engine-not-installed"


def test_cuda_on_a_machine_without(head: Path, fitting_target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_runner, "_CUDA", head / "nvidiactl")
    with pytest.raises(UnavailableError, match="no CUDA device"):
        validate(head, target=fitting_target, engine="vllm", device="cuda")


def test_sampling_where_the_engine_samples_noise(head: Path, fitting_target: Path) -> None:
    with pytest.raises(UnavailableError, match="temperature"):
        validate(head, target=fitting_target, engine="vllm", temperature=0.8)


def test_an_interpreter_that_is_not_there(head: Path, fitting_target: Path, tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="no interpreter"):
        validate(head, target=fitting_target, engine="vllm", engine_python={"vllm": tmp_path / "none"})


@pytest.mark.parametrize("engine", ["reference", "reference,vllm"])
def test_a_target_without_weights(cli: Cli, head: Path, fitting_target: Path, tmp_path: Path, engine: str) -> None:
    command = ("validate", head, "--target", fitting_target, "--engine", engine, "--engine-python", "vllm=/bin/false")
    weights = fitting_target / "model.safetensors"
    weights.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    status, out, err = cli(*command)
    assert (status, out) == (3, "")
    assert "model.safetensors is a pointer of Git LFS" in err
    weights.unlink()
    status, out, err = cli(*command)
    assert (status, out) == (3, "")
    assert f"there are no weights in the target folder {fitting_target}\nhint: " in err


def test_a_crashing_engine_is_a_failed_report(cli: Cli, head: Path, fitting_target: Path, tmp_path: Path) -> None:
    python = interpreter(tmp_path, "echo last words >&2; exit 7")
    options = ("--engine", "vllm", "--engine-python", f"vllm={python}", "--json")
    status, out, err = cli("validate", head, "--target", fitting_target, *options)
    report = json.loads(out)
    assert status == 1
    assert report["verdict"] == "fail"
    assert "exit status 7" in report["engines"][0]["reason"]
    assert report["engines"][0]["log_tail"] == ["last words"]
    assert "Traceback" not in err
    assert str(tmp_path) not in out


@pytest.mark.slow
def test_an_interpreter_without_the_engine_is_unavailable(cli: Cli, head: Path, fitting_target: Path) -> None:
    options = ("--engine", "vllm", "--engine-python", f"vllm={sys.executable}")
    command = ("validate", head, "--target", fitting_target, *options)
    status, out, _ = cli(*command)
    assert status == 4
    assert out.startswith("UNAVAILABLE  vLLM could not be imported")


def test_the_time_limit_is_a_failure(cli: Cli, head: Path, fitting_target: Path, tmp_path: Path) -> None:
    python = interpreter(tmp_path, "exec sleep 100")
    options = ("--engine-python", f"vllm={python}", "--timeout", "1")
    status, out, _ = cli("validate", head, "--engine", "vllm", "--target", fitting_target, *options)
    assert status == 1
    assert "did not finish within 1 seconds" in out


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"engine": "nosuch"}, "nosuch"),
        ({"device": "npu"}, "npu"),
        ({"device": "tpu", "engine": "reference"}, "the reference computes on cpu and cuda, not on tpu"),
        ({"dtype": "int4"}, "int4"),
        ({"draft_tokens": 0}, "--draft-tokens"),
        ({"max_new_tokens": 0}, "--max-new-tokens"),
        ({"num_prompts": 0}, "--num-prompts"),
        ({"temperature": -0.5}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"timeout": 0}, "--timeout"),
        ({"min_acceptance_length": 4.5}, "between 1 and 4"),
        ({"min_acceptance_length": 0.9}, "between 1 and 4"),
    ],
)
def test_options_that_make_no_sense(head: Path, fitting_target: Path, options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        validate(head, target=fitting_target, **{"engine": "vllm", **options})


def test_what_cannot_be_read(head: Path, fitting_target: Path, tmp_path: Path) -> None:
    for source, target in ((tmp_path / "none", fitting_target), (head, tmp_path / "none")):
        with pytest.raises(InputError, match="none"):
            validate(source, target=target)
    with pytest.raises(InputError, match=r"none\.jsonl"):
        validate(head, target=fitting_target, engine="vllm", prompts="none.jsonl")


def test_a_report_that_cannot_be_written_is_found_before_the_run(cli: Cli, head: Path, fitting_target: Path) -> None:
    status, _, err = cli(
        "validate", head, "--engine", "vllm", "--target", fitting_target, "--report", head / "no" / "report.json"
    )
    assert status == 3
    assert "cannot write" in err


def test_engines_list_shows_what_to_do(cli: Cli) -> None:
    status, out, _ = cli("engines", "list")
    assert status == 0
    assert "not installed" in out
    assert "eagle3hub engines install vllm --device cpu" in out
    status, out, _ = cli("engines", "list", "--json")
    rows = {(e["engine"], e["device"]): e for e in json.loads(out)["engines"]}
    assert not any(row["installed"] for row in rows.values())
    assert rows["vllm", "cpu"]["tested"]
    assert not rows["sglang", "cuda"]["tested"]
    for engine, device in (("sglang", "cpu"), ("trtllm", "cuda"), ("sglang_jax", "cpu")):
        assert rows[engine, device]["unobtainable"], "what cannot be had is said, not left out"


def test_engines_remove_and_unknown_names(cli: Cli) -> None:
    assert cli("engines", "remove", "vllm")[:2] == (0, "vllm for cpu: was not installed\n")
    status, _, err = cli("engines", "install", "sglang")
    assert status == 4
    assert "CPU build" in err
    status, _, err = cli("engines", "install", "nosuch")
    assert status == 2
    assert "vllm" in err
    assert cli("engines", "install", "vllm", "--device", "cuda")[0] == 4


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_command_leaves_no_engine_running(
    head: Path, fitting_target: Path, tmp_path: Path, number: signal.Signals, status: int
) -> None:
    record = tmp_path / "pid"
    python = interpreter(tmp_path, f"echo $$ > {record}.part; mv {record}.part {record}; exec sleep 100")
    command = [sys.executable, "-m", "eagle3hub", "validate", str(head), "--target", str(fitting_target)]
    command += ["--engine", "vllm", "--engine-python", f"vllm={python}"]
    root = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "PYTHONPATH": root}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=environment, preexec_fn=default_signals, **pipes) as process:
        end = time.monotonic() + 20
        while not record.exists() and time.monotonic() < end:
            time.sleep(0.05)
        pid = int(record.read_text())
        process.send_signal(number)
        _, err = process.communicate(timeout=20)
    assert process.returncode == status
    assert b"Traceback" not in err
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


# How engines are started: what is refused before one is.


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (("--engine", "vllm", "--tensor-parallel", 3), 1, "cannot split the draft over 3 devices: it has 1024 inter"),
        (("--engine", "reference", "--tensor-parallel", 2), 2, "this run starts none"),
        (("--engine", "vllm", "--tensor-parallel", 0), 2, "is the number of devices, 1 to 1024, not 0"),
        (("--engine", "reference", "--engine-arg", "vllm.x=1"), 2, "this run does not start vLLM"),
        (("--engine", "vllm", "--engine-arg", "max_modle_len=1"), 2, "did you mean max_model_len?"),
        (("--engine", "llamacpp", "--tensor-parallel", 2), 4, "llama.cpp has no tensor parallel size"),
        (("--engine", "vllm", "--chat-template-arg", "think=1"), 3, "has no chat template for --chat-template-arg"),
        (
            ("--engine", "vllm", "--endpoint", "vllm=http://127.0.0.1:9", "--engine-arg", "vllm.block_size=16"),
            2,
            "this run does not start vLLM",
        ),
        (("--endpoint", "vllm=http://127.0.0.1:9", "--engine", "vllm", "--tensor-parallel", 2), 2, "starts none"),
    ],
)
def test_settings_of_engines_that_cannot_be_run(
    cli: Cli, head: Path, fitting_target: Path, tmp_path: Path, words: tuple[object, ...], status: int, message: str
) -> None:
    python = interpreter(tmp_path, "exit 3")
    given = ("--engine-python", f"vllm={python}") if "--endpoint" not in words else ()
    found, out, err = cli("validate", head, "--target", fitting_target, *given, *words)
    assert (found, message in " ".join(f"{out} {err}".split())) == (status, True), out + err


def test_settings_of_a_server_that_runs_already() -> None:
    from eagle3hub.engines.base import EngineSettings
    from eagle3hub.validation.options import ValidateOptions

    servers = {"vllm": "http://127.0.0.1:9"}
    for settings in (EngineSettings(2), EngineSettings(arguments={"vllm": {"block_size": 16}})):
        with pytest.raises(UsageError, match="vLLM is a server that runs already"):
            ValidateOptions(engine="reference,vllm", endpoints=servers, engine_settings=settings)
    ValidateOptions(engine="vllm,sglang", endpoints=servers, engine_settings=EngineSettings(2))


def test_more_devices_than_the_machine_has(
    head: Path, fitting_target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from eagle3hub.engines.base import EngineSettings

    (tmp_path / "nvidiactl").touch()
    (tmp_path / "nvidia0").touch()
    monkeypatch.setattr(engine_runner, "_CUDA", tmp_path / "nvidiactl")
    split = EngineSettings(2)
    with pytest.raises(UnavailableError, match="needs 2 CUDA devices, and this machine has 1"):
        validate(head, target=fitting_target, engine="vllm", device="cuda", engine_settings=split)
    (tmp_path / "nvidia1").touch()
    with pytest.raises(UnavailableError, match="no tested environment"):
        validate(head, target=fitting_target, engine="vllm", device="cuda", engine_settings=split)


@pytest.fixture
def small(tmp_path: Path) -> tuple[Path, Path]:
    """A head that knows nothing, and its target, whose chat template has the argument ``think``."""
    sizes = heads.dims(hidden=16, inter=24, heads=4, kv=2, vocab=targets.VOCAB, draft=24)
    target = targets.save(tmp_path / "small", tokenizer=True, max_position_embeddings=4096)
    taps = {"use_aux_hidden_state": True, "eagle_aux_hidden_state_layer_ids": [0, 1, 2]}
    return heads.specforge(tmp_path / "small-head", sizes, eagle_config=taps), target


def test_the_reference_renders_with_the_templates_arguments(small: tuple[Path, Path]) -> None:
    from eagle3hub.engines.base import EngineSettings

    head, target = small
    plain, thinking = (
        validate(
            head,
            target=target,
            engine="reference",
            num_prompts=2,
            max_new_tokens=4,
            engine_settings=EngineSettings(chat_template=arguments),
        ).document
        for arguments in ({}, {"think": True})
    )
    tokens = [[row["prompt_tokens"] for row in one["engines"][0]["per_prompt"]] for one in (plain, thinking)]
    assert [more - less for less, more in zip(*tokens, strict=True)] == [1, 1], "the template's question mark"
    assert plain["settings"]["chat_template"] == "the target's own"
    assert "engine_settings" not in plain["settings"]
    assert thinking["settings"]["chat_template"] == "the target's own with think=true"
    assert thinking["settings"]["engine_settings"] == {"chat_template": {"think": True}}


MANIFEST = """\
schema: eagle3hub/manifest/1
head: {{source: ./head}}
target: {{id: owner/target, license: mit, path: {target}}}
release: {{repo: owner/head, license: mit, summary: A head.}}
layouts: {{main: specforge}}
speculative_tokens: 2
validate:
  engine: reference,vllm
  num_prompts: 2
  max_new_tokens: 4
  engine_settings:
    tensor_parallel: 2
    arguments: {{vllm: {{kv_cache_dtype: fp8}}}}
    chat_template: {{think: true}}
"""


def test_a_manifest_says_how_engines_are_started(cli: Cli, small: tuple[Path, Path], tmp_path: Path) -> None:
    head, target = small
    manifest = tmp_path / "release.yaml"
    manifest.write_text(MANIFEST.format(target=target))
    command = ("validate", head, "--manifest", manifest, "--json")
    _, out, _ = cli(*command, "--engine", "reference")
    report = json.loads(out)
    assert report["settings"]["engine_settings"] == {"chat_template": {"think": True}}, "the rest is for vLLM"
    assert report["settings"]["chat_template"] == "the target's own with think=true"
    _, out, _ = cli(*command, "--run-anyway", "--engine-python", f"vllm={interpreter(tmp_path, 'exit 3')}")
    report = json.loads(out)
    stated = {"tensor_parallel": 2, "arguments": {"vllm": {"kv_cache_dtype": "fp8"}}, "chat_template": {"think": True}}
    assert report["settings"]["engine_settings"] == stated
    (_, vllm) = report["engines"]
    assert vllm["flags"]["llm"]["tensor_parallel_size"] == 2
    assert "--tensor-parallel-size 2 --kv-cache-dtype fp8" in vllm["recipe"]["server_command"]
    _, out, _ = cli(*command, "--engine", "reference", "--chat-template-arg", "think=false")
    assert json.loads(out)["settings"]["engine_settings"] == {"chat_template": {"think": False}}
    status, out, _ = cli(*command, "--engine", "reference", "--engine-arg", "vllm.block_size=16")
    assert (status, json.loads(out)["error"]["code"]) == (2, "usage-engine-arg")


@pytest.mark.parametrize("place", ["file", "config", "several", "none", "broken"])
def test_where_a_chat_template_is_read(fitting_target: Path, place: str) -> None:
    from eagle3hub.validation.target import check_rendering, identify_target

    target = identify_target(fitting_target, "the target")
    template = fitting_target / "chat_template.jinja"
    config = fitting_target / "tokenizer_config.json"
    text = "{% if enable_thinking %}<think>{{ messages[0].thought }}{% endif %}"
    fields: dict[str, Any] = {}
    if place == "file":
        template.write_text(text)
    elif place == "broken":
        template.write_text(text + "{% if")
    elif place != "none":
        several = [{"name": "tool_use", "template": "{{ other }}"}, {"name": "default", "template": text}]
        fields["chat_template"] = text if place == "config" else several
    config.write_text(json.dumps(fields))
    if place == "none":
        with pytest.raises(InputError, match="has no chat template for --chat-template-arg enable_thinking"):
            check_rendering(target, {"enable_thinking": False})
        return
    check_rendering(target, {"enable_thinking": False})
    check_rendering(target, {})
    with pytest.raises(InputError, match="no argument enable_thinkng; did you mean 'enable_thinking'"):
        check_rendering(target, {"enable_thinkng": False})
    if place != "broken":
        for text_of_the_template in ("think", "thought"):  # a text, and a part of a message
            with pytest.raises(InputError, match="has no argument"):
                check_rendering(target, {text_of_the_template: 1})
