"""Manifests, heads and reports for the card's tests. Counters come from ``fixtures/smoke-counters.json``."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from support.versions import VLLM

from eagle3hub import metrics
from eagle3hub.checkpoint.digest import combined_digest, folder_digest
from eagle3hub.checkpoint.safetensors import TensorRef
from eagle3hub.engines import get_engine
from eagle3hub.engines.base import worst_verdict
from eagle3hub.head import AuxTaps, Dims, Head, Rope, Semantics
from eagle3hub.layouts import LAYOUTS
from eagle3hub.prompts import load_prompts
from eagle3hub.validation.derive import derive
from eagle3hub.validation.report import Report

HERE = Path(__file__).parent
EXAMPLE = HERE.parent.parent / "examples" / "smollm2-135m" / "release.yaml"
REPO = "eagle3hub/SmolLM2-135M-Instruct-eagle3"
TARGET = "HuggingFaceTB/SmolLM2-135M-Instruct"
_FILES = {
    layout: [
        {"path": "config.json", "size": 812, "sha256": f"{0xC0 + i:02x}" * 32},
        {"path": "model.safetensors", "size": 17962904, "sha256": "ab" * 32},
    ]
    for i, layout in enumerate(LAYOUTS)
}
DIGESTS = {
    layout: combined_digest({str(f["path"]): str(f["sha256"]) for f in files}) for layout, files in _FILES.items()
}
TAPS = (2, 15, 27)

MINIMAL = """\
schema: eagle3hub/manifest/1
head:
  source: head
target:
  id: owner/target
  license: apache-2.0
release:
  repo: owner/head
  summary: A head.
  license: mit
layouts:
  main: specforge
speculative_tokens: 3
"""

_SHAPES = {
    "fc.weight": (576, 1728),
    "layers.0.hidden_norm.weight": (576,),
    "layers.0.input_layernorm.weight": (576,),
    "layers.0.mlp.down_proj.weight": (576, 1024),
    "layers.0.mlp.gate_proj.weight": (1024, 576),
    "layers.0.mlp.up_proj.weight": (1024, 576),
    "layers.0.post_attention_layernorm.weight": (576,),
    "layers.0.self_attn.k_proj.weight": (192, 1152),
    "layers.0.self_attn.o_proj.weight": (576, 576),
    "layers.0.self_attn.q_proj.weight": (576, 1152),
    "layers.0.self_attn.v_proj.weight": (192, 1152),
    "lm_head.weight": (8192, 576),
    "norm.weight": (576,),
}


def make_head(shapes: dict[str, tuple[int, ...]] | None = None, **changes: Any) -> Head:
    """The example head as an object, without its bytes."""
    tensors = {}
    for name, shape in (shapes or _SHAPES).items():
        size = 2
        for n in shape:
            size *= n
        tensors[name] = TensorRef(name, "BF16", shape, Path("model.safetensors"), 0, size)
    fields: dict[str, Any] = {
        "layout": "specforge",
        "source": "head",
        "dims": Dims(576, 576, 1024, 9, 3, 64, 49152, 8192),
        "semantics": Semantics(rope=Rope(100000.0), rms_norm_eps=1e-5),
        "aux": AuxTaps.from_after_layer([1, 14, 26], "config"),
        "vocab_map": None,
        "vocab_status": "ok",
        "tensors": tensors,
        "buffers": {"d2t": "I64", "t2d": "BOOL"},
        "metadata": None,
        "config": {},
        "max_position_embeddings": 8192,
    }
    return Head(**(fields | changes))


def make_report(layout: str = "specforge", *, verdict: str = "pass", **changes: Any) -> dict[str, Any]:
    """A report of the smoke run whose every number follows from its counters; ``changes`` replace what was counted.

    ``verdict``: what it comes to. ``fail``: fc.weight was not loaded; ``inconclusive``: nobody watched the loading;
    ``unavailable``: no engine ran.
    """
    rows = json.loads((HERE / "fixtures" / "smoke-counters.json").read_text())["prompts"]
    counts = [
        metrics.Counts(
            r["rounds"], 3 * r["rounds"], sum(r["accepted_per_position"]), tuple(r["accepted_per_position"])
        )
        for r in rows
    ]
    prompts = load_prompts("smoke", len(rows))
    report: dict[str, Any] = {
        "schema": "eagle3hub/report/1",
        "tool": {"name": "eagle3hub", "version": "0.1.0"},
        "measured_at": "2026-11-22T13:00:00Z",
        "verdict": "pass",
        "head": {
            "source": f"release-{layout}",
            "layout": layout,
            "digest": DIGESTS[layout],
            "files": _FILES[layout],
        },
        "target": {
            "name": TARGET,
            "revision": None,
            "config_sha256": "cf" * 32,
            "weights_digest": "sha256:" + "d4" * 32,
        },
        "prompts": prompts.to_json(),
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
        "engines": [_engine(layout, rows, counts) | changes],
    }
    entry = report["engines"][0]
    if entry["engine"] == "reference":
        entry["throughput"]["note"] = "the reference replays texts, it does not serve"
    if "recipe" not in changes and entry["engine"] != "vllm":
        entry["recipe"] = get_engine(entry["engine"]).recipe(TARGET, f"release-{layout}", draft_tokens=3).to_json()
    if entry["engine"] == "reference":
        entry["throughput"] = {
            "target_tokens_per_second": None,
            "speculative_tokens_per_second": None,
            "note": "the reference replays texts, it does not serve",
        }
    if verdict == "fail":
        entry["load"]["not_loaded"] = ["fc.weight"]
    elif verdict == "inconclusive":
        entry["load"]["checked"] = False
    elif verdict == "unavailable":
        kept = ("engine", "version", "device", "dtype", "flags", "recipe")
        report["engines"] = [{key: entry[key] for key in kept} | NOT_INSTALLED]
    return settled(copy.deepcopy(report))


NOT_INSTALLED = {"verdict": "unavailable", "reason": "vLLM is not installed", "log_tail": ["no module named vllm"]}


def settled(report: dict[str, Any]) -> dict[str, Any]:
    """The report with everything that follows from its counters derived again: what an edit of them would give."""
    read = Report.from_json(report)
    for entry, found in zip(report["engines"], read.engines, strict=True):
        entry |= derive(read, found, TAPS).to_json()
    verdicts = [report["static"]["verdict"], *(entry["verdict"] for entry in report["engines"])]
    report["verdict"] = worst_verdict(verdicts)
    return report


def typed(*reports: dict[str, Any]) -> list[Report]:
    """The documents as the card takes them."""
    return [Report.from_json(report) for report in reports]


def of_folder(report: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The report as one of the head that lies in ``folder``."""
    digest, files = folder_digest(folder)
    report["head"] |= {"digest": digest, "files": files}
    return report


