"""ModelOpt: every name its exporters have used, and what only they write."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from support import heads, variants
from support.variants import Has, config_of, edit, replace, tensors_of

from eagle3hub import InspectOptions, inspect
from eagle3hub.conversion.plan import ConvertOptions
from eagle3hub.conversion.run import convert
from eagle3hub.errors import ConfigError, InputError, LayoutError, Refusal, TensorError, VocabMapError
from eagle3hub.head import FINAL_NORM
from eagle3hub.head.aux_defaults import AUX_IDS
from eagle3hub.layouts import ReadOptions, open_head

TWO = Has(layers=2)


def deep(name: str) -> str:
    return name.replace("layers.", "midlayer.")


def megatron(name: str) -> str:
    return deep(name).replace("midlayer.1.input_layernorm", "midlayer.1.hidden_norm")


def single(name: str) -> str:
    return name.replace("layers.0.", "midlayer.")


@pytest.mark.parametrize("rename", [deep, megatron])
def test_names_of_earlier_exporters_become_todays(tmp_path: Path, rename):
    modern = variants.modelopt(tmp_path / "modern", has=TWO)
    old = variants.renamed(variants.modelopt(tmp_path / "old", has=TWO), rename)
    head = open_head(old)
    assert (head.layout, head.semantics.num_layers) == ("modelopt", 2)
    convert(old, tmp_path / "out", "modelopt")
    assert tensors_of(tmp_path / "out").keys() == tensors_of(modern).keys()
    assert all(torch.equal(t, tensors_of(modern)[n]) for n, t in tensors_of(tmp_path / "out").items())


def test_one_layer_of_an_old_exporter_is_told_from_specjax(tmp_path: Path):
    old = variants.renamed(variants.modelopt(tmp_path / "old"), single)
    assert open_head(old).layout == "modelopt"
    convert(old, tmp_path / "sf", "specforge")
    convert(tmp_path / "sf", tmp_path / "back", "modelopt")
    assert (tmp_path / "back/model.safetensors").read_bytes() == (old / "model.safetensors").read_bytes()


def test_the_norm_that_an_exporter_lost_is_missed(tmp_path: Path):
    source = variants.renamed(variants.modelopt(tmp_path / "x", has=TWO), deep)
    replace(source, **{"midlayer.1.input_layernorm.weight": None})
    with pytest.raises(TensorError, match="exporter of December 2025 lost this norm") as refused:
        open_head(source)
    assert refused.value.code == "tensor-lost-norm"


def test_layers_and_config_must_agree(tmp_path: Path):
    source = edit(variants.modelopt(tmp_path / "x", has=TWO), num_hidden_layers=3)
    with pytest.raises(ConfigError, match=r"num_hidden_layers is 3, but .* tensors of 2 decoder layers"):
        open_head(source)


def test_a_missing_map_names_the_megatron_exporter_and_can_be_given(tmp_path: Path):
    source = variants.modelopt(tmp_path / "x")
    d2t = tensors_of(source)["d2t"].tolist()
    replace(source, metadata={"format": "pt"}, d2t=None)
    with pytest.raises(VocabMapError, match="Megatron exporter never writes the map") as refused:
        convert(source, tmp_path / "out", "modelopt")
    assert (refused.value.code, "--d2t" in (refused.value.hint or "")) == ("vocab-missing", True)
    head = open_head(source, options=ReadOptions(d2t=d2t))
    assert head.vocab_status == "ok"
    assert list(head.vocab_map.target_id) == [i + x for i, x in enumerate(d2t)]
    zeros = replace(variants.modelopt(tmp_path / "zeros"), d2t=torch.zeros(len(d2t), dtype=torch.int64))
    assert open_head(zeros).vocab_status == "zero"
    assert open_head(zeros, options=ReadOptions(d2t=d2t)).vocab_status == "ok"
    wrong = open_head(source, options=ReadOptions(d2t=[1000] * len(d2t)))
    assert wrong.vocab_status == "out-of-range"


def test_a_quantization_config_of_another_model_is_left_out(tmp_path: Path):
    source = edit(variants.modelopt(tmp_path / "x"), quantization_config={"quant_method": "fp8"})
    head = open_head(source)
    assert head.semantics.quantization is None
    assert "config-quantization-leftover" in {p.code for p in head.problems}
    assert [a.field for a in head.assumptions if "copied" in a.why] == ["rope_theta"], "its RoPE may be foreign, too"
    assert "rope_theta" not in {a.field for a in open_head(source, options=ReadOptions(rope_theta=5e5)).assumptions}
    convert(source, tmp_path / "out", "modelopt")
    assert "quantization_config" not in config_of(tmp_path / "out")


def test_nulls_are_as_good_as_absent_and_not_written_back(tmp_path: Path):
    source = edit(variants.modelopt(tmp_path / "x"), rope_theta=None, torch_dtype=None, target_hidden_size=None)
    head = open_head(source)
    assert "rope_theta" in {a.field for a in head.assumptions}
    convert(source, tmp_path / "out", "modelopt")
    config = config_of(tmp_path / "out")
    assert None not in config.values()
    assert config["rope_theta"] == 10000.0


def test_a_null_that_an_engine_would_take_for_false_is_not_written_back(tmp_path: Path):
    source = variants.modelopt(tmp_path / "x", has=Has(input_norm=True))
    eagle = config_of(source)["eagle_config"]
    nulls = {"use_aux_hidden_state": None, "norm_before_fc": None, "unheard_of": None}
    edit(source, norm_before_fc=True, eagle_config={**eagle, **nulls})
    convert(source, tmp_path / "out", "modelopt")
    assert config_of(tmp_path / "out")["eagle_config"] == {
        **eagle,
        "use_aux_hidden_state": True,
        "norm_before_fc": True,
    }
    sf = heads.specforge(tmp_path / "sf", eagle_config={"use_aux_hidden_state": None, AUX_IDS: []})
    convert(sf, tmp_path / "out-sf", "specforge")
    assert config_of(tmp_path / "out-sf")["eagle_config"] == {"use_aux_hidden_state": True}


@pytest.mark.parametrize("ids", [[26, 1, 14], [14, 26, 1, 1]])
def test_the_order_of_the_list_means_nothing(tmp_path: Path, ids: list[int]):
    source = variants.modelopt(tmp_path / "x")
    eagle = {**config_of(source)["eagle_config"], "eagle_aux_hidden_state_layer_ids": ids}
    head = open_head(edit(source, eagle_config=eagle))
    assert head.aux.after_layer == [1, 14, 26]
    assert head.fc_order is None
    assert "aux-order-ignored" in {p.code for p in head.problems}
    convert(source, tmp_path / "out", "modelopt")
    assert config_of(tmp_path / "out")["eagle_config"]["eagle_aux_hidden_state_layer_ids"] == [1, 14, 26]


def test_collapsed_default_layers_of_a_small_target(tmp_path: Path):
    source = variants.modelopt(tmp_path / "x", heads.dims(aux=2))
    eagle = {**config_of(source)["eagle_config"], "eagle_aux_hidden_state_layer_ids": []}
    edit(source, eagle_config=eagle)
    small = heads.target(tmp_path / "small", num_hidden_layers=6)
    head = open_head(source, target=str(small))
    assert head.aux.after_layer == [1, 2]
    large = open_head(source, target=str(heads.target(tmp_path / "large", num_hidden_layers=30)))
    assert "config-aux-count" in {p.code for p in large.problems if p.severity == "error"}
    given = open_head(source, options=ReadOptions(aux_layers=(3, 9), aux_convention="boundary"))
    assert (given.aux.after_layer, given.aux.origin) == ([2, 8], "flag")


def test_a_head_of_the_final_hidden_state(tmp_path: Path, target: Path):
    source = variants.modelopt(tmp_path / "x", has=Has(uses_aux=False))
    head = open_head(source, target=str(target))
    assert (head.semantics.uses_aux, head.aux.taps) == (False, (FINAL_NORM,))
    convert(source, tmp_path / "out", "modelopt")
    assert tensors_of(tmp_path / "out").keys() == tensors_of(source).keys()
    assert config_of(tmp_path / "out")["eagle_config"]["use_aux_hidden_state"] is False
    for to in ("specforge", "specjax", "speculators", "universal"):
        with pytest.raises(Refusal, match="use_aux_hidden_state: false") as refused:
            convert(source, tmp_path / to, to, ConvertOptions(target=str(target), speculative_tokens=3))
        assert refused.value.code == "refused-no-aux"


@pytest.mark.parametrize("joins", [True, False])
def test_both_forms_of_a_final_state_head_are_told_apart_by_their_tensors(tmp_path: Path, target: Path, joins: bool):
    source = variants.modelopt(tmp_path / "x", has=Has(uses_aux=False, joins=joins))
    head = open_head(source, target=str(target))
    assert head.semantics.joins_embedding is joins
    assert ("layers.0.hidden_norm.weight" in head.tensors) is joins
    inputs = head.tensors["layers.0.self_attn.k_proj.weight"].shape[1]
    assert inputs == (2 if joins else 1) * head.dims.hidden_size
    convert(source, tmp_path / "out", "modelopt")
    again = open_head(tmp_path / "out", target=str(target))
    assert (again.semantics, again.aux) == (head.semantics, head.aux)


def test_a_final_state_head_lacks_what_its_form_has(tmp_path: Path):
    wide = replace(variants.modelopt(tmp_path / "a", has=Has(uses_aux=False)), **{"layers.0.hidden_norm.weight": None})
    with pytest.raises(TensorError, match=r"lacks layers\.0\.hidden_norm\.weight"):
        open_head(wide)
    narrow = variants.modelopt(tmp_path / "b", has=Has(uses_aux=False, joins=False))
    replace(narrow, **{"layers.0.hidden_norm.weight": torch.ones(8)})
    with pytest.raises(TensorError, match=r"q_proj\.weight is .* but the config asks for"):
        open_head(narrow)
    wider = edit(variants.modelopt(tmp_path / "c", has=Has(uses_aux=False)), target_hidden_size=16)
    with pytest.raises(ConfigError, match="could not read the target's hidden state") as refused:
        open_head(wider)
    assert refused.value.code == "config-no-aux"


def test_a_final_state_head_becomes_universal_for_the_engines_that_feed_it(tmp_path: Path):
    """vLLM 0.32 has a runner that does not; TensorRT-LLM is told in its YAML."""
    target = heads.target(tmp_path / "target", model_type="gpt_oss")
    source = variants.modelopt(tmp_path / "x", has=Has(uses_aux=False), max_position_embeddings=8192)
    with pytest.raises(Refusal, match=r"V2 .*forces aux hidden states on") as refused:
        convert(source, tmp_path / "no", "universal", ConvertOptions(target=str(target)))
    assert refused.value.code == "refused-engine"
    options = ConvertOptions(target=str(target), engines=("sglang", "trtllm"))
    done = convert(source, tmp_path / "out", "universal", options)
    assert any("eagle3_layers_to_capture: [-1]" in note for note in done.plan.written.notes)
    again = open_head(tmp_path / "out", target=str(target))
    assert again.semantics == open_head(source).semantics
    assert config_of(tmp_path / "out")["eagle_config"] == {"use_aux_hidden_state": False}
    found = inspect(str(tmp_path / "out"), InspectOptions(target=str(target)))
    assert found.sound, "what TensorRT-LLM is told beside the folder counts"


def test_a_final_state_head_with_an_fc_contradicts_itself(tmp_path: Path):
    source = variants.modelopt(tmp_path / "x", has=Has(uses_aux=False))
    replace(source, **{"fc.weight": torch.ones(8, 24)})
    with pytest.raises(TensorError, match=r"holds fc\.weight"):
        open_head(source)


@pytest.mark.parametrize("kind", ["FP8", "NVFP4"])
def test_quantized_heads_pass_through_and_go_nowhere_else(tmp_path: Path, kind: str):
    source = variants.quantized(tmp_path / "x", kind)
    head = open_head(source)
    assert (head.semantics.quantization, head.semantics.quantized_as) == ("modelopt", kind)
    convert(source, tmp_path / "out", "modelopt")
    for name in ("model.safetensors", "hf_quant_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (source / name).read_bytes()
    assert config_of(tmp_path / "out")["quantization_config"]["quant_algo"] == kind
    assert config_of(tmp_path / "out")["torch_dtype"] == "bfloat16"
    for to in ("specforge", "speculators", "universal", "angelslim"):
        with pytest.raises(Refusal) as refused:
            convert(source, tmp_path / to, to, ConvertOptions(speculative_tokens=3))
        assert refused.value.code == "refused-quantization"


@pytest.mark.parametrize("kind", ["FP8", "NVFP4"])
def test_quantized_weights_without_a_word_on_how_are_refused(tmp_path: Path, kind: str):
    source = edit(variants.quantized(tmp_path / "x", kind), quantization_config=None)
    convert(source, tmp_path / "out", "modelopt")
    assert (tmp_path / "out/hf_quant_config.json").is_file(), "which is enough"
    (source / "hf_quant_config.json").unlink()
    with pytest.raises(ConfigError, match=rf"are quantized \({kind}\), and neither") as refused:
        convert(source, tmp_path / "again", "modelopt")
    assert refused.value.code == "config-quantization-missing"


def test_a_scale_that_is_missing_or_wrong_is_an_error(tmp_path: Path):
    scale = "layers.0.mlp.up_proj.weight_scale"
    with pytest.raises(TensorError, match=r"is quantized .* but its weight_scale is missing"):
        open_head(replace(variants.quantized(tmp_path / "a"), **{scale: None}))
    with pytest.raises(TensorError, match="is no weight_scale of a weight"):
        open_head(replace(variants.quantized(tmp_path / "b"), **{scale: torch.ones(3, 3).to(torch.float8_e4m3fn)}))
    with pytest.raises(TensorError, match="is a scale of nothing"):
        open_head(replace(variants.quantized(tmp_path / "c"), **{"layers.7.x.weight_scale": torch.tensor(1.0)}))


def test_boundary_ids_of_nvidias_gpt_oss_heads(tmp_path: Path):
    source = variants.modelopt(tmp_path / "x", has=Has(input_norm=True))
    eagle = {**config_of(source)["eagle_config"], "eagle_aux_hidden_state_layer_ids": [20, 25, 30]}
    edit(source, eagle_config=eagle)
    gpt = heads.target(tmp_path / "gpt", model_type="gpt_oss")
    head = open_head(source, target=str(gpt))
    assert head.aux.after_layer == [19, 24, 29]
    assert not [p for p in head.problems if p.severity == "error"]
    llama = open_head(source, target=str(heads.target(tmp_path / "llama")))
    assert "target-mismatch" in {p.code for p in llama.problems}
    told = open_head(source, options=ReadOptions(aux_layers=(20, 25, 30), aux_convention="boundary"))
    assert told.aux.after_layer == [19, 24, 29]


def test_biases_and_norms_go_where_there_is_a_place(tmp_path: Path, target: Path):
    source = variants.modelopt(tmp_path / "x", has=Has(layers=3, attention_bias=True))
    convert(source, tmp_path / "sp", "speculators", ConvertOptions(target=str(target), speculative_tokens=3))
    layer = config_of(tmp_path / "sp")["transformer_layer_config"]
    assert (layer["attention_bias"], layer["num_hidden_layers"]) == (True, 3)
    assert "layers.2.self_attn.o_proj.bias" in tensors_of(tmp_path / "sp")
    with pytest.raises(Refusal) as refused:
        convert(source, tmp_path / "sf", "specforge")
    assert refused.value.code == "refused-several-layers"
    biased = variants.modelopt(tmp_path / "y", has=Has(fc_bias=True))
    assert open_head(biased).semantics.fc_bias
    with pytest.raises(Refusal) as refused:
        convert(biased, tmp_path / "sp2", "speculators", ConvertOptions(target=str(target), speculative_tokens=3))
    assert refused.value.code == "refused-fc-bias"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("parallel_draft_heads.0.medusa_layers.0.linear.weight", "Medusa"),
        ("enorm.weight", "EAGLE-1"),
    ],
)
def test_heads_that_are_recognised_but_not_read(tmp_path: Path, name: str, says: str):
    source = replace(variants.modelopt(tmp_path / "x"), **{name: torch.ones(2)})
    for layout in (None, "modelopt"):
        with pytest.raises(LayoutError, match=says):
            open_head(source, layout=layout)


def test_a_head_trained_with_a_lora_adapter_is_refused(tmp_path: Path):
    source = variants.modelopt(tmp_path / "x")
    (source / "adapter_config.json").write_text(json.dumps({"r": 8}))
    with pytest.raises(LayoutError, match="LoRA adapter"):
        open_head(source)


def test_a_missing_fc_is_not_taken_for_a_final_state_head(tmp_path: Path):
    with pytest.raises(InputError, match=r"lacks fc\.weight"):
        open_head(replace(variants.modelopt(tmp_path / "x"), **{"fc.weight": None}))
