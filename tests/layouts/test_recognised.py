"""Draft models of other methods are called by their names, whatever layout is asked for; EAGLE-3 heads are not."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support import heads, variants

from eagle3hub.checkpoint import source as checkpoint_source
from eagle3hub.checkpoint.folder import open_checkpoint, read_tensor
from eagle3hub.checkpoint.safetensors import TensorRef
from eagle3hub.checkpoint.source import kinds
from eagle3hub.conversion.edits import Transforms
from eagle3hub.conversion.plan import ConvertOptions
from eagle3hub.conversion.run import convert
from eagle3hub.engines.preflight import examine, preflight_all
from eagle3hub.errors import ConfigError, InputError, LayoutError, TensorError
from eagle3hub.layouts import LAYOUTS, ReadOptions, detect, open_head

H, INNER, VOCAB = 8, 12, 40
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": H,
    "intermediate_size": INNER,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "num_hidden_layers": 1,
    "vocab_size": VOCAB,
    "rms_norm_eps": 1e-5,
}
MEDUSA = {"model_type": "medusa", "base_model_name_or_path": "lmsys/vicuna-7b-v1.3"}
LAYER: dict[str, tuple[int, ...]] = {
    "self_attn.q_proj.weight": (H, H),
    "self_attn.k_proj.weight": (H // 2, H),
    "self_attn.v_proj.weight": (H // 2, H),
    "self_attn.o_proj.weight": (H, H),
    "mlp.gate_proj.weight": (INNER, H),
    "mlp.up_proj.weight": (INNER, H),
    "mlp.down_proj.weight": (H, INNER),
    "post_attention_layernorm.weight": (H,),
}


def layer(prefix: str, *more: str) -> dict[str, tuple[int, ...]]:
    return {f"{prefix}{name}": shape for name, shape in {**LAYER, **dict.fromkeys(more, (H,))}.items()}


EAGLE1 = {"embed_tokens.weight": (VOCAB, H), "fc.weight": (H, 2 * H), **layer("layers.0.")}
OTHERS: dict[str, tuple[dict[str, Any], dict[str, tuple[int, ...]], str]] = {
    "EAGLE-1": (LLAMA, EAGLE1, "an EAGLE-1 or EAGLE-2 head, not an EAGLE-3 head"),
    "EAGLE-2 with a bias": (LLAMA | {"bias": True}, EAGLE1 | {"fc.bias": (H,)}, "an EAGLE-1 or EAGLE-2 head"),
    "EAGLE-2 under midlayer": (
        LLAMA,
        {n.replace("layers.0.", "draft_model.midlayer."): s for n, s in EAGLE1.items()},
        "an EAGLE-1 or EAGLE-2 head",
    ),
    "EAGLE-1 with model.": (LLAMA, {f"model.{n}": s for n, s in EAGLE1.items()}, "an EAGLE-1 or EAGLE-2 head"),
    "Medusa": (
        {"medusa_num_heads": 2, "base_model_name_or_path": "lmsys/vicuna-7b-v1.3"},
        {f"{i}.{n}": s for i in range(2) for n, s in {"0.linear.weight": (H, H), "1.weight": (VOCAB, H)}.items()},
        "Medusa heads",
    ),
    "Medusa's class": (MEDUSA | {"architectures": ["MedusaModel"]}, {"blocks.0.layers.0.weight": (H, H)}, "Medusa"),
    "Medusa by its names": (MEDUSA, {"medusa_heads.0.0.linear.weight": (H, H)}, "Medusa heads"),
    "Medusa by its outputs": (MEDUSA, {"lm_heads.0.weight": (VOCAB, H)}, "Medusa heads"),
    "DFlash": (
        LLAMA | {"architectures": ["DFlashDraftModel"], "dflash_config": {"mask_token_id": 5}},
        {"fc.weight": (H, 3 * H), "hidden_norm.weight": (H,), **layer("layers.0.", "input_layernorm.weight")},
        "a DFlash draft model",
    ),
    "MTP": (
        LLAMA | {"architectures": ["DeepseekV3ForCausalLMNextN"]},
        {"model.layers.9.eh_proj.weight": (H, 2 * H), **layer("model.layers.9.", "enorm.weight", "hnorm.weight")},
        "multi-token prediction",
    ),
    "MTP with MLA": (
        LLAMA,
        {"model.layers.0.eh_proj.weight": (H, 2 * H), "model.layers.0.self_attn.kv_a_proj_with_mqa.weight": (H, H)},
        "multi-token prediction",
    ),
    "experts": (
        LLAMA | {"architectures": ["Eagle3DeepseekV2ForCausalLM"], "kv_lora_rank": 4},
        {
            "fc.weight": (H, 3 * H),
            "layers.0.hidden_norm.weight": (H,),
            "layers.0.self_attn.kv_b_proj.weight": (H, 4),
            "layers.0.mlp.gate.weight": (4, H),
            "layers.0.mlp.experts.0.up_proj.weight": (INNER, H),
        },
        "a mixture of experts in place of its MLP",
    ),
    "MTP of Qwen3-Next": (
        LLAMA,
        {"mtp.fc.weight": (H, 2 * H), **layer("mtp.layers.0.")},
        "multi-token prediction",
    ),
    "Gemma's assistant": (
        LLAMA | {"architectures": ["Gemma4AssistantForCausalLM"], "model_type": "gemma4_assistant"},
        {"pre_projection.weight": (H, 2 * H), **layer("model.layers.0.")},
        r"a Gemma assistant.* vLLM \(method mtp\) and SGLang \(FROZEN_KV_MTP\) serve",
    ),
    "Gemma's assistant with embeddings": (
        LLAMA | {"architectures": ["Gemma4AssistantForCausalLM"], "model_type": "gemma4_assistant"},
        {
            "pre_projection.weight": (H, 2 * H),
            "model.embed_tokens.weight": (VOCAB, H),
            "model.norm.weight": (H,),
            **layer("model.layers.0."),
        },
        "a Gemma assistant",
    ),
    "Gemma's assistant with model. before all": (
        LLAMA | {"architectures": ["Gemma4AssistantForCausalLM"], "model_type": "gemma4_assistant"},
        {
            "model.pre_projection.weight": (H, 2 * H),
            "model.embed_tokens.weight": (VOCAB, H),
            "model.norm.weight": (H,),
            **layer("model.layers.0."),
        },
        "a Gemma assistant",
    ),
    "EAGLE-1 of MiniCPM": (
        LLAMA | {"architectures": ["EagleMiniCPMForCausalLM"]},
        {
            "model.embed_tokens.weight": (VOCAB, H),
            "model.input_norm1.weight": (H,),
            "model.input_norm2.weight": (H,),
            "model.fc.weight": (H, 2 * H),
            **layer("model.eagle_layers.0."),
        },
        "an EAGLE-1 head of MiniCPM",
    ),
    "DSpark": (
        LLAMA | {"architectures": ["Qwen3DSparkModel"]},
        {"fc.weight": (H, 3 * H), "markov_head.weight": (VOCAB, H), **layer("layers.0.", "input_layernorm.weight")},
        r"a DSpark draft model; vLLM \(method dspark\) and SGLang \(DSPARK\) serve it;",
    ),
    "DSpark by its tensors": (
        LLAMA,
        {"fc.weight": (H, 5 * H), "markov_head.w1.weight": (VOCAB, H), **layer("layers.0.", "input_layernorm.weight")},
        "a DSpark draft model",
    ),
    "DFlash 2": (
        LLAMA | {"architectures": ["DFlash2DraftModel"], "dflash_config": {"mask_token_id": 5}},
        {"fc.weight": (H, 3 * H), **layer("layers.0.", "input_layernorm.weight")},
        r"a DFlash 2 draft model; vLLM \(method dflash\) serves it;",
    ),
    "Hydra": (
        {"hydra_num_heads": 4, "base_model_name_or_path": "lmsys/vicuna-7b-v1.3"},
        {"hydra_head.0.0.linear.weight": (H, 2 * H)},
        "Hydra heads; only",
    ),
    "an MLP speculator": (
        {"architectures": ["MLPSpeculatorPreTrainedModel"], "model_type": "mlp_speculator"},
        {"speculator.emb.0.weight": (VOCAB, H), "speculator.proj.0.weight": (H, H)},
        "an MLP speculator; none of the engines known here serves it by itself: .* Arctic Inference runs",
    ),
    "Mistral's format beside a config": (
        LLAMA,
        {"eagle_linear.weight": (H, 2 * H), "layers.0.attention.wo.weight": (H, H), "norm.weight": (H,)},
        r"an EAGLE-1 head in Mistral's own format \(eagle_linear\); vLLM \(method eagle\) and SGLang \(EAGLE\)",
    ),
    "a model in Mistral's format beside a config": (
        LLAMA,
        {"layers.0.attention.wq.weight": (H, H), "layers.0.feed_forward.w1.weight": (H, H), "norm.weight": (H,)},
        r"weights in Mistral's own format \(attention.wq, feed_forward.w1\), no EAGLE-3 head",
    ),
    "EAGLE-1 of Megatron": (
        LLAMA | {"architectures": ["LlamaForCausalLMEagle"]},
        {
            "fc.weight": (H, 2 * H),
            "enorm.weight": (H,),
            "hnorm.weight": (H,),
            **layer("layers.0.", "hidden_norm.weight"),
        },
        r"an EAGLE-1 head \(enorm / hnorm\), not an EAGLE-3 head; vLLM",
    ),
    "ModelOpt's training": (
        LLAMA,
        {
            "model.embed_tokens.weight": (VOCAB, H),
            "lm_head.weight": (VOCAB, H),
            **layer("model.layers.0.", "input_layernorm.weight"),
            "eagle_module.fc.weight": (H, 3 * H),
            **layer("eagle_module.layers.0.", "hidden_norm.weight", "input_layernorm.weight"),
        },
        r"a checkpoint of ModelOpt's training \(eagle_module\), in which the head stands inside its target",
    ),
    "ModelOpt's training, the head alone": (
        LLAMA,
        {"eagle_module.fc.weight": (H, 3 * H), **layer("eagle_module.layers.0.", "hidden_norm.weight")},
        "a checkpoint of ModelOpt's training",
    ),
    "hidden states": (
        LLAMA,
        {"hidden_states": (4, 3, H), "token_ids": (4,)},
        "hidden states of a target, which heads are trained on; no engine serves them",
    ),
    "hidden states as ModelOpt has them": (
        LLAMA,
        {"input_ids": (4,), "aux_hidden_states": (4, 3 * H)},
        "hidden states",
    ),
    "hidden states in a list": (LLAMA, {"input_ids": (4,), "hidden_states.0": (4, H)}, "hidden states of a target"),
    "a map alone": (LLAMA, {"d2t": (4,), "t2d": (8,)}, r"a vocabulary map \(d2t, t2d\) and no weights"),
    "a LoRA adapter": (
        LLAMA,
        {"base_model.model.layers.0.self_attn.q_proj.lora_A.weight": (2, H)},
        "a LoRA adapter, no draft head",
    ),
}


@pytest.mark.parametrize("layout", [None, "safeailab"])
@pytest.mark.parametrize("other", OTHERS)
def test_another_method_is_called_by_its_name(tmp_path: Path, other: str, layout: str | None):
    config, shapes, says = OTHERS[other]
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file({name: torch.ones(shape) for name, shape in shapes.items()}, tmp_path / "model.safetensors")
    with pytest.raises(LayoutError, match=says) as refused:
        open_head(tmp_path, layout=layout)
    assert "this version reads Llama-style EAGLE-3 and P-EAGLE heads" in refused.value.message


def test_a_head_with_two_aux_layers_is_no_eagle1_head(tmp_path: Path):
    """Its fc has the shape of an EAGLE-1 head's."""
    two = heads.dims(aux=2)
    modelopt = variants.modelopt(tmp_path / "modelopt", two)
    speculators = heads.speculators(tmp_path / "speculators", two, eagle_aux_hidden_state_layer_ids=[2, 14])
    for folder in (modelopt, speculators):
        assert open_head(folder).tensors["fc.weight"].shape == (H, 2 * H)


