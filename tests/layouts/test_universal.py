"""One folder for all engines: what is written for each, and what is refused for the sake of which."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import heads, variants
from support.variants import Has, config_of, tensors_of

from eagle3hub.conversion.plan import ConvertOptions
from eagle3hub.conversion.run import convert
from eagle3hub.errors import ConfigError, Refusal
from eagle3hub.layouts import LAYOUTS, ReadOptions, open_head
from eagle3hub.layouts.base import FEATURES

IDS = "eagle_aux_hidden_state_layer_ids"


def nested(folder: Path) -> list[int]:
    return config_of(folder)["eagle_config"][IDS]


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "universal"])
def test_every_engine_finds_its_keys(tmp_path: Path, target: Path, layout: str):
    source = heads.MAKERS[layout](tmp_path / "x")
    convert(source, tmp_path / "out", "universal", ConvertOptions(target=str(target)))
    config, tensors = config_of(tmp_path / "out"), tensors_of(tmp_path / "out")
    theta = open_head(source).semantics.rope.theta
    assert config["architectures"] == ["LlamaForCausalLMEagle3"]
    assert (config["model_type"], config["num_hidden_layers"], config["tie_word_embeddings"]) == ("llama", 1, False)
    assert (config[IDS], nested(tmp_path / "out")) == ([2, 15, 27], [1, 14, 26])
    assert (config["rope_theta"], config["rope_parameters"]["rope_theta"]) == (theta, theta)
    assert config["draft_vocab_size"] == 10
    assert config["max_position_embeddings"] == 8192
    assert config["norm_before_residual"] is False
    assert None not in config.values()
    assert str(tensors["d2t"].dtype) == "torch.int64"
    assert {n.split(".")[0] for n in tensors} == {"fc", "midlayer", "norm", "lm_head", "d2t", "t2d"}
    (tmp_path / "out/eagle3hub.json").unlink()
    assert open_head(tmp_path / "out").layout == "universal"


def test_a_full_vocabulary_is_written_without_a_map(tmp_path: Path, target: Path):
    d = heads.dims(draft=40)
    convert(variants.modelopt(tmp_path / "x", d), tmp_path / "out", "universal", ConvertOptions(target=str(target)))
    assert not {"d2t", "t2d"} & set(tensors_of(tmp_path / "out"))
    assert config_of(tmp_path / "out")["draft_vocab_size"] == 40


ENGINES = ("vLLM", "SGLang", "TensorRT-LLM", "sglang-jax")


def test_every_refusal_names_an_engine():
    contract = LAYOUTS["universal"].contract
    for feature in FEATURES:
        if feature.name not in contract.expresses:
            assert any(engine in contract.cannot[feature.name] for engine in ENGINES), feature.name


@pytest.mark.parametrize(
    ("has", "config", "says"),
    [
        (Has(), {"norm_before_residual": True}, "SGLang, TensorRT-LLM and sglang-jax ignore it"),
        (Has(), {"norm_output": True}, "sglang-jax ignores it"),
        (Has(embeddings=True), {}, "always take the target's embeddings"),
        (Has(layers=2), {}, "SGLang and TensorRT-LLM look for hidden_norm"),
        (Has(qk_norm=True), {}, "lack query and key norms"),
    ],
)
def test_what_one_engine_would_get_wrong_is_refused(tmp_path: Path, target: Path, has: Has, config: dict, says: str):
    source = variants.speculators(tmp_path / "x", has=has, **config)
    with pytest.raises(Refusal, match=says):
        convert(source, tmp_path / "out", "universal", ConvertOptions(target=str(target)))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("engines", "says"),
    [
        ("sglang", "SGLang always takes the target's embeddings, whatever"),
        ("sglang,trtllm", "SGLang and TensorRT-LLM always take the target's embeddings, whatever"),
        ("vllm,sglang_jax", "sglang-jax always takes the target's embeddings, whatever"),
    ],
)
def test_a_refusal_names_no_engine_that_the_folder_is_not_made_for(
    tmp_path: Path, target: Path, engines: str, says: str
):
    source = variants.speculators(tmp_path / "x", has=Has(embeddings=True))
    options = ConvertOptions(target=str(target), engines=tuple(engines.split(",")))
    with pytest.raises(Refusal) as refused:
        convert(source, tmp_path / "out", "universal", options)
    assert f"embed_tokens.weight, and {says}" in refused.value.message


def test_a_refusal_names_no_engine_that_cannot_serve_the_target(tmp_path: Path):
    target = heads.target(tmp_path / "target", model_type="qwen2_audio")
    source = variants.speculators(tmp_path / "x", has=Has(embeddings=True))
    with pytest.raises(Refusal) as refused:
        convert(source, tmp_path / "out", "universal", ConvertOptions(target=str(target)))
    assert "and TensorRT-LLM always takes the target's embeddings" in refused.value.message


def test_what_must_be_known_is_asked_for(tmp_path: Path, target: Path):
    with pytest.raises(Refusal, match="no aux layers are known"):
        convert(heads.specjax(tmp_path / "a"), tmp_path / "out", "universal")
    named = variants.edit(heads.specforge(tmp_path / "b"), max_position_embeddings="DELETE")
    with pytest.raises(Refusal, match="no context length is known"):
        convert(named, tmp_path / "out", "universal")
    done = convert(heads.specforge(tmp_path / "c"), tmp_path / "out", "universal")
    assert [a.field for a in done.plan.assumptions] == ["num_target_layers", "max_position_embeddings"]
    assert not convert(
        tmp_path / "c", tmp_path / "sure", "universal", ConvertOptions(target=str(target))
    ).plan.assumptions


def test_a_context_shorter_than_the_targets_is_raised(tmp_path: Path, target: Path):
    done = convert(heads.safeailab(tmp_path / "a"), tmp_path / "out", "universal", ConvertOptions(target=str(target)))
    assert config_of(tmp_path / "out")["max_position_embeddings"] == 8192
    assert any("2048" in note for note in done.plan.written.notes)
    scaled = heads.safeailab(tmp_path / "b", rope_scaling={"type": "dynamic", "factor": 2.0})
    with pytest.raises(Refusal, match="RoPE scaling depends on it"):
        convert(scaled, tmp_path / "no", "universal", ConvertOptions(target=str(target)))


def other_layers(folder: Path, ids: list[int]) -> Path:
    return heads.specforge(folder, eagle_config={IDS: ids})


@pytest.mark.parametrize(
    ("model_type", "ids", "expected"),
    [
        ("deepseek_v3", [1, 15, 20], [1, 15, 20]),
        ("deepseek_v3", [2, 15, 20], [3, 16, 21]),
        ("kimi_k2", [5, 15, 20], [6, 16, 21]),
        ("deepseek_v32", [3, 14, 26], [4, 15, 27]),
        ("glm4_moe_lite", [2, 3, 4], [3, 4, 5]),
        ("glm_moe_dsa", [3, 14, 26], [4, 15, 27]),
        ("gpt_oss", [2, 15, 29], [2, 15, 29]),
        ("gemma4", [2, 15, 29], [2, 15, 29]),
        ("minimax_m3_vl", [2, 15, 20], [2, 15, 20]),
        ("minimax_m3_vl", [1, 14, 26], [1, 14, 26]),
    ],
)
def test_nested_ids_follow_sglangs_rule_for_the_target(
    tmp_path: Path, model_type: str, ids: list[int], expected: list[int]
):
    target = heads.target(tmp_path / "target", model_type=model_type)
    options = ConvertOptions(target=str(target), read=ReadOptions(aux_layers=tuple(ids)))
    done = convert(other_layers(tmp_path / "x", ids), tmp_path / "out", "universal", options)
    assert config_of(tmp_path / "out")[IDS] == [i + 1 for i in ids]
    assert nested(tmp_path / "out") == expected
    told = any("eagle3_layers_to_capture" in n for n in done.plan.written.notes)
    assert told == (ids != [1, 14, 26] and "trtllm" in done.plan.head.made_for)
    assert "trtllm" in done.plan.head.made_for or any(
        "not made for TensorRT-LLM" in n for n in done.plan.written.notes
    )
    assert open_head(tmp_path / "out").aux.after_layer == ids
    (tmp_path / "out/eagle3hub.json").unlink()
    assert open_head(tmp_path / "out").aux.after_layer == ids


@pytest.mark.parametrize(
    ("model_type", "ids", "says"),
    [
        ("llama", [2, 15, 20], "sglang-jax taps the default layers"),
        ("glm4_moe", [2, 15, 29], "SGLang never captures"),
        ("deepseek_v3", [0, 15, 20], "SGLang would take the ids"),
        ("glm_moe_dsa", [0, 15, 20], "SGLang would take the ids"),
    ],
)
def test_layers_one_engine_cannot_tap_are_refused(tmp_path: Path, model_type: str, ids: list[int], says: str):
    target = heads.target(tmp_path / "target", model_type=model_type)
    with pytest.raises(Refusal, match=says):
        convert(other_layers(tmp_path / "x", ids), tmp_path / "out", "universal", ConvertOptions(target=str(target)))


def test_a_single_aux_layer_makes_sglang_skip_fc(tmp_path: Path):
    target = heads.target(tmp_path / "target", model_type="gpt_oss")
    source = variants.modelopt(tmp_path / "x", heads.dims(aux=1))
    with pytest.raises(Refusal, match="SGLang skips fc"):
        convert(source, tmp_path / "out", "universal", ConvertOptions(target=str(target)))


def test_two_lists_that_disagree_are_an_error(tmp_path: Path):
    source = heads.universal(tmp_path / "x", eagle_config={IDS: [3, 16, 28]})
    with pytest.raises(ConfigError, match="different aux layers"):
        open_head(source)
