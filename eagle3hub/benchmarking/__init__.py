"""Benchmarks of heads: what to measure, the results with what follows from them, tables, charts and files.

Measuring itself is a `Runner`'s: it is handed groups of cells that share a target, its texts and a temperature.
"""

from __future__ import annotations

from eagle3hub.benchmarking.plan import BenchHead, BenchPlan, Cell, CellGroup, Settings
from eagle3hub.benchmarking.results import Results, load_results
from eagle3hub.benchmarking.run import CellResult, Measure, PromptCounts, Runner, Throughput, run_plan
from eagle3hub.benchmarking.session import run_bench

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
