"""Recognise and check the contents of files: PNG, JPEG, other kinds, plain text, safetensors headers."""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from eagle3hub.checkpoint.safetensors import MAX_HEADER_BYTES, Header, parse_header
from eagle3hub.errors import CheckpointError
from eagle3hub.publishing.files import LocalFile

# PNG files (ISO/IEC 15948): chunks, their checks, their unpacked texts


PNG_START = b"\x89PNG\r\n\x1a\n"
MAX_PICTURE_BYTES = 64 << 20
"""A picture on a model card is far smaller. Larger ones are not read into memory."""
_MAX_TEXT = 16 << 20
_MAX_PNG_PIXELS = 1 << 28
_MUST = {b"IHDR", b"PLTE", b"IDAT", b"IEND"}
_MAY = {b"cHRM", b"gAMA", b"sBIT", b"sRGB", b"bKGD", b"hIST", b"tRNS", b"pHYs", b"tIME", b"cICP"}
_TEXTS = {b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"iCCP"}
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


class Malformed(ValueError):
    """A file is not what it should be. The message completes a sentence that starts with the file's name."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A chunk of a picture: its name, and where its data starts and ends in the file."""

    name: bytes
    start: int
    end: int

    @property
    def printable_name(self) -> str:
        """The name as text."""
        return self.name.decode("ascii", "replace") if self.name.isalpha() else "unnamed"


