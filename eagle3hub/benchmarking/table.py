"""Make the tables of a benchmark, as plain text in cells; every number is computed from the results.

Tau comes with its 95 % interval, a difference with its base. `NOISE` marks a difference whose interval includes 0, or
that has no interval.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from eagle3hub.benchmarking.results import AcceptanceComparison, CellPrompts, CellRecord, Results
from eagle3hub.benchmarking.run import Throughput
from eagle3hub.engines import ENGINES
from eagle3hub.engines.options import settings_in_words
from eagle3hub.engines.specs import known_version
from eagle3hub.metrics import MIN_PROMPTS, Acceptance, CategoryAcceptance, Interval, SpeedByDraftTokens
from eagle3hub.prompts import context_name
from eagle3hub.validation.gates import KEEPS, MOST_LOST
from eagle3hub.validation.report import tree_in_words

NOISE = "°"
_NOTHING = "–"
_MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True, slots=True)
class Column:
    """A column: the lines of its heading, how its cells are aligned, and whether it stays beside the one before."""

    heading: tuple[str, ...]
    align: Literal["left", "right"] = "right"
    joined: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """A table; its first ``keys`` columns say what a row is about, and every part of a wide table repeats them."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    keys: int
    notes: tuple[str, ...] = ()

    @property
    def header(self) -> tuple[str, ...]:
        """The heading of each column, in one line."""
        return tuple(" ".join(column.heading) for column in self.columns)

    @property
    def align(self) -> str:
        """The first letter of each column's side."""
        return "".join(column.align[0] for column in self.columns)


_DATASET = Column(("data set",), "left")
_T = Column(("T",))
_K = Column(("K",))


def tables(results: Results) -> list[Table]:
    """Return every table that has numbers, engine by engine."""
    out = []
    for engine, version in dict.fromkeys((c.engine, c.engine_version) for c in results.cells):
        cells = [c for c in results.cells if (c.engine, c.engine_version) == (engine, version)]
        view = _View(results, cells, engine, version)
        out += [table for make in _MAKERS if (table := make(view)) is not None]
    return out


def conditions(results: Results) -> list[str]:
    """Return the conditions of the tables: target, heads, prompts, settings, estimator, and what did not pass."""
    out = [f"Target: {results.target.in_words}"]
    out += [f"Head {head.name}: {head.layout} layout, {head.digest[:19]}…" for head in results.heads]
    for prompts in {c.prompts.name: c.prompts for c in results.cells}.values():
        source = prompts.source
        origin = f"; {source['license']}, revision {str(source['revision'])[:12]}" if source else ""
        out.append(
            f"Prompts {prompts.name}: {prompts.count}, {prompts.turns} turn of each{with_images(prompts)}, "
            f"SHA-256 {prompts.sha256[:12]}…{origin}{_made_long(prompts)}"
        )
    out += list(_past_the_head(results))
    if results.cells:
        out.append(_settings(results.cells))
        out.append(
            "τ: tokens per round, the target's own included; prompts pooled (ratio estimator); in parentheses the "
            f"95 % interval with prompts as the sampling unit, where {MIN_PROMPTS} or more of them had rounds."
        )
    out += [f"{warning}." for warning in dict.fromkeys(map(_judged, results.cells)) if warning]
    missing = results.cells_planned - len(results.cells)
    if missing:
        out.append(f"Not finished: {missing} of {results.cells_planned} cells have not been measured.")
    for one in results.losses:
        if one.gate.verdict != "pass":
            what = f"{one.head} on {one.dataset}, K = {one.draft_tokens}"
            out.append(f"{one.gate.verdict.capitalize()}: {what} against the earlier results: {one.gate.reason}")
    for curve in results.contexts:
        if curve.gate.verdict != "pass":
            out.append(
                f"{curve.gate.verdict.capitalize()}: {curve.head} over the length of prompts: {curve.gate.reason}"
            )
    not_passed = [c for c in results.cells if c.verdict != "pass"]
    for verdict, reason in dict.fromkeys((c.verdict, c.reason) for c in not_passed):
        where = [c for c in not_passed if (c.verdict, c.reason) == (verdict, reason)]
        out.append(f"{verdict.capitalize()} ({len(where)} of {len(results.cells)} cells): {reason}")
    return out


