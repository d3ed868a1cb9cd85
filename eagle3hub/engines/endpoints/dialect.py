"""What `Endpoint` needs of an engine's server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from eagle3hub.engines.base import Job
from eagle3hub.engines.endpoints.shown import Shown
from eagle3hub.engines.http_client import HttpClient

LARGEST_COUNT = 2**53
_LARGEST_ID = 2**31 - 1
_LONGEST_NAME = 1000


class Strange(Exception):
    """A server that answers, but not as its engine does or not as a measurement needs; ``code`` is an error's."""

    def __init__(self, says: str, hint: str | None = None, code: str = "endpoint-protocol") -> None:
        super().__init__(says)
        self.says = says
        self.hint = hint
        self.code = code


class Busy(Exception):
    """Counters that do not fit the answers: somebody else uses the server. The message says how it is known."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer: number of prompt tokens, ids of the new ones, counters as a worker reports them."""

    prompt_tokens: int
    tokens: tuple[int, ...]
    counters: Mapping[str, Any]


class Dialect(Protocol):
    """How to talk to one engine's server. Every method raises HttpFault, and Strange for an answer of another kind."""

    def look(self, client: HttpClient, *, deadline: float) -> Shown:
        """What the server shows of itself. Raises Strange for one that does not speculate or does not count."""

    def ask(self, client: HttpClient, shown: Shown, job: Job, text: str, *, deadline: float) -> Answer:
        """Let it answer one user message. Raises Busy."""


def chat_request(shown: Shown, job: Job, text: str) -> dict[str, Any]:
    """A chat completion of one user message. What a model's own generation settings would change is said."""
    request: dict[str, Any] = {
        "model": shown.model,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": job.max_new_tokens,
        **sampling(job),
        "stream": False,
        "return_token_ids": True,
    }
    return request


def sampling(job: Job) -> dict[str, Any]:
    """The sampling parameters of a request."""
    parameters: dict[str, Any] = {
        "temperature": job.temperature,
        "top_p": 1.0,
        "top_k": -1,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
    }
    return parameters if job.temperature == 0 else {**parameters, "seed": job.seed}


def only_choice(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    """The one choice of a chat completion; Strange if there is not one."""
    choices = answer.get("choices")
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        raise Strange("its chat completion has not one choice")
    return choices[0]


def token_ids(holder: Mapping[str, Any], field: str) -> tuple[int, ...]:
    """A list of token ids; Strange where there is none, as with versions that do not return them."""
    found = holder.get(field)
    if not isinstance(found, list) or not all(type(token) is int for token in found):
        raise Strange(f"its chat completion has no {field}", "a version is needed that returns token ids on request")
    if not all(0 <= token <= _LARGEST_ID for token in found):
        raise Strange(f"its chat completion has {field} that no tokenizer has")
    return tuple(found)


def count(value: Any, what: str, code: str = "endpoint-protocol") -> int:
    """A number of things, counted by a server; Strange for anything but a whole number from 0 to 2**53."""
    if isinstance(value, float) and value.is_integer() and abs(value) <= LARGEST_COUNT:
        value = int(value)
    if type(value) is not int or not 0 <= value <= LARGEST_COUNT:
        said = f"{value:g}" if isinstance(value, float) else type(value).__name__
        raise Strange(f"its {what} is no number of things ({said})", code=code)
    return value


def words(value: Any, what: str) -> str | None:
    """Something a server calls by a name or a path, None where it does not; Strange for what is neither."""
    if value is None or (isinstance(value, str) and 0 < len(value) <= _LONGEST_NAME and value.isprintable()):
        return value
    raise Strange(f"its {what} is no name that can be shown")


def number(value: Any, what: str) -> int | None:
    """As `count`, or None where a server shows none."""
    return None if value is None else count(value, what)


def base_model(client: HttpClient, deadline: float) -> Mapping[str, Any]:
    """The entry of ``/v1/models`` that is no adapter of another."""
    entries = client.json("/v1/models", deadline=deadline).get("data")
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict) and words(entry.get("id"), "model's id") and not entry.get("parent"):
            return entry
    raise Strange("it lists no model")
