"""sglang-jax is asked, without its kernel for TPU; what is held of it is what it answers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from engines.sglang_jax_cpu.environment import ensure
from support.versions import SGLANG_JAX

from eagle3hub.engines.preflight import contract, only_read
from eagle3hub.engines.preflight.probed import Answer, Probed, probed
from eagle3hub.errors import UnavailableError
from eagle3hub.probing.contract import differences, probe_engine, probed_contract, surprises
from eagle3hub.probing.questions import questions
from eagle3hub.probing.run import Probe, ask
from eagle3hub.system.progress import silent

ALONE = ("",)
asked_for = [
    pytest.mark.engine,
    pytest.mark.skipif(not os.environ.get("EAGLE3HUB_SGLANG_JAX"), reason="EAGLE3HUB_SGLANG_JAX is not set"),
]


@pytest.fixture(scope="module")
def held() -> Probed:
    found = probed("sglang_jax", SGLANG_JAX)
    assert found is not None
    return found


def probe_of(found: Probed, **changed: Answer) -> Probe:
    answers = {**found.answers, **{name.replace("_", "-"): answer for name, answer in changed.items()}}
    return Probe("sglang_jax", found.version, "cpu", dict(found.environment), {"": answers}, {})


@pytest.mark.slow
def test_the_held_contract_is_what_its_answers_say(held: Probed):
    assert set(held.answers) == {n for n, q in questions().items() if "sglang_jax" in (q.engines or ("sglang_jax",))}
    again = probed_contract(probe_of(held), held.date, ALONE)
    assert (again.rules, again.terms) == (held.rules, held.terms)
    assert differences(again, ALONE) == []
    assert surprises(held, ALONE) == []


def test_most_rules_of_sglang_jax_were_executed():
    rules, left = only_read(contract("sglang_jax", SGLANG_JAX))
    assert rules - len(left) >= 0.75 * rules, left


def test_a_right_head_is_right_where_the_server_places_drafts_wrongly(held: Probed):
    plain = held.answers["plain"]
    assert (plain.outcome, plain.taps, plain.ignored) == ("right", (2, 6, 9), ("t2d",))


@pytest.mark.slow
def test_an_answer_that_is_no_longer_so_is_told_of(held: Probed):
    fills = replace(held.answers["names-layers-i"], outcome="right", matched="trained", message=None)
    again = probed_contract(probe_of(held, names_layers_i=fills), held.date, ALONE)
    (said,) = differences(again, ALONE)
    assert said == "layer_names: held to be midlayer., found to be layers.{i}., midlayer. (names-midlayer …)"


def test_without_an_environment_it_says_which_to_install():
    with pytest.raises(UnavailableError, match=r"sglang_jax .* is not installed for tpu") as caught:
        probe_engine("sglang_jax", None, "cpu", "2030-01-02", ["plain"], silent)
    assert caught.value.hint == "eagle3hub engines install sglang_jax --device tpu"


class TestEngine:
    pytestmark = asked_for

    def test_probing_gives_what_is_held(self, held: Probed):
        probe = ask("sglang_jax", "sglang-jax", ensure(), device="cpu", progress=silent)
        found = probe.answers[""]
        for name, was in held.answers.items():
            now = found[name]
            assert (name, now.outcome, now.matched, now.taps) == (name, was.outcome, was.matched, was.taps)
            assert (name, now.not_loaded, now.ignored) == (name, was.not_loaded, was.ignored)
        again = probed_contract(probe, held.date, ALONE)
        assert (again.rules, again.terms) == (held.rules, held.terms)

    def test_another_engine_is_told_from_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        """A sglang-jax that captures one layer later; one that forgets what it rotates by, and dies at a lost norm."""
        found = told(_LATER, ["plain"], tmp_path / "later", monkeypatch)
        assert (found["plain"].outcome, found["plain"].taps) == ("silently_wrong", (3, 7, 10))
        found = told(_FORGETS, ["no-hidden-norm", "a-rope-base"], tmp_path / "forgets", monkeypatch)
        assert found["plain"].outcome == "right"
        assert (found["no-hidden-norm"].outcome, found["no-hidden-norm"].message) == ("crashes", "SIGABRT")
        assert found["a-rope-base"].matched == "rotates with base 10000"

    def test_a_device_that_is_not_there(self):
        with pytest.raises(UnavailableError, match="sglang-jax cannot run on tpu"):
            ask("sglang_jax", "sglang-jax", ensure(), device="tpu", progress=silent, only=["plain"])


def told(change: str, asked: list[str], workers: Path, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, Answer]:
    """Ask a sglang-jax that is changed by lines of its probe's worker."""
    workers.mkdir()
    ours = Path(probe_engine.__code__.co_filename).parents[1] / "engines/workers"
    for file in ours.glob("*.py"):
        (workers / file.name).symlink_to(file)
    text, last = (ours / "sglang_jax_probe.py").read_text(), "    _keep_dtype(llama_eagle3)\n"
    assert last in text
    (workers / "sglang_jax_probe.py").unlink()
    (workers / "sglang_jax_probe.py").write_text(text.replace(last, last + change))
    monkeypatch.setattr("eagle3hub.engines.process._WORKERS", workers)
    return ask("sglang_jax", "sglang-jax", ensure(), device="cpu", progress=silent, only=asked).answers[""]


_LATER = """
    from sgl_jax.srt.models import llama
    capture = llama.LlamaForCausalLM.set_eagle3_layers_to_capture

    def later(self, layers=None):
        capture(self, layers)
        self.model.layers_to_capture = [i + 1 for i in self.model.layers_to_capture]

    llama.LlamaForCausalLM.set_eagle3_layers_to_capture = later
"""
_FORGETS = """
    from sgl_jax.srt.models import llama
    get_rope = llama.get_rope
    llama.get_rope = lambda **named: get_rope(**{**named, "base": 10000})
    norm = llama_eagle3.RMSNorm.__call__

    def dying(self, *given, **named):
        if not self.scale.value.size:
            os.abort()
        return norm(self, *given, **named)

    llama_eagle3.RMSNorm.__call__ = dying
"""
