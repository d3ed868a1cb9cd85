"""The reports that ``release --dry-run`` or ``--until`` kept beside a manifest, if they are of its head's bytes.

They were measured on the head's layouts as the release writes them. Where the release left its folder, that is looked
at; else the layouts are written again, for as long as they are looked at. Only reports of the same bytes count.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from eagle3hub.card.manifest import Manifest, load_manifest
from eagle3hub.card.reports import find_reports
from eagle3hub.checkpoint.digest import file_digest, folder_digest
from eagle3hub.checkpoint.source import PROVENANCE, parse_json_object, read_small
from eagle3hub.conversion import convert
from eagle3hub.errors import Eagle3HubError, InputError
from eagle3hub.report import Report, load_report
from eagle3hub.target import read_target

KEPT = ".eagle3hub/reports"
"""Where a release keeps its measurements, beside the manifest, unless ``--work`` names another folder."""


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """Reports, and the folders they were measured on, main layout first; both empty where there are none."""

    reports: tuple[Path, ...] = ()
    heads: tuple[Path | str, ...] = ()


@contextmanager
def rehearsal(manifest_path: Path, work: Path) -> Iterator[Rehearsal]:
    """The newest kept report of each layout, with those that the manifest names; its folders live as long as it does.

    Args:
        work: folder to write the layouts into.

    Raises ManifestError for a manifest that cannot be read; whatever keeps the layouts from being written leaves the
    rehearsal empty, and so does a manifest without kept reports.
    """
    manifest = load_manifest(manifest_path)
    kept = _kept(manifest)
    if not kept or manifest.head_source is None:
        yield Rehearsal()
        return
    for made in _made(manifest):
        found = _matching(manifest, kept, made)
        if found.reports:
            yield found
            return
    with tempfile.TemporaryDirectory(dir=work) as folder:
        written = _write(manifest, Path(folder))
        yield _matching(manifest, kept, written) if written else Rehearsal()


def _kept(manifest: Manifest) -> dict[Path, Report]:
    """Reports of the manifest's layouts and target, the newest first."""
    found = {}
    for path in sorted((manifest.path.parent / KEPT).glob("*.json")):
        try:
            report = load_report(path)
        except InputError:
            continue
        head, target = report.document["head"], report.document["target"]["name"]
        if head["layout"] in manifest.layouts and target in (manifest.target.id, manifest.target.id.split("/")[-1]):
            found[path] = report
    return dict(sorted(found.items(), key=lambda item: item[1].document["measured_at"], reverse=True))


def _made(manifest: Manifest) -> Iterator[dict[str, Path]]:
    """Folders, by layout, that a release left where it does by default, if they were made of the head's files."""
    name = manifest.name or manifest.release.repo.rpartition("/")[2]
    for root in (Path(name), manifest.path.parent / name, manifest.path.parent / ".eagle3hub" / "release" / name):
        folders = {layout: root / manifest.layouts.folder(layout) for layout in manifest.layouts}
        if all(_is_made_of(folder, Path(str(manifest.head_source))) for folder in folders.values()):
            yield folders


def _is_made_of(folder: Path, source: Path) -> bool:
    """Whether a folder's eagle3hub.json names exactly these files of the source, byte for byte."""
    try:
        record = parse_json_object(read_small(folder / PROVENANCE) or b"{}", folder / PROVENANCE)
        listed = {str(file["path"]): str(file["sha256"]) for file in record["source"]["files"]}
        return bool(listed) and all(file_digest(source / name)["sha256"] == digest for name, digest in listed.items())
    except (Eagle3HubError, OSError, LookupError, TypeError):
        return False


def _write(manifest: Manifest, work: Path) -> dict[str, Path] | None:
    """The layouts as a release writes them, below ``work``; None where they cannot be written."""
    k = manifest.speculative_tokens
    try:
        facts = read_target(manifest.measured_target, manifest.target.id)
        for layout in manifest.layouts:
            source, dest = str(manifest.head_source), work / layout
            convert(source, dest, layout, target=facts, speculative_tokens=k, digests=True, verify=False)
    except Eagle3HubError:
        return None
    return {layout: work / layout for layout in manifest.layouts}


def _matching(manifest: Manifest, kept: dict[Path, Report], folders: dict[str, Path]) -> Rehearsal:
    digests = {layout: folder_digest(folder)[0] for layout, folder in folders.items()}
    reports: dict[str, Path] = {}
    for path, report in kept.items():
        head = report.document["head"]
        if head["digest"] == digests[head["layout"]]:
            reports.setdefault(head["layout"], path)
    if not reports:
        return Rehearsal()
    heads: tuple[Path | str, ...] = (*folders.values(), str(manifest.head_source))
    return Rehearsal((*reports.values(), *find_reports(manifest)), heads)
