"""Verdicts that depend on the target: SGLang's rules per model, depth, context length, and an unknown target."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from support import outlines as f
from support.versions import LLAMACPP, SGLANG, SGLANG_JAX, TRTLLM, TRTLLM_NEXT, VLLM, VLLM_NEXT

from eagle3hub.engines.preflight import ExaminedHead, PreflightVerdict, engines_serving, preflight, preflight_all
from eagle3hub.errors import UsageError
from eagle3hub.head.target import read_target

V1, V2, SG = ("vllm", f"{VLLM} V1"), ("vllm", f"{VLLM} V2"), ("sglang", SGLANG)
T1, T2, JAX, CPP = ("trtllm", TRTLLM), ("trtllm", TRTLLM_NEXT), ("sglang_jax", SGLANG_JAX), ("llamacpp", LLAMACPP)


def nested(listed: list[int], boundaries: tuple[int, ...]) -> ExaminedHead:
    return f.universal(
        boundaries,
        eagle_aux_hidden_state_layer_ids="DELETE",
        eagle_config=f.eagle_config(listed),
        truth={"boundaries": boundaries},
    )


def sglang(subject: ExaminedHead, kind: str, **target) -> PreflightVerdict:
    return preflight(subject, *SG, f.target(kind, **target))


def codes(verdict: PreflightVerdict) -> set[str]:
    return {r.code for r in verdict.reasons}


@pytest.mark.parametrize(
    "kind", ["deepseek_v2", "deepseek_v3", "deepseek_v32", "glm4_moe_lite", "glm_moe_dsa", "kimi_k2", "kimi_k25"]
)
def test_sglang_deepseek_family_shifts_only_if_the_first_id_is_1(kind: str):
    assert sglang(nested([1, 14, 26], (2, 15, 27)), kind).kind == "right"
    late = sglang(nested([3, 9, 20], (4, 10, 21)), kind)
    assert late.kind == "silently_wrong"
    assert "3, 9, 20 instead of 4, 10, 21, one too early" in late.reasons[0].sentence
    assert sglang(nested([4, 10, 21], (4, 10, 21)), kind).kind == "right"
    assert sglang(nested([1, 10, 21], (1, 10, 21)), kind).kind == "silently_wrong"
    assert sglang(nested([3, 9, 20], (4, 10, 21)), "llama").kind == "right"


def test_sglang_gpt_oss_reads_a_list_that_reaches_the_last_layer_as_boundaries():
    assert sglang(nested([1, 17, 32], (2, 18, 33)), "gpt_oss", layers=36).kind == "right"
    assert sglang(nested([2, 18, 36], (2, 18, 36)), "gpt_oss", layers=36).kind == "right"
    assert sglang(nested([1, 17, 35], (2, 18, 36)), "gpt_oss", layers=36).kind == "right"
    assert sglang(nested([1, 17, 35], (2, 18, 36)), "llama", layers=36).kind == "refuses"


@pytest.mark.parametrize(
    ("head", "theirs", "said"),
    [
        ("bfloat16", "bfloat16", None),
        ("float16", "bfloat16", "serves the head in float16 and its target in bfloat16, and stops at fc"),
        ("torch.bfloat16", "float16", "serves the head in bfloat16 and its target in float16"),
        ("float32", "bfloat16", r"in float16 (its config states float32) and its target in bfloat16"),
        ("DELETE", "bfloat16", r"in float16 (its config states no dtype) and its target in bfloat16"),
        ("float32", "float16", None),
        ("float16", "float32", None),
        ("float16", None, None),
        ("auto", "float16", None),
    ],
)
def test_sglang_gives_each_model_the_dtype_of_its_own_config(head: str, theirs: str | None, said: str | None):
    subject, target = f.universal(torch_dtype=head), replace(f.target(), dtype=theirs)
    for verdict in preflight_all(subject, target):
        found = next((r for r in verdict.reasons if r.code == "dtype-apart"), None)
        if said is None or verdict.engine != "sglang":
            assert found is None, verdict
        else:
            assert found is not None and said in found.sentence, verdict
            assert found.hint == f"serve both with --dtype {theirs}, as eagle3hub recipe prints it"
            assert (verdict.kind, verdict.with_settings([found.hint]).kind, verdict.on_files.kind) == (
                "refuses",
                "right",
                "right",
            )


def test_sglang_sets_the_dtype_of_some_targets_and_of_their_drafts():
    subject, target = f.universal(torch_dtype="float16"), replace(f.target(), dtype="bfloat16")
    for name, kind in (("GptOssForCausalLM", "right"), ("Qwen3ForCausalLM", "refuses")):
        assert preflight(subject, *SG, replace(target, architectures=(name,))).kind == kind


def test_sglang_serves_gemmas_of_float32_in_bfloat16():
    target = replace(f.target("gemma3_text", fields={"model_type": "gemma3_text"}), dtype="float32")
    codes_of = {name: codes(preflight(f.universal(torch_dtype=name), *SG, target)) for name in ("bfloat16", "float16")}
    assert [name for name, found in codes_of.items() if "dtype-apart" in found] == ["float16"]


def test_sglang_minimax_m3_vl_has_another_default():
    assert sglang(f.specforge(), "minimax_m3_vl").kind == "right", "nothing names the layers it was trained on"
    named = f.universal(eagle_config="DELETE")
    verdict = sglang(named, "minimax_m3_vl")
    assert verdict.kind == "silently_wrong"
    assert "3, 16, 28 instead of 2, 15, 27, one too late" in verdict.reasons[0].sentence
    assert sglang(named, "minimax_m3").kind == "right"


@pytest.mark.parametrize("kind", ["gemma4", "gemma4_text", "minimax_m3", "minimax_m3_vl"])
def test_targets_of_which_sglang_reaches_the_last_layer(kind: str):
    subject = nested([1, 14, 29], (2, 15, 30))
    assert sglang(subject, kind).kind == "right"
    assert codes(sglang(subject, "qwen3")) >= {"aux-range"}
    assert "stops, for some targets at start" in sglang(subject, "qwen3_next").reasons[0].sentence


@pytest.mark.parametrize("kind", ["gemma3", "gemma3_text"])
def test_sglang_captures_no_states_of_gemma_3(kind: str):
    verdict = sglang(f.universal(), kind)
    assert verdict.kind == "silently_wrong"
    assert verdict.reasons[0].sentence.startswith(f"captures what a layer of a target of type {kind} adds, without")


def test_default_layers_that_coincide_are_refused():
    for layers in (5, 6):
        subject = f.subject(f.config(), f.shapes("midlayer."), truth={"boundaries": None})
        for verdict in preflight_all(subject, f.target(layers=layers)):
            if verdict.engine == "llamacpp":  # takes a state twice that is listed twice
                assert verdict.kind == "right"
                continue
            assert verdict.kind == "refuses", verdict.title
            assert "aux-count" in codes(verdict) or verdict.version == "0.0.2"
    assert preflight(subject, *V1, f.target(layers=8)).kind == "right"


def test_targets_an_engine_does_not_draft_for():
    assert codes(preflight(f.universal(), *JAX, f.target("qwen2"))) >= {"target-type"}
    assert preflight(f.universal(), *JAX, f.target("qwen3")).kind == "right"
    assert preflight(f.universal(), *T2, f.target("qwen2")).kind == "refuses"
    assert preflight(f.universal(), *V1, f.target("qwen2")).kind == "right"


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("llama", "R R R R R R R"),
        ("olmo2", "R R X U U X U"),
        ("opt", "X X X U U X U"),
        ("mamba2", "X X X U U X U"),
        ("gemma3", "X X S U U X U"),
        ("mixtral", "X X X U U X U"),
        ("gemma4", "R R R X X X R"),
        ("qwen3_5", "R R R X R X U"),
        ("kimi_k25", "R R R X R X U"),
        ("minimax_m3", "R R R X R X U"),
        ("kimi_k2", "R R R R R X U"),
        ("phi3", "R R R U U U U"),
        ("unheard_of", "U U U U U X U"),
        ("", "R R R R R R R"),
    ],
)
def test_each_engine_drafts_for_targets_whose_class_hands_out_its_layers(kind: str, expected: str):
    effects = {"right": "R", "unknown": "U", "refuses": "X", "silently_wrong": "S"}
    beside = ("0.0.2", f"{VLLM_NEXT} V1", f"{VLLM_NEXT} V2")
    found = [v for v in preflight_all(f.universal(), f.target(kind)) if v.version not in beside]
    assert " ".join(effects[v.kind] for v in found) == expected
    said = {r.code: r.sentence for v in found for r in v.reasons}
    if "U" in expected:
        assert said["target-unchecked"] == f"may not draft for targets of type {kind}: this was not checked"


@pytest.mark.parametrize("kind", ["granitemoe", "granitemoe_swa", "granitemoeshared"])
def test_vllms_next_version_drafts_for_more_targets(kind: str):
    for runner in ("V1", "V2"):
        assert preflight(f.universal(), "vllm", f"{VLLM} {runner}", f.target(kind)).kind == "refuses"
        assert preflight(f.universal(), "vllm", f"{VLLM_NEXT} {runner}", f.target(kind)).kind == "right"


def test_a_head_of_the_final_hidden_state_needs_no_layer_of_its_target():
    head = f.modelopt_without_aux(2 * f.H)
    assert preflight(head, *V1, f.target("opt")).kind == preflight(head, *SG, f.target("opt")).kind == "right"
    assert codes(preflight(head, *T2, f.target("qwen2"))) >= {"target-type"}


def test_another_target_settles_nothing():
    for verdict in preflight_all(f.universal(), f.target(hidden_size=16)):
        if verdict.version != "0.0.2":
            assert verdict.kind == "unknown"
            assert codes(verdict) >= {"target-mismatch"}


def kinds_without_target(subject: ExaminedHead) -> dict[tuple[str, str], str]:
    return {(v.engine, v.version): v.kind for v in preflight_all(subject)}


def test_without_a_target_what_depends_on_it_is_unknown_and_the_rest_is_not():
    found = kinds_without_target(f.universal())
    assert found[V1] == found[V2] == found[CPP] == "right", "they read ids that are there"
    assert found[SG] == found[T1] == found[T2] == found[JAX] == "unknown"
    other = kinds_without_target(f.universal((4, 10, 21)))
    assert other[T2] == other[JAX] == "silently_wrong", "no target has these as its default"
    unnamed = kinds_without_target(f.specjax())
    assert unnamed[T2] == unnamed[JAX] == unnamed[V2] == "right", "the trainer's default is the engine's"


def test_without_a_target_sglang_is_unknown_for_its_context_and_its_numbering():
    plain = preflight(f.universal(), *SG)
    assert codes(plain) >= {"context-unknown"}
    assert "aux-numbering" not in codes(plain), "a list that begins with 1 means the same to every target"
    assert codes(preflight(f.universal((4, 10, 21)), *SG)) >= {"aux-numbering"}


def test_a_context_the_target_does_not_state_is_unknown():
    assert preflight(f.universal(), *SG, f.target(context=None)).kind == "unknown"
    assert preflight(f.universal(max_position_embeddings=100), *SG, f.target(context=100)).kind == "right"


def test_an_engine_version_without_a_contract_is_a_usage_error():
    with pytest.raises(UsageError, match="no contract describes vllm 9"):
        preflight(f.universal(), "vllm", "9.0 V9")


@pytest.mark.parametrize(("kind", "assumed"), [("eagle3", True), ("peagle", False)])
def test_vllm_assumes_norm_before_residual_for_eagle3_of_speculators_only(kind: str, assumed: bool):
    head = f.speculators(speculators_model_type=kind, norm_before_residual="DELETE")
    assert ("norm-before-residual-assumed" in codes(preflight(head, *V1, f.target()))) == assumed


def test_a_type_that_came_after_a_version_is_called_newer():
    verdict = preflight(f.universal(), *T1, f.target("minimax_m3"))
    assert verdict.reasons[0].sentence == "does not know targets of type minimax_m3: they came after this version"
    assert "target-newer" not in codes(preflight(f.universal(), *T2, f.target("minimax_m3")))


def test_a_target_whose_lm_head_is_its_embeddings_stops_sglang_jax():
    tied = f.target("qwen3", fields={"tie_word_embeddings": True})
    assert codes(preflight(f.universal(), *JAX, tied)) >= {"target-tied"}
    for engine in (V1, V2, SG, T1, T2, CPP):
        assert "target-tied" not in codes(preflight(f.universal(), *engine, tied))
    assert engines_serving(["vllm", "sglang_jax"], tied)["vllm"] is None
    assert "tie_word_embeddings" in (engines_serving(["sglang_jax"], tied)["sglang_jax"] or "")
    assert engines_serving(["sglang_jax"], f.target("qwen3"))["sglang_jax"] is None


def test_a_target_whose_scaling_sglang_jax_leaves_out_is_not_served_by_it():
    scaled = f.target(fields={"rope_theta": 1e6, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}})
    verdict = preflight(f.universal(), *JAX, scaled)
    assert (verdict.kind, verdict.on_files.kind) == ("silently_wrong", "right")
    assert verdict.reasons[0].sentence == "computes the target itself without its RoPE scaling of type llama3"
    for engine in (V1, V2, SG, T1, T2, CPP):
        assert "target-rope-scaling" not in codes(preflight(f.universal(), *engine, scaled))
    served = engines_serving(["vllm", "sglang_jax"], scaled)
    assert (served["vllm"], served["sglang_jax"]) == (None, verdict.reasons[0].sentence)
    plain = f.target(fields={"rope_theta": 1e6, "rope_scaling": {"rope_type": "yarn", "factor": 8.0}})
    assert engines_serving(["sglang_jax"], plain)["sglang_jax"] is None


def test_a_tokenizer_of_transformers_5_stops_sglang_jax(target: Path):
    assert read_target(target).tokenizer_class is None
    for named, refused in (("TokenizersBackend", True), ("PreTrainedTokenizerFast", False), (7, False)):
        (target / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": named}))
        known = replace(f.target(), tokenizer_class=read_target(target).tokenizer_class)
        verdict = preflight(f.universal(), *JAX, known)
        assert (verdict.kind == "refuses") == refused
        assert ("target-tokenizer" in codes(verdict)) == refused
        assert verdict.on_files.kind != "refuses", "no file of a head mends it"
        for engine in (V1, V2, SG, T1, T2, CPP):
            assert "target-tokenizer" not in codes(preflight(f.universal(), *engine, known))


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, True),
        ({"rope_scaling": {"rope_type": "default", "rope_theta": 5e5}}, True),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}, "rope_theta": 5e5}, False),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}, False),
        ({"rope_theta": 5e5}, False),
        ({}, False),
    ],
)
def test_a_target_saved_by_transformers_5_has_another_base_for_older_engines(fields: dict, wrong: bool):
    for engine in (T1, JAX):
        verdict = preflight(f.universal(), *engine, f.target(fields=fields))
        assert ("target-rope" in codes(verdict)) == wrong
        assert (verdict.kind == "silently_wrong") == wrong
    for engine in (V1, V2, SG, T2, CPP):
        assert "target-rope" not in codes(preflight(f.universal(), *engine, f.target(fields=fields)))
    assert "target-rope" not in codes(preflight(f.universal(), *T1, f.target("gpt_oss", fields=fields)))


@pytest.mark.parametrize(
    ("devices", "changes", "uneven"),
    [
        (2, {}, ""),
        (4, {}, "2 attention heads"),
        (4, {"num_attention_heads": 4, "num_key_value_heads": 2}, ""),
        (3, {"num_attention_heads": 6, "num_key_value_heads": 2}, "2 KV heads"),
        (2, {"num_attention_heads": 6, "num_key_value_heads": 3}, "3 KV heads"),
        (8, {"num_attention_heads": 8, "num_key_value_heads": 1}, "12 intermediate sizes"),
        (5, {}, "2 attention heads and 12 intermediate sizes"),
    ],
)
def test_sizes_that_do_not_divide_by_the_devices(devices: int, changes: dict, uneven: str):
    for engine in (V1, V2, SG):
        verdict = preflight(f.universal(head_dim=f.DIM, **changes), *engine, f.target(), tensor_parallel=devices)
        said = [r.sentence for r in verdict.reasons if r.code == "tensor-parallel"]
        assert bool(said) == bool(uneven)
        assert all(f"over {devices} devices: it has {uneven}" in sentence for sentence in said)


def test_vllm_33_feeds_the_final_hidden_state_on_both_runners_and_keeps_a_yarn_heads_context():
    head = f.modelopt_without_aux(2 * f.H)
    assert preflight(head, *V2, f.target()).kind == "refuses"
    assert preflight(head, "vllm", "0.33.0 V2", f.target()).kind == "right"
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}
    short = f.universal(rope_scaling=yarn, max_position_embeddings=2048)
    verdict = preflight(short, "vllm", "0.33.0 V2", f.target())
    assert verdict.kind == "right"
    assert (
        "serves the head's context of 2048 tokens" in {r.code: r.sentence for r in verdict.reasons}["context-lowered"]
    )
    assert "context-lowered" not in codes(preflight(short, *V2, f.target()))
    assert preflight(f.universal(), "vllm", "0.33.0 V1", f.target("granitemoe")).kind == "right"
