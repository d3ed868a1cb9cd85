"""What commands print with --json, held against the schemas; and which documents a run of the tests saw."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from typer._click.globals import get_current_context

from eagle3hub.cli import app, output
from eagle3hub.system import resources
from eagle3hub.system.documents import schema_faults

_SEEN = "documents"


def schemas() -> dict[str, dict[str, Any]]:
    """Every schema by name."""
    files = sorted(resources.data_path("schemas").glob("*.schema.json"))
    return {name: resources.schema(name) for name in (f.name.partition(".")[0] for f in files)}


def commands_of(name: str) -> list[str]:
    """The commands that print the document, as its schema lists them."""
    found: list[str] = resources.schema(name).get("x-commands", [])
    return found


def hold(name: str, document: Mapping[str, Any], command: str | None) -> None:
    """Fail where a document does not fit its schema, or where the schema does not name the command."""
    schema = resources.schema(name)
    whole = {"schema": schema["properties"]["schema"]["const"], **document}
    faults = [f"{fault.message} ({fault.hint})" for fault in schema_faults(whole, schema)]
    assert not faults, f"{name} does not fit schemas/{name}.schema.json: {faults[:5]}"
    assert command is None or command in commands_of(name), f"schemas/{name}.schema.json does not name {command}"


def _command() -> str | None:
    """The command as it is called; None where a test calls a function or a part of the command line."""
    context = get_current_context(silent=True)
    words = "" if context is None else context.command_path
    return words if words.startswith("eagle3hub") else None


def watch(patch: pytest.MonkeyPatch, notes: Path | None) -> None:
    """Hold every document that this process prints from now on, and leave its name in ``notes``."""
    plain = output.print_json

    def print_json(name: str, document: Mapping[str, Any]) -> None:
        hold(name, document, _command())
        if notes is not None:
            with suppress(OSError):
                (notes / _SEEN / name).parent.mkdir(exist_ok=True)
                (notes / _SEEN / name).touch()
        plain(name, document)

    for module in (output, app):
        patch.setattr(module, "print_json", print_json)


def unseen(notes: Path) -> list[str]:
    """The documents of commands that no process with these notes printed."""
    return [name for name in schemas() if commands_of(name) and not (notes / _SEEN / name).exists()]
