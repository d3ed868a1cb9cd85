"""``--on hf-jobs``, ``--on slurm`` and ``eagle3hub jobs``: measurements that run on other machines."""

from __future__ import annotations

import shlex
import signal
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from eagle3hub.cli.output import (
    EXIT_OF,
    Destinations,
    JsonFlag,
    ProgressOption,
    QuietFlag,
    console,
    emit,
    finish,
    progress,
    tell,
)
from eagle3hub.cli.parameters import HtmlOption, ReportOption
from eagle3hub.errors import HubError, UsageError
from eagle3hub.system.signals import held, stop_again

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from rich.console import Console

    from eagle3hub.benchmarking import Results
    from eagle3hub.jobs.api import Job
    from eagle3hub.jobs.plan import JobOptions, JobPlan
    from eagle3hub.jobs.slurm import Kind, Profile, Run, Task

app = typer.Typer(help="Measurements that run as Hugging Face Jobs or on a Slurm cluster.", no_args_is_help=True)
_PANEL = "On Hugging Face Jobs"
_ELSEWHERE = "On other machines"
_ON_SLURM = "On a Slurm cluster"

OnOption = Annotated[
    str | None,
    typer.Option(
        "--on", metavar="hf-jobs|slurm", help="Run there instead.", show_default="here", rich_help_panel=_ELSEWHERE
    ),
]
OnSlurmOption = Annotated[
    str | None,
    typer.Option("--on", metavar="slurm", help="Run there instead.", show_default="here", rich_help_panel=_ELSEWHERE),
]
SlurmProfileOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="What the cluster wants to know (YAML).",
        show_default="the cluster's defaults",
        rich_help_panel=_ON_SLURM,
    ),
]
RunFolderOption = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Folder of the run, which the nodes see too.",
        show_default="in eagle3hub-runs",
        rich_help_panel=_ON_SLURM,
    ),
]
FlavorOption = Annotated[
    str | None, typer.Option(help="Hardware of the job.", show_default="by engine", rich_help_panel=_PANEL)
]
TimeLimitOption = Annotated[
    float | None,
    typer.Option(metavar="MINUTES", help="Stop the job after so long.", show_default="60", rich_help_panel=_PANEL),
]
NamespaceOption = Annotated[
    str | None, typer.Option(help="Account that pays.", show_default="yours", rich_help_panel=_PANEL)
]
PackageOption = Annotated[
    str | None,
    typer.Option(
        metavar="REQUIREMENT",
        help="What pip installs in the job.",
        show_default="this eagle3hub, at its commit",
        rich_help_panel=_PANEL,
    ),
]
PassTokenFlag = Annotated[
    bool,
    typer.Option(
        "--pass-token", help="Give the job your access token as a secret, for private models.", rich_help_panel=_PANEL
    ),
]
DetachFlag = Annotated[bool, typer.Option("--detach", help="Start it and leave.", rich_help_panel=_ELSEWHERE)]
JobArgument = Annotated[
    str,
    typer.Argument(
        metavar="JOB", help="OWNER/ID of a Hugging Face Job, or the folder of a Slurm run.", show_default=False
    ),
]
YesFlag = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask what it may cost.", rich_help_panel=_PANEL)]


@app.command("collect")
def collect_(
    job: JobArgument,
    report: ReportOption = None,
    html: HtmlOption = None,
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for results, tables and charts of a benchmark.")
    ] = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
    _progress: ProgressOption = "text",
) -> None:
    """Wait for what --on started, show its logs, and take its report or its results.

    Exit status: that of `validate` or `bench`; 4 tasks of a Slurm run gave no result; 5 the Hub failed, or the job
    ended without a report.

    Example: eagle3hub jobs collect alice/687fb701029421ae5549d998 --report report.json
    """
    from eagle3hub.jobs import api, slurm
    from eagle3hub.jobs.collect import collect, expected_of
    from eagle3hub.validation.options import writable_page, writable_report

    if report is not None:
        writable_report(report)
    if html is not None:
        writable_page(html)
    to = Destinations(report, html, as_json=as_json, quiet=quiet)
    if slurm.is_run(job):
        run = slurm.open_run(job)
        _follow(run, quiet=quiet)
        _finish_run(run, to, output)
    running = api.inspect(_job_name(job))
    finish(collect(running, expected_of(running), _log(quiet)), to)


