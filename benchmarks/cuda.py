"""Validate on one GPU, in one command and at most 25 minutes, what was validated on CPU only.

    python benchmarks/cuda.py [--save docs/validated.md]

Finds vLLM, SGLang and the load generator or installs them, runs the example head, and probes them. The head is
replayed on the GPU, and run on vLLM's runners V2 and V1 and on SGLang: in every layout in float32; in `universal` at
temperature 1, in bfloat16, and both; then in every layout in these, too. Beside that vLLM and SGLang serve the head
and its baselines under load, and vLLM counts on a busy server (benchmarks/busy.py), writes hidden states that are then
replayed, is measured over lengths of prompts and several K, in bfloat16 against the reference, and with the target
quantized. On three GPUs and more the target is also split over three, for the states; other steps then run side by
side, one on each GPU.
`--engine-python trtllm=PATH` adds TensorRT-LLM. --list shows the steps. --device cpu rehearses them all on a CPU, with
small sizes, vLLM's V1 alone and a stand-in for SGLang's kernels; it takes an hour or two, and leaves out what engines
cannot do there: sampling above temperature 0, and vLLM's making FP8 of the target.

Each step is a command with a budget of its own, and its output is kept in WORK/logs. A step that fails, or does not
end in time, is recorded, and the next one begins. Installing is a step of its own, and goes on while steps run that
do not need it. Steps that do not fit into the time are left; run it again to go on: what is done is kept in WORK,
unless its command changed. At the end the table for docs/validated.md is in WORK/validated.md; --save puts it into
that page.
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

from eagle3hub.benchmarking.serving.load import AIPERF
from eagle3hub.benchmarking.serving.results import ServingResults, load_any_results
from eagle3hub.benchmarking.table import tables
from eagle3hub.checkpoint.staging import replace_file
from eagle3hub.engines import engine_pythons
from eagle3hub.engines.environments import environment_for, environment_of
from eagle3hub.engines.specs import default_version, engine_module, engine_title, environment_devices, version_data
from eagle3hub.system.resources import cache_dir

ROOT = Path(__file__).resolve().parent.parent
HEAD = ROOT / "examples" / "smollm2-135m" / "head"
TARGET = "HuggingFaceTB/SmolLM2-135M-Instruct"
BEGIN, END = "<!-- written by benchmarks/cuda.py -->", "<!-- end of what benchmarks/cuda.py writes -->"
RUNNERS = {"vllm": {"V2": {"VLLM_USE_V2_MODEL_RUNNER": "1"}, "V1": {"VLLM_USE_V2_MODEL_RUNNER": "0"}}}
"""Runners of an engine, with the variables that choose one."""

_SGLANG_ON_CPU = ROOT / "tests" / "engines" / "sglang_cpu" / "environment.py"
"""Makes an interpreter in which SGLang runs on a CPU, with a stand-in for its kernels, for a rehearsal."""
_SPLIT = 3
"""Devices over which the example's target is split alone: what its 9 heads and 3 KV heads divide by. The head's 1,024
intermediate sizes do not, and vLLM splits the draft too, whatever draft_tensor_parallel_size says."""
_ON_CPU = 6
"""How much longer a step may take in a rehearsal."""
Status = Literal["done", "failed", "late", "skipped"]


@dataclass(frozen=True)
class Step:
    """A command.

    Attributes:
        name: a stable word. command: what is run, one after the other. seconds: its budget.
        env: variables added to the environment. needs: steps without which it says nothing.
        measures: exit statuses that are results, not failures. report: the file it writes, below WORK.
        network: whether it runs beside the steps on the device. devices: how many it needs.
        shown: for the table: engine, runner, dtype, temperature. what: for the table, what was run.
    """

    name: str
    command: tuple[tuple[str, ...], ...]
    seconds: int
    env: Mapping[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    measures: tuple[int, ...] = (0,)
    report: str | None = None
    network: bool = False
    devices: int = 1
    shown: tuple[str, str, str, str] | None = None
    what: str = "rounds"

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
    gpus: int = 1

    @property
    def served_head(self) -> Path:
        """The example head in a layout that every engine takes as it is."""
        return self.work / "universal"

    @property
    def target_folder(self) -> Path:
        """Where the target is, or will be."""
        return self.target or cache_dir() / "targets" / "smollm2-135m-instruct"


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
    load = [] if environment_of(AIPERF).ready else [_python("install-load-generator", _LOAD, 600, network=True)]
    installs += load
    steps += installs
    written = _cli("convert", HEAD, options.served_head, "--target", options.target_folder, "--target-name", TARGET)
    steps.append(Step("universal", ((*written, "--force"),), 60, needs=needs))
    installed = {step.name for step in installs}
    steps.append(_validate("replay", "reference", options, needs=needs, seconds=120))
    on = {e: (*needs, *([f"install-{e}"] if f"install-{e}" in installed else [])) for e in engines}
    serves = tuple(step.name for step in load)
    runs = [(engine, runner) for engine in engines for runner in _runners(engine, options.device)]
    for engine, runner in runs:
        steps.append(_on(engine, runner, options, pythons, on, layouts=options.layouts, seconds=300))
    for engine in ("vllm", "sglang"):
        steps.append(_serving(engine, options, pythons[engine], (*on[engine], *serves)))
    steps += _on_vllm(options, pythons["vllm"], on["vllm"])
    for engine in engines:
        steps.append(_probe(engine, options, pythons[engine], on[engine][len(needs) :]))
    for layouts, seconds in {"universal": 120, options.layouts: 300}.items():
        for dtype, temperature in (("float32", 1), ("bfloat16", 0), ("bfloat16", 1)):
            for engine, runner in runs:
                if temperature and options.device in version_data(engine).greedy_only:
                    continue
                more: dict[str, Any] = {"dtype": dtype, "temperature": temperature}
                more |= {"layouts": layouts, "seconds": seconds}
                steps.append(_on(engine, runner, options, pythons, on, **more))
    return [replace(step, seconds=_ON_CPU * step.seconds) for step in steps] if options.device == "cpu" else steps


def _runners(engine: str, device: str) -> list[str]:
    """The runners to validate; a CPU has vLLM's V1 alone."""
    return [name for name in RUNNERS.get(engine, {"": {}}) if device == "cuda" or name != "V2"]


