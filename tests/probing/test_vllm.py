"""vLLM is asked every question: the answers are those of the contract that is held."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.versions import VLLM

from eagle3hub.engines.preflight.probed import Probed, probed
from eagle3hub.probing.contract import Finding, probe_engine, probed_contract, surprises
from eagle3hub.probing.run import ask
from eagle3hub.system.progress import silent

pytestmark = pytest.mark.engine
RUNNERS = ("V1", "V2")


@pytest.fixture(scope="module")
def found(vllm_python: Path) -> Finding:
    return probe_engine("vllm", vllm_python, "cpu", "2030-01-02", None, silent)


@pytest.fixture(scope="module")
def held() -> Probed:
    there = probed("vllm", VLLM)
    assert there is not None
    return there


@pytest.mark.slow
def test_a_probe_gives_the_contract_that_is_held(found: Finding, held: Probed):
    again = found.contract
    for name, answer in held.answers.items():
        new = again.answers[name]
        assert (name, new.outcome, new.taps, new.not_loaded) == (name, answer.outcome, answer.taps, answer.not_loaded)
        # a parameter that nothing fills holds what the memory held: zeros by luck, and then an alternative fits
        assert new.matched == answer.matched or (answer.not_loaded and None in (new.matched, answer.matched)), name
    assert (again.rules, again.terms) == (held.rules, held.terms)
    assert {n: (r.rules, r.terms) for n, r in again.runners.items()} == {
        n: (r.rules, r.terms) for n, r in held.runners.items()
    }
    assert (found.differences, found.surprises) == ((), ())


def test_another_engine_is_told_from_it(vllm_python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A vLLM that leaves out the norm before fc, takes the wrong layers and dies at a norm of its own."""
    workers = tmp_path / "workers"
    workers.mkdir()
    ours = Path(probe_engine.__code__.co_filename).parents[1] / "engines/workers"
    for file in ours.glob("*.py"):
        (workers / file.name).symlink_to(file)
    (workers / "vllm_probe.py").unlink()
    broken = """
    from vllm.model_executor.models.interfaces import EagleModelMixin
    from vllm.model_executor.models.llama_eagle3 import Eagle3LlamaForCausalLM
    capture = EagleModelMixin._set_aux_hidden_state_layers
    EagleModelMixin._set_aux_hidden_state_layers = lambda self, layers: capture(self, tuple(i + 1 for i in layers))
    combine = Eagle3LlamaForCausalLM.combine_hidden_states
    def without(self, states):
        self.model.norm_before_fc = False
        if self.model.fc_norm is not None:
            os.abort()
        return combine(self, states)
    Eagle3LlamaForCausalLM.combine_hidden_states = without
"""
    text = (ours / "vllm_probe.py").read_text()
    assert "    torch.set_num_threads(1)\n" in text
    (workers / "vllm_probe.py").write_text(
        text.replace("    torch.set_num_threads(1)\n", f"    torch.set_num_threads(1){broken}")
    )
    monkeypatch.setattr("eagle3hub.engines.process._WORKERS", workers)
    names = ["plain", "norm-before-fc", "fc-norm"]
    probe = ask("vllm", "vLLM", vllm_python, device="cpu", progress=silent, only=names, runners=RUNNERS)
    answers = probe.answers["V1"]
    assert (answers["plain"].outcome, answers["plain"].taps) == ("silently_wrong", (3, 7, 10))
    assert answers["norm-before-fc"].matched == "leaves out the norm before fc"
    assert (answers["fc-norm"].outcome, answers["fc-norm"].message) == ("crashes", "SIGABRT")
    said = surprises(probed_contract(probe, "2030-01-02", RUNNERS), RUNNERS)
    wrong = "the contract says right, and it is silently wrong (leaves out the norm before fc)"
    assert f"V1: norm-before-fc: {wrong}" in said
    assert "V1: fc-norm: the contract says right, and it is refused (dies (SIGABRT))" in said
