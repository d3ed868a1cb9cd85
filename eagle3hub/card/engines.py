"""Engines that the head was not tested on here: what its makers say, and the recipe such an engine would take."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from eagle3hub.card import names
from eagle3hub.card.manifest import EngineNote, Manifest
from eagle3hub.engines.recipes import Serving, make_recipe


@dataclass(frozen=True, slots=True)
class Untested:
    """One engine. ``recipe_for`` is the engine's version that ``command``, ``yaml`` and ``python`` are spelled for."""

    engine: str
    version: str
    requires: str
    requires_link: str
    note: str
    settings: tuple[tuple[str, str], ...]
    recipe_for: str
    command: str
    yaml: str
    python: str


def untested(manifest: Manifest) -> list[Untested]:
    """Every engine of the manifest's notes, in order."""
    return [_untested(manifest, note) for note in manifest.engines]


def _untested(manifest: Manifest, note: EngineNote) -> Untested:
    serving = Serving(
        target=manifest.target.id,
        head=manifest.release.repo,
        draft_tokens=manifest.speculative_tokens,
        tensor_parallel=note.tensor_parallel,
        dtype=note.dtype,
        aux_layers=note.aux_layers,
    )
    made = make_recipe(note.engine, serving)
    title = names.engine(note.engine)
    return Untested(
        engine=title,
        version=note.version,
        requires=note.requires,
        requires_link=note.requires_link,
        note=note.note,
        settings=note.settings,
        recipe_for=f"{title} {made.version}",
        command=_folded(made.server_command),
        yaml=made.yaml or "",
        python=made.python,
    )


def _folded(command: str) -> str:
    """One shell line as one option a line."""
    lines: list[str] = []
    for word in map(shlex.quote, shlex.split(command)):
        if lines and not word.startswith("--"):
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return " \\\n  ".join(lines)
