"""C4: rules on numbers without the conditions of their measurement."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations

from eagle3hub.engines.specs import default_version
from eagle3hub.lint import claims
from eagle3hub.lint.claims import TRAINING
from eagle3hub.lint.model import Card, Hit, Number, Table, Violation, rule

UNIT = (
    r"tok(?:en)?s?\s*(?:/|per)\s*(?:s(?:ec\w*)?|GPU)(?![a-z])|\bTPS\b|req(?:uest)?s?\s*(?:/|per)\s*s(?:ec\w*)?(?![a-z])"
    r"|samples?\s*(?:/|per)\s*s(?:ec\w*)?(?![a-z])|\bit/s\b|每秒"
)
_A_NUMBER = rf"(?:(?<![\d.-])\d[\d,]*(?!\.?\d)|\b(?:{claims.IN_WORDS}|single|no)\b)"
_LOAD = (
    r"(?:\bbsz?\b|\bbatch(?:es|ing|[ _-]?sizes?)?\b(?! of the train)|\bconcurren\w+|\bconc\b"
    r"|(?<!tensor[ -])(?<!data[ -])(?<!expert[ -])(?<!pipeline[ -])"
    r"\b(?:parallel|simultaneous)(?:ly|ism)?\b(?![ _-]?draft)"
    r"|\bmax[_-](?:num[_-]seqs|running[_-]requests)|\b(?:slots?|streams?|clients?|users?|callers?)\b"
    r"|\bin[ -]flight\b|(?<!token )(?<!tokens )\b(?:at a time|at the same time|at once)\b|\bqueued?\b"
    r"|\bQPS\b|\brequest[ _-]rate|\bload\b(?= (?:of )?\d)|并发|批)"
)
"""The words for how much is asked of a server at one time."""
_BATCH = (
    rf"{_LOAD}[^.;。；\n]{{0,16}}?{_A_NUMBER}(?! ?(?:tok|draft|GPU|card))"
    rf"|{_A_NUMBER}(?:(?!tok|draft)[^.;。；|\n]){{0,24}}?{_LOAD}|\bbatch[- ]?1\b|\bbsz? ?\d|(?-i:\bB) ?= ?\d"
    r"|\b(?:single|one|1) (?:request|sequence|session|conversation)s?\b(?! (?:per|is|was|has|of))"
    rf"|\b(?:\d+|{claims.IN_WORDS}) sessions\b"
    r"|\b(?:requests|prompts|questions)\b[^.\n]{0,30}\b(?:one (?:by one|after)|sequential)"
    r"|\bone (?:by one|after (?:the other|another))\b|\bsequential(?:ly)? (?:requests|prompts|decoding)\b"
    r"|(?:^\W*|(?<=[,;:(|] ))(?:sequential|serial)(?:ly)?(?=[.;,)|]|$)|\bunbatched\b"
    r"|\bwithout (?:batching|concurrency)\b"
    r"|\b(?:unloaded|idle|otherwise empty) (?:server|machine|engine)"
    r"|\b(?:lone|solitary) (?:request|client|user|caller)"
    r"|\bnever overlap|\bper[- ]user\b"
    r"|\b(?:each|every one|one) [^.;\n]{0,20}\b(?:wait\w*|after) [^.;\n]{0,16}\b(?:before|previous|last|ended)\b"
    r"|\b(?:no|without an?) queue\b|单(?:流|请求|并发|用户|路)|逐(?:条|个|一)|串行|[一1] ?个(?:请求|用户)"
)
_LOAD_OF_EXAMPLE = re.compile(
    r"(?:(?:^|\s)-np|--parallel|[-_]concurrency|max[-_](?:num[-_]seqs|running[-_]requests|batch[-_]size))"
    r"[\"']?\W{1,3}\d",
    re.I,
)
"""What a command or a file of settings says of the load, which may not be that of the measurement."""
_COUNT = (
    r"\b\d[\d,]* (?:[“\"][^“”\"\n]{1,40}[”\"] |[\w-]+ ){0,3}"
    r"(?:prompts?|questions|problems|conversations|requests|samples|examples|tasks"
    r"|instances|dialog(?:ue)?s|queries|items|pages|documents|images)\b(?! (?:per|/) ?(?:s|sec|second)\b)"
    rf"|(?<![A-Za-z])(?:{claims.SETS})(?:\s?\(|, |: ?)(?:all |first |n ?= ?)?\d{{2,}}"
    r"(?![\d.,]*\s?(?:%|tok|ms|[x×]|\.\d))\b"
    r"|\b(?:prompts|samples|questions|requests|problems)\b(?:\s*[:=,|]\s*|\s[–—-]\s)\d[\d,]*(?![\d.]*\d)"
    r"(?! ?(?:tok|new\b|out|max|draft|spec|[KkMB]\b|%|[x×]))"
    r"|\b\d+-(?:prompt|question|problem|sample)\b"
    r"|\b(?:generation|measured|benchmark\w*|workload)\b[^.\n]{0,40}\bprompt(?: is|:)? ?[\"“]\w"
    r"|\b(?:twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety|hundred|thousand|\d+ ?k)\b (?:[\w-]+ ){0,3}"
    r"(?:prompts?|questions|problems|conversations|requests|samples|documents)\b"
    r"|\bn[\"']?\s*[=:]\s*\d|\bnum[_-](?:questions|prompts|samples|requests)\W+\d|\d+ ?(?:条|道|题)"
    r"|\bprompts\W{1,3}\{[^{}\n]{0,40}?:\s*\d"
    r"|\d+ ?个(?:样本|题|提示|问题|请求|对话)"
)
_ALL_OF_A_SET = (
    rf"\b(?:all|full|entire|whole|complete)\b[^.;|\n\d]{{0,24}}(?:{claims.SETS})"
    rf"|(?<![A-Za-z])(?:{claims.SETS})\b[^.;|\n\d]{{0,16}}"
    r"\b(?:full|entire|complete|whole|all (?:questions|prompts|problems))\b"
    r"|\b(?:every|all) (?:question|prompt|problem|item|sample|task)s? (?:of|in|from)\b"
    r"|\b(?:full|whole|entire|complete) (?:test |eval\w* )?(?:sets?|splits?|benchmarks?)\b"
    r"|\b(?:sets?|splits?) in full\b"
    r"|\b(?:subset|sample|selection|pool|total) of (?:\w+ )?\d{2,}\b(?! tok)"
    r"|\b(?:sets?|sample|prompts?|eval\w*)[ _-](?:sizes?|counts?)\W{1,3}(?:of |is )?\d"
    r"|(?:全部|全量|完整)[^，。；|\n]{0,6}(?:题|集|条)"
)
_NO_PROMPTS = (
    r"tok\w*|new|output|input|generated|draft\w*|spec\w*|candidate\w*|bonus|steps?|levels?|nodes?|layers?|heads?|experts?"
    r"|hours?|hrs?|days?|weeks?|months?|years?|min\w*|sec\w*|ms|s|h|gpus?|cards?|chips?|machines?|devices?|[kmgt]i?b"
    r"|kwh|kg|g|w|k|m|b|x|percent\w*|per|points?|times|fold|thousand|million|billion|param\w*|concurren\w*|parallel"
    r"|simultaneous|clients?|users?(?! (?:turn|message|prompt|quer|question))|callers?|streams?|slots?|sessions?"
    r"|threads?|cores?|languages?|epochs?|dim\w*"
    r"|bits?|bytes?|runs?|repeats?|repetitions|trials?|seeds?|rounds?|passes|positions?|values?|versions?|states?"
    r"|more|less|fewer|faster|slower|higher|lower|above|below|while|when|where|which|that|but|as|so|of|to|and|or|in|at"
    r"|on|for|with|without|is|are|was|were|the|an?|by|from|than|vs|against|instead|over|under|after|before|we|it|then"
)
"""What stands behind a number that counts no prompts."""
_A_COUNT = (
    rf"(?<![\w.,=:/$€#-])(?<!(?-i:[A-Z\d]) )(?!(?:19|20)\d\d\b)\d{{2,5}}(?:,\d{{3}})? (?!(?:{_NO_PROMPTS})\b)"
    r"(?:[a-z]{3,}|[A-Z][A-Za-z-]+ [a-z]{3,})"
)
"""A number of something that has no unit: “300 news articles”, “80 first turns”."""
_NUMBERED = re.compile(
    r"\b(?:top|seed|steps?|layers?|tables?|figures?|sections?|lines?|chapter|pages?|concurrency|batch|size|depth|length"
    r"|level|version|build|release|driver|port|up to|at most|least|than|within|every|each|after|before)\W?$",
    re.I,
)
"""What stands before a number that is a name, a bound or a length of time, and counts no prompts."""
_COUNT_HEADER = re.compile(
    r"^\W*[n#](?:\s?[(（][^()（）]*[)）])?\W*$|\b(?:prompts|questions|samples|requests|problems|conversations)\b"
    r"|样本|题数|条数|数量|提示数|提示词数|请求数",
    re.I,
)
_TEMPERATURE = (
    r"(?<![A-Za-z])temp(?:erature)?s?(?![A-Za-z])|\bT\s*=\s*[01](?:\.\d+)?(?!\.?\d)|\bgreed(?:y|ily)\b"
    r"|\barg-?max (?:decod|sampl|everywhere)\w*|\bsampl\w+ \W{0,3}arg-?max|\balways the (?:top|likeliest) token"
    r"|\bdo_sample\s*=\s*False|\b(?:no|without(?: any)?|nothing (?:is|was)) (?:randomness|sampl\w+)"
    r"|(?:^\W*|(?<=[,;:(|] ))(?:arg[ -]?max|top-1)(?=[.;,)|]|$)|\bsampl(?:ed|ing) (?:at|with) [01]\.\d"
    r"|\bdeterministic(?:ally)?\b|\bsampling(?: is| was)? (?:off|disabled|turned off)|\bT ?0\b|温度|贪[心婪]|随机"
)
_AN_ANSWER = r"(?:answers?|outputs?|completions?|generations?|responses?|replies)\b"
_OUTPUT = (
    r"(?:max\w*|output|new|gen\w*)[ _-](?:new[ _-]|output[ _-])?(?:tokens|length|len)\b(?!\s?(?:/|per|a sec))"
    r"|[x×] ?\d+ tokens|\d+ tokens (?:a|an|per|each) ?(?:prompt|request|answer)?|\b(?:[4-9]\d"
    r"|\d{3,6}) (?:\w+ )?tokens\b(?! (?:per|/))"
    rf"|\b\d[\d,]*k?[- ]tok(?:en)?s?[- ]{_AN_ANSWER}|\b\d{{2,}} tok\w* each\b"
    rf"|\b(?:{_AN_ANSWER}|decod(?:e|ing))(?: (?:limit|cap|length|len|max\w*))?\W{{1,3}}"
    rf"(?:of |at |to |is ){{0,2}}\d{{2,}}"
    rf"(?!\d|\.\d| ?[x×%])|\b(?:until|till|up to|to) (?:the )?(?:EOS|end of|they end|it ends|completion\b|natural end)"
    r"|\b(?:output|generation|answer|token) (?:limit|cap|budget)\b"
    r"|(?<![\w-])-n \d{2,}|n_predict\W{1,3}\d|\b\d+k? out\b"
    r"|\bISL ?/ ?OSL\b|\b(?:osl|output)\W{0,3}\d|(?:输出|生成)(?:长度|token)|最大(?:输出|生成|新)"
    r"|(?:输出|生成) ?\d+ ?个?|最多[^，。；]{0,4}(?:输出|生成)|\b\d{1,2}k (?:new|output|generated|decoded) tokens"
    r"|(?:上限|最多|至多|不超过|截断)[^，。；|\n\d]{0,6}\d{2,6} ?个? ?(?:新 ?)?(?:token|词元)"
    r"|(?<![\d.])\d{2,6} ?个 ?(?:新 ?)?(?:token|词元)(?! ?[/每])"
)
_OUTPUT_IN_DATA = (
    r"(?<![\w-])(?!max[_-](?:model|seq|position|draft|context|batch))(?:total )?(?:max\w*|output|new|generat\w+)"
    r"[ _-](?:new[ _-]|output[ _-])?(?:tokens|length|len)\b\W{1,40}\d"
)
_OUTPUT_FLAG = re.compile(
    r"\bbench[^`]{0,600}?--(?:[a-z]+-)*(?:output-len|osl|max-(?:new-|output-)?tokens)[ =]+\d", re.S
)
"""The output length of the command that measured."""
_SPREAD = r"±|\binterval|confidence|\b95 ?%|\bstd\b|standard (?:deviation|error)|\bCI\b|\bspread\b|min\W+max"
_ENGINE = (
    r"(?<![A-Za-z0-9])(?:vLLM|SGLang|TensorRT[- ]LLM|TRT[- ]LLM|TRTLLM|TensorRT[- ]Edge[- ]LLM|sglang-jax|sgl-jax"
    r"|eagle3hub reference|llama\.cpp|LMDeploy|MLX|MNN|TGI|Hugging ?Face transformers|transformers|ATOM"
    r"|xLLM|KTransformers|NeMo|"
    r"EAGLE'?s? (?:own )?code|PyTorch|mlx[-_](?:lm|vlm|serve)|exllama\w*|EXL3|ollama)(?![A-Za-z0-9])"
)
_ENGINE_AND_VERSION = rf"{_ENGINE}[\s|:：(=,@`*]{{1,12}}(?:v|version |build |b)?\d+(?:\.\d|\d{{3}})"
"""An engine with its version, wherever the card has it: nobody gives one for an engine that measured nothing."""
_SERVERS = (
    r"(?<![A-Za-z0-9])(?:vLLM|SGLang|TensorRT[- ]LLM|TRT[- ]LLM|sglang-jax|sgl-jax|llama\.cpp|LMDeploy"
    r"|mlx-v?lm|exllama\w*)(?![A-Za-z0-9])"
)
_LAUNCHED = re.compile(r"\b(?:vllm|sglang|sgl_jax|trtllm|tensorrt_llm|llama-(?:server|cli|speculative))\b", re.I)
_MEASURED = r"(?:\b(?:measured|evaluated|benchmarked|obtained)\b|\bengine\s*[:|])"
_RELEASE = (
    r"(?:[,\"']{1,3})?\s*(?:[\"']?version[\"']?\s*[:=]\s*[\"'])?"
    r"(?:\(?v(?:ersion)?[ :]*)?\(?\s*(?P<version>\d+\.\d+(?:\.\w+)*(?:[-+.]?\w+)?)"
)
_MONTH = r"(?:Jan|Feb|Mar|Apr|May|June?|July?|Aug|Sep|Oct|Nov|Dec)"
_NUMBER_OF_A_BUILD = r"(?:build|commit|release|tag|version|revision)\W{1,3}(?:(?:number|of|is|from) )?\W?v?[a-z]?\d"
_STEP = r"(?:\w+ )?step"
_LENGTH_SAID = (
    rf"(?:accept\w* length|τ|tau|tokens per {_STEP})[^.]{{0,60}}\d\.\d"
    rf"|\d\.\d+\W{{0,4}}tok(?:en)?s? ?(?:per|/) ?{_STEP}"
    r"|\baccepted (?:drafts |tokens )?per (?:round|step)"
    rf"|\b(?:each|every) {_STEP}[^.]{{0,40}}\d\.\d+ tokens"
    rf"|\d\.\d+ tokens (?:on average )?(?:in|with|for|at) (?:each|every) {_STEP}"
)
_RUNS = (
    r"\b(?:averag(?:ed?|es|ing)|means?|medians?) (?:\w+ )?(?:over|of|across|from) "
    r"(?:\w+ ){0,2}(?:runs|trials|repeats|repetitions|seeds|passes)\b(?!['’])"
    r"|\b(?:[2-9]|\d\d|two|three|four|five|ten)[- ](?:run|seed|trial) (?:averages?|means?|medians?)\b"
    r"|\b(?:repeated|run|ran|measured) (?:[2-9]|three|four|five|ten) times\b[^.\n]{0,30}\b(?:averag|mean|median)"
    r"|(?:[2-9]|两|三|五|十|多) ?次(?:独立)?(?:运行|实验|测试|重复|测量)[^。\n]{0,10}(?:平均|均值)"
    r"|(?:运行|测试|重复|测量) ?(?:[2-9]|两|三|五|十) ?次[^。\n]{0,8}(?:平均|均值)"
    r"|\bbest[- ]of[- ](?:N\b|\d+ runs\b)"
    r"|\b[2-9] (?:runs|trials|repeats)\b[^.\n]{0,20}\b(?:median|mean|averag\w+)"
    r"|\b(?:[2-9]|\d\d|two|three|five|ten) (?:independent |repeated )?(?:runs|trials|repeats|repetitions) "
    r"(?:per|for each)\b"
)
_ESTIMATOR = (
    r"\bpooled|\bestimator|mean (?:of|over) (?:the )?(?:requests|prompts|rounds|steps)|per[- ]request|"
    r"ratio of (?:sums|totals)"
)
_NOISE = 0.05
_CALLED_EQUAL = (
    r"\bnot (?:statistically )?(?:distinguishable|significant)|indistinguishable|\bnoise\b"
    r"|within (?:the )?(?:drift|error)|\bno (?:\w+ )?difference|\btied?\b"
    r"|\b(?:are|is|equally|practically|nearly) (?:equal|the same|identical|alike)\b"
    r"|\bnot (?:really |clearly )?(?:better|faster|different)"
    r"|无(?:显著|明显)?差[异别]|噪声|误差|持平|相当|没有(?:显著|明显)?(?:差|区)"
)
_DATA_SETS = re.compile(
    r"bench|eval|gsm|math|mmstar|alpaca|cnn|mbpp|aime|gpqa|mmlu|\bqa\b|writing|roleplay|reasoning|coding"
    r"|extraction|stem|"
    r"humanities|summar|translat|rag|chat|average|mean|overall|english|chinese",
    re.I,
)
_CATEGORIES = {
    "writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities",
    "translation", "summarization", "qa", "questionanswering", "mathreasoning", "mathematicalreasoning", "rag",
    "retrieval", "retrievalaugmentedgeneration", "multiturnconversation", "multiturn", "conversation",
}  # fmt: skip
"""The categories of MT-Bench and Spec-Bench, in letters alone."""


def _acceptance_line(card: Card) -> int | None:
    """Return the line of the first acceptance length or series of rates, or None if the card has neither."""
    lines = [x.place for x in claims.acceptance_lengths(card)] + [
        s.line for s in claims.rate_series(card) if not s.is_called_so
    ]
    lines += [
        table.line
        for section, table, _ in claims.columns_of_kind(card, "rate")
        if not re.search(TRAINING, section.title, re.I)
    ]
    if not lines and (card.is_of_a_head or card.is_of_the_hub):
        lines = claims.said_rates(card)
    return min(lines, default=None)


def _absent(card: Card, line: int, message: str, what: str) -> Violation:
    """Return the violation for a condition that the card does not give.

    Its severity is info if the card itself says that the condition is not known.
    """
    admitted = card.says(rf"\bnot (?:reported|stated|recorded|known): [^.\n]{{0,300}}\b(?:{what})\b")
    return Violation(line, message, severity="info" if admitted else None)


_OF_SPEED = re.compile(r"\btok(?:en)?s?\s?/\s?s|\bTPS\b", re.I)
"""The label of a row of throughputs."""
_A_SPEED = re.compile(r"\d\W{0,4}tok(?:en)?s?\s?/\s?s", re.I)


def _throughput_line(card: Card) -> int | None:
    lines = [table.line for kind in ("throughput", "speedup") for _, table, _ in claims.columns_of_kind(card, kind)]
    lines += claims.printed_throughput(card)
    lines += [
        table.line
        for _, table in card.tables
        if not claims.is_of_training_table(table)
        and any(
            _OF_SPEED.search(r.label) or any(_A_SPEED.search(c.text) for c in r.cells[1:]) for r in table.rows[:50]
        )
    ]
    # a rate of the training is no measurement of the head
    said = rf"\d\s*(?:{UNIT})|(?:{UNIT})[^.;|\n]{{0,40}}[:：] ?\d{{2,}}"
    lines += [hit.line for hit in card.search(said, tables=False, outside=TRAINING)]
    return min(lines, default=None)


def _sections_of_results(card: Card) -> set[int]:
    """Return the ids of the sections that print acceptance, rates or speed."""
    found = {id(x.section) for x in claims.acceptance_lengths(card)} | {
        id(s.section) for s in claims.rate_series(card)
    }
    for kind in ("rate", "throughput", "speedup"):
        found |= {id(section) for section, _, _ in claims.columns_of_kind(card, kind)}
    return found


def _counted(card: Card) -> bool:
    """Return whether a sentence, a table or the metadata gives the number of prompts."""
    for section, table in card.tables:
        if section.is_about(TRAINING) or claims.is_of_training_table(table):
            continue
        if re.fullmatch(r"\W*prompts?\W*", table.header[0], re.I) and len(table.rows) > 1:
            return True  # each row is one
        for i, name in enumerate(table.header):
            if _COUNT_HEADER.search(name) and table.column(i):
                return True
        if any(_COUNT_HEADER.search(row.label) and any(c.number for c in row.cells[1:]) for row in table.rows):
            return True
    if next(claims.code_matches(card, re.compile(r"--num[-_](?:prompts|samples|questions)[ =]+\d")), None):
        return True
    if _in_results(card, _COUNT):
        return True
    hits = card.search(f"{_COUNT}|{_ALL_OF_A_SET}", outside=TRAINING + r"|\bdata\b", remarks=True)
    if any(not claims.is_of_training(hit.match) for hit in hits):
        return True
    shown = _sections_of_results(card)
    hits = card.search(_A_COUNT, outside=claims.SERVING + r"|\bdata\b|licen[sc]e|citation|许可|引用", tables=False)
    return any(
        not claims.is_of_training(hit.match)
        and not _NUMBERED.search(_upto(hit)[: -len(hit.match[0])])
        and (id(hit.section) in shown or claims.speaks_of_measuring(hit.match.string))
        for hit in hits
    )


@rule(
    "C401",
    "warning",
    "Throughput without a unit",
    why="224 tokens per second, requests per second or tokens per second per GPU are three different results.",
    fix="Write the unit in the header: tok/s, output tokens only, per request or for the whole server.",
    heads=True,
    words=True,
    also=claims.prints_acceptance,
)
def missing_unit(card: Card) -> Iterator[Violation]:
    """Report throughput columns if the card names no unit."""
    tables = [table for _, table, _ in claims.columns_of_kind(card, "throughput")]
    if tables and not card.says(UNIT):
        yield _absent(card, tables[0].line, "the throughput has no unit", "unit")


@rule(
    "C402",
    "warning",
    "Throughput without hardware",
    why="Throughput depends on the machine more than on the draft head.",
    fix="Name the accelerator, how many, and the parallelism.",
    heads=True,
    words=True,
    also=claims.prints_acceptance,
)
def missing_hardware(card: Card) -> Iterator[Violation]:
    """Report throughput if the card names no accelerator outside its training section."""
    line = _throughput_line(card)
    hits = card.search(claims.HARDWARE, outside=TRAINING, remarks=True)
    of_training = all(claims.is_of_training(hit.match) or _is_for_hours(hit.match) for hit in hits)
    if line and of_training and not _in_results(card, claims.HARDWARE):
        yield _absent(card, line, "no accelerator is named for the throughput", "hardware|accelerator")


_HOURS = r"(?:(?:h|hours?|hrs?|days?|weeks?)\b|小时|天)"
_FOR_HOURS = re.compile(
    r"(?:[ -](?:SXM\d?|PCIe|NVL\d*|\d+ ?GB|GPUs?|cards?|nodes?))*[^\w\n]{0,4}"
    rf"(?:(?:(?:for|in|over|about|around|共|约|历时|用时) ?){{0,3}}[\d.,]+[ -]?{_HOURS}|(?:GPU[ -])?(?:hours|days)\b)",
    re.I,
)
_HOURS_ON = re.compile(
    rf"\d ?{_HOURS}(?: of| on| with| using|,)? (?:an? |one )?(?:single )?(?:\d+ ?[x×]? ?)?(?:NVIDIA )?$", re.I
)


def _is_for_hours(m: re.Match[str]) -> bool:
    """Return whether a machine is given with the hours or days of its use, as that of a training is."""
    before, after = m.string[max(0, m.start() - 40) : m.start()], m.string[m.end() : m.end() + 60]
    lasted = _FOR_HOURS.match(after) or _HOURS_ON.search(before)
    return bool(lasted) and not claims.speaks_of_measuring(claims.sentence_of(m))


def _has_batch_column(card: Card) -> bool:
    """Return whether a table has a column of batch sizes or of numbers of requests."""
    named = re.compile(rf"{_LOAD}|\bconc|\bload\b", re.I)
    return any(
        named.search(name) and table.column(i)
        for section, table in card.tables
        if not section.is_about(TRAINING)
        for i, name in enumerate(table.header)
    )


@rule(
    "C403",
    "warning",
    "Throughput without batch size or concurrency",
    why="Speculation helps most at batch 1 and may slow a full server down.",
    fix="Give the number of concurrent requests.",
    heads=True,
    words=True,
    also=claims.prints_acceptance,
)
def missing_batch(card: Card) -> Iterator[Violation]:
    """Report throughput if the card names neither batch size nor concurrency."""
    line = _throughput_line(card)
    hits = card.search(_BATCH, outside=TRAINING, remarks=True)
    named = any(not _OF_TRAINING_BATCH.search(_upto(hit)) for hit in hits)
    named = named or _in_results(card, r"concurrency\W{1,30}\d")
    if line and not named and not _has_batch_column(card):
        example = next(claims.code_matches(card, _LOAD_OF_EXAMPLE), None)
        end = "; only the example's is" if example else ""
        message = f"neither batch size nor concurrency is given for the throughput{end}"
        found = _absent(card, line, message, "batch size|concurrency")
        yield replace(found, severity="info") if example else found


_OF_TRAINING_BATCH = re.compile(
    r"\b(?:train\w*|global|micro|effective|gradient)[^.;,|]{0,24}batch|训练[^。；，|]{0,8}批", re.I
)


def _upto(hit: Hit) -> str:
    """Return a match with the few words before it."""
    return hit.match.string[max(0, hit.match.start() - 40) : hit.match.end()]


@rule(
    "C404",
    "warning",
    "Throughput without its prompts",
    why="Prompt and output length decide how much of the time is decoding.",
    fix="Give the number of prompts and the output length (or max_new_tokens).",
    heads=True,
    words=True,
    also=claims.prints_acceptance,
)
def missing_prompts(card: Card) -> Iterator[Violation]:
    """Report throughput without the number of prompts or the output length.

    If the card gives acceptance too, C405 reports the missing number of prompts.
    """
    line = _throughput_line(card)
    if line is None:
        return
    missing = [] if _counted(card) or _acceptance_line(card) else ["the number of prompts"]
    by_command = next(claims.code_matches(card, _OUTPUT_FLAG), None)
    given = by_command or _in_results(card, _OUTPUT_IN_DATA) or card.says(_OUTPUT, outside=TRAINING, remarks=True)
    missing += [] if given else ["the output length"]
    message = f"{' and '.join(missing)} of the throughput runs is not given"
    found = [_absent(card, line, message, what.removeprefix("the ")) for what in missing]
    # what the card says of one is no answer to the other
    yield from sorted(found, key=lambda violation: violation.severity == "info")[:1]


@rule(
    "C405",
    "warning",
    "Acceptance without the number of prompts",
    why="Rounds of one prompt depend on each other, so the number of prompts decides how far a mean can be trusted.",
    fix="Give n, the number of prompts measured.",
    heads=True,
    words=True,
    also=claims.prints_lengths,
)
def missing_count(card: Card) -> Iterator[Violation]:
    """Report acceptance if the card does not give the number of prompts."""
    line = _acceptance_line(card)
    if line and not _counted(card):
        yield _absent(card, line, "the number of prompts is not given", "number of prompts")


@rule(
    "C406",
    "warning",
    "Acceptance without the temperature",
    why="Acceptance at temperature 1 is clearly lower than at 0, and the sampling rule matters besides.",
    fix="Give the temperature, and how draft tokens are sampled.",
    heads=True,
    words=True,
    also=claims.prints_lengths,
)
def missing_temperature(card: Card) -> Iterator[Violation]:
    """Report acceptance if the text of the card names no temperature."""
    line = _acceptance_line(card)
    if (
        line
        and not any(claims.columns_of_kind(card, "temperature"))
        and not _in_results(card, r"\btemp(?:erature)?[\"']?\W{1,3}\d")
        and not card.says(_TEMPERATURE, outside=TRAINING, remarks=True)
    ):
        yield Violation(line, "the sampling temperature is not given")


_OF_RESULTS = re.compile(
    r"accept\w*[ _-](?:len|rate)|\bbench|\bllama-\w|throughput|output_tps|^\s*eval\w*:", re.I | re.M
)
_SETTINGS = re.compile(r"^\s*(?:hardware|gpus?|concurrency|(?:num_)?prompts|temperature):", re.I | re.M)
_OF_A_TRAINER = re.compile(r"^\s*train\w*:|\b(?:learning_rate|lr|epochs?|warmup\w*|optimizer)\b\W{0,3}:", re.I | re.M)


def _in_results(card: Card, pattern: str) -> bool:
    """Return whether a block that prints results or settings, or holds the command that measured, matches."""
    wanted = re.compile(pattern, re.I)
    texts = (block.text[:_LOOKED_AT] for block in card.code if block.language != "bibtex")
    return any(
        wanted.search(text)
        for text in texts
        if _OF_RESULTS.search(text) or (_SETTINGS.search(text) and not _OF_A_TRAINER.search(text))
    )


_LOOKED_AT = 20_000
"""The letters of a block in which its conditions are looked for."""


def _engine_hits(card: Card) -> bool:
    """Return whether the text says which engine measured, in a results section or in a sentence of its own."""
    lengths = claims.acceptance_lengths(card)
    places = {id(x.section): x.section for x in lengths} | {id(s.section): s.section for s in claims.rate_series(card)}
    for kind in ("throughput", "speedup"):
        places |= {id(section): section for section, _, _ in claims.columns_of_kind(card, kind)}
    above = {id(h) for section in places.values() for h in section.path}
    engine = rf"{_ENGINE}|{own}" if (own := _own_engine(card)) else _ENGINE
    if not places and card.says(engine):
        return True
    for hit in card.search(engine):
        path = hit.section.path
        beside = len(path) > 1 and (id(path[-1]) in above or (path[-2].level > 1 and id(path[-2]) in above))
        if id(hit.section) in places or beside:
            return True
    return card.says(rf"{_MEASURED}[^.\n]{{0,80}}(?:{engine})|(?:{engine})[^\n]{{0,60}}\bwas measured")


def _own_engine(card: Card) -> str:
    """Return a pattern of the programs that the card's commands serve with, which may be engines we do not know."""
    names = {
        m[1]
        for _, m in claims.code_matches(
            card, re.compile(r"^\s*([A-Za-z][\w.-]{3,30}) (?:serve|run|generate|chat)\b", re.M)
        )
    }
    return r"\b(?:" + "|".join(sorted(map(re.escape, names))) + r")\b" if names else ""


