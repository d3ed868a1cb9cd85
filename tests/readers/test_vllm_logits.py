"""vLLM's own draft model classes, loaded by vLLM's own loader, give the reference's logits.

speculators, SpecForge, ModelOpt and SpecJAX are held against the reference by the fixtures of tests/exporters.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support import variants
from support.variants import Has

from eagle3hub.conversion.plan import ConvertOptions
from eagle3hub.conversion.run import convert
from eagle3hub.layouts import open_head
from eagle3hub.layouts.base import ReadOptions
from eagle3hub.reference import model as model_module
from eagle3hub.reference.model import load_draft, rotate
from readers.engine_logits import CLOSE, DEEP, LATENT, D, Ran, compare, inputs, reference, run, soften, write_target

pytestmark = pytest.mark.engine

WINDOW = {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 4, "use_sliding_window": True}
LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
SCALED = {"rope_theta": 1e4, "original_max_position_embeddings": 16}
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "full vocabulary": {"d": {**D, "draft": D["vocab"]}, "draft_vocab_size": D["vocab"]},
    "unsorted vocabulary": {"unsorted": True},
    "norm before residual": {"norm_before_residual": True},
    "norm before fc": {"has": Has(input_norm=True)},
    "fc norm": {"has": Has(fc_norm=True)},
    "norm output": {"norm_output": True},
    "attention bias": {"has": Has(attention_bias=True)},
    "two layers": {"has": Has(layers=2), "norm_before_residual": True},
    "window": {"has": Has(layers=2), "layer": WINDOW},
    "q/k norm": {"has": Has(qk_norm=True), "norm_before_residual": True},
    "q/k norm, window, norm output": {"has": Has(layers=2, qk_norm=True), "layer": WINDOW, "norm_output": True},
    "own embeddings": {"has": Has(embeddings=True)},
    "large eps": {"layer": {"rms_norm_eps": 1e-2}},
    "theta": {"layer": {"rope_parameters": {"rope_type": "default", "rope_theta": 300.0}}},
    "llama3 rope": {"layer": {"rope_parameters": {**LLAMA3, **SCALED}}},
    "yarn rope": {"layer": {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, **SCALED}}},
    "parallel": {"has": Has(mask_hidden=True, input_norm=True)},
}
# MLA heads, flat: vLLM reads no nested config as one
MLA_KINDS: dict[str, dict[str, Any]] = {
    "mla": {},
    "mla, two layers": {"has": Has(mla=True, layers=2)},
    "mla, fc norm, norm output": {"has": Has(mla=True, fc_norm=True), "norm_output": True},
    "mla, full vocabulary": {"d": {**LATENT, "draft": D["vocab"]}, "draft_vocab_size": D["vocab"]},
    "mla, own embeddings": {"has": Has(mla=True, embeddings=True)},
    "mla, large eps": {"rms_norm_eps": 1e-2},
    "mla, theta": {"rope_theta": 300.0},
    "mla, deepseek_v2": {"model_type": "deepseek_v2"},
    "mla, yarn": {"rope_scaling": {**DEEP, "mscale": 1.0, "mscale_all_dim": 1.0}},
    "mla, yarn of DeepSeek-V2": {"rope_scaling": {**DEEP, "mscale": 0.9, "mscale_all_dim": 0.707}},
    "mla, yarn without all dims": {"rope_scaling": {**DEEP, "mscale": 0.5, "mscale_all_dim": 0.0}},
    "mla, yarn without mscale": {"rope_scaling": DEEP},
    "mla, yarn in rope_parameters": {
        "rope_theta": "DELETE",
        "rope_parameters": {**DEEP, "mscale": 1.0, "mscale_all_dim": 1.0, "rope_theta": 700.0},
    },
}


# P-EAGLE heads as the method's authors publish them, in no trainer's layout; without a bias on o as converted, since
# vLLM leaves that bias as memory was
FLAT_KINDS: dict[str, bool] = {"P-EAGLE of its authors": True, "P-EAGLE without a bias on o": False}


def authors(folder: Path, output_bias: bool) -> Path:
    has = Has(layers=2, mask_hidden=True, attention_bias=True, embeddings=True)
    more = {"attention_bias": True, "parallel_drafting": True, "ptd_token_id": 7, "num_hidden_layers": 2}
    source = variants.specforge(folder, D, has, **more, architectures=["LlamaForCausalLMEagle3"])
    variants.renamed(source, lambda n: n.replace("layers.0.", "midlayer."), {"format": "pt"})
    variants.replace(source, {"format": "pt"}, mask_hidden=variants.tensors_of(source)["mask_hidden"].flatten())
    if output_bias:
        return source
    gone = dict.fromkeys(n for n in variants.tensors_of(source) if n.endswith("o_proj.bias"))
    variants.replace(source, {"format": "pt"}, **gone)
    options = ConvertOptions(target_name="owner/target", speculative_tokens=3)
    convert(source, folder / "converted", "speculators", options)
    return folder / "converted"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vllm-logits")


@pytest.fixture(scope="module")
def embeddings(work: Path) -> torch.Tensor:
    return write_target(work / "target")


@pytest.fixture(scope="module")
def folders(work: Path) -> dict[str, Path]:
    out = {}
    for name, kind in KINDS.items():
        options = {"d": D, "has": Has(), **kind}
        out[name] = soften(variants.speculators(work / name.replace("/", " "), **options))
    for name, kind in MLA_KINDS.items():
        options = {"d": LATENT, "has": Has(mla=True), "mlp_bias": False, "bos_token_id": 1, **kind}
        make = variants.modelopt
        if options["has"].fc_norm:  # which ModelOpt does not train with, and SpecForge does
            make, own = variants.specforge, {"architectures": ["Eagle3DeepseekV2ForCausalLM"], "model_type": "kimi_k2"}
            options = {k: v for k, v in options.items() if k in ("d", "has", "norm_output")} | own
        out[name] = soften(make(work / name, **options))
    for name, output_bias in FLAT_KINDS.items():
        out[name] = soften(authors(work / name, output_bias))
    return out


@pytest.fixture(scope="module")
def ran(work: Path, folders: dict[str, Path], embeddings: torch.Tensor, vllm_python: Path) -> Ran:
    env = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    return run(vllm_python, "vllm_logits.py", folders, work / "target", work, **env)


@pytest.mark.parametrize("name", KINDS)
def test_the_logits_are_vllms(ran: Ran, folders: dict[str, Path], embeddings: torch.Tensor, name: str):
    assert ran.classes[name] == ("Eagle3Qwen3ForCausalLM" if "q/k norm" in name else "Eagle3LlamaForCausalLM")
    compare(open_head(folders[name]), embeddings, ran, name)


@pytest.mark.parametrize("name", FLAT_KINDS)
def test_the_logits_of_heads_without_a_trainer_are_vllms(
    ran: Ran, folders: dict[str, Path], embeddings: torch.Tensor, name: str
):
    head = open_head(folders[name])
    assert (head.layout, head.semantics.parallel_drafting) == ("flat" if FLAT_KINDS[name] else "speculators", True)
    compare(head, embeddings, ran, name)


@pytest.mark.parametrize("name", MLA_KINDS)
def test_the_logits_of_mla_heads_are_vllms(
    ran: Ran, folders: dict[str, Path], embeddings: torch.Tensor, name: str, monkeypatch: pytest.MonkeyPatch
):
    assert ran.classes[name] == "Eagle3DeepseekV2ForCausalLM"
    post = "post" if "norm_output" in MLA_KINDS[name] else None
    head = open_head(folders[name], options=ReadOptions(norm_output=post))
    assert head.semantics.attention == "mla"
    compare(head, embeddings, ran, name)
    model, given, theirs = load_draft(head, embeddings), inputs(name), ran.tensors[f"{name}/draft"]
    scaled = (head.semantics.rope.scaling or {}).get("mscale_all_dim")
    for rule, wrong in (("rotate_neighbours", rotate), *((("mla_weight", lambda *_: 1.0),) if scaled else ())):
        with monkeypatch.context() as other:
            other.setattr(model_module, rule, wrong)
            assert not torch.allclose(reference(model, given)["draft"], theirs, **CLOSE), rule
