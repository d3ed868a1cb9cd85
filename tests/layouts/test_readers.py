"""Layouts that are read and not written: TorchSpec, NeMo Automodel, and flat folders of no known trainer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from support import heads, variants
from support.variants import Has, config_of, edit, replace, tensors_of

from eagle3hub import InspectOptions, inspect
from eagle3hub.conversion.edits import Transforms
from eagle3hub.conversion.plan import ConvertOptions
from eagle3hub.conversion.run import convert
from eagle3hub.errors import InputError, Refusal, UsageError
from eagle3hub.head import Head
from eagle3hub.head.aux_defaults import AUX_IDS
from eagle3hub.layouts import LAYOUTS, READERS, ReadOptions, open_head
from eagle3hub.layouts.base import FEATURES
from eagle3hub.layouts.tensors import several

NEVER_PREFIXED = {"lm_head.weight", "d2t", "t2d", "mask_hidden"}


def torchspec(folder: Path, d: dict[str, int] | None = None, **config: Any) -> Path:
    """A head of TorchSpec's before its exports said so: own embeddings, and no map for the full vocabulary."""
    d = d or heads.dims(draft=heads.DIMS["vocab"])
    tensors = {**heads.weights(d), "embed_tokens.weight": torch.randn(d["vocab"], d["hidden"]).to(torch.bfloat16)}
    extra = {"architectures": ["LlamaForCausalLMEagle3"], "hidden_act": "silu", "max_position_embeddings": 4096}
    return heads.write(folder, tensors, {**heads.flat_config(d), **extra, **config}, {"format": "pt"})


def nemo(folder: Path, *, buffers: bool = True, **config: Any) -> Path:
    """A head as NeMo Automodel saves one: its config is the target's, its names begin with model. but for a few."""
    d = heads.dims()
    tensors = variants.weights(d, Has(embeddings=True))
    if buffers:
        tensors |= heads.buffers(heads.sorted_ids(d).flip(0), d["vocab"])
    named = {n if n in NEVER_PREFIXED else f"model.{n}": t for n, t in tensors.items()}
    extra = {
        "architectures": ["LlamaEagle3DraftModel"],
        "model_type": "qwen3",
        "num_hidden_layers": heads.TARGET_LAYERS,
        "hidden_act": "silu",
        "max_position_embeddings": 4096,
        "target_hidden_size": d["hidden"],
        "fc_norm": False,
        "norm_output": False,
        "parallel_drafting": False,
    }
    return heads.write(folder, named, {**heads.flat_config(d), **extra, **config}, {"format": "pt"})


def flat(folder: Path, **config: Any) -> Path:
    """A head under a class that vLLM registers and no trainer writes."""
    return heads.specforge(folder, architectures=["Eagle3MiniMaxM2ForCausalLM"], **config)


MAKERS = {"torchspec": torchspec, "nemo": nemo, "flat": flat}


@pytest.mark.parametrize("layout", sorted(set(READERS) - set(LAYOUTS)))
def test_it_is_detected_read_and_written_in_other_layouts_only(tmp_path: Path, layout: str):
    source, target = MAKERS[layout](tmp_path / "x"), heads.target(tmp_path / "target")
    head = open_head(source, target=target)
    assert head.layout == layout
    assert [p for p in head.problems if p.severity == "error"] == []
    convert(source, tmp_path / "out", "speculators", ConvertOptions(target=str(target), speculative_tokens=3))
    back = open_head(tmp_path / "out", target=target)
    assert same(head, back)
    with pytest.raises(UsageError, match=rf"the layout {layout} .* is read, not written") as refused:
        convert(source, tmp_path / "no", layout)
    assert "speculators" in str(refused.value.hint)
    assert not (tmp_path / "no").exists()


def same(a: Head, b: Head) -> bool:
    assert (a.dims, a.semantics, a.aux and a.aux.taps) == (b.dims, b.semantics, b.aux and b.aux.taps)
    assert (a.vocab_map and a.vocab_map.target_id) == (b.vocab_map and b.vocab_map.target_id)
    return set(a.tensors) == set(b.tensors)


@pytest.mark.parametrize("layout", sorted(set(READERS) - set(LAYOUTS)))
def test_contracts_of_readers_speak_of_features_there_are(layout: str):
    contract, names = READERS[layout].contract, {feature.name for feature in FEATURES}
    assert contract.expresses <= names
    assert set(contract.cannot) <= names - contract.expresses
    assert (bool(contract.reads), contract.writes) == (True, "")


