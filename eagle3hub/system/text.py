"""Text for people: control characters made visible, and sizes with units."""

from __future__ import annotations

import re
import unicodedata

# Text from outside without what cannot be seen, wherever it is printed or drawn.


_LINE_BREAKS = re.compile(r"[\r\n\v\f\x1c-\x1e\x85\u2028\u2029]+|\t")
_OTHER_THAN_ASCII = re.compile(r"[^ -~]")
_JOINERS = "\u200c\u200d"
_UNSEEN = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
"""What Unicode calls letters, marks or symbols and what nevertheless shows nothing."""
_HIDDEN = ("Cc", "Cf", "Cs", "Zl", "Zp")


def visible(text: str, *, keep_lines: bool = False) -> str:
    """Replace what would not be seen or would move other text: controls, bidi marks, surrogates → ``⟨U+202E⟩``.

    Line breaks become spaces unless ``keep_lines``. ZWJ and ZWNJ stay behind letters that are no ASCII, and behind
    emoji: scripts need them there. What comes out is left as it is by a second call.
    """
    if text.isascii() and text.isprintable():
        return text
    text = text.replace("\r\n", "\n").replace("\r", "\n") if keep_lines else _LINE_BREAKS.sub(" ", text)
    return _OTHER_THAN_ASCII.sub(lambda found: _shown(found, "\n\t" if keep_lines else ""), text)


def escaped_json(text: str) -> str:
    r"""JSON text with what `visible` would replace as ``\u`` escapes: the same data, and nothing that cannot be seen.

    The text is that of a whole document whose only line breaks and tabs are those between its tokens.
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


# Numbers for readers, in three significant digits; documents for programs keep every digit.


def readable_count(n: int) -> str:
    """A number of parameters in three significant digits: ``8.96 M``."""
    for unit, factor in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if n >= 0.9995 * factor:  # rounds to it
            return f"{n / factor:.3g} {unit}"
    return str(n)


def readable_size(n: int) -> str:
    """A number of bytes in three significant digits, decimal units: ``17.9 MB``."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n >= 0.9995 * factor:
            return f"{n / factor:.3g} {unit}"
    return f"{n} bytes"
