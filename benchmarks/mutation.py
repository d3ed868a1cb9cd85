"""Change the code one place at a time, and see whether the tests notice.

    python benchmarks/mutation.py [--mutants 300] [--seed 0] [--only AREA ...] [--save docs/mutants.md]
    python benchmarks/mutation.py --again RESULTS    # the survivors of an earlier run, once more
    python benchmarks/mutation.py --map              # only the map of which test runs which function

The changes are those of cosmic-ray's operators (`pip install cosmic-ray coverage`). A place in the code counts once,
however many operators change it: places are drawn with a seed, as many of each area as it has of all, and of the
changes of a place one. Each mutant stands in a throw-away copy of the tree and meets the tests of `make fast` that run
its function, nearest first, up to the first failure; a survivor then meets the whole files of those tests, with all
that `make light` runs of them. Which tests run a function is measured once, and kept in the user's cache; a changed
test file is measured again. Tests that need an engine take no part. The exit status is 1 where a mutant survived.
"""

from __future__ import annotations

import argparse
import ast
import fnmatch
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).parent.parent
sys.path[:] = [p for p in sys.path if Path(p).resolve() != Path(__file__).parent]  # our coverage.py is not the library
PACKAGE = "eagle3hub"

# the code that decides whether a head is right, by area; the only list of modules in this file
AREAS: dict[str, tuple[str, ...]] = {
    "head": ("head/__init__.py", "head/target.py", "inspection.py"),
    "vocabulary map": ("head/vocab.py",),
    "aux taps": ("layouts/aux_layers.py",),
    "layouts": ("layouts/*.py",),
    "conversion": ("conversion/run.py", "conversion/plan.py", "conversion/edits/*.py"),
    "verification": ("conversion/verify.py", "comparison.py"),
    "metrics": ("metrics/*.py",),
    "verdicts": ("validation/derive.py", "validation/gates.py", "validation/measurement.py"),
    "publishing gates": ("publishing/gates.py", "publishing/derived.py"),
}

# test files that take no part: they need engines, or try processes and packages rather than this code
LEFT_OUT = (
    "tests/engines/test_*",
    "tests/exporters/*",
    "tests/test_fuzz.py",
    "tests/jobs/*",
    "tests/network/*",
    "tests/readers/*",
    "tests/workflows/*",
    "tests/validation/test_on_llamacpp.py",
    "tests/validation/test_on_new_heads.py",
    "tests/validation/test_on_sglang.py",
    "tests/validation/test_on_vllm.py",
    "tests/engines/preflight/test_on_vllm.py",
    "tests/test_installation.py",
    "tests/test_kills.py",
    "tests/test_packaging.py",
    "tests/conversion/test_signals.py",
)

# operators that change nothing a test could see, or nothing at all, and why
NO_OPERATOR = {
    "VariableInserter": "it needs the names of variables",
    "VariableReplacer": "it needs the names of variables",
    "ReplaceComparisonOperator_Eq_Is": "equality and identity of small values are one",
    "ReplaceComparisonOperator_Is_Eq": "equality and identity of singletons are one",
    "ReplaceComparisonOperator_NotEq_IsNot": "equality and identity of small values are one",
    "ReplaceComparisonOperator_IsNot_NotEq": "equality and identity of singletons are one",
}

