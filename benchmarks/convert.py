"""Measure what a conversion costs, compared with copying the file and with `speculators convert`.

    python benchmarks/convert.py [--sizes small,large] [--runs 5] [--save docs/benchmarks.md]
                                 [--speculators-python PYTHON] [--work DIR]

Generates SpecJAX heads of about 0.1 GB and 2.8 GB (hidden size 8192), converts each to the speculators layout, and
prints a Markdown table of medians. Before every run the source is in the page cache (for the large head, a second
table reads it from the disk), there is no destination, and all earlier data are written to the disk. The commands
take turns, in a different order in each round. All generated files are deleted.

This script imports only the standard library. The peak memory that the kernel reports for a program includes the
memory of the process that started it, so that process must be small.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

VOCAB = 128256
BUDGETS = {
    "convert --no-verify": "≤ 1.15× cp",
    "convert": "≤ 2.5× cp",
}


@dataclass(frozen=True)
class Size:
    """Dimensions of a generated head."""

    hidden: int
    inter: int
    heads: int
    kv_heads: int
    draft: int
    head_dim: int = 128


SIZES = {"small": Size(1536, 4096, 12, 4, 10000), "large": Size(8192, 28672, 64, 8, 32000)}


@dataclass
class Series:
    """The runs of one command: seconds and peak memory in bytes."""

    command: Sequence[str]
    seconds: list[float] = field(default_factory=list)
    peak: list[int] = field(default_factory=list)
    failed: str | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def make_head(folder: Path, s: Size) -> Path:
    """Make a SpecJAX folder with weights around ±0.01 and a valid vocabulary map."""
    folder.mkdir()
    h, q, kv = s.hidden, s.heads * s.head_dim, s.kv_heads * s.head_dim
    shapes = {
        "fc.weight": (h, 3 * h),
        "lm_head.weight": (s.draft, h),
        "midlayer.hidden_norm.weight": (h,),
        "midlayer.input_layernorm.weight": (h,),
        "midlayer.mlp.down_proj.weight": (h, s.inter),
        "midlayer.mlp.gate_proj.weight": (s.inter, h),
        "midlayer.mlp.up_proj.weight": (s.inter, h),
        "midlayer.post_attention_layernorm.weight": (h,),
        "midlayer.self_attn.k_proj.weight": (kv, 2 * h),
        "midlayer.self_attn.o_proj.weight": (h, q),
        "midlayer.self_attn.q_proj.weight": (q, 2 * h),
        "midlayer.self_attn.v_proj.weight": (kv, 2 * h),
        "norm.weight": (h,),
    }
    ids = sorted(random.Random(0).sample(range(VOCAB), s.draft))
    mask = bytearray(VOCAB)
    for i in ids:
        mask[i] = 1
    whole = {"d2t": array("i", (t - i for i, t in enumerate(ids))).tobytes(), "t2d": bytes(mask)}
    entries = [
        ("d2t", "I32", (s.draft,)),
        *((n, "BF16", shape) for n, shape in shapes.items()),
        ("t2d", "BOOL", (VOCAB,)),
    ]
    width = {"I32": 4, "BF16": 2, "BOOL": 1}
    header, at = {}, 0
    for name, dtype, shape in entries:
        end = at + width[dtype] * math.prod(shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    block = bytearray(random.Random(1).randbytes(1 << 20))
    block[1::2] = bytes(0x3C | (b & 0x80) for b in block[1::2])  # sign at random, exponent fixed
    with (folder / "model.safetensors").open("wb") as f:
        f.write(len(text).to_bytes(8, "little") + text)
        for name, dtype, shape in entries:
            left = width[dtype] * math.prod(shape)
            if name in whole:
                f.write(whole[name])
                continue
            while left:
                left -= f.write(memoryview(block)[: min(left, len(block))])
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": h,
        "intermediate_size": s.inter,
        "num_hidden_layers": 1,
        "num_attention_heads": s.heads,
        "num_key_value_heads": s.kv_heads,
        "head_dim": s.head_dim,
        "vocab_size": VOCAB,
        "draft_vocab_size": s.draft,
        "rope_theta": 500000.0,
        "rms_norm_eps": 1e-5,
        "torch_dtype": "bfloat16",
        "tie_word_embeddings": False,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    return folder


def make_target(folder: Path) -> Path:
    """Write the config.json of a matching target, which needs no weights."""
    folder.mkdir()
    config = json.loads((folder.parent / "head" / "config.json").read_text())
    config |= {"num_hidden_layers": 80, "max_position_embeddings": 131072}
    config |= {"bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu"}
    del config["draft_vocab_size"]
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    return folder


def warm(folder: Path) -> None:
    """Bring the source into the page cache."""
    for path in folder.iterdir():
        with path.open("rb", buffering=0) as f:
            while f.read(1 << 20):
                pass


def chill(folder: Path) -> None:
    """Drop the source from the page cache (it has been written out)."""
    for path in folder.iterdir():
        fd = os.open(path, os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)


def timed(series: Series, log: Path) -> None:
    """Run the command once: wall time from start to exit, peak memory as the kernel counted it."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed program does not compile itself at every start
    with log.open("wb") as out:
        start = time.perf_counter()
        pid = os.posix_spawn(
            series.command[0],
            list(series.command),
            environment,
            file_actions=[(os.POSIX_SPAWN_DUP2, out.fileno(), 1), (os.POSIX_SPAWN_DUP2, out.fileno(), 2)],
        )
        _, status, usage = os.wait4(pid, 0)
        wall = time.perf_counter() - start
    if os.waitstatus_to_exitcode(status) != 0:
        lines = log.read_text(errors="replace").strip().splitlines()
        series.failed = lines[-1][:200] if lines else "failed without a word"
        return
    series.seconds.append(wall)
    series.peak.append(usage.ru_maxrss * 1024)


