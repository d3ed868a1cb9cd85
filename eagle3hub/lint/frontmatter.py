"""C6: rules on the metadata block: license, base model, tags, results."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from difflib import SequenceMatcher
from itertools import takewhile

from eagle3hub.card import vocabulary
from eagle3hub.card.vocabulary import HUB_LIBRARIES
from eagle3hub.engines.check.commands import parse_flags
from eagle3hub.errors import Severity
from eagle3hub.lint import claims
from eagle3hub.lint.model import HUB_FIELDS, Card, Hit, Prose, Section, Violation, is_titled_as_head, rule
from eagle3hub.lint.recipes import snippets
from eagle3hub.system.documents import did_you_mean

# C60x: the license, in metadata and in prose


_SECTION = r"licen[cs]e|terms of use"


@rule(
    "C601",
    "error",
    "License is missing",
    why="Without a license nobody may use the head; the Hub's filters do not show it.",
    fix="Add license: to the metadata, with an id of the Hub's list.",
)
def missing_license(card: Card) -> Iterator[Violation]:
    """Report a card whose metadata has no license, or a copied page whose text has none."""
    if card.is_page_text:
        if not card.says(_SECTION):
            yield Violation(
                1, "the text names no license; the page's header, which was not copied, may", severity="info"
            )
    elif card.front is not None and not card.listed("license") and (_is_of_a_card(card) or card.is_of_the_hub):
        yield Violation(card.metadata_line(), "the metadata has no license")


def _is_of_a_card(card: Card) -> bool:
    """Return whether the metadata, which has no field of the Hub's alone, is that of a head's card."""
    return card.is_of_a_head and (not card.metadata or not {"tags", "language", "metrics"}.isdisjoint(card.metadata))


def _for_the_hub(card: Card, field: str) -> list[str]:
    """Return what a field of the metadata lists; nothing where they may be another site's, with ids of its own."""
    others = set(card.metadata) - {field}
    return card.listed(field) if card.is_of_a_head or others & HUB_FIELDS else []


@rule(
    "C602",
    "error",
    "License is not an id of the Hub",
    why="The Hub refuses to list what it does not know, and its ids are lower case and not always SPDX's.",
    fix="Use an id of the Hub's list, or license: other with license_name and license_link.",
)
def unknown_license(card: Card) -> Iterator[Violation]:
    """Report license ids that are not in the Hub's list."""
    for value in _for_the_hub(card, "license"):
        if value not in vocabulary.HUB_IDS:
            meant = vocabulary.printed(value)
            end = f"; the Hub's id is {min(meant)}" if meant else did_you_mean(value, sorted(vocabulary.HUB_IDS))
            yield Violation(card.metadata_line("license"), f"{value!r} is not a license id of the Hub{end}")


@rule(
    "C603",
    "error",
    "License is “other”, without name and link",
    why="“other” alone says that there are terms, but not which terms.",
    fix="Add license_name (a lower-case id) and license_link (an address, or LICENSE in the repository).",
)
def unnamed_license(card: Card) -> Iterator[Violation]:
    """Report ``license: other`` without license_name; without license_link alone C606 asks for the address."""
    if card.listed("license") == ["other"]:
        absent = [name for name in ("license_name", "license_link") if not card.listed(name)]
        if "license_name" in absent:
            yield Violation(card.metadata_line("license"), f"license: other without {' and '.join(absent)}")


@rule(
    "C604",
    "warning",
    "License is deduced from the base model's",
    why="A head's license is its author's choice, within the terms of target, training data and generator. It need "
    "not equal the target's license.",
    fix="State the head's license, and beside it the licenses of target and training data.",
)
def deduced_license(card: Card) -> Iterator[Violation]:
    """Report phrases such as “consistent with the base model's license”."""
    derived = r"(?:consistent with|same (?:license )?as|inherit\w*(?: [\w.-]*\w){0,6}?(?: from)?|follows|identical to"
    derived += r"|in line with)"
    base = r"(?:the |its )?(?:base|target|original|underlying|verifier) model"
    chinese = r"(?:沿用|继承|遵循|同)[^。\n]{0,8}(?:基座|基础|目标|原始?)模型[^。\n]{0,8}(?:许可|协议)"
    named = r"(?:inherit\w*|follows|adopts) (?:the )?licen[cs]e (?:of|from) (?:the )?(?:base|target|\S*\d\S*)"
    named += rf"|licen[cs]e (?:is|comes|was) (?:that|taken|carried over|copied|derived|adopted) (?:of|from) {base}"
    named += rf"|(?:takes|carries over|copies|adopts) (?:its |the )?licen[cs]e (?:of|from) {base}"
    alike = r"与[^。\n]{0,6}(?:基座|基础|目标|原始?)模型[^。\n]{0,8}(?:许可|协议)[^。\n]{0,8}(?:一致|相同)"
    since = (
        rf"\b(?:since|because|as) {base} (?:is|was|has|uses|comes)\b[^.\n]{{0,80}}\b(?:inherit\w*|is (?:also )?"
        r"(?:released|licensed|distributed)|so (?:is|does)|applies (?:here|too)|must (?:also )?be)\b"
        r"|\b(?:the )?(?:base|target|original|verifier)(?: model)? is [^,\n]{2,40}, (?:therefore|so|hence|thus) "
        r"(?:this|the|our)\b"
        r"|,? since that is what \S+ (?:uses|has)|\b(?:this|the|our) (?:head|draft\w*|model|checkpoint) inherits it\b"
        r"|(?:由于|因为|因)[^。\n]{0,4}(?:基座|基础|目标|原始?)模型[^。\n]{0,40}(?:因此|所以|故|同样|也)[^。\n]{0,20}(?:许可|协议|发布)"
    )
    seen: set[int] = set()
    for hit in card.search(rf"{derived}(?: \w+){{0,3}} {base}(?:'s|’s)?(?: \w+)?|{named}|{chinese}|{alike}|{since}"):
        before = re.split(r"[.!?。]\s", hit.match.string[: hit.match.start()])[-1]
        # “under Apache 2.0, the same license as the base model” deduces nothing
        stated = hit.match[0].lower().startswith("same") and vocabulary.printed(before)
        spoken = re.search("licen|许可|协议", before + hit.match[0] + hit.section.title, re.I)
        if hit.line not in seen and not stated and (spoken or vocabulary.printed(hit.match[0])):
            seen.add(hit.line)
            yield Violation(hit.line, f"“{hit.match[0]}”")


