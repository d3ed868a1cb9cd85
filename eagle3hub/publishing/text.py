"""Plain text of a release: UTF-8, and nothing in it that cannot be seen or that moves other text."""

from __future__ import annotations

import re

from eagle3hub.publishing.png import Malformed
from eagle3hub.publishing.recognise import FIRST, recognised

_UNSEEN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufeff\ufffe\uffff]")
_BIDI = re.compile("[\u202a-\u202e\u2066-\u2069]")
_DISGUISED = re.compile(r"script|page|XML|SVG|PEM|PDF|Git LFS")


def text_of(data: bytes) -> str:
    """UTF-8 text. Raises Malformed naming the line of the first byte that is none."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as e:
        line = data.count(b"\n", 0, e.start) + 1
        raise Malformed(f"holds bytes in line {line} that are not UTF-8 text (save it as UTF-8)") from e


def plain(data: bytes) -> str:
    """UTF-8 text without control characters and marks that turn the direction of text. Raises Malformed."""
    text = text_of(data)
    for what, pattern in (("an unseen character", _UNSEEN), ("a mark that turns the direction of text", _BIDI)):
        if found := pattern.search(text, 0):
            line = text.count("\n", 0, found.start()) + 1
            raise Malformed(f"holds {what}, U+{ord(found[0]):04X}, in line {line}")
    return text


def check_text(data: bytes) -> None:
    """Raise Malformed unless the bytes are plain text that does not begin as something else does."""
    plain(data)
    what = recognised(data[:FIRST])
    if what is not None and _DISGUISED.search(what):
        raise Malformed("begins as something else does")


def check_license(data: bytes) -> None:
    """`check_text`, but the form feeds of GNU's licenses are let through."""
    check_text(data.replace(b"\f", b""))
