"""Find commands, environment variables, Python, YAML and JSON in Markdown, fenced or not.

Shell is read by `eagle3hub.engines.check.shell`. A fenced block that is a whole script is read at once; a block in
which something else stands as well, and text outside of blocks, is read command by command.
"""

from __future__ import annotations

import ast
import html
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

from eagle3hub.engines.check.containers import Started, dockerfile_starts, yaml_starts
from eagle3hub.engines.check.finding import NotChecked, RecipeFinding
from eagle3hub.engines.check.shell import (
    DASH,
    QUOTES,
    SPACES,
    Assignment,
    Script,
    ShellCommand,
    Word,
    read_shell,
    readable,
)

_FENCE = re.compile(r"^(?P<before>[ \t]*(?:>[ \t]?)*[ \t]*)(?P<fence>`{3,}|~{3,})[ \t]*(?P<language>[\w+-]*)")
_PRE = re.compile(r"^\s*<pre\b[^>]*>\s*(?:<code\b[^>]*?(?:language-(?P<language>[\w+-]+))?[^>]*>)?", re.IGNORECASE)
_QUOTE = re.compile(r"^[ \t]*(?:>[ \t]?)+")
_IMPORT = re.compile(r"^(?:from|import)\s+(?:vllm|sglang|tensorrt_llm)\b")
_YAML_START = re.compile(r"^\s*speculative_config:\s*(?:#.*|\{.*\})?$")
_YAML_LINE = re.compile(r"^(?:\s*(?:- )?['\"]?[A-Za-z_][\w.-]*['\"]?:(?:\s.*)?|\s+- .*|\s*#.*|\s*)$")
_FLAG = re.compile(r"\s*--[A-Za-z]")
_LAUNCH = re.compile(
    r"\b(?:vllm|sglang)\s+serve\b|\bapi_server\b|\blaunch_server\b|\btrtllm-\w|\bllama-server\b|\bvllm/vllm-openai\b"
    r"|\b(?:vllm|sglang)\s+bench|\bbench_serving\b"
)
_ASSIGN_LINE = re.compile(r"^\s*(?:export\s+|ENV\s+)?[A-Z][A-Z0-9_]*[= ]")
_PROMPT = re.compile(
    r"^\s*(?:\([\w.-]+\)\s*)?(?:(?:\[?[\w.-]+@[\w.-]+[^\s$#%>]*(?:\s[^\s$#%>]+\])?\s*)[$#%]|[$%❯➜])\s+(?=\S)"
)
_ROOT_PROMPT = re.compile(r"^\s*#\s+(?=(?:\w+=\S*\s+)*(?:vllm|python3?|trtllm|sglang|docker|export|llama-server)\b)")
_MORE = re.compile(r"^\s*>\s?")
_HELP = re.compile(r"^\s*(?:usage|options|(?:optional|positional|named)? ?arguments|flags)\s*:", re.IGNORECASE)
_HELP_LINE = re.compile(
    r"^\s*(?:-\w,\s*)?--[\w-]+(?:[ =](?:[A-Z][A-Z_]*|\{[^}]*\}|<[^>]*>|\[[^\]]*\]))?(?:,\s*\S+)?\s{2,}\S"
)
_CODE = re.compile(r"(?<!`)`((?:[^`\n]|\n(?!\s*\n))+)`(?!`)")
_PAST = re.compile(
    r"\b(?:older?|before|previous\w*|formerly|deprecated|removed|no longer|used to|instead of|replaces?|not)\b", re.I
)
_HEADS = re.compile(r"\baccept(?:ance|ed)?[\s_-]+(?:length|len|rate)|\bτ|\btau\b|接受长度|接受率", re.I)
_WRAPPERS = ("env", "sudo", "nohup", "time", "exec")
_TALK = frozenset(
    {"echo", "printf", "grep", "pkill", "pgrep", "man", "which", "pip", "pip3", "uv", "git", "cd", "rm", "alias"}
)
_PROGRAM = re.compile(r"[\w./~$({@\"'-]\S*(?<!:)$|\S*\s")
_LONGEST_PYTHON = 120
_MOST_PYTHON = 50
_LONGEST_COMMAND = 80
_MOST_TRIES = 60
_FIRST_WORDS = 12
"""The most words of a line in which its launcher is looked for: variables and wrappers come before it."""
_DEEPEST = 2

