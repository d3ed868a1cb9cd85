"""The results on a card: acceptance tables from reports, and tables of benchmarks."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from eagle3hub.card import vocabulary
from eagle3hub.card.imported import find
from eagle3hub.card.manifest import Manifest
from eagle3hub.card.markdown import Md, Table, escape
from eagle3hub.card.recipes import fetched
from eagle3hub.card.reports import Run
from eagle3hub.engines.base import Verdict
from eagle3hub.engines.options import engine_options, template_in_words
from eagle3hub.errors import ManifestError, assert_never
from eagle3hub.metrics import Acceptance
from eagle3hub.prompts import PACKAGED, SECOND_TURNS, context_name, datasets
from eagle3hub.validation.gates import Lossless
from eagle3hub.validation.report import Counted, Entry, MeasuredPrompts, MeasuredTarget, Settings, Throughput

if TYPE_CHECKING:
    from eagle3hub.benchmarking.plan import CellSettings
    from eagle3hub.benchmarking.results import BenchedHead, CellRecord, Results
    from eagle3hub.benchmarking.serving.plan import ServingSettings
    from eagle3hub.benchmarking.serving.results import ServingRecord, ServingResults
    from eagle3hub.benchmarking.table import Table as BenchmarkTable

# What the card prints about a benchmark: its tables and conditions. It must be of this target and this head.


@dataclass(frozen=True, slots=True)
class Benchmark:
    """Results of ``eagle3hub bench``; ``file`` is their path in the published repository, or empty."""

    results: Results | ServingResults
    file: str = ""

    def cells_of(self, digests: Collection[str]) -> list[CellRecord]:
        """Return the cells that passed, of heads with one of these digests; a serving measurement has none."""
        from eagle3hub.benchmarking.results import Results

        if not isinstance(self.results, Results):
            return []
        own = {head.name for head in self.results.heads if head.digest in digests}
        return [c for c in self.results.cells if c.head in own and c.acceptance and c.verdict == "pass"]


@dataclass(frozen=True, slots=True)
class BenchView:
    """One benchmark as templates see it.

    Attributes:
        number: its place on the card from 1, or empty if it is alone.
        apart: how it was run, where another of its kind was run otherwise; else empty.
        this: what its tables call the head of the card, where they have several; else empty.
    """

    title: str
    number: str
    apart: str
    this: str
    file: str
    engines: str
    measured_at: str
    tool: str
    tables: tuple[BenchmarkTable, ...]
    conditions: tuple[str, ...]


def find_benchmarks(manifest: Manifest) -> list[tuple[Path, Results | ServingResults]]:
    """Read the results that the manifest names. Raises ManifestError for a pattern without a file, SourceError."""
    from eagle3hub.benchmarking.serving.results import load_any_results

    folder = manifest.path.parent
    for pattern in manifest.benchmarks:
        if not find(folder, [pattern]):
            raise ManifestError(
                f"{manifest.path.name}: benchmarks: there is no file {pattern}",
                hint="write it with eagle3hub bench, or leave the pattern out",
                code="bench-missing",
            )
    return [(path, load_any_results(path)) for path in find(folder, manifest.benchmarks)]


def check_benchmark(benchmark: Benchmark, manifest: Manifest, digests: Collection[str] | None) -> None:
    """Raise ManifestError if a benchmark is of another target, or if none of its heads is of this release.

    ``digests`` are the folder digests of this release; None skips that check.
    """
    target, wanted = benchmark.results.target, manifest.target.id
    name = target.name
    if name not in (wanted, wanted.split("/")[-1]):
        raise ManifestError(
            f"the benchmark was run with the target {name!r}, but the manifest's target is {wanted!r}",
            code="bench-target",
        )
    measured, known = target.weights_digest, manifest.target.weights_digest
    if None not in (known, measured) and measured != known:
        raise ManifestError(
            f"the benchmark was run with other weights of the target: {measured}, where the manifest says {known}",
            hint="measure again, with the target of this release",
            code="bench-target",
        )
    heads = {head.name: head.digest for head in benchmark.results.heads}
    if digests is not None and not set(heads.values()) & set(digests):
        raise ManifestError(
            f"the benchmark measured other bytes: none of its heads ({', '.join(heads)}) is a folder of this release",
            hint="measure again, with the head of this release among the heads",
            code="bench-digest",
        )


def views(benchmarks: Sequence[Benchmark], digests: Collection[str]) -> list[BenchView]:
    """Format benchmarks, in the order given; ``digests`` are those of this release's folders."""
    from eagle3hub.benchmarking import table
    from eagle3hub.benchmarking.results import Results
    from eagle3hub.benchmarking.serving import table as serving

    out = []
    runs = [(type(b.results), _how(b.results.cells, b.results.target)) for b in benchmarks]
    for i, b in enumerate(benchmarks, 1):
        cells: Sequence[CellRecord | ServingRecord] = b.results.cells
        kind, how = runs[i - 1]
        others = [other for same, other in runs if same is kind]
        if isinstance(b.results, Results):
            title, tables, conditions = "Benchmark", table.tables(b.results), table.conditions(b.results)
        else:
            title, tables, conditions = "Speed under load", serving.tables(b.results), serving.conditions(b.results)
        out.append(
            BenchView(
                title=title,
                number=str(i) if len(benchmarks) > 1 else "",
                this=_this(b.results.heads, digests),
                apart=", ".join(words for j, words in enumerate(how) if any(other[j] != words for other in others)),
                file=b.file,
                engines=", ".join(dict.fromkeys(map(_engine, cells))),
                measured_at=b.results.measured_at,
                tool=f"eagle3hub {b.results.tool_version}",
                tables=tuple(tables),
                conditions=tuple(conditions),
            )
        )
    return out


