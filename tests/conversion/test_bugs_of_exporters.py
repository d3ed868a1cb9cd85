"""Faults that exporters and engines have had, each as a test that fails if this tool had it.

The name of a test is the fault. Where a kind of head has to be kept or refused, a refusal writes nothing and a
conversion keeps every weight: both are right, half of one is not.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import heads
from support.rewriting import WEIGHTS, edit, everywhere, kept_or_refused, read, two_layers

from eagle3hub import compare
from eagle3hub.conversion.plan import ConvertOptions
from eagle3hub.conversion.run import convert
from eagle3hub.errors import InputError
from eagle3hub.layouts import LAYOUTS, open_head

IDS = "eagle_aux_hidden_state_layer_ids"
Q, K = "layers.0.self_attn.q_proj.weight", "layers.0.self_attn.k_proj.weight"


# ModelOpt and Megatron


def test_a_reduced_vocabulary_without_a_map_is_taken_for_the_identity(tmp_path: Path, to_speculators: dict):
    source = edit(heads.modelopt(tmp_path / "head"), drop=("d2t",))
    with pytest.raises(InputError, match="neither d2t nor t2d"):
        convert(source, tmp_path / "out", "speculators", ConvertOptions(**to_speculators))
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
        convert(source, tmp_path / "out", "modelopt", ConvertOptions(target=str(target), strict=True))


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
    convert(source, tmp_path / "fitted", "specforge", ConvertOptions(target=str(target)))
    assert read(tmp_path / "fitted")[1]["max_position_embeddings"] == 8192


def test_the_architecture_stays_that_of_a_plain_llama(tmp_path: Path, to_speculators: dict):
    for name in everywhere(heads.specjax(tmp_path / "head"), tmp_path, **to_speculators) - {"specjax", "safeailab"}:
        assert read(tmp_path / f"to-{name}")[1]["architectures"] != ["LlamaForCausalLM"], "no engine drafts with it"


def test_the_aux_layers_of_a_qwen3_next_target_are_taken_for_the_usual_ones(tmp_path: Path):
    fits = heads.target(tmp_path / "target", model_type="qwen3_next", num_hidden_layers=48)
    source = heads.specjax(tmp_path / "head")
    convert(source, tmp_path / "out", "modelopt", ConvertOptions(target=str(fits)))
    assert read(tmp_path / "out")[1]["eagle_config"][IDS] == [3, 23, 47]
    with pytest.raises(InputError, match="qwen3_next"):
        convert(source, tmp_path / "strict", "modelopt", ConvertOptions(target=str(fits), strict=True))


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
        convert(source, tmp_path / "out", "specforge", ConvertOptions(layout="specforge"))
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
