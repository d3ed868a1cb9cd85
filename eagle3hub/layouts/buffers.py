"""The vocabulary buffers of a folder: d2t and t2d, as bytes on disk and as a checked map."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence

from eagle3hub.checkpoint.folder import Checkpoint, read_tensor
from eagle3hub.checkpoint.tensors import TensorRef
from eagle3hub.errors import Problem, TensorError
from eagle3hub.head import Dims
from eagle3hub.layouts.names import BUFFERS
from eagle3hub.vocab import MASK_WIDTHS, VocabMap, check_vocab_map, mask_from, order_fault

_TYPECODES = {"I32": "i", "I64": "q"}

Read = tuple["VocabMap | None", str, "list[Problem]"]


def read_vocab_map(
    checkpoint: Checkpoint, d: Dims, stated: int | None, given: Sequence[int] | None, *, layout: str, sorted_rows: bool
) -> Read:
    """The vocabulary map of a folder, its status, and what is wrong with it.

    ``stated`` is the config's draft_vocab_size; it must be the number of rows of lm_head. ``given`` are offsets that
    take the place of the folder's d2t; a t2d that marks as many tokens must agree with them, any other is ignored.
    ``sorted_rows`` says whether heads of ``layout`` always have rows of lm_head in ascending order of token ids. A map
    that is a fault only for its order is returned with the fault.
    """
    if stated is not None and stated != d.draft_vocab_size:
        raise TensorError(
            f"lm_head.weight has {d.draft_vocab_size} rows but the config says draft_vocab_size {stated}",
            hint="config.json and weights are from different heads, or one of them was edited",
            code="tensor-shape",
        )
    d2t, t2d = (checkpoint.tensors.get(name) for name in BUFFERS)
    if given is None and d2t is not None and (d2t.dtype not in _TYPECODES or len(d2t.shape) != 1):
        problem = Problem("error", "vocab-dtype", f"d2t is {d2t.dtype} {list(d2t.shape)}, not a vector of I32 or I64")
        return None, "dtype", [problem]
    mask = None if t2d is None else read_mask(t2d)
    if t2d is not None and mask is None:
        message = f"t2d is {t2d.dtype} {list(t2d.shape)}, not a vector of booleans or integers"
        problem = Problem("error", "vocab-dtype", message)
        return None, "dtype", [problem]
    offsets = given if given is not None or d2t is None else _integers(d2t)
    if given is not None and mask is not None and mask.count(1) != d.draft_vocab_size:
        mask = None
    vocab, status, problems = check_vocab_map(
        offsets, mask, vocab_size=d.vocab_size, draft_vocab_size=d.draft_vocab_size
    )
    fault = None if vocab is None else order_fault(vocab, layout=layout, sorted_rows=sorted_rows)
    if vocab is None or fault is None:
        return vocab, status, problems
    return vocab if sorted_rows else None, fault.code.removeprefix("vocab-"), [fault]


def buffer_dtypes(checkpoint: Checkpoint) -> dict[str, str]:
    """Dtype of each vocabulary buffer the folder holds."""
    return {name: checkpoint.tensors[name].dtype for name in BUFFERS if name in checkpoint.tensors}


def read_mask(ref: TensorRef) -> bytes | None:
    """A mask over the vocabulary as one byte an entry (2 for what is neither 0 nor 1); None where it can be none."""
    if ref.dtype not in MASK_WIDTHS or len(ref.shape) != 1:
        return None
    return mask_from(read_tensor(ref), ref.dtype)


def _integers(ref: TensorRef) -> array[int]:
    """The values of an I32 or I64 tensor."""
    values = array(_TYPECODES[ref.dtype])
    values.frombytes(read_tensor(ref))
    if sys.byteorder == "big":
        values.byteswap()
    return values
