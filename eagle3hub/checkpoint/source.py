"""Where a checkpoint's files come from: a folder on this machine, or a repository on the Hub."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from eagle3hub.address import LocalAddress, is_folder, missing
from eagle3hub.checkpoint.safetensors import ByteReader, Header, TensorRef, open_local
from eagle3hub.errors import CheckpointError, ConfigError, Eagle3HubError, LayoutError, SourceError
from eagle3hub.system.reading import read_bytes
from eagle3hub.system.resources import read_toml
from eagle3hub.system.typed import build

# Several weights files as one head: none may be missing, and an index, if there is one, must agree with them.
#
# The index of Hugging Face's libraries maps each tensor to its file (``weight_map``). Engines do not compare the two:
# they load what they find, and a tensor that got lost keeps the values it was initialised with.


_NUMBERED = re.compile(r"(.+)-([0-9]{1,5})-of-([0-9]{1,5})(\.safetensors|\.bin)")
_SHOWN = 3
_MIXED = (
    "the folder mixes two exports, or was copied or downloaded in part: fetch all of it again, or export again into "
    "an empty folder"
)


@dataclass(frozen=True, slots=True)
class Index:
    """An index: what messages call it, and the name of the file that holds each tensor."""

    shown: str
    weight_map: Mapping[str, str]


def check_files(names: Sequence[str], present: set[str], shown: str, index: Index | None) -> None:
    """Raise SourceError where a weights file is missing: one of the index's, or one of a numbered series.

    Args:
        names: the weights files that count; of a series (``model-00001-of-00002.safetensors``) all must be among them.
        present: every file there is. shown: what messages call the folder.
    """
    absent = [name for name in names if name not in present]
    if index is not None and absent:
        raise _incomplete(f"{index.shown} names {listed(absent)}, which {_are(absent)} not there")
    for lacking, count in gaps(names):
        some = f"{count - len(lacking)} of {count} weights files"
        raise _incomplete(
            f"{shown} has {some}: {listed(lacking)} {_are(lacking)} not there"
            if index is None
            else f"{index.shown} names {some}, without {listed(lacking)}"
        )


def gaps(names: Iterable[str]) -> Iterator[tuple[list[str], int]]:
    """For each numbered series among the names of files that is not whole: the names it lacks, and its length."""
    numbered: dict[tuple[str, str, str], dict[int, int]] = {}
    for name in names:
        if match := _NUMBERED.fullmatch(name):
            stem, number, count, suffix = match.groups()
            numbered.setdefault((stem, count, suffix), {})[int(number)] = len(number)
    for (stem, count, suffix), widths in numbered.items():
        first = 0 if 0 in widths else 1
        width = max(widths.values())
        expected = range(first, first + int(count))
        if missing := [f"{stem}-{i:0{width}}-of-{count}{suffix}" for i in expected if i not in widths]:
            yield missing, len(expected)


def merge(names: Sequence[str], headers: Sequence[Header], index: Index | None) -> dict[str, TensorRef]:
    """The tensors of all files. Raises CheckpointError where two hold the same one, or where the index disagrees."""
    merged: dict[str, TensorRef] = {}
    place: dict[str, str] = {}
    for file, header in zip(names, headers, strict=True):
        for name, ref in header.tensors.items():
            if name in merged:
                raise CheckpointError(
                    f"tensor {name!r} is in both {place[name]} and {file}",
                    hint="engines take whichever they read last: remove the file that is left from another export",
                    code="checkpoint-duplicate",
                )
            merged[name], place[name] = ref, file
    if index is not None:
        _agree(place, index)
    return merged


def _agree(place: Mapping[str, str], index: Index) -> None:
    lost = [name for name, file in index.weight_map.items() if place.get(name) != file]
    if lost:
        found = f"it is in {place[lost[0]]}" if lost[0] in place else "it is not there"
        raise CheckpointError(
            f"{index.shown} says that {index.weight_map[lost[0]]} holds {_tensors(lost)}, but {found}",
            hint=_MIXED,
            code="checkpoint-index",
        )
    unnamed = [name for name in place if name not in index.weight_map]
    if unnamed:
        raise CheckpointError(
            f"{place[unnamed[0]]} holds {_tensors(unnamed)}, which {index.shown} does not name",
            hint=_MIXED,
            code="checkpoint-index",
        )


def _incomplete(message: str) -> SourceError:
    return SourceError(
        message,
        hint="weights would be lost: fetch the whole folder again, or remove what is left of another export",
        code="source-incomplete",
    )


def _tensors(names: Sequence[str]) -> str:
    return f"tensor {names[0]!r}" + (f" (and {len(names) - 1} more)" if len(names) > 1 else "")


def listed(names: Sequence[str]) -> str:
    """The first few of some names, and how many more there are."""
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _are(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


# Where a checkpoint's files come from: a folder on this machine, or a repository on the Hub.


CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
PROVENANCE = "eagle3hub.json"
PICKLE_WEIGHTS = "pytorch_model.bin"
PICKLE_INDEX = "pytorch_model.bin.index.json"
TRAINING_STATES = ("training_state.pt", "model.pt")
"""Files of whole training runs: weights, and what else a trainer goes on from."""
LFS_POINTER = "checkpoint-lfs-pointer"
"""Code of the error of a file that only stands for one in Git LFS."""
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
MAX_JSON_BYTES = 2_000_000
"""Parsed JSON takes up to 28 times its size, and a folder has three such files."""


class Source(Protocol):
    """A flat set of files, some small (JSON) and some large (weights)."""

    @property
    def name(self) -> str:
        """What the source is called from here on; a Hub source is pinned to a commit."""

    @property
    def folder(self) -> Path:
        """The folder that holds its files on this machine, those that have been downloaded."""

    def names(self) -> set[str]:
        """Names of the files directly in it."""

    def below(self) -> list[str]:
        """Paths of the files in it and in folders in it, a few folders deep, sorted."""

    def small(self, name: str) -> bytes | None:
        """A small file, or None where there is none of that name."""

    def weights(self, name: str) -> AbstractContextManager[ByteReader]:
        """A weights file, for bounded reads."""

    def shown(self, name: str) -> str:
        """What messages call a file."""


class FolderSource:
    """A folder on this machine. Raises SourceError where there is none, or where the head is in a folder in it."""

    def __init__(self, at: LocalAddress) -> None:
        self.name = at.text
        self.folder = at.path
        if not is_folder(self.folder):
            raise _no_folder(at) if self.folder.exists() else missing(at.text)
        if CONFIG not in self.names() and (hint := folders_inside(self.folder)):
            raise SourceError(f"there is no {CONFIG} in {at}", hint=hint, code="source-no-config")

    def names(self) -> set[str]:
        """Names of the files directly in it, links to files included."""
        try:
            return {p.name for p in self.folder.iterdir() if p.is_file()}
        except OSError as e:
            raise SourceError(f"cannot read {self.name}: {e.strerror}", code="source-unreadable") from e

    def below(self) -> list[str]:
        """Paths of the files in it and in folders in it, a few folders deep; of hidden ones, downloads."""
        return sorted(islice(_walk(self.folder), _MAX_BELOW))

    def small(self, name: str) -> bytes | None:
        """A small file, or None where there is none of that name."""
        return read_small(self.folder / name)

    def weights(self, name: str) -> AbstractContextManager[ByteReader]:
        """A weights file, for bounded reads."""
        return open_local(self.folder / name)

    def shown(self, name: str) -> str:
        """What messages call a file."""
        return str(self.folder / name)


_MAX_BELOW = 10_000
_DEPTH = 4
_OF_DOWNLOADS = (".cache", "huggingface", "download")
"""Folders, one in another, in which huggingface_hub keeps the parts of what it downloads into a folder."""
_ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst", ".7z", ".rar")
_CACHED = re.compile(r"models--(.+)")
_STEP = re.compile(r"(?:epoch|step|iter(?:ation)?|checkpoint|ckpt)[_-]?([0-9]+)")


def _walk(folder: Path) -> Iterator[str]:
    for at, inside, files in os.walk(folder):
        parts = Path(at).relative_to(folder).parts
        inside[:] = sorted(name for name in inside if len(parts) < _DEPTH and _is_looked_into((*parts, name)))
        yield from ("/".join((*parts, name)) for name in sorted(files))


def _is_looked_into(folder: tuple[str, ...]) -> bool:
    return folder[:3] == _OF_DOWNLOADS[: len(folder)] or not any(part.startswith(".") for part in folder)


def _no_folder(at: LocalAddress) -> Eagle3HubError:
    """The error of a file that is given in place of a folder, which may be an archive or a model of its own."""
    path = at.path
    if path.name.endswith(_ARCHIVES):
        hint = f"unpack it, and name the folder in it that holds {CONFIG}"
        return SourceError(f"{at} is an archive, not a folder", hint=hint, code="source-missing")
    if (kind := _by_files([path.name])) is not None:
        return kind[0].error(str(at))
    hint = f"name the folder that holds {CONFIG}" + (f": {path.parent}" if (path.parent / CONFIG).is_file() else "")
    return SourceError(f"{at} is a file, not a folder", hint=hint, code="source-missing")


def folders_inside(folder: Path) -> str | None:
    """A hint at the folders in a folder, or of a repository in the Hub cache, that hold a config.json; None for none.

    Of the checkpoints of a run the last is named.
    """
    below = ("*", "*/*", "snapshots/*", "models--*/snapshots/*")
    found = (path.relative_to(folder) for names in below for path in folder.glob(f"{names}/{CONFIG}"))
    inside = {path.parent.as_posix() for path in found if not any(part.startswith(".") for part in path.parts)}
    if (cached := _CACHED.fullmatch(folder.resolve().name)) and (current := _current(folder)) in inside:
        return f"name the snapshot in it, {folder / current}, or write hf://{_repo_id(cached)}"
    if not inside:
        return None
    if len(inside) > 1 and all(map(_STEP.search, inside)):
        last = max(inside, key=_how_late)
        return f"name one of the {len(inside)} folders in it that have one; the last is {folder / last}"
    ordered = sorted(inside, key=lambda name: ([-step for step in _how_late(name)[0]], name))
    return f"name a folder in it that has one: {listed([str(folder / name) for name in ordered])}"


def _current(repository: Path) -> str:
    """The snapshot of the main branch of a repository in the Hub cache, as a path in it."""
    try:
        return f"snapshots/{read_bytes(repository / 'refs' / 'main', 100).decode().strip()}"
    except (OSError, UnicodeDecodeError):
        return ""


def refuse_unfinished(files: Source, below: Sequence[str], lacks: str) -> None:
    """Raise SourceError where a download to this machine stopped, or a file is a link to nothing.

    ``below`` are the paths of its files (`Source.below`); ``lacks`` says what is missing.
    """
    if not isinstance(files, FolderSource):
        return
    folder = files.folder
    repository = folder.parent.parent if folder.parent.name == "snapshots" else folder
    cached = _CACHED.fullmatch(repository.resolve().name)
    parts = [name for name in below if name.endswith(_UNFINISHED)]
    if cached is not None:
        parts += sorted(path.name for path in repository.glob("blobs/*") if path.name.endswith(_UNFINISHED))
    elif parts:
        cached = _CACHED.fullmatch(parts[0].partition("/")[0])
    if cached is not None:
        again = f"hf download {_repo_id(cached)}"
    else:
        again = f"hf download OWNER/NAME --local-dir {files.name}, with the repository it comes from"
    if parts or (cached is not None and not below):
        raise SourceError(
            f"a download into {files.name} did not finish: {lacks} is missing"
            + (f", and {parts[0].rpartition('/')[2]} is a part of a file" if parts else ""),
            hint=f"finish it: {again}",
            code="source-incomplete",
        )
    if lost := sorted(path.name for path in folder.iterdir() if path.is_symlink() and not path.exists()):
        raise SourceError(
            f"{files.shown(lost[0])} is a link to a file that is not there",
            hint=f"copy the folder together with what its links point to (cp -rL), or fetch it again: {again}",
            code="source-incomplete",
        )


def _repo_id(cached: re.Match[str]) -> str:
    return cached[1].replace("--", "/")


_UNFINISHED = (".incomplete", ".eagle3hub", ".aria2", ".crdownload", ".part")
"""Ends of the names of files that hold a part of a download."""


def read_small(path: Path) -> bytes | None:
    """A small local file, or None where there is none. Raises SourceError, or ConfigError where it is not small."""
    try:
        return read_bytes(path, MAX_JSON_BYTES)
    except FileNotFoundError:
        return None
    except OSError as e:
        if e.errno == errno.EFBIG:
            raise ConfigError(f"{path} is larger than {MAX_JSON_BYTES} bytes", code="config-json") from e
        raise SourceError(f"cannot read {path}: {e.strerror}", code="source-unreadable") from e


def refuse_pointer(start: bytes, shown: Path | str) -> None:
    """Raise CheckpointError if a file begins as a Git LFS pointer does, which stands in for what was not fetched."""
    if start.startswith(_LFS_POINTER):
        raise CheckpointError(
            f"{shown} is a pointer of Git LFS: the file it stands for was not fetched",
            hint="run `git lfs pull` in the clone, or download the repository with `hf download`",
            code=LFS_POINTER,
        )


def parse_json_object(raw: bytes, path: Path | str) -> dict[str, Any]:
    """Parse a JSON object. Raises ConfigError naming the file and the place, CheckpointError for a Git LFS pointer."""
    refuse_pointer(raw, path)
    try:
        value = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as e:
        raise ConfigError(f"{path} is not UTF-8 text (byte {e.start})", code="config-json") from e
    except json.JSONDecodeError as e:
        raise ConfigError(f"{path} is not valid JSON: line {e.lineno}: {e.msg}", code="config-json") from e
    except (ValueError, RecursionError) as e:
        raise ConfigError(f"{path} is not usable JSON: {e}", code="config-json") from e
    if not isinstance(value, dict):
        raise ConfigError(f"{path} is not a JSON object", code="config-json")
    return value


# What is no EAGLE-3 head: other kinds of draft models, and what is given by mistake. ``kinds.toml`` has their names.


OTHER_FOLDER = "name the folder of an EAGLE-3 head"
"""What to do about a folder that is no EAGLE-3 head, where a kind has no hint of its own."""
READ = "this version reads Llama-style EAGLE-3 and P-EAGLE heads, and EAGLE-3 heads with MLA"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of folder that no codec reads; see ``kinds.toml`` for the fields."""

    code: str
    what: str
    served: str
    hint: str = OTHER_FOLDER
    tensors: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    model_types: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    shape: str | None = None

    def shows_in(self, tensors: Mapping[str, TensorRef], config: Mapping[str, Any], files: Collection[str]) -> bool:
        """Whether a folder with config and weights shows a sign of it."""
        stated = config.get("architectures")
        classes = [name for name in stated if isinstance(name, str)] if isinstance(stated, list) else []
        kind = config.get("model_type")
        return (
            _any(self.tensors, tensors)
            or _any(self.classes, classes)
            or _any(self.model_types, [kind] if isinstance(kind, str) else [])
            or any(config.get(key) for key in self.keys)
            or any(fnmatch(name, pattern) for pattern in self.beside for name in files)
            or (self.shape is not None and _SHAPES[self.shape](tensors))
        )

    def error(self, source: str) -> LayoutError:
        """The error of a folder of this kind."""
        return LayoutError(
            f"{source} holds {self.what}; {self.served}; {READ}", hint=self.hint, code=f"layout-{self.code}"
        )