PYTHON = frozenset({"python", "py", "python3", "pycon", "ipython", "ipython3"})
YAML = frozenset({"yaml", "yml"})
JSON = frozenset({"json", "jsonc", "json5"})
DOCKERFILE = frozenset({"dockerfile", "docker", "containerfile"})
CONTINUED = {"powershell": "`", "pwsh": "`", "ps1": "`", "cmd": "^", "bat": "^", "batch": "^"}
"""Shells of Windows, and the character that ends a line of theirs that goes on."""
CONSOLE = frozenset({"console", "shell-session", "shellsession", "terminal", "text", "txt"})
SHELL = frozenset({"", "bash", "sh", "shell", "zsh", *CONTINUED, *CONSOLE, *DOCKERFILE})


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
    """The words after an engine's launcher, and the line of each.

    ``engine`` is None for flags without a command. ``exact``: all these words are of the command, because it is not
    part of a sentence.
    """

    engine: str | None
    words: tuple[str, ...]
    where: Snippet
    lines: tuple[int, ...]
    exact: bool = True

    def line_of(self, flag: str) -> int:
        """Return the line of a flag, or else of the text that has it, or else of the command's first line."""
        for word, line in zip(self.words, self.lines, strict=True):
            if word == flag or word.startswith((f"{flag}=", f"{flag}.")):
                return line
        return self.where.line_of(flag)


@dataclass(frozen=True, slots=True)
class VariableSetting:
    """An environment variable that the text sets."""

    name: str
    value: str
    line: int


@dataclass(slots=True)
class Extracted:
    """Everything that `extract_snippets` found, in the order of the text.

    ``findings`` are faults of the text itself: what does not parse. ``publishes`` says whether the text outside of
    code states an acceptance length or rate; ``named`` are the flags that sentences name by themselves.
    """

    commands: list[ServerCommand] = field(default_factory=list)
    variables: list[VariableSetting] = field(default_factory=list)
    python: list[Snippet] = field(default_factory=list)
    yaml: list[Snippet] = field(default_factory=list)
    json: list[Snippet] = field(default_factory=list)
    findings: list[RecipeFinding] = field(default_factory=list)
    not_checked: list[NotChecked] = field(default_factory=list)
    publishes: bool = False
    named: list[ServerCommand] = field(default_factory=list)
    tries: int = 0


def is_flag(text: str) -> bool:
    """Whether a word or a line begins with a flag: two dashes and a letter (a Markdown rule does not)."""
    return bool(_FLAG.match(text))


def extract_snippets(text: str) -> Extracted:
    """Return everything in ``text`` that can be checked against an engine."""
    found = Extracted()
    for language, region in _regions(text.splitlines()):
        if language is None:
            found.publishes = found.publishes or _publishes(region.text)
            _take_prose(region, found)
        elif language in PYTHON:
            _take_python(region, found)
        elif language in YAML:
            _take_yaml(region, found)
        elif language in JSON:
            found.json.append(region)
        elif language in SHELL:
            _take_block(region, language, found)
    return found


def _publishes(text: str) -> bool:
    """Whether a text states an acceptance length or rate: the words, and a number soon after."""
    return any(re.search(r"\d\.\d|\d\s*%", text[m.end() : m.end() + 300]) for m in _HEADS.finditer(text))


def _regions(lines: list[str]) -> list[tuple[str | None, Snippet]]:
    """Return the blocks with their language, and the text between them with None.

    A block is fenced, perhaps within a quotation, or is an HTML ``pre``. Its lines lose the indent of the fence.
    """
    regions: list[tuple[str | None, Snippet]] = []
    begin, language, fence, before = 0, None, "", ""
    number = 0
    while number < len(lines):
        line = lines[number]
        match = _FENCE.match(line)
        bare = _QUOTE.sub("", line).strip() if ">" in before else line.strip()
        closes = bool(fence) and bare.startswith(fence) and not bare.strip(fence[0])
        pre = None if fence else _PRE.match(line)
        if pre is not None and (end := _pre_end(lines, number)) is not None:
            regions.append((language, Snippet(begin + 1, tuple(lines[begin:number]))))
            regions.append(((pre["language"] or "").lower(), _pre_block(lines, number, end, pre.end())))
            begin = number = end + 1
            continue
        if closes or (match and not fence):
            regions.append((language, Snippet(begin + 1, tuple(_inner(lines[begin:number], before)))))
            begin = number + 1
            language, fence, before = None, "", ""
            if match and not closes:
                language, fence, before = match["language"].lower(), match["fence"], match["before"]
        number += 1
    regions.append((language, Snippet(begin + 1, tuple(_inner(lines[begin:], before)))))
    return [(language, region) for language, region in regions if region.lines]


