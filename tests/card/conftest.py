"""Fixtures of the card's tests."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from eagle3hub.card import Manifest, load_manifest

sys.path.insert(0, str(Path(__file__).parent))

from card_samples import EXAMPLE


@pytest.fixture
def example() -> Manifest:
    """The example release's manifest, with a Hub id for the prompts that its samples are measured on."""
    manifest = load_manifest(EXAMPLE)
    ids = {name: f"owner/{name}" for name in ("smoke", "other-set")}
    return replace(manifest, release=replace(manifest.release, evaluated_on=ids))


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    """Write a manifest's text to a file and return its path."""

    def write_text(text: str) -> Path:
        path = tmp_path / "release.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write_text
