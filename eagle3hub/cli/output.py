"""Print what commands print: one document, text for people, and progress, without control characters."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import stat
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from shutil import get_terminal_size
from textwrap import wrap
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, TextIO, cast

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text
from rich.theme import Theme

from eagle3hub.errors import Hint, OutputError, UsageError
from eagle3hub.system import resources
from eagle3hub.system.progress import Moment, Progress, Watch, silent, telling
from eagle3hub.system.text import escaped_json, readable_time, visible

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


COLOURS = {"red": 196, "green": 28, "yellow": 130, "cyan": 30, "blue": 63, "dim": 243}
"""The colours of styles, by their number among a terminal's 256. Each has a contrast of 3.9 or more on black and on
white; a terminal's own yellow can hardly be read on white, nor its blue on black."""


class CleanConsole(Console):
    """A console whose text is `visible`, in colours that can be read on any background; markup works as usual."""

    def __init__(self, **options: Any) -> None:
        super().__init__(theme=Theme({name: f"color({n})" for name, n in COLOURS.items()}), **options)

    def print(self, *objects: Any, **options: Any) -> None:
        """Print objects; on a terminal the further lines of a text that is too long are indented."""
        if (
            len(objects) == 1
            and isinstance(objects[0], str)
            and not options.keys() - {"markup"}
            and not self.soft_wrap
        ):
            objects = (_Hanging(objects[0], markup=options.get("markup")),)
        super().print(*objects, **options)

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


@dataclass(frozen=True, slots=True)
class _Hanging:
    """Lines of text, each of which is wrapped between words and indented by two columns where it goes on."""

    text: str
    markup: bool | None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        for line in console.render_str(self.text, markup=self.markup).split("\n", allow_blank=True):
            lead = len(line.plain) - len(line.plain.lstrip(" "))
            for i, part in enumerate(line[lead:].wrap(console, max(20, options.max_width - lead - 2))):
                yield Text(" " * (lead + 2 * bool(i))) + part


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

    def write(self, text: str, /) -> int:
        super().write(visible(text, keep_lines=True))
        return len(text)

    def write_styled(self, text: str) -> int:
        """Write text that a console has made, styles included."""
        return super().write(text)


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


def console(*, stderr: bool = False) -> Console:
    """Return a rich console: styled on a terminal, plain text of unlimited width in a pipe."""
    stream = sys.stderr if stderr else sys.stdout
    if stderr and (said := _SAID.get()) is not None:
        return CleanConsole(file=cast("TextIO", _Said(said)), highlight=False, emoji=False, soft_wrap=True, width=200)
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


_SAID: ContextVar[Callable[[str], None] | None] = ContextVar("said", default=None)


def say_with(said: Callable[[str], None] | None) -> None:
    """Hand everything that commands say on standard error to ``said`` instead; None: print it again."""
    _SAID.set(said)


class _Said:
    """A stream that hands its text on."""

    def __init__(self, said: Callable[[str], None]) -> None:
        self.write = said

    def flush(self) -> None:
        """Do nothing: there is no buffer."""


def tell(text: str) -> None:
    """Print text to standard error unchanged, except for characters that `visible` replaces."""
    if (said := _SAID.get()) is not None:
        said(text)
        return
    sys.stderr.write(visible(text, keep_lines=True))
    sys.stderr.flush()


def tell_error(message: str, hint: str | None) -> None:
    """Print an error and its hint to standard error; on a terminal no word of the message is cut at the right edge.

    A hint stays as it is: it may hold a command, which breaks with the line when it is copied.
    """
    text = f"error: {message}"
    if _SAID.get() is None and sys.stderr.isatty():
        width = console(stderr=True).width
        lines = (wrap(line, width, break_long_words=False, break_on_hyphens=False) for line in text.splitlines())
        text = "\n".join("\n".join(parts) for parts in lines)
    tell(f"{text}\n")
    if hint:
        tell(f"hint: {hint}\n")


def emit(name: str, document: Mapping[str, object], human: Callable[[Console], None], *, as_json: bool) -> None:
    """Print the result: the document as JSON, of the schema ``name``, or what ``human`` writes to the console."""
    if as_json:
        print_json(name, document)
    else:
        human(console())
        sys.stdout.flush()


def print_json(name: str, document: Mapping[str, object]) -> None:
    """Print one JSON document that says first of which schema it is: ``schemas/NAME.schema.json``."""
    says = {"schema": resources.schema(name)["properties"]["schema"]["const"]}
    sys.stdout.write(json_text(says | dict(document)) + "\n")
    sys.stdout.flush()


def json_text(document: Mapping[str, object], *, one_line: bool = False) -> str:
    """Write the document as JSON, in ASCII if standard output's encoding is not UTF-8.

    Invisible characters (controls, bidi marks, halves of surrogate pairs) are written as escapes.
    """
    ascii_only = (sys.stdout.encoding or "utf-8").lower() not in ("utf-8", "utf8")
    return escaped_json(json.dumps(document, indent=None if one_line else 2, ensure_ascii=ascii_only))


