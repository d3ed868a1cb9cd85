"""C1: rules on citations, compared with the bibliography: title, arXiv id and authors must be those of one work.

BibTeX, links and sentences are read. A work that the bibliography does not hold is not checked.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from functools import cache

from eagle3hub.card import bibliography
from eagle3hub.card.bibliography import Reference
from eagle3hub.errors import Severity
from eagle3hub.lint.model import Card, Entry, Violation, rule

_ID = r"\d{4}\.\d{4,5}"
_ARXIV_URL = re.compile(rf"(?:arxiv\.org/(?:abs|pdf|html)|huggingface\.co/papers|hf\.co/papers)/({_ID})")
_SAME_TITLE = 0.9
_SHORTENED = 0.75
_ABOUT = re.compile(r"speculat|draft|decod|sampl|accelerat|inference|token|llm|language model", re.I)
_FEW_AUTHORS = 6
"""A list of so few authors is printed whole."""
_SOME_AUTHORS = 3
_SHORTEST = 5
"""The fewest letters of a shortened title."""


@rule(
    "C101",
    "error",
    "Title is not the title of the cited work",
    why="The arXiv id, or the name before the colon, leads to another title than the one printed. Invented titles of "
    "EAGLE-3 are copied from card to card; the Hub checks ids, nobody checks titles.",
    fix="Copy the entry from arXiv, or give the bibliography's key in release.yaml.",
)
def wrong_title(card: Card) -> Iterator[Violation]:
    """Report titles in BibTeX, links and quotation marks that differ from the bibliography's.

    A title belongs to a work by the arXiv id beside it, or by the work's name and a subtitle on speculative decoding.
    """
    by_id = bibliography.references()
    for entry in card.bibtex:
        printed = entry.fields.get("title", "")
        line = entry.lines.get("title", entry.line)
        known = by_id.get(entry.arxiv or "")
        if printed and known is not None and not _is_titled(printed, known) and _by_title(printed) in {None, known}:
            yield _other_title(line, known, printed)
        elif printed and known is None and (meant := _meant(printed)) is not None:
            authors = {_letters(last) for _, last in entry.authors} & set(map(_letters, meant.last_names))
            if authors or _ABOUT.search(printed):
                yield _other_title(line, meant, printed)
    for link in card.links:
        m = _ARXIV_URL.search(link.target)
        known = by_id.get(m[1]) if m else None
        if known is not None and (_is_other_subtitle(link.text, known.title) and not _is_titled(link.text, known)):
            yield _other_title(link.line, known, link.text)
    for hit in card.search(r"[\"“«《](?P<title>[A-Z][^\"“”»》]{12,160})[\"”»》]", tables=False):
        meant = _meant(hit.match["title"])
        around = hit.match.string[max(0, hit.match.start() - 80) : hit.match.end() + 80]
        if meant is not None and (meant.arxiv in around or _ABOUT.search(hit.match["title"])):
            yield _other_title(hit.line, meant, hit.match["title"])
    for line, title, arxiv in _said_titles(card):
        known = by_id.get(arxiv)
        if known is not None and _is_other_title(title, known):
            yield _other_title(line, known, title)


_SAID_ID = rf"(?:arXiv(?:\.org/(?:abs|pdf|html)/|[:：. ]{{1,2}})|(?:huggingface\.co|hf\.co)/papers/)(?P<id>{_ID})"
_BEFORE_AN_ID = 300
_END_OF_A_PART = re.compile(r"(?<=[^\W\d_]{2})[.?] |(?<=\d)[.] |[“”\"«»《》()（）\[\]，。；;]|:? \*|\* ")
_COMMA = re.compile(r"(?<=[^\W\d_]{2}), |(?<=[^\W\d_]{2}\.), ")


def _said_titles(card: Card) -> list[tuple[int, str, str]]:
    """Return what may be the title before each arXiv id in a sentence or a list: (line, text, id)."""
    if "said titles" not in card.cache:
        card.cache["said titles"] = list(_titles_before_ids(card))
    found: list[tuple[int, str, str]] = card.cache["said titles"]
    return found


def _titles_before_ids(card: Card) -> Iterator[tuple[int, str, str]]:
    end: tuple[str, int] = ("", 0)
    for hit in card.search(_SAID_ID, tables=False):
        text, start = hit.match.string, hit.match.start()
        begin = max(end[1] if end[0] is text else 0, start - _BEFORE_AN_ID)
        end = (text, hit.match.end())
        for part in _END_OF_A_PART.split(text[begin:start]):
            rest = part.partition(": ")[2]  # “Method: DFlash: Block Diffusion …”
            for title in {part, rest if ": " in rest else "", *_COMMA.split(part)}:
                if len(title.split()) > 2 and title.strip(" ,.:-–—"):
                    yield hit.line, title.strip(" ,.:-–—"), hit.match["id"]


_INITIALS = re.compile(r"\b[A-Z]\. ?(?:[A-Z]\. ?)?[A-Z][a-z]")
"""A person's initials and the beginning of the name behind them; two of them are a list of authors."""


