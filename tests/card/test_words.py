"""What a card may and may not say, by what the reports say: passed, replayed, failed, inconclusive, not run."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import card_samples as samples
import pytest
import yaml
from support.versions import VLLM

from eagle3hub.card import Manifest, Shown, render_text
from eagle3hub.card.manifest import EngineNote

Report = dict[str, Any]
STYLES = ("standard", "short", "model-card-plus-plus")


def engine(name: str = "vllm", verdict: str = "pass", **changes: Any) -> Report:
    """A report of one run."""
    if name != "reference":
        return samples.make_report(engine=name, verdict=verdict, **changes)
    report = samples.make_report(engine=name, verdict=verdict, recipe=None, version="0.1.0", **changes)
    for row in report["engines"][0]["per_prompt"]:
        row["identical"] = None
    return samples.settled(report)


def absent(name: str = "vllm") -> Report:
    """A report of an engine that could not be run."""
    return engine(name, "unavailable")


def static() -> Report:
    """A report of files that were not run, since they are wrong."""
    report = samples.make_report()
    problem = {"severity": "error", "code": "vocab-zero", "message": "d2t is all zeros", "hint": None}
    found = {"verdict": "fail", "problems": [problem], "assumptions": []}
    return report | {"verdict": "fail", "engines": [], "static": found}


def joined(*reports: Report) -> Report:
    """One report with the runs of several: its verdict is the worst of theirs."""
    order = ("pass", "inconclusive", "unavailable", "fail")
    worst = max((r["verdict"] for r in reports), key=order.index)
    entries = [e for r in reports for e in r["engines"]]
    if any(e["engine"] == "reference" for e in entries):
        entries = [e if e["engine"] == "reference" or "per_prompt" not in e else _held(e) for e in entries]
    return samples.settled(reports[0] | {"verdict": worst, "engines": entries})


def _held(entry: dict[str, Any]) -> dict[str, Any]:
    """The entry of an engine that the reference's own counters were held against."""
    kept = ("rounds", "drafted", "accepted_per_position")
    return entry | {"reference_counts": {"per_prompt": [{k: row[k] for k in kept} for row in entry["per_prompt"]]}}


def served() -> Report:
    """A report of a running server, which shows neither its tensors nor what the target writes alone."""
    report = engine(device="server", unchecked=["which tensors were loaded"])
    found = report["engines"][0]
    found["load"] = {"checked": False, "not_loaded": [], "ignored": [], "aux_boundaries": None}
    kept = ("rounds", "drafted", "accepted_per_position")
    found["reference_counts"] = {"per_prompt": [{key: row[key] for key in kept} for row in found["per_prompt"]]}
    return samples.settled(report)


@dataclass(frozen=True)
class Case:
    """``says`` must stand on the card in every style, ``never`` in none: patterns. ``tags`` are those of engines."""

    reports: Callable[[], list[Report]]
    says: tuple[str, ...] = ()
    never: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    results: int = 0
    waived: tuple[str, ...] = ()


