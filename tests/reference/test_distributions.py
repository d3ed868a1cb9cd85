"""At temperature > 0: speculation emits the target's distribution, and replay accepts as often as speculation does.

The target is a table, so both distributions are known exactly; every test has its seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import pytest
import torch

from eagle3hub.reference.model import DraftModel
from eagle3hub.reference.replay import Drafting, ReplaySettings, replay
from eagle3hub.reference.speculate import speculate
from reference.support import fit, random_draft
from reference.toy import TAPS, TableTarget

pytestmark = pytest.mark.slow  # tens of thousands of rounds

VOCAB, HIDDEN, TEMPERATURE, K = 6, 16, 0.8, 3
PROMPT = (1, 4)
RESPONSE = 40
TEXTS: dict[Drafting, int] = {"greedy": 800, "probabilistic": 1150}  # 20 000 rounds of each
TARGET = TableTarget.random(VOCAB, HIDDEN, spread=3.5)


@cache
def head(draft: int = VOCAB - 1) -> DraftModel:
    """A head that knows the target a little; one token of the target's it can never propose."""
    sizes = {"hidden": HIDDEN, "inter": 16, "heads": 2, "kv": 1, "vocab": VOCAB, "draft": draft, "aux": 1}
    model = random_draft(seed=5, **sizes)
    tokens = TARGET.sample(8, PROMPT, 60, TEMPERATURE, seed=99)
    return fit(model, TARGET.batch(tokens, 2, 60, TEMPERATURE), draft_steps=2, epochs=40)


