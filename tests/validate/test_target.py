from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from eagle3hub.engines.options import engine_pythons
from eagle3hub.errors import OutputError, SourceError, UsageError
from eagle3hub.validation.options import writable_report
from eagle3hub.validation.target import context_length, identify_target, kv_cache_gib

SMOLLM2 = {"hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "Target-7B"
    made.mkdir()
    (made / "config.json").write_text(json.dumps({**SMOLLM2, "max_position_embeddings": 8192}))
    (made / "model.safetensors").write_bytes(b"weights")
    return made


def test_a_folder_is_identified_by_its_bytes(folder: Path) -> None:
    target = identify_target(str(folder))
    assert target.name == "Target-7B"
    assert target.config_sha256 == hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()
    (folder / "model.safetensors").write_bytes(b"other")
    assert identify_target(str(folder), "org/Target").weights_digest != target.weights_digest
    assert identify_target(str(folder), "org/Target").name == "org/Target"


def test_a_hub_id_is_taken_as_it_is() -> None:
    target = identify_target("org/Target")
    assert (target.name, target.config, target.weights_digest) == ("org/Target", None, None)


@pytest.mark.parametrize("source", ["./nowhere/there", "nowhere", "/a/b", "a/b/c", "~/x"])
def test_what_is_neither_is_refused(source: str) -> None:
    with pytest.raises(SourceError, match="neither a folder nor a Hub id"):
        identify_target(source)


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_broken_config_is_named(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    with pytest.raises(SourceError, match=r"config\.json is not"):
        identify_target(str(folder))
    (folder / "config.json").unlink()
    with pytest.raises(SourceError, match="no readable config"):
        identify_target(str(folder))


def test_context_fits_the_longest_prompt_but_never_exceeds_the_target(folder: Path) -> None:
    target = identify_target(str(folder))
    assert context_length(target, 100, 64) == 2048
    assert context_length(target, 4000, 64) == 4000 + 512 + 64
    assert context_length(target, 100_000, 64) == 8192
    assert context_length(identify_target("org/x"), 100_000, 64) == 100_576


def test_kv_cache_grows_with_the_model_and_the_context(folder: Path) -> None:
    small = identify_target(str(folder))
    assert kv_cache_gib(small, 2048) == 1
    (folder / "config.json").write_text(
        json.dumps({"text_config": {"hidden_size": 8192, "num_hidden_layers": 80, "num_attention_heads": 64}})
    )
    # 2 * 82 layers * 64 heads * 128 * 4 bytes = 5.125 MiB per token
    assert kv_cache_gib(identify_target(str(folder)), 8192) == 1 + int(5.125 * 8 * 1.25)
    assert kv_cache_gib(identify_target("org/x"), 2048) == 4


def test_engine_pythons() -> None:
    assert engine_pythons(["vllm=/a/b=c"]) == {"vllm": "/a/b=c"}
    for bad in ("vllm", "vllm=", "nosuch=/x", "=/x"):
        with pytest.raises(UsageError, match="ENGINE=PATH"):
            engine_pythons([bad])


def test_a_report_that_cannot_be_written_is_found_at_once(tmp_path: Path) -> None:
    writable_report(tmp_path / "report.json")
    for bad in (tmp_path, tmp_path / "no" / "report.json"):
        with pytest.raises(OutputError, match="cannot write"):
            writable_report(bad)


def test_weights_are_hashed_once_and_again_when_they_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from eagle3hub.validation import target as subject

    (tmp_path / "config.json").write_text("{}")
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"one")
    calls = []
    real = subject.file_digest
    monkeypatch.setattr(subject, "file_digest", lambda path: calls.append(path) or real(path))
    first = identify_target(str(tmp_path)).weights_digest
    assert identify_target(str(tmp_path)).weights_digest == first
    assert len(calls) == 1
    weights.write_bytes(b"other")
    assert identify_target(str(tmp_path)).weights_digest != first