# TorchSpec


def test_marks_of_torchspec_outweigh_the_form_of_another(tmp_path: Path):
    d = heads.dims()
    plain = heads.specforge(tmp_path / "specforge")
    assert open_head(plain).layout == "specforge"
    assert open_head(edit(plain, _torchspec_version="0.1.0")).layout == "torchspec"
    marked = heads.specforge(tmp_path / "header")
    save_file(tensors_of(marked), marked / "model.safetensors", metadata={"torchspec_version": "0.1.0"})
    assert open_head(marked).layout == "torchspec"
    pruned = torchspec(tmp_path / "pruned", d)
    save_file({**tensors_of(pruned), **heads.buffers(heads.sorted_ids(d), d["vocab"])}, pruned / "model.safetensors")
    assert open_head(pruned).layout == "torchspec"  # with a map, but without the metadata that SpecForge writes


def test_modelopt_exports_no_embeddings(tmp_path: Path):
    """Without a map and with embeddings, the header's metadata tell TorchSpec from NVIDIA's early heads."""
    source = torchspec(tmp_path / "x")
    save_file(tensors_of(source), source / "model.safetensors")
    assert open_head(source).layout == "modelopt"


def pruned(folder: Path, *, by_offset: bool) -> Path:
    """A head whose lm_head has some rows of a full one, and a map with runs of equal offsets."""
    d = heads.dims()
    ids = torch.tensor([3, 4, 5, 9, 10, 11, 20, 21, 30, 31])
    rows = ids - torch.arange(10) if by_offset else ids
    full = torch.randn(d["vocab"], d["hidden"]).to(torch.bfloat16)
    source = torchspec(folder, d, _torchspec_version="0.1.0")
    return replace(source, **heads.buffers(ids, d["vocab"]), **{"lm_head.weight": full[rows].contiguous()})


def test_rows_that_were_picked_by_offset_are_an_error(tmp_path: Path):
    right, wrong = (pruned(tmp_path / str(by_offset), by_offset=by_offset) for by_offset in (False, True))
    assert open_head(right).vocab_status == "ok"
    open_head(right).raise_for_errors()
    with pytest.raises(InputError, match="rows of lm_head repeat wherever d2t does") as refused:
        open_head(wrong).raise_for_errors()
    assert refused.value.code == "tensor-suspicious"
    open_head(wrong, options=ReadOptions(allow_suspicious=True)).raise_for_errors()


def with_embeddings(folder: Path, table: torch.Tensor) -> Path:
    """A target whose weights lie in the folder."""
    target = heads.target(folder)
    save_file({"model.embed_tokens.weight": table}, target / "model.safetensors")
    return target


def of_vllm_and_sglang(source: Path, target: Path | None) -> tuple[dict[str, set[str]], set[str]]:
    """What is said of a head for vLLM and SGLang: kinds of verdict by engine; codes of reasons and of problems."""
    found = inspect(str(source), InspectOptions(target=None if target is None else str(target)))
    kinds = {e: {v.kind for v in found.engines if v.engine == e} for e in ("vllm", "sglang")}
    return kinds, {r.code for v in found.engines for r in v.reasons} | {p.code for p in found.problems}


@pytest.mark.parametrize("marked", [False, True], ids=["before April 2026", "since"])
def test_embeddings_that_an_old_export_of_torchspec_made_up(tmp_path: Path, marked: bool):
    """The trainer uses the target's, which is known to be copied since exports say their version."""
    mark = {"_torchspec_version": "0.1.0"} if marked else {}
    source = torchspec(tmp_path / "x", max_position_embeddings=8192, **mark)
    other = with_embeddings(tmp_path / "other", torch.randn(40, 8).to(torch.bfloat16))
    same = with_embeddings(tmp_path / "same", tensors_of(source)["embed_tokens.weight"])
    options = {"speculative_tokens": 3, "target_name": "org/t"}

    kinds, codes = of_vllm_and_sglang(source, same)
    assert (kinds["vllm"], codes & {"embedding-foreign", "tensor-embeddings-unsure"}) == ({"depends"}, set())
    kinds, codes = of_vllm_and_sglang(source, None)
    assert (kinds, "tensor-embeddings-unsure" in codes) == ({"vllm": {"depends"}, "sglang": {"unknown"}}, not marked)
    kinds, codes = of_vllm_and_sglang(source, other)
    if marked:
        assert codes & {"embedding-differs", "embedding-foreign"} == {"embedding-differs"}, "another target"
    else:
        assert (kinds["vllm"], kinds["sglang"]) == ({"silently_wrong"}, {"depends"})
        assert {"embedding-foreign", "tensor-embeddings-foreign"} <= codes
        with pytest.raises(Refusal, match="is not the target's, with which TorchSpec trains") as refused:
            convert(source, tmp_path / "no", "universal", ConvertOptions(target=str(other), **options))
        assert refused.value.code == "refused-embeddings-foreign"
        dropped = ConvertOptions(target=str(other), transforms=Transforms(drop_embeddings=True), **options)
        convert(source, tmp_path / "out", "speculators", dropped)
        assert "embed_tokens.weight" not in tensors_of(tmp_path / "out")
        as_flat = ConvertOptions(target=str(other), layout="flat", **options)
        convert(source, tmp_path / "kept", "speculators", as_flat)
        assert "embed_tokens.weight" in tensors_of(tmp_path / "kept"), "a head of another trainer keeps its own"
    convert(source, tmp_path / "left", "universal", ConvertOptions(target=str(same), **options))
    assert "embed_tokens.weight" not in tensors_of(tmp_path / "left")


