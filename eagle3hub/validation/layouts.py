"""One head in several layouts: each is converted and validated, and all must count alike."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from eagle3hub._version import __version__
from eagle3hub.checkpoint.digest import folder_digest
from eagle3hub.checkpoint.staging import replace_file
from eagle3hub.conversion.plan import UNCHANGED, ConvertOptions
from eagle3hub.conversion.run import convert
from eagle3hub.engines.base import Verdict, worst_verdict
from eagle3hub.errors import FoundWanting, InputError
from eagle3hub.layouts.base import AS_FOUND
from eagle3hub.prompts import load_prompts
from eagle3hub.system.progress import Progress, silent
from eagle3hub.validation.derive import contradictions
from eagle3hub.validation.engine_runner import Cache
from eagle3hub.validation.options import REFERENCE, ValidateOptions
from eagle3hub.validation.report import EngineRow, Report, load_report
from eagle3hub.validation.run import validate
from eagle3hub.validation.target import identify_target


@dataclass(frozen=True, slots=True)
class LayoutResult:
    """The report of one layout of a head; ``reused``: it was made before, not now."""

    layout: str
    report: Report
    reused: bool = False


class ReportStore:
    """Reports by everything they depend on, so that an interrupted run goes on where it was."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, key: str) -> Report | None:
        """The report under ``key`` if it is readable, measured something, and follows from its counters."""
        path = self._folder / f"{key}.json"
        if not path.is_file():
            return None
        try:
            report = load_report(path)
        except InputError:
            return None
        edited = bool(contradictions(report))
        return None if edited or report.verdict == "unavailable" else report

    def keep(self, key: str, report: Report, seconds: float) -> None:
        """Keep a report, and how long it took to make it."""
        self._folder.mkdir(parents=True, exist_ok=True)
        report.save(self._folder / f"{key}.json")
        replace_file(self._folder / f"{key}.seconds", f"{seconds:.1f}\n".encode())

    def took(self, options: ValidateOptions) -> float | None:
        """How long the last measurement with the same engines, prompts and settings took; None where there is none."""
        for file in sorted(self._folder.glob("*.seconds"), key=lambda f: f.stat().st_mtime, reverse=True):
            report = self.find(file.stem)
            if report is not None and _same_work(report, options):
                try:
                    return float(file.read_text())
                except (OSError, ValueError):
                    continue
        return None

    @property
    def is_empty(self) -> bool:
        """Whether there is no report."""
        return not any(self._folder.glob("*.json"))


def _same_work(report: Report, options: ValidateOptions) -> bool:
    settings = report.settings
    return (
        [entry.engine for entry in report.engines] == list(options.engines)
        and (settings.device, settings.dtype) == (options.device, options.dtype)
        and settings.draft_tokens == options.draft_tokens
        and (settings.temperature, settings.max_new_tokens) == (options.temperature, options.max_new_tokens)
        and report.prompts.count == len(load_prompts(options.prompts, options.num_prompts).prompts)
    )


