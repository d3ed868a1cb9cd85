"""Define what a rule of the linter sees, what it reports, and the registry of all rules."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
    r"(?<![\w.])(?<!\w-)(?:(?P<times>(?<!\d)(?<!\d\s)(?:×\s?|x(?=\d+\.\d)))|(?P<sign>[-+−]?))"
    r"(?P<digits>\d[\d,]*(?:\.\d+)?|\.\d+)(?:\s?(?P<unit>%|[x×](?!\w)(?!\s?\d)|倍)|(?![A-Za-z_\d]))"
)
_NUMBER_FIRST = re.compile(
    r"[\s~≈*(]*(?:(?:τ|tau)\s?[=:≈]?\s*)?(?:about |approx\.? |约 ?)?(?:×\s?|x(?=\d+\.\d))?[-+−.]?\d"
)
_FORMULA = re.compile(r"[\s(]*\d+\s*[+−-]\s+[A-Za-zΣ∑(]")
"""``1 + accepted / drafts`` is no number."""
_PAIR = re.compile(
    r"(?P<a>\d[\d,]*(?:\.\d+)?)\s*(?P<unit>[A-Za-z%/]{0,12})\s*(?:→|⇒|➜|⟶|-{1,2}>|=>)\s*(?P<b>\d[\d,]*(?:\.\d+)?)"
)


_ARROWS = frozenset("→⇒➜⟶>")


@dataclass(frozen=True, slots=True)
class Number:
    """One number as printed. ``value`` of ``31.4%`` is 31.4; ``ulp`` is one unit of its last printed digit.

    ``unit`` is ``%``, ``x`` (for a factor: ``1.35x``, ``×1.35``, ``1.35 倍``) or empty; ``signed`` says whether a sign
    is printed.
    """

    value: float
    unit: str
    ulp: float
    signed: bool = False

    @property
    def share(self) -> float:
        """The value as a fraction: 0.314 for 31.4%."""
        return self.value / 100 if self.unit == "%" else self.value

    @property
    def slack(self) -> float:
        """The largest rounding error of `share`."""
        return self.ulp / (200 if self.unit == "%" else 2)

    def agrees(self, other: Number) -> bool:
        """Whether both may be one number, rounded as each is printed; units are not looked at."""
        return abs(self.value - other.value) <= (self.ulp + other.ulp) / 2 + 1e-9


def numbers(text: str) -> list[Number]:
    """Return every number in a text, such as ``+2.8%``, ``1,866``, ``1.35x`` or ``×1.35``."""
    return [_number(m) for m in _NUMBER.finditer(text)]


def _number(m: re.Match[str]) -> Number:
    sign = -1 if m["sign"] in {"-", "−"} else 1
    unit = "x" if m["times"] or m["unit"] in {"×", "倍"} else m["unit"] or ""
    value, ulp = _value(m["digits"])
    return Number(sign * value, unit, ulp, bool(m["sign"]))


def _value(digits: str) -> tuple[float, float]:
    plain = digits.replace(",", "")
    return float(plain), 10.0 ** -len(plain.partition(".")[2])


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a table. ``number`` is set if the cell is a number, possibly with an error or a unit."""

    text: str
    number: Number | None

    @classmethod
    def of(cls, text: str) -> Cell:
        """Make a cell from its text."""
        found = _NUMBER.search(text) if _NUMBER_FIRST.match(text) and not _FORMULA.match(text) else None
        return cls(text, None if found is None else _number(found))

    @property
    def pair(self) -> tuple[Number, Number] | None:
        """The two numbers of a cell such as ``207.83 → 268.62``, or None."""
        m = _PAIR.search(self.text) if _ARROWS & set(self.text) else None
        return (Number(*_numbered(m["a"])), Number(*_numbered(m["b"]))) if m else None


