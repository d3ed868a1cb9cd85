"""Find the numbers a card claims: acceptance lengths, rates by position, throughput, and their K and T."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from itertools import islice
from typing import TypeVar

from eagle3hub.lint.model import Card, Cell, Code, Heading, Number, Prose, Row, Section, Table, numbers

T = TypeVar("T")

OF_TRAINING = r"\btrain|fine-?tun|distill|regenerat|训练|语料"
"""Words of a sentence about the training."""
_OF_MEASUREMENT = re.compile(
    r"measur|bench|evaluat|\bserv|\binfer|tok(?:en)?s?/s|faster|speed|latency|throughput|\baccept|τ|\btau\b"
    r"|tok(?:en)?s? (?:\w+ )?(?:per|/) ?(?:step|round|verif|forward)|\btemp(?:erature)?\b|\bT ?= ?[01]|\bgreed"
    r"|\b(?:vLLM|SGLang|TensorRT-LLM|llama\.cpp) v?\d|(?<![A-Za-z])K ?= ?\d|测|评|推理|温度|接受",
    re.I,
)
_SENTENCE_ENDS = re.compile(r";\s+|[.!?]\s+(?=[\W_]*[A-Z\d\u4e00-\u9fff])|[。！？；]|\n\s*\n")
_FAR = 300


def sentence_around(m: re.Match[str]) -> tuple[str, str]:
    """Return what stands before a match in its sentence, and from its start to the end of the sentence."""
    # with the first letter of the match, which tells whether a sentence begins with it
    before = _SENTENCE_ENDS.split(m.string[max(0, m.start() - _FAR) : m.start() + 1])[-1][:-1]
    inside = m.string[m.start() : m.end()]
    return before, inside + _SENTENCE_ENDS.split(m.string[m.end() : m.end() + _FAR])[0]


def sentence_of(m: re.Match[str]) -> str:
    """Return the sentence of a match."""
    return "".join(sentence_around(m))


def is_of_training(m: re.Match[str]) -> bool:
    """Return whether a match is said of the training: the nearest word before it in its sentence decides."""
    before, after = sentence_around(m)
    trained = max((x.end() for x in re.finditer(OF_TRAINING, before, re.I)), default=0)
    measured = max((x.end() for x in _OF_MEASUREMENT.finditer(before)), default=0)
    if trained or measured:
        return trained > measured
    return bool(re.search(OF_TRAINING, after[: len(m[0]) + 60], re.I)) and not _OF_MEASUREMENT.search(after)


def speaks_of_measuring(text: str) -> bool:
    """Return whether a text speaks of a measurement, or of serving."""
    return bool(_OF_MEASUREMENT.search(text))


TRAINING = r"\btrain|训练"
"""A section is about training if a heading matches this; its hardware and batch sizes are not a measurement's."""

HARDWARE = (
    r"\b(?:[AHV]100|[AH]800|A10G?|A30|A40|A6000|H20|H200|B[123]00|G[BH][123]0{1,2}|L4|L40S?|T4|P100|MI\d{3}[A-Z]?|"
    r"RTX ?(?:PRO ?)?\w?\d{4}|[345]0[5-9]0 ?Ti|GTX ?\d{4}|TPU ?v?\d\w*|Gaudi ?\d?|Xeon|EPYC|Core i\d|Apple M\d|"
    r"M\d (?:Pro|Max|Ultra)|"
    r"(?:an?|one|two|four|eight|single|my|our|GeForce(?: GTX| RTX)?|\d{1,2} ?[x×]) ?[1-5]0[5-9]0(?: ?Ti)?s?|"
    r"Radeon \w+|RX ?\d{4}|W[67]\d00|Arc [AB]\d{3}|Strix Halo|Ryzen \w+|Mac (?:Studio|mini|Pro)|MacBook|v\d[ep]?-\d+|"
    r"[gp]\d\w{0,3}\.\w*(?:large|metal)|沐曦 ?\w+|寒武纪|海光|摩尔线程|"
    r"Ascend \w+|昇腾 ?\w+|CPUs?|DGX|Jetson|Thor|Orin|Trainium\d?|Trn\d|Inferentia\d?)\b"
)
"""The names of accelerators and processors."""

SETS = (
    r"MT[- ]?Bench|HumanEval|GSM8K|MATH[- ]?500|C-?Eval|Spec[- ]?Bench|SPEED-Bench|MBPP|AIME\S*|GPQA\S*|MMLU\S*|MMStar"
    r"|Alpaca\S*|ShareGPT|CNN/?DM|LiveCodeBench|LongBench|IFEval|Arena-?Hard|WildChat|LMSYS\S*|UltraChat\S*"
)
"""The names of sets of prompts that acceptance is measured on."""

_TAU = r"(?:\btau\b|τ)(?![\s^$²23-]{0,6}bench)"
"""τ-bench is a set of tasks."""
_STEP = r"(?:\w+ ){0,2}(?:step|round|verification|pass|iteration|forward|draft\b)"
_LENGTH = re.compile(
    rf"acc(?:ept\w*|\.)?[ _-](?:draft )?len|{_TAU}|(?-i:\bM?AL\b)|mean accepted|accepted (?:\w+ )?(?:per|/) ?{_STEP}"
    rf"|average accepted|tok(?:en)?s? ?(?:(?:emitted|generated|committed|produced|accepted) )?(?:per|/) ?{_STEP}"
    r"|tok(?:en)?s? (?:is |are |was |were )?accepted (?:per|in each|each|every)"
    rf"|每(?:步|轮|次)[^|。\n]{{0,6}}接[受收][^|。\n]{{0,10}}(?:token|词元)"
    r"|接[受收](?:的)?(?:平均)?(?:长度| ?token ?数| ?词元数)",
    re.I,
)
_ACCEPTED_ALONE = re.compile(
    r"(?:mean|average|avg\.?|num\w*(?: of)?) accepted|accepted (?:draft\w*|tokens?|(?:\w+ )?(?:per|/))"
    r"|\baccept(?:s|ed)? ?(?:/|per\b)"
    r"|接[受收](?:的)? ?(?:token|词元)",
    re.I,
)
"""A heading that names accepted drafts, and not a length: the target's own token may or may not be counted."""

_RATE = re.compile(
    r"accept\w*[ _-](?:rate|prob|ratio)|acc[_ ]?rate|\bacc@\d|\bα\b|marginal|conditional|接[受收]率|命中率", re.I
)
_THROUGHPUT = re.compile(
    r"throughput|tok(?:en)?s?\s?(?:/|per)\s?s(?:ec\w*)?(?![a-z])|\bTPS\b|\btok/s|吞吐|(?:req|sample)\w*\s?(?:/|per)\s?s(?:ec|\b)",
    re.I,
)
_SPEEDUP = re.compile(
    r"speed-?\s?up|acceleration ratio|^\W*(?:ratio|factor)\W*(?:[(（].*)?$|\bspd\b|\bspeed\b.{0,30}\brelative"
    r"|加速比|加速倍|提速|加速",
    re.I | re.DOTALL,
)
_LATENCY = re.compile(r"latency|\bTTFT\b|\bTPOT\b|\bITL\b|\bE2EL?\b|\bms\b|时延|延迟|耗时", re.I)
_DIFFERENCE = re.compile(
    r"\bdiff|Δ|delta|\bchange\b|\bgain\b|improve|\bvs\b|relative|提升|变化|差[异距值]|[增降]幅", re.I
)
_INTERVAL = re.compile(r"interval|95 ?%|\bCI\b|±|\bstd\b|\bSE\b|deviation|置信|标准差", re.I)
_K = re.compile(
    r"^k$|draft(?:ed)?[ _](?:tokens?|len)|spec\w*[ _](?:tokens|steps)|num[_ ](?:spec|steps|draft)|草稿(?:长度"
    r"|token)|^步数$",
    re.I,
)
OF_DRAFTED = re.compile(
    r"drafted (?:tokens )?accept|draft acceptance(?! len)|draft(?:ed)? tokens (?:(?:that (?:are|were) )?accepted)"
    r"|accepted(?: tokens?)?\s*(?:/|÷|of|per|over|out of|divided by)\s*(?:all |the )*"
    r"(?:drafted\b|draft tokens|propos|specul)"
    r"|(?:接受|采纳)(?:数|的)?\s*[/÷]\s*(?:草|提议|起草)|草稿 ?(?:token|词元)? ?的?接[受收]率",
    re.I,
)
"""A head that names the share of the drafted tokens that were accepted."""
_COUNT_OF = re.compile(r"\s*[\d,]+ (?:of|/) [\d,]+\b")
"""``6 of 22`` is a count, whatever the header of its column says."""
_COUNT = re.compile(
    r"^[n#](?: ?[(（].*)?$|prompts|samples|questions|requests|rounds|\bsize\b|parameters|count|样本|题数|数量"
    r"|concurren|\bconc\b|\bbs\b|batch|并发",
    re.I,
)
_TEMPERATURE = re.compile(r"^t$|^temp|温度", re.I)
_OTHER = re.compile(
    r"loss|accuracy|\bacc\b|memory|\bGB\b|score|pass@|\bcost|epoch|\bstep\b|time|perplexity|hours|layer"
    r"|width|dim|hidden|"
    r"heads|vocab|rank|license|params?\b|\blr\b|learning|tokens?$|length$|year|version|官方|参数|\bTP\b|\bDP\b"
    r"|node|gpu",
    re.I,
)
_DESCRIBED = (("difference", _DIFFERENCE), ("interval", _INTERVAL), ("k", _K), ("temperature", _TEMPERATURE))
_MEASURED = (
    ("speedup", _SPEEDUP),
    ("throughput", _THROUGHPUT),
    ("latency", _LATENCY),
    ("length", _LENGTH),
    ("rate", _RATE),
)
_KEY_VALUE = re.compile(
    r"^(?:value|values|details?|setting|settings|description|default|meaning|notes?|取值|说明|值|config\w*|item|field|"
    r"parameters?|hyper-?parameters?|property|attribute|参数|配置项?|spec\w*)$",
    re.I,
)
_POSITION = re.compile(
    r"^(?:position|pos|slot|(?:draft )?token|#)?[ .#]*\d+$|\bacc_?\d|\bpos(?:ition)?[ _-]?\d|\b(?:slot|depth) \d+$"
    r"|\bi ?= ?\d+$"
    r"|^\d(?:st|nd|rd|th)\b|位置 ?\d|^第 ?\d+ ?(?:个|位)",
    re.I,
)
_K_IN_HEAD = re.compile(
    r"\(?\bk\s*=\s*(\d{1,3})\b\)?|\(?(?:num[_ ])?(?:spec\w*|draft\w*)[_ ](?:tokens?|len\w*|steps?"
    r"|depth)\s*[=:]?\s*(\d{1,3})\b\)?"
    r"|\b(\d{1,3}) (?:spec\w*|draft\w*) tokens?|^(?:depth|steps?|γ|gamma)\s*[=:]?\s*(\d{1,3})$"
    r"|\b(?:num[_ -]?)?(?:steps|block)(?:[ _-]size)?(?:\s*=\s*| )(\d{1,3})\b",
    re.I,
)
"""The K of a column, in its own head."""
_T_IN_HEAD = re.compile(r"\(?\b(?:T|temp(?:erature)?|温度)\s*[=:]?\s*(\d(?:\.\d+)?)\b\)?", re.I)

