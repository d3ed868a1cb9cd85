"""SGLang's own loader takes everything we write for it: no tensor lost, no parameter left as it was allocated."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from engines.sglang_cpu.environment import ensure
from exporters.expectations import CANNOT, EXPECTED, FOLDER, TARGET, USABLE
from safetensors.torch import load_file, save_file

from eagle3hub.checkpoint.folder import open_checkpoint
from eagle3hub.layouts import LAYOUTS, open_head
from eagle3hub.reference.model import rotary_table
from readers.support import convert_all, run_reader

pytestmark = pytest.mark.engine

# what SGLang's draft class has no parameter for or does not read, whatever the layout
NOT_IN_SGLANG = {
    "quantization",
    "no-aux",
    "attention-bias",
    "qk-norm",
    "norm-before-residual",
    "sliding-window",
    "parallel-drafting",
}
READ_BY_SGLANG = [layout for layout in ("specforge", "modelopt", "universal") if layout in LAYOUTS]
# heads of several layers need a layout that spells their input norms SGLang's way; MLA heads have their own class,
# whose logits test_sglang_logits.py compares
IN_LAYOUT: dict[str, set[str]] = {"specforge": {"mla"}, "modelopt": {"several-layers", "mla"}, "universal": {"mla"}}
CASES = [
    (name, layout)
    for layout in READ_BY_SGLANG
    for name in USABLE
    if not EXPECTED[name].has & (NOT_IN_SGLANG | IN_LAYOUT[layout])
    and (layout == EXPECTED[name].layout or not EXPECTED[name].has & CANNOT[layout])
    and layout not in EXPECTED[name].lacks
]
STACKED = {"q_proj": "qkv_proj", "k_proj": "qkv_proj", "v_proj": "qkv_proj"}
STACKED |= {"gate_proj": "gate_up_proj", "up_proj": "gate_up_proj"}


def parameter_for(canonical: str) -> str:
    """The parameter of SGLang's draft model that holds a tensor."""
    parts = [STACKED.get(part, part) for part in canonical.split(".")]
    return ".".join(parts) if parts[0] == "lm_head" else ".".join(["model", *parts])


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sglang")


@pytest.fixture(scope="module")
def reports(work: Path) -> dict[str, dict[str, Any]]:
    heads: dict[str, Path] = {}
    failed: dict[str, dict[str, Any]] = {}
    for layout in READ_BY_SGLANG:
        (work / layout).mkdir()
        done, not_done = convert_all([n for n, to in CASES if to == layout], layout, work / layout)
        heads |= {f"{name} as {layout}": folder for name, folder in done.items()}
        failed |= {f"{name} as {layout}": report for name, report in not_done.items()}
    for name in ("modelopt-two-layers", "modelopt-bias", "specjax-saved", "speculators-plain"):
        heads[f"{name} untouched"] = FOLDER / name / "head"
    heads["misnamed"] = misnamed(work / "misnamed", FOLDER / "specforge-sglang-plain" / "head")
    return run_reader(ensure(), "sglang_reader.py", heads, work) | failed


def misnamed(folder: Path, source: Path) -> Path:
    shutil.copytree(source, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["midlayer.hiddennorm.weight"] = tensors.pop("midlayer.hidden_norm.weight")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize(("name", "layout"), CASES)
def test_sglang_takes_every_tensor(reports: dict[str, dict[str, Any]], work: Path, name: str, layout: str):
    report = reports[f"{name} as {layout}"]
    assert "failed" not in report, report
    assert report["class"] == "LlamaForCausalLMEagle3"
    head = open_head(work / layout / name)
    own_embeddings = "embed_tokens.weight" in head.tensors
    assert report["ignored"] == (["t2d"] if "t2d" in open_checkpoint(work / layout / name).tensors else [])
    assert report["unset"] == ([] if own_embeddings else ["model.embed_tokens.weight"])
    assert report["altered"] == []
    assert report["arrived"] == {ref.name: parameter_for(canonical) for canonical, ref in head.tensors.items()}


@pytest.mark.parametrize(("name", "layout"), CASES)
def test_sglang_reads_the_same_head(reports: dict[str, dict[str, Any]], name: str, layout: str):
    report = reports[f"{name} as {layout}"]
    assert "failed" not in report, report
    source = open_head(FOLDER / name / "head", target=str(TARGET))
    s = source.semantics
    assert report["norm_before_fc"] == s.norm_before_fc
    assert report["fc_norm"] == s.fc_norm
    assert report["norm_output"] == (s.feedback == "post_norm")
    assert report["eps"] == s.rms_norm_eps
    assert source.aux is not None
    assert report["captured"] == source.aux.boundary
    if source.vocab_map is not None:
        assert report["target_ids"] == list(source.vocab_map.target_id)
    else:
        assert report["target_ids"] in (None, list(range(source.dims.vocab_size)))
    table = rotary_table(s.rope, source.dims.head_dim, torch.arange(16), source.max_position_embeddings)
    wanted = torch.cat(table, dim=-1)[:, 0]
    assert torch.allclose(torch.tensor(report["rotation"]), wanted, atol=4e-3)  # the table is kept in bfloat16


def test_what_sglang_loses_is_seen(reports: dict[str, dict[str, Any]]):
    assert "layers.1.hidden_norm" in " ".join(reports["modelopt-two-layers untouched"]["unset"])
    lost = reports["modelopt-bias untouched"]["ignored"]
    assert lost == [f"layers.0.self_attn.{which}_proj.bias" for which in "kqv"]
    assert "failed" in reports["specjax-saved untouched"]
    assert "model_type" in reports["speculators-plain untouched"]["failed"]
    assert "midlayer.hiddennorm.weight" in reports["misnamed"]["ignored"]
    assert "model.layers.0.hidden_norm.weight" in reports["misnamed"]["unset"]
