"""release.yaml: what is accepted, and that every error names file, line, field and what is allowed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import card_samples as samples
import pytest
from card_samples import MINIMAL, make_report

from eagle3hub.card import load_manifest
from eagle3hub.card.manifest import validation_settings
from eagle3hub.card.reports import Run
from eagle3hub.card.results import validate_command
from eagle3hub.engines.base import EngineSettings
from eagle3hub.errors import InputError, ManifestError, SourceError, UsageError
from eagle3hub.publishing.derived import departures_from_manifest
from eagle3hub.system.documents import parse_yaml
from eagle3hub.validation.report import Report

Write = Callable[[str], Path]


def test_example_loads() -> None:
    manifest = load_manifest(samples.EXAMPLE)
    assert manifest.release.repo == samples.REPO
    assert manifest.target.id == samples.TARGET
    assert list(manifest.layouts) == ["specforge", "modelopt", "speculators", "specjax"]
    assert (manifest.validate.num_prompts, manifest.validate.max_new_tokens, manifest.validate.draft_tokens) == (
        8,
        64,
        3,
    )
    assert Path(manifest.head_source) == samples.EXAMPLE.parent / "head"


def test_defaults(write: Write) -> None:
    manifest = load_manifest(write(MINIMAL))
    assert manifest.release.title == "head"
    assert manifest.validate.draft_tokens == 3
    assert manifest.reports is None
    assert manifest.training.data_license is None


ENGINE_SETTINGS = """
validate:
  engine: reference,vllm
  engine_settings:
    tensor_parallel: 2
    arguments:
      vllm: {kv_cache_dtype: fp8, max_model_len: 4096}
    environment:
      vllm: {VLLM_LOGGING_LEVEL: INFO}
    chat_template: {enable_thinking: false}
