"""Gates: the lines that a run is held against, and the verdict that follows from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from eagle3hub.engines.base import EngineRun, LoadReport, Verdict
from eagle3hub.metrics import MIN_PROMPTS, Acceptance, Counts, Interval, Paired, acceptance, paired, too_few, total

if TYPE_CHECKING:
    from eagle3hub.validation.measurement import Measurement, Reference

# Gates on acceptance. Each holds one interval against one line and has a verdict of its own.
#
# An interval that straddles its line is ``inconclusive``: there are too few prompts to tell. So is a run without an
# interval, unless its counters equal the reference's. A gate depends on nothing but the counters of each prompt, the
# conditions and the line, so that it can be derived again from a report.


GateName = Literal["collapse", "floor", "agreement", "reference", "context", "loss"]

COLLAPSE = 1.1
"""At or below this acceptance length a head does not draft: a random ``fc`` measures 1.04, a shuffled map 1.00."""

AGREEMENT = 0.02
"""Share of the acceptance length by which two engines may differ where rounding or chance keeps them from equality."""


KEEPS = 0.5
"""Share of the drafts accepted per round that a head must keep from the shortest context to a longer one.

Heads that were trained on short texts lose nearly all of it: 2.30 tokens per round at 2k, 1.09 at 16k
(github.com/vllm-project/speculators/issues/684), a share of 0.07.
"""


@dataclass(frozen=True, slots=True)
class Gate:
    """The result of one gate.

    Attributes:
        name: ``collapse`` (the collapse line), ``floor`` (the bar that was asked for), ``agreement`` (with our own
            reference), ``reference`` (an earlier measurement), or of a benchmark ``context`` (longer prompts) and
            ``loss`` (another format of the target or the head).
        reason: one sentence.
        evidence: the numbers that the verdict rests on, ready for JSON.
    """

    name: GateName
    verdict: Verdict
    reason: str
    evidence: Mapping[str, object] | None = None

    def to_json(self) -> dict[str, Any]:
        """The gate as plain data."""
        return {
            "name": self.name,
            "verdict": self.verdict,
            "reason": self.reason,
            "evidence": None if self.evidence is None else dict(self.evidence),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Gate:
        """What `to_json` gave."""
        return cls(**data)


def own_gates(measured: Acceptance | None, bar: float | None) -> list[Gate]:
    """The gates on a run's own acceptance length: ``collapse`` always, ``floor`` where a bar is set.

    There are none where no round was run.
    """
    if measured is None:
        return []
    return [collapse(measured), *([] if bar is None else [floor(measured, bar)])]


def collapse(measured: Acceptance) -> Gate:
    """Hold the 95 % interval of tau against `COLLAPSE`: pass if all of it lies above the line, fail if none does."""
    gate = _against_line("collapse", measured, COLLAPSE, f"the collapse line of {COLLAPSE}", above=True)
    if gate.verdict == "fail":
        return replace(gate, reason=f"{gate.reason}: the head's proposals are not the target's tokens")
    return gate


def floor(measured: Acceptance, bar: float) -> Gate:
    """Hold the 95 % interval of tau against a bar: pass if all of it is at or above, fail if all is below."""
    return _against_line("floor", measured, bar, f"the bar of {bar:g}")


def against_reference(run: Measurement, earlier: Reference) -> Gate:
    """Hold a run against an earlier measurement, whose tau it may miss by the measurement's tolerance.

    Other conditions make the gate inconclusive. Over the same prompts the runs are compared prompt by prompt: equal
    counters pass (`_equal`), else the 95 % interval of the difference is held against -tolerance * tau. Over other
    prompts the run's own interval is held against (1 - tolerance) * tau, with the earlier tau taken as exact.
    """
    name: GateName = "reference"
    reference, tolerance = earlier.measurement, earlier.tolerance
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
    """Hold an engine's run against our own reference, over the same prompts under the same conditions.

    In float32 at temperature 0 both compute the same, so the counters must be equal prompt by prompt; equal counters
    pass however few prompts there are. Elsewhere rounding or chance may separate the two. There, equal counters pass
    from `MIN_PROMPTS` prompts on. Unequal ones pass if the 95 % interval of the paired difference lies within
    `AGREEMENT` of the reference's tau, fail if it lies outside, and are inconclusive if it straddles that margin.
    Whether the interval holds 0 is not asked: of runs that agree, one in twenty would fail that test.
    """
    name: GateName = "agreement"
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


def over_context(counts: Mapping[int, Sequence[Counts]]) -> Gate:
    """Hold a head's drafts at each length of prompts against those at the shortest, over the same prompts.

    ``counts`` has two lengths or more, in tokens. The line is `KEEPS`: for each longer length, the 95 % interval of
    the paired difference is held against the loss that would leave that share of the drafts accepted per round. The
    gate is that of the length with the worst verdict, and among equals the longest.
    """
    shortest, *longer = sorted(counts)
    gates = [_at_context(counts[shortest], counts[tokens], shortest, tokens) for tokens in reversed(longer)]
    order: tuple[Verdict, ...] = ("fail", "unavailable", "inconclusive", "pass")
    return min(gates, key=lambda gate: order.index(gate.verdict))


MOST_LOST = 0.05
"""Share of the acceptance length that a quantised target or head may lose."""


def loss(run: Sequence[Counts], base: Sequence[Counts]) -> Gate:
    """Hold a run of a quantised target or head against that of the unquantised one, over the same prompts.

    It passes if the 95 % interval of the paired difference surely loses no more than `MOST_LOST` of the base's tau,
    and fails if it surely loses more.
    """
    name: GateName = "loss"
    if not total(run).rounds or not total(base).rounds:
        return Gate(name, "inconclusive", "one of the two ran no round")
    found = paired(run, base)
    line = -MOST_LOST * found.base_tau
    evidence = {**found.to_json(), "line": line}
    told = f"{_difference(found)} from {found.base_tau:.3f}, where {line:+.3f} is allowed"
    if found.ci95 is None:
        if found.identical == len(run) and found.prompts >= MIN_PROMPTS:
            return Gate(name, "pass", f"all {len(run)} prompts have the same counters", evidence)
        return Gate(name, "inconclusive", f"{told}: {_no_interval(found)}", evidence)
    low, high = found.ci95
    if high < line:
        return Gate(name, "fail", told, evidence)
    if low >= line:
        return Gate(name, "pass", told, evidence)
    return Gate(name, "inconclusive", f"{told}; use more prompts", evidence)


def _at_context(base: Sequence[Counts], other: Sequence[Counts], shortest: int, tokens: int) -> Gate:
    name: GateName = "context"
    for counts, at in ((base, shortest), (other, tokens)):
        if not total(counts).rounds:
            return Gate(name, "inconclusive", f"there is no round at {at:,} tokens")
    found = paired(other, base)
    told = f"acceptance length {found.tau:.3f} at {tokens:,} tokens, {found.base_tau:.3f} at {shortest:,}"
    if found.base_tau <= COLLAPSE:
        return Gate(name, "inconclusive", f"{told}: at the shortest, too, it hardly drafts")
    line = -(1 - KEEPS) * (found.base_tau - 1)
    evidence = {**found.to_json(), "tokens": tokens, "shortest": shortest, "line": line}
    told = f"{told}: a difference of {found.difference:+.3f}, where {line:+.3f} leaves {100 * KEEPS:g} % of the drafts"
    if found.ci95 is None:
        if found.difference == 0:
            return Gate(name, "pass", told, evidence)
        return Gate(name, "inconclusive", f"{told}: {_no_interval(found)}", evidence)
    low, high = found.ci95
    told = f"{told} (95 % interval {_signed(found.ci95)})"
    if high < line:
        return Gate(name, "fail", told, evidence)
    return Gate(name, "pass" if low >= line else "inconclusive", told, evidence)


def _against_line(name: GateName, measured: Acceptance, line: float, what: str, *, above: bool = False) -> Gate:
    """Hold the interval of tau against a line. ``above``: an interval that ends on the line lies below it."""
    tau = f"acceptance length {measured.mean_acceptance_length:.3f}"
    evidence = {
        "mean_acceptance_length": measured.mean_acceptance_length,
        "ci95": None if measured.ci95 is None else list(measured.ci95),
        "prompts": measured.prompts,
        "rounds": measured.rounds,
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
    """Whether the same head must give the same counters: in float32 at temperature 0 nothing is left to chance."""
    return run.conditions.dtype == "float32" and run.conditions.temperature == 0


def _equal(name: GateName, run: Measurement) -> Gate:
    """The gate of equal counters. Where counters need not be equal, a few equal ones may be chance."""
    who = "the one prompt has" if len(run.counts) == 1 else f"all {len(run.counts)} prompts have"
    told = f"{who} the counters of the reference exactly"
    having = sum(1 for counts in run.counts if counts.rounds)
    if _exact(run) or having >= MIN_PROMPTS:
        return Gate(name, "pass", told)
    where = f"in {run.conditions.dtype} at temperature {run.conditions.temperature:g}"
    return Gate(name, "inconclusive", f"{told}, which {where} may be chance: {too_few(having)}")


def _no_interval(found: Paired) -> str:
    if found.prompts < MIN_PROMPTS:
        return too_few(found.prompts)
    return "the pairs show no spread that would give it an interval; use more prompts"


def _unequal(name: GateName, run: Measurement, reference: Measurement) -> Gate:
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


def _no_round(name: GateName, side: Measurement) -> Gate:
    return Gate(name, "fail", f"{side.engine} ran no round of speculative decoding")


def _difference(found: Paired) -> str:
    interval = "" if found.ci95 is None else f", 95 % interval {_signed(found.ci95)}"
    return f"the acceptance length differs by {found.difference:+.3f} ({found.relative:+.1f} %{interval})"


def _signed(interval: Interval) -> str:
    return f"{interval[0]:+.3f} to {interval[1]:+.3f}"


def _told(counts: Counts) -> str:
    return f"{counts.rounds} rounds, {counts.drafted} drafts, accepted {list(counts.accepted_per_position)}"


# The verdict of one run. ``unavailable`` and ``inconclusive`` are never a pass.


_HARMLESS = ("t2d", "inv_freq")
_VOUCHING = ("agreement", "reference")


LosslessVerdict = Literal["identical", "ties only", "not lossless", "not checked"]
DivergenceVerdict = Literal["tie", "not a tie", "not checked"]

UNIT_ROUNDOFF: Mapping[str, float] = {"float32": 2.0**-24, "bfloat16": 2.0**-8, "float16": 2.0**-11}
"""Half the distance from 1 to the next number of a format: the most that rounding changes a number, as a share."""


@dataclass(frozen=True, slots=True)
class Margin:
    """How near the two tokens of a divergence are for the target, after everything that both outputs begin with.

    The target reads these tokens twice: in float32, and in the format of the run.

    Attributes:
        margin: in float32, the highest logit less the lower one of the two tokens'.
        noise: the most that the format changes a logit, apart from what it changes all of them by.
        largest: the largest magnitude of a logit.
    """

    margin: float
    noise: float
    largest: float

    def bound(self, dtype: str) -> float:
        """The widest margin that rounding in ``dtype`` can turn round.

        A token other than the best is taken only where rounding moves two logits past each other: each by at most
        ``noise``, and by one rounding of the logit itself, which the format stores.
        """
        return 2 * (self.noise + UNIT_ROUNDOFF[dtype] * self.largest)


@dataclass(frozen=True, slots=True)
class Divergence:
    """The first position, counted in new tokens, at which a prompt's output changed with speculation.

    Attributes:
        tokens: the token without the head and the one with it; None for an output that had ended there.
        found: what the target says of the two; None where it was not asked.
        why_not: why it was not asked, as a phrase; empty where it was.
        bound, verdict: as `judged` gives them; None in a report of an earlier version, which judged no divergence.
    """

    question_id: int | str
    position: int
    tokens: tuple[int | None, int | None] = (None, None)
    found: Margin | None = None
    why_not: str = ""
    bound: float | None = None
    verdict: DivergenceVerdict | None = None

    def judged(self, dtype: str) -> Divergence:
        """Say whether the two tokens are a tie: one within `Margin.bound`, and in float32 none is."""
        if dtype == "float32":
            return replace(self, found=None, why_not="", bound=None, verdict="not a tie")
        if self.found is None:
            return replace(self, bound=None, verdict="not checked")
        bound = self.found.bound(dtype)
        return replace(self, bound=bound, verdict="tie" if self.found.margin <= bound else "not a tie")

    @property
    def says(self) -> str:
        """The evidence as a phrase; empty where there is none."""
        if self.found is None or self.bound is None:
            return self.why_not
        return f"margin {self.found.margin:.3g}, rounding explains {self.bound:.3g}"

    def to_json(self) -> dict[str, Any]:
        """An item of ``divergences``."""
        found: dict[str, object] = {"question_id": self.question_id, "position": self.position}
        if self.verdict is None:
            return found
        found["tokens"] = list(self.tokens)
        if self.found is not None:
            found |= {**asdict(self.found), "bound": self.bound}
        if self.why_not:
            found["why_not"] = self.why_not
        return {**found, "verdict": self.verdict}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Divergence:
        """What `to_json` gave."""
        alone, drafted = data.get("tokens", (None, None))
        found = Margin(data["margin"], data["noise"], data["largest"]) if "margin" in data else None
        return cls(
            data["question_id"],
            data["position"],
            (alone, drafted),
            found,
            data.get("why_not", ""),
            data.get("bound"),
            data.get("verdict"),
        )


@dataclass(frozen=True, slots=True)
class Lossless:
    """How many prompts gave the same tokens with the head as without it.

    Attributes:
        verdict: ``ties only`` where every divergence is a tie, ``not lossless`` where one is none; None in a report of
            an earlier version, which judged no divergence.
        by_reference: whether the output without the head is the reference's own greedy output, since a running server
            gives none.
    """

    identical: int
    prompts: int
    divergences: tuple[Divergence, ...]
    verdict: LosslessVerdict | None = None
    by_reference: bool = False

    def judged(self, dtype: str) -> Lossless:
        """Judge every divergence of a run in ``dtype``, and the whole by the worst of them."""
        divergences = tuple(one.judged(dtype) for one in self.divergences)
        found = {one.verdict for one in divergences}
        verdict: LosslessVerdict = "ties only" if found else "identical"
        if "not a tie" in found:
            verdict = "not lossless"
        elif "not checked" in found:
            verdict = "not checked"
        return replace(self, divergences=divergences, verdict=verdict)

    @property
    def worst(self) -> Divergence | None:
        """The divergence that the verdict rests on: the first that is no tie, else the first not checked, or any."""
        order = ("not a tie", "not checked", None, "tie")
        return min(self.divergences, key=lambda one: order.index(one.verdict), default=None)

    def to_json(self) -> dict[str, Any]:
        """The ``lossless`` object of a report."""
        return {
            **({} if self.verdict is None else {"verdict": self.verdict}),
            "identical": self.identical,
            "prompts": self.prompts,
            "divergences": [one.to_json() for one in self.divergences],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], *, by_reference: bool = False) -> Lossless:
        """What `to_json` gave; the entry says whether the output without the head is the reference's."""
        divergences = tuple(map(Divergence.from_json, data["divergences"]))
        return cls(data["identical"], data["prompts"], divergences, data.get("verdict"), by_reference)


