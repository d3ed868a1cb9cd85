"""``eagle3hub states``: compute a target's hidden states, once, where it fits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eagle3hub.cli.output import JsonFlag, ProgressOption, QuietFlag, VerboseFlag, emit, progress
from eagle3hub.cli.parameters import (
    TARGET,
    AuxConventionOption,
    AuxLayersOption,
    ChatTemplateArgOption,
    EngineArgOption,
    EngineEnvOption,
    EnginePythonOption,
    MaxNewTokensOption,
    NumPromptsOption,
    TensorParallelOption,
    TimeoutOption,
    engine_settings,
    layer_numbers,
)

if TYPE_CHECKING:
    from rich.console import Console


def states(
    ctx: typer.Context,
    target: Annotated[str, typer.Argument(help=f"The target: {TARGET}.", show_default=False)],
    output: Annotated[Path, typer.Option(metavar="DIR", help="Folder to make, or to finish.", show_default=False)],
    prompts: Annotated[str, typer.Option(metavar="SET", help="Packaged set (smoke), or a JSON Lines file.")] = "smoke",
    num_prompts: NumPromptsOption = None,
    aux_layers: AuxLayersOption = None,
    aux_convention: AuxConventionOption = None,
    max_new_tokens: MaxNewTokensOption = 64,
    lookahead: Annotated[
        int, typer.Option(min=0, metavar="N", help="Tokens after each answer; a replay of K drafts needs K - 1.")
    ] = 8,
    temperature: Annotated[float, typer.Option(metavar="X", help="0 is greedy.")] = 0.0,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of the sampling.")] = 0,
    device: Annotated[str, typer.Option(metavar="DEVICE", help="cpu or cuda.")] = "cpu",
    dtype: Annotated[
        str, typer.Option(metavar="DTYPE", help="Precision of the target and of its states.")
    ] = "bfloat16",
    tensor_parallel: TensorParallelOption = 1,
    engine_arg: EngineArgOption = None,
    engine_env: EngineEnvOption = None,
    chat_template_arg: ChatTemplateArgOption = None,
    engine_python: EnginePythonOption = None,
    timeout: TimeoutOption = 1800.0,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
    _progress: ProgressOption = "text",
    _verbose: VerboseFlag = False,
) -> None:
    """Compute a target's hidden states with vLLM, so that heads can be judged without it.

    The target answers the prompts, then its states over prompts and answers go into a folder, with its embeddings,
    lm_head, config and tokenizer. An interrupted run continues. On another machine `eagle3hub validate HEAD
    --hidden-states DIR --target DIR/target` then replays any head that reads these layers.

    Exit status: 0 the folder is complete; 3 target, prompts or layers cannot be used; 4 vLLM is not available or
    failed; 5 the Hub failed.

    Example: eagle3hub states ./target --output ./states --device cuda --tensor-parallel 8
    """
    from eagle3hub.engines import engine_pythons
    from eagle3hub.validation.states import StatesOptions, make_states

    pythons = engine_pythons(engine_python or [])
    settings = engine_settings(
        ctx,
        ["vllm"],
        tensor_parallel=tensor_parallel,
        engine_arg=engine_arg,
        engine_env=engine_env,
        chat_template_arg=chat_template_arg,
        pythons=pythons,
    )
    options = StatesOptions(
        prompts=prompts,
        num_prompts=num_prompts,
        aux_layers=layer_numbers("--aux-layers", aux_layers, "--aux-convention", aux_convention),
        max_new_tokens=max_new_tokens,
        lookahead=lookahead,
        temperature=temperature,
        seed=seed,
        device=device,
        dtype=dtype,
        engine_settings=settings,
        engine_python=pythons,
        timeout=timeout,
    )
    with progress(quiet=quiet) as say:
        made = make_states(target, output, options, progress=say)
    document = made.to_json()
    emit("states", document, lambda console: _show(document, console), as_json=as_json)


def _show(document: dict[str, Any], console: Console) -> None:
    layers = ", ".join(str(i) for i in document["boundary_ids"])
    console.print(
        f"{document['folder']}: hidden states of {document['target']} over {document['texts']} texts "
        f"({document['tokens']} tokens), {document['computed_now']} of them computed now"
    )
    console.print(f"layers that have run: {layers}; {document['dtype']}; by {document['producer']}")
    console.print(
        f"replay a head: eagle3hub validate HEAD --hidden-states {document['folder']} "
        f"--target {document['folder']}/target"
    )
