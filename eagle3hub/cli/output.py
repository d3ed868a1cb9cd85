"""Print what commands print: one document, text for people, and progress, without control characters."""

from __future__ import annotations

import errno
import io
import json
import os
import stat
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TextIO, cast

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from eagle3hub.errors import Hint, OutputError
from eagle3hub.system import resources
from eagle3hub.system.progress import Progress, silent, telling
from eagle3hub.system.text import escaped_json, visible

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer
    from rich.console import Console

    from eagle3hub.validation.matrix import Matrix
    from eagle3hub.validation.report import Report

# The one console of every command: apart from its own styles, it shows every character and obeys none.
#
# Names, paths and messages come from files, hubs and engines that anybody may have written. `visible` replaces the
# characters in them that would move the cursor, hide text or turn it around: once before layout, so that widths are
# right, and once more when text is written, which covers everything that can be printed.


class CleanConsole(Console):
    """A console whose text is `visible`; markup and styles work as usual."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Return the text of a string, with its markup read."""
        return super().render_str(visible(text, keep_lines=True), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield the pieces of anything that can be printed; pieces that move the cursor on purpose are not text."""
        for segment in super().render(renderable, options):
            if segment.control or segment.text == "\n":
                yield segment
            else:
                yield Segment(visible(segment.text, keep_lines=True), segment.style)


# Standard output and standard error that keep working after their reader has gone.
#
# A reader that leaves early (``| head``, ``| true``, a closed terminal) does not change what a command finds or does:
# the command continues silently, with the exit status it would have had. If somebody waits for output and it cannot be
# written (a full disk), that is an error. Characters that a stream's encoding lacks are replaced, and so are those
# that cannot be seen (`visible`).


_STRICT = ("strict", "surrogateescape")
"""Error handlers that stop at a character that the encoding lacks."""


class Unwritable(OutputError):
    """Standard output cannot be written."""

    default_code = "output-stream"


def outlive_readers() -> None:
    """Replace ``sys.stdout`` and ``sys.stderr`` by streams that keep working after their readers have gone.

    If writing to standard output fails for any other reason, it raises Unwritable, once; writing to standard error
    never does, since there is no place left to say so. After that, both discard what is written.
    """
    sys.stdout, sys.stderr = _outliving(sys.stdout, needed=True), _outliving(sys.stderr, needed=False)


def _outliving(stream: TextIO | None, *, needed: bool) -> TextIO:
    if stream is None:  # closed from the start
        return _Clean(io.FileIO(_nowhere(), "w", closefd=False), encoding="utf-8", errors="replace")
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    try:
        raw = _Outliving(stream.fileno(), needed=needed)
    except io.UnsupportedOperation:  # a stream in memory, which has no readers
        return stream
    return _Clean(
        _Unheld(raw) if stream.write_through else io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors="replace" if stream.errors in _STRICT else stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


class _Clean(io.TextIOWrapper):
    """Text in which invisible characters are replaced: the last safeguard, below every console and every library."""

    as_it_is = False

    def write(self, text: str, /) -> int:
        super().write(text if self.as_it_is else visible(text, keep_lines=True))
        return len(text)

    def write_styled(self, text: str) -> int:
        """Write text that a console has made, styles included."""
        return super().write(text)


@contextmanager
def as_it_is() -> Iterator[None]:
    """Within the block, write text unchanged, styles included: only for text that does not come from outside."""
    _Clean.as_it_is = True
    try:
        yield
    finally:
        _Clean.as_it_is = False


def styled(stream: TextIO) -> TextIO:
    """Return the stream for a console that makes its own text `visible`."""
    return cast("TextIO", _Styled(stream)) if isinstance(stream, _Clean) else stream


class _Styled:
    def __init__(self, stream: _Clean) -> None:
        self._stream = stream
        self.write = stream.write_styled

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Unheld(io.BufferedWriter):
    """Writes everything at once; it has a buffer because a raw file may write only a part."""

    def write(self, data: ReadableBuffer, /) -> int:
        written = super().write(data)
        self.flush()
        return written


class _Outliving(io.FileIO):
    def __init__(self, descriptor: int, *, needed: bool) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._needed = needed

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except OSError as e:
            unread = self._is_unread(e)
            nowhere = _nowhere()
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            if self._needed and not unread:
                raise Unwritable(
                    f"cannot write the output: {e.strerror}",
                    hint="make room where standard output goes, or send it elsewhere",
                ) from e
        return super().write(data)

    def _is_unread(self, e: OSError) -> bool:
        """Return whether the reader of a pipe, socket or terminal has gone; a full disk is another matter."""
        closed_terminal = e.errno == errno.EIO and stat.S_ISCHR(os.fstat(self.fileno()).st_mode)
        return closed_terminal or e.errno in (errno.EPIPE, errno.ECONNRESET)


def _nowhere() -> int:
    return os.open(os.devnull, os.O_WRONLY)


# Parts that every command shares: the common options, and where text goes.
#
# Standard output carries the result, as text or JSON; standard error carries progress, warnings and errors.


JsonFlag = Annotated[bool, typer.Option("--json", help="Print exactly one JSON document and nothing else.")]
EXIT_OF = {"pass": 0, "fail": 1, "inconclusive": 1, "unavailable": 4}
"""Exit status by verdict."""

QuietFlag = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on standard error.")]


def console(*, stderr: bool = False) -> Console:
    """Return a rich console: styled on a terminal, plain text of unlimited width in a pipe."""
    stream = sys.stderr if stderr else sys.stdout
    return CleanConsole(
        file=styled(stream),
        highlight=False,
        emoji=False,
        soft_wrap=not stream.isatty(),
        width=None if stream.isatty() else 200,
    )


def write(text: str) -> None:
    """Print text to standard output unchanged, except for characters that `visible` replaces."""
    sys.stdout.write(visible(text, keep_lines=True))
    sys.stdout.flush()


def tell(text: str) -> None:
    """Print text to standard error unchanged, except for characters that `visible` replaces."""
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
    """Write the document as JSON, in ASCII if standard output's encoding is not UTF-8.

    Invisible characters (controls, bidi marks, halves of surrogate pairs) are written as escapes.
    """
    ascii_only = (sys.stdout.encoding or "utf-8").lower() not in ("utf-8", "utf8")
    return escaped_json(json.dumps(document, indent=2, ensure_ascii=ascii_only))


@contextmanager
def progress(*, quiet: bool = False, after: float = 1.0) -> Iterator[Progress]:
    """Yield a `Progress` that appears on standard error once the work has taken ``after`` seconds.

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
    """Progress for logs: each message once, and only after the work has taken a while."""

    def __init__(self, after: float) -> None:
        self._started = time.monotonic()
        self._after = after
        self._last = ""

    def __call__(self, message: str, fraction: float | None = None) -> None:
        if message != self._last and time.monotonic() - self._started >= self._after:
            self._last = message
            tell(message + "\n")


OF_MANIFESTS = ("release", "write")
"""Names of the commands that read a head as a manifest says: release, and card's own."""


def shown_for(hint: str, command: Any) -> str:
    """Return a hint for users of ``command``; if it names options of another command, it says so."""
    if not isinstance(hint, Hint):
        return hint
    params = getattr(command, "params", ())
    fields = resources.schema("manifest")["properties"]["head"]["properties"] if command.name in OF_MANIFESTS else ()
    return hint.for_command({name for param in params for name in param.opts}, fields)


@dataclass(frozen=True, slots=True)
class Destinations:
    """Where the result of a validation goes: files for the report, a page, and a reference; and standard output."""

    report: Path | None
    html: Path | None
    reference: Path | None = None
    as_json: bool = False
    quiet: bool = False


def finish(result: Report | Matrix, to: Destinations) -> NoReturn:
    """Save and print a result, then leave with the status of its verdict."""
    from eagle3hub.validation.render import render, render_matrix, save_html
    from eagle3hub.validation.report import Report, keep_reference

    if to.report is not None:
        result.save(to.report)
    if to.html is not None:
        save_html(result, to.html)
    if isinstance(result, Report):
        if to.reference is not None:
            keep_reference(result, to.reference)
        found = result
        emit(found.document, lambda out: render(found, out, saved=to.report), as_json=to.as_json)
    else:
        matrix = result
        emit(matrix.document, lambda out: render_matrix(matrix, out, saved=to.report), as_json=to.as_json)
    raise typer.Exit(EXIT_OF[result.verdict])
