"""Every head of a manifest: all are measured, and only then is any published."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from eagle3hub.card.manifest import Manifest, load_manifests
from eagle3hub.errors import Eagle3HubError
from eagle3hub.progress import Progress, silent
from eagle3hub.publishing import Settings, check_access, make_plan
from eagle3hub.release import Release, Step, made_in, release, work_folder
from eagle3hub.validation.layouts import labelled


def release_all(
    manifest_path: str | Path,
    *,
    output: str | Path | None = None,
    start: Step = "convert",
    until: Step = "card",
    settings: Settings | None = None,
    work: str | Path | None = None,
    force: bool = False,
    progress: Progress = silent,
    **options: Any,
) -> list[Release]:
    """Release the head of a manifest, or each of several in its order.

    Of several, each has the folder of its name in ``output``, and none is published unless every one has passed and
    its gates hold. Arguments and errors are those of `eagle3hub.release.release`; an error names its head.
    """
    manifests = load_manifests(manifest_path)
    options = {"settings": settings, "work": work, **options}
    if len(manifests) == 1:
        way: dict[str, Any] = {"output": output, "start": start, "until": until, "force": force, "progress": progress}
        return [release(_address(manifests[0]), **way, **options)]
    if until != "publish":
        places = [Path(output) / str(one.name) if output is not None else None for one in manifests]
        return _each(manifests, places, {"start": start, "until": until, "force": force, **options}, progress)
    for one in manifests:
        with _named(one):
            check_access(one.release.repo, (settings or Settings()).with_intent(one.publish), progress)
    places = [Path(output) / str(one.name) if output else made_in(one, work_folder(one, work)) for one in manifests]
    made: list[Release] = []
    if start != "publish":
        replaced = force or output is None
        made = _each(manifests, places, {"start": start, "until": "card", "force": replaced, **options}, progress)
        refused = [_held_back(one, settings, progress) for one in made]
        if any(one.output is None or one.refused for one in refused):
            return refused
    done = _each(manifests, places, {"start": "publish", "until": "publish", **options}, progress)
    return [replace(now, layouts=then.layouts, start=start) for now, then in zip(done, made or done, strict=True)]


def _each(
    manifests: list[Manifest], places: list[Path | None] | list[Path], options: dict[str, Any], progress: Progress
) -> list[Release]:
    found = []
    for i, (one, place) in enumerate(zip(manifests, places, strict=True)):
        say = labelled(progress, str(one.name), i / len(manifests), (i + 1) / len(manifests))
        with _named(one):
            found.append(release(_address(one), output=place, progress=say, **options))
    return found


def _held_back(made: Release, settings: Settings | None, progress: Progress) -> Release:
    """A release that was to be published, with its plan if a gate does not hold."""
    made = replace(made, until="publish")
    if made.output is None:
        return made
    with _named(made.manifest):
        plan = make_plan(made.output, made.manifest.release.repo, settings, manifest=made.manifest, progress=progress)
    return replace(made, publication=plan) if plan.problems else made


def _address(manifest: Manifest) -> str:
    return str(manifest.path) if manifest.name is None else f"{manifest.path}#{manifest.name}"


@contextmanager
def _named(manifest: Manifest) -> Iterator[None]:
    """Have an error say which head it is about."""
    try:
        yield
    except Eagle3HubError as e:
        e.message = f"{manifest.name}: {e.message}"
        raise
