"""C5: rules on the commands and examples that serve the head."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from eagle3hub.engines.specs import default_version
from eagle3hub.lint import claims
from eagle3hub.lint.model import Card, Violation, rule

# C510: flags, variables, keys and names in examples, checked by `eagle3hub.engines.check`
#
# Only this rule uses the engines' data on flags and names. It is registered only if that module exists.


_CHECKS = "eagle3hub.engines.check"
_SAID = {
    "trtllm-final-state": r"(?:final|last)\b[^.]{0,40}\bhidden state|hidden state[^.]{0,60}\b(?:final|last)\b",
    "sglang-jax-version": r"sglang-jax 0\.[1-9]",
}
"""Findings that a card settles by saying so, each with the pattern of such a sentence."""


def engine_names(card: Card) -> Iterator[Violation]:
    """Report what `check_markdown` finds in the examples of the card.

    The metadata block is blanked out, so that line numbers stay those of the file.
    """
    above = "\n" * (card.text.count("\n") - card.body.count("\n"))
    outcome: Any = import_module(_CHECKS).check_markdown(above + card.body)
    for f in outcome.findings:
        said = f.code in _SAID and card.says(_SAID[f.code])
        yield Violation(
            f.line, f"{f.what.rstrip('.')} ({f.engine}: {f.code})", f.instead, "info" if said else f.severity
        )


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
    r"\btree[- ](?:based|attention|structured|style|decoding|verification)|\b(?:draft|token|dynamic|candidate) tree"
)
_WIDE = re.compile(
    r"eagle[_-]topk\"?[ =:]+(?:[2-9]|\d\d)|eagle_choices|dynamic_tree|max_non_leaves|speculative_token_tree"
)
_CHAIN = re.compile(r"eagle[_-]topk\"?[ =:]+1\b|max_draft_len\s*[:=]")
_LOCAL = re.compile(
    r"(?:--(?:speculative-draft-)?model(?:-path)?[ =]|\bserve |\bmodel(?:_path)?\"?\s*[=:]\s*[\"']"
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
    measured = claims.measured_ks(card)
    for k, line in claims.example_ks(card):
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
            yield Violation(hit.line, f"“{hit.match[0]}”, but the example (line {chains[0][0]}) drafts a chain")


@dataclass(frozen=True, slots=True)
class _Outdated:
    """A remark that is no longer true: the pattern of its words, and what is true now."""

    pattern: str
    now: str


_OUTDATED = (
    _Outdated(
        r"vllm[^.]{0,60}\b(?:samples?|drafts?) (?:draft )?tokens greedily|vllm#20459|vllm/(?:pull|issues)/20459",
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


@rule(
    "C505",
    "warning",
    "The example runs code from the repository",
    why="trust_remote_code executes whatever the repository holds at that moment. No EAGLE-3 head needs it; if the "
    "target does, the card has to say so.",
    fix="Leave it out, or say which repository needs it and pin its revision.",
)
def remote_code(card: Card) -> Iterator[Violation]:
    """Report the flag in commands and the argument in Python."""
    pattern = re.compile(r"--trust[-_]remote[-_]code\b|trust_remote_code\"?\s*[=:]\s*[Tt]rue")
    for line, m in claims.code_matches(card, pattern):
        yield Violation(line, f"the example sets {m[0]}")


@rule(
    "C506",
    "info",
    "The example cannot be run as it is",
    why="With the Hub's names an example runs anywhere; with somebody's paths or placeholders it runs nowhere.",
    fix="Write owner/name.",
)
def local_paths(card: Card) -> Iterator[Violation]:
    """Report absolute paths and placeholders in the place of a model's name."""
    seen = set()
    for line, m in claims.code_matches(card, _LOCAL):
        if m["path"] not in seen:
            seen.add(m["path"])
            yield Violation(line, f"{m['path']} is not a name on the Hub")
