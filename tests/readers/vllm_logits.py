"""Logits of vLLM's own draft model classes, on CPU. Run by vLLM's interpreter:

    python vllm_logits.py JOB.json

JOB: {"target": folder, "heads": {name: folder}, "inputs": {name: safetensors file}, "result": safetensors file}.
vLLM resolves its own configuration, picks its own class and loads the weights with its own loader, as for a proposer.
Only the kernel behind ``self_attn.attn`` (``mla_attn``) is replaced, so that no pages need be laid out; the window and
the scale are the ones that vLLM gave the layer.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).parents[2] / "eagle3hub/engines/workers"))
import whole_sequence


def load(target: str, folder: str, embeddings: torch.Tensor) -> tuple[Any, Any]:
    """The draft model and its configuration, as the proposer gets them, with the target's embeddings if it needs them.

    A P-EAGLE head is one where ``mask_hidden`` is stored; vLLM wants to be told.
    """
    from vllm.config import set_current_vllm_config
    from vllm.engine.arg_utils import EngineArgs
    from vllm.model_executor.model_loader import get_model

    with safe_open(Path(folder) / "model.safetensors", "pt") as file:
        stored = set(file.keys())
    # 0.32's own kernel of RoPE for CPUs takes the queries of MLA, [tokens, heads, size], for one head's
    native = ["-rotary_embedding"] if any("kv_b_proj" in name for name in stored) else []
    parallel = {"method": "eagle3", "parallel_drafting": True} if "mask_hidden" in stored else {}
    config = EngineArgs(
        model=target,
        dtype="float32",
        enforce_eager=True,
        skip_tokenizer_init=True,
        max_model_len=64,
        compilation_config={"custom_ops": native},
        speculative_config={"model": folder, "num_speculative_tokens": 3, **parallel},
    ).create_engine_config()
    with set_current_vllm_config(config):
        start()
        model = get_model(vllm_config=config, model_config=config.speculative_config.draft_model_config)
    for layer in model.model.layers:
        if hasattr(own := layer.self_attn, "mla_attn"):
            own.mla_attn.mla_attn = whole_sequence.Latent(own.mla_attn.mla_attn, own.kv_b_proj)
            continue
        paged = layer.self_attn.attn
        layer.self_attn.attn = whole_sequence.Attention(
            paged.num_heads, paged.num_kv_heads, paged.head_size, paged.impl.scale, paged.sliding_window
        )
    if "embed_tokens.weight" not in stored:
        with torch.no_grad():
            model.model.embed_tokens.weight[: len(embeddings)] = embeddings
    return model, config


def start() -> None:
    """A world of one process, once."""
    from vllm.distributed import (
        init_distributed_environment,
        initialize_model_parallel,
        model_parallel_is_initialized,
    )

    if model_parallel_is_initialized():
        return
    torch.accelerator.empty_cache = lambda: None  # the loader calls it, and there is no accelerator
    rendezvous = tempfile.mkdtemp()
    init_distributed_environment(1, 0, f"file://{rendezvous}/rendezvous", 0, "gloo")
    initialize_model_parallel(1)


@torch.no_grad()
def run(model: Any, config: Any, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """See `whole_sequence.draft`; logits are over the target's vocabulary."""
    from vllm.config import set_current_vllm_config
    from vllm.forward_context import set_forward_context

    def forward(*given: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with set_current_vllm_config(config), set_forward_context(None, config):
            last, carried = model(*given)
        return model.compute_logits(last), carried

    masked = None
    if config.speculative_config.parallel_drafting:
        stated = vars(config.speculative_config.draft_model_config.hf_config)
        token = next(stated[key] for key in ("mask_token_id", "pard_token", "ptd_token_id") if key in stated)
        masked = torch.tensor([token]), model.combine_hidden_states(model.mask_hidden.view(1, -1))
    return whole_sequence.draft(forward, inputs, model.combine_hidden_states(inputs["aux"]), masked)


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    embeddings = load_file(Path(job["target"]) / "model.safetensors")["model.embed_tokens.weight"].float()
    out: dict[str, torch.Tensor] = {}
    failed: dict[str, str] = {}
    classes: dict[str, str] = {}
    for name, folder in job["heads"].items():
        try:
            model, config = load(job["target"], folder, embeddings)
            classes[name] = type(model).__name__
            out |= {f"{name}/{k}": v for k, v in run(model, config, load_file(job["inputs"][name])).items()}
        except Exception as e:
            failed[name] = f"{type(e).__name__}: {e}"
    save_file(out, job["result"], metadata={"failed": json.dumps(failed), "classes": json.dumps(classes)})


if __name__ == "__main__":
    main()