"""


def test_how_engines_are_started_is_read_and_becomes_options(write: Write) -> None:
    manifest = load_manifest(write(MINIMAL + ENGINE_SETTINGS))
    given = {"kv_cache_dtype": "fp8", "max_model_len": 4096}
    expected = EngineSettings(2, {"vllm": given}, {"vllm": {"VLLM_LOGGING_LEVEL": "INFO"}}, {"enable_thinking": False})
    assert manifest.validate.engine_settings == expected
    options = validation_settings(manifest)
    assert options["tensor_parallel"] == 2
    assert options["engine_arg"] == ["vllm.kv_cache_dtype=fp8", "vllm.max_model_len=4096"]
    assert options["engine_env"] == ["vllm.VLLM_LOGGING_LEVEL=INFO"]
    assert options["chat_template_arg"] == ["enable_thinking=false"]


def test_temperature_and_tree_of_a_validation_become_options_of_it(write: Write) -> None:
    asked = "validate:\n  temperature: 0.7\n  seed: 5\n  topk: 4\n  num_draft_tokens: 16\n  draft_tokens: 5\n"
    manifest = load_manifest(write(f"{MINIMAL}{asked}"))
    options = validation_settings(manifest)
    assert {name: options[name] for name in ("temperature", "seed", "topk", "num_draft_tokens")} == {
        "temperature": 0.7, "seed": 5, "topk": 4, "num_draft_tokens": 16,
    }  # fmt: skip
    silent = validation_settings(load_manifest(write(MINIMAL)))
    assert (silent["temperature"], silent["seed"], silent["topk"], silent["num_draft_tokens"]) == (0.0, 0, 1, None)
    for wrong, said in (("temperature: hot", "temperature"), ("topk: 4", "how many of its tokens are verified")):
        with pytest.raises(ManifestError) as error:
            load_manifest(write(f"{MINIMAL}validate:\n  {wrong}\n"))
        assert said in str(error.value)


def test_a_report_is_held_against_temperature_and_tree_and_its_card_repeats_them(write: Write) -> None:
    report = make_report()
    report["settings"] |= {"temperature": 0.7, "seed": 5, "topk": 4, "num_draft_tokens": 16, "drafting": "greedy"}
    measured = Report.from_json(report)
    asked = load_manifest(write(f"{MINIMAL}validate: {{temperature: 0.7, seed: 5, topk: 4, num_draft_tokens: 16}}\n"))
    silent = load_manifest(write(MINIMAL))
    named = ("the temperature is 0.7", "the seed is 5", "the branches per token is 4", "the nodes of the tree is 16")
    for manifest, said in ((asked, False), (silent, True)):
        departures = "\n".join(departures_from_manifest(manifest, measured))
        assert [what in departures for what in named] == [said] * len(named)
    command = validate_command(Run(measured, measured.engines[0]), asked)
    assert "--topk 4 \\\n  --num-draft-tokens 16 \\\n  --temperature 0.7 \\\n  --seed 5" in command


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("kv_cache_dtype: fp8", "kv_cache_dtpe: fp8", "has no keyword kv_cache_dtpe"),
        ("max_model_len: 4096", "max_model_len: long", 'a whole number, not "long"'),
        ("kv_cache_dtype: fp8", "dtype: float16", "the run decides the dtype"),
        ("tensor_parallel: 2", "tensor_parallel: 0", "tensor_parallel is 0"),
        ("tensor_parallel: 2", "tensor_paralel: 2", "did you mean 'tensor_parallel'"),
        ("      vllm: {kv", "      vlm: {kv", "vlm"),
        ("VLLM_LOGGING_LEVEL: INFO", "HF_TOKEN: a", "would put a secret into"),
    ],
)
def test_engine_settings_that_cannot_be(write: Write, old: str, new: str, message: str) -> None:
    with pytest.raises(ManifestError) as error:
        load_manifest(write(MINIMAL + ENGINE_SETTINGS.replace(old, new)))
    assert message in error.value.message


def test_paths_are_relative_to_the_manifest(write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = write(MINIMAL.replace("  id: owner/target", "  id: owner/target\n  path: ../target"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    manifest = load_manifest("../release.yaml")
    assert Path(manifest.head_source).resolve() == path.parent / "head"
    assert Path(manifest.measured_target).resolve() == path.parent.parent / "target"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ("from: specforg", "no layout called specforg"),
        ("max_shard_size: 5 parsecs", "5 parsecs"),
        ("aux_convention: after", "aux_layers"),
        ("dtype: int8", "bf16, fp16 or fp32"),
        ("aux_layer: [1]", "aux_layer"),
    ],
)
def test_what_is_wrong_with_a_conversion_is_told_with_its_line(write: Write, fields: str, said: str) -> None:
    with pytest.raises(ManifestError, match=r"release\.yaml:[2-4]: ") as wrong:
        load_manifest(write(MINIMAL.replace("  source: head", f"  source: head\n  {fields}")))
    assert said in f"{wrong.value} {wrong.value.hint}"


def test_training_facts_keep_order_and_spelling(write: Write) -> None:
    text = MINIMAL + "training:\n  schedule: lr 8e-4\n  facts:\n    Seen: 1e3\n    Odd: 007\n  ttt_length: 4\n"
    assert load_manifest(write(text)).training.facts == (
        ("Schedule", "lr 8e-4"), ("Seen", "1e3"), ("Odd", "007"), ("TTT length", "4"),
    )  # fmt: skip


def test_core_schema_words_are_not_surprising(write: Write) -> None:
    manifest = load_manifest(
        write(MINIMAL.replace("license: mit", "license: mit\n  language: [no, en]\n  title: 2026-11-22"))
    )
    assert manifest.release.language == ("no", "en")
    assert manifest.release.title == "2026-11-22"


@pytest.mark.parametrize(
    ("old", "new", "line", "message", "hint"),
    [
        ("  main: specforge", "  mian: specforge", 12, "'layouts.mian'; did you mean 'main'", "also, engines, main"),
        ("  main: specforge", "  main: specforg", 12, "did you mean 'specforge'", "modelopt, speculators"),
        ("  license: mit", "  license: MIT", 10, 'release.license is "MIT"', "lower case"),
        ("  license: mit", "  license: apache2", 10, "'apache2', which is no license id of the Hub; did", "or other"),
        ("  license: mit", "  license: other", 7, "'release.license_name' is missing", ""),
        ("  license: mit", "  license: mit\n  license_link: 'javascript:x'", 11, "license_link", "https://"),
        ("  repo: owner/head", "  repo: head", 8, "release.repo", "owner/name"),
        ("speculative_tokens: 3", "speculative_tokens: three", 13, 'speculative_tokens is "three"', "whole number"),
        ("speculative_tokens: 3", "speculative_tokens: 0", 13, "speculative_tokens is 0", "from 1 to 64"),
        ("  summary: A head.", "  summary:", 9, "release.summary is empty", "text"),
        ("  id: owner/target\n", "", 4, "'target.id' is missing", "Hub id of the target"),
        ("  main: specforge", "  main: specforge\n  also: [specforge]", 13, "already the main layout", "once"),
        ("speculative_tokens: 3", "speculative_tokens: 3\ncitations: [egle]", 14, "did you mean 'eagle'", "medusa"),
        ("_tokens: 3", "_tokens: 3\ncitations: ['2607.25852']", 14, "no work with the", "bibtex"),
        ("_tokens: 3", "_tokens: 3\nbibtex: '@misc{a, title={T'", 14, "cannot be parsed", "@misc"),
        ("_tokens: 3", "_tokens: 3\nbibtex: see arXiv", 14, "holds no entry", "@misc"),
        ("_tokens: 3", "_tokens: 3\nbibtex: '@misc{a, title={T}}'", 14, "no author and no year", ""),
        ("_tokens: 3", "_tokens: 3\nbibtex: '@misc{lk, title={T}, author={A B}, year={2026}}'", 14,
         "lk of bibtex is a key of the bibliography", "citations: [lk]"),
        ("schema: eagle3hub/manifest/1", "schema: eagle3hub/manifest/2", 1, "schema is", "manifest/1"),
        ("  source: head", "  source: [head]", 3, "head.source is a list", "a folder or hf://"),
        ("  summary: A head.", "  tags: &a [*a]", 9, "inside its own anchor", "write the value out"),
        ("  summary: A head.", "  summary: A head.\n  summary: B", 10, "appears twice", ""),
        ("  summary: A head.", "  summary: !!python/name:os.system ''", 9, "tag", "plain YAML"),
        ("  summary: A head.", "  summary: !!int x", 9, "not a value of type int", ""),
        ("  summary: A head.", "  summary: 'A head.", 9, "not valid YAML", ""),
        ("  summary: A head.", "  <<: {a: b}", 9, "unknown field", "summary"),
    ],
)  # fmt: skip
def test_errors_name_file_line_and_field(write: Write, old: str, new: str, line: int, message: str, hint: str) -> None:
    assert old in MINIMAL
    with pytest.raises(ManifestError) as caught:
        load_manifest(write(MINIMAL.replace(old, new, 1)))
    prefix = f"release.yaml:{line}: "
    if "'A head." in new:
        assert caught.value.message.startswith("release.yaml:")
    else:
        assert caught.value.message.startswith(prefix), caught.value.message
    assert message in caught.value.message
    assert hint in (caught.value.hint or "")


def test_several_errors_are_all_named(write: Write) -> None:
    text = MINIMAL.replace("main: specforge", "main: nothing").replace("license: mit", "licence: mit")
    with pytest.raises(ManifestError) as caught:
        load_manifest(write(text))
    assert "line 12" in (caught.value.hint or "")


@pytest.mark.parametrize(
    "text", ["", "[]", "just text", "a: " + "[" * 5000, "\x00", "- &a [*a]", "? [a]\n: b", "%YAML 9\n---\n{}"]
)
def test_nonsense_is_one_clean_error(write: Write, text: str) -> None:
    with pytest.raises(ManifestError):
        load_manifest(write(text))


@pytest.mark.slow
def test_billion_laughs_is_refused_at_once(write: Write) -> None:
    layers = "\n".join(f"k{i}: &k{i} [{', '.join([f'*k{i - 1}'] * 9)}]" for i in range(1, 30))
    with pytest.raises(ManifestError, match="aliases expand to more than"):
        load_manifest(write(f"k0: &k0 lol\n{layers}\n"))


def test_an_alias_is_its_anchor(write: Write) -> None:
    manifest = load_manifest(write(MINIMAL.replace("summary: A head.", "summary: &a A head.\n  title: *a")))
    assert manifest.release.title == manifest.release.summary == "A head."


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(SourceError):
        load_manifest(tmp_path / "absent.yaml")
    with pytest.raises(SourceError):
        load_manifest(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"schema: x\nhead: \xe9\n")
    with pytest.raises(ManifestError, match=r"latin\.yaml:2: not UTF-8"):
        load_manifest(tmp_path / "latin.yaml")
    (tmp_path / "big.yaml").write_bytes(b"#" * (2 << 20))
    with pytest.raises(InputError, match="larger"):
        load_manifest(tmp_path / "big.yaml")


def test_who_reads_the_same_text_again_gets_a_document_of_its_own() -> None:
    text = "a: [1, {b: 2}]\n"
    first = parse_yaml(text, "x.yaml")
    first.data["a"][1]["b"] = 3
    first.lines.clear()
    again = parse_yaml(text, "x.yaml")
    assert again.data == {"a": [1, {"b": 2}]}
    assert again.line(("a", 1, "b")) == 1
    assert (again.lines, parse_yaml(text, "y.yaml").name) != ({}, "x.yaml")


@pytest.mark.slow
@pytest.mark.parametrize("depth", [200, 300, 400, 3000])
def test_a_text_that_is_nested_too_deeply_is_one_clean_error(depth: int) -> None:
    text = "[" * depth + "]" * depth
    for _ in range(2):
        try:
            found = parse_yaml(text, "x.yaml")
        except ManifestError as error:
            assert (error.message, error.code) == ("x.yaml: nested too deeply", "manifest-yaml")
        else:
            assert depth < 1000
            assert str(found.data) == text


def test_one_layout_of_a_manifest_is_one_that_it_has(write: Write) -> None:
    layouts = load_manifest(write(MINIMAL.replace("main: specforge", "main: specforge\n  also: [modelopt]"))).layouts
    assert tuple(layouts.only("modelopt")) == ("modelopt",)
    with pytest.raises(UsageError, match="no layout 'universal'") as wrong:
        layouts.only("universal")
    assert (wrong.value.code, wrong.value.hint) == ("usage-layout", "it has: specforge, modelopt")
