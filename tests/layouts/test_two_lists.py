"""Aux layers in the two lists of a flat config: one numbering or two, with and without the target's depth."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import heads
from support.variants import edit

from eagle3hub import InspectOptions, inspect
from eagle3hub.conversion.plan import ConvertOptions
from eagle3hub.conversion.run import convert
from eagle3hub.errors import ConfigError, Refusal
from eagle3hub.head import Head
from eagle3hub.head.aux_defaults import AUX_IDS
from eagle3hub.layouts import ReadOptions, open_head
from eagle3hub.layouts.aux_layers import numbering_of

DEPTH = 30


def listing(folder: Path, top: list[int] | None, nested: list[int] | None) -> Path:
    source = heads.modelopt(folder)
    eagle = {"use_aux_hidden_state": True, "next_layer_regular": True}
    return edit(
        source,
        eagle_config=eagle if nested is None else {**eagle, AUX_IDS: nested},
        **({} if top is None else {AUX_IDS: top}),
    )


def opened(tmp_path: Path, top: list[int] | None, nested: list[int] | None, kind: str | None) -> Head:
    source = listing(tmp_path / "head", top, nested)
    if kind is None:
        return open_head(source)
    return open_head(source, target=str(heads.target(tmp_path / "target", model_type=kind)))


def doubted(head: Head) -> bool:
    return any(a.field == "aux" and a.doubtful for a in head.assumptions)


@pytest.mark.parametrize("kind", [None, "llama", "gpt_oss", "deepseek_v3"])
@pytest.mark.parametrize("ids", [[3, 9, 20], [2, 15, 27], [1, 14, 26], [5, 20, 30], [0, 14, 26]])
def test_one_list_has_the_numbering_of_its_place(tmp_path: Path, ids: list[int], kind: str | None):
    if ids[0]:
        assert opened(tmp_path / "top", ids, None, kind).aux.after_layer == [i - 1 for i in ids]
    else:
        with pytest.raises(ConfigError, match="1 or more"):
            opened(tmp_path / "top", ids, None, kind)
    inner = opened(tmp_path / "nested", None, ids, kind)
    last = kind == "gpt_oss" and ids[-1] == DEPTH  # as SGLang reads it
    assert inner.aux.after_layer == ([i - 1 for i in ids] if last else ids)
    beyond = ids[-1] == DEPTH and kind not in (None, "gpt_oss")
    assert ("target-mismatch" in {p.code for p in inner.problems}) == beyond


@pytest.mark.parametrize("kind", [None, "llama", "gpt_oss", "deepseek_v3"])
def test_lists_that_differ_by_one_name_the_same_layers(tmp_path: Path, kind: str | None):
    head = opened(tmp_path, [4, 10, 21], [3, 9, 20], kind)
    assert head.aux.after_layer == [3, 9, 20]
    assert not doubted(head) and head.one_list is None


@pytest.mark.parametrize(
    ("ids", "kind", "after", "certain"),
    [
        ([5, 20, 30], "gpt_oss", [4, 19, 29], True),  # after layer 30 does not exist
        ([5, 20, 30], "llama", [4, 19, 29], True),
        ([5, 20, 30], None, [4, 19, 29], False),
        ([2, 15, 27], "llama", [1, 14, 26], True),  # the default, counted in one way
        ([1, 14, 26], "llama", [1, 14, 26], True),  # and in the other
        ([1, 14, 26], None, [1, 14, 26], False),
        ([2, 15, 27], None, [1, 14, 26], False),
        ([0, 9, 20], None, [0, 9, 20], True),  # nothing has run before the first layer
        ([4, 10, 21], "deepseek_v3", [3, 9, 20], True),  # SGLang and vLLM agree
        ([1, 10, 21], "deepseek_v3", [0, 9, 20], False),  # they do not
        ([4, 10, 21], "llama", [3, 9, 20], False),
        ([4, 10, 21], None, [3, 9, 20], False),
    ],
)
def test_equal_lists_have_one_numbering(tmp_path: Path, ids: list[int], kind: str | None, after: list[int], certain):
    head = opened(tmp_path, ids, ids, kind)
    assert head.aux.after_layer == after
    assert not [p for p in head.problems if p.severity == "error"]
    assert doubted(head) == (not certain)
    assert (head.one_list is None) == certain
    if certain and kind:
        assert "aux-one-numbering" in {p.code for p in head.problems}
    (tmp_path / "out").mkdir()
    told = open_head(tmp_path / "head", options=ReadOptions(aux_layers=tuple(after)))
    assert told.aux.after_layer == after and told.one_list is None and not doubted(told)


def test_the_depth_decides_later_what_was_assumed(tmp_path: Path):
    source = listing(tmp_path / "head", [1, 14, 26], [1, 14, 26])
    assert doubted(open_head(source))
    head = open_head(source, options=ReadOptions(num_target_layers=DEPTH))
    assert head.aux.after_layer == [1, 14, 26] and not doubted(head)
    other = open_head(source, options=ReadOptions(num_target_layers=26))
    assert other.aux.after_layer == [0, 13, 25], "26 is the last of 26 layers"


def test_what_is_written_has_both_numberings(tmp_path: Path):
    target = heads.target(tmp_path / "target", model_type="gpt_oss")
    convert(
        listing(tmp_path / "head", [5, 20, 30], [5, 20, 30]),
        tmp_path / "out",
        "modelopt",
        ConvertOptions(target=target),
    )
    again = open_head(tmp_path / "out")
    assert again.config[AUX_IDS] == [5, 20, 30]
    assert again.config["eagle_config"][AUX_IDS] == [4, 19, 29]
    assert again.aux.after_layer == [4, 19, 29] and not doubted(again)


CONFLICTS = [
    ([4, 10, 21], [4, 9, 20]),
    ([3, 9, 20], [4, 10, 21]),
    ([4, 10, 21], [5, 5, 20]),
    ([4, 10, 21], [20, 3, 9]),
]


@pytest.mark.parametrize("with_target", [False, True])
@pytest.mark.parametrize(("top", "nested"), CONFLICTS)
def test_aux_layers_settle_any_conflict(tmp_path: Path, top: list[int], nested: list[int], with_target: bool):
    source = listing(tmp_path / "head", top, nested)
    if sorted(set(nested)) != [i - 1 for i in top]:
        with pytest.raises(ConfigError) as refused:
            open_head(source)
        assert refused.value.code == "config-aux-conflict"
        assert "--aux-layers" in (refused.value.hint or "")
    target = str(heads.target(tmp_path / "target")) if with_target else None
    head = open_head(source, target=target, options=ReadOptions(aux_layers=(2, 11, 25)))
    assert (head.aux.after_layer, head.aux.origin) == ([2, 11, 25], "flag")
    assert not [p for p in head.problems if p.severity == "error"]
    options = ConvertOptions(target=target, read=ReadOptions(aux_layers=(2, 11, 25)))
    convert(source, tmp_path / "out", "modelopt", options)
    assert open_head(tmp_path / "out").aux.after_layer == [2, 11, 25]


@pytest.mark.parametrize("layout", ["specforge", "speculators", "universal"])
def test_aux_layers_settle_a_list_that_cannot_be_read(tmp_path: Path, layout: str):
    """The error's hint names --aux-layers, so it must help."""
    source = edit(heads.MAKERS[layout](tmp_path / "head"), **{AUX_IDS: [4, 4, 21]})
    with pytest.raises(ConfigError) as refused:
        open_head(source)
    assert "--aux-layers" in (refused.value.hint or "")
    assert open_head(source, options=ReadOptions(aux_layers=(3, 9, 20))).aux.after_layer == [3, 9, 20]


