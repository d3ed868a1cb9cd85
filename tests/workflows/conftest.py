from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.hub_writes import WritableHub
from support.jobs_server import JOB_ROUTES, JobsHub
from workflows import agreeing
from workflows.runner import Runner, make_site

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "hf_good"
JOBS_TOKEN = "hf_starts_jobs"
REPO = "alice/head"
TARGET = "alice/target"


class Hub(JobsHub, WritableHub):
    """A Hub that takes uploads and runs jobs."""


Hub.routes = [*JOB_ROUTES, *WritableHub.routes]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with Hub(tmp_path / "container") as server:
        server.tokens[JOBS_TOKEN] = "alice"
        yield server


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a target and a head that agree."""
    folder = tmp_path_factory.mktemp("models")
    agreeing.make_target(folder / "target")
    agreeing.make_head(folder / "head")
    return folder


@pytest.fixture
def repository(tmp_path: Path, models: Path) -> Callable[..., Path]:
    """A laboratory's repository: a head and the example's manifest; without ``target`` the Hub's is meant."""

    def make(
        layouts: tuple[str, ...] = ("specforge",),
        *,
        head: Path = models / "head",
        target: Path | None = models / "target",
        **validate: Any,
    ) -> Path:
        folder = tmp_path / "repository"
        shutil.copytree(head, folder / "head")
        document = yaml.safe_load((ROOT / "examples/smollm2-135m/release.yaml").read_text())
        document["release"]["repo"] = REPO
        document["target"] = {"id": TARGET, "license": "apache-2.0", **({"path": str(target)} if target else {})}
        document["layouts"] = {"main": layouts[0], "also": list(layouts[1:])}
        document["validate"] |= {"engine": "reference", "num_prompts": 8, "max_new_tokens": 8, **validate}
        (folder / "release.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
        return folder

    return make


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_site(tmp_path_factory.mktemp("site"))


@pytest.fixture
def machine(tmp_path: Path, hub: Hub, site: Path) -> Callable[[Path], Runner]:
    """A runner whose Hub is on loopback; only what the workflow takes from its secrets can write there."""

    def make(repository: Path) -> Runner:
        env = {k: v for k, v in hub.env(tmp_path / "hf").items() if k != "HF_TOKEN"}
        env |= {"OMP_NUM_THREADS": "1", "EAGLE3HUB_CACHE": str(tmp_path / "cache")}
        return Runner(
            repository, tmp_path / "runner", site, env, secrets={"HF_TOKEN": TOKEN, "HF_JOBS_TOKEN": JOBS_TOKEN}
        )

    return make
