"""Both memories against attention written out as its definition, and against each other."""

from __future__ import annotations

import pytest
import torch

from eagle3hub.reference import model
from eagle3hub.reference.model import Everywhere, Memory

HEADS, KV, SIZE, T = 4, 2, 8, 11
WINDOWS = (None, 1, 2, 5, T, 40)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, SIZE, generator=torch.Generator().manual_seed(seed))


def definition(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int | None) -> torch.Tensor:
    """One query [heads, d] over the keys [n, kv heads, d] up to itself."""
    if window is not None:
        k, v = k[-window:], v[-window:]
    out = []
    for head in range(HEADS):
        scores = k[:, head // (HEADS // KV)] @ q[head] / SIZE**0.5
        out.append(scores.softmax(0) @ v[:, head // (HEADS // KV)])
    return torch.stack(out)


@pytest.fixture(params=[1 << 24, 1, 100], ids=["whole", "one by one", "in parts"])
def chunk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "_CHUNK", request.param)


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize("window", WINDOWS)
def test_a_memory_is_causal_attention(window: int | None):
    q, k, v = draw(T, HEADS), draw(T, KV, seed=1), draw(T, KV, seed=2)
    wanted = torch.stack([definition(q[i], k[: i + 1], v[: i + 1], window) for i in range(T)])
    memory = Memory((window,))
    pieces = [memory.attend(0, q[i:j], k[i:j], v[i:j]) for i, j in ((0, 4), (4, 5), (5, T))]
    assert torch.allclose(torch.cat(pieces), wanted, atol=1e-6)
    memory.forget(6)
    again = memory.attend(0, q[6:8], k[6:8], v[6:8])
    assert torch.allclose(again, wanted[6:8], atol=1e-6)


@pytest.mark.usefixtures("chunk")
@pytest.mark.parametrize("window", WINDOWS)
def test_drafts_everywhere_are_each_a_memory_of_its_own(window: int | None):
    texts, steps = 2, 4
    q, k, v = draw(texts, T, HEADS), draw(texts, T, KV, seed=1), draw(texts, T, KV, seed=2)
    starts = torch.tensor([[2, 5, 3, 10], [0, 1, 9, 4]])
    everywhere = Everywhere((window, None))
    shared = everywhere.shared(0, q, k, v)
    everywhere.begin(starts)
    kept = torch.arange(4).expand(texts, -1)  # which of the first drafts are still there
    seen: dict[tuple[int, int], list[torch.Tensor]] = {}
    for step in range(steps):
        if step == 2:
            everywhere.keep(chosen := torch.tensor([[3, 1], [0, 2]]))
            kept = kept.gather(1, chosen)
        own = [draw(texts, 4, heads, seed=10 * step + i) for i, heads in enumerate((HEADS, KV, KV), 3)]
        own = [x.gather(1, kept[..., None, None].expand(-1, -1, *x.shape[2:])) for x in own]
        mixed = everywhere.attend(0, *own)
        for row in range(texts):
            for column, draft in enumerate(kept[row].tolist()):
                seen.setdefault((row, draft), []).append(mixed[row, column])
                begin = int(starts[row, draft])
                one = Memory((window,))
                alone = one.attend(0, q[row, : begin + 1], k[row, : begin + 1], v[row, : begin + 1])
                assert torch.allclose(alone, shared[row, : begin + 1], atol=1e-6)
                for before in range(step + 1):
                    entry = [draw(texts, 4, h, seed=10 * before + i) for i, h in enumerate((HEADS, KV, KV), 3)]
                    last = one.attend(0, *(x[row, draft][None] for x in entry))
                assert torch.allclose(mixed[row, column], last[0], atol=1e-5)
    assert len(seen) == 8


def test_layers_have_windows_and_entries_of_their_own():
    q, k, v = draw(1, T, HEADS), draw(1, T, KV, seed=1), draw(1, T, KV, seed=2)
    everywhere = Everywhere((None, 2))
    far, near = everywhere.shared(0, q, k, v), everywhere.shared(1, q, k, v)
    assert torch.allclose(far[:, :2], near[:, :2], atol=1e-6)
    assert not torch.allclose(far[:, 2:], near[:, 2:], atol=1e-2)
    everywhere.begin(torch.tensor([[6]]))
    entry = draw(1, 1, HEADS), draw(1, 1, KV, seed=5), draw(1, 1, KV, seed=6)
    assert not torch.allclose(everywhere.attend(0, *entry), everywhere.attend(1, *entry), atol=1e-2)
    first = everywhere.attend(0, *entry)
    everywhere.begin(torch.tensor([[6]]))  # a new draft has nothing of its own
    assert not torch.allclose(first, everywhere.attend(0, *entry), atol=1e-3)