@app.command("status")
def status_(job: JobArgument, as_json: JsonFlag = False) -> None:
    """Show how far a job, or every task of a Slurm run, is.

    Exit status: 0; 4 Slurm does not answer; 5 the Hub failed.

    Example: eagle3hub jobs status eagle3hub-runs/bench-20261130-101500-1f2e
    """
    from eagle3hub.jobs import api, slurm

    if not slurm.is_run(job):
        found = api.inspect(_job_name(job))
        document = {"job": {"name": found.name, "url": found.url, "stage": found.stage, "message": found.message}}
        emit("job", document, lambda out: out.print(f"{found.name}: {found.stage}", markup=False), as_json=as_json)
        return
    run = slurm.open_run(job)
    states, sealed = slurm.states(run), slurm.digests(run)
    tasks = [{**one.to_json(), "sha256": digest or None} for one, digest in zip(states, sealed, strict=True)]

    def human(out: Console) -> None:
        for one, digest in zip(states, sealed, strict=True):
            why = f" ({one.reason})" if one.reason else ""
            detail = f"SHA-256 {digest}" if digest else f"job {one.job}: {one.slurm}{why}"
            out.print(f"{one.number:>4}  {one.state:<8} {one.label}  {detail}", markup=False, soft_wrap=True)
        out.print(slurm.summary(states), markup=False)

    emit("run-status", {"run": {"folder": run.folder, "kind": run.kind}, "tasks": tasks}, human, as_json=as_json)


@app.command("cancel")
def cancel_(job: JobArgument, as_json: JsonFlag = False) -> None:
    """Stop a job, or every task of a Slurm run that is not done; results that are there stay.

    Exit status: 0; 4 Slurm does not answer; 5 the Hub failed.

    Example: eagle3hub jobs cancel eagle3hub-runs/bench-20261130-101500-1f2e
    """
    from eagle3hub.jobs import api, slurm

    if slurm.is_run(job):
        slurm.cancel(slurm.open_run(job))
        said = f"the tasks of {job} that were not done are cancelled"
    else:
        api.cancel(_job_name(job))
        said = f"the job {job} is cancelled"
    emit("cancelled", {"cancelled": job}, lambda out: out.print(said, markup=False, soft_wrap=True), as_json=as_json)


