"""A report entry: what was counted, and everything that follows from it, derived again by every reader."""

from __future__ import annotations

import datetime
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eagle3hub import metrics
from eagle3hub._version import __version__
from eagle3hub.address import HubAddress, parse_address
from eagle3hub.checkpoint.digest import combined_digest
from eagle3hub.engines import ENGINES, get_engine
from eagle3hub.engines.base import EngineFailure, EngineRun, Job, LoadReport, Verdict, worst
from eagle3hub.engines.specs import engine_title, version_data
from eagle3hub.errors import ConfigError, InputError, UsageError
from eagle3hub.head import Head
from eagle3hub.prompts import PACKAGED, PromptSet, load_prompts
from eagle3hub.system.documents import nearly_equal
from eagle3hub.validation.gates import (
    COLLAPSE,
    Divergence,
    Gate,
    Lossless,
    against_reference,
    agreement,
    compare,
    judge,
)
from eagle3hub.validation.measurement import Reference, counters, measurement_of
from eagle3hub.validation.options import REFERENCE
from eagle3hub.validation.target import Target

if TYPE_CHECKING:
    from eagle3hub.head import Head

# What follows from what an engine counted: every number, gate and verdict of its entry in a report.
#
# `derive` fills an entry when it is measured, and `contradictions` derives the same again from a report that was read,
# so that nothing a report states has to be believed. What rests on nothing else in the report cannot be derived: the
# counters themselves, times, versions, what the engine said of loading, and the environment.


ALWAYS: Mapping[str, Any] = {"concurrency": 1, "chat_template": "the target's own", "system_prompt": None}
"""Settings that a validation has no option for."""

SPEED_NOTES = (
    "one sequence at a time; smoke test, not a benchmark",
    "the reference replays texts, it does not serve",
)
"""What is said beside the speed of a run: of an engine's, and of the reference's."""

SERVER = "server"
"""Device of a running server that does not say its own."""
_SLACK = 2
"""Tokens a response may have beyond those of its rounds: the one from prefill, and one decoded without a round."""


def expected_taps(head: Head) -> list[int] | None:
    """The boundary ids an engine must feed to the head, where the head says so and numbers can."""
    if head.aux is None or not head.semantics.uses_aux:
        return None
    try:
        return head.aux.boundary
    except ConfigError:
        return None


def head_name(source: str) -> str:
    """What recipes call a head, from the report's ``head.source``.

    Engines take a repository of the Hub by ``owner/name``; of a folder in one, or on this machine, its last component
    is said.
    """
    at = parse_address(source)
    if isinstance(at, HubAddress) and not at.folder:
        return at.repo_id
    return source.rstrip("/").rpartition("/")[2]


def derive(report: Mapping[str, Any], entry: Mapping[str, Any], taps: Sequence[int] | None) -> dict[str, Any]:
    """The derived fields of an engine's entry, from its counters, its load report and what it was held against.

    Args:
        report: the report, of which settings, prompts, target and head are read.
        entry: the entry with ``per_prompt``, ``load``, ``lossless.divergences`` (positions), ``unchecked``,
            ``reference_counts`` and ``earlier``.
        taps: boundary ids that the head was trained on; None where it does not say.

    Raises InputError (``metrics-counters``) for counters that no run can produce.
    """
    measured = measurement_of(report, entry)
    rows = entry["per_prompt"]
    counts = measured.counts
    found = metrics.acceptance_if_any(counts)
    lossless = _lossless(rows, entry)
    load = entry["load"]
    gates = _gates(report, entry)
    judged = judge(
        load=LoadReport(
            checked=load["checked"],
            not_loaded=tuple(load["not_loaded"]),
            ignored=tuple(load["ignored"]),
            aux_boundaries=None if load["aux_boundaries"] is None else tuple(load["aux_boundaries"]),
        ),
        expected_taps=taps,
        lossless=lossless,
        dtype=entry["dtype"],
        acceptance=found,
        min_acceptance_length=report["settings"]["min_acceptance_length"],
        gates=gates,
        unchecked=entry.get("unchecked", ()),
    )
    return {
        "verdict": judged.verdict,
        "reason": judged.reason,
        "gates": [gate.to_json() for gate in judged.gates],
        "acceptance": None if found is None else found.to_json(),
        "categories": metrics.by_category((row["category"], c) for row, c in zip(rows, counts, strict=True)),
        "lossless": None
        if lossless is None
        else {
            "identical": lossless.identical,
            "prompts": lossless.prompts,
            "divergences": [{"question_id": d.question_id, "position": d.position} for d in lossless.divergences],
        },
    }


