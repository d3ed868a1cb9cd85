"""Check YAML and JSON that an engine takes: its settings file, and vLLM's speculative config alone."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from eagle3hub.engines.check.containers import yaml_starts
from eagle3hub.engines.check.finding import Against, NotChecked, Outcome, RecipeFinding
from eagle3hub.engines.check.settings import (
    Settings,
    acceptance,
    check_settings,
    flag_of,
    is_open,
    load_json,
    vllm_speculative_config,
)
from eagle3hub.engines.check.snippets import Snippet
from eagle3hub.engines.specs import engine_data, recipe_versions, version_data
from eagle3hub.head.aux_defaults import AUX_CAPTURE

if TYPE_CHECKING:
    import yaml

_EAGLE = ("Eagle", "Eagle3")
_MARKS = re.compile(
    r"\b(?:speculative_(?:config|model)|num_speculative_tokens|decoding_type|max_draft_len|speculative[_-]algorithm"
    r"|speculative-config|vllm|sglang|trtllm|tensorrt[_-]llm|eagle3?)\b",
    re.IGNORECASE,
)
_OPEN = re.compile(r"\{\{|\{%|^\s*(?:\.\.\.|…)\s*$|<[A-Za-z][^<>\n]*>", re.MULTILINE)
_COMMENTS = re.compile(r"^\s*//|\.\.\.|…|,\s*[}\]]|/\*", re.MULTILINE)

# YAML


def check_yaml(snippet: Snippet, against: Against, published: bool) -> Outcome:
    """Check a YAML document that an engine takes; say of others, and of what does not parse, that nothing was checked.

    TensorRT-LLM's settings are known from its source, those of vLLM and SGLang are their flags.
    """
    import yaml

    try:
        roots = list(yaml.compose_all(snippet.text, Loader=yaml.SafeLoader))
        documents = list(yaml.safe_load_all(snippet.text))
    except (yaml.YAMLError, ValueError, RecursionError, TypeError) as error:
        return _not_yaml(snippet, error)
    out = Outcome()
    for root, document in zip(roots, documents, strict=True):
        one = _document(root, document, snippet, against, published)
        out.findings += one.findings
        out.not_checked += one.not_checked
        out.checked += one.checked
    return out


def _document(root: yaml.Node | None, document: Any, snippet: Snippet, against: Against, published: bool) -> Outcome:
    import yaml

    if not isinstance(document, dict) or not isinstance(root, yaml.MappingNode):
        several = next((True for started in yaml_starts(root) if started.words), False)
        return Outcome(not_checked=[] if several or document is None else _unheld(snippet))
    lines = {str(k.value): snippet.start + k.start_mark.line for k, _ in root.value if isinstance(k, yaml.ScalarNode)}
    given = {str(key): value for key, value in document.items()}
    config = given.get("speculative_config")
    inner = next((v for k, v in root.value if getattr(k, "value", None) == "speculative_config"), None)
    at = _lines_of(inner, snippet.start, lines.get("speculative_config", snippet.start))
    if isinstance(config, dict) and ("method" in config or "num_speculative_tokens" in config):
        return _flags_file("vllm", given, lines, at, against, published)
    trtllm = engine_data("trtllm").yaml
    if isinstance(config, dict) or set(given) & (set(trtllm["settings"]) - _SHARED):
        return _trtllm(given, lines, at, against, published)
    for engine in ("vllm", "sglang"):
        own = against.interface(engine)
        flags = 0 if own is None else sum(flag_of(name) in own.flags for name in given)
        if own is not None and flags >= 2 and flags * 2 > len(given):
            return _flags_file(engine, given, lines, at, against, published)
    held = next((True for started in yaml_starts(root) if started.words), False)
    return Outcome(not_checked=[] if held else _unheld(snippet))


_SHARED = frozenset({
    "backend", "decoding_config", "dtype", "enable_chunked_prefill", "enable_lora", "load_format", "lora_config",
    "max_batch_size", "max_input_len", "max_num_tokens", "max_seq_len", "model", "model_kwargs",
    "pipeline_parallel_size", "reasoning_parser", "revision", "skip_tokenizer_init", "stream_interval",
    "tensor_parallel_size", "tokenizer", "tokenizer_mode", "tokenizer_revision", "trust_remote_code",
})  # fmt: skip
"""Keys of TensorRT-LLM's settings that other programs have as well: alone they do not make a file one of these."""


def _lines_of(node: yaml.Node | None, start: int, outside: int) -> Callable[[str], int]:
    """Return a function that gives the line of a key of a mapping, or else ``outside``."""
    import yaml

    lines = {}
    if isinstance(node, yaml.MappingNode):
        lines = {str(k.value): start + k.start_mark.line for k, _ in node.value if isinstance(k, yaml.ScalarNode)}
    return lambda name: lines.get(name, outside)