# mutants that behave as the original does for every input: (line, changed line) -> why
EQUIVALENT: dict[tuple[str, str], str] = {
    (
        "unequal = (x != y) & ~(np.isnan(x) & np.isnan(y))",
        "unequal = (x != y) * ~(np.isnan(x) & np.isnan(y))",
    ): "of truth values, * is &",
    (
        "a, b = (1,) * (3 - len(a)) + a, (1,) * (3 - len(b)) + b",
        "a, b = (1,) * (3 ^ len(a)) + a, (1,) * (3 - len(b)) + b",
    ): "3 - n and 3 ^ n are one for n from 0 to 3",
    (
        "step = _BLOCK * max(BITS[ref.dtype], 8) // 8",
        "step = _BLOCK * max(BITS[ref.dtype], 9) // 8",
    ): "only the size of the parts in which a tensor is compared",
    (
        "_AS_OFFSETS if members is None or members == list(range(vd)) else _FROM_T2D,",
        "_AS_OFFSETS if members is None or members <= list(range(vd)) else _FROM_T2D,",
    ): "the members ascend, so that nothing but the list itself is before it",
    (
        "contract = self.contract_for(False)",
        "contract = self.contract_for(True)",
    ): "a universal folder's contract is one for both kinds of drafting",
    (
        "for was, now in zip(before.verdicts, after.verdicts, strict=True):",
        "for was, now in zip(before.verdicts, after.verdicts, strict=False):",
    ): "both hold one verdict for each engine",
    (
        "for position in range(len(a[0].accepted_per_position)):",
        "for position in range(len(a[ -1].accepted_per_position)):",
    ): "all prompts have as many positions",
    (
        "if code & 0x7C == 0x7C:",
        "if code & 0x7C >= 0x7C:",
    ): "what is masked with 0x7C is not above it",
    (
        "different = [i for i, (x, y) in enumerate(zip(run.counts, reference.counts, strict=True)) if x != y]",
        "different = [i for i, (x, y) in enumerate(zip(run.counts, reference.counts, strict=False)) if x != y]",
    ): "the two were found to be of the same prompts before",
}

PYTEST = ("-q", "-p", "no:cacheprovider", "--tb=line", "-m", "not engine and not exporters")
SPREAD = ("--numprocesses", "logical", "--maxprocesses", "4", "--dist", "worksteal")
PRELOADED = ("torch", "numpy", "safetensors.torch", "huggingface_hub", "jsonschema", "jinja2", "typer")
CAP = 60
"""Seconds of tests that a mutant meets at most, by the map: some functions are run by nearly every test."""
WHOLE = 40
"""Seconds, by the map, of whole files that a survivor meets at most."""
NEAREST = 2
"""Test files that are run before all others."""


@dataclass(frozen=True)
class Place:
    """A place in a module, and the changes of it: an operator's name and which of its occurrences in the module."""

    area: str
    module: str
    line: int
    column: int
    function: str
    changes: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Outcome:
    """What became of one mutant. ``verdict`` is ``killed``, ``timed out``, ``survived`` or ``equivalent``."""

    area: str
    module: str
    line: int
    operator: str
    occurrence: int
    before: str
    after: str
    verdict: str
    tests: int
    by: str
    seconds: float


# --- the pytest plugin: `-p benchmarks.mutation` in a run that makes a map

MAPPING = "MUTATION_MAP"
"""The variable that names the folder in which a process of such a run leaves what it saw."""
_RECORD: dict[str, dict[str, Any]] = {}
_TRACING: list[Any] = []


def pytest_configure(config: Any) -> None:
    """Begin to note which lines run: in each process that runs tests."""
    if MAPPING in os.environ and (hasattr(config, "workerinput") or not config.getoption("numprocesses")):
        import coverage

        folder = Path(os.environ[MAPPING])
        names = [str(Path.cwd() / module) for _, module in modules(AREAS)]
        _TRACING.append(coverage.Coverage(data_file=str(folder / f"{os.getpid()}.lines"), include=names))
        _TRACING[0].start()


def pytest_runtest_protocol(item: Any) -> None:
    """Tell coverage which test runs."""
    if _TRACING:
        _TRACING[0].switch_context(item.nodeid)


def pytest_runtest_logreport(report: Any) -> None:
    """Note how long a test takes and whether it passes as the code is."""
    record = _RECORD.setdefault(report.nodeid, {"seconds": 0.0, "failed": False})
    record["seconds"] += report.duration
    record["failed"] |= report.failed


def pytest_sessionfinish() -> None:
    """Leave what was seen where the mapping run looks for it."""
    if _TRACING:
        _TRACING[0].stop()
        _TRACING[0].save()
        record = Path(os.environ[MAPPING], f"{os.getpid()}.tests")
        record.write_text(json.dumps(_RECORD), encoding="utf-8")


# --- places