@pytest.mark.parametrize(
    ("changes", "is_one"),
    [
        ({}, True),
        ({"fc.weight": None}, False),
        ({"layers.0.self_attn.q_proj.weight": None}, False),
        ({"layers.0.hidden_norm.weight": (H,)}, False),
        ({"fc.weight": (H, 3 * H)}, False),
        ({"fc.weight": (H, H)}, False),
        ({"fc.weight": (H,)}, False),
        ({"layers.0.self_attn.q_proj.weight": (H, 2 * H)}, False),
    ],
)
def test_an_eagle1_head_is_known_by_the_shapes_of_fc_and_attention(changes: dict[str, Any], is_one: bool):
    shapes = {name: shape for name, shape in {**EAGLE1, **changes}.items() if shape is not None}
    tensors = {name: TensorRef(name, "F32", shape, Path(), 0, 0) for name, shape in shapes.items()}
    assert checkpoint_source._is_eagle1(tensors) is is_one


@pytest.mark.parametrize(
    ("layout", "changes", "dtype", "score", "evidence"),
    [
        ("modelopt", {}, None, 1.0, 4),
        ("modelopt", {"architectures": ["X"]}, None, 2 / 3, 3),
        ("modelopt", {"eagle_config": None}, None, 2 / 3, 3),
        ("safeailab", {}, None, 1.0, 5),
        ("safeailab", {}, torch.int32, 3 / 4, 4),
        ("safeailab", {"max_position_embeddings": "DELETE"}, torch.int32, 2 / 4, 3),
    ],
)
def test_a_score_is_the_share_of_a_layouts_signs_that_a_folder_shows(
    tmp_path: Path, layout: str, changes: dict[str, Any], dtype: torch.dtype | None, score: float, evidence: int
):
    source = variants.edit(heads.MAKERS[layout](tmp_path / "x"), **changes)
    if dtype is not None:
        d2t = variants.tensors_of(source)["d2t"].to(dtype)
        variants.replace(source, d2t=d2t)
    match = LAYOUTS[layout].detect(open_checkpoint(source))
    assert match is not None
    assert (match.score, len(match.evidence)) == (pytest.approx(score), evidence)


