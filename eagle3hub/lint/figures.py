"""C2: rules on numbers that are impossible, or do not follow from the other numbers on the card."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from statistics import fmean, median

from eagle3hub.lint import claims
from eagle3hub.lint.model import Card, Number, Row, Section, Table, Violation, numbers, rule

_AVERAGE = re.compile(r"^\W*(?:overall|average|avg\.?|mean|total mean)\W*$", re.I)
_NAMED_DIFFERENCE = re.compile(r"^\W*(?P<name>[A-Za-z][\w .+-]*?)\W*(?P<number>[+-−]?\d+(?:\.\d+)?)\s*%")
_OUTLIER = 3.0


@rule(
    "C201",
    "error",
    "Impossible acceptance length",
    why="A verification step emits at least the target's own token and at most the K drafted ones besides: "
    "1 ≤ τ ≤ K + 1.",
    fix="Check the number, its definition (drafted tokens only, or all emitted?) and the K it was measured with.",
)
def impossible_length(card: Card) -> Iterator[Violation]:
    """Report τ below 1, and τ above K + 1 for every K that the card gives for it."""
    everywhere = {*claims.measured_ks(card), *(k for k, _ in claims.example_ks(card))}
    for length in claims.acceptance_lengths(card):
        tau, ks = length.number, length.ks or everywhere
        if tau.value + tau.slack < 1:
            message = f"τ = {tau.value:g} ({length.row.label}): less than 1 token per step cannot be"
            yield Violation(length.row.line, message)
        elif ks and tau.value - tau.slack > max(ks) + 1:
            message = f"τ = {tau.value:g} ({length.row.label}) is more than K + 1 = {max(ks) + 1}"
            yield Violation(length.row.line, message)


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
    """Report a τ that does not follow from the one series of rates in the same part, for the same K."""
    for s in claims.rate_series(card):
        near = [
            x
            for x in claims.acceptance_lengths(card)
            if claims.in_same_part(x.section, s.section) and (not x.ks or len(s.rates) in x.ks)
        ]
        if len({x.number.value for x in near}) != 1 or len(claims.rate_series(card)) > 2:
            continue
        tau = near[0].number
        readings = {kind: _tau(s.rates, kind) for kind in ("marginal", "conditional") if s.kind in {kind, None}}
        slack = tau.slack + sum(n.slack for n in s.rates)
        if all(abs(value - tau.value) > slack + 1e-9 for value in readings.values()):
            said = " and ".join(f"{value:.2f} if they are {kind}" for kind, value in readings.items())
            yield Violation(s.line, f"τ = {tau.value:g} is printed, the rates give {said}")


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
    """Report percentages and ratios that no two numbers of the row give."""
    for section, table in card.tables:
        for row, cell, pairs in _differences(section, table):
            if not any(_fits(cell, a, b) for a, b, _ in pairs):
                a, b, _ = pairs[0]
                best = f"{a.value:g} and {b.value:g} differ by {100 * (a.value / b.value - 1):+.1f}%"
                yield Violation(row.line, f"{row.label}: “{_printed(row, cell)}” does not follow from the row; {best}")


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
    for section, table in card.tables:
        bases: dict[str, list[Row]] = {}
        for row, cell, pairs in _differences(section, table):
            fitting = {base for a, b, base in pairs if _fits(cell, a, b)}
            if len(fitting) == 1:
                bases.setdefault(fitting.pop(), []).append(row)
        if len(bases) > 1:
            parts = "; ".join(f"{base} in {', '.join(r.label for r in rows)}" for base, rows in bases.items())
            yield Violation(table.line, f"the percentages are taken of {parts}")


ValueAndBase = tuple[Number, Number, str]


def _differences(section: Section, table: Table) -> Iterator[tuple[Row, Number, list[ValueAndBase]]]:
    """Yield each difference of a table with the (value, base, base's name) triples that may have made it."""
    places = [
        i for i in range(len(table.header)) if claims.column_kind(table, i, section) in {"difference", "speedup"}
    ]
    values = [
        i
        for i in range(1, len(table.header))
        if i not in places and claims.column_kind(table, i, section) not in {"k", "count", "interval", "temperature"}
    ]
    for row in table.rows:
        present = [(i, n) for i in values if (n := row.cells[i].number) is not None and n.value > 0]
        for place in places:
            text = row.cells[place].text
            named = _NAMED_DIFFERENCE.match(text)
            cell = next((n for n in numbers(text) if n.unit in {"%", "x"}), None)
            if cell is None or len(present) != 2:
                continue
            pairs = [(a, b, table.header[j]) for i, a in present for j, b in present if i != j]
            if named:
                winner = [p for p in pairs if _names(named["name"], _other(table, present, p[2]))]
                pairs = winner or pairs
            yield row, cell, pairs


def _other(table: Table, present: list[tuple[int, Number]], base: str) -> str:
    return next((table.header[i] for i, _ in present if table.header[i] != base), "")


def _names(name: str, header: str) -> bool:
    return name.strip().lower() in header.lower()


def _fits(cell: Number, a: Number, b: Number) -> bool:
    ratio = a.value / b.value
    slack = ratio * (a.slack / a.value + b.slack / b.value)
    if cell.unit == "x":
        return abs(ratio - cell.value) <= slack + cell.slack + 1e-9
    return abs(100 * (ratio - 1) - cell.value) <= 100 * slack + cell.ulp / 2 + 1e-9


def _printed(row: Row, cell: Number) -> str:
    return next((c.text for c in row.cells if cell in numbers(c.text)), f"{cell.value:g}{cell.unit}")


@rule(
    "C206",
    "error",
    "Share of drafted tokens does not follow from τ and K",
    why="Of K drafted tokens a step accepts τ − 1, so the share accepted is (τ − 1) / K, for a chain.",
    fix="Take both from the same counters; for a tree, say what the share counts.",
)
def wrong_draft_rate(card: Card) -> Iterator[Violation]:
    """Report rows whose share of accepted drafted tokens does not follow from their τ and K."""
    for length in claims.acceptance_lengths(card):
        for i, header in enumerate(length.table.header):
            share = length.row.cells[i].number
            if not re.search(r"drafted (?:tokens )?accept|draft acceptance", header, re.I) or share is None:
                continue
            for k in length.ks if len(length.ks) == 1 else ():
                right = (length.number.value - 1) / k
                if abs(right - share.share) > share.slack + length.number.slack / k + 1e-9:
                    message = (
                        f"τ = {length.number.value:g} at K = {k} means {right:.1%}, not {share.value:g}{share.unit}"
                    )
                    yield Violation(length.row.line, message)


@rule(
    "C207",
    "warning",
    "Average is not that of its rows",
    why="A mean that cannot be checked may come from other rows; a pooled or weighted mean is another number, and the "
    "card must say so.",
    fix="Compute it again, or name the weights (pooled over rounds, mean of requests).",
)
def wrong_average(card: Card) -> Iterator[Violation]:
    """Report rows called average, mean or overall that differ from the mean of the other rows."""
    for section, table in card.tables:
        if re.search(r"pooled|weighted|geometric|harmonic", claims.text_around(table, section), re.I):
            continue
        for row in table.rows:
            if not _AVERAGE.match(row.label):
                continue
            for i in range(1, len(table.header)):
                others = [n for r, n in table.column(i) if r is not row]
                printed = row.cells[i].number
                if (
                    printed is None
                    or len(others) < 2
                    or claims.column_kind(table, i, section) in {"count", "k", "interval"}
                ):
                    continue
                mean = fmean(n.value for n in others)
                if abs(mean - printed.value) > (printed.ulp + max(n.ulp for n in others)) / 2 + 1e-9:
                    message = f"{table.header[i]}: the rows' mean is {mean:.4g}, “{row.label}” says {printed.value:g}"
                    yield Violation(row.line, message)


@rule(
    "C208",
    "error",
    "Interval does not contain its value",
    why="A confidence interval that leaves its own estimate out belongs to another number.",
    fix="Take both from the same run.",
)
def interval_without_value(card: Card) -> Iterator[Violation]:
    """Report rows whose interval does not contain their acceptance length."""
    for length in claims.acceptance_lengths(card):
        for i in range(len(length.table.header)):
            if claims.column_kind(length.table, i, length.section) != "interval":
                continue
            ends = [n.value for n in numbers(re.sub(r"(?<=\d)\s*[–-]\s*(?=\d)", " ", length.row.cells[i].text))]
            slack = length.number.slack
            if len(ends) == 2 and not ends[0] - slack <= length.number.value <= ends[1] + slack:
                message = f"τ = {length.number.value:g} is outside {ends[0]:g} … {ends[1]:g} ({length.row.label})"
                yield Violation(length.row.line, message)


@rule(
    "C209",
    "info",
    "One value is far from the others, without an explanation",
    why="A data set that runs several times slower than all others is the first thing a reader asks about.",
    fix="Say why (longer prompts, another language, another batch), or check the number.",
)
def outlier(card: Card) -> Iterator[Violation]:
    """Report throughputs far from their column's median, by a factor above 3, that no sentence explains."""
    for section, table, i in claims.columns_of_kind(card, "throughput"):
        values = table.column(i)
        if len(values) < 4:
            continue
        middle = median(n.value for _, n in values)
        for row, n in values:
            far = n.value > 0 and max(n.value / middle, middle / n.value) > _OUTLIER
            if far and not card.search(re.escape(row.label), tables=False) and i == _first(card, section, table):
                yield Violation(row.line, f"{row.label} is {n.value:g}, the others are around {middle:.4g}")


def _first(card: Card, section: Section, table: Table) -> int:
    return next(i for s, t, i in claims.columns_of_kind(card, "throughput") if t is table and s is section)
