"""What a head says of itself, counted by hand."""

from __future__ import annotations

from array import array
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from card.card_samples import make_head
from support import heads

from eagle3hub.checkpoint.safetensors import TensorRef, is_scale
from eagle3hub.conversion.edits.reorder import change_dtype
from eagle3hub.errors import ConfigError, Problem, Refusal, VocabMapError
from eagle3hub.head import FINAL_NORM, OPEN_FEEDBACK, AuxTaps, Rope, Semantics
from eagle3hub.head.vocab import VocabMap
from eagle3hub.inspection import describe
from eagle3hub.layouts import open_head


def ref(name: str, dtype: str, *shape: int) -> TensorRef:
    return TensorRef(name, dtype, shape, Path("model.safetensors"), 0, 0)


def test_elements_are_the_product_of_the_shape_and_a_scalar_has_one():
    assert ref("x", "BF16", 3, 4, 5).num_elements == 60
    assert ref("x", "BF16", 7).num_elements == 7
    assert ref("x", "BF16").num_elements == 1
    assert ref("x", "BF16", 0, 4).num_elements == 0


def test_parameters_are_weights_two_in_a_byte_of_nvfp4_and_none_in_a_scale():
    assert ref("fc.weight", "BF16", 3, 4).num_parameters == 12
    assert ref("fc.weight", "U8", 3, 4).num_parameters == 24
    for scale in ("weight_scale", "weight_scale_2", "input_scale", "pre_quant_scale", "k_scale", "v_scale"):
        assert is_scale(f"layers.0.mlp.up_proj.{scale}")
        assert ref(f"fc.{scale}", "U8", 3, 4).num_parameters == 0
    assert is_scale("k_scale")
    assert not is_scale("fc.weight")
    assert not is_scale("k_scale.weight")


def test_the_dtype_is_the_one_of_most_elements():
    def dtype(*tensors: TensorRef) -> str:
        return make_head(tensors={t.name: t for t in tensors}).dtype

    assert dtype(ref("a", "F32", 5), ref("b", "BF16", 3), ref("c", "BF16", 3)) == "BF16"
    assert dtype(ref("a", "F32", 7), ref("b", "BF16", 3), ref("c", "BF16", 3)) == "F32"
    assert dtype(ref("a", "F32", 6), ref("b", "BF16", 3), ref("c", "BF16", 3)) == "F32", "a tie is settled by name"
    assert dtype(ref("a", "BF16", 6), ref("b", "F32", 6)) == "F32", "in whatever order"
    head = make_head(
        tensors={t.name: t for t in (ref("a", "F32", 5), ref("b", "BF16", 2, 3), ref("b.k_scale", "F32", 1))}
    )
    assert head.num_parameters == 11


@pytest.mark.parametrize(("dtype", "quantization"), [("BF16", "fp8"), ("I32", None)])
def test_numbers_of_a_quantized_head_are_not_cast(dtype: str, quantization: str | None):
    """By what its config says, though every tensor is of a plain dtype, and by a dtype of packed weights alone."""
    head = make_head(tensors={"a": ref("a", dtype, 5)})
    head = replace(head, semantics=replace(head.semantics, quantization=quantization))
    with pytest.raises(Refusal, match="the head is quantized") as refused:
        change_dtype(head, "fp16")
    assert refused.value.code == "refused-dtype-quantized"