NO_REFERENCE = "the reference took no part"


def compare(question_ids: Sequence[int | str], base: EngineRun, run: EngineRun) -> Lossless:
    """Compare the tokens of two runs prompt by prompt; whether a difference is a tie is not known yet."""
    found = []
    for question_id, alone, drafted in zip(question_ids, base.prompts, run.prompts, strict=True):
        if alone.tokens != drafted.tokens:
            pairs = zip(alone.tokens, drafted.tokens, strict=False)
            shortest = min(len(alone.tokens), len(drafted.tokens))
            at = next((i for i, (a, b) in enumerate(pairs) if a != b), shortest)
            first, second = (side.tokens[at] if at < len(side.tokens) else None for side in (alone, drafted))
            found.append(Divergence(question_id, at, (first, second), why_not=NO_REFERENCE))
    return Lossless(len(question_ids) - len(found), len(question_ids), tuple(found))


class Judgement(NamedTuple):
    """The verdict of a run, its reason, and every gate that it was held to."""

    verdict: Verdict
    reason: str
    gates: tuple[Gate, ...]


def judge(
    *,
    load: LoadReport,
    expected_taps: Sequence[int] | None,
    lossless: Lossless | None,
    dtype: str,
    acceptance: Acceptance | None,
    min_acceptance_length: float | None,
    gates: Sequence[Gate] = (),
    unchecked: Sequence[str] = (),
) -> Judgement:
    """The verdict of one run, its reason, and its gates: ``collapse``, ``floor`` (with a bar), then ``gates``.

    A run fails for each of these: a parameter that no tensor filled, a tensor that no parameter took, taps other than
    the head's (``expected_taps``, boundary ids), output that speculation changed (in float32 anywhere, in lower
    precision at a token that is no tie), no round at all, and a gate that failed. The reason names every failure.

    A run that did not fail is inconclusive if its loading was not watched or a gate is inconclusive.

    ``unchecked`` says what could not be looked at in a running server. Such a run passes all the same if the
    ``agreement`` or the ``reference`` gate passed; the reason then says what was not checked.
    """
    faults = [*_load_faults(load, expected_taps), *_output_faults(lossless, dtype)]
    if acceptance is None:
        faults.append("the engine ran no round of speculative decoding")
    held = (*own_gates(acceptance, min_acceptance_length), *gates)
    faults += [gate.reason for gate in held if gate.verdict == "fail"]
    if faults:
        return Judgement("fail", "; ".join(faults), held)
    not_checked = f"not checked of the server: {', '.join(unchecked)}"
    if unchecked:
        vouched = any(gate.name in _VOUCHING and gate.verdict == "pass" for gate in gates)
        unsettled = [] if vouched else [f"nothing vouches for the head it runs ({not_checked})"]
    else:
        unsettled = [] if load.checked else ["the engine's loading of the head could not be watched"]
    unsettled += [gate.reason for gate in held if gate.verdict != "pass"]
    if unsettled:
        return Judgement("inconclusive", "; ".join(unsettled), held)
    found = "; ".join(gate.reason for gate in held)
    reason = f"{found}; {not_checked}" if unchecked else f"all tensors loaded and {found}"
    if lossless is not None and lossless.verdict == "not checked":
        n = len(lossless.divergences)
        reason += f"; not checked: whether the {n} of {lossless.prompts} outputs that speculation changes are ties"
    return Judgement("pass", reason, held)


