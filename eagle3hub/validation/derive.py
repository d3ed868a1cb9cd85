"""An engine's entry in a report: what was counted, and everything that follows from it.

`entry_of` makes an entry when an engine has run. `derive` computes its verdict, gates and rates from its counters, and
`contradictions` computes the same again for a report that was read, so that nothing a report states has to be
believed. Some things cannot be derived: the counters themselves, times, versions, what the engine said about loading,
and the environment.
"""

from __future__ import annotations

import datetime
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eagle3hub import metrics
from eagle3hub._version import __version__
from eagle3hub.address import HubAddress, parse_address
from eagle3hub.checkpoint.digest import combined_digest
from eagle3hub.engines import ENGINES, get_engine
from eagle3hub.engines.base import EngineFailure, EngineRun, Recipe, RunSpec, Verdict, merged, worst_verdict
from eagle3hub.engines.options import check_engine_settings, template_in_words
from eagle3hub.engines.preflight.contracts import PreflightVerdict as Preflight
from eagle3hub.engines.specs import engine_title, version_data
from eagle3hub.errors import ConfigError, InputError, ManifestError, UsageError
from eagle3hub.head import Head
from eagle3hub.prompts import PACKAGED, load_prompts
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
from eagle3hub.validation.measurement import Measurement, Reference
from eagle3hub.validation.options import REFERENCE
from eagle3hub.validation.report import (
    Counted,
    EngineRow,
    Entry,
    Expected,
    NotRun,
    RecipeText,
    Report,
    Throughput,
)
from eagle3hub.validation.target import Target

SERVER = "server"
"""Device of a running server that does not say its own."""
ALWAYS: Mapping[str, int] = {"concurrency": 1}
"""Settings that a validation has no option for."""

SPEED_OF_ENGINE = "one sequence at a time; smoke test, not a benchmark"
SPEED_OF_REFERENCE = "the reference replays texts, it does not serve"
_SLACK = 2
"""Tokens that a response may have beyond those of its rounds: one from prefill, and one decoded without a round."""
_DERIVED = ("verdict", "reason", "gates", "acceptance", "categories", "lossless")

# What follows from an engine's counters.


def expected_taps(head: Head) -> list[int] | None:
    """The boundary ids an engine must feed to the head; None where the head does not say, or numbers cannot."""
    if head.aux is None or not head.semantics.uses_aux:
        return None
    try:
        return head.aux.boundary
    except ConfigError:
        return None


def head_name(source: str) -> str:
    """What recipes call a head, from the report's ``head.source``.

    Engines take a repository of the Hub by ``owner/name``. A folder in one, or on this machine, goes by its last
    component.
    """
    at = parse_address(source)
    if isinstance(at, HubAddress) and not at.folder:
        return at.repo_id
    return source.rstrip("/").rpartition("/")[2]


def derive(report: Report, entry: Entry, taps: Sequence[int] | None) -> Entry:
    """The entry with everything that follows from its counters: verdict, reason, gates, acceptance, lossless.

    Args:
        report: the report, whose settings, prompts, target and head count.
        entry: an entry that counted something; what it states of the derived fields is not looked at, except the
            evidence of each divergence: position, tokens, margin.
        taps: boundary ids that the head was trained on; None where it does not say.

    Raises InputError (``metrics-counters``) for prompts with different numbers of draft positions.
    """
    outcome = entry.outcome
    if not isinstance(outcome, Counted):
        return entry
    acceptance = metrics.acceptance_if_any(outcome.counts)
    lossless = _lossless(outcome, entry.dtype)
    judged = judge(
        load=outcome.load,
        expected_taps=taps,
        lossless=lossless,
        dtype=entry.dtype,
        acceptance=acceptance,
        min_acceptance_length=report.settings.min_acceptance_length,
        gates=_gates(report, entry, outcome),
        unchecked=outcome.unchecked,
    )
    derived = replace(
        outcome,
        gates=judged.gates,
        acceptance=acceptance,
        categories=metrics.by_category((row.category, row.counts) for row in outcome.per_prompt),
        lossless=lossless,
    )
    return replace(entry, verdict=judged.verdict, reason=judged.reason, outcome=derived)


