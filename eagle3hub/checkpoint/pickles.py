"""Tensors of torch pickles, found without torch and without running anything in the file.

torch.save writes a zip archive whose ``data.pkl`` describes the tensors and whose other members hold their bytes
uncompressed (torch 2.13, ``torch/serialization.py``); before 1.6 it wrote pickles followed by the bytes. Either
way a tensor is a byte range of the file, so a pickle converts at the speed of a copy.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from eagle3hub.checkpoint.dtypes import BITS, num_bytes
from eagle3hub.checkpoint.header import Header
from eagle3hub.checkpoint.reader import ByteReader, open_local
from eagle3hub.checkpoint.tensors import TensorRef
from eagle3hub.checkpoint.unpickle import MAX_PICKLE_BYTES, BadPickle, CutShort, Stub, interpret
from eagle3hub.checkpoint.zips import Archive
from eagle3hub.errors import CheckpointError

STATE_DICTS = ("draft_state_dict", "model_state_dict", "state_dict", "model", "module")
"""Keys under which training states keep the tensors of the model, in the order they are looked for."""
BARE = "tensor"
"""Name of a tensor that was saved alone."""

_ZIP = b"PK\x03\x04"
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_MAX_DEPTH, _MAX_ENTRIES, _MAX_NAME, _MAX_RANK = 32, 200_000, 500, 64
_STORAGES = {
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "DoubleStorage": "F64",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
    "ComplexFloatStorage": "C64",
}
_DTYPES = {
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float64": "F64",
    "complex64": "C64",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "float8_e8m0fnu": "F8_E8M0",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "uint16": "U16",
    "uint32": "U32",
    "uint64": "U64",
    "bool": "BOOL",
}


@dataclass(frozen=True, slots=True)
class _Dtype:
    """A ``torch.dtype``, by its safetensors name."""

    name: str


@dataclass(frozen=True, slots=True)
class _StorageType:
    dtype: _Dtype | None  # None: bytes whose dtype the tensor states


@dataclass(frozen=True, slots=True)
class _Storage:
    dtype: _Dtype | None
    key: str
    count: int

    @property
    def nbytes(self) -> int:
        return self.count * (1 if self.dtype is None else BITS[self.dtype.name] // 8)


@dataclass(frozen=True, slots=True)
class _Tensor:
    storage: _Storage
    dtype: _Dtype
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    special: bool


def is_pickle(start: bytes) -> bool:
    """Whether a file that begins with these (nine or more) bytes is a pickle, whatever its name.

    A safetensors file may begin with the length 0x0280, but its ninth byte always opens a JSON object.
    """
    if start[8:9] == b"{":
        return False
    return start.startswith(_ZIP) or (start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"))


def read_pickle_tensors(path: Path) -> dict[str, TensorRef]:
    """The tensors of a local torch pickle by name, in the order of the file; see `parse_pickle` for the names.

    Raises CheckpointError where the file is damaged, holds anything but plain data and tensors, or a tensor in it
    is not one contiguous range.
    """
    with open_local(path) as reader:
        return parse_pickle(reader).tensors


def parse_pickle(reader: ByteReader) -> Header:
    """Find the tensors of a torch pickle.

    Names: nested tables and lists are joined with dots (``layers.0.weight``). Where the outermost table holds no
    tensor itself and one of `STATE_DICTS` is a table in it, only the first such table counts, and names begin
    inside it: a training state's optimizer is none of a head's tensors. A tensor saved alone is called `BARE`.

    The digest is that of the description (names, dtypes, shapes, places), since the format has no header.
    Raises CheckpointError.
    """
    zipped = reader.read(0, min(reader.size, len(_ZIP))) == _ZIP
    root, place = _zipped(reader) if zipped else _legacy(reader)
    refs = {name: _ref(reader, name, tensor, place) for name, tensor in _flatten(reader, _model_part(root))}
    if not refs:
        raise _bad(reader, "is a torch pickle without a single tensor", "pickle")
    described = [[r.name, r.dtype, list(r.shape), r.offset, r.nbytes] for r in refs.values()]
    return Header(refs, None, sha256(json.dumps([reader.size, described]).encode()).hexdigest())


_Place = Callable[[_Storage], tuple[int, int]]


def _zipped(reader: ByteReader) -> tuple[Any, _Place]:
    archive = Archive(reader)
    names = archive.names
    described = [n for n in names if n.endswith("/data.pkl") and n.count("/") == 1]
    if len(described) != 1:
        raise _bad(reader, "is a zip archive, but not one that torch.save wrote", "pickle")
    prefix = described[0].removesuffix("data.pkl")
    if f"{prefix}constants.pkl" in names:
        raise _bad(reader, "is a TorchScript program, not a table of tensors", "torchscript")
    if f"{prefix}byteorder" in names and archive.read(f"{prefix}byteorder", 16) != b"little":
        raise _bad(reader, "is a torch pickle that was written on a big-endian machine", "byteorder")
    raw = archive.read(described[0], MAX_PICKLE_BYTES)
    try:
        root, end = _interpret(reader, raw, 0)
    except CutShort as e:
        raise _bad(reader, f"is a torch pickle that {e}", "pickle") from e
    if end != len(raw):
        raise _bad(reader, "is a torch pickle that goes on after its end", "pickle")
    return root, lambda storage: archive.locate(f"{prefix}data/{storage.key}")


def _legacy(reader: ByteReader) -> tuple[Any, _Place]:
    """Pickles of magic number, protocol, system, object and storage keys; then each storage: int64 count, bytes."""
    window = 1 << 16
    while True:
        raw = reader.read(0, min(window, reader.size))
        try:
            magic, at = _interpret(reader, raw, 0)
            if magic != _LEGACY_MAGIC:
                raise _bad(reader, "is a pickle, but not one that torch.save wrote", "pickle")
            protocol, at = _interpret(reader, raw, at)
            system, at = _interpret(reader, raw, at)
            seen: dict[str, _Storage] = {}
            root, at = _interpret(reader, raw, at, seen)
            keys, at = _interpret(reader, raw, at)
            break
        except CutShort as e:
            if window >= MAX_PICKLE_BYTES or len(raw) == reader.size:
                raise _bad(reader, f"is a torch pickle that {e}", "truncated") from e
            window *= 16
    if protocol != _LEGACY_PROTOCOL or not isinstance(system, dict) or system.get("little_endian") is not True:
        raise _bad(reader, "is a torch pickle of an unknown kind of machine or protocol", "byteorder")
    places: dict[str, tuple[int, int]] = {}
    for key in keys if isinstance(keys, list) else []:
        storage = seen.get(key) if isinstance(key, str) else None
        if storage is None or key in places:
            raise _bad(reader, "is a torch pickle whose list of storages is not that of its tensors", "pickle")
        if int.from_bytes(reader.read(at, 8), "little") != storage.count:
            raise _bad(reader, f"is a torch pickle whose storage {key} is not as long as its tensors say", "pickle")
        places[key] = (at + 8, storage.nbytes)
        at += 8 + storage.nbytes
        if at > reader.size:
            raise _bad(reader, f"is a torch pickle that is truncated in storage {key}", "truncated")
    return root, lambda storage: places.get(storage.key, (0, -1))


def _interpret(reader: ByteReader, raw: bytes, at: int, seen: dict[str, _Storage] | None = None) -> tuple[Any, int]:
    def find(module: str, name: str) -> Any:
        known = _KNOWN.get((module, name))
        if known is not None:
            return known
        called = f"{module}.{name}"
        raise BadPickle(
            f"names {called if called.isprintable() and len(called) < 120 else ascii(called)[:120]}, "
            "which a table of tensors has no need of; nothing of it was run"
        )

    def load(identity: Any) -> _Storage:
        storage = _storage(identity)
        if seen is not None and seen.setdefault(storage.key, storage) != storage:
            raise BadPickle(f"describes storage {storage.key} in two ways")
        return storage

    try:
        return interpret(raw, at, find, load)
    except CutShort:
        raise
    except BadPickle as e:
        hint = "save its state dict alone, as safetensors, with the program that wrote it"
        raise _bad(reader, f"is a torch pickle that {e}", "pickle", hint) from e


def _storage(identity: Any) -> _Storage:
    if (
        isinstance(identity, tuple)
        and len(identity) in (5, 6)
        and identity[0] == "storage"
        and isinstance(identity[1], _StorageType)
        and isinstance(identity[2], str)
        and _natural(identity[4])
    ):
        if identity[5:] not in ((), (None,)):
            raise BadPickle("has a storage that is a view of another")
        return _Storage(identity[1].dtype, identity[2], identity[4])
    raise BadPickle("refers to something other than a storage")


def _rebuild(
    storage: Any, offset: Any, shape: Any, stride: Any, _grad: Any = None, _hooks: Any = None, special: Any = None
) -> _Tensor:
    return _tensor(storage, storage.dtype, offset, shape, stride, special)


def _rebuild_typed(
    storage: Any, offset: Any, shape: Any, stride: Any, _grad: Any, _hooks: Any, dtype: Any, special: Any = None
) -> _Tensor:
    return _tensor(storage, dtype, offset, shape, stride, special)


def _tensor(storage: Any, dtype: Any, offset: Any, shape: Any, stride: Any, special: Any) -> _Tensor:
    if not (
        isinstance(storage, _Storage)
        and isinstance(dtype, _Dtype)
        and _natural(offset)
        and _naturals(shape)
        and _naturals(stride)
        and len(shape) == len(stride)
    ):
        raise BadPickle("has a malformed tensor")
    return _Tensor(storage, dtype, offset, shape, stride, bool(special))


def _empty_table() -> dict[Any, Any]:
    """An OrderedDict: made empty and filled afterwards; copying another would let a small file fill the memory."""
    return {}


_KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): Stub("OrderedDict", _empty_table),
    ("torch", "Size"): Stub("Size", lambda *_: ()),
    ("torch", "device"): Stub("device", lambda *_: None),
    ("torch._utils", "_rebuild_tensor"): Stub("tensor", _rebuild),
    ("torch._utils", "_rebuild_tensor_v2"): Stub("tensor", _rebuild),
    ("torch._utils", "_rebuild_tensor_v3"): Stub("tensor", _rebuild_typed),
    ("torch._utils", "_rebuild_parameter"): Stub("parameter", lambda data, *_: data),
    ("torch._utils", "_rebuild_parameter_with_state"): Stub("parameter", lambda data, *_: data),
    ("torch.storage", "UntypedStorage"): _StorageType(None),
    **{("torch", name): _StorageType(_Dtype(dtype)) for name, dtype in _STORAGES.items()},
    **{("torch", name): _Dtype(dtype) for name, dtype in _DTYPES.items()},
}


def _model_part(root: Any) -> Any:
    if not isinstance(root, dict) or any(isinstance(v, _Tensor) for v in root.values()):
        return root
    return next((root[key] for key in STATE_DICTS if isinstance(root.get(key), dict)), root)


def _flatten(reader: ByteReader, root: Any) -> Iterator[tuple[str, _Tensor]]:
    if isinstance(root, _Tensor):
        yield BARE, root
        return
    visited = 0
    found: set[str] = set()
    todo: list[tuple[str, int, Any]] = [("", 0, root)]
    while todo:
        name, depth, value = todo.pop()
        visited += 1
        if visited > _MAX_ENTRIES or depth > _MAX_DEPTH or len(name) > _MAX_NAME:
            raise _bad(reader, "is a torch pickle with too many entries, levels or too long names", "pickle")
        if isinstance(value, _Tensor):
            if name in found:
                raise _bad(reader, f"is a torch pickle with two tensors called {name!r}", "duplicate")
            found.add(name)
            yield name, value
        elif isinstance(value, (dict, list, tuple)):
            inner = list(value.items() if isinstance(value, Mapping) else enumerate(value))
            if visited + len(todo) + len(inner) > _MAX_ENTRIES:
                raise _bad(reader, "is a torch pickle with too many entries", "pickle")
            todo += [(f"{name}.{key}" if depth else str(key), depth + 1, v) for key, v in reversed(inner)]


def _ref(reader: ByteReader, name: str, tensor: _Tensor, place: _Place) -> TensorRef:
    dtype, shape = tensor.dtype.name, tensor.shape
    nbytes = num_bytes(dtype, shape)
    if tensor.special:
        raise _bad(reader, f"stores tensor {name!r} conjugated or negated, not as plain bytes", "strided")
    if not _contiguous(shape, tensor.stride):
        raise _bad(
            reader,
            f"stores tensor {name!r} {list(shape)} as a view with strides {list(tensor.stride)}, not as one range",
            "strided",
            "save it again after .contiguous()",
        )
    start = tensor.offset * BITS[dtype] // 8
    if nbytes is None or start + nbytes > tensor.storage.nbytes:
        raise _bad(reader, f"describes tensor {name!r} as larger than its storage", "offsets")
    at, size = place(tensor.storage)
    if nbytes and size != tensor.storage.nbytes:
        raise _bad(
            reader, f"has {max(size, 0)} bytes for the storage of {name!r}, not {tensor.storage.nbytes}", "offsets"
        )
    return TensorRef(name, dtype, shape, reader.path, at + start, nbytes, reader.remote)


def _contiguous(shape: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    """Whether elements lie one after the other in row-major order; strides of single rows do not matter."""
    if 0 in shape:
        return True
    expected = 1
    for size, step in zip(reversed(shape), reversed(stride), strict=True):
        if size != 1 and step != expected:
            return False
        expected *= size
    return True


def _natural(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _naturals(values: Any) -> bool:
    return isinstance(values, tuple) and len(values) <= _MAX_RANK and all(_natural(v) for v in values)


def _bad(reader: ByteReader, what: str, code: str, hint: str | None = None) -> CheckpointError:
    return CheckpointError(f"{reader.shown} {what}", hint=hint, code=f"checkpoint-{code}")
