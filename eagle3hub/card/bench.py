"""What the card prints about a benchmark: cells as rows, differences as the benchmark paired them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eagle3hub.card import names
from eagle3hub.card.manifest import Manifest
from eagle3hub.errors import ManifestError

if TYPE_CHECKING:
    from eagle3hub.bench.results import Results


@dataclass(frozen=True, slots=True)
class BenchView:
    """One benchmark as templates see it.

    ``rows``: head, data set, K, T, prompts, τ, interval, and tokens/s with and without the head. ``differences``:
    head, data set, K, T, τ of base and head, relative difference, interval of the difference.
    """

    engine: str
    measured_at: str
    tool: str
    base: str
    conditions: str
    rows: tuple[tuple[str, ...], ...]
    differences: tuple[tuple[str, ...], ...]
    has_speed: int
    incomplete: int


def view(results: Results, manifest: Manifest) -> BenchView:
    """Format one benchmark. Raises ManifestError if its target is not the release's."""
    document, wanted = results.document, manifest.target.id
    name = str(document["target"]["name"])
    if name not in (wanted, wanted.split("/")[-1]):
        raise ManifestError(
            f"the benchmark was run with the target {name!r}, but the manifest's target is {wanted!r}",
            code="bench-target",
        )
    cells = [cell for cell in results.cells if cell["acceptance"]]
    engines = dict.fromkeys(f"{names.engine(c['engine']['name'])} {c['engine']['version']}" for c in cells)
    settings = dict.fromkeys(
        f"{c['settings']['dtype']} on {names.device(c['settings']['device'])}, up to "
        f"{c['settings']['max_new_tokens']:,} new tokens"
        for c in cells
    )
    return BenchView(
        engine=", ".join(engines),
        measured_at=str(document["measured_at"]),
        tool=f"{document['tool']['name']} {document['tool']['version']}",
        base=str(document["base"]),
        conditions="; ".join(settings),
        rows=tuple(_row(cell) for cell in cells),
        differences=tuple(_difference(c) for c in document["comparisons"]),
        has_speed=int(any(cell["throughput"] for cell in cells)),
        incomplete=document["cells_planned"] - len(cells),
    )


def _row(cell: Any) -> tuple[str, ...]:
    a, settings, speed = cell["acceptance"], cell["settings"], cell["throughput"]
    return (
        str(cell["head"]),
        str(cell["prompts"]["name"]),
        str(settings["draft_tokens"]),
        f"{settings['temperature']:g}",
        f"{cell['prompts']['count']:,}",
        f"{a['mean_acceptance_length']:.2f}",
        f"{a['ci95'][0]:.2f} – {a['ci95'][1]:.2f}" if a["ci95"] else "–",
        f"{speed['speculative_tokens_per_second']:.1f}" if speed else "–",
        f"{speed['target_tokens_per_second']:.1f}" if speed else "–",
    )


def _difference(found: Any) -> tuple[str, ...]:
    interval = found["ci95"]
    return (
        str(found["other"]),
        str(found["dataset"]),
        str(found["draft_tokens"]),
        f"{found['temperature']:g}",
        f"{found['base_mean_acceptance_length']:.2f}",
        f"{found['mean_acceptance_length']:.2f}",
        f"{found['relative_percent']:+.1f}%".replace("-", "−"),
        f"{interval[0]:+.2f} to {interval[1]:+.2f}".replace("-", "−") if interval else "–",
    )
