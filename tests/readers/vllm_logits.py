"""Logits of vLLM's own draft model classes, on CPU. Run by vLLM's interpreter:

    python vllm_logits.py JOB.json

JOB: {"target": folder, "heads": {name: folder}, "inputs": {name: safetensors file}, "result": safetensors file}.
vLLM resolves its own configuration, picks its own class and loads the weights with its own loader, as for a proposer.
Only the kernel behind ``self_attn.attn`` is replaced, by torch's attention without a KV cache: the whole sequence runs
again in every step, so that no pages need be laid out. Its window is the one vLLM gave the layer.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file


class Attention(torch.nn.Module):
    """Causal attention over the whole sequence, in place of vLLM's paged one."""

    def __init__(self, paged: Any) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.size = paged.num_heads, paged.num_kv_heads, paged.head_size
        self.scale = paged.impl.scale
        self.window = paged.sliding_window

    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        q = q.view(1, -1, self.heads, self.size).transpose(1, 2)
        k, v = (x.view(1, -1, self.kv_heads, self.size).transpose(1, 2) for x in (k, v))
        at = torch.arange(q.shape[2])
        seen = at[None, :] <= at[:, None]
        if self.window is not None:
            seen &= at[:, None] - at[None, :] < self.window
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=self.scale, enable_gqa=True)
        return out.transpose(1, 2).flatten(2)[0]


def load(target: str, folder: str, embeddings: torch.Tensor) -> tuple[Any, Any]:
    """The draft model and its configuration, as the proposer gets them, with the target's embeddings if it needs them.

    A P-EAGLE head is one where ``mask_hidden`` is stored; vLLM wants to be told.
    """
    from vllm.config import set_current_vllm_config
    from vllm.engine.arg_utils import EngineArgs
    from vllm.model_executor.model_loader import get_model

    with safe_open(Path(folder) / "model.safetensors", "pt") as file:
        stored = set(file.keys())
    parallel = {"method": "eagle3", "parallel_drafting": True} if "mask_hidden" in stored else {}
    config = EngineArgs(
        model=target,
        dtype="float32",
        enforce_eager=True,
        skip_tokenizer_init=True,
        max_model_len=64,
        speculative_config={"model": folder, "num_speculative_tokens": 3, **parallel},
    ).create_engine_config()
    with set_current_vllm_config(config):
        start()
        model = get_model(vllm_config=config, model_config=config.speculative_config.draft_model_config)
    for layer in model.model.layers:
        layer.self_attn.attn = Attention(layer.self_attn.attn)
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
    """Logits [T, vocabulary] of the first step at every position, and [steps, vocabulary] of a draft at the end."""
    from vllm.config import set_current_vllm_config
    from vllm.forward_context import set_forward_context

    tokens, features = inputs["token_ids"], model.combine_hidden_states(inputs["aux"])
    drafted = inputs["drafted"]
    parallel = config.speculative_config.parallel_drafting
    draft, first = [], None
    for step in range(len(drafted) + 1):
        with set_current_vllm_config(config), set_forward_context(None, config):
            last, carried = model(tokens, torch.arange(len(tokens)), features)
        logits = model.compute_logits(last)
        first = logits if first is None else first
        draft.append(logits[-1])
        if step == len(drafted):
            break
        if parallel:
            mask = config.speculative_config.draft_model_config.hf_config.pard_token
            tokens = torch.cat([tokens, torch.tensor([mask])])
            features = torch.cat([features, model.combine_hidden_states(model.mask_hidden.view(1, -1))])
        else:
            tokens = torch.cat([tokens, drafted[step : step + 1]])
            features = torch.cat([features, carried[-1:]])
    return {"first": first, "draft": torch.stack(draft)}


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    embeddings = load_file(Path(job["target"]) / "model.safetensors")["model.embed_tokens.weight"].float()
    out: dict[str, torch.Tensor] = {}
    failed: dict[str, str] = {}
    classes: dict[str, str] = {}
    for name, folder in job["heads"].items():
        try:
            model, config = load(job["target"], folder, embeddings)
            for key, value in run(model, config, load_file(job["inputs"][name])).items():
                out[f"{name}/{key}"] = value.contiguous()
            classes[name] = type(model).__name__
        except Exception as e:
            failed[name] = f"{type(e).__name__}: {e}"
    save_file(out, job["result"], metadata={"failed": json.dumps(failed), "classes": json.dumps(classes)})


if __name__ == "__main__":
    main()
