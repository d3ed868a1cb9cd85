"""Writing and verifying: what is on the disk is what was meant, and it is there before it has its name."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from support import heads
from support.folders import load

from eagle3hub.checkpoint import background, copying, writer
from eagle3hub.checkpoint.background import Beside, GrowingDigest
from eagle3hub.conversion import convert, make_plan
from eagle3hub.errors import OutputError
from eagle3hub.transforms import Transforms
from eagle3hub.verify import verify_folder

CHANGES = {
    "copy": Transforms(),
    "sorted": Transforms(resort_vocab=True),
    "cast": Transforms(dtype="fp32"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_flipped_byte_is_found(tmp_path: Path, change: str):
    """Flip each part of each tensor on disk in turn: verification names the tensor, whatever was done on the way."""
    source = heads.modelopt(tmp_path / "head", unsorted=True)
    plan = make_plan(source, "modelopt", transforms=CHANGES[change])
    convert(source, tmp_path / "out", "modelopt", transforms=CHANGES[change])
    path = tmp_path / "out/model.safetensors"
    clean = path.read_bytes()
    (tmp_path / "out/eagle3hub.json").unlink()
    verify_folder(tmp_path / "out", plan.head, "modelopt", plan.spelled)
    length = int.from_bytes(clean[:8], "little")
    header = {k: v for k, v in json.loads(clean[8 : 8 + length]).items() if k != "d2t"}
    assert len(header) == 13
    for name, entry in header.items():
        begin, end = (8 + length + x for x in entry["data_offsets"])
        for at in (begin, (begin + end) // 2, end - 1):
            path.write_bytes(clean[:at] + bytes([clean[at] ^ 1]) + clean[at + 1 :])
            with pytest.raises(OutputError, match=rf"the bytes of {name} differ"):
                verify_folder(tmp_path / "out", plan.head, "modelopt", plan.spelled)


def test_a_flipped_vocabulary_buffer_is_found(tmp_path: Path):
    source = heads.specforge(tmp_path / "head")
    plan = make_plan(source, "specforge")
    convert(source, tmp_path / "out", "specforge")
    tensors = load(tmp_path / "out")
    ids = tensors["d2t"] + torch.arange(10)
    other = next(i for i in range(40) if i not in ids)
    ids[3] = other
    tensors |= heads.buffers(ids.sort().values, 40)
    save_file(tensors, tmp_path / "out/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(OutputError, match="vocabulary map reads back differently"):
        verify_folder(tmp_path / "out", plan.head, "specforge", plan.spelled)


def test_a_writer_that_errs_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    real = copying.copy_range

    def wrong(src: int, src_offset: int, dst: int, dst_offset: int, count: int, grown: Any) -> None:
        real(src, src_offset, dst, dst_offset, count, grown)
        os.pwrite(dst, b"\x55", dst_offset + count - 1)

    monkeypatch.setattr(writer, "copy_range", wrong)
    with pytest.raises(OutputError, match="verification failed"):
        convert(heads.specforge(tmp_path / "head"), tmp_path / "out", "specforge")
    assert [p.name for p in tmp_path.iterdir()] == ["head"]


@pytest.mark.parametrize("size", [None, 500])
def test_digests_are_those_of_the_files(tmp_path: Path, size: int | None):
    done = convert(heads.specforge(tmp_path / "head"), tmp_path / "out", "specforge", max_shard_size=size)
    assert {f["path"] for f in done.files} == {p.name for p in (tmp_path / "out").iterdir()}
    for f in done.files:
        data = (tmp_path / "out" / f["path"]).read_bytes()
        assert (f["size"], f["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    record = json.loads((tmp_path / "out/eagle3hub.json").read_text())
    for f in record["source"]["files"]:
        assert f["sha256"] == hashlib.sha256((tmp_path / "head" / f["path"]).read_bytes()).hexdigest()
    assert {f["path"] for f in record["source"]["files"]} == {"config.json", "model.safetensors"}


@pytest.mark.parametrize("verify", [True, False])
def test_what_is_verified_is_flushed_before_the_folder_gets_its_name(tmp_path: Path, monkeypatch, verify: bool):
    source = heads.specforge(tmp_path / "head")
    events: list[str] = []
    flush, rename = os.fsync, os.rename

    def noted(fd: int) -> None:
        flush(fd)
        events.append(Path(os.readlink(f"/proc/self/fd/{fd}")).name)

    def named(a: Path, b: Path) -> None:
        events.append("rename")
        rename(a, b)

    monkeypatch.setattr(os, "fsync", noted)
    monkeypatch.setattr(os, "rename", named)
    convert(source, tmp_path / "out", "specforge", max_shard_size=500, verify=verify)
    before = events[: events.index("rename")]
    weights = {p.name for p in (tmp_path / "out").glob("*.safetensors")}
    assert len(weights) > 1
    assert weights & set(before) == (weights if verify else set()), (
        "without verification they are left as cp leaves them"
    )
    assert {p.name for p in (tmp_path / "out").iterdir()} - weights <= set(before)
    assert before[-1].startswith(".out.eagle3hub-"), "the folder itself is flushed last"
    assert events[-1] == tmp_path.name


def test_a_disk_that_fails_while_flushing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = heads.specforge(tmp_path / "head")
    real = os.fsync

    def failing(fd: int) -> None:
        if os.readlink(f"/proc/self/fd/{fd}").endswith(".safetensors"):
            raise OSError(errno.EIO, "Input/output error")
        real(fd)

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(OutputError, match="Input/output error"):
        convert(source, tmp_path / "out", "specforge")
    assert [p.name for p in tmp_path.iterdir()] == ["head"]


def test_a_range_of_many_pieces_is_copied_to_where_it_belongs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(copying, "_PIECE", 1000)
    monkeypatch.setattr(copying, "_BUFFER", 300)
    ends: list[int] = []
    data = os.urandom(54321)
    (tmp_path / "a").write_bytes(data)
    with (tmp_path / "a").open("rb") as a, (tmp_path / "b").open("wb") as b:
        copying.reserve(b.fileno(), 50007)
        copying.copy_range(a.fileno(), 321, b.fileno(), 7, 50000, ends.append)
        with pytest.raises(EOFError):
            copying.copy_range(a.fileno(), 321, b.fileno(), 7, 54001, ends.append)
    assert ends[:50] == [7 + 1000 * (i + 1) for i in range(50)]
    assert (tmp_path / "b").read_bytes()[:50007] == bytes(7) + data[321:50321]


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.ENOSPC])
def test_room_is_reserved_where_the_file_system_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int):
    class Library:
        @staticmethod
        def fallocate64(*_: int) -> int:
            ctypes.set_errno(number)
            return -1

    source = heads.specforge(tmp_path / "head")
    monkeypatch.setattr(copying.ctypes, "CDLL", lambda *_, **__: Library)
    if number == errno.ENOSPC:
        with pytest.raises(OutputError, match="the disk is full"):
            convert(source, tmp_path / "out", "modelopt")
        assert [p.name for p in tmp_path.iterdir()] == ["head"]
    else:
        convert(source, tmp_path / "out", "modelopt")


def test_files_are_hashed_while_they_grow(tmp_path: Path):
    data = os.urandom(10_000_000)
    with Beside() as beside:
        for name, size in (("one", len(data)), ("two", 7), ("none", 0)):
            with (tmp_path / name).open("wb", buffering=0) as file:
                file.truncate(size)  # as a file looks whose room is reserved
                digest = beside.digest(tmp_path / name)
                for end in (size // 3, size // 2, size // 2, size):
                    file.write(data[file.tell() : end])
                    digest.grow(end)
                digest.grow(size, complete=True)
        assert beside.digests() == [
            {"path": name, "size": size, "sha256": hashlib.sha256(data[:size]).hexdigest()}
            for name, size in (("one", len(data)), ("two", 7), ("none", 0))
        ]
    with Beside() as given_up:
        for name in ("one", "two"):
            given_up.digest(tmp_path / name).grow(5)


def test_a_result_that_becomes_shorter_while_it_is_hashed_is_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    source = heads.specforge(tmp_path / "head")
    monkeypatch.setattr(background.GrowingDigest, "grow", lambda self, written, complete=False: _cut(self, complete))
    with pytest.raises(OutputError, match="became shorter"):
        convert(source, tmp_path / "out", "specforge")
    assert [p.name for p in tmp_path.iterdir()] == ["head"]


def _cut(digest: GrowingDigest, complete: bool) -> None:
    """As if one byte more had been written than there is."""
    if complete:
        with digest._grown:
            digest._written, digest._complete = digest._path.stat().st_size + 1, True
            digest._grown.notify()
