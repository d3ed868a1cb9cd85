"""Hold a written folder against the head it was written from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from eagle3hub.checkpoint.copying import same_bytes
from eagle3hub.checkpoint.digest import FileDigest, file_digest, head_files
from eagle3hub.checkpoint.folder import WEIGHTS, open_checkpoint
from eagle3hub.errors import OutputError
from eagle3hub.head import Head
from eagle3hub.layouts import get_layout
from eagle3hub.progress import Progress, silent


def verify_folder(
    folder: Path, head: Head, layout: str, origin: Mapping[str, str | None], progress: Progress = silent
) -> list[FileDigest]:
    """Read ``folder`` back as ``layout`` and compare it with ``head``: everything it means, every tensor's bytes.

    ``origin`` maps the names on disk to the head's canonical names (None for vocabulary buffers). The weights are
    opened by the safetensors library as well. Returns the digests of the folder's files.
    Raises OutputError naming the first difference.
    """
    from safetensors import safe_open

    codec = get_layout(layout)
    back = codec.read(open_checkpoint(folder))
    with safe_open(str(folder / WEIGHTS), framework="np") as f:
        names = set(f.keys())
    if names != set(origin):
        raise _differs(f"the safetensors library sees {sorted(names ^ set(origin))[:3]} differently")
    if back.dims != head.dims or back.semantics != head.semantics:
        raise _differs("config.json does not say what the source says")
    if codec.contract.aux_ids is not None and _taps(back) not in (_taps(head), None):
        raise _differs(f"the aux layers read back as {_taps(back)}")
    wanted = None if head.vocab_map is None else head.vocab_map.target_id
    if (
        None if back.vocab_map is None else back.vocab_map.target_id
    ) != wanted or back.vocab_status != head.vocab_status:
        raise _differs("the vocabulary map reads back differently")
    with ThreadPoolExecutor(max_workers=1) as pool:
        digests = pool.submit(lambda: [file_digest(p) for p in head_files(folder)])
        _compare_bytes(back, head, progress)
        return digests.result()


def _compare_bytes(back: Head, head: Head, progress: Progress) -> None:
    if set(back.tensors) != set(head.tensors):
        raise _differs(f"tensors {sorted(set(back.tensors) ^ set(head.tensors))[:3]} are on one side only")
    total = sum(t.nbytes for t in head.tensors.values()) or 1
    done = 0
    with ExitStack() as stack:
        files: dict[Path, int] = {}
        for name, ref in head.tensors.items():
            progress("verifying every tensor", done / total)
            other = back.tensors[name]
            if (other.dtype, other.shape) != (ref.dtype, ref.shape):
                raise _differs(f"{other.name} is {other.dtype} {list(other.shape)}")
            for path in (ref.path, other.path):
                if path not in files:
                    files[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                    stack.callback(os.close, files[path])
            if not same_bytes(files[ref.path], ref.offset, files[other.path], other.offset, ref.nbytes):
                raise _differs(f"the bytes of {other.name} differ from the source")
            done += ref.nbytes


def _taps(head: Head) -> tuple[object, ...] | None:
    return None if head.aux is None else head.aux.taps


def _differs(what: str) -> OutputError:
    return OutputError(
        f"verification failed: {what}; nothing was kept",
        hint="run it again; if it fails again, the disk or this tool is at fault: please report it",
        code="output-verify",
    )
