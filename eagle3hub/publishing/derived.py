"""Gates that derive a release again: what its reports state, what its manifest asks for, what its card prints.

What can be computed is computed again and not believed: see `eagle3hub.validation.derive` and `eagle3hub.card.folder`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from eagle3hub._version import __version__
from eagle3hub.card.folder import (
    BENCHMARKS,
    CARD,
    IMPORTED,
    MANIFEST,
    RECORD,
    TEMPLATES,
    Difference,
    differences,
    load_record,
    open_heads,
    public_form,
)
from eagle3hub.card.imported import find
from eagle3hub.card.manifest import Manifest, load_manifest, read_manifest_document
from eagle3hub.errors import InputError, Problem, UsageError
from eagle3hub.head import Head
from eagle3hub.prompts import PACKAGED, context_name, datasets, is_cached, load_prompts
from eagle3hub.publishing.files import LocalFile, files_in, head_folders
from eagle3hub.system.documents import parse_yaml
from eagle3hub.validation.derive import contradictions
from eagle3hub.validation.gates import agreement
from eagle3hub.validation.layouts import LayoutResult, judge_layouts
from eagle3hub.validation.options import ValidateOptions
from eagle3hub.validation.report import Report, load_report

_AGAIN = "validate it again (eagle3hub release makes folder and reports together)"
_OWN_TEMPLATES = (
    "were made with the makers' own templates, which are not run from the Hub: download the release and verify the "
    "folder"
)
_REMAKE = "make the folder again with eagle3hub release"
_SECTIONS = (
    "the card is made from manifest, reports and head: write your own text under sections: in the manifest, correct "
    "facts there, and make the folder again with eagle3hub release"
)


def gate_problem(code: str, message: str, hint: str | None = None) -> Problem:
    """Return a problem that keeps a folder from being published."""
    return Problem("error", code, message, hint)


def own_manifest(folder: Path) -> Manifest | None:
    """Return the manifest in a release folder, or None if there is none. Raises ManifestError, SourceError."""
    return load_manifest(folder / MANIFEST) if (folder / MANIFEST).is_file() else None


def manifest_problems(
    folder: Path, files: Sequence[LocalFile], own: Manifest | None, given: Manifest | None, repo_id: str
) -> Iterator[Problem]:
    """Yield the problems of the manifest and the record in a folder.

    ``own`` is the manifest in the folder, ``given`` the one on the command line.
    """
    code = "publish-manifest"
    if own is None:
        yield gate_problem(code, f"there is no {MANIFEST} in the folder to say what is released", _REMAKE)
        return
    if own.release.repo != repo_id:
        yield gate_problem(
            code,
            f"the folder was made for {own.release.repo}, not for {repo_id}: its card and links name that repository",
            "change release.repo in the manifest, and make the folder again with eagle3hub release",
        )
    for field in _private(own):
        yield gate_problem(code, f"{MANIFEST} has another {field} than the manifest of a release should have", _REMAKE)
    here = own.path.parent  # which is absolute, whatever the folder was called
    named = {path.relative_to(here).as_posix() for path in _named(own) if path.is_relative_to(here)}
    for file in files:
        if file.path.startswith((f"{BENCHMARKS}/", f"{IMPORTED}/")) and file.path not in named:
            yield gate_problem(code, f"{file.path} is not named in {MANIFEST}, so the card does not show it", _REMAKE)
    if given is not None and not _same_manifest(own, given):
        yield gate_problem(code, f"{MANIFEST} in the folder differs from what {given.path.name} gives", _REMAKE)
    try:
        record = load_record(folder / RECORD)
    except InputError as e:
        yield gate_problem(code, f"the record of the release cannot be read: {e.message}", _REMAKE)
        return
    sent = {f.path: f.sha256 for f in files}
    for listed in record.files:
        if sent.get(listed["path"]) != listed["sha256"]:
            what = "is missing" if listed["path"] not in sent else "has other bytes than when the release was made"
            yield gate_problem(code, f"{listed['path']} {what}", _REMAKE)


def _private(own: Manifest) -> list[str]:
    """Return the fields that differ between a folder's manifest and its public form.

    Such fields name reports elsewhere, or places on a machine.
    """
    here = read_manifest_document(own.path)[0].data
    form = public_form(own.path, publish=here.get("publish", {}), benchmarks=len(own.benchmarks))[MANIFEST]
    public = parse_yaml(form.decode(), MANIFEST).data
    return [key for key in {**here, **public} if here.get(key) != public.get(key)]


def _named(own: Manifest) -> list[Path]:
    """Return the paths of the benchmarks and imported measurements that the manifest names."""
    here = read_manifest_document(own.path)[0].data
    return [path for key in ("benchmarks", "imported") for path in find(own.path.parent, here.get(key, ()))]


def _same_manifest(own: Manifest, given: Manifest) -> bool:
    """Return whether the folder's manifest equals the public form of the given manifest.

    How the release is published is not compared.
    """
    address = f"{given.path}#{given.name}" if given.name else given.path
    digest = own.target.weights_digest if given.target.weights_digest is None else None
    count = len(own.benchmarks)
    theirs = public_form(address, publish={}, benchmarks=count, weights_digest=digest)
    ours = public_form(own.path, publish={}, benchmarks=count)
    return theirs == ours


def report_problems(folder: Path, files: Sequence[LocalFile], manifest: Manifest | None) -> Iterator[Problem]:
    """Yield the problems of the reports in a folder: alone, against the manifest, and against each other."""
    code = "publish-report"
    heads: Mapping[str, Head] = {}
    if manifest is not None:
        try:
            heads = open_heads(folder, manifest)
        except InputError as e:
            yield gate_problem("publish-head", f"a head cannot be read: {e.message}", e.hint)
    reports: list[tuple[str, Report]] = []
    for file in files:
        if file.path.startswith("reports/") and isinstance(file.source, Path):
            try:
                reports.append((file.path, load_report(file.source)))
            except InputError as e:
                yield gate_problem(code, f"{file.path} is not a report: {e.message}", e.hint)
    folders = head_folders(files)
    place_of = {digest: place for place, digest in folders.items()}
    # further ones of the same bytes may be of other settings: another mode of the target or set of prompts, never of
    # another target
    apart = {} if manifest is None else {path: departures_from_manifest(manifest, r) for path, r in reports}
    as_asked = {r.head.digest for path, r in reports if not apart.get(path, True)}
    good: list[tuple[str, Report]] = []
    for path, report in reports:
        place = place_of.get(report.head.digest)
        if place is None:
            yield gate_problem(code, f"{path} measured a head with other bytes than those in this folder", _AGAIN)
            continue
        found = [*_other_files(files, place, report), *contradictions(report, heads.get(place))]
        if report.tool_version != __version__:
            made = report.tool_version
            found.append(f"eagle3hub {made} made it, and this is {__version__}, which may derive other numbers")
        if manifest is not None:
            found += _other_target(manifest, report) if report.head.digest in as_asked else apart[path]
        yield from (gate_problem(code, f"{path}: {what}", _AGAIN) for what in found)
        if report.verdict != "pass":
            yield gate_problem(code, f"{path} says {report.verdict}: {report.reason}", _AGAIN)
        if not found:
            good.append((path, report))
    yield from (gate_problem(code, what, _AGAIN) for what in _disagreements(good))
    wanted = set(manifest.validate.engines) if manifest is not None else set()
    for place, digest in folders.items():
        where = place or "the root"
        mine = [r for _, r in reports if r.head.digest == digest]
        measured = {e.engine for r in mine for e in r.engines if e.verdict != "unavailable"}
        if not measured:
            yield gate_problem("publish-unmeasured", f"no report covers the head in {where}", _AGAIN)
        elif missing := sorted(wanted - measured):
            what = f"the head in {where} was not measured by {', '.join(missing)}"
            yield gate_problem("publish-unmeasured", what, _AGAIN)


def measured_well(files: Sequence[LocalFile]) -> bool:
    """Return whether a report in a folder passed on a head in it, with an acceptance: what was assumed then held.

    All heads of a release are one head in several layouts.
    """
    digests = set(head_folders(files).values())
    for file in files:
        if file.path.startswith("reports/") and isinstance(file.source, Path):
            try:
                report = load_report(file.source)
            except InputError:
                continue
            good = any(e.verdict == "pass" and e.acceptance is not None for e in report.engines)
            if good and report.verdict == "pass" and report.head.digest in digests:
                return True
    return False


def _other_files(files: Sequence[LocalFile], place: str, report: Report) -> Iterator[str]:
    here = {f.name: (f.size, f.sha256) for f in files_in(files, place)}
    for stated in report.head.files:
        if here.get(stated["path"]) != (stated["size"], stated["sha256"]):
            yield f"{stated['path']} in this folder is not the file that it measured"


def _other_target(manifest: Manifest, report: Report) -> list[str]:
    """Return one sentence for each way in which a report's target is another than the manifest's."""
    target = report.target
    rows: list[tuple[str, Any, Any]] = [("the target", target.name, manifest.target.id)]
    if target.revision is not None or manifest.target.revision is None:
        rows.append(("the target's revision", target.revision, manifest.target.revision))
    if manifest.target.weights_digest is not None:
        rows.append(("the digest of the target's weights", target.weights_digest, manifest.target.weights_digest))
    return _departures(rows)


def departures_from_manifest(manifest: Manifest, report: Report) -> list[str]:
    """Return one sentence for each setting in which a report differs from the manifest."""
    asked, settings, prompts = manifest.validate, report.settings, report.prompts
    rows: list[tuple[str, Any, Any]] = [
        ("K", settings.draft_tokens, asked.draft_tokens),
        ("the dtype", settings.dtype, asked.dtype),
        ("the device", settings.device, asked.device),
        ("the limit of new tokens", settings.max_new_tokens, asked.max_new_tokens),
        ("the required acceptance length", settings.min_acceptance_length, asked.min_acceptance_length),
        ("the temperature", settings.temperature, asked.temperature),
        ("the branches per token", settings.topk or 1, asked.topk),
        (
            "the nodes of the tree",
            settings.num_draft_tokens if (settings.topk or 1) > 1 else None,
            asked.num_draft_tokens if asked.topk > 1 else None,
        ),
        ("the seed", settings.seed, asked.seed),
        ("the way of drafting", settings.drafting or "greedy", "greedy"),
        ("the system prompt", settings.system_prompt, asked.system_prompt),
        ("the prompts", prompts.name, "@".join([PurePath(asked.prompts).name, *map(context_name, asked.contexts)])),
        ("the number of prompts", prompts.count, _asked_count(asked)),
    ]
    unasked = sorted({e.engine for e in report.engines} - set(asked.engines))
    return [
        *_other_target(manifest, report),
        *_departures(rows),
        *(f"it measured {engine}, which the manifest does not ask for" for engine in unasked),
    ]


def _departures(rows: Iterable[tuple[str, Any, Any]]) -> list[str]:
    return [
        f"{what} is {_printed(measured)}, and the manifest asks for {_printed(wanted)}"
        for what, measured, wanted in rows
        if wanted is not Ellipsis and measured != wanted
    ]


def _asked_count(asked: ValidateOptions) -> Any:
    """Return the number of prompts that a manifest asks for.

    Returns Ellipsis if that is the size of a prompt set that is not on this machine, or if it depends on the length of
    its prompts.
    """
    prompts = str(asked.prompts)
    if asked.num_prompts is not None:
        return asked.num_prompts
    if asked.contexts:
        return ...
    if prompts in PACKAGED or (prompts in datasets() and is_cached(datasets()[prompts])):
        try:
            return len(load_prompts(prompts).prompts)
        except (InputError, UsageError):
            return ...
    return ...


def _printed(value: Any) -> str:
    return "none" if value is None else str(value)


def _disagreements(reports: Sequence[tuple[str, Report]]) -> Iterator[str]:
    """Yield one sentence for each pair of reports that contradict each other.

    Reports of one release must agree on the target, on the counters of one measurement, and across layouts.
    """
    first_path, first = reports[0] if reports else ("", None)
    seen: dict[tuple[Any, ...], tuple[str, Any]] = {}
    for path, report in reports:
        if first is not None and report.target != first.target:
            yield f"{path} and {first_path} measured different targets"
        for entry in report.engines:
            if entry.counted is None:
                continue
            key = (report.head.digest, entry.engine, entry.device, entry.dtype)
            measured = report.measurement(entry)
            earlier = seen.setdefault(key, (path, measured))
            if earlier[1] is not measured and agreement(measured, earlier[1]).verdict == "fail":
                yield f"{path} and {earlier[0]} contradict each other on {entry.engine}, over the same bytes"
    if reports:
        verdict, reason = judge_layouts([LayoutResult(r.head.layout, r) for _, r in reports])
        if verdict == "fail":
            yield reason


@dataclass(frozen=True, slots=True)
class Derivation:
    """The result of deriving a release again.

    Attributes:
        faults: one sentence for each thing that does not follow.
        waived: the same for gates that the release says were waived.
        unchecked: what could not be derived here, and why.
    """

    faults: Sequence[str]
    waived: Sequence[str] = ()
    unchecked: Sequence[str] = ()


def derive_again(folder: Path, files: Sequence[LocalFile], repo_id: str, *, run_templates: bool = True) -> Derivation:
    """Derive a release from its own files: the numbers and verdicts of its reports, its card, its charts.

    Args:
        files: the files of ``folder`` with their digests.
        repo_id: the repository that the release was published to.
        run_templates: whether to run the makers' own templates. They run in a sandbox, but may never end.
    """
    try:
        own = own_manifest(folder)
    except InputError as e:
        return Derivation([e.message])
    if own is None:
        return Derivation([f"there is no {MANIFEST}, so reports, card and charts cannot be derived again"])
    found = [*manifest_problems(folder, files, own, None, repo_id), *report_problems(folder, files, own)]
    try:
        waived = set(load_record(folder / RECORD).waived)
        if not run_templates and any(f.path.startswith(f"{TEMPLATES}/") for f in files):
            cards: Sequence[Difference] = [Difference(f"{CARD} and charts", _OWN_TEMPLATES, unknown=True)]
        else:
            cards = differences(folder, {f.path: f.sha256 for f in files})
    except InputError as e:
        return Derivation([*(p.message for p in found), f"the card cannot be made again: {e.message}"])
    faults = [p.message for p in found if p.code not in waived]
    faults += [f"{d.path} {d.what}" for d in cards if not d.unknown]
    unchecked = [f"{d.path} {d.what}" for d in cards if d.unknown]
    return Derivation(faults, [p.message for p in found if p.code in waived], unchecked)


def card_problems(folder: Path, files: Sequence[LocalFile]) -> Iterator[Problem]:
    """Yield a problem for each part of card and charts that differs from what manifest, reports and heads give."""
    try:
        found: Sequence[Difference] = differences(folder, {f.path: f.sha256 for f in files})
    except InputError as e:
        yield gate_problem("publish-card", f"the card cannot be made again: {e.message}", e.hint or _REMAKE)
        return
    for one in found:
        hint = _SECTIONS if one.path == CARD else _REMAKE
        yield gate_problem("publish-card", f"{one.path} {one.what}", f"{hint}\n{one.diff}" if one.diff else hint)
