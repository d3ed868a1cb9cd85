from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.hostile_hub import TOKEN, Hub, listener
from support.hub_server import client_of


@pytest.fixture
def elsewhere() -> Iterator[tuple[str, list[str]]]:
    with listener() as found:
        yield found


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    (tmp_path / "outside").mkdir()
    with Hub() as server, client_of(server, tmp_path / "home", monkeypatch):
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server