@pytest.mark.parametrize("lacks", ["class", "embeddings"])
def test_a_head_without_a_mark_of_modelopt_is_of_an_unknown_trainer(tmp_path: Path, lacks: str):
    """That t2d is missing is not enough: plain Llama classes and own embeddings beside a map are others' work."""
    source = variants.edit(heads.modelopt(tmp_path / "x"), eagle_config="DELETE")
    assert open_head(source).layout == "modelopt"
    if lacks == "class":
        variants.edit(source, architectures=["LlamaForCausalLM"])
    else:
        d = heads.dims()
        variants.replace(source, **{"embed_tokens.weight": torch.ones(d["vocab"], d["hidden"])})
    head = open_head(source)
    assert head.layout == "flat"
    assert "always" not in str([a.why for a in head.assumptions])


BY_FILES = {
    "Mistral's format": (
        ["params.json", "consolidated.safetensors", "tekken.json"],
        "mistral",
        "an EAGLE-1 head or a whole model",
    ),
    "GGUF": (["draft-q8_0.gguf"], "gguf", "a GGUF file; llama.cpp serves it"),
    "ONNX": (["model.onnx", "tokenizer.json"], "onnx", "an ONNX model"),
    "OpenVINO": (["openvino_model.xml", "openvino_model.bin"], "openvino", "an OpenVINO model"),
    "MNN": (["llm.mnn", "llm_config.json"], "mnn", "an MNN model"),
    "a LoRA adapter": (["adapter_config.json", "adapter_model.safetensors"], "lora", "a LoRA adapter"),
    "DeepSpeed's parts": (["zero_to_fp32.py", "latest"], "deepspeed", r"a DeepSpeed checkpoint \(zero_to_fp32\.py\)"),
    "a part of DeepSpeed's": (["mp_rank_00_model_states.pt"], "deepspeed", "a DeepSpeed checkpoint"),
    "parts of ranks": (
        [f"shard-0000{i}-model-0000{i}-of-00002.safetensors" for i in (1, 2)],
        "parts-of-ranks",
        "one part of each weight for each process",
    ),
    "a distributed checkpoint": (["__0_0.distcp", ".metadata"], "distributed", "a distributed checkpoint of PyTorch"),
    "a distributed checkpoint of TorchSpec's": (
        ["iter_9/model/__0_0.distcp", "iter_10/model/__0_0.distcp", "iter_10/optimizer/__0_0.distcp", "config.yaml"],
        "distributed",
        "/iter_10/model holds a distributed checkpoint of PyTorch",
    ),
    "accelerate's FSDP": (
        ["pytorch_model_fsdp_0/__0_0.distcp", "optimizer_0/__0_0.distcp"],
        "distributed",
        "/pytorch_model_fsdp_0 holds a checkpoint of FSDP",
    ),
    "a part of DeepSpeed's in a folder": (
        ["latest", "global_step10/mp_rank_00_model_states.pt"],
        "deepspeed",
        "/global_step10 holds a DeepSpeed checkpoint",
    ),
    "Megatron-LM": (["iter_0000001/mp_rank_00/model_optim_rng.pt"], "megatron", "a checkpoint of Megatron-LM"),
    "Orbax": (["10/_CHECKPOINT_METADATA", "10/d/0123"], "orbax", "/10 holds a checkpoint of Orbax"),
    "Flax": (["flax_model.msgpack", "tokenizer.json"], "flax", r"weights of Flax \(\*\.msgpack\)"),
    "states of eagle3hub": (["states.json", "000000.safetensors"], "hidden-states", "hidden states of a target"),
    "states of SpecForge": (["rows_0-5000/data_0.ckpt.gz"], "hidden-states", "hidden states of a target"),
}


