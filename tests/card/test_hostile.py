"""Hostile names and notes of a manifest and of imported results stay text: in the card, its metadata, the preview."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import card_samples as samples
import pytest
import yaml
from benchmarking.recorded import AS_TRAINED, SECOND, SMOKE, measured, plan, prompts
from huggingface_hub import ModelCard
from test_imported import HEADLESS, RESULTS
from test_render import HOSTILE, structure

from eagle3hub.benchmarking.results import Results
from eagle3hub.card import Manifest, Shown, load_manifest, render_text
from eagle3hub.card.preview import page
from eagle3hub.card.render import draw
from eagle3hub.card.results import Benchmark
from eagle3hub.prompts import Prompt, PromptSet

Write = Callable[[str], Path]
MORE = {
    "about": {"A": "b"},
    "architecture": {"A": "b"},
    "subcards": {"bias": {"A": "b"}},
    "engines": [{"engine": "sglang", "requires": "x", "note": "n", "settings": {"A": "b"}}],
    "limitations": ["l"],
    "training": {"data": "d", "emissions": {"co2": 1, "co2_unit": "kg", "source": "s"}, "facts": {"A": "b"}},
}
PLACES = [
    ("about", "A"), ("architecture", "A"), ("subcards", "bias", "A"), ("engines", 0, "requires"),
    ("engines", 0, "note"),
    ("engines", 0, "settings", "A"), ("limitations", 0), ("training", "data"), ("training", "emissions", "source"),
    ("training", "facts", "A"), ("release", "title"), ("release", "summary"),
]  # fmt: skip
IMPORTED = [
    ("source", "title"), ("measured_by",), ("measurements", 0, "title"), ("measurements", 0, "note"),
    ("measurements", 0, "dataset"), ("measurements", 0, "this"), ("measurements", 0, "engine"),
    ("measurements", 0, "hardware"), ("measurements", 0, "estimator"), ("measurements", 0, "rows", 0, "name"),
]  # fmt: skip
KEYS = [("about",), ("subcards", "bias"), ("engines", 0, "settings"), ("training", "facts")]


def put(document: object, place: tuple[str | int, ...], value: object) -> None:
    at: object = document
    for key in place[:-1]:
        at = at[key]  # type: ignore[index]
    at[place[-1]] = value  # type: ignore[index]


def render(write: Write, folder: Path, manifest: object, results: object) -> str:
    (folder / "results").mkdir(exist_ok=True)
    (folder / "results" / "one.yaml").write_text(yaml.safe_dump(results, allow_unicode=True, sort_keys=False), "utf-8")
    return render_text(load_manifest(write(yaml.safe_dump(manifest, allow_unicode=True, sort_keys=False))), [], None)


def documents() -> tuple[dict[str, object], dict[str, object]]:
    manifest = yaml.safe_load(HEADLESS) | yaml.safe_load(yaml.safe_dump(MORE))
    results = yaml.safe_load(RESULTS)
    results["source"]["accessed"] = "2026-11-22"
    return manifest, results


def inert(card: str, plain: str) -> None:
    assert structure(card) == structure(plain)
    assert "\u202e" not in card
    data = ModelCard(card).data
    assert (data.license, data.base_model) == ("mit", "owner/target")
    shown = page(card, "t")
    assert shown.count("<script>") == 1 and "<b>b</b>" not in shown


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_texts_of_the_manifest(write: Write, tmp_path: Path, place: tuple[str | int, ...]) -> None:
    cards = []
    for text in (HOSTILE[:190], "harmless words"):
        manifest, results = documents()
        put(manifest, place, text)
        cards.append(render(write, tmp_path, manifest, results))
    inert(*cards)


@pytest.mark.parametrize("place", IMPORTED, ids=str)
def test_texts_of_imported_results(write: Write, tmp_path: Path, place: tuple[str | int, ...]) -> None:
    cards = []
    for text in (HOSTILE[:190], "harmless words"):
        manifest, results = documents()
        put(results, place, text)
        cards.append(render(write, tmp_path, manifest, results))
    inert(*cards)


@pytest.mark.parametrize("place", KEYS, ids=str)
def test_labels(write: Write, tmp_path: Path, place: tuple[str | int, ...]) -> None:
    cards = []
    for text in (HOSTILE[:190], "harmless words"):
        manifest, results = documents()
        put(manifest, place, {text: "b"})
        cards.append(render(write, tmp_path, manifest, results))
    if place == ("engines", 0, "settings"):  # a label in code: as an element where it holds a pipe
        assert "\u202e" not in cards[0] and "<b>b</b>" not in page(cards[0], "t")
        return
    inert(*cards)


def test_the_same_input_gives_the_same_bytes(write: Write, tmp_path: Path) -> None:
    first, second = (render(write, tmp_path, *documents()) for _ in range(2))
    assert first == second


def benchmark(name: str) -> Benchmark:
    """The same numbers whatever the names are."""
    heads = (replace(AS_TRAINED, name="NAME"), replace(SECOND, name="NAME too"))
    asked = tuple(Prompt(number, "NAME" if number % 2 else "other", "x") for number in range(1, 13))
    sets = tuple(PromptSet(f"NAME{i}", asked) for i in range(2))
    found = measured(plan(heads=heads, base="NAME", datasets=sets)).document
    return Benchmark(
        Results.from_json(json.loads(json.dumps(found).replace("NAME", json.dumps(name)[1:-1]))), "benchmarks/1.json"
    )


@pytest.mark.slow
def test_names_of_a_benchmark_and_of_its_charts(example: Manifest) -> None:
    cards = []
    for text in (HOSTILE, "harmless words"):
        shown = [benchmark(text)]
        pictures, files = draw(example, [], shown)
        for name, data in files.items():
            assert re.fullmatch(r"charts/[a-z0-9.-]+", name)
            assert b"<script" not in data and (name.endswith(".png") or "\u202e".encode() not in data)
        digests = {AS_TRAINED.digest}
        beside = Shown(benchmarks=shown, pictures=pictures, digests=digests)
        known = replace(example.release, evaluated_on={f"{text}{i}": f"owner/set{i}" for i in range(2)})
        cards.append(render_text(replace(example, release=known), [], samples.make_head(), shown=beside))
    assert structure(cards[0]) == structure(cards[1])
    assert "\u202e" not in cards[0]
    assert len(ModelCard(cards[0]).data.eval_results) == 2
    shown_page = page(cards[0], "t")
    assert shown_page.count("<script>") == 1 and "<b>b</b>" not in shown_page


def test_a_changed_benchmark_changes_only_its_rows(example: Manifest) -> None:
    before, after = (
        measured(plan(engines=("vllm",), datasets=(SMOKE, prompts("other", count)))) for count in (12, 13)
    )
    texts = [
        render_text(
            example,
            samples.typed(samples.make_report()),
            samples.make_head(),
            shown=Shown(benchmarks=[Benchmark(replace(results, measured_at="2026-11-22T13:00:00Z"))]),
        )
        for results in (before, after)
    ]
    changed = [line[2:] for line in difflib.ndiff(*(text.splitlines() for text in texts)) if line[0] in "+-"]
    assert changed and all(line.startswith(("| other |", "- Prompts other:")) for line in changed)
