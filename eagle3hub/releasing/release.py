"""Release one head: convert, validate, card, publish; each step's result is kept and found again by its content."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from eagle3hub.address import HubAddress, parse_address
from eagle3hub.card import load_manifest
from eagle3hub.card.folder import BENCHMARKS, CARD, IMPORTED, MANIFEST, RECORD, REPORTS, TEMPLATES, complete
from eagle3hub.card.imported import CHARTS
from eagle3hub.card.manifest import Manifest
from eagle3hub.card.reports import named_reports
from eagle3hub.card.results import find_benchmarks
from eagle3hub.charts import require_drawing
from eagle3hub.checkpoint.destination import require_space
from eagle3hub.checkpoint.digest import FileDigest, file_digest, release_digest
from eagle3hub.checkpoint.folder import open_checkpoint
from eagle3hub.checkpoint.scratch import scratch_folder
from eagle3hub.checkpoint.source import CONFIG, INDEX, PICKLE_INDEX, PROVENANCE
from eagle3hub.checkpoint.source_tree import SourceTree, record, source_tree
from eagle3hub.checkpoint.staging import prepare_destination, staged_folder
from eagle3hub.conversion.plan import plan_conversion
from eagle3hub.conversion.run import convert
from eagle3hub.engines import get_engine
from eagle3hub.engines.base import Verdict
from eagle3hub.engines.specs import DEVICES
from eagle3hub.errors import ManifestError, SourceError, UsageError
from eagle3hub.head.quantization import QUANT_CONFIG
from eagle3hub.head.target import TargetFacts, read_target, require_files, require_weights
from eagle3hub.layouts import LAYOUTS
from eagle3hub.publishing import (
    Published,
    PublishOptions,
    PublishPlan,
    check_access,
    plan_publication,
    sign_if_asked,
    upload,
)
from eagle3hub.publishing.secrets import require_scanner
from eagle3hub.publishing.signing import SIGNATURE, UNSIGNED, check_key
from eagle3hub.system.progress import Progress, silent
from eagle3hub.validation.engine_runner import Cache, interpreter
from eagle3hub.validation.layouts import LayoutResult, LayoutRunner, ReportStore, judge_layouts, labelled
from eagle3hub.validation.options import REFERENCE
from eagle3hub.validation.reference_runner import require_packages

# The parts of a release that other jobs or machines run, and what each needs to know.


_READ = (CONFIG, INDEX, PICKLE_INDEX, PROVENANCE, QUANT_CONFIG)


def engine_runs(manifest: Manifest) -> list[dict[str, str]]:
    """List the runs of ``validate`` that separate jobs can make, one for each engine: name, ``--engine``, device."""
    asked = manifest.validate.engines
    held = f"{REFERENCE}," if REFERENCE in asked else ""
    engines = {name: held + name for name in asked if name != REFERENCE} or {REFERENCE: REFERENCE}
    return [{"name": name, "engine": engine, "device": manifest.validate.device} for name, engine in engines.items()]


def as_typed(source: str) -> str:
    """Write a head's address as a command in this folder would name it."""
    at = parse_address(source)
    return str(at) if isinstance(at, HubAddress) else os.path.relpath(at.path)


def original_files(source: str) -> list[str] | None:
    """List exactly those files of a head's folder that converting and measuring read.

    The result is None if the weights are in a ``.pt`` file, which may be a training state with data that nobody else
    should get, and empty for a head on the Hub. Raises SourceError, ConfigError or CheckpointError.
    """
    if isinstance(parse_address(source), HubAddress):
        return []
    checkpoint = open_checkpoint(source)
    weights = [path.name for path in checkpoint.weights]
    if any(name.endswith(".pt") for name in weights):
        return None
    return sorted([name for name in _READ if (checkpoint.folder / name).is_file()] + weights)


# Release one head, from manifest to Hub repository: convert, validate, card, publish.
#
# Every layout is converted, run on the engine and compared with the others before any file is put in place. A
# measurement is reused if everything it depends on is the same: the bytes of head and target, the prompts, the
# settings, the engine and this tool's version.


