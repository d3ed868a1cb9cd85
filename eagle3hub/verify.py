"""Hold a written folder against the head it was written from."""

from __future__ import annotations

from pathlib import Path

from eagle3hub.checkpoint.folder import open_checkpoint
from eagle3hub.checkpoint.streaming import CHUNK, OpenFiles, fill, stream
from eagle3hub.errors import OutputError
from eagle3hub.head import Head, TensorRef
from eagle3hub.layouts import get_layout
from eagle3hub.layouts.base import AS_FOUND, Spelled
from eagle3hub.layouts.prepare import prepared
from eagle3hub.progress import Progress, silent


def verify_folder(folder: Path, head: Head, layout: str, spelled: Spelled, progress: Progress = silent) -> None:
    """Read ``folder`` back as ``layout`` and compare it with ``head``: everything it means, every tensor's bytes.

    ``spelled`` is what was to be written: its ``origin`` maps names on disk to the head's canonical names (None for
    vocabulary buffers, whose bytes it holds). The weights are opened by the safetensors library as well. Raises
    OutputError naming the first difference.
    """
    codec = get_layout(layout)
    checkpoint = open_checkpoint(folder)
    back = codec.read(prepared(checkpoint, AS_FOUND), AS_FOUND)
    names = _names_by_the_library(checkpoint.weights)
    if names != set(spelled.origin) or names != set(checkpoint.tensors):
        raise _differs(f"the safetensors library sees {sorted(names ^ set(spelled.origin))[:3]} differently")
    if back.dims != head.dims or back.semantics != head.semantics:
        raise _differs("config.json does not say what the source says")
    if codec.contract.aux_ids is not None and _taps(back) not in (_taps(head), None):
        raise _differs(f"the aux layers read back as {_taps(back)}")
    if back.mask_token_id not in (head.mask_token_id, None):
        raise _differs(f"mask_token_id reads back as {back.mask_token_id}")
    wanted = None if head.vocab_map is None else head.vocab_map.target_id
    if (
        None if back.vocab_map is None else back.vocab_map.target_id
    ) != wanted or back.vocab_status != head.vocab_status:
        raise _differs("the vocabulary map reads back differently")
    if set(back.tensors) != set(head.tensors):
        raise _differs(f"tensors {sorted(set(back.tensors) ^ set(head.tensors))[:3]} are on one side only")
    on_disk = {ref.name: canonical for canonical, ref in back.tensors.items()}
    for name, canonical in spelled.origin.items():
        if canonical is not None and on_disk.get(name) != canonical:
            raise _differs(f"{name} reads back as {on_disk.get(name)}")
    expected: dict[str, TensorRef | bytes] = {back.tensors[n].name: ref for n, ref in head.tensors.items()}
    expected |= {t.name: t.data for t in spelled.tensors if spelled.origin[t.name] is None}
    for path in checkpoint.weights:
        _compare_file(path, checkpoint.tensors, expected, progress)


def _names_by_the_library(weights: tuple[Path, ...]) -> set[str]:
    from safetensors import safe_open

    names: set[str] = set()
    for path in weights:
        with safe_open(str(path), framework="np") as f:
            names |= set(f.keys())
    return names


def _compare_file(
    path: Path, tensors: dict[str, TensorRef], expected: dict[str, TensorRef | bytes], progress: Progress
) -> None:
    """Compare every tensor in ``path`` with what it should be."""
    inside = sorted((t for t in tensors.values() if t.path == path), key=lambda t: (t.offset, t.nbytes))
    size = path.stat().st_size
    buffer = bytearray(CHUNK)
    with OpenFiles() as files:
        for ref in inside:
            progress("verifying every tensor", ref.offset / size)
            source = expected[ref.name]
            if not isinstance(source, bytes) and (ref.dtype, ref.shape) != (source.dtype, source.shape):
                raise _differs(f"{ref.name} is {ref.dtype} {list(ref.shape)}")
            at = 0
            for chunk in _slices(source) if isinstance(source, bytes) else stream(source, files):
                count = len(chunk)
                if at + count > ref.nbytes:
                    raise _differs(f"{ref.name} is {ref.nbytes} bytes long")
                fill(files[path], memoryview(buffer)[:count], ref.offset + at)
                if (buffer if count == len(buffer) else buffer[:count]) != chunk:
                    raise _differs(f"the bytes of {ref.name} differ from the source")
                at += count
            if at != ref.nbytes:
                raise _differs(f"{ref.name} is {ref.nbytes} bytes long")


def _slices(data: bytes) -> list[memoryview]:
    view = memoryview(data)
    return [view[i : i + CHUNK] for i in range(0, len(view), CHUNK)]


def _taps(head: Head) -> tuple[object, ...] | None:
    return None if head.aux is None else head.aux.taps


def _differs(what: str) -> OutputError:
    return OutputError(
        f"verification failed: {what}; nothing was kept",
        hint="run it again; if it fails again, the disk or this tool is at fault: please report it",
        code="output-verify",
    )
