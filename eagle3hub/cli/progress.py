"""Show on standard error how far the work is: a bar, lines of a log, or JSON for other programs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import typer

from eagle3hub.cli.output import console, json_text, say_with, tell
from eagle3hub.errors import UsageError
from eagle3hub.system import resources
from eagle3hub.system.progress import Pace, Progress, silent, telling
from eagle3hub.system.text import readable_size

# The options. What they say holds until the next command of this process.

_FORM: ContextVar[str] = ContextVar("form", default="text")
_QUIET: ContextVar[bool] = ContextVar("quiet", default=False)
_VERBOSE: ContextVar[bool] = ContextVar("verbose", default=False)
_BEGAN: ContextVar[float] = ContextVar("began", default=time.monotonic())  # noqa: B039
FORMS = ("text", "json")


def forget() -> None:
    """Forget what an earlier command of this process was asked for."""
    _FORM.set("text")
    _QUIET.set(False)
    _VERBOSE.set(False)
    _BEGAN.set(time.monotonic())
    say_with(None)


def _quiet(wanted: bool) -> bool:
    _QUIET.set(wanted)
    _refuse_both()
    return wanted


def _form(wanted: str) -> str:
    if wanted not in FORMS:
        raise UsageError(f"--progress {wanted!r} is no form", hint=f"one of {', '.join(FORMS)}", code="usage-progress")
    _FORM.set(wanted)
    _refuse_both()
    if wanted == "json":
        say_with(Events().message)
    return wanted


def _verbose(wanted: bool) -> bool:
    _VERBOSE.set(wanted)
    return wanted


def _refuse_both() -> None:
    if _QUIET.get() and _FORM.get() == "json":
        raise UsageError(
            "--quiet says nothing of progress, and --progress json says it",
            hint="leave one out",
            code="usage-progress",
        )


QuietFlag = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on standard error.", callback=_quiet)]
ProgressOption = Annotated[
    str,
    typer.Option("--progress", metavar="text|json", help="How standard error says how far it is.", callback=_form),
]
VerboseFlag = Annotated[
    bool, typer.Option("--verbose", help="Show what engines write to their logs.", callback=_verbose)
]


# What is known of the work at one moment.


@dataclass(frozen=True, slots=True)
class Moment:
    """How far the work is.

    Attributes:
        message: what is being done. stage: its last part, without what it is part of.
        fraction: of the whole that is done, 0 to 1. seconds_left: at the pace of this stage.
        bytes, total_bytes, bytes_per_second: of a download.
    """

    message: str
    fraction: float | None = None
    seconds_left: float | None = None
    bytes: int | None = None
    total_bytes: int | None = None
    bytes_per_second: float | None = None

    @property
    def stage(self) -> str:
        """The last part of the message: ``generating`` of ``vLLM, with the head: generating``."""
        return self.message.rpartition(": ")[2]

    def facts(self) -> list[str]:
        """What there is to say beside the message, for people: percentage, bytes, rate, time left."""
        said = [] if self.fraction is None else [f"{self.fraction:.0%}"]
        if self.bytes is not None:
            of = "" if self.total_bytes is None else f" of {readable_size(self.total_bytes)}"
            said.append(f"{readable_size(self.bytes)}{of}")
        said += [f"{readable_size(round(self.bytes_per_second))}/s"] if self.bytes_per_second else []
        return said + ([f"{readable_time(self.seconds_left)} left"] if self.seconds_left is not None else [])


def readable_time(seconds: float) -> str:
    """Write a duration as people say it: ``8 s``, ``3 min``, ``1 h 20 min``."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


class _Watch:
    """Makes a `Moment` of each call; the three ways to show it build on this."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.began = clock()
        self._pace, self._flow = Pace(), Pace()
        self._bytes: tuple[int, int | None] | None = None

    def __call__(self, message: str, fraction: float | None = None) -> None:
        now, part = self.clock(), self._bytes
        self._bytes = None
        self._pace.saw(message, fraction, now)
        self._flow.saw(message, None if part is None else part[0], now)
        left = None if fraction is None else self._pace.seconds_left(1.0)
        done, whole = part or (None, None)
        self.show(Moment(message, fraction, left, done, whole, self._flow.rate))

    def of_bytes(self, done: int, whole: int | None) -> None:
        """Keep the bytes for the call that follows."""
        self._bytes = done, whole

    def of_log(self, line: str) -> None:
        """Show a line of an engine's log, where that was asked for."""
        if _VERBOSE.get():
            tell(f"  {line}\n")

    def show(self, moment: Moment) -> None:
        """Show a moment."""
        raise NotImplementedError


class Lines(_Watch):
    """Progress for logs: each message once, after the work has taken a while, and how far it is every half minute."""

    def __init__(self, after: float, clock: Callable[[], float] = time.monotonic, every: float = 30.0) -> None:
        super().__init__(clock)
        self._after = after
        self._every = every
        self._last, self._told = "", 0.0

    def show(self, moment: Moment) -> None:
        """Print a line if there is something new to say."""
        now = self.clock()
        if now - self.began < self._after:
            return
        if moment.message != self._last:
            tell(f"{moment.message}\n")
        elif now - self._told < self._every or not moment.facts():
            return
        else:
            tell(f"{moment.message}: {', '.join(moment.facts())}\n")
        self._last, self._told = moment.message, now


