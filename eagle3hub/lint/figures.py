"""C2: rules on numbers that are impossible, or do not follow from the other numbers on the card."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations, islice, pairwise
from statistics import fmean, geometric_mean, harmonic_mean, median

from eagle3hub.lint import claims
from eagle3hub.lint.model import Card, Code, Number, Prose, Row, Table, Violation, numbers, rule

_AVERAGE = re.compile(
    r"^\W*(?:(?:overall"
    r"|(?:(?:total|overall|simple|plain|unweighted|arithmetic|macro)[ -]){0,2}(?:averages?|avg\.?|mean))"
    r"(?:,? (?:of|over|across|for) (?:(?:the|all|both|these|those|our) ?){0,3}(?:(?:two|three|four|five|six|\d) ?)?"
    r"(?:(?:data ?sets?|sets|rows|benchmarks|tasks|categories|domains|suites|values|columns)\b)?)?"
    r"|(?:总体|各集|[两二三四五六]项|全部)?(?:平均值?|均值))"
    r"(?:\s?[(（](?:(?!pooled|(?<!un)weighted|geometric|harmonic|加权|汇总)[^()（）]){1,60}[)）])?\W*$",
    re.I,
)
_NAMED_DIFFERENCE = re.compile(r"^\W*(?P<name>[A-Za-z][\w .+-]*?)\W*(?P<number>[+-−]?\d+(?:\.\d+)?)\s*%")
_IS_OF_DRAFTED = (
    r"accept\w*[ -]rate\b[^.;\n]{0,40}(?:accepted\s*(?:/|÷|of|per|over|out of|divided by)\s*(?:all |the )*"
    r"(?:draft|propos|specul)|of (?:all |the )*(?:drafted|proposed) tokens|\(\s*(?:τ|tau)\s*[-−–]\s*1\s*\)\s*/\s*K)"
    r"(?![^.;\n]{0,20}\bposition)"
    r"|接[受收]率[^。；\n]{0,20}(?:接受[^。；\n]{0,8}[/÷]\s*草|[(（]\s*τ\s*[-−–]\s*1\s*[)）]\s*/\s*K)"
)
"""What defines the acceptance rate of a card's tables as the share of the drafted tokens."""
_COMPARED = re.compile(
    r"\b(?:is|by|wins?|leads?|ahead|faster|slower|better|higher|more|quicker|up)\b|[\u4e00-\u9fff]+", re.I
)
"""The words of a comparison behind the name of the better method."""
_OUTLIER = 3.0
_MOST_ROWS = 60
"""No table of a card compares more methods or data sets than this."""


@rule(
    "C201",
    "error",
    "Impossible acceptance length",
    why="A verification step emits at least the target's own token and at most the K drafted ones besides: "
    "1 ≤ τ ≤ K + 1.",
    fix="Check the number, its definition (drafted tokens only, or all emitted?) and the K it was measured with.",
)
def impossible_length(card: Card) -> Iterator[Violation]:
    """Report τ below 1, and τ above K + 1 for every K that the card gives for it.

    If K stands elsewhere on the card, or only in an example, it is a warning: the measurement may have had another.
    """
    measured = claims.most_drafted(card)
    example = max((k for k, _ in claims.example_ks(card)), default=None)
    for length in claims.acceptance_lengths(card):
        tau = length.number
        if tau.value < 1 and _NO_LENGTH.search(length.header):
            continue
        # a page about several heads has several K, and says elsewhere which is whose
        k = max(length.ks) if length.ks else measured if card.is_of_a_head else None
        counted = claims.counts_bonus(card) and not length.accepted_alone
        if tau.value + tau.slack < 1 and (counted or not _may_lack_bonus(length)):
            message = f"τ = {tau.value:g} ({length.label}): less than 1 token per step cannot be"
            # a sentence may be of what the draft adds
            said = length.table is not None or re.search(r"τ|\btau\b", length.header, re.I)
            # what a caption says may be of another column
            named = (counted or bool(said)) and claims.names_length(length.header)
            yield Violation(length.line, message, severity=None if named else "warning")
        elif k is not None and tau.value - tau.slack > k + 1:
            message = f"τ = {tau.value:g} ({length.label}) is more than K + 1 = {k + 1}"
            sure = length.ks and (not length.k_is_far or len(claims.measured_ks(card)) == 1)
            yield Violation(length.line, message, severity=None if sure else "warning")
        elif k is None and example is not None and tau.value - tau.slack > example + 1:
            message = (
                f"τ = {tau.value:g} ({length.label}) is more than the examples' K allows, {example + 1}; "
                "the K of the measurement is not given"
            )
            yield Violation(length.line, message, severity="warning")


_NO_LENGTH = re.compile(
    r"\b(?:share|rate|fraction|percent\w*|differ\w*|delta|change[ds]?|gains?|lower|higher|less|more) |\bshares?\b|[Δ%]"
    r"|(?:τ|\btau)\s*[-−–]\s*1\b|/\s*K\b|[-−–+]\s?\d|比例|占比|[差率]",
    re.I,
)
"""What a number below 1 is of that is no length: a share, (τ − 1)/K, or the difference of two lengths."""


def _may_lack_bonus(length: claims.AcceptanceLength) -> bool:
    """Return whether a number below 1 may count accepted drafts alone; then C306 asks for the definition."""
    return length.accepted_alone or not re.search(r"τ|\btau\b|tokens? (?:per|/)", length.header, re.I)


@rule(
    "C202",
    "error",
    "Impossible rates by position",
    why="A token counts only where all before it were accepted, so marginal rates never rise; no rate leaves 0 … 1.",
    fix="Name the rates (marginal or conditional) and check them; conditional rates may rise.",
)
def impossible_rates(card: Card) -> Iterator[Violation]:
    """Report rates outside 0 … 1, and marginal rates that rise."""
    for s in claims.rate_series(card):
        for n, line in zip(s.rates, s.lines, strict=True):
            if not -n.slack <= n.share <= 1 + n.slack:
                yield Violation(line, f"the rate {n.value:g}{n.unit} is not between 0 and 1")
        if s.kind == "marginal":
            for i, ((a, b), line) in enumerate(zip(pairwise(s.rates), s.lines[1:], strict=True), 2):
                if b.share - b.slack > a.share + a.slack:
                    message = (
                        f"the marginal rate rises from {a.value:g}{a.unit} to {b.value:g}{b.unit} at position {i}"
                    )
                    yield Violation(line, message)


@rule(
    "C203",
    "error",
    "Acceptance length does not follow from the rates",
    why="τ = 1 + the sum of the marginal rates, and a marginal rate is the product of the conditional ones up to it. "
    "Where that fails, length and rates come from different runs or definitions.",
    fix="Take both from the same counters, and name the rates.",
)
def length_and_rates(card: Card) -> Iterator[Violation]:
    """Report a τ that does not follow from the one series of rates in the same part, for the same K.

    It is an error in one table or sentence, and else a warning.
    """
    series = claims.rate_series(card)
    logged = [s for s in series if s.name.startswith("Per-position")]
    for s in series if len(series) <= 2 else logged[:_MOST_ROWS]:
        near = [
            x
            for x in claims.acceptance_lengths(card)
            if claims.part_of(x.section) == claims.part_of(s.section)
            and (not x.ks or len(s.rates) in x.ks)
            and not x.accepted_alone
        ]
        near = [x for x in near if x.line in s.lines and x.table is None] or near
        if len({x.number.value for x in near}) != 1 or s.is_training_accuracy:
            continue
        tau = near[0].number
        readings = {kind: _tau(s.rates, kind) for kind in ("marginal", "conditional") if s.kind in {kind, None}}
        slack = tau.slack + sum(n.slack for n in s.rates)
        beside = near[0].place in {s.line, *s.lines} or any(x.line in s.lines for x in near)
        if all(abs(value - tau.value) > slack + 1e-9 for value in readings.values()):
            said = " and ".join(f"{value:.2f} if they are {kind}" for kind, value in readings.items())
            message = f"τ = {tau.value:g} is printed, the rates give {said}"
            # in another table they may be of another set of prompts
            yield Violation(s.line, message, severity=None if beside else "warning")


