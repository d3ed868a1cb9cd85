"""Edits of the vocabulary map: repair one that is wrong in a known way, or read one from a file."""

from __future__ import annotations

import re
import struct
from array import array
from ast import literal_eval
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from eagle3hub.checkpoint.safetensors import TensorRef, is_pickle, read_header
from eagle3hub.conversion.edits.change import Change, with_map
from eagle3hub.errors import Hint, Problem, SourceError, UsageError, VocabMapError
from eagle3hub.head import Head
from eagle3hub.head.vocab import VocabMap, check_vocab_map, is_map, order_fault, subtractions
from eagle3hub.layouts.base import READERS
from eagle3hub.layouts.nemo import SELECTED
from eagle3hub.layouts.tensors import BUFFERS, read_integers, read_mask, swapped_map
from eagle3hub.system.reading import opened

# Repairs of a vocabulary map: each is requested by name, and made only if the buffers prove it right.


_OF_NAMES = "swapped"
"""The repair of the two names alone; the others compute a map from what either buffer holds."""
REPAIRS = ("absolute", "double-subtracted", "arange", "from-t2d", "from-d2t", "prefix", _OF_NAMES)
"""Repairs that can be requested by name; each fits only certain faults."""


@dataclass(frozen=True, slots=True)
class Repaired:
    """A map after a repair, and the evidence that the repair is right."""

    vocab: VocabMap
    evidence: str


def repair_vocab_map(
    name: str, d2t: Sequence[int] | None, t2d: bytes | None, *, vocab_size: int, draft_vocab_size: int
) -> Repaired:
    """Repair a pair of vocabulary buffers with the repair called ``name``, one of `REPAIRS`.

    The buffers are those of `check_vocab_map`. Raises VocabMapError if this repair does not fit the fault, so no
    repair is ever a guess.
    """
    vocab, status, problems = check_vocab_map(d2t, t2d, vocab_size=vocab_size, draft_vocab_size=draft_vocab_size)
    if name == "from-t2d" and vocab is not None and vocab.stored_as == "t2d":
        return Repaired(vocab, f"t2d marks exactly {draft_vocab_size} tokens and there is no d2t")
    if not problems:
        raise _nothing_to_repair(name, status)
    repaired = _repair(name, status, d2t, t2d, vocab_size, draft_vocab_size)
    if repaired is not None:
        return repaired
    raise _unfit(name, problems[0])


def _unfit(name: str, fault: Problem) -> VocabMapError:
    return VocabMapError(
        f"--repair {name} does not fit what is wrong here: {fault.message}",
        hint=fault.hint,
        code="vocab-repair-unfit",
    )


def _nothing_to_repair(name: str, status: str) -> VocabMapError:
    return VocabMapError(
        f"--repair {name}: there is nothing to repair, the vocabulary map is {status}",
        hint="leave the option out",
        code="vocab-nothing-to-repair",
    )


def _repair(name: str, status: str, d2t: Sequence[int] | None, t2d: bytes | None, v: int, vd: int) -> Repaired | None:
    members = None if t2d is None or len(t2d) != v else [i for i, m in enumerate(t2d) if m]
    unset = vd == v and not members  # for a full vocabulary, a mask means something only if it is all true
    prefix = members is None or unset or members == list(range(vd))
    ids: Sequence[int] | None = None
    evidence = ""
    if name == status == "absolute" and d2t is not None:
        ids, evidence = (
            d2t,
            "as absolute ids they are distinct and in range"
            + (" and equal the true entries of t2d" if members is not None else "; as offsets they are not"),
        )
    elif name == status == "double-subtracted" and d2t is not None and members is not None:
        k = subtractions(d2t, members)
        ids, evidence = members, f"d2t + {k} * arange equals the true entries of t2d"
    elif name == status == "arange" and prefix:
        ids = range(vd)
        evidence = "d2t[i] = i is the identity in absolute ids" + (
            f", and t2d marks the first {vd} tokens" if members else ""
        )
    elif name == "prefix" and prefix and (status == "zero" or (status == "t2d-count" and unset and d2t is None)):
        ids, evidence = range(vd), f"that the draft vocabulary is the first {vd} tokens was given on the command line"
    elif (
        name == "from-t2d"
        and status in {"zero", "arange", "out-of-range", "duplicate", "shape"}
        and members is not None
        and t2d is not None
        and len(members) == vd
        and not t2d.translate(None, b"\x00\x01")
        and not (status == "arange" and prefix)
    ):
        ids, evidence = members, f"t2d marks exactly {vd} tokens and d2t is no map ({status})"
    elif (
        name == "from-d2t"
        and d2t is not None
        and (
            status == "t2d-values"
            or (status == "t2d-count" and len(members or ()) in (0, v))
            or (status == "shape" and t2d is not None and len(t2d) != v)
        )
        and len(d2t) == vd
        and is_map(d2t, v)
    ):
        ids, evidence = [i + x for i, x in enumerate(d2t)], "d2t maps to distinct tokens by itself and t2d is no mask"
    return None if ids is None else Repaired(VocabMap(array("q", ids), v, "offset"), evidence)


