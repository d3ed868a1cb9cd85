"""What must hold before a card is written: reports that agree with themselves, with the target, with the bytes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from eagle3hub.card.manifest import Manifest
from eagle3hub.errors import ManifestError
from eagle3hub.validation.derive import contradictions


def check(manifest: Manifest, reports: Sequence[Mapping[str, Any]], digests: Collection[str] | None) -> None:
    """Raise ManifestError if a report contradicts itself or describes another target or other bytes.

    Whatever a report states is derived again from its counters (`eagle3hub.validation.derive`).

    ``digests`` are the folder digests that belong to this release; None skips that check.
    """
    for report in reports:
        _check_target(manifest, report)
        if digests is not None:
            _check_digest(report, digests)
        for fault in contradictions(report):
            raise ManifestError(
                f"the report of the {report['head']['layout']} layout contradicts itself: {fault}",
                hint="reports are written by eagle3hub validate and not edited; measure again",
                code="report-contradiction",
            )


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
