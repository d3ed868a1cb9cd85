"""SGLang by `eagle3hub validate`: on CPU, with a stand-in for its kernels, one head that only its rounds give away."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.rewriting import edit
from support.validation import validate

from eagle3hub.conversion.plan import ConvertOptions
from eagle3hub.conversion.run import convert

pytestmark = pytest.mark.engine


@pytest.mark.slow
def test_embeddings_sglang_replaces_are_seen_in_the_rounds(
    example_head: Path, smollm2_target: Path, sglang_python: Path, tmp_path: Path
) -> None:
    """A head with embeddings of its own: SGLang loads them, then uses the target's."""
    head = tmp_path / "head"
    convert(example_head, head, "specforge", ConvertOptions(target=str(smollm2_target), target_name="owner/t"))
    noise = torch.randn((49152, 576), generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    edit(head, **{"embed_tokens.weight": noise})
    report = validate(
        head,
        target=smollm2_target,
        engine="reference,sglang",
        num_prompts=1,
        max_new_tokens=32,
        engine_python={"sglang": sglang_python},
        run_anyway=True,
    )
    _, sglang = report.document["engines"]
    assert (sglang["preflight"]["verdict"], sglang["verdict"]) == ("silently_wrong", "fail")
    assert sglang["load"]["not_loaded"] == []
    assert sglang["lossless"]["identical"] == 1
    collapse, gate = sglang["gates"]
    assert (collapse["name"], collapse["verdict"]) == ("collapse", "inconclusive"), "one prompt"
    assert (gate["name"], gate["verdict"]) == ("agreement", "fail")
