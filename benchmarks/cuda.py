"""Validate on one GPU, in one command and at most 25 minutes, what was validated on CPU only.

    python benchmarks/cuda.py [--save docs/validated.md]

Finds vLLM and SGLang or installs them, runs the example head, and probes them. The head is replayed on the GPU, and
run on vLLM's runners V2 and V1 and on SGLang: in every layout in float32; in `universal` at temperature 1, in
bfloat16, and both; then in every layout in these, too. `--engine-python trtllm=PATH` adds TensorRT-LLM. --list shows
the steps.

Each step is a command with a budget of its own, and its output is kept in WORK/logs. A step that fails, or does not
end in time, is recorded, and the next one begins. Engines are installed while steps run that do not need them. Steps
that do not fit into the time are left; run it again to go on: what is done is kept in WORK, unless its command
changed. At the end the table for docs/validated.md is in WORK/validated.md; --save puts it into that page.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import hashlib
import json
import os
import platform
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from eagle3hub.checkpoint.staging import replace_file
from eagle3hub.engines import engine_pythons
from eagle3hub.engines.environments import environment_for
from eagle3hub.engines.specs import default_version, engine_module, engine_title, environment_devices
from eagle3hub.system.resources import cache_dir

ROOT = Path(__file__).resolve().parent.parent
HEAD = ROOT / "examples" / "smollm2-135m" / "head"
TARGET = "HuggingFaceTB/SmolLM2-135M-Instruct"
BEGIN, END = "<!-- written by benchmarks/cuda.py -->", "<!-- end of what benchmarks/cuda.py writes -->"
RUNNERS = {"vllm": {"V2": {"VLLM_USE_V2_MODEL_RUNNER": "1"}, "V1": {"VLLM_USE_V2_MODEL_RUNNER": "0"}}}
"""Runners of an engine, with the variables that choose one."""

_ON_CPU = 3
"""How much longer a step may take in a rehearsal."""
Status = Literal["done", "failed", "late", "skipped"]


@dataclass(frozen=True)
class Step:
    """A command.

    Attributes:
        name: a stable word. command: what is run, one after the other. seconds: its budget.
        env: variables added to the environment. needs: steps without which it says nothing.
        measures: exit statuses that are results, not failures. report: the file it writes, below WORK.
        network: whether it runs beside the steps on the device.
        shown: for the table: engine, runner, dtype, temperature.
    """

    name: str
    command: tuple[tuple[str, ...], ...]
    seconds: int
    env: Mapping[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    measures: tuple[int, ...] = (0,)
    report: str | None = None
    network: bool = False
    shown: tuple[str, str, str, str] | None = None

    @property
    def key(self) -> str:
        """Digest of what decides its result."""
        return hashlib.sha256(json.dumps([self.command, dict(self.env)]).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Ended:
    """How a step ended. ``late``: it did not end within its budget. ``skipped``: it did not begin."""

    status: Status
    seconds: float
    why: str
    key: str


@dataclass(frozen=True)
class Options:
    """What is asked for; see the command line."""

    work: Path
    device: str = "cuda"
    minutes: float = 25.0
    num_prompts: int = 8
    max_new_tokens: int = 64
    layouts: str = "all"
    pythons: Mapping[str, str] = field(default_factory=dict)
    target: Path | None = None
    compared: bool = True


# Plan


def plan(options: Options) -> list[Step]:
    """Return the steps in order of importance, so that what is cut off at the end matters least."""
    steps = [] if options.target else [_python("target", _TARGET, 120)]
    needs = () if options.target else ("target",)
    engines = ["vllm", "sglang", *(["trtllm"] if "trtllm" in options.pythons else [])]
    pythons, installs = {}, []
    for engine in engines:
        pythons[engine], install = _interpreter(engine, options)
        installs += [install] if install else []
    steps += installs
    installed = {step.name for step in installs}
    steps.append(_validate("replay", "reference", options, needs=needs, seconds=120))
    on = {e: (*needs, *([f"install-{e}"] if f"install-{e}" in installed else [])) for e in engines}
    runs = [(engine, runner) for engine in engines for runner in _runners(engine, options.device)]
    for engine, runner in runs:
        steps.append(_on(engine, runner, options, pythons, on, layouts=options.layouts, seconds=300))
    for engine in engines:
        steps.append(_probe(engine, options, pythons[engine], on[engine][len(needs) :]))
    for layouts, seconds in (("universal", 120), (options.layouts, 300)):
        for dtype, temperature in (("float32", 1), ("bfloat16", 0), ("bfloat16", 1)):
            for engine, runner in runs:
                more = {"dtype": dtype, "temperature": temperature, "layouts": layouts, "seconds": seconds}
                steps.append(_on(engine, runner, options, pythons, on, **more))
    return [replace(step, seconds=_ON_CPU * step.seconds) for step in steps] if options.device == "cpu" else steps


def _runners(engine: str, device: str) -> list[str]:
    """The runners to validate; a CPU has vLLM's V1 alone."""
    return [name for name in RUNNERS.get(engine, {"": {}}) if device == "cuda" or name != "V2"]