def _lossless(outcome: Counted, dtype: str) -> Lossless | None:
    """How many prompts are identical, by their own rows, and what the entry's evidence says of the others."""
    rows, stated = outcome.per_prompt, outcome.lossless
    if any(row.identical is None for row in rows):
        return None
    known = {} if stated is None else {d.question_id: d for d in stated.divergences}
    diverging = [row.question_id for row in rows if not row.identical]
    found = Lossless(
        identical=len(rows) - len(diverging),
        prompts=len(rows),
        divergences=tuple(known.get(question, Divergence(question, 0)) for question in diverging),
        by_reference=outcome.attached,
    )
    unjudged = stated is not None and stated.verdict is None  # by an earlier version
    return found if unjudged else found.judged(dtype)


def _gates(report: Report, entry: Entry, outcome: Counted) -> list[Gate]:
    """The gates that need another measurement: the reference on the same texts, and an earlier run."""
    measured = report.measurement(entry)
    gates = []
    if outcome.expected is not None:
        gates.append(_agreement_with(outcome.expected, entry.engine, measured))
    if outcome.earlier is not None:
        gates.append(against_reference(measured, outcome.earlier))
    return gates


def _agreement_with(expected: Expected, engine: str, measured: Measurement) -> Gate:
    if expected.unknown:
        reason = f"the reference cannot be held against it: {expected.unknown}"
        return Gate("agreement", "inconclusive", reason)
    gate = agreement(measured, replace(measured, engine=REFERENCE, counts=expected.counts))
    if counts_within_response(engine):
        how = f"counted as {engine_title(engine)} does: nothing past the response's end"
        return replace(gate, reason=f"{gate.reason}, {how}")
    return gate


def counts_within_response(engine: str) -> bool:
    """Whether an engine counts nothing past the response's end; the reference must then count the same way."""
    return engine != REFERENCE and version_data(engine).counts_end_with_response


# What a report states that does not follow from it.


def check_derived(report: Report) -> None:
    """Raise ManifestError (``report-contradiction``) for the first number that a report's counters do not give."""
    for fault in contradictions(report):
        raise ManifestError(
            f"the report of the {report.head.layout} layout contradicts itself: {fault}",
            hint="reports are written by eagle3hub validate and not edited; measure again",
            code="report-contradiction",
        )


def contradictions(report: Report, head: Head | None = None) -> list[str]:
    """What a report states and its own counters do not give, one sentence each; none where all of it follows.

    ``head`` is the head that the report is about; without it, what only the head's files say is not checked.
    """
    found = [*_frame(report), *_static(report, head)]
    entries = Counter((e.name, e.device) for e in report.engines)
    found += [f"{name} has {n} entries" for (name, _), n in entries.items() if n > 1]
    for entry in report.engines:
        found += [f"{entry.name}: {what}" for what in _entry(report, entry, head)]
    verdict = verdict_of(report)
    if report.verdict != verdict:
        found.append(f"the verdict is stated as {report.verdict}, and its entries amount to {verdict}")
    return found


def verdict_of(report: Report) -> Verdict:
    """The worst verdict of the static checks and the engines' entries."""
    return worst_verdict([report.static.verdict, *(entry.verdict for entry in report.engines)])


def _frame(report: Report) -> Iterator[str]:
    prompts, head = report.prompts, report.head
    line = report.settings.collapse_acceptance_length
    if line != COLLAPSE:
        yield f"the collapse line is stated as {line:g}, and it is {COLLAPSE:g}"
    yield from _settings(report)
    if sum(prompts.categories.values()) != prompts.count:
        yield f"the categories hold {sum(prompts.categories.values())} prompts, not {prompts.count}"
    digest = combined_digest({f["path"]: f["sha256"] for f in head.files})
    if digest != head.digest:
        yield f"the head's files amount to {digest}, not to {head.digest}"
    if prompts.name in PACKAGED:
        try:
            packaged = load_prompts(prompts.name, prompts.count).with_system(report.settings.system_prompt)
        except (InputError, UsageError):
            yield f"the set {prompts.name} has no {prompts.count} prompts"
            return
        if packaged.sha256 != prompts.sha256:
            yield f"the prompts are called {prompts.name} and are not those of that set"
        questions = [p.question_id for p in packaged.prompts]
        for entry in report.engines:
            if entry.counted and [row.question_id for row in entry.counted.per_prompt] != questions:
                yield f"{entry.engine} has other questions than the set {prompts.name}"


