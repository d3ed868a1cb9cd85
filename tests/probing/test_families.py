"""How a class of targets numbers aux layers, from what it captured."""

from __future__ import annotations

from typing import Any

import pytest

from eagle3hub.head.aux_defaults import AUX_IDS
from eagle3hub.probing.families import LISTINGS, family_reading
from eagle3hub.probing.heads import LAYERS, TAPS

AFTER = [TAPS, (2, 6, 9), (3, 6, 10), (), ()]


@pytest.mark.parametrize(
    ("captured", "numbering", "last"),
    [
        (AFTER, "after", False),
        ([*AFTER[:3], (3, 7, LAYERS), ()], "after", True),
        ([*AFTER[:3], (3, 7, LAYERS), (2, 6, LAYERS)], "boundary-if-last-layer", True),
        ([TAPS, (2, 6, 9), (2, 5, 9), (2, 6, 11), ()], "after-if-first-is-1", False),
        ([TAPS, (1, 5, 8), (2, 5, 9), (2, 6, 11), (2, 6, LAYERS)], "boundary", True),
    ],
)
def test_a_numbering_follows_from_what_was_captured(captured: list[Any], numbering: str, last: bool):
    found = family_reading(dict(zip(LISTINGS, captured, strict=True)))
    assert found == {"places": [[f"eagle_config.{AUX_IDS}", numbering]], "default": [2, 0, -3], "last_layer": last}


def test_another_default_is_seen():
    found = family_reading(dict(zip(LISTINGS, [(3, 7, 10), *AFTER[1:]], strict=True)))
    assert found is not None
    assert found["default"] == [3, 1, -2]


@pytest.mark.parametrize("captured", [[(), *AFTER[1:]], [TAPS, (), *AFTER[2:]], [TAPS, (2, 6, 8), *AFTER[2:]]])
def test_what_follows_no_numbering_is_not_known(captured: list[Any]):
    assert family_reading(dict(zip(LISTINGS, captured, strict=True))) is None


def test_what_is_no_state_is_a_branch():
    none = ("?", "?", "?")
    assert family_reading(dict(zip(LISTINGS, [none] * 4 + [()], strict=True))) == {"branch": True, "last_layer": True}
