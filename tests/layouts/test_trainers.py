"""SpecForge, SpecJAX, SafeAILab and AngelSlim: what their folders say and do not mean."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support import heads, variants
from support.variants import Has, config_of, edit, renamed, replace, tensors_of

from eagle3hub.checkpoint.folder import open_checkpoint
from eagle3hub.comparison import compare
from eagle3hub.conversion.plan import ConvertOptions
from eagle3hub.conversion.run import convert
from eagle3hub.engines.preflight import examine, preflight_all
from eagle3hub.errors import ConfigError, LayoutError, Refusal, TensorError, UsageError
from eagle3hub.head import AuxTaps
from eagle3hub.head.aux_defaults import AUX_COUNT
from eagle3hub.head.target import read_target
from eagle3hub.layouts import LAYOUTS, ReadOptions, open_head
from eagle3hub.layouts.base import WriteOptions


@pytest.mark.parametrize(("word", "feedback"), [("pre", "pre_norm"), ("post", "post_norm")])
def test_the_user_settles_what_norm_output_meant(tmp_path: Path, word, feedback: str):
    source = heads.specforge(tmp_path / "x", norm_output=True)
    assert "config-norm-output" in {p.code for p in open_head(source).problems}
    head = open_head(source, options=ReadOptions(norm_output=word))
    assert head.semantics.feedback == feedback
    assert not [p for p in head.problems if p.severity == "error"]


def test_a_head_that_may_be_unnormed_is_open_until_assumed(tmp_path: Path, target: Path):
    served = {"eagle_aux_hidden_state_layer_ids": [2, 15, 27], "max_position_embeddings": 8192}
    source = heads.specforge(tmp_path / "x", norm_output=False, **served)
    for to in ("universal", "modelopt", "specforge"):
        with pytest.raises(ConfigError, match=r"norm_output: false.* no norm before lm_head") as refused:
            convert(source, tmp_path / "out", to, ConvertOptions(target=str(target)))
        assert (refused.value.code, "--norm-output pre" in refused.value.hint) == ("config-norm-output", True)
    found = preflight_all(examine(open_checkpoint(source), open_head(source)), read_target(str(target)))
    assert {v.kind for v in found} == {"unknown", "refuses"}
    assert {r.code for v in found if v.kind == "unknown" for r in v.reasons} >= {"feedback-open"}
    convert(source, tmp_path / "out", "specforge", ConvertOptions(read=ReadOptions(norm_output="pre"), strict=True))
    assert "norm_output" not in config_of(tmp_path / "out")
    plain, claimed = (
        heads.specforge(tmp_path / n, **served, **s) for n, s in (("y", {}), ("z", {"norm_output": True}))
    )
    for other in (plain, claimed):
        assert [d.name for d in compare(source, other).differences] == ["feedback"]
    assert compare(source, source).verdict == "equal"


def test_leftovers_of_training_beside_the_weights_are_ignored(tmp_path: Path):
    source = heads.specforge(tmp_path / "x")
    (source / "training_state.pt").write_bytes(b"PK\x03\x04")
    (source / "training_state_rank0.pt").write_bytes(b"PK\x03\x04")
    assert open_head(source).layout == "specforge"
    convert(source, tmp_path / "out", "specforge")
    assert not list((tmp_path / "out").glob("*.pt"))


def test_self_contained_exports_keep_their_embeddings(tmp_path: Path):
    d = {**heads.dims(), "target_hidden": 12}
    source = variants.specforge(tmp_path / "x", d, Has(embeddings=True))
    head = open_head(source)
    assert (head.dims.target_hidden_size, head.layout) == (12, "specforge")
    convert(source, tmp_path / "out", "safeailab")
    assert tensors_of(tmp_path / "out")["embed_tokens.weight"].shape == (40, 8)
    assert config_of(tmp_path / "out")["target_hidden_size"] == 12
    for to, code in (("angelslim", "target-width"), ("universal", "embed-tokens"), ("specjax", "embed-tokens")):
        with pytest.raises(Refusal) as refused:
            convert(source, tmp_path / to, to)
        assert refused.value.code == f"refused-{code}"


def test_missing_embeddings_of_another_width_are_an_error(tmp_path: Path):
    source = variants.specforge(tmp_path / "x", {**heads.dims(), "target_hidden": 12})
    with pytest.raises(TensorError, match="uninitialised") as refused:
        convert(source, tmp_path / "out", "specforge")
    assert refused.value.code == "tensor-embedding"


def test_fc_norm_in_both_spellings(tmp_path: Path):
    source = variants.specforge(tmp_path / "x", has=Has(fc_norm=True))
    assert open_head(source).semantics.fc_norm
    old = variants.specforge(tmp_path / "y", has=Has(fc_norm=True))
    edit(old, fc_norm="DELETE", use_aux_norm=True)
    names = {f"fc_norm.{j}.weight": f"aux_norm_{w}.weight" for j, w in enumerate(("low", "mid", "high"))}
    variants.renamed(old, lambda n: names.get(n, n), {"format": "pt"})
    convert(old, tmp_path / "out", "specforge")
    assert config_of(tmp_path / "out")["fc_norm"] is True
    assert tensors_of(tmp_path / "out").keys() == tensors_of(source).keys()
    again = {**tensors_of(old), "fc_norm.0.weight": torch.ones(8)}
    replace(old, {"format": "pt"}, **again)
    with pytest.raises(TensorError, match="two names of the same tensor"):
        open_head(old)


def test_biases_specforge_never_makes_and_layers_it_never_reads(tmp_path: Path):
    source = heads.specforge(tmp_path / "x", attention_bias=True, num_hidden_layers=24)
    head = open_head(source)
    assert {"config-bias-ignored", "config-layers"} <= {p.code for p in head.problems}
    assert (head.semantics.attention_bias, head.semantics.num_layers) == (False, 1)
    convert(source, tmp_path / "out", "specforge")
    config = config_of(tmp_path / "out")
    assert (config["attention_bias"], config["num_hidden_layers"]) == (False, 1)


def test_attention_windows_that_flat_trainers_do_not_obey(tmp_path: Path):
    source = heads.specforge(tmp_path / "x", layer_types=["sliding_attention"], sliding_window=64)
    head = open_head(source)
    assert head.semantics.sliding_window is None
    assert "config-sliding-ignored" in {p.code for p in head.problems}
    convert(source, tmp_path / "out", "specforge")
    assert not {"layer_types", "sliding_window"} & set(config_of(tmp_path / "out"))


def test_a_quantization_config_over_plain_weights_is_said_and_left_out(tmp_path: Path):
    source = heads.specforge(tmp_path / "x", quantization_config={"quant_method": "fp8"})
    assert "config-quantization-leftover" in {p.code for p in open_head(source).problems}
    convert(source, tmp_path / "out", "specforge")
    assert "quantization_config" not in config_of(tmp_path / "out")
    for nothing in (None, {}):
        source = heads.specforge(tmp_path / f"x-{nothing}", quantization_config=nothing)
        assert "config-quantization-leftover" not in {p.code for p in open_head(source).problems}


@pytest.mark.parametrize(("taps", "stated"), [((1, 14, 26), None), ((1, 14), 2), ((1, 14, 20, 26), 4)])
def test_another_number_of_aux_layers_than_three_is_stated(tmp_path: Path, taps: tuple[int, ...], stated: int | None):
    head = open_head(heads.specforge(tmp_path / "x"))
    head.aux = AuxTaps.from_after_layer(taps, "config")
    assert LAYOUTS["specforge"].write(head, WriteOptions()).config.get(AUX_COUNT) == stated


def test_specjax_does_not_obey_what_a_resumed_run_copied(tmp_path: Path):
    source = edit(heads.specjax(tmp_path / "x"), rope_scaling={"rope_type": "llama3", "factor": 8.0})
    head = open_head(source)
    assert head.semantics.rope.scaling is None
    assert "rope_scaling" in {a.field for a in head.assumptions}
    convert(source, tmp_path / "out", "specjax")
    assert "rope_scaling" not in config_of(tmp_path / "out")


def test_scaling_without_a_base_is_not_lost(tmp_path: Path):
    scaling = {"rope_type": "linear", "factor": 2.0}
    source = edit(heads.specforge(tmp_path / "x"), rope_theta="DELETE", rope_scaling=scaling)
    assert open_head(source).semantics.rope.scaling == scaling
    inside = edit(heads.specforge(tmp_path / "y"), rope_theta="DELETE", rope_scaling={**scaling, "rope_theta": 5e5})
    rope = open_head(inside).semantics.rope
    assert (rope.theta, rope.scaling) == (5e5, scaling)


@pytest.mark.parametrize("old", [True, False])
def test_both_generations_of_config_keys(tmp_path: Path, old: bool):
    new = {"dtype": "bfloat16", "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 7e4}}
    legacy = {"torch_dtype": "bfloat16", "rope_theta": 7e4, "rope_scaling": {"type": "linear", "factor": 2.0}}
    keep = legacy if old else {**new, "torch_dtype": "DELETE", "rope_theta": "DELETE"}
    head = open_head(edit(heads.specforge(tmp_path / "x"), **keep))
    assert (head.semantics.rope.theta, head.semantics.rope.scaling) == (7e4, {"rope_type": "linear", "factor": 2.0})


def test_safeailab_always_trains_with_a_base_of_10000(tmp_path: Path):
    plain = open_head(heads.safeailab(tmp_path / "x"))
    assert plain.semantics.rope.theta == 10000.0
    assert {a.field for a in plain.assumptions} == {"aux"}
    stated = heads.safeailab(tmp_path / "y", rope_theta=500000.0)
    assert "rope_theta" in {a.field for a in open_head(stated).assumptions}
    told = open_head(stated, options=ReadOptions(rope_theta=10000.0))
    assert (told.semantics.rope.theta, {a.field for a in told.assumptions}) == (10000.0, {"aux"})


def test_safeailab_takes_no_embeddings_and_no_scaling_its_code_would_not_use(tmp_path: Path):
    source = variants.specforge(tmp_path / "x", has=Has(embeddings=True))
    with pytest.raises(Refusal, match="takes the target's wherever they fit"):
        convert(source, tmp_path / "out", "safeailab")
    llama3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaled = heads.specforge(tmp_path / "y", rope_scaling=llama3)
    with pytest.raises(Refusal, match="knows linear and dynamic only"):
        convert(scaled, tmp_path / "out", "safeailab")
    convert(edit(scaled, rope_scaling={"rope_type": "linear", "factor": 8.0}), tmp_path / "out", "safeailab")


def test_buffers_of_the_target_are_named_and_can_be_dropped(tmp_path: Path):
    source = heads.safeailab(tmp_path / "x")
    leaked = "target_model.model.layers.0.self_attn.rotary_emb.inv_freq"
    replace(source, **{leaked: torch.ones(4)})
    with pytest.raises(TensorError, match="leftovers of the target model") as refused:
        open_head(source)
    assert (refused.value.code, f"--drop {leaked}" in (refused.value.hint or "")) == ("tensor-leaked", True)
    assert open_head(source, options=ReadOptions(drop=(leaked,))).layout == "safeailab"
    with pytest.raises(UsageError, match=r"holds no fc\.bias"):
        open_head(source, options=ReadOptions(drop=("fc.bias", leaked)))


@pytest.mark.parametrize("table", ["inv_freq", "cos_cached"])
def test_tables_of_rope_that_engines_compute_anew_are_no_part_of_a_head(tmp_path: Path, table: str):
    source = heads.safeailab(tmp_path / "x")
    replace(source, **{f"midlayer.self_attn.rotary_emb.{table}": torch.ones(4)})
    head = open_head(source)
    assert (head.layout, [p for p in head.problems if p.severity == "error"]) == ("safeailab", [])
    found = preflight_all(examine(open_checkpoint(source), head))
    assert not {r.code for v in found for r in v.reasons} & {"tensor-unknown", "tensor-leftover"}
    convert(source, tmp_path / "out", "specforge")
    assert not [name for name in tensors_of(tmp_path / "out") if table in name]


def test_names_of_an_unknown_wrapper_are_said(tmp_path: Path):
    source = heads.specforge(tmp_path / "x")
    renamed(source, lambda name: f"speculator.{name}")
    with pytest.raises(LayoutError, match=r"every name begins with speculator\.") as refused:
        open_head(source)
    assert refused.value.code == "layout-wrapped"


@pytest.mark.parametrize(
    "wrap",
    [
        lambda name: f"module.{name}",
        lambda name: f"_orig_mod.{name}",
        lambda name: f"_fsdp_wrapped_module.{name}",
        lambda name: f"draft_model.{name}",
        lambda name: f"model.draft_model.{name}",
        lambda name: f"module._orig_mod.{name}",
        lambda name: name.replace("midlayer.", "midlayer._fsdp_wrapped_module."),
        lambda name: name.replace("midlayer.", "midlayer._checkpoint_wrapped_module."),
        lambda name: name.replace("midlayer.self_attn.", "midlayer._orig_mod.self_attn._orig_mod."),
        lambda name: f"_orig_mod.{name}" if name.startswith("midlayer.") else name,
    ],
)
def test_names_of_a_wrapped_module_are_read_without_the_wrapper(tmp_path: Path, wrap: Callable[[str], str]):
    plain, source = heads.specforge(tmp_path / "plain"), heads.specforge(tmp_path / "x")
    renamed(source, wrap, {"format": "pt"})
    head, same = open_head(source), open_head(plain)
    assert (set(head.tensors), head.semantics, head.dims) == (set(same.tensors), same.semantics, same.dims)
    found = preflight_all(examine(open_checkpoint(source), head))
    assert not {v.kind for v in found} & {"right", "depends"}, "engines look for the names without"
    convert(source, tmp_path / "out", "specforge")
    assert set(tensors_of(tmp_path / "out")) == set(tensors_of(plain))


def test_a_tensor_with_and_without_a_wrapper_is_two_of_a_kind(tmp_path: Path):
    source = heads.specforge(tmp_path / "x")
    replace(source, **{"_orig_mod.fc.weight": tensors_of(source)["fc.weight"]})
    with pytest.raises(TensorError, match="are two names of the same tensor") as refused:
        open_head(source)
    assert (refused.value.code, "--drop" in (refused.value.hint or "")) == ("tensor-duplicate", True)
    assert open_head(source, options=ReadOptions(drop=("_orig_mod.fc.weight",))).layout == "specforge"


@pytest.mark.parametrize(
    "stated",
    [
        {"aux_hidden_state_layers": [3, 9, 20]},
        {"target_layer_ids": [3, 9, 20]},
        {"eagle_config": {"layers_to_capture": [3, 9, 20]}},
    ],
)
def test_layers_listed_where_nobody_looks_leave_the_default_in_doubt(
    tmp_path: Path, target: Path, stated: dict[str, object]
):
    unlisted = {"eagle_config": {"use_aux_hidden_state": True}}
    source = heads.specforge(tmp_path / "x", **{**unlisted, **stated})
    (assumed,) = (a for a in open_head(source, target=str(target)).assumptions if a.field == "aux")
    assert (assumed.doubtful, "lists layers [3, 9, 20] under" in assumed.why) == (True, True)
    for fits in (assumed.value, [i + 1 for i in assumed.value]):
        same = heads.specforge(tmp_path / str(fits), **unlisted, aux_hidden_state_layers=fits)
        assert "lists layers" not in str(open_head(same, target=str(target)).assumptions)


def test_angelslims_tied_embeddings_and_unread_base(tmp_path: Path):
    source = heads.angelslim(tmp_path / "x", num_hidden_layers=24)
    head = open_head(source)
    assert {"config-tied", "config-layers"} <= {p.code for p in head.problems}
    assert "rope_theta" in {a.field for a in head.assumptions}
    convert(source, tmp_path / "same", "angelslim")
    config = config_of(tmp_path / "same")
    assert (config["tie_word_embeddings"], config["num_hidden_layers"]) == (False, 1)
    mrope = {"rope_type": "default", "mrope_section": [1, 1, 0]}
    assert "rope_theta" not in {a.field for a in open_head(edit(source, rope_scaling=mrope)).assumptions}


_LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
_YARN = {"rope_type": "yarn", "factor": 4.0}


@pytest.mark.parametrize(
    ("scaling", "release", "doubt"),
    [
        (None, "4.57.1", None),
        (None, "4.57.6", None),
        (None, "4.55.2", "before 30 October 2025, and with transformers 5 .*; transformers 4.55.2, which it names"),
        (None, "4.54.0", "before 30 October 2025"),
        (None, None, "does not say when"),
        (None, 4, "does not say when"),
        (None, "4.51.0", "does not say when"),
        (None, "4.57.0.dev0", "before 30 October 2025"),
        (None, "5.8.1", "with transformers 5 from 29 June to 24 July 2026, .*; config.json does not say when"),
        (_LLAMA3, "4.57.1", None),
        (_LLAMA3, "4.55.2", "before 12 November 2025"),
        (_YARN, "4.57.1", "before 24 July 2026, under this scaling, .*; transformers 4.57.1, which it names"),
        (_YARN, None, "before 24 July 2026, under this scaling, .*; config.json does not say when"),
        (_YARN, "4.51.0", "before 24 July 2026, under this scaling, .*; config.json does not say when"),
        (_YARN, "5.8.1", "before 24 July 2026, under this scaling, .*; config.json does not say when"),
        ({"type": "mrope", "mrope_section": [1, 1]}, "4.57.1", "before 24 July 2026"),
        ({"type": "linear", "factor": 2.0}, "4.57.1", "before 24 July 2026"),
        ({"rope_type": "default", "mrope_section": [1, 1]}, "4.57.1", None),
    ],
)
def test_a_base_that_specforge_may_not_have_obeyed(
    tmp_path: Path, scaling: dict[str, Any] | None, release: object, doubt: str | None
):
    source = heads.specforge(tmp_path / "x", rope_scaling=scaling, transformers_version=release)
    stated = [a for a in open_head(source).assumptions if a.field == "rope_theta"]
    assert [a.value for a in stated] == ([] if doubt is None else [100000.0])
    for found in stated:
        assert re.search(doubt, found.why)
        sure = "which it names" in found.why or (scaling not in (None, _LLAMA3) and release != "5.8.1")
        assert found.doubtful == (sure or release in ("4.54.0", "4.57.0.dev0"))
    for base in (10000.0, 100000.0):
        settled = open_head(source, options=ReadOptions(rope_theta=base))
        assert settled.semantics.rope.theta == base
        assert "rope_theta" not in {a.field for a in settled.assumptions}


def test_a_base_of_10000_and_those_of_late_heads_are_not_doubted(tmp_path: Path):
    plain = heads.specforge(tmp_path / "plain", rope_theta=10000.0, transformers_version="4.55.2")
    assert open_head(plain).assumptions == []
    meaning = LAYOUTS["specforge"].interpret({**config_of(plain), "rope_theta": 5e5, "fc_norm": True})
    assert meaning.assumptions == []
    both = {"rope_theta": 5e5, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}
    new = heads.specforge(tmp_path / "new", **both, transformers_version="5.8.1")
    assert open_head(new).assumptions == []
    del both["rope_theta"]
    saved = heads.specforge(tmp_path / "saved", **both, transformers_version="5.8.1")
    saved = edit(saved, rope_theta="DELETE")
    assert [a.field for a in open_head(saved).assumptions] == ["rope_theta"]


def test_a_folder_made_for_specforge_is_not_taken_for_its_training(tmp_path: Path, target: Path):
    convert(heads.specjax(tmp_path / "x"), tmp_path / "out", "specforge", ConvertOptions(target=str(target)))
    head = open_head(tmp_path / "out")
    assert (head.layout, head.assumptions) == ("specforge", [])


@pytest.mark.parametrize("to", ["angelslim", "safeailab"])
def test_a_base_that_a_trainer_would_not_obey_is_said(tmp_path: Path, target: Path, to: str):
    def notes(source: Path) -> list[str]:
        return convert(
            source, tmp_path / f"out-{source.name}", to, ConvertOptions(target=str(target), dry_run=True)
        ).plan.written.notes

    (note,) = notes(heads.specforge(tmp_path / "other"))
    assert ("base of 10000" in note, "which is 100000" in note) == (True, True)
    assert notes(heads.specforge(tmp_path / "same", rope_theta=1e4)) == []
    assert notes(heads.MAKERS[to](tmp_path / "own", rope_theta=5e5)) == [], "it is an assumption of the source"
    mrope = {"rope_type": "default", "mrope_section": [1, 1, 0]}
    if to == "angelslim":
        assert notes(heads.specforge(tmp_path / "mrope", rope_scaling=mrope)) == []


def test_weights_that_specjax_would_round_are_said(tmp_path: Path, target: Path):
    done = convert(heads.safeailab(tmp_path / "x"), tmp_path / "out", "specjax", ConvertOptions(target=str(target)))
    assert any("weights are F16" in note for note in done.plan.written.notes)
    done = convert(heads.specforge(tmp_path / "y"), tmp_path / "fine", "specjax", ConvertOptions(target=str(target)))
    assert done.plan.written.notes == []


def test_a_folder_made_for_angelslim_is_not_taken_for_its_training(tmp_path: Path, target: Path):
    convert(heads.specjax(tmp_path / "x"), tmp_path / "out", "angelslim", ConvertOptions(target=str(target)))
    head = open_head(tmp_path / "out", target=str(target))
    assert head.layout == "angelslim"
    assert not head.assumptions


def test_names_that_all_begin_with_model(tmp_path: Path, target: Path):
    source = variants.renamed(heads.specforge(tmp_path / "x"), lambda n: f"model.{n}", {"format": "pt"})
    assert open_head(source).layout == "specforge"
    convert(source, tmp_path / "out", "specforge")
    assert tensors_of(tmp_path / "out").keys() == tensors_of(heads.specforge(tmp_path / "plain")).keys()
    convert(source, tmp_path / "sp", "speculators", ConvertOptions(target=str(target), speculative_tokens=3))
    convert(tmp_path / "sp", tmp_path / "back", "specforge")
    assert (tmp_path / "back/model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()
    half = variants.renamed(
        heads.specforge(tmp_path / "y"), lambda n: n if n == "lm_head.weight" else f"model.{n}", {"format": "pt"}
    )
    with pytest.raises(LayoutError, match="some names begin with model"):
        open_head(half)


def test_a_language_model_is_not_a_head(tmp_path: Path):
    source = heads.write(
        tmp_path / "x", {"model.embed_tokens.weight": torch.ones(4, 4), "lm_head.weight": torch.ones(4, 4)}, {}
    )
    with pytest.raises(LayoutError, match="whole language model"):
        open_head(source)


def test_specjax_and_one_layer(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"num_hidden_layers is 2, but .* one decoder layer"):
        open_head(edit(heads.specjax(tmp_path / "x"), num_hidden_layers=2))


@pytest.mark.parametrize(("model_type", "ids"), [("qwen3_next", [3, 14, 29]), ("llama", [1, 14, 26])])
def test_specjaxs_default_layers_follow_from_the_target(tmp_path: Path, model_type: str, ids: list[int]):
    target = heads.target(tmp_path / "target", model_type=model_type)
    head = open_head(heads.specjax(tmp_path / "x"), target=str(target))
    assert head.aux.after_layer == ids
    assert ("aux" in {a.field for a in head.assumptions}) == (model_type == "qwen3_next")


def test_a_depth_alone_does_not_tell_which_layers_specjax_took(tmp_path: Path):
    told = open_head(heads.specjax(tmp_path / "x"), options=ReadOptions(num_target_layers=30))
    (assumed,) = [a for a in told.assumptions if a.field == "aux"]
    assert told.aux.after_layer == assumed.value == [1, 14, 26]
    assert (assumed.why, assumed.settle) == (
        "the files name none: SpecJAX taps 1, L//2-1, L-4 of a target's L layers, but 3, L//2-1, L-1 of a qwen3_next "
        "target, and the type of this head's target is not known",
        "give --target or --aux-layers",
    )
    untyped = str(heads.target(tmp_path / "untyped", model_type=""))
    assert [a.field for a in open_head(tmp_path / "x", target=untyped).assumptions] == ["aux"]
    named = ReadOptions(num_target_layers=30, aux_layers=(1, 14, 26))
    assert "aux" not in {a.field for a in open_head(tmp_path / "x", options=named).assumptions}


def test_specjaxs_layers_of_a_qwen3_next_target_are_written_where_they_are_meant(tmp_path: Path):
    target = str(heads.target(tmp_path / "target", model_type="qwen3_next"))
    usual = heads.specforge(tmp_path / "usual")
    with pytest.raises(Refusal, match=r"\[1, 14, 26\].* taps \[3, 14, 29\] of a qwen3_next target") as refused:
        convert(usual, tmp_path / "out", "specjax", ConvertOptions(target=target))
    assert refused.value.code == "refused-aux-ids"
    source = heads.specforge(tmp_path / "its", eagle_config={"eagle_aux_hidden_state_layer_ids": [3, 14, 29]})
    convert(source, tmp_path / "out", "specjax", ConvertOptions(target=target))
    (tmp_path / "out" / "eagle3hub.json").unlink()
    assert open_head(tmp_path / "out", target=target).aux.after_layer == [3, 14, 29]


@pytest.mark.parametrize("layout", ["specjax", "safeailab", "angelslim", "universal"])
def test_layers_that_are_not_named_depend_on_a_depth_that_is_not_known(tmp_path: Path, layout: str):
    source = heads.specforge(tmp_path / "x", max_position_embeddings=8192)
    with pytest.raises(Refusal, match=r"told no aux layers and takes its default: \[1, 14, 26\] only if .* 30 layers"):
        convert(source, tmp_path / "strict", layout, ConvertOptions(strict=True))
    done = convert(source, tmp_path / "out", layout)
    assert ("num_target_layers", 30) in {(a.field, a.value) for a in done.plan.assumptions}
    target = str(heads.target(tmp_path / "target"))
    convert(source, tmp_path / "told", layout, ConvertOptions(target=target, target_name="owner/target", strict=True))


def test_a_list_that_is_not_ascending_needs_other_columns(tmp_path: Path):
    eagle = {"eagle_aux_hidden_state_layer_ids": [26, 1, 14]}
    source = heads.specforge(tmp_path / "x", eagle_config=eagle)
    head = open_head(source)
    assert (head.aux.after_layer, head.fc_order) == ([1, 14, 26], (26, 1, 14))
    with pytest.raises(ConfigError, match="column blocks of fc") as refused:
        convert(source, tmp_path / "out", "specforge")
    assert refused.value.code == "config-aux-order"
    assumed = open_head(source, options=ReadOptions(aux_layers=(1, 14, 26)))
    assert (assumed.fc_order, [p for p in assumed.problems if p.severity == "error"]) == (None, [])
    twice = heads.specforge(tmp_path / "y", eagle_config={"eagle_aux_hidden_state_layer_ids": [1, 1, 26]})
    with pytest.raises(ConfigError, match="some of them twice"):
        open_head(twice)


def test_a_default_triple_of_another_depth_is_not_the_default(tmp_path: Path):
    source = heads.specforge(tmp_path / "x")
    deeper = str(heads.target(tmp_path / "deeper", num_hidden_layers=40))
    convert(source, tmp_path / "fits", "specjax")
    with pytest.raises(Refusal) as refused:
        convert(source, tmp_path / "out", "specjax", ConvertOptions(target=deeper))
    assert refused.value.code == "refused-aux-ids"


def test_what_the_user_says_replaces_what_the_config_says(tmp_path: Path):
    source = heads.specforge(tmp_path / "x")
    options = ReadOptions(rope_theta=5000.0, aux_layers=(2, 15, 20), aux_convention="after")
    head = open_head(source, options=options)
    config = LAYOUTS["specforge"].write(head, WriteOptions()).config
    assert (config["rope_theta"], config["rope_parameters"]["rope_theta"]) == (5000.0, 5000.0)
    assert config["eagle_aux_hidden_state_layer_ids"] == [3, 16, 21]
    assert config["eagle_config"]["eagle_aux_hidden_state_layer_ids"] == [2, 15, 20]
    assert config["some_trainer_field"] == {"kept": [1, 2]}
    assert len([p for p in head.problems if p.code == "source-overridden"]) == 2


def test_options_that_mean_nothing_to_a_head_are_usage_errors(tmp_path: Path, target: Path):
    source = heads.specforge(tmp_path / "x")
    final = variants.modelopt(tmp_path / "y", has=Has(uses_aux=False))
    with pytest.raises(UsageError, match="masks no position"):
        open_head(source, options=ReadOptions(mask_token_id=3))
    with pytest.raises(UsageError, match="reads no aux layers"):
        open_head(final, options=ReadOptions(aux_layers=(1, 2, 3)))
    with pytest.raises(UsageError, match="has 30 layers"):
        open_head(source, target=str(target), options=ReadOptions(num_target_layers=28))


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
def test_the_dtype_is_stated_once(tmp_path: Path, key: str):
    source = edit(heads.specforge(tmp_path / "x"), torch_dtype="DELETE")
    convert(edit(source, **{key: "bfloat16"}), tmp_path / "out", "specforge")
    assert {"dtype", "torch_dtype"} & set(config_of(tmp_path / "out")) == {key}


def test_refusals_say_what_would_help(tmp_path: Path):
    unsorted = variants.modelopt(tmp_path / "x", unsorted=True)
    with pytest.raises(Refusal) as refused:
        convert(unsorted, tmp_path / "out", "specforge")
    assert "--resort-vocab" in (refused.value.hint or "")
    own = variants.specforge(tmp_path / "y", has=Has(embeddings=True))
    with pytest.raises(Refusal) as refused:
        convert(own, tmp_path / "out", "modelopt")
    assert "--drop-embeddings" in (refused.value.hint or "")
    assert "--to speculators" in (refused.value.hint or "")


@pytest.mark.parametrize(("layout", "file"), [("safeailab", "pytorch_model.bin"), ("angelslim", "model.safetensors")])
def test_heads_saved_as_torch_pickles_are_the_same_heads(tmp_path: Path, target: Path, layout: str, file: str):
    source = heads.MAKERS[layout](tmp_path / "x")
    tensors = tensors_of(source)
    (source / "model.safetensors").unlink()
    torch.save(tensors, source / file)
    assert open_head(source).layout == layout
    convert(source, tmp_path / "b", "specforge", ConvertOptions(target=str(target)))
    convert(tmp_path / "b", tmp_path / "back", layout)
    back = tensors_of(tmp_path / "back")
    assert back.keys() == tensors.keys()
    assert all(torch.equal(t, tensors[n]) and t.dtype == tensors[n].dtype for n, t in back.items())
    assert config_of(tmp_path / "back") == config_of(source)


@pytest.mark.parametrize(
    "said", [ReadOptions(aux_layers=(2, 15, 20)), ReadOptions(rope_theta=5000.0), ReadOptions(num_target_layers=40)]
)
def test_an_earlier_spelling_that_no_longer_holds_is_not_used(tmp_path: Path, said: ReadOptions):
    source = edit(heads.specforge(tmp_path / "x"), eagle_config={"use_aux_hidden_state": True})
    config = config_of(source)
    convert(
        source,
        tmp_path / "b",
        "speculators",
        ConvertOptions(target_name="o/t", target=_target(tmp_path), speculative_tokens=3),
    )
    codec = LAYOUTS["specforge"]
    assert codec.write(open_head(tmp_path / "b"), WriteOptions()).config == config
    written = codec.write(open_head(tmp_path / "b", options=said), WriteOptions()).config
    assert "some_trainer_field" not in written
    head = open_head(tmp_path / "b", options=said)
    assert written["rope_theta"] == head.semantics.rope.theta
    assert written["eagle_aux_hidden_state_layer_ids"] == head.aux.boundary


def _target(folder: Path) -> str:
    return str(heads.target(folder / "target"))


@pytest.mark.parametrize("ids", [[0, 2, 5], [1, 14, 26]])
@pytest.mark.parametrize("nested", [True, False])
def test_layers_that_specjax_did_not_write_are_an_assumption(tmp_path: Path, ids: list[int], nested: bool):
    key = "eagle_aux_hidden_state_layer_ids"
    copied = {"eagle_config": {key: ids, "use_aux_hidden_state": True}} if nested else {key: [i + 1 for i in ids]}
    source = edit(heads.specjax(tmp_path / "x"), **copied)
    target = str(heads.target(tmp_path / "target"))
    head = open_head(source, target=target)
    assert (head.layout, head.aux.after_layer) == ("specjax", ids)
    assert [a.field for a in head.assumptions] == ([] if ids == [1, 14, 26] else [key])
    if ids != [1, 14, 26]:
        with pytest.raises(Refusal, match="SpecJAX writes no aux layers: those in"):
            convert(source, tmp_path / "strict", "modelopt", ConvertOptions(target=target, strict=True))
        for said in (ids, [1, 14, 26]):
            out = tmp_path / f"out{said[0]}"
            convert(
                source,
                out,
                "modelopt",
                ConvertOptions(target=target, strict=True, read=ReadOptions(aux_layers=tuple(said))),
            )
            assert config_of(out)["eagle_config"][key] == said


@pytest.mark.parametrize("layout", ["specforge", "safeailab", "specjax", "modelopt", "speculators"])
def test_a_dtype_that_is_not_the_weights_own_is_noted_and_written_right(tmp_path: Path, layout: str):
    right = open_head(getattr(heads, layout)(tmp_path / "plain"))
    assert "config-dtype" not in {p.code for p in right.problems}
    own = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}[right.dtype]
    source = edit(getattr(heads, layout)(tmp_path / "x"), torch_dtype="torch.float64", dtype=own)
    head = open_head(source)
    noted = [p for p in head.problems if p.code == "config-dtype"]
    assert [p.severity for p in noted] == ["info"]
    assert noted[0].message == f"config.json says torch_dtype: torch.float64, and the weights are {own}"
    result = convert(source, tmp_path / "out", layout, ConvertOptions(speculative_tokens=3))
    written = config_of(tmp_path / "out")
    assert {written["torch_dtype"], written["dtype"]} == {own}
    assert [p.code for p in result.mended if p.code == "config-dtype"] == ["config-dtype"]
    assert "config-dtype" not in {p.code for p in open_head(tmp_path / "out").problems}


def test_an_earlier_config_with_another_dtype_does_not_come_back_with_it(tmp_path: Path):
    source = heads.specforge(tmp_path / "x", torch_dtype="float16")
    convert(
        source, tmp_path / "there", "speculators", ConvertOptions(speculative_tokens=3, target_name="owner/target")
    )
    convert(tmp_path / "there", tmp_path / "back", "specforge")
    before, after = config_of(source), config_of(tmp_path / "back")
    assert after == {**before, "torch_dtype": after["torch_dtype"]}
    assert "config-dtype" not in {p.code for p in open_head(tmp_path / "back").problems}


@pytest.mark.parametrize("maker", [heads.specforge, heads.angelslim])
@pytest.mark.parametrize(("layers", "warned"), [(1, False), (2, True)])
def test_a_number_of_layers_other_than_the_one_made_is_said(tmp_path: Path, maker, layers: int, warned: bool):
    head = open_head(maker(tmp_path / "x", num_hidden_layers=layers))
    said = [p.message for p in head.problems if p.code == "config-layers"]
    assert len(said) == warned
    assert all(f"num_hidden_layers: {layers}," in message for message in said)
