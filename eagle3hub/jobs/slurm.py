"""Run validations, benchmarks and the measurements of a release as an array of Slurm jobs, and collect the results.

Everything of a run lies in its folder, which the nodes must see under the same path:

    run.json          what runs: a command line per task, what its result must be about, and the arrays submitted
    job.sh            the job script, the same for every task
    logs/N.log        what task N printed, in all its attempts
    tasks/N/          its result.json, and done.json with the SHA-256 of that; error.json while it has failed

Slurm is asked through its own commands: sbatch, squeue, sacct, scancel. No library stands between (docs/jobs.md says
which were considered): submitit sends pickles both ways and asks only sacct, which many clusters do not run.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from eagle3hub._version import __version__
from eagle3hub.address import HubAddress, head_address
from eagle3hub.benchmarking.plan import BenchPlan, CellSettings, measurement_key, parse_list
from eagle3hub.benchmarking.results import BenchedHead, CellRecord, Results, comparisons
from eagle3hub.card.manifest import load_manifests
from eagle3hub.checkpoint.digest import folder_digest
from eagle3hub.checkpoint.folder import open_checkpoint
from eagle3hub.checkpoint.staging import replace_file
from eagle3hub.errors import (
    Eagle3HubError,
    ManifestError,
    OutputError,
    SourceError,
    UnavailableError,
    UsageError,
)
from eagle3hub.jobs.collect import error_inside
from eagle3hub.jobs.plan import Expected, check_bound
from eagle3hub.layouts import open_head
from eagle3hub.prompts import contexts_of
from eagle3hub.system.documents import (
    did_you_mean,
    document_bytes,
    hold_to_schema,
    parse_json,
    read_document,
    read_yaml,
)
from eagle3hub.system.progress import Progress, silent
from eagle3hub.system.reading import opened, read_bytes
from eagle3hub.system.resources import schema
from eagle3hub.system.text import names_a_secret, redacted
from eagle3hub.system.typed import build
from eagle3hub.validation.matrix import ALL, MATRIX_SCHEMA, Matrix, layout_names, merged
from eagle3hub.validation.report import MeasuredTarget, Report
from eagle3hub.validation.target import identify_target

RUN = "run.json"
_SCRIPT, _RESULT, _DONE, _ERROR = "job.sh", "result.json", "done.json", "error.json"
_MAX_BYTES = 256 << 20
_SECONDS_BETWEEN_LOOKS = 5.0
_SECONDS_TO_SETTLE = 30.0
"""How long a result may take to appear after its job has ended: shared file systems are slow."""
_SECONDS_OF_SILENCE = 600.0
"""How long Slurm may not answer before following ends."""
_SECONDS_FOR_SLURM = 60.0

# What the cluster wants to know: a profile, as the user wrote it.

_OPTIONS = (
    "partition", "account", "qos", "time", "gres", "gpus_per_node", "cpus_per_task", "mem", "constraint",
    "reservation", "exclude", "nodelist",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Profile:
    """How tasks run on a cluster.

    Attributes:
        options: options of sbatch, as it takes them.
        at_once: the most tasks that run at the same time, or None.
        python: interpreter on the nodes. launch: words before it, such as those that start a container.
        setup: shell lines that run first. environment: variables that are set for them.
    """

    options: tuple[str, ...] = ()
    at_once: int | None = None
    python: str = sys.executable
    launch: tuple[str, ...] = ()
    setup: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def device(self) -> str:
        """The device of the tasks by default: cuda if the profile gives them GPUs."""
        return "cuda" if any(re.match(r"--(gres=.*gpu|gpus)", option) for option in self.options) else "cpu"


def read_profile(path: Path | None) -> Profile:
    """Read a profile (YAML, ``schemas/slurm.schema.json``); without a file, everything is the cluster's default.

    Raises SourceError if it cannot be read, ManifestError (``slurm-profile``) for a field that is unknown or wrong,
    and UsageError (``slurm-secret``) for a variable that holds a secret.
    """
    if path is None:
        return Profile()
    document = read_yaml(path)
    hold_to_schema(document, schema("slurm"), "slurm-profile")
    data: dict[str, Any] = document.data
    for name in data.get("environment", {}):
        if names_a_secret(name):
            raise _secret(f"{path.name} sets {name}")
    stated = [f"--{name.replace('_', '-')}={data[name]}" for name in _OPTIONS if name in data]
    return Profile(
        options=(*stated, *data.get("sbatch", ())),
        at_once=data.get("at_once"),
        python=data.get("python", sys.executable),
        launch=tuple(data.get("launch", ())),
        setup=tuple(data.get("setup", ())),
        environment=data.get("environment", {}),
    )


def _secret(what: str) -> UsageError:
    return UsageError(
        f"{what}, and the folder of a Slurm run is no place for a secret",
        hint="leave it out: tasks run as you, and read the token that `hf auth login` keeps in your home",
        code="slurm-secret",
    )


# A run: its tasks, each a command line of eagle3hub, and the arrays that were submitted for them.


@dataclass(frozen=True, slots=True)
class Task:
    """One element of the array.

    Attributes:
        label: what it measures, for people. words: the command line after ``eagle3hub``.
        expected: what its result must be about; for a cell of a benchmark, also its settings.
    """

    label: str
    words: tuple[str, ...]
    expected: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Submission:
    """An array that was submitted: its job id, and the numbers of its tasks."""

    job: str
    tasks: tuple[int, ...]


Kind = Literal["validate", "bench", "release"]


@dataclass(frozen=True, slots=True)
class Run:
    """A run and its folder.

    Attributes:
        cwd: the folder that the command lines' relative paths start from.
        whole: what joins the results of the tasks: for a benchmark its heads, base and target.
        then: for a release, the command that goes on from the measurements.
    """

    kind: Kind
    version: str
    cwd: str
    tasks: tuple[Task, ...]
    profile: Profile
    whole: Mapping[str, Any] = field(default_factory=dict)
    then: tuple[str, ...] = ()
    submissions: tuple[Submission, ...] = ()
    folder: str = ""

    @property
    def path(self) -> Path:
        """The folder of the run."""
        return Path(self.folder)

    def task_folder(self, number: int) -> Path:
        """Return the folder of a task's result."""
        return self.path / "tasks" / str(number)

    def log(self, number: int) -> Path:
        """Return the log of a task."""
        return self.path / "logs" / f"{number}.log"

    def is_done(self, number: int) -> bool:
        """Return whether a task has given its result."""
        return (self.task_folder(number) / _DONE).is_file()

    def save(self) -> None:
        """Write ``run.json``. Raises OutputError."""
        document = asdict(self)
        del document["folder"]
        replace_file(self.path / RUN, document_bytes({"schema": "eagle3hub/slurm-run/1", **document}), parents=True)