@rule(
    "C407",
    "warning",
    "Measurement without its engine",
    why="Engines count differently (prefill token, trees, per request or pooled) and run the head differently.",
    fix="Name engine and version beside the numbers.",
    heads=True,
    words=True,
)
def missing_engine(card: Card) -> Iterator[Violation]:
    """Report results without an engine beside them."""
    line = min((x for x in (_acceptance_line(card), _throughput_line(card)) if x), default=None)
    if line is None or _engine_hits(card) or card.says(_ENGINE_AND_VERSION, outside=claims.SERVING):
        return
    named = {hit.match[0].lower() for hit in card.search(_ENGINE)}
    used = {m[0].lower() for _, m in claims.code_matches(card, _LAUNCHED)}
    if len(used) == 1 and (not named - used or (next(iter(used)).startswith("llama") and named == {"llama.cpp"})):
        message = f"no engine is named beside the measurement; only the example's is ({next(iter(used))})"
        yield Violation(line, message, severity="info")
    elif len(named) == 1 and not used and card.says(_ENGINE, outside=claims.SERVING):
        message = f"no engine is named beside the measurement; elsewhere only {next(iter(named))} is"
        yield Violation(line, message, severity="info")
    else:
        yield _absent(card, line, "no engine that the linter knows is named beside the measurement", "engine")


