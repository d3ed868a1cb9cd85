"""Files that a manifest includes by pattern."""

from __future__ import annotations

from collections.abc import Sequence
from glob import glob
from pathlib import Path


def find(folder: Path, patterns: Sequence[str]) -> list[Path]:
    """The files below ``folder`` that the patterns name, sorted, each once."""
    names = [name for pattern in patterns for name in glob(pattern, root_dir=folder, recursive=True)]  # noqa: PTH207
    return sorted(path for path in {folder / name for name in names} if path.is_file())
