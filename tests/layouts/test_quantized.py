"""Quantized heads of any method: read as they are, held to their scheme, kept byte for byte or refused."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support import heads, variants
from support.variants import SCHEMES, config_of, edit, replace, tensors_of, with_scheme

from eagle3hub.conversion.plan import ConvertOptions
from eagle3hub.conversion.run import convert
from eagle3hub.engines.preflight import examine, preflight_all
from eagle3hub.errors import Eagle3HubError, InputError, Refusal, TensorError
from eagle3hub.head.quantization import UnclearPattern, matches, renamed, scheme_in
from eagle3hub.layouts import open_head

METHOD = {
    "quark": ("quark", "FP8"),
    "int8": ("compressed-tensors", "INT8"),
    "int4": ("compressed-tensors", "INT4"),
    "blocks": ("fp8", "FP8"),
    "gptq": ("gptq", "INT4"),
    "awq": ("awq", "INT4"),
    "bitsandbytes": ("bitsandbytes", "bitsandbytes"),
}
SIZES = {"hidden": 32, "inter": 48, "heads": 4, "head_dim": 8, "kv": 2}
UP = "mlp.up_proj"


def made(folder: Path, scheme: str, layout: str = "specforge", but: tuple[str, ...] = ("fc", "lm_head")) -> Path:
    source = getattr(heads, layout)(folder, heads.dims(**SIZES))
    return with_scheme(source, scheme, but)


def prefix(source: Path) -> str:
    return next(n for n in tensors_of(source) if "input_layernorm" in n).removesuffix("input_layernorm.weight")


@pytest.mark.parametrize("layout", ["specforge", "speculators", "safeailab", "modelopt"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_byte_comes_back_and_no_other_layout_takes_it(tmp_path: Path, scheme: str, layout: str):
    source = made(tmp_path / "x", scheme, layout)
    plain = open_head(getattr(heads, layout)(tmp_path / "plain", heads.dims(**SIZES)))
    head = open_head(source)
    assert (head.layout, head.dims, head.aux) == (plain.layout, plain.dims, plain.aux)
    assert (head.semantics.quantization, head.semantics.quantized_as) == METHOD[scheme]
    if scheme != "bitsandbytes":
        assert head.num_parameters == plain.num_parameters
    result = convert(source, tmp_path / "out", layout, ConvertOptions(speculative_tokens=3))
    assert {n: t.tobytes() for n, t in raw(tmp_path / "out").items()} == {
        n: t.tobytes() for n, t in raw(source).items()
    }
    assert config_of(tmp_path / "out")["quantization_config"] == config_of(source)["quantization_config"]
    assert result.result is not None
    assert result.result.semantics == head.semantics
    for to in ("specforge", "speculators", "universal"):
        if to != layout:
            with pytest.raises(Refusal) as refused:
                convert(source, tmp_path / to, to, ConvertOptions(speculative_tokens=3))
            assert refused.value.code == "refused-quantization"
            assert not (tmp_path / to).exists()


def raw(folder: Path) -> dict[str, memoryview]:
    return {n: memoryview(t.contiguous().view(torch.uint8).numpy()) for n, t in one_dimensional(folder).items()}


def one_dimensional(folder: Path) -> dict[str, torch.Tensor]:
    return {n: t.reshape(-1) for n, t in tensors_of(folder).items()}


def test_a_packed_fc_tells_its_hidden_states(tmp_path: Path):
    for scheme in ("int4", "int8", "quark"):
        head = open_head(made(tmp_path / scheme, scheme, but=("lm_head",)))
        assert len(head.aux or ()) == 3 or head.aux is None
        assert any(n.startswith("fc.weight_scale") for n in head.tensors)
    source = made(tmp_path / "y", "int4", "speculators", but=())
    head = open_head(edit(source, quantization_config={**SCHEMES["int4"], "ignore": []}))
    assert head.dims.draft_vocab_size == heads.dims()["draft"], "read from the packed rows of lm_head"


FAULTS = {
    "no scale": ("int8", {"weight_scale": None}, "its weight_scale is missing"),
    "no scale of blocks": ("blocks", {"weight_scale_inv": None}, "its weight_scale is missing"),
    "no scales": ("gptq", {"scales": None}, "its scales is missing"),
    "no zero points": ("awq", {"qzeros": None}, "its qzeros is missing"),
    "packed to another length": ("int4", {"weight_packed": torch.zeros(48, 5, dtype=torch.int32)}, "is no packing of"),
    "packed the other way": ("gptq", {"qweight": torch.zeros(9, 48, dtype=torch.int32)}, "is no packing of"),
    "the shape of another weight": (
        "int4",
        {"weight_shape": torch.tensor([48, 33])},
        "is no weight_shape of a weight",
    ),
    "scales of another group": ("int4", {"weight_scale": torch.ones(48, 3)}, "is no weight_scale of a weight"),
    "scales of another block": (
        "blocks",
        {"weight_scale_inv": torch.ones(4, 2)},
        "is no weight_scale_inv of a weight",
    ),
    "a scale for each input": ("quark", {"weight_scale": torch.ones(32)}, "is no weight_scale of a weight"),
    "values of another head": ("int8", {"weight": torch.zeros(48, 31, dtype=torch.int8)}, "is no packing of"),
    "integers of 16 bits": ("int8", {"weight": torch.zeros(48, 32, dtype=torch.int16)}, "neither FP8 nor NVFP4"),
    "an index of other inputs": ("gptq", {"g_idx": torch.zeros(31, dtype=torch.int32)}, "is no g_idx of a weight"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_quantized_weight_that_is_not_whole_is_an_error(tmp_path: Path, name: str):
    scheme, changes, message = FAULTS[name]
    source = made(tmp_path / "x", scheme)
    at = prefix(source)
    replace(source, metadata={"format": "pt"}, **{f"{at}{UP}.{part}": t for part, t in changes.items()})
    with pytest.raises(TensorError, match=message) as refused:
        open_head(source)
    assert refused.value.code in ("tensor-missing", "tensor-shape", "tensor-dtype")


def test_zero_points_and_scales_of_inputs_are_needed_where_the_scheme_has_them(tmp_path: Path):
    groups = SCHEMES["int8"]["config_groups"]["group_0"]
    asymmetric = {"group_0": {**groups, "weights": {**groups["weights"], "symmetric": False}}}
    still = {"group_0": {**groups, "input_activations": {**groups["input_activations"], "dynamic": False}}}
    for changed, lacking in ((asymmetric, "weight_zero_point"), (still, "input_scale")):
        source = made(tmp_path / lacking, "int8")
        edit(source, quantization_config={**SCHEMES["int8"], "config_groups": changed})
        with pytest.raises(TensorError, match=f"its {lacking} is missing"):
            open_head(source)


def test_an_unknown_method_is_kept_unchecked_and_its_verdict_is_open(tmp_path: Path):
    source = made(tmp_path / "x", "bitsandbytes")
    edit(source, quantization_config={"quant_method": "hqq", "weights": 4})
    head = open_head(source)
    assert head.semantics.quantization == "hqq"
    assert head.opened is not None
    said = {(v.engine, r.code) for v in preflight_all(examine(head.opened, head)) for r in v.reasons}
    assert {("vllm", "quantization-method"), ("sglang", "quantization-method")} <= said
    edit(source, quantization_config={"quant_method": "torchao"})
    verdicts = preflight_all(examine(head.opened, open_head(source)))
    assert {v.kind for v in verdicts if v.engine == "vllm"} <= {"unknown", "refuses"}


# Names of modules in a scheme follow the tensors when these are renamed.


def test_exceptions_are_renamed_with_the_tensors(tmp_path: Path):
    source = with_scheme(
        variants.renamed(
            heads.modelopt(tmp_path / "x", heads.dims(**SIZES)), lambda n: n.replace("layers.0.", "midlayer.")
        ),
        "quark",
        ("fc", "lm_head", "o_proj"),
        exclude=["midlayer.self_attn.o_proj", "fc", "re:.*midlayer\\.self_attn\\.o_.*", "*lm_head"],
    )
    convert(source, tmp_path / "out", "modelopt")
    assert "layers.0.mlp.up_proj.weight_scale" in tensors_of(tmp_path / "out")
    assert config_of(tmp_path / "out")["quantization_config"]["exclude"] == [
        "layers.0.self_attn.o_proj",
        "fc",
        "re:.*layers\\.0\\.self_attn\\.o_.*",
        "*lm_head",
    ]
    edit(source, quantization_config={**SCHEMES["quark"], "exclude": ["re:.*mid(layer)+.*"]})
    with pytest.raises(Refusal, match="cannot be rewritten with certainty") as refused:
        convert(source, tmp_path / "again", "modelopt")
    assert refused.value.code == "refused-quantization-names"
    assert not (tmp_path / "again").exists()


def test_names_beside_the_config_are_renamed_too(tmp_path: Path):
    source = variants.renamed(variants.quantized(tmp_path / "x", "FP8"), lambda n: n.replace("layers.0.", "midlayer."))
    beside = {"quantization": {"quant_algo": "FP8", "exclude_modules": ["midlayer.mlp*", "lm_head"]}}
    (source / "hf_quant_config.json").write_text(json.dumps(beside))
    edit(source, quantization_config="DELETE")
    convert(source, tmp_path / "out", "modelopt")
    after = json.loads((tmp_path / "out/hf_quant_config.json").read_text())
    assert after["quantization"]["exclude_modules"] == ["layers.0.mlp*", "lm_head"]


def test_a_name_in_a_scheme_is_rewritten_only_as_a_whole_word():
    modules = {"midlayer.mlp.up_proj": "layers.0.mlp.up_proj", "fc": "fc"}
    assert renamed({"ignore": ["midlayer", "fc", "midlayers"]}, modules) == {"ignore": ["layers.0", "fc", "midlayers"]}
    assert renamed({"midlayer.mlp": {"bits": 4}}, modules) == {"layers.0.mlp": {"bits": 4}}
    assert renamed({"ignore": ["re:.*mid.*"]}, modules) is None, "the new name has no mid"
    assert renamed({"ignore": ["re:(("]}, modules) is None
    assert renamed({"ignore": ["re:(("]}, {"fc": "fc"}) == {"ignore": ["re:(("]}, "nothing is renamed"
    assert renamed({"ignore": ["model.fc"]}, {"model.fc": "fc"}) == {"ignore": ["model.fc"]}, "engines put it back"


@pytest.mark.parametrize(
    ("entry", "name", "meant"),
    [
        ("fc", "model.fc", {"substring", "suffix-or-regex", "path", "glob-or-substring", "path-or-glob-of-part"}),
        ("model.fc", "model.fc", "all"),
        ("re:.*fc", "model.fc", {"equal-or-regex", "suffix-or-regex"}),
        ("re:fc", "model.fc", set()),
        ("model*", "model.fc", {"glob-or-substring", "path-or-glob-of-part"}),
        ("self_attn", "model.self_attn.o_proj", {"substring", "path", "glob-or-substring", "path-or-glob-of-part"}),
        ("o_proj", "model.self_attn.qo_proj", {"substring", "glob-or-substring"}),
        ("*o_proj", "model.self_attn.o_proj", {"glob-or-substring", "path-or-glob-of-part"}),
    ],
)
def test_entries_mean_what_each_engine_takes_them_for(entry: str, name: str, meant: set[str] | str):
    from eagle3hub.head.quantization import MATCHINGS

    assert {how for how in MATCHINGS if matches(entry, name, how)} == (MATCHINGS if meant == "all" else meant)


@pytest.mark.parametrize("entry", ["re:(a+)+$", "re:.*.*.*.*.*.*x", "re:((", "re:" + "a" * 501, "re:(?=x)"])
def test_an_expression_that_could_take_for_ever_is_not_tried(entry: str):
    with pytest.raises(UnclearPattern):
        matches(entry, "model.layers.0.self_attn.qkv_proj", "equal-or-regex")


@pytest.mark.parametrize(
    ("config", "method", "form", "bits"),
    [
        (SCHEMES["quark"], "quark", "FP W8A8", 8),
        (SCHEMES["int8"], "compressed-tensors", "INT W8A8", 8),
        (SCHEMES["int4"], "compressed-tensors", "INT W4A16", 4),
        (SCHEMES["blocks"], "fp8", "FP8 in blocks", None),
        (SCHEMES["gptq"], "gptq", "INT W4A16", 4),
        ({"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "NVFP4"}}, "modelopt", "NVFP4", None),
        ({"quant_algo": "MIXED_PRECISION"}, "modelopt", "mixed", None),
        ({"quant_method": "compressed_tensors"}, "compressed-tensors", "", None),
        ({"quant_method": "HQQ"}, "hqq", "", None),
        ({"weights": 4}, "unknown", "", None),
    ],
)
def test_a_config_says_method_and_form(config: dict[str, object], method: str, form: str, bits: int | None):
    found = scheme_in({"quantization_config": config})
    assert found is not None
    assert (found.method, found.form, found.bits) == (method, form, bits)
    assert scheme_in({"quantization_config": None}) is None
    assert scheme_in({"compression_config": config}) is not None


WORDS = (None, True, -1, 4, 10**12, "", "fc", "re:((", [], ["re:(a+)+"], {}, {"weights": {}}, [[1]], {"group_0": 3})


@pytest.mark.slow
@pytest.mark.parametrize("scheme", SCHEMES)
def test_no_config_and_no_tensor_brings_it_down(tmp_path: Path, scheme: str):
    chance = random.Random(scheme)
    for i in range(25):
        source = made(tmp_path / str(i), scheme)
        config = json.loads(json.dumps(SCHEMES[scheme]))
        places = [config, *(v for v in config.values() if isinstance(v, dict))]
        place = chance.choice(places)
        place[chance.choice([*place, "bits", "ignore"])] = chance.choice(WORDS)
        every = tensors_of(source)
        name = chance.choice([n for n in every if UP in n])
        if chance.random() < 0.5:
            shape = [chance.choice([0, 1, 2, 3, 6, 32, 48]) for _ in range(chance.randrange(4))]
            dtype = chance.choice([torch.int8, torch.int32, torch.uint8, torch.float16, torch.int64, torch.bool])
            every[name] = torch.zeros(shape, dtype=dtype)
            save_file(every, source / "model.safetensors", metadata={"format": "pt"})
        edit(source, quantization_config=config)
        try:
            head = open_head(source)
        except InputError as e:
            assert e.message
            continue
        assert head.opened is not None
        assert all(v.reasons for v in preflight_all(examine(head.opened, head)))
        try:
            convert(source, tmp_path / f"out-{i}", "specforge")
        except Eagle3HubError as e:
            assert e.message


def test_packed_rows_of_bitsandbytes_are_no_other_width(tmp_path: Path):
    head = open_head(made(tmp_path / "x", "bitsandbytes"))
    assert head.opened is not None
    said = {r.code for v in preflight_all(examine(head.opened, head)) for r in v.reasons}
    assert "quantization-unread" in said
    assert not {code for code in said if code.startswith(("mlp-width", "head-dim", "tensor-unknown", "qkv-width"))}
