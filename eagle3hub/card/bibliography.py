"""The bibliography: cards cite works by key; all titles and authors come from ``bibliography.bib``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from eagle3hub.errors import ManifestError

if TYPE_CHECKING:
    from pybtex.database import BibliographyData, Entry

ALWAYS = ("eagle3",)
"""Keys that every card cites."""

_EARLIER = "titleearlier"
"""The field of the file for titles of earlier versions, with a bar between them; it is not printed."""
_FILE = Path(__file__).with_name("bibliography.bib")


@dataclass(frozen=True, slots=True)
class Work:
    """One cited work, ready to print; ``url`` is its arXiv page, DOI or repository, if known."""

    key: str
    title: str
    authors: str
    year: str | None
    url: str | None


@dataclass(frozen=True, slots=True)
class Reference:
    """What the bibliography knows about a work with an arXiv id, for checking a citation of it.

    ``complete`` is false if the bibliography names only its first authors; ``earlier`` are titles of earlier versions.
    """

    arxiv: str
    title: str
    last_names: tuple[str, ...]
    complete: bool
    venue: str | None
    earlier: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The work's name, which its title begins with before a colon; empty if the title has none."""
        name, colon, _ = self.title.partition(":")
        return name if colon and len(name.split()) <= 3 else ""


@cache
def references() -> dict[str, Reference]:
    """Return every work that has an arXiv id, keyed by that id."""
    found = {}
    for entry in _data().entries.values():
        if arxiv := entry.fields.get("eprint"):
            last = [_plain(" ".join([*p.prelast_names, *p.last_names])) for p in entry.persons["author"]]
            named = tuple(name for name in last if name != "others")
            venue = entry.fields.get("booktitle")
            earlier = tuple(
                title.strip() for title in _plain(entry.fields.get(_EARLIER, "")).split("|") if title.strip()
            )
            complete = len(named) == len(last)
            found[arxiv] = Reference(arxiv, _plain(entry.fields["title"]), named, complete, venue, earlier)
    return found


def keys() -> list[str]:
    """Return every key of the bibliography, sorted."""
    return sorted(_data().entries)


def with_always(cited: Sequence[str]) -> list[str]:
    """Return the keys to print: `ALWAYS` first, then ``cited`` in order, each once."""
    return list(dict.fromkeys([*ALWAYS, *cited]))


def key_of(name: str) -> str:
    """Return the key of a work that a manifest names by key or arXiv id. Raises ManifestError if it is unknown."""
    if re.fullmatch(r"\d{4}\.\d{4,5}", name):
        for key, entry in _data().entries.items():
            if entry.fields.get("eprint") == name:
                return str(key)
        raise ManifestError(
            f"the bibliography holds no work with the arXiv id {name}",
            hint="give its BibTeX entry under bibtex:",
            code="manifest-citation",
        )
    _entry(name)
    return name


def own_works(text: str) -> tuple[list[Work], str]:
    """Return the works of a manifest's own BibTeX, as prose prints them and as BibTeX.

    Raises ManifestError if it cannot be parsed, or if an entry has no title, author or year or has a key of the
    bibliography.
    """
    from pybtex.database.input.bibtex import Parser
    from pybtex.exceptions import PybtexError

    hint = "paste the entry as arXiv gives it: @misc{key, title={...}, author={...}, year={...}, eprint={...}}"
    try:
        entries = Parser().parse_string(text).entries if text else {}
    except PybtexError as error:
        raise ManifestError(f"bibtex cannot be parsed: {error}", hint=hint, code="manifest-bibtex") from error
    if text and not entries:
        raise ManifestError("bibtex holds no entry", hint=hint, code="manifest-bibtex")
    for key, entry in entries.items():
        given = {**entry.fields, "author": entry.persons.get("author")}
        if missing := [name for name in ("title", "author", "year") if not given.get(name)]:
            message = f"the entry {key} of bibtex has no {' and no '.join(missing)}"
            raise ManifestError(message, hint=hint, code="manifest-bibtex")
        if key in _data().entries:
            message = f"{key} of bibtex is a key of the bibliography"
            raise ManifestError(message, hint=f"cite it with citations: [{key}]", code="manifest-bibtex")
    works = [_work(key, entry) for key, entry in entries.items()]
    return works, "\n\n".join(_format(key, entry) for key, entry in entries.items())


def bibtex(cited: Sequence[str]) -> str:
    """Return the entries as BibTeX, in the order given. Raises ManifestError for an unknown key.

    Values are printed as in the file: they are BibTeX already, and escaping them again would break addresses.
    """
    return "\n\n".join(_format(key, _entry(key)) for key in cited)


def _format(key: str, entry: Entry) -> str:
    names = " and ".join(str(person) for person in entry.persons["author"])
    fields = {"title": entry.fields["title"], "author": names, **entry.fields}
    fields.pop(_EARLIER, None)
    body = ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items())
    return f"@{entry.type}{{{key},\n{body}\n}}"


def work(key: str) -> Work:
    """Return what prose prints about one work. Raises ManifestError for an unknown key."""
    return _work(key, _entry(key))


def _work(key: str, entry: Entry) -> Work:
    last_names = [" ".join([*p.prelast_names, *p.last_names]) for p in entry.persons["author"]]
    short = " and ".join(last_names)
    if len(last_names) > 2 or "others" in last_names:
        short = f"{last_names[0]} et al."
    fields = entry.fields
    url = f"https://arxiv.org/abs/{fields['eprint']}" if "eprint" in fields else fields.get("url")
    if url is None and "doi" in fields:
        url = f"https://doi.org/{fields['doi']}"
    return Work(key, _plain(fields["title"]), _plain(short), fields.get("year"), url)


def _entry(key: str) -> Entry:
    from eagle3hub.system.documents import did_you_mean

    try:
        return _data().entries[key]
    except KeyError:
        raise ManifestError(
            f"unknown citation {key!r}{did_you_mean(key, keys())}",
            hint=f"keys of the bibliography: {', '.join(keys())}",
            code="manifest-citation",
        ) from None


@cache
def _data() -> BibliographyData:
    from pybtex.database.input.bibtex import Parser  # by name: pybtex's own search reads every installed package

    return Parser().parse_string(_FILE.read_text(encoding="utf-8"))


def _plain(text: str) -> str:
    return text.replace("{", "").replace("}", "").replace("\\&", "&")
