"""What must hold before a card is written: reports that agree with themselves, with the target, with the bytes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any

from eagle3hub.card.manifest import Manifest
from eagle3hub.card.reports import Run
from eagle3hub.errors import ManifestError

ROUNDING = 5e-4
"""Largest error of a number given to three decimals; reports may round, but not further."""


def check(
    manifest: Manifest, reports: Sequence[Mapping[str, Any]], runs: Sequence[Run], digests: Collection[str] | None
) -> None:
    """Raise ManifestError if a report contradicts itself or describes another target or other bytes.

    ``digests`` are the folder digests that belong to this release; None skips that check.
    """
    for report in reports:
        _check_target(manifest, report)
        if digests is not None:
            _check_digest(report, digests)
    for run in runs:
        if run.acceptance:
            _check_acceptance(run, run.acceptance)


def _check_target(manifest: Manifest, report: Mapping[str, Any]) -> None:
    name, wanted = str(report["target"]["name"]), manifest.target.id
    if name not in (wanted, wanted.split("/")[-1]):
        raise ManifestError(
            f"the report was measured with the target {name!r}, but the manifest's target is {wanted!r}",
            hint=f"if they are the same model, measure with --target-name {wanted}",
            code="report-target",
        )


def _check_digest(report: Mapping[str, Any], digests: Collection[str]) -> None:
    head = report["head"]
    if head["digest"] not in digests:
        raise ManifestError(
            f"the report measured other bytes: head {head['source']!r} ({head['layout']}) with {head['digest']} "
            "is no folder of this release",
            hint=f"measure again, or name its folder too; this release has {', '.join(sorted(digests))}",
            code="report-digest",
        )


def _check_acceptance(run: Run, a: Mapping[str, Any]) -> None:
    rounds, accepted, by_position = a["rounds"], a["accepted"], a["accepted_per_position"]
    marginal, tau, k = a["marginal_acceptance_rates"], a["mean_acceptance_length"], len(by_position)
    slack = ROUNDING * (k + 1) + 1e-9
    faults = {
        f"accepted tokens by position sum to {sum(by_position)}, not {accepted}": sum(by_position) != accepted,
        f"K is {run.report['settings']['draft_tokens']} but {k} positions are counted": (
            k != run.report["settings"]["draft_tokens"]
        ),
        f"{accepted} of {a['drafted']} drafted tokens accepted in {rounds} rounds is impossible": (
            not accepted <= a["drafted"] <= rounds * k
        ),
        "accepted tokens rise from one position to the next": any(x < y for x, y in pairwise([rounds, *by_position])),
        f"{len(marginal)} marginal rates are given for {k} positions": len(marginal) != k,
        "the marginal rates are not the counters divided by the rounds": any(
            abs(m - n / rounds) > ROUNDING + 1e-9 for m, n in zip(marginal, by_position, strict=False)
        ),
        f"acceptance length {tau} is not 1 + the sum of the marginal rates": abs(tau - 1 - sum(marginal)) > slack,
        f"acceptance length {tau} is not 1 + accepted / rounds": abs(tau - 1 - accepted / rounds) > ROUNDING + 1e-9,
        "the 95 % interval does not contain the acceptance length": bool(a["ci95"])
        and not a["ci95"][0] - ROUNDING <= tau <= a["ci95"][1] + ROUNDING,
        "the prompts' counters do not sum to the run's": _prompts_disagree(run, a),
    }
    for message, wrong in faults.items():
        if wrong:
            name = f"{run.engine['engine']} {run.engine['version']}, {run.layout} layout"
            raise ManifestError(
                f"the report contradicts itself ({name}): {message}", hint="measure again", code="report-contradiction"
            )


def _prompts_disagree(run: Run, a: Mapping[str, Any]) -> bool:
    rows = run.engine.get("per_prompt") or []
    return bool(rows) and any(sum(row[key] for row in rows) != a[key] for key in ("rounds", "drafted", "accepted"))
