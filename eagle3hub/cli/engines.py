"""``eagle3hub engines``: install, list and remove the environments that engines run in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eagle3hub.cli.output import JsonFlag, ProgressOption, QuietFlag, VerboseFlag, emit, progress
from eagle3hub.cli.parameters import EnginePythonOption, device_completed, engine_completed
from eagle3hub.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from eagle3hub.engines.environments import Environment

app = typer.Typer(
    help="Install, list, examine and remove the engines heads are validated on; check recipes and cards.\n\n"
    "Example: eagle3hub engines install vllm --device cpu",
    no_args_is_help=True,
)

Name = Annotated[
    str, typer.Argument(help="Engine: vllm, sglang or llamacpp.", show_default=False, autocompletion=engine_completed)
]
Device = Annotated[
    str, typer.Option(metavar="DEVICE", help="Device the engine runs on.", autocompletion=device_completed)
]
_MARKS = {"error": "[red]error[/]", "warning": "[yellow]warning[/]", "info": "[blue]info[/]"}

_OUTCOMES = {
    "right": "[green]right         [/]",
    "runs": "[cyan]runs          [/]",
    "silently_wrong": "[yellow]silently wrong[/]",
    "refuses": "[red]refuses       [/]",
    "crashes": "[red]crashes       [/]",
    "not_run": "[dim]not run       [/]",
}


@app.command()
def install(
    name: Name,
    device: Device = "cpu",
    force: Annotated[bool, typer.Option("--force", help="Make it again even if it is there.")] = False,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
    _progress: ProgressOption = "text",
    _verbose: VerboseFlag = False,
) -> None:
    """Make an engine's environment (vLLM on CPU: about 2.5 GiB and one or two minutes).

    Exit status: 0 it is there; 2 there is no such engine; 4 it is not available for this device; 5 a download failed.

    Example: eagle3hub engines install vllm --device cpu
    """
    from eagle3hub.engines import environments, get_engine

    engine = get_engine(name)
    with progress(quiet=quiet) as report:
        made = environments.install_environment(engine.name, device, force=force, progress=report)
    emit(
        "engine",
        _json(made),
        lambda out: out.print(f"{made.engine} {made.version} for {made.device}: {made.path}"),
        as_json=as_json,
    )


@app.command("list")
def list_(as_json: JsonFlag = False) -> None:
    """List the engines, which of them are installed, and why the others cannot be.

    Exit status: 0.

    Example: eagle3hub engines list
    """
    from eagle3hub.engines import ENGINES, environments
    from eagle3hub.engines.specs import DEVICES, default_version, environment_spec, no_environment

    found = [
        _json(one) | {"tested": environment_spec(one.engine, one.device).tested, "unobtainable": None}
        for one in environments.list_environments(ENGINES)
    ]
    for engine in ENGINES:
        for device in DEVICES:
            why = no_environment(engine, device)
            if why is not None:
                row = {"engine": engine, "version": default_version(engine), "device": device, "installed": False}
                found.append(row | {"path": None, "tested": False, "unobtainable": why})

    def human(out: Console) -> None:
        for one in found:
            state, where = (
                "[dim]not installed[/]",
                f"eagle3hub engines install {one['engine']} --device {one['device']}",
            )
            if one["installed"]:
                state, where = "[green]installed[/]", str(one["path"])
            elif one["unobtainable"]:
                state, where = "[dim]unobtainable[/]", str(one["unobtainable"])
            untried = " [yellow](not tried by us)[/]" if not one["tested"] and not one["unobtainable"] else ""
            out.print(f"{one['engine']:<10} {one['version']:<13} {one['device']:<5} {state:<15}  {where}{untried}")

    emit("engines", {"engines": found}, human, as_json=as_json)


@app.command()
def doctor(
    name: Annotated[str | None, typer.Argument(help="Engine.", show_default="all")] = None,
    engine_python: EnginePythonOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Look into each engine's interpreter: versions, device, free memory, what is missing and how to fix that.

    Exit status: 0; 4 if the named engine is ready on no device.

    Example: eagle3hub engines doctor vllm
    """
    from eagle3hub.engines import ENGINES, engine_name, engine_pythons
    from eagle3hub.engines.environments import diagnose

    pythons = {engine: Path(path).expanduser() for engine, path in engine_pythons(engine_python or []).items()}
    found = diagnose(ENGINES if name is None else [engine_name(name)], pythons)

    def human(out: Console) -> None:
        from rich.markup import escape

        for one in found:
            style = "green" if one.state == "ready" else "yellow"
            out.print(
                f"[bold]{one.engine}[/] {one.version} on {one.device}: [{style}]{one.state.replace('_', ' ')}[/]"
            )
            if one.python:
                out.print(f"  python     {escape(one.python)} ({one.python_version or 'did not answer'})")
            versions = {"engine": one.engine_version, "framework": one.framework, "processor": one.processor}
            for what, value in versions.items():
                if value:
                    out.print(f"  {what:<10} {escape(value)}")
            if one.free_gib is not None:
                out.print(f"  free       {one.free_gib:g} GiB")
            if one.problem:
                out.print(f"  [yellow]{escape(one.problem)}[/]\n  [dim]to fix this: {escape(one.mend or '')}[/]")
            if one.warning:
                out.print(f"  [yellow]{escape(one.warning)}[/]")
            if not one.tested and one.state != "unobtainable":
                out.print("  [dim]this kind of environment was not tried by us[/]")

    emit("doctor", {"engines": [one.to_json() for one in found]}, human, as_json=as_json)
    if name is not None and not any(one.state == "ready" for one in found):
        raise typer.Exit(4)


