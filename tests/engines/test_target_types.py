"""The lists of targets in the contracts are what the engines' own sources say, by the tool that writes them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType

import pytest
from support.scripts import load_script
from support.versions import SGLANG_JAX

from eagle3hub.engines.preflight import contract, pinned_contracts

TOOL = Path(__file__).resolve().parents[2] / "tools" / "target_types.py"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    return load_script(TOOL)


@pytest.mark.engine
@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_the_lists_are_those_of_the_engines_source(engine: str, tool: ModuleType, request: pytest.FixtureRequest):
    known, lacking = tool.targets(engine, request.getfixturevalue(f"{engine}_python"))
    for terms in pinned_contracts(engine):
        assert (terms.known_targets, terms.not_targets) == (frozenset(known), frozenset(lacking))


@pytest.mark.engine
@pytest.mark.skipif(not os.environ.get("EAGLE3HUB_SGLANG_JAX"), reason="EAGLE3HUB_SGLANG_JAX is not set")
def test_the_list_of_sglang_jax_is_that_of_its_source(tool: ModuleType):
    from engines.sglang_jax_cpu.environment import ensure

    known, _ = tool.targets("sglang_jax", ensure())
    assert contract("sglang_jax", SGLANG_JAX).only_targets == frozenset(known)


def test_a_class_drafts_if_it_or_a_class_above_it_hands_out_states(tmp_path: Path, tool: ModuleType, monkeypatch):
    models = tmp_path / "vllm/model_executor/models"
    models.mkdir(parents=True)
    (models / "registry.py").write_text(
        '_TEXT = {"AForCausalLM": ("a", "A"), "BForCausalLM": ("a", "B"), "CForCausalLM": ("a", "C")}\n'
    )
    (models / "a.py").write_text(
        "class A(nn.Module, SupportsEagle3): ...\nclass B(A): ...\nclass C(nn.Module, SupportsLoRA): ...\n"
    )
    types = {kind: [f"{kind.upper()}ForCausalLM"] for kind in ("a", "b", "c", "d")}
    monkeypatch.setattr(tool, "told", lambda python, engine: (types, tmp_path))
    assert tool.targets("vllm", Path("python")) == (["a", "b"], ["c"])
    other = tmp_path / "sglang/srt/models"
    other.mkdir(parents=True)
    (other / "a.py").write_text(
        "class Base:\n    def set_eagle3_layers_to_capture(self, ids): ...\n"
        "class AForCausalLM(Base): ...\nclass BForCausalLM(nn.Module): ...\nclass CForCausalLM(Base): ...\n"
        "EntryClass = [AForCausalLM, BForCausalLM]\n"
    )
    assert tool.targets("sglang", Path("python")) == (["a"], ["b"])
    checkout = tmp_path / "checkout"
    models = checkout / "tensorrt_llm/_torch/models"
    models.mkdir(parents=True)
    (models / "modeling_a.py").write_text(
        "class Base(SpecDecOneEngineForCausalLM[Model, Config]): ...\n"
        '@register_auto_model("AForCausalLM")\nclass A(Base): ...\n'
        '@register_auto_model("BForCausalLM")\n@register_auto_model("CForCausalLM")\n'
        "class B(DecoderModelForCausalLM[Model, Config]): ...\nclass DForCausalLM(Base): ...\n"
    )
    assert tool.targets("trtllm", Path("python"), checkout) == (["a"], ["b", "c"])


@pytest.mark.slow
def test_sources_are_those_of_the_package_that_is_imported(tmp_path: Path, tool: ModuleType):
    """One that lies before the installed ones on the path, for example."""
    (tmp_path / "first/vllm").mkdir(parents=True)
    (tmp_path / "first/vllm/__init__.py").write_text("raise SystemExit('it is not imported')\n")
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path}/first exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    types, site = tool.told(python, "vllm")
    assert site == tmp_path / "first"
    assert "LlamaForCausalLM" in types["llama"]


def test_the_lists_are_written_in_place(tmp_path: Path, tool: ModuleType, monkeypatch):
    folder = tmp_path / "vllm" / "9"
    folder.mkdir(parents=True)
    (folder / "contract.toml").write_text('a = 1\nknown_targets = [\n    "old",\n]\nb = 2\n\n[aux]\nc = 3\n')
    monkeypatch.setattr(tool, "DATA", tmp_path)
    monkeypatch.setattr(tool, "targets", lambda engine, python, source: (["x"], ["y", "z"]))
    monkeypatch.setattr(sys, "argv", ["target_types.py", "vllm", "--python", "p", "--version", "9", "--write"])
    tool.main()
    assert (folder / "contract.toml").read_text() == (
        'a = 1\nknown_targets = [\n    "x",\n]\nb = 2\n\nnot_targets = [\n    "y", "z",\n]\n\n[aux]\nc = 3\n'
    )