class Events(_Watch):
    """Progress for programs: one JSON document a line, at most five a second for one message."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, since: float | None = None) -> None:
        super().__init__(clock)
        self._since = _BEGAN.get() if since is None else since
        self._last = ""
        self._told = 0.0
        self._held: Moment | None = None

    def show(self, moment: Moment) -> None:
        """Print an event, or hold it back until there is time or another message."""
        now = self.clock()
        if moment.message == self._last and now - self._told < 0.2 and (moment.fraction or 0.0) < 1.0:
            self._held = moment
            return
        if moment.message != self._last:
            self.flush()
        self._print("progress", moment)
        self._last, self._told, self._held = moment.message, now, None

    def flush(self) -> None:
        """Print the event that was held back, if there is one."""
        if self._held is not None:
            self._print("progress", self._held)
            self._held = None

    def message(self, text: str) -> None:
        """Print a text for people as events, a line each."""
        for line in text.splitlines():
            if line.strip():
                self._print("message", Moment(line.strip()))

    def of_log(self, line: str) -> None:
        """Print a line of an engine's log, where that was asked for."""
        if _VERBOSE.get():
            self._print("log", Moment(line))

    def _print(self, event: Literal["progress", "message", "log"], moment: Moment) -> None:
        document: dict[str, Any] = {
            "schema": resources.schema("progress")["properties"]["schema"]["const"],
            "event": event,
            "seconds": round(self.clock() - self._since, 3),
            "stage": moment.stage if event == "progress" else None,
            "message": moment.message,
            "fraction": None if moment.fraction is None else round(moment.fraction, 4),
            "bytes": moment.bytes,
            "total_bytes": moment.total_bytes,
            "bytes_per_second": None if moment.bytes_per_second is None else round(moment.bytes_per_second),
            "seconds_left": None if moment.seconds_left is None else round(moment.seconds_left, 1),
        }
        sys.stderr.write(json_text(document, one_line=True) + "\n")
        sys.stderr.flush()


_BAR = 10


class _Bar(_Watch):
    """Progress on a terminal: one line that is redrawn, and below it the last line of an engine's log."""

    def __init__(self, after: float) -> None:
        super().__init__()
        from rich.live import Live
        from rich.spinner import Spinner

        self._after = after
        self._moment = Moment("")
        self._seen = self.began
        self._log = ""
        self._shown = False
        self._spinner = Spinner("dots")
        self._console = console(stderr=True)
        self._live = Live(console=self._console, transient=True, get_renderable=self._drawn)

    def show(self, moment: Moment) -> None:
        """Draw it with the next picture."""
        if moment.message != self._moment.message:
            self._log = ""
        self._moment, self._seen = moment, self.clock()
        if not self._shown and self._seen - self.began >= self._after:
            self._shown = True
            self._live.start()

    def of_log(self, line: str) -> None:
        """Keep the last line for the bar; print it where that was asked for."""
        self._log = line.strip()
        if _VERBOSE.get():
            self._console.print(f"  {line}", style="dim", markup=False, overflow="fold")

    def end(self) -> None:
        """Take the bar away."""
        if self._shown:
            self._live.stop()

    def _drawn(self) -> Any:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        now, moment = self.clock(), self._moment
        facts = moment.facts()
        if moment.seconds_left is not None and now - self._seen > 1:  # the last word is old: count on
            facts[-1] = f"{readable_time(max(0.0, moment.seconds_left - (now - self._seen)))} left"
        elif moment.seconds_left is None:
            facts.append(readable_time(now - self.began))
        said = " · ".join(facts)
        row = Table.grid(padding=(0, 1), expand=True)
        row.add_column(width=1)
        row.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        cells: list[Any] = [self._spinner, Text(moment.message)]
        fits = len(moment.message) + len(said) + _BAR + 4 <= self._console.width
        if moment.fraction is not None and fits:  # the percentage says the same
            row.add_column(width=_BAR)
            cells.append(ProgressBar(1.0, min(moment.fraction, 0.999), width=_BAR))
        row.add_column(no_wrap=True, justify="right")
        row.add_row(*cells, Text(said))
        if not self._log or _VERBOSE.get():
            return row
        return Group(row, Text(f"  {self._log}", style="dim", no_wrap=True, overflow="ellipsis"))


@contextmanager
def progress(*, quiet: bool = False, after: float = 1.0) -> Iterator[Progress]:
    """Yield a `Progress` that appears on standard error once the work has taken ``after`` seconds.

    On a terminal it is a live bar; elsewhere a line for each new message, or with --progress json for each event.
    """
    if _FORM.get() == "json":
        events = Events()
        with telling(events):
            yield events
        events.flush()
        return
    if quiet:
        yield silent
        return
    if not sys.stderr.isatty():
        lines = Lines(after)
        with telling(lines):
            yield lines
        return
    bar = _Bar(after)
    try:
        with telling(bar):
            yield bar
    finally:
        bar.end()
