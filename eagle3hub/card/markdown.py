"""Make text from outside inert: it shows as typed, and does nothing in Markdown, HTML, KaTeX or a terminal.

`Md` marks our own Markdown. Everything else is escaped when a template prints it (`finalize`), so no template can
forget to escape.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from eagle3hub.system.text import visible


class Md(str):
    """Markdown that is safe to print unchanged. Any string operation on it gives plain text, to be escaped again."""

    __slots__ = ()


_ACTIVE = str.maketrans({
    "&": "&amp;", "<": "&lt;", ">": "&gt;", "\\": "&#92;", "|": "&#124;", "$": "&#36;", "@": "&#64;",
    "`": "\\`", "*": "\\*", "_": "\\_", "~": "\\~", "[": "\\[", "]": "\\]",
})  # fmt: skip
_BLOCK_START = re.compile(r"^(#|\+(?=\s|$)|-(?=[\s-]|$)|=(?==|\s|$)|\d{1,9}(?=[.)](?:\s|$)))")
_AUTOLINK = re.compile(r"(?i)(:)(?=//)|(?<=mailto)(:)|(?<=xmpp)(:)|(?<=www)(\.)")
_CHART = 520
"""Width of a chart in a page, in pixels."""
_URL = re.compile(r"^https://[A-Za-z0-9.-]+(?::[0-9]+)?(?:/|\Z)")


def escape(text: str) -> Md:
    """Escape plain text to one line of Markdown that renders as exactly that text, wherever in a line it stands."""
    if isinstance(text, Md):
        return text
    line = visible(text).strip().translate(_ACTIVE)
    return Md(_BLOCK_START.sub(_entity, _AUTOLINK.sub(_entity, line)))


def _entity(match: re.Match[str]) -> str:
    return f"&#{ord(match[0][0])};{match[0][1:]}"


def finalize(value: Any) -> str:
    """Prepare a value for a template: `Md` and whole numbers stay as they are, text is escaped.

    Raises TypeError for floats, booleans, None and containers, which must be formatted before a template sees them.
    """
    if isinstance(value, Md):
        return value
    if isinstance(value, str):
        return escape(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise TypeError(f"a template printed a {type(value).__name__}; only text and whole numbers can be printed")


def code(text: str) -> Md:
    """Write text as a code span, or as a ``code`` element if a pipe in it would end a table's cell."""
    body = visible(str(text)).strip() or " "
    if "|" in body:
        return Md(f"<code>{escape(body)}</code>")
    ticks = "`" * (max((len(run) for run in re.findall("`+", body)), default=0) + 1)
    pad = " " if body.startswith("`") or body.endswith("`") else ""
    return Md(f"{ticks}{pad}{body}{pad}{ticks}")


def fence(text: str, language: str = "") -> Md:
    """Write text as a fenced code block that its own content cannot close."""
    body = visible(str(text), keep_lines=True).strip("\n")
    ticks = "`" * max(3, max((len(run) for run in re.findall("`+", body)), default=0) + 1)
    return Md(f"{ticks}{language}\n{body}\n{ticks}")


@dataclass(frozen=True, slots=True)
class Table:
    """A table of text whose columns depend on what there is to show; ``align`` has ``l``, ``r`` or ``c`` for each."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    align: str


def table(header: Sequence[str], rows: Sequence[Sequence[str | int]], align: str = "") -> Md:
    """Write a table; without ``align`` the first column stands to the left, all others to the right.

    Cells are escaped, like everything that a template prints. Templates spell out a table whose columns are always
    the same.
    """
    sides = align or "l" + "r" * (len(header) - 1)
    lines = [[finalize(cell) for cell in cells] for cells in (header, *rows)]
    first, *others = (f"| {' | '.join(cells)} |" for cells in lines)
    return Md("\n".join([first, f"|{'|'.join(_SIDES[side] for side in sides)}|", *others]))


_SIDES = {"l": ":--", "c": ":-:", "r": "--:"}


def section_fault(text: str) -> str | None:
    """Return why the makers' own Markdown cannot be a section of a card; None if it can.

    It must not end inside a code block or a piece of HTML, which would swallow the rest of the card, nor hold a
    heading of the card's own level.
    """
    from markdown_it import MarkdownIt

    end = "END-OF-SECTION"
    tokens = MarkdownIt("commonmark").parse(f"{visible(text, keep_lines=True)}\n\n{end}")
    if len(tokens) < 3 or tokens[-3].type != "paragraph_open" or tokens[-3].level or tokens[-2].content != end:
        return "ends inside a code block, a list or a piece of HTML; close it"
    if any(token.type == "heading_open" and token.tag in {"h1", "h2"} for token in tokens):
        return "has a heading of the card's own level; begin headings with ###"
    return None


def section(text: str) -> Md:
    """Return the makers' own Markdown unchanged, except for invisible characters."""
    return Md(visible(text, keep_lines=True).strip("\n"))


def link(text: str, url: str) -> Md:
    """Write a link; plain text if the address is not https."""
    label = escape(text)
    if not _URL.match(url):
        return label
    return Md(f"[{label}]({quote(visible(url), safe=':/?#@!&=+,;%~-._')})")


def jump(text: str, heading: str) -> Md:
    """Write a link to a heading of the same page, by the anchor that the Hub and GitHub give it."""
    kept = "".join(c for c in visible(heading).lower() if c.isalnum() or c in " -_")
    return Md(f"[{escape(text)}](#{quote(kept.strip().replace(' ', '-'))})")


def file_link(text: str, path: str) -> Md:
    """Write a link to a file of the same repository; plain text for a path that leaves it."""
    if path.startswith("/") or ".." in path.split("/") or ":" in path or not path:
        return escape(text)
    return Md(f"[{escape(text)}]({_quoted(path)})")


def _quoted(path: str) -> str:
    return quote(visible(path), safe="/-._")


def chart(alt: str, path: str) -> Md:
    """Show a chart of the same repository: its PNG with alt text, linked to its SVG for zooming.

    ``path`` has no ending. If it leaves the repository, only the alt text is shown. The picture is as wide as its text
    is large, and narrower on a phone: only HTML can say so.
    """
    if not file_link(alt, f"{path}.png").startswith("["):
        return escape(alt)
    said = html.escape(" ".join(visible(alt).split()))
    return Md(f'<a href="{_quoted(path)}.svg"><img src="{_quoted(path)}.png" alt="{said}" width="{_CHART}"></a>')
