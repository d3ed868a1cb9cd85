"""The starter manifest: loads as it is, says what the head's files say, and is inert whatever the names."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import card_samples as samples
import pytest

from eagle3hub.card import load_manifest, render_text
from eagle3hub.card.starter import TrainingFact, starter, training_facts, unfilled, write_starter
from eagle3hub.checkpoint import folder
from eagle3hub.errors import UsageError

FIXTURES = Path(__file__).parents[1] / "fixtures"
EXPORTED, TRAINERS = FIXTURES / "exporters", FIXTURES / "trainers"


def test_it_loads_and_gives_a_card(tmp_path: Path) -> None:
    path = tmp_path / "release.yaml"
    path.write_text(starter(samples.make_head(), "head", samples.TARGET), encoding="utf-8")
    manifest = load_manifest(path)
    assert (manifest.layouts.main, manifest.target.id) == ("universal", samples.TARGET)
    assert unfilled(manifest) == ["release.summary", "release.repo"]
    assert manifest.release.repo == "your-name/SmolLM2-135M-Instruct-eagle3"
    assert "8,923,392 parameters, 8,192 of 49,152 tokens" in path.read_text()
    assert "after target layers 1, 14, 26" in path.read_text()
    assert "## Architecture" in render_text(manifest, [], samples.make_head())


def test_the_optional_lines_load_once_unmarked(tmp_path: Path) -> None:
    path = tmp_path / "release.yaml"
    text = re.sub(r"^#\? ?", "", starter(samples.make_head(), "head", samples.TARGET), flags=re.M)
    text = re.sub(r"^(  \w+:)(  # )", r"\1 x\2", text, flags=re.M).replace("\n language", "\n  language")
    text = re.sub(r"^ (revision|path|gated|language|datasets|authors|also):", r"  \1:", text, flags=re.M)
    path.write_text(text, encoding="utf-8")
    manifest = load_manifest(path)
    assert manifest.limitations and manifest.citations and manifest.training.facts and manifest.target.revision
    assert manifest.training.data_sets and manifest.target.gated and manifest.engines and manifest.reports
    assert manifest.validate.engine_settings.chat_template == {"enable_thinking": False}


def test_a_head_that_is_not_universal_keeps_its_layout_and_says_why(tmp_path: Path) -> None:
    output = tmp_path / "release.yaml"
    write_starter(str(EXPORTED / "speculators-plain/head"), samples.TARGET, "alice/head", output)
    assert "  main: speculators  # not universal: the head has its own embed_tokens.weight" in output.read_text()
    manifest = load_manifest(output)
    assert (manifest.layouts.main, unfilled(manifest)) == ("speculators", ["release.summary"])


def test_a_head_that_the_target_makes_universal_is_suggested_so(tmp_path: Path) -> None:
    output = tmp_path / "release.yaml"
    write_starter(str(EXPORTED / "specjax-saved/head"), samples.TARGET, "alice/head", output)
    assert "  main: universal" in output.read_text()


def test_the_head_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[object] = []
    real = folder.FolderSource
    monkeypatch.setattr(folder, "FolderSource", lambda at: opened.append(at) or real(at))
    write_starter(
        str(EXPORTED / "specforge-sglang-plain/head"), samples.TARGET, "alice/head", tmp_path / "release.yaml"
    )
    assert len(opened) == 1


def test_what_trainers_leave_beside_a_head_is_filled_in(tmp_path: Path) -> None:
    """Files that speculators 0.9.0 and transformers 5 wrote."""
    shutil.copytree(TRAINERS / "speculators", tmp_path / "run")
    shutil.copytree(EXPORTED / "speculators-plain/head", tmp_path / "run/2", dirs_exist_ok=True)
    write_starter(str(tmp_path / "run/2"), samples.TARGET, "alice/head", tmp_path / "release.yaml")
    assert load_manifest(tmp_path / "release.yaml").training.facts == (
        ("Framework", "speculators 0.9.0"),
        ("Objective", "kl_div"),
        ("Schedule", "adamw, learning rate 0.0003, cosine, 3 epochs"),
        ("TTT length", "4"),
        ("Date", "2026-11-30"),
        ("Tokens in a batch", "4096"),
        ("Validation loss of the trainer", "1.734"),
    )
    assert training_facts(TRAINERS / "transformers") == [
        TrainingFact("schedule", "480 steps, 2 epochs, batches of 8 on each device", "trainer_state.json")
    ]


def test_the_best_checkpoint_of_specforge_is_known_by_its_step(tmp_path: Path) -> None:
    """The file as `CheckpointManager.update_best` of SpecForge writes it, beside the folders of the checkpoints."""
    metric = "eval/simulated_acc_len"
    meta = {"run_id": "qwen", "step": 4000, "score": 2.375, "metric": metric, "metrics": {metric: 2.375}}
    (tmp_path / "qwen.best_meta.json").write_text(json.dumps(meta))
    said = [
        TrainingFact("framework", "SpecForge", "qwen.best_meta.json"),
        TrainingFact("schedule", "4,000 steps", "qwen.best_meta.json"),
        TrainingFact(f"{metric} of the trainer", "2.375", "qwen.best_meta.json", labelled=True),
    ]
    for name, facts in (("qwen-step4000", said), ("qwen-best", said), ("qwen-step2000", [])):
        (tmp_path / name).mkdir()
        assert training_facts(tmp_path / name) == facts
    (tmp_path / "other.best_meta.json").write_text(json.dumps(meta))
    assert training_facts(tmp_path / "qwen-best") == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("run.yaml", "train: [a, b]"),
        ("run.yaml", "{"),
        ("run.yaml", "!!python/name:os.system x"),
        ("trainer_state.json", '{"global_step": "many"}'),
        ("trainer_state.json", "[" * 5000),
        ("val_metrics.json", '{"loss_epoch": "low"}'),
        ("a.best_meta.json", "[1]"),
        ("a.best_meta.json", '{"run_id": "a", "step": "many", "score": 1}'),
        ("train_command.txt", "\xff"),
    ],
)
def test_files_that_hold_something_else_say_nothing(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_bytes(text.encode("latin-1"))
    assert training_facts(tmp_path) == []


@pytest.mark.parametrize("name", ["no-slash", "a/b\nrelease: x", "{{ 7*7 }}/x", "a/b#c", "../x"])
def test_names_that_are_no_hub_ids_are_refused(name: str) -> None:
    with pytest.raises(UsageError):
        starter(samples.make_head(), "head", name)
    with pytest.raises(UsageError):
        starter(samples.make_head(), "head", samples.TARGET, name)


@pytest.mark.parametrize(
    "source", ["a: b # c", "x\nschema: y", "\u202eevil", "*alias", "!!python/name:os.system", '"']
)
def test_any_folder_is_one_scalar(tmp_path: Path, source: str) -> None:
    path = tmp_path / "release.yaml"
    path.write_text(starter(samples.make_head(), source, samples.TARGET), encoding="utf-8")
    assert Path(str(load_manifest(path).head_source)).name == Path(source).name
