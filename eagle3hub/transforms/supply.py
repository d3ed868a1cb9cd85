"""A vocabulary map from a file of its own, for heads that came without one or with a wrong one."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from eagle3hub.checkpoint.header import read_header
from eagle3hub.checkpoint.pickles import is_pickle, read_pickle_tensors
from eagle3hub.checkpoint.tensors import TensorRef
from eagle3hub.errors import SourceError, VocabMapError
from eagle3hub.head import Head
from eagle3hub.layouts.buffers import read_mask
from eagle3hub.reading import opened
from eagle3hub.transforms.change import Change, with_ordered_map
from eagle3hub.transforms.raw import INTEGERS, integers, raw_buffers
from eagle3hub.vocab import VocabMap, check_vocab_map

_UNSURE = frozenset({"t2d-mismatch", "t2d-values", "t2d-count"})
"""Faults in which t2d is as likely wrong as d2t."""

_NPY = b"\x93NUMPY"


def supply_map(head: Head, file: str | Path) -> tuple[Head, Change]:
    """Give ``head`` the map in ``file``: .npy, safetensors or a torch pickle, with d2t alone or d2t and t2d.

    Whether it holds offsets or absolute ids is decided by which of the two is a map at all, by t2d where there is
    one, and else refused. Raises SourceError or CheckpointError for a file that cannot be read, VocabMapError for one
    that holds no map for this head, or contradicts a map the head already has.
    """
    d2t, t2d = _read(Path(file).expanduser())
    name = Path(file).name
    own_d2t, own_t2d = raw_buffers(head)
    d = head.dims
    if len(d2t) != d.draft_vocab_size:
        raise VocabMapError(
            f"{name} holds {len(d2t)} entries but lm_head has {d.draft_vocab_size} rows",
            hint="it belongs to another head",
            code="vocab-supplied-shape",
        )
    sound = _counts(own_t2d, d.vocab_size, d.draft_vocab_size) and head.vocab_status not in _UNSURE
    mask = t2d if t2d is not None else own_t2d if sound else None
    ids, kind = _settle(name, d2t, mask, d.vocab_size)
    vocab = VocabMap(ids, d.vocab_size, "offset")
    if head.vocab_status == "ok" and head.vocab_map is not None and head.vocab_map.target_id != ids:
        first = next(i for i, (a, b) in enumerate(zip(ids, head.vocab_map.target_id, strict=True)) if a != b)
        raise VocabMapError(
            f"{name} maps draft id {first} to target id {ids[first]}, but the head has a sound map of its own that "
            f"says {head.vocab_map.target_id[first]}",
            hint="leave --d2t out, or find out which of the two belongs to these weights",
            code="vocab-supplied-conflict",
        )
    if sound and own_t2d is not None:
        _agree_with_mask(name, vocab, own_t2d)
    same = own_d2t is not None and array("q", (t - i for i, t in enumerate(ids))) == array("q", own_d2t)
    evidence = f"{name} holds {kind}: {d.draft_vocab_size} distinct target ids below {d.vocab_size}"
    if mask is not None and vocab.t2d_bytes() == mask:
        evidence += ", exactly those t2d marks"
    if same:
        evidence += "; the head's own d2t says the same"
    change = Change("d2t", f"the vocabulary map was taken from {name}", evidence, ["d2t"])
    return with_ordered_map(head, None if list(ids) == list(range(d.vocab_size)) else vocab), change


def _agree_with_mask(name: str, vocab: VocabMap, own_t2d: bytes) -> None:
    mask = vocab.t2d_bytes()
    if mask != own_t2d:
        first = next(i for i, (a, b) in enumerate(zip(mask, own_t2d, strict=True)) if a != b)
        raise VocabMapError(
            f"{name} and the head's t2d disagree about target id {first}",
            hint="the file belongs to another head; where lm_head is in ascending order, --repair from-t2d helps",
            code="vocab-supplied-conflict",
        )


def _counts(t2d: bytes | None, v: int, vd: int) -> bool:
    return t2d is not None and len(t2d) == v and not t2d.translate(None, b"\x00\x01") and t2d.count(1) == vd


def _settle(name: str, d2t: Sequence[int], mask: bytes | None, v: int) -> tuple[array[int], str]:
    """The target ids, and in words how they were stored."""
    readings = {
        "offsets": array("q", (i + x for i, x in enumerate(d2t))),
        "absolute target ids": array("q", d2t),
    }
    sound = {
        kind: ids
        for kind, ids in readings.items()
        if len(set(ids)) == len(ids) and min(ids) >= 0 and max(ids) < v and (mask is None or _marked(ids, mask))
    }
    if len(sound) == 2 and mask is None and all(a <= b for a, b in pairwise(d2t)):
        # ascending ids as offsets never end above V - V_d; ascending absolute ids nearly always do
        sound.pop("offsets" if d2t[-1] > v - len(d2t) else "absolute target ids")
    if len(sound) == 1:
        ((kind, ids),) = sound.items()
        return ids, kind
    if sound:
        raise VocabMapError(
            f"{name} can be read as offsets and as absolute target ids, and nothing says which it is",
            hint="save it together with its mask, as {'d2t': …, 't2d': …}",
            code="vocab-supplied-ambiguous",
        )
    _, status, problems = check_vocab_map(d2t, mask, vocab_size=v, draft_vocab_size=len(d2t))
    detail = problems[0].message if problems else f"its map is {status}"
    raise VocabMapError(
        f"{name} is no map for this head, neither as offsets nor as absolute ids: {detail}",
        hint="it belongs to another head, or was never initialised",
        code="vocab-supplied-wrong",
    )


def _marked(ids: Sequence[int], mask: bytes) -> bool:
    return all(mask[t] for t in ids)


def _read(path: Path) -> tuple[array[int], bytes | None]:
    try:
        with opened(path) as f:
            start = f.read(9)
    except OSError as e:
        raise SourceError(f"cannot read {path}: {e.strerror}", code="source-unreadable") from e
    if start.startswith(_NPY):
        return _from_npy(path), None
    return _from_tensors(path, read_pickle_tensors(path) if is_pickle(start) else read_header(path).tensors)


def _from_tensors(path: Path, tensors: Mapping[str, TensorRef]) -> tuple[array[int], bytes | None]:
    d2t = tensors.get("d2t") or (next(iter(tensors.values())) if len(tensors) == 1 else None)
    t2d = tensors.get("t2d")
    if d2t is None or d2t.dtype not in INTEGERS or len(d2t.shape) != 1:
        names = ", ".join(sorted(tensors)[:4]) or "nothing"
        raise VocabMapError(
            f"{path.name} holds no integer vector called d2t (it holds {names})",
            hint="save the map as one int64 vector, or as {'d2t': …, 't2d': …}",
            code="vocab-supplied-format",
        )
    return integers(d2t), None if t2d is None else read_mask(t2d)


def _from_npy(path: Path) -> array[int]:
    import numpy as np

    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as e:
        raise SourceError(f"{path} is not a readable .npy file: {e}", code="source-npy") from e
    if values.ndim != 1 or values.dtype.kind not in "iu":
        raise VocabMapError(
            f"{path.name} holds {values.dtype} {list(values.shape)}, not a vector of integers",
            hint="save the map as one int64 vector",
            code="vocab-supplied-format",
        )
    out = array("q")
    out.frombytes(values.astype("<i8").tobytes())
    if sys.byteorder == "big":
        out.byteswap()
    return out