def refuse_contents(
    source: str, tensors: Mapping[str, TensorRef], config: Mapping[str, Any], files: Collection[str]
) -> None:
    """Raise LayoutError for a folder with config and weights that is of another kind; ``files``: their names."""
    for kind in kinds():
        if kind.shows_in(tensors, config, files):
            raise kind.error(source)


def refuse_files(source: str, files: Collection[str]) -> None:
    """Raise LayoutError for a folder without a config or weights whose files are those of another kind.

    ``files`` are paths in the folder; of files in a folder in it, that one is said to hold them.
    """
    if (found := _by_files(files)) is not None:
        kind, place = found
        raise kind.error(f"{source}/{place}" if place else source)


def _by_files(files: Collection[str]) -> tuple[Kind, str] | None:
    """The kind that the names of files tell, and the folder of the last of these files."""
    for kind in kinds():
        if places := {n.rpartition("/")[0] for n in files for pattern in kind.files if fnmatch(n, pattern)}:
            return kind, max(places, key=_how_late)
    return None


def _how_late(place: str) -> tuple[list[int], bool, str]:
    """A key that puts the last step of a run last, and its weights after the state of its optimizer."""
    return [int(step) for step in _STEP.findall(place)], "optim" not in place, place


@dataclass(frozen=True, slots=True, kw_only=True)
class Rest:
    """What a folder may hold that has neither config nor weights, or no weights; see ``kinds.toml``."""

    what: str
    hint: str
    files: tuple[str, ...]


