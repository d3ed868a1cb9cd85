"""speculators: every flag and version."""

from __future__ import annotations

import json
from dataclasses import replace as replaced
from pathlib import Path

import pytest
import torch
from support import heads, variants
from support.variants import Has, config_of, edit, replace, tensors_of

from eagle3hub import InspectOptions, inspect
from eagle3hub.conversion.plan import ConvertOptions
from eagle3hub.conversion.run import convert
from eagle3hub.engines.preflight import PreflightVerdict
from eagle3hub.errors import ConfigError, InputError, LayoutError, Refusal, TensorError
from eagle3hub.head.target import read_target
from eagle3hub.layouts import LAYOUTS, ReadOptions, open_head
from eagle3hub.layouts.base import WriteOptions

NORMS = ("input_layernorm", "hidden_norm", "post_attention_layernorm")


@pytest.mark.parametrize(
    ("has", "config", "layer", "says"),
    [
        (Has(), {"norm_before_residual": True}, {}, {"norm_before_residual": True}),
        (Has(input_norm=True), {}, {}, {"norm_before_fc": True}),
        (Has(fc_norm=True), {}, {}, {"fc_norm": True}),
        (Has(), {"norm_output": True}, {}, {"feedback": "post_norm"}),
        (Has(qk_norm=True), {}, {}, {"qk_norm": True}),
        (Has(attention_bias=True, layers=2), {}, {}, {"attention_bias": True, "num_layers": 2}),
        (
            Has(layers=2),
            {},
            {"sliding_window": 16, "layer_types": ["full_attention", "sliding_attention"]},
            {"sliding_window": 16, "sliding_layers": (1,)},
        ),
        (Has(mask_hidden=True, layers=2, embeddings=True), {}, {}, {"parallel_drafting": True, "num_layers": 2}),
    ],
)
def test_every_flag_is_read_and_written(tmp_path: Path, has: Has, config: dict, layer: dict, says: dict):
    source = variants.speculators(tmp_path / "x", has=has, layer=layer, **config)
    semantics = open_head(source).semantics
    assert {name: getattr(semantics, name) for name in says} == says
    convert(source, tmp_path / "same", "speculators")
    again = open_head(tmp_path / "same").semantics
    assert again == semantics
    fresh = open_head(source)
    fresh.layout = "elsewhere"

    codec = LAYOUTS["speculators"]
    written = codec.interpret(codec.write(fresh, WriteOptions()).config)
    assert written.semantics == semantics
    assert written.mask_token_id == fresh.mask_token_id


@pytest.mark.parametrize(
    ("has", "config", "layer", "code"),
    [
        (Has(input_norm=True), {}, {}, "norm-before-fc"),
        (Has(qk_norm=True), {}, {}, "qk-norm"),
        (Has(), {}, {"sliding_window": 16, "layer_types": ["sliding_attention"]}, "sliding-window"),
        (Has(), {"norm_output": True}, {}, "post-norm-feedback"),
        (Has(fc_norm=True), {}, {}, "fc-norm"),
        (Has(attention_bias=True), {}, {}, "attention-bias"),
        (Has(layers=2), {}, {}, "several-layers"),
        (Has(mask_hidden=True), {}, {}, "parallel-drafting"),
    ],
)
def test_what_midlayer_layouts_and_engines_cannot_hold(
    tmp_path: Path, target: Path, has: Has, config: dict, layer: dict, code: str
):
    source = variants.speculators(tmp_path / "x", has=has, layer=layer, **config)
    for to in ("specjax", "safeailab", "angelslim", "universal"):
        with pytest.raises(Refusal) as refused:
            convert(source, tmp_path / to, to, ConvertOptions(target=str(target)))
        assert refused.value.code == f"refused-{code}"
        assert refused.value.hint


def test_fields_left_out_have_the_defaults_of_their_class(tmp_path: Path):
    source = variants.speculators(
        tmp_path / "x", has=Has(qk_norm=True), layer={"rms_norm_eps": "DELETE", "rope_parameters": "DELETE"}
    )
    head = open_head(source)
    assert (head.semantics.rms_norm_eps, head.semantics.rope.theta) == (1e-6, 10000.0)
    assert not head.assumptions
    wide = heads.dims(hidden=64, heads=2, head_dim=128)
    qwen = variants.speculators(tmp_path / "y", wide, Has(qk_norm=True), layer={"head_dim": "DELETE"})
    assert open_head(qwen).dims.head_dim == 128


