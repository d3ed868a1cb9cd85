"""``eagle3hub release`` and ``eagle3hub demo``: make a release, and try one out."""

from __future__ import annotations

import os
import shlex
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eagle3hub.card.folder import CARD
from eagle3hub.checkpoint.destination import check_place
from eagle3hub.checkpoint.staging import append_file
from eagle3hub.cli import publish as publishing
from eagle3hub.cli.jobs import (
    ELSEWHERE,
    DetachFlag,
    OnSlurmOption,
    RunFolderOption,
    SlurmProfileOption,
    refuse_endpoints,
    run_on_slurm,
    wants_slurm,
    words_of,
)
from eagle3hub.cli.output import (
    EXIT_OF,
    JsonFlag,
    ProgressOption,
    QuietFlag,
    VerboseFlag,
    emit,
    progress,
    tell,
)
from eagle3hub.cli.parameters import TARGET, EndpointOption, EnginePythonOption
from eagle3hub.errors import Eagle3HubError, FoundWanting, OutputError, UsageError
from eagle3hub.system.text import readable_size, readable_time, visible

if TYPE_CHECKING:
    from rich.console import Console

    from eagle3hub.releasing.release import ReleaseOptions, ReleasePlan

TAKES = {
    False: "three steps: the target (97 MB), vLLM (2.5 GB), the release; 5 to 20 minutes, by the machine",
    True: "two steps: the target (97 MB), the release; one or two minutes",
}
"""What the demo does and how long it takes; True: the fast one."""
_COLOURS = {"pass": "green", "fail": "red", "inconclusive": "yellow", "unavailable": "yellow"}


_OF_THE_WHOLE = (
    "manifest", "dry_run", "explain", "start", "until", "layout", "output", "templates", "force", "create_pr", "stage",
    "branch_per_layout", "tag", "gated", "collection", "sign", "allow", "summary", *ELSEWHERE,
)  # fmt: skip
"""Parameters that measuring one layout on Slurm does not have."""


def release(
    ctx: typer.Context,
    manifest: Annotated[
        Path,
        typer.Argument(metavar="MANIFEST", help="release.yaml of the release, or one head of it: release.yaml#NAME."),
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Make the folder, upload nothing: --until card.")] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="Print the steps, what is kept, what each costs, and do nothing.")
    ] = False,
    start: Annotated[
        str,
        typer.Option(
            "--from", metavar="STEP", help="convert, card (measure nothing) or publish (the folder as it is)."
        ),
    ] = "convert",
    until: Annotated[
        str | None,
        typer.Option("--until", metavar="STEP", help="convert, validate, card or publish.", show_default="publish"),
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Measure only this layout: with --until validate.", show_default="all"),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder to make; default: the repository's name; to publish, one in the work folder.",
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option("--target", "--verifier", metavar="TARGET", help=f"Target to measure against: {TARGET}."),
    ] = None,
    engine_python: EnginePythonOption = None,
    endpoint: EndpointOption = None,
    templates: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Templates that override the shipped ones.")
    ] = None,
    work: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where measurements are kept; default: .eagle3hub beside the manifest."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a folder this tool wrote earlier.")] = False,
    create_pr: publishing.PrFlag = False,
    stage: publishing.StageFlag = False,
    branch_per_layout: publishing.BranchFlag = False,
    tag: publishing.TagOption = None,
    gated: publishing.GatedOption = None,
    collection: publishing.CollectionOption = None,
    sign: publishing.SignOption = None,
    allow: publishing.AllowOption = None,
    summary: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Append a Markdown summary; default in GitHub Actions: the step's."),
    ] = None,
    on: OnSlurmOption = None,
    slurm_profile: SlurmProfileOption = None,
    run_folder: RunFolderOption = None,
    detach: DetachFlag = False,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
    _progress: ProgressOption = "text",
    _verbose: VerboseFlag = False,
) -> None:
    """Convert to every layout, validate each on the engine, write the card, publish: one commit, verified.

    A release that does not pass makes no folder. Earlier measurements are used again, and files that the Hub already
    has are not sent again. Gates and access token are those of `eagle3hub publish`. If the manifest has several heads,
    none is published unless all pass; --output then holds a folder for each.

    With --on slurm every layout is measured by a task of its own on the cluster; card and publishing follow here.

    Exit status: 0 released; 1 it did not pass, or a gate refused it; 3 manifest or head cannot be used; 4 engine or
    device unavailable; 5 the Hub failed.

    Example: eagle3hub release release.yaml --explain

    Example: eagle3hub release release.yaml --dry-run
    """
    if dry_run and until not in (None, "card"):
        raise UsageError("--dry-run is --until card", hint="name one")
    from eagle3hub.engines import engine_pythons
    from eagle3hub.engines.options import endpoint_urls
    from eagle3hub.publishing import PublishOptions
    from eagle3hub.releasing.heads import failure_markdown, markdown
    from eagle3hub.releasing.heads import release as run
    from eagle3hub.releasing.release import ReleaseOptions

    place = None if explain else _summary(summary)
    if place is not None:  # check before the work whether it can be written
        check_place(place)
    try:
        options = ReleaseOptions(
            output=output,
            start=start,  # type: ignore[arg-type]  # checked there
            until="card" if dry_run else until or "publish",  # type: ignore[arg-type]
            publish=PublishOptions(
                create_pr=create_pr,
                stage=stage,
                branch_per_layout=branch_per_layout,
                tag=tag,
                allow=tuple(allow or ()),
                gated=gated,
                collection=collection,
                sign=sign,
            ),
            target=target,
            engine_python=engine_pythons(engine_python or []),
            endpoints=endpoint_urls(endpoint or []),
            templates=templates,
            work=work,
            force=force,
            layout=layout,
        )
        if explain:
            _explain(manifest, options, as_json=as_json, quiet=quiet)
            return
        if wants_slurm(on, {"slurm_profile": slurm_profile, "run_folder": run_folder, "detach": detach}):
            refuse_endpoints(options.endpoints or {})
            options = _measured_on_slurm(
                ctx, manifest, options, slurm_profile, run_folder, detach=detach, as_json=as_json, quiet=quiet
            )
        with progress(quiet=quiet) as report:
            made = run(manifest, options, progress=report)
    except Eagle3HubError as e:
        with suppress(OutputError):
            _append(place, failure_markdown(manifest.name, e))
        raise
    documents = [one.to_json() for one in made]

    def human(console: Console) -> None:
        for document in documents:
            show(document, console)

    if len(documents) == 1:
        emit("released", documents[0], human, as_json=as_json)
    else:
        emit("released-heads", {"heads": documents}, human, as_json=as_json)
    try:
        _append(place, "".join(markdown(document) for document in documents))
    except OutputError as e:  # the result is printed, and with --json it is the one document
        tell(f"error: {e.message}\n")
        raise typer.Exit(e.exit_code) from e
    statuses = [FoundWanting.exit_code if one.refused else EXIT_OF[one.verdict] for one in made]
    raise typer.Exit(next(filter(None, statuses), 0))


