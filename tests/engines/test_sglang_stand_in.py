"""The stand-in for SGLang's kernels against plain restatements of what its callers expect."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

torch = pytest.importorskip("torch")
PACKAGES = Path(__file__).parent / "sglang_cpu" / "packages"


@pytest.fixture(scope="module")
def kernels() -> Iterator[ModuleType]:
    sys.path.insert(0, str(PACKAGES))
    try:
        import sgl_kernel

        yield sgl_kernel
    finally:
        sys.path.remove(str(PACKAGES))
        for name in [name for name in sys.modules if name.split(".")[0] == "sgl_kernel"]:
            del sys.modules[name]


def tree(kernels: ModuleType, chosen: list[int], parents: list[int], topk: int, length: int = 7) -> dict[str, Any]:
    size = len(chosen) + 1
    out = {name: torch.full((1, size), -1) for name in ("index", "child", "sibling")}
    mask, positions = torch.ones(size * size, dtype=torch.bool), torch.empty(size, dtype=torch.long)
    kernels.build_tree_kernel_efficient_cpu(
        torch.tensor([parents]), torch.tensor([chosen]), torch.tensor([length]), mask, positions,
        out["index"], out["child"], out["sibling"], topk, 3, size, 1,
    )  # fmt: skip
    return {**out, "mask": mask.view(size, size), "positions": positions}


def test_a_chain_sees_all_before_it(kernels: ModuleType) -> None:
    made = tree(kernels, [0, 1, 2], [-1, 0, 1], topk=1)
    assert made["mask"].tolist() == torch.ones(4, 4).tril().bool().tolist()
    assert made["positions"].tolist() == [7, 8, 9, 10]
    assert made["child"].tolist() == [[1, 2, 3, -1]]
    assert made["sibling"].tolist() == [[-1] * 4]


def test_a_tree_sees_its_ancestors_only(kernels: ModuleType) -> None:
    # top-k 2: candidates 0, 1 below the root; group 1 (2, 3) grew from candidate 0, group 2 (4, 5) from candidate 1
    made = tree(kernels, [0, 1, 2, 5], [-1, 0, 1], topk=2)
    parent = {1: 0, 2: 0, 3: 1, 4: 2}
    for node, other in itertools.product(range(5), repeat=2):
        line = {node}
        while min(line):
            line.add(parent[min(line)])
        line.add(0)
        assert bool(made["mask"][node, other]) == (other in line), (node, other)
    assert made["positions"].tolist() == [7, 8, 8, 9, 9]
    assert made["child"].tolist() == [[1, 3, 4, -1, -1]]
    assert made["sibling"].tolist() == [[-1, 2, -1, -1, -1]]


def test_the_walk_takes_the_sibling_the_target_wants(kernels: ModuleType) -> None:
    made = tree(kernels, [0, 1, 2, 5], [-1, 0, 1], topk=2)
    predicts, accepted = torch.full((5,), -1), torch.zeros(1, dtype=torch.long)
    nodes = torch.full((1, 4), -1)
    kernels.verify_tree_greedy_cpu(
        predicts=predicts,
        accept_index=nodes,
        accept_token_num=accepted,
        candidates=torch.tensor([[10, 11, 12, 13, 14]]),
        retrive_index=made["index"],
        retrive_next_token=made["child"],
        retrive_next_sibling=made["sibling"],
        target_predict=torch.tensor([[12, 0, 14, 0, 99]]),
    )
    assert nodes.tolist() == [[0, 2, 4, -1]]
    assert accepted.tolist() == [2]
    assert predicts.tolist() == [12, -1, 14, -1, 99]


def test_attention_is_attention(kernels: ModuleType) -> None:
    torch.manual_seed(0)
    heads, kv_heads, width, length, new = 4, 2, 8, 6, 3
    pool_k, pool_v = torch.randn(16, kv_heads, width), torch.randn(16, kv_heads, width)
    slots = torch.tensor([[3, 9, 1, 7, 12, 5, 0, 0]])
    query, out = torch.randn(new, heads, width), torch.empty(new, heads, width)
    mask = torch.tensor([[1, 0, 0], [1, 1, 0], [1, 0, 1]]).bool()
    rows, one = torch.tensor([0]), torch.tensor([length])
    common = (slots, rows, one, torch.tensor([new]), torch.tensor([0]), new, 0.5, 0.0, False, 0, None, None)
    kernels.attention.extend_attention_cpu(
        query, None, None, out, pool_k, pool_v, 1.0, 1.0, *common, mask.view(-1), True
    )
    for token, head in itertools.product(range(new), range(heads)):
        visible = [*range(length - new), *(length - new + j for j in range(new) if mask[token, j])]
        keys = pool_k[slots[0, visible], head // 2]
        weights = (keys @ query[token, head] * 0.5).softmax(0)
        assert torch.allclose(out[token, head], weights @ pool_v[slots[0, visible], head // 2], atol=1e-5)
    with pytest.raises(NotImplementedError, match="logit_cap"):
        options = (*common[:7], 30.0, *common[8:])
        kernels.attention.extend_attention_cpu(query, None, None, out, pool_k, pool_v, 1.0, 1.0, *options)


def test_rows_are_moved_as_if_all_at_once(kernels: ModuleType) -> None:
    pools = [torch.arange(12.0).view(6, 2) + 100 * i for i in range(2)]
    before = [pool.clone() for pool in pools]
    pointers = torch.tensor([pool.data_ptr() for pool in pools])
    to, origin = torch.tensor([1, 2, 3]), torch.tensor([2, 3, 1])
    kernels.copy_all_layer_kv_cache_cpu(pointers, torch.tensor([8, 8]), to, origin)
    for pool, old in zip(pools, before, strict=True):
        assert torch.equal(pool[to], old[origin])
        assert torch.equal(pool[[0, 4, 5]], old[[0, 4, 5]])


def test_each_branch_follows_its_sequence(kernels: ModuleType) -> None:
    table = torch.arange(20).view(2, 10)
    branches = kernels.build_draft_decode_metadata_cpu(table, torch.tensor([1]), torch.tensor([4]), 2, 2, 10)
    assert branches[:, :6].tolist() == [[10, 11, 12, 13, 14, 15], [10, 11, 12, 13, 16, 17]]


def test_new_tokens_push_the_old_ones_left(kernels: ModuleType) -> None:
    ids = torch.tensor([1, 2, 3, 4, 5])
    kernels.rotate_input_ids_cpu(ids, torch.tensor([0, 3]), torch.tensor([3, 2]), torch.tensor([[8], [9]]))
    assert ids.tolist() == [2, 3, 8, 5, 9]


def test_anything_else_is_not_there(kernels: ModuleType) -> None:
    assert not hasattr(kernels, "sgl_per_token_quant_fp8")
    assert "stand-in" in kernels.__version__