def _settings(report: Report) -> Iterator[str]:
    settings = report.settings
    for key, value in ALWAYS.items():
        stated = getattr(settings, key)
        if stated != value:
            yield f"{key} is stated as {_short(stated)}, and a validation always has {_short(value)}"
    rendered = template_in_words(settings.engine_settings.chat_template)
    if settings.chat_template != rendered:
        yield f"chat_template is stated as {_short(settings.chat_template)}, and its arguments give {_short(rendered)}"
    try:
        check_engine_settings(settings.engine_settings)
    except UsageError as error:
        yield f"its engine settings cannot have been run: {error.message}"
    started = [e.engine for e in report.engines if e.engine != REFERENCE and not _is_attached(e)]
    if settings.engine_settings != settings.engine_settings.of_run(started):
        yield "engine settings are stated for engines that were not started"
    k, verified = settings.draft_tokens, settings.num_draft_tokens
    if settings.topk in (None, 1) and verified not in (None, k + 1):
        yield f"{verified} verified tokens are stated, and a chain of {k} verifies {k + 1}"
    try:
        datetime.datetime.strptime(report.measured_at, "%Y-%m-%dT%H:%M:%SZ")
    except ValueError:
        yield f"it was measured at {report.measured_at}, which is no time"


def _static(report: Report, head: Head | None) -> Iterator[str]:
    static = report.static
    if static.verdict != ("fail" if static.errors else "pass"):
        yield f"the verdict on the files is stated as {static.verdict}, and its problems say otherwise"
    if static.errors and report.engines:
        yield "there are engines' entries for files with errors, which are not run"
    if not static.errors and not report.engines:
        yield "no engine was run"
    if head is None:
        return
    if head.layout != report.head.layout:
        yield f"the layout is stated as {report.head.layout}, and the files are {head.layout}"
    stated = {problem.code for problem in static.problems}
    missing = sorted({p.code for p in head.problems if p.severity == "error"} - stated)
    if missing:
        yield f"the files have errors that are not stated: {', '.join(missing)}"


def _entry(report: Report, entry: Entry, head: Head | None) -> Iterator[str]:
    settings, outcome = report.settings, entry.outcome
    if entry.engine not in (REFERENCE, *ENGINES):
        yield "no engine is called so"
        return
    if entry.dtype != settings.dtype:
        yield f"the dtype is {entry.dtype}, and the settings say {settings.dtype}"
    if entry.device not in (settings.device, SERVER):
        yield f"the device is {entry.device}, and the settings say {settings.device}"
    yield from _recipe(report, entry)
    yield from _started_with(report, entry)
    if not isinstance(outcome, Counted):
        return
    yield from _prompts(report, entry, outcome)
    yield from _gates_missing(report, entry, outcome)
    yield from _speed(entry, outcome)
    taps = outcome.load.aux_boundaries if head is None else expected_taps(head)
    try:
        follows = derive(report, entry, taps).to_json()
    except InputError as error:
        yield error.message
        return
    stated = entry.to_json()
    for key in _DERIVED:
        same_tool = report.tool_version == __version__
        if not nearly_equal(stated[key], follows[key]) and (key != "reason" or same_tool):
            yield from _unlike(key, stated[key], follows[key])


