"""Our side of a TensorRT-LLM run, against a stand-in of its API; ``trtllm_cpu/README.md`` says what that shows."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from engines.trtllm_cpu.environment import interpreter
from safetensors.torch import load_file, save_file
from support import targets
from support.overfit import overfit
from support.rewriting import edit
from support.validation import validate
from support.versions import TRTLLM, TRTLLM_NEXT

from eagle3hub.engines import get_engine
from eagle3hub.engines.base import EngineFailure, EngineRun, RunSpec
from eagle3hub.prompts import load_prompts
from eagle3hub.system.progress import silent
from eagle3hub.validation.engine_runner import Cache

pytestmark = pytest.mark.engine
PROMPTS, TOKENS, DRAFTED = 2, 24, 60
VERSIONS = (TRTLLM, TRTLLM_NEXT)
Measured = Callable[..., dict[str, Any]]


def head_for(folder: Path, target: Path) -> Path:
    """A head of random weights for a small target, with a reduced vocabulary."""
    folder.mkdir()
    its = json.loads((target / "config.json").read_text())
    width, inner = its["hidden_size"], its["intermediate_size"]
    rows, kv_rows = its["num_attention_heads"] * its["head_dim"], its["num_key_value_heads"] * its["head_dim"]
    torch.manual_seed(1)
    shapes = {
        "fc": (width, 3 * width),
        "midlayer.self_attn.q_proj": (rows, 2 * width),
        "midlayer.self_attn.k_proj": (kv_rows, 2 * width),
        "midlayer.self_attn.v_proj": (kv_rows, 2 * width),
        "midlayer.self_attn.o_proj": (width, rows),
        "midlayer.mlp.gate_proj": (inner, width),
        "midlayer.mlp.up_proj": (inner, width),
        "midlayer.mlp.down_proj": (width, inner),
        "lm_head": (DRAFTED, width),
    }
    tensors = {f"{name}.weight": torch.randn(shape) * shape[1] ** -0.5 for name, shape in shapes.items()}
    for name in ("input_layernorm", "hidden_norm", "post_attention_layernorm"):
        tensors[f"midlayer.{name}.weight"] = torch.ones(width)
    kept = torch.arange(targets.VOCAB)[::1][:DRAFTED] + 20
    tensors |= {"norm.weight": torch.ones(width), "d2t": kept - torch.arange(DRAFTED)}
    tensors["t2d"] = torch.zeros(targets.VOCAB, dtype=torch.bool).index_fill(0, kept, True)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    keys = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size")
    config = {key: its[key] for key in (*keys, "max_position_embeddings", "rms_norm_eps")}
    config |= {"architectures": ["LlamaForCausalLMEagle3"], "model_type": "llama", "num_hidden_layers": 1}
    config |= {"draft_vocab_size": DRAFTED, "tie_word_embeddings": False, "hidden_act": "silu", "rope_theta": 10000.0}
    config |= {"torch_dtype": "float32", "attention_bias": False, "bos_token_id": 1, "eos_token_id": 2}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A small target, and a head that knows its answers by heart."""
    folder = tmp_path_factory.mktemp("pair")
    target = targets.save(folder / "target", tokenizer=True, num_hidden_layers=8)
    head = head_for(folder / "head", target)
    overfit(head, target, prompts=PROMPTS, tokens=TOKENS, steps=250)
    return head, target


@pytest.fixture(scope="module")
def cache() -> Cache:
    """The target alone is the same for every head here."""
    return Cache()


@pytest.fixture
def measured(pair: tuple[Path, Path], tmp_path: Path, cache: Cache) -> Measured:
    """Validate a head on one engine."""

    def run(engine: str, head: Path = pair[0], version: str = TRTLLM, **options: Any) -> dict[str, Any]:
        report = validate(
            head,
            target=pair[1],
            cache=cache,
            target_name="small",
            engine=engine,
            device="cpu" if engine == "reference" else "cuda",
            engine_python={"trtllm": interpreter(tmp_path, version)},
            num_prompts=PROMPTS,
            max_new_tokens=TOKENS,
            **options,
        )
        (entry,) = report.document["engines"]
        return entry

    return run


def counts(entry: dict[str, Any]) -> list[list[Any]]:
    """What a run counted, prompt by prompt, with the digest of what it said."""
    same = ("rounds", "drafted", "accepted_per_position", "tokens_sha256")
    return [[prompt[key] for key in same] for prompt in entry["per_prompt"]]


@pytest.mark.parametrize("version", VERSIONS)
def test_the_rounds_are_the_references(measured: Measured, version: str) -> None:
    own, found = measured("reference"), measured("trtllm", version=version)
    assert "2 prompts with rounds are too few" in found["reason"]  # else it passes
    assert found["load"] == {"checked": True, "not_loaded": [], "ignored": ["t2d"], "aux_boundaries": [2, 4, 5]}
    assert found["version"] == version
    assert own["acceptance"]["accepted"] > 8, "else the comparison says little"
    assert counts(found) == counts(own)


def test_a_fault_that_loads_is_seen(
    measured: Callable[..., dict[str, Any]], pair: tuple[Path, Path], tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    tensors = load_file(pair[0] / "model.safetensors")
    save_file({k: v for k, v in tensors.items() if k != "norm.weight"}, broken / "model.safetensors", {"format": "pt"})
    (broken / "config.json").write_text((pair[0] / "config.json").read_text())
    spec = RunSpec(str(pair[1]), broken, load_prompts("smoke", 1), device="cuda", max_new_tokens=4)
    found = get_engine("trtllm").run(spec, interpreter(tmp_path, TRTLLM_NEXT), timeout=120, progress=silent)
    assert isinstance(found, EngineRun)
    assert found.load is not None and found.load.not_loaded == ("norm.weight",)
    old = get_engine("trtllm").run(spec, interpreter(tmp_path, TRTLLM), timeout=120, progress=silent)
    assert isinstance(old, EngineFailure) and "KeyError" in old.reason


def test_it_is_told_of_other_layers(
    measured: Callable[..., dict[str, Any]], pair: tuple[Path, Path], tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for name in ("model.safetensors", "config.json"):
        (other / name).write_bytes((pair[0] / name).read_bytes())
    edit(other, config={"eagle_aux_hidden_state_layer_ids": [1, 4, 7]})
    found, own = measured("trtllm", other), measured("reference", other)
    assert found["load"]["aux_boundaries"] == [1, 4, 7]
    assert counts(found) == counts(own)
    assert "eagle3_layers_to_capture" in json.dumps(found["flags"])


def test_a_head_that_brings_code_is_not_started(
    measured: Callable[..., dict[str, Any]], pair: tuple[Path, Path], tmp_path: Path
) -> None:
    spec = RunSpec(str(pair[1]), pair[0], load_prompts("smoke", 1), device="cuda")
    assert get_engine("trtllm").unable(spec) is None
    mapped = tmp_path / "mapped"
    mapped.mkdir()
    config = json.loads((pair[0] / "config.json").read_text())
    (mapped / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoConfig": "code.Config"}}))
    assert "trust_remote_code=True" in str(get_engine("trtllm").unable(replace(spec, head=mapped)))
    assert "greedy" in str(get_engine("trtllm").unable(replace(spec, temperature=1.0)))
