"""Situations that users met, one by one: what a head looks like, and what must be said of it.

A situation is a head of a few kilobytes, made here, with its target's config. Its answer is the whole of what is said:
the layout or the refusal, the errors, a verdict for each engine's pinned version (vLLM: CPU runner, GPU runner), and
whether the head can be written as `universal` and as `speculators`. The threads behind them are named where they are
public. Beside each stand its neighbours: the same mistake in another place or under another name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from support import heads
from support.variants import Has, config_of, edit, modelopt, renamed, replace, specforge, speculators, tensors_of
from support.versions import LLAMACPP, SGLANG, SGLANG_JAX, TRTLLM, TRTLLM_NEXT, VLLM

from eagle3hub import ConvertOptions, InspectOptions, convert, inspect
from eagle3hub.errors import Eagle3HubError

ENGINES = (
    ("vllm", f"{VLLM} V1"),
    ("vllm", f"{VLLM} V2"),
    ("sglang", SGLANG),
    ("trtllm", TRTLLM),
    ("trtllm", TRTLLM_NEXT),
    ("sglang_jax", SGLANG_JAX),
    ("llamacpp", LLAMACPP),
)
"""The columns of ``verdicts``."""
LETTERS = {"right": "R", "depends": "D", "unknown": "U", "silently_wrong": "S", "refuses": "X"}
BASE = 50000.0
IDS = [1, 14, 26]
"""After-layer ids of the default layers of the target, which has 30."""

PT = {"format": "pt"}
"""What PyTorch's trainers leave in a file's metadata, and SpecJAX does not."""

Maker = Callable[[Path], Path]


@dataclass(frozen=True)
class Situation:
    """A head, its target's fields, and what must be said.

    ``refused``: the code of the refusal to read it; then nothing else is asked but ``says``. ``errors``: codes.
    ``verdicts``: a letter for each of `ENGINES`. ``universal``, ``speculators``: ``yes``, or the code of the refusal.
    ``says``: what stands somewhere in the answer.
    """

    head: Maker
    verdicts: str = ""
    target: Mapping[str, Any] = field(default_factory=dict)
    layout: str = "specforge"
    refused: str | None = None
    errors: tuple[str, ...] = ()
    universal: str | None = None
    speculators: str | None = None
    says: tuple[str, ...] = ()
    never: tuple[str, ...] = ()


# Makers of heads


def flat(**config: Any) -> Maker:
    """A SpecForge head without ids, so that its trainer's default holds; DELETE removes a field."""
    fields = {"eagle_config": "DELETE", "rope_theta": BASE, "max_position_embeddings": 8192, **config}
    return lambda folder: edit(heads.specforge(folder / "head"), **fields)


def with_tensors(change: Callable[[dict[str, torch.Tensor]], Mapping[str, torch.Tensor | None]]) -> Maker:
    """`flat` with other tensors."""

    def make(folder: Path) -> Path:
        head = flat()(folder)
        return replace(head, PT, **change(tensors_of(head)))

    return make


def inside(key: str, **stated: Any) -> dict[str, Any]:
    """The base, and whatever else, in an object instead of at top level."""
    return {"rope_theta": "DELETE", key: {"rope_theta": BASE, **stated}}


def latent(**config: Any) -> Maker:
    """An MLA head under ModelOpt's name, ids in ``eagle_config`` only."""
    nulls = {"mlp_bias": "DELETE", "bos_token_id": "DELETE"}
    fields = {"rope_theta": BASE, "max_position_embeddings": 8192, **nulls, **config}
    return lambda folder: modelopt(folder, has=Has(mla=True), **fields)


def latent_of_specforge(**config: Any) -> Maker:
    fields = {"eagle_config": "DELETE", "rope_theta": BASE, "max_position_embeddings": 8192, **config}
    return lambda folder: specforge(folder, has=Has(mla=True), **fields)