@pytest.mark.parametrize("kind", BY_FILES)
def test_a_folder_without_a_config_is_called_by_its_files(tmp_path: Path, kind: str):
    files, code, says = BY_FILES[kind]
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"{}")
    with pytest.raises(LayoutError, match=says) as refused:
        open_head(tmp_path)
    assert (refused.value.code, refused.value.exit_code) == (f"layout-{code}", 3)
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    if not any(name.endswith(".safetensors") for name in files):
        with pytest.raises(LayoutError, match=says):
            open_head(tmp_path)


@pytest.mark.parametrize("other", ["hidden states", "hidden states in a list", "a map alone", "a LoRA adapter"])
@pytest.mark.parametrize("names", [["x.safetensors"], ["in/0.pt", "in/1.pt"], ["0.pt", "1.pt"]])
def test_what_a_folder_holds_shows_in_its_first_file_without_a_config(tmp_path: Path, other: str, names: list[str]):
    _, shapes, says = OTHERS[other]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        save = save_file if name.endswith("safetensors") else torch.save
        save({name: torch.ones(shape) for name, shape in shapes.items()}, tmp_path / name)
    with pytest.raises(LayoutError, match=says):
        open_head(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    with pytest.raises(LayoutError, match=says):
        open_head(tmp_path)


def test_parts_of_ranks_are_no_shards_of_which_some_are_missing(tmp_path: Path):
    source = heads.specforge(tmp_path / "x")
    halves = {name: tensor.chunk(2) for name, tensor in variants.tensors_of(source).items()}
    (source / "model.safetensors").unlink()
    for i in (0, 1):
        part = {name: parts[i].contiguous() for name, parts in halves.items()}
        save_file(part, source / f"shard-0000{i + 1}-model-0000{i + 1}-of-00002.safetensors")
    with pytest.raises(LayoutError, match="one part of each weight for each process") as refused:
        open_head(source)
    assert "consolidate" in str(refused.value.hint)


WHOLE = {
    "a Llama": ("model.layers.{}.", "model.embed_tokens.weight"),
    "a vision model": ("language_model.model.layers.{}.", "language_model.model.embed_tokens.weight"),
    "a GPT": ("transformer.h.{}.", "transformer.wte.weight"),
    "a Llama without a prefix": ("layers.{}.", "embed_tokens.weight"),
}


@pytest.mark.parametrize("model", WHOLE)
def test_a_whole_model_is_called_one(tmp_path: Path, model: str):
    prefix, embeddings = WHOLE[model]
    shapes = {embeddings: (VOCAB, H), "lm_head.weight": (VOCAB, H)}
    for i in range(4):
        shapes |= layer(prefix.format(i), "input_layernorm.weight")
    (tmp_path / "config.json").write_text(json.dumps(LLAMA | {"num_hidden_layers": 4}))
    save_file({name: torch.ones(shape) for name, shape in shapes.items()}, tmp_path / "model.safetensors")
    with pytest.raises(LayoutError, match="a whole language model, not a draft head") as refused:
        open_head(tmp_path)
    assert "--target" in str(refused.value.hint)


@pytest.mark.parametrize("prefix", ["", "model."])
def test_a_bare_decoder_layer_is_no_head(tmp_path: Path, prefix: str):
    """What is left of an export that lost fc, or a model of one layer that somebody called a draft."""
    shapes = layer(f"{prefix}layers.0.", "input_layernorm.weight") | {f"{prefix}norm.weight": (H,)}
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    save_file({name: torch.ones(shape) for name, shape in shapes.items()}, tmp_path / "model.safetensors")
    with pytest.raises(TensorError, match="holds a decoder layer without fc and hidden_norm") as refused:
        open_head(tmp_path)
    assert refused.value.code == "tensor-bare-layer"


def fused(folder: Path, *, qkv: bool = True, gate_up: bool = True) -> Path:
    """The head in a folder with matrices that stand one after the other in one, as engines hold them."""
    changes: dict[str, Any] = {}
    pickled = folder / "pytorch_model.bin"
    tensors = torch.load(pickled, weights_only=True) if pickled.exists() else variants.tensors_of(folder)
    for wanted, at, name, parts in (
        (qkv, "self_attn.", "qkv_proj", "qkv"),
        (gate_up, "mlp.", "gate_up_proj", ("gate", "up")),
    ):
        if not wanted:
            continue
        for what in ("weight", "bias"):
            names = [n for x in parts for n in tensors if n.endswith(f"{at}{x}_proj.{what}")]
            if names:
                changes |= dict.fromkeys(names)
                changes[names[0].replace(f"{parts[0]}_proj", name)] = torch.cat([tensors[n] for n in names])
    if not pickled.exists():
        return variants.replace(folder, {"format": "pt"}, **changes)
    torch.save({n: t for n, t in {**tensors, **changes}.items() if t is not None}, pickled)
    return folder


FUSED = {"specforge": heads.specforge, "speculators": heads.speculators, "a pickle": heads.safeailab}


@pytest.mark.parametrize("parts", [{}, {"qkv": False}, {"gate_up": False}], ids=["both", "gate and up", "q, k and v"])
@pytest.mark.parametrize("maker", FUSED)
def test_matrices_that_engines_hold_as_one_are_split_byte_for_byte(tmp_path: Path, maker: str, parts: dict):
    plain, source = FUSED[maker](tmp_path / "plain"), fused(FUSED[maker](tmp_path / "fused"), **parts)
    head, other = open_head(plain), open_head(source)
    assert other.tensors.keys() == head.tensors.keys()
    assert {n: r.name for n, r in other.tensors.items()} == {n: r.name for n, r in head.tensors.items()}
    for name, ref in head.tensors.items():
        assert (ref.shape, read_tensor(ref)) == (other.tensors[name].shape, read_tensor(other.tensors[name])), name
    options = ConvertOptions(target_name="org/target", speculative_tokens=3, read=ReadOptions(num_target_layers=30))
    for to in ("universal", head.layout):
        for of, folder in (("plain", plain), ("fused", source)):
            convert(folder, tmp_path / f"{to} of {of}", to, options)
        one, two = (open_checkpoint(tmp_path / f"{to} of {of}").tensors for of in ("plain", "fused"))
        assert one.keys() == two.keys()
        assert all(read_tensor(one[name]) == read_tensor(two[name]) for name in one)


def test_biases_that_engines_hold_as_one_are_split_too(tmp_path: Path):
    plain = variants.modelopt(tmp_path / "plain", has=variants.Has(attention_bias=True))
    source = fused(variants.modelopt(tmp_path / "fused", has=variants.Has(attention_bias=True)))
    ours, theirs = (open_head(folder).tensors for folder in (plain, source))
    assert "layers.0.self_attn.k_proj.bias" in theirs
    assert all(read_tensor(ours[name]) == read_tensor(theirs[name]) for name in ours)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"num_attention_heads": 5, "head_dim": None}, "rows, which are not those of 5 heads and twice"),
        ({"head_dim": 16}, "KV heads of 16"),
        ({"num_key_value_heads": 64}, "twice 64 KV heads"),
    ],
)
def test_rows_of_other_heads_are_not_split(tmp_path: Path, change: dict, says: str):
    source = variants.edit(fused(heads.specforge(tmp_path / "x")), **change)
    with pytest.raises(TensorError, match=says) as refused:
        open_head(source)
    assert refused.value.code == "tensor-fused"


