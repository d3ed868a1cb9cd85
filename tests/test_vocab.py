from __future__ import annotations

import random

import pytest

from eagle3hub.head.vocab import VocabMap, check_vocab_map

V, VD = 40, 10
IDS = [0, 3, 4, 9, 11, 20, 21, 30, 33, 39]
OFFSETS = [t - i for i, t in enumerate(IDS)]
MASK = bytes(1 if t in IDS else 0 for t in range(V))


def status(d2t, t2d, vocab_size=V, draft_vocab_size=VD):
    vocab, word, problems = check_vocab_map(d2t, t2d, vocab_size=vocab_size, draft_vocab_size=draft_vocab_size)
    assert (vocab is None and word != "full") == bool(problems)
    assert all(p.code == f"vocab-{word}" and p.severity == "error" for p in problems)
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
