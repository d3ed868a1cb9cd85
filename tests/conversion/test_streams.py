"""Bytes on their way: reordered pieces and casts, held against torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from support.sampling import examples

from eagle3hub.checkpoint import writer
from eagle3hub.checkpoint.numbers import CastOverflow, cast_bytes, is_exact
from eagle3hub.checkpoint.safetensors import read_header
from eagle3hub.checkpoint.writer import (
    DerivedRef,
    OpenFiles,
    cast,
    how_derived,
    reordered,
    stream,
)
from eagle3hub.errors import CheckpointError, TensorError

TORCH = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}


def read(ref) -> bytes:
    with OpenFiles() as files:
        return b"".join(bytes(chunk) for chunk in stream(ref, files))


def raw(t: torch.Tensor) -> bytes:
    return t.contiguous().view(torch.uint8).numpy().tobytes()


def numbers(dtype: str) -> torch.Tensor:
    """Every kind of number: all bit patterns of the 16-bit types, or random ones and ties of the wider."""
    if dtype in ("BF16", "F16"):
        return torch.arange(-(2**15), 2**15, dtype=torch.int16).view(TORCH[dtype])
    generator = torch.Generator().manual_seed(7)
    patterns = torch.randint(-(2**31), 2**31, (50_000,), generator=generator, dtype=torch.int64).to(torch.int32)
    ties = torch.arange(-(2**15), 2**15, dtype=torch.int32) * 2**16 + 2**15
    singles = torch.cat([patterns, ties, ties + 1, ties - 1]).view(torch.float32)
    if dtype == "F32":
        return singles
    return torch.cat([singles.double(), singles.double() * (1 + 2**-40), singles.double() * (1 - 2**-40)])


@pytest.mark.parametrize("target", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("source", ["BF16", "F16", "F32", "F64"])
def test_casts_equal_torch_bit_for_bit(arithmetic, source: str, target: str):
    x = numbers(source)
    wanted = nearest(x, TORCH[target]) if source == "F64" and target != "F32" else x.to(TORCH[target])
    overflow = torch.isinf(wanted) & torch.isfinite(x)
    keep = ~overflow
    out = cast_bytes(memoryview(raw(x[keep])), source, target)
    got = torch.frombuffer(bytearray(out), dtype=TORCH[target])
    nan = torch.isnan(x[keep])
    assert torch.isnan(got[nan]).all()
    assert raw(got[~nan]) == raw(wanted[keep][~nan])
    if overflow.any():
        with pytest.raises(CastOverflow):
            cast_bytes(memoryview(raw(x[overflow][:1])), source, target)
    if is_exact(source, target):
        assert torch.equal(got[~nan].double(), x[keep][~nan].double())
    else:
        assert overflow.any() or not torch.equal(got[~nan].double(), x[keep][~nan].double())


@pytest.mark.slow
@pytest.mark.parametrize("source", ["F16", "F32", "F64"])
def test_numbers_of_the_size_of_weights_are_rounded_to_bfloat16(arithmetic, source: str):
    """No NaN and nothing near the largest number, which a cast without numpy treats apart."""
    x = numbers(source)
    x = x[x.abs() < 1e37]
    wanted = nearest(x, torch.bfloat16) if source == "F64" else x.bfloat16()
    assert bytes(cast_bytes(memoryview(raw(x)), source, "BF16")) == raw(wanted)


def nearest(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The nearest number of a 16-bit type; torch itself goes through float32 and so rounds twice."""
    roughly = x.to(dtype)
    bits = roughly.view(torch.int16)
    near = torch.stack([bits - 1, bits, bits + 1]).view(dtype)
    distance = (near.double() - x).abs()
    distance[torch.isnan(distance)] = torch.inf
    even = (near.view(torch.int16) & 1) == 0
    choice = torch.where(distance == distance.min(dim=0).values, torch.where(even, 2, 1), 0).argmax(dim=0)
    return torch.where(torch.isfinite(roughly), near.gather(0, choice[None])[0], roughly)


