"""Heads with MLA attention: read as their trainers write them, checked, converted there and back, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support import heads, variants
from support.variants import MLA, Has, config_of, tensors_of

from eagle3hub.comparison import compare_heads
from eagle3hub.conversion.plan import ConvertOptions
from eagle3hub.conversion.run import convert
from eagle3hub.errors import ConfigError, InputError, LayoutError, Refusal, TensorError
from eagle3hub.head import MlaDims
from eagle3hub.layouts import LAYOUTS, open_head
from eagle3hub.layouts.base import ReadOptions

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
    kept = {k: v for k, v in config_of(source).items() if k != "kv_lora_rank"}  # for which TensorRT-LLM builds MLA
    assert config_of(tmp_path / "b").items() >= kept.items()
    assert "kv_lora_rank" not in config_of(tmp_path / "b")


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
        (Has(mla=True, q_lora=False), {}, "refused-mla-query", "drafts with a latent of queries only"),
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
    with pytest.raises(Refusal, match="sglang-jax lacks a draft class with MLA attention") as refused:
        convert(source, tmp_path / "other", "universal")  # for a target that is not known
    assert "--engines vllm,sglang,trtllm" in str(refused.value.hint)


def torchspec(folder: Path, has: Has, **config: Any) -> Path:
    """As TorchSpec's makers publish one: midlayer names, the target's embeddings along, the full vocabulary."""
    d = heads.dims(draft=40)
    tensors = {n.replace("layers.0.", "midlayer."): t for n, t in variants.weights(d, has).items()}
    fields = {
        **heads.flat_config(d),
        **variants.mla_fields(d, has),
        "architectures": ["Eagle3DeepseekV2ForCausalLM"],
        "hidden_act": "silu",
        "max_position_embeddings": 8192,
        "_torchspec_version": "0.1.0",
        "eagle_config": {"eagle_aux_hidden_state_layer_ids": [1, 14, 26], "use_aux_hidden_state": True},
        **config,
    }
    return heads.write(folder, tensors, {k: v for k, v in fields.items() if v != "DELETE"}, {"format": "pt"})


def test_an_mla_head_of_eagle_31_goes_into_one_folder_for_vllm_and_sglang(tmp_path: Path, deepseek: Path):
    has = Has(mla=True, fc_norm=True)
    source = torchspec(tmp_path / "a", has, fc_norm=True, norm_output=True)
    head = open_head(source)
    assert (head.layout, head.semantics.fc_norm, head.semantics.feedback) == ("torchspec", True, "post_norm")
    convert(source, tmp_path / "out", "universal", ConvertOptions(target=str(deepseek), engines=ENGINES))
    config = config_of(tmp_path / "out")
    assert (config["fc_norm"], config["norm_output"], config["model_type"]) == (True, True, "kimi_k2")
    there = open_head(tmp_path / "out")
    assert (there.semantics, there.dims) == (head.semantics, head.dims)


@pytest.mark.parametrize(
    ("names", "kind", "taps"),
    [
        ("layers.0.", "kimi_k2", (0, 13, 25)),  # --vllm makes boundary ids of those of a kimi_k2 head
        ("layers.0.", "deepseek_v3", (1, 14, 26)),
        ("midlayer.", "kimi_k2", (1, 14, 26)),
    ],
)
def test_torchspecs_export_for_vllm_numbers_layers_in_its_own_way(
    tmp_path: Path, names: str, kind: str, taps: tuple[int, ...]
):
    source = torchspec(tmp_path / "a", Has(mla=True), model_type=kind)
    variants.renamed(source, lambda name: name.replace("midlayer.", names), {"format": "pt"})
    head = open_head(source)
    assert head.aux is not None
    assert head.aux.taps == taps
    assert head.config == config_of(source)
    assert ("aux-boundary" in {p.code for p in head.problems}) == (taps[0] == 0)


@pytest.mark.parametrize(("theta", "scaling", "doubt"), [(5e4, YARN, True), (1e4, YARN, False), (5e4, None, False)])
def test_torchspecs_base_is_doubtful_under_a_scaling(tmp_path: Path, theta: float, scaling: Any, doubt: bool):
    source = torchspec(tmp_path / "a", Has(mla=True), rope_theta=theta, rope_scaling=scaling)
    assert ("rope_theta" in {a.field for a in open_head(source).assumptions}) == doubt
    told = open_head(source, options=ReadOptions(rope_theta=10000.0))
    assert told.semantics.rope.theta == 10000.0
    assert "rope_theta" not in {a.field for a in told.assumptions}


@pytest.mark.parametrize(
    ("name", "kind", "written"),
    [
        ("Eagle3DeepseekV2ForCausalLM", "deepseek_v3", "kimi_k2"),  # which vLLM refuses
        ("Eagle3DeepseekV3ForCausalLM", "deepseek_v2", "deepseek_v2"),  # a class that only vLLM has
        ("LlamaForCausalLMEagle3", "llama", "kimi_k2"),
    ],
)
def test_a_config_that_an_engine_refuses_is_mended(tmp_path: Path, name: str, kind: str, written: str):
    source = variants.modelopt(tmp_path / "a", has=Has(mla=True), architectures=[name], model_type=kind)
    convert(source, tmp_path / "out", "modelopt")
    config = config_of(tmp_path / "out")
    assert (config["architectures"], config["model_type"]) == (["Eagle3DeepseekV2ForCausalLM"], written)


def test_specforge_knows_them_by_its_own_names(tmp_path: Path, deepseek: Path):
    source = variants.modelopt(tmp_path / "a", has=Has(mla=True))
    done = convert(source, tmp_path / "out", "specforge", ConvertOptions(target=str(deepseek)))
    config = config_of(tmp_path / "out")
    assert (config["architectures"], config["model_type"]) == (["DeepseekV3ForCausalLMEagle3"], "deepseek_v3")
    assert any("no engine has the class DeepseekV3ForCausalLMEagle3" in note for note in done.plan.written.notes)
    plain = convert(
        heads.modelopt(tmp_path / "b"), tmp_path / "plain", "specforge", ConvertOptions(target=str(deepseek))
    )
    assert not any("no engine" in note for note in plain.plan.written.notes)


def test_heads_of_other_latents_differ_in_sizes(tmp_path: Path):
    a = open_head(variants.modelopt(tmp_path / "a", has=Has(mla=True)))
    b = open_head(variants.modelopt(tmp_path / "b", {**heads.dims(), "kv_lora_rank": 12}, Has(mla=True)))
    found = {d.name: (d.a, d.b) for d in compare_heads(a, b).differences if d.where == "sizes"}
    assert found == {"mla.kv_lora_rank": (10, 12)}
