"""What a config says that its trainer does not do, and what the user says instead."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from support import heads, variants
from support.variants import Has, config_of, edit

from eagle3hub import compare
from eagle3hub.conversion.plan import ConvertOptions
from eagle3hub.conversion.run import convert
from eagle3hub.errors import ConfigError, Refusal
from eagle3hub.head import Rope
from eagle3hub.layouts import ReadOptions, open_head

TRTLLM = "return_hidden_post_norm"


def claiming(folder: Path, layout: str, where: str = "norm_output") -> Path:
    """A head whose config asks for post-norm feedback, which its layout's trainer does not have."""
    source = heads.MAKERS[layout](folder)
    if where == "norm_output":
        return edit(source, norm_output=True)
    return edit(source, eagle_config={**config_of(source)["eagle_config"], TRTLLM: True})


@pytest.mark.parametrize("layout", ["modelopt", "specjax", "safeailab", "angelslim", "specforge"])
def test_norm_output_of_a_trainer_without_it_has_to_be_settled(tmp_path: Path, target: Path, layout: str):
    source = claiming(tmp_path / "head", layout)
    needs = {"target": str(target), "speculative_tokens": 3}
    with pytest.raises(ConfigError, match="norm_output: true") as asked:
        convert(source, tmp_path / "out", layout, ConvertOptions(target=str(target)))
    assert (asked.value.code, "--norm-output pre" in (asked.value.hint or "")) == ("config-norm-output", True)
    pre, post = ReadOptions(norm_output="pre"), ReadOptions(norm_output="post")
    convert(source, tmp_path / "out", layout, ConvertOptions(target=str(target), read=pre))
    assert "norm_output" not in config_of(tmp_path / "out")
    with pytest.raises(Refusal, match="post-norm feedback"):
        convert(source, tmp_path / "refused", layout, ConvertOptions(target=str(target), read=post))
    for said, written in ((pre, False), (post, True)):
        convert(source, tmp_path / f"sp-{written}", "speculators", ConvertOptions(read=said, **needs))
        assert config_of(tmp_path / f"sp-{written}")["norm_output"] is written
    convert(tmp_path / "sp-False", tmp_path / "back", layout)
    assert "norm_output" not in config_of(tmp_path / "back"), "the config it had once is doubtful"


@pytest.mark.parametrize("layout", ["modelopt", "universal"])
def test_the_spelling_of_tensorrt_llm_has_to_be_settled_too(tmp_path: Path, target: Path, layout: str):
    source = claiming(tmp_path / "head", layout, TRTLLM)
    with pytest.raises(ConfigError, match=TRTLLM):
        convert(source, tmp_path / "out", layout, ConvertOptions(target=str(target)))
    convert(source, tmp_path / "out", layout, ConvertOptions(target=str(target), read=ReadOptions(norm_output="pre")))
    assert TRTLLM not in config_of(tmp_path / "out")["eagle_config"]


def test_heads_one_of_which_leaves_its_feedback_open_are_not_called_equal(tmp_path: Path, cli):
    source = heads.modelopt(tmp_path / "head")
    other = claiming(tmp_path / "other", "modelopt")
    assert [(d.where, d.name) for d in compare(source, other).differences] == [("semantics", "feedback")]
    assert compare(other, other).verdict == "equal"
    status, out, _ = cli("diff", source, other)
    assert (status, "norm_output: true" in out) == (1, True)


def test_norm_output_cannot_be_slipped_in(tmp_path: Path, target: Path, cli):
    source = heads.modelopt(tmp_path / "head")
    options = ("--to", "universal", "--target", target, "--set", "norm_output=true")
    status, out, _ = cli("convert", source, tmp_path / "out", *options, "--json")
    assert (status, json.loads(out)["error"]["code"]) == (3, "refused-set")


@pytest.mark.parametrize("layout", ["specforge", "modelopt", "safeailab", "angelslim", "specjax"])
def test_what_settles_the_aux_layers_is_true_as_it_stands(tmp_path: Path, layout: str):
    """The list to paste is in the numbering of the place it is pasted into."""
    model_type = "qwen3_next" if layout == "specjax" else "llama"
    target = str(heads.target(tmp_path / "target", model_type=model_type))
    source = heads.MAKERS[layout](tmp_path / "head")
    edit(source, eagle_config="DELETE", eagle_aux_hidden_state_layer_ids="DELETE")
    head = open_head(source, layout=layout, target=target)
    (assumed,) = [a for a in head.assumptions if a.field == "aux"]
    option = re.search(r"--aux-layers ([\d,]+\d)", assumed.settle)
    said = ReadOptions(aux_layers=tuple(map(int, option[1].split(","))))
    told = open_head(source, layout=layout, target=target, options=said)
    paste = re.search(r'"\w+": \[.+?\]', assumed.settle)
    assert (paste is None) == (layout == "specjax"), "its trainer writes no list, so none is believed"
    if paste is not None:
        edit(source, **json.loads("{" + paste[0] + "}"))
    pasted = told if paste is None else open_head(source, layout=layout, target=target)
    for settled in (told, pasted):
        assert settled.aux.after_layer == assumed.value
        assert not [a for a in settled.assumptions if a.field == "aux"]