def modules(areas: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Every module of the areas with its area, each once: a name of its own comes before a pattern."""
    taken: set[str] = set()
    patterns = [(area, pattern) for area in AREAS for pattern in AREAS[area]]
    for area, pattern in sorted(patterns, key=lambda p: "*" in p[1]):
        found = sorted((ROOT / PACKAGE).glob(pattern))
        if not found:
            raise SystemExit(f"{area}: no module {PACKAGE}/{pattern}")
        for path in found:
            name = path.relative_to(ROOT).as_posix()
            if name not in taken:
                taken.add(name)
                if area in areas:
                    yield area, name


@cache
def functions(source: str) -> dict[int, str]:
    """The function that each line lies in, by its dotted name; lines outside every function are missing."""
    found: dict[int, str] = {}

    def visit(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                name = f"{prefix}{child.name}"
                # decorators and defaults run when the module is read
                for line in range(child.body[0].lineno, (child.end_lineno or child.lineno) + 1):
                    found[line] = name
                visit(child, f"{name}.")
            else:
                visit(child, f"{prefix}{child.name}." if isinstance(child, ast.ClassDef) else prefix)

    visit(ast.parse(source), "")
    return found


def not_counted(source: str) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Where a change could show nowhere.

    Annotations and what stands under TYPE_CHECKING are never evaluated; ``frozen`` and ``slots`` of a dataclass only
    forbid what the code does not do.
    """
    spans = []
    for node in ast.walk(ast.parse(source)):
        parts: list[ast.AST | None] = []
        if isinstance(node, ast.arg | ast.AnnAssign):
            parts.append(node.annotation)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            parts.append(node.returns)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            parts.append(node)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "dataclass":
            parts += [k for k in node.keywords if k.arg in ("frozen", "slots")]
        for part in parts:
            if part is not None:
                spans.append(((part.lineno, part.col_offset), (part.end_lineno, part.end_col_offset)))
    return spans


def places(area: str, module: str) -> list[Place]:
    """Every place of a module that an operator can change."""
    from cosmic_ray.ast import Visitor, get_ast
    from cosmic_ray.operators.provider import OperatorProvider

    source = (ROOT / module).read_text(encoding="utf-8")
    provider = OperatorProvider()
    operators = {name: provider[name]() for name in provider if name not in NO_OPERATOR}
    count: dict[str, int] = defaultdict(int)
    found: dict[tuple[int, int], list[tuple[str, int]]] = defaultdict(list)

    class Finder(Visitor):
        def visit(self, node: Any) -> Any:
            for name, operator in operators.items():
                for (line, column), _ in operator.mutation_positions(node):
                    found[line, column].append((name, count[name]))
                    count[name] += 1
            return node

    Finder().walk(get_ast(source))
    dead = not_counted(source)
    inside = functions(source)
    return [
        Place(area, module, *at, inside.get(at[0], ""), tuple(changes))
        for at, changes in sorted(found.items())
        if not any(low <= at < high for low, high in dead)
    ]


def drawn(areas: Sequence[str], number: int, seed: int) -> tuple[list[tuple[Place, tuple[str, int]]], dict[str, int]]:
    """A sample of places with one change each, spread over areas by their number of places, and those numbers."""
    by_area: dict[str, list[Place]] = {area: [] for area in areas}
    for area, module in modules(areas):
        by_area[area] += places(area, module)
    total = sum(map(len, by_area.values()))
    exact = {area: number * len(found) / total for area, found in by_area.items()}
    shares = {area: int(share) for area, share in exact.items()}
    for area in sorted(areas, key=lambda a: exact[a] - shares[a], reverse=True)[: number - sum(shares.values())]:
        shares[area] += 1
    sample = []
    for area, found in by_area.items():
        of_area = random.Random(f"{seed} {area}")
        chosen = of_area.sample(found, min(shares[area], len(found)))
        sample += [(place, of_area.choice(place.changes)) for place in chosen]
    random.Random(seed).shuffle(sample)  # a run that is cut short has a sample, too
    return sample, {area: len(found) for area, found in by_area.items()}


def again(survivors: Sequence[Outcome]) -> Iterator[tuple[Place, tuple[str, int]]]:
    """The same changes in the code as it is now, wherever it has moved in its module."""
    for module in dict.fromkeys(o.module for o in survivors):
        own = [o for o in survivors if o.module == module]
        source = (ROOT / module).read_text(encoding="utf-8")
        lines = [" ".join(line.split()) for line in source.splitlines()]
        for place in places(own[0].area, module):
            for change in place.changes:
                wanted = [(o.before, o.after) for o in own if o.operator == change[0]]
                if any(lines[place.line - 1] in before for before, _ in wanted):
                    made = mutated(source, *change)
                    if made is not None and made[1:] in wanted:
                        yield place, change


def mutated(source: str, operator: str, occurrence: int) -> tuple[str, str, str] | None:
    """The changed source with the line before and after, or None where nothing changed or nothing can be read."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.operators.provider import OperatorProvider

    changed = mutate_code(source, OperatorProvider()[operator](), occurrence)
    if changed is None or changed == source:
        return None
    try:
        ast.parse(changed)
    except SyntaxError:
        return None
    old, new = source.splitlines(), changed.splitlines()
    first = next(i for i, line in enumerate(old) if i >= len(new) or new[i] != line)
    last = 1
    while last < min(len(old), len(new)) - first and old[-last] == new[-last]:
        last += 1
    before, after = (
        " ".join(" ".join(part).split()) for part in (old[first : 1 - last or None], new[first : 1 - last or None])
    )
    return changed, before, after


# --- the copy of the tree, and which test runs what


def copy_tree(to: Path) -> None:
    """Copy what git knows or would know of the working tree."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    ).stdout
    for name in filter(None, listed.decode().split("\0")):
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name, follow_symlinks=False)


