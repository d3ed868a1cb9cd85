"""C5: rules on the commands and examples that serve the head."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

from eagle3hub.engines.check.commands import parse_flags
from eagle3hub.engines.check.finding import RecipeFinding
from eagle3hub.engines.check.snippets import Extracted, extract_snippets
from eagle3hub.engines.specs import default_version, name_facts
from eagle3hub.errors import Severity
from eagle3hub.head.aux_defaults import AUX_CAPTURE
from eagle3hub.lint import claims
from eagle3hub.lint.model import Card, Code, Violation, rule
from eagle3hub.system.resources import read_toml
from eagle3hub.system.typed import build

# C510: flags, variables, keys and names in examples, checked by `eagle3hub.engines.check`
#
# Only this rule uses the engines' data on flags and names. It is registered only if that module exists.


_CHECKS = "eagle3hub.engines.check"
_SAID = {
    "trtllm-final-state": r"(?:final|last)\b[^.]{0,40}\bhidden state|hidden state[^.]{0,60}\b(?:final|last)\b"
    r"|use_aux_hidden_state\W{1,6}(?:(?:is|set to|of) )?\W?false|\b(?:no|without(?: an?)?) [`\"']?(?:fc\b|aux)"
    r"|\b(?:one|a single|the last|the final)(?:, \w+)? (?:hidden )?states? (?:alone|only)|\bone (?:hidden )?state\b",
    "sglang-jax-version": r"sglang-jax 0\.[1-9]",
}
"""Findings that a card settles by saying so, each with the pattern of such a sentence."""


def snippets(card: Card) -> Extracted:
    """Return the commands, Python and YAML of a card. The lines are those of the file: the metadata is blanked out."""
    if "snippets" not in card.cache:
        above = "\n" * (card.text.count("\n") - card.body.count("\n"))
        text = above + card.body
        if card.repeats is not None:
            left_out = card.repeats.lines
            text = "\n".join("" if at in left_out else line for at, line in enumerate(text.split("\n"), 1))
        card.cache["snippets"] = extract_snippets(text)
    found: Extracted = card.cache["snippets"]
    return found


def engine_names(card: Card) -> Iterator[Violation]:
    """Report what `check_snippets` finds in the examples of the card."""
    outcome: Any = import_module(_CHECKS).check_snippets(snippets(card))
    builds: dict[tuple[str, str], str] = {}
    for f in outcome.findings:
        if (f.engine, f.code) not in builds:
            builds[f.engine, f.code] = _other_build(card, f.engine, f.code)
        said = f.code in _SAID and card.says(_SAID[f.code])
        what = f"{f.what.rstrip('.')} ({f.engine}: {f.code})"
        if build := builds[f.engine, f.code]:
            what, said = f"{what}; the card speaks of {build}, whose names are not known", True
        severity: Severity = "info" if said else f.severity
        if severity == "error" and not _is_sure(card, f):
            severity = "warning"
        yield Violation(f.line, what, f.instead, severity)


_SYNTAX = re.compile(r"^(?:shell|json|yaml|python)-|^vllm-config-json$")
_GUESSED = {"flag-unknown", "python-keyword", "vllm-config-key", "yaml-unknown", "flag-stray"}


def _is_sure(card: Card, found: RecipeFinding) -> bool:
    """Return whether a fault is one on any machine.

    A name that resembles none may be of a fork or of a build that the card does not mention, and a page that was
    copied, or that breaks off, has lost line breaks and backslashes.
    """
    if _SYNTAX.search(found.code) and found.code not in _GUESSED:
        return not card.is_page_text and card.cut is None and not _is_listed(card, found.line)
    if found.code == "yaml-unknown" and found.engine == "sglang" and not _SGLANG_CONFIG.search(card.body):
        return False  # a file of another program has keys of its own
    if found.engine == "sglang_jax" and found.code in _GUESSED:
        return False  # its documentation is of later builds
    return found.code not in _GUESSED or found.instead is not None


_SGLANG_CONFIG = re.compile(r"\bsglang\b[^`]{0,400}?--config\b")


def _is_listed(card: Card, at: int) -> bool:
    """Return whether a line is one of a list of flags, which nobody types as it stands."""
    lines = card.text.split("\n")[max(0, at - 2) : at + 1]
    return len(lines) == 3 and all(
        line.lstrip().startswith("--") and not line.rstrip().endswith("\\") for line in lines
    )


_ORIGINS = {"vllm": {"vllm-project"}, "sglang": {"sgl-project"}}
_CLONED = re.compile(r"github\.com[/:](?P<owner>[\w.-]+)/(?P<name>vllm|sglang)(?:\.git)?(?![\w-])", re.I)
_PLUGGED_IN = re.compile(
    r"\bpip3? install[^\n|;&]*?\s(?:[\w./-]*/)?(?P<name>vllm|sglang)[-_](?!project|router)\w", re.I
)
_PULLED = re.compile(
    r"(?P<name>vllm|sglang)(?:-project)?(?:/\w+)?/pull/\d+|\b(?P<named>vllm|sglang) (?:PR|pull request)\b", re.I
)


_A_PULL = "a pull request"


def _builds(card: Card) -> dict[str, str]:
    """Return the build of each engine that a card takes, where its addresses and installs name no release."""
    if "builds" not in card.cache:
        found: dict[str, str] = {}
        for pattern, what in ((_PULLED, _A_PULL), (_PLUGGED_IN, "a plug-in"), (_CLONED, "a fork")):
            for m in pattern.finditer(card.body):
                name = (m["name"] or m.groupdict().get("named") or "").lower()
                if pattern is not _CLONED or m["owner"].lower() not in _ORIGINS[name]:
                    found[name] = what
        card.cache["builds"] = found
    builds: dict[str, str] = card.cache["builds"]
    return builds


_NEWER = {"flag-unknown", "flag-value", "vllm-config-key", "vllm-config-value", "python-keyword", "env-unknown"}
"""What a build that is newer than every release may take."""
_GONE = {"flag-removed", "env-no-effect"}
"""What a build that is older than the current release may still take."""
_PINNED = ("vllm", "sglang")
"""The engines that an index of packages has by the name of their command."""
_CHANGED = _NEWER | {"flag-removed", "python-name", "yaml-unknown"}


def _other_build(card: Card, engine: str, code: str) -> str:
    """Return the build of an engine that a card installs or needs and that may take other names, or an empty text."""
    own = _builds(card).get(engine, "")
    if own and code in (_NEWER | _GONE if own == _A_PULL else _CHANGED):
        return own
    name = {"trtllm": "TensorRT-LLM", "sglang_jax": "sglang-jax", "vllm": "vLLM", "sglang": "SGLang"}.get(
        engine, engine
    )
    built = r"(?:fork|plug-?in|patch(?:ed|es)|custom (?:build|version)|own build)"
    forked = rf"{built}\b[^.\n]{{0,40}}?\b{re.escape(name)}(?![\w-])"
    after = rf"(?<![\w-]){re.escape(name)}\b[^.\n]{{0,20}}?(?:plug-?in|fork)\b"
    if code in _CHANGED and card.says(rf"{forked}|{after}"):
        return "a fork or plug-in"
    source = re.compile(rf"git\+https?://\S*/{re.escape(name)}(?:\.git)?\b", re.I)
    if code in _NEWER | _GONE and next(claims.code_matches(card, source), None) is not None:
        return "a build from its sources"
    number = r"v?(\d+\.\d+(?:\.\w+)*)"
    pinned = re.compile(
        rf"\b{re.escape(name)}(?:-openai)?(?:\[\w+\])?(?:==|:){number}"
        rf"|\bclone (?:-b|--branch) {number} \S+/{re.escape(name)}\b",
        re.I,
    )
    versions = {m[1] or m[2] for _, m in claims.code_matches(card, pinned)}
    if code in _NEWER | _GONE and len(versions) == 1 and engine in _PINNED:
        (version,) = versions
        return "" if version == default_version(engine) else f"version {version}"
    return ""


if find_spec(_CHECKS) is not None:
    rule(
        "C510",
        "error",
        "The engine does not take this as written",
        why="Flags are renamed and removed, and names that never existed are copied from card to card; the example "
        "fails, or starts and does something else.",
        fix="Write what the engine's current version takes.",
    )(engine_names)


# C5: examples compared with what was measured, and with what engines have changed since


_TREE = (
    r"\btree[- ](?:based|attention|structured|style|decoding|drafting|verification)"
    r"|\b(?:draft|token|dynamic|candidate|speculation|speculative) tree"
    r"|\btrees? of (?:\w+ )?(?:candidates?|drafts?|drafted|tokens|continuations|guesses|proposals)\b"
    r"|\b(?:expand|build|draft|grow|propos|verif|check)\w* (?:an?|the|whole|full) (?:\w+ )?tree\b"
    r"|\b(?:verif|check|scor)\w* (?:all |the |its |several |both |multiple )+branches\b"
    r"|树(?:状|形|型)(?:草稿|注意力|解码|验证|结构)|(?:候选|草稿)树"
)
_WIDE = re.compile(
    r"eagle[_-]topk\"?[ =:]+(?:[2-9]|\d\d)|eagle_choices|dynamic_tree|max_non_leaves|speculative_token_tree"
)
_CHAIN = re.compile(r"eagle[_-]topk\"?[ =:]+1\b|max_draft_len\s*[:=]|num_speculative_tokens[\"']?\s*[:=]\s*\d")
_NO_TREE = r"\b(?:no|not|without|instead of|rather than|unlike|disabled?|unsupported|eagle-?2|medusa)\b"
_LOCAL = re.compile(
    r"(?:--(?:speculative-draft-)?model(?:-path)?[ =]|\bserve |\bmodel(?:_path)?\"?\s*[=:]\s*[\"']?"
    r"|speculative_model(?:_dir)?:\s*)(?P<path>/[\w./-]+|<[^>\n]+>)"
)


@rule(
    "C501",
    "warning",
    "The example drafts another K than was measured",
    why="Whoever copies the example gets another acceptance length and another speed than the card promises.",
    fix="Use the measured K in the example, or measure the example's.",
)
def other_k(card: Card) -> Iterator[Violation]:
    """Report an example's K that no measurement on the card has."""
    series = claims.rate_series(card)
    measured = claims.measured_ks(card) if claims.acceptance_lengths(card) or series else {}
    longest = max((len(s.rates) for s in series), default=0)
    for k, line in claims.example_ks(card):
        if longest and not measured and k > longest:
            yield Violation(line, f"the example drafts K = {k}; rates are given for {longest} positions")
        if measured and k not in measured:
            shown = ", ".join(f"{known} (line {at})" for known, at in sorted(measured.items()))
            yield Violation(line, f"the example drafts K = {k}; measured was K = {shown}")