@rule(
    "C408",
    "warning",
    "Engine without a version",
    why="Flags are renamed and removed between releases; an engine without a version cannot be installed again.",
    fix=f"Name the version that was run, for example vLLM {default_version('vllm')}.",
    heads=True,
    words=True,
    also=claims.prints_acceptance,
)
def missing_version(card: Card) -> Iterator[Violation]:
    """Report engines if the card gives no version for any of them."""
    named = [hit for hit in card.search(_SERVERS, tables=False) if not _is_to_come(hit)]
    used = rf"\b(?:serv|run|us|start|launch|load|test|measur|train|evaluat)\w*\b[^.\n]{{0,60}}{_SERVERS}"
    in_code = next(
        claims.code_matches(card, re.compile(r"\b(?:vllm|sglang|sgl_jax|trtllm|tensorrt_llm|llama-\w+)\b")), None
    )
    if not (in_code or _acceptance_line(card) or _throughput_line(card) or card.says(used)):
        return  # named only, as one that will support the head
    pinned = any(
        re.search(
            r"(?:vllm|sglang|tensorrt[-_]llm|sgl[-_]jax)\S*\s*[=~>]=\s*v?\d|:v\d+\.\d+|release:\d|nightly|git\+https|"
            r"git (?:checkout|clone -b)|pull/\d+|/(?:tags|tag|download)/\S*\d",
            c.text,
        )
        for c in card.code
    )
    released = (
        rf"{_ENGINE}{_RELEASE}|{_ENGINE} \| v?\d+\.\d+"
        rf"|{_ENGINE}\W{{1,3}}(?:(?:(?:at|on|from) )?(?:the )?(?:nightly|main|commit|branch|PR)\b|>=|≥)"
        rf"|\bbuild of {_ENGINE}[^.\n]{{0,100}}(?:PR|pull|commit)\b"
        rf"|\b(?:vllm|sglang|llama\.cpp)#\d{{4,}}|{_SERVERS}\b[^\n]{{0,240}}?\b(?:in|from|since) v\d+\.\d+\.\d+\b"
        rf"|{_ENGINE}\W{{1,4}}[0-9a-f]{{7,40}}\b|@ \W?[0-9a-f]{{7,40}}\b"
        rf"|{_ENGINE}\b[^.\n]{{0,80}}\bv\d+\.\d+(?:\.\d+)*\b"
        rf"|{_ENGINE}[^.;\n]{{0,60}}(?<![\w.-])"
        r"(?:b\d{4,5}|(?=[a-f]*\d)[0-9a-f]{7,40}|20\d\d-\d\d(?:-\d\d)?)(?![\w-])"
        rf"|{_ENGINE}[^.;\n\d]{{0,20}}\d+\.\d+\.\d|\d+\.\d+\.\d+\W{{1,3}}(?:of )?{_ENGINE}"
        rf"|{_ENGINE}[^.;\n]{{0,40}}\b{_MONTH}\w* (?:\d\d?,? )?20\d\d"
        rf"|\b{_NUMBER_OF_A_BUILD}[\w.]*[^.;\n]{{0,30}}{_ENGINE}|{_ENGINE}[^.;\n]{{0,30}}\b{_NUMBER_OF_A_BUILD}"
    )
    if named and not pinned and not card.says(released):
        engines = ", ".join({hit.match[0].lower(): hit.match[0] for hit in reversed(named)}.values())
        yield Violation(named[0].line, f"no version of {engines} is given")


