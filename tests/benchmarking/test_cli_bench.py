"""The command, with recorded counters in place of a model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from benchmarking.recorded import Recorded
from support import heads

from eagle3hub.benchmarking import BenchPlan, Cell, CellResult
from eagle3hub.benchmarking.plan import parse_list
from eagle3hub.cli import app
from eagle3hub.cli.bench import bench_command
from eagle3hub.errors import UsageError
from eagle3hub.prompts import datasets

Bench = Callable[..., tuple[int, str, str]]


@pytest.fixture
def plans() -> list[BenchPlan]:
    return []


@pytest.fixture
def runner() -> Recorded:
    return Recorded()


@pytest.fixture
def bench(
    cli: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch, plans: list[BenchPlan], runner: Recorded
) -> Bench:
    """Run ``eagle3hub bench`` with a runner that knows counters only."""

    def make_runner(plan: BenchPlan, *_: object) -> Recorded:
        plans.append(plan)
        return runner

    def with_bench(wanted: str) -> Any:
        assert wanted == "bench"
        built = app.build(wanted)
        built.command(wanted)(bench_command(make_runner))
        return typer.main.get_command(built)

    monkeypatch.setattr(app, "_command", with_bench)
    return lambda *argv: cli("bench", *argv)


@pytest.fixture
def two(tmp_path: Path) -> list[str]:
    """Two heads that fit one target, and the target."""
    first = heads.specjax(tmp_path / "one" / "head")
    second = heads.specforge(tmp_path / "two" / "head")
    target = heads.target(tmp_path / "target")
    return [f"first={first}", f"second={second}", "--target", str(target), "--datasets", "smoke"]


@pytest.mark.slow
def test_a_benchmark_of_two_heads(bench: Bench, two: list[str], plans: list[BenchPlan], tmp_path: Path) -> None:
    out = tmp_path / "results"
    status, stdout, stderr = bench(*two, "--draft-tokens", "3, 5", "--temperature", "0,0.7", "--output", out)
    assert (status, stderr) == (0, "")
    (plan,) = plans
    assert [(h.name, h.layout) for h in plan.heads] == [("first", "specjax"), ("second", "specforge")]
    assert (plan.draft_tokens, plan.temperatures, plan.base) == ((3, 5), (0.0, 0.7), "first")
    assert "against" in stdout
    named = {line.removeprefix("written").strip() for line in stdout.splitlines() if line.startswith("written ")}
    assert named == {str(p) for p in out.rglob("*") if p.is_file()}, "every file is named"
    assert {p.name for p in out.iterdir()} == {"results.json", "results.csv", "tables.md", "charts"}


def test_json_is_the_results(bench: Bench, two: list[str]) -> None:
    status, stdout, _ = bench(*two, "--num-prompts", 8, "--max-new-tokens", 32, "--base", "second", "--json")
    document = json.loads(stdout)
    assert status == 0
    assert document["schema"] == "eagle3hub/bench/1"
    assert document["base"] == "second"
    assert [c["prompts"]["count"] for c in document["cells"]] == [8, 8]
    assert document["cells"][0]["settings"]["max_new_tokens"] == 32


def test_the_exit_status_is_that_of_the_worst_cell(bench: Bench, two: list[str], runner: Recorded) -> None:
    def fail(cell: Cell) -> CellResult:
        return CellResult("fail", "too short")

    runner.measure = fail  # type: ignore[method-assign]
    assert bench(*two)[0] == 1


@pytest.mark.slow
def test_going_on_with_earlier_results(bench: Bench, two: list[str], runner: Recorded, tmp_path: Path) -> None:
    assert bench(*two, "--output", tmp_path / "out")[0] == 0
    status, _, stderr = bench(*two, "--output", tmp_path / "out")
    assert status == 3
    assert "--resume" in stderr
    assert bench(*two, "--output", tmp_path / "out", "--resume", "--draft-tokens", "3,4")[0] == 0
    assert len(runner.measured) == 4


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([], "bench needs a head"),
        (["--draft-tokens", "3,x"], "'3,x' is not a list of whole numbers"),
        (["--draft-tokens", "3,,5"], "not a list"),
        (["--temperature", "warm"], "not a list of numbers"),
        (["--engine", "vlm"], "did you mean 'vllm'"),
        (["--base", "third"], "none of the heads"),
        (["--num-prompts", "17"], "smoke has 16"),
    ],
)
def test_usage(bench: Bench, two: list[str], argv: list[str], says: str) -> None:
    status, _, stderr = bench(*(two if argv else []), *argv)
    assert status == 2
    assert says in stderr


def test_heads_of_the_same_name_have_to_be_told_apart(bench: Bench, two: list[str]) -> None:
    paths = [text.split("=", 1)[1] for text in two[:2]]
    status, _, stderr = bench(*paths, *two[2:])
    assert status == 2
    assert "HEAD has head twice" in stderr
    assert "first=FOLDER" in stderr


def test_a_head_that_is_not_there_or_is_broken(bench: Bench, two: list[str], tmp_path: Path) -> None:
    status, _, stderr = bench(tmp_path / "nowhere", *two[2:])
    assert (status, "is not a folder" in stderr) == (3, True)
    status, _, stderr = bench(*two, "--datasets", "mtbench")
    assert (status, "did you mean 'mt_bench'" in stderr) == (3, True)


def test_listing_the_data_sets(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EAGLE3HUB_CACHE", str(tmp_path))
    path = datasets()["qa"].path
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    status, stdout, _ = bench("--list-datasets")
    assert status == 0
    assert max(len(line) for line in stdout.splitlines()) <= 100
    for name, one in datasets().items():
        row = next(line for line in stdout.splitlines() if line.split()[:1] == [name])
        assert ("yes" in row.split()) == (name == "qa"), row
        assert ("?" if one.prompts is None else str(one.prompts)) in row.split()
    listed_json: list[dict[str, Any]] = json.loads(bench("--list-datasets", "--json")[1])["datasets"]
    assert {one["name"]: one["cached"] for one in listed_json} == {name: name == "qa" for name in datasets()}
    assert all(one["license"] for one in listed_json)


def test_the_licence_is_told_before_a_set_is_fetched(
    bench: Bench, two: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EAGLE3HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    status, _, stderr = bench(*two[:4], "--datasets", "alpaca")
    assert status == 5
    assert "fetching Alpaca, 80 instructions, licence: CC-BY-NC-4.0; not to be passed on" in stderr
    assert "cannot be fetched" in stderr


def test_lists() -> None:
    assert parse_list("--x", " 1, 2 ", int, "numbers") == [1, 2]
    with pytest.raises(UsageError):
        parse_list("--x", "", int, "numbers")