def _python(name: str, code: str, seconds: int, *, network: bool = False) -> Step:
    return Step(name, ((sys.executable, "-c", code),), seconds, network=network)


_TARGET = "from eagle3hub.releasing.demo import ensure_target; print(ensure_target())"
_LOAD = "from eagle3hub.benchmarking.serving.load import load_generator; print(load_generator().path)"


def _cli(*words: object) -> tuple[str, ...]:
    return (sys.executable, "-m", "eagle3hub", *map(str, words))


def _interpreter(engine: str, options: Options) -> tuple[str, Step | None]:
    """The engine's interpreter: the one that is given, or is installed; else the one that the step installs."""
    if engine in options.pythons:
        return options.pythons[engine], None
    if engine == "sglang" and options.device == "cpu":  # it publishes no kernels for CPU
        path = options.work / "sglang-on-cpu" / "python"
        command: tuple[tuple[str, ...], ...] = ((sys.executable, str(_SGLANG_ON_CPU), str(path.parent)),)
        ready = path.is_file()
    elif options.device in environment_devices(engine):
        made = environment_for(engine, options.device)
        command = (_cli("engines", "install", engine, "--device", options.device),)
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


def _serving(engine: str, options: Options, python: str, needs: tuple[str, ...]) -> Step:
    """Speed and acceptance of the head and its baselines under load."""
    load = (
        ("--concurrency", "1,4,16", "--runs", 2) if options.device == "cuda" else ("--concurrency", "1,2", "--runs", 1)
    )
    on_stand_in = engine == "sglang" and options.device == "cpu"  # which has no kernel that finds n-grams
    more = (*load, "--baseline", "none" if on_stand_in else "none,ngram")
    return _bench(f"serving-{engine}", engine, options, python, needs, 420, *more, what="speed under load")