def _is_to_come(hit: Hit) -> bool:
    """Return whether a sentence names an engine that will support the head, or could once somebody changes it."""
    text, at = hit.match.string, hit.match.start()
    before = re.split(r"[.!?。;]\s", text[max(0, at - 160) : at])[-1]
    sentence = before + re.split(r"[.!?。;]\s", text[at : at + 160])[0]
    return bool(
        re.search(
            r"in progress|upcoming|coming soon|not yet|planned|will (?:be|support|add)|needs? a custom|once merged",
            sentence,
            re.I,
        )
    )


@rule(
    "C409",
    "info",
    "Measurement without an interval",
    why="In a simulation with 80 prompts and τ = 2.15 the standard error was 0.04, and the choice of estimator alone "
    "moved τ by 0.08.",
    fix="Give a 95 % interval over prompts, and name the estimator (pooled, or mean of requests).",
    heads=True,
    words=True,
)
def missing_interval(card: Card) -> Iterator[Violation]:
    """Report acceptance lengths if the card gives no sign of spread."""
    line = min((x.place for x in claims.acceptance_lengths(card)), default=None)
    if line and not card.says(_SPREAD) and not any(_comparisons(card)):
        yield Violation(line, "no interval is given")


@rule(
    "C419",
    "info",
    "Acceptance length without its estimator",
    why="The unweighted mean of requests sits above the value pooled over rounds, by more than the error of either.",
    fix="Say whether τ is pooled over all rounds or the mean of requests.",
    heads=True,
    words=True,
)
def missing_estimator(card: Card) -> Iterator[Violation]:
    """Report acceptance lengths if the card does not say how they were averaged."""
    lengths = claims.acceptance_lengths(card)
    if lengths and not card.says(_ESTIMATOR):
        message = "the card does not say whether τ is pooled over rounds or a mean of requests"
        yield Violation(lengths[0].place, message)


