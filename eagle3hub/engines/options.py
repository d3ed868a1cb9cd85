"""Read and check the options that say which engines are run and how they are started."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from eagle3hub.engines import ENGINES, engine_name
from eagle3hub.engines.base import EngineSettings
from eagle3hub.engines.check.commands import check_variable
from eagle3hub.engines.check.finding import Against
from eagle3hub.engines.check.settings import Settings, acceptance, check_settings, flag_of, load_json
from eagle3hub.engines.check.snippets import VariableSetting
from eagle3hub.engines.specs import engine_data, engine_title
from eagle3hub.errors import UsageError
from eagle3hub.head.aux_defaults import AUX_CAPTURE

ENDPOINT_ENGINES = ("vllm", "sglang")
ENDPOINT_KEY = "EAGLE3HUB_ENDPOINT_API_KEY"
"""Environment variable that holds the API key for the servers of ``--endpoint``."""


def endpoint_urls(pairs: Sequence[str]) -> dict[str, str]:
    """Parse ``["vllm=http://host:8000"]`` into a mapping, without a final ``/v1``. Raises UsageError otherwise."""
    out: dict[str, str] = {}
    for pair in pairs:
        engine, _, url = pair.partition("=")
        if engine not in ENDPOINT_ENGINES:
            raise _endpoint(
                f"--endpoint names {engine!r}", f"servers of {' and '.join(ENDPOINT_ENGINES)} can be measured"
            )
        if engine in out:
            raise _endpoint(f"--endpoint names {engine} twice", "measure one server of an engine at a time")
        out[engine] = _base_url(engine, url)
    return out


def _base_url(engine: str, url: str) -> str:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable or not url.isprintable() or " " in url:
        raise _endpoint(f"--endpoint {engine} has no address", f"write {engine}=http://host:port")
    if parts.username is not None or parts.query or parts.fragment:
        raise _endpoint(
            f"the address of the {engine} server holds more than scheme, host, port and path",
            f"put an API key into the environment variable {ENDPOINT_KEY}",
        )
    return url.rstrip("/").removesuffix("/v1").rstrip("/")


def _endpoint(message: str, hint: str) -> UsageError:
    return UsageError(message, hint=hint, code="usage-endpoint")


# --tensor-parallel, --engine-arg, --engine-env and --chat-template-arg: read, and held against what engines take.


_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_MOST_DEVICES = 1024
_MOST_CHOICES = 12
_SECRET = re.compile(
    r"(?:^|_)(?:token|secret|passw(?:or)?ds?|credentials?|(?:api|access|secret|private|watermark)_key(?:_b)?)$", re.I
)
_SECRET_VALUE = re.compile(r"\b(?:hf_|sk-|gh[pousr]_|github_pat_)[A-Za-z0-9_-]{16,}")
_LEAVE = "leave it out"
_SERVER = "start the server yourself, and attach to it with --endpoint"
_HEAD = "the run names the head and how it drafts", "see --draft-tokens, --topk and --num-draft-tokens"
_DECIDED: Mapping[str, tuple[str, str]] = {
    **dict.fromkeys(
        ("model", "model_path", "tokenizer", "tokenizer_path", "revision", "code_revision", "tokenizer_revision"),
        ("the run names the target", "--target owner/name@revision"),
    ),
    "dtype": ("the run decides the dtype", "--dtype"),
    "device": ("the run decides the device", "--device"),
    **dict.fromkeys(("seed", "random_seed"), ("the run decides the seed", "--seed")),
    **dict.fromkeys(
        ("tensor_parallel_size", "tp_size", "tp"), ("the run decides the number of devices", "--tensor-parallel N")
    ),
    **dict.fromkeys(("spec_method", "spec_model", "spec_tokens", "speculative_algorithm"), _HEAD),
    **dict.fromkeys(("speculative_draft_model_path", "speculative_draft_model", "speculative_num_steps"), _HEAD),
    **dict.fromkeys(("speculative_eagle_topk", "speculative_num_draft_tokens"), _HEAD),
    **dict.fromkeys(
        ("max_num_seqs", "max_running_requests", "max_batch_size"),
        ("the run decides how many prompts it sends", _LEAVE),
    ),
    **dict.fromkeys(("data_parallel_size", "dp_size"), ("a run has one copy of the model", _SERVER)),
    **dict.fromkeys(
        ("nnodes", "node_rank", "dist_init_addr", "master_addr", "use_ray"),
        ("a run starts an engine on this machine alone", _SERVER),
    ),
    **dict.fromkeys(
        ("disable_log_stats", "enable_iter_perf_stats", "enable_single_process"), ("the run counts by it", _LEAVE)
    ),
    **dict.fromkeys(("worker_cls", "worker_extension_cls"), ("the run watches the head's loading by it", _LEAVE)),
    **dict.fromkeys(
        ("chat_template", "default_chat_template_kwargs", "hf_chat_template_name", "completion_template"),
        ("prompts are rendered by the target's own chat template", "--chat-template-arg KEY=VALUE for its arguments"),
    ),
    "skip_tokenizer_init": ("prompts are rendered by the target's own chat template", _LEAVE),
    "trust_remote_code": ("code that comes with a model is never run", _LEAVE),
}
"""By argument of an engine: why nobody can give it, and what to do instead."""
_OF_THE_DRAFT = frozenset({
    "method", "model", "num_speculative_tokens", "parallel_drafting", "decoding_type", "max_draft_len",
    "speculative_model", "speculative_model_dir", AUX_CAPTURE,
})  # fmt: skip
"""Keys of ``speculative_config`` that a run decides."""
_DECIDED_VARIABLES = frozenset({
    "VLLM_ENABLE_V1_MULTIPROCESSING", "SGLANG_USE_CPU_ENGINE", "SGLANG_CI_SMALL_KV_SIZE", "JAX_PLATFORMS",
    "TLLM_WORKER_USE_SINGLE_PROCESS", "TRT_LLM_DISABLE_LOAD_WEIGHTS_IN_PARALLEL", "TMPDIR", "HF_HUB_OFFLINE",
})  # fmt: skip
"""Environment variables that a run decides."""
_OF_THE_TEMPLATE = frozenset({
    "messages", "conversation", "chat_template", "add_generation_prompt", "continue_final_message", "tokenize",
    "return_dict", "return_tensors", "padding", "truncation", "max_length", "bos_token", "eos_token", "pad_token",
    "unk_token",
})  # fmt: skip
"""Names that are no arguments of a template: programs that render one set them themselves."""
_KIND_OF: Mapping[type, str] = {
    bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"
}  # fmt: skip
_IN_WORDS = {
    "boolean": "true or false", "integer": "a whole number", "number": "a number", "string": "text",
    "array": "a JSON list", "object": "a JSON object",
}  # fmt: skip


def read_engine_settings(
    started: Sequence[str],
    *,
    tensor_parallel: int = 1,
    engine_arg: Sequence[str] = (),
    engine_env: Sequence[str] = (),
    chat_template_arg: Sequence[str] = (),
    versions: Mapping[str, str] | None = None,
) -> EngineSettings:
    """Read the options of the command line; `check_engine_settings` has looked at what this returns.

    Args:
        started: the engines that the run starts, by name; an option that names none of them is for the only one.
        versions: by engine, the version that is run, where it is not the pinned one.

    Raises UsageError for text that cannot be read, and as `check_engine_settings` does.
    """
    known = versions or {}
    arguments: dict[str, dict[str, object]] = {}
    for pair in engine_arg:
        engine, name, text = _addressed("--engine-arg", pair, started)
        outer, _, inner = name.removeprefix("--").replace("-", "_").partition(".")
        own = arguments.setdefault(engine, {})
        if not inner:
            own[outer] = _typed(engine, outer, text, known.get(engine))
        elif isinstance(held := own.setdefault(outer, {}), dict):
            held[inner] = _guessed(text)
    environment: dict[str, dict[str, str]] = {}
    for pair in engine_env:
        engine, name, text = _addressed("--engine-env", pair, started)
        environment.setdefault(engine, {})[name] = text
    rendering = {}
    for pair in chat_template_arg:
        name, given, text = pair.partition("=")
        if not given:
            raise UsageError(
                f"--chat-template-arg {name!r} is not KEY=VALUE",
                hint="--chat-template-arg enable_thinking=false",
                code="usage-chat-template-arg",
            )
        rendering[name] = _guessed(text)
    settings = EngineSettings(tensor_parallel, arguments, environment, rendering)
    check_engine_settings(settings, known)
    if tensor_parallel > 1 and not started:
        raise UsageError(
            f"--tensor-parallel {tensor_parallel} splits an engine that is started, and this run starts none",
            hint="name one with --engine; the reference is spread over devices with --device-map auto",
            code="usage-tensor-parallel",
        )
    return settings


def check_engine_settings(settings: EngineSettings, versions: Mapping[str, str] | None = None) -> None:
    """Check settings against what engines take, and against what a run decides itself.

    ``versions`` holds by engine the version that is run, where it is not the pinned one. Arguments of an engine whose
    names are not known here (`Interface`) are left to the engine. Raises UsageError: ``usage-tensor-parallel``,
    ``usage-engine-arg``, ``usage-engine-arg-decided``, ``usage-engine-arg-value``, ``usage-engine-env``,
    ``usage-engine-secret``, ``usage-chat-template-arg``.
    """
    if not 1 <= settings.tensor_parallel <= _MOST_DEVICES:
        raise UsageError(
            f"--tensor-parallel is the number of devices, 1 to {_MOST_DEVICES}, not {settings.tensor_parallel}",
            code="usage-tensor-parallel",
        )
    for engine, arguments in settings.arguments.items():
        against = Against({engine_name(engine): v} if (v := (versions or {}).get(engine)) else {})
        for name, value in arguments.items():
            _argument(engine, name, value, against)
        _together(engine, settings, against)
    for engine, variables in settings.environment.items():
        for name, text in variables.items():
            _variable(engine_name(engine), name, text, Against())
    for name in settings.chat_template:
        if not _NAME.fullmatch(name) or name in _OF_THE_TEMPLATE:
            raise UsageError(
                f"--chat-template-arg {name!r} is no argument of a chat template",
                hint="--chat-template-arg enable_thinking=false",
                code="usage-chat-template-arg",
            )


def engine_options(settings: EngineSettings) -> dict[str, int | list[str]]:
    """Return what the settings set as options of the command line, by parameter: `read_engine_settings` reads it."""
    lists = {
        "engine_arg": [
            f"{engine}.{name}={_text(value, _kinds(engine, name, Against()))}"
            for engine, arguments in settings.arguments.items()
            for name, value in arguments.items()
        ],
        "engine_env": [
            f"{engine}.{name}={text}"
            for engine, variables in settings.environment.items()
            for name, text in variables.items()
        ],
        "chat_template_arg": [f"{name}={_text(value, ())}" for name, value in settings.chat_template.items()],
    }
    parallel = {"tensor_parallel": settings.tensor_parallel} if settings.tensor_parallel > 1 else {}
    return {**parallel, **{name: given for name, given in lists.items() if given}}


def template_in_words(arguments: Mapping[str, object]) -> str:
    """Name the chat template that prompts are rendered with: the target's own, with these ``arguments``."""
    given = _in_words(arguments)
    return f"the target's own{' with ' if given else ''}{given}"