def _numbered(digits: str) -> tuple[float, str, float]:
    value, ulp = _value(digits)
    return value, "", ulp


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table's body. ``label`` is the text of its first cells, up to the first that is a number.

    ``lines`` are those of its cells, where they stand on different ones: in a table that was turned.
    """

    line: int
    cells: tuple[Cell, ...]
    label: str
    lines: tuple[int, ...] = ()

    def at(self, index: int) -> int:
        """Return the line of a cell."""
        return self.lines[index] if self.lines else self.line


@dataclass(frozen=True, slots=True)
class Table:
    """A table in Markdown or HTML. Every row has as many cells as ``header``.

    A header of two rows is one here, with the words of both; a merged cell stands in every place that it covers.

    Attributes:
        heading: the nearest heading above the table.
        before: the ends of the two paragraphs before the table, in the same section, with an empty line between them.
        after: the start of the paragraph after the table, in the same section.
        is_list: whether it was printed as a list of names and values.
        cache: what rules found out about the table.
    """

    line: int
    header: tuple[str, ...]
    rows: tuple[Row, ...]
    heading: str = ""
    before: str = ""
    after: str = ""
    is_list: bool = False
    cache: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def column(self, index: int) -> list[tuple[Row, Number]]:
        """Return the numbers of one column with their rows. Cells that are not numbers are left out."""
        key = f"column {index}"
        if key not in self.cache:
            self.cache[key] = [(row, n) for row in self.rows if (n := row.cells[index].number) is not None]
        found: list[tuple[Row, Number]] = self.cache[key]
        return found

    @property
    def text(self) -> str:
        """Header and cells as one text: a line for the header and one for each row."""
        if "text" not in self.cache:
            rows = (" | ".join(c.text for c in row.cells).replace("\n", " ") for row in self.rows)
            self.cache["text"] = "\n".join([" | ".join(self.header).replace("\n", " "), *rows])
        found: str = self.cache["text"]
        return found


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading. ``level`` 1 is the title."""

    line: int
    level: int
    text: str


@dataclass(frozen=True, slots=True)
class Prose:
    """A paragraph or list item as plain text. It starts on ``line`` and keeps the file's line breaks.

    ``item`` is the number of its list in the file, 0 outside of lists.
    """

    line: int
    text: str
    item: int = 0


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

    @property
    def is_data(self) -> bool:
        """Whether the block prints data as JSON."""
        if self.language in {"json", "jsonc"}:
            return self.text.lstrip()[:1] in {"{", "["}
        return not self.language and re.match(r"\s*[{\[]\s*[\"'{\[\d-]", self.text) is not None


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


_ABOUT_RESULTS = re.compile(
    r"performance|evaluat|results|benchmark|acceptance|speed|throughput|measure|性能|评测|结果|效果|实验|测试", re.I
)


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

    def is_about(self, pattern: str) -> bool:
        """Return whether its heading, or the nearest above it that is not about results, matches a pattern."""
        for heading in reversed(self.path):
            if re.search(pattern, heading.text, re.I):
                return True
            if _ABOUT_RESULTS.search(heading.text):
                return False
        return False


