"""Results of a benchmark on a card: its own tables, its cells as metadata, and only of this target and this head."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import card_samples as samples
import pytest
from benchmarking.recorded import AS_TRAINED, SECOND, TARGET, measured, plan
from huggingface_hub import ModelCard

from eagle3hub.benchmarking.results import Results
from eagle3hub.benchmarking.table import conditions, tables
from eagle3hub.card import Manifest, Shown, load_manifest, render_text
from eagle3hub.card.assemble import render_card
from eagle3hub.card.manifest import EngineNote
from eagle3hub.card.results import Benchmark
from eagle3hub.checkpoint.digest import folder_digest
from eagle3hub.errors import ManifestError
from eagle3hub.lint import lint_text
from eagle3hub.lint.parse import parse_card

OURS = replace(AS_TRAINED, digest=folder_digest(samples.EXAMPLE.parent / "head")[0])


def two_heads(**changed: object) -> Results:
    return measured(plan(heads=(OURS, SECOND), draft_tokens=(3, 5), temperatures=(0.0, 1.0), **changed))


def test_every_table_and_condition_is_printed(example: Manifest) -> None:
    results = two_heads()
    text = render_text(example, [], samples.make_head(), shown=Shown(benchmarks=[Benchmark(results)]))
    section = text.split("### Benchmark\n", 1)[1].split("\n## ", 1)[0]
    assert "Nothing has been measured" not in text
    titles = [table.title for table in tables(results)]
    assert [line[5:] for line in section.splitlines() if line.startswith("#### ")] == [
        *titles,
        "Conditions of the benchmark",
    ]
    for kind in ("by category", "position, marginal", "position, conditional", "Difference"):
        assert any(kind in title for title in titles), kind
    assert len(list(parse_card(section).tables)) == len(titles)
    for table in tables(results):
        for row in table.rows:
            assert f"| {' | '.join(row)} |" in section
    assert section.count("\n- ") == len(conditions(results))


def test_an_engine_that_a_benchmark_ran_on_was_run(example: Manifest) -> None:
    results = two_heads()
    note = replace(example, engines=(EngineNote(engine="vllm"), EngineNote(engine="trtllm")))
    text = render_text(note, [], samples.make_head(), shown=Shown(benchmarks=[Benchmark(results)]))
    assert "No engine was run here" in text and "vLLM, not tested here" in text, "it was the reference"
    results = replace(results, cells=tuple(replace(cell, engine="vllm") for cell in results.cells))
    text = render_text(note, [], samples.make_head(), shown=Shown(benchmarks=[Benchmark(results)]))
    assert "No engine was validated here with these files, so no tested command is printed." in text
    assert re.findall(r"^### (\S+), (.+)$", text, re.M)[:2] == [
        ("vLLM", "benchmarked here, not validated"),
        ("TensorRT-LLM", "not tested here"),
    ]
    assert text.count("never run with these files") == 1


def test_nothing_above_info_is_found_in_it(example: Manifest) -> None:
    shown = [Benchmark(two_heads(), "benchmarks/1.json")]
    text = render_text(example, [], samples.make_head(), shown=Shown(benchmarks=shown, digests={OURS.digest}))
    found = lint_text(text, files=["benchmarks/1.json"])
    assert [f for f in found if f.severity != "info"] == []


def test_cells_of_this_release_and_no_others_are_metadata(example: Manifest) -> None:
    shown = [Benchmark(two_heads(), "benchmarks/1.json")]
    text = render_text(example, [], samples.make_head(), shown=Shown(benchmarks=shown, digests={OURS.digest}))
    data = ModelCard(text).data
    own = shown[0].cells_of({OURS.digest})
    assert [cell.head for cell in own] == ["as-trained"] * 4
    assert [r.metric_value for r in data.eval_results] == [round(c.acceptance.mean_acceptance_length, 3) for c in own]
    assert {(r.metric_args["K"], r.metric_args["temperature"]) for r in data.eval_results} == {
        (3, 0), (3, 1), (5, 0), (5, 1)
    }  # fmt: skip
    source = f"https://huggingface.co/{samples.REPO}/blob/main/benchmarks/1.json"
    assert {r.source_url for r in data.eval_results} == {source}
    assert (
        ModelCard(render_text(example, [], samples.make_head(), shown=Shown(benchmarks=shown))).data.eval_results
        is None
    )


def test_two_benchmarks_have_their_numbers(example: Manifest) -> None:
    shown = [Benchmark(measured(plan())), Benchmark(two_heads())]
    text = render_text(example, [], samples.make_head(), shown=Shown(benchmarks=shown))
    assert text.count("### Benchmark 1\n") == text.count("### Benchmark 2\n") == 1


def test_several_heads_and_several_ways_are_told_apart(example: Manifest) -> None:
    one = two_heads()
    thinking = "the target's own with enable_thinking=true"
    other = replace(
        one, cells=tuple(replace(c, settings=replace(c.settings, chat_template=thinking)) for c in one.cells)
    )
    shown = Shown(benchmarks=[Benchmark(one), Benchmark(other)], digests={OURS.digest})
    text = render_text(example, [], samples.make_head(), shown=shown)
    assert re.findall(r"^### Benchmark.*", text, re.M) == [
        "### Benchmark 1: default",
        "### Benchmark 2: enable\\_thinking=true",
    ]
    assert text.count("this head is called *as-trained*.") == 2
    alone = measured(plan(heads=(OURS,)))
    text = render_text(
        example, [], samples.make_head(), shown=Shown(benchmarks=[Benchmark(alone)], digests={OURS.digest})
    )
    assert "this head is called" not in text


def test_a_benchmark_of_something_else_is_refused(example: Manifest) -> None:
    other = replace(example, target=replace(example.target, id="owner/other"))
    known = replace(example, target=replace(example.target, weights_digest="sha256:" + "1" * 64))
    cases = ((other, None, "bench-target"), (known, None, "bench-target"), (example, {OURS.digest}, "bench-digest"))
    results = measured(plan(target=replace(TARGET, weights_digest="sha256:" + "2" * 64)))
    for manifest, digests, code in cases:
        with pytest.raises(ManifestError) as caught:
            render_text(
                manifest, [], samples.make_head(), shown=Shown(benchmarks=[Benchmark(results)], digests=digests)
            )
        assert caught.value.code == code


def test_what_was_measured_needs_its_head(example: Manifest) -> None:
    for given in (
        {"reports": samples.typed(samples.make_report())},
        {"reports": [], "shown": Shown(benchmarks=[Benchmark(measured(plan()))])},
    ):
        with pytest.raises(ManifestError) as caught:
            render_text(example, head=None, **given)
        assert caught.value.code == "manifest-no-head"


@pytest.mark.slow
def test_files_are_included_by_pattern_with_their_charts(write: Callable[[str], Path], tmp_path: Path) -> None:
    text = samples.MINIMAL.replace("owner/target", samples.TARGET)
    text = text.replace("source: head", f"source: {samples.EXAMPLE.parent / 'head'}").replace("specforge", "specjax")
    path = write(text + "benchmarks: ['benchmarks/*.json']\n")
    assert load_manifest(path).benchmarks == ("benchmarks/*.json",)
    with pytest.raises(ManifestError, match="there is no file benchmarks/"):
        render_card(path)
    two_heads().save(tmp_path / "benchmarks" / "one.json")
    card = render_card(path, output=tmp_path / "README.md").text
    assert "[benchmarks/one.json](benchmarks/one.json)" in card
    for name in ("tau-by-dataset", "tau-by-draft-tokens", "rate-by-position"):
        for temperature in (0, 1):
            chart = f"charts/benchmark-1-{name}-reference-t{temperature}"
            assert f'src="{chart}.png"' in card
            assert (tmp_path / f"{chart}.png").is_file() and (tmp_path / f"{chart}.svg").is_file()