@pytest.mark.parametrize("layers", range(12))
def test_a_default_is_that_of_its_depth_and_of_no_other(layers: int):
    if layers < 7:
        with pytest.raises(ConfigError, match=f"a target of {layers} layers has no default aux taps") as caught:
            AuxTaps.default_for(layers)
        assert caught.value.code == "config-aux-collapsed"
        assert not AuxTaps.from_after_layer([1, 2, 3], "config").is_default_of(layers)
    else:
        taps = AuxTaps.default_for(layers)
        assert (taps.taps, taps.origin) == ((1, layers // 2 - 1, layers - 4), "default")
        assert len(taps) == 3
        assert taps.is_default
        assert [n for n in range(14) if taps.is_default_of(n)] == [layers]


def test_taps_that_are_no_default_of_any_depth():
    for ids in ([1, 14], [1, 14, 26, 27], [0, 14, 26], [2, 14, 26], [1, 14, 28], [1, 13, 26], [0, 1, 2]):
        assert not AuxTaps.from_after_layer(ids, "config").is_default, ids
    assert not AuxTaps.final_norm("config").is_default
    assert not AuxTaps((1, 14, FINAL_NORM), "config").is_default


@pytest.mark.parametrize(
    ("make", "good", "bad", "code"),
    [
        (AuxTaps.from_after_layer, [0, 3], [-1, 3], "config-aux-ids"),
        (AuxTaps.from_boundary, [1, 3], [0, 3], "config-aux-ids"),
        (AuxTaps.from_after_layer, [3], [], "config-aux-ids"),
        (AuxTaps.from_after_layer, [0, 1], [False, 1], "config-aux-ids"),
        (AuxTaps.from_after_layer, [1, 3], [1, 3.0], "config-aux-ids"),
        (AuxTaps.from_after_layer, [3, 4], [3, 3], "config-aux-order"),
        (AuxTaps.from_boundary, [3, 4], [4, 3], "config-aux-order"),
    ],
)
def test_the_first_id_of_each_convention(make: Any, good: list[int], bad: list[Any], code: str):
    taps = make(good, "flag")
    assert taps.origin == "flag"
    assert good == (taps.after_layer if make == AuxTaps.from_after_layer else taps.boundary)
    with pytest.raises(ConfigError) as caught:
        make(bad, "flag")
    assert caught.value.code == code


def test_a_final_norm_among_layers_has_no_number():
    for taps in (AuxTaps.final_norm("config"), AuxTaps((1, FINAL_NORM), "config")):
        assert not taps.numbered
        with pytest.raises(ConfigError) as caught:
            _ = taps.boundary
        assert caught.value.code == "config-aux-final-norm"
    assert AuxTaps.from_after_layer([1], "config").numbered


def test_whether_no_ids_may_mean_these_taps_depends_on_the_depth_where_it_is_known():
    def has_default(ids: list[int] | None, layers: int | None) -> bool:
        aux = None if ids is None else AuxTaps.from_after_layer(ids, "config")
        return make_head(aux=aux, num_target_layers=layers).has_default_aux

    assert has_default(None, None)
    assert has_default(None, 30)
    assert has_default([1, 14, 26], None)
    assert has_default([1, 14, 26], 30)
    assert not has_default([1, 14, 26], 36)
    assert not has_default([1, 15, 26], None)
    assert not has_default([1, 14, 26], 6)


def test_an_open_feedback_is_said_to_be_open():
    said = Problem("error", OPEN_FEEDBACK, "it does not say")
    other = Problem("error", "config-aux-order", "it does")
    assert make_head().semantics_to_json()["feedback"] == "pre_norm"
    assert make_head(problems=[other]).semantics_to_json()["feedback"] == "pre_norm"
    assert make_head(problems=[other, said]).semantics_to_json()["feedback"] == "open"
    for value, feedback in ((True, "open"), (False, "open (norm_output: false)"), (None, "open")):
        head = make_head(problems=[said], config={"norm_output": value})
        assert head.semantics_to_json()["feedback"] == feedback


def test_semantics_are_plain_data():
    plain = Semantics(rope=Rope(1e4), rms_norm_eps=1e-5).to_json()
    assert plain["rope"] == {"theta": 1e4, "scaling": None}
    assert plain["sliding_layers"] == []
    assert {k for k, v in plain.items() if v is True} == {"uses_aux", "joins_embedding"}
    assert {k for k, v in plain.items() if v is False} == {
        *("norm_before_residual", "norm_before_fc", "fc_norm", "attention_bias", "fc_bias", "qk_norm"),
        "parallel_drafting",
    }
    assert (plain["num_layers"], plain["hidden_act"], plain["quantization"]) == (1, "silu", None)
    scaled = Semantics(rope=Rope(1e4, {"rope_type": "linear", "factor": 2.0}), rms_norm_eps=1e-5, sliding_layers=(0,))
    assert scaled.to_json()["rope"]["scaling"] == {"rope_type": "linear", "factor": 2.0}
    assert scaled.to_json()["sliding_layers"] == [0]


def test_the_first_error_stops_and_a_warning_does_not():
    warning = Problem("warning", "aux-shifted", "one")
    first, second = Problem("error", "vocab-zero", "two", "mend it"), Problem("error", "config-x", "three")
    make_head(problems=[warning]).raise_for_errors()
    with pytest.raises(VocabMapError, match="two") as caught:
        make_head(problems=[warning, first, second]).raise_for_errors()
    assert (caught.value.code, caught.value.hint, caught.value.exit_code) == ("vocab-zero", "mend it", 3)


def described(**changes: Any) -> dict[str, Any]:
    head = make_head(buffers={}, **changes)
    return describe(head, {})


def test_the_document_of_inspect_names_taps_in_both_conventions_or_says_that_they_have_none():
    layers = described()["aux"]
    assert layers == {"count": 3, "after_layer": [1, 14, 26], "boundary": [2, 15, 27], "origin": "config"}
    assert described(fc_order=(26, 1, 14))["aux"] == {**layers, "fc_order": [26, 1, 14]}
    final = described(aux=AuxTaps.final_norm("flag"))["aux"]
    assert (final["final_norm"], final["origin"]) == (True, "flag")
    assert (final["after_layer"], final["boundary"]) == (None, None)
    unknown = described(aux=None)["aux"]
    assert unknown == {"count": 3, "after_layer": None, "boundary": None, "origin": None}


def test_the_document_of_inspect_tells_a_map_from_none():
    assert described()["vocab_map"]["sorted"] is None
    assert described()["vocab_map"]["spelling"] is None
    for ids, ascending in (([2, 5], True), ([5, 2], False)):
        found = described(vocab_map=VocabMap(array("q", ids), 9, "t2d"))["vocab_map"]
        assert (found["sorted"], found["spelling"]) == (ascending, "t2d")


def test_the_document_of_inspect_lists_buffers_by_the_names_they_have_on_disk():
    head = make_head(
        tensors={"fc.weight": ref("model.fc.weight", "BF16", 2, 3)}, buffers={"d2t": "I64", "t2d": "BOOL"}
    )
    head.other_names["d2t"] = "model.d2t"
    on_disk = {"model.d2t": ref("model.d2t", "I64", 4), "t2d": ref("t2d", "BOOL", 9)}
    rows = describe(head, on_disk)["tensors"]
    assert [(r["name"], r["canonical"], r["shape"]) for r in rows] == [
        ("model.d2t", "d2t", [4]),
        ("model.fc.weight", "fc.weight", [2, 3]),
        ("t2d", "t2d", [9]),
    ]


def test_where_a_head_was_read_and_its_target_are_no_part_of_what_it_is(tmp_path: Path):
    target = str(heads.target(tmp_path / "t"))
    one, two = (open_head(heads.specforge(tmp_path / name), target=target) for name in "ab")
    assert one.opened is not None and two.opened is not None and one.target is not None
    assert one.opened != two.opened
    for name in ("opened", "target"):
        assert replace(one, **{name: None}) == one
        assert f"{name}=" not in repr(one)
    assert replace(one, opened=two.opened) == one
    assert replace(one, target_name="owner/other") != one
