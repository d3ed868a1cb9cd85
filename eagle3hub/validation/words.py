"""Words for reports and the cells of a matrix, the same on a terminal and on a page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eagle3hub.metrics import MIN_PROMPTS, too_few

MARKS = {"pass": "✓", "fail": "✗", "inconclusive": "?", "unavailable": "?", "refused": "–"}
_WORDS = {
    ("pass", "run"): "",
    ("fail", "run"): "fails",
    ("fail", "preflight"): "preflight",
    ("unavailable", "none"): "not here",
    ("unavailable", "run"): "not here",
}


def cell_word(cell: Mapping[str, Any]) -> str:
    """What a cell says beside its mark; nothing for a pass."""
    return _WORDS.get((cell["verdict"], cell["how"]), str(cell["verdict"]))


def reasons_of(matrix: Mapping[str, Any]) -> dict[str, list[str]]:
    """Where each reason for a cell that is no pass holds: an engine that is not there says the same in every row."""
    found: dict[tuple[str, str | None], list[str]] = {}
    for cell in matrix["cells"]:
        if cell["verdict"] != "pass":
            found.setdefault((cell["reason"], cell["engine"]), []).append(cell["layout"])
    out: dict[str, list[str]] = {}
    for (reason, engine), layouts in found.items():
        everywhere = len(layouts) == len(matrix["layouts"]) > 1
        where = "every layout" if everywhere else ", ".join(layouts)
        out.setdefault(reason, []).append(where if engine is None else f"{where} on {engine}")
    return out


def interval_of(entry: Mapping[str, Any], between: str = "to") -> str:
    """The 95 % interval of an entry that has ``acceptance``, its ends joined by a word, or why it has none."""
    acceptance = entry["acceptance"]
    if acceptance["ci95"]:
        low, high = acceptance["ci95"]
        return f"95 % interval {low:.3f} {between} {high:.3f}"
    prompts = sum(1 for row in entry["per_prompt"] if row["rounds"])
    return f"no interval: {too_few(prompts)}" if prompts < MIN_PROMPTS else "no interval"
