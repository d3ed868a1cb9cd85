"""`eagle3hub.validation` with its options as keywords, as tests like to give them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

from eagle3hub import validation
from eagle3hub.system.progress import Progress, silent
from eagle3hub.validation import ValidateOptions
from eagle3hub.validation.engine_runner import Cache
from eagle3hub.validation.matrix import Matrix
from eagle3hub.validation.report import Report


def validate(
    head: str | Path,
    *,
    target: str | Path,
    cache: Cache | None = None,
    progress: Progress = silent,
    **options: Any,
) -> Report:
    """See `eagle3hub.validation.validate`."""
    return validation.validate(head, target, ValidateOptions(**options), cache=cache, progress=progress)


def validate_layouts(head: str | Path, layouts: str, *, target: str | Path, **options: Any) -> Matrix:
    """See `eagle3hub.validation.validate_layouts`."""
    return validation.validate_layouts(head, layouts, target, ValidateOptions(**options))


def histogram(counts: Any) -> list[int]:
    """How many rounds accepted 0, 1, 2, … drafts, from an engine's counts."""
    reached = [counts.rounds, *counts.accepted_per_position, 0]
    rounds = [a - b for a, b in pairwise(reached)]
    while rounds and not rounds[-1]:
        rounds.pop()
    return rounds
