"""A report with every field, as a real run fills it (numbers of the example head's first prompts)."""

from __future__ import annotations

import copy
from typing import Any

from support.versions import VLLM

_HEX = "0123456789abcdef" * 4

_REPORT: dict[str, Any] = {
    "schema": "eagle3hub/report/1",
    "tool": {"name": "eagle3hub", "version": "0.1.0"},
    "measured_at": "2026-11-22T13:00:00Z",
    "verdict": "pass",
    "head": {
        "source": "my-head",
        "layout": "specjax",
        "digest": f"sha256:{_HEX}",
        "files": [{"path": "config.json", "size": 390, "sha256": _HEX}],
    },
    "target": {"name": "org/Target", "revision": None, "config_sha256": _HEX, "weights_digest": None},
    "prompts": {"name": "smoke", "sha256": _HEX, "count": 2, "categories": {"writing": 2}},
    "settings": {
        "draft_tokens": 3,
        "temperature": 0.0,
        "max_new_tokens": 64,
        "seed": 0,
        "dtype": "float32",
        "device": "cpu",
        "concurrency": 1,
        "min_acceptance_length": None,
        "collapse_acceptance_length": 1.1,
        "chat_template": "the target's own",
        "system_prompt": None,
    },
    "static": {"verdict": "pass", "problems": [], "assumptions": []},
    "engines": [
        {
            "engine": "vllm",
            "version": VLLM,
            "device": "cpu",
            "dtype": "float32",
            "verdict": "pass",
            "reason": "all tensors loaded",
            "flags": {"llm": {"model": "org/Target"}},
            "recipe": {
                "engine": "vllm",
                "version": VLLM,
                "server_command": "vllm serve org/Target",
                "env": {},
                "python": "from vllm import LLM",
            },
            "gates": [],
            "environment": {
                "python": "3.11.7",
                "torch": "2.13.0+cpu",
                "transformers": "5.19.0",
                "processor": "a CPU",
                "threads": 2,
            },
            "acceptance": {
                "prompts": 2,
                "rounds": 92,
                "drafted": 276,
                "accepted": 35,
                "accepted_per_position": [27, 7, 1],
                "mean_acceptance_length": 1.3804,
                "ci95": [1.2, 1.9],
                "standard_error": 0.2,
                "estimator": "pooled, ratio estimator over prompts",
                "mean_acceptance_length_per_request": 1.45,
                "marginal_acceptance_rates": [0.29, 0.08, 0.01],
                "marginal_ci95": [None, None, None],
                "conditional_acceptance_rates": [0.29, 0.26, None],
                "conditional_ci95": [None, None, None],
                "draft_acceptance_rate": 0.127,
            },
            "categories": {
                "writing": {"prompts": 2, "rounds": 92, "accepted": 35, "mean_acceptance_length": 1.3804, "ci95": None}
            },
            "lossless": {"identical": 1, "prompts": 2, "divergences": [{"question_id": 2, "position": 12}]},
            "load": {"checked": True, "not_loaded": [], "ignored": ["t2d"], "aux_boundaries": [2, 15, 27]},
            "throughput": {
                "target_tokens_per_second": 20.0,
                "speculative_tokens_per_second": 25.0,
                "note": "one sequence at a time; smoke test, not a benchmark",
            },
            "per_prompt": [
                {
                    "question_id": 1,
                    "category": "writing",
                    "prompt_tokens": 45,
                    "new_tokens": 64,
                    "rounds": 56,
                    "drafted": 168,
                    "accepted": 8,
                    "accepted_per_position": [7, 1, 0],
                    "identical": True,
                    "tokens_sha256": _HEX,
                }
            ],
            "seconds": {"start": 15.0, "generate": 5.0},
        }
    ],
}


def report() -> dict[str, Any]:
    """A fresh copy."""
    return copy.deepcopy(_REPORT)


def failed() -> dict[str, Any]:
    """The report of an engine that could not load the head."""
    document = report()
    engine = document["engines"][0]
    kept = ("engine", "version", "device", "dtype", "flags", "recipe")
    document["engines"] = [
        {
            **{key: engine[key] for key in kept},
            "verdict": "fail",
            "reason": "vLLM could not load the model with the head: ValueError: [no] such thing",
            "log_tail": ["Traceback (most recent call last):", "ValueError: [no] such thing"],
        }
    ]
    document["verdict"] = "fail"
    return document
