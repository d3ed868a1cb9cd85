"""Ask an engine's own parser, in its own interpreter, what it thinks of a command."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from eagle3hub.engines.check.commands import options
from eagle3hub.engines.check.finding import Finding
from eagle3hub.engines.check.settings import is_open
from eagle3hub.engines.check.snippets import Command
from eagle3hub.engines.process import Event, run_worker
from eagle3hub.engines.specs import engine_title
from eagle3hub.errors import UnavailableError

_WORKER = Path(__file__).resolve().parents[1] / "workers" / "interface_worker.py"
_TIMEOUT = 300.0
PARSED = ("vllm", "sglang")


def parser_findings(
    commands: Sequence[Command], known: Sequence[Finding], installed: Mapping[str, Path]
) -> list[Finding]:
    """What the parsers of the installed engines refuse in complete commands, and the data has not found already.

    Commands with values for the reader to fill in are left out. Raises UnavailableError for an interpreter in which
    the engine cannot be asked.
    """
    findings = []
    for engine in PARSED:
        mine = [c for c in commands if c.engine == engine and not any(map(is_open, _values(c)))]
        if engine not in installed or not mine:
            continue
        version, errors = ask(engine, installed[engine], [list(command.words) for command in mine])
        for command, error in zip(mine, errors, strict=True):
            last = command.where.start + len(command.where.lines)
            explained = any(f.severity == "error" and command.where.start <= f.line < last for f in known)
            if error is not None and not explained:
                what = f"{engine_title(engine)} {version} refuses the command: {error}"
                findings.append(Finding("parser", "error", command.where.start, engine, what))
    return findings


def _values(command: Command) -> list[str]:
    """The words of the command; braces of a JSON value are not a placeholder."""
    config = options(command.words).get("--speculative-config")
    return [word for word in command.words if word != config]


def ask(engine: str, python: Path, commands: Sequence[Sequence[str]]) -> tuple[str, list[str | None]]:
    """The engine's version, and for each command the error of its own parser, or None."""
    version = ""
    errors: dict[int, str | None] = {}

    def listen(event: Event) -> None:
        nonlocal version
        if event["event"] == "interface":
            version = str(event["version"])
        elif event["event"] == "command":
            errors[int(event["index"])] = event["error"]

    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")} | {"HF_HUB_OFFLINE": "1"}
    request = {"engine": engine, "commands": [list(words) for words in commands]}
    outcome = run_worker([str(python), "-s", str(_WORKER)], request, env=env, timeout=_TIMEOUT, on_event=listen)
    if outcome.status != "done" or len(errors) != len(commands):
        raise UnavailableError(
            f"{engine_title(engine)}'s parser cannot be asked: {outcome.detail.get('message', outcome.status)}",
            hint="`eagle3hub engines doctor` says what is missing; --data-only does without",
            code="engine-parser",
        )
    return version, [errors[index] for index in range(len(commands))]
