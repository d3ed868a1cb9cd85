"""The chunks of a PNG file (ISO/IEC 15948): read, checked, and their texts unpacked."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from itertools import pairwise

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_BYTES = 64 << 20
"""A picture of a model card is far smaller; larger ones are not read into memory."""
_MAX_TEXT = 16 << 20
_MAX_PIXELS = 1 << 28
_MUST = {b"IHDR", b"PLTE", b"IDAT", b"IEND"}
_MAY = {b"cHRM", b"gAMA", b"sBIT", b"sRGB", b"bKGD", b"hIST", b"tRNS", b"pHYs", b"tIME", b"cICP"}
_TEXTS = {b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"iCCP"}
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


class Malformed(ValueError):
    """What a file is not, as the end of a sentence that begins with its name."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A chunk: its name, and where its data lies in the file."""

    name: bytes
    start: int
    end: int

    @property
    def shown(self) -> str:
        """Its name as text."""
        return self.name.decode("ascii", "replace") if self.name.isalpha() else "unnamed"


def chunks(data: bytes) -> list[Chunk]:
    """Every chunk up to IEND. Raises Malformed where lengths or check sums are wrong, or bytes follow."""
    if not data.startswith(SIGNATURE):
        raise Malformed("does not begin as PNG pictures do")
    found: list[Chunk] = []
    at = len(SIGNATURE)
    while not found or found[-1].name != b"IEND":
        if at + 12 > len(data):
            raise Malformed("ends before its IEND chunk")
        start, length = at + 8, int.from_bytes(data[at : at + 4], "big")
        end = start + length
        if end + 4 > len(data):
            raise Malformed(f"claims {length} bytes for a chunk and ends before")
        chunk = Chunk(data[at + 4 : start], start, end)
        if zlib.crc32(memoryview(data)[at + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            raise Malformed(f"has a {chunk.shown} chunk whose check sum is wrong")
        found.append(chunk)
        at = end + 4
    if at != len(data):
        raise Malformed(f"has {len(data) - at} bytes after its end")
    return found


def texts(data: bytes, chunk: Chunk) -> bytes:
    """What a chunk that is no pixels says, unpacked where it is packed. Raises Malformed."""
    raw = data[chunk.start : chunk.end]
    if chunk.name in (b"zTXt", b"iCCP"):
        name, _, packed = raw.partition(b"\0")
        return name + b"\n" + _unpacked(chunk, packed[1:])
    if chunk.name == b"iTXt":
        name, _, rest = raw.partition(b"\0")
        language, _, more = rest[2:].partition(b"\0")
        translated, _, text = more.partition(b"\0")
        return b"\n".join([name, language, translated, _unpacked(chunk, text) if rest[:1] == b"\1" else text])
    return b"" if chunk.name == b"IDAT" else raw


def check_png(data: bytes) -> None:
    """Raise Malformed unless the bytes are a PNG picture, whole, and nothing besides."""
    found = chunks(data)
    names = [chunk.name for chunk in found]
    for chunk in found:
        if chunk.name not in _MUST | _MAY | _TEXTS:
            raise Malformed(f"has a chunk of a kind that pictures of a card do not need ({chunk.shown})")
        texts(data, chunk)
    if (
        names[0] != b"IHDR"
        or names.count(b"IHDR") != 1
        or names.count(b"IEND") != 1
        or found[-1].end != found[-1].start
    ):
        raise Malformed("does not begin with IHDR or end with an empty IEND")
    pixels = [i for i, name in enumerate(names) if name == b"IDAT"]
    if not pixels or any(b - a != 1 for a, b in pairwise(pixels)):
        raise Malformed("has no pixels, or other chunks among them")
    stream = zlib.decompressobj()
    wanted, seen = _size(data[found[0].start : found[0].end]), 0
    try:
        for i in pixels:
            packed = data[found[i].start : found[i].end]
            while packed and not stream.eof:
                seen += len(stream.decompress(packed, 1 << 20))
                packed = stream.unconsumed_tail
                if seen > wanted:
                    raise Malformed("unpacks to more bytes than its size in pixels has")
            if packed and stream.eof:
                raise Malformed("has bytes after its pixels")
        seen += len(stream.flush())
    except zlib.error as e:
        raise Malformed("has pixels that cannot be unpacked") from e
    if seen != wanted or not stream.eof or stream.unused_data:
        raise Malformed("has fewer pixels than its size says, or bytes after them")


def _unpacked(chunk: Chunk, packed: bytes) -> bytes:
    stream = zlib.decompressobj()
    try:
        text = stream.decompress(packed, _MAX_TEXT)
    except zlib.error as e:
        raise Malformed(f"has a {chunk.shown} chunk that cannot be unpacked") from e
    if not stream.eof or stream.unused_data or stream.unconsumed_tail:
        raise Malformed(f"has a {chunk.shown} chunk that is cut short, too large or followed by more")
    return text


def _size(header: bytes) -> int:
    """Bytes of the pixels before packing: each row has one byte more, its filter."""
    if len(header) != 13:
        raise Malformed("has an IHDR chunk that is not 13 bytes long")
    width, height = int.from_bytes(header[:4], "big"), int.from_bytes(header[4:8], "big")
    depth, colour, packing, filters, interlaced = header[8:]
    if depth not in _DEPTHS.get(colour, ()) or packing or filters or interlaced > 1:
        raise Malformed("has a header that no PNG picture has")
    if not 0 < width * height <= _MAX_PIXELS:
        raise Malformed(f"has {width} × {height} pixels")
    bits = depth * _CHANNELS[colour]
    parts = _PASSES if interlaced else ((0, 0, 1, 1),)
    sizes = [(-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in parts]
    return sum(rows * (1 + -(-columns * bits // 8)) for columns, rows in sizes if columns > 0 and rows > 0)