def _inner(lines: list[str], before: str) -> list[str]:
    """Return the lines of a block without the quotation marks and the indent that stand before its fence."""
    if ">" in before:
        lines = [_QUOTE.sub("", line) for line in lines]
    width = len(before.rpartition(">")[2].expandtabs())
    return [line[min(width, len(line) - len(line.lstrip(" "))) :] for line in lines] if width else lines


def _pre_end(lines: list[str], start: int) -> int | None:
    return next((i for i in range(start, min(len(lines), start + 200)) if "</pre>" in lines[i].lower()), None)


def _pre_block(lines: list[str], start: int, end: int, after: int) -> Snippet:
    inner = [lines[start][after:], *lines[start + 1 : end + 1]] if end > start else [lines[start][after:]]
    return Snippet(start + 1, tuple(html.unescape(re.sub(r"</?[A-Za-z][^<>]*>", "", line)) for line in inner))


# Python and YAML


def _take_python(region: Snippet, found: Extracted) -> None:
    lines = region.lines
    if any(re.match(r"^\s*>>> ?", line) for line in lines):  # a session: the other lines are its output
        lines = tuple(
            re.sub(r"^\s*(?:>>>|\.\.\.) ?", "", line) if re.match(r"^\s*(?:>>>|\.\.\.)", line) else ""
            for line in lines
        )
    lines = tuple(re.sub(r"^\s*In \[\d+\]: ?", "", line) for line in lines)
    lines = tuple(re.sub(r"^(\s*)[!%](?=\w)", r"\1# ", line) for line in lines)
    if re.match(r"\s", next((line for line in lines if line.strip()), "")):
        lines = tuple(textwrap.dedent("\n".join(lines)).split("\n"))
    found.python.append(Snippet(region.start, lines))


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


def _take_yaml(region: Snippet, found: Extracted) -> None:
    import yaml

    found.yaml.append(region)
    try:
        roots = list(yaml.compose_all(region.text, Loader=yaml.SafeLoader))
    except (yaml.YAMLError, ValueError, RecursionError):
        return
    for root in roots:
        for started in yaml_starts(root):
            _take_started(started, region, found)


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


# Text outside of blocks: only a clear command counts


def _take_prose(region: Snippet, found: Extracted) -> None:
    if any(line.lstrip().startswith(">") for line in region.lines):  # what is quoted is text like other text
        region = Snippet(region.start, tuple(_QUOTE.sub("", line) for line in region.lines))
    lines = region.lines
    at = 0
    while at < len(lines):
        begin, line = at, lines[at]
        if _IMPORT.match(line.strip()) and len(found.python) < _MOST_PYTHON:
            snippet = _longest_python(region.start + begin, tuple(_dedented(lines[begin:])))
            found.python.append(snippet)
            at += len(snippet.lines)
        elif _YAML_START.match(line):
            snippet = _yaml_around(region, begin)
            if snippet not in found.yaml:
                _take_yaml(snippet, found)
            at = max(begin + 1, snippet.start - region.start + len(snippet.lines))
        elif is_flag(line):
            at = _flags_end(lines, begin)
            _take_flags(Snippet(region.start + begin, lines[begin:at]), found)
        else:
            at = _take_line(region, begin, found)
    if "`" in region.text and _LAUNCH.search(region.text):
        _take_inline(region, found)
    if "`--" in region.text:
        _take_named(region, found)


def _flags_end(lines: Sequence[str], begin: int) -> int:
    """Return the index after the last of the lines that go on with flags."""
    end = begin
    while end < len(lines) and is_flag(lines[end]):
        end = _logical_end(lines, end)
    return end


def _logical_end(lines: Sequence[str], begin: int) -> int:
    """Return the index after the last line of the command that starts at ``begin``, by backslashes alone."""
    end = begin
    while end < len(lines) - 1 and lines[end].rstrip().endswith("\\"):
        end += 1
    return end + 1


