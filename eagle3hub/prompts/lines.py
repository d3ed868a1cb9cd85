"""JSON Lines in MT-Bench's form, read strictly: a line that is wrong is named by its number."""

from __future__ import annotations

import json

from eagle3hub.errors import InputError, SourceError
from eagle3hub.prompts.sets import Prompt


def parse_prompts(raw: bytes, shown: str, *, category: str | None = None) -> tuple[Prompt, ...]:
    """The prompts of a file's bytes, in order.

    Args:
        raw: UTF-8 text, one JSON object a line with ``question_id``, ``category`` and ``turns``; empty lines are
            passed over, other fields are not looked at.
        shown: what messages call the file.
        category: stands in for an empty category; without it an empty category is an error.

    Raises InputError (``prompts-line``) naming the line, InputError (``prompts-empty``), SourceError for other bytes
    than UTF-8.
    """
    try:
        lines = raw.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise SourceError(f"{shown} is not UTF-8 text (byte {error.start})", code="source-prompts") from error
    prompts: list[Prompt] = []
    seen: dict[int | str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        prompt = _parse(line, shown, number, category)
        if prompt.question_id in seen:
            first = seen[prompt.question_id]
            raise _bad(shown, number, f"question_id {prompt.question_id!r} was used on line {first} already")
        seen[prompt.question_id] = number
        prompts.append(prompt)
    if not prompts:
        raise InputError(f"{shown} holds no prompts", code="prompts-empty")
    return tuple(prompts)


def _parse(line: str, shown: str, number: int, default_category: str | None) -> Prompt:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _bad(shown, number, f"not JSON ({error})") from error
    if not isinstance(row, dict):
        raise _bad(shown, number, "not a JSON object")
    missing = [key for key in ("question_id", "category", "turns") if key not in row]
    if missing:
        raise _bad(shown, number, f"no {' and no '.join(missing)}")
    question_id, category, turns = row["question_id"], row["category"] or default_category, row["turns"]
    if isinstance(question_id, bool) or not isinstance(question_id, int | str):
        raise _bad(shown, number, "question_id is neither an integer nor a string")
    if not isinstance(category, str) or not category:
        raise _bad(shown, number, "category is not a non-empty string")
    texts = turns if isinstance(turns, list) and all(isinstance(turn, str) for turn in turns) else []
    if not texts or not texts[0].strip():
        raise _bad(shown, number, "turns is not a list of strings that starts with a non-empty one")
    return Prompt(question_id, category, texts[0], tuple(texts[1:]))


def _bad(shown: str, number: int, what: str) -> InputError:
    return InputError(
        f"{shown}, line {number}: {what}",
        hint='each line is an object like {"question_id": 1, "category": "writing", "turns": ["Write a note."]}',
        code="prompts-line",
    )