def arguments_in_words(settings: EngineSettings, engine: str) -> str | None:
    """Write the further arguments of ``engine`` as one line; None if it has none."""
    return _in_words(settings.arguments.get(engine, {})) or None


def settings_in_words(settings: EngineSettings) -> str:
    """Write how engines were started as one line; empty where nothing is set. The chat template is not in it."""
    parts = [f"tensor parallel size {settings.tensor_parallel}"] if settings.tensor_parallel > 1 else []
    for given in (settings.arguments, settings.environment):
        parts += [f"{engine_title(engine)} with {_in_words(values)}" for engine, values in given.items() if values]
    return "; ".join(parts)


def _in_words(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name}={_text(value, ())}" for name, value in sorted(values.items()))


def _addressed(option: str, pair: str, started: Sequence[str]) -> tuple[str, str, str]:
    """Split ``ENGINE.NAME=VALUE`` or ``NAME=VALUE``; in the second form the only engine that is started is meant."""
    code = "usage-engine-arg" if option == "--engine-arg" else "usage-engine-env"
    left, given, text = pair.partition("=")
    prefix, dot, rest = left.partition(".")
    engine = prefix.replace("-", "_")
    if dot and engine in ENGINES:
        left = rest
    else:
        engine = started[0] if len(started) == 1 else ""
    if not given or not left:
        raise UsageError(f"{option} {left!r} is not [ENGINE.]NAME=VALUE", hint=f"{option} vllm.NAME=VALUE", code=code)
    if not engine:
        why = "this run starts no engine" if not started else f"this run starts {' and '.join(started)}"
        hint = (
            f"{option} {started[0]}.{left}=…" if started else f"name the engine with --engine, or leave out {option}"
        )
        raise UsageError(f"{option} {left}: nothing says which engine it is for, and {why}", hint=hint, code=code)
    if engine not in started:
        raise UsageError(
            f"{option} {engine}.{left}: this run does not start {engine_title(engine)}",
            hint=f"engines that it starts: {', '.join(started) or 'none'}",
            code=code,
        )
    return engine, left, text


