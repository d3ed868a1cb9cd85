"""Take an EAGLE-3 draft head from the trainer's folder to a public release.

The functions here are what the command line calls, with the same options and the same errors; they are imported
on first use, so that ``import eagle3hub`` is cheap and never needs torch.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from eagle3hub._version import __version__

if TYPE_CHECKING:
    from eagle3hub.card import render_card
    from eagle3hub.compare import compare
    from eagle3hub.convert import convert
    from eagle3hub.layouts import open_head as open
    from eagle3hub.validate import validate

_WHERE = {
    "open": ("eagle3hub.layouts", "open_head"),
    "compare": ("eagle3hub.compare", "compare"),
    "convert": ("eagle3hub.convert", "convert"),
    "validate": ("eagle3hub.validate", "validate"),
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


class _Package(ModuleType):
    """Keeps ``eagle3hub.convert`` the function after the module of the same name has been imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _WHERE or not isinstance(value, ModuleType):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
