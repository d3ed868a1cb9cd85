"""Hints as the command that prints them needs them."""

from __future__ import annotations

from typing import Any

from eagle3hub.errors import Hint


def shown_for(hint: str, command: Any) -> str:
    """A hint for users of ``command``: it says so where the hint names options of another command."""
    own = {name for option in getattr(command, "params", ()) for name in option.opts}
    return hint.for_command(own) if isinstance(hint, Hint) else hint