def environment(tree: Path) -> dict[str, str]:
    """The environment of a test run in ``tree``: its package comes before an installed one."""
    return {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}


def run_tests(tree: Path, args: Sequence[str], limit: float) -> tuple[int | None, str]:
    """pytest's exit status (None: stopped at the limit) and what it wrote.

    It runs in a fork of this process, which has read what is slow to import and nothing of the package.
    """
    with tempfile.TemporaryFile() as said:
        pid = os.fork()
        if not pid:
            _child(tree, [*PYTEST, "-x", *args], said.fileno())
        end = time.monotonic() + limit
        status: int | None = None
        while status is None and time.monotonic() < end:
            time.sleep(0.05)
            done, raw = os.waitpid(pid, os.WNOHANG)
            status = os.waitstatus_to_exitcode(raw) if done else None
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)  # and whatever the tests left running
        if status is None:
            os.waitpid(pid, 0)
        said.seek(0)
        return status, said.read().decode(errors="replace")


def _child(tree: Path, args: list[str], out: int) -> NoReturn:
    status: int = 70
    try:
        os.setpgid(0, 0)
        os.dup2(out, 1)
        os.dup2(out, 2)
        os.chdir(tree)
        os.environ.update(environment(tree))
        sys.dont_write_bytecode = True
        sys.path.insert(0, str(tree))
        sys.argv = ["pytest", *args]
        import pytest

        status = int(pytest.main(args))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def prepare(tree: Path, files: Sequence[str]) -> None:
    """Import what is slow, and have Python and pytest keep what they make of every file of ``tree``."""
    for name in PRELOADED:
        with suppress(ImportError):
            import_module(name)
    env = {**environment(tree)}
    del env["PYTHONDONTWRITEBYTECODE"]
    command = [sys.executable, "-m", "pytest", *PYTEST, "--collect-only", *files]
    subprocess.run(command, cwd=tree, env=env, check=True, stdout=subprocess.DEVNULL)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def test_files() -> list[str]:
    names = (path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "tests").rglob("test_*.py")))
    return [name for name in names if not any(fnmatch.fnmatch(name, pattern) for pattern in LEFT_OUT)]


def cache_folder() -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / PACKAGE / "mutation-map"
    base.mkdir(parents=True, exist_ok=True)
    return base


