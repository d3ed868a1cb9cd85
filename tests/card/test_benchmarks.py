"""Results of a benchmark on a card: one row a cell, paired differences with their base, and only of this target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import card_samples as samples
import pytest
from bench.recorded import AS_TRAINED, SECOND, measured, plan

from eagle3hub.card import Manifest, load_manifest, render_card
from eagle3hub.card.assemble import make_card
from eagle3hub.errors import ManifestError


def test_cells_and_differences(example: Manifest) -> None:
    results = measured(plan(heads=(AS_TRAINED, SECOND)))
    text = render_card(example, [], samples.make_head(), benchmarks=[results])
    section = text.split("### Benchmark", 1)[1].split("\n## ", 1)[0]
    assert section.count("| smoke | 3 | 0 | 16 |") == 2
    assert "paired prompt by prompt; percentages are of as-trained" in section
    assert "| second | smoke | 3 | 0 |" in section
    for cell in results.cells:
        assert f"| {cell['acceptance']['mean_acceptance_length']:.2f} |" in section
    assert "Nothing has been measured" not in text


def test_another_target_is_refused(example: Manifest) -> None:
    other = replace(example, target=replace(example.target, id="owner/other"))
    with pytest.raises(ManifestError) as caught:
        render_card(other, [], samples.make_head(), benchmarks=[measured(plan())])
    assert caught.value.code == "bench-target"


def test_what_was_measured_needs_its_head(example: Manifest) -> None:
    for given in ({"reports": [samples.make_report()]}, {"reports": [], "benchmarks": [measured(plan())]}):
        with pytest.raises(ManifestError) as caught:
            render_card(example, head=None, **given)
        assert caught.value.code == "manifest-no-head"


def test_files_are_included_by_pattern_with_their_charts(write: Callable[[str], Path], tmp_path: Path) -> None:
    measured(plan(heads=(AS_TRAINED, SECOND))).save(tmp_path / "benchmarks" / "one.json")
    text = samples.MINIMAL.replace("owner/target", samples.TARGET)
    text = text.replace("source: head", f"source: {samples.EXAMPLE.parent / 'head'}").replace("specforge", "specjax")
    path = write(text + "benchmarks: ['benchmarks/*.json']\n")
    assert load_manifest(path).benchmarks == ("benchmarks/*.json",)
    card = make_card(path, output=tmp_path / "README.md").text
    assert "### Benchmark" in card and "](charts/benchmark-1-tau-by-dataset" in card
    assert list((tmp_path / "charts").glob("*.svg"))