def rest_among(files: Collection[str]) -> Rest | None:
    """What the files of a folder without weights are."""
    names = [name.rpartition("/")[2] for name in files if not name.startswith(".")]
    return next((r for r in _data().rest for name in names if any(fnmatch(name, p) for p in r.files)), None)


@dataclass(frozen=True, slots=True)
class _Kinds:
    kind: tuple[Kind, ...]
    rest: tuple[Rest, ...]


def kinds() -> tuple[Kind, ...]:
    """Every kind, in the order in which they are tried."""
    return _data().kind


@cache
def _data() -> _Kinds:
    name = "kinds.toml"
    return build(_Kinds, read_toml(Path(__file__).with_name(name)), f"checkpoint/{name}")


def _any(patterns: Iterable[str], names: Iterable[str]) -> bool:
    compiled = [re.compile(pattern) for pattern in patterns]
    return any(pattern.search(name) for name in (names if compiled else ()) for pattern in compiled)


def _is_eagle1(tensors: Mapping[str, TensorRef]) -> bool:
    """Whether fc joins a token's embedding with one hidden state, and attention reads one state as wide as fc's."""
    by_name = {_BEFORE_PARTS.sub("", name): ref for name, ref in tensors.items()}
    fc = by_name.get("fc.weight")
    query = by_name.get("layers.0.self_attn.q_proj.weight") or by_name.get("midlayer.self_attn.q_proj.weight")
    if fc is None or query is None or any("hidden_norm" in name for name in tensors):
        return False
    return len(fc.shape) == 2 and fc.shape[1] == 2 * fc.shape[0] and query.shape[1:] == fc.shape[:1]


