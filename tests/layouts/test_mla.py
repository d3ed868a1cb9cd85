"""Heads with MLA attention: read as their trainers write them, checked, converted there and back, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support import heads, variants
from support.variants import MLA, Has, config_of, tensors_of

from eagle3hub.conversion.plan import ConvertOptions
from eagle3hub.conversion.run import convert
from eagle3hub.errors import ConfigError, InputError, LayoutError, Refusal, TensorError
from eagle3hub.head import MlaDims
from eagle3hub.layouts import LAYOUTS, open_head

SIZES = MlaDims(**MLA)
HOLDERS = {
    name for name, layout in LAYOUTS.items() if "mla" in {*layout.contract.expresses, *layout.contract.held_for}
}
ENGINES = ("vllm", "sglang")
AT = "layers.0.self_attn."
YARN = {
    "type": "yarn",
    "factor": 64.0,
    "original_max_position_embeddings": 4096,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
}


@pytest.fixture
def deepseek(tmp_path: Path) -> Path:
    """A target whose list of aux layers SGLang takes for after-layer ids if it begins with 1."""
    return heads.target(tmp_path / "deepseek", model_type="deepseek_v3", architectures=["DeepseekV3ForCausalLM"])


@pytest.mark.parametrize("q_lora", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("layers", [1, 2])
def test_a_head_is_read_with_its_sizes(tmp_path: Path, q_lora: bool, bias: bool, layers: int):
    has = Has(mla=True, q_lora=q_lora, attention_bias=bias, layers=layers)
    head = open_head(variants.modelopt(tmp_path / "a", has=has))
    d = head.dims
    assert head.layout == "modelopt"
    assert head.semantics.attention == "mla"
    assert d.mla == (SIZES if q_lora else MlaDims(**(MLA | {"q_lora_rank": None})))
    assert (d.head_dim, d.num_key_value_heads) == (6, d.num_attention_heads)
    assert not [p for p in head.problems if p.severity == "error"]
    assert d.to_json()["mla"]["kv_lora_rank"] == 10
    inputs = {i: head.tensors[f"layers.{i}.self_attn.kv_a_proj_with_mqa.weight"].shape[1] for i in range(layers)}
    assert inputs == {i: d.hidden_size * (1 if i else 2) for i in range(layers)}


def test_other_heads_have_no_sizes_of_mla(tmp_path: Path):
    plain = open_head(heads.modelopt(tmp_path / "a"))
    assert (plain.semantics.attention, plain.dims.mla) == ("gqa", None)
    assert "mla" not in plain.dims.to_json()


def test_a_llama_head_may_name_sizes_of_its_target(tmp_path: Path):
    """A config made from a DeepSeek target's has keys that a Llama head does not use: the tensors decide."""
    source = variants.edit(heads.specforge(tmp_path / "a"), **MLA)
    head = open_head(source)
    assert (head.semantics.attention, head.dims.mla) == ("gqa", None)
    convert(source, tmp_path / "b", "specforge")
    assert config_of(tmp_path / "b").items() >= config_of(source).items()


@pytest.mark.parametrize(
    ("change", "error", "code", "says"),
    [
        ({f"{AT}q_b_proj.weight": None}, TensorError, "tensor-missing", f"lacks {AT}q_b_proj.weight"),
        ({f"{AT}kv_a_layernorm.weight": None}, TensorError, "tensor-missing", "kv_a_layernorm"),
        ({f"{AT}q_a_layernorm.weight": torch.ones(7)}, TensorError, "tensor-shape", "q_lora_rank 6, kv_lora_rank 10"),
        ({f"{AT}kv_b_proj.weight": torch.ones(14, 9)}, TensorError, "tensor-shape", r"\[14, 10\].* heads of 4 \+ 2"),
        ({f"{AT}q_proj.weight": torch.ones(12, 16)}, TensorError, "tensor-unknown", "q_proj.weight"),
        ({f"{AT}fused_qkv_a_proj.weight": torch.ones(18, 16)}, TensorError, "tensor-unknown", "fused_qkv_a_proj"),
    ],
)
def test_a_wrong_tensor_is_named(
    tmp_path: Path, change: dict[str, Any], error: type[InputError], code: str, says: str
):
    source = variants.replace(variants.modelopt(tmp_path / "a", has=Has(mla=True)), **change)
    with pytest.raises(error, match=says) as refused:
        open_head(source)
    assert refused.value.code == code


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        ({"kv_lora_rank": "DELETE"}, "config-missing", "config.json has no kv_lora_rank"),
        ({"v_head_dim": "DELETE"}, "config-missing", "has no v_head_dim"),
        ({"qk_rope_head_dim": 0}, "config-type", "qk_rope_head_dim is 0"),
        ({"q_lora_rank": "6"}, "config-type", "q_lora_rank is '6'"),
        ({"rope_interleave": False}, "config-rope", "rope_interleave is false"),
    ],
)
def test_a_wrong_field_is_named(tmp_path: Path, change: dict[str, Any], code: str, says: str):
    source = variants.edit(variants.modelopt(tmp_path / "a", has=Has(mla=True)), **change)
    with pytest.raises(ConfigError, match=says) as refused:
        open_head(source)
    assert refused.value.code == code


