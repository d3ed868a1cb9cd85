"""Writing and verifying: what is on the disk is what was meant, and it is there before it has its name."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from support import heads
from support.folders import load

from eagle3hub.checkpoint import writer
from eagle3hub.checkpoint.writer import Flushing
from eagle3hub.conversion import run
from eagle3hub.conversion import verify as verification
from eagle3hub.conversion.edits import Transforms
from eagle3hub.conversion.plan import ConvertOptions, plan_conversion
from eagle3hub.conversion.run import convert
from eagle3hub.conversion.verify import verify_folder
from eagle3hub.errors import OutputError

FIXTURES = Path(__file__).parent.parent / "fixtures" / "exporters"

CHANGES = {
    "copy": Transforms(),
    "sorted": Transforms(resort_vocab=True),
    "cast": Transforms(dtype="fp32"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_flipped_byte_is_found(tmp_path: Path, change: str):
    """Flip each part of each tensor on disk in turn: verification names the tensor, whatever was done on the way."""
    source = heads.modelopt(tmp_path / "head", unsorted=True)
    plan = plan_conversion(source, "modelopt", ConvertOptions(transforms=CHANGES[change]))
    convert(source, tmp_path / "out", "modelopt", ConvertOptions(transforms=CHANGES[change]))
    path = tmp_path / "out/model.safetensors"
    clean = path.read_bytes()
    (tmp_path / "out/eagle3hub.json").unlink()
    verify_folder(tmp_path / "out", plan.head, "modelopt", plan.written)
    length = int.from_bytes(clean[:8], "little")
    header = {k: v for k, v in json.loads(clean[8 : 8 + length]).items() if k != "d2t"}
    assert len(header) == 13
    for name, entry in header.items():
        begin, end = (8 + length + x for x in entry["data_offsets"])
        for at in (begin, (begin + end) // 2, end - 1):
            path.write_bytes(clean[:at] + bytes([clean[at] ^ 1]) + clean[at + 1 :])
            with pytest.raises(OutputError, match=rf"the bytes of {name} differ"):
                verify_folder(tmp_path / "out", plan.head, "modelopt", plan.written)


def test_a_flipped_vocabulary_buffer_is_found(tmp_path: Path):
    source = heads.specforge(tmp_path / "head")
    plan = plan_conversion(source, "specforge")
    convert(source, tmp_path / "out", "specforge")
    tensors = load(tmp_path / "out")
    ids = tensors["d2t"] + torch.arange(10)
    other = next(i for i in range(40) if i not in ids)
    ids[3] = other
    tensors |= heads.buffers(ids.sort().values, 40)
    save_file(tensors, tmp_path / "out/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(OutputError, match="vocabulary map reads back differently"):
        verify_folder(tmp_path / "out", plan.head, "specforge", plan.written)


OTHER_MEANING = "config.json does not say what the source says"
LIES: dict[str, tuple[dict[str, Any], str]] = {
    "epsilon": ({"rms_norm_eps": 1e-6}, OTHER_MEANING),
    "rope theta": (
        {"rope_theta": 10000.0, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
        OTHER_MEANING,
    ),
    "activation": ({"hidden_act": "gelu"}, OTHER_MEANING),
    "aux layers": (
        {
            "eagle_config": {"use_aux_hidden_state": True, "eagle_aux_hidden_state_layer_ids": [1, 14, 27]},
            "eagle_aux_hidden_state_layer_ids": [2, 15, 28],
        },
        "the aux layers read back as",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_config_that_says_something_else_is_found(tmp_path: Path, lie: str):
    """Verification reads what was written back, and holds all of what it means against the source."""
    changes, words = LIES[lie]
    source = heads.specforge(tmp_path / "head")
    plan = plan_conversion(source, "specforge")
    convert(source, tmp_path / "out", "specforge")
    (tmp_path / "out/eagle3hub.json").unlink()
    verify_folder(tmp_path / "out", plan.head, "specforge", plan.written)
    path = tmp_path / "out/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(OutputError, match=words) as caught:
        verify_folder(tmp_path / "out", plan.head, "specforge", plan.written)
    assert caught.value.code == "output-verify"


def test_a_writer_that_errs_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    real = writer.copy_range

    def wrong(src: int, src_offset: int, dst: int, dst_offset: int, count: int, grown: Any) -> None:
        real(src, src_offset, dst, dst_offset, count, grown)
        os.pwrite(dst, b"\x55", dst_offset + count - 1)

    monkeypatch.setattr(writer, "copy_range", wrong)
    with pytest.raises(OutputError, match="verification failed"):
        convert(heads.specforge(tmp_path / "head"), tmp_path / "out", "specforge")
    assert [p.name for p in tmp_path.iterdir()] == ["head"]


@pytest.mark.parametrize("size", [None, 500])
@pytest.mark.parametrize("verify", [True, False])
def test_digests_are_those_of_the_files(tmp_path: Path, verify: bool, size: int | None):
    source = heads.specforge(tmp_path / "head")
    done = convert(
        source, tmp_path / "out", "specforge", ConvertOptions(max_shard_size=size, verify=verify, digests=True)
    )
    assert {f["path"] for f in done.files} == {p.name for p in (tmp_path / "out").iterdir()}
    for f in done.files:
        data = (tmp_path / "out" / f["path"]).read_bytes()
        assert (f["size"], f["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    record = json.loads((tmp_path / "out/eagle3hub.json").read_text())
    assert record["files"] == [f for f in done.files if f["path"] != "eagle3hub.json"]
    for f in record["source"]["files"]:
        assert f["sha256"] == hashlib.sha256((tmp_path / "head" / f["path"]).read_bytes()).hexdigest()
    assert {f["path"] for f in record["source"]["files"]} == {"config.json", "model.safetensors"}


def test_without_digests_the_record_holds_sizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = heads.specforge(tmp_path / "head")
    with monkeypatch.context() as m:
        m.setattr(run, "file_digest", None)
        done = convert(source, tmp_path / "out", "specforge")
    sizes = [{"path": p.name, "size": p.stat().st_size} for p in (tmp_path / "out").iterdir()]
    assert sorted(done.files, key=str) == sorted(sizes, key=str)
    record = json.loads((tmp_path / "out/eagle3hub.json").read_text())
    assert record["source"]["files"] == [
        {"path": name, "size": (source / name).stat().st_size} for name in ("config.json", "model.safetensors")
    ]


@pytest.mark.parametrize(("verify", "force"), [(True, False), (False, False), (False, True)])
def test_it_is_flushed_before_the_folder_gets_its_name(tmp_path: Path, monkeypatch, verify: bool, force: bool):
    source = heads.specforge(tmp_path / "head")
    if force:
        convert(source, tmp_path / "out", "specforge")
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
    convert(source, tmp_path / "out", "specforge", ConvertOptions(max_shard_size=500, verify=verify, force=force))
    weights = {p.name for p in (tmp_path / "out").glob("*.safetensors")}
    assert len(weights) > 1
    if not verify and not force:
        assert events == ["rename"], "a new folder without verification is left as cp leaves it"
        return
    before = events[: events.index("rename")]
    assert {p.name for p in (tmp_path / "out").iterdir()} <= set(before)
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
    monkeypatch.setattr(writer, "_PIECE", 1000)
    monkeypatch.setattr(writer, "_BUFFER", 300)
    ends: list[int] = []
    data = os.urandom(54321)
    (tmp_path / "a").write_bytes(data)
    with (tmp_path / "a").open("rb") as a, (tmp_path / "b").open("wb") as b:
        writer.reserve(b.fileno(), 50007)
        writer.copy_range(a.fileno(), 321, b.fileno(), 7, 50000, ends.append)
        with pytest.raises(EOFError):
            writer.copy_range(a.fileno(), 321, b.fileno(), 7, 54001, ends.append)
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
    monkeypatch.setattr(writer.ctypes, "CDLL", lambda *_, **__: Library)
    if number == errno.ENOSPC:
        with pytest.raises(OutputError, match="the disk is full"):
            convert(source, tmp_path / "out", "modelopt")
        assert [p.name for p in tmp_path.iterdir()] == ["head"]
    else:
        convert(source, tmp_path / "out", "modelopt")


def test_what_is_written_goes_to_the_disk_while_the_rest_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    events: list[tuple[object, ...]] = []
    flush, start = os.fsync, writer.start_writing

    def flushed(fd: int) -> None:
        events.append(("all", os.fstat(fd).st_size))
        flush(fd)

    def begun(fd: int, offset: int, count: int) -> None:
        events.append((offset, count))
        start(fd, offset, count)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(writer, "start_writing", begun)
    monkeypatch.setattr(writer, "_STEP", 1000)
    with Flushing() as both:
        for name in ("one", "two"):
            with (tmp_path / name).open("wb", buffering=0) as file:
                growing = both.file(file.fileno())
                for end in (400, 1400, 1500, 2500, 2600):
                    file.write(bytes(end - file.tell()))
                    growing.grow(end)
                growing.complete()
        both.wait()
        open_then = len(os.listdir("/proc/self/fd"))
    assert events == 2 * [(0, 1400), (1400, 1100), ("all", 2600)]
    assert len(os.listdir("/proc/self/fd")) == open_then - 2


def test_without_the_system_call_the_disk_is_waited_for_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(writer, "_STEP", 100)
    monkeypatch.setattr(writer.ctypes, "CDLL", lambda *_, **__: object())
    convert(heads.specforge(tmp_path / "head"), tmp_path / "out", "modelopt")


@pytest.mark.slow
@pytest.mark.parametrize("part", [512, 200])
@pytest.mark.parametrize("dtype", [None, "fp32"])
def test_a_byte_that_differs_is_seen_wherever_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str | None, part: int
):
    monkeypatch.setattr(verification, "_PART", part)
    monkeypatch.setattr(writer, "CHUNK", 96)
    plan = plan_conversion(
        heads.specforge(tmp_path / "head"), "specforge", ConvertOptions(transforms=Transforms(dtype=dtype))
    )
    convert(tmp_path / "head", tmp_path / "out", "specforge", ConvertOptions(transforms=Transforms(dtype=dtype)))
    weights = tmp_path / "out/model.safetensors"
    good = weights.read_bytes()
    start = 8 + int.from_bytes(good[:8], "little")
    maps = {n for n, canonical in plan.written.origin.items() if canonical is None}
    at = start
    seen = 0
    for t in plan.tensors:
        for place in (
            {0, 95, 96, part - 1, part, 2 * part - 1, t.nbytes // 2, t.nbytes - 1} if t.name not in maps else ()
        ):
            if place < t.nbytes:
                bad = bytearray(good)
                bad[at + place] ^= 1
                weights.write_bytes(bad)
                with pytest.raises(OutputError, match=f"the bytes of {t.name} differ"):
                    verify_folder(tmp_path / "out", plan.head, "specforge", plan.written)
                seen += 1
        at += t.nbytes
    assert at == len(good)
    assert seen > 40
    weights.write_bytes(good)
    verify_folder(tmp_path / "out", plan.head, "specforge", plan.written)


def test_nothing_waits_for_an_import_that_never_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The process could not end otherwise."""
    daemons: list[bool] = []
    began, end = threading.Event(), threading.Event()

    def hang() -> None:
        daemons.append(threading.current_thread().daemon)
        began.set()
        end.wait(60)

    monkeypatch.setattr(run, "numpy", hang)
    try:
        convert(heads.specforge(tmp_path / "head"), tmp_path / "out", "modelopt")
        assert began.wait(60)
    finally:
        end.set()
    assert daemons == [True]