def _this(heads: Sequence[BenchedHead], digests: Collection[str]) -> str:
    own = [head.name for head in heads if head.digest in digests]
    return " and ".join(own) if len(heads) > len(own) else ""


def _how(cells: Sequence[CellRecord | ServingRecord], target: MeasuredTarget) -> list[str]:
    """Say how cells were run, in as many words for every benchmark: engine, format, devices and mode."""
    settings = [cell.settings for cell in cells]
    told = (
        [_engine(cell) for cell in cells],
        [_format(s.dtype, target) for s in settings],
        [vocabulary.device(s.device) for s in settings],
        [f"tensor parallel size {s.engine_settings.tensor_parallel}" for s in settings if s.device != "server"],
        [mode(s) or "default" for s in settings],
    )
    return [" and ".join(dict.fromkeys(words)) for words in told]


def _engine(cell: CellRecord | ServingRecord) -> str:
    return f"{vocabulary.engine(cell.engine)} {cell.engine_version}"


# What the card prints about one run: every number comes from the report.


SMOKE_PROMPTS = 80
"""A run with fewer prompts than MT-Bench, the smallest set that EAGLE papers report, is a smoke test."""


@dataclass(frozen=True, slots=True)
class AcceptanceView:
    """The acceptance of one run, as text. ``interval`` is empty if there is none."""

    length: str
    interval: str
    draft_rate: str
    estimator: str
    rounds: str
    drafted: str
    accepted: str
    positions: tuple[tuple[int, str, str, str], ...]
    categories: tuple[tuple[str, str, str, str], ...]


@dataclass(frozen=True, slots=True)
class LosslessView:
    """How many prompts gave the same text with and without the head.

    Attributes:
        first: describes the first difference.
        alone: says what wrote the text without the head.
        changes: what the differences are, as the end of a sentence; empty where nothing judged them.
    """

    identical: int
    prompts: int
    first: str
    alone: str = "the target's own"
    changes: str = ""

    @property
    def complete(self) -> bool:
        """Whether every prompt gave the same text."""
        return self.identical == self.prompts