IN_WORDS = "one|two|three|four|five|six|seven|eight|nine|ten|twelve|sixteen"
"""Small numbers that people write as words."""
_SOME = rf"(?:(\d{{1,3}})|({IN_WORDS}))"
_ZH_SOME = r"(?:(\d{1,3})|([一两二三四五六七八]))"
_DRAFTED = r"(?:draft(?:ed|ing)?|spec\w*|proposed|candidate)"
MEASURED_K = re.compile(
    r"(?<![\w-])K\s*=\s*(\d{1,3})\b|draft(?:ing)?[ -](?:length|depth)\s*(?:of|=|:|\|)?\s*(\d{1,3})\b"
    rf"|(?<![-–.\d])\b{_SOME}[ -]{_DRAFTED} tokens?\b(?! (?:were|are|was|accepted|emitted))"
    rf"|(?<![-–.\d])(?<!over )(?<!unrolled )\b{_SOME} {_DRAFTED} (?:steps|positions|candidates)\b(?! (?:in|of) train)"
    rf"|\b(?!one drafts){_SOME} (?:drafts\b|tokens? (?:are |is |were |was )?(?:draft|propos|speculat)ed\b)"
    r"|(?<=\")k\"\s*:\s*(\d{1,2})\b"
    rf"|num[_ ](?:speculative|draft)[_ ]tokens\W+(\d{{1,3}})\b|\bnum[_ -]?steps\s*[=:]\s*(\d{{1,3}})\b"
    r"|speculative[_-]num[_-]steps\W+(\d{1,3})\b"
    rf"|\b(?:{_DRAFTED}|speculative) tokens?(?: \(\w\))?(?: (?:per|each|every) (?:step|round|iteration|verification))?"
    r"(?: \(\w\))?\s*[:=|]\s*(\d{1,3})\b(?![.,]?\d)"
    r"|\bn[_-]max\W{1,3}(\d{1,2})\b"
    r"|\brounds? of (\d{1,3})\b|\b(\d{1,3}) spec\w*(?: decoding)? steps\b|\bdepth (\d{1,2})\b"
    rf"|\bchains? of (?:length |depth )?{_SOME}\b"
    r"|\b(\d{1,2}) steps?,? (?:and )?(?:eagle )?top-?k|\bsteps?\s?[=: ]\s?(\d{1,2}),? ?(?:and )?top-?_?k"
    r"|\blook-?ahead(?: of| =|:)? (\d{1,2})\b"
    rf"|\b(?:draft(?:s|ing|ed)?|speculat(?:es?|ing)|propos(?:es|ing)) (?:up to )?{_SOME} tokens?\b"
    r"|草稿 ?(?:token|词元)? ?(?:长度|数)?\s*(?:为|[:：=])\s*(\d{1,3})"
    rf"|(?:每(?:步|轮|次)|链式)[^，。；|\n]{{0,4}}?(?:草拟|草稿|起草|投机|推测|预测) ?{_ZH_SOME} ?个? ?(?:token|词元)?"
    r"|(?:草拟|起草|投机|推测) ?(\d{1,2}) ?个 ?(?:token|词元)"
    r"|(?<!decay )(?<!decay, )(?<!\w)(?:γ|gamma)\s*=\s*(\d{1,2})(?![\d.]*\d)",
    re.I,
)
_WORDS = {
    "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10,
    "twelve": 12, "sixteen": 16, "一": 1, "两": 2, "二": 2, "三": 3, "四": 4, "五": 5, "六": 6, "七": 7, "八": 8,
}  # fmt: skip
_BLOCK = re.compile(r"\bblock[ _-]?size\W{1,6}(\d{1,2})\b", re.I)
"""A block of drafted tokens: some count the target's own among them."""
EXAMPLE_K = re.compile(
    r"num_speculative_tokens[\"']?\s*[:=]\s*(\d+)|speculative[_-]num[_-]steps[\"']?\s*[ =:]\s*(\d+)"
    r"|max_draft_len\s*[:=]\s*(\d+)"
)
_STEPS_TOPK_TOKENS = re.compile(r"(?<![\d.-])(?:\d{1,3}-)?(\d{1,2})-(\d{1,2})-(\d{1,3})(?![\d.-])")
"""How SGLang's users name a configuration: steps, top-k and draft tokens, with the batch size before them or not."""
_ANY_K = re.compile(f"{MEASURED_K.pattern}|{_STEPS_TOPK_TOKENS.pattern}|{_BLOCK.pattern}", re.I)
_OF_SGLANG = re.compile(r"num_steps|spec\w* steps|top-?k|config|steps", re.I)
_DRAFT_TOKENS = re.compile(r"num[_ -]draft[_ -]tokens\W+(\d{1,3})\b", re.I)
"""Not K: in SGLang's counting a chain of K steps has K + 1 of them. As a bound it will do."""

MEASURED_T = re.compile(
    r"\btemp(?:erature)?\s*(?:=|:|of|is)?\s*(\d(?:\.\d+)?)(?!\d)|\bT\s*=\s*(\d(?:\.\d+)?)(?!\d)"
    r"|温度\s*(?:为|[:：=])?\s*(\d(?:\.\d+)?)(?!\d)",
    re.I,
)
_GREEDY = re.compile(r"\bgreed(?:y|ily) (?:decod|sampl|generat|output)|\bgreedy\b.{0,20}\btarget|贪[心婪]", re.I)


@dataclass(frozen=True, slots=True)
class AcceptanceLength:
    """An acceptance length in a table, a sentence or printed results.

    Attributes:
        line: the line of the number.
        label: what was measured, for messages.
        header: the words that name it.
        place: the line of the table, paragraph or code block.
        table: the table; None elsewhere. Likewise ``row``.
        ks: the values of K that it may have been measured with; empty if the card does not say.
        k_is_far: whether another sentence of the paragraph gives its K.
        accepted_alone: whether its name is that of accepted drafts, so that the target's own token may be missing.
    """

    line: int
    number: Number
    label: str
    header: str
    place: int
    section: Section
    ks: frozenset[int]
    table: Table | None = None
    row: Row | None = None
    accepted_alone: bool = False
    k_is_far: bool = False


@dataclass(frozen=True, slots=True)
class RateSeries:
    """Rates by draft position, from the first on. ``kind`` is ``marginal`` or ``conditional``, or None if unnamed."""

    line: int
    rates: tuple[Number, ...]
    lines: tuple[int, ...]
    name: str
    kind: str | None
    section: Section
    is_training_accuracy: bool
    described: str = ""

    @property
    def is_accuracy(self) -> bool:
        """Whether its name says that it is an accuracy, which is no acceptance."""
        return bool(re.search(r"\baccurac|准确率", self.name, re.I))

    @property
    def is_called_so(self) -> bool:
        """Whether this is the accuracy of a training, and its name or the words around it say so."""
        if self.is_accuracy:
            return True
        named = re.search(r"training|validation", self.name, re.I)
        return self.is_training_accuracy and bool(named or self.is_described_so)

    @property
    def is_described_so(self) -> bool:
        """Whether the words around (``described``) say that this is the accuracy of a training, no acceptance."""
        return self.is_training_accuracy and bool(_CALLED_TRAINING.search(self.described))


_CALLED_TRAINING = re.compile(
    r"teacher[- ]forc|\btraining (?:log|metrics|accurac)|\bno(?:t| measured)? (?:an? )?acceptance"
    r"|accuracy (?:of|during|in) training"
    r"|训练(?:日志|准确率|精度|时)|不是(?:引擎|实测)?接[受收]",
    re.I,
)


def _once(function: Callable[[Card], T]) -> Callable[[Card], T]:
    @wraps(function)
    def cached(card: Card) -> T:
        key = function.__name__
        if key not in card.cache:
            card.cache[key] = function(card)
        found: T = card.cache[key]
        return found

    return cached


FORMATS = frozenset((
    "instruct", "it", "chat", "bf16", "fp8", "hf", "nvfp4", "fp4",
    "int4", "int8", "awq", "gptq", "dynamic", "mxfp4",
))  # fmt: skip
"""The words of a model's name that say how it is stored or tuned, and not which model it is."""

# Tables: what each column holds


