"""``eagle3hub card``: write a release's model card."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eagle3hub.cli.output import JsonFlag, console, emit

if TYPE_CHECKING:
    from rich.console import Console


def card(
    manifest: Annotated[Path, typer.Argument(help="The release's manifest (release.yaml).", show_default=False)],
    report: Annotated[
        list[Path] | None,
        typer.Option(help="A report to print; may be repeated.", show_default="those the manifest names"),
    ] = None,
    head: Annotated[
        list[str] | None,
        typer.Option(
            help="A folder of the release; may be repeated, the first is described.", show_default="the manifest's"
        ),
    ] = None,
    output: Annotated[str, typer.Option("--output", "-o", help="File to write, or - for standard output.")] = "-",
    templates: Annotated[
        Path | None, typer.Option(help="Folder of templates that replace the shipped ones.", show_default="none")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Write the model card of a release from its manifest, its reports and the head's files.

    Exit status: 0 written; 3 manifest, report, head or template cannot be used, or the file cannot be written.

    Example: eagle3hub card release.yaml --report report.json --head ./head --output README.md
    """
    from eagle3hub.card.assemble import make_card

    made = make_card(
        manifest,
        reports=report or (),
        heads=head or (),
        output=None if output == "-" else output,
        templates=templates,
    )
    if not as_json and made.output is None:
        sys.stdout.write(made.text)
        sys.stdout.flush()
        return

    def human(out: Console) -> None:
        out.print(f"wrote {made.output}", markup=False)

    emit(made.to_json(), human, as_json=as_json)
    for what, why in () if as_json else made.warnings:
        console(stderr=True).print(f"warning: {what}: {why}", markup=False)
