"""Rules on claims, words and the file itself."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator
from itertools import islice
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from eagle3hub.errors import Severity
from eagle3hub.lint import claims
from eagle3hub.lint.model import Card, Prose, Section, Table, Violation, rule

# C8: claims without support, and data sets that are not what the card says


_FACTOR = r"(?P<{0}>\d+(?:\.\d+)?(?:\s*(?:-|–|to)\s*\d+(?:\.\d+)?)?\s?[x×])(?!\w|\s*\d)"
_SPEED = (
    rf"{_FACTOR.format('a')}(?:[^.|,;]|\.\d){{0,50}}?\b(?:speed|throughput|faster|accelerat\w+|latency|inference"
    r"|tok(?:en)?s?\s?(?:/|per )\s?s)"
    rf"|\b(?:speed\w*|throughput|faster|accelerat\w+)(?:[^.|,;]|\.\d){{0,50}}?{_FACTOR.format('b')}"
    r"|(?:加速|提速|速度|吞吐|推理|解码)[^。，；|\n]{0,12}?(?P<c>\d+(?:\.\d+)?(?:\s*[-–~到至]\s*\d+(?:\.\d+)?)? ?倍)"
    r"|(?P<d>\d+(?:\.\d+)?\s?%) (?:faster|speed-?\s?up|higher (?:decod\w+ )?throughput|lower (?:decod\w+ )?latency)\b"
    r"|(?:速度|吞吐|推理|解码)[^。，；|\n]{0,12}?(?:提升|提高|加快)[^。，；|\n]{0,4}?(?P<e>\d+(?:\.\d+)? ?%)"
)
_OF_HARDWARE = re.compile(
    rf"\s*(?:(?:AMD|NVIDIA|Nvidia|Google|Intel|Huawei|Instinct|Cloud|Tesla|GeForce|SXM|PCIe) ?)*"
    rf"(?:{claims.HARDWARE}|(?:GPU|TPU|NPU|node|card|chip|accelerator|device|core|machine|server|host"
    rf"|smaller|larger|fewer|more|"
    r"parameter|token|step|epoch|batch|longer|memory|size)s?\b)",
    re.I,
)
"""What follows a factor that counts devices, or is not of a speed."""
_THEIRS = r"\b(?:paper|their|reported by)\b"
_QUOTED = re.compile(
    r"\b(?:paper|authors?|original work|literature|blog)\b[^.]{0,60}"
    r"\b(?:reports?|claims?|shows?|gives?|states?|finds?|measures?)\b|\baccording to\b"
    r"|论文[^。]{0,20}(?:报告|给出|声称)",
    re.I,
)
"""What introduces a factor that others measured."""
_TRAINING_RAN = re.compile(r"\btraining (?:was|is|ran|runs|took|became)\b[^.;]*$", re.I)
_BASELINE = (
    r"基线|baseline|vanilla|auto-?regressive|without (?:a |the )?(?:draft|specul|eagle|dspark|dflash|mtp\b)"
    r"|no[- ](?:spec|draft|head|eagle)|\bAR\b|w/o|target (?:alone|only)|"
    r"\b(?:spec\w*|head|draft\w*|eagle\S*)[ :=]off\b"
    r"|\b(?:plain|stock|ordinary|normal) (?:decoding|vllm|sglang|target|tok)"
    r"|无投机|不(?:使用|启用|开)(?:投机|草稿|推测)|关闭"
)
_ITEMS = r"(?:prompts|questions|problems|samples|examples|conversations|dialogues|sequences|tasks|道?题|条)"
_ALONE = r"(?!\s*(?:,\s*(?:and )?(?-i:[A-Z])|/|\+|&|、|[和与及]|and\b|plus\b))"
_NO_OTHER_SET = r"(?![A-Za-z+]|[-_/]\w)"
"""MT-Bench-101, HumanEval+ and HumanEval-X are sets of their own."""
_SIZES = {
    r"GSM8K[ /(（:-]{1,2}test": (1319, "1,319 problems for testing"),
    r"MBPP[ /(（:-]{1,2}test": (500, "500 problems for testing"),
    r"C-?Eval[ /(（:-]{1,2}val\w*": (1346, "1,346 questions for validation"),
    r"MT[- ]?Bench": (160, "80 questions of two turns"),
    r"HumanEval": (164, "164 problems"),
    r"MATH[- ]?500": (500, "500 problems"),
    r"GSM8K": (8792, "8,792 problems, 1,319 of them for testing"),
    r"Spec[- ]?Bench": (480, "480 questions"),
    r"MMStar": (1500, "1,500 questions"),
    r"C[- ]?Eval": (13948, "13,948 questions"),
    r"MBPP": (974, "974 problems"),
    r"AIME[ -]?(?:20)?2[456]": (30, "30 problems of that year"),
    r"GPQA[ -]?Diamond": (198, "198 questions"),
}
_FOR_TESTING = {"GSM8K": (1319, "1,319 problems for testing")}
"""Sets whose other problems are for training: who measures more than these has measured on others too."""


def _is_training(table: Table) -> bool:
    return bool(re.search(claims.TRAINING, f"{table.heading} {' '.join(table.header)}", re.I))


@rule(
    "C801",
    "warning",
    "Speed-up without a measurement",
    why="A factor without table, engine, batch and baseline is advertising; other people's factors belong to their "
    "heads, targets and machines.",
    fix="Show throughput with and without the head, with its conditions, or leave the factor out.",
    heads=True,
    words=True,
)
def unsupported_speedup(card: Card) -> Iterator[Violation]:
    """Report speed-up factors if the card has no throughput table, or none with a baseline."""
    kinds = ("throughput", "speedup", "latency")
    tables = list({id(t): t for wanted in kinds for _, t, _ in claims.columns_of_kind(card, wanted)}.values())
    known = {id(t) for t in tables}
    tables += [t for _, t in card.tables if id(t) not in known and _SPEED_IN_ROWS.search(t.text)]
    printed = tables or claims.printed_throughput(card) or card.says(r"\d\W{0,4}tok(?:en)?s?\s?/\s?s")
    if any(re.search(_BASELINE, t.text, re.I) for t in tables) or (printed and card.says(_BASELINE)):
        return
    if any(sum(c.kind == "throughput" for c in claims.columns(t)) > 1 for t in tables):
        return  # two throughputs of a row are compared, by whatever names
    if claims.unread_results(card):
        return
    compared: dict[int, bool] = {}
    for hit in card.search(_SPEED, tables=False):
        group = next(name for name in "abcde" if hit.match[name])
        factor = hit.match[group]
        after = hit.match.string[hit.match.end(group) :]
        if group == "d" and re.search(
            r"\btrain", hit.match.string[max(0, hit.match.start() - 40) : hit.match.start()]
        ):
            continue
        if _TRAINING_RAN.search(hit.match.string[max(0, hit.match.start() - 40) : hit.match.start(group)]):
            continue
        theirs = re.search(_THEIRS, hit.match[0], re.I) or _QUOTED.search(claims.sentence_of(hit.match))
        if _OF_HARDWARE.match(after) or theirs:
            continue
        end = "no table has a baseline" if tables else "the card has no measurement of speed"
        if len(_TOKENS_A_SECOND.findall(claims.sentence_of(hit.match))) > 1:
            continue  # the sentence gives both
        if id(hit.section) not in compared:
            measured = re.search(r"measur|result|evaluat|benchmark|evidence", hit.section.title, re.I)
            compared[id(hit.section)] = bool(measured) and _is_compared(hit.section)
        if compared[id(hit.section)]:
            continue
        around = hit.match.string[max(0, hit.match.start() - 60) : hit.match.end() + 60]
        admitted = re.search(r"\bproject(?:s|ed|ion)\b|\bextrapolat|\bnot measured|预计", around, re.I)
        yield Violation(hit.line, f"“{factor}”: {end}", severity="info" if admitted else None)


_SPEED_IN_ROWS = re.compile(r"tok(?:en)?s?\s?(?:/|per )\s?s|\bTPOT\b|throughput|latency|吞吐|延迟", re.I)
"""What names a measurement of speed in the rows of a table."""
_TOKENS_A_SECOND = re.compile(
    r"\d\s*(?:output )?(?:tok(?:en)?s?\s?(?:/|per )\s?s|TPS|t/s)|tok(?:en)?s?\s?/\s?s (?:of|against|vs\.?) \d", re.I
)


def _is_compared(section: Section) -> bool:
    """Return whether a section names hardware and baseline of what it measured, in its first 20,000 letters."""
    text = "\n".join(block.text for block in section.blocks[:50] if isinstance(block, Prose))[:20_000]
    return all(
        re.search(p, text, re.I) for p in (rf"{claims.HARDWARE}|\bM[1-9] (?:Max|Pro|Ultra)", rf"{_BASELINE}|\bOFF\b")
    )


@rule(
    "C802",
    "error",
    "MT-Bench's judgments are taken for its questions",
    why="Acceptance is measured on MT-Bench's 80 questions of two turns. The 3,300 expert votes are another data set: "
    "people's judgments of models' answers.",
    fix="Write: MT-Bench, 80 questions of two turns in 8 categories.",
)
def judgments_as_questions(card: Card) -> Iterator[Violation]:
    """Report 3,300 sequences on a card about MT-Bench; on a head's also votes and judgments, as a warning."""
    if card.says(r"MT[- ]?Bench"):
        votes = r"(?:expert|human)(?: \w+)? (?:preference )?(?:votes|judg\w+|annotations)|preference votes"
        for hit in card.search(rf"\b3[,.]?3(?:00|K)\b[^.]{{0,100}}|{votes}"):
            counted = hit.match[0].startswith("3")
            before, after = claims.sentence_around(hit.match)
            if _EXCLUDED_BEFORE.search(before) or _EXCLUDED.search(after):
                continue
            items = re.search(rf"{votes}|sequence|dialog|conversation", hit.match[0], re.I)
            if items if counted else card.is_of_a_head:
                message = f"“{hit.match[0].strip()}” describes MT-Bench's human judgments"
                yield Violation(hit.line, message, severity=None if counted else "warning")