BESIDE = (
    *(CARD, MANIFEST, RECORD, *UNSIGNED, f"{IMPORTED}/[0-9]*.yaml", f"{TEMPLATES}/*.j2", f"{BENCHMARKS}/[0-9]*.json"),
    *(f"{REPORTS}/{layout}-{device}.json" for layout in LAYOUTS for device in DEVICES),
    *(f"{CHARTS}/{drawn}" for drawn in ("acceptance-by-position.*", "reported-[0-9]*", "benchmark-[0-9]*")),
    *(f"{layout}/" for layout in LAYOUTS),
)
"""Patterns of the files that a release writes beside those of its main layout; see `check_destination`."""
_HEADS = ".heads"
Step = Literal["convert", "validate", "card", "publish"]
STEPS: tuple[Step, ...] = ("convert", "validate", "card", "publish")


@dataclass(frozen=True, slots=True)
class Release:
    """The result of a release.

    Attributes:
        output: the publishable folder, or None where none was made or it did not pass.
        verdict: the worst of the layouts' verdicts and of the verdict on their agreement. reason: why, in one
            sentence.
        layouts: the results, main layout first.
        start, until: the first and the last step that were asked for.
        waived: gates of publishing that were waived when the folder was made, by code.
        publication: what was published; a plan if a gate does not hold; None if nothing was to be published.
    """

    manifest: Manifest
    output: Path | None
    verdict: Verdict
    reason: str
    layouts: Sequence[LayoutResult]
    files: Sequence[Mapping[str, Any]]
    start: Step
    until: Step
    publication: PublishPlan | Published | None = None
    waived: Sequence[str] = ()

    @property
    def refused(self) -> bool:
        """Whether a gate prevented its publication."""
        return isinstance(self.publication, PublishPlan)

    def to_json(self) -> dict[str, Any]:
        """Return the document ``release --json`` prints."""
        return {
            "manifest": str(self.manifest.path),
            "name": self.manifest.name,
            "repo": self.manifest.release.repo,
            "digest": release_digest({f["path"]: f["sha256"] for f in self.files}) if self.files else None,
            "source": as_typed(str(self.manifest.head_source)),
            **({"original": original_files(str(self.manifest.head_source))} if self.until == "convert" else {}),
            "runs": engine_runs(self.manifest),
            "output": str(self.output) if self.output is not None else None,
            "from": self.start,
            "until": self.until,
            "waived": list(self.waived),
            "publication": None if self.publication is None else self.publication.to_json(),
            "verdict": self.verdict,
            "reason": self.reason,
            "layouts": [
                {
                    "layout": result.layout,
                    "folder": self.manifest.layouts.folder(result.layout),
                    "verdict": result.report.verdict,
                    "reason": result.report.reason,
                    "reused": result.reused,
                    "digest": result.report.head.digest,
                    "engines": [
                        {
                            k: e.get(k)
                            for k in ("engine", "version", "device", "dtype", "verdict", "acceptance", "lossless")
                        }
                        for e in (entry.to_json() for entry in result.report.engines)
                    ],
                }
                for result in self.layouts
            ],
            "files": list(self.files),
        }


AS_THE_MANIFEST_SAYS = PublishOptions()


