"""A quantised target or head against the unquantised one: two benchmarks, compared prompt by prompt."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from benchmarking.recorded import SECOND, TARGET, Recorded, invented, measured, plan, prompts
from support import heads, targets

from eagle3hub.benchmarking import BenchOptions, Cell, CellResult, PromptCounts, Results, bench
from eagle3hub.benchmarking.plan import Settings
from eagle3hub.benchmarking.results import held_against
from eagle3hub.benchmarking.table import conditions, tables
from eagle3hub.engines.base import EngineSettings
from eagle3hub.errors import InputError, ManifestError
from eagle3hub.metrics import Counts, acceptance
from eagle3hub.validation.gates import collapse, loss

QUANTISED = replace(TARGET, name="SmolLM2-FP8", weights_digest="sha256:" + "9" * 64)


class Losing(Recorded):
    """A target on which the same head gets a share of its drafts refused, in every round alike."""

    def __init__(self, every: int) -> None:
        super().__init__()
        self.every = every

    def measure(self, cell: Cell) -> CellResult:
        found = []
        for number, one in enumerate(invented(cell)):
            kept = [a - (a + number % 2) // self.every for a in one.counts.accepted_per_position]
            accepted = tuple(min(kept[: i + 1]) for i in range(len(kept)))
            counts = Counts(one.counts.rounds, one.counts.drafted, sum(accepted), accepted)
            found.append(PromptCounts(40, counts.emitted, counts))
        gate = collapse(acceptance([one.counts for one in found]))
        return CellResult(gate.verdict, gate.reason, tuple(found), {}, None, 1.0)


SETS = (prompts("gsm8k", 24),)


def earlier() -> Results:
    return measured(plan(datasets=SETS, draft_tokens=(3, 5)), Losing(10**9))


@pytest.mark.parametrize(("every", "verdict"), [(10**9, "pass"), (40, "pass"), (3, "fail")])
def test_what_a_quantised_target_loses_is_judged(every: int, verdict: str) -> None:
    found = held_against(
        measured(plan(target=QUANTISED, datasets=SETS, draft_tokens=(3, 5)), Losing(every)), earlier()
    )
    assert [one.gate.verdict for one in found.losses] == [verdict] * 2, found.losses
    assert found.verdict == verdict
    one = found.losses[0]
    assert "target: SmolLM2-FP8, was HuggingFaceTB/SmolL" in one.differs
    assert any(what.startswith("target's weights") for what in one.differs)
    (table,) = [t for t in tables(found) if "Loss against" in t.title]
    assert [row[-1] for row in table.rows] == [verdict] * 2
    said = "\n".join(conditions(found))
    assert ("against the earlier results" in said) == (verdict != "pass")


def test_a_quantised_head_is_compared_with_the_only_one_there() -> None:
    quantised = replace(SECOND, name="fp8", digest="sha256:" + "8" * 64)
    found = held_against(
        measured(plan(heads=(quantised,), base="fp8", datasets=SETS, draft_tokens=(3,)), Losing(3)), earlier()
    )
    (one,) = found.losses
    assert (one.head, one.earlier_head) == ("fp8", "as-trained")
    assert any(what.startswith("head's files") for what in one.differs)
    assert len(found.against.cells) == 1, "only what is compared is kept"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "changed",
    [{"datasets": (prompts("other", 24),)}, {"draft_tokens": (4,)}, {"engines": ("vllm",)}, {"temperatures": (1.0,)}],
)
def test_what_was_not_measured_alike_is_not_compared(changed: dict[str, Any]) -> None:
    now = measured(plan(**{"target": QUANTISED, "datasets": SETS, **changed}), Losing(3))
    with pytest.raises(InputError, match="no cell over the same prompts") as error:
        held_against(now, earlier())
    assert error.value.code == "bench-against"


def test_a_target_that_the_engine_quantised_is_compared_and_its_argument_is_said() -> None:
    fp8 = EngineSettings(arguments={"vllm": {"quantization": "fp8"}})
    now = measured(
        plan(datasets=SETS, engines=("vllm",), settings=Settings(max_new_tokens=64, engine_settings=fp8)), Losing(3)
    )
    found = held_against(now, measured(plan(datasets=SETS, engines=("vllm",)), Losing(10**9)))
    (one,) = found.losses
    assert one.gate.verdict == "fail"
    assert any(what.startswith('engine settings: {"arguments": {"vl') and "was none" in what for what in one.differs)
    rendered = EngineSettings(chat_template={"think": True})
    other = measured(
        plan(datasets=SETS, engines=("vllm",), settings=Settings(max_new_tokens=64, engine_settings=rendered)),
        Losing(3),
    )
    with pytest.raises(InputError, match="no cell over the same prompts"):
        held_against(now, other)


def test_few_prompts_settle_nothing() -> None:
    few = (prompts("gsm8k", 4),)
    base = measured(plan(datasets=few), Losing(10**9))
    found = held_against(measured(plan(target=QUANTISED, datasets=few), Losing(3)), base)
    assert found.losses[0].gate.verdict == "inconclusive"


class Silent(Recorded):
    """A head that never drafts."""

    def measure(self, cell: Cell) -> CellResult:
        rows = tuple(PromptCounts(4, 1, Counts(0, 0, 0, (0, 0, 0))) for _ in cell.prompts.prompts)
        return CellResult("fail", "no round", rows, {}, None, 1.0)


def test_cells_without_a_round_are_not_compared() -> None:
    with pytest.raises(InputError, match="ran a round that could be compared: no round") as error:
        held_against(measured(plan(target=QUANTISED, datasets=SETS), Silent()), earlier())
    assert error.value.code == "bench-against"
    assert "ran no round" in loss([Counts(0, 0, 0, (0,))], [Counts(1, 1, 1, (1,))]).reason


def test_what_a_file_states_of_losses_is_computed_again() -> None:
    found = held_against(measured(plan(target=QUANTISED, datasets=SETS), Losing(3)), earlier())
    document = found.to_json()
    assert Results.from_json(copy.deepcopy(document)).to_json() == document
    forged = json.loads(json.dumps(document))
    forged["losses"][0]["gate"]["verdict"] = "pass"
    with pytest.raises(ManifestError, match="the losses do not follow"):
        Results.from_json(forged)
    forged = json.loads(json.dumps(document))
    forged["against"]["cells"][0]["per_prompt"][0]["accepted_per_position"] = [9, 9, 9]
    with pytest.raises((ManifestError, InputError)):
        Results.from_json(forged)


@pytest.mark.slow
def test_the_command_compares_two_formats_of_a_target(
    cli: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    """A float32 and a rounded target, with the reference; the earlier results are read before anything runs."""
    target = targets.save(tmp_path / "target", tokenizer=True, num_hidden_layers=8)
    head = heads.specjax(tmp_path / "head", heads.dims(hidden=16, vocab=97))
    words = ("bench", head, "--target", target, "--datasets", "smoke", "--max-new-tokens", 8)
    first = cli(*words, "--output", tmp_path / "whole")
    assert (tmp_path / "whole" / "results.json").is_file(), first[2]
    _, out, err = cli(
        *words, "--dtype", "bfloat16", "--against", tmp_path / "whole" / "results.json", "--output", tmp_path / "q"
    )
    assert "Loss against earlier results of target" in out, err
    assert "dtype: bfloat16, was float32" in out.replace("\n", " ")
    assert json.loads((tmp_path / "q" / "results.json").read_text())["losses"]


def test_what_cannot_be_compared_is_said_before_anything_runs(
    cli: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    head, target = heads.specjax(tmp_path / "head"), heads.target(tmp_path / "target")
    words = ("bench", head, "--target", target, "--datasets", "smoke")
    status, _, err = cli(*words, "--against", tmp_path / "none.json")
    assert status == 3, err
    earlier().save(tmp_path / "results.json")
    status, _, err = cli(*words, "--against", tmp_path / "results.json", "--concurrency", "1")
    assert status == 2
    assert "--against compares acceptance" in err


@pytest.mark.slow
def test_the_python_function_compares_too(tmp_path: Path) -> None:
    target = targets.save(tmp_path / "target", tokenizer=True, num_hidden_layers=8)
    head = heads.specjax(tmp_path / "head", heads.dims(hidden=16, vocab=97))
    options = BenchOptions(datasets="smoke", num_prompts=8, max_new_tokens=8)
    bench([str(head)], str(target), options, folder=tmp_path / "first")
    again = bench(
        [str(head)], str(target), options, folder=tmp_path / "second", against=tmp_path / "first" / "results.json"
    )
    (one,) = again.losses
    assert (one.gate.verdict, one.differs) == ("pass", ())
