"""From a card's text to a `Card`: YAML by PyYAML, Markdown by markdown-it, HTML by the standard library."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import cache
from html.parser import HTMLParser
from typing import TYPE_CHECKING

from eagle3hub.card.lint import bibtex, page
from eagle3hub.card.lint.model import Block, Card, Cell, Code, Heading, Link, Prose, Row, Section, Table, Tag
from eagle3hub.errors import ManifestError
from eagle3hub.yaml_lines import Document, parse_yaml

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token


def parse_card(text: str, name: str = "README.md", files: Collection[str] | None = None) -> Card:
    """Take a card apart. Never fails: what cannot be read becomes `Card.front_error` or `Card.bad_bibtex`.

    Args:
        name: what findings call the file.
        files: paths in the card's repository, if they are known.
    """
    text = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    lines = text.split("\n")
    front, error, body = _front_matter(lines, name)
    is_page = front is None and error is None and page.is_page_text(lines)
    numbered = list(enumerate(lines[body:], body + 1))
    if is_page:
        numbered = page.to_markdown(numbered)
    walk = _Walk([number for number, _ in numbered])
    walk.blocks(_markdown().parse("\n".join(line for _, line in numbered)))
    entries, bad = bibtex.entries([(line, text) for line, text in walk.bibtex()])
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
    )


def _front_matter(lines: Sequence[str], name: str) -> tuple[Document | None, tuple[int, str] | None, int]:
    """The metadata block, or why it cannot be read, and the number of lines it takes."""
    if not lines or lines[0].rstrip() != "---":
        return None, None, 0
    end = next((i for i, line in enumerate(lines[1:], 1) if line.rstrip() == "---"), None)
    if end is None:
        return None, (1, "the metadata block has no closing line of three dashes"), 0
    try:
        document = parse_yaml("\n".join(["", *lines[1:end]]), name)
    except ManifestError as fault:
        where, _, why = fault.message.removeprefix(f"{name}:").partition(": ")
        return None, (int(where) if where.isdigit() else 1, why or fault.message), end + 1
    if document.data is not None and not isinstance(document.data, dict):
        return None, (2, "the metadata block is not a mapping of fields"), end + 1
    return document, None, end + 1


@cache
def _markdown() -> MarkdownIt:
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])


def _sections(found: Sequence[Block]) -> tuple[Section, ...]:
    sections, path, blocks = [], (), []  # type: list[Section], tuple[Heading, ...], list[Block]
    for block in found:
        if isinstance(block, Heading):
            sections.append(Section(path, tuple(blocks)))
            path, blocks = (*(h for h in path if h.level < block.level), block), []
        else:
            blocks.append(block)
    return (*sections, Section(path, tuple(blocks)))


@dataclass
class _Walk:
    """A walk over markdown-it's tokens; ``numbers`` gives the file's line of each line that was parsed."""

    numbers: Sequence[int]
    found: list[Block] = field(default_factory=list)
    links: list[Link] = field(default_factory=list)
    tags: list[Tag] = field(default_factory=list)

    def blocks(self, tokens: Sequence[Token]) -> None:
        """Collect what the tokens hold."""
        i = 0
        while i < len(tokens):
            token = tokens[i]
            if token.type == "heading_open":
                self.found.append(Heading(self._line(token), int(token.tag[1]), self._inline(tokens[i + 1])))
            elif token.type == "inline" and tokens[i - 1].type == "paragraph_open":
                self.found.append(Prose(self._line(token), self._inline(token)))
            elif token.type in {"fence", "code_block"}:
                words = token.info.split()
                offset = 1 if token.type == "fence" else 0
                self.found.append(
                    Code(self._line(token, offset), words[0].lower() if words else "", token.content.rstrip("\n"))
                )
            elif token.type == "html_block":
                self._html(token.content, self._line(token))
            elif token.type == "table_open":
                i = self._table(tokens, i)
            i += 1

    def bibtex(self) -> list[tuple[int, str]]:
        """Texts that may hold BibTeX: code blocks and paragraphs with an entry's first line."""
        texts = [(b.line, b.text) for b in self.found if isinstance(b, Code | Prose)]
        return [(line, text) for line, text in texts if bibtex.looks_like(text)]

    def _line(self, token: Token, offset: int = 0) -> int:
        at = (token.map[0] if token.map else 0) + offset
        return self.numbers[min(at, len(self.numbers) - 1)] if self.numbers else 1

    def _table(self, tokens: Sequence[Token], start: int) -> int:
        rows: list[tuple[int, list[str]]] = []
        i = start + 1
        while tokens[i].type != "table_close":
            if tokens[i].type == "tr_open":
                rows.append((self._line(tokens[i]), []))
            elif tokens[i].type == "inline":
                rows[-1][1].append(self._inline(tokens[i], rows[-1][0]).strip())
            i += 1
        body = [Row(line, tuple(Cell.of(text) for text in cells)) for line, cells in rows[1:]]
        self.found.append(Table(rows[0][0], tuple(rows[0][1]), tuple(body)))
        return i

    def _inline(self, token: Token, line: int | None = None) -> str:
        """The plain text of inline content; its links, images and HTML are collected on the way."""
        line = line or self._line(token)
        out = ""
        opened: list[tuple[str, int]] = []
        for child in token.children or []:
            if child.type in {"text", "code_inline"}:
                out += child.content
            elif child.type in {"softbreak", "hardbreak"}:
                out += "\n"
                line += 1
            elif child.type == "html_inline":
                self._html(child.content, line)
            elif child.type == "link_open":
                opened.append((str(child.attrs.get("href", "")), len(out)))
            elif child.type == "link_close" and opened:
                target, since = opened.pop()
                self.links.append(Link(line, target, out[since:]))
            elif child.type == "image":
                self.links.append(Link(line, str(child.attrs.get("src", "")), child.content, image=True))
        return out

    def _html(self, text: str, line: int) -> None:
        def seen(tag: Tag) -> None:
            self.tags.append(tag)
            for name, image in (("href", False), ("src", True)):
                if name in tag.attributes:
                    is_image = image and tag.name == "img"
                    self.links.append(Link(tag.line, tag.attributes[name], tag.attributes.get("alt", ""), is_image))

        parser = _Tags(line, seen)
        parser.feed(text)
        parser.close()
        if words := "".join(parser.words).strip():
            self.found.append(Prose(line, words))


class _Tags(HTMLParser):
    def __init__(self, line: int, seen: Callable[[Tag], None]) -> None:
        super().__init__()
        self.first, self.seen = line, seen
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen(Tag(self.first + self.getpos()[0] - 1, tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.words.append(data)
