"""Search bytes for secrets: with Kingfisher's rules, and with those of this package.

Kingfisher (MongoDB, Apache-2.0) carries the rule set of Betterleaks, the successor of gitleaks, and that of Google's
Veles: 488 rules (1.5), run by Vectorscan in time linear in the input, inside this process. Nothing is asked over the
network. What the package can do besides, asking a provider whether a secret works, is never called here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from eagle3hub.publishing.placeholders import is_placeholder
from eagle3hub.publishing.secret_context import ASSIGNED, CONTEXT
from eagle3hub.publishing.secret_rules import FORMS
from eagle3hub.resources import cache_dir

_LEFT_OUT = frozenset({"betterleaks.aws-secret-access-key"})
"""Rules of Kingfisher that match more than secrets; what they look for is found by `secret_context`."""


_ASCII = bytes(c if 0 < c < 128 else 32 for c in range(256))
"""Kingfisher takes a letter of another script for a part of the word, and text with zero bytes for UTF-16."""
_SPACED = bytes(32 if chr(c) in "<>()[]{}|*&,;!?#^\\" else c for c in range(256))
_STOP = re.compile(rb"\.(?=\s|$)")
"""Some of its rules ask for a space or a quote after a secret; here other marks are written as spaces."""
_DIGEST = re.compile(rb"sha(?:1|224|256|384|512)[=:\- ]{1,2}[\w+/\-]{0,90}$", re.I)


def find(data: bytes, *, anywhere: bool = False) -> Iterator[tuple[int, str, bool]]:
    """Offset and kind of every secret in ``data``, and whether the kind is the one to name.

    A secret may be found by several rules; those of which the last is false count where no other found it.

    Args:
        data: text in any encoding that leaves ASCII as it is.
        anywhere: what is before a secret is no text, and may be a letter by chance.
    """
    for at, kind, sure in _all(data, anywhere):
        if _DIGEST.search(data, max(0, at - 100), at) is None:
            yield at, kind, sure


def _all(data: bytes, anywhere: bool) -> Iterator[tuple[int, str, bool]]:
    small = data.lower()
    for rule in (*FORMS, *CONTEXT):
        for at in rule.find(data, small, anywhere=anywhere):
            yield at, rule.kind, rule.kind != ASSIGNED
    ascii_only = data.translate(_ASCII)
    for text in (ascii_only, _STOP.sub(b" ", ascii_only.translate(_SPACED))):
        for finding in _kingfisher().scan(text):
            if finding.visible and finding.rule_id not in _LEFT_OUT and not is_placeholder(finding.secret):
                yield int(finding.location["start_offset"]), _words(finding.rule_id), False


@cache
def _kingfisher() -> Any:
    from kingfisher_sdk import Rules, Scanner

    return Scanner(Rules(cache_dir=cache_dir() / "secret-rules"), base64=False)


def _words(rule: str) -> str:
    """``openai api key`` for ``betterleaks.openai-api-key``."""
    return re.sub(r"\.\d+$", "", rule).rpartition(".")[2].rpartition("/")[2].replace("-", " ")
