"""Report what an engine's package accepts, from inside its own interpreter.

The request has ``engine`` (vllm, sglang or sglang_jax) and ``commands`` (for each, the words after the launcher). The
answer is one ``interface`` event (flags with their values, environment variables, Python names) and one ``command``
event per command, with the error of the engine's own parser or null. A command of SGLang whose models are folders is
also resolved. With ``--dump ENGINE`` on the command line it only prints the interface, to make a version's
``interface.json``.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import os
import pathlib
import re
import sys
import types
import typing

from protocol import Stage, serve


def _vllm():
    import inspect

    import vllm
    import vllm.envs
    from vllm.config import SpeculativeConfig
    from vllm.engine.arg_utils import EngineArgs
    from vllm.reasoning import ReasoningParserManager
    from vllm.tool_parsers import ToolParserManager
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    try:
        from vllm.entrypoints.common.cli_args import make_arg_parser  # from 0.33.0 on
    except ImportError:
        from vllm.entrypoints.launchers.cli_args import make_arg_parser
    parser = make_arg_parser(FlexibleArgumentParser(prog="vllm serve"))

    def check(words):
        arguments = parser.parse_args(words)
        config = getattr(arguments, "speculative_config", None)
        if config is not None and not isinstance(config, dict):
            raise ValueError(f"--speculative-config is {type(config).__name__}, not an object")

    keywords = {f.name for f in dataclasses.fields(EngineArgs)} | set(inspect.signature(vllm.LLM.__init__).parameters)
    parsers = {  # held against the flags when the server starts, not by the parser
        "--reasoning-parser": ReasoningParserManager.list_registered(),
        "--tool-call-parser": ToolParserManager.list_registered(),
    }
    interface = {
        **_flags(parser, parsers),
        "environment": sorted(vllm.envs.environment_variables),
        "names": sorted(n for n in vllm.__all__ if not n.startswith("_")),
        "keywords": {"vllm.LLM": sorted(keywords - {"self", "kwargs"})},
        "types": _types(EngineArgs),
        "speculative_config": sorted(f.name for f in dataclasses.fields(SpeculativeConfig)),
        "speculative_values": {
            f.name: values for f in dataclasses.fields(SpeculativeConfig) if (values := _literals(f.type))
        },
    }
    return vllm.__version__, interface, check


def _sglang():
    os.environ.setdefault("SGLANG_USE_CPU_ENGINE", "1")
    import sglang
    from sglang.srt.arg_groups.arg_utils import record_fields
    from sglang.srt.arg_groups.speculative_hook import _resolve_speculative_algorithm_alias
    from sglang.srt.parser.conversation import chat_templates
    from sglang.srt.server_args import ServerArgs, prepare_server_args
    from sglang.srt.speculative.spec_info import SpeculativeAlgorithm

    parser = argparse.ArgumentParser(prog="sglang serve")
    ServerArgs.add_cli_args(parser)

    def check(words):
        arguments = prepare_server_args(words)
        paths = (arguments.model_path, arguments.speculative_draft_model_path)
        if all(path and pathlib.Path(path).is_dir() for path in paths):
            arguments.resolve_once()

    aliases = {name for name in ("NEXTN",) if _resolve_speculative_algorithm_alias(name, None) != name}
    interface = {
        **_flags(parser),
        "environment": sorted(_named(sglang, r"\bSGL(?:ANG)?_[A-Z0-9_]+\b")),
        "names": sorted(n for n in sglang.__all__ if not n.startswith("_")),
        "keywords": {"sglang.Engine": sorted({f.name for f in record_fields(ServerArgs)} | {"server_args"})},
        "types": _types(ServerArgs),
        "algorithms": sorted({m for m in dir(SpeculativeAlgorithm) if m.isupper()} | aliases),
        "chat_templates": sorted(chat_templates),
    }
    return sglang.__version__, interface, check


def _sglang_jax():
    import sgl_jax
    from sgl_jax.srt.server_args import ServerArgs

    parser = argparse.ArgumentParser(prog="python -m sgl_jax.launch_server")
    ServerArgs.add_cli_args(parser)
    interface = {**_flags(parser), "environment": sorted(_named(sgl_jax, r"\bSGL(?:ANG)?(?:_JAX)?_[A-Z0-9_]+\b"))}
    return sgl_jax.__version__, interface, parser.parse_args


def _named(package, pattern):
    """Return the names of a pattern that stand in the sources of a package."""
    names = set()
    for file in pathlib.Path(package.__file__).parent.rglob("*.py"):
        names |= set(re.findall(pattern, file.read_text(errors="replace")))
    return names


def _flags(parser, more=()):
    """Return every flag, the values it is limited to, and how many values follow it if that is not one."""
    actions = [(option, action) for action in parser._actions for option in action.option_strings]
    choices = {option: action.choices for option, action in actions if action.choices is not None} | dict(more)
    return {
        "flags": sorted(option for option, _ in actions),
        "choices": {
            option: sorted({str(value) for value in values if value is not None}) for option, values in choices.items()
        },
        "arity": {option: str(action.nargs) for option, action in actions if action.nargs is not None},
    }


_JSON = {bool: "boolean", int: "integer", float: "number", str: "string", dict: "object"}
_JSON |= dict.fromkeys((list, tuple, set), "array")


def _types(record):
    """Return the JSON types of each field of a class that takes JSON values and nothing else."""
    names = vars(sys.modules[record.__module__])
    found = {}
    for name, hint in {k: v for kind in reversed(record.__mro__) for k, v in _annotations(kind).items()}.items():
        try:
            kinds = _kinds(eval(hint, dict(names)) if isinstance(hint, str) else hint)
        except NameError:  # of a type that is there for type checkers alone
            continue
        if kinds and None not in kinds:
            found[name] = sorted(kinds)
    return found


def _annotations(kind):
    return vars(kind).get("__annotations__", {})


def _kinds(hint):
    """Return the JSON types that a type hint allows, null left out; None among them stands for anything else."""
    origin = typing.get_origin(hint) or hint
    if origin is typing.Annotated:
        return _kinds(typing.get_args(hint)[0])
    if origin in (typing.Union, types.UnionType):
        return set().union(*(_kinds(part) for part in typing.get_args(hint)))
    if origin is typing.Literal:
        return {_JSON.get(type(value)) for value in _flat(hint) if value is not None}
    if origin is type(None):
        return set()
    return {_JSON.get(origin)}


def _literals(hint):
    """Return the values that a type hint is limited to; none if it also takes others."""
    values = []
    for part in typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,):
        if typing.get_origin(part) is typing.Literal:
            values += _flat(part)
        elif part is not type(None):
            return []
    return sorted(str(value) for value in values if value is not None)


def _flat(literal):
    found = []
    for value in typing.get_args(literal):
        found += _flat(value) if typing.get_origin(value) is typing.Literal else [value]
    return found


_ENGINES = {"vllm": _vllm, "sglang": _sglang, "sglang_jax": _sglang_jax}


def _error(check, words):
    """Return the error of the engine's parser for a command, in one line, or None."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            check(words)
    except SystemExit as stop:
        if stop.code in (0, None):
            return None
        lines = [line for line in said.getvalue().splitlines() if "error:" in line]
        return lines[-1].split("error:", 1)[1].strip() if lines else "it ends with a usage error"
    except Exception as error:
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}"
    return None


def _run(request, tell):
    with Stage("import"):
        version, interface, check = _ENGINES[request["engine"]]()
    tell("interface", version=version, interface=interface)
    with Stage("parse"):
        for index, words in enumerate(request["commands"]):
            tell("command", index=index, error=_error(check, words))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--dump"]:
        version, interface, _ = _ENGINES[sys.argv[2]]()
        sys.stdout.write(json.dumps({"version": version, **interface}, indent=0, sort_keys=True) + "\n")
    else:
        serve(_run)
