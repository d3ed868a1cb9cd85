"""One head in several layouts: each is converted and validated, and all must count alike."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eagle3hub._version import __version__
from eagle3hub.checkpoint.digest import folder_digest
from eagle3hub.conversion.plan import ConvertOptions
from eagle3hub.conversion.run import convert
from eagle3hub.engines.base import Verdict, worst
from eagle3hub.errors import FoundWanting, InputError
from eagle3hub.head.target import TargetFacts
from eagle3hub.prompts import load_prompts
from eagle3hub.system.progress import Progress, silent
from eagle3hub.validation.derive import contradictions
from eagle3hub.validation.engine_runner import Kept
from eagle3hub.validation.options import REFERENCE, engine_names
from eagle3hub.validation.report import Report, load_report
from eagle3hub.validation.run import validate
from eagle3hub.validation.target import identify_target


@dataclass(frozen=True, slots=True)
class LayoutResult:
    """One layout of a head: its measurement, and whether that was made now or kept from before."""

    layout: str
    report: Report
    reused: bool = False


class ReportStore:
    """Reports by everything they depend on, so that an interrupted run goes on where it was."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, key: str) -> Report | None:
        """The report kept under ``key`` if it is readable, measured something, and follows from its counters."""
        path = self._folder / f"{key}.json"
        if not path.is_file():
            return None
        try:
            report = load_report(path)
        except InputError:
            return None
        edited = bool(contradictions(report.document))
        return None if edited or report.verdict == "unavailable" else report

    def keep(self, key: str, report: Report) -> None:
        """Keep a report."""
        self._folder.mkdir(parents=True, exist_ok=True)
        report.save(self._folder / f"{key}.json")


def measure_layout(
    source: str | Path,
    layout: str,
    folder: Path,
    *,
    target: str,
    facts: TargetFacts,
    speculative_tokens: int | None,
    options: Mapping[str, Any],
    kept: Kept,
    store: ReportStore | None = None,
    measure: bool = True,
    progress: Progress = silent,
) -> LayoutResult:
    """Convert a head to a layout, in the new folder ``folder``, and validate it against its original.

    Args:
        facts: of the target, for the conversion. speculative_tokens: K to recommend in the layout's config.
        options: keyword arguments of `validate`. ``kept``: what another layout of the head need not repeat.
        store: where an earlier report of exactly this may be found, and this one is kept.
        measure: whether to measure what has no earlier report; else FoundWanting (``release-not-measured``).

    Raises Refusal where the layout cannot hold the head, and what `convert` and `validate` raise.
    """
    convert(
        source,
        folder,
        layout,
        ConvertOptions(target=facts, speculative_tokens=speculative_tokens, digests=True),
        progress=progress,
    )
    key = _key(folder, target, options) if store is not None else ""
    report = store.find(key) if store is not None else None
    if report is not None:
        return LayoutResult(layout, report, reused=True)
    if not measure:
        raise FoundWanting(
            f"the {layout} layout of these bytes has not been measured",
            hint="leave out --from card",
            code="release-not-measured",
        )
    held = REFERENCE in engine_names(options["engine"])
    report = validate(
        folder, target=target, reference_head=source if held else None, kept=kept, progress=progress, **options
    )
    if store is not None:
        store.keep(key, report)
    return LayoutResult(layout, report)


def judge_layouts(results: Sequence[LayoutResult]) -> tuple[Verdict, str]:
    """The verdict of several layouts of one head, with the reason: the worst of theirs, and that they agree.

    In float32 at temperature 0 an engine must count the same for every layout it passes, and write the same text.
    """
    disagreement = _disagreement(results)
    if disagreement is not None:
        return "fail", disagreement
    verdict = worst([result.report.verdict for result in results])
    if verdict != "pass":
        first = next(result for result in results if result.report.verdict == verdict)
        return verdict, f"{first.layout}: {first.report.reason}"
    if len(results) == 1:
        return "pass", "the layout passes"
    if all(_exact(result) for result in results):
        return "pass", f"all {len(results)} layouts pass, with the same counters and the same text, prompt by prompt"
    return "pass", f"{'both' if len(results) == 2 else 'all'} layouts pass"


def labelled(progress: Progress, label: str, begin: float = 0.0, end: float = 1.0) -> Progress:
    """The progress of one part, named, that takes a whole from ``begin`` to ``end``."""

    def report(message: str, fraction: float | None = None) -> None:
        progress(f"{label}: {message}", None if fraction is None else begin + (end - begin) * fraction)

    return report


def _key(folder: Path, target: str, options: Mapping[str, Any]) -> str:
    subject = identify_target(target, options.get("target_name"))
    prompts = load_prompts(options["prompts"], options["num_prompts"])
    parts = [__version__, folder_digest(folder)[0], subject.to_json(), prompts.sha256, dict(options)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _disagreement(results: Sequence[LayoutResult]) -> str | None:
    first: dict[str, tuple[str, Mapping[str, Any]]] = {}
    for result in results:
        for entry in result.report.document["engines"]:
            if entry["verdict"] != "pass" or not _exact(result):
                continue
            layout, other = first.setdefault(entry["engine"], (result.layout, entry))
            for mine, theirs in zip(other["per_prompt"], entry["per_prompt"], strict=True):
                if _counters(mine) != _counters(theirs):
                    return (
                        f"{result.layout} and {layout} are the same head, but {entry['engine']} counts differently: "
                        f"question {theirs['question_id']}: {_counters(theirs)} and {_counters(mine)}"
                    )
    return None


def _exact(result: LayoutResult) -> bool:
    settings = result.report.document["settings"]
    return bool(settings["dtype"] == "float32" and settings["temperature"] == 0)


def _counters(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["rounds"], row["drafted"], tuple(row["accepted_per_position"]), row["tokens_sha256"]