# How far the work is, on standard error: a bar, lines of a log, or JSON for other programs.

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


# The ways to show progress on standard error.


class Lines(Watch):
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

    def of_log(self, line: str) -> None:
        """Print a line of an engine's log, where that was asked for."""
        if _VERBOSE.get():
            tell(f"  {line}\n")


class Events(Watch):
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


class _Bar(Watch):
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


# Help: paragraphs, then arguments and options in groups, wrapped to the width of the terminal.

FIRST = "What matters first"
_WHAT, _WHERE, _LONG, _AGAINST, _OUTPUT = "What is run", "On what", "How long", "Against what", "Output"
GROUPS: Mapping[str, Mapping[str, Sequence[str]]] = {
    "validate": {
        FIRST: (
            *("target", "engine", "device", "draft_tokens", "prompts", "num_prompts", "min_acceptance_length"),
            "report",
        ),
        _WHAT: (
            *("_manifest", "layouts", "topk", "num_draft_tokens", "temperature", "drafting", "seed", "dtype"),
            *("system_prompt", "chat_template_arg", "run_anyway"),
        ),
        _WHERE: (
            *("engine_python", "endpoint", "tensor_parallel", "engine_arg", "engine_env", "device_map"),
            *("batch_tokens", "target_name"),
        ),
        _LONG: ("max_new_tokens", "context", "second_turns", "timeout"),
        _AGAINST: (
            *("acceptance_reference", "reference_head", "responses", "hidden_states", "states_layers"),
            *("states_convention", "own_texts"),
        ),
        _OUTPUT: (
            *("html", "write_acceptance_reference", "save_responses", "save_hidden_states", "as_json", "quiet"),
            *("_progress", "_verbose"),
        ),
    },
    "bench": {
        FIRST: (*("target", "datasets", "engine", "device", "draft_tokens", "temperature", "num_prompts", "output"),),
        _WHAT: (
            *("topk", "num_draft_tokens", "drafting", "seed", "dtype", "system_prompt", "chat_template_arg"),
            *("run_anyway", "list_datasets"),
        ),
        _WHERE: (
            *("engine_python", "endpoint", "tensor_parallel", "engine_arg", "engine_env", "device_map"),
            *("batch_tokens", "target_name"),
        ),
        _LONG: ("max_new_tokens", "context", "second_turns", "timeout"),
        _AGAINST: ("base", "against", "min_acceptance_length"),
        "Speed under load": ("concurrency", "baseline", "runs", "warmup"),
        _OUTPUT: ("resume", "as_json", "quiet", "_progress", "_verbose"),
    },
    "convert": {
        FIRST: (*("to", "target", "engines", "speculative_tokens", "layout", "strict", "dry_run", "force"),),
        "What is written": ("target_name", "settings", "max_shard_size"),
        _OUTPUT: ("verify", "read_back", "digests", "as_json", "quiet", "_progress"),
    },
}
"""Options of the large commands by group, in this order; an option with a panel of its own is in that."""
_INDENT, _COLUMN = 2, 30


def group_of(command: str | None, option: Any) -> str:
    """Return the group of an option in the help of ``command``."""
    panel: str | None = getattr(option, "rich_help_panel", None)
    named = (group for group, names in GROUPS.get(command or "", {}).items() if option.name in names)
    return panel or next(named, "Options")


def grouped(command: Any) -> dict[str, list[Any]]:
    """Return the options of a command by group, those that matter first at the top."""
    shown = [p for p in command.params if p.param_type_name != "argument" and not p.hidden]
    groups: dict[str, list[Any]] = {group: [] for group in GROUPS.get(command.name or "", {})}
    for option in shown:
        groups.setdefault(group_of(command.name, option), []).append(option)
    for group, names in GROUPS.get(command.name or "", {}).items():
        groups[group].sort(key=lambda option: names.index(option.name))
    return {group: options for group, options in groups.items() if options}


def metavar(parameter: Any) -> str:
    """Return what stands for the value of an argument or an option; nothing for a flag."""
    if parameter.metavar:
        return str(parameter.metavar)
    if parameter.param_type_name == "argument":
        return str(parameter.name.upper())
    return "" if parameter.is_flag else "NAME"


def default_of(option: Any) -> str:
    """Return the default of an option as text; nothing for a flag that is off and where there is none."""
    stated = option.show_default
    if isinstance(stated, str):
        return "" if stated == "none" else stated
    if not stated or option.default is None or option.default is False or option.default == "":
        return ""
    value = option.opts[0] if option.is_flag else option.default
    return f"{value:g}" if isinstance(value, float) else str(value)


def examples(text: str) -> list[str]:
    """Return the example commands of a command's help."""
    paragraphs = (" ".join(paragraph.split()) for paragraph in text.split("\n\n"))
    return [one.removeprefix("Example: ") for one in paragraphs if one.startswith("Example: ")]