def program(name: str) -> str:
    return shutil.which(name) or sys.exit(f"{name} is not installed")


def eagle3hub(*words: str | Path) -> list[str]:
    return [sys.executable, "-m", "eagle3hub", *map(str, words)]


def measure_size(
    work: Path, name: str, options: argparse.Namespace, *, cold: bool = False
) -> tuple[int, dict[str, Series]]:
    """Generate one head and run every command on it; ``cold``: the source is read from the disk, and only by ours."""
    head, out = make_head(work / "head", SIZES[name]), work / "out"
    target = make_target(work / "target")
    weights = head / "model.safetensors"
    size = weights.stat().st_size
    ours = eagle3hub(
        "convert", head, out, "--to", "speculators", "--target", target, "--speculative-tokens", 3, "--quiet"
    )
    both = 'mkdir "$1" && cp "$0" "$1/" && sync "$1"/*'
    series = {
        "cp": Series([program("cp"), str(weights), str(out)]),
        "cp + fsync": Series([program("sh"), "-c", both, str(weights), str(out)]),
        "convert --no-verify": Series([*ours, "--no-verify"]),
        "convert": Series(ours),
        "convert --digests": Series([*ours, "--digests"]),
    }
    rounds: dict[str, int] = dict.fromkeys(series, options.runs)
    if options.speculators_python and not cold:
        script = str(Path(options.speculators_python).parent / "speculators")
        words = ["convert", str(head), "--verifier", str(target), "--algorithm", "eagle3", "--output-path", str(out)]
        series["speculators convert"] = Series([options.speculators_python, script, *words, *options.speculators_args])
        rounds["speculators convert"] = options.speculators_runs
    order = random.Random(name)
    for i in range(max(rounds.values())):
        for command in order.sample(list(series), len(series)):  # what ran before a command tells on it
            if i >= rounds[command] or series[command].failed:
                continue
            warm(head)
            os.sync()
            if cold:
                chill(head)
            timed(series[command], work / "log")
            remove(out)
            seconds = series[command].seconds
            print(
                f"{name}{' cold' * cold} {command}: {seconds[-1]:.2f} s" if seconds else f"{name} {command} failed",
                file=sys.stderr,
            )
    return size, series


