"""Secrets in text files, found by detect-secrets' own detectors and the Hub's token pattern.

Detectors of random-looking text are left out: a release is full of digests. Nothing is asked over the network.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from eagle3hub.publishing.files import LocalFile

_MAX_BYTES = 64 << 20
_HUB_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{30,}\b|\bapi_org_[A-Za-z0-9]{30,}\b")
_LONGEST_LINE = 20_000


def secrets(file: LocalFile) -> Iterator[tuple[int, str]]:
    """Line and kind of every secret in a text file; a file that is no text has none that can be found."""
    if file.path.endswith(".safetensors") or file.size > _MAX_BYTES:
        return
    try:
        text = file.head(_MAX_BYTES).decode("utf-8")
    except UnicodeDecodeError:
        return
    for number, line in enumerate(text.splitlines(), 1):
        kinds = {"Hub access token"} if _HUB_TOKEN.search(line) else set()
        for start in range(0, len(line), _LONGEST_LINE):
            part = line[start : start + _LONGEST_LINE]
            for detector in _detectors():
                kinds |= {s.type for s in detector.analyze_line(filename=file.path, line=part, line_number=number)}
        for kind in sorted(kinds):
            yield number, kind


@cache
def _detectors() -> tuple[Any, ...]:
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class

    left_out = {"Base64HighEntropyString", "HexHighEntropyString", "IPPublicDetector"}
    classes: list[Any] = list(get_mapping_from_secret_type_to_class().values())
    return tuple(c() for c in sorted(classes, key=lambda c: str(c.__name__)) if c.__name__ not in left_out)
