"""Check the commands, variables, YAML and Python of a recipe, or of any Markdown, against what engines accept.

Two sources decide: the data on each engine's interface, and the engine's own parser if its interpreter is given.
Nothing here needs torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeGuard

from eagle3hub.engines.check.commands import check_command, check_variable, command_engine_hint, parser_findings
from eagle3hub.engines.check.finding import RecipeFinding
from eagle3hub.engines.check.python import check_python, check_yaml
from eagle3hub.engines.check.snippets import extract_snippets
from eagle3hub.errors import InputError, SourceError
from eagle3hub.system.reading import read_standard_input, read_text

__all__ = ["RecipeFinding", "check_file", "check_markdown", "check_recipe"]


def check_markdown(text: str, installed: Mapping[str, Path] | None = None) -> list[RecipeFinding]:
    """Find everything in ``text`` that an engine's current version refuses, ignores or misunderstands.

    Reads fenced blocks, and outside of them only a clear command, a flag on its own line, an ``export``, Python that
    imports an engine, or a ``speculative_config``. ``installed`` maps engines to interpreters, whose own parsers check
    the commands as well. Findings come in the order of their lines. Raises UnavailableError if such a parser cannot be
    started.
    """
    found = extract_snippets(text)
    hint = command_engine_hint(found.commands)
    findings: list[RecipeFinding] = []
    for command in found.commands:
        findings += check_command(command, hint)
    for variable in found.variables:
        findings += check_variable(variable)
    for snippet in found.python:
        findings += check_python(snippet)
    for snippet in found.yaml:
        findings += check_yaml(snippet)
    findings += parser_findings(found.commands, findings, installed or {})
    return sorted(dict.fromkeys(findings), key=lambda f: (f.line, f.code))


def check_recipe(document: Mapping[str, Any], installed: Mapping[str, Path] | None = None) -> list[RecipeFinding]:
    """Check a recipe as ``eagle3hub recipe --json`` prints it, or a report that holds recipes; see `check_markdown`.

    The line of every finding is 0. Raises InputError for a document without a recipe.
    """
    engines = document.get("engines")
    entries = [e for e in engines if isinstance(e, dict)] if isinstance(engines, list) else []
    recipes: list[Any] = [r for r in (document, *(e.get("recipe") for e in entries)) if _is_recipe(r)]
    if not recipes:
        raise InputError(
            "the JSON document holds no recipe",
            hint="`eagle3hub recipe HEAD --target TARGET --engine ENGINE --json` prints one",
            code="recipe-none",
        )
    blocks = []
    for recipe in recipes:
        env = "".join(f"export {key}={value}\n" for key, value in (recipe.get("env") or {}).items())
        blocks.append(f"```bash\n{env}{recipe['server_command']}\n```\n")
        blocks.append(f"```yaml\n{recipe['yaml']}\n```\n" if recipe.get("yaml") else "")
        blocks.append(f"```python\n{recipe['python']}\n```\n" if recipe.get("python") else "")
    return [replace(finding, line=0) for finding in check_markdown("\n".join(blocks), installed)]


def _is_recipe(found: Any) -> TypeGuard[Mapping[str, Any]]:
    """Whether an object is a recipe: it has the fields that `eagle3hub recipe` writes, with the right types."""
    if not isinstance(found, dict) or not isinstance(found.get("server_command"), str):
        return False
    env = found.get("env")
    texts = all(isinstance(found.get(name), str | None) for name in ("yaml", "python"))
    return texts and (env is None or isinstance(env, dict))


def check_file(path: Path, installed: Mapping[str, Path] | None = None) -> list[RecipeFinding]:
    """Check a file: a ``.json`` file with `check_recipe`, any other with `check_markdown`.

    A ``.yaml`` file is read as one block of YAML, and ``-`` is standard input. Raises SourceError for a file that
    cannot be read, InputError for JSON without a recipe.
    """
    try:
        text = read_standard_input() if str(path) == "-" else read_text(path)
    except OSError as error:
        raise SourceError(f"cannot read {str(path)!r}: {error.strerror}", code="source-recipe") from error
    if path.suffix in (".yaml", ".yml"):
        fenced = check_markdown(f"```yaml\n{text}\n```\n", installed)
        return [replace(finding, line=finding.line - 1) for finding in fenced]
    if path.suffix != ".json":
        return check_markdown(text, installed)
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{str(path)!r} is not JSON: {error}", code="recipe-json") from error
    if not isinstance(document, dict):
        raise InputError(f"{str(path)!r} is not a JSON object", code="recipe-json")
    return check_recipe(document, installed)
