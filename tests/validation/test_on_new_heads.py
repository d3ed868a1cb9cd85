"""Heads without aux layers and EAGLE-3.1 heads, run by vLLM and SGLang on CPU: the rounds are the reference's.

Both are made from the example head and trained for half a minute on what the target says, so that drafts at every
position are accepted.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.overfit import overfit
from support.validation import validate
from support.versions import SGLANG, VLLM

from eagle3hub import ConvertOptions, convert
from eagle3hub.layouts import open_head

pytestmark = pytest.mark.engine
EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "smollm2-135m" / "head"
PROMPTS, TOKENS = 4, 32

Checked = Callable[[Path], dict[str, Any]]


def made(folder: Path, change: Callable[[dict[str, torch.Tensor], dict[str, Any]], dict[str, torch.Tensor]]) -> Path:
    """The example head with other tensors and another config."""
    folder.mkdir(parents=True)
    config = json.loads((EXAMPLE / "config.json").read_text())
    config |= {
        "architectures": ["LlamaForCausalLMEagle3"],
        "max_position_embeddings": 8192,
        "hidden_act": "silu",
    }
    tensors = change(load_file(EXAMPLE / "model.safetensors"), config)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def final_state(tensors: dict[str, torch.Tensor], config: dict[str, Any]) -> dict[str, torch.Tensor]:
    """As NVIDIA's gpt-oss heads for short contexts: no fc, features are the target's final, normed state."""
    config["eagle_config"] = {"use_aux_hidden_state": False, "next_layer_regular": True, "use_last_layernorm": True}
    return {name: t for name, t in tensors.items() if name not in ("fc.weight", "t2d")}


def eagle31(tensors: dict[str, torch.Tensor], config: dict[str, Any]) -> dict[str, torch.Tensor]:
    """As SpecForge's: a norm for each tap, and the normed state is fed back."""
    config |= {"fc_norm": True, "norm_output": True}
    norms = {f"fc_norm.{j}.weight": torch.ones(576, dtype=torch.bfloat16) for j in range(3)}
    return {**tensors, **norms, "d2t": tensors["d2t"].long()}


@pytest.fixture(scope="module")
def checked(smollm2_target: Path, vllm_python: Path, sglang_python: Path) -> Checked:
    """Validate a folder on the reference and both engines."""

    def run(folder: Path) -> dict[str, Any]:
        report = validate(
            folder,
            target=smollm2_target,
            target_name="SmolLM2",
            engine="reference,vllm,sglang",
            engine_python={"vllm": vllm_python, "sglang": sglang_python},
            num_prompts=PROMPTS,
            max_new_tokens=TOKENS,
        )
        return {entry["engine"]: entry for entry in report.document["engines"]}

    return run


def assert_equal_rounds(found: dict[str, Any]) -> None:
    """Both engines ran, loaded everything, changed nothing, and have the reference's counters prompt by prompt."""
    same = ("prompt_tokens", "new_tokens", "tokens_sha256", "rounds", "drafted", "accepted_per_position")
    expected = [[row[key] for key in same] for row in found["reference"]["per_prompt"]]
    rows = [row["accepted_per_position"] for row in found["reference"]["per_prompt"]]
    accepted = [sum(n) for n in zip(*rows, strict=True)]
    assert min(accepted) >= 8, f"rounds show little if few drafts are accepted: {accepted}"
    for name, version in (("vllm", VLLM), ("sglang", SGLANG)):
        entry = found[name]
        assert (entry["version"], entry["load"]["not_loaded"]) == (version, [])
        assert entry["lossless"]["identical"] == PROMPTS
        assert [[row[key] for key in same] for row in entry["per_prompt"]] == expected, name
        assert next(gate for gate in entry["gates"] if gate["name"] == "agreement")["verdict"] == "pass"


@pytest.mark.slow
def test_a_head_of_the_final_state(tmp_path: Path, smollm2_target: Path, checked: Checked) -> None:
    folder = made(tmp_path / "head", final_state)
    overfit(folder, smollm2_target, prompts=PROMPTS, tokens=TOKENS)
    head = open_head(folder)
    assert (head.semantics.uses_aux, head.semantics.joins_embedding) == (False, True)
    convert(folder, tmp_path / "out", "modelopt", ConvertOptions(target=str(smollm2_target)))
    found = checked(tmp_path / "out")
    assert found["sglang"]["preflight"]["verdict"] == found["vllm"]["preflight"]["verdict"] == "right"
    assert_equal_rounds(found)


@pytest.mark.slow
def test_an_eagle_3_1_head_from_one_folder(tmp_path: Path, smollm2_target: Path, checked: Checked) -> None:
    folder = made(tmp_path / "head", eagle31)
    overfit(folder, smollm2_target, prompts=PROMPTS, tokens=TOKENS)
    head = open_head(folder)
    assert (head.layout, head.semantics.feedback, head.semantics.fc_norm) == ("specforge", "post_norm", True)
    options = ConvertOptions(target=str(smollm2_target), engines=("vllm", "sglang"))
    convert(folder, tmp_path / "out", "universal", options)
    found = checked(tmp_path / "out")
    assert found["sglang"]["preflight"]["verdict"] == found["vllm"]["preflight"]["verdict"] == "depends"
    assert [a["field"] for a in found["vllm"]["preflight"]["depends"]] == ["feedback"]
    assert_equal_rounds(found)