def _on_vllm(options: Options, python: str, needs: tuple[str, ...]) -> list[Step]:
    """What is measured on vLLM alone, in order of importance."""
    engine = ("--engine-python", f"vllm={python}")
    on_device = ("--device", options.device, *engine)
    target, states = options.target_folder, options.work / "states"
    few = ("--num-prompts", options.num_prompts, "--max-new-tokens", options.max_new_tokens)

    def replayed(name: str, devices: int) -> Step:
        folder = states if devices == 1 else options.work / f"states-{devices}"
        made = _cli("states", target, "--output", folder, *few, "--dtype", "float32", *on_device)
        split = ("--tensor-parallel", str(devices))
        read = _cli(
            *("validate", HEAD, "--target", folder / "target", "--target-name", TARGET, "--hidden-states", folder),
            *("--engine", "reference", "--layouts", "universal", *few, "--device", options.device),
            *("--report", options.work / f"{name}.json"),
        )
        what = "replay of the states that vLLM wrote" + (f", tensor parallel {devices}" if devices > 1 else "")
        shown, removed = ("vllm", "", "float32", "0"), ("rm", "-rf", str(folder))
        return Step(
            name,
            (removed, (*made, *split), read),
            240,
            needs=needs,
            measures=(0, 1),
            report=f"{name}.json",
            devices=devices,
            shown=shown,
            what=what,
        )

    script = (sys.executable, str(ROOT / "benchmarks" / "busy.py"), "--target", str(target), *on_device)
    busy = Step(
        "busy-vllm",
        ((*script, "--num-prompts", str(8 * options.num_prompts), "--output", str(options.work / "busy-vllm.json")),),
        300,
        needs=needs,
        report="busy-vllm.json",
        shown=("vllm", "", "float32", "0"),
        what="counters on a busy server",
    )
    compared = "reference,vllm" if options.compared else "vllm"
    lossless = _validate(
        "lossless-vllm-bfloat16",
        compared,
        replace(options, num_prompts=16, max_new_tokens=128) if options.device == "cuda" else options,
        *("--dtype", "bfloat16", *engine, "--run-anyway"),
        seconds=180,
        needs=needs,
        shown=("vllm", "", "bfloat16", "0"),
    )
    lengths = "1k,2k,4k,8000" if options.device == "cuda" else "512,1k"
    text = long_prompts(options.work / "long.jsonl")
    context = ("--context", lengths, "--datasets", text, "--max-new-tokens", 32)
    ks = ("--draft-tokens", "1,2,3,5" if options.device == "cuda" else "1,3", "--dtype", "bfloat16")
    whole = options.work / "by-k-vllm"
    quantized = ("--draft-tokens", "3", "--dtype", "bfloat16", "--engine-arg", "vllm.quantization=fp8")
    steps = [
        replayed("states-vllm", 1),
        busy,
        replace(lossless, what="texts against the reference, a first difference judged by the target's margin"),
        _bench("context-vllm", compared, options, python, needs, 300, *context, what="acceptance over length"),
        _bench("by-k-vllm", "vllm", options, python, needs, 300, *ks, what="the fastest K", dtype="bfloat16"),
    ]
    if options.device == "cuda":  # vLLM's CPU build has no kernel that makes FP8
        steps.append(
            _bench(
                *("quantized-vllm", "vllm", options, python, (*needs, "by-k-vllm"), 180, *quantized),
                *("--against", whole / "results.json"),
                what="the target in FP8 against bfloat16",
                dtype="bfloat16",
            )
        )
    if options.gpus < _SPLIT and options.device == "cuda":
        return steps
    return [*steps, replayed(f"states-vllm-tensor-parallel-{_SPLIT}", _SPLIT)]


