"""Format text for people: make control characters visible, print sizes with units, and leave out secrets."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Sequence

# Text from outside, made safe to print or draw


_LINE_BREAKS = re.compile(r"[\r\n\v\f\x1c-\x1e\x85\u2028\u2029]+|\t")
_OTHER_THAN_ASCII = re.compile(r"[^ -~]")
_JOINERS = "\u200c\u200d"
_UNSEEN = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
"""Characters that Unicode calls letters, marks or symbols, but that show nothing."""
_HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")


def visible(text: str, *, keep_lines: bool = False) -> str:
    """Replace invisible characters and those that move other text, as in ``⟨U+202E⟩``.

    These are controls, bidi marks and surrogates. Line breaks become spaces unless ``keep_lines``. ZWJ and ZWNJ stay
    behind non-ASCII letters and emoji, because scripts need them there. A second call changes nothing.
    """
    if text.isascii() and text.isprintable():
        return text
    text = text.replace("\r\n", "\n").replace("\r", "\n") if keep_lines else _LINE_BREAKS.sub(" ", text)
    return _OTHER_THAN_ASCII.sub(lambda found: _shown(found, "\n\t" if keep_lines else ""), text)


def listed(words: Sequence[str]) -> str:
    """Words in the middle of a sentence: ``a``, ``a and b``, ``a, b and c``."""
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


def escaped_json(text: str) -> str:
    r"""Replace what `visible` would replace in JSON text by ``\u`` escapes, so that the data stays the same.

    The text is a whole document, whose line breaks and tabs are all between its tokens.
    """
    if text.isascii() and text.isprintable():
        return text
    return _OTHER_THAN_ASCII.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    char = found[0]
    if char in "\n\t" or _is_plain(found):
        return char
    code = ord(char)
    if code < 0x10000:
        return f"\\u{code:04x}"
    code -= 0x10000
    return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"


def _shown(found: re.Match[str], kept: str) -> str:
    char = found[0]
    return char if char in kept or _is_plain(found) else f"⟨U+{ord(char):04X}⟩"


def _is_plain(found: re.Match[str]) -> bool:
    char = found[0]
    if char in _JOINERS:
        before = found.string[found.start() - 1 : found.start()]
        return before > "\x7f" and before not in _JOINERS
    return char not in _UNSEEN and unicodedata.category(char) not in _HIDDEN


# Numbers for people, in three significant digits (documents for programs keep every digit)


def readable_count(n: int) -> str:
    """Return a number of parameters in three significant digits: ``8.96 M``."""
    for unit, factor in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if n >= 0.9995 * factor:  # a number that rounds up to the unit counts as it
            return f"{n / factor:.3g} {unit}"
    return str(n)


def readable_size(n: int) -> str:
    """Return a number of bytes in three significant digits and decimal units: ``17.9 MB``."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n >= 0.9995 * factor:
            return f"{n / factor:.3g} {unit}"
    return f"{n} bytes"


# Texts without secrets: exceptions of other libraries quote headers, signed addresses and more.


_SECRET_NAMES = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY", re.I)
_PLACES = ("_PATH", "_FILE", "_DIR")
_SHORTEST = 6
_PATTERNS = (
    (re.compile(r"(?i)(\bbearer\s+)[^\s'\"]+"), r"\1***"),
    (re.compile(r"\bhf_[A-Za-z0-9_-]{30,}"), "***"),
    (re.compile(r"\beyJ[\w-]+\.[\w-]+\.[\w-]+"), "***"),
    (re.compile(r"(\bhttps?://)[^\s/@'\"]+@"), r"\1***@"),
    (re.compile(r"(\bhttps?://[^\s?'\"]+\?)[^\s'\"]+"), r"\1***"),
)


def names_a_secret(name: str) -> bool:
    """Return whether an environment variable of this name holds a token or a password."""
    return _SECRET_NAMES.search(name) is not None and not name.upper().endswith(_PLACES)


def redacted(text: str) -> str:
    """Return ``text`` without values of secret environment variables, tokens, and the query parts of addresses."""
    values = {value.strip() for name, value in os.environ.items() if names_a_secret(name)}
    for value in sorted(values, key=len, reverse=True):
        if len(value) >= _SHORTEST:
            text = text.replace(value, "***")
    for pattern, instead in _PATTERNS:
        text = pattern.sub(instead, text)
    return text


def readable_time(seconds: float) -> str:
    """Write a duration as people say it: ``8 s``, ``3 min``, ``1 h 20 min``."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"
