"""C0 and C7: the file itself: links, images, HTML, hidden characters, pickles, empty sections."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from eagle3hub.card.lint.model import Card, Prose
from eagle3hub.card.lint.registry import Found, rule

_ACTIVE_TAGS = {"script", "iframe", "object", "embed", "form", "style", "link", "meta", "base", "svg", "input"}
_BIDI = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c")
_HARMLESS = set("\u200c\u200d\u00ad\t")
_PICKLE = r"\b[\w.-]*(?:model|eagle\w*|head|draft\w*|weights|checkpoint|adapter)[\w.-]*\.(?:bin|pt|pth|ckpt|pkl)\b"
_PICKLE_NAMES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@rule(
    "C001",
    "info",
    "This is the text of a page, not a card's source",
    why="Copying a rendered page loses the metadata block, links, image names and part of the structure; rules about "
    "those are not applied.",
    fix="Check the repository's README.md (hf://owner/name).",
)
def page_text(card: Card) -> Iterator[Found]:
    """Files that end in the Hub's footer."""
    if card.is_page_text:
        yield Found(1, "metadata, links and images cannot be checked")


@rule(
    "C701",
    "error",
    "Relative link leads nowhere",
    why="On the Hub the reader gets a 404, or a picture that is missing.",
    fix="Add the file to the repository, or correct the path.",
)
def broken_link(card: Card) -> Iterator[Found]:
    """Links and images with paths that are not among the repository's files."""
    if card.files is None:
        return
    folders = {str(parent) for name in card.files for parent in PurePosixPath(name).parents}
    for link in card.links:
        parts = urlsplit(link.target)
        path = unquote(parts.path)
        if parts.scheme or parts.netloc or not path or path.startswith("/"):
            continue
        clean = _normal(path)
        if clean is None or (clean not in card.files and clean not in folders):
            what = "image" if link.image else "link"
            yield Found(link.line, f"the {what} {link.target} leads to no file of the repository")


def _normal(path: str) -> str | None:
    """A path without ``.`` and ``..``; None where it leaves the repository."""
    out: list[str] = []
    for part in path.split("/"):
        if part == "..":
            if not out:
                return None
            out.pop()
        elif part not in {"", "."}:
            out.append(part)
    return "/".join(out) or "."


@rule(
    "C702",
    "error",
    "Active content",
    why="The Hub strips scripts, but cards are copied to sites, editors and notebooks that do not.",
    fix="Use Markdown; plain HTML tables and images are fine.",
)
def active(card: Card) -> Iterator[Found]:
    """Scripts, frames, forms, event handlers, and links that run code."""
    for tag in card.tags:
        handlers = sorted(name for name in tag.attributes if name.startswith("on"))
        if tag.name in _ACTIVE_TAGS:
            yield Found(tag.line, f"the tag <{tag.name}>")
        elif handlers:
            yield Found(tag.line, f"the tag <{tag.name}> has {', '.join(handlers)}")
    for link in card.links:
        scheme = re.sub(r"[\s\x00-\x1f]", "", link.target).partition(":")[0].lower()
        if scheme in {"javascript", "vbscript"} or link.target.lower().startswith("data:text"):
            yield Found(link.line, f"a link of scheme {scheme}:")


@rule(
    "C703",
    "error",
    "Invisible characters",
    why="Direction marks and control characters make a command or a number read otherwise than it is copied.",
    fix="Delete them.",
)
def invisible(card: Card) -> Iterator[Found]:
    """Direction marks and controls; other format characters as a warning."""
    for number, line in enumerate(card.text.split("\n"), 1):
        odd = [c for c in line if unicodedata.category(c) in {"Cc", "Cf"} and c not in _HARMLESS]
        if odd:
            bad = any(c in _BIDI or unicodedata.category(c) == "Cc" for c in odd)
            names = ", ".join(dict.fromkeys(f"U+{ord(c):04X}" for c in odd))
            yield Found(number, f"this line holds {names}", severity=None if bad else "warning")


@rule(
    "C704",
    "warning",
    "Weights as pickles",
    why="A pickle can run code when it is loaded; engines refuse or warn, and nobody can read its header alone.",
    fix="Publish safetensors, and delete the pickle.",
)
def pickles(card: Card) -> Iterator[Found]:
    """Pickled weights that the card names or the repository holds, and torch.load without weights_only."""
    held = sorted(
        name for name in card.files or () if name.endswith(_PICKLE_NAMES) and not name.startswith("training_args")
    )
    held = held if "config.json" in (card.files or ()) else []
    if held:
        yield Found(1, f"the repository holds {', '.join(held[:5])}{' …' if len(held) > 5 else ''}")
    seen = set(held)
    for hit in card.search(_PICKLE):
        if hit.match[0] not in seen:
            seen.add(hit.match[0])
            yield Found(hit.line, f"{hit.match[0]} is a pickle")
    for block in card.code:
        for m in re.finditer(rf"torch\.load\((?![^)]*weights_only\s*=\s*True)|{_PICKLE}", block.text):
            if m[0] not in seen:
                seen.add(m[0])
                line = block.line + block.text.count("\n", 0, m.start())
                yield Found(line, f"{m[0].rstrip('(')} reads a pickle" if "load" in m[0] else f"{m[0]} is a pickle")


@rule(
    "C705",
    "warning",
    "Markup is printed instead of rendered",
    why="A missing space or an unclosed pair of asterisks shows as such on the page.",
    fix="Put a space after #, and close every **.",
)
def raw_markup(card: Card) -> Iterator[Found]:
    """Hashes without a space at a line's start, and asterisks that open nothing."""
    found = []
    for _, prose in card.of(Prose):
        for i, line in enumerate(prose.text.split("\n")):
            if m := re.match(r"\s*#{2,6}(?=[A-Za-z])\w*|\s*\*\*(?=\s)|.*?\s\*\*(?=[A-Z])\w+", line):
                found.append((prose.line + i, m[0].strip()))
    if found:
        more = f" (and {len(found) - 1} lines more)" if len(found) > 1 else ""
        yield Found(found[0][0], f"“{found[0][1][-40:]}” is printed with its markup{more}")


@rule(
    "C706",
    "info",
    "Section is empty",
    why="A heading without content looks like something that got lost.",
    fix="Fill it or delete it.",
)
def empty(card: Card) -> Iterator[Found]:
    """Headings that no text, table, code, picture or deeper heading follows."""
    if card.is_page_text:
        return
    for section, after in zip(card.sections, [*card.sections[1:], None], strict=True):
        if not section.path or section.blocks:
            continue
        here = section.path[-1]
        next_line = after.path[-1].line if after else card.text.count("\n") + 2
        filled = any(
            here.line < line < next_line for line in [x.line for x in card.links] + [x.line for x in card.tags]
        )
        deeper = after is not None and after.path[-1].level > here.level
        if not filled and not deeper:
            yield Found(here.line, f"nothing follows the heading “{here.text}”")


@rule(
    "C707",
    "info",
    "Image without a description",
    why="People who cannot see the chart, and the Hub's text view, get nothing.",
    fix="Say in the alternative text what the picture shows.",
)
def undescribed(card: Card) -> Iterator[Found]:
    """Images with an empty alternative text."""
    for link in card.links:
        if link.image and not link.text.strip():
            yield Found(link.line, f"the image {link.target} has no alternative text")
