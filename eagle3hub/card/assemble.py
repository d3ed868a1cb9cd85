"""Make a card from files on disk: what ``eagle3hub card`` does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eagle3hub.card.context import Shown, warnings
from eagle3hub.card.folder import RECORD, load_record, render, write_card
from eagle3hub.card.manifest import Manifest, load_manifest
from eagle3hub.card.render import draw, render_text
from eagle3hub.card.reports import find_reports, runs
from eagle3hub.card.results import Benchmark, find_benchmarks, view
from eagle3hub.checkpoint.destination import is_replaced
from eagle3hub.checkpoint.digest import folder_digest
from eagle3hub.checkpoint.folder import Checkpoint, open_checkpoint
from eagle3hub.conversion.edits import apply_transforms
from eagle3hub.conversion.plan import ConvertOptions
from eagle3hub.head import Head
from eagle3hub.layouts import open_head
from eagle3hub.validation.report import load_report


@dataclass(frozen=True, slots=True)
class RenderedCard:
    """A rendered card, where it was written (None: nowhere), and its warnings as (what, why)."""

    manifest: Manifest
    text: str
    reports: tuple[Path, ...]
    warnings: tuple[tuple[str, str], ...]
    output: Path | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the document ``card --json`` prints; it holds the card's text only if no file was written."""
        return {
            "manifest": str(self.manifest.path),
            "repo": self.manifest.release.repo,
            "reports": [str(path) for path in self.reports],
            "warnings": [{"what": what, "why": why} for what, why in self.warnings],
            "output": str(self.output) if self.output else None,
            "card": None if self.output else self.text,
        }


def render_card(
    manifest_path: str | Path,
    *,
    reports: Sequence[str | Path] = (),
    heads: Sequence[str | Path] = (),
    output: str | Path | None = None,
    templates: str | Path | None = None,
    waived: Sequence[str] = (),
) -> RenderedCard:
    """Render a release's card; if ``output`` is given, write its charts and then the card there.

    A card that is not written to a file has no charts, because charts lie beside the file.

    Args:
        reports: report files; default: those that the manifest's patterns match.
        heads: folders that belong to the release. The card describes the first; a report that measured none of them is
            refused. Default: the manifest's ``head.source``.
        waived: gates of publishing that the card says were waived, by code.

    If the manifest lies in a release folder, the card is made again from that folder, with the gates in its record.

    Raises InputError (ManifestError, SourceError …) if manifest, reports, head or templates are wrong, and OutputError
    if the file cannot be written.
    """
    manifest = load_manifest(manifest_path)
    if not reports and not heads and templates is None and (manifest.path.parent / RECORD).is_file():
        return _made_again(manifest, output)
    files = tuple(Path(p) for p in reports) or tuple(find_reports(manifest))
    loaded = [load_report(path) for path in files]
    below = Path(output).absolute().parent if output else None
    benchmarks = [Benchmark(results, _inside(path, below)) for path, results in find_benchmarks(manifest)]
    folders = [str(h) for h in heads] or ([manifest.head_source] if manifest.head_source else [])
    target = manifest.target.path if manifest.target.path and manifest.target.path.is_dir() else None
    checkpoints = [open_checkpoint(folder) for folder in folders]
    stated = ConvertOptions() if heads else manifest.conversion
    opened = [_opened(checkpoint, str(target) if target else None, stated) for checkpoint in checkpoints]
    for head in opened:
        head.raise_for_errors()
    beside = output is not None and is_replaced(Path(output))  # a pipe has no place for charts
    pictures, drawn = draw(manifest, runs(loaded, list(manifest.layouts)), benchmarks) if beside else ([], {})
    text = render_text(
        manifest,
        loaded,
        opened[0] if opened else None,
        templates,
        Shown(
            digests={folder_digest(checkpoint.folder)[0] for checkpoint in checkpoints},
            report_files=[_inside(path, below) for path in files],
            benchmarks=benchmarks,
            pictures=pictures,
            waived=waived,
            heads=_by_folder(manifest, opened),
        ),
    )
    if output:
        write_card(Path(output), text, drawn)
    if not opened:
        return RenderedCard(manifest, text, files, (), Path(output) if output else None)
    views = [view(run, manifest) for run in runs(loaded, list(manifest.layouts))]
    found = tuple(warnings(manifest, loaded, views))
    return RenderedCard(manifest, text, files, found, Path(output) if output else None)


def _opened(checkpoint: Checkpoint, target: str | None, stated: ConvertOptions) -> Head:
    """Open a head as a conversion with the options ``stated`` would read and change it."""
    head = open_head(checkpoint, layout=stated.layout, target=target, options=stated.read)
    return apply_transforms(head, stated.transforms, target)[0]


def _made_again(manifest: Manifest, output: str | Path | None) -> RenderedCard:
    """Make the card of a release folder again, from the files in it."""
    folder = manifest.path.parent
    made = render(folder, load_record(folder / RECORD).waived)
    if output:
        write_card(Path(output), made.card, made.charts)
    return RenderedCard(manifest, made.card, tuple(find_reports(manifest)), (), Path(output) if output else None)


def _by_folder(manifest: Manifest, opened: Sequence[Head]) -> dict[str, Head]:
    """Return the heads by their folder in the repository.

    The first is in its root, the others in the folders that the manifest gives their layouts.
    """
    found = dict(zip([""], opened, strict=False))
    for head in opened[1:]:
        if head.layout in manifest.layouts:
            found.setdefault(manifest.layouts.folder(head.layout), head)
    return found


def _inside(file: Path, folder: Path | None) -> str:
    """Return the file's path below ``folder``, or an empty string if it lies elsewhere."""
    file = file.absolute()
    return file.relative_to(folder).as_posix() if folder and file.is_relative_to(folder) else ""
