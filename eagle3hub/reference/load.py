"""A `Head`'s tensors as a `DraftModel`, from any layout."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from eagle3hub.checkpoint.dtypes import TORCH_NAME
from eagle3hub.checkpoint.folder import read_tensor
from eagle3hub.errors import Refusal, TensorError
from eagle3hub.reference.model import ACTIVATIONS, DraftModel

if TYPE_CHECKING:
    from eagle3hub.head import Head, TensorRef


def load_draft(
    head: Head,
    embeddings: torch.Tensor | None = None,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> DraftModel:
    """Bring a head's weights to ``device`` as ``dtype``.

    ``embeddings`` are the target's, [vocabulary, hidden size], for a head that has none of its own.

    Raises the head's first problem if it has an error; Refusal for a head the reference cannot compute (quantized,
    unknown activation, no embeddings that fit); TensorError (``tensor-not-finite``) for weights with NaN or infinity.
    """
    head.raise_for_errors()
    if head.semantics.quantization is not None:
        raise Refusal(
            f"the head's weights are quantized ({head.semantics.quantization}), which the reference does not compute",
            hint="measure the unquantized head, or use an engine that serves this format",
            code="reference-quantized",
        )
    if head.semantics.hidden_act not in ACTIVATIONS:
        raise Refusal(
            f"the head's activation {head.semantics.hidden_act!r} is not one the reference knows",
            hint=f"it knows {', '.join(ACTIVATIONS)}",
            code="reference-activation",
        )
    weights = {name: _load(ref).to(device, dtype) for name, ref in head.tensors.items()}
    own = weights.pop("embed_tokens.weight", None)
    if own is None and embeddings is None:
        raise Refusal(
            "the head has no embed_tokens.weight of its own and none of a target were given",
            hint="name the target with --target",
            code="reference-embeddings",
        )
    table = own if own is not None else embeddings
    assert table is not None
    if table.shape[1] != head.dims.hidden_size:
        raise Refusal(
            f"the target's embeddings have {table.shape[1]} numbers a token, the head takes {head.dims.hidden_size}",
            hint="a head of another width than its target needs embeddings of its own",
            code="reference-embeddings",
        )
    ids = None if head.vocab_map is None else torch.tensor(head.vocab_map.target_id, dtype=torch.int64)
    return DraftModel(
        dims=head.dims,
        semantics=head.semantics,
        weights=weights,
        embeddings=table.to(device, dtype),
        target_ids=None if ids is None else ids.to(device),
        max_position_embeddings=head.max_position_embeddings,
        mask_token_id=head.mask_token_id,
    )


def _load(ref: TensorRef) -> torch.Tensor:
    tensor = torch.frombuffer(bytearray(read_tensor(ref)), dtype=getattr(torch, TORCH_NAME[ref.dtype]))
    if not bool(torch.isfinite(tensor).all()):
        bad = int((~torch.isfinite(tensor)).sum())
        raise TensorError(
            f"{ref.path.name}: {ref.name} holds {bad} values that are NaN or infinite",
            hint="the training run diverged or the file is damaged: export an earlier checkpoint",
            code="tensor-not-finite",
        )
    return tensor.reshape(ref.shape)
