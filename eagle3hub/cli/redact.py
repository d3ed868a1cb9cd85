"""Tracebacks without secrets: exceptions of other libraries quote headers, addresses with signatures and more."""

from __future__ import annotations

import os
import re
from pathlib import Path

_NAMES = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY", re.I)
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
    values = {value.strip() for name, value in os.environ.items() if _NAMES.search(name)}
    for value in sorted(values, key=len, reverse=True):
        if len(value) >= _SHORTEST and not Path(value).exists():
            text = text.replace(value, "***")
    for pattern, instead in _PATTERNS:
        text = pattern.sub(instead, text)
    return text