def _python(name: str, code: str, seconds: int) -> Step:
    return Step(name, ((sys.executable, "-c", code),), seconds)


_TARGET = "from eagle3hub.releasing.demo import ensure_target; print(ensure_target())"


def _cli(*words: object) -> tuple[str, ...]:
    return (sys.executable, "-m", "eagle3hub", *map(str, words))


def _interpreter(engine: str, options: Options) -> tuple[str, Step | None]:
    """The engine's interpreter: the one that is given, or is installed; else the one that the step installs."""
    if engine in options.pythons:
        return options.pythons[engine], None
    if options.device in environment_devices(engine):
        made = environment_for(engine, options.device)
        command: tuple[tuple[str, ...], ...] = (_cli("engines", "install", engine, "--device", options.device),)
        path, ready = made.python, made.ready
    else:
        folder = options.work / f"{engine}-{default_version(engine)}"
        path, ready = folder / "bin" / "python", False
        package = f"{engine_module(engine)}=={default_version(engine)}"
        command = (
            (sys.executable, "-m", "venv", str(folder)),
            (str(path), "-m", "pip", "install", "--quiet", "--prefer-binary", package),
            (str(path), "-c", f"import {engine_module(engine)}"),
        )
    return str(path), None if ready else Step(f"install-{engine}", command, 600, network=True)


def _probe(engine: str, options: Options, python: str, needs: tuple[str, ...]) -> Step:
    name = f"probe-{engine}"
    command = _cli("engines", "probe", engine, "--python", python, "--device", options.device)
    report = f"{name}.json"
    return Step(name, ((*command, "--output", str(options.work / report)),), 420, needs=needs, report=report)


def _on(
    engine: str,
    runner: str,
    options: Options,
    pythons: Mapping[str, str],
    on: Mapping[str, tuple[str, ...]],
    *,
    layouts: str,
    seconds: int,
    dtype: str = "float32",
    temperature: int = 0,
) -> Step:
    """Validate on an engine; where rounds must be equal, beside the reference.

    The preflight does not stop a run: what it foresees is of the runner that the device uses by itself.
    """
    each = layouts if layouts == "universal" else "layouts"
    name = "-".join(word for word in (engine, runner.lower(), dtype, f"t{temperature}", each) if word)
    with_reference = options.compared and dtype == "float32" and temperature == 0
    return _validate(
        name,
        f"reference,{engine}" if with_reference else engine,
        options,
        "--dtype",
        dtype,
        "--temperature",
        temperature,
        "--engine-python",
        f"{engine}={pythons[engine]}",
        "--run-anyway",
        layouts=layouts,
        seconds=seconds,
        needs=on[engine],
        env=RUNNERS.get(engine, {}).get(runner, {}) if options.device == "cuda" else {},
        shown=(engine, runner, dtype, str(temperature)),
    )


