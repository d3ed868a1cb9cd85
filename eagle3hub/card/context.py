"""What a card template can see: one flat mapping, computed from manifest, reports and head."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eagle3hub._version import __version__
from eagle3hub.card import (
    architecture,
    bench,
    bibliography,
    engines,
    markdown,
    metadata,
    names,
    recipes,
    reported,
    results,
    state,
    terms,
)
from eagle3hub.card.bench import Benchmark
from eagle3hub.card.manifest import License, Manifest
from eagle3hub.card.reports import Run
from eagle3hub.card.results import RunView
from eagle3hub.card.served import served
from eagle3hub.head import Head
from eagle3hub.source_tree import SourceTree
from eagle3hub.units import count, size


@dataclass(frozen=True, slots=True)
class LayoutRow:
    """One published layout: its folder in the repository, its files, and where it ran."""

    name: str
    title: str
    folder: str
    written_for: str
    is_main: bool
    digest: str
    size: str
    ran: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class LicenseRow:
    """One row of the license table; ``link`` is empty where the id says it all."""

    what: str
    id: str
    name: str
    link: str


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where one report came from; ``file`` is its path in the repository, or empty."""

    layout: str
    file: str
    verdict: str
    measured_at: str
    tool: str


@dataclass(frozen=True, slots=True)
class Picture:
    """A chart that lies beside the card: its path without ending (there is a .png and a .svg), and it in words.

    ``of`` is what it belongs to: ``reports``, ``imported`` or ``benchmark-1`` and so on.
    """

    path: str
    alt: str
    of: str


@dataclass(frozen=True, slots=True)
class Conditions:
    """How one run was made. ``rows`` are all its settings, or those that differ from the run called ``like``."""

    name: str
    command: str
    rows: tuple[tuple[str, str], ...]
    like: str


def build(
    manifest: Manifest,
    reports: Sequence[Mapping[str, Any]],
    runs: Sequence[Run],
    head: Head | None,
    report_files: Mapping[int, str],
    benchmarks: Sequence[Benchmark] = (),
    pictures: Sequence[Picture] = (),
    waived: Sequence[str] = (),
    own_digests: Collection[str] = (),
    tree: SourceTree | None = None,
    heads: Mapping[str, Head] | None = None,
) -> dict[str, Any]:
    """The render context: text, whole numbers and small frozen objects of them, nothing that can touch a disk.

    ``report_files`` maps an index of ``reports`` to its path in the repository. Without a head ``architecture`` is
    None, and what the manifest says of it is ``described``. ``own_digests`` are those of the release's folders, and
    ``heads`` what lies in each of them, by folder (the root is empty); by default the head in the root.
    """
    views = [results.view(run, manifest) for run in runs]
    measured = [v for v in views if v.acceptance]
    main = [v for v in measured if v.layout == manifest.layouts.main]
    network = architecture.describe(head) if head else None
    cited = bibliography.with_always(manifest.citations)
    tool = f"eagle3hub {__version__}"
    folders = served(manifest.layouts, heads or ({"": head} if head else {}), manifest.speculative_tokens)
    tested = recipes.tested(runs, manifest, folders)
    benched = {str(cell["engine"]["name"]) for b in benchmarks for cell in b.results.cells} - {names.REFERENCE}
    settled = {*tested.engines, *tested.withheld}
    noted = engines.noted(manifest, runs, folders, settled, tool, benched)
    serves = [*tested.engines, *(note.name for note in noted if note.command)]
    # on a card of others' results each engine says by itself that it was not run
    says_why = bool(tested.recipes or tested.withheld or (head is None and noted))
    faults = warnings(manifest, reports, views) if head else []
    return {
        "release": manifest.release,
        "target_id": manifest.target.id,
        "front_matter": metadata.front_matter(manifest, runs, benchmarks, own_digests, serves),
        "draft_tokens": manifest.speculative_tokens,
        "results": main,
        "mixed": int(any(v.verdict != "pass" for v in main)),
        "passed": sorted((v for v in main if v.run.passed), key=lambda v: not v.is_engine),
        "layout_results": measured if len(main) < len(measured) else [],
        "warnings": faults,
        "warning": state.headline(reports, views, faults),
        "has_head": 1 if head else 0,
        "imported": reported.tables(manifest.imported),
        "benchmarks": bench.views(benchmarks),
        "pictures": list(pictures),
        "recipes": list(tested.recipes),
        "withheld": list(tested.withheld.values()),
        "no_recipe": "" if says_why else state.no_recipe(manifest, views, benched=bool(benched)),
        "unmeasured": state.unmeasured(reports, views),
        "tried": "passed" if any(v.is_engine for v in views) else "was validated" if benched else "was run",
        "own": "" if all(v.is_engine for v in views) else names.engine(names.REFERENCE),
        "architecture": network,
        "described": manifest.architecture,
        "head_size": size(network.size_bytes) if network else "",
        "parameters": count(head.num_parameters) if head else "",
        "training": training_rows(manifest),
        "about": manifest.about,
        "noted": noted,
        "subcards": [(names.SUBCARDS[name], facts) for name, facts in manifest.subcards],
        "layouts": layout_rows(manifest, reports, views),
        "sections": [(title, markdown.section(text)) for title, text in manifest.sections],
        "branches": int(manifest.publish.branch_per_layout),
        "fetch_other": recipes.fetched(manifest, manifest.layouts.also[0])[0] if manifest.layouts.also else "",
        "limitations": manifest.limitations,
        "licenses": licenses(manifest),
        "notices": terms.terms(manifest.target.license.id).phrases,
        "works": [bibliography.work(key) for key in cited],
        "eagle3": bibliography.work("eagle3"),
        "bibtex": bibliography.bibtex(cited),
        "provenance": [_provenance(r, report_files.get(i, "")) for i, r in enumerate(reports)],
        "waived": tuple(waived),
        "commit": tree.commit if tree else "",
        "dirty": int(tree is not None and tree.dirty),
        "conditions": conditions(measured),
        "digests": digests(reports),
        "tool": tool,
    }