def _bench(
    name: str,
    engine: str,
    options: Options,
    python: str,
    needs: tuple[str, ...],
    seconds: int,
    *more: object,
    what: str,
    dtype: str = "float32",
) -> Step:
    """A benchmark of the example head; its results are begun anew."""
    folder = options.work / name
    sets = () if "--datasets" in more else ("--datasets", "smoke", "--max-new-tokens", options.max_new_tokens)
    least = (16 if options.device == "cuda" else 2) if "--concurrency" in more else 1  # as many as are under way
    prompts = ("--num-prompts", max(options.num_prompts, least))
    command = _cli(
        *("bench", f"head={options.served_head}", "--target", options.target_folder, "--target-name", TARGET),
        *("--engine", engine, "--device", options.device),
        *("--engine-python", f"{engine.split(',')[-1]}={python}", "--run-anyway"),
        *(*sets, *prompts, *more, "--output", folder),
    )
    shown = (engine.split(",")[-1], "", dtype, "0")
    report, commands = f"{name}/results.json", (("rm", "-rf", str(folder)), command)
    needs = (*needs, "universal")
    return Step(name, commands, seconds, needs=needs, measures=(0, 1), report=report, shown=shown, what=what)


def long_prompts(file: Path) -> Path:
    """A prompt set with text enough for long prompts: sections of this project's documentation."""
    sections: list[str] = []
    for page in sorted((ROOT / "docs").glob("*.md")):
        sections += [part for part in page.read_text(encoding="utf-8").split("\n## ") if len(part) > 1500]
    rows = [
        {"question_id": n, "category": "docs", "turns": [f"Summarize this:\n\n{part}"]}
        for n, part in enumerate(sections)
    ]
    file.parent.mkdir(parents=True, exist_ok=True)
    replace_file(file, "".join(json.dumps(row) + "\n" for row in rows).encode())
    return file


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
    command = _cli(
        *(
            "validate",
            HEAD,
            "--target",
            options.target_folder,
            "--target-name",
            TARGET,
            "--engine",
            engine,
            "--layouts",
            layouts,
        ),
        *("--device", options.device, "--num-prompts", options.num_prompts),
        *("--max-new-tokens", options.max_new_tokens, *more, "--report", options.work / report),
    )
    return Step(name, (command,), seconds, env or {}, needs, (0, 1), report, shown=shown)


# Run


_LIVE: set[subprocess.Popen[bytes]] = set()