@dataclass(frozen=True, slots=True)
class Column:
    """What a column of a table holds, from its own head; ``k`` and ``temperature`` if the head names them.

    ``kind`` is one of: length, rate, throughput, latency, speedup, difference, interval, k, temperature, count, label,
    other.
    """

    kind: str
    k: int | None = None
    temperature: float | None = None


def columns(table: Table) -> tuple[Column, ...]:
    """Return what each column holds: from its own head, else what the heading or caption of the table says."""
    if "columns" not in table.cache:
        named = [_by_header(header) for header in table.header]
        for i, header in enumerate(table.header):
            if "/" in header and named[i].kind == "none" and _is_ratio(header, table.header):
                named[i] = Column("speedup")
        taken = {column.kind for column in named}
        said = _by_caption(table, taken)
        out = []
        for i, column in enumerate(named):
            kind = column.kind
            if kind == "none" and i and _is_quotient(table, i, named):
                kind = "speedup"
            if kind == "none":
                kind = said if i and said and _plausible(said, table, i) else "other"
                if kind == "other" and i and table.column(i):
                    kind = _by_cells(table, i)
                if kind == "other" and column.k is not None and _plausible("length", table, i):
                    kind = "length" if not said else "other"
            if kind != "interval" and _INTERVAL.search(table.header[i]) and _are_ranges(table, i):
                kind = "interval"
            if column.kind == "none" and i == 0:
                kind = "label"
            out.append(Column(kind, column.k, column.temperature))
        table.cache["columns"] = tuple(out)
    found: tuple[Column, ...] = table.cache["columns"]
    return found


def _is_quotient(table: Table, i: int, named: Sequence[Column]) -> bool:
    """Return whether a column holds the quotients of the two throughputs of its rows."""
    pair = [j for j, column in enumerate(named) if column.kind == "throughput"]
    rows = [[row.cells[j].number for j in (i, *pair)] for row in table.rows[:_LOOKED_AT]] if len(pair) == 2 else []
    for row in rows:
        values = [n.value for n in row if n is not None and n.value > 0]
        if len(values) < 3 or min(abs(values[0] - q) for q in (values[1] / values[2], values[2] / values[1])) > 0.02:
            return False
    return bool(rows)


def column_kind(table: Table, index: int) -> str:
    """Return the kind of a column: `Column.kind`."""
    return columns(table)[index].kind


def _by_header(header: str) -> Column:
    """Return what a head says; the kind is ``none`` if it says nothing of a kind."""
    header = _ORNAMENT.sub("", header)
    value = _WITH_INTERVAL.sub(" ", header)
    if any(pattern.search(value) for _, pattern in _MEASURED):
        header = value  # τ [95 % CI], τ ± std: the interval stands behind the value
    k = _K_IN_HEAD.search(header)
    drafted = int(next(g for g in k.groups() if g)) if k else None
    rest = header[: k.start()] + " " + header[k.end() :] if k else header
    t = _T_IN_HEAD.search(rest)
    temperature = float(t[1]) if t else None
    rest = (rest[: t.start()] + " " + rest[t.end() :] if t else rest).strip(" ()[],:/@`*")
    if _SPEEDUP_SAID.search(rest):
        return Column("speedup", drafted, temperature)  # “Speedup vs baseline” is one
    if _OVER_DRAFTED.search(rest):
        return Column("rate", drafted, temperature)  # not their number
    for name, pattern in (*_DESCRIBED, *_MEASURED, ("count", _COUNT)):
        if pattern.search(rest):
            return Column(name, drafted, temperature)
    return Column("other" if _OTHER.search(rest) else "none", drafted, temperature)


_ORNAMENT = re.compile(r"^(?:#\ufe0f?\u20e3|[\u2600-\u27bf\ufe0f\U0001f300-\U0001faff]|\s)+")


def _is_ratio(header: str, heads: Sequence[str]) -> bool:
    """Return whether a head is that of the ratio of two other columns: ``on / off``."""
    parts = [part.strip().lower() for part in header.split("/")]
    others = [h.strip().lower() for h in heads if h != header]
    return len(parts) == 2 and all(part and any(h.startswith(part) for h in others) for part in parts)


_WITH_INTERVAL = re.compile(
    r"[\[(][^\])]*(?:interval|95 ?%|\bCI\b|±|\bstd\b|\bSE\b|deviation|置信|标准差)[^\])]*[\])]|±.*", re.I
)
_OVER_DRAFTED = re.compile(r"accepted(?: tokens?)?\s*[/÷]\s*(?:drafted|draft tokens|propos)", re.I)
_SPEEDUP_SAID = re.compile(r"^(?!.*%)(?!.*Δ).*(?:speed-?\s?up|加速比)", re.I | re.DOTALL)


def _by_cells(table: Table, i: int) -> str:
    """Return what the numbers of a column are by their unit, or by their size under the head “acceptance”."""
    texts = [row.cells[i].text for row in table.rows[:_LOOKED_AT] if row.cells[i].number is not None]
    if texts and all(_TOKENS_A_SECOND.search(text) for text in texts):
        return "throughput"
    if texts and all(_TAU_FIRST.match(text) for text in texts):
        return "length"
    if _ACCEPTANCE.match(table.header[i]):
        if _are_lengths(table.column(i)):
            return "length"
        shares = [n for _, n in table.column(i)]
        rates = all(n.unit == "%" or (n.unit == "" and 0 <= n.value <= 1) for n in shares)
        return "rate" if shares and rates else "other"
    return "other"


def _are_ranges(table: Table, i: int) -> bool:
    """Return whether a column holds intervals alone: ``2.85–2.95``, ``[2.85, 2.95]``."""
    texts = [text for row in table.rows[:_LOOKED_AT] if (text := row.cells[i].text.strip())]
    return bool(texts) and all(re.match(r"[\[(]?\d[\d.]*\s*(?:[-–—,]|to)\s*\d", text) for text in texts)


_LOOKED_AT = 20
_TOKENS_A_SECOND = re.compile(r"\d\s*tok(?:en)?s?\s?(?:/|per)\s?s", re.I)
_TAU_FIRST = re.compile(r"\W*(?:τ|tau\b)", re.I)
_ACCEPTANCE = re.compile(r"^\W*(?:mean |average |avg\.? )?acceptance\b(?!.*%)", re.I)
"""Numbers above 1 that are called acceptance alone are acceptance lengths."""
_OF_THE_TABLE = re.compile(r"\b(?:this|the following|next) table\b|\btable below|下表", re.I)
"""What a paragraph says that is about a table further down."""


def _by_caption(table: Table, taken: set[str]) -> str:
    """Return the measurement that the heading or a paragraph before a table names last, or an empty text.

    The words around a table of settings and their values are not about its numbers.
    """
    heads = [_by_header(h) for h in table.header[1:]]
    measured = any(head.k is not None or head.temperature is not None for head in heads)
    ends = (table.header[0], table.header[-1]) if len(table.header) < 4 and not measured else (table.header[-1],)
    if any(_KEY_VALUE.match(header.strip(" *`")) for header in ends):
        return ""
    if table.is_list and any(_by_header(row.label).kind != "none" or not row.cells[1].number for row in table.rows):
        return ""  # settings and other facts stand in lists as well
    *far, near = table.before.split("\n\n")
    # a measurement that has a column of its own is not another column's
    for said, chosen in (
        (f"{table.heading}\n{_caption(near)}", max),
        *((text, min) for text in far if _OF_THE_TABLE.search(text)),
    ):
        matches = [(m, name) for name, p in _MEASURED if name not in taken for m in p.finditer(said)]
        # what has its value in the sentence is less likely the table's
        bare = [(m, name) for m, name in matches if not _HAS_VALUE.match(said, m.end())]
        if matches:
            return chosen(bare or matches, key=lambda found: (found[0].start(), found[1]))[1]
    first = _SENTENCE_ENDS.split(table.after)[0][:_CAPTION_BELOW]
    below = [(m.start(), name) for name, p in _MEASURED if name not in taken for m in p.finditer(first)]
    return min(below)[1] if below and not _HAS_NUMBER.search(first) else ""


_CAPTION_BELOW = 60
_HAS_NUMBER = re.compile(r"\d\.\d")


_HAS_VALUE = re.compile(r"\W{0,3}(?:of |is |was |= ?|: ?|≈ ?)?\d")


def _caption(paragraph: str) -> str:
    """Return the part of a paragraph that can be the caption of what follows: all, if it is short, else its end."""
    return paragraph if len(paragraph) < 300 else re.split(r"(?<=[.!?。])\s", paragraph)[-1]


def _plausible(kind: str, table: Table, index: int) -> bool:
    """Return whether the numbers of a column can be of a kind."""
    values = [n for _, n in table.column(index)]
    if not values or (kind in {"length", "rate"} and any(n.unit == "x" for n in values)):
        return False
    if kind == "length":
        return all(n.unit == "" and 0 <= n.value <= 64 for n in values)
    if kind == "rate":
        return all(n.share <= 1 + n.slack or 1 < n.value <= 100 for n in values)
    return all(n.unit in {"", "x"} for n in values) if kind in {"throughput", "speedup", "latency"} else True


def without_length(header: str) -> str:
    """Return a head without the words that name an acceptance length, a rate or a throughput."""
    for _, pattern in _MEASURED:
        header = re.sub(rf"(?:{pattern.pattern})\w*", "", header, flags=pattern.flags)
    return header


def text_before(table: Table) -> str:
    """Return the nearest heading and the paragraph before a table, which say what the table shows."""
    return f"{table.heading}\n{table.before}"


def text_around(table: Table) -> str:
    """Return `text_before`, the header, and the paragraph after the table."""
    return "\n".join([text_before(table), " ".join(table.header), table.after])


# Tables as the rules read them: a row for each thing measured, whatever way round they are printed, and lists


