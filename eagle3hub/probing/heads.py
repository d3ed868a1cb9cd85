"""Small draft heads with a known truth: what each was trained to compute, and files that an engine reads.

The heads have weights of the size that training gives, float32, and their files are those of one flat folder that
every engine should read alike: aux layers in both places, names of one layer as ``midlayer.``, of several as
``layers.{i}.``. A question changes a head in one way: its files, its truth, or both.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save, save_file

from eagle3hub.head import Dims, MlaDims, Rope, Semantics
from eagle3hub.head.aux_defaults import AUX_COUNT, AUX_IDS
from eagle3hub.reference.model import DraftModel

HIDDEN, INTER, HEADS, KV, SIZE, VOCAB, DRAFT = 64, 96, 4, 2, 32, 640, 40
LATENT = {"q_lora_rank": 48, "kv_lora_rank": 512, "qk_nope_head_dim": 32, "qk_rope_head_dim": 64, "v_head_dim": 48}
"""Sizes of MLA heads: those that vLLM's CPU backend of MLA takes."""
LAYERS = 12
"""Layers of the target."""
TAPS = (2, 6, 9)
"""Boundary ids that heads are trained on, unless a question says otherwise: every engine's default for `LAYERS`."""
CONTEXT = 512
MASK = 7
WIDE = 96
"""Hidden size of the target that is wider than its heads."""

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Probed:
    """A head of a question.

    Attributes:
        truth: what it was trained to compute. taps: boundary ids that it was trained on, in the order of fc; None for
            the target's final state.
        config: its config.json. tensors: its weights, by name in the file. beside: further files, by name; they
            replace those written from the others. name: of the folder that the files are written into, inside that
            of the question; empty: into that of the question.
    """

    truth: DraftModel
    taps: tuple[int, ...] | None
    config: Mapping[str, Any]
    tensors: Mapping[str, torch.Tensor]
    beside: Mapping[str, bytes] = field(default_factory=dict)
    name: str = ""

    def write(self, folder: Path) -> Path:
        """Write the files into ``folder``, which must not exist, or one inside it; return where they are."""
        folder = folder / self.name if self.name else folder
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(self.config, indent=1))
        held = {name: tensor.contiguous() for name, tensor in self.tensors.items()}
        save_file(held, folder / "model.safetensors", metadata={"format": "pt"})
        for name, content in self.beside.items():
            (folder / name).write_bytes(content)
        return folder


Change = Callable[[Probed], Probed]
"""A change of a head: of its files, of its truth, or of both."""


# Targets


def target_embeddings(hidden: int = HIDDEN) -> torch.Tensor:
    """The embeddings [vocabulary, hidden] of a probe's target; see ``layers_run`` of ``workers/probe_loop.py``."""
    generator = torch.Generator().manual_seed(hidden)
    table = torch.randn(VOCAB, hidden, generator=generator)
    table[:, : LAYERS + 2] = 0
    table[:, [0, LAYERS + 1]] = 1
    return table


def target_lm_head(hidden: int = HIDDEN) -> torch.Tensor:
    """The lm_head [vocabulary, hidden] of a probe's target."""
    generator = torch.Generator().manual_seed(hidden + 1)
    values = torch.randn(VOCAB, hidden, generator=generator)
    return values.div(hidden**0.5)