_EXCLUDED_BEFORE = re.compile(
    r"\b(?:not|no|never|without|rather than|instead of|unlike|neither|nor|except|exclud\w+|other than)\b[^,;()]{0,40}$"
    r"|(?:不是|而非|并非|不含|不包括|不同于)[^，。；]{0,12}$",
    re.I,
)
_EXCLUDED = re.compile(
    r"\b(?:another|a different|a separate|unrelated)\b|\b(?:is|are|was|were) not\b|另一个?|并非|无关|不同的"
    r"|\b(?:dropped|removed|discarded|ignored?|unused|left out|did not use|threw away)\b|(?:去掉|剔除|未用|不使用)",
    re.I,
)
"""What is said of a set that is named to say that it was not used."""


@rule(
    "C803",
    "error",
    "More items than the data set has",
    why="Nobody can measure more prompts than the data set has, so something else was measured.",
    fix="Name the set that was used, its split and the number of prompts.",
)
def too_many_items(card: Card) -> Iterator[Violation]:
    """Report a number of items beside a data set's name, or in its row, that is larger than the data set.

    Beside several names it may be the sum, or the next one's. More than the problems for testing is a warning.
    """
    seen: set[tuple[int, float]] = set()
    for line, said, name, count in _numbers_of_items(card):
        size, what = _SIZES[name]
        tested = _FOR_TESTING.get(name)
        severity: Severity | None = None
        if tested and count <= size and not card.says(_TRAINS_ON.format(name)):
            (size, what), severity = tested, "warning"
        if count > size and count % size and (line, count) not in seen:  # a multiple is of several runs
            seen.add((line, count))
            yield Violation(line, f"{said}: the set has {what}", severity=severity)


_TRAINS_ON = r"{0}[^.;\n]{{0,40}}\btrain|\btrain\w*\b[^.;\n]{{0,40}}{0}"


def _numbers_of_items(card: Card) -> Iterator[tuple[int, str, str, float]]:
    """Yield the numbers of items of the known sets: (line, words, set, number)."""
    for _, table, i in claims.columns_of_kind(card, "count"):
        if not re.search(_ITEMS + r"|^\W*[n#](?!\w)|样本|题|条数", table.header[i], re.I) or _is_training(table):
            continue
        for row, n in table.column(i):
            label = f"{row.label} {table.header[i]}"
            for name in () if _names_several(label) else _SIZES:
                if re.search(rf"(?<![A-Za-z]){name}{_NO_OTHER_SET}", label, re.I):
                    yield row.line, f"{row.label}: {n.value:g} items", name, n.value
    number, of_other = r"(?P<{0}>\d[\d,]*)", rf"(?!\s?(?:of|from|in|for|on|的)?\s?(?:the )?(?:{claims.SETS}))"
    for name in _SIZES:
        after = rf"(?<![A-Za-z]){name}{_NO_OTHER_SET}\W{{1,3}}(?:(?!and |plus |or |then |和|与|及)\w+ )?"
        after += rf"{number.format('a')} ?(?:(?!{claims.SETS})(?-i:[a-z])\w* )?{_ITEMS}{of_other}"
        of_set = rf"(?<![\d.])(?<!\+ )(?P<c>\d+(?:,\d{{3}})*) (?:[a-z]\w* )?{_ITEMS} (?:of|from|in) (?:the )?{name}"
        of_set += _NO_OTHER_SET + _ALONE
        for hit in card.search(rf"{after}|{number.format('b')} {name} {_ITEMS}|{of_set}", outside=claims.TRAINING):
            if not re.search(r"repeat|times|samples per|runs", hit.match[0], re.I) and not _is_a_sum(hit.match):
                count = int((hit.match["a"] or hit.match["b"] or hit.match["c"]).replace(",", ""))
                yield hit.line, f"“{hit.match[0]}”", name, count


def _names_several(label: str) -> bool:
    """Return whether a label names more than one set of prompts, or one and something else."""
    names = {re.sub(r"\W", "", m[0].lower()) for m in re.finditer(claims.SETS, label, re.I)}
    return len(names) > 1 or bool(re.search(r"\s[+&]|\+\s|\band\b|\bplus\b|[和与及]", label))