def test_other_kinds_and_layers_are_named(tmp_path: Path):
    for other, serves in (("dflash", True), ("eagle", False)):
        with pytest.raises(ConfigError, match=f"speculators_model_type: {other}") as refused:
            open_head(variants.speculators(tmp_path / other, speculators_model_type=other))
        assert ("vLLM serves this one" in str(refused.value.hint)) == serves
    with pytest.raises(ConfigError, match="model_type is gemma3"):
        open_head(variants.speculators(tmp_path / "b", layer={"model_type": "gemma3"}))
    with pytest.raises(ConfigError, match="exclude each other"):
        open_head(variants.speculators(tmp_path / "c", norm_before_fc=True, fc_norm=True))
    with pytest.raises(ConfigError, match="layer_types is"):
        open_head(variants.speculators(tmp_path / "d", layer={"layer_types": ["sliding_attention"] * 2}))
    with pytest.raises(ConfigError, match="layer_types is"):
        open_head(variants.speculators(tmp_path / "e", layer={"layer_types": [{}]}))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_random_layers_of_the_old_converter_are_suspected(tmp_path: Path, dtype: torch.dtype):
    source = variants.speculators(tmp_path / "x", dtype=dtype, speculators_version="0.3.0")
    ones = {f"layers.0.{norm}.weight": torch.ones(8, dtype=dtype) for norm in NORMS}
    replace(source, {"format": "pt"}, **{**ones, "layers.0.hidden_norm.weight": torch.full((8,), 1.5, dtype=dtype)})
    assert not open_head(source).problems
    replace(source, {"format": "pt"}, **ones)
    for version in ("0.2.0", "0.4.0.1"):
        edit(source, speculators_version=version)
        (said,) = [p.message for p in open_head(source).problems if p.code == "tensor-suspicious"]
        assert f"speculators_version is {version[:3]}, a release" in said
    assert not open_head(edit(source, speculators_version="0.1.9")).problems
    edit(source, speculators_version="0.4.0.1")
    with pytest.raises(TensorError, match="random initial values") as refused:
        convert(source, tmp_path / "out", "modelopt")
    assert refused.value.code == "tensor-suspicious"
    allowed = open_head(source, options=ReadOptions(allow_suspicious=True))
    assert [p.severity for p in allowed.problems if p.code == "tensor-suspicious"] == ["warning"]
    assert not open_head(edit(source, speculators_version="0.5.0")).problems


@pytest.mark.parametrize(("stated", "width"), [(16, 16), (8, 8), (None, 8)])
def test_the_width_of_the_target_is_the_heads_own_unless_stated(tmp_path: Path, stated: object, width: int):
    d = heads.dims(target_hidden=width)
    head = open_head(variants.speculators(tmp_path / "x", d, Has(embeddings=True), target_hidden_size=stated))
    assert (head.dims.hidden_size, head.dims.target_hidden_size) == (8, width)
    assert head.tensors["fc.weight"].shape == (8, 3 * width)
    assert not [p for p in head.problems if p.severity == "error"]


@pytest.mark.parametrize(
    ("methods", "tokens"),
    [
        ([{"speculative_tokens": 4}], 4),
        ([{"speculative_tokens": 4}, {"speculative_tokens": 6}], 4),
        ([{"speculative_tokens": 4}, None], 4),
        ([None, {"speculative_tokens": 4}], None),
        ([{}, {"speculative_tokens": 4}], None),
        ([], None),
        ({"speculative_tokens": 4}, None),
        (None, None),
    ],
)
def test_the_first_method_says_how_many_tokens_are_drafted(tmp_path: Path, methods: object, tokens: int | None):
    source = heads.speculators(tmp_path / "x", speculators_config={"proposal_methods": methods})
    assert open_head(source).speculative_tokens == tokens


@pytest.mark.parametrize(
    ("name", "local"),
    [("/models/t", True), ("./t", True), ("../t", True), ("~/t", True), ("owner/t", False), ("owner/t.2~", False)],
)
def test_a_verifier_that_is_a_local_folder_is_an_assumption(tmp_path: Path, name: str, local: bool):
    head = open_head(heads.specforge(tmp_path / "x"))
    head.target_name = name
    files = LAYOUTS["speculators"].write(head, WriteOptions(speculative_tokens=3))
    assert files.config["speculators_config"]["verifier"]["name_or_path"] == name
    found = [(a.field, a.value) for a in files.assumptions]
    assert found == ([("speculators_config.verifier.name_or_path", name)] if local else [])


