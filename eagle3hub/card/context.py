"""Build what the card's template gets: the head's architecture, the state of its measurements, all sections."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from eagle3hub._version import __version__
from eagle3hub.card import bibliography, imported, markdown, metadata, recipes, results, vocabulary
from eagle3hub.card import recipes as engines
from eagle3hub.card import results as bench
from eagle3hub.card.manifest import DataSet, License, Manifest
from eagle3hub.card.markdown import Table
from eagle3hub.card.reports import Run
from eagle3hub.card.results import Benchmark, RunView
from eagle3hub.card.served import served
from eagle3hub.checkpoint.source_tree import SourceTree
from eagle3hub.engines.base import Verdict
from eagle3hub.head import AuxTaps, Head, Semantics
from eagle3hub.prompts import SECOND_TURNS
from eagle3hub.system.text import readable_count, readable_size
from eagle3hub.validation.report import Report

# The architecture table, computed from the head's own tensors.


_DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64", "F8_E4M3": "float8 (e4m3)"}
_LAYER = re.compile(r"layers\.(\d+)\.(self_attn|mlp)\.")
_FIRST_LAYER = re.compile(r"^layers\.0\.")


@dataclass(frozen=True, slots=True)
class Part:
    """A group of tensors: its name, each tensor with its shape, and its number of parameters."""

    name: str
    tensors: tuple[str, ...]
    parameters: str


@dataclass(frozen=True, slots=True)
class Architecture:
    """What the card prints about the network: ``facts`` are (label, text) rows."""

    parts: tuple[Part, ...]
    parameters: str
    dtype: str
    size_bytes: int
    facts: tuple[tuple[str, str], ...]


def describe(head: Head) -> Architecture:
    """Describe the architecture of a head, from its semantics and its tensors' names and shapes."""
    groups: dict[str, list[str]] = {}
    for name in sorted(head.tensors, key=lambda n: (_rank(n), _layer(n), n)):
        groups.setdefault(_part_name(name), []).append(name)
    refs = head.tensors
    parts = tuple(
        Part(
            part,
            tuple(f"{_short(n)} {_shape(refs[n].shape)}" for n in names),
            f"{sum(refs[n].num_parameters for n in names):,}",
        )
        for part, names in groups.items()
    )
    return Architecture(
        parts,
        f"{head.num_parameters:,}",
        _DTYPES.get(head.dtype, head.dtype),
        sum(t.nbytes for t in head.tensors.values()),
        tuple(_facts(head)),
    )


def _part_name(name: str) -> str:
    """Return the part that a tensor belongs to, by its canonical name."""
    if match := _LAYER.match(name):
        return f"Layer {match[1]}, {'attention' if match[2] == 'self_attn' else 'MLP'}"
    if name.startswith("fc."):
        return "Fusion of the target's hidden states"
    if "norm" in name:
        return "Norms"
    return {"lm_head": "Output head", "embed_tokens": "Token embedding"}.get(name.split(".")[0], "Other")


def _rank(name: str) -> int:
    order = ("embed_tokens.", "fc.", "layers.", "norm", "lm_head.")
    if "norm" in name and ".self_attn." not in name:
        return order.index("norm")
    return next((i for i, prefix in enumerate(order) if name.startswith(prefix)), len(order))


def _layer(name: str) -> tuple[int, bool]:
    match = _LAYER.match(name)
    return (int(match[1]), match[2] == "mlp") if match else (0, False)


def _short(name: str) -> str:
    return _FIRST_LAYER.sub("", _LAYER.sub("", name)).removesuffix(".weight")


def _shape(shape: tuple[int, ...]) -> str:
    return " × ".join(str(n) for n in shape) if shape else "scalar"


def _facts(head: Head) -> list[tuple[str, str]]:
    d, s = head.dims, head.semantics
    layers = "one decoder layer" if s.num_layers == 1 else f"{s.num_layers} decoder layers"
    rows = [
        (
            "Draft network",
            f"{layers}, hidden size {d.hidden_size:,}, MLP size {d.intermediate_size:,}, {s.hidden_act}",
        ),
        ("Attention", f"{d.num_attention_heads} heads, {d.num_key_value_heads} key-value heads of {d.head_dim}"),
        ("Hidden states read", _aux(head.aux) if s.uses_aux else "the target's last hidden state only"),
        ("Draft vocabulary", _vocabulary(head)),
        ("Token embedding", _embedding(head)),
        ("Position embedding", _rope(s)),
        ("Norms", f"RMSNorm, epsilon {s.rms_norm_eps:g}"),
    ]
    if head.max_position_embeddings:
        rows.append(("Longest context", f"{head.max_position_embeddings:,} tokens"))
    return rows + _variants(s)


