"""Recognise other kinds of draft models, and what is given by mistake; ``kinds.toml`` has their names and signs."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

from eagle3hub.checkpoint.safetensors import TensorRef
from eagle3hub.errors import LayoutError
from eagle3hub.system.resources import read_toml
from eagle3hub.system.typed import build

READ = "this version reads Llama-style EAGLE-3 and P-EAGLE heads, and EAGLE-3 heads with MLA"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of folder that no codec reads; see ``kinds.toml`` for the fields."""

    code: str
    what: str
    served: str
    hint: str | None = None
    tensors: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    model_types: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    shape: str | None = None

    def shows_in(self, tensors: Mapping[str, TensorRef], config: Mapping[str, Any], files: Collection[str]) -> bool:
        """Whether a folder with config and weights shows a sign of it."""
        stated = config.get("architectures")
        classes = [name for name in stated if isinstance(name, str)] if isinstance(stated, list) else []
        kind = config.get("model_type")
        return (
            _any(self.tensors, tensors)
            or _any(self.classes, classes)
            or _any(self.model_types, [kind] if isinstance(kind, str) else [])
            or any(config.get(key) for key in self.keys)
            or any(fnmatch(name, pattern) for pattern in self.beside for name in files)
            or (self.shape is not None and _SHAPES[self.shape](tensors))
        )

    def error(self, source: str) -> LayoutError:
        """The error of a folder of this kind."""
        return LayoutError(
            f"{source} holds {self.what}, which {self.served}; {READ}", hint=self.hint, code=f"layout-{self.code}"
        )


def refuse_contents(
    source: str, tensors: Mapping[str, TensorRef], config: Mapping[str, Any], files: Collection[str]
) -> None:
    """Raise LayoutError for a folder with config and weights that is of another kind; ``files``: their names."""
    for kind in kinds():
        if kind.shows_in(tensors, config, files):
            raise kind.error(source)


def refuse_files(source: str, files: Collection[str]) -> None:
    """Raise LayoutError for a folder without a config or weights whose files are those of another kind."""
    for kind in kinds():
        if any(fnmatch(name, pattern) for pattern in kind.files for name in files):
            raise kind.error(source)


@cache
def kinds() -> tuple[Kind, ...]:
    """Every kind, in the order in which they are tried."""
    data = read_toml(Path(__file__).with_name("kinds.toml"))
    return tuple(build(Kind, entry, "checkpoint/kinds.toml") for entry in data["kind"])


def _any(patterns: Iterable[str], names: Iterable[str]) -> bool:
    compiled = [re.compile(pattern) for pattern in patterns]
    return any(pattern.search(name) for name in (names if compiled else ()) for pattern in compiled)


def _is_eagle1(tensors: Mapping[str, TensorRef]) -> bool:
    """Whether fc joins a token's embedding with one hidden state, and attention reads one state as wide as fc's."""
    fc, query = tensors.get("fc.weight"), tensors.get("layers.0.self_attn.q_proj.weight")
    if fc is None or query is None or any("hidden_norm" in name for name in tensors):
        return False
    return len(fc.shape) == 2 and fc.shape[1] == 2 * fc.shape[0] and query.shape[1:] == fc.shape[:1]


_SHAPES: Mapping[str, Callable[[Mapping[str, TensorRef]], bool]] = {"eagle1": _is_eagle1}
