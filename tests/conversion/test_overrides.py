"""What the user says of a source: it decides what is written, is recorded, and is refused where it has no bearing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from support import heads, variants
from support.folders import load, replace
from support.variants import Has

AUX = "eagle_aux_hidden_state_layer_ids"


def without(source: Path, *keys: str, **changes: object) -> Path:
    config = json.loads((source / "config.json").read_text())
    config = {k: v for k, v in {**config, **changes}.items() if k not in keys}
    (source / "config.json").write_text(json.dumps(config))
    return source


@pytest.mark.parametrize(
    ("options", "boundary"),
    [
        (["--aux-layers", "1,14,26"], [2, 15, 27]),
        (["--aux-layers", "1,14,26", "--aux-convention", "after"], [2, 15, 27]),
        (["--aux-layers", "1,14,26", "--aux-convention", "boundary"], [1, 14, 26]),
        (["--num-target-layers", "30"], [2, 15, 27]),
        (["--num-target-layers", "36"], [2, 18, 33]),
    ],
)
def test_aux_layers(tmp_path: Path, ok, refused, options: list[str], boundary: list[int]):
    source = without(heads.specforge(tmp_path / "head"), "eagle_config")
    assert "names its aux layers" in refused(source, "modelopt")
    document, _, config = ok(source, "modelopt", *options)
    assert config[AUX] == boundary
    assert config["eagle_config"][AUX] == [i - 1 for i in boundary]
    assert [c["name"] for c in document["repairs"]] == [options[0].removeprefix("--")]


@pytest.mark.parametrize(
    ("options", "status"),
    [
        (["--aux-layers", "1,14"], 3),
        (["--aux-layers", "1,1,26"], 3),
        (["--aux-layers", "-1,14,26"], 3),
        (["--aux-layers", "0,14,26", "--aux-convention", "boundary"], 3),
        (["--aux-layers", "one"], 2),
        (["--aux-layers", "1,14,26", "--aux-convention", "middle"], 2),
        (["--aux-convention", "after"], 2),
        (["--num-target-layers", "0"], 2),
        (["--num-target-layers", "5"], 3),
    ],
)
def test_aux_layers_that_make_no_sense(tmp_path: Path, refused, options: list[str], status: int):
    refused(without(heads.specforge(tmp_path / "head"), "eagle_config"), "specforge", *options, status=status)


def test_a_depth_that_contradicts_the_target(tmp_path: Path, refused, target: Path):
    source = heads.specjax(tmp_path / "head")
    said = refused(source, "specforge", "--target", target, "--num-target-layers", 40, status=2)
    assert "has 30 layers" in said


@pytest.mark.parametrize("place", ["config", "flag"])
def test_aux_layers_in_another_order_are_sorted_with_their_columns(tmp_path: Path, ok, refused, needs, place: str):
    order = {"use_aux_hidden_state": True, AUX: [14, 26, 1]}
    source = heads.specforge(tmp_path / "head", **({"eagle_config": order} if place == "config" else {}))
    said = ["--aux-layers", "14,26,1"] if place == "flag" else []
    assert "--sort-aux" in refused(source, "specforge", *said)
    document, tensors, config = ok(source, "specforge", *said, "--sort-aux")
    fc = load(source)["fc.weight"]
    assert torch.equal(tensors["fc.weight"], torch.cat([fc[:, 16:], fc[:, :16]], dim=1))
    assert (config[AUX], config["eagle_config"][AUX]) == ([2, 15, 27], [1, 14, 26])
    assert document["repairs"][-1]["name"] == "sort-aux"
    _, _, config = ok(tmp_path / "out", "speculators", *needs, name="on")
    assert config[AUX] == [2, 15, 27]
    assert "already" in refused(tmp_path / "out", "specforge", "--sort-aux")


@pytest.fixture
def needs(target: Path) -> list[str]:
    """What --to speculators cannot do without."""
    return ["--target", str(target), "--speculative-tokens", "3"]


@pytest.mark.parametrize(("word", "written"), [("pre", False), ("post", True)])
def test_norm_output(tmp_path: Path, ok, refused, needs, word: str, written: bool):
    source = heads.specforge(tmp_path / "head", norm_output=True)
    assert "--norm-output" in refused(source, "speculators", *needs)
    document, _, config = ok(source, "speculators", *needs, "--norm-output", word)
    assert config["norm_output"] is written
    assert [c["name"] for c in document["repairs"]] == ["norm-output"]
    refused(source, "speculators", *needs, "--norm-output", "both", status=2)


@pytest.mark.parametrize("to", ["specforge", "modelopt"])
def test_rope_theta(tmp_path: Path, ok, refused, to: str):
    source = heads.specforge(tmp_path / "head")
    document, _, config = ok(source, to, "--rope-theta", "500000")
    assert config["rope_theta"] == 500000
    assert config.get("rope_parameters", {"rope_theta": 500000})["rope_theta"] == 500000
    assert [c["name"] for c in document["repairs"]] == ["rope-theta"]
    for wrong in ("0", "-1", "nan", "inf"):
        assert "--rope-theta" in refused(source, to, "--rope-theta", wrong, status=2)


def test_rope_theta_settles_the_assumption(tmp_path: Path, ok, refused):
    source = without(heads.specforge(tmp_path / "head"), "rope_theta")
    assert "rope_theta" in refused(source, "specforge", "--strict")
    document, _, _ = ok(source, "specforge", "--strict", "--rope-theta", "100000")
    assert document["assumptions"] == []


def test_mask_token_id(tmp_path: Path, ok, refused):
    source = heads.speculators(tmp_path / "head", embeddings=True, speculators_model_type="peagle")
    replace(source, mask_hidden=torch.zeros(1, 1, 24, dtype=torch.bfloat16))
    document, _, config = ok(source, "speculators", "--mask-token-id", "7")
    assert config["mask_token_id"] == 7
    assert [c["name"] for c in document["repairs"]] == ["mask-token-id"]
    plain = heads.specforge(tmp_path / "plain")
    assert "does not draft in parallel" in refused(plain, "specforge", "--mask-token-id", "7", status=2)


def test_drop(tmp_path: Path, ok, refused):
    source = replace(heads.specforge(tmp_path / "head"), **{"target_model.norm.weight": torch.ones(8)})
    assert "--drop target_model.norm.weight" in refused(source, "specforge")
    document, tensors, _ = ok(source, "specforge", "--drop", "target_model.norm.weight")
    assert "target_model.norm.weight" not in tensors
    (change,) = document["repairs"]
    assert change["tensors"] == ["target_model.norm.weight"]
    assert "holds no absent" in refused(source, "specforge", "--drop", "absent", status=2)
    left = refused(source, "specforge", "--drop", "target_model.norm.weight", "--drop", "fc.weight")
    assert "fc.weight" in left


@pytest.mark.parametrize(
    ("name", "instead"),
    [("embed_tokens.weight", "--drop-embeddings"), ("fc.bias", "leave"), ("d2t", "--repair"), ("t2d", "--d2t")],
)
@pytest.mark.parametrize("prefix", ["", "model."])
def test_what_belongs_to_the_head_is_not_dropped(tmp_path: Path, refused, name: str, instead: str, prefix: str):
    has = Has(embeddings=name == "embed_tokens.weight", fc_bias=name == "fc.bias")
    source = variants.specforge(tmp_path / "x", has=has)
    variants.renamed(source, lambda n: prefix + n, {"format": "pt"})
    for strict in ((), ("--strict",)):
        said = refused(source, "specforge", "--drop", prefix + name, *strict)
        assert (said.startswith("refused-drop"), instead in said.rpartition("/")[2]) == (True, True)


def test_scales_of_a_quantized_head_are_not_dropped(tmp_path: Path, refused):
    source = variants.quantized(tmp_path / "x", "FP8")
    for name in ("layers.0.self_attn.k_proj.k_scale", "fc.input_scale"):
        assert "refused-drop" in refused(source, "modelopt", "--drop", name)


def test_one_of_two_spellings_of_a_tensor_can_be_dropped(tmp_path: Path, ok, refused):
    source = variants.specforge(tmp_path / "x", has=Has(fc_norm=True))
    replace(source, **{"aux_norm_low.weight": torch.ones(8)})
    assert "--drop" in refused(source, "specforge")
    for name in ("aux_norm_low.weight", "fc_norm.0.weight"):
        _, tensors, _ = ok(source, "specforge", "--drop", name, name=name)
        assert len(tensors) == 18


def test_allow_suspicious(tmp_path: Path, ok, refused):
    source = heads.speculators(tmp_path / "head", speculators_version="0.3.0")
    norms = ("input_layernorm", "hidden_norm", "post_attention_layernorm")
    replace(source, **{f"layers.0.{n}.weight": torch.ones(8, dtype=torch.bfloat16) for n in norms})
    assert "tensor-suspicious" in refused(source, "modelopt")
    document, _, _ = ok(source, "modelopt", "--allow-suspicious")
    assert [c["name"] for c in document["repairs"]] == ["allow-suspicious"]
    assert "tensor-suspicious" in {p["code"] for p in document["problems"]}
