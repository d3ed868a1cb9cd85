"""``eagle3hub validate``: run a head on a real engine and report what it does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eagle3hub.cli.jobs import (
    ELSEWHERE,
    DetachFlag,
    FlavorOption,
    JobRequest,
    NamespaceOption,
    OnOption,
    PackageOption,
    PassTokenFlag,
    RunFolderOption,
    SlurmProfileOption,
    TimeLimitOption,
    YesFlag,
    refuse_endpoints,
    run_on_slurm,
    validate_on,
    words_of,
)
from eagle3hub.cli.output import Destinations, JsonFlag, ProgressOption, QuietFlag, VerboseFlag, finish, progress
from eagle3hub.cli.parameters import (
    HEAD,
    BarOption,
    BatchTokensOption,
    ChatTemplateArgOption,
    DeviceMapOption,
    DeviceOption,
    EndpointOption,
    EngineArgOption,
    EngineEnvOption,
    EnginePythonOption,
    HtmlOption,
    MaxNewTokensOption,
    NumDraftTokensOption,
    NumPromptsOption,
    ReportOption,
    RunAnywayFlag,
    SecondTurnsOption,
    SystemPromptOption,
    TargetNameOption,
    TargetOption,
    TensorParallelOption,
    TimeoutOption,
    TopKOption,
    device_for,
    drafting_completed,
    dtype_completed,
    engine_settings,
    engines_completed,
    layer_numbers,
    layouts_completed,
    prompts_completed,
    target_of,
)
from eagle3hub.errors import UsageError

if TYPE_CHECKING:
    from eagle3hub.validation.matrix import Matrix
    from eagle3hub.validation.report import Report


def _settings_of(ctx: typer.Context, manifest: Path | None) -> Path | None:
    """Take options that the command line leaves open from the manifest."""
    if manifest is not None:
        from eagle3hub.card.manifest import load_manifest, validation_settings

        ctx.default_map = {k: v for k, v in validation_settings(load_manifest(manifest)).items() if v is not None}
    return manifest


_OF_THE_WHOLE = ("head", "target", "device", "layouts", "report", "html", "write_acceptance_reference", *ELSEWHERE)
"""Parameters that the tasks of a run on Slurm share out or do not have."""


def _of_one_place(on: str | None, of_jobs: bool, of_slurm: bool, detach: bool) -> None:
    """Raise UsageError (``usage-jobs-on``) for an unknown place, and options of one where it does not run."""
    if on not in (None, "hf-jobs", "slurm"):
        raise UsageError(f"--on {on!r} is not a place to run", hint="--on hf-jobs, --on slurm", code="usage-jobs-on")
    for place, given in (("hf-jobs", of_jobs), ("slurm", of_slurm)):
        if given and on not in (place, None):
            raise UsageError(f"options of --on {place} are given with --on {on}", code="usage-jobs-on")
        if given and on is None:
            raise UsageError(
                "options of a job are given, but nothing says to run one", hint=f"--on {place}", code="usage-jobs-on"
            )
    if detach and on is None:
        raise UsageError("--detach is about a run elsewhere", hint="--on hf-jobs, --on slurm", code="usage-jobs-on")


def validate(
    ctx: typer.Context,
    head: Annotated[str, typer.Argument(help=f"The draft head: {HEAD}.", show_default=False)],
    target: TargetOption = None,
    _manifest: Annotated[
        Path | None,
        typer.Option(
            "--manifest",
            metavar="FILE",
            callback=_settings_of,
            is_eager=True,
            help="release.yaml: its target and settings apply unless an option replaces them.",
            show_default="none",
        ),
    ] = None,
    engine: Annotated[
        str,
        typer.Option(
            metavar="NAME,…",
            help="reference, an engine, or several, compared with the reference.",
            autocompletion=engines_completed,
        ),
    ] = "reference",
    layouts: Annotated[
        str | None,
        typer.Option(
            metavar="all|NAME,…",
            help="Convert to these layouts first, and validate each.",
            show_default="as is",
            autocompletion=layouts_completed,
        ),
    ] = None,
    device: DeviceOption = None,
    dtype: Annotated[
        str,
        typer.Option(
            metavar="DTYPE",
            help="float32 also compares the output with the target's own, token by token.",
            autocompletion=dtype_completed,
        ),
    ] = "float32",
    prompts: Annotated[
        str,
        typer.Option(
            metavar="SET", help="Packaged set (smoke), or a JSON Lines file.", autocompletion=prompts_completed
        ),
    ] = "smoke",
    num_prompts: NumPromptsOption = None,
    context: Annotated[
        str | None,
        typer.Option(
            metavar="LENGTH",
            help="Bring each prompt to so many tokens, with text of its set: 4k.",
            show_default="as is",
        ),
    ] = None,
    system_prompt: SystemPromptOption = None,
    second_turns: SecondTurnsOption = None,
    max_new_tokens: MaxNewTokensOption = 64,
    draft_tokens: Annotated[int, typer.Option(metavar="N", help="Tokens drafted per round (K).")] = 3,
    topk: TopKOption = 1,
    num_draft_tokens: NumDraftTokensOption = None,
    temperature: Annotated[float, typer.Option(metavar="X", help="0 is greedy.")] = 0.0,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of the engine.")] = 0,
    min_acceptance_length: BarOption = None,
    acceptance_reference: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Earlier measurement to compare this one with.", show_default="none"),
    ] = None,
    write_acceptance_reference: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keep this measurement for later runs.", show_default="none")
    ] = None,
    reference_head: Annotated[
        str | None,
        typer.Option(metavar="HEAD", help="Original head to compare engines with.", show_default="the head itself"),
    ] = None,
    drafting: Annotated[
        str,
        typer.Option(
            metavar="HOW",
            help="How the reference drafts above temperature 0: greedy or probabilistic.",
            autocompletion=drafting_completed,
        ),
    ] = "greedy",
    responses: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Replay these responses.", show_default="the target's own")
    ] = None,
    hidden_states: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Replay these hidden states; no target runs. Of eagle3hub, vLLM, speculators, SpecForge or ModelOpt.",
            show_default="none",
        ),
    ] = None,
    states_layers: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="Target layers of these states, as in 1,14,26.", show_default="as they say"),
    ] = None,
    states_convention: Annotated[
        str | None,
        typer.Option(
            metavar="after|boundary",
            help="after: 0-based layer whose output it is; boundary: number of layers that have run.",
            show_default="after",
        ),
    ] = None,
    own_texts: Annotated[
        bool, typer.Option("--own-texts", help="The target wrote the texts of these states; nothing else shows it.")
    ] = False,
    save_responses: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keep what the target said.", show_default="none")
    ] = None,
    save_hidden_states: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep its hidden states for later replays.", show_default="none")
    ] = None,
    device_map: DeviceMapOption = None,
    batch_tokens: BatchTokensOption = None,
    target_name: TargetNameOption = None,
    tensor_parallel: TensorParallelOption = 1,
    engine_arg: EngineArgOption = None,
    engine_env: EngineEnvOption = None,
    chat_template_arg: ChatTemplateArgOption = None,
    engine_python: EnginePythonOption = None,
    endpoint: EndpointOption = None,
    timeout: TimeoutOption = 1800.0,
    run_anyway: RunAnywayFlag = False,
    report: ReportOption = None,
    html: HtmlOption = None,
    on: OnOption = None,
    slurm_profile: SlurmProfileOption = None,
    run_folder: RunFolderOption = None,
    flavor: FlavorOption = None,
    time_limit: TimeLimitOption = None,
    namespace: NamespaceOption = None,
    job_package: PackageOption = None,
    pass_token: PassTokenFlag = False,
    detach: DetachFlag = False,
    yes: YesFlag = False,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
    _progress: ProgressOption = "text",
    _verbose: VerboseFlag = False,
) -> None:
    """Does the head work? Replay it on its target's texts, and run it on engines that must count the same.

    With --on hf-jobs the same validation runs as a Job of Hugging Face, for a head and a target that are on the Hub.
    The command shows what it may cost and asks first, follows its log, and checks and saves its report as it does
    here.

    With --on slurm it runs on the cluster, with --layouts as an array of a task for each layout. Ctrl-C leaves the
    tasks running.

    Without --target the head says which it is: its config, its eagle3hub.json, or the card beside it.

    Exit status: 0 pass; 1 fail or inconclusive; 3 head, target or prompts unreadable; 4 engine or device unavailable;
    5 the Hub or the job failed.

    Example: eagle3hub validate ./head --target ./target --engine reference,vllm --report report.json
    """
    from eagle3hub.engines import engine_pythons
    from eagle3hub.engines.options import endpoint_urls
    from eagle3hub.validation import validate as run
    from eagle3hub.validation import validate_layouts
    from eagle3hub.validation.options import (
        ReferenceOptions,
        ValidateOptions,
        engine_names,
        writable_page,
        writable_report,
    )

    pythons, endpoints = engine_pythons(engine_python or []), endpoint_urls(endpoint or [])
    settings = engine_settings(
        ctx,
        engine_names(engine, endpoints),
        tensor_parallel=tensor_parallel,
        engine_arg=engine_arg,
        engine_env=engine_env,
        chat_template_arg=chat_template_arg,
        pythons=pythons,
        attached=endpoints,
    )
    for file in (report, write_acceptance_reference, save_responses):
        if file is not None:
            writable_report(file)
    if html is not None:
        writable_page(html)
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
    reference = ReferenceOptions(
        drafting=drafting,
        responses=responses,
        hidden_states=hidden_states,
        states_layers=layer_numbers("--states-layers", states_layers, "--states-convention", states_convention),
        own_texts=own_texts,
        save_responses=save_responses,
        save_hidden_states=save_hidden_states,
        device_map=device_map,
        batch_tokens=batch_tokens,
    )
    job = {"flavor": flavor, "minutes": time_limit, "namespace": namespace, "package": job_package}
    wanted: dict[str, Any] = {
        name: value for name, value in {**job, "pass_token": pass_token or None}.items() if value is not None
    }
    _of_one_place(on, bool(wanted or yes), bool(slurm_profile or run_folder), detach)
    if on is not None:
        refuse_endpoints(endpoints)
    stated: dict[str, Any] = {
        "engine": engine,
        "dtype": dtype,
        "prompts": prompts,
        "num_prompts": num_prompts,
        "context": context,
        "system_prompt": system_prompt,
        "max_new_tokens": max_new_tokens,
        "draft_tokens": draft_tokens,
        "topk": topk,
        "num_draft_tokens": num_draft_tokens,
        "temperature": temperature,
        "seed": seed,
        "min_acceptance_length": min_acceptance_length,
        "timeout": timeout,
        "target_name": target_name,
        "engine_settings": settings,
    }
    target = target_of(head, target, quiet=quiet)
    kept = {"responses": save_responses, "states": save_hidden_states}
    to = Destinations(report, html, write_acceptance_reference, as_json, quiet, kept)
    if on == "slurm":
        from eagle3hub.jobs import slurm

        profile = slurm.read_profile(slurm_profile)
        words = ["--target", target, "--device", device or profile.device, *words_of(ctx, _OF_THE_WHOLE)]
        with progress(quiet=quiet) as say:
            tasks, whole = slurm.validate_tasks(head, words, target, target_name, layouts, say)
        ran = run_on_slurm(
            "validate", tasks, profile, run_folder, detach=detach, as_json=as_json, quiet=quiet, whole=whole
        )
        finish(slurm.validation_of(ran), to)
    if on is not None:
        in_words: dict[str, Any] = {"layouts": layouts, "reference_head": reference_head, "drafting": drafting}
        in_words |= {"device_map": device_map, "batch_tokens": batch_tokens, "device": device}
        local: dict[str, Any] = {"acceptance_reference": acceptance_reference, "engine_python": pythons}
        local |= {"responses": responses, "save_responses": save_responses}
        local |= {
            "hidden_states": hidden_states,
            "save_hidden_states": save_hidden_states,
            "second_turns": second_turns,
        }
        from eagle3hub.jobs.plan import JobOptions

        request = JobRequest(JobOptions(**wanted), run_anyway=run_anyway, ask=not yes, detach=detach)
        validate_on(head, target, {**stated, **in_words}, local, request, to)
    options = ValidateOptions(
        **stated,
        device=device_for(device, engine_names(engine), pythons, endpoints, quiet=quiet),
        acceptance_reference=acceptance_reference,
        reference_head=reference_head,
        second_turns=second_turns,
        reference=reference,
        engine_python=pythons,
        endpoints=endpoints,
        run_anyway=run_anyway,
    )
    result: Report | Matrix
    with progress(quiet=quiet) as say:
        if layouts is not None:
            result = validate_layouts(head, layouts, target, options, progress=say)
        else:
            result = run(head, target, options, progress=say)
    finish(result, to)