def _explain(manifest: Path, options: ReleaseOptions, *, as_json: bool, quiet: bool) -> None:
    """Print the plan of a release."""
    from eagle3hub.releasing.heads import explain

    with progress(quiet=quiet) as report:
        plans = explain(manifest, options, progress=report)

    def human(console: Console) -> None:
        for plan in plans:
            _draw(plan, console)

    emit("release-plan", {"heads": [plan.to_json() for plan in plans]}, human, as_json=as_json)


def _draw(plan: ReleasePlan, console: Console) -> None:
    """Draw the plan: the head, a branch for each step, a leaf for each layout, and where it ends."""
    from rich.markup import escape
    from rich.tree import Tree

    doc = plan.to_json()
    name = f" ({escape(doc['name'])})" if doc["name"] else ""
    tree = Tree(f"[bold]{escape(doc['source'])}[/]{name}, measured against {escape(doc['target'])}")
    branches: dict[str, Tree] = {}
    known = [step.seconds for step in plan.steps if step.seconds is not None]
    for step in plan.steps:
        branch = branches.get(step.step) or tree.add(f"[bold]{step.step}[/]")
        branches[step.step] = branch
        of_layout = f"{step.layout}: " if step.layout is not None and step.step == "validate" else ""
        costs = [] if step.size is None else [readable_size(step.size)]
        if step.state in ("kept", "made earlier", "not known"):
            costs.append(
                {"kept": "kept from earlier", "made earlier": "made earlier"}.get(step.state, "kept or not: not known")
            )
        elif step.seconds is not None:
            costs.append(f"{readable_time(step.seconds)}, from {step.known_from}")
        elif known:
            costs.append("time not known")
        cost = f"  [dim]{'; '.join(costs)}[/]" if costs else ""
        branch.add(f"{of_layout}{escape(step.what)}{cost}")
    console.print(tree)
    here = Path.cwd()
    output = plan.output.absolute()
    shown = output.relative_to(here) if output.is_relative_to(here) else output
    console.print(f"into {shown}", markup=False, soft_wrap=True)
    left = sum(step.seconds is None and step.state != "made earlier" for step in plan.steps)
    more = f", and {left} steps whose time is not known" if left else ""
    unknown = "how long it takes is not known: nothing like it was measured here"
    console.print(f"in all {readable_time(sum(known))}{more}" if known else unknown, markup=False)


