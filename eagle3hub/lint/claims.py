"""Find the numbers a card claims: acceptance lengths, rates by position, throughput, and their K and T."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import TypeVar

from eagle3hub.lint.model import Card, Heading, Number, Prose, Row, Section, Table, numbers

T = TypeVar("T")

TRAINING = r"\btrain"
"""A section is about training if a heading matches this; its hardware and batch sizes are not a measurement's."""

HARDWARE = (
    r"\b(?:[AHV]100|[AH]800|A10G?|A30|A40|A6000|H20|H200|B[123]00|G[BH][23]00|L4|L40S?|T4|P100|MI\d{3}[A-Z]?|"
    r"RTX ?(?:PRO ?)?\w?\d{4}|GTX ?\d{4}|TPU ?v?\d\w*|Gaudi ?\d?|Xeon|EPYC|Core i\d|Apple M\d|Ascend \w+|"
    r"CPUs?|DGX|Trainium\d?)\b"
)
"""The names of accelerators and processors."""

_LENGTH = re.compile(
    r"accept\w*[ _-](?:draft )?len|\btau\b|τ|(?-i:\bM?AL\b)|mean accepted|tokens? (?:per|/) ?"
    r"(?:\w+ ){0,2}(?:step|round|verification|pass)",
    re.I,
)
_RATE = re.compile(r"accept\w*[ _-](?:rate|prob|ratio)|acc[_ ]?rate|\bα\b|marginal|conditional", re.I)
_THROUGHPUT = re.compile(r"throughput|tok(?:en)?s?\s?(?:/|per)\s?s|\bTPS\b|\btok/s", re.I)
_SPEEDUP = re.compile(r"speed-?\s?up|acceleration ratio|\bspeed\b.{0,30}\brelative", re.I | re.DOTALL)
_DIFFERENCE = re.compile(r"\bdiff|Δ|delta|\bchange\b|\bgain\b|improve|\bvs\b|relative", re.I)
_INTERVAL = re.compile(r"interval|95 ?%|\bCI\b|±|\bstd\b|\bSE\b|deviation", re.I)
_K = re.compile(r"^k$|draft(?:ed)?[ _](?:tokens?|len)|spec\w*[ _](?:tokens|steps)|num[_ ](?:spec|steps)", re.I)
_COUNT_OF = re.compile(r"\s*[\d,]+ (?:of|/) [\d,]+\b")
"""``6 of 22`` is a count, whatever the header of its column says."""
_COUNT = re.compile(r"^n$|prompts|samples|questions|requests|rounds|\bsize\b|parameters|count", re.I)
_TEMPERATURE = re.compile(r"^t$|^temp", re.I)
_OTHER = re.compile(
    r"latency|\bms\b|loss|accuracy|memory|\bGB\b|score|pass@|\bcost|epoch|\bstep\b|time|perplexity|hours", re.I
)
_DESCRIBED = (("difference", _DIFFERENCE), ("interval", _INTERVAL), ("k", _K), ("temperature", _TEMPERATURE))
_MEASURED = (("speedup", _SPEEDUP), ("throughput", _THROUGHPUT), ("length", _LENGTH), ("rate", _RATE))
_POSITION = re.compile(r"^(?:position|pos|#)?[ .#]*\d+$|\bacc_?\d|\bpos(?:ition)?[ _-]?\d|^\d(?:st|nd|rd|th)\b", re.I)

MEASURED_K = re.compile(
    r"\bK\s*=\s*(\d+)|draft(?:ing)?[ -](?:length|depth)\s*(?:of|=|:)?\s*(\d+)"
    r"|\b(\d+) (?:draft(?:ed)?|speculative) tokens|num[_ ]speculative[_ ]tokens\W+(\d+)"
    r"|speculative[_-]num[_-]steps\W+(\d+)",
    re.I,
)
EXAMPLE_K = re.compile(
    r"num_speculative_tokens[\"']?\s*[:=]\s*(\d+)|speculative[_-]num[_-]steps[\"']?\s*[ =:]\s*(\d+)"
    r"|max_draft_len\s*[:=]\s*(\d+)"
)
MEASURED_T = re.compile(
    r"\btemp(?:erature)?\s*(?:=|:|of|is)?\s*(\d(?:\.\d+)?)(?!\d)|\bT\s*=\s*(\d(?:\.\d+)?)(?!\d)", re.I
)
_GREEDY = re.compile(r"\bgreed(?:y|ily) (?:decod|sampl|generat|output)|\bgreedy\b.{0,20}\btarget", re.I)


@dataclass(frozen=True, slots=True)
class AcceptanceLength:
    """An acceptance length in a table.

    ``ks`` are the values of K that it may have been measured with; empty if the card does not say.
    """

    row: Row
    number: Number
    header: str
    table: Table
    section: Section
    ks: frozenset[int]


