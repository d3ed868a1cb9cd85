"""Traps: take a folder that is right on every engine, change one thing, and check what each engine does."""

from __future__ import annotations

from dataclasses import replace

import pytest
from engines.preflight.misread import MISREAD
from support import outlines as f
from support.versions import LLAMACPP, SGLANG, SGLANG_JAX, TRTLLM, TRTLLM_NEXT, VLLM

from eagle3hub.engines.preflight import ExaminedHead, PreflightVerdict, infer_truth, preflight_all

V1, V2, SG = ("vllm", f"{VLLM} V1"), ("vllm", f"{VLLM} V2"), ("sglang", SGLANG)
T1, T2, JAX, CPP = ("trtllm", TRTLLM), ("trtllm", TRTLLM_NEXT), ("sglang_jax", SGLANG_JAX), ("llamacpp", LLAMACPP)
COLUMNS = (V1, V2, SG, T1, T2, JAX, CPP)
KINDS = {"R": "right", "S": "silently_wrong", "X": "refuses", "U": "unknown"}
FOUR = (2, 10, 15, 27)


def parallel_speculators(**changes) -> ExaminedHead:
    """A P-EAGLE head of the speculators library, as it is published."""
    own = f.speculators(
        **{"speculators_model_type": "peagle", "architectures": ["PEagleDraftModel"], "mask_token_id": 1, **changes}
    )
    held = {**own.files.tensors, "mask_hidden": ("BF16", (1, 3 * f.H))}
    files = replace(own.files, tensors=held)
    return replace(own, files=files, truth=replace(own.truth, parallel_drafting=True))


def nested(after: list[int], **changes) -> ExaminedHead:
    return f.universal(tuple(a + 1 for a in after), eagle_aux_hidden_state_layer_ids="DELETE", **changes)


def top(boundaries: tuple[int, ...], **changes) -> ExaminedHead:
    return f.universal(boundaries, **{"eagle_config": "DELETE", **changes})


def weights(**changes) -> ExaminedHead:
    return f.universal(weights=changes)


PREFIX = "midlayer."
BIAS = {f"{PREFIX}self_attn.{x}_proj.bias": (f.KV * f.DIM if x in "kv" else f.H,) for x in "qkvo"}
RENAMED = dict.fromkeys(f.shapes(PREFIX)) | {f"model.{n}": s for n, s in f.shapes(PREFIX).items()}

