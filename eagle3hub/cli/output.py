"""What every command shares: the common options, and where text goes.

Standard output carries the result, human or JSON; standard error carries progress, warnings and errors.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eagle3hub.cli.streams import styled
from eagle3hub.progress import Progress, silent, telling
from eagle3hub.visible import escaped_json, visible

if TYPE_CHECKING:
    from rich.console import Console

JsonFlag = Annotated[bool, typer.Option("--json", help="Print exactly one JSON document and nothing else.")]
EXIT_OF = {"pass": 0, "fail": 1, "inconclusive": 1, "unavailable": 4}
"""Exit status by verdict."""

QuietFlag = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on standard error.")]


def console(*, stderr: bool = False) -> Console:
    """A rich console: styled on a terminal, plain text of unlimited width in a pipe."""
    from eagle3hub.cli.terminal import CleanConsole

    stream = sys.stderr if stderr else sys.stdout
    return CleanConsole(
        file=styled(stream),
        highlight=False,
        emoji=False,
        soft_wrap=not stream.isatty(),
        width=None if stream.isatty() else 200,
    )


def write(text: str) -> None:
    """Print text to standard output as it is, but for what `visible` replaces."""
    sys.stdout.write(visible(text, keep_lines=True))
    sys.stdout.flush()


def tell(text: str) -> None:
    """Print text to standard error as it is, but for what `visible` replaces."""
    sys.stderr.write(visible(text, keep_lines=True))
    sys.stderr.flush()


def emit(document: Mapping[str, Any], human: Callable[[Console], None], *, as_json: bool) -> None:
    """Print the result: the document as JSON, or what ``human`` writes to the console."""
    if as_json:
        sys.stdout.write(json_text(document) + "\n")
    else:
        human(console())
    sys.stdout.flush()


def json_text(document: Mapping[str, Any]) -> str:
    """The document as JSON, in ASCII where standard output is in another encoding than UTF-8.

    What cannot be seen (controls, bidi marks, halves of surrogate pairs) is written as escapes.
    """
    ascii_only = (sys.stdout.encoding or "utf-8").lower() not in ("utf-8", "utf8")
    return escaped_json(json.dumps(document, indent=2, ensure_ascii=ascii_only))


@contextmanager
def progress(*, quiet: bool = False, after: float = 1.0) -> Iterator[Progress]:
    """A `Progress` that shows up on standard error once the work has taken ``after`` seconds.

    On a terminal it is a live bar; elsewhere it is one line per new message.
    """
    if quiet:
        yield silent
        return
    if not sys.stderr.isatty():
        lines = _Lines(after)
        with telling(lines):
            yield lines
        return
    from rich.progress import BarColumn, SpinnerColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as RichProgress

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
    )
    bar = RichProgress(*columns, console=console(stderr=True), transient=True)
    task = bar.add_task("", total=None)
    started = time.monotonic()
    shown = False

    def report(message: str, fraction: float | None = None) -> None:
        nonlocal shown
        bar.update(
            task, description=message, total=None if fraction is None else 1.0, completed=min(fraction or 0.0, 0.999)
        )
        if not shown and time.monotonic() - started >= after:
            shown = True
            bar.start()

    try:
        with telling(report):
            yield report
    finally:
        if shown:
            bar.stop()


class _Lines:
    """Progress for logs: each message once, and only once the work has taken a while."""

    def __init__(self, after: float) -> None:
        self._started = time.monotonic()
        self._after = after
        self._last = ""

    def __call__(self, message: str, fraction: float | None = None) -> None:
        if message != self._last and time.monotonic() - self._started >= self._after:
            self._last = message
            tell(message + "\n")