def _is_other_title(title: str, known: Reference) -> bool:
    """Return whether words are set as the title of a known work, and are another: a new subtitle, or changed words."""
    if _normal(title).startswith(_normal(known.title)):
        return False  # with its venue
    if len(_INITIALS.findall(title)) > 1 or _is_titled(title, known) or _by_title(title) not in {None, known}:
        return False
    name, colon, rest = title.partition(":")
    if colon:
        return _normal(name) == _normal(known.name) and _is_a_title(rest)
    same = SequenceMatcher(None, _normal(title), _normal(known.title)).ratio()
    return _is_a_title(title) and len(title.split()) > 3 and same > _CHANGED


_CHANGED = 0.7


def _other_title(line: int, known: Reference, printed: str) -> Violation:
    return Violation(line, f"arXiv {known.arxiv} is “{known.title}”, not “{printed}”", f"title = {{{known.title}}}")


@rule(
    "C106",
    "error",
    "arXiv id is not that of the cited work",
    why="The title or the name is one work's, the id another's: readers land on a paper about something else, and the "
    "Hub lists the head under it.",
    fix="Give the id of the work that is named.",
)
def wrong_id(card: Card) -> Iterator[Violation]:
    """Report ids beside a known work's title or name that are not the work's, in BibTeX, links and sentences."""
    for entry in card.bibtex:
        known = _by_title(entry.fields.get("title", ""))
        if known is not None and entry.arxiv not in {None, known.arxiv}:
            yield _other_id(entry.lines.get("eprint", entry.line), entry.fields["title"], entry.arxiv or "", known)
    for link in card.links:
        m = _ARXIV_URL.search(link.target)
        if m is None:
            continue
        known = _by_title(link.text)
        if known is not None and m[1] != known.arxiv:
            yield _other_id(link.line, link.text, m[1], known)
        elif known is None:
            yield from _by_name(link.line, link.text, m[1])
    for line, title, arxiv in _said_titles(card):
        known = _by_title(title)
        if known is not None and known.arxiv != arxiv:
            yield _other_id(line, title, arxiv, known)
    names = "|".join(sorted((_pattern(name) for name in _names()), key=len, reverse=True))
    beside = rf"(?<![A-Za-z0-9-])(?P<name>{names})(?: paper)?[^.;\w]{{0,4}}\s?(?:arXiv[: ]{{1,2}})(?P<id>{_ID})"
    for hit in card.search(beside):
        yield from _by_name(hit.line, hit.match["name"], hit.match["id"])
    for _, table in card.tables:
        for row in table.rows[:_MOST_ROWS]:
            ids = {m for cell in row.cells[1:] for m in _BARE_ID.findall(cell.text)}
            if len(ids) == 1:
                yield from _by_name(row.line, row.cells[0].text, ids.pop())


