"""Hints that name options of another command than the one that prints them."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import typer
import typer.main

_NAME = re.compile(r"--[a-z0-9]+(?:-[a-z0-9]+)*")


def fitting(hint: str, command: Any) -> str:
    """A hint for those who called ``command``.

    Of options that it lacks, and ``convert`` has to say or change something of a head, it says whose they are; or what
    they are called here, where that is a longer name.
    """
    own = {name for option in getattr(command, "params", ()) for name in option.opts}
    lacking = [n for n in dict.fromkeys(_NAME.findall(hint)) if n in _of_convert() and n not in own]
    longer = [n for n in sorted(own) if n.startswith(tuple(f"{missing}-" for missing in lacking))]
    if not lacking:
        return hint
    if longer:
        return f"{hint}; here {' or '.join(longer)}"
    verb = "is an option" if len(lacking) == 1 else "are options"
    return f"{hint}; {' and '.join(lacking)} {verb} of eagle3hub convert"


@cache
def _of_convert() -> frozenset[str]:
    from eagle3hub.cli.convert import convert

    app = typer.Typer(add_completion=False)
    app.command()(convert)
    options = typer.main.get_command(app).params
    return frozenset(n for o in options if getattr(o, "rich_help_panel", None) or "--from" in o.opts for n in o.opts)