@rule(
    "C605",
    "error",
    "Text and metadata name different licenses",
    why="If a card names two licenses, nobody can rely on either.",
    fix="Name the same license in both.",
)
def contradictory_license(card: Card) -> Iterator[Violation]:
    """Report licenses under the license heading if none of them is the metadata's.

    It is a warning if the section speaks of the licenses of other things: the target, data, code.
    """
    stated = set(card.listed("license"))
    if not stated or stated & {"other", "unknown"}:
        return
    stated |= {name for value in stated for name in vocabulary.printed(f"{value} license")}  # “Apache 2.0” is C602's
    custom = {id(hit.section): hit for hit in _custom_terms(card)}
    lines_of: dict[int, list[Hit]] = {}
    for hit in card.search(r".+"):
        lines_of.setdefault(id(hit.section), []).append(hit)
    for section in card.sections:
        here = section.path[-1] if section.path else None
        if here is None or here.level == 1 or not re.search(_SECTION, here.text, re.I):
            continue
        lines = lines_of.get(id(section), [])
        named = set().union(*(vocabulary.printed(h.match[0]) for h in lines), set())
        if named and not named & stated:
            line = next(h.line for h in lines if vocabulary.printed(h.match[0]))
            message = f"the text says {', '.join(sorted(named))}, the metadata {', '.join(sorted(stated))}"
            others = any(_OF_OTHER_THINGS.search(h.match[0]) for h in lines)
            yield Violation(line, message, severity="warning" if others else None)
        elif not named and id(section) in custom:
            hit = custom[id(section)]
            message = f"the text says {hit.match['name']}, the metadata {', '.join(sorted(stated))}"
            yield Violation(hit.line, message, severity="warning")

    if any(section.path and re.search(_SECTION, section.path[-1].text, re.I) for section in card.sections):
        return  # what the section says is decisive
    for hit in card.search(_LICENSED, tables=False):
        named = vocabulary.printed(hit.match["terms"])
        if named and not named & stated:
            said = f"“{hit.match[0].strip()}”, the metadata says {', '.join(sorted(stated))}"
            yield Violation(hit.line, said, severity="warning" if hit.match["work"] or hit.match["the"] else None)
    for _, table in card.tables:
        for row in table.rows[:_MOST_ROWS]:
            text = " ".join(cell.text for cell in row.cells[1:])
            is_license = re.fullmatch(r"\W*licen[cs]e\W*", row.cells[0].text, re.I) and len(row.cells) == 2
            if is_license and (named := vocabulary.printed(text)) and not named & stated:
                said = f"the text says {text.strip()}, the metadata {', '.join(sorted(stated))}"
                yield Violation(row.line, said, severity="warning")
    for pattern in (_NAMED_AS, _WEIGHTS_UNDER):
        for hit in card.search(pattern, tables=False):
            terms = next(group for group in hit.match.groups() if group)
            rest = hit.match.string[hit.match.start() : hit.match.end() + 80]
            of_data = re.search(r"\b(?:data ?sets?|code)\b[^.]{0,60}\. $", hit.match.string[: hit.match.start()][-80:])
            if of_data or vocabulary.printed(rest) & stated:
                continue
            if (named := vocabulary.printed(f"{terms} license")) and not named & stated:
                said = f"“{hit.match[0].strip()}”, the metadata says {', '.join(sorted(stated))}"
                yield Violation(hit.line, said, severity="warning")
    for link in card.links:
        badge = re.match(r"licen[cs]e\s*[:：-]\s*(.{2,40})", link.text, re.I) if link.image else None
        if badge and (named := vocabulary.printed(f"{badge[1]} license")) and not named & stated:
            said = f"the picture “{link.text}”, the metadata says {', '.join(sorted(stated))}"
            yield Violation(link.line, said, severity="warning")


_NAMED_AS = (
    r"(?:^\W*|(?<=[.;|·] )|(?<=[。；]))(?:licen[cs]e|许可证|许可协议|开源协议|授权协议)\s*(?:[:：]|为|是|采用)\s*"
    r"(?P<terms>[^.。；\n]{2,40}(?:\.\d)?)"
)
_WEIGHTS_UNDER = (
    r"(?:^|(?<=[.;|·] ))(?:model |head |draft )?weights?(?: licen[cs]e)?\s*[:：–—-]\s*"
    r"(?P<terms>[^.;\n]{2,40}(?:\.\d)?)"
    r"|(?:权重|模型)(?:采用|使用|遵循|基于|以)\s*(?P<zh>[^。；\n]{2,30}?)\s*(?:许可|协议|授权|发布)"
)
_MOST_ROWS = 200
_LICENSED = (
    r"\b(?:this (?:(?:draft |eagle\S* )?(?:model|head|checkpoint|drafter|speculator)"
    r"|(?P<work>repo\w*|project|work|code))|(?P<the>the (?:draft(?: model| head)?|head|drafter|speculator|weights)))"
    r"(?:'s weights| weights)? (?:is|are) (?:released|licensed|distributed|available|provided|published) under "
    r"(?:the |an? )?"
    r"(?P<terms>[^.\n]{2,40}?\d?(?:\.\d)?)(?= licen[cs]e|[.,;\n]|$)"
)
_OF_OTHER_THINGS = re.compile(r"\b(?:base|target|verifier|original|data(?:sets?)?|code|framework|trained)\b", re.I)