@rule(
    "C502",
    "info",
    "The example samples at another temperature than was measured",
    why="Acceptance depends on the temperature; the example's is not on the card.",
    fix="Use a measured temperature in the example, or measure the example's.",
)
def other_temperature(card: Card) -> Iterator[Violation]:
    """Report an example's temperature that no text outside the examples names."""
    measured = set().union(*(claims.temperatures(h.match[0]) for h in card.search(claims.MEASURED_T.pattern)), set())
    for line, m in claims.code_matches(card, re.compile(r"\btemperature[\"']?\s*[=:]\s*(\d+(?:\.\d+)?)")):
        if measured and float(m[1]) not in measured:
            shown = ", ".join(f"{t:g}" for t in sorted(measured))
            yield Violation(line, f"the example samples at temperature {float(m[1]):g}; measured was {shown}")


@rule(
    "C503",
    "warning",
    "A tree is described, the example drafts a chain",
    why="Trees verify several candidates per position and have another acceptance length and another cost.",
    fix="Describe what the example does: a chain of K tokens.",
)
def described_tree(card: Card) -> Iterator[Violation]:
    """Report words about trees if all examples draft one token per position."""
    chains = list(claims.code_matches(card, _CHAIN))
    if chains and not any(True for _ in claims.code_matches(card, _WIDE)):
        for hit in card.search(_TREE, outside=r"\b(?:citation|reference|bibliograph)"):
            if re.search(_NO_TREE, hit.match.string[max(0, hit.match.start() - 60) : hit.match.end() + 40], re.I):
                continue
            if re.search(r"\bchain\b|链式", hit.match.string[max(0, hit.match.start() - 200) : hit.match.end() + 200]):
                continue  # the two are told apart
            yield Violation(hit.line, f"“{hit.match[0]}”, but the example (line {chains[0][0]}) drafts a chain")


