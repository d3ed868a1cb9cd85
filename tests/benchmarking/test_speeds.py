"""Which K pays, in the results of a benchmark: from the times of runs with several K."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest
from benchmarking.recorded import AS_TRAINED, Recorded, invented, measured, plan

from eagle3hub.benchmarking import BenchOptions, Cell, CellResult, Results, bench
from eagle3hub.benchmarking.table import tables
from eagle3hub.errors import ManifestError

STEP, DRAFT, VERIFY = 0.01, 0.1, 0.2


class Timed(Recorded):
    """Counters and times of no run: a round costs 1.2 steps and a tenth for each draft."""

    def measure(self, cell: Cell) -> CellResult:
        found = tuple(
            replace(
                one,
                seconds=one.counts.rounds * STEP * (1 + VERIFY + DRAFT * cell.draft_tokens),
                alone=(one.new_tokens, one.new_tokens * STEP),
            )
            for one in invented(cell)
        )
        return CellResult("pass", "as it should be", found, {}, None, 1.0)


@pytest.fixture(scope="module")
def timed() -> Results:
    return measured(plan(heads=(AS_TRAINED,), draft_tokens=(1, 3, 5), engines=("vllm",)), Timed())


def test_the_costs_are_found_and_said(timed: Results) -> None:
    (one,) = timed.speeds
    assert (one.head, one.dataset, one.engine) == ("as-trained", "smoke", "vllm")
    assert one.found.draft.value == pytest.approx(DRAFT, abs=1e-3)
    assert one.found.verify.value == pytest.approx(VERIFY, abs=5e-3)
    (table,) = [found for found in tables(timed) if "Speed-up by K" in found.title]
    assert [row[3] for row in table.rows] == ["1", "2", "3", "4", "5"]
    assert [row[-2] != "–" for row in table.rows] == [True, False, True, False, True], "measured where it was run"
    assert sum(row[-1] == "fastest" for row in table.rows) == 1
    assert "drafting a token costs 0.10" in table.notes[0]
    assert "is the fastest" in table.notes[0]


def test_without_several_timed_depths_there_is_no_answer() -> None:
    assert measured(plan(engines=("vllm",)), Timed()).speeds == []
    assert measured(plan(draft_tokens=(1, 3))).speeds == [], "the reference replays and has no times"
    assert "speeds" not in measured(plan()).to_json()


def test_what_a_file_states_of_speeds_is_computed_again(timed: Results) -> None:
    document = timed.to_json()
    assert Results.from_json(copy.deepcopy(document)).to_json() == document
    forged = json.loads(json.dumps(document))
    forged["speeds"][0]["best"] = 1 if forged["speeds"][0]["best"] != 1 else 2
    with pytest.raises(ManifestError, match="the speeds do not follow from the cells") as error:
        Results.from_json(forged)
    assert error.value.code == "bench-numbers"
    forged = json.loads(json.dumps(document))
    forged["cells"][0]["per_prompt"][0]["seconds"] *= 2
    with pytest.raises(ManifestError, match="speeds"):
        Results.from_json(forged)


@pytest.mark.slow
@pytest.mark.engine
def test_vllm_is_timed_with_and_without_the_head(smollm2_target: Path, example_head: Path, vllm_python: Path) -> None:
    options = BenchOptions(
        datasets="smoke",
        num_prompts=8,
        max_new_tokens=16,
        draft_tokens="1,4",
        engine="vllm",
        engine_python={"vllm": vllm_python},
    )
    (one,) = bench([str(example_head)], str(smollm2_target), options).speeds
    assert [point.draft_tokens for point in one.found.points] == [1, 2, 3, 4]
    assert one.found.draft.ci95 is not None
    assert all(point.speedup > 0 for point in one.found.points)