def test_interleaved_rope_is_what_mla_heads_have(tmp_path: Path):
    source = variants.edit(variants.modelopt(tmp_path / "a", has=Has(mla=True)), rope_interleave=True)
    assert open_head(source).semantics.attention == "mla"


@pytest.mark.parametrize("layout", sorted({"specjax", "safeailab", "angelslim"} - HOLDERS))
def test_a_trainer_without_mla_cannot_have_made_it(tmp_path: Path, layout: str):
    source = variants.specforge(tmp_path / "a", has=Has(mla=True))
    with pytest.raises(LayoutError, match="an MLA draft head") as refused:
        open_head(source, layout=layout)
    assert (refused.value.code, refused.value.exit_code) == ("layout-mla", LayoutError.exit_code)
    assert "--from" in str(refused.value.hint)


@pytest.mark.parametrize("b", sorted(HOLDERS))
@pytest.mark.parametrize("a", ["modelopt", "specforge"])
@pytest.mark.parametrize("rope", [{}, {"rope_scaling": YARN}])
def test_there_and_back_is_byte_equal(tmp_path: Path, deepseek: Path, a: str, b: str, rope: dict[str, Any]):
    source = getattr(variants, a)(tmp_path / "a", has=Has(mla=True), **rope)
    convert(source, tmp_path / "b", b, ConvertOptions(target=str(deepseek)))
    convert(tmp_path / "b", tmp_path / "back", a)
    assert (tmp_path / "back/model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()
    if a != b:
        assert config_of(tmp_path / "back") == config_of(source)
    there, here = open_head(tmp_path / "b", target=deepseek), open_head(source, target=deepseek)
    assert (there.semantics, there.dims, there.aux.taps) == (here.semantics, here.dims, here.aux.taps)


@pytest.mark.parametrize("to", ["modelopt", "universal"])
def test_what_engines_read_is_written(tmp_path: Path, deepseek: Path, to: str):
    """From a SpecForge head, whose class no engine has and whose model_type vLLM takes for an MTP model's."""
    source = variants.specforge(tmp_path / "a", has=Has(mla=True), rope_scaling=YARN)
    convert(source, tmp_path / "out", to, ConvertOptions(target=str(deepseek)))
    config = config_of(tmp_path / "out")
    assert config.items() >= MLA.items()
    assert (config["architectures"], config["model_type"]) == (["Eagle3DeepseekV2ForCausalLM"], "kimi_k2")
    assert "head_dim" not in config
    assert (config["first_k_dense_replace"], config["num_nextn_predict_layers"]) == (1, 0)
    assert config["eagle_aux_hidden_state_layer_ids"] == [2, 15, 27]
    assert config["eagle_config"]["eagle_aux_hidden_state_layer_ids"] == [1, 14, 26]
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 100000.0
    assert config["rope_scaling"].items() >= {"rope_type": "yarn", "mscale_all_dim": 1.0}.items()
    prefix = LAYOUTS[to].contract.tensor_prefix
    assert f"{prefix}self_attn.kv_a_proj_with_mqa.weight" in tensors_of(tmp_path / "out")


def test_layouts_without_mla_say_so_and_name_those_with(tmp_path: Path, deepseek: Path):
    source = variants.modelopt(tmp_path / "a", has=Has(mla=True))
    for layout in sorted(set(LAYOUTS) - HOLDERS):
        with pytest.raises(Refusal, match="multi-head latent attention") as refused:
            convert(source, tmp_path / "out", layout, ConvertOptions(target=str(deepseek), speculative_tokens=3))
        assert refused.value.code == "refused-mla"
        assert "--to universal" in str(refused.value.hint)
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("has", "config", "code", "says"),
    [
        (Has(mla=True, q_lora=False), {}, "refused-mla-query", "SGLang has MLA drafts with a latent of queries only"),
        (Has(mla=True, attention_bias=True), {}, "refused-attention-bias", "SGLang"),
        (Has(mla=True, input_norm=True), {}, "refused-norm-before-fc", "vLLM and SGLang have none in MLA drafts"),
        (Has(mla=True), {"rope_scaling": {"type": "linear", "factor": 2.0}}, "refused-mla-rope", "type linear"),
    ],
)
def test_universal_refuses_what_an_engine_gets_wrong(
    tmp_path: Path, deepseek: Path, has: Has, config: dict[str, Any], code: str, says: str
):
    source = variants.modelopt(tmp_path / "a", has=has, **config)
    with pytest.raises(Refusal, match=says) as refused:
        convert(source, tmp_path / "out", "universal", ConvertOptions(target=str(deepseek), engines=ENGINES))
    assert refused.value.code == code
    assert "--to modelopt" in str(refused.value.hint)


def test_universal_names_the_engine_that_does_not_serve_it(tmp_path: Path, deepseek: Path):
    source = variants.modelopt(tmp_path / "a", has=Has(mla=True))
    done = convert(source, tmp_path / "out", "universal", ConvertOptions(target=str(deepseek)))
    assert done.plan.head.made_for == ("vllm", "sglang", "trtllm")
    assert any("not made for sglang-jax" in note for note in done.plan.written.notes)
    with pytest.raises(Refusal, match="sglang-jax has no draft class with MLA attention") as refused:
        convert(source, tmp_path / "other", "universal")  # for a target that is not known
    assert "--engines vllm,sglang,trtllm" in str(refused.value.hint)
