"""Parse a card: metadata, headings, tables, code blocks, citations."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from html.parser import HTMLParser
from itertools import pairwise
from typing import TYPE_CHECKING

from eagle3hub.lint.model import (
    Block,
    Card,
    Cell,
    Code,
    Entry,
    Heading,
    Link,
    Prose,
    Repeats,
    Row,
    Section,
    Table,
    Tag,
)
from eagle3hub.system.documents import front_matter

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.rules_core import StateCore
    from markdown_it.token import Token

# The text of a rendered page, turned back into Markdown: headings, tables and code
#
# People keep cards as text copied from the Hub. Copying loses the metadata block, links, fences and table borders.


Line = tuple[int, str]
_FOOTER = re.compile(
    r"\s*(?:-\s*)?(?:Downloads last month\b|Inference Providers\b|Files and versions\b|Model tree for \S+"
    r"|View Code\W*Maximize"
    r"|Instructions to use \S+/\S+ with libraries)"
)
"""What the Hub's page has around a card, and the source of a card never has on a line of its own."""
_NAVIGATION = re.compile(r"\s*(?:(?:Files )?Files and versions|Community(?: \d+)?)\s*")
"""What the Hub's page has between its title and the card."""
_ABOVE = 60
_BIBTEX = re.compile(r"\s*@[A-Za-z]+\{")
_MARKUP = re.compile(r"\s*(?:#{1,6} |\||```|~~~|[-*+] |<[a-z/!])")
_FEW_LINES = 2_000
_NUMBER = r"[-+]?\d[\d,]*(?:\.\d+)?(?:%|[x×](?![\w]))?"
_ROW = re.compile(rf"(?P<label>\S.*?)(?P<cells>(?:\s+{_NUMBER})+)\s*$")
_SHELL = re.compile(
    r"\s*(?:python3?\s+-m\s|pip3? install|git (?:clone|checkout)\b|cd \S|export \w+=|vllm serve\b|trtllm-serve\b"
    r"|docker run\b|hf download\b|huggingface-cli\s|curl\s|[A-Z][A-Z_0-9]+=\S+\s*(?:\\|$|\w)|--?[a-z][\w-]*(?:[ =]|$))"
)
_PYTHON = re.compile(r"\s*(?:import \w[\w.]*(?: as \w+)?$|from [\w.]+ import |\w+ = [\w.]+[\(\[{]|print\()")
_YAML = re.compile(r"\s*[a-z][a-z_0-9]*:(?:\s+[^\s].*)?$")
_HEADING_WORDS = 8
_NOT_HEADING = re.compile(r"[.,;!?\\]$|:.|\d\.\d")


def is_page_text(lines: Sequence[str]) -> bool:
    """Return whether the lines have what the Hub's page has around a card, or the bullets of a page and no markup."""
    if any(_FOOTER.match(line) for line in lines):
        return True
    bullets = sum(line.lstrip().startswith("•") for line in lines[:_FEW_LINES])
    return bullets > 1 and not any(_MARKUP.match(line) for line in lines[:_FEW_LINES])


def to_markdown(lines: Sequence[Line]) -> list[Line]:
    """Turn the numbered lines of a rendered page into numbered lines of Markdown.

    A line that is added gets the number of its neighbour.
    """
    begin = max((i + 1 for i, (_, line) in enumerate(lines[:_ABOVE]) if _NAVIGATION.fullmatch(line)), default=0)
    end = next((i for i, (_, line) in enumerate(lines) if i > max(begin, 4) and _FOOTER.match(line)), len(lines))
    out: list[Line] = []
    i = begin
    while i < end:
        taken, made = _block(lines[:end], i, first=not out)
        out += made
        i += taken
    return out


def _block(lines: Sequence[Line], i: int, *, first: bool) -> tuple[int, list[Line]]:
    number, text = lines[i]
    if _BIBTEX.match(text):
        return _fenced(lines, i, _bibtex_end(lines, i), "bibtex")
    if (end := _code_end(lines, i)) > i:
        language = "python" if any(_PYTHON.match(line) for _, line in lines[i:end]) else "bash"
        return _fenced(lines, i, end, "yaml" if _YAML.match(text) and language == "bash" else language)
    if (end := _rows_end(lines, i + 1)) > i + 2 and text.strip():
        return end - i, _table(lines[i], lines[i + 1 : end])
    if _is_heading(lines, i):
        return 1, [(number, ""), (number, ("# " if first else "## ") + text.strip().rstrip(":")), (number, "")]
    if text.lstrip().startswith("•"):
        return 1, [(number, "- " + text.lstrip()[1:].strip())]
    if text.startswith("|") and i + 1 < len(lines) and not lines[i + 1][1].startswith("|"):
        return 1, [(number, text), (number, "")]
    return 1, [(number, text)]


