"""SGLang is asked, with the stand-in for its kernels."""

from __future__ import annotations

import pytest
from engines.sglang_cpu.environment import interpreter

from eagle3hub.probing.run import Probe, ask
from eagle3hub.system.progress import silent

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Probe:
    python = interpreter(tmp_path_factory.mktemp("sglang"))
    asked = ["norm-before-residual", "no-d2t", "final-state", "no-draft-vocab-size"]
    return ask("sglang", "SGLang", python, device="cpu", progress=silent, only=asked)


def test_what_sglang_does_is_seen(probe: Probe):
    found = probe.answers[""]
    assert (found["plain"].outcome, found["plain"].taps) == ("right", (2, 6, 9))
    assert found["norm-before-residual"].matched == "adds the un-normed state"
    assert found["no-d2t"].matched == "takes draft ids as target ids"
    assert (found["final-state"].outcome, found["final-state"].taps) == ("right", ("final",))
    assert found["no-draft-vocab-size"].outcome == "refuses"
    assert "draft_vocab_size" in (found["no-draft-vocab-size"].message or "")
