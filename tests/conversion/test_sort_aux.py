"""Sorting the aux hidden states: every block of columns, every norm and every part moves with its layer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support import heads

from eagle3hub.checkpoint.safetensors import read_header
from eagle3hub.checkpoint.writer import OpenFiles, stream
from eagle3hub.conversion.edits.reorder import sort_aux
from eagle3hub.errors import ConfigError, Refusal
from eagle3hub.head import Head
from eagle3hub.layouts import open_head

ORDER = (14, 26, 1)


@pytest.fixture
def shuffled(tmp_path: Path) -> Head:
    """A head whose fc reads layers 14, 26, 1 in this order, with everything that belongs to a state."""
    extra = {
        "input_norm.weight": torch.arange(24, dtype=torch.float32),
        "mask_hidden": torch.arange(24, dtype=torch.float32).reshape(1, 1, 24) + 100,
        **{f"fc_norm.{j}.weight": torch.full((8,), float(j)) for j in range(3)},
    }
    save_file(extra, tmp_path / "extra.safetensors")
    head = open_head(heads.modelopt(tmp_path / "head"))
    return replace(
        head, fc_order=ORDER, tensors={**head.tensors, **read_header(tmp_path / "extra.safetensors").tensors}
    )


def values(head: Head, name: str, dtype: torch.dtype) -> torch.Tensor:
    with OpenFiles() as files:
        raw = b"".join(bytes(c) for c in stream(head.tensors[name], files))
    return torch.frombuffer(bytearray(raw), dtype=dtype).reshape(head.tensors[name].shape)


def test_what_the_head_computes_stays_the_same(shuffled: Head):
    done, change = sort_aux(shuffled)
    assert done.aux is not None
    assert done.aux.after_layer == [1, 14, 26]
    assert done.fc_order is None
    states = {layer: torch.randn(8) for layer in ORDER}
    before = values(shuffled, "fc.weight", torch.bfloat16).float() @ torch.cat([states[i] for i in ORDER])
    after = values(done, "fc.weight", torch.bfloat16).float() @ torch.cat([states[i] for i in sorted(ORDER)])
    assert torch.allclose(before, after, atol=1e-5)
    assert values(done, "input_norm.weight", torch.float32).tolist() == [*range(16, 24), *range(16)]
    assert values(done, "mask_hidden", torch.float32).flatten().tolist() == [*range(116, 124), *range(100, 116)]
    assert [values(done, f"fc_norm.{j}.weight", torch.float32)[0].item() for j in range(3)] == [2, 0, 1]
    assert set(change.tensors) >= {"fc.weight", "input_norm.weight", "mask_hidden", "fc_norm.0.weight"}
    assert "[14, 26, 1]" in change.what
    assert done.config["eagle_config"]["eagle_aux_hidden_state_layer_ids"] == [1, 14, 26]


def test_sorting_what_is_sorted_is_refused(shuffled: Head):
    with pytest.raises(ConfigError, match="already"):
        sort_aux(replace(shuffled, fc_order=None))


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("fc.weight_scale", "F32"),
        ("fc.weight_packed", "BF16"),
        ("fc.weight_packed", "I32"),
        ("fc.weight", "F8_E4M3"),
        ("fc.weight", "I8"),
    ],
)
def test_quantized_columns_are_refused(shuffled: Head, name: str, dtype: str):
    stored = replace(shuffled.tensors["fc.weight"], name=name, dtype=dtype)
    with pytest.raises(Refusal, match=rf"quantized \({name}\)") as refused:
        sort_aux(replace(shuffled, tensors={**shuffled.tensors, name: stored}))
    assert refused.value.code == "refused-sort-quantized"


@pytest.mark.parametrize("name", ["layers.0.mlp.up_proj.weight", "layers.0.mlp.up_proj.k_scale", "lm_head.weight"])
def test_what_else_is_quantized_keeps_nothing_from_being_sorted(shuffled: Head, name: str):
    stored = replace(shuffled.tensors["lm_head.weight"], name=name, dtype="F8_E4M3")
    done, _ = sort_aux(replace(shuffled, tensors={**shuffled.tensors, name: stored}))
    assert done.tensors[name] == stored
