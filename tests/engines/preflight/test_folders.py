"""Real folders: what `examine` reads in them, and what `inspect` prints."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import heads, variants
from support.rewriting import edit
from support.versions import LLAMACPP, SGLANG, SGLANG_JAX, TRTLLM, TRTLLM_NEXT, VLLM

from eagle3hub.checkpoint.folder import open_checkpoint
from eagle3hub.conversion.plan import ConvertOptions
from eagle3hub.conversion.run import convert
from eagle3hub.engines.preflight import ExaminedHead, examine, preflight, preflight_all, target_embeddings
from eagle3hub.head.target import read_target
from eagle3hub.layouts import open_head

Cli = Callable[..., tuple[int, str, str]]
V1, V2, SG, CPP = ("vllm", f"{VLLM} V1"), ("vllm", f"{VLLM} V2"), ("sglang", SGLANG), ("llamacpp", LLAMACPP)
T2, JAX = ("trtllm", TRTLLM_NEXT), ("sglang_jax", SGLANG_JAX)


def look(folder: Path, target: Path | None = None) -> ExaminedHead:
    facts = None if target is None else read_target(str(target))
    return examine(open_checkpoint(folder), open_head(folder, target=facts))


@pytest.mark.parametrize("layout", heads.MAKERS)
def test_the_files_alone_tell_the_same_truth_as_the_codec(tmp_path: Path, layout: str):
    folder = heads.MAKERS[layout](tmp_path / "head")
    with_head, alone = look(folder), examine(open_checkpoint(folder))
    assert with_head == alone
    assert with_head.truth.map_fault is None
    assert with_head.truth.map_fits


@pytest.mark.parametrize("layout", heads.MAKERS)
def test_what_we_convert_vllm_reads_right_with_both_runners(tmp_path: Path, target: Path, layout: str):
    source = heads.specjax(tmp_path / "head")
    convert(source, tmp_path / "out", layout, ConvertOptions(target=str(target), speculative_tokens=3))
    subject, facts = look(tmp_path / "out", target), read_target(str(target))
    for engine in (V1, V2, CPP):
        assert preflight(subject, *engine, facts).kind == "right"


@pytest.mark.parametrize(
    ("name", "part", "kinds", "code"),
    [
        ("model.safetensors", None, "R R R R R", None),
        ("model-00001-of-00001.safetensors", None, "R R R R R", None),
        ("eagle3.safetensors", None, "R R R R X", "weights-name"),
        ("pytorch_model.bin", None, "R R R X R", None),
        ("pytorch_model.bin", "state_dict", "X S X X X", "weights-part"),
        ("model.pt", None, "R R X X X", "weights-pt"),
        ("training_state.pt", "draft_state_dict", "X S X X X", "weights-part"),
    ],
)
def test_the_name_and_form_of_the_weights(
    tmp_path: Path, target: Path, name: str, part: str | None, kinds: str, code: str | None
):
    """vLLM, SGLang, TensorRT-LLM, sglang-jax, llama.cpp: each looks for other names, and none into tables."""
    folder = heads.specforge(tmp_path / "head", eagle_config={}, max_position_embeddings=8192)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    if name.endswith(".safetensors"):
        save_file(tensors, folder / name, metadata={"format": "pt"})
    else:
        torch.save(tensors if part is None else {part: tensors, "global_step": 3}, folder / name)
    found = [preflight(look(folder, target), *engine, read_target(str(target))) for engine in (V1, SG, T2, JAX, CPP)]
    assert " ".join({"right": "R", "silently_wrong": "S", "refuses": "X"}[v.kind] for v in found) == kinds
    assert code is None or code in {r.code for v in found for r in v.reasons}


def test_an_index_tells_llamacpp_the_names_of_the_weights(tmp_path: Path, target: Path):
    folder = heads.specforge(tmp_path / "head", eagle_config={}, max_position_embeddings=8192)
    (folder / "model.safetensors").rename(folder / "eagle3.safetensors")
    index = {"weight_map": dict.fromkeys(load_file(folder / "eagle3.safetensors"), "eagle3.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert preflight(look(folder, target), *CPP, read_target(str(target))).kind == "right"


@pytest.mark.parametrize("source", ["specjax", "specforge", "modelopt", "speculators"])
def test_the_universal_layout_is_right_on_every_engine(tmp_path: Path, target: Path, source: str):
    convert(heads.MAKERS[source](tmp_path / "head"), tmp_path / "out", "universal", ConvertOptions(target=str(target)))
    subject, facts = look(tmp_path / "out", target), read_target(str(target))
    found = {v.title: v.kind for v in preflight_all(subject, facts)}
    assert found.pop("sglang-jax 0.0.2") == "refuses"
    assert set(found.values()) == {"right"}, found


def test_a_pickle_called_safetensors_is_refused_by_every_engine(tmp_path: Path):
    folder = heads.specjax(tmp_path / "head")
    torch.save(load_file(folder / "model.safetensors"), folder / "model.safetensors")
    subject = examine(open_checkpoint(folder))
    assert subject.files.mislabelled == ("model.safetensors",)
    assert {v.kind for v in preflight_all(subject)} == {"refuses"}


def test_fc_columns_in_another_order_are_wrong_everywhere(tmp_path: Path, target: Path):
    ids = {"use_aux_hidden_state": True, "eagle_aux_hidden_state_layer_ids": [26, 1, 14]}
    subject = look(heads.specforge(tmp_path / "head", eagle_config=ids), target)
    assert subject.truth.boundaries == (27, 2, 15)
    verdict = preflight(subject, *V2, read_target(str(target)))
    assert (verdict.kind, verdict.reasons[0].code) == ("silently_wrong", "aux-order")


def test_taps_that_only_the_trainer_knows_are_held_against_the_engines_default(tmp_path: Path):
    unusual = heads.target(tmp_path / "t", model_type="qwen3_next", num_hidden_layers=48)
    subject = look(heads.specjax(tmp_path / "head"), unusual)
    verdict = preflight(subject, *V1, read_target(str(unusual)))
    assert verdict.kind == "silently_wrong"
    assert "2, 24, 45 instead of 4, 24, 48" in verdict.reasons[0].sentence


def test_norm_output_of_a_specforge_folder_stays_open(tmp_path: Path, target: Path):
    subject = look(heads.specforge(tmp_path / "head", norm_output=True), target)
    assert subject.truth.feedback is None
    verdict = preflight(subject, *V2, read_target(str(target)))
    assert verdict.kind == "unknown"
    assert verdict.reasons[0].code == "feedback-open"


@pytest.mark.parametrize(
    ("model_type", "text", "engine", "kind", "code"),
    [
        ("minimax_m3_vl", "minimax_m3_vl_text", SG, "silently_wrong", "aux-layers"),
        ("minimax_m3", "minimax_m3_vl_text", SG, "right", "aux-agree"),
        ("gemma4", "gemma4_text", T2, "refuses", "target-type"),
        ("gemma4_unified", "gemma4_unified_text", T2, "refuses", "target-type"),
        ("llava", "llama", JAX, "refuses", "target-type"),
    ],
)
def test_an_engine_goes_by_the_target_as_a_whole_and_not_by_its_text_part(
    tmp_path: Path, model_type: str, text: str, engine: tuple[str, str], kind: str, code: str
):
    target = heads.wrapped_target(tmp_path / "target", model_type, text)
    source = heads.specforge(
        tmp_path / "head",
        max_position_embeddings=8192,
        eagle_aux_hidden_state_layer_ids=[2, 15, 27],
        eagle_config={"use_aux_hidden_state": True},
    )
    verdict = preflight(look(source, target), *engine, read_target(str(target)))
    assert (verdict.kind, verdict.reasons[0].code) == (kind, code)


@pytest.mark.parametrize(("stated", "model_type"), [("kimi_k25", "kimi_k25"), (None, "deepseek_v3")])
def test_the_type_of_a_target_is_its_own_and_its_sizes_those_of_its_text_part(
    tmp_path: Path, stated: str | None, model_type: str
):
    facts = read_target(str(heads.wrapped_target(tmp_path / "target", stated, "deepseek_v3", num_hidden_layers=61)))
    assert (facts.model_type, facts.architectures, facts.num_hidden_layers) == (model_type, ("Other",), 61)


@pytest.mark.parametrize(
    ("d2t", "on_vllm", "on_llamacpp"),
    [
        (heads.sorted_ids(heads.dims()), "silently_wrong", "refuses"),
        (torch.zeros(10, dtype=torch.int64), "silently_wrong", "silently_wrong"),
        (torch.full((10,), 1000), "refuses", "refuses"),
        (torch.tensor([5, 4, 3, 2, 1, 0, 0, 0, 0, 0]), "silently_wrong", "refuses"),
    ],
    ids=["absolute", "zeros", "out of range", "the same six times"],
)
def test_wrong_maps(tmp_path: Path, d2t: torch.Tensor, on_vllm: str, on_llamacpp: str):
    folder = heads.specjax(tmp_path / "head", d2t=d2t.to(torch.int32), t2d=None)
    subject, facts = examine(open_checkpoint(folder)), read_target(str(heads.target(tmp_path / "t")))
    assert preflight(subject, *V1, facts).kind == on_vllm
    assert preflight(subject, *CPP, facts).kind == on_llamacpp


@pytest.mark.parametrize(("entries", "code", "on_sglang"), [(9, "d2t-short", "refuses"), (11, "d2t-long", None)])
def test_a_map_of_another_length(tmp_path: Path, entries: int, code: str, on_sglang: str | None):
    """SGLang looks drafted ids up in the map, so it needs no more than its rows."""
    folder = heads.specjax(tmp_path / "head", d2t=torch.zeros(entries, dtype=torch.int32), t2d=None)
    subject, facts = examine(open_checkpoint(folder)), read_target(str(heads.target(tmp_path / "t")))
    effects = {
        engine: {reason.code: reason.effect for reason in preflight(subject, engine, version, facts).reasons}
        for engine, version in (V1, SG)
    }
    assert (effects["vllm"][code], effects["sglang"].get(code)) == ("refuses", on_sglang)


def test_a_map_of_another_length_under_the_masks_name_is_told_from_another_heads(tmp_path: Path):
    folder = heads.specforge(tmp_path / "head")
    tensors = variants.tensors_of(folder)
    hints = []
    for swapped in ({"d2t": tensors["t2d"], "t2d": tensors["d2t"]}, {"d2t": tensors["t2d"]}):
        variants.replace(folder, **swapped)
        reasons = preflight(look(folder), *V1, read_target(str(heads.target(tmp_path / str(len(hints)))))).reasons
        hints += [reason.hint for reason in reasons if reason.code == "d2t-long"]
        variants.replace(folder, **tensors)
    assert hints == [
        "--repair swapped of eagle3hub convert gives d2t and t2d each other's names",
        "the two belong to different heads: export the head again",
    ]


def test_what_says_how_weights_are_quantized_may_lie_beside_the_config(tmp_path: Path):
    folder = edit(variants.quantized(tmp_path / "head", "FP8"), config={"quantization_config": None})
    assert look(folder).files.says_quantized == "hf_quant_config.json"
    (folder / "hf_quant_config.json").unlink()
    subject = look(folder)
    assert (subject.files.says_quantized, subject.truth.quantized) == (None, True)


def test_a_window_that_no_trainer_of_the_layout_obeys_is_none(tmp_path: Path, target: Path):
    folder = heads.universal(tmp_path / "head", layer_types=["sliding_attention"], sliding_window=16)
    subject, facts = look(folder, target), read_target(str(target))
    assert not subject.truth.sliding_window
    assert preflight(subject, *V2, facts).kind == "silently_wrong"
    assert preflight(subject, *SG, facts).kind == "right"


def test_a_map_under_a_prefix_is_found_and_lm_head_is_not(tmp_path: Path):
    folder = variants.renamed(heads.universal(tmp_path / "head", tie_word_embeddings=True), "model.{}".format)
    subject = look(folder)
    assert subject.truth.map_fits
    codes = {r.code for r in preflight(subject, *SG).reasons if r.effect == "silently_wrong"}
    assert codes == {"lm-head-prefix", "tied"}


def test_maps_that_disagree_are_doubtful_not_wrong(tmp_path: Path):
    other = torch.ones(40, dtype=torch.bool)
    subject = examine(open_checkpoint(heads.specjax(tmp_path / "head", t2d=other)))
    assert subject.truth.map_doubt == "t2d-count"
    assert subject.truth.map_fault is None


def test_a_folder_no_codec_reads_is_judged_all_the_same(tmp_path: Path):
    folder = heads.specjax(tmp_path / "head", **{"midlayer.hidden_norm.weight": None})
    verdict = preflight(examine(open_checkpoint(folder)), *V1)
    assert verdict.kind == "silently_wrong"
    assert "layers.0.hidden_norm.weight" in verdict.reasons[0].sentence


@pytest.mark.parametrize(("value", "kind"), [(1.0, "right"), (2.0, "silently_wrong"), (None, "unknown")])
def test_embeddings_are_compared_with_those_of_the_target(tmp_path: Path, value: float | None, kind: str):
    source = heads.speculators(tmp_path / "speculators", embeddings=True)
    convert(source, tmp_path / "head", "specforge")
    target = heads.target(tmp_path / "target", max_position_embeddings=4096)
    if value is not None:
        same = torch.full((40, 8), value, dtype=torch.bfloat16)
        save_file({"model.embed_tokens.weight": same}, target / "model.safetensors")
    facts = read_target(str(target))
    head = open_head(tmp_path / "head", target=facts)
    opened = target_embeddings(head, str(target))
    assert (opened is None) == (value is None)
    verdict = preflight(examine(open_checkpoint(tmp_path / "head"), head, opened), *SG, facts)
    assert verdict.kind == kind
    assert preflight(examine(open_checkpoint(tmp_path / "head"), head, opened), *V1, facts).kind == "right"


def test_inspect_names_every_engine_in_json(example_head: Path, tmp_path: Path, cli: Cli):
    fits = heads.target(tmp_path / "t", heads.dims(hidden=576, vocab=49152))
    status, out, err = cli("inspect", example_head, "--target", fits, "--json")
    engines = {(e["engine"], e["version"]): e for e in json.loads(out)["engines"]}
    assert (status, err) == (0, "")
    assert engines[V1]["verdict"] == engines[V2]["verdict"] == "right"
    assert engines[SG]["verdict"] == "refuses"
    assert {r["code"] for r in engines[SG]["reasons"]} == {"architecture-plain", "context", "aux-agree"}
    for engine in engines.values():
        assert {"engine", "version", "title", "verdict", "reasons"} == set(engine) - {"note"}
        for reason in engine["reasons"]:
            assert {"code", "effect", "sentence", "source", "hint"} == set(reason)


def test_inspect_prints_one_line_per_engine(tmp_path: Path, target: Path, cli: Cli):
    source = edit(heads.modelopt(tmp_path / "head"), config={"mlp_bias": False})
    status, out, _ = cli("inspect", source, "--target", target)
    assert status == 0
    lines = {line.split("  ")[0]: line for line in out.splitlines()}
    assert "! silently wrong" in lines[f"vLLM {VLLM} V1 (CPU)"]
    assert "takes boundary ids 1, 14, 26 instead of 2, 15, 27, one too early" in lines[f"vLLM {VLLM} V1 (CPU)"]
    assert "✓ right" in lines[f"vLLM {VLLM} V2 (GPU)"]
    assert "✗ refuses" in lines[f"TensorRT-LLM {TRTLLM}"]
    assert len([line for line in out.splitlines() if line.strip()]) <= 24
    _, out, _ = cli("inspect", source)
    assert "? unknown" in out


def test_inspect_has_a_line_for_every_contract(example_head: Path, cli: Cli):
    _, out, _ = cli("inspect", example_head)
    for verdict in preflight_all(look(example_head)):
        assert verdict.title in out


def test_a_norm_that_config_and_training_disagree_about_is_said_as_it_is(tmp_path: Path, cli: Cli):
    """SpecJAX trains without norm_before_residual, even if a config says otherwise."""
    fixtures = Path(__file__).parents[2] / "fixtures/exporters"
    folder = tmp_path / "head"
    shutil.copytree(fixtures / "specjax-saved/head", folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "norm_before_residual": True}))
    status, out, _ = cli("inspect", folder, "--target", fixtures / "target", "--json")
    assert status == 0
    engines = {(e["engine"], e["version"]): e for e in json.loads(out)["engines"]}
    for engine in (V1, V2, CPP):
        assert engines[engine]["verdict"] == "silently_wrong"
        (said,) = (r for r in engines[engine]["reasons"] if r["code"].startswith("norm-before-residual"))
        assert said["code"] == "norm-before-residual-stated"
        assert "because of norm_before_residual: true" in said["sentence"]
    assert not any(r["code"].startswith("norm-before") for r in engines[SG]["reasons"])


@pytest.mark.parametrize(
    ("name", "called"),
    [("Mistral-7B-Eagle3", "mistral"), ("eagle3/mistral", "mistral"), ("Mistral-Small-4-head", "mistral-small-4")],
)
def test_sglang_takes_a_path_of_mistral_for_its_own_format(tmp_path: Path, name: str, called: str):
    tmp_path.joinpath(name).parent.mkdir(exist_ok=True)
    source = heads.universal(tmp_path / name)
    for verdict in preflight_all(look(source)):
        found = next((r for r in verdict.reasons if r.code == "mistral-name"), None)
        assert (found is not None) == (verdict.engine == "sglang"), verdict
        if found is not None:
            assert verdict.kind == "refuses"
            assert found.hint == f"serve it under a path without {called}"
    source.rename(tmp_path / "mistral-head")
    assert "mistral-name" not in {r.code for v in preflight_all(look(tmp_path / "mistral-head")) for r in v.reasons}