def _take_flags(snippet: Snippet, found: Extracted) -> None:
    """Take flags that stand without a command, unless they are a program's help."""
    if any("`" in line or _HELP_LINE.match(line) for line in snippet.lines):
        return
    script = read_shell("\n".join(readable(line) for line in snippet.lines))
    words = [Word(w.text, w.row) for command in script.commands for w in command.words]
    if words and is_flag(words[0].text):
        _add_command(None, words, snippet, found, exact=False)


def _take_line(region: Snippet, begin: int, found: Extracted) -> int:
    """Take the command that starts at a line of running text, if one does; return the index after it."""
    lines = region.lines
    bare = _PROMPT.sub("", lines[begin])
    exports = re.match(r"^\s*(?:export|ENV)\s+[A-Z]", bare)
    if "`" in bare or not (exports or (_NAMES.search(bare) and _starts(bare.split(maxsplit=_FIRST_WORDS)))):
        return _logical_end(lines, begin)
    script, end = _one_command(lines, begin, found)
    if script.broken and re.search(r"\s--[a-z]", bare):
        found.not_checked.append(NotChecked(region.start + begin, None, "a command that does not parse as shell"))
    snippet = Snippet(region.start + begin, lines[begin:end])
    for command in script.commands:
        launched = _launcher([w.text for w in command.words])
        if launched is None or any(w.text not in _WRAPPERS for w in command.words[: launched[1]]):
            continue
        _take_command(command, snippet, found, exact=False)
    if exports:
        _take_assigned(script.assigned or _env_line(bare), snippet, found)
    return end


def _env_line(line: str) -> list[Assignment]:
    m = re.match(r"^\s*ENV\s+([A-Z][A-Z0-9_]*)[= ]\s*(.*)$", line)
    return [Assignment(m[1], m[2], 0)] if m else []


def _starts(words: list[str]) -> bool:
    """Whether a line begins with an engine's launcher, apart from variables and wrappers."""
    launched = _launcher(words)
    return launched is not None and all(w in _WRAPPERS or re.match(r"^[A-Z]\w*=", w) for w in words[: launched[1]])


def _one_command(lines: Sequence[str], begin: int, found: Extracted) -> tuple[Script, int]:
    """Return the command that starts at ``begin``, and the index after its last line.

    If its quotes are open at the end of the line, lines are added until they close.
    """
    end = _logical_end(lines, begin)
    script = _script(lines[begin:end])
    more = end
    while script.broken and more < min(len(lines), begin + _LONGEST_COMMAND) and found.tries < _MOST_TRIES:
        more = _next_closing(lines, more)
        found.tries += 1
        longer = _script(lines[begin:more])
        if not longer.broken:
            return longer, more
    return script, end


def _next_closing(lines: Sequence[str], begin: int) -> int:
    """Return the index after the next line that has a quote, where open quotes may close."""
    at = next((i for i in range(begin, len(lines)) if "'" in lines[i] or '"' in lines[i]), len(lines) - 1)
    return _logical_end(lines, at)


def _script(lines: Sequence[str]) -> Script:
    first = _PROMPT.sub("", lines[0], count=1) if lines else ""
    return read_shell("\n".join(readable(line) for line in [first, *lines[1:]]))


def _take_inline(region: Snippet, found: Extracted) -> None:
    """Take commands that stand in a sentence as code, unless the sentence is about the past."""
    text = region.text
    for match in _CODE.finditer(text):
        if not _LAUNCH.search(match[1]) or not re.search(r"\s--?[A-Za-z]", match[1]):
            continue
        if _PAST.search(_before(text, match.start())):
            continue
        start = text.count("\n", 0, match.start())
        inner = tuple(match[1].split("\n"))
        snippet = Snippet(region.start + start, inner)
        script = read_shell(" \\\n".join(readable(line.rstrip("\\ ")) for line in inner))
        for command in script.commands:
            launched = _launcher([w.text for w in command.words])
            if launched is not None and len(command.words) > launched[2] + 1:
                _take_command(command, snippet, found, exact=False)


_NAMED_FLAG = re.compile(r"`(?P<flag>--(?=[a-z_-]*(?:spec|eagle|draft))[a-z][\w-]*)(?P<value>[ =][\w./-]+)?`")
_GONE = re.compile(r"\b(?:old|drop(?:s|ped)|gone|renamed|earlier|legacy|obsolete|no effect|was|were|without)\b", re.I)
_MOST_NAMED = 50


