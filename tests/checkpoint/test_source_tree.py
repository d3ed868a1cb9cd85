"""A release says which commit it was made from, and when files differed from it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from card import card_samples

from eagle3hub.card import Shown, load_manifest, render_text
from eagle3hub.checkpoint.source_tree import SourceTree, record, source_tree
from eagle3hub.conversion.run import convert
from eagle3hub.layouts import open_head
from eagle3hub.system.documents import schema_faults
from eagle3hub.system.resources import schema


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A committed manifest in a folder of a repository; returns the manifest."""
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    manifest = tmp_path / "repo" / "release" / "release.yaml"
    manifest.parent.mkdir(parents=True)
    manifest.write_text(card_samples.MINIMAL)
    git(manifest, "init", "--quiet", "..")
    commit(manifest, ".")
    return manifest


def git(manifest: Path, *argv: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    done = subprocess.run(["git", "-C", manifest.parent, *who, *argv], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def commit(manifest: Path, path: str) -> str:
    git(manifest, "add", path)
    git(manifest, "commit", "--quiet", "-m", "x")
    return git(manifest, "rev-parse", "HEAD")


def test_clean_and_dirty(repository: Path):
    head = git(repository, "rev-parse", "HEAD")
    assert source_tree(repository) == SourceTree(head, False)
    (repository.parent / "weights.bin").write_text("never added")
    (repository.parents[1] / "elsewhere.txt").write_text("x")
    assert commit(repository, "../elsewhere.txt") != head
    assert source_tree(repository) == SourceTree(head, False), "other folders and unknown files say nothing"
    repository.write_text(card_samples.MINIMAL + "#")
    assert source_tree(repository) == SourceTree(head, True)
    then = commit(repository, ".")
    assert source_tree(repository) == SourceTree(then, False)


def test_a_manifest_that_was_never_committed(repository: Path):
    other = repository.with_name("other.yaml")
    other.write_text(card_samples.MINIMAL)
    assert source_tree(other) == SourceTree(git(repository, "rev-parse", "HEAD"), True)


def test_without_a_repository_or_git_nothing_is_said(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    assert source_tree(tmp_path / "release.yaml") is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert source_tree(repository) is None


def test_model_and_card_say_it(repository: Path, example_head: Path, tmp_path: Path):
    convert(example_head, tmp_path / "out", "specjax")
    for dirty in (False, True):
        tree = SourceTree("a" * 40, dirty)
        record(tmp_path / "out", tree)
        document = json.loads((tmp_path / "out" / "eagle3hub.json").read_text())
        assert not [*schema_faults(document, schema("provenance"))]
        assert document["release"] == {"commit": "a" * 40, "dirty": dirty}
        problems = [p.code for p in open_head(tmp_path / "out").problems]
        assert not [code for code in problems if "provenance" in code], "the record still belongs to its files"
        card = render_text(load_manifest(repository), [], card_samples.make_head(), shown=Shown(tree=tree))
        assert f"Made from commit `{'a' * 40}` of its source repository" in card
        assert ("**with changes that were not committed**" in card) == dirty
