"""Tracebacks without secrets: exceptions of other libraries quote headers, addresses with signatures and more."""

from __future__ import annotations

import os
import re

_NAMES = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY", re.I)
_PLACES = ("_PATH", "_FILE", "_DIR")
_SHORTEST = 6
_PATTERNS = (
    (re.compile(r"(?i)(\bbearer\s+)[^\s'\"]+"), r"\1***"),
    (re.compile(r"\bhf_[A-Za-z0-9_-]{30,}"), "***"),
    (re.compile(r"\beyJ[\w-]+\.[\w-]+\.[\w-]+"), "***"),
    (re.compile(r"(\bhttps?://)[^\s/@'\"]+@"), r"\1***@"),
    (re.compile(r"(\bhttps?://[^\s?'\"]+\?)[^\s'\"]+"), r"\1***"),
)


def redacted(text: str) -> str:
    """``text`` without the values of secret environment variables, without tokens and the queries of addresses."""
    secret = [name for name in os.environ if _NAMES.search(name) and not name.upper().endswith(_PLACES)]
    values = {os.environ[name].strip() for name in secret}
    for value in sorted(values, key=len, reverse=True):
        if len(value) >= _SHORTEST:
            text = text.replace(value, "***")
    for pattern, instead in _PATTERNS:
        text = pattern.sub(instead, text)
    return text