@dataclass(frozen=True, slots=True)
class ReleaseOptions:
    """How to release.

    Attributes:
        output: the folder to make. The default is the repository's name in the current folder or, for a release that
            is published, a folder in ``work``, which is replaced. For several heads, it holds a folder for each.
        start: the first step: ``convert``; ``card`` measures nothing, so every report must have been kept; ``publish``
            takes the folder as it is.
        until: the last step. With ``convert``, the folder holds only the heads, each in its place, if ``output`` names
            a folder; with ``validate`` no folder is left.
        publish: how to publish; the signature is made after the card is written, and before any file is put in place.
        target: address of the target to measure against, instead of the manifest's.
        engine_python: interpreter by engine. endpoints: address of a running server by engine, see `validate`; it
            serves one layout, so the manifest may name only one.
        templates: folder of files that replace card templates.
        work: where measurements are kept for reuse; by default ``.eagle3hub`` beside the manifest.
        force: replace a folder this tool wrote earlier.
        layout: measure only this layout of the manifest; the release then ends with the step ``validate``.

    Raises UsageError (``usage-step``) for steps that do not exist or do not follow each other.
    """

    output: str | Path | None = None
    start: Step = "convert"
    until: Step = "card"
    publish: PublishOptions = AS_THE_MANIFEST_SAYS
    target: str | Path | None = None
    engine_python: Mapping[str, str | Path] | None = None
    endpoints: Mapping[str, str] | None = None
    templates: str | Path | None = None
    work: str | Path | None = None
    force: bool = False
    layout: str | None = None

    def __post_init__(self) -> None:
        for step in (self.start, self.until):
            if step not in STEPS:
                raise UsageError(f"no step is called {step}", hint=f"steps: {', '.join(STEPS)}", code="usage-step")
        if self.start == "validate":
            raise UsageError(
                "converting takes seconds and is always done before validating",
                hint="start from convert, card (nothing is measured) or publish",
                code="usage-step",
            )
        if STEPS.index(self.start) > STEPS.index(self.until):
            raise UsageError(f"from {self.start} until {self.until} there is no step", hint="fix --from or --until")
        if self.layout is not None and self.until != "validate":
            raise UsageError(
                "--layout measures one layout, and a release has all of its manifest",
                hint="add --until validate",
                code="usage-step",
            )
        if self.publish.sign is not None and self.until in ("convert", "validate"):
            raise UsageError(
                f"--sign covers the whole release, which --until {self.until} does not make",
                hint="leave out --sign, or go on until card",
                code="usage-step",
            )

    @property
    def leaves(self) -> bool:
        """Whether the release leaves a folder."""
        return self.until in {"card", "publish"} or (self.until == "convert" and self.output is not None)

    @property
    def measures(self) -> bool:
        """Whether the release may measure anything."""
        return self.start == "convert" and self.until != "convert"

    def work_folder(self, manifest: Manifest) -> Path:
        """Return where measurements are kept, by default ``.eagle3hub`` beside the manifest."""
        return Path(self.work) if self.work is not None else manifest.path.parent / ".eagle3hub"

    def destination(self, manifest: Manifest) -> Path:
        """Return the folder of one head's release."""
        if self.output is not None:
            return Path(self.output)
        return self.made_in(manifest) if self.until == "publish" else Path(folder_name(manifest))

    def made_in(self, manifest: Manifest) -> Path:
        """Return where a release that will be published is made."""
        return self.work_folder(manifest) / "release" / folder_name(manifest)


DEFAULTS = ReleaseOptions()


