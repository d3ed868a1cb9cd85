"""Write safetensors files: ranges of the source are copied by the kernel, changed tensors are streamed."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import re
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eagle3hub.checkpoint.numbers import CastOverflow, cast_bytes
from eagle3hub.checkpoint.safetensors import BITS, TensorRef
from eagle3hub.checkpoint.source import WEIGHTS
from eagle3hub.errors import CheckpointError, Hint, TensorError, UsageError
from eagle3hub.system.documents import document_bytes
from eagle3hub.system.progress import Progress, silent
from eagle3hub.system.reading import open_regular, wait_for_disk

# Tensors that are computed from others while they are copied: pieces in another order, or another dtype.
#
# A derived tensor holds no data. `eagle3hub.checkpoint.writer` produces its bytes a few megabytes at a time, so
# that writing it and verifying it need the same small buffers as a copy.


@dataclass(frozen=True, slots=True, kw_only=True)
class DerivedRef(TensorRef):
    """A tensor made of the bytes of ``source``: first its pieces are reordered, then the numbers are cast.

    ``path`` and ``offset`` are those of the source; ``dtype`` and ``nbytes`` are those of the result.

    Attributes:
        source: where the bytes lie, as they are on disk.
        order: the source is cut into blocks of ``len(order)`` pieces of ``piece`` bytes; piece i of a block of the
            result is piece ``order[i]`` of that block. Empty where nothing is reordered.
        piece: bytes of a piece, in the source's dtype.
    """

    source: TensorRef
    order: tuple[int, ...] = ()
    piece: int = 0


def reordered(ref: TensorRef, order: Sequence[int], piece: int) -> TensorRef:
    """``ref`` with its pieces of ``piece`` bytes reordered inside every block of ``len(order)`` pieces.

    Raises TensorError where the blocks do not divide the tensor, ValueError where it is derived already.
    """
    order = tuple(order)
    if sorted(order) != list(range(len(order))):
        raise ValueError("order is not a permutation")
    if isinstance(ref, DerivedRef):
        raise ValueError(f"{ref.name} can only be reordered as it is in the source")
    if not order or not piece or ref.nbytes % (piece * len(order)):
        raise TensorError(
            f"{ref.name} ({ref.nbytes} bytes) is not made of blocks of {len(order)} pieces of {piece} bytes",
            code="tensor-shape",
        )
    if order == tuple(range(len(order))):
        return ref
    place = (ref.name, ref.dtype, ref.shape, ref.path, ref.offset, ref.nbytes)
    return DerivedRef(*place, source=ref, order=order, piece=piece)


def cast(ref: TensorRef, dtype: str) -> TensorRef:
    """``ref`` as ``dtype`` (F16, BF16 or F32), rounded to nearest even."""
    if ref.dtype == dtype:
        return ref
    nbytes = ref.num_elements * BITS[dtype] // 8
    if isinstance(ref, DerivedRef):
        return replace(ref, dtype=dtype, nbytes=nbytes)
    return DerivedRef(ref.name, dtype, ref.shape, ref.path, ref.offset, nbytes, source=ref)


def how_derived(ref: TensorRef) -> str:
    """What happens to a tensor's bytes while they are copied, in words."""
    if not isinstance(ref, DerivedRef):
        return "copied"
    steps = ["reordered"] if ref.order else []
    steps += [f"cast from {ref.source.dtype}"] if ref.source.dtype != ref.dtype else []
    return ", ".join(steps)


# The bytes of a tensor, a few megabytes at a time, whether they are copied or computed on the way.


CHUNK = 512 << 10
"""The longest chunk; small enough to stay in a processor's cache between two uses."""