def _fenced(lines: Sequence[Line], start: int, end: int, language: str) -> tuple[int, list[Line]]:
    body = list(lines[start:end])
    return end - start, [(body[0][0], ""), (body[0][0], f"```{language}"), *body, (body[-1][0], "```")]


def _bibtex_end(lines: Sequence[Line], start: int) -> int:
    depth = 0
    for i in range(start, len(lines)):
        depth += lines[i][1].count("{") - lines[i][1].count("}")
        if depth <= 0:
            return i + 1
    return len(lines)


def _code_end(lines: Sequence[Line], start: int) -> int:
    """Return the index after the run of code that starts here, or ``start`` if none starts here."""
    depth, end, continued = 0, start, False
    is_yaml, is_python = _starts_yaml(lines, start), bool(_PYTHON.match(lines[start][1]))
    for i in range(start, len(lines)):
        text = lines[i][1]
        if not text.strip():
            if i == start:
                return start
            continue
        comment = text.startswith("# ") and _next_is_code(lines, i + 1)
        yaml = is_yaml and (_YAML.match(text) is not None or text.startswith((" ", "\t")))
        if not (continued or depth > 0 or comment or yaml or _SHELL.match(text) or _PYTHON.match(text)):
            return end
        if depth == 0 and not (continued or comment or yaml) and text.lstrip().startswith("- "):
            return end
        if depth == 0 and end < i and not is_yaml and bool(_PYTHON.match(text)) != is_python:
            return end
        depth = max(0, depth + sum(text.count(c) for c in "([{") - sum(text.count(c) for c in ")]}"))
        continued, end = text.rstrip().endswith("\\"), i + 1
    return end


def _next_is_code(lines: Sequence[Line], i: int) -> bool:
    return i < len(lines) and bool(_SHELL.match(lines[i][1]) or _PYTHON.match(lines[i][1]))


def _starts_yaml(lines: Sequence[Line], start: int) -> bool:
    following = [text for _, text in lines[start : start + 3] if text.strip()][:2]
    return len(following) == 2 and all(_YAML.match(text) for text in following)


def _rows_end(lines: Sequence[Line], start: int) -> int:
    width, i = 0, start
    while i < len(lines):
        m = _ROW.fullmatch(lines[i][1].rstrip())
        cells = m["cells"].split() if m else []
        if not m or m["label"].startswith(("-", "|")) or (width and len(cells) != width):
            break
        width = len(cells)
        i += 1
    return i


def _table(header: Line, rows: Sequence[Line]) -> list[Line]:
    matches = [(number, _ROW.fullmatch(text.rstrip())) for number, text in rows]
    body = [(number, [m["label"], *m["cells"].split()]) for number, m in matches if m]
    width = len(body[0][1])
    names = _header(header[1].split(), width - 1)
    made = [(header[0], names), (header[0], ["---"] * width), *body]
    shown = [(number, "| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |") for number, cells in made]
    return [(header[0], ""), *shown, (body[-1][0], "")]


_PHRASE = re.compile(r"(?:(?:mean|average) )?accept\w* (?:length|rate|tokens)|draft tokens|\S+", re.I)


def _header(words: list[str], columns: int) -> list[str]:
    """Divide the words of a header among the columns.

    Each column gets a word, or the words of one quantity. Else the cut is at a word that every column's name starts or
    ends with; without such a word every column gets all words.
    """
    label, rest = words[0], words[1:]
    phrases = _PHRASE.findall(" ".join(rest))
    if columns > 1 and len(phrases) == columns:
        return [label, *phrases]
    for at_end in (True, False):
        word = (rest[-1] if at_end else rest[0]) if rest else ""
        places = [i for i, w in enumerate(rest) if w == word]
        if columns > 1 and len(places) == columns:
            cuts = [0, *(p + 1 for p in places)] if at_end else [*places, len(rest)]
            return [label, *(" ".join(rest[a:b]) for a, b in pairwise(cuts))]
    return [label, *[" ".join(rest)] * columns]