_NO_REMOTE_CODE = re.compile(r"/(?:Llama|Meta-Llama|Qwen2|Qwen3|gpt-oss|gemma|Mistral|granite)", re.I)
"""Targets that the engines load with code of their own."""


_SERVED = re.compile(r"(?:\bserve|--model(?:-path)?)[ =]+(\S+)")


@dataclass(frozen=True, slots=True)
class _Outdated:
    """A remark that is no longer true: the pattern of its words, and what is true now."""

    pattern: str
    now: str


_OUTDATED = (
    _Outdated(
        r"vllm[^.]{0,60}\b(?:samples?|drafts?) (?:draft )?tokens greedily|vllm#20459|vllm/(?:pull|issues)/20459"
        r"|\bvllm (?:always |only |still |so far |currently ){0,2}"
        r"(?:takes|uses|picks|drafts|proposes|supports|samples) (?:only |just |by )?(?:the )?"
        r"(?:(?:draft\w*|head)(?:'s|’s)? )?(?:arg-?max|greed\w+ draft|top-1|most likely)"
        r"|\b(?:probabilistic|stochastic|random|non-greedy|temperature) (?:draft\w* )?"
        r"(?:sampling|drafting|drafts|tokens)"
        r"[^.;\n]{0,40}\b(?:not (?:yet )?(?:possible|supported|available|implemented)|unsupported|impossible)"
        r"[^.;\n]{0,12}? (?:in|by|with) vllm\b"
        r"|\bvllm (?:cannot|can't|can not|does not|doesn't)(?: yet)? (?:sample|draw) (?:the )?(?:draft|from the draft)"
        r"|vllm ?(?:总是|只能?|仅)[^。；\n]{0,10}(?:贪[心婪]|arg-?max)[^。；\n]{0,8}(?:草稿|起草)",
        f'vLLM {default_version("vllm")} has speculative_config["draft_sample_method"] = "probabilistic"; '
        "greedy is its default",
    ),
)