def test_names_of_the_research_code(tmp_path: Path):
    source = variants.speculators(tmp_path / "x", norm_before_residual=True, speculators_version="0.1.0.dev42")
    before = tensors_of(source)
    variants.renamed(source, lambda n: RESEARCH.get(n, n), {"format": "pt"})
    convert(source, tmp_path / "out", "speculators")
    assert tensors_of(tmp_path / "out").keys() == before.keys()
    edit(source, speculators_model_type="DELETE")
    with pytest.raises(LayoutError, match="research code"):
        open_head(source)


def test_heads_of_the_research_code_were_trained_with_norm_before_residual(tmp_path: Path, target: Path):
    source = edit(heads.speculators(tmp_path / "x", speculators_version="0.1.0"), norm_before_residual="DELETE")
    plain = open_head(source)
    assert [(a.field, a.value) for a in plain.assumptions] == [("norm_before_residual", False)]
    variants.renamed(source, lambda n: RESEARCH.get(n, n), {"format": "pt"})
    head = open_head(source)
    assert [(a.field, a.value) for a in head.assumptions] == [("norm_before_residual", True)]
    assert head.semantics.norm_before_residual
    with pytest.raises(Refusal, match="norm_before_residual: true") as refused:
        convert(source, tmp_path / "u", "universal", ConvertOptions(target=str(target)))
    assert "--norm-before-residual" in (refused.value.hint or "")
    convert(source, tmp_path / "same", "speculators")
    assert config_of(tmp_path / "same")["norm_before_residual"] is True
    said = ReadOptions(norm_before_residual=False)
    convert(source, tmp_path / "u", "universal", ConvertOptions(target=str(target), read=said, strict=True))
    convert(tmp_path / "u", tmp_path / "back", "speculators")
    assert config_of(tmp_path / "back")["norm_before_residual"] is False
    stated = open_head(edit(source, norm_before_residual=False))
    assert (stated.semantics.norm_before_residual, stated.assumptions) == (False, [])


RESEARCH = {
    "layers.0.hidden_norm.weight": "hidden_norm.weight",
    "layers.0.input_layernorm.weight": "input_layernorm.weight",
    "norm.weight": "lm_head_layernorm.weight",
}


def test_the_flag_modelopts_converter_always_sets_is_doubted(tmp_path: Path):
    source = variants.speculators(tmp_path / "x", norm_before_residual=True, speculators_version="0.1.0.dev14")
    assert [a.field for a in open_head(source).assumptions] == ["norm_before_residual"]


def test_peagle_needs_its_mask_token(tmp_path: Path, target: Path):
    source = variants.specforge(tmp_path / "x", has=Has(mask_hidden=True, layers=2, embeddings=True))
    assert open_head(source).layout == "specforge"
    with pytest.raises(Refusal, match="positions not drafted yet") as refused:
        convert(source, tmp_path / "out", "speculators", ConvertOptions(target=str(target), speculative_tokens=4))
    assert refused.value.code == "refused-no-mask-token"

    head = open_head(source, target=str(target), options=ReadOptions(mask_token_id=0))
    config = LAYOUTS["speculators"].write(head, WriteOptions(speculative_tokens=4)).config
    assert (config["mask_token_id"], config["speculators_model_type"]) == (0, "peagle")
    back = variants.speculators(tmp_path / "sp", has=Has(mask_hidden=True, layers=2, embeddings=True))
    convert(back, tmp_path / "sf", "specforge")
    written = config_of(tmp_path / "sf")
    assert (written["architectures"], written["mask_token_id"]) == (["PEagleDraftModel"], 7)
    assert "mask_hidden" in tensors_of(tmp_path / "sf")


def test_peagle_of_four_layers_and_another_residual(tmp_path: Path):
    has = Has(mask_hidden=True)
    wide = variants.speculators(tmp_path / "x", heads.dims(aux=4), has)
    assert open_head(wide).tensors["mask_hidden"].shape == (1, 1, 32)
    source = variants.speculators(tmp_path / "y", has=has, norm_before_residual=True)
    convert(source, tmp_path / "sf", "specforge")
    assert config_of(tmp_path / "sf")["norm_before_residual"] is True


