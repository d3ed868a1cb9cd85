"""Rules on the words of a server's command, and on environment variables."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from eagle3hub.engines import ENGINES
from eagle3hub.engines.check.finding import Finding, known_fact, unknown
from eagle3hub.engines.check.settings import check_settings, vllm_speculative_config
from eagle3hub.engines.check.snippets import UNFILLED, Command, Variable, is_flag
from eagle3hub.engines.specs import common, interface

_NUMBER = re.compile(r"^-\d")
_PREFIXES = {"vllm": ("VLLM_",), "sglang": ("SGLANG_", "SGL_"), "llamacpp": ("LLAMA_ARG_",)}
_MARKS = {
    "vllm": ("--speculative-config",),
    "sglang": ("--speculative-algorithm", "--speculative-eagle-topk"),
    "llamacpp": ("--spec-type", "--spec-draft-model"),
}


def options(words: Sequence[str]) -> dict[str, str | None]:
    """Flags with their values (None without one), as argparse would split them; the last of a name counts."""
    found: dict[str, str | None] = {}
    for index, word in enumerate(words):
        if not is_flag(word):
            continue
        name, equals, value = word.partition("=")
        follows = words[index + 1] if index + 1 < len(words) else None
        if equals:
            found[name] = value
        elif follows is not None and (not follows.startswith("-") or _NUMBER.match(follows)):
            found[name] = follows
        else:
            found[name] = None
    return found


def command_engine_hint(commands: Sequence[Command]) -> str | None:
    """The engine that flags without a command belong to: the only one that the text starts, if there is one."""
    engines = {command.engine for command in commands if command.engine}
    return engines.pop() if len(engines) == 1 else None


def check_command(command: Command, hint: str | None) -> list[Finding]:
    """Findings on one command, or on flags that stand alone (what they lack is not held against them)."""
    given = options(command.words)
    engine = command.engine or next((e for e, marks in _MARKS.items() if any(m in given for m in marks)), hint)
    if engine is None:
        return []
    if engine == "vllm":
        given = {_vllm_name(name): None if "." in name else value for name, value in given.items()}
    findings = []
    minimum = common(engine).minimum
    if minimum is not None and "--speculative-algorithm" in given:
        line = command.where.line_of("sgl_jax")
        instead = f"say that sglang-jax {minimum.version} or later is needed"
        findings.append(Finding("sglang-jax-version", "warning", line, engine, minimum.says, instead))
    findings += _names(engine, given, command)
    settings = {name.lstrip("-").replace("-", "_"): value for name, value in given.items()}
    if engine == "vllm" and isinstance(given.get("--speculative-config"), str):
        findings += _vllm_config(str(given["--speculative-config"]), command)
    findings += check_settings(
        engine,
        settings,
        lambda name: command.where.line_of(_flag(name)),
        written=_flag,
        complete=command.engine is not None,
    )
    return findings


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _vllm_name(name: str) -> str:
    """The flag itself: vLLM takes underscores for dashes, and ``--flag.key`` for a key of a JSON argument."""
    return name.partition(".")[0].replace("_", "-")


def _names(engine: str, given: Mapping[str, Any], command: Command) -> list[Finding]:
    findings = []
    own = interface(engine)
    known = None if own is None else own.flags
    for name in given:
        line = command.where.line_of(name)
        fact = known_fact(engine, name, line)
        if fact is not None:
            findings.append(fact)
        elif known is not None and name not in known and sum(flag.startswith(name) for flag in known) != 1:
            found = unknown(engine, "flag-unknown", name, known, line)
            findings += [found] if found else []
    return findings


def _vllm_config(text: str, command: Command) -> list[Finding]:
    line = command.where.line_of("--speculative-config")
    if UNFILLED in text or "$" in text:
        return []
    try:
        config = json.loads(text)
    except ValueError as error:
        what = f"--speculative-config is not JSON ({error})"
        instead = '--speculative-config \'{"method": "eagle3", "model": "…", "num_speculative_tokens": 3}\''
        return [Finding("vllm-config-json", "error", line, "vllm", what, instead)]
    if not isinstance(config, dict):
        return [Finding("vllm-config-json", "error", line, "vllm", "--speculative-config is not a JSON object")]
    return vllm_speculative_config(config, lambda name: command.where.line_of(name))


def check_variable(variable: Variable) -> list[Finding]:
    """Findings on an environment variable: one that is not read any more, or that looks like one that is."""
    for engine in ENGINES:
        fact = known_fact(engine, variable.name, variable.line)
        if fact is not None:
            return [fact]
        own = interface(engine)
        known = () if own is None else own.environment
        if variable.name.startswith(_PREFIXES.get(engine, ())) and known and variable.name not in known:
            found = unknown(engine, "env-unknown", variable.name, known, variable.line, must_resemble=True)
            return [found] if found else []
    return []
