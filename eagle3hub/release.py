"""From a manifest to a folder that can be uploaded: convert, validate, card.

Every layout is converted, run on the engine and held against the others before anything is put in place. A
measurement is reused if everything it depends on is the same: the bytes of head and target, the prompts, the
settings, the engine and this tool's version.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from eagle3hub.card import load_manifest, render_card
from eagle3hub.card.manifest import Manifest
from eagle3hub.checkpoint.digest import FileDigest, file_digest
from eagle3hub.conversion import make_plan
from eagle3hub.engines import get_engine
from eagle3hub.engines.base import Verdict
from eagle3hub.errors import ManifestError, UsageError
from eagle3hub.layouts import open_head
from eagle3hub.progress import Progress, silent
from eagle3hub.staging import prepare_destination, require_space, staged_folder, write_file
from eagle3hub.target import TargetFacts, read_target
from eagle3hub.validation.interpreter import interpreter
from eagle3hub.validation.kept import Kept
from eagle3hub.validation.layouts import LayoutResult, ReportStore, judge_layouts, labelled, measure_layout
from eagle3hub.validation.options import engine_names
from eagle3hub.validation.referee import NAME as REFERENCE
from eagle3hub.validation.referee import require_packages

REPORTS = "reports"
CARD = "README.md"
_HEADS = ".heads"


@dataclass(frozen=True, slots=True)
class Release:
    """What a release made.

    Attributes:
        output: the publishable folder; it exists only if ``verdict`` is ``pass``.
        verdict: the worst of the layouts' verdicts and of their agreement. reason: why, in one sentence.
        layouts: the results, main layout first.
    """

    manifest: Manifest
    output: Path
    verdict: Verdict
    reason: str
    layouts: Sequence[LayoutResult]
    files: Sequence[Mapping[str, Any]]

    def to_json(self) -> dict[str, Any]:
        """The document ``release --json`` prints."""
        return {
            "manifest": str(self.manifest.path),
            "repo": self.manifest.release.repo,
            "output": str(self.output) if self.verdict == "pass" else None,
            "dry_run": True,
            "verdict": self.verdict,
            "reason": self.reason,
            "layouts": [
                {
                    "layout": result.layout,
                    "folder": self.manifest.layouts.folder(result.layout),
                    "verdict": result.report.verdict,
                    "reason": result.report.reason,
                    "reused": result.reused,
                    "digest": result.report.document["head"]["digest"],
                    "engines": [
                        {
                            k: e.get(k)
                            for k in ("engine", "version", "device", "dtype", "verdict", "acceptance", "lossless")
                        }
                        for e in result.report.document["engines"]
                    ],
                }
                for result in self.layouts
            ],
            "files": list(self.files),
        }


def release(
    manifest_path: str | Path,
    *,
    output: str | Path | None = None,
    dry_run: bool = True,
    target: str | Path | None = None,
    engine_python: Mapping[str, str | Path] | None = None,
    templates: str | Path | None = None,
    work: str | Path | None = None,
    force: bool = False,
    progress: Progress = silent,
) -> Release:
    """Make a publishable folder from a manifest.

    Args:
        output: the folder to make; by default the repository's name, in the current folder.
        dry_run: must be true: this version prepares the folder and leaves the upload to you.
        target: folder to measure against, in place of the manifest's.
        engine_python: interpreter by engine. templates: folder that overrides card templates.
        work: where measurements are kept for reuse; by default ``.eagle3hub`` beside the manifest.
        force: replace a folder this tool wrote earlier.

    A release that does not pass leaves no folder behind, only its reports in ``work``.
    Raises InputError, UnavailableError, OutputError or UsageError.
    """
    manifest = load_manifest(manifest_path)
    if manifest.head_source is None:
        raise ManifestError(
            f"{manifest.path.name} names no head to release",
            hint="add head and layouts; a manifest without them only gives a card",
            code="manifest-no-head",
        )
    if not dry_run:
        raise UsageError(
            "this version prepares the folder and does not upload it",
            hint=f"run with --dry-run, look at the folder, then: hf upload {manifest.release.repo} FOLDER",
            code="usage-no-upload",
        )
    dest = Path(output) if output is not None else Path(manifest.release.repo.rpartition("/")[2])
    prepare_destination(dest, force=force, keep_out=Path(manifest.head_source))
    measured = str(target if target is not None else manifest.measured_target)
    facts = read_target(measured, manifest.target.id)
    tokens = manifest.speculative_tokens
    for name in engine_names(manifest.validate.engine):
        if name == REFERENCE:
            require_packages()
        else:  # before anything is converted
            interpreter(get_engine(name), manifest.validate.device, engine_python)
    plans = [
        make_plan(manifest.head_source, layout, target=facts, speculative_tokens=tokens) for layout in manifest.layouts
    ]
    require_space(dest, sum(plan.nbytes for plan in plans))
    store = ReportStore((Path(work) if work is not None else manifest.path.parent / ".eagle3hub") / REPORTS)
    with staged_folder(dest, force=force) as stage:
        results = _measure(manifest, facts, measured, stage.path / _HEADS, store, engine_python, progress)
        verdict, reason = judge_layouts(results)
        stage.keep = verdict == "pass"
        files: list[FileDigest] = []
        if stage.keep:
            progress("writing the card")
            _assemble(manifest, facts, results, stage.path, templates)
            found = sorted(p for p in stage.path.rglob("*") if p.is_file())
            files = [file_digest(p, str(p.relative_to(stage.path))) for p in found]
    return Release(manifest, dest, verdict, reason, results, files)


def _measure(
    manifest: Manifest,
    facts: TargetFacts,
    measured: str,
    heads: Path,
    store: ReportStore,
    engine_python: Mapping[str, str | Path] | None,
    progress: Progress,
) -> list[LayoutResult]:
    """Convert the head to each layout under ``heads`` and validate each, or find its earlier report."""
    heads.mkdir()
    options = {**asdict(manifest.validate), "engine_python": engine_python, "target_name": manifest.target.id}
    kept = Kept()
    results: list[LayoutResult] = []
    layouts = list(manifest.layouts)
    for i, layout in enumerate(layouts):
        say = labelled(progress, f"{layout} ({i + 1} of {len(layouts)})", i / len(layouts), (i + 1) / len(layouts))
        result = measure_layout(
            str(manifest.head_source),
            layout,
            heads / layout,
            target=measured,
            facts=facts,
            speculative_tokens=manifest.speculative_tokens,
            options=options,
            kept=kept,
            store=store,
            progress=say,
        )
        results.append(result)
    return results


def _assemble(
    manifest: Manifest, facts: TargetFacts, results: Sequence[LayoutResult], stage: Path, templates: str | Path | None
) -> None:
    """Turn the converted heads into the repository: main layout at the root, reports and card beside it."""
    reports: list[Mapping[str, Any]] = []
    names: list[str] = []
    (stage / REPORTS).mkdir()
    for result in results:
        asked = manifest.validate
        name = f"{REPORTS}/{result.layout}-{asked.device}.json"
        result.report.save(stage / name)
        reports.append(result.report.document)
        names.append(name)
        here = stage / _HEADS / result.layout
        if result.layout != manifest.layouts.main:
            os.rename(here, stage / manifest.layouts.folder(result.layout))
            continue
        for file in here.iterdir():
            os.rename(file, stage / file.name)
        here.rmdir()
    (stage / _HEADS).rmdir()
    digests = {str(r.report.document["head"]["digest"]) for r in results}
    head = open_head(stage, target=facts)
    card = render_card(manifest, reports, head, templates, digests=digests, report_files=names)
    write_file(stage / CARD, card.encode())
