"""A few of the kills that `benchmarks/kills.py` makes by the hundred."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.hub_writes import WritableHub
from support.killing import Scenes, killed

pytestmark = pytest.mark.slow  # kills a command over and over


@pytest.mark.parametrize("name", ["convert", "release", "validate", "publish"])
def test_a_killed_command_leaves_old_or_new(name: str, tmp_path: Path):
    with WritableHub() as hub:
        scenes = Scenes(tmp_path / "work")
        trial = scenes.publish(hub) if name == "publish" else getattr(scenes, name)()
        found = killed(trial, 16 if name == "convert" else 8)
    assert found.faults == []
    assert found.kills + found.too_late == found.old + found.new
