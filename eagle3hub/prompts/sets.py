"""Prompts, and sets of them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from eagle3hub.prompts.catalogue import Dataset


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt: its id in the set, its category, the text of the user's first turn, and the turns after it.

    Runs use the first turn only.
    """

    question_id: int | str
    category: str
    text: str
    later_turns: tuple[str, ...] = ()

    @property
    def turns(self) -> tuple[str, ...]:
        """Every turn of the user, in order."""
        return (self.text, *self.later_turns)


@dataclass(frozen=True, slots=True)
class PromptSet:
    """The prompts of a run, in order, and the name of the set they come from.

    ``dataset`` is what is known of a fetched set (licence, revision); None for the packaged set and for files.
    """

    name: str
    prompts: tuple[Prompt, ...]
    dataset: Dataset | None = None

    @property
    def sha256(self) -> str:
        """SHA-256 (hex) of exactly the prompts used, as canonical JSON: sorted keys, no spaces, UTF-8.

        Only first turns are used, so only they are hashed.
        """
        rows = [{"question_id": p.question_id, "category": p.category, "turns": [p.text]} for p in self.prompts]
        text = json.dumps(rows, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def categories(self) -> dict[str, int]:
        """Number of prompts in each category, in order of first appearance."""
        out: dict[str, int] = {}
        for prompt in self.prompts:
            out[prompt.category] = out.get(prompt.category, 0) + 1
        return out

    def to_json(self) -> dict[str, Any]:
        """The ``prompts`` object of a report."""
        return {
            "name": self.name,
            "sha256": self.sha256,
            "count": len(self.prompts),
            "categories": self.categories,
        }