def test_shifted_layers_are_settled_before_a_strict_conversion(tmp_path: Path, target: Path):
    ids = [2, 15, 27]
    source = heads.modelopt(tmp_path / "head")
    edit(source, eagle_config={**config_of(source)["eagle_config"], "eagle_aux_hidden_state_layer_ids": ids})
    needs = {"target": str(target), "target_name": "owner/target", "strict": True}
    with pytest.raises(Refusal, match="default ones shifted by one layer, after 2, 15, 27 where") as asked:
        convert(source, tmp_path / "out", "modelopt", ConvertOptions(**needs))
    for layers in re.findall(r"--aux-layers ([\d,]+\d)", asked.value.hint):
        said = tuple(map(int, layers.split(",")))
        convert(source, tmp_path / layers, "modelopt", ConvertOptions(read=ReadOptions(aux_layers=said), **needs))
        assert open_head(tmp_path / layers).aux.after_layer == list(said)
    assert sorted(p.name for p in tmp_path.iterdir() if "," in p.name) == ["1,14,26", "2,15,27"]


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
NEW, OLD = {"rope_parameters": {**LLAMA3, "rope_theta": 100000.0}}, {"rope_scaling": LLAMA3}


def resumed(folder: Path, **copied: Any) -> Path:
    """A SpecJAX head whose config a resumed run copied from elsewhere."""
    return edit(heads.specjax(folder), **copied)


@pytest.mark.parametrize("copied", [NEW, OLD, {**NEW, **OLD}], ids=["new", "old", "both"])
def test_specjax_scales_no_rotation_in_either_spelling(tmp_path: Path, target: Path, copied: dict):
    source = resumed(tmp_path / "head", **copied)
    head = open_head(source)
    assert [(a.field, a.value) for a in head.assumptions if a.field != "aux"] == [("rope_scaling", None)]
    assert (head.semantics.rope.theta, head.semantics.rope.scaling) == (100000.0, None)
    for to in ("universal", "specjax"):
        done = convert(source, tmp_path / to, to, ConvertOptions(target=str(target)))
        assert "rope_scaling" in {a["field"] for a in done.to_json()["assumptions"]}
        config = config_of(tmp_path / to)
        assert "llama3" not in json.dumps(config)
        assert config.get("rope_parameters", {"rope_type": "default", "rope_theta": 100000.0}) == {
            "rope_type": "default",
            "rope_theta": 100000.0,
        }


def test_specjax_takes_the_base_of_rope_parameters(tmp_path: Path):
    source = resumed(tmp_path / "head", rope_theta="DELETE", rope_parameters={**LLAMA3, "rope_theta": 7e4})
    assert open_head(source).semantics.rope == Rope(7e4)


@pytest.mark.parametrize("layout", ["specforge", "modelopt", "angelslim", "universal"])
def test_a_config_that_specjax_copied_does_not_hide_specjax(tmp_path: Path, layout: str):
    copied = config_of(heads.MAKERS[layout](tmp_path / "first", num_hidden_layers=1))
    head = open_head(resumed(tmp_path / "head", **{**copied, "rope_theta": 100000.0, **NEW}))
    assert (head.layout, head.semantics.rope.scaling) == ("specjax", None)
    assert "rope_scaling" in {a.field for a in head.assumptions}


@pytest.mark.parametrize("layout", heads.MAKERS)
def test_a_multiplier_of_one_engine_is_refused(tmp_path: Path, cli, layout: str):
    source = heads.MAKERS[layout](tmp_path / "head")
    edit(source, **stating(source, {"logit_scale": 1.0}))
    assert open_head(source).layout == layout
    edit(source, **stating(source, {"logit_scale": 0.5}))
    for command in (
        ("inspect", source),
        ("diff", source, source),
        ("convert", source, tmp_path / "out", "--to", layout),
    ):
        status, _, err = cli(*command)
        assert (status, "logit_scale is 0.5" in err, "remove logit_scale" in err) == (3, True, True)


@pytest.mark.parametrize("layout", heads.MAKERS)
@pytest.mark.parametrize("name", ["partial_rotary_factor", "rotary_pct", "rotary_emb_fraction"])
def test_a_part_of_each_head_is_an_error_that_engines_are_judged_by(tmp_path: Path, cli, layout: str, name: str):
    source = heads.MAKERS[layout](tmp_path / "head")
    edit(source, **stating(source, {name: 1.0}))
    assert open_head(source).problems == open_head(heads.MAKERS[layout](tmp_path / "plain")).problems
    edit(source, **stating(source, {name: 0.5}))
    status, shown, _ = cli("inspect", source)
    said = " ".join(shown.split())
    assert (status, f"{name} is 0.5" in said, f"remove {name}" in said) == (3, True, True)
    status, _, err = cli("convert", source, tmp_path / "out", "--to", layout)
    assert (status, f"{name} is 0.5" in err, (tmp_path / "out").exists()) == (3, True, False)