@dataclass(frozen=True, slots=True)
class RateSeries:
    """Rates by draft position, from the first on. ``kind`` is ``marginal`` or ``conditional``, or None if unnamed."""

    line: int
    rates: tuple[Number, ...]
    lines: tuple[int, ...]
    name: str
    kind: str | None
    section: Section
    is_training_accuracy: bool


def _once(function: Callable[[Card], T]) -> Callable[[Card], T]:
    @wraps(function)
    def cached(card: Card) -> T:
        key = function.__name__
        if key not in card.cache:
            card.cache[key] = function(card)
        found: T = card.cache[key]
        return found

    return cached


def column_kind(table: Table, index: int, section: Section) -> str:
    """Return what a column holds, from its header or else from the text around the table.

    One of: length, rate, throughput, speedup, difference, interval, k, temperature, temperature_column, count, label,
    other.
    """
    if named := _by_header(table.header[index]):
        return named
    if index == 0 or not table.column(index):
        return "label"
    if _OTHER.search(table.header[index]):
        return "other"
    taken = {_by_header(header) for header in table.header}
    around = text_before(table, section)
    matches = [(m.start(), name) for name, p in _MEASURED if name not in taken for m in p.finditer(around)]
    return max(matches)[1] if matches else "other"


def _by_header(header: str) -> str | None:
    for name, pattern in (*_DESCRIBED, *_MEASURED, ("count", _COUNT)):
        if pattern.search(header):
            return "temperature_column" if name == "temperature" and numbers(header) else name
    return None


def text_before(table: Table, section: Section) -> str:
    """Return the nearest heading and the paragraph before a table, which say what the table shows."""
    before = [b for b in section.blocks if isinstance(b, Prose) and b.line < table.line]
    heading = section.path[-1].text if section.path else ""
    return "\n".join([heading, *(b.text for b in before[-1:])])


def text_around(table: Table, section: Section) -> str:
    """Return `text_before`, the header, and the paragraph after the table."""
    after = [b.text for b in section.blocks if isinstance(b, Prose) and b.line > table.line]
    return "\n".join([text_before(table, section), " ".join(table.header), *after[:1]])


def columns_of_kind(card: Card, wanted: str) -> Iterator[tuple[Section, Table, int]]:
    """Yield every column of a kind that holds numbers."""
    for section, table in card.tables:
        for i in range(len(table.header)):
            found = column_kind(table, i, section)
            is_wanted = found == wanted or (wanted == "length" and _lengths_by_temperature(table, section, found))
            if is_wanted and table.column(i):
                yield section, table, i


def _lengths_by_temperature(table: Table, section: Section, found: str) -> bool:
    return found == "temperature_column" and bool(_LENGTH.search(text_before(table, section)))


@_once
def acceptance_lengths(card: Card) -> list[AcceptanceLength]:
    """Return every acceptance length in the card's tables, from a column or a row of that name.

    A rate above 1 without a unit counts as a length, unless the card calls it marginal or conditional.
    """
    found = []
    for wanted in ("length", "rate"):
        for section, table, i in columns_of_kind(card, wanted):
            values = table.column(i)
            if wanted == "rate" and (_word(text_before(table, section)) or not _are_lengths(values)):
                continue
            if any(n.unit == "%" for _, n in values) or max(n.value for _, n in values) > 100:
                continue
            for row, number in values:
                header = table.header[i]
                if _COUNT_OF.match(row.cells[i].text):
                    continue
                found.append(AcceptanceLength(row, number, header, table, section, _ks(table, row, section)))
    tables = {x.table.line for x in found}
    for section, table in card.tables:
        for row in table.rows:
            if table.line not in tables and _LENGTH.search(row.label) and not _COUNT.search(row.label):
                values_ = [
                    c.number for c in row.cells[1:] if c.number and c.number.unit == "" and c.number.value < 100
                ]
                found += [
                    AcceptanceLength(row, n, row.label, table, section, _ks(table, row, section)) for n in values_
                ]
    return found


def _are_lengths(values: Sequence[tuple[Row, Number]]) -> bool:
    return all(1 < n.value < 20 and n.unit == "" for _, n in values)


def _ks(table: Table, row: Row, section: Section) -> frozenset[int]:
    for i, name in enumerate(table.header):
        if _K.search(name) and (n := row.cells[i].number) and n.ulp == 1:
            return frozenset({int(n.value)})
    return frozenset(found_numbers(MEASURED_K, text_around(table, section)))


def found_numbers(pattern: re.Pattern[str], text: str) -> list[int]:
    """Return the number of each match, from the group that matched."""
    return [int(float(next(g for g in m.groups() if g))) for m in pattern.finditer(text)]


@_once
def measured_ks(card: Card) -> dict[int, int]:
    """Return every K in the card's text, outside code, with the first line that names it."""
    out: dict[int, int] = {}
    for hit in card.search(MEASURED_K.pattern, outside=r"\b(?:usage|serve|serving|quick start|inference)\b"):
        out.setdefault(int(next(g for g in hit.match.groups() if g)), hit.line)
    for length in acceptance_lengths(card):
        for k in length.ks:
            out.setdefault(k, length.table.line)
    return out