def _argument(engine: str, name: str, value: Any, against: Against) -> None:
    """Raise UsageError for an argument that the engine does not have, that the run decides, or of another type."""
    shown = f"--engine-arg {engine}.{name}"
    if engine == "llamacpp":
        raise UsageError(
            f"{shown}: llama.cpp is run through its library here, and takes no further arguments",
            hint="start llama-server yourself to serve with other flags; `eagle3hub recipe` prints its command",
            code="usage-engine-arg",
        )
    if _SECRET.search(name) or _is_secret(value):
        raise _secret(shown)
    if name in _DECIDED:
        why, instead = _DECIDED[name]
        raise UsageError(f"{shown}: {why}", hint=instead, code="usage-engine-arg-decided")
    if name == "speculative_config" and isinstance(value, Mapping):
        taken = [key for key in value if key in _OF_THE_DRAFT]
        if taken:
            raise UsageError(f"{shown}.{taken[0]}: {_HEAD[0]}", hint=_HEAD[1], code="usage-engine-arg-decided")
    names = _names(engine, against)
    if names is not None and name not in names:
        found = against.fact(engine, name, 0) or against.unknown_name(engine, "python-keyword", name, names, 0)
        assert found is not None
        hint = f"did you mean {found.instead}?" if found.code == "python-keyword" and found.instead else found.instead
        raise UsageError(f"{shown}: {found.what}", hint=hint, code="usage-engine-arg")
    kinds = _kinds(engine, name, against)
    if value is not None and kinds and not _fits(value, kinds):
        raise _mistyped(shown, value, kinds)
    own = against.interface(engine)
    choices = own.choices.get(flag_of(name), ()) if own is not None else ()
    if choices and isinstance(value, str) and value not in choices:
        wrong = against.unknown_value(engine, "flag-value", name, value, choices, 0)
        raise UsageError(
            f"{shown}: {wrong.what}",
            hint=f"it takes {wrong.instead or ', '.join(choices[:_MOST_CHOICES])}",
            code="usage-engine-arg-value",
        )