def _gates_missing(report: Report, entry: Entry, outcome: Counted) -> Iterator[str]:
    """What every run is held against, and this one is not."""
    if entry.device == SERVER and not outcome.attached:
        yield "a running server's entry does not say what of it could not be checked"
    if entry.engine == REFERENCE:
        return
    greedy = report.settings.temperature == 0
    runs_alone = not outcome.attached and greedy and get_engine(entry.engine).runs_alone
    if runs_alone and any(row.identical is None for row in outcome.per_prompt):
        yield "its output was not compared with the target's own"
    has_reference = any(one.engine == REFERENCE and one.counted for one in report.engines)
    if has_reference and outcome.expected is None:
        yield "it was not held against the reference, which the report has"


def _unlike(name: str, stated: Any, follows: Any) -> Iterator[str]:
    """Every leaf in which two JSON values differ, by its name."""
    if isinstance(stated, Mapping) and isinstance(follows, Mapping):
        for key in dict.fromkeys([*follows, *stated]):
            if not nearly_equal(stated.get(key), follows.get(key)):
                yield from _unlike(f"{name}.{key}", stated.get(key), follows.get(key))
    elif _of_objects(stated) and _of_objects(follows) and len(stated) == len(follows):
        for i, (one, other) in enumerate(zip(stated, follows, strict=True)):
            if not nearly_equal(one, other):
                yield from _unlike(f"{name}.{other.get('name', i)}", one, other)
    else:
        yield f"{name} is stated as {_short(stated)}, and the counters give {_short(follows)}"


def _of_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, Mapping) for one in value)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 160 else f"{text[:160]}…"


def _prompts(report: Report, entry: Entry, outcome: Counted) -> Iterator[str]:
    settings, prompts, rows = report.settings, report.prompts, outcome.per_prompt
    if len(rows) != prompts.count:
        yield f"there are counters of {len(rows)} prompts, not of {prompts.count}"
    if Counter(row.category for row in rows) != prompts.categories:
        yield "the prompts' categories are not those of the set"
    doubled = [q for q, n in Counter(row.question_id for row in rows).items() if n > 1]
    if doubled:
        yield f"the question {doubled[0]} is there twice"
    stated = () if outcome.lossless is None else outcome.lossless.divergences
    if {d.question_id for d in stated} != {row.question_id for row in rows if row.identical is False}:
        yield "the prompts that diverge are not those whose tokens differ"
    length = {row.question_id: row.new_tokens for row in rows}
    for d in stated:
        if d.position > length.get(d.question_id, settings.max_new_tokens):
            yield f"prompt {d.question_id} diverges at token {d.position}, past its end"
        if d.verdict is not None and d.tokens[0] == d.tokens[1]:
            yield f"prompt {d.question_id} is said to diverge, and both of its tokens are {d.tokens[0]}"
    expected = outcome.expected
    if expected is not None and not expected.unknown and len(expected.counts) != len(rows):
        yield f"it is held against {len(expected.counts)} prompts of the reference, not {len(rows)}"
    is_server = entry.device == SERVER or outcome.attached
    for row in rows:
        yield from (f"prompt {row.question_id}: {what}" for what in _prompt(report, row, is_server=is_server))


def _prompt(report: Report, row: EngineRow, *, is_server: bool) -> Iterator[str]:
    counts, tokens = row.counts, row.new_tokens
    k, most_tokens = report.settings.draft_tokens, report.settings.max_new_tokens
    if len(counts.accepted_per_position) != k:
        yield f"{len(counts.accepted_per_position)} draft positions are counted, and K is {k}"
    if tokens > most_tokens:
        yield f"{tokens} new tokens, where {most_tokens} were the most"
    if is_server:
        return  # its counters may hold other requests too
    least, most = counts.emitted - k, counts.emitted + _SLACK
    if not least <= tokens <= most:
        yield (
            f"{tokens} new tokens, where {counts.rounds} rounds with {counts.accepted} accepted give {least} to {most}"
        )