_JOINED_SETS = re.compile(
    rf"(?:{claims.SETS})\W{{0,2}}?(?:\s(?:and|plus|or|with)\s|\s?[+&/、和与及,，]\s?)(?:the )?$", re.I
)
_IN_TOTAL = re.compile(r"\W{0,2}\s?(?:in total|in all|altogether|overall|combined|together|total\b|共)", re.I)
_EACH = re.compile(r"\W{0,2}\s?(?:each|apiece|per set|from each|各)", re.I)


def _is_a_sum(m: re.Match[str]) -> bool:
    """Return whether a number of items is said of several sets that are named before it."""
    before, after = m.string[max(0, m.start() - 60) : m.start()], m.string[m.end() : m.end() + 20]
    if _EACH.match(after):
        return False
    several = _IN_TOTAL.match(after) and _names_several(claims.sentence_of(m))
    return bool(several or (m["a"] and _JOINED_SETS.search(before)))


@rule(
    "C804",
    "warning",
    "Modalities contradict each other",
    why="A text-only head advertised as image-to-text fails on the first picture.",
    fix="Name the modalities the head was trained and measured with.",
)
def contradictory_modality(card: Card) -> Iterator[Violation]:
    """Report image-to-text on a card that says that the input is text."""
    tag = str(card.metadata.get("pipeline_tag", ""))
    sees = any(_SEES.search(name) for name in card.listed("base_model"))
    of_text = next(iter(card.search(_NO_IMAGES if sees else rf"{_TEXT_ALONE}|{_NO_IMAGES}", tables=False)), None)
    if of_text and re.search("image|video|audio", tag):
        yield Violation(card.metadata_line("pipeline_tag"), f"{tag}, and line {of_text.line}: “{of_text.match[0]}”")
    if card.says(r"\binput (?:type|modalit)\w*(?:\(s\))?\W+text\b(?!\W{0,3}(?:and |\+ |/ ?)?image)"):
        for hit in card.search(r"image[- ](?:text[- ])?to[- ]text"):
            yield Violation(hit.line, f"“{hit.match[0]}”, but the input is text")


_TEXT_ALONE = (
    r"\btext[- ]only (?:head|draft\w*|model|speculator|checkpoint|target)|\btext in, text out\b|(?:仅|只)支持文本"
    r"|\b(?:is|are|both|being|strictly|purely) text[- ]only\b"
    r"|\b(?:reads|takes|handles|supports) (?:only text|text only)\b|纯文本(?:模型|草稿)"
)
_NO_IMAGES = (
    r"\b(?:neither|nor|no)\b[^.;\n]{0,40}\b(?:takes?|reads?|sees?|accepts?|supports?) (?:images?|pictures?)\b|"
    r"\b(?:cannot|can't|doesn't|don't) (?:take|read|see|accept|process|handle) (?:images?|pictures?)\b|"
    r"\bnever (?:saw|sees|seen) (?:an? )?images?\b|\b(?:does|do) not (?:support|take|read|see) images?\b"
    r"|\bno (?:image|vision) (?:input|support)|\bimages? (?:inputs? )?(?:are|is) not supported|不支持图[像片]"
)
_SEES = re.compile(r"VL\b|vision|omni|multimodal|pixtral|llava|gemma-3n?-(?:4|12|27)b|llama-4|\d+(?:\.\d+)?v\b", re.I)
"""A target that reads images: its draft head may be of text alone."""


# C3: ambiguous words for a number


_RATE = r"accept\w*[ _-]rate"
_MOST_PER_STEP = 8
_ABOVE_ONE = r"(?:1\.0*[1-9]\d*|[2-8]\.\d+)"


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
    columns: dict[tuple[int, str], list[claims.AcceptanceLength]] = {}
    for length in claims.acceptance_lengths(card):
        if length.table is not None and re.search(rf"{_RATE}|接[受收]率", length.header, re.I):
            columns.setdefault((length.place, length.header), []).append(length)
    seen: set[int] = set()
    for (line, header), lengths in columns.items():
        if line not in seen:
            seen.add(line)
            values = [x.number.value for x in lengths]
            message = f"“{header}” of {min(values):.2f} to {max(values):.2f}: no rate is above 1"
            # larger numbers may be percentages
            yield Violation(line, message, severity=None if max(values) <= _MOST_PER_STEP else "warning")
    per_step = r"tokens? (?:\w+ ){0,4}(?:in|per) (?:each |a |every )?(?:step|round)"
    defined = rf"{per_step}[^.]{{0,30}}\b(?:called|is the|=) {_RATE}"
    for hit in card.search(rf"{defined}|{_RATE} (?:is|means|=|\() ?(?:the )?(?:average )?(?:number of )?tokens per"):
        yield Violation(hit.line, "tokens per step are called acceptance rate here")
    said = rf"{_RATE} (?:of|is|was|=|:) ?[~≈]?{_ABOVE_ONE} tokens\b"
    said += r"|接[受收]率(?:均|为|达到?|是|约|高达|[:：\s])+" + _ABOVE_ONE + r" ?个? ?token"
    for hit in card.search(said, tables=False):
        yield Violation(hit.line, f"“{hit.match[0]}”: tokens are called acceptance rate here")
    above = _ABOVE_ONE + r"(?![\d.]*\s?(?:[%x×\d倍]|percent|pp\b|points|tokens))"
    bare = rf"{_RATE}(?: (?:on|for) [\w-]+)?(?:[:=]| of| is| was| reaches| reached) ?[~≈]?{above}"
    bare += rf"|接[受收]率(?:均|为|达到?|是|约|高达|[:：\s])+{above}(?! ?个? ?token)"
    for hit in card.search(bare, tables=False):
        yield Violation(hit.line, f"“{hit.match[0]}”: no rate is above 1", severity="warning")
    for block in card.code:
        if block.is_data or block.language in {"", "yaml", "yml", "text", "log", "output"}:
            for m in islice(_RATE_IN_DATA.finditer(block.text), _MOST_LEFT):
                line = block.line + block.text.count("\n", 0, m.start())
                yield Violation(line, f"“{m[0]}”: no rate is above 1", severity="warning")


