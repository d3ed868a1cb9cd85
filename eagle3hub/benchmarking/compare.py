"""Compare two reports, or the results of two benchmarks, prompt by prompt.

Both are read by their own readers; every number here is computed from the counters of their prompts. What moves the
acceptance length and is the prompts', the target's or the run's own must be the same in both; whatever else differs
is named.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from eagle3hub.benchmarking import results as bench
from eagle3hub.benchmarking.plan import CellSettings
from eagle3hub.charts import NARROW, Chart, Panel, Series, acceptance_by_dataset, acceptance_by_position
from eagle3hub.checkpoint.staging import replace_file
from eagle3hub.engines.options import settings_in_words
from eagle3hub.errors import InputError
from eagle3hub.metrics import (
    MIN_PROMPTS,
    Counts,
    Paired,
    PromptRow,
    acceptance,
    acceptance_if_any,
    paired,
    paired_rates,
    too_few,
)
from eagle3hub.metrics.estimate import Interval, interval_to_json
from eagle3hub.system.documents import read_document
from eagle3hub.system.html import panel, rows
from eagle3hub.system.text import visible
from eagle3hub.validation import report as validation
from eagle3hub.validation.render import page
from eagle3hub.validation.report import MeasuredTarget

SCHEMA_NAME = "eagle3hub/compare-reports/1"


@dataclass(frozen=True, slots=True)
class Run:
    """One engine's counters over one set of prompts, from a report or from a cell of a benchmark.

    Attributes:
        same: what must be equal in two runs, by its name. other: what may differ, and is named if it does.
    """

    head: str
    engine: str
    prompts: str
    question_ids: tuple[int | str, ...]
    categories: tuple[str, ...]
    counts: tuple[Counts, ...]
    same: Mapping[str, str | float | tuple[str, str] | None]
    other: Mapping[str, str | float | None]


@dataclass(frozen=True, slots=True)
class Measured:
    """A file that holds runs: what it is, what it measured, when and with which version of eagle3hub."""

    name: str
    kind: str
    target: MeasuredTarget
    measured_at: str
    tool_version: str
    heads: Mapping[str, str]
    runs: tuple[Run, ...]

    def to_json(self) -> dict[str, Any]:
        """Return what the comparison says of the file."""
        heads = [{"name": name, "digest": digest} for name, digest in self.heads.items()]
        return {"file": self.name, "kind": self.kind, "measured_at": self.measured_at, "heads": heads}


def read_measured(path: str | Path) -> Measured:
    """Read a report or the results of a benchmark.

    Raises SourceError if the file cannot be read, ManifestError if it does not hold what it says, and InputError
    (``compare-kind``) if it is neither.
    """
    path = Path(path)
    document = read_document(path, "report", bench.MAX_BYTES)
    schema = document.get("schema") if isinstance(document, dict) else None
    if schema == bench.SCHEMA_NAME:
        return _of_results(bench.Results.from_json(document, path.name), path.name)
    if schema == validation.SCHEMA_NAME:
        return _of_report(validation.Report.from_json(document, path.name), path.name)
    raise InputError(
        f"{path.name} is no report and no results of a benchmark: its schema is {schema!r}",
        hint="write one with eagle3hub validate --report FILE, or eagle3hub bench --output DIR (results.json)",
        code="compare-kind",
    )


def _of_report(report: validation.Report, name: str) -> Measured:
    head, settings = report.head, report.settings
    runs = [
        _run(
            head.source, head, report.prompts, settings, entry.counted.per_prompt,
            engine=entry.engine, version=entry.version, dtype=entry.dtype, device=entry.device,
        )
        for entry in report.engines
        if entry.counted is not None and entry.acceptance is not None
    ]  # fmt: skip
    heads = {head.source: head.digest}
    return Measured(name, "report", report.target, report.measured_at, report.tool_version, heads, tuple(runs))


def _of_results(results: bench.Results, name: str) -> Measured:
    heads = {head.name: head for head in results.heads}
    runs = [
        _run(
            cell.head, heads[cell.head], cell.prompts, cell.settings, cell.per_prompt,
            engine=cell.engine, version=cell.engine_version, dtype=cell.settings.dtype, device=cell.settings.device,
        )
        for cell in results.cells
        if cell.acceptance is not None
    ]  # fmt: skip
    digests = {head.name: head.digest for head in results.heads}
    return Measured(name, "bench", results.target, results.measured_at, results.tool_version, digests, tuple(runs))


def _run(
    named: str,
    head: validation.MeasuredHead | bench.BenchedHead,
    prompts: validation.MeasuredPrompts | bench.CellPrompts,
    settings: validation.Settings | CellSettings,
    rows: Sequence[PromptRow],
    **ran: str,
) -> Run:
    """Join what one run has in a file; ``ran`` is the engine, its version, the dtype and the device."""
    sampled: dict[str, str | float | None] = {}
    if settings.temperature:
        sampled = {"seed": settings.seed, "drafting": settings.drafting or "greedy"}
    return Run(
        named,
        ran["engine"],
        prompts.name,
        tuple(row.question_id for row in rows),
        tuple(row.category for row in rows),
        tuple(row.counts for row in rows),
        {
            "prompts": (prompts.name, prompts.sha256),
            "draft tokens": settings.draft_tokens,
            "draft tree": validation.tree_in_words(settings.topk, settings.num_draft_tokens),
            "temperature": settings.temperature,
            "new tokens": settings.max_new_tokens,
            "system prompt": settings.system_prompt,
            "chat template": settings.chat_template,
        },
        {
            "head": named,
            "head's files": head.digest,
            "layout": head.layout,
            **ran,
            "requests at a time": settings.concurrency,
            "started": settings_in_words(settings.engine_settings) or None,
            **sampled,
        },
    )


# The comparison.


@dataclass(frozen=True, slots=True)
class Difference:
    """A thing that is not the same in both files."""

    what: str
    a: str | float | None
    b: str | float | None

    @property
    def shown(self) -> tuple[str, str]:
        """Both sides for people: digests are cut, and what is not stated is called none."""
        a, b = ("none" if side is None else str(side) for side in (self.a, self.b))
        return (a[:_DIGEST], b[:_DIGEST]) if a.startswith("sha256:") and b.startswith("sha256:") else (a, b)


_DIGEST = 19


@dataclass(frozen=True, slots=True)
class Position:
    """One draft position: the marginal acceptance rates of both, and B's less A's."""

    position: int
    a: float
    b: float
    difference: float
    ci95: Interval | None


@dataclass(frozen=True, slots=True)
class Pair:
    """A run of A and a run of B over the same prompts.

    Attributes:
        found: B less A. positions: the same for each draft position.
        categories: the same for each category of prompts in which both ran a round.
        differs: what is not the same.
    """

    a: Run
    b: Run
    found: Paired
    positions: tuple[Position, ...]
    categories: Mapping[str, Paired]
    differs: tuple[Difference, ...]

    @property
    def title(self) -> str:
        """What was measured, in words: the set, K, temperature, and the engines."""
        temperature = self.a.same["temperature"]
        sampling = "greedy" if temperature == 0 else f"temperature {temperature:g}"
        engines = self.a.engine if self.a.engine == self.b.engine else f"{self.a.engine} and {self.b.engine}"
        heads = "" if self.a.head == self.b.head else f", {self.a.head} and {self.b.head}"
        return f"{self.a.prompts}, K = {self.a.same['draft tokens']}, {sampling}, {engines}{heads}"

    @property
    def finding(self) -> str:
        """What the difference shows, in one sentence."""
        return finding(self.found)

    def to_json(self) -> dict[str, Any]:
        """Return the pair as an item of ``pairs``."""
        return {
            "dataset": self.a.prompts,
            "draft_tokens": self.a.same["draft tokens"],
            "temperature": self.a.same["temperature"],
            "a": {"head": self.a.head, "engine": self.a.engine},
            "b": {"head": self.b.head, "engine": self.b.engine},
            "differs": [asdict(one) for one in self.differs],
            "finding": self.finding,
            "acceptance_length": self.found.to_json(),
            "positions": [{**asdict(one), "ci95": interval_to_json(one.ci95)} for one in self.positions],
            "categories": {name: one.to_json() for name, one in self.categories.items()},
        }


@dataclass(frozen=True, slots=True)
class ReportComparison:
    """Two files, compared.

    Attributes:
        unproven: what was taken to be the same and could not be checked.
        left_out: runs of either file that have no partner in the other, in words.
    """

    a: Measured
    b: Measured
    pairs: tuple[Pair, ...]
    unproven: tuple[str, ...]
    left_out: tuple[str, ...]

    def _repr_html_(self) -> str:
        shown = [
            (
                pair.title,
                f"{pair.found.base_tau:.3f}",
                f"{pair.found.tau:.3f}",
                signed(pair.found.difference, pair.found.ci95),
                pair.finding,
            )
            for pair in self.pairs
        ]
        table = rows(shown, ("measured", "A", "B", "B − A", "finding"))
        left = rows([(one,) for one in self.left_out], ("not compared",))
        return panel(f"A {self.a.name}, B {self.b.name}", table, left, subtitle="; ".join(self.unproven))

    def to_json(self) -> dict[str, Any]:
        """Return the document of schema ``compare-reports``."""
        return {
            "schema": SCHEMA_NAME,
            "a": self.a.to_json(),
            "b": self.b.to_json(),
            "target": self.a.target.name,
            "unproven": list(self.unproven),
            "pairs": [pair.to_json() for pair in self.pairs],
            "left_out": list(self.left_out),
        }


def compare_reports(a: str | Path, b: str | Path) -> ReportComparison:
    """Compare two reports, or the results of two benchmarks; every difference is B's number less A's.

    Raises what `read_measured` raises, and InputError: ``compare-nothing`` where a file has no counters,
    ``compare-target`` for two targets, ``compare-conditions`` where no run of one was measured as a run of the other.
    """
    ours, theirs = read_measured(a), read_measured(b)
    for one in (ours, theirs):
        if not one.runs:
            raise InputError(
                f"{one.name} has no counters to compare: no engine ran a round",
                hint="compare files of runs that counted something",
                code="compare-nothing",
            )
    unproven = _hold_targets(ours, theirs)
    pairs, left = _paired_runs(ours, theirs)
    if not pairs:
        raise _incomparable(ours, theirs)
    return ReportComparison(ours, theirs, tuple(pairs), unproven, tuple(left))


def _hold_targets(a: Measured, b: Measured) -> tuple[str, ...]:
    """Refuse files of two targets; return what is assumed to be the same in both, without proof."""
    ours, theirs = a.target, b.target
    for what, x, y in (
        ("weights", ours.weights_digest, theirs.weights_digest),
        ("config.json", ours.config_sha256, theirs.config_sha256),
    ):
        if x is not None and y is not None and x != y:
            raise InputError(
                f"{a.name} and {b.name} measured two targets: the {what} of {ours.name} and {theirs.name} differ",
                hint="eagle3hub bench --against FILE compares a quantised target with the unquantised one",
                code="compare-target",
            )
    if ours.weights_digest is not None and theirs.weights_digest is not None:
        return ()
    if ours.name != theirs.name and None in (ours.config_sha256, theirs.config_sha256):
        raise InputError(
            f"{a.name} and {b.name} measured two targets, as far as they say: {ours.name} and {theirs.name}",
            hint="give both runs the same name of the target: --target-name OWNER/NAME",
            code="compare-target",
        )
    known = "its config.json is" if None not in (ours.config_sha256, theirs.config_sha256) else "its name is"
    return (f"the target's weights are taken to be the same, because {known}: no digest of them is in both files",)


def _paired_runs(a: Measured, b: Measured) -> tuple[list[Pair], list[str]]:
    """Pair the runs: of one engine and one head, unless each file has only one of them."""
    alone = {name: all(len({getattr(run, name) for run in one.runs}) == 1 for one in (a, b)) for name in _KEYS}
    pairs: list[Pair] = []
    left: list[str] = []
    taken: set[int] = set()
    for run in a.runs:
        fits = [
            i
            for i, other in enumerate(b.runs)
            if i not in taken
            and (other.same, other.question_ids) == (run.same, run.question_ids)
            and all(alone[name] or getattr(other, name) == getattr(run, name) for name in _KEYS)
        ]
        if len(fits) == 1:
            taken.add(fits[0])
            pairs.append(_pair(a, b, run, b.runs[fits[0]]))
        else:
            left.append(f"{_named(run)} of {a.name}: {'several runs fit' if fits else 'no run fits'}")
    left += [f"{_named(run)} of {b.name}: no run fits" for i, run in enumerate(b.runs) if i not in taken]
    return pairs, left


_KEYS = ("engine", "head")


def _named(run: Run) -> str:
    k, temperature = run.same["draft tokens"], run.same["temperature"]
    return f"{run.head} on {run.engine}, {run.prompts}, K = {k}, T = {temperature:g}"


def _pair(a: Measured, b: Measured, ours: Run, theirs: Run) -> Pair:
    said = ({**ours.other, "eagle3hub": a.tool_version}, {**theirs.other, "eagle3hub": b.tool_version})
    differs = [Difference(what, said[0].get(what), said[1].get(what)) for what in {**said[0], **said[1]}]
    rates = (acceptance(ours.counts).marginal_rates, acceptance(theirs.counts).marginal_rates)
    moved = paired_rates(theirs.counts, ours.counts)
    categories: dict[str, Paired] = {}
    for name in dict.fromkeys(ours.categories):
        chosen = [i for i, one in enumerate(ours.categories) if one == name]
        x, y = [theirs.counts[i] for i in chosen], [ours.counts[i] for i in chosen]
        if sum(one.rounds for one in x) and sum(one.rounds for one in y):
            categories[name] = paired(x, y)
    return Pair(
        ours,
        theirs,
        paired(theirs.counts, ours.counts),
        tuple(
            Position(i, before, after, one.value, one.ci95)
            for i, (before, after, one) in enumerate(zip(*rates, moved, strict=True), 1)
        ),
        categories,
        tuple(one for one in differs if one.a != one.b),
    )


def _incomparable(a: Measured, b: Measured) -> InputError:
    """Return the error that names what is not the same in the two runs that have most in common."""
    best = min((tuple(_departures(x, y)) for x in a.runs for y in b.runs), key=len)
    why = "; ".join(best) or "several runs are alike, and nothing says which belong together"
    return InputError(
        f"{a.name} and {b.name} cannot be compared prompt by prompt: {why}",
        hint="measure both with the same engine, prompts, --draft-tokens, --temperature and limits",
        code="compare-conditions",
    )


def _departures(a: Run, b: Run) -> Iterator[str]:
    for what, ours in a.same.items():
        theirs = b.same[what]
        if ours == theirs:
            continue
        if not isinstance(ours, tuple) or not isinstance(theirs, tuple):
            yield f"{what} {'none' if ours is None else ours} and {'none' if theirs is None else theirs}"
        elif ours[0] != theirs[0]:
            yield f"prompts of {ours[0]} and of {theirs[0]}"
        else:
            yield f"not the same prompts of {ours[0]} ({len(a.counts)} and {len(b.counts)})"
    if a.same == b.same and a.question_ids != b.question_ids:
        yield "not the same prompts were answered"
    for name in _KEYS:
        if getattr(a, name) != getattr(b, name):
            yield f"{name} {getattr(a, name)} and {getattr(b, name)}"


# In words, and as a page.


def finding(found: Paired) -> str:
    """Say what a paired difference shows: no more than its interval does."""
    if found.ci95 is None:
        if found.first_difference is None:
            return "all prompts have the same counters"
        why = too_few(found.prompts) if found.prompts < MIN_PROMPTS else "the pairs show no spread"
        return f"whether they differ is not known: no interval, {why}"
    low, high = found.ci95
    if low > 0:
        return "B accepts more"
    if high < 0:
        return "B accepts less"
    return "no difference is shown: the interval holds 0"


def signed(value: float, ends: Interval | None, *, percent: bool = False) -> str:
    """Write a difference with its interval: ``+0.032 (-0.010 to +0.074)``; of rates in percentage points."""
    shown = [f"{100 * one:+.1f}" if percent else f"{one:+.3f}" for one in (value, *(ends or ()))]
    return shown[0] if ends is None else f"{shown[0]} ({shown[1]} to {shown[2]})"


def charts(found: ReportComparison) -> list[Chart]:
    """Draw both files' rates by position, and acceptance lengths by set, or by category if there is one set."""
    out = []
    alone = found.pairs[0] if len(found.pairs) == 1 else None
    if alone is not None:
        positions = tuple(str(one.position) for one in alone.positions)
        rates = tuple(_rates(name, run) for name, run in (("A", alone.a), ("B", alone.b)))
        title = "Acceptance rate by draft position"
        out.append(acceptance_by_position([Panel("", positions, rates)], title=title, width=NARROW))
        rows = [(name, _of(name, alone.a), _of(name, alone.b)) for name in alone.categories]
    else:
        rows = [(pair.title, pair.a.counts, pair.b.counts) for pair in found.pairs]
    series = (Series("A", *_lengths([a for _, a, _ in rows])), Series("B", *_lengths([b for _, _, b in rows])))
    title = f"Acceptance length by {'run' if alone is None else 'category of prompt'}"
    panel = Panel("", tuple(name for name, _, _ in rows), series)
    out.append(acceptance_by_dataset([panel], title=title, width=NARROW))
    return out


def _of(category: str, run: Run) -> tuple[Counts, ...]:
    return tuple(one for one, name in zip(run.counts, run.categories, strict=True) if name == category)


def _rates(name: str, run: Run) -> Series:
    known = acceptance(run.counts)
    return Series(name, tuple(known.marginal_rates), tuple(known.marginal_ci95) if any(known.marginal_ci95) else ())


def _lengths(counts: Sequence[Any]) -> tuple[tuple[float | None, ...], tuple[Interval | None, ...]]:
    known = [acceptance_if_any(one) for one in counts]
    return (
        tuple(None if one is None else one.mean_acceptance_length for one in known),
        tuple(None if one is None else one.ci95 for one in known),
    )


def comparison_page(found: ReportComparison) -> str:
    """The comparison as one HTML file that needs nothing else."""
    return page("compare.html.j2", charts=charts(found), found=found, signed=signed, finding=finding)


def save_page(found: ReportComparison, path: Path) -> None:
    """Write `comparison_page` to a file: completely, or not at all. Raises OutputError."""
    replace_file(path, visible(comparison_page(found), keep_lines=True).encode())
