"""``eagle3hub recipe``: print how to serve a head on an engine."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from eagle3hub.cli.output import JsonFlag, emit
from eagle3hub.cli.parameters import (
    HEAD,
    ChatTemplateArgOption,
    EngineArgOption,
    EngineEnvOption,
    TargetOption,
    engine_completed,
    target_of,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from eagle3hub.engines.base import Recipe
    from eagle3hub.engines.preflight import PreflightVerdict
    from eagle3hub.head import Head


def recipe(
    head: Annotated[str, typer.Argument(help=f"The draft head: {HEAD}.", show_default=False)],
    target: TargetOption = None,
    engine: Annotated[
        str, typer.Option(help="vllm, sglang, trtllm, sglang-jax or llamacpp.", autocompletion=engine_completed)
    ] = "vllm",
    version: Annotated[
        str | None,
        typer.Option(
            metavar="VERSION", help="Version of the engine.", show_default="the one that is installed by default"
        ),
    ] = None,
    draft_tokens: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Tokens drafted per round (K); of a tree its depth.", show_default="the engine's, else 3"
        ),
    ] = None,
    topk: Annotated[int, typer.Option(metavar="N", help="Branches per drafted token; 1 is a chain.")] = 1,
    num_draft_tokens: Annotated[
        int | None, typer.Option(metavar="N", help="Nodes of the tree, its root included.", show_default="K + 1")
    ] = None,
    tensor_parallel: Annotated[
        int | None,
        typer.Option(
            "--tensor-parallel", "--tp", metavar="N", help="Devices the target is split over.", show_default="1"
        ),
    ] = None,
    nodes: Annotated[int, typer.Option(metavar="N", help="Nodes that the engine spans.")] = 1,
    dtype: Annotated[
        str | None, typer.Option(metavar="DTYPE", help="Precision of the target.", show_default="the engine's")
    ] = None,
    context: Annotated[
        int | None, typer.Option(metavar="N", help="Context in tokens.", show_default="the target's")
    ] = None,
    engine_arg: EngineArgOption = None,
    engine_env: EngineEnvOption = None,
    chat_template_arg: ChatTemplateArgOption = None,
    extra: Annotated[
        str | None, typer.Option(help="Further words of the server's command line.", show_default="none")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Print how to serve a head: the server's command, its YAML where it takes one, and Python for offline use.

    It warns if the engine would refuse these files or read them wrong, whatever the command.

    With --nodes it prints the command of every node, or the one that starts them all.

    A version that is not known is served as the nearest one that is, with a warning.

    Exit status: 0 printed; 2 engine or version is not known; 3 head or target cannot be read; 5 the Hub failed.

    Example: eagle3hub recipe ./head --target Qwen/Qwen3-8B --engine sglang --draft-tokens 3
    """
    from eagle3hub.address import HubAddress, parse_address
    from eagle3hub.checkpoint.folder import open_checkpoint
    from eagle3hub.engines import engine_name
    from eagle3hub.engines.options import read_engine_settings
    from eagle3hub.engines.preflight import (
        DTYPE_APART,
        DTYPE_TOLD,
        examine,
        preflight,
        runners_of,
        served_dtype,
        target_embeddings,
    )
    from eagle3hub.engines.recipes import Serving, make_recipe, over_nodes
    from eagle3hub.engines.specs import PARALLEL_DRAFTING, known_version
    from eagle3hub.head.aux_defaults import AUX_CAPTURE
    from eagle3hub.head.target import read_target
    from eagle3hub.layouts import open_head

    name = engine_name(engine)
    target = target_of(head, target, quiet=as_json)
    settings = read_engine_settings(
        [name],
        engine_arg=engine_arg or [],
        engine_env=engine_env or [],
        chat_template_arg=chat_template_arg or [],
        versions={} if version is None else {name: version},
    )
    at = parse_address(head)
    checkpoint = open_checkpoint(at, headers_only=True)
    facts = read_target(target)
    opened = open_head(checkpoint, target=facts)
    serving = Serving(
        target=facts.name,
        head=at.repo_id if isinstance(at, HubAddress) else head,
        draft_tokens=draft_tokens,
        topk=topk,
        num_draft_tokens=num_draft_tokens,
        tensor_parallel=tensor_parallel,
        dtype=dtype,
        context=context,
        parallel_drafting=opened.semantics.parallel_drafting,
        aux_layers=_aux_layers(opened),
        extra=tuple(shlex.split(extra or "")),
    ).with_settings(name, settings)
    made = make_recipe(name, serving, version)
    subject = examine(checkpoint, opened, target_embeddings(opened, target))
    devices = tensor_parallel or 1
    called = runners_of(name, made.version)
    foreseen = [preflight(subject, name, one, facts, tensor_parallel=devices) for one in called]
    if dtype is None and any(reason.code == DTYPE_APART for verdict in foreseen for reason in verdict.reasons):
        made = make_recipe(name, replace(serving, dtype=served_dtype(facts.fields, facts.dtype)), version)
    commands = [made.argv] if nodes == 1 else over_nodes(made, nodes, tensor_parallel)
    told = [
        key for key in (AUX_CAPTURE, PARALLEL_DRAFTING) if any(key in word for word in (made.yaml or "", *made.argv))
    ]
    told += [DTYPE_TOLD] if "--dtype" in made.argv else []
    verdicts = [verdict.with_settings(told) for verdict in foreseen]
    warning = known_version(name, made.version).warning
    document = {**made.to_json(), "preflight": [verdict.to_json() for verdict in verdicts]}
    document |= {} if warning is None else {"warning": warning}
    document |= {} if nodes == 1 else {"nodes": [list(words) for words in commands]}
    emit("recipe", document, lambda out: _print(made, commands, verdicts, warning, out), as_json=as_json)


