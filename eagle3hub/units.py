"""Numbers for readers, in three significant digits; documents for programs keep every digit."""

from __future__ import annotations


def count(n: int) -> str:
    """A number of parameters in three significant digits: ``8.96 M``."""
    for unit, factor in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if n >= 0.9995 * factor:  # rounds to it
            return f"{n / factor:.3g} {unit}"
    return str(n)


def size(n: int) -> str:
    """A number of bytes in three significant digits, decimal units: ``17.9 MB``."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n >= 0.9995 * factor:
            return f"{n / factor:.3g} {unit}"
    return f"{n} bytes"