@rule(
    "C606",
    "warning",
    "Custom license without an address",
    why="A name is not the terms: several versions of a custom license go by one name.",
    fix="Link the license text, or put it into the repository as LICENSE.",
)
def license_without_link(card: Card) -> Iterator[Violation]:
    """Report a license_name without license_link, and license sections with a custom license's name and no link."""
    if card.listed("license_link"):
        return
    if card.listed("license") == ["other"] and card.listed("license_name") and not _has_license_file(card):
        name = card.listed("license_name")[0]
        yield Violation(card.metadata_line("license_name"), f"{name}: the metadata has no license_link")
        return
    known = set(card.listed("license")) - {"other", "unknown"}
    if known and not _has_license_file(card):
        for hit in _custom_terms(card):
            if not re.search(r"\bLICENSE\b|https?://", hit.match.string):
                yield Violation(hit.line, f"{hit.match['name']}: no address is given")
                return
    if card.listed("license") == ["other"] and not _has_license_file(card):
        for hit in card.search(_CUSTOM_LICENSE, tables=False):
            sentence = claims.sentence_of(hit.match).replace(hit.match[0], "")
            of_use = re.search(r"govern|licen[cs]|released|subject to|weights|\bhead\b|\bunder\b", sentence, re.I)
            at_hand = re.search(r"\bLICENSE\b|https?://", hit.match.string)
            spoken = hit.match["name"].endswith("License") or of_use or re.search(_SECTION, hit.section.title, re.I)
            if spoken and not at_hand and not vocabulary.printed(hit.match["name"]):
                yield Violation(hit.line, f"{hit.match['name']}: no address is given")
                return
    linked_lines = {link.line for link in card.links}
    texts = "\n".join(link.text for link in card.links)
    for hit in card.search(r"^\W*(?P<name>[a-z][\w.]*(?:-[\w.]+)*-(?:licen[cs]e|terms|agreement))\W*$"):
        linked = hit.line in linked_lines or hit.match["name"] in texts
        if re.search(_SECTION, hit.section.title, re.I) and not linked:
            seen = "no address is visible" if card.is_page_text else "no address is given"
            yield Violation(hit.line, f"{hit.match['name']}: {seen}")


_CUSTOM_LICENSE = (
    r"(?-i:\b(?!(?:The|This|Our|Use|A|An|Its)\b)"
    r"(?P<name>[A-Z][\w.'’-]*(?: (?:[A-Z][\w.'’-]*|of|and|for|v?\d[\d.]*)){0,6}?"
    r" (?:Licen[cs]e(?: Agreement)?|Agreement|Terms(?: of Use)?)))\b"
)


_OF_THE_HEAD = (
    r"\b(?:draft|head|drafter|speculator|weights|this (?:model|repo\w*|checkpoint|release)|use of (?:it|this|the))\b"
    r"|本(?:模型|仓库)|草稿"
)
_NOT_OF_THE_HEAD = r"\b(?:target|base|verifier|data ?sets?|training data|prompts|code|generator)\b|目标|基座|数据"


def _custom_terms(card: Card) -> Iterator[Hit]:
    """Yield the custom licenses that sections about the license say the head is under."""
    for hit in card.search(_CUSTOM_LICENSE, tables=False):
        here = hit.section.path[-1] if hit.section.path else None
        if here is None or here.level == 1 or not re.search(_SECTION, here.text, re.I):
            continue
        if vocabulary.printed(hit.match.string):
            continue
        sentence = claims.sentence_of(hit.match)
        of_head = re.search(_OF_THE_HEAD, sentence, re.I) and not re.search(_NOT_OF_THE_HEAD, sentence, re.I)
        if of_head and re.search(r"\b(?:govern|licen[cs]ed|released|subject to|under|covered)\w*\b", sentence, re.I):
            yield hit


def _has_license_file(card: Card) -> bool:
    """Return whether the repository holds the license's text, or the card links it."""
    held = any(re.match(r"licen[cs]e", name, re.I) for name in card.files or ())
    return held or any(re.search(_SECTION, f"{link.text} {link.target}", re.I) for link in card.links)


# C61x and C62x: the metadata block, alone and compared with the text


_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_DATA_URL = re.compile(r"(?:huggingface\.co|hf\.co)/datasets/([\w.-]+/[\w.-]+)")
_TAGS = {
    "eagle3",
    "eagle-3",
    "eagle",
    "speculative-decoding",
    "draft-model",
    "speculator",
    "speculators",
    "dflash",
    "mtp",
    "medusa",
}
_LANGUAGES = {"english": "en", "chinese": "zh", "japanese": "ja", "korean": "ko", "german": "de", "french": "fr"}
_MASS = {"t": 1e6, "tonnes": 1e6, "tons": 1e6, "kg": 1e3, "g": 1.0, "grams": 1.0}
_EMISSIONS = (
    r"(?:emissions|co2)[^.\n]{0,30}?\((?P<u1>t|kg|g|tonnes|tons|grams) ?co2\w*\)\W{0,4}(?P<v1>\d[\d,]*(?:\.\d+)?)"
    r"|(?<![\d,])(?P<v2>\d[\d,]*(?:\.\d+)?)\s*(?P<u2>t|kg|g|tonnes|tons|grams)\s?(?:of )?co2"
    r"(?!\w*[ .-]{0,2}(?:eq\w*\.?)? ?(?:/|per\b|a\b|each\b|for (?:each|every)\b))"
)
_PRODUCT = (
    r"(?<![\d,.])(?P<e>\d[\d,]*(?:\.\d+)?) ?kWh\b[^.;\n\d]{0,40}?(?P<f>\d[\d,]*(?:\.\d+)?) ?(?P<fu>kg|g)\b"
    r"(?: ?(?:of )?co2\w*)? ?(?:/|per|a|each|for each) ?(?:kWh)?[^.;\n\d]{0,40}?(?<![\d.,])"
    r"(?P<p>\d[\d,]*(?:\.\d+)?) ?(?P<pu>tonnes|tons|grams|kg|g|t)\b"
)
"""Energy, the factor of the grid, and the mass that they make: ``520 kWh at 0.36 kg per kWh = 187.2 kg``."""
_EACH_KWH = re.compile(r"(?:\b(?:per|each|every|an?|one|1)|/|每|一) ?(?:kWh|千瓦时|度电?)\W[^.;\d\n]{0,20}$", re.I)
_ENERGY = r"\bkwh\)?\s*[=:|]\s*(?P<e1>\d[\d,]*(?:\.\d+)?)|(?<![\d,])(?P<e2>\d[\d,]*(?:\.\d+)?)\s*kwh\b"
_K_NAMES = ("K", "k", "num_speculative_tokens", "draft_tokens", "speculative_num_steps")
_FACTOR = (0.002, 1.5)
"""The smallest and largest plausible kg of CO2 per kWh of any grid."""


