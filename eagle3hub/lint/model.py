"""Define what a rule of the linter sees, what it reports, and the registry of all rules."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from eagle3hub.errors import Severity
from eagle3hub.system.documents import Document

if TYPE_CHECKING:
    from eagle3hub.card.served import Served

# The parts of a parsed card: metadata, headings, prose, tables of typed numbers, code, links, BibTeX
#
# Line numbers start at 1 and count the lines of the original file. This section only describes; the rules judge.


_NUMBER = re.compile(
    r"(?<![\w.])(?<!\w-)(?P<sign>[-+−]?)(?P<digits>\d[\d,]*(?:\.\d+)?|\.\d+)(?:\s?(?P<unit>%|[x×](?!\w))|(?!\w))"
)


@dataclass(frozen=True, slots=True)
class Number:
    """One number as printed. ``value`` of ``31.4%`` is 31.4; ``ulp`` is one unit of its last printed digit."""

    value: float
    unit: str
    ulp: float

    @property
    def share(self) -> float:
        """The value as a fraction: 0.314 for 31.4%."""
        return self.value / 100 if self.unit == "%" else self.value

    @property
    def slack(self) -> float:
        """The largest rounding error of `share`."""
        return self.ulp / (200 if self.unit == "%" else 2)


def numbers(text: str) -> list[Number]:
    """Return every number in a text, such as ``+2.8%``, ``1,866`` or ``1.35x``."""
    out = []
    for m in _NUMBER.finditer(text):
        digits = m["digits"].replace(",", "")
        decimals = len(digits.partition(".")[2])
        sign = -1 if m["sign"] in {"-", "−"} else 1
        out.append(Number(sign * float(digits), (m["unit"] or "").replace("×", "x"), 10.0**-decimals))
    return out


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a table. ``number`` is set if the cell is a number, possibly with an error or a unit."""

    text: str
    number: Number | None

    @classmethod
    def of(cls, text: str) -> Cell:
        """Make a cell from its text."""
        found = numbers(text)
        rest = re.sub(r"^[\s~≈*]*", "", text)
        return cls(text, found[0] if found and re.match(r"[-+−.]?\d", rest) else None)


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table's body."""

    line: int
    cells: tuple[Cell, ...]

    @property
    def label(self) -> str:
        """The text of the first cell."""
        return self.cells[0].text if self.cells else ""


@dataclass(frozen=True, slots=True)
class Table:
    """A table. Every row has as many cells as ``header``."""

    line: int
    header: tuple[str, ...]
    rows: tuple[Row, ...]

    def column(self, index: int) -> list[tuple[Row, Number]]:
        """Return the numbers of one column with their rows. Cells that are not numbers are left out."""
        return [(row, n) for row in self.rows if (n := row.cells[index].number) is not None]

    @property
    def text(self) -> str:
        """Header and cells as one text."""
        return "\n".join([" ".join(self.header), *(" ".join(c.text for c in row.cells) for row in self.rows)])


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading. ``level`` 1 is the title."""

    line: int
    level: int
    text: str


@dataclass(frozen=True, slots=True)
class Prose:
    """A paragraph or list item as plain text. It starts on ``line`` and keeps the file's line breaks."""

    line: int
    text: str


@dataclass(frozen=True, slots=True)
class Code:
    """A code block.

    Attributes:
        line: the line of the first line of ``text``.
        language: the language that the block names, in lower case.
    """

    line: int
    language: str
    text: str


@dataclass(frozen=True, slots=True)
class Link:
    """A link or an image. ``target`` is the address as written."""

    line: int
    target: str
    text: str
    image: bool = False


@dataclass(frozen=True, slots=True)
class Tag:
    """A start tag of raw HTML. The names in ``attributes`` are in lower case."""

    line: int
    name: str
    attributes: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Entry:
    """A BibTeX entry. ``fields`` maps lower-case names to plain values; an author is (first names, last name)."""

    line: int
    key: str
    kind: str
    fields: Mapping[str, str]
    authors: tuple[tuple[str, str], ...]
    lines: Mapping[str, int]

    @property
    def arxiv(self) -> str | None:
        """The first arXiv id in the fields that may hold one, or None."""
        for name in ("eprint", "journal", "url", "note", "howpublished", "volume", "doi"):
            if m := re.search(r"\b(\d{4}\.\d{4,5})(?:v\d+)?\b", self.fields.get(name, "")):
                return m[1]
        return None


Block = Heading | Prose | Table | Code


@dataclass(frozen=True, slots=True)
class Section:
    """The blocks between a heading and the next one.

    ``path`` holds this heading and those above it, outermost first.
    """

    path: tuple[Heading, ...]
    blocks: tuple[Block, ...]

    @property
    def title(self) -> str:
        """The headings of ``path`` as one text."""
        return " / ".join(h.text for h in self.path)


