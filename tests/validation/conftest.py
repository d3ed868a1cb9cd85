from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from support import heads

HEAD = Path(__file__).resolve().parents[2] / "examples" / "smollm2-135m" / "head"


@pytest.fixture
def head(tmp_path: Path) -> Path:
    """A copy of the example head, to be broken at will."""
    copy = tmp_path / "head"
    shutil.copytree(HEAD, copy)
    return copy


@pytest.fixture
def fitting_target(tmp_path: Path) -> Path:
    """The config of the example head's target, enough for every static check, and weights that no test loads."""
    folder = tmp_path / "SmolLM2"
    folder.mkdir()
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 576,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49152,
        "max_position_embeddings": 8192,
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").touch()
    return folder


@pytest.fixture
def paper_target(tmp_path: Path) -> Path:
    """The config of a target that fits the example head, without weights."""
    return heads.target(
        tmp_path / "target", heads.dims(hidden=576, vocab=49152), num_attention_heads=9, num_hidden_layers=30
    )
