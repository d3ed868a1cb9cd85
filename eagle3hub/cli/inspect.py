"""``eagle3hub inspect``: say what a head is, and what engines will do with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eagle3hub.cli.output import JsonFlag, emit, shown_for
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
    read_options,
)
from eagle3hub.errors import InputError
from eagle3hub.system.text import readable_count

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Console

    from eagle3hub.engines.preflight import PreflightVerdict
    from eagle3hub.head import Head
    from eagle3hub.inspection import Inspection

_WIDE = 100
"""From this many columns on, every engine has a line of its own on a terminal."""
_MARKS = {"error": "[red]error[/]", "warning": "[yellow]warning[/]", "info": "[blue]info[/]"}
_VERDICTS = {
    "right": "[green]✓ right[/]",
    "silently_wrong": "[yellow]! silently wrong[/]",
    "refuses": "[red]✗ refuses[/]",
    "unknown": "[cyan]? unknown[/]",
    "depends": "[cyan]? right if[/]",
}
"""The mark of each verdict; ``unknown`` needs something that is not at hand."""


def inspect(
    ctx: typer.Context,
    source: Annotated[str, typer.Argument(metavar="SOURCE", help=f"The draft head: {HEAD}.")],
    layout: LayoutOption = None,
    target: AnyTargetOption = None,
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor.")] = False,
    aux_layers: AuxLayersOption = None,
    aux_convention: AuxConventionOption = None,
    num_target_layers: NumTargetLayersOption = None,
    norm_output: NormOutputOption = None,
    norm_before_residual: NormBeforeResidualOption = None,
    rope_theta: RopeThetaOption = None,
    mask_token_id: MaskTokenOption = None,
    drop: DropOption = None,
    allow_suspicious: SuspiciousFlag = False,
    engine_version: Annotated[
        list[str] | None,
        typer.Option(metavar="ENGINE=VERSION", help="Version to judge an engine by.", show_default="those listed"),
    ] = None,
    contract: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Judge an engine by what eagle3hub engines probe found of your build.",
            show_default="what is known of the version",
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Say what a draft head is, what is wrong with it, and what each inference engine will do with its files.

    It reads only headers and the vocabulary map, also from a repository on the Hub, and runs no engine. A version that
    is not known is judged as the nearest one that is, with a warning.

    Exit status: 0 nothing is wrong; 3 something is wrong with the head, or it cannot be read; 5 the Hub failed.

    Example: eagle3hub inspect runs/qwen3-8b/final --target Qwen/Qwen3-8B
    """
    from eagle3hub.engines import engine_versions
    from eagle3hub.engines.preflight import read_probed
    from eagle3hub.inspection import InspectOptions
    from eagle3hub.inspection import inspect as run

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
    versions = engine_versions(engine_version or [])
    probed = [read_probed(path) for path in contract or []]
    found = run(source, InspectOptions(layout, target, read, versions, probed))
    emit("inspect", found.to_json(), lambda console: _print(found, console, tensors, ctx.command), as_json=as_json)
    if not found.sound:
        raise typer.Exit(InputError.exit_code)


def _unknown(layout: str) -> str:
    from eagle3hub.layouts.flat import UnknownTrainer

    return " (trainer unknown)" if layout == UnknownTrainer.name else ""


def _print(found: Inspection, console: Console, tensors: bool, command: Any) -> None:
    from rich.markup import escape
    from rich.table import Table

    doc = found.to_json()
    d, s, aux, vocab = doc["dims"], doc["semantics"], doc["aux"], doc["vocab_map"]
    console.print(
        f"[bold]{escape(doc['source'])}[/]: {'P-EAGLE' if s['parallel_drafting'] else 'EAGLE-3'} draft head"
        f"{' with MLA' if 'mla' in d else ''}, [bold]{doc['layout']}[/] layout{_unknown(doc['layout'])}, "
        f"{readable_count(doc['parameters'])} parameters, {s['quantized_as'] or doc['dtype']}"
    )
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column()
    grid.add_row(
        "sizes",
        f"hidden {d['hidden_size']}, intermediate {d['intermediate_size']}, {d['num_attention_heads']} heads of "
        + (f"{d['head_dim']}, {d['num_key_value_heads']} KV heads" if "mla" not in d else _latent(d["mla"])),
    )
    grid.add_row("vocabulary", _vocabulary(vocab))
    grid.add_row("aux layers", _aux(aux, unknown=bool(_unknown(doc["layout"]))))
    rope = s["rope"]
    grid.add_row("rope", escape(f"theta {rope['theta']:.15g}, {_scaling(rope['scaling'])}"))
    grid.add_row("norms", f"eps {s['rms_norm_eps']:g}, {_norms(s)}")
    grid.add_row("context", _context(found.head))
    if doc["speculative_tokens"]:
        grid.add_row("drafts", f"{doc['speculative_tokens']} tokens a step, as the config recommends")
    if doc["target"]["name"]:
        grid.add_row("target", escape(doc["target"]["name"]))
    console.print(grid)
    _print_engines(found.engines, console)
    if tensors:
        table = Table("tensor", "dtype", "shape", "bytes", box=None, header_style="dim", padding=(0, 2))
        for t in doc["tensors"]:
            table.add_row(escape(t["name"]), t["dtype"], escape(str(t["shape"])), f"{t['bytes']:,}")
        console.print(table)
    said = {problem.message for problem in found.problems}
    for a in (a for a in found.assumptions if a.why not in said):
        console.print(f"[cyan]assumed[/] {escape(a.said)}: {escape(a.why)}")
        console.print(f"  [dim]to settle it: {escape(shown_for(a.settle, command))}[/]")
    for p in found.problems:
        console.print(f"{_MARKS[p.severity]} {escape(p.message)} [dim]({p.code})[/]")
        if p.hint:
            console.print(f"  [dim]hint: {escape(shown_for(p.hint, command))}[/]")