def is_run(name: str) -> bool:
    """Return whether a name is that of a run's folder."""
    try:
        return (Path(name) / RUN).is_file()
    except (OSError, ValueError):
        return False


def open_run(folder: str | Path) -> Run:
    """Read a run. Raises SourceError, and ManifestError (``slurm-run``) for a file that this tool did not write."""
    path = Path(folder).absolute()
    document = read_document(path / RUN, "slurm-run", _MAX_BYTES)
    try:
        if not isinstance(document, dict) or document.pop("schema", None) != "eagle3hub/slurm-run/1":
            raise ValueError(f"{RUN}: it is no run of this tool")
        return replace(build(Run, document, RUN), folder=str(path))
    except ValueError as error:
        raise ManifestError(
            str(error), hint="give the folder that --on slurm printed, of this version", code="slurm-run"
        ) from error


# What there is to run: one task for each part that can be measured alone.


def validate_tasks(
    head: str,
    words: Sequence[str],
    target: str,
    target_name: str | None,
    layouts: str | None,
    progress: Progress = silent,
) -> tuple[list[Task], dict[str, Any]]:
    """Return the tasks of a validation: one, or one for each layout; and what joins their results.

    Args:
        words: the options of ``validate``, without ``--layouts``.

    Raises what `open_checkpoint`, `open_head` and `identify_target` raise, and UsageError for unknown layouts.
    """
    at = head_address(head)
    identity = identify_target(target, target_name, progress)
    checkpoint = open_checkpoint(at if isinstance(at, HubAddress) else at.path.resolve(), progress=progress)
    opened_head = open_head(checkpoint, target=identity.source)
    opened_head.raise_for_errors()
    given = checkpoint.source if isinstance(at, HubAddress) else str(checkpoint.folder)
    expected = {
        "head": checkpoint.source if isinstance(at, HubAddress) else checkpoint.folder.name,
        "digest": folder_digest(checkpoint.folder)[0],
        "target": identity.identity.to_json(),
    }
    words = ["validate", given, *words]
    whole = {"layouts": layouts}
    if layouts is None:
        return [Task(checkpoint.folder.name, tuple(words), expected)], whole
    names = layout_names(layouts)
    return [Task(name, (*words, "--layouts", name), expected) for name in names], whole


