"""From a head on disk to a model: dtypes, vocabulary, embeddings, and what is refused before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support import heads, variants

from eagle3hub.errors import Refusal, TensorError, VocabMapError
from eagle3hub.layouts import open_head
from eagle3hub.reference.model import load_draft

D = heads.dims()


def embeddings(rows: int = D["vocab"], width: int = D["hidden"]) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("maker", heads.MAKERS)
def test_the_same_head_in_any_layout_is_the_same_model(tmp_path: Path, maker: str):
    folder = heads.MAKERS[maker](tmp_path / "head")
    model = load_draft(open_head(folder), embeddings())
    stored = variants.tensors_of(folder)
    assert len(model.weights) == 13
    assert all(w.dtype == torch.float32 for w in model.weights.values())
    own = stored.get("embed_tokens.weight")
    assert torch.equal(model.embeddings, embeddings() if own is None else own.float())
    for name, weight in model.weights.items():
        (found,) = [t for n, t in stored.items() if n.removeprefix("midlayer.") == name.removeprefix("layers.0.")] or [
            stored[name]
        ]
        assert torch.equal(weight, found.float())
    assert model.target_ids is not None
    assert model.target_ids.tolist() == (stored["d2t"] + torch.arange(D["draft"])).tolist()
    assert model.target_ids.dtype == torch.int64


def test_a_map_out_of_order_keeps_its_order(tmp_path: Path):
    model = load_draft(open_head(heads.modelopt(tmp_path / "head", unsorted=True)), embeddings())
    assert model.target_ids is not None
    assert model.target_ids.tolist() == heads.sorted_ids(D).flip(0).tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_everything_is_of_the_dtype_asked_for(tmp_path: Path, dtype: torch.dtype):
    model = load_draft(open_head(heads.specforge(tmp_path / "head")), embeddings(), dtype=dtype)
    assert {w.dtype for w in model.weights.values()} == {dtype}
    assert model.embeddings.dtype == embeddings().dtype, "rows are cast when they are used"


def test_own_embeddings_come_first_and_need_no_target(tmp_path: Path):
    head = open_head(heads.speculators(tmp_path / "head", embeddings=True))
    assert torch.equal(load_draft(head).embeddings, torch.ones(D["vocab"], D["hidden"]))
    assert torch.equal(load_draft(head, embeddings()).embeddings, torch.ones(D["vocab"], D["hidden"]))
    without = open_head(heads.specforge(tmp_path / "without"))
    with pytest.raises(Refusal, match="embed_tokens") as refused:
        load_draft(without)
    assert refused.value.code == "reference-embeddings"


@pytest.mark.parametrize(("rows", "width", "numbers"), [(40, 16, ("16", "8")), (32, 8, ("32", "40"))])
def test_embeddings_that_do_not_fit_are_refused(tmp_path: Path, rows: int, width: int, numbers: tuple[str, str]):
    head = open_head(heads.specforge(tmp_path / "head"))
    with pytest.raises(Refusal) as refused:
        load_draft(head, embeddings(rows, width))
    assert refused.value.code == "reference-embeddings"
    assert refused.value.exit_code == 3
    assert all(number in refused.value.message for number in numbers)


def test_a_target_may_pad_its_embeddings(tmp_path: Path):
    head = open_head(heads.specforge(tmp_path / "head"))
    assert torch.equal(load_draft(head, embeddings(rows=64)).embeddings, embeddings(rows=64))


def test_a_head_of_another_width_needs_embeddings_of_its_own(tmp_path: Path):
    d = {**D, "target_hidden": 16}
    head = open_head(variants.specforge(tmp_path / "head", d))
    assert (head.dims.hidden_size, head.dims.target_hidden_size) == (8, 16)
    with pytest.raises(TensorError, match="8 and its target's 16"):
        load_draft(head, embeddings(width=16))
    own = open_head(variants.specforge(tmp_path / "own", d, variants.Has(embeddings=True)))
    assert load_draft(own, embeddings(width=16)).embeddings.shape == (D["vocab"], 8)


@pytest.mark.parametrize("kind", ["FP8", "NVFP4"])
def test_a_quantized_head_is_refused(tmp_path: Path, kind: str):
    head = open_head(variants.quantized(tmp_path / "head", kind))
    with pytest.raises(Refusal, match="quantized") as refused:
        load_draft(head)
    assert refused.value.code == "reference-quantized"


def test_an_unknown_activation_is_refused(tmp_path: Path):
    head = open_head(heads.specforge(tmp_path / "head", hidden_act="mish"))
    with pytest.raises(Refusal, match="mish") as refused:
        load_draft(head, embeddings())
    assert refused.value.code == "reference-activation"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_numbers_are_an_error(tmp_path: Path, value: float):
    folder = heads.specforge(tmp_path / "head")
    fc = variants.tensors_of(folder)["fc.weight"]
    fc[1, 2] = fc[3, 4] = value
    variants.replace(folder, {"format": "pt"}, **{"fc.weight": fc})
    with pytest.raises(TensorError, match="2 values") as refused:
        load_draft(open_head(folder), embeddings())
    assert refused.value.code == "tensor-not-finite"


def test_weights_beyond_the_range_of_a_dtype_are_an_error(tmp_path: Path):
    folder = heads.specforge(tmp_path / "head")
    fc = variants.tensors_of(folder)["fc.weight"]
    fc[1, 2] = 1e6
    variants.replace(folder, {"format": "pt"}, **{"fc.weight": fc})
    with pytest.raises(TensorError, match="float16"):
        load_draft(open_head(folder), embeddings(), dtype=torch.float16)
    assert load_draft(open_head(folder), embeddings(), dtype=torch.bfloat16).weights["fc.weight"][1, 2] > 9e5


def test_a_head_with_an_error_is_not_computed(tmp_path: Path):
    folder = heads.specjax(tmp_path / "head", d2t=torch.full((D["draft"],), D["vocab"], dtype=torch.int32), t2d=None)
    with pytest.raises(VocabMapError):
        load_draft(open_head(folder), embeddings())
