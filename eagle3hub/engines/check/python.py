"""Check Python snippets and YAML files that start an engine."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from typing import Any

import yaml

from eagle3hub.engines.check.commands import check_settings, vllm_speculative_config
from eagle3hub.engines.check.finding import RecipeFinding, known_fact, unknown_name
from eagle3hub.engines.check.snippets import UNFILLED, Snippet
from eagle3hub.engines.specs import default_version, engine_data, interface, recipe_versions, version_data
from eagle3hub.head.aux_defaults import AUX_CAPTURE

# Check TensorRT-LLM's YAML


_EAGLE = ("Eagle", "Eagle3")


def check_yaml(snippet: Snippet) -> list[RecipeFinding]:
    """Check the ``speculative_config`` of a YAML file; other YAML is ignored."""
    try:
        document = yaml.safe_load(snippet.text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return []
    config = document.get("speculative_config") if isinstance(document, dict) else None
    if not isinstance(config, dict) or config.get("decoding_type") not in _EAGLE:
        return []
    begin = snippet.line_of("speculative_config")
    inner = Snippet(begin, snippet.lines[begin - snippet.start :])
    return trtllm_config({str(k): v for k, v in config.items()}, inner.line_of, need_type=True)


def trtllm_config(config: Mapping[str, Any], line: Callable[[str], int], *, need_type: bool) -> list[RecipeFinding]:
    """Check TensorRT-LLM's settings of an EAGLE-3 draft, given as YAML or as keywords of its class."""
    findings: list[RecipeFinding] = []
    known = engine_data("trtllm").yaml["speculative_config"]
    for key in config:
        found = known_fact("trtllm", key, line(key))
        if found is None and key not in known:
            found = unknown_name("trtllm", "yaml-unknown", key, known, line(key), must_resemble=True)
        findings += [found] if found else []
    own = version_data("trtllm").decoding_type
    if need_type and config.get("decoding_type") != own:
        what = (
            f"TensorRT-LLM {default_version('trtllm')} takes no decoding_type {config['decoding_type']}: it came with "
            f"{_first_with(config['decoding_type'])}, which takes {own} too"
        )
        at, instead = line("decoding_type"), f"decoding_type: {own}"
        findings.append(RecipeFinding("trtllm-decoding-type", "warning", at, "trtllm", what, instead))
    if config.get(AUX_CAPTURE) == [-1]:
        what = (
            f"{AUX_CAPTURE} [-1] builds no fc and feeds the head the final, normed hidden state: right only "
            "for a head with use_aux_hidden_state false, silently wrong for one with aux layers"
        )
        instead = "leave it out for the default aux layers, or list the head's layers, counted from 0"
        at = line(AUX_CAPTURE)
        findings.append(RecipeFinding("trtllm-final-state", "warning", at, "trtllm", what, instead))
    if "max_draft_len" not in config:
        what = "max_draft_len is not given, and TensorRT-LLM needs it"
        findings.append(
            RecipeFinding("trtllm-draft-len", "error", line("speculative"), "trtllm", what, "max_draft_len: 3")
        )
    return findings


def _first_with(decoding_type: str) -> str:
    """Return the first version whose recipes have ``decoding_type``."""
    return next(v for v in recipe_versions("trtllm") if version_data("trtllm", v).decoding_type == decoding_type)


# Check Python that starts an engine


_PACKAGES = {"vllm": "vllm", "sglang": "sglang", "tensorrt_llm": "trtllm"}
_CONSTRUCTORS = {"vllm.LLM": "vllm.LLM", "sglang.Engine": "sglang.Engine", "sglang.LLM": "sglang.Engine"}
_DRAFT_CONFIGS = ("Eagle3DecodingConfig", "EagleDecodingConfig")


