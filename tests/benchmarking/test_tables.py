from __future__ import annotations

import csv
import io
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from benchmarking.recorded import AS_TRAINED, LARGE, RECORDED, SECOND, THIRD, Recorded, measured, plan, prompts
from rich.console import Console

from eagle3hub.benchmarking import BenchPlan, Cell, CellResult, PromptCounts, Results, Settings, run_bench
from eagle3hub.benchmarking.chart import CSV_COLUMNS, charts, to_csv, to_markdown, write_all
from eagle3hub.benchmarking.results import comparisons
from eagle3hub.benchmarking.run import Throughput
from eagle3hub.benchmarking.table import Table, conditions, tables
from eagle3hub.benchmarking.terminal import render
from eagle3hub.engines.specs import versions_with
from eagle3hub.errors import UnavailableError
from eagle3hub.metrics import Counts
from eagle3hub.prompts import datasets

NOTE = "° not shown to differ: the 95 % interval, paired by prompt, includes 0, or the pairs give none"
TWO = plan(heads=(AS_TRAINED, SECOND), datasets=(plan().datasets[0], prompts("gsm8k")), draft_tokens=(5, 3))

WIDE = plan(heads=(AS_TRAINED, SECOND, THIRD), draft_tokens=(3, 16))


@cache
def large() -> Results:
    """Measured once: it has ninety cells."""
    return measured(LARGE)


def titled(results: Results, start: str) -> Table:
    (found,) = [table for table in tables(results) if table.title.startswith(start)]
    return found


def shown(results: Results, *, width: int = 100, terminal: bool = False) -> str:
    out = Console(file=io.StringIO(), width=width, force_terminal=terminal, highlight=False)
    render(results, out)
    assert isinstance(out.file, io.StringIO)
    return out.file.getvalue()


def test_the_recorded_run_reads_as_it_was_measured() -> None:
    found = measured(plan())
    assert titled(found, "Acceptance length τ, reference 1.0").rows == (("smoke", "0", "3", "16", "1.45 (1.35–1.58)"),)
    assert titled(found, "Acceptance by draft position, marginal").rows[0][4:] == ("33.1", "9.3", "2.9")
    assert titled(found, "Acceptance by draft position, conditional").rows[0][4:] == ("33.1", "28.2", "31.0")
    by_category = titled(found, "Acceptance length τ by category").rows
    assert [row[2] for row in by_category] == list(found.cells[0].prompts.categories)
    assert by_category[0][3:] == ("2", "1.38")
    assert not [table for table in tables(found) if table.title.startswith(("Difference", "Throughput"))]


def test_a_version_that_is_not_known_is_said_once() -> None:
    newest = versions_with("vllm", "engine.toml")[-1]
    said = f"vLLM 9.8.7 is newer than every version that eagle3hub knows: it is judged as {newest}."
    found = measured(TWO)
    for engine, version, expected in (("vllm", "9.8.7", 1), ("vllm", newest, 0), ("vllm", "unknown", 0)):
        cells = tuple(replace(cell, engine=engine, engine_version=version) for cell in found.cells)
        assert conditions(replace(found, cells=cells)).count(said) == expected
        assert " ".join(to_markdown(replace(found, cells=cells)).split()).count(said) == expected


def test_rows_are_data_set_then_temperature_then_draft_tokens() -> None:
    found = titled(measured(replace(TWO, temperatures=(1.0, 0.0))), "Acceptance length τ, ")
    assert [row[:3] for row in found.rows] == [
        (name, t, k) for name in ("smoke", "gsm8k") for t in ("1", "0") for k in ("3", "5")
    ]


def test_differences_name_their_base_and_follow_from_the_counters() -> None:
    found = measured(TWO)
    first = found.comparisons[0]
    table = titled(found, "Difference of τ from as-trained")
    row = next(row for row in table.rows if row[:3] == ("smoke", "0", str(first.draft_tokens)))
    assert row[3] == "second"
    assert row[4] == f"{first.difference:+.3f}"
    low, high = first.ci95
    assert row[5] == f"{low:+.3f} … {high:+.3f}"
    overview = titled(found, "Acceptance length τ, ")
    assert [c.heading for c in overview.columns[4:]] == [("as-trained",), ("second",), ("against", "as-trained")]
    row = next(row for row in overview.rows if row[:3] == ("smoke", "0", str(first.draft_tokens)))
    assert row[6] == f"{first.relative_percent:+.1f} %"