def _validate(
    name: str,
    engine: str,
    options: Options,
    *more: object,
    seconds: int,
    layouts: str = "universal",
    needs: tuple[str, ...] = (),
    env: Mapping[str, str] | None = None,
    shown: tuple[str, str, str, str] = ("reference", "", "float32", "0"),
) -> Step:
    report = f"{name}.json"
    target = options.target or cache_dir() / "targets" / "smollm2-135m-instruct"
    command = _cli(
        *("validate", HEAD, "--target", target, "--target-name", TARGET, "--engine", engine, "--layouts", layouts),
        *("--device", options.device, "--num-prompts", options.num_prompts),
        *("--max-new-tokens", options.max_new_tokens, *more, "--report", options.work / report),
    )
    return Step(name, (command,), seconds, env or {}, needs, (0, 1), report, shown=shown)


# Run


_LIVE: set[subprocess.Popen[bytes]] = set()


class Runner:
    """Runs steps, and keeps in ``work`` how they ended."""

    def __init__(self, steps: Sequence[Step], work: Path, minutes: float) -> None:
        self.steps, self.work, self.minutes = steps, work, minutes
        self.ended: dict[str, Ended] = {}
        self._begun = time.monotonic()
        self._lock = threading.Lock()
        (work / "logs").mkdir(parents=True, exist_ok=True)
        kept = self._read()
        for step in steps:
            old = kept.get(step.name)
            there = step.report is None or (work / step.report).is_file()
            if old and old["status"] == "done" and old["key"] == step.key and there:
                self.ended[step.name] = Ended(**old)
                self._say(f"{step.name}: kept, {old['why']}")

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self.minutes * 60 - (time.monotonic() - self._begun)

    def run(self) -> None:
        """Run what is not done: steps of the network in a thread, the others one after the other."""
        network = threading.Thread(target=self._one_by_one, args=([s for s in self.steps if s.network],), daemon=True)
        try:
            network.start()
            self._one_by_one([s for s in self.steps if not s.network])
            network.join()
        finally:
            for process in _LIVE.copy():
                _end(process)

    def _one_by_one(self, steps: Sequence[Step]) -> None:
        waiting = [step for step in steps if step.name not in self.ended]
        while waiting:
            step = next((s for s in waiting if all(need in self.ended for need in s.needs)), None)
            if step is None:
                time.sleep(0.2)
                continue
            waiting.remove(step)
            self._keep(step, self._end(step))

    def _end(self, step: Step) -> Ended:
        lacking = [need for need in step.needs if self.ended[need].status != "done"]
        if lacking:
            return Ended("skipped", 0.0, f"{lacking[0]} is not done", step.key)
        if self.left < step.seconds / 2:
            return Ended("skipped", 0.0, "no time was left: run it again", step.key)
        self._say(f"{step.name}: begins (up to {step.seconds} s)")
        begun = time.monotonic()
        try:
            status, why = self._commands(step, min(step.seconds, self.left))
        except (OSError, ValueError, LookupError, TypeError) as error:  # a full disk, or a report of another form
            status, why = "failed", f"{type(error).__name__}: {error}"
        return Ended(status, round(time.monotonic() - begun, 1), why, step.key)

    def _commands(self, step: Step, seconds: float) -> tuple[Status, str]:
        deadline = time.monotonic() + seconds
        environment = os.environ | dict(step.env)
        if step.report:
            (self.work / step.report).unlink(missing_ok=True)
        with (self.work / "logs" / f"{step.name}.log").open("wb") as log:
            for command in step.command:
                log.write(f"$ {' '.join(command)}\n".encode())
                log.flush()
                code = _leashed(command, environment, log, deadline)
                if code is None:
                    return "late", f"it did not end within {seconds:.0f} s"
                if code not in step.measures:
                    return "failed", f"status {code}: {_last_line(self.work / 'logs' / f'{step.name}.log')}"
        if step.report and not (self.work / step.report).is_file():
            return "failed", "it wrote no report"
        return "done", _finding(self.work / step.report) if step.report else "done"

    def _keep(self, step: Step, ended: Ended) -> None:
        with self._lock:
            self.ended[step.name] = ended
            document = {**self._read(), **{name: asdict(one) for name, one in self.ended.items()}}
            replace_file(self.work / "steps.json", json.dumps(document, indent=1).encode())
        self._say(f"{step.name}: {ended.status}, {ended.why} ({ended.seconds:.0f} of {step.seconds} s)")

    def _read(self) -> dict[str, Any]:
        file = self.work / "steps.json"
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}

    def _say(self, text: str) -> None:
        at = time.monotonic() - self._begun
        print(f"[{at // 60:2.0f}:{at % 60:04.1f} of {self.minutes:g}:00] {text}", flush=True)