def _is_heading(lines: Sequence[Line], i: int) -> bool:
    def ends(j: int) -> bool:
        text = lines[j][1].strip() if 0 <= j < len(lines) else ""
        return not text or len(text) > 60 or text.startswith(("-", "|", "•", "@")) or _next_is_code(lines, j)

    def short(text: str) -> bool:
        words = text.split()
        return bool(re.match(r"[A-Z]", text)) and len(words) <= _HEADING_WORDS and not _NOT_HEADING.search(text)

    text = lines[i][1].strip()
    after = lines[i + 1][1].strip() if i + 1 < len(lines) else ""
    dense = i > 0 and lines[i - 1][1].strip()
    return short(text) and ends(i - 1) and (ends(i + 1) or bool(dense and short(after) and ends(i + 2)))


# BibTeX entries, parsed by pybtex, each with its line


_START = re.compile(
    r"^[ \t]*@(?P<kind>[A-Za-z]+)\s*\{\s*(?:(?P<key>[^\s,{}]*)\s*,|(?=(?:title|author|year)\s*=))", re.MULTILINE | re.I
)
_FIELD = re.compile(r"(?:^|,)\s*(?P<name>[A-Za-z][\w-]*)\s*=", re.MULTILINE)
_KINDS_TEXT = (
    "article book booklet conference dataset electronic inbook incollection inproceedings manual mastersthesis misc "
    "online phdthesis preprint proceedings report software techreport unpublished"
)
MAX_ENTRIES = 200
"""The most BibTeX entries that are read from one card. No card cites so many works."""
_KINDS = frozenset(_KINDS_TEXT.split())


def has_bibtex(text: str) -> bool:
    """Return whether a BibTeX entry starts anywhere in the text; ``@app.get`` in Python is not one."""
    return any(m["kind"].lower() in _KINDS for m in _START.finditer(text))


def bibtex_entries(texts: Iterable[tuple[int, str]]) -> tuple[list[Entry], list[tuple[int, str]]]:
    """Return the entries of the texts, and (line, reason) for each entry that cannot be parsed.

    Each text comes with the number of its first line. At most `MAX_ENTRIES` are parsed, since each takes milliseconds.
    """
    good: list[Entry] = []
    bad: list[tuple[int, str]] = []
    for first, text in texts:
        for start, chunk in _chunks(text):
            line = first + text.count("\n", 0, start)
            if len(good) + len(bad) == MAX_ENTRIES:
                bad.append((line, f"only the first {MAX_ENTRIES} entries are read, and this one comes after them"))
                return good, bad
            try:
                good.append(_entry(chunk, line))
            except ValueError as error:
                bad.append((line, str(error)))
    return good, bad


def bibtex_text(text: str) -> str:
    """Return a BibTeX value as people read it."""
    return " ".join(text.replace("{", "").replace("}", "").replace("\\&", "&").replace("~", " ").split())


def _chunks(text: str) -> Iterator[tuple[int, str]]:
    starts = [m.start() + len(m[0]) - len(m[0].lstrip()) for m in _START.finditer(text) if m["kind"].lower() in _KINDS]
    for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
        yield start, text[start:end]


def _entry(chunk: str, line: int) -> Entry:
    from pybtex.database.input.bibtex import Parser  # by name: pybtex's own search reads every installed package
    from pybtex.exceptions import PybtexError

    try:
        (entry,) = Parser().parse_string(chunk).entries.values()
        authors = [
            (
                bibtex_text(" ".join([*p.first_names, *p.middle_names])),
                bibtex_text(" ".join([*p.prelast_names, *p.last_names])),
            )
            for p in entry.persons.get("author", [])
        ]
    except PybtexError as error:
        raise ValueError(" ".join(str(error).split())) from error
    names = {name.lower(): bibtex_text(value) for name, value in entry.fields.items()}
    lines = {m["name"].lower(): line + chunk.count("\n", 0, m.start("name")) for m in _FIELD.finditer(chunk)}
    return Entry(line, entry.key, entry.type.lower(), names, tuple(authors), lines)


# The whole card: PyYAML reads the metadata, markdown-it the Markdown, the standard library the HTML


_NO_TAG_ENDS = {"<!--": "-->", "<![": "]>", "<!": ">", "<?": ">"}
_NO_TAG = re.compile(r"<!--|<!\[|<!|<\?")
_LONG_IN_CODE = re.compile(r"\S{2001,}")
_LONG_WORD = re.compile(r"\S{401,}")
"""Longer than any word, number or address that a rule looks for. Some rules' time grows with its square."""


