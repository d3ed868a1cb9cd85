"""Lines a run's acceptance is held against, each with a verdict of its own.

An interval that straddles its line is ``inconclusive``: neither pass nor fail, but too few prompts to tell. So is a
line that there is no interval to hold against. Only equal counters need none. Every gate is a function of counters
prompt by prompt, conditions and lines, and of nothing else: a report's can be derived from it again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from eagle3hub.engines.base import Verdict
from eagle3hub.metrics import MIN_PROMPTS, Acceptance, Counts, Interval, Paired, acceptance, paired, too_few, total

if TYPE_CHECKING:
    from eagle3hub.validation.measurement import Measurement
    from eagle3hub.validation.reference_file import Reference

COLLAPSE = 1.1
"""At or below this acceptance length a head is not drafting: a random ``fc`` measures 1.04, a shuffled map 1.00."""

AGREEMENT = 0.02
"""Share of the acceptance length by which two engines may differ where rounding or chance keeps them from equality."""


@dataclass(frozen=True, slots=True)
class Gate:
    """One line and what became of it.

    Attributes:
        name: ``collapse``, ``floor``, ``reference`` or ``agreement``.
        reason: one sentence.
        evidence: the numbers it rests on, ready for JSON.
    """

    name: str
    verdict: Verdict
    reason: str
    evidence: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """The gate as plain data."""
        return {
            "name": self.name,
            "verdict": self.verdict,
            "reason": self.reason,
            "evidence": None if self.evidence is None else dict(self.evidence),
        }


def own_gates(measured: Acceptance | None, bar: float | None) -> list[Gate]:
    """The lines a run is held against by its own numbers: ``collapse`` always, ``floor`` where a bar is set.

    None where no round was run: then there is no acceptance length to hold.
    """
    if measured is None:
        return []
    return [collapse(measured), *([] if bar is None else [floor(measured, bar)])]


def collapse(measured: Acceptance) -> Gate:
    """Hold the 95 % interval of tau against `COLLAPSE`: pass when all of it lies above, fail when none of it does."""
    gate = _against_line("collapse", measured, COLLAPSE, f"the collapse line of {COLLAPSE}", above=True)
    if gate.verdict == "fail":
        return replace(gate, reason=f"{gate.reason}: the head's proposals are not the target's tokens")
    return gate


def floor(measured: Acceptance, bar: float) -> Gate:
    """Hold the 95 % interval of tau against a bar: pass when all of it lies at or above, fail when all lies below."""
    return _against_line("floor", measured, bar, f"the bar of {bar:g}")


def against_reference(run: Measurement, kept: Reference) -> Gate:
    """Hold a run against a reference file, of whose tau it may fall short by the file's tolerance.

    Conditions that differ make it inconclusive. Over the same prompts the runs are compared pair by pair: equal
    counters pass (`_equal`), else the 95 % interval of the difference is held against -tolerance * tau. Over other
    prompts the run's own interval is held against (1 - tolerance) * tau, the reference being taken as exact.
    """
    name, reference, tolerance = "reference", kept.measurement, kept.tolerance
    differences = run.conditions.differences(reference.conditions)
    if differences:
        return Gate(name, "inconclusive", f"the reference does not apply to this run: {'; '.join(differences)}")
    if not total(run.counts).rounds:
        return _no_round(name, run)
    base = acceptance(reference.counts).mean_acceptance_length
    if not run.same_prompts(reference):
        line = base * (1 - tolerance)
        share = f"{line:.3f} ({100 * (1 - tolerance):g} % of the reference's {base:.3f}, which is of other prompts)"
        return _against_line(name, acceptance(run.counts), line, share)
    if run.counts == reference.counts:
        return _equal(name, run)
    found = paired(run.counts, reference.counts)
    limit = -tolerance * base
    evidence = {**found.to_json(), "tolerance": tolerance, "line": limit}
    told = f"{_difference(found)} from the reference's {base:.3f}, where {limit:+.3f} is allowed"
    if found.ci95 is None:
        return Gate(name, "inconclusive", f"{told}: {_no_interval(found)}", evidence)
    low, high = found.ci95
    if high < limit:
        return Gate(name, "fail", told, evidence)
    if low >= limit:
        return Gate(name, "pass", told, evidence)
    return Gate(name, "inconclusive", f"{told}; use more prompts", evidence)


def agreement(run: Measurement, reference: Measurement) -> Gate:
    """Hold an engine's run against our own reference's over the same prompts and conditions.

    In float32 at temperature 0 both compute the same thing: rounds, drafts and accepted per position must be equal,
    prompt by prompt; that they are needs no interval, however few. Elsewhere rounding or chance separates them: equal
    counters pass from `MIN_PROMPTS` prompts on, and else it passes when the 95 % interval of the paired
    difference lies within `AGREEMENT` of the reference's tau, fails when it lies outside, is inconclusive when it
    straddles. Whether the interval holds 0 is not asked: of runs that agree, one in twenty would not.
    """
    name = "agreement"
    differences = run.conditions.differences(reference.conditions)
    if not run.same_prompts(reference):
        differences.append(f"the prompts are {run.prompts}, not {reference.prompts}, or not the same of them")
    if differences:
        return Gate(name, "inconclusive", f"the reference measured something else: {'; '.join(differences)}")
    if run.counts == reference.counts:
        return _equal(name, run)
    if _exact(run):
        return _unequal(name, run, reference)
    for side in (run, reference):
        if not total(side.counts).rounds:
            return _no_round(name, side)
    found = paired(run.counts, reference.counts)
    margin = AGREEMENT * found.base_tau
    evidence = {**found.to_json(), "line": margin}
    told = f"{_difference(found)} from the reference's {found.base_tau:.3f}, where {margin:.3f} either way is allowed"
    if found.ci95 is None:
        return Gate(name, "inconclusive", f"{told}: {_no_interval(found)}", evidence)
    low, high = found.ci95
    if -margin <= low and high <= margin:
        return Gate(name, "pass", told, evidence)
    if high < -margin or low > margin:
        return Gate(name, "fail", told, evidence)
    return Gate(name, "inconclusive", f"{told}; use more prompts", evidence)


def _against_line(name: str, measured: Acceptance, line: float, what: str, *, above: bool = False) -> Gate:
    """Hold the interval of tau against a line. ``above``: on the line is below it."""
    tau = f"acceptance length {measured.mean_acceptance_length:.3f}"
    evidence = {
        "mean_acceptance_length": measured.mean_acceptance_length,
        "ci95": None if measured.ci95 is None else list(measured.ci95),
        "prompts": measured.prompts,
        "rounds": measured.counts.rounds,
        "line": line,
    }
    if measured.ci95 is None:
        reason = f"{tau} has no interval to hold against {what}: {too_few(measured.prompts)}"
        return Gate(name, "inconclusive", reason, evidence)
    low, high = measured.ci95
    interval = f"95 % interval {low:.3f} to {high:.3f}"
    if low > line or (low == line and not above):
        side = "above" if above else "at or above"
        return Gate(name, "pass", f"{tau} ({interval}) is {side} {what}", evidence)
    if high < line or (high == line and above):
        side = "at or below" if above else "below"
        return Gate(name, "fail", f"{tau} ({interval}) is {side} {what}", evidence)
    return Gate(name, "inconclusive", f"{tau}: {what} lies inside its {interval}; use more prompts", evidence)


def _exact(run: Measurement) -> bool:
    """Whether equal heads must have equal counters: in float32 at temperature 0 nothing is left to chance."""
    return run.conditions.dtype == "float32" and run.conditions.temperature == 0


def _equal(name: str, run: Measurement) -> Gate:
    """The counters are equal prompt by prompt. Where they need not be, a few equal ones may be chance."""
    told = f"all {len(run.counts)} prompts have the counters of the reference exactly"
    having = sum(1 for counts in run.counts if counts.rounds)
    if _exact(run) or having >= MIN_PROMPTS:
        return Gate(name, "pass", told)
    where = f"in {run.conditions.dtype} at temperature {run.conditions.temperature:g}"
    return Gate(name, "inconclusive", f"{told}, which {where} may be chance: {too_few(having)}")


def _no_interval(found: Paired) -> str:
    if found.prompts < MIN_PROMPTS:
        return too_few(found.prompts)
    return "the pairs show no spread that would give it an interval; use more prompts"


def _unequal(name: str, run: Measurement, reference: Measurement) -> Gate:
    different = [i for i, (x, y) in enumerate(zip(run.counts, reference.counts, strict=True)) if x != y]
    first = different[0]
    question = run.question_ids[first]
    ours, theirs = run.counts[first], reference.counts[first]
    evidence = {
        "different": len(different),
        "prompts": len(run.counts),
        "first": {"question_id": question, "run": ours.to_json(), "reference": theirs.to_json()},
    }
    reason = (
        f"the rounds differ from the reference's in {len(different)} of {len(run.counts)} prompts, and in float32 at "
        f"temperature 0 none may (first: prompt {question}, {_told(ours)} on {run.engine}, {_told(theirs)} on "
        f"{reference.engine})"
    )
    return Gate(name, "fail", reason, evidence)


def _no_round(name: str, side: Measurement) -> Gate:
    return Gate(name, "fail", f"{side.engine} ran no round of speculative decoding")


def _difference(found: Paired) -> str:
    interval = "" if found.ci95 is None else f", 95 % interval {_signed(found.ci95)}"
    return f"the acceptance length differs by {found.difference:+.3f} ({found.relative:+.1f} %{interval})"


def _signed(interval: Interval) -> str:
    return f"{interval[0]:+.3f} to {interval[1]:+.3f}"


def _told(counts: Counts) -> str:
    return f"{counts.rounds} rounds, {counts.drafted} drafts, accepted {list(counts.accepted_per_position)}"
