"""Benchmarks of heads: what to measure, the results with what follows from them, tables, charts and files.

Measuring itself is a `Runner`'s: it is handed groups of cells that share a target, its texts and a temperature.
"""

from __future__ import annotations

from eagle3hub.bench.plan import BenchHead, BenchPlan, Cell, CellGroup, Settings
from eagle3hub.bench.results import Results, load_results
from eagle3hub.bench.run import CellResult, Measure, PromptCounts, Runner, Throughput, run_plan
from eagle3hub.bench.session import run_bench

__all__ = [
    "BenchHead",
    "BenchPlan",
    "Cell",
    "CellGroup",
    "CellResult",
    "Measure",
    "PromptCounts",
    "Results",
    "Runner",
    "Settings",
    "Throughput",
    "load_results",
    "run_bench",
    "run_plan",
]