def with_images(prompts: CellPrompts) -> str:
    """Say how many images the prompts hold; empty for text alone."""
    if prompts.images is None:
        return ""
    return f", {prompts.images.count} {'image' if prompts.images.count == 1 else 'images'} with them"


def _made_long(prompts: CellPrompts) -> str:
    if prompts.context is None:
        return ""
    longer = prompts.context.left_out
    left_out = f"; {longer} {'prompt is' if longer == 1 else 'prompts are'} longer and left out" if longer else ""
    return (
        f"; each {prompts.context.tokens:,} tokens long: the text of the prompts of {prompts.context.of} that follow "
        f"it, cut, and then its own{left_out}"
    )


def _past_the_head(results: Results) -> Iterator[str]:
    """Say which prompts are longer than what a head states of itself."""
    longest = max((c.prompts.context.tokens for c in results.cells if c.prompts.context is not None), default=0)
    for head in results.heads:
        if head.context is not None and longest > head.context:
            yield f"Head {head.name} states a context of {head.context:,} tokens, and prompts go up to {longest:,}."


def _judged(cell: CellRecord) -> str | None:
    """Return which known version an engine's version is judged as, if it is not known itself."""
    is_version = cell.engine in ENGINES and cell.engine_version[:1].isdigit()
    return known_version(cell.engine, cell.engine_version).warning if is_version else None


@dataclass(frozen=True, slots=True)
class _View:
    """The cells of one engine, found by head, data set, temperature and K."""

    results: Results
    cells: Sequence[CellRecord]
    engine: str
    version: str

    @property
    def title(self) -> str:
        return f"{self.engine} {self.version}"

    @property
    def heads(self) -> list[str]:
        return [head.name for head in self.results.heads]

    @property
    def others(self) -> list[str]:
        return [name for name in self.heads if name != self.results.base]

    def places(self) -> list[tuple[str, float, int]]:
        """(data set, temperature, K), in the order of the plan; the K of one data set follow each other."""
        found = dict.fromkeys(_place(cell) for cell in self.cells)
        sets = list(dict.fromkeys(place[:2] for place in found))
        return sorted(found, key=lambda place: (sets.index(place[:2]), place[2]))

    def cell(self, place: tuple[str, float, int], head: str) -> CellRecord | None:
        return next((c for c in self.cells if _place(c) == place and c.head == head), None)

    def comparison(self, place: tuple[str, float, int], head: str) -> AcceptanceComparison | None:
        wanted = (self.engine, *place, head)
        return next((c for c in self.results.comparisons if _compared(c) == wanted), None)


def _place(cell: CellRecord) -> tuple[str, float, int]:
    return cell.prompts.name, cell.settings.temperature, cell.settings.draft_tokens


def _compared(one: AcceptanceComparison) -> tuple[str, str, float, int, str]:
    return one.engine, one.dataset, one.temperature, one.draft_tokens, one.other


def _acceptance_length(view: _View) -> Table:
    base = view.results.base
    columns = [_DATASET, _T, _K, Column(("n",))]
    for head in view.heads:
        columns.append(Column((head,)))
        if head != base:
            columns.append(Column(("against", base), joined=True))
    rows = []
    for place in view.places():
        cells = [view.cell(place, head) for head in view.heads]
        row = [*_key(place), str(next(c.prompts.count for c in cells if c is not None))]
        for head, cell in zip(view.heads, cells, strict=True):
            row.append(_tau_of(cell))
            if head != base:
                row.append(_relative(view.comparison(place, head)))
        rows.append(tuple(row))
    return Table(f"Acceptance length τ, {view.title}", tuple(columns), tuple(rows), 4, _noise_note(rows))