@dataclass(frozen=True)
class Card:
    """A parsed card.

    Attributes:
        name: the name of the file in messages and in SARIF.
        text: the text of the file. Every line ends with a line feed alone.
        body: the text without the metadata block.
        front: the metadata block; None if there is none or it cannot be read.
        front_error: (line, reason) if the metadata block cannot be read.
        is_page_text: whether the text was copied from a rendered page, which loses metadata, links and markup.
        bad_bibtex: (line, reason) for each BibTeX entry that cannot be parsed.
        files: the paths in the card's repository; None if they are not known.
        served: the opened heads beside the card, one per folder; empty if they are not available.
        repo: the id of the card's repository; None if it is not known.
        cache: results that rules share, by the name of the function that computed them.
    """

    name: str
    text: str
    body: str
    front: Document | None = None
    front_error: tuple[int, str] | None = None
    is_page_text: bool = False
    sections: tuple[Section, ...] = ()
    links: tuple[Link, ...] = ()
    tags: tuple[Tag, ...] = ()
    bibtex: tuple[Entry, ...] = ()
    bad_bibtex: tuple[tuple[int, str], ...] = ()
    files: frozenset[str] | None = None
    served: tuple[Served, ...] = ()
    repo: str | None = None
    cache: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The fields of the metadata block; empty if there is no block."""
        return self.front.data if self.front is not None and isinstance(self.front.data, dict) else {}

    def metadata_line(self, *location: str | int) -> int:
        """Return the line of a metadata field, or 1 if there is no such field."""
        known = self.front is not None and location[:1] and location[0] in self.metadata
        return self.front.line(location) if self.front is not None and known else 1

    def listed(self, field_name: str) -> list[str]:
        """Return a metadata field as a list of texts, whether the card gives one value or several."""
        value = self.metadata.get(field_name)
        values = value if isinstance(value, list) else [] if value is None else [value]
        return [str(v) for v in values if not isinstance(v, dict | list)]

    def blocks_of(self, kind: type[Any]) -> Iterator[tuple[Section, Any]]:
        """Yield every block of a kind with its section."""
        for section in self.sections:
            for block in section.blocks:
                if isinstance(block, kind):
                    yield section, block

    @property
    def code(self) -> list[Code]:
        """Every code block."""
        return [block for _, block in self.blocks_of(Code)]

    @property
    def tables(self) -> list[tuple[Section, Table]]:
        """Every table with its section."""
        return list(self.blocks_of(Table))

    def search(self, pattern: str, *, outside: str | None = None, tables: bool = True) -> list[Hit]:
        """Return every match of a pattern in headings, prose and tables, sorted by line.

        The search ignores case, and a line break counts as a space.

        Args:
            outside: skip the sections whose headings match this pattern.
            tables: also search tables.
        """
        found = []
        wanted = re.compile(pattern, re.I)
        for section in self.sections:
            if outside and re.search(outside, section.title, re.I):
                continue
            for line, text in _texts(section, tables):
                for m in wanted.finditer(text.replace("\n", " ")):
                    found.append(Hit(line + text.count("\n", 0, m.start()), m, section))
        return sorted(found, key=lambda hit: hit.line)

    def says(self, pattern: str, *, outside: str | None = None) -> bool:
        """Return whether `search` finds anything."""
        return bool(self.search(pattern, outside=outside))


@dataclass(frozen=True, slots=True)
class Hit:
    """A match of a pattern in the card's text."""

    line: int
    match: re.Match[str]
    section: Section


def _texts(section: Section, tables: bool) -> Iterator[tuple[int, str]]:
    if section.path:
        yield section.path[-1].line, section.path[-1].text
    for block in section.blocks:
        if isinstance(block, Prose):
            yield block.line, block.text
        elif isinstance(block, Table) and tables:
            yield block.line, " | ".join(block.header)
            for row in block.rows:
                yield row.line, " | ".join(c.text for c in row.cells)


# Rules and findings


FAMILIES = {
    "C0": "The file",
    "C1": "Citations",
    "C2": "Numbers",
    "C3": "Words",
    "C4": "Conditions of a measurement",
    "C5": "Recipes",
    "C6": "License and metadata",
    "C7": "Links and content",
    "C8": "Claims and data sets",
}
"""The title of each family, by the first two characters of its codes."""


@dataclass(frozen=True, slots=True)
class Violation:
    """What a rule yields. ``fix`` and ``severity`` are None unless they differ from the rule's own."""

    line: int
    message: str
    fix: str | None = None
    severity: Severity | None = None


RuleFunction = Callable[[Card], Iterable[Violation]]


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule: its stable code, the severity of its findings, and the texts of its documentation."""

    code: str
    severity: Severity
    title: str
    why: str
    fix: str
    check: RuleFunction

    @property
    def family(self) -> str:
        """The title of the family that the code belongs to."""
        return FAMILIES[self.code[:2]]


@dataclass(frozen=True, slots=True)
class Finding:
    """A finding. ``message`` says what is wrong here, ``why`` says why it matters, ``fix`` says what to do."""

    code: str
    severity: Severity
    line: int
    message: str
    why: str
    fix: str

    def to_json(self) -> dict[str, Any]:
        """Return the finding as an entry of ``findings`` in ``card --check --json``."""
        return asdict(self)


RULES: dict[str, Rule] = {}
"""Every rule by its code. A code is never reused for another rule."""


def rule(code: str, severity: Severity, title: str, *, why: str, fix: str) -> Callable[[RuleFunction], RuleFunction]:
    """Register a function as a rule. Raises ValueError if the code is taken or belongs to no family."""

    def register(check: RuleFunction) -> RuleFunction:
        if code in RULES or code[:2] not in FAMILIES or len(code) != 4:
            raise ValueError(f"the code {code} is taken or belongs to no known family")
        RULES[code] = Rule(code, severity, title, why, fix, check)
        return check

    return register


def run_rule(rule: Rule, card: Card) -> Iterable[Finding]:
    """Yield the findings of one rule in a card."""
    for found in rule.check(card):
        yield Finding(
            rule.code, found.severity or rule.severity, found.line, found.message, rule.why, found.fix or rule.fix
        )
