from __future__ import annotations

import pytest

from eagle3hub.errors import ConfigError
from eagle3hub.head import FINAL_NORM, AuxTaps


def test_conventions_differ_by_one():
    taps = AuxTaps.from_after_layer([1, 14, 26], "config")
    assert taps.boundary == [2, 15, 27]
    assert AuxTaps.from_boundary([2, 15, 27], "config").taps == taps.taps


@pytest.mark.parametrize(("layers", "ids"), [(30, [1, 14, 26]), (36, [1, 17, 32]), (8, [1, 3, 4]), (7, [1, 2, 3])])
def test_default_follows_from_the_number_of_layers(layers, ids):
    taps = AuxTaps.default_for(layers)
    assert taps.after_layer == ids
    assert taps.is_default


def test_other_triples_are_not_the_default():
    assert not AuxTaps.from_after_layer([1, 15, 26], "config").is_default
    assert not AuxTaps.from_after_layer([1, 14], "config").is_default


@pytest.mark.parametrize("layers", [3, 4, 6])
def test_small_targets_have_no_default(layers):
    with pytest.raises(ConfigError, match="no default aux taps"):
        AuxTaps.default_for(layers)


@pytest.mark.parametrize("ids", [[14, 1, 26], [1, 1, 26], [], [-1, 3], [True, 3]])
def test_bad_lists_are_refused(ids):
    with pytest.raises(ConfigError):
        AuxTaps.from_after_layer(ids, "config")
    with pytest.raises(ConfigError):
        AuxTaps.from_boundary([0, 1], "config")


def test_the_final_norm_has_no_number():
    with pytest.raises(ConfigError, match="post-norm"):
        _ = AuxTaps((FINAL_NORM,), "config").after_layer