def test_angelslim_lists_layers_under_a_name_of_its_own(tmp_path: Path):
    """Its trainer reads the draft's config, which is saved with the head; no engine reads that key."""
    source = edit(heads.angelslim(tmp_path / "head"), aux_hidden_states_layer_ids=[3, 9, 20])
    head = open_head(source, target=str(heads.target(tmp_path / "target")))
    assert (head.aux.after_layer, head.aux.origin) == ([3, 9, 20], "config")
    assert not doubted(head)
    found = inspect(str(source), InspectOptions(target=str(tmp_path / "target"))).engines
    assert {v.kind for v in found if v.engine == "vllm"} == {"silently_wrong"}


# What an override says.


def overridden(head: Head) -> list[str]:
    return [p.message for p in head.problems if p.code == "source-overridden"]


def test_layers_are_compared_in_one_numbering(tmp_path: Path):
    same = listing(tmp_path / "same", None, [3, 9, 20])
    assert overridden(open_head(same, options=ReadOptions(aux_layers=(3, 9, 20)))) == []
    boundary = ReadOptions(aux_layers=(4, 10, 21), aux_convention="boundary")
    assert overridden(open_head(same, options=boundary)) == []
    (message,) = overridden(open_head(same, options=ReadOptions(aux_layers=(2, 9, 20))))
    assert "[2, 9, 20]" in message and "[3, 9, 20] (both after-layer ids)" in message
    shifted = ReadOptions(aux_layers=(2, 8, 19))
    (message,) = overridden(open_head(same, options=shifted))
    assert message == "the aux layers [3, 9, 20] of config.json are taken for boundary ids, as asked"


