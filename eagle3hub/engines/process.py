"""Run a worker in an engine's own interpreter: limit its time, read its messages, and end all its processes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Any, Literal

from eagle3hub.checkpoint.scratch import scratch_folder
from eagle3hub.engines.base import EngineFailure, EngineRun, LoadReport, PromptResult, RunSpec
from eagle3hub.errors import InputError, UnavailableError
from eagle3hub.metrics import Counts
from eagle3hub.system.progress import Progress, tell_log
from eagle3hub.system.signals import held

# Run a program that ends, with everything it started, when this process ends for any reason


_KILL_SECONDS = 10.0
_PROC = Path("/proc")

LEASH = """
import os, signal, subprocess, sys, threading
def watch():
    while os.read(0, 4096):
        pass
    os.killpg(0, signal.SIGKILL)
threading.Thread(target=watch, daemon=True).start()
try:
    code = subprocess.call(sys.argv[1:], stdin=subprocess.DEVNULL)
except OSError as error:
    sys.exit(f"{sys.argv[1]}: {error.strerror}")
os._exit(code if code >= 0 else 128 - code)
"""
"""A small parent for the program: it kills the process group as soon as its own standard input closes."""


def run_leashed(
    command: Sequence[str],
    env: Mapping[str, str],
    on_line: Callable[[bytes], object],
    *,
    seconds: float | None = None,
) -> int:
    """Run ``command``, call ``on_line`` with each line of its two output streams, and return its exit status.

    The status is 128 + the signal's number if a signal ended it. Its whole process group has ended when this function
    returns or raises; if this process is killed, the group ends at once. Raises TimeoutError if the command has not
    ended after ``seconds``, whatever it writes.
    """
    process: subprocess.Popen[bytes] | None = None
    timer: threading.Timer | None = None
    late = threading.Event()
    try:
        with held():
            process = subprocess.Popen(
                [sys.executable, "-I", "-c", LEASH, *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=dict(env),
                start_new_session=True,
            )
        if seconds is not None:
            timer = threading.Timer(seconds, _end_late, (process, late))
            timer.start()
        assert process.stdout is not None
        for line in process.stdout:
            on_line(line)
        code = process.wait()
        if late.is_set():
            raise TimeoutError
        return code
    finally:
        if timer is not None:
            timer.cancel()
        if process is not None:
            with held():
                end_group(process)


def _end_late(process: subprocess.Popen[bytes], late: threading.Event) -> None:
    late.set()
    _signal_group(process, signal.SIGKILL)


def end_group(process: subprocess.Popen[bytes], *, grace: float = 0.0) -> None:
    """End the process group that ``process`` leads: send SIGTERM, wait ``grace`` seconds, send SIGKILL, then wait.

    A signal takes effect a moment after it is sent, so a member may outlive the leader; what it holds (a port, the
    memory of a GPU) is free only when it has ended too.
    """
    if grace and process.poll() is None:
        _signal_group(process, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=grace)
    _signal_group(process, signal.SIGKILL)
    process.wait()
    until = time.monotonic() + _KILL_SECONDS
    while _group_runs(process.pid) and time.monotonic() < until:
        time.sleep(0.01)
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _group_runs(group: int) -> bool:
    """Whether a process of the group still runs. One that has ended counts as gone, even if nobody collects it."""
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    if not _PROC.joinpath("self/stat").exists():
        return True
    # after the command's name: state, parent, process group
    stats = [_stat(process) for process in _PROC.iterdir() if process.name.isdigit()]
    return any(int(stat[2]) == group and stat[0] not in ("Z", "X") for stat in stats if stat)


def _stat(process: Path) -> list[str]:
    try:
        return (process / "stat").read_text(encoding="utf-8", errors="replace").rpartition(") ")[2].split()
    except OSError:
        return []


# Run a worker: send one request, read JSON lines, keep a time limit, and leave no process behind


_LINE_LIMIT = 16 * 1024 * 1024
_READ_BYTES = 1 << 20
_TAIL_LINES = 40
_TAIL_BYTES = 64 * 1024
_GRACE_SECONDS = 5.0
_LOOK_SECONDS = 0.2
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")

Event = dict[str, Any]


@dataclass(frozen=True, slots=True)
class WorkerOutcome:
    """How a worker ended.

    Attributes:
        status: ``done``, ``error`` (it reported an error), ``timeout``, ``crashed`` (it ended without a report),
            ``garbled`` (it wrote something other than the protocol), ``absent`` (it could not be started).
        detail: the event it sent, for ``error``; else a phrase that says what happened.
        log_tail: the last lines it wrote to standard error and standard output.
    """

    status: Literal["done", "error", "timeout", "crashed", "garbled", "absent"]
    detail: Event
    log_tail: tuple[str, ...]


class ProtocolError(Exception):
    """The worker wrote something other than the protocol; the message says what."""


def run_worker(
    command: Sequence[str],
    request: Mapping[str, Any],
    *,
    env: Mapping[str, str],
    timeout: float,
    on_event: Callable[[Event], None],
) -> WorkerOutcome:
    """Start ``command`` in its own session, send it ``request``, and call ``on_event`` with each event it reports.

    The worker reads one JSON line from standard input and writes JSON lines to standard output; the last line is
    ``{"event": "done"}`` or ``{"event": "error", …}``. Standard input stays open as long as this process lives, so a
    worker that watches it ends even if this process is killed. The worker's whole process group has ended when this
    function returns or raises, also after SIGINT, SIGTERM or an exception of ``on_event``.
    """
    with scratch_folder() as scratch, (scratch / "log").open("w+b") as log:
        environment = {**env, "TMPDIR": str(scratch)}
        with _terminable():
            try:
                process = subprocess.Popen(
                    list(command),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    cwd=scratch,
                    env=environment,
                    start_new_session=True,
                )
            except OSError as error:
                return WorkerOutcome(
                    "absent", {"message": f"{command[0]} cannot be run: {error.strerror or error}"}, ()
                )
            finished = False
            try:
                with _passed_on(scratch / "log"):
                    status, detail = _converse(process, request, time.monotonic() + timeout, on_event)
                finished = status in ("done", "error")
            finally:
                end_group(process, grace=0.0 if finished else _GRACE_SECONDS)
        if status == "crashed":
            detail = {"message": _exit_phrase(process.returncode)}
        elif status == "timeout":
            detail = {"message": f"it did not finish within {timeout:g} seconds"}
        return WorkerOutcome(status, detail, _tail(log))


@contextlib.contextmanager
def _passed_on(log: Path) -> Iterator[None]:
    """While the block runs, pass on every line that is written to the log, to whoever shows it."""
    follower = LogFollower(log)
    ended = threading.Event()

    def follow() -> None:
        while not ended.wait(_LOOK_SECONDS):
            follower.look()

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        follower.look()


class LogFollower:
    """Passes on (`tell_log`) what a program has written to its log since the last look, whole lines only."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._read = 0

    def look(self) -> None:
        """Pass on the new lines; of a progress bar that was redrawn in its line, only the last state."""
        try:
            with self._log.open("rb") as f:
                f.seek(self._read)
                new = f.read(_TAIL_BYTES)
        except OSError:
            return
        whole = new[: max(new.rfind(b"\n"), new.rfind(b"\r")) + 1] or (new if len(new) == _TAIL_BYTES else b"")
        self._read += len(whole)
        for line in _ANSI.sub("", whole.decode("utf-8", "replace")).split("\n"):
            last = next((part for part in reversed(line.split("\r")) if part.strip()), "")
            if last:
                tell_log(last.rstrip())


