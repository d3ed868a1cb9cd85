"""Every command of ours that a page, a message, an example or a template prints."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from support.commands import blocks, leaves, root

ROOT = Path(__file__).resolve().parents[2]
NAMES = {words for words, _ in leaves(root())}
GROUPS = {words.split()[0] for words in NAMES if " " in words}
_SPAN = re.compile(r"`{1,2}(eagle3hub [^`]+)`{1,2}")
_FENCE = re.compile(r"^( *)```(?P<lang>\w*)\n(?P<body>.*?)^\1```", re.DOTALL | re.MULTILINE)
_STANDS_ALONE = re.compile(r"(?:^|: )(eagle3hub (?:[a-z-]+).*)$", re.DOTALL)
_FIRST = re.compile(r"\beagle3hub ([a-z][a-z-]*(?: [a-z][a-z-]*)?)(?=(\s+--?[a-z][\w-]*)?)")
FIELD = "FIELD"


@dataclass(frozen=True)
class Printed:
    """A command line and where it is printed; ``named`` where it only names a command, ``--option`` or all."""

    place: str
    line: str
    block: bool = False

    @property
    def named(self) -> bool:
        """Whether it names a command, or a command with options to look for, and gives none of its arguments."""
        words = self.line.split()[1:]
        return " ".join(words) in NAMES | GROUPS


def of_pages() -> Iterator[Printed]:
    """The commands of every Markdown page: fenced blocks line by line, and spans in the text."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]
    for page in sorted(pages):
        place, text = str(page.relative_to(ROOT)), page.read_text()
        for block in blocks(page):
            for command in block.commands:
                yield from (Printed(place, line, True) for line in _simple(command.line))
        for fence in _FENCE.finditer(text):
            if fence["lang"] not in ("console", "text"):  # text: what a command prints, and forms of its use
                for line in re.sub(r"\\\n\s*", "", fence["body"]).splitlines():
                    yield from (Printed(place, one, True) for one in _simple(line.strip().removeprefix("$ ")))
        for span in _SPAN.finditer(_FENCE.sub("", text)):
            yield from (Printed(place, line) for line in _simple(" ".join(span[1].split())))


def of_other_texts() -> Iterator[Printed]:
    """Those of comments and texts in examples, templates, schemas and workflows; `tests/workflows` runs steps."""
    folders = (ROOT / "examples", ROOT / "templates", ROOT / "schemas", ROOT / ".github")
    files = [p for f in folders for p in f.rglob("*") if p.suffix in (".yaml", ".yml", ".json", ".j2", ".toml")]
    for file in sorted([*files, ROOT / "action.yml", ROOT / "Makefile", *(ROOT / "eagle3hub").rglob("*.toml")]):
        place, text = str(file.relative_to(ROOT)), file.read_text()
        for span in _SPAN.finditer(text):
            yield Printed(place, " ".join(span[1].split()))
        if file.name == "Makefile":
            for line in re.findall(r"^\t\$\(BIN\)/(eagle3hub .*)$", text, re.MULTILINE):
                yield Printed(place, line, True)


def of_code() -> Iterator[Printed]:
    """Those of every text in the program: hints, messages, docstrings, help. A field of an f-string is ``FIELD``."""
    for file in sorted((ROOT / "eagle3hub").rglob("*.py")):
        place, source = str(file.relative_to(ROOT)), file.read_text()
        for text in _texts(ast.parse(source)) if re.search(r"eagle3hub[ \"']", source) else ():
            if "eagle3hub " not in text:
                continue
            spans = [" ".join(m[1].split()) for m in _SPAN.finditer(text)]
            yield from (Printed(place, span) for span in spans)
            rest = _SPAN.sub("", text)
            for example in re.findall(r"Example: (eagle3hub .+?)(?:\n\n|\Z)", rest, re.DOTALL):
                yield Printed(place, " ".join(example.split()), True)
            rest = re.sub(r"Example: eagle3hub .+?(?:\n\n|\Z)", "", rest, flags=re.DOTALL)
            alone = _STANDS_ALONE.search(rest)
            if alone is not None and _starts_a_command(alone[1]) and not _is_prose(alone[1]):
                yield Printed(place, alone[1].strip(), True)
                continue
            for match in _FIRST.finditer(rest):
                words = match[1].split()
                if words[0] in NAMES | GROUPS:
                    name = " ".join(words) if " ".join(words) in NAMES else words[0]
                    yield Printed(place, f"eagle3hub {name}{match[2] or ''}".rstrip())


def _texts(tree: ast.AST) -> Iterator[str]:
    """Every text of a module, f-strings with ``FIELD`` in the place of each field, neighbours joined."""
    nodes = list(ast.walk(tree))
    inside = {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
    for node in nodes:
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else FIELD for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            yield node.value


def _starts_a_command(text: str) -> bool:
    words = text.split()
    return len(words) > 1 and words[1] in NAMES | GROUPS


def _is_prose(text: str) -> bool:
    """Whether what follows a command's name is a sentence: it begins with a plain word, and no option comes."""
    words = text.split()[1:]
    name = next((n for n in sorted(NAMES | GROUPS, key=len, reverse=True) if words[: len(n.split())] == n.split()), "")
    rest = words[len(name.split()) :]
    return bool(rest) and re.fullmatch(r"[a-z]+", rest[0]) is not None and " --" not in text


def _simple(line: str) -> Iterator[str]:
    """The commands of ours in a line of a shell, without what the shell does with them."""
    for part in re.split(r"\s+(?:&&|\|\||\||;)\s+", line):
        if part.startswith("eagle3hub "):
            yield re.sub(r"\s+\d?>+\s*\S+.*$", "", part)