_RATE_IN_DATA = re.compile(
    r"(?<![\w-])[\"']?(?:\w+_)?accept\w*[ _-]rate[\"']?\s*[:=]\s*(?:\{[^{}%]{0,60}?:\s*)?"
    + _ABOVE_ONE
    + r"(?![\d.]*\s?%)",
    re.I,
)


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
        if s.kind is None and not s.is_described_so and not s.is_accuracy:
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
    heads=True,
    words=True,
    also=claims.prints_acceptance,
)
def undefined_rate(card: Card) -> Iterator[Violation]:
    """Report tables and sentences with a rate that the card does not define."""
    if claims.defines_rate(card) or set(claims.measured_ks(card)) == {1}:
        return  # with one drafted token there is one meaning
    of_positions = {line for s in claims.rate_series(card) for line in (s.line, *s.lines)}
    named: set[str] = set()
    for _, table, i in claims.columns_of_kind(card, "rate"):
        if table.header[i] in named or not re.search(r"acc|接[受收]|rate|率|α", table.header[i], re.I):
            continue
        named.add(table.header[i])
        most = 100 if "%" in table.header[i] else 1
        by_position = {table.line, *(row.at(i) for row, _ in table.column(i))} & of_positions
        if not by_position and all(n.share <= 1 or n.value <= most for _, n in table.column(i)):
            yield Violation(table.line, f"“{table.header[i]}” is not defined anywhere on the card")
    number = r"(?:0?\.\d+|(?<![\d.])[1-9]\d*(?:\.\d+)?\s?%)"
    chinese = rf"接[受收]率(?:\s|约|平均|达到?|高达|为){{0,4}}{number}"
    wanted = rf"{_RATE}s?(?: [\w@/-]+){{0,9}}[ :=~]+{number}|{number} (?:\w+ ){{0,2}}{_RATE}|{chinese}"
    wanted += rf"|{number} (?:draft|token) acceptance\b"
    for hit in card.search(wanted, tables=False):
        if hit.line not in of_positions:
            yield Violation(hit.line, f"“{hit.match[0].strip()}”: of what, among what?")


_AGREEMENT = re.compile(r"held-?out|teacher[- ]forc\w+|\bagreement\b|\btop-?1 accuracy", re.I)


@rule(
    "C304",
    "warning",
    "Training accuracy is presented as acceptance",
    why="acc_0, acc_1 … of a training log are teacher-forced agreements of the arg-max at each unrolled step, over "
    "all positions. They stand for a conditional rate at best and were not measured by an engine.",
    fix="Measure acceptance on an engine, and call these numbers training-time accuracy.",
)
def training_accuracy(card: Card) -> Iterator[Violation]:
    """Report rates whose positions have the names of a training log, and agreement on held-out text, as acceptance."""
    for s in claims.rate_series(card):
        if s.is_training_accuracy and not s.is_called_so:
            yield Violation(s.line, f"acc_0 … acc_{len(s.rates) - 1} under “{s.name}”")
    seen = {s.line for s in claims.rate_series(card) if s.is_training_accuracy}
    for _, table in card.tables:
        words = f"{table.heading} {' '.join(table.header)}"
        denied = re.search(r"\b(?:not|no) (?:an? )?accept", table.heading, re.I)
        if re.search(r"accept", table.heading, re.I) and not denied and (m := _AGREEMENT.search(words)):
            yield Violation(table.line, f"“{table.heading}” shows “{m[0]}”")
        logged = [row.label for row in table.rows[:50] if _LOGGED.search(row.label)]
        as_acceptance = re.search(_ACCEPT, table.heading, re.I) and not _CALLED_TRAINING.search(words)
        if table.line not in seen and len(logged) > 1 and as_acceptance:
            yield Violation(table.line, f"{logged[0]} … {logged[-1]} under “{table.heading}”")
    of_training = {id(s) for s in card.sections if s.path and re.search(_AT_TRAINING, s.path[-1].text, re.I)}
    validated = {x.line: x for x in claims.acceptance_lengths(card) if id(x.section) in of_training}
    for line, length in list(validated.items())[:1]:
        yield Violation(line, f"τ = {length.number.value:g} under “{length.section.path[-1].text}” is of no engine")
    for section, prose in card.blocks_of(Prose):
        heading = section.path[-1].text if section.path else ""
        found = list(_LOGGED_VALUE.finditer(prose.text))
        around = f"{heading} {prose.text}"
        if len(found) > 1 and re.search(_ACCEPT, around, re.I) and not _CALLED_TRAINING.search(around):
            line = prose.line + prose.text.count("\n", 0, found[0].start())
            yield Violation(line, f"{found[0][0]} … {found[-1][0]} as acceptance")


_ACCEPT = r"accept|接[受收]"
_AT_TRAINING = r"\bat training time\b|\btraining[- ]time accept"
_LOGGED = re.compile(r"(?<![A-Za-z])acc_\d", re.I)
_LOGGED_VALUE = re.compile(r"(?<![A-Za-z])acc_\d\W{1,3}(?:为 ?)?(?:0?\.\d+|\d\d(?:\.\d+)?\s?%)", re.I)
_CALLED_TRAINING = re.compile(
    r"accuracy|training[- ]time|teacher|\bnot\b|\bno (?:measured )?accept|准确率|validation", re.I
)


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
            around = hit.match.string[max(0, hit.match.start() - 200) : hit.match.end() + 200]
            if re.search(r"training[- ]time[- ]test", around, re.I):
                continue  # the two are told apart
            yield Violation(hit.line, f"“{hit.match[0]}” is not what EAGLE-3 does")


@rule(
    "C306",
    "warning",
    "Accepted drafts, or all tokens of a step?",
    why="Some count the drafted tokens that were accepted, others add the target's own token of each step. The two "
    "differ by 1, as much as two good heads do, and a reader who takes one for the other compares wrongly.",
    fix="Say which: accepted drafts per step, or all tokens emitted per step (τ, the target's own included).",
)
def which_tokens(card: Card) -> Iterator[Violation]:
    """Report numbers below 1, or named after accepted drafts, if the card does not say what it counts.

    Also more accepted drafts than were drafted: the numbers count the target's own token, their definition does not.
    """
    meant = r"(?:average|mean) number of (?:accepted draft(?:ed)? tokens|draft(?:ed)? tokens (?:that are )?accepted)"
    for hit in card.search(meant, tables=False)[:1]:
        for length in claims.acceptance_lengths(card):
            most = max(length.ks, default=0)
            if most and length.number.value - length.number.slack > most:
                shown = f"{length.number.value:g} of {most} drafted tokens ({length.label}, line {length.line})"
                yield Violation(hit.line, f"“{hit.match[0]}” would be {shown}: the target's own token is counted")
                return
    if card.says(_COUNTS_BONUS) or claims.counts_bonus(card):
        return
    seen: set[int] = set()
    for length in claims.acceptance_lengths(card):
        below = length.number.value + length.number.slack < 1
        if not (length.accepted_alone or below):
            continue
        of_steps = not length.accepted_alone and re.search(r"τ|\btau\b|tokens? (?:per|/)", length.header, re.I)
        if not of_steps and length.place not in seen:
            seen.add(length.place)
            shown = f"“{length.header}” of {length.number.value:g}"
            end = (
                "less than 1, so without the target's own token?"
                if below
                else "with or without the target's own token?"
            )
            yield Violation(length.line, f"{shown}: {end}")
    meant = r"(?:average|mean) number of (?:accepted (?:draft(?:ed)? )?tokens|(?:draft(?:ed)? )?tokens accepted)"
    if not seen and claims.acceptance_lengths(card):
        for hit in card.search(meant, tables=False)[:1]:
            yield Violation(hit.line, f"“{hit.match[0]}”: with or without the target's own token?", severity="info")


