"""P-EAGLE heads of every producer: known by their tensors, whatever their class, names and keys are called."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support import heads, variants
from support.variants import Has, config_of, edit, tensors_of

from eagle3hub.checkpoint.folder import open_checkpoint
from eagle3hub.conversion.plan import ConvertOptions
from eagle3hub.conversion.run import convert
from eagle3hub.engines.preflight import examine, preflight
from eagle3hub.engines.specs import default_version
from eagle3hub.errors import InputError
from eagle3hub.head.target import read_target
from eagle3hub.layouts import ReadOptions, open_head
from eagle3hub.reference.model import Everywhere, load_draft

V1 = f"{default_version('vllm')} V1"

Cli = Callable[..., tuple[int, str, str]]
TOKEN = 7
AUTHORS = {
    "architectures": ["LlamaForCausalLMEagle3"],
    "hidden_act": "silu",
    "max_position_embeddings": 8192,
    "parallel_drafting": True,
    "ptd_token_id": TOKEN,
    "eagle_aux_hidden_state_layer_ids": [2, 15, 27],
}


def peagle(
    folder: Path, *, without_o: bool = False, midlayer: bool = False, bias: bool = False, **config: Any
) -> Path:
    """A head as the authors of P-EAGLE publish one."""
    d = heads.dims()
    has = Has(layers=2, mask_hidden=True, embeddings=True, attention_bias=bias)
    tensors = {**variants.weights(d, has), **heads.buffers(heads.sorted_ids(d), d["vocab"])}
    if without_o:
        tensors = {n: t for n, t in tensors.items() if not n.endswith("o_proj.bias")}
    if midlayer:
        tensors = {n.replace("layers.0.", "midlayer."): t for n, t in tensors.items()}
    extra = {**AUTHORS, "num_hidden_layers": 2, "attention_bias": bias, **config}
    return heads.write(folder, tensors, {k: v for k, v in heads.flat_config(d, **extra).items() if v is not None})


@pytest.mark.parametrize("midlayer", [False, True])
@pytest.mark.parametrize(
    "architecture", ["LlamaForCausalLMEagle3", "PeagleLlamaForCausalLM", "LlamaForCausalLMPeagle"]
)
def test_tensors_tell_whatever_the_class_is_called(tmp_path: Path, architecture: str, midlayer: bool):
    source = peagle(tmp_path / "x", midlayer=midlayer, architectures=[architecture], parallel_drafting=None)
    head = open_head(source)
    assert (head.layout, head.semantics.parallel_drafting, head.semantics.num_layers) == ("flat", True, 2)
    assert set(head.tensors) >= {"mask_hidden", "layers.0.hidden_norm.weight", "layers.1.input_layernorm.weight"}


def test_specforge_makes_neither_biases_nor_midlayer_names(tmp_path: Path):
    """The class that its P-EAGLE heads have is registered in vLLM, so that others use the name too."""
    named = {"architectures": ["PEagleDraftModel"]}
    assert open_head(peagle(tmp_path / "plain", **named)).layout == "specforge"
    assert open_head(peagle(tmp_path / "midlayer", midlayer=True, **named)).layout == "flat"
    assert open_head(peagle(tmp_path / "bias", bias=True, **named)).layout == "flat"
    assert open_head(tmp_path / "midlayer", layout="specforge").semantics.parallel_drafting


def test_specforges_parallel_drafts_are_trained_without_the_scaling_they_state(tmp_path: Path):
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}
    source = peagle(tmp_path / "x", architectures=["PEagleDraftModel"], rope_scaling=yarn)
    head = open_head(source)
    assert (head.layout, head.semantics.rope.scaling) == ("specforge", None)
    assert [a.why for a in head.assumptions if a.field == "rope_scaling"] == [
        "SpecForge P-EAGLE ignores the scaling in rope_scaling of config.json: the head was trained without it"
    ]
    facts = read_target(heads.target(tmp_path / "target"))
    based = edit(source, rope_theta=5e5, transformers_version="4.57.1")
    assert "rope_theta" not in {a.field for a in open_head(based).assumptions}
    verdict = preflight(examine(open_checkpoint(source), head), "vllm", V1, facts)
    assert "rope-scaling" in {r.code for r in verdict.reasons}
    convert(source, tmp_path / "same", "specforge")
    assert "rope_scaling" not in config_of(tmp_path / "same")
    with pytest.raises(InputError, match="SpecForge's P-EAGLE drafts know no RoPE scaling"):
        convert(peagle(tmp_path / "y", rope_scaling=yarn), tmp_path / "out", "specforge")


@pytest.mark.parametrize("leading", [(), (1,), (1, 1)])
def test_the_masked_features_are_a_vector_however_they_are_kept(tmp_path: Path, leading: tuple[int, ...]):
    source = peagle(tmp_path / "x")
    vector = tensors_of(source)["mask_hidden"].flatten()
    variants.replace(source, mask_hidden=vector.reshape(*leading, -1).clone())
    convert(source, tmp_path / "out", "speculators", ConvertOptions(target_name="owner/t", speculative_tokens=3))
    written = tensors_of(tmp_path / "out")["mask_hidden"]
    assert written.shape == (1, 1, vector.numel())  # as speculators' own model has it
    assert torch.equal(written.flatten(), vector)
    variants.replace(source, mask_hidden=vector.reshape(2, -1).clone())
    with pytest.raises(InputError, match="mask_hidden is"):
        open_head(source)


@pytest.mark.parametrize(
    ("keys", "token"),
    [
        ({"mask_token_id": 5}, 5),
        ({"ptd_token_id": 5}, 5),
        ({"pard_token": 5}, 5),
        ({"ptd_token_id": 4, "pard_token": 5}, 5),
        ({"ptd_token_id": 4, "pard_token": 3, "mask_token_id": 5}, 5),
        ({"ptd_token_id": 0}, 0),
        ({}, None),
    ],
)
def test_the_masked_token_is_the_one_that_vllm_takes(tmp_path: Path, keys: dict[str, int], token: int | None):
    source = peagle(tmp_path / "x", **{"ptd_token_id": None, **keys})
    head = open_head(source, target=heads.target(tmp_path / "target"))
    assert head.mask_token_id == token
    verdict = preflight(
        examine(open_checkpoint(source), head),
        "vllm",
        V1,
        read_target(tmp_path / "target"),
    )
    assert ("no-mask-token" in {r.code for r in verdict.reasons}) == (token is None)
    options = ConvertOptions(target_name="owner/t", speculative_tokens=3)
    if token is None:
        with pytest.raises(InputError, match="the token that stands for positions not drafted yet"):
            convert(source, tmp_path / "out", "speculators", options)
        return
    convert(source, tmp_path / "out", "speculators", options)
    assert config_of(tmp_path / "out")["mask_token_id"] == token


def test_another_masked_token_leaves_none_of_the_old_keys(tmp_path: Path):
    source = peagle(tmp_path / "x", architectures=["PEagleDraftModel"])
    convert(source, tmp_path / "out", "specforge", ConvertOptions(read=ReadOptions(mask_token_id=5)))
    config = config_of(tmp_path / "out")
    assert {k: config.get(k) for k in ("mask_token_id", "ptd_token_id")} == {"mask_token_id": 5, "ptd_token_id": None}


def test_a_bias_that_only_o_lacks_is_written_as_zeros(tmp_path: Path):
    """vLLM builds all four where attention_bias is true, and leaves the one that no tensor fills as memory was."""
    source = peagle(tmp_path / "x", without_o=True, bias=True)
    head = open_head(source, target=heads.target(tmp_path / "target"))
    subject, facts = examine(open_checkpoint(source), head), read_target(tmp_path / "target")
    verdict = preflight(subject, "vllm", V1, facts).with_settings(["parallel_drafting"])
    assert (verdict.kind, verdict.reasons[0].code) == ("silently_wrong", "o-proj-bias")
    convert(source, tmp_path / "out", "speculators", ConvertOptions(target_name="owner/t", speculative_tokens=3))
    added = set(tensors_of(tmp_path / "out")) - set(tensors_of(source))
    assert added == {f"layers.{i}.self_attn.o_proj.bias" for i in (0, 1)}
    for name in added:
        bias = tensors_of(tmp_path / "out")[name]
        assert (bias.dtype, bias.shape, bias.any()) == (torch.bfloat16, (heads.DIMS["hidden"],), torch.tensor(False))
    back = open_head(tmp_path / "out", target=heads.target(tmp_path / "target2"))
    ids = torch.arange(6)[None]
    draft, again = load_draft(head), load_draft(back)
    features = draft.features(torch.randn(1, 6, 3 * heads.DIMS["hidden"], dtype=torch.bfloat16))
    outputs = [
        m.logits(m.hidden(features, ids, torch.arange(6)[None], Everywhere(m.windows).shared)) for m in (draft, again)
    ]
    assert torch.equal(*outputs)
    verdict = preflight(examine(open_checkpoint(tmp_path / "out"), back), "vllm", V1, facts)
    assert verdict.with_settings(["parallel_drafting"]).kind == "right"


def test_a_bias_that_one_layer_lacks_is_missing(tmp_path: Path):
    source = peagle(tmp_path / "x", bias=True)
    variants.replace(source, **{"layers.1.self_attn.o_proj.bias": None})
    with pytest.raises(InputError, match=r"lacks layers\.1\.self_attn\.o_proj\.bias"):
        open_head(source)
    variants.replace(source, **{"layers.0.self_attn.o_proj.bias": None, "layers.1.self_attn.q_proj.bias": None})
    with pytest.raises(InputError, match=r"lacks layers\.1\.self_attn\.q_proj\.bias"):
        open_head(source)


def test_a_class_of_its_own_without_masked_features_lacks_them(tmp_path: Path):
    source = peagle(tmp_path / "x", architectures=["PeagleLlamaForCausalLM"])
    variants.replace(source, mask_hidden=None)
    with pytest.raises(InputError, match="lacks mask_hidden"):
        open_head(source)


def test_the_recipe_says_that_it_drafts_in_parallel(tmp_path: Path, cli: Cli):
    target = heads.target(tmp_path / "target")
    folders = {True: peagle(tmp_path / "parallel"), False: heads.universal(tmp_path / "serial")}
    for parallel, source in folders.items():
        said = json.loads(cli("recipe", source, "--target", target, "--engine", "vllm", "--json")[1])
        words = shlex.split(said["server_command"])
        config = json.loads(words[words.index("--speculative-config") + 1])
        assert config.get("parallel_drafting", False) is parallel
        assert ("'parallel_drafting': True" in said["python"]) is parallel
        assert {v["verdict"] for v in said["preflight"]} == {"right"}
        shown = cli("inspect", source, "--target", target)[1]
        assert ("unless told to draft in parallel" in shown) is parallel
