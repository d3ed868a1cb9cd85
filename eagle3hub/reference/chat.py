"""Render chat templates in another process, with limits, and turn user turns into prompt ids."""

from __future__ import annotations

import atexit
import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eagle3hub.engines.process import ProtocolError, read_lines
from eagle3hub.errors import InputError
from eagle3hub.prompts import Message, Prompt

# Chat templates, rendered with limits on time and memory by one process that is kept for all of them.


SECONDS = 10.0
"""Most seconds a template may take for one text."""
_START_SECONDS = 120.0
_WORKER = Path(__file__).with_name("template_worker.py")


class TemplateFault(Exception):
    """The reason a template gave no text, as a phrase."""


class _Renderer:
    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def render(self, request: Mapping[str, object]) -> str:
        with self._lock:
            try:
                return self._ask(request)
            except BaseException as error:
                if not isinstance(error, TemplateFault):
                    self.end()
                raise

    def _ask(self, request: Mapping[str, object]) -> str:
        process = self._started()
        answer = _exchange(process, request, SECONDS)
        if answer is None:
            self.end()
            raise TemplateFault(f"it takes more than {SECONDS:g} seconds, or ended the process that renders it")
        if "text" not in answer:
            raise TemplateFault(str(answer.get("error")))
        return str(answer["text"])

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self.end()
            self._process = subprocess.Popen(
                [sys.executable, str(_WORKER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            first = {"template": "", "messages": [], "variables": {}}
            if _exchange(self._process, first, _START_SECONDS) != {"text": ""}:
                self.end()
                raise TemplateFault("the process that renders it cannot be started")
        return self._process

    def end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()


def _exchange(
    process: subprocess.Popen[bytes], request: Mapping[str, object], seconds: float
) -> dict[str, object] | None:
    """Send one request and return its answer; None if no answer comes in time or the process ends."""
    assert process.stdin is not None and process.stdout is not None
    message = json.dumps(request).encode() + b"\n"
    try:
        process.stdin.write(message)
        process.stdin.flush()
        line = next(read_lines(process.stdout, time.monotonic() + seconds), None)
    except (OSError, TimeoutError, ProtocolError):
        return None
    found = None if line is None else json.loads(line)
    return found if isinstance(found, dict) else None


_renderer = _Renderer()
atexit.register(_renderer.end)


def render(template: str, messages: Sequence[Mapping[str, object]], variables: Mapping[str, object]) -> str:
    """Render a conversation up to where the assistant begins, as transformers does.

    Raises TemplateFault if the template fails, takes longer than `SECONDS`, or needs more memory than allowed.
    """
    return _renderer.render({"template": template, "messages": messages, "variables": dict(variables)})


# From a user's turn to prompt ids, as engines compute them.


class ChatTokenizer:
    """A tokenizer of transformers, with its chat template."""

    def __init__(self, tokenizer: Any, name: str) -> None:
        self._tokenizer, self._name = tokenizer, name

    @property
    def chat_template(self) -> str:
        """``the target's own``, or ``none`` if there is no chat template."""
        return "the target's own" if self._tokenizer.chat_template else "none"

    @property
    def eos_ids(self) -> frozenset[int]:
        """The tokenizer's own end-of-sequence token, if it has one."""
        return as_ids(self._tokenizer.eos_token_id)

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text; no special tokens are added."""
        return [int(i) for i in self._tokenizer.encode(text, add_special_tokens=False)]

    def decode(self, ids: list[int]) -> str:
        """Return the text of token ids, special tokens included."""
        return str(self._tokenizer.decode(ids, skip_special_tokens=False))

    def answer(self, ids: Sequence[int]) -> str:
        """Return the text of an answer as a conversation holds it: without special tokens."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def chat(
        self, text: str, *, before: Sequence[Message] = (), template_options: Mapping[str, object] | None = None
    ) -> list[int]:
        """Return the prompt ids of a user's turn: the chat template's, up to where the assistant begins.

        vLLM's ``llm.chat`` sends the same ids: the template is rendered, then tokenised without adding special tokens,
        so there is at most one BOS. Without a chat template, the text is tokenised with the tokenizer's defaults.

        Args:
            before: the messages before it: a system prompt, earlier turns.
            template_options: arguments of the template, such as ``enable_thinking``.

        Raises InputError if the template fails or takes too long, if messages or options are given and there is no
        template, or if the result has no token.
        """
        if self._tokenizer.chat_template:
            ids = self.encode(self.rendered([*before, {"role": "user", "content": text}], template_options or {}))
        elif before or template_options:
            raise InputError(
                f"the tokenizer of {self._name} has no chat template for earlier messages or options to go into",
                hint="leave them out",
                code="reference-no-chat-template",
            )
        else:
            ids = [int(i) for i in self._tokenizer.encode(text)]
        if not ids:
            raise InputError(f"a prompt is empty once {self._name} has tokenised it", code="reference-empty-prompt")
        return ids

    def rendered(self, turns: Sequence[Message], options: Mapping[str, object]) -> str:
        """Return a conversation in the chat template, up to where the assistant begins.

        Raises InputError (``reference-chat-template``) if the template fails or takes too long.
        """
        try:
            template = self._tokenizer.get_chat_template()
            return render(template, turns, {**self._tokenizer.special_tokens_map, **options})
        except (TemplateFault, ValueError, TypeError) as e:
            says = str(e) if isinstance(e, TemplateFault) else f"{type(e).__name__}: {e}"
            raise InputError(
                f"the chat template of {self._name} failed: {says}", code="reference-chat-template"
            ) from e


def as_ids(value: int | list[int] | tuple[int, ...] | None) -> frozenset[int]:
    """Return one token id, several, or none, as a set."""
    return frozenset(value) if isinstance(value, list | tuple) else frozenset(() if value is None else (value,))


class PromptLengths:
    """Measures prompts for `eagle3hub.prompts.lengthened`: a target's tokenizer, and arguments of its template."""

    def __init__(self, tokenizer: ChatTokenizer, template_options: Mapping[str, object]) -> None:
        self._tokenizer, self._options = tokenizer, template_options

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text; no special tokens are added."""
        return self._tokenizer.encode(text)

    def decode(self, ids: list[int]) -> str:
        """Return the text of token ids."""
        return self._tokenizer.decode(ids)

    def length(self, prompt: Prompt) -> int:
        """Return the tokens of a prompt in the chat template. Raises what `ChatTokenizer.chat` raises."""
        return len(self._tokenizer.chat(prompt.text, before=prompt.before, template_options=self._options))
