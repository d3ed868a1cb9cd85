"""Blocks that a conversion shares with its source, on XFS and btrfs: padded headers, and what is verified."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import heads

from eagle3hub.checkpoint.safetensors import TensorRef, read_header
from eagle3hub.checkpoint.writer import OpenFiles, OutTensor, Range, aligned, shared_block, split, write_safetensors
from eagle3hub.conversion.run import convert
from eagle3hub.conversion.verify import verify_folder
from eagle3hub.errors import OutputError

BLOCK = 4096


def source(folder: Path, **shapes: tuple[int, ...]) -> dict[str, TensorRef]:
    tensors = {name: torch.randint(-9, 9, shape, dtype=torch.int8) for name, shape in shapes.items()}
    save_file(tensors, folder / "source.safetensors")
    return read_header(folder / "source.safetensors").tensors


def shard_of(refs: dict[str, TensorRef], **names: str):
    return split([OutTensor(names.get(n, n), r.dtype, r.shape, r) for n, r in refs.items()], None, None)[0]


def test_spaces_bring_most_bytes_to_the_offsets_of_the_source(tmp_path: Path):
    refs = source(tmp_path, big=(3 << 20,), small=(1000,), wide=(2 << 20,))
    plain = shard_of(refs, big="another_name_for_it")
    padded = aligned(plain, BLOCK)
    assert padded.tensors == plain.tensors
    assert padded.header[8:].rstrip(b" ") == plain.header[8:].rstrip(b" ")
    assert (len(padded.header) - len(plain.header), len(padded.header) % 8) != (0, 1)
    at, agree = len(padded.header), 0
    for t in padded.tensors:
        agree += t.nbytes if (t.data.offset - at) % BLOCK == 0 else 0
        at += t.nbytes
    assert agree >= 3 << 20
    with OpenFiles() as files:
        write_safetensors(tmp_path / "out.safetensors", padded, files, None)
    written, before = load_file(tmp_path / "out.safetensors"), load_file(tmp_path / "source.safetensors")
    assert torch.equal(written["another_name_for_it"], before["big"])
    assert torch.equal(written["wide"], before["wide"])


def test_a_header_stays_where_little_would_be_shared(tmp_path: Path):
    small = shard_of(source(tmp_path, a=(BLOCK * 8,)))
    assert aligned(small, BLOCK) == small
    refs = source(tmp_path, a=(3 << 20,))
    odd = {n: TensorRef(n, r.dtype, r.shape, r.path, r.offset + 3, r.nbytes) for n, r in refs.items()}
    assert aligned(shard_of(odd), BLOCK) == shard_of(odd), "the data would begin at an odd offset"


def test_a_file_system_that_cannot_share_gets_the_same_bytes_as_ever(tmp_path: Path):
    made = heads.specforge(tmp_path / "x", heads.dims(hidden=256, inter=512, heads=4, head_dim=64))
    with OpenFiles() as files:
        if shared_block(files[made / "model.safetensors"], tmp_path):
            pytest.skip("this file system shares blocks")
    convert(made, tmp_path / "out", "specforge")
    assert (tmp_path / "out/model.safetensors").read_bytes() == (made / "model.safetensors").read_bytes()


def test_what_is_not_shared_is_compared(tmp_path: Path):
    made = heads.specforge(tmp_path / "x", heads.dims(hidden=256, inter=512, heads=4, head_dim=64))
    done = convert(made, tmp_path / "out", "specforge")
    file = tmp_path / "out/model.safetensors"
    ref = read_header(file).tensors["fc.weight"]
    raw = bytearray(file.read_bytes())
    raw[ref.offset + 5000] ^= 1
    file.write_bytes(raw)
    plan = done.plan

    def verified(*ranges: Range) -> None:
        verify_folder(tmp_path / "out", plan.head, plan.to, plan.written, shared={file: ranges})

    inside = Range(ref.offset + 4096, 4096)
    verified(inside)
    verified(Range(0, 64), inside, Range(ref.offset + 9000, 10))
    for others in ((), (Range(ref.offset, 5000),), (Range(ref.offset + 5001, 10**6),), (Range(0, 10),)):
        with pytest.raises(OutputError, match=r"the bytes of fc\.weight differ"):
            verified(*others)


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_a_conversion_shares_its_bytes_on_a_file_system_that_can(tmp_path: Path, kind: str):
    if os.geteuid() != 0 or shutil.which(f"mkfs.{kind}") is None:
        pytest.skip(f"mounting {kind} takes root and mkfs.{kind}")
    image, at = tmp_path / "image", tmp_path / "at"
    at.mkdir()
    with image.open("wb") as f:
        f.truncate(1 << 30)
    subprocess.run([f"mkfs.{kind}", "-q", str(image)], check=True, capture_output=True)
    script = 'mount -o loop "$0" "$1" || exit 77; shift; exec "$@"'
    tests = Path(__file__).resolve().parents[1]
    run = [sys.executable, str(tests / "checkpoint" / "sharing.py"), str(at)]
    path = os.pathsep.join([str(tests), str(tests.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, str(image), str(at), *run],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )
    if done.returncode == 77 or "unshare failed" in done.stderr:
        pytest.skip(f"this machine mounts no {kind}: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["back"], "and back it is the same file"
    for name, seen in result["found"].items():
        assert seen["equal"], name
        if "digests" in name:
            assert (seen["spaces"] < 8, seen["taken"] > 0.9 * seen["size"]) == (True, True), name
        else:
            assert seen["taken"] < 0.1 * seen["size"], name
