"""Check a command against the engine's interface, and against the engine's own parser if it is installed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eagle3hub.engines import ENGINES
from eagle3hub.engines.check.finding import Against, NotChecked, Outcome, RecipeFinding
from eagle3hub.engines.check.settings import Settings, acceptance, check_settings, flag_of, is_open, load_json
from eagle3hub.engines.check.shell import UNFILLED
from eagle3hub.engines.check.snippets import ServerCommand, VariableSetting, is_flag
from eagle3hub.engines.process import Event, bare_environment, run_worker
from eagle3hub.engines.specs import Interface, engine_data, engine_title
from eagle3hub.errors import UnavailableError

# Split a command's words into flags and values


_NUMBER = re.compile(r"^-\d")
_PREFIXES = {"vllm": ("VLLM_",), "sglang": ("SGLANG_", "SGL_"), "llamacpp": ("LLAMA_ARG_",)}
_MARKS = {
    "vllm": ("--speculative-config",),
    "sglang": ("--speculative-algorithm", "--speculative-eagle-topk"),
    "llamacpp": ("--spec-type", "--spec-draft-model"),
}
_PLUGGED = ("--tool-call-parser", "--reasoning-parser")
"""Flags whose values a plug-in adds to."""
_OTHER_PARTS = {
    "vllm": ({"--omni"}, "vLLM-Omni"),
    "sglang": ({"--ulysses-degree", "--ring-degree", "--num-gpus"}, "SGLang Diffusion"),
}
"""Flags by which a server's command starts another program, whose flags are its own."""


def parse_flags(words: Sequence[str]) -> dict[str, str | None]:
    """Map flags to their values (None without one), split as argparse does; the last use of a flag counts."""
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


@dataclass(frozen=True, slots=True)
class _Use:
    """A flag as it is used: as written, the flag that the engine takes it for (None if unknown), and its values."""

    written: str
    flag: str | None
    values: tuple[str, ...]
    line: int
    joined: bool = False

    @property
    def name(self) -> str:
        """The flag without the key of a JSON value after a dot: ``--speculative-config.model``."""
        return (self.flag or self.written).partition(".")[0]

    @property
    def key(self) -> str:
        return (self.flag or self.written).partition(".")[2]


def _split(command: ServerCommand, engine: str, own: Interface | None) -> tuple[list[_Use], list[tuple[str, int]]]:
    """Return the flags of a command with their values, and the words that belong to no flag, with their lines."""
    uses: list[_Use] = []
    alone: list[tuple[str, int]] = []
    at = 0
    words, lines = command.words, command.lines
    while at < len(words):
        word, line = words[at], lines[at]
        at += 1
        if not re.match(r"^--?[A-Za-z]", word):
            alone.append((word, line))
            continue
        written, equals, value = word.partition("=")
        flag = _resolved(engine, written, own)
        arity = None if own is None or flag is None else own.arity.get(flag)
        follow = at
        while follow < len(words) and not _looks_like_flag(words[follow]):
            follow += 1
        if equals:
            uses.append(_Use(written, flag, (value,), line, joined=True))
            continue
        most = {"0": 0, "+": follow - at, "*": follow - at}.get(arity or "1", 1 if flag is not None else follow - at)
        if arity == "0" and flag is not None and engine == "vllm" and "." in flag:
            most = 1
        taken = words[at : min(follow, at + most)]
        at += len(taken)
        uses.append(_Use(written, flag, tuple(taken), line))
    return uses, alone


def _looks_like_flag(word: str) -> bool:
    return word.startswith("-") and len(word) > 1 and not _NUMBER.match(word) and " " not in word


def _resolved(engine: str, written: str, own: Interface | None) -> str | None:
    """Return the flag that the engine takes a written one for, or None.

    vLLM takes underscores for dashes, and ``--flag.key`` for a key of a JSON value. Python's parsers take the
    beginning of a flag if no other begins so.
    """
    name, dot, key = written.partition(".") if engine == "vllm" else (written, "", "")
    if engine == "vllm" and name.startswith("--"):
        name = name.replace("_", "-")
    if own is None or (engine == "vllm" and name.startswith("-O")):  # a level: -O3
        return f"{name}{dot}{key}"
    if name in own.flags:
        return f"{name}{dot}{key}"
    if name.startswith("--"):
        longer = [flag for flag in own.flags if flag.startswith(name)]
        return f"{longer[0]}{dot}{key}" if len(longer) == 1 and engine != "llamacpp" else None
    return name[:2] if name[:2] in own.flags and own.arity.get(name[:2]) != "0" and engine != "llamacpp" else None