@rule(
    "C410",
    "warning",
    "A difference is too small to mean anything without an interval",
    why="Runs of the same head differ by 2 to 4 % through prompts, estimator and engine alone.",
    fix="Give paired differences with an interval, or call the two equal.",
)
def difference_within_noise(card: Card) -> Iterator[Violation]:
    """Report compared methods that are less than 5 % apart if the card gives no sign of spread."""
    if card.says(rf"{_SPREAD}|{_CALLED_EQUAL}"):
        return
    for table, pairs in _comparisons(card):
        close = [(what, a, b) for what, a, b in pairs if 0 < abs(a.value - b.value) < _NOISE * min(a.value, b.value)]
        if close:
            shown = "; ".join(f"{what} {a.value:g} and {b.value:g}" for what, a, b in close[:4])
            more = f" and {len(close) - 4} more" if len(close) > 4 else ""
            yield Violation(table.line, f"less than {_NOISE:.0%} apart, without an interval: {shown}{more}")
    for hit in card.search(_SMALL_GAIN, tables=False):
        a, b = (float(hit.match[name].replace(",", "")) for name in ("a", "b"))
        if 0 < abs(a - b) < _NOISE * min(a, b):
            yield Violation(hit.line, f"less than {_NOISE:.0%} apart, without an interval: {a:g} and {b:g}")


