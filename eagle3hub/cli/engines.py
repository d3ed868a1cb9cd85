"""``eagle3hub engines``: install, list and remove the environments engines run in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eagle3hub.cli.output import JsonFlag, QuietFlag, emit, progress

if TYPE_CHECKING:
    from rich.console import Console

    from eagle3hub.engines.envs import Environment

app = typer.Typer(help="Install, list and remove the engines heads are validated on.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Engine: vllm.", show_default=False)]
Device = Annotated[str, typer.Option(help="Device the engine runs on.")]
PythonOption = Annotated[
    list[str] | None,
    typer.Option(metavar="ENGINE=PATH", help="Interpreter that has the engine.", show_default="installed"),
]
_MARKS = {"error": "[red]error[/]", "warning": "[yellow]warning[/]", "info": "[blue]info[/]"}


@app.command()
def install(
    name: Name,
    device: Device = "cpu",
    force: Annotated[bool, typer.Option("--force", help="Make it again even if it is there.")] = False,
    as_json: JsonFlag = False,
    quiet: QuietFlag = False,
) -> None:
    """Make an engine's environment (vLLM on CPU: about 2.5 GiB and one or two minutes)."""
    from eagle3hub.engines import envs, get_engine

    engine = get_engine(name)
    with progress(quiet=quiet) as report:
        made = envs.install(engine.name, device, force=force, progress=report)
    emit(
        _json(made),
        lambda out: out.print(f"{made.engine} {made.version} for {made.device}: {made.path}"),
        as_json=as_json,
    )


@app.command("list")
def list_(as_json: JsonFlag = False) -> None:
    """List the engines there are, and which are installed."""
    from eagle3hub.engines import ENGINES, envs

    found = envs.environments(ENGINES)

    def human(out: Console) -> None:
        for one in found:
            state = "[green]installed[/]" if one.ready else "[dim]not installed[/]"
            where = str(one.path) if one.ready else f"eagle3hub engines install {one.engine} --device {one.device}"
            out.print(f"{one.engine:<8} {one.version:<8} {one.device:<5} {state:<15}  {where}")

    emit({"engines": [_json(one) for one in found]}, human, as_json=as_json)


@app.command()
def remove(name: Name, device: Device = "cpu", as_json: JsonFlag = False) -> None:
    """Delete an engine's environment."""
    from eagle3hub.engines import envs, get_engine

    engine = get_engine(name)
    removed = envs.remove(engine.name, device)
    what = "removed" if removed else "was not installed"
    emit(
        {"engine": engine.name, "device": device, "removed": removed},
        lambda out: out.print(f"{engine.name} for {device}: {what}"),
        as_json=as_json,
    )


@app.command()
def check(
    file: Annotated[
        Path, typer.Argument(help="Markdown, or JSON of a recipe or a report, or YAML; - reads Markdown.")
    ],
    engine_python: PythonOption = None,
    data_only: Annotated[
        bool, typer.Option("--data-only", help="Do not ask the parsers of installed engines.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Hold the commands, variables, YAML and Python of a recipe or a model card against what engines accept.

    Exit status: 0 nothing that an engine refuses (there may be warnings); 1 something is; 3 the file is unreadable.

    Example: eagle3hub engines check README.md
    """
    from eagle3hub.engines.check import check_file

    installed = {} if data_only else _interpreters(engine_python or [])
    findings = check_file(file, installed)
    wanting = any(f.severity == "error" for f in findings)
    document = {"file": file.name, "findings": [f.to_json() for f in findings], "asked": sorted(installed)}

    def human(out: Console) -> None:
        from rich.markup import escape

        for f in findings:
            where = f"{file.name}:{f.line}" if f.line else file.name
            out.print(f"{escape(where)}: {_MARKS[f.severity]} {escape(f.what)} [dim]({f.code})[/]")
            if f.instead:
                out.print(f"  [dim]instead: {escape(f.instead)}[/]")
        if not findings:
            out.print(f"{escape(file.name)}: nothing that an engine would take otherwise")

    emit(document, human, as_json=as_json)
    if wanting:
        raise typer.Exit(1)


def _interpreters(pairs: list[str]) -> dict[str, Path]:
    """Interpreters of engines whose parsers can be asked: those given, else those installed."""
    from eagle3hub.engines import ENGINES, envs
    from eagle3hub.engines.options import engine_pythons

    installed = {one.engine: one.python for one in envs.environments(ENGINES) if one.ready}
    return installed | {engine: Path(path).expanduser() for engine, path in engine_pythons(pairs).items()}


def _json(environment: Environment) -> dict[str, object]:
    return {
        "engine": environment.engine,
        "version": environment.version,
        "device": environment.device,
        "installed": environment.ready,
        "path": str(environment.path),
    }
