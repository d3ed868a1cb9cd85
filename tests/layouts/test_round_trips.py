"""There and back through any layout: byte-equal or refused, never different."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from support import heads, variants
from support.sampling import examples
from support.variants import Has, config_of

from eagle3hub.conversion.plan import ConvertOptions
from eagle3hub.conversion.run import convert
from eagle3hub.errors import Refusal
from eagle3hub.layouts import LAYOUTS, open_head

DTYPES = [torch.bfloat16, torch.float16, torch.float32]


def there_and_back(source: Path, work: Path, a: str, b: str, target: Path) -> str:
    """``equal`` or the code of the refusal; anything else is a failure."""
    try:
        convert(source, work / "b", b, ConvertOptions(target=str(target), speculative_tokens=3))
    except Refusal as e:
        return e.code
    convert(work / "b", work / "back", a)
    assert (work / "back/model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()
    assert config_of(work / "back") == config_of(source)
    return "equal"


@settings(max_examples=examples(1.2), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    layers=st.sampled_from([1, 1, 1, 2, 3]),
    aux=st.sampled_from([3, 3, 3, 2, 4]),
    bias=st.booleans(),
    fc_bias=st.sampled_from([False, False, True]),
    input_norm=st.sampled_from([False, False, True]),
    final=st.sampled_from([False, False, False, True]),
    draft=st.sampled_from([10, 17, 40]),
    unsorted=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    names=st.sampled_from(["layers", "midlayer", "megatron", "prefixed"]),
    mla=st.sampled_from([None, None, None, True, False]),
    b=st.sampled_from(sorted(LAYOUTS)),
)
def test_modelopt_heads(
    tmp_path_factory, layers, aux, bias, fc_bias, input_norm, final, draft, unsorted, dtype, names, mla, b
):
    work = tmp_path_factory.mktemp("trip")
    has = Has(
        layers=layers,
        attention_bias=bias,
        fc_bias=fc_bias and not final,
        input_norm=input_norm and not final,
        uses_aux=not final,
        mla=mla is not None,
        q_lora=mla is not False,
    )
    d = heads.dims(aux=aux, draft=draft)
    source = variants.modelopt(work / "a", d, has, unsorted=unsorted, dtype=dtype)
    if names == "prefixed":
        variants.renamed(source, lambda n: f"model.{n}")
    elif names != "layers":
        style = "midlayer." if layers == 1 else "midlayer.0."
        variants.renamed(source, lambda n: n.replace("layers.0.", style).replace("layers.", "midlayer."))
    if names == "megatron":
        variants.renamed(source, lambda n: n.replace("1.input_layernorm", "1.hidden_norm"), {"format": "pt"})
    if b != "modelopt":
        event(there_and_back(source, work, "modelopt", b, heads.target(work / "target", d)))


@settings(max_examples=examples(1.2), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    layers=st.sampled_from([1, 1, 1, 2]),
    aux=st.sampled_from([3, 3, 3, 1, 4]),
    bias=st.sampled_from([False, False, True]),
    qk_norm=st.sampled_from([False, False, True]),
    norm=st.sampled_from(["", "", "input_norm", "fc_norm"]),
    parallel=st.sampled_from([False, False, True]),
    embeddings=st.booleans(),
    residual=st.sampled_from([False, False, True]),
    output=st.sampled_from([False, False, True]),
    sliding=st.sampled_from([False, False, True]),
    draft=st.sampled_from([10, 40]),
    unsorted=st.sampled_from([False, False, True]),
    dtype=st.sampled_from(DTYPES),
    b=st.sampled_from(sorted(set(LAYOUTS) - {"speculators"})),
)
def test_speculators_heads(
    tmp_path_factory, layers, aux, bias, qk_norm, norm, parallel, embeddings, residual, output, sliding, draft,
    unsorted, dtype, b,
):  # fmt: skip
    work = tmp_path_factory.mktemp("trip")
    has = Has(
        layers=layers,
        attention_bias=bias,
        qk_norm=qk_norm,
        input_norm=norm == "input_norm",
        fc_norm=norm == "fc_norm",
        mask_hidden=parallel,
        embeddings=embeddings,
    )
    window = {"use_sliding_window": True, "sliding_window": 16, "layer_types": ["sliding_attention"] * layers}
    layer = window if sliding else {}
    flags = {"norm_before_residual": residual, "norm_output": output}
    d = heads.dims(aux=aux, draft=draft)
    source = variants.speculators(work / "a", d, has, unsorted=unsorted, dtype=dtype, layer=layer, **flags)
    event(there_and_back(source, work, "speculators", b, heads.target(work / "target", d)))


@pytest.mark.parametrize("b", sorted(set(LAYOUTS) - {"specforge"}))
@pytest.mark.parametrize(
    "has", [Has(), Has(fc_norm=True), Has(embeddings=True), Has(mask_hidden=True, layers=2, embeddings=True)]
)
def test_specforge_heads(tmp_path: Path, target: Path, b: str, has: Has):
    source = variants.specforge(tmp_path / "a", has=has)
    outcome = there_and_back(source, tmp_path, "specforge", b, target)
    takes_embeddings = {name for name in LAYOUTS if "embed_tokens" in LAYOUTS[name].contract.expresses} - {"safeailab"}
    assert "angelslim" in takes_embeddings
    assert (outcome == "equal") == (
        has == Has()
        or (b == "speculators" and not has.mask_hidden)
        or (b in takes_embeddings and has == Has(embeddings=True))
    )


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
@pytest.mark.parametrize("draft", [10, 40])
def test_a_mask_of_integers_is_a_mask(tmp_path: Path, dtype: torch.dtype, draft: int):
    d = heads.dims(draft=draft)
    source = heads.specforge(tmp_path / "a", d)
    mask = variants.tensors_of(source)["t2d"]
    variants.replace(source, {"format": "pt"}, t2d=mask.to(dtype))
    target = heads.target(tmp_path / "target", d)
    assert there_and_back(source, tmp_path, "specforge", "angelslim", target) == "equal"
    convert(source, tmp_path / "same", "specforge")
    assert (tmp_path / "same/model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()
    assert torch.equal(variants.tensors_of(tmp_path / "b")["t2d"], mask)
    variants.replace(source, {"format": "pt"}, t2d=mask.to(dtype) * 2)
    assert [p.code for p in open_head(source).problems if p.severity == "error"] == ["vocab-t2d-values"]
    variants.replace(source, {"format": "pt"}, t2d=mask.float())
    assert [p.code for p in open_head(source).problems if p.severity == "error"] == ["vocab-dtype"]


@pytest.mark.parametrize("b", sorted(set(LAYOUTS) - {"safeailab", "specjax"}))
@pytest.mark.parametrize("buffers", [("d2t", "t2d"), ("t2d",), ()])
def test_buffers_that_were_there_are_there_again(tmp_path: Path, b: str, buffers: tuple[str, ...]):
    d = heads.dims() if buffers else heads.dims(draft=40)
    source = heads.safeailab(tmp_path / "a", d)
    variants.replace(source, **{n: None for n in ("d2t", "t2d") if n not in buffers})
    target = heads.target(tmp_path / "target", d)
    convert(source, tmp_path / "b", b, ConvertOptions(layout="safeailab", target=str(target), speculative_tokens=3))
    convert(tmp_path / "b", tmp_path / "back", "safeailab")
    assert (tmp_path / "back/model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()