def release_head(
    manifest_path: str | Path, options: ReleaseOptions = DEFAULTS, *, progress: Progress = silent
) -> Release:
    """Make a publishable folder from a manifest of one head, or from one head of several, and publish it.

    ``manifest_path`` is ``release.yaml``, or ``release.yaml#NAME``. A release that does not pass leaves no folder
    behind, only its reports in the work folder. Raises InputError, UnavailableError, OutputError or UsageError.
    """
    manifest = load_manifest(manifest_path)
    if options.layout is not None and manifest.layouts.main:
        manifest = replace(manifest, layouts=manifest.layouts.only(options.layout))
    if manifest.head_source is None:
        raise ManifestError(
            f"{manifest.path.name} names no head to release",
            hint="add head and layouts; a manifest without them only gives a card",
            code="manifest-no-head",
        )
    options = replace(options, publish=options.publish.with_intent(manifest.publish))
    start, until, settings = options.start, options.until, options.publish
    dest = options.destination(manifest)
    if options.endpoints and manifest.layouts.also:
        raise UsageError(
            "--endpoint is a server of one layout, and the manifest names several",
            hint="make the heads with --until convert --output DIR, measure each on a server of its own with validate "
            "--report, into DIR/reports, then make the card with eagle3hub card MANIFEST --folder DIR",
            code="usage-endpoint",
        )
    if settings.sign is not None:
        check_key(settings.sign)
    if until == "publish":
        require_scanner()
        check_access(manifest.release.repo, settings, progress)
    if start == "publish":
        if not (dest / CARD).is_file():
            raise SourceError(f"there is no release in {dest}", hint="leave out --from publish", code="source-missing")
        sign_if_asked(dest, settings, progress=progress)
        made = Release(manifest, dest, "pass", "made earlier", [], _digests(dest), start, until)
        return _publish(made, dest, settings, progress)
    manifest = replace(manifest, head_source=_pinned(manifest.head_source, progress))
    force = options.force or (until == "publish" and options.output is None)
    if options.leaves:
        prepare_destination(dest, force=force, keep_out=[str(manifest.head_source)], beside=BESIDE)
    else:
        dest = options.made_in(manifest)
        dest.parent.mkdir(parents=True, exist_ok=True)
    if until in ("card", "publish"):
        require_drawing()  # and not after hours of measuring
    named_reports(manifest)  # report what is wrong with them before anything is measured
    find_benchmarks(manifest)
    measured = str(options.target if options.target is not None else manifest.measured_target)
    facts = read_target(measured, manifest.target.id)
    asked = manifest.validate.engines if options.measures else []
    plans = [
        plan_conversion(str(manifest.head_source), layout, manifest.conversion_to(layout, facts))
        for layout in manifest.layouts
    ]
    _require_engines(asked, manifest, options)  # after the head: a bad one needs no engine
    if asked:
        require_files(measured)
    if REFERENCE in asked:
        require_weights(measured)
    signature = (dest / SIGNATURE).read_bytes() if settings.sign and (dest / SIGNATURE).is_file() else None
    require_space(dest, sum(plan.nbytes for plan in plans))
    with staged_folder(dest, force=force, beside=BESIDE) as stage:
        stage.keep = False
        runner = LayoutRunner(
            source=str(manifest.head_source),
            target=measured,
            conversion=partial(manifest.conversion_to, facts=facts),
            options=replace(
                manifest.validate, engine_python=options.engine_python or {}, endpoints=options.endpoints or {}
            ),
            cache=Cache(),
            store=ReportStore(options.work_folder(manifest) / REPORTS),
            measure=options.start == "convert",
        )
        results = _measure(manifest, facts, runner, stage.path / _HEADS, until, progress)
        verdict, reason = judge_layouts(results) if results else ("pass", "every layout was converted and read back")
        stage.keep = verdict == "pass" and options.leaves
        files: list[FileDigest] = []
        if stage.keep:
            tree = source_tree(manifest.path)
            _place_heads(manifest, stage.path, tree)
            if until != "convert":
                progress("writing the card")
                _assemble(manifest_path, results, stage.path, options)
                sign_if_asked(stage.path, settings, signature, progress)
            files = _digests(stage.path)
    made = Release(
        manifest, dest if stage.keep else None, verdict, reason, results, files, start, until, None, settings.allow
    )
    if until == "publish" and made.output is not None:
        return _publish(made, made.output, settings, progress)
    return made


def _require_engines(asked: Sequence[str], manifest: Manifest, options: ReleaseOptions) -> None:
    """Check before any conversion that the engines that will measure are there."""
    for engine in asked:
        if engine == REFERENCE:
            require_packages()
        elif engine not in (options.endpoints or ()):
            interpreter(get_engine(engine), manifest.validate.device, options.engine_python or {})


def folder_name(manifest: Manifest) -> str:
    """Return the folder name of a release: its head's name in the manifest, or its repository's."""
    return manifest.name or manifest.release.repo.rpartition("/")[2]


def _pinned(source: str, progress: Progress) -> str:
    """Return the source at the current commit of its branch, so that every step reads the same bytes."""
    if not isinstance(parse_address(source), HubAddress):
        return source
    progress("reading the head")
    return open_checkpoint(source, headers_only=True).source


