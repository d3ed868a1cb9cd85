"""Measure how fast replay finds the acceptance, compared with vLLM and with the reference's own speculation.

    python benchmarks/replay.py [--num-prompts 16] [--max-new-tokens 64] [--runs 3] [--save docs/benchmarks.md]
                                [--plot docs/images/replay-scaling]

It uses the example head and its target, in float32, greedy, on CPU. All methods measure the same prompts and must
count the same rounds, or the benchmark stops. No time includes loading. Replay runs in its own process, so that its
peak memory can be measured. Needs what `make test` sets up; run nothing else on the machine meanwhile.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from eagle3hub.engines.specs import default_version

ROOT = Path(__file__).parent.parent
HEAD = ROOT / "examples" / "smollm2-135m" / "head"
SECTIONS = {"ratios": "## Replaying", "scaling": "## How replay scales"}
WRITTEN = "Written by `python benchmarks/replay.py`; all numbers are from one run of it."
DRAFT_TOKENS = (3, 7)
SCALING_K = (1, 2, 4, 8, 16)
SCALING_TOKENS = (16, 32, 64, 128)


def measure(what: dict[str, Any]) -> dict[str, Any]:
    """Run in a separate process: texts by the target, replay at each K, and speculation if it was requested."""
    from eagle3hub.layouts import open_head
    from eagle3hub.prompts import load_prompts
    from eagle3hub.reference.measure import ReplayedHead, replay_texts
    from eagle3hub.reference.model import load_draft
    from eagle3hub.reference.replay import ReplaySettings
    from eagle3hub.reference.speculate import speculate
    from eagle3hub.reference.target import TargetModel
    from eagle3hub.releasing.demo import ensure_target

    folder = ensure_target()
    target = TargetModel.load(str(folder))
    head = open_head(HEAD, target=str(folder))
    model = load_draft(head, target.embeddings)
    prompts = [target.chat(p.text) for p in load_prompts("smoke", what["prompts"]).prompts]
    begun = time.perf_counter()
    texts = target.respond(prompts, max_new_tokens=what["tokens"], lookahead=max(what["ks"]))
    out: dict[str, Any] = {
        "texts": time.perf_counter() - begun,
        "tokens": sum(t.response_length for t in texts),
        "positions": sum(t.prompt_length + t.response_length for t in texts),
        "replay": {},
        "rounds": {},
        "speculate": {},
    }
    for k in what["ks"]:
        spent = []
        for _ in range(what["runs"]):
            begun = time.perf_counter()
            rounds = replay_texts(target, ReplayedHead(head), texts, ReplaySettings(k))[k]
            spent.append(time.perf_counter() - begun)
        out["replay"][k] = statistics.median(spent)
        out["rounds"][k] = [list(r.accepted) for r in rounds]
    out["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    for k in what.get("speculate", ()):
        begun = time.perf_counter()
        found = [
            speculate(
                model,
                target.session(),
                ids,
                head.aux,
                ReplaySettings(k),
                max_new_tokens=what["tokens"],
                end=target.eos_ids,
            )
            for ids in prompts
        ]
        out["speculate"][k] = time.perf_counter() - begun
        if [list(f.rounds) for f in found] != out["rounds"][k]:
            raise SystemExit(f"K = {k}: speculation and replay count different rounds")
    return out


def apart(what: dict[str, Any]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, __file__, "--part", json.dumps(what)], stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def on_vllm(prompts: int, tokens: int, k: int, python: str | None) -> tuple[float, list[tuple[int, ...]]]:
    from eagle3hub.engines import environments, get_engine
    from eagle3hub.engines.base import EngineRun, RunSpec
    from eagle3hub.prompts import load_prompts
    from eagle3hub.releasing.demo import ensure_target
    from eagle3hub.system.progress import silent

    job = RunSpec(
        target=str(ensure_target()),
        head=HEAD,
        prompts=load_prompts("smoke", prompts),
        draft_tokens=k,
        max_new_tokens=tokens,
    )
    interpreter = Path(python) if python else environments.environment_python("vllm", "cpu")
    run = get_engine("vllm").run(job, interpreter, timeout=1800, progress=silent)
    if not isinstance(run, EngineRun):
        raise SystemExit(run.reason)
    rows = [(p.counts.rounds, *p.counts.accepted_per_position) for p in run.prompts if p.counts]
    return run.generate_seconds, rows


def rows_of(rounds: list[list[int]], k: int) -> list[tuple[int, ...]]:
    return [(len(r), *(sum(a >= i for a in r) for i in range(1, k + 1))) for r in rounds]


def report(options: argparse.Namespace) -> list[str]:
    ours = apart(
        {
            "prompts": options.num_prompts,
            "tokens": options.max_new_tokens,
            "ks": options.draft_tokens,
            "runs": options.runs,
            "speculate": options.draft_tokens,
        }
    )
    lines = [
        f"| K | rounds | accepted per position | vLLM {default_version('vllm')} | speculate | texts | replay "
        "| vLLM ÷ replay "
        "| speculate ÷ replay | vLLM ÷ (texts + replay) |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for k in options.draft_tokens:
        vllm, rows = on_vllm(options.num_prompts, options.max_new_tokens, k, options.engine_python)
        rounds = ours["rounds"][str(k)]
        if rows != rows_of(rounds, k):
            raise SystemExit(f"K = {k}: vLLM and replay count different rounds")
        print(f"K = {k}: vLLM took {vllm:.2f} s", file=sys.stderr)
        replay, texts = ours["replay"][str(k)], ours["texts"]
        slow = ours["speculate"].get(str(k))
        spent, ratio = ("–", "–") if slow is None else (f"{slow:.2f} s", f"{slow / replay:.1f}")
        total = rows_of(rounds, k)
        lines.append(
            f"| {k} | {sum(map(len, rounds))} | {', '.join(str(sum(c)) for c in list(zip(*total, strict=True))[1:])} "
            f"| {vllm:.2f} s | {spent} | {texts:.2f} s | {replay:.2f} s "
            f"| {vllm / replay:.1f} | {ratio} | {vllm / (texts + replay):.1f} |"
        )
    lines += [
        "| budget | | | | | | | ≥ 30 | ≥ 15 | ≥ 3 |",
        "",
        f"{options.num_prompts} prompts, {ours['tokens']} new tokens, {ours['positions']} positions; the same rounds "
        f"in every prompt. Peak memory of replay: {ours['peak_mb']:.0f} MB, the target's weights included.",
        "",
    ]
    return lines


def scaling(options: argparse.Namespace) -> list[str]:
    by_k = apart({"prompts": options.num_prompts, "tokens": options.max_new_tokens, "ks": SCALING_K, "runs": 3})
    by_tokens = {}
    for tokens in SCALING_TOKENS:
        by_tokens[tokens] = apart({"prompts": options.num_prompts, "tokens": tokens, "ks": [3], "runs": 3})
    lines = ["| K | " + " | ".join(str(k) for k in SCALING_K) + " |", "|---" * (1 + len(SCALING_K)) + "|"]
    lines.append("| replay, s | " + " | ".join(f"{by_k['replay'][str(k)]:.2f}" for k in SCALING_K) + " |")
    lines += ["", "| positions read (K = 3) | " + " | ".join(str(r["positions"]) for r in by_tokens.values()) + " |"]
    lines.append("|---" * (1 + len(by_tokens)) + "|")
    lines.append("| replay, s | " + " | ".join(f"{r['replay']['3']:.2f}" for r in by_tokens.values()) + " |")
    lines.append("| peak memory, MB | " + " | ".join(f"{r['peak_mb']:.0f}" for r in by_tokens.values()) + " |")
    if options.plot:
        plot(by_k, by_tokens, Path(options.plot))
        lines += ["", f"![Replay's time against K and against positions](images/{Path(options.plot).name}.svg)"]
    return [*lines, ""]


def plot(by_k: dict[str, Any], by_tokens: dict[int, dict[str, Any]], where: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    mpl.rcParams["svg.hashsalt"] = "eagle3hub"
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    left.plot(SCALING_K, [by_k["replay"][str(k)] for k in SCALING_K], "o-", color="#0072B2")
    left.set(xlabel="draft tokens K", ylabel="replay, s")
    right.plot(
        [r["positions"] for r in by_tokens.values()],
        [r["replay"]["3"] for r in by_tokens.values()],
        "s-",
        color="#D55E00",
    )
    right.set(xlabel="positions read, K = 3", ylabel="replay, s", xlim=(0, None))
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.set_ylim(0, 1.1 * axes.dataLim.ymax)
    where.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(where.with_suffix(".svg"), metadata={"Date": None})
    figure.savefig(where.with_suffix(".png"), dpi=160)


def machine() -> str:
    names = [x.split(":", 1)[1].strip() for x in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in x]
    return f"{len(names)} cores ({names[0]}), Python {platform.python_version()}, {time.strftime('%Y-%m-%d')}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-prompts", type=int, default=16)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--engine-python", default=None, help="interpreter with vLLM")
    parser.add_argument("--save", default=None, help="Markdown file whose sections on replaying are replaced")
    parser.add_argument("--plot", default=None, help="file name, without suffix, of the scaling plot")
    parser.add_argument("--draft-tokens", type=int, nargs="+", default=DRAFT_TOKENS)
    parser.add_argument("--only", choices=("ratios", "scaling"), default=None)
    parser.add_argument("--part", default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part:
        print(json.dumps(measure(json.loads(options.part))))
        return
    for part, write in (("ratios", report), ("scaling", scaling)):
        if options.only in (None, part):
            text = "\n".join([SECTIONS[part], "", WRITTEN, "", machine(), "", *write(options)]).rstrip() + "\n"
            print(text)
            if options.save:
                replace_section(Path(options.save), SECTIONS[part], text)


def replace_section(file: Path, title: str, text: str) -> None:
    """Replace the section ``title`` of a Markdown file by ``text``, or add it at the end."""
    before, _, rest = (file.read_text() if file.exists() else "# Benchmarks\n").partition(f"{title}\n")
    after = rest[start:] if (start := rest.find("\n## ")) >= 0 else ""
    file.write_text(f"{before.rstrip()}\n\n{text}{after}")


if __name__ == "__main__":
    main()