def png_chunks(data: bytes) -> list[Chunk]:
    """Return every chunk up to IEND. Raises Malformed if lengths or checksums are wrong, or bytes follow."""
    if not data.startswith(PNG_START):
        raise Malformed("does not begin like a PNG picture")
    found: list[Chunk] = []
    at = len(PNG_START)
    while not found or found[-1].name != b"IEND":
        if at + 12 > len(data):
            raise Malformed("ends before its IEND chunk")
        start, length = at + 8, int.from_bytes(data[at : at + 4], "big")
        end = start + length
        if end + 4 > len(data):
            raise Malformed(f"states {length} bytes for a chunk and ends before them")
        chunk = Chunk(data[at + 4 : start], start, end)
        if zlib.crc32(memoryview(data)[at + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            raise Malformed(f"has a {chunk.printable_name} chunk whose check sum is wrong")
        found.append(chunk)
        at = end + 4
    if at != len(data):
        raise Malformed(f"has {len(data) - at} bytes after its end")
    return found


def chunk_text(data: bytes, chunk: Chunk) -> bytes:
    """Return the text of a chunk that is not pixels, unpacked if it is packed. Raises Malformed."""
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


def chunk_texts(data: bytes) -> dict[Chunk, bytes]:
    """Return the text of each chunk that is not pixels. Raises Malformed, also if they unpack to too much."""
    found: dict[Chunk, bytes] = {}
    left = _MAX_TEXT
    for chunk in png_chunks(data):
        found[chunk] = chunk_text(data, chunk)
        left -= max(0, len(found[chunk]) - (chunk.end - chunk.start))
        if left < 0:
            raise Malformed("has texts that unpack to more than a picture of a card needs")
    return found


def check_png(data: bytes) -> None:
    """Raise Malformed unless the bytes are one whole PNG picture and nothing else."""
    found = list(chunk_texts(data))
    names = [chunk.name for chunk in found]
    for chunk in found:
        if chunk.name not in _MUST | _MAY | _TEXTS:
            raise Malformed(f"has a chunk of a kind that pictures of a card do not need ({chunk.printable_name})")
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
        raise Malformed(f"has a {chunk.printable_name} chunk that cannot be unpacked") from e
    if not stream.eof or stream.unused_data or stream.unconsumed_tail:
        raise Malformed(f"has a {chunk.printable_name} chunk that is cut short, too large or followed by more")
    return text


def _size(header: bytes) -> int:
    """Return the size of the unpacked pixels in bytes. Each row has one more byte, its filter."""
    if len(header) != 13:
        raise Malformed("has an IHDR chunk that is not 13 bytes long")
    width, height = int.from_bytes(header[:4], "big"), int.from_bytes(header[4:8], "big")
    depth, colour, packing, filters, interlaced = header[8:]
    if depth not in _DEPTHS.get(colour, ()) or packing or filters or interlaced > 1:
        raise Malformed("has a header that is not valid in a PNG picture")
    if not 0 < width * height <= _MAX_PNG_PIXELS:
        raise Malformed(f"has {width} × {height} pixels")
    bits = depth * _CHANNELS[colour]
    parts = _PASSES if interlaced else ((0, 0, 1, 1),)
    sizes = [(-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in parts]
    return sum(rows * (1 + -(-columns * bits // 8)) for columns, rows in sizes if columns > 0 and rows > 0)


# JPEG files (ITU-T T.81): segments and their checks


JPEG_START = b"\xff\xd8\xff"
_MAX_JPEG_PIXELS = 1 << 26
_FRAMES = {0xC0, 0xC1, 0xC2}
_NAMES = {0xC4: "DHT", 0xDB: "DQT", 0xDD: "DRI", 0xFE: "COM", 0xE0: "APP0", 0xE1: "APP1", 0xE2: "APP2"}
_NAMES |= {0xED: "APP13", 0xEE: "APP14", 0xDA: "SOS"} | dict.fromkeys(_FRAMES, "SOF")


def jpeg_segments(data: bytes) -> list[Chunk]:
    """Return every segment with a length, up to the end of the picture. Raises Malformed if bytes follow."""
    if not data.startswith(JPEG_START):
        raise Malformed("does not begin like a JPEG picture")
    found: list[Chunk] = []
    at = 2
    while True:
        if data[at : at + 1] != b"\xff" or at + 1 >= len(data):
            raise Malformed("has bytes between its segments, or is cut short")
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if marker == 0xD9:
            break
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if marker not in _NAMES or length < 2 or at + 2 + length > len(data):
            raise Malformed(
                f"has a segment of a kind that pictures of a card do not need (FF{marker:02X}), or cut short"
            )
        found.append(Chunk(_NAMES[marker].encode(), at + 4, at + 2 + length))
        at += 2 + length
        if marker == 0xDA:
            at = _after_scan(data, at)
    if at + 2 != len(data):
        raise Malformed(f"has {len(data) - at - 2} bytes after its end")
    return found


def check_jpeg(data: bytes) -> None:
    """Raise Malformed unless the bytes are one whole JPEG picture and nothing else."""
    names = [segment.name for segment in jpeg_segments(data)]
    if names.count(b"SOF") != 1 or b"SOS" not in names:
        raise Malformed("has no pixels, or more than one picture")
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as picture:
            if picture.width * picture.height > _MAX_JPEG_PIXELS:
                raise Malformed(f"has {picture.width} × {picture.height} pixels")
            picture.load()
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError) as e:
        if isinstance(e, Malformed):
            raise
        raise Malformed("has pixels that cannot be unpacked") from e


def _after_scan(data: bytes, at: int) -> int:
    """Return the offset of the next marker after packed pixels.

    FF00 is a byte of the pixels, and FFD0 to FFD7 stand between them.
    """
    while True:
        at = data.find(b"\xff", at)
        if at < 0 or at + 1 >= len(data):
            raise Malformed("ends before its pixels do")
        if data[at + 1] != 0 and not 0xD0 <= data[at + 1] <= 0xD7:
            return at
        at += 2


# The kind of a file by its first bytes


_PACKED = (
    (rb"PK\x03\x04|PK\x05\x06", "a ZIP archive"),
    (rb"\x1f\x8b", "a gzip file"),
    (rb"BZh[1-9]", "a bzip2 file"),
    (rb"\xfd7zXZ\0", "an xz file"),
    (rb"\x28\xb5\x2f\xfd", "a zstd file"),
    (rb"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (rb"Rar!\x1a\x07", "a RAR archive"),
    (rb"\x04\x22\x4d\x18", "an LZ4 file"),
)
_OTHERS = (
    (rb"\x80[\x02-\x05](?=.)", "a pickle"),
    (rb"\x7fELF", "an ELF program"),
    (rb"MZ.{58}", "a Windows program"),
    (rb"(?:\xfe\xed\xfa[\xce\xcf]|[\xce\xcf]\xfa\xed\xfe|\xca\xfe\xba\xbe)", "a program of macOS or Java"),
    (rb"\0asm", "a WebAssembly program"),
    (rb"\xef?\xbb?\xbf?#!", "a script to be run"),
    (rb"\x89PNG\r\n\x1a\n", "a PNG picture"),
    (rb"\xff\xd8\xff", "a JPEG picture"),
    (rb"GIF8[79]a", "a GIF picture"),
    (rb"RIFF.{4}WEBP", "a WebP picture"),
    (rb"%PDF-", "a PDF file"),
    (rb"SQLite format 3\0", "an SQLite database"),
    (rb"\x89HDF\r\n", "an HDF5 file"),
    (rb"\x93NUMPY", "a NumPy array"),
    (rb"GGUF", "a GGUF file"),
    (rb"PAR1", "a Parquet file"),
    (rb"version https://git-lfs\.github\.com/spec/", "a pointer of Git LFS: the file it stands for was not fetched"),
    (rb"\xff\xfe|\xfe\xff", "text in UTF-16"),
    (rb".{257}ustar", "a tar archive"),
    (rb"(?i:\s*<!doctype\s+html|\s*<html[\s>]|\s*<script[\s>])", "an HTML page"),
    (rb"(?s:\s*(?:<\?xml.{0,300})?(?:<!--.{0,300}-->\s*)?<(?:svg|!DOCTYPE\s+svg)[\s>])", "an SVG picture"),
    (rb"\s*<\?xml[\s>]", "an XML document"),
    (rb"-----BEGIN ", "a key or certificate in PEM"),
    (rb"[\x01-\xff][\x00-\xff]{2}\0{5}\{\"", "a safetensors file"),
)
_KINDS = [(re.compile(pattern, re.S), what) for pattern, what in (*_PACKED, *_OTHERS)]
RECOGNISED_BYTES = 1024
"""How many bytes of a file `recognised_kind` looks at."""


def recognised_kind(start: bytes) -> str | None:
    """Return the kind of a file with these first bytes, such as ``a ZIP archive``, or None."""
    return next((what for pattern, what in _KINDS if pattern.match(start)), None)


def recognised_archive(start: bytes) -> str | None:
    """Return the kind of a file with these first bytes if its contents are compressed, else None."""
    what = recognised_kind(start)
    return what if what in {name for _, name in _PACKED} else None


# Plain text: UTF-8 without invisible characters or characters that move other text


_UNSEEN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufeff\ufffe\uffff]")
_BIDI = re.compile("[\u202a-\u202e\u2066-\u2069]")
_DISGUISED = re.compile(r"script|page|XML|SVG|PEM|PDF|Git LFS")


def text_of(data: bytes) -> str:
    """Decode UTF-8 text. Raises Malformed, which names the line of the first byte that is not UTF-8."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as e:
        line = data.count(b"\n", 0, e.start) + 1
        raise Malformed(f"holds bytes in line {line} that are not UTF-8 text (save it as UTF-8)") from e


def plain_text(data: bytes) -> str:
    """Return UTF-8 text without control characters and direction marks. Raises Malformed."""
    text = text_of(data)
    for what, pattern in (("an invisible character", _UNSEEN), ("a mark that turns the direction of text", _BIDI)):
        if found := pattern.search(text):
            line = text.count("\n", 0, found.start()) + 1
            raise Malformed(f"holds {what}, U+{ord(found[0]):04X}, in line {line}")
    return text


def check_text(data: bytes) -> None:
    """Raise Malformed unless the bytes are plain text that does not begin like another kind of file."""
    plain_text(data)
    what = recognised_kind(data[:RECOGNISED_BYTES])
    if what is not None and _DISGUISED.search(what):
        raise Malformed("begins like another kind of file")


def check_license(data: bytes) -> None:
    """Run `check_text`, but allow the form feeds in GNU's licenses."""
    check_text(data.replace(b"\f", b""))


# Headers of safetensors files


class _Reader:
    """A `ByteReader` for a file of a release. Its messages begin with ``it``."""

    remote: Callable[[int, int], bytes] | None = None
    shown = "it"

    def __init__(self, file: LocalFile) -> None:
        self.path = Path(file.path)
        self.size = file.size
        self._file = file

    def read(self, offset: int, count: int) -> bytes:
        source = self._file.source
        if isinstance(source, bytes):
            data = source[offset : offset + count]
        else:
            with source.open("rb") as f:
                f.seek(offset)
                data = f.read(count)
        if len(data) != count:
            raise CheckpointError("it ends before it should", code="checkpoint-truncated")
        return data


def safetensors_header(file: LocalFile) -> Header:
    """Return the header of a safetensors file.

    Raises OSError, and CheckpointError whose message begins with ``it``.
    """
    return parse_header(_Reader(file))


def header_bytes(file: LocalFile) -> bytes:
    """Return the bytes of a safetensors file's header. Raises as `safetensors_header`."""
    safetensors_header(file)
    reader = _Reader(file)
    length = int.from_bytes(reader.read(0, 8), "little")
    return reader.read(8, min(length, MAX_HEADER_BYTES))
