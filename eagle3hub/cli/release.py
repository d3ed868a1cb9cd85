"""``eagle3hub release``"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eagle3hub.cli.output import EXIT_OF, JsonFlag, QuietFlag, emit, progress

if TYPE_CHECKING:
    from rich.console import Console

_COLOURS = {"pass": "green", "fail": "red", "inconclusive": "yellow", "unavailable": "yellow"}


def release(
    manifest: Annotated[Path, typer.Argument(metavar="MANIFEST", help="release.yaml of the release.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Make the folder, upload nothing.")] = False,
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder to make; default: the repository's name.")
    ] = None,
    target: Annotated[
        str | None,
        typer.Option("--target", "--verifier", metavar="T", help="Folder of the target to measure against."),
    ] = None,
    engine_python: Annotated[
        list[str] | None, typer.Option(metavar="ENGINE=PATH", help="Use this interpreter for an engine.")
    ] = None,
    templates: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Templates that override the shipped ones.")
    ] = None,
    work: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where measurements are kept; default: .eagle3hub by the manifest."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a folder this tool wrote earlier.")] = False,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Convert to every layout, validate each on the engine, write the card: a folder ready for upload.

    A release that does not pass makes no folder. What was measured before is not measured again.

    Example: eagle3hub release release.yaml --dry-run
    """
    from eagle3hub.release import release as run
    from eagle3hub.validation.options import engine_pythons

    with progress(quiet=quiet) as report:
        made = run(
            manifest,
            output=output,
            dry_run=dry_run,
            target=target,
            engine_python=engine_pythons(engine_python or []),
            templates=templates,
            work=work,
            force=force,
            progress=report,
        )
    document = made.to_json()
    emit(document, lambda console: show(document, console), as_json=as_json)
    raise typer.Exit(EXIT_OF[made.verdict])


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
    console.print(table)
    if doc["output"]:
        size = sum(f["size"] for f in doc["files"])
        console.print(
            f"ready for upload: [bold]{escape(doc['output'])}[/] ({len(doc['files'])} files, {size / 1e6:.1f} MB)"
        )
        console.print(f"  card: {escape(doc['output'])}/README.md")
        console.print(f"  upload it with: hf upload {escape(doc['repo'])} {escape(doc['output'])}")


def _tau(acceptance: dict[str, Any]) -> str:
    if not acceptance:
        return "–"
    low_high = acceptance.get("ci95")
    tau = f"{acceptance['mean_acceptance_length']:.3f}"
    return f"{tau} ({low_high[0]:.2f} … {low_high[1]:.2f})" if low_high else tau
