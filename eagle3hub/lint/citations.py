"""C1: rules on citations, compared with the bibliography by arXiv id."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from difflib import SequenceMatcher

from eagle3hub.card import bibliography
from eagle3hub.card.bibliography import Reference
from eagle3hub.lint.model import Card, Entry, Violation, rule

_ARXIV_URL = re.compile(r"(?:arxiv\.org/(?:abs|pdf|html)|huggingface\.co/papers|hf\.co/papers)/(\d{4}\.\d{4,5})")
_SAME_TITLE = 0.9
_SHORTENED = 0.75
_EARLIER = {"2312.07104": ("efficientlyprogramminglargelanguagemodelsusingsglang",)}
"""Titles of earlier versions on arXiv, as `_normal` writes them."""


@rule(
    "C101",
    "error",
    "Title is not the title of the cited work",
    why="The arXiv id leads to another title than the one printed. Invented titles of EAGLE-3 are copied from card to "
    "card; the Hub checks ids, nobody checks titles.",
    fix="Copy the entry from arXiv, or give the bibliography's key in release.yaml.",
)
def wrong_title(card: Card) -> Iterator[Violation]:
    """Report BibTeX titles that differ from the bibliography's, and link texts that are another work's title."""
    for entry, known in _known(card):
        printed = entry.fields.get("title", "")
        if printed and _normal(printed) not in {_normal(known.title), *_EARLIER.get(known.arxiv, ())}:
            yield Violation(
                entry.lines.get("title", entry.line),
                f"arXiv {known.arxiv} is “{known.title}”, not “{printed}”",
                f"title = {{{known.title}}}",
            )
    by_id = bibliography.references()
    for link in card.links:
        m = _ARXIV_URL.search(link.target)
        if m is None or m[1] not in by_id:
            continue
        for other in by_id.values():
            if other.arxiv == m[1] and _is_other_subtitle(link.text, other.title):
                yield Violation(link.line, f"arXiv {m[1]} is “{other.title}”, not “{link.text}”", other.title)
            elif other.arxiv != m[1] and _is_title(link.text, other.title):
                message = f"the link “{link.text}” leads to arXiv {m[1]}, which is “{by_id[m[1]].title}”"
                yield Violation(link.line, message, f"https://arxiv.org/abs/{other.arxiv}")


def _is_title(text: str, title: str) -> bool:
    """Return whether a text is a work's title but for a few characters."""
    both = SequenceMatcher(None, _normal(text), _normal(title))
    # the first two are upper bounds of the third, and cheap
    return all(ratio() > _SAME_TITLE for ratio in (both.real_quick_ratio, both.quick_ratio, both.ratio))


def _is_other_subtitle(text: str, title: str) -> bool:
    """Return whether a text starts with a work's name and a colon and then has another subtitle."""
    (name, colon, rest), (right, _, _) = text.partition(":"), title.partition(":")
    named = bool(colon) and _normal(name) == _normal(right) and len(rest.split()) > 2
    return named and SequenceMatcher(None, _normal(text), _normal(title)).ratio() < _SHORTENED


@rule(
    "C102",
    "error",
    "Authors are not the authors of the cited work",
    why="The credit goes to people who did not write the work, or not to those who did.",
    fix="Copy the authors from arXiv.",
)
def wrong_authors(card: Card) -> Iterator[Violation]:
    """Report authors whose last names differ in order, as far as both sides list them."""
    for entry, known in _known(card):
        printed = [_letters(last) for _, last in entry.authors if last.lower() != "others"]
        right = [_letters(name) for name in known.last_names]
        cut = any(last.lower() == "others" for _, last in entry.authors) or not known.complete
        both = min(len(printed), len(right)) if cut else max(len(printed), len(right))
        if printed and printed[:both] != right[:both]:
            names = ", ".join(known.last_names) + ("" if known.complete else " and others")
            message = f"the authors of arXiv {known.arxiv} are {names}"
            yield Violation(entry.lines.get("author", entry.line), message)


@rule(
    "C103",
    "warning",
    "Method is named, its paper is not cited",
    why="A draft head that uses a published method should cite it, and readers look for the paper's definitions.",
    fix="Cite the paper with its arXiv id.",
)
def missing_citation(card: Card) -> Iterator[Violation]:
    """Report a card that names EAGLE-3 and shows no sign of its paper."""
    known = bibliography.references()["2503.01840"]
    named = card.search(r"\beagle[- ]?3\b") or card.search(r"\beagle\b")
    if named and known.arxiv not in card.text and _normal(known.title) not in _normal(card.text):
        cited = ", ".join(e.key for e in card.bibtex)
        end = f"; it cites {cited}" if cited else ""
        message = f"the card is about EAGLE-3 and does not cite it (arXiv {known.arxiv}){end}"
        yield Violation(named[0].line, message)


@rule(
    "C104",
    "warning",
    "BibTeX entry cannot be used",
    why="An entry that does not parse, or lacks a title, an author or a year, breaks or disfigures the bibliography "
    "of everyone who pastes it.",
    fix="Give every entry a key, a title, an author and a year, and close its braces.",
)
def unusable_entry(card: Card) -> Iterator[Violation]:
    """Report entries that pybtex refuses, and entries without the three fields that every style prints."""
    for line, why in card.bad_bibtex:
        yield Violation(line, f"this entry cannot be parsed: {why}")
    for entry in card.bibtex:
        given = {name for name, value in entry.fields.items() if value} | ({"author"} if entry.authors else set())
        missing = [name for name in ("title", "author", "year") if name not in given]
        undated = entry.kind == "software" or "/datasets/" in entry.fields.get("url", "")
        if missing and not (undated and missing == ["year"]):
            yield Violation(entry.line, f"the entry {entry.key} has no {' and no '.join(missing)}")


@rule(
    "C105",
    "info",
    "Published work is cited as a preprint",
    why="The work has been published since; citing the venue gives its authors credit where credit is counted.",
    fix="Use @inproceedings with the venue.",
)
def cited_as_preprint(card: Card) -> Iterator[Violation]:
    """Report entries without a venue for works that have one."""
    for entry, known in _known(card):
        if known.venue and entry.kind not in {"inproceedings", "conference", "proceedings"}:
            yield Violation(entry.line, f"arXiv {known.arxiv} was published: {known.venue}")


def _known(card: Card) -> Iterator[tuple[Entry, Reference]]:
    by_id = bibliography.references()
    for entry in card.bibtex:
        if entry.arxiv in by_id:
            yield entry, by_id[entry.arxiv]


def _normal(text: str) -> str:
    """Return letters and digits alone, because hyphens, case and punctuation do not change a title."""
    return "".join(c for c in _letters(text) if c.isalnum())


def _letters(text: str) -> str:
    bare = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return bare.casefold().strip()
