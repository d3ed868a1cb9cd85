"""What a rule of the linter sees, what it may report, and the list of all rules."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from eagle3hub.errors import Severity
from eagle3hub.system.documents import Document

if TYPE_CHECKING:
    from eagle3hub.card.served import Served

# A model card taken apart: metadata, headings, prose, tables of typed numbers, code, links, BibTeX.
#
# Lines are 1-based and those of the file as it was given. Nothing here judges; the rules do.


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
        """The value as a fraction: 31.4% is 0.314."""
        return self.value / 100 if self.unit == "%" else self.value

    @property
    def slack(self) -> float:
        """Largest rounding error of `share`."""
        return self.ulp / (200 if self.unit == "%" else 2)


def numbers(text: str) -> list[Number]:
    """Every number in a text: ``+2.8%``, ``1,866``, ``1.35x``."""
    out = []
    for m in _NUMBER.finditer(text):
        digits = m["digits"].replace(",", "")
        decimals = len(digits.partition(".")[2])
        sign = -1 if m["sign"] in {"-", "−"} else 1
        out.append(Number(sign * float(digits), (m["unit"] or "").replace("×", "x"), 10.0**-decimals))
    return out


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a table; ``number`` is set where the cell is a number, perhaps with its error or unit."""

    text: str
    number: Number | None

    @classmethod
    def of(cls, text: str) -> Cell:
        """The cell of a text."""
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
        """The numbers of one column, with their rows; cells that are not numbers are left out."""
        return [(row, n) for row in self.rows if (n := row.cells[index].number) is not None]

    @property
    def text(self) -> str:
        """Header and cells as one text."""
        return "\n".join([" ".join(self.header), *(" ".join(c.text for c in row.cells) for row in self.rows)])


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading; ``level`` 1 is the title."""

    line: int
    level: int
    text: str


@dataclass(frozen=True, slots=True)
class Prose:
    """A paragraph or list item as plain text that starts on ``line`` and keeps the file's line breaks."""

    line: int
    text: str


@dataclass(frozen=True, slots=True)
class Code:
    """A code block: the language named, lower case, and its text; ``line`` is that of the first line of the text."""

    line: int
    language: str
    text: str


@dataclass(frozen=True, slots=True)
class Link:
    """A link or an image with the address as written."""

    line: int
    target: str
    text: str
    image: bool = False


@dataclass(frozen=True, slots=True)
class Tag:
    """A start tag of raw HTML; ``attributes`` with lower-case names."""

    line: int
    name: str
    attributes: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Entry:
    """A BibTeX entry: plain field values by lower-case name, authors as (first names, last name)."""

    line: int
    key: str
    kind: str
    fields: Mapping[str, str]
    authors: tuple[tuple[str, str], ...]
    lines: Mapping[str, int]

    @property
    def arxiv(self) -> str | None:
        """The arXiv id the entry names in any of its fields."""
        for name in ("eprint", "journal", "url", "note", "howpublished", "volume", "doi"):
            if m := re.search(r"\b(\d{4}\.\d{4,5})(?:v\d+)?\b", self.fields.get(name, "")):
                return m[1]
        return None


Block = Heading | Prose | Table | Code


@dataclass(frozen=True, slots=True)
class Section:
    """A heading's own blocks, those before the next heading; ``path`` holds the headings above it, outermost first."""

    path: tuple[Heading, ...]
    blocks: tuple[Block, ...]

    @property
    def title(self) -> str:
        """The headings that lead here, as one text."""
        return " / ".join(h.text for h in self.path)


@dataclass(frozen=True)
class Card:
    """A parsed card.

    Attributes:
        name: what messages and SARIF call the file.
        text: the file's text, its lines ended by a line feed alone.
        body: the same without the metadata block.
        front: the metadata block, or None where there is none or it cannot be read.
        front_error: (line, why) of a metadata block that cannot be read.
        is_page_text: the text was copied from a rendered page, so that metadata, links and markup are lost.
        bad_bibtex: (line, why) of BibTeX that cannot be parsed.
        files: paths in the card's repository, or None where they are not known.
        served: the heads beside the card, by folder, opened; empty where they are not at hand.
        repo: id of the card's repository, or None where it is not known.
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
        """The metadata block's fields; empty where there is none."""
        return self.front.data if self.front is not None and isinstance(self.front.data, dict) else {}

    def metadata_line(self, *location: str | int) -> int:
        """Line of a metadata field; the first line where there is no such field."""
        known = self.front is not None and location[:1] and location[0] in self.metadata
        return self.front.line(location) if self.front is not None and known else 1

    def listed(self, field_name: str) -> list[str]:
        """A metadata field as a list of texts, whether one or several were given."""
        value = self.metadata.get(field_name)
        values = value if isinstance(value, list) else [] if value is None else [value]
        return [str(v) for v in values if not isinstance(v, dict | list)]

    def of(self, kind: type[Any]) -> Iterator[tuple[Section, Any]]:
        """Every block of a kind, with its section."""
        for section in self.sections:
            for block in section.blocks:
                if isinstance(block, kind):
                    yield section, block

    @property
    def code(self) -> list[Code]:
        """Every code block."""
        return [block for _, block in self.of(Code)]

    @property
    def tables(self) -> list[tuple[Section, Table]]:
        """Every table, with its section."""
        return list(self.of(Table))

    def search(self, pattern: str, *, outside: str | None = None, tables: bool = True) -> list[Hit]:
        """Where a pattern (case-insensitive) stands in headings, prose and tables; line breaks count as spaces.

        ``outside``: sections whose headings match this pattern are left out.
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
        """Whether `search` finds anything."""
        return bool(self.search(pattern, outside=outside))


@dataclass(frozen=True, slots=True)
class Hit:
    """A pattern found in the card's text."""

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


# Rules and what they find. A rule is a function of the card, registered with everything its documentation says.


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
"""Title of each family, by the first two characters of its codes."""


@dataclass(frozen=True, slots=True)
class Violation:
    """What a rule yields: where, what, and a fix or a severity where they differ from the rule's own."""

    line: int
    message: str
    fix: str | None = None
    severity: Severity | None = None


RuleFunction = Callable[[Card], Iterable[Violation]]


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: its stable code, how bad a finding is, and what its documentation says."""

    code: str
    severity: Severity
    title: str
    why: str
    fix: str
    check: RuleFunction

    @property
    def family(self) -> str:
        """Title of the family the code belongs to."""
        return FAMILIES[self.code[:2]]


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding: ``message`` says what is wrong here, ``why`` why it matters, ``fix`` what to do."""

    code: str
    severity: Severity
    line: int
    message: str
    why: str
    fix: str

    def to_json(self) -> dict[str, Any]:
        """The finding as an entry of ``findings`` in ``card --check --json``."""
        return asdict(self)


RULES: dict[str, Rule] = {}
"""Every rule by its code. A code is never given to another rule."""


def rule(code: str, severity: Severity, title: str, *, why: str, fix: str) -> Callable[[RuleFunction], RuleFunction]:
    """Register a function as a rule. Raises ValueError for a code that is taken or of no family."""

    def register(check: RuleFunction) -> RuleFunction:
        if code in RULES or code[:2] not in FAMILIES or len(code) != 4:
            raise ValueError(f"{code} is taken, or is no code of a known family")
        RULES[code] = Rule(code, severity, title, why, fix, check)
        return check

    return register


def run_rule(rule: Rule, card: Card) -> Iterable[Finding]:
    """What one rule finds in a card."""
    for found in rule.check(card):
        yield Finding(
            rule.code, found.severity or rule.severity, found.line, found.message, rule.why, found.fix or rule.fix
        )