def _engine(layout: str, rows: list[dict[str, Any]], counts: list[metrics.Counts]) -> dict[str, Any]:
    tokens = sum(r["new_tokens"] for r in rows)
    return {
        "engine": "vllm",
        "version": VLLM,
        "device": "cpu",
        "dtype": "float32",
        "verdict": "pass",
        "reason": "-",
        "environment": {
            "python": "3.11.7",
            "torch": "2.13.0+cpu",
            "transformers": "5.19.0",
            "processor": "Intel(R) Xeon(R) Processor",
            "threads": 2,
        },
        "flags": {
            "llm": {"model": TARGET, "dtype": "float32", "seed": 0, "enforce_eager": True, "max_num_seqs": 1},
            "sampling": {"temperature": 0.0, "max_tokens": 64},
            "env": {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"},
        },
        "recipe": get_engine("vllm").recipe(TARGET, f"release-{layout}", draft_tokens=3).to_json(),
        "acceptance": None,
        "categories": {},
        "lossless": {"identical": 0, "prompts": 0, "divergences": []},
        "load": {"checked": True, "not_loaded": [], "ignored": ["t2d"], "aux_boundaries": [2, 15, 27]},
        "throughput": {
            "target_tokens_per_second": 24.1,
            "speculative_tokens_per_second": round(tokens / 33.0, 2),
            "note": "one sequence at a time; smoke test, not a benchmark",
        },
        "per_prompt": [
            {
                "question_id": r["question_id"],
                "category": r["category"],
                "prompt_tokens": r["prompt_tokens"],
                "new_tokens": r["new_tokens"],
                "rounds": c.rounds,
                "drafted": c.drafted,
                "accepted": c.accepted,
                "accepted_per_position": list(c.accepted_per_position),
                "identical": True,
                "tokens_sha256": "77" * 32,
            }
            for r, c in zip(rows, counts, strict=True)
        ],
        "seconds": {"start": 27.0, "generate": 33.0},
    }
