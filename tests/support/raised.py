"""Every place of the package that makes an error, and which of them a run of the tests reached.

A place is a call that names an error's code, or makes an error without one: `SourceError(…, code="source-card")`,
`Problem("error", "aux-boundary", …)`, and `_fault("zero", …)` where `_fault` makes the error of the word it is given.
`conftest.py` notes where errors are made while the tests run, and with `--every-error` fails a run that left one out.
"""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from eagle3hub import errors

PACKAGE = Path(errors.__file__).parent
DEPTH = 4
"""How many of the package's frames above an error are noted: a helper or two may stand between."""


@dataclass(frozen=True)
class Place:
    """One call that makes an error.

    Attributes:
        path: of the module, in the package.
        function: the function that it stands in.
        lines: the first and the last.
        code: the word that it names, None where it names none.
    """

    path: str
    function: str
    lines: tuple[int, int]
    code: str | None

    def __str__(self) -> str:
        return f"{self.path}:{self.lines[0]} in {self.function}: {self.code or 'no code of its own'}"


def _nodes(tree: ast.Module) -> list[tuple[ast.AST, str]]:
    """Every import, class, function and call of a module in its order, with the name of the function around it."""
    found: list[tuple[ast.AST, str]] = []
    left: list[tuple[ast.AST, str]] = [(tree, "")]
    while left:
        node, around = left.pop()
        if isinstance(node, ast.ImportFrom | ast.ClassDef | ast.FunctionDef | ast.Call):
            found.append((node, around))
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            around = f"{around}.{node.name}".lstrip(".")
        left += [(child, around) for child in reversed(list(ast.iter_child_nodes(node)))]
    return found


def _called(node: ast.Call) -> str | None:
    return node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", None)


def _code_of(node: ast.Call, name: str) -> ast.expr | None:
    for keyword in node.keywords:
        if keyword.arg == "code":
            return keyword.value
    return node.args[1] if name == "Problem" and len(node.args) > 1 else None


Module = list[tuple[ast.AST, str]]


def _modules() -> dict[str, Module]:
    paths = (p for p in sorted(PACKAGE.rglob("*.py")) if p.name != "errors.py" and "workers" not in p.parts)
    return {p.relative_to(PACKAGE).as_posix(): _nodes(ast.parse(p.read_text(encoding="utf-8"))) for p in paths}


def _classes(modules: dict[str, Module]) -> set[str]:
    """The names of every class of error, those that modules make for themselves included, and Problem."""
    found = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}
    for nodes in modules.values():
        for node, _ in nodes:
            if isinstance(node, ast.ClassDef) and any(getattr(base, "id", None) in found for base in node.bases):
                found.add(node.name)
    return found | {"Problem"}


def _helpers(nodes: Module, makes: set[str]) -> dict[str, str]:
    """Functions that make an error of the code, or of the part of one, that they are given, and in which parameter."""
    found = {}
    for node, _ in nodes:
        if not isinstance(node, ast.FunctionDef):
            continue
        params = {arg.arg for arg in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]}
        for call in ast.walk(node) if params else ():
            name = _called(call) if isinstance(call, ast.Call) else None
            if isinstance(call, ast.Call) and name in makes:
                code = _code_of(call, name)
                for part in ast.walk(code) if isinstance(code, ast.Name | ast.JoinedStr) else ():
                    if isinstance(part, ast.Name) and part.id in params:
                        found[node.name] = part.id
    return found


@cache
def places() -> tuple[Place, ...]:
    """Every place of the package that makes an error; a helper's own call is not one, but the calls of the helper."""
    modules = _modules()
    makes = _classes(modules)
    helpers = {path: _helpers(nodes, makes) for path, nodes in modules.items()}
    found = []
    for path, nodes in modules.items():
        known = dict(helpers[path])
        for node, _ in nodes:
            if isinstance(node, ast.ImportFrom) and node.module:
                source = f"{node.module.removeprefix('eagle3hub.').replace('.', '/')}.py"
                theirs = helpers.get(source, {})
                known |= {a.asname or a.name: theirs[a.name] for a in node.names if a.name in theirs}
        for node, around in nodes:
            if not isinstance(node, ast.Call):
                continue
            name = _called(node)
            span = (node.lineno, node.end_lineno or node.lineno)
            if name in makes and around.rsplit(".", 1)[-1] not in helpers[path]:
                code = _code_of(node, name)
                if code is None or isinstance(code, ast.Constant):
                    found.append(Place(path, around, span, None if code is None else code.value))
            elif name in known and around.rsplit(".", 1)[-1] not in helpers[path]:
                words = [
                    a.value for a in [*node.args, *(k.value for k in node.keywords)] if isinstance(a, ast.Constant)
                ]
                word = next((w for w in words if isinstance(w, str)), None)
                found.append(Place(path, around, span, word))
    return tuple(found)


# --- what a run reaches

_PREFIX = f"{PACKAGE}{os.sep}"
_COUNTS = [True]


@contextmanager
def by_chance() -> Iterator[None]:
    """Within the block nothing is noted: what random inputs reach today, they may miss tomorrow."""
    _COUNTS.append(False)
    try:
        yield
    finally:
        _COUNTS.pop()


def watch(folder: Path) -> None:
    """From now on, leave a line in ``folder`` for every place at which this process, or a fork of it, makes an error.

    A line is written when a place is first seen, so that nothing is lost with a process that is killed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    seen: set[tuple[str, int]] = set()

    def note() -> None:
        if not _COUNTS[-1]:
            return
        frame = sys._getframe(2)
        left = DEPTH
        while frame is not None and left:
            name = frame.f_code.co_filename
            if name.startswith(_PREFIX) and not name.endswith("errors.py"):
                place = (name[len(_PREFIX) :], frame.f_lineno)
                if place not in seen:
                    with suppress(OSError), (folder / f"{os.getpid()}").open("a", encoding="utf-8") as f:
                        f.write(f"{place[0]}:{place[1]}\n")
                        seen.add(place)
                left -= 1
            frame = frame.f_back

    def noting(plain: Any) -> Any:
        def init(self: Any, *args: Any, **kwargs: Any) -> None:
            note()
            plain(self, *args, **kwargs)

        return init

    for kind in (errors.Eagle3HubError, errors.Problem):
        kind.__init__ = noting(kind.__init__)


def reached(folder: Path) -> set[tuple[str, int]]:
    """The lines that the processes that watched with ``folder`` reached, together."""
    found = set()
    for file in (f for f in folder.iterdir() if f.is_file()):
        for line in file.read_text(encoding="utf-8").splitlines():
            path, number = line.rsplit(":", 1)
            found.add((path, int(number)))
    return found


def missed(reached: set[tuple[str, int]]) -> tuple[Place, ...]:
    """The places that nothing reached."""
    return tuple(
        p for p in places() if not any((p.path, line) in reached for line in range(p.lines[0], p.lines[1] + 1))
    )
