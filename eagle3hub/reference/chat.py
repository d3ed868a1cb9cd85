"""From a user's turn to prompt ids, as engines do it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eagle3hub.errors import InputError
from eagle3hub.reference.templates import TemplateFault, render


class ChatTokenizer:
    """A tokenizer of transformers with its chat template."""

    def __init__(self, tokenizer: Any, name: str) -> None:
        self._tokenizer, self._name = tokenizer, name

    @property
    def chat_template(self) -> str:
        """``the target's own``, or ``none`` where there is no chat template."""
        return "the target's own" if self._tokenizer.chat_template else "none"

    @property
    def eos_ids(self) -> frozenset[int]:
        """The tokenizer's own end-of-sequence token, if it has one."""
        return as_ids(self._tokenizer.eos_token_id)

    def encode(self, text: str) -> list[int]:
        """The ids of a piece of text, no special tokens added."""
        return [int(i) for i in self._tokenizer.encode(text, add_special_tokens=False)]

    def decode(self, ids: list[int]) -> str:
        """The text of some ids, special tokens included."""
        return str(self._tokenizer.decode(ids, skip_special_tokens=False))

    def chat(
        self, text: str, *, system: str | None = None, template_options: Mapping[str, Any] | None = None
    ) -> list[int]:
        """The prompt ids of a user's turn: the chat template's, up to where the assistant begins.

        These are what vLLM's ``llm.chat`` sends: the template is rendered, then tokenised without adding special
        tokens, so that there is one BOS at most. Without a chat template, the text is tokenised as the tokenizer
        does by default.

        Args:
            system: a system prompt. template_options: arguments of the template, such as ``enable_thinking``.

        Raises InputError where the template fails or takes too long, where a system prompt or options are given and
        there is no template, or where no token comes out.
        """
        if self._tokenizer.chat_template:
            ids = self.encode(self._rendered(text, system, template_options or {}))
        elif system is not None or template_options:
            raise InputError(
                f"the tokenizer of {self._name} has no chat template for a system prompt or options to go into",
                hint="leave them out",
                code="reference-no-chat-template",
            )
        else:
            ids = [int(i) for i in self._tokenizer.encode(text)]
        if not ids:
            raise InputError(f"a prompt is empty once {self._name} has tokenised it", code="reference-empty-prompt")
        return ids

    def _rendered(self, text: str, system: str | None, options: Mapping[str, Any]) -> str:
        turns = [] if system is None else [{"role": "system", "content": system}]
        turns.append({"role": "user", "content": text})
        try:
            template = self._tokenizer.get_chat_template()
            return render(template, turns, {**self._tokenizer.special_tokens_map, **options})
        except (TemplateFault, ValueError, TypeError) as e:
            says = str(e) if isinstance(e, TemplateFault) else f"{type(e).__name__}: {e}"
            raise InputError(
                f"the chat template of {self._name} failed: {says}", code="reference-chat-template"
            ) from e


def as_ids(value: int | list[int] | tuple[int, ...] | None) -> frozenset[int]:
    """Token ids from one, several, or none."""
    return frozenset(value) if isinstance(value, list | tuple) else frozenset(() if value is None else (value,))