def _lossless(rows: Sequence[Mapping[str, Any]], entry: Mapping[str, Any]) -> Lossless | None:
    """What the prompts' own ``identical`` amounts to, with the positions that the entry names."""
    if any(row["identical"] is None for row in rows):
        return None
    stated = entry.get("lossless") or {}
    at = {d["question_id"]: d["position"] for d in stated.get("divergences", ())}
    apart = [row["question_id"] for row in rows if not row["identical"]]
    return Lossless(
        identical=len(rows) - len(apart),
        prompts=len(rows),
        divergences=tuple(Divergence(question, at.get(question, 0)) for question in apart),
        by_reference="unchecked" in entry,
    )


def _gates(report: Mapping[str, Any], entry: Mapping[str, Any]) -> list[Gate]:
    """What a run is held against besides its own numbers: the reference's replay of its texts, an earlier run."""
    measured = measurement_of(report, entry)
    gates = []
    expected = entry.get("reference_counts")
    if expected is not None:
        if "unknown" in expected:
            said = f"the reference cannot be held against it: {expected['unknown']}"
            gates.append(Gate("agreement", "inconclusive", said))
        else:
            counts = tuple(counters(row) for row in expected["per_prompt"])
            gate = agreement(measured, replace(measured, engine=REFERENCE, counts=counts))
            if counts_within_response(entry["engine"]):
                how = f"counted as {engine_title(entry['engine'])} does: nothing past the response's end"
                gate = replace(gate, reason=f"{gate.reason}, {how}")
            gates.append(gate)
    if entry.get("earlier") is not None:
        gates.append(against_reference(measured, Reference.from_json(entry["earlier"])))
    return gates


def counts_within_response(engine: str) -> bool:
    """Whether an engine counts nothing past the response's end, so that the reference must count likewise."""
    return engine != REFERENCE and version_data(engine).counts_end_with_response


def contradictions(report: Mapping[str, Any], head: Head | None = None) -> list[str]:
    """What a report states and its own counters do not give, one sentence each; none where all of it follows.

    Args:
        report: a document that fits the schema.
        head: the head it is about, as its files say; None: what only the head knows is not checked.
    """
    found = [*_frame(report), *_static(report, head)]
    names = Counter((e["engine"], e["version"], e["device"]) for e in report["engines"])
    found += [f"{name} {version} has {n} entries" for (name, version, _), n in names.items() if n > 1]
    for entry in report["engines"]:
        name = f"{entry['engine']} {entry['version']}"
        found += [f"{name}: {what}" for what in _entry(report, entry, head)]
    verdicts: list[Verdict] = [report["static"]["verdict"], *(e["verdict"] for e in report["engines"])]
    if report["verdict"] != worst(verdicts):
        found.append(f"the verdict is stated as {report['verdict']}, and its entries amount to {worst(verdicts)}")
    return found


def _frame(report: Mapping[str, Any]) -> Iterator[str]:
    settings, prompts, head = report["settings"], report["prompts"], report["head"]
    for key, value in ALWAYS.items():
        if settings[key] != value:
            yield f"{key} is stated as {_short(settings[key])}, and a validation always has {_short(value)}"
    k = settings["draft_tokens"]
    if settings.get("topk", 1) == 1 and settings.get("num_draft_tokens", k + 1) != k + 1:
        yield f"{settings['num_draft_tokens']} verified tokens are stated, and a chain of {k} verifies {k + 1}"
    try:
        datetime.datetime.strptime(report["measured_at"], "%Y-%m-%dT%H:%M:%SZ")
    except ValueError:
        yield f"it was measured at {report['measured_at']}, which is no time"
    line = settings["collapse_acceptance_length"]
    if line != COLLAPSE:
        yield f"the collapse line is stated as {line:g}, and it is {COLLAPSE:g}"
    if sum(prompts["categories"].values()) != prompts["count"]:
        yield f"the categories hold {sum(prompts['categories'].values())} prompts, not {prompts['count']}"
    amounts = combined_digest({f["path"]: f["sha256"] for f in head["files"]})
    if amounts != head["digest"]:
        yield f"the head's files amount to {amounts}, not to {head['digest']}"
    if prompts["name"] in PACKAGED:
        try:
            packaged = load_prompts(prompts["name"], prompts["count"])
        except (InputError, UsageError):
            yield f"the set {prompts['name']} has no {prompts['count']} prompts"
            return
        if packaged.sha256 != prompts["sha256"]:
            yield f"the prompts are called {prompts['name']} and are not those of that set"
        for entry in report["engines"]:
            rows = entry.get("per_prompt")
            if rows and [r["question_id"] for r in rows] != [p.question_id for p in packaged.prompts]:
                yield f"{entry['engine']} has other questions than the set {prompts['name']}"