def _converse(
    process: subprocess.Popen[bytes], request: Mapping[str, Any], deadline: float, on_event: Callable[[Event], None]
) -> tuple[Literal["done", "error", "timeout", "crashed", "garbled"], Event]:
    assert process.stdin is not None and process.stdout is not None
    message = json.dumps(request).encode() + b"\n"
    writer = threading.Thread(target=_send, args=(process.stdin, message), daemon=True)
    writer.start()
    try:
        for line in read_lines(process.stdout, deadline):
            event = _parse(line)
            if event["event"] in ("done", "error"):
                return event["event"], event
            on_event(event)
    except TimeoutError:
        return "timeout", {}
    except ProtocolError as garbled:
        return "garbled", {"message": str(garbled)}
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(timeout=max(0.0, min(_GRACE_SECONDS, deadline - time.monotonic())))
    return "crashed", {}


def _send(stdin: IO[bytes], message: bytes) -> None:
    with contextlib.suppress(OSError, ValueError):
        stdin.write(message)
        stdin.flush()


def read_lines(stream: IO[bytes], deadline: float) -> Iterator[bytes]:
    """Yield the lines of a pipe until it closes.

    Raises TimeoutError after ``deadline`` (monotonic seconds), ProtocolError for a line that is too long. The pieces
    of an unfinished line are joined once, so that the cost of a long line grows only with its length.
    """
    pieces: list[bytes] = []
    length = 0
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while True:
            left = deadline - time.monotonic()
            if left <= 0 or not selector.select(left):
                raise TimeoutError
            chunk = os.read(stream.fileno(), _READ_BYTES)
            if not chunk:
                return
            first, *lines = chunk.split(b"\n")
            pieces.append(first)
            length += len(first)
            if length > _LINE_LIMIT:
                raise ProtocolError(f"it wrote a line of more than {_LINE_LIMIT >> 20} MiB, longer than any report is")
            if lines:
                yield b"".join(pieces)
                *lines, rest = lines
                yield from lines
                pieces, length = [rest], len(rest)