@dataclass(frozen=True, slots=True)
class Repeats:
    """Parts of a very long text that were not read: ``line`` of the first, how many, and the numbers of all lines."""

    line: int
    count: int
    lines: frozenset[int]


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
        repeats: the parts of a very long text that repeat others and were not read; None if all was read.
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
    repeats: Repeats | None = None
    cache: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def is_of_a_head(self) -> bool:
        """Whether this is the card of a draft head."""
        if "head" not in self.cache:
            self.cache["head"] = is_of_a_head(self)
        found: bool = self.cache["head"]
        return found

    @property
    def is_of_the_hub(self) -> bool:
        """Whether the metadata is that of a card: other sites have blocks of their own, with titles and dates."""
        return not HUB_FIELDS.isdisjoint(self.metadata)

    @property
    def is_of_another_site(self) -> bool:
        """Whether the block before the text is that of a post or a page of another site than the Hub."""
        return not self.is_of_the_hub and not _OTHER_SITE.isdisjoint(str(name).lower() for name in self.metadata)

    @property
    def cut(self) -> int | None:
        """The line where the text breaks off, in a block of code or at an ellipsis; None if it is whole."""
        if "cut" not in self.cache:
            self.cache["cut"] = _cut(self.text)
        found: int | None = self.cache["cut"]
        return found

    @property
    def unread_language(self) -> str:
        """The language of the prose if the rules do not read it, else an empty text."""
        if "language" not in self.cache:
            self.cache["language"] = unread_language(self)
        found: str = self.cache["language"]
        return found

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

    def search(
        self, pattern: str, *, outside: str | None = None, tables: bool = True, remarks: bool = False
    ) -> list[Hit]:
        """Return every match of a pattern in headings, prose, tables and printed results, sorted by line.

        The search ignores case, and a line break counts as a space.

        Args:
            outside: skip the sections whose headings match this pattern.
            tables: also search tables and results that are printed as JSON.
            remarks: also search the comments in code.
        """
        return sorted(self._matches(pattern, outside, tables, remarks), key=lambda hit: hit.line)

    def says(self, pattern: str, *, outside: str | None = None, remarks: bool = False) -> bool:
        """Return whether `search` finds anything."""
        key = f"says {outside} {remarks} {pattern}"
        if key not in self.cache:
            self.cache[key] = next(self._matches(pattern, outside, True, remarks), None) is not None
        found: bool = self.cache[key]
        return found

    def _matches(self, pattern: str, outside: str | None, tables: bool, remarks: bool) -> Iterator[Hit]:
        wanted = re.compile(pattern, re.I)
        # what matches in a piece has a match in the whole, which is found much sooner than in each piece
        if re.compile(pattern, re.I | re.M).search(self._whole(tables)):
            for section, texts in self._texts:
                if outside and section.is_about(outside):
                    continue
                for text in texts:
                    if tables or not text.is_table:
                        yield from text.matches(wanted, section)
        for section, remark in self.remarks if remarks else ():
            for m in wanted.finditer(remark.text):
                yield Hit(remark.line, m, section)

    @property
    def remarks(self) -> list[tuple[Section, Prose]]:
        """The comments in code, each with the setting before it if the comment says that it was measured so."""
        if "remarks" not in self.cache:
            self.cache["remarks"] = [
                (section, remark) for section, block in self.blocks_of(Code) for remark in _remarks(block)
            ]
        found: list[tuple[Section, Prose]] = self.cache["remarks"]
        return found

    def _whole(self, tables: bool) -> str:
        key = f"whole {tables}"
        if key not in self.cache:
            pieces = (text.text for _, texts in self._texts for text in texts if tables or not text.is_table)
            self.cache[key] = "\n".join(pieces)
        found: str = self.cache[key]
        return found

    @property
    def _texts(self) -> list[tuple[Section, list[_Text]]]:
        if "texts" not in self.cache:
            self.cache["texts"] = _with_new_texts([(section, list(_texts(section))) for section in self.sections])
        found: list[tuple[Section, list[_Text]]] = self.cache["texts"]
        return found


@dataclass(frozen=True, slots=True)
class Hit:
    """A match of a pattern in the card's text."""

    line: int
    match: re.Match[str]
    section: Section


@dataclass(frozen=True, slots=True)
class _Text:
    """A text that is searched. ``lines`` are the pieces that no match may cross, each with its line in the file."""

    text: str
    lines: Sequence[tuple[int, str]]
    breaks: str
    is_table: bool

    def matches(self, wanted: re.Pattern[str], section: Section) -> Iterator[Hit]:
        if len(self.lines) > 1 and not re.compile(wanted.pattern, wanted.flags | re.M).search(self.text):
            return
        for line, piece in self.lines:
            at, seen = line, 0
            for m in wanted.finditer(piece):
                at, seen = at + self.breaks.count("\n", seen, m.start()), m.start()
                yield Hit(at, m, section)


