"""A serving measurement on a card: its tables, its conditions, its chart, and only of this target and this head."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import card_samples as samples
import pytest
from benchmarking.recorded import AS_TRAINED, measured, plan
from benchmarking.serving_samples import HEAD, Table
from benchmarking.serving_samples import plan as serving_plan

from eagle3hub.benchmarking.serving.measure import run_serving
from eagle3hub.benchmarking.serving.results import ServingResults
from eagle3hub.benchmarking.serving.table import conditions, tables
from eagle3hub.card import Manifest, Shown, render_text
from eagle3hub.card.render import draw
from eagle3hub.card.results import Benchmark, find_benchmarks
from eagle3hub.checkpoint.digest import folder_digest
from eagle3hub.errors import ManifestError
from eagle3hub.lint.parse import parse_card

OURS = replace(AS_TRAINED, digest=folder_digest(samples.EXAMPLE.parent / "head")[0])


def served(**changed: object) -> ServingResults:
    contenders = (replace(HEAD, head=OURS), *serving_plan().contenders[1:])
    return run_serving(serving_plan(contenders=contenders, **changed), Table())


def test_every_table_and_condition_is_printed(example: Manifest) -> None:
    results = served()
    pictures, files = draw(example, [], [Benchmark(results)])
    shown = Shown(benchmarks=[Benchmark(results, "benchmarks/1.json")], pictures=pictures)
    text = render_text(example, [], samples.make_head(), shown=shown)
    section = text.split("### Speed under load\n", 1)[1].split("\n## ", 1)[0]
    assert [line[5:] for line in section.splitlines() if line.startswith("#### ")] == [
        *(table.title for table in tables(results)),
        "Conditions of the measurement",
    ]
    assert len(list(parse_card(section).tables)) == len(tables(results)) == 4
    for table in tables(results):
        for row in table.rows:
            assert f"| {' | '.join(row)} |" in section
    assert section.count("\n- ") == len(conditions(results))
    assert sorted(files) == [
        "charts/benchmark-1-throughput-by-concurrency-vllm.png",
        "charts/benchmark-1-throughput-by-concurrency-vllm.svg",
    ]
    assert "Throughput by concurrency" in section


def test_beside_an_ordinary_benchmark(example: Manifest, tmp_path: Path) -> None:
    plain = measured(plan(heads=(OURS,)))
    text = render_text(
        example, [], samples.make_head(), shown=Shown(benchmarks=[Benchmark(plain), Benchmark(served())])
    )
    assert "### Benchmark 1\n" in text
    assert "### Speed under load 2\n" in text
    folder = tmp_path / "benchmarks"
    plain.save(folder / "1.json")
    served().save(folder / "2.json")
    manifest = replace(example, path=tmp_path / "release.yaml", benchmarks=("benchmarks/*.json",))
    found = [results for _, results in find_benchmarks(manifest)]
    assert found == [plain, replace(served(), measured_at=found[1].measured_at)]
    document = json.loads((folder / "2.json").read_text())
    document["cells"][0]["requests"][0]["last"] += 1
    (folder / "2.json").write_text(json.dumps(document))
    with pytest.raises(ManifestError) as error:
        find_benchmarks(manifest)
    assert error.value.code == "serving-numbers"


def test_of_another_head_or_target(example: Manifest) -> None:
    results = served()
    for wrong, code in (
        (replace(results, target=replace(results.target, name="owner/other")), "bench-target"),
        (replace(results, heads=(replace(results.heads[0], digest="sha256:" + "0" * 64),)), "bench-digest"),
    ):
        with pytest.raises(ManifestError) as error:
            shown = Shown(digests={OURS.digest}, benchmarks=[Benchmark(wrong)])
            render_text(example, [], samples.make_head(), shown=shown)
        assert error.value.code == code
