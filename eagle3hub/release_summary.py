"""What a release did: its steps in a few rows, and the whole as Markdown for a workflow's summary page.

Both are made from the document ``release --json`` prints; text from manifests and reports is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from eagle3hub.card.markdown import code, escape, fence
from eagle3hub.errors import Eagle3HubError

Document = Mapping[str, Any]


def steps(document: Document) -> list[tuple[str, str, str]]:
    """(step, how it ended, what it amounts to) of every step that was asked for, in order."""
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
    """A row for each layout on each engine: layout, folder, engine, rounds, accepted, τ, lossless, verdict."""
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
    """The summary page of a release."""
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
    """The summary page of a release that was stopped by an error."""
    hint = f"\n\n{escape(error.hint)}" if error.hint else ""
    return f"## {escape(manifest)}: {code(error.code)}\n\n{fence(error.message)}{hint}\n"


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines: list[Sequence[str]] = [headings, [":--"] * len(headings)]
    lines += [[escape(cell) for cell in row] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
