"""Build the command line from its commands; turn errors into one sentence and an exit code."""

from __future__ import annotations

import errno
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import typer
import typer.main

from eagle3hub._version import __version__
from eagle3hub.cli.output import (
    Unwritable,
    console,
    examples,
    forget,
    help_text,
    outlive_readers,
    print_json,
    shown_for,
    tell,
    tell_error,
)
from eagle3hub.errors import Eagle3HubError, Hint, InternalError, SourceError, UnavailableError, UsageError
from eagle3hub.system.signals import stop_at_once, stop_once, stopped_by
from eagle3hub.system.text import redacted

# The commands, and the exit status of each error.


EXIT_INTERRUPTED = 130
_NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL, errno.EFBIG, errno.EILSEQ)
_CommandLineError: type[Exception] = typer.BadParameter.__bases__[0]  # click's UsageError, inside newer typer


_COMMANDS = (
    ("inspect", "inspect"),
    ("convert", "convert"),
    ("diff", "diff"),
    ("validate", "validate"),
    ("states", "states"),
    ("bench", "bench"),
    ("compare-reports", "diff"),
    ("recipe", "recipe"),
    ("profile", "profile"),
    ("publish", "publish"),
    ("verify", "publish"),
    ("release", "release"),
    ("demo", "release"),
)
_GROUPS = ("card", "engines", "jobs")


def build(wanted: str | None = None) -> typer.Typer:
    """Make the Typer application with every command, or only the command ``wanted`` if there is one of that name.

    Typer reads the options of every registered command before it looks at the command line, so only the called command
    is registered.
    """
    only = wanted if wanted in {*dict(_COMMANDS), *_GROUPS} else None
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
        """Accept the options of every command."""

    for name, module in _COMMANDS:
        if only in (None, name):
            app.command(name)(getattr(import_module(f"eagle3hub.cli.{module}"), name.replace("-", "_")))
    for name in _GROUPS:
        if only in (None, name):
            app.add_typer(import_module(f"eagle3hub.cli.{name}").app, name=name)
    return app


def main() -> None:
    """Run the command line and exit with the documented status."""
    outlive_readers()
    stop_once()
    try:
        status = _run(sys.argv[1:])
        sys.stdout.flush()
    except Unwritable as e:
        status = _fail(e)
    finally:
        stop_at_once()
    sys.exit(status)


def _run(argv: list[str]) -> int:
    if argv == ["--version"]:
        print(f"eagle3hub {__version__}")
        return 0
    try:
        return run(argv)
    except Unwritable:
        raise
    except Exception as e:
        if number := stopped_by():
            return _interrupted("--json" in argv) if number == signal.SIGINT else 128 + number
        error = _out_of_memory(e) or _fault_of_a_place(e) or _own_mistake(e)
        if "--debug" in argv or isinstance(error, InternalError):
            _traceback()
        return _fail(error, argv)


def run(argv: list[str]) -> int:
    """Run one command, print everything, and return the exit status. Raises Unwritable if printing fails."""
    debug = "--debug" in argv
    as_json = "--json" in argv
    argv = [a for a in argv if a != "--debug"]
    forget()
    try:
        status = _command(*(_completed() or argv)[:1]).main(argv, prog_name="eagle3hub", standalone_mode=False)
        if status == EXIT_INTERRUPTED:  # Typer's result for KeyboardInterrupt
            return _interrupted(as_json)
        return status if isinstance(status, int) else 0
    except Unwritable:
        raise
    except Eagle3HubError as e:
        if debug:
            _traceback()
        return _fail(e, argv)
    except _CommandLineError as e:
        if not str(e):  # no arguments: the help was printed
            return UsageError.exit_code
        return _fail(_usage_error(e), argv)
    except (KeyboardInterrupt, typer.Abort):
        return _interrupted(as_json)


def _completed() -> list[str]:
    """Return what stands on the line that a shell asks to complete, before its last word: the command is known by it.

    Where a shell puts the line: typer's ``completion`` (bash in one variable, zsh, fish and PowerShell in another).
    """
    line = os.environ.get("_TYPER_COMPLETE_ARGS") or os.environ.get("COMP_WORDS") or ""
    return line.replace("\n", " ").split(" ")[1:-1] if "_EAGLE3HUB_COMPLETE" in os.environ else []