@dataclass(frozen=True, slots=True)
class RunView:
    """One run as templates see it."""

    run: Run
    layout: str
    layout_title: str
    engine: str
    device: str
    dtype: str
    verdict: Verdict
    reason: str
    prompts: str
    prompt_count: int
    images: int
    new_tokens: str
    draft_tokens: int
    temperature: str
    mode: str
    acceptance: AcceptanceView | None
    lossless: LosslessView | None
    conditions: tuple[tuple[str, str], ...]
    command: str
    label: str = ""

    @property
    def outcome(self) -> str:
        """The verdict as the card prints it."""
        return vocabulary.outcome(self.verdict)

    @property
    def is_engine(self) -> bool:
        """Whether an inference engine ran, and not only our own replay."""
        return self.run.entry.engine != vocabulary.REFERENCE

    @property
    def loads(self) -> bool:
        """Whether an engine loaded every tensor of these files."""
        counted = self.run.entry.counted
        return self.is_engine and counted is not None and counted.load.checked and not counted.load.not_loaded

    @property
    def name(self) -> str:
        """Engine, device, format, layout and mode in a few words; ``label``, where that tells it from the others."""
        if self.label:
            return self.label
        mode = f", {self.mode}" if self.mode else ""
        return f"{self.engine} on {self.device}, {self.dtype}, {self.layout_title} layout{mode}"

    @property
    def asked(self) -> str:
        """The prompts in words: how many of which set, and that they hold images."""
        return f"{self.prompt_count} prompts of {self.prompts}{_with_images(self.images)}"

    @property
    def own_prompts(self) -> str:
        """The name of the prompts, where they are no set that others can get by it; else empty."""
        name = _set_of(self.run.report.prompts)
        return "" if name in PACKAGED or name in datasets() else name

    @property
    def is_smoke_test(self) -> bool:
        """Whether the run is too small to compare heads."""
        return self.prompt_count < SMOKE_PROMPTS


def view(run: Run, manifest: Manifest) -> RunView:
    """Format one run."""
    report, entry, settings = run.report, run.entry, run.report.settings
    return RunView(
        run=run,
        layout=run.layout,
        layout_title=vocabulary.layout(run.layout).title,
        engine=_engine_title(entry),
        device=vocabulary.device(entry.device),
        dtype=_format(entry.dtype, report.target),
        verdict=entry.verdict,
        reason=entry.reason,
        prompts=report.prompts.name,
        prompt_count=report.prompts.count,
        images=0 if report.prompts.images is None else report.prompts.images.count,
        new_tokens=f"{settings.max_new_tokens:,}",
        draft_tokens=settings.draft_tokens,
        temperature=f"{settings.temperature:g}",
        mode=mode(settings),
        acceptance=None if run.acceptance is None else _acceptance(run.acceptance, entry.counted),
        lossless=None if entry.counted is None else _lossless(entry.counted),
        conditions=tuple(conditions(run)),
        command=validate_command(run, manifest),
    )


@dataclass(frozen=True, slots=True)
class _Setting:
    """A setting of runs: its column, what each run has, and how a sentence says it of the first one."""

    heading: str
    of_runs: Sequence[str]
    word: str = ""
    said: str = ""
    align: str = "l"

    @property
    def is_shared(self) -> bool:
        return len(set(self.of_runs)) == 1


def acceptance_table(views: Sequence[RunView]) -> tuple[str, Table]:
    """Tabulate runs, at least one, that all counted drafts; the sentence, or empty text, says what they share."""
    first = views[0]
    engine = _Setting("Engine", [v.engine for v in views])
    mode = _Setting("Mode", [v.mode for v in views])
    of_runs = [f"{v.prompt_count} ({v.prompts}){_with_images(v.images)}" for v in views]
    prompts = f"{first.prompt_count} prompts ({first.prompts}){_with_images(first.images)}"
    k, t = f"K = {first.draft_tokens}", f"T = {first.temperature}"
    settings = [
        _Setting("Device", [v.device for v in views], "on", first.device),
        _Setting("Format", [v.dtype for v in views], "in", first.dtype),
        _Setting("Prompts", of_runs, "on", prompts, "r"),
        _Setting("K", [str(v.draft_tokens) for v in views], "with", k, "r"),
        _Setting("T", [v.temperature for v in views], "with", t, "r"),
    ]
    apart = [s for s in (*settings, mode) if not s.is_shared]
    # a table needs a column that tells its rows apart
    is_said = engine.is_shared and bool(apart)
    columns = [*([] if is_said else [engine]), *apart]
    shared = [s for s in settings if s.is_shared]
    sentence = f"Measured with {first.engine}" if is_said else "Measured" if shared else ""
    if shared:
        sentence += f" {shared[0].word} {', '.join(s.said for s in shared)}"
    if sentence and mode.is_shared and first.mode:
        sentence += f"; {first.mode}"
    found = [a for v in views if (a := v.acceptance) is not None]
    mixed = any(v.verdict != "pass" for v in views)
    return sentence, Table(
        header=(*(s.heading for s in columns), "τ", "95% interval", "Drafted tokens accepted", *["Verdict"] * mixed),
        rows=tuple(
            (
                *(s.of_runs[i] or "default" for s in columns),
                Md(f"**{escape(a.length)}**"),
                a.interval or "–",
                a.draft_rate,
                *[views[i].outcome] * mixed,
            )
            for i, a in enumerate(found)
        ),
        align="".join(s.align for s in columns) + "rcr" + "l" * mixed,
    )


