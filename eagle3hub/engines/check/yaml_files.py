"""Rules on the YAML that TensorRT-LLM is configured with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import yaml

from eagle3hub.engines.check.finding import Finding, known_fact, unknown
from eagle3hub.engines.check.snippets import Snippet
from eagle3hub.engines.specs import common

_EAGLE = ("Eagle", "Eagle3")


def check_yaml(snippet: Snippet) -> list[Finding]:
    """Findings on the ``speculative_config`` of a YAML file; YAML about anything else is none of ours."""
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


def trtllm_config(config: Mapping[str, Any], line: Callable[[str], int], *, need_type: bool) -> list[Finding]:
    """Findings on the settings of an EAGLE-3 draft in TensorRT-LLM, as YAML or as keywords of its class."""
    findings: list[Finding] = []
    known = common("trtllm").yaml["speculative_config"]
    for key in config:
        found = known_fact("trtllm", key, line(key))
        if found is None and key not in known:
            found = unknown("trtllm", "yaml-unknown", key, known, line(key), must_resemble=True)
        findings += [found] if found else []
    if need_type and config.get("decoding_type") == "Eagle":
        what = "decoding_type Eagle also stands for EAGLE 1 and 2: TensorRT-LLM takes it with a warning"
        at = line("decoding_type")
        findings.append(Finding("trtllm-decoding-type", "warning", at, "trtllm", what, "decoding_type: Eagle3"))
    if config.get("eagle3_layers_to_capture") == [-1]:
        what = (
            "eagle3_layers_to_capture [-1] builds no fc and feeds the head the final, normed hidden state: right only "
            "for a head with use_aux_hidden_state false, silently wrong for one with aux layers"
        )
        instead = "leave it out for the default aux layers, or list the head's layers, counted from 0"
        at = line("eagle3_layers_to_capture")
        findings.append(Finding("trtllm-final-state", "warning", at, "trtllm", what, instead))
    if "max_draft_len" not in config:
        what = "max_draft_len is not given, and TensorRT-LLM needs it"
        findings.append(Finding("trtllm-draft-len", "error", line("speculative"), "trtllm", what, "max_draft_len: 3"))
    return findings
