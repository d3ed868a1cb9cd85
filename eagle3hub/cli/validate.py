"""``eagle3hub validate``: run a head on a real engine and report what it does."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from eagle3hub.cli.options import (
    BarOption,
    BatchTokensOption,
    DeviceMapOption,
    DeviceOption,
    EndpointOption,
    EnginePythonOption,
    MaxNewTokensOption,
    NumDraftTokensOption,
    NumPromptsOption,
    RunAnywayFlag,
    TargetNameOption,
    TargetOption,
    TimeoutOption,
    TopKOption,
)
from eagle3hub.cli.output import EXIT_OF, JsonFlag, QuietFlag, emit, progress
from eagle3hub.errors import UsageError


def validate(
    head: Annotated[str, typer.Argument(help="Folder of the head, or hf://owner/name@revision.", show_default=False)],
    target: TargetOption,
    engine: Annotated[
        str,
        typer.Option(metavar="NAME,…", help="reference, an engine, or several, held to the reference."),
    ] = "reference",
    layouts: Annotated[
        str | None,
        typer.Option(
            metavar="all|NAME,…", help="Convert to these layouts first, and validate each.", show_default="as is"
        ),
    ] = None,
    device: DeviceOption = "cpu",
    dtype: Annotated[
        str, typer.Option(help="float32 also holds the output to the target's own, token by token.")
    ] = "float32",
    prompts: Annotated[str, typer.Option(help="Packaged set (smoke), or a JSON Lines file.")] = "smoke",
    num_prompts: NumPromptsOption = None,
    max_new_tokens: MaxNewTokensOption = 64,
    draft_tokens: Annotated[int, typer.Option(help="Tokens drafted per round (K).")] = 3,
    topk: TopKOption = 1,
    num_draft_tokens: NumDraftTokensOption = None,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed of the engine.")] = 0,
    min_acceptance_length: BarOption = None,
    acceptance_reference: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Earlier measurement to hold this one against.", show_default="none"),
    ] = None,
    write_acceptance_reference: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keep this measurement for later runs.", show_default="none")
    ] = None,
    reference_head: Annotated[
        str | None,
        typer.Option(metavar="HEAD", help="Original to hold engines against.", show_default="the head itself"),
    ] = None,
    drafting: Annotated[
        str, typer.Option(help="How the reference drafts above temperature 0: greedy or probabilistic.")
    ] = "greedy",
    responses: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Replay these responses.", show_default="the target's own")
    ] = None,
    hidden_states: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Replay saved hidden states; no target runs.", show_default="none"),
    ] = None,
    save_responses: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keep what the target said.", show_default="none")
    ] = None,
    save_hidden_states: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep its hidden states for later replays.", show_default="none")
    ] = None,
    device_map: DeviceMapOption = None,
    batch_tokens: BatchTokensOption = None,
    target_name: TargetNameOption = None,
    engine_python: EnginePythonOption = None,
    endpoint: EndpointOption = None,
    timeout: TimeoutOption = 1800.0,
    run_anyway: RunAnywayFlag = False,
    report: Annotated[Path | None, typer.Option(help="Write the report to this file.", show_default="none")] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write it as a page for a browser.", show_default="none")
    ] = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Does the head work? Replay it on its target's texts, and run it on engines that must count the same.

    Exit status: 0 pass; 1 fail or inconclusive; 3 head, target or prompts unreadable; 4 engine or device unavailable.

    Example: eagle3hub validate ./head --target ./target --engine reference,vllm --report report.json
    """
    from eagle3hub.engines.options import endpoint_urls, engine_pythons
    from eagle3hub.validation import validate as run
    from eagle3hub.validation import validate_layouts
    from eagle3hub.validation.html import save_html
    from eagle3hub.validation.matrix_render import render_matrix
    from eagle3hub.validation.options import writable_report
    from eagle3hub.validation.referee import ReferenceOptions
    from eagle3hub.validation.reference_file import keep_reference
    from eagle3hub.validation.render import render

    pythons = engine_pythons(engine_python or [])
    for file in (report, html, write_acceptance_reference, save_responses):
        if file is not None:
            writable_report(file)
    options: dict[str, Any] = {
        "target": target,
        "engine": engine,
        "device": device,
        "dtype": dtype,
        "prompts": prompts,
        "num_prompts": num_prompts,
        "max_new_tokens": max_new_tokens,
        "draft_tokens": draft_tokens,
        "topk": topk,
        "num_draft_tokens": num_draft_tokens,
        "temperature": temperature,
        "seed": seed,
        "min_acceptance_length": min_acceptance_length,
        "acceptance_reference": acceptance_reference,
        "reference": ReferenceOptions(
            drafting=drafting,
            responses=responses,
            hidden_states=hidden_states,
            save_responses=save_responses,
            save_hidden_states=save_hidden_states,
            device_map=device_map,
            batch_tokens=batch_tokens,
        ),
        "engine_python": pythons,
        "endpoints": endpoint_urls(endpoint or []),
        "timeout": timeout,
        "run_anyway": run_anyway,
        "target_name": target_name,
    }
    if layouts is not None:
        for option, given in (
            ("--endpoint", endpoint or None),
            ("--reference-head", reference_head),
            ("--write-acceptance-reference", write_acceptance_reference),
            ("--save-responses", save_responses),
            ("--save-hidden-states", save_hidden_states),
        ):
            if given is not None:
                raise UsageError(
                    f"{option} is about one folder, and --layouts makes several", code="usage-layouts-option"
                )
        with progress(quiet=quiet) as say:
            matrix = validate_layouts(head, layouts, progress=say, **options)
        if report is not None:
            matrix.save(report)
        if html is not None:
            save_html(matrix, html)
        emit(matrix.document, lambda out: render_matrix(matrix, out, saved=report), as_json=as_json)
        raise typer.Exit(EXIT_OF[matrix.verdict])
    with progress(quiet=quiet) as say:
        result = run(head, reference_head=reference_head, progress=say, **options)
    if report is not None:
        result.save(report)
    if html is not None:
        save_html(result, html)
    if write_acceptance_reference is not None:
        keep_reference(result, write_acceptance_reference)
    emit(result.document, lambda out: render(result, out, saved=report), as_json=as_json)
    raise typer.Exit(EXIT_OF[result.verdict])
