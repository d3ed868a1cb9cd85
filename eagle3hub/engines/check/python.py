"""Check Python snippets that start an engine."""

from __future__ import annotations

import ast
import re

from eagle3hub.engines.check.documents import trtllm_config
from eagle3hub.engines.check.finding import Against, NotChecked, Outcome, RecipeFinding
from eagle3hub.engines.check.settings import Settings, check_settings, is_open
from eagle3hub.engines.check.shell import UNFILLED, without_placeholders
from eagle3hub.engines.check.snippets import Snippet

# Check Python that starts an engine


_PACKAGES = {"vllm": "vllm", "sglang": "sglang", "tensorrt_llm": "trtllm"}
_CONSTRUCTORS = {"vllm.LLM": "vllm.LLM", "sglang.Engine": "sglang.Engine", "sglang.LLM": "sglang.Engine"}
_DRAFT_CONFIGS = ("Eagle3DecodingConfig", "EagleDecodingConfig")


def check_python(snippet: Snippet, against: Against, published: bool) -> Outcome:
    """Check the names taken from an engine's package, and the keywords and values of its constructors.

    Python that takes nothing from an engine is no recipe. What takes something and does not parse is a fault, unless
    parts are left out in it.
    """
    text = without_placeholders(snippet.text)
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return _not_python(snippet, error)
    names = _imported(tree)
    out = Outcome(checked=1 if names else 0)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            for alias in node.names:
                out.findings += _name(f"{node.module}.{alias.name}", snippet.start + node.lineno - 1, against)
        elif isinstance(node, ast.Attribute):
            found = _dotted(node, names)
            out.findings += _name(found, snippet.start + node.lineno - 1, against) if found else []
        elif isinstance(node, ast.Call):
            found = _dotted(node.func, names)
            if found:
                _call(found, node, snippet, against, published, out)
    out.findings = list(dict.fromkeys(out.findings))
    return out


_TAKES = re.compile(
    r"^\s*(?:from|import)\s+(?:vllm|sglang|tensorrt_llm|openai|transformers)\b|\bspeculative_(?:config|algorithm)\b",
    re.M,
)


def _not_python(snippet: Snippet, error: BaseException) -> Outcome:
    if not _TAKES.search(snippet.text):
        return Outcome()
    line = min(max(int(getattr(error, "lineno", None) or 1), 1), len(snippet.lines))
    out = Outcome(not_checked=[NotChecked(snippet.start, None, "Python that does not parse")])
    near = "\n".join(snippet.lines[max(0, line - 3) : line + 2])
    if "..." not in near and "…" not in near:
        why = str(getattr(error, "msg", None) or "it is nested too deep or holds characters that cannot be read")
        what = f"the Python does not parse: {why}"
        out.findings.append(RecipeFinding("python-syntax", "error", snippet.start + line - 1, "python", what))
    return out


def _imported(tree: ast.Module) -> dict[str, str]:
    """Map local names to the engines' packages, and to what is imported from them."""
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                root = alias.name.partition(".")[0]
                if root in _PACKAGES:
                    names[alias.asname or root] = alias.name if alias.asname else root
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] in _PACKAGES:
            for alias in node.names:
                names[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return names or _unmistakable(tree)


def _unmistakable(tree: ast.Module) -> dict[str, str]:
    """Map the names of constructors that only one engine has, in a fragment that imports nothing of any engine."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id="LLM"), keywords=given):
                if any(k.arg == "speculative_config" and isinstance(k.value, ast.Dict) for k in given):
                    return {"LLM": "vllm.LLM"}
            case ast.Call(func=ast.Attribute(value=ast.Name(id="sgl" | "sglang" as name), attr="Engine")):
                return {name: "sglang"}
    return {}


def _dotted(node: ast.expr, names: dict[str, str]) -> str | None:
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute):
        owner = _dotted(node.value, names)
        return f"{owner}.{node.attr}" if owner else None
    return None


def _name(dotted: str, line: int, against: Against) -> list[RecipeFinding]:
    package, _, rest = dotted.partition(".")
    engine = _PACKAGES.get(package)
    if engine is None or not rest:
        return []
    fact = against.fact(engine, dotted, line)
    if fact is not None:
        return [fact]
    own = against.interface(engine)
    known = None if own is None else own.names
    # names of classes at the top of the package; a lower-case one may be a module, which has names of its own
    if known is None or "." in rest or not rest[0].isupper() or rest in known:
        return []
    found = against.unknown_name(engine, "python-name", dotted, [f"{package}.{name}" for name in known], line)
    return [found] if found else []


def _call(dotted: str, node: ast.Call, snippet: Snippet, against: Against, published: bool, out: Outcome) -> None:
    values, lines = _settings(node, snippet)
    at = snippet.start + node.lineno - 1
    if dotted.rpartition(".")[2] in _DRAFT_CONFIGS and dotted.startswith("tensorrt_llm."):
        if not _unpacks(node):
            more = trtllm_config(
                values, lambda name: lines.get(name, at), against, need_type=False, published=published
            )
            out.findings += more.findings
            out.not_checked += more.not_checked
        return
    constructor = _CONSTRUCTORS.get(dotted)
    if constructor is None:
        return
    engine = constructor.partition(".")[0]
    own = against.interface(engine)
    known = None if own is None else own.keywords.get(constructor)
    for name, value in values.items():
        fact = against.fact(engine, name, lines[name])
        if fact is not None:
            out.findings.append(fact)
        elif known is not None and name not in known:
            found = against.unknown_name(engine, "python-keyword", name, known, lines[name])
            out.findings += [found] if found else []
        elif own is not None and isinstance(value, str) and not is_open(value):
            choices = own.choices.get("--" + name.replace("_", "-"), ())
            if choices and value not in choices:
                out.findings.append(against.unknown_value(engine, "flag-value", name, value, choices, lines[name]))
    config = values.get("speculative_config")

    def line(name: str) -> int:
        if name in lines:
            return lines[name]
        return _line_in(snippet, lines["speculative_config"], name) if isinstance(config, dict) else at

    settings = Settings(values, line, lambda name: name, not _unpacks(node), published)
    out.findings += check_settings(engine, settings, against)


def _settings(node: ast.Call, snippet: Snippet) -> tuple[dict[str, object], dict[str, int]]:
    """Return the values of the keywords (a placeholder unless literal), and their lines."""
    settings: dict[str, object] = {}
    lines: dict[str, int] = {}
    for keyword in node.keywords:
        if keyword.arg is None:
            continue
        try:
            settings[keyword.arg] = ast.literal_eval(keyword.value)
        except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            settings[keyword.arg] = UNFILLED
        lines[keyword.arg] = snippet.start + keyword.value.lineno - 1
    return settings, lines


def _unpacks(node: ast.Call) -> bool:
    return any(keyword.arg is None for keyword in node.keywords)


def _line_in(snippet: Snippet, begin: int, name: str) -> int:
    rest = Snippet(begin, snippet.lines[begin - snippet.start :])
    return rest.line_of(name)
