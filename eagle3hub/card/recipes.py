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

    The recipe names head and target as the report does (``head.source``, ``target.name``). Those names become the
    Hub ids where they are the value of something called a model; elsewhere the same word may mean something else
    (a folder may be called ``eagle3``).
    """
    published = {report["head"]["source"]: manifest.release.repo, report["target"]["name"]: manifest.target.id}
    command = _command(recipe.get("server_command") or "", recipe.get("env") or {}, published)
    if recipe.get("prepare"):  # commands on folders of the names that were measured: the published ones go there
        folders = [(name, folder) for folder, name in published.items() if "/" not in folder]
        fetch = [shlex.join(["hf", "download", name, "--local-dir", folder]) for name, folder in folders]
        command = "\n".join([*fetch, *recipe["prepare"], command])
    return ServeRecipe(
        engine=f"{names.engine(str(recipe['engine']))} {recipe['version'] or ''}".strip(),
        command=command,
        python=_python(recipe.get("python") or "", published),
    )


def _command(text: str, env: Mapping[str, Any], published: Mapping[str, str]) -> str:
    lines: list[str] = []
    previous = ""
    for word in shlex.split(text.replace("\\\n", " ")):
        shown = shlex.quote(_renamed(word, previous, published))
        if lines and not word.startswith("--"):
            lines[-1] += f" {shown}"
        else:
            lines.append(shown)
        previous = word
    prefix = "".join(f"{key}={shlex.quote(str(value))} " for key, value in env.items()) if lines else ""
    return prefix + " \\\n  ".join(lines)


def _renamed(word: str, previous: str, published: Mapping[str, str]) -> str:
    option, equals, value = word.partition("=")
    if equals and option.startswith("--"):
        return f"{option}={_renamed(value, option, published)}"
    if word.startswith("{"):
        try:
            return json.dumps(_renamed_models(json.loads(word), published))
        except ValueError:
            return word
    return published.get(word, word) if previous == "serve" or _names_a_model(previous) else word


def _names_a_model(option: str) -> bool:
    return option.startswith("--") and "model" in option


def _renamed_models(value: Any, published: Mapping[str, str]) -> Any:
    if isinstance(value, list):
        return [_renamed_models(item, published) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: published.get(item, item)
        if isinstance(item, str) and "model" in key
        else _renamed_models(item, published)
        for key, item in value.items()
    }


_MODEL_VALUE = re.compile(r"""(\w*model\w*['"]?\s*[=:]\s*)(['"])([^'"\n]*)\2""")


def _python(text: str, published: Mapping[str, str]) -> str:
    def swap(match: re.Match[str]) -> str:
        return f"{match[1]}{match[2]}{published.get(match[3], match[3])}{match[2]}"

    return _MODEL_VALUE.sub(swap, text)
