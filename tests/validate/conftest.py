from __future__ import annotations

import shutil
from pathlib import Path

import pytest

HEAD = Path(__file__).resolve().parents[2] / "examples" / "smollm2-135m" / "head"


@pytest.fixture
def head(tmp_path: Path) -> Path:
    """A copy of the example head, to be broken at will."""
    copy = tmp_path / "head"
    shutil.copytree(HEAD, copy)
    return copy
