"""Benchmarks without models: counters that were recorded, and counters invented to fill a layout.

``RECORDED`` are vLLM's on CPU with the example head over the packaged prompts (float32, K = 3, T = 0, 64 new
tokens). Everything else a `Recorded` runner hands out is invented, and is only good for looking at tables.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from eagle3hub.benchmarking import BenchHead, BenchPlan, Cell, CellGroup, CellResult, Measure, PromptCounts, Settings
from eagle3hub.benchmarking.results import Results
from eagle3hub.benchmarking.run import Throughput
from eagle3hub.benchmarking.session import run_bench
from eagle3hub.metrics import Counts, acceptance
from eagle3hub.prompts import Prompt, PromptSet, load_prompts
from eagle3hub.validation.gates import collapse
from eagle3hub.validation.target import Target

_ROWS = json.loads((Path(__file__).parent.parent / "card" / "fixtures" / "smoke-counters.json").read_text())["prompts"]
RECORDED = tuple(
    PromptCounts(
        r["prompt_tokens"],
        r["new_tokens"],
        Counts(r["rounds"], 3 * r["rounds"], sum(r["accepted_per_position"]), tuple(r["accepted_per_position"])),
    )
    for r in _ROWS
)
TARGET = Target("/nowhere/target", "HuggingFaceTB/SmolLM2-135M-Instruct", "0" * 64, None, None)
AS_TRAINED = BenchHead("as-trained", "/nowhere/a", "specjax", "sha256:" + "a" * 64)
SECOND = BenchHead("second", "/nowhere/b", "specforge", "sha256:" + "b" * 64)
THIRD = BenchHead(
    "RedHatAI--Qwen3-235B-A22B-Instruct-2507-speculator.eagle3", "/c", "speculators", "sha256:" + "c" * 64
)
SMOKE = load_prompts("smoke")


def prompts(name: str, count: int = 12) -> PromptSet:
    """A set of so many prompts of one category."""
    return PromptSet(name, tuple(Prompt(i, "one", f"{name} {i}") for i in range(count)))


def plan(**changed: object) -> BenchPlan:
    """The example head on the packaged prompts at K = 3 and T = 0, or something else."""
    options: dict[str, object] = {
        "heads": (AS_TRAINED,),
        "target": TARGET,
        "datasets": (SMOKE,),
        "draft_tokens": (3,),
        "temperatures": (0.0,),
        "engines": ("reference",),
        "settings": Settings(max_new_tokens=64),
        "base": "as-trained",
    }
    return BenchPlan(**{**options, **changed})


LARGE = plan(
    heads=(AS_TRAINED, SECOND, THIRD),
    datasets=(
        SMOKE,
        prompts("humaneval"),
        prompts("gsm8k"),
        prompts("alpaca"),
        prompts("questions-our-customers-asked-in-spring-2026.jsonl"),
    ),
    draft_tokens=(3, 5, 7),
    temperatures=(0.0, 1.0),
)


def invented(cell: Cell) -> tuple[PromptCounts, ...]:
    """Counters of no run: a head that accepts about as often as its name is long."""
    out = []
    rate = 0.35 + 0.04 * (len(cell.head.name) % 8) + 0.03 * (len(cell.prompts.name) % 5)
    for prompt in cell.prompts.prompts:
        rng = random.Random(f"{prompt.question_id} {prompt.text} {cell.temperature}")
        own = min(max(rate + rng.uniform(-0.15, 0.15), 0.05), 0.95)
        rounds = rng.randint(20, 60)
        accepted = [0] * cell.draft_tokens
        for _ in range(rounds):
            for i in range(cell.draft_tokens):
                if rng.random() > own:
                    break
                accepted[i] += 1
        counts = Counts(rounds, rounds * cell.draft_tokens, sum(accepted), tuple(accepted))
        out.append(PromptCounts(40, counts.emitted, counts))
    return tuple(out)


@dataclass
class Recorded:
    """A runner that measures nothing; it keeps what it was asked for."""

    throughput: Throughput | None = None
    groups: list[CellGroup] = field(default_factory=list)
    measured: list[Cell] = field(default_factory=list)
    engine_version: str = "1.0"

    def version(self, engine: str) -> str:
        return self.engine_version

    @contextmanager
    def group(self, group: CellGroup) -> Iterator[Measure]:
        self.groups.append(group)
        yield self.measure

    def measure(self, cell: Cell) -> CellResult:
        self.measured.append(cell)
        as_recorded = (cell.head, cell.prompts, cell.draft_tokens, cell.temperature) == (AS_TRAINED, SMOKE, 3, 0.0)
        found = RECORDED if as_recorded else invented(cell)
        gate = collapse(acceptance([one.counts for one in found]))
        reason = "as it should be" if gate.verdict == "pass" else gate.reason
        return CellResult(gate.verdict, reason, found, {"python": "3.11.7"}, self.throughput, 1.5)


def measured(of: BenchPlan, runner: Recorded | None = None) -> Results:
    """The results of a plan."""
    return run_bench(of, runner or Recorded())