_COUNTS_BONUS = (
    r"bonus token|target(?: model)?['’]s own token|without (?:\*\*)?the token that|\badd (?:1|one) for|"
    r"(?:in|ex)clud\w+ (?:the )?(?:bonus|target|verif|last|free|first)|"
    r"\b1 ?\+ ?(?:mean |average )?(?:accept|drafts?\b)|"
    r"\b(?:without|exclud\w*|minus|besides?)\b[^.;|\n]{0,40}\b(?:target|verifier|guaranteed|bonus|extra)\b|plus 1\b|"
    r"\b(?:target|verifier|guaranteed|extra|additional)(?:['’]s)?(?: own)? token\b[^.;|\n]{0,40}"
    r"\b(?:left out|exclud|includ|count|on top|not)|\bonly (?:the )?draft\w*(?: tokens?)? (?:are |is )?count|"
    r"\bcounts? (?:the )?draft\w* (?:tokens? )?(?:only|alone)\b|"
    r"not counting|drafts? accepted (?:in a row )?per|emitted per|plus (?:one|the)|\+ ?1\b"
    r"|generated per (?:verification|target|decod)"
    r"|accepted drafts? (?:tokens )?(?:only|alone)|committed per|\bceiling (?:is|of)"
    r"|(?:max\w*|at most) (?:is |of )?K ?\+"
    r"|(?:不|未|已)?(?:含|包含|包括|计入|算上)[^。\n]{0,6}(?:目标|bonus|奖励|额外|自身)"
)


@rule(
    "C307",
    "error",
    "EAGLE is spelled out wrongly",
    why="EAGLE is “Extrapolation Algorithm for Greater Language-model Efficiency”. Other expansions are inventions, "
    "copied from card to card.",
    fix="Write EAGLE alone, or Extrapolation Algorithm for Greater Language-model Efficiency.",
)
def invented_expansion(card: Card) -> Iterator[Violation]:
    """Report words in brackets after EAGLE, or before it, whose initials are EAGLE's and that are not its name."""
    right = (
        "extrapolationalgorithmforgreaterlanguagemodelefficiency",
        "extrapolationalgorithmforgreaterlanguageefficiency",
    )
    name, word = r"\bEAGLE(?:[- ]?[123](?:\.\d)?)?", r"[\w*-]"
    after = rf"{name}[\s*_]*[(（](?:short for |全称[为是：:]? ?)?(?P<a>[A-Z](?:{word}| ){{15,120}})[),;，；）]"
    before = rf"(?P<b>\b(?-i:E){word}*(?: {word}+){{3,10}}) [(（]EAGLE(?:[- ]?[123])?[)）]"
    meant = (
        rf"{name}[\s*_]*(?: (?:stands|is short) for|, short for|, an acronym (?:for|of)|:| [–—-]|（?全称[为是：:]?) ?"
        rf"(?P<c>(?-i:E)\w+(?:[ -]{word}+){{3,10}})"
    )
    for hit in card.search(rf"{after}|{before}|{meant}"):
        words = (hit.match["a"] or hit.match["b"] or hit.match["c"]).strip(" *_")
        plain = re.sub(r"[^a-z]", "", words.lower())
        begins = re.match(r"e\w+", words, re.I) and re.search(r"\bA\S* |algorithm|auto", words, re.I)
        if begins and _spells_eagle(words) and not plain.endswith(right):
            yield Violation(hit.line, f"“{words}” is not what EAGLE stands for")


def _spells_eagle(words: str) -> bool:
    """Return whether the letters of EAGLE begin words of a text, in their order, and most of its words are so used."""
    initials = [word[0].lower() for word in re.split(r"[ -]+", words) if word[:1].isalpha()]
    at = 0
    for letter in "eagle":
        while at < len(initials) and initials[at] != letter:
            at += 1
        if at == len(initials):
            return letter == "e" or letter == "l"  # a bold letter inside a word, or a word left out
        at += 1
    return True


_METHODS_NAMED = {
    "P-EAGLE": r"p-?eagle",
    "DFlash": r"dflash",
    "DSpark": r"dspark",
    "Medusa": r"medusa",
    "HASS": r"hass",
    "MTP": r"mtp",
    "EAGLE-3": r"eagle-?3",
}


@rule(
    "C308",
    "warning",
    "The method is not that of the repository's name",
    why="Methods need other files, other flags and other engines. Where the title and the first sentence name two, "
    "one of them was copied from another card.",
    fix="Name the method that the head has, in both places.",
    heads=True,
)
def other_method(card: Card) -> Iterator[Violation]:
    """Report “this is a X model” if the card's title names another method and not X."""
    title = next((s.path[-1].text for s in card.sections if s.path), "")
    named = [name for name, p in _METHODS_NAMED.items() if re.search(rf"(?<![A-Za-z]){p}(?![A-Za-z0-9])", title, re.I)]
    if len(named) != 1:
        return
    kinds = "|".join(_METHODS_NAMED.values())
    for hit in card.search(
        rf"\bthis (?:model |repository |checkpoint )?(?:is"
        rf"|contains|holds) (?:an? |the )?(?P<m>{kinds})[- ](?:\w+ )?(?:speculator|draft|head|model|module)",
        tables=False,
    ):
        said = next(name for name, p in _METHODS_NAMED.items() if re.fullmatch(p, hit.match["m"], re.I))
        if said != named[0]:
            yield Violation(hit.line, f"“{hit.match[0]}”, and the title says {named[0]}")


# C0 and C7: the file itself: links, images, HTML, hidden characters, pickles, empty sections


_ACTIVE_TAGS = {"script", "iframe"}
_PARTS = {"object", "embed", "form", "style", "link", "meta", "base", "svg", "input"}
_BIDI = set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c")
_ERASING = set("\x08\x1b\x7f\x9b\r")
_HARMLESS = set("\u200c\u200d\u00ad\t")
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
    "C002",
    "info",
    "The text is in a language that is not read",
    why="The rules know the words of English and Chinese cards. What such a card does not say in one of them is not "
    "reported as missing, and what it says wrongly is not found.",
    fix="Check conditions and claims by hand, or add the results in English.",
)
def unread_language(card: Card) -> Iterator[Violation]:
    """Report prose in another language than English and Chinese."""
    if card.unread_language:
        yield Violation(1, f"the prose is in {card.unread_language}; rules about words were left out")


@rule(
    "C003",
    "info",
    "This is not the card of a draft head",
    why="A language model, a tool or a page of a manual owes its readers other things than a draft head: rules about "
    "what a head's card must say were left out.",
    fix="If it is a draft head's, say so in the first paragraph and in the tags: eagle3, draft-model.",
)
def no_head(card: Card) -> Iterator[Violation]:
    """Report a card whose tags, title and first paragraphs do not say that it is of a draft head."""
    if not card.is_of_a_head and not card.unread_language:
        yield Violation(1, "neither tags nor title nor the first paragraphs say that this is a draft head")


@rule(
    "C004",
    "info",
    "Parts that repeat others were not read",
    why="In a text of more than 1,500 paragraphs, list items and tables, those that differ from an earlier one by "
    "digits alone are left out, so that a log is checked in seconds. What only they say is not checked.",
    fix="Print results in one table.",
)
def repeated_parts(card: Card) -> Iterator[Violation]:
    """Report that later parts of a very long text were left out."""
    if card.repeats is not None:
        what = f"{card.repeats.count:,} parts from here on repeat earlier ones with other digits, and were not read"
        yield Violation(card.repeats.line, what)