@dataclass(frozen=True, slots=True)
class LayoutRunner:
    """Converts a head to one layout after the other, and validates each against the head as it was given.

    Attributes:
        source: the head. target: folder or Hub id. conversion: how to convert the head to a layout.
        cache: work on the target that the layouts share.
        store: where earlier reports of exactly this are found and new ones are kept, or None.
        measure: whether to measure a layout that has no earlier report.
    """

    source: str | Path
    target: str
    conversion: Callable[[str], ConvertOptions]
    options: ValidateOptions
    cache: Cache
    store: ReportStore | None = None
    measure: bool = True

    def run(self, layout: str, folder: Path, progress: Progress = silent) -> LayoutResult:
        """Convert the head to ``layout``, in the new folder ``folder``, and validate it.

        Raises Refusal where the layout cannot hold the head, FoundWanting (``release-not-measured``) where there is no
        earlier report and nothing may be measured, and what `convert` and `validate` raise.
        """
        how = self.conversion(layout)
        convert(self.source, folder, layout, how, progress=progress)
        key = self._key(folder) if self.store is not None else ""
        report = self.store.find(key) if self.store is not None else None
        if report is not None:
            return LayoutResult(layout, report, reused=True)
        if not self.measure:
            raise FoundWanting(
                f"the {layout} layout of these bytes has not been measured",
                hint="leave out --from card",
                code="release-not-measured",
            )
        # the reference replays the head as it was given, unless its files alone do not say what it is
        as_found = how.layout is None and how.read == AS_FOUND and how.transforms == UNCHANGED and not how.settings
        original = self.source if REFERENCE in self.options.engines and as_found else None
        options = replace(self.options, reference_head=original)
        begun = time.monotonic()
        report = validate(folder, self.target, options, cache=self.cache, progress=progress)
        if self.store is not None:
            self.store.keep(key, report, time.monotonic() - begun)
        return LayoutResult(layout, report)

    def kept(self, folder: Path) -> Report | None:
        """The earlier report of a converted head, if there is one."""
        return self.store.find(self._key(folder)) if self.store is not None else None

    def _key(self, folder: Path) -> str:
        options = self.options
        identity = identify_target(self.target, options.target_name).identity
        prompts = load_prompts(options.prompts, options.num_prompts)
        parts = [__version__, folder_digest(folder)[0], identity.to_json(), prompts.sha256, asdict(options)]
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]


def judge_layouts(results: Sequence[LayoutResult]) -> tuple[Verdict, str]:
    """The verdict of several layouts of one head, and its reason: the worst of theirs, or that they disagree.

    In float32 at temperature 0 an engine must count the same for every layout it passes, and write the same text, over
    the same prompts with the same settings.
    """
    disagreement = _disagreement(results)
    if disagreement is not None:
        return "fail", disagreement
    verdict = worst_verdict([result.report.verdict for result in results])
    if verdict != "pass":
        first = next(result for result in results if result.report.verdict == verdict)
        return verdict, f"{first.layout}: {first.report.reason}"
    if len(results) == 1:
        return "pass", "the layout passes"
    if all(_exact(result) for result in results):
        return "pass", f"all {len(results)} layouts pass, with the same counters and the same text, prompt by prompt"
    return "pass", f"{'both' if len(results) == 2 else 'all'} layouts pass"


def labelled(progress: Progress, label: str, begin: float = 0.0, end: float = 1.0) -> Progress:
    """The progress of one named part of a whole, from ``begin`` to ``end``."""

    def report(message: str, fraction: float | None = None) -> None:
        progress(f"{label}: {message}", None if fraction is None else begin + (end - begin) * fraction)

    return report


def _disagreement(results: Sequence[LayoutResult]) -> str | None:
    first: dict[tuple[str, ...], tuple[str, tuple[EngineRow, ...]]] = {}
    for result in results:
        for entry in result.report.engines:
            if entry.verdict != "pass" or entry.counted is None or not _exact(result):
                continue
            rows = entry.counted.per_prompt
            report = result.report
            same = (entry.engine, report.prompts.sha256, json.dumps(report.settings.to_json(), sort_keys=True))
            layout, others = first.setdefault(same, (result.layout, rows))
            for mine, theirs in zip(others, rows, strict=True):
                if _counters(mine) != _counters(theirs):
                    return (
                        f"{result.layout} and {layout} are the same head, but {entry.engine} counts differently: "
                        f"question {theirs.question_id}: {_counters(theirs)} and {_counters(mine)}"
                    )
    return None


def _exact(result: LayoutResult) -> bool:
    settings = result.report.settings
    return settings.dtype == "float32" and settings.temperature == 0


def _counters(row: EngineRow) -> tuple[int, int, tuple[int, ...], str]:
    return row.counts.rounds, row.counts.drafted, row.counts.accepted_per_position, row.tokens_sha256