def test_a_fused_matrix_beside_a_part_of_it_or_of_an_odd_number_of_rows_is_no_head(tmp_path: Path):
    source = heads.specforge(tmp_path / "x")
    q = variants.tensors_of(source)["midlayer.self_attn.q_proj.weight"]
    both = variants.replace(fused(source), **{"midlayer.self_attn.q_proj.weight": q})
    with pytest.raises(TensorError, match=r"qkv_proj\.weight and midlayer\.self_attn\.q_proj\.weight are two names"):
        open_head(both)
    odd = fused(heads.specforge(tmp_path / "odd"))
    name = "midlayer.mlp.gate_up_proj.weight"
    variants.replace(odd, **{name: variants.tensors_of(odd)[name][1:].contiguous()})
    with pytest.raises(TensorError, match="not two halves of one size, gate and up") as refused:
        open_head(odd)
    assert refused.value.code == "tensor-fused"


def test_fused_matrices_of_quantized_values_are_called_so(tmp_path: Path):
    source = fused(heads.specforge(tmp_path / "x"))
    name = "midlayer.mlp.gate_up_proj.weight"
    variants.replace(source, **{name: variants.tensors_of(source)[name].to(torch.int8)})
    with pytest.raises(TensorError, match="several quantized matrices in one") as refused:
        open_head(source)
    assert refused.value.code == "tensor-fused"


def test_a_map_under_vllms_name_is_read_and_written_under_its_own(tmp_path: Path):
    source = heads.specforge(tmp_path / "x")
    d2t = variants.tensors_of(source)["d2t"]
    variants.replace(source, {"format": "pt"}, d2t=None, draft_id_to_target_id=d2t)
    head = open_head(source)
    assert head.vocab_status == "ok"
    assert "tensor-map-name" in {p.code for p in head.problems if p.severity == "warning"}
    done = convert(source, tmp_path / "universal", "universal")
    assert "tensor-map-name" in {p.code for p in done.mended}
    convert(tmp_path / "universal", tmp_path / "back", "specforge")
    for folder in ("universal", "back"):
        written = load_file(tmp_path / folder / "model.safetensors")
        assert torch.equal(written["d2t"], d2t)
        assert "draft_id_to_target_id" not in written
    absolute = d2t + torch.arange(len(d2t))
    variants.replace(source, {"format": "pt"}, draft_id_to_target_id=absolute)
    assert open_head(source).vocab_status == "absolute"
    with pytest.raises(TensorError, match=r"holds draft_id_to_target_id"):  # beside a d2t nothing says which counts
        open_head(variants.replace(source, {"format": "pt"}, d2t=d2t))


