from __future__ import annotations

import random
from array import array

import pytest

from eagle3hub.head.vocab import MASK_WIDTHS, VocabMap, check_vocab_map, mask_as, mask_from, order_fault, subtractions

V, VD = 40, 10
IDS = [0, 3, 4, 9, 11, 20, 21, 30, 33, 39]
OFFSETS = [t - i for i, t in enumerate(IDS)]
MASK = bytes(1 if t in IDS else 0 for t in range(V))


def status(d2t, t2d, vocab_size=V, draft_vocab_size=VD):
    vocab, word, problems = check_vocab_map(d2t, t2d, vocab_size=vocab_size, draft_vocab_size=draft_vocab_size)
    errors = [p for p in problems if p.severity == "error"]
    assert (vocab is None and word != "full") == bool(errors)
    assert all(p.code == f"vocab-{word}" for p in errors)
    return word


def test_offsets_with_mask_are_read():
    vocab, word, problems = check_vocab_map(OFFSETS, MASK, vocab_size=V, draft_vocab_size=VD)
    assert (word, problems) == ("ok", [])
    assert isinstance(vocab, VocabMap)
    assert list(vocab.target_id) == IDS
    assert vocab.is_sorted
    assert vocab.t2d_bytes() == MASK
    assert list(memoryview(vocab.d2t_bytes("I32")).cast("i")) == OFFSETS
    assert list(memoryview(vocab.d2t_bytes("I64")).cast("q")) == OFFSETS


@pytest.mark.parametrize("d2t", [[0] * VD, None])
def test_a_map_of_the_first_tokens_is_doubted(d2t):
    """Zeros beside a mask of the first tokens are offsets as they should be, and what a trainer begins with."""
    first = bytes([1] * VD + [0] * (V - VD))
    vocab, word, problems = check_vocab_map(d2t, first, vocab_size=V, draft_vocab_size=VD)
    assert vocab is not None and (word, list(vocab.target_id)) == ("ok", list(range(VD)))
    assert [(p.severity, p.code) for p in problems] == [("warning", "vocab-prefix")]
    assert "the first 10 of the target's 40 tokens" in problems[0].message
    moved = [*range(VD - 1), VD]
    _, _, problems = check_vocab_map([t - i for i, t in enumerate(moved)], None, vocab_size=V, draft_vocab_size=VD)
    assert problems == []


def test_mask_alone_is_a_sorted_map():
    vocab, word, _ = check_vocab_map(None, MASK, vocab_size=V, draft_vocab_size=VD)
    assert word == "ok"
    assert vocab is not None
    assert list(vocab.target_id) == IDS
    assert vocab.stored_as == "t2d"


def test_frequency_order_is_a_map_but_not_sorted():
    shuffled = IDS[:]
    random.Random(1).shuffle(shuffled)
    vocab, word, _ = check_vocab_map([t - i for i, t in enumerate(shuffled)], MASK, vocab_size=V, draft_vocab_size=VD)
    assert word == "ok"
    assert vocab is not None
    assert not vocab.is_sorted
    assert list(vocab.target_id) == shuffled


@pytest.mark.parametrize(
    ("d2t", "t2d", "word"),
    [
        (None, None, "missing"),
        ([0] * VD, MASK, "zero"),
        ([0] * VD, None, "zero"),
        (list(range(VD)), MASK, "arange"),
        (list(range(VD)), None, "arange"),
        (IDS, MASK, "absolute"),
        (IDS, None, "absolute"),
        ([t - 2 * i for i, t in enumerate(IDS)], MASK, "double-subtracted"),
        ([t - 5 * i for i, t in enumerate(IDS)], MASK, "double-subtracted"),
        ([*OFFSETS[:-1], V], MASK, "out-of-range"),
        ([-1, *OFFSETS[1:]], None, "out-of-range"),
        ([3, 2, *OFFSETS[2:]], MASK, "duplicate"),
        ([3, 2, *OFFSETS[2:]], None, "duplicate"),
        ([1, *OFFSETS[1:]], MASK, "t2d-mismatch"),
        (OFFSETS, bytes(V), "t2d-count"),
        (OFFSETS, b"\x01" * V, "t2d-count"),
        (OFFSETS, bytes(2 * m for m in MASK), "t2d-values"),
        (OFFSETS[:-1], MASK, "shape"),
        (OFFSETS, MASK[:-1], "shape"),
    ],
)
def test_each_fault_has_its_own_word(d2t, t2d, word):
    assert status(d2t, t2d) == word


