"""Check an engine's settings against each other, whether they are flags of a command or keywords of a call.

The engines' data name the places in the engines' source.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from eagle3hub.engines.check.finding import Against, RecipeFinding
from eagle3hub.engines.check.shell import UNFILLED
from eagle3hub.engines.specs import engine_data

LineOf = Callable[[str], int]
WrittenAs = Callable[[str], str]

_NUMBERS = ("speculative_num_steps", "speculative_eagle_topk", "speculative_num_draft_tokens")
_OPEN = re.compile(rf"{UNFILLED}|[${{}}*…`]|\.\.\.|^\[.*\]$|^(?:YOUR|MY)_")


def flag_of(name: str) -> str:
    """Return the flag of a setting: ``--dtype`` for ``dtype``."""
    return "--" + name.replace("_", "-")


def load_json(text: str) -> Any:
    """Return what JSON holds; None if it does not parse, is nested too deep, or is null."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one command or call, named with underscores.

    Attributes:
        values: by name; None for a flag without a value. line: the line of a setting. written: turns a name into the
            form that the text uses. complete: whether a missing setting is missing (not for flags quoted without
            their command). published: whether the text also states an acceptance length or rate.
    """

    values: Mapping[str, object]
    line: LineOf
    written: WrittenAs
    complete: bool
    published: bool = False

    def whole(self, *names: str, default: int | None = None) -> int | None:
        """Return the whole number of the first of ``names`` that is set, or ``default``; None for a placeholder."""
        for name in names:
            if name in self.values:
                text = str(self.values[name])
                return int(text) if text.isascii() and text.isdigit() and len(text) < 6 else None
        return default


def is_open(value: Any) -> bool:
    """Whether a value is a placeholder, or unknown until the text runs."""
    return value is None or (isinstance(value, str) and bool(_OPEN.search(value)))


def check_settings(engine: str, given: Settings, against: Against) -> list[RecipeFinding]:
    """Check the settings of an engine against each other, and those that change what acceptance means."""
    findings = acceptance(engine, given.values, given.line, given.published)
    if engine == "sglang":
        findings += _sglang(given, against)
    elif engine == "sglang_jax":
        findings += _sglang_jax(given)
    elif engine == "vllm":
        config = given.values.get("speculative_config")
        if isinstance(config, Mapping):
            devices = given.whole("tensor_parallel_size", "tp", default=1 if given.complete else None)
            findings += vllm_speculative_config(config, given.line, against, given.published, devices)
    return findings


def acceptance(engine: str, values: Mapping[str, object], line: LineOf, published: bool) -> list[RecipeFinding]:
    """Report settings with which an acceptance length measures something else than the head.

    They are an error where the text publishes one, and else a warning.
    """
    findings = []
    for fact in engine_data(engine).acceptance:
        for name in fact.names:
            if name not in values or is_open(values[name]) or not fact.holds(values[name]):
                continue
            what = f"{name} {values[name]}: {fact.says}"
            instead = "measure without it" if published else "leave it out where acceptance is measured"
            severity = "error" if published else "warning"
            findings.append(RecipeFinding(fact.code, severity, line(name), engine, what, instead))  # type: ignore[arg-type]
    return findings


# SGLang

_NEEDS_DRAFT = ("EAGLE3", "STANDALONE", "DFLASH")
_NEEDS_NONE = ("NGRAM", "UNO")


def _sglang(given: Settings, against: Against) -> list[RecipeFinding]:
    findings: list[RecipeFinding] = []
    values, line, written = given.values, given.line, given.written
    own = against.interface("sglang")
    algorithm = values.get("speculative_algorithm")
    named = str(algorithm).upper() if not is_open(algorithm) else None
    draft_name = next((n for n in ("speculative_draft_model_path", "speculative_draft_model") if n in values), None)
    draft = values.get(draft_name) if draft_name else None
    at = line("speculative_algorithm")
    if own is not None and named is not None and named not in own.algorithms:
        found = against.unknown_name("sglang", "sglang-algorithm", str(algorithm), own.algorithms, at)
        findings += [found] if found else []
    if named == "EAGLE" and re.search(r"eagle-?3", str(draft), re.IGNORECASE):
        what = "with the algorithm EAGLE an EAGLE-3 head gets no aux hidden states: it loads, and nothing is accepted"
        instead = f"{written('speculative_algorithm')} EAGLE3"
        findings.append(RecipeFinding("sglang-eagle", "warning", at, "sglang", what, instead))
    if given.complete:
        findings += _sglang_draft(given, named, draft_name)
    if not any(found.code == "sglang-no-algorithm" for found in findings):  # without one the numbers are not read
        findings += _sglang_numbers(given, named)
    template = values.get("chat_template")
    builtin = isinstance(template, str) and not is_open(template) and not re.search(r"[/.]", template)
    if builtin and own is not None and template not in own.chat_templates:
        what = f"SGLang has no built-in chat template {template!r}, and no file is named: it does not start"
        instead = "a .jinja file, or chat_template_kwargs with each request (such as enable_thinking: false)"
        findings.append(RecipeFinding("sglang-chat-template", "error", line("chat_template"), "sglang", what, instead))
    return findings


def _sglang_draft(given: Settings, algorithm: str | None, draft: str | None) -> Iterator[RecipeFinding]:
    """Check that an algorithm and a draft are both there (arg_groups/speculative_hook.py, managers/tp_worker.py)."""
    written = given.written
    if draft is not None and "speculative_algorithm" not in given.values:
        what = (
            f"{written(draft)} without {written('speculative_algorithm')}: SGLang serves the target without the draft"
        )
        instead = f"{written('speculative_algorithm')} EAGLE3"
        yield RecipeFinding("sglang-no-algorithm", "error", given.line(draft), "sglang", what, instead)
    at = given.line("speculative_algorithm")
    if algorithm in _NEEDS_DRAFT and draft is None:
        how = "takes the target itself for the draft" if algorithm == "EAGLE3" else "does not start"
        what = f"{written('speculative_algorithm')} {algorithm} without a draft model: SGLang {how}"
        instead = f"{written('speculative_draft_model_path')} with the head"
        yield RecipeFinding("sglang-no-draft", "error", at, "sglang", what, instead)
    if algorithm in _NEEDS_NONE and draft is not None:
        what = f"the algorithm {algorithm} uses no draft model: {written(draft)} has no part in it"
        instead = f"{written('speculative_algorithm')} EAGLE3"
        yield RecipeFinding("sglang-no-draft", "error", given.line(draft), "sglang", what, instead)


def _sglang_numbers(given: Settings, algorithm: str | None) -> list[RecipeFinding]:
    values, written = given.values, given.written
    there = [name for name in _NUMBERS if name in values]
    steps, topk, nodes = (given.whole(name) for name in _NUMBERS)
    findings = _sglang_tree(given, topk)
    if not there or algorithm in ("NGRAM", "DFLASH", "DSPARK", "UNO") or "speculative_adaptive" in values:
        return findings
    at = given.line(there[-1])
    if len(there) < 3:
        if not given.complete:
            return findings
        missing = " and ".join(written(name) for name in _NUMBERS if name not in values)
        have = " and ".join(written(name) for name in there)
        if there == list(_NUMBERS[:2]) and topk == 1:
            what = f"{missing} is not given: SGLang takes {written(_NUMBERS[0])} + 1, with a warning"
            instead = f"all three, or none of {have}"
            return [*findings, RecipeFinding("sglang-numbers", "warning", at, "sglang", what, instead)]
        instead = f"{missing} as well (for 5 steps and top-k 4 SGLang itself takes 8), or none of the three"
        what = f"{have} without {missing}: SGLang fails as it starts"
        return [*findings, RecipeFinding("sglang-numbers", "error", at, "sglang", what, instead)]
    if steps is None or topk is None or nodes is None:
        return findings
    if topk == 1 and nodes != steps + 1:
        what = f"{written(_NUMBERS[2])} {nodes} is replaced by {steps + 1}: a chain of {steps} and its root"
        instead = f"{written(_NUMBERS[2])} {steps + 1}"
        findings.append(RecipeFinding("sglang-chain", "warning", at, "sglang", what, instead))
    most = topk + max(0, steps - 1) * topk * topk + 1
    if topk > 1 and nodes > most:
        what = f"{steps} steps with top-k {topk} draft {most} tokens at most: {written(_NUMBERS[2])} {nodes} fails"
        instead = f"{written(_NUMBERS[2])} {most} or fewer"
        findings.append(RecipeFinding("sglang-tree", "error", at, "sglang", what, instead))
    return findings


def _sglang_tree(given: Settings, topk: int | None) -> list[RecipeFinding]:
    """Check settings that do not work with a tree of drafts, top-k above 1 (arg_groups/speculative_hook.py)."""
    if topk is None or topk <= 1:
        return []
    backend = str(given.values.get("attention_backend", ""))
    page = given.whole("page_size")
    clashes = []
    if "speculative_use_rejection_sampling" in given.values:
        clashes.append(("speculative_use_rejection_sampling", "rejection sampling needs top-k 1"))
    if backend == "trtllm_mha":
        clashes.append(("attention_backend", "the attention backend trtllm_mha needs top-k 1"))
    elif backend and page is not None and page > 1 and backend not in ("flashinfer", "fa3", "triton"):
        clashes.append(("page_size", f"pages of {page} tokens with top-k {topk} need flashinfer, fa3 or triton"))
    instead = f"{given.written('speculative_eagle_topk')} 1"
    return [
        RecipeFinding("sglang-tree", "error", given.line(name), "sglang", f"{what}: SGLang does not start", instead)
        for name, what in clashes
    ]


def _sglang_jax(given: Settings) -> list[RecipeFinding]:
    values, written = given.values, given.written
    if not given.complete or "speculative_algorithm" not in values:
        return []
    at = given.line("speculative_algorithm")
    missing = [name for name in _NUMBERS if name not in values]
    if missing:
        what = (
            f"{' and '.join(map(written, missing))} left to sglang-jax's defaults (steps 4, top-k 5, draft tokens 4), "
            "which its overlap scheduler refuses"
        )
        instead = "top-k 1 and one draft token more than steps, all three written"
        return [RecipeFinding("sglang-jax-numbers", "error", at, "sglang_jax", what, instead)]
    steps, topk, nodes = (given.whole(name) for name in _NUMBERS)
    if steps is None or topk is None or nodes is None or "disable_overlap_schedule" in values:
        return []
    if topk != 1 or nodes != steps + 1:
        what = f"steps {steps}, top-k {topk} and draft tokens {nodes} are refused by the overlap scheduler"
        instead = "--disable-overlap-schedule, or top-k 1 and one draft token more than steps"
        return [RecipeFinding("sglang-jax-numbers", "error", at, "sglang_jax", what, instead)]
    return []


# vLLM's speculative config

_OWN_DRAFT = ("eagle", "eagle3", "dflash", "draft_model", "medusa", "mlp_speculator")
_NO_DRAFT = ("ngram", "ngram_gpu", "suffix", "extract_hidden_states")
_NAMED = (
    (re.compile(r"d-?flash"), "dflash", ("dflash",)),
    (re.compile(r"d-?spark"), "dspark", ("dspark",)),
    (re.compile(r"medusa"), "medusa", ("medusa",)),
    (re.compile(r"eagle-?3"), "eagle3", ("eagle3",)),
)
"""What the name of a draft says about its method: a pattern, the method, and the methods that fit."""


def vllm_speculative_config(
    config: Mapping[str, object],
    line: LineOf,
    against: Against,
    published: bool = False,
    tensor_parallel: int | None = None,
) -> list[RecipeFinding]:
    """Check vLLM's speculative config: keys, values, and what does not go together (config/speculative.py).

    ``tensor_parallel`` is the number of devices that the command splits the target over, or None if it is not known.
    """
    findings = [*_vllm_names(config, line, against), *acceptance("vllm", config, line, published)]
    devices = config.get("draft_tensor_parallel_size")
    if tensor_parallel is not None and type(devices) is int and devices not in (1, tensor_parallel):
        what = f"vLLM refuses draft_tensor_parallel_size {devices} for a target on {tensor_parallel}"
        instead = (
            f"draft_tensor_parallel_size 1 or {tensor_parallel}, or leave it out" if tensor_parallel > 1 else None
        )
        at = line("draft_tensor_parallel_size")
        findings.append(RecipeFinding("vllm-draft-devices", "error", at, "vllm", what, instead or "leave it out"))
    findings += _vllm_method(config, line)
    findings += _vllm_tokens(config, line)
    synthetic = [key for key in config if str(key).startswith("synthetic_acceptance_")]
    if synthetic and config.get("rejection_sample_method", "standard") != "synthetic":
        what = f"vLLM refuses {synthetic[0]} without rejection_sample_method synthetic"
        findings.append(RecipeFinding("vllm-config", "error", line(synthetic[0]), "vllm", what, "leave it out"))
    return findings


def _vllm_names(config: Mapping[str, object], line: LineOf, against: Against) -> Iterator[RecipeFinding]:
    own = against.interface("vllm")
    for key, value in config.items():
        if key == "tensor_parallel_size":
            what = "vLLM refuses tensor_parallel_size in the speculative config"
            yield RecipeFinding("vllm-config-key", "error", line(key), "vllm", what, "draft_tensor_parallel_size")
        elif own is not None and key not in own.speculative_config:
            known = own.speculative_config
            found = against.fact("vllm", key, line(key)) or against.unknown_name(
                "vllm", "vllm-config-key", str(key), known, line(key)
            )
            if found:
                yield found
        elif own is not None and isinstance(value, str) and not is_open(value):
            allowed = own.speculative_values.get(key)
            if allowed and value not in allowed and value != "[ngram]":
                yield against.unknown_value("vllm", "vllm-config-value", key, value, allowed, line(key))


def _vllm_method(config: Mapping[str, object], line: LineOf) -> Iterator[RecipeFinding]:
    method, model = config.get("method"), str(config.get("model", "")).lower()
    if is_open(method) and method is not None:
        return
    if method in _OWN_DRAFT and "model" not in config:
        what = f"the method {method} needs a draft, and no model is named: vLLM does not start"
        yield RecipeFinding("vllm-no-model", "error", line("method"), "vllm", what, '"model": with the head')
    if method in _NO_DRAFT and "model" in config and model not in (method, f"[{method}]"):
        what = f"the method {method} uses no draft: {config['model']} has no part in it"
        yield RecipeFinding("vllm-method", "error", line("model"), "vllm", what, '"method": "eagle3"')
    if method is None and "eagle-" in model:
        what = "vLLM guesses the method from the name and takes eagle-… for EAGLE-1"
        yield RecipeFinding("vllm-method", "warning", line("model"), "vllm", what, '"method": "eagle3"')
        return
    if method == "eagle" and re.search(r"eagle-?3", model):
        what = "the method eagle is EAGLE-1 and 2, and the head's name says EAGLE-3"
        yield RecipeFinding("vllm-method", "warning", line("method"), "vllm", what, '"method": "eagle3"')
        return
    said = next(((name, fit) for pattern, name, fit in _NAMED if pattern.search(model)), None)
    if said is not None and method in (*_OWN_DRAFT, "dspark", "mtp") and method not in said[1]:
        what = f"the method is {method}, and the draft's name says {said[0]}"
        yield RecipeFinding("vllm-method", "warning", line("method"), "vllm", what, f'"method": "{said[0]}"')
    parallel = re.search(r"(?:^|[^a-z])p-?eagle", model) and "speculator" not in model
    if parallel and method in ("eagle", "eagle3") and config.get("parallel_drafting") is not True:
        what = "the head's name says P-EAGLE, which vLLM drafts with only where parallel_drafting is true"
        yield RecipeFinding("vllm-method", "warning", line("model"), "vllm", what, '"parallel_drafting": true')


def _vllm_tokens(config: Mapping[str, object], line: LineOf) -> Iterator[RecipeFinding]:
    method, model = config.get("method"), str(config.get("model", ""))
    tokens = config.get("num_speculative_tokens")
    if isinstance(tokens, int) and (isinstance(tokens, bool) or tokens <= 0):
        what = f"vLLM refuses num_speculative_tokens {tokens}"
        at = line("num_speculative_tokens")
        yield RecipeFinding("vllm-draft-tokens", "error", at, "vllm", what, '"num_speculative_tokens": 3')
    needed = method in ("eagle", "eagle3", "dflash", "ngram") and "num_speculative_tokens" not in config
    if needed and "speculator" not in model.lower():
        what = "num_speculative_tokens is not given, and vLLM needs it"
        yield RecipeFinding("vllm-draft-tokens", "error", line("method"), "vllm", what, '"num_speculative_tokens": 3')