@rule(
    "C701",
    "error",
    "Relative link leads nowhere",
    why="On the Hub the reader gets a 404, or a picture that is missing.",
    fix="Add the file to the repository, or correct the path.",
)
def broken_link(card: Card) -> Iterator[Violation]:
    """Report links without an address, and links and images whose paths are not among the repository's files."""
    for link in card.links:
        if not link.target.strip() and link.text.strip() and not link.image:
            yield Violation(link.line, f"the link “{link.text.strip()[:60]}” has no address", severity="warning")
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
        if tag.name in _ACTIVE_TAGS or (tag.name in _PARTS and tag.attributes):
            # a tag that runs nothing is stripped just the same; a word in brackets is none
            severity: Severity | None = "warning" if tag.name in _PARTS else None
            yield Violation(tag.line, f"the tag <{tag.name}>", severity=severity)
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
    others: list[tuple[int, str]] = []
    for number, line in enumerate(card.text.split("\n"), 1):
        if line.isprintable():  # then none of its characters is a control or format character
            continue
        odd = [c for c in line if unicodedata.category(c) in {"Cc", "Cf"} and c not in _HARMLESS]
        if odd:
            written_so = any(unicodedata.bidirectional(c) in {"R", "AL"} for c in line)
            bad = any((c in _BIDI and not written_so) or c in _ERASING for c in odd)
            names = ", ".join(dict.fromkeys(f"U+{ord(c):04X}" for c in odd))
            if bad:
                yield Violation(number, f"this line holds {names}")
            else:
                others.append((number, names))
    if others:
        more = f" (and {len(others) - 1} lines more)" if len(others) > 1 else ""
        yield Violation(others[0][0], f"this line holds {others[0][1]}{more}", severity="warning")


@rule(
    "C704",
    "warning",
    "Weights as pickles",
    why="A pickle can run code when it is loaded; engines refuse or warn, and nobody can read its header alone.",
    fix="Publish safetensors, and delete the pickle.",
)
def pickles(card: Card) -> Iterator[Violation]:
    """Report pickled weights that the repository holds, and torch.load without weights_only."""
    held = sorted(
        name for name in card.files or () if name.endswith(_PICKLE_NAMES) and not name.startswith("training_args")
    )
    held = held if "config.json" in (card.files or ()) else []
    if held:
        yield Violation(1, f"the repository holds {', '.join(held[:5])}{' …' if len(held) > 5 else ''}")
    elif card.files is None:
        for hit in card.search(_HELD):
            if not _NOT_HELD.search(hit.match.string):
                yield Violation(hit.line, f"“{hit.match[0].strip()[:60]}”")
                break
    loads = re.compile(r"torch\.load\((?![^)]*weights_only\s*=\s*True)")
    for line, _ in claims.code_matches(card, loads):
        yield Violation(line, "torch.load reads a pickle, and before 2.6 runs the code in it", severity="info")


_HELD = (
    r"\b[\w.-]+\.(?:bin|pth?|ckpt|pkl)\b[^.\n]{0,40}\b(?:weights|torch\.save|pickled?|state[_ ]dict|权重)"
    r"|\b(?:weights|torch\.save|pickled?|state[_ ]dict|权重)\b[^.\n|]{0,40}?\b[\w-]+\.(?:bin|pth?|ckpt|pkl)\b"
)
"""A file of weights that the text lists."""
_NOT_HELD = re.compile(
    r"\b(?:not|no longer|instead|old\w*|converted?|removed?|formerly|training_args|optimizer|d2t|t2d|trainer)\b"
    r"|不再|转换",
    re.I,
)


@rule(
    "C705",
    "warning",
    "Markup is printed instead of rendered",
    why="A missing space, an unclosed pair of asterisks or a row without its table shows as such on the page.",
    fix="Put a space after #, close every **, and put every row under the head of its table.",
)
def raw_markup(card: Card) -> Iterator[Violation]:
    """Report hashes without a space at the start of a line, asterisks that open nothing, and rows without a table."""
    found = []
    for _, prose in card.blocks_of(Prose):
        for i, line in enumerate(prose.text.split("\n")):
            if re.match(r"\s*\|[^|\n]+\|[^|\n]+\|\s*$", line):
                found.append((prose.line + i, line.strip()[:40]))
            elif m := _PRINTED_MARKS.match(line):
                found.append((prose.line + i, m[0].strip()))
    found = [(line, shown) for line, shown in found if line != card.cut]
    found += _swallowed(card)
    if found:
        more = f" (and {len(found) - 1} lines more)" if len(found) > 1 else ""
        yield Violation(found[0][0], f"“{found[0][1][-40:]}” is printed with its markup{more}")


def _swallowed(card: Card) -> Iterator[tuple[int, str]]:
    """Yield the fences after a sentence inside a block of code: a fence above opens nothing, or was not closed.

    A model's answer that is shown as code has fences of its own.
    """
    lines = card.text.split("\n")
    for block in card.code:
        opened = re.match(r"\s*(`{3,})", lines[block.line - 2]) if 1 < block.line <= len(lines) else None
        inner = _INNER_FENCE.search(block.text) if opened and "```" in block.text else None
        if inner and opened and len(inner[1]) >= len(opened[1]):
            yield block.line + block.text.count("\n", 0, inner.start(1)), inner[0].strip()


_INNER_FENCE = re.compile(r"(?<=[:：]\n) {0,3}(`{3,})[a-z]\w*[ \t]*$", re.M)
_PRINTED_MARKS = re.compile(
    r"\s*#{2,6}(?=[A-Za-z\u4e00-\u9fff])\w*|\s*#(?=[A-Z\u4e00-\u9fff])[\w ]+$|\s*\*\*(?=\s)|(?:|.*?\s)\*\*(?=[A-Z])\w+"
    r"|.*?(?:[\u4e00-\u9fff：，。）”]\*\*|\*\*(?=[\u4e00-\u9fff“（]))"
)


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
    filled_lines = sorted({x.line for x in card.links} | {x.line for x in card.tags})
    for section, after in zip(card.sections, [*card.sections[1:], None], strict=True):
        if not section.path or section.blocks:
            continue
        here = section.path[-1]
        next_line = after.path[-1].line if after else card.text.count("\n") + 2
        at = bisect_right(filled_lines, here.line)
        filled = at < len(filled_lines) and filled_lines[at] < next_line
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