def _tau(rates: tuple[Number, ...], kind: str) -> float:
    total, product = 1.0, 1.0
    for n in rates:
        product *= n.share
        total += n.share if kind == "marginal" else product
    return total


@rule(
    "C204",
    "error",
    "Difference does not follow from its row",
    why="Readers quote the percentage, not the two numbers it was made of.",
    fix="Compute it again, and say which column is the base.",
)
def wrong_difference(card: Card) -> Iterator[Violation]:
    """Report percentages and factors that no two numbers of the row, or of the cell, give.

    It is a warning unless the base is named or beside it: a mean of factors is not the factor of two means.
    """
    for found in _differences(card):
        if not any(_fits(found.cell, a, b, within=0.01) for a, b, _ in found.pairs):
            a, b, _ = found.pairs[0]
            if (
                _AVERAGED.search(found.row.label)
                and len(found.table.rows) <= _MOST_ROWS * 4
                and _is_mean_of_rows(found)
            ):
                continue
            averaged = _AVERAGED.search(f"{found.row.label} {' '.join(found.table.header)}")
            sure = (
                found.is_sure
                and not averaged
                and not any(_fits(found.cell, a, b, within=0.05) for a, b, _ in found.pairs)
            )
            yield Violation(
                found.row.at(found.place),
                f"{found.row.label}: “{found.text}” does not follow from the row; {_relation(found.cell, a, b)}",
                severity=None if sure else "warning",
            )
    for line, said, cell, a, b in _said_pairs(card):
        if not _fits(cell, a, b, within=0.01):
            sure = not _fits(cell, a, b, within=0.05)
            message = f"“{said}”: {_relation(cell, a, b)}"
            yield Violation(line, message, severity=None if sure else "warning")


_UNIT = r"\s?(?:(?:output )?tok(?:en)?s?/s(?:ec)?|TPS|tokens (?:per|a) second|req/s|ms|s|seconds)?"
_JOINED = (
    r"\s?(?:[,，:：;—–-]|=|\(|（)?\s?(?:(?:an?|that is|i\.e\.,?|or|=|about|roughly|a factor of|by|up|down"
    r"|≈|~|提升了?|提高了?|降低了?|下降了?|减少了?|增加了?|加速|约|达|即)[ ,]?){0,3}(?<![\d.])"
)
_IS_OF_THE_PAIR = (
    r"(?=\W*$|\s?[)）.,;:，。；|]|\s(?:faster|slower|higher|lower|more|less|shorter|better|speed|improv|gain|increas|reduc"
    r"|decreas|drop|throughput|latency|at\b|on\b|for\b|with\b)|\s?[\u4e00-\u9fff])"
)
"""What follows a factor: “120 against 100 tok/s, 85% GPU utilization” is of something else."""
_SAID_PAIR = (
    rf"\bfrom (?P<b1>\d[\d,]*(?:\.\d+)?){_UNIT} to (?P<a1>\d[\d,]*(?:\.\d+)?){_UNIT}{_JOINED}(?P<f1>{{0}})"
    rf"|(?<![\d.])(?P<b2>\d[\d,]*(?:\.\d+)?){_UNIT}\s?(?:→|⇒|->|=>)"
    rf"\s?(?P<a2>\d[\d,]*(?:\.\d+)?){_UNIT}{_JOINED}(?P<f2>{{0}})"
    rf"|从 ?(?P<b3>\d[\d,]*(?:\.\d+)?){_UNIT} ?(?:提升|提高|增加|降低|下降|降|升|减少)?[到至]"
    rf" ?(?P<a3>\d[\d,]*(?:\.\d+)?){_UNIT}{_JOINED}(?P<f3>{{0}})"
    rf"|(?<![\d.])(?P<a4>\d[\d,]*(?:\.\d+)?){_UNIT},? (?:vs\.?|versus|against|compared (?:to|with)|instead of|over)"
    rf" (?P<b4>\d[\d,]*(?:\.\d+)?){_UNIT}{_JOINED}(?P<f4>{{0}})"
).replace("{0}", r"[+\-−]?\d+(?:\.\d+)?\s?(?:%|[x×](?!\w)|倍)" + _IS_OF_THE_PAIR)


def _said_pairs(card: Card) -> Iterator[tuple[int, str, Number, Number, Number]]:
    """Yield what sentences say of two numbers: (line, words, factor or percentage, value, base)."""
    for hit in card.search(_SAID_PAIR, tables=False):
        m = hit.match
        base, value, factor = next((m[f"b{i}"], m[f"a{i}"], m[f"f{i}"]) for i in "1234" if m[f"f{i}"])
        (a, *_), (b, *_), (cell, *_) = numbers(value), numbers(base), numbers(factor)
        # “GPUs from 8 to 16 (1.8x)” is not of these two numbers
        measured = _HAS_UNIT.search(m[0]) or (m["f2"] and min(a.ulp, b.ulp) < 1)
        if measured and a.value > 0 and b.value > 0:
            yield hit.line, m[0], cell, a, b


_HAS_UNIT = re.compile(r"\d\s?(?:tok|TPS|req/s|ms\b|s\b|sec)", re.I)


def _is_mean_of_rows(found: _Difference) -> bool:
    """Return whether a factor or percentage is the mean of those in the other rows of its column."""
    place = found.place
    others = [n.value for row, n in found.table.column(place) if row is not found.row and n.unit == found.cell.unit]
    mean = sum(others) / len(others) if others else 0.0
    return len(others) > 1 and abs(mean - found.cell.value) <= found.cell.ulp


_AVERAGED = re.compile(r"\bavg\b|average|mean|overall|total|平均|总体", re.I)


def _relation(cell: Number, a: Number, b: Number) -> str:
    if cell.unit == "x":
        return f"{a.value:g} / {b.value:g} is {a.value / b.value:.2f}x"
    return f"{a.value:g} and {b.value:g} differ by {100 * (a.value / b.value - 1):+.1f}%"


@rule(
    "C205",
    "warning",
    "The base of a difference changes from row to row",
    why="If every row divides by its smaller value, rows cannot be compared or averaged, and a loss looks like a gain "
    "of the other method.",
    fix="Name one column as the base and give every row's difference to it, negative ones included.",
)
def changing_base(card: Card) -> Iterator[Violation]:
    """Report a column of differences whose rows have different bases."""
    bases: dict[int, tuple[Table, dict[str, list[Row]]]] = {}
    for found in _differences(card):
        fitting = {base for a, b, base in found.pairs if base and _fits(found.cell, a, b, exact=True)}
        if len(fitting) == 1:
            _, by_base = bases.setdefault(id(found.table), (found.table, {}))
            by_base.setdefault(fitting.pop(), []).append(found.row)
    for table, by_base in bases.values():
        if len(by_base) > 1:
            parts = "; ".join(f"{base} in {_some([r.label for r in rows])}" for base, rows in by_base.items())
            yield Violation(table.line, f"the percentages are taken of {parts}")