def _together(engine: str, settings: EngineSettings, against: Against) -> None:
    """Raise UsageError for arguments that do not go together, or with which acceptance says nothing of the head."""
    values = dict(settings.arguments[engine])
    if engine == "vllm":
        values["tensor_parallel_size"] = settings.tensor_parallel
    written = Settings(values, lambda _: 0, str, complete=False, published=True)
    for finding in check_settings(engine, written, against):
        if finding.severity == "error":
            raise UsageError(
                f"--engine-arg for {engine_title(engine)}: {finding.what}",
                hint=finding.instead,
                code="usage-engine-arg-value",
            )


def _variable(engine: str, name: str, text: str, against: Against) -> None:
    """Raise UsageError for a variable that holds a secret, that the run decides, or that the engine does not read."""
    shown = f"--engine-env {engine}.{name}"
    if not _NAME.fullmatch(name) or "\0" in text:
        raise UsageError(
            f"{shown} is no environment variable", hint="--engine-env NAME=VALUE", code="usage-engine-env"
        )
    if _SECRET.search(name) or name.upper().endswith("_KEY") or _is_secret(text):
        raise _secret(shown)
    if name in _DECIDED_VARIABLES:
        raise UsageError(f"{shown}: the run decides it", hint=_LEAVE, code="usage-engine-env")
    given = VariableSetting(name, text, 0)
    findings = [
        *check_variable(given, against, published=True).findings,
        *acceptance(engine, {name: text}, lambda _: 0, published=True),
    ]
    if findings:
        first = findings[0]
        raise UsageError(
            f"{shown}: {first.what}",
            hint=f"did you mean {first.instead}?" if first.code == "env-unknown" and first.instead else first.instead,
            code="usage-engine-env",
        )