def bench_tasks(
    plan: BenchPlan, datasets: str, context: str | None, words: Callable[[str], Sequence[str]]
) -> tuple[list[Task], dict[str, object]]:
    """Return the tasks of a benchmark: one for each head, data set, K, temperature and engine.

    Args:
        datasets, context: as typed; ``plan`` has a prompt set for each data set and length, in this order.
        words: gives for an engine the options that all its tasks share.
    """
    lengths = [[]] if context is None else [["--context", str(n)] for n in contexts_of(context)]
    names = parse_list("--datasets", datasets, str, "names or files")
    typed = [["--datasets", name, *length] for name in names for length in lengths]
    words_for = dict(zip((one.name for one in plan.datasets), typed, strict=True))
    target = plan.target.identity.to_json()
    tasks = []
    for group in plan.groups():
        for cell in group.cells:
            name = cell.head.name
            plain = re.fullmatch(r"[A-Za-z0-9][\w.+-]*", name, re.ASCII)
            line = ["bench", f"{name}={cell.head.source}" if plain else cell.head.source]
            line += [*words_for[cell.prompts.name], "--draft-tokens", str(cell.draft_tokens)]
            line += ["--temperature", f"{cell.temperature:g}", "--engine", cell.engine, *words(cell.engine)]
            expected = {
                "head": name,
                "digest": cell.head.digest,
                "target": target,
                "prompts": cell.prompts.sha256,
                "engine": cell.engine,
                "settings": cell.settings.to_json(),
            }
            tasks.append(Task(f"{cell.engine}: {cell}", tuple(line), expected))
    heads = [{"name": head.name, "layout": head.layout, "digest": head.digest} for head in plan.heads]
    return tasks, {"heads": heads, "base": plan.base, "target": target}


def release_tasks(manifest: str | Path, words: Sequence[str]) -> list[Task]:
    """Return the tasks of a release: one for each layout of each head, which leaves its report in the work folder.

    Raises what `load_manifests` raises.
    """
    tasks = []
    for one in load_manifests(manifest):
        address = str(one.path.absolute()) + (f"#{one.name}" if one.name is not None else "")
        for layout in one.layouts:
            line = ("release", address, "--until", "validate", "--layout", layout, *words)
            tasks.append(Task(f"{one.name or one.release.repo}, {layout}", line, {}))
    return tasks


def start(
    kind: Kind,
    tasks: Sequence[Task],
    folder: Path | None,
    profile: Profile,
    *,
    whole: Mapping[str, Any] | None = None,
    then: Sequence[str] = (),
) -> Run:
    """Make the folder of a run and submit its tasks as one array. If that fails, no folder is left.

    Raises what `new_run` and `submit` raise.
    """
    if shutil.which("sbatch") is None:
        raise _absent("sbatch")
    run = new_run(kind, tasks, folder, profile, whole=whole, then=then)
    try:
        return submit(run, range(len(run.tasks)))
    except Eagle3HubError:
        shutil.rmtree(run.path)
        raise


def resume(run: Run, profile: Profile | None = None) -> Run:
    """Submit again every task that gave no result and is neither waiting nor running.

    Raises what `submit` raises, and UsageError (``slurm-nothing-left``) if there is no such task.
    """
    left = [one.number for one in states(run) if one.state == "failed"]
    if not left:
        raise UsageError(
            f"nothing is left to run again in {run.folder}: {summary(states(run))}",
            hint=f"eagle3hub jobs collect {shlex.quote(run.folder)}",
            code="slurm-nothing-left",
        )
    return submit(replace(run, profile=profile or run.profile), left)


