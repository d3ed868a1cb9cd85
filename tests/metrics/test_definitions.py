"""Every definition, by hand, on two prompts with K = 3.

The first runs three rounds that accept 3, 0 and 1 drafts: 7 tokens, a response of 8. The second runs one that accepts
2, of which the response's end cuts off one: 3 tokens, a response of 3. Together 4 rounds, 12 drafts, 6 accepted at
positions [3, 2, 1], 10 tokens emitted, 11 tokens of responses.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from eagle3hub.errors import InputError
from eagle3hub.metrics import Counts, Rounds, acceptance, counts_of
from eagle3hub.metrics.definitions import DEFINITIONS, Sample, measure

PROMPTS = (Rounds((3, 0, 1), 3), Rounds((2,), 3, past_end=1))
CHAIN = Sample.of_rounds(PROMPTS)
SAMPLE = replace(CHAIN, tree_nodes=7, overlaps=((0.9, 0.7), (0.5,), ()), agreements=((30, 40), (20, 40), (0, 0)))
BY_HAND = {
    "eagle_tau": 10 / 4,
    "eagle_n_alpha": (3 / 4, 2 / 3, 1 / 2),
    "lk_alpha": (0.8, 0.5, None),
    "lk_tau": 10 / 4,
    "vllm_mean_acceptance_length": 1 + 6 / 4,
    "vllm_per_position": (3 / 4, 2 / 4, 1 / 4),
    "vllm_draft_acceptance_rate": 50.0,
    "sglang_accept_length": (8 / 3, 3 / 1),
    "sglang_accept_length_pooled": 11 / 4,
    "sglang_accept_rate": 6 / (4 * 3),
    "sglang_accept_rate_tree": 6 / (4 * 7),
    "specforge_benchmark": (8 / 3 + 3 / 1) / 2,
    "specforge_bench_eagle3": 11 / 4,
    "trtllm_gauge": 1 + 6 / 4,
    "modelopt_ar": (7 / 3 + 3 / 1) / 2,
    "specdec_bench_average_al": (7 / 3 + 3 / 1) / 2,
    "specdec_bench_conditional": (3 / 4, 2 / 3, 1 / 2),
    "specdec_bench_joint": (3 / 4, 2 / 4, 1 / 4),
    "spec_bench": (4 + 1 + 2 + 3) / 4,
    "nemo_accept_rate": 1.5 / 3,
    "training_accuracy": (30 / 40, 20 / 40, None),
}


@pytest.mark.parametrize("key", DEFINITIONS)
def test_by_hand(key: str) -> None:
    assert measure(key, SAMPLE) == pytest.approx(BY_HAND[key])


def test_every_definition_says_whose_it_is_and_what_it_counts() -> None:
    for key, definition in DEFINITIONS.items():
        assert key == definition.key
        assert all((definition.used_by, definition.word, definition.formula, definition.estimator, definition.unit))


def test_they_agree_with_the_acceptance_of_a_report() -> None:
    found = acceptance(SAMPLE.counts)
    assert measure("eagle_tau", SAMPLE) == found.mean_acceptance_length
    assert measure("vllm_per_position", SAMPLE) == found.marginal_rates
    assert measure("eagle_n_alpha", SAMPLE) == found.conditional_rates
    assert measure("modelopt_ar", SAMPLE) == found.mean_acceptance_length_per_request


@pytest.mark.parametrize(
    ("key", "lacks"),
    [
        ("sglang_accept_length", "length of every response"),
        ("specforge_bench_eagle3", "length of every response"),
        ("sglang_accept_rate_tree", "verified per round"),
        ("lk_alpha", "overlap"),
        ("training_accuracy", "agreements"),
    ],
)
def test_what_was_not_recorded_is_not_made_up(key: str, lacks: str) -> None:
    with pytest.raises(InputError, match=lacks) as error:
        measure(key, Sample(CHAIN.counts))
    assert error.value.code == "metrics-sample"


def test_a_request_without_a_round_has_no_length_and_moves_no_mean() -> None:
    sample = Sample.of_rounds((*PROMPTS, Rounds((), 3)))
    assert measure("sglang_accept_length", sample) == (8 / 3, 3.0, None)
    for key in ("modelopt_ar", "specforge_benchmark"):
        assert measure(key, sample) == measure(key, SAMPLE)
    # its one token, from prefill, is a token of a response all the same
    assert measure("sglang_accept_length_pooled", sample) == 12 / 4


@pytest.mark.parametrize("counts", [Counts(0, 0, 0, (0, 0, 0)), Counts(5, 0, 0, ())])
def test_without_a_draft_there_is_no_number(counts: Counts) -> None:
    sample = Sample((counts,), (1,), tree_nodes=7)
    for key in set(DEFINITIONS) - {"lk_alpha", "training_accuracy", "sglang_accept_length"}:
        with pytest.raises(InputError) as error:
            measure(key, sample)
        assert error.value.code == "metrics-no-rounds", key


def test_a_misspelt_name_is_told_the_right_one() -> None:
    with pytest.raises(InputError, match="did you mean 'eagle_tau'") as error:
        measure("eagle_tao", SAMPLE)
    assert error.value.code == "metrics-definition"


def test_the_words_alone_would_mislead() -> None:
    """Three numbers called a rate or a length of the same rounds, none equal to another."""
    values = [measure(key, SAMPLE) for key in ("eagle_tau", "modelopt_ar", "sglang_accept_length_pooled")]
    assert len({round(float(v), 6) for v in values}) == 3


def test_rounds_count_the_tail_and_know_the_response() -> None:
    first, second = PROMPTS
    assert counts_of(second) == Counts(1, 3, 2, (1, 1, 0))
    assert (first.response_length, second.response_length) == (8, 3)