def repair_vocab(head: Head, names: Sequence[str]) -> tuple[Head, list[Change]]:
    """Apply the repairs called ``names`` to the vocabulary map of ``head``.

    Raises UsageError for a repair that does not exist, and VocabMapError for one that does not fit.
    """
    changes: list[Change] = []
    for name in names:
        if name not in REPAIRS:
            raise UsageError(
                f"there is no repair called {name}", hint=f"choose one of {', '.join(REPAIRS)}", code="usage-repair"
            )
        if name == "from-t2d" and not READERS[head.layout].contract.trainer_sorts:
            raise VocabMapError(
                f"--repair from-t2d needs a trainer that keeps lm_head in ascending order; {head.layout} does not say",
                hint=Hint("give the run's own map with --d2t FILE", "--d2t"),
                code="vocab-repair-unfit",
            )
        if changes:
            raise UsageError("a map needs one --repair, not several", code="usage-repair")
        if head.vocab_status == "ok":
            raise _nothing_to_repair(name, head.vocab_status)
        for fault in head.problems:
            if fault.code == "vocab-unsorted" or (fault.code == "vocab-swapped" and name != _OF_NAMES):
                raise _unfit(name, fault)
        d2t, t2d = _raw_buffers(head)
        d = head.dims
        if name == _OF_NAMES == head.vocab_status:
            head, repaired = _swapped_back(head)
        else:
            repaired = repair_vocab_map(name, d2t, t2d, vocab_size=d.vocab_size, draft_vocab_size=d.draft_vocab_size)
        identity = list(repaired.vocab.target_id) == list(range(d.vocab_size))
        head = _with_ordered_map(head, None if identity else repaired.vocab)
        buffers = sorted(head.buffers)
        changes.append(Change(f"repair:{name}", "the vocabulary map was repaired", repaired.evidence, buffers, True))
    return head, changes


def _swapped_back(head: Head) -> tuple[Head, Repaired]:
    """The head with its buffers under each other's names, and their map."""
    d, (d2t, t2d) = head.dims, _stored_buffers(head)
    vocab = swapped_map(d2t, t2d, d.vocab_size, d.draft_vocab_size)
    assert vocab is not None, "what reading found"
    dtypes = {"d2t": head.buffers["t2d"], "t2d": head.buffers["d2t"]}
    return replace(head, buffers=dtypes), Repaired(vocab, "t2d holds offsets to exactly the tokens that d2t marks")


# A vocabulary map from a file, for heads that have none or a wrong one.


_UNSURE = frozenset({"t2d-mismatch", "t2d-values", "t2d-count"})
"""Faults in which t2d may be wrong as well as d2t."""

_NPY = b"\x93NUMPY"
_NPY_INTEGERS = re.compile("([<>|=]?)([iu])([1248])")
_NO_NPY = (
    *(ValueError, LookupError, TypeError, ArithmeticError, struct.error),
    *(SyntaxError, RecursionError, MemoryError),
)
"""What a damaged file raises; the last three of a header that is no Python literal, or a very deep one."""
_LONGEST_HEADER = 10_000
"""Where numpy stops too: what is longer is no vector's."""


def supply_map(head: Head, file: str | Path) -> tuple[Head, Change]:
    """Give ``head`` the map in ``file``: .npy, safetensors or a torch pickle, with d2t alone or d2t and t2d.

    The file may hold offsets or absolute ids. The reading that gives a map of this head is taken, and t2d must agree
    if there is one; if both readings fit, the file is refused. Raises SourceError or CheckpointError for a file that
    cannot be read, and VocabMapError for one that holds no map for this head or contradicts a map the head already
    has.
    """
    d2t, t2d = _read(Path(file).expanduser())
    name = Path(file).name
    own_d2t, own_t2d = _raw_buffers(head)
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
            hint=Hint("leave --d2t out, or find out which of the two belongs to these weights", "--d2t"),
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
    return _with_ordered_map(head, None if list(ids) == list(range(d.vocab_size)) else vocab), change


def _stored_buffers(head: Head) -> tuple[TensorRef | None, TensorRef | None]:
    tensors = {} if head.opened is None else head.opened.tensors
    d2t, t2d = (tensors.get(head.other_names.get(name, name)) for name in BUFFERS)
    return d2t, t2d