def warnings(
    manifest: Manifest, reports: Sequence[Mapping[str, Any]], views: Sequence[RunView]
) -> list[tuple[str, str]]:
    """Everything that stands between this card and a clean bill, as (what, why)."""
    found = [(f"{v.name}: {v.outcome}", v.reason) for v in views if v.verdict != "pass"]
    for report in reports:
        if report["verdict"] != "pass" and all(e["verdict"] == "pass" for e in report["engines"]):  # static checks
            problems = [p["message"] for p in report["static"]["problems"] if p["severity"] == "error"]
            layout = names.layout(report["head"]["layout"]).title
            found.append((f"{layout} layout: {names.outcome(report['verdict'])}", "; ".join(problems)))
    main = manifest.layouts.main
    covered = any(report["head"]["layout"] == main for report in reports)
    if not covered or (not found and not any(v.run.passed and v.layout == main for v in views)):
        title = names.layout(main).title
        found.append(("Not validated", f"no report covers the files of this repository's root ({title} layout)"))
    return list(dict.fromkeys(found))


def layout_rows(manifest: Manifest, reports: Sequence[Mapping[str, Any]], views: Sequence[RunView]) -> list[LayoutRow]:
    """One row per published layout, the main one first."""
    rows = []
    for name in manifest.layouts:
        title = names.layout(name)
        of_it = [r["head"] for r in reports if r["head"]["layout"] == name]
        ran = dict.fromkeys((f"{v.engine}, {v.device}", v.outcome) for v in views if v.layout == name)
        digests = list(dict.fromkeys(h["digest"] for h in of_it))
        rows.append(
            LayoutRow(
                name=name,
                title=title.title,
                folder=manifest.layouts.folder(name),
                written_for=title.written_for,
                is_main=name == manifest.layouts.main,
                digest=digests[0] if len(digests) == 1 else "",
                size=size(sum(f["size"] for f in of_it[0]["files"])) if of_it else "",
                ran=tuple(ran),
            )
        )
    return rows


def training_rows(manifest: Manifest) -> list[tuple[str, str]]:
    """Every fact about training, and energy and CO2 with their units and the factor between them."""
    rows = list(manifest.training.facts)
    found = manifest.training.emissions
    if found is None:
        return rows
    if found.energy_kwh:
        rows.append(("Energy", f"{found.energy_kwh} kWh"))
    if found.grams is not None:
        grams = f" = {found.grams:,.0f} g" if found.unit != "g" else ""
        factor = f"; {found.factor} kg per kWh, computed" if found.factor else ""
        rows.append(("Emissions", f"{found.co2} {found.unit} CO2e{grams}{factor}"))
    return rows + [(f"Emissions, {key.replace('_', ' ')}", text) for key, text in found.about]


def licenses(manifest: Manifest) -> list[LicenseRow]:
    """Head, target and training data, each with its own license; nothing is inferred from another row."""
    data = manifest.training.data_license
    named = ", ".join(manifest.release.datasets)
    return [
        _license("This draft head", manifest.release.license),
        _license(f"Target model, {manifest.target.id}", manifest.target.license),
        _license(f"Training data, {named}" if named else "Training data", data or License("unknown")),
    ]


def _license(what: str, found: License) -> LicenseRow:
    if found.id == "unknown":
        return LicenseRow(what, "", "not stated", "")
    return LicenseRow(what, found.id, found.name or names.SPDX.get(found.id, ""), found.link or "")


def conditions(measured: Sequence[RunView]) -> list[Conditions]:
    """The conditions of runs: of the first in full, of the others what differs from it."""
    found = []
    for v in measured:
        first = measured[0]
        rows = v.conditions if v is first else tuple(row for row in v.conditions if row not in first.conditions)
        found.append(Conditions(v.name, v.command, rows, like="" if v is first else first.name))
    return found


def _provenance(report: Mapping[str, Any], file: str) -> Provenance:
    return Provenance(
        layout=names.layout(report["head"]["layout"]).title,
        file=file,
        verdict=names.outcome(report["verdict"]),
        measured_at=report["measured_at"],
        tool=f"{report['tool']['name']} {report['tool']['version']}",
    )


def digests(reports: Sequence[Mapping[str, Any]]) -> str:
    """Every digest of the reports with what it is of, one a line, each once."""
    lines: list[str] = []
    for report in reports:
        head, target, prompts = report["head"], report["target"], report["prompts"]
        lines.append(f"{_hex(head['digest'])}  draft head, {names.layout(head['layout']).title} layout")
        lines += [f"{f['sha256']}  {f['path']} of that layout" for f in head["files"]]
        if target.get("revision"):
            lines.append(f"{target['revision']}  target {target['name']}, revision")
        if target.get("weights_digest"):
            lines.append(f"{_hex(target['weights_digest'])}  target {target['name']}, weights")
        if target.get("config_sha256"):
            lines.append(f"{_hex(target['config_sha256'])}  target {target['name']}, config.json")
        lines.append(f"{_hex(prompts['sha256'])}  prompts {prompts['name']}, first {prompts['count']}")
    return "\n".join(dict.fromkeys(lines))


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")
