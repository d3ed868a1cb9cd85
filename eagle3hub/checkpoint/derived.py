"""Tensors that are computed from others while they are copied: pieces in another order, or another dtype.

A derived tensor holds no data. `eagle3hub.checkpoint.streaming` produces its bytes a few megabytes at a time, so
that writing it and verifying it need the same small buffers as a copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from eagle3hub.checkpoint.dtypes import BITS
from eagle3hub.checkpoint.tensors import TensorRef
from eagle3hub.errors import TensorError


@dataclass(frozen=True, slots=True, kw_only=True)
class DerivedRef(TensorRef):
    """A tensor made of the bytes of ``source``: first its pieces are reordered, then the numbers are cast.

    ``path`` and ``offset`` are those of the source; ``dtype`` and ``nbytes`` are those of the result.

    Attributes:
        source: where the bytes lie, as they are on disk.
        order: the source is cut into blocks of ``len(order)`` pieces of ``piece`` bytes; piece i of a block of the
            result is piece ``order[i]`` of that block. Empty where nothing is reordered.
        piece: bytes of a piece, in the source's dtype.
    """

    source: TensorRef
    order: tuple[int, ...] = ()
    piece: int = 0


def reordered(ref: TensorRef, order: Sequence[int], piece: int) -> TensorRef:
    """``ref`` with its pieces of ``piece`` bytes reordered inside every block of ``len(order)`` pieces.

    Raises TensorError where the blocks do not divide the tensor, or it has been reordered or cast before.
    """
    order = tuple(order)
    if sorted(order) != list(range(len(order))):
        raise ValueError("order is not a permutation")
    if isinstance(ref, DerivedRef):
        raise TensorError(f"{ref.name} can only be reordered as it is in the source", code="tensor-derived")
    if not order or not piece or ref.nbytes % (piece * len(order)):
        raise TensorError(
            f"{ref.name} ({ref.nbytes} bytes) is not made of blocks of {len(order)} pieces of {piece} bytes",
            code="tensor-shape",
        )
    if order == tuple(range(len(order))):
        return ref
    place = (ref.name, ref.dtype, ref.shape, ref.path, ref.offset, ref.nbytes)
    return DerivedRef(*place, source=ref, order=order, piece=piece)


def cast(ref: TensorRef, dtype: str) -> TensorRef:
    """``ref`` as ``dtype`` (F16, BF16 or F32), rounded to nearest even."""
    if ref.dtype == dtype:
        return ref
    nbytes = ref.num_elements * BITS[dtype] // 8
    if isinstance(ref, DerivedRef):
        return replace(ref, dtype=dtype, nbytes=nbytes)
    return DerivedRef(ref.name, dtype, ref.shape, ref.path, ref.offset, nbytes, source=ref)


def how_derived(ref: TensorRef) -> str:
    """In words: what is done to a tensor's bytes on their way."""
    if not isinstance(ref, DerivedRef):
        return "copied"
    steps = ["reordered"] if ref.order else []
    steps += [f"cast from {ref.source.dtype}"] if ref.source.dtype != ref.dtype else []
    return ", ".join(steps)