def test_a_map_under_sglangs_name_is_called_one(tmp_path: Path):
    source = heads.specforge(tmp_path / "x")
    d2t = variants.tensors_of(source)["d2t"]
    ids = d2t + torch.arange(len(d2t))
    variants.replace(source, {"format": "pt"}, d2t=None, t2d=None, hot_token_id=ids)
    with pytest.raises(TensorError, match="SGLang calls the vocabulary map so in memory") as refused:
        open_head(source)
    assert (refused.value.code, "--drop hot_token_id" in str(refused.value.hint)) == ("tensor-map-name", True)
    save_file({"d2t": ids}, tmp_path / "map.safetensors")
    options = ConvertOptions(
        read=ReadOptions(drop=("hot_token_id",)), transforms=Transforms(d2t=tmp_path / "map.safetensors")
    )
    convert(source, tmp_path / "out", "universal", options)
    assert torch.equal(load_file(tmp_path / "out/model.safetensors")["d2t"], d2t)


def test_a_config_in_two_parts_is_read_as_vllm_joins_it(tmp_path: Path):
    source = heads.specforge(tmp_path / "x")
    plain, config = open_head(source), variants.config_of(source)
    before = {v.title: v.kind for v in preflight_all(examine(open_checkpoint(source), plain))}
    inside = {**config, "architectures": ["LlamaForCausalLM"], "rms_norm_eps": 0.5, "method": "no"}
    outside = {"model_type": "eagle", "method": "eagle3", "rms_norm_eps": config["rms_norm_eps"]}
    (source / "config.json").write_text(json.dumps({**outside, "model": inside}))
    head = open_head(source, layout="specforge")
    assert (head.dims, head.semantics) == (plain.dims, plain.semantics)
    kinds = {v.title: (v.kind, v.reasons) for v in preflight_all(examine(open_checkpoint(source), head))}
    said = {title: {r.code for r in reasons} for title, (_, reasons) in kinds.items()}
    assert {title for title, codes in said.items() if "parted-config" in codes} == {
        title for title in kinds if not title.startswith(("vLLM", "sglang-jax 0.0"))
    }
    assert {t: kind for t, (kind, _) in kinds.items() if t.startswith("vLLM")} == {
        t: kind for t, kind in before.items() if t.startswith("vLLM")
    }
    convert(source, tmp_path / "out", "specforge", ConvertOptions(layout="specforge"))
    assert open_head(tmp_path / "out").dims == plain.dims
    assert "model" not in json.loads((tmp_path / "out/config.json").read_text())
    (source / "config.json").write_text(json.dumps({"model_type": "eagle", "model": config}))
    judged = preflight_all(examine(open_checkpoint(source), open_head(source)))
    assert {v.engine for v in judged if "parted-method" in {r.code for r in v.reasons}} == {"vllm"}


@pytest.mark.parametrize("maker", [heads.specforge, heads.speculators])
def test_aux_layers_with_a_point_are_whole_numbers(tmp_path: Path, maker: Callable[..., Path]):
    source = maker(tmp_path / "x")
    variants.edit(source, eagle_config={"use_aux_hidden_state": True})
    ids = open_head(variants.edit(source, eagle_aux_hidden_state_layer_ids=[2.0, 4.0, 5.0])).aux
    assert ids is not None
    assert (ids.boundary, {type(i) for i in ids.boundary}) == ([2, 4, 5], {int})
    judged = preflight_all(examine(open_checkpoint(source), open_head(source)))
    assert {v.engine for v in judged if "aux-floats" in {r.code for r in v.reasons}} <= {"llamacpp"}
    with pytest.raises(ConfigError, match="not a list of integers"):
        open_head(variants.edit(source, eagle_aux_hidden_state_layer_ids=[2.5, 4.0, 5.0]))


def test_silu_under_its_other_name_is_silu(tmp_path: Path):
    source = heads.specforge(tmp_path / "x", hidden_act="swish")
    head = open_head(source)
    assert head.semantics.hidden_act == "silu"
    stopped = {v.engine for v in preflight_all(examine(open_checkpoint(source), head)) if v.kind == "refuses"}
    said = [r for v in preflight_all(examine(open_checkpoint(source), head)) for r in v.reasons]
    assert {r.code for r in said if "swish" in r.sentence} == {"hidden-act-name"}
    assert {"vllm", "sglang"} <= stopped
    for to in ("specforge", "modelopt"):
        convert(source, tmp_path / to, to)
        assert variants.config_of(tmp_path / to)["hidden_act"] == "silu"
    convert(tmp_path / "modelopt", tmp_path / "back", "specforge")
    assert variants.config_of(tmp_path / "back")["hidden_act"] == "silu"
    nested = variants.speculators(tmp_path / "nested", layer={"hidden_act": "swish"})
    convert(nested, tmp_path / "speculators", "speculators")
    assert variants.config_of(tmp_path / "speculators")["transformer_layer_config"]["hidden_act"] == "silu"


def test_a_type_of_config_that_transformers_lacks_stops_engines(tmp_path: Path):
    source = heads.specforge(tmp_path / "x", model_type="llamaeagle3")
    said = {
        v.engine: r.hint for v in preflight_all(examine(open_checkpoint(source))) for r in v.reasons
        if r.code == "model-type"
    }  # fmt: skip
    assert said == dict.fromkeys(("vllm", "sglang", "trtllm", "sglang_jax"), "write model_type: llama")
    for known in ("llama", "qwen3", "mistral", "gemma3_text", "kimi_k2"):
        judged = preflight_all(examine(open_checkpoint(variants.edit(source, model_type=known))))
        assert "model-type" not in {r.code for v in judged for r in v.reasons}, known