class OpenFiles:
    """File descriptors for reading, opened once each and closed together."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._fds: dict[Path, int] = {}

    def __enter__(self) -> OpenFiles:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __getitem__(self, path: Path) -> int:
        if path not in self._fds:
            self._fds[path] = open_regular(path)
            self._stack.callback(os.close, self._fds[path])
        return self._fds[path]


def fill(fd: int, buffer: memoryview, offset: int) -> None:
    """Read exactly ``len(buffer)`` bytes at ``offset``. Raises EOFError if the file ends before."""
    done = 0
    while done < len(buffer):
        n = os.preadv(fd, [buffer[done:]], offset + done)
        if n == 0:
            raise EOFError
        done += n


def stream(ref: TensorRef, files: OpenFiles) -> Iterator[memoryview]:
    """Yield the bytes of ``ref`` in order, at most `CHUNK` at a time; a chunk is only valid until the next one.

    Raises CheckpointError if the file has become shorter since its header was read, and TensorError where a cast
    overflows.
    """
    try:
        if not isinstance(ref, DerivedRef):
            yield from _copied(ref, files, CHUNK)
        elif ref.dtype == ref.source.dtype:
            yield from _pieces(ref, files, CHUNK)
        else:  # chunks of the source small enough that a cast to the double width stays within CHUNK
            part = CHUNK // 8
            raw = _pieces(ref, files, part) if ref.order else _copied(ref.source, files, part)
            for chunk in raw:
                yield cast_bytes(chunk, ref.source.dtype, ref.dtype)
    except EOFError:
        raise CheckpointError(f"{ref.path} became shorter while it was read", code="checkpoint-truncated") from None
    except CastOverflow as e:
        raise TensorError(
            f"{ref.name} holds {e.value:g}, which {ref.dtype} cannot hold",
            hint=Hint("choose --dtype bf16 or fp32, which have the range", "--dtype"),
            code="tensor-overflow",
        ) from None


def _copied(ref: TensorRef, files: OpenFiles, limit: int) -> Iterator[memoryview]:
    buffer = memoryview(bytearray(min(limit, ref.nbytes)))
    for at in range(0, ref.nbytes, limit):
        chunk = buffer[: min(limit, ref.nbytes - at)]
        fill(files[ref.path], chunk, ref.offset + at)
        yield chunk


def _pieces(ref: DerivedRef, files: OpenFiles, limit: int) -> Iterator[memoryview]:
    source, fd = ref.source, files[ref.path]
    buffer = memoryview(bytearray(min(limit, source.nbytes)))
    used = 0
    block = ref.piece * len(ref.order)
    runs = list(_runs(ref.order, ref.piece))
    for start in range(source.offset, source.offset + source.nbytes, block):
        for begin, length in runs:
            at, left = start + begin, length
            while left:
                n = min(left, len(buffer) - used)
                fill(fd, buffer[used : used + n], at)
                used, at, left = used + n, at + n, left - n
                if used == len(buffer):
                    yield buffer
                    used = 0
    if used:
        yield buffer[:used]


def _runs(order: tuple[int, ...], piece: int) -> Iterator[tuple[int, int]]:
    """(offset, bytes) of each stretch of pieces that lie one after the other in the source."""
    first = 0
    for i in range(1, len(order) + 1):
        if i == len(order) or order[i] != order[i - 1] + 1:
            yield order[first] * piece, (i - first) * piece
            first = i


# Linux system calls that Python does not offer; where the system lacks one, nothing is done.


_NO_SUCH_CALL = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}
_SYNC_FILE_RANGE_WRITE = 2


def reserve(fd: int, size: int) -> None:
    """Give a new file its ``size`` bytes at once, which makes writing it faster, where the file system can.

    Calls ``fallocate(2)`` and not ``posix_fallocate(3)``: the latter writes into every block where a file system has
    no such call. Raises OSError where there is no room.
    """
    call = _function("fallocate64", ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    while call is not None and call(fd, 0, 0, size) != 0:
        number = ctypes.get_errno()
        if number in _NO_SUCH_CALL:
            return
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))


def start_writing(fd: int, offset: int, count: int) -> None:
    """Start writing a range of a file to the disk, without waiting (``sync_file_range(2)``).

    This promises nothing: only ``fsync`` tells whether the data arrived, and reports errors from here.
    """
    call = _function("sync_file_range", ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    if call is not None:
        call(fd, offset, count, _SYNC_FILE_RANGE_WRITE)


def _function(name: str, *argtypes: Any) -> Any:
    call = getattr(ctypes.CDLL(None, use_errno=True), name, None)
    if call is not None:
        call.argtypes = argtypes
    return call


# Share blocks between files, where the file system can (XFS, btrfs): the bytes are there at once, and take no room
# until one of the two files is changed.
#
# ``FICLONERANGE`` takes whole blocks only, so a tensor's offsets in the two files must agree modulo the block. A
# safetensors header may end in spaces (its JSON may), which moves the data to where they do.


_FICLONERANGE = 0x4020940D
_CANNOT_SHARE = {
    *(
        errno.EOPNOTSUPP,
        errno.EXDEV,
        errno.EINVAL,
        errno.ENOTTY,
        errno.ENOSYS,
        errno.EPERM,
        errno.ETXTBSY,
        errno.EISDIR,
    )
}
_LARGEST_BLOCK = 64 << 10
_WORTH_IT = 1 << 20
"""Fewer bytes than this are copied: a header that every machine writes the same is worth more."""


@dataclass(frozen=True, slots=True)
class Range:
    """``count`` bytes at ``offset`` of a file."""

    offset: int
    count: int


def share_range(src: int, src_offset: int, dst: int, dst_offset: int, count: int) -> bool:
    """Make whole blocks of ``dst`` the same as those of ``src``; False where the file system cannot.

    Raises OSError for anything but that, such as a full disk.
    """
    try:
        fcntl.ioctl(dst, _FICLONERANGE, struct.pack("qQQQ", src, src_offset, count, dst_offset))
    except OSError as e:
        if e.errno in _CANNOT_SHARE:
            return False
        raise
    return True


def shared_block(src: int, folder: Path) -> int:
    """Size of the blocks that a file in ``folder`` can share with the open file ``src``; 0 where it cannot."""
    unnamed = getattr(os, "O_TMPFILE", None)
    if unnamed is None:  # not Linux
        return 0
    try:
        probe = os.open(folder, unnamed | os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        block = os.fstatvfs(probe).f_frsize
        able = 0 < block <= _LARGEST_BLOCK and os.fstat(src).st_size >= block
        return block if able and share_range(src, 0, probe, 0, block) else 0
    except OSError:
        return 0
    finally:
        os.close(probe)


def _shareable(offset: int, count: int, block: int) -> Range:
    """The whole blocks in a range of a file."""
    start = -(-offset // block) * block
    return Range(start, max(0, (offset + count) // block * block - start))


def aligned(shard: Shard, block: int) -> Shard:
    """The shard with spaces at the end of its header, so that most bytes lie as in their source modulo ``block``.

    It stays as it is where that would share next to nothing, or where the data would not begin at a multiple of 8.
    """
    gain: dict[int, int] = {}
    at = len(shard.header)
    for run in _copied_runs(shard.tensors):
        first, count = run[0].data, sum(t.nbytes for t in run)
        if type(first) is TensorRef and (first.offset - at) % 8 == 0:
            spaces = (first.offset - at) % block
            gain[spaces] = gain.get(spaces, 0) + _shareable(first.offset, count, block).count
        at += count
    spaces = max(gain, key=lambda n: (gain[n], -n), default=0)
    if gain.get(spaces, 0) < _WORTH_IT:
        return shard
    text = shard.header[8:] + b" " * spaces
    return replace(shard, header=len(text).to_bytes(8, "little") + text)


# Move byte ranges between files, and write them.


_THREADS = 2
_PIECE = 8 << 20
_BUFFER = 256 << 10


def copy_range(src: int, src_offset: int, dst: int, dst_offset: int, count: int, grown: Callable[[int], None]) -> None:
    """Copy ``count`` bytes between two open files: one thread reads while another writes.

    ``grown`` is called now and then with the offset of ``dst`` up to which everything has been copied.

    A safetensors header moves the data to offsets that no longer agree in the two files' pages, where
    ``copy_file_range`` neither shares blocks nor copies faster than this. Raises OSError as the system does, and
    EOFError if the source ends early.
    """

    def piece(at: int) -> int:
        size = min(_PIECE, count - at)
        _copy(src, src_offset + at, dst, dst_offset + at, size)
        return at + size

    with ThreadPoolExecutor(_THREADS) as pool:
        for end in pool.map(piece, range(0, count, _PIECE)):
            grown(dst_offset + end)


def _copy(src: int, src_offset: int, dst: int, dst_offset: int, count: int) -> None:
    buffer = memoryview(bytearray(min(_BUFFER, count)))
    for at in range(0, count, _BUFFER):
        part = buffer[: min(_BUFFER, count - at)]
        fill(src, part, src_offset + at)
        write_all(dst, part, dst_offset + at)


def write_all(fd: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of ``data`` at ``offset``."""
    view = memoryview(data)
    done = 0
    while done < len(view):
        done += os.pwrite(fd, view[done:], offset + done)