def _take_named(region: Snippet, found: Extracted) -> None:
    """Take the flags of speculative decoding that a sentence names as code, unless it is about the past."""
    text, line, seen = region.text, region.start, 0
    for match in islice(_NAMED_FLAG.finditer(text), _MOST_NAMED):
        line, seen = line + text.count("\n", seen, match.start()), match.start()
        after = re.split(r"[.!?]\s", text[match.end() : match.end() + 200])[0]
        before = _before(text, match.start())
        if any(_PAST.search(said) or _GONE.search(said) for said in (before, after)):
            continue
        named = {name for name, p in _ENGINE_NAMES.items() if p.search(before + after)}
        words = (match["flag"], *([match["value"][1:]] if match["value"] else []))
        where = Snippet(line, (match[0],))
        engine = named.pop() if len(named) == 1 else None
        found.named.append(ServerCommand(engine, words, where, (line,) * len(words), exact=False))


_ENGINE_NAMES = {"vllm": re.compile(r"\bvllm\b", re.I), "sglang": re.compile(r"\bsglang\b(?!-jax)", re.I)}


def _before(text: str, at: int) -> str:
    """Return what stands before a place in its sentence."""
    return re.split(r"[.!?]\s", text[max(0, at - 200) : at])[-1]


# Blocks: a script, a session with its output, a Dockerfile, or something that only looks like one


def _take_block(region: Snippet, language: str, found: Extracted) -> None:
    if (mark := CONTINUED.get(language)) is not None:
        joined = (re.sub(rf"\s{re.escape(mark)}\s*$", r" \\", line) for line in region.lines)
        region = Snippet(region.start, tuple("" if line.lstrip().startswith("$") else line for line in joined))
    text = region.text
    stripped = text.lstrip()
    if language not in DOCKERFILE and language not in ("bash", "sh", "shell", "zsh"):
        first = next((line.strip() for line in region.lines if line.strip()), "")
        if _IMPORT.match(first) or (stripped.startswith(("import ", "from ")) and _parses(text)):
            return _take_python(region, found)
        if stripped.startswith("{"):
            found.json.append(region)
            return None
        start = next((i for i, line in enumerate(region.lines) if _YAML_START.match(line)), None)
        if start is not None:
            return _take_yaml(_yaml_around(region, start), found)
    if language in DOCKERFILE or _FROM_LINE.search(text):
        return _take_dockerfile(region, found)
    lines = _session(region.lines, language)
    _take_script(Snippet(region.start, tuple(lines)), region, found)
    return None


_FROM_LINE = re.compile(r"\A\s*(?:#.*\n\s*)*FROM \S+(?: AS \w+)?\s*\n", re.IGNORECASE)


def _take_dockerfile(region: Snippet, found: Extracted) -> None:
    started, shell = dockerfile_starts(tuple(readable(line) for line in region.lines))
    _take_started(started, region, found)
    _take_script(Snippet(region.start, tuple(shell)), region, found)


def _take_started(started: Started, region: Snippet, found: Extracted) -> None:
    """Take what a container starts; the image may start the engine by itself."""
    texts = [w.text for w in started.words]
    words = started.words
    if started.image is not None and "vllm/vllm-openai" in started.image and _launcher(texts) is None:
        words = [Word("vllm", words[0].row if words else 0), Word("serve", words[0].row if words else 0), *words]
    launched = bool(words) and _take_command(
        ShellCommand(words, [], words[0].row, words[-1].row), region, found, exact=True
    )
    if (
        launched
        or _LAUNCH.search(region.text)
        or (started.image and re.search(r"vllm|sglang|tensorrt", started.image))
    ):
        _take_assigned(started.assigned, region, found)


def _session(lines: tuple[str, ...], language: str) -> list[str]:
    """Return the lines of a shell block without prompts, and the output of its commands as empty lines."""
    prompts = [_PROMPT] + ([_ROOT_PROMPT] if language in CONSOLE else [])
    if not any(p.match(line) for p in prompts for line in lines):
        return list(lines)
    out: list[str] = []
    going = ""
    for line in lines:
        bare = next((p.sub("", line, count=1) for p in prompts if p.match(line)), None)
        if bare is not None:
            going = bare
        elif going and (going.rstrip().endswith("\\") or _is_open(going)):
            bare = _MORE.sub("", line)
            going += "\n" + bare
        elif _LAUNCH.match(line.strip()) or line.startswith(("export ", "#")):
            bare = going = line
        else:
            bare, going = "", ""
        out.append(bare)
    return out