@rule(
    "C504",
    "warning",
    "The remark is outdated",
    why="A workaround or a warning that outlives its cause sends readers the wrong way.",
    fix="Say what holds in the engine version the card names.",
)
def outdated_remark(card: Card) -> Iterator[Violation]:
    """Report known remarks that engine releases have made false, unless the card corrects them itself."""
    for remark in _OUTDATED:
        hits = card.search(remark.pattern)
        if hits and "draft_sample_method" not in card.text:
            yield Violation(hits[0].line, f"“{hits[0].match[0]}”: {remark.now}")
    for engine in _PINNED:
        for fact in name_facts(engine):
            for name in fact.names if fact.code == "env-no-effect" else ():
                for hit in card.search(rf"(?<!\w){name}(?!\w)", tables=False):
                    told = not _SAID_GONE.search(claims.sentence_of(hit.match))
                    if told and not _other_build(card, engine, fact.code):
                        yield Violation(hit.line, f"{name} {fact.says}")


_SAID_GONE = re.compile(
    r"\b(?:no longer|not (?:needed|necessary|read|used|any ?more)|gone|removed?|ignored?|no effect|unnecessary"
    r"|obsolete|deprecated|older|before|until|up to|used to|formerly|was|were|had|do(?:es)? nothing|no need|needless"
    r"|useless|superfluous|delete[ds]?|drop(?:ped|s)?|leave \w+ out|unset|dead|never|without effect"
    r"|(?:do|does|must|need|should) not|don['’]t|doesn['’]t|stop(?:ped)?)\b|不再|移除|无效|旧版|删除|不用|无需|废弃",
    re.I,
)
"""What a sentence says of a variable that it does not tell the reader to set."""