@cache
def _command(wanted: str | None = None) -> Any:
    """The command line as Typer runs it; it is the same for every call."""
    command = typer.main.get_command(build(wanted))
    _style_help(command)
    return command


def _style_help(command: Any) -> None:
    """Print help in this program's own form."""

    def format_help(context: Any, _formatter: Any) -> None:
        console().print(help_text(command, context.command_path), end="", soft_wrap=True)

    command.format_help = format_help
    for inner in getattr(command, "commands", {}).values():
        _style_help(inner)


def _fail(error: Eagle3HubError, argv: Sequence[str] = ()) -> int:
    found, hint = error.to_json(), error.hint
    if isinstance(hint, Hint):
        found["hint"] = shown_for(hint, _called(argv))
    if "--json" in argv:
        print_json("error", {"error": found})
    else:
        tell_error(error.message, found["hint"])
    return error.exit_code


def _called(argv: Sequence[str]) -> Any:
    """Return the command that a command line calls, or the group if it calls none."""
    command = _command(*argv[:1])
    for word in argv:
        if word not in getattr(command, "commands", {}):
            break
        command = command.commands[word]
    return command


def _interrupted(as_json: bool) -> int:
    if as_json:
        error = {"code": "interrupted", "message": "interrupted", "hint": None, "exit_code": EXIT_INTERRUPTED}
        print_json("error", {"error": error})
    else:
        tell("interrupted\n")
    return EXIT_INTERRUPTED


def _traceback() -> None:

    tell(redacted(traceback.format_exc()))


def _out_of_memory(error: Exception) -> UnavailableError | None:
    """Return the error for too little memory, whatever a library raises for it; None for other exceptions."""
    said = str(error)
    if not (
        isinstance(error, MemoryError)
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
        or (isinstance(error, RuntimeError) and ("can't start new thread" in said or "allocate memory" in said))
        or (isinstance(error, ImportError) and "cannot allocate memory" in said.lower())
        or (isinstance(error, ImportError) and "failed to map segment" in said)
    ):
        return None
    return UnavailableError(
        "there is not enough memory for this",
        hint="end other programs, raise the limit (ulimit -v, the container's), or use a larger machine",
        code="memory",
    )


def _fault_of_a_place(error: Exception) -> SourceError | None:
    """Return the error for an unusable file or folder that no other code caught; None for other exceptions."""
    if isinstance(error, RuntimeError) and "home directory" in str(error):  # pathlib raises this for ~somebody
        return SourceError("a path begins with ~ and a name that no user has here", code="source-missing")
    if isinstance(error, ValueError) and "embedded null" in str(error):
        return SourceError("a path has a NUL in it, which no file's name can have", code="source-missing")
    if isinstance(error, UnicodeEncodeError) and error.reason == "surrogates not allowed":
        what = f"the text {error.object[:80]!r} has half of a surrogate pair in it, which no file or name can have"
        return SourceError(what, code="source-missing")
    if not isinstance(error, OSError):
        return None
    if error.errno in _NOT_ALLOWED and error.filename is not None:
        return SourceError(f"cannot use {error.filename}: {error.strerror}", code="source-unreadable")
    if error.errno == errno.ENOENT and error.filename is None and _is_nowhere():
        hint = "change to a folder that exists, and run it again"
        return SourceError("the working directory does not exist any more", hint=hint, code="source-no-cwd")
    return None


def _is_nowhere() -> bool:
    try:
        Path.cwd()
    except FileNotFoundError:
        return True
    return False


def _own_mistake(error: Exception) -> InternalError:

    return InternalError(
        redacted(f"{type(error).__name__}: {error}"),
        hint="this is a bug in eagle3hub: please report it with its traceback",
    )


def _usage_error(error: Exception) -> UsageError:
    context = getattr(error, "ctx", None)
    message = error.format_message() if isinstance(error, typer.BadParameter) else str(error)
    if (option := getattr(error, "option_name", None)) is not None and context is not None:
        from eagle3hub.system.documents import did_you_mean

        message += did_you_mean(option, [word for one in context.command.params for word in one.opts])
    hint = None if context is None else f"{context.command_path} --help"
    if context is not None and message.startswith("Missing ") and (found := examples(context.command.help or "")):
        hint = f"for example: {found[0]}; all options: {hint}"
    return UsageError(message, hint=hint)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"eagle3hub {__version__}")
        raise typer.Exit
