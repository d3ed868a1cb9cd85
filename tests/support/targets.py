"""Tiny target models with random weights, of every architecture that matters, saved as transformers saves them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

VOCAB = 97
LAYERS = 4
COMMON: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}
_EXPERTS = {"moe_intermediate_size": 12, "num_experts": 4, "num_experts_per_tok": 2}
_VISION = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16}
_SIGLIP = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},
    "qwen3": {},
    "qwen3_moe": {**_EXPERTS, "decoder_sparse_step": 1},
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8},
    "deepseek_v3": {
        "moe_intermediate_size": 12,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
        "first_k_dense_replace": 1,
        "kv_lora_rank": 8,
        "q_lora_rank": 8,
        "qk_rope_head_dim": 4,
        "qk_nope_head_dim": 4,
        "v_head_dim": 4,
        "num_key_value_heads": 4,
    },
    "gemma2": {"sliding_window": 8, "query_pre_attn_scalar": 4, "final_logit_softcapping": 0.5},
    "gemma3_text": {"sliding_window": 8, "query_pre_attn_scalar": 4},
    "mistral": {"sliding_window": 8},
    "phi3": {"original_max_position_embeddings": 256},
    "granite": {"logits_scaling": 3.0, "residual_multiplier": 0.5},
    "cohere2": {"logit_scale": 0.25, "sliding_window": 8},
    "gpt2": {"n_embd": 16, "n_layer": LAYERS, "n_head": 4, "n_positions": 256, "n_inner": 24},
    "qwen3_next": {
        **_EXPERTS,
        "shared_expert_intermediate_size": 12,
        "linear_num_value_heads": 4,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 4,
        "linear_value_head_dim": 4,
    },
    "gemma3": {"text_config": {**COMMON, "sliding_window": 8}, "vision_config": _SIGLIP},
    "qwen3_vl": {"text_config": {**COMMON}, "vision_config": {**_VISION, "deepstack_visual_indexes": [0]}},
}
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% if think is defined and think %}?{% endif %}{% endif %}"
)


def config(kind: str, **changes: Any) -> transformers.PreTrainedConfig:
    settings = ARCHITECTURES[kind]
    if "text_config" not in settings:
        settings = {**COMMON, **settings}
    return transformers.AutoConfig.for_model(kind, **{**settings, **changes})


def model(kind: str, seed: int = 0, **changes: Any) -> transformers.PreTrainedModel:
    """A model with weights large enough that its answers vary."""
    torch.manual_seed(seed)
    made = config(kind, **changes)
    mapping = transformers.MODEL_FOR_CAUSAL_LM_MAPPING
    auto = transformers.AutoModelForCausalLM if type(made) in mapping else transformers.AutoModelForImageTextToText
    out = auto.from_config(made, dtype=torch.float32)
    with torch.no_grad():
        for parameter in out.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
    return out.eval()


def save(folder: Path, kind: str = "llama", *, tokenizer: bool = False, **changes: Any) -> Path:
    model(kind, **changes).save_pretrained(folder)
    if tokenizer:
        save_tokenizer(folder)
    return folder


def save_tokenizer(folder: Path, template: str | None = TEMPLATE, special: Mapping[str, str] | None = None) -> None:
    """A tokenizer of single characters that puts a BOS before what it is given, unless asked not to.

    Ids 0 … 2 are pad, bos and eos, then come newline and printable ASCII.
    """
    vocab = {"<pad>": 0, "<s>": 1, "</s>": 2}
    for code in [10, *range(32, 126)][: VOCAB - 3]:
        vocab[chr(code)] = len(vocab)
    raw = Tokenizer(models.WordLevel(vocab, unk_token="<pad>"))
    raw.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    raw.decoder = decoders.Fuse()
    raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    names = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", **(special or {})}
    fast = PreTrainedTokenizerFast(tokenizer_object=raw, **names)
    fast.chat_template = template
    fast.save_pretrained(folder)


IMAGE_SIDE, PATCH_SIDE = 28, 14
"""Pixels of a side of what the vision tower sees, and of one of its patches: 4 patches and a class token."""
PARTS_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<{{ m['role'] }}>"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for part in m['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{{ '\\n' }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
"""A chat template that loops over the parts of a message, as LLaVA's own does."""


def save_llava(folder: Path, *, template: str = PARTS_TEMPLATE, seed: int = 0, **text: Any) -> Path:
    """A small LLaVA with weights at random, its tokenizer and its processor: an image is 4 tokens of a prompt.

    Heads have 32 numbers: vLLM has no attention on CPU for fewer.
    """
    torch.manual_seed(seed)
    settings = {**COMMON, "vocab_size": VOCAB + 1, "hidden_size": 64, "num_attention_heads": 2, "head_dim": 32}
    settings |= {"intermediate_size": 96, "num_key_value_heads": 2, "max_position_embeddings": 512, **text}
    vision = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 1}
    vision |= {"image_size": IMAGE_SIDE, "patch_size": PATCH_SIDE, "projection_dim": 32}
    made = transformers.LlavaConfig(
        text_config=transformers.LlamaConfig(**settings),
        vision_config=transformers.CLIPVisionConfig(**vision),
        image_token_index=VOCAB,
        image_seq_length=(IMAGE_SIDE // PATCH_SIDE) ** 2,
        vision_feature_layer=-2,
        tie_word_embeddings=False,
    )
    out = transformers.LlavaForConditionalGeneration(made)
    with torch.no_grad():
        for parameter in out.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.2)
        out.lm_head.weight[VOCAB] = 0  # it never says that an image comes
    out.eval().save_pretrained(folder)
    _name_as_published(folder / "model.safetensors")
    save_tokenizer(folder, template)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    side = {"height": IMAGE_SIDE, "width": IMAGE_SIDE}
    processor = transformers.LlavaProcessor(
        transformers.models.clip.image_processing_pil_clip.CLIPImageProcessorPil(
            size={"shortest_edge": IMAGE_SIDE}, crop_size=side
        ),
        tokenizer,
        patch_size=PATCH_SIDE,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template,
    )
    processor.save_pretrained(folder)
    return folder


def _name_as_published(file: Path) -> None:
    """Give CLIP's tensors the names of published checkpoints, which vLLM reads; transformers 5 saves shorter ones."""
    from safetensors.torch import load_file, save_file

    short, long = "vision_tower.", "vision_tower.vision_model."
    tensors = {name.replace(long, short).replace(short, long): tensor for name, tensor in load_file(file).items()}
    save_file(tensors, file, {"format": "pt"})


def picture(seed: int, side: int = 40) -> bytes:
    """A PNG file of coloured noise."""
    import io

    import numpy
    from PIL import Image

    out = io.BytesIO()
    pixels = numpy.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=numpy.uint8)
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()