_MOST_TURNED = 64
"""No table of a card that has a row for each quantity has more rows, and no list of results more items."""


@_once
def read_tables(card: Card) -> list[tuple[Section, Table]]:
    """Return the tables and the lists of names and values, each with a row for each thing measured.

    A table whose rows are quantities (“τ”, “Throughput”) and whose columns are what was measured is turned.
    """
    found = [(section, _turned(table) or table) for section, table in card.tables]
    for section in card.sections:
        found += [(section, _turned(table) or table) for table in _lists(section)]
    return found


def _turned(table: Table) -> Table | None:
    """Return a table of quantities with rows and columns exchanged, or None if its rows are not quantities."""
    if len(table.rows) > _MOST_TURNED or any(_by_header(h).kind not in _NO_QUANTITY for h in table.header[1:]):
        return None
    if any(_OF_SETTINGS.match(h) for h in table.header):
        return None
    if len(table.rows) == 1 and table.rows[0].cells[0].number and all(table.header):
        if _by_header(table.header[0]).kind != "none" or _POSITION.search(table.header[0]):
            return None
        (row,) = table.rows  # numbers under the names of what was measured, and nothing before them
        return _exchanged(table, ["", *table.header], [(row.line, ["", *row.cells])])
    if not any(
        _by_header(row.cells[0].text).kind in _RESULT_KINDS and any(c.number for c in row.cells[1:])
        for row in table.rows
    ):
        return None
    return _exchanged(table, table.header, [(row.line, row.cells) for row in table.rows])


_NO_QUANTITY = {"none", "other", "count"}
_OF_SETTINGS = re.compile(r"\W*(?:default|description|type|env\w*|flags?|options?|arguments?|默认\w*|说明)\b", re.I)


def _exchanged(table: Table, header: Sequence[str], rows: Sequence[tuple[int, Sequence[Cell | str]]]) -> Table:
    """Return a table with a row for each column of another but the first."""
    lines = (table.line, *(line for line, _ in rows))
    names = tuple(cell if isinstance(cell, str) else cell.text for cell in (cells[0] for _, cells in rows))
    made = []
    for i, name in enumerate(header[1:], 1):
        cells = (Cell.of(name), *(c for c in (cells[i] for _, cells in rows) if isinstance(c, Cell)))
        made.append(Row(table.line, cells, name, lines))
    return replace(table, header=(header[0], *names), rows=tuple(made), cache={})


_ITEM = re.compile(
    r"\W*(?P<key>[^:：|\n]{1,60}?)(?:\s*[:：]\s*|\s+[–—-]\s+)(?P<value>\S.*)"
    r"|\W*(?P<key3>[^:：=|\n]{1,60}?)\s*=\s*(?P<value3>\S.*)"
    r"|\W*(?P<key2>[^\W\d][\w ./+@-]{0,40}?) (?P<value2>[~≈]?\d+(?:\.\d+)?\s?(?:%|[x×]|ms|tok/s)?)",
    re.S,
)
"""An item of a list, or a line, that is a name and its value."""
_WORDS_FIRST = re.compile(r"(?P<words>[^\W\d][^\d+~≈-]{1,60}?[ =:：])(?P<rest>[~≈]?\s?[-+−]?\d.*)", re.S)


def _lists(section: Section) -> Iterator[Table]:
    """Yield the lists of a section whose items are names and values, and the paragraphs whose lines are, as tables."""
    groups: dict[int, list[Prose]] = {}
    before: list[str] = []
    told: dict[int, str] = {}
    for block in section.blocks:
        if not isinstance(block, Prose):
            continue
        key = block.item or -block.line
        if key not in groups:
            told[key] = "\n\n".join(before[-2:])
        groups.setdefault(key, []).append(block)
        if not block.item:
            before.append(block.text[-_TOLD:])
    for key, group in groups.items():
        if key > 0:
            items = [(block.line, block.text) for block in group[: _MOST_TURNED + 1]]
        elif "\n" in group[0].text:
            lines = group[0].text.split("\n", _MOST_TURNED + 1)
            items = list(enumerate(lines, group[0].line))
        else:
            continue
        if 1 < len(items) <= _MOST_TURNED and (table := _of_items(section, items, told[key], is_list=key > 0)):
            yield table


_TOLD = 600


def _of_items(section: Section, items: Sequence[tuple[int, str]], before: str, *, is_list: bool) -> Table | None:
    """Return the table of names and values, or None if too few of the items have both."""
    found = [
        (line, m["key"] or m["key2"] or m["key3"], m["value"] or m["value2"] or m["value3"])
        for line, text in items
        if len(text) < _TOLD and (m := _ITEM.fullmatch(text.strip()))
    ]
    if len(found) < 2 or (len(found) < len(items) and not is_list) or 2 * len(found) < len(items):
        return None
    # “GSM8K: acceptance length 2.4”: the words before every value are the name of the column
    first = [_WORDS_FIRST.fullmatch(value) for _, _, value in found]
    words = {m["words"].strip(" =:：") if m else "" for m in first}
    name = words.pop() if len(words) == 1 else ""
    values = [m["rest"] if m and name else value for m, (_, _, value) in zip(first, found, strict=True)]
    rows = tuple(
        Row(line, (Cell.of(key), Cell.of(value)), key) for (line, key, _), value in zip(found, values, strict=True)
    )
    if not any(row.cells[1].number for row in rows):
        return None
    heading = section.path[-1].text if section.path else ""
    return Table(rows[0].line, ("", name), rows, heading, before, is_list=True)


def columns_of_kind(card: Card, wanted: str) -> Iterator[tuple[Section, Table, int]]:
    """Yield every column of a kind that holds numbers."""
    yield from _by_kind(card).get(wanted, [])


@_once
def _by_kind(card: Card) -> dict[str, list[tuple[Section, Table, int]]]:
    found: dict[str, list[tuple[Section, Table, int]]] = {}
    for section, table in read_tables(card):
        for i, column in enumerate(columns(table)):
            if column.kind in _OF_SPEED and is_of_training_table(table):
                continue  # of the trainer
            if column.kind not in {"label", "other"} and table.column(i):
                found.setdefault(column.kind, []).append((section, table, i))
    return found


_OF_SPEED = {"throughput", "speedup", "latency"}


def is_of_training_table(table: Table) -> bool:
    """Return whether the nearest heading of a table, or its first head, is about the training."""
    return bool(re.search(TRAINING, f"{table.heading}\n{table.header[0]}", re.I))


_SET_IN_LABEL = re.compile(
    r"(?:draft-n-max|num[_-]draft[_-]tokens|num[_-]speculative[_-]tokens|\bK\b|draft[_ -]tokens)\W{1,3}(\d{1,2})\b",
    re.I,
)


@_once
def draft_numbers_of_rows(card: Card) -> frozenset[int]:
    """Return every K that the labels of rows name: ``K=3``, ``--spec-draft-n-max 2``."""
    found = (m for _, table in card.tables for row in table.rows[:200] if (m := _SET_IN_LABEL.search(row.label)))
    return frozenset(int(m[1]) for m in found)


@_once
def said_rates(card: Card) -> list[int]:
    """Return the lines of acceptance rates outside columns: rows of names and values, and sentences."""
    found = [
        row.line
        for section, table in card.tables
        for row in table.rows[:200]
        if len(row.cells) == 2 and _RATE.search(row.label) and not re.search(TRAINING, section.title, re.I)
        if (n := row.cells[1].number) is not None and (n.unit == "%" or 0 < n.value < 1)
    ]
    found += [hit.line for hit in card.search(_SAID_RATE, tables=False, outside=TRAINING)]
    return sorted(found)


_SAID_RATE = (
    r"(?:(?<![\d.])[1-9]\d?(?:\.\d+)?\s?%|\b0\.\d+) (?:draft|token|mean|average) acceptance\b|"
    r"accept(?:ance)?(?:[ _-]rate)?\b[^.\n%]{0,40}?"
    r"(?:(?<![\d.])[1-9]\d{0,2}(?:\.\d+)?\s?%|\b0\.\d+)"
)


_DEFINED = (
    r"accept\w*(?: draft(?:ed)?)?(?: tokens?)?\s*(?:/|÷|over|out of|divided by)\s*"
    r"(?:all |the |total )*(?:drafted\b|draft tokens|draft_tokens|propos|specul)"
    r"|\(\s*(?:τ|tau|AL)\s*[-−–]\s*1\s*\)\s*/\s*(?:K|\d)"
    r"|\bof (?:the |all |every )?(?:drafted|draft|proposed|speculative) tokens|"
    r"drafted tokens accepted|accepted (?:out )?of|accepted (?:over|divided by|per) (?:all )?(?:drafted|proposed)|"
    r"\b(?:share|fraction|ratio|proportion|percentage|part|how many)\b[^.;\n]{0,60}\b(?:draft|propos|specul)\w*"
    r"|\baccepted (?:drafts?|tokens?)? ?(?:over|to|among|against) (?:all |the )*(?:drafts?|draft(?:ed)?|propos\w*)\b"
    r"|\b(?:per|over|among) (?:all |the )*(?:drafted|draft|proposed|speculative) (?:token|position)s?\b"
    r"|\bof [\d,]+ (?:drafted|draft|proposed)\b|\baccepted and (?:drafted|proposed)\b|num_accepted_tokens"
    r"|Avg draft acceptance|接[受收][^。；\n]{0,20}(?:之比|比例|比值)|"
    r"接受[^。]{0,6}(?:除以|÷)|接受的?[^。]{0,12}(?:占|/)|\bmarginal|\bconditional"
    r"|per[- ]position|\bmin\(1|tokens? per (?:verification )?step"
)


def defines_rate(card: Card) -> bool:
    """Return whether the card says what its acceptance rates count, among what."""
    return card.says(_DEFINED)