def new_run(
    kind: Kind,
    tasks: Sequence[Task],
    folder: Path | None,
    profile: Profile,
    *,
    whole: Mapping[str, Any] | None = None,
    then: Sequence[str] = (),
) -> Run:
    """Make the folder of a run; nothing is submitted yet.

    Raises UsageError (``slurm-secret``) for a command line with a secret in it, OutputError (``slurm-folder``) for a
    folder that exists, and OutputError for one that cannot be made.
    """
    for task in tasks:
        for word in task.words:
            name, has_value, _ = word.partition("=")
            if redacted(word) != word or (has_value and names_a_secret(name)):
                raise _secret("an option holds what looks like a token or a password")
    default = f"eagle3hub-runs/{kind}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    path = (folder if folder is not None else Path(default)).absolute()
    if path.exists():
        raise OutputError(
            f"{path} exists already",
            hint="go on with an earlier run by `eagle3hub jobs resume DIR`, or choose another --run-folder",
            code="slurm-folder",
        )
    for part in ("logs", "tasks"):
        _make_folder(path / part)
    run = Run(kind, __version__, str(Path.cwd()), tuple(tasks), profile, whole or {}, tuple(then), (), str(path))
    run.save()
    return run


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make {path}: {error.strerror}", code="slurm-folder") from error


# Slurm's own commands.


def _absent(command: str) -> UnavailableError:
    return UnavailableError(
        f"there is no {command} on this machine, so there is no Slurm to run on",
        hint="run it on a login node of the cluster",
        code="slurm-absent",
    )


_DOWN = re.compile(
    r"unable to contact slurm|connection refused|socket timed out|connect failure|unable to establish|"
    r"could not establish a configuration|communication|zero bytes|unexpected message",
    re.IGNORECASE,
)


