"""Find commands, environment variables, Python and YAML in Markdown, fenced or not."""

from __future__ import annotations

import ast
import re
import shlex
from dataclasses import dataclass, field

_FENCE = re.compile(r"^\s*(`{3,}|~{3,})\s*([\w+-]*)")
_ASSIGNMENT = re.compile(r"^([A-Z][A-Z0-9_]*)=(.*)$", re.DOTALL)
_EXPORT = re.compile(r"^(?:export|ENV)\s+([A-Z][A-Z0-9_]*)[= ]")
_IMPORT = re.compile(r"^(?:from|import)\s+(?:vllm|sglang|tensorrt_llm)\b")
_YAML_START = re.compile(r"^\s*speculative_config:\s*(?:#.*|\{.*\})?$")
_YAML_LINE = re.compile(r"^(?:\s*(?:- )?['\"]?[A-Za-z_][\w.-]*['\"]?:(?:\s.*)?|\s+- .*|\s*#.*|\s*)$")
_HEREDOC = re.compile(r"<<-?\s*['\"]?(\w+)['\"]?")
_PLACEHOLDER = re.compile(r"<[^<>\n]{1,80}>")
_FLAG = re.compile(r"\s*--[A-Za-z]")
_PROMPT = re.compile(r"^\s*(?:[$%#]\s+(?=\S)|>\s+(?=vllm|python|trtllm|sglang))")
_LONGEST_PYTHON = 120
_MOST_PYTHON = 50

PYTHON = frozenset({"python", "py", "python3", "pycon", "ipython"})
YAML = frozenset({"yaml", "yml"})
SHELL = frozenset(
    {"", "bash", "sh", "shell", "zsh", "console", "shell-session", "terminal", "text", "txt", "dockerfile"}
)
UNFILLED = "PLACEHOLDER"


@dataclass(frozen=True, slots=True)
class Snippet:
    """Consecutive lines of the text; ``start`` is the 1-based number of the first line."""

    start: int
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        """The lines as one text."""
        return "\n".join(self.lines)

    def line_of(self, needle: str) -> int:
        """Return the number of the first line that contains ``needle``, or else of the first line."""
        return next((self.start + i for i, line in enumerate(self.lines) if needle in line), self.start)


@dataclass(frozen=True, slots=True)
class ServerCommand:
    """The words after an engine's launcher; ``engine`` is None for flags without a command."""

    engine: str | None
    words: tuple[str, ...]
    where: Snippet


@dataclass(frozen=True, slots=True)
class VariableSetting:
    """An environment variable that the text sets."""

    name: str
    value: str
    line: int


@dataclass(slots=True)
class Extracted:
    """Everything that `extract_snippets` found, in the order of the text."""

    commands: list[ServerCommand] = field(default_factory=list)
    variables: list[VariableSetting] = field(default_factory=list)
    python: list[Snippet] = field(default_factory=list)
    yaml: list[Snippet] = field(default_factory=list)


def is_flag(text: str) -> bool:
    """Whether a word or a line begins with a flag: two dashes and a letter (a Markdown rule does not)."""
    return bool(_FLAG.match(text))


def extract_snippets(text: str) -> Extracted:
    """Return everything in ``text`` that can be checked against an engine."""
    found = Extracted()
    for language, region in _regions(text.splitlines()):
        if language in PYTHON:
            _take_python(region, found)
        elif language in YAML:
            found.yaml.append(region)
        elif language is None or language in SHELL:
            _scan(region, found, prose=language is None)
    return found


def _regions(lines: list[str]) -> list[tuple[str | None, Snippet]]:
    """Return the fenced blocks with their language, and the text between them with None."""
    regions: list[tuple[str | None, Snippet]] = []
    begin, language, fence = 0, None, ""
    for number, line in enumerate(lines):
        match = _FENCE.match(line)
        closes = bool(fence) and line.strip().startswith(fence) and not line.strip().strip(fence[0])
        if not (closes or (match and not fence)):
            continue
        regions.append((language, Snippet(begin + 1, tuple(lines[begin:number]))))
        begin = number + 1
        language, fence = (None, "") if closes else (match[2].lower(), match[1]) if match else (None, "")
    regions.append((language, Snippet(begin + 1, tuple(lines[begin:]))))
    return [(language, region) for language, region in regions if region.lines]


def _take_python(region: Snippet, found: Extracted) -> None:
    lines = tuple(re.sub(r"^\s*(?:>>>|\.\.\.|In \[\d+\]:) ?", "", line) for line in region.lines)
    snippet = Snippet(region.start, lines)
    if _parses(snippet.text):
        found.python.append(snippet)
        return
    for index, line in enumerate(lines):
        if _IMPORT.match(line):
            found.python.append(_longest_python(region.start + index, lines[index:]))
            return


def _longest_python(start: int, lines: tuple[str, ...]) -> Snippet:
    """Return the longest start of ``lines`` that is Python; ``_LONGEST_PYTHON`` limits the work per text."""
    for end in range(min(len(lines), _LONGEST_PYTHON), 0, -1):
        if _parses("\n".join(lines[:end])):
            return Snippet(start, lines[:end])
    return Snippet(start, lines[:1])


