"""RoPE that follows the context: transformers' own formulas must give the same before and after a conversion."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support import heads
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from eagle3hub import CompareOptions, compare
from eagle3hub.checkpoint.folder import open_checkpoint
from eagle3hub.conversion.plan import ConvertOptions
from eagle3hub.conversion.run import convert
from eagle3hub.engines.preflight import examine, preflight_all
from eagle3hub.errors import InputError
from eagle3hub.layouts import LAYOUTS, open_head

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
        try:
            convert(source, out, layout, ConvertOptions(target=target, speculative_tokens=3))
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
    assert verdicts["left"] == verdicts["named"]