class Runner:
    """Runs steps, and keeps in ``work`` how they ended."""

    def __init__(self, steps: Sequence[Step], work: Path, minutes: float, gpus: int = 1) -> None:
        self.steps, self.work, self.minutes, self.gpus = steps, work, minutes, gpus
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
        """Run what is not done: steps of the network in a thread, the others one after the other on each GPU.

        What needs several GPUs comes last, when all are free.
        """
        left = [step for step in self.steps if step.name not in self.ended]
        single = [step for step in left if not step.network and step.devices == 1]
        network = [step for step in left if step.network]
        lanes = [(network, {}), *((single, self._lane(gpu)) for gpu in range(self.gpus))]
        threads = [threading.Thread(target=self._one_by_one, args=lane, daemon=True) for lane in lanes]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            self._one_by_one([step for step in left if step.devices > 1], {})
        finally:
            for process in _LIVE.copy():
                _end(process)

    def _lane(self, gpu: int) -> dict[str, str]:
        return {"CUDA_VISIBLE_DEVICES": str(gpu)} if self.gpus > 1 else {}

    def _one_by_one(self, waiting: list[Step], lane: Mapping[str, str]) -> None:
        """Take steps from a list, which other lanes share, until it is empty."""
        while waiting:
            with self._lock:
                step = next((s for s in waiting if all(need in self.ended for need in s.needs)), None)
                if step is not None:
                    waiting.remove(step)
            if step is None:
                time.sleep(0.2)
                continue
            self._keep(step, self._end(step, lane))

    def _end(self, step: Step, lane: Mapping[str, str]) -> Ended:
        lacking = [need for need in step.needs if self.ended[need].status != "done"]
        if lacking:
            return Ended("skipped", 0.0, f"{lacking[0]} is not done", step.key)
        if self.left < step.seconds / 2:
            return Ended("skipped", 0.0, "no time was left: run it again", step.key)
        self._say(f"{step.name}: begins (up to {step.seconds} s)")
        begun = time.monotonic()
        try:
            status, why = self._commands(step, min(step.seconds, self.left), lane)
        except (OSError, ValueError, LookupError, TypeError) as error:  # a full disk, or a report of another form
            status, why = "failed", f"{type(error).__name__}: {error}"
        return Ended(status, round(time.monotonic() - begun, 1), why, step.key)

    def _commands(self, step: Step, seconds: float, lane: Mapping[str, str]) -> tuple[Status, str]:
        deadline = time.monotonic() + seconds
        environment = os.environ | dict(step.env) | dict(lane)
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
                    there = step.report is not None and (self.work / step.report).is_file()
                    why = _finding(self.work / step.report) if there else _last_line(Path(log.name))
                    return "failed", f"status {code}: {why}"
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
    if "equal_counters" in document:
        return counted(document)
    if "servers" in document or "against" in document or "heads" in document:
        return benchmark(report)
    return results(document) if "cells" in document else outcomes(document)


def counted(document: Mapping[str, Any]) -> str:
    """Say what a busy server counted."""
    return (
        f"{document['equal_counters']} of {document['prompts']} counters and {document['equal_tokens']} token "
        f"sequences are those of a run alone ({document['at_a_time']} at a time, {document['rounds']} rounds, "
        f"{document['others']} foreign answers)"
    )


def benchmark(report: Path) -> str:
    """Say what a benchmark found, in the words of its own tables."""
    found = load_any_results(report)
    if isinstance(found, ServingResults):
        said = [
            f"{one.concurrency} at a time: {one.tokens_per_second:.0f} tokens/s a request, {one.ratio:.2f}× {one.base}"
            + ("" if one.ci95 is None else f" ({one.ci95[0]:.2f}–{one.ci95[1]:.2f})")
            + f", {one.identical} of {one.prompts * one.runs} texts equal"
            for one in found.comparisons
        ]
    else:
        said = [note for table in tables(found) for note in table.notes if found.speeds]
        said += [
            f"{cell.engine}, {cell.prompts.name}, K = {cell.settings.draft_tokens}: τ "
            f"{cell.acceptance.mean_acceptance_length:.3f}"
            for cell in found.cells
            if cell.acceptance
        ]
        said += [f"{one.engine} over length: {one.gate.verdict} ({one.gate.reason})" for one in found.contexts]
        said += [f"loss: {one.gate.verdict} ({one.gate.reason})" for one in found.losses]
    failed = [
        f"{cell.verdict} ({' '.join(cell.reason.split())[:160]})" for cell in found.cells if cell.verdict != "pass"
    ]
    return f"{found.verdict}: " + "; ".join([*said, *dict.fromkeys(failed)])


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
        "| what | engine | version | dtype | temperature | result | seconds |",
        "|---|---|---|---|---|---|---|",
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
    cells = (step.what, name, version, dtype, temperature, result.replace("|", "\\|"), f"{ended.seconds:.0f}")
    return f"| {' | '.join(cells)} |"


def _version(report: Path, engine: str) -> str:
    document = json.loads(report.read_text(encoding="utf-8"))
    if "engine_version" in document:
        return str(document["engine_version"])
    if "layouts" not in document:
        cells = [cell["engine"] for cell in document["cells"]]
        return ", ".join(sorted({cell["version"] for cell in cells if cell["name"] == engine}))
    entries = [one for row in document["layouts"] if row["report"] for one in row["report"]["engines"]]
    states = {str(found["producer_version"]) for one in entries if (found := one.get("flags", {}).get("states"))}
    return ", ".join(sorted(states or {one["version"] for one in entries if one["engine"] == engine}))


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
    count = len(found.split("\n")) - 1
    return f"{'one' if count == 1 else count} {name} ({memory}, driver {driver})"


