"""Running a plan: nothing is measured twice, nothing measured is lost."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from benchmarking.recorded import AS_TRAINED, SECOND, SMOKE, Recorded, plan, prompts

from eagle3hub.benchmarking import Cell, CellGroup, CellResult, Settings, load_results, run_bench
from eagle3hub.errors import InputError, OutputError, UnavailableError

TWO = plan(heads=(AS_TRAINED, SECOND), datasets=(SMOKE, prompts("gsm8k")), draft_tokens=(3, 5))


def test_each_group_is_set_up_once(tmp_path: Path) -> None:
    runner = Recorded()
    found = run_bench(TWO, runner, folder=tmp_path / "new" / "folder")
    assert [group.prompts.name for group in runner.groups] == ["smoke", "gsm8k"]
    assert len(runner.measured) == TWO.size == len(found.cells)
    assert [(c.prompts.name, c.head, c.settings.draft_tokens) for c in found.cells[:4]] == [
        ("smoke", "as-trained", 3),
        ("smoke", "as-trained", 5),
        ("smoke", "second", 3),
        ("smoke", "second", 5),
    ]
    saved = load_results(tmp_path / "new" / "folder" / "results.json")
    assert saved.cells == found.cells


class Stops(Recorded):
    """Measures three cells, then is interrupted."""

    def measure(self, cell: Cell) -> CellResult:
        if len(self.measured) == 3:
            raise KeyboardInterrupt
        return super().measure(cell)


def test_what_was_measured_before_an_interruption_is_kept_and_not_measured_again(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_bench(TWO, Stops(), folder=tmp_path)
    partial = load_results(tmp_path / "results.json").document
    assert (len(partial["cells"]), partial["cells_planned"]) == (3, 8)
    runner = Recorded()
    resumed = run_bench(TWO, runner, folder=tmp_path, resume=True)
    assert len(runner.measured) == 5
    assert [len(group.cells) for group in runner.groups] == [1, 4]
    assert resumed.cells == run_bench(TWO, Recorded()).cells
    again = Recorded()
    run_bench(TWO, again, folder=tmp_path, resume=True)
    assert again.groups == []


def test_a_plan_may_grow_and_heads_be_renamed(tmp_path: Path) -> None:
    run_bench(plan(), Recorded(), folder=tmp_path)
    runner = Recorded()
    renamed = replace(AS_TRAINED, name="first")
    grown = plan(heads=(renamed, SECOND), base="first", draft_tokens=(3, 5))
    found = run_bench(grown, runner, folder=tmp_path, resume=True)
    assert len(runner.measured) == 3
    assert [cell.head for cell in found.cells] == ["first", "first", "second", "second"]
    assert found.cells[0].acceptance.rounds == 622


def test_results_of_something_else_are_not_overwritten(tmp_path: Path) -> None:
    run_bench(plan(), Recorded(), folder=tmp_path)
    before = (tmp_path / "results.json").read_bytes()
    runner = Recorded()
    with pytest.raises(OutputError, match="another run") as error:
        run_bench(plan(), runner, folder=tmp_path)
    assert "--resume" in (error.value.hint or "")
    for other in (
        plan(settings=Settings(max_new_tokens=128)),
        plan(draft_tokens=(5,)),
        plan(heads=(SECOND,), base="second"),
    ):
        with pytest.raises(OutputError, match=r"would lose: as-trained on smoke \(16 prompts\), K = 3"):
            run_bench(other, runner, folder=tmp_path, resume=True)
    with pytest.raises(OutputError, match=r"reference 1\.0"):
        run_bench(plan(), Recorded(engine_version="2.0"), folder=tmp_path, resume=True)
    assert runner.measured == []
    assert (tmp_path / "results.json").read_bytes() == before


class Absent(Recorded):
    """Has no vLLM, and loses the reference's device after the first cell."""

    def version(self, engine: str) -> str:
        if engine == "vllm":
            raise UnavailableError("vLLM is not installed")
        return super().version(engine)

    def measure(self, cell: Cell) -> CellResult:
        if self.measured:
            raise UnavailableError("the device has gone")
        return super().measure(cell)


def test_an_engine_that_is_not_there_makes_its_cells_unavailable_and_is_tried_again(tmp_path: Path) -> None:
    both = plan(engines=("vllm", "reference"), draft_tokens=(3, 5))
    found = run_bench(both, Absent(), folder=tmp_path)
    assert [(c.engine, c.verdict, c.reason) for c in found.cells] == [
        ("vllm", "unavailable", "vLLM is not installed"),
        ("vllm", "unavailable", "vLLM is not installed"),
        ("reference", "pass", "as it should be"),
        ("reference", "unavailable", "the device has gone"),
    ]
    assert found.verdict == "unavailable"
    runner = Recorded()
    assert run_bench(both, runner, folder=tmp_path, resume=True).verdict == "pass"
    assert len(runner.measured) == 3


def test_resuming_without_the_engine_that_measured_says_so(tmp_path: Path) -> None:
    run_bench(plan(engines=("vllm",)), Recorded(), folder=tmp_path)
    with pytest.raises(UnavailableError, match="not installed"):
        run_bench(plan(engines=("vllm",)), Absent(), folder=tmp_path, resume=True)


class Confused(Recorded):
    """Hands back one prompt too few."""

    def measure(self, cell: Cell) -> CellResult:
        found = super().measure(cell)
        return replace(found, prompts=found.prompts[:-1])


def test_a_runner_that_loses_a_prompt_is_found_out(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shorter"):
        run_bench(plan(), Confused(), folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_other_errors_end_the_run(tmp_path: Path) -> None:
    class Broken(Recorded):
        def group(self, group: CellGroup) -> object:
            raise InputError("the head does not fit the target")

    with pytest.raises(InputError, match="does not fit"):
        run_bench(plan(), Broken(), folder=tmp_path)


def test_a_folder_that_cannot_be_is_refused_before_measuring(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    runner = Recorded()
    with pytest.raises(OutputError, match="not a writable folder"):
        run_bench(plan(), runner, folder=tmp_path / "file" / "below")
    assert runner.measured == []


def test_progress_reaches_the_end() -> None:
    said: list[tuple[str, float | None]] = []
    run_bench(TWO, Recorded(), progress=lambda message, fraction=None: said.append((message, fraction)))
    assert said[0] == ("reference on smoke, T = 0", 0.0)
    assert said[-1] == ("second on gsm8k, K = 5, T = 0", 7 / 8)


def test_results_hold_no_prompt_text(tmp_path: Path) -> None:
    run_bench(TWO, Recorded(), folder=tmp_path)
    text = json.dumps(json.loads((tmp_path / "results.json").read_text()), ensure_ascii=False)
    assert not [p.text for dataset in TWO.datasets for p in dataset.prompts if p.text in text]