def measure_start(work: Path, runs: int) -> dict[str, Series]:
    """Start-up of the interpreter alone, of --version, and of inspect on a local head."""
    head = make_head(work / "head", SIZES["small"])
    series = {
        "python -c pass": Series([sys.executable, "-c", "pass"]),
        "eagle3hub --version": Series(eagle3hub("--version")),
        "eagle3hub inspect": Series(eagle3hub("inspect", head)),
    }
    for _ in range(2 * runs + 1):
        for one in series.values():
            timed(one, work / "log")
    return series


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def size_table(size: int, series: dict[str, Series], *, cold: bool = False) -> list[str]:
    budgets = BUDGETS if size > 1e9 else {}
    cp, flushed = series["cp"].median, series["cp + fsync"].median
    lines = [
        "| command | runs | median | fastest … slowest | × cp | × cp + fsync | peak memory | budget |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, s in series.items():
        if s.failed or not s.seconds:
            lines.append(f"| {name} | – | failed: {s.failed} | | | | | |")
            continue
        lines.append(
            f"| {name} | {len(s.seconds)} | {s.median:.2f} s | {min(s.seconds):.2f} … {max(s.seconds):.2f} s "
            f"| {s.median / cp:.2f} | {s.median / flushed:.2f} | {max(s.peak) / 1e6:.0f} MB "
            f"| {budgets.get(name, '')} |"
        )
    theirs = series.get("speculators convert")
    if theirs and theirs.seconds and series["convert"].seconds:
        ours, bare = series["convert"], series["convert --no-verify"]
        lines += [
            "",
            f"`speculators convert` takes {theirs.median / bare.median:.1f}× the time of `convert --no-verify`, "
            f"{theirs.median / ours.median:.1f}× that of `convert` with verification, and",
            f"{max(theirs.peak) / max(ours.peak):.1f}× its memory" + (" (budgets: ≥ 15×, ≥ 50×)." if budgets else "."),
        ]
    return [f"### A head of {size / 1e9:.2f} GB{', read from the disk' * cold}", "", *lines, ""]


def start_table(series: dict[str, Series]) -> list[str]:
    base = series["python -c pass"].median
    budgets = {"eagle3hub --version": "≤ +0.25 s", "eagle3hub inspect": "≤ +0.45 s"}
    lines = ["| command | runs | median | over the interpreter | budget |", "|---|---|---|---|---|"]
    for name, s in series.items():
        if s.failed:
            lines.append(f"| {name} | – | failed: {s.failed} | | |")
            continue
        over = f"+{s.median - base:.3f} s" if name in budgets else ""
        lines.append(f"| {name} | {len(s.seconds)} | {s.median:.3f} s | {over} | {budgets.get(name, '')} |")
    return ["### Start-up", "", *lines, ""]


def machine(work: Path) -> list[str]:
    """Describe the machine and the versions of this run."""
    memory = next(x for x in Path("/proc/meminfo").read_text().splitlines() if x.startswith("MemTotal")).split()
    model = [
        x.split(":")[1].strip() for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name")
    ]
    mount = subprocess.run(
        ["findmnt", "--noheadings", "--output", "SOURCE,FSTYPE", "--target", str(work)], capture_output=True, text=True
    ).stdout.split()
    version = subprocess.run(eagle3hub("--version"), capture_output=True, text=True).stdout.strip()
    load = os.getloadavg()[0]
    shared = " (other work ran on the machine at the same time)" if load > 0.7 else ""
    cpu = model[0] if model else platform.machine()
    floor = Series([program("true")])
    timed(floor, work / "log")
    return [
        f"- {version}, Python {platform.python_version()}, {time.strftime('%Y-%m-%d', time.gmtime())}",
        f"- {os.cpu_count()} cores ({cpu}), {int(memory[1]) / 1e6:.1f} GB of memory, Linux {platform.release()}",
        f"- disk: {' '.join(mount) or 'unknown'}; load average when the run began: {load:.1f}{shared}",
        f"- peak memory is the kernel's count; programs that use less than {floor.peak[0] / 1e6:.0f} MB show that",
    ]


INTRODUCTION = """\
# Benchmarks

## Converting

Written by `python benchmarks/convert.py --save docs/benchmarks.md`; the numbers are from one run of it. A generated
SpecJAX head is converted to the speculators layout. Before every run there is no destination, all earlier data are
written to the disk, and the source is in the page cache (in one table it is read from the disk). The commands take
turns, in a different order in each round. `cp` and `convert --no-verify` return before the copy is on the disk.
`convert` returns when the copy is on the disk and has been read back and compared, so compare it with `cp + fsync`.
`--digests` also hashes source and result (SHA-256), as `release` does.

The host of a virtual machine may be slow to give memory that is used for the first time. This explains the slowest
runs.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="small,large", help="small, large or both, separated by a comma")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--work", type=Path, default=None, help="where to work (default: the temporary folder)")
    parser.add_argument("--save", type=Path, default=None, help="write the tables to this file, too")
    parser.add_argument("--speculators-python", default=None, help="interpreter of an environment with speculators")
    parser.add_argument("--speculators-runs", type=int, default=1, help="its runs (they are slow)")
    parser.add_argument("--speculators-args", nargs="*", default=["--validate-device", "cpu"])
    options = parser.parse_args()
    sizes = options.sizes.split(",")
    if unknown := set(sizes) - set(SIZES):
        parser.error(f"no such size: {', '.join(sorted(unknown))}")
    lines: list[str] = []

    def inside(step: Callable[[Path], list[str]]) -> None:
        with tempfile.TemporaryDirectory(dir=options.work, prefix="eagle3hub-benchmark-") as work:
            lines.extend(step(Path(work)))

    inside(lambda work: [*machine(work), ""])
    if "large" not in sizes:
        lines.extend(["The large head, for which the budgets hold, was not measured in this run.", ""])
    for name in sizes:
        inside(lambda work, name=name: size_table(*measure_size(work, name, options)))
        if name == "large":
            inside(lambda work: size_table(*measure_size(work, "large", options, cold=True), cold=True))
    inside(lambda work: start_table(measure_start(work, options.runs)))
    text = INTRODUCTION + "\n" + "\n".join(lines).rstrip() + "\n"
    print(text)
    if options.save:
        options.save.parent.mkdir(exist_ok=True)
        others = options.save.read_text().partition("\n## Replaying")[1:] if options.save.exists() else ("", "")
        options.save.write_text(text + "".join(others))


if __name__ == "__main__":
    main()