def test_a_part_of_the_rotation_inside_rope_parameters_belongs_to_rope(tmp_path: Path):
    rope = {"rope_type": "default", "rope_theta": 100000.0}
    source = heads.specforge(tmp_path / "head", rope_parameters={**rope, "partial_rotary_factor": 1.0})
    assert open_head(source).semantics.rope.scaling is None
    partly = open_head(edit(source, rope_parameters={**rope, "partial_rotary_factor": 0.25}))
    assert partly.semantics.rope.scaling == {"rope_type": "default", "partial_rotary_factor": 0.25}


def stating(source: Path, fields: dict[str, Any]) -> dict[str, Any]:
    """The fields where the folder's config keeps those of the decoder layer."""
    layer = config_of(source).get("transformer_layer_config")
    return fields if layer is None else {"transformer_layer_config": {**layer, **fields}}


MODELOPTS = {"speculators_version": "0.1.0.dev14", "norm_before_residual": True}


@pytest.mark.parametrize(
    ("maker", "stated"),
    [
        ("speculators", MODELOPTS),
        ("speculators", {"norm_before_residual": "DELETE"}),
        ("specjax", {"norm_before_residual": True}),
    ],
    ids=["modelopt's converter", "not stated", "specjax resumed"],
)
def test_a_doubtful_norm_before_residual_is_settled(tmp_path: Path, target: Path, cli, maker: str, stated: dict):
    source = edit(heads.MAKERS[maker](tmp_path / "head"), **stated)
    (doubt,) = (a for a in open_head(source).assumptions if a.field == "norm_before_residual")
    assert "--norm-before-residual" in doubt.settle
    options = ("--to", "speculators", "--target", target, "--target-name", "o/t", "--aux-layers", "1,14,26")
    options = (*options, "--speculative-tokens", 3)
    status, out, _ = cli("convert", source, tmp_path / "out", *options, "--strict", "--json")
    assert (status, "--norm-before-residual" in json.loads(out)["error"]["hint"]) == (3, True)
    for word in ("true", "false"):
        said = ("--norm-before-residual", word)
        status, out, _ = cli("convert", source, tmp_path / word, *options, *said, "--strict", "--json")
        assert status == 0, out
        record = json.loads((tmp_path / word / "eagle3hub.json").read_text())
        assert "--norm-before-residual" in record["command"]
        change = next(c for c in record["repairs"] if c["name"] == "norm-before-residual")
        assert change["what"] == f"norm_before_residual was given as {word}"
        assert config_of(tmp_path / word)["norm_before_residual"] is (word == "true")
    status, _, err = cli("convert", source, tmp_path / "x", *options, "--norm-before-residual", "no")
    assert (status, "must be true or false" in err) == (2, True)


def test_a_refusal_for_a_doubtful_field_names_what_settles_it(tmp_path: Path, target: Path):
    source = heads.speculators(tmp_path / "head", **MODELOPTS)
    with pytest.raises(Refusal, match="norm_before_residual: true") as refused:
        convert(source, tmp_path / "out", "universal", ConvertOptions(target=str(target)))
    assert "--norm-before-residual" in (refused.value.hint or "")
    convert(
        source,
        tmp_path / "out",
        "universal",
        ConvertOptions(target=str(target), read=ReadOptions(norm_before_residual=False)),
    )
    assert config_of(tmp_path / "out")["norm_before_residual"] is False
    sure = edit(source, speculators_version="0.9.0")
    with pytest.raises(Refusal) as refused:
        convert(sure, tmp_path / "refused", "universal", ConvertOptions(target=str(target)))
    assert "--norm-before-residual" not in (refused.value.hint or "")


@pytest.mark.parametrize("maker", ["specforge", "universal"])
def test_two_spellings_of_the_dtype_that_disagree_are_mended(tmp_path: Path, target: Path, maker: str):
    source = heads.MAKERS[maker](tmp_path / "head", torch_dtype="float16", dtype="bfloat16")
    for to in dict.fromkeys((maker, "specforge")):
        convert(source, tmp_path / to, to, ConvertOptions(target=str(target)))
        config = config_of(tmp_path / to)
        assert {config[key] for key in ("torch_dtype", "dtype") if key in config} == {"bfloat16"}


def test_a_mask_token_outside_the_vocabulary(tmp_path: Path, cli):
    source = variants.speculators(tmp_path / "x", has=Has(mask_hidden=True, embeddings=True))
    for wrong in ("40", "500"):
        options = ("--to", "speculators", "--mask-token-id", wrong)
        status, _, err = cli("convert", source, tmp_path / "out", *options)
        assert (status, "the vocabulary has 40 tokens" in err) == (2, True)
    assert open_head(source, options=ReadOptions(mask_token_id=39)).mask_token_id == 39
    with pytest.raises(ConfigError, match="mask_token_id is 40"):
        open_head(edit(source, mask_token_id=40))
    assert open_head(source, options=ReadOptions(mask_token_id=0)).mask_token_id == 0
