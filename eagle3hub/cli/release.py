"""``eagle3hub release``"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eagle3hub.cli import publish as publishing
from eagle3hub.cli.options import EnginePythonOption
from eagle3hub.cli.output import EXIT_OF, JsonFlag, QuietFlag, emit, progress
from eagle3hub.errors import FoundWanting, UsageError

if TYPE_CHECKING:
    from rich.console import Console

_COLOURS = {"pass": "green", "fail": "red", "inconclusive": "yellow", "unavailable": "yellow"}


def release(
    manifest: Annotated[Path, typer.Argument(metavar="MANIFEST", help="release.yaml of the release.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Make the folder, upload nothing: --until card.")] = False,
    start: Annotated[
        str,
        typer.Option(
            "--from", metavar="STEP", help="convert, card (measure nothing) or publish (the folder as it is)."
        ),
    ] = "convert",
    until: Annotated[
        str | None,
        typer.Option("--until", metavar="STEP", help="convert, validate, card or publish.", show_default="publish"),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder to make; default: the repository's name, or where it is published one in the work folder.",
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option("--target", "--verifier", metavar="T", help="Folder of the target to measure against."),
    ] = None,
    engine_python: EnginePythonOption = None,
    templates: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Templates that override the shipped ones.")
    ] = None,
    work: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where measurements are kept; default: .eagle3hub by the manifest."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a folder this tool wrote earlier.")] = False,
    create_pr: publishing.PrFlag = False,
    stage: publishing.StageFlag = False,
    branch_per_layout: publishing.BranchFlag = False,
    tag: publishing.TagOption = None,
    allow: publishing.AllowOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Convert to every layout, validate each on the engine, write the card, publish: one commit, verified.

    A release that does not pass makes no folder. What was measured before is not measured again, what the Hub has is
    not sent again. Gates and access token are those of `eagle3hub publish`.

    Example: eagle3hub release release.yaml --dry-run
    """
    if dry_run and until not in (None, "card"):
        raise UsageError("--dry-run is --until card", hint="name one")
    from eagle3hub.engines.options import engine_pythons
    from eagle3hub.publishing import Settings
    from eagle3hub.release import release as run

    with progress(quiet=quiet) as report:
        made = run(
            manifest,
            output=output,
            start=start,  # type: ignore[arg-type]  # checked there
            until="card" if dry_run else until or "publish",  # type: ignore[arg-type]
            settings=Settings(create_pr, stage, False, branch_per_layout, tag, None, tuple(allow or ())),
            target=target,
            engine_python=engine_pythons(engine_python or []),
            templates=templates,
            work=work,
            force=force,
            progress=report,
        )
    document = made.to_json()
    emit(document, lambda console: show(document, console), as_json=as_json)
    raise typer.Exit(FoundWanting.exit_code if made.refused else EXIT_OF[made.verdict])


def show(doc: dict[str, Any], console: Console) -> None:
    """Print a release: verdict, one row per layout, and where everything is."""
    from rich.markup import escape
    from rich.table import Table

    colour = _COLOURS[doc["verdict"]]
    console.print(f"[bold {colour}]{doc['verdict']}[/]  {escape(doc['repo'])}: {escape(doc['reason'])}")
    table = Table("layout", "in", "engine", "rounds", "accepted", "τ (95 % interval)", "lossless", "verdict")
    for row in doc["layouts"]:
        for e in row["engines"] or [{}]:
            a, same = e.get("acceptance") or {}, e.get("lossless")
            table.add_row(
                row["layout"],
                row["folder"] or "/",
                f"{e.get('engine', '–')} {e.get('version') or ''}".strip(),
                str(a.get("rounds", "–")),
                " / ".join(map(str, a.get("accepted_per_position", []))) or "–",
                _tau(a),
                f"{same['identical']} of {same['prompts']}" if same else "–",
                f"[{_COLOURS[row['verdict']]}]{row['verdict']}[/]" + (" (kept)" if row["reused"] else ""),
            )
    if doc["layouts"]:
        console.print(table)
    if doc["publication"]:
        publishing.show(doc["publication"], console)
    elif doc["output"]:
        size = sum(f["size"] for f in doc["files"])
        console.print(
            f"ready for upload: [bold]{escape(doc['output'])}[/] ({len(doc['files'])} files, {size / 1e6:.1f} MB)"
        )
        console.print(f"  card: {escape(doc['output'])}/README.md")
        console.print(f"  publish it with: eagle3hub publish {escape(doc['output'])} --repo {escape(doc['repo'])}")


def _tau(acceptance: dict[str, Any]) -> str:
    if not acceptance:
        return "–"
    low_high = acceptance.get("ci95")
    tau = f"{acceptance['mean_acceptance_length']:.3f}"
    return f"{tau} ({low_high[0]:.2f} … {low_high[1]:.2f})" if low_high else tau
