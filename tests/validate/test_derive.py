"""What a report states is what its counters give: derived when it is made, and again when it is read."""

from __future__ import annotations

from pathlib import Path

import pytest
from card import card_samples as samples
from support.outlines import specforge, target
from support.versions import SGLANG_JAX, VLLM

from eagle3hub.engines import get_engine
from eagle3hub.engines.preflight import preflight
from eagle3hub.validation.derive import SPEED_OF_ENGINE, SPEED_OF_REFERENCE, contradictions, head_name
from eagle3hub.validation.layouts import ReportStore
from eagle3hub.validation.report import Report

read = Report.from_json


@pytest.mark.parametrize("verdict", ["pass", "fail", "inconclusive", "unavailable"])
def test_a_report_as_it_was_made_contradicts_nothing(verdict: str):
    assert contradictions(read(samples.make_report(verdict=verdict))) == []


def test_what_an_engine_does_wrong_with_every_head_is_kept():
    report = samples.make_report()
    verdict = preflight(specforge(), "sglang_jax", SGLANG_JAX, target()).to_json()
    assert "note" in verdict
    report["engines"][0]["preflight"] = verdict
    kept = read(report).engines[0].preflight
    assert kept is not None
    assert kept.to_json() == verdict


def test_a_kept_report_that_was_edited_is_measured_again(tmp_path: Path):
    store = ReportStore(tmp_path)
    report = samples.make_report()
    store.keep("key", read(report))
    found = store.find("key")
    assert found is not None and found.document == report
    report["engines"][0]["per_prompt"][0]["rounds"] += 1
    store.keep("key", read(report))
    assert store.find("key") is None


def test_the_head_itself_is_asked_for_its_layers():
    report = samples.make_report()
    report["engines"][0]["load"]["aux_boundaries"] = [1, 14, 26]
    assert contradictions(read(report)) == [], "without the head nobody knows better"
    (what,) = [w for w in contradictions(read(report), samples.make_head()) if "verdict" in w and "vllm" in w]
    assert what == f'vllm {VLLM}: verdict is stated as "pass", and the counters give "fail"'


def test_what_a_server_counts_for_others_is_not_held_to_its_own_texts():
    report = samples.make_report()
    entry = report["engines"][0]
    entry["per_prompt"][0] |= {"new_tokens": 1}
    assert any("1 new tokens, where 56 rounds" in w for w in contradictions(read(report)))
    entry |= {"device": "server", "unchecked": ["which tensors were loaded"]}
    assert not any("new tokens, where" in w for w in contradictions(read(report)))


def test_an_earlier_measurement_is_in_the_report_that_was_held_against_it():
    from eagle3hub.validation.measurement import Reference

    report = samples.make_report()
    entry = report["engines"][0]
    made = read(report)
    earlier = Reference(made.measurement(made.engines[0]), 0.05)
    entry["earlier"] = earlier.to_json()
    assert Reference.from_json(entry["earlier"]) == earlier
    samples.settled(report)
    assert [g["name"] for g in entry["gates"]] == ["collapse", "reference"]
    assert contradictions(read(report)) == []
    assert read(report).verdict == "pass"
    entry["earlier"]["measurement"]["counts"][0]["rounds"] += 9
    assert any(w.startswith(f"vllm {VLLM}: gates.reference") for w in contradictions(read(report)))


@pytest.mark.parametrize(
    ("source", "called"),
    [
        ("release-specforge", "release-specforge"),
        (f"hf://alice/head@{'0' * 40}", "alice/head"),
        ("hf://alice/head", "alice/head"),
        (f"hf://alice/head@{'0' * 40}/specforge", "specforge"),
    ],
)
def test_a_recipe_calls_a_head_as_engines_take_it(source: str, called: str):
    assert head_name(source) == called
    report = samples.make_report()
    report["head"]["source"] = source
    recipe = get_engine("vllm").recipe(samples.TARGET, called, draft_tokens=3)
    report["engines"][0]["recipe"] = recipe.to_json()
    assert called in recipe.to_json()["server_command"]
    assert contradictions(read(report)) == []
    report["engines"][0]["recipe"] = get_engine("vllm").recipe(samples.TARGET, "0" * 40, draft_tokens=3).to_json()
    assert any("the recipe is not the one" in what for what in contradictions(read(report)))
    report["engines"][0]["recipe"]["version"] = "9x"
    assert any("nothing is known of vLLM 9x" in what for what in contradictions(read(report)))


def test_a_source_that_is_no_address_is_said():
    report = samples.make_report()
    report["head"]["source"] = "hf://../../x"
    assert any("hf://../../x" in what for what in contradictions(read(report)))


@pytest.mark.parametrize("engine", ["vllm", "reference"])
def test_the_note_on_speed_is_that_of_the_engine(engine: str):
    report = samples.make_report(engine=engine, recipe=None)
    assert not [w for w in contradictions(read(report)) if "the note" in w]
    notes = {"vllm": SPEED_OF_ENGINE, "reference": SPEED_OF_REFERENCE}
    (other,) = {*notes.values()} - {notes[engine]}
    for note in (other, "a benchmark"):
        report["engines"][0]["throughput"]["note"] = note
        (what,) = [w for w in contradictions(read(report)) if "the note" in w]
        assert what.endswith(f"the note on its speed is not {notes[engine]!r}")


@pytest.mark.parametrize(("off", "found"), [(-0.05, 1), (-0.005, 0), (0.0, 0), (0.005, 0), (0.05, 1)])
def test_the_speed_is_that_of_the_prompts(off: float, found: int):
    report = samples.make_report()
    entry = report["engines"][0]
    entry["throughput"]["speculative_tokens_per_second"] += off
    said = [w for w in contradictions(read(report)) if "tokens per second are stated" in w]
    assert len(said) == found
