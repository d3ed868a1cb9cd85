"""Rules on claims, words and the file itself."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from eagle3hub.lint import claims
from eagle3hub.lint.model import Card, Prose, Violation, rule

# C8: claims without support, and data sets that are not what the card says


_FACTOR = r"(?P<{0}>\d+(?:\.\d+)?(?:\s*(?:-|–|to)\s*\d+(?:\.\d+)?)?\s?[x×])(?!\w)"
_SPEED = (
    rf"{_FACTOR.format('a')}(?:[^.|,;]|\.\d){{0,50}}?\b(?:speed|throughput|faster|accelerat\w+|latency|inference)"
    rf"|\b(?:speed\w*|throughput|faster|accelerat\w+)(?:[^.|,;]|\.\d){{0,50}}?{_FACTOR.format('b')}"
)
_BASELINE = (
    r"baseline|vanilla|auto-?regressive|without (?:a |the )?(?:draft|specul|eagle)|no[- ]spec|\bAR\b|w/o|target alone"
)
_SIZES = {
    r"MT[- ]?Bench": (160, "80 questions of two turns"),
    r"HumanEval": (164, "164 problems"),
    r"MATH[- ]?500": (500, "500 problems"),
    r"GSM8K": (8792, "8,792 problems, 1,319 of them for testing"),
    r"Spec[- ]?Bench": (480, "480 questions"),
    r"MMStar": (1500, "1,500 questions"),
    r"C[- ]?Eval": (13948, "13,948 questions"),
}


@rule(
    "C801",
    "warning",
    "Speed-up without a measurement",
    why="A factor without table, engine, batch and baseline is advertising; other people's factors belong to their "
    "heads, targets and machines.",
    fix="Show throughput with and without the head, with its conditions, or leave the factor out.",
)
def unsupported_speedup(card: Card) -> Iterator[Violation]:
    """Report speed-up factors if the card has no throughput table, or none with a baseline."""
    tables = [t for wanted in ("throughput", "speedup") for _, t, _ in claims.columns_of_kind(card, wanted)]
    if any(re.search(_BASELINE, t.text, re.I) for t in tables) or (tables and card.says(_BASELINE)):
        return
    for hit in card.search(_SPEED, tables=False):
        factor = hit.match["a"] or hit.match["b"]
        end = "no table has a baseline" if tables else "the card has no measurement of speed"
        yield Violation(hit.line, f"“{factor}”: {end}")


@rule(
    "C802",
    "error",
    "MT-Bench's judgments are taken for its questions",
    why="Acceptance is measured on MT-Bench's 80 questions of two turns. The 3,300 expert votes are another data set: "
    "people's judgments of models' answers.",
    fix="Write: MT-Bench, 80 questions of two turns in 8 categories.",
)
def judgments_as_questions(card: Card) -> Iterator[Violation]:
    """Report votes, judgments or 3,300 sequences on a card about MT-Bench."""
    if card.says(r"MT[- ]?Bench"):
        votes = r"(?:expert|human)(?: \w+)? (?:preference )?(?:votes|judg\w+|annotations)|preference votes"
        for hit in card.search(rf"\b3[,.]?3(?:00|K)\b[^.]{{0,100}}|{votes}"):
            if re.search(rf"{votes}|sequence|dialog|conversation", hit.match[0], re.I):
                yield Violation(hit.line, f"“{hit.match[0].strip()}” describes MT-Bench's human judgments")


@rule(
    "C803",
    "error",
    "More items than the data set has",
    why="Nobody can measure more prompts than the data set has, so something else was measured.",
    fix="Name the set that was used, its split and the number of prompts.",
)
def too_many_items(card: Card) -> Iterator[Violation]:
    """Report a number of items beside a data set's name that is larger than the data set."""
    items = r"(?:prompts|questions|problems|samples|examples|conversations|dialogues|sequences|tasks)"
    for name, (size, what) in _SIZES.items():
        number = r"(?P<{0}>\d[\d,]*)"
        beside = rf"{name}\W{{1,3}}(?:\w+ )?{number.format('a')} (?:\w+ )?{items}|{number.format('b')} {name} {items}"
        for hit in card.search(beside, outside=claims.TRAINING):
            if int((hit.match["a"] or hit.match["b"]).replace(",", "")) > size:
                yield Violation(hit.line, f"“{hit.match[0]}”: the set has {what}")


