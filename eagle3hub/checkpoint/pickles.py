"""Torch pickles without torch: tensors are located, and no code in the file runs."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any
from zlib import crc32

from eagle3hub.checkpoint.safetensors import BITS, ZIP, ByteReader, Header, TensorRef, num_bytes, open_local
from eagle3hub.errors import CheckpointError

# Find the uncompressed members of a zip archive by their byte offsets.
#
# The archives torch.save writes hold every tensor uncompressed, so a member is a byte range of the file. Layout of
# the records: PKWARE APPNOTE 6.3.10, sections 4.3.7 (local header), 4.3.12 (central directory), 4.3.14 to 4.3.16
# (ZIP64 and the end records). Every number is checked against the file's size before anything is read or reserved.


_MAX_DIRECTORY_BYTES = 16 << 20
_MAX_MEMBERS = 100_000
_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR64 = struct.Struct("<4sLQL")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_ENCRYPTED = 1


@dataclass(frozen=True, slots=True)
class _Entry:
    flags: int
    method: int
    crc: int
    compressed: int
    size: int
    header: int


class Archive:
    """The directory of a zip file. Raises CheckpointError where it is damaged or out of bounds."""

    def __init__(self, reader: ByteReader) -> None:
        self._reader = reader
        self._entries = self._directory()

    @property
    def names(self) -> list[str]:
        """Names of the members, in the directory's order."""
        return list(self._entries)

    def locate(self, name: str) -> tuple[int, int]:
        """Offset and length of a member's bytes in the file."""
        entry = self._entries.get(name)
        if entry is None:
            raise self._bad(f"has no member {name!r}")
        if entry.flags & _ENCRYPTED:
            raise self._bad(f"has the encrypted member {name!r}", "encrypted")
        if entry.method != 0 or entry.compressed != entry.size:
            raise self._bad(f"has the compressed member {name!r}, which torch.save never writes", "compressed")
        signature, *_, name_length, extra_length = _LOCAL.unpack(self._reader.read(entry.header, _LOCAL.size))
        if signature != b"PK\x03\x04":
            raise self._bad(f"has no member header where its directory places {name!r}")
        offset = entry.header + _LOCAL.size + name_length + extra_length
        if offset + entry.size > self._reader.size:
            raise self._bad(f"places {name!r} beyond its end")
        return offset, entry.size

    def read(self, name: str, limit: int) -> bytes:
        """The bytes of a small member, checked against its checksum."""
        offset, size = self.locate(name)
        if size > limit:
            raise self._bad(f"has {size} bytes in {name!r}; at most {limit} are read")
        data = self._reader.read(offset, size)
        if crc32(data) != self._entries[name].crc:
            raise self._bad(f"has a damaged member {name!r}: its checksum is wrong")
        return data

    def _directory(self) -> dict[str, _Entry]:
        count, size, start = self._end_record()
        if size > _MAX_DIRECTORY_BYTES or count > _MAX_MEMBERS:
            raise self._bad(f"claims {count} members in a directory of {size} bytes, which is too many")
        raw = self._reader.read(start, size)
        entries: dict[str, _Entry] = {}
        at = 0
        for _ in range(count):
            if at + _ENTRY.size > len(raw):
                raise self._bad("has fewer members than its directory claims")
            signature, _, _, flags, method, _, _, crc, *sizes, _, _, _, header = _ENTRY.unpack_from(raw, at)
            compressed, full, name_length, extra_length, comment_length = sizes
            end = at + _ENTRY.size + name_length + extra_length + comment_length
            if signature != b"PK\x01\x02" or end > len(raw):
                raise self._bad("has a damaged directory")
            at += _ENTRY.size
            name = raw[at : at + name_length].decode("utf-8", "replace")
            extra = raw[at + name_length : at + name_length + extra_length]
            full, compressed, header = self._widen(extra, full, compressed, header)
            if name in entries:
                raise self._bad(f"has two members called {name!r}")
            entries[name] = _Entry(flags, method, crc, compressed, full, header)
            at = end
        return entries

    def _end_record(self) -> tuple[int, int, int]:
        """Number of members, and length and offset of the directory."""
        size = self._reader.size
        tail_start = max(0, size - _END.size - 0xFFFF)
        tail = self._reader.read(tail_start, size - tail_start)
        found = tail.rfind(b"PK\x05\x06")
        if found < 0 or found + _END.size > len(tail):
            raise CheckpointError(
                f"{self._reader.shown} is a torch pickle that is truncated: the end of its archive is missing",
                hint="copy or download the file again",
                code="checkpoint-truncated",
            )
        _, disk, first_disk, _, count, length, start, comment = _END.unpack_from(tail, found)
        at = tail_start + found
        if at + _END.size + comment != size or disk or first_disk:
            raise self._bad("does not end where its archive ends")
        if count == 0xFFFF or length == 0xFFFFFFFF or start == 0xFFFFFFFF:
            count, length, start, at = self._end_record64(at)
        if start + length > at:
            raise self._bad("places its directory outside itself")
        return count, length, start

    def _end_record64(self, end: int) -> tuple[int, int, int, int]:
        if end < _LOCATOR64.size:
            raise self._bad("has no ZIP64 record")
        signature, _, at, _ = _LOCATOR64.unpack(self._reader.read(end - _LOCATOR64.size, _LOCATOR64.size))
        if signature != b"PK\x06\x07" or at + _END64.size > end:
            raise self._bad("has no ZIP64 record")
        signature, *_, count, length, start = _END64.unpack(self._reader.read(at, _END64.size))
        if signature != b"PK\x06\x06":
            raise self._bad("has a damaged ZIP64 record")
        return count, length, start, at

    def _widen(self, extra: bytes, full: int, compressed: int, header: int) -> tuple[int, int, int]:
        """The 64-bit numbers of a member whose 32-bit fields say "look there"."""
        numbers = [full, compressed, header]
        wanted = [i for i, n in enumerate(numbers) if n == 0xFFFFFFFF]
        at = 0
        while wanted and at + 4 <= len(extra):
            kind, length = struct.unpack_from("<2H", extra, at)
            if kind == 1:
                if length < 8 * len(wanted) or at + 4 + length > len(extra):
                    break
                for k, i in enumerate(wanted):
                    (numbers[i],) = struct.unpack_from("<Q", extra, at + 4 + 8 * k)
                wanted = []
            at += 4 + length
        if wanted:
            raise self._bad("has a member without its ZIP64 sizes")
        return numbers[0], numbers[1], numbers[2]

    def _bad(self, what: str, code: str = "pickle") -> CheckpointError:
        return CheckpointError(f"{self._reader.shown} is a torch pickle that {what}", code=f"checkpoint-{code}")


