"""The rules by which a run passes or not. ``unavailable`` and ``inconclusive`` are never a pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from eagle3hub.engines.base import EngineRun, LoadReport, Verdict
from eagle3hub.metrics import Acceptance
from eagle3hub.validation.gates import Gate, own_gates

_HARMLESS = ("t2d", "inv_freq")
_VOUCHING = ("agreement", "reference")


@dataclass(frozen=True, slots=True)
class Divergence:
    """The first position, counted in new tokens, at which a prompt's output changed with speculation."""

    question_id: int | str
    position: int


@dataclass(frozen=True, slots=True)
class Lossless:
    """How many prompts gave the same tokens with the head as without it.

    ``by_reference``: without it is the reference's own greedy output, since the engine gave none.
    """

    identical: int
    prompts: int
    divergences: tuple[Divergence, ...]
    by_reference: bool = False


def compare(question_ids: Sequence[int | str], base: EngineRun, run: EngineRun) -> Lossless:
    """Compare the tokens of two runs prompt by prompt."""
    found = []
    for question_id, alone, drafted in zip(question_ids, base.prompts, run.prompts, strict=True):
        if alone.tokens != drafted.tokens:
            pairs = zip(alone.tokens, drafted.tokens, strict=False)
            shortest = min(len(alone.tokens), len(drafted.tokens))
            found.append(Divergence(question_id, next((i for i, (a, b) in enumerate(pairs) if a != b), shortest)))
    return Lossless(len(question_ids) - len(found), len(question_ids), tuple(found))


class Judgement(NamedTuple):
    """What a run is worth: verdict, reason, and every gate it was held to, each with its evidence."""

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
    """Verdict and reason of one run, and the gates they rest on: ``collapse``, ``floor`` (with a bar), then ``gates``.

    Fails for a parameter no tensor filled, a tensor no parameter took, taps other than the head's
    (``expected_taps``, boundary ids), output changed by speculation in float32 (in lower precision it is only
    reported), no round at all, and for every gate that failed: an acceptance length whose whole interval lies at or
    below the collapse line, or below the bar (``min_acceptance_length``), and the further ``gates``. What failed is
    named before what is open, and what is open keeps a run from passing: a load nobody watched, and every
    inconclusive gate.

    Of a running server, ``unchecked`` says what could not be looked at. It passes all the same where what it counts
    is what the reference counts, or what was measured earlier; the reason then names what was not checked.
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
    """Ignored tensors that matter: all but the mask ``t2d`` and rotary tables, which engines rebuild."""
    return [name for name in ignored if name.rpartition(".")[2] not in _HARMLESS]


def _output_faults(lossless: Lossless | None, dtype: str) -> list[str]:
    if lossless is None or dtype != "float32" or not lossless.divergences:
        return []
    first = lossless.divergences[0]
    if lossless.by_reference:
        return [
            f"greedy output is not what the reference generates in float32 for {len(lossless.divergences)} of "
            f"{lossless.prompts} prompts (first: prompt {first.question_id}, new token {first.position})"
        ]
    return [
        f"greedy output changes with speculation for {len(lossless.divergences)} of {lossless.prompts} prompts in "
        f"float32 (first: prompt {first.question_id}, new token {first.position})"
    ]


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(names[:6])
    return shown if len(names) <= 6 else f"{shown} and {len(names) - 6} more"
