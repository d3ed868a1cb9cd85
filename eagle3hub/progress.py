"""How library code says what it is doing, without printing."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called with what is being done and, where it is known, the fraction done (0 … 1)."""

    def __call__(self, message: str, fraction: float | None = None) -> None:
        """Report progress; must return at once and must not raise."""


def silent(message: str, fraction: float | None = None) -> None:
    """A `Progress` that says nothing."""
