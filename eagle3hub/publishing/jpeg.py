"""The segments of a JPEG file (ITU-T T.81): read and checked."""

from __future__ import annotations

import io

from eagle3hub.publishing.png import Chunk, Malformed

START = b"\xff\xd8\xff"
MAX_BYTES = 64 << 20
_MAX_PIXELS = 1 << 26
_FRAMES = {0xC0, 0xC1, 0xC2}
_NAMES = {0xC4: "DHT", 0xDB: "DQT", 0xDD: "DRI", 0xFE: "COM", 0xE0: "APP0", 0xE1: "APP1", 0xE2: "APP2"}
_NAMES |= {0xED: "APP13", 0xEE: "APP14", 0xDA: "SOS"} | dict.fromkeys(_FRAMES, "SOF")


def segments(data: bytes) -> list[Chunk]:
    """Every segment with a length, up to the end of the picture. Raises Malformed where bytes follow."""
    if not data.startswith(START):
        raise Malformed("does not begin as JPEG pictures do")
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
    """Raise Malformed unless the bytes are a JPEG picture, whole, and nothing besides."""
    names = [segment.name for segment in segments(data)]
    if names.count(b"SOF") != 1 or b"SOS" not in names:
        raise Malformed("has no pixels, or more than one picture")
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as picture:
            if picture.width * picture.height > _MAX_PIXELS:
                raise Malformed(f"has {picture.width} × {picture.height} pixels")
            picture.load()
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError, Image.DecompressionBombError) as e:
        if isinstance(e, Malformed):
            raise
        raise Malformed("has pixels that cannot be unpacked") from e


def _after_scan(data: bytes, at: int) -> int:
    """Where the next marker stands after packed pixels: FF00 is a byte of them, FFD0 to FFD7 are between them."""
    while True:
        at = data.find(b"\xff", at)
        if at < 0 or at + 1 >= len(data):
            raise Malformed("ends before its pixels do")
        if data[at + 1] != 0 and not 0xD0 <= data[at + 1] <= 0xD7:
            return at
        at += 2