_LEFT_OVER = (
    (r"(?-i:\bTODO\b[^\n]{0,60}|\bFIXME\b[^\n]{0,60}|\bTBD\b)", "is still to be done"),
    (r"待(?:补充|完善|更新)", "is still to be done"),
    (r"\[?More Information Needed\]?", "is the Hub's template"),
    (r"^Model Card for Model ID$", "is the Hub's template"),
    (r"\[optional\]", "is the Hub's template"),
    (r"\bLorem ipsum\b", "is a printer's text"),
    (
        r"(?<![\w.])/(?:home|Users)/(?!user|you|ubuntu|root|me/|name)[a-z][\w.-]+/[\w./-]+",
        "is a path of the author's machine",
    ),
    (r"(?<![\w{$])\{\{ ?[a-z]+(?:_[a-z]+)+ ?\}\}", "is a blank of a template"),
    (r"(?:^|(?<=[\s|]))\{[a-z]+(?:_[a-z]+)+\}(?=[\s.,;|)]|$)", "is a blank of a template"),
    (
        r"\b(?:set|fill|add|replace|remove|update)\b[^.;\n]{0,60}\b(?:field|placeholder|section|front-?matter|license"
        r"|link|values?)\b[^.;\n]{0,40}\bbefore (?:you )?(?:publish|upload|releas)\w*",
        "is a note to the author",
    ),
    (r"(?-i:\b(?:XXX+|FILL (?:ME|IN)|CHANGE ?ME|REPLACE ?ME)\b)", "is a blank"),
    (r"(?-i:\[(?:INSERT|ADD|FILL)\b[^\]\n]{0,40}\])|\|\s*\?{2,3}\s*(?:\||$)", "is a blank"),
    (r"(?-i:(?<![\w.])X+\.X+x?(?!\w)|(?:[:=|]|\bof|\bis) ?XX+(?![\w-]))", "is a blank"),
)
_INTERNAL = re.compile(
    r"\binternal\b|do not publish|not for release|confidential|/(?:home|Users|mnt|data|workspace|nfs"
    r"|raid)/[\w.-]+/[\w./-]+|\b(?:TODO|FIXME)\b",
    re.I,
)


@rule(
    "C708",
    "warning",
    "Something was left in the text",
    why="A blank or a note of the author tells readers that nobody read the card before it was published, and they "
    "trust the numbers less. A comment is not shown, but everybody can read it in the file.",
    fix="Fill it, or delete it.",
)
def left_over(card: Card) -> Iterator[Violation]:
    """Report words of templates, notes to oneself, blanks, and comments about internal matters."""
    seen: set[tuple[str, int]] = set()
    for pattern, what in _LEFT_OVER:
        for hit in card.search(pattern):
            found = hit.match[0].strip()
            around = hit.match.string[max(0, hit.match.start() - 40) : hit.match.end()]
            if "TODO" in found and _in_quotes(hit.match):
                continue  # the card speaks of the word
            if what == "is a blank" and re.search(r"\b(?:replace|edit|fill|set|change|every|each)\b", around, re.I):
                continue  # the reader is told to fill it
            if found.startswith("{") and re.search(rf"`[^`]*{re.escape(found)}[^`]*`", _line(card, hit.line)):
                continue  # a name in code
            if (found, hit.line) not in seen and len(seen) < _MOST_LEFT:
                seen.add((found, hit.line))
                yield Violation(hit.line, f"“{found[:60]}” {what}")
    for tag in card.tags:  # on the page such a blank is not even seen
        if re.match(r"(?:your|the|path|insert|fill|owner|name|model|repo)[-_]\w", tag.name):
            yield Violation(tag.line, f"“<{tag.name}>” is a blank")
    for line, comment in _comments(card):
        if m := _INTERNAL.search(comment):
            yield Violation(line, f"the comment “{' '.join(comment.split())[:60]}” holds “{m[0][:40]}”")


def _in_quotes(m: re.Match[str]) -> bool:
    """Return whether a match stands in quotation marks, in a comment of code, or before “comments” or “lists”."""
    before, after = m.string[max(0, m.start() - 60) : m.start()], m.string[m.start() : m.start() + 60]
    subject = re.search(r"\b(?:an?|the|of|or|and|resolve|every|each|open|write)\s*$", before)
    quoted = subject or before.count('"') % 2 or before.count("`") % 2 or before.count("“") > before.count("”")
    return bool(quoted) or bool(
        re.search(r"(?://|#)\s*$", before) or re.match(r"TODO\W*(?:comments?|lists?|items?)\b", after)
    )


def _line(card: Card, number: int) -> str:
    if "lines" not in card.cache:
        card.cache["lines"] = card.text.split("\n")
    lines: list[str] = card.cache["lines"]
    return lines[number - 1][:2000] if 0 < number <= len(lines) else ""


_MOST_LEFT = 50
_COMMENT = re.compile(r"<!--(.*?)-->", re.S)


def _comments(card: Card) -> Iterator[tuple[int, str]]:
    """Yield the comments of the file outside code, each with its line."""
    above = card.text.count("\n") - card.body.count("\n")
    inside = [(c.line, c.line + c.text.count("\n")) for c in card.code]
    starts = [start for start, _ in inside]
    line, seen = 1 + above, 0
    for m in _COMMENT.finditer(card.body) if "-->" in card.body else ():
        line, seen = line + card.body.count("\n", seen, m.start()), m.start()
        at = bisect_right(starts, line) - 1
        if at < 0 or line > inside[at][1]:
            yield line, m[1]


# C806 and C807: names and sizes of models


_SIZE_IN_NAME = re.compile(r"(?<![A-Za-z0-9.])(\d{1,4}(?:\.\d+)?)[Bb](?![A-Za-z])")
_SIZE_OF_A_NAME = re.compile(r"[-_–−][AaEe]?(\d{1,4}(?:\.\d+)?)[Bb](?![A-Za-z])")
_DASH = "[-–—−]"
"""What people write for a hyphen, where the parser has not made it one."""
_GAP = "[ –—−-]"
_SAID_SIZE = re.compile(
    rf"(?P<n>\d+(?:\.\d+)?){_GAP}?(?P<unit>B|T|billion|trillion)\b{_GAP}?(?:total{_GAP})?(?:param\w*|total)"
    rf"|(?P<n2>\d+(?:\.\d+)?){_GAP}?(?P<unit2>billion|trillion) (?:total )?param\w*",
    re.I,
)