def _differences(view: _View) -> Table | None:
    rows = []
    for place in view.places():
        for head in view.others:
            one = view.comparison(place, head)
            if one is not None:
                rows.append(
                    (
                        *_key(place),
                        head,
                        _signed(one.difference, ".3f") + (NOISE if _is_noise(one) else ""),
                        _NOTHING if one.ci95 is None else " … ".join(_signed(end, ".3f") for end in one.ci95),
                        f"{one.identical} of {one.prompts}",
                    )
                )
    if not rows:
        return None
    columns = (
        _DATASET,
        _T,
        _K,
        Column(("head",), "left"),
        Column(("difference",)),
        Column(("95 % interval",)),
        Column(("prompts", "alike")),
    )
    return Table(f"Difference of τ from {view.results.base}, {view.title}", columns, tuple(rows), 4, _noise_note(rows))


def _categories(view: _View) -> Table | None:
    wide = [c for c in view.cells if len(c.categories) > 1]
    if not wide:
        return None
    drafts = sorted({c.settings.draft_tokens for c in wide})
    spans = [(head, k) for head in view.heads for k in drafts]
    rows = []
    for name, temperature in dict.fromkeys(_place(c)[:2] for c in wide):
        sizes = next(c.prompts.categories for c in wide if c.prompts.name == name)
        for category, size in sizes.items():
            found = [view.cell((name, temperature, k), head) for head, k in spans]
            values = [_tau(c.categories.get(category)) if c else _NOTHING for c in found]
            rows.append((name, f"{temperature:g}", category, str(size), *values))
    columns = (_DATASET, _T, Column(("category",), "left"), Column(("n",)))
    heads = tuple(Column((head, f"K = {k}")) for head, k in spans)
    return Table(f"Acceptance length τ by category, {view.title}", columns + heads, tuple(rows), 4)


def _losses(view: _View) -> Table | None:
    found = [one for one in view.results.losses if one.engine == view.engine]
    against = view.results.against
    if not found or against is None:
        return None
    rows = []
    for one in found:
        evidence = one.gate.evidence or {}
        base, tau, ends = (evidence.get(k) for k in ("base_mean_acceptance_length", "mean_acceptance_length", "ci95"))
        rows.append(
            (
                *(one.dataset, f"{one.temperature:g}", str(one.draft_tokens), one.head),
                f"{base:.3f}" if isinstance(base, float) else _NOTHING,
                f"{tau:.3f}" if isinstance(tau, float) else _NOTHING,
                " … ".join(_signed(float(end), ".3f") for end in ends) if isinstance(ends, list) else _NOTHING,
                one.gate.verdict,
            )
        )
    columns = (
        _DATASET,
        _T,
        _K,
        Column(("head",), "left"),
        Column(("τ", "earlier")),
        Column(("τ", "here"), joined=True),
    )
    last = (Column(("difference,", "95 % interval")), Column(("verdict",), "left"))
    notes = tuple(dict.fromkeys(f"{one.head}: {'; '.join(one.differs) or 'nothing differs'}" for one in found))
    said = f"pass: surely loses no more than {100 * MOST_LOST:g} % of τ, paired by prompt"
    title = f"Loss against earlier results of {against.target.name}, {view.title}"
    return Table(title, (*columns, *last), tuple(rows), 4, (said, *notes))


def _contexts(view: _View) -> Table | None:
    curves = [one for one in view.results.contexts if one.engine == view.engine]
    if not curves:
        return None
    lengths = sorted({tokens for curve in curves for tokens in curve.lengths})
    rows = []
    for one in curves:
        taus = dict(zip(one.lengths, map(_tau, one.acceptance), strict=True))
        kept = _kept(one.acceptance[0], one.acceptance[-1])
        key = (one.dataset, f"{one.temperature:g}", str(one.draft_tokens), one.head)
        rows.append((*key, *(taus.get(tokens, _NOTHING) for tokens in lengths), kept, one.gate.verdict))
    columns = (_DATASET, _T, _K, Column(("head",), "left"))
    measured = tuple(Column((context_name(tokens),)) for tokens in lengths)
    title = f"Acceptance length τ by length of the prompts in tokens, {view.title}"
    notes = (
        f"kept: drafts accepted per round with the longest prompts, in percent of those with the shortest; a head "
        f"fails that surely keeps less than {100 * KEEPS:g} %",
    )
    return Table(title, (*columns, *measured, Column(("kept",)), Column(("verdict",), "left")), tuple(rows), 4, notes)