# Flush files to the disk while they are still being written.


_STEP = 64 << 20


class GrowingFile:
    """A file that is written from start to end while its data is flushed to the disk."""

    def __init__(self, fd: int, pool: ThreadPoolExecutor) -> None:
        self._fd = os.dup(fd)
        self._pool = pool
        self._begun = 0
        self._flushed: Future[None] | None = None

    def grow(self, written: int) -> None:
        """Report that the first ``written`` bytes are in the file."""
        if written - self._begun >= _STEP:
            self._pool.submit(start_writing, self._fd, self._begun, written - self._begun)
            self._begun = written

    def complete(self) -> None:
        """Report that the file is complete."""
        self._flushed = self._pool.submit(wait_for_disk, self._fd)

    def wait(self) -> None:
        """Return once the complete file is on the disk. Raises OSError where it could not be written."""
        if self._flushed is not None:
            self._flushed.result()

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._fd)


class Flushing:
    """Flushes files to the disk, one after the other, in a thread of its own.

    Leaving the context finishes the flush that has begun and drops the rest.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1)
        self._files: list[GrowingFile] = []

    def __enter__(self) -> Flushing:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        for file in self._files:
            file.close()

    def file(self, fd: int) -> GrowingFile:
        """Add a new file, open as ``fd``; the caller may close ``fd`` at any time."""
        self._files.append(GrowingFile(fd, self._pool))
        return self._files[-1]

    def wait(self) -> None:
        """Return once all files are on the disk. Raises OSError where one could not be written."""
        for file in self._files:
            file.wait()


# Write a safetensors file by copying byte ranges; peak memory does not grow with the file.


@dataclass(frozen=True, slots=True)
class OutTensor:
    """A tensor to write: bytes of another file, as they are or derived, or a few bytes computed here."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: TensorRef | bytes

    @property
    def nbytes(self) -> int:
        """Size of the data in bytes."""
        return len(self.data) if isinstance(self.data, bytes) else self.data.nbytes


