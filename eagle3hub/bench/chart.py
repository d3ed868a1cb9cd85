"""The charts of a benchmark: which of its numbers go into which picture."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from eagle3hub.bench.results import CellRecord, Results
from eagle3hub.charts import (
    Chart,
    Panel,
    Series,
    acceptance_by_dataset,
    acceptance_by_draft_tokens,
    acceptance_by_position,
)
from eagle3hub.metrics import MIN_PROMPTS

_NO_WHISKERS = f"no intervals: fewer than {MIN_PROMPTS} prompts"


def charts(results: Results) -> dict[str, Chart]:
    """By file name without its ending: three kinds for each engine and temperature, as far as there are numbers.

    Tau by data set (a panel for each K), acceptance by position at the largest K (a panel for each data set), and,
    where there are several K, tau by K (a panel for each data set).
    """
    out = {}
    cells = [cell for cell in results.cells if cell["acceptance"]]
    for engine, temperature in dict.fromkeys((c["engine"]["name"], c["settings"]["temperature"]) for c in cells):
        here = [c for c in cells if (c["engine"]["name"], c["settings"]["temperature"]) == (engine, temperature)]
        suffix = re.sub(r"[^A-Za-z0-9.]+", "-", f"{engine}-T{temperature:g}")
        for name, chart in _of(here, results.document).items():
            out[f"{name}-{suffix}"] = chart
    return out


def _of(cells: Sequence[CellRecord], document: Mapping[str, Any]) -> dict[str, Chart]:
    heads = [h["name"] for h in document["heads"] if any(c["head"] == h["name"] for c in cells)]
    sets = list(dict.fromkeys(c["prompts"]["name"] for c in cells))
    drafts = sorted({c["settings"]["draft_tokens"] for c in cells})
    found = {(c["prompts"]["name"], c["settings"]["draft_tokens"], c["head"]): c for c in cells}
    note = _note(cells, document)
    known = any(cell["acceptance"]["ci95"] for cell in cells)
    whiskers = f"{note} · {'whiskers: 95 % intervals over prompts' if known else _NO_WHISKERS}"

    def tau(name: str, places: Sequence[tuple[str, int]]) -> Series:
        cells_there = [found.get((dataset, k, name)) for dataset, k in places]
        values = [None if cell is None else cell["acceptance"] for cell in cells_there]
        return Series(
            name,
            tuple(None if v is None else v["mean_acceptance_length"] for v in values),
            tuple(None if v is None or v["ci95"] is None else (v["ci95"][0], v["ci95"][1]) for v in values),
        )

    def rates(name: str, dataset: str, k: int) -> Series:
        cell = found.get((dataset, k, name))
        return Series(name, tuple(cell["acceptance"]["marginal_acceptance_rates"]) if cell else (None,) * k)

    by_set = [
        Panel(f"K = {k}", tuple(sets), tuple(tau(head, [(s, k) for s in sets]) for head in heads)) for k in drafts
    ]
    k = drafts[-1]
    positions = tuple(str(i + 1) for i in range(k))
    by_position = [Panel(s, positions, tuple(rates(head, s, k) for head in heads)) for s in sets]
    out = {
        "tau-by-dataset": acceptance_by_dataset(by_set, title="Acceptance length by data set", note=whiskers),
        "rate-by-position": acceptance_by_position(
            by_position, title=f"Acceptance by draft position, K = {k}", note=note
        ),
    }
    if len(drafts) > 1:
        labels = tuple(str(k) for k in drafts)
        by_k = [Panel(s, labels, tuple(tau(head, [(s, k) for k in drafts]) for head in heads)) for s in sets]
        out["tau-by-draft-tokens"] = acceptance_by_draft_tokens(
            by_k, title="Acceptance length by draft tokens", note=whiskers
        )
    return out


def _note(cells: Sequence[CellRecord], document: Mapping[str, Any]) -> str:
    settings, engine = cells[0]["settings"], cells[0]["engine"]
    sizes = sorted({c["prompts"]["count"] for c in cells})
    prompts = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    temperature = settings["temperature"]
    sampling = "greedy (T = 0)" if temperature == 0 else f"T = {temperature:g}, {settings['drafting']} drafting"
    return (
        f"{document['target']['name']} · {engine['name']} {engine['version']}, {settings['dtype']} on "
        f"{settings['device']}\n{sampling} · up to {settings['max_new_tokens']} new tokens · {prompts} prompts a set"
    )
