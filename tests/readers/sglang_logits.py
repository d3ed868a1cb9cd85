"""Logits of SGLang's own draft model class, on CPU. Run by SGLang's interpreter:

    python sglang_logits.py JOB.json

JOB: {"target": folder, "heads": {name: folder}, "inputs": {name: safetensors file}, "result": safetensors file}.
SGLang resolves its own configuration, picks its own class and loads the weights with it; its own native layers run.
Only ``self_attn.attn`` is replaced, whose kernels have no CPU build outside the Engine.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from sglang_reader import NoKernels, declare_torchvision_operators, start

sys.path.insert(0, str(Path(__file__).parents[2] / "eagle3hub/engines/workers"))
import whole_sequence


def load(folder: str, arguments: Any, embeddings: torch.Tensor) -> Any:
    """The draft model, with the target's embeddings."""
    from sglang.srt.configs.model_config import ModelConfig
    from sglang.srt.model_loader.utils import get_model_architecture
    from sglang.srt.runtime_context import get_model

    config = ModelConfig.from_server_args(arguments, model_path=folder, is_draft_model=True)
    model_class, _ = get_model_architecture(config)
    with get_model().override(shared_experts=None):
        model = model_class(config=config.hf_config, quant_config=None)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(float("nan"))  # what the file does not fill shows
        model.load_weights(load_file(Path(folder) / "model.safetensors").items())
        model.model.embed_tokens.weight[: len(embeddings)] = embeddings
        for layer in layers(model):
            if layer.self_attn.o_proj.bias is not None:  # "bias", meant for fc, makes one that no trainer's file has
                layer.self_attn.o_proj.bias.zero_()
    for layer in layers(model):
        if hasattr(layer.self_attn, "attn_mha"):
            unpage(layer.self_attn)
            continue
        paged = layer.self_attn.attn
        layer.self_attn.attn = whole_sequence.Attention(
            paged.tp_q_head_num, paged.tp_k_head_num, paged.head_dim, paged.scaling, None
        )
    return model


def layers(model: Any) -> list[Any]:
    """The decoder layers of SGLang's Llama drafts, or the one of its MLA drafts."""
    return [model.model.midlayer] if hasattr(model.model, "midlayer") else list(model.model.layers)


def unpage(attention: Any) -> None:
    """Have MLA attention go SGLang's way of expanded keys and values (MHA), without its cache and kernels."""
    from sglang.srt.models.deepseek_common.attention_forward_methods import forward_mha
    from sglang.srt.models.deepseek_common.attention_forward_methods.forward_methods import AttnForwardMethod

    forward_mha.resolve_attn_backend = lambda _batch: None
    attention.dispatch_attn_forward_method = lambda _batch: AttnForwardMethod.MHA
    attention._set_mla_kv_buffer = lambda *_given: None
    paged = attention.attn_mha
    attention.attn_mha = whole_sequence.Attention(
        paged.tp_q_head_num, paged.tp_k_head_num, paged.qk_head_dim, paged.scaling, None, value=paged.v_head_dim
    )
    attention.attn_mha.kv_b_proj = attention.kv_b_proj


@torch.no_grad()
def run(model: Any, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """See `whole_sequence.draft`; logits are over the target's vocabulary."""
    rows, vocabulary = model.config.draft_vocab_size, model.config.vocab_size
    ids = torch.arange(rows) if model.hot_token_id is None else model.hot_token_id

    def forward(
        tokens: torch.Tensor, positions: torch.Tensor, features: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        mode = SimpleNamespace(is_extend=lambda: False, is_decode=lambda: False)
        batch = SimpleNamespace(
            mm_input_embeds=None,
            forward_mode=mode,
            spec_info=SimpleNamespace(hidden_states=features),
            mha_one_shot=False,
        )
        last, (carried,) = model.model(tokens, positions, batch)
        wide = torch.full((len(tokens), vocabulary), float("-inf"))
        wide[:, ids] = last @ model.lm_head.weight[:rows].T
        return wide, carried

    seen: list[torch.Tensor] = []
    hook = layers(model)[0].register_forward_pre_hook(lambda _module, given: seen.append(given[2]))
    forward(inputs["token_ids"], torch.arange(len(inputs["token_ids"])), inputs["aux"])
    hook.remove()
    return whole_sequence.draft(forward, inputs, seen[0])  # features of the right width are not projected again


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    keep = declare_torchvision_operators()
    sys.modules["sgl_kernel"] = NoKernels("sgl_kernel")
    embeddings = load_file(Path(job["target"]) / "model.safetensors")["model.embed_tokens.weight"].float()
    arguments = start(Path(job["target"]), next(iter(job["heads"].values())))
    torch.set_default_dtype(torch.float32)
    out: dict[str, torch.Tensor] = {}
    failed: dict[str, str] = {}
    classes: dict[str, str] = {}
    for name, folder in job["heads"].items():
        try:
            model = load(folder, arguments, embeddings)
            classes[name] = type(model).__name__
            out |= {f"{name}/{k}": v for k, v in run(model, load_file(job["inputs"][name])).items()}
        except Exception as e:
            failed[name] = f"{type(e).__name__}: {e}"
    save_file(out, job["result"], metadata={"failed": json.dumps(failed), "classes": json.dumps(classes)})
    del keep


if __name__ == "__main__":
    main()