@rule(
    "C610",
    "error",
    "Metadata is missing or cannot be read",
    why="License, base model, tags and results are what the Hub searches, filters and shows.",
    fix="Start the file with a YAML block between two lines of three dashes.",
)
def missing_metadata(card: Card) -> Iterator[Violation]:
    """Report files without a metadata block, or with one that is no YAML mapping.

    A missing block is an error where the file is known to be the card of a head's repository, a warning where its
    title is that of a head's card, and else an info.
    """
    if card.front_error is not None:
        yield Violation(card.front_error[0], f"the metadata cannot be read: {card.front_error[1]}")
    elif card.front is None and not card.is_page_text:
        # a project's README or a page of a manual is shown by other sites too, which need no metadata
        held = card.repo is not None or any(name.endswith((".safetensors", ".gguf")) for name in card.files or ())
        title = next((s.path[-1].text for s in card.sections if s.path), "")
        own = card.files is None and card.cut is None and is_titled_as_head(title)
        severity: Severity | None = None if card.is_of_a_head and held else "warning" if own else "info"
        yield Violation(1, "the file has no metadata block", severity=severity)


@rule(
    "C611",
    "error",
    "base_model is missing or is not a Hub id",
    why="It links the head to its target; a draft head without its target is of no use.",
    fix="Add base_model: owner/name of the target.",
    heads=True,
)
def missing_base_model(card: Card) -> Iterator[Violation]:
    """Report a missing base_model, or one that is not ``owner/name``."""
    if card.front is None or (card.metadata and not card.is_of_the_hub and not card.listed("tags")):
        return
    named = card.listed("base_model")
    if not named:
        yield Violation(card.metadata_line(), "the metadata has no base_model")
    for value in named:
        if not _ID.fullmatch(value):
            yield Violation(card.metadata_line("base_model"), f"base_model {value!r} is not of the form owner/name")


@rule(
    "C612",
    "warning",
    "base_model is not the model in the text",
    why="The Hub links the model in the metadata; people run the model in the text.",
    fix="Name the same model in both.",
    heads=True,
)
def unmentioned_base_model(card: Card) -> Iterator[Violation]:
    """Report a base_model whose name is nowhere in the text."""
    body = _plain(_without_other_targets(card.body))
    for value in card.listed("base_model"):
        if _ID.fullmatch(value) and _plain(value.split("/")[1]) not in body:
            yield Violation(card.metadata_line("base_model"), f"the text never mentions {value}")


_LINK = re.compile(r"\[(?P<text>[^\[\]\n]{3,80})\]\((?P<to>[^()\s]{3,200})\)")


def _without_other_targets(body: str) -> str:
    """Return a text without the addresses of links whose words are the name of another model (C807)."""

    def shown(m: re.Match[str]) -> str:
        words, name = _plain(m["text"]), _plain(m["to"].rpartition("/")[2])
        is_other = re.fullmatch(r"\S*[A-Za-z]\S*\d\S*", m["text"]) and words not in name and name not in words
        return m["text"] if is_other else m[0]

    return _LINK.sub(shown, body)


def _plain(text: str) -> str:
    """Return a text without what people write differently in a name: Qwen3-8B, Qwen3 8B."""
    return "".join(text.lower().replace("-", "").replace("_", "").replace(".", "").split())


@rule(
    "C613",
    "warning",
    "The Hub cannot find the head by its tags",
    why="People search for draft heads by tag; the Hub has no relation “draft of”.",
    fix="Add tags: [eagle3, speculative-decoding, draft-model].",
    heads=True,
)
def missing_tags(card: Card) -> Iterator[Violation]:
    """Report a card without a tag that says what it is. A draft head is no pipeline, and needs no pipeline_tag."""
    given = {tag.lower() for tag in card.listed("tags")}
    if card.front is not None and not given & _TAGS:
        yield Violation(card.metadata_line("tags"), "no tag says that this is a draft head")


@rule(
    "C615",
    "warning",
    "Text and metadata name different data sets",
    why="The Hub links a data set to the models trained on it by the metadata alone, and by id alone.",
    fix="List the Hub ids of all training sets under datasets:, and name them in the text.",
    heads=True,
)
def different_datasets(card: Card) -> Iterator[Violation]:
    """Report data sets that are no ids, that only the text links, or that only the metadata names."""
    if card.front is None:
        return
    listed = card.listed("datasets")
    lower = {name.lower() for name in listed}
    body = _plain(card.body)
    if listed and not any(_plain(name.rpartition("/")[2]) in body for name in listed):
        named = [(h.match["id"], h.line) for h in card.search(_TRAINED_ON, tables=False)] + _answered(card)
        named += [
            (m[1], link.line)
            for link in card.links
            if (m := _DATA_URL.search(link.target)) and not _is_of_results(card, link.line)
        ]
        if named:
            shown = ", ".join(list(dict.fromkeys(name for name, _ in named))[:4])
            yield Violation(named[0][1], f"the text says {shown}, the metadata {', '.join(listed)}")
            return
    for i, name in enumerate(listed):
        line = card.metadata_line("datasets", i)
        if not _ID.fullmatch(name):
            yield Violation(line, f"{name!r} is not the id of a data set on the Hub (owner/name)")
        elif _plain(name.split("/")[1]) not in body:
            yield Violation(line, f"the text never mentions {name}", severity="info")
    starts = [s.path[-1].line if s.path else 1 for s in card.sections]
    spans = [
        (start, end)
        for s, start, end in zip(card.sections, starts, [*starts[1:], len(card.text)], strict=True)
        if re.search(claims.TRAINING + r"|\bdata", s.title, re.I)
    ]
    begins = [a for a, _ in spans]
    for link in card.links:
        m = _DATA_URL.search(link.target)
        at = bisect_right(begins, link.line) - 1
        if m and m[1].lower() not in lower and at >= 0 and link.line < spans[at][1]:
            message = f"{m[1]} is linked here and not listed in the metadata"
            yield Violation(link.line, message, severity="info" if listed else None)