@dataclass(frozen=True)
class Counted:
    """Accepted-at-position counts by text [texts, K], rounds by text [texts], and the responses of speculation."""

    accepted: torch.Tensor
    rounds: torch.Tensor
    responses: tuple[tuple[int, ...], ...] = ()

    @classmethod
    def of(cls, rounds: list[tuple[int, ...]], responses: tuple[tuple[int, ...], ...] = ()) -> Counted:
        accepted = [[sum(a >= i for a in text) for i in range(1, K + 1)] for text in rounds]
        return cls(torch.tensor(accepted).double(), torch.tensor([len(text) for text in rounds]).double(), responses)

    def rates(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Rate of each position over all rounds, and its standard error with texts as the sampling unit."""
        n, total = len(self.rounds), self.rounds.sum()
        rate = self.accepted.sum(0) / total
        residual = self.accepted - rate * self.rounds[:, None]
        return rate, (n / (n - 1) * residual.square().sum(0)).sqrt() / total


@cache
def speculated(drafting: Drafting) -> Counted:
    generator = torch.Generator().manual_seed(7)
    rounds, responses = [], []
    for _ in range(TEXTS[drafting]):
        done = speculate(
            head(),
            TARGET.session(),
            PROMPT,
            TAPS,
            ReplaySettings(K, drafting, TEMPERATURE),
            max_new_tokens=RESPONSE,
            generator=generator,
        )
        rounds.append(done.rounds)
        responses.append(done.response)
    return Counted.of(rounds, tuple(responses))


def replayed(drafting: Drafting, texts: int, seed: int = 11) -> Counted:
    tokens = TARGET.sample(texts, PROMPT, RESPONSE + K - 1, TEMPERATURE, seed)
    batch = TARGET.batch(tokens, len(PROMPT), RESPONSE, TEMPERATURE)
    return Counted.of(replay(head(), batch, ReplaySettings(K, drafting, TEMPERATURE, seed)))


@pytest.mark.parametrize("drafting", ["greedy", "probabilistic"])
def test_replay_accepts_as_often_as_speculation(drafting: Drafting):
    ran, again = speculated(drafting), replayed(drafting, 4 * TEXTS[drafting])
    assert int(ran.rounds.sum()) > 20_000
    assert int(again.rounds.sum()) > 80_000
    (a, of_a), (b, of_b) = ran.rates(), again.rates()
    assert float(a[0]) > 0.2
    assert float((of_a**2 + of_b**2).sqrt().max()) < 0.01
    assert ((a - b).abs() < 3 * (of_a**2 + of_b**2).sqrt()).all(), (a, of_a, b, of_b)


def chi_square(responses: tuple[tuple[int, ...], ...], distribution: torch.Tensor) -> float:
    """Probability of a deviation from the distribution at least this large, over every pair of last two tokens."""
    counts = torch.zeros(VOCAB, VOCAB, VOCAB, dtype=torch.float64)
    for response in responses:
        text = torch.tensor([*PROMPT, *response])
        counts.index_put_((text[:-2], text[1:-1], text[2:]), torch.ones(len(text) - 2).double(), accumulate=True)
    expected = counts.sum(-1, keepdim=True) * distribution.double()
    assert expected.min() > 3  # of 216 cells; else the approximation is none
    statistic = ((counts - expected).square() / expected).sum()
    freedom = torch.tensor(VOCAB * VOCAB * (VOCAB - 1)).double()
    return float(torch.special.gammaincc(freedom / 2, statistic / 2))


@pytest.mark.parametrize("drafting", ["greedy", "probabilistic"])
def test_speculation_emits_the_targets_law(drafting: Drafting):
    responses = speculated(drafting).responses
    assert chi_square(responses, TARGET.distribution(TEMPERATURE)) > 0.01
    # the test can tell: a temperature off by a seventh, and the head's own taste, are far out
    assert chi_square(responses, TARGET.distribution(TEMPERATURE * 1.15)) < 1e-6


def test_what_is_accepted_is_what_both_laws_share():
    """Of drafts at one context replay accepts the sum over tokens of min(p, q), and of each token its own share."""
    model, coins = head(), 4000
    context = [*PROMPT, 3]
    p = TARGET.distribution(TEMPERATURE)[4, 3]
    shares = []
    for token in range(VOCAB):
        tokens = torch.tensor([[*context, token]]).expand(coins, -1)
        batch = TARGET.batch(tokens, len(PROMPT), 2, TEMPERATURE)
        rounds = replay(model, batch, ReplaySettings(1, "probabilistic", TEMPERATURE, seed=token))
        shares.append(sum(map(sum, rounds)) / coins)
    q = draft_law(model, context)
    wanted = torch.minimum(torch.ones(VOCAB), q / p)
    assert torch.allclose(torch.tensor(shares), wanted, atol=3.5 * 0.5 / coins**0.5)
    assert abs(float((p * torch.tensor(shares)).sum() - torch.minimum(p, q).sum())) < 0.02
    assert 0.2 < float(torch.minimum(p, q).sum()) < 0.95
    assert float(q.min()) == 0  # a token it can never propose is never accepted
    assert shares[int(q.argmin())] == 0


def draft_law(model: DraftModel, context: list[int]) -> torch.Tensor:
    """The head's distribution of what follows a context, over the target's vocabulary."""
    from eagle3hub.reference.model import Memory

    tokens = torch.tensor([context])
    aux = TARGET.batch(tokens, 1, 1, TEMPERATURE).aux[0]
    positions = torch.arange(len(context) - 1)
    hidden = model.hidden(model.features(aux[:-1]), tokens[0, 1:], positions, Memory(model.windows).attend)
    assert model.target_ids is not None
    distribution = torch.zeros(VOCAB)
    distribution[model.target_ids] = (model.logits(hidden[-1]) / TEMPERATURE).softmax(-1)
    return distribution


def test_at_a_temperature_near_zero_it_is_the_greedy_run():
    cold = 1e-3
    tokens = TARGET.sample(20, PROMPT, RESPONSE + K - 1, cold, seed=1)
    assert len({tuple(row) for row in tokens.tolist()}) == 1
    batch = TARGET.batch(tokens, 2, RESPONSE, cold)
    greedy = replay(head(), batch, ReplaySettings(K))
    assert replay(head(), batch, ReplaySettings(K, "greedy", cold)) == greedy
    assert replay(head(), batch, ReplaySettings(K, "probabilistic", cold)) == greedy


def test_a_seed_is_a_run():
    settings = ReplaySettings(K, "probabilistic", TEMPERATURE)
    runs = [
        speculate(
            head(),
            TARGET.session(),
            PROMPT,
            TAPS,
            settings,
            max_new_tokens=30,
            generator=torch.Generator().manual_seed(seed),
        )
        for seed in (1, 1, 2)
    ]
    assert runs[0] == runs[1] != runs[2]
    assert torch.equal(replayed("probabilistic", 40).accepted, replayed("probabilistic", 40).accepted)
