"""Comparing heads: what a config says of mask token and quantization changes what they compute."""

from __future__ import annotations

import json
from pathlib import Path

from support import variants
from support.variants import Has, config_of, edit

from eagle3hub import CompareOptions, compare
from eagle3hub.conversion.plan import ConvertOptions
from eagle3hub.conversion.run import convert


def names(found: list) -> list[str]:
    return [entry.name for entry in found]


def test_the_mask_token_of_p_eagle_heads_counts_where_both_state_it(tmp_path: Path, target: Path):
    has = Has(mask_hidden=True, embeddings=True)
    a, b, untold = (variants.specforge(tmp_path / n, has=has, **said) for n, said in MASK_TOKENS.items())
    c = tmp_path / "c"
    convert(b, c, "speculators", ConvertOptions(target=str(target), speculative_tokens=3))
    for other in (b, c):
        found = compare(a, other)
        assert [(d.where, d.name, d.a, d.b) for d in found.differences] == [("semantics", "mask_token_id", 3, 5)]
    assert compare(b, c, CompareOptions(target=str(target))).verdict == "equal-up-to-spelling"
    found = compare(untold, b)
    assert (found.verdict, names(found.spelling)) == ("equal-up-to-spelling", ["mask_token_id"])


MASK_TOKENS = {"three": {"mask_token_id": 3}, "five": {"mask_token_id": 5}, "untold": {}}


def test_how_the_weights_are_quantized_is_no_spelling(tmp_path: Path):
    a, b = variants.quantized(tmp_path / "a", "FP8"), variants.quantized(tmp_path / "b", "FP8")
    assert compare(a, b).verdict == "equal"
    config = config_of(b)["quantization_config"]
    other = {"quantization": {"quant_algo": "FP8"}, "producer": {"name": "modelopt", "version": "0.44"}}
    edit(b, quantization_config={**config, "producer": other["producer"]})
    (b / "hf_quant_config.json").write_text(json.dumps(other))
    found = compare(a, b)
    assert found.verdict == "equal-up-to-spelling"
    assert names(found.spelling) == ["hf_quant_config.json", "quantization_config"]
    edit(b, quantization_config={**config, "quant_algo": "OTHER"})
    (b / "hf_quant_config.json").write_text(json.dumps({"quantization": {"quant_algo": "OTHER"}}))
    assert [(d.where, d.name, d.a, d.b) for d in compare(a, b).differences] == [
        ("semantics", "hf_quant_config.json", *({"quantization": {"quant_algo": algo}} for algo in ("FP8", "OTHER"))),
        ("semantics", "quantization_config", {"quant_algo": "FP8"}, {"quant_algo": "OTHER"}),
    ]
    (b / "hf_quant_config.json").write_text("[" * 100_000)
    assert "hf_quant_config.json" in names(compare(a, b).differences)
    edit(b, quantization_config=config)
    (b / "hf_quant_config.json").unlink()
    found = compare(a, b)
    assert (found.verdict, names(found.spelling)) == ("equal-up-to-spelling", ["hf_quant_config.json"])