def _aux_layers(head: Head) -> tuple[int, ...] | None:
    """Return the head's taps, for an engine that does not read them from the config.

    (-1,) is the final hidden state.
    """
    from eagle3hub.head.aux_defaults import FINAL_STATE

    if not head.semantics.uses_aux:
        return FINAL_STATE
    if head.aux is None or head.has_default_aux:
        return None
    return tuple(head.aux.after_layer)


def _print(
    made: Recipe,
    commands: Sequence[tuple[str, ...]],
    verdicts: list[PreflightVerdict],
    warning: str | None,
    out: Console,
) -> None:
    from rich.markup import escape

    from eagle3hub.engines.specs import engine_title

    out.print(f"[dim]# {escape(engine_title(made.engine))} {escape(made.version)}[/]")
    for said in dict.fromkeys([warning] if warning else [v.warning for v in verdicts if v.warning]):
        out.print(f"[yellow]# {escape(said)}[/]")
    for line in made.prepare:
        out.print(escape(line))
    prefix = "".join(f"{key}={shlex.quote(value)} " for key, value in made.env.items())
    for i, words in enumerate(commands, start=1):
        if len(commands) > 1:
            out.print(f"[dim]# node {i} of {len(commands)}; HEAD_NODE is the address of the first[/]")
        out.print(escape(prefix + _folded(words)))
    for title, text in (("extra-config.yaml", made.yaml), ("offline", made.python if len(commands) == 1 else None)):
        if text is not None:
            out.print(f"\n[dim]# {title}[/]")
            out.print(escape(text.rstrip("\n")))
    for verdict in verdicts:
        if verdict.kind != "right":
            told = [a.why for a in verdict.depends] if verdict.kind == "depends" else []
            deciding = [r for r in verdict.reasons if r.effect == verdict.kind]
            why = "; ".join([*told, *(reason.sentence for reason in deciding)])
            out.print(f"\n[yellow]{escape(verdict.title)}: {escape(verdict.words)}[/]: {escape(why)}")
            for hint in dict.fromkeys(reason.hint for reason in deciding if reason.hint):
                out.print(f"  [dim]hint: {escape(hint)}[/]")
        if verdict.noted:
            out.print(f"\n[yellow]{escape(verdict.noted)}[/]")


def _folded(argv: tuple[str, ...]) -> str:
    lines: list[str] = []
    for word in map(shlex.quote, argv):
        if lines and not word.startswith("--"):
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return " \\\n  ".join(lines)