@pytest.mark.parametrize("mask", [None, MASK])
def test_the_last_id_is_one_less_than_the_vocabulary(mask):
    """The map of ``IDS`` holds the lowest id and the highest; one further on either side is no token."""
    assert (IDS[0], IDS[-1]) == (0, V - 1)
    assert status(OFFSETS, mask) == "ok"
    for offsets, draft_id, wrong in [([*OFFSETS[:-1], OFFSETS[-1] + 1], 9, V), ([-1, *OFFSETS[1:]], 0, -1)]:
        _, word, (problem,) = check_vocab_map(offsets, mask, vocab_size=V, draft_vocab_size=VD)
        assert word == "out-of-range"
        assert f"d2t maps draft id {draft_id} to target id {wrong}, outside the vocabulary of {V}" == problem.message


def test_absolute_ids_are_told_from_offsets_at_the_ends_of_the_vocabulary():
    """Without a mask, absolute ids are recognised by being in range: an id of V is in no vocabulary."""
    assert status(IDS, None) == "absolute"
    assert status([*IDS[:-1], V], None) == "out-of-range"
    assert status([-1, *IDS[1:]], None) == "out-of-range"


def test_a_deliberate_prefix_vocabulary_is_allowed_only_with_its_mask():
    assert status([0] * VD, b"\x01" * VD + bytes(V - VD)) == "ok"


def test_full_vocabulary_needs_no_map():
    assert status(None, None, draft_vocab_size=V) == "full"
    assert status([0] * V, b"\x01" * V, draft_vocab_size=V) == "full"
    assert status([0] * V, MASK, draft_vocab_size=V) == "t2d-count"


def test_full_vocabulary_may_be_permuted():
    offsets = [(V - 1 - i) - i for i in range(V)]
    vocab, word, _ = check_vocab_map(offsets, None, vocab_size=V, draft_vocab_size=V)
    assert word == "ok"
    assert vocab is not None
    assert list(vocab.target_id) == list(range(V - 1, -1, -1))


def test_more_rows_than_tokens_is_refused():
    assert status(None, None, draft_vocab_size=V + 1) == "larger-than-target"


@pytest.mark.parametrize("huge", [2**63 - 1, -(2**63)])
def test_the_largest_integers_are_only_out_of_range(huge):
    for full in (VD, V):
        offsets = [0, *([1] * (full - 2)), huge]
        assert status(offsets, None, draft_vocab_size=full) == "out-of-range"