def _kept(shortest: Acceptance, longest: Acceptance) -> str:
    most = shortest.mean_acceptance_length - 1
    return f"{100 * (longest.mean_acceptance_length - 1) / most:.0f} %" if most > 0 else _NOTHING


def _marginal(view: _View) -> Table | None:
    return _positions(view, "marginal", "accepted in so many % of all rounds")


def _conditional(view: _View) -> Table | None:
    return _positions(view, "conditional", "accepted in so many % of the rounds that accepted the position before")


def _positions(view: _View, kind: str, meaning: str) -> Table | None:
    measured = [c for c in view.cells if c.acceptance]
    if not measured:
        return None
    longest = max(c.settings.draft_tokens for c in measured)
    rows = []
    for place in view.places():
        for head in view.heads:
            cell = view.cell(place, head)
            if cell is not None and cell.acceptance:
                rates = cell.acceptance.marginal_rates if kind == "marginal" else cell.acceptance.conditional_rates
                shown = [_NOTHING if rate is None else f"{100 * rate:.1f}" for rate in rates]
                rows.append((*_key(place), head, *shown, *[""] * (longest - len(rates))))
    columns = (_DATASET, _T, _K, Column(("head",), "left"))
    numbered = tuple(Column((str(i + 1),)) for i in range(longest))
    title = f"Acceptance by draft position, {kind} ({meaning}), {view.title}"
    return Table(title, columns + numbered, tuple(rows), 4)


def _throughput(view: _View) -> Table | None:
    measured = [c for c in view.cells if c.throughput]
    if not measured:
        return None
    rows = []
    for place in view.places():
        cells = [view.cell(place, head) for head in view.heads]
        speeds = [None if cell is None else cell.throughput for cell in cells]
        rows.append((*_key(place), *(text for speed in speeds for text in _speeds(speed))))
    columns = [_DATASET, _T, _K]
    for head in view.heads:
        columns += [
            Column((head, "without")),
            Column((head, "with it"), joined=True),
            Column((head, "ratio"), joined=True),
        ]
    notes = dict.fromkeys(f"Conditions: {c.throughput.conditions}" for c in measured if c.throughput)
    return Table(f"Throughput, new tokens per second, {view.title}", tuple(columns), tuple(rows), 3, tuple(notes))


def _speed_by_k(view: _View) -> Table | None:
    measured = [one for one in view.results.speeds if one.engine == view.engine]
    if not measured:
        return None
    rows, notes = [], []
    for one in measured:
        for point in one.found.points:
            best = point.draft_tokens in one.found.may_be_best
            mark = "fastest" if point.draft_tokens == one.found.best else "may be" if best else ""
            rows.append(
                (
                    *(one.dataset, f"{one.temperature:g}", one.head, str(point.draft_tokens)),
                    f"{point.mean_acceptance_length:.2f}",
                    _within(point.speedup, point.ci95),
                    _NOTHING if point.measured is None else _within(point.measured, point.measured_ci95),
                    mark,
                )
            )
        draft, verify = one.found.draft, one.found.verify
        notes.append(
            f"{one.head} on {one.dataset}: drafting a token costs {_within(draft.value, draft.ci95)} of a step of the "
            f"target, verifying a round {_within(verify.value, verify.ci95)} more than a step; {_fastest(one.found)}"
        )
    columns = (_DATASET, _T, Column(("head",), "left"), _K, Column(("τ",)), Column(("speed-up", "expected")))
    title = f"Speed-up by K over the target alone, one sequence at a time, {view.title}"
    return Table(title, (*columns, Column(("measured",)), Column(("",), "left")), tuple(rows), 4, tuple(notes))