def _digests(folder: Path) -> list[FileDigest]:
    found = sorted(p for p in folder.rglob("*") if p.is_file())
    return [file_digest(p, str(p.relative_to(folder))) for p in found]


def _publish(made: Release, folder: Path, settings: PublishOptions, progress: Progress) -> Release:
    """Publish the folder of a release; if a gate does not hold, attach the plan that says which."""
    repo = made.manifest.release.repo
    plan = plan_publication(folder, repo, settings, manifest=made.manifest, progress=progress)
    return replace(made, publication=plan if plan.problems else upload(plan, progress))


def _measure(
    manifest: Manifest,
    facts: TargetFacts,
    runner: LayoutRunner,
    heads: Path,
    until: Step,
    progress: Progress,
) -> list[LayoutResult]:
    """Convert the head to each layout under ``heads`` and validate each, or find its earlier report.

    If ``until`` is ``convert``, there are no results. Raises FoundWanting if a report is missing and nothing may be
    measured.
    """
    heads.mkdir()
    results: list[LayoutResult] = []
    layouts = list(manifest.layouts)
    for i, layout in enumerate(layouts):
        say = labelled(progress, f"{layout} ({i + 1} of {len(layouts)})", i / len(layouts), (i + 1) / len(layouts))
        if until == "convert":
            convert(runner.source, heads / layout, layout, manifest.conversion_to(layout, facts), progress=say)
            continue
        results.append(runner.run(layout, heads / layout, say))
    return results


def _place_heads(manifest: Manifest, stage: Path, tree: SourceTree | None) -> None:
    """Arrange the converted heads as the repository: main layout at the root, the others in their folders.

    Their provenance names the commit they come from.
    """
    for layout in manifest.layouts:
        here = stage / _HEADS / layout
        if layout != manifest.layouts.main:
            os.rename(here, stage / manifest.layouts.folder(layout))
            continue
        for file in here.iterdir():
            os.rename(file, stage / file.name)
        here.rmdir()
    (stage / _HEADS).rmdir()
    if tree is not None:
        for layout in manifest.layouts:
            record(stage / manifest.layouts.folder(layout), tree)


def _assemble(address: str | Path, results: Sequence[LayoutResult], stage: Path, options: ReleaseOptions) -> None:
    """Put results, charts, card and record beside the heads."""
    (stage / REPORTS).mkdir()
    for result in results:
        device = result.report.settings.device
        result.report.save(stage / REPORTS / f"{result.layout}-{device}.json")
    settings = options.publish
    complete(stage, address, publish=settings.intent(), waived=settings.allow, templates=options.templates)


# What a release would do, and what it would cost.