AGAIN = "export the head again"
GET = "get the d2t tensor from the training run"
BY_MASK = "--repair from-t2d takes the map from t2d"
BY_MAP = "--repair from-d2t makes the mask from d2t"
PREFIX = b"\x01" * VD + bytes(V - VD)
IDENTITY = list(range(VD))
TWICE = [3, 2, *OFFSETS[2:]]
ALL = b"\x01" * V
FULL = list(range(V))
SWAPPED = [1, -1, *([0] * (V - 2))]  # a permutation of the full vocabulary, as offsets
HINTS = {
    "nothing at all": (None, None, VD, "vocab-missing", GET),
    "zeros with a mask": ([0] * VD, MASK, VD, "vocab-zero", BY_MASK),
    "zeros alone": ([0] * VD, None, VD, "vocab-zero", "give the run's map with --d2t FILE, or --repair prefix"),
    "identity alone": (IDENTITY, None, VD, "vocab-arange", "--repair arange"),
    "identity of the prefix": (IDENTITY, PREFIX, VD, "vocab-arange", "--repair arange"),
    "identity with another mask": (IDENTITY, MASK, VD, "vocab-arange", BY_MASK),
    "a good map and no mask set": (OFFSETS, bytes(V), VD, "vocab-t2d-count", BY_MAP),
    "a good map and all of the mask set": (OFFSETS, ALL, VD, "vocab-t2d-count", BY_MAP),
    "a good map and some of the mask set": (OFFSETS, bytes([1]) + bytes(V - 1), VD, "vocab-t2d-count", AGAIN),
    "a bad map and no mask set": (TWICE, bytes(V), VD, "vocab-t2d-count", AGAIN),
    "zeros and no mask set": ([0] * VD, bytes(V), VD, "vocab-t2d-count", AGAIN),
    "identity and no mask set": (IDENTITY, bytes(V), VD, "vocab-t2d-count", AGAIN),
    "no map and no mask set": (None, bytes(V), VD, "vocab-t2d-count", AGAIN),
    "a good map and a mask of other numbers": (OFFSETS, b"\x02" * V, VD, "vocab-t2d-values", BY_MAP),
    "a bad map and a mask of other numbers": (TWICE, b"\x02" * V, VD, "vocab-t2d-values", AGAIN),
    "no map and a mask of other numbers": (None, b"\x02" * V, VD, "vocab-t2d-values", AGAIN),
    "a doubled id with its mask": (TWICE, MASK, VD, "vocab-duplicate", BY_MASK),
    "a doubled id alone": (TWICE, None, VD, "vocab-duplicate", AGAIN),
    "all rows and no mask set": (None, bytes(V), V, "vocab-t2d-count", "--repair prefix"),
    "zeros for all rows and no mask set": ([0] * V, bytes(V), V, "vocab-t2d-count", BY_MAP),
    "a doubled id of all rows, no mask set": ([0, -1, *([0] * (V - 2))], bytes(V), V, "vocab-t2d-count", AGAIN),
    "all rows and half a mask": (SWAPPED, MASK, V, "vocab-t2d-count", AGAIN),
    "identity of all rows": (FULL, None, V, "vocab-arange", "--repair arange"),
    "identity of all rows with its mask": (FULL, ALL, V, "vocab-arange", "--repair arange"),
    "identity of all rows, half a mask": (FULL, MASK, V, "vocab-t2d-count", AGAIN),
    "absolute ids of all rows": ([1, 0, *FULL[2:]], None, V, "vocab-absolute", "--repair absolute"),
    "absolute ids of all rows with the mask": ([1, 0, *FULL[2:]], ALL, V, "vocab-absolute", "--repair absolute"),
    "a doubled id of all rows": ([0, -1, *([0] * (V - 2))], None, V, "vocab-duplicate", AGAIN),
    "a doubled id of all rows with the mask": ([0, -1, *([0] * (V - 2))], ALL, V, "vocab-duplicate", BY_MASK),
}  # fmt: skip


@pytest.mark.parametrize("name", HINTS)
def test_each_fault_says_what_would_mend_it(name):
    """A hint names a repair only where that repair gives a map."""
    d2t, t2d, rows, code, hint = HINTS[name]
    vocab, word, (problem,) = check_vocab_map(d2t, t2d, vocab_size=V, draft_vocab_size=rows)
    assert (vocab, f"vocab-{word}", problem.code, problem.severity) == (None, code, code, "error")
    assert problem.hint is not None
    assert problem.hint.startswith(hint)