def _is_open(text: str) -> bool:
    """Whether quotes or a here-document of a command are open, so that the next line belongs to it."""
    if len(text) > 8000:
        return False
    script = read_shell(text)
    return script.broken or ("<<" in text and not any(d.end > d.first for d in script.documents))


def _take_script(script: Snippet, region: Snippet, found: Extracted) -> None:
    """Take the commands of a shell block; ``region`` has its lines as they are written."""
    lines = script.lines
    text = script.text
    if not (_LAUNCH.search(text) or any(is_flag(line) for line in lines) or re.search(r"[A-Z]{3,}_\w+[= ]", text)
            or "speculative" in text):  # fmt: skip
        return
    whole = read_shell("\n".join(readable(line) for line in lines))
    if not whole.broken:
        _take_commands(whole, region, found)
        return
    at = 0
    parts = Script()
    while at < len(lines):
        line = lines[at]
        if _ARRAY.search(line) and (end := _array_end(lines, at)) is not None:
            one = read_shell("\n".join(readable(part) for part in lines[at:end]))
            _shift(one, at)
            parts.commands += one.commands
            at = end
            continue
        if not (_LAUNCH.search(line) or is_flag(line) or _ASSIGN_LINE.match(line) or "<<" in line):
            at = _logical_end(lines, at)  # flags that follow are another program's
            continue
        one, end = _one_command(lines, at, found)
        starts = _starts(readable(line).split(maxsplit=_FIRST_WORDS))
        if one.broken and starts:
            what = f"the command does not parse as shell: {_why_broken(lines[at:end])}"
            found.findings.append(RecipeFinding("shell-syntax", "error", region.start + at, "shell", what))
            found.not_checked.append(NotChecked(region.start + at, None, "a command that does not parse as shell"))
        else:
            _shift(one, at)
            parts.commands += one.commands
            parts.assigned += one.assigned
            parts.documents += one.documents
        at = end
    _take_commands(parts, region, found)


_ARRAY = re.compile(r"\w\+?=\(\s*$")


def _array_end(lines: Sequence[str], begin: int) -> int | None:
    """Return the index after the line that closes an array, or None."""
    last = min(len(lines), begin + _LONGEST_COMMAND)
    return next((i + 1 for i in range(begin + 1, last) if lines[i].strip() == ")"), None)


def _why_broken(lines: Sequence[str]) -> str:
    text = "\n".join(lines)
    for mark, name in (("'", "single quote"), ('"', "double quote")):
        if text.count(mark) % 2:
            return f"a {name} is not closed"
    return "quotes, brackets or a here-document are not closed"


def _shift(script: Script, rows: int) -> None:
    for command in script.commands:
        command.words = [Word(w.text, w.row + rows) for w in command.words]
        command.assigned = [Assignment(a.name, a.value, a.row + rows) for a in command.assigned]
        command.first += rows
        command.last += rows
    script.assigned = [Assignment(a.name, a.value, a.row + rows) for a in script.assigned]
    script.documents = [type(d)(d.opening, d.first + rows, d.end + rows) for d in script.documents]


