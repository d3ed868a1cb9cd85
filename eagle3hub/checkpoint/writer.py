"""Write a safetensors file by copying byte ranges; peak memory does not grow with the file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from eagle3hub.checkpoint.copying import copy_range, write_all
from eagle3hub.checkpoint.derived import DerivedRef
from eagle3hub.checkpoint.dtypes import layout_key
from eagle3hub.checkpoint.flushing import Flushing
from eagle3hub.checkpoint.streaming import OpenFiles, stream
from eagle3hub.checkpoint.syscalls import reserve
from eagle3hub.checkpoint.tensors import TensorRef
from eagle3hub.errors import CheckpointError
from eagle3hub.progress import Progress, silent


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


def in_file_order(tensors: Sequence[OutTensor]) -> list[OutTensor]:
    """The tensors in the order the safetensors library would write them."""
    return sorted(tensors, key=lambda t: layout_key(t.dtype, t.name))


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
    tensors: Sequence[OutTensor],
    metadata: Mapping[str, str] | None,
    flushing: Flushing | None,
    progress: Progress = silent,
) -> None:
    """Write ``path`` (which must not exist); ``flushing``, where given, brings it to the disk meanwhile.

    Neighbouring ranges of the same source are copied as one. Raises OSError from the file system, CheckpointError
    if a source file has become shorter since its header was read, TensorError where a cast overflows.
    """
    ordered = in_file_order(tensors)
    header = encode_header(ordered, metadata)
    total = sum(t.nbytes for t in ordered)
    with ExitStack() as stack:
        files = stack.enter_context(OpenFiles())
        out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        stack.callback(os.close, out)
        reserve(out, len(header) + total)
        write_all(out, header, 0)
        at = len(header)
        growing = None if flushing is None else flushing.file(out)
        grown = _unheard if growing is None else growing.grow
        for run in _runs(ordered):
            progress(f"writing {path.name}", (at - len(header)) / (total or 1))
            first = run[0].data
            if isinstance(first, bytes):
                write_all(out, first, at)
            elif isinstance(first, DerivedRef):
                _write_stream(out, first, at, files)
            else:
                try:
                    copy_range(files[first.path], first.offset, out, at, sum(t.nbytes for t in run), grown)
                except EOFError:
                    raise CheckpointError(
                        f"{first.path} became shorter while it was copied", code="checkpoint-truncated"
                    ) from None
            at += sum(t.nbytes for t in run)
            grown(at)
        if growing is not None:
            growing.complete()


def _unheard(_written: int) -> None:
    """What becomes of how far a file has been written if it is not brought to the disk."""


def _write_stream(out: int, ref: TensorRef, at: int, files: OpenFiles) -> None:
    for chunk in stream(ref, files):
        write_all(out, chunk, at)
        at += len(chunk)


def _runs(tensors: Sequence[OutTensor]) -> list[list[OutTensor]]:
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
