"""Read shell scripts with tree-sitter's Bash grammar: commands, assignments and here-documents, with their rows.

The grammar is fault tolerant and does not recurse, so that no text makes it fail or slow: a text that is no shell only
comes back as ``broken``. Nothing is run and nothing expanded: ``$NAME`` stays as it is written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tree_sitter import Node, Parser


@dataclass(frozen=True, slots=True)
class Word:
    """One word as the program gets it, without quotes; ``row`` counts from 0."""

    text: str
    row: int


@dataclass(frozen=True, slots=True)
class Assignment:
    """``NAME=value``, alone, exported or before a command."""

    name: str
    value: str
    row: int


@dataclass(slots=True)
class ShellCommand:
    """A command: its words without redirections, the assignments before it, and the rows it reaches over.

    ``listed`` says that the words are the elements of an array, which may become a command later.
    """

    words: list[Word]
    assigned: list[Assignment]
    first: int
    last: int
    listed: bool = False


@dataclass(frozen=True, slots=True)
class HereDocument:
    """A here-document: the line that opens it, and the rows of its text, from ``first`` to before ``end``."""

    opening: str
    first: int
    end: int


@dataclass(slots=True)
class Script:
    """What a text holds, in its order.

    ``broken`` if some of it is not shell; what was understood is there all the same.
    """

    commands: list[ShellCommand] = field(default_factory=list)
    assigned: list[Assignment] = field(default_factory=list)
    documents: list[HereDocument] = field(default_factory=list)
    broken: bool = False


PLACEHOLDER = re.compile(
    r"(?<![<\w])<(?![<(&\s])[^<>\n]{0,80}?[^<>\s]>|(?<![<\w])<[A-Za-z][\w-]*(?: [\w'-]+){1,6}>"
    r"|\{\{[^{}\n]{1,80}\}\}|\$\{\w+(?:\.\w+)+\}"
)
DASH = re.compile(r"(?:(?<=\s)|^)[—–―‒−‐‑]{1,2}(?=([A-Za-z][\w-]*))", re.MULTILINE)
QUOTES = re.compile(
    r"(?<=[\s=:{\[,(])[“”„‟]|[“”‟](?=[\s,:}\]);]|$)|(?<=[\s=:])[‘’‚‛](?=[\s{\[])|(?<=[}\]\s])[’‘](?=\s|$)"
)
SPACES = re.compile("[\u00a0\u2007\u2009\u202f\u200b\u2060\ufeff]")
_DOUBLE = {"“", "”", "„", "‟"}
_SHORT = 3
"""The longest name of a flag with one dash that an engine has, such as -ngl."""
UNFILLED = "PLACEHOLDER"

_ASSIGNED = ("variable_assignment",)
_REDIRECTS = ("file_redirect", "heredoc_redirect", "herestring_redirect")
_QUOTED = re.compile(r'\\(["\\$`\n])')
_ESCAPED = re.compile(r"\\(.|\n)", re.DOTALL)
_LAST_BACKSLASH = re.compile(r"(?<!\\)\\\s*\Z")
_ANSI = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", "'": "'", '"': '"'}


def without_placeholders(text: str) -> str:
    """Return a text with a name in the place of each ``<placeholder>``."""
    return PLACEHOLDER.sub(UNFILLED, text)


def readable(line: str) -> str:
    """Return a line with its placeholders as words, and with ASCII for typographic dashes, quotes and spaces."""
    line = PLACEHOLDER.sub(UNFILLED, line.rstrip("\r"))
    if line.isascii():
        return line
    line = SPACES.sub(" ", line)
    line = DASH.sub(lambda m: "--" if len(m[1]) > _SHORT else "-", line)
    return QUOTES.sub(lambda m: '"' if m[0] in _DOUBLE else "'", line)


@cache
def _parser() -> Parser:
    import tree_sitter
    import tree_sitter_bash

    return tree_sitter.Parser(tree_sitter.Language(tree_sitter_bash.language()))


def read_shell(text: str) -> Script:
    """Return what a script holds. Any text is taken; see `Script`. A backslash at the very end has no effect."""
    text = _LAST_BACKSLASH.sub("", text)
    root = _parser().parse(text.encode("utf-8", "replace")).root_node
    script = Script(broken=root.has_error)
    lines = text.split("\n")
    for node in _in_order(root):
        if node.type == "command":
            script.commands.append(_command(node))
        elif node.type == "array":
            elements = [Word(_value(n), n.start_point[0]) for n in node.children if n.is_named and n.type != "comment"]
            script.commands.append(ShellCommand(elements, [], node.start_point[0], node.end_point[0], listed=True))
        elif node.type == "declaration_command":
            script.assigned += [_assignment(n) for n in node.children if n.type in _ASSIGNED]
        elif node.type == "variable_assignment" and _stands_alone(node):
            script.assigned.append(_assignment(node))
        elif node.type in _REDIRECTS and node.parent is not None and node.parent.type != "command":
            # what follows the file of a redirection is a word of the command before it
            if script.commands:
                script.commands[-1].words += _after_redirection(node)
        elif node.type == "heredoc_body":
            opened = node.parent.start_point[0] if node.parent is not None else 0
            last = node.end_point[0] + (1 if node.end_point[1] else 0)
            script.documents.append(HereDocument(lines[opened], node.start_point[0], last))
    return script


def _in_order(root: Node) -> Iterator[Node]:
    """Yield every node in the order of the text, without recursion."""
    waiting = [root]
    while waiting:
        node = waiting.pop()
        yield node
        waiting += reversed(node.children)


def _stands_alone(node: Node) -> bool:
    return node.parent is not None and node.parent.type not in ("command", "declaration_command")


def _command(node: Node) -> ShellCommand:
    words: list[Word] = []
    assigned: list[Assignment] = []
    for child in node.children:
        if child.type in _ASSIGNED:
            assigned.append(_assignment(child))
        elif child.type not in _REDIRECTS:
            words.append(Word(_value(child), child.start_point[0]))
    return ShellCommand(words, assigned, node.start_point[0], node.end_point[0])


def _after_redirection(node: Node) -> list[Word]:
    """Return the words of the command that the grammar takes for parts of a redirection."""
    if node.type == "herestring_redirect":
        return []
    named = "destination" if node.type == "file_redirect" else "argument"
    found = node.children_by_field_name(named)[1 if named == "destination" else 0 :]
    return [Word(_value(child), child.start_point[0]) for child in found]


def _assignment(node: Node) -> Assignment:
    name = node.child_by_field_name("name")
    value = node.child_by_field_name("value")
    return Assignment("" if name is None else _text(name), "" if value is None else _value(value), node.start_point[0])


def _text(node: Node) -> str:
    return (node.text or b"").decode("utf-8", "replace")


def _value(node: Node) -> str:
    """Return what the program gets for a word: quotes and backslashes taken away, expansions left as written."""
    if node.type in ("concatenation", "command_name") and node.children:
        return _joined(node)
    raw = _text(node)
    if node.type == "raw_string":
        return raw[1:-1]
    if node.type in ("string", "translated_string"):
        return _QUOTED.sub(lambda m: "" if m[1] == "\n" else m[1], raw[raw.index('"') + 1 : -1])
    if node.type == "ansi_c_string":
        return _ESCAPED.sub(lambda m: _ANSI.get(m[1], m[0]), raw[2:-1])
    if node.type in ("word", "number", "extglob_pattern", "regex"):
        return _ESCAPED.sub(lambda m: "" if m[1] == "\n" else m[1], raw)
    return raw


def _joined(node: Node) -> str:
    """Return the parts of a word, and what lies between them."""
    whole, start = node.text or b"", node.start_byte
    pieces, at = [], start
    for child in node.children:
        pieces.append(whole[at - start : child.start_byte - start].decode("utf-8", "replace"))
        pieces.append(_value(child))
        at = child.end_byte
    pieces.append(whole[at - start :].decode("utf-8", "replace"))
    return "".join(pieces)
