"""C4: rules on numbers without the conditions of their measurement."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import combinations

from eagle3hub.engines.specs import default_version
from eagle3hub.lint import claims
from eagle3hub.lint.claims import TRAINING
from eagle3hub.lint.model import Card, Heading, Number, Section, Table, Violation, rule

UNIT = r"tok(?:en)?s?\s*(?:/|per)\s*s|\bTPS\b|req(?:uest)?s?\s*(?:/|per)\s*s|samples?\s*(?:/|per)\s*s"
_BATCH = (
    r"\b(?:one|two|four|eight|single|\d+)[- ]streams?\b|"
    r"\b(?:bs|batch(?:[ -]?size)?|concurren\w+)\W{0,3}(?:of |is )?\W?\d|\b\d+ concurrent|single (?:request|sequence)|"
    r"one (?:request|sequence|prompt) at a time|batch of one"
)
_COUNT = (
    r"\b\d[\d,]* (?:test |evaluation |benchmark )?(?:prompts|questions|problems|conversations|requests)\b|\bn\s*=\s*\d"
)
_COUNT_HEADER = re.compile(r"^n$|\bprompts\b|\bquestions\b|\bsamples\b|\brequests\b", re.I)
_TEMPERATURE = r"\btemperature\b|\bT\s*=\s*\d|\bgreed(?:y|ily)\b"
_OUTPUT = (
    r"(?:max\w*|output|new|generat\w+)[ _-](?:new[ _-]|output[ _-])?(?:tokens|length|len)\b"
    r"|[x×] ?\d+ tokens|\d+ tokens (?:a|an|per|each) ?(?:prompt|request|answer)?"
)
_SPREAD = r"±|\binterval|confidence|\b95 ?%|\bstd\b|standard (?:deviation|error)|\bCI\b|\bspread\b|min\W+max"
_ENGINE = (
    r"\b(?:vLLM|SGLang|TensorRT[- ]LLM|TRT[- ]LLM|sglang-jax|sgl-jax|eagle3hub reference|llama\.cpp|LMDeploy|MLX)\b"
)
_MEASURED = r"(?:\b(?:measured|evaluated|benchmarked|obtained)\b|\bengine\s*[:|])"
_RELEASE = r"\s*(?:\(?v(?:ersion)? ?)?\(?\s*(?P<version>\d+\.\d+(?:\.\w+)*(?:[-+.]?\w+)?)"
_STEP = r"(?:\w+ )?step"
_LENGTH_SAID = (
    rf"(?:accept\w* length|τ|tau|tokens per {_STEP})[^.]{{0,60}}\d\.\d|\d\.\d+\W{{0,4}}tokens per {_STEP}"
    r"|\baccepted (?:drafts |tokens )?per (?:round|step)"
)
_RUNS = r"\b(?:averaged?|means?) (?:over|of|across) (?:\w+ ){0,2}(?:runs|trials|repeats|seeds)"
_ESTIMATOR = (
    r"\bpooled|\bestimator|mean (?:of|over) (?:the )?(?:requests|prompts|rounds|steps)|per[- ]request|"
    r"ratio of (?:sums|totals)"
)
_NOISE = 0.05
_DATA_SETS = re.compile(
    r"bench|eval|gsm|math|mmstar|alpaca|cnn|mbpp|aime|gpqa|mmlu|\bqa\b|writing|roleplay|reasoning|coding|extraction|stem|"
    r"humanities|summar|translat|rag|chat|average|mean|overall|english|chinese",
    re.I,
)
_CATEGORIES = {"writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities"}


def _acceptance_line(card: Card) -> int | None:
    """Return the line of the first acceptance length or series of rates, or None if the card has neither."""
    lines = [x.table.line for x in claims.acceptance_lengths(card)] + [s.line for s in claims.rate_series(card)]
    return min(lines, default=None)


def _absent(card: Card, line: int, message: str, what: str) -> Violation:
    """Return the violation for a condition that the card does not give.

    Its severity is info if the card itself says that the condition is not known.
    """
    admitted = card.says(rf"\bnot (?:reported|stated|recorded|known): [^.\n]{{0,300}}\b(?:{what})\b")
    return Violation(line, message, severity="info" if admitted else None)


def _throughput_line(card: Card) -> int | None:
    lines = [table.line for _, table, _ in claims.columns_of_kind(card, "throughput")]
    lines += [hit.line for hit in card.search(rf"\d\s*(?:{UNIT})", tables=False)]
    return min(lines, default=None)


def _counted(card: Card) -> bool:
    """Return whether a sentence, a table or the metadata gives the number of prompts."""
    for _, table in card.tables:
        for i, name in enumerate(table.header):
            if _COUNT_HEADER.search(name) and table.column(i):
                return True
        if any(_COUNT_HEADER.search(row.label) and any(c.number for c in row.cells[1:]) for row in table.rows):
            return True
    return card.says(_COUNT, outside=TRAINING)


@rule(
    "C401",
    "error",
    "Throughput without a unit",
    why="224 tokens per second, requests per second or tokens per second per GPU are three different results.",
    fix="Write the unit in the header: tok/s, output tokens only, per request or for the whole server.",
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
)
def missing_hardware(card: Card) -> Iterator[Violation]:
    """Report throughput if the card names no accelerator outside its training section."""
    line = _throughput_line(card)
    if line and not card.says(claims.HARDWARE, outside=TRAINING):
        yield _absent(card, line, "no accelerator is named for the throughput", "hardware|accelerator")


@rule(
    "C403",
    "warning",
    "Throughput without batch size or concurrency",
    why="Speculation helps most at batch 1 and may slow a full server down.",
    fix="Give the number of concurrent requests.",
)
def missing_batch(card: Card) -> Iterator[Violation]:
    """Report throughput if the card names neither batch size nor concurrency."""
    line = _throughput_line(card)
    if line and not card.says(_BATCH, outside=TRAINING):
        yield _absent(
            card, line, "neither batch size nor concurrency is given for the throughput", "batch size|concurrency"
        )


@rule(
    "C404",
    "warning",
    "Throughput without its prompts",
    why="Prompt and output length decide how much of the time is decoding.",
    fix="Give the number of prompts and the output length (or max_new_tokens).",
)
def missing_prompts(card: Card) -> Iterator[Violation]:
    """Report throughput without the number of prompts or the output length.

    If the card gives acceptance too, C405 reports the missing number of prompts.
    """
    line = _throughput_line(card)
    if line is None:
        return
    missing = [] if _counted(card) or _acceptance_line(card) else ["the number of prompts"]
    missing += [] if card.says(_OUTPUT, outside=TRAINING) else ["the output length"]
    if missing:
        yield Violation(line, f"{' and '.join(missing)} of the throughput runs is not given")


@rule(
    "C405",
    "warning",
    "Acceptance without the number of prompts",
    why="Rounds of one prompt depend on each other, so the number of prompts decides how far a mean can be trusted.",
    fix="Give n, the number of prompts measured.",
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
)
def missing_temperature(card: Card) -> Iterator[Violation]:
    """Report acceptance if the text of the card names no temperature."""
    line = _acceptance_line(card)
    if line and not card.says(_TEMPERATURE, outside=TRAINING):
        yield Violation(line, "the sampling temperature is not given")


def _engine_hits(card: Card) -> bool:
    """Return whether the text says which engine measured, in a results section or in a sentence of its own."""
    results = [x.section for x in claims.acceptance_lengths(card)] + [s.section for s in claims.rate_series(card)]
    results += [section for section, _, _ in claims.columns_of_kind(card, "throughput")]
    near = [h for h in card.search(_ENGINE) if any(h.section is r or _above(h.section, r) for r in results)]
    return bool(near) or card.says(rf"{_MEASURED}[^.\n]{{0,80}}{_ENGINE}|{_ENGINE}[^.\n]{{0,60}}\bwas measured")


def _above(section: Section, other: Section) -> bool:
    """Return whether ``section`` has a heading below the title, and ``other`` belongs to that heading."""
    path: tuple[Heading, ...] = section.path
    return len(path) > 1 and other.path[: len(path)] == path


@rule(
    "C407",
    "warning",
    "Measurement without its engine",
    why="Engines count differently (prefill token, trees, per request or pooled) and run the head differently.",
    fix="Name engine and version beside the numbers.",
)
def missing_engine(card: Card) -> Iterator[Violation]:
    """Report results without an engine beside them."""
    line = min((x for x in (_acceptance_line(card), _throughput_line(card)) if x), default=None)
    if line and not _engine_hits(card):
        yield _absent(card, line, "no engine that the linter knows is named beside the measurement", "engine")


@rule(
    "C408",
    "warning",
    "Engine without a version",
    why="Flags are renamed and removed between releases; an engine without a version cannot be installed again.",
    fix=f"Name the version that was run, for example vLLM {default_version('vllm')}.",
)
def missing_version(card: Card) -> Iterator[Violation]:
    """Report engines if the card gives no version for any of them."""
    named = card.search(_ENGINE, tables=False)
    pinned = any(
        re.search(r"(?:vllm|sglang|tensorrt[-_]llm|sgl[-_]jax)\S*\s*[=~>]=\s*\d|:v\d+\.\d+", c.text) for c in card.code
    )
    if named and not pinned and not card.says(rf"{_ENGINE}{_RELEASE}"):
        engines = ", ".join({hit.match[0].lower(): hit.match[0] for hit in reversed(named)}.values())
        yield Violation(named[0].line, f"no version of {engines} is given")


@rule(
    "C409",
    "info",
    "Measurement without an interval",
    why="In a simulation with 80 prompts and τ = 2.15 the standard error was 0.04, and the choice of estimator alone "
    "moved τ by 0.08.",
    fix="Give a 95 % interval over prompts, and name the estimator (pooled, or mean of requests).",
)
def missing_interval(card: Card) -> Iterator[Violation]:
    """Report acceptance lengths if the card gives no sign of spread."""
    line = min((x.table.line for x in claims.acceptance_lengths(card)), default=None)
    if line and not card.says(_SPREAD) and not any(_comparisons(card)):
        yield Violation(line, "no interval is given")


@rule(
    "C419",
    "info",
    "Acceptance length without its estimator",
    why="The unweighted mean of requests sits above the value pooled over rounds, by more than the error of either.",
    fix="Say whether τ is pooled over all rounds or the mean of requests.",
)
def missing_estimator(card: Card) -> Iterator[Violation]:
    """Report acceptance lengths if the card does not say how they were averaged."""
    lengths = claims.acceptance_lengths(card)
    if lengths and not card.says(_ESTIMATOR):
        message = "the card does not say whether τ is pooled over rounds or a mean of requests"
        yield Violation(lengths[0].table.line, message)


@rule(
    "C410",
    "warning",
    "A difference is too small to mean anything without an interval",
    why="Runs of the same head differ by 2 to 4 % through prompts, estimator and engine alone.",
    fix="Give paired differences with an interval, or call the two equal.",
)
def difference_within_noise(card: Card) -> Iterator[Violation]:
    """Report compared methods that are less than 5 % apart if the card gives no sign of spread."""
    if card.says(_SPREAD):
        return
    for table, pairs in _comparisons(card):
        close = [(what, a, b) for what, a, b in pairs if abs(a.value - b.value) < _NOISE * min(a.value, b.value)]
        if close:
            shown = "; ".join(f"{what} {a.value:g} and {b.value:g}" for what, a, b in close[:4])
            more = f" and {len(close) - 4} more" if len(close) > 4 else ""
            yield Violation(table.line, f"less than {_NOISE:.0%} apart, without an interval: {shown}{more}")


ComparedPairs = list[tuple[str, Number, Number]]


def _comparisons(card: Card) -> Iterator[tuple[Table, ComparedPairs]]:
    """Yield the tables that compare methods: in columns if the rows are data sets, else in rows."""
    places: dict[int, tuple[Table, list[int]]] = {}
    for wanted in ("length", "throughput"):
        for _, table, i in claims.columns_of_kind(card, wanted):
            places.setdefault(table.line, (table, []))[1].append(i)
    for table, columns in places.values():
        found: ComparedPairs = []
        if all(_DATA_SETS.search(row.label) for row in table.rows):
            headers = [table.header[i] for i in columns]
            if len(columns) > 1 and not any(_DATA_SETS.search(h) or claims.temperatures(h) for h in headers):
                for row in table.rows:
                    cells = [n for i in columns if (n := row.cells[i].number) is not None]
                    found += [(row.label, a, b) for a, b in combinations(cells, 2)]
        elif len({row.label for row in table.rows}) == len(table.rows) > 1:
            for i in columns:
                found += [(table.header[i], a, b) for (_, a), (_, b) in combinations(table.column(i), 2)]
        if found:
            yield table, found


@rule(
    "C411",
    "warning",
    "Acceptance length without K",
    why="τ grows with the number of drafted tokens; 3.1 at K = 3 and at K = 7 are different heads.",
    fix="Give the number of drafted tokens beside every τ.",
)
def missing_draft_tokens(card: Card) -> Iterator[Violation]:
    """Report acceptance lengths if the text of the card names no K."""
    lengths = claims.acceptance_lengths(card)
    if lengths and not claims.measured_ks(card):
        examples = sorted({k for k, _ in claims.example_ks(card)})
        end = f"; only the example's is ({', '.join(map(str, examples))})" if examples else ""
        yield _absent(card, lengths[0].table.line, f"the K of the measurement is not given{end}", "K")


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
    if not card.says(_SPREAD):
        for hit in card.search(_RUNS):
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
    for hit in card.search(rf"(?P<engine>{_ENGINE}){_RELEASE}"):
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
    hits = card.search(r"\b(?:CUDA|PyTorch|torch|Python|Transformers|vLLM|SGLang) ?(?:>= ?)?v?\d+(?:\.\d+)*\+")
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
    tables = {x.table.line: (x.table, x.section) for x in claims.acceptance_lengths(card)}
    named = {line: claims.temperatures(claims.text_around(*pair)) for line, pair in tables.items()}
    for line, own in named.items():
        rest = set().union(*named.values()) - own
        if len(own) == 1 and rest:
            others = ", ".join(f"{t:g}" for t in sorted(rest))
            yield Violation(line, f"temperature {next(iter(own)):g} only; the card has results at {others} too")


@rule(
    "C416",
    "warning",
    "Categories without an overall value",
    why="Readers average the rows themselves, which gives every category the same weight; the pooled value differs.",
    fix="Give τ over all prompts, and say that it is pooled over rounds.",
)
def missing_overall(card: Card) -> Iterator[Violation]:
    """Report acceptance by MT-Bench category if the card has no overall acceptance length."""
    lengths = claims.acceptance_lengths(card)
    if any(x.row.label.strip().lower() not in _CATEGORIES for x in lengths):
        return
    if len({x.row.label.strip().lower() for x in lengths} & _CATEGORIES) >= 4 and not card.says(
        r"\b(?:overall|on average|average|pooled|mean) (?:acceptance|τ|tau)"
    ):
        yield Violation(lengths[0].table.line, "τ is given by category only")


@rule(
    "C417",
    "warning",
    "No acceptance length",
    why="Readers choose a draft head by its τ on an engine; without it nobody knows what the head is worth.",
    fix="Measure it: eagle3hub validate.",
)
def missing_length(card: Card) -> Iterator[Violation]:
    """Report the card of a draft head without any acceptance length, in a table or in a sentence."""
    if not card.says(r"\beagle|draft (?:head|model)|speculative decoding"):
        return
    if not claims.acceptance_lengths(card) and not card.says(_LENGTH_SAID):
        titles = [s.path[-1] for s in card.sections if s.path]
        line = next(
            (h.line for h in titles if re.search(r"performance|evaluation|results|benchmark", h.text, re.I)), 1
        )
        admitted = card.says(r"(?:nothing|not|never)\b[^.]{0,40}\bmeasured")
        yield Violation(
            line, "no acceptance length measured on an engine is given", severity="info" if admitted else None
        )
