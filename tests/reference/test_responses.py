"""Responses that were given, not generated."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support import targets

from eagle3hub.errors import InputError, OutputError, SourceError
from eagle3hub.prompts import Prompt
from eagle3hub.reference.responses import read_responses, texts_of, write_responses
from eagle3hub.reference.target import TargetModel
from eagle3hub.reference.text import Text

PROMPTS = [Prompt(1, "writing", "hi"), Prompt("b", "math", "1+1")]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> TargetModel:
    return TargetModel.load(str(targets.save(tmp_path_factory.mktemp("targets") / "llama", tokenizer=True)))


def lines(path: Path, *rows: object) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_what_is_written_is_read(tmp_path: Path, target: TargetModel):
    texts = {1: Text((1, 5, 6, 7, 2, 9), 2, 3), "b": Text((1, 8, 9), 1, 2)}
    write_responses(tmp_path / "r.jsonl", texts)
    responses = read_responses(tmp_path / "r.jsonl")
    assert [r.question_id for r in responses] == [1, "b"]
    assert texts_of(responses, target) == (list(texts.values()), [])
    assert [p.name for p in tmp_path.iterdir()] == ["r.jsonl"]


def test_texts_come_in_the_order_of_the_prompts_with_their_template(tmp_path: Path, target: TargetModel):
    file = lines(
        tmp_path / "r",
        {"question_id": "b", "response_token_ids": [4, 2]},
        "",
        {"question_id": 1, "response_token_ids": [5]},
    )
    texts, notes = texts_of(read_responses(file), target, PROMPTS)
    assert [t.response for t in texts] == [(5,), (4, 2)]
    assert [list(t.token_ids[: t.prompt_length]) for t in texts] == [target.chat("hi"), target.chat("1+1")]
    assert notes == []


def test_text_is_tokenised_and_that_is_said(tmp_path: Path, target: TargetModel):
    file = lines(
        tmp_path / "r",
        {"question_id": 1, "response": "Hello <b>"},
        {"question_id": "b", "response_token_ids": [4], "prompt_token_ids": [1, 2]},
    )
    texts, notes = texts_of(read_responses(file), target, PROMPTS)
    assert target.tokenizer.decode(list(texts[0].response)) == "Hello <b>"
    assert texts[0].response[0] not in {0, 1, 2}
    assert len(notes) == 2
    assert "1 of 2 responses came as text" in notes[0]
    assert "1 of 2 prompts came as tokens" in notes[1]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("{", "not JSON"),
        ("[1]", "not a JSON object"),
        ({"response": "x"}, "question_id is missing"),
        ({"question_id": True, "response": "x"}, "question_id"),
        ({"question_id": 2}, "either response_token_ids or response"),
        ({"question_id": 2, "response": "x", "response_token_ids": [3]}, "either"),
        ({"question_id": 2, "response": ""}, "the response is empty"),
        ({"question_id": 2, "response_token_ids": []}, "the response is empty"),
        ({"question_id": 2, "response": 5}, "not a string"),
        ({"question_id": 2, "response_token_ids": [3, -1]}, "response_token_ids is not a list of token ids"),
        ({"question_id": 2, "response_token_ids": [3, True]}, "response_token_ids is not a list"),
        ({"question_id": 2, "response_token_ids": "3"}, "response_token_ids is not a list"),
        ({"question_id": 2, "response": "x", "prompt_token_ids": []}, "prompt_token_ids is empty"),
        ({"question_id": 1, "response": "x"}, "was used on line 1 already"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, row: object, says: str):
    file = lines(tmp_path / "r", {"question_id": 1, "response": "x"}, "", row)
    with pytest.raises(InputError, match="line 3") as caught:
        read_responses(file)
    assert caught.value.code == "responses-line"
    assert says in caught.value.message


def test_files_that_are_none(tmp_path: Path):
    with pytest.raises(InputError, match="holds no responses"):
        read_responses(lines(tmp_path / "r", ""))
    with pytest.raises(SourceError, match="cannot read"):
        read_responses(tmp_path / "absent")
    (tmp_path / "latin").write_bytes(b'{"question_id": 1, "response": "\xe9"}')
    with pytest.raises(SourceError, match="not UTF-8"):
        read_responses(tmp_path / "latin")
    with pytest.raises(OutputError, match="cannot write"):
        write_responses(tmp_path / "no" / "folder", {1: Text((1, 2), 1, 1)})


class TestQuestions:
    def refused(self, file: Path, target: TargetModel, prompts: list[Prompt] | None = PROMPTS) -> InputError:
        with pytest.raises(InputError) as caught:
            texts_of(read_responses(file), target, prompts)
        return caught.value

    def test_unknown_and_unanswered_ones(self, tmp_path: Path, target: TargetModel):
        one = {"question_id": 1, "response": "x"}
        error = self.refused(lines(tmp_path / "r", one, {"question_id": 3, "response": "x"}), target)
        assert (error.code, "line 2: question_id 3" in error.message) == ("responses-unknown-question", True)
        error = self.refused(lines(tmp_path / "r", one), target)
        assert (error.code, "'b'" in error.message) == ("responses-missing", True)

    def test_without_prompts_each_line_needs_its_own(self, tmp_path: Path, target: TargetModel):
        error = self.refused(lines(tmp_path / "r", {"question_id": 1, "response": "x"}), target, None)
        assert "line 1: no prompt_token_ids" in error.message

    def test_ids_of_another_vocabulary_and_too_long_texts(self, tmp_path: Path, target: TargetModel):
        row = {"question_id": 1, "prompt_token_ids": [1], "response_token_ids": [97]}
        error = self.refused(lines(tmp_path / "r", row), target, None)
        assert error.code == "reference-token-id"
        assert "line 1 has token id 97" in error.message
        row = {"question_id": 1, "prompt_token_ids": [1] * 200, "response_token_ids": [3] * 57}
        error = self.refused(lines(tmp_path / "r", row), target, None)
        assert "line 1 has 257 tokens, but the context" in error.message
