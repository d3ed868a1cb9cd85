"""Engines that the makers say something about: their words, and the recipe for one that was not tested here."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from eagle3hub.card import names
from eagle3hub.card.manifest import EngineNote, Manifest
from eagle3hub.card.recipes import fetched, folded
from eagle3hub.card.reports import Run
from eagle3hub.card.served import Choice, Served, choose
from eagle3hub.engines.recipes import Serving, make_recipe
from eagle3hub.engines.specs import default_version

NOT_READ = "Not checked: the head's files were not read."
NOT_TESTED = "not tested here"
_BECAME = {
    "pass": "passed here",
    "fail": "failed here",
    "inconclusive": "tested here, inconclusive",
    "unavailable": "could not be run here",
}
_WITHHELD = {
    "pass": "No command is printed: the report in which it passed did not pass as a whole.",
    "fail": "No command is printed: it failed here.",
}
"""Why no untested recipe is printed for an engine that was tested on the main layout, by what became of it."""


@dataclass(frozen=True, slots=True)
class Noted:
    """One engine of the manifest's notes.

    Attributes:
        engine, name: in print, and as eagle3hub calls it. heading: the engine, and what became of it here.
        remarks: sentences on a recipe, or on why there is none. lead: the line before the recipe.
        command, yaml, python: the recipe; empty where none is printed.
    """

    engine: str
    name: str
    heading: str
    version: str
    requires: str
    requires_link: str
    note: str
    settings: tuple[tuple[str, str], ...]
    remarks: tuple[str, ...]
    lead: str
    command: str
    yaml: str
    python: str


def noted(
    manifest: Manifest,
    runs: Sequence[Run],
    folders: Sequence[Served],
    tested: Collection[str],
    tool: str,
    benched: Collection[str] = (),
) -> list[Noted]:
    """Every engine of the manifest's notes, in order.

    ``folders`` are the release's, opened: a recipe is printed for the first one whose files the engine gets right, as
    the preflight sees it. ``tested`` are the engines whose recipe the card prints already, as it was tested, or says
    why not; ``benched`` those that a benchmark on the card ran on.
    """
    became = {note.engine: _became(manifest, runs, note.engine, benched) for note in manifest.engines}
    return [
        _noted(manifest, note, runs, folders, tool, became[note.engine], is_tested=note.engine in tested)
        for note in manifest.engines
    ]


def _became(manifest: Manifest, runs: Sequence[Run], engine: str, benched: Collection[str]) -> str:
    """What became of an engine here, in words."""
    state = outcome(runs, engine, manifest.layouts.main)
    if state:
        return _BECAME[state]
    elsewhere = outcome(runs, engine)
    if elsewhere:
        return f"{_BECAME[elsewhere]} with another layout"
    return "benchmarked here, not validated" if engine in benched else NOT_TESTED


def outcome(runs: Sequence[Run], engine: str, layout: str | None = None) -> str:
    """What became of an engine, on a layout or on any: its best verdict if that is a pass, else its worst.

    Empty where it was not run.
    """
    mine = [run for run in runs if run.engine["engine"] == engine and layout in (None, run.layout)]
    verdicts = {run.engine["verdict"] for run in mine}
    return next((verdict for verdict in names.OUTCOMES if verdict in verdicts), "")


def _noted(
    manifest: Manifest,
    note: EngineNote,
    runs: Sequence[Run],
    folders: Sequence[Served],
    tool: str,
    became: str,
    *,
    is_tested: bool,
) -> Noted:
    title, version = names.engine(note.engine), default_version(note.engine)
    state = outcome(runs, note.engine, manifest.layouts.main)
    remarks: tuple[str, ...] = ()
    lead = command = yaml = python = ""
    if is_tested:
        pass
    elif state in _WITHHELD:
        remarks = (_WITHHELD[state],)
    else:
        chosen = choose(folders, note.engine, version, capture=note.aux_layers)
        remarks = chosen.remarks if chosen is not None else (NOT_READ,)
        if chosen is None or chosen.folder is not None:
            how = "never run with these files" if became == NOT_TESTED else "as it has not passed a test"
            lead = f"Spelled for {title} {version} by {tool}, {how}:"
            command, yaml, python = _recipe(manifest, note, chosen)
    return Noted(
        engine=title,
        name=note.engine,
        heading=f"{title}, {became}",
        version=note.version,
        requires=note.requires,
        requires_link=note.requires_link,
        note=note.note,
        settings=note.settings,
        remarks=remarks,
        lead=lead,
        command=command,
        yaml=yaml,
        python=python,
    )


def _recipe(manifest: Manifest, note: EngineNote, chosen: Choice | None) -> tuple[str, str, str]:
    """Command, YAML and Python for a folder of the release."""
    repo = manifest.release.repo
    folder = chosen.folder.folder if chosen is not None and chosen.folder is not None else ""
    fetch, head = fetched(manifest, folder) if folder else ("", repo)
    serving = Serving(
        target=manifest.target.id,
        head=head,
        draft_tokens=manifest.speculative_tokens,
        tensor_parallel=note.tensor_parallel,
        dtype=note.dtype,
        aux_layers=note.aux_layers,
        on_hub=frozenset({manifest.target.id, repo}),
    )
    made = make_recipe(note.engine, serving)
    lines = [*([fetch] if fetch else []), *made.prepare, folded(made.server_command)]
    return "\n".join(lines), made.yaml or "", made.python