# NeMo Automodel


def test_a_config_that_is_the_targets_makes_one_layer(tmp_path: Path):
    source = nemo(tmp_path / "x", layer_types=["sliding_attention"] * heads.TARGET_LAYERS, sliding_window=128)
    head = open_head(source)
    assert (head.semantics.num_layers, head.semantics.sliding_window, head.semantics.qk_norm) == (1, None, False)
    assert {p.code for p in head.problems} >= {"config-layers", "config-sliding-ignored"}
    target = heads.target(tmp_path / "target")
    convert(source, tmp_path / "out", "speculators", ConvertOptions(target=str(target), speculative_tokens=3))
    layer = config_of(tmp_path / "out")["transformer_layer_config"]
    assert (layer["num_hidden_layers"], layer["model_type"]) == (1, "llama")


@pytest.mark.parametrize("name", ["eagle_meta.pt", "eagle3_meta.pt"])
@pytest.mark.parametrize("below", ["", "model", "model/consolidated"])
def test_the_map_may_lie_beside_the_weights(tmp_path: Path, name: str, below: str):
    """Absolute ids, in a pickle whose code is not run; ``below``: where the weights lie in a checkpoint."""
    ids = heads.sorted_ids(heads.dims()).flip(0)
    source = nemo(tmp_path / "epoch_1_step_2" / below if below else tmp_path / "x", buffers=False)
    assert [p.code for p in open_head(source).problems if p.severity == "error"] == ["vocab-missing"]
    with pytest.raises(InputError, match=r"NeMo Automodel keeps it in eagle_meta\.pt") as refused:
        open_head(source).raise_for_errors()
    assert "--d2t" in str(refused.value.hint)
    place = source if not below else tmp_path / "epoch_1_step_2"
    mask = torch.zeros(heads.DIMS["vocab"], dtype=torch.bool)
    state = {"global_step": 2, "epoch": 1, "selected_token_ids": ids, "selected_token_mask": mask}
    torch.save(state, place / name)
    head = open_head(source)
    head.raise_for_errors()
    assert head.vocab_map is not None
    assert list(head.vocab_map.target_id) == ids.tolist()
    assert "vocab-beside" in {p.code for p in head.problems}
    target = heads.target(tmp_path / "target")
    convert(source, tmp_path / "out", "speculators", ConvertOptions(target=str(target), speculative_tokens=3))
    assert tensors_of(tmp_path / "out")["d2t"].tolist() == (ids - torch.arange(len(ids))).tolist()


def test_the_map_of_a_checkpoint_can_be_given(tmp_path: Path):
    ids = heads.sorted_ids(heads.dims()).flip(0)
    source = nemo(tmp_path / "x", buffers=False)
    torch.save({"epoch": 1, "selected_token_ids": ids, "other": torch.ones(3)}, tmp_path / "meta.pt")
    options = ConvertOptions(
        target=str(heads.target(tmp_path / "target")),
        speculative_tokens=3,
        transforms=Transforms(d2t=tmp_path / "meta.pt"),
    )
    convert(source, tmp_path / "out", "speculators", options)
    assert tensors_of(tmp_path / "out")["d2t"].tolist() == (ids - torch.arange(len(ids))).tolist()