@app.command()
def remove(
    name: Name,
    device: Annotated[
        str | None,
        typer.Option(metavar="DEVICE", help="Device it is for.", show_default="that of the only environment"),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Delete an engine's environment.

    Exit status: 0 it is gone; 2 there is no such engine, or it has several environments and no --device says which.

    Example: eagle3hub engines remove vllm
    """
    from eagle3hub.engines import environments, get_engine

    engine = get_engine(name)
    if device is None:
        known = environments.list_environments((engine.name,))
        there = [one.device for one in known if one.path.exists()]
        if len(there) > 1:
            raise UsageError(
                f"{engine.name} has environments for {' and '.join(there)}", hint=f"name one: --device {there[0]}"
            )
        device = (there or [one.device for one in known] or ["cpu"])[0]
    removed = environments.remove_environment(engine.name, device)
    what = "removed" if removed else "was not installed"
    emit(
        "engine-removed",
        {"engine": engine.name, "device": device, "removed": removed},
        lambda out: out.print(f"{engine.name} for {device}: {what}"),
        as_json=as_json,
    )


@app.command()
def check(
    file: Annotated[
        Path, typer.Argument(help="Markdown, or JSON of a recipe or a report, or YAML; - reads Markdown.")
    ],
    engine_python: EnginePythonOption = None,
    data_only: Annotated[
        bool, typer.Option("--data-only", help="Do not ask the parsers of installed engines.")
    ] = False,
    version: Annotated[
        list[str] | None,
        typer.Option(
            "--version",
            "--engine-version",
            metavar="ENGINE=VERSION",
            help="Version to hold an engine's commands against.",
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Check the commands, variables, YAML and Python of a recipe or a model card against what engines accept.

    What cannot be held against anything is listed as not checked: nothing is known of it, good or bad.

    Exit status: 0 engines refuse nothing of what was checked (there may be warnings); 1 they refuse something, or a
    part of it does not parse; 3 the file is unreadable.

    Example: eagle3hub engines check README.md
    """
    from eagle3hub.engines import engine_versions
    from eagle3hub.engines.check import check_file
    from eagle3hub.engines.check.commands import PARSED

    installed = {} if data_only else _interpreters(engine_python or [])
    outcome = check_file(file, installed, _versions(engine_python or []) | engine_versions(version or []))
    findings = outcome.findings
    wanting = any(f.severity == "error" for f in findings)
    document = {
        "file": file.name,
        "findings": [f.to_json() for f in findings],
        "checked": outcome.checked,
        "not_checked": [one.to_json() for one in outcome.not_checked],
        "asked": sorted(engine for engine in PARSED if engine in installed),
        "warnings": outcome.warnings,
    }

    def human(out: Console) -> None:
        from rich.markup import escape

        def place(line: int) -> str:
            return escape(f"{file.name}:{line}" if line else file.name)

        for warning in outcome.warnings:
            out.print(f"[yellow]{escape(warning)}[/]")
        for f in findings:
            out.print(f"{place(f.line)}: {_MARKS[f.severity]} {escape(f.what)} [dim]({f.code})[/]")
            if f.instead:
                out.print(f"  [dim]instead: {escape(f.instead)}[/]")
        for what, lines in outcome.left().items():
            also = f" (also in {len(lines) - 1} more places)" if len(lines) > 1 else ""
            out.print(f"{place(lines[0])}: not checked: {escape(what)}{also}")
        out.print(f"{escape(file.name)}: {escape(outcome.summary())}")

    emit("check", document, human, as_json=as_json)
    if wanting:
        raise typer.Exit(1)


@app.command()
def probe(
    name: Annotated[
        str, typer.Argument(help="Engine: vllm, sglang, sglang-jax, llamacpp or trtllm.", show_default=False)
    ],
    python: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Interpreter that has the engine.", show_default="installed")
    ] = None,
    device: Device = "cpu",
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the contract here.", show_default="nowhere")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="QUESTION", help="Ask this one.", show_default="all")
    ] = None,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
    _progress: ProgressOption = "text",
    _verbose: VerboseFlag = False,
) -> None:
    """Find out by experiment what an engine does with a head, on the very build you have (vLLM: a few minutes).

    It runs small heads, one for each thing that engines read in their own way, and compares the logits, or the drafts,
    with the reference's. Then it says where the engine differs from what eagle3hub holds for its version.

    Exit status: 0 every question was asked, whatever the engine did; 2 there is no such engine or question; 3 the
    output cannot be written; 4 the engine cannot be run here.

    Example: eagle3hub engines probe vllm --python /opt/vllm/bin/python --output nightly.json
    """
    from datetime import UTC, datetime

    from eagle3hub.checkpoint.destination import check_place
    from eagle3hub.engines import engine_name
    from eagle3hub.probing.contract import probe_engine, write_contract

    engine = engine_name(name)
    if output is not None:
        check_place(output)
    with progress(quiet=quiet) as report:
        found = probe_engine(engine, python, device, datetime.now(UTC).date().isoformat(), only or None, report)
    if output is not None:
        write_contract(found, output)

    def human(out: Console) -> None:
        from rich.markup import escape

        for question, answer in found.contract.answers.items():
            out.print(f"{_OUTCOMES[answer.outcome]} {question:<45} [dim]{escape(answer.evidence)}[/]")
        for line in (*found.differences, *found.surprises):
            out.print(f"[yellow]{escape(line)}[/]")
        out.print(found.summary)

    emit("probe", found.to_json(), human, as_json=as_json)


def _interpreters(pairs: list[str]) -> dict[str, Path]:
    """Return the interpreters of engines whose parsers can be asked: the given ones, else the installed ones."""
    from eagle3hub.engines import ENGINES, engine_pythons, environments

    installed = {one.engine: one.python for one in environments.list_environments(ENGINES) if one.ready}
    return installed | {engine: Path(path).expanduser() for engine, path in engine_pythons(pairs).items()}


def _versions(pairs: list[str]) -> dict[str, str]:
    """Return the versions that lie in the given interpreters, for those that tell one."""
    from eagle3hub.engines import engine_pythons
    from eagle3hub.engines.environments import installed_version

    given = {engine: Path(path).expanduser().absolute() for engine, path in engine_pythons(pairs).items()}
    told = {engine: installed_version(engine, python) for engine, python in given.items()}
    return {engine: version for engine, version in told.items() if version and version[0].isdigit()}


def _json(environment: Environment) -> dict[str, object]:
    return {
        "engine": environment.engine,
        "version": environment.version,
        "device": environment.device,
        "installed": environment.ready,
        "path": str(environment.path),
    }
