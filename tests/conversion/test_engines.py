"""A universal folder for the engines that are named, or for all that can serve the target."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support import heads, variants
from support.variants import Has, config_of

import eagle3hub
from eagle3hub import ConvertOptions, InspectOptions, ReadOptions
from eagle3hub.engines.specs import default_version
from eagle3hub.errors import Refusal, UsageError

EAGLE_3_1 = {"norm_output": True, "fc_norm": True, "norm_before_residual": False}


def eagle31(folder: Path) -> Path:
    return variants.speculators(folder, has=Has(fc_norm=True), **EAGLE_3_1)


def universal(source: Path, out: Path, target: Path, *engines: str, **more: Any) -> dict[str, Any]:
    options = ConvertOptions(target=str(target), engines=engines, **more)
    return eagle3hub.convert(source, out, "universal", options).to_json()


def verdicts(folder: Path, target: Path) -> dict[str, str]:
    found = eagle3hub.inspect(folder, InspectOptions(target=str(target))).engines
    return {f"{v.engine} {v.version}": v.kind for v in found}


def test_a_head_that_some_engines_serve_is_written_for_these(tmp_path: Path, target: Path) -> None:
    source = eagle31(tmp_path / "head")
    with pytest.raises(Refusal) as refused:
        universal(source, tmp_path / "all", target)
    assert "--to universal --engines vllm,sglang" in (refused.value.hint or "")
    done = universal(source, tmp_path / "out", target, "vllm", "sglang")
    assert done["made_for"] == ["vllm", "sglang"]
    config = config_of(tmp_path / "out")
    assert (config["fc_norm"], config["norm_output"]) == (True, True)
    record = json.loads((tmp_path / "out/eagle3hub.json").read_text())
    assert record["made_for"] == ["vllm", "sglang"]
    assert record["command"][-2:] == ["--engines", "vllm,sglang"]
    found = verdicts(tmp_path / "out", target)
    assert {v for name, v in found.items() if name.startswith(("vllm", "sglang "))} == {"right"}
    assert found[f"trtllm {default_version('trtllm')}"] == "silently_wrong"
    assert eagle3hub.inspect(tmp_path / "out", InspectOptions(target=str(target))).sound


def test_what_was_written_for_some_engines_is_read_as_the_same_head(tmp_path: Path, target: Path) -> None:
    source = eagle31(tmp_path / "head")
    universal(source, tmp_path / "out", target, "vllm")
    (tmp_path / "out/eagle3hub.json").unlink()
    compared = eagle3hub.compare(source, tmp_path / "out")
    assert compared.verdict in ("equal", "equal-up-to-spelling"), compared
    found = eagle3hub.open(tmp_path / "out").semantics
    assert (found.feedback, found.fc_norm) == ("post_norm", True)


def test_engines_that_cannot_serve_the_target_do_not_count(tmp_path: Path) -> None:
    """sglang-jax drafts for Llama and Qwen3 only, so layers that it cannot tap are no reason to refuse the others."""
    ids = {"eagle_config": {"eagle_aux_hidden_state_layer_ids": [2, 15, 20]}}
    for kind, served in (("llama", False), ("qwen3_moe", True)):
        target = heads.target(tmp_path / f"target-{kind}", model_type=kind)
        source = heads.specforge(tmp_path / f"head-{kind}", **ids)
        if served:
            done = universal(source, tmp_path / "out", target)
            assert done["made_for"] == ["vllm", "sglang", "trtllm"]
            assert any(note.startswith("not made for sglang-jax, which cannot draft") for note in done["notes"])
        else:
            with pytest.raises(Refusal, match="sglang-jax taps the default layers"):
                universal(source, tmp_path / "no", target)
            universal(source, tmp_path / "some", target, "vllm", "sglang", "trtllm")


def test_a_folder_is_held_to_the_engines_it_was_made_for(tmp_path: Path, target: Path) -> None:
    universal(heads.specforge(tmp_path / "head"), tmp_path / "out", target)
    other = heads.target(tmp_path / "other", model_type="granitemoe")
    found = eagle3hub.inspect(tmp_path / "out", InspectOptions(target=str(other)))
    wrong = [p for p in found.problems if p.code == "engine-made-for"]
    said = [p.message for p in wrong]
    assert any("sglang-jax" in text and "which cannot draft for targets of type granitemoe" in text for text in said)
    assert not found.sound


def test_engines_are_named_for_the_universal_layout_only(tmp_path: Path, target: Path) -> None:
    source = heads.specforge(tmp_path / "head")
    with pytest.raises(UsageError) as refused:
        eagle3hub.convert(source, tmp_path / "out", "modelopt", ConvertOptions(engines=("vllm",)))
    assert refused.value.code == "usage-engines"
    with pytest.raises(UsageError) as unknown:
        ConvertOptions(engines=("vlm",))
    assert unknown.value.code == "usage-engine"


def test_an_engine_that_cannot_serve_the_target_is_not_written_for(tmp_path: Path) -> None:
    target = heads.target(tmp_path / "target", model_type="gpt_oss")
    with pytest.raises(Refusal, match=r"sglang-jax \S+ cannot draft for targets of type gpt_oss") as refused:
        universal(heads.specforge(tmp_path / "head"), tmp_path / "out", target, "sglang_jax")
    assert refused.value.code == "refused-engine-target"


def test_what_is_written_must_pass_the_preflight_of_its_engines(tmp_path: Path, target: Path) -> None:
    source = variants.modelopt(tmp_path / "head", heads.dims(aux=4))
    taps = ReadOptions(aux_layers=(1, 5, 9, 13))
    with pytest.raises(Refusal, match=r"llama\.cpp \w+, given this folder, builds fc for 24 inputs") as refused:
        universal(source, tmp_path / "out", target, "llamacpp", read=taps)
    assert refused.value.code == "refused-engine"
    assert not (tmp_path / "out").exists()
    universal(source, tmp_path / "out", target, "vllm", "sglang", "trtllm", read=taps)


def test_the_command_line_takes_engines(tmp_path: Path, target: Path, cli: Any) -> None:
    source = eagle31(tmp_path / "head")
    argv = ["convert", source, tmp_path / "out", "--to", "universal", "--target", target, "--engines", "vllm, sglang"]
    code, out, err = cli(*map(str, argv), "--json")
    assert code == 0, err
    assert json.loads(out)["made_for"] == ["vllm", "sglang"]


def test_a_head_of_another_width_keeps_its_embeddings_for_the_engines_that_take_them(tmp_path: Path) -> None:
    d = heads.dims()
    target = heads.target(tmp_path / "target", heads.dims(hidden=2 * d["hidden"]))
    source = heads.safeailab(tmp_path / "head", d, target_hidden_size=2 * d["hidden"])
    wide = {
        "fc.weight": torch.rand(d["hidden"], 6 * d["hidden"]),
        "embed_tokens.weight": torch.rand(d["vocab"], d["hidden"]),
    }
    variants.replace(source, **{name: tensor.half() for name, tensor in wide.items()})
    with pytest.raises(Refusal) as refused:
        universal(source, tmp_path / "all", target)
    assert "--engines vllm,sglang,trtllm" in (refused.value.hint or "")
    universal(source, tmp_path / "out", target, "vllm", "sglang", "trtllm")
    found = verdicts(tmp_path / "out", target)
    assert {v for name, v in found.items() if name.startswith(("vllm", "sglang ", "trtllm"))} == {"right"}


def test_no_folder_of_a_full_vocabulary_serves_vllm_and_sglang_jax(tmp_path: Path, target: Path) -> None:
    """vLLM refuses a d2t for a full vocabulary, and sglang-jax stops without one."""
    d = heads.dims()
    source = variants.modelopt(tmp_path / "head", {**d, "draft": d["vocab"]}, draft_vocab_size=d["vocab"])
    done = universal(source, tmp_path / "out", target)
    assert done["made_for"] == ["vllm", "sglang", "trtllm"]
    assert any(note.startswith("not made for sglang-jax, which stops without d2t") for note in done["notes"])
    with pytest.raises(Refusal, match="stops without d2t") as refused:
        universal(source, tmp_path / "both", target, "vllm", "sglang_jax")
    assert "--engines vllm" in (refused.value.hint or "")
    universal(source, tmp_path / "jax", target, "sglang_jax")
    written = variants.tensors_of(tmp_path / "jax")
    assert (written["d2t"].tolist(), "d2t" in variants.tensors_of(tmp_path / "out")) == ([0] * d["vocab"], False)
    found = verdicts(tmp_path / "jax", target)
    assert found[f"sglang_jax {default_version('sglang_jax')}"] in ("right", "depends")


@pytest.mark.parametrize("to", ["universal", "specforge", "speculators"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", None])
def test_a_target_of_another_dtype_is_noted(tmp_path: Path, dtype: str | None, to: str) -> None:
    target = heads.target(tmp_path / "target", torch_dtype=dtype) if dtype else None
    options = ConvertOptions(
        target=target, target_name="org/target", speculative_tokens=3, read=ReadOptions(num_target_layers=30)
    )
    done = eagle3hub.convert(heads.specforge(tmp_path / "head"), tmp_path / "out", to, options).to_json()
    (said,) = [note for note in done["notes"] if "stops at fc" in note] or [None]
    if dtype != "float16" or to == "speculators":  # which SGLang does not read
        assert said is None
    else:
        assert said is not None
        assert said.startswith("SGLang ")
        assert "serves the head in bfloat16 and its target in float16" in said
        assert said.endswith("serve both with --dtype float16, as eagle3hub recipe prints it")