PASSED = r"tokens per verification step\*\*"
LOADS = r"the engine loads these files"
COMMAND = r"^vllm serve"
WARNED = "⚠️"
FAILED = r"did not pass validation: it failed"
OPEN = r"did not pass validation: what was measured is inconclusive"
NOT_RUN = r"was not validated"
CASES = {
    "an engine passed": Case(
        lambda: [engine()],
        (
            r"With vLLM 0\.32\.0 on CPU .* the target emitted",
            LOADS,
            COMMAND,
            "the version these files were tested with",
        ),
        (WARNED, "No engine", "No command", "no engine ran", "inconclusive", "could not"),
        ("vllm",),
        1,
    ),
    "the reference alone": Case(
        lambda: [engine("reference")],
        (
            r"which replays the target's own text and serves nothing",
            r"No engine was run with these files\.",
            r"No engine was run here with these files, so no tested command is printed\.",
            r"the target accepts tokens the head drafts; no engine ran in it",
        ),
        (WARNED, LOADS, COMMAND, "the target emitted", "identical to", "passed a test", "pass validation"),
        (),
        1,
    ),
    "the reference and an engine": Case(
        lambda: [joined(engine("reference"), engine())],
        (r"With vLLM 0\.32\.0 on CPU .* the target emitted", LOADS, COMMAND),
        (WARNED, "No engine was run", "which replays"),
        ("vllm",),
        2,
    ),
    "an engine failed": Case(
        lambda: [engine(verdict="fail")],
        (
            FAILED,
            r"CPU, float32, SpecForge layout: fail\.\*\* no tensor of the file fills fc\.weight",
            "No engine passed here with these files",
        ),
        (PASSED, LOADS, COMMAND, NOT_RUN, "inconclusive", "Nothing has been measured", "It shows that"),
    ),
    "an engine was inconclusive": Case(
        lambda: [engine(verdict="inconclusive")],
        (OPEN, r"SpecForge layout: inconclusive\.", "What engines made of these files here is inconclusive"),
        (PASSED, LOADS, COMMAND, NOT_RUN, "failed", r"\bfail\b", "Nothing has been measured", "It shows that"),
    ),
    "an engine could not be run": Case(
        lambda: [absent()],
        (
            r"was not validated: nothing that it was to be run on could be run",
            r"SpecForge layout: could not run\.",
            r"No engine could be run here with these files",
            r"Nothing has been measured with these files",
        ),
        ("pass validation", PASSED, LOADS, COMMAND, "failed", r"\bfail\b", "inconclusive", "No engine was run"),
    ),
    "the files are wrong": Case(
        lambda: [static()],
        (FAILED, "d2t is all zeros", "they failed the checks that come before a run", "No engine was run here"),
        (PASSED, LOADS, COMMAND, NOT_RUN, "inconclusive", "could not"),
    ),
    "there is no report": Case(
        list,
        (
            r"This release was not validated\.",
            r"Nothing has been measured with these files yet",
            r"No engine was run here with these files, so no tested command is printed",
        ),
        ("pass validation", PASSED, LOADS, COMMAND, "failed", r"\bfail\b", "inconclusive", "could not"),
    ),
    "a failure was waived": Case(
        lambda: [engine(verdict="fail")],
        (FAILED,),
        (PASSED, LOADS, COMMAND),
        waived=("publish-report",),
    ),
    "the reference passed, an engine failed": Case(
        lambda: [joined(engine("reference"), engine(verdict="fail"))],
        (r"did not pass validation: part of it failed", r"vLLM 0\.32\.0 on CPU, .*: fail\."),
        (PASSED, LOADS, COMMAND, NOT_RUN, "No engine was run"),
    ),
    "one engine passed, another could not be run": Case(
        lambda: [joined(engine(), absent("sglang"))],
        (
            r"was not validated in full\.",
            r"SGLang 0\.32\.0 on CPU, .*: could not run\.",
            "the report in which an engine passed did not pass as a whole",
        ),
        (COMMAND, "pass validation", r"\bfail\b", "No engine"),
    ),
    "two reports, one engine could not be run": Case(
        lambda: [engine(), absent("sglang")],
        (r"was not validated in full\.", COMMAND, LOADS),
        ("pass validation", r"\bfail\b", "No engine"),
        ("vllm",),
        1,
    ),
    "the main layout passed, another failed": Case(
        lambda: [engine(), samples.make_report("modelopt", verdict="fail")],
        (r"did not pass validation: part of it failed", r"NVIDIA ModelOpt layout: fail", COMMAND),
        (NOT_RUN, "No engine"),
        ("vllm",),
        1,
    ),
    "only another layout passed": Case(
        lambda: [samples.make_report("modelopt")],
        (
            r"The files in the root of this repository were not validated\.",
            r"no report covers the files of this repository's root",
            r"No engine was run here with the files in this repository's root",
        ),
        (COMMAND, LOADS, "pass validation", r"\bfail\b", r"\btarget emitted"),
    ),
    "a running server passed": Case(
        lambda: [served()],
        (r"identical to what the reference wrote", r"It shows that the target accepts tokens the head drafts\."),
        (WARNED, LOADS, "the target's own, token for token"),
        ("vllm",),
        1,
    ),
}