@_once
def prints_acceptance(card: Card) -> bool:
    """Return whether a table outside the training sections prints acceptance, or the speed of speculative decoding.

    On the Hub's card of a model with that tag, a sentence that gives the acceptance rate is enough.
    """
    found = [(s, t) for wanted in ("length", "rate") for s, t, _ in columns_of_kind(card, wanted)]
    found += [
        (s, t)
        for wanted in ("throughput", "speedup")
        for s, t, _ in columns_of_kind(card, wanted)
        if _SPECULATIVE.search(
            f"{text_before(t)} {' '.join(t.header)} {' '.join(r.label for r in t.rows[:_LOOKED_AT])}"
        )
    ]
    tagged = {"speculative-decoding", "mtp"} & {tag.lower() for tag in card.listed("tags")} and card.is_of_the_hub
    printed = any(not re.search(TRAINING, section.title, re.I) for section, _ in found)
    return printed or bool(tagged and said_rates(card))


@_once
def prints_lengths(card: Card) -> bool:
    """Return whether the card `prints_acceptance`, or gives an acceptance length anywhere, as a guide's log does."""
    return prints_acceptance(card) or bool(acceptance_lengths(card))


_SPECULATIVE = re.compile(r"speculat|\bspec\b|draft|\bmtp\b|eagle|dflash|dspark|medusa|投机|推测|草稿", re.I)


# Acceptance lengths


@_once
def acceptance_lengths(card: Card) -> list[AcceptanceLength]:
    """Return every acceptance length of the card: in columns or rows of that name, in sentences, in printed JSON.

    A rate above 1 without a unit counts as a length, unless the card calls it marginal or conditional.
    """
    found: list[AcceptanceLength] = []
    for wanted in ("length", "rate"):
        for section, table, i in columns_of_kind(card, wanted):
            found += _in_column(section, table, i, wanted)
    tables = {id(x.table) for x in found}
    for section, table in read_tables(card):
        if id(table) not in tables:
            found += _in_rows(section, table)
    listed = {x.line for x in found if x.table is not None and x.table.is_list}
    for section, prose in card.blocks_of(Prose):
        found += (x for x in _in_prose(prose, section) if x.line not in listed)
    for section, code in card.blocks_of(Code):
        found += _in_code(code, section)
    in_code = {x.line for x in found}
    drafted = _ks_of_blocks(card)
    for section, remark in card.remarks:
        for x in _in_prose(remark, section):
            if x.line not in in_code:
                at = bisect_right(drafted, (x.line, frozenset({_MOST}))) - 1
                found.append(replace(x, ks=x.ks or (drafted[at][1] if at >= 0 else x.ks)))
    return found


_MOST = 10**9


def _ks_of_blocks(card: Card) -> list[tuple[int, frozenset[int]]]:
    """Return the first line of each block of code, and the K that its commands draft."""
    return [
        (block.line, frozenset(found_numbers(EXAMPLE_K, block.text)) if "spec" in block.text else frozenset())
        for block in card.code
    ]


def _in_column(section: Section, table: Table, i: int, wanted: str) -> Iterator[AcceptanceLength]:
    values = table.column(i)
    if wanted == "rate" and (_word(text_before(table)) or not _are_lengths(values)):
        return
    header = table.header[i]
    if any(n.unit for _, n in values) or max(n.value for _, n in values) > 100:
        return
    if wanted == "rate" and _PERCENT.search(header):
        return
    measured = any(c.kind in _RESULT_KINDS for j, c in enumerate(columns(table)) if j != i)
    if measured and _TAU_ALONE.fullmatch(header.strip(" *`$\\")) and all(n.value <= 1 for _, n in values):
        return  # a threshold, beside what was measured with it
    if _is_of_training(section, header) or any(re.search(r"\bloss\b", h, re.I) for h in table.header):
        return
    alone = bool(_ACCEPTED_ALONE.search(header)) and not re.search("len|长度", header, re.I)
    own = columns(table)[i].k
    rest = _text_ks(table)
    k_column = next((j for j, column in enumerate(columns(table)) if column.kind == "k" and j != i), None)
    for row, number in values:
        if _COUNT_OF.match(row.cells[i].text):
            continue
        ks = rest
        if own is not None:
            ks = frozenset({own})
        elif k_column is not None and (n := row.cells[k_column].number) and n.ulp == 1 and n.value <= _MOST_K:
            ks = frozenset({int(n.value)})
        elif _MAY_NAME_K.search(f"{row.cells[i].text} {row.label}"):
            ks = frozenset(_ks_of(row.cells[i].text) or _ks_in_label(row.label)) or rest
        label = row.label if len(table.rows) > 1 or not row.lines else header
        yield AcceptanceLength(row.at(i), number, label, header, table.line, section, ks, table, row, alone)


_MOST_K = 64
"""No head drafts more tokens a step; larger numbers of drafted tokens are those of a whole run."""
_MAY_NAME_K = re.compile(r"[kK] ?=|γ|[dD]raft|[sS]tep|[sS]pec|[dD]epth|n[_-]max|草|gamma")


def _ks_in_label(label: str) -> set[int]:
    """Return the K that the label of a row names."""
    m = _SET_IN_LABEL.search(label)
    k = int(m[1]) if m else _by_header(label).k
    return set() if k is None else {k}


def _in_rows(section: Section, table: Table) -> Iterator[AcceptanceLength]:
    if (
        _KEY_VALUE.match(table.header[-1].strip(" *`"))
        and len(table.header) == 2
        and not _RESULTS.search(table.heading)
    ):
        return
    for row in table.rows:
        bare = [(row, n) for cell in row.cells[1:] if (n := cell.number) is not None]
        called = _CALLED_ACCEPTANCE.search(row.label) and bare and _are_lengths(bare)
        if (
            not (_LENGTH.search(row.label) or called)
            or _COUNT.search(row.label)
            or _is_of_training(section, row.label)
        ):
            continue
        alone = bool(called or _ACCEPTED_ALONE.search(row.label)) and not re.search("len|长度", row.label, re.I)
        for column, cell in zip(columns(table)[1:], row.cells[1:], strict=True):
            n = cell.number
            if n and n.unit == "" and 0 <= n.value < 100 and column.kind not in {"difference", "interval"}:
                ks = _text_ks(table) if column.k is None else frozenset({column.k})
                yield AcceptanceLength(row.line, n, row.label, row.label, table.line, section, ks, table, row, alone)


_CALLED_ACCEPTANCE = re.compile(r"\baccept(?:ance)?\b(?!\w* (?:rate|ratio|prob|%))", re.I)
"""What rows call an acceptance length, if their numbers are above 1."""
_PERCENT = re.compile(r"%|percent|百分", re.I)
_RESULT_KINDS = {"length", "rate", "throughput", "speedup", "latency"}
_TAU_ALONE = re.compile(r"τ|tau", re.I)


def _is_of_training(section: Section, name: str) -> bool:
    """Return whether a name is of a trainer's value, or of its batches: ``tokens per step`` under such a heading."""
    if re.search(r"simulat|teacher|\btraining\b|^train\b|validation|模拟|训练", name, re.I):
        return True
    heading = section.path[-1].text if section.path else ""
    return bool(re.search(TRAINING, heading, re.I)) and not re.search(rf"accept|接[受收]|{_TAU}", name, re.I)


def _are_lengths(values: Sequence[tuple[Row, Number]]) -> bool:
    return all(1 < n.value < 20 and n.unit == "" for _, n in values)


def _text_ks(table: Table) -> frozenset[int]:
    if "ks" not in table.cache:
        table.cache["ks"] = frozenset(_ks_of(text_around(table)))
    found: frozenset[int] = table.cache["ks"]
    return found


_RESULTS = re.compile(
    r"performance|evaluation|results|benchmark|acceptance|metrics|speed|性能|评测|结果|效果|实验", re.I
)
_GIVES = r"(?:commits?|yields?|emits?|gives?|produces?|outputs?|returns?|makes?|advances?|averages?)"
_LENGTH_NAME = rf"(?:acc(?:ept\w*)?[ _-](?:draft )?len\w*|{_TAU}|(?:平均)?接[受收]长度)"
_VALUE = (
    r"(?<![\d.])(?<!\d[-–~])(?P<{0}>\d{{1,2}}\.\d{{1,4}})"
    r"(?!\.?\d)(?!\s?(?:%|[x×](?!\w)|[BMGk]\b|tok\w*/s(?!t)|ms\b))"
)
_ALONE = rf"{_VALUE}(?!\s?[-–~]\s?\d)"
_EMITTED = r"(?:emitted|generated|committed|produced|output|accepted|bonus-inclusive)"
_IN_SENTENCE = re.compile(
    rf"{_LENGTH_NAME}(?P<gap>(?:[^.!?。|;\d]|\d(?!\d?\.\d)){{0,80}}?){_VALUE.format('a')}"
    rf"|{_ALONE.format('b')}[^\w,.;:|，。；：、]{{0,4}}(?P<what>(?:mean |average |avg\.? |{_EMITTED} ){{0,2}})"
    rf"(?:tok(?:en)?s? ?(?:{_EMITTED} )?(?:per|/|in each|in every) ?{_STEP}"
    rf"|acc(?:ept\w*)? len\w*(?!\W{{1,4}}(?:of |is )?\d))"
    rf"|\b(?:mean|average) accepted (?:tokens|drafts)\W{{1,4}}{_VALUE.format('c')}"
    rf"|{_VALUE.format('d')} tok(?:en)?s? (?:is |are |was |were )?accepted (?:per|in each|each|every) {_STEP}"
    rf"|每(?:步|轮|次)(?:验证)?(?:平均)?接[受收](?:了|约|的)*\s?{_VALUE.format('e')}\s?个? ?(?:token|词元)"
    rf"|\b(?:each|every|an?|one) (?:\w+ )?(?:step|round|pass|forward) (?:\w+ )?{_GIVES} (?:[a-z]+ ){{0,3}}?"
    rf"{_ALONE.format('f')} tok"
    rf"|每(?:步|轮|次)[^，。；|\n\d]{{0,6}}?(?:输出|产出|产生|生成|得到)(?:了|约)?\s?{_ALONE.format('g')}"
    r"\s?个? ?(?:token|词元)"
    rf"|\btok(?:en)?s? ?(?:{_EMITTED} )?(?:per|/) ?{_STEP}(?:\([^()\d]{{0,40}}\))?[ ,]{{0,2}}"
    r"(?:is|was|of|=|:|≈|~|about| ){1,3}"
    rf"\s?{_ALONE.format('h')}",
    re.I,
)
_NOT_ITS_VALUE = re.compile(
    r"(?:temperature|\bT\s*=|top[_-]p|version|\bv|\bby|than|increase\w*|gain\w*|difference|margin|from"
    r"|error|±|\+)\W*$",
    re.I,
)
_IS_CHANGE = re.compile(r"\w*\s+(?:more|fewer|less|extra|additional|higher|lower|better)\b", re.I)
_A_CHANGE = re.compile(
    r"(?:\blos[te]s?|\bgain\w*|\bby|\badd\w*|\bcost\w*|\bdrop\w*|\bplus|\bminus|\banother|\bsav\w+|\bonly|[+−±])"
    r"(?: (?:about|only|up to|some|roughly))?\s*$",
    re.I,
)
"""What stands before a number of tokens that one length differs from another by."""
_OF_OTHERS = re.compile(
    r"\bpaper|upper bound|at most|maximum|\bideal|theoretical|reported by|\boriginal\b|compared (?:to"
    r"|with)|\bprior\b|previous|"
    r"e\.g\.|for example|\bwould\b|\bcould\b|eagle-?[12]\b|medusa",
    re.I,
)


