"""A `Head`'s tensors as a `DraftModel`, from any layout."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from eagle3hub.checkpoint.dtypes import TORCH_NAME
from eagle3hub.checkpoint.folder import read_tensor
from eagle3hub.errors import Refusal, TensorError
from eagle3hub.reference.model import ACTIVATIONS, DraftModel

if TYPE_CHECKING:
    from eagle3hub.checkpoint.tensors import TensorRef
    from eagle3hub.head import Head


def load_draft(
    head: Head,
    embeddings: torch.Tensor | None = None,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> DraftModel:
    """Bring a head's weights to ``device`` as ``dtype``.

    ``embeddings`` are the target's, [vocabulary or padded to more, hidden size], for a head that has none of its own.

    Raises the head's first problem if it has an error; Refusal for a head the reference cannot compute (quantized,
    unknown activation, no embeddings that fit); TensorError (``tensor-not-finite``) for weights with NaN or infinity,
    in the file or as ``dtype``.
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
    weights = {name: _load(ref, device, dtype) for name, ref in head.tensors.items()}
    own = weights.pop("embed_tokens.weight", None)
    ids = None if head.vocab_map is None else torch.tensor(head.vocab_map.target_id, dtype=torch.int64, device=device)
    return DraftModel(
        dims=head.dims,
        semantics=head.semantics,
        weights=weights,
        embeddings=own if own is not None else _fitting(embeddings, head).to(device, dtype),
        target_ids=ids,
        max_position_embeddings=head.max_position_embeddings,
        mask_token_id=head.mask_token_id,
    )


def _fitting(embeddings: torch.Tensor | None, head: Head) -> torch.Tensor:
    rows, width = head.dims.vocab_size, head.dims.hidden_size
    if embeddings is None:
        raise Refusal(
            "the head has no embed_tokens.weight of its own and none of a target were given",
            hint="name the target with --target",
            code="reference-embeddings",
        )
    if embeddings.shape[1] != width or len(embeddings) < rows:
        raise Refusal(
            f"the target has embeddings of {len(embeddings)} tokens, {embeddings.shape[1]} numbers each, but the head "
            f"was trained with {rows} tokens of {width} numbers",
            hint="name the target the head was trained for",
            code="reference-embeddings",
        )
    return embeddings


def _load(ref: TensorRef, device: str | torch.device, dtype: torch.dtype) -> torch.Tensor:
    stored = torch.frombuffer(bytearray(read_tensor(ref)), dtype=getattr(torch, TORCH_NAME[ref.dtype]))
    tensor = stored.to(dtype)
    bad = int((~torch.isfinite(tensor)).sum())
    if bad and bool(torch.isfinite(stored).all()):
        raise TensorError(
            f"{ref.path.name}: {bad} values of {ref.name} are beyond the range of {str(dtype).removeprefix('torch.')}",
            hint="run the reference in float32 or bfloat16",
            code="tensor-not-finite",
        )
    if bad:
        raise TensorError(
            f"{ref.path.name}: {ref.name} holds {bad} values that are NaN or infinite",
            hint="the training run diverged or the file is damaged: export an earlier checkpoint",
            code="tensor-not-finite",
        )
    return tensor.reshape(ref.shape).to(device)