def _is_of_results(card: Card, line: int) -> bool:
    """Return whether a line stands in a section about results."""
    at = [s for s in card.sections if s.path and s.path[-1].line <= line]
    return bool(at) and bool(
        re.search(r"result|eval|bench|performance|accept|speed|性能|评测|结果", at[-1].title, re.I)
    )


_TRAINED_ON = (
    r"(?:\btraining (?:data|set|corpus)\b|\btrained (?:\w+ ){0,4}on|训练(?:数据|集|语料))[^.\n。]{0,40}?"
    r"(?P<id>[A-Za-z0-9][\w-]*/[A-Za-z0-9][\w.-]*\w)"
)


_DATA_ID = r"(?<![\w./-])(?P<{0}>[A-Za-z0-9][\w-]*/[A-Za-z0-9][\w.-]*\w)"
_ANSWERED = (
    r"\b(?:prompts|questions|data|data ?sets?|conversations|dialog\w*|instructions|samples|corpus)"
    rf"(?: (?:of|from|in|is|are)|:) (?:the )?{_DATA_ID.format('a')}"
    rf"|{_DATA_ID.format('b')}[^.;\n]{{0,30}}?\b(?:answers?|responses?|completions?|prompts|outputs|regenerated|answered)\b"
    rf"|{_DATA_ID.format('c')}[^.。；\n]{{0,20}}?(?:重新)?(?:作答|回答|生成)"
)
_NO_DATA = re.compile(
    r"\d[bB](?![A-Za-z])|eagle|specforge|speculators|vllm|sglang|tensorrt|torchspec|transformers|nemo|github", re.I
)


def _answered(card: Card) -> list[tuple[str, int]]:
    """Return the data sets whose prompts or answers a sentence speaks of, if it is not about a measurement."""
    found = []
    for hit in card.search(_ANSWERED, tables=False):
        name = next(hit.match[group] for group in "abc" if hit.match[group])
        measured = claims.speaks_of_measuring(claims.sentence_of(hit.match))
        if not measured and not _NO_DATA.search(name) and name not in card.listed("base_model"):
            found.append((name, hit.line))
    return found


@rule(
    "C616",
    "info",
    "Language is missing, malformed or differs from the text",
    why="Acceptance falls outside the languages a head was trained on; the Hub filters by code.",
    fix="Add language: with ISO 639 codes such as en.",
    heads=True,
)
def missing_language(card: Card) -> Iterator[Violation]:
    """Report a missing language, invalid codes, and training languages that only the text names."""
    if card.front is None:
        return
    codes = card.listed("language")
    if not codes:
        yield Violation(card.metadata_line(), "the metadata has no language")
    for code in codes:
        if not re.fullmatch(r"[a-z]{2,3}(?:-[A-Za-z0-9]{2,8})*|multilingual|code", code):
            yield Violation(card.metadata_line("language"), f"{code!r} is no language code", severity="warning")
    for hit in card.search(rf"(?:trained|measured) (?:\w+ ){{0,6}}(?P<name>{'|'.join(_LANGUAGES)})\b"):
        code = _LANGUAGES[hit.match["name"].lower()]
        if codes and code not in codes and "multilingual" not in codes:
            yield Violation(
                hit.line, f"the text says {hit.match['name']}, the metadata {', '.join(codes)}", severity="warning"
            )


@rule(
    "C617",
    "warning",
    "Training data is not named",
    why="Acceptance depends on how near the prompts are to the training data, and its terms bound the head's license.",
    fix="Name the data sets, or say what the text is and who generated it.",
    heads=True,
    words=True,
)
def missing_training_data(card: Card) -> Iterator[Violation]:
    """Report a card that names no training data in text or metadata."""
    if not card.listed("datasets") and not _names_training_data(card):
        line = next((h.line for h in card.search(claims.TRAINING)), 1)
        elsewhere = card.says(
            r"\bsee the .{0,120}\b(?:card|page|repo\w*)\b|\bconver(?:sion of|ted (?:\w+ ){0,6}from)"
            r"|\bquantiz\w+ (?:of|from|to)\b|\bGGUF (?:build|version) of|\bgrafted\b|\bno (?:new )?training\b"
            r"|\bextracted from\b|\bcopied \W*verbatim"
        )
        severity: Severity | None = "info" if elsewhere else None
        yield Violation(line, "neither text nor metadata names the training data", severity=severity)


_DATA_NAMES = r"ultrachat|magpie|sharegpt|perfectblend|open-?hermes|nemotron[- ]post|slimpajama|dolly|tulu"
_DATA_WORDS = (
    r"\b(?:prompts|responses|completions)\b|\bdata(?:[- ]?sets?)?\b|数据"
    r"|语料|corpus|synthetic|\d[kKM]? (?:samples|conversations|prompts) (?:of|from|by|gener\w+)\b"
    r"|\btrained (?:\w+ ){0,4}on (?:[^\s.;]+ ){0,6}?(?:logs|chats|conversations|documents|repositories|articles|pages"
    r"|dialog\w*|transcripts|queries|instructions|traces|books)\b"
)


def _says_something(section: Section) -> bool:
    """Return whether a section holds a table, code, or more than a few words."""
    words = [word for b in section.blocks if isinstance(b, Prose) for word in re.findall(r"[^\W\d_]+", b.text[:400])]
    chinese = sum(len(word) for word in words if not word.isascii())
    return len(words) + chinese > _FEW_WORDS or any(not isinstance(b, Prose) for b in section.blocks)


