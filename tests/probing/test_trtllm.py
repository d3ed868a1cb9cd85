"""TensorRT-LLM is asked, with the stand-in for its API: what our side asks for, and that it sees what is there."""

from __future__ import annotations

import pytest
from engines.trtllm_cpu.environment import interpreter
from support.versions import TRTLLM, TRTLLM_NEXT

from eagle3hub.errors import UnavailableError
from eagle3hub.probing.run import ask
from eagle3hub.system.progress import silent

pytestmark = pytest.mark.engine
NORM = "norm-before-fc"
ASKED = {TRTLLM: [NORM], TRTLLM_NEXT: ["plain", NORM, "norm-before-residual", "four-taps"]}


@pytest.mark.slow
def test_what_tensorrt_llm_does_is_seen(tmp_path_factory: pytest.TempPathFactory):
    found = {}
    for version, asked in ASKED.items():
        python = interpreter(tmp_path_factory.mktemp("trtllm"), version)
        probe = ask("trtllm", "TensorRT-LLM", python, device="cuda", progress=silent, only=asked)
        assert probe.version == version
        found[version] = probe.answers[""]
    old, new = found[TRTLLM], found[TRTLLM_NEXT]
    assert (new["plain"].outcome, new["plain"].taps) == ("right", (2, 6, 9)), new["plain"]
    assert old[NORM].matched == "leaves out the norm before fc"
    assert new[NORM].outcome == "right"
    assert new["norm-before-residual"].matched == "adds the un-normed state"
    assert new["four-taps"].outcome == "refuses", "the widths of fc differ"


def test_a_cpu_is_refused(tmp_path_factory: pytest.TempPathFactory):
    python = interpreter(tmp_path_factory.mktemp("trtllm"), TRTLLM)
    with pytest.raises(UnavailableError, match="needs a CUDA device"):
        ask("trtllm", "TensorRT-LLM", python, device="cpu", progress=silent, only=["plain"])