@dataclass(frozen=True, slots=True)
class Categories:
    """Acceptance lengths by category: of one run (``title`` says which), or of several side by side."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def by_category(views: Sequence[RunView]) -> list[Categories]:
    """Return the tables by category: runs over the same categories and numbers of prompts share one."""
    groups: dict[tuple[object, ...], list[RunView]] = {}
    for v in views:
        if v.acceptance is not None and v.acceptance.categories:
            groups.setdefault((v.prompts, *((c[0], c[1]) for c in v.acceptance.categories)), []).append(v)
    return [_categories(group) for group in groups.values()]


def _categories(group: Sequence[RunView]) -> Categories:
    found = [v.acceptance.categories for v in group if v.acceptance is not None]
    first = group[0]
    if len(group) == 1:
        title = f"{first.name}, {first.prompts}, K = {first.draft_tokens}, T = {first.temperature}"
        return Categories(title, ("Category", "Prompts", "Rounds", "τ"), found[0])
    heads = [f"τ, {name}" for name in told_apart(group)]
    rows = [(*of_all[0][:2], *(category[3] for category in of_all)) for of_all in zip(*found, strict=True)]
    return Categories(first.prompts, ("Category", "Prompts", *heads), tuple(rows))


def told_apart(views: Sequence[RunView]) -> list[str]:
    """Name runs by what differs between them; one that differs in nothing that cards print by its number."""
    told = [
        (v.engine, v.device, v.dtype, v.prompts, f"K = {v.draft_tokens}", f"T = {v.temperature}", v.mode or "default")
        for v in views
    ]
    differs = [i for i, words in enumerate(zip(*told, strict=True)) if len(set(words)) > 1]
    names = [", ".join(words[i] for i in differs) for words in told]
    return [name if names.count(name) == 1 and name else f"run {i}" for i, name in enumerate(names, 1)]


def _with_images(count: int) -> str:
    return f" with {count} {'image' if count == 1 else 'images'}" if count else ""


@dataclass(frozen=True, slots=True)
class Headline:
    """What a card says first of what was measured: the acceptance length of a run, or from which to which of several.

    Attributes:
        first: one of the runs. under: the conditions that all of them share, in words.
        low, high: the runs of the smallest and of the largest acceptance length, each named by what tells it apart;
            ``low`` is None where one number says it.
    """

    first: RunView
    under: str
    low: RunView | None
    high: RunView


def headline(views: Sequence[RunView]) -> Headline | None:
    """Choose from the runs that passed, an engine's before the reference's; None where none passed."""
    passed = sorted((v for v in views if v.run.passed and v.acceptance), key=lambda v: not v.is_engine)
    if not passed:
        return None
    first = passed[0]
    same = [v for v in passed if (v.engine, v.device) == (first.engine, first.device)]
    told = [(v.dtype, f"K = {v.draft_tokens}", f"T = {v.temperature}", v.asked, v.mode) for v in same]
    under = ", ".join(words[0] for words in zip(*told, strict=True) if len(set(words)) == 1 and words[0])
    if len({v.acceptance.length for v in same if v.acceptance}) == 1:
        return Headline(first, under, None, first)
    apart = [i for i, words in enumerate(zip(*told, strict=True)) if len(set(words)) > 1]
    labels = [", ".join(words[i] or "default" for i in apart) for words in told]
    if len(set(labels)) < len(labels):
        labels = told_apart(same)
    named = [replace(v, label=label) for v, label in zip(same, labels, strict=True)]
    by_length = sorted(named, key=lambda v: v.run.acceptance.mean_acceptance_length if v.run.acceptance else 0)
    return Headline(first, under, by_length[0], by_length[-1])


def mode(settings: Settings | CellSettings | ServingSettings) -> str:
    """Say how prompts were rendered where that is not as usual: arguments of the chat template, a system prompt."""
    told = [] if settings.chat_template == template_in_words({}) else [settings.chat_template.partition(" with ")[2]]
    if settings.system_prompt is not None:
        told.append(f"system prompt “{_start(settings.system_prompt)}”")
    return ", ".join(told)


def _start(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _MOST_SHOWN else f"{line[:_MOST_SHOWN].rstrip()} …"


FIRST_ANSWERS = "first-turns.jsonl"
"""What a printed command calls the file of the target's answers to the first turns."""
_MOST_SHOWN = 60
"""Characters of a system prompt in a table; the settings of the run have all of it."""


