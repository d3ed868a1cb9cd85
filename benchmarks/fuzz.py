"""Damage the files of a head for some minutes, and check how the readers handle them.

    python benchmarks/fuzz.py --minutes 10 [--seed 0] [--only NAME ...]     mutates files, aware of their structure
    python benchmarks/fuzz.py --minutes 10 --atheris                        the same, guided by coverage

An input fails if a reader raises anything but Eagle3HubError, says more than one line, or takes longer than five
seconds; the run fails if the process ever uses more than 300 MB. Failing inputs are kept in --keep and the exit status
is 1. ``--atheris`` needs the package of that name, which this project does not depend on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

MEMORY = 300_000_000
RUNAWAY = 4 << 30


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=None, help="default: a new one each time, which is printed")
    parser.add_argument("--only", nargs="*", default=None, help="names of targets, or their first letters")
    parser.add_argument("--keep", type=Path, default=Path("build/fuzz"), help="where failing inputs go")
    parser.add_argument("--atheris", action="store_true", help="let coverage guide the mutation")
    options, rest = parser.parse_known_args()
    if rest and not options.atheris:
        parser.error(f"unknown arguments: {' '.join(rest)}")
    scratch = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=scratch, prefix="eagle3hub-fuzz-") as work:
        if not options.atheris:
            return blind(Path(work), options)
        child = os.fork()  # libFuzzer ends its process without a word to Python: somebody must stay to clean up
        if child == 0:
            guided(Path(work), options)
        return int(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0)


def chosen(names: list[str], only: list[str] | None) -> list[str]:
    found = [n for n in names if only is None or any(n.startswith(o) for o in only)]
    return found or sys.exit(f"no such target; there are {', '.join(names)}")


def blind(work: Path, options: argparse.Namespace) -> int:
    """Mutate seeds, and inputs that got further than being refused, until the time is up."""
    from support.fuzzing import Damage, Workbench, attempt, peak_memory

    resource.setrlimit(resource.RLIMIT_AS, (RUNAWAY, RUNAWAY))
    bench = Workbench(work)
    seed = time.time_ns() % 10**9 if options.seed is None else options.seed
    damage = Damage(seed, bench.seeds)
    names = chosen(list(bench.targets), options.only)
    runs = dict.fromkeys(names, 0)
    failures: dict[str, int] = {}
    started, over = time.monotonic(), None
    slowest = 0.0
    while time.monotonic() - started < 60 * options.minutes:
        for name in names:
            data = damage(damage.rng.choice(bench.seeds[name]))
            if damage.rng.random() < 0.2:
                data = damage(data)
            before = time.monotonic()
            finding = attempt(name, bench.targets[name], data)
            slowest = max(slowest, time.monotonic() - before)
            runs[name] += 1
            if finding is not None:
                kind = f"{name}: {finding.what.split(':')[0]}"
                failures[kind] = failures.get(kind, 0) + 1
                if failures[kind] == 1:
                    print(f"FAILED {name}: {finding.what} -> {kept(options.keep, name, data)}", flush=True)
            if over is None and peak_memory() > MEMORY:
                over = name
                print(
                    f"FAILED {name}: more than {MEMORY / 1e6:.0f} MB -> {kept(options.keep, name, data)}", flush=True
                )
    total, seconds = sum(runs.values()), time.monotonic() - started
    report = {
        "seed": seed,
        "seconds": round(seconds, 1),
        "executions": total,
        "per_second": round(total / seconds),
        "slowest_s": round(slowest, 3),
        "peak_mb": round(peak_memory() / 1e6),
        "runs": runs,
        "failures": failures,
    }
    print(json.dumps(report, indent=2))
    return int(bool(failures) or over is not None)


def kept(folder: Path, name: str, data: bytes) -> Path:
    """Keep a failing input under its digest."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name.replace(':', '-')}-{hashlib.sha256(data).hexdigest()[:12]}"
    path.write_bytes(data)
    return path


def guided(work: Path, options: argparse.Namespace) -> None:
    """Let atheris (libFuzzer) choose; the first byte of an input selects the target. Ends at the first failure."""
    try:
        import atheris
    except ImportError:
        sys.exit("atheris is not installed; without --atheris nothing else is needed")
    with atheris.instrument_imports(include=["eagle3hub"]):
        from support.fuzzing import Damage, Workbench, attempt
    bench = Workbench(work)
    names = chosen(list(bench.targets), options.only)
    seed = time.time_ns() % 2**31 if options.seed is None else options.seed
    damage = Damage(seed, bench.seeds)
    corpus = work / "corpus"
    corpus.mkdir()
    for i, name in enumerate(names):
        for j, data in enumerate(bench.seeds[name]):
            (corpus / f"{i}-{j}").write_bytes(bytes([i]) + data)

    def one(data: bytes) -> None:
        if data:
            name = names[data[0] % len(names)]
            finding = attempt(name, bench.targets[name], data[1:])
            if finding is not None:
                print(f"FAILED {name}: {finding.what} -> {kept(options.keep, name, data[1:])}", flush=True)
                raise RuntimeError(finding.what)

    def mutate(data: bytes, limit: int, number: int) -> bytes:
        if number % 3 == 0 or len(data) < 2:
            return bytes(atheris.Mutate(data, limit))
        return (data[:1] + damage(data[1:]))[:limit]

    flags = [f"-max_total_time={int(60 * options.minutes)}", f"-rss_limit_mb={MEMORY // 10**6}", f"-seed={seed}"]
    flags += ["-max_len=200000", "-timeout=10", "-print_final_stats=1", f"-artifact_prefix={work}/"]
    atheris.Setup([sys.argv[0], *flags, str(corpus)], one, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