@pytest.mark.parametrize("key", ["torch_dtype", "dtype"])
def test_a_dtype_that_torch_has_not_stops_engines(tmp_path: Path, key: str):
    source = heads.specforge(tmp_path / "x", torch_dtype="bfloat16")
    for named, stops in (("bf16", True), ("torch.bfloat16", False), ("half", False), ("auto", False)):
        variants.edit(source, torch_dtype="DELETE")
        variants.edit(source, **{key: named})
        judged = preflight_all(examine(open_checkpoint(source), open_head(source)))
        said = {v.engine for v in judged if "dtype-name" in {r.code for r in v.reasons if r.effect == "refuses"}}
        assert ({"vllm", "sglang"} <= said) == bool(said) == stops, named
    variants.edit(source, **{key: "bf16"})
    convert(source, tmp_path / "out", "specforge")
    assert variants.config_of(tmp_path / "out")[key] == "bfloat16"


@pytest.mark.parametrize("name", ["speculative_token_map.pt", "vocab_mapping.pt", "d2t.npy"])
@pytest.mark.parametrize("maker", [heads.specforge, heads.modelopt])
def test_a_file_that_may_hold_the_missing_map_is_named(tmp_path: Path, maker: Callable[..., Path], name: str):
    source = maker(tmp_path / "x")
    tensors = variants.tensors_of(source)
    ids = tensors["d2t"] + torch.arange(len(tensors["d2t"]))
    variants.replace(source, {"format": "pt"}, d2t=None, t2d=None)
    (missing,) = (p for p in open_head(source).problems if p.code == "vocab-missing")
    assert name not in str(missing.hint)
    if name.endswith(".pt"):
        torch.save(ids, source / name)
    else:
        np.save(source / name, ids.numpy())
    (missing,) = (p for p in open_head(source).problems if p.code == "vocab-missing")
    assert str(missing.hint).startswith(f"{name} in the folder may hold it: give it with --d2t FILE")
    if maker is heads.specforge:
        options = ConvertOptions(transforms=Transforms(d2t=source / name))
        convert(source, tmp_path / "out", "specforge", options)
        assert torch.equal(load_file(tmp_path / "out/model.safetensors")["d2t"], tensors["d2t"])


def test_hints_name_what_helps(tmp_path: Path):
    """A map that conversion makes, the class that fits, the lm_head of the target, FP8 without scales."""
    source = heads.specforge(tmp_path / "t2d")
    variants.replace(source, {"format": "pt"}, d2t=None)
    judged = preflight_all(examine(open_checkpoint(source), open_head(source)))
    assert {r.hint for v in judged for r in v.reasons if r.code == "d2t-missing"} == {"eagle3hub convert writes d2t"}
    source = heads.specforge(tmp_path / "qwen3", architectures=["Qwen3ForCausalLM"], model_type="qwen3")
    judged = preflight_all(examine(open_checkpoint(source), open_head(source)))
    hints = {r.hint for v in judged for r in v.reasons if r.code == "tensor-missing"}
    assert hints == {'architectures: ["LlamaForCausalLMEagle3"]'}
    source = heads.specforge(tmp_path / "whole")
    d = open_head(source).dims
    variants.replace(source, {"format": "pt"}, **{"lm_head.weight": torch.ones(d.vocab_size, d.hidden_size)})
    with pytest.raises(TensorError, match=r"lm_head\.weight has") as refused:
        open_head(source)
    assert "it is the target's, or another head's" in str(refused.value.hint)
    source = heads.specforge(tmp_path / "fp8")
    name = "midlayer.mlp.up_proj.weight"
    variants.replace(source, **{name: variants.tensors_of(source)[name].to(torch.float8_e4m3fn)})
    with pytest.raises(TensorError, match="is F8_E4M3") as refused:
        open_head(source)
    assert "or with the scales" in str(refused.value.hint)


@pytest.mark.parametrize("part", ["text_config", "model"])
def test_sizes_in_a_part_of_the_config_are_looked_for_and_said(tmp_path: Path, part: str):
    source = heads.specforge(tmp_path / "x")
    config = variants.config_of(source)
    inside = {"architectures": config.pop("architectures"), "model_type": "qwen2_5_vl", part: config}
    (source / "config.json").write_text(json.dumps(inside))
    for layout in (None, "specforge"):
        with pytest.raises(ConfigError, match=rf"the sizes of the head inside {part}") as refused:
            open_head(source, layout=layout)
        assert (refused.value.code, "to the top level" in str(refused.value.hint)) == ("config-part", True)
    assert open_head(variants.edit(source, **config)).layout == "specforge"


TARGETS = sorted((Path(__file__).parents[1] / "published/targets").glob("*.json"))


@pytest.mark.parametrize("config", TARGETS, ids=lambda path: path.stem)
def test_a_targets_config_beside_a_head_is_called_one(tmp_path: Path, config: Path):
    """A text model's, one of several parts, one with experts or MTP layers, as their makers publish them."""
    source = heads.specforge(tmp_path / "x")
    shutil.copy(config, source / "config.json")
    stated = json.loads(config.read_text())
    for layout in (None, "specforge"):
        with pytest.raises(ConfigError) as refused:
            open_head(source, layout=layout)
        depth = stated.get("text_config", stated).get("num_hidden_layers") or stated["num_layers"]
        says = (
            rf"is a whole model's \({stated['architectures'][0]}, {depth} layers\), .* with 1 decoder layer: its own"
        )
        assert refused.value.code == "config-of-target"
        assert re.search(says, refused.value.message), refused.value.message
        assert "num_hidden_layers 1, draft_vocab_size 10, and the sizes" in str(refused.value.hint)


