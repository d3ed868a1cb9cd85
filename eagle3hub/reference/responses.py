"""Read and write a target's responses as JSON Lines, from an engine or an earlier run, for a replay.

Each line is an object with ``question_id`` and either ``response_token_ids`` (a list of ids, the end-of-sequence
token included) or ``response`` (text). Optional: ``prompt_token_ids`` (chat template included), and
``lookahead_token_ids``, the tokens that the target would have added after the response.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from eagle3hub.checkpoint.staging import replace_file
from eagle3hub.errors import InputError, SourceError
from eagle3hub.prompts import Message, Prompt
from eagle3hub.reference.chat import ChatTokenizer
from eagle3hub.reference.text import Text
from eagle3hub.system.reading import read_text

QuestionId = int | str
MAX_BYTES = 1 << 30
_ID_LISTS = ("prompt_token_ids", "response_token_ids", "lookahead_token_ids")


@dataclass(frozen=True, slots=True)
class Response:
    """One line: token ids if given, else text. ``where`` names the line in messages."""

    question_id: QuestionId
    where: str
    prompt_token_ids: tuple[int, ...] | None = None
    response_token_ids: tuple[int, ...] | None = None
    response: str | None = None
    lookahead_token_ids: tuple[int, ...] = ()


class Tokenizing(Protocol):
    """What turning responses into texts needs from a target."""

    def chat(
        self, text: str, *, before: Sequence[Message] = (), template_options: Mapping[str, object] | None = None
    ) -> list[int]:
        """Return the prompt ids of a user's turn, as `eagle3hub.reference.chat.ChatTokenizer.chat` does."""

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text; no special tokens are added."""

    def check_ids(self, ids: Sequence[int], what: str) -> None:
        """Raise InputError if ``ids`` are empty, too many, or not ids of the vocabulary."""


def read_responses(path: str | Path) -> list[Response]:
    """Read the responses in a file, in its order.

    Raises SourceError for a file that cannot be read, InputError (``responses-line``), naming the line, for a wrong
    line, an empty response or a question that occurs twice, and InputError (``responses-empty``) for a file without
    lines.
    """
    path = Path(path)
    try:
        lines = read_text(path, MAX_BYTES).split("\n")
    except OSError as e:
        raise SourceError(f"cannot read the responses {path}: {e.strerror or e}", code="source-responses") from e
    out: dict[QuestionId, Response] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        response = _parse(line, where)
        if response.question_id in out:
            first = out[response.question_id].where.rpartition(" ")[2]
            raise _bad(where, f"question_id {response.question_id!r} was used on line {first} already")
        out[response.question_id] = response
    if not out:
        raise InputError(f"{path} holds no responses", code="responses-empty")
    return list(out.values())


def texts_of(
    responses: Sequence[Response],
    target: Tokenizing,
    prompts: Sequence[Prompt] | None = None,
    template_options: Mapping[str, object] | None = None,
) -> tuple[list[Text], list[str]]:
    """Turn responses into texts, and note what a report must say about them.

    Args:
        prompts: the questions, one response each; the texts come in their order. Without them every line needs
            ``prompt_token_ids``, and the texts come in the file's order.
        template_options: arguments of the target's chat template.

    Returns the texts, and notes: sentences that belong in a report. Raises InputError for questions without a
    response, responses without a question or a prompt, and for ids that are not the target's.
    """
    questions = None if prompts is None else {p.question_id: p for p in prompts}
    if questions is not None:
        responses = _matched(responses, questions)
    texts, tokenised, foreign = [], 0, 0
    for r in responses:
        rendered = None
        if questions is not None:
            asked = questions[r.question_id]
            rendered = tuple(target.chat(asked.text, before=asked.before, template_options=template_options))
        prompt = r.prompt_token_ids or rendered
        if prompt is None:
            raise _bad(r.where, "no prompt_token_ids, and no prompts were given")
        foreign += rendered is not None and prompt != rendered
        answer = r.response_token_ids
        if answer is None:
            answer = tuple(target.encode(r.response or ""))
            tokenised += 1
        if not answer:
            raise _bad(r.where, "the response is empty once it is tokenised")
        text = Text((*prompt, *answer, *r.lookahead_token_ids), len(prompt), len(answer))
        target.check_ids(text.token_ids, r.where)
        texts.append(text)
    notes = []
    if tokenised:
        notes.append(
            f"{tokenised} of {len(texts)} responses came as text and were tokenised again, which need not give the "
            "tokens the target produced, nor its end-of-sequence token"
        )
    if foreign:
        notes.append(f"{foreign} of {len(texts)} prompts came as tokens that are not those of the chat template here")
    return texts, notes


def answers_of(path: str | Path, tokenizer: ChatTokenizer) -> dict[QuestionId, str]:
    """Return the answers in a file of responses as text, by question. Raises what `read_responses` raises."""
    out = {}
    for one in read_responses(path):
        tokens = one.response_token_ids
        out[one.question_id] = (one.response or "") if tokens is None else tokenizer.answer(tokens)
    return out


def write_responses(path: str | Path, texts: Mapping[QuestionId, Text]) -> None:
    """Write texts as responses, replacing the file in one step. Raises OutputError."""
    replace_file(Path(path), "".join(_line(i, text) for i, text in texts.items()).encode())


def _line(question_id: QuestionId, text: Text) -> str:
    end = text.prompt_length + text.response_length
    row: dict[str, object] = {
        "question_id": question_id,
        "prompt_token_ids": text.token_ids[: text.prompt_length],
        "response_token_ids": text.response,
    }
    if text.lookahead:
        row["lookahead_token_ids"] = text.token_ids[end:]
    return json.dumps(row, ensure_ascii=False) + "\n"


def _matched(responses: Sequence[Response], questions: Mapping[QuestionId, Prompt]) -> list[Response]:
    by_id = {r.question_id: r for r in responses}
    unknown = [r for r in responses if r.question_id not in questions]
    if unknown:
        raise InputError(
            f"{unknown[0].where}: question_id {unknown[0].question_id!r} is not among the {len(questions)} prompts",
            hint="give the prompts that were answered",
            code="responses-unknown-question",
        )
    missing = [i for i in questions if i not in by_id]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(questions)} prompts have no response, the first is question_id {missing[0]!r}",
            hint="add them, or give only the prompts that were answered",
            code="responses-missing",
        )
    return [by_id[i] for i in questions]


def _parse(line: str, where: str) -> Response:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as e:
        raise _bad(where, f"not JSON ({e})") from e
    if not isinstance(row, dict):
        raise _bad(where, "not a JSON object")
    question_id, response = row.get("question_id"), row.get("response")
    if isinstance(question_id, bool) or not isinstance(question_id, int | str):
        raise _bad(where, "question_id is missing, or neither an integer nor a string")
    for name in _ID_LISTS:
        if row.get(name) is not None and not _is_ids(row[name]):
            raise _bad(where, f"{name} is not a list of token ids")
    if (response is None) == (row.get("response_token_ids") is None):
        raise _bad(where, "either response_token_ids or response must be given")
    if response is not None and not isinstance(response, str):
        raise _bad(where, "response is not a string")
    if not (response or row.get("response_token_ids")):
        raise _bad(where, "the response is empty")
    if row.get("prompt_token_ids") == []:
        raise _bad(where, "prompt_token_ids is empty")
    prompt, answer, lookahead = (None if row.get(n) is None else tuple(row[n]) for n in _ID_LISTS)
    return Response(question_id, where, prompt, answer, response, lookahead or ())


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and all(type(i) is int and i >= 0 for i in value)


def _bad(where: str, what: str) -> InputError:
    return InputError(
        f"{where}: {what}",
        hint='each line is an object like {"question_id": 1, "prompt_token_ids": [1, 2], "response_token_ids": [3]}',
        code="responses-line",
    )