def test_four_aux_layers_are_written_with_a_warning_for_vllm(tmp_path: Path, target: Path):
    source = variants.speculators(tmp_path / "x", heads.dims(aux=4))
    done = convert(source, tmp_path / "out", "speculators")
    assert any("vLLM" in note for note in done.plan.written.notes)
    convert(source, tmp_path / "mo", "modelopt")
    assert config_of(tmp_path / "mo")["num_aux_hidden_states"] == 4
    with pytest.raises(Refusal) as refused:
        convert(source, tmp_path / "sf", "specforge")
    assert refused.value.code in {"refused-aux-count", "refused-aux-ids"}


def test_ids_of_the_other_convention_are_noticed(tmp_path: Path, target: Path):
    source = variants.speculators(tmp_path / "x", eagle_aux_hidden_state_layer_ids=[1, 14, 26])
    assert "aux-ids-shifted" in {p.code for p in open_head(source, target=str(target)).problems}
    fine = variants.speculators(tmp_path / "y")
    assert not open_head(fine, target=str(target)).problems


def test_a_full_vocabulary_in_another_order_has_no_place(tmp_path: Path):
    d = heads.dims(draft=40)
    source = variants.speculators(tmp_path / "x", d)
    ids = torch.arange(40).flip(0)
    replace(source, {"format": "pt"}, **heads.buffers(ids, 40))
    with pytest.raises(Refusal) as refused:
        convert(source, tmp_path / "out", "speculators")
    assert refused.value.code == "refused-permuted-vocabulary"


def served_as(folder: Path) -> tuple[str, list[str], int]:
    said = config_of(folder)["speculators_config"]
    tokens = [method["speculative_tokens"] for method in said["proposal_methods"]]
    return said["verifier"]["name_or_path"], said["verifier"]["architectures"], *tokens


def test_the_verifier_and_draft_tokens_that_are_given_take_the_place_of_those_written_before(tmp_path: Path):
    source = heads.speculators(tmp_path / "x")
    target = str(heads.target(tmp_path / "target", architectures=["Qwen3ForCausalLM"]))
    said = {"target_name": "me/other", "speculative_tokens": 7}
    convert(source, tmp_path / "b", "universal", ConvertOptions(target=target))
    convert(source, tmp_path / "same", "speculators", ConvertOptions(**said))
    done = convert(tmp_path / "b", tmp_path / "back", "speculators", ConvertOptions(**said))
    convert(source, tmp_path / "of-target", "speculators", ConvertOptions(target=target, **said))
    for out, architecture in (("same", "Llama"), ("back", "Qwen3"), ("of-target", "Qwen3")):
        assert served_as(tmp_path / out) == ("me/other", [f"{architecture}ForCausalLM"], 7)
    assert any("draft tokens that were given" in note for note in done.plan.written.notes)
    record = json.loads((tmp_path / "back/eagle3hub.json").read_text())
    assert (record["facts"]["target_name"], record["facts"]["speculative_tokens"]) == ("me/other", 7)
    assert record["command"][-4:] == ["--target-name", "me/other", "--speculative-tokens", "7"]
    hub = replaced(read_target(target), name="me/on-the-hub", is_local=False)
    convert(tmp_path / "b", tmp_path / "hub", "speculators", ConvertOptions(target=hub))
    assert served_as(tmp_path / "hub") == ("me/on-the-hub", ["Qwen3ForCausalLM"], 5)
    convert(tmp_path / "b", tmp_path / "as-it-was", "speculators", ConvertOptions(target=target))
    assert config_of(tmp_path / "as-it-was") == config_of(source)


@pytest.mark.parametrize("method", [None, "greedy", {}])
def test_what_is_given_completes_a_config_that_does_not_say_it(tmp_path: Path, target: Path, method: object):
    none = heads.speculators(tmp_path / "x", speculators_config={"proposal_methods": [method]})
    convert(none, tmp_path / "b", "universal", ConvertOptions(target=str(target)))
    convert(tmp_path / "b", tmp_path / "back", "speculators", ConvertOptions(target=str(target)))
    assert config_of(tmp_path / "back") == config_of(none)
    convert(
        tmp_path / "b", tmp_path / "out", "speculators", ConvertOptions(target_name="me/other", speculative_tokens=7)
    )
    assert served_as(tmp_path / "out") == ("me/other", ["LlamaForCausalLM"], 7)
    convert(
        heads.specforge(tmp_path / "y"),
        tmp_path / "z",
        "speculators",
        ConvertOptions(target_name="a/b", speculative_tokens=2),
    )
    assert served_as(tmp_path / "z") == ("a/b", [], 2)