_REMARK = re.compile(r"(?P<code>^|.*?\s)(?:#+(?!!)|//)\s?(?P<words>[^\n]*\w[^\n]*)")
_MEASURED_SO = re.compile(r"\bmeasur|\bbench|\bresults?\b|\bnumbers\b|测", re.I)
_MOST_REMARKS = 400
_NO_REMARKS = {"bibtex", "markdown", "md", "html", "diff", "c", "cpp", "cuda", "json"}


def _remarks(block: Code) -> Iterator[Prose]:
    """Yield the comments of a block of code. Those on lines one after the other are one text."""
    if block.language in _NO_REMARKS or ("#" not in block.text and "//" not in block.text):
        return
    begun, words, count = 0, [], 0  # type: int, list[str], int
    for line, text in enumerate(block.text.split("\n"), block.line):
        m = _REMARK.match(text[:1000]) if "#" in text or "//" in text else None
        if m is None or m["code"].strip():
            if words:
                yield Prose(begun, "\n".join(words))
            words = []
        if m is not None and count < _MOST_REMARKS:
            count += 1
            if m["code"].strip():
                yield Prose(line, text.strip() if _MEASURED_SO.search(m["words"]) else m["words"])
            else:
                begun = begun if words else line
                words.append(m["words"])
    if words:
        yield Prose(begun, "\n".join(words))


_NUMBER_ALONE = re.compile(r"(?<![\w.])[-+−]?\d[\d,.]*(?!\w)")
_SEARCHED_ROWS = 200
_SEARCHED_TEXTS = 500
_SEARCHED_LETTERS = 60_000
"""Whoever prints more texts than this, or longer ones, repeats them, as a log does."""
_LONG_PROSE = 20_000
_PART = 400


def _with_new_words(table: Table) -> list[tuple[int, str]]:
    """Return the lines of a table that are searched."""
    return _new_words(list(zip([table.line, *(row.line for row in table.rows)], table.text.split("\n"), strict=True)))