def _names(engine: str, against: Against) -> list[str] | None:
    """Return the arguments that an engine's constructor takes; None if they are not known here."""
    own = against.interface(engine)
    if own is not None and own.keywords:
        return sorted(name for names in own.keywords.values() for name in names)
    if own is not None:
        return sorted(flag.lstrip("-").replace("-", "_") for flag in own.flags if flag.startswith("--"))
    settings = engine_data(engine).yaml
    return sorted(settings["settings"]) if settings else None


def _kinds(engine: str, name: str, against: Against) -> tuple[str, ...]:
    """Return the JSON types that an argument takes; empty if they are not known here."""
    own = against.interface(engine)
    if own is None:
        return ()
    if name in own.types:
        return own.types[name]
    return ("boolean",) if own.arity.get(flag_of(name)) == "0" else ()


def _fits(value: Any, kinds: Sequence[str]) -> bool:
    kind = _KIND_OF.get(type(value))
    return kind in kinds or (kind == "integer" and "number" in kinds)


def _typed(engine: str, name: str, text: str, version: str | None) -> Any:
    """Read the text of an argument as the type that the engine takes; as JSON or text where that is not known."""
    kinds = _kinds(engine, name, Against({engine: version} if version else {}))
    if not kinds:
        return _guessed(text)
    guess = _guessed(text)
    if guess is None or (_fits(guess, kinds) and not isinstance(guess, str)):
        return guess
    if "string" in kinds:
        return text
    raise _mistyped(f"--engine-arg {engine}.{name}", text, kinds)


def _guessed(text: str) -> Any:
    """Read text as JSON, with Python's words for true, false and null as well; what is no JSON is text."""
    words = {"True": True, "False": False, "None": None, "null": None}
    if text in words:
        return words[text]
    loaded = load_json(text)
    finite = not isinstance(loaded, float) or math.isfinite(loaded)
    return text if loaded is None or not finite else loaded


def _text(value: Any, kinds: Sequence[str]) -> str:
    """Write a value so that `_typed` reads it again."""
    if isinstance(value, str) and (("string" in kinds and len(kinds) == 1) or _guessed(value) == value):
        return value
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def _is_secret(value: Any) -> bool:
    return _SECRET_VALUE.search(json.dumps(value)) is not None


def _mistyped(shown: str, value: Any, kinds: Sequence[str]) -> UsageError:
    return UsageError(
        f"{shown} takes {' or '.join(_IN_WORDS[kind] for kind in kinds)}, not {json.dumps(value)[:80]}",
        code="usage-engine-arg-value",
    )


def _secret(shown: str) -> UsageError:
    return UsageError(
        f"{shown} would put a secret into the command, the report and the card",
        hint="set it in the environment that this command runs in: engines get all of that, and no report holds it",
        code="usage-engine-secret",
    )