_RANK = {name: rank for rank, name in enumerate(BITS)}


def in_file_order(tensors: Sequence[OutTensor]) -> list[OutTensor]:
    """The tensors in the order the safetensors library writes them, so that our files equal its files."""
    return sorted(tensors, key=lambda t: (-_RANK[t.dtype], t.name))


def described(tensors: Sequence[OutTensor]) -> list[dict[str, Any]]:
    """Tensors to write as the provenance file lists them.

    ``from`` is a tensor's name in the source (None for a computed one), ``how`` what happens to its bytes on the way.
    """
    return [
        {
            "name": t.name,
            "from": None if isinstance(t.data, bytes) else t.data.name,
            "how": "computed" if isinstance(t.data, bytes) else how_derived(t.data),
            "dtype": t.dtype,
            "shape": list(t.shape),
        }
        for t in tensors
    ]


def encode_header(tensors: Sequence[OutTensor], metadata: Mapping[str, str] | None) -> bytes:
    """Length field and JSON, padded to 8 bytes, for tensors that follow in the given order."""
    header: dict[str, object] = {} if metadata is None else {"__metadata__": dict(metadata)}
    at = 0
    for t in tensors:
        header[t.name] = {"dtype": t.dtype, "shape": list(t.shape), "data_offsets": [at, at + t.nbytes]}
        at += t.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def write_safetensors(
    path: Path,
    shard: Shard,
    files: OpenFiles,
    flushing: Flushing | None,
    progress: Progress = silent,
    block: int = 0,
) -> list[Range]:
    """Write a shard to ``path`` (which must not exist), from the source's ``files``.

    ``flushing``, if given, flushes it to the disk at the same time. Neighbouring ranges of the same source are copied
    as one; where their offsets agree modulo ``block`` (0: nowhere), the file shares them with its source. Returns the
    ranges that it shares. Raises OSError from the file system, CheckpointError if a source file has become shorter
    since its header was read, TensorError where a cast overflows.
    """
    header, total = shard.header, shard.nbytes
    shared: list[Range] = []
    with ExitStack() as stack:
        out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        stack.callback(os.close, out)
        if block:
            os.ftruncate(out, len(header) + total)
        else:
            reserve(out, len(header) + total)
        write_all(out, header, 0)
        at = len(header)
        growing = None if flushing is None else flushing.file(out)
        grown = _ignore_growth if growing is None else growing.grow
        for run in _copied_runs(shard.tensors):
            progress(f"writing {path.name}", (at - len(header)) / (total or 1))
            first = run[0].data
            if isinstance(first, bytes):
                write_all(out, first, at)
            elif isinstance(first, DerivedRef):
                _write_stream(out, first, at, files)
            else:
                count = sum(t.nbytes for t in run)
                try:
                    shared += _share_or_copy(files[first.path], first.offset, out, at, count, block, grown)
                except EOFError:
                    raise CheckpointError(
                        f"{first.path} became shorter while it was copied", code="checkpoint-truncated"
                    ) from None
            at += sum(t.nbytes for t in run)
            grown(at)
        if growing is not None:
            growing.complete()
    return shared