def _some(names: list[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


ValueAndBase = tuple[Number, Number, str]


@dataclass(frozen=True, slots=True)
class _Difference:
    """A percentage or a factor in a table, with the (value, base, base's name) triples that may have made it.

    ``is_sure``: the base is named as one, or stands before an arrow in the same cell or beside it.
    """

    table: Table
    row: Row
    cell: Number
    text: str
    pairs: list[ValueAndBase]
    is_sure: bool = False

    @property
    def place(self) -> int:
        """The column of the percentage or factor."""
        return next(i for i, c in enumerate(self.row.cells) if c.text == self.text)


_NOT_VALUES = {"k", "count", "interval", "temperature", "label", "difference", "speedup"}
_CONDITION = re.compile(
    r"\b(?:bs|batch(?: size)?|conc\w*|T|temp\w*|k|tp|dp|ctx|context|isl|osl|len\w*|tokens?)\s*[=:]?\s*\d", re.I
)
_BASELINE = re.compile(r"baseline|vanilla|auto-?regressive|\bAR\b|no[- ]spec|without|w/o|target only|基线|原始", re.I)
_A_SHARE = re.compile(r"\d\s?/\s?\d+\s*\(\d[\d.]*\s?%\)")
"""``27/30 (90%)``: the percentage is of the count before it."""
_FACTOR_IN_CELL = re.compile(r"\((?:×\s?|x)?[+-]?\d[\d.,]*\s?(?:%|[x×])?\)")


def _differences(card: Card) -> list[_Difference]:
    if "differences" not in card.cache:
        card.cache["differences"] = [d for _, table in claims.read_tables(card) for d in _of_table(table)]
    found: list[_Difference] = card.cache["differences"]
    return found


def _of_table(table: Table) -> Iterator[_Difference]:
    kinds = [claims.column_kind(table, i) for i in range(len(table.header))]
    places = [i for i, kind in enumerate(kinds) if kind in {"difference", "speedup"}]
    values = [i for i in range(1, len(kinds)) if kinds[i] not in _NOT_VALUES]
    for row in table.rows:
        arrows = sum(c.pair is not None for c in row.cells)
        pairs_of = ((i, c.pair) for i, c in enumerate(row.cells) if c.number)  # “Parallelism 1 → 10” is a condition
        pair = next(((i, p) for i, p in pairs_of if p and p[0].value > 0 < p[1].value), None)
        # a factor or a percentage in the cell of its value: of that value and the row's other one
        for i in values:
            if _A_SHARE.search(row.cells[i].text):
                continue
            if (m := _FACTOR_IN_CELL.search(row.cells[i].text)) and (n := row.cells[i].number) and n.unit == "":
                cell = next((x for x in numbers(m[0]) if x.unit in {"%", "x"}), None)
                own = row.cells[i].pair
                if own and cell:
                    yield _Difference(table, row, cell, row.cells[i].text, [(own[1], own[0], "")], True)
                elif cell and n.value > 0 and (others := _others(table, row, values, i, kinds)):
                    pairs = [(n, b, name) for b, name in others]
                    named = any(_BASELINE.search(name) for _, name in others)
                    yield _Difference(table, row, cell, row.cells[i].text, pairs, named)
        # a difference of the two numbers of an arrow
        if pair is not None:
            at, (a, b) = pair
            for i, c in enumerate(row.cells):
                n = c.number
                if i != at and n and (n.unit in {"%", "x"}) and (kinds[i] in {"difference", "speedup"} or n.signed):
                    yield _Difference(table, row, n, c.text, [(b, a, "")], arrows == 1)
            continue
        yield from _of_two_columns(table, row, places, values, kinds)
    yield from _of_baseline_rows(table, kinds)


def _of_baseline_rows(table: Table, kinds: list[str]) -> Iterator[_Difference]:
    """Yield the factors beside a throughput that are of the throughput of the one baseline among the rows."""
    beside = [
        (i, j)
        for i, kind in enumerate(kinds)
        if kind == "speedup"
        for j in (i - 1, i + 1)
        if 0 < j < len(kinds) and kinds[j] == "throughput" and (kinds.count("throughput") == 1 or j == i - 1)
    ]
    if not beside or len(table.rows) > _MOST_ROWS * 4:
        return
    groups: dict[str, list[Row]] = {}
    repeated = len({row.cells[0].text for row in table.rows}) < len(table.rows)
    for row in table.rows:
        groups.setdefault(row.cells[0].text if repeated else "", []).append(row)
    for i, j in beside:
        for rows in groups.values():
            bases = [
                r for r in rows if (n := r.cells[i].number) and n.value == 1 and n.unit == "x" and r.cells[j].number
            ]
            base = bases[0].cells[j].number if len(bases) == 1 else None
            for row in rows if base is not None and base.value > 0 else ():
                factor, value = row.cells[i].number, row.cells[j].number
                averaged = re.search(r"avg|average|mean|平均", f"{table.header[i]} {row.label}", re.I)
                if averaged:  # the mean of factors is not the factor of means
                    continue
                if base and row is not bases[0] and factor and factor.unit == "x" and value and value.value > 0:
                    yield _Difference(table, row, factor, row.cells[i].text, [(value, base, "")], True)


def _others(table: Table, row: Row, values: list[int], i: int, kinds: list[str]) -> list[tuple[Number, str]]:
    """Return the numbers that a cell may be compared with: those of the columns of its kind, baselines first."""
    found = [
        (n, table.header[j])
        for j in values
        if j != i and kinds[j] == kinds[i] and (n := row.cells[j].number) and n.unit == "" and n.value > 0
    ]
    named = [one for one in found if _BASELINE.search(one[1])]
    return named or (found if len(found) == 1 else [])


def _of_two_columns(
    table: Table, row: Row, places: list[int], values: list[int], kinds: list[str]
) -> Iterator[_Difference]:
    """Yield the differences of a row that can only be of its two numbers of one kind."""
    present = [(i, n) for i in values if (n := row.cells[i].number) is not None and n.value > 0 and n.unit != "x"]
    both = [[(i, n) for i, n in present if kinds[i] == wanted] for wanted in ("throughput", "latency")]
    if all(len(two) == 2 for two in both):
        present, times = both  # the factor may be of either
    else:
        present, times = next((two for two in both if len(two) == 2), present), []
    if len(present) != 2 or len({kinds[i] for i, _ in present}) != 1:
        return
    headers = [table.header[i] for i, _ in present]
    if row.lines and len(table.rows) == 1 and not any(_BASELINE.search(h) for h in headers):
        return  # of a list of names and values, where two numbers may be of anything
    if any(_CONDITION.search(h) for h in headers) and not any(_BASELINE.search(h) for h in headers):
        return  # two conditions of one method are not two methods
    for place in places:
        text = row.cells[place].text
        cell = next((n for n in numbers(text) if n.unit in {"%", "x"}), None)
        bare = row.cells[place].number
        if cell is None and kinds[place] == "speedup" and bare and "%" not in table.header[place]:
            cell = replace(bare, unit="x") if bare.ulp < 1 and 0 < bare.value < _MOST_ROWS else None
        if cell is None or (kinds[place] == "speedup" and kinds[present[0][0]] in {"length", "rate"}):
            continue  # a speed-up is not the ratio of two acceptance lengths
        pairs = [(a, b, table.header[j]) for i, a in present for j, b in present if i != j]
        pairs += [(a, b, table.header[j]) for i, a in times for j, b in times if i != j]
        if named := _NAMED_DIFFERENCE.match(text):
            name = _COMPARED.sub(" ", named["name"])
            winner = [p for p in pairs if _names(name, _other(table, present, p[2]))]
            pairs = winner or pairs
        elif any(_BASELINE.search(h) for h in headers):
            pairs = [p for p in pairs if _BASELINE.search(p[2])] or pairs
        yield _Difference(table, row, cell, text, pairs, any(_BASELINE.search(h) for h in headers))


def _other(table: Table, present: list[tuple[int, Number]], base: str) -> str:
    return next((table.header[i] for i, _ in present if table.header[i] != base), "")


def _names(name: str, header: str) -> bool:
    return name.strip().lower() in header.lower()


def _fits(cell: Number, a: Number, b: Number, *, exact: bool = False, within: float = 0.0) -> bool:
    """Return whether a printed percentage or factor follows from a value and its base.

    A percentage without a sign may also be the size of a decrease, the ratio itself, or percentage points; a factor
    may be of a time that got shorter. With ``exact`` none of these. ``within`` is the share of the ratio that it may
    be off by.
    """
    ratio = a.value / b.value
    slack = ratio * (a.slack / a.value + b.slack / b.value + within)
    # whoever divides before rounding may be off by one in the last digit
    room = slack + cell.ulp * (0.01 if cell.unit == "%" else 1) + 1e-9
    if cell.unit == "x":
        return abs(ratio - cell.value) <= room or (
            not exact and abs(ratio * cell.value - 1) <= room * (1 + cell.value)
        )
    percent = 100 * slack + cell.ulp + 1e-9
    if abs(100 * (ratio - 1) - cell.value) <= percent:
        return True
    points = a.unit == b.unit == "%" and abs(a.value - b.value - cell.value) <= (a.ulp + b.ulp + cell.ulp) / 2 + 1e-9
    other = not cell.signed and min(abs(100 * abs(ratio - 1) - cell.value), abs(100 * ratio - cell.value)) <= percent
    return not exact and (points or other)


@rule(
    "C206",
    "error",
    "Share of drafted tokens does not follow from τ and K",
    why="Of K drafted tokens a step accepts τ − 1, so the share accepted is (τ − 1) / K, for a chain.",
    fix="Take both from the same counters; for a tree, say what the share counts.",
)
def wrong_draft_rate(card: Card) -> Iterator[Violation]:
    """Report rows whose share of accepted drafted tokens does not follow from their τ and K.

    A small gap is a warning: the mean of requests is not the share of all tokens.
    """
    shares: dict[int, list[int]] = {}
    for length in claims.acceptance_lengths(card):
        table, row = length.table, length.row
        if table is None or row is None:
            continue
        if id(table) not in shares:
            shares[id(table)] = [] if _A_TREE.search(claims.text_around(table)) else _shares(card, table)
        for i in shares[id(table)]:
            share = row.cells[i].number
            if share is not None and share.unit == "" and "%" in table.header[i]:
                share = replace(share, unit="%")
            if share is None or share.share > 1:
                continue  # as tokens per step are
            for k in length.ks if len(length.ks) == 1 else ():
                right = (length.number.value - 1) / k
                if length.accepted_alone and abs(right + 1 / k - share.share) < abs(right - share.share):
                    right += 1 / k  # without the target's token
                if abs(right - share.share) > share.slack + length.number.slack / k + 1e-9:
                    message = (
                        f"τ = {length.number.value:g} at K = {k} means {right:.1%}, not {share.value:g}{share.unit}"
                    )
                    # the number may leave out the target's token, or fewer than K may have been drafted
                    alone = abs(length.number.value / k - share.share) < 0.01 and not claims.counts_bonus(card)
                    near = abs(right - share.share) < _NEAR or alone or card.says(_FEWER_THAN_K)
                    yield Violation(length.line, message, severity="warning" if near else None)
    yield from _said_draft_rates(card)


def _shares(card: Card, table: Table) -> list[int]:
    """Return the columns of a table that hold the share of the drafted tokens, by their heads or the card's words."""
    of_drafted = card.says(_IS_OF_DRAFTED)
    return [
        i
        for i, (head, column) in enumerate(zip(table.header, claims.columns(table), strict=True))
        if claims.OF_DRAFTED.search(head) or (of_drafted and column.kind == "rate" and _CALLED_RATE.search(head))
    ]


_CALLED_RATE = re.compile(r"^\W*(?:accept\w*[ -]rate|接[受收]率)\W*$", re.I)
_FEWER_THAN_K = (
    r"\bearly[- ](?:stop|exit)|\badaptive|\bconfidence (?:threshold|below)|\bp[_-]min\b|llama\.cpp|\bllama-"
)
"""What says that a step may draft fewer tokens than K."""
_NEAR = 0.05
_A_TREE = re.compile(r"\btop-?_?k\W{1,3}(?:[2-9]|\d\d)\b|\btree\b", re.I)
_A_RATE = r"\d{1,3}(?:\.\d+)?\s?%|0?\.\d+"
_SAID_SHARE = re.compile(
    rf"draft acceptance rate(?: \([^()\d]{{0,60}}\))?\W{{0,4}}(?:(?:of|is|was|about) )?(?P<n1>{_A_RATE})"
    rf"|(?<![\d.])(?P<n2>{_A_RATE}) of (?:the |all )?(?:draft(?:ed)?|proposed|spec\w*) tokens?"
    r" (?:is |are |was |were |get )?accept"
    r"|(?:接受数 ?/ ?(?:草拟|草稿|提议)数?|accepted ?/ ?(?:drafted|proposed))[)）]?\W{0,4}"
    rf"(?:of |is |was |= ?|为|是|约|达){{0,2}} ?(?P<n3>{_A_RATE})"
    rf"|草稿 ?(?:token|词元)? ?的?接[受收](?:率|比例)(?:为|是|约|达|：|:| )*(?P<n4>{_A_RATE})"
    rf"|\baccept rate: (?P<n5>{_A_RATE})",
    re.I,
)


def _said_draft_rates(card: Card) -> Iterator[Violation]:
    """Yield the shares in sentences and logs that do not follow from the one τ beside them and the one K."""
    by_section: dict[int, list[claims.AcceptanceLength]] = {}
    for length in claims.acceptance_lengths(card):
        if length.table is None and not length.accepted_alone:
            by_section.setdefault(id(length.section), []).append(length)
    ks = set(claims.measured_ks(card)) if by_section else set()
    by_line = {s.line: len(s.rates) for s in claims.rate_series(card) if s.name.startswith("Per-position")}
    for section in card.sections:
        own = by_section.get(id(section), [])
        if not own or len(own) > _MOST_ROWS:
            continue
        for block in section.blocks:
            if not isinstance(block, Prose | Code) or not _SAID_SHARE.search(block.text):
                continue
            if _A_TREE.search(block.text):
                continue  # then the share is of all that the tree has
            line, seen = block.line, 0
            for m in islice(_SAID_SHARE.finditer(block.text), _MOST_ROWS):
                line, seen = line + block.text.count("\n", seen, m.start()), m.start()
                beside = [x for x in own if x.line == line] or ([] if isinstance(block, Code) else own)
                k = by_line.get(line) or (next(iter(ks)) if len(ks) == 1 else None)
                if len({x.number.value for x in beside}) != 1 or k is None:
                    continue
                tau, (share, *_) = beside[0].number, numbers(next(g for g in m.groups() if g))
                right = (tau.value - 1) / k
                room = share.slack + tau.slack / k + 1e-9
                if m["n5"] and abs(tau.value / (k + 1) - share.share) <= room:
                    continue  # as SGLang counted up to 0.5.5: with the target's token in both
                if abs(right - share.share) > room:
                    message = f"τ = {tau.value:g} at K = {k} means {right:.1%}, not {share.value:g}{share.unit}"
                    known = line in by_line or claims.names_k(block.text)
                    sure = known and beside[0].line == line and abs(right - share.share) >= _NEAR
                    yield Violation(line, message, severity=None if sure else "warning")


@rule(
    "C207",
    "warning",
    "Average is not that of its rows",
    why="A mean that cannot be checked may come from other rows; a pooled or weighted mean is another number, and the "
    "card must say so.",
    fix="Compute it again, or name the weights (pooled over rounds, mean of requests).",
)
def wrong_average(card: Card) -> Iterator[Violation]:
    """Report rows called average, mean or overall that no mean of the rows above them gives.

    A mean weighted by the number of prompts, or a geometric or harmonic one, is not reported.
    """
    for _, table in claims.read_tables(card):
        if not any(_AVERAGE.match(row.label) for row in table.rows):
            continue
        if _is_weighted(table):
            continue
        kinds = [claims.column_kind(table, i) for i in range(len(table.header))]
        weights = [i for i, kind in enumerate(kinds) if kind == "count"]
        group: list[Row] = []
        for row in table.rows:
            if not _AVERAGE.match(row.label):
                group.append(row)
                continue
            for i in range(1, len(table.header)):
                printed = row.cells[i].number
                others = [n for r in group if (n := r.cells[i].number) is not None]
                if printed is None or kinds[i] in {"count", "k", "interval", "temperature"}:
                    continue
                if len(others) < 2 or len(others) != len(group):
                    continue
                room = (printed.ulp + max(n.ulp for n in others)) / 2 + 1e-9
                within = min(n.value for n in others) <= printed.value <= max(n.value for n in others)
                if within and not re.search(r"average|avg|mean|平均", row.label, re.I):
                    continue  # over all prompts, each set with its own weight
                if all(abs(mean - printed.value) > room for mean in _means(group, others, weights)):
                    mean = fmean(n.value for n in others)
                    message = f"{table.header[i]}: the rows' mean is {mean:.4g}, “{row.label}” says {printed.value:g}"
                    yield Violation(row.at(i), message)
            group = []
    for _, table in claims.read_tables(card):
        yield from _wrong_average_column(table)


def _is_weighted(table: Table) -> bool:
    """Return whether the words around a table say that its means are not those of its rows."""
    around = claims.text_around(table)
    plain = re.search(r"\bunweighted|\barithmetic|\bsimple (?:mean|average)|\bmacro\b", around, re.I)
    return plain is None and bool(re.search(r"pooled|weighted|geometric|harmonic", around, re.I))


_MEAN_COLUMN = re.compile(r"^\W*(?:avg\.?|average|mean|平均)\W*$", re.I)


def _wrong_average_column(table: Table) -> Iterator[Violation]:
    """Yield the rows whose column of means gives no mean of the columns of the same kind beside it."""
    kinds = [claims.column_kind(table, i) for i in range(len(table.header))]
    for i, header in enumerate(table.header):
        others = [j for j, kind in enumerate(kinds) if j != i and kind == kinds[i]]
        named = _MEAN_COLUMN.match(claims.without_length(header)) and kinds[i] in {"length", "rate", "throughput"}
        if (
            not named
            or len(others) < 2
            or any(_MEAN_COLUMN.match(claims.without_length(table.header[j])) for j in others)
        ):
            continue
        if _is_weighted(table):
            continue
        for row in table.rows[:_MOST_ROWS]:
            printed, given = row.cells[i].number, [n for j in others if (n := row.cells[j].number) is not None]
            if printed is None or len(given) != len(others):
                continue
            room = (printed.ulp + max(n.ulp for n in given)) / 2 + 1e-9
            if all(abs(mean - printed.value) > room for mean in _means([], given, [])):
                mean = fmean(n.value for n in given)
                yield Violation(row.at(i), f"{row.label}: the mean is {mean:.4g}, “{header}” says {printed.value:g}")


def _means(group: list[Row], values: list[Number], weights: list[int]) -> Iterator[float]:
    plain = [n.value for n in values]
    yield fmean(plain)
    if all(value > 0 for value in plain):
        yield geometric_mean(plain)
        yield harmonic_mean(plain)
    labelled = [counted[0].value for r in group if (m := _COUNTED.search(r.label)) and (counted := numbers(m[0]))]
    columns = ([n.value for r in group if (n := r.cells[j].number) is not None] for j in weights)
    for counts in (*columns, labelled):
        if len(counts) == len(plain) and sum(counts) > 0:
            yield sum(a * b for a, b in zip(plain, counts, strict=True)) / sum(counts)


@rule(
    "C208",
    "error",
    "Interval does not contain its value",
    why="A confidence interval that leaves its own estimate out belongs to another number.",
    fix="Take both from the same run.",
)
def interval_without_value(card: Card) -> Iterator[Violation]:
    """Report rows whose interval does not contain their acceptance length."""
    places: dict[int, list[int]] = {}
    for length in claims.acceptance_lengths(card):
        table, row = length.table, length.row
        if table is None or row is None:
            continue
        if id(table) not in places:
            kinds = [column.kind for column in claims.columns(table)]
            # an interval is of the value to its left
            places[id(table)] = [
                i for i, k in enumerate(kinds) if k == "interval" and i and kinds[i - 1] == "length"
                and _OF_INTERVAL.search(table.header[i])
            ]  # fmt: skip
        for i in places[id(table)]:
            ends = [n.value for n in numbers(re.sub(r"(?<=\d)\s*[–-]\s*(?=\d)", " ", row.cells[i].text))]
            slack = length.number.slack
            if len(ends) == 2 and not ends[0] - slack <= length.number.value <= ends[1] + slack:
                message = f"τ = {length.number.value:g} is outside {ends[0]:g} … {ends[1]:g} ({length.label})"
                yield Violation(length.line, message)
        m = _IN_ONE_CELL.match(next((c.text for c in row.cells if c.number is length.number), ""))
        if m and _OF_INTERVAL.search(length.header):
            yield from _outside(length.line, length.label, m)
    for hit in card.search(_SAID_INTERVAL):
        yield from _outside(hit.line, hit.match[0], hit.match)


_ENDS = r"[\[(]?(?P<a>\d+(?:\.\d+)?)\s*(?:[-–—,，~]|…|\.\.\.|to|and|至|到)\s*(?P<b>\d+(?:\.\d+)?)[\])]?"
_IN_ONE_CELL = re.compile(rf"\W*(?P<v>\d+(?:\.\d+)?)\s*(?=[\[(]){_ENDS}\W*$")
_SAID_INTERVAL = (
    r"(?<![\d.])(?P<v>\d+\.\d+)\s*(?:tok\w*(?:/s)?\s*)?[（(\[,，;]\s*"
    r"(?:(?:(?:bootstrap\w*|over|by|with|an?|the|at|paired|percentile|prompts?|questions|requests|rounds),? ){1,5})?"
    r"(?:95 ?% ?(?:\bCI\b|confidence interval|置信区间)?|\bCI\b|confidence interval|置信区间)"
    r"(?:\s(?:is|of|from|between|over [a-z]+))?[:：,=\s]*" + _ENDS
)


def _outside(line: int, label: str, m: re.Match[str]) -> Iterator[Violation]:
    """Yield the violation of a value that is outside of the interval beside it."""
    (value, *_), (low, *_), (high, *_) = numbers(m["v"]), numbers(m["a"]), numbers(m["b"])
    room = value.slack + 1e-9
    if low.value <= high.value and not low.value - room <= value.value <= high.value + room:
        yield Violation(line, f"{value.value:g} is outside {low.value:g} … {high.value:g} ({label[:60]})")


_OF_INTERVAL = re.compile(r"interval|95 ?%|\bCI\b|置信", re.I)


@rule(
    "C209",
    "info",
    "One value is far from the others, without an explanation",
    why="A data set that runs several times slower than all others is the first thing a reader asks about.",
    fix="Say why (longer prompts, another language, another batch), or check the number.",
)
def outlier(card: Card) -> Iterator[Violation]:
    """Report throughputs far from their column's median, by a factor above 3, that no sentence explains."""
    seen: set[int] = set()
    for _, table, i in claims.columns_of_kind(card, "throughput"):
        values = table.column(i)
        if not 4 <= len(values) <= _MOST_ROWS or id(table) in seen or _varies(table):
            continue
        seen.add(id(table))
        middle = median(n.value for _, n in values)
        for row, n in values:
            far = n.value > 0 and max(n.value / middle, middle / n.value) > _OUTLIER
            if far and not card.search(re.escape(row.label), tables=False):
                yield Violation(row.at(i), f"{row.label} is {n.value:g}, the others are around {middle:.4g}")


def _varies(table: Table) -> bool:
    """Return whether the rows differ in what makes throughput differ: model, concurrency, batch size, hardware."""
    kinds = {column.kind for column in claims.columns(table)}
    return bool({"count", "k"} & kinds) or bool(
        re.search(r"model|target|模型|hardware|gpu|engine|\btp\b|setup|config", " ".join(table.header[:3]), re.I)
    )


_SHARED = 3
"""The rows that two tables must share to be of the same measurement."""
_MOST_TABLES = 12


@rule(
    "C211",
    "warning",
    "Two tables contradict each other",
    why="The same sets have other acceptance lengths in another table, and nothing says what was different: readers "
    "cannot tell which of the two to expect.",
    fix="Say what differs (engine, K, temperature, version of the head), or keep the right table alone.",
    heads=True,
)
def contradicting_tables(card: Card) -> Iterator[Violation]:
    """Report tables that share rows and give most of them another acceptance length, without another condition."""
    found: list[tuple[Table, _Conditions, dict[str, Number]]] = []
    for section, table, i in claims.columns_of_kind(card, "length"):
        kinds = [column.kind for column in claims.columns(table)]
        if kinds.count("length") > 1 or "k" in kinds or "temperature" in kinds or len(table.rows) > _MOST_ROWS:
            continue
        rows = {_letters(_COUNTED.sub("", row.label)): n for row, n in table.column(i)}
        if len(rows) == len(table.column(i)) and len(found) < _MOST_TABLES:
            own = len(section.path) > 1 and section.path[-1].level > 1  # the title of the card is everything's
            found.append((table, _Conditions.of(section.title if own else "", table), rows))
    for (first, conditions, a), (second, others, b) in combinations(found, 2):
        shared = [label for label in a if label in b]
        other = [s for s in shared if not a[s].agrees(b[s])]
        enough = len(shared) >= _SHARED or (
            len(shared) == len(a) == len(b) == len(other) == 2 and _repeats(first, second)
        )
        if enough and 3 * len(other) >= 2 * len(shared) and not conditions.differ(others):
            shown = ", ".join(f"{s} {a[s].value:g} and {b[s].value:g}" for s in other[:3])
            yield Violation(second.line, f"the table of line {first.line} has other acceptance lengths: {shown}")


def _repeats(first: Table, table: Table) -> bool:
    """Return whether nothing but a heading stands between two tables, so that no words can say of what else it is."""
    if first.heading == table.heading and first.before == table.before:
        return True
    return not table.before.rpartition("\n\n")[2].strip() or bool(
        re.match(
            r"\W*(?:in )?(?:summary|overall|results|总结|汇总)\b.{0,20}$", table.before.rpartition("\n\n")[2], re.I
        )
    )


_COUNTED = re.compile(
    r"\s*(?:[(（]\s*(?:n\s*=\s*)?[\d,]+ ?(?:prompts|questions|problems|samples|items|条|题)?\s*[)）]"
    r"|, ?[\d,]+ (?:prompts|questions|problems|samples|items)\b)",
    re.I,
)
"""The number of prompts behind the name of a set."""


def _letters(label: str) -> str:
    return re.sub(r"[\W_]+", "", label.lower())


_SETTING = re.compile(
    r"\b(?:thinking|reasoning|greedy|sampling|baseline|ours|eagle-?[123]?|mtp|dflash\d?|dspark|medusa|fp8|nvfp4|int4|bf16"
    r"|awq|gptq|vllm|sglang|trt\w*|tensorrt|llama\.cpp|mlx|training|validation|before|after|old|new|draft|target|epoch"
    r"|checkpoint|step|chinese|english|code|chat|long|short|tree|chain)\b|\b\w*\d[\w.]*\b",
    re.I,
)


@dataclass(frozen=True, slots=True)
class _Conditions:
    """What the headings of a table and the words around it say of its conditions."""

    words: frozenset[str]
    ks: frozenset[int]
    temperatures: frozenset[float]
    leading: str

    @classmethod
    def of(cls, title: str, table: Table) -> _Conditions:
        """Read the conditions under which a table was measured: what leads to it is its own."""
        leading = claims.leading(table)
        named = f"{title.rpartition(' / ')[2]} {leading}"
        words = frozenset(m[0].lower() for m in _SETTING.finditer(named))
        around = claims.text_around(table)
        ks = claims.found_numbers(claims.MEASURED_K, leading) or claims.found_numbers(claims.MEASURED_K, around)
        return cls(words, frozenset(ks), frozenset(claims.temperatures_of(table)), _letters(leading))

    def differ(self, others: _Conditions) -> bool:
        """Return whether a condition is named for both and differs, or what leads to them is not the same."""
        numbers_ = ((self.ks, others.ks), (self.temperatures, others.temperatures))
        led = self.leading and others.leading and self.leading != others.leading
        return bool(led) or self.words != others.words or any(a and b and a != b for a, b in numbers_)


_SAID_OF = (
    r"accept\w*[ -]len\w*(?: \(τ\))?(?: \w+){{0,3}}? (?:of |is |was |: ?|= ?)(?P<a>\d\.\d+)(?: \w+){{0,3}}"
    r" (?:on|for|in) {0}\b"
    r"|(?<![\d.])(?P<e>\d\.\d+) tok(?:en)?s? (?:\w+ )?(?:per|/) ?(?:\w+ ){{0,2}}(?:step|round|pass)"
    r" (?:on|for|in) {0}\b"
    r"|\b{0}\b[^.|;\n\d]{{0,40}}(?:accept\w*[ -]len\w*|τ|\btau\b)(?: \w+){{0,3}}?"
    r" ?(?:of |is |was |: ?|= ?)(?P<b>\d\.\d+)"
    r"|(?:accept\w*[ -]len\w*|τ|\btau\b)(?: \(τ\))? (?:on|for|in) {0}\b ?(?:of |is |was |: ?|= ?)(?P<c>\d\.\d+)"
    r"|(?<![A-Za-z0-9]){0}(?![A-Za-z0-9])[^。，；|\n\d]{{0,20}}接[受收]长度"
    r"(?:约|为|达到?|是|高达|[:： ])*(?P<d>\d\.\d+)"
)


_UP_TO = (
    r"up to (?:a |an )?\**(?P<a>\d+(?:\.\d+)?)\s?[x×]\**[^.|;\n]{0,40}\b(?:speed|faster|throughput|accelerat)"
    r"|\b(?:speed-?\s?up|faster|throughput|accelerat\w+)[^.|;\n\d]{0,40} up to (?:a |an )?\**(?P<b>\d+(?:\.\d+)?)"
    r"\s?[x×]"
)
_NOT_OWN = re.compile(r"\bpaper|reported by|\boriginal\b|\bprior\b|theoretical|\bcan\b|\bpotential|upper bound", re.I)


@rule(
    "C212",
    "warning",
    "The text gives another number than its table",
    why="People quote the sentence and check the table. One of the two was not brought up to date.",
    fix="Write the number of the table, or say of which measurement it is.",
)
def text_against_table(card: Card) -> Iterator[Violation]:
    """Report what sentences say of lengths and factors, and the tables do not have.

    That is a data set's acceptance length, a mean or a range outside of all that the tables print, and “up to 3x”
    above every factor.
    """
    printed = [x for x in claims.acceptance_lengths(card) if x.row is not None]
    yield from _said_of_a_set(card, printed)
    if card.is_of_a_head:
        yield from _said_of_all_sets(card, [x for x in printed if not x.accepted_alone])
    yield from _said_factors(card)
    yield from _said_throughputs(card)


_FROM_TO = (
    rf"\bfrom (?P<a1>\d[\d,]*(?:\.\d+)?){_UNIT} to (?:about )?(?P<b1>\d[\d,]*(?:\.\d+)?)(?P<u1>{_UNIT})"
    rf"|(?<![\d.])(?P<a2>\d[\d,]*(?:\.\d+)?){_UNIT}\s?(?:→|⇒|->|=>)\s?(?P<b2>\d[\d,]*(?:\.\d+)?)(?P<u2>{_UNIT})"
    rf"|(?<![\d.])(?P<a3>\d[\d,]*(?:\.\d+)?){_UNIT},? (?:vs\.?|versus|against|compared (?:to|with)|instead of)"
    rf" (?P<b3>\d[\d,]*(?:\.\d+)?)(?P<u3>{_UNIT})"
    rf"|从 ?(?P<a4>\d[\d,]*(?:\.\d+)?){_UNIT} ?(?:提升|提高|增加|升|加速)?[到至]"
    rf" ?(?P<b4>\d[\d,]*(?:\.\d+)?)(?P<u4>{_UNIT})"
)
_OF_TOKENS = re.compile(r"tok|TPS", re.I)


def _said_throughputs(card: Card) -> Iterator[Violation]:
    """Yield two throughputs of a sentence if the tables print one of them, and the other nowhere."""
    columns = [(table, i) for _, table, i in claims.columns_of_kind(card, "throughput") if not table.is_list]
    if not columns or not card.is_of_a_head:
        return
    printed = [n for table, i in columns for _, n in table.column(i)]
    anywhere = [n for _, t in card.tables for r in t.rows[: _MOST_ROWS * 4] for c in r.cells for n in numbers(c.text)]
    for hit in card.search(_FROM_TO, tables=False, outside=claims.TRAINING)[:_MOST_ROWS]:
        m = hit.match
        at = next(i for i in "1234" if m[f"a{i}"])
        if not _OF_TOKENS.search(m[f"u{at}"]) or claims.is_of_others(claims.sentence_of(m)):
            continue
        (a, *_), (b, *_) = numbers(m[f"a{at}"]), numbers(m[f"b{at}"])
        for one, other in ((a, b), (b, a)):
            near = [n for n in anywhere if n.agrees(other) or abs(n.value - other.value) <= 0.01 * other.value]
            if any(n.agrees(one) for n in printed) and not near:
                yield Violation(hit.line, f"“{m[0].strip()}”: no table has {other.value:g}")


def _said_of_a_set(card: Card, printed: list[claims.AcceptanceLength]) -> Iterator[Violation]:
    rows: dict[str, list[Number]] = {}
    for length in printed:
        if re.fullmatch(r"[A-Za-z][\w -]{3,30}", length.label):
            rows.setdefault(length.label, []).append(length.number)
    for label, given in rows.items() if len(rows) <= _MOST_ROWS else ():
        for hit in card.search(_SAID_OF.format(re.escape(label)), tables=False):
            said = numbers(next(hit.match[g] for g in "abcde" if hit.match[g]))[0]
            if not _has_own_conditions(claims.sentence_of(hit.match)) and not any(n.agrees(said) for n in given):
                shown = ", ".join(f"{n.value:g}" for n in given[:4])
                yield Violation(hit.line, f"τ = {said.value:g} on {label}; the table says {shown}")


def _has_own_conditions(sentence: str) -> bool:
    """Return whether a sentence is of another head, or of a temperature or K that it names."""
    own = claims.is_of_others(sentence) or bool(_OWN_CONDITION.search(sentence))
    return own or bool(claims.temperatures(sentence)) or claims.names_k(sentence)


_OWN_CONDITION = re.compile(
    r"\b(?:with(?:out)?|in|on|under|for) (?:the )?(?:non-)?"
    r"(?:thinking|reasoning|fp8|int[48]|nvfp4|awq|gptq|bf16|tree)\b"
    r"|\b(?:first|second|last|each) turn|\b(?:by|per) turn\b"
    r"|\b(?:earlier|previous|older?|first|last) (?:version|release|head)"
    r"|思考|旧版|上一版",
    re.I,
)
"""What a sentence says of its number that the rows of a table may not share."""


def _said_of_all_sets(card: Card, printed: list[claims.AcceptanceLength]) -> Iterator[Violation]:
    """Yield the means and ranges of acceptance lengths that lie outside of all lengths in the tables."""
    if len(printed) < 2:
        return
    least, most = (chosen((x.number for x in printed), key=lambda n: n.value) for chosen in (min, max))
    means = [x.number for x in printed if _AVERAGE.match(x.label)]
    named = [*card.listed("base_model"), *(f"{x.label} {x.header}" for x in printed[: _MOST_ROWS * 4])]
    known = _letters(f"{' '.join(named)} {_ENGINES}")
    for hit in card.search(_SAID_OF_ALL, tables=False, outside=claims.TRAINING):
        sentence = claims.sentence_of(hit.match)
        elsewhere = any(
            _letters(m["set"]) not in known and not re.match(claims.HARDWARE, m["set"], re.I)
            for m in _ON_A_SET.finditer(sentence)
        )
        if elsewhere or _has_own_conditions(sentence) or _NOT_OWN.search(sentence):
            continue
        given = numbers(" ".join(g for g in hit.match.groups() if g))
        room = (given[0].ulp + max(least.ulp, most.ulp)) / 2 + 1e-9
        if not all(least.value - room <= said.value <= most.value + room for said in given):
            yield Violation(hit.line, f"“{hit.match[0].strip()}”; the tables have {least.value:g} to {most.value:g}")
        elif means and len(given) == 1 and not any(mean.agrees(given[0]) for mean in means):
            shown = ", ".join(f"{mean.value:g}" for mean in means[:4])
            yield Violation(hit.line, f"“{hit.match[0].strip()}”; the table's mean is {shown}")


_ENGLISH_LENGTH = r"(?:accept\w*[ -]len\w*s?|τ|\btau\b)"
_A_LENGTH = r"(\d{1,2}\.\d+)(?!\.?\d|\s?(?:%|[x×](?!\w)))"
_SAID_OF_ALL = (
    rf"\b(?:average|mean|overall)\b[^.!?;|\n\d]{{0,30}}{_ENGLISH_LENGTH}[^.!?;|\n\d]{{0,24}}{_A_LENGTH}"
    rf"|{_ENGLISH_LENGTH}[^.!?;|\n\d]{{0,30}}\b(?:averag\w+|mean)\b[^.!?;|\n\d]{{0,12}}{_A_LENGTH}"
    rf"|{_ENGLISH_LENGTH}[^.!?;|\n\d]{{0,24}}?(?<![.\d])(\d{{1,2}}\.\d+)\s?(?:[-–—~]|to|and)\s?{_A_LENGTH}"
    rf"|平均接[受收]长度[^。，；|\n\d]{{0,12}}{_A_LENGTH}"
)
"""The mean of several data sets, or a range over them."""
_ENGINES = "vLLM SGLang TensorRT-LLM NVIDIA AMD all"
_ON_A_SET = re.compile(r"(?:\b(?:on|for|in) (?:the )?|在 ?)(?P<set>[A-Z][\w./-]*\w)")


def _said_factors(card: Card) -> Iterator[Violation]:
    said_most = card.search(_UP_TO, tables=False)
    said_all = card.search(_FACTORS_OF_ALL, tables=False) if card.is_of_a_head else []
    if not said_most and not said_all:
        return
    factors = [
        n for _, table, i in claims.columns_of_kind(card, "speedup") for _, n in table.column(i) if n.unit != "%"
    ]
    bare = any(
        "speedup" not in {c.kind for c in claims.columns(table)}
        for _, table, _ in claims.columns_of_kind(card, "throughput")
    )
    if not factors or bare:
        return
    factors += [n for _, t in card.tables for r in t.rows for c in r.cells for n in numbers(c.text) if n.unit == "x"]
    least, most = (chosen(factors, key=lambda n: n.value) for chosen in (min, max))
    for hit in said_most:
        said = numbers(hit.match["a"] or hit.match["b"])[0]
        if _is_above(said, most) and not _NOT_OWN.search(_near(hit.match)):
            yield Violation(hit.line, f"“up to {said.value:g}x”; the largest factor in the tables is {most.value:g}x")
    for hit in said_all if len(factors) > 1 else ():
        low, *high = numbers(" ".join(g for g in hit.match.groups() if g))
        sentence = claims.sentence_of(hit.match)
        if claims.is_of_others(sentence) or _NOT_OWN.search(sentence) or _AT_A_LOAD.search(sentence):
            continue
        if _is_above((high or [low])[0], most) or low.value < least.value * 0.97 - low.ulp / 2:
            message = f"“{hit.match[0].strip()}”; the tables have {least.value:g}x to {most.value:g}x"
            yield Violation(hit.line, message)


def _is_above(said: Number, most: Number) -> bool:
    return said.value > most.value * 1.03 + said.ulp / 2


def _near(m: re.Match[str]) -> str:
    return m.string[max(0, m.start() - 80) : m.end() + 60]


_FACTOR = r"(?<![.\d])\**(\d+(?:\.\d+)?)"
_FACTORS_OF_ALL = (
    rf"{_FACTOR}\s?[x×]?\s?(?:[-–—~]|to)\s?{_FACTOR}\s?[x×]\**[^.|;\n\d]{{0,20}}\b(?:speed|faster|throughput|accelerat)"
    rf"|\bspeed-?\s?ups?\b[^.|;\n\d]{{0,30}}{_FACTOR}\s?[x×]?\s?(?:[-–—~]|to|and)\s?{_FACTOR}\s?[x×]"
    rf"|\b(?:average|mean)\b[^.|;\n\d]{{0,20}}\bspeed-?\s?up\b[^.|;\n\d]{{0,16}}{_FACTOR}\s?[x×]"
    rf"|{_FACTOR}\s?[x×]\**[^.|;\n\d]{{0,20}}\bspeed-?\s?up\b[^.|;\n\d]{{0,6}}\bon average"
    rf"|(?:平均)?加速比?[^。，；|\n\d]{{0,8}}{_FACTOR}\s?(?:[x×倍])?\s?(?:[-–—~]|到|至)\s?{_FACTOR}\s?(?:[x×]|倍)"
)
"""A mean of factors, or a range of them."""
_AT_A_LOAD = re.compile(r"batch|concurren|\bbs\b|\bTP\b|并发|批", re.I)


_ALL_LOGGED = re.compile(r"(?i:draft acceptance rate)\W{1,4}(?:100(?:\.0+)?\s?%|1\.0+\b)")


@rule(
    "C210",
    "warning",
    "Every drafted token is accepted",
    why="No head predicts its target always. 100 % is what simulated acceptance, a target that drafts for itself, or "
    "a counter that counts something else gives.",
    fix="Measure again without simulated acceptance, or say what the number counts.",
)
def full_acceptance(card: Card) -> Iterator[Violation]:
    """Report an acceptance rate of 100 %, in a sentence, or in a whole column, also as the rate among the drafted."""
    rate = r"(?:acceptance(?: rates?| ratio)?|接[受收]率)"
    sure = r"100(?:\.0+)?\s?%"
    for hit in card.search(
        rf"{sure} (?:draft |token )?{rate}|{rate} (?:rate )?(?:of|is|was|=|:|reaches) ?{sure}"
        rf"|{rate} ?(?:：|:|为|达到?|高达) ?{sure}"
        r"|\b(?:every|all)(?: of)?(?: the)?(?: single)? draft\w*(?: tokens?)? (?:is|are|was|were|gets?|got) "
        r"accepted\b",
        tables=False,
    ):
        before = re.split(r"[.!?]\s", hit.match.string[max(0, hit.match.start() - 80) : hit.match.start()])[-1]
        around = before + hit.match.string[hit.match.start() : hit.match.end() + 40]
        if not re.search(r"\b(?:not|no|never|impossible|simulat|synthetic|cannot|upper)", around, re.I):
            yield Violation(hit.line, f"“{hit.match[0].strip()}”")
    for line, m in claims.code_matches(card, _ALL_LOGGED):
        yield Violation(line, f"“{m[0]}”")
    for _, table, i in claims.columns_of_kind(card, "rate"):
        values = [n for _, n in table.column(i)]
        line = table.line if len(values) > 1 else table.column(i)[0][0].at(i)
        among = len(values) == 1 and re.search(r"draft|propos|草", table.header[i], re.I)
        if (len(values) > 1 or among) and all(n.share >= 1 and n.unit == "%" for n in values):
            yield Violation(line, f"“{table.header[i]}” is 100%{' in every row' if len(values) > 1 else ''}")