def _take_commands(script: Script, region: Snippet, found: Extracted) -> None:
    """Take the commands of a script.

    Flags that begin a line belong to the command before, whose backslash is missing.
    """
    helps = any(_HELP.match(line) for line in region.lines)
    commands: list[ShellCommand] = []
    broken: set[int] = set()
    for command in script.commands:
        loose = bool(command.words) and command.words[0].text.startswith("-") and not command.listed
        if (
            loose
            and commands
            and command.first - commands[-1].last == 1 + _comments(region, commands[-1].last, command.first)
        ):
            before = commands[-1]
            elided = any("..." in w.text or "…" in w.text for w in before.words)
            if not helps and not elided and before.first not in broken and _engine_of(before) is not None:
                found.findings.append(_broken_off(region, before, command))
                broken.add(before.first)
            before.words += command.words
            before.last = command.last
            continue
        commands.append(command)
    for command in commands:
        snippet = Snippet(region.start, region.lines)
        if command.words and is_flag(command.words[0].text):
            rows = region.lines[command.first : command.last + 1]
            if not helps and not any(_HELP_LINE.match(line) for line in rows):
                _add_command(None, command.words, snippet, found, exact=False)
            continue
        _take_command(command, snippet, found, exact=True)
    _take_assigned(script.assigned, Snippet(region.start, region.lines), found)
    for document in script.documents:
        body = Snippet(region.start + document.first, region.lines[document.first : document.end])
        if re.search(r"\.ya?ml\b", document.opening):
            _take_yaml(body, found)
        elif re.search(r"\.py\b|\bpython3?\s+-\s|\bpython3?\s+<<", document.opening):
            found.python.append(body)
        elif re.search(r"\.json\b", document.opening):
            found.json.append(body)
        elif re.search(r"\.sh\b|\b(?:ba)?sh\b", document.opening):
            _take_script(body, body, found)


def _comments(region: Snippet, after: int, before: int) -> int:
    """Return how many comment lines stand between two rows; a blank line counts as none."""
    between = region.lines[after + 1 : before]
    return len(between) if between and all(line.lstrip().startswith("#") for line in between) else 0


def _broken_off(region: Snippet, before: ShellCommand, after: ShellCommand) -> RecipeFinding:
    """Say why the flags of ``after`` do not reach the command ``before``."""
    line = region.lines[before.last] if before.last < len(region.lines) else ""
    number, flag = region.start + before.last, after.words[0].text
    bare = line.split("#")[0] if re.search(r"\s#", line) else line
    if re.search(r"\\\s+$", line) and not line.endswith("\\"):
        what = "a space after the backslash ends the command here"
    elif bare.rstrip().endswith("\\") or any(
        between.lstrip().startswith("#") for between in region.lines[before.last + 1 : after.first]
    ):
        what = "a comment ends the command here, whatever backslash stands before it"
    else:
        what = "the command ends here, for the line has no backslash"
    instead = "a backslash as the last character of the line"
    what = f"{what}: the shell takes {flag} for a command of its own"
    return RecipeFinding("shell-continuation", "error", number, "shell", what, instead)


def _engine_of(command: ShellCommand) -> str | None:
    launched = _launcher([w.text for w in command.words])
    return None if launched is None else launched[0]


def _take_command(command: ShellCommand, region: Snippet, found: Extracted, *, exact: bool, within: int = 0) -> bool:
    """Take a command if it starts an engine, perhaps in a string that another shell runs; return whether it does."""
    texts = [w.text for w in command.words]
    if texts and (texts[0] in _TALK or not _PROGRAM.match(texts[0])):
        return False
    _other_programs(command, region, found)
    launched = _launcher(texts)
    if launched is not None and any(text.endswith(":") for text in texts[: launched[1]]):
        return False  # a line of a log, or a sentence
    taken = False
    if launched is not None:
        engine, _, first = launched
        _typographic(command, region, found)
        row = command.words[launched[1]].row
        _add_command(engine, command.words[first:], region, found, exact=exact, first=row)
        taken = True
    elif within < _DEEPEST:
        for word in command.words:
            if _LAUNCH.search(word.text) and re.search(r"\s", word.text):
                inner = read_shell(word.text)
                _shift(inner, word.row)
                for one in inner.commands:
                    taken = _take_command(one, region, found, exact=exact, within=within + 1) or taken
                _take_assigned(inner.assigned, region, found)
    handed = [
        Assignment(m[1], m[2], word.row)
        for before, word in zip(command.words, command.words[1:], strict=False)
        if before.text in ("-e", "--env") and (m := re.match(r"^([A-Za-z_]\w*)=(.*)$", word.text, re.DOTALL))
    ]
    joined = [
        Assignment(m[1], m[2], word.row)
        for word in command.words
        if (m := re.match(r"^--env=([A-Za-z_]\w*)=(.*)$", word.text, re.DOTALL))
    ]
    if exact or taken:
        _take_assigned([*command.assigned, *handed, *joined], region, found)
    return taken


