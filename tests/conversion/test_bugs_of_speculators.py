"""Faults of speculators' converter, each as a test that fails if this tool had it.

The name of a test is the fault. Where a kind of head has to be kept or refused, a refusal writes nothing and a
conversion keeps every weight: both are right, half of one is not.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import heads
from support.rewriting import WEIGHTS, contents, edit, everywhere, kept_or_refused, read, two_layers

from eagle3hub.conversion.plan import ConvertOptions
from eagle3hub.conversion.run import convert
from eagle3hub.errors import InputError, TensorError
from eagle3hub.layouts import LAYOUTS, open_head

IDS = "eagle_aux_hidden_state_layer_ids"
Q, K = "layers.0.self_attn.q_proj.weight", "layers.0.self_attn.k_proj.weight"


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
                convert(source, tmp_path / "out", name, ConvertOptions(**to_speculators))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("lost", ["fc.weight", "layers.0.hidden_norm.weight", "norm.weight", Q])
def test_missing_weights_are_made_up_with_a_warning(tmp_path: Path, to_speculators: dict, lost: str):
    source = edit(heads.modelopt(tmp_path / "head"), drop=(lost,))
    with pytest.raises(TensorError, match=lost.replace(".", r"\.")):
        convert(source, tmp_path / "out", "speculators", ConvertOptions(**to_speculators))
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
        convert(source, tmp_path / "out", "speculators", ConvertOptions(target=str(target)))
    convert(source, tmp_path / "out", "speculators", ConvertOptions(target=str(target), speculative_tokens=7))
    method = read(tmp_path / "out")[1]["speculators_config"]["proposal_methods"][0]
    assert method["speculative_tokens"] == 7


def test_the_context_length_becomes_the_larger_of_draft_and_target(tmp_path: Path, to_speculators: dict):
    source = heads.modelopt(tmp_path / "head")  # 4096, its target 8192
    convert(source, tmp_path / "out", "speculators", ConvertOptions(**to_speculators))
    assert read(tmp_path / "out")[1]["transformer_layer_config"]["max_position_embeddings"] == 4096


@pytest.mark.parametrize("size", ["hidden_size", "intermediate_size", "num_attention_heads", "vocab_size"])
def test_missing_sizes_are_invented(tmp_path: Path, to_speculators: dict, size: str):
    source = edit(heads.modelopt(tmp_path / "head"), config={size: "DELETE"})
    with pytest.raises(InputError, match=size):
        convert(source, tmp_path / "out", "speculators", ConvertOptions(**to_speculators))


def test_a_verifier_must_be_resolvable_online(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: Path):
    def no_network(*_: object, **__: object) -> None:
        raise AssertionError("went to the network")

    monkeypatch.setattr("socket.socket.connect", no_network)
    options = {"target": str(target), "target_name": "owner/name", "speculative_tokens": 3}
    convert(heads.modelopt(tmp_path / "head"), tmp_path / "out", "speculators", ConvertOptions(**options))
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
    convert(source, tmp_path / "out", "speculators", ConvertOptions(**to_speculators))
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
    convert(heads.modelopt(tmp_path / "mo"), tmp_path / "sp", "speculators", ConvertOptions(**to_speculators))
    assert read(tmp_path / "sp")[1][IDS] == [2, 15, 27]
    convert(heads.speculators(tmp_path / "sp2"), tmp_path / "mo2", "modelopt")
    config = read(tmp_path / "mo2")[1]
    assert (config[IDS], config["eagle_config"][IDS]) == ([2, 15, 27], [1, 14, 26])


def test_a_missing_norm_before_residual_means_two_things(tmp_path: Path, to_speculators: dict):
    source = edit(heads.speculators(tmp_path / "head"), config={"norm_before_residual": "DELETE"})
    with pytest.raises(InputError, match="norm_before_residual"):
        convert(source, tmp_path / "out", "speculators", ConvertOptions(strict=True))
    for maker in ("specjax", "specforge", "modelopt"):
        convert(
            heads.MAKERS[maker](tmp_path / maker),
            tmp_path / f"{maker}-out",
            "speculators",
            ConvertOptions(**to_speculators),
        )
        assert read(tmp_path / f"{maker}-out")[1]["norm_before_residual"] is False