@rule(
    "C804",
    "warning",
    "Modalities contradict each other",
    why="A text-only head advertised as image-to-text fails on the first picture.",
    fix="Name the modalities the head was trained and measured with.",
)
def contradictory_modality(card: Card) -> Iterator[Violation]:
    """Report image-to-text on a card that says that the input is text."""
    if card.says(r"\binput (?:type|modalit)\w*(?:\(s\))?\W+text\b(?!\W{0,3}(?:and |\+ |/ ?)?image)"):
        for hit in card.search(r"image[- ](?:text[- ])?to[- ]text"):
            yield Violation(hit.line, f"“{hit.match[0]}”, but the input is text")


# C3: ambiguous words for a number


_RATE = r"accept\w*[ _-]rate"
_DEFINED = (
    r"accepted\s*/\s*(?:drafted|proposed)|of (?:the |all )?(?:drafted|draft|proposed|speculative) tokens|"
    r"drafted tokens accepted|\bmarginal|\bconditional|per[- ]position|\bmin\(1|tokens? per (?:verification )?step"
)


@rule(
    "C301",
    "error",
    "“Acceptance rate” above 1 is tokens per step",
    why="Engines and papers call the share of drafted tokens, the chance of one position and the tokens per step all "
    "“acceptance rate”. A value above 1 is tokens per step: the acceptance length τ, with the target's own token.",
    fix="Call it acceptance length τ (tokens emitted per verification step).",
)
def length_called_rate(card: Card) -> Iterator[Violation]:
    """Report tables of “rates” above 1, and sentences that define the rate as tokens per step."""
    seen: set[int] = set()
    for length in claims.acceptance_lengths(card):
        if re.search(_RATE, length.header, re.I) and length.table.line not in seen:
            seen.add(length.table.line)
            values = [x.number.value for x in claims.acceptance_lengths(card) if x.table is length.table]
            message = f"“{length.header}” of {min(values):.2f} to {max(values):.2f}: no rate is above 1"
            yield Violation(length.table.line, message)
    per_step = r"tokens? (?:\w+ ){0,4}(?:in|per) (?:each |a |every )?(?:step|round)"
    defined = rf"{per_step}[^.]{{0,30}}\b(?:called|is the|=) {_RATE}"
    for hit in card.search(rf"{defined}|{_RATE} (?:is|means|=|\() ?(?:the )?(?:average )?(?:number of )?tokens per"):
        yield Violation(hit.line, "tokens per step are called acceptance rate here")


@rule(
    "C302",
    "warning",
    "Rates by position are neither marginal nor conditional",
    why="A rate of position i among all rounds (marginal, what vLLM prints) and among the rounds that got there "
    "(conditional, the papers' n-α) give very different acceptance lengths.",
    fix="Name them: marginal (share of all rounds) or conditional (given that all tokens before were accepted).",
)
def unnamed_rates(card: Card) -> Iterator[Violation]:
    """Report a series of rates if no word near it says whether they are marginal or conditional."""
    for s in claims.rate_series(card):
        if s.kind is None:
            lengths = []
            for kind in ("conditional", "marginal"):
                total, product = 1.0, 1.0
                for n in s.rates:
                    product *= n.share
                    total += n.share if kind == "marginal" else product
                lengths.append(f"{total:.2f} if {kind}")
            yield Violation(s.line, f"{len(s.rates)} rates by position: τ would be {', '.join(lengths)}")


