"""What a layout claims to hold is what it holds: the tables in the documentation come from these claims."""

from __future__ import annotations

import pytest

from eagle3hub.layouts import LAYOUTS
from eagle3hub.layouts.base import FEATURES

NAMES = {feature.name for feature in FEATURES}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_contracts_speak_of_features_there_are(layout: str):
    contract = LAYOUTS[layout].contract
    assert contract.expresses <= NAMES
    assert set(contract.cannot) <= NAMES - contract.expresses
    assert contract.reads
    assert contract.writes
    assert contract.tensor_prefix in ("midlayer.", "layers.0.")


def test_features_have_titles_of_their_own():
    assert len({feature.title for feature in FEATURES}) == len(FEATURES) == len(NAMES)
