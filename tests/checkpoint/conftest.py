from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.hub_server import HubServer, client_of

from eagle3hub.checkpoint import remote


@pytest.fixture
def hub(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A Hub on loopback, and huggingface_hub pointed at it with an empty cache and no token."""
    monkeypatch.setattr(remote, "_LISTINGS", {})
    with HubServer() as server, client_of(server, tmp_path_factory.mktemp("hf-home"), monkeypatch):
        yield server


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Makes waiting before another try cost nothing; collects what would have been waited."""
    collected: list[float] = []
    monkeypatch.setattr(time, "sleep", lambda seconds: collected.append(seconds))
    return collected


@pytest.fixture
def cache(hub: HubServer) -> Path:
    """The Hub cache of this test."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)