@rule(
    "C303",
    "warning",
    "“Acceptance rate” without a definition",
    why="Per drafted token, per position, per step or per request: each gives another number for the same run.",
    fix="Give the formula, for example accepted / drafted tokens, pooled over all rounds.",
)
def undefined_rate(card: Card) -> Iterator[Violation]:
    """Report tables and sentences with a rate that the card does not define."""
    if card.says(_DEFINED):
        return
    of_positions = {s.line for s in claims.rate_series(card)}
    for _, table, i in claims.columns_of_kind(card, "rate"):
        if table.line not in of_positions and all(n.share <= 1 for _, n in table.column(i)):
            yield Violation(table.line, f"“{table.header[i]}” is not defined anywhere on the card")
    number = r"(?:0?\.\d+|\d+(?:\.\d+)?\s?%)"
    for hit in card.search(rf"{_RATE}s?(?: \w+){{0,4}}[ :=~]+{number}|{number} (?:\w+ ){{0,2}}{_RATE}", tables=False):
        if hit.line not in of_positions:
            yield Violation(hit.line, f"“{hit.match[0].strip()}”: of what, among what?")


@rule(
    "C304",
    "warning",
    "Training accuracy is presented as acceptance",
    why="acc_0, acc_1 … of a training log are teacher-forced agreements of the arg-max at each unrolled step, over "
    "all positions. They stand for a conditional rate at best and were not measured by an engine.",
    fix="Measure acceptance on an engine, and call these numbers training-time accuracy.",
)
def training_accuracy(card: Card) -> Iterator[Violation]:
    """Report a series of rates whose positions have the names of a training log."""
    for s in claims.rate_series(card):
        if s.is_training_accuracy and not re.search(r"accuracy|training", s.name, re.I):
            yield Violation(s.line, f"acc_0 … acc_{len(s.rates) - 1} under “{s.name}”")


@rule(
    "C305",
    "warning",
    "The method's name is training-time test",
    why="EAGLE-3's TTT is training-time test: the test-time rollout is played during training. Test-time training is "
    "another method, which changes weights at inference.",
    fix="Write training-time test.",
)
def training_time_test(card: Card) -> Iterator[Violation]:
    """Report the swapped words on a card about EAGLE-3."""
    if card.says(r"eagle"):
        for hit in card.search(r"test[- ]time[- ]training"):
            yield Violation(hit.line, f"“{hit.match[0]}” is not what EAGLE-3 does")


# C0 and C7: the file itself: links, images, HTML, hidden characters, pickles, empty sections


_ACTIVE_TAGS = {"script", "iframe", "object", "embed", "form", "style", "link", "meta", "base", "svg", "input"}
_BIDI = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c")
_HARMLESS = set("\u200c\u200d\u00ad\t")
_OF_WEIGHTS = r"(?:model|eagle|head|draft|weights|checkpoint|adapter)"
# the search tries each word once, from its start
_PICKLE = rf"(?<![\w.-])(?=[\w.-]*{_OF_WEIGHTS})[\w.-]*\.(?:bin|pt|pth|ckpt|pkl)\b"
_PICKLE_NAMES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@rule(
    "C001",
    "info",
    "This is the text of a page, not a card's source",
    why="Copying a rendered page loses the metadata block, links, image names and part of the structure; rules about "
    "those are not applied.",
    fix="Check the repository's README.md (hf://owner/name).",
)
def page_text(card: Card) -> Iterator[Violation]:
    """Report a file that ends with the Hub's page footer."""
    if card.is_page_text:
        yield Violation(1, "metadata, links and images cannot be checked")


@rule(
    "C701",
    "error",
    "Relative link leads nowhere",
    why="On the Hub the reader gets a 404, or a picture that is missing.",
    fix="Add the file to the repository, or correct the path.",
)
def broken_link(card: Card) -> Iterator[Violation]:
    """Report links and images whose paths are not among the repository's files."""
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
            yield Violation(link.line, f"the {what} {link.target} leads to no file of the repository")


def _normal(path: str) -> str | None:
    """Return a path without ``.`` and ``..``, or None if it leaves the repository."""
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
def active_content(card: Card) -> Iterator[Violation]:
    """Report scripts, frames, forms, event handlers, and links that run code."""
    for tag in card.tags:
        handlers = sorted(name for name in tag.attributes if name.startswith("on"))
        if tag.name in _ACTIVE_TAGS:
            yield Violation(tag.line, f"the tag <{tag.name}>")
        elif handlers:
            yield Violation(tag.line, f"the tag <{tag.name}> has {', '.join(handlers)}")
    for link in card.links:
        scheme = re.sub(r"[\s\x00-\x1f]", "", link.target).partition(":")[0].lower()
        if scheme in {"javascript", "vbscript"} or link.target.lower().startswith("data:text"):
            yield Violation(link.line, f"a link of scheme {scheme}:")