def _measured_on_slurm(
    ctx: typer.Context,
    manifest: Path,
    options: ReleaseOptions,
    profile: Path | None,
    folder: Path | None,
    *,
    detach: bool,
    as_json: bool,
    quiet: bool,
) -> ReleaseOptions:
    """Measure every layout on the cluster; returns the options with which the release goes on from there."""
    from dataclasses import replace

    from eagle3hub.card.manifest import load_manifests
    from eagle3hub.jobs import slurm
    from eagle3hub.publishing import check_access

    if not options.measures or options.layout is not None:
        raise UsageError(
            "--on slurm measures every layout, and these steps do not",
            hint="leave out --from, --layout and --until convert",
            code="usage-step",
        )
    if options.until == "publish":
        with progress(quiet=quiet) as say:
            for one in load_manifests(manifest):
                check_access(one.release.repo, options.publish.with_intent(one.publish), say)
    tasks = slurm.release_tasks(manifest, words_of(ctx, _OF_THE_WHOLE))
    then = ["release", str(manifest), *words_of(ctx, ("manifest", "start", *ELSEWHERE))]
    after = "convert" if options.until == "validate" else "card"
    run_on_slurm(
        "release",
        tasks,
        slurm.read_profile(profile),
        folder,
        detach=detach,
        as_json=as_json,
        quiet=quiet,
        then=[*then, "--from", after],
    )
    return replace(options, start=after)  # type: ignore[arg-type]  # a step


def show(doc: dict[str, Any], console: Console) -> None:
    """Print a release: verdict, one row per layout, and where everything is."""
    from rich.markup import escape
    from rich.table import Table

    from eagle3hub.releasing.heads import MEASURED, measured, steps

    colour = _COLOURS[doc["verdict"]]
    console.print(f"[bold {colour}]{doc['verdict']}[/]  {escape(doc['repo'])}: {escape(doc['reason'])}")
    if doc["layouts"]:
        table = Table(*MEASURED)
        for *cells, verdict in measured(doc):
            table.add_row(*map(escape, cells), f"[{_COLOURS[verdict.split()[0]]}]{verdict}[/]")
        console.print(table)
    if doc["publication"]:
        publishing.show(doc["publication"], console)
    elif doc["output"]:
        converted = doc["until"] == "convert"
        console.print(
            f"{'converted' if converted else 'ready for upload'}: [bold]{escape(doc['output'])}[/] "
            f"({len(doc['files'])} files, {readable_size(sum(f['size'] for f in doc['files']))})"
        )
        console.print(f"  {doc['digest']}")
        if not converted:
            words = ["eagle3hub", "publish", doc["output"], *(w for code in doc["waived"] for w in ("--allow", code))]
            console.print(f"  publish it with: {escape(shlex.join(words))}", soft_wrap=True)
    summary = Table("step", "", "")
    for step in steps(doc):
        summary.add_row(*map(escape, step))
    console.print(summary)


def _summary(asked: Path | None) -> Path | None:
    """Return the summary page that was asked for, or that of the GitHub workflow this runs in, if any."""
    inside = os.environ.get("GITHUB_STEP_SUMMARY")
    return asked or (Path(inside) if inside else None)


def _append(page: Path | None, text: str) -> None:
    if page is not None:
        append_file(page, visible(text, keep_lines=True))


def demo(
    output: Annotated[Path, typer.Option(metavar="DIR", help="Folder to make.")] = Path("eagle3hub-demo"),
    fast: Annotated[bool, typer.Option("--fast", help="No engine: one layout, measured by the reference.")] = False,
    engine_python: EnginePythonOption = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the folder of an earlier demo.")] = False,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
    _progress: ProgressOption = "text",
    _verbose: VerboseFlag = False,
) -> None:
    """Release the example head of SmolLM2-135M-Instruct, for real, on this machine's CPU.

    The first run downloads the target model (97 MB) and meanwhile installs vLLM (2.5 GB on disk) into the cache. It
    takes 5 to 20 minutes, by the machine. With --fast no engine is installed or run, and it takes one or two.

    Exit status: 0 the release passes; 1 it does not; 4 vLLM or torch is not available; 5 a download failed.

    Example: eagle3hub demo --output ./eagle3hub-demo
    """
    from eagle3hub.releasing.demo import demo as run

    if not quiet:
        tell(TAKES[fast] + "\n")
    with progress(quiet=quiet) as report:
        made = run(output, fast=fast, engine_python=engine_python, force=force, progress=report)
    document = made.to_json()

    def human(console: Console) -> None:
        show(document, console)
        if document["output"]:
            card = output / CARD
            seen = shlex.join(["eagle3hub", "card", "preview", str(card)])
            console.print(f"the card: {card}\n  see it with: {seen}", markup=False, soft_wrap=True)

    emit("released", document, human, as_json=as_json)
    raise typer.Exit(EXIT_OF[made.verdict])
