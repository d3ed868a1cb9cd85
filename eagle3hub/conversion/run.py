"""Convert a head from any layout to any layout: read, plan, write, verify.

The plan says which bytes go where before anything is written; the result is verified by reading it back.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from threading import Thread
from typing import Any

from eagle3hub._version import __version__
from eagle3hub.checkpoint.destination import check_destination, require_space
from eagle3hub.checkpoint.digest import FileSize, file_digest, file_size, head_files
from eagle3hub.checkpoint.folder import BESIDE, fetch_weights
from eagle3hub.checkpoint.numbers import numpy
from eagle3hub.checkpoint.safetensors import TensorRef
from eagle3hub.checkpoint.source import CONFIG, PROVENANCE, unchanged
from eagle3hub.checkpoint.staging import remove_leftovers, staged_folder, write_file
from eagle3hub.checkpoint.writer import Flushing, OpenFiles, Shard, aligned, shared_block, write_safetensors
from eagle3hub.conversion.plan import DEFAULTS, ConversionPlan, ConvertOptions, plan_conversion
from eagle3hub.conversion.verify import read_back, verify_folder
from eagle3hub.errors import Problem
from eagle3hub.head import Head
from eagle3hub.head.aux_defaults import AUX_IDS
from eagle3hub.layouts import provenance, settle
from eagle3hub.layouts.tensors import MAP_NAME
from eagle3hub.system.documents import document_bytes
from eagle3hub.system.progress import Progress, silent

_NESTED_ONLY = "aux-ids-nested-only"

_WRITTEN_ANEW = frozenset(
    {
        _NESTED_ONLY,
        *("config-sliding-ignored", "config-bias-ignored", "config-tied", "config-layers", "config-no-context"),
        *("config-quantization-leftover", "config-dtype", BESIDE, MAP_NAME),
    }
)
"""Problems in how the files are written, which writing them again may fix; all other problems are the head's own."""


@dataclass(frozen=True, slots=True)
class Conversion:
    """The result of a conversion, or in a dry run the planned result.

    Attributes:
        destination: the folder. plan: what it was made from.
        files: every file with its size and, if ``digests`` is set, its SHA-256; empty in a dry run.
        verified: whether the result was read back and compared with the source.
        result: the head as it was read back, without its target; None in a dry run.
        left: remains of the replaced folder that could not be removed, or None.
    """

    destination: Path
    plan: ConversionPlan
    files: list[FileSize] = field(default_factory=list)
    verified: bool = False
    dry_run: bool = False
    result: Head | None = None
    left: Path | None = None

    @property
    def problems(self) -> list[Problem]:
        """The problems of the result: those of the source that remain, and new ones."""
        source = self.plan.head.problems
        if self.result is None:
            return list(source)
        kept = [p for p in source if p.code not in _WRITTEN_ANEW or p.code in self._found]
        return kept + [p for p in self.result.problems if p.code not in {p.code for p in source}]

    @property
    def mended(self) -> list[Problem]:
        """Problems of the source that the result no longer has, because its files are written differently."""
        if self.result is None:
            return []
        gone = [p for p in self.plan.head.problems if p.code in _WRITTEN_ANEW and p.code not in self._found]
        return [p for p in gone if p.code != _NESTED_ONLY or AUX_IDS in self.plan.written.config]

    @property
    def _found(self) -> set[str]:
        return {p.code for p in self.result.problems} if self.result is not None else set()

    @property
    def _leftovers(self) -> list[str]:
        return [] if self.left is None else [f"{self.left} is left of what was replaced: remove it yourself"]

    def to_json(self) -> dict[str, Any]:
        """Return the document ``convert --json`` prints."""
        plan = self.plan
        return {
            "source": plan.head.source,
            "from": plan.head.layout,
            "to": plan.to,
            "made_for": list(plan.head.made_for),
            "destination": str(self.destination),
            "dry_run": self.dry_run,
            "verified": self.verified,
            "config": plan.written.config,
            "bytes": plan.nbytes,
            "tensors": plan.described,
            "shards": [shard.name for shard in plan.shards],
            "files": self.files,
            "repairs": [c.to_json() for c in plan.changes],
            "assumptions": [a.to_json() for a in plan.assumptions],
            "problems": [p.to_json() for p in plan.head.problems],
            "result_problems": None if self.result is None else [p.to_json() for p in self.problems],
            "mended": [p.to_json() for p in self.mended],
            "notes": [*plan.written.notes, *self._leftovers],
        }