def test_a_row_that_is_read_aloud_names_its_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal a name that the row above has is left out, not in a pipe or for a reader."""
    monkeypatch.setenv("TERM", "xterm")
    found = measured(replace(TWO, temperatures=(1.0, 0.0)))
    rows = len(titled(found, "Acceptance length τ, ").rows)

    def named(text: str) -> int:
        first = text.split("\n\n")[0]
        return len(re.findall(r"^ *(?:smoke|gsm8k) ", re.sub(r"\x1b\[[0-9;]*m", "", first), re.MULTILINE))

    assert named(shown(found, terminal=True)) == 2 < rows
    assert named(shown(found)) == rows
    monkeypatch.setenv("TERM", "dumb")
    assert named(shown(found, terminal=True)) == rows


class Alike(Recorded):
    """Every head does what was recorded, the second once a token more."""

    def measure(self, cell: Cell) -> CellResult:
        rows = list(RECORDED)
        if cell.head == SECOND:
            rows[0] = PromptCounts(45, 64, Counts(56, 168, 9, (8, 1, 0)))
        return CellResult("pass", "recorded", tuple(rows))


def test_a_difference_within_the_noise_is_marked_and_none_has_no_sign() -> None:
    found = run_bench(plan(heads=(AS_TRAINED, SECOND, THIRD)), Alike())
    overview = titled(found, "Acceptance length τ, ")
    assert overview.rows[0][4:] == ("1.45 (1.35–1.58)", "1.45 (1.35–1.58)", "+0.1 %°", "1.45 (1.35–1.58)", "0.0 %°")
    assert overview.notes == (NOTE,)
    difference = titled(found, "Difference")
    assert difference.rows[1][3:] == (THIRD.name, "0.000°", "–", "16 of 16")
    assert difference.rows[0][6] == "15 of 16"


def test_below_zero_is_written_with_a_minus_sign() -> None:
    found = run_bench(plan(heads=(AS_TRAINED, SECOND), base="second"), Alike())
    assert titled(found, "Acceptance length τ, ").rows[0][4:] == (
        "1.45 (1.35–1.58)",
        "\N{MINUS SIGN}0.1 %°",
        "1.45 (1.35–1.58)",
    )


class Uneven(Recorded):
    """Fails one cell with numbers, one without, and has no engine for the third."""

    def measure(self, cell: Cell) -> CellResult:
        found = super().measure(cell)
        if cell.draft_tokens == 5:
            return replace(found, verdict="fail", reason="below the bar")
        if cell.draft_tokens == 7:
            return CellResult("fail", "did not load")
        if cell.draft_tokens == 9:
            raise UnavailableError("no GPU here")
        return found


def test_what_did_not_pass_is_said_in_its_place_and_why_below() -> None:
    found = run_bench(plan(draft_tokens=(3, 5, 7, 9)), Uneven())
    values = [row[4] for row in titled(found, "Acceptance length τ, ").rows]
    assert values[1].endswith(" fail")
    assert values[2:] == ["fail", "unavailable"]
    said = "\n".join(conditions(found))
    assert "Fail (1 of 4 cells): below the bar" in said
    assert "Fail (1 of 4 cells): did not load" in said
    assert "Unavailable (1 of 4 cells): no GPU here" in said


def test_a_run_that_is_not_finished_says_so() -> None:
    whole = measured(TWO)
    cells = whole.cells[:3]
    partial = replace(whole, cells=cells, comparisons=tuple(comparisons(cells, whole.base)))
    assert "Not finished: 5 of 8 cells have not been measured." in conditions(partial)
    rows = titled(partial, "Acceptance length τ, ").rows
    assert [row[2] for row in rows] == ["3", "5"]
    assert rows[0][5] == "–"
    assert rows[1][5] != "–"


@pytest.mark.parametrize("count", [1, 7])
def test_few_prompts_have_no_interval_and_show_no_difference(count: int) -> None:
    found = measured(plan(heads=(AS_TRAINED, SECOND), datasets=(prompts("one", count),)))
    overview = titled(found, "Acceptance length τ, ")
    assert re.fullmatch(r"\d\.\d\d inconclusive", overview.rows[0][4])
    assert overview.rows[0][6].endswith(" %°")
    assert overview.notes == (NOTE,)
    difference = titled(found, "Difference").rows[0]
    assert difference[4].endswith("°")
    assert difference[5] == "–"
    pictures = charts(found)
    assert pictures
    assert not any("(" in chart.alt or "interval" in chart.alt for chart in pictures.values())
    (row, _) = csv.DictReader(io.StringIO(to_csv(found)))
    assert (row["ci95_low_tokens_per_round"], row["standard_error_tokens_per_round"]) == ("", "")


def test_a_verdict_beside_tau_is_not_cut() -> None:
    class Open(Recorded):
        def measure(self, cell: Cell) -> CellResult:
            return replace(super().measure(cell), verdict="inconclusive", reason="open")

    text = shown(measured(plan(), Open()))
    assert "1.45 (1.35–1.58) inconclusive" in text
    assert max(len(line) for line in text.splitlines()) <= 100


def test_throughput_has_a_unit_and_its_conditions() -> None:
    speed = Throughput(40.0, 50.0, "one sequence at a time, warm-up excluded")
    found = titled(measured(plan(), Recorded(speed)), "Throughput, new tokens per second")
    assert found.rows[0][3:] == ("40.0", "50.0", "1.25")
    assert found.notes == ("Conditions: one sequence at a time, warm-up excluded",)


def test_every_condition_is_stated() -> None:
    gsm8k = replace(prompts("gsm8k"), dataset=datasets()["gsm8k"])
    tree = Settings(
        max_new_tokens=64, topk=4, num_draft_tokens=16, system_prompt="Be brief.", drafting="probabilistic"
    )
    said = "\n".join(conditions(measured(plan(datasets=(gsm8k,), settings=tree))))
    for part in (
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "Head as-trained: specjax layout, sha256:aaaa",
        "first turn of each",
        "MIT, revision cb7e0841fe0c",
        "up to 64 new tokens, tree (top-k 4, 16 tokens verified), probabilistic drafting, seed 0, float32 on cpu",
        "system prompt 'Be brief.'",
        "ratio estimator",
    ):
        assert part in said


@pytest.mark.slow
@pytest.mark.parametrize("which", [LARGE, WIDE, plan()])
def test_the_terminal_never_needs_more_than_a_hundred_columns(which: BenchPlan) -> None:
    found = large() if which is LARGE else measured(which)
    text = shown(found, width=160)
    assert max(len(line) for line in text.splitlines()) <= 100
    assert "\x1b" not in text
    for table in tables(found):
        for value in {value for row in table.rows for value in row[table.keys :] if value}:
            assert value in text, f"{value!r} was cut"


@pytest.mark.slow
def test_a_terminal_gets_colours_and_a_narrow_one_narrow_tables() -> None:
    assert "\x1b[1m" in shown(measured(plan()), terminal=True)
    text = shown(large(), width=72)
    assert max(len(line) for line in text.splitlines()) <= 72
    assert "1.45 (1.35–1.58)" in text


def test_the_columns_of_a_csv_are_stable_and_its_numbers_exact() -> None:
    found = measured(TWO, Recorded(Throughput(40.0, None, "x")))
    rows = list(csv.DictReader(io.StringIO(to_csv(found))))
    assert len(rows) == TWO.size
    assert tuple(rows[0]) == CSV_COLUMNS
    assert len(CSV_COLUMNS) == len(set(CSV_COLUMNS)) == 50
    cell = next(c for c in found.cells if c.settings.draft_tokens == 3)
    row = next(r for r in rows if r["draft_tokens"] == "3")
    assert float(row["acceptance_length_tokens_per_round"]) == cell.acceptance.mean_acceptance_length
    assert float(row["ci95_low_tokens_per_round"]) == cell.acceptance.ci95[0]
    assert (row["rounds"], row["drafted_tokens"], row["accepted_tokens"]) == ("622", "1866", "282")
    assert float(row["marginal_rate_position_3_fraction"]) == 18 / 622
    assert row["marginal_rate_position_4_fraction"] == row["speculative_tokens_per_second"] == ""
    assert (row["max_new_tokens"], row["drafting"], row["topk"], row["head_layout"]) == ("64", "greedy", "", "specjax")


def test_markdown_shows_names_as_they_are() -> None:
    odd = replace(AS_TRAINED, name="a|b*c_d[e]<f>`g`")
    text = to_markdown(measured(plan(heads=(odd,), base=odd.name)))
    escaped = r"a\|b\*c\_d\[e\]\<f\>\`g\`"
    assert f"| data set | T | K | n | {escaped} |" in text
    assert f"Head {escaped}: specjax layout" in text


@pytest.mark.slow
def test_everything_is_written_and_linked(tmp_path: Path) -> None:
    found = large()
    written = write_all(found, tmp_path)
    names = {path.relative_to(tmp_path).as_posix() for path in written}
    kinds = ("tau-by-dataset", "rate-by-position", "tau-by-draft-tokens")
    assert names == {"results.csv", "tables.md"} | {
        f"charts/{kind}-reference-T{t}.{form}" for kind in kinds for t in (0, 1) for form in ("svg", "png")
    }
    assert {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()} == names
    text = (tmp_path / "tables.md").read_text()
    links = re.findall(r"^!\[(.+)\]\((.+)\)$", text, flags=re.MULTILINE)
    assert len(links) == 6
    assert all((tmp_path / link).is_file() and len(alt) > 100 for alt, link in links)


@pytest.mark.slow
def test_charts_show_the_measured_numbers() -> None:
    found = charts(measured(TWO))
    assert list(found) == [f"{k}-reference-T0" for k in ("tau-by-dataset", "rate-by-position", "tau-by-draft-tokens")]
    assert "K = 3: as-trained: smoke 1.45 (1.35 to 1.58)" in found["tau-by-dataset-reference-T0"].alt
    one = charts(measured(plan()))
    assert list(one) == ["tau-by-dataset-reference-T0", "rate-by-position-reference-T0"]
    assert "position 1 33.1%, position 2 9.3%, position 3 2.9%" in one["rate-by-position-reference-T0"].alt
    gaps = charts(run_bench(plan(draft_tokens=(3, 7)), Uneven()))
    assert "rate-by-position-reference-T0" in gaps
    nothing = run_bench(plan(draft_tokens=(7,)), Uneven())
    assert charts(nothing) == {}
    assert "did not load" in to_markdown(nothing)
