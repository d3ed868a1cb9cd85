"""Run a benchmark that can be interrupted: every finished cell is saved, and a later run continues."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from eagle3hub.benchmarking.plan import BenchOptions, BenchPlan, Cell, bench_plan
from eagle3hub.benchmarking.results import CellRecord, Results, cell_record, held_against, load_results, results_of
from eagle3hub.benchmarking.run import CellResult, Runner, run_plan
from eagle3hub.errors import OutputError, UnavailableError
from eagle3hub.system.progress import Progress, silent

RESULTS = "results.json"
DEFAULTS = BenchOptions()


def bench(
    heads: Sequence[str],
    target: str,
    options: BenchOptions = DEFAULTS,
    *,
    folder: Path | None = None,
    resume: bool = False,
    against: Path | None = None,
    progress: Progress = silent,
) -> Results:
    """Measure how many tokens heads get accepted: every head, data set, K, temperature and engine.

    Args:
        heads: ``FOLDER``, ``hf://owner/name`` or ``NAME=`` one of these. target: folder or Hub id.
        folder, resume: as for `run_bench`.
        against: results of an earlier benchmark, of the unquantised target or head, to compare with (`held_against`).

    Raises whatever `bench_plan`, `run_bench`, `load_results` and `held_against` raise.
    """
    from eagle3hub.benchmarking.runner import BenchRunner

    earlier = None if against is None else load_results(against)
    plan = bench_plan(heads, target, options, progress)
    results = run_bench(plan, BenchRunner(options, progress), folder=folder, resume=resume, progress=progress)
    if earlier is None:
        return results
    results = held_against(results, earlier)
    if folder is not None:
        results.save(folder / RESULTS)
    return results


def run_bench(
    plan: BenchPlan,
    runner: Runner,
    *,
    folder: Path | None = None,
    resume: bool = False,
    progress: Progress = silent,
) -> Results:
    """Run a plan and return its complete results.

    Args:
        folder: where ``results.json`` is written again after every cell; None to write nothing.
        resume: take from the folder's ``results.json`` each cell that is the same measurement (same head, target,
            prompts, settings and versions). Cells without a result are measured again.

    Raises OutputError if the folder holds results and ``resume`` is not set, if it holds cells that are not in the
    plan and would be lost, or if it cannot be written. Also raises whatever `run_plan` and the runner raise; earlier
    cells are saved by then.
    """
    records: dict[tuple[object, ...], CellRecord] = {}
    if folder is not None:
        require_writable(folder)
        records = _earlier(plan, runner, folder / RESULTS, resume)
    order = [_place(cell) for group in plan.groups() for cell in group.cells]

    def so_far() -> Results:
        return results_of(plan, [records[place] for place in order if place in records])

    def keep(cell: Cell, version: str, result: CellResult) -> None:
        records[_place(cell)] = cell_record(cell, version, result)
        if folder is not None:
            so_far().save(folder / RESULTS)

    done = {one.key for one in records.values()}
    run_plan(plan, runner, keep, done=done, progress=progress)
    return Results.from_json(so_far().to_json())


def require_writable(folder: Path) -> None:
    """Raise OutputError before the first measurement if nothing can be written there."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise OutputError(f"cannot write into {folder}: {there} is not a writable folder", code="output-unwritable")


def _earlier(plan: BenchPlan, runner: Runner, path: Path, resume: bool) -> dict[tuple[object, ...], CellRecord]:
    """Return the cells of earlier results that this plan need not measure again, by their place in the plan."""
    if not path.exists():
        return {}
    if not resume:
        raise OutputError(
            f"{path} holds the results of another run",
            hint="go on with it with --resume, or choose another folder",
            code="output-exists",
        )
    measured = {cell.key: cell for cell in load_results(path).cells if cell.acceptance}
    records: dict[tuple[object, ...], CellRecord] = {}
    for group in plan.groups():
        try:
            version = runner.version(group.engine)
        except UnavailableError:
            if any(cell.engine == group.engine for cell in measured.values()):
                raise
            continue
        for cell in group.cells:
            known = measured.get(cell.key(version))
            if known is not None:
                prompts = replace(known.prompts, name=cell.prompts.name)
                records[_place(cell)] = replace(known, head=cell.head.name, prompts=prompts)
    taken = {one.key for one in records.values()}
    for key, lost in measured.items():
        if key not in taken:
            raise OutputError(
                f"{path} holds a cell that this run would not measure, and would lose: {_described(lost)}",
                hint="ask for the same heads, data sets and settings, or more of them; or choose another folder",
                code="output-other-results",
            )
    return records


def _described(cell: CellRecord) -> str:
    settings = cell.settings
    return (
        f"{cell.head} on {cell.prompts.name} ({cell.prompts.count} prompts), K = {settings.draft_tokens}, "
        f"T = {settings.temperature:g}, {settings.max_new_tokens} new tokens, {settings.dtype}, {cell.engine} "
        f"{cell.engine_version}"
    )


def _place(cell: Cell) -> tuple[object, ...]:
    return cell.engine, cell.prompts.name, cell.temperature, cell.head.name, cell.draft_tokens