def _not_yaml(snippet: Snippet, error: Exception) -> Outcome:
    mark = getattr(error, "problem_mark", None)
    line = min(snippet.start + (mark.line if mark is not None else 0), snippet.start + len(snippet.lines) - 1)
    out = Outcome(not_checked=[NotChecked(snippet.start, None, "YAML that does not parse")])
    if _MARKS.search(snippet.text) and not _OPEN.search(snippet.text):
        why = str(getattr(error, "problem", None) or "it is nested too deep or holds a value that cannot be read")
        out.findings.append(RecipeFinding("yaml-syntax", "error", line, "yaml", f"the YAML does not parse: {why}"))
    return out


def _unheld(snippet: Snippet) -> list[NotChecked]:
    return [NotChecked(snippet.start, None, "YAML that is no engine's settings as far as is known here")]


def _flags_file(
    engine: str,
    given: Mapping[str, object],
    lines: Mapping[str, int],
    inner: Callable[[str], int],
    against: Against,
    published: bool,
) -> Outcome:
    """Check a settings file whose keys are the flags of the engine's server."""
    out = Outcome(checked=1)
    own = against.interface(engine)
    for name, value in given.items():
        fact = against.fact(engine, flag_of(name), lines[name]) or against.fact(engine, name, lines[name])
        if fact is not None:
            out.findings.append(fact)
        elif own is not None and flag_of(name) not in own.flags and name != "model_tag":
            found = against.unknown_name(engine, "yaml-unknown", name, [f[2:] for f in own.flags], lines[name])
            out.findings += [found] if found else []
        elif own is not None and isinstance(value, str) and not is_open(value):
            choices = own.choices.get(flag_of(name), ())
            if choices and value not in choices:
                out.findings.append(against.unknown_value(engine, "flag-value", name, value, choices, lines[name]))
    values = {name.replace("-", "_"): value for name, value in given.items()}
    config = values.get("speculative_config")
    if isinstance(config, str):
        loaded = load_json(config)
        if isinstance(loaded, dict):
            values["speculative_config"] = loaded
        elif not is_open(config):
            at = lines.get("speculative_config", lines.get("speculative-config", min(lines.values())))
            what = "speculative_config is not a JSON object"
            out.findings.append(RecipeFinding("vllm-config-json", "error", at, engine, what))
    config_keys = values.get("speculative_config")
    settings = Settings(
        values,
        lambda name: inner(name) if isinstance(config_keys, Mapping) and name in config_keys
        else lines.get(name, lines.get(name.replace("_", "-"), min(lines.values(), default=0))),
        lambda name: name,
        complete=True,
        published=published,
    )  # fmt: skip
    out.findings += check_settings(engine, settings, against)
    return out


def _trtllm(
    given: Mapping[str, object],
    lines: Mapping[str, int],
    inner: Callable[[str], int],
    against: Against,
    published: bool,
) -> Outcome:
    """Check the settings file of TensorRT-LLM."""
    out = Outcome(checked=1)
    _keys(given, engine_data("trtllm").yaml["settings"], lambda name: lines[name], against, out)
    config = given.get("speculative_config")
    if not isinstance(config, dict):
        return out
    named = {str(key): value for key, value in config.items()}
    kind = named.get("decoding_type")
    if kind in _EAGLE:
        more = trtllm_config(named, inner, against, need_type=True, published=published)
        out.findings += more.findings
        out.not_checked += more.not_checked
        return out
    kinds = engine_data("trtllm").yaml["decoding_types"]
    out.findings += acceptance("trtllm", named, inner, published)
    at = inner("decoding_type")
    if kind is None:
        what = "decoding_type is not given, and TensorRT-LLM chooses by it how to read the rest"
        instead = f"decoding_type: {version_data('trtllm', against.version('trtllm')).decoding_type}"
        out.findings.append(RecipeFinding("trtllm-decoding-type", "error", at, "trtllm", what, instead))
    elif isinstance(kind, str) and kind not in kinds and not is_open(kind):
        out.findings.append(against.unknown_value("trtllm", "trtllm-decoding-type", "decoding_type", kind, kinds, at))
    else:
        what = f"{against.title('trtllm')}: the keys of decoding_type {kind} are not known here"
        out.not_checked.append(NotChecked(inner("decoding_type"), "trtllm", what))
    return out


def _keys(
    given: Mapping[str, object], known: Sequence[str], line: Callable[[str], int], against: Against, out: Outcome
) -> None:
    """Report keys that look like ones of TensorRT-LLM and are none; name the others that are not known."""
    unheld = []
    for key in given:
        found = against.fact("trtllm", key, line(key))
        if found is None and key not in known:
            found = against.unknown_name("trtllm", "yaml-unknown", key, known, line(key), must_resemble=True)
            if found is None:
                unheld.append(key)
        out.findings += [found] if found else []
    if unheld:
        what = f"{against.title('trtllm')}: not known here whether it has {', '.join(unheld)}"
        out.not_checked.append(NotChecked(line(unheld[0]), "trtllm", what))


