"""Make the cases importable, and share the example release's manifest."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from card.card_samples import EXAMPLE

from eagle3hub.card import Manifest, load_manifest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def example() -> Manifest:
    """The example release's manifest."""
    return load_manifest(EXAMPLE)
