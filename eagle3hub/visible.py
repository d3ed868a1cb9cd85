"""Text from outside without what cannot be seen, wherever it is printed or drawn."""

from __future__ import annotations

import re
import unicodedata

_LINE_BREAKS = re.compile(r"[\r\n\v\f\x1c-\x1e\x85\u2028\u2029]+|\t")
_JOINERS = "\u200c\u200d"


def visible(text: str, *, keep_lines: bool = False) -> str:
    """Replace what would not be seen or would move other text: controls, bidi marks, surrogates → ``⟨U+202E⟩``.

    Line breaks become spaces unless ``keep_lines``. ZWJ and ZWNJ stay: scripts and emoji need them.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n") if keep_lines else _LINE_BREAKS.sub(" ", text)
    return "".join(c if _is_plain(c) or (keep_lines and c in "\n\t") else f"⟨U+{ord(c):04X}⟩" for c in text)


def _is_plain(char: str) -> bool:
    return char in _JOINERS or unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Zl", "Zp")