def parallel(
    prefix: str = "", mask: tuple[int, ...] | None = None, first: str = "layers.0.", full: bool = False, **config: Any
) -> Maker:
    """A P-EAGLE head of two layers with own embeddings. ``prefix``: before every name but lm_head, maps and mask."""

    def make(folder: Path) -> Path:
        d = heads.dims(draft=heads.DIMS["vocab"]) if full else heads.dims()
        fields = {"eagle_config": "DELETE", "rope_theta": BASE, "max_position_embeddings": 8192, **config}
        head = specforge(folder, d, Has(layers=2, mask_hidden=True, embeddings=True), **fields)
        kept = ("lm_head.weight", "d2t", "t2d", "mask_hidden")
        renamed(head, lambda n: n if n in kept else prefix + n.replace("layers.0.", first), PT)
        return replace(head, PT, mask_hidden=torch.ones(mask)) if mask else head

    return make


def nested_rope(make: Callable[..., Path], **stated: Any) -> Maker:
    """A head whose config kept its target's RoPE of two kinds of layers."""
    kinds = {"full_attention": stated, "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}

    def of_layer(folder: Path) -> Path:
        head = make(folder / "head")
        config = config_of(head)
        place = config.get("transformer_layer_config", config)
        place.pop("rope_theta", None)
        place["rope_parameters"] = kinds
        return edit(head, **config)

    return of_layer


def mistral(**files: Any) -> Maker:
    """Weights in Mistral's own format: EAGLE-1 with ``eagle_linear``, or a whole model."""

    def make(folder: Path) -> Path:
        head = folder / "head"
        head.mkdir(parents=True)
        names = ["norm.weight", "layers.0.attention.wo.weight", "layers.0.feed_forward.w1.weight"]
        names += ["eagle_linear.weight"] if files.get("eagle", True) else ["layers.0.attention.wq.weight"]
        save_file({name: torch.ones(8, 8) for name in names}, head / "consolidated.safetensors")
        (head / files.get("config", "params.json")).write_text(json.dumps({"dim": 8, "n_layers": 1}))
        return head

    return make


def d2t_of(tensor: torch.Tensor) -> Maker:
    return with_tensors(lambda t: {"d2t": tensor})


def wide_heads(make: Maker, **config: Any) -> Maker:
    """Attention heads wider than hidden_size / num_attention_heads: 8 instead of 4."""

    def made(folder: Path) -> Path:
        head = edit(make(folder), **config)
        tensors = tensors_of(head)
        at = next(n for n in tensors if n.endswith("q_proj.weight")).removesuffix("q_proj.weight")
        twice = {f"{at}{x}_proj.weight": tensors[f"{at}{x}_proj.weight"].repeat(2, 1) for x in "qkv"}
        return replace(head, PT, **twice, **{f"{at}o_proj.weight": tensors[f"{at}o_proj.weight"].repeat(1, 2)})

    return made


def bare(name: str, state: Mapping[str, torch.Tensor] | None = None) -> Maker:
    """A folder with a config and one file that no weights can be read from as they are."""

    def make(folder: Path) -> Path:
        head = flat()(folder)
        (head / "model.safetensors").unlink()
        (head / name).parent.mkdir(exist_ok=True)
        torch.save(dict(state or {}), head / name)
        return head

    return make


def named(change: Callable[[str], str]) -> Maker:
    """`flat` with other names."""
    return lambda folder: renamed(flat()(folder), change, PT)


def inside_a_part(part: str) -> Maker:
    """`flat` with its config but for the class in a part of the config."""

    def make(folder: Path) -> Path:
        head = flat()(folder)
        config = config_of(head)
        outer = {"architectures": config.pop("architectures"), "model_type": "qwen2_5_vl", part: config}
        (head / "config.json").write_text(json.dumps(outer))
        return head

    return make


def without_lm_head(**config: Any) -> Maker:
    """A head over the full vocabulary that takes its target's lm_head."""
    d = heads.dims(draft=heads.DIMS["vocab"])
    fields = {"draft_vocab_size": heads.DIMS["vocab"], "rope_theta": BASE, "max_position_embeddings": 8192, **config}

    def make(folder: Path) -> Path:
        head = edit(heads.specforge(folder / "head", d), eagle_config="DELETE", **fields)
        return replace(head, PT, **dict.fromkeys(("lm_head.weight", "d2t", "t2d")))

    return make


def seen_only(count: int, *, padded: bool) -> Maker:
    """Maps of a run whose data held ``count`` distinct tokens: d2t padded with zeros, or as short as the mask."""

    def change(t: dict[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        ids = heads.sorted_ids(heads.dims())[:count]
        mask = torch.zeros(heads.DIMS["vocab"], dtype=torch.bool)
        mask[ids] = True
        d2t = ids - torch.arange(count)
        rest = torch.zeros(heads.DIMS["draft"] - count, dtype=torch.int64)
        return {"t2d": mask, "d2t": torch.cat([d2t, rest]) if padded else d2t}

    return with_tensors(change)


# The situations

OBEYED = "rotates 0.25 of each attention head because of partial_rotary_factor"
QUARTER = {"rope_type": "default", "partial_rotary_factor": 0.25}
DEEPSEEK = {"model_type": "deepseek_v3", "architectures": ["DeepseekV3ForCausalLM"]}
GEMMA = {"model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"]}
OSS = {"model_type": "gpt_oss", "architectures": ["GptOssForCausalLM"]}
LINEAR = {"rope_type": "linear", "factor": 8.0}
YARN = {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 1024}
TOKEN = "one must name the token of slots not drafted yet"
ONE_BY_ONE = "drafts one token after the other unless told to draft in parallel"

SITUATIONS: dict[str, Situation] = {
    # deepseek-ai/DeepSpec#71: the target's partial_rotary_factor in the config of a draft that rotates whole heads
    "a quarter of each head, at top level": Situation(
        flat(partial_rotary_factor=0.25),
        "S S S S S R R",
        errors=("config-partial-rotary-factor",),
        universal="config-partial-rotary-factor",
        speculators="config-partial-rotary-factor",
        says=(OBEYED, "remove partial_rotary_factor"),
    ),
    "a quarter of each head, in rope_parameters": Situation(
        flat(**inside("rope_parameters", **QUARTER)),
        "S S R S S S R",
        errors=("config-partial-rotary",),
        universal="config-partial-rotary",
        says=(OBEYED, "rotates with RoPE base 10000"),
    ),
    "a quarter of each head, in rope_scaling": Situation(
        flat(rope_scaling=QUARTER), "S S R X S R R", errors=("config-partial-rotary",), says=(OBEYED,)
    ),
    "a quarter of each head, under another name": Situation(
        flat(rotary_pct=0.25), "S S R R R R R", errors=("config-partial-rotary-name",), says=("remove rotary_pct",)
    ),
    "a quarter of each head, speculators": Situation(
        lambda folder: speculators(folder, layer={"partial_rotary_factor": 0.25}),
        "S S X X X X R",
        layout="speculators",
        errors=("config-partial-rotary-factor",),
    ),
    "all of each head, in so many words": Situation(flat(partial_rotary_factor=1.0), "R R R R R R R", universal="yes"),
    # sgl-project/SpecForge#640, #186: an MLA draft under the trainer's own class name
    "MLA under SpecForge's class name": Situation(
        latent_of_specforge(),
        "X X X R R X X",
        DEEPSEEK,
        universal="yes",
        says=("has no draft class called DeepseekV3ForCausalLMEagle3",),
    ),
    "MLA under ModelOpt's name, of a type that vLLM takes for MTP": Situation(
        latent(model_type="deepseek_v3"), "X X R X R X X", DEEPSEEK, "modelopt", says=("multi-token prediction",)
    ),
    "MLA under ModelOpt's name": Situation(
        latent(), "S R R X R X X", DEEPSEEK, "modelopt", universal="yes", says=("one too early",)
    ),
    "MLA under a Llama draft's name": Situation(
        latent(architectures=["LlamaForCausalLMEagle3"]),
        "X X X X R X X",
        DEEPSEEK,
        "modelopt",
        says=("has no place for MLA weights in a Llama draft",),
    ),
    # NVIDIA-NeMo/Automodel#2920: the base in rope_parameters only
    "MLA, the base in rope_parameters only": Situation(
        latent_of_specforge(**inside("rope_parameters", rope_type="default"), model_type="kimi_k2"),
        "X X X S R X X",
        DEEPSEEK,
        universal="yes",
        says=("the RoPE base 50000 stands inside rope_parameters only", "rotates with RoPE base 10000"),
    ),
    # vllm-project/speculators#892: a target's RoPE by kind of layer in the draft's config
    "RoPE by kind of layer, speculators": Situation(
        nested_rope(heads.speculators, **LINEAR, rope_theta=1e6),
        target=GEMMA,
        refused="config-rope",
        says=("--rope-theta",),
    ),
    "RoPE by kind of layer, flat": Situation(
        nested_rope(heads.specforge, rope_type="default", rope_theta=1e6), target=GEMMA, refused="config-rope"
    ),
    "RoPE by kind of layer of the target alone": Situation(
        flat(),
        "X X S S U X U",
        {**GEMMA, "rope_parameters": {"full_attention": {**LINEAR, "rope_theta": 1e6}}},
        says=("its target's base 1000000, linear, factor 8",),
    ),
    # NVIDIA-NeMo/Automodel#2376, verl-project/verl-SpeCo#18: P-EAGLE of other trainers
    "P-EAGLE of NeMo": Situation(
        parallel("model.", architectures=["LlamaEagle3DraftModel"], mask_token_id=5, parallel_drafting=True),
        "X X X X X X X",
        layout="nemo",
        speculators="yes",
        says=("no engine known here gets these files right as they are", "Eagle3LlamaEagle3DraftModel"),
        never=("--mask-token-id",),
    ),
    "P-EAGLE of NeMo, no token": Situation(
        parallel("model.", architectures=["LlamaEagle3DraftModel"], parallel_drafting=True),
        "X X X X X X X",
        layout="nemo",
        speculators="refused-no-mask-token",
        says=(TOKEN,),
    ),
    "P-EAGLE of a class nobody has": Situation(
        parallel(architectures=["LlamaForCausalLMPeagle"], mask_token_id=5),
        "X X X X S X X",
        layout="flat",
        speculators="yes",
        says=("has no draft class called Eagle3LlamaForCausalLMPeagle",),
    ),
    "P-EAGLE under the name that vLLM registers for nested configs": Situation(
        parallel(architectures=["PeagleLlamaForCausalLM"], mask_token_id=5),
        "X X X X S X X",
        layout="flat",
        says=("has no draft class called Eagle3PeagleLlamaForCausalLM",),
        never=("has no draft class called PeagleLlamaForCausalLM (",),
    ),
    "P-EAGLE of SpecForge, a flat mask": Situation(
        parallel(mask=(1, 24), mask_token_id=5), "X X X X S X X", speculators="yes"
    ),
    "P-EAGLE of SpecForge, a mask without dimensions to spare": Situation(
        parallel(mask=(24,), mask_token_id=5), "X X X X S X X", speculators="yes"
    ),
    "P-EAGLE, a mask of another width": Situation(parallel(mask=(1, 1, 16), mask_token_id=5), refused="tensor-shape"),
    # vllm-project/vllm#32887: P-EAGLE of the method's authors
    "P-EAGLE of its authors": Situation(
        parallel(first="midlayer.", architectures=["LlamaForCausalLMEagle3"], ptd_token_id=5, parallel_drafting=True),
        "S S S X S X X",
        OSS,
        "flat",
        speculators="yes",
        says=(ONE_BY_ONE,),
    ),
    "P-EAGLE of its authors, full vocabulary": Situation(
        parallel(first="midlayer.", full=True, architectures=["LlamaForCausalLMEagle3"], ptd_token_id=5),
        "X X S X S X X",
        OSS,
        "flat",
        speculators="yes",
        says=("has no place for d2t if the draft vocabulary is the target's",),
    ),
    "P-EAGLE, the token as pard_token": Situation(
        parallel(pard_token=5), "X X X X S X X", OSS, speculators="yes", never=(TOKEN,)
    ),
    "P-EAGLE, the token as ptd_token_id": Situation(
        parallel(ptd_token_id=5), "X X X X S X X", OSS, speculators="yes", never=(TOKEN,)
    ),
    "P-EAGLE, no token": Situation(
        parallel(), "X X X X S X X", OSS, speculators="refused-no-mask-token", says=(TOKEN, "ptd_token_id")
    ),
    "P-EAGLE, a token that the vocabulary has not": Situation(
        parallel(mask_token_id=400), refused="config-mask-token"
    ),
    # NVIDIA/TensorRT-LLM#9971: Mistral's own format
    "Mistral's format": Situation(mistral(), refused="layout-mistral", says=("Mistral's own format", "params.json")),
    "Mistral's format beside a config.json": Situation(
        mistral(config="config.json"), refused="layout-mistral", says=("Mistral's own format",)
    ),
    "a whole model in Mistral's format": Situation(
        mistral(config="config.json", eagle=False), refused="layout-mistral", says=("Mistral's own format",)
    ),
    # SafeAILab/EAGLE#248, sgl-project/SpecForge#76: fewer distinct tokens than the draft vocabulary
    "a map padded with zeros": Situation(
        seen_only(6, padded=True),
        "S S S S S S X",  # the zeros give tokens that have a draft id already
        errors=("vocab-t2d-count",),
        universal="vocab-t2d-count",
        says=("t2d has 6 true entries but the draft vocabulary has 10",),
    ),
    "a map as short as the data": Situation(
        seen_only(6, padded=False),
        "X X X U U S X",
        errors=("vocab-shape",),
        universal="vocab-shape",
        says=("d2t has 6 entries but lm_head has 10 rows",),
    ),
    "a map longer than lm_head": Situation(
        with_tensors(lambda t: {"d2t": torch.cat([t["d2t"], t["d2t"][-1:]])}),
        "X X U U U U X",
        errors=("vocab-shape",),
        says=("d2t has 11 entries but lm_head has 10 rows",),
    ),
    "a map of two dimensions": Situation(
        with_tensors(lambda t: {"d2t": t["d2t"].reshape(-1, 1)}), "X X U U U U U", errors=("vocab-dtype",)
    ),
    "a map of bytes": Situation(
        with_tensors(lambda t: {"d2t": t["d2t"].to(torch.uint8)}), "U U U U U U U", errors=("vocab-dtype",)
    ),
    "a mask shorter than the vocabulary": Situation(
        with_tensors(lambda t: {"t2d": t["t2d"][:-8]}), "U U U U U U U", errors=("vocab-shape",), says=("32", "40")
    ),
    "a mask of one token too few, and no map": Situation(
        with_tensors(lambda t: {"d2t": None, "t2d": t["t2d"] & (torch.arange(40) != t["t2d"].nonzero()[0])}),
        "S S S X S X X",
        errors=("vocab-t2d-count",),
        universal="vocab-t2d-count",
    ),
    # vllm-project/vllm-ascend#6612, sgl-project/SpecForge#265: another base than the target's
    "a base that is not the target's": Situation(
        flat(rope_theta=10000.0),
        "R R R R R R R",
        {"rope_theta": 1e6},
        universal="yes",
        says=("the head's RoPE has base 10000, its target's base 1000000",),
    ),
    "a base that is stated nowhere": Situation(
        flat(rope_theta="DELETE"),
        "R R R R R R R",
        {"rope_theta": 1e6},
        says=("the head's RoPE has base 10000, its target's base 1000000", "the config has no rope_theta"),
    ),
    # lightseekorg/tokenspeed#913, NVIDIA/Model-Optimizer#1238: the base inside rope_scaling
    "the base inside rope_scaling": Situation(
        flat(**inside("rope_scaling", rope_type="default")),
        "R R R X R S R",
        universal="yes",
        says=("the RoPE base 50000 stands inside rope_scaling only", "rotates with RoPE base 10000"),
    ),
    "the base inside a scaling": Situation(
        flat(**inside("rope_scaling", **YARN), transformers_version="5.8.1"),
        "R R R S R S R",
        universal="yes",
        says=('"rope_type": "yarn"',),
    ),
    "the base inside a scaling that SpecForge may not have obeyed": Situation(
        flat(**inside("rope_scaling", **YARN)), "D D D S D S D", universal="yes", says=("before 24 July 2026",)
    ),
    "a type and nothing else": Situation(flat(rope_scaling={"rope_type": "default"}), "R R R X R R R"),
    "linear without its factor": Situation(
        flat(rope_scaling={"rope_type": "linear"}),
        "X X X X X X S",
        errors=("config-rope-incomplete",),
        universal="config-rope-incomplete",
        says=("stops at RoPE of type linear without factor",),
    ),
    "yarn without its factor": Situation(
        flat(rope_scaling={"rope_type": "yarn", "original_max_position_embeddings": 64}),
        "X X X X X X S",
        errors=("config-rope-incomplete",),
        universal="config-rope-incomplete",
    ),
    "llama3 with half of its keys": Situation(
        flat(rope_scaling={"rope_type": "llama3", "factor": 8.0}),
        "X X X X X X S",
        errors=("config-rope-incomplete",),
        says=("without low_freq_factor or high_freq_factor",),
    ),
    "a factor in quotation marks": Situation(
        flat(rope_scaling={"rope_type": "linear", "factor": "8"}), refused="config-type", says=("factor is '8'",)
    ),
    "a factor of zero": Situation(flat(rope_scaling={**YARN, "factor": 0}), refused="config-type"),
    "a factor without a type": Situation(
        flat(rope_scaling={"factor": 8.0}),
        "D D D X D X D",
        says=("names no rope_type", "remove the factor"),
    ),
    # Tencent/AngelSlim#5, SafeAILab/EAGLE#315: heads of Qwen3, wider than hidden_size / num_attention_heads
    "wider attention heads, head_dim left out": Situation(
        wide_heads(flat(head_dim="DELETE")),
        "S S S X X X X",
        universal="yes",
        speculators="yes",
        says=("states no head_dim", "are 8 wide", "write head_dim: 8"),
    ),
    "wider attention heads, head_dim null": Situation(
        wide_heads(flat(head_dim=None)), "S S S X X X X", universal="yes", says=("states no head_dim",)
    ),
    "wider attention heads, head_dim left out by AngelSlim": Situation(
        wide_heads(lambda folder: heads.angelslim(folder / "head"), head_dim="DELETE", max_position_embeddings=8192),
        "S S X X X X X",
        layout="angelslim",
        says=("states no head_dim",),
    ),
    "wider attention heads, head_dim as in a narrower head": Situation(
        wide_heads(flat(head_dim=4)),
        refused="tensor-shape",
        says=("with head_dim: 8 in config.json every tensor fits",),
        never=("different heads",),
    ),
    "an MLP of another width": Situation(
        flat(intermediate_size=20),
        refused="tensor-shape",
        says=("with intermediate_size: 12 in config.json every tensor fits",),
    ),
    "a draft vocabulary of another size": Situation(
        flat(draft_vocab_size=20), refused="tensor-shape", says=("with draft_vocab_size: 10 in config.json all fits",)
    ),
    "a draft vocabulary and a map of other sizes": Situation(
        lambda folder: edit(with_tensors(lambda t: {"d2t": t["d2t"][:6]})(folder), draft_vocab_size=20),
        refused="tensor-shape",
        says=("from different heads",),
    ),
    "an MLP and a vocabulary of another size": Situation(
        flat(intermediate_size=20, head_dim=8), refused="tensor-shape", says=("from different heads",)
    ),
    # SafeAILab/EAGLE#265, #182; sgl-project/SpecForge#494: what trainers leave in folders
    "weights in DeepSpeed's parts": Situation(
        bare("mp_rank_00_model_states.pt"), refused="layout-deepspeed", says=("zero_to_fp32.py",)
    ),
    "names with FSDP's wrapper": Situation(
        named(lambda name: name.replace("midlayer.", "midlayer._fsdp_wrapped_module.")),
        "X X S X S X X",
        universal="yes",
    ),
    "names with torch.compile's wrapper": Situation(
        named(lambda name: f"_orig_mod.{name}"), "X X S X S X X", universal="yes", speculators="yes"
    ),
    # verl-project/verl-SpeCo#66: the map that a trainer begins with
    "a map of the first tokens": Situation(
        with_tensors(lambda t: {"d2t": torch.zeros(10, dtype=torch.int64), "t2d": torch.arange(40) < 10}),
        "R R R R R R R",
        universal="yes",
        says=("the first 10 of the target's 40 tokens",),
    ),
    # QwenLM's padded vocabularies
    "a target whose vocabulary is padded": Situation(
        flat(), "U U U U U U U", {"vocab_size": 48}, errors=("target-mismatch",), says=("write vocab_size: 48",)
    ),
    "a target with a smaller vocabulary": Situation(
        flat(), "U U U U U U U", {"vocab_size": 32}, errors=("target-mismatch",), never=("padding",)
    ),
    "the sizes inside text_config": Situation(
        inside_a_part("text_config"), refused="config-part", says=("move what text_config holds to the top level",)
    ),
    "the sizes inside model, as vLLM nests those of EAGLE": Situation(inside_a_part("model"), refused="config-part"),
    # sgl-project/sglang#25894: another dtype than the target's
    "float16, its target bfloat16": Situation(
        flat(torch_dtype="float16"),
        "R R X R R R R",
        {"torch_dtype": "bfloat16"},
        universal="yes",
        says=("serves the head in float16 and its target in bfloat16", "serve both with --dtype bfloat16"),
        never=("head-no-engine",),
    ),
    "no dtype stated, the target bfloat16": Situation(
        flat(torch_dtype="DELETE"),
        "R R X R R R R",
        {"dtype": "bfloat16"},
        says=("serves the head in float16 (its config states no dtype)",),
    ),
    "bfloat16, its target float32": Situation(flat(), "R R X R R R R", {"torch_dtype": "float32"}),
    "float32, its target float16": Situation(flat(torch_dtype="float32"), "R R R R R R R", {"torch_dtype": "float16"}),
    # vllm-project/vllm#30987: no architectures, one aux layer under a name of its own
    "no architectures": Situation(
        flat(architectures="DELETE"),
        "X X X R R X X",
        layout="specforge",
        says=("has no draft class for a config without architectures",),
    ),
    # NVIDIA/Model-Optimizer#628: no lm_head, and the target's tie_word_embeddings
    "tied, without an lm_head": Situation(
        without_lm_head(tie_word_embeddings=True),
        "D D S D D X D",
        layout="modelopt",
        says=("the head has no lm_head, so it takes the target's", "scores with the target's embeddings"),
        never=("has its own lm_head", "scores with a random lm_head"),
    ),
    "tied, without an lm_head, as the target": Situation(
        without_lm_head(tie_word_embeddings=True),
        "D D D D D X D",
        {"tie_word_embeddings": True},
        layout="modelopt",
        never=("scores with",),
    ),
}


def answer(situation: Situation, folder: Path) -> tuple[dict[str, Any], str]:
    """What is said of a head: the fields that a situation may ask for, and all of it as text."""
    head = situation.head(folder / "made")
    target = str(heads.target(folder / "target", **situation.target))
    try:
        found = inspect(head, InspectOptions(target=target)).to_json()
    except Eagle3HubError as e:
        return {"refused": e.code}, f"{e.message} {e.hint}"
    said = {(v["engine"], v["version"]): v["verdict"] for v in found["engines"]}
    out: dict[str, Any] = {
        "refused": None,
        "layout": found["layout"],
        "errors": tuple(sorted(p["code"] for p in found["problems"] if p["severity"] == "error")),
        "verdicts": " ".join(LETTERS[said[engine]] for engine in ENGINES),
    }
    for to in ("universal", "speculators"):
        if getattr(situation, to) is not None:
            out[to] = written(head, target, to, folder)
    return out, json.dumps(found, ensure_ascii=False)


def written(head: Path, target: str, to: str, folder: Path) -> str:
    """``yes`` if the head is written and read again without an error, or the code of the refusal."""
    out = folder / to
    options = ConvertOptions(target=target, target_name="org/target", speculative_tokens=3)
    try:
        convert(head, out, to, options)
    except Eagle3HubError as e:
        assert not out.exists()
        return e.code
    assert not [p for p in inspect(out, InspectOptions(target=target)).problems if p.severity == "error"]
    return "yes"


@pytest.mark.parametrize("name", SITUATIONS)
def test_what_is_said_of_a_situation(name: str, tmp_path: Path) -> None:
    situation = SITUATIONS[name]
    found, text = answer(situation, tmp_path)
    assert found == {key: getattr(situation, key) for key in found}, text
    for words in situation.says:
        assert words in text
    for words in situation.never:
        assert words not in text
