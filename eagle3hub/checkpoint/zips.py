"""Find the uncompressed members of a zip archive by their byte offsets.

The archives torch.save writes hold every tensor uncompressed, so a member is a byte range of the file. Layout of
the records: PKWARE APPNOTE 6.3.10, sections 4.3.7 (local header), 4.3.12 (central directory), 4.3.14 to 4.3.16
(ZIP64 and the end records). Every number is held against the file's size before anything is read or reserved.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from zlib import crc32

from eagle3hub.checkpoint.reader import ByteReader
from eagle3hub.errors import CheckpointError

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
        """The bytes of a small member, held against its checksum."""
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
