"""EAGLE-3.1 (a norm for each tap, and the normed state fed back) in SpecForge's folders and in flat ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import heads, variants
from support.variants import Has, config_of, edit
from support.versions import TRTLLM_NEXT

from eagle3hub import InspectOptions, inspect
from eagle3hub.conversion.plan import ConvertOptions
from eagle3hub.conversion.run import convert
from eagle3hub.engines.specs import default_version
from eagle3hub.errors import Refusal
from eagle3hub.layouts import ReadOptions, open_head


def eagle31(folder: Path, **config: object) -> Path:
    return variants.specforge(folder, has=Has(fc_norm=True), fc_norm=True, norm_output=True, **config)


def test_specforge_means_eagle_3_1_by_both_keys_together(tmp_path: Path):
    """It introduced them together, and fed back the un-normed state by mistake until September 2026."""
    head = open_head(eagle31(tmp_path / "head"))
    assert (head.layout, head.semantics.fc_norm, head.semantics.feedback) == ("specforge", True, "post_norm")
    assert not [p for p in head.problems if p.severity == "error"]
    (assumed,) = (a for a in head.assumptions if a.field == "feedback")
    assert assumed.doubtful and "--norm-output" in assumed.settle
    alone = open_head(variants.specforge(tmp_path / "alone", norm_output=True))
    assert "config-norm-output" in {p.code for p in alone.problems}


@pytest.mark.parametrize(("word", "feedback"), [("pre", "pre_norm"), ("post", "post_norm")])
def test_the_user_settles_it(tmp_path: Path, word: str, feedback: str):
    head = open_head(eagle31(tmp_path / "head"), options=ReadOptions(norm_output=word))  # type: ignore[arg-type]
    assert head.semantics.feedback == feedback
    assert not [a for a in head.assumptions if a.field == "feedback"]
    (said,) = (p.message for p in head.problems if p.code == "source-overridden")
    assert said.endswith("the source leaves it open")


def test_one_folder_serves_vllm_and_sglang(tmp_path: Path, target: Path):
    source = eagle31(tmp_path / "head", max_position_embeddings=8192)
    with pytest.raises(Refusal):
        convert(source, tmp_path / "all", "universal", ConvertOptions(target=str(target)))
    options = ConvertOptions(target=str(target), engines=("vllm", "sglang"))
    convert(source, tmp_path / "out", "universal", options)
    config = config_of(tmp_path / "out")
    assert (config["fc_norm"], config["norm_output"]) == (True, True)
    assert config["eagle_config"]["return_hidden_post_norm"] is True, "as released TensorRT-LLM spells it"
    found = inspect(str(tmp_path / "out"), InspectOptions(target=str(target)))
    kinds = {v.title: v.kind for v in found.engines}
    assert {kind for title, kind in kinds.items() if title.startswith(("vLLM", "SGLang "))} == {"depends"}
    assert kinds[f"TensorRT-LLM {TRTLLM_NEXT}"] == "depends"
    assert kinds[f"TensorRT-LLM {default_version('trtllm')}"] == "silently_wrong", "it has no fc_norm"
    (tmp_path / "out/eagle3hub.json").unlink()
    again = open_head(tmp_path / "out")
    assert again.semantics == found.head.semantics


def test_post_norm_feedback_alone_is_written_for_tensorrt_llm_too(tmp_path: Path):
    target = heads.target(tmp_path / "target", model_type="gpt_oss")
    source = variants.speculators(tmp_path / "head", norm_output=True)
    convert(source, tmp_path / "out", "universal", ConvertOptions(target=str(target)))
    found = inspect(str(tmp_path / "out"), InspectOptions(target=str(target)))
    assert {v.kind for v in found.engines if v.engine in ("vllm", "sglang", "trtllm")} == {"right"}


def test_five_taps_are_not_specforges(tmp_path: Path, target: Path):
    """Its trainer makes three; whoever made these means by norm_output what engines do."""
    d = heads.dims(aux=5)
    ids = {"eagle_aux_hidden_state_layer_ids": [2, 8, 15, 21, 27]}
    source = variants.specforge(tmp_path / "head", d, Has(fc_norm=True), fc_norm=True, norm_output=True, **ids)
    edit(source, eagle_config={"use_aux_hidden_state": True})
    head = open_head(source, target=str(target))
    assert (head.layout, head.semantics.feedback, len(head.aux)) == ("flat", "post_norm", 5)
    assert not [p for p in head.problems if p.severity == "error"]
    assert not [a for a in head.assumptions if a.field == "feedback"]
