"""Options of a validation as they are typed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from eagle3hub.engines import ENGINES
from eagle3hub.errors import OutputError, UsageError


def engine_pythons(pairs: Sequence[str]) -> dict[str, str]:
    """``["vllm=/path/python"]`` as a mapping; UsageError for anything else."""
    out = {}
    for pair in pairs:
        engine, equals, path = pair.partition("=")
        if not equals or not path or engine not in ENGINES:
            raise UsageError(
                f"--engine-python {pair!r} is not ENGINE=PATH",
                hint=f"engines: {', '.join(ENGINES)}",
                code="usage-engine-python",
            )
        out[engine] = path
    return out


def writable_report(path: Path) -> None:
    """Raise OutputError now, rather than after the run, if a report cannot be written to ``path``."""
    folder = path.parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        what = "is a folder" if path.is_dir() else f"cannot be written: no writable folder {str(folder)!r}"
        raise OutputError(f"the report {str(path)!r} {what}", hint="give a file name in an existing folder")
