"""A preview after a dry run: its reports are shown, for as long as they are of these bytes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from support.rewriting import edit, read

from eagle3hub.card.preview import card_text

Cli = Callable[..., tuple[int, str, str]]
LAYOUTS = {"main": "specforge", "also": ["modelopt"]}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny target, a head that knows it, and a manifest."""
    from workflows import agreeing  # torch is not needed by the others

    folder = tmp_path_factory.mktemp("rehearsed")
    agreeing.make_target(folder / "target")
    agreeing.make_head(folder / "head")
    document = {
        "schema": "eagle3hub/manifest/1",
        "head": {"source": "head"},
        "target": {"id": "alice/target", "license": "apache-2.0", "path": "target"},
        "release": {"repo": "alice/tiny", "summary": "A head.", "license": "mit"},
        "layouts": LAYOUTS,
        "speculative_tokens": 3,
        "validate": {"engine": "reference", "num_prompts": 16, "max_new_tokens": 8},
    }
    (folder / "release.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    return folder


@pytest.fixture(scope="module")
def rehearsed(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same after a dry run whose folder went elsewhere."""
    from eagle3hub.cli.app import run

    folder = Path(shutil.copytree(trained, tmp_path_factory.mktemp("after") / "project"))
    out = tmp_path_factory.mktemp("out") / "made"
    assert run(["release", str(folder / "release.yaml"), "--dry-run", "--output", str(out), "--quiet"]) == 0
    return folder


@pytest.fixture
def project(rehearsed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(rehearsed, tmp_path / "project"))


def shown(folder: Path) -> str:
    return card_text(folder / "release.yaml")[0]


def is_measured(text: str) -> bool:
    assert ("Nothing has been measured with these files yet" in text) != ("| eagle3hub reference " in text)
    return "| eagle3hub reference " in text


@pytest.mark.slow
def test_the_reports_of_a_dry_run_are_shown(trained: Path, project: Path) -> None:
    assert not is_measured(shown(trained))
    text = shown(project)
    assert is_measured(text) and "This release was not validated" not in text
    assert "### By layout" in text and "charts/" in text
    assert [p.name for p in (project / ".preview").iterdir() if p.name.startswith("tmp")] == []


@pytest.mark.slow
def test_of_other_bytes_they_are_not(project: Path) -> None:
    edit(project / "head", **{"norm.weight": read(project / "head")[0]["norm.weight"] * 1.5})
    assert not is_measured(shown(project))


def test_for_another_target_they_are_not(project: Path) -> None:
    path = project / "release.yaml"
    path.write_text(path.read_text().replace("alice/target", "alice/other"))
    assert not is_measured(shown(project))


def test_without_a_target_the_folder_that_was_made_is_looked_at(
    project: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    assert cli("release", "release.yaml", "--dry-run", "--quiet")[0] == 0
    shutil.rmtree(project / "target")
    assert is_measured(shown(project))


def test_what_lies_there_and_is_no_report_is_passed_over(project: Path) -> None:
    (project / ".eagle3hub" / "reports" / "a.json").write_text("{")
    assert is_measured(shown(project))
