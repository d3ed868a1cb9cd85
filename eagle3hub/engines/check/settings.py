"""Rules that hold for an engine's settings however they are written: flags of a command or keywords of a call.

Places in the engines' source are named in the engines' data.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from eagle3hub.engines.check.finding import Finding, known_fact, unknown
from eagle3hub.engines.check.snippets import UNFILLED
from eagle3hub.engines.specs import interface

_NUMBERS = ("speculative_num_steps", "speculative_eagle_topk", "speculative_num_draft_tokens")
_OPEN = re.compile(rf"{UNFILLED}|[${{}}*…]|\.\.\.")

Line = Callable[[str], int]
Written = Callable[[str], str]


def is_open(value: Any) -> bool:
    """Whether a value is for the reader to fill in, or not known without running the text."""
    return value is None or (isinstance(value, str) and bool(_OPEN.search(value)))


def check_settings(
    engine: str, settings: Mapping[str, Any], line: Line, *, written: Written, complete: bool
) -> list[Finding]:
    """Findings on settings by name (underscores); ``written`` spells a name as the text does.

    An incomplete set (flags quoted without their command) is not blamed for what it lacks.
    """
    if engine == "sglang":
        return _sglang(settings, line, written, complete)
    if engine == "sglang_jax":
        return _sglang_jax(settings, line, written, complete)
    return []


def _sglang(settings: Mapping[str, Any], line: Line, written: Written, complete: bool) -> list[Finding]:
    findings = []
    own = interface("sglang")
    algorithm = settings.get("speculative_algorithm")
    draft = settings.get("speculative_draft_model_path", settings.get("speculative_draft_model"))
    at = line("speculative_algorithm")
    if own is not None and not is_open(algorithm) and str(algorithm).upper() not in own.algorithms:
        found = unknown("sglang", "sglang-algorithm", str(algorithm), own.algorithms, at)
        findings += [found] if found else []
    if str(algorithm).upper() == "EAGLE" and re.search(r"eagle-?3", str(draft), re.IGNORECASE):
        what = "with the algorithm EAGLE an EAGLE-3 head gets no aux hidden states: it loads, and nothing is accepted"
        findings.append(
            Finding("sglang-eagle", "warning", at, "sglang", what, f"{written('speculative_algorithm')} EAGLE3")
        )
    findings += _sglang_numbers(settings, line, written, complete)
    template = settings.get("chat_template")
    named = isinstance(template, str) and not is_open(template) and not re.search(r"[/.]", template)
    if named and own is not None and template not in own.chat_templates:
        what = f"SGLang has no built-in chat template {template!r}, and no file is named: it does not start"
        instead = "a .jinja file, or chat_template_kwargs with each request (such as enable_thinking: false)"
        findings.append(Finding("sglang-chat-template", "error", line("chat_template"), "sglang", what, instead))
    return findings


def _sglang_numbers(settings: Mapping[str, Any], line: Line, written: Written, complete: bool) -> list[Finding]:
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
            return [Finding("sglang-numbers", "warning", at, "sglang", what, f"all three, or none of {have}")]
        instead = f"{missing} as well (for 5 steps and top-k 4 SGLang itself takes 8), or none of the three"
        what = f"{have} without {missing}: SGLang fails as it starts"
        return [Finding("sglang-numbers", "error", at, "sglang", what, instead)]
    if str(topk) == "1" and str(steps).isdigit() and str(nodes).isdigit() and int(str(nodes)) != int(str(steps)) + 1:
        what = f"{written(_NUMBERS[2])} {nodes} is replaced by {int(str(steps)) + 1}: a chain of {steps} and its root"
        instead = f"{written(_NUMBERS[2])} {int(str(steps)) + 1}"
        return [Finding("sglang-chain", "warning", at, "sglang", what, instead)]
    return []


def _sglang_jax(settings: Mapping[str, Any], line: Line, written: Written, complete: bool) -> list[Finding]:
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
        return [Finding("sglang-jax-numbers", "error", at, "sglang_jax", what, instead)]
    steps, topk, nodes = (str(settings[name]) for name in _NUMBERS)
    chain = topk == "1" and steps.isdigit() and nodes == str(int(steps) + 1)
    if not chain and "disable_overlap_schedule" not in settings and all(v.isdigit() for v in (steps, topk, nodes)):
        what = f"steps {steps}, top-k {topk} and draft tokens {nodes} are refused by the overlap scheduler"
        instead = "--disable-overlap-schedule, or top-k 1 and one draft token more than steps"
        return [Finding("sglang-jax-numbers", "error", at, "sglang_jax", what, instead)]
    return []


def vllm_speculative_config(config: Mapping[str, Any], line: Line) -> list[Finding]:
    """Findings on vLLM's speculative config: keys it does not have, a method it would guess wrongly."""
    findings = []
    own = interface("vllm")
    for key in config:
        if key == "tensor_parallel_size":
            what = "vLLM refuses tensor_parallel_size in the speculative config"
            findings.append(Finding("vllm-config-key", "error", line(key), "vllm", what, "draft_tensor_parallel_size"))
        elif own is not None and key not in own.speculative_config:
            known = own.speculative_config
            found = known_fact("vllm", key, line(key)) or unknown("vllm", "vllm-config-key", key, known, line(key))
            findings += [found] if found else []
    method, model = config.get("method"), str(config.get("model", "")).lower()
    if method is None and "eagle-" in model:
        what = "vLLM guesses the method from the name and takes eagle-… for EAGLE-1"
        findings.append(Finding("vllm-method", "warning", line("model"), "vllm", what, '"method": "eagle3"'))
    if method == "eagle" and re.search(r"eagle-?3", model):
        what = "the method eagle is EAGLE-1 and 2, and the head's name says EAGLE-3"
        findings.append(Finding("vllm-method", "warning", line("method"), "vllm", what, '"method": "eagle3"'))
    return findings
