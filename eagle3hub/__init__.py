"""Take an EAGLE-3 draft head from the trainer's folder to a public release.

The functions here are what the command line calls, with the same options and the same errors; they are imported
on first use, so that ``import eagle3hub`` is cheap and never needs torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from eagle3hub._version import __version__

if TYPE_CHECKING:
    from eagle3hub.card import render_card
    from eagle3hub.comparison import compare
    from eagle3hub.conversion.run import convert
    from eagle3hub.layouts import open_head as open
    from eagle3hub.validation import validate

_WHERE = {
    "open": ("eagle3hub.layouts", "open_head"),
    "compare": ("eagle3hub.comparison", "compare"),
    "convert": ("eagle3hub.conversion.run", "convert"),
    "validate": ("eagle3hub.validation", "validate"),
    "render_card": ("eagle3hub.card", "render_card"),
}

__all__ = ["__version__", "compare", "convert", "open", "render_card", "validate"]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'eagle3hub' has no attribute {name!r}")
    module, attribute = _WHERE[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted(__all__)