def test_a_targets_config_without_a_class_beside_an_mla_head_is_called_one(tmp_path: Path):
    source = variants.specforge(tmp_path / "x", has=variants.Has(mla=True))
    (source / "config.json").write_text(json.dumps({"num_hidden_layers": 61, "hidden_size": H}))
    with pytest.raises(ConfigError, match=r"is a whole model's \(61 layers\)") as refused:
        open_head(source)
    assert 'architectures ["Eagle3DeepseekV2ForCausalLM"], model_type kimi_k2' in str(refused.value.hint)


@pytest.mark.parametrize(
    "of_a_draft",
    [
        {"num_hidden_layers": 3},
        {"draft_vocab_size": 10},
        {"eagle_config": {}},
        {"architectures": ["LlamaForCausalLMEagle3"]},
        {"num_hidden_layers": "36"},
    ],
)
def test_a_drafts_config_with_a_wrong_depth_is_no_targets(tmp_path: Path, of_a_draft: dict[str, Any]):
    source = heads.specforge(tmp_path / "x")
    draft = {key: "DELETE" for key in variants.config_of(source) if re.search("eagle|draft|specul", key)}
    whole = {"architectures": ["LlamaForCausalLM"], "num_hidden_layers": 36}
    variants.edit(source, **draft, **whole)
    with pytest.raises(ConfigError, match="a whole model's"):
        open_head(source)
    variants.edit(source, **of_a_draft)
    try:
        open_head(source)
    except InputError as e:
        assert e.code != "config-of-target"


def test_weights_packed_for_mlx_are_called_so(tmp_path: Path):
    source = heads.specforge(tmp_path / "x")
    packed = torch.zeros(VOCAB, 1, dtype=torch.uint32)
    scales, biases = (torch.zeros(VOCAB, 1, dtype=torch.bfloat16) for _ in range(2))
    of_head = {"lm_head.weight": packed, "lm_head.scales": scales, "lm_head.biases": biases}
    variants.replace(source, {"format": "mlx"}, **of_head)
    with pytest.raises(LayoutError, match=r"quantized for MLX.* none of the engines known here") as refused:
        open_head(source)
    assert refused.value.code == "layout-mlx"
    variants.replace(source, {"format": "mlx"}, **{"lm_head.biases": None})
    with pytest.raises(InputError) as other:
        open_head(source)
    assert other.value.code != "layout-mlx", "scales alone are of many formats"


@pytest.mark.parametrize("flag", ["norm_before_residual", "norm_before_fc", "fc_norm", "use_aux_norm"])
def test_a_flag_tells_what_a_trainer_without_it_cannot_have_made(tmp_path: Path, flag: str):
    """Such a folder was taken for ModelOpt's, because it has no t2d, and refused."""
    source = heads.modelopt(tmp_path / "x")
    plain = variants.edit(source, eagle_config="DELETE", eagle_aux_hidden_state_layer_ids=[2, 4, 6])
    assert detect(open_checkpoint(plain))[0].name == "modelopt"
    told = detect(open_checkpoint(variants.edit(source, **{flag: True})))[0]
    assert told.contract.expresses >= {{"use_aux_norm": "fc_norm"}.get(flag, flag)}
    assert (told.name == "modelopt") == (flag == "norm_before_fc"), "which ModelOpt has"


def test_norm_output_without_a_trainers_marks_is_of_no_trainer(tmp_path: Path):
    source = heads.modelopt(tmp_path / "x")
    assert detect(open_checkpoint(variants.edit(source, norm_output=True)))[0].name == "modelopt", "its own marks"
    bare = variants.edit(source, norm_output=True, eagle_config="DELETE", eagle_aux_hidden_state_layer_ids=[2, 4, 6])
    head = open_head(bare)
    assert (head.layout, head.semantics.feedback, head.problems) == ("flat", "post_norm", [])


def test_specforges_config_with_a_targets_type_is_its_own(tmp_path: Path):
    """SpecForge's configs for Gemma and vision targets have the field that AngelSlim adds."""
    source = heads.specforge(tmp_path / "x")
    ours = variants.edit(source, target_model_type="gemma3_text")
    assert detect(open_checkpoint(ours))[0].name == "specforge"
    bare = variants.edit(source, target_model_type="qwen3", eagle_config="DELETE")
    assert detect(open_checkpoint(bare))[0].name == "angelslim"
    assert detect(open_checkpoint(variants.edit(source, target_model_type="minicpm_v_4")))[0].name == "specforge"


def test_a_scaling_that_a_trainer_does_not_know_is_of_another(tmp_path: Path):
    source = heads.safeailab(tmp_path / "x")
    for kind, layout in (("linear", "safeailab"), ("dynamic", "safeailab"), ("yarn", "flat")):
        scaling = {"rope_type": kind, "factor": 2.0, "original_max_position_embeddings": 32}
        scaled = variants.edit(source, rope_scaling=scaling)
        assert detect(open_checkpoint(scaled))[0].name == layout


def test_every_kind_is_tried_and_says_who_serves_it():
    """Each entry of the data has a case here, and each case meets the entry that is meant for it."""
    met = set()
    for config, shapes, _ in OTHERS.values():
        tensors = {n.removeprefix("model."): TensorRef(n, "F32", s, Path(), 0, 0) for n, s in shapes.items()}
        met.add(next(kind for kind in kinds() if kind.shows_in(tensors, config, ())))
    met |= {
        k for k in kinds() for files, _, _ in BY_FILES.values() if any(fnmatch(n, p) for n in files for p in k.files)
    }
    met |= {k for k in kinds() if k.beside or "parallel_draft_heads" in str(k.tensors)}  # test_modelopt, test_layouts
    met |= {k for k in kinds() if k.code == "mlx"}  # its own test
    assert met == set(kinds())
    assert all(re.search(r"\b(serves?|runs|load|right)\b", kind.served) for kind in kinds())