_FEW_WORDS = 5
_ONLY_A_NUMBER = re.compile(r"^\W*training data\W{1,6}\d[\d.,]*\s?[kKM]? ?(?:\w+)?\W*$", re.I)


def _names_training_data(card: Card) -> bool:
    """Return whether a card says what the head was trained on. A heading over results is “Dataset” as well."""
    code = (block.text.lower() for block in card.code if block.language != "bibtex")
    if _answered(card) or card.says(_DATA_NAMES) or any(re.search(_DATA_NAMES, text) for text in code):
        return True
    bare = {s.path[-1].line for s in card.sections if s.path and not _says_something(s)}
    for hit in card.search(r"(?<![\w./-])[A-Za-z0-9][\w-]*/[A-Za-z0-9][\w.-]+"):
        title = hit.section.path[-1].text if hit.section.path else ""
        if re.search(claims.TRAINING + r"|\bdata", title, re.I) and hit.match[0] not in card.listed("base_model"):
            return True
    for hit in card.search(_DATA_WORDS):
        if hit.line in bare:
            continue  # a heading over nothing
        of_training = re.search(
            claims.TRAINING + r"|\bdata", hit.section.path[-1].text if hit.section.path else "", re.I
        )
        around = hit.match.string[max(0, hit.match.start() - 150) : hit.match.end() + 150]
        said = re.search(r"\btrain|distill|regenerat|fine-?tun|训练|蒸馏|self-generated|completions?", around, re.I)
        if (of_training or said) and not _ONLY_A_NUMBER.match(hit.match.string):
            return True
    return False


@rule(
    "C618",
    "info",
    "Training hardware is not named",
    why="What a head costs to train is the first question of anybody who would train one for another target.",
    fix="Name accelerators, how many, and for how long.",
    heads=True,
    words=True,
)
def missing_training_hardware(card: Card) -> Iterator[Violation]:
    """Report a card that names no accelerator anywhere."""
    if not card.says(rf"{claims.HARDWARE}|\b(?:GPU|TPU|accelerator)[- ]?hours|\bFLOPs?\b|cumulative compute"):
        line = next((h.line for h in card.search(claims.TRAINING)), 1)
        yield Violation(line, "neither accelerator nor compute of the training is named")


@rule(
    "C619",
    "info",
    "library_name is not one that loads draft heads",
    why="The Hub chooses a page's snippets and counts its downloads by library_name. None of the libraries that it "
    "knows loads an EAGLE-3 head: transformers' snippet starts it as a chat model; a name that the Hub does not know "
    "has no effect.",
    fix="Leave library_name out, and name the engines that serve the head as tags.",
    heads=True,
)
def useless_library(card: Card) -> Iterator[Violation]:
    """Report a library_name that is none of the Hub's libraries; ``transformers`` is a warning."""
    for name in card.listed("library_name"):
        line = card.metadata_line("library_name")
        loads = re.compile(r"\bAutoModel\w*\.from_pretrained\([^)]{0,400}trust_remote_code\s*=\s*True")
        if name == "transformers" and next(claims.code_matches(card, loads), None):
            continue  # with code of its own
        if name == "transformers":
            message = "with library_name: transformers the page shows how to start the draft head as a chat model"
            yield Violation(line, message, severity="warning")
        elif name not in HUB_LIBRARIES:
            yield Violation(line, f"{name!r} is no library of the Hub")


@rule(
    "C627",
    "warning",
    "pipeline_tag is no task of the Hub",
    why="The Hub prints a warning over the page for a task that it does not know, and no filter shows the repository.",
    fix="Leave pipeline_tag out, for a draft head is no pipeline, or use an id of the Hub's list of tasks.",
)
def unknown_task(card: Card) -> Iterator[Violation]:
    """Report a pipeline_tag that is not in the Hub's list."""
    for value in _for_the_hub(card, "pipeline_tag"):
        if value not in vocabulary.HUB_TASKS:
            end = did_you_mean(value, list(vocabulary.HUB_TASKS))
            yield Violation(card.metadata_line("pipeline_tag"), f"{value!r} is no task of the Hub{end}")


@rule(
    "C620",
    "warning",
    "Emissions are not in the Hub's unit",
    why="co2_eq_emissions counts grams. A value in tonnes or kilograms is too small by a million or a thousand, and "
    "ends up in comparisons.",
    fix="Give grams in the metadata; print the energy in kWh and the factor beside it.",
)
def emissions_unit(card: Card) -> Iterator[Violation]:
    """Report emissions in the metadata that differ from the text's, and other units in the text alone."""
    field = card.metadata.get("co2_eq_emissions")
    given = field.get("emissions") if isinstance(field, dict) else field
    line = card.metadata_line("co2_eq_emissions")
    value = float(given) if isinstance(given, int | float) and not isinstance(given, bool) else None
    if given is not None and value is None:
        yield Violation(line, f"{given!r} is not a number of grams", severity="error")
    said = _masses(card)
    for at, (printed, unit, grams) in said:
        if value is None and unit not in {"g", "grams"}:
            yield Violation(
                at, f"{printed:g} {unit} are {grams:,.0f} g, the unit of co2_eq_emissions", severity="info"
            )
        elif value is not None and abs(value - grams) > 0.05 * grams:
            yield Violation(
                line,
                f"emissions: {value:g} means grams; the text says {printed:g} {unit} = {grams:,.0f} g",
                severity="error",
            )
    if value is not None and not said and 0 < value < 1:
        yield Violation(line, f"emissions: {value:g} means {value:g} grams, as much as a lamp causes in a few minutes")