def _new_words(lines: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """Return the lines that are searched: of many not those that repeat one with other numbers."""
    seen: set[str] = set()
    out, rest = lines[:_SEARCHED_ROWS], lines[_SEARCHED_ROWS:]
    if not rest:
        return out
    without_numbers = _NUMBER_ALONE.sub("", "\n".join(text for _, text in rest)).split("\n")
    for (line, text), words in zip(rest, without_numbers, strict=True):
        if words not in seen:
            seen.add(words)
            out.append((line, text))
    return out


def _with_new_texts(found: list[tuple[Section, list[_Text]]]) -> list[tuple[Section, list[_Text]]]:
    """Return the texts that are searched: of many not those that repeat an earlier one with other numbers."""
    count = sum(len(texts) for _, texts in found)
    if count <= _SEARCHED_TEXTS:
        return found
    seen: set[str] = set()
    out, kept, letters = [], 0, 0
    for section, texts in found:
        new = []
        for text in texts:
            words = _NUMBER_ALONE.sub("", text.text)
            if words not in seen or (kept < _SEARCHED_TEXTS and letters < _SEARCHED_LETTERS):
                new.append(text)
                kept, letters = kept + 1, letters + len(text.text)
            seen.add(words)
        if new:
            out.append((section, new))
    return out


def _parts(prose: Prose) -> Iterator[tuple[int, str]]:
    """Yield the parts of a paragraph that are searched, each with its line: one, unless it is as long as a book."""
    if len(prose.text) <= _LONG_PROSE:
        yield prose.line, prose.text
        return
    at, line = 0, prose.line
    while at < len(prose.text):
        end = prose.text.find("\n", at + _PART)
        end = len(prose.text) if end < 0 else end
        yield line, prose.text[at:end]
        line, at = line + prose.text.count("\n", at, end) + 1, end + 1


def _texts(section: Section) -> Iterator[_Text]:
    if section.path:
        heading = section.path[-1]
        plain = heading.text.replace("\n", " ")
        yield _Text(plain, [(heading.line, plain)], heading.text, False)
    for block in section.blocks:
        if isinstance(block, Prose):
            for line, part in _parts(block):
                plain = part.replace("\n", " ")
                yield _Text(plain, [(line, plain)], part, False)
        elif isinstance(block, Table):
            lines = _with_new_words(block)
            yield _Text("\n".join(text for _, text in lines), lines, "", True)
        elif isinstance(block, Code) and block.is_data:
            lines = _new_words(list(enumerate(block.text.split("\n"), block.line)))
            yield _Text("\n".join(text for _, text in lines), lines, "", True)


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
    """A rule: its stable code, the severity of its findings, and the texts of its documentation.

    ``heads``: the rule is about the cards of draft heads, and about the other texts for which ``also`` is true.
    ``words``: it looks for words, so that it says nothing of a card in a language that is not read.
    """

    code: str
    severity: Severity
    title: str
    why: str
    fix: str
    check: RuleFunction
    heads: bool = False
    words: bool = False
    also: Callable[[Card], bool] | None = None

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


def rule(
    code: str,
    severity: Severity,
    title: str,
    *,
    why: str,
    fix: str,
    heads: bool = False,
    words: bool = False,
    also: Callable[[Card], bool] | None = None,
) -> Callable[[RuleFunction], RuleFunction]:
    """Register a function as a rule. Raises ValueError if the code is taken or belongs to no family."""

    def register(check: RuleFunction) -> RuleFunction:
        if code in RULES or code[:2] not in FAMILIES or len(code) != 4:
            raise ValueError(f"the code {code} is taken or belongs to no known family")
        RULES[code] = Rule(code, severity, title, why, fix, check, heads, words, also)
        return check

    return register


def run_rule(rule: Rule, card: Card) -> Iterable[Finding]:
    """Yield the findings of one rule in a card; none if the rule is not about this kind of card or its language."""
    if rule.words and card.unread_language:
        return
    if rule.heads and not card.is_of_a_head and not (rule.also is not None and rule.also(card)):
        return
    for found in rule.check(card):
        severity, message = found.severity or rule.severity, found.message
        if rule.words and card.cut is not None and severity != "info":
            severity, message = "info", f"{message}; the text breaks off at line {card.cut}"
        yield Finding(rule.code, severity, found.line, message, rule.why, found.fix or rule.fix)


# What kind of card it is, and in which language


HUB_FIELDS = frozenset((
    "license", "license_name", "license_link", "base_model", "base_model_relation", "pipeline_tag", "library_name",
    "datasets", "model-index", "new_version", "inference", "widget", "co2_eq_emissions", "extra_gated_prompt",
))  # fmt: skip
"""Fields of the metadata block that only the Hub knows."""
_FENCE = re.compile(r"^ {0,3}(?P<mark>`{3,}|~{3,})(?P<rest>[^`\n]*)$", re.M)


def _cut(text: str) -> int | None:
    """Return the line where a text breaks off, or None."""
    opened: re.Match[str] | None = None
    for m in _FENCE.finditer(text):
        if opened is None:
            opened = m
        elif m["mark"].startswith(opened["mark"]) and not m["rest"].strip():
            opened = None
    if opened is not None or text.rstrip().endswith(("...", "…")):
        return text.rstrip().count("\n") + 1
    return None


_HEAD_TAGS = {"eagle3", "eagle-3", "draft-model", "speculator", "speculators"}
_DRAFT = (
    r"(?:draft(?:er|ing)?(?:[ -](?:head|model|module|weights))?"
    r"|speculator(?!s? (?:project|library|format|repo|team))(?: model)?"
    r"|eagle[ -]?3?(?:\.\d)?[ -](?:head|draft|model|module)|草稿模型)"
)
_HEAD_WORDS = re.compile(
    rf"\b(?:this|the|an?|our|本)\b[^.\n]{{0,80}}\b{_DRAFT}|\b{_DRAFT}[^.\n]{{0,60}}\b(?:for|of)\b"
    rf"|^{_DRAFT}\b|草稿模型|eagle-?3?$",
    re.I | re.M,
)
_OWN_WORDS = re.compile(
    rf"\b(?:this|the) (?:model|repo\w*|checkpoint|head|draft|eagle)\b[^.\n]{{0,80}}"
    rf"\b(?:is|contains|was|holds)\b[^.\n]{{0,80}}\b{_DRAFT}"
    rf"|\b(?:this|the) [^.\n]{{0,20}}{_DRAFT}[^.\n]{{0,20}} (?:was|is) "
    rf"|\bthis is an?\b[^.\n]{{0,60}}\b{_DRAFT}"
    rf"|(?<!train )(?<!training )\ban? [^.\n]{{0,60}}{_DRAFT}[^.\n]{{0,20}} (?:for|of) \S*\d"
    rf"|^(?![^.\n]{{0,60}}\btrain)[^.\n]{{0,60}}{_DRAFT} (?:for|of) "
    r"(?:(?-i:[A-Z])[\w.-]* ){0,2}\S*\d|\S{4,}-eagle-?3?$|\bis the (?:[\w.]+ )?eagle\S* (?:head|module|draft) of\b",
    re.I | re.M,
)
_OTHER_WORDS = re.compile(
    r"\b(?:toolkit|framework (?:for|that|to)|library (?:for|that|to)|codebase|runbook|recipes?|tutorial"
    r"|guide|step by step|指南|教程|框架|工具包|"
    r"implementation of|\bport of|benchmark results of|this page|speculative decoding (?:method|algorithm|technique"
    r"|framework))\b",
    re.I,
)
_OWN_TITLE = re.compile(
    rf"\b(?:eagle[ -]?3?|dflash\d?|dspark|mtp|medusa)\b.{{0,20}}\b{_DRAFT}\b.{{0,6}}(?:for|of|-|—|–)? *\S*\d"
    rf"|\S*\d\S* .{{0,20}}\b(?:eagle[ -]?3?|dflash\d?|dspark)\b.{{0,20}}\b{_DRAFT}|\beagle[ -]?3 for \S*\d"
    rf"|\S+-(?:dflash|dspark)\S* .{{0,24}}{_DRAFT}"
    r"|^\S*\d\S*[-._](?:speculators?|eagle-?3)\b\S*(?: \(\S+\))?$",
    re.I,
)
"""The title of a head's card: the method, that it is a draft, and the model."""
_OTHER_TITLE = re.compile(
    r"\b(?:train(?:ing)?|offline|online|examples?|guide|recipes?|tutorial|toolkit|benchmarks?|how|study|report|patch|inference|serving"
    r"|preview(?:s|ed)|announc(?:es|ed)|launch(?:es|ed)|unveil(?:s|ed))\b",
    re.I,
)
_NEWS_TITLE = re.compile(r"\b(?:previews|announces|launches|unveils|introduces|releases)\b", re.I)
_RECIPE = re.compile(r"^\W*(?:\w+ ){0,2}(?:recipes?|guide|runbook) for\b", re.I | re.M)
_TITLE = re.compile(r"eagle|draft|speculator|dflash|mtp|head|草稿", re.I)
_METHOD_TAGS = {"speculative-decoding", "dflash", "dflash2", "dspark", "mtp", "medusa", "p-eagle"}
_CALLED_DRAFT = re.compile(r"draft(?:er)?s?\b|speculator|predictor", re.I)
_NOT_ALONE = re.compile(r"\bnot a (?:\*\*)?standalone\b|\b(?:both|two|these) drafters\b", re.I)
_OTHER_SITE = {
    "layout",
    "title",
    "author",
    "authors",
    "date",
    "summary",
    "description",
    "slug",
    "published",
    "pubdate",
}
"""Fields of the block before a post or a page of another site."""


def is_titled_as_head(title: str) -> bool:
    """Return whether a title is that of a head's card: the method, that it is a draft, and the model."""
    return bool(_OWN_TITLE.search(title)) and not _OTHER_TITLE.search(title)


def is_of_a_head(card: Card) -> bool:
    """Return whether a card is of a draft head: by its tags, else by its title and its first paragraphs.

    Toolkits and guides have no metadata block, and their first paragraphs speak of methods.
    """
    if card.is_of_another_site:
        return False
    tags = {tag.lower() for tag in card.listed("tags")}
    if tags & _HEAD_TAGS or card.listed("library_name") == ["speculators"]:
        return True
    titles = [s.path[-1].text for s in card.sections if s.path][:1]
    if tags & _METHOD_TAGS and titles and card.is_of_the_hub:
        shown = "\n".join(b.text for s in card.sections[:3] for b in s.blocks if isinstance(b, Prose))[:1200]
        if _CALLED_DRAFT.search(titles[0]) or _NOT_ALONE.search(shown):
            return True
    if titles and is_titled_as_head(titles[0]):
        return True
    opening = [b.text for s in card.sections[:4] for b in s.blocks if isinstance(b, Prose)][:5]
    first = "\n".join([*titles, *(text[:800] for text in opening)])
    if not _HEAD_WORDS.search(first) or _RECIPE.search(first) or (titles and _NEWS_TITLE.search(titles[0])):
        return False
    if card.front is not None:
        return not titles or bool(_TITLE.search(titles[0]) or _OWN_WORDS.search(first))
    named = any(re.search(r"\S{4,}-eagle-?3?$", title, re.I) for title in titles)
    return card.is_page_text or named or bool(_OWN_WORDS.search(first) and not _OTHER_WORDS.search(first[:700]))


_SCRIPTS = (
    ("Japanese", re.compile(r"[\u3040-\u30ff]")),
    ("Korean", re.compile(r"[\uac00-\ud7af]")),
    ("Cyrillic script", re.compile(r"[\u0400-\u04ff]")),
    ("Arabic script", re.compile(r"[\u0600-\u06ff]")),
    ("Devanagari", re.compile(r"[\u0900-\u097f]")),
    ("Thai", re.compile(r"[\u0e00-\u0e7f]")),
)
_COMMON = {
    "English": "the of and to is in for with this that on are was by from it as at be which we",
    "German": "der die das und ist mit für nicht ein eine auf wird auch werden sich dem den von zu wir",
    "French": "le la les des est et pour dans une sur avec que qui pas ce cette nous sont par du",
    "Spanish": "el la los las de y es para en una con que por del se no este esta son más",
    "Portuguese": "o os as de e é para em uma com que por do da não este esta são mais um",
    "Italian": "il lo la gli di e è per in una con che non del della questo sono più un le",
}
_WORDS_OF = {name: frozenset(words.split()) for name, words in _COMMON.items()}


def unread_language(card: Card) -> str:
    """Return the language of a card's prose if it is one that the rules do not read, else an empty text.

    English and Chinese are read. Short texts are taken for English.
    """
    prose = " ".join(b.text for s in card.sections for b in s.blocks if isinstance(b, Prose))[:20_000]
    letters = sum(c.isalpha() for c in prose)
    if letters < 80:
        return ""
    for name, script in _SCRIPTS:
        if len(script.findall(prose)) > 0.15 * letters:
            return name
    words = [word for word in re.findall(r"[^\W\d_]+", prose.lower()) if word.isascii() or not word.isupper()]
    counts = {name: sum(word in known for word in words) for name, known in _WORDS_OF.items()}
    best = max(counts, key=lambda name: counts[name])
    return best if counts[best] > 0.12 * len(words) and counts[best] > 2 * counts["English"] else ""