TRAPS: dict[str, tuple[ExaminedHead, str, str]] = {
    # which layers feed the head
    "nested default ids only": (nested(f.AFTER), "S R R R R R R", "aux-layers"),
    "nested other ids only": (nested(f.OTHER_AFTER), "S S R S S S S", "aux-layers"),
    "nested four ids only": (nested([1, 9, 14, 26]), "S X R X X X X", "aux-layers"),
    "top-level default ids only": (top(f.BOUNDARIES), "R R R R R R R", "aux-agree"),
    "top-level other ids only": (top((4, 10, 21)), "R R S S S S R", "aux-layers"),
    "top-level four ids, no number of them": (top(FOUR), "X X X X X X X", "fc-width"),
    "top-level four ids and their number": (top(FOUR, num_aux_hidden_states=4), "R R X X X X X", "aux-count"),
    "both places, four ids": (f.universal(FOUR), "R R R X X X X", "fc-width"),
    "boundary ids in eagle_config": (
        nested([2, 15, 27], truth={"boundaries": (2, 15, 27)}),
        "R R S R R R R",
        "aux-layers",
    ),
    "ids of V2's own key": (
        top(
            (4, 10, 21),
            eagle_config={"layer_ids": [4, 10, 21]},
            eagle_aux_hidden_state_layer_ids="DELETE",
            truth={"boundaries": (4, 10, 21)},
        ),
        "S R S S S S S",
        "aux-layers",
    ),
    "ids not ascending": (top((27, 2, 15)), "S S S S S S R", "aux-order"),
    "after the last layer": (f.universal((2, 15, 30)), "R R X S S S S", "aux-range"),
    "beyond the last layer": (f.universal((2, 15, 31)), "X X X S S S X", "aux-range"),
    "ids twice the same": (
        top((4, 4, 4)),
        "X X S S S S R",
        "aux-count",
    ),
    "a single id": (f.universal((15,)), "R R S X X X X", "single-feature"),
    "qkv as wide as without aux states": (f.modelopt_without_aux(f.H), "X X X X X X X", "qkv-width"),
    "another export's weights in the folder": (
        ExaminedHead(replace(f.universal().files, overlaid=True), f.universal().truth),
        "S S S R R R R",
        "weights-overlaid",
    ),
    "another export's weights under a name that sorts first": (
        ExaminedHead(replace(f.universal().files, overlaid_first="an-export.safetensors"), f.universal().truth),
        "R R R R R S R",
        "weights-overlaid-first",
    ),
    "a map in a file that no index names": (
        ExaminedHead(
            replace(f.universal(d2t=None).files, more={"d2t": "vocab_mapping.safetensors"}),
            f.universal(d2t=None).truth,
        ),
        "U U U U U U U",
        "weights-elsewhere",
    ),
    "a pickle called .safetensors": (
        ExaminedHead(replace(f.universal().files, mislabelled=("model.safetensors",)), f.universal().truth),
        "X X X X X X X",
        "mislabelled-pickle",
    ),
    # tensors
    "names begin with model.": (
        f.universal(weights=RENAMED | {"model.lm_head.weight": None, "lm_head.weight": (f.VD, f.H)}),
        "X X R X X X X",
        "model-prefix",
    ),
    "names begin with model., that of lm_head too": (
        f.universal(weights=RENAMED),
        "X X S X X X X",
        "lm-head-prefix",
    ),
    "midlayer.0. names": (
        f.subject(f.config(), f.shapes("midlayer.0.")),
        "X X S X S X X",
        "layer-names",
    ),
    "layers.0. names": (f.subject(f.config(), f.shapes("layers.0.")), "R R R X R X R", "layer-names"),
    "no fc": (weights(**{"fc.weight": None}), "S S S X S X X", "tensor-missing"),
    "no q_proj": (weights(**{f"{PREFIX}self_attn.q_proj.weight": None}), "S S S X S X X", "tensor-missing"),
    "no hidden_norm": (weights(**{f"{PREFIX}hidden_norm.weight": None}), "S S S X S S X", "tensor-missing"),
    "a tensor nobody knows": (weights(**{"extra_norm.weight": (f.H,)}), "X X S S S S X", "tensor-unknown"),
    "a leaked tensor of the target": (
        weights(**{"target_model.norm.weight": (f.H,)}),
        "X X R R R R X",
        "tensor-leftover",
    ),
    "biases without the flag": (weights(**BIAS), "S S S S S S X", "bias"),
    "biases with the flag": (f.universal(weights=BIAS, attention_bias=True), "R R S R R X X", "bias"),
    "biases with the flag, but none of o_proj": (
        f.universal(weights={n: s for n, s in BIAS.items() if "o_proj" not in n}, attention_bias=True),
        "S S S R R X X",
        "o-proj-bias",
    ),
    "fc bias": (weights(**{"fc.bias": (f.H,)}), "S S S S S S X", "bias"),
    "own embeddings": (weights(**{"embed_tokens.weight": (f.V, f.H)}), "R R U U U U R", "embedding-own"),
    "aux_norm_* and use_aux_norm": (
        f.universal(weights={f"aux_norm_{x}.weight": (f.H,) for x in ("low", "mid", "high")}, use_aux_norm=True),
        "X X R S S S X",
        "fc-norm",
    ),
    "fc_norm": (
        f.universal(weights={f"fc_norm.{j}.weight": (f.H,) for j in range(3)}, fc_norm=True),
        "R R R S R S X",
        "fc-norm",
    ),
    "fc_norm without the flag": (
        weights(**{f"fc_norm.{j}.weight": (f.H,) for j in range(3)}),
        "X X S S S S X",
        "tensor-without-flag",
    ),
    "fc_norm without its tensors": (
        f.universal(fc_norm=True, truth={"fc_norm": True}),
        "S S S S S S S",
        "tensor-missing",
    ),
    "input_norm without the flag": (weights(**{"input_norm.weight": (3 * f.H,)}), "S S S S S S X", "norm-before-fc"),
    "input_norm and the top-level flag": (
        f.universal(weights={"input_norm.weight": (3 * f.H,)}, norm_before_fc=True),
        "R R R S S S R",
        "norm-before-fc",
    ),
    "q/k norms in a Llama draft": (
        weights(**{f"{PREFIX}self_attn.{x}_norm.weight": (f.DIM,) for x in "qk"}),
        "X X S S S S X",
        "qk-norm",
    ),
    "q/k norms in a Qwen3 draft": (
        f.universal(
            weights={f"{PREFIX}self_attn.{x}_norm.weight": (f.DIM,) for x in "qk"},
            architectures=["Eagle3Qwen3ForCausalLM"],
        ),
        "R R X S S X X",
        "architecture",
    ),
    "P-EAGLE": (
        f.universal(weights={"mask_hidden": (1, 3 * f.H)}, mask_token_id=1),
        "S S S S S S X",
        "parallel-drafting",
    ),
    "P-EAGLE under SpecForge's class, before which vLLM puts Eagle3": (
        f.universal(weights={"mask_hidden": (1, 3 * f.H)}, architectures=["PEagleDraftModel"], mask_token_id=1),
        "X X X S S X X",
        "architecture",
    ),
    "P-EAGLE under the class that vLLM registers for nested configs": (
        f.universal(weights={"mask_hidden": (1, 3 * f.H)}, architectures=["PeagleLlamaForCausalLM"], pard_token=1),
        "X X X S S X X",
        "architecture",
    ),
    "P-EAGLE without the token of masked slots": (
        f.universal(weights={"mask_hidden": (1, 3 * f.H)}),
        "X X S S S S X",
        "no-mask-token",
    ),
    "P-EAGLE of speculators, flags that do not reach vLLM's": (
        f.speculators(speculators_model_type="peagle", fc_norm=True, norm_output=True, mask_token_id=1),
        "S S X X X X S",
        "fc-norm",
    ),
    "P-EAGLE of speculators, which asks for parallel drafting where it is served by its own name": (
        parallel_speculators(),
        "R R X X X X X",
        "parallel-by-name",
    ),
    "P-EAGLE of speculators without the target's name": (
        parallel_speculators(speculators_config={"proposal_methods": [{"speculative_tokens": 5}]}),
        "S S X X X X X",
        "parallel-drafting",
    ),
    "P-EAGLE of speculators without draft tokens": (
        parallel_speculators(speculators_config={"proposal_methods": [], "verifier": {"name_or_path": "o/t"}}),
        "S S X X X X X",
        "parallel-drafting",
    ),
    "P-EAGLE with nested ids only, which V2 leaves to V1": (
        nested(f.AFTER, weights={"mask_hidden": (1, 3 * f.H)}, pard_token=1),
        "S S S S S S X",
        "parallel-drafting",
    ),
    "fc bias asked for": (f.universal(weights={"fc.bias": (f.H,)}, bias=True), "S S R R R X X", "o-proj-bias"),
    # vocabulary
    "no d2t": (f.universal(d2t=None), "S S S X S X X", "d2t-missing"),
    "d2t with the full vocabulary": (f.universal(full=True, d2t="I32"), "X X R R R R R", "d2t-with-full-vocabulary"),
    "d2t in bfloat16": (f.universal(d2t="BF16"), "S S S R R S S", "d2t-float"),
    "d2t in int32": (f.universal(d2t="I32"), "R R R R R R R", "aux-agree"),
    "d2t of absolute ids": (f.universal(truth={"map_fault": "absolute"}), "S S S S S S S", "d2t-wrong"),
    "d2t out of range": (
        f.universal(truth={"map_fault": "out-of-range", "map_fits": False}),
        "X X X S S S X",
        "d2t-out-of-range",
    ),
    "a short d2t": (f.universal(entries=f.VD - 1), "X X X R R S X", "d2t-short"),
    "a long d2t": (f.universal(entries=f.VD + 1), "X X R R R R X", "d2t-long"),
    "t2d that says something else": (
        f.universal(truth={"map_doubt": "t2d-mismatch"}),
        "U U U U U U U",
        "map-doubtful",
    ),
    "draft_vocab_size null, reduced": (
        f.universal(draft_vocab_size=None),
        "X X X X X S R",
        "no-draft-vocab-size-reduced",
    ),
    "draft_vocab_size of another head": (f.universal(draft_vocab_size=12), "X X X U U R R", "lm-head-rows"),
    "a leftover of old RoPE": (
        weights(**{f"{PREFIX}self_attn.rotary_emb.inv_freq": (2,)}),
        "R R R R R R R",
        "aux-agree",
    ),
    "no lm_head, reduced": (weights(**{"lm_head.weight": None}), "S S S S S X X", "no-lm-head-reduced"),
    "no lm_head, full": (
        f.universal(full=True, weights={"lm_head.weight": None}, truth={"draft_vocab_size": f.V}),
        "R R S R R X R",
        "no-lm-head",
    ),
    "tied": (f.universal(tie_word_embeddings=True), "R R S S S S R", "tied"),
    "no draft_vocab_size, reduced": (f.universal(draft_vocab_size="DELETE"), "X X X X X X X", "no-draft-vocab-size"),
    "no draft_vocab_size, full": (
        f.universal(full=True, draft_vocab_size="DELETE"),
        "R R X R R X X",
        "no-draft-vocab-size",
    ),
    "draft_vocab_size null": (f.universal(full=True, draft_vocab_size=None), "R R S R R X R", "null-draft-vocab-size"),
    # config
    "target_hidden_size null": (f.universal(target_hidden_size=None), "X X X X X X R", "null-target-hidden-size"),
    "eagle_config null": (top(f.BOUNDARIES, eagle_config=None), "R R R X X R R", "null-eagle-config"),
    "mlp_bias null, as transformers 5 may leave it": (f.universal(mlp_bias=None), "X X X R R R R", "null-strict"),
    "rope_theta null": (f.universal(rope_theta=None), "X X X U U X R", "null-rope-theta"),
    "RoPE in the new spelling only": (
        f.universal(rope_theta="DELETE", rope_parameters={"rope_type": "default", "rope_theta": 1e6}),
        "R R R S R S R",
        "rope-theta",
    ),
    "RoPE scaling in the new spelling only": (
        f.universal(rope_parameters={"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e6}),
        "R R R S R S R",
        "rope-scaling",
    ),
    "RoPE scaling, old word for its type": (
        f.universal(
            rope_scaling={"type": "linear", "factor": 2.0},
            rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e6},
        ),
        "R R R R R X R",
        "rope-type",
    ),
    "norm_before_residual": (f.universal(norm_before_residual=True), "R R S S S S R", "norm-before-residual"),
    "post-norm feedback": (f.universal(norm_output=True), "R R R S R S S", "feedback"),
    "post-norm feedback, TensorRT-LLM's spelling": (
        f.universal(
            norm_output=True,
            eagle_config=f.eagle_config(f.AFTER, return_hidden_post_norm=True),
        ),
        "R R R R R S S",
        "feedback",
    ),
    "norm_output of unknown meaning": (
        f.universal(norm_output=True, truth={"feedback": None}),
        "U U U U U U U",
        "feedback-open",
    ),
    "context shorter than the target's": (f.universal(max_position_embeddings=2048), "R R X R R R R", "context"),
    "context not stated": (f.universal(max_position_embeddings="DELETE"), "R R X R R R R", "context"),
    "activation": (f.universal(hidden_act="gelu"), "X X X U U S S", "hidden-act"),
    "architecture nobody registers": (
        f.universal(architectures=["Qwen3ForCausalLMEagle3"]),
        "X X X R R X X",
        "architecture",
    ),
    "Eagle3LlamaForCausalLM": (f.universal(architectures=["Eagle3LlamaForCausalLM"]), "R R X R R X R", "architecture"),
    "no model_type": (f.universal(model_type="DELETE"), "X X X X X X R", "no-model-type"),
    "another width, own embeddings": (
        f.universal(
            weights={"fc.weight": (f.H, 3 * f.H), "embed_tokens.weight": (f.V, f.H)},
            truth={"target_hidden_size": f.H},
        ),
        "R R U U U U R",
        "embedding-own",
    ),
    "a wider target, no embeddings": (
        f.universal(weights={"fc.weight": (f.H, 48)}, target_hidden_size=16),
        "S S S X S X X",
        "no-embedding",
    ),
    "a wider target, own embeddings": (
        f.universal(weights={"fc.weight": (f.H, 48), "embed_tokens.weight": (f.V, f.H)}, target_hidden_size=16),
        "R R R R R X R",
        "embedding-width",
    ),
    "own embeddings that differ": (
        f.universal(weights={"embed_tokens.weight": (f.V, f.H)}, truth={"embedding": "differs"}),
        "R R S S S S R",
        "embedding-differs",
    ),
    "own embeddings that are the same": (
        f.universal(weights={"embed_tokens.weight": (f.V, f.H)}, truth={"embedding": "same"}),
        "R R R R R R R",
        "aux-agree",
    ),
    "trained with another RoPE base": (f.universal(truth={"rope_theta": 1e4}), "S S S S S S S", "rope-theta"),
    "trained with RoPE scaling": (
        f.universal(truth={"rope_scaling": {"rope_type": "linear", "factor": 2.0}}),
        "S S S S S S S",
        "rope-scaling",
    ),
    "trained with norm_before_residual, not written": (
        f.universal(norm_before_residual="DELETE", truth={"norm_before_residual": True}),
        "S S S S S S S",
        "norm-before-residual",
    ),
    "flags of norms the head does not have": (
        f.universal(
            weights={"input_norm.weight": (3 * f.H,), **{f"fc_norm.{j}.weight": (f.H,) for j in range(3)}},
            fc_norm=True,
            norm_before_fc=True,
            eagle_config=f.eagle_config(f.AFTER, norm_before_fc=True),
            truth={"fc_norm": False, "norm_before_fc": False},
        ),
        "S S S R S R X",
        "fc-norm-stated",
    ),
    "norm_before_residual that the head does not have": (
        f.universal(norm_before_residual=True, truth={"norm_before_residual": False}),
        "S S R R R R S",
        "norm-before-residual-stated",
    ),
    "post-norm feedback, not written": (f.universal(truth={"feedback": "post_norm"}), "S S S S S S S", "feedback"),
    "fc in no whole number of states": (weights(**{"fc.weight": (f.H, 40)}), "X X X X X X X", "fc-width"),
    "MLA, two layers": (f.mla(layers=2, prefix="layers.0."), "R R X X S X X", "mla-several-layers"),
    "MLA, norm before fc": (  # SGLang's class of MLA drafts has no such norm, nor has vLLM's
        f.mla(
            norm_before_fc=True,
            eagle_config=f.eagle_config(f.AFTER, norm_before_fc=True),
            weights={"input_norm.weight": (3 * f.H,)},
        ),
        "X X S S R X X",
        "mla-norm-before-fc",
    ),
    "MLA under SpecForge's name": (
        f.mla(architectures=["DeepseekV3ForCausalLMEagle3"]),
        "X X X R R X X",
        "architecture",
    ),
    "MLA, model_type deepseek_v3": (f.mla(model_type="deepseek_v3"), "X X R R R X X", "mtp-type"),
    "Llama, model_type deepseek_v3": (f.universal(model_type="deepseek_v3"), "X X X R R R R", "mtp-type"),
    "Llama, model_type deepseek_v32": (f.universal(model_type="deepseek_v32"), "X X X R R X X", "mtp-type"),
    "MLA, model_type deepseek_v2": (f.mla(model_type="deepseek_v2"), "R R R R R X X", "aux-agree"),
    "MLA, RoPE base inside rope_parameters only": (
        f.mla(rope_theta="DELETE", rope_scaling="DELETE", rope_parameters={**f.YARN, "rope_theta": 5e6}),
        "R R R S R X X",
        "rope-theta",
    ),
    "MLA, no latent of queries": (
        f.mla(
            q_lora_rank=None,
            weights={
                **{f"midlayer.self_attn.{n}.weight": None for n in ("q_a_proj", "q_a_layernorm", "q_b_proj")},
                "midlayer.self_attn.q_proj.weight": (f.HEADS * (f.NOPE + f.ROPE), 2 * f.H),
            },
        ),
        "X X X U U X X",
        "mla-query",
    ),
    "MLA, llama3 RoPE": (
        f.mla(
            rope_scaling={
                "rope_type": "llama3",
                "factor": 4.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 2048,
            }
        ),
        "S S S S S X X",
        "mla-rope",
    ),
    "MLA, yarn": (f.mla(), "R R R R R X X", "aux-agree"),
    "MLA, no RoPE scaling": (f.mla(rope_scaling="DELETE"), "U R R R R X X", "mla-plain-rope"),
    "MLA, no lm_head": (f.mla(full=True, weights={"lm_head.weight": None}), "R R S R R X X", "no-lm-head"),
    "MLA, no lm_head and no size of one": (
        f.mla(full=True, weights={"lm_head.weight": None}, draft_vocab_size=None),
        "R R R R R X X",
        "no-lm-head-unsized",
    ),
    "MLA, no lm_head for a reduced vocabulary": (
        f.mla(weights={"lm_head.weight": None}),
        "S S S S S X X",
        "no-lm-head-reduced",
    ),
    "MLA, no draft_vocab_size": (
        f.mla(full=True, draft_vocab_size="DELETE"),
        "R R S R R X X",
        "mla-no-draft-vocab-size",
    ),
    "MLA, a tensor left out": (
        f.mla(weights={"midlayer.self_attn.kv_a_layernorm.weight": None}),
        "S S S X S X X",
        "tensor-missing",
    ),
    "MLA, experts in place of the MLP": (
        f.mla(
            weights={
                **{f"midlayer.mlp.{n}_proj.weight": None for n in ("gate", "up", "down")},
                "midlayer.mlp.gate.weight": (4, f.H),
                "midlayer.mlp.experts.0.up_proj.weight": (f.INTER, f.H),
            }
        ),
        "X X S X S X X",
        "tensor-unknown",
    ),
    "MLA, biases": (
        f.mla(attention_bias=True, weights={"midlayer.self_attn.kv_a_proj_with_mqa.bias": (f.KV_RANK + f.ROPE,)}),
        "S S S S S X X",
        "bias",
    ),
    "MLA, model. before every name": (f.mla(prefix="model.layers.0."), "X X S X X X X", "mla-model-prefix"),
    "MLA, norms called aux_norm": (
        f.mla(weights={f"aux_norm_{n}.weight": (f.H,) for n in ("low", "mid", "high")}, fc_norm=True),
        "X X S S S X X",
        "tensor-without-flag",
    ),
    "MLA, fc norm and norm output": (
        f.mla(weights={f"fc_norm.{j}.weight": (f.H,) for j in range(3)}, fc_norm=True, norm_output=True),
        "R R R S R X X",
        "aux-agree",
    ),
    "Llama attention, kv_lora_rank in the config": (f.universal(kv_lora_rank=512), "R R R X X R R", "mla-stray"),
    "MLA, final hidden state": (
        f.mla(
            eagle_config={"use_aux_hidden_state": False},
            weights={"fc.weight": None},
        ),
        "X S R X S X X",
        "mla-final-norm",
    ),
    "MLA weights under a Llama name": (f.mla(architectures=["LlamaForCausalLMEagle3"]), "X X X R R X X", "mla"),
    "top-level four ids in a Qwen3 draft": (
        f.universal(
            FOUR,
            weights={f"{PREFIX}self_attn.{x}_norm.weight": (f.DIM,) for x in "qk"},
            architectures=["Eagle3Qwen3ForCausalLM"],
            eagle_config="DELETE",
        ),
        "R R X X X X X",
        "aux-count",
    ),
    "Qwen3 name, Llama weights": (
        f.universal(architectures=["Eagle3Qwen3ForCausalLM"]),
        "S S X R R X X",
        "tensor-missing",
    ),
    "two layers, norms as Megatron has them": (f.two_layers("hidden_norm"), "S S R X R X X", "later-norm"),
    "two layers, norms as others have them": (f.two_layers("input_layernorm"), "R R S X S X X", "later-norm"),
    "ids the files do not have": (
        f.universal(
            eagle_aux_hidden_state_layer_ids="DELETE", eagle_config="DELETE", truth={"boundaries": f.BOUNDARIES}
        ),
        "R R R R R R R",
        "aux-agree",
    ),
    "two layers, midlayer.0 and midlayer.1, input_layernorm": (
        f.two_layers("input_layernorm", "midlayer.{}."),
        "X X S X S X X",
        "later-norm",
    ),
    "two layers, midlayer.0 and midlayer.1": (
        f.two_layers("hidden_norm", "midlayer.{}."),
        "X X S R R X X",
        "layer-names",
    ),
    "speculators without a number of tokens": (
        f.speculators(speculators_config={"proposal_methods": []}),
        "R R X X X X R",
        "nested-config",
    ),
    "speculators without its type": (
        f.speculators(speculators_model_type="DELETE"),
        "X X X X X X R",
        "nested-untyped",
    ),
    "P-EAGLE, no state of masked slots": (
        f.universal(mask_token_id=1, truth={"parallel_drafting": True}),
        "X X S S S S X",
        "no-mask-state",
    ),
    **MISREAD,
}


def verdicts(subject: ExaminedHead, **target) -> dict[tuple[str, str], PreflightVerdict]:
    return {(v.engine, v.version): v for v in preflight_all(subject, f.target(**target))}


@pytest.mark.parametrize("trap", TRAPS)
def test_trap(trap: str):
    subject, cells, code = TRAPS[trap]
    found = verdicts(subject, hidden_size=subject.truth.target_hidden_size)
    expected = {e: KINDS[s] for e, s in zip(COLUMNS, cells.split(), strict=True)}
    assert {e: found[e].kind for e in COLUMNS} == expected, {
        e: [(r.code, r.effect) for r in found[e].reasons] for e in COLUMNS if found[e].kind != expected[e]
    }
    assert any(r.code == code for e in COLUMNS for r in found[e].reasons)


def test_layers_that_the_config_does_not_count_are_counted_by_their_names():
    files = f.two_layers("input_layernorm").files
    config = {k: v for k, v in files.config.items() if k != "num_hidden_layers"}
    assert infer_truth(replace(files, config=config)).num_layers == 2


def test_a_config_without_architectures_is_called_so():
    found = {v.engine: v for v in preflight_all(f.universal(architectures="DELETE"), f.target())}
    said = {e: [r.sentence for r in found[e].reasons if r.code == "architecture"] for e in ("vllm", "llamacpp")}
    assert said == {
        "vllm": ["has no draft class for a config without architectures"],
        "llamacpp": ["has no converter for a config without architectures"],
    }


def test_a_class_is_advised_that_the_engine_knows_and_that_fits() -> None:
    """With q/k norms vLLM's Qwen3 draft, with MLA its own class; where an engine has none, none is named."""
    qwen3 = f.universal(
        architectures=["Qwen3Eagle3Model"], weights={f"{PREFIX}self_attn.{x}_norm.weight": (f.DIM,) for x in "qk"}
    )
    mla = f.mla(architectures=["SomeMlaDraft"])
    for subject, advised in ((qwen3, {V1: "Eagle3Qwen3ForCausalLM"}), (mla, {V1: "Eagle3DeepseekV2ForCausalLM"})):
        found = {(v.engine, v.version): v for v in preflight_all(subject, f.target())}
        for engine in (V1, CPP):
            (reason,) = (r for r in found[engine].reasons if r.code == "architecture")
            name = advised.get(engine)
            assert reason.hint == (None if name is None else f'architectures: ["{name}"]')