@rule(
    "C806",
    "warning",
    "Another size than the model's name says",
    why="The size is part of the name of most models. A card that gives another one was copied from another card, or "
    "speaks of another model.",
    fix="Correct the size, or the name.",
)
def other_size(card: Card) -> Iterator[Violation]:
    """Report “N parameters in total” in a sentence that links one model whose name has another size."""
    addresses = _models_by_line(card)
    for _, prose in card.blocks_of(Prose):
        for m in _SAID_SIZE.finditer(prose.text) if "param" in prose.text or "total" in prose.text else ():
            line = prose.line + prose.text.count("\n", 0, m.start())
            names = {name for at in (line - 1, line) for name in addresses.get(at, ())}
            if not names:
                sentence = re.split(r"[.!?]\s", prose.text[max(0, m.start() - 400) : m.start()])[-1]
                names = {n for n in _MODEL_NAME.findall(sentence) if not _MANY_EXPERTS.search(n)}
                names = {max(names, key=len)} if len({tuple(_SIZE_IN_NAME.findall(n)) for n in names}) == 1 else set()
            sizes = {float(n) for name in names for n in _SIZE_IN_NAME.findall(name)}
            unit = (m["unit"] or m["unit2"]).lower()
            said = float(m["n"] or m["n2"]) * (1000 if unit.startswith("t") else 1)
            total = re.search("total|trillion", m[0] + prose.text[m.end() : m.end() + 12], re.I)
            if len(names) == 1 and len(sizes) == 1 and total and said > 2 * max(sizes):
                yield Violation(line, f"“{m[0].strip()}”, and the name is {names.pop()}")
    for hit in card.search(_NAMED_SIZE, tables=False):
        m = hit.match
        thousand = (m["unit"] or "").lower().startswith("t")
        said = float(m["zh"]) / 10 if m["zh"] else float(m["n"]) * (1000 if thousand else 1)
        name = m["name"] or m["name2"]
        if _is_other_size(name, said) and not _OF_A_PART.search(m[0]):
            yield Violation(hit.line, f"“{m[0].strip()}”: the name says {_SIZE_IN_NAME.findall(name)[0]}B")
    targets = card.listed("base_model")
    for hit in card.search(_TARGETS_SIZE, tables=False) if len(targets) == 1 else ():
        said = float(hit.match["n"]) * (1000 if hit.match["unit"].lower().startswith("t") else 1)
        name = targets[0].rpartition("/")[2]
        if _is_other_size(name, said) and not _OF_A_PART.search(hit.match[0]):
            yield Violation(hit.line, f"“{hit.match[0].strip()}”, and base_model is {name}")
    known = {float(n) for n in _SIZE_OF_A_NAME.findall(card.text)}
    for hit in card.search(_SIZE_FIRST, tables=False):
        said = float(hit.match["n"] or hit.match["n2"])
        name = hit.match["name"] or (targets[0].rpartition("/")[2] if len(targets) == 1 else "")
        other = _OF_A_PART.search(hit.match[0]) or _OF_A_SISTER.search(claims.sentence_of(hit.match))
        if said not in known and _is_other_size(name, said) and not other:
            yield Violation(hit.line, f"“{hit.match[0].strip()}”: the name of the model is {name}")
    for _, table in card.tables:
        places = [i for i, h in enumerate(table.header) if i and _SIZE_HEAD.search(h) and not _OF_A_PART.search(h)]
        for row in table.rows[:_MOST_LEFT] if len(places) == 1 else ():
            text = row.cells[places[0]].text.strip()
            size = re.fullmatch(rf"(\d+(?:\.\d+)?){_GAP}?B", text)
            if size and not _OF_A_PART.search(row.label) and _is_other_size(row.cells[0].text, float(size[1])):
                yield Violation(row.line, f"{row.cells[0].text} with {text} parameters")


_SIZED_NAME = rf"(?-i:[A-Z])[\w.]*(?:[-–−][\w.]+)*{_DASH}\d{{1,4}}(?:\.\d+)?B(?:[-–−][\w.]+)*"
"""A name with a size. A long dash after the size ends it."""
_NAME = rf"(?<![\w.-])(?P<name>{_SIZED_NAME})"
_NAMED_SIZE = (
    rf"{_NAME}(?:,? | ?{_DASH}{{1,3}} ?)(?:[\w'’–—−-]+ ){{0,5}}(?:has|with|is an?|\()(?: [a-z][a-z–—−-]+){{0,5}} ?"
    rf"(?P<n>\d+(?:\.\d+)?){_GAP}?(?P<unit>billion|B|trillion){_GAP}param\w*"
    rf"|{_NAME.replace('name', 'name2')}[ ，,]{{0,2}}(?:共有|有|拥有|具有|约)+ ?(?P<zh>\d+(?:\.\d+)?) ?亿(?:个)?参数"
    r"[^.。\n]{0,20}"
)
_TARGETS_SIZE = (
    r"\b(?:the|its) (?:target|base|verifier)(?: model)?,? (?:has|with|is an?)(?: [a-z][a-z–—−-]+){0,5} "
    rf"(?P<n>\d+(?:\.\d+)?){_GAP}?(?P<unit>billion|B|trillion|T)\b{_GAP}(?:total )?param\w*"
)
_SIZE_FIRST = (
    rf"(?<![\w.-])(?P<n>\d+(?:\.\d+)?){_GAP}?B{_GAP}(?:[a-z-]+ ){{0,3}}?(?:model|target|LLM|verifier),? [`*(]{{0,3}}"
    rf"(?:[\w-]+/)?(?P<name>{_SIZED_NAME})"
    rf"|\b(?:the|its|our|this) (?P<n2>\d+(?:\.\d+)?){_GAP}?B{_GAP}(?:[a-z-]+ ){{0,2}}?"
    r"(?:target|base model|verifier)\b"
)
"""A size before a model, whose name then says another: ``the 32B model Qwen3-8B``, ``the 80B target``."""
_OF_A_SISTER = re.compile(r"\b(?:sister|sibling|other|another|same family|compared|unlike|than|-class)\b", re.I)
_SIZE_HEAD = re.compile(r"^\W*(?:total )?(?:param(?:eter)?s?|size|参数量?)\b", re.I)
_OF_A_PART = re.compile(r"draft|head|active|activated|trainable|speculator|eagle|dflash|mtp|embed|草稿|激活", re.I)
_MANY_EXPERTS = re.compile(rf"\d+x\d|{_DASH}\d+E\b", re.I)
"""Names that give the size of one expert, or of what is active."""
_MODEL_NAME = re.compile(rf"(?<![\w./-]){_SIZED_NAME}")


def _is_other_size(name: str, said: float) -> bool:
    """Return whether a size is not that of a name, which is rounded and may leave out the embeddings."""
    sizes = [float(n) for n in _SIZE_IN_NAME.findall(name)]
    if len(sizes) != 1 or _MANY_EXPERTS.search(name) or _OF_A_PART.search(name):
        return False
    return not 0.6 * sizes[0] < said < 1.6 * sizes[0]


_MODEL_URL = re.compile(r"https?://(?:www\.)?(?:huggingface\.co|hf\.co)/(?P<id>[\w.-]+/(?P<name>[\w.-]+))/?$")


def _models_by_line(card: Card) -> dict[int, set[str]]:
    found: dict[int, set[str]] = {}
    for link in card.links:
        if (m := _MODEL_URL.match(link.target)) and not m["id"].startswith(
            ("datasets/", "spaces/", "papers/", "blog/")
        ):
            found.setdefault(link.line, set()).add(m["name"])
    return found


@rule(
    "C807",
    "warning",
    "A link named after one model leads to another",
    why="Readers take the model that they read of, or the one they land on; a draft head works with only one.",
    fix="Link the model that the text names.",
)
def other_model(card: Card) -> Iterator[Violation]:
    """Report links whose text is the name of a model that is not the one of their address."""
    for link in card.links:
        m = _MODEL_URL.match(link.target)
        text = link.text.strip(" `*").rpartition("/")[2]
        if m is None or m["id"].startswith(("datasets/", "spaces/", "papers/", "collections/", "blog/")):
            continue
        if not re.fullmatch(r"[A-Za-z][\w.]*(?:-[\w.]+)+", text) or not re.search(r"\d", text):
            continue
        said, there = _words(text), _words(m["name"])
        if said[0] == there[0] and not set(said) <= set(there) and not set(there) <= set(said):
            yield Violation(link.line, f"“{link.text}” leads to {m['id']}")


def _words(name: str) -> list[str]:
    return [word for word in re.split(r"[-_ ]+", name.lower()) if word not in claims.FORMATS] or [name.lower()]