def mapped(tree: Path, files: Sequence[str]) -> dict[str, dict[str, Any]]:
    """For each test file: its tests with their seconds, and how many lines of each function of the modules each runs.

    One run of pytest, in several processes, of which each leaves its part.
    """
    import coverage

    names = [module for _, module in modules(AREAS)]
    found: dict[str, dict[str, Any]] = {f: {"digest": digest(ROOT / f), "tests": [], "runs": {}} for f in files}
    with tempfile.TemporaryDirectory(prefix="mutation-map-") as work:
        command = [sys.executable, "-m", "pytest", *PYTEST, *SPREAD, "--fast", "-p", "benchmarks.mutation"]
        run = subprocess.run(
            [*command, *given(tree, files)],
            cwd=tree,
            env={**environment(tree), MAPPING: work},
            capture_output=True,
            text=True,
        )
        print(run.stdout.splitlines()[-1] if run.stdout else run.stderr, flush=True)
        if run.returncode not in (0, 1):
            raise SystemExit(f"the tests cannot be run:\n{run.stdout[-2000:]}{run.stderr[-2000:]}")
        place: dict[str, tuple[str, int]] = {}
        for part in sorted(Path(work).glob("*.tests")):
            for nodeid, r in json.loads(part.read_text(encoding="utf-8")).items():
                tests = found[nodeid.split("::")[0]]["tests"]
                place[nodeid] = (nodeid.split("::")[0], len(tests))
                tests.append([nodeid, round(r["seconds"], 3), r["failed"]])
        runs: dict[tuple[str, str, str], dict[int, int]] = defaultdict(lambda: defaultdict(int))
        for part in sorted(Path(work).glob("*.lines")):
            data = coverage.CoverageData(str(part))
            data.read()
            for name in names:
                inside = functions((ROOT / name).read_text(encoding="utf-8"))
                for line, contexts in data.contexts_by_lineno(str(tree / name)).items():
                    for context in contexts if line in inside else ():
                        if context in place:
                            test_file, i = place[context]
                            runs[test_file, name, inside[line]][i] += 1
    for (test_file, name, function), which in runs.items():
        found[test_file]["runs"].setdefault(name, {})[function] = sorted(which.items())
    return found


def test_map(tree: Path, wanted: Sequence[str], *, measure: bool = True) -> dict[str, dict[str, Any]]:
    """The map of test files, from the cache where a file has not changed since; else measured, or left out."""
    found: dict[str, dict[str, Any]] = {}
    kept = {f: cache_folder() / (f.replace("/", "+") + ".json") for f in wanted}
    for test_file, path in kept.items():
        if path.is_file():
            known = json.loads(path.read_text(encoding="utf-8"))
            if known["digest"] == digest(ROOT / test_file):
                found[test_file] = known
    missing = [f for f in wanted if f not in found]
    if missing and measure:
        found |= mapped(tree, missing)
        for test_file in missing:
            kept[test_file].write_text(json.dumps(found[test_file]), encoding="utf-8")
    return found


# --- mutants against tests


def meeting(place: Place, known: Mapping[str, Mapping[str, Any]]) -> tuple[list[str], list[str], float]:
    """The tests that a mutant meets first, those that it meets then, and their seconds.

    They run its function, or where it stands in none, its module. First come the tests of the files that run most of
    the module in a second; of the others, those that run most lines of the function, up to `CAP` seconds in all.
    """
    ranked = []
    for entry in known.values():
        by_function = entry["runs"].get(place.module)
        if not by_function:
            continue
        lines: dict[int, int] = defaultdict(int)
        for function, which in by_function.items():
            for i, n in which:
                lines[i] += n if function == place.function or not place.function else 0
        share = len(by_function) / (0.5 + sum(entry["tests"][i][1] for i in lines))
        tests = [(n, *entry["tests"][i][:2]) for i, n in lines.items() if n and not entry["tests"][i][2]]
        if tests:
            ranked.append((share, tests))
    ranked.sort(key=lambda r: -r[0])
    first = [test for _, tests in ranked[:NEAREST] for test in tests]
    then = [test for _, tests in ranked[NEAREST:] for test in tests]
    then.sort(key=lambda t: (-t[0], t[2]))
    met: tuple[list[str], list[str]] = ([], [])
    spent = 0.0
    for part, tests in zip(met, (first, then), strict=True):
        for _, nodeid, seconds in tests:
            if spent < CAP:
                part.append(nodeid)
                spent += seconds
    return (*met, spent)