_SMALL_GAIN = (
    r"(?:accept\w*[ -]len\w*|τ|\btau\b|throughput|speed-?up)(?: \w+){0,3} from (?P<a>\d[\d,]*(?:\.\d+)?)"
    r"[ \w/]{0,12}? to (?P<b>\d[\d,]*(?:\.\d+)?)(?![\d.]*\d)"
)


_FEW = rf"(?:(?<![\d.,-])\d{{1,2}}(?!\.?\d)|\b(?:{claims.IN_WORDS}))"
_MAY_BE_K = (
    rf"{_FEW}[ -](?:[a-z]+ ){{0,2}}(?:draft|specul|propos|guess|candidate|look-?ahead|ahead)(?:\w*)\b"
    r"(?<!drafter)(?! ?(?:heads?|models?|layers?|runs?|decod))"
    rf"|\b\d{{1,2}} steps\b|(?:(?-i:\b[KkD]\b)|(?<!decay )(?<!decay, )(?:γ|\bgamma)"
    r"|\b(?:draft\w*|specul\w*|propos\w*|guess\w*|chain|blocks?"
    r"|look-?ahead|depth|n[_-]max|num[_-]\w+|max[_-]draft\w*))"
    r"(?:[ _-](?:tokens?|len(?:gth)?|depth|window|budget|size|steps?|slots?|positions?|count|number)){0,2}"
    r"(?:\s?[:=(|]\s?|\s(?:of|is|was|set to|up to|at most|=|with)\s|\s)\d{1,2}\b"
    r"(?!\.\d| ?[x×%]|[ -](?:GPU|layer|bit))"
    r"|\btokens per draft|\bdrafts of \d"
    r"|(?:草稿(?!头|模型)|投机|推测|起草|步数)[^，。；|\n\d]{0,8}\d{1,2}(?![\d.BM])"
    r"|(?<![\w.-])\d{1,2} ?个?(?:步|草稿|候选)(?!头|模型)"
)
"""A small number beside a word for drafting: most likely K, though it is not known for sure."""
ComparedPairs = list[tuple[str, Number, Number]]
_MOST_METHODS = 12
"""No table of a card compares more methods than this."""