def test_a_result_that_is_cut_while_it_is_compared_is_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = heads.specforge(tmp_path / "head")
    real = verification._compare

    def cut(checkpoint: Any, *rest: Any) -> None:
        os.truncate(checkpoint.weights[0], checkpoint.weights[0].stat().st_size - 1)
        real(checkpoint, *rest)

    monkeypatch.setattr(verification, "_compare", cut)
    with pytest.raises(OutputError, match="the file ends within"):
        convert(source, tmp_path / "out", "specforge")
    assert [p.name for p in tmp_path.iterdir()] == ["head"]


def test_a_warning_says_whether_it_is_one_of_the_result(tmp_path: Path, cli: Callable[..., tuple[int, str, str]]):
    nested_only = FIXTURES / "modelopt-plain-rope" / "head"
    argv = ("convert", nested_only, tmp_path / "out", "--to", "modelopt")
    status, out, _ = cli(*argv, "--dry-run")
    assert (status, "warning of the source: aux layer ids" in out) == (0, True)
    for more in ((), ("--no-verify", "--force")):
        status, out, _ = cli(*argv, *more)
        assert (status, "fixed aux layer ids [1, 3, 4] stand in eagle_config only" in out) == (0, True)
    assert "eagle_config only" not in cli("inspect", tmp_path / "out")[1]
    argv = ("convert", nested_only, tmp_path / "unnamed", "--to", "safeailab", "--resort-vocab")
    status, out, _ = cli(*argv)
    assert (status, "eagle_config only" in out) == (0, False), "ids that are named nowhere are not fixed"
    no_context = FIXTURES / "specjax-saved" / "head"
    argv = ("convert", no_context, tmp_path / "kept", "--to", "specjax")
    status, out, _ = cli(*argv)
    assert (status, "warning the source states no max_position_embeddings" in out) == (0, True)
    assert "states no max_position_embeddings" in cli("inspect", tmp_path / "kept")[1]
    document = json.loads(cli(*argv, "--force", "--json")[1])
    assert [p["code"] for p in document["result_problems"]] == ["config-no-context"]
    assert document["mended"] == []
    assert json.loads(cli(*argv, "--force", "--dry-run", "--json")[1])["result_problems"] is None


