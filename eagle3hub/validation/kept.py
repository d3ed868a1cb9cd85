"""What several validations of one target share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from eagle3hub.engines.base import EngineRun

if TYPE_CHECKING:
    from eagle3hub.metrics import Rounds
    from eagle3hub.reference.target import TargetModel
    from eagle3hub.reference.text import Text


@dataclass(slots=True)
class Kept:
    """Work that the next head of the same target need not repeat.

    Attributes:
        baselines: runs of the target alone on an engine, by everything that could change them.
        targets: targets in memory, by source, device and dtype. Only those on CPU: a GPU's memory is the engines'.
        texts: what a target said, by prompts and settings.
        rounds: of a head on a text, by the head's digest, the text and the conditions.
    """

    baselines: dict[str, EngineRun] = field(default_factory=dict)
    targets: dict[tuple[Any, ...], TargetModel] = field(default_factory=dict)
    texts: dict[tuple[Any, ...], Sequence[Text]] = field(default_factory=dict)
    rounds: dict[tuple[Any, ...], Rounds] = field(default_factory=dict)
