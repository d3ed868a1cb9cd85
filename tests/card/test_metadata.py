"""The YAML block: what the Hub accepts, and evaluation results that say how they were measured."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import card_samples as samples
import pytest
import yaml
from card_samples import MINIMAL
from huggingface_hub import ModelCard
from support.versions import VLLM

from eagle3hub.card import Manifest, Shown, load_manifest, render_text, vocabulary
from eagle3hub.card.vocabulary import HUB_TASKS
from eagle3hub.errors import ManifestError
from eagle3hub.prompts import load_prompts
from eagle3hub.system.resources import schema

ALLOWED = {
    "base_model", "datasets", "language", "library_name", "license", "license_link", "license_name", "model-index",
    "pipeline_tag", "tags",
}  # fmt: skip


def metadata(manifest: Manifest, *reports: dict[str, Any]) -> ModelCard:
    return ModelCard(render_text(manifest, samples.typed(*reports), samples.make_head()))


def test_fields(example: Manifest) -> None:
    data = metadata(example, samples.make_report()).data
    assert set(data.to_dict()) <= ALLOWED
    assert data.base_model == samples.TARGET
    assert data.license == "apache-2.0"
    assert data.pipeline_tag is None  # a draft head is no pipeline
    assert data.library_name is None, "no engine is a library of the Hub"
    assert data.language == ["en"]
    assert data.tags == ["eagle3", "speculative-decoding", "draft-model", "vllm"]
    assert data.get("base_model_relation") is None


def test_our_own_reference_is_no_engine_to_find_a_head_by(example: Manifest) -> None:
    text = render_text(
        example, samples.typed(samples.make_report(engine="reference", recipe=None)), samples.make_head()
    )
    data = ModelCard(text).data
    assert data.tags == ["eagle3", "speculative-decoding", "draft-model"] and data.library_name is None
    (result,) = data.eval_results
    assert result.metric_args["engine"] == f"eagle3hub reference {VLLM}"


def test_a_library_is_one_of_the_hubs(write: Callable[[str], Path]) -> None:
    stated = "  license: mit\n  library_name: {}"
    path = write(MINIMAL.replace("owner/target", samples.TARGET).replace("  license: mit", stated.format("nemo")))
    text = render_text(load_manifest(path), samples.typed(samples.make_report()), samples.make_head())
    assert ModelCard(text).data.library_name == "nemo"
    for name in ("reference", "vllm", "transformer"):
        write(MINIMAL.replace("  license: mit", stated.format(name)))
        with pytest.raises(ManifestError, match="no library of the Hub") as caught:
            load_manifest(path)
        assert caught.value.code == "manifest-library" and f"release.library_name is '{name}'" in caught.value.message


def test_a_task_is_one_of_the_hubs(write: Callable[[str], Path]) -> None:
    stated = "  license: mit\n  pipeline_tag: {}"
    with pytest.raises(ManifestError, match=r"pipeline_tag is .text2text-generation.; did you mean 'text-generation'"):
        load_manifest(write(MINIMAL.replace("  license: mit", stated.format("text2text-generation"))))
    for name in HUB_TASKS:
        path = write(MINIMAL.replace("  license: mit", stated.format(name)))
        assert load_manifest(path).release.pipeline_tag == name


def test_evaluation_result(example: Manifest) -> None:
    (result,) = metadata(example, samples.make_report()).data.eval_results
    assert result.metric_type == "acceptance_length"
    assert result.metric_value == 1.453
    assert result.task_type == "text-generation"
    assert result.source_url is None and result.verified is None
    args = result.metric_args
    assert (args["engine"], args["K"], args["temperature"], args["n"]) == (f"vLLM {VLLM}", 3, 0.0, 16)
    assert args["estimator"] and args["ci95"][0] < 1.453 < args["ci95"][1]


def test_results_lead_to_their_report(example: Manifest) -> None:
    for file, source in (
        ("reports/a b.json", f"https://huggingface.co/{samples.REPO}/blob/main/reports/a%20b.json"),
        ("", None),
    ):
        shown = Shown(report_files=[file])
        text = render_text(example, samples.typed(samples.make_report()), samples.make_head(), shown=shown)
        (result,) = ModelCard(text).data.eval_results
        assert (result.source_url, result.source_name) == (source, source and "eagle3hub")


def test_only_passing_runs_of_the_main_layout_become_results(example: Manifest) -> None:
    report = samples.make_report(verdict="inconclusive")
    card = metadata(example, report, samples.make_report("modelopt"))
    assert card.data.eval_results is None
    assert "vllm" not in card.data.tags


def test_an_engine_that_passed_in_a_report_that_did_not(example: Manifest) -> None:
    report = samples.make_report()
    other = samples.make_report(verdict="fail")["engines"][0] | {"engine": "sglang", "recipe": None}
    report["engines"].append(other)
    assert metadata(example, samples.settled(report)).data.eval_results is None


def test_two_temperatures_are_two_results(example: Manifest) -> None:
    warm = samples.make_report()
    warm["settings"]["temperature"] = 1.0
    for row in warm["engines"][0]["per_prompt"]:
        row["identical"] = None
    samples.settled(warm)
    results = metadata(example, samples.make_report(), warm).data.eval_results
    assert [r.metric_args["temperature"] for r in results] == [0.0, 1.0]


def test_a_tree_is_a_result_of_its_own_and_called_as_one(example: Manifest) -> None:
    tree = samples.make_report()
    tree["settings"] |= {"topk": 4, "num_draft_tokens": 16, "drafting": "greedy"}
    card = metadata(example, samples.make_report(), tree)
    shaped, chain = sorted((r.metric_args for r in card.data.eval_results), key=len, reverse=True)
    assert shaped == chain | {"tree_top_k": 4, "tree_tokens": 16} != chain
    assert "| Top-k of the draft tree | 4 |" in card.text and "| Verified tokens of the draft tree | 16 |" in card.text
    assert "Topk" not in card.text


def test_a_mode_of_the_target_is_a_result_of_its_own_and_told_apart(example: Manifest) -> None:
    off, told = samples.make_report(recipe=None), samples.make_report()
    off["settings"]["engine_settings"] = {"chat_template": {"enable_thinking": False}}
    off["settings"]["chat_template"] = "the target's own with enable_thinking=false"
    told["settings"]["system_prompt"] = words = "Think step by step. " * 10
    told["prompts"] = load_prompts("smoke", told["prompts"]["count"]).with_system(words).to_json()
    card = metadata(example, samples.make_report(), off, samples.settled(told))
    begins = "system prompt “Think step by step. Think step by step. Think step by step. …”"
    assert {r.metric_args.get("mode") for r in card.data.eval_results} == {None, "enable_thinking=false", begins}
    rows = re.findall(r"^\| ([^|]+) \| \*\*[\d.]+\*\* \|", card.text, re.M)
    assert f"Measured with vLLM {VLLM} on CPU" in card.text
    assert set(rows) == {"default", r"enable\_thinking=false", begins}
    assert "--chat-template-arg enable_thinking=false" in card.text
    assert "--system-prompt 'Think step by step. Think step by step." in card.text


def test_runs_that_share_every_setting_are_named_by_their_engine(example: Manifest) -> None:
    text = metadata(
        example, samples.make_report(), samples.make_report() | {"measured_at": "2026-11-23T13:00:00Z"}
    ).text
    assert len(re.findall(rf"^\| vLLM {re.escape(VLLM)} \| \*\*", text, re.M)) == 2
    assert "Measured with vLLM" not in text


def test_conditions_have_one_name_each() -> None:
    """What the schema of imported results names, the table of words has; and each word is of one condition."""
    table = schema("imported")["properties"]["measurements"]["items"]["properties"]
    row = table["rows"]["items"]["properties"]
    said = {"title", "metric", "unit", "columns", "rows", "rows_are", "dataset", "this", "base", "note"}
    assert set(row) - {"name", "value", "interval", "others", "columns"} == {
        key for key, one in vocabulary.CONDITIONS.items() if one.head
    }
    assert set(table) - said <= set(vocabulary.CONDITIONS)
    for words in ("name", "head", "arg"):
        used = [word for one in vocabulary.CONDITIONS.values() if (word := getattr(one, words))]
        assert len(used) == len(set(used))
    assert set(samples.make_report()["settings"]) - {"engine_settings"} <= set(vocabulary.CONDITIONS)


def test_a_custom_license_has_name_and_link(tmp_path: Path) -> None:
    custom = "license: other\n  license_name: our-license\n  license_link: LICENSE"
    path = tmp_path / "release.yaml"
    path.write_text(MINIMAL.replace("license: mit", custom).replace("owner/target", samples.TARGET))
    card = metadata(load_manifest(path), samples.make_report())
    assert (card.data.license, card.data.license_name, card.data.license_link) == ("other", "our-license", "LICENSE")
    assert "| This draft head | [our-license](LICENSE) |" in card.text


def test_language_no_is_norwegian(example: Manifest) -> None:
    norwegian = replace(example, release=replace(example.release, language=("no",)))
    assert metadata(norwegian).data.language == ["no"]


@pytest.mark.parametrize(
    "title", ["a: b", "- x", "'quoted' \"twice\"", "x\n---\nlicense: mit", "{a}", "null", "y" * 200]
)
def test_any_title_is_safe_yaml(example: Manifest, title: str) -> None:
    card = metadata(replace(example, release=replace(example.release, title=title)), samples.make_report())
    parsed = yaml.safe_load(str(card).split("---\n")[1])
    assert parsed["license"] == "apache-2.0"
    assert parsed["model-index"][0]["name"] == " ".join(title.split("\n"))


def test_the_card_parses_back_to_itself(example: Manifest, write: Callable[[str], Path]) -> None:
    text = render_text(example, samples.typed(samples.make_report()), samples.make_head())
    assert text.startswith("---\nbase_model: ")
    assert text.endswith("\n") and "\n\n\n" not in text
    assert ModelCard(text).data.to_yaml() == text.split("\n---\n")[0].removeprefix("---\n")
