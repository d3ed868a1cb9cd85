"""The blocks of pages that need a Hub, run as they are printed, in a repository like that of the examples."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from support.commands import blocks
from workflows.conftest import ROOT, TOKEN, Hub
from workflows.runner import _write_tools

from eagle3hub.card import load_manifest

pytestmark = pytest.mark.slow  # each runs a whole workflow, command by command

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NEED_A_HUB = {
    str(page.relative_to(ROOT)): [
        c for block in blocks(page) if block.mark == "run with a Hub" for c in block.commands
    ]
    for page in PAGES
}


@pytest.mark.parametrize("page", [page for page, commands in NEED_A_HUB.items() if commands])
def test_a_block_does_what_it_says(page: str, hub: Hub, models: Path, site: Path, tmp_path: Path):
    here = tmp_path / "repository"
    shutil.copytree(models / "head", here / "head")
    shutil.copy(ROOT / "examples/actions/release.yaml", here)
    manifest = load_manifest(here / "release.yaml")
    hub.tokens[TOKEN] = manifest.release.repo.split("/")[0]
    hub.commit(manifest.target.id, models / "target")
    hub.commit("owner/name", {"README.md": (ROOT / "examples/cards/qwen3-8b-specjax/README.md").read_bytes()})
    (tmp_path / "bin").mkdir()
    _write_tools(tmp_path / "bin")
    env = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("HF_", "GITHUB_"))},
        **hub.env(tmp_path / "hf", TOKEN),
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(site),
        "OMP_NUM_THREADS": "1",
    }
    for command in NEED_A_HUB[page]:
        done = subprocess.run(
            ["bash", "-c", command.line], cwd=here, env=env, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == command.status, f"{command.line}\n{done.stdout}{done.stderr}"
    published = manifest.release.repo in hub.repos
    assert published == any("--dry-run" not in c.line and "--check" not in c.line for c in NEED_A_HUB[page])