def _add_command(
    engine: str | None,
    words: Sequence[Word],
    region: Snippet,
    found: Extracted,
    *,
    exact: bool,
    first: int | None = None,
) -> None:
    begin = first if first is not None else min((w.row for w in words), default=0)
    last = max((w.row + w.text.count("\n") for w in words), default=begin)
    where = Snippet(region.start + begin, region.lines[begin : _logical_end(region.lines, last)])
    lines = tuple(min(region.start + w.row, region.start + len(region.lines) - 1) for w in words)
    found.commands.append(ServerCommand(engine, tuple(w.text for w in words), where, lines, exact))


def _take_assigned(assigned: Sequence[Assignment], region: Snippet, found: Extracted) -> None:
    for one in assigned:
        if re.fullmatch(r"[A-Z][A-Z0-9_]*", one.name):
            found.variables.append(VariableSetting(one.name, one.value, region.start + one.row))


_TYPOGRAPHIC = (
    (DASH, "dash", "- or --"),
    (QUOTES, "quote", "' or \""),
    (SPACES, "space", "a plain space"),
)


def _typographic(command: ShellCommand, region: Snippet, found: Extracted) -> None:
    """Report characters in a command that look like dashes, quotes or spaces, but not to the shell."""
    last = max([command.last, *(w.row for w in command.words)])
    for row in range(command.first, min(last + 1, len(region.lines))):
        line = region.lines[row]
        if line.isascii():
            continue
        for pattern, name, plain in (
            (DASH, "dash", "--"),
            (QUOTES, "quote", "' or \""),
            (SPACES, "space", "a space"),
        ):
            if m := pattern.search(line):
                word = line[m.start() :].split(maxsplit=1)[0] if name == "dash" else m[0]
                shown = f"U+{ord(word):04X}" if name == "space" else word
                what = f"{shown}: a typographic {name} is a letter for the shell"
                found.findings.append(
                    RecipeFinding("shell-typographic", "error", region.start + row, "shell", what, plain)
                )


_OTHERS = {
    ("vllm", "bench"): "vllm",
    ("vllm", "run-batch"): "vllm",
    ("sglang", "bench"): "sglang",
}
_OTHER_NAMES = {
    "sglang.bench_serving": "sglang", "sglang.bench_offline_throughput": "sglang",
    "sglang.bench_one_batch": "sglang", "sglang.bench_one_batch_server": "sglang",
    "trtllm-bench": "trtllm", "trtllm-eval": "trtllm", "trtllm-build": "trtllm",
}  # fmt: skip


def _other_programs(command: ShellCommand, region: Snippet, found: Extracted) -> None:
    """Say which programs of the engines cannot be checked."""
    texts = [w.text.rpartition("/")[2] for w in command.words]
    for at, word in enumerate(texts):
        follows = texts[at + 1] if at + 1 < len(texts) else ""
        engine = _OTHERS.get((word, follows)) or _OTHER_NAMES.get(word)
        if engine is not None and (at == 0 or texts[at - 1] == "-m" or (word, follows) in _OTHERS):
            name = f"{word} {follows}" if (word, follows) in _OTHERS else word
            line = region.start + command.words[at].row
            found.not_checked.append(NotChecked(line, engine, f"{name}: its flags are not known here"))
            return


_MODULES = {
    "vllm.entrypoints.openai.api_server": "vllm",
    "vllm.entrypoints.launchers.api_server": "vllm",
    "vllm.entrypoints.api_server": "vllm",
    "sglang.launch_server": "sglang",
    "sgl_jax.launch_server": "sglang_jax",
    "tensorrt_llm.commands.serve": "trtllm",
}


_NAMES = re.compile("vllm|sglang|sgl_jax|llama-server|trtllm|tensorrt_llm")
"""What is in every line that starts an engine."""


def _launcher(words: list[str]) -> tuple[str, int, int] | None:
    """Return the engine that is started, the index of its launcher, and the index of its first own word."""
    image = None
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
        if image is None and re.search(r"(?:^|/)vllm/vllm-openai(?::|@|$)", word):
            entry = _entrypoint(words[:at])
            if entry is None or (entry == "vllm" and follows == "serve"):
                image = ("vllm", at, at + 1 if entry is None else at + 2)
    return image


def _entrypoint(options: list[str]) -> str | None:
    """Return what a container is to start in the place of what its image starts, or None."""
    for at, word in enumerate(options):
        if word.startswith("--entrypoint"):
            return word.partition("=")[2] or (options[at + 1] if at + 1 < len(options) else "")
    return None