def test_what_the_source_leaves_open_is_not_said_to_be_stated(tmp_path: Path):
    source = heads.specforge(tmp_path / "head", norm_output=True)
    (message,) = overridden(open_head(source, options=ReadOptions(norm_output="post")))
    assert message == "feedback is taken as post_norm, as asked: the source leaves it open"
    plain = heads.specforge(tmp_path / "plain")
    (message,) = overridden(open_head(plain, options=ReadOptions(norm_output="post")))
    assert message.endswith("where the source says pre_norm")


def test_a_target_too_small_to_have_defaults_decides_by_its_depth_alone():
    assert numbering_of([1, 2, 4], 4, "llama")[0] == "boundary"
    assert numbering_of([1, 2, 3], 4, "llama") == ("boundary", None)


def captured(folder: Path, ids: list[int], layout: str = "specforge") -> Path:
    """A head that lists its layers in eagle_config alone, whose states SGLang may have captured."""
    source = heads.modelopt(folder) if layout == "modelopt" else heads.specforge(folder)
    changes = {"architectures": ["Eagle3Qwen3ForCausalLM"]} if layout == "flat" else {}
    return edit(source, eagle_config={"use_aux_hidden_state": True, AUX_IDS: ids}, **changes)


@pytest.mark.parametrize(
    ("ids", "kind", "after", "certain"),
    [
        ([2, 15, 27], "deepseek_v3", [1, 14, 26], False),  # SGLang takes them as they are, in training and in serving
        ([4, 10, 21], "kimi_k25", [3, 9, 20], False),
        ([4, 10, 30], "glm4_moe_lite", [3, 9, 29], False),
        ([1, 14, 26], "deepseek_v3", [1, 14, 26], True),  # these it counts after layers
        ([4, 10, 21], "llama", [4, 10, 21], True),  # as it does for other targets
        ([4, 10, 21], None, [4, 10, 21], False),  # which one it is is not known
        ([1, 14, 26], None, [1, 14, 26], True),
    ],
)
def test_ids_that_sglang_captured_have_its_numbering(tmp_path: Path, ids, kind: str | None, after, certain):
    source = captured(tmp_path / "head", ids)
    target = None if kind is None else str(heads.target(tmp_path / "target", model_type=kind))
    head = open_head(source, target=target)
    assert (head.layout, head.aux.after_layer, doubted(head)) == ("specforge", after, not certain)
    codes = {p.code for p in head.problems}
    assert ("aux-ids-nested-only" in codes) == (after == ids)
    assert not codes & {"aux-ids-shifted", "target-mismatch"}
    for told in ([1, 14, 26], [5, 9, 20]):
        settled = open_head(source, target=target, options=ReadOptions(aux_layers=tuple(told)))
        assert settled.aux.after_layer == told and not doubted(settled)


@pytest.mark.parametrize(("layout", "after"), [("flat", [3, 9, 20]), ("modelopt", [4, 10, 21])])
def test_a_trainer_that_captures_itself_counts_after_layers(tmp_path: Path, layout: str, after: list[int]):
    target = str(heads.target(tmp_path / "target", model_type="kimi_k2"))
    head = open_head(captured(tmp_path / "head", [4, 10, 21], layout), target=target)
    assert (head.layout, head.aux.after_layer, doubted(head)) == (layout, after, layout == "flat")
    assert not any(a.field == AUX_IDS for a in head.assumptions)


def test_a_list_that_sglang_captured_is_not_shifted(tmp_path: Path):
    source = captured(tmp_path / "head", [2, 15, 27])
    target = str(heads.target(tmp_path / "target", model_type="kimi_k25"))
    verdicts = inspect(source, InspectOptions(target=target)).engines
    assert {v.kind for v in verdicts if v.engine == "vllm"} == {"depends"}
    assert "silently_wrong" not in {v.kind for v in verdicts}
    out = convert(source, tmp_path / "out", "universal", ConvertOptions(target=target, engines=("vllm", "sglang")))
    assert out.plan.written.config[AUX_IDS] == [2, 15, 27]
    assert out.plan.written.config["eagle_config"][AUX_IDS] == [1, 14, 26]
    with pytest.raises(Refusal) as strict:
        convert(source, tmp_path / "not", "universal", ConvertOptions(target=target, strict=True))
    assert strict.value.code == "refused-assumption" and "boundary ids, as SGLang takes" in strict.value.message


def test_ids_out_of_order_move_with_their_numbering(tmp_path: Path):
    source = captured(tmp_path / "head", [21, 4, 10])
    head = open_head(source, target=str(heads.target(tmp_path / "target", model_type="kimi_k25")))
    assert (head.aux.after_layer, head.fc_order) == ([3, 9, 20], (20, 3, 9))


def test_a_captured_list_beyond_the_target_is_of_another_one(tmp_path: Path):
    source = captured(tmp_path / "head", [4, 10, DEPTH + 1])
    head = open_head(source, target=str(heads.target(tmp_path / "target", model_type="kimi_k25")))
    assert "target-mismatch" in {p.code for p in head.problems}
