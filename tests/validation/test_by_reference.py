"""Validation by the reference: the real example head and its real target, few and short prompts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import dumps
from support.validation import validate

from eagle3hub.errors import InputError, UsageError
from eagle3hub.reference.target import TargetModel
from eagle3hub.validation.engine_runner import Cache
from eagle3hub.validation.options import ReferenceOptions, ValidateOptions

pytestmark = pytest.mark.slow  # whole measurements

Cli = Callable[..., tuple[int, str, str]]
SHORT: dict[str, Any] = {"num_prompts": 8, "max_new_tokens": 12}


@pytest.fixture(scope="module")
def cache() -> Cache:
    """One load of the target, and one set of texts, for every head here."""
    return Cache()


def rows(report: Any, *keys: str) -> list[list[Any]]:
    (entry,) = report.document["engines"]
    return [[row[key] for key in keys] for row in entry["per_prompt"]]


def test_a_good_head_passes(head: Path, smollm2_target: Path, cache: Cache) -> None:
    report = validate(head, target=smollm2_target, target_name="SmolLM2", cache=cache, **SHORT)
    (entry,) = report.document["engines"]
    assert report.verdict == "pass", report.reason
    assert (entry["engine"], entry["recipe"], entry["lossless"]) == ("reference", None, None)
    assert entry["load"]["aux_boundaries"] == [2, 15, 27]
    assert entry["environment"]["torch"] == torch.__version__
    assert str(smollm2_target) not in json.dumps(report.document)
    for row in entry["per_prompt"]:
        assert row["new_tokens"] - 1 <= row["rounds"] + row["accepted"] <= row["new_tokens"] - 1 + 3


def test_responses_can_be_kept_and_given(head: Path, smollm2_target: Path, cache: Cache, tmp_path: Path) -> None:
    file = tmp_path / "responses.jsonl"
    first = validate(
        head, target=smollm2_target, cache=cache, reference=ReferenceOptions(save_responses=file), **SHORT
    )
    again = validate(head, target=smollm2_target, cache=cache, reference=ReferenceOptions(responses=file), **SHORT)
    counters = ("question_id", "tokens_sha256", "rounds", "accepted_per_position")
    assert rows(first, *counters) == rows(again, *counters)
    assert again.document["engines"][0]["flags"]["texts"] == "responses given"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([lines[0], "{"]))
    with pytest.raises(InputError, match="line 2"):
        validate(head, target=smollm2_target, cache=cache, reference=ReferenceOptions(responses=file), **SHORT)


def test_hidden_states_stand_in_for_the_target(
    head: Path, smollm2_target: Path, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "states"
    saving = ReferenceOptions(save_hidden_states=folder)
    first = validate(head, target=smollm2_target, cache=cache, reference=saving, **SHORT)
    monkeypatch.setattr(TargetModel, "load", lambda *_, **__: pytest.fail("the target was loaded"))
    given = ReferenceOptions(hidden_states=folder)
    again = validate(head, target=smollm2_target, cache=Cache(), reference=given, **SHORT)
    counters = ("question_id", "tokens_sha256", "rounds", "accepted_per_position")
    assert rows(first, *counters) == rows(again, *counters)
    with pytest.raises(InputError, match="no hidden states for question"):
        validate(head, target=smollm2_target, cache=Cache(), reference=given, num_prompts=9, max_new_tokens=12)


@pytest.mark.parametrize("name", [*dumps.WRITERS])
def test_the_states_of_every_producer_give_the_rounds_of_a_direct_run(
    head: Path, smollm2_target: Path, cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Prompt by prompt, without the target."""
    direct = validate(head, target=smollm2_target, cache=cache, **SHORT)
    (target,) = cache.targets.values()
    (texts,) = [found for key, found in cache.texts.items() if len(found) == 8]
    dumps.WRITERS[name](tmp_path / "d", target, texts)
    monkeypatch.setattr(TargetModel, "load", lambda *_, **__: pytest.fail("the target was loaded"))
    layers = {"vllm": (1, 14, 26, 29), "modelopt by vllm": (1, 14, 26)}.get(name)
    given = ReferenceOptions(hidden_states=tmp_path / "d", states_layers=layers)
    report = validate(head, target=smollm2_target, cache=Cache(), reference=given, **SHORT)
    counters = ("question_id", "tokens_sha256", "rounds", "accepted_per_position")
    long = [n for n, text in enumerate(texts) if text.response_length == SHORT["max_new_tokens"]]
    ours, theirs = rows(report, *counters), rows(direct, *counters)
    assert len(long) >= 6
    assert [ours[n] for n in long] == [theirs[n] for n in long]
    flags = report.document["engines"][0]["flags"]
    assert flags["states"]["boundary_ids"][:3] == [2, 15, 27]
    assert flags["states"]["producer"] == name.split(",")[0].removesuffix(" by vllm")
    assert any("its own" in note for note in flags["notes"])