_BARE_ID = re.compile(
    rf"(?:arxiv\.org/(?:abs|pdf|html)/|(?:huggingface\.co|hf\.co)/papers/|arXiv[: ]{{1,2}})({_ID})", re.I
)
_MOST_ROWS = 200


def _by_name(line: int, text: str, arxiv: str) -> Iterator[Violation]:
    """Yield the violation of an id that stands for a work's name and is of no work of that name.

    An id that the bibliography does not know may be of a work that it does not hold: then it is an error only if it is
    a slip of the right one.
    """
    named = _names().get(_normal(re.sub(r"\s+paper$", "", text.strip(), flags=re.I)))
    if named is None or arxiv == named.arxiv:
        return
    other = bibliography.references().get(arxiv)
    if other is not None and _normal(other.name).startswith(_normal(named.name)):
        return  # EAGLE for EAGLE-3
    slip = sum(a != b for a, b in zip(arxiv, named.arxiv, strict=False)) <= 2
    yield _other_id(line, text, arxiv, named, None if other is not None or slip else "warning")


def _other_id(line: int, text: str, arxiv: str, known: Reference, severity: Severity | None = None) -> Violation:
    other = bibliography.references().get(arxiv)
    what = f"which is “{other.title}”" if other is not None else f"and not {known.arxiv}"
    address = f"https://arxiv.org/abs/{known.arxiv}"
    return Violation(line, f"“{text}” is given arXiv {arxiv}, {what}", address, severity)


def _is_titled(text: str, known: Reference) -> bool:
    """Return whether a text is a title of a work, or the beginning of one: people shorten titles."""
    begun = _normal(text.rstrip(" .…"))
    titles = [_normal(title) for title in (known.title, *known.earlier)]
    return any(begun == title or (len(begun) >= _SHORTEST and title.startswith(begun)) for title in titles)


@cache
def _titles() -> dict[str, Reference]:
    works = bibliography.references().values()
    return {_normal(title): work for work in works for title in (work.title, *work.earlier)}


_KNOWN_BY = {"MT-Bench": "2306.05685", "HumanEval": "2107.03374", "GSM8K": "2110.14168", "MBPP": "2108.07732"}
"""Sets that are not named at the beginning of their paper's title."""


@cache
def _names() -> dict[str, Reference]:
    works = bibliography.references()
    named = {_normal(work.name): work for work in works.values() if work.name}
    return {_normal(name): works[arxiv] for name, arxiv in _KNOWN_BY.items() if arxiv in works} | named


def _pattern(name: str) -> str:
    """Return a pattern of a name in lower case without punctuation, with a hyphen or a space before its digits."""
    return re.sub(r"(?<=[a-z])(?=\d)", r"[- ]?", re.escape(name))


def _by_title(text: str) -> Reference | None:
    """Return the work whose title a text is, but for a few characters."""
    normal = _normal(text)
    if len(normal) < 12:
        return None
    if (exact := _titles().get(normal)) is not None:
        return exact
    for title, work in _titles().items():
        if re.findall(r"\d+", normal) != re.findall(r"\d+", title):
            continue  # Qwen2.5's report is not Qwen3's
        both = SequenceMatcher(None, normal, title)
        # the first two are upper bounds of the third, and cheap
        if abs(len(normal) - len(title)) < 12 and all(
            ratio() > _SAME_TITLE for ratio in (both.real_quick_ratio, both.quick_ratio, both.ratio)
        ):
            if _has_new_word(text, work.title):
                continue  # nor is Qwen3-TTS's
            return work
    return None


def _has_new_word(text: str, title: str) -> bool:
    """Return whether a text has a word that a title has not, nor one like it, beside all words of the title."""
    said, known = (re.findall(r"[^\W\d_]+", t.lower()) for t in (text, title))
    new = [w for w in said if w not in known and not any(SequenceMatcher(None, w, k).ratio() > 0.6 for k in known)]
    return len(said) > len(known) and bool(new)


