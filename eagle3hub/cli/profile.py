"""``eagle3hub profile``: acceptance by position in the files that other tools read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eagle3hub.cli.output import JsonFlag, emit, tell
from eagle3hub.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

FORMATS = ("modelopt", "dynamo")


def profile(
    source: Annotated[
        Path, typer.Argument(metavar="FILE", help="A report, or a speculation_profile.json.", show_default=False)
    ],
    engine: Annotated[
        str | None, typer.Option(help="Engine of the report.", show_default="the first that is not the reference")
    ] = None,
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="modelopt|dynamo",
            help="A speculation_profile.json, or a file for --extra-engine-args of Dynamo's mocker and replay.",
        ),
    ] = "modelopt",
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write it to this file.", show_default="none")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Show acceptance by draft position, and write it as other tools want it: ModelOpt's profile, Dynamo's arguments.

    A profile that somebody else wrote is held against itself first: rates in range and falling, one kind following
    from the other, the mean that they imply.

    Exit status: 0; 2 the engine counted nothing; 3 the file cannot be read, or its numbers cannot be.

    Example: eagle3hub profile report.json --output speculation_profile.json
    """
    from eagle3hub.card.exchange import load_profile
    from eagle3hub.checkpoint.destination import check_place
    from eagle3hub.checkpoint.staging import replace_file
    from eagle3hub.system.documents import document_bytes

    if to not in FORMATS:
        raise UsageError(f"--to {to!r} is no format", hint=f"formats: {', '.join(FORMATS)}", code="profile-format")
    if output is not None:
        check_place(output)
    found = load_profile(source, engine)
    document = found.to_json() if to == "modelopt" else found.for_dynamo()
    if to == "dynamo" and found.draft_tokens > document["aic_nextn"]:
        tell(
            f"Dynamo takes up to 5 draft tokens: of {found.draft_tokens} these are the first {document['aic_nextn']}\n"
        )
    if output is not None:
        replace_file(output, document_bytes(document))

    def human(out: Console) -> None:
        out.print(
            f"{found.draft or 'a draft'} for {found.target or 'a target'}, K = {found.draft_tokens}", markup=False
        )
        out.print(f"acceptance length {found.mean:.3f} tokens per round", markup=False)
        for name, rates in (("marginal", found.marginal), ("conditional", found.conditional)):
            out.print(f"{name:<12}{'  '.join(f'{rate:.3f}' for rate in rates)}", markup=False)
        if output is not None:
            out.print(f"written     {output}", markup=False, soft_wrap=True)

    emit("profile" if to == "modelopt" else "profile-dynamo", document, human, as_json=as_json)
