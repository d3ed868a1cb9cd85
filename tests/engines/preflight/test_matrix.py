"""Each layout as its trainer writes it, on each engine: right, silently wrong or refused.

Every cell of the table was read in (or executed with) the engine; the letters are R right, S silently wrong,
X refuses, U unknown. Where a cell has a condition, it says which reasons must be given.
"""

from __future__ import annotations

import pytest
from support import outlines as f
from support.versions import LLAMACPP, SGLANG, SGLANG_JAX, TRTLLM, TRTLLM_NEXT, VLLM, VLLM_NEXT

from eagle3hub.engines.preflight import ExaminedHead, current_contracts, preflight
from eagle3hub.engines.specs import version_data

V1, V2, SG = ("vllm", f"{VLLM} V1"), ("vllm", f"{VLLM} V2"), ("sglang", SGLANG)
T1, T2, JAX, CPP = ("trtllm", TRTLLM), ("trtllm", TRTLLM_NEXT), ("sglang_jax", SGLANG_JAX), ("llamacpp", LLAMACPP)
NEXT = {("vllm", f"{VLLM} {runner}"): ("vllm", f"{VLLM_NEXT} {runner}") for runner in ("V1", "V2")}
COLUMNS = (V1, V2, SG, T1, T2, JAX, CPP)
KINDS = {"R": "right", "S": "silently_wrong", "X": "refuses", "U": "unknown"}

MATRIX: dict[str, tuple[ExaminedHead, str]] = {
    "safeailab, plain name, 2048 positions, .bin": (f.safeailab(), "R R X R R X R"),
    "safeailab, Eagle3 name, 2048 positions, .bin": (
        f.safeailab(architectures=["LlamaForCausalLMEagle3"]),
        "R R X R R X R",
    ),
    "safeailab, Eagle3 name, enough positions, safetensors": (
        f.safeailab(("model.safetensors",), architectures=["LlamaForCausalLMEagle3"], max_position_embeddings=8192),
        "R R R R R R R",
    ),
    "specforge, no ids": (f.specforge(), "R R R R R R R"),
    "specforge, default ids nested": (f.specforge(f.AFTER), "S R R R R R R"),
    "specforge, other ids nested": (f.specforge(f.OTHER_AFTER), "S S R S S S S"),
    "specforge 3.1 up to 0.2.0": (f.specforge_31(), "S S S S S S X"),
    "specjax": (f.specjax(), "R R X R R R R"),
    "modelopt, default ids": (f.modelopt(), "S R R X R X R"),
    "modelopt, other ids": (f.modelopt(f.OTHER_AFTER), "S S R X S X S"),
    "modelopt, four ids": (f.modelopt([1, 9, 14, 26]), "S X R X X X X"),
    "modelopt, full vocabulary": (f.modelopt(full=True), "S R R X R X R"),
    "modelopt, final hidden state": (f.modelopt_without_aux(), "R X R X S X X"),
    "modelopt, two layers": (f.modelopt_two_layers(), "S R S X S X X"),
    "modelopt, quantized": (f.modelopt_quantized(), "R R R X R X R"),
    "speculators, default ids": (f.speculators(), "R R X X X X R"),
    "speculators, norm_before_residual": (f.speculators(norm_before_residual=True), "R R X X X X R"),
    "speculators, norm_before_residual left out": (f.speculators(norm_before_residual="DELETE"), "S S X X X X R"),
    "speculators, trained embeddings": (f.speculators(embedding=True, embed_requires_grad=True), "R R X X X X R"),
    "speculators, qwen3 layers": (f.speculators(kind="qwen3"), "R R X X X X X"),
    "speculators, four ids": (f.speculators([2, 10, 15, 27]), "X X X X X X X"),
    "mla": (f.mla(), "R R R R R X X"),
    "universal, default ids": (f.universal(), "R R R R R R R"),
    "universal, full vocabulary": (f.universal(full=True), "R R R R R X R"),
    "universal, other ids": (f.universal((4, 10, 21)), "R R R S S S R"),
}