def test_a_map_in_the_weights_outweighs_the_one_beside(tmp_path: Path):
    source = nemo(tmp_path / "x")
    torch.save({"selected_token_ids": torch.arange(10)}, source / "eagle_meta.pt")
    head = open_head(source)
    assert head.vocab_map is not None
    assert list(head.vocab_map.target_id) == heads.sorted_ids(heads.dims()).flip(0).tolist()


def test_what_serve_vllm_makes_is_known_by_its_fields(tmp_path: Path):
    source = variants.renamed(nemo(tmp_path / "x"), lambda n: n.removeprefix("model."), {"format": "pt"})
    assert open_head(edit(source, architectures=["LlamaForCausalLMEagle3"])).layout == "nemo"


def test_nemo_trains_with_both_kinds_of_feedback(tmp_path: Path):
    assert open_head(nemo(tmp_path / "pre")).semantics.feedback == "pre_norm"
    post = open_head(nemo(tmp_path / "post", norm_output=True))
    assert (post.semantics.feedback, [p for p in post.problems if p.severity == "error"]) == ("post_norm", [])


def test_some_names_with_model_are_nemos_and_others_are_mixed(tmp_path: Path):
    source = nemo(tmp_path / "x")
    assert open_head(source).tensors["fc.weight"].name == "model.fc.weight"
    variants.renamed(source, lambda n: "norm.weight" if n == "model.norm.weight" else n)
    with pytest.raises(InputError, match="some names begin with model"):
        open_head(source)
    variants.renamed(nemo(tmp_path / "y"), lambda n: "model.d2t" if n == "d2t" else n)
    with pytest.raises(InputError, match="some names begin with model"):
        open_head(tmp_path / "y")


# No known trainer


@pytest.mark.parametrize(
    "change",
    [
        {"architectures": ["Eagle3MiniMaxM2ForCausalLM"]},
        {"architectures": ["Eagle3LlamaForCausalLM"], "t2d": None, "d2t": "I32"},
        {"architectures": ["LlamaForCausalLMEagle3"], "t2d": None, "d2t": "I32"},
    ],
)
def test_no_trainer_is_named_where_its_marks_are_not(tmp_path: Path, change: dict[str, Any]):
    source = heads.specforge(tmp_path / "x", architectures=change["architectures"])
    if "t2d" in change:
        replace(source, {"format": "pt"}, t2d=None, d2t=tensors_of(source)["d2t"].to(torch.int32))
    head = open_head(source)
    assert head.layout == "flat"
    doubted = {a.field for a in head.assumptions}
    assert AUX_IDS in doubted  # its ids stand in eagle_config only, and their numbering is a trainer's
    told = open_head(source, options=ReadOptions(aux_layers=(1, 14, 26)))
    assert AUX_IDS not in {a.field for a in told.assumptions}
    boundary = open_head(edit(source, eagle_aux_hidden_state_layer_ids=[2, 15, 27]))
    assert AUX_IDS not in {a.field for a in boundary.assumptions}


def test_the_default_layers_of_an_unknown_trainer_are_assumed(tmp_path: Path):
    source = edit(flat(tmp_path / "x"), eagle_config="DELETE")
    head = open_head(source, target=heads.target(tmp_path / "target"))
    assert [a.field for a in head.assumptions] == ["aux"]
    assert head.aux is not None
    assert head.aux.after_layer == [1, 14, 26]


def test_q_and_k_norms_tell_a_head_without_a_trainer(tmp_path: Path):
    d = heads.dims()
    source = heads.specforge(tmp_path / "x", architectures=["Eagle3Qwen3ForCausalLM"], model_type="qwen3")
    norms = {f"midlayer.self_attn.{x}_norm.weight": torch.rand(d["head_dim"]).to(torch.bfloat16) for x in "qk"}
    save_file({**tensors_of(source), **norms}, source / "model.safetensors", metadata={"format": "pt"})
    head = open_head(source)
    assert (head.layout, head.semantics.qk_norm) == ("flat", True)
    edit(source, architectures=["LlamaForCausalLMEagle3"])  # SpecForge's own name, which it never has norms under
    assert open_head(source).layout == "flat"


