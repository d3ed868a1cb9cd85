"""Types of target models that an engine treats in a way of its own: the lists of ``target_types.toml``."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from eagle3hub.resources import read_toml


@cache
def target_types(name: str) -> frozenset[str]:
    """The list of that name, as ``model_type`` of a target's config.json."""
    return frozenset(read_toml(Path(__file__).with_name("target_types.toml"))[name])