def _format(dtype: str, target: MeasuredTarget) -> str:
    """The dtype of a run, and how its target's weights are quantized."""
    return dtype if target.quantization is None else f"{dtype} (target: {target.quantization})"


def _engine_title(entry: Entry) -> str:
    return f"{vocabulary.engine(entry.engine)} {entry.version}".strip()


def _acceptance(found: Acceptance, counted: Counted | None) -> AcceptanceView:
    rates = zip(found.accepted_per_position, found.marginal_rates, found.conditional_rates, strict=True)
    categories = {} if counted is None else counted.categories
    return AcceptanceView(
        length=f"{found.mean_acceptance_length:.2f}",
        interval=f"{found.ci95[0]:.2f} – {found.ci95[1]:.2f}" if found.ci95 else "",
        draft_rate=f"{found.draft_acceptance_rate:.1%}",
        estimator=found.estimator,
        rounds=f"{found.rounds:,}",
        drafted=f"{found.drafted:,}",
        accepted=f"{found.accepted:,}",
        positions=tuple((i, f"{n:,}", f"{m:.1%}", _percent(c)) for i, (n, m, c) in enumerate(rates, start=1)),
        categories=tuple(
            (name, f"{c.prompts:,}", f"{c.rounds:,}", _length(c.mean_acceptance_length))
            for name, c in sorted(categories.items())
        ),
    )