@rule(
    "C621",
    "warning",
    "Emissions do not fit the energy",
    why="Grids emit between a few grams and about a kilogram of CO2 per kWh; anything else is a wrong unit or factor.",
    fix="Check both units.",
)
def emissions_against_energy(card: Card) -> Iterator[Violation]:
    """Report one energy and one mass of CO2 whose ratio no grid has, and a mass that is not energy times factor."""
    energies = card.search(_ENERGY)
    masses = _masses(card)
    if len(energies) == 1 and len(masses) == 1:
        (line, (_, _, grams)), e = masses[0], energies[0].match
        kwh = float((e["e1"] or e["e2"]).replace(",", ""))
        factor = grams / 1000 / kwh if kwh else 0.0
        if not _FACTOR[0] <= factor <= _FACTOR[1]:
            yield Violation(line, f"{grams / 1000:g} kg for {kwh:g} kWh are {factor:.3g} kg per kWh")
            return
    for hit in card.search(_PRODUCT):
        m = hit.match
        kwh, factor, printed = (float(m[name].replace(",", "")) for name in ("e", "f", "p"))
        right, grams = kwh * factor * _MASS[m["fu"].lower()], printed * _MASS[m["pu"].lower()]
        if abs(right - grams) > 0.05 * right:
            given = f"{kwh:g} kWh at {factor:g} {m['fu']} each are {right / 1000:,.4g} kg"
            yield Violation(hit.line, f"{given}; the text says {printed:g} {m['pu']}")


def _masses(card: Card) -> list[tuple[int, tuple[float, str, float]]]:
    """Return the masses of CO2 that the text gives, not those per kWh: (line, (number, unit, grams))."""
    found = []
    for hit in card.search(rf"{_EMISSIONS}|{_PRODUCT}"):
        m = hit.match
        if m["p"] or not _EACH_KWH.search(m.string[max(0, m.start() - 30) : m.start()]):
            printed = float((m["v1"] or m["v2"] or m["p"]).replace(",", ""))
            unit = (m["u1"] or m["u2"] or m["pu"]).lower()
            found.append((hit.line, (printed, unit, printed * _MASS[unit])))
    return found


@rule(
    "C624",
    "warning",
    "new_version is somebody else's",
    why="The Hub shows a notice on the page that sends readers to the newer model. To a repository of another owner "
    "only a takeover or a copied metadata block sends them.",
    fix="Name a repository of your own, or take the field out.",
)
def foreign_version(card: Card) -> Iterator[Violation]:
    """Report a new_version of another owner than the repository's, or than that of the head in the examples."""
    own = card.repo or _own_repo(card)
    for value in card.listed("new_version"):
        line = card.metadata_line("new_version")
        if not _ID.fullmatch(value):
            yield Violation(line, f"new_version {value!r} is not of the form owner/name")
        elif own and own.split("/")[0].lower() != value.split("/")[0].lower():
            yield Violation(line, f"new_version is {value}, and this repository is {own}")


def _own_repo(card: Card) -> str:
    """Return the repository that the card's examples draft with, if they name one, else an empty text."""
    named = re.compile(
        r"(?:speculative-draft-model(?:-path)?[ =]\s*|[\"']model[\"']\s*:\s*|speculative_model(?:_dir)?:\s*)"
        r"[\"']?([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)"
    )
    titles = [s.path[-1].text.strip(" `*") for s in card.sections if s.path][:1]
    if titles and _ID.fullmatch(titles[0]) and titles[0] not in card.listed("base_model"):
        return titles[0]
    found = {m[1] for _, m in claims.code_matches(card, named)} - set(card.listed("base_model"))
    if not found:  # a command in a sentence
        found = {h.match[1] for h in card.search(named.pattern, tables=False)} - set(card.listed("base_model"))
    if not found:  # as NVIDIA's cards say where they were released
        found = {h.match["id"] for h in card.search(r"\bvia \[?https://huggingface\.co/(?P<id>[\w.-]+/[\w.-]*\w)")}
    return found.pop() if len(found) == 1 else ""


