"""Repairs of a vocabulary map, each asked for by name and each only where what is there proves it right."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from eagle3hub.errors import Problem, UsageError, VocabMapError
from eagle3hub.head import Head
from eagle3hub.transforms.change import Change, with_ordered_map
from eagle3hub.transforms.raw import raw_buffers
from eagle3hub.vocab import SORTED_TRAINERS, VocabMap, check_vocab_map, is_map, subtractions

REPAIRS = ("absolute", "double-subtracted", "arange", "from-t2d", "from-d2t", "prefix")
"""Repairs that can be asked for by name; each fits certain faults only."""


@dataclass(frozen=True, slots=True)
class Mended:
    """A map after a repair, and what shows that the repair is right."""

    vocab: VocabMap
    evidence: str


def repair_vocab_map(
    name: str, d2t: Sequence[int] | None, t2d: bytes | None, *, vocab_size: int, draft_vocab_size: int
) -> Mended:
    """Mend a pair of vocabulary buffers in the way called ``name``, one of `REPAIRS`.

    The buffers are those of `check_vocab_map`. Raises VocabMapError where this repair does not fit the fault, so
    that nothing is ever repaired on a guess.
    """
    vocab, status, problems = check_vocab_map(d2t, t2d, vocab_size=vocab_size, draft_vocab_size=draft_vocab_size)
    if name == "from-t2d" and vocab is not None and vocab.spelling == "t2d":
        return Mended(vocab, f"t2d marks exactly {draft_vocab_size} tokens and there is no d2t")
    if not problems:
        raise _nothing_to_repair(name, status)
    mended = _mend(name, status, d2t, t2d, vocab_size, draft_vocab_size)
    if mended is not None:
        return mended
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


def _mend(name: str, status: str, d2t: Sequence[int] | None, t2d: bytes | None, v: int, vd: int) -> Mended | None:
    members = None if t2d is None or len(t2d) != v else [i for i, m in enumerate(t2d) if m]
    unset = vd == v and not members  # a mask over a full vocabulary can only be all true, so that it says nothing
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
        ids, evidence = range(vd), f"that the draft vocabulary is the first {vd} tokens was said on the command line"
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
        and (status == "t2d-values" or (status == "t2d-count" and len(members or ()) in (0, v)))
        and len(d2t) == vd
        and is_map(d2t, v)
    ):
        ids, evidence = [i + x for i, x in enumerate(d2t)], "d2t maps to distinct tokens by itself and t2d is no mask"
    return None if ids is None else Mended(VocabMap(array("q", ids), v, "offset"), evidence)


def repair_vocab(head: Head, names: Sequence[str]) -> tuple[Head, list[Change]]:
    """Apply the repairs called ``names`` to the vocabulary map of ``head``.

    Raises UsageError for a name that does not exist, VocabMapError for one that does not fit.
    """
    changes: list[Change] = []
    for name in names:
        if name not in REPAIRS:
            raise UsageError(
                f"there is no repair called {name}", hint=f"choose one of {', '.join(REPAIRS)}", code="usage-repair"
            )
        if name == "from-t2d" and head.layout not in SORTED_TRAINERS:
            raise VocabMapError(
                f"--repair from-t2d needs a trainer that keeps lm_head in ascending order; {head.layout} does not say",
                hint="give the run's own map with --d2t FILE",
                code="vocab-repair-unfit",
            )
        if changes:
            raise UsageError("a map needs one --repair, not several", code="usage-repair")
        if head.vocab_status == "ok":
            raise _nothing_to_repair(name, head.vocab_status)
        for fault in head.problems:
            if fault.code == "vocab-unsorted":
                raise _unfit(name, fault)
        d2t, t2d = raw_buffers(head)
        d = head.dims
        mended = repair_vocab_map(name, d2t, t2d, vocab_size=d.vocab_size, draft_vocab_size=d.draft_vocab_size)
        identity = list(mended.vocab.target_id) == list(range(d.vocab_size))
        head = with_ordered_map(head, None if identity else mended.vocab)
        buffers = sorted(head.buffers)
        changes.append(Change(f"repair:{name}", "the vocabulary map was repaired", mended.evidence, buffers, True))
    return head, changes
