"""What a refusal points to: every layout its hint names really takes the head, and what it must be told is named."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from published import standins
from support import heads, variants
from support.variants import Has

from eagle3hub.conversion.edits import Transforms
from eagle3hub.conversion.plan import ConvertOptions, plan_conversion
from eagle3hub.conversion.run import convert
from eagle3hub.errors import InputError
from eagle3hub.layouts import LAYOUTS
from eagle3hub.layouts.base import ReadOptions

EXPORTED = Path(__file__).parent.parent / "fixtures" / "exporters"
TARGET = {"target": str(EXPORTED / "target"), "target_name": "owner/target"}
NAMED = re.compile(
    r"--to (\w+)(?: --engines ([a-z_]+(?:,[a-z_]+)*))?(?: \(with (--[\w-]+(?: and --[\w-]+)*)\))?(?!\w*:)"
)
GIVEN: dict[str, dict[str, Any]] = {"--target": TARGET, "--mask-token-id": {"read": ReadOptions(mask_token_id=1)}}


def refusal(source: Path, to: str, engines: str = "", **options: Any) -> InputError | None:
    made_for = tuple(engines.split(",")) if engines else ()
    try:
        plan_conversion(source, to, ConvertOptions(speculative_tokens=3, engines=made_for, **options))
    except InputError as e:
        return e
    return None


def named(hint: str | None) -> list[tuple[str, str, str]]:
    """Every layout that a hint names, with the engines it is to be made for and the options that it needs."""
    return NAMED.findall(hint or "")


def given(options: str) -> dict[str, Any]:
    """What options joined by ``and`` stand for."""
    return {k: v for option in options.split(" and ") for k, v in GIVEN.get(option, {}).items()}


@pytest.mark.parametrize("name", sorted(p.parent.name for p in EXPORTED.glob("*/head")))
@pytest.mark.parametrize("told", [True, False])
def test_layouts_a_hint_names_take_the_head(name: str, told: bool):
    source = EXPORTED / name / "head"
    refused = {to: refusal(source, to, **(TARGET if told else {})) for to in LAYOUTS}
    for error in refused.values():
        if error is not None and error.code.startswith("refused-"):
            assert error.hint, error
            for other, engines, option in named(error.hint):
                further = refusal(source, other, engines, **(TARGET if told else {}), **given(option))
                asks = option and further is not None and further.hint == "give --mask-token-id"
                assert further is None or asks, f"{error.hint}: {other}"


@pytest.mark.parametrize(
    ("has", "config"),
    [
        (Has(embeddings=True), {}),
        (Has(layers=2, attention_bias=True), {"norm_before_residual": True}),
        (Has(qk_norm=True, embeddings=True), {"norm_output": True}),
    ],
)
def test_features_together_leave_the_layouts_that_hold_all(tmp_path: Path, has: Has, config: dict[str, Any]):
    source = variants.speculators(tmp_path / "head", has=has, **config)
    options = {"target": str(heads.target(tmp_path / "target"))}
    refused = {to: refusal(source, to, **options) for to in LAYOUTS}
    found = {(other, engines) for e in refused.values() if e is not None for other, engines, _ in named(e.hint)}
    assert {other for other, engines in found if not engines} == {to for to, e in refused.items() if e is None}
    for other, engines in found:
        assert refusal(source, other, engines, **options) is None


@pytest.mark.parametrize(("to", "engines"), [("speculators", ""), ("universal", ""), ("universal", "sglang")])
def test_where_only_embeddings_stand_in_the_way_it_is_said_who_holds_the_rest(tmp_path: Path, to: str, engines: str):
    """A quantized head with embeddings of its own: ModelOpt's layout holds the one, speculators' the other."""
    name = "V-amd-fp8-plain-exclude"
    source = standins.make_head(name, tmp_path / "head")
    options = {"target": str(standins.make_target(standins.described(name)["target"], tmp_path / "target"))}
    error = refusal(source, to, engines, **options)
    assert error is not None and "without its own embeddings (--drop-embeddings)" in (error.hint or "")
    found = named((error.hint or "").partition("without its own embeddings")[2])
    assert {(other, made_for) for other, made_for, _ in found} == {("modelopt", ""), ("universal", "sglang")}
    dropped = {**options, "transforms": Transforms(drop_embeddings=True)}
    assert all(refusal(source, other, made_for, **dropped) is None for other, made_for, _ in found)


def test_where_no_layout_holds_all_it_is_said_what_stands_in_the_way():
    source = EXPORTED / "modelopt-no-aux" / "head"
    embeddings = EXPORTED / "speculators-plain" / "head" / "model.safetensors"
    options = {**TARGET, "transforms": Transforms(include_embeddings=str(embeddings))}
    for to in LAYOUTS:
        error = refusal(source, to, **options)
        assert error is not None
        assert "no layout of this version can hold it with all the head has" in (error.hint or "")
        assert named(error.hint) == []
        assert ("--to speculators: the head has use_aux_hidden_state: false" in (error.hint or "")) == (
            to == "modelopt"
        )


@pytest.mark.parametrize(
    ("feature", "asked"),
    [
        ({"fc_norm": True}, "--target"),
        ({"mask_hidden": True, "layers": 2, "embeddings": True}, "--target and --mask-token-id"),
    ],
)
def test_what_a_layout_needs_besides_is_named_with_it(tmp_path: Path, feature: dict[str, Any], asked: str):
    """speculators can hold both heads, and asks for its verifier, and for the token of P-EAGLE."""
    source = variants.specforge(tmp_path / "head", has=Has(**feature))
    error = refusal(source, "specjax")
    assert error is not None
    assert ("speculators", "", asked) in named(error.hint)


UNSERVED = "can hold it too, but no engine known here serves that"


def peagle(folder: Path, **config: Any) -> Path:
    source = variants.specforge(folder, has=Has(layers=2, mask_hidden=True), eagle_config="DELETE", **config)
    return variants.edit(source, max_position_embeddings=8192)


def gelu(folder: Path) -> Path:
    return variants.edit(heads.specforge(folder / "x"), hidden_act="gelu_pytorch_tanh")


def test_an_engine_that_stops_at_what_was_converted_is_said(tmp_path: Path, target: Path):
    """Only vLLM reads speculators' layout, and it knows one activation."""
    options = ConvertOptions(target=str(target), target_name="owner/t", speculative_tokens=3, dry_run=True)
    said = []
    for source in (gelu(tmp_path), heads.specforge(tmp_path / "silu")):
        notes = convert(source, tmp_path / "out", "speculators", options).plan.written.notes
        said.append([note for note in notes if "given this folder" in note])
    (note,), none = said
    assert none == []
    assert note.startswith("vLLM ") and "knows the activation silu only, not gelu_pytorch_tanh" in note
    assert "--to specforge" in note and "can hold it" in note