_NUMBER_BEGINS = re.compile(
    r"\W*(?:about |≈ ?|~ ?)?(?P<n>\d\.\d{1,4})(?=\s*(?:[:,(;：，（。]|\.?$|tok\w*\b|on |for |with ))"
)
_SENTENCE_END = re.compile(r"[.!?。]\s")
_MAY_BE_LENGTH = re.compile(rf"accept|\bacc\b|{_TAU}|tok(?:en)?s?\b|接[受收]|词元", re.I)


def _in_prose(prose: Prose, section: Section) -> Iterator[AcceptanceLength]:
    heading = section.path[-1].text if section.path else ""
    if (m := _NUMBER_BEGINS.match(prose.text)) and _LENGTH.search(heading) and not _is_of_training(section, heading):
        ks = frozenset(_ks_of(prose.text[:_FAR]))
        number = numbers(m["n"])[0]
        yield AcceptanceLength(prose.line, number, "in a sentence", heading, prose.line, section, ks)
    if not _MAY_BE_LENGTH.search(prose.text):
        return
    plain = prose.text.replace("\n", " ")
    found = list(islice(_IN_SENTENCE.finditer(plain), _MOST_SENTENCES))
    plain = plain[: found[-1].end() + 200] if found else ""
    line, seen = prose.line, 0
    named = [m.start() for m in _ANY_K.finditer(plain)]
    others = [m.start() for m in _OF_OTHERS.finditer(plain)]
    ends = [m.end() for m in _SENTENCE_END.finditer(plain)]
    for m in found:
        if m["gap"] and _NOT_ITS_VALUE.search(m["gap"]):
            continue
        if _IS_CHANGE.match(plain, m.end()):
            continue
        if (m["b"] or m["d"]) and _A_CHANGE.search(plain[max(0, m.start() - 30) : m.start()]):
            continue
        before = bisect_right(ends, m.start())
        begun = max(ends[before - 1] if before else 0, m.start() - 200)
        if bisect_left(others, m.end()) > bisect_left(others, begun):
            continue
        line, seen = line + prose.text.count("\n", seen, m.start()), m.start()
        number = numbers(next(m[name] for name in "abcdefgh" if m[name]))[0]
        header = m[0].strip()
        alone = bool(m["c"] or m["d"] or m["e"] or (m["b"] and _ARE_ACCEPTED.search(m[0])))
        begin, end = max(0, m.start() - 200), m.end() + 200
        near = bisect_left(named, end) > bisect_left(named, begin)
        own, after = sentence_around(m) if near else ("", "")
        ks = frozenset(_ks_of(own + after)) if near else frozenset()
        far = near and not ks and len(around := _ks_of(plain[begin:end])) == 1
        yield AcceptanceLength(
            line, number, "in a sentence", header, prose.line, section, frozenset(around) if far else ks,
            accepted_alone=alone, k_is_far=far,
        )  # fmt: skip


_ARE_ACCEPTED = re.compile(r"\baccepted\b(?! length)", re.I)
_MOST_SENTENCES = 2_000
"""No paragraph of a card gives more acceptance lengths than this."""


_IN_CODE = re.compile(
    r"(?<![\w-])[\"']?(?P<name>(?:(?:mean|avg|average)[ _-])?accept\w*[ _-]len\w*|tau)[\"']?\s*[:=]\s*"
    r"(?P<value>\d+(?:\.\d+)?)",
    re.I,
)


def _in_code(code: Code, section: Section) -> Iterator[AcceptanceLength]:
    """Yield the acceptance lengths that a block of JSON or of a program's output prints."""
    if code.language in {"bibtex", "toml"}:
        return
    is_program = code.language in _PROGRAMS
    of_a_k = not is_program and ("steps" in code.text or "speculative_tokens" in code.text)
    read: dict[str, Number] = {}
    line, seen = code.line, 0
    for m in _IN_CODE.finditer(code.text):
        line, seen = line + code.text.count("\n", seen, m.start()), m.start()
        value = m["value"]
        if value not in read:
            (read[value],) = numbers(value)
        number = read[value]
        if number.value < 100 and (not is_program or number.ulp < 1):
            name = m["name"]
            ks = _k_before(code.text[max(0, m.start() - 400) : m.start()]) if of_a_k else frozenset()
            yield AcceptanceLength(line, number, name, name, code.line, section, ks)


def _k_before(text: str) -> frozenset[int]:
    found = (p.findall(text) for p in _K_IN_DATA)
    return frozenset(next(([int(ks[-1])] for ks in found if ks), ()))


_PROGRAMS = {"python", "py", "json5", "javascript", "js", "bash", "sh", "shell", "console"}
_K_IN_DATA = (
    re.compile(r"(?:num_)?speculative_(?:tokens|num_steps)[\"']?\s*[:=]\s*(\d{1,2})\b"),
    re.compile(r"[\"'](?:num_)?steps[\"']\s*:\s*(\d{1,2})\b(?=[^{}]{0,80}top_?k)"),
)
"""The K that a block of data gives before an acceptance length."""


@_once
def printed_throughput(card: Card) -> list[int]:
    """Return the line of every throughput that blocks of JSON print."""
    pattern = re.compile(r"[\"'](?:output_|total_)?throughput\w*[\"']\s*:\s*\d", re.I)
    return [line for line, _ in _data_matches(card, pattern)]


def _data_matches(card: Card, pattern: re.Pattern[str]) -> Iterator[tuple[int, re.Match[str]]]:
    for block in card.code:
        if block.is_data:
            line, seen = block.line, 0
            for m in pattern.finditer(block.text):
                line, seen = line + block.text.count("\n", seen, m.start()), m.start()
                yield line, m


# K and temperature


def found_numbers(pattern: re.Pattern[str], text: str) -> list[int]:
    """Return the number of each match, from the group that matched."""
    found = (next(g for g in m.groups() if g).lower() for m in pattern.finditer(text))
    return [_WORDS[said] if said in _WORDS else int(float(said)) for said in found]


def names_k(text: str) -> bool:
    """Return whether a text names a K."""
    return bool(_ks_of(text))


def names_length(header: str) -> bool:
    """Return whether a head or label itself names an acceptance length."""
    return bool(_LENGTH.search(header))


def is_of_others(text: str) -> bool:
    """Return whether a text speaks of a number that somebody else measured, or of another head."""
    return bool(_OF_OTHERS.search(text))


def _ks_of(text: str) -> set[int]:
    """Return every K that a text names."""
    named_so = bool(_OF_SGLANG.search(text))
    blocks = {k for n in found_numbers(_BLOCK, text) for k in (n - 1, n)}
    steps = {int(m[1]) for m in _STEPS_TOPK_TOKENS.finditer(text) if _is_configuration(m, named_so)}
    named = set(found_numbers(MEASURED_K, text)) or blocks
    if own := set(found_numbers(_STEPS, text)):  # then the draft tokens are SGLang's, one more than K
        return steps | own
    return steps | named


_STEPS = re.compile(
    rf"num[_ -]?steps\W{{1,3}}(\d{{1,2}})\b|\b{_SOME} spec\w*(?: decoding)? steps"
    rf"|\b{_SOME} steps?\b(?=[^.\n]{{0,40}}top-?_?k)"
    r"|\bsteps?\s?[=: ]\s?(\d{1,2})\b(?=[^.\n]{0,40}top-?_?k)|(?<=[^.\n])top-?_?k[^.\n]{0,40}?\b(\d{1,2}) steps\b",
    re.I,
)


def _is_configuration(m: re.Match[str], named_so: bool) -> bool:
    """Return whether three numbers with hyphens are steps, top-k and draft tokens.

    Without words that say so they must be a chain's, with one draft token more than steps.
    """
    steps, topk, tokens = (int(g) for g in m.groups())
    chain = topk == 1 and tokens == steps + 1 and steps > 0
    return chain or (named_so and 1 <= steps <= 16 and 1 < topk <= 16 and steps < tokens)