def help_text(command: Any, path: str) -> Text:
    """Return the help of a command, or of a group of commands, that is called as ``path``."""
    width = min(max(get_terminal_size((80, 24)).columns, 40), 110)
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    below = getattr(command, "commands", {})
    words = [metavar(p) if p.required else f"[{metavar(p)}]" for p in arguments] + ["COMMAND"] * bool(below)
    out = Text()
    out.append("Usage: ", "bold")
    out.append(f"{path} {' '.join([*words, '[OPTIONS]'])}\n")
    for paragraph in (command.help or "").split("\n\n"):
        text = " ".join(paragraph.split())
        example = text.removeprefix("Example: ")
        lines = folded_command(example, width - _INDENT) if example != text else _wrapped(text, width)
        out.append("\nExample:\n" if example != text else "\n", "bold")
        out.append("".join(f"{' ' * (_INDENT if example != text else 0)}{line}\n" for line in lines))
    _list(out, "Arguments", [(metavar(p), p.help or "") for p in arguments], width)
    _list(out, "Commands", [(name, _first_sentence(one.help or "")) for name, one in below.items()], width)
    for group, options in grouped(command).items():
        rows = []
        for option in options:
            default = default_of(option)
            named = f"{', '.join([*option.opts, *option.secondary_opts])} {metavar(option)}".rstrip()
            rows.append((named, f"{option.help or ''}{f' [default: {default}]' if default else ''}".strip()))
        _list(out, group, rows, width)
    return out


def _first_sentence(text: str) -> str:
    first = " ".join(text.split("\n\n")[0].split()).split(". ")[0]
    return first if first.endswith("?") else f"{first.rstrip('.')}."


def _list(out: Text, title: str, rows: Sequence[tuple[str, str]], width: int) -> None:
    """Append a titled list of names and what they mean, in two columns; a name that is too long has its own line."""
    if not rows:
        return
    out.append(f"\n{title}\n", "bold")
    column = min(max(len(name) for name, _ in rows) + 2 * _INDENT, _COLUMN)
    for name, means in rows:
        lines = _wrapped(means, width - column) or [""]
        out.append(" " * _INDENT)
        out.append(name, "cyan")
        if _INDENT + len(name) + 1 < column:
            out.append(f"{' ' * (column - _INDENT - len(name))}{lines.pop(0)}")
        out.append("\n")
        out.append("".join(f"{' ' * column}{line}\n" for line in lines))


def _wrapped(text: str, width: int) -> list[str]:
    return wrap(text, width, break_long_words=False, break_on_hyphens=False)


def folded_command(line: str, width: int) -> list[str]:
    """Return a command in lines of at most ``width`` characters that a shell reads as one, folded before options."""
    lines: list[str] = []
    for part in re.split(r" (?=-)", line):  # an option stays with its value
        if lines and len(lines[-1]) + 1 + len(part) <= width - 2:
            lines[-1] += f" {part}"
        else:
            lines.append(f"  {part}" if lines else part)
    return [f"{one} \\" for one in lines[:-1]] + lines[-1:]


def shown_for(hint: str, command: Any) -> str:
    """Return a hint for users of ``command``; if it names options of another command, it says so.

    A command with an argument ``manifest`` reads a head as the manifest says: the hint names fields of the manifest.
    """
    if not isinstance(hint, Hint):
        return hint
    params = getattr(command, "params", ())
    by_manifest = any(param.param_type_name == "argument" and param.name == "manifest" for param in params)
    fields = resources.schema("manifest")["properties"]["head"]["properties"] if by_manifest else ()
    return hint.for_command({name for param in params for name in param.opts}, fields)


@dataclass(frozen=True, slots=True)
class Destinations:
    """Where the result of a validation goes: files for the report, a page, and a reference; and standard output.

    ``kept`` are files and folders that the run itself wrote, by what they are.
    """

    report: Path | None
    html: Path | None
    reference: Path | None = None
    as_json: bool = False
    quiet: bool = False
    kept: Mapping[str, Path | None] = field(default_factory=dict)


def _then_named(human: Callable[[Console], None], to: Destinations) -> Callable[[Console], None]:
    """Let the names of all further files that were written follow what ``human`` prints."""

    def both(out: Console) -> None:
        human(out)
        further = {"page": to.html, "reference": to.reference, **to.kept}
        written = [(name, path) for name, path in further.items() if path is not None]
        if written and to.report is None:
            out.print()
        for name, path in written:
            out.print(f"{name:<10}{path}", markup=False)

    return both


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
        emit(
            "report",
            found.document,
            _then_named(lambda out: render(found, out, saved=to.report), to),
            as_json=to.as_json,
        )
    else:
        matrix = result
        emit(
            "matrix",
            matrix.document,
            _then_named(lambda out: render_matrix(matrix, out, saved=to.report), to),
            as_json=to.as_json,
        )
    raise typer.Exit(EXIT_OF[result.verdict])
