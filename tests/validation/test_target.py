from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from support import heads

from eagle3hub.conversion.plan import ConvertOptions
from eagle3hub.conversion.run import convert
from eagle3hub.engines import engine_pythons
from eagle3hub.errors import OutputError, SourceError, UsageError
from eagle3hub.validation import engine_runner
from eagle3hub.validation.engine_runner import default_device
from eagle3hub.validation.options import engine_names, writable_report
from eagle3hub.validation.report import MeasuredTarget
from eagle3hub.validation.target import NamedTarget, context_length, identify_target, kv_cache_gib, named_target

Cli = Callable[..., tuple[int, str, str]]

SMOLLM2 = {"hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "Target-7B"
    made.mkdir()
    (made / "config.json").write_text(json.dumps({**SMOLLM2, "max_position_embeddings": 8192}))
    (made / "model.safetensors").write_bytes(b"weights")
    return made


def test_a_folder_is_identified_by_its_bytes(folder: Path) -> None:
    target = identify_target(str(folder))
    assert target.name == "Target-7B"
    assert target.config_sha256 == hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()
    (folder / "model.safetensors").write_bytes(b"other")
    assert identify_target(str(folder), "org/Target").weights_digest != target.weights_digest
    assert identify_target(str(folder), "org/Target").name == "org/Target"


def test_a_hub_id_is_taken_as_it_is() -> None:
    target = identify_target("org/Target")
    assert (target.name, target.config, target.weights_digest) == ("org/Target", None, None)


FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic"}


def test_how_a_targets_weights_are_quantized_is_told(folder: Path) -> None:
    assert identify_target(str(folder)).quantization is None
    assert "quantization" not in identify_target(str(folder)).identity.to_json()
    config = {**SMOLLM2, "max_position_embeddings": 8192}
    (folder / "hf_quant_config.json").write_text(json.dumps({"producer": {}, "quantization": {"quant_algo": "NVFP4"}}))
    assert identify_target(str(folder)).quantization == "NVFP4 (modelopt)"
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": FP8}))
    target = identify_target(str(folder))
    assert target.quantization == "FP8 (fp8)"
    assert MeasuredTarget.from_json(target.identity.to_json()) == target.identity
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "mxfp4"}}))
    assert identify_target(str(folder)).quantization == "mxfp4"


@pytest.mark.parametrize("source", ["./nowhere/there", "nowhere", "/a/b", "a/b/c", "~/x"])
def test_what_is_neither_is_refused(source: str) -> None:
    with pytest.raises(SourceError, match="neither a folder nor a Hub id"):
        identify_target(source)


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_broken_config_is_named(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(SourceError, match=r"config\.json is not"):
        identify_target(str(folder))
    (folder / "config.json").unlink()
    with pytest.raises(SourceError, match="no readable config"):
        identify_target(str(folder))


def test_context_fits_the_longest_prompt_but_never_exceeds_the_target(folder: Path) -> None:
    target = identify_target(str(folder))
    assert context_length(target, 100, 64) == 2048
    assert context_length(target, 4000, 64) == 4000 + 512 + 64
    assert context_length(target, 100_000, 64) == 8192
    assert context_length(identify_target("org/x"), 100_000, 64) == 100_576


def test_kv_cache_grows_with_the_model_and_the_context(folder: Path) -> None:
    small = identify_target(str(folder))
    assert kv_cache_gib(small, 2048) == 1
    (folder / "config.json").write_text(
        json.dumps({"text_config": {"hidden_size": 8192, "num_hidden_layers": 80, "num_attention_heads": 64}})
    )
    # 2 * 82 layers * 64 heads * 128 * 4 bytes = 5.125 MiB per token
    assert kv_cache_gib(identify_target(str(folder)), 8192) == 1 + int(5.125 * 8 * 1.25)
    assert kv_cache_gib(identify_target("org/x"), 2048) == 4


def test_engine_pythons() -> None:
    assert engine_pythons(["vllm=/a/b=c"]) == {"vllm": "/a/b=c"}
    for bad in ("vllm", "vllm=", "nosuch=/x", "=/x"):
        with pytest.raises(UsageError, match="ENGINE=PATH"):
            engine_pythons([bad])


def test_a_report_that_cannot_be_written_is_found_at_once(tmp_path: Path) -> None:
    writable_report(tmp_path / "report.json")
    for bad in (tmp_path, tmp_path / "no" / "report.json"):
        with pytest.raises(OutputError, match="cannot write"):
            writable_report(bad)


def test_weights_are_hashed_once_and_again_when_they_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from eagle3hub.validation import target as subject

    (tmp_path / "config.json").write_text("{}")
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"one")
    calls = []
    real = subject.file_digest
    monkeypatch.setattr(subject, "file_digest", lambda path: calls.append(path) or real(path))
    first = identify_target(str(tmp_path)).weights_digest
    assert identify_target(str(tmp_path)).weights_digest == first
    assert len(calls) == 1
    weights.write_bytes(b"other")
    assert identify_target(str(tmp_path)).weights_digest != first


# The target that a head names.


def test_the_config_names_the_target_before_record_and_card(tmp_path: Path) -> None:
    head = heads.speculators(tmp_path / "head")
    (head / "README.md").write_text("---\nbase_model: another/model\n---\n")
    assert named_target(head) == NamedTarget("owner/target", "config.json")


def test_the_record_of_a_conversion_names_the_target(tmp_path: Path) -> None:
    target = heads.target(tmp_path / "target")
    options = ConvertOptions(target=target, target_name="owner/recorded")
    convert(heads.specforge(tmp_path / "head"), tmp_path / "made", "universal", options)
    assert named_target(tmp_path / "made") == NamedTarget("owner/recorded", "eagle3hub.json")


