"""Find commands in Dockerfiles, and in the YAML of Docker Compose and Kubernetes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from eagle3hub.engines.check.shell import Assignment, Word, read_shell, readable

if TYPE_CHECKING:
    import yaml

_EXEC = re.compile(r"^\s*(CMD|ENTRYPOINT|RUN)\s*(\[.*)$", re.IGNORECASE | re.DOTALL)
_INSTRUCTION = re.compile(r"^(\s*)(?:CMD|ENTRYPOINT|RUN(?:\s+--\S+)*)\s+", re.IGNORECASE)
_ENV = re.compile(r"^\s*ENV\s+(.*)$", re.IGNORECASE | re.DOTALL)
_FROM = re.compile(r"^\s*FROM\s+(?:--\S+\s+)?(\S+)", re.IGNORECASE)
_STARTS = ("entrypoint", "command", "args")
_ASSIGNED = re.compile(r"^([A-Za-z_]\w*)=(.*)$", re.DOTALL)


@dataclass(slots=True)
class Started:
    """What a container starts: the words with their rows, counted from 0, its variables, and its image."""

    words: list[Word] = field(default_factory=list)
    assigned: list[Assignment] = field(default_factory=list)
    image: str | None = None


def dockerfile_starts(lines: tuple[str, ...]) -> tuple[Started, list[str]]:
    """Return what a Dockerfile starts in the JSON form, and its other lines as a shell reads them.

    No line changes its number: instructions are cut away, and lines that were read become empty.
    """
    started = Started()
    shell = [*lines]
    parts: dict[str, list[Word]] = {}
    row = 0
    while row < len(lines):
        end = row
        while end + 1 < len(lines) and lines[end].rstrip().endswith("\\"):
            end += 1
        whole = "\n".join(lines[row : end + 1])
        joined = re.sub(r"\\[ \t]*\n", " ", whole)
        if image := _FROM.match(joined):
            started.image = image[1]
        if (form := _EXEC.match(joined)) and (words := _json_words(form[2])) is not None:
            if form[1].upper() != "RUN":
                parts[form[1].upper()] = _placed(words, lines, row, end)
            shell[row : end + 1] = [""] * (end + 1 - row)
        elif variables := _ENV.match(joined):
            started.assigned += _variables(variables[1], row)
            shell[row : end + 1] = [""] * (end + 1 - row)
        else:
            shell[row] = _INSTRUCTION.sub(r"\1", shell[row])
        row = end + 1
    started.words = parts.get("ENTRYPOINT", []) + parts.get("CMD", [])
    return started, shell


def _json_words(text: str) -> list[str] | None:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, list) and all(isinstance(word, str) for word in found) else None


def _placed(words: list[str], lines: tuple[str, ...], first: int, last: int) -> list[Word]:
    """Return words with the row of each, which is not before that of the word before it."""
    placed, row = [], first
    for word in words:
        shown = json.dumps(word, ensure_ascii=False)
        row = next((at for at in range(row, last + 1) if shown in lines[at]), row)
        placed.append(Word(word, row))
    return placed


def _variables(text: str, row: int) -> list[Assignment]:
    """Return the variables of an ENV instruction, in its newer or its older form."""
    script = read_shell(f"env {text}")
    words = [word.text for word in script.commands[0].words[1:]] if script.commands else []
    found = [(m[1], m[2]) for word in words if (m := _ASSIGNED.match(word))]
    if not found and len(words) > 1:
        found = [(words[0], " ".join(words[1:]))]
    return [Assignment(name, value, row) for name, value in found]


# YAML of Docker Compose and Kubernetes


def yaml_starts(root: yaml.Node | None) -> Iterator[Started]:
    """Yield what the containers of a YAML document start: mappings with an image, or with words to start it by."""
    import yaml

    waiting, seen = [root] if root is not None else [], set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += reversed(node.value)
        elif isinstance(node, yaml.MappingNode):
            fields = {key.value: value for key, value in node.value if isinstance(key, yaml.ScalarNode)}
            if any(name in fields for name in _STARTS):
                yield _container(fields)
            waiting += reversed([value for _, value in node.value])


def _container(fields: dict[str, yaml.Node]) -> Started:
    import yaml

    started = Started()
    image = fields.get("image")
    if isinstance(image, yaml.ScalarNode):
        started.image = image.value
    for name in _STARTS:
        node = fields.get(name)
        if isinstance(node, yaml.SequenceNode):
            started.words += [Word(v.value, _row(v)) for v in node.value if isinstance(v, yaml.ScalarNode)]
        elif isinstance(node, yaml.ScalarNode):
            started.words += _split(node)
    for name in ("environment", "env"):
        started.assigned += _environment(fields.get(name))
    return started


def _split(node: yaml.ScalarNode) -> list[Word]:
    """Return the words of a command in one string, whose lines need no backslashes unless each is kept."""
    start, text = _row(node), re.sub(r"\\?\n", " ", node.value)
    if node.style == "|":
        text = node.value
    elif node.style == ">" and isinstance(node.start_mark.buffer, str):
        lines = node.start_mark.buffer.rstrip("\0").split("\n")[start : node.end_mark.line]
        text = " \\\n".join(line.strip().removesuffix("\\") for line in lines if line.strip())
    script = read_shell("\n".join(readable(line) for line in text.rstrip("\n").split("\n")))
    return [Word(w.text, start + w.row) for command in script.commands for w in command.words]


def _environment(node: yaml.Node | None) -> list[Assignment]:
    import yaml

    found = []
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode) and isinstance(value, yaml.ScalarNode):
                found.append(Assignment(key.value, value.value, _row(key)))
    elif isinstance(node, yaml.SequenceNode):
        for one in node.value:
            if isinstance(one, yaml.ScalarNode) and (m := _ASSIGNED.match(one.value)):
                found.append(Assignment(m[1], m[2], _row(one)))
            elif isinstance(one, yaml.MappingNode):  # Kubernetes: name and value
                pair = {k.value: v for k, v in one.value if isinstance(k, yaml.ScalarNode)}
                name, value = pair.get("name"), pair.get("value")
                if isinstance(name, yaml.ScalarNode) and isinstance(value, yaml.ScalarNode):
                    found.append(Assignment(name.value, value.value, _row(name)))
    return found


def _row(node: yaml.Node) -> int:
    """Return the row in which a node's text begins; for a block, that is the row below its mark."""
    import yaml

    below = isinstance(node, yaml.ScalarNode) and node.style in ("|", ">")
    return int(node.start_mark.line) + (1 if below else 0)
