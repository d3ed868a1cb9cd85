from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from benchmarking.recorded import AS_TRAINED, RECORDED, SECOND, Recorded, measured, plan

from eagle3hub.benchmarking import Cell, CellResult, PromptCounts, Results, load_results
from eagle3hub.benchmarking.results import comparisons
from eagle3hub.errors import ManifestError, SourceError
from eagle3hub.metrics import Counts, paired
from eagle3hub.system.resources import schema


def test_the_numbers_are_those_of_the_recorded_run() -> None:
    (cell,) = measured(plan()).cells
    assert list(cell.acceptance.accepted_per_position) == [206, 58, 18]
    assert cell.acceptance.mean_acceptance_length == pytest.approx(1.453, abs=5e-4)
    assert cell.categories["math"].rounds == RECORDED[6].counts.rounds + RECORDED[7].counts.rounds
    assert cell.acceptance.ci95 == pytest.approx([1.349, 1.583], abs=5e-4)
    assert cell.categories["math"].ci95 is None, "two prompts"
    assert cell.prompts.turns == "first"
    assert cell.prompts.source is None
    assert [one.rounds for one in cell.counts] == [one.counts.rounds for one in RECORDED]


def test_other_heads_are_compared_with_the_base_wherever_all_else_is_equal() -> None:
    found = measured(plan(heads=(AS_TRAINED, SECOND), draft_tokens=(3, 5)))
    first, second = found.comparisons
    assert [(c.base, c.other, c.draft_tokens) for c in (first, second)] == [
        ("as-trained", "second", 3),
        ("as-trained", "second", 5),
    ]
    cells = {(c.head, c.settings.draft_tokens): c for c in found.cells}
    expected = paired(cells["second", 3].counts, cells["as-trained", 3].counts)
    assert first.difference == expected.difference
    assert first.difference == pytest.approx(first.mean_acceptance_length - first.base_mean_acceptance_length)
    assert first.relative_percent == pytest.approx(100 * first.difference / first.base_mean_acceptance_length)
    assert first.ci95 == expected.ci95
    other_base = comparisons(found.cells, "second")
    assert other_base[0].difference == -first.difference
    changed = [replace(found.cells[0], engine_version="2.0"), *found.cells[1:]]
    assert len(comparisons(changed, "as-trained")) == 1


def test_the_shared_parts_of_the_schema_are_the_reports() -> None:
    ours, theirs = schema("bench"), schema("report")
    for name in ("verdict", "acceptance", "category"):
        assert ours["$defs"][name] == theirs["$defs"][name]
    for name in ("tool", "target"):
        assert ours["properties"][name] == theirs["properties"][name]
    cell = ours["$defs"]["cell"]["properties"]
    settings, prompts = theirs["properties"]["settings"], theirs["properties"]["prompts"]
    assert set(settings["required"]) < set(cell["settings"]["required"])
    assert set(prompts["required"]) < set(cell["prompts"]["required"])


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (("schema",), "eagle3hub/bench/2", "schema is"),
        (("cells", 0, "colour"), "blue", "unknown field 'cells\\[0\\].colour'"),
        (("cells", 0, "head"), "another", "cells\\[0\\].head is 'another', none of the heads"),
        (("cells", 0, "acceptance", "mean_acceptance_length"), 1.46, "does not follow"),
        (("cells", 0, "acceptance"), None, "does not follow"),
        (("cells", 0, "per_prompt", 0, "rounds"), 57, "does not follow"),
        (("cells", 0, "per_prompt", 0, "accepted"), 9, "the acceptance counters contradict each other: 9 tokens"),
        (("cells", 0, "categories", "math", "rounds"), 1, "cells\\[0\\].categories do not follow from its prompts"),
        (("comparisons", 0, "difference"), 2.0, "the comparisons do not follow from the cells"),
        (("cells", 0, "settings", "draft_tokens"), 4, "another K"),
        (("cells", 0, "prompts", "count"), 80, "has counters of 16 prompts, not of 80"),
        (("cells", 0, "settings", "draft_tokens"), 17, "draft_tokens is 17"),
        (("heads",), [], "heads is a list"),
    ],
)
def test_results_that_were_tampered_with(path: tuple[Any, ...], value: object, says: str, tmp_path: Path) -> None:
    document = copy.deepcopy(measured(plan(heads=(AS_TRAINED, SECOND))).document)
    at: Any = document
    for part in path[:-1]:
        at = at[part]
    at[path[-1]] = value
    with pytest.raises(ManifestError, match=says):
        Results.from_json(document)
    (tmp_path / "r.json").write_text(json.dumps(document))
    with pytest.raises(ManifestError, match=r"r\.json: "):
        load_results(tmp_path / "r.json")


def test_a_head_that_collapsed_is_not_stated_to_pass() -> None:
    class Collapsed(Recorded):
        def measure(self, cell: Cell) -> CellResult:
            none = tuple(PromptCounts(9, 64, Counts(63, 189, 0, (0, 0, 0))) for _ in cell.prompts.prompts)
            return replace(super().measure(cell), verdict="fail", prompts=none)

    document = measured(plan(), Collapsed()).document
    assert Results.from_json(document).verdict == "fail"
    document["cells"][0]["verdict"] = "pass"
    with pytest.raises(ManifestError, match="is stated to pass, and its counters do not") as refused:
        Results.from_json(document)
    assert refused.value.code == "bench-numbers"


def test_files_that_hold_no_results(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="cannot read"):
        load_results(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(ManifestError, match="not valid JSON"):
        load_results(tmp_path / "bad.json")


def test_what_is_saved_is_what_is_read(tmp_path: Path) -> None:
    found = measured(plan(heads=(AS_TRAINED, SECOND)), Recorded())
    found.save(tmp_path / "r.json")
    assert load_results(tmp_path / "r.json").document == found.document