@_once
def example_ks(card: Card) -> list[tuple[int, int]]:
    """Return every K that an example sets, as (K, line)."""
    return [(int(found_numbers(EXAMPLE_K, m[0])[0]), line) for line, m in code_matches(card, EXAMPLE_K)]


def code_matches(card: Card, pattern: re.Pattern[str]) -> Iterator[tuple[int, re.Match[str]]]:
    """Yield every match of a pattern in code that is not BibTeX, with its line."""
    for block in card.code:
        if block.language != "bibtex":
            for m in pattern.finditer(block.text):
                yield block.line + block.text.count("\n", 0, m.start()), m


def temperatures(text: str) -> set[float]:
    """Return the temperatures that a text names; greedy decoding is 0."""
    named = {float(next(g for g in m.groups() if g)) for m in MEASURED_T.finditer(text)}
    return named | ({0.0} if _GREEDY.search(text) else set())


@_once
def rate_series(card: Card) -> list[RateSeries]:
    """Return every series of rates by position: down a column, along a row, or in a sentence."""
    found: list[RateSeries] = []
    for section, table in card.tables:
        found += _down(table, section)
        found += _along(table, section)
    for section, prose in card.blocks_of(Prose):
        found += _in_sentence(prose, section)
    return found


def _down(table: Table, section: Section) -> Iterator[RateSeries]:
    rows = [row for row in table.rows if _POSITION.search(row.label)]
    if len(rows) < 2 or len(rows) != len(table.rows):
        return
    for i, header in enumerate(table.header[1:], 1):
        values = [n for row in rows if (n := row.cells[i].number) is not None]
        said = bool(_RATE.search(header)) or all(n.share <= 1 + n.slack for n in values)
        if said and column_kind(table, i, section) == "rate" and len(values) == len(rows):
            accuracy = any(re.search(r"\bacc_?\d", row.label) for row in rows)
            name = header if _RATE.search(header) else text_before(table, section).split("\n")[0]
            yield RateSeries(
                table.line, tuple(values), tuple(row.line for row in rows), name, _named(header, table, section),
                section, accuracy,
            )  # fmt: skip


def _along(table: Table, section: Section) -> Iterator[RateSeries]:
    places = [i for i, h in enumerate(table.header) if _POSITION.search(h) and not re.fullmatch(r"\d{3,}", h.strip())]
    if len(places) < 2 or places != list(range(places[0], places[-1] + 1)):
        return
    for row in table.rows:
        values = [n for i in places if (n := row.cells[i].number) is not None]
        if len(values) == len(places) and all(n.share <= 1 + n.slack for n in values):
            accuracy = any(re.search(r"\bacc_?\d", table.header[i]) for i in places)
            kind_ = _named(table.header[places[0]], table, section)
            lines = (row.line,) * len(values)
            yield RateSeries(row.line, tuple(values), lines, row.label, kind_, section, accuracy)


_LIST = re.compile(r"(?:\d*\.\d+|\d+(?:\.\d+)?%)(?:\s*(?:,|/|;|,? and)\s*(?:\d*\.\d+|\d+(?:\.\d+)?%)){1,}")
_BY_POSITION = re.compile(r"(?:per|by|each)[- ](?:draft )?position|positions? \d", re.I)


def _in_sentence(prose: Prose, section: Section) -> Iterator[RateSeries]:
    for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z])", prose.text):
        if not (_BY_POSITION.search(sentence) and _RATE.search(sentence)):
            continue
        for m in _LIST.finditer(sentence):
            values = tuple(n for n in numbers(m[0]) if n.share <= 1 + n.slack)
            if len(values) < 2:
                continue
            line = prose.line + prose.text.count("\n", 0, prose.text.find(m[0]))
            yield RateSeries(line, values, (line,) * len(values), m[0], _word(sentence), section, False)


def _named(header: str, table: Table, section: Section) -> str | None:
    return _word(header) or _word(text_around(table, section))


def _word(text: str) -> str | None:
    """Return ``marginal`` or ``conditional`` if the text means exactly one of them, else None."""
    marginal = re.search(r"\bmarginal|\bjoint\b|cumulative|unconditional|share of (?:all )?rounds", text, re.I)
    conditional = re.search(r"(?<!un)\bconditional|\bgiven (?:that )?(?:the|all|every)|n-α", text, re.I)
    if bool(marginal) == bool(conditional):
        return None
    return "marginal" if marginal else "conditional"


def in_same_part(a: Section, b: Section) -> bool:
    """Return whether two sections belong to the same level-2 part of the card."""
    return _part(a) == _part(b)


def _part(section: Section) -> Heading | None:
    return next((h for h in section.path if h.level >= 2), None)
