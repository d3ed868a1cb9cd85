"""RoPE as we read it, as engines read it: what each did with every way to state it is recorded, and run again."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from engines.preflight.rope_variants import VARIANTS
from support import outlines as f
from support.versions import SGLANG, SGLANG_JAX, TRTLLM, VLLM

from eagle3hub.engines.preflight import ExaminedHead, contract, preflight
from eagle3hub.engines.specs import default_version
from eagle3hub.head.rope import ROPE_TYPES, StatedRope, lacking, read_rope

HERE = Path(__file__).parent
RECORDED: dict[str, Any] = json.loads((HERE.parents[1] / "fixtures" / "rope_as_read.json").read_text())
"""By engine: its version, that of transformers, and what ``rope_probe.py`` said of each variant."""
RUNNER = {"vllm": f"{VLLM} V1", "sglang": SGLANG}
CASES = [(engine, name) for engine in RECORDED for name in VARIANTS]
NUMBERS = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings", "mrope_section")
CODES = {"rope-incomplete", "rope-type", "rope-by-layer", "null-rope-theta"}


def head(variant: str) -> ExaminedHead:
    return f.universal(**VARIANTS[variant])


def read(engine: str, variant: str) -> StatedRope:
    terms = contract(engine, RUNNER[engine]).rope
    return read_rope(f.config(**VARIANTS[variant]), terms.reader, context=f.CONTEXT, original=terms.original)


@pytest.mark.parametrize(("engine", "variant"), CASES)
def test_our_reader_finds_what_the_engine_found(engine: str, variant: str):
    recorded, terms, found = (
        RECORDED[engine]["variants"][variant],
        contract(engine, RUNNER[engine]),
        read(engine, variant),
    )
    ours = found.scaling or {}
    if "stops" in recorded:
        unknown = found.kind is not None and found.kind not in terms.rope.types
        assert found.by_layer or found.lacks or found.theta is None or unknown
        return
    assert (found.theta, ours.get("rope_type", "default")) == (recorded["rope_theta"], recorded["rope_type"])
    if recorded["rope_type"] != "default":  # which takes no notice of a factor
        assert {k: v for k, v in ours.items() if k in NUMBERS} == {k: v for k, v in recorded.items() if k in NUMBERS}
    part = next((part for place, part in found.partial.items() if place in terms.rope.partial), 1.0)
    assert int(f.DIM * part) == recorded["rotated"]


@pytest.mark.parametrize(("engine", "variant"), CASES)
def test_the_verdict_is_what_the_engine_did(engine: str, variant: str):
    recorded = RECORDED[engine]["variants"][variant]
    verdict = preflight(head(variant), engine, RUNNER[engine], f.target())
    codes = {r.code for r in verdict.reasons}
    assert bool(codes & CODES) == ("stops" in recorded), verdict.reasons
    assert ("partial-rotary" in codes) == (recorded.get("rotated", f.DIM) != f.DIM)
    if "stops" in recorded and "null-rope-theta" not in codes:
        assert verdict.kind == "refuses"


@pytest.mark.parametrize(
    ("variant", "trtllm", "jax"),
    [
        ("base at top level", "right", "right"),
        ("base in rope_parameters", "silently_wrong", "silently_wrong"),
        ("base in rope_scaling", "refuses", "silently_wrong"),
        ("base in rope_scaling, no type", "refuses", "refuses"),
        ("type alone", "refuses", "right"),
        ("linear", "right", "refuses"),
        ("linear, no factor", "refuses", "refuses"),
        ("dynamic", "right", "refuses"),
        ("yarn", "right", "right"),
        ("yarn, no length", "silently_wrong", "right"),
        ("llama3", "right", "silently_wrong"),
        ("llama3, no length", "refuses", "refuses"),
        ("longrope", "right", "refuses"),
        ("su", "refuses", "refuses"),
        ("part of each head, top level", "silently_wrong", "right"),
        ("part of each head, inside", "silently_wrong", "silently_wrong"),
        ("by kind of layer", "right", "right"),
    ],
)
def test_engines_on_transformers_4_read_the_top_level(variant: str, trtllm: str, jax: str):
    verdicts = [
        preflight(head(variant), *engine, f.target()) for engine in (("trtllm", TRTLLM), ("sglang_jax", SGLANG_JAX))
    ]
    assert [v.kind for v in verdicts] == [trtllm, jax], [v.reasons for v in verdicts]


def test_every_type_has_its_keys_in_one_table():
    for kind, facts in ROPE_TYPES.items():
        whole = {"rope_type": kind, **dict.fromkeys(facts.needs, 1.0)}
        assert lacking(whole) == ()
        for key in facts.needs:
            assert lacking({k: v for k, v in whole.items() if k != key}) == (key,)
            assert lacking({**whole, key: None}) == (key,)
    assert lacking({"type": "su"}) == lacking({"rope_type": "longrope"})
    assert lacking({"type": "mrope"}) == ("mrope_section",)


@pytest.mark.engine
@pytest.mark.parametrize("engine", list(RECORDED))
def test_the_engine_still_reads_it_so(engine: str, request: pytest.FixtureRequest):
    python: Path = request.getfixturevalue(f"{engine}_python")
    configs = {name: f.config(**changes) for name, changes in VARIANTS.items()}
    command = [str(python), str(HERE / "rope_probe.py"), engine]
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(command, input=json.dumps(configs), capture_output=True, text=True, timeout=600, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout)
    assert RECORDED[engine] == {"version": default_version(engine), **told}
