"""RoPE that follows the context: transformers' own formulas must give the same before and after a conversion."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support import heads
from support.versions import TRTLLM, VLLM
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from eagle3hub import CompareOptions, compare
from eagle3hub.checkpoint.folder import open_checkpoint
from eagle3hub.conversion.plan import ConvertOptions
from eagle3hub.conversion.run import convert
from eagle3hub.engines.preflight import examine, preflight_all
from eagle3hub.errors import InputError
from eagle3hub.head import Rope
from eagle3hub.layouts import LAYOUTS, ReadOptions, open_head

WIDE = heads.dims(hidden=32, heads=2, kv=1, head_dim=16, inter=48)
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0}
LONG = {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [4.0] * 8}
ORIGINAL = "original_max_position_embeddings"
SCALED: dict[str, dict[str, Any]] = {
    "llama3": {"rope_scaling": LLAMA3},
    "llama3, new spelling": {"rope_parameters": {**LLAMA3, "rope_theta": 10000.0}},
    "llama3, length named": {"rope_scaling": {**LLAMA3, ORIGINAL: 1024}},
    "llama3, length at top level": {"rope_scaling": LLAMA3, ORIGINAL: 512},
    "llama3, no context": {"rope_scaling": LLAMA3, "max_position_embeddings": None},
    "yarn": {"rope_scaling": YARN},
    "yarn, length at top level": {"rope_scaling": YARN, ORIGINAL: 256},
    "longrope": {"rope_scaling": LONG, ORIGINAL: 1024},
    "dynamic": {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
    "dynamic, no context": {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}, "max_position_embeddings": None},
}


def head_with(folder: Path, **config: Any) -> Path:
    """A SpecForge head with these fields; those that are None are absent."""
    heads.specforge(folder, WIDE, rope_theta=10000.0, **config)
    path = folder / "config.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if v is not None}))
    return folder


def computed(folder: Path) -> tuple[list[float], float, int | None]:
    """Frequencies, attention factor and, for dynamic scaling, the context beyond which they change."""
    stated = json.loads((folder / "config.json").read_text())
    stated = stated.get("transformer_layer_config", stated)
    config = LlamaConfig(**{k: v for k, v in stated.items() if k != "architectures"})
    kind = config.rope_parameters["rope_type"]
    inverse, factor = ROPE_INIT_FUNCTIONS[kind](config, "cpu")
    return inverse.tolist(), float(factor), config.max_position_embeddings if kind == "dynamic" else None


@pytest.mark.parametrize("config", SCALED.values(), ids=SCALED)
def test_a_longer_context_leaves_the_rotation_alone(tmp_path: Path, config: dict):
    source = head_with(tmp_path / "head", **config)
    target = str(heads.target(tmp_path / "target", WIDE, max_position_embeddings=32768))
    taken = set()
    for layout in LAYOUTS:
        out = tmp_path / layout
        named = ("vllm", "sglang", "trtllm") if layout == "universal" and "llama3" in str(config) else ()
        try:
            convert(source, out, layout, ConvertOptions(target=target, speculative_tokens=3, engines=named))
        except InputError:
            continue
        taken.add(layout)
        assert computed(out) == computed(source)
        assert compare(source, out, CompareOptions(target=target)).verdict != "different"
    assert taken >= {"specforge", "modelopt", "speculators"}
    bound = any(kind in str(config) for kind in ("dynamic", "longrope"))
    assert ("universal" in taken) != bound


def test_the_context_is_assumed_where_the_scaling_needs_it(tmp_path: Path):
    source = head_with(tmp_path / "head", rope_scaling=LLAMA3, max_position_embeddings=None)
    assumed = {a.field: a.value for a in open_head(source).assumptions}
    assert assumed["max_position_embeddings"] == 2048
    named = head_with(tmp_path / "named", rope_scaling={**LLAMA3, ORIGINAL: 1024}, max_position_embeddings=None)
    assert "max_position_embeddings" not in {a.field for a in open_head(named).assumptions}


@pytest.mark.parametrize("scaling", [LLAMA3, YARN, {"rope_type": "dynamic", "factor": 2.0}])
def test_heads_of_other_contexts_differ(tmp_path: Path, scaling: dict):
    a, b = (head_with(tmp_path / str(n), rope_scaling=scaling, max_position_embeddings=n) for n in (2048, 4096))
    assert compare(a, b).verdict == compare(b, a).verdict == "different"


def test_the_length_at_top_level_counts(tmp_path: Path):
    inside = head_with(tmp_path / "inside", rope_scaling={**LLAMA3, ORIGINAL: 512})
    top = head_with(tmp_path / "top", rope_scaling=LLAMA3, **{ORIGINAL: 512})
    absent = head_with(tmp_path / "absent", rope_scaling=LLAMA3)
    assert computed(inside) == computed(top) != computed(absent)
    assert compare(inside, top).verdict == "equal-up-to-spelling"
    assert compare(top, absent).verdict == "different"


def test_two_lengths_are_refused(tmp_path: Path):
    source = head_with(tmp_path / "head", rope_scaling={**YARN, ORIGINAL: 1024}, **{ORIGINAL: 512})
    with pytest.raises(InputError, match=f"{ORIGINAL} is 512 at top level but 1024 in rope_scaling") as caught:
        open_head(source)
    assert caught.value.code == "config-rope"


def test_a_plain_rotation_has_no_length(tmp_path: Path):
    assert open_head(head_with(tmp_path / "head", **{ORIGINAL: 512})).semantics.rope.scaling is None


@pytest.mark.parametrize("field", ["rope_is_neox_style", "is_neox_style", "is_causal"])
def test_what_no_layout_holds_is_refused(tmp_path: Path, field: str):
    open_head(head_with(tmp_path / "fine", **{field: True}))
    with pytest.raises(InputError):
        open_head(head_with(tmp_path / "head", **{field: False}))


def test_set_cannot_change_the_rotation(tmp_path: Path):
    bound = head_with(tmp_path / "bound", rope_scaling={"rope_type": "dynamic", "factor": 2.0})
    with pytest.raises(InputError, match="the head's RoPE scaling is computed from it"):
        convert(bound, tmp_path / "out", "specforge", ConvertOptions(settings=[("max_position_embeddings", 65536)]))
    source = head_with(tmp_path / "head", rope_scaling=LLAMA3)
    for key in (ORIGINAL, "max_position_embeddings"):
        with pytest.raises(InputError, match=f"--set {key} is refused"):
            convert(source, tmp_path / "out", "specforge", ConvertOptions(settings=[(key, 65536)]))
    convert(source, tmp_path / "out", "modelopt", ConvertOptions(settings=[("max_position_embeddings", 65536)]))
    assert computed(tmp_path / "out") == computed(source)


def test_both_spellings_may_leave_the_length_to_the_context(tmp_path: Path):
    new = {**LLAMA3, "rope_theta": 10000.0, ORIGINAL: 4096}
    head = head_with(tmp_path / "head", rope_scaling=LLAMA3, rope_parameters=new, max_position_embeddings=4096)
    assert dict(open_head(head).semantics.rope.scaling or {}) == {**LLAMA3, ORIGINAL: 4096}
    other = head_with(tmp_path / "other", rope_scaling=LLAMA3, rope_parameters=new, max_position_embeddings=8192)
    with pytest.raises(InputError, match="disagree"):
        open_head(other)


def test_set_cannot_change_the_class(tmp_path: Path):
    source = head_with(tmp_path / "head")
    with pytest.raises(InputError, match="engines choose the code"):
        convert(source, tmp_path / "out", "specforge", ConvertOptions(settings=[("model_type", "foo")]))


def test_a_length_left_to_the_context_is_right_for_the_engines(tmp_path: Path):
    verdicts = {}
    for name, config in (("left", {"rope_scaling": YARN}), ("named", {"rope_scaling": {**YARN, ORIGINAL: 2048}})):
        source = head_with(tmp_path / name, max_position_embeddings=2048, **config)
        verdicts[name] = {v.title: v.kind for v in preflight_all(examine(open_checkpoint(source), open_head(source)))}
    takes_1024 = f"TensorRT-LLM {TRTLLM}"  # for a length that no key names
    assert verdicts["left"].pop(takes_1024) == "silently_wrong" != verdicts["named"].pop(takes_1024)
    assert verdicts["left"] == verdicts["named"]


@pytest.mark.parametrize(
    ("scaling", "lacks"),
    [
        ({"rope_type": "linear"}, "factor"),
        ({"type": "dynamic"}, "factor"),
        ({**YARN, "factor": None}, "factor"),
        ({"rope_type": "llama3", "factor": 8.0}, "low_freq_factor and no high_freq_factor"),
        ({**LONG, "long_factor": None}, "long_factor"),
        ({"type": "mrope"}, "mrope_section"),
    ],
)
def test_a_type_without_what_it_needs_is_an_error(tmp_path: Path, cli, scaling: dict, lacks: str):
    source = head_with(tmp_path / "head", rope_scaling=scaling)
    status, shown, _ = cli("inspect", source)
    assert (status, f"states no {lacks}:" in " ".join(shown.split())) == (3, True), shown
    assert "config-rope-incomplete" in shown
    status, _, err = cli("convert", source, tmp_path / "out", "--to", "modelopt")
    assert (status, lacks in err, (tmp_path / "out").exists()) == (3, True, False)


def test_a_part_of_each_head_among_the_rope_parameters_is_a_contradiction(tmp_path: Path, cli):
    stated = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25}
    source = head_with(tmp_path / "head", rope_parameters=stated)
    found = {v.title: v.kind for v in preflight_all(examine(open_checkpoint(source), open_head(source)))}
    assert found[f"vLLM {VLLM} V1 (CPU)"] == "silently_wrong"
    status, shown, _ = cli("inspect", source)
    assert (status, "rotates 0.25 of each attention head" in shown) == (3, True)
    status, _, err = cli("convert", source, tmp_path / "out", "--to", "modelopt")
    assert (status, "remove partial_rotary_factor" in err) == (3, True)


@pytest.mark.parametrize("layout", ["specforge", "speculators"])
def test_fields_that_differ_by_kind_of_layer_are_settled_by_a_base(tmp_path: Path, layout: str):
    full = {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6}
    nested = {"full_attention": full, "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}
    source = heads.MAKERS[layout](tmp_path / "head", WIDE)
    config = json.loads((source / "config.json").read_text())
    place = config.get("transformer_layer_config", config)
    place.pop("rope_theta", None)
    place["rope_parameters"] = nested
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="differs by layer type") as refused:
        open_head(source)
    assert "--rope-theta" in (refused.value.hint or "")
    told = ReadOptions(rope_theta=1e6)
    assert open_head(source, options=told).semantics.rope == Rope(1e6)
    for to in (layout, "modelopt"):
        convert(source, tmp_path / to, to, ConvertOptions(read=told, target_name="a/b", speculative_tokens=3))
        assert open_head(tmp_path / to).semantics.rope == Rope(1e6)


def test_two_bases_are_settled_by_a_third(tmp_path: Path):
    source = head_with(tmp_path / "head", rope_scaling={"rope_type": "default", "rope_theta": 5e4})
    with pytest.raises(InputError, match="rope_theta is 10000 but rope_scaling says 50000"):
        open_head(source)
    convert(source, tmp_path / "out", "modelopt", ConvertOptions(read=ReadOptions(rope_theta=5e4)))
    assert open_head(tmp_path / "out").semantics.rope == Rope(5e4)


def test_two_types_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match="of type linear and of rope_type default"):
        open_head(head_with(tmp_path / "head", rope_scaling={"type": "linear", "rope_type": "default", "factor": 2.0}))
    both = {**LONG, "type": "su", ORIGINAL: 1024}
    assert (open_head(head_with(tmp_path / "su", rope_scaling=both)).semantics.rope.scaling or {})[
        "rope_type"
    ] == "longrope"


def test_a_base_inside_rope_scaling_counts(tmp_path: Path):
    source = head_with(tmp_path / "head", rope_scaling={"rope_type": "default", "rope_theta": 5e4})
    config = json.loads((source / "config.json").read_text())
    del config["rope_theta"]
    (source / "config.json").write_text(json.dumps(config))
    head = open_head(source)
    assert head.semantics.rope == Rope(5e4)
    note = next(p.message for p in head.problems if p.code == "config-rope-inside")
    assert "base 50000 stands inside rope_scaling only" in note and "rotate with 10000" in note
    assert "config-rope-inside" not in {p.code for p in open_head(head_with(tmp_path / "plain")).problems}
    target = str(heads.target(tmp_path / "target", WIDE))
    convert(source, tmp_path / "out", "universal", ConvertOptions(target=target))
    assert json.loads((tmp_path / "out/config.json").read_text())["rope_theta"] == 5e4


def notes_beside(source: Path, folder: Path, **target: Any) -> dict[str, str]:
    found = open_head(source, target=str(heads.target(folder, WIDE, **target))).problems
    return {p.code: p.message for p in found if p.severity == "info"}


def test_another_base_than_the_targets_is_noted(tmp_path: Path):
    source = head_with(tmp_path / "head")
    note = notes_beside(source, tmp_path / "other", rope_theta=1e6)["target-rope"]
    assert "the head's RoPE has base 10000, its target's base 1000000" in note
    scaled = {**LLAMA3, ORIGINAL: 8192}
    assert "llama3, factor 8" in notes_beside(source, tmp_path / "scaled", rope_scaling=scaled)["target-rope"]
    layers = {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}}
    assert "base 1000000" in notes_beside(source, tmp_path / "layers", rope_parameters=layers)["target-rope"]
    assert "target-rope" not in notes_beside(source, tmp_path / "same", rope_theta=1e4)
    assert "target-rope" not in notes_beside(source, tmp_path / "silent")


def test_a_shorter_context_of_a_scaled_head_is_noted(tmp_path: Path):
    plain = head_with(tmp_path / "plain", max_position_embeddings=2048)
    assert "target-context" not in notes_beside(plain, tmp_path / "long", max_position_embeddings=32768)
    for name, scaling, said in (
        ("yarn", {**YARN, ORIGINAL: 512}, "vLLM's GPU runner serves the shorter one"),
        ("dynamic", {"rope_type": "dynamic", "factor": 2.0}, "cannot be raised"),
    ):
        source = head_with(tmp_path / name, max_position_embeddings=2048, rope_scaling=scaling)
        note = notes_beside(source, tmp_path / f"{name}-long", max_position_embeddings=32768)["target-context"]
        assert "2048 tokens, its target's 32768" in note and said in note
        assert "target-context" not in notes_beside(source, tmp_path / f"{name}-short", max_position_embeddings=2048)


@pytest.mark.parametrize("scaling", [{"rope_type": "linear", "factor": 2.0}, LLAMA3])
def test_a_type_that_sglang_jax_does_not_compute_leaves_universal_for_the_others(tmp_path: Path, scaling: dict):
    source = head_with(tmp_path / "head", rope_scaling=scaling)
    target = str(heads.target(tmp_path / "target", WIDE, max_position_embeddings=2048))
    with pytest.raises(
        InputError, match=f"RoPE of type {scaling['rope_type']}, which sglang-jax does not compute"
    ) as refused:
        convert(source, tmp_path / "out", "universal", ConvertOptions(target=target))
    assert refused.value.code == "refused-rope-type"
    assert "--to universal --engines vllm,sglang,trtllm" in (refused.value.hint or "")
    convert(source, tmp_path / "out", "universal", ConvertOptions(target=target, engines=("vllm", "sglang", "trtllm")))
    kept = open_head(tmp_path / "out").semantics.rope.scaling
    assert kept is not None and scaling.items() <= kept.items()