def parse_card(text: str, name: str = "README.md", files: Collection[str] | None = None) -> Card:
    """Parse the text of a card.

    This never fails: what cannot be read becomes `Card.front_error` or `Card.bad_bibtex`.

    Args:
        name: the name of the file in findings.
        files: the paths in the card's repository, if they are known.
    """
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    lines = text.split("\n")
    front, error, body = front_matter(lines, name)
    is_page = front is None and error is None and is_page_text(lines)
    numbered = list(enumerate(lines[body:], body + 1))
    if is_page:
        numbered = to_markdown(numbered)
    numbered, repeats = _without_repeats(numbered)
    numbered, tails = _without_long_tables(numbered)
    walk = _Walk([number for number, _ in numbered], [line for _, line in numbered], tails)
    walk.blocks(_markdown().parse("\n".join(walk.lines)))
    entries, bad = bibtex_entries([(line, text) for line, text in walk.bibtex()])
    return Card(
        name,
        text,
        "\n".join(lines[body:]),
        front,
        error,
        is_page,
        _sections(walk.found),
        tuple(walk.links),
        tuple(walk.tags),
        tuple(entries),
        tuple(bad),
        None if files is None else frozenset(files),
        repeats=repeats,
    )


_MOST_PIECES = 1_500
"""Paragraphs, list items and small tables up to here are always read. No card has so many."""
_DIGITS = re.compile(r"\d+")
_ITEM = re.compile(r"\s*(?:[-*+]|\d{1,9}[.)])\s")


def _without_repeats(lines: Sequence[Line]) -> tuple[list[Line], Repeats | None]:
    """Return the lines without the later pieces that repeat an earlier one but for its digits, as those of a log do.

    A piece is a block of code, an item of a list, or what stands between empty lines.
    """
    out: list[Line] = []
    seen: set[str] = set()
    left_out: set[int] = set()
    pieces, i, left, first = 0, 0, 0, 0
    while i < len(lines):
        start, text = i, lines[i][1]
        i += 1
        if not text.strip():
            out.append(lines[start])
            continue
        if _FENCE.match(text):
            i = next((k + 1 for k in range(i, len(lines)) if _FENCE.match(lines[k][1])), len(lines))
        else:
            is_item = bool(_ITEM.match(text))
            while i < len(lines) and (text := lines[i][1]).strip() and not _FENCE.match(text):
                if is_item and _ITEM.match(text):
                    break
                i += 1
        pieces += 1
        if pieces > _MOST_PIECES // 2:
            words = _DIGITS.sub("", "\n".join(text for _, text in lines[start:i]))
            if words in seen and pieces > _MOST_PIECES:
                left, first = left + 1, first or lines[start][0]
                left_out |= {number for number, _ in lines[start:i]}
                continue
            seen.add(words)
        out += lines[start:i]
    return out, Repeats(first, left, frozenset(left_out)) if left else None


@cache
def _markdown() -> MarkdownIt:
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    parser.core.ruler.at("inline", _short_inlines)
    return parser


_LONG_TEXT = 50_000
"""A paragraph longer than this is read by patterns: markdown-it needs a tenth of a millisecond for each link."""


def _short_inlines(state: StateCore) -> None:
    """Parse the inline content of a text, except that of paragraphs as long as a book."""
    for token in state.tokens:
        if token.type == "inline":
            token.children = []
            if len(token.content) <= _LONG_TEXT:
                state.md.inline.parse(token.content, state.md, state.env, token.children)


_BETWEEN = "\n\n"
_AROUND = 600
"""The characters of the paragraphs around a table that say what it shows."""


def _sections(found: Sequence[Block]) -> tuple[Section, ...]:
    sections, path, blocks = [], (), []  # type: list[Section], tuple[Heading, ...], list[Block]
    for block in found:
        if isinstance(block, Heading):
            sections.append(Section(path, tuple(_placed(blocks, path))))
            path, blocks = (*(h for h in path if h.level < block.level), block), []
        else:
            blocks.append(block)
    return (*sections, Section(path, tuple(_placed(blocks, path))))


def _placed(blocks: Sequence[Block], path: tuple[Heading, ...]) -> Iterator[Block]:
    """Yield the blocks of a section, its tables with the heading and the paragraphs around them."""
    heading = path[-1].text if path else ""
    after, following = [""] * len(blocks), ""
    for i in range(len(blocks) - 1, -1, -1):
        after[i] = following
        if isinstance(block := blocks[i], Prose):
            below = blocks[i + 1] if i + 1 < len(blocks) else None
            leads = isinstance(below, Table) and block.text.rstrip().endswith((":", "："))
            following = "" if leads else block.text[:_AROUND]  # what leads to the next table is not about this one
    before = ""
    for block, later in zip(blocks, after, strict=True):
        if isinstance(block, Table):
            yield replace(block, heading=heading, before=before, after=later, cache={})
        else:
            if isinstance(block, Prose):
                before = f"{before.rpartition(_BETWEEN)[2][-_AROUND:]}{_BETWEEN}{block.text[-_AROUND:]}".strip()
            yield block