@rule(
    "C505",
    "warning",
    "The example runs code from the repository",
    why="trust_remote_code executes whatever the repository holds at that moment. No EAGLE-3 head needs it; if the "
    "target does, the card has to say so.",
    fix="Leave it out, or say which repository needs it and pin its revision.",
)
def remote_code(card: Card) -> Iterator[Violation]:
    """Report the flag in commands and the argument in Python; an info if the target may need it."""
    needless = any(_NO_REMOTE_CODE.search(name) for name in card.listed("base_model"))
    severity: Severity | None = None if needless else "info"
    pattern = re.compile(r"--trust[-_]remote[-_]code\b|trust_remote_code\"?\s*[=:]\s*[Tt]rue")
    served: dict[int, bool] = {}
    for line, m in claims.code_matches(card, pattern):
        if id(m.string) not in served:
            served[id(m.string)] = any(_NO_REMOTE_CODE.search(t) for t in _SERVED.findall(m.string))
        of_target = m[0].startswith("--") and served[id(m.string)]
        yield Violation(line, f"the example sets {m[0]}", severity=None if of_target else severity)


@rule(
    "C506",
    "info",
    "The example cannot be run as it is",
    why="With the Hub's names an example runs anywhere; with somebody's paths or placeholders it runs nowhere.",
    fix="Write owner/name.",
)
def local_paths(card: Card) -> Iterator[Violation]:
    """Report absolute paths and placeholders in the place of a model's name, and commands that break off."""
    seen = set()
    for block in card.code:
        if block.language in _SHELLS:
            yield from _broken_off(block)
    for line, m in claims.code_matches(card, _LOCAL):
        if m["path"] not in seen:
            seen.add(m["path"])
            yield Violation(line, f"{m['path']} is not a name on the Hub")


_SHELLS = {"bash", "sh", "shell", "zsh", "console"}


def _broken_off(block: Code) -> Iterator[Violation]:
    """Yield the lines of a command that miss their backslash, and the backslash that nothing follows."""
    lines = block.text.split("\n")
    for i, (line, after) in enumerate(pairwise([*lines, ""])):
        goes_on = i > 0 and lines[i - 1].rstrip().endswith("\\")
        if line.rstrip().endswith("\\") and not after.strip() and not any(rest.strip() for rest in lines[i + 1 :]):
            yield Violation(block.line + i, "nothing follows the backslash at the end of the command")
        elif goes_on and line.strip() and not line.rstrip().endswith("\\") and re.match(r"\s+--\w", after):
            yield Violation(block.line + i, "the command ends here, for the line has no backslash")


# C507: aux layers against the depth of the target