def _share_or_copy(
    src: int, src_offset: int, dst: int, dst_offset: int, count: int, block: int, grown: Callable[[int], None]
) -> list[Range]:
    """Copy bytes between two open files, but share the whole blocks where offsets agree; returns what is shared."""
    if not block or (src_offset - dst_offset) % block:
        copy_range(src, src_offset, dst, dst_offset, count, grown)
        return []
    whole = _shareable(dst_offset, count, block)
    if os.fstat(src).st_size < src_offset + count:
        raise EOFError
    ahead = whole.offset - dst_offset
    if not whole.count or not share_range(src, src_offset + ahead, dst, whole.offset, whole.count):
        copy_range(src, src_offset, dst, dst_offset, count, grown)
        return []
    rest = ahead + whole.count
    for at, length in ((0, ahead), (rest, count - rest)):
        if length:
            _copy(src, src_offset + at, dst, dst_offset + at, length)
    return [whole]


def _ignore_growth(_written: int) -> None:
    """Ignore how much has been written: the file is not flushed."""


def _write_stream(out: int, ref: TensorRef, at: int, files: OpenFiles) -> None:
    for chunk in stream(ref, files):
        write_all(out, chunk, at)
        at += len(chunk)


def _copied_runs(tensors: Sequence[OutTensor]) -> list[list[OutTensor]]:
    """Group tensors whose source bytes lie one after the other."""
    runs: list[list[OutTensor]] = []
    for t in tensors:
        last = runs[-1][-1].data if runs else None
        if (
            type(t.data) is TensorRef
            and type(last) is TensorRef
            and last.path == t.data.path
            and last.offset + last.nbytes == t.data.offset
        ):
            runs[-1].append(t)
        else:
            runs.append([t])
    return runs


# Split a checkpoint into shards of bounded size, as the Hub's libraries do, and index them.


_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}


@dataclass(frozen=True, slots=True)
class Shard:
    """One weights file to write: its name, its header, its tensors in file order and their size in bytes."""

    name: str
    header: bytes
    tensors: list[OutTensor]
    nbytes: int


def split(tensors: Sequence[OutTensor], metadata: Mapping[str, str] | None, max_bytes: int | None) -> list[Shard]:
    """Cut tensors, in file order, into shards of at most ``max_bytes`` of data; ``metadata`` goes into every header.

    A single shard is called model.safetensors, several model-0000i-of-0000n.safetensors. A tensor larger than
    ``max_bytes`` gets a shard of its own.
    """
    parts: list[list[OutTensor]] = []
    size = 0
    for t in in_file_order(tensors):
        if not parts or (max_bytes is not None and size + t.nbytes > max_bytes):
            parts.append([])
            size = 0
        parts[-1].append(t)
        size += t.nbytes
    names = (
        [WEIGHTS]
        if len(parts) == 1
        else [f"model-{i:05d}-of-{len(parts):05d}.safetensors" for i in range(1, len(parts) + 1)]
    )
    return [
        Shard(name, encode_header(part, metadata), part, sum(t.nbytes for t in part))
        for name, part in zip(names, parts, strict=True)
    ]


def encode_index(shards: Sequence[Shard]) -> bytes:
    """The index that says which shard holds which tensor (transformers' ``model.safetensors.index.json``)."""
    weight_map = {t.name: shard.name for shard in shards for t in shard.tensors}
    total = sum(shard.nbytes for shard in shards)
    return document_bytes({"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))})


def parse_size(text: str) -> int:
    """Bytes from ``5GB``, ``500MB``, ``2GiB`` or a plain number. Raises UsageError."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(|[KMG]I?)B?\s*", text.upper())
    size = int(float(found[1]) * _UNITS[found[2]]) if found else 0
    if size < 1:
        raise UsageError(f"{text!r} is not a size", hint="write it like 5GB, 500MB or 2GiB", code="usage-size")
    return size