@app.command("resume")
def resume_(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a Slurm run.", show_default=False)],
    slurm_profile: SlurmProfileOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Submit again the tasks of a Slurm run that gave no result: preempted, cancelled, failed, out of time or memory.

    What is done is not done again. A profile given here replaces the run's. `jobs collect` follows the run.

    Exit status: 0 submitted; 2 nothing is left to run; 4 Slurm is not there.

    Example: eagle3hub jobs resume eagle3hub-runs/bench-20261130-101500-1f2e
    """
    from eagle3hub.jobs import slurm

    run = slurm.open_run(run_folder)
    with held():
        run = slurm.resume(run, slurm.read_profile(slurm_profile) if slurm_profile is not None else None)
    _show_run(run, as_json=as_json)


def _job_name(name: str) -> str:
    if name.count("/") != 1:
        raise UsageError(
            f"{name!r} is not the name of a job",
            hint="give OWNER/ID, or the folder of a Slurm run, as --on printed it",
            code="usage-jobs-name",
        )
    return name


# On a Slurm cluster.


_OF_ENGINES = ("tensor_parallel", "engine_arg", "engine_env")


def words_of(ctx: typer.Context, without: Collection[str], engine: str | None = None) -> list[str]:
    """Return the options of a command line as words again, except for the parameters named in ``without``.

    With ``engine``, options that are addressed to another engine are left out.
    """
    from eagle3hub.engines import ENGINES

    def is_for(pair: str) -> bool:
        named = pair.partition("=")[0].partition(".")[0].replace("-", "_")
        return engine is None or named not in ENGINES or named == engine

    if engine is not None and engine not in ENGINES:
        without = (*without, *_OF_ENGINES)  # the reference
    words: list[str] = []
    for parameter in ctx.command.params:
        name, value = parameter.name or "", ctx.params.get(parameter.name or "")
        source = ctx.get_parameter_source(name)
        if name in without or source is None or source.name != "COMMANDLINE" or not parameter.opts[0].startswith("-"):
            continue
        if getattr(parameter, "is_flag", False):
            words.append(parameter.opts[0] if value else parameter.secondary_opts[0])
            continue
        for one in value if isinstance(value, list | tuple) else [value]:
            if name not in ("engine_arg", "engine_env") or is_for(str(one)):
                words += [parameter.opts[0], str(one)]
    return words


ELSEWHERE = ("on", "slurm_profile", "run_folder", "detach", "as_json", "quiet", "_progress", "_verbose")
"""Parameters that say where a command runs and what it prints."""


def wants_slurm(on: str | None, given: Mapping[str, object]) -> bool:
    """Return whether to run on Slurm. Raises UsageError (``usage-jobs-on``) for another place, or options without it.

    ``given`` are options that mean something on Slurm only, by name.
    """
    if on not in (None, "slurm"):
        raise UsageError(f"--on {on!r} is not a place to run this", hint="--on slurm", code="usage-jobs-on")
    for name, value in given.items():
        if on is None and value:
            raise UsageError(
                f"--{name.replace('_', '-')} is given, but nothing says to run elsewhere",
                hint="--on slurm",
                code="usage-jobs-on",
            )
    return on is not None


def run_on_slurm(
    kind: Kind,
    tasks: Sequence[Task],
    profile: Profile,
    folder: Path | None,
    *,
    detach: bool,
    as_json: bool,
    quiet: bool,
    whole: Mapping[str, Any] | None = None,
    then: Sequence[str] = (),
) -> Run:
    """Submit tasks as an array and follow them to their end; with ``detach``, say where the run is and leave."""
    from eagle3hub.jobs import slurm

    with held():
        run = slurm.start(kind, tasks, folder, profile, whole=whole, then=then)
    if detach:
        _show_run(run, as_json=as_json)
        raise typer.Exit
    tell(f"{_submitted(run)}\n")
    _follow(run, quiet=quiet)
    return run


def refuse_endpoints(endpoints: Mapping[str, str]) -> None:
    """Raise UsageError where a server that runs already was named for a run elsewhere."""
    if endpoints:
        raise UsageError(
            "--endpoint is a server that runs already, and --on starts a job",
            hint="leave one out",
            code="usage-jobs-on",
        )


def _follow(run: Run, *, quiet: bool) -> None:
    from eagle3hub.jobs import slurm

    try:
        slurm.follow(run, _log(quiet), lambda words: None if quiet else tell(f"{words}\n"))
    except (KeyboardInterrupt, SystemExit):
        place = shlex.quote(run.folder)
        tell(f"\nthe tasks go on; follow them again: eagle3hub jobs collect {place}\n")
        tell(f"or stop them: eagle3hub jobs cancel {place}\n")
        raise


def _submitted(run: Run) -> str:
    last = run.submissions[-1]
    count = f"{len(last.tasks)} task{'s' if len(last.tasks) > 1 else ''}"
    return f"submitted {count} as job {last.job}; the run is in {run.folder}"


def _show_run(run: Run, *, as_json: bool) -> None:
    last, collect = run.submissions[-1], ["eagle3hub", "jobs", "collect", run.folder]
    document = {"folder": run.folder, "kind": run.kind, "job": last.job, "tasks": list(last.tasks), "collect": collect}

    def human(out: Console) -> None:
        out.print(_submitted(run), markup=False, soft_wrap=True)
        for name, verb in (("follow", "collect"), ("look", "status"), ("stop", "cancel")):
            out.print(f"{name:<8} eagle3hub jobs {verb} {shlex.quote(run.folder)}", markup=False, soft_wrap=True)

    emit("run", {"run": document}, human, as_json=as_json)


def _finish_run(run: Run, to: Destinations, output: Path | None) -> NoReturn:
    from eagle3hub.jobs import slurm

    if run.kind == "validate":
        finish(slurm.validation_of(run), to)
    if run.kind == "bench":
        finish_benchmark(slurm.benchmark_of(run), output, as_json=to.as_json)
    documents = slurm.documents(run)
    line = shlex.join(["eagle3hub", *run.then])

    def human(out: Console) -> None:
        for task, document in zip(run.tasks, documents, strict=True):
            out.print(f"{document['verdict']}  {task.label}: {document['reason']}", markup=False, soft_wrap=True)
        out.print(f"go on with: {line}", markup=False, soft_wrap=True)

    layouts = [{key: value for key, value in one.items() if key != "schema"} for one in documents]
    emit("measured-layouts", {"layouts": layouts, "then": ["eagle3hub", *run.then]}, human, as_json=to.as_json)
    raise typer.Exit(max(EXIT_OF[document["verdict"]] for document in documents))


def finish_benchmark(results: Results, output: Path | None, *, as_json: bool) -> NoReturn:
    """Save and print the results of a benchmark, then leave with the status of their verdict."""
    from eagle3hub.benchmarking.chart import write_all
    from eagle3hub.benchmarking.session import RESULTS
    from eagle3hub.benchmarking.terminal import render

    if output is not None:
        results.save(output / RESULTS)
    written = [output / RESULTS, *write_all(results, output)] if output is not None else []

    def human(out: Console) -> None:
        render(results, out)
        for path in written:
            out.print(f"written   {path}", markup=False)

    emit("bench", results.document, human, as_json=as_json)
    raise typer.Exit(EXIT_OF[results.verdict])


# On Hugging Face Jobs.


@dataclass(frozen=True, slots=True)
class JobRequest:
    """How the user wants a job: its options, whether to ask before it starts, whether to wait for it."""

    options: JobOptions
    run_anyway: bool
    ask: bool
    detach: bool


def validate_on(
    head: str,
    target: str,
    options: Mapping[str, Any],
    local: Mapping[str, Any],
    wanted: JobRequest,
    to: Destinations,
) -> NoReturn:
    """Show what a job would run and cost, ask, start it, and collect its report.

    ``options`` are those of `plan_job`; ``local`` are options that only a validation on this machine can use.
    """
    from eagle3hub.jobs.collect import collect
    from eagle3hub.jobs.plan import plan_job, refuse_local_files

    refuse_local_files(local)
    if wanted.ask and not sys.stdin.isatty():
        raise UsageError(
            "a job costs money, and there is no terminal to ask on", hint="say --yes", code="usage-jobs-not-asked"
        )
    with progress(quiet=to.quiet) as say:
        plan = plan_job(head, target, options, wanted.options, run_anyway=wanted.run_anyway, progress=say)
    _show(plan, console(stderr=True))
    if wanted.ask and not typer.confirm("start the job?", err=True):
        tell("no job was started\n")
        raise typer.Abort
    signals, job = _start(plan)
    with _watched(job):
        for number in signals:
            signal.raise_signal(number)
        if wanted.detach:
            emit("job-started", _started(plan, job), lambda out: _show_started(plan, job, out), as_json=to.as_json)
            raise typer.Exit
        tell(f"job {job.name}: {job.url}\n")
        result = collect(job, plan.expected, _log(to.quiet))
    finish(result, to)


def _start(plan: JobPlan) -> tuple[list[int], Job]:
    """Start a job. Signals wait until its name is known, since a job without a name cannot be cancelled."""
    came: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, lambda number, _: came.append(number)) for number in numbers]
    try:
        return came, plan.start()
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


@contextmanager
def _watched(job: Job) -> Iterator[None]:
    """If the block ends early, ask about the job or cancel it: it costs money as long as it runs."""
    try:
        yield
    except KeyboardInterrupt:
        _interrupted(job)
        raise
    except SystemExit:  # a signal to terminate
        _cancel(job)
        raise


def _interrupted(job: Job) -> None:
    """Ask once whether to cancel the job; without a terminal, or at a second interrupt, cancel it."""
    stop = True
    stop_again()
    if sys.stdin.isatty():
        try:
            stop = typer.confirm("\ncancel the job? otherwise it goes on, and costs", default=True, err=True)
        except (typer.Abort, KeyboardInterrupt):
            stop = True
    if stop:
        _cancel(job)
    else:
        tell(f"the job goes on; take its report with: eagle3hub jobs collect {job.name}\n")


def _cancel(job: Job) -> None:
    from eagle3hub.jobs import api

    try:
        api.cancel(job.name)
    except HubError as error:
        raise HubError(
            f"the job {job.name} goes on, and costs: {error.message}",
            hint=f"cancel it with `hf jobs cancel {job.name}`",
            code="job-not-cancelled",
        ) from error
    tell(f"the job {job.name} is cancelled\n")


def _log(quiet: bool) -> Callable[[str], None]:
    def say(line: str) -> None:
        if not quiet:
            text = "".join(c if c.isprintable() else " " for c in line)  # the log may hold anything, the terminal not
            tell(f"  {text}\n")

    return say


def _show(plan: JobPlan, out: Console) -> None:
    from rich.markup import escape

    f, wanted = plan.flavor, plan.options
    pinned = "pinned by digest" if plan.image.by_digest else "pinned by tag, its digest is not known here"
    has = f"{f.cpu}, {f.memory}" + (f", {f.accelerator}" if f.accelerator else ", no GPU")
    for name, value in (
        ("head", f"{plan.expected.head} ({plan.layout})"),
        ("target", plan.target),
        ("command", "eagle3hub " + " ".join(plan.words[:1] + plan.words[2:])),
        ("image", f"{plan.image.address} ({pinned})"),
        ("installs", plan.package),
        ("hardware", f"{f.name}: {has}"),
        ("price", f"${f.usd_per_hour:.2f} per hour, as the Hub states it now; {plan.namespace} pays"),
        ("limit", f"{wanted.minutes:g} minutes, so at most ${plan.most_usd:.2f}"),
        ("token", "the job is given yours, as a secret" if wanted.pass_token else "the job is given none"),
    ):
        out.print(f"  [dim]{name:<9}[/]{escape(value)}", soft_wrap=True)


def _started(plan: JobPlan, job: Job) -> dict[str, Any]:
    return {
        "job": {
            "name": job.name,
            "url": job.url,
            "flavor": plan.flavor.name,
            "usd_per_hour": plan.flavor.usd_per_hour,
            "time_limit_minutes": plan.options.minutes,
            "most_usd": round(plan.most_usd, 4),
            "head": plan.expected.head,
            "digest": plan.expected.digest,
            "collect": ["eagle3hub", "jobs", "collect", job.name],
        }
    }


def _show_started(plan: JobPlan, job: Job, out: Console) -> None:
    from rich.markup import escape

    for name, value in (
        ("started", f"{job.name} on {plan.flavor.name}, at most ${plan.most_usd:.2f}"),
        ("watch", job.url),
        ("collect", f"eagle3hub jobs collect {job.name} --report report.json"),
        ("cancel", f"hf jobs cancel {job.name}"),
    ):
        out.print(f"{name:<9}{escape(value)}", soft_wrap=True)