def _call(command: str, *words: str) -> tuple[int, str, str]:
    """Run one of Slurm's commands; returns its status, output and error text.

    Raises UnavailableError: there is no such command (``slurm-absent``), or no answer from Slurm (``slurm-down``).
    """
    environment = {**os.environ, "SLURM_TIME_FORMAT": "standard", "LC_ALL": "C.UTF-8"}
    try:
        ran = subprocess.run(
            [command, *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS_FOR_SLURM,
            env=environment,
            check=False,
        )
    except FileNotFoundError:
        raise _absent(command) from None
    except subprocess.TimeoutExpired:
        raise _down(f"{command} gave no answer within {_SECONDS_FOR_SLURM:g} seconds") from None
    said = " ".join(re.sub(r"^\S+: (error|fatal): ", "", line) for line in ran.stderr.splitlines() if line.strip())
    if ran.returncode and _DOWN.search(said):
        raise _down(said)
    return ran.returncode, ran.stdout, said


def _down(said: str) -> UnavailableError:
    return UnavailableError(
        f"Slurm does not answer: {said}", hint="try again later; jobs that were submitted go on", code="slurm-down"
    )


def submit(run: Run, numbers: Sequence[int]) -> Run:
    """Submit tasks as one array, and keep its job id in the run.

    Raises UsageError: no such partition (``slurm-partition``), or another reason of sbatch (``slurm-refused``);
    UnavailableError.
    """
    script = run.path / _SCRIPT
    replace_file(script, _job_script(run).encode())
    limit = f"%{run.profile.at_once}" if run.profile.at_once else ""
    code, out, said = _call(
        "sbatch",
        "--parsable",
        "--export=NONE",  # no variable of this shell reaches the job, so no token either
        "--requeue",
        "--open-mode=append",
        f"--job-name=eagle3hub-{run.kind}",
        f"--chdir={run.path}",
        "--output=logs/%a.log",
        f"--array={_ranges(numbers)}{limit}",
        *run.profile.options,
        str(script),
    )
    job = out.strip().partition(";")[0]
    if code or not job.isdigit():
        raise _refused(run, said or out.strip() or f"sbatch ended with status {code}", len(numbers))
    run = replace(run, submissions=(*run.submissions, Submission(job, tuple(numbers))))
    run.save()
    return run


def _refused(run: Run, said: str, count: int) -> UsageError:
    if "partition" in said.lower():
        asked = next((o.partition("=")[2] for o in run.profile.options if o.startswith("--partition=")), "its default")
        known = _call("sinfo", "--noheader", "--format=%R")[1].split()
        return UsageError(
            f"Slurm has no partition {asked} for you{did_you_mean(asked, known)}",
            hint=f"partitions: {', '.join(dict.fromkeys(known))}" if known else None,
            code="slurm-partition",
        )
    return UsageError(
        f"Slurm refused the array of {count} tasks: {said}",
        hint="options of sbatch come from the profile (--slurm-profile); `scontrol show config` states MaxArraySize",
        code="slurm-refused",
    )


def _ranges(numbers: Sequence[int]) -> str:
    """Write numbers as sbatch wants them: ``0-3,7``."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(f"{a}" if a == b else f"{a}-{b}" for a, b in parts)


def _job_script(run: Run) -> str:
    profile = run.profile
    lines = ["#!/bin/bash", "# eagle3hub wrote this. The number of the task says which command line of run.json runs."]
    lines += ["set -e"]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in profile.environment.items()]
    lines += profile.setup
    words = [*profile.launch, profile.python, "-m", "eagle3hub.jobs.slurm", str(run.path)]
    return "\n".join([*lines, f"exec {shlex.join(words)}"]) + "\n"


def cancel(run: Run) -> None:
    """Stop every task that is waiting or running. Raises UnavailableError, and UsageError (``slurm-refused``)."""
    active = [f"{s.job}_{s.number}" for s in states(run) if s.state in ("waiting", "running")]
    if not active:
        return
    code, _, said = _call("scancel", *active)
    if code:
        raise UsageError(f"Slurm did not cancel the tasks: {said}", code="slurm-refused")


# How far each task is.


State = Literal["done", "running", "waiting", "failed"]
_WAITING = {"PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"}
_RUNNING = {"RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "STOPPED", "RESIZING", "SIGNALING", "STAGE_OUT"}
_ENDED = {
    "TIMEOUT": ("ran out of time", "slurm-timeout", "give it more `time` in the profile"),
    "DEADLINE": ("ran out of time", "slurm-timeout", "give it more `time` in the profile"),
    "OUT_OF_MEMORY": ("ran out of memory", "slurm-memory", "give it more `mem` in the profile"),
    "PREEMPTED": ("was preempted, and the cluster did not put it back into the queue", "slurm-preempted", ""),
    "CANCELLED": ("was cancelled", "slurm-cancelled", ""),
    "REVOKED": ("was cancelled", "slurm-cancelled", ""),
    "NODE_FAIL": ("lost its node", "slurm-node", ""),
    "BOOT_FAIL": ("lost its node", "slurm-node", ""),
    "GONE": ("ended without a result, and Slurm no longer knows why", "slurm-gone", ""),
}


@dataclass(frozen=True, slots=True)
class TaskState:
    """How far a task is.

    Attributes:
        job: the array that has it last; empty if none has. slurm: Slurm's word for its state, or empty.
        reason: why Slurm lets it wait, or empty.
    """

    number: int
    label: str
    state: State
    job: str
    slurm: str
    reason: str

    def to_json(self) -> dict[str, Any]:
        """An item of ``tasks`` of ``jobs status --json``."""
        return asdict(self)


def states(run: Run) -> list[TaskState]:
    """Return the state of every task. Raises UnavailableError."""
    last = {number: one.job for one in run.submissions for number in one.tasks}
    open_ = {number for number in last if not run.is_done(number)}
    known = _slurm_states(sorted({last[number] for number in open_}))
    found = []
    for number, task in enumerate(run.tasks):
        job = last.get(number, "")
        slurm, reason = known.get((job, number), ("GONE", ""))
        if run.is_done(number):
            state: State = "done"
            slurm, reason = "COMPLETED", ""
        elif not job:
            state, slurm = "failed", "CANCELLED"
        else:
            state = "waiting" if slurm in _WAITING else "running" if slurm in _RUNNING else "failed"
        found.append(TaskState(number, task.label, state, job, slurm, reason))
    return found


def _slurm_states(jobs: Sequence[str]) -> dict[tuple[str, int], tuple[str, str]]:
    """Ask the controller for the state and the reason of every array element, and the accounting for those it forgot.

    The controller forgets a job some minutes after its end. Not every cluster has accounting, so its failure is none.
    """
    found: dict[tuple[str, int], tuple[str, str]] = {}
    if not jobs:
        return found
    for job in jobs:  # one by one: a list with a forgotten id may fail as a whole
        _, out, _ = _call("squeue", "--noheader", "--array", "--states=all", f"--jobs={job}", "--format=%F_%K|%T|%r")
        found |= _rows(out)
    forgotten = [job for job in jobs if not any(key[0] == job for key in found)]
    if forgotten and shutil.which("sacct"):
        code, out, _ = _call("sacct", "-n", "-P", "-X", f"--jobs={','.join(forgotten)}", "--format=JobID,State")
        found |= {} if code else _rows(out)
    return found


_ROW = re.compile(r"(?P<job>\d+)_(?P<number>\d+)\|(?P<state>[A-Z_]+)[^|]*(?:\|(?P<reason>.*))?")


def _rows(out: str) -> dict[tuple[str, int], tuple[str, str]]:
    """Read rows such as ``17_3|PENDING|Resources`` and ``17_3|CANCELLED by 1000``."""
    rows = {}
    for found in filter(None, map(_ROW.fullmatch, out.splitlines())):
        reason = found["reason"] or ""
        rows[found["job"], int(found["number"])] = (found["state"], "" if reason == "None" else reason)
    return rows


# Follow a run to its end.


class _Logs:
    """The logs of a run's tasks: every line once."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._at = dict.fromkeys(range(len(run.tasks)), 0)

    def new_lines(self, *, whole: bool) -> Iterable[tuple[int, str]]:
        """Yield the number of the task and the text of every new line; an unfinished one only if ``whole``."""
        for number in self._at:
            try:
                with opened(self._run.log(number)) as file:
                    file.seek(self._at[number])
                    raw = file.read(1 << 22) or b""
            except OSError:
                continue
            end = len(raw) if whole else raw.rfind(b"\n") + 1
            self._at[number] += end
            for line in raw[:end].decode(errors="replace").splitlines():
                yield number, line


def follow(run: Run, say: Callable[[str], object], tell: Callable[[str], object]) -> None:
    """Wait until every task is done.

    Args:
        say: called with every line of the tasks' logs. tell: called with how far the run is, when that changes.

    Raises:
        UnavailableError: Slurm does not answer any more, or tasks ended without a result.
        Eagle3HubError: the error that stopped a task, with its exit code there.
    """
    logs, shown = _Logs(run), ""
    unanswered = unsettled = 0.0
    several = len(run.tasks) > 1
    while True:
        try:
            found, unanswered = states(run), 0.0
        except UnavailableError as error:
            unanswered = unanswered or time.monotonic()
            if error.code != "slurm-down" or time.monotonic() - unanswered > _SECONDS_OF_SILENCE:
                raise
            found = []
        active = [one for one in found if one.state in ("waiting", "running")]
        late = [one for one in found if one.state == "failed" and one.slurm == "COMPLETED"]
        unsettled = (unsettled or time.monotonic()) if late else 0.0
        waits = bool(active) or not found or (late and time.monotonic() - unsettled < _SECONDS_TO_SETTLE)
        for number, line in logs.new_lines(whole=not waits):
            if waits or shown:  # a run that has ended already is not followed
                say(f"[{number}] {line}" if several else line)
        words = summary(found) if found else "Slurm does not answer; asking again"
        if words != shown:
            shown = words
            tell(words)
        if not waits:
            break
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    raise_for_failures(run, found)


def summary(found: Sequence[TaskState]) -> str:
    """Say in a few words how far a run is: ``3 done, 1 running, 4 waiting (Resources)``."""
    parts = []
    for state in ("done", "running", "waiting", "failed"):
        of_it = [one for one in found if one.state == state]
        reasons = sorted({one.reason for one in of_it if one.reason})
        if of_it:
            parts.append(f"{len(of_it)} {state}" + (f" ({', '.join(reasons)})" if reasons else ""))
    return ", ".join(parts)


def raise_for_failures(run: Run, found: Sequence[TaskState]) -> None:
    """Raise the error of the tasks that ended without a result, if there are any: one sentence about all of them."""
    failed = [(one, _failure(run, one)) for one in found if one.state == "failed"]
    if not failed:
        return
    resume = f"what is done is kept; run the rest with: eagle3hub jobs resume {shlex.quote(run.folder)}"
    first = failed[0][1]
    message = first.message
    if len(failed) > 1:
        which = _ranges([one.number for one, _ in failed])
        message = f"{len(failed)} of {len(run.tasks)} tasks ({which}) gave no result: {failed[0][1].message}"
    hint = "; ".join(filter(None, [first.hint, resume]))
    raise type(first)(message, hint=hint, code=first.code)


def _failure(run: Run, one: TaskState) -> Eagle3HubError:
    """Return why a task gave no result: its own error, or what Slurm says of its end."""
    name = f"task {one.number} ({one.label})"
    try:
        document = parse_json(read_bytes(run.task_folder(one.number) / _ERROR, 1 << 20))
        inside = document["error"] if one.slurm in ("FAILED", "COMPLETED", "GONE") else None
        if isinstance(inside, dict):
            return error_inside(inside, f"in {name}")
    except (OSError, ValueError, RecursionError, TypeError, KeyError):
        pass
    if one.slurm in _ENDED:
        what, code, hint = _ENDED[one.slurm]
        return UnavailableError(f"{name} {what}", hint=hint or None, code=code)
    last = _last_line(run.log(one.number))
    told = f"; the last line of its log: {last}" if last else ""
    return UnavailableError(f"{name} failed ({one.slurm}){told}", code="slurm-failed")


def _last_line(log: Path) -> str:
    try:
        with opened(log) as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
            lines = (file.read(4096) or b"").decode(errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


# The results of a run, held to what they were asked about.


def documents(run: Run) -> list[Mapping[str, Any]]:
    """Return what every task gave, in their order.

    Raises UnavailableError (``slurm-not-done``) if one has given nothing yet, and ManifestError for a result whose
    SHA-256 is not the one that its task wrote down (``slurm-report-damaged``).
    """
    found: list[Mapping[str, Any]] = []
    for number, task in enumerate(run.tasks):
        if not run.is_done(number):
            raise UnavailableError(
                f"task {number} ({task.label}) has given no result yet",
                hint=f"eagle3hub jobs status {shlex.quote(run.folder)}",
                code="slurm-not-done",
            )
        raw, sealed = _result(run, number)
        document = None
        if hashlib.sha256(raw).hexdigest() == sealed:
            document = parse_json(raw)
        if not isinstance(document, dict):
            raise ManifestError(
                f"the result of task {number} ({task.label}) is damaged: its SHA-256 is not the one that was written "
                "down when it was made",
                hint=f"remove {run.task_folder(number)} and run it again: eagle3hub jobs resume "
                f"{shlex.quote(run.folder)}",
                code="slurm-report-damaged",
            )
        found.append(document)
    return found


def _result(run: Run, number: int) -> tuple[bytes, str]:
    """Return the bytes of a task's result and the SHA-256 that the task wrote down; empty if it cannot be read."""
    folder = run.task_folder(number)
    try:
        done = parse_json(read_bytes(folder / _DONE, 1 << 20))
        return read_bytes(folder / _RESULT, _MAX_BYTES), str(done["sha256"])
    except (OSError, ValueError, RecursionError, TypeError, KeyError):
        return b"", ""


def digests(run: Run) -> list[str]:
    """Return the SHA-256 of every task's result, as its task wrote it down; empty where there is none yet."""
    return [_result(run, number)[1] for number in range(len(run.tasks))]


def validation_of(run: Run) -> Report | Matrix:
    """Return the report of a validation, or the matrix of its layouts, held to the head and the target it is about.

    Raises what `documents` raises, and ManifestError for a result of another head or target.
    """
    found: list[Report | Matrix] = []
    for task, document in zip(run.tasks, documents(run), strict=True):
        one = Matrix.from_json(document) if document.get("schema") == MATRIX_SCHEMA else Report.from_json(document)
        _check_target(task, one.target)
        target = str(task.expected["target"]["name"])
        check_bound(one.document, Expected("", task.expected["head"], task.expected["digest"], target))
        found.append(one)
    matrices = [one for one in found if isinstance(one, Matrix)]
    if len(matrices) == len(found):
        return merged(matrices, asked_by_name=run.whole["layouts"] != ALL)
    return found[0]


def benchmark_of(run: Run) -> Results:
    """Join the cells that the tasks measured; each must be the measurement that its task was to make.

    Raises what `documents` raises, and ManifestError for a cell of another measurement.
    """
    cells: list[CellRecord] = []
    at = ""
    for task, document in zip(run.tasks, documents(run), strict=True):
        one = Results.from_json(document, task.label)
        _check_target(task, one.target)
        expected = task.expected
        settings = CellSettings.from_json(expected["settings"])
        for cell in one.cells:
            key = measurement_key(
                expected["digest"], one.target, expected["prompts"], expected["engine"], cell.engine_version, settings
            )
            if cell.key != key or len(one.cells) != 1 or cell.settings != settings or cell.head != expected["head"]:
                raise _foreign(task, "it is of another head, data set or setting")
            cells.append(cell)
        at = max(at, one.measured_at)
    target, base = MeasuredTarget.from_json(run.whole["target"]), str(run.whole["base"])
    heads = tuple(BenchedHead(**head) for head in run.whole["heads"])
    made = Results(__version__, at, target, heads, base, len(run.tasks), tuple(cells), tuple(comparisons(cells, base)))
    return Results.from_json(made.to_json())


def _check_target(task: Task, target: MeasuredTarget) -> None:
    if target.to_json() != task.expected["target"]:
        raise _foreign(task, f"its target is {target.name} with other files than those that were there at the start")


def _foreign(task: Task, why: str) -> ManifestError:
    return ManifestError(
        f"the result of {task.label} is not what was asked for: {why}",
        hint="head, target and prompts must stay as they are while a run goes on; start another",
        code="job-report-foreign",
    )


# In the job: run one task. `python -m eagle3hub.jobs.slurm FOLDER`, with the number in SLURM_ARRAY_TASK_ID.


def run_task(folder: str, number: int) -> int:
    """Run a task of a run, unless it is done, and keep its result; returns the exit status.

    A signal is passed on to the command, which then ends without a result: the task can run again. Raises SourceError
    (``slurm-no-task``) for a number that the run does not have, and what `open_run` raises.
    """
    run = open_run(folder)
    if not 0 <= number < len(run.tasks):
        raise SourceError(f"the run has no task {number}", code="slurm-no-task")
    task, place = run.tasks[number], run.task_folder(number)
    attempt = f"job {os.environ.get('SLURM_JOB_ID', '?')} on {os.uname().nodename}"
    _say(f"task {number} ({task.label}): {attempt}")
    if run.is_done(number):
        _say("it is done already")
        return 0
    _make_folder(place)
    (place / _ERROR).unlink(missing_ok=True)
    words = [*task.words, *(["--output", str(place / "bench"), "--resume"] if run.kind == "bench" else [])]
    begun = time.monotonic()
    status, raw = _run_command([sys.executable, "-m", "eagle3hub", *words, "--json"], run.cwd, place / "output")
    try:
        document = parse_json(raw)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        _say(f"the command ended with status {status} and without a result")
        return status or 1
    if isinstance(document.get("error"), dict):
        replace_file(place / _ERROR, raw)
        _say(f"error: {document['error'].get('message')}")
        return status or 1
    replace_file(place / _RESULT, raw)
    sha256 = hashlib.sha256(raw).hexdigest()
    seconds = round(time.monotonic() - begun, 3)
    done = {"sha256": sha256, "exit_status": status, "attempt": attempt, "seconds": seconds}
    replace_file(place / _DONE, document_bytes(done))
    _say(f"done in {seconds:.0f} s, SHA-256 {sha256}")
    return 0


def _run_command(argv: Sequence[str], cwd: str, output: Path) -> tuple[int, bytes]:
    """Run a command in ``cwd``; returns its exit status and what it printed."""
    with output.open("wb") as out:
        process = subprocess.Popen(argv, cwd=cwd, stdin=subprocess.DEVNULL, stdout=out)

        def pass_on(number: int, _frame: FrameType | None) -> None:
            process.send_signal(number)

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, pass_on)
        status = process.wait()
    raw = read_bytes(output, _MAX_BYTES)
    output.unlink()
    return (128 - status if status < 0 else status), raw


def _say(text: str) -> None:
    sys.stderr.write(redacted(text) + "\n")
    sys.stderr.flush()


def main() -> int:
    """Run the task that Slurm started; the exit status is the command's."""
    try:
        return run_task(sys.argv[1], int(os.environ["SLURM_ARRAY_TASK_ID"]))
    except Eagle3HubError as error:
        _say(f"error: {error.message}")
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
