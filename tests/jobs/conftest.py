from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import heads, targets
from support.hub_server import client_of
from support.jobs_server import JobsHub

from eagle3hub.checkpoint import remote

DIMS = heads.dims(hidden=16, inter=24, heads=4, kv=2, vocab=targets.VOCAB, draft=24)


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny target that speaks, and a head that fits it and knows nothing."""
    here = tmp_path_factory.mktemp("files")
    targets.save(here / "target", tokenizer=True, max_position_embeddings=4096)
    taps = {"use_aux_hidden_state": True, "eagle_aux_hidden_state_layer_ids": [0, 1, 2]}
    heads.specforge(here / "head", DIMS, eagle_config=taps)
    return here


@pytest.fixture
def hub(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[JobsHub]:
    """A Hub on loopback that runs jobs, with a head and a target, and huggingface_hub logged in to it."""
    monkeypatch.setattr(remote, "_LISTINGS", {})
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    with JobsHub(tmp_path / "machine") as server, client_of(server, tmp_path / "hf-home", monkeypatch):
        monkeypatch.setenv("HF_TOKEN", "hf_good")
        server.commit("alice/head", files / "head")
        server.commit("alice/target", files / "target")
        yield server
