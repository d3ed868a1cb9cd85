"""``eagle3hub validate --on hf-jobs`` and ``eagle3hub jobs``: validations that run on Hugging Face."""

from __future__ import annotations

import signal
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from eagle3hub.cli.output import Destinations, JsonFlag, QuietFlag, console, emit, finish, progress, tell
from eagle3hub.cli.parameters import HtmlOption, ReportOption
from eagle3hub.errors import HubError, UsageError
from eagle3hub.system.signals import stop_again

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from rich.console import Console

    from eagle3hub.jobs.api import Job
    from eagle3hub.jobs.plan import JobPlan

app = typer.Typer(help="Validations that run as Hugging Face Jobs.", no_args_is_help=True)
_PANEL = "On Hugging Face Jobs"

OnOption = Annotated[
    str | None,
    typer.Option("--on", metavar="hf-jobs", help="Run there instead.", show_default="here", rich_help_panel=_PANEL),
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
DetachFlag = Annotated[bool, typer.Option("--detach", help="Start the job and leave.", rich_help_panel=_PANEL)]
YesFlag = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask what it may cost.", rich_help_panel=_PANEL)]


@app.command("collect")
def collect_(
    job: Annotated[str, typer.Argument(metavar="OWNER/ID", help="What --detach printed.", show_default=False)],
    report: ReportOption = None,
    html: HtmlOption = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Wait for a validation that was started with --detach, and take its report.

    Exit status: that of `validate`; 5 the Hub failed, or the job ended without a report.

    Example: eagle3hub jobs collect alice/687fb701029421ae5549d998 --report report.json
    """
    from eagle3hub.jobs import api
    from eagle3hub.jobs.collect import collect, expected_of
    from eagle3hub.validation.options import writable_page, writable_report

    if job.count("/") != 1:
        raise UsageError(f"{job!r} is not the name of a job", hint="give OWNER/ID, as --detach printed it")
    if report is not None:
        writable_report(report)
    if html is not None:
        writable_page(html)
    running = api.inspect(job)
    finish(collect(running, expected_of(running), _log(quiet)), Destinations(report, html, as_json=as_json))


@dataclass(frozen=True, slots=True)
class JobRequest:
    """How the user wants a job: fields of `JobOptions`, whether to ask before it starts, whether to wait for it."""

    options: Mapping[str, Any]
    run_anyway: bool
    ask: bool
    detach: bool


def validate_on(
    where: str,
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
    from eagle3hub.jobs.plan import JobOptions, plan_job, refuse_local_files

    if where != "hf-jobs":
        raise UsageError(f"--on {where!r} is not a place to run", hint="--on hf-jobs", code="usage-jobs-on")
    refuse_local_files(local)
    if wanted.ask and not sys.stdin.isatty():
        raise UsageError(
            "a job costs money, and there is no terminal to ask on", hint="say --yes", code="usage-jobs-not-asked"
        )
    with progress(quiet=to.quiet) as say:
        wished = JobOptions(**wanted.options)
        plan = plan_job(head, target, options, wished, run_anyway=wanted.run_anyway, progress=say)
    _show(plan, console(stderr=True))
    if wanted.ask and not typer.confirm("start the job?", err=True):
        tell("no job was started\n")
        raise typer.Abort
    held, job = _start(plan)
    with _watched(job):
        for number in held:
            signal.raise_signal(number)
        if wanted.detach:
            emit(_started(plan, job), lambda out: _show_started(plan, job, out), as_json=to.as_json)
            raise typer.Exit
        tell(f"job {job.name}: {job.url}\n")
        result = collect(job, plan.expected, _log(to.quiet))
    finish(result, to)


def _start(plan: JobPlan) -> tuple[list[int], Job]:
    """Start a job. Signals wait until its name is known, since a job without a name cannot be cancelled."""
    held: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, lambda number, _: held.append(number)) for number in numbers]
    try:
        return held, plan.start()
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