def _leashed(command: Sequence[str], environment: Mapping[str, str], log: Any, deadline: float) -> int | None:
    """Run a command and return its exit status, or None if it had to be ended; it leaves no process behind."""
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=dict(environment), start_new_session=True
        )
    except OSError as error:
        log.write(f"{command[0]}: {error.strerror}\n".encode())
        return 127
    _LIVE.add(process)
    try:
        return process.wait(max(0.1, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        return None
    finally:
        _LIVE.discard(process)
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _last_line(file: Path) -> str:
    lines = [line.strip() for line in file.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    wanted = [line for line in lines if line.startswith("error: ")] or lines
    return wanted[-1][:200]


# Write


def _finding(report: Path) -> str:
    document = json.loads(report.read_text(encoding="utf-8"))
    return results(document) if "cells" in document else outcomes(document)


def results(document: Mapping[str, Any]) -> str:
    """Say what a matrix found: layouts by result. A reference beside an engine is what that is held against."""
    engines = [engine for engine in document["engines"] if engine != "reference"] or ["reference"]
    found: dict[str, list[str]] = {}
    for cell in document["cells"]:
        if cell["engine"] in engines or cell["engine"] is None:
            found.setdefault(_result(cell), []).append(cell["layout"])
    return "; ".join(f"{result}: {', '.join(layouts)}" for result, layouts in found.items())


def _result(cell: Mapping[str, Any]) -> str:
    tau, verdict, foreseen = cell["mean_acceptance_length"], cell["verdict"], cell["preflight"]
    good = verdict == "pass" or (verdict == "inconclusive" and tau)
    said = f"{verdict}, τ {tau:.3f}" if good else f"{verdict} ({' '.join(str(cell['reason']).split())[:160]})"
    other = ("refuses", "silently_wrong") if good else ("right",)
    return f"{said}; the preflight said {foreseen.replace('_', ' ')}" if foreseen in other else said


def outcomes(document: Mapping[str, Any]) -> str:
    """Count what the questions of a probe found."""
    found = Counter(answer["outcome"] for answer in document["answers"].values())
    return ", ".join(f"{count} {outcome.replace('_', ' ')}" for outcome, count in sorted(found.items()))


def table(steps: Sequence[Step], ended: Mapping[str, Ended], work: Path, device: str) -> str:
    """The text for docs/validated.md."""
    rows = [
        "| engine | version | dtype | temperature | result | seconds |",
        "|---|---|---|---|---|---|",
        *(_row(step, ended[step.name], work) for step in steps if step.shown and _began(ended.get(step.name))),
    ]
    rest = {step.name: ended[step.name] for step in steps if not step.shown and step.name in ended}
    others = [f"`{name}`: {one.status}, {one.why.rstrip('.')}" for name, one in rest.items() if one.why != "done"]
    day = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    left = [step.name for step in steps if step.shown and not _began(ended.get(step.name))]
    head = f"Written by `python benchmarks/cuda.py`: K = 3, smoke prompts, the example head, {day}, on {device}."
    more = ["Besides: " + "; ".join(others) + "."] if others else []
    more += ["Not begun: " + ", ".join(left) + "."] if left else []
    return "\n".join([head, "", *rows, "", *more, ""])


def _began(ended: Ended | None) -> bool:
    return ended is not None and ended.status != "skipped"


def _row(step: Step, ended: Ended, work: Path) -> str:
    assert step.shown is not None and step.report is not None
    engine, runner, dtype, temperature = step.shown
    result = ended.why if ended.status == "done" else f"{ended.status}: {ended.why}"
    version = _version(work / step.report, engine) if ended.status == "done" else ""
    name = " ".join(word for word in (engine_title(engine) if engine != "reference" else "replay", runner) if word)
    cells = (name, version, dtype, temperature, result.replace("|", "\\|"), f"{ended.seconds:.0f}")
    return f"| {' | '.join(cells)} |"


def _version(report: Path, engine: str) -> str:
    document = json.loads(report.read_text(encoding="utf-8"))
    runs = [row["report"] for row in document["layouts"] if row["report"]]
    found = {entry["version"] for run in runs for entry in run["engines"] if entry["engine"] == engine}
    return ", ".join(sorted(found))


def saved(page: str, text: str) -> str:
    """``page`` with ``text`` between the marks."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"the page has no lines {BEGIN!r} and {END!r}")
    return f"{before}{BEGIN}\n\n{text}\n{END}{after}"


def machine(device: str) -> str:
    """Name the device."""
    if device == "cpu":
        return f"a CPU ({platform.machine()}, {os.cpu_count()} cores): a rehearsal"
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        found = subprocess.run(query, stdout=subprocess.PIPE, text=True, check=True, timeout=30).stdout
    except (OSError, subprocess.SubprocessError):
        raise SystemExit("nvidia-smi finds no GPU here: rehearse with --device cpu") from None
    name, memory, driver = (part.strip() for part in found.splitlines()[0].split(","))
    return f"one {name} ({memory}, driver {driver})"


def _compared(device: str) -> bool:
    """Whether this interpreter's torch can run the reference on ``device``."""
    if device == "cpu":
        return True
    import torch

    return torch.cuda.is_available()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu rehearses it")
    parser.add_argument("--minutes", type=float, default=25.0, help="the whole run ends by then")
    parser.add_argument("--work", type=Path, default=cache_dir() / "cuda-validation", help="results, logs, engines")
    parser.add_argument("--engine-python", action="append", default=[], metavar="NAME=PATH")
    parser.add_argument("--num-prompts", type=int, default=8)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--layouts", default="all", help="in float32 at temperature 0")
    parser.add_argument("--target", type=Path, help="folder of the target, if it is there")
    parser.add_argument("--list", action="store_true", help="show the steps, and run nothing")
    parser.add_argument("--save", type=Path, metavar="FILE", help="put the table into this page")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    options = Options(
        work=given.work.absolute(),
        device=given.device,
        minutes=given.minutes,
        num_prompts=given.num_prompts,
        max_new_tokens=given.max_new_tokens,
        layouts=given.layouts,
        pythons=engine_pythons(given.engine_python),
        target=given.target and given.target.absolute(),
        compared=_compared(given.device),
    )
    steps = plan(options)
    if given.list:
        for step in steps:
            print(f"{step.name:24} {step.seconds:4} s  {'; '.join(' '.join(command) for command in step.command)}")
        return
    device = machine(given.device)
    runner = Runner(steps, options.work, options.minutes)
    runner.run()
    text = table(steps, runner.ended, options.work, device)
    replace_file(options.work / "validated.md", text.encode())
    if given.save:
        replace_file(given.save, saved(given.save.read_text(encoding="utf-8"), text).encode())
    print(f"\n{text}\nin {options.work / 'validated.md'}; logs in {options.work / 'logs'}")


if __name__ == "__main__":
    main()
