"""Find the files that ship beside the code (templates, schemas, the example), and compile templates once in a process.

In a wheel they are in ``eagle3hub/_data``; in a checkout (editable install) they are in the root of the project.
"""

from __future__ import annotations

import json
import os
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import CodeType

    from jinja2 import BytecodeCache

_PACKAGE = Path(__file__).resolve().parents[1]


def data_path(name: str) -> Path:
    """Return the path of a shipped file or folder, for example ``schemas/report.schema.json``."""
    shipped = _PACKAGE / "_data" / name
    return shipped if shipped.exists() else _PACKAGE.parent / name


@cache
def schema(name: str) -> dict[str, Any]:
    """Return the JSON Schema called ``name``, such as ``report``, from ``schemas/``."""
    document: dict[str, Any] = json.loads(data_path(f"schemas/{name}.schema.json").read_text(encoding="utf-8"))
    return document


def read_toml(path: Path) -> dict[str, Any]:
    """Parse a TOML file of the package."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    return tomllib.loads(path.read_text(encoding="utf-8"))


def cache_dir() -> Path:
    """Return the folder of engines, downloaded targets and compiled rules.

    It is ``$EAGLE3HUB_CACHE``, else ``$XDG_CACHE_HOME/eagle3hub``, else ``~/.cache/eagle3hub``.
    """
    explicit = os.environ.get("EAGLE3HUB_CACHE")
    if explicit:
        return Path(explicit).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "eagle3hub"


@cache
def compiled() -> BytecodeCache:
    """Return the store of compiled templates, for environments of which all of one class are set up alike.

    A template is read each time, and its code is used again only if the text is the one that was compiled.
    """
    from jinja2.bccache import Bucket, BytecodeCache

    class Compiled(BytecodeCache):
        def __init__(self) -> None:
            self.known: dict[tuple[type, str], tuple[str, CodeType]] = {}

        def load_bytecode(self, bucket: Bucket) -> None:
            checksum, code = self.known.get((type(bucket.environment), bucket.key), ("", None))
            if checksum == bucket.checksum:
                bucket.code = code

        def dump_bytecode(self, bucket: Bucket) -> None:
            if bucket.code is not None:
                self.known[type(bucket.environment), bucket.key] = bucket.checksum, bucket.code

    return Compiled()
