"""The vocabulary buffers of a source as they are on disk, right or wrong."""

from __future__ import annotations

import sys
from array import array

from eagle3hub.checkpoint.folder import open_checkpoint, read_tensor
from eagle3hub.checkpoint.tensors import TensorRef
from eagle3hub.head import Head
from eagle3hub.layouts.buffers import read_mask

INTEGERS = {"I32": "i", "I64": "q"}


def raw_buffers(head: Head) -> tuple[array[int] | None, bytes | None]:
    """d2t as integers and t2d as bytes; None for one that is absent or of no usable dtype."""
    tensors = open_checkpoint(head.source, headers_only=True).tensors
    d2t, t2d = (tensors.get(head.other_names.get(name, name)) for name in ("d2t", "t2d"))
    ids = integers(d2t) if d2t is not None and d2t.dtype in INTEGERS and len(d2t.shape) == 1 else None
    return ids, None if t2d is None else read_mask(t2d)


def integers(ref: TensorRef) -> array[int]:
    """The values of an I32 or I64 tensor."""
    values = array(INTEGERS[ref.dtype])
    values.frombytes(read_tensor(ref))
    if sys.byteorder == "big":
        values.byteswap()
    return values