def test_a_sabotaged_head_is_held_against_its_original(
    head: Path, example_head: Path, smollm2_target: Path, cache: Cache
) -> None:
    file = head / "model.safetensors"
    tensors = load_file(file)
    tensors["midlayer.hidden_norm.weight"] = torch.ones_like(tensors["midlayer.hidden_norm.weight"])
    save_file(tensors, file)
    options = {"num_prompts": 8, "max_new_tokens": 64, "cache": cache}
    alone = validate(head, target=smollm2_target, **options)
    assert alone.verdict == "pass", "by itself it looks well"
    held = validate(head, target=smollm2_target, reference_head=example_head, **options)
    assert held.verdict == "fail"
    assert "the rounds differ from the reference's" in held.reason


def test_a_measurement_is_kept_and_held_against(cli: Cli, head: Path, smollm2_target: Path, tmp_path: Path) -> None:
    file = tmp_path / "acceptance.reference.yaml"
    words = ("validate", head, "--target", smollm2_target, "--num-prompts", 8, "--max-new-tokens", 12)
    status, out, err = cli(*words, "--write-acceptance-reference", file)
    assert status == 0, err
    assert "PASS" in out
    status, out, _ = cli(*words, "--acceptance-reference", file)
    assert status == 0
    assert "all 8 prompts have the counters of the reference exactly" in out
    status, out, _ = cli(*words, "--draft-tokens", 2, "--acceptance-reference", file)
    assert status == 1
    assert "INCONCLUSIVE" in out
    assert "draft_tokens is 2, not 3" in out
    file.write_text(file.read_text().replace("tolerance: 0.05", "tolerance: much"))
    status, _, err = cli(*words, "--acceptance-reference", file)
    assert status == 3
    assert "acceptance.reference.yaml:5: tolerance" in err


def test_a_target_of_other_sizes_is_refused_before_it_speaks(
    head: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=64, intermediate_size=64, num_hidden_layers=30, num_attention_heads=4, vocab_size=49152
    )
    folder = tmp_path / "other"
    LlamaForCausalLM(config).save_pretrained(folder)
    with pytest.raises(InputError, match=r"576.*64|64.*576"):
        validate(head, target=folder, **SHORT)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"engine": "reference,none"}, "no engine is called 'none'"),
        ({"engine": "vllm,vllm"}, "twice"),
        ({"engine": "vllm", "reference_head": "x"}, "--reference-head"),
        ({"engine": "reference,sglang_jax", "device": "tpu"}, "not on tpu"),
    ],
)
def test_options_that_contradict_each_other(
    head: Path, smollm2_target: Path, options: dict[str, Any], says: str
) -> None:
    with pytest.raises((UsageError, InputError), match=says):
        validate(head, target=smollm2_target, **options)


def test_drafting_and_sources_that_contradict_each_other() -> None:
    with pytest.raises(UsageError, match="no drafting"):
        ReferenceOptions(drafting="lucky")
    with pytest.raises(UsageError, match="--hidden-states holds the texts"):
        ReferenceOptions(hidden_states="a", save_responses="b")
    for given in ({"own_texts": True}, {"states_layers": (1, 2)}):
        with pytest.raises(UsageError, match=r"is about --hidden-states, and there are none"):
            ReferenceOptions(**given)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="--prompts hidden-states are the texts of --hidden-states"):
        ValidateOptions(prompts="hidden-states")
    with pytest.raises(UsageError, match="only the reference can replay"):
        ValidateOptions(prompts="hidden-states", engine="vllm", reference=ReferenceOptions(hidden_states="a"))
    with pytest.raises(UsageError, match="and --responses names others"):
        ValidateOptions(prompts="hidden-states", reference=ReferenceOptions(hidden_states="a", responses="b"))


def test_a_benchmark_drafts_the_trees_a_validation_drafts(
    cli: Cli, head: Path, smollm2_target: Path, cache: Cache
) -> None:
    tree = {"topk": 4, "num_draft_tokens": 6}
    size = ("--num-prompts", 8, "--max-new-tokens", 12, "--topk", 4, "--num-draft-tokens", 6)
    options = ("--datasets", "smoke", "--draft-tokens", "2,4", *size, "--json")
    status, out, _ = cli("bench", head, "--target", smollm2_target, *options)
    cells = json.loads(out)["cells"]
    assert status == 0
    for cell, k in zip(cells, (2, 4), strict=True):
        report = validate(head, target=smollm2_target, cache=cache, draft_tokens=k, **tree, **SHORT)
        counted = [[p["rounds"], p["accepted_per_position"]] for p in cell["per_prompt"]]
        assert counted == rows(report, "rounds", "accepted_per_position")
        assert (cell["settings"]["topk"], cell["settings"]["num_draft_tokens"]) == (4, 6)