def _fastest(found: SpeedByDraftTokens) -> str:
    others = [str(k) for k in found.may_be_best if k != found.best]
    first = f"K = {found.best} is the fastest" if found.best else "no K is faster than the target alone"
    return f"{first}, not shown to be faster than K = {', '.join(others)}" if others else first


def _within(value: float, ci95: Interval | None) -> str:
    ends = "" if ci95 is None else f" ({ci95[0]:.2f}–{ci95[1]:.2f})"
    return f"{value:.2f}{ends}".replace("-", _MINUS)


_MAKERS: tuple[Callable[[_View], Table | None], ...] = (
    _acceptance_length,
    _differences,
    _losses,
    _contexts,
    _categories,
    _marginal,
    _conditional,
    _throughput,
    _speed_by_k,
)


def _key(place: tuple[str, float, int]) -> tuple[str, str, str]:
    return place[0], f"{place[1]:g}", str(place[2])


def _tau_of(cell: CellRecord | None) -> str:
    if cell is None:
        return _NOTHING
    if not cell.acceptance:
        return cell.verdict
    mark = "" if cell.verdict == "pass" else f" {cell.verdict}"
    return _tau(cell.acceptance) + mark


def _tau(of: Acceptance | CategoryAcceptance | None) -> str:
    """Write tau with its interval."""
    if of is None or of.mean_acceptance_length is None:
        return _NOTHING
    if of.ci95 is None:
        return f"{of.mean_acceptance_length:.2f}"
    low, high = of.ci95
    return f"{of.mean_acceptance_length:.2f} ({low:.2f}–{high:.2f})"


def _relative(one: AcceptanceComparison | None) -> str:
    if one is None:
        return _NOTHING
    return f"{_signed(one.relative_percent, '.1f')} %" + (NOISE if _is_noise(one) else "")


def _is_noise(one: AcceptanceComparison) -> bool:
    return one.ci95 is None or one.ci95[0] <= 0 <= one.ci95[1]


def _noise_note(rows: Sequence[Sequence[str]]) -> tuple[str, ...]:
    marked = any(text.endswith(NOISE) for row in rows for text in row)
    told = f"{NOISE} not shown to differ: the 95 % interval, paired by prompt, includes 0, or the pairs give none"
    return (told,) if marked else ()


def _signed(value: float, form: str) -> str:
    text = f"{value:+{form}}"
    return text.replace("-", _MINUS) if float(text) else text.lstrip("+-")


def _speeds(speed: Throughput | None) -> tuple[str, str, str]:
    alone, drafted = (speed.target_tokens_per_second, speed.speculative_tokens_per_second) if speed else (0, 0)
    ratio = f"{drafted / alone:.2f}" if alone and drafted else _NOTHING
    return f"{alone:.1f}" if alone else _NOTHING, f"{drafted:.1f}" if drafted else _NOTHING, ratio


def _settings(cells: Sequence[CellRecord]) -> str:
    """Write the settings that all cells share (the plan has one of each); a running server has its own device."""
    s = cells[0].settings
    devices = " and ".join(dict.fromkeys(cell.settings.device for cell in cells))
    tree = "chain" if (shape := tree_in_words(s.topk, s.num_draft_tokens)) is None else f"tree ({shape})"
    started = dict.fromkeys(words for cell in cells if (words := settings_in_words(cell.settings.engine_settings)))
    system = "no system prompt" if s.system_prompt is None else f"system prompt {s.system_prompt!r}"
    return (
        f"Settings: up to {s.max_new_tokens} new tokens, {tree}, {s.drafting} drafting, seed {s.seed}, "
        f"{s.dtype} on {devices}, {s.concurrency} sequence at a time, chat template: {s.chat_template}, "
        f"{system}{''.join(f', {how}' for how in started)}. T = 0 is greedy."
    )