_IDS = (
    r"(?:layers?|layer[_ ]ids?|to_capture"
    r"|indices)\b(?:\s?[({\[][^(){}\[\]\n]{0,40}[nNL]\b[^(){}\[\]\n]{0,30}[)}\]]\s?\|?)?[^.\n\[{()\d]{0,40}(?:[\[{(]\s*(?P<a>\d{1,3}(?:\s*,\s*\d{1,3})+)\s*[\]})]"
    r"|(?P<b>\d{1,3}(?:\s*/\s*\d{1,3})+)|(?P<c>\d{1,3}(?:, ?\d{1,3})*,? (?:and|&) \d{1,3}\b"
    r"|\d{1,3}(?:, ?\d{1,3}){2,}\b|\d{1,3}(?:、\d{1,3})+))"
)
_DEPTH = (
    r"(?P<d>\d{1,3})[ -](?:decoder |transformer |hidden )?layers?\b|num_hidden_layers\W{1,4}(?P<e>\d{1,3})"
    r"|\b(?:target|verifier|base)(?: model)?(?:'s)? (?:decoder |hidden )?layers?"
    r"(?: \(?(?-i:[nNL])\)?)?\W{1,4}(?P<f>\d{1,3})\b"
    r"(?![,、/.]| and)"
    r"|(?-i:\bL)\s*=\s*(?P<g>\d{1,3})\b"
)
_FORMULA = re.compile(
    r"(?:\blayers |[{\[(])\s*(\d+\s*,\s*(?:[LNn]\s*(?://|/)\s*2[^,]{0,6}|[LNn][^,]{0,6}|\d+)"
    r"(?:,\s*[LNn][^,}\])]{0,6}?)*)\s*(?:[}\]),.;:]|\bof\b|$)"
)
_TERM = re.compile(r"(?P<half>[LNn]\s*//?\s*2)|(?P<all>[LNn])|(?P<n>\d+)")
_CAPTURE = re.compile(rf"{AUX_CAPTURE}[\"']?\s*[:=]\s*\[\s*(\d+(?:\s*,\s*\d+)+)\s*\]")


