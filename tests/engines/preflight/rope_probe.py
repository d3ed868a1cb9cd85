"""Run by an engine's own interpreter: read configs as the engine does for a draft head, and build its RoPE.

    PYTHON rope_probe.py vllm|sglang < variants.json > as_read.json

For each config, by name: what it stops with, or base, type, scaling parameters and number of rotated dimensions.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

KEYS = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings", "mrope_section")


def of_vllm(folder: str) -> tuple[dict[str, Any], int]:
    from vllm.config import VllmConfig, set_current_vllm_config
    from vllm.model_executor.layers.rotary_embedding import get_rope
    from vllm.transformers_utils.config import get_config

    config = get_config(folder, trust_remote_code=False)
    whole = VllmConfig()
    whole.model_config = SimpleNamespace(max_model_len=config.max_position_embeddings)
    with set_current_vllm_config(whole):  # vllm/model_executor/models/llama.py:236-247
        built = get_rope(
            config.head_dim, config.max_position_embeddings, True, getattr(config, "rope_parameters", None)
        )
    return config.rope_parameters, built.rotary_dim


def of_sglang(folder: str) -> tuple[dict[str, Any], int]:
    from sglang.srt.layers.rotary_embedding import get_rope
    from sglang.srt.utils.hf_transformers_utils import get_config

    config = get_config(folder, trust_remote_code=False)
    stated = config.rope_parameters  # models/llama_eagle3.py:132-142, models/llama.py:197-243, 322-335
    if "mrope_section" in stated:
        stated["rope_type"] = "default"
    if getattr(config, "original_max_position_embeddings", None):
        stated["original_max_position_embeddings"] = config.original_max_position_embeddings
    rotated = int(getattr(config, "partial_rotary_factor", 1) * config.head_dim)
    try:
        get_rope(
            config.head_dim, rotated, config.max_position_embeddings, stated.get("rope_theta", 10000), True, stated
        )
    except ModuleNotFoundError as e:  # the plain rotation asks vLLM for its kernel where there is no accelerator
        if e.name != "vllm":
            raise
    return stated, rotated


def as_read(engine: str, config: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(config))
        try:
            stated, rotated = {"vllm": of_vllm, "sglang": of_sglang}[engine](folder)
        except Exception as e:
            return {"stops": type(e).__name__}
    out = {"rope_theta": stated["rope_theta"], "rope_type": stated["rope_type"], "rotated": rotated}
    return out | {key: stated[key] for key in KEYS if key in stated}


def main() -> None:
    engine = sys.argv[1]
    os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"
    warnings.simplefilter("ignore")
    out, sys.stdout = sys.stdout, sys.stderr
    found = {name: as_read(engine, config) for name, config in json.load(sys.stdin).items()}
    json.dump({"transformers": version("transformers"), "variants": found}, out)


if __name__ == "__main__":
    main()