def test_interleaved_or_layered_rope_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="interleaved RoPE"):
        open_head(variants.speculators(tmp_path / "a", layer={"rope_interleave": True}))
    by_type = {"full_attention": {"rope_theta": 1e4}, "sliding_attention": {"rope_theta": 1e6}}
    with pytest.raises(InputError, match="differs by layer type"):
        open_head(variants.speculators(tmp_path / "b", layer={"rope_parameters": by_type}))


@pytest.mark.parametrize(
    "says",
    [
        {},
        {"a": None},
        {"verifier": None},
        {"verifier": {}, "proposal_methods": []},
        {"verifier": {"name_or_path": None}},
    ],
)
def test_what_the_config_leaves_out_of_verifier_and_proposals_is_filled_in(tmp_path: Path, target: Path, says: dict):
    source = variants.speculators(tmp_path / "x", has=Has(embeddings=True), speculators_config=says)
    options = {"target": str(target), "target_name": "owner/target", "speculative_tokens": 3}
    convert(source, tmp_path / "same", "speculators", ConvertOptions(**options))
    written = config_of(tmp_path / "same")["speculators_config"]
    assert written["verifier"] == {"name_or_path": "owner/target", "architectures": ["LlamaForCausalLM"]}
    assert [method["speculative_tokens"] for method in written["proposal_methods"]] == [3]
    assert says.keys() <= written.keys()
    with pytest.raises(Refusal) as refused:
        convert(source, tmp_path / "out", "universal", ConvertOptions(**options))
    assert "--to speculators" in (refused.value.hint or "")


@pytest.mark.parametrize(
    ("layer", "limited"),
    [
        ({"use_sliding_window": True, "max_window_layers": 0}, (0, 1)),
        ({"use_sliding_window": True, "max_window_layers": 1}, (1,)),
        ({"use_sliding_window": True}, ()),
        ({"use_sliding_window": True, "layer_types": ["sliding_attention", "full_attention"]}, (0,)),
        ({"use_sliding_window": False, "layer_types": ["sliding_attention"] * 2}, ()),
        ({"layer_types": ["sliding_attention"] * 2}, ()),
    ],
)
def test_the_window_of_qwen3_layers_is_that_of_transformers(tmp_path: Path, layer: dict, limited: tuple[int, ...]):
    has = Has(qk_norm=True, layers=2)
    source = variants.speculators(tmp_path / "x", has=has, layer={"sliding_window": 16, **layer})
    semantics = open_head(source).semantics
    assert semantics.sliding_layers == limited
    assert semantics.sliding_window == (16 if limited else None)
    convert(source, tmp_path / "out", "speculators")
    written = config_of(tmp_path / "out")["transformer_layer_config"]
    kinds = written.get("layer_types", ["full_attention"] * 2)
    assert [i for i, kind in enumerate(kinds) if kind == "sliding_attention"] == list(limited), "all vLLM goes by"
    assert open_head(tmp_path / "out").semantics == semantics


@pytest.mark.parametrize("nested", [True, False])
def test_the_number_of_states_is_written_where_vllm_reads_it(tmp_path: Path, nested: bool):
    """Where the hint says, and in no other place, it helps."""
    target = heads.target(tmp_path / "a-target")
    source, d = tmp_path / "flat", heads.dims(aux=4)
    whole = variants.speculators(tmp_path / "x", d, layer={"num_aux_hidden_states": "DELETE"})
    convert(whole, source, "modelopt")
    source = edit(whole if nested else source, num_aux_hidden_states="DELETE", eagle_config="DELETE")
    verdict = verdict_of_vllm(source, target)
    place = "in its transformer_layer_config" if nested else "at its top level"
    assert (verdict.kind, verdict.reasons[0].code) == ("refuses", "fc-width")
    assert verdict.reasons[0].hint == f"write num_aux_hidden_states: 4 into config.json, {place}"
    edit(source, num_aux_hidden_states=4)
    assert verdict_of_vllm(source, target).kind == ("refuses" if nested else "right")
    if nested:
        layer = {**config_of(source)["transformer_layer_config"], "num_aux_hidden_states": 4}
        assert verdict_of_vllm(edit(source, transformer_layer_config=layer), target).kind == "right"


def verdict_of_vllm(head: Path, target: Path) -> PreflightVerdict:
    found = inspect(head, InspectOptions(target=str(target))).engines
    return next(v for v in found if v.engine == "vllm")