def rounds(
    first: Sequence[str], then: Sequence[str], spent: float, known: Mapping[str, Any]
) -> Iterator[tuple[list[str], float]]:
    """What is given to pytest at a time, with its seconds by the map.

    Last come whole files, nearest first: a function may run in a fixture that one test makes and another looks at, or
    in a test that the map left out because it is slow.
    """
    for part in (first, then):
        if part:
            yield ["--fast", *part], spent
    whole, seconds = [], 0.0
    for file in dict.fromkeys(nodeid.split("::")[0] for nodeid in (*first, *then)):
        seconds += sum(s for _, s, _ in known[file]["tests"])
        if seconds <= WHOLE:
            whole.append(file)
    if whole:
        yield whole, 4 * WHOLE


def given(tree: Path, ids: Sequence[str]) -> list[str]:
    """The arguments by which pytest takes so many tests."""
    listed = tree / "mutation-tests.txt"
    listed.write_text("\n".join(ids), encoding="utf-8")
    return [f"@{listed}"]


def held(tree: Path, place: Place, change: tuple[str, int], known: Mapping[str, Mapping[str, Any]]) -> Outcome | None:
    """Make one mutant and run its tests; None where the change makes no program."""
    source = (ROOT / place.module).read_text(encoding="utf-8")
    made = mutated(source, *change)
    if made is None:
        return None
    changed, before, after = made
    begun = time.monotonic()

    def outcome(verdict: str, tests: int, by: str = "") -> Outcome:
        seconds = round(time.monotonic() - begun, 1)
        return Outcome(place.area, place.module, place.line, *change, before, after, verdict, tests, by, seconds)

    if (before, after) in EQUIVALENT:
        return outcome("equivalent", 0, EQUIVALENT[before, after])
    first, then, spent = meeting(place, known)
    if not first:
        return outcome("survived", 0, "no test runs it")
    try:
        (tree / place.module).write_text(changed, encoding="utf-8")
        met = 0
        for ids, expected in rounds(first, then, spent, known):
            met += len(ids) - ids.count("--fast")
            status, said = run_tests(tree, given(tree, ids), 60 + 4 * expected)
            if status is None:
                return outcome("timed out", met)
            if status:
                failed = [line for line in said.splitlines() if line.startswith(("FAILED", "ERROR"))]
                if status != 1:  # the mutant cannot even be imported, unless the tests themselves cannot be run
                    shutil.copy2(ROOT / place.module, tree / place.module)
                    if run_tests(tree, given(tree, ids), 60 + 4 * expected)[0]:
                        raise SystemExit(f"pytest ended with {status}:\n{said[-2000:]}")
                return outcome("killed", met, failed[0].split(" - ")[0] if failed else said.strip()[-200:])
        return outcome("survived", len(first) + len(then))
    finally:
        shutil.copy2(ROOT / place.module, tree / place.module)


def all_held(
    tree: Path, todo: Sequence[tuple[Place, tuple[str, int]]], known: Mapping[str, Mapping[str, Any]], jobs: int
) -> Iterator[Outcome]:
    """Try mutants, ``jobs`` at a time, each process in a copy of the tree of its own; outcomes as they come."""
    prepare(tree, list(known))
    copies = [tree.with_name(f"{tree.name}-{i}") for i in range(jobs)]
    try:
        for copy in copies:
            shutil.copytree(tree, copy)
        forks = multiprocessing.get_context("fork")
        free = forks.SimpleQueue()
        for copy in copies:
            free.put(copy)
        with ProcessPoolExecutor(jobs, forks, _work_in, (free, known)) as pool:
            tried = [pool.submit(_held_here, *mutant) for mutant in todo]
            yield from filter(None, (one.result() for one in as_completed(tried)))
    finally:
        for copy in copies:
            shutil.rmtree(copy, ignore_errors=True)


_HERE: list[Any] = []
"""In a process that tries mutants: its copy of the tree, and the map."""


def _work_in(free: Any, known: Mapping[str, Mapping[str, Any]]) -> None:
    _HERE[:] = [free.get(), known]


def _held_here(place: Place, change: tuple[str, int]) -> Outcome | None:
    return held(_HERE[0], place, change, _HERE[1])


# --- the report


