"""Verify a written folder against the head it was written from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from eagle3hub.checkpoint.folder import Checkpoint, open_checkpoint
from eagle3hub.checkpoint.numbers import numpy
from eagle3hub.checkpoint.safetensors import TensorRef
from eagle3hub.checkpoint.writer import DerivedRef, OpenFiles, Range, fill, stream
from eagle3hub.errors import OutputError
from eagle3hub.head import Head
from eagle3hub.layouts import get_layout, read_head
from eagle3hub.layouts.base import LayoutFiles
from eagle3hub.layouts.tensors import output_biases, same_shape
from eagle3hub.system.progress import Progress, silent

_THREADS = 2
_PART = 32 << 20
_STEP = 1 << 20
NOTHING_SHARED: Mapping[Path, Sequence[Range]] = {}
"""The ranges of a folder that shares no blocks with its source."""


def read_back(folder: Path, layout: str) -> tuple[Checkpoint, Head]:
    """Open a written folder as ``layout``: what was opened, and the head in it, which is not settled yet."""
    checkpoint = open_checkpoint(folder)
    return checkpoint, read_head(checkpoint, get_layout(layout))


def verify_folder(
    folder: Path,
    head: Head,
    layout: str,
    written: LayoutFiles,
    progress: Progress = silent,
    files: OpenFiles | None = None,
    shared: Mapping[Path, Sequence[Range]] = NOTHING_SHARED,
) -> tuple[Checkpoint, Head]:
    """Read ``folder`` back as ``layout`` and compare its meaning, and every tensor's bytes, with ``head``.

    ``written`` is what the folder should hold. Its ``origin`` maps names on disk to the head's canonical names, or to
    None for vocabulary buffers, whose bytes ``written`` holds. The safetensors library opens the weights too, where
    numpy is installed, without which it opens nothing.
    ``files`` are the source's, where they are open. ``shared`` are ranges of the written files that are the source's
    own blocks, which need no comparison. Returns what `read_back` does. Raises OutputError, which names the
    first difference.
    """
    checkpoint, back = read_back(folder, layout)
    names = _names_by_the_library(checkpoint.weights) if numpy() else set(checkpoint.tensors)
    if names != set(written.origin) or names != set(checkpoint.tensors):
        raise _differs(f"the safetensors library sees {sorted(names ^ set(written.origin))[:3]} differently")
    if back.dims != head.dims or back.semantics != head.semantics:
        raise _differs("config.json does not say what the source says")
    if get_layout(layout).contract.aux_ids is not None and _taps(back) not in (_taps(head), None):
        raise _differs(f"the aux layers read back as {_taps(back)}")
    if back.mask_token_id not in (head.mask_token_id, None):
        raise _differs(f"mask_token_id reads back as {back.mask_token_id}")
    wanted = None if head.vocab_map is None else head.vocab_map.target_id
    if (
        None if back.vocab_map is None else back.vocab_map.target_id
    ) != wanted or back.vocab_status != head.vocab_status:
        raise _differs("the vocabulary map reads back differently")
    wanted_names = set(head.tensors) | set(output_biases(head))
    if set(back.tensors) != wanted_names:
        raise _differs(f"tensors {sorted(set(back.tensors) ^ wanted_names)[:3]} are on one side only")
    on_disk = {ref.name: canonical for canonical, ref in back.tensors.items()}
    for name, canonical in written.origin.items():
        if canonical is not None and on_disk.get(name) != canonical:
            raise _differs(f"{name} reads back as {on_disk.get(name)}")
    expected: dict[str, TensorRef | bytes] = {back.tensors[n].name: ref for n, ref in head.tensors.items()}
    expected |= {t.name: t.data for t in written.tensors if written.origin[t.name] is None}
    with nullcontext(files) if files is not None else OpenFiles() as opened:
        _compare(checkpoint, expected, opened, progress, shared)
    return checkpoint, back


def _names_by_the_library(weights: tuple[Path, ...]) -> set[str]:
    from safetensors import safe_open

    names: set[str] = set()
    for path in weights:
        with safe_open(str(path), framework="np") as f:
            names |= set(f.keys())
    return names


def _compare(
    checkpoint: Checkpoint,
    expected: Mapping[str, TensorRef | bytes],
    files: OpenFiles,
    progress: Progress,
    shared: Mapping[Path, Sequence[Range]],
) -> None:
    """Compare every tensor with what it should be, in the order of the files, a few at a time in parallel."""
    found = sorted(checkpoint.tensors.values(), key=lambda t: (t.path, t.offset, t.nbytes))
    done = told = 0
    fds = {path: files[path] for path in checkpoint.weights}
    for path in {source.path for source in expected.values() if not isinstance(source, bytes)}:
        files[path]  # open it here, not in one of the threads
    parts = [
        part
        for ref in found
        for part in _parts(ref, expected[ref.name], fds[ref.path], files, shared.get(ref.path, ()))
    ]
    total = sum(part.nbytes for part in parts) or 1
    with ThreadPoolExecutor(_THREADS) as pool:
        for count in pool.map(_compare_part, parts):
            done += count
            if done - told >= _STEP or done == total:
                progress("verifying every tensor", done / total)
                told = done


@dataclass(frozen=True, slots=True)
class _Part:
    """``nbytes`` bytes at ``offset`` of the file open as ``fd``, and the bytes they should be."""

    name: str
    fd: int
    offset: int
    nbytes: int
    expected: Iterable[memoryview]


def _parts(
    ref: TensorRef, source: TensorRef | bytes, fd: int, files: OpenFiles, shared: Sequence[Range]
) -> Iterator[_Part]:
    """Yield the tensor ``ref`` of the file open as ``fd``, without what is shared, in independent parts."""
    if isinstance(source, bytes):
        yield _Part(ref.name, fd, ref.offset, ref.nbytes, [memoryview(source)])
        return
    alike = ref.shape == source.shape or same_shape(ref.name.removeprefix("model."), ref.shape, source.shape)
    if not alike or (ref.dtype, ref.nbytes) != (source.dtype, source.nbytes):
        raise _differs(f"{ref.name} is {ref.dtype} {list(ref.shape)}")
    if isinstance(source, DerivedRef):
        yield _Part(ref.name, fd, ref.offset, ref.nbytes, stream(source, files))
        return
    for start, end in _unshared(ref, shared):
        for at in range(start, end, _PART):
            count = min(_PART, end - at)
            piece = source if count == source.nbytes else replace(source, offset=source.offset + at, nbytes=count)
            yield _Part(ref.name, fd, ref.offset + at, count, stream(piece, files))


def _unshared(ref: TensorRef, shared: Sequence[Range]) -> Iterator[tuple[int, int]]:
    """Yield the stretches of a tensor's bytes, by start and end, that lie in none of the ranges (in order)."""
    at = 0
    for found in shared:
        start, end = found.offset - ref.offset, found.offset + found.count - ref.offset
        if start > at and start < ref.nbytes:
            yield at, start
        if end > at and start < ref.nbytes:
            at = end
    if at < ref.nbytes:
        yield at, ref.nbytes


def _compare_part(part: _Part) -> int:
    """Compare one part and return its number of bytes. Raises OutputError if they differ."""
    buffer = bytearray()
    at = 0
    for chunk in part.expected:
        if len(chunk) != len(buffer):
            buffer = bytearray(len(chunk))
        if at + len(chunk) > part.nbytes:
            raise _differs(f"{part.name} is too short")
        try:
            fill(part.fd, memoryview(buffer), part.offset + at)
        except EOFError:
            raise _differs(f"the file ends within {part.name}") from None
        if buffer != chunk:
            raise _differs(f"the bytes of {part.name} differ from the source")
        at += len(chunk)
    if at != part.nbytes:
        raise _differs(f"{part.name} is too long")
    return at


def _taps(head: Head) -> tuple[object, ...] | None:
    return None if head.aux is None else head.aux.taps


def _differs(what: str) -> OutputError:
    return OutputError(
        f"verification failed: {what}; nothing was kept",
        hint="run it again; if it fails again, the disk or this tool is at fault: please report it",
        code="output-verify",
    )
