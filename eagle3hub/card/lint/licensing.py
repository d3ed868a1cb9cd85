"""C60x: the license, in metadata and in prose."""

from __future__ import annotations

import re
from collections.abc import Iterator

from eagle3hub.card.lint import licenses
from eagle3hub.card.lint.model import Card
from eagle3hub.card.lint.registry import Found, rule
from eagle3hub.schema_faults import near

_SECTION = r"licen[cs]e|terms of use"


@rule(
    "C601",
    "error",
    "License is missing",
    why="Without a license nobody may use the head; the Hub's filters do not show it.",
    fix="Add license: to the metadata, with an id of the Hub's list.",
)
def missing(card: Card) -> Iterator[Found]:
    """No license in the metadata; in the text of a page, none in the text."""
    if card.is_page_text:
        if not card.says(_SECTION):
            yield Found(1, "the text names no license; the page's header, which was not copied, may", severity="info")
    elif card.front is not None and not card.listed("license"):
        yield Found(card.metadata_line(), "the metadata has no license")


@rule(
    "C602",
    "error",
    "License is not an id of the Hub",
    why="The Hub refuses to list what it does not know, and its ids are lower case and not always SPDX's.",
    fix="Use an id of the Hub's list, or license: other with license_name and license_link.",
)
def unknown_id(card: Card) -> Iterator[Found]:
    """License ids that are not in the Hub's list."""
    for value in card.listed("license"):
        if value not in licenses.HUB_IDS:
            meant = licenses.printed(value)
            end = f"; the Hub's id is {min(meant)}" if meant else near(value, sorted(licenses.HUB_IDS))
            yield Found(card.metadata_line("license"), f"{value!r} is not a license id of the Hub{end}")


@rule(
    "C603",
    "error",
    "License is “other”, without name and link",
    why="“other” alone says that there are terms and not which.",
    fix="Add license_name (a lower-case id) and license_link (an address, or LICENSE in the repository).",
)
def other(card: Card) -> Iterator[Found]:
    """``license: other`` without both of its companions."""
    if card.listed("license") == ["other"]:
        absent = [name for name in ("license_name", "license_link") if not card.listed(name)]
        if absent:
            yield Found(card.metadata_line("license"), f"license: other without {' and '.join(absent)}")


@rule(
    "C604",
    "warning",
    "License is deduced from the base model's",
    why="A head's license is its author's choice, bounded by the terms of target, training data and generator. That "
    "it equals the target's follows from nothing.",
    fix="State the head's license, and beside it those of target and training data.",
)
def deduced(card: Card) -> Iterator[Found]:
    """“Consistent with the base model's license” and its relatives."""
    derived = (
        r"(?:consistent with|same (?:license )?as|inherit\w*(?: \w+){0,3}(?: from)?|follows|identical to|in line with)"
    )
    base = r"(?:the |its )?(?:base|target|original|underlying|verifier) model"
    for hit in card.search(rf"{derived}(?: \w+){{0,3}} {base}(?:'s|’s)?(?: \w+)?"):
        if re.search("licen", hit.match[0] + hit.section.title, re.I):
            yield Found(hit.line, f"“{hit.match[0]}”")


@rule(
    "C605",
    "error",
    "License of the text is not that of the metadata",
    why="Two licenses mean that neither can be relied on.",
    fix="Make them one.",
)
def contradiction(card: Card) -> Iterator[Found]:
    """Licenses named under the license heading, none of which is the metadata's."""
    stated = set(card.listed("license"))
    if not stated or stated & {"other", "unknown"}:
        return
    for section in card.sections:
        here = section.path[-1] if section.path else None
        if here is None or here.level == 1 or not re.search(_SECTION, here.text, re.I):
            continue
        lines = [h for h in card.search(r".+") if h.section is section]
        named = set().union(*(licenses.printed(h.match[0]) for h in lines), set())
        if named and not named & stated:
            line = next(h.line for h in lines if licenses.printed(h.match[0]))
            yield Found(line, f"the text says {', '.join(sorted(named))}, the metadata {', '.join(sorted(stated))}")


@rule(
    "C606",
    "warning",
    "Custom license without an address",
    why="A name is not the terms: several versions of a custom license go by one name.",
    fix="Link the license text, or put it into the repository as LICENSE.",
)
def bare_name(card: Card) -> Iterator[Found]:
    """License sections that hold a custom license's name and no link."""
    if card.listed("license_link"):
        return
    for hit in card.search(r"^\W*(?P<name>[a-z][\w.]*(?:-[\w.]+)*-(?:licen[cs]e|terms|agreement))\W*$"):
        linked = any(hit.match["name"] in link.text or link.line == hit.line for link in card.links)
        if re.search(_SECTION, hit.section.title, re.I) and not linked:
            seen = "no address is visible" if card.is_page_text else "no address is given"
            yield Found(hit.line, f"{hit.match['name']}: {seen}")
