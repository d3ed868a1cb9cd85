"""What a config says that its trainer does not do, and what the user says instead."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support import heads
from support.variants import config_of, edit

from eagle3hub import compare
from eagle3hub.conversion import convert
from eagle3hub.errors import ConfigError, Refusal
from eagle3hub.layouts import ReadOptions

TRTLLM = "return_hidden_post_norm"


def claiming(folder: Path, layout: str, where: str = "norm_output") -> Path:
    """A head whose config asks for post-norm feedback, which its layout's trainer does not have."""
    source = heads.MAKERS[layout](folder)
    if where == "norm_output":
        return edit(source, norm_output=True)
    return edit(source, eagle_config={**config_of(source)["eagle_config"], TRTLLM: True})


@pytest.mark.parametrize("layout", ["modelopt", "specjax", "safeailab", "angelslim", "universal", "specforge"])
def test_norm_output_of_a_trainer_without_it_has_to_be_settled(tmp_path: Path, target: Path, layout: str):
    source = claiming(tmp_path / "head", layout)
    needs = {"target": str(target), "speculative_tokens": 3}
    with pytest.raises(ConfigError, match="norm_output: true") as asked:
        convert(source, tmp_path / "out", layout, target=str(target))
    assert (asked.value.code, "--norm-output pre" in (asked.value.hint or "")) == ("config-norm-output", True)
    pre, post = ReadOptions(norm_output="pre"), ReadOptions(norm_output="post")
    convert(source, tmp_path / "out", layout, target=str(target), read=pre)
    assert "norm_output" not in config_of(tmp_path / "out")
    with pytest.raises(Refusal, match="post-norm feedback"):
        convert(source, tmp_path / "refused", layout, target=str(target), read=post)
    for said, written in ((pre, False), (post, True)):
        convert(source, tmp_path / f"sp-{written}", "speculators", read=said, **needs)
        assert config_of(tmp_path / f"sp-{written}")["norm_output"] is written
    convert(tmp_path / "sp-False", tmp_path / "back", layout)
    assert "norm_output" not in config_of(tmp_path / "back"), "the config it had once is doubtful"


@pytest.mark.parametrize("layout", ["modelopt", "universal"])
def test_the_spelling_of_tensorrt_llm_has_to_be_settled_too(tmp_path: Path, target: Path, layout: str):
    source = claiming(tmp_path / "head", layout, TRTLLM)
    with pytest.raises(ConfigError, match=TRTLLM):
        convert(source, tmp_path / "out", layout, target=str(target))
    convert(source, tmp_path / "out", layout, target=str(target), read=ReadOptions(norm_output="pre"))
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
