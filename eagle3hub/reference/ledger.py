"""Results by number, on disk as they come, so that a run that is interrupted goes on where it was."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eagle3hub._version import __version__
from eagle3hub.resources import cache_dir


class Ledger:
    """One file of JSON lines in the cache, named by everything its results depend on.

    It exists only while a run is unfinished: `close` removes it. A line that was cut off is as if it had not been
    written; a cache that cannot be written to means that nothing is kept, not that the run fails.
    """

    def __init__(self, kind: str, *parts: Any) -> None:
        text = json.dumps([__version__, kind, *parts], sort_keys=True, default=str)
        name = hashlib.sha256(text.encode()).hexdigest()[:32]
        self._path = cache_dir() / "unfinished" / f"{kind}-{name}.jsonl"
        self.found: dict[int, Any] = dict(_read(self._path))

    def add(self, number: int, result: Any) -> None:
        """Keep the result of one item."""
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps([number, result]) + "\n")

    def close(self) -> None:
        """The run is finished: forget what was kept."""
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)


def _read(path: Path) -> list[tuple[int, Any]]:
    try:
        lines: Sequence[str] = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    out = []
    for line in lines:
        with contextlib.suppress(ValueError, TypeError):
            number, result = json.loads(line)
            out.append((int(number), result))
    return out