@pytest.mark.parametrize(
    ("make", "kind", "hint"),
    [
        (lambda at: peagle(at, mask_token_id=5), "llama", f"--to speculators can hold it; --to specforge {UNSERVED}"),
        (
            lambda at: peagle(at, mask_token_id=5, architectures=["PEagleForCausalLM"]),
            "llama",
            f"--to speculators can hold it; --to specforge {UNSERVED}",
        ),
        (peagle, "llama", f"--to speculators (with --mask-token-id) can hold it; --to specforge {UNSERVED}"),
        (
            gelu,
            "llama",
            "--to specforge, --to modelopt, --to safeailab or --to angelslim can hold it; --to speculators "
            f"{UNSERVED}",
        ),
        (
            gelu,
            "gemma4",
            "--to specforge, --to modelopt, --to speculators, --to safeailab or --to angelslim can hold it, but no "
            "engine known here serves that",
        ),
    ],
)
def test_a_way_to_a_folder_that_no_engine_serves_is_called_so(tmp_path: Path, make: Any, kind: str, hint: str):
    """Of an activation that nobody checked on TensorRT-LLM, it may serve the folder."""
    target = heads.target(tmp_path / "target", model_type=kind)
    error = refusal(make(tmp_path / "head"), "universal", target=str(target), target_name="owner/target")
    assert error is not None and error.hint == hint