def report(outcomes: Sequence[Outcome], counts: Mapping[str, int], seed: int, number: int) -> str:
    """The page: a table by area, and every survivor."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    lines = [
        "# Mutants",
        "",
        f"Written by `python benchmarks/mutation.py --mutants {number} --seed {seed}` at {commit.stdout.strip()}.",
        "A mutant is the code with one change: another comparison, a number one larger or smaller, a condition turned",
        "around, a loop that never runs. It is killed when a test fails; a survivor is a change that no test noticed.",
        "Mutants are drawn from the modules that decide whether a head is right, one of the changes at a place.",
        "",
        "| area | places | mutants | killed | timed out | survived | equivalent | score |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]

    def row(name: str, places: int, found: Sequence[Outcome]) -> str:
        n = {v: sum(o.verdict == v for o in found) for v in ("killed", "timed out", "survived", "equivalent")}
        judged = len(found) - n["equivalent"]
        score = f"{100 * (n['killed'] + n['timed out']) / judged:.0f} %" if judged else ""
        numbers = f"{n['killed']} | {n['timed out']} | {n['survived']} | {n['equivalent']}"
        return f"| {name} | {places} | {len(found)} | {numbers} | {score} |"

    lines += [row(area, count, [o for o in outcomes if o.area == area]) for area, count in counts.items()]
    lines += [row("all", sum(counts.values()), outcomes), ""]
    survivors = [o for o in outcomes if o.verdict == "survived"]
    if survivors:
        lines += ["Survivors:", ""]
        lines += [
            f"- `{o.module}:{o.line}` `{o.before}` → `{o.after}`{f' ({o.by})' if o.by else ''}" for o in survivors
        ]
        lines += [""]
    equivalent = sorted({(o.before, o.after, o.by) for o in outcomes if o.verdict == "equivalent"})
    if equivalent:
        lines += ["Not counted, because nothing can tell them from the code as it is:", ""]
        lines += [f"- `{before}` → `{after}`: {why}" for before, after, why in equivalent]
        lines += [""]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutants", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="mutants tried at a time")
    parser.add_argument("--only", nargs="*", choices=list(AREAS), default=list(AREAS))
    parser.add_argument("--save", type=Path, help="write the page here as well")
    parser.add_argument("--results", type=Path, help="keep every outcome here, and go on from those kept")
    parser.add_argument(
        "--again", type=Path, help="the results of an earlier run, whose survivors are tried once more"
    )
    parser.add_argument(
        "--map", nargs="*", metavar="TESTS", help="only make the map, of these files or folders or all"
    )
    parser.add_argument("--mapped", action="store_true", help="leave out test files that are not in the map")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mutation-") as work:
        tree = Path(work)
        copy_tree(tree)
        wanted = [f for prefix in options.map or [""] for f in test_files() if f.startswith(prefix)]
        known = test_map(tree, wanted, measure=not options.mapped)
        if options.map is not None:
            return 0
        sample, counts = drawn(options.only, options.mutants, options.seed)
        if options.again:
            old = [Outcome(**json.loads(line)) for line in options.again.read_text(encoding="utf-8").splitlines()]
            sample = list(again([o for o in old if o.verdict == "survived"]))
        outcomes: list[Outcome] = []
        if options.results and options.results.is_file():
            lines = options.results.read_text(encoding="utf-8").splitlines()
            outcomes = [Outcome(**json.loads(line)) for line in lines]
        done = {(o.module, o.operator, o.occurrence) for o in outcomes}
        todo = [(place, change) for place, change in sample if (place.module, *change) not in done]
        for found in all_held(tree, todo, known, options.jobs):
            outcomes.append(found)
            shown = f"{found.module}:{found.line} {found.before}  ->  {found.after}"
            print(f"{found.verdict:10} {found.seconds:6.1f} s {found.tests:5} tests  {shown}  {found.by}", flush=True)
            if options.results:
                with options.results.open("a", encoding="utf-8") as f:
                    f.write(json.dumps(asdict(found)) + "\n")
    page = report(outcomes, counts, options.seed, options.mutants)
    print(page)
    if options.save:
        options.save.write_text(page, encoding="utf-8")
    return int(any(o.verdict == "survived" for o in outcomes))


if __name__ == "__main__":
    sys.exit(main())