def _meant(text: str) -> Reference | None:
    """Return the work whose name a text begins with, if the text then has another subtitle than that work."""
    name, colon, rest = text.partition(":")
    work = _names().get(_normal(name)) if colon and len(rest.split()) > 2 else None
    if work is None or _is_titled(text, work) or _by_title(text) is not None or not _is_a_title(rest):
        return None
    return work


def _is_a_title(text: str) -> bool:
    """Return whether words are set as a title: most of the long ones begin with a capital."""
    words = [word for word in re.findall(r"[^\W\d_][\w-]*", text) if len(word) > 3]
    capitals = sum(word[0].isupper() for word in words)
    return len(words) > 1 and 2 * capitals > len(words) and not re.search(r"\b(?:pdf|arxiv|blog|code)\b", text, re.I)


def _is_other_subtitle(text: str, title: str) -> bool:
    """Return whether a text starts with a work's name and a colon and then has another subtitle."""
    (name, colon, rest), (right, _, _) = text.partition(":"), title.partition(":")
    named = bool(colon) and _normal(name) == _normal(right) and len(rest.split()) > 2 and _is_a_title(rest)
    return named and SequenceMatcher(None, _normal(text), _normal(title)).ratio() < _SHORTENED


@rule(
    "C102",
    "error",
    "Authors are not the authors of the cited work",
    why="The credit goes to people who did not write the work, or not to those who did.",
    fix="Copy the authors from arXiv.",
)
def wrong_authors(card: Card) -> Iterator[Violation]:
    """Report people who did not write the work; as a warning, the authors that a short list leaves out.

    The order is free. Teams, and names in another script than the bibliography's, are not compared.
    """
    for entry, known in _known(card):
        right = {word for name in known.last_names for word in _name_words("", name)}
        people = [
            (first, last)
            for first, last in entry.authors
            if last.lower() not in {"others", ":", "et al", "al."} and _is_comparable(f"{first} {last}")
        ]
        cut = len(people) < len(entry.authors) or re.search(r"\bet al", " ".join(last for _, last in people))
        found = [right & _name_words(first, last) for first, last in people]
        strangers = [last for (_, last), known_as in zip(people, found, strict=True) if not known_as]
        named = set().union(*found)
        few = known.complete and len(known.last_names) <= _FEW_AUTHORS and not cut
        short = few and people and any(not named & _name_words("", name) for name in known.last_names)
        foreign: Sequence[object]
        if len(known.last_names) == 1 and known.complete:  # a company's report, whose people may be listed too
            foreign = [] if named else people
        elif known.complete:
            foreign = strangers
        else:
            persons = all(_PERSONS_NAME.fullmatch(name) for name in known.last_names)
            enough = len(known.last_names) >= _SOME_AUTHORS or (persons and len(people) > 1)
            foreign = people if not named and enough else []
        if people and (foreign or short):
            names = ", ".join(known.last_names) + ("" if known.complete else " and others")
            message = f"the authors of arXiv {known.arxiv} are {names}"
            severity: Severity | None = None if foreign else "warning"
            yield Violation(entry.lines.get("author", entry.line), message, severity=severity)
    for hit in card.search(_SAID_AUTHOR, tables=False):
        work = _by_title(hit.match["title"].strip(' .,*_”"'))
        if work is not None and work.last_names and _is_comparable(hit.match["name"]):
            right = {word for name in work.last_names for word in _name_words("", name)}
            if _letters(hit.match["name"]) not in right and (work.complete or len(work.last_names) >= _SOME_AUTHORS):
                message = (
                    f"“{hit.match['name']} et al.”: the authors of arXiv {work.arxiv} are {', '.join(work.last_names)}"
                )
                yield Violation(hit.line, message, severity="warning")

    for line, title, arxiv in _said_titles(card):
        work = _by_title(title)
        if work is not None and arxiv == work.arxiv and (work.complete or len(work.last_names) >= _SOME_AUTHORS):
            beside = _people_beside(card, line, title)
            right = {word for name in work.last_names for word in _name_words("", name)}
            if beside and not any(_letters(name.split()[-1]) in right for name in beside):
                shown = f"{', '.join(beside)}: the authors of arXiv {work.arxiv} are {', '.join(work.last_names)}"
                yield Violation(line, shown, severity="warning")


