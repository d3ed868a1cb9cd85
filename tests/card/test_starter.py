"""The starter manifest: loads as it is, says what the head's files say, and is inert whatever the names."""

from __future__ import annotations

import re
from pathlib import Path

import card_samples as samples
import pytest

from eagle3hub.card import load_manifest, render_text
from eagle3hub.card.starter import starter
from eagle3hub.errors import UsageError


def test_it_loads_and_gives_a_card(tmp_path: Path) -> None:
    path = tmp_path / "release.yaml"
    path.write_text(starter(samples.make_head(), "head", samples.TARGET), encoding="utf-8")
    manifest = load_manifest(path)
    assert (manifest.layouts.main, manifest.target.id) == ("specforge", samples.TARGET)
    assert manifest.release.repo == "your-name/SmolLM2-135M-Instruct-eagle3"
    assert "8,923,392 parameters, 8,192 of 49,152 tokens" in path.read_text()
    assert "after target layers 1, 14, 26" in path.read_text()
    assert "## Architecture" in render_text(manifest, [], samples.make_head())


def test_the_optional_lines_load_once_unmarked(tmp_path: Path) -> None:
    path = tmp_path / "release.yaml"
    text = re.sub(r"^#\? ?", "", starter(samples.make_head(), "head", samples.TARGET), flags=re.M)
    text = re.sub(r"^(  \w+:)(  # )", r"\1 x\2", text, flags=re.M).replace("\n language", "\n  language")
    text = re.sub(r"^ (revision|language|datasets|authors|also):", r"  \1:", text, flags=re.M)
    path.write_text(text, encoding="utf-8")
    manifest = load_manifest(path)
    assert manifest.limitations and manifest.citations and manifest.training.facts and manifest.target.revision


@pytest.mark.parametrize("name", ["no-slash", "a/b\nrelease: x", "{{ 7*7 }}/x", "a/b#c", "../x"])
def test_names_that_are_no_hub_ids_are_refused(name: str) -> None:
    with pytest.raises(UsageError):
        starter(samples.make_head(), "head", name)
    with pytest.raises(UsageError):
        starter(samples.make_head(), "head", samples.TARGET, name)


@pytest.mark.parametrize(
    "source", ["a: b # c", "x\nschema: y", "\u202eevil", "*alias", "!!python/name:os.system", '"']
)
def test_any_folder_is_one_scalar(tmp_path: Path, source: str) -> None:
    path = tmp_path / "release.yaml"
    path.write_text(starter(samples.make_head(), source, samples.TARGET), encoding="utf-8")
    assert Path(str(load_manifest(path).head_source)).name == Path(source).name