def target_config(hidden: int = HIDDEN, **changes: Any) -> dict[str, object]:
    """The config.json of a probe's target; None removes a key."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": INTER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV,
        "head_dim": SIZE,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "vocab_size": VOCAB,
        "max_position_embeddings": CONTEXT,
        "rope_theta": 1e4,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": "float32",
    } | changes
    return {key: value for key, value in config.items() if value is not None}


def write_target(
    folder: Path, hidden: int = HIDDEN, heads: int = HEADS, kv: int = KV, qk_norms: bool = False, **config: Any
) -> Path:
    """Write a target whose states say how many layers have run."""
    tensors = {
        "model.embed_tokens.weight": target_embeddings(hidden),
        "model.norm.weight": torch.ones(hidden),
        "lm_head.weight": target_lm_head(hidden),
    }
    tensors["model.norm.weight"][LAYERS + 1] = 0
    for i in range(LAYERS):
        at = f"model.layers.{i}."
        down = torch.zeros(hidden, INTER)
        gate = torch.zeros(INTER, hidden)
        down[i + 1, 0], gate[0, 0] = 1.0, 1.0
        tensors |= {
            f"{at}input_layernorm.weight": torch.ones(hidden),
            f"{at}post_attention_layernorm.weight": torch.ones(hidden),
            f"{at}self_attn.q_proj.weight": torch.zeros(heads * SIZE, hidden),
            f"{at}self_attn.k_proj.weight": torch.zeros(kv * SIZE, hidden),
            f"{at}self_attn.v_proj.weight": torch.zeros(kv * SIZE, hidden),
            f"{at}self_attn.o_proj.weight": torch.zeros(hidden, heads * SIZE),
            f"{at}mlp.gate_proj.weight": gate,
            f"{at}mlp.up_proj.weight": gate.clone(),
            f"{at}mlp.down_proj.weight": down,
        }
        if qk_norms:
            tensors |= {f"{at}self_attn.{x}_norm.weight": torch.ones(SIZE) for x in "qk"}
    if config.get("tie_word_embeddings"):
        del tensors["lm_head.weight"]
    config |= {"num_attention_heads": heads, "num_key_value_heads": kv}
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(target_config(hidden, **config), indent=1))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


# Heads


def head(
    *,
    query_latent: bool = True,
    layers: int = 1,
    taps: tuple[int, ...] | None = TAPS,
    full: bool = False,
    mla: bool = False,
    target_hidden: int = HIDDEN,
    own_embeddings: bool = False,
    attention_bias: bool = False,
    sizes: tuple[int, int] = (HIDDEN, INTER),
    **semantics: Any,
) -> Probed:
    """Make a head; ``taps`` of None is one without aux states. ``semantics`` are fields of `Semantics`.

    ``query_latent``: whether queries of an MLA head come from a latent. ``sizes``: its hidden size, and its MLP's.
    """
    latent: dict[str, Any] = LATENT if query_latent else {**LATENT, "q_lora_rank": None}
    s = Semantics(
        rope=Rope(1e4),
        rms_norm_eps=1e-5,
        num_layers=layers,
        uses_aux=taps is not None,
        attention_bias=attention_bias,
        attention="mla" if mla else "gqa",
        **semantics,
    )
    dims = Dims(
        hidden_size=sizes[0],
        intermediate_size=sizes[1],
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS if mla else KV,
        head_dim=LATENT["qk_nope_head_dim"] + LATENT["qk_rope_head_dim"] if mla else SIZE,
        vocab_size=VOCAB,
        draft_vocab_size=VOCAB if full else DRAFT,
        target_hidden_size=target_hidden,
        mla=MlaDims(**latent) if mla else None,
    )
    weights = _weights(s, dims, 0 if taps is None else len(taps))
    own = {"embed_tokens.weight": _random((VOCAB, sizes[0]), 99)} if own_embeddings else {}
    ids = None if full else _ids()
    embeddings = own["embed_tokens.weight"] if own else target_embeddings()
    truth = DraftModel(dims, s, weights, embeddings, ids, CONTEXT, mask_token_id=MASK if s.parallel_drafting else None)
    named = {name.replace("layers.0.", "midlayer.") if layers == 1 else name: t for name, t in weights.items()}
    maps = {} if ids is None else {"d2t": ids - torch.arange(DRAFT), "t2d": _chosen(ids)}
    return Probed(truth, taps, _config(s, dims, taps), {**named, **own, **maps})


def _ids() -> torch.Tensor:
    """The target ids [draft vocabulary] of a head, ascending; none is so large that its sum with a draft id is too."""
    return torch.randperm(VOCAB - DRAFT, generator=torch.Generator().manual_seed(3))[:DRAFT].sort().values


def _chosen(ids: torch.Tensor) -> torch.Tensor:
    out = torch.zeros(VOCAB, dtype=torch.bool)
    out[ids] = True
    return out


def _config(s: Semantics, dims: Dims, taps: tuple[int, ...] | None) -> dict[str, Any]:
    listed: dict[str, Any] = {"eagle_config": {"use_aux_hidden_state": False}}
    if taps is not None:
        after = [tap - 1 for tap in taps]
        listed = {
            AUX_IDS: list(taps),
            "eagle_config": {"use_aux_hidden_state": True, AUX_IDS: after},
        }
        if len(taps) != 3:
            listed[AUX_COUNT] = len(taps)
    kind = {"model_type": "llama", "architectures": ["LlamaForCausalLMEagle3"], "head_dim": SIZE}
    if s.qk_norm:
        kind = {"model_type": "qwen3", "architectures": ["Eagle3Qwen3ForCausalLM"], "head_dim": SIZE}
    if dims.mla is not None:
        kind = {"model_type": "kimi_k2", "architectures": ["Eagle3DeepseekV2ForCausalLM"], **asdict(dims.mla)}
    flags = {
        "norm_before_residual": s.norm_before_residual,
        "norm_before_fc": s.norm_before_fc,
        "fc_norm": s.fc_norm,
        "norm_output": s.feedback == "post_norm",
    }
    if s.norm_before_fc:
        listed["eagle_config"]["norm_before_fc"] = True
    return {
        **kind,
        "hidden_size": dims.hidden_size,
        "intermediate_size": dims.intermediate_size,
        "num_hidden_layers": s.num_layers,
        "num_attention_heads": dims.num_attention_heads,
        "num_key_value_heads": dims.num_key_value_heads,
        "hidden_act": s.hidden_act,
        "rms_norm_eps": s.rms_norm_eps,
        "attention_bias": s.attention_bias,
        "mlp_bias": False,
        "vocab_size": dims.vocab_size,
        "draft_vocab_size": dims.draft_vocab_size,
        "max_position_embeddings": CONTEXT,
        "rope_theta": s.rope.theta,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": "float32",
        **{key: True for key, on in flags.items() if on},
        **({"mask_token_id": MASK} if s.parallel_drafting else {}),
        **({"target_hidden_size": dims.target_hidden_size} if dims.target_hidden_size != dims.hidden_size else {}),
        **listed,
    }


def _random(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    """Values of the size that training gives: norms around 1, matrices that keep the size of what they get."""
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return 1 + 0.3 * values if len(shape) == 1 else values / shape[-1] ** 0.5


def _weights(s: Semantics, dims: Dims, taps: int) -> Tensors:
    """Return weights by canonical name."""
    h, wide = dims.hidden_size, taps * dims.target_hidden_size
    shapes: dict[str, tuple[int, ...]] = {"norm.weight": (h,), "lm_head.weight": (dims.draft_vocab_size, h)}
    if s.uses_aux:
        shapes["fc.weight"] = (h, wide)
    if s.fc_bias:
        shapes["fc.bias"] = (h,)
    if s.norm_before_fc:
        shapes["input_norm.weight"] = (wide,)
    if s.fc_norm:
        shapes |= {f"fc_norm.{j}.weight": (dims.target_hidden_size,) for j in range(taps)}
    if s.parallel_drafting:
        shapes["mask_hidden"] = (1, 1, wide)
    if s.joins_embedding:
        shapes["layers.0.hidden_norm.weight"] = (h,)
    for i in range(s.num_layers):
        at = f"layers.{i}."
        shapes |= {
            f"{at}input_layernorm.weight": (h,),
            f"{at}post_attention_layernorm.weight": (h,),
            f"{at}mlp.gate_proj.weight": (dims.intermediate_size, h),
            f"{at}mlp.up_proj.weight": (dims.intermediate_size, h),
            f"{at}mlp.down_proj.weight": (h, dims.intermediate_size),
            **{f"{at}self_attn.{n}": shape for n, shape in _attention(s, dims, 2 * h if i == 0 else h).items()},
        }
    return {name: _random(shape, 100 + i) for i, (name, shape) in enumerate(sorted(shapes.items()))}


def _attention(s: Semantics, dims: Dims, inputs: int) -> dict[str, tuple[int, ...]]:
    h, q, kv = dims.hidden_size, HEADS * SIZE, KV * SIZE
    if (m := dims.mla) is None:
        shapes: dict[str, tuple[int, ...]] = {
            "q_proj.weight": (q, inputs),
            "k_proj.weight": (kv, inputs),
            "v_proj.weight": (kv, inputs),
            "o_proj.weight": (h, q),
        }
        if s.attention_bias:
            shapes |= {f"{p}_proj.bias": (n,) for p, n in zip("qkvo", (q, kv, kv, h), strict=True)}
        if s.qk_norm:
            shapes |= {f"{p}_norm.weight": (SIZE,) for p in "qk"}
        return shapes
    rank, query = m.q_lora_rank, HEADS * (m.qk_nope_head_dim + m.qk_rope_head_dim)
    queries: dict[str, tuple[int, ...]] = {"q_proj.weight": (query, inputs)}
    if rank is not None:
        queries = {
            "q_a_proj.weight": (rank, inputs),
            "q_a_layernorm.weight": (rank,),
            "q_b_proj.weight": (query, rank),
        }
    return {
        **queries,
        "kv_a_proj_with_mqa.weight": (m.kv_lora_rank + m.qk_rope_head_dim, inputs),
        "kv_a_layernorm.weight": (m.kv_lora_rank,),
        "kv_b_proj.weight": (HEADS * (m.qk_nope_head_dim + m.v_head_dim), m.kv_lora_rank),
        "o_proj.weight": (h, HEADS * m.v_head_dim),
    }


# Other forms: nested configs, quantized weights


_FLAT_ONLY = ("architectures", "eagle_config", AUX_COUNT, "draft_vocab_size", "mask_token_id")
_OWN = ("norm_before_residual", "norm_before_fc", "fc_norm", "norm_output", AUX_IDS)


def nested(made: Probed) -> Probed:
    """Write a head as the speculators library does: a nested config, and names of layers as ``layers.{i}.``."""
    flat = dict(made.config)
    parallel = made.truth.semantics.parallel_drafting
    layer = {k: v for k, v in flat.items() if k not in (*_FLAT_ONLY, *_OWN)}
    config = {
        "architectures": ["PEagleSpeculator" if parallel else "Eagle3DraftModel"],
        "speculators_model_type": "peagle" if parallel else "eagle3",
        "speculators_version": "0.9.0",
        "draft_vocab_size": flat["draft_vocab_size"],
        "norm_before_residual": False,
        "norm_before_fc": False,
        "fc_norm": False,
        "norm_output": False,
        "tie_word_embeddings": False,
        **{k: flat[k] for k in _OWN if k in flat},
        **({"mask_token_id": flat["mask_token_id"]} if parallel else {}),
        "transformer_layer_config": layer,
        "speculators_config": {
            "algorithm": "eagle3",
            "default_proposal_method": "greedy",
            "proposal_methods": [{"proposal_type": "greedy", "speculative_tokens": 3}],
            "verifier": {"name_or_path": "owner/target", "architectures": ["LlamaForCausalLM"]},
        },
    }
    return renames("midlayer.", "layers.0.")(replace(made, config=config))


def quantized(made: Probed, form: str, **changes: Any) -> Probed:
    """Quantize the matrices of the decoder layers as ``int8``, ``fp8``, ``blocks``, ``int4`` or ``nvfp4``.

    ``int8`` is llm-compressor's, by channel, with inputs by token; its truth has the rounded weights. ``blocks`` are
    FP8 with a scale for each block of ``weight_block_size``; ``int4`` is compressed-tensors' packed form in groups of
    32. ``changes`` are keys of ``quantization_config``, for ``int8`` beside llm-compressor's own; ``targets`` is that
    of its group.
    """
    tensors, rounded = dict(made.tensors), dict(made.truth.weights)
    for name, weight in made.tensors.items():
        if "_proj.weight" not in name:
            continue
        module, wide = name.removesuffix(".weight"), weight.float()
        if form == "int8":
            scale = wide.abs().amax(dim=1, keepdim=True) / 127
            values = (wide / scale).round()
            tensors |= {name: values.to(torch.int8), f"{module}.weight_scale": scale}
            rounded[name.replace("midlayer.", "layers.0.")] = values * scale
        elif form == "fp8":
            scale = wide.abs().amax(dim=1) / 448
            values = (wide / scale[:, None]).to(torch.float8_e4m3fn)
            tensors |= {name: values, f"{module}.weight_scale": scale}
            rounded[name.replace("midlayer.", "layers.0.")] = values.float() * scale[:, None]
        elif form == "blocks":
            rows, columns = (-(-n // size) for n, size in zip(wide.shape, changes["weight_block_size"], strict=True))
            tensors |= {
                name: wide.to(torch.float8_e4m3fn),
                f"{module}.weight_scale_inv": torch.ones(rows, columns),
            }
        elif form == "int4":
            rows, columns = wide.shape
            del tensors[name]
            tensors |= {
                f"{module}.weight_packed": torch.ones(rows, columns // 8, dtype=torch.int32),
                f"{module}.weight_scale": torch.ones(rows, columns // 32, dtype=torch.bfloat16),
                f"{module}.weight_shape": torch.tensor([rows, columns]),
            }
        else:
            rows, columns = wide.shape
            tensors |= {
                name: torch.ones(rows, columns // 2, dtype=torch.uint8),
                f"{module}.weight_scale": torch.ones(rows, columns // 16).to(torch.float8_e4m3fn),
                f"{module}.weight_scale_2": torch.tensor(0.5),
            }
    how = _int8(changes.pop("targets", ["Linear"])) if form == "int8" else {}
    return replace(
        made,
        truth=replace(made.truth, weights=rounded),
        tensors=tensors,
        config={**made.config, "quantization_config": {**how, **changes}},
    )


TILES = 128
"""Hidden size of heads whose weights are packed: kernels take them in tiles of that many inputs."""
_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which of eight outputs lies in which four bits of an element (``layers/quantization/auto_awq.py`` of vLLM)."""