def _aux(aux: AuxTaps | None) -> str:
    if aux is None:
        return "not recorded"
    names = [str(tap) if isinstance(tap, int) else "the final norm" for tap in aux.taps]
    counted = all(isinstance(tap, int) for tap in aux.taps)
    origin = " (the default choice; the files name none)" if aux.origin == "default" else ""
    also = f"; hidden_states indices {', '.join(str(i) for i in aux.boundary)}" if counted else ""
    return f"after target layers {', '.join(names)}, counted from 0{also}{origin}"


def _vocabulary(head: Head) -> str:
    d = head.dims
    if d.draft_vocab_size == d.vocab_size:
        return f"the target's {d.vocab_size:,} tokens"
    return f"{d.draft_vocab_size:,} of the target's {d.vocab_size:,} tokens ({d.draft_vocab_size / d.vocab_size:.1%})"


def _embedding(head: Head) -> str:
    return "its own" if "embed_tokens.weight" in head.tensors else "shared with the target, not stored"


def _rope(s: Semantics) -> str:
    text = f"RoPE, theta {s.rope.theta:,.0f}"
    if not s.rope.scaling:
        return text
    return f"{text}, {', '.join(f'{key} {value}' for key, value in sorted(s.rope.scaling.items()))}"


def _variants(s: Semantics) -> list[tuple[str, str]]:
    rows = [
        ("Attention bias", "yes" if s.attention_bias else ""),
        ("Query and key norms", "yes" if s.qk_norm else ""),
        ("Norm before the residual", "yes" if s.norm_before_residual else ""),
        ("Norm before the fusion", "yes" if s.norm_before_fc else ""),
        ("Norm of each hidden state", "yes" if s.fc_norm else ""),
        ("Fed back between draft steps", "the normed hidden state" if s.feedback == "post_norm" else ""),
        ("Sliding window", f"{s.sliding_window:,} tokens" if s.sliding_window else ""),
        ("Quantization", f"{s.quantized_as} ({s.quantization})" if s.quantization else ""),
        ("Parallel drafting", "yes" if s.parallel_drafting else ""),
    ]
    return [(label, text) for label, text in rows if text]


# The reports in one sentence: not run, could not be run, inconclusive and failed are told apart.


_MEASURE = "Do not expect it to work as described before you have measured it yourself."


def headline(
    reports: Sequence[Report],
    views: Sequence[RunView],
    faults: Sequence[tuple[str, str]],
) -> tuple[str, str]:
    """Return the warning's first words and the rest of it; both are empty if there is nothing to warn about."""
    if not faults:
        return "", ""
    verdicts = _verdicts(reports, views)
    also = "pass" in verdicts
    if "fail" in verdicts:
        how = "part of it failed" if also else "it failed"
        return f"This release did not pass validation: {how}.", _MEASURE
    if "inconclusive" in verdicts:
        how = "part of what was measured is inconclusive" if also else "what was measured is inconclusive"
        return f"This release did not pass validation: {how}.", _MEASURE
    if also and "unavailable" in verdicts:
        return "This release was not validated in full.", "Not everything that it was to be run on could be run."
    if "unavailable" in verdicts:
        return "This release was not validated: nothing that it was to be run on could be run.", _MEASURE
    if also:
        return "The files in the root of this repository were not validated.", "Those of another layout were."
    return "This release was not validated.", _MEASURE


def no_recipe(manifest: Manifest, views: Sequence[RunView], *, benched: bool) -> str:
    """Return why the card prints no tested recipe.

    ``benched`` says whether a benchmark on the card ran on an engine.
    """
    engines = [v for v in views if v.is_engine and v.layout == manifest.layouts.main]
    verdicts = {v.verdict for v in engines}
    if not engines:
        replayed = any(v.acceptance and not v.is_engine for v in views)
        own = "The eagle3hub reference, which measured them, serves nothing." if replayed else ""
        which = "the files in this repository's root" if any(v.is_engine for v in views) else "these files"
        how = "validated" if benched else "run"
        return f"No engine was {how} here with {which}, so no tested command is printed. {own}".strip()
    if "pass" in verdicts:
        return "No tested command is printed: the report in which an engine passed did not pass as a whole."
    if "fail" in verdicts:
        return "No engine passed here with these files, so no tested command is printed."
    if "inconclusive" in verdicts:
        return "What engines made of these files here is inconclusive, so no tested command is printed."
    return "No engine could be run here with these files, so no tested command is printed."