def test_the_sentences_of_faults_count_right():
    def said(d2t, t2d, rows=VD):
        return check_vocab_map(d2t, t2d, vocab_size=V, draft_vocab_size=rows)[2][0].message

    assert said(OFFSETS, bytes(V)).startswith("t2d is all false but the draft vocabulary has 10 tokens")
    assert said(OFFSETS, ALL).startswith("t2d is all true but")
    assert said(OFFSETS, bytes([1, 0, 1]) + bytes(V - 3)).startswith("t2d has 2 true entries but")
    assert said(TWICE, None) == "d2t maps draft ids 0 and 1 to the same target id 3"
    assert said([1, *OFFSETS[1:]], MASK).startswith(
        "d2t and t2d disagree: t2d marks 1 tokens that no draft id maps to (the first is 0)"
    )
    assert said([1, *OFFSETS[1:-1], OFFSETS[-1] - 1], MASK).startswith("d2t and t2d disagree: t2d marks 2 tokens")
    assert said(OFFSETS[:-1], None) == "d2t has 9 entries but lm_head has 10 rows"
    assert said(None, MASK[1:]) == "t2d has 39 entries but the target vocabulary has 40"
    assert said(None, MASK, V) == "t2d has 10 true entries but the head covers all 40 tokens"


def test_a_vocabulary_of_two_tokens_may_hold_absolute_ids_and_one_of_one_token_cannot_say():
    assert status([0, V - 1], None, draft_vocab_size=2) == "absolute"
    assert status([V - 1], None, draft_vocab_size=1) == "ok"
    assert status([V], None, draft_vocab_size=1) == "out-of-range"


def test_runs_that_resumed_are_recognised_up_to_eight_times():
    for k in range(10):
        d2t = [t - k * i for i, t in enumerate(IDS)]
        assert subtractions(d2t, IDS) == (k if 2 <= k <= 8 else None)
    assert status([t - 8 * i for i, t in enumerate(IDS)], MASK) == "double-subtracted"
    assert status([t - 9 * i for i, t in enumerate(IDS)], MASK) == "out-of-range"
    _, _, (problem,) = check_vocab_map([t - 3 * i for i, t in enumerate(IDS)], MASK, vocab_size=V, draft_vocab_size=VD)
    assert problem.message.startswith("arange was subtracted 3 times from d2t")


@pytest.mark.parametrize("dtype", MASK_WIDTHS)
def test_a_mask_is_the_same_in_every_dtype(dtype):
    width = MASK_WIDTHS[dtype]
    stored = mask_as(MASK, dtype)
    assert stored == b"".join(bit.to_bytes(width, "little") for bit in MASK)
    assert mask_from(stored, dtype) == MASK
    if width > 1:
        assert mask_from(b"".join(n.to_bytes(width, "little") for n in (0, 1, 7, 256)), dtype) == bytes([0, 1, 2, 2])


@pytest.mark.parametrize("sorts", [True, False])
def test_rows_that_ascend_and_rows_that_need_not(sorts):
    ascending, by_mask = VocabMap(array("q", IDS), V, "offset"), VocabMap(array("q", IDS), V, "t2d")
    falling = VocabMap(array("q", [5, 7, 6, 2]), V, "offset")
    assert order_fault(ascending, trainer_sorts=sorts, sorted_rows=True) is None
    assert order_fault(ascending, trainer_sorts=sorts, sorted_rows=False) is None
    assert order_fault(by_mask, trainer_sorts=sorts, sorted_rows=True) is None
    assert order_fault(falling, trainer_sorts=sorts, sorted_rows=False) is None
    missing = order_fault(by_mask, trainer_sorts=sorts, sorted_rows=False)
    assert missing is not None
    assert (missing.code, "--repair from-t2d" in (missing.hint or "")) == ("vocab-missing", sorts)
    unsorted = order_fault(falling, trainer_sorts=sorts, sorted_rows=True)
    assert unsorted is not None
    assert unsorted.code == "vocab-unsorted"
    assert "(draft ids 1 and 2 are target ids 7 and 6)" in unsorted.message