def _speed(entry: Entry, outcome: Counted) -> Iterator[str]:
    note = SPEED_OF_REFERENCE if entry.engine == REFERENCE else SPEED_OF_ENGINE
    if outcome.throughput.note != note:
        yield f"the note on its speed is not {note!r}"
    stated, seconds = outcome.throughput.speculative_tokens_per_second, outcome.generate_seconds
    if stated is None:
        return
    tokens = sum(row.new_tokens for row in outcome.per_prompt)
    low, high = tokens / (seconds + 0.001), tokens / max(seconds - 0.001, 1e-9)
    if not low - 0.01 <= stated <= high + 0.01:
        yield f"{stated:g} tokens per second are stated, and the prompts' {tokens} in {seconds:g} seconds are not that"


def _is_attached(entry: Entry) -> bool:
    """Whether an engine was a running server; one that shows its device is known by its flags."""
    return entry.device == SERVER or "endpoint" in entry.flags


def _started_with(report: Report, entry: Entry) -> Iterator[str]:
    """Hold the flags of a run against the engine settings that the report states."""
    settings, flags = report.settings.engine_settings, entry.flags
    arguments = flags.get("llm") or flags.get("engine")
    if entry.engine == REFERENCE or not isinstance(arguments, Mapping):
        return
    devices = arguments.get("tensor_parallel_size", arguments.get("tp_size", 1))
    if devices != settings.tensor_parallel:
        yield f"it ran on {devices} devices, and the settings say {settings.tensor_parallel}"
    given = dict(settings.arguments.get(entry.engine, {}))
    if isinstance(draft := flags.get("draft"), Mapping) and "speculative_config" in given:
        arguments = {**arguments, "speculative_config": draft}  # TensorRT-LLM's
    if merged(arguments, given) != arguments:
        yield "its flags are not those that the engine settings state"
    own, variables = flags.get("env"), settings.environment.get(entry.engine, {})
    if isinstance(own, Mapping) and any(own.get(name) != text for name, text in variables.items()):
        yield "its environment variables are not those that the engine settings state"


def _recipe(report: Report, entry: Entry) -> Iterator[str]:
    """Hold the recipe against the one that the engine makes for this head and target: the card prints it as tested."""
    if entry.engine == REFERENCE:
        if entry.recipe is not None:
            yield "the reference serves nothing, and a recipe is stated"
        return
    if entry.recipe is None:
        return
    engine = get_engine(entry.engine, entry.recipe.version)
    target, k = report.target.name, report.settings.draft_tokens
    settings = report.settings.engine_settings.of_run([] if _is_attached(entry) else [entry.engine])
    try:
        name = head_name(report.head.source)
        made = [
            RecipeText.of(engine.recipe(target, name, draft_tokens=k, parallel_drafting=p, settings=settings))
            for p in (False, True)
        ]
    except (InputError, UsageError) as error:
        yield error.message
        return
    if report.tool_version == __version__ and entry.recipe not in made:
        yield "the recipe is not the one that this engine takes for this head and target"


# One engine's entry, when it has run.


@dataclass(frozen=True, slots=True)
class RanEngine:
    """What one engine did: a run with the head and, at temperature 0, one of the target alone; or a failure.

    Attributes:
        base: the run of the target alone; None where there was none.
        flags: the run's arguments. recipe: how to serve the head on this engine; None where it serves nothing.
        preflight: what the head's files promised before the run; None where nothing was asked.
        device: of a running server (``server`` if it does not say); None for an engine that we start.
        own_output: the reference's run, in place of ``base``, for a server that cannot run the target alone.
    """

    engine: str
    version: str
    outcome: EngineRun | EngineFailure
    base: EngineRun | None = None
    flags: Mapping[str, object] | None = None
    recipe: Recipe | None = None
    preflight: Preflight | None = None
    device: str | None = None
    own_output: EngineRun | None = None

    @property
    def without_head(self) -> EngineRun | None:
        """The run to compare the output with: the target alone on the engine, or the reference on the same prompts."""
        run, own = self.outcome, self.own_output
        if self.base is not None or own is None or isinstance(run, EngineFailure):
            return self.base
        same = [p.prompt_tokens for p in own.prompts] == [p.prompt_tokens for p in run.prompts]
        return own if same else None


