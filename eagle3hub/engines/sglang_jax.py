"""sglang-jax: recipes only. What is known of it is data in ``data/sglang_jax``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eagle3hub.engines.base import EngineFailure, EngineRun, Job, Recipe
from eagle3hub.engines.recipes import Serving, make_recipe
from eagle3hub.engines.specs import common, default_version
from eagle3hub.system.progress import Progress


class SGLangJAX:
    """sglang-jax, which cannot be run from a released package: every run is unavailable."""

    name = "sglang_jax"
    runs_alone = True

    def __init__(self) -> None:
        self.version = default_version("sglang_jax")

    def recipe(self, target: str, head: str, *, draft_tokens: int, dtype: str | None = None) -> Recipe:
        """Server command of a chain."""
        serving = Serving(target, head, draft_tokens=draft_tokens, dtype=dtype)
        return make_recipe(self.name, serving, self.version)

    def unable(self, job: Job) -> str | None:
        """See `Engine.unable`: no job can be run."""
        minimum = common(self.name).minimum
        return None if minimum is None else minimum.says

    def flags(self, job: Job) -> dict[str, Any]:
        """Nothing is run, so nothing is passed."""
        return {}

    def run(self, job: Job, python: Path, *, timeout: float, progress: Progress) -> EngineRun | EngineFailure:
        """Unavailable, with the reason; see `Engine.run`."""
        return EngineFailure(f"sglang-jax was not run: {self.unable(job)}", "unavailable")
