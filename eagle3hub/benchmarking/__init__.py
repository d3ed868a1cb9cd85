"""Benchmark heads: plan what to measure, run it, and write the results, tables, charts and files.

`bench` does all of this. A `Runner` measures: it gets groups of cells that share a target, its texts and a
temperature.
"""

from __future__ import annotations

from eagle3hub.benchmarking.plan import BenchHead, BenchOptions, BenchPlan, Cell, CellGroup, Settings, bench_plan
from eagle3hub.benchmarking.results import CellRecord, Results, load_results
from eagle3hub.benchmarking.run import CellResult, Measure, PromptCounts, Runner, Throughput, run_plan
from eagle3hub.benchmarking.session import bench, run_bench

__all__ = [
    "BenchHead",
    "BenchOptions",
    "BenchPlan",
    "Cell",
    "CellGroup",
    "CellRecord",
    "CellResult",
    "Measure",
    "PromptCounts",
    "Results",
    "Runner",
    "Settings",
    "Throughput",
    "bench",
    "bench_plan",
    "load_results",
    "run_bench",
    "run_plan",
]