@pytest.mark.parametrize("stated", ["base_model: owner/target", "base_model:\n- owner/target"])
def test_the_card_beside_the_weights_names_the_target(tmp_path: Path, stated: str) -> None:
    head = heads.specforge(tmp_path / "head")
    (head / "README.md").write_text(f"---\nlicense: mit\n{stated}\n---\n# Head\n")
    assert named_target(head) == NamedTarget("owner/target", "README.md")


@pytest.mark.parametrize(
    "card", [None, "# base_model: owner/target", "---\nbase_model: [a/b, c/d]\n---\n", "---\nbase_model: Qwen\n---\n"]
)
def test_a_head_that_names_no_target(tmp_path: Path, cli: Cli, card: str | None) -> None:
    head = heads.specforge(tmp_path / "head")
    if card is not None:
        (head / "README.md").write_text(card)
    for command in ("validate", "recipe", "bench"):
        status, out, _ = cli(command, head, "--json")
        error = json.loads(out)["error"]
        assert (status, error["code"]) == (2, "usage-no-target")
        assert error["message"] == f"the head {head} does not name its target"
        assert error["hint"] == "name it with --target: a folder, or owner/name on the Hub"


def test_a_head_that_names_a_folder(tmp_path: Path) -> None:
    target = heads.target(tmp_path / "target")
    verifier = {"verifier": {"name_or_path": str(target), "architectures": []}}
    head = heads.speculators(tmp_path / "head")
    config = json.loads((head / "config.json").read_text())
    config["speculators_config"].update(verifier)
    (head / "config.json").write_text(json.dumps(config))
    assert named_target(head) == NamedTarget(str(target), "config.json")
    (target / "config.json").unlink()
    target.rmdir()
    with pytest.raises(UsageError, match=r"config\.json of the head .* names the target .*, which is not here") as no:
        named_target(head)
    assert no.value.code == "usage-no-target"


def test_validate_says_which_target_the_head_names(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    heads.target(tmp_path / "owner" / "target")
    head = heads.speculators(tmp_path / "head", norm_before_residual=True)
    monkeypatch.chdir(tmp_path)
    status, out, err = cli("recipe", head)
    assert (status, err) == (0, "target owner/target, which config.json of the head names\n")
    assert "owner/target" in out
    status, out, err = cli("validate", head, "--engine", "vllm", "--engine-python", "vllm=/nowhere/python")
    assert (status, err.splitlines()[0]) == (4, "target owner/target, which config.json of the head names")
    assert cli("recipe", head, "--target", tmp_path / "owner" / "target")[2] == ""


# The device of a run that names none.


def python_that_says(folder: Path, word: str) -> Path:
    made = folder / f"python-{word}"
    made.write_text(f"#!/bin/sh\necho cuda {word}\n")
    made.chmod(0o755)
    return made


def test_the_device_is_cuda_where_everything_can_use_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sees, blind = python_that_says(tmp_path, "True"), python_that_says(tmp_path, "False")
    gone = tmp_path / "no-python"
    monkeypatch.setattr(engine_runner, "_CUDA", tmp_path / "nvidiactl")
    assert default_device(["vllm"], {"vllm": sees}) == ("cpu", None)
    (tmp_path / "nvidiactl").touch()
    cuda = ("cuda", "device cuda, since this machine has a GPU; --device cpu runs without it")
    assert default_device(["vllm"], {"vllm": sees}) == default_device(["trtllm"], {}) == cuda
    assert default_device(["vllm"], {"vllm": blind}, ["vllm"]) == default_device(["sglang"], {}) == cuda
    for python in (blind, gone):
        why = f"device cpu, though this machine has a GPU: PyTorch of {python} does not see it"
        assert default_device(["sglang", "vllm"], {"vllm": python}) == ("cpu", why)
    device, why = default_device(["llamacpp"], {})
    assert (device, why) == (
        "cpu",
        "device cpu, though this machine has a GPU: the environment of llamacpp is for cpu",
    )
    monkeypatch.setattr(engine_runner.sys, "executable", str(blind))
    assert default_device(["reference"], {}) == (
        "cpu",
        "device cpu, though this machine has a GPU: PyTorch here does not see it",
    )


def test_a_run_takes_the_device_that_was_found_and_says_so(
    tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interpreter that sees the GPU is none of vLLM's, so that the run ends at once, on the device found."""
    monkeypatch.setattr(engine_runner, "_CUDA", tmp_path / "nvidiactl")
    (tmp_path / "nvidiactl").touch()
    head, target = heads.specforge(tmp_path / "head"), heads.target(tmp_path / "target")
    line = ("validate", head, "--target", target, "--engine", "vllm", "--json")
    python = f"vllm={python_that_says(tmp_path, 'True')}"
    _, out, err = cli(*line, "--engine-python", python)
    assert "device cuda, since this machine has a GPU; --device cpu runs without it\n" in err
    assert json.loads(out)["engines"][0]["device"] == "cuda"
    _, out, err = cli(*line, "--engine-python", python, "--device", "cpu")
    assert "device" not in err
    assert json.loads(out)["engines"][0]["device"] == "cpu"


@pytest.mark.parametrize(
    ("said", "meant"),
    [("tensorrt-llm", "trtllm"), ("vlm", "vllm"), ("llama.cpp", "llamacpp"), ("refrence", "reference")],
)
def test_the_engine_that_was_meant_is_named(said: str, meant: str) -> None:
    with pytest.raises(UsageError) as no:
        engine_names(said)
    assert no.value.message == f"no engine is called {said!r}; did you mean {meant!r}?"
    assert engine_names("sglang-jax") == ["sglang_jax"]