_LAUNCHED = re.compile(r"\b(?:vllm serve|launch_server|sglang serve|trtllm-serve|api_server)\b")
_OF_BLOCKS = re.compile(r"algorithm[ =\"':]+(?:DFLASH|DSPARK)", re.I)
"""These draft a whole block in one step."""
_RECOMMENDED = re.compile(r"\b(?:recommend|suggest)\w*[^.\n]{0,50}$", re.I)
SERVING = TRAINING + r"|\b(?:usage|serve|serving|quick start|inference|deploy\w*)\b|用法|部署"


@_once
def measured_ks(card: Card) -> dict[int, int]:
    """Return every K in the card's text, outside code, with the first line that names it."""
    out: dict[int, int] = {}
    configs = {
        line
        for block in card.code
        if block.is_data and re.search(r"\"(?:method|speculative_config)\"\s*:", block.text)
        for line in range(block.line, block.line + block.text.count("\n") + 1)
    }  # an engine's settings are an example
    for hit in card.search(_ANY_K.pattern, outside=rf"{SERVING}|\bquanti[sz]"):
        if hit.line in configs or _RECOMMENDED.search(
            hit.match.string[max(0, hit.match.start() - 60) : hit.match.start()]
        ):
            continue
        if _LAUNCHED.search(hit.match.string, max(0, hit.match.start() - 400), hit.match.start()):
            continue  # part of a command
        around = hit.match.string[max(0, hit.match.start() - 120) : hit.match.end() + 120]
        for k in _ks_of(around):
            out.setdefault(k, hit.line)
    for length in acceptance_lengths(card):
        for k in length.ks:
            out.setdefault(k, length.place)
    return out


@_once
def most_drafted(card: Card) -> int | None:
    """Return the largest number of draft tokens that the text names beside its measurements, or None."""
    named = [*measured_ks(card), *(int(h.match[1]) for h in card.search(_DRAFT_TOKENS.pattern, outside=SERVING))]
    return max(named, default=None)


@_once
def example_ks(card: Card) -> list[tuple[int, int]]:
    """Return every K that an example sets or a sentence recommends, as (K, line)."""
    found = [
        (int(found_numbers(EXAMPLE_K, m[0])[0]), line)
        for line, m in code_matches(card, EXAMPLE_K)
        if not ("steps" in m[0] and _OF_BLOCKS.search(m.string))
    ]
    for hit in card.search(EXAMPLE_K.pattern, tables=False):
        if _LAUNCHED.search(hit.match.string, max(0, hit.match.start() - 400), hit.match.start()):
            found.append((found_numbers(EXAMPLE_K, hit.match[0])[0], hit.line))
    for hit in card.search(rf"{_RECOMMENDED.pattern[:-1]}(?:num_speculative_tokens|\bK)\W{{1,4}}(?P<k>\d{{1,2}})\b"):
        found.append((int(hit.match["k"]), hit.line))
    return found


def code_matches(card: Card, pattern: re.Pattern[str]) -> Iterator[tuple[int, re.Match[str]]]:
    """Yield every match of a pattern in code that is not BibTeX, with its line."""
    for block in card.code:
        if block.language != "bibtex":
            line, seen = block.line, 0
            for m in pattern.finditer(block.text):
                line, seen = line + block.text.count("\n", seen, m.start()), m.start()
                yield line, m


def temperatures_of(table: Table) -> set[float]:
    """Return the temperatures of a table: those of the sentence that leads to it, else of all text around it."""
    return temperatures(leading(table)) or temperatures(text_around(table))


def leading(table: Table) -> str:
    """Return the sentence that leads to a table, up to its colon; an empty text if none does."""
    last = _SENTENCE_ENDS.split(table.before)[-1]
    return last if last.rstrip().endswith((":", "：")) else ""


def temperatures(text: str) -> set[float]:
    """Return the temperatures that a text names; greedy decoding is 0."""
    named = {float(next(g for g in m.groups() if g)) for m in MEASURED_T.finditer(text)}
    return named | ({0.0} if _GREEDY.search(text) else set())


# Results that are there and were not read


_CHART = re.compile(r"result|bench|perf|speed|throughput|accept|latency|eval|chart|plot|曲线", re.I)


_IN_BRACKETS = re.compile(r"\d \(\d\.\d+\)")


@_once
def unread_results(card: Card) -> tuple[int, str] | None:
    """Return (line, what) of results that the card shows in a form that is not read, or None.

    That is a table of numbers under a heading about results whose columns say nothing of what they hold, or a picture.
    """
    for section, table in card.tables:
        if _RESULTS.search(section.title) and not re.search(
            TRAINING, section.path[-1].text if section.path else "", re.I
        ):
            kinds = {column.kind for i, column in enumerate(columns(table)) if i and table.column(i)}
            if kinds and kinds <= {"other", "label"} and not _KEY_VALUE.match(table.header[-1].strip(" *`")):
                return table.line, f"the table with the columns {', '.join(h for h in table.header if h)}"
        brackets = [c for row in table.rows for c in row.cells if _IN_BRACKETS.search(c.text)]
        if len(brackets) > 1 and _LENGTH.search(text_before(table)):
            return table.line, "the numbers in brackets in the table"
    for link in card.links:
        if link.image and _CHART.search(f"{link.text} {link.target.rpartition('/')[2]}"):
            return link.line, f"the picture {link.target[-60:]}"
    return None


_A_ROUND = r"\b(?:a|per|each|every) (?:round|step|turn)\b"
_ACCEPTANCE_WORD = re.compile(
    rf"{_LENGTH.pattern}|accept(?:ance|ed|s|_)|\bacc\.|接[受收]|\b(?:verify|verification) steps?\b"
    r"|\bguess(?:es)?\b|\bdrafts?\b(?:[^.\n]|\.\d){0,40}\b(?:kept|taken|right|correct|survive)"
    rf"|{_A_ROUND}(?:[^.\n]|\.\d){{0,40}}\btokens?\b|\btokens?\b[^.\n]{{0,40}}{_A_ROUND}",
    re.I,
)
_MAY_BE_A_LENGTH = re.compile(
    r"(?P<before>[\w.&-]*\W?)(?<![\w.-])(?:[1-9]\.\d{1,3}(?![\w.]|\s?(?:[%×x]|[BMGk]\b|kg|kWh|h\b|days|倍))"
    r"|(?i:one|two|three|four) (?:point [a-z]+|and a (?:half|third|quarter)))"
)
_A_VERSION = re.compile(
    r"(?:apache|by|v|version|torch|pytorch|cuda|transformers|python|llama|qwen|glm|gemma|gpl|eagle|driver|rocm|sa)\W?$",
    re.I,
)


@_once
def unread_acceptance(card: Card) -> tuple[int, str] | None:
    """Return (line, what) of a number that may be an acceptance length, in a section that speaks of it, or None."""
    for section in card.sections:
        blocks = [
            (block.line, f"{' '.join(block.header)}\n{block.text}" if isinstance(block, Table) else block.text)
            for block in section.blocks
            if not (isinstance(block, Code) and block.language == "bibtex")
        ]
        whole = "\n".join([section.title, *(text[:_LONG] for _, text in blocks)])
        if re.search(TRAINING, section.path[-1].text if section.path else "", re.I) or not _ACCEPTANCE_WORD.search(
            whole
        ):
            continue
        for line, text in blocks:
            for m in islice(_MAY_BE_A_LENGTH.finditer(text[:_LONG]), _LOOKED_AT):
                if not _A_VERSION.search(m["before"]):
                    shown = " ".join(text[max(0, m.start() - 30) : m.end() + 20].split())
                    return line + text.count("\n", 0, m.start()), f"the number in “{shown}”"
    return None


_LONG = 20_000


# Rates by position


@_once
def rate_series(card: Card) -> list[RateSeries]:
    """Return every series of rates by position: down a column, along a row, or in a sentence."""
    found: list[RateSeries] = []
    for section, table in card.tables:
        found += [*_down(table, section), *_along(table, section), *_in_cells(table, section)]
    seen = {line for s in found for line in s.lines}
    for section, table in read_tables(card):
        if table.is_list or any(row.lines for row in table.rows[:1]):
            series = [*_down(table, section), *_along(table, section)]
            found += (s for s in series if seen.isdisjoint(s.lines))
    for section, prose in card.blocks_of(Prose):
        found += _in_sentence(prose, section)
    for section, code in card.blocks_of(Code):
        found += [*_in_log(code, section), *_in_program(code, section)]
    return found


_LOGGED = re.compile(r"Per-position acceptance rate: (?P<rates>\d\.\d+(?:, \d\.\d+)+)")
"""How vLLM logs the rates: among all rounds, so that they are marginal."""


def _in_log(code: Code, section: Section) -> Iterator[RateSeries]:
    line, seen = code.line, 0
    for m in _LOGGED.finditer(code.text):
        line, seen = line + code.text.count("\n", seen, m.start()), m.start()
        values = tuple(numbers(m["rates"]))
        yield RateSeries(line, values, (line,) * len(values), m[0], "marginal", section, False)


_LIST_IN_CODE = re.compile(
    r"(?P<name>[A-Za-z_]\w*)[\"']?\s*[:=]\s*[\[(]\s*(?P<rates>\d*\.\d+(?:\s*,\s*\d*\.\d+){1,63})\s*,?\s*[\])]"
)
_OF_POSITIONS = re.compile(r"(?<![A-Za-z])pos(?:ition)?s?(?![A-Za-z])|marginal|conditional", re.I)