_BEFORE_PARTS = re.compile(r"^(?:\w+\.)*?(?=(?:fc|layers|midlayer)\.)")
"""What wrappers put before the names of a head's parts."""

_EXPERTS = (".mlp.experts.", ".mlp.gate.weight", ".mlp.shared_experts.")


def _has_experts(tensors: Mapping[str, TensorRef]) -> bool:
    """Whether it is a draft head, and not a whole model, whose layers have experts."""
    is_draft = any("fc." in name or "hidden_norm" in name for name in tensors)
    return is_draft and any(part in name for name in tensors for part in _EXPERTS)


def _is_of_mlx(tensors: Mapping[str, TensorRef]) -> bool:
    """Whether values are packed as MLX packs them: U32, with scales and biases of the same module beside them."""
    packed = (name.removesuffix("weight") for name, ref in tensors.items() if ref.dtype == "U32")
    return any(f"{module}scales" in tensors and f"{module}biases" in tensors for module in packed)


def _is_map(tensors: Mapping[str, TensorRef]) -> bool:
    return bool(tensors) and tensors.keys() <= {"d2t", "t2d"}


_SHAPES: Mapping[str, Callable[[Mapping[str, TensorRef]], bool]] = {
    "eagle1": _is_eagle1,
    "experts": _has_experts,
    "mlx": _is_of_mlx,
    "map": _is_map,
}


# Have files changed since they were opened? Their bytes are not read.


State = tuple[int, int, int]


def file_states(paths: Iterable[Path]) -> dict[Path, State]:
    """Inode, size in bytes and last change in ns of each file; no entry for a file that does not exist."""
    return {path: state for path in paths if (state := _state(path)) is not None}


@contextmanager
def unchanged(seen: Mapping[Path, State]) -> Iterator[None]:
    """Raise SourceError if a file is no longer as ``seen`` when the block ends, in place of any error it caused."""
    try:
        yield
    except (Eagle3HubError, OSError):
        _compare(seen)
        raise
    _compare(seen)


def changed(what: Path | str, how: str = "changed") -> SourceError:
    """The error of a source that somebody writes while it is read."""
    return SourceError(
        f"{what} {how} while it was converted; nothing was kept",
        hint="wait until whatever writes it (a trainer, a download) has finished, then run it again",
        code="source-changed",
    )


def _compare(seen: Mapping[Path, State]) -> None:
    for path, state in seen.items():
        now = _state(path)
        if now != state:
            raise changed(path, "was removed" if now is None else "changed")


def _state(path: Path) -> State | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
