"""``eagle3hub bench``: measure acceptance of heads over data sets, in tables and charts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from eagle3hub.cli.jobs import (
    ELSEWHERE,
    DetachFlag,
    OnSlurmOption,
    RunFolderOption,
    SlurmProfileOption,
    finish_benchmark,
    refuse_endpoints,
    run_on_slurm,
    wants_slurm,
    words_of,
)
from eagle3hub.cli.output import EXIT_OF, JsonFlag, ProgressOption, QuietFlag, VerboseFlag, emit, progress, tell
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
    MaxNewTokensOption,
    NumDraftTokensOption,
    NumPromptsOption,
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
    sets_completed,
    target_of,
)
from eagle3hub.errors import UsageError
from eagle3hub.system.progress import Progress

if TYPE_CHECKING:
    from rich.console import Console

    from eagle3hub.benchmarking import BenchOptions, BenchPlan, Results, Runner
    from eagle3hub.benchmarking.serving.plan import ServingOptions

_OF_THE_WHOLE = (
    "heads", "target", "device", "datasets", "context", "draft_tokens", "temperature", "engine", "base", "against",
    "output", "resume", "list_datasets", *ELSEWHERE,
)  # fmt: skip
"""Parameters that the tasks of a run on Slurm share out or do not have."""

MakeRunner = Callable[["BenchPlan", "BenchOptions", Progress], "Runner"]


def bench_command(make_runner: MakeRunner) -> Callable[..., None]:
    """Make the command; it measures with the runner that ``make_runner`` makes from the plan and the options."""

    def bench(
        ctx: typer.Context,
        heads: Annotated[
            list[str] | None,
            typer.Argument(metavar="[NAME=]HEAD...", help=f"Draft heads, each {HEAD}.", show_default=False),
        ] = None,
        target: TargetOption = None,
        datasets: Annotated[
            str,
            typer.Option(
                metavar="SET,…",
                help="Names of sets (see --list-datasets), or JSON Lines files.",
                autocompletion=sets_completed,
            ),
        ] = ("mt_bench,humaneval,gsm8k"),
        draft_tokens: Annotated[
            str, typer.Option(metavar="N,…", help="Tokens drafted per round (K), with commas.")
        ] = "3",
        topk: TopKOption = 1,
        num_draft_tokens: NumDraftTokensOption = None,
        temperature: Annotated[str, typer.Option(metavar="X,…", help="Temperatures, with commas; 0 is greedy.")] = "0",
        engine: Annotated[
            str, typer.Option(metavar="NAME,…", help="Engines, with commas.", autocompletion=engines_completed)
        ] = "reference",
        num_prompts: NumPromptsOption = None,
        context: Annotated[
            str | None,
            typer.Option(
                metavar="LENGTH,…",
                help="Measure each set with prompts of these lengths in tokens, made of its own text: 1k,4k,16k.",
                show_default="as is",
            ),
        ] = None,
        system_prompt: SystemPromptOption = None,
        second_turns: SecondTurnsOption = None,
        max_new_tokens: MaxNewTokensOption = 128,
        drafting: Annotated[
            str,
            typer.Option(
                metavar="HOW", help="Above temperature 0: greedy or probabilistic.", autocompletion=drafting_completed
            ),
        ] = "greedy",
        seed: Annotated[
            int, typer.Option(metavar="N", help="Seed of the engine and of the coins above temperature 0.")
        ] = 0,
        device: DeviceOption = None,
        dtype: Annotated[
            str, typer.Option(metavar="DTYPE", help="float32, bfloat16 or float16.", autocompletion=dtype_completed)
        ] = "float32",
        min_acceptance_length: BarOption = None,
        base: Annotated[
            str | None,
            typer.Option(metavar="NAME", help="Head the others are compared with.", show_default="the first"),
        ] = None,
        target_name: TargetNameOption = None,
        tensor_parallel: TensorParallelOption = 1,
        engine_arg: EngineArgOption = None,
        engine_env: EngineEnvOption = None,
        chat_template_arg: ChatTemplateArgOption = None,
        engine_python: EnginePythonOption = None,
        endpoint: EndpointOption = None,
        timeout: TimeoutOption = 1800.0,
        device_map: DeviceMapOption = None,
        batch_tokens: BatchTokensOption = None,
        run_anyway: RunAnywayFlag = False,
        concurrency: Annotated[
            str | None,
            typer.Option(
                metavar="N,…",
                help="Measure servers: requests under way at a time, with commas.",
                show_default="no server is measured",
            ),
        ] = None,
        baseline: Annotated[
            str | None,
            typer.Option(
                metavar="NAME,…",
                help="With --concurrency: none, mtp, ngram or heads, with commas; mtp:1 for K = 1.",
                show_default="none",
            ),
        ] = None,
        runs: Annotated[
            int | None,
            typer.Option(
                metavar="N", help="With --concurrency: how often each server answers all prompts.", show_default="3"
            ),
        ] = None,
        warmup: Annotated[
            int | None,
            typer.Option(
                metavar="N",
                help="With --concurrency: requests sent before each run.",
                show_default="as many as at a time",
            ),
        ] = None,
        against: Annotated[
            Path | None,
            typer.Option(
                metavar="FILE",
                help="results.json of the unquantised target or head, to compare with prompt by prompt.",
                show_default="none",
            ),
        ] = None,
        output: Annotated[
            Path | None,
            typer.Option(metavar="DIR", help="Folder for results, tables and charts.", show_default="none"),
        ] = None,
        resume: Annotated[bool, typer.Option("--resume", help="Go on with the results in the output folder.")] = False,
        on: OnSlurmOption = None,
        slurm_profile: SlurmProfileOption = None,
        run_folder: RunFolderOption = None,
        detach: DetachFlag = False,
        list_datasets: Annotated[bool, typer.Option("--list-datasets", help="List the data sets and stop.")] = False,
        as_json: JsonFlag = False,
        quiet: QuietFlag = False,
        _progress: ProgressOption = "text",
        _verbose: VerboseFlag = False,
    ) -> None:
        """Measure how many tokens heads get accepted: every head, data set, K and temperature.

        With --on slurm each of these measurements is a task of a job array on the cluster.

        Exit status: 0 every cell passed; 1 one failed or is inconclusive; 3 something unreadable; 4 engine or device
        unavailable; 5 a data set could not be fetched. With --concurrency: how fast servers of the heads answer, under
        load, and how much faster than baselines.

        Example: eagle3hub bench ./head --target ./target --datasets mt_bench --draft-tokens 3,5,7 --output results

        Example: eagle3hub bench ./head --target ./target --engine vllm --concurrency 1,4,16 --baseline none,mtp,ngram
        """
        from eagle3hub.benchmarking import BenchOptions, bench_plan, load_results, run_bench
        from eagle3hub.benchmarking.plan import listing, name_and_source, parse_list, refuse_uneven
        from eagle3hub.charts import require_drawing
        from eagle3hub.engines import engine_pythons
        from eagle3hub.engines.options import endpoint_urls
        from eagle3hub.jobs import slurm
        from eagle3hub.validation.options import engine_names

        if list_datasets:
            emit("datasets", {"datasets": (sets := listing())}, lambda out: _list(sets, out), as_json=as_json)
            return
        if not heads:
            raise UsageError("bench needs a head", hint="eagle3hub bench ./head --target ./target", code="usage-bench")
        elsewhere = wants_slurm(on, {"slurm_profile": slurm_profile, "run_folder": run_folder, "detach": detach})
        pythons, endpoints = engine_pythons(engine_python or []), endpoint_urls(endpoint or [])
        target = target_of(name_and_source(heads[0])[1], target, quiet=quiet)
        profile = slurm.read_profile(slurm_profile) if elsewhere else slurm.Profile()
        on_cluster = (device or profile.device) if elsewhere else None
        settings = engine_settings(
            ctx,
            parse_list("--engine", engine, str, "names"),
            tensor_parallel=tensor_parallel,
            engine_arg=engine_arg,
            engine_env=engine_env,
            chat_template_arg=chat_template_arg,
            pythons=pythons,
            attached=endpoints,
        )
        options = BenchOptions(
            datasets=datasets,
            draft_tokens=draft_tokens,
            topk=topk,
            num_draft_tokens=num_draft_tokens,
            temperature=temperature,
            engine=engine,
            num_prompts=num_prompts,
            context=context,
            system_prompt=system_prompt,
            second_turns=second_turns,
            max_new_tokens=max_new_tokens,
            drafting=drafting,
            seed=seed,
            device=on_cluster or device_for(device, engine_names(engine), pythons, endpoints, quiet=quiet),
            dtype=dtype,
            min_acceptance_length=min_acceptance_length,
            base=base,
            target_name=target_name,
            engine_python=pythons,
            endpoints=endpoints,
            timeout=timeout,
            device_map=device_map,
            batch_tokens=batch_tokens,
            run_anyway=run_anyway,
            engine_settings=settings,
        )
        if output is not None:
            require_drawing()
        if not quiet:
            _tell_licences(datasets)
        asked = _asked(concurrency, baseline, runs, warmup)
        if asked is not None and against is not None:
            raise UsageError(
                "--against compares acceptance, and --concurrency measures speed under load",
                hint="leave one out",
                code="usage-serving",
            )
        if asked is not None and elsewhere:
            raise UsageError(
                "--concurrency measures servers one after the other, which is no array",
                hint="run it in an allocation of its own: sbatch --wrap 'eagle3hub bench …'",
                code="usage-serving",
            )
        if asked is not None:
            _serve(heads, target, options, asked, output, resume=resume, as_json=as_json, quiet=quiet)
        earlier = None if against is None else load_results(against)
        with progress(quiet=quiet) as say:
            plan = bench_plan(heads, target, options, say)
        if elsewhere:
            refuse_uneven(plan)
            refuse_endpoints(options.endpoints)
            told = ["--target", target, "--device", options.device]
            tasks, whole = slurm.bench_tasks(
                plan, datasets, context, lambda engine: [*told, *words_of(ctx, _OF_THE_WHOLE, engine)]
            )
            ran = run_on_slurm(
                "bench",
                tasks,
                profile,
                run_folder,
                detach=detach,
                as_json=as_json,
                quiet=quiet,
                whole=whole,
            )
            finish_benchmark(_compared(slurm.benchmark_of(ran), earlier), output, as_json=as_json)
        with progress(quiet=quiet) as say:
            runner = make_runner(plan, options, say)
            results = run_bench(plan, runner, folder=output, resume=resume, progress=say)
        finish_benchmark(_compared(results, earlier), output, as_json=as_json)

    return bench


def _compared(results: Results, earlier: Results | None) -> Results:
    from eagle3hub.benchmarking.results import held_against

    return results if earlier is None else held_against(results, earlier)


def _asked(
    concurrency: str | None, baseline: str | None, runs: int | None, warmup: int | None
) -> ServingOptions | None:
    """Return what is asked of a serving measurement, or None if none is asked for."""
    from eagle3hub.benchmarking.serving.plan import ServingOptions

    if concurrency is None:
        given = {"--baseline": baseline, "--runs": runs, "--warmup": warmup}
        for option, value in given.items():
            if value is not None:
                raise UsageError(
                    f"{option} is of servers, which --concurrency measures",
                    hint="say how many requests are under way at a time: --concurrency 1,4,16",
                    code="usage-serving",
                )
        return None
    standard = ServingOptions()
    return ServingOptions(
        concurrency,
        standard.baseline if baseline is None else baseline,
        standard.runs if runs is None else runs,
        warmup,
    )


def _serve(
    heads: list[str],
    target: str,
    options: BenchOptions,
    asked: ServingOptions,
    output: Path | None,
    *,
    resume: bool,
    as_json: bool,
    quiet: bool,
) -> NoReturn:
    """Measure servers, print the results, and end."""
    from eagle3hub.benchmarking.serving.measure import serving
    from eagle3hub.benchmarking.serving.table import conditions, tables, write_all
    from eagle3hub.benchmarking.session import RESULTS
    from eagle3hub.benchmarking.terminal import render_tables

    with progress(quiet=quiet) as say:
        results = serving(heads, target, options, asked, folder=output, resume=resume, progress=say)
    written = [output / RESULTS, *write_all(results, output)] if output is not None else []

    def human(out: Console) -> None:
        render_tables(tables(results), conditions(results), out)
        for path in written:
            out.print(f"written   {path}", markup=False)

    emit("serving", results.document, human, as_json=as_json)
    raise typer.Exit(EXIT_OF[results.verdict])


def _tell_licences(names: str) -> None:
    """Say on standard error what will be fetched, and under which licence."""
    from eagle3hub.prompts import datasets, is_cached

    for name in names.split(","):
        one = datasets().get(name.strip())
        if one is not None and not is_cached(one):
            tell(f"fetching {one.notice}\n")


def _list(sets: list[dict[str, Any]], out: Console) -> None:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False)
    for heading in ("name", "what", "licence", "cached"):
        table.add_column(heading, overflow="fold", max_width=44)
    for heading in ("prompts", "kB"):
        table.add_column(heading, justify="right")
    for one in sets:
        passing_on = "" if one["redistribution"] else "; not to be passed on"
        row = (one["name"], one["title"], one["license"] + passing_on, "yes" if one["cached"] else "no")
        count = "?" if one["prompts"] is None else str(one["prompts"])
        table.add_row(*(escape(text) for text in row), count, _kilobytes(one["bytes"]))
    out.print(table, width=min(100, out.width), soft_wrap=False)
    out.print("\nsmoke (16 prompts) is packaged; any other set is a JSON Lines file given by path.")


def _kilobytes(size: int | None) -> str:
    return "–" if size is None else str(round(size / 1000))


def _real_runner(_plan: BenchPlan, options: BenchOptions, progress: Progress) -> Runner:
    from eagle3hub.benchmarking.runner import BenchRunner

    return BenchRunner(options, progress)


bench = bench_command(_real_runner)