def entry_of(
    ran: RanEngine,
    job: RunSpec,
    head: Head,
    report: Report,
    expected: Expected | None = None,
    earlier: Reference | None = None,
    margins: Callable[[EngineRun, Lossless], Lossless] | None = None,
) -> Entry:
    """The entry of an engine that was asked to run: what it counted, and everything that follows (`derive`).

    Args:
        report: the report so far: settings, prompts, target, head.
        expected: what the reference counts on the engine's own texts; None where the run is not held against it.
        earlier: an earlier measurement that the run is held against.
        margins: has the target say how near the tokens of each divergence are; None where the reference took no part.
    """
    run = ran.outcome
    if isinstance(run, EngineFailure):
        return _entry_with(ran, job, ran.version, run.verdict, run.reason, NotRun(run.log_tail))
    without_head = ran.without_head
    lossless = None if without_head is None else compare(job.question_ids, without_head, run)
    if lossless is not None and margins is not None:
        lossless = margins(run, lossless)
    if lossless is not None:
        lossless = lossless.judged(job.dtype)
    unchecked = run.unchecked
    if unchecked and lossless is None and job.temperature == 0:
        unchecked = (*unchecked, "its output without the head")
    assert run.load is not None
    counted = Counted(
        gates=(),
        unchecked=unchecked,
        environment=run.environment,
        acceptance=None,
        categories={},
        lossless=lossless,
        load=replace(run.load, aux_boundaries=run.load.aux_boundaries or None),
        throughput=_throughput(ran, run),
        per_prompt=_rows(job, run, without_head),
        expected=expected,
        earlier=earlier,
        start_seconds=round(run.start_seconds, 3),
        generate_seconds=round(run.generate_seconds, 3),
    )
    return derive(report, _entry_with(ran, job, run.version, "inconclusive", "", counted), expected_taps(head))


def _entry_with(
    ran: RanEngine, job: RunSpec, version: str, verdict: Verdict, reason: str, outcome: Counted | NotRun
) -> Entry:
    return Entry(
        engine=ran.engine,
        version=version,
        device=ran.device or job.device,
        dtype=job.dtype,
        verdict=verdict,
        reason=reason,
        flags=ran.flags or {},
        recipe=None if ran.recipe is None else RecipeText.of(ran.recipe),
        preflight=ran.preflight,
        outcome=outcome,
    )


def _throughput(ran: RanEngine, run: EngineRun) -> Throughput:
    if ran.recipe is None:
        return Throughput(None, None, SPEED_OF_REFERENCE)
    return Throughput(
        ran.base.tokens_per_second if ran.base is not None else None,
        run.tokens_per_second,
        SPEED_OF_ENGINE,
    )


def _rows(job: RunSpec, run: EngineRun, without_head: EngineRun | None) -> tuple[EngineRow, ...]:
    rows = []
    for index, (prompt, result) in enumerate(zip(job.prompts.prompts, run.prompts, strict=True)):
        assert result.counts is not None
        rows.append(
            EngineRow(
                question_id=prompt.question_id,
                category=prompt.category,
                prompt_tokens=result.prompt_tokens,
                new_tokens=len(result.tokens),
                counts=result.counts,
                identical=None if without_head is None else result.tokens == without_head.prompts[index].tokens,
                tokens_sha256=tokens_sha256(result.tokens),
            )
        )
    return tuple(rows)


def tokens_sha256(tokens: Sequence[int]) -> str:
    """Return the SHA-256 (hex) of token ids, as reports and serving measurements state it."""
    return hashlib.sha256(json.dumps(list(tokens)).encode()).hexdigest()


def public(flags: Any, job: RunSpec, head: str, target: Target) -> Any:
    """The flags with names in place of this machine's paths."""
    if isinstance(flags, dict):
        return {key: public(value, job, head, target) for key, value in flags.items()}
    if isinstance(flags, str | Path) and job.head is not None and str(flags) == str(job.head):
        return head
    return target.name if flags == job.target else flags
