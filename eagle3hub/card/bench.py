"""What the card prints about a benchmark: its own tables and conditions, and only of this target and this head."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from eagle3hub.card import names
from eagle3hub.card.files import find
from eagle3hub.card.manifest import Manifest
from eagle3hub.errors import ManifestError

if TYPE_CHECKING:
    from eagle3hub.bench.results import CellRecord, Results
    from eagle3hub.bench.table import Table


@dataclass(frozen=True, slots=True)
class Benchmark:
    """Results of ``eagle3hub bench``; ``file`` is their path in the published repository, or empty."""

    results: Results
    file: str = ""

    def cells_of(self, digests: Collection[str]) -> list[CellRecord]:
        """The cells that passed, of heads with one of these digests."""
        own = {head["name"] for head in self.results.document["heads"] if head["digest"] in digests}
        return [c for c in self.results.cells if c["head"] in own and c["acceptance"] and c["verdict"] == "pass"]


@dataclass(frozen=True, slots=True)
class BenchView:
    """One benchmark as templates see it; ``number`` is its place on the card, from 1, empty for the only one."""

    number: str
    file: str
    engines: str
    measured_at: str
    tool: str
    tables: tuple[Table, ...]
    conditions: tuple[str, ...]


def find_benchmarks(manifest: Manifest) -> list[tuple[Path, Results]]:
    """The results that the manifest names. Raises ManifestError for a pattern without a file, SourceError."""
    from eagle3hub.bench.results import load_results

    folder = manifest.path.parent
    for pattern in manifest.benchmarks:
        if not find(folder, [pattern]):
            raise ManifestError(
                f"{manifest.path.name}: benchmarks: there is no file {pattern}",
                hint="write it with eagle3hub bench, or leave the pattern out",
                code="bench-missing",
            )
    return [(path, load_results(path)) for path in find(folder, manifest.benchmarks)]


def check(benchmark: Benchmark, manifest: Manifest, digests: Collection[str] | None) -> None:
    """Raise ManifestError for a benchmark of another target, or of other heads only.

    ``digests`` are the folder digests that belong to this release; None skips that check.
    """
    document, wanted = benchmark.results.document, manifest.target.id
    name = str(document["target"]["name"])
    if name not in (wanted, wanted.split("/")[-1]):
        raise ManifestError(
            f"the benchmark was run with the target {name!r}, but the manifest's target is {wanted!r}",
            code="bench-target",
        )
    measured, known = document["target"].get("weights_digest"), manifest.target.weights_digest
    if None not in (known, measured) and measured != known:
        raise ManifestError(
            f"the benchmark was run with other weights of the target: {measured}, where the manifest says {known}",
            hint="measure again, with the target of this release",
            code="bench-target",
        )
    heads = {str(head["name"]): head["digest"] for head in document["heads"]}
    if digests is not None and not set(heads.values()) & set(digests):
        raise ManifestError(
            f"the benchmark measured other bytes: none of its heads ({', '.join(heads)}) is a folder of this release",
            hint="measure again, with the head of this release among the heads",
            code="bench-digest",
        )


def views(benchmarks: Sequence[Benchmark]) -> list[BenchView]:
    """Format benchmarks, in the order given."""
    from eagle3hub.bench.table import conditions, tables

    return [
        BenchView(
            number=str(i) if len(benchmarks) > 1 else "",
            file=b.file,
            engines=", ".join(dict.fromkeys(_engine(cell) for cell in b.results.cells)),
            measured_at=str(b.results.document["measured_at"]),
            tool=f"{b.results.document['tool']['name']} {b.results.document['tool']['version']}",
            tables=tuple(tables(b.results)),
            conditions=tuple(conditions(b.results)),
        )
        for i, b in enumerate(benchmarks, 1)
    ]


def _engine(cell: CellRecord) -> str:
    return f"{names.engine(cell['engine']['name'])} {cell['engine']['version']}"
