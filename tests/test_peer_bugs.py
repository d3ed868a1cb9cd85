"""Faults that other exporters and converters have had, each as a test that fails if this tool had it.

The name of a test is the fault. Where a kind of head has to be kept or refused, a refusal writes nothing and a
conversion keeps every weight: both are right, half of one is not.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import heads

from eagle3hub import compare
from eagle3hub.conversion import convert
from eagle3hub.errors import InputError, TensorError
from eagle3hub.layouts import LAYOUTS, open_head

WEIGHTS = "model.safetensors"
IDS = "eagle_aux_hidden_state_layer_ids"
Q, K = "layers.0.self_attn.q_proj.weight", "layers.0.self_attn.k_proj.weight"


@pytest.fixture
def to_speculators(target: Path) -> dict:
    return {"target": str(target), "speculative_tokens": 5}


def read(folder: Path) -> tuple[dict[str, torch.Tensor], dict]:
    return load_file(folder / WEIGHTS), json.loads((folder / "config.json").read_text())


def edit(folder: Path, *, config: dict | None = None, drop: tuple[str, ...] = (), **tensors: torch.Tensor) -> Path:
    every, old = read(folder)
    metadata = None if old.get("architectures") == ["LlamaForCausalLM"] else {"format": "pt"}
    every = {k: v for k, v in {**every, **tensors}.items() if k not in drop}
    save_file(every, folder / WEIGHTS, metadata=metadata)
    new = {k: v for k, v in {**old, **(config or {})}.items() if v != "DELETE"}
    (folder / "config.json").write_text(json.dumps(new))
    return folder


def contents(folder: Path) -> Counter[tuple[str, tuple[int, ...], bytes]]:
    """Every weight as dtype, shape and bytes, whatever it is called."""
    tensors = {k: v for k, v in load_file(folder / WEIGHTS).items() if k not in ("d2t", "t2d")}
    return Counter(
        (str(v.dtype), tuple(v.shape), v.contiguous().view(torch.uint8).numpy().tobytes()) for v in tensors.values()
    )


def kept_or_refused(source: Path, out: Path, to: str, **options) -> bool:
    """Convert; whether it was done (with every weight and all it means) rather than refused (with nothing written)."""
    try:
        convert(source, out, to, **options)
    except InputError as refused:
        assert not out.exists()
        assert refused.code
        return False
    assert contents(out) == contents(source)
    found = compare(source, out, target=options.get("target"))
    assert found.verdict != "different", found.differences
    return True


def everywhere(source: Path, folder: Path, **options) -> set[str]:
    """The layouts a head could be converted to, after checking that the others refused it."""
    return {name for name in LAYOUTS if kept_or_refused(source, folder / f"to-{name}", name, **options)}


# speculators' converter


def test_input_norm_is_dropped_while_the_config_says_norm_before_fc(tmp_path: Path, to_speculators: dict):
    source = heads.speculators(tmp_path / "head", norm_before_fc=True)
    edit(source, **{"input_norm.weight": torch.full((24,), 3.0, dtype=torch.bfloat16)})
    assert "speculators" in everywhere(source, tmp_path, **to_speculators)
    assert read(tmp_path / "to-speculators")[1]["norm_before_fc"] is True


def test_fc_norm_is_dropped_while_the_config_says_fc_norm(tmp_path: Path, to_speculators: dict):
    source = heads.specforge(tmp_path / "head", fc_norm=True)
    edit(source, **{f"fc_norm.{j}.weight": torch.full((8,), 2.0 + j, dtype=torch.bfloat16) for j in range(3)})
    assert {"specforge", "speculators"} <= everywhere(source, tmp_path, **to_speculators)
    tensors, config = read(tmp_path / "to-speculators")
    assert config["fc_norm"] is True
    assert [float(tensors[f"fc_norm.{j}.weight"][0]) for j in range(3)] == [2.0, 3.0, 4.0]


def two_layers(folder: Path, second_norm: str = "input_layernorm") -> Path:
    """A ModelOpt head of two decoder layers; layers from the second on take H, not 2H."""
    source = heads.modelopt(folder, num_hidden_layers=2)
    first = read(source)[0]
    second = {
        name.replace("layers.0.", "layers.1."): (t[:, :8] if name.endswith(("q_proj.weight", "k_proj.weight")) else t)
        for name, t in first.items()
        if name.startswith("layers.0.") and not name.endswith(("hidden_norm.weight", "input_layernorm.weight"))
    }
    second["layers.1.self_attn.v_proj.weight"] = first["layers.0.self_attn.v_proj.weight"][:, :8]
    second[f"layers.1.{second_norm}.weight"] = torch.full((8,), 7.0, dtype=torch.bfloat16)
    return edit(source, **{name: (t + 1).contiguous() for name, t in second.items()})


def test_the_second_layer_is_dropped_while_num_hidden_layers_stays_2(tmp_path: Path, to_speculators: dict):
    done = everywhere(two_layers(tmp_path / "head"), tmp_path, **to_speculators)
    assert done == {"modelopt", "speculators"}
    for name in done:
        assert any(".1." in key for key in read(tmp_path / f"to-{name}")[0])


def test_a_missing_lm_head_is_made_up(tmp_path: Path, to_speculators: dict):
    for maker in ("specjax", "specforge", "modelopt", "speculators"):
        source = edit(heads.MAKERS[maker](tmp_path / maker), drop=("lm_head.weight",))
        for name in LAYOUTS:
            with pytest.raises(InputError):
                convert(source, tmp_path / "out", name, **to_speculators)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("lost", ["fc.weight", "layers.0.hidden_norm.weight", "norm.weight", Q])
def test_missing_weights_are_made_up_with_a_warning(tmp_path: Path, to_speculators: dict, lost: str):
    source = edit(heads.modelopt(tmp_path / "head"), drop=(lost,))
    with pytest.raises(TensorError, match=lost.replace(".", r"\.")):
        convert(source, tmp_path / "out", "speculators", **to_speculators)
    assert not (tmp_path / "out").exists()


def test_unexpected_weights_are_left_out_with_a_warning(tmp_path: Path, to_speculators: dict):
    source = edit(heads.modelopt(tmp_path / "head"), **{"layers.0.self_attn.rotary.weight": torch.ones(2)})
    assert everywhere(source, tmp_path, **to_speculators) == set()


def test_a_head_without_aux_states_gets_a_random_fc(tmp_path: Path, to_speculators: dict):
    eagle = {"use_aux_hidden_state": False, "next_layer_regular": True}
    source = heads.modelopt(tmp_path / "head", eagle_config=eagle)
    narrow = {n: read(source)[0][n][:, :8].contiguous() for n in (Q, K, "layers.0.self_attn.v_proj.weight")}
    edit(source, drop=("fc.weight", "layers.0.hidden_norm.weight"), **narrow)
    assert everywhere(source, tmp_path, **to_speculators) == {"modelopt"}
    assert "fc.weight" not in read(tmp_path / "to-modelopt")[0]


@pytest.mark.parametrize("unsorted", [False, True])
def test_d2t_is_dropped_where_t2d_is_absent(tmp_path: Path, to_speculators: dict, unsorted: bool):
    source = heads.modelopt(tmp_path / "head", unsorted=unsorted)
    assert kept_or_refused(source, tmp_path / "out", "speculators", **to_speculators)
    before, after = read(source)[0], read(tmp_path / "out")[0]
    assert torch.equal(after["d2t"], before["d2t"])
    assert after["t2d"].nonzero().flatten().tolist() == sorted((before["d2t"] + torch.arange(10)).tolist())


def test_query_and_key_norms_are_dropped_and_the_layer_becomes_a_llama(tmp_path: Path, to_speculators: dict):
    source = heads.speculators(tmp_path / "head")
    layer = {**read(source)[1]["transformer_layer_config"], "model_type": "qwen3"}
    norms = {f"layers.0.self_attn.{n}_norm.weight": torch.full((4,), 5.0, dtype=torch.bfloat16) for n in "qk"}
    edit(source, config={"transformer_layer_config": layer}, **norms)
    assert everywhere(source, tmp_path, **to_speculators) == {"speculators"}
    tensors, config = read(tmp_path / "to-speculators")
    assert all(torch.equal(tensors[n], t) for n, t in norms.items())
    assert config["transformer_layer_config"]["model_type"] == "qwen3"


@pytest.mark.parametrize("key", ["torch_dtype", "dtype"])
@pytest.mark.parametrize("stated", ["bfloat16", "float32"])
def test_weights_are_cast_to_what_the_config_says(tmp_path: Path, to_speculators: dict, key: str, stated: str):
    source = heads.specforge(tmp_path / "head", torch_dtype="DELETE")
    edit(source, config={"torch_dtype": "DELETE", key: stated}, **heads.weights(heads.dims(), dtype=torch.float16))
    assert "speculators" in everywhere(source, tmp_path, **to_speculators)
    assert {t.dtype for n, t in read(tmp_path / "to-speculators")[0].items() if n not in ("d2t", "t2d")} == {
        torch.float16
    }


def test_rope_parameters_are_ignored_and_the_default_base_is_written(tmp_path: Path, to_speculators: dict):
    llama3 = {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    new = {"rope_parameters": {**llama3, "rope_theta": 500000.0}, "rope_theta": "DELETE"}
    source = edit(heads.specforge(tmp_path / "head"), config=new)
    for name in everywhere(source, tmp_path, **to_speculators):
        rope = open_head(tmp_path / f"to-{name}").semantics.rope
        assert (rope.theta, dict(rope.scaling or {})) == (500000.0, llama3)
    assert not (tmp_path / "to-specjax").exists(), "SpecJAX knows no scaling"
    layer = read(tmp_path / "to-speculators")[1]["transformer_layer_config"]
    assert layer["rope_theta"] == layer["rope_parameters"]["rope_theta"] == 500000.0


def test_four_aux_states_crash_the_converter(tmp_path: Path, to_speculators: dict):
    d = heads.dims(aux=4)
    source = heads.modelopt(tmp_path / "head", d, eagle_config={IDS: [1, 9, 14, 26], "next_layer_regular": True})
    done = everywhere(source, tmp_path, **to_speculators)
    assert {"modelopt", "speculators"} <= done
    assert done.isdisjoint({"specjax", "specforge"})
    assert read(tmp_path / "to-speculators")[1][IDS] == [2, 10, 15, 27]
    assert read(tmp_path / "to-modelopt")[1]["num_aux_hidden_states"] == 4, "vLLM sizes fc by this or takes 3"


def test_a_missing_draft_vocab_size_becomes_32000(tmp_path: Path, to_speculators: dict):
    source = edit(heads.modelopt(tmp_path / "head"), config={"draft_vocab_size": "DELETE"})
    assert kept_or_refused(source, tmp_path / "out", "speculators", **to_speculators)
    assert read(tmp_path / "out")[1]["draft_vocab_size"] == 10


def test_the_sources_aux_layers_are_ignored(tmp_path: Path, to_speculators: dict):
    source = heads.modelopt(tmp_path / "head", eagle_config={IDS: [3, 12, 28], "next_layer_regular": True})
    assert kept_or_refused(source, tmp_path / "out", "speculators", **to_speculators)
    assert read(tmp_path / "out")[1][IDS] == [4, 13, 29]


def test_norm_before_residual_comes_from_a_default(tmp_path: Path, to_speculators: dict):
    for stated in (False, True):
        source = heads.speculators(tmp_path / f"head-{stated}", norm_before_residual=stated)
        convert(source, tmp_path / f"out-{stated}", "speculators")
        assert read(tmp_path / f"out-{stated}")[1]["norm_before_residual"] is stated
    assert not kept_or_refused(source, tmp_path / "flat", "specforge", **to_speculators)


def test_three_speculative_tokens_are_written_unasked(tmp_path: Path, target: Path):
    source = heads.modelopt(tmp_path / "head")
    with pytest.raises(InputError, match="no number is safe"):
        convert(source, tmp_path / "out", "speculators", target=str(target))
    convert(source, tmp_path / "out", "speculators", target=str(target), speculative_tokens=7)
    method = read(tmp_path / "out")[1]["speculators_config"]["proposal_methods"][0]
    assert method["speculative_tokens"] == 7


def test_the_context_length_becomes_the_larger_of_draft_and_target(tmp_path: Path, to_speculators: dict):
    source = heads.modelopt(tmp_path / "head")  # 4096, its target 8192
    convert(source, tmp_path / "out", "speculators", **to_speculators)
    assert read(tmp_path / "out")[1]["transformer_layer_config"]["max_position_embeddings"] == 4096


@pytest.mark.parametrize("size", ["hidden_size", "intermediate_size", "num_attention_heads", "vocab_size"])
def test_missing_sizes_are_invented(tmp_path: Path, to_speculators: dict, size: str):
    source = edit(heads.modelopt(tmp_path / "head"), config={size: "DELETE"})
    with pytest.raises(InputError, match=size):
        convert(source, tmp_path / "out", "speculators", **to_speculators)


def test_a_verifier_must_be_resolvable_online(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: Path):
    def no_network(*_: object, **__: object) -> None:
        raise AssertionError("went to the network")

    monkeypatch.setattr("socket.socket.connect", no_network)
    options = {"target": str(target), "target_name": "owner/name", "speculative_tokens": 3}
    convert(heads.modelopt(tmp_path / "head"), tmp_path / "out", "speculators", **options)
    assert read(tmp_path / "out")[1]["speculators_config"]["verifier"]["name_or_path"] == "owner/name"


def test_sharded_heads_are_refused(tmp_path: Path, to_speculators: dict):
    source = heads.specforge(tmp_path / "head")
    whole = heads.specforge(tmp_path / "whole")
    tensors = load_file(source / WEIGHTS)
    (source / WEIGHTS).unlink()
    weight_map = {}
    for i, name in enumerate(sorted(tensors)):
        file = f"model-{i % 3:05}-of-00003.safetensors"
        weight_map[name] = file
    for file in set(weight_map.values()):
        part = {n: tensors[n] for n, f in weight_map.items() if f == file}
        save_file(part, source / file, metadata={"format": "pt"})
    (source / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    convert(source, tmp_path / "out", "speculators", **to_speculators)
    assert contents(tmp_path / "out") == contents(whole)


def test_midlayer_0_becomes_layers_0_0(tmp_path: Path, to_speculators: dict):
    source = heads.modelopt(tmp_path / "head")
    renamed = {n.replace("layers.0.", "midlayer.0."): t for n, t in read(source)[0].items()}
    save_file(renamed, source / WEIGHTS)
    done = everywhere(source, tmp_path, **to_speculators)
    assert {"specforge", "modelopt", "speculators"} <= done
    for name in done:
        assert not any("0.0." in key for key in read(tmp_path / f"to-{name}")[0])


def test_layers_are_random_in_files_of_the_broken_releases(tmp_path: Path, to_speculators: dict):
    norms = ("input_layernorm", "hidden_norm", "post_attention_layernorm")
    source = heads.speculators(tmp_path / "head", speculators_version="0.3.0")
    edit(source, **{f"layers.0.{n}.weight": torch.ones(8, dtype=torch.bfloat16) for n in norms})
    head = open_head(source)
    if not [p for p in head.problems if p.severity == "error"]:
        pytest.fail("weights that were never trained pass for a head")
    assert everywhere(source, tmp_path, **to_speculators) == set()
    trained = heads.speculators(tmp_path / "trained", speculators_version="0.3.0")
    assert kept_or_refused(trained, tmp_path / "out", "speculators")


def test_after_layer_ids_are_written_where_boundary_ids_belong(tmp_path: Path, to_speculators: dict):
    convert(heads.modelopt(tmp_path / "mo"), tmp_path / "sp", "speculators", **to_speculators)
    assert read(tmp_path / "sp")[1][IDS] == [2, 15, 27]
    convert(heads.speculators(tmp_path / "sp2"), tmp_path / "mo2", "modelopt")
    config = read(tmp_path / "mo2")[1]
    assert (config[IDS], config["eagle_config"][IDS]) == ([2, 15, 27], [1, 14, 26])


def test_a_missing_norm_before_residual_means_two_things(tmp_path: Path, to_speculators: dict):
    source = edit(heads.speculators(tmp_path / "head"), config={"norm_before_residual": "DELETE"})
    with pytest.raises(InputError, match="norm_before_residual"):
        convert(source, tmp_path / "out", "speculators", strict=True)
    for maker in ("specjax", "specforge", "modelopt"):
        convert(heads.MAKERS[maker](tmp_path / maker), tmp_path / f"{maker}-out", "speculators", **to_speculators)
        assert read(tmp_path / f"{maker}-out")[1]["norm_before_residual"] is False


# ModelOpt and Megatron


def test_a_reduced_vocabulary_without_a_map_is_taken_for_the_identity(tmp_path: Path, to_speculators: dict):
    source = edit(heads.modelopt(tmp_path / "head"), drop=("d2t",))
    with pytest.raises(InputError, match="neither d2t nor t2d"):
        convert(source, tmp_path / "out", "speculators", **to_speculators)
    assert everywhere(source, tmp_path, **to_speculators) == set()


def test_rows_in_frequency_order_are_taken_for_ascending_ones(tmp_path: Path, to_speculators: dict):
    source = heads.modelopt(tmp_path / "head", unsorted=True)
    assert everywhere(source, tmp_path, **to_speculators).isdisjoint({"specjax", "specforge"})


def test_the_exported_rope_scaling_is_repaired(tmp_path: Path, to_speculators: dict):
    yarn = {"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 2048}
    source = heads.modelopt(tmp_path / "head", rope_scaling=yarn)
    for name in everywhere(source, tmp_path, **to_speculators):
        assert dict(open_head(tmp_path / f"to-{name}").semantics.rope.scaling or {}) == yarn


def test_the_norm_of_the_second_layer_is_lost(tmp_path: Path, to_speculators: dict):
    source = edit(two_layers(tmp_path / "head"), drop=("layers.1.input_layernorm.weight",))
    assert everywhere(source, tmp_path, **to_speculators) == set()


def test_null_fields_are_written_as_values(tmp_path: Path, to_speculators: dict):
    source = heads.modelopt(tmp_path / "head", rope_scaling=None, pad_token_id=None, attention_bias=None)
    assert everywhere(source, tmp_path, **to_speculators) >= {"specforge", "speculators"}
    for name in ("specforge", "speculators"):
        assert ": null" not in (tmp_path / f"to-{name}" / "config.json").read_text()


# SpecForge


def test_norm_output_is_given_one_meaning(tmp_path: Path, to_speculators: dict):
    source = heads.specforge(tmp_path / "head", norm_output=True)
    assert everywhere(source, tmp_path, **to_speculators) == set()


def test_an_unrecorded_choice_of_aux_layers_is_taken_for_the_default(tmp_path: Path, target: Path):
    source = heads.specforge(tmp_path / "head", eagle_config={"use_aux_hidden_state": True})
    assert "aux" in {a.field for a in open_head(source, target=str(target)).assumptions}
    with pytest.raises(InputError, match="aux"):
        convert(source, tmp_path / "out", "modelopt", target=str(target), strict=True)


def test_mixed_dtypes_are_made_one(tmp_path: Path, to_speculators: dict):
    source = heads.specforge(tmp_path / "head")
    edit(source, **{"norm.weight": torch.ones(8), "lm_head.weight": torch.ones(10, 8, dtype=torch.float16)})
    assert len(everywhere(source, tmp_path, **to_speculators)) >= 3


def test_a_parallel_head_loses_its_mask_token(tmp_path: Path, to_speculators: dict):
    source = heads.specforge(tmp_path / "head", architectures=["PEagleDraftModel"])
    edit(source, mask_hidden=torch.ones(1, 1, 24, dtype=torch.bfloat16))
    for name in everywhere(source, tmp_path, **to_speculators):
        assert "mask_hidden" in read(tmp_path / f"to-{name}")[0]
    assert not (tmp_path / "to-speculators").exists(), "the token is not in the source, so it has to be asked for"


def test_a_vocabulary_map_that_was_given_is_ignored(tmp_path: Path, cli):
    own, other = heads.sorted_ids(heads.dims()), torch.arange(0, 40, 4)
    file = tmp_path / "map.safetensors"
    save_file({"d2t": other - torch.arange(10)}, file)
    source = heads.specforge(tmp_path / "head")
    for name, folder in (("without", edit(heads.modelopt(tmp_path / "mo"), drop=("d2t",))), ("with", source)):
        status, _, err = cli("convert", folder, tmp_path / name, "--to", "specforge", "--d2t", file)
        if status == 0:
            assert open_head(tmp_path / name).vocab_map.target_id.tolist() == other.tolist() != own.tolist()
        else:
            assert (name, status) == ("with", 3), err
            assert "d2t" in err


def test_sorting_the_vocabulary_moves_the_map_but_not_the_rows(tmp_path: Path, cli):
    source = heads.modelopt(tmp_path / "head", unsorted=True)
    assert cli("convert", source, tmp_path / "out", "--to", "specforge", "--resort-vocab")[0] == 0
    found = compare(source, tmp_path / "out")
    assert found.verdict == "equal-up-to-spelling", found.differences
    assert "draft order" in {s.name for s in found.spelling}
    rows = read(tmp_path / "out")[0]["lm_head.weight"]
    edit(tmp_path / "out", **{"lm_head.weight": rows.flip(0).contiguous()})
    assert compare(source, tmp_path / "out").verdict == "different"


# SpecJAX


def test_int32_offsets_are_copied_or_change_their_values(tmp_path: Path, to_speculators: dict):
    source = heads.specjax(tmp_path / "head")
    before = read(source)[0]["d2t"]
    assert before.dtype == torch.int32
    for name in everywhere(source, tmp_path, **to_speculators) - {"specjax"}:
        after = read(tmp_path / f"to-{name}")[0]["d2t"]
        assert after.dtype == torch.int64
        assert torch.equal(after, before.long())


@pytest.mark.parametrize("times", [2, 3, 5])
def test_arange_is_subtracted_once_more_by_every_resumed_run(tmp_path: Path, to_speculators: dict, times: int):
    ids = heads.sorted_ids(heads.dims())
    resumed = (ids - times * torch.arange(10)).int()
    source = edit(heads.specjax(tmp_path / "head"), d2t=resumed)
    assert open_head(source).vocab_status == "double-subtracted"
    assert everywhere(source, tmp_path, **to_speculators) == set()


def test_a_missing_context_length_becomes_2048(tmp_path: Path, target: Path):
    source = heads.specjax(tmp_path / "head")
    assert "config-no-context" in {p.code for p in open_head(source).problems}
    convert(source, tmp_path / "alone", "specforge")
    assert "max_position_embeddings" not in read(tmp_path / "alone")[1]
    convert(source, tmp_path / "fitted", "specforge", target=str(target))
    assert read(tmp_path / "fitted")[1]["max_position_embeddings"] == 8192


def test_the_architecture_stays_that_of_a_plain_llama(tmp_path: Path, to_speculators: dict):
    for name in everywhere(heads.specjax(tmp_path / "head"), tmp_path, **to_speculators) - {"specjax", "safeailab"}:
        assert read(tmp_path / f"to-{name}")[1]["architectures"] != ["LlamaForCausalLM"], "no engine drafts with it"


def test_the_aux_layers_of_a_qwen3_next_target_are_taken_for_the_usual_ones(tmp_path: Path):
    fits = heads.target(tmp_path / "target", model_type="qwen3_next", num_hidden_layers=48)
    source = heads.specjax(tmp_path / "head")
    convert(source, tmp_path / "out", "modelopt", target=str(fits))
    assert read(tmp_path / "out")[1]["eagle_config"][IDS] == [3, 23, 47]
    with pytest.raises(InputError, match="qwen3_next"):
        convert(source, tmp_path / "strict", "modelopt", target=str(fits), strict=True)


# AngelSlim and SafeAILab


def test_a_tied_lm_head_is_believed(tmp_path: Path, to_speculators: dict):
    source = heads.specforge(tmp_path / "head", tie_word_embeddings=True)
    edit(source, **{"embed_tokens.weight": torch.ones(40, 8, dtype=torch.bfloat16)})
    for name in everywhere(source, tmp_path, **to_speculators) - {"specforge"}:
        assert read(tmp_path / f"to-{name}")[1]["tie_word_embeddings"] is False


def test_a_pickle_is_called_safetensors(tmp_path: Path):
    source = heads.specforge(tmp_path / "head")
    tensors = {n: t.clone() for n, t in load_file(source / WEIGHTS).items()}  # of the file, not mapped to it
    torch.save(tensors, source / WEIGHTS)
    try:
        convert(source, tmp_path / "out", "specforge", layout="specforge")
    except InputError as refused:
        assert "pickle" in refused.message
    else:
        written = load_file(tmp_path / "out" / WEIGHTS)
        assert all(torch.equal(written[n], t) for n, t in tensors.items())


def test_a_pickle_runs_what_it_says(tmp_path: Path):
    class Hostile:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "ran",)

    source = heads.specforge(tmp_path / "head")
    (source / WEIGHTS).unlink()
    torch.save({"norm.weight": Hostile()}, source / "pytorch_model.bin")
    with pytest.raises(InputError):
        convert(source, tmp_path / "out", "specforge")
    assert not (tmp_path / "ran").exists()


def test_buffers_of_the_target_leak_into_the_head(tmp_path: Path, to_speculators: dict):
    leaked = "target_model.model.layers.0.self_attn.rotary_emb.inv_freq"
    source = edit(heads.specforge(tmp_path / "head"), **{leaked: torch.ones(2)})
    with pytest.raises(InputError, match=r"target_model\."):
        convert(source, tmp_path / "out", "specforge")
    assert everywhere(source, tmp_path, **to_speculators) == set()


# what engines do with what converters write


def test_an_identity_map_of_a_full_vocabulary_reaches_an_engine_that_has_no_slot_for_it(
    tmp_path: Path, to_speculators: dict
):
    d = heads.dims(draft=40)
    source = heads.specforge(tmp_path / "head", d)
    edit(source, d2t=torch.zeros(40, dtype=torch.int64), t2d=torch.ones(40, dtype=torch.bool))
    assert kept_or_refused(source, tmp_path / "out", "speculators", **to_speculators)
    assert {"d2t", "t2d"}.isdisjoint(read(tmp_path / "out")[0])


def test_one_key_is_written_in_one_convention_and_read_in_the_other(tmp_path: Path, to_speculators: dict):
    for maker in ("specforge", "modelopt", "speculators"):
        source = heads.MAKERS[maker](tmp_path / maker)
        for name in LAYOUTS:
            if not kept_or_refused(source, tmp_path / f"{maker}-{name}", name, **to_speculators):
                continue
            config = read(tmp_path / f"{maker}-{name}")[1]
            nested = (config.get("eagle_config") or {}).get(IDS)
            assert nested in (None, [1, 14, 26])
            assert config.get(IDS) in (None, [2, 15, 27])
            assert nested is None or config.get(IDS) is not None, "vLLM would read the nested ids one too low"


@pytest.mark.parametrize("norm", ["input_layernorm", "hidden_norm"])
def test_the_second_layers_norm_has_two_names_and_the_wrong_one_is_all_ones(
    tmp_path: Path, to_speculators: dict, norm: str
):
    done = everywhere(two_layers(tmp_path / "head", norm), tmp_path, **to_speculators)
    assert done == {"modelopt", "speculators"}
    for name in done:
        tensors = read(tmp_path / f"to-{name}")[0]
        named = {n for n in tensors if ".1." in n and n.endswith(("input_layernorm.weight", "hidden_norm.weight"))}
        assert named == {"layers.1.input_layernorm.weight"}, "the name that vLLM reads"
        assert float(tensors["layers.1.input_layernorm.weight"][0]) == 8.0
