"""Inference engines: recipes to serve a head, environments to run it in, and runs that count acceptance."""

from __future__ import annotations

from eagle3hub.engines.base import Engine
from eagle3hub.errors import UsageError

ENGINES = ("vllm",)


def get_engine(name: str) -> Engine:
    """The engine called ``name``; UsageError names those there are."""
    if name == "vllm":
        from eagle3hub.engines.vllm import VLLM

        return VLLM()
    raise UsageError(f"no engine is called {name!r}", hint=f"engines: {', '.join(ENGINES)}", code="usage-engine")