# Tables: one header, every cell in its place


_LONG = 200
"""The rows of a table that markdown-it reads. It needs a tenth of a millisecond for each; no card has so many."""
_DELIMITERS = re.compile(r"\s{0,3}\|?(?:\s*:?-+:?\s*\|)+(?:\s*:?-+:?\s*)?$")
_FENCE = re.compile(r"\s{0,3}(?:```|~~~)")
_CELL_END = re.compile(r"(?<!\\)\|")
_MARKS = re.compile(r"\*\*|__|`|~~")
_LINK_IN_CELL = re.compile(r"!?\[(?P<text>[^\]\n]{0,400})\]\((?P<target>[^)\s]{0,2000})\)")


def _without_long_tables(lines: Sequence[Line]) -> tuple[list[Line], dict[int, list[Line]]]:
    """Return the lines without the later rows of long tables, and those rows by the number of the row before them."""
    out: list[Line] = []
    tails: dict[int, list[Line]] = {}
    fenced, i = False, 0
    while i < len(lines):
        text = lines[i][1]
        fenced ^= bool(_FENCE.match(text))
        out.append(lines[i])
        i += 1
        if fenced or "|" not in text or "-" not in text or not _DELIMITERS.match(text) or len(out) < 2:
            continue
        start = i
        while i < len(lines) and lines[i][1].lstrip().startswith("|"):
            i += 1
        out += lines[start : min(i, start + _LONG)]
        if i > start + _LONG:
            tails[out[-1][0]] = list(lines[start + _LONG : i])
    return out, tails


_MOST_CELLS = 200_000
_MOST_SPAN = 64
_LABELS = 3


def _table_of(rows: Sequence[tuple[int, list[str]]], heads: int) -> Table | None:
    """Make a table of rows of texts, the first ``heads`` of which are its header. None if there is no row."""
    if not rows:
        return None
    width = max(len(cells) for _, cells in rows)
    full = [(line, [*cells, *[""] * (width - len(cells))]) for line, cells in rows]
    heads = min(max(heads, 1), len(full)) if heads < 2 and not _has_second_header(full) else max(heads, 2)
    header = _joined([cells for _, cells in full[:heads]])
    body: list[Row] = []
    above = ""
    for line, cells in full[heads:]:
        if len(set(cells)) == 1 and width > 2 and cells[0]:  # one cell over the whole table: a title between rows
            continue
        if not cells[0] and any(cells[1:]) and above:
            cells = [above, *cells[1:]]
        made = tuple(Cell.of(text) for text in cells)
        above = "" if made[0].number else cells[0]
        body.append(Row(line, made, _label(made)))
    return Table(full[0][0], header, tuple(body))


def _label(cells: Sequence[Cell]) -> str:
    first = next((i for i, cell in enumerate(cells) if cell.number), len(cells))
    if first in {0, len(cells)}:
        return cells[0].text if cells else ""
    return " ".join(cell.text for cell in cells[: min(first, _LABELS)] if cell.text)


def _has_second_header(rows: Sequence[tuple[int, list[str]]]) -> bool:
    """Return whether the first row of the body names columns: no number in it, and gaps in the row above it."""
    if len(rows) < 3:
        return False
    (_, first), (_, second), *rest = rows
    filled = [text for text in second if text]
    bare = not any(first)
    if bare and len(first) < 3:
        return False  # a table of names and values
    gaps = any(not text for text in first[1:]) and (not second[0] or second[0] == first[0] or bare)
    gaps = gaps or (not second[0] and len(set(filled)) == 1 and all(second[1:]))  # the same quantity in each column
    numeric = any(Cell.of(text).number for _, cells in rest[:20] for text in cells[1:])
    return gaps and len(filled) > 1 and numeric and not any(Cell.of(text).number for text in filled)


