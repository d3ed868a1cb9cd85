"""The command line: commands are registered here, errors become one sentence and an exit code here."""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback

import typer

from eagle3hub._version import __version__
from eagle3hub.errors import Eagle3HubError, UsageError

EXIT_INTERRUPTED = 130
_CommandLineError: type[Exception] = typer.BadParameter.__bases__[0]  # click's UsageError, inside newer typer


def build() -> typer.Typer:
    """The Typer application with every command."""
    from eagle3hub.cli.bench import bench
    from eagle3hub.cli.card import app as card
    from eagle3hub.cli.convert import convert
    from eagle3hub.cli.demo import demo
    from eagle3hub.cli.diff import diff
    from eagle3hub.cli.engines import app as engines
    from eagle3hub.cli.inspect import inspect
    from eagle3hub.cli.jobs import app as jobs
    from eagle3hub.cli.publish import publish, verify
    from eagle3hub.cli.recipe import recipe
    from eagle3hub.cli.release import release
    from eagle3hub.cli.validate import validate

    app = typer.Typer(
        name="eagle3hub",
        help="Take an EAGLE-3 draft head from the trainer's folder to a public release.\n\n"
        "Example: eagle3hub inspect runs/final --target Qwen/Qwen3-8B",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=True,
        context_settings={"help_option_names": ["-h", "--help"]},
    )

    @app.callback()
    def root(
        _version: bool = typer.Option(
            False, "--version", callback=_show_version, is_eager=True, help="Print the version and stop."
        ),
        _debug: bool = typer.Option(False, "--debug", help="Show a traceback when something fails."),
    ) -> None:
        """Options of every command."""

    app.command("inspect")(inspect)
    app.command("convert")(convert)
    app.command("diff")(diff)
    app.command("validate")(validate)
    app.command("bench")(bench)
    app.command("recipe")(recipe)
    app.command("publish")(publish)
    app.command("verify")(verify)
    app.command("release")(release)
    app.command("demo")(demo)
    app.add_typer(card, name="card")
    app.add_typer(engines, name="engines")
    app.add_typer(jobs, name="jobs")
    return app


def main() -> None:
    """Entry point: run the command line and exit with the documented status."""
    if sys.argv[1:] == ["--version"]:
        print(f"eagle3hub {__version__}")
        return
    signal.signal(signal.SIGTERM, _terminated)
    try:
        status = run(sys.argv[1:])
    except Exception:  # a mistake of this program: all of it is shown, but for what is secret
        status = _traceback()
    sys.exit(status)


def run(argv: list[str]) -> int:
    """Run one command and return its exit status; everything is printed, nothing is raised."""
    debug = "--debug" in argv
    as_json = "--json" in argv
    argv = [a for a in argv if a != "--debug"]
    try:
        status = build()(argv, prog_name="eagle3hub", standalone_mode=False)
        return status if isinstance(status, int) else 0
    except Eagle3HubError as e:
        if debug:
            _traceback()
        return _fail(e, as_json)
    except _CommandLineError as e:
        if not str(e):  # no arguments: the help has been printed
            return UsageError.exit_code
        return _fail(_usage_error(e), as_json)
    except (KeyboardInterrupt, typer.Abort):
        sys.stderr.write("interrupted\n")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _fail(error: Eagle3HubError, as_json: bool) -> int:
    if as_json:
        print(json.dumps({"error": error.to_json()}, indent=2, ensure_ascii=False))
    else:
        sys.stderr.write(f"error: {error.message}\n")
        if error.hint:
            sys.stderr.write(f"hint: {error.hint}\n")
    return error.exit_code


def _traceback() -> int:
    from eagle3hub.cli.redact import redacted

    sys.stderr.write(redacted(traceback.format_exc()))
    return 1


def _usage_error(error: Exception) -> UsageError:
    context = getattr(error, "ctx", None)
    message = error.format_message() if isinstance(error, typer.BadParameter) else str(error)
    return UsageError(message, hint=f"{context.command_path} --help" if context is not None else None)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"eagle3hub {__version__}")
        raise typer.Exit


def _terminated(signum: int, _frame: object) -> None:
    raise SystemExit(128 + signum)