CONDITIONS = [
    ("safeailab, plain name, 2048 positions, .bin", SG, {"architecture-plain", "context"}),
    ("safeailab, Eagle3 name, 2048 positions, .bin", SG, {"context"}),
    ("safeailab, plain name, 2048 positions, .bin", JAX, {"pickle-weights"}),
    ("specforge, default ids nested", V1, {"aux-layers"}),
    ("specforge 3.1 up to 0.2.0", V1, {"feedback"}),
    ("specforge 3.1 up to 0.2.0", T1, {"fc-norm"}),
    ("specforge 3.1 up to 0.2.0", T2, {"feedback"}),
    ("specforge 3.1 up to 0.2.0", JAX, {"fc-norm"}),
    ("specjax", SG, {"architecture-plain", "context"}),
    ("modelopt, default ids", T1, {"layer-names"}),
    ("modelopt, default ids", JAX, {"layer-names"}),
    ("modelopt, other ids", T1, {"layer-names", "aux-layers"}),
    ("modelopt, other ids", T2, {"aux-layers"}),
    ("modelopt, four ids", V2, {"aux-count"}),
    ("modelopt, final hidden state", V2, {"final-norm"}),
    ("modelopt, final hidden state", T2, {"final-norm"}),
    ("modelopt, two layers", SG, {"later-norm"}),
    ("modelopt, two layers", T2, {"later-norm"}),
    ("modelopt, two layers", JAX, {"several-layers"}),
    ("speculators, default ids", SG, {"nested-config", "architecture"}),
    ("speculators, default ids", T1, {"no-model-type"}),
    ("speculators, norm_before_residual", SG, {"norm-before-residual"}),
    ("speculators, norm_before_residual", T2, {"norm-before-residual"}),
    ("speculators, norm_before_residual", JAX, {"norm-before-residual"}),
    ("speculators, norm_before_residual left out", V1, {"norm-before-residual-assumed"}),
    ("speculators, trained embeddings", SG, {"embedding-differs"}),
    ("speculators, trained embeddings", T2, {"embedding-differs"}),
    ("speculators, qwen3 layers", SG, {"qk-norm"}),
    ("speculators, four ids", V1, {"fc-width"}),
    ("speculators, four ids", T2, {"fc-width"}),
]


@pytest.mark.parametrize(
    ("row", "engine", "letter"),
    [(row, e, s) for row, (_, cells) in MATRIX.items() for e, s in zip(COLUMNS, cells.split(), strict=True)],
    ids=lambda x: "-".join(x) if isinstance(x, tuple) else x,
)
def test_cell(row: str, engine: tuple[str, str], letter: str):
    verdict = preflight(MATRIX[row][0], *engine, f.target())
    assert verdict.kind == KINDS[letter], [(r.code, r.effect, r.sentence) for r in verdict.reasons]
    assert verdict.reasons, "a verdict rests on something"


@pytest.mark.parametrize(("row", "engine", "codes"), CONDITIONS)
def test_cell_for_the_right_reason(row: str, engine: tuple[str, str], codes: set[str]):
    verdict = preflight(MATRIX[row][0], *engine, f.target())
    worst = {r.code for r in verdict.reasons if r.effect == verdict.kind}
    given = {r.code for r in verdict.reasons if r.effect != "right"}
    assert codes <= given
    assert worst & given


def test_the_columns_are_all_there_is():
    old = ("sglang_jax", "0.0.2")
    assert {(c.engine, c.version) for c in current_contracts()} == {*COLUMNS, *NEXT.values(), old}
    for subject, _ in MATRIX.values():
        assert preflight(subject, *old, f.target()).kind == "refuses"


def test_what_a_version_does_wrong_with_every_head_is_said_where_it_is_right_about_this_one():
    right, refused = (
        preflight(MATRIX[row][0], *JAX, f.target()) for row in ("specforge, no ids", "modelopt, default ids")
    )
    assert right.noted == f"{right.title} {version_data('sglang_jax').drafts_wrongly}, whatever the head"
    assert right.to_json()["note"] == right.noted
    assert (right.on_files.noted, right.with_settings(["any"]).noted) == (right.noted, right.noted)
    assert (refused.noted, "note" in refused.to_json()) == (None, False)
    assert preflight(MATRIX["specforge, no ids"][0], *V1, f.target()).noted is None


@pytest.mark.parametrize("pinned", NEXT)
def test_vllms_next_version_differs_where_it_is_known_to(pinned: tuple[str, str]):
    """Its V2 takes a head of the final hidden state, which the pinned one refuses."""
    found = {row for row, (subject, _) in MATRIX.items() if codes(subject, pinned) != codes(subject, NEXT[pinned])}
    assert found == ({"modelopt, final hidden state"} if pinned == V2 else set())


def codes(subject: ExaminedHead, engine: tuple[str, str]) -> list[tuple[str, str]]:
    return [(r.code, r.effect) for r in preflight(subject, *engine, f.target()).reasons]


def test_a_yaml_hint_names_the_after_layer_ids():
    verdict = preflight(f.modelopt(f.OTHER_AFTER), *T2, f.target())
    assert verdict.reasons[0].hint == "eagle3_layers_to_capture: [3, 9, 20] in the YAML"
