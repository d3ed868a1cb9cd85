"""Draft-to-target vocabulary maps: d2t and t2d, however they are stored, checked.

A head with a reduced vocabulary proposes *draft ids* 0 … V_d - 1; its map names the target token behind each.
On disk every trainer stores ``d2t`` as an *offset* (``target_id = draft_id + d2t[draft_id]``) and most add
``t2d``, a mask over the target vocabulary that is true for the tokens a draft id exists for. Engines add the
offsets without looking (vLLM ``model_executor/models/llama_eagle3.py``, SGLang
``srt/models/llama_eagle3.py``), so a wrong map loads everywhere and accepts nothing.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress, pairwise
from typing import Literal

from eagle3hub.errors import Hint, Problem

StoredAs = Literal["offset", "t2d"]

MASK_WIDTHS = {"BOOL": 1, "U8": 1, "I8": 1, "I16": 2, "I32": 4, "I64": 8}
"""Dtypes a mask may be stored in, with the bytes per entry."""
BUFFER_DTYPES = {"d2t": ("I32", "I64"), "t2d": tuple(MASK_WIDTHS)}
"""Dtypes that the buffers of a map may have."""


def of_maps(buffers: Mapping[str, str]) -> dict[str, str]:
    """The buffers, by their dtypes, that can be written so: a folder may hold a map that is none, in floats."""
    return {name: dtype for name, dtype in buffers.items() if dtype in BUFFER_DTYPES[name]}


_MAX_RESAVES = 8
"""The most resumed SpecJAX runs (each subtracts arange once more) that are recognised."""

_GET_D2T = Hint("get the d2t tensor from the training run and give it with --d2t FILE", "--d2t")
_IF_SORTED = Hint(
    "if the layout's own trainer made the head, its rows ascend, and --repair from-t2d takes the map from t2d",
    "--repair",
)
_AGAIN = Hint("export the head again, or give the run's own map with --d2t FILE; it cannot be guessed", "--d2t")
FAULTS = {
    "absolute": "it holds absolute ids where offsets belong",
    "arange": "it holds an identity of absolute ids where offsets belong",
    "double-subtracted": "arange was subtracted from it more than once",
    "dtype": "it is no vector of integers",
    "duplicate": "it gives two draft ids the same target id",
    "larger-than-target": "the draft vocabulary is larger than the target's",
    "missing": "nothing says which row of lm_head is which token",
    "out-of-range": "it gives target ids outside the vocabulary",
    "shape": "d2t or t2d has another number of entries than it should",
    "swapped": "d2t and t2d hold each other's content",
    "t2d-count": "t2d marks another number of tokens than lm_head has rows",
    "t2d-mismatch": "t2d marks other tokens than d2t gives",
    "t2d-values": "t2d holds values other than 0 and 1",
    "unsorted": "it is not in ascending order",
    "zero": "it is all zeros",
}
"""What is wrong with a map, in words with d2t as the subject, by the code of the fault without ``vocab-``."""
_ARANGE = "d2t[i] equals i everywhere: an identity of absolute ids was stored where offsets belong"
_AS_OFFSETS = Hint("--repair arange stores the identity as offsets", "--repair")
_FROM_T2D = Hint(
    "--repair from-t2d takes the map from t2d, for trainers that keep lm_head in ascending order of token ids",
    "--repair",
)
_FROM_D2T = Hint("--repair from-d2t makes the mask from d2t, which is a map by itself", "--repair")


@dataclass(frozen=True, slots=True)
class VocabMap:
    """A checked map of a reduced draft vocabulary.

    Attributes:
        target_id: int64, length V_d; ``target_id[draft_id]`` is a token id of the target.
        vocab_size: size V of the target vocabulary.
        stored_as: the buffer it was read from: offsets in d2t, or t2d alone.
    """

    target_id: array[int]
    vocab_size: int
    stored_as: StoredAs

    @property
    def draft_vocab_size(self) -> int:
        """V_d, the number of draft ids."""
        return len(self.target_id)

    @property
    def is_sorted(self) -> bool:
        """Whether target ids ascend (ModelOpt orders them by frequency instead)."""
        ids = self.target_id
        return all(a < b for a, b in pairwise(ids))

    def d2t_bytes(self, dtype: str) -> bytes:
        """``d2t`` as offsets, little-endian ``I32`` or ``I64``, shape [V_d]."""
        return array({"I32": "i", "I64": "q"}[dtype], (t - i for i, t in enumerate(self.target_id))).tobytes()

    def t2d_bytes(self) -> bytes:
        """``t2d`` as a mask, dtype ``BOOL`` or ``U8``, shape [V]."""
        mask = bytearray(self.vocab_size)
        for t in self.target_id:
            mask[t] = 1
        return bytes(mask)


def mask_from(stored: bytes, dtype: str) -> bytes:
    """A mask with one byte an entry, from little-endian bytes of a dtype of `MASK_WIDTHS`; other than 0 and 1 is 2."""
    width = MASK_WIDTHS[dtype]
    if width == 1:
        return stored
    entries = (stored[i : i + width] for i in range(0, len(stored), width))
    known = {value.to_bytes(width, "little"): value for value in (0, 1)}
    return bytes(known.get(entry, 2) for entry in entries)


def mask_as(mask: bytes, dtype: str) -> bytes:
    """A mask with one byte an entry as little-endian bytes of a dtype of `MASK_WIDTHS`."""
    out = bytearray(len(mask) * MASK_WIDTHS[dtype])
    out[:: MASK_WIDTHS[dtype]] = mask
    return bytes(out)


def check_vocab_map(
    d2t: Sequence[int] | None, t2d: bytes | None, *, vocab_size: int, draft_vocab_size: int
) -> tuple[VocabMap | None, str, list[Problem]]:
    """Decide what a pair of vocabulary buffers means.

    Args:
        d2t: the buffer as integers, length V_d, or None if absent.
        t2d: the mask as bytes of 0 and 1, length V, or None if absent.
        vocab_size: V. draft_vocab_size: V_d, from the rows of lm_head.

    Returns:
        The map (None for a full vocabulary or when it is wrong), a status word (``ok``, ``full``, or the code
        of the fault without ``vocab-``), and the problems found.
    """
    found = _find_fault(d2t, t2d, vocab_size, draft_vocab_size)
    if isinstance(found, Problem):
        return None, found.code.removeprefix("vocab-"), [found]
    if found is None:
        return None, "full", []
    first = found.draft_vocab_size < vocab_size and all(t == i for i, t in enumerate(found.target_id))
    return found, "ok", [_first_tokens(found)] if first else []


def _first_tokens(vocab: VocabMap) -> Problem:
    """The warning of a map that nobody chose, as far as one can tell; engines draft by it as it is."""
    message = (
        f"the draft vocabulary is the first {vocab.draft_vocab_size} of the target's {vocab.vocab_size} tokens: "
        "trainers begin with this map, and replace it by the tokens that are frequent in the data"
    )
    return Problem("warning", "vocab-prefix", message, "check in the training run that the head was trained with it")


def swapped_fault(vocab_size: int, draft_vocab_size: int) -> Problem:
    """The fault of two buffers that each hold what the other should."""
    return _fault(
        "swapped",
        f"d2t and t2d are swapped: d2t holds a mask of the target's {vocab_size} tokens, t2d the offsets of the "
        f"{draft_vocab_size} draft ids, and the other way round they agree",
        Hint("--repair swapped gives each its own content", "--repair"),
    )


def order_fault(vocab: VocabMap, *, sorted_rows: bool, trainer_sorts: bool) -> Problem | None:
    """The fault of a map that does not fit the order its layout keeps the rows of lm_head in, or None.

    Args:
        sorted_rows: whether every head of the layout has its rows in ascending order of token ids. If so, t2d alone
            tells which row belongs to which token, and a map in another order belongs to another head.
        trainer_sorts: whether the layout's own trainer keeps that order, though the layout can hold any.
    """
    if not sorted_rows and vocab.stored_as == "t2d":
        return _fault(
            "missing",
            f"there is no d2t for the {vocab.draft_vocab_size} rows of lm_head, and t2d alone does not say in which "
            "order they are: this layout may hold them in order of frequency",
            Hint.join([_GET_D2T, _IF_SORTED]) if trainer_sorts else _GET_D2T,
        )
    if sorted_rows and not vocab.is_sorted:
        i = next(i for i, (a, b) in enumerate(pairwise(vocab.target_id)) if a >= b)
        a, b = vocab.target_id[i : i + 2]
        return _fault(
            "unsorted",
            f"d2t is not in ascending order (draft ids {i} and {i + 1} are target ids {a} and {b}), and this layout's "
            "trainer always sorts it: the map is another head's, or another trainer made the head",
            Hint(
                "if ModelOpt made the head, say --from modelopt; if d2t is right for these weights, --resort-vocab "
                "puts rows and map into ascending order",
                "--from",
                "--resort-vocab",
            ),
        )
    return None


def _find_fault(d2t: Sequence[int] | None, t2d: bytes | None, v: int, vd: int) -> VocabMap | Problem | None:
    if vd > v:
        return _fault("larger-than-target", f"the draft vocabulary ({vd}) is larger than the target's ({v})")
    fault = _length_fault(d2t, t2d, v, vd)
    if fault:
        return fault
    if vd == v:
        return _full_vocabulary(d2t, t2d, v)
    members = None if t2d is None else list(compress(range(v), t2d))
    if members is not None and len(members) != vd:
        shown = {0: "is all false", v: "is all true"}.get(len(members), f"has {len(members)} true entries")
        return _fault(
            "t2d-count",
            f"t2d {shown} but the draft vocabulary has {vd} tokens: the map looks uninitialised",
            _FROM_D2T if len(members) in (0, v) and d2t is not None and is_map(d2t, v) else _AGAIN,
        )
    if d2t is None:
        if members is None:
            return _fault(
                "missing",
                f"lm_head has {vd} rows for a target vocabulary of {v}, but there is neither d2t nor t2d: "
                "an engine would take draft id i for target id i",
                _GET_D2T,
            )
        return VocabMap(array("q", members), v, "t2d")
    return _from_offsets(d2t, members, v, vd)


def _from_offsets(d2t: Sequence[int], members: list[int] | None, v: int, vd: int) -> VocabMap | Problem:
    if not any(d2t) and members != list(range(vd)):
        return _fault(
            "zero",
            f"d2t is all zeros with a reduced vocabulary of {vd} out of {v}: the map was never initialised",
            _FROM_T2D
            if members is not None
            else Hint(
                f"give the run's map with --d2t FILE, or --repair prefix if the first {vd} tokens are meant",
                "--d2t",
                "--repair",
            ),
        )
    if all(x == i for i, x in enumerate(d2t)):
        return _fault(
            "arange",
            _ARANGE,
            _AS_OFFSETS if members is None or members == list(range(vd)) else _FROM_T2D,
        )
    ids = [i + x for i, x in enumerate(d2t)]  # checked before it must fit 64 bits
    wrong = _wrong_ids(ids, v)
    if members is None:
        if wrong and not _wrong_ids(d2t, v) and len(d2t) > 1:
            return _absolute("as absolute ids they are all distinct and in range")
        return wrong or VocabMap(array("q", ids), v, "offset")
    if sorted(ids) == members:
        return VocabMap(array("q", ids), v, "offset")
    if sorted(d2t) == members:
        return _absolute("they equal the true entries of t2d")
    k = subtractions(d2t, members)
    if k is not None:
        return _fault(
            "double-subtracted",
            f"arange was subtracted {k} times from d2t (t2d shows it): SpecJAX does so each time a run resumes",
            Hint("--repair double-subtracted adds it back", "--repair"),
        )
    if wrong:
        return replace(wrong, hint=_FROM_T2D)
    missing = sorted(set(members).difference(ids))
    return _fault(
        "t2d-mismatch",
        f"d2t and t2d disagree: t2d marks {len(missing)} tokens that no draft id maps to (the first is {missing[0]})",
        Hint(
            "one of the two is from another head, and nothing here says which: give the run's map with --d2t FILE",
            "--d2t",
        ),
    )


def subtractions(d2t: Sequence[int], members: Sequence[int]) -> int | None:
    """How often arange was subtracted from ``members`` to give ``d2t``; None for less than twice."""
    for k in range(2, _MAX_RESAVES + 1):
        if all(x + k * i == m for i, (x, m) in enumerate(zip(d2t, members, strict=True))):
            return k
    return None


def is_map(d2t: Sequence[int], v: int) -> bool:
    """Whether ``d2t`` alone is a map that somebody filled in: offsets of distinct tokens, not all zero, not arange.

    Over a full vocabulary zeros are the identity.
    """
    unset = (not any(d2t) and len(d2t) < v) or all(x == i for i, x in enumerate(d2t))
    return not unset and _wrong_ids([i + x for i, x in enumerate(d2t)], v) is None


def _wrong_ids(ids: Sequence[int], v: int) -> Problem | None:
    if len(set(ids)) == len(ids) and 0 <= min(ids, default=0) <= max(ids, default=0) < v:
        return None
    for i, t in enumerate(ids):
        if not 0 <= t < v:
            return _fault("out-of-range", f"d2t maps draft id {i} to target id {t}, outside the vocabulary of {v}")
    seen: dict[int, int] = {}
    for i, t in enumerate(ids):
        if t in seen:
            return _fault("duplicate", f"d2t maps draft ids {seen[t]} and {i} to the same target id {t}")
        seen[t] = i
    return None


def _length_fault(d2t: Sequence[int] | None, t2d: bytes | None, v: int, vd: int) -> Problem | None:
    if d2t is not None and len(d2t) != vd:
        whole = t2d is not None and len(t2d) == v and t2d.count(1) == vd < v and not t2d.translate(None, b"\x00\x01")
        return _fault("shape", f"d2t has {len(d2t)} entries but lm_head has {vd} rows", _FROM_T2D if whole else _AGAIN)
    if t2d is not None and len(t2d) != v:
        message = f"t2d has {len(t2d)} entries but the target vocabulary has {v}"
        return _fault("shape", message, _FROM_D2T if d2t is not None and is_map(d2t, v) else _AGAIN)
    if t2d is not None and t2d.translate(None, b"\x00\x01"):
        return _fault(
            "t2d-values",
            "t2d holds values other than 0 and 1, so it is not a mask",
            _FROM_D2T if d2t is not None and is_map(d2t, v) else _AGAIN,
        )
    return None


def _full_vocabulary(d2t: Sequence[int] | None, t2d: bytes | None, v: int) -> VocabMap | Problem | None:
    """V_d = V: absent buffers, or zeros and all true, mean no map; other offsets are a permutation."""
    marked = v if t2d is None else t2d.count(1)
    if marked in (0, v) and d2t is not None and any(d2t) and all(x == i for i, x in enumerate(d2t)):
        return _fault("arange", _ARANGE, _AS_OFFSETS)
    if marked == 0:
        as_said = Hint("--repair prefix, if the draft vocabulary is the target's in its own order", "--repair")
        return _fault(
            "t2d-count",
            f"t2d is all false but the head covers all {v} tokens: the mask was never initialised",
            as_said if d2t is None else _FROM_D2T if is_map(d2t, v) else None,
        )
    if marked != v:
        return _fault("t2d-count", f"t2d has {marked} true entries but the head covers all {v} tokens")
    if d2t is None or not any(d2t):
        return None
    ids = [i + x for i, x in enumerate(d2t)]  # checked before it must fit 64 bits
    wrong = _wrong_ids(ids, v)
    if wrong is None:
        return VocabMap(array("q", ids), v, "offset")
    if not _wrong_ids(d2t, v):
        return _absolute("as absolute ids they are all distinct and in range")
    return wrong if t2d is None else replace(wrong, hint=_FROM_T2D)


def _absolute(evidence: str) -> Problem:
    return _fault(
        "absolute",
        f"d2t holds absolute target ids where offsets belong ({evidence}): engines would add the index once more",
        Hint("--repair absolute turns them into offsets", "--repair"),
    )


def _fault(code: str, message: str, hint: str | None = None) -> Problem:
    return Problem("error", f"vocab-{code}", message, hint or _AGAIN)