def _parse(line: bytes) -> Event:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        event = None
    if not isinstance(event, dict) or not isinstance(event.get("event"), str):
        shown = line[:80].decode("utf-8", "replace")
        raise ProtocolError(f"it wrote {shown!r} where a report was expected")
    return event


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into SystemExit while a worker runs, so that the worker is ended first."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    previous = {}
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            previous[number] = signal.signal(number, leave)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _exit_phrase(code: int) -> str:
    if code >= 0:
        return f"it ended with exit status {code} and no report"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    more = " (often: out of memory)" if name == "SIGKILL" else ""
    return f"it was ended by {name}{more}"


def _tail(log: IO[bytes]) -> tuple[str, ...]:
    size = log.seek(0, os.SEEK_END)
    log.seek(max(0, size - _TAIL_BYTES))
    text = _ANSI.sub("", log.read().decode("utf-8", "replace").replace("\r", "\n"))
    return tuple(line.rstrip() for line in text.split("\n") if line.strip())[-_TAIL_LINES:]


# Run an engine: start its worker, collect the reports, and turn them into a result


_WORKERS = Path(__file__).resolve().parent / "workers"
_DROPPED_ENV = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONSAFEPATH", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")
_STARTED = 0.25
_BEGINNING = {"import": ("starting", 0.0), "load": ("loading", 0.1)}
_STAGES = {
    "import": "{} could not be imported",
    "load": "{} could not load the model",
    "generate": "{} failed while generating",
}


def run_engine(
    title: str,
    worker: str,
    request: Mapping[str, Any],
    spec: RunSpec,
    python: Path,
    *,
    env: Mapping[str, str],
    timeout: float,
    progress: Progress,
) -> EngineRun | EngineFailure:
    """Run ``worker`` (a file in ``workers/``) with ``python`` for the engine called ``title``; see `Engine.run`.

    The worker gets ``request`` with the device, the prompts' messages and the chat template's arguments added. Its
    environment is this process's, without the variables that belong to this Python, and with ``env`` added.
    """
    listener = _Listener(title, spec, progress)
    asked = {**request, "device": spec.device, "prompts": [prompt.messages for prompt in spec.prompts.prompts]}
    asked["chat_template"] = dict(spec.engine_settings.chat_template)
    command, environment = _called(worker, python, env)
    outcome = run_worker(command, asked, env=environment, timeout=timeout, on_event=listener)
    return _conclude(title, outcome, listener, spec)


