from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from support.versions import VLLM
from validation import samples

from eagle3hub.errors import ManifestError, OutputError, SourceError
from eagle3hub.system.resources import schema
from eagle3hub.validation.render import render
from eagle3hub.validation.report import Report, load_report

Change = Callable[[dict[str, Any]], Any]

FIXTURES = Path(__file__).parent / "fixtures"


def test_the_schema_is_one_and_documents_every_field() -> None:
    from jsonschema import Draft202012Validator

    document = schema("report")
    Draft202012Validator.check_schema(document)

    def walk(node: Any) -> None:
        if isinstance(node, list):
            for child in node:
                walk(child)
        elif isinstance(node, dict):
            if isinstance(node.get("properties"), dict) and "type" in node:
                assert "additionalProperties" in node, node["description"]
                for name, child in node["properties"].items():
                    assert "description" in child or "$ref" in child, name
            for child in node.values():
                walk(child)

    walk(document)


def test_complete_and_failed_reports_fit() -> None:
    assert Report.from_json(samples.report()).verdict == "pass"
    assert Report.from_json(samples.failed()).reason.startswith("vLLM could not load")


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.pop("verdict"),
        lambda d: d.update(verdict="passed"),
        lambda d: d.update(extra=1),
        lambda d: d.update(schema="eagle3hub/report/2"),
        lambda d: d["head"].update(digest="0123"),
        lambda d: d["head"].update(path="/home"),
        lambda d: d["prompts"].update(count=0),
        lambda d: d["settings"].pop("seed"),
        lambda d: d["engines"][0].pop("acceptance"),
        lambda d: d["engines"][0].pop("load"),
        lambda d: d["engines"][0].update(reason=""),
        lambda d: d["engines"][0]["acceptance"].update(mean_acceptance_length=0.9),
        lambda d: d["engines"][0]["acceptance"].update(ci95=[1.0]),
        lambda d: d["engines"][0]["acceptance"].update(ci95=[0.177, 2.451]),
        lambda d: d["engines"][0]["acceptance"].update(draft_acceptance_rate=1.2),
        lambda d: d["engines"][0]["lossless"].update(identical=-1),
        lambda d: d["engines"][0]["per_prompt"][0].update(tokens=[1]),
        lambda d: d["static"].update(problems=[{"severity": "fatal", "code": "x", "message": "y", "hint": None}]),
    ],
)
def test_what_does_not_fit_is_refused(change: Change) -> None:
    document = samples.report()
    change(document)
    with pytest.raises(ManifestError) as error:
        Report.from_json(document)
    assert error.value.code == "report-schema"


def test_a_failed_engine_without_a_log_or_with_a_pass_does_not_fit() -> None:
    for change in ({"verdict": "pass"}, {"log_tail": 7}):
        document = samples.failed()
        document["engines"][0].update(change)
        with pytest.raises(ManifestError):
            Report.from_json(document)
    document = samples.failed()
    del document["engines"][0]["log_tail"]
    with pytest.raises(ManifestError):
        Report.from_json(document)


def test_the_error_names_the_field(tmp_path: Path) -> None:
    document = samples.report()
    document["engines"][0]["device"] = "npu"
    with pytest.raises(ManifestError, match=r"engines\[0\]"):
        Report.from_json(document)


def test_saved_and_loaded_is_the_same(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    file.write_text("old")
    Report.from_json(samples.report()).save(file)
    assert load_report(file).document == samples.report()
    assert list(tmp_path.iterdir()) == [file]
    assert file.stat().st_mode & 0o777 == 0o666 & ~_umask()


@pytest.mark.parametrize("name", ["held-against-two", "three-engines", "not-run"])
def test_a_report_that_was_written_before_it_was_typed_keeps_its_bytes(name: str, tmp_path: Path) -> None:
    """Written when a report was a dictionary: preflight, server, expected counters, an earlier run, and a failure."""
    written = FIXTURES / f"report-{name}.json"
    load_report(written).save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == written.read_bytes()


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "report.json"
    file.write_text("old")

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="disk is full"):
        Report.from_json(samples.report()).save(file)
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_an_unreadable_report_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="cannot read"):
        load_report(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ManifestError, match="not valid JSON"):
        load_report(tmp_path / "bad.json")


def shown(document: dict[str, Any], saved: Path | None = None) -> str:
    out = Console(file=io.StringIO(), width=160, highlight=False)
    render(Report.from_json(document), out, saved=saved)
    assert isinstance(out.file, io.StringIO)
    return out.file.getvalue()


def test_people_see_the_verdict_first_and_then_what_it_rests_on() -> None:
    text = shown(samples.report(), Path("report.json"))
    assert text.startswith("PASS  all tensors loaded")
    for part in (
        "my-head (specjax layout, sha256:",
        f"vllm {VLLM} on cpu, float32",
        "τ = 1.380 tokens per round  95 % interval 1.200 – 1.900, 92 rounds",
        "1        27   29.0%",
        "–",
        "1 of 2 prompts give the target's own tokens; prompt 2 changes at new token 12",
        "every parameter of the head was filled from the file (unused: t2d)",
        "20.0 tokens/s alone, 25.0 with the head",
        "report    report.json",
    ):
        assert part in text
    assert max(len(line) for line in text.splitlines()) <= 130


def test_people_see_what_stood_in_for_an_engines_kernels() -> None:
    document = samples.report()
    assert "kernels" not in shown(document)
    document["engines"][0]["environment"]["kernels"] = "sgl_kernel 0+[stand-in]"
    assert "kernels   sgl_kernel 0+[stand-in]" in shown(document)


def test_a_failure_shows_the_log_and_markup_in_it_is_text() -> None:
    text = shown(samples.failed())
    assert text.startswith("FAIL  vLLM could not load the model with the head: ValueError: [no] such thing")
    assert "  ValueError: [no] such thing" in text


def test_problems_and_assumptions_are_shown() -> None:
    document = samples.report()
    document["verdict"] = document["static"]["verdict"] = "fail"
    document["engines"] = []
    document["static"]["problems"] = [
        {"severity": "error", "code": "vocab-zero", "message": "d2t is all zeros", "hint": "export again"}
    ]
    document["static"]["assumptions"] = [{"field": "aux", "value": [1, 14, 26], "why": "the default", "settle": "x"}]
    text = shown(document)
    assert text.startswith("FAIL  d2t is all zeros")
    assert "export again" in text
    assert "aux layers after 1, 14, 26: the default" in text


def test_one_prompt_and_sampling_say_what_is_not_known() -> None:
    document = samples.report()
    engine = document["engines"][0]
    engine["acceptance"].update(ci95=None, standard_error=None)
    engine["lossless"] = None
    engine["throughput"]["target_tokens_per_second"] = None
    document["settings"]["temperature"] = 0.7
    text = shown(document)
    assert "no interval: 1 prompt with rounds is too few for an interval; 8 or more are needed, 92 rounds" in text
    assert "not compared" in text
    assert "temperature 0.7" in text


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
