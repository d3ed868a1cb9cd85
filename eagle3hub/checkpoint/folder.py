"""Open a checkpoint: config.json and one or more weights files, safetensors or torch pickles."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from hashlib import sha256
from pathlib import Path
from typing import Any

from eagle3hub.address import Address, HubAddress, parse_address
from eagle3hub.checkpoint.safetensors import ByteReader, Header, TensorRef, is_pickle, parse_header, read_range
from eagle3hub.checkpoint.source import (
    CONFIG,
    INDEX,
    LFS_POINTER,
    PICKLE_INDEX,
    PICKLE_WEIGHTS,
    PROVENANCE,
    TRAINING_STATES,
    WEIGHTS,
    FolderSource,
    Index,
    Source,
    State,
    changed,
    check_files,
    file_states,
    folders_inside,
    merge,
    parse_json_object,
    refuse_contents,
    refuse_files,
    refuse_pointer,
    refuse_unfinished,
    rest_among,
)
from eagle3hub.errors import ConfigError, Eagle3HubError, Problem, SourceError
from eagle3hub.system.progress import Progress, silent
from eagle3hub.system.text import listed

# Stray weights: files beside those that count. Do they hold the same head?
#
# Engines differ in what they read: vLLM loads ``consolidated*.safetensors`` alone where there is one, whatever an
# index says (``model_loader/default_loader.py:168-194``, executed). Else vLLM and SGLang load every ``*.safetensors``
# of a folder that has no index, one after the other (``model_loader/default_loader.py``, ``model_loader/loader.py``),
# though SGLang skips ``consolidated.safetensors`` beside ``model.safetensors`` (``model_loader/weight_utils.py:767``).
# SafeAILab's own loader takes ``pytorch_model.bin`` before ``model.safetensors`` (``eagle/model/ea_model.py``).


BESIDE = "checkpoint-beside"
"""Code of the problem of a file beside the weights that count, of which nothing is read."""
DUPLICATE = "checkpoint-duplicate"
"""Code of the problem of a stray file that engines would load over the weights that count."""
_PROBED = 4096
_OF_A_HEAD = re.compile(
    r"(model\.)?(midlayer|layers|fc|fc_norm|input_norm|hidden_norm|norm|lm_head|embed_tokens|mask_hidden|d2t|t2d)(\.|$)"
)


_ALONE = "consolidated*.safetensors"
"""Names of files that vLLM loads in place of all others."""


@dataclass(frozen=True, slots=True)
class Beside:
    """What lies beside the weights that count, as engines see it.

    Attributes:
        problems: of these files. stray: names of safetensors that hold nothing of the head, and that engines load too.
        overlaid: whether a file holds other values of a tensor and comes after the weights by its name; engines that
            keep what they read last load it over them. overlaid_first: the name of a file that does and comes before
            them, or None; sglang-jax, which reads no index and keeps what it reads first, takes that.
        alone: the name of a file that vLLM loads in place of the weights and that holds something else, or None.
        foreign: whether that file holds tensors that the weights do not have.
        more: the tensors of a head that only another file holds, which no index names, and that file.
    """

    problems: tuple[Problem, ...] = ()
    stray: tuple[str, ...] = ()
    overlaid: bool = False
    overlaid_first: str | None = None
    alone: str | None = None
    foreign: bool = False
    more: Mapping[str, str] = field(default_factory=dict)


NOTHING = Beside()


def check_stray_weights(
    names: Sequence[str],
    tensors: Mapping[str, TensorRef],
    others: Sequence[str],
    pickles: Sequence[str],
    read: Callable[[str], Header],
    *,
    indexed: bool = False,
) -> Beside:
    """What lies beside the weights files that count.

    Args:
        names: the files that count, safetensors; tensors: what they hold.
        others: further safetensors, which engines would load too. pickles: torch pickles.
        read: reads the header of a file. indexed: whether an index names those that count.

    A tensor in two files is compared by dtype, shape and its first bytes. A copy of the same weights is no problem,
    nor is a file that cannot be read. Pickles on the Hub are common, so none of their bytes are fetched.
    """
    found: list[Problem] = []
    apart: list[str] = []
    elsewhere: dict[str, str] = {}
    overlaid, first, alone, foreign = False, None, None, False
    for name in others:
        theirs = _tensors(read, name)
        differs = _first_difference(tensors, theirs)
        before = name < max(names)
        if differs is not None and before:
            first = first or name
        if fnmatch(name, _ALONE):
            if differs is not None or (theirs and theirs.keys() != tensors.keys()):
                alone, foreign = name, foreign or bool(theirs.keys() - tensors.keys())
                skipped = (name, *names) == ("consolidated.safetensors", WEIGHTS) and len(others) == 1
                overlaid = overlaid or (differs is not None and not indexed and not skipped and not before)
                found.append(_taken_alone(name, names[0], differs))
        elif indexed:
            continue
        elif differs is not None:
            overlaid = overlaid or not before
            message = (
                f"tensor {differs!r} is in both {names[0]} and {name}, with other contents: without an index vLLM and "
                "SGLang load both files and keep what they read last"
            )
            hint = "remove the file that is left from another export"
            found.append(Problem("error", DUPLICATE, message, hint))
        elif more := [n for n in theirs if n not in tensors and _OF_A_HEAD.match(n)]:
            elsewhere |= dict.fromkeys(more, name)
            message = (
                f"tensor {more[0]!r} is in {name} only, beside {names[0]}: without an index nothing says that it is "
                "the head's, and vLLM and SGLang load it anyway"
            )
            hint = "write model.safetensors.index.json if it is, or move the file out of the folder"
            found.append(Problem("error", "checkpoint-unindexed", message, hint))
        elif theirs.keys() - tensors.keys():
            apart.append(name)
    if apart:
        message = (
            f"{', '.join(apart)} beside {names[0]} is left out, with tensors that are not in {names[0]}: without an "
            "index vLLM and SGLang would load them too"
        )
        found.append(Problem("warning", BESIDE, message, "move it out of the folder before serving that"))
    for name in pickles:
        differs = _first_difference(tensors, _tensors(read, name), fetch=False)
        if differs is not None:
            message = (
                f"{name} beside {names[0]} holds another {differs!r}: {names[0]} is read, as engines do, but "
                "SafeAILab's own code would take the other"
            )
            found.append(Problem("warning", BESIDE, message, "remove the one that is not the head"))
            break
    return Beside(tuple(found), tuple(apart), overlaid, first, alone, foreign, elsewhere)


def _taken_alone(name: str, first: str, differs: str | None) -> Problem:
    """The problem of a file that vLLM takes for the weights; ``differs``: a tensor that has another value in it."""
    hint = f"move {name} out of the folder before serving that, or {first} if the head is the other"
    if differs is not None:
        message = (
            f"tensor {differs!r} is in both {first} and {name}, with other contents: {first} is read, as most engines "
            "do, but vLLM loads the other alone"
        )
        return Problem("error", DUPLICATE, message, hint)
    message = f"{name} beside {first} is left out, and holds other tensors: vLLM loads it alone, and nothing else"
    return Problem("warning", BESIDE, message, hint)


def _tensors(read: Callable[[str], Header], name: str) -> Mapping[str, TensorRef]:
    try:
        return read(name).tensors
    except Eagle3HubError:
        return {}


def _first_difference(
    ours: Mapping[str, TensorRef], theirs: Mapping[str, TensorRef], *, fetch: bool = True
) -> str | None:
    """The first tensor that differs between the two; ``fetch``: get bytes that are not on this machine."""
    for name, ref in ours.items():
        other = theirs.get(name)
        if other is None:
            continue
        look = fetch or (ref.remote is None and other.remote is None)
        if (ref.dtype, ref.shape) != (other.dtype, other.shape) or (look and _start(ref) != _start(other)):
            return name
    return None


def _start(ref: TensorRef) -> bytes:
    count = min(_PROBED, ref.nbytes)
    if ref.remote is not None:
        return ref.remote(ref.offset, count)
    return read_range(ref.path, ref.offset, count)


# Open a checkpoint: config.json and one or more weights files, safetensors or torch pickles.


_PICKLE_SHARD = re.compile(r"pytorch_model-[0-9]+-of-[0-9]+\.bin")
_BESIDE_WEIGHTS = re.compile(
    r"rng_state|.*optim_states|(training_args|optimizer|scheduler|scaler|random_states|eagle3?_meta)\b"
)
"""Pickles that trainers leave beside weights; vLLM passes over the usual ones, too (``weight_utils.py``)."""


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
        seen: config, index and weights on this machine, as they were just before they were read. on_hub: whether
            ``source`` is on the Hub.
        beside: what lies beside these files; see `check_stray_weights`.
        files: names of the files directly in it.
        part: see `Header`, of the first weights file.
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
    seen: Mapping[Path, State] = field(default_factory=dict, compare=False, repr=False)
    on_hub: bool = False
    beside: Beside = NOTHING
    files: frozenset[str] = field(default=frozenset(), compare=False)
    part: str | None = None

    @property
    def problems(self) -> tuple[Problem, ...]:
        """The problems of files beside the weights that count."""
        return self.beside.problems


def open_checkpoint(
    source: str | Path | Address, *, headers_only: bool = False, progress: Progress = silent
) -> Checkpoint:
    """Open a folder, or a repository on the Hub or a folder in one; see `parse_address`.

    Where there are several weights, the first of these counts: the files of model.safetensors.index.json;
    model.safetensors; every other ``*.safetensors``; the files of pytorch_model.bin.index.json; pytorch_model.bin;
    its shards without an index; training_state.pt; model.pt; the only other ``*.bin`` or ``*.pt``, which vLLM and
    SGLang load as well. A file's first bytes tell its format, not its name. Of the files that count, none may be
    missing (`eagle3hub.checkpoint.source.check_files`).

    Args:
        headers_only: do not download the weights of a Hub source; their tensors can be described, and small ones
            read with `read_tensor`, but not copied.
        progress: told about downloads.

    Raises SourceError, ConfigError, CheckpointError or HubError.
    """
    at = parse_address(source)
    on_hub = isinstance(at, HubAddress)
    files: Source
    if isinstance(at, HubAddress):
        from eagle3hub.checkpoint.remote import HubSource  # the Hub's client takes a while to import

        files = HubSource(at, headers_only=headers_only, progress=progress)
    else:
        files = FolderSource(at)
    folder = files.folder
    seen = file_states([folder / CONFIG, folder / INDEX, folder / PICKLE_INDEX])
    config_bytes = files.small(CONFIG)
    if config_bytes is None:
        raise _no_config(files)
    names, index = _weights(files)
    weights = [folder / name for name in names]
    seen |= file_states(weights)
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
        weights=tuple(weights),
        header_sha256=tuple(h.digest for h in headers),
        provenance=None if raw_provenance is None else parse_json_object(raw_provenance, files.shown(PROVENANCE)),
        seen=seen,
        on_hub=on_hub,
        beside=NOTHING if on_hub and not headers_only else _stray_weights(files, names, tensors),
        files=frozenset(files.names()),
        part=headers[0].part,
    )


def fetch_weights(checkpoint: Checkpoint, progress: Progress = silent) -> None:
    """Download the weights of a checkpoint on the Hub to where its tensors say; one on this machine has them.

    Raises HubError, and SourceError where what comes is not what was opened.
    """
    if not checkpoint.on_hub:
        return
    here = open_checkpoint(checkpoint.source, progress=progress)
    opened = checkpoint.config_sha256, checkpoint.weights, checkpoint.header_sha256
    if opened != (here.config_sha256, here.weights, here.header_sha256):
        raise changed(checkpoint.source)


def read_tensor(ref: TensorRef) -> bytes:
    """The bytes of one (small) tensor. Raises CheckpointError, or HubError where it has to come from the Hub."""
    if ref.remote is not None:
        return ref.remote(ref.offset, ref.nbytes)
    return read_range(ref.path, ref.offset, ref.nbytes)


def read_weights(reader: ByteReader, *, views: bool = False) -> Header:
    """The tensors of a weights file, in the format that its first bytes tell; ``views``: see `parse_pickle`."""
    start = reader.read(0, min(64, reader.size))
    refuse_pointer(start, reader.shown)
    if is_pickle(start):
        from eagle3hub.checkpoint.pickles import parse_pickle

        return parse_pickle(reader, views=views)
    return parse_header(reader)


def _read_weights(files: Source, name: str) -> Header:
    with files.weights(name) as reader:
        return read_weights(reader)


def _weights(files: Source) -> tuple[list[str], Index | None]:
    """The weights files that count, and their index, if there is one."""
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
            refuse_files(files.name, [name for name in shards if name.startswith("shard-")])
            check_files(shards, present, files.name, None)
            return shards, None
    for name in TRAINING_STATES:
        if name in present:
            return [name], None
    below = files.below()
    refuse_unfinished(files, below, "a weights file")
    refuse_files(files.name, below)
    others = sorted(n for n in present if n.endswith((".bin", ".pt")) and not _BESIDE_WEIGHTS.match(n))
    if len(others) == 1:
        return others, None
    looked_into = _first_weights(files, below)
    if others:
        raise SourceError(
            f"{files.name} has several torch pickles, {listed(others)}, and nothing says which has the weights",
            hint=f"call the one with the weights {PICKLE_WEIGHTS}, or leave the others out of the folder",
            code="source-several-pickles",
        )
    inside = folders_inside(files.folder) if isinstance(files, FolderSource) else None
    rest = rest_among(below) if looked_into is None else None
    raise SourceError(
        f"there is no safetensors file in {files.name}, and no torch pickle with weights either"
        + (f": beside {CONFIG} it holds {rest.what}" if rest is not None else ""),
        hint=inside
        or (rest.hint if rest is not None else None)
        or f"weights are looked for in {WEIGHTS}, {PICKLE_WEIGHTS}, their shards, and {TRAINING_STATES[0]}",
        code="source-no-weights",
    )


def _no_config(files: Source) -> Eagle3HubError:
    """The error of a folder without a config.json, which says what the folder is, or raises one that does."""
    name, below = files.name, files.below()
    refuse_unfinished(files, below, CONFIG)
    refuse_files(name, below)
    state = next((state for state in TRAINING_STATES if state in below), None)
    weights = _first_weights(files, below) if state is None else state
    rest = rest_among(below) if weights is None else None
    message, hint = f"there is no {CONFIG} in {name}", f"name the folder the trainer or exporter wrote; {_ALONE_SAY}"
    if state is not None:
        hint = (
            f"put the {CONFIG} that training began with beside {state}, or export the head with its trainer "
            "(specforge export --to sglang)"
        )
    elif weights is not None:
        message += f", which holds weights ({weights})"
        hint = f"put the {CONFIG} that training began with beside them, or export the head again; {_ALONE_SAY}"
    elif rest is not None:
        message, hint = f"there is neither {CONFIG} nor weights in {name}: it holds {rest.what}", rest.hint
    elif not below:
        message = f"{name} is an empty folder"
        hint = "name the folder the trainer or exporter wrote; if a run or a download was to fill it, let that finish"
    return SourceError(message, hint=hint, code="source-no-config")


_ALONE_SAY = "weights alone do not say what the head computes"
_OF_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")


def _first_weights(files: Source, below: Sequence[str]) -> str | None:
    """The first file that by its name holds weights, None if none does.

    Raises LayoutError where it holds something else by what its header says, CheckpointError for a Git LFS pointer.
    """
    names = [n for n in below if n.endswith(_OF_WEIGHTS) and not _BESIDE_WEIGHTS.match(n.rpartition("/")[2])]
    if not names:
        return None
    try:
        header = _read_weights(files, names[0])
    except Eagle3HubError as e:
        if e.code == LFS_POINTER:
            raise
        return names[0]
    refuse_contents(files.name, header.tensors, {}, ())
    return names[0]


def _stray_weights(files: Source, names: list[str], tensors: dict[str, TensorRef]) -> Beside:
    """`check_stray_weights` of the safetensors and pickles beside ``names``, read from where they are."""
    if not names[0].endswith(".safetensors"):
        return NOTHING
    present = files.names()
    others = sorted(n for n in present - {*names} if n.endswith(".safetensors"))
    indexed = INDEX in present
    pickles = sorted(n for n in present if n == PICKLE_WEIGHTS or _PICKLE_SHARD.fullmatch(n))
    return check_stray_weights(
        names, tensors, others, pickles, lambda name: _read_weights(files, name), indexed=indexed
    )


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