def _comparisons(card: Card) -> Iterator[tuple[Table, ComparedPairs]]:
    """Yield the tables that compare methods: in columns if the rows are data sets, else in rows."""
    places: dict[int, tuple[Table, list[int]]] = {}
    for wanted in ("length", "throughput"):
        for _, table, i in claims.columns_of_kind(card, wanted):
            places.setdefault(id(table), (table, []))[1].append(i)
    for table, columns in places.values():
        found: ComparedPairs = []
        if all(_DATA_SETS.search(row.label) for row in table.rows):
            headers = [table.header[i] for i in columns]
            known = [claims.columns(table)[i] for i in columns]
            same = {c.kind for c in known} in ({"length"}, {"throughput"})
            named = any(_DATA_SETS.search(h) or _CONDITION.search(h) for h in headers)
            conditions = named or any(c.k is not None or c.temperature is not None for c in known)
            if 1 < len(columns) <= _MOST_METHODS and same and not conditions:
                for row in table.rows:
                    cells = [n for i in columns if (n := row.cells[i].number) is not None]
                    found += [(row.label, a, b) for a, b in combinations(cells, 2)]
        elif 1 < len({row.cells[0].text for row in table.rows}) == len(table.rows) <= _MOST_METHODS and _are_methods(
            table
        ):
            for i in columns:
                found += [(table.header[i], a, b) for (_, a), (_, b) in combinations(table.column(i), 2)]
        if found:
            yield table, found


_METHODS = re.compile(
    r"method|draft|head|algorithm|speculat|decod|variant|\bversion|release|revision|checkpoint|方法|算法|版本", re.I
)
_METHOD = re.compile(
    r"eagle|mtp|medusa|dflash|hass|ngram|draft|spec|vanilla|baseline|target (?:only|alone)|original|ours"
    r"|this (?:model|head|work)|head",
    re.I,
)
_CONDITION = re.compile(
    r"\b(?:bs|batch|conc\w*|tp|dp|ctx|context|isl|osl|en|zh|h100|h200|b200|gpu|fp8|bf16|nvfp4|int4)\b|[=@]|\d+k\b",
    re.I,
)


def _are_methods(table: Table) -> bool:
    """Return whether the rows of a table are methods that are compared: by its head, or by their names."""
    return bool(_METHODS.search(table.header[0])) or all(_METHOD.search(row.label) for row in table.rows)


@rule(
    "C411",
    "warning",
    "Acceptance length without K",
    why="τ grows with the number of drafted tokens; 3.1 at K = 3 and at K = 7 are different heads.",
    fix="Give the number of drafted tokens beside every τ.",
    heads=True,
    words=True,
    also=claims.prints_acceptance,
)
def missing_draft_tokens(card: Card) -> Iterator[Violation]:
    """Report acceptance lengths, and a head's acceptance rates, if the text of the card names no K.

    It is an info where the examples give one K: the card most likely means that.
    """
    lengths = claims.acceptance_lengths(card)
    rates = [table.line for _, table, _ in claims.columns_of_kind(card, "rate")] or claims.said_rates(card)
    if claims.rate_series(card) or claims.draft_numbers_of_rows(card):
        rates = []
    if {id(s.section) for s in claims.rate_series(card)} & {id(x.section) for x in lengths}:
        return  # as many as there are positions
    first = lengths[0].place if lengths else rates[0] if rates and card.is_of_a_head else None
    named = rf"\bn[_-]max\W{{1,3}}\d|\d\.\d+ (?:tokens )?drafted|{claims.MEASURED_K.pattern}"
    if (
        first is not None
        and claims.most_drafted(card) is None
        and not card.says(named, remarks=True)
        and not card.says(_MAY_BE_K, outside=claims.SERVING + r"|\bdata\b")
    ):
        examples = sorted({k for k, _ in claims.example_ks(card)})
        end = f"; only the example's is ({', '.join(map(str, examples))})" if examples else ""
        found = _absent(card, first, f"the K of the measurement is not given{end}", "K")
        yield replace(found, severity="info") if len(examples) == 1 else found


