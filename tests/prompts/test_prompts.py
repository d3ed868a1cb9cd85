from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from eagle3hub.errors import InputError, SourceError, UsageError
from eagle3hub.prompts import load_prompts


def line(question_id: object = 1, category: object = "writing", turns: object = ("Write a note.", "Shorter.")) -> str:
    return json.dumps({"question_id": question_id, "category": category, "turns": turns})


def test_the_packaged_set_is_small_and_varied() -> None:
    smoke = load_prompts("smoke")
    assert smoke.name == "smoke"
    assert len(smoke.prompts) == 16
    assert sum(smoke.categories.values()) == 16
    assert len(smoke.categories) >= 6


def test_the_first_prompts_are_taken_in_order() -> None:
    whole, part = load_prompts("smoke"), load_prompts("smoke", 3)
    assert part.prompts == whole.prompts[:3]
    assert part.sha256 != whole.sha256
    assert part.to_json()["count"] == 3


def test_the_hash_is_of_what_is_used_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text(line() + "\n\n" + line(2, "math", ["Wie groß ist π?"]) + "\n", encoding="utf-8")
    found = load_prompts(file)
    expected = (
        '[{"category":"writing","question_id":1,"turns":["Write a note."]},'
        '{"category":"math","question_id":2,"turns":["Wie groß ist π?"]}]'
    )
    assert found.prompts[0].later_turns == ("Shorter.",)
    assert found.sha256 == hashlib.sha256(expected.encode()).hexdigest()
    file.write_text(line(turns=["Write a note."]) + "\r\n" + line(2, "math", ["Wie groß ist π?"]), encoding="utf-8")
    assert load_prompts(file).sha256 == found.sha256
    assert found.name == "mine.jsonl"


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        ('{"question_id": 2}', "no category and no turns"),
        (line(question_id=1.5), "question_id is neither"),
        (line(question_id=True), "question_id is neither"),
        (line(2, category=""), "category is not"),
        (line(2, turns=[]), "turns is not"),
        (line(2, turns="text"), "turns is not"),
        (line(2, turns=["  "]), "turns is not"),
        (line(), "question_id 1 was used on line 1"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, bad: str, says: str) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text(f"{line()}\n{bad}\n", encoding="utf-8")
    with pytest.raises(InputError, match=says) as error:
        load_prompts(file)
    assert f"{file}, line 2" in error.value.message
    assert error.value.code == "prompts-line"


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="smoky") as error:
        load_prompts("smoky")
    assert "smoke" in (error.value.hint or "")
    (tmp_path / "latin").write_bytes(b"\xff\xfe")
    with pytest.raises(SourceError, match="UTF-8"):
        load_prompts(tmp_path / "latin")
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(InputError, match="no prompts"):
        load_prompts(tmp_path / "empty")


@pytest.mark.parametrize("number", [0, -1, 17])
def test_more_prompts_than_there_are_is_a_usage_error(number: int) -> None:
    with pytest.raises(UsageError, match=str(number)):
        load_prompts("smoke", number)


def test_later_turns_are_kept_and_change_nothing(tmp_path: Path) -> None:
    (tmp_path / "one").write_text(line(turns=["Write a note."]))
    (tmp_path / "two").write_text(line(turns=["Write a note.", "Shorter."]))
    one, two = load_prompts(tmp_path / "one"), load_prompts(tmp_path / "two")
    assert two.prompts[0].turns == ("Write a note.", "Shorter.")
    assert one.sha256 == two.sha256


def test_the_hash_of_the_packaged_set_is_the_one_in_earlier_reports() -> None:
    assert load_prompts("smoke").sha256 == "c2b3b2ccea29a4548d30be640276c87d81904687b3dc262479584e340dc4bc79"


def test_a_misspelt_set_is_recognised() -> None:
    with pytest.raises(SourceError, match="did you mean 'mt_bench'") as error:
        load_prompts("mtbench")
    assert "humaneval" in (error.value.hint or "")