def _joined(header: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Return the header of several rows as one: a gap in all but the last goes on with the name to its left."""
    if len(header) == 1:
        return tuple(header[0])
    rows: list[Sequence[str]] = []
    for row in header[:-1]:
        filled, left = [], ""
        for text, last in zip(row, header[-1], strict=True):
            left = text or (left if last else "")
            filled.append(left)
        rows.append(filled)
    columns = zip(*rows, header[-1], strict=True)
    return tuple(" ".join(dict.fromkeys(text for text in names if text)) for names in columns)


@dataclass
class _Grid:
    """The cells of an HTML table, with those that reach over several rows or columns in every place they cover."""

    rows: list[tuple[int, list[str]]] = field(default_factory=list)
    heads: int = 0
    down: dict[int, tuple[int, str]] = field(default_factory=dict)
    size: int = 0
    only_heads: bool = True

    def start_row(self, line: int) -> None:
        self._close_row()
        self.rows.append((line, []))
        self.only_heads = True

    def add(self, line: int, text: str, across: int, down: int, *, head: bool) -> None:
        if not self.rows:
            self.start_row(line)
        cells = self.rows[-1][1]
        self._from_above(cells)
        for _ in range(min(across, _MOST_SPAN)):
            if self.size >= _MOST_CELLS:
                return
            if down > 1:
                self.down[len(cells)] = (min(down, _MOST_SPAN * 64) - 1, text)
            cells.append(text)
            self.size += 1
        self.only_heads &= head

    def _from_above(self, cells: list[str]) -> None:
        while len(cells) in self.down and self.size < _MOST_CELLS:
            left, text = self.down.pop(len(cells))
            if left > 1:
                self.below[len(cells)] = (left - 1, text)
            cells.append(text)
            self.size += 1

    below: dict[int, tuple[int, str]] = field(default_factory=dict)

    def _close_row(self) -> None:
        if not self.rows:
            return
        self._from_above(self.rows[-1][1])
        if self.only_heads and self.rows[-1][1] and self.heads == len(self.rows) - 1:
            self.heads = len(self.rows)
        self.down = {**self.down, **self.below}
        self.below = {}

    def table(self) -> Table | None:
        self._close_row()
        rows = [(line, cells) for line, cells in self.rows if any(cells)]
        return _table_of(rows, self.heads) if len(rows) > 1 else None


@dataclass
class _Walk:
    """A walk over markdown-it's tokens. ``numbers`` maps each of the parsed ``lines`` to its line in the file.

    ``tails`` are the rows of long tables that were not given to markdown-it, by the line of the last row that was.
    """

    numbers: Sequence[int]
    lines: Sequence[str]
    tails: Mapping[int, Sequence[Line]] = field(default_factory=dict)
    found: list[Block] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    tags: list[Tag] = field(default_factory=list)

    def blocks(self, tokens: Sequence[Token]) -> None:
        """Collect the blocks that the tokens describe."""
        i = skip = 0
        closed = True
        lists, opened = [0], 0
        while i < len(tokens):
            token = tokens[i]
            if token.type in {"bullet_list_open", "ordered_list_open"}:
                opened += 1
                lists.append(opened)
            elif token.type in {"bullet_list_close", "ordered_list_close"}:
                lists.pop()
            if token.map and token.map[0] < skip:
                i += 1
                continue
            if token.type == "heading_open":
                self.found.append(Heading(self._line(token), int(token.tag[1]), self._inline(tokens[i + 1])))
            elif token.type == "inline" and tokens[i - 1].type == "paragraph_open":
                self.found.append(Prose(self._line(token), self._inline(token), lists[-1]))
            elif token.type in {"fence", "code_block"}:
                words = token.info.split()
                offset = 1 if token.type == "fence" else 0
                self.found.append(
                    Code(
                        self._line(token, offset),
                        words[0].lower() if words else "",
                        _of_code(token.content.rstrip("\n")),
                    )
                )
            elif token.type == "html_block":
                content = token.content
                if closed and token.map and content.lower().count("<table") > content.lower().count("</table"):
                    # a blank line ends the block, but not the table
                    start, end = token.map[0], self._end_of_table(token.map[1])
                    closed = end > 0
                    if closed:
                        content, skip = "\n".join(self.lines[start:end]), end
                self._html(content, self._line(token))
            elif token.type == "table_open":
                i = self._table(tokens, i)
            i += 1

    def bibtex(self) -> list[tuple[int, str]]:
        """Return the texts that may hold BibTeX: code blocks and paragraphs with the first line of an entry."""
        texts = [(b.line, b.text) for b in self.found if isinstance(b, Code | Prose)]
        return [(line, text) for line, text in texts if has_bibtex(text)]

    def _line(self, token: Token, offset: int = 0) -> int:
        at = (token.map[0] if token.map else 0) + offset
        return self.numbers[min(at, len(self.numbers) - 1)] if self.numbers else 1

    def _end_of_table(self, start: int) -> int:
        """Return the index after the line that closes a table, or 0 if no line does."""
        return next((i + 1 for i in range(start, len(self.lines)) if "</table" in self.lines[i].lower()), 0)

    def _table(self, tokens: Sequence[Token], start: int) -> int:
        rows: list[tuple[int, list[str]]] = []
        i = start + 1
        while tokens[i].type != "table_close":
            if tokens[i].type == "tr_open":
                rows.append((self._line(tokens[i]), []))
            elif tokens[i].type == "inline":
                rows[-1][1].append(self._inline(tokens[i], rows[-1][0]).strip())
            i += 1
        width = len(rows[0][1])
        rows += [(line, self._cells(line, text, width)) for line, text in self.tails.get(rows[-1][0], ())]
        if (table := _table_of(rows, 1)) is not None:
            self.found.append(table)
        return i

    def _cells(self, line: int, text: str, width: int) -> list[str]:
        """Return the cells of a row in Markdown as plain text, and collect its links."""
        for m in _LINK_IN_CELL.finditer(text) if "](" in text else ():
            self.links.append(Link(line, m["target"], m["text"]))
        plain = _LINK_IN_CELL.sub(lambda m: m["text"], text) if "](" in text else text
        inner = _MARKS.sub("", plain.strip().removeprefix("|").removesuffix("|"))
        parts = _CELL_END.split(inner) if "\\" in inner else inner.split("|")
        cells = [part.replace("\\|", "|").strip() for part in parts[:width]]
        return [_shortened(cell) for cell in cells] + [""] * (width - len(cells))

    def _inline(self, token: Token, line: int | None = None) -> str:
        """Return the plain text of inline content, and collect its links, images and HTML."""
        line = line or self._line(token)
        if len(token.content) > _LONG_TEXT:
            return self._by_patterns(token.content, line)
        out = ""
        opened: list[tuple[str, int]] = []
        html: tuple[int, int] | None = None
        for child in token.children or []:
            if child.type in {"text", "code_inline"}:
                out += child.content
            elif child.type in {"softbreak", "hardbreak"}:
                out += "\n"
                line += 1
            elif child.type == "html_inline":
                out += " " if child.content.lower().startswith("<br") else ""
                known = len(self.links)
                self._html(child.content, line)
                if child.content.lower().startswith("<a ") and len(self.links) == known + 1:
                    html = (known, len(out))
                elif child.content.lower().startswith("</a") and html is not None:
                    at, since = html
                    self.links[at] = replace(self.links[at], text=out[since:])
                    html = None
            elif child.type == "link_open":
                opened.append((str(child.attrs.get("href", "")), len(out)))
            elif child.type == "link_close" and opened:
                target, since = opened.pop()
                self.links.append(Link(line, target, out[since:]))
            elif child.type == "image":
                self.links.append(Link(line, str(child.attrs.get("src", "")), child.content, image=True))
        return _shortened(out)

    def _by_patterns(self, text: str, line: int) -> str:
        """Return the plain text of a very long paragraph, and collect its links, images and HTML."""
        if "<" in text:
            self._html(text, line, keep=False)
        out, at, here = [], 0, line
        for m in _LINK_IN_CELL.finditer(text):
            here += text.count("\n", at, m.start())
            self.links.append(Link(here, m["target"], m["text"], image=m[0].startswith("!")))
            out += [text[at : m.start()], m["text"]]
            at = m.end()
        return _shortened(_MARKS.sub("", "".join([*out, text[at:]])))

    def _html(self, text: str, line: int, *, keep: bool = True) -> None:
        text = _without_comments(text)

        def seen(tag: Tag, text: str) -> None:
            self.tags.append(tag)
            for name, image in (("href", False), ("src", True)):
                if name in tag.attributes:
                    is_image = image and tag.name == "img"
                    words = tag.attributes.get("alt", "") or text
                    self.links.append(Link(tag.line, tag.attributes[name], words, is_image))

        parser = _Tags(line, seen)
        parser.feed(text)
        parser.close()
        found = parser.finished()
        self.found += found if keep else ()


_SET_APART = str.maketrans({"\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u2010": "-", "\u2011": "-"})
"""Spaces and hyphens that look like the usual ones, and are these to every rule but C703."""


def _shortened(text: str) -> str:
    """Cut every word that is too long to be a word, and make unusual spaces and hyphens the usual ones."""
    text = text if text.isascii() else text.translate(_SET_APART)
    return text if len(text) <= 400 else _LONG_WORD.sub(lambda found: found[0][:400], text)


def _of_code(text: str) -> str:
    """Cut every overlong word in code, where long options are allowed."""
    return _LONG_IN_CODE.sub(lambda found: found[0][:2000], text)


def _without_comments(text: str) -> str:
    """Remove comments, declarations and instructions from HTML, but keep their line breaks.

    For each one that is not closed, html.parser would search the whole rest of the text.
    """
    out = []
    at = 0
    for found in _NO_TAG.finditer(text):
        start = found.start()
        if start < at:
            continue
        close = _NO_TAG_ENDS[found[0]]
        end = text.find(close, found.end())
        out += [text[at:start], "\n" * text.count("\n", start, end if end >= 0 else len(text))]
        at = end + len(close) if end >= 0 else len(text)
    return "".join([*out, text[at:]])


class _Tags(HTMLParser):
    """Collects the start tags of HTML, its words, and its tables. A table inside a table is part of its cell."""

    def __init__(self, line: int, seen: Callable[[Tag, str], None]) -> None:
        super().__init__()
        self.first, self.seen = line, seen
        self.words: list[str] = []
        self.found: list[Block] = []
        self.grid: _Grid | None = None
        self.depth = 0
        self.cell: tuple[int, bool, int, int] | None = None
        self.texts: list[str] = []
        self.anchor: tuple[Tag, list[str]] | None = None

    def feed(self, data: str) -> None:
        """Read HTML. The rows of a table that have neither attributes nor markup are read by a pattern."""
        at = 0
        while at < len(data):
            plain = self.grid is not None and self.depth == 1 and not self.rawdata and self.cdata_elem is None
            row = _PLAIN_ROW.match(data, at) if plain else None
            if row is not None:
                self._row(row[0])
                at = row.end()
                continue
            after = data.find("<tr>", at + 1)
            after = len(data) if after < 0 else after
            super().feed(data[at:after])
            at = after

    def _row(self, row: str) -> None:
        assert self.grid is not None
        self._end_cell()
        line = self.first + self.getpos()[0] - 1
        self.grid.start_row(line)
        for kind, text in _PLAIN_CELL.findall(row):
            self.grid.add(line, _shortened(" ".join(text.replace("**", "").split())), 1, 1, head=kind == "h")
        self.lineno += row.count("\n")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        line = self.first + self.getpos()[0] - 1
        given = {name: value or "" for name, value in attrs}
        if tag == "a":
            self._end_anchor()
            self.anchor = (Tag(line, tag, given), [])
        else:
            self.seen(Tag(line, tag, given), "")
        if tag == "table":
            self.depth += 1
            if self.depth == 1:
                self._flush()
                self.grid = _Grid()
        elif self.grid is not None and self.depth == 1:
            if tag in {"tr", "td", "th"}:
                self._end_cell()
            if tag == "tr":
                self.grid.start_row(line)
            elif tag in {"td", "th"}:
                self.cell = (line, tag == "th", _span(given.get("colspan")), _span(given.get("rowspan")))
            elif tag == "br":
                self.texts.append(" ")

    def _end_anchor(self) -> None:
        if self.anchor is not None:
            tag, texts = self.anchor
            self.seen(tag, " ".join("".join(texts).split())[:400])
        self.anchor = None

    def handle_endtag(self, tag: str) -> None:
        if tag == "a":
            self._end_anchor()
        if self.grid is None:
            return
        if self.depth == 1 and tag in {"td", "th", "tr", "table"}:
            self._end_cell()
        if tag == "thead" and self.depth == 1:
            self.grid.heads = len(self.grid.rows)
        if tag == "table":
            self.depth -= 1
            if self.depth == 0:
                self._flush()

    def handle_data(self, data: str) -> None:
        if self.anchor is not None:
            self.anchor[1].append(data)
        (self.texts if self.cell else self.words).append(data)

    def _end_cell(self) -> None:
        if self.cell and self.grid is not None:
            line, head, across, down = self.cell
            text = _shortened(" ".join("".join(self.texts).replace("**", "").split()))
            self.grid.add(line, text, across, down, head=head)
        self.cell, self.texts = None, []

    def _flush(self) -> None:
        if words := "".join(self.words).strip():
            self.found.append(Prose(self.first, _shortened(words)))
        if self.grid is not None and (table := self.grid.table()) is not None:
            self.found.append(table)
        self.words, self.grid = [], None

    def finished(self) -> list[Block]:
        """Return what was found, in order."""
        self._end_anchor()
        self._end_cell()
        self._flush()
        return self.found


_PLAIN_ROW = re.compile(r"<tr>\s*(?:<t[dh]>[^<&]*</t[dh]>\s*)+</tr>\s*")
_PLAIN_CELL = re.compile(r"<t([dh])>([^<]*)<")


def _span(value: str | None) -> int:
    return int(value) if value and value.isascii() and value.isdigit() and len(value) < 5 and int(value) else 1
