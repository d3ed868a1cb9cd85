"""Run a plan cell by cell; keep every result, and measure nothing twice."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from eagle3hub.benchmarking.plan import BenchPlan, Cell, CellGroup
from eagle3hub.engines.base import Scalar, Verdict
from eagle3hub.errors import UnavailableError
from eagle3hub.metrics import Counts
from eagle3hub.system.progress import Progress, silent


@dataclass(frozen=True, slots=True)
class PromptCounts:
    """What one prompt gave: tokens of the prompt in the chat template, tokens generated, counters.

    ``seconds`` is the time of its answer, and ``alone`` the tokens and seconds of the target's answer without the
    head; None where they were not measured.
    """

    prompt_tokens: int
    new_tokens: int
    counts: Counts
    seconds: float | None = None
    alone: tuple[int, float] | None = None


@dataclass(frozen=True, slots=True)
class Throughput:
    """Tokens per second without and with the head, and the conditions under which they were measured."""

    target_tokens_per_second: float | None
    speculative_tokens_per_second: float | None
    conditions: str

    def to_json(self) -> dict[str, Any]:
        """Return the ``throughput`` object of a cell."""
        return {
            "target_tokens_per_second": self.target_tokens_per_second,
            "speculative_tokens_per_second": self.speculative_tokens_per_second,
            "unit": "tokens/s",
            "conditions": self.conditions,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Throughput:
        """Read what `to_json` wrote."""
        return cls(data["target_tokens_per_second"], data["speculative_tokens_per_second"], data["conditions"])


@dataclass(frozen=True, slots=True)
class CellResult:
    """What measuring a cell gave.

    Attributes:
        prompts: one entry for each prompt of the cell, in its order; empty where nothing was measured.
        environment: what the engine ran on (Python, torch, processor …).
        throughput: None where speed was not measured, as in a replay.
        seconds: wall time of this cell.
    """

    verdict: Verdict
    reason: str
    prompts: tuple[PromptCounts, ...] = ()
    environment: Mapping[str, Scalar] = field(default_factory=dict)
    throughput: Throughput | None = None
    seconds: float = 0.0


class Measure(Protocol):
    """Measures one cell."""

    def __call__(self, cell: Cell) -> CellResult:
        """Measure a cell. Raises UnavailableError where the engine or the device is missing."""


class Runner(Protocol):
    """Measures the cells of a plan, a group at a time."""

    def version(self, engine: str) -> str:
        """Return the version of ``engine`` that will run. Raises UnavailableError."""

    def group(self, group: CellGroup) -> AbstractContextManager[Measure]:
        """Set up what the group's cells share, and release it at the end. Raises UnavailableError."""


OnCell = Callable[[Cell, str, CellResult], None]
"""Called with each cell, the version of its engine and its result, as soon as the result is there."""


def run_plan(
    plan: BenchPlan,
    runner: Runner,
    on_cell: OnCell,
    *,
    done: Collection[str] = (),
    progress: Progress = silent,
) -> None:
    """Measure every cell of the plan whose key is not in ``done``.

    A group is set up only if one of its cells must be measured. If an engine is not available, its cells become
    ``unavailable``. Every other error ends the run; ``on_cell`` has the earlier cells by then.
    """
    finished = 0
    for group in plan.groups():
        try:
            version = runner.version(group.engine)
        except UnavailableError as error:
            finished += len(group.cells)
            _unavailable(group.cells, "unknown", error, on_cell)
            continue
        waiting = [cell for cell in group.cells if cell.key(version) not in done]
        finished += len(group.cells) - len(waiting)
        if not waiting:
            continue
        left = list(waiting)
        try:
            progress(f"{group.engine} on {group.prompts.name}, T = {group.temperature:g}", finished / plan.size)
            with runner.group(group.only(waiting)) as measure:
                for cell in waiting:
                    progress(str(cell), finished / plan.size)
                    result = measure(cell)
                    left.remove(cell)
                    finished += 1
                    on_cell(cell, version, result)
        except UnavailableError as error:
            finished += len(left)
            _unavailable(left, version, error, on_cell)


def _unavailable(cells: Collection[Cell], version: str, error: UnavailableError, on_cell: OnCell) -> None:
    for cell in cells:
        on_cell(cell, version, CellResult("unavailable", error.message))
