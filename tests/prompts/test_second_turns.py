"""The second turns of a set, each after the target's own answer to the first."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import targets

from eagle3hub.benchmarking import BenchOptions, bench
from eagle3hub.errors import InputError, UsageError
from eagle3hub.prompts import Prompt, PromptSet, second_turns
from eagle3hub.validation.target import identify_target, load_prompts_for

QUIZ = PromptSet(
    "quiz",
    (Prompt(1, "a", "One?", ("And then?", "Last?")), Prompt("b", "a", "Alone?"), Prompt(3, "a", "Three?", ("Why?",))),
)


def test_a_second_turn_comes_after_the_answer_to_the_first() -> None:
    found = second_turns(QUIZ.with_system("Be brief."), {1: "Yes.", 3: "No."}, "answers.jsonl")
    assert (found.name, found.turns) == ("quiz#2", "second")
    assert [p.question_id for p in found.prompts] == [1, 3], "one has no second turn"
    assert found.prompts[0].messages == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "And then?"},
    ]
    assert found.prompts[0].later_turns == ("Last?",)
    other = second_turns(QUIZ.with_system("Be brief."), {1: "Yes!", 3: "No."}, "answers.jsonl")
    assert found.sha256 != other.sha256 != QUIZ.sha256, "another answer, another prompt"


def test_what_is_missing_is_said() -> None:
    with pytest.raises(InputError, match="holds no answer to the first turn of question 3 of quiz") as error:
        second_turns(QUIZ, {1: "Yes."}, "answers.jsonl")
    assert error.value.code == "prompts-second-turns"
    with pytest.raises(InputError, match="no prompt of single has a second turn") as error:
        second_turns(PromptSet("single", (Prompt(1, "a", "One?"),)), {1: "Yes."}, "answers.jsonl")
    assert error.value.code == "prompts-second-turns"


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A target, a set of two turns, and the target's answers: as token ids with an end, and as text."""
    target = targets.save(tmp_path / "target", tokenizer=True, num_hidden_layers=8)
    quiz = tmp_path / "quiz.jsonl"
    quiz.write_text(
        "".join(json.dumps({"question_id": i, "category": "c", "turns": [f"{i}?", "why"]}) + "\n" for i in (1, 2))
    )
    yes = [ord(c) - 32 + 4 for c in "yes"]
    answers = tmp_path / "answers.jsonl"
    rows = [{"question_id": 1, "response_token_ids": [*yes, 2]}, {"question_id": 2, "response": "no"}]
    answers.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return target, quiz, answers


def test_answers_are_read_as_the_target_wrote_them(files: tuple[Path, Path, Path]) -> None:
    target, quiz, answers = files
    (found,) = load_prompts_for(identify_target(target), quiz, after=answers)
    assert [p.before[-1]["content"] for p in found.prompts] == ["yes", "no"], "without the end of the sequence"
    with pytest.raises(UsageError, match="--second-turns names the answers") as error:
        load_prompts_for(identify_target(target), quiz, after=answers, contexts=[64])
    assert error.value.code == "usage-context"


@pytest.mark.slow
def test_what_was_saved_of_first_turns_gives_the_second(
    cli: Callable[..., tuple[int, str, str]], smollm2_target: Path, example_head: Path, tmp_path: Path
) -> None:
    quiz, kept = tmp_path / "quiz.jsonl", tmp_path / "first.jsonl"
    turns = [["Name a colour.", "Name another."], ["Say hello.", "And goodbye?"]]
    quiz.write_text(
        "".join(json.dumps({"question_id": i, "category": "c", "turns": t}) + "\n" for i, t in enumerate(turns))
    )
    words: tuple[Any, ...] = ("--target", smollm2_target, "--max-new-tokens", 8)
    cli("validate", example_head, *words, "--prompts", quiz, "--save-responses", kept)
    assert kept.is_file()
    options = BenchOptions(datasets=str(quiz), max_new_tokens=8, second_turns=kept)
    (cell,) = bench([str(example_head)], str(smollm2_target), options).cells
    assert (cell.prompts.turns, cell.prompts.name) == ("second", "quiz.jsonl#2")
    (first,) = bench(
        [str(example_head)], str(smollm2_target), BenchOptions(datasets=str(quiz), max_new_tokens=8)
    ).cells
    assert all(b.prompt_tokens > a.prompt_tokens + 8 for a, b in zip(first.per_prompt, cell.per_prompt, strict=True))
    report = tmp_path / "report.json"
    cli("validate", example_head, *words, "--prompts", quiz, "--second-turns", kept, "--report", report)
    assert json.loads(report.read_text())["prompts"]["name"] == "quiz.jsonl#2"
