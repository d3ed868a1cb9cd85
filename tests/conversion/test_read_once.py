"""A conversion opens its source once and its result once, and reads each file of theirs as often as it must."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import heads

from eagle3hub.checkpoint import folder, source, writer
from eagle3hub.conversion.plan import ConvertOptions
from eagle3hub.conversion.run import convert
from eagle3hub.layouts import LAYOUTS

RESULT = "(result)"


class Reads:
    """How often each thing was read: folders opened, small files read, headers read, weights opened for their data."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, head: Path) -> None:
        self._head = head
        self.folders: Counter[str] = Counter()
        self.small: Counter[str] = Counter()
        self.headers: Counter[str] = Counter()
        self.data: Counter[str] = Counter()

        def count(module: Any, name: str, reads: Counter[str], path: Callable[..., Path]) -> None:
            real = getattr(module, name)

            def counting(*args: Any, **options: Any) -> Any:
                reads[self._name(path(*args, **options))] += 1
                return real(*args, **options)

            monkeypatch.setattr(module, name, counting)

        count(folder, "Checkpoint", self.folders, lambda **of: of["folder"])
        count(source, "read_bytes", self.small, lambda path, _most: path)
        count(folder, "parse_header", self.headers, lambda reader: reader.path)
        count(writer, "open_regular", self.data, lambda path: path)

    def _name(self, path: Path) -> str:
        if path.is_relative_to(self._head):
            return str(path.relative_to(self._head))
        staged = next(p for p in (path, *path.parents) if p.name.startswith(".out.eagle3hub-"))
        return f"{RESULT}{path.relative_to(staged)}"


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("shard", [None, 500])
@pytest.mark.parametrize("to", ["specforge", "modelopt"])
def test_source_and_result_are_opened_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str, shard: int | None, verify: bool
):
    head = tmp_path / "head"
    convert(heads.specforge(tmp_path / "made"), head, "modelopt", ConvertOptions(max_shard_size=shard))
    weights = {p.name for p in head.glob("*.safetensors")}
    assert (len(weights) > 1) == (shard is not None)
    reads = Reads(monkeypatch, head)
    done = convert(head, tmp_path / "out", to, ConvertOptions(verify=verify, max_shard_size=shard))
    monkeypatch.undo()
    written = {p.name for p in (tmp_path / "out").glob("*.safetensors")}
    small = {"config.json", "eagle3hub.json", *(["model.safetensors.index.json"] if shard else [])}
    assert done.result is not None
    assert done.result.layout == to
    assert reads.folders == {".": 1, f"{RESULT}.": 1}
    assert {name: n for name, n in reads.small.items() if not name.startswith(RESULT)} == dict.fromkeys(small, 1)
    assert set(reads.small.values()) == {1}
    assert reads.headers == dict.fromkeys(weights | {f"{RESULT}{name}" for name in written}, 1)
    compared = {f"{RESULT}{name}" for name in written} if verify else set()
    assert reads.data == dict.fromkeys(weights | compared, 1)


@pytest.mark.parametrize("to", [name for name in LAYOUTS if name not in ("universal", "speculators")])
def test_a_plan_opens_the_source_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str):
    head = heads.specforge(tmp_path / "head")
    reads = Reads(monkeypatch, head)
    convert(head, tmp_path / "out", to, ConvertOptions(dry_run=True))
    monkeypatch.undo()
    assert (reads.folders, reads.data) == ({".": 1}, {})
    assert reads.small["config.json"] == reads.headers["model.safetensors"] == 1
