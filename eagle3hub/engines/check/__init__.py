"""Check the commands, variables, YAML and Python of a recipe, or of any Markdown, against what engines accept.

Two sources decide: the data on each engine's interface, and the engine's own parser if its interpreter is given.
Nothing here needs torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeGuard

from eagle3hub.engines.check.commands import (
    check_command,
    check_named,
    check_variable,
    command_engine_hint,
    parser_findings,
)
from eagle3hub.engines.check.documents import check_json, check_yaml
from eagle3hub.engines.check.finding import Against, NotChecked, Outcome, RecipeFinding
from eagle3hub.engines.check.python import check_python
from eagle3hub.engines.check.snippets import Extracted, extract_snippets
from eagle3hub.errors import InputError, SourceError
from eagle3hub.system.reading import read_standard_input, read_text

__all__ = ["NotChecked", "Outcome", "RecipeFinding", "check_file", "check_markdown", "check_recipe", "check_snippets"]


def check_markdown(
    text: str, installed: Mapping[str, Path] | None = None, versions: Mapping[str, str] | None = None
) -> Outcome:
    """Find everything in ``text`` that an engine refuses, ignores or misunderstands, and what cannot be checked.

    Reads fenced blocks, and outside of them only a clear command, a flag on its own line, an ``export``, Python that
    imports an engine, or a ``speculative_config``. ``installed`` maps engines to interpreters, whose own parsers check
    the commands as well; ``versions`` maps engines to the versions whose data decides, for others the pinned one. All
    comes in the order of its lines. Raises UnavailableError if such a parser cannot be started, UsageError for a
    version that is none.
    """
    return check_snippets(extract_snippets(text), installed, versions)


def check_snippets(
    found: Extracted, installed: Mapping[str, Path] | None = None, versions: Mapping[str, str] | None = None
) -> Outcome:
    """Check what `extract_snippets` found in a text; see `check_markdown`."""
    against = Against(versions or {})
    hint = command_engine_hint(found.commands)
    parts = [Outcome(found.findings, found.not_checked)]
    parts += [check_command(command, hint, against, found.publishes) for command in found.commands]
    parts += [check_named(command, hint, against) for command in found.named]
    parts += [check_variable(variable, against, found.publishes) for variable in found.variables]
    parts += [check_python(snippet, against, found.publishes) for snippet in found.python]
    parts += [check_yaml(snippet, against, found.publishes) for snippet in found.yaml]
    parts += [check_json(snippet, against, found.publishes) for snippet in found.json]
    findings = [finding for part in parts for finding in part.findings]
    findings += parser_findings(found.commands, findings, installed or {})
    return Outcome(
        sorted(dict.fromkeys(findings), key=lambda f: (f.line, f.code)),
        sorted(dict.fromkeys(n for part in parts for n in part.not_checked), key=lambda n: n.line),
        sum(part.checked for part in parts),
        against.warnings(),
    )


def check_recipe(
    document: Mapping[str, object],
    installed: Mapping[str, Path] | None = None,
    versions: Mapping[str, str] | None = None,
) -> Outcome:
    """Check a recipe as ``eagle3hub recipe --json`` prints it, or a report that holds recipes; see `check_markdown`.

    Every line is 0. Raises InputError for a document without a recipe.
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
    return _moved(check_markdown("\n".join(blocks), installed, versions), lambda _: 0)


def _moved(outcome: Outcome, line: Callable[[int], int]) -> Outcome:
    """Return an outcome with other line numbers."""
    return Outcome(
        [replace(finding, line=line(finding.line)) for finding in outcome.findings],
        [replace(one, line=line(one.line)) for one in outcome.not_checked],
        outcome.checked,
        outcome.warnings,
    )


_LANGUAGES = {".yaml": "yaml", ".yml": "yaml", ".sh": "bash", ".py": "python", "Dockerfile": "dockerfile"}
"""Files that are no Markdown, by suffix or name, and what they hold."""


def _is_recipe(found: Any) -> TypeGuard[Mapping[str, object]]:
    """Whether an object is a recipe: it has the fields that `eagle3hub recipe` writes, with the right types."""
    if not isinstance(found, dict) or not isinstance(found.get("server_command"), str):
        return False
    env = found.get("env")
    texts = all(isinstance(found.get(name), str | None) for name in ("yaml", "python"))
    return texts and (env is None or isinstance(env, dict))


def check_file(
    path: Path, installed: Mapping[str, Path] | None = None, versions: Mapping[str, str] | None = None
) -> Outcome:
    """Check a file: a ``.json`` file with `check_recipe`, any other with `check_markdown`.

    A ``.yaml``, ``.sh`` or ``.py`` file or a Dockerfile is read as one block, and ``-`` is standard input. Raises
    SourceError for a file that cannot be read, InputError for JSON without a recipe.
    """
    try:
        text = read_standard_input() if str(path) == "-" else read_text(path)
    except OSError as error:
        raise SourceError(f"cannot read {str(path)!r}: {error.strerror}", code="source-recipe") from error
    language = _LANGUAGES.get(path.suffix) or _LANGUAGES.get(path.stem)
    if language is not None:
        fence = "`" * (3 + max((len(run) for run in re.findall("`{3,}", text)), default=0))
        fenced = check_markdown(f"{fence}{language}\n{text}\n{fence}\n", installed, versions)
        return _moved(fenced, lambda line: line - 1)
    if path.suffix != ".json":
        return check_markdown(text, installed, versions)
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{str(path)!r} is not JSON: {error}", code="recipe-json") from error
    if not isinstance(document, dict):
        raise InputError(f"{str(path)!r} is not a JSON object", code="recipe-json")
    return check_recipe(document, installed, versions)
