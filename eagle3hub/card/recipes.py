"""Serving recipes of a report, with the published names in place of those that were measured."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from eagle3hub.card import names
from eagle3hub.card.manifest import Manifest


@dataclass(frozen=True, slots=True)
class ServeRecipe:
    """How to serve the release on one engine; ``command`` and ``python`` may be empty."""

    engine: str
    command: str
    python: str


def serve_recipe(recipe: Mapping[str, Any], report: Mapping[str, Any], manifest: Manifest) -> ServeRecipe:
    """A tested recipe for the published repository.

    The recipe names head and target as the report does (``head.source``, ``target.name``); those names, where they
    are a whole argument, a value of a JSON argument or a whole Python string, become the Hub ids.
    """
    published = {report["head"]["source"]: manifest.release.repo, report["target"]["name"]: manifest.target.id}
    return ServeRecipe(
        engine=f"{names.engine(str(recipe['engine']))} {recipe['version'] or ''}".strip(),
        command=_command(recipe.get("server_command") or "", recipe.get("env") or {}, published),
        python=_python(recipe.get("python") or "", published),
    )


def _command(text: str, env: Mapping[str, Any], published: Mapping[str, str]) -> str:
    if not text:
        return ""
    words = [_renamed(word, published) for word in shlex.split(text.replace("\\\n", " "))]
    lines: list[str] = []
    for word in words:
        if lines and not word.startswith("--"):
            lines[-1] += f" {shlex.quote(word)}"
        else:
            lines.append(shlex.quote(word))
    prefix = "".join(f"{key}={shlex.quote(str(value))} " for key, value in env.items())
    return prefix + " \\\n  ".join(lines)


def _renamed(word: str, published: Mapping[str, str]) -> str:
    if word in published:
        return published[word]
    if word.startswith("{"):
        try:
            return json.dumps(_renamed_values(json.loads(word), published))
        except ValueError:
            return word
    option, equals, value = word.partition("=")
    return f"{option}={_renamed(value, published)}" if equals and option.startswith("--") else word


def _renamed_values(value: Any, published: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {k: _renamed_values(v, published) for k, v in value.items()}
    return published.get(value, value) if isinstance(value, str) else value


def _python(text: str, published: Mapping[str, str]) -> str:
    def swap(match: re.Match[str]) -> str:
        return f"{match[1]}{published[match[2]]}{match[1]}" if match[2] in published else match[0]

    return re.sub(r"(['\"])((?:(?!\1)[^\\\n])*)\1", swap, text)
