"""sglang-jax: recipes only. ``data/sglang_jax`` describes its versions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eagle3hub.engines.base import EngineFailure, EngineRun, Recipe, RunSpec
from eagle3hub.engines.recipes import Serving, make_recipe
from eagle3hub.engines.specs import default_version, engine_data
from eagle3hub.system.progress import Progress


class SGLangJAX:
    """sglang-jax. No released package of it can run a head, so every run is unavailable."""

    name = "sglang_jax"
    runs_alone = True

    def __init__(self, version: str | None = None) -> None:
        self.version = version or default_version("sglang_jax")

    def recipe(
        self, target: str, head: str, *, draft_tokens: int, dtype: str | None = None, parallel_drafting: bool = False
    ) -> Recipe:
        """Return the server's command, for a chain."""
        serving = Serving(target, head, draft_tokens=draft_tokens, dtype=dtype, parallel_drafting=parallel_drafting)
        return make_recipe(self.name, serving, self.version)

    def unable(self, spec: RunSpec) -> str | None:
        """See `Engine.unable`: it can run nothing."""
        minimum = engine_data(self.name).minimum
        return None if minimum is None else minimum.says

    def flags(self, spec: RunSpec) -> dict[str, Any]:
        """Return nothing, because nothing is run."""
        return {}

    def run(self, spec: RunSpec, python: Path, *, timeout: float, progress: Progress) -> EngineRun | EngineFailure:
        """Return ``unavailable`` with the reason; see `Engine.run`."""
        return EngineFailure(f"sglang-jax was not run: {self.unable(spec)}", "unavailable")
