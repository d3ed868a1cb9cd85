"""llama.cpp is asked, by its converter and its server; what is held of it is what it answers."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from support.versions import LLAMACPP

from eagle3hub.engines import environments
from eagle3hub.engines.preflight import contract, only_read
from eagle3hub.engines.preflight.probed import Answer, Probed, probed
from eagle3hub.errors import UnavailableError
from eagle3hub.probing import rounds
from eagle3hub.probing.contract import differences, probed_contract, surprises
from eagle3hub.probing.heads import LAYERS, TAPS, head, weighing, write_target
from eagle3hub.probing.questions import questions
from eagle3hub.probing.rounds import Drafted, near
from eagle3hub.probing.run import CLOSE, LENGTH, Probe, ask, given_for
from eagle3hub.reference.model import DraftModel, Memory
from eagle3hub.system.progress import silent

ALONE = ("",)
WORKERS = Path(environments.__file__).parent / "workers"
LAST = "the-last-layer-of-a-llama"


@pytest.fixture(scope="module")
def held() -> Probed:
    found = probed("llamacpp", LLAMACPP)
    assert found is not None
    return found


def probe_of(found: Probed, **changed: Answer) -> Probe:
    answers = {**found.answers, **{name.replace("_", "-"): answer for name, answer in changed.items()}}
    return Probe("llamacpp", found.version, "cpu", dict(found.environment), {"": answers}, {})


@pytest.mark.slow
def test_the_held_contract_is_what_its_answers_say(held: Probed):
    assert set(held.answers) == {n for n, q in questions().items() if "llamacpp" in (q.engines or ("llamacpp",))}
    again = probed_contract(probe_of(held), held.date, ALONE)
    assert (again.rules, again.terms) == (held.rules, held.terms)
    assert differences(again, ALONE) == []
    assert surprises(held, ALONE) == []


def test_most_rules_of_llamacpp_were_executed():
    rules, left = only_read(contract("llamacpp", LLAMACPP))
    assert rules - len(left) >= 0.8 * rules, left


@pytest.mark.slow
def test_an_answer_that_is_no_longer_so_is_told_of(held: Probed):
    before = replace(held.answers[LAST], outcome="right", matched="trained", taps=(2, 6, LAYERS))
    again = probed_contract(probe_of(held, **{LAST: before}), held.date, ALONE)
    (said,) = differences(again, ALONE)
    assert said == f"aux.last_unfilled: held to be True, found to be False ({LAST} …)"


# What the log of a server says, judged by the reference

LOG = """\
0.00.096.751 D spec        draft:  - seq_id 0, draft candidate   0, pos   0:    362 (   0.186) ' w362'
0.00.096.771 D spec        draft:  - seq_id 0, draft candidate   1, pos   0:    501 (   0.180) '
'
0.00.096.882 D spec        draft:  - seq_id 0, draft candidate   0, pos   1:     95 (   0.228) '\\'
0.00.116.115 D spec        draft:  - seq_id 0, draft candidate   0, pos   0:    425 (   0.215) ' w425'
"""


@pytest.fixture(scope="module")
def worker() -> ModuleType:
    sys.path.insert(0, str(WORKERS))
    spec = importlib.util.spec_from_file_location("llamacpp_probe", WORKERS / "llamacpp_probe.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(WORKERS))
    return module


def test_drafts_are_read_from_the_log(worker: ModuleType):
    assert worker.drafts(LOG) == [[[[362, 0.186], [501, 0.18]], [[95, 0.228]]], [[[425, 0.215]]]]
    assert worker.drafts("nothing of the kind") == []


@torch.no_grad()
def served(model: DraftModel, tokens: list[int], aux: torch.Tensor) -> list[list[list[list[float]]]]:
    """What a server says that drafts with ``model`` in rounds that accept nothing."""
    told = []
    for length in range(LENGTH + 1, len(tokens)):
        memory, at = Memory(model.windows), torch.arange(length + 3)
        following, features = torch.tensor(tokens[1:length]), model.features(aux[: length - 1])
        hidden = model.hidden(features, following, at[: length - 1], memory.attend)[-1:]
        steps = []
        for step in range(3):
            best = model.logits(hidden)[0].topk(10)
            ids, shares = model.to_target(best.indices).tolist(), best.values.softmax(-1).tolist()
            steps.append([[token, round(share, 3)] for token, share in zip(ids, shares, strict=True)][:3])
            token, here = torch.tensor(ids[:1]), at[length - 1 + step : length + step]
            hidden = model.hidden(model.feedback(hidden), token, here, memory.attend)
        told.append(steps)
    return told


def test_what_a_server_drafts_tells_the_head_and_its_layers(tmp_path: Path):
    made, target = head(), write_target(tmp_path / "target")
    tokens = [*given_for(made)["token_ids"].tolist(), 300, 301, 302, 303]
    last = (2, 6, LAYERS)
    for taps in (TAPS, last):
        drafts = served(made.truth, tokens, rounds._states(target, tokens, taps))
        told = {"tokens": tokens, "taps": list(taps), "rounds": drafts}
        found = Drafted.of(told, LENGTH, target, made.truth, CLOSE)
        assert found.taps == taps
        assert [length for length, _ in found.rounds] == [11, 12, 13]
        assert found.difference(made.truth) <= near(CLOSE)
        other = weighing(layers__0__hidden_norm__weight=1.0)(made).truth
        assert found.difference(other) > 10 * near(CLOSE)
    told["rounds"][0][0][2][0] = 7  # a token that is not among the likeliest
    found = Drafted.of(told, LENGTH, target, made.truth, CLOSE)
    assert found.difference(made.truth) > 10 * near(CLOSE)
    assert found.taps == (2, 6, "?"), "what it calls the last layer is none of the target's states"


def test_accepted_drafts_lengthen_the_text(tmp_path: Path):
    made, target = head(), write_target(tmp_path / "target")
    tokens = [*range(300, 300 + LENGTH), 310, 311, 312, 313]
    right = [[[311, 0.5]], [[312, 0.5]], [[7, 0.5]]]
    told = {"tokens": tokens, "taps": list(TAPS), "rounds": [right, [[[8, 0.5]]]]}
    found = Drafted.of(told, LENGTH, target, made.truth, CLOSE)
    assert [length for length, _ in found.rounds] == [LENGTH + 1, LENGTH + 4]


# The engine


@pytest.mark.engine
class TestEngine:
    @pytest.mark.slow
    def test_probing_gives_what_is_held(self, held: Probed, llamacpp_python: Path):
        probe = ask("llamacpp", "llama.cpp", llamacpp_python, device="cpu", progress=silent)
        found = probe.answers[""]
        for name, was in held.answers.items():
            now = found[name]
            assert (name, now.outcome, now.matched, now.taps) == (name, was.outcome, was.matched, was.taps)
            assert (name, now.message, now.ignored) == (name, was.message, was.ignored)
        again = probed_contract(probe, held.date, ALONE)
        assert (again.rules, again.terms) == (held.rules, held.terms)

    def test_a_device_that_it_has_no_code_for(self, llamacpp_python: Path):
        with pytest.raises(UnavailableError, match=r"llama\.cpp cannot run on cuda"):
            ask("llamacpp", "llama.cpp", llamacpp_python, device="cuda", progress=silent, only=["plain"])