def packed(
    method: str,
    *,
    bits: int = 4,
    group: int = 32,
    also: tuple[str, ...] = (),
    full: bool = False,
    keys: Mapping[str, Any] | None = None,
) -> Probed:
    """Make a head whose decoder layers (and ``also`` other matrices) are quantized by ``gptq`` or ``awq``.

    Its truth has the rounded weights. ``keys`` are keys of ``quantization_config``; None removes one.
    """
    made = head(sizes=(TILES, TILES), own_embeddings=True, full=full)
    tensors, rounded = dict(made.tensors), dict(made.truth.weights)
    for name, weight in made.tensors.items():
        module = name.removesuffix(".weight")
        if "_proj.weight" not in name and module not in also:
            continue
        rows, columns = weight.shape
        parts = weight.float().reshape(rows, -1, group)
        scale = (parts.abs().amax(dim=2) / (2 ** (bits - 1) - 1)).half()
        middle = 2 ** (bits - 1)
        values = (parts / scale.float()[:, :, None]).round().clamp(-middle, middle - 1).to(torch.int64) + middle
        rounded[name.replace("midlayer.", "layers.0.")] = ((values - middle) * scale.float()[:, :, None]).reshape(
            rows, columns
        )
        del tensors[name]
        values = values.reshape(rows, columns).T
        zeros = torch.full((columns // group, rows), middle)
        tensors[f"{module}.scales"] = scale.T.contiguous()
        if method == "gptq":
            tensors |= {
                f"{module}.qweight": _pack(values.T, bits).T,
                f"{module}.qzeros": _pack(zeros - 1, bits),
                f"{module}.g_idx": (torch.arange(columns) // group).to(torch.int32),
            }
        else:
            tensors |= {
                f"{module}.qweight": _pack(_interleaved(values), bits),
                f"{module}.qzeros": _pack(_interleaved(zeros), bits),
            }
    how: dict[str, Any] = {"quant_method": method, "bits": bits, "group_size": group}
    how |= {"desc_act": False, "sym": True} if method == "gptq" else {"zero_point": True, "version": "gemm"}
    stated = {key: value for key, value in {**how, **(keys or {})}.items() if value is not None}
    truth = replace(made.truth, weights=rounded)
    return replace(made, truth=truth, tensors=tensors, config={**made.config, "quantization_config": stated})


def _pack(values: torch.Tensor, bits: int) -> torch.Tensor:
    """Put ``32 / bits`` numbers of the last dimension into each int32, the first into its lowest bits."""
    each = 32 // bits
    shifted = values.reshape(*values.shape[:-1], -1, each) << (torch.arange(each) * bits)
    whole = shifted.sum(dim=-1)
    return torch.where(whole >= 2**31, whole - 2**32, whole).to(torch.int32)


def _interleaved(values: torch.Tensor) -> torch.Tensor:
    return values.reshape(*values.shape[:-1], -1, 8)[..., list(_AWQ_ORDER)].flatten(-2)


def _int8(targets: list[str]) -> dict[str, object]:
    values = {"num_bits": 8, "type": "int", "symmetric": True}
    group = {
        "targets": targets,
        "weights": {**values, "strategy": "channel", "dynamic": False},
        "input_activations": {**values, "strategy": "token", "dynamic": True},
    }
    return {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "ignore": ["re:.*fc$", "re:.*lm_head"],
        "config_groups": {"group_0": group},
    }


# Changes


def both(*changes: Change) -> Change:
    """Apply several changes, one after the other."""

    def change(made: Probed) -> Probed:
        for one in changes:
            made = one(made)
        return made

    return change


def unchanged(made: Probed) -> Probed:
    """Return the head as it is."""
    return made


def states(**fields: Any) -> Change:
    """Write these fields into config.json."""
    return lambda made: replace(made, config={**made.config, **fields})


def omits(*keys: str) -> Change:
    """Leave keys out of config.json."""
    return lambda made: replace(made, config={k: v for k, v in made.config.items() if k not in keys})


def states_eagle(**fields: Any) -> Change:
    """Write these fields into ``eagle_config``."""
    return lambda made: replace(
        made, config={**made.config, "eagle_config": {**(made.config.get("eagle_config") or {}), **fields}}
    )


def beside(name: str) -> Change:
    """Add a second weights file with other values under the same names."""

    def change(made: Probed) -> Probed:
        other = {key: tensor.flip(0).contiguous() for key, tensor in made.tensors.items() if "_proj" in key}
        return replace(made, beside={**made.beside, name: save(other, metadata={"format": "pt"})})

    return change


def called(name: str) -> Change:
    """Write the files into a folder of this name."""
    return lambda made: replace(made, name=name)


def stray(name: str) -> Change:
    """Add a second weights file with a tensor that is no part of the head."""
    content = save({"something_else.weight": torch.ones(HIDDEN)}, metadata={"format": "pt"})
    return lambda made: replace(made, beside={**made.beside, name: content})


def holding_file(name: str, content: Mapping[str, object]) -> Change:
    """Add a further file of JSON."""
    return lambda made: replace(made, beside={**made.beside, name: json.dumps(content).encode()})


def in_two_parts(**outside: Any) -> Change:
    """Put the config's fields into ``model``, beside ``outside``."""

    def change(made: Probed) -> Probed:
        inside = {**made.config, "architectures": ["LlamaForCausalLM"]}
        return replace(made, config={"model_type": "eagle", **outside, "model": inside})

    return change


def fused(made: Probed) -> Probed:
    """Join q, k and v of each layer to one matrix, and gate and up."""
    tensors: dict[str, torch.Tensor] = {}
    parts = {"qkv_proj.": ("q_proj.", "k_proj.", "v_proj."), "gate_up_proj.": ("gate_proj.", "up_proj.")}
    for name, tensor in made.tensors.items():
        joint = next(((new, old) for new, old in parts.items() if any(f".{part}" in name for part in old)), None)
        if joint is None:
            tensors[name] = tensor
        elif f".{joint[1][0]}" in name:
            whole = [made.tensors[name.replace(joint[1][0], part)] for part in joint[1]]
            tensors[name.replace(joint[1][0], joint[0])] = torch.cat(whole)
    return replace(made, tensors=tensors)


def as_pickle(made: Probed) -> Probed:
    """Write the weights as a torch pickle under the name of safetensors."""
    content = BytesIO()
    torch.save(dict(made.tensors), content)
    return replace(made, beside={**made.beside, "model.safetensors": content.getvalue()})


def drops(*names: str) -> Change:
    """Leave out tensors, by the end of their names in the file."""
    return lambda made: replace(made, tensors={k: v for k, v in made.tensors.items() if not k.endswith(names)})


def renames(old: str, new: str, but: tuple[str, ...] = ()) -> Change:
    """Put ``new`` in place of ``old`` at the beginning of names."""

    def renamed(name: str) -> str:
        return new + name.removeprefix(old) if name.startswith(old) and name not in but else name

    return lambda made: replace(made, tensors={renamed(k): v for k, v in made.tensors.items()})


def adds(**shapes: tuple[int, ...]) -> Change:
    """Add tensors of these shapes; ``__`` in a name stands for a dot."""
    extra = {name.replace("__", "."): _random(shape, 500 + i) for i, (name, shape) in enumerate(shapes.items())}
    return lambda made: replace(made, tensors={**made.tensors, **extra})


def holds(**tensors: torch.Tensor) -> Change:
    """Replace or add tensors; ``__`` in a name stands for a dot."""
    named = {name.replace("__", "."): tensor for name, tensor in tensors.items()}
    return lambda made: replace(made, tensors={**made.tensors, **named})


def trained(**semantics: Any) -> Change:
    """Change what the head was trained to compute, and nothing in its files."""
    return lambda made: replace(made, truth=replace(made.truth, semantics=replace(made.truth.semantics, **semantics)))


def weighing(**tensors: torch.Tensor | float) -> Change:
    """Change weights of the truth, by canonical name; a number fills the tensor. ``__`` stands for a dot."""

    def change(made: Probed) -> Probed:
        new = dict(made.truth.weights)
        for name, value in tensors.items():
            key = name.replace("__", ".")
            new[key] = (
                value if isinstance(value, torch.Tensor) else torch.full(new[key].shape, value, dtype=new[key].dtype)
            )
        return replace(made, truth=replace(made.truth, weights=new))

    return change


def mapped(ids: torch.Tensor | None) -> Change:
    """Change the target ids of the truth."""
    return lambda made: replace(made, truth=replace(made.truth, target_ids=ids))
