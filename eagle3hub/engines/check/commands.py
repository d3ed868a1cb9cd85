"""Check a command against the engine's interface, and against the engine's own parser if it is installed."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from eagle3hub.engines import ENGINES
from eagle3hub.engines.check.finding import RecipeFinding, known_fact, unknown_name
from eagle3hub.engines.check.snippets import UNFILLED, ServerCommand, VariableSetting, is_flag
from eagle3hub.engines.process import Event, run_worker
from eagle3hub.engines.specs import engine_data, engine_title, interface
from eagle3hub.errors import UnavailableError

# Check an engine's settings, whether they are flags of a command or keywords of a call
#
# The engines' data name the places in the engines' source.


_NUMBERS = ("speculative_num_steps", "speculative_eagle_topk", "speculative_num_draft_tokens")
_OPEN = re.compile(rf"{UNFILLED}|[${{}}*…]|\.\.\.")

LineOf = Callable[[str], int]
WrittenAs = Callable[[str], str]


def is_open(value: Any) -> bool:
    """Whether a value is a placeholder, or unknown until the text runs."""
    return value is None or (isinstance(value, str) and bool(_OPEN.search(value)))


def check_settings(
    engine: str, settings: Mapping[str, Any], line: LineOf, *, written: WrittenAs, complete: bool
) -> list[RecipeFinding]:
    """Check settings, which are named with underscores; ``written`` turns a name into the form that the text uses.

    If the settings are not ``complete`` (flags quoted without their command), missing settings are no fault.
    """
    if engine == "sglang":
        return _sglang(settings, line, written, complete)
    if engine == "sglang_jax":
        return _sglang_jax(settings, line, written, complete)
    return []


def _sglang(settings: Mapping[str, Any], line: LineOf, written: WrittenAs, complete: bool) -> list[RecipeFinding]:
    findings = []
    own = interface("sglang")
    algorithm = settings.get("speculative_algorithm")
    draft = settings.get("speculative_draft_model_path", settings.get("speculative_draft_model"))
    at = line("speculative_algorithm")
    if own is not None and not is_open(algorithm) and str(algorithm).upper() not in own.algorithms:
        found = unknown_name("sglang", "sglang-algorithm", str(algorithm), own.algorithms, at)
        findings += [found] if found else []
    if str(algorithm).upper() == "EAGLE" and re.search(r"eagle-?3", str(draft), re.IGNORECASE):
        what = "with the algorithm EAGLE an EAGLE-3 head gets no aux hidden states: it loads, and nothing is accepted"
        findings.append(
            RecipeFinding("sglang-eagle", "warning", at, "sglang", what, f"{written('speculative_algorithm')} EAGLE3")
        )
    findings += _sglang_numbers(settings, line, written, complete)
    template = settings.get("chat_template")
    named = isinstance(template, str) and not is_open(template) and not re.search(r"[/.]", template)
    if named and own is not None and template not in own.chat_templates:
        what = f"SGLang has no built-in chat template {template!r}, and no file is named: it does not start"
        instead = "a .jinja file, or chat_template_kwargs with each request (such as enable_thinking: false)"
        findings.append(RecipeFinding("sglang-chat-template", "error", line("chat_template"), "sglang", what, instead))
    return findings


def _sglang_numbers(
    settings: Mapping[str, Any], line: LineOf, written: WrittenAs, complete: bool
) -> list[RecipeFinding]:
    given = [name for name in _NUMBERS if name in settings]
    steps, topk, nodes = (settings.get(name) for name in _NUMBERS)
    if not given:
        return []
    at = line(given[-1])
    if len(given) < 3:
        if not complete:
            return []
        missing = " and ".join(written(name) for name in _NUMBERS if name not in settings)
        have = " and ".join(written(name) for name in given)
        if given == list(_NUMBERS[:2]) and str(topk) == "1":
            what = f"{missing} is not given: SGLang takes {written(_NUMBERS[0])} + 1, with a warning"
            return [RecipeFinding("sglang-numbers", "warning", at, "sglang", what, f"all three, or none of {have}")]
        instead = f"{missing} as well (for 5 steps and top-k 4 SGLang itself takes 8), or none of the three"
        what = f"{have} without {missing}: SGLang fails as it starts"
        return [RecipeFinding("sglang-numbers", "error", at, "sglang", what, instead)]
    if str(topk) == "1" and str(steps).isdigit() and str(nodes).isdigit() and int(str(nodes)) != int(str(steps)) + 1:
        what = f"{written(_NUMBERS[2])} {nodes} is replaced by {int(str(steps)) + 1}: a chain of {steps} and its root"
        instead = f"{written(_NUMBERS[2])} {int(str(steps)) + 1}"
        return [RecipeFinding("sglang-chain", "warning", at, "sglang", what, instead)]
    return []


def _sglang_jax(settings: Mapping[str, Any], line: LineOf, written: WrittenAs, complete: bool) -> list[RecipeFinding]:
    if not complete or "speculative_algorithm" not in settings:
        return []
    at = line("speculative_algorithm")
    missing = [name for name in _NUMBERS if name not in settings]
    if missing:
        what = (
            f"{' and '.join(map(written, missing))} left to sglang-jax's defaults (steps 4, top-k 5, draft tokens 4), "
            "which its overlap scheduler refuses"
        )
        instead = "top-k 1 and one draft token more than steps, all three written"
        return [RecipeFinding("sglang-jax-numbers", "error", at, "sglang_jax", what, instead)]
    steps, topk, nodes = (str(settings[name]) for name in _NUMBERS)
    chain = topk == "1" and steps.isdigit() and nodes == str(int(steps) + 1)
    if not chain and "disable_overlap_schedule" not in settings and all(v.isdigit() for v in (steps, topk, nodes)):
        what = f"steps {steps}, top-k {topk} and draft tokens {nodes} are refused by the overlap scheduler"
        instead = "--disable-overlap-schedule, or top-k 1 and one draft token more than steps"
        return [RecipeFinding("sglang-jax-numbers", "error", at, "sglang_jax", what, instead)]
    return []


def vllm_speculative_config(
    config: Mapping[str, Any], line: LineOf, tensor_parallel: int | None = None
) -> list[RecipeFinding]:
    """Check vLLM's speculative config: unknown keys, a method that vLLM would guess wrongly, the draft's devices.

    ``tensor_parallel`` is the number of devices that the command splits the target over, or None if it is not known.
    """
    findings = []
    devices = config.get("draft_tensor_parallel_size")
    if tensor_parallel is not None and type(devices) is int and devices not in (1, tensor_parallel):
        what = f"vLLM refuses draft_tensor_parallel_size {devices} for a target on {tensor_parallel}"
        instead = f"draft_tensor_parallel_size 1 or {tensor_parallel}, or leave it out"
        at = line("draft_tensor_parallel_size")
        findings.append(RecipeFinding("vllm-draft-devices", "error", at, "vllm", what, instead))
    own = interface("vllm")
    for key in config:
        if key == "tensor_parallel_size":
            what = "vLLM refuses tensor_parallel_size in the speculative config"
            findings.append(
                RecipeFinding("vllm-config-key", "error", line(key), "vllm", what, "draft_tensor_parallel_size")
            )
        elif own is not None and key not in own.speculative_config:
            known = own.speculative_config
            found = known_fact("vllm", key, line(key)) or unknown_name(
                "vllm", "vllm-config-key", key, known, line(key)
            )
            findings += [found] if found else []
    method, model = config.get("method"), str(config.get("model", "")).lower()
    if method is None and "eagle-" in model:
        what = "vLLM guesses the method from the name and takes eagle-… for EAGLE-1"
        findings.append(RecipeFinding("vllm-method", "warning", line("model"), "vllm", what, '"method": "eagle3"'))
    if method == "eagle" and re.search(r"eagle-?3", model):
        what = "the method eagle is EAGLE-1 and 2, and the head's name says EAGLE-3"
        findings.append(RecipeFinding("vllm-method", "warning", line("method"), "vllm", what, '"method": "eagle3"'))
    return findings


# Check the words of a server's command, and environment variables


_NUMBER = re.compile(r"^-\d")
_PREFIXES = {"vllm": ("VLLM_",), "sglang": ("SGLANG_", "SGL_"), "llamacpp": ("LLAMA_ARG_",)}
_MARKS = {
    "vllm": ("--speculative-config",),
    "sglang": ("--speculative-algorithm", "--speculative-eagle-topk"),
    "llamacpp": ("--spec-type", "--spec-draft-model"),
}


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


def command_engine_hint(commands: Sequence[ServerCommand]) -> str | None:
    """Return the engine that flags without a command belong to: the only engine that the text starts, or None."""
    engines = {command.engine for command in commands if command.engine}
    return engines.pop() if len(engines) == 1 else None


def check_command(command: ServerCommand, hint: str | None) -> list[RecipeFinding]:
    """Check one command, or flags that stand alone (for these, missing flags are no fault)."""
    given = parse_flags(command.words)
    engine = command.engine or next((e for e, marks in _MARKS.items() if any(m in given for m in marks)), hint)
    if engine is None:
        return []
    if engine == "vllm":
        given = {_vllm_name(name): None if "." in name else value for name, value in given.items()}
    findings = []
    minimum = engine_data(engine).minimum
    if minimum is not None and "--speculative-algorithm" in given:
        line = command.where.line_of("sgl_jax")
        instead = f"say that sglang-jax {minimum.version} or later is needed"
        findings.append(RecipeFinding("sglang-jax-version", "warning", line, engine, minimum.says, instead))
    findings += _names(engine, given, command)
    settings = {name.lstrip("-").replace("-", "_"): value for name, value in given.items()}
    if engine == "vllm" and isinstance(given.get("--speculative-config"), str):
        devices = given.get("--tensor-parallel-size", given.get("-tp", "1"))
        findings += _vllm_config(str(given["--speculative-config"]), command, _whole(devices))
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
    """Return the plain flag: vLLM accepts underscores for dashes, and ``--flag.key`` for a key of a JSON value."""
    return name.partition(".")[0].replace("_", "-")


def _names(engine: str, given: Mapping[str, Any], command: ServerCommand) -> list[RecipeFinding]:
    findings = []
    own = interface(engine)
    known = None if own is None else own.flags
    for name in given:
        line = command.where.line_of(name)
        fact = known_fact(engine, name, line)
        if fact is not None:
            findings.append(fact)
        elif known is not None and name not in known and sum(flag.startswith(name) for flag in known) != 1:
            found = unknown_name(engine, "flag-unknown", name, known, line)
            findings += [found] if found else []
    return findings


def _whole(value: Any) -> int | None:
    """The number that a setting gives, or None for a placeholder."""
    text = str(value)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 6 else None


def _vllm_config(text: str, command: ServerCommand, tensor_parallel: int | None) -> list[RecipeFinding]:
    line = command.where.line_of("--speculative-config")
    if UNFILLED in text or "$" in text:
        return []
    try:
        config = json.loads(text)
    except ValueError as error:
        what = f"--speculative-config is not JSON ({error})"
        instead = '--speculative-config \'{"method": "eagle3", "model": "…", "num_speculative_tokens": 3}\''
        return [RecipeFinding("vllm-config-json", "error", line, "vllm", what, instead)]
    if not isinstance(config, dict):
        return [RecipeFinding("vllm-config-json", "error", line, "vllm", "--speculative-config is not a JSON object")]
    return vllm_speculative_config(config, lambda name: command.where.line_of(name), tensor_parallel)


def check_variable(variable: VariableSetting) -> list[RecipeFinding]:
    """Check an environment variable: the engine no longer reads it, or its name looks misspelled."""
    for engine in ENGINES:
        fact = known_fact(engine, variable.name, variable.line)
        if fact is not None:
            return [fact]
        own = interface(engine)
        known = () if own is None else own.environment
        if variable.name.startswith(_PREFIXES.get(engine, ())) and known and variable.name not in known:
            found = unknown_name(engine, "env-unknown", variable.name, known, variable.line, must_resemble=True)
            return [found] if found else []
    return []


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

    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")} | {"HF_HUB_OFFLINE": "1"}
    request = {"engine": engine, "commands": [list(words) for words in commands]}
    outcome = run_worker([str(python), "-s", str(_WORKER)], request, env=env, timeout=_TIMEOUT, on_event=listen)
    if outcome.status != "done" or len(errors) != len(commands):
        raise UnavailableError(
            f"{engine_title(engine)}'s parser cannot be asked: {outcome.detail.get('message', outcome.status)}",
            hint="run `eagle3hub engines doctor` to see what is missing, or leave the parser out with --data-only",
            code="engine-parser",
        )
    return version, [errors[index] for index in range(len(commands))]
