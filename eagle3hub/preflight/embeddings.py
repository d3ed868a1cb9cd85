"""Whether the embed_tokens of a head are the target's: several engines use the target's whatever the head brings."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from eagle3hub.checkpoint.folder import Checkpoint, open_checkpoint
from eagle3hub.checkpoint.tensors import TensorRef
from eagle3hub.errors import InputError
from eagle3hub.head import Head
from eagle3hub.reading import opened

Embedding = Literal["none", "own", "differs", "same"]

_OF_HEAD = ("embed_tokens.weight", "model.embed_tokens.weight")
_OF_TARGET = ("model.embed_tokens.weight", "model.language_model.embed_tokens.weight", "embed_tokens.weight")
_CHUNK = 4 << 20


def target_embeddings(head: Head, target: str | None) -> Checkpoint | None:
    """The target's folder, opened, where comparing embeddings makes sense and is possible; else None."""
    if target is None or "embed_tokens.weight" not in head.tensors or not Path(target).expanduser().is_dir():
        return None
    try:
        return open_checkpoint(target)
    except InputError:
        return None


def compare_embeddings(head: Checkpoint, target: Checkpoint) -> Literal["differs", "same"] | None:
    """Whether two embeddings hold the same bytes; None where one is not at hand or they differ in dtype or shape."""
    ours, theirs = _first(head, _OF_HEAD), _first(target, _OF_TARGET)
    if ours is None or theirs is None or ours.remote is not None:
        return None
    if (ours.dtype, ours.shape) != (theirs.dtype, theirs.shape):
        return None
    return "same" if _same(ours, theirs) else "differs"


def _first(checkpoint: Checkpoint, names: tuple[str, ...]) -> TensorRef | None:
    return next((checkpoint.tensors[n] for n in names if n in checkpoint.tensors), None)


def _same(a: TensorRef, b: TensorRef) -> bool:
    with opened(a.path) as one, opened(b.path) as two:
        one.seek(a.offset)
        two.seek(b.offset)
        left = a.nbytes
        while left:
            count = min(_CHUNK, left)
            if one.read(count) != two.read(count):
                return False
            left -= count
    return True