def trtllm_config(
    config: Mapping[str, object],
    line: Callable[[str], int],
    against: Against,
    *,
    need_type: bool,
    published: bool = False,
) -> Outcome:
    """Check TensorRT-LLM's settings of an EAGLE-3 draft, given as YAML or as keywords of its class."""
    out = Outcome()
    findings = out.findings
    _keys(config, engine_data("trtllm").yaml["speculative_config"], line, against, out)
    findings += acceptance("trtllm", config, line, published)
    findings += _decoding_type(config, line, against) if need_type else []
    if config.get(AUX_CAPTURE) == [-1]:
        what = (
            f"{AUX_CAPTURE} [-1] builds no fc and feeds the head the final, normed hidden state: right only "
            "for a head with use_aux_hidden_state false, silently wrong for one with aux layers"
        )
        instead = "leave it out for the default aux layers, or list the head's layers, counted from 0"
        at = line(AUX_CAPTURE)
        findings.append(RecipeFinding("trtllm-final-state", "warning", at, "trtllm", what, instead))
    length = config.get("max_draft_len")
    if length is None or length == 0:
        what = "max_draft_len is not given, and TensorRT-LLM needs it" if length is None else "max_draft_len is 0"
        findings.append(
            RecipeFinding("trtllm-draft-len", "error", line("max_draft_len"), "trtllm", what, "max_draft_len: 3")
        )
    if config.get("use_dynamic_tree") is True and not config.get("dynamic_tree_max_topK"):
        what = "use_dynamic_tree without dynamic_tree_max_topK: TensorRT-LLM does not start"
        at = line("use_dynamic_tree")
        findings.append(RecipeFinding("trtllm-tree", "error", at, "trtllm", what, "dynamic_tree_max_topK: 4"))
    if not any(key in config for key in ("speculative_model", "speculative_model_dir", "pytorch_weights_path")):
        what = "no draft is named: TensorRT-LLM's EAGLE-3 needs speculative_model"
        at = line("decoding_type")
        findings.append(RecipeFinding("trtllm-no-draft", "error", at, "trtllm", what, "speculative_model: the head"))
    return out


def _decoding_type(config: Mapping[str, object], line: Callable[[str], int], against: Against) -> list[RecipeFinding]:
    """Check the name that a version has for EAGLE-3; later versions take the earlier one with a warning."""
    kind, at = str(config["decoding_type"]), line("decoding_type")
    own = version_data("trtllm", against.version("trtllm")).decoding_type
    if kind == own:
        return []
    versions = recipe_versions("trtllm")
    first = next(v for v in versions if version_data("trtllm", v).decoding_type == kind)
    if versions.index(first) > versions.index(against.version("trtllm")):
        what = f"{against.title('trtllm')} takes no decoding_type {kind}: it came with {first}, which takes {own} too"
    else:
        what = f"decoding_type {kind} also stands for EAGLE 1 and 2: TensorRT-LLM takes it with a warning"
    return [RecipeFinding("trtllm-decoding-type", "warning", at, "trtllm", what, f"decoding_type: {own}")]


# JSON


def check_json(snippet: Snippet, against: Against, published: bool) -> Outcome:
    """Check JSON that is a speculative config of vLLM, alone or under that key; other JSON is no recipe."""
    loaded = load_json(snippet.text)
    if loaded is None:
        out = Outcome()
        if re.search(r"speculative_config|num_speculative_tokens", snippet.text):
            out.not_checked.append(NotChecked(snippet.start, None, "JSON that does not parse"))
            if not _COMMENTS.search(snippet.text) and not _OPEN.search(snippet.text):
                line, why = _json_error(snippet)
                what = f"the JSON does not parse: {why}"
                out.findings.append(RecipeFinding("json-syntax", "error", line, "json", what))
        return out
    config = loaded.get("speculative_config", loaded) if isinstance(loaded, dict) else None
    if not isinstance(config, dict) or "num_speculative_tokens" not in config or "speculators_model_type" in config:
        return Outcome()
    if not {"method", "model"} & set(config):
        return Outcome()
    return Outcome(vllm_speculative_config(config, lambda n: snippet.line_of(f'"{n}"'), against, published), checked=1)


def _json_error(snippet: Snippet) -> tuple[int, str]:
    try:
        json.loads(snippet.text)
    except json.JSONDecodeError as error:
        return min(snippet.start + error.lineno - 1, snippet.start + len(snippet.lines) - 1), error.msg
    except (ValueError, RecursionError):
        pass
    return snippet.start, "it is nested too deep"
