"""Release every head of a manifest, and show in a table what was done."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from eagle3hub.card.manifest import Manifest, load_manifests
from eagle3hub.card.markdown import code, escape, fence
from eagle3hub.errors import Eagle3HubError
from eagle3hub.publishing import check_access, plan_publication
from eagle3hub.releasing.release import DEFAULTS, Release, ReleaseOptions, ReleasePlan, explain_head, release_head
from eagle3hub.system.progress import Progress, silent
from eagle3hub.validation.layouts import labelled

# Release every head of a manifest: measure all, and only then publish any.


def release(manifest: str | Path, options: ReleaseOptions = DEFAULTS, *, progress: Progress = silent) -> list[Release]:
    """Release the head of a manifest, or each of several in its order: convert, validate, card, publish.

    Args:
        manifest: ``release.yaml``, or ``release.yaml#NAME`` for one head of several.
        options: which steps, which folder, and how to publish; the default makes a folder and publishes nothing.

    None of several heads is published unless every one has passed and its gates hold. A release that does not pass
    leaves no folder. Raises whatever `release_head` raises; the error names the head.
    """
    manifests = load_manifests(manifest)
    if len(manifests) == 1:
        return [release_head(_address(manifests[0]), options, progress=progress)]
    places = [_place(one, options) for one in manifests]
    if options.until != "publish":
        return _each(manifests, places, options, progress)
    for one in manifests:
        with _named(one):
            check_access(one.release.repo, options.publish.with_intent(one.publish), progress)
    made: list[Release] = []
    if options.start != "publish":
        replaced = options.force or options.output is None
        made = _each(manifests, places, replace(options, until="card", force=replaced), progress)
        refused = [_held_back(one, options, progress) for one in made]
        if any(one.output is None or one.refused for one in refused):
            return refused
    done = _each(manifests, places, replace(options, start="publish"), progress)
    return [
        replace(now, layouts=then.layouts, start=options.start) for now, then in zip(done, made or done, strict=True)
    ]


def explain(
    manifest: str | Path, options: ReleaseOptions = DEFAULTS, *, progress: Progress = silent
) -> list[ReleasePlan]:
    """Say what `release` would do with each head of a manifest, without doing it. Raises as `explain_head`."""
    manifests = load_manifests(manifest)
    several = len(manifests) > 1
    found = []
    for one in manifests:
        with _named(one) if several else nullcontext():
            place = _place(one, options) if several else options.output
            found.append(explain_head(_address(one), replace(options, output=place), progress=progress))
    return found


def _each(
    manifests: list[Manifest], places: list[Path | None], options: ReleaseOptions, progress: Progress
) -> list[Release]:
    found = []
    for i, (one, place) in enumerate(zip(manifests, places, strict=True)):
        say = labelled(progress, str(one.name), i / len(manifests), (i + 1) / len(manifests))
        with _named(one):
            found.append(release_head(_address(one), replace(options, output=place), progress=say))
    return found


def _place(one: Manifest, options: ReleaseOptions) -> Path | None:
    """Return the folder of one of several heads, or None for the default folder of a release that is not published."""
    if options.output is not None:
        return Path(options.output) / str(one.name)
    return options.made_in(one) if options.until == "publish" else None


def _held_back(made: Release, options: ReleaseOptions, progress: Progress) -> Release:
    """Return a release that was not published, with its plan if a gate does not hold."""
    made = replace(made, until="publish")
    if made.output is None:
        return made
    with _named(made.manifest):
        repo = made.manifest.release.repo
        plan = plan_publication(made.output, repo, options.publish, manifest=made.manifest, progress=progress)
    return replace(made, publication=plan) if plan.problems else made


def _address(manifest: Manifest) -> str:
    return str(manifest.path) if manifest.name is None else f"{manifest.path}#{manifest.name}"


@contextmanager
def _named(manifest: Manifest) -> Iterator[None]:
    """Within the block, add the head's name to errors."""
    try:
        yield
    except Eagle3HubError as e:
        e.message = f"{manifest.name}: {e.message}"
        raise


# What a release did: its steps in a few rows, and the whole as Markdown for a workflow's summary page.
#
# Both are made from the document that ``release --json`` prints; text from manifests and reports is escaped.


Document = Mapping[str, Any]


