"""The part of GitHub's expression language that our workflows use; anything else is an error, never a guess."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

_TOKEN = re.compile(r"\s*(?:(?P<op>==|!=|&&|\|\||[!().,])|'(?P<text>(?:[^']|'')*)'|(?P<name>[A-Za-z_][\w-]*))")
_FIELD = re.compile(r"\$\{\{(.*?)\}\}", re.S)
STATUS = {"success", "failure", "cancelled", "always"}


class ExpressionError(Exception):
    pass


def evaluate(text: str, contexts: Mapping[str, Any], status: Mapping[str, bool] | None = None) -> Any:
    """The value of one expression. A property that is not there is None, as on GitHub; a context that is not, no."""
    return _Parser(text, contexts, status or {}).whole()


def fill(value: Any, contexts: Mapping[str, Any]) -> Any:
    """A text of a workflow with its ``${{ }}`` fields; a text that is one field keeps that field's type."""
    if not isinstance(value, str):
        return value
    if (whole := _FIELD.fullmatch(value.strip())) is not None:
        return evaluate(whole[1], contexts)
    return _FIELD.sub(lambda m: as_text(evaluate(m[1], contexts)), value)


def condition(text: str | bool | None, contexts: Mapping[str, Any], status: Mapping[str, bool]) -> bool:
    """Whether an ``if:`` lets a step run: without a status function, only where everything before went well."""
    if text is None:
        return status["success"]
    inner = _FIELD.sub(lambda m: m[1], str(text))
    asked = any(f"{name}(" in inner for name in STATUS)
    return (asked or status["success"]) and bool(evaluate(inner, contexts, status))


def as_text(value: Any) -> str:
    """A value as it stands in a text or an environment variable."""
    if value is None:
        return ""
    return json.dumps(value) if isinstance(value, bool | dict | list) else str(value)


class _Parser:
    def __init__(self, text: str, contexts: Mapping[str, Any], status: Mapping[str, bool]) -> None:
        self.text, self.contexts, self.status = text, contexts, status
        self.tokens: list[tuple[str, str]] = []
        at = 0
        while text[at:].strip():
            match = _TOKEN.match(text, at)
            if match is None:
                raise ExpressionError(f"cannot read {text!r} from {text[at:]!r}")
            self.tokens.append((str(match.lastgroup), match[str(match.lastgroup)]))
            at = match.end()

    def whole(self) -> Any:
        value = self.either()
        if self.tokens:
            raise ExpressionError(f"cannot read {self.text!r} from {self.tokens[0][1]!r}")
        return value

    def either(self) -> Any:
        value = self.both()
        while self.take("||"):
            other = self.both()
            value = value or other
        return value

    def both(self) -> Any:
        value = self.compared()
        while self.take("&&"):
            other = self.compared()
            value = value and other
        return value

    def compared(self) -> Any:
        value = self.single()
        for op, holds in (("==", True), ("!=", False)):
            if self.take(op):
                return (as_text(value) == as_text(self.single())) is holds
        return value

    def single(self) -> Any:
        if self.take("!"):
            return not self.single()
        if self.take("("):
            value = self.either()
            self.need(")")
            return value
        if not self.tokens:
            raise ExpressionError(f"{self.text!r} ends too early")
        kind, word = self.tokens.pop(0)
        if kind == "text":
            return word.replace("''", "'")
        if kind != "name":
            raise ExpressionError(f"{word!r} is out of place in {self.text!r}")
        if word in ("true", "false"):
            return word == "true"
        return self.call(word) if self.take("(") else self.looked_up(word)

    def call(self, name: str) -> Any:
        arguments = []
        while not self.take(")"):
            arguments.append(self.either())
            self.take(",")
        if name in STATUS and not arguments:
            return name == "always" or self.status[name]
        functions: dict[str, Callable[..., Any]] = {"fromJSON": json.loads, "toJSON": json.dumps, "format": str.format}
        if name not in functions:
            raise ExpressionError(f"the function {name} is not known here")
        return functions[name](*arguments)

    def looked_up(self, name: str) -> Any:
        if name not in self.contexts:
            raise ExpressionError(f"there is no context {name} in {self.text!r}")
        value: Any = self.contexts[name]
        while self.take("."):
            _, key = self.tokens.pop(0)
            value = value.get(key) if isinstance(value, Mapping) else None
        return value

    def take(self, op: str) -> bool:
        if self.tokens and self.tokens[0] == ("op", op):
            self.tokens.pop(0)
            return True
        return False

    def need(self, op: str) -> None:
        if not self.take(op):
            raise ExpressionError(f"{op} is missing in {self.text!r}")