def prose(text: str) -> str:
    """The card without its metadata."""
    return text.split("\n---\n", 1)[1]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("name", CASES)
def test_what_it_says(example: Manifest, name: str, style: str) -> None:
    case = CASES[name]
    manifest = replace(example, style=style)
    text = render_text(manifest, samples.typed(*case.reports()), samples.make_head(), shown=Shown(waived=case.waived))
    body = prose(text)
    for pattern in case.says:
        assert re.search(pattern, body, re.M), f"{pattern!r} is missing"
    for pattern in case.never:
        found = re.search(pattern, body, re.M)
        assert not found, f"{body[max(0, found.start() - 80) : found.end() + 80]!r}"
    metadata = yaml.safe_load(text.split("---\n")[1])
    assert metadata["tags"] == ["eagle3", "speculative-decoding", "draft-model", *case.tags]
    assert "library_name" not in metadata
    results = metadata.get("model-index", [{"results": []}])[0]["results"]
    assert sum(len(result["metrics"]) for result in results) == case.results
    if case.waived and style != "short":
        assert "Published although these checks may not hold: `publish-report`" in body


NOTED = {
    "passed here": lambda: [engine()],
    "failed here": lambda: [engine(verdict="fail")],
    "tested here, inconclusive": lambda: [engine(verdict="inconclusive")],
    "could not be run here": lambda: [absent()],
    "not tested here": lambda: [engine("reference")],
    "passed here with another layout": lambda: [samples.make_report("modelopt")],
}


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("became", NOTED)
def test_an_engine_that_the_makers_name(example: Manifest, became: str, style: str) -> None:
    note = EngineNote(engine="vllm", note="They recommend it.")
    manifest = replace(example, style=style, engines=(note,))
    body = prose(render_text(manifest, samples.typed(*NOTED[became]()), samples.make_head()))
    assert re.findall(r"^### (vLLM, .+)$", body, re.M) == [f"vLLM, {became}"]
    assert "They recommend it." in body
    assert body.count("vllm serve") == (0 if became == "failed here" else 1)
    assert ("never run with these files" in body) == (became == "not tested here")
    assert ("as it has not passed a test" in body) == (
        became in ("tested here, inconclusive", "could not be run here", "passed here with another layout")
    )
    assert ("the version these files were tested with" in body) == (became == "passed here")


def test_tables_tell_the_verdicts_apart(example: Manifest) -> None:
    runs = [engine(), engine("sglang", "fail"), engine("trtllm", "inconclusive"), absent("sglang_jax")]
    body = prose(render_text(example, samples.typed(*runs), samples.make_head()))
    rows = [line for line in body.splitlines() if line.startswith("| SpecForge | root |")]
    assert len(rows) == 1
    for words in (f"vLLM {VLLM}, CPU: pass", f"SGLang {VLLM}, CPU: fail", f"TensorRT-LLM {VLLM}, CPU: inconclusive"):
        assert words in rows[0]
    assert f"sglang-jax {VLLM}, CPU: could not run" in rows[0] and "not run" not in rows[0].replace(
        "could not run", ""
    )
    assert re.search(r"^\| NVIDIA ModelOpt \| `modelopt/` .+ \| not run \|$", body, re.M)
    lengths = [line for line in body.splitlines() if "**1.45** |" in line]
    assert [line.split("|")[-2].strip() for line in lengths] == ["fail", "inconclusive", "pass"]
    reports = [line.split("|")[2].strip() for line in body.splitlines() if line.startswith("| SpecForge | ")][1:]
    assert sorted(reports) == ["could not run", "fail", "inconclusive", "pass"]


def test_no_verdict_column_where_all_passed(example: Manifest) -> None:
    body = prose(render_text(example, samples.typed(engine()), samples.make_head()))
    assert "| Drafted tokens accepted |\n" in body