def unmeasured(reports: Sequence[Report], views: Sequence[RunView]) -> str:
    """Return why there are no results."""
    verdicts = _verdicts(reports, views)
    if not reports:
        return "Nothing has been measured with these files yet."
    if verdicts == {"unavailable"}:
        return "Nothing has been measured with these files: nothing that they were to be run on could be run."
    if not views:
        return "Nothing has been measured with these files: they failed the checks that come before a run."
    return "Nothing has been measured with these files: no run got as far as counting accepted tokens."


def _verdicts(reports: Sequence[Report], views: Sequence[RunView]) -> set[Verdict]:
    """Return the verdicts of all runs, and of reports without a run."""
    without = {report.verdict for report in reports if not report.engines}
    return {v.verdict for v in views} | without


# Everything a card template sees: one flat mapping, computed from manifest, reports and head.


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
    """One row of the license table; ``link`` is empty if the id says everything."""

    what: str
    id: str
    name: str
    link: str


@dataclass(frozen=True, slots=True)
class Provenance:
    """The origin of one report; ``file`` is its path in the repository, or empty."""

    layout: str
    file: str
    verdict: str
    measured_at: str
    tool: str


@dataclass(frozen=True, slots=True)
class Picture:
    """A chart beside the card: its path without ending (there is a .png and a .svg), and its alt text.

    ``of`` names the section it belongs to: ``reports``, ``imported``, ``benchmark-1`` and so on.
    """

    path: str
    alt: str
    of: str


@dataclass(frozen=True, slots=True)
class RunConditions:
    """The settings of one run. ``rows`` has all of them, or only those that differ from the run called ``like``."""

    name: str
    command: str
    rows: tuple[tuple[str, str], ...]
    like: str


@dataclass(frozen=True, slots=True)
class Shown:
    """What a card shows, and is held to, besides its manifest, its reports and its head.

    Attributes:
        digests: folder digests of this release; a report of other bytes is refused, and so is a benchmark that
            measured none of them. None skips these checks.
        report_files: each report's path in the published repository, in the order of the reports; empty: no links.
        benchmarks: results of ``eagle3hub bench``. pictures: charts that lie beside the card.
        waived: gates of publishing that are waived, by code; the card lists them.
        tree: the commit the release is made from; the card says whether files differed from it.
        heads: the head of every layout folder, opened, by folder in the repository (the root is empty); None: the
            head in the root alone. Serving recipes are checked against the preflight of these files.
    """

    digests: Collection[str] | None = None
    report_files: Sequence[str] = ()
    benchmarks: Sequence[Benchmark] = ()
    pictures: Sequence[Picture] = ()
    waived: Sequence[str] = ()
    tree: SourceTree | None = None
    heads: Mapping[str, Head] | None = None


NOTHING_ELSE = Shown()


