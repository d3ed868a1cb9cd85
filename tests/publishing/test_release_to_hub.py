"""From a manifest to the Hub in one command, measured by the reference on the real target, and again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from publishing.conftest import TOKEN
from publishing.folders import REPO, write_manifest
from support.hub_writes import WritableHub

Cli = Callable[..., tuple[int, str, str]]
MAIN = "import sys; from eagle3hub.cli.app import run; sys.exit(run(sys.argv[1:]))"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A manifest and its head: two layouts, two prompts of sixteen tokens, by the reference."""
    path = write_manifest(tmp_path / "release.yaml")
    document = yaml.safe_load(path.read_text())
    document["validate"] |= {"engine": "reference", "num_prompts": 2, "max_new_tokens": 16}
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


def test_released_and_again(hub: WritableHub, project: Path, cli: Cli, smollm2_target: Path, home: Path):
    argv = ["release", project, "--target", smollm2_target, "--stage", "--tag", "v1", "--json"]
    status, out, err = cli(*argv, "--from", "card")
    assert status == 1
    assert "has not been measured" in out
    assert hub.uploads == []
    status, out, err = cli(*argv)
    assert status == 0, out + err
    first: dict[str, Any] = json.loads(out)
    files = hub.files(REPO)
    assert {"README.md", "config.json", "modelopt/model.safetensors", "reports/specforge-cpu.json"} <= set(files)
    assert first["publication"]["published"] == [{"ref": "main", "commit": hub.repos[REPO].tags["v1"]}]
    assert not hub.repos[REPO].private
    before = hub.uploads
    env = {**os.environ, **hub.env(home, TOKEN)}
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", MAIN, *map(str, argv)], env=env, capture_output=True, text=True)
    took = time.monotonic() - started
    assert done.returncode == 0, done.stderr
    again = json.loads(done.stdout)
    assert [row["reused"] for row in again["layouts"]] == [True, True]
    assert again["publication"]["uploaded"] == {}
    assert hub.uploads == before
    assert took < 15, "the budget is 5 s on a machine that does nothing else"
    status, out, err = cli("release", project, "--target", smollm2_target, "--from", "publish", "--json")
    assert status == 0, out + err
    assert hub.uploads == before
    assert cli("verify", f"hf://{REPO}@v1")[0] == 0


def test_a_gate_stops_the_release_and_its_waiver_is_on_the_card(
    hub: WritableHub, project: Path, cli: Cli, smollm2_target: Path, tmp_path: Path
):
    templates = tmp_path / "templates"
    templates.mkdir()
    (templates / "_license.md.j2").write_text("## License\n\nLicense: MIT\n")
    argv = ["release", project, "--target", smollm2_target, "--templates", templates]
    status, out, _ = cli(*argv)
    assert status == 1
    assert "refused publish-card README.md" in out
    assert "nothing was sent" in out
    assert hub.uploads == []
    status, out, err = cli(*argv, "--allow", "publish-card")
    assert status == 0, err
    assert "waived publish-card" in out
    assert b"`publish-card`" in hub.files(REPO)["README.md"]


def test_steps(hub: WritableHub, project: Path, cli: Cli, smollm2_target: Path, tmp_path: Path):
    target = ("--target", smollm2_target)
    status, out, err = cli("release", project, *target, "--until", "convert", "--json")
    assert status == 0, err
    assert json.loads(out)["output"] is None
    for words, argv in {
        "there is no release in": ("--from", "publish"),
        "there is no step": ("--from", "publish", "--until", "card"),
        "no step is called": ("--until", "upload"),
        "--dry-run is --until card": ("--dry-run", "--until", "publish"),
        "always done before": ("--from", "validate"),
    }.items():
        status, _, err = cli("release", project, *target, *argv)
        assert status in {2, 3}
        assert words in err
    assert hub.uploads == []


def test_without_a_token_nothing_is_begun(hub: WritableHub, project: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("HF_TOKEN")
    status, _, err = cli("release", project)
    assert status == 5
    assert "there is no access token" in err
    assert not (project.parent / ".eagle3hub").exists()