_NO_NAME = re.compile(r"^[-.]|[-.]$|--|\.\.|\.git$|[^\w.-]", re.ASCII)
"""What no owner and no repository is called (validate_repo_id of huggingface_hub 2.4.0, utils/_validators.py)."""
_LONGEST_NAME = 96
_HUB_LINK = re.compile(
    r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/(?P<id>[^/?#\s]+/[^/?#\s]+)(?:/tree/[^\s]*)?/?$"
)
_OF_A_MODEL = re.compile(r"--(?:.*[-.])?model(?:-path|-dir)?")
_MODEL_KEY = re.compile(r"[\"']model[\"']\s*:\s*[\"'](?P<id>[^\s\"']+)[\"']")
_NO_OWNERS = {"datasets", "spaces", "papers", "blog", "docs", "collections", "models", "tasks", "learn", "join", "api"}
_BLANK = re.compile(r"[<>{}\[\]$%…]|\.\.\.|\b(?:your|my|path|owner|user|username|org|name)\b", re.I)
_MAKERS = {
    "Qwen": r"(?:Qwen|QwQ|QvQ)[\d-]",
    "meta-llama": r"(?:Meta-)?Llama-\d",
    "openai": r"gpt-oss-",
    "deepseek-ai": r"DeepSeek-",
    "moonshotai": r"Kimi-",
    "zai-org": r"GLM-\d",
    "MiniMaxAI": r"MiniMax-",
    "google": r"gemma-",
    "mistralai": r"(?:Mistral|Mixtral|Ministral|Devstral)-",
    "ibm-granite": r"granite-",
    "microsoft": r"Phi-",
}
"""Who publishes a family of targets, and how its names begin."""


@rule(
    "C625",
    "error",
    "Repository that the Hub cannot have",
    why="The Hub refuses such a name, so the address leads nowhere and an example that uses it fails. An owner who is "
    "nearly the maker of the target is a slip of the pen: the page exists under another name.",
    fix="Copy the id from the address of the repository's page.",
)
def impossible_repository(card: Card) -> Iterator[Violation]:
    """Report ids in metadata, links and commands that break the Hub's rules; as a warning, owners nearly the maker.

    In a command such an id may also be a folder: there it is a warning.
    """
    named = [(value, card.metadata_line(name)) for name in ("base_model", "datasets") for value in card.listed(name)]
    linked = [(m["id"], link.line) for link in card.links if (m := _HUB_LINK.match(link.target))]
    run = [(m, line) for m, line in _run_models(card) if _ID.fullmatch(m) and "models--" not in m]
    seen: set[str] = set()
    for value, line in (*named, *linked, *run):
        owner, slash, name = value.partition("/")
        if not slash or value in seen or owner in _NO_OWNERS or _BLANK.search(value):
            continue
        seen.add(value)
        if any(_NO_NAME.search(part) or len(part) > _LONGEST_NAME for part in (owner, name)):
            sure: Severity | None = None if (value, line) in named or (value, line) in linked else "warning"
            yield Violation(line, f"{value!r} is no id that the Hub takes", severity=sure)
        elif maker := _nearly(owner, name):
            yield Violation(line, f"{value}: the maker of that model is {maker} on the Hub", severity="warning")


def _run_models(card: Card) -> Iterator[tuple[str, int]]:
    """Yield what commands, Python, YAML and JSON have where a model is named, with its line."""
    found = snippets(card)
    for command in found.commands:
        begun = takewhile(lambda word: not word.startswith("-"), command.words)
        given = parse_flags(command.words)
        named = [value for flag, value in given.items() if value and _OF_A_MODEL.fullmatch(flag.replace("_", "-"))]
        named += [m["id"] for value in given.values() if value and value[0] == "{" for m in _MODEL_KEY.finditer(value)]
        for model in (*begun, *named):
            yield model, command.where.line_of(model)
    for snippet in (*found.python, *found.yaml, *found.json):
        for m in _MODEL_KEY.finditer(snippet.text):
            yield m["id"], snippet.line_of(m["id"])


def _nearly(owner: str, name: str) -> str:
    """Return the maker of a target whose id has nearly the maker's name as its owner, else an empty text."""
    for maker, family in _MAKERS.items():
        if re.match(family, name, re.I) and owner.lower() != maker.lower():
            begins = owner.lower().startswith(maker.lower()) or maker.lower().startswith(owner.lower())
            one = len(owner) == len(maker) and sum(a != b for a, b in zip(owner, maker, strict=True)) == 1
            if begins or one or SequenceMatcher(None, owner.lower(), maker.lower()).ratio() > _ALIKE:
                return maker
    return ""


_ALIKE = 0.8


@rule(
    "C622",
    "error",
    "The text does not print a result of the metadata",
    why="Leaderboards read model-index, and nobody can check a number that the text does not print.",
    fix="Write both from the same report.",
)
def unprinted_result(card: Card) -> Iterator[Violation]:
    """Report acceptance lengths in model-index that the text does not print, to the digits printed there."""
    printed = [x.number for x in claims.acceptance_lengths(card)]
    if not printed:
        return
    for i, j, k, metric in _metrics(card):
        value = metric.get("value")
        if "accept" in str(metric.get("type")).lower() and isinstance(value, int | float):
            if any(abs(n.value - value) <= n.ulp / 2 + 1e-9 for n in printed):
                continue
            line = card.metadata_line("model-index", i, "results", j, "metrics", k, "value")
            message = f"{metric.get('type')} {value} is not among the results of the text"
            yield Violation(line, message, severity="warning" if claims.unread_results(card) else None)


@rule(
    "C623",
    "error",
    "Impossible result in the metadata",
    why="A verification step emits between 1 and K + 1 tokens, and leaderboards sort by model-index.",
    fix="Check value, definition and K.",
)
def impossible_result(card: Card) -> Iterator[Violation]:
    """Report acceptance lengths in model-index below 1, or above K + 1 for the K of their args."""
    for i, j, k, metric in _metrics(card):
        value, args = metric.get("value"), metric.get("args")
        if "accept" not in str(metric.get("type")).lower() or "rate" in str(metric.get("type")).lower():
            continue
        given = [args[name] for name in _K_NAMES if name in args] if isinstance(args, dict) else []
        drafted = next((n for n in given if isinstance(n, int)), None)
        is_length = re.search(r"len|tau|τ|per[ _]step", str(metric.get("type")), re.I)
        if isinstance(value, int | float) and (
            (value < 1 and is_length) or (drafted is not None and value > drafted + 1)
        ):
            line = card.metadata_line("model-index", i, "results", j, "metrics", k, "value")
            yield Violation(line, f"{metric.get('type')} {value} at K = {drafted if drafted is not None else '?'}")


@rule(
    "C626",
    "warning",
    "Result in the metadata without what it was measured on",
    why="The Hub's specification of cards requires task, data set and metrics of every result; a number "
    "without its data set compares with nothing.",
    fix="Give task: type, dataset: type (a Hub id) and name, and metrics: type and value.",
)
def incomplete_result(card: Card) -> Iterator[Violation]:
    """Report results of model-index that lack the fields which the Hub's specification of cards calls required."""
    models = card.metadata.get("model-index")
    for i, model in enumerate(models if isinstance(models, list) else []):
        results = model.get("results") if isinstance(model, dict) else None
        for j, result in enumerate(results if isinstance(results, list) else []):
            if not isinstance(result, dict):
                continue
            missing = [f"{part}.{name}" for part, name in _REQUIRED if not _has(result.get(part), name)]
            if missing:
                line = card.metadata_line("model-index", i, "results", j)
                yield Violation(line, f"the result has no {' and no '.join(missing)}")


_REQUIRED = (("task", "type"), ("dataset", "type"), ("dataset", "name"), ("metrics", "type"), ("metrics", "value"))


def _has(part: object, name: str) -> bool:
    parts = part if isinstance(part, list) else [part]
    return any(isinstance(one, dict) and one.get(name) is not None for one in parts)


def _metrics(card: Card) -> Iterator[tuple[int, int, int, dict[str, object]]]:
    models = card.metadata.get("model-index")
    for i, model in enumerate(models if isinstance(models, list) else []):
        results = model.get("results") if isinstance(model, dict) else None
        for j, result in enumerate(results if isinstance(results, list) else []):
            metrics = result.get("metrics") if isinstance(result, dict) else None
            for k, metric in enumerate(metrics if isinstance(metrics, list) else []):
                if isinstance(metric, dict):
                    yield i, j, k, metric
