"""Two reports, or two results of benchmarks, compared prompt by prompt: what may differ, and what must not."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from benchmarking.recorded import AS_TRAINED, SECOND, TARGET, measured, plan, prompts
from support import versions

from eagle3hub.benchmarking import Results
from eagle3hub.benchmarking.compare import compare_reports, comparison_page, finding
from eagle3hub.errors import InputError
from eagle3hub.metrics import Counts, paired, paired_rates
from eagle3hub.system.documents import schema_faults
from eagle3hub.system.resources import schema

Cli = Callable[..., tuple[int, str, str]]
FIXTURE = Path(__file__).parents[1] / "validation" / "fixtures" / "report-three-engines.json"


def saved(results: Results, path: Path) -> Path:
    results.save(path)
    return path


@pytest.fixture
def a(tmp_path: Path) -> Path:
    return saved(measured(plan()), tmp_path / "a.json")


@pytest.fixture
def b(tmp_path: Path) -> Path:
    return saved(measured(plan(heads=(SECOND,), base="second")), tmp_path / "b.json")


@pytest.fixture
def report() -> dict[str, Any]:
    return json.loads(FIXTURE.read_text())  # type: ignore[no-any-return]


def write(document: dict[str, Any], path: Path) -> Path:
    path.write_text(json.dumps(document))
    return path


def test_the_numbers_are_those_of_the_paired_comparison(a: Path, b: Path) -> None:
    (pair,) = compare_reports(a, b).pairs
    ours, theirs = measured(plan()).cells[0], measured(plan(heads=(SECOND,), base="second")).cells[0]
    assert pair.found == paired(theirs.counts, ours.counts)
    assert pair.found.ci95 is not None and pair.found.ci95[0] > 0
    assert pair.finding == "B accepts more"
    assert finding(paired(ours.counts, theirs.counts)) == "B accepts less"
    assert [one.what for one in pair.differs] == ["head", "head's files", "layout"]
    assert list(pair.categories) == list(ours.categories)
    assert pair.categories["math"].ci95 is None, "two prompts"
    first = pair.positions[0]
    assert first.difference == pytest.approx(first.b - first.a)
    assert first.ci95 is not None and first.ci95[0] < first.difference < first.ci95[1]


def test_rates_by_position_add_up_to_the_acceptance_length(a: Path, b: Path) -> None:
    (pair,) = compare_reports(a, b).pairs
    assert sum(one.difference for one in pair.positions) == pytest.approx(pair.found.difference)
    same = [Counts(4, 8, 3, (2, 1))] * 9
    assert [one.ci95 for one in paired_rates(same, same)] == [None, None], "no spread"
    for other in (same[1:], [Counts(4, 4, 2, (2,))] * 9):
        with pytest.raises(InputError) as error:
            paired_rates(same, other)
        assert error.value.code == "metrics-unpaired"


@pytest.mark.slow
def test_one_thing_and_itself(a: Path) -> None:
    (pair,) = compare_reports(a, a).pairs
    assert (pair.finding, pair.differs) == ("all prompts have the same counters", ())
    assert "Nothing that either file states differs." in comparison_page(compare_reports(a, a))


def test_few_prompts_and_close_ones_show_no_difference(tmp_path: Path) -> None:
    few = {"datasets": (prompts("few", 4),)}
    x = saved(measured(plan(**few)), tmp_path / "x.json")
    y = saved(measured(plan(**few, heads=(SECOND,), base="second")), tmp_path / "y.json")
    assert compare_reports(x, y).pairs[0].finding.endswith("8 or more are needed")
    spread = [Counts(20, 40, 10 + i % 5, (10 + i % 5, 0)) for i in range(12)]
    other = [Counts(20, 40, 10 + (i + i // 5) % 5, (10 + (i + i // 5) % 5, 0)) for i in range(12)]
    assert finding(paired(spread, other)) == "no difference is shown: the interval holds 0"
    shifted = [Counts(20, 40, one.accepted + 1, (one.accepted + 1, 0)) for one in spread]
    assert finding(paired(shifted, spread)).endswith("the pairs show no spread")


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"datasets": (prompts("other", 16),)}, "prompts of smoke and of other"),
        ({"draft_tokens": (4,)}, "draft tokens 3 and 4"),
        ({"temperatures": (1.0,)}, "temperature 0.0 and 1.0"),
        ({"settings": replace(plan().settings, max_new_tokens=32)}, "new tokens 64 and 32"),
        ({"settings": replace(plan().settings, system_prompt="x")}, "system prompt none and x"),
    ],
)
def test_what_was_not_measured_alike_is_refused(a: Path, tmp_path: Path, changed: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says) as error:
        compare_reports(a, saved(measured(plan(**changed)), tmp_path / "other.json"))
    assert error.value.code == "compare-conditions"
    assert error.value.message.count(";") == 0, "only what differs is named"


def test_targets_are_held_against_each_other_as_far_as_they_are_known(a: Path, tmp_path: Path) -> None:
    assert "config.json is" in compare_reports(a, a).unproven[0]
    sure = replace(TARGET, weights_digest="sha256:" + "1" * 64)
    x = saved(measured(plan(target=sure)), tmp_path / "x.json")
    assert compare_reports(x, x).unproven == ()
    for name, other in {
        "weights": replace(TARGET, weights_digest="sha256:" + "2" * 64),
        "config.json": replace(TARGET, config_sha256="3" * 64),
        "as far as they say": replace(TARGET, config_sha256=None, name="somebody/else"),
    }.items():
        y = saved(measured(plan(target=other)), tmp_path / "y.json")
        with pytest.raises(InputError, match=name) as error:
            compare_reports(x, y)
        assert error.value.code == "compare-target"
    unnamed = saved(measured(plan(target=replace(TARGET, config_sha256=None))), tmp_path / "z.json")
    assert "its name is" in compare_reports(a, unnamed).unproven[0]


def test_every_engine_of_a_report_meets_its_own(report: dict[str, Any], tmp_path: Path) -> None:
    other = copy.deepcopy(report)
    other["engines"] = [one for one in other["engines"] if one["engine"] != "sglang"]
    other["engines"][1]["version"] = "0.0.1"
    found = compare_reports(write(report, tmp_path / "a.json"), write(other, tmp_path / "b.json"))
    assert [(one.a.engine, one.b.engine) for one in found.pairs] == [("reference",) * 2, ("vllm",) * 2]
    assert [(d.what, d.a, d.b) for d in found.pairs[1].differs] == [("version", versions.VLLM, "0.0.1")]
    assert found.left_out == ("release-specforge on sglang, smoke, K = 3, T = 0 of a.json: no run fits",)
    assert "Not compared" in comparison_page(found)


def test_engines_that_are_alone_may_be_two(report: dict[str, Any], tmp_path: Path) -> None:
    x, y = copy.deepcopy(report), copy.deepcopy(report)
    x["engines"], y["engines"] = report["engines"][:1], report["engines"][1:2]
    found = compare_reports(write(x, tmp_path / "a.json"), write(y, tmp_path / "b.json"))
    assert found.pairs[0].differs[0].shown == ("reference", "vllm")
    y["engines"] = report["engines"][1:]
    with pytest.raises(InputError, match="engine reference and vllm"):
        compare_reports(tmp_path / "a.json", write(y, tmp_path / "b.json"))


def test_a_tree_is_not_compared_with_a_chain(report: dict[str, Any], tmp_path: Path) -> None:
    chain = write(report, tmp_path / "a.json")
    said = {**report, "settings": {**report["settings"], "topk": 1, "num_draft_tokens": 4}}
    assert compare_reports(chain, write(said, tmp_path / "b.json")).pairs, "a chain, however it is said"
    tree = {**report, "settings": {**report["settings"], "topk": 4, "num_draft_tokens": 16}}
    with pytest.raises(InputError) as error:
        compare_reports(chain, write(tree, tmp_path / "c.json"))
    assert "draft tree none and top-k 4, 16 tokens verified" in error.value.message


def test_several_alike_are_not_guessed_at(report: dict[str, Any], tmp_path: Path) -> None:
    twice = copy.deepcopy(report)
    twice["engines"] = [report["engines"][0]] * 2
    with pytest.raises(InputError, match="nothing says which belong together"):
        compare_reports(write(report, tmp_path / "a.json"), write(twice, tmp_path / "b.json"))


def test_files_that_hold_nothing_to_compare(report: dict[str, Any], a: Path, tmp_path: Path) -> None:
    report["engines"] = []
    with pytest.raises(InputError, match="no counters") as error:
        compare_reports(a, write(report, tmp_path / "empty.json"))
    assert error.value.code == "compare-nothing"
    with pytest.raises(InputError, match="its schema is 'eagle3hub/matrix/1'") as error:
        compare_reports(a, write({"schema": "eagle3hub/matrix/1"}, tmp_path / "matrix.json"))
    assert error.value.code == "compare-kind"


@pytest.mark.slow
def test_the_command(cli: Cli, a: Path, b: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    status, out, err = cli("compare-reports", a, b, "--html", page)
    assert (status, err) == (0, "")
    for words in (
        "B − A +0.736, 95 % interval +0.532 to +0.940",
        "16, 0 with the same counters",
        "layout: specjax | specforge",
    ):
        assert words in out, out
    assert str(page) in out
    html = page.read_text()
    assert "τ 1.453 → 2.190" in html and html.count("<svg ") == 2
    assert "<script" not in html and "http://" not in html.replace("http://www.w3.org", "")
    document = json.loads(cli("compare-reports", a, b, "--json")[1])
    assert list(schema_faults(document, schema("compare-reports"))) == []
    assert document["pairs"][0]["acceptance_length"]["difference"] == pytest.approx(0.736, abs=1e-3)
    status, out, err = cli("compare-reports", a, tmp_path / "nowhere.json", "--html", tmp_path / "no.html")
    assert (status, out) == (3, "")
    assert not (tmp_path / "no.html").exists()


def test_a_page_of_several_runs_shows_each(tmp_path: Path) -> None:
    x = saved(measured(plan(draft_tokens=(3, 5))), tmp_path / "x.json")
    y = saved(measured(plan(draft_tokens=(3, 5), heads=(replace(SECOND, name=AS_TRAINED.name),))), tmp_path / "y.json")
    found = compare_reports(x, y)
    assert len(found.pairs) == 2
    html = comparison_page(found)
    assert html.count("<svg ") == 1
    assert "Acceptance length by run" in html
