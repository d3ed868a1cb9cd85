"""One command goes from a manifest to the Hub, measured by the reference on the real target; and so does a rerun."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from publishing.conftest import TOKEN
from publishing.folders import EXAMPLE, REPO, write_manifest
from support.hub_writes import WritableHub

pytestmark = pytest.mark.slow  # whole releases, measured and published

Cli = Callable[..., tuple[int, str, str]]
DEMO = Path(__file__).parent / "publish_demo.py"
MAIN = "import sys; from eagle3hub.cli.app import run; sys.exit(run(sys.argv[1:]))"


def cells(table: str) -> list[list[str]]:
    """Return the rows of a table as a terminal shows it."""
    return [[c.strip() for c in line.split("│")[1:-1]] for line in table.splitlines() if line.startswith("│")]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Write a manifest and the example's head: two layouts, eight prompts of twelve tokens, by the reference."""
    path = write_manifest(tmp_path / "release.yaml")
    shutil.rmtree(tmp_path / "head")
    shutil.copytree(EXAMPLE / "head", tmp_path / "head")
    document = yaml.safe_load(path.read_text())
    document["validate"] |= {"engine": "reference", "num_prompts": 8, "max_new_tokens": 12}
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


def test_released_and_again(
    hub: WritableHub,
    project: Path,
    cli: Cli,
    smollm2_target: Path,
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    argv = ["release", project, "--target", smollm2_target, "--stage", "--tag", "v1", "--json"]
    summary = tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    status, out, err = cli(*argv, "--from", "card")
    assert status == 1
    assert summary.read_text().startswith("## release.yaml: `release-not-measured`\n")
    assert "has not been measured" in out
    assert hub.uploads == []
    status, out, err = cli(*argv)
    assert status == 0, out + err
    first: dict[str, Any] = json.loads(out)
    files = hub.files(REPO)
    assert {"README.md", "config.json", "modelopt/model.safetensors", "reports/specforge-cpu.json"} <= set(files)
    assert first["publication"]["published"] == [{"ref": "main", "commit": hub.repos[REPO].tags["v1"]}]
    assert not hub.repos[REPO].private
    page = summary.read_text()
    tau = first["layouts"][0]["engines"][0]["acceptance"]["mean_acceptance_length"]
    assert f"## {REPO}: pass" in page
    assert "| convert | done | specforge, modelopt |" in page
    assert "| validate | pass | 2 measured, 0 kept from earlier |" in page
    assert f"| {tau:.3f} (" in page
    assert f" files sent, main at {hub.repos[REPO].tags['v1'][:12]}, tag v1, public |" in page
    assert "| modelopt/model.safetensors |" in page
    before = hub.uploads
    env = {**os.environ, **hub.env(home, TOKEN)}
    done = subprocess.run([sys.executable, "-c", MAIN, *map(str, argv)], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    again = json.loads(done.stdout)
    assert [row["reused"] for row in again["layouts"]] == [True, True]
    assert again["publication"]["uploaded"] == {}
    assert hub.uploads == before
    status, out, err = cli("release", project, "--target", smollm2_target, "--from", "publish")
    assert status == 0, out + err
    assert [row[0] for row in cells(out)[-4:]] == ["convert", "validate", "card", "publish"]
    assert [row[1] for row in cells(out)[-4:]] == ["made earlier", "made earlier", "made earlier", "unchanged"]
    assert hub.uploads == before
    assert cli("verify", f"hf://{REPO}@v1")[0] == 0
    the_demo_reads_it_back(project, smollm2_target)


def the_demo_reads_it_back(project: Path, target: Path) -> None:
    """Do what ``make demo`` does with its release, here served by the reference."""
    release = project.parent / ".eagle3hub" / "release" / "head"
    argv = [sys.executable, DEMO, release, "--manifest", project, "--engine", "reference", "--target", target]
    env = {**os.environ, "PYTHONPATH": str(DEMO.parents[2])}
    done = subprocess.run([*map(str, argv)], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "published again: 0 uploads" in done.stdout
    assert "every byte as released" in done.stdout
    assert "downloaded  reference: τ" in done.stdout
    assert done.stdout.endswith("\nthe same\n")
    served = release.with_name("head-from-the-hub.json")
    report = json.loads(served.read_text())
    report["engines"][0]["acceptance"]["rounds"] += 1
    served.write_text(json.dumps(report))
    done = subprocess.run([*map(str, argv)], env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (1, "NOT the same")


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
    assert cells(out)[-1] == ["publish", "refused", "gates that do not hold: publish-card"]
    assert hub.uploads == []
    summary = tmp_path / "summary.md"
    summary.write_text("# Before\n")
    status, out, err = cli(*argv, "--allow", "publish-card", "--summary", summary)
    assert status == 0, err
    assert "waived publish-card" in out
    assert summary.read_text().startswith(f"# Before\n## {REPO}: pass")
    assert "\nWaived: `publish-card` README.md:" in summary.read_text()
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
        "cannot write": ("--summary", tmp_path / "nowhere" / "summary.md"),
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


def test_without_the_collection_nothing_is_begun(hub: WritableHub, project: Path, cli: Cli):
    status, _, err = cli("release", project, "--collection", "alice/nothing-64f9a55bb3115b4f513ec026")
    assert status == 5
    assert "there is no collection alice/nothing" in err
    assert not (project.parent / ".eagle3hub").exists()