# Interpret pickle instructions without importing or calling anything they name.
#
# A small machine instead of a restricted `pickle.Unpickler`: it knows only the instructions that build plain data,
# every name goes through the caller's table, and a call is made only to a `Stub` from that table. The standard
# library's machine would also reserve gigabytes for a hostile memo index or byte array; this one cannot use more
# memory than a fixed multiple of the file's own bytes. Instructions: ``pickletools`` of CPython 3.11.


MAX_PICKLE_BYTES = 16 << 20
_MAX_INSTRUCTIONS = 1_000_000
_MAX_INTEGER_BYTES = 16


class BadPickle(Exception):
    """The instructions do not build plain data; the message continues "a torch pickle that …"."""


class CutShort(BadPickle):
    """The instructions continue beyond the given bytes."""


@dataclass(frozen=True, slots=True)
class Stub:
    """The meaning of a name in a pickle: ``build`` makes a description from the arguments of a call."""

    name: str
    build: Callable[..., Any] | None = None


_MARK = object()
_Table = Callable[[str, str], Any]


def interpret(data: bytes, at: int, find: _Table, load: Callable[[Any], Any]) -> tuple[Any, int]:
    """Run the instructions from ``at`` to their STOP.

    Args:
        find: (module, name) -> what stands for it; raises `BadPickle` for names it does not know.
        load: persistent id -> what stands for it (torch: a storage).

    Returns the object and the position after it. Raises `BadPickle` or `CutShort`.
    """
    machine = _Machine(data, at, find, load)
    try:
        return machine.run(), machine.at
    except (IndexError, KeyError, TypeError, ValueError, AttributeError, struct.error) as e:
        raise BadPickle(f"is damaged at byte {machine.at}") from e