def steps(document: Document) -> list[tuple[str, str, str]]:
    """List every step that was asked for, in order, as (step, how it ended, details)."""
    asked = ["convert", "validate", "card", "publish"]
    asked = asked[: asked.index(document["until"]) + 1]
    earlier = asked[: asked.index(document["from"])] if document["from"] == "publish" else []
    return [(step, "made earlier", "") if step in earlier else (step, *_STEPS[step](document)) for step in asked]


def _convert(document: Document) -> tuple[str, str]:
    names = [row["layout"] for row in document["layouts"]]
    return "done", ", ".join(names) or document["reason"]


def _validate(document: Document) -> tuple[str, str]:
    kept = sum(row["reused"] for row in document["layouts"])
    return document["verdict"], f"{len(document['layouts']) - kept} measured, {kept} kept from earlier"


def _card(document: Document) -> tuple[str, str]:
    if document["output"] is None:
        return "not made", "a release that does not pass makes no folder"
    return "done", f"{document['output']}/README.md, {len(document['files'])} files"


def _publish(document: Document) -> tuple[str, str]:
    done = document["publication"]
    if done is None:
        why = "another head of the manifest is not ready" if document["output"] else "there is nothing to publish"
        return "not done", why
    if done["problems"]:
        return "refused", f"gates that do not hold: {', '.join(dict.fromkeys(p['code'] for p in done['problems']))}"
    sent = sum(len(paths) for paths in done["uploaded"].values())
    at = ", ".join(f"{made['ref']} at {made['commit'][:12]}" for made in done["published"])
    tag = f", tag {done['tag']}" if done["tag"] else ""
    return "verified" if sent else "unchanged", f"{sent} files sent, {at}{tag}, {done['visibility']}"


_STEPS = {"convert": _convert, "validate": _validate, "card": _card, "publish": _publish}


def measured(document: Document) -> list[tuple[str, ...]]:
    """Return a row for each layout on each engine: layout, folder, engine, rounds, accepted, τ, lossless, verdict."""
    return [_measured(row, engine) for row in document["layouts"] for engine in row["engines"] or [{}]]


MEASURED = ("layout", "in", "engine", "rounds", "accepted", "τ (95 % interval)", "lossless", "verdict")
"""Headings of `measured`."""


def _measured(row: Mapping[str, Any], engine: Mapping[str, Any]) -> tuple[str, ...]:
    acceptance, same = engine.get("acceptance") or {}, engine.get("lossless")
    return (
        row["layout"],
        row["folder"] or "/",
        f"{engine.get('engine', '–')} {engine.get('version') or ''}".strip(),
        str(acceptance.get("rounds", "–")),
        " / ".join(map(str, acceptance.get("accepted_per_position", []))) or "–",
        _tau(acceptance),
        f"{same['identical']} of {same['prompts']}" if same else "–",
        row["verdict"] + (" (kept)" if row["reused"] else ""),
    )


def _tau(acceptance: Mapping[str, Any]) -> str:
    if not acceptance:
        return "–"
    low_high = acceptance.get("ci95")
    tau = f"{acceptance['mean_acceptance_length']:.3f}"
    return f"{tau} ({low_high[0]:.2f} … {low_high[1]:.2f})" if low_high else tau


def markdown(document: Document) -> str:
    """Write the summary page of a release."""
    lines = [
        f"## {escape(document['repo'])}: {escape(document['verdict'])}",
        f"{escape(document['reason'])}",
        _table(("step", "", ""), steps(document)),
    ]
    if document["layouts"]:
        lines.append(_table(MEASURED, measured(document)))
    publication = document["publication"]
    if publication is not None:
        for title, found in (("Refused", publication["problems"]), ("Waived", publication["waived"])):
            lines += [f"{title}: {code(p['code'])} {escape(p['message'])}" for p in found]
        for commit in publication["commits"]:
            rows = [(f["path"], f"{f['size']:,}", f["sha256"], f["state"]) for f in commit["files"]]
            count = f"{len(rows)} files on {escape(commit['branch'])}"
            lines += [
                f"<details><summary>{count}</summary>",
                _table(("file", "bytes", "SHA-256", ""), rows),
                "</details>",
            ]
    return "\n\n".join(lines) + "\n"


def failure_markdown(manifest: str, error: Eagle3HubError) -> str:
    """Write the summary page of a release that an error stopped."""
    hint = f"\n\n{escape(error.hint)}" if error.hint else ""
    return f"## {escape(manifest)}: {code(error.code)}\n\n{fence(error.message)}{hint}\n"


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines: list[Sequence[str]] = [headings, [":--"] * len(headings)]
    lines += [[escape(cell) for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
