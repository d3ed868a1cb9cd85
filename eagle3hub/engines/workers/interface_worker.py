"""Report what an engine's package accepts, from inside its own interpreter.

The request has ``engine`` (vllm or sglang) and ``commands`` (for each, the words after the launcher). The answer is
one ``interface`` event (flags, environment variables, Python names) and one ``command`` event per command, with the
error of the engine's own parser or null. A command of SGLang whose models are folders is also resolved. With
``--dump ENGINE`` on the command line it only prints the interface, to make a version's ``interface.json``.
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

from protocol import Stage, serve


def _vllm():
    import inspect

    import vllm
    import vllm.envs
    from vllm.config import SpeculativeConfig
    from vllm.engine.arg_utils import EngineArgs
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
    interface = {
        "flags": _flags(parser),
        "environment": sorted(vllm.envs.environment_variables),
        "names": sorted(n for n in vllm.__all__ if not n.startswith("_")),
        "keywords": {"vllm.LLM": sorted(keywords - {"self", "kwargs"})},
        "speculative_config": sorted(f.name for f in dataclasses.fields(SpeculativeConfig)),
    }
    return vllm.__version__, interface, check


def _sglang():
    os.environ.setdefault("SGLANG_USE_CPU_ENGINE", "1")
    import sglang
    from sglang.srt.arg_groups.arg_utils import record_fields
    from sglang.srt.parser.conversation import chat_templates
    from sglang.srt.server_args import ServerArgs, prepare_server_args
    from sglang.srt.speculative.spec_info import SpeculativeAlgorithm

    parser = argparse.ArgumentParser(prog="sglang serve")
    ServerArgs.add_cli_args(parser)
    variables = set()
    for file in pathlib.Path(sglang.__file__).parent.rglob("*.py"):
        variables |= set(re.findall(r"\bSGL(?:ANG)?_[A-Z0-9_]+\b", file.read_text(errors="replace")))

    def check(words):
        arguments = prepare_server_args(words)
        paths = (arguments.model_path, arguments.speculative_draft_model_path)
        if all(path and pathlib.Path(path).is_dir() for path in paths):
            arguments.resolve_once()

    interface = {
        "flags": _flags(parser),
        "environment": sorted(variables),
        "names": sorted(n for n in sglang.__all__ if not n.startswith("_")),
        "keywords": {"sglang.Engine": sorted({f.name for f in record_fields(ServerArgs)} | {"server_args"})},
        "algorithms": sorted(m for m in dir(SpeculativeAlgorithm) if m.isupper()),
        "chat_templates": sorted(chat_templates),
    }
    return sglang.__version__, interface, check


def _flags(parser):
    return sorted(option for action in parser._actions for option in action.option_strings)


_ENGINES = {"vllm": _vllm, "sglang": _sglang}


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