def _raw_buffers(head: Head) -> tuple[array[int] | None, bytes | None]:
    """The source's d2t as integers and t2d as bytes, right or wrong; None if absent or of an unusable dtype."""
    d2t, t2d = _stored_buffers(head)
    return None if d2t is None else read_integers(d2t), None if t2d is None else read_mask(t2d)


def _with_ordered_map(head: Head, vocab: VocabMap | None) -> Head:
    """The head with another map, and with a problem if the map is not in the order that its layout's trainer keeps."""
    head = with_map(head, vocab)
    if vocab is None or not READERS[head.layout].contract.sorted_rows:
        return head
    fault = order_fault(vocab, sorted_rows=True, trainer_sorts=True)
    if fault is None:
        return head
    return replace(head, vocab_status=fault.code.removeprefix("vocab-"), problems=[*head.problems, fault])


def _agree_with_mask(name: str, vocab: VocabMap, own_t2d: bytes) -> None:
    mask = vocab.t2d_bytes()
    if mask != own_t2d:
        first = next(i for i, (a, b) in enumerate(zip(mask, own_t2d, strict=True)) if a != b)
        raise VocabMapError(
            f"{name} and the head's t2d disagree about target id {first}",
            hint=Hint(
                "the file belongs to another head; where lm_head is in ascending order, --repair from-t2d helps",
                "--repair",
            ),
            code="vocab-supplied-conflict",
        )


def _counts(t2d: bytes | None, v: int, vd: int) -> bool:
    return t2d is not None and len(t2d) == v and not t2d.translate(None, b"\x00\x01") and t2d.count(1) == vd


def _settle(name: str, d2t: Sequence[int], mask: bytes | None, v: int) -> tuple[array[int], str]:
    """Return the target ids, and a few words on how they were stored."""
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
        # ascending absolute ids nearly always end above V - V_d, where they would be no offsets
        sound.pop("absolute target ids")
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
    if not is_pickle(start):
        return _from_tensors(path, read_header(path).tensors)
    from eagle3hub.checkpoint.pickles import read_pickle_tensors

    return _from_tensors(path, read_pickle_tensors(path))


def _from_tensors(path: Path, tensors: Mapping[str, TensorRef]) -> tuple[array[int], bytes | None]:
    d2t = tensors.get("d2t") or tensors.get(SELECTED) or (next(iter(tensors.values())) if len(tensors) == 1 else None)
    t2d = tensors.get("t2d")
    ids = None if d2t is None else read_integers(d2t)
    if ids is None:
        names = ", ".join(sorted(tensors)[:4]) or "nothing"
        raise VocabMapError(
            f"{path.name} holds no integer vector called d2t (it holds {names})",
            hint="save the map as one int64 vector, or as {'d2t': …, 't2d': …}",
            code="vocab-supplied-format",
        )
    return ids, None if t2d is None else read_mask(t2d)


def _from_npy(path: Path) -> array[int]:
    """Read a file in numpy's format: magic, version, length of the header, the header (a Python literal), the numbers.

    Source: ``numpy.lib.format`` of numpy 2.
    """
    with opened(path) as f:
        data = f.read()
    try:
        dtype, shape, start = _npy_header(data)
        kind = _NPY_INTEGERS.fullmatch(dtype)
        if kind is not None and len(shape) == 1:
            order, sign, size = kind.groups()
            code = ("bhiq" if sign == "i" else "BHIQ")["1248".index(size)]
            return array("q", struct.unpack_from(f"{'>' if order == '>' else '<'}{shape[0]}{code}", data, start))
    except _NO_NPY as e:
        raise SourceError(f"{path} is not a readable .npy file: {e}", code="source-npy") from e
    raise VocabMapError(
        f"{path.name} holds {dtype} {list(shape)}, not a vector of integers",
        hint="save the map as one int64 vector",
        code="vocab-supplied-format",
    )


def _npy_header(data: bytes) -> tuple[str, tuple[int, ...], int]:
    """The dtype, as numpy writes it, the shape, and where the numbers begin."""
    at = len(_NPY) + 2
    start = at + (2 if data[len(_NPY)] == 1 else 4)
    end = start + int.from_bytes(data[at:start], "little")
    if not start < end <= min(len(data), _LONGEST_HEADER):
        raise ValueError("its header is cut off, or too long")
    header = literal_eval(data[start:end].decode().strip())
    shape = tuple(header["shape"])
    if not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError(f"its shape is {shape}")
    return str(header["descr"]), shape, end