def _print_engines(engines: Sequence[PreflightVerdict], console: Console) -> None:
    from rich.cells import cell_len
    from rich.markup import escape, render
    from rich.table import Table

    rows = []
    for engine in engines:
        deciding = [r for r in engine.reasons if r.effect == engine.kind]
        more = f" (and {len(deciding) - 1} more)" if len(deciding) > 1 else ""
        why = f"{deciding[0].sentence}{more}" if deciding else ""
        if engine.kind == "depends":
            why = engine.condition
        elif engine.depends:
            why = f"if {engine.condition}: {why}"
        rows.append((escape(engine.title), _VERDICTS[engine.kind], escape(why)))
    table = Table.grid(padding=(0, 2))
    if console.width >= _WIDE:
        for column in ({"style": "dim"}, {"no_wrap": True}, {}):
            table.add_column(**column)
        room = console.width - sum(max(cell_len(render(row[i]).plain) for row in rows) + 2 for i in (0, 1))
        first: dict[tuple[str, str], str] = {}
        for title, verdict, why in rows:  # a reason that takes several lines is said once
            above = first.setdefault((verdict, why), title)
            table.add_row(title, verdict, f"as {above}" if above != title and len(why) > room else why)
    else:  # engines with the same verdict for the same reason share a line
        table.add_column(no_wrap=True)
        for verdict, why in dict.fromkeys(row[1:] for row in rows):
            titles = ", ".join(row[0] for row in rows if row[1:] == (verdict, why))
            table.add_row(verdict, f"[dim]{titles}{': ' * bool(why)}[/]{why}")
    console.print("[bold]engines[/], with these files as they are:")
    console.print(table)
    for said in dict.fromkeys(said for verdict in engines for said in (verdict.warning, verdict.noted) if said):
        console.print(f"[yellow]{escape(said)}[/]")


def _context(head: Head) -> str:
    """The context length, and where it comes from if the config states none."""
    length, inner = head.max_position_embeddings, head.config.get("transformer_layer_config")
    if not length:
        return "not stated"
    if any(isinstance(fields, dict) and fields.get("max_position_embeddings") for fields in (head.config, inner)):
        return f"{length} tokens"
    if head.target is not None and length == head.target.max_position_embeddings:
        return f"not stated (its target has {length} tokens)"
    return f"{length} tokens, which transformers assumes where none is stated"


def _scaling(scaling: dict[str, object] | None) -> str:
    if not scaling:
        return "no scaling"
    parts = [f"{key} {_value(value)}" for key, value in scaling.items() if key != "rope_type"]
    return ", ".join([str(scaling.get("rope_type", "scaling")), *parts])


def _value(value: Any) -> str:
    if isinstance(value, list):
        return f"of {len(value)} numbers"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _latent(sizes: Mapping[str, object]) -> str:
    queries = (
        "no latent of queries" if sizes["q_lora_rank"] is None else f"latents of {sizes['q_lora_rank']} (queries)"
    )
    return (
        f"{sizes['qk_nope_head_dim']} + {sizes['qk_rope_head_dim']}, values of {sizes['v_head_dim']}, {queries} and "
        f"{sizes['kv_lora_rank']} (keys, values)"
    )


def _vocabulary(vocab: dict[str, Any]) -> str:
    from eagle3hub.head.vocab import FAULTS

    if vocab["status"] == "full":
        return f"the target's full {vocab['vocab_size']:,}"
    sizes = f"{vocab['draft_vocab_size']:,} of the target's {vocab['vocab_size']:,}"
    if vocab["status"] != "ok":
        return f"{sizes}, map [red]wrong[/]: {FAULTS[vocab['status']]}"
    order = "ascending" if vocab["sorted"] else "in frequency order"
    buffers = ", ".join(f"{name} {dtype}" for name, dtype in vocab["buffers"].items())
    return f"{sizes}, map ok ({order}; {buffers or 'not in the weights'})"


def _aux(aux: dict[str, Any], *, unknown: bool) -> str:
    if aux.get("final_norm"):
        return "none: it reads the target's final hidden state, after the final norm"
    if aux["after_layer"] is None:
        return f"{aux['count']}, which the files do not name"
    after, boundary = (", ".join(map(str, aux[k])) for k in ("after_layer", "boundary"))
    whose = "the usual" if unknown else "the trainer's"
    origin = {"config": "from the config", "default": f"{whose} default for this target", "flag": "as given"}
    return f"after layers {after} (boundary ids {boundary}; {origin[aux['origin']]})"


def _norms(s: dict[str, Any]) -> str:
    on = [name for name in ("norm_before_residual", "norm_before_fc", "fc_norm") if s[name]]
    feedback = s["feedback"]
    return ", ".join(
        [*on, f"feedback {feedback}" if feedback.startswith("open") else f"{feedback.replace('_', '-')} feedback"]
    )