def _static(report: Mapping[str, Any], head: Head | None) -> Iterator[str]:
    static = report["static"]
    errors = any(p["severity"] == "error" for p in static["problems"])
    if static["verdict"] != ("fail" if errors else "pass"):
        yield f"the verdict on the files is stated as {static['verdict']}, and its problems say otherwise"
    if errors and report["engines"]:
        yield "there are engines' entries for files with errors, which are not run"
    if not errors and not report["engines"]:
        yield "no engine was run"
    if head is None:
        return
    if head.layout != report["head"]["layout"]:
        yield f"the layout is stated as {report['head']['layout']}, and the files are {head.layout}"
    stated = {p["code"] for p in static["problems"]}
    missing = sorted({p.code for p in head.problems if p.severity == "error"} - stated)
    if missing:
        yield f"the files have errors that are not stated: {', '.join(missing)}"


def _entry(report: Mapping[str, Any], entry: Mapping[str, Any], head: Head | None) -> Iterator[str]:
    settings = report["settings"]
    if entry["engine"] not in (REFERENCE, *ENGINES):
        yield "no engine is called so"
        return
    if entry["dtype"] != settings["dtype"]:
        yield f"the dtype is {entry['dtype']}, and the settings say {settings['dtype']}"
    if entry["device"] not in (settings["device"], SERVER):
        yield f"the device is {entry['device']}, and the settings say {settings['device']}"
    yield from _recipe(report, entry)
    rows = entry.get("per_prompt")
    if rows is None:
        return
    yield from _held(report, entry, rows)
    yield from _prompts(report, entry, rows)
    yield from _speed(entry, rows)
    taps = entry["load"]["aux_boundaries"] if head is None else expected_taps(head)
    try:
        follows = derive(report, entry, taps)
    except InputError as error:
        yield error.message
        return
    for key, value in follows.items():
        stated = entry.get(key)
        if nearly_equal(stated, value) or (key == "reason" and report["tool"]["version"] != __version__):
            continue
        yield from _apart(key, stated, value)


