"""What eagle3hub says of 59 published heads: the whole table, and by hand what public threads found out.

``expected.toml`` holds every row; ``table.py`` says how to write it again. Read every line that changes: it is
what users are told about a head that is out there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from published import standins, table

from eagle3hub import InspectOptions, inspect

Cli = Callable[..., tuple[int, str, str]]
EXPECTED: dict[str, dict[str, Any]] = tomllib.loads((Path(__file__).parent / "expected.toml").read_text("utf-8"))


def test_every_head_has_a_row() -> None:
    assert sorted(EXPECTED) == standins.NAMES
    assert len(standins.NAMES) == 59


@pytest.mark.slow
@pytest.mark.parametrize("name", standins.NAMES)
def test_what_is_said_of_a_published_head(name: str, tmp_path: Path) -> None:
    assert table.row(name, tmp_path) == EXPECTED[name]


def kinds(name: str, engine: str) -> set[str]:
    """The verdicts on a head of an engine's versions and runners that are judged by default."""
    return {str(v).partition(",")[0] for k, v in EXPECTED[name].items() if k.partition(" ")[0] == engine}


def test_equal_lists_are_one_numbering() -> None:
    """SGLang #32334: [24, 30, 36] of a target of 36 layers are boundary ids; TensorRT-LLM's YAML says 23, 29, 35."""
    found = EXPECTED["nvidia__gpt-oss-120b-Eagle3-v3"]
    assert (found["layout"], found["aux"], found["errors"]) == ("modelopt", [23, 29, 35], [])
    assert kinds("nvidia__gpt-oss-120b-Eagle3-v3", "vllm") == {"right"}


def test_heads_that_read_the_final_state_are_read() -> None:
    """SGLang #14920: use_aux_hidden_state false; vLLM 0.32's GPU runner forces aux states on, V1 does not."""
    name = "nvidia__gpt-oss-120b-Eagle3-short-context-2H"
    assert (EXPECTED[name]["aux"], EXPECTED[name]["errors"]) == ("final norm", [])
    assert kinds(name, "vllm") == {"right", "refuses"}
    assert kinds(name, "sglang") == {"right"}


def test_what_a_head_without_aux_layers_reads_is_said(tmp_path: Path, cli: Cli) -> None:
    name = "nvidia__gpt-oss-120b-Eagle3-short-context-2H"
    target = standins.make_target(standins.described(name)["target"], tmp_path / "target")
    head = standins.make_head(name, tmp_path / "head")
    _, out, _ = cli("inspect", head, "--target", target)
    assert "aux layers  none: it reads the target's final hidden state, after the final norm" in out
    assert "unless its YAML says eagle3_layers_to_capture: [-1]" in " ".join(out.split())


def test_a_note_names_a_layout_that_holds_the_head(tmp_path: Path, cli: Cli) -> None:
    """TensorRT-LLM #14988: five aux layers with fc_norm, which ModelOpt's layout has no place for."""
    name = "Dogacel__specdrift-gpt-oss-120b-eagle3"
    options = ("--target", standins.make_target(standins.described(name)["target"], tmp_path / "target"), "--dry-run")
    head = standins.make_head(name, tmp_path / "head")
    asked = ("--to", "speculators", "--draft-tokens", "3", "--target-name", "owner/target")
    _, out, _ = cli("convert", head, tmp_path / "out", *asked, *options)
    note = next(line for line in out.splitlines() if "given this folder" in line)
    assert "builds fc for" in note and "--to universal --engines vllm" in note
    assert cli("convert", head, tmp_path / "out", "--to", "universal", "--engines", "vllm", *options)[0] == 0


@pytest.mark.parametrize("name", ["V-qwen3-arch", "V-amazon-peagle-nobias"])
def test_engines_that_were_not_asked_for_are_no_reason(name: str, tmp_path: Path, cli: Cli) -> None:
    target = standins.make_target(standins.described(name)["target"], tmp_path / "target")
    asked = ("--target", target, "--engines", "vllm", "--dry-run")
    code, _, said = cli("convert", standins.make_head(name, tmp_path / "head"), tmp_path / "out", *asked)
    assert code == 3 and "a universal folder has no form for it, even one for vLLM alone" in said
    assert "SGLang" not in said and "only vLLM" not in said and "--to speculators" in said


def test_a_default_that_a_trainer_always_states_is_not_taken_for_granted() -> None:
    """vLLM #50170: the default layers gave this head 1.2 % acceptance."""
    name = "nvidia__Llama-3.3-70B-Instruct-Eagle3"
    assert kinds(name, "vllm") == {"depends"}
    assert all("right" not in kinds(name, engine) for engine in ("vllm", "sglang", "trtllm", "sglang_jax", "llamacpp"))


def test_no_engine_is_right_about_assumed_layers() -> None:
    for name, row in EXPECTED.items():
        if row.get("doubtful"):
            assert not {k for k, v in row.items() if v == "right"}, name


def test_an_lm_head_that_is_missing_is_drawn_at_random_by_sglang(tmp_path: Path) -> None:
    """SGLang #27829: acceptance length 1.00."""
    name = "nvidia__Kimi-K2.6-Eagle3"
    target = standins.make_target(standins.described(name)["target"], tmp_path / "target")
    found = inspect(standins.make_head(name, tmp_path / "head"), InspectOptions(target=str(target)))
    (sglang,) = (v for v in found.engines if v.engine == "sglang")
    assert "scores with a random lm_head: the file has none" in [r.sentence for r in sglang.reasons]
    assert "tensor-no-lm-head" in {p.code for p in found.problems}


def test_the_scheme_of_quantized_weights_is_named() -> None:
    for name, scheme in (
        ("amd__kimi-k2.5-eagle3-fp8", "quark"),
        ("V-amd-fp8-plain-exclude", "quark"),
        ("nm-testing__SpeculatorLlama3-1-8B-Eagle3-converted-0717-quantized", "compressed-tensors"),
    ):
        assert EXPECTED[name]["quantization"] == scheme, name
    # what the card of amd/kimi-k2.5-eagle3-fp8 says: vLLM leaves fc out by a regular expression, not by its plain name
    assert kinds("V-amd-fp8-plain-exclude", "vllm") == {"silently_wrong"}
    assert kinds("amd__kimi-k2.5-eagle3-fp8", "vllm") == {"depends"}


def test_whoever_cannot_be_told_is_not_named() -> None:
    for name in ("V-nebius-plainarch", "nebius__EAGLE3-Qwen3-235B-A22B-Instruct-2507", "V-minimax-arch"):
        assert EXPECTED[name]["layout"] == "flat"
    assert EXPECTED["lightseekorg__kimi-k2.5-eagle3"]["layout"] == "torchspec"


def test_only_what_is_no_whole_eagle_3_head_is_refused() -> None:
    assert {name: row["refused"] for name, row in EXPECTED.items() if "refused" in row} == {
        "Tengyunw__qwen3_30b_moe_eagle3": "tensor-bare-layer",  # SafeAILab/EAGLE #265: eleven tensors, no fc
        "mistralai__Mistral-Large-3-675B-Instruct-2512-Eagle": "layout-mistral",
    }