def command_engine_hint(commands: Sequence[ServerCommand]) -> str | None:
    """Return the engine that flags without a command belong to: the only engine that the text starts, or None."""
    engines = {command.engine for command in commands if command.engine}
    return engines.pop() if len(engines) == 1 else None


# Check a command


def check_named(command: ServerCommand, hint: str | None, against: Against) -> Outcome:
    """Check a flag that a sentence names: whether the engine still has it, or has one of nearly that name.

    Whose flag it is: that of the engine in the sentence, else of the only engine that has or had such a flag, else of
    the only engine that the text starts.
    """
    flag, line = command.words[0], command.lines[0]
    clear = "spec" in flag or "eagle" in flag  # other programs have a --draft, too
    had = [e for e in _PREFIXES if clear and against.fact(e, flag, line) is not None]
    own = {e: known for e in _PREFIXES if (known := against.interface(e)) is not None and e != "llamacpp"}
    has = [e for e, known in own.items() if _resolved(e, flag, known) is not None]
    engine = command.engine or (had[0] if len(had) == 1 and not has else None) or (hint if clear else None)
    if engine is None or engine in has or (command.engine is None and has):
        return Outcome()
    if (fact := against.fact(engine, flag, line)) is not None:
        return Outcome([replace(fact, severity="warning")], checked=1)  # nobody runs a sentence
    if engine not in own:
        return Outcome()
    found = against.unknown_name(engine, "flag-unknown", flag, own[engine].flags, line, must_resemble=True)
    return Outcome([found] if found else [], checked=1)


def check_command(command: ServerCommand, hint: str | None, against: Against, published: bool) -> Outcome:
    """Check one command, or flags that stand alone (for these, missing flags are no fault)."""
    given = parse_flags(command.words)
    engine = command.engine or next((e for e, marks in _MARKS.items() if any(m in given for m in marks)), hint)
    if engine is None:
        return Outcome()
    own = against.interface(engine)
    marks, other = _OTHER_PARTS.get(engine, (set(), ""))
    if marks & set(given):
        what = f"the command starts {other}, whose flags are not known here"
        return Outcome(not_checked=[NotChecked(command.where.start, engine, what)])
    uses, alone = _split(command, engine, own)
    out = Outcome(checked=1)
    minimum = engine_data(engine).minimum
    if minimum is not None and "--speculative-algorithm" in given:
        instead = f"say that sglang-jax {minimum.version} or later is needed"
        line = command.where.line_of("sgl_jax")
        out.findings.append(RecipeFinding("sglang-jax-version", "warning", line, engine, minimum.says, instead))
    _names(engine, uses, command, against, out)
    out.findings += _twice(engine, uses)
    if own is not None:
        plugged = any(use.name.endswith("-plugin") for use in uses)
        for use in uses:
            if not (plugged and use.name in _PLUGGED) and (command.engine or use.values):
                out.findings += _value(engine, use, own, against)
        out.findings += _alone(engine, alone, command, against) if own.arity and command.engine else []
    values: dict[str, object] = {_setting(use.name): use.values[-1] if use.values else None for use in uses}
    if engine == "vllm":
        out.findings += _config(uses, values)
    lines = {_setting(use.name): use.line for use in uses}
    settings = Settings(
        values,
        lambda name: lines.get(name) or command.line_of(flag_of(name)) if name in lines else command.line_of(name),
        flag_of,
        command.engine is not None,
        published,
    )
    out.findings += check_settings(engine, settings, against)
    return out


_LAST_COUNTS = ("vllm", "sglang", "sglang_jax")
"""Engines whose parser is argparse: of a flag that is given twice it keeps the last value, without a word."""
_COLLECTED = ("--middleware",)
"""Flags of theirs that may be given several times (vLLM, ``entrypoints/openai/cli_args.py``)."""


def _twice(engine: str, uses: Sequence[_Use]) -> list[RecipeFinding]:
    """Report flags that are given twice, with other values."""
    found: list[RecipeFinding] = []
    first: dict[str, _Use] = {}
    for use in uses if engine in _LAST_COUNTS else ():
        if use.flag is None or use.name in _COLLECTED:
            continue
        earlier = first.setdefault(use.flag, use)
        if earlier.values != use.values:
            values = [" ".join(one.values) or "no value" for one in (earlier, use)]
            what = f"{use.written} is given twice, with {values[0]} and {values[1]}, and only the last one counts"
            found.append(RecipeFinding("flag-twice", "warning", use.line, engine, what))
    return found


def _setting(flag: str) -> str:
    return flag.lstrip("-").replace("-", "_")


