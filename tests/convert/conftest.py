from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def to_speculators(target: Path) -> dict:
    return {"target": str(target), "speculative_tokens": 5}
