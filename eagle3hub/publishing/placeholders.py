"""What stands in the place of a secret in an example, by rules that no secret made at random passes."""

from __future__ import annotations

import math
import re
from collections import Counter
from functools import lru_cache

_OF_EXAMPLES = """
    a abc abcd abcdef abcdefg access admin and api apikey auth basic bearer be bot changeit changeme client
    credential credentials default demo dev dummy empty enter example fake fixme foo bar baz fill from get given
    go goes here hf hidden huggingface id in insert is it jwt key keys like lm local localhost login masked me
    my name needed no none not null nil nope of ollama omitted openai optional or org os pass passphrase passwd
    password paste pat placeholder please private put pwd random real redacted removed replace replaced required
    root s sample sdk secret secrets see set sglang sha sk some something string str studio test tests testing
    text that the this tbd to todo token tokens true false type undefined unused unset use used user username
    value values vllm wandb with write xxx x xx xxxx you your yours yyy zzz bool boolean int integer number
    object any unknown hello world
"""
_WORDS = frozenset(_OF_EXAMPLES.split())
_NUMBERS = re.compile(r"(?:0*1?2?3?4?5?6?7?8?9?0?)")
_REFERENCE = re.compile(
    r"""
    \$[A-Z_][A-Z0-9_]* | \$[a-z_]+ | \$\{[^}]*\} | \$\([^)]*\) | %[A-Za-z_]+% | \{[^}]*\}+ | <[^>]*> | \[[^\]]*\]
    | \([^)]*\) | &lt;[^&]*&gt; | [*•.…·_#?\-]+ | !(?:vault|secret|env|ENV|Ref|Sub)\b.*
    | env(?:iron)?[.:\[(].* | (?:os|process|secrets|env|vars|config|settings|args|self)\.[a-zA-Z_.]+[\[(]?.*
    """,
    re.X | re.S,
)
_WITHIN = re.compile(r"\$\{|\{\{|\.\.\.|…|•••|\*\*\*\*|getenv|os\.environ|process\.env|<[a-z_ -]{2,40}>", re.I)
_EXAMPLE = re.compile(r"EXAMPLE|example|placeholder|PLACEHOLDER|changeme|CHANGEME|redacted|REDACTED")
_YOURS = re.compile(r"(?:^|[^a-z])(?:your|my)[_\-. ]|(?:^|[_\-. ])(?:goes|here)$|replace[_-]", re.I)
_REPEATED = re.compile(r"(.)\1{7}", re.S)
_WORD_PART = re.compile(
    r"[A-Z]?[a-z]{0,14}[0-9]{0,3}|[A-Z]{1,14}[0-9]{0,3}|[0-9]{1,4}|(?:[A-Z]?[a-z]{3,15}|[A-Z]{2,5})+"
)
_CLASSES = tuple(re.compile(kind) for kind in (r"[a-z]", r"[A-Z]", r"[0-9]", r"[^A-Za-z0-9]"))
_NEXT = {"9": "0", "z": "A", "Z": "0"}


@lru_cache(maxsize=4096)
def is_placeholder(value: str) -> bool:
    """Whether a value only stands for a secret: a reference, words, one character again and again, the alphabet.

    Each rule fails for nearly every random run of 16 characters or more (chance below 1 in 10^6), and for every
    password but those made of the words of examples alone.
    """
    value = value.strip().strip("\"'`")
    if not value or _REFERENCE.fullmatch(value) or _WITHIN.search(value) or _EXAMPLE.search(value):
        return True
    inside = [c for c in value if c.isalnum()]
    if len(set(inside)) <= 2 or _REPEATED.search(value) or _in_order(value):
        return True
    parts = [part for part in re.split(r"[^A-Za-z0-9]+", value) if part]
    if all(_is_word(part) for part in parts):
        return True
    return _YOURS.search(value) is not None and all(_WORD_PART.fullmatch(part) for part in parts)


@lru_cache(maxsize=4096)
def is_wordy(value: str) -> bool:
    """Whether a value reads as an identifier or words, such as ``max_new_tokens`` or ``draft-head-v2.1``."""
    parts = [part for part in re.split(r"[^A-Za-z0-9]+", value) if part]
    return all(_WORD_PART.fullmatch(part) for part in parts) and (len(parts) > 1 or _CLASSES[2].search(value) is None)


def classes(value: str) -> int:
    """How many of these it holds: small letters, capitals, digits, other characters."""
    return sum(kind.search(value) is not None for kind in _CLASSES)


def entropy(value: str) -> float:
    """Shannon's entropy of its characters, in bits per character."""
    return -sum(n / len(value) * math.log2(n / len(value)) for n in Counter(value).values())


def _is_word(part: str) -> bool:
    small = part.lower()
    letters = small.rstrip("0123456789")
    return (letters in _WORDS or not letters) and _NUMBERS.fullmatch(small[len(letters) :]) is not None


def _in_order(value: str) -> bool:
    """Whether three fifths of it run up the alphabet or the digits, five characters or more at a time."""
    covered, run = 0, 1
    for before, after in zip(value, [*value[1:], ""], strict=True):
        if after and (_NEXT.get(before) == after or (after.isalnum() and ord(after) == ord(before) + 1)):
            run += 1
            continue
        covered += run if run >= 5 else 0
        run = 1
    return covered >= 0.6 * len(value)