_PERSONS_NAME = re.compile(r"[A-Z][a-z’'-]+")
_PERSON = r"(?:(?-i:[A-Z])[\w'’-]*\.?[ -]){1,3}(?-i:[A-Z])[\w'’-]+"
_PEOPLE = rf"{_PERSON}(?:, {_PERSON})*(?:,? (?:and|&) {_PERSON})"
_PEOPLE_BEFORE = re.compile(rf"(?P<people>{_PEOPLE})\W{{0,4}}(?:\(?\d{{4}}\)?)?\W{{0,4}}$")
_PEOPLE_AFTER = re.compile(rf"\W{{0,4}}(?:by )?(?P<people>{_PEOPLE})\b")


def _people_beside(card: Card, line: int, title: str) -> list[str]:
    """Return the people whose names stand directly before or after a title in a sentence, two or more."""
    for hit in card.search(re.escape(title), tables=False):
        text, start, end = hit.match.string, hit.match.start(), hit.match.end()
        near = (_PEOPLE_BEFORE.search(text[max(0, start - 200) : start]), _PEOPLE_AFTER.match(text[end : end + 200]))
        if line - 3 <= hit.line <= line and (m := next((m for m in near if m), None)):
            return re.split(r", and |, | and | & ", m["people"])
    return []


_SAID_AUTHOR = (
    r"\b(?P<name>(?-i:[A-Z])[^\W\d_][\w’'-]*)(?:, (?-i:[A-Z])\.)*(?: et al\.?,?| ?等人?(?:的|提出的)?[，,:：]?)"
    r" ?(?:[(（]\d{4}[)）])?[,:.，]? ?[*_“\"《]{0,3}"
    r"(?P<title>(?-i:[A-Z])[^()（）:：\n“”\"*_\[\]《》，]{5,120}?(?:: (?-i:[A-Z])[^():\n“”\"*_\[\]《》，]{10,140}?)?)"
    r"[*_”\"》]{0,3}(?=[,.，。]? *(?:\(|（|\[|arXiv|$))"
)


_TEAM = re.compile(
    r"\b(?:team|labs?|inc|ai|research|group|university|community|project|contributors|authors|corporation)\b", re.I
)


def _is_comparable(name: str) -> bool:
    latin = all(ord(c) < 0x250 for c in unicodedata.normalize("NFKD", name) if c.isalpha())
    return latin and not _TEAM.search(name) and len(re.sub(r"[\W_]", "", name)) > 2


def _name_words(first: str, last: str) -> set[str]:
    """Return the words that may be a person's last name: people change their order, and some have two."""
    words = {_letters(word) for word in re.split(r"[\s-]+", f"{first} {last}") if len(word.strip(".")) > 1}
    return words | {_letters(last), _letters(first)}


