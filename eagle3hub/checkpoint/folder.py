"""Open a checkpoint: config.json and one or more weights files, safetensors or torch pickles."""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from eagle3hub.checkpoint.beside import look_beside
from eagle3hub.checkpoint.completeness import Index, check_files, merge
from eagle3hub.checkpoint.header import Header, parse_header
from eagle3hub.checkpoint.pickles import is_pickle, parse_pickle
from eagle3hub.checkpoint.reader import ByteReader, open_local, refuse_pointer
from eagle3hub.checkpoint.source import (
    CONFIG,
    HUB,
    INDEX,
    PICKLE_INDEX,
    PICKLE_WEIGHTS,
    PROVENANCE,
    TRAINING_STATES,
    WEIGHTS,
    FolderSource,
    Source,
    parse_json_object,
)
from eagle3hub.checkpoint.tensors import TensorRef
from eagle3hub.errors import ConfigError, Problem, SourceError
from eagle3hub.progress import Progress, silent

_PICKLE_SHARD = re.compile(r"pytorch_model-[0-9]+-of-[0-9]+\.bin")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An opened checkpoint folder.

    Attributes:
        source: what the user typed; a Hub source is pinned to the commit that was opened.
        folder: where the files are on this machine; with ``headers_only`` the weights of a Hub source are not.
        config: config.json, parsed. config_sha256: digest of its bytes, in hex.
        tensors: every tensor of every weights file.
        metadata: header metadata of the first weights file, or None (torch pickles have none).
        weights: the weights files. header_sha256: their header digests, in the same order.
        provenance: the parsed eagle3hub.json beside them, or None.
        problems: what is to be said of weights files that do not count; see `beside`.
    """

    source: str
    folder: Path
    config: dict[str, Any]
    config_sha256: str
    tensors: dict[str, TensorRef]
    metadata: dict[str, str] | None
    weights: tuple[Path, ...]
    header_sha256: tuple[str, ...]
    provenance: dict[str, Any] | None
    problems: tuple[Problem, ...] = ()


def open_source(source: str | Path, *, headers_only: bool = False, progress: Progress = silent) -> Source:
    """The source a user named: ``hf://owner/name[@revision][/subfolder]``, else a folder.

    Args:
        headers_only: leave the weights of a Hub source where they are and read small ranges of them.
        progress: told about downloads.
    """
    text = str(source)
    if text.startswith(HUB):
        from eagle3hub.checkpoint.remote import HubSource  # the Hub's client takes a while to import

        return HubSource(text, headers_only=headers_only, progress=progress)
    return FolderSource(text)


def open_checkpoint(source: str | Path, *, headers_only: bool = False, progress: Progress = silent) -> Checkpoint:
    """Open a folder, or a Hub repository ``hf://owner/name[@revision][/subfolder]``.

    Where there are several weights, the first of these counts: the files of model.safetensors.index.json;
    model.safetensors; every other ``*.safetensors``; the files of pytorch_model.bin.index.json; pytorch_model.bin;
    its shards without an index; training_state.pt; model.pt. What a file is, its first bytes say, not its name. Of the
    files that count, none may be missing: see `completeness`.

    Args:
        headers_only: do not download the weights of a Hub source; their tensors can be described, and small ones
            read with `read_tensor`, but not copied.
        progress: told about downloads.

    Raises SourceError, ConfigError, CheckpointError or HubError.
    """
    files = open_source(source, headers_only=headers_only, progress=progress)
    config_bytes = files.small(CONFIG)
    if config_bytes is None:
        state = next((name for name in TRAINING_STATES if name in files.names()), None)
        raise SourceError(
            f"there is no {CONFIG} in {files.name}",
            hint="name the folder the trainer or exporter wrote; weights alone do not say what the head computes"
            if state is None
            else f"put the {CONFIG} that training began with beside {state}, or export the head with its trainer "
            "(specforge export --to sglang)",
            code="source-no-config",
        )
    folder = files.folder
    names, index = _weights(files)
    headers = [_read_weights(files, name) for name in names]
    tensors = merge(names, headers, index)
    raw_provenance = files.small(PROVENANCE)
    return Checkpoint(
        source=files.name,
        folder=folder,
        config=parse_json_object(config_bytes, files.shown(CONFIG)),
        config_sha256=sha256(config_bytes).hexdigest(),
        tensors=tensors,
        metadata=headers[0].metadata,
        weights=tuple(folder / name for name in names),
        header_sha256=tuple(h.digest for h in headers),
        provenance=None if raw_provenance is None else parse_json_object(raw_provenance, files.shown(PROVENANCE)),
        problems=() if files.name.startswith(HUB) and not headers_only else _beside(files, names, tensors),
    )


def read_tensor(ref: TensorRef) -> bytes:
    """The bytes of one (small) tensor. Raises CheckpointError, or HubError where it has to come from the Hub."""
    if ref.remote is not None:
        return ref.remote(ref.offset, ref.nbytes)
    with open_local(ref.path) as reader:
        return reader.read(ref.offset, ref.nbytes)


def read_weights(reader: ByteReader) -> Header:
    """The tensors of a weights file, whichever format its first bytes say it has."""
    start = reader.read(0, min(64, reader.size))
    refuse_pointer(start, reader.shown)
    if is_pickle(start):
        return parse_pickle(reader)
    return parse_header(reader)


def _read_weights(files: Source, name: str) -> Header:
    with files.weights(name) as reader:
        return read_weights(reader)


def _weights(files: Source) -> tuple[list[str], Index | None]:
    """The weights files that count, and the index that says so, if any."""
    present = files.names()
    for index, single, shards in (
        (INDEX, WEIGHTS, sorted(n for n in present if n.endswith(".safetensors"))),
        (PICKLE_INDEX, PICKLE_WEIGHTS, sorted(n for n in present if _PICKLE_SHARD.fullmatch(n))),
    ):
        if index in present:
            found = _index(files, index)
            names = sorted(set(found.weight_map.values()))
            check_files(names, present, files.name, found)
            return names, found
        if single in present:
            return [single], None
        if shards:
            check_files(shards, present, files.name, None)
            return shards, None
    for name in TRAINING_STATES:
        if name in present:
            return [name], None
    raise SourceError(
        f"there is no safetensors file in {files.name}, and no torch pickle with weights either",
        hint=f"weights are looked for in {WEIGHTS}, {PICKLE_WEIGHTS}, their shards, and {TRAINING_STATES[0]}",
        code="source-no-weights",
    )


def _beside(files: Source, names: list[str], tensors: dict[str, TensorRef]) -> tuple[Problem, ...]:
    """What is to be said of safetensors and pickles beside ``names``, read from where they are."""
    if not names[0].endswith(".safetensors"):
        return ()
    present = files.names()
    others = [] if INDEX in present else sorted(n for n in present - {*names} if n.endswith(".safetensors"))
    pickles = sorted(n for n in present if n == PICKLE_WEIGHTS or _PICKLE_SHARD.fullmatch(n))
    return look_beside(names, tensors, others, pickles, lambda name: _read_weights(files, name))


def _index(files: Source, name: str) -> Index:
    shown = files.shown(name)
    raw = files.small(name)
    weight_map = {} if raw is None else parse_json_object(raw, shown).get("weight_map")
    files_named = isinstance(weight_map, dict) and all(isinstance(v, str) and v for v in weight_map.values())
    if not isinstance(weight_map, dict) or not weight_map or not files_named:
        raise ConfigError(f"{shown} has no weight_map from tensors to files", code="config-index")
    for file in weight_map.values():
        if Path(file).name != file or file in {".", ".."}:
            raise ConfigError(f"{shown} points outside its folder: {file!r}", code="config-index")
    return Index(shown, weight_map)