def _gpus(device: str) -> int:
    """How many GPUs there are, but for those that the environment hides."""
    if device == "cpu":
        return 1
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible:
        return len(visible.split(","))
    try:
        done = subprocess.run(["nvidia-smi", "--list-gpus"], stdout=subprocess.PIPE, text=True, check=False)
    except OSError:
        return 1  # `machine` says that there is none; --list shows the steps all the same
    return max(1, len(done.stdout.splitlines()))


def _compared(device: str) -> bool:
    """Whether this interpreter's torch can run the reference on ``device``."""
    if device == "cpu":
        return True
    import torch

    return torch.cuda.is_available()


def _with_needs(steps: Sequence[Step], wanted: Sequence[str]) -> list[Step]:
    by_name = {step.name: step for step in steps}
    unknown = [name for name in wanted if name not in by_name]
    if unknown:
        raise SystemExit(f"there is no step {unknown[0]}: --list shows them")
    kept = set(wanted)
    for step in reversed(steps):
        if step.name in kept:
            kept |= set(step.needs)
    return [step for step in steps if step.name in kept]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu rehearses it")
    parser.add_argument("--minutes", type=float, help="the whole run ends by then (25; a rehearsal: 180)")
    parser.add_argument("--work", type=Path, default=cache_dir() / "cuda-validation", help="results, logs, engines")
    parser.add_argument("--engine-python", action="append", default=[], metavar="NAME=PATH")
    parser.add_argument("--num-prompts", type=int, help="8; in a rehearsal 2")
    parser.add_argument("--max-new-tokens", type=int, help="64; in a rehearsal 16")
    parser.add_argument("--layouts", help="in float32 at temperature 0 (all; in a rehearsal universal)")
    parser.add_argument("--target", type=Path, help="folder of the target, if it is there")
    parser.add_argument("--only", metavar="NAME,…", help="run only these steps, and those that they need")
    parser.add_argument("--list", action="store_true", help="show the steps, and run nothing")
    parser.add_argument("--save", type=Path, metavar="FILE", help="put the table into this page")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    work = given.work.absolute()
    rehearsed = Options(work, minutes=180.0, num_prompts=2, max_new_tokens=16, layouts="universal")
    sizes = rehearsed if given.device == "cpu" else Options(work)
    options = Options(
        work=work,
        device=given.device,
        minutes=given.minutes or sizes.minutes,
        num_prompts=given.num_prompts or sizes.num_prompts,
        max_new_tokens=given.max_new_tokens or sizes.max_new_tokens,
        layouts=given.layouts or sizes.layouts,
        pythons=engine_pythons(given.engine_python),
        target=given.target and given.target.absolute(),
        compared=_compared(given.device),
        gpus=1 if given.list and given.device == "cpu" else _gpus(given.device),
    )
    steps = plan(options)
    if given.only:
        steps = _with_needs(steps, given.only.split(","))
    if given.list:
        for step in steps:
            print(f"{step.name:24} {step.seconds:4} s  {'; '.join(' '.join(command) for command in step.command)}")
        return
    device = machine(given.device)
    runner = Runner(steps, options.work, options.minutes, options.gpus)
    runner.run()
    text = table(steps, runner.ended, options.work, device)
    replace_file(options.work / "validated.md", text.encode())
    if given.save:
        replace_file(given.save, saved(given.save.read_text(encoding="utf-8"), text).encode())
    print(f"\n{text}\nin {options.work / 'validated.md'}; logs in {options.work / 'logs'}")


if __name__ == "__main__":
    main()