def build(
    manifest: Manifest, reports: Sequence[Report], runs: Sequence[Run], head: Head | None, shown: Shown = NOTHING_ELSE
) -> dict[str, object]:
    """Build the render context: text, whole numbers and small frozen objects of them, nothing that can touch a disk.

    Without a head ``architecture`` is None, and ``described`` holds what the manifest says about it.
    """
    benchmarks, heads, tree = shown.benchmarks, shown.heads, shown.tree
    files = shown.report_files or [""] * len(reports)
    views = [results.view(run, manifest) for run in runs]
    measured = [v for v in views if v.acceptance]
    main = [v for v in measured if v.layout == manifest.layouts.main]
    if len(main) > 1:
        main = [replace(v, label=label) for v, label in zip(main, results.told_apart(main), strict=True)]
    shared, acceptance = results.acceptance_table(main) if main else ("", None)
    network = describe(head) if head else None
    cited = bibliography.with_always(manifest.citations)
    own, own_bibtex = bibliography.own_works(manifest.bibtex)
    tool = f"eagle3hub {__version__}"
    folders = served(manifest.layouts, heads or ({"": head} if head else {}), manifest.speculative_tokens)
    tested = recipes.tested(runs, manifest, folders)
    benched = {cell.engine for b in benchmarks for cell in b.results.cells} - {vocabulary.REFERENCE}
    settled = {*tested.engines, *tested.withheld}
    noted = engines.noted(manifest, runs, folders, settled, tool, benched)
    serves = [*tested.engines, *(note.name for note in noted if note.command)]
    # on a card of others' results, each engine's own note says that it was not run
    says_why = bool(tested.recipes or tested.withheld or (head is None and noted))
    faults = warnings(manifest, reports, views) if head else []
    return {
        "release": manifest.release,
        "target": manifest.target,
        "target_id": manifest.target.id,
        "headings": {name: manifest.release.headings.get(name, name) for name in vocabulary.HEADINGS},
        "we": int(manifest.release.voice == "we"),
        "front_matter": metadata.front_matter(manifest, runs, benchmarks, shown.digests or (), serves),
        "draft_tokens": manifest.speculative_tokens,
        "results": main,
        "categories": results.by_category(main),
        "acceptance_shared": shared,
        "acceptance": acceptance,
        "headline": results.headline(main),
        "layout_results": measured if len(main) < len(measured) else [],
        "warnings": faults,
        "warning": headline(reports, views, faults),
        "has_head": 1 if head else 0,
        "imported": imported.tables(manifest.imported),
        "reported": [] if any(v.run.passed for v in main) else imported.headlines(manifest.imported),
        "benchmarks": bench.views(benchmarks, shown.digests or ()),
        "pictures": list(shown.pictures),
        "recipes": list(tested.recipes),
        "withheld": list(tested.withheld.values()),
        "no_recipe": "" if says_why else no_recipe(manifest, views, benched=bool(benched)),
        "unmeasured": unmeasured(reports, views),
        "tried": "passed" if any(v.is_engine for v in views) else "was validated" if benched else "was run",
        "own": "" if all(v.is_engine for v in views) else vocabulary.engine(vocabulary.REFERENCE),
        "architecture": network,
        "described": manifest.architecture,
        "head_size": readable_size(network.size_bytes) if network else "",
        "parameters": readable_count(head.num_parameters) if head else "",
        "training": training_rows(manifest),
        "data_sets": data_set_table(manifest.training.data_sets),
        "about": manifest.about,
        "noted": noted,
        "subcards": [(vocabulary.SUBCARDS[name], facts) for name, facts in manifest.subcards],
        "layouts": layout_rows(manifest, reports, views),
        "sections": [(title, markdown.section(text)) for title, text in manifest.sections],
        "branches": int(manifest.publish.branch_per_layout),
        "fetch_other": recipes.fetched(manifest, manifest.layouts.also[0])[0] if manifest.layouts.also else "",
        "limitations": manifest.limitations,
        "licenses": licenses(manifest),
        "notices": vocabulary.terms(manifest.target.license.id).phrases,
        "works": [*(bibliography.work(key) for key in cited), *own],
        "eagle3": bibliography.work("eagle3"),
        "bibtex": "\n\n".join(filter(None, [bibliography.bibtex(cited), own_bibtex])),
        "provenance": [_provenance(r, file) for r, file in zip(reports, files, strict=True)],
        "waived": tuple(shown.waived),
        "commit": tree.commit if tree else "",
        "dirty": int(tree is not None and tree.dirty),
        "conditions": conditions(measured),
        "own_prompts": list(dict.fromkeys(v.own_prompts for v in measured if v.own_prompts)),
        "first_answers": results.FIRST_ANSWERS if any(v.prompts.endswith(SECOND_TURNS) for v in measured) else "",
        "digests": digests(reports),
        "tool": tool,
    }


def warnings(manifest: Manifest, reports: Sequence[Report], views: Sequence[RunView]) -> list[tuple[str, str]]:
    """List everything that keeps this card from being free of warnings, as (what, why)."""
    found = [(f"{v.name}: {v.outcome}", v.reason) for v in views if v.verdict != "pass"]
    for report in reports:
        if report.verdict != "pass" and all(e.verdict == "pass" for e in report.engines):  # static checks
            problems = [problem.message for problem in report.static.errors]
            layout = vocabulary.layout(report.head.layout).title
            found.append((f"{layout} layout: {vocabulary.outcome(report.verdict)}", "; ".join(problems)))
    main = manifest.layouts.main
    covered = any(report.head.layout == main for report in reports)
    if not covered or (not found and not any(v.run.passed and v.layout == main for v in views)):
        title = vocabulary.layout(main).title
        found.append(("Not validated", f"no report covers the files of this repository's root ({title} layout)"))
    return list(dict.fromkeys(found))


def layout_rows(manifest: Manifest, reports: Sequence[Report], views: Sequence[RunView]) -> list[LayoutRow]:
    """Return one row per published layout, the main one first."""
    rows = []
    for name in manifest.layouts:
        title = vocabulary.layout(name)
        of_it = [r.head for r in reports if r.head.layout == name]
        ran = dict.fromkeys((f"{v.engine}, {v.device}", v.outcome) for v in views if v.layout == name)
        digests = list(dict.fromkeys(h.digest for h in of_it))
        rows.append(
            LayoutRow(
                name=name,
                title=title.title,
                folder=manifest.layouts.folder(name),
                written_for=title.written_for,
                is_main=name == manifest.layouts.main,
                digest=digests[0] if len(digests) == 1 else "",
                size=readable_size(sum(f["size"] for f in of_it[0].files)) if of_it else "",
                ran=tuple(ran),
            )
        )
    return rows


