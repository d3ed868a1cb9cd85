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
    """Return the same folder with hf_quant_config.json."""
    return replace(subject, files=replace(subject.files, quant_file=True))


SCALES = {f"midlayer.mlp.{x}_proj.weight_scale": () for x in ("gate", "up", "down")}
FP8 = {"quantization_config": {"quant_method": "fp8"}}

MISREAD: dict[str, tuple[ExaminedHead, str, str]] = {
    # quantization
    "fc in 4 bits": (
        holding(f.universal(**FP8), "fc.weight", "U8", (f.H, 3 * f.H // 2)),
        "R R X R R S U",
        "fc-packed",
    ),
    "fc in FP8": (
        holding(f.universal(**FP8), "fc.weight", "F8_E4M3", (f.H, 3 * f.H)),
        "R R S R R S U",
        "fc-quantized",
    ),
    "quantized": (f.universal(weights=SCALES, **FP8), "R R R R R S U", "quantized"),
    "quantized, by hf_quant_config.json": (beside(f.universal(weights=SCALES)), "R R R R R S U", "quantized"),
    "quantized, and nothing says so": (f.universal(weights=SCALES), "X X S U U S U", "quantized-untold"),
    "4-bit weights, and nothing says so": (
        holding(f.universal(), "midlayer.mlp.up_proj.weight", "U8", (f.INTER, f.H // 2)),
        "X X X U U S U",
        "packed-untold",
    ),
    "plain weights, and a config of quantized ones": (f.universal(**FP8), "S S S U U U U", "quantized-config-alone"),
    "plain weights beside hf_quant_config.json": (beside(f.universal()), "S S S U U U U", "quantized-config-alone"),
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
        "R R S U U U S",
        "sliding-window",
    ),
    "sliding window that the head was trained without": (
        f.universal(sliding_window=4, layer_types=["sliding_attention"], truth={"sliding_window": False}),
        "S S R U U U R",
        "sliding-window-stated",
    ),
    "sliding window, not written as vLLM reads it": (
        f.universal(sliding_window=4, truth={"sliding_window": True}),
        "S S S U U U S",
        "sliding-window-unstated",
    ),
    "num_hidden_layers missing": (f.universal(num_hidden_layers="DELETE"), "S S S X S X X", "no-num-hidden-layers"),
    "an MLP of another width": (f.universal(intermediate_size=f.INTER * 2), "X X X X X X X", "mlp-width"),
    "Llama 4's two widths, the MLP's by its own key": (
        f.universal(model_type="llama4_text", intermediate_size=f.INTER * 2, intermediate_size_mlp=f.INTER),
        "X X R X X X X",
        "mlp-width",
    ),
    "Llama 4's two widths, the MLP's by the other key": (
        f.universal(model_type="llama4_text", intermediate_size_mlp=f.INTER * 2),
        "R R X R R R R",
        "mlp-width",
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
        "R R R U U S U",
        "mrope",
    ),
    "multimodal RoPE, old word for its type": (
        f.universal(rope_scaling={"type": "mrope", "mrope_section": [1, 1, 0]}),
        "R R R U U S U",
        "mrope",
    ),
    "heads rotated in part": (
        f.universal(rope_scaling={"rope_type": "default", "partial_rotary_factor": 0.5}),
        "R R S U U U S",
        "partial-rotary",
    ),
}
