from __future__ import annotations

from collections.abc import Iterator

import pytest

torch = pytest.importorskip("torch")
from eagle3hub.engines.workers.load_watch import LoadWatch  # noqa: E402


class Fused(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.empty(6, 4, dtype=torch.bfloat16))
        self.output_partition_sizes = [2, 2, 2]


class Attention(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv_proj = Fused()


class Draft(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.Linear(4, 1, bias=False)
        self.norm.weight.data.fill_(1.0)
        self.self_attn = Attention()
        self.draft_id_to_target_id = torch.nn.Parameter(torch.zeros(5, dtype=torch.int64), requires_grad=False)


FILE = {
    "norm.weight": torch.full((1, 4), 3.0, dtype=torch.bfloat16),
    "q": torch.randn(2, 4).to(torch.bfloat16),
    "k": torch.randn(2, 4).to(torch.bfloat16),
    "v": torch.randn(2, 4).to(torch.bfloat16),
    "d2t": torch.arange(5, dtype=torch.int32),
    "t2d": torch.ones(5, dtype=torch.bool),
}


def load(model: Draft, pairs: Iterator[tuple[str, torch.Tensor]]) -> None:
    """An engine's loader: copies, fused slices and casts, and drops t2d silently."""
    rows = {"q": 0, "k": 2, "v": 4}
    for name, tensor in pairs:
        if name == "norm.weight":
            model.norm.weight.data.copy_(tensor)
        elif name == "q":  # as engines that fuse with cat
            model.self_attn.qkv_proj.weight.data.narrow(0, 0, 2).copy_(torch.cat([tensor[:1], tensor[1:]]))
        elif name in rows:
            model.self_attn.qkv_proj.weight.data.narrow(0, rows[name], 2).copy_(tensor)
        elif name == "d2t":
            model.draft_id_to_target_id.data.copy_(tensor.to(torch.int64))


def watched(without: set[str]) -> tuple[Draft, dict[str, list[str]]]:
    model = Draft()
    with LoadWatch(model) as watch:
        load(model, watch.weights((k, v) for k, v in FILE.items() if k not in without))
    return model, watch.result()


def test_a_complete_file_fills_everything() -> None:
    model, found = watched(set())
    assert found == {"not_loaded": [], "ignored": ["t2d"]}
    assert model.norm.weight.tolist() == [[3.0] * 4]
    assert model.draft_id_to_target_id.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("without", "named"),
    [
        ("norm.weight", "norm.weight"),
        ("q", "self_attn.q_proj.weight"),
        ("k", "self_attn.k_proj.weight"),
        ("v", "self_attn.v_proj.weight"),
        ("d2t", "d2t"),
    ],
)
def test_each_missing_tensor_is_named(without: str, named: str) -> None:
    _, found = watched({without})
    assert found["not_loaded"] == [named]


def test_what_was_not_filled_is_as_it_would_have_been() -> None:
    model, _ = watched({"norm.weight", "d2t"})
    assert model.norm.weight.tolist() == [[1.0] * 4]
    assert model.draft_id_to_target_id.tolist() == [0] * 5


def test_a_file_full_of_nan_is_still_a_filled_parameter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FILE, "norm.weight", torch.full((1, 4), float("nan"), dtype=torch.bfloat16))
    _, found = watched(set())
    assert found["not_loaded"] == []