class _Machine:
    def __init__(self, data: bytes, at: int, find: _Table, load: Callable[[Any], Any]) -> None:
        self.data = data
        self.at = at
        self.find = find
        self.load = load
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        for _ in range(_MAX_INSTRUCTIONS):
            code = self.take(1)
            if code == b".":
                return self.pop()
            instruction = _INSTRUCTIONS.get(code)
            if instruction is None:
                raise BadPickle(f"uses instruction {code!r}, which tensors do not need")
            instruction(self)
        raise BadPickle(f"has more than {_MAX_INSTRUCTIONS} instructions")

    def take(self, count: int) -> bytes:
        end = self.at + count
        if end > len(self.data):
            raise CutShort("ends in the middle of an instruction")
        out = self.data[self.at : end]
        self.at = end
        return out

    def number(self, width: int) -> int:
        return int.from_bytes(self.take(width), "little")

    def line(self) -> str:
        end = self.data.find(b"\n", self.at, self.at + 1000)
        if end < 0:
            raise (
                CutShort("has a name without an end")
                if len(self.data) - self.at < 1000
                else BadPickle("has a name of more than 1000 bytes")
            )
        out = self.data[self.at : end].decode("utf-8")
        self.at = end + 1
        return out

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise ValueError
        return value

    def since_mark(self) -> list[Any]:
        for i in range(len(self.stack) - 1, -1, -1):
            if self.stack[i] is _MARK:
                out = self.stack[i + 1 :]
                del self.stack[i:]
                return out
        raise ValueError

    def items(self, pairs: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(pairs) % 2:
            raise ValueError
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if not isinstance(key, str) and not (isinstance(key, int) and -(2**31) <= key < 2**31):
                raise BadPickle("has a table with a key that is neither text nor a small number")
            target[key] = value

    def extend(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            raise ValueError
        target.extend(values)

    def call(self) -> None:
        arguments, what = self.pop(), self.pop()
        if not isinstance(what, Stub) or what.build is None or not isinstance(arguments, tuple):
            raise BadPickle("calls something that is not a tensor's constructor")
        self.push(what.build(*arguments))

    def set_state(self) -> None:
        self.pop()  # attributes, such as a state dict's _metadata, are not tensors
        if not isinstance(self.stack[-1], dict):
            raise BadPickle("sets the state of something that is not a table")

    def named(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise ValueError
        self.push(self.find(module, name))

    def integer(self, width: int) -> None:
        if width > _MAX_INTEGER_BYTES:
            raise BadPickle("has a number of more than 16 bytes")
        self.push(int.from_bytes(self.take(width), "little", signed=True))

    def text(self, width: int) -> None:
        self.push(self.take(width).decode("utf-8"))

    def remember(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def pop_any(self) -> None:
        self.stack.pop()


def _tuple(count: int) -> Callable[[_Machine], None]:
    def build(m: _Machine) -> None:
        values = [m.pop() for _ in range(count)]
        m.push(tuple(reversed(values)))

    return build


def _pair(m: _Machine) -> None:
    value, key = m.pop(), m.pop()
    m.items([key, value])


def _dict(m: _Machine) -> None:
    pairs = m.since_mark()
    m.push({})
    m.items(pairs)


def _append(m: _Machine) -> None:
    value = m.pop()
    m.extend([value])


def _stack_global(m: _Machine) -> None:
    name, module = m.pop(), m.pop()
    m.named(module, name)


def _frame(m: _Machine) -> None:
    m.take(8)


def _protocol(m: _Machine) -> None:
    version = m.number(1)
    if not 2 <= version <= 5:
        raise BadPickle(f"is written in pickle protocol {version}")


def _instance(m: _Machine) -> None:
    m.named(m.line(), m.line())
    raise BadPickle("builds an instance of a class")


_INSTRUCTIONS: dict[bytes, Callable[[_Machine], Any]] = {
    b"\x80": _protocol,
    b"\x95": _frame,
    b"(": lambda m: m.push(_MARK),
    b"0": lambda m: m.pop_any(),
    b"1": lambda m: m.since_mark(),
    b"2": lambda m: m.push(m.stack[-1]),
    b"}": lambda m: m.push({}),
    b"]": lambda m: m.push([]),
    b")": lambda m: m.push(()),
    b"d": _dict,
    b"l": lambda m: m.push(m.since_mark()),
    b"t": lambda m: m.push(tuple(m.since_mark())),
    b"\x85": _tuple(1),
    b"\x86": _tuple(2),
    b"\x87": _tuple(3),
    b"s": _pair,
    b"u": lambda m: m.items(m.since_mark()),
    b"a": _append,
    b"e": lambda m: m.extend(m.since_mark()),
    b"N": lambda m: m.push(None),
    b"\x88": lambda m: m.push(True),
    b"\x89": lambda m: m.push(False),
    b"K": lambda m: m.push(m.number(1)),
    b"M": lambda m: m.push(m.number(2)),
    b"J": lambda m: m.integer(4),
    b"\x8a": lambda m: m.integer(m.number(1)),
    b"\x8b": lambda m: m.integer(m.number(4)),
    b"G": lambda m: m.push(struct.unpack(">d", m.take(8))[0]),
    b"X": lambda m: m.text(m.number(4)),
    b"\x8c": lambda m: m.text(m.number(1)),
    b"\x8d": lambda m: m.text(m.number(8)),
    b"B": lambda m: m.push(m.take(m.number(4))),
    b"C": lambda m: m.push(m.take(m.number(1))),
    b"\x8e": lambda m: m.push(m.take(m.number(8))),
    b"q": lambda m: m.remember(m.number(1)),
    b"p": lambda m: m.remember(int(m.line())),
    b"g": lambda m: m.push(m.memo[int(m.line())]),
    b"V": lambda m: m.push(m.line()),
    b"r": lambda m: m.remember(m.number(4)),
    b"\x94": lambda m: m.remember(len(m.memo)),
    b"h": lambda m: m.push(m.memo[m.number(1)]),
    b"j": lambda m: m.push(m.memo[m.number(4)]),
    b"c": lambda m: m.named(m.line(), m.line()),
    b"\x93": _stack_global,
    b"i": _instance,
    b"R": lambda m: m.call(),
    b"\x81": lambda m: m.call(),
    b"b": lambda m: m.set_state(),
    b"Q": lambda m: m.push(m.load(m.pop())),
}


# Tensors of torch pickles, found without torch and without running anything in the file.
#
# torch.save writes a zip archive whose ``data.pkl`` describes the tensors and whose other members hold their bytes
# uncompressed (torch 2.13, ``torch/serialization.py``); before 1.6 it wrote pickles followed by the bytes. Either
# way a tensor is a byte range of the file, so a pickle converts at the speed of a copy.


STATE_DICTS = ("draft_state_dict", "model_state_dict", "state_dict", "model", "module")
"""Keys under which training states keep the model's tensors, in the order they are tried."""
BARE = "tensor"
"""The name given to a tensor that was saved alone."""

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


@dataclass(frozen=True, slots=True)
class StridedRef(TensorRef):
    """A tensor that is a view of a larger one: its elements lie ``stride`` apart, by dimension, from ``offset`` on.

    ``nbytes`` is the length of the range from its first element to its last.
    """

    stride: tuple[int, ...] = ()


def read_pickle_tensors(path: Path) -> dict[str, TensorRef]:
    """The tensors of a local torch pickle by name, in the order of the file; see `parse_pickle` for the names.

    Raises CheckpointError where the file is damaged, holds anything but plain data and tensors, or a tensor in it
    is not one contiguous range.
    """
    with open_local(path) as reader:
        return parse_pickle(reader).tensors


def parse_pickle(reader: ByteReader, *, views: bool = False) -> Header:
    """Find the tensors of a torch pickle; with ``views``, one that is no range of its own is a `StridedRef`.

    Names: nested tables and lists are joined with dots (``layers.0.weight``). Where the outermost table holds no
    tensor itself and one of `STATE_DICTS` is a table in it, only the first such table counts, and names begin
    inside it: a training state's optimizer is none of a head's tensors. A tensor saved alone is called `BARE`.

    The digest is that of the description (names, dtypes, shapes, places), since the format has no header.
    Raises CheckpointError.
    """
    zipped = reader.read(0, min(reader.size, len(ZIP))) == ZIP
    root, place = _zipped(reader) if zipped else _legacy(reader)
    part, model = _model_part(root)
    refs = {name: _ref(reader, name, tensor, place, views) for name, tensor in _flatten(reader, model)}
    if not refs:
        raise _bad(reader, "is a torch pickle without a single tensor", "pickle")
    described = [[r.name, r.dtype, list(r.shape), r.offset, r.nbytes] for r in refs.values()]
    return Header(refs, None, sha256(json.dumps([reader.size, described]).encode()).hexdigest(), part)


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
            "which a table of tensors does not need; nothing of it was run"
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
    """An OrderedDict, empty at first. Copying another is refused: it would let a small file fill the memory."""
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


def _model_part(root: Any) -> tuple[str | None, Any]:
    """The table of a pickle that holds the model's tensors, and its key in the outermost one if it is another."""
    if not isinstance(root, dict) or any(isinstance(v, _Tensor) for v in root.values()):
        return None, root
    key = next((key for key in STATE_DICTS if isinstance(root.get(key), dict)), None)
    return key, root if key is None else root[key]


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


def _ref(reader: ByteReader, name: str, tensor: _Tensor, place: _Place, views: bool) -> TensorRef:
    dtype, shape = tensor.dtype.name, tensor.shape
    nbytes = num_bytes(dtype, shape)
    if tensor.special:
        raise _bad(reader, f"stores tensor {name!r} conjugated or negated, not as plain bytes", "strided")
    strided = not _contiguous(shape, tensor.stride)
    if strided and views:
        elements = 1 + sum((size - 1) * step for size, step in zip(shape, tensor.stride, strict=True))
        nbytes = elements * BITS[dtype] // 8
    elif strided:
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
    if strided:
        return StridedRef(name, dtype, shape, reader.path, at + start, nbytes, reader.remote, tensor.stride)
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
