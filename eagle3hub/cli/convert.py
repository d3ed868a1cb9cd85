"""``eagle3hub convert``"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from eagle3hub.cli.output import JsonFlag, QuietFlag, emit, progress

if TYPE_CHECKING:
    from rich.console import Console


def convert(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="Folder of the draft head, or hf://owner/name[@revision].")
    ],
    destination: Annotated[str, typer.Argument(metavar="DEST", help="Folder to make; must not exist.")],
    to: Annotated[str, typer.Option("--to", metavar="LAYOUT", help="specjax, specforge, modelopt or speculators.")],
    layout: Annotated[
        str | None, typer.Option("--from", metavar="LAYOUT", help="The source's layout; detected if not given.")
    ] = None,
    target: Annotated[
        str | None, typer.Option("--target", "--verifier", metavar="T", help="Target model: folder or Hub id.")
    ] = None,
    target_name: Annotated[
        str | None, typer.Option(metavar="ID", help="Hub id to record for a target given as a folder.")
    ] = None,
    speculative_tokens: Annotated[
        int | None,
        typer.Option(min=1, max=64, metavar="K", help="Draft tokens to recommend; speculators requires it."),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse instead of assuming anything.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a folder this tool wrote earlier.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Plan and check, write nothing.")] = False,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Read the result back, compare every byte.")
    ] = True,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Convert a draft head to another layout, byte for byte.

    The destination is absent or complete at every moment. What the layout cannot keep is refused, what the source
    does not say is listed as assumed, and eagle3hub.json beside the weights records both.

    Example: eagle3hub convert runs/final out/modelopt --to modelopt --target Qwen/Qwen3-8B
    """
    from eagle3hub.conversion import convert as run

    with progress(quiet=quiet or as_json) as report:
        done = run(
            source,
            destination,
            to,
            layout=layout,
            target=target,
            target_name=target_name,
            speculative_tokens=speculative_tokens,
            strict=strict,
            force=force,
            dry_run=dry_run,
            verify=verify,
            progress=report,
        )
    document = done.to_json()
    emit(document, lambda console: _print(document, console), as_json=as_json)


def _print(doc: dict[str, Any], console: Console) -> None:
    from rich.markup import escape

    did = "would write" if doc["dry_run"] else "wrote"
    checked = ", verified byte for byte" if doc["verified"] else "" if doc["dry_run"] else ", not verified"
    console.print(
        f"[green]{did}[/] {escape(doc['destination'])}: {doc['from']} -> [bold]{doc['to']}[/], "
        f"{len(doc['tensors'])} tensors, {doc['bytes'] / 1e6:.1f} MB{checked}"
    )
    renamed = [t for t in doc["tensors"] if t["from"] not in (None, t["name"])]
    computed = [t["name"] for t in doc["tensors"] if t["from"] is None]
    if doc["dry_run"]:
        for t in doc["tensors"]:
            came = "computed from the vocabulary map" if t["from"] is None else f"copied from {t['from']}"
            console.print(f"  {escape(t['name'])} {t['dtype']} {escape(str(t['shape']))} [dim]{escape(came)}[/]")
    else:
        console.print(f"  [dim]{len(renamed)} renamed, {len(computed)} computed ({', '.join(computed) or 'none'})[/]")
    for note in doc["notes"]:
        console.print(f"  note: {escape(note)}")
    for a in doc["assumptions"]:
        console.print(f"  [cyan]assumed[/] {escape(a['field'])} = {escape(str(a['value']))}: {escape(a['why'])}")
        console.print(f"    [dim]to settle it: {escape(a['settle'])}[/]")
    for p in doc["problems"]:
        console.print(f"  [yellow]{p['severity']}[/] {escape(p['message'])}")