@rule(
    "C412",
    "warning",
    "Mean of several runs without their spread",
    why="The spread is the reason to repeat a measurement, and here it is thrown away. At temperature 0 and batch 1 "
    "repeats narrow nothing, because the randomness is in the prompts.",
    fix="Give the standard deviation over runs, or better an interval over prompts.",
)
def runs_without_spread(card: Card) -> Iterator[Violation]:
    """Report means over runs if the card gives no sign of spread."""
    spread = {id(claims.part_of(hit.section)) for hit in card.search(_SPREAD)}
    for hit in card.search(_RUNS):
        part = claims.part_of(hit.section)
        if id(part) not in spread and (part is not None or not spread):
            yield Violation(hit.line, f"“{hit.match[0]}”, without their spread")


@rule(
    "C413",
    "info",
    "Measured on a pre-release",
    why="Pre-releases are not installed unless asked for, and change before the release.",
    fix="Measure again on the release.",
)
def pre_release(card: Card) -> Iterator[Violation]:
    """Report engine versions that are release candidates or development builds."""
    seen = set()
    built = r"(?P<version>\d+\.\d+\.\d+(?:rc\d+)?\.dev\d+\+g[0-9a-f]{7,})"
    for hit in card.search(rf"(?P<engine>{_ENGINE})[^\n]{{0,120}}?{built}"):
        yield Violation(hit.line, f"{hit.match['engine']} {hit.match['version']} is a development build")
        return
    for hit in card.search(rf"(?P<engine>{_ENGINE})[:=]?{_RELEASE}"):
        name = f"{hit.match['engine']} {hit.match['version']}"
        if re.search(r"\d(?:\.?-?)(?:rc|a|b|alpha|beta|dev)\d*", hit.match["version"]) and name not in seen:
            seen.add(name)
            yield Violation(hit.line, f"{name} is a pre-release")


@rule(
    "C414",
    "info",
    "Requirement is open at the top",
    why="“CUDA 12.0+” includes versions nobody has tried, and no engine release supports all of them.",
    fix="Name the versions that were used.",
)
def open_requirement(card: Card) -> Iterator[Violation]:
    """Report lower bounds such as ``PyTorch 2.0+``."""
    hits = card.search(r"\b(?:CUDA|PyTorch|torch|Python|Transformers|vLLM|SGLang) ?(?:>= ?)?v?\d+(?:\.\d+)*\+(?!\w)")
    if hits:
        named = ", ".join(hit.match[0] for hit in hits)
        yield Violation(hits[0].line, f"{named}: the versions that were used are not named")


@rule(
    "C415",
    "info",
    "A table covers only one of the temperatures measured",
    why="The results at the other temperature exist, and some readers need exactly those.",
    fix="Print the table for every temperature.",
)
def one_temperature(card: Card) -> Iterator[Violation]:
    """Report tables of acceptance lengths at one temperature if the card has results at others."""
    tables = {x.table.line: x.table for x in claims.acceptance_lengths(card) if x.table is not None}
    named = {line: claims.temperatures_of(table) for line, table in tables.items()}
    around = (claims.temperatures(claims.text_around(table)) for table in tables.values())
    everywhere = set().union(*named.values(), *around)
    for line, own in named.items():
        rest = everywhere - own
        if len(own) == 1 and rest:
            others = ", ".join(f"{t:g}" for t in sorted(rest))
            yield Violation(line, f"temperature {next(iter(own)):g} only; the card has results at {others} too")


@rule(
    "C416",
    "warning",
    "Categories without an overall value",
    why="Readers average the rows themselves, which gives every category the same weight; the pooled value differs.",
    fix="Give τ over all prompts, and say that it is pooled over rounds.",
    heads=True,
    words=True,
)
def missing_overall(card: Card) -> Iterator[Violation]:
    """Report acceptance by MT-Bench category if the card has no overall acceptance length."""
    lengths = claims.acceptance_lengths(card)
    labels = {re.sub(r"[\W_]+", "", x.label.lower()) for x in lengths}
    if (
        len(labels) >= 4
        and labels <= _CATEGORIES
        and not card.says(r"\b(?:overall|on average|average|pooled|mean) (?:acceptance|τ|tau)")
    ):
        yield Violation(lengths[0].place, "τ is given by category only")


_RATE_LOGGED = re.compile(r"accept\w*[ _]rate\W{1,4}\d[^\n]{0,20}\baccepted\s?/", re.I)
"""How llama.cpp logs the share of the drafted tokens."""


@rule(
    "C417",
    "warning",
    "No acceptance length",
    why="Readers choose a draft head by its τ on an engine; without it nobody knows what the head is worth.",
    fix="Measure it: eagle3hub validate.",
    heads=True,
    words=True,
)
def missing_length(card: Card) -> Iterator[Violation]:
    """Report a head's card without any acceptance length; if it shows results that are not read, C418 does."""
    if claims.acceptance_lengths(card) or card.says(_LENGTH_SAID) or claims.unread_results(card):
        return
    if claims.unread_acceptance(card):
        return
    if claims.most_drafted(card) and next(claims.code_matches(card, _RATE_LOGGED), None):
        return  # τ = 1 + K times the rate
    known = claims.draft_numbers_of_rows(card) or (claims.most_drafted(card) and claims.defines_rate(card))
    if known and any(claims.columns_of_kind(card, "rate")):
        return  # τ = 1 + K times the rate
    titles = [s.path[-1] for s in card.sections if s.path]
    line = next(
        (h.line for h in titles if re.search(r"performance|evaluation|results|benchmark|性能|评测", h.text, re.I)), 1
    )
    admitted = card.says(
        r"(?:nothing|not|never)\b[^.]{0,40}\bmeasured|\bwill be (?:added|released|published)|coming soon"
        r"|\bsee\b[^\n]{0,160}\bfor\b[^\n]{0,80}\b(?:acceptance|benchmarks?)\b"
    )
    yield Violation(line, "no acceptance length measured on an engine is given", severity="info" if admitted else None)


@rule(
    "C418",
    "info",
    "Results are there and were not read",
    why="A picture, or a table whose heads do not say what the numbers are, cannot be checked here, and a reader may "
    "not understand it either. Nothing is known of these results: neither that they are right, nor that "
    "something is missing.",
    fix="Say in each column's head what it holds, and print in a table what a picture shows.",
    heads=True,
)
def results_not_read(card: Card) -> Iterator[Violation]:
    """Report results that are shown in a form that is not read, on a card whose acceptance length was not found."""
    unread = claims.unread_results(card) or claims.unread_acceptance(card)
    if unread is not None and not claims.acceptance_lengths(card):
        line, what = unread
        yield Violation(line, f"{what} was not read")
