"""Traps: the config contradicts the tensors, or an engine reads the config differently from the trainer."""

from __future__ import annotations

from dataclasses import replace

from support import outlines as f

from eagle3hub.engines.preflight import ExaminedHead, infer_truth


def holding(subject: ExaminedHead, name: str, dtype: str, shape: tuple[int, ...]) -> ExaminedHead:
    """Return the same folder with one more tensor, of this dtype and shape."""
    files = replace(subject.files, tensors={**subject.files.tensors, name: (dtype, shape)})
    return ExaminedHead(files, infer_truth(files))


def beside(subject: ExaminedHead) -> ExaminedHead:
    """Return the same folder with hf_quant_config.json, as ModelOpt writes it."""
    return replace(subject, files=replace(subject.files, quant_file={"quantization": ALL_BUT_FC}))


ALL_BUT_FC = {"quant_algo": "FP8", "exclude_modules": ["fc", "lm_head"]}
FP8 = {"quantization_config": {"quant_method": "modelopt", "quant_algo": "FP8", "ignore": ["fc", "lm_head"]}}
FC_TOO = {"quantization_config": {"quant_method": "modelopt", "quant_algo": "FP8", "ignore": ["lm_head"]}}
EVERYTHING_BUT = {"quantization_config": {**FP8["quantization_config"], "ignore": ["model*", "lm_head"]}}
LM_HEAD_TOO = {"quantization_config": {**FP8["quantization_config"], "ignore": ["fc"]}}
NVFP4 = {"quantization_config": {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": []}}


def in_blocks(size: int) -> dict[str, object]:
    """The config of a head in FP8, with a scale for each block of that many outputs and inputs."""
    how = {"quant_method": "fp8", "activation_scheme": "dynamic", "ignored_layers": ["fc", "model.fc", "lm_head"]}
    return {"quantization_config": {**how, "weight_block_size": [size, size]}}


MISREAD: dict[str, tuple[ExaminedHead, str, str]] = {
    # quantization
    "fc in 4 bits": (
        holding(f.in_fp8(f.universal(**FC_TOO)), "fc.weight", "U8", (f.H, 3 * f.H // 2)),
        "R R X R R S U",
        "fc-packed",
    ),
    "fc in FP8": (
        holding(f.in_fp8(f.universal(**FC_TOO)), "fc.weight", "F8_E4M3", (f.H, 3 * f.H)),
        "R R S R R S U",
        "fc-quantized",
    ),
    "quantized": (f.in_fp8(f.universal(**FP8)), "R R R R R S R", "quantized"),
    "quantized, by hf_quant_config.json": (beside(f.in_fp8(f.universal())), "R R R R R S R", "quantized"),
    "quantized, and nothing says so": (f.in_fp8(f.universal()), "X X S U U S X", "quantized-untold"),
    "Quark, exceptions by plain names": (
        f.in_fp8(f.universal(**f.quark(["fc", "lm_head"]))),
        "S S R U U S X",
        "quantized-where-plain",
    ),
    "Quark, exceptions by regular expressions": (
        f.in_fp8(f.universal(**f.quark(["re:.*fc.*", "re:.*lm_head.*"]))),
        "R R R U U S X",
        "quantization-unread",
    ),
    "Quark, an exception that nobody can read": (
        f.in_fp8(f.universal(**f.quark(["re:(a+)+$"]))),
        "U U U U U S X",
        "quantization-unread",
    ),
    "Quark, half a config": (
        f.in_fp8(f.universal(**f.quark(["re:.*fc"], export="DELETE"))),
        "X X X U U S X",
        "quantization-incomplete",
    ),
    "Quark, FP8 over int4": (
        f.in_fp8(
            f.universal(**f.quark([], global_quant_config={"weight": [{"dtype": "fp8_e4m3"}, {"dtype": "int4"}]}))
        ),
        "X X X U U S X",
        "quantization-form",
    ),
    "Quark, other numbers in some layers": (
        f.in_fp8(f.universal(**f.quark([], layer_quant_config={"*.mlp.*": {"weight": {"dtype": "int8"}}}))),
        "U U U U U S X",
        "quantization-unread",
    ),
    "8-bit integers": (
        f.in_fp8(f.universal(**f.compressed(["re:.*fc$", "lm_head"])), "I8"),
        "R R R U U S R",
        "quantized",
    ),
    "8-bit integers, fc excepted by its plain name": (
        f.in_fp8(f.universal(**f.compressed(["fc", "lm_head"])), "I8"),
        "S S R U U S R",
        "quantized-where-plain",
    ),
    "8-bit integers, no target for attention": (
        f.in_fp8(f.universal(**f.compressed([], targets="re:.*down_proj")), "I8"),
        "X X X U U S R",
        "quantization-target",
    ),
    "4-bit weights, 8-bit inputs": (
        f.in_fp8(f.universal(**f.compressed(["re:.*fc$"], bits=4)), "U8"),
        "U U X U U S U",
        "quantization-device",
    ),
    "Quark, no settings by type of layer": (
        f.in_fp8(f.universal(**f.quark(["re:.*fc"], layer_type_quant_config="DELETE"))),
        "X X X U U S X",
        "quantization-incomplete",
    ),
    "AWQ": (f.packed(f.universal(**f.awq())), "R R R U U S X", "quantized"),
    "AWQ, one exception that leaves out none of the plain": (
        f.packed(f.universal(**f.awq(modules_to_not_convert=["lm_head"]))),
        "X X R U U S X",
        "packed-where-plain",
    ),
    "AWQ, one matrix plain": (
        f.packed(f.universal(**f.awq()), ("fc", "lm_head", "down_proj")),
        "X X S U U S X",
        "packed-where-plain",
    ),
    "AWQ, one matrix plain, and excepted": (
        f.packed(f.universal(**f.awq(modules_to_not_convert=["fc", "down_proj"])), ("fc", "lm_head", "down_proj")),
        "R R R U U S X",
        "quantized",
    ),
    "AWQ, fc too": (f.packed(f.universal(**f.awq()), ("lm_head",)), "R R S U U S X", "fc-renamed"),
    "AWQ, lm_head too": (
        f.packed(f.universal(**f.awq()), ("fc",)),
        "X X S U U S X",
        "plain-where-quantized",
    ),
    "AWQ, lm_head too, as the config says": (
        f.packed(f.universal(**f.awq(lm_head=True)), ("fc",)),
        "R R R U U S X",
        "quantized",
    ),
    "AWQ of 8 bits": (f.packed(f.universal(**f.awq(bits=8))), "X X X U U S X", "quantization-form"),
    "AWQ in groups of 16": (f.packed(f.universal(**f.awq(group_size=16))), "R R X U U S X", "quantization-float16"),
    "AWQ, sizes by AutoAWQ's keys": (
        f.packed(f.universal(**f.awq(bits="DELETE", group_size="DELETE", w_bit=4, q_group_size=128))),
        "R R X U U S X",
        "quantization-float16",
    ),
    "AWQ, no word of zero points": (
        f.packed(f.universal(**f.awq(zero_point="DELETE"))),
        "X X X U U S X",
        "quantization-incomplete",
    ),
    "GPTQ": (f.packed(f.universal(**f.gptq())), "X X R U U S U", "plain-where-quantized"),
    "GPTQ, modules as vLLM names them": (
        f.packed(f.universal(**f.gptq(modules_in_block_to_quantize=["self_attn", "mlp"]))),
        "R R R U U S U",
        "quantized",
    ),
    "GPTQ, modules as transformers names them": (
        f.packed(f.universal(**f.gptq(modules_in_block_to_quantize=[["self_attn.q_proj"], ["mlp.down_proj"]]))),
        "X X R U U S U",
        "plain-where-quantized",
    ),
    "GPTQ, fc too, in the list and plain": (
        f.packed(f.universal(**f.gptq(modules_in_block_to_quantize=["self_attn", "mlp", "fc"]))),
        "X X R U U S U",
        "packed-where-plain",
    ),
    "GPTQ, a module left out": (
        f.packed(
            f.universal(**f.gptq(modules_in_block_to_quantize=["self_attn", "mlp"], dynamic={r"-:.*down_proj": {}})),
            ("fc", "lm_head", "down_proj"),
        ),
        "R R R U U S U",
        "quantized",
    ),
    "GPTQ, other bits in some modules": (
        f.packed(f.universal(**f.gptq(dynamic={r"+:.*down_proj": {"bits": 8}}))),
        "U U U U U S U",
        "quantization-unread",
    ),
    "GPTQ, ordered by activations": (
        f.packed(f.universal(**f.gptq(modules_in_block_to_quantize=["self_attn", "mlp"], desc_act=True))),
        "X X R U U S U",
        "quantization-setting",
    ),
    "GPTQ, ordered by activations, one group": (
        f.packed(
            f.universal(**f.gptq(modules_in_block_to_quantize=["self_attn", "mlp"], desc_act=True, group_size=-1))
        ),
        "R R R U U S U",
        "quantized",
    ),
    "GPTQ, asymmetric": (
        f.packed(f.universal(**f.gptq(modules_in_block_to_quantize=["self_attn", "mlp"], sym=False))),
        "X X X U U S U",
        "quantization-setting",
    ),
    "GPTQ, no word of symmetry": (
        f.packed(f.universal(**f.gptq(modules_in_block_to_quantize=["self_attn", "mlp"], sym="DELETE"))),
        "X X X U U S U",
        "quantization-incomplete",
    ),
    "GPTQ, lm_head too, as the config says": (
        f.packed(f.universal(**f.gptq(modules_in_block_to_quantize=["self_attn", "mlp"], lm_head=True)), ("fc",)),
        "X X R U U S U",
        "plain-where-quantized",
    ),
    "GPTQ of 8 bits": (
        f.packed(f.universal(**f.gptq(modules_in_block_to_quantize=["self_attn", "mlp"], bits=8))),
        "U U R U U S U",
        "quantization-device",
    ),
    "a method that only SGLang has heard of": (
        f.in_fp8(f.universal(quantization_config={"quant_method": "bitsandbytes"})),
        "X X U U U S X",
        "quantization-method",
    ),
    "a method that only vLLM has heard of": (
        f.in_fp8(f.universal(quantization_config={"quant_method": "torchao"})),
        "U U X U U S X",
        "quantization-method",
    ),
    "FP8, exceptions for the whole draft": (
        f.in_fp8(f.universal(**EVERYTHING_BUT)),
        "X X S R R S R",
        "plain-where-quantized",
    ),
    "FP8, and lm_head is no exception": (
        f.in_fp8(f.universal(**LM_HEAD_TOO)),
        "S S S R R S R",
        "quantized-where-plain",
    ),
    "FP8 in blocks that cut no weight": (f.in_fp8(f.universal(**in_blocks(4))), "R R R U U S U", "quantized"),
    "FP8 in blocks that cut keys and values": (
        f.in_fp8(f.universal(**in_blocks(8))),
        "X X X U U S U",
        "quantization-blocks",
    ),
    "NVFP4, and no exceptions": (
        f.in_fp8(f.universal(**NVFP4), "U8"),
        "X X X R R S U",
        "packed-shape-where-plain",
    ),
    "4-bit weights, and nothing says so": (
        holding(f.universal(), "midlayer.mlp.up_proj.weight", "U8", (f.INTER, f.H // 2)),
        "X X X U U S X",
        "packed-untold",
    ),
    "plain weights, and a config of quantized ones": (f.universal(**FP8), "S S S U U U R", "quantized-config-alone"),
    "plain weights beside hf_quant_config.json": (beside(f.universal()), "S S S U U U R", "quantized-config-alone"),
    "quantization_config null": (f.universal(quantization_config=None), "R R R R R R R", "aux-agree"),
    "MLA, quantized": (f.mla(**FP8), "S S X U U X X", "mla-quantized"),
    # nulls and empty lists
    "use_aux_hidden_state null": (
        f.universal(eagle_config=f.eagle_config(f.AFTER, use_aux_hidden_state=None)),
        "S X S R R R R",
        "null-use-aux-hidden-state",
    ),
    "norm_before_fc null in eagle_config, true at top level": (
        f.universal(
            weights={"input_norm.weight": (3 * f.H,)},
            norm_before_fc=True,
            eagle_config=f.eagle_config(f.AFTER, norm_before_fc=None),
        ),
        "S S S S S S R",
        "norm-before-fc",
    ),
    "use_aux_norm beside a fc_norm that is false": (
        f.universal(weights={f"fc_norm.{j}.weight": (f.H,) for j in range(3)}, fc_norm=False, use_aux_norm=True),
        "X X R S S S X",
        "fc-norm",
    ),
    "norm_before_residual null, speculators": (
        f.speculators(norm_before_residual=None),
        "R R X X X X R",
        "nested-config",
    ),
    "no layers in eagle_config": (
        f.universal(eagle_config={"eagle_aux_hidden_state_layer_ids": []}),
        "R R X R R R R",
        "aux-empty",
    ),
    # attention, sizes and RoPE
    "sliding window": (
        f.universal(sliding_window=4, layer_types=["sliding_attention"]),
        "R R S U U S S",
        "sliding-window",
    ),
    "sliding window that the head was trained without": (
        f.universal(sliding_window=4, layer_types=["sliding_attention"], truth={"sliding_window": False}),
        "S S R U U R R",
        "sliding-window-stated",
    ),
    "sliding window, not written as vLLM reads it": (
        f.universal(sliding_window=4, truth={"sliding_window": True}),
        "S S S U U S S",
        "sliding-window-unstated",
    ),
    "num_hidden_layers missing": (f.universal(num_hidden_layers="DELETE"), "S S S X S X X", "no-num-hidden-layers"),
    "attention heads read narrower than they are": (f.universal(head_dim=2), "S S S X X X X", "head-dim-narrower"),
    "an MLP read narrower than it is": (
        f.universal(intermediate_size=f.INTER // 2),
        "S S S X X R X",
        "mlp-width-narrower",
    ),
    "an MLP of another width": (f.universal(intermediate_size=f.INTER * 2), "X X R X X R X", "mlp-width"),
    "Llama 4's two widths, the MLP's by its own key": (
        f.universal(model_type="llama4_text", intermediate_size=f.INTER * 2, intermediate_size_mlp=f.INTER),
        "X X R X X X X",
        "mlp-width",
    ),
    "Llama 4's two widths, the MLP's by the other key": (
        f.universal(model_type="llama4_text", intermediate_size_mlp=f.INTER * 2),
        "R R R R R X R",
        "aux-agree",
    ),
    "head_dim missing, model_type llama": (f.universal(head_dim="DELETE"), "R R R R R R R", "aux-agree"),
    "head_dim missing, model_type qwen3": (
        f.universal(head_dim="DELETE", model_type="qwen3"),
        "X X X X X X X",
        "head-dim",
    ),
    "MLA, whose q_proj is of another width": (  # than Llama attention's; engines want a latent of queries
        holding(
            f.mla(
                q_lora_rank=None,
                weights={f"midlayer.self_attn.{n}.weight": None for n in ("q_a_proj", "q_a_layernorm", "q_b_proj")},
            ),
            "midlayer.self_attn.q_proj.weight",
            "BF16",
            (3 * f.H, 2 * f.H),
        ),
        "X X X U U X X",
        "mla-query",
    ),
    "multimodal RoPE": (
        f.universal(rope_scaling={"rope_type": "default", "mrope_section": [1, 1, 0]}),
        "R U R X U S U",
        "mrope",
    ),
    "multimodal RoPE, old word for its type": (
        f.universal(rope_scaling={"type": "mrope", "mrope_section": [1, 1, 0]}),
        "R U R U U S U",
        "mrope",
    ),
    "heads rotated in part": (
        f.universal(rope_scaling={"rope_type": "default", "partial_rotary_factor": 0.5}),
        "S S R X S R R",
        "partial-rotary",
    ),
    "heads rotated in part, as top level says": (
        f.universal(partial_rotary_factor=0.5),
        "S S S S S R R",
        "partial-rotary",
    ),
    "RoPE base inside rope_scaling": (
        f.universal(rope_theta="DELETE", rope_scaling={"rope_type": "default", "rope_theta": 1e6}),
        "R R R X R S R",
        "rope-theta",
    ),
    "RoPE scaling without its factor": (
        f.universal(rope_scaling={"rope_type": "linear"}),
        "X X X X X X S",
        "rope-incomplete",
    ),
    "RoPE scaling of a type few know": (
        f.universal(rope_scaling={"rope_type": "su", "short_factor": [1.0] * 2, "long_factor": [2.0] * 2}),
        "R R X X X X S",
        "rope-type",
    ),
    "RoPE scaling of a type nobody knows": (
        f.universal(rope_scaling={"rope_type": "foo"}),
        "X X X X X X S",
        "rope-type",
    ),
    "YaRN, and a context shorter than the target's": (
        f.universal(
            rope_scaling={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512},
            max_position_embeddings=2048,
        ),
        "R R X R R R R",
        "context",
    ),
    "RoPE that differs by kind of layer": (
        f.universal(rope_theta="DELETE", rope_parameters={"full_attention": {"rope_theta": 1e6}}),
        "X X X R U R U",
        "rope-by-layer",
    ),
}