def training_rows(manifest: Manifest) -> list[tuple[str, str]]:
    """Return every fact about training, and energy and CO2 with their units and the factor between them."""
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


def data_set_table(data_sets: Sequence[DataSet]) -> Table | None:
    """Tabulate the data sets of training, with a column for each fact that the manifest gives of one of them."""
    if not data_sets:
        return None
    synthetic = [", ".join(filter(None, (d.synthetic, d.made_by and f"by {d.made_by}"))) for d in data_sets]
    facts: list[tuple[str, str, list[str]]] = [
        ("Size", "r", [d.size for d in data_sets]),
        ("Share", "r", [d.share and f"{d.share} %" for d in data_sets]),
        ("Synthetic", "l", synthetic),
        ("License", "l", [_linked(_license(d.name, d.license)) if d.license else "" for d in data_sets]),
        ("Note", "l", [d.note for d in data_sets]),
    ]
    told = [fact for fact in facts if any(fact[2])]
    names = [markdown.link(d.name, f"https://huggingface.co/datasets/{d.id}") if d.id else d.name for d in data_sets]
    return Table(
        header=("Data set", *(heading for heading, _, _ in told)),
        rows=tuple((name, *(cells[i] or "–" for _, _, cells in told)) for i, name in enumerate(names)),
        align="l" + "".join(align for _, align, _ in told),
    )


def _linked(found: LicenseRow) -> str:
    return markdown.link(found.name or found.id, found.link)


def licenses(manifest: Manifest) -> list[LicenseRow]:
    """List head, target and training data, each with its own license; no row is inferred from another.

    Where the data as a whole has none, those of its data sets are named.
    """
    data = manifest.training.data_license
    sets = [_license(d.name, d.license or License("unknown")) for d in manifest.training.data_sets]
    named = ", ".join(manifest.release.datasets)
    what = f"Training data, {named}" if named else "Training data"
    return [
        _license("This draft head", manifest.release.license),
        _license(f"Target model, {manifest.target.id}", manifest.target.license),
        _of_sets(what, sets)
        if data is None and any(one.id for one in sets)
        else _license(what, data or License("unknown")),
    ]


def _of_sets(what: str, sets: Sequence[LicenseRow]) -> LicenseRow:
    return LicenseRow(what, "several", ", ".join(dict.fromkeys(one.name or one.id for one in sets)), "")


def _license(what: str, found: License) -> LicenseRow:
    if found.id == "unknown":
        return LicenseRow(what, "", "not stated", "")
    return LicenseRow(what, found.id, found.name or vocabulary.SPDX.get(found.id, ""), found.link or "")


def conditions(measured: Sequence[RunView]) -> list[RunConditions]:
    """Return the conditions of runs: all of the first run's, and of each other run those that differ from it."""
    found = []
    for v in measured:
        first = measured[0]
        rows = v.conditions if v is first else tuple(row for row in v.conditions if row not in first.conditions)
        found.append(RunConditions(v.name, v.command, rows, like="" if v is first else first.name))
    return found


def _provenance(report: Report, file: str) -> Provenance:
    return Provenance(
        layout=vocabulary.layout(report.head.layout).title,
        file=file,
        verdict=vocabulary.outcome(report.verdict),
        measured_at=report.measured_at,
        tool=f"eagle3hub {report.tool_version}",
    )


def digests(reports: Sequence[Report]) -> str:
    """List every digest in the reports and what it is a digest of, one a line, each once."""
    lines: list[str] = []
    for report in reports:
        head, target, prompts = report.head, report.target, report.prompts
        lines.append(f"{_hex(head.digest)}  draft head, {vocabulary.layout(head.layout).title} layout")
        lines += [f"{f['sha256']}  {f['path']} of that layout" for f in head.files]
        if target.revision:
            lines.append(f"{target.revision}  target {target.name}, revision")
        if target.weights_digest:
            lines.append(f"{_hex(target.weights_digest)}  target {target.name}, weights")
        if target.config_sha256:
            lines.append(f"{_hex(target.config_sha256)}  target {target.name}, config.json")
        lines.append(f"{_hex(prompts.sha256)}  prompts {prompts.name}, first {prompts.count}")
        if prompts.images is not None:
            lines.append(f"{_hex(prompts.images.sha256)}  images of prompts {prompts.name}, {prompts.images.count}")
    return "\n".join(dict.fromkeys(lines))


def _hex(digest: str) -> str:
    return digest.removeprefix("sha256:")
