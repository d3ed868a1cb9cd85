"""Import a script of this checkout as a module, and write interpreters for tests."""

from __future__ import annotations

import importlib.util
import shlex
import stat
import sys
from pathlib import Path
from types import ModuleType


def load_script(file: Path) -> ModuleType:
    """Run a script that is in no package, and return it as a module, under the name of its file."""
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def write_interpreter(file: Path, python: str | Path, **variables: str) -> Path:
    """Write a program to ``file`` that runs ``python`` with these environment variables, and return ``file``."""
    words = "".join(f"{name}={shlex.quote(value)} " for name, value in variables.items())
    file.write_text(f'#!/bin/sh\n{words}exec {shlex.quote(str(python))} "$@"\n', encoding="utf-8")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return file
