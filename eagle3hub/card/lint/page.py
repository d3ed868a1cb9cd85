"""The text of a rendered page, made Markdown again as far as it can be: headings, tables and code, line by line.

People keep cards as text copied from the Hub. Copying loses the metadata block, links, fences and table borders.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

Line = tuple[int, str]
_FOOTER = re.compile(r"\s*(?:-\s*)?Downloads last month\b")
_BIBTEX = re.compile(r"\s*@[A-Za-z]+\{")
_NUMBER = r"[-+]?\d[\d,]*(?:\.\d+)?%?"
_ROW = re.compile(rf"(?P<label>\S.*?)(?P<cells>(?:\s+{_NUMBER})+)\s*$")
_SHELL = re.compile(
    r"\s*(?:python3?\s+-m\s|pip3? install|git (?:clone|checkout)\b|cd \S|export \w+=|vllm serve\b|trtllm-serve\b"
    r"|docker run\b|hf download\b|huggingface-cli\s|curl\s|[A-Z][A-Z_0-9]+=\S+\s*(?:\\|$|\w)|--?[a-z][\w-]*(?:[ =]|$))"
)
_PYTHON = re.compile(r"\s*(?:import \w[\w.]*(?: as \w+)?$|from [\w.]+ import |\w+ = [\w.]+[\(\[{]|print\()")
_YAML = re.compile(r"\s*[a-z][a-z_0-9]*:(?:\s+[^\s].*)?$")
_HEADING_WORDS = 8
_NOT_HEADING = re.compile(r"[.,;!?\\]$|:.|\d\.\d")


def is_page_text(lines: Sequence[str]) -> bool:
    """Whether the lines end in the Hub's own footer, which no card's source has."""
    return any(_FOOTER.match(line) for line in lines)


def to_markdown(lines: Sequence[Line]) -> list[Line]:
    """Numbered lines of a page as numbered lines of Markdown; what was added carries the number of its neighbour."""
    end = next((i for i, (_, line) in enumerate(lines) if _FOOTER.match(line)), len(lines))
    out: list[Line] = []
    i = 0
    while i < end:
        taken, made = _block(lines[:end], i, first=not out)
        out += made
        i += taken
    return out


def _block(lines: Sequence[Line], i: int, *, first: bool) -> tuple[int, list[Line]]:
    number, text = lines[i]
    if _BIBTEX.match(text):
        return _fenced(lines, i, _bibtex_end(lines, i), "bibtex")
    if (end := _code_end(lines, i)) > i:
        language = "python" if any(_PYTHON.match(line) for _, line in lines[i:end]) else "bash"
        return _fenced(lines, i, end, "yaml" if _YAML.match(text) and language == "bash" else language)
    if (end := _rows_end(lines, i + 1)) > i + 2 and text.strip():
        return end - i, _table(lines[i], lines[i + 1 : end])
    if _is_heading(lines, i):
        return 1, [(number, ""), (number, ("# " if first else "## ") + text.strip().rstrip(":")), (number, "")]
    if text.startswith("|") and i + 1 < len(lines) and not lines[i + 1][1].startswith("|"):
        return 1, [(number, text), (number, "")]
    return 1, [(number, text)]


def _fenced(lines: Sequence[Line], start: int, end: int, language: str) -> tuple[int, list[Line]]:
    body = list(lines[start:end])
    return end - start, [(body[0][0], ""), (body[0][0], f"```{language}"), *body, (body[-1][0], "```")]


def _bibtex_end(lines: Sequence[Line], start: int) -> int:
    depth = 0
    for i in range(start, len(lines)):
        depth += lines[i][1].count("{") - lines[i][1].count("}")
        if depth <= 0:
            return i + 1
    return len(lines)


def _code_end(lines: Sequence[Line], start: int) -> int:
    """Index after the run of code that starts here; ``start`` where none does."""
    depth, end, continued = 0, start, False
    is_yaml, is_python = _starts_yaml(lines, start), bool(_PYTHON.match(lines[start][1]))
    for i in range(start, len(lines)):
        text = lines[i][1]
        if not text.strip():
            if i == start:
                return start
            continue
        comment = text.startswith("# ") and _next_is_code(lines, i + 1)
        yaml = is_yaml and (_YAML.match(text) is not None or text.startswith((" ", "\t")))
        if not (continued or depth > 0 or comment or yaml or _SHELL.match(text) or _PYTHON.match(text)):
            return end
        if depth == 0 and not (continued or comment or yaml) and text.lstrip().startswith("- "):
            return end
        if depth == 0 and end < i and not is_yaml and bool(_PYTHON.match(text)) != is_python:
            return end
        depth = max(0, depth + sum(text.count(c) for c in "([{") - sum(text.count(c) for c in ")]}"))
        continued, end = text.rstrip().endswith("\\"), i + 1
    return end


def _next_is_code(lines: Sequence[Line], i: int) -> bool:
    return i < len(lines) and bool(_SHELL.match(lines[i][1]) or _PYTHON.match(lines[i][1]))


def _starts_yaml(lines: Sequence[Line], start: int) -> bool:
    following = [text for _, text in lines[start : start + 3] if text.strip()][:2]
    return len(following) == 2 and all(_YAML.match(text) for text in following)


def _rows_end(lines: Sequence[Line], start: int) -> int:
    width, i = 0, start
    while i < len(lines):
        m = _ROW.fullmatch(lines[i][1].rstrip())
        cells = m["cells"].split() if m else []
        if not m or m["label"].startswith(("-", "|")) or (width and len(cells) != width):
            break
        width = len(cells)
        i += 1
    return i


def _table(header: Line, rows: Sequence[Line]) -> list[Line]:
    matches = [(number, _ROW.fullmatch(text.rstrip())) for number, text in rows]
    body = [(number, [m["label"], *m["cells"].split()]) for number, m in matches if m]
    width = len(body[0][1])
    names = _header(header[1].split(), width - 1)
    made = [(header[0], names), (header[0], ["---"] * width), *body]
    shown = [(number, "| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |") for number, cells in made]
    return [(header[0], ""), *shown, (body[-1][0], "")]


def _header(words: list[str], columns: int) -> list[str]:
    """The header's words dealt to the columns: at a word that every column's name starts or ends with, if any."""
    label, rest = words[0], words[1:]
    for at_end in (True, False):
        word = (rest[-1] if at_end else rest[0]) if rest else ""
        places = [i for i, w in enumerate(rest) if w == word]
        if columns > 1 and len(places) == columns:
            cuts = [0, *(p + 1 for p in places)] if at_end else [*places, len(rest)]
            return [label, *(" ".join(rest[a:b]) for a, b in pairwise(cuts))]
    return [label, *[" ".join(rest)] * columns]


def _is_heading(lines: Sequence[Line], i: int) -> bool:
    def ends(j: int) -> bool:
        text = lines[j][1].strip() if 0 <= j < len(lines) else ""
        return not text or len(text) > 60 or text.startswith(("-", "|", "•", "@")) or _next_is_code(lines, j)

    def short(text: str) -> bool:
        words = text.split()
        return bool(re.match(r"[A-Z]", text)) and len(words) <= _HEADING_WORDS and not _NOT_HEADING.search(text)

    text = lines[i][1].strip()
    after = lines[i + 1][1].strip() if i + 1 < len(lines) else ""
    dense = i > 0 and lines[i - 1][1].strip()
    return short(text) and ends(i - 1) and (ends(i + 1) or bool(dense and short(after) and ends(i + 2)))