def _in_program(code: Code, section: Section) -> Iterator[RateSeries]:
    """Yield the rates that a program, or printed data, has in a list: its name, or the lines before it, say so."""
    if not _OF_POSITIONS.search(code.text) or "accept" not in code.text.lower():
        return
    line, seen = code.line, 0
    for m in islice(_LIST_IN_CODE.finditer(code.text), _MOST_LISTS):
        line, seen = line + code.text.count("\n", seen, m.start()), m.start()
        around = code.text[max(0, m.start() - 200) : m.end()].rpartition("\n\n")[2]
        values = tuple(numbers(m["rates"]))
        said = re.search(r"accept", around, re.I) and _OF_POSITIONS.search(around.replace("_", " "))
        if said and "len" not in m["name"].lower() and all(n.share <= _NO_SHARE for n in values):
            at = (line,) * len(values)
            told = " ".join(b.text for b in section.blocks if isinstance(b, Prose))[:2000]
            kind = _word(around.replace("_", " ")) or _word(told)
            yield RateSeries(line, values, at, m["name"], kind, section, False)


_MOST_LISTS = 50


def _down(table: Table, section: Section) -> Iterator[RateSeries]:
    rows = [row for row in table.rows if _POSITION.search(row.label)]
    if not 2 <= len(rows) <= 64 or not _are_positions([row.label for row in rows]):
        return
    if len(rows) != len(table.rows):
        yield from _among_others(table, rows, section)
        return
    for i, header in enumerate(table.header[1:], 1):
        values = _in_percent([n for row in rows if (n := row.cells[i].number) is not None], header)
        said = bool(_RATE.search(header)) or all(n.share <= 1 + n.slack for n in values)
        if said and column_kind(table, i) == "rate" and len(values) == len(rows):
            accuracy = any(re.search(r"\bacc_?\d", row.label) for row in rows)
            name = header if _RATE.search(header) else text_before(table).split("\n")[0]
            yield RateSeries(
                table.line, tuple(values), tuple(row.line for row in rows), name, _named(header, table),
                section, accuracy, text_around(table) if accuracy else "",
            )  # fmt: skip


def _are_positions(labels: Sequence[str]) -> bool:
    """Return whether labels are of positions one after the other: 1, 8 and 32 are batch sizes."""
    found = [int(m[0]) for label in labels if (m := re.search(r"\d+", label))]
    return found[:1] in ([0], [1]) and found == list(range(found[0], found[0] + len(labels)))


def _in_percent(values: list[Number], said: str) -> list[Number]:
    """Return rates with their unit: without one, numbers up to 100 are percent if the head says so or one is large."""
    bare = all(n.unit in {"", "%"} for n in values) and max((n.value for n in values), default=0) <= 100
    percent = bool(_PERCENT.search(said)) or (bool(said) and any(n.value > _NO_SHARE for n in values))
    return [replace(n, unit="%") for n in values] if bare and percent else values


def _roughly(n: Number, text: str) -> Number:
    """Return a number with the rounding that its words say: ``about 33%``, ``50-67%``."""
    m = re.search(r"(\d+(?:\.\d+)?)\s*%?\s*[-–]\s*(\d+(?:\.\d+)?)", text)
    if m is not None:
        return replace(n, ulp=2 * abs(float(m[2]) - float(m[1])))
    return replace(n, ulp=max(n.ulp, n.value / 5)) if re.search(r"about|approx|[~≈约]", text) else n


_NO_SHARE = 1.5
"""A rate above this is a percentage: nobody is so wrong about a share."""


def _among_others(table: Table, rows: Sequence[Row], section: Section) -> Iterator[RateSeries]:
    """Yield the rates whose rows say so by themselves, in a table of names and values: ``Position 1 acc``."""
    of_rates = all(re.search(r"\bpos(?:ition)?[ _-]?\d+ (?:acc\w*|rate)", row.label, re.I) for row in rows)
    found = [_roughly(n, row.cells[-1].text) for row in rows if (n := row.cells[-1].number) is not None]
    values = _in_percent(found, " ".join(row.cells[-1].text for row in rows))
    if of_rates and len(values) == len(rows) and all(n.share <= 1 + n.slack for n in values):
        lines = tuple(row.line for row in rows)
        name = f"{table.heading} {rows[0].label}".strip()
        of_training = any(re.search(r"\bloss\b", row.label, re.I) for row in table.rows)
        yield RateSeries(rows[0].line, tuple(values), lines, name, _named(name, table), section, of_training)


def _along(table: Table, section: Section) -> Iterator[RateSeries]:
    places = [i for i, h in enumerate(table.header) if _POSITION.search(h) and not re.fullmatch(r"\d{3,}", h.strip())]
    if not 2 <= len(places) <= 64 or places != list(range(places[0], places[-1] + 1)):
        return
    if not _are_positions([table.header[i] for i in places]):
        return
    accuracy = any(re.search(r"\bacc_?\d", table.header[i]) for i in places)
    kind = _named(table.header[places[0]], table)
    for row in table.rows:
        said = f"{text_before(table)} {row.label}" if _RATE.search(text_before(table)) else ""
        values = _in_percent([n for i in places if (n := row.cells[i].number) is not None], said)
        if len(values) == len(places) and all(n.share <= 1 + n.slack for n in values):
            lines = tuple(row.at(i) for i in places)
            name = row.label if len(table.rows) > 1 or not row.lines else table.header[places[0]]
            around = text_around(table) if accuracy else ""
            named = _word(row.label) or kind
            yield RateSeries(lines[0], tuple(values), lines, name, named, section, accuracy, around)


def _in_cells(table: Table, section: Section) -> Iterator[RateSeries]:
    """Yield the rates that stand as a list in one cell, under a head that says that they are by position."""
    places = [i for i, h in enumerate(table.header) if i and (_BY_POSITION.search(h) or _PER_POSITION.search(h))]
    for row in table.rows[:_MOST_TURNED] if places else ():
        for i in places:
            m = _LIST.fullmatch(row.cells[i].text.strip(" []()*"))
            values = tuple(numbers(m[0])) if m else ()
            if values and all(n.share <= 1 + n.slack for n in values):
                at = (row.line,) * len(values)
                name = table.header[i]
                yield RateSeries(row.line, values, at, name, _named(name, table), section, False)


_PER_POSITION = re.compile(r"\bper[- ]pos|\ba0(?:…|\.\.|-|–| to )", re.I)
_ONE = r"(?:\d*\.\d+(?:\s?%)?|\d+(?:\.\d+)?\s?%)"
_LIST = re.compile(rf"{_ONE}(?:\s*(?:,|/|;|、|，|→|,? and)\s*{_ONE}){{1,}}")
_BY_POSITION = re.compile(
    r"(?:per|by|each|of an?|at (?:each|every)|of (?:each|every)|for each)[- ](?:draft(?:ed)? )?(?:position|slot)"
    r"|(?:positions?|slots?) \d|各(?:个)?位置|每个位置|逐位置|位置 ?\d"
    r"|\b(?:marginal|conditional) (?:acceptance )?rates\W{1,3}\d",
    re.I,
)


def _in_sentence(prose: Prose, section: Section) -> Iterator[RateSeries]:
    if not (_BY_POSITION.search(prose.text) and _RATE.search(prose.text)):
        return
    at, line = 0, prose.line
    for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z])", prose.text):
        start = prose.text.find(sentence, at)
        line, at = line + prose.text.count("\n", at, start), start
        if not (_BY_POSITION.search(sentence) and _RATE.search(sentence)):
            continue
        for m in _LIST.finditer(sentence):
            values = tuple(n for n in numbers(m[0]) if n.share <= _NO_SHARE)
            if sum(n.share <= 1 + n.slack for n in values) < 2:
                continue
            here = line + sentence.count("\n", 0, m.start())
            yield RateSeries(here, values, (here,) * len(values), m[0], _word(sentence), section, False)


def _named(header: str, table: Table) -> str | None:
    return _word(header) or _word(text_around(table))


def _word(text: str) -> str | None:
    """Return ``marginal`` or ``conditional`` if the text means exactly one of them, else None."""
    marginal = re.search(
        r"\bmarginal|\bjoint\b|cumulative|unconditional|share of (?:all )?(?:\w+ )?rounds|边际|累计", text, re.I
    )
    conditional = re.search(
        r"(?<!un)\bconditional|\bgiven (?:that )?(?:the|all|every)|n-α|条件(?:接受|概率)", text, re.I
    )
    if bool(marginal) == bool(conditional):
        return None
    return "marginal" if marginal else "conditional"


_OWN_TOKEN = r"(?:bonus|(?:extra|guaranteed|additional) token|(?:target|verifier)(?: model)?(?:['’]s)?(?: own)?)"


@_once
def counts_bonus(card: Card) -> bool:
    """Return whether the card says that its acceptance lengths count the target's own token."""
    counted = (
        rf"\b(?:incl\w*\.?|with|counts?|counting|plus)\b(?! (?:drafted|accepted|only))[^.;|\n]{{0,24}}\b{_OWN_TOKEN}\b"
        rf"|{_OWN_TOKEN}(?: token)?,? (?:token )?(?:is |are )?(?:incl|counted)"
        r"|(?<!不)(?<!不包)(?:包?含|包括|计入)[^，。；|\n]{0,6}(?:bonus|目标|额外)"
    )
    left_out = (
        rf"\b(?:excl\w*\.?|without|not counting|not incl\w*|minus|leav\w+ out)\b[^.;|\n]{{0,24}}\b{_OWN_TOKEN}\b"
        rf"|{_OWN_TOKEN}(?: token)?,? (?:token )?(?:is |are )?(?:excl|not (?:counted|incl))"
        r"|(?:不包?含|不包括|不计|除去)[^，。；|\n]{0,8}(?:bonus|目标|额外)"
    )
    return card.says(counted, remarks=True) and not card.says(left_out, remarks=True)


def part_of(section: Section) -> Heading | None:
    """Return the heading of the level-2 part of the card that a section belongs to, or None."""
    return next((h for h in section.path if h.level >= 2), None)