@rule(
    "C507",
    "error",
    "Aux layers do not fit the target",
    why="The head reads the states of these layers. A number above the target's depth, or one that does not follow "
    "from the formula beside it, is of another target or counts otherwise; a head fed with other layers drafts badly, "
    "without an error.",
    fix="Copy the layers of the run that trained the head, and say how they are counted.",
)
def aux_layers(card: Card) -> Iterator[Violation]:
    """Report layers above the target's depth, or other than the formula beside them gives for that depth.

    It is an error where the depth stands in the same section. Under the key of TensorRT-LLM, which counts the layers
    whose output is taken from 0, also the usual three layers as vLLM counts them, as a warning.
    """
    depths: dict[int, set[int]] = {}
    for hit in card.search(_DEPTH):
        depth = int(next(hit.match[name] for name in "defg" if hit.match[name]))
        around = hit.match.string[max(0, hit.match.start() - 40) : hit.match.end() + 20]
        of_draft = re.search(r"draft|head|speculator|first|last", around, re.I)
        named = any(hit.match[name] for name in "efg")
        if depth >= _SHALLOWEST and not of_draft and (named or _OF_TARGET.search(hit.match.string)):
            depths.setdefault(id(hit.section), set()).add(depth)
    everywhere = set().union(*depths.values()) or _known_depths(card)
    for hit in card.search(_IDS):
        known = depths.get(id(hit.section), everywhere)
        severity: Severity | None = None if id(hit.section) in depths else "warning"
        if len(known) != 1 or re.search(r"hidden size|heads|dims?\b", hit.match[0], re.I):
            continue
        (depth,) = known
        if hit.match["c"] and not _AUX_WORDS.search(
            hit.match.string[max(0, hit.match.start() - 120) : hit.match.end()]
        ):
            continue
        ids = [int(n) for n in re.findall(r"\d+", hit.match["a"] or hit.match["b"] or hit.match["c"])]
        text = hit.match.string[hit.match.end() : hit.match.end() + 200]
        before = hit.match.string[max(0, hit.match.start() - 200) : hit.match.start()]
        right = next((r for said in (hit.match[0], text, before) if (r := _of_formula(said, depth))), None)
        if max(ids) > depth:
            yield Violation(hit.line, f"layer {max(ids)} of a target that has {depth}", severity=severity)
        elif right and right != ids:
            message = f"the formula gives {right} for {depth} layers, not {ids}"
            yield Violation(hit.line, message, severity=severity)
    if len(everywhere) == 1:
        (depth,) = everywhere
        for line, m in claims.code_matches(card, _CAPTURE):
            ids = [int(n) for n in re.findall(r"\d+", m[1])]
            if max(ids) >= depth:
                message = f"{AUX_CAPTURE} {ids} of a target that has {depth} layers, 0 … {depth - 1}"
                yield Violation(line, message, severity=None if depths else "warning")
            elif ids == [2, depth // 2, depth - 3]:
                message = f"{AUX_CAPTURE} {ids} counts as vLLM does; here {[i - 1 for i in ids]} are the same layers"
                yield Violation(line, message, severity="warning")


@dataclass(frozen=True, slots=True)
class _Depths:
    """The number of decoder layers of targets, by name, and the page that says so."""

    source: str
    layers: Mapping[str, int]


@cache
def _depths() -> Mapping[str, int]:
    path = Path(__file__).with_name("targets.toml")
    tables = [build(_Depths, table, path.name) for table in read_toml(path)["depths"]]
    return {name: depth for table in tables for name, depth in table.layers.items()}


_TUNED = re.compile(r"-(?:instruct|thinking|base|it|\d{4}|fp8|awq)\b.*$")


def _known_depths(card: Card) -> set[int]:
    """Return the depths of the targets in the metadata, if they are all known."""
    given = [name.rpartition("/")[2].lower().removeprefix("meta-") for name in card.listed("base_model")]
    found = [_depths().get(_TUNED.sub("", name)) for name in given]
    return set() if None in found else {depth for depth in found if depth is not None}


_AUX_WORDS = re.compile(r"\baux|hidden[- ]states?|feature|captur|fus(?:e|ion)|\btap|辅助|隐藏状态|特征", re.I)
_OF_TARGET = re.compile(r"target|verifier|base|\bhas\b|\S*\d[BM]\b|目标|基座", re.I)
_SHALLOWEST = 8
"""No target has fewer layers; drafts have."""


def _of_formula(text: str, depth: int) -> list[int] | None:
    """Return the layers that a formula such as ``{1, L//2-1, L-4}`` gives, or None if there is none."""
    m = _FORMULA.search(re.sub(r",? and ", ", ", text.replace("−", "-")))
    if m is None or not re.search("[LNn]", m[1]):
        return None
    out = []
    for part in m[1].split(","):
        term = _TERM.match(part.strip())
        if term is None:
            return None
        value = depth // 2 if term["half"] else depth if term["all"] else int(term["n"])
        rest = re.fullmatch(r"\s*(?:([+-])\s*(\d+))?", part.strip()[term.end() :])
        if rest is None:
            return None
        out.append(value + (int(rest[2]) * (1 if rest[1] == "+" else -1) if rest[2] else 0))
    return out


# C508 and C512: the examples' target and engine


@rule(
    "C508",
    "warning",
    "The example serves another target than base_model",
    why="A head works with the target it was trained for. The Hub links the metadata's, people copy the example's.",
    fix="Name the same target in both; list every target that the head serves under base_model.",
    heads=True,
)
def other_target(card: Card) -> Iterator[Violation]:
    """Report commands that draft for a model of the Hub which base_model does not name; its quantized forms are it.

    The same for the model that the text lists as the target.
    """
    listed = {hit.match["id"]: hit.line for hit in card.search(_TARGET_NAMED)}
    named = [name for name in card.listed("base_model") if "/" in name and not _OF_A_DRAFT.search(name)]
    found = snippets(card)
    seen: set[str] = set()
    for command in found.commands if named or listed else ():
        given = {name.replace("_", "-"): value for name, value in parse_flags(command.words).items()}
        by_file = command.engine == "trtllm" and any("speculative_config" in y.text for y in found.yaml)
        if not by_file and not any(name.startswith("--spec") for name in given):
            continue
        target = given.get("--model-path") or given.get("--model")
        if not target and command.words and not command.words[0].startswith("-"):
            target = command.words[0]
        if not target or not _HUB_ID.fullmatch(target) or target in seen:
            continue
        seen.add(target)
        yield from _other_than(command.where.line_of(target), target, named, listed)
    for snippet in found.python if named or listed else ():
        for m in _PYTHON_TARGET.finditer(snippet.text):
            target = m["id"]
            if target not in seen and _HUB_ID.fullmatch(target):
                seen.add(target)
                yield from _other_than(snippet.line_of(target), target, named, listed)


_PYTHON_TARGET = re.compile(
    r"\b(?:LLM|Engine|EngineArgs|AsyncEngineArgs)\(\s*(?:model|model_path)?\s*=?\s*[\"'](?P<id>[\w.-]+/[\w.-]+)[\"'][^()]{0,400}?\bspeculative_"
)


def _other_than(line: int, target: str, named: list[str], listed: dict[str, int]) -> Iterator[Violation]:
    """Yield the violation of a target that is served and that neither metadata nor text names."""
    if named and not any(_same(target, name) for name in named):
        yield Violation(line, f"{target} is served here; base_model is {', '.join(named)}")
    elif listed and not any(_same(target, name) for name in listed):
        shown = ", ".join(f"{name} (line {at})" for name, at in listed.items())
        yield Violation(line, f"{target} is served here; the text lists {shown} as the target")


_HUB_ID = re.compile(r"[A-Za-z0-9][\w-]*/[A-Za-z0-9][\w.-]*")
_OF_A_DRAFT = re.compile(r"/.*(?:eagle|draft|speculator|dflash|dspark|medusa)", re.I)
"""A base model that is itself a draft: this card is of another form of it."""
_TARGET_NAMED = (
    r"^\W*(?:verifier|target(?: model)?|base model)\W{1,6}"
    r"(?P<id>[A-Za-z0-9][\w-]{1,60}/[A-Za-z0-9][\w.-]{2,90}?)(?=[\s)`*,]|$)"
)


def _same(a: str, b: str) -> bool:
    """Return whether two ids are of one model, in whatever format and under whoever's name."""
    first, second = (
        {w for w in re.split(r"[-_./]+", name.rpartition("/")[2].lower()) if w and w not in claims.FORMATS}
        for name in (a, b)
    )
    return first <= second or second <= first


_IMPORTED = re.compile(r"^\s*(?:from|import) (vllm|sglang|tensorrt_llm)\b", re.M)
_SERVERS = {"vllm": r"\bvllm\b", "sglang": r"\bsglang\b", "trtllm": r"\b(?:trt|tensorrt)[- ]?llm\b"}


@rule(
    "C512",
    "info",
    "The examples start another engine than was measured",
    why="Engines draft and count differently: the promised acceptance length is the other engine's.",
    fix="Give a command for the engine that was measured, or measure on the one that is shown.",
    heads=True,
    words=True,
)
def other_engine(card: Card) -> Iterator[Violation]:
    """Report examples for engines alone that are not the one named beside the results."""
    sections = {id(x.section) for x in claims.acceptance_lengths(card)}
    beside = {
        name
        for name, pattern in _SERVERS.items()
        for hit in card.search(pattern)
        if id(hit.section) in sections or re.search(r"measured|evaluated|benchmarked", hit.match.string, re.I)
    }
    commands = snippets(card).commands
    used = {command.engine: command.where.start for command in reversed(commands) if command.engine in _SERVERS}
    for snippet in snippets(card).python:
        if m := _IMPORTED.search(snippet.text):
            engine = {"tensorrt_llm": "trtllm"}.get(m[1], m[1])
            used[engine] = min(snippet.start, used.get(engine, snippet.start))
    if beside and used and not beside & set(used):
        yield Violation(
            min(used.values()),
            f"measured with {', '.join(sorted(beside))}; the examples start {', '.join(sorted(map(str, used)))}",
        )