def one_tensor(folder: Path, t: torch.Tensor):
    save_file({"a": torch.zeros(3), "x": t}, folder / "t.safetensors")
    return read_header(folder / "t.safetensors").tensors["x"]


@settings(max_examples=examples(0.4), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.integers(1, 40), width=st.integers(1, 9), chunk=st.sampled_from([8, 16, 24, 4096]), data=st.data())
def test_rows_in_any_order_with_any_buffer(tmp_path, monkeypatch, rows, width, chunk, data):
    order = data.draw(st.permutations(range(rows)))
    x = torch.randn(rows, width)
    ref = reordered(one_tensor(tmp_path, x), order, 4 * width)
    monkeypatch.setattr(writer, "CHUNK", chunk)
    assert read(ref) == raw(x[list(order)])
    monkeypatch.setattr(writer, "CHUNK", 8 * chunk)
    assert read(cast(ref, "BF16")) == raw(x[list(order)].bfloat16())


def test_columns_move_inside_every_row(tmp_path: Path):
    x = torch.randn(5, 12)
    ref = reordered(one_tensor(tmp_path, x), [2, 0, 1], 4 * 4)
    assert read(ref) == raw(torch.cat([x[:, 8:], x[:, :4], x[:, 4:8]], dim=1))
    assert how_derived(ref) == "reordered"
    assert how_derived(cast(ref, "F16")) == "reordered, cast from F32"


def test_an_order_that_changes_nothing_is_a_copy(tmp_path: Path):
    ref = one_tensor(tmp_path, torch.randn(4, 2))
    assert not isinstance(reordered(ref, range(4), 8), DerivedRef)
    assert not isinstance(cast(ref, "F32"), DerivedRef)
    with pytest.raises(TensorError, match="not made of blocks"):
        reordered(ref, [1, 0, 2], 8)


def test_a_source_that_shrinks_is_noticed(tmp_path: Path):
    ref = one_tensor(tmp_path, torch.randn(4, 2))
    with (tmp_path / "t.safetensors").open("r+b") as f:
        f.truncate(ref.offset + 9)
    for derived in (ref, reordered(ref, [1, 0, 2, 3], 8), cast(ref, "F16")):
        with pytest.raises(CheckpointError, match="shorter"):
            read(derived)


@pytest.mark.slow
def test_memory_stays_flat_whatever_is_done_on_the_way(tmp_path: Path):
    """400 MB of tensor, reordered and cast, in a quarter of that."""
    rows, width = 50_000, 2000
    header = b'{"x":{"dtype":"F32","shape":[%d,%d],"data_offsets":[0,%d]}}' % (rows, width, 4 * rows * width)
    with (tmp_path / "big.safetensors").open("wb") as f:
        f.write(len(header).to_bytes(8, "little") + header)
        f.truncate(8 + len(header) + 4 * rows * width)
    code = (
        "import sys, pathlib\n"
        "from eagle3hub.checkpoint.writer import cast, reordered\n"
        "from eagle3hub.checkpoint.safetensors import read_header\n"
        "from eagle3hub.checkpoint.writer import OpenFiles, stream\n"
        "ref = read_header(pathlib.Path(sys.argv[1])).tensors['x']\n"
        f"ref = cast(reordered(ref, range({rows - 1}, -1, -1), {4 * width}), 'F16')\n"
        "with OpenFiles() as files: print(sum(len(c) for c in stream(ref, files)))\n"
        "print(next(x for x in open('/proc/self/status') if x.startswith('VmHWM')).split()[1])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "big.safetensors")], capture_output=True, text=True, check=True
    )
    nbytes, peak = map(int, done.stdout.split())
    assert nbytes == 2 * rows * width
    assert peak < 100_000


def test_files_are_closed(tmp_path: Path):
    ref = one_tensor(tmp_path, torch.randn(4, 2))
    open_now = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        read(cast(ref, "F16"))
    assert len(list(Path("/proc/self/fd").iterdir())) == open_now
    assert load_file(tmp_path / "t.safetensors")["x"].shape == (4, 2)