def _names(engine: str, uses: Sequence[_Use], command: ServerCommand, against: Against, out: Outcome) -> None:
    """Report flags that the engine does not have, and name those that cannot be checked."""
    own = against.interface(engine)
    listed = engine_data(engine).flags
    unheld = []
    for use in uses:
        fact = against.fact(engine, use.name, use.line) or against.fact(engine, use.written, use.line)
        if fact is not None:
            out.findings.append(fact)
        elif own is not None:
            # an unknown flag that stands without a command may be another program's
            sure = command.engine is not None and (use.written.startswith("--") or engine != "llamacpp")
            if use.flag is None:
                found = against.unknown_name(
                    engine, "flag-unknown", use.written, own.flags, use.line, must_resemble=not sure
                )
                out.findings += [found] if found else []
        elif use.written not in listed:
            found = against.unknown_name(engine, "flag-unknown", use.written, listed, use.line, must_resemble=True)
            if found is not None:
                out.findings.append(found)
            elif not _known_setting(engine, use.name):
                unheld.append(use.written)
    if unheld:
        what = f"{against.title(engine)}: not known here whether it has {', '.join(dict.fromkeys(unheld))}"
        out.not_checked.append(NotChecked(command.where.start, engine, what))


def _known_setting(engine: str, flag: str) -> bool:
    """Whether a recipe for the engine uses the flag, so that it is known although there is no list of its flags."""
    from eagle3hub.engines.specs import version_data

    return flag in version_data(engine).flags.values()


def _value(engine: str, use: _Use, own: Interface, against: Against) -> list[RecipeFinding]:
    """Check how many values a flag has, and whether the engine takes them."""
    flag = use.flag
    if flag is None or use.key:
        return []
    arity = own.arity.get(flag, "1")
    if not own.arity:  # nothing is known about the values
        return []
    if arity == "0" and use.joined:
        what = f"{use.written} takes no value"
        return [RecipeFinding("flag-value", "error", use.line, engine, what, f"{use.written} alone")]
    if arity in ("1", "+") and not use.values and not use.written.startswith("-O"):
        if flag != use.written and not use.written.startswith("--"):
            return []
        what = f"{use.written} needs a value, and none follows it"
        return [RecipeFinding("flag-value", "error", use.line, engine, what)]
    choices = own.choices.get(flag)
    if not choices:
        return []
    return [
        against.unknown_value(engine, "flag-value", use.written, value, choices, use.line)
        for value in use.values
        if not is_open(value) and not _taken(value, choices)
    ]


def _taken(value: str, choices: Sequence[str]) -> bool:
    return value in choices or value.lower() in ("none", "") or any(value.lower() == c.lower() for c in choices)


def _alone(
    engine: str, alone: Sequence[tuple[str, int]], command: ServerCommand, against: Against
) -> list[RecipeFinding]:
    """Report a word that belongs to no flag. vLLM takes one, the model, and SGLang one if it comes first."""
    if not command.exact:
        return []
    words = [(word, line) for word, line in alone if word.strip() and not is_open(word) and word not in ("-", "--")]
    words = [(word, line) for word, line in words if not re.match(r"^[\[(#<]|.*[\])]$", word)]
    taken = engine == "vllm" or (engine == "sglang" and words and words[0][0] == command.words[0])
    extra = words[1 if taken else 0 :]
    if not extra:
        return []
    word, line = extra[0]
    what = f"{against.title(engine)} refuses {word!r}, which belongs to no flag"
    return [RecipeFinding("flag-stray", "error", line, engine, what)]


def _config(uses: Sequence[_Use], values: dict[str, object]) -> list[RecipeFinding]:
    """Read vLLM's speculative config out of its flags into ``values``; report JSON that does not parse."""
    config: dict[str, object] = {}
    found: list[RecipeFinding] = []
    known = False
    for use in uses:
        if use.name not in ("--speculative-config", "-sc"):
            continue
        if use.key:
            known = True
            config[use.key] = _json_value(use.values[0]) if use.values else True
        elif use.values:
            text = use.values[-1]
            if UNFILLED in text or "$" in text or "..." in text or "…" in text:
                text = text.replace(UNFILLED, "0") if load_json(text.replace(UNFILLED, "0")) is not None else ""
            if not text:
                continue
            loaded = load_json(text)
            if isinstance(loaded, dict):
                known = True
                config |= loaded
                continue
            instead = '--speculative-config \'{"method": "eagle3", "model": "…", "num_speculative_tokens": 3}\''
            why = "the JSON is not an object" if loaded is not None else _why_not_json(text)
            what = f"--speculative-config is not JSON ({why})" if loaded is None else f"--speculative-config: {why}"
            found.append(RecipeFinding("vllm-config-json", "error", use.line, "vllm", what, instead))
    values.pop("speculative_config", None)
    for short, key in (("spec_method", "method"), ("spec_model", "model"), ("spec_tokens", "num_speculative_tokens")):
        if short in values and values[short] is not None:
            known = True
            config.setdefault(
                key, _json_value(str(values[short])) if key == "num_speculative_tokens" else values[short]
            )
    if known:
        values["speculative_config"] = config
    return found