@rule(
    "C103",
    "warning",
    "Method is named, its paper is not cited",
    why="A draft head that uses a published method should cite it, and readers look for the paper's definitions.",
    fix="Cite the paper with its arXiv id.",
    heads=True,
)
def missing_citation(card: Card) -> Iterator[Violation]:
    """Report a card that cites its method nowhere: the one that its title names, else EAGLE-3.

    A copied page lost its links, and a text that breaks off its end, so it is an info there.
    """
    title = next((s.path[-1].text for s in card.sections if s.path), "")
    of_title = [work for pattern, work in _METHODS if re.search(pattern, title, re.I)]
    name, arxiv = of_title[0] if len(of_title) == 1 else ("EAGLE-3", "2503.01840")
    known = bibliography.references()[arxiv]
    patterns = [pattern for pattern, work in _METHODS if work[0] == name] or [r"\beagle[- ]?3\b", r"\beagle\b"]
    named = next((hits for pattern in patterns if (hits := card.search(pattern))), [])
    if named and known.arxiv not in card.text and _normal(known.title) not in _normal(card.text):
        cited = ", ".join(e.key for e in card.bibtex)
        end = f"; it cites {cited}" if cited else ""
        message = f"the card is about {name} and does not cite it (arXiv {known.arxiv}){end}"
        lost = card.is_page_text or card.cut is not None
        yield Violation(named[0].line, message, severity="info" if lost else None)


_METHODS = (
    (r"(?<![A-Za-z])p-?eagle(?![A-Za-z0-9])", ("P-EAGLE", "2602.01469")),
    (r"(?<![A-Za-z])dflash(?![A-Za-z0-9]| 2)", ("DFlash", "2602.06036")),
    (r"(?<![A-Za-z])dspark(?![A-Za-z0-9])", ("DSpark", "2607.05147")),
    (r"(?<![A-Za-z])medusa(?![A-Za-z0-9])", ("Medusa", "2401.10774")),
)
"""The methods other than EAGLE-3 that a head's title may name: a pattern of the name, the name, the paper."""


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
    lines = card.text.split("\n")
    for entry in card.bibtex:
        given = {name for name, value in entry.fields.items() if value} | ({"author"} if entry.authors else set())
        given |= {"year"} if "date" in given else set()  # as biblatex calls it
        missing = [name for name in ("title", "author", "year") if name not in given]
        if len(entry.authors) == 1 and (at := entry.lines.get("author")):
            printed = _AUTHORS.sub("", lines[at - 1][:_LONGEST_LINE])
            if len(re.findall(r",\s+\w", printed.rstrip(" ,"))) > 1 and not re.search(r"\sand\s", printed):
                yield Violation(at, _BY_COMMAS)
        undated = entry.kind == "software" or "/datasets/" in entry.fields.get("url", "")
        if missing and not (undated and missing == ["year"]):
            yield Violation(entry.line, f"the entry {entry.key} has no {' and no '.join(missing)}")


_LONGEST_LINE = 2000
_AUTHORS = re.compile(r"^.*?\bauthor\s*=\s*|[}\"],?\s*\w+\s*=.*$", re.I)
"""What stands in the line of the authors before them, and after them: other fields."""
_BY_COMMAS = "the authors are joined by commas: BibTeX takes them for one person; write “and” between them"


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
        place = f"{entry.fields.get('booktitle', '')} {entry.fields.get('journal', '')}"
        stated = re.sub(rf"arxiv|preprint|corr|abs/|:|{_ID}", "", place, flags=re.I).strip(" ,.v")
        if known.venue and not stated and entry.kind not in {"inproceedings", "conference", "proceedings"}:
            yield Violation(entry.line, f"arXiv {known.arxiv} was published: {known.venue}")


def _known(card: Card) -> Iterator[tuple[Entry, Reference]]:
    """Yield the entries of known works: by their arXiv id, else by their title."""
    by_id = bibliography.references()
    for entry in card.bibtex:
        known = by_id.get(entry.arxiv or "") or _by_title(entry.fields.get("title", ""))
        if known is not None:
            yield entry, known


def _normal(text: str) -> str:
    """Return letters and digits alone, because hyphens, case and punctuation do not change a title."""
    return re.sub(r"[\W_]+", "", _letters(text))


def _letters(text: str) -> str:
    if text.isascii():
        return text.casefold().strip()
    bare = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return bare.casefold().strip()