def convert(
    source: str | Path,
    destination: str | Path,
    to: str,
    options: ConvertOptions = DEFAULTS,
    *,
    progress: Progress = silent,
) -> Conversion:
    """Convert the head at ``source`` to layout ``to``, in the new folder ``destination``.

    Args:
        source: address of the head (`parse_address`); weights on the Hub are downloaded after everything else has been
            checked.
        to: name of the layout to write, such as ``universal``.
        options: everything else; the defaults change nothing and verify the result.

    The destination is absent or complete at every moment, except that a power cut can damage a new folder made without
    ``verify``. Weights are copied unchanged unless a transform computes them. Raises InputError (also if the source
    changes meanwhile), OutputError, UsageError or HubError, and then leaves nothing behind.
    """
    plan = plan_conversion(source, to, options)
    dest = Path(destination).expanduser()
    if not options.dry_run:
        remove_leftovers(dest)
    named = (source, options.target, options.transforms.d2t, options.transforms.include_embeddings)
    inputs = [given for given in named if isinstance(given, str | Path)]
    check_destination(dest, force=options.force, keep_out=inputs)
    require_space(dest, plan.nbytes)
    if options.dry_run:
        return Conversion(dest, plan, dry_run=True)
    flush = options.verify or os.path.lexists(dest)  # flush before replacing a folder, so that nothing is lost
    with staged_folder(dest, force=options.force, flush=flush) as staged, unchanged(plan.seen):
        files, result = _fill(staged.path, plan, flush=flush, progress=progress)
    return Conversion(dest, plan, files, verified=options.verify, result=result, left=staged.left)


def _fill(stage: Path, plan: ConversionPlan, *, flush: bool, progress: Progress) -> tuple[list[FileSize], Head]:
    """Write every file, and verify it if the options say so. Returns the files, and the head as it was read back.

    Flushing and hashing run in parallel with the rest. With ``flush``, all is on the disk in the end; without it the
    system writes the data within seconds, as it does for ``cp``, and a power cut before that loses the files.
    """
    verify, digests = plan.options.verify, plan.options.digests
    fetch_weights(plan.source, progress)
    listed: Callable[[Path], FileSize] = file_digest if digests else file_size
    with ExitStack() as stack:
        opened = stack.enter_context(OpenFiles())
        flushing = stack.enter_context(Flushing()) if flush else None
        pool = stack.enter_context(ThreadPoolExecutor(max_workers=2))
        if verify:
            # Import now: reading from the disk can have to wait while files are flushed. Nothing waits for this
            # thread: a signal that stops the main thread in an import can leave Python's import lock taken for good.
            Thread(target=numpy, daemon=True).start()
        try:
            for name, data in plan.small_files.items():
                write_file(stage / name, data, flush=flush)
            block = _shared_block(plan, stage, opened)
            shards = [aligned(shard, block) if block else shard for shard in plan.shards]
            shared = {
                stage / shard.name: write_safetensors(stage / shard.name, shard, opened, flushing, progress, block)
                for shard in shards
            }
            came_from = pool.map(listed, head_files(plan.source.folder))
            written = pool.map(listed, [*head_files(stage), *(stage / name for name in plan.written.side_files)])
            if verify:
                known = {} if plan.options.read_back else shared
                back, result = verify_folder(stage, plan.head, plan.to, plan.written, progress, opened, known)
            else:
                back, result = read_back(stage, plan.to)
            if digests:
                progress("hashing source and result")
            files = list(written)
            record = document_bytes(_record(plan, shards, files, list(came_from), verified=verify))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        write_file(stage / PROVENANCE, record, flush=flush)
        if flushing is not None:
            progress("waiting for the disk")
            flushing.wait()
    back = replace(back, provenance=json.loads(record))
    return [*files, listed(stage / PROVENANCE)], settle(result, back)


def _shared_block(plan: ConversionPlan, stage: Path, opened: OpenFiles) -> int:
    """Size of the blocks that the result can share with the source, 0 where it can share none.

    With digests it shares none: they read every byte anyway, and a release has the same bytes on every file system.
    """
    if plan.options.digests:
        return 0
    sources = {t.data.path for shard in plan.shards for t in shard.tensors if type(t.data) is TensorRef}
    blocks = {shared_block(opened[path], stage) for path in sources}
    return blocks.pop() if len(blocks) == 1 else 0


def _record(
    plan: ConversionPlan,
    shards: Sequence[Shard],
    files: Sequence[FileSize],
    came_from: Sequence[FileSize],
    *,
    verified: bool,
) -> dict[str, object]:
    """Make the provenance file (schema ``provenance``): the same inputs and file system give the same bytes."""
    head = plan.head
    return {
        "schema": provenance.SCHEMA,
        "tool": {"name": "eagle3hub", "version": __version__},
        "command": plan.command,
        "layout": plan.to,
        **({"made_for": list(head.made_for)} if head.made_for else {}),
        "verified": verified,
        "source": {
            "name": plan.source_name,
            "layout": head.layout,
            "files": list(came_from),
        },
        "fingerprint": {
            "config_sha256": sha256(plan.small_files[CONFIG]).hexdigest(),
            "header_sha256": {shard.name: sha256(shard.header).hexdigest() for shard in shards},
        },
        "files": list(files),
        "tensors": plan.described,
        "assumptions": [a.to_json() for a in plan.assumptions],
        "repairs": [c.to_json() for c in plan.changes],
        "facts": {**provenance.facts_of(head), "speculative_tokens": plan.speculative_tokens},
        "carried": provenance.carried_after(head),
    }