def test_layers_that_look_shifted_are_not_mended_by_writing_them(
    tmp_path: Path, cli: Callable[..., tuple[int, str, str]]
):
    source = heads.specforge(tmp_path / "head", eagle_config={"eagle_aux_hidden_state_layer_ids": [2, 15, 27]})
    target = heads.target(tmp_path / "target")
    argv = ("convert", source, tmp_path / "out", "--to", "speculators", "--speculative-tokens", 3, "--target", target)
    status, out, _ = cli(*argv, "--target-name", "owner/target")
    assert (status, "warning the aux layers are the default ones shifted by one layer" in out) == (0, True)
    assert "fixed the aux layers" not in out
    assert "shifted by one layer" in cli("inspect", tmp_path / "out", "--target", target)[1]


def test_an_import_that_never_ends_does_not_keep_a_stopped_conversion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A signal inside an import can leave Python's import lock taken, and another thread's import never ends."""
    go_on, ended = threading.Event(), threading.Event()

    def stuck() -> None:
        go_on.wait(20)
        ended.set()

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "numpy", stuck)
    monkeypatch.setattr(run, "verify_folder", stopped)
    source = heads.specforge(tmp_path / "head")
    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "out", "specforge")
    assert not ended.is_set(), "the conversion waited for the import"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["head"]
    go_on.set()
