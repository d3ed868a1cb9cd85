"""Engines' interpreters as they are typed."""

from __future__ import annotations

from collections.abc import Sequence

from eagle3hub.engines import ENGINES
from eagle3hub.errors import UsageError


def engine_pythons(pairs: Sequence[str]) -> dict[str, str]:
    """``["sglang=/path/python"]`` as a mapping; UsageError for anything else."""
    out = {}
    for pair in pairs:
        engine, _, path = pair.partition("=")
        name = engine.replace("-", "_")
        if not path or name not in ENGINES:
            raise UsageError(
                f"--engine-python {pair!r} is not ENGINE=PATH",
                hint=f"engines: {', '.join(ENGINES)}",
                code="usage-engine-python",
            )
        out[name] = path
    return out
