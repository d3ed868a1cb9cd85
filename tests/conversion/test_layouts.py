"""Reading the trainers' own folders, and what each layout refuses."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from support import heads
from support.sampling import examples

from eagle3hub.conversion.plan import ConvertOptions
from eagle3hub.conversion.run import convert
from eagle3hub.errors import ConfigError, InputError, LayoutError, Refusal, UsageError
from eagle3hub.layouts import LAYOUTS, open_head

PAIRS = list(itertools.permutations(LAYOUTS, 2))


def edit(folder: Path, **changes) -> Path:
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in config.items() if v != "DELETE"}))
    return folder


@pytest.mark.parametrize("layout", LAYOUTS)
def test_genuine_folders_are_detected(tmp_path: Path, layout: str):
    head = open_head(heads.MAKERS[layout](tmp_path / "head"))
    assert head.layout == layout
    assert head.vocab_status == "ok"
    assert not [p for p in head.problems if p.severity == "error"]
    assert (head.aux is None) == (LAYOUTS[layout].contract.aux_ids is None)


@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_genuine_folders_come_back_as_they_were(tmp_path: Path, target: Path, a: str, b: str):
    source = heads.MAKERS[a](tmp_path / "head")
    convert(source, tmp_path / "b", b, ConvertOptions(target=str(target), speculative_tokens=3))
    back = convert(tmp_path / "b", tmp_path / "back", a)
    assert json.loads((tmp_path / "back/config.json").read_text()) == json.loads((source / "config.json").read_text())
    before, after = load_file(source / "model.safetensors"), load_file(tmp_path / "back/model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) and before[k].dtype == after[k].dtype for k in before)
    assert back.verified


def test_a_folder_with_nested_ids_only_is_warned_about_and_mended_by_its_own_layout(tmp_path: Path):
    source = heads.modelopt(tmp_path / "head")
    head = open_head(source)
    assert "aux-ids-nested-only" in {p.code for p in head.problems}
    convert(source, tmp_path / "out", "modelopt")
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["eagle_aux_hidden_state_layer_ids"] == [2, 15, 27]
    assert config["eagle_config"]["eagle_aux_hidden_state_layer_ids"] == [1, 14, 26]
    assert "aux-ids-nested-only" not in {p.code for p in open_head(tmp_path / "out").problems}


def test_unknown_fields_stay_with_their_own_layout(tmp_path: Path):
    source = heads.specforge(tmp_path / "head")
    convert(source, tmp_path / "same", "specforge")
    assert json.loads((tmp_path / "same/config.json").read_text())["some_trainer_field"] == {"kept": [1, 2]}
    convert(source, tmp_path / "other", "modelopt")
    assert "some_trainer_field" not in json.loads((tmp_path / "other/config.json").read_text())


def test_conflicting_layer_ids_are_refused(tmp_path: Path):
    source = heads.specforge(tmp_path / "head", eagle_aux_hidden_state_layer_ids=[1, 15, 26])
    edit(source, eagle_config={"eagle_aux_hidden_state_layer_ids": [1, 14, 26]})
    with pytest.raises(ConfigError, match="names different aux layers"):
        open_head(source)


@pytest.mark.parametrize(
    ("maker", "config", "to", "code"),
    [
        ("speculators", {"norm_before_residual": True}, "specforge", "refused-norm-before-residual"),
        ("speculators", {"norm_output": True}, "modelopt", "refused-post-norm-feedback"),
        ("specforge", {"hidden_act": "gelu"}, "specjax", "refused-hidden-act"),
        ("specforge", {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "specjax", "refused-rope-scaling"),
        (
            "specforge",
            {"eagle_config": {"eagle_aux_hidden_state_layer_ids": [2, 14, 26]}},
            "specjax",
            "refused-aux-ids",
        ),
    ],
)
def test_what_a_layout_cannot_hold_is_refused(tmp_path: Path, maker: str, config: dict, to: str, code: str):
    source = heads.MAKERS[maker](tmp_path / "head", **config)
    with pytest.raises(Refusal) as refused:
        convert(source, tmp_path / "out", to)
    assert refused.value.code == code
    assert refused.value.hint
    assert not (tmp_path / "out").exists()


def test_rows_in_frequency_order_are_kept_or_refused(tmp_path: Path, target: Path):
    source = heads.modelopt(tmp_path / "head", unsorted=True)
    assert open_head(source).vocab_map.is_sorted is False
    for layout in ("specjax", "specforge"):
        with pytest.raises(Refusal, match="ascending order"):
            convert(source, tmp_path / layout, layout)
    convert(source, tmp_path / "out", "speculators", ConvertOptions(target=str(target), speculative_tokens=3))
    before, after = (load_file(p / "model.safetensors") for p in (source, tmp_path / "out"))
    assert torch.equal(before["d2t"], after["d2t"])
    ids = before["d2t"] + torch.arange(len(before["d2t"]))
    assert after["t2d"].nonzero().flatten().tolist() == sorted(ids.tolist())


def test_own_embeddings_are_refused_where_there_is_no_place(tmp_path: Path):
    source = heads.speculators(tmp_path / "head", embeddings=True)
    for layout in ("specjax", "modelopt"):
        with pytest.raises(Refusal, match=r"embed_tokens\.weight"):
            convert(source, tmp_path / layout, layout)
    convert(source, tmp_path / "specforge", "specforge")
    assert "embed_tokens.weight" in load_file(tmp_path / "specforge/model.safetensors")


def test_full_vocabulary_heads(tmp_path: Path, target: Path):
    d = heads.dims(draft=40)
    tensors = heads.weights(d, "layers.0.")
    config = json.loads((heads.modelopt(tmp_path / "x", d) / "config.json").read_text())
    source = heads.write(tmp_path / "head", tensors, config)
    head = open_head(source)
    assert (head.vocab_map, head.vocab_status) == (None, "full")
    convert(source, tmp_path / "sf", "specforge")
    written = load_file(tmp_path / "sf/model.safetensors")
    assert not written["d2t"].any()
    assert written["t2d"].all()
    convert(source, tmp_path / "sp", "speculators", ConvertOptions(target=str(target), speculative_tokens=3))
    assert {"d2t", "t2d"}.isdisjoint(load_file(tmp_path / "sp/model.safetensors"))
    with pytest.raises(Refusal, match="full vocabulary"):
        convert(source, tmp_path / "sj", "specjax")


def test_assumptions_are_listed_and_strict_refuses_them(tmp_path: Path, target: Path):
    source = edit(heads.specforge(tmp_path / "head"), eagle_config="DELETE", hidden_act="DELETE")
    done = convert(source, tmp_path / "out", "specforge")
    assert {a.field for a in done.plan.assumptions} == {"aux", "hidden_act"}
    with pytest.raises(Refusal, match="--strict"):
        convert(source, tmp_path / "strict", "specforge", ConvertOptions(strict=True))
    specjax = heads.specjax(tmp_path / "specjax")
    with pytest.raises(Refusal, match="aux would have to be assumed"):
        convert(specjax, tmp_path / "strict", "specforge", ConvertOptions(strict=True))
    convert(specjax, tmp_path / "strict", "specforge", ConvertOptions(target=str(target), strict=True))


def test_an_assumption_is_not_laundered_by_a_conversion(tmp_path: Path):
    source = edit(heads.specforge(tmp_path / "head"), hidden_act="DELETE")
    convert(source, tmp_path / "out", "modelopt")
    assert "hidden_act" in {a.field for a in open_head(tmp_path / "out").assumptions}


def test_speculators_without_norm_before_residual_is_an_assumption(tmp_path: Path):
    head = open_head(edit(heads.speculators(tmp_path / "head"), norm_before_residual="DELETE"))
    assert [a.field for a in head.assumptions] == ["norm_before_residual"]


def test_rope_spellings_must_agree(tmp_path: Path):
    both = {"rope_type": "default", "rope_theta": 1e4}
    with pytest.raises(ConfigError, match="rope_theta is 100000 but rope_parameters says 10000"):
        open_head(heads.specforge(tmp_path / "head", rope_parameters=both))
    ok = open_head(edit(heads.specforge(tmp_path / "ok", rope_parameters=both), rope_theta="DELETE"))
    assert ok.semantics.rope.theta == 1e4


def test_specforges_ambiguous_norm_output_is_refused(tmp_path: Path):
    head = open_head(heads.specforge(tmp_path / "head", norm_output=True))
    assert "config-norm-output" in {p.code for p in head.problems}
    with pytest.raises(ConfigError, match="two meanings"):
        convert(tmp_path / "head", tmp_path / "out", "specforge")


def test_a_target_that_does_not_fit_is_refused(tmp_path: Path):
    wrong = heads.target(tmp_path / "wrong", heads.dims(hidden=16))
    with pytest.raises(InputError, match=r"hidden size 8, but .* has 16"):
        convert(heads.specjax(tmp_path / "head"), tmp_path / "out", "specforge", ConvertOptions(target=str(wrong)))
    shallow = heads.target(tmp_path / "shallow", num_hidden_layers=20)
    with pytest.raises(InputError, match=r"taps layer 26, but .* has 20 layers"):
        convert(heads.specforge(tmp_path / "sf"), tmp_path / "out", "modelopt", ConvertOptions(target=str(shallow)))


def test_naming_the_wrong_layout_is_an_error_not_a_guess(tmp_path: Path):
    source = heads.modelopt(tmp_path / "head")
    with pytest.raises(InputError):
        open_head(source, layout="specjax")
    with pytest.raises(UsageError, match="no layout called eagle"):
        open_head(source, layout="eagle")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("parallel_draft_heads.0.weight", "Medusa"),
        ("enorm.weight", "EAGLE-1"),
    ],
)
def test_other_kinds_of_heads_are_named(tmp_path: Path, name: str, says: str):
    source = heads.modelopt(tmp_path / "head")
    tensors = load_file(source / "model.safetensors")
    save_file({**tensors, name: torch.ones(2)}, source / "model.safetensors")
    with pytest.raises(LayoutError, match=says):
        open_head(source)


def test_shards_with_an_index_are_one_head(tmp_path: Path):
    source = heads.specforge(tmp_path / "head")
    tensors = load_file(source / "model.safetensors")
    (source / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[:7], "model-00002-of-00002.safetensors": names[7:]}
    for file, part in parts.items():
        save_file({n: tensors[n] for n in part}, source / file, metadata={"format": "pt"})
    index = {"weight_map": {n: file for file, part in parts.items() for n in part}}
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    convert(source, tmp_path / "out", "specforge")
    merged = load_file(tmp_path / "out/model.safetensors")
    assert all(torch.equal(merged[n], tensors[n]) for n in names)
    index["weight_map"][names[0]] = "../elsewhere.safetensors"
    (source / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="points outside its folder"):
        open_head(source)


@settings(max_examples=examples(0.25), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pair=st.sampled_from(PAIRS),
    hidden=st.sampled_from([4, 8, 24]),
    heads_count=st.integers(1, 3),
    vocab=st.integers(20, 90),
    draft=st.integers(2, 19),
    dtype=st.sampled_from([torch.bfloat16, torch.float16, torch.float32]),
)
def test_any_pair_any_size_is_byte_equal(tmp_path_factory, pair, hidden, heads_count, vocab, draft, dtype):
    work = tmp_path_factory.mktemp("pair")
    d = heads.dims(hidden=hidden, heads=heads_count, kv=1, vocab=vocab, draft=draft)
    a, b = pair
    prefix = LAYOUTS[a].contract.tensor_prefix
    source = heads.MAKERS[a](work / "head", d)
    old = load_file(source / "model.safetensors")
    with safe_open(source / "model.safetensors", "np") as f:
        metadata = f.metadata()
    save_file({**old, **heads.weights(d, prefix, dtype)}, source / "model.safetensors", metadata=metadata)
    config = json.loads((source / "config.json").read_text())
    stated = {key: str(dtype).removeprefix("torch.") for key in ("torch_dtype", "dtype") if key in config}
    (source / "config.json").write_text(json.dumps(config | stated))
    fits = str(heads.target(work / "target", d))
    convert(source, work / "b", b, ConvertOptions(target=fits, speculative_tokens=3))
    convert(work / "b", work / "back", a)
    assert (work / "back/model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()
    assert json.loads((work / "back/config.json").read_text()) == json.loads((source / "config.json").read_text())


def test_without_a_layout_it_is_universal(tmp_path: Path, cli: Callable[..., tuple[int, str, str]], target: Path):
    status, out, _ = cli("convert", heads.specforge(tmp_path / "head"), tmp_path / "out", "--target", target, "--json")
    assert (status, json.loads(out)["to"]) == (0, "universal")
    assert open_head(tmp_path / "out").layout == "universal"
