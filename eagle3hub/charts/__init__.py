"""Charts of acceptance: PNG and SVG that are readable on light and on dark pages, with an alt text."""

from __future__ import annotations

from eagle3hub.charts.data import Chart, Panel, Series
from eagle3hub.charts.draw import (
    NARROW,
    TEXT,
    WIDE,
    acceptance_by_context,
    acceptance_by_dataset,
    acceptance_by_draft_tokens,
    acceptance_by_position,
    has_glyphs,
    require_drawing,
    throughput_by_concurrency,
)

__all__ = [
    "NARROW",
    "TEXT",
    "WIDE",
    "Chart",
    "Panel",
    "Series",
    "acceptance_by_context",
    "acceptance_by_dataset",
    "acceptance_by_draft_tokens",
    "acceptance_by_position",
    "has_glyphs",
    "require_drawing",
    "throughput_by_concurrency",
]
