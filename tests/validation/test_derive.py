"""What a report states is what its counters give: derived when it is made, and again when it is read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from benchmarking.recorded import plan
from card import card_samples as samples
from support.outlines import specforge, target
from support.versions import SGLANG_JAX, VLLM

from eagle3hub._version import __version__
from eagle3hub.engines import get_engine
from eagle3hub.engines.base import EngineSettings, RunSpec
from eagle3hub.engines.options import template_in_words
from eagle3hub.engines.preflight import preflight
from eagle3hub.prompts import load_prompts
from eagle3hub.validation.derive import SPEED_OF_ENGINE, SPEED_OF_REFERENCE, contradictions, head_name, public
from eagle3hub.validation.layouts import ReportStore
from eagle3hub.validation.measurement import Reference, write_reference
from eagle3hub.validation.report import Report
from eagle3hub.validation.target import Target

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
    store.keep("key", read(report), 1.0)
    found = store.find("key")
    assert found is not None and found.document == report
    report["engines"][0]["per_prompt"][0]["rounds"] += 1
    store.keep("key", read(report), 1.0)
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


@pytest.mark.parametrize(("more", "found"), [(2, 0), (3, 1)])
def test_tokens_are_those_that_rounds_emit_and_two_that_none_counts(more: int, found: int):
    """The first token comes from the prompt, and an engine may answer one more than it has counted."""
    report = samples.make_report()
    row = report["engines"][0]["per_prompt"][0]
    row["new_tokens"] = row["rounds"] + row["accepted"] + more
    report["settings"]["max_new_tokens"] = row["new_tokens"]
    assert len([what for what in contradictions(read(report)) if "rounds with" in what]) == found


def started(settings: dict[str, Any], **edits: Any) -> list[str]:
    """What contradicts in a report of a run with these engine settings; ``edits`` replace a part of what it states."""
    report = samples.make_report()
    entry, own = report["engines"][0], EngineSettings.from_json(settings)
    report["settings"] |= {
        "engine_settings": settings,
        "chat_template": template_in_words(own.chat_template),
    }
    flags, recipe = entry["flags"], get_engine("vllm")
    flags["llm"] = own.arguments_of("vllm", flags["llm"], drafts=True)
    flags["llm"] |= {} if own.tensor_parallel == 1 else {"tensor_parallel_size": own.tensor_parallel}
    flags["env"] = own.environment_of("vllm", flags["env"])
    entry["recipe"] = recipe.recipe(samples.TARGET, "release-specforge", draft_tokens=3, settings=own).to_json()
    report["tool"]["version"] = __version__
    for key, value in edits.items():
        if key in report["settings"]:
            report["settings"][key] = value
        elif key in flags:
            flags[key] |= value
        else:
            entry[key] |= value
    return [what for what in contradictions(read(report)) if "reason is stated" not in what]


SPLIT = {
    "tensor_parallel": 2,
    "arguments": {"vllm": {"kv_cache_dtype": "fp8", "enforce_eager": False}},
    "environment": {"vllm": {"VLLM_LOGGING_LEVEL": "INFO"}},
    "chat_template": {"think": True},
}


def test_engine_settings_are_those_that_the_run_had():
    assert started(SPLIT) == []
    assert started({"chat_template": {"think": True}}) == []


@pytest.mark.parametrize(
    ("settings", "edits", "says"),
    [
        (SPLIT, {"chat_template": "the target's own"}, "chat_template is stated as"),
        (SPLIT, {"llm": {"tensor_parallel_size": 4}}, "it ran on 4 devices, and the settings say 2"),
        ({}, {"llm": {"tensor_parallel_size": 2}}, "it ran on 2 devices, and the settings say 1"),
        (SPLIT, {"llm": {"kv_cache_dtype": "auto"}}, "its flags are not those that the engine settings state"),
        (SPLIT, {"env": {"VLLM_LOGGING_LEVEL": "DEBUG"}}, "its environment variables are not those"),
        (SPLIT, {"recipe": {"env": {}}}, "the recipe is not the one"),
        ({"arguments": {"sglang": {"page_size": 16}}}, {}, "for engines that were not started"),
        ({"arguments": {"vllm": {"seed": 3}}}, {}, "its engine settings cannot have been run"),
    ],
)
def test_engine_settings_that_the_run_did_not_have(settings: dict[str, Any], edits: dict[str, Any], says: str):
    assert any(says in what for what in started(settings, **edits)), started(settings, **edits)


def test_what_tensorrt_llm_is_given_of_its_draft_stands_apart_from_its_other_arguments():
    settings = {"arguments": {"trtllm": {"speculative_config": {"max_concurrency": 4}}}}
    report = samples.make_report()
    entry = report["engines"][0]
    entry["engine"] = "trtllm"
    entry["flags"] = {"llm": {"backend": "pytorch"}, "draft": {"max_draft_len": 3, "max_concurrency": 4}}
    report["settings"]["engine_settings"] = settings
    says = "its flags are not those that the engine settings state"
    assert not any(says in what for what in contradictions(read(report)))
    entry["flags"]["draft"]["max_concurrency"] = 5
    assert any(says in what for what in contradictions(read(report)))


def test_flags_name_the_head_and_the_target_in_place_of_their_folders():
    run = RunSpec("/t", Path("/h"), load_prompts("smoke", 1))
    stated = Target("/t", "owner/target", None, None, None)
    flags = {"llm": {"model": "/t", "tokenizer": "/other", "head": Path("/h"), "n": 3}}
    public_flags = {"llm": {"model": "owner/target", "tokenizer": "/other", "head": "owner/head", "n": 3}}
    assert public(flags, run, "owner/head", stated) == public_flags


def test_further_arguments_are_a_condition_of_a_measurement():
    report = samples.make_report()
    plain = read(report).measurement(read(report).engines[0]).conditions
    report["settings"]["engine_settings"] = {"arguments": {"vllm": {"kv_cache_dtype": "fp8"}}}
    measured = read(report).measurement(read(report).engines[0])
    assert measured.conditions.differences(plain) == ["engine_arguments is kv_cache_dtype=fp8, not None"]
    kept = Reference(measured)
    assert Reference.from_json(kept.to_json()) == kept
    assert 'engine_arguments: "kv_cache_dtype=fp8"' in write_reference(kept)
    assert "engine_arguments" not in write_reference(replace(kept, measurement=replace(measured, conditions=plain)))


def test_how_the_engine_was_started_is_printed():
    import io

    from rich.console import Console

    from eagle3hub.benchmarking.table import _settings
    from eagle3hub.validation.render import render

    report = samples.make_report()
    report["settings"] |= {"engine_settings": SPLIT, "chat_template": "the target's own with think=true"}
    render(read(report), Console(file=(out := io.StringIO()), width=200))
    lines = [" ".join(line.split()) for line in out.getvalue().splitlines()]
    words = "vLLM with enforce_eager=false, kv_cache_dtype=fp8; vLLM with VLLM_LOGGING_LEVEL=INFO"
    assert f"started tensor parallel size 2; {words}" in lines
    assert any("chat template the target's own with think=true" in line for line in lines)
    render(read(samples.make_report()), Console(file=(out := io.StringIO()), width=200))
    assert "started" not in out.getvalue()
    assert "chat template" not in out.getvalue()
    (cell,) = (cell for group in plan(engines=("vllm",)).groups() for cell in group.cells)
    split = replace(cell, common=replace(cell.common, engine_settings=EngineSettings.from_json(SPLIT)))
    assert f"tensor parallel size 2; {words}. T = 0" in _settings([split])
    assert "tensor parallel" not in _settings([cell])
