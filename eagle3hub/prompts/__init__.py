"""Prompt sets: the packaged smoke set, and JSON Lines files in MT-Bench's form.

Each line is an object with ``question_id``, ``category`` and ``turns``; the first turn is the prompt.
``smoke`` was written for this project. The usual benchmark sets are not packaged (their licences differ, and some
forbid redistribution): give their files by path.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eagle3hub.errors import InputError, SourceError, UsageError

PACKAGED = ("smoke",)
_HERE = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt: its id in the set, its category, and the text of the user's turn."""

    question_id: int | str
    category: str
    text: str


@dataclass(frozen=True, slots=True)
class PromptSet:
    """The prompts of a run, in order, and the name of the set they come from."""

    name: str
    prompts: tuple[Prompt, ...]

    @property
    def sha256(self) -> str:
        """SHA-256 (hex) of exactly the prompts used, as canonical JSON: sorted keys, no spaces, UTF-8."""
        rows = [{"question_id": p.question_id, "category": p.category, "turns": [p.text]} for p in self.prompts]
        text = json.dumps(rows, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def categories(self) -> dict[str, int]:
        """Number of prompts in each category, in order of first appearance."""
        out: dict[str, int] = {}
        for prompt in self.prompts:
            out[prompt.category] = out.get(prompt.category, 0) + 1
        return out

    def to_json(self) -> dict[str, Any]:
        """The ``prompts`` object of a report."""
        return {
            "name": self.name,
            "sha256": self.sha256,
            "count": len(self.prompts),
            "categories": self.categories,
        }


def load_prompts(name_or_file: str | Path, num_prompts: int | None = None) -> PromptSet:
    """The first ``num_prompts`` prompts (default: all) of a packaged set or of a file.

    Raises SourceError for a file that cannot be read, InputError (``prompts-line``) naming the line that is
    wrong, UsageError when more prompts are asked for than there are.
    """
    if num_prompts is not None and num_prompts < 1:
        raise UsageError(f"--num-prompts must be 1 or more, not {num_prompts}")
    if name_or_file in PACKAGED:
        name, path = str(name_or_file), _HERE / f"{name_or_file}.jsonl"
    else:
        path = Path(name_or_file)
        name = path.name
    prompts = _read(path)
    if num_prompts is not None and num_prompts > len(prompts):
        raise UsageError(f"--num-prompts asks for {num_prompts} prompts, but {name} has {len(prompts)}")
    return PromptSet(name, tuple(prompts[:num_prompts]))


def _read(path: Path) -> list[Prompt]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise SourceError(
            f"cannot read the prompts {str(path)!r}: {error.strerror or error}",
            hint=f"give a JSON Lines file, or the name of a packaged set: {', '.join(PACKAGED)}",
            code="source-prompts",
        ) from error
    except UnicodeDecodeError as error:
        raise SourceError(f"{path} is not UTF-8 text (byte {error.start})", code="source-prompts") from error
    prompts: list[Prompt] = []
    seen: dict[int | str, int] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        prompt = _parse(line, path, number)
        if prompt.question_id in seen:
            first = seen[prompt.question_id]
            raise _bad(path, number, f"question_id {prompt.question_id!r} was used on line {first} already")
        seen[prompt.question_id] = number
        prompts.append(prompt)
    if not prompts:
        raise InputError(f"{path} holds no prompts", code="prompts-empty")
    return prompts


def _parse(line: str, path: Path, number: int) -> Prompt:
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        raise _bad(path, number, f"not JSON ({error})") from error
    if not isinstance(row, dict):
        raise _bad(path, number, "not a JSON object")
    missing = [key for key in ("question_id", "category", "turns") if key not in row]
    if missing:
        raise _bad(path, number, f"no {' and no '.join(missing)}")
    question_id, category, turns = row["question_id"], row["category"], row["turns"]
    if isinstance(question_id, bool) or not isinstance(question_id, int | str):
        raise _bad(path, number, "question_id is neither an integer nor a string")
    if not isinstance(category, str) or not category:
        raise _bad(path, number, "category is not a non-empty string")
    if not isinstance(turns, list) or not turns or not isinstance(turns[0], str) or not turns[0].strip():
        raise _bad(path, number, "turns is not a list that starts with a non-empty string")
    return Prompt(question_id, category, turns[0])


def _bad(path: Path, number: int, what: str) -> InputError:
    return InputError(
        f"{path}, line {number}: {what}",
        hint='each line is an object like {"question_id": 1, "category": "writing", "turns": ["Write a note."]}',
        code="prompts-line",
    )