def _called(worker: str, python: Path, env: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """Return a worker's command and environment: ours without what belongs to this Python, with ``env`` added."""
    environment = {k: v for k, v in os.environ.items() if k not in _DROPPED_ENV} | dict(env)
    return [str(python), "-s", str(_WORKERS / worker)], environment


def ask_worker(
    title: str,
    worker: str,
    request: Mapping[str, Any],
    python: Path,
    device: str,
    *,
    env: Mapping[str, str],
    timeout: float,
    on_event: Callable[[Event], None],
    doing: str = "the probe of",
    code: str = "engine-probe",
) -> None:
    """Run a ``worker`` (a file in ``workers/``) with ``python``; ``on_event`` gets each event it reports.

    Raises UnavailableError (``code``) if the engine called ``title`` cannot be imported or does not run on ``device``,
    or if the worker does not finish; ``doing`` says in the message what it was doing.
    """
    command, environment = _called(worker, python, env)
    outcome = run_worker(command, request, env=environment, timeout=timeout, on_event=on_event)
    if outcome.status == "done":
        return
    message, stage = str(outcome.detail.get("message", "")), outcome.detail.get("stage")
    first = next((line.strip() for line in message.splitlines() if line.strip()), "no message")
    if stage == "import":
        said = f"{title} could not be imported: {first}"
    elif stage == "device":
        said = f"{title} cannot run on {device}: {first}"
    elif outcome.status == "absent":
        said = f"{title}'s interpreter {first}"
    else:
        said = f"{doing} {title} did not finish: {first}"
    raise UnavailableError(said, hint="eagle3hub engines doctor says what is missing", code=code)


def bare_environment() -> dict[str, str]:
    """Return this process's environment without the variables that steer this Python, for another interpreter."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def base_environment(spec: RunSpec) -> dict[str, str]:
    """Return the environment variables of every run: no telemetry, and no network for a local target."""
    environment = {"HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}
    if spec.device == "cpu":
        # Threads that spin while they wait block each other on a busy machine: 15 s became 4 s, with the same tokens.
        environment["OMP_WAIT_POLICY"] = os.environ.get("OMP_WAIT_POLICY", "PASSIVE")
    if spec.target_is_local:
        environment["HF_HUB_OFFLINE"] = "1"
    return environment


class _Listener:
    """Collect a worker's events into results, and report progress to the user."""

    def __init__(self, title: str, spec: RunSpec, progress: Progress) -> None:
        self._title = title
        self._progress = progress
        self._what = "with the head" if spec.head is not None else "the target alone"
        self._count = len(spec.prompts.prompts)
        self._speculative = spec.head is not None
        self.ready: Event = {}
        self.prompts: list[PromptResult] = []
        self.fault: str | None = None

    def __call__(self, event: Event) -> None:
        try:
            self._take(event)
        except (KeyError, TypeError, ValueError) as error:
            self.fault = f"its report {event.get('event')!r} is malformed ({type(error).__name__}: {error})"
        except InputError as error:
            self.fault = error.message

    def _take(self, event: Event) -> None:
        kind = event["event"]
        if kind == "stage":
            doing, done = _BEGINNING.get(event["stage"], (event["stage"], 0.0))
            self._progress(f"{self._title}, {self._what}: {doing}", done)
        elif kind == "ready":
            self.ready = event
        elif kind == "prompt":
            if event["index"] != len(self.prompts):
                raise ValueError(f"prompt {event['index']} reported out of turn")
            self.prompts.append(
                PromptResult(
                    prompt_tokens=int(event["prompt_tokens"]),
                    tokens=tuple(int(token) for token in event["tokens"]),
                    counts=_counts(event["counters"]) if self._speculative else None,
                    seconds=float(event["seconds"]),
                )
            )
            done = _STARTED + (1 - _STARTED) * len(self.prompts) / self._count
            self._progress(f"{self._title}, {self._what}: generating", done)


def _counts(counters: Mapping[str, Any] | None) -> Counts:
    if counters is None:
        raise ValueError("no counters of speculative decoding")
    return Counts.from_json(counters)


_NO_KERNEL = re.compile(r"'_OpNamespace' '\w+' object has no attribute '(\w+)'")


def missing_kernel(message: str) -> str | None:
    """Return the kernel that an engine's build has not for this device, from its error; None for another error.

    PyTorch says so where a library registered no such operator (``torch/_ops.py``). vLLM's CPU build, for example,
    has its kernels for 4-bit weights only in the library that it loads on processors with AVX-512.
    """
    found = _NO_KERNEL.search(message)
    return found[1] if found else None


def _conclude(title: str, outcome: WorkerOutcome, listener: _Listener, spec: RunSpec) -> EngineRun | EngineFailure:
    tail = _anonymous(outcome.log_tail, spec)
    message = _one_line(str(outcome.detail.get("message", "")), spec)
    if outcome.status == "error":
        stage = outcome.detail.get("stage")
        if stage == "device":
            return EngineFailure(f"{title} cannot run on {spec.device}: {message}", "unavailable", tail)
        if kernel := missing_kernel(message):
            reason = f"{title} cannot run these files here: its build has no kernel {kernel} for this device"
            return EngineFailure(reason, "unavailable", tail)
        kind = outcome.detail.get("kind", "error")
        doing = _STAGES.get(str(stage), "{} failed").format(title)
        if stage == "load":
            doing += " with the head" if spec.head is not None else " (target alone)"
        verdict: Any = "unavailable" if stage == "import" else "fail"
        return EngineFailure(f"{doing}: {kind}: {message}", verdict, tail)
    if outcome.status == "absent":
        return EngineFailure(f"{title}'s interpreter {message}", "unavailable", tail)
    if outcome.status != "done":
        where = "while it started" if not listener.ready else f"at prompt {len(listener.prompts) + 1}"
        return EngineFailure(f"{title} did not finish ({where}): {message}", "fail", tail)
    fault = listener.fault
    if fault is None and (not listener.ready or len(listener.prompts) != len(spec.prompts.prompts)):
        fault = f"it reported {len(listener.prompts)} of {len(spec.prompts.prompts)} prompts"
    if fault is not None:
        return EngineFailure(f"{title}'s results cannot be used: {fault}", "fail", tail)
    ready = listener.ready
    return EngineRun(
        prompts=tuple(listener.prompts),
        load=_load_report(ready.get("load") or {}) if spec.head is not None else None,
        version=str(ready["version"]),
        environment=ready["environment"],
        start_seconds=float(ready["seconds"]),
        generate_seconds=sum(prompt.seconds for prompt in listener.prompts),
    )


def _load_report(load: Mapping[str, Any]) -> LoadReport:
    taps = load.get("aux_boundaries")
    return LoadReport(
        checked=bool(load.get("checked")),
        not_loaded=tuple(load.get("not_loaded", ())),
        ignored=tuple(load.get("ignored", ())),
        aux_boundaries=tuple(taps) if taps else None,
    )


def _one_line(text: str, spec: RunSpec) -> str:
    first = next((line.strip() for line in text.splitlines() if line.strip()), "no message")
    return _anonymous((first if len(first) <= 300 else first[:299] + "…",), spec)[0]


def _anonymous(lines: tuple[str, ...], spec: RunSpec) -> tuple[str, ...]:
    """Remove this machine's paths from the lines, because a report may be published."""
    names = [(str(spec.head), "<head>")] if spec.head is not None else []
    names += [(spec.target, "<target>")] if spec.target_is_local else []
    names.append((str(Path.home()), "~"))
    out = []
    for line in lines:
        for path, name in names:
            line = line.replace(path, name)
        out.append(line)
    return tuple(out)