def check_python(snippet: Snippet) -> list[RecipeFinding]:
    """Check the names taken from an engine's package, and the keywords and values of its constructors."""
    try:
        tree = ast.parse(snippet.text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    names = _imported(tree)
    findings: list[RecipeFinding] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            for alias in node.names:
                findings += _name(f"{node.module}.{alias.name}", snippet.start + node.lineno - 1)
        elif isinstance(node, ast.Attribute):
            found = _dotted(node, names)
            findings += _name(found, snippet.start + node.lineno - 1) if found else []
        elif isinstance(node, ast.Call):
            found = _dotted(node.func, names)
            findings += _call(found, node, snippet) if found else []
    return list(dict.fromkeys(findings))


def _imported(tree: ast.Module) -> dict[str, str]:
    """Map local names to the engines' packages, and to what is imported from them."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                root = alias.name.partition(".")[0]
                if root in _PACKAGES:
                    names[alias.asname or root] = alias.name if alias.asname else root
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] in _PACKAGES:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names


def _dotted(node: ast.expr, names: dict[str, str]) -> str | None:
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute):
        owner = _dotted(node.value, names)
        return f"{owner}.{node.attr}" if owner else None
    return None


def _name(dotted: str, line: int) -> list[RecipeFinding]:
    package, _, rest = dotted.partition(".")
    engine = _PACKAGES.get(package)
    if engine is None or not rest:
        return []
    fact = known_fact(engine, dotted, line)
    if fact is not None:
        return [fact]
    own = interface(engine)
    known = None if own is None else own.names
    # names of classes at the top of the package; a lower-case one may be a module, which has names of its own
    if known is None or "." in rest or not rest[0].isupper() or rest in known:
        return []
    found = unknown_name(engine, "python-name", dotted, [f"{package}.{name}" for name in known], line)
    return [found] if found else []


def _call(dotted: str, node: ast.Call, snippet: Snippet) -> list[RecipeFinding]:
    settings, lines = _settings(node, snippet)
    at = snippet.start + node.lineno - 1
    if dotted.rpartition(".")[2] in _DRAFT_CONFIGS and dotted.startswith("tensorrt_llm."):
        return [] if _unpacks(node) else trtllm_config(settings, lambda name: lines.get(name, at), need_type=False)
    constructor = _CONSTRUCTORS.get(dotted)
    if constructor is None:
        return []
    engine = constructor.partition(".")[0]
    findings = []
    own = interface(engine)
    known = None if own is None else own.keywords.get(constructor)
    for name in settings:
        fact = known_fact(engine, name, lines[name])
        if fact is not None:
            findings.append(fact)
        elif known is not None and name not in known:
            found = unknown_name(engine, "python-keyword", name, known, lines[name])
            findings += [found] if found else []
    findings += check_settings(
        engine, settings, lambda name: lines.get(name, at), written=lambda name: name, complete=not _unpacks(node)
    )
    config = settings.get("speculative_config")
    if engine == "vllm" and isinstance(config, dict):
        devices = settings.get("tensor_parallel_size", 1)
        findings += vllm_speculative_config(
            config,
            lambda name: _line_in(snippet, lines["speculative_config"], name),
            devices if type(devices) is int and not _unpacks(node) else None,
        )
    return findings


def _settings(node: ast.Call, snippet: Snippet) -> tuple[dict[str, Any], dict[str, int]]:
    """Return the values of the keywords (a placeholder unless literal), and their lines."""
    settings: dict[str, Any] = {}
    lines: dict[str, int] = {}
    for keyword in node.keywords:
        if keyword.arg is None:
            continue
        try:
            settings[keyword.arg] = ast.literal_eval(keyword.value)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            settings[keyword.arg] = UNFILLED
        lines[keyword.arg] = snippet.start + keyword.value.lineno - 1
    return settings, lines


def _unpacks(node: ast.Call) -> bool:
    return any(keyword.arg is None for keyword in node.keywords)


def _line_in(snippet: Snippet, begin: int, name: str) -> int:
    rest = Snippet(begin, snippet.lines[begin - snippet.start :])
    return rest.line_of(name)
