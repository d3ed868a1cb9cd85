"""What the reports amount to, in a sentence: not run, could not be run, inconclusive and failed are told apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eagle3hub.card.manifest import Manifest
from eagle3hub.card.results import RunView

_MEASURE = "Do not expect it to work as described before you have measured it yourself."


def headline(
    reports: Sequence[Mapping[str, Any]],
    views: Sequence[RunView],
    faults: Sequence[tuple[str, str]],
) -> tuple[str, str]:
    """The first words of the warning and what follows them; both empty where there is nothing to warn of."""
    if not faults:
        return "", ""
    verdicts = _verdicts(reports, views)
    also = "pass" in verdicts
    if "fail" in verdicts:
        how = "part of it failed" if also else "it failed"
        return f"This release did not pass validation: {how}.", _MEASURE
    if "inconclusive" in verdicts:
        how = "part of what was measured is inconclusive" if also else "what was measured is inconclusive"
        return f"This release did not pass validation: {how}.", _MEASURE
    if also and "unavailable" in verdicts:
        return "This release was not validated in full.", "Not everything that it was to be run on could be run."
    if "unavailable" in verdicts:
        return "This release was not validated: nothing that it was to be run on could be run.", _MEASURE
    if also:
        return "The files in the root of this repository were not validated.", "Those of another layout were."
    return "This release was not validated.", _MEASURE


def no_recipe(manifest: Manifest, views: Sequence[RunView], *, benched: bool) -> str:
    """Why no tested way of serving is printed; ``benched``: whether a benchmark on the card was run on an engine."""
    engines = [v for v in views if v.is_engine and v.layout == manifest.layouts.main]
    verdicts = {v.verdict for v in engines}
    if not engines:
        replayed = any(v.acceptance and not v.is_engine for v in views)
        own = "The eagle3hub reference, which measured them, serves nothing." if replayed else ""
        which = "the files in this repository's root" if any(v.is_engine for v in views) else "these files"
        how = "validated" if benched else "run"
        return f"No engine was {how} here with {which}, so no tested command is printed. {own}".strip()
    if "pass" in verdicts:
        return "No tested command is printed: the report in which an engine passed did not pass as a whole."
    if "fail" in verdicts:
        return "No engine passed here with these files, so no tested command is printed."
    if "inconclusive" in verdicts:
        return "What engines made of these files here is inconclusive, so no tested command is printed."
    return "No engine could be run here with these files, so no tested command is printed."


def unmeasured(reports: Sequence[Mapping[str, Any]], views: Sequence[RunView]) -> str:
    """Why there are no results."""
    verdicts = _verdicts(reports, views)
    if not reports:
        return "Nothing has been measured with these files yet."
    if verdicts == {"unavailable"}:
        return "Nothing has been measured with these files: nothing that they were to be run on could be run."
    if not views:
        return "Nothing has been measured with these files: they failed the checks that come before a run."
    return "Nothing has been measured with these files: no run got as far as counting accepted tokens."


def _verdicts(reports: Sequence[Mapping[str, Any]], views: Sequence[RunView]) -> set[str]:
    """Verdicts of every run, and of the reports that nothing was run for."""
    without = {str(report["verdict"]) for report in reports if not report["engines"]}
    return {v.verdict for v in views} | without