def _load_faults(load: LoadReport, expected_taps: Sequence[int] | None) -> list[str]:
    faults = []
    if load.not_loaded:
        faults.append(f"no tensor of the file fills {_names(load.not_loaded)}, and the engine serves without a word")
    dropped = unexpected(load.ignored)
    if dropped:
        faults.append(f"the engine ignores {_names(dropped)}")
    taps = load.aux_boundaries
    if taps is not None and expected_taps is not None and list(taps) != list(expected_taps):
        faults.append(
            f"the engine feeds the head the target's states {list(taps)} (layers that have run), "
            f"but it was trained on {list(expected_taps)}"
        )
    return faults


def unexpected(ignored: Sequence[str]) -> list[str]:
    """The ignored tensors that matter: all but the mask ``t2d`` and rotary tables, which engines rebuild."""
    return [name for name in ignored if name.rpartition(".")[2] not in _HARMLESS]


def _output_faults(lossless: Lossless | None, dtype: str) -> list[str]:
    """Why a run's output is not the target's: in float32 any difference, elsewhere one that is no tie."""
    if lossless is None or lossless.worst is None:
        return []
    changed, first = f"{len(lossless.divergences)} of {lossless.prompts} prompts", lossless.worst
    where = f"prompt {first.question_id}, new token {first.position}"
    if dtype == "float32":
        if lossless.by_reference:
            return [f"greedy output is not what the reference generates in float32 for {changed} (first: {where})"]
        return [f"greedy output changes with speculation for {changed} in float32 (first: {where})"]
    if lossless.verdict != "not lossless" or first.found is None:
        return []
    n = sum(1 for one in lossless.divergences if one.verdict == "not a tie")
    return [
        f"greedy output changes with speculation for {changed}, in {n} not by a tie: in {where}, the target rates one "
        f"of the two tokens {first.found.margin:.3f} below its best, where rounding in {dtype} explains "
        f"{first.bound:.3f}"
    ]


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(names[:6])
    return shown if len(names) <= 6 else f"{shown} and {len(names) - 6} more"