@rule(
    "C703",
    "error",
    "Invisible characters",
    why="Direction marks and control characters make a command or a number look different from what is copied.",
    fix="Delete them.",
)
def invisible_characters(card: Card) -> Iterator[Violation]:
    """Report direction marks and control characters; other format characters are a warning."""
    for number, line in enumerate(card.text.split("\n"), 1):
        odd = [c for c in line if unicodedata.category(c) in {"Cc", "Cf"} and c not in _HARMLESS]
        if odd:
            bad = any(c in _BIDI or unicodedata.category(c) == "Cc" for c in odd)
            names = ", ".join(dict.fromkeys(f"U+{ord(c):04X}" for c in odd))
            yield Violation(number, f"this line holds {names}", severity=None if bad else "warning")


@rule(
    "C704",
    "warning",
    "Weights as pickles",
    why="A pickle can run code when it is loaded; engines refuse or warn, and nobody can read its header alone.",
    fix="Publish safetensors, and delete the pickle.",
)
def pickles(card: Card) -> Iterator[Violation]:
    """Report pickled weights that the card names or the repository holds.

    Also report torch.load without weights_only.
    """
    held = sorted(
        name for name in card.files or () if name.endswith(_PICKLE_NAMES) and not name.startswith("training_args")
    )
    held = held if "config.json" in (card.files or ()) else []
    if held:
        yield Violation(1, f"the repository holds {', '.join(held[:5])}{' …' if len(held) > 5 else ''}")
    seen = set(held)
    for hit in card.search(_PICKLE):
        name = hit.match[0].lstrip(".-")
        if name not in seen:
            seen.add(name)
            yield Violation(hit.line, f"{name} is a pickle")
    for block in card.code:
        for m in re.finditer(rf"torch\.load\((?![^)]*weights_only\s*=\s*True)|{_PICKLE}", block.text):
            name = m[0].lstrip(".-")
            if name not in seen:
                seen.add(name)
                line = block.line + block.text.count("\n", 0, m.start())
                yield Violation(
                    line, f"{name.rstrip('(')} reads a pickle" if "load" in name else f"{name} is a pickle"
                )


@rule(
    "C705",
    "warning",
    "Markup is printed instead of rendered",
    why="A missing space or an unclosed pair of asterisks shows as such on the page.",
    fix="Put a space after #, and close every **.",
)
def raw_markup(card: Card) -> Iterator[Violation]:
    """Report hashes without a space at the start of a line, and asterisks that open nothing."""
    found = []
    for _, prose in card.blocks_of(Prose):
        for i, line in enumerate(prose.text.split("\n")):
            if m := re.match(r"\s*#{2,6}(?=[A-Za-z])\w*|\s*\*\*(?=\s)|.*?\s\*\*(?=[A-Z])\w+", line):
                found.append((prose.line + i, m[0].strip()))
    if found:
        more = f" (and {len(found) - 1} lines more)" if len(found) > 1 else ""
        yield Violation(found[0][0], f"“{found[0][1][-40:]}” is printed with its markup{more}")


@rule(
    "C706",
    "info",
    "Section is empty",
    why="A heading without content looks like something that got lost.",
    fix="Fill it or delete it.",
)
def empty_section(card: Card) -> Iterator[Violation]:
    """Report a heading that is followed by no text, table, code, picture or deeper heading."""
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
            yield Violation(here.line, f"nothing follows the heading “{here.text}”")


@rule(
    "C707",
    "info",
    "Image without a description",
    why="People who cannot see the chart, and the Hub's text view, get nothing.",
    fix="Say in the alternative text what the picture shows.",
)
def undescribed_image(card: Card) -> Iterator[Violation]:
    """Report images with an empty alternative text."""
    for link in card.links:
        if link.image and not link.text.strip():
            yield Violation(link.line, f"the image {link.target} has no alternative text")
