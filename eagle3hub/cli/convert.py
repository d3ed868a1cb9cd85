"""``eagle3hub convert``: write a head in another layout."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from eagle3hub.cli.output import JsonFlag, ProgressOption, QuietFlag, emit, progress
from eagle3hub.cli.parameters import (
    HEAD,
    AnyTargetOption,
    AuxConventionOption,
    AuxLayersOption,
    DropOption,
    LayoutOption,
    MaskTokenOption,
    NormBeforeResidualOption,
    NormOutputOption,
    NumTargetLayersOption,
    RopeThetaOption,
    SuspiciousFlag,
    layout_completed,
    read_options,
)
from eagle3hub.system.resources import schema
from eagle3hub.system.text import readable_size

if TYPE_CHECKING:
    from rich.console import Console

*_others, _last = schema("manifest")["properties"]["layouts"]["properties"]["main"]["enum"]  # loads faster than codecs
TO = f"{', '.join(_others)} or {_last}."
CHANGE = "Changes, each only where it is asked for"


def convert(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help=f"The draft head: {HEAD}.")],
    destination: Annotated[str, typer.Argument(metavar="DEST", help="Folder to make; must not exist.")],
    to: Annotated[str, typer.Option("--to", metavar="LAYOUT", help=TO, autocompletion=layout_completed)] = "universal",
    layout: LayoutOption = None,
    target: AnyTargetOption = None,
    target_name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Hub id to record for a target given as a folder, or not given.")
    ] = None,
    speculative_tokens: Annotated[
        int | None,
        typer.Option(
            "--speculative-tokens",
            "--draft-tokens",
            min=1,
            max=64,
            metavar="K",
            help="Draft tokens to recommend; speculators requires it.",
        ),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse instead of assuming anything.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a folder this tool wrote earlier.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Plan and check, write nothing.")] = False,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify/--no-verify",
            help="Read it back, compare every byte not shared with the source, wait for the disk.",
        ),
    ] = True,
    read_back: Annotated[
        bool,
        typer.Option("--read-back", help="Compare also the blocks shared with the source, on XFS and btrfs."),
    ] = False,
    digests: Annotated[
        bool, typer.Option("--digests", help="Record the SHA-256 of every file of source and result.")
    ] = False,
    max_shard_size: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Split the weights into files of at most 5GB, 500MB ….")
    ] = None,
    engines: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Engines a universal folder is made for: vllm,sglang …. Default: all that can serve the target.",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Set a field of the written config; repeatable."),
    ] = None,
    aux_layers: AuxLayersOption = None,
    aux_convention: AuxConventionOption = None,
    num_target_layers: NumTargetLayersOption = None,
    norm_output: NormOutputOption = None,
    norm_before_residual: NormBeforeResidualOption = None,
    rope_theta: RopeThetaOption = None,
    mask_token_id: MaskTokenOption = None,
    drop: DropOption = None,
    allow_suspicious: SuspiciousFlag = False,
    repair: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Repair the vocabulary map: absolute, double-subtracted, arange, from-t2d, from-d2t, prefix, "
            "swapped.",
            rich_help_panel=CHANGE,
        ),
    ] = None,
    d2t: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Vocabulary map the head lacks: .npy, safetensors, .pt.", rich_help_panel=CHANGE
        ),
    ] = None,
    resort_vocab: Annotated[
        bool,
        typer.Option(
            "--resort-vocab", help="Put rows of lm_head into ascending order of token ids.", rich_help_panel=CHANGE
        ),
    ] = False,
    sort_aux: Annotated[
        bool,
        typer.Option(
            "--sort-aux", help="Put fc's column blocks into ascending order of layers.", rich_help_panel=CHANGE
        ),
    ] = False,
    include_embeddings: Annotated[
        str | None,
        typer.Option(
            metavar="FILE_OR_TARGET", help="Add token embeddings: safetensors, folder, Hub id.", rich_help_panel=CHANGE
        ),
    ] = None,
    drop_embeddings: Annotated[
        bool,
        typer.Option(
            "--drop-embeddings",
            help="Leave the head's own embeddings out, equal to the target's or not compared.",
            rich_help_panel=CHANGE,
        ),
    ] = False,
    dtype: Annotated[
        str | None,
        typer.Option(
            metavar="DTYPE", help="Cast the weights: bf16, fp16 or fp32; says what is lossy.", rich_help_panel=CHANGE
        ),
    ] = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
    _progress: ProgressOption = "text",
) -> None:
    """Convert a draft head to another layout, byte for byte.

    The destination is absent or complete at every moment. A head with something that the layout cannot keep is
    refused. Facts that the source does not state are listed as assumed, and recorded in eagle3hub.json beside the
    weights. Nothing is repaired, cast or reordered unless you ask for it by name.

    Exit status: 0 converted; 3 refused, or source or destination cannot be used; 5 the Hub failed. After an error
    nothing is left behind.

    Example: eagle3hub convert runs/final out --to universal --target Qwen/Qwen3-8B
    """
    from eagle3hub.checkpoint.writer import parse_size
    from eagle3hub.conversion.edits import Transforms
    from eagle3hub.conversion.edits.settings import parse_setting
    from eagle3hub.conversion.plan import ConvertOptions
    from eagle3hub.conversion.run import convert as run

    read = read_options(
        aux_layers=aux_layers,
        aux_convention=aux_convention,
        num_target_layers=num_target_layers,
        norm_output=norm_output,
        norm_before_residual=norm_before_residual,
        rope_theta=rope_theta,
        mask_token_id=mask_token_id,
        drop=drop,
        allow_suspicious=allow_suspicious,
    )
    transforms = Transforms(
        repair=tuple(repair or ()),
        d2t=d2t,
        resort_vocab=resort_vocab,
        sort_aux=sort_aux,
        include_embeddings=include_embeddings,
        drop_embeddings=drop_embeddings,
        dtype=dtype,
    )
    options = ConvertOptions(
        layout=layout,
        target=target,
        target_name=target_name,
        speculative_tokens=speculative_tokens,
        strict=strict,
        read=read,
        transforms=transforms,
        settings=tuple(parse_setting(text) for text in settings or ()),
        max_shard_size=None if max_shard_size is None else parse_size(max_shard_size),
        engines=tuple(name.strip() for name in (engines or "").split(",") if name.strip()),
        force=force,
        dry_run=dry_run,
        verify=verify,
        read_back=read_back,
        digests=digests,
    )
    with progress(quiet=quiet or as_json) as report:
        done = run(source, destination, to, options, progress=report)
    document = done.to_json()
    emit("convert", document, lambda console: _print(document, console), as_json=as_json)


def _print(doc: dict[str, Any], console: Console) -> None:
    from rich.markup import escape

    from eagle3hub.head import assumed_in_words

    did = "would write" if doc["dry_run"] else "wrote"
    checked = ", verified byte for byte" if doc["verified"] else "" if doc["dry_run"] else ", not verified"
    console.print(
        f"[green]{did}[/] {escape(doc['destination'])}: {doc['from']} -> [bold]{doc['to']}[/], "
        f"{len(doc['tensors'])} tensors, {readable_size(doc['bytes'])}{checked}"
    )
    renamed = [t for t in doc["tensors"] if t["from"] not in (None, t["name"])]
    computed = [t["name"] for t in doc["tensors"] if t["from"] is None]
    if doc["dry_run"]:
        for t in doc["tensors"]:
            came = "computed from the vocabulary map" if t["from"] is None else f"{t['how']} from {t['from']}"
            console.print(f"  {escape(t['name'])} {t['dtype']} {escape(str(t['shape']))} [dim]{escape(came)}[/]")
    else:
        console.print(f"  [dim]{len(renamed)} renamed, {len(computed)} computed ({', '.join(computed) or 'none'})[/]")
    if len(doc["shards"]) > 1:
        console.print(f"  [dim]{len(doc['shards'])} weights files and an index[/]")
    for change in doc["repairs"]:
        mark = "[cyan]changed[/]" if change["lossless"] else "[yellow]changed, lossy[/]"
        console.print(f"  {mark} {escape(change['name'])}: {escape(change['what'])}")
        console.print(f"    [dim]evidence: {escape(change['evidence'])}[/]")
    for note in doc["notes"]:
        console.print(f"  note: {escape(note)}")
    for a in doc["assumptions"]:
        console.print(f"  [cyan]assumed[/] {escape(assumed_in_words(a['field'], a['value']))}: {escape(a['why'])}")
        console.print(f"    [dim]to settle it: {escape(a['settle'])}[/]")
    for p in doc["mended"]:
        console.print(f"  [green]fixed[/] {escape(p['message'])}")
    of = " of the source:" if doc["dry_run"] else ""
    for p in doc["problems"] if doc["dry_run"] else doc["result_problems"]:
        console.print(f"  [yellow]{p['severity']}[/]{of} {escape(p['message'])}")