def _length(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _percent(rate: float | None) -> str:
    return "–" if rate is None else f"{rate:.1%}"


def _lossless(counted: Counted) -> LosslessView | None:
    found = counted.lossless
    if found is None:
        return None
    diverging = sorted(found.divergences, key=lambda d: (d.position, str(d.question_id)))
    first = f"prompt {diverging[0].question_id} at token {diverging[0].position}" if diverging else ""
    alone = "what the reference wrote" if found.by_reference else "the target's own"
    return LosslessView(found.identical, found.prompts, first, alone, _changes(found))


def _changes(found: Lossless) -> str:
    match found.verdict:
        case None | "identical":
            return ""
        case "ties only":
            widest = max(d.found.margin for d in found.divergences if d.found is not None)
            return (
                "every difference begins at a tie: there the target's own logits of the two tokens differ by no more "
                f"than rounding explains (at most {widest:.2g})"
            )
        case "not lossless":
            return "not every difference begins at a tie: **the output is not lossless**"
        case "not checked":
            return "whether the differences begin at ties was not checked"
        case _:
            return assert_never(found.verdict)


def validate_command(run: Run, manifest: Manifest) -> str:
    """Return the commands that repeat the measurement with the published files."""
    report, settings = run.report, run.report.settings
    folder = manifest.layouts.folder(run.layout)
    repo, copy = manifest.release.repo, manifest.release.repo.split("/")[1]
    fetch, place = f"hf download {repo} --local-dir {copy}", f"{copy}/{folder}" if folder else copy
    if folder and manifest.publish.branch_per_layout:
        fetch, place = fetched(manifest, folder)
    options: list[tuple[str, object]] = [
        ("--target", manifest.target.id),
        ("--engine", run.entry.engine),
        ("--device", settings.device),
        ("--dtype", settings.dtype),
        ("--prompts", _set_of(report.prompts)),
        ("--num-prompts", report.prompts.count),
        ("--max-new-tokens", settings.max_new_tokens),
        ("--draft-tokens", settings.draft_tokens),
    ]
    if settings.topk is not None and settings.topk > 1:
        options += [("--topk", settings.topk), ("--num-draft-tokens", settings.num_draft_tokens)]
    if report.prompts.context is not None:
        options.append(("--context", context_name(report.prompts.context.tokens)))
    if report.prompts.name.endswith(SECOND_TURNS):
        options.append(("--second-turns", FIRST_ANSWERS))
    if settings.drafting not in (None, "greedy"):
        options.append(("--drafting", settings.drafting))
    if settings.temperature:
        options += [("--temperature", f"{settings.temperature:g}"), ("--seed", settings.seed)]
    if settings.system_prompt is not None:
        options.append(("--system-prompt", settings.system_prompt))
    if settings.min_acceptance_length is not None:
        options.append(("--min-acceptance-length", f"{settings.min_acceptance_length:g}"))
    for option, given in engine_options(settings.engine_settings.of_run([run.entry.engine])).items():
        values = given if isinstance(given, list) else [given]
        options += [(f"--{option.replace('_', '-')}", value) for value in values]
    lines = [f"eagle3hub validate {place}"]
    lines += [f"{option} {shlex.quote(str(value))}" for option, value in options]
    return f"{fetch}\n" + " \\\n  ".join(lines)


def _set_of(prompts: MeasuredPrompts) -> str:
    """Return what a command calls the set: a report's name of it also says what was made of its prompts."""
    name = prompts.name if prompts.context is None else prompts.context.of
    return name.removesuffix(SECOND_TURNS)


def conditions(run: Run) -> list[tuple[str, str]]:
    """List every condition of a run that the report holds, as (label, text)."""
    report, entry = run.report, run.entry
    target, prompts = report.target, report.prompts
    rows: list[tuple[str, object]] = [
        ("Engine", _engine_title(entry)),
        ("Device", entry.device),
        ("Target", target.name),
        ("Target revision", target.revision or "not recorded"),
        *([("Target's weights", target.quantization)] if target.quantization else []),
        ("Draft head", f"{vocabulary.layout(run.layout).title} layout, {short_digest(report.head.digest)}"),
        ("Prompts", f"{prompts.count:,} from {prompts.name}, {short_digest(prompts.sha256)}"),
    ]
    if prompts.images is not None:
        rows.append(("Images in the prompts", f"{prompts.images.count:,}, {short_digest(prompts.images.sha256)}"))
    if prompts.context is not None:
        rows.append(("Length of the prompts", f"{prompts.context.tokens:,} tokens, of text of the same set"))
    left_out = {"device", "engine_settings", *(() if report.settings.tree else ("topk", "num_draft_tokens"))}
    shown = {k: v for k, v in report.settings.to_json().items() if k not in left_out}
    rows += [(vocabulary.condition(k).label, v) for k, v in shown.items()]
    own = report.settings.engine_settings
    rows += [(vocabulary.condition("tensor_parallel").label, own.tensor_parallel)] if own.tensor_parallel > 1 else []
    if entry.counted is not None:
        rows += [(vocabulary.condition(k).label, v) for k, v in entry.counted.environment.items()]
    rows += [(f"Engine flags, {k}" if isinstance(v, dict) else f"Engine flag {k}", v) for k, v in entry.flags.items()]
    if entry.counted is not None:
        rows += _speed(entry.counted.throughput)
    return [(label, _plain(value)) for label, value in rows]


def _speed(found: Throughput) -> Sequence[tuple[str, str]]:
    with_head, alone = found.speculative_tokens_per_second, found.target_tokens_per_second
    if not with_head or not alone:
        return []
    note = f" ({found.note})" if found.note else ""
    return [("Speed", f"{with_head:.1f} tokens/s with the head, {alone:.1f} without{note}")]


def short_digest(digest: str) -> str:
    """Return the first 12 hex digits of a SHA-256, as ``sha256:0123456789ab…``."""
    return f"sha256:{digest.removeprefix('sha256:')[:12]}…"


def _plain(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, str):
        return _without_folders(value)
    if isinstance(value, dict):
        return ", ".join(f"{k} = {_plain(v)}" for k, v in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(_plain(v) for v in value) or "none"
    return str(value)


def _without_folders(text: str) -> str:
    return text.rstrip("/").rsplit("/", 1)[-1] if text.startswith(("/", "~/")) else text