def _held(report: Mapping[str, Any], entry: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What every run is held against, and this one is not."""
    on_server = "unchecked" in entry
    if entry["device"] == SERVER and not on_server:
        yield "a running server's entry does not say what of it could not be checked"
    if entry["engine"] == REFERENCE:
        return
    alone = not on_server and report["settings"]["temperature"] == 0 and get_engine(entry["engine"]).runs_alone
    if alone and any(row["identical"] is None for row in rows):
        yield "its output was not compared with the target's own"
    refereed = any(one["engine"] == REFERENCE and "per_prompt" in one for one in report["engines"])
    if refereed and "reference_counts" not in entry:
        yield "it was not held against the reference, which the report has"


def _apart(name: str, stated: Any, follows: Any) -> Iterator[str]:
    """Every leaf in which two values differ, by its name."""
    if isinstance(stated, Mapping) and isinstance(follows, Mapping):
        for key in dict.fromkeys([*follows, *stated]):
            if not nearly_equal(stated.get(key), follows.get(key)):
                yield from _apart(f"{name}.{key}", stated.get(key), follows.get(key))
    elif _of_objects(stated) and _of_objects(follows) and len(stated) == len(follows):
        for i, (one, other) in enumerate(zip(stated, follows, strict=True)):
            if not nearly_equal(one, other):
                yield from _apart(f"{name}.{other.get('name', i)}", one, other)
    else:
        yield f"{name} is stated as {_short(stated)}, and the counters give {_short(follows)}"


def _of_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, Mapping) for one in value)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 160 else f"{text[:160]}…"


def _prompts(report: Mapping[str, Any], entry: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    settings, prompts = report["settings"], report["prompts"]
    if len(rows) != prompts["count"]:
        yield f"there are counters of {len(rows)} prompts, not of {prompts['count']}"
    if Counter(row["category"] for row in rows) != prompts["categories"]:
        yield "the prompts' categories are not those of the set"
    doubled = [q for q, n in Counter(row["question_id"] for row in rows).items() if n > 1]
    if doubled:
        yield f"the question {doubled[0]} is there twice"
    questions = {row["question_id"] for row in rows if row["identical"] is False}
    stated = (entry.get("lossless") or {}).get("divergences", ())
    if {d["question_id"] for d in stated} != questions:
        yield "the prompts that diverge are not those whose tokens differ"
    length = {row["question_id"]: row["new_tokens"] for row in rows}
    for d in stated:
        if d["position"] > length.get(d["question_id"], settings["max_new_tokens"]):
            yield f"prompt {d['question_id']} diverges at token {d['position']}, past its end"
    expected = (entry.get("reference_counts") or {}).get("per_prompt")
    if expected is not None and len(expected) != len(rows):
        yield f"it is held against {len(expected)} prompts of the reference, not {len(rows)}"
    for row in rows:
        yield from (f"prompt {row['question_id']}: {what}" for what in _prompt(settings, entry, row))


def _prompt(settings: Mapping[str, Any], entry: Mapping[str, Any], row: Mapping[str, Any]) -> Iterator[str]:
    positions, rounds, tokens = row["accepted_per_position"], row["rounds"], row["new_tokens"]
    k = settings["draft_tokens"]
    if len(positions) != k:
        yield f"{len(positions)} draft positions are counted, and K is {k}"
    if tokens > settings["max_new_tokens"]:
        yield f"{tokens} new tokens, where {settings['max_new_tokens']} were the most"
    if entry["device"] == SERVER or "unchecked" in entry:
        return  # other requests of a running server are among its counters
    emitted = rounds + sum(positions)
    least, most = emitted - k, emitted + _SLACK
    if not least <= tokens <= most:
        yield f"{tokens} new tokens, where {rounds} rounds with {sum(positions)} accepted give {least} to {most}"


def _speed(entry: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    note = SPEED_NOTES[entry["engine"] == REFERENCE]
    if entry["throughput"]["note"] != note:
        yield f"the note on its speed is not {note!r}"
    stated, seconds = entry["throughput"]["speculative_tokens_per_second"], entry["seconds"]["generate"]
    if stated is None:
        return
    tokens = sum(row["new_tokens"] for row in rows)
    low, high = tokens / (seconds + 0.001), tokens / max(seconds - 0.001, 1e-9)
    if not low - 0.01 <= stated <= high + 0.01:
        yield f"{stated:g} tokens per second are stated, and the prompts' {tokens} in {seconds:g} seconds are not that"


def _recipe(report: Mapping[str, Any], entry: Mapping[str, Any]) -> Iterator[str]:
    """A recipe is printed as what was tested, so it is made again from what it is for."""
    stated = entry["recipe"]
    if entry["engine"] == REFERENCE:
        if stated is not None:
            yield "the reference serves nothing, and a recipe is stated"
        return
    if stated is None:
        return
    engine = get_engine(entry["engine"])
    target, k = report["target"]["name"], report["settings"]["draft_tokens"]
    try:
        made = engine.recipe(target, head_name(report["head"]["source"]), draft_tokens=k).to_json()
    except InputError as error:
        yield error.message
        return
    if report["tool"]["version"] == __version__ and not nearly_equal(stated, made):
        yield "the recipe is not the one that this engine takes for this head and target"


# One engine's entry in a report.


@dataclass(frozen=True, slots=True)
class Measured:
    """What came of one engine: a run with the head, and at temperature 0 one of the target alone; or a failure.

    ``flags`` are the run's arguments, ``recipe`` how to serve the head on this engine (None: it does not serve),
    ``preflight`` what was expected of the files (None: of the reference nothing is). ``device`` is that of a running
    server (``server`` if it does not say). It cannot run the target alone: ``own_output`` is the reference's instead.
    """

    engine: str
    version: str
    outcome: EngineRun | EngineFailure
    base: EngineRun | None
    flags: Mapping[str, Any]
    recipe: Mapping[str, Any] | None
    preflight: Mapping[str, Any] | None = None
    device: str | None = None
    own_output: EngineRun | None = None


def entry_of(
    measured: Measured,
    job: Job,
    head: Head,
    frame: Mapping[str, Any],
    expected: Sequence[metrics.Counts] | str | None = None,
    earlier: Reference | None = None,
) -> dict[str, Any]:
    """The entry: what ran, what was counted, and everything that follows from it (`derive`).

    Args:
        frame: the report, as far as it is known: settings, prompts, target, head.
        expected: what the reference counts on the engine's own texts, prompt by prompt; why that cannot be known; or
            None where the run is not held against it.
        earlier: an earlier measurement that the run is held against.
    """
    run, base = measured.outcome, measured.base
    if isinstance(run, EngineFailure):
        common = _common(measured, job, measured.version, run.verdict, run.reason)
        return {**common, "log_tail": list(run.log_tail)}
    prompts = job.prompts
    alone = _without_head(measured, run)
    lossless = None if alone is None else compare([p.question_id for p in prompts.prompts], alone, run)
    unchecked = list(run.unchecked)
    if unchecked and lossless is None and job.temperature == 0:
        unchecked.append("its output without the head")
    assert run.load is not None
    taps = run.load.aux_boundaries
    entry = {
        **_common(measured, job, run.version, "inconclusive", "-"),
        "gates": [],
        **({"unchecked": unchecked} if unchecked else {}),
        **({"environment": dict(run.environment)} if run.environment else {}),
        "acceptance": None,
        "categories": {},
        "lossless": None
        if lossless is None
        else {"divergences": [{"question_id": d.question_id, "position": d.position} for d in lossless.divergences]},
        "load": {
            "checked": run.load.checked,
            "not_loaded": list(run.load.not_loaded),
            "ignored": list(run.load.ignored),
            "aux_boundaries": list(taps) if taps else None,
        },
        "throughput": _throughput(run, base) if measured.recipe is not None else _no_throughput(),
        "per_prompt": _per_prompt(prompts, run, alone),
        **({} if expected is None else {"reference_counts": _reference_counts(expected)}),
        **({} if earlier is None else {"earlier": earlier.to_json()}),
        "seconds": {"start": round(run.start_seconds, 3), "generate": round(run.generate_seconds, 3)},
    }
    return entry | derive(frame, entry, expected_taps(head))


def _reference_counts(expected: Sequence[metrics.Counts] | str) -> dict[str, Any]:
    return (
        {"unknown": expected}
        if isinstance(expected, str)
        else {"per_prompt": [counts.to_json() for counts in expected]}
    )


def public(flags: Any, job: Job, head: str, target: Target) -> Any:
    """The flags with names in place of this machine's paths."""
    if isinstance(flags, dict):
        return {key: public(value, job, head, target) for key, value in flags.items()}
    if isinstance(flags, str | Path) and job.head is not None and str(flags) == str(job.head):
        return head
    return target.name if flags == job.target else flags


def _common(measured: Measured, job: Job, version: str, verdict: str, reason: str) -> dict[str, Any]:
    return {
        "engine": measured.engine,
        "version": version,
        "device": measured.device or job.device,
        "dtype": job.dtype,
        "verdict": verdict,
        "reason": reason,
        "flags": dict(measured.flags),
        "recipe": None if measured.recipe is None else dict(measured.recipe),
        **({} if measured.preflight is None else {"preflight": dict(measured.preflight)}),
    }


def _without_head(measured: Measured, run: EngineRun) -> EngineRun | None:
    """What the output is held against: the target alone on the engine, or the reference if it was asked the same."""
    own = measured.own_output
    if measured.base is not None or own is None:
        return measured.base
    same = [p.prompt_tokens for p in own.prompts] == [p.prompt_tokens for p in run.prompts]
    return own if same else None


def _throughput(run: EngineRun, base: EngineRun | None) -> dict[str, Any]:
    return {
        "target_tokens_per_second": base.tokens_per_second if base is not None else None,
        "speculative_tokens_per_second": run.tokens_per_second,
        "note": SPEED_NOTES[False],
    }


def _no_throughput() -> dict[str, Any]:
    return {
        "target_tokens_per_second": None,
        "speculative_tokens_per_second": None,
        "note": SPEED_NOTES[True],
    }


def _per_prompt(prompts: PromptSet, run: EngineRun, base: EngineRun | None) -> list[dict[str, Any]]:
    rows = []
    for index, (prompt, result) in enumerate(zip(prompts.prompts, run.prompts, strict=True)):
        counts = result.counts
        assert counts is not None
        rows.append(
            {
                "question_id": prompt.question_id,
                "category": prompt.category,
                "prompt_tokens": result.prompt_tokens,
                "new_tokens": len(result.tokens),
                "rounds": counts.rounds,
                "drafted": counts.drafted,
                "accepted": counts.accepted,
                "accepted_per_position": list(counts.accepted_per_position),
                "identical": result.tokens == base.prompts[index].tokens if base is not None else None,
                "tokens_sha256": hashlib.sha256(json.dumps(list(result.tokens)).encode()).hexdigest(),
            }
        )
    return rows
