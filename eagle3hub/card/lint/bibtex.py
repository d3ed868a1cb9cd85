"""BibTeX entries of a card, parsed by pybtex, with the line each stands on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from eagle3hub.card.lint.model import Entry

_START = re.compile(r"^[ \t]*@(?P<kind>[A-Za-z]+)\s*\{\s*(?P<key>[^\s,{}]*)\s*,", re.MULTILINE)
_FIELD = re.compile(r"^\s*(?P<name>[A-Za-z][\w-]*)\s*=", re.MULTILINE)
_KINDS_TEXT = (
    "article book booklet conference dataset electronic inbook incollection inproceedings manual mastersthesis misc "
    "online phdthesis preprint proceedings report software techreport unpublished"
)
_KINDS = frozenset(_KINDS_TEXT.split())


def looks_like(text: str) -> bool:
    """Whether an entry starts anywhere in the text (``@app.get`` of a Python example does not)."""
    return any(m["kind"].lower() in _KINDS for m in _START.finditer(text))


def entries(texts: Iterable[tuple[int, str]]) -> tuple[list[Entry], list[tuple[int, str]]]:
    """The entries of texts given with their first line, and (line, why) of what cannot be parsed."""
    good: list[Entry] = []
    bad: list[tuple[int, str]] = []
    for first, text in texts:
        for start, chunk in _chunks(text):
            line = first + text.count("\n", 0, start)
            try:
                good.append(_entry(chunk, line))
            except ValueError as error:
                bad.append((line, str(error)))
    return good, bad


def plain(text: str) -> str:
    """A BibTeX value as people read it."""
    return " ".join(text.replace("{", "").replace("}", "").replace("\\&", "&").replace("~", " ").split())


def _chunks(text: str) -> Iterator[tuple[int, str]]:
    starts = [m.start() + len(m[0]) - len(m[0].lstrip()) for m in _START.finditer(text) if m["kind"].lower() in _KINDS]
    for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
        yield start, text[start:end]


def _entry(chunk: str, line: int) -> Entry:
    from pybtex.database import parse_string
    from pybtex.exceptions import PybtexError

    try:
        (entry,) = parse_string(chunk, "bibtex").entries.values()
        authors = [
            (plain(" ".join([*p.first_names, *p.middle_names])), plain(" ".join([*p.prelast_names, *p.last_names])))
            for p in entry.persons.get("author", [])
        ]
    except PybtexError as error:
        raise ValueError(" ".join(str(error).split())) from error
    names = {name.lower(): plain(value) for name, value in entry.fields.items()}
    lines = {m["name"].lower(): line + chunk.count("\n", 0, m.start("name")) for m in _FIELD.finditer(chunk)}
    return Entry(line, entry.key, entry.type.lower(), names, tuple(authors), lines)