State = Literal["to do", "kept", "made earlier", "not known"]


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """One thing that a release would do.

    Attributes:
        step: the step that it belongs to. layout: what it is done to, or None. what: in words.
        state: ``kept`` where an earlier measurement is used, ``made earlier`` where the step is before the first one,
            ``not known`` where that cannot be known before it is done.
        size: bytes that are written or sent, if known. seconds: how long it will take, if known.
        known_from: what ``seconds`` was taken from.
    """

    step: Step
    layout: str | None
    what: str
    state: State = "to do"
    size: int | None = None
    seconds: float | None = None
    known_from: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return every field by name."""
        return {
            "step": self.step,
            "layout": self.layout,
            "what": self.what,
            "state": self.state,
            "bytes": self.size,
            "seconds": None if self.seconds is None else round(self.seconds, 1),
            "known_from": self.known_from,
        }


@dataclass(frozen=True, slots=True)
class ReleasePlan:
    """What the release of one head would do; ``target`` is what it is measured against."""

    manifest: Manifest
    target: str
    output: Path
    steps: Sequence[PlannedStep]

    def to_json(self) -> dict[str, Any]:
        """Return an item of ``heads`` of ``release --explain --json``."""
        return {
            "manifest": str(self.manifest.path),
            "name": self.manifest.name,
            "repo": self.manifest.release.repo,
            "source": as_typed(str(self.manifest.head_source)),
            "target": self.target,
            "output": str(self.output),
            "steps": [step.to_json() for step in self.steps],
        }


def explain_head(
    manifest_path: str | Path, options: ReleaseOptions = DEFAULTS, *, progress: Progress = silent
) -> ReleasePlan:
    """Say what `release_head` would do, without doing it.

    A head on this machine is converted in a scratch folder, since only its bytes tell whether it was measured earlier.
    Raises what `release_head` raises for a manifest, a head or a target that cannot be used.
    """
    manifest = load_manifest(manifest_path)
    if manifest.head_source is None:
        raise ManifestError(
            f"{manifest.path.name} names no head to release",
            hint="add head and layouts; a manifest without them only gives a card",
            code="manifest-no-head",
        )
    if options.layout is not None:
        manifest = replace(manifest, layouts=manifest.layouts.only(options.layout))
    dest, asked = options.destination(manifest), STEPS[: STEPS.index(options.until) + 1]
    steps: list[PlannedStep] = []
    if options.start == "publish":
        steps += [PlannedStep(step, None, "the folder as it is", "made earlier") for step in asked[:-1]]
        size = sum(f["size"] for f in _digests(dest)) if dest.is_dir() else None
    else:
        size = _plan_layouts(manifest, options, steps, progress)
        if "card" in asked:
            steps.append(PlannedStep("card", None, f"{CARD}, reports, charts and {RECORD}"))
    if options.until == "publish":
        steps.append(PlannedStep("publish", None, f"to {manifest.release.repo}, in one commit", size=size))
    target = options.target if options.target is not None else manifest.measured_target
    return ReleasePlan(manifest, str(target), dest, steps)


def _plan_layouts(manifest: Manifest, options: ReleaseOptions, steps: list[PlannedStep], progress: Progress) -> int:
    """Add the conversion and the measurement of every layout to ``steps``; returns the bytes of their weights."""
    measured = str(options.target if options.target is not None else manifest.measured_target)
    facts, source = read_target(measured, manifest.target.id), str(manifest.head_source)
    asked = replace(manifest.validate, engine_python=options.engine_python or {}, endpoints=options.endpoints or {})
    store = ReportStore(options.work_folder(manifest) / REPORTS)
    runner = LayoutRunner(source, measured, partial(manifest.conversion_to, facts=facts), asked, Cache(), store)
    here, whole = not isinstance(parse_address(source), HubAddress), 0
    took = store.took(asked)
    measures: list[PlannedStep] = []
    with scratch_folder() as scratch:
        for layout in manifest.layouts:
            how = manifest.conversion_to(layout, facts)
            plan = plan_conversion(source, layout, how)
            whole += plan.nbytes
            seconds: float | None = None
            state: State = "to do" if here or store.is_empty else "not known"
            if here and not store.is_empty and options.until != "convert":
                begun = time.monotonic()
                convert(source, scratch / layout, layout, how, progress=progress)
                seconds = time.monotonic() - begun
                state = "kept" if runner.kept(scratch / layout) is not None else "to do"
            folder = manifest.layouts.folder(layout)
            to = f"{plan.head.layout} to {layout}, {f'in {folder}/' if folder else 'in the root'}"
            why = None if seconds is None else "converting it now"
            steps.append(PlannedStep("convert", layout, to, "to do", plan.nbytes, seconds, why))
            engines = f"on {', '.join(asked.engines)}, {asked.device}, {asked.num_prompts or 'all'} prompts"
            step = PlannedStep("validate", layout, engines, state)
            if state == "kept":
                step = replace(step, seconds=0.0, known_from="the earlier measurement")
            elif state == "to do" and took is not None:
                step = replace(step, seconds=took, known_from="an earlier measurement like it")
            measures.append(step)
    if options.until != "convert":
        steps += measures
    return whole