def _parses(text: str) -> bool:
    try:
        ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _scan(region: Snippet, found: Extracted, *, prose: bool) -> None:
    """Collect commands, variables, Python and YAML from a shell block, or from the text between blocks."""
    lines = region.lines
    at = 0
    while at < len(lines):
        begin, line = at, lines[at]
        number = region.start + begin
        if _IMPORT.match(line.strip()) and len(found.python) < _MOST_PYTHON:
            snippet = _longest_python(number, tuple(_dedented(lines[begin:])))
            found.python.append(snippet)
            at += len(snippet.lines)
            continue
        if _YAML_START.match(line):
            snippet = _yaml_around(region, begin)
            if snippet not in found.yaml:
                found.yaml.append(snippet)
            at = max(begin + 1, snippet.start - region.start + len(snippet.lines))
            continue
        at = _logical_end(lines, begin)
        heredoc = _HEREDOC.search(lines[begin])
        if heredoc and not prose:
            end = next((i for i in range(at, len(lines)) if lines[i].strip() == heredoc[1]), len(lines))
            body = Snippet(region.start + at, lines[at:end])
            if re.search(r"\.ya?ml\b", lines[begin]):
                found.yaml.append(body)
            at = min(end + 1, len(lines))
            continue
        if is_flag(lines[begin]):
            while at < len(lines) and is_flag(lines[at]):
                at = _logical_end(lines, at)
        _take_shell(Snippet(number, lines[begin:at]), found, prose=prose)


def _dedented(lines: tuple[str, ...]) -> list[str]:
    indent = len(lines[0]) - len(lines[0].lstrip())
    return [line[indent:] if not line[:indent].strip() else line for line in lines]


def _yaml_around(region: Snippet, index: int) -> Snippet:
    lines = region.lines
    begin = end = index
    while begin > 0 and lines[begin - 1].strip() and _YAML_LINE.match(lines[begin - 1]):
        begin -= 1
    while end + 1 < len(lines) and _YAML_LINE.match(lines[end + 1]):
        end += 1
    return Snippet(region.start + begin, lines[begin : end + 1])


def _logical_end(lines: tuple[str, ...], begin: int) -> int:
    """Return the index after the last line of the command that starts at ``begin``."""
    end = begin
    while end < len(lines) - 1 and lines[end].rstrip().endswith("\\"):
        end += 1
    return end + 1


def _take_shell(snippet: Snippet, found: Extracted, *, prose: bool) -> None:
    if prose and "`" in snippet.text:
        return
    words = _split(snippet)
    if not words:
        return
    if is_flag(words[0]):
        found.commands.append(ServerCommand(None, tuple(words), snippet))
        return
    exported = _EXPORT.match(_PROMPT.sub("", snippet.lines[0]).strip())
    if exported:
        assignment = _ASSIGNMENT.match(words[1]) if len(words) > 1 else None
        value = assignment[2] if assignment else " ".join(words[2:])
        found.variables.append(VariableSetting(exported[1], value, snippet.start))
        return
    for piece in _pieces(words):
        _take_command(piece, snippet, found, prose=prose)


def _take_command(words: list[str], snippet: Snippet, found: Extracted, *, prose: bool) -> None:
    variables = []
    leading = True
    for index, word in enumerate(words):
        assignment = _ASSIGNMENT.match(word)
        after_option = index > 0 and words[index - 1] in ("-e", "--env")
        if assignment and (leading or after_option):
            variables.append(VariableSetting(assignment[1], assignment[2], snippet.line_of(assignment[1])))
        elif word not in ("env", "sudo", "nohup", "time", "exec"):
            leading = False
    launched = _launcher(words)
    if launched is not None:
        engine, at, first = launched
        before = [w for w in words[:at] if not _ASSIGNMENT.match(w)]
        if prose and any(w not in ("env", "sudo", "nohup", "time", "exec") for w in before):
            return
        found.commands.append(ServerCommand(engine, tuple(words[first:]), snippet))
    if launched is not None or (variables and not prose):
        found.variables += variables


def _split(snippet: Snippet) -> list[str]:
    pieces = []
    for line in snippet.lines:
        line = re.sub(r"(?:^|\s)#\s.*$", "", _PLACEHOLDER.sub(UNFILLED, line.rstrip()))
        pieces.append(line.rstrip().removesuffix("\\"))
    text = _PROMPT.sub("", " ".join(pieces), count=1)
    try:
        return shlex.split(text)
    except ValueError:  # an apostrophe, an open quote
        return text.split()


def _pieces(words: list[str]) -> list[list[str]]:
    """Split one line into its commands, without redirections."""
    pieces: list[list[str]] = [[]]
    skipping = False
    for word in words:
        if word in ("&&", "||", "|", ";", "&"):
            pieces.append([])
            skipping = False
        elif skipping or re.match(r"^(?:\d?>|&>|<)", word):
            skipping = True
        else:
            pieces[-1].append(word)
    return [piece for piece in pieces if piece]


_MODULES = {
    "vllm.entrypoints.openai.api_server": "vllm",
    "vllm.entrypoints.launchers.api_server": "vllm",
    "sglang.launch_server": "sglang",
    "sgl_jax.launch_server": "sglang_jax",
    "tensorrt_llm.commands.serve": "trtllm",
}


def _launcher(words: list[str]) -> tuple[str, int, int] | None:
    """Return the engine that is started, the index of its launcher, and the index of its first own word."""
    for at, word in enumerate(words):
        name, follows = word.rpartition("/")[2], words[at + 1] if at + 1 < len(words) else ""
        if name in ("vllm", "sglang") and follows == "serve":
            return name, at, at + 2
        if name == "llama-server":
            return "llamacpp", at, at + 1
        if name == "trtllm-serve":
            return "trtllm", at, at + 2 if follows == "serve" else at + 1
        if word == "-m" and follows in _MODULES:
            return _MODULES[follows], max(0, at - 1), at + 2
        if "vllm/vllm-openai" in word:
            return "vllm", at, at + 1
    return None