def _json_value(text: str) -> Any:
    loaded = load_json(text)
    return text if loaded is None else loaded


def _why_not_json(text: str) -> str:
    if re.match(r"^\{\s*\w+:", text):
        return "its quotes are missing, or the shell took them: the JSON needs single quotes around it"
    try:
        json.loads(text)
    except (ValueError, RecursionError) as error:
        return str(error) or "too deep"
    return "not an object"


def check_variable(variable: VariableSetting, against: Against, published: bool) -> Outcome:
    """Check an environment variable: the engine no longer reads it, or its name looks misspelled."""
    for engine in ENGINES:
        fact = against.fact(engine, variable.name, variable.line)
        if fact is not None:
            return Outcome([replace(fact, severity="warning")], checked=1)  # nobody runs a sentence
        own = against.interface(engine)
        known = () if own is None else own.environment
        if variable.name.startswith(_PREFIXES.get(engine, ())) and known:
            out = Outcome(checked=1)
            if variable.name not in known and not _is_the_texts(variable):
                found = against.unknown_name(
                    engine, "env-unknown", variable.name, known, variable.line, must_resemble=True
                )
                out.findings += [found] if found else []
            out.findings += acceptance(engine, {variable.name: variable.value}, lambda _: variable.line, published)
            return out
    return Outcome()


def _is_the_texts(variable: VariableSetting) -> bool:
    """Whether a variable is the script's own: it is taken from outside, or names what the script handles."""
    own = re.search(r"_(?:PID|LOG|CMD|ARGS|IMAGE|TAG)$", variable.name)
    return bool(own) or f"${{{variable.name}" in variable.value


# Check commands with the engine's own parser, in its own interpreter


_WORKER = Path(__file__).resolve().parents[1] / "workers" / "interface_worker.py"
_TIMEOUT = 300.0
PARSED = ("vllm", "sglang")


def parser_findings(
    commands: Sequence[ServerCommand], known: Sequence[RecipeFinding], installed: Mapping[str, Path]
) -> list[RecipeFinding]:
    """Find what the parsers of the installed engines refuse in complete commands, unless ``known`` explains it.

    Commands with placeholders are left out. Raises UnavailableError if a parser cannot be started.
    """
    findings = []
    for engine in PARSED:
        mine = [c for c in commands if c.engine == engine and not any(map(is_open, _values(c)))]
        if engine not in installed or not mine:
            continue
        version, errors = ask_parser(engine, installed[engine], [list(command.words) for command in mine])
        for command, error in zip(mine, errors, strict=True):
            last = command.where.start + len(command.where.lines)
            explained = any(f.severity == "error" and command.where.start <= f.line < last for f in known)
            if error is not None and not explained:
                what = f"{engine_title(engine)} {version} refuses the command: {error}"
                findings.append(RecipeFinding("parser", "error", command.where.start, engine, what))
    return findings


def _values(command: ServerCommand) -> list[str]:
    """Return the words of the command except its JSON value, whose braces are no placeholder."""
    config = parse_flags(command.words).get("--speculative-config")
    return [word for word in command.words if word != config]


def ask_parser(engine: str, python: Path, commands: Sequence[Sequence[str]]) -> tuple[str, list[str | None]]:
    """Return the engine's version, and for each command the error of the engine's parser, or None.

    Raises UnavailableError if the parser cannot be started.
    """
    version = ""
    errors: dict[int, str | None] = {}

    def listen(event: Event) -> None:
        nonlocal version
        if event["event"] == "interface":
            version = str(event["version"])
        elif event["event"] == "command":
            errors[int(event["index"])] = event["error"]

    env = bare_environment() | {"HF_HUB_OFFLINE": "1"}
    request = {"engine": engine, "commands": [list(words) for words in commands]}
    outcome = run_worker([str(python), "-s", str(_WORKER)], request, env=env, timeout=_TIMEOUT, on_event=listen)
    if outcome.status != "done" or len(errors) != len(commands):
        raise UnavailableError(
            f"{engine_title(engine)}'s parser cannot be asked: {outcome.detail.get('message', outcome.status)}",
            hint="run `eagle3hub engines doctor` to see what is missing, or leave the parser out with --data-only",
            code="engine-parser",
        )
    return version, [errors[index] for index in range(len(commands))]