def test_deepspec_lists_its_layers_under_a_key_of_its_own(tmp_path: Path):
    """Query and key norms, five taps: vLLM's V2 runner reads the list as after-layer ids."""
    d = heads.dims(aux=5)
    source = heads.specforge(tmp_path / "x", d, architectures=["Eagle3Qwen3ForCausalLM"], model_type="qwen3")
    norms = {f"midlayer.self_attn.{x}_norm.weight": torch.rand(d["head_dim"]).to(torch.bfloat16) for x in "qk"}
    save_file({**tensors_of(source), **norms}, source / "model.safetensors", metadata={"format": "pt"})
    head = open_head(edit(source, eagle_config="DELETE", target_layer_ids=[1, 7, 13, 19, 25]))
    assert head.aux is not None
    assert (head.layout, head.aux.after_layer, head.aux.origin) == ("flat", [1, 7, 13, 19, 25], "config")
    assert AUX_IDS in {a.field for a in head.assumptions}


def test_angelslim_is_known_by_a_field_of_its_configs(tmp_path: Path):
    source = heads.specforge(tmp_path / "x", target_model_type="qwen3", eagle_config="DELETE")
    head = open_head(edit(source, eagle_config="DELETE"))
    assert (head.layout, [a.field for a in head.assumptions if a.field == "rope_theta"]) == (
        "angelslim",
        ["rope_theta"],
    )
    assert open_head(edit(source, target_model_type="gemma3_text")).layout == "specforge"  # configs/gemma3-1b-eagle3
    assert open_head(edit(source, target_model_type="qwen2_5_vl")).layout == "specforge"  # it has the field there


# Spellings of configs


def test_a_llama4_config_has_two_widths_and_the_tensors_say_which(tmp_path: Path):
    inner = heads.DIMS["inter"]
    for name, widths in {"own": (2 * inner, inner), "other": (inner, 2 * inner)}.items():
        more = {"model_type": "llama4_text", "intermediate_size": widths[0], "intermediate_size_mlp": widths[1]}
        source = heads.modelopt(tmp_path / name, **more)
        assert open_head(source).dims.intermediate_size == inner
        convert(source, tmp_path / f"{name}-out", "specforge")
        assert config_of(tmp_path / f"{name}-out")["intermediate_size"] == inner
        convert(tmp_path / f"{name}-out", tmp_path / f"{name}-back", "modelopt")
        assert config_of(tmp_path / f"{name}-back") == config_of(source)
    with pytest.raises(InputError, match="but the config asks for"):
        open_head(heads.modelopt(tmp_path / "no", intermediate_size=2 * inner, intermediate_size_mlp=inner))


def test_gemma_spells_the_activation_otherwise(tmp_path: Path):
    source = edit(heads.specforge(tmp_path / "x", hidden_activation="gelu_pytorch_tanh"), hidden_act="DELETE")
    head = open_head(source)
    assert head.semantics.hidden_act == "gelu_pytorch_tanh"
    assert "hidden_act" not in {a.field for a in head.assumptions}


SPELLINGS = {
    "LongCat's layers": {"num_hidden_layers": "DELETE", "num_layers": 30},
    "GPT-2's sizes": {"num_hidden_layers": "DELETE", "n_layer": 30, "hidden_size": "DELETE", "n_embd": 8},
    "DBRX's sizes": {"num_hidden_layers": "DELETE", "n_layers": 30, "hidden_size": "DELETE", "d_model": 8},
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize(
    "parts", [(), ("text_config",), ("llm_config",), ("language_config",), ("thinker_config", "text_config")]
)
def test_sizes_of_a_target_under_other_names(tmp_path: Path, spelling: str, parts: tuple[str, ...]):
    target = edit(heads.target(tmp_path / "target"), **SPELLINGS[spelling])
    config = config_of(target)
    for part in reversed(parts):
        config = {part: config, "model_type": "wrapped"}
    (target / "config.json").write_text(json.dumps(config))
    head = open_head(heads.specforge(tmp_path / "x"), target=target)
    assert (head.num_target_layers, [p for p in head.problems if p.severity == "error"]) == (30, [])


def test_a_head_below_the_folder_is_named(tmp_path: Path):
    heads.specforge(tmp_path / "epoch_1" / "model" / "consolidated")
    heads.specforge(tmp_path / "epoch_1" / "other")
    with pytest.raises(InputError, match=r"there is no config\.json") as refused:
        open_head(tmp_path / "epoch_1")
    assert all(str(tmp_path / "epoch_1" / p) in str(refused.value.hint) for p in ("model/consolidated", "other"))


@pytest.mark.parametrize(
    ("names", "said"),
    [("a", "a"), ("ab", "a, b"), ("abc", "a, b, c"), ("abcd", "a, b, c and 1 more"), ("abcdef", "a, b, c and 3 more")],
)
def test_the_first_three_names_stand_for_the_rest(names: str, said: str):
    assert several(list(names)) == said
