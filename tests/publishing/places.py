"""Files of a release, each with a text hidden in it: path and bytes."""

from __future__ import annotations

import base64
import json
import re
import struct
import zlib
from collections.abc import Callable

import numpy as np
from safetensors.numpy import save

WORDS = "A head for speculative decoding.\nIt was trained on a small cluster; see below for how it was measured.\n"
TAIL = "\nMore is said in the report.\n"


def text_of(secret: str) -> str:
    return f"{WORDS}- Note: {secret} (from the run)\n{TAIL}"


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(*chunks: tuple[bytes, bytes], after: bytes = b"") -> bytes:
    """Return a PNG of 2 × 2 grey pixels with additional chunks."""
    head = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 2, 8, 0, 0, 0, 0))
    pixels = png_chunk(b"IDAT", zlib.compress(b"\0\1\2" * 2))
    more = b"".join(png_chunk(name, data) for name, data in chunks)
    return b"\x89PNG\r\n\x1a\n" + head + more + pixels + png_chunk(b"IEND", b"") + after


def jpeg(*segments: tuple[int, bytes], after: bytes = b"") -> bytes:
    """Return a JPEG of 8 × 8 pixels with additional segments."""
    import io

    from PIL import Image

    drawn = io.BytesIO()
    Image.new("L", (8, 8), 128).save(drawn, "JPEG")
    data = drawn.getvalue()
    more = b"".join(struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body for marker, body in segments)
    return data[:2] + more + data[2:] + after


def svg(inside: str, comment: str = "drawn") -> bytes:
    return (
        f'<?xml version="1.0" encoding="utf-8"?>\n<!-- {comment} -->\n<svg xmlns="http://www.w3.org/2000/svg" '
        f'width="10pt" height="10pt" viewBox="0 0 10 10"><g id="a"><text x="1" y="2">{inside}</text></g></svg>\n'
    ).encode()


def xml(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def exif(text: str) -> bytes:
    """Return an image description in a little-endian TIFF structure."""
    data = text.encode() + b"\0"
    return b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 0x010E, 2, len(data), 26) + b"\0\0\0\0" + data


def weights(metadata: dict[str, str] | None = None, name: str = "fc.weight") -> bytes:
    return save({name: np.zeros((4, 4), np.float16)}, metadata=metadata)


def _escaped(text: str) -> str:
    return "".join(rf"\u{ord(c):04x}" for c in text)


PLACES: dict[str, Callable[[str], tuple[str, bytes]]] = {
    "Markdown": lambda s: ("README.md", text_of(s).encode()),
    "Markdown, code": lambda s: ("README.md", f"{WORDS}```bash\n{s}\n```\n".encode()),
    "Markdown, escaped": lambda s: ("README.md", text_of(re.sub(r"([_*~`])", r"\\\1", s)).encode()),
    "Markdown, table": lambda s: ("README.md", f"{WORDS}\n| run |by|\n|---|---|\n|{s}|me|\n".encode()),
    "Markdown, marked": lambda s: ("README.md", f"{WORDS}with **{s}**\n".encode()),
    "Markdown, link": lambda s: ("README.md", f"{WORDS}[run](https://example.org/?a={s}&b=1)\n".encode()),
    "in parentheses": lambda s: ("NOTICE", f"{WORDS}({s}), and so on\n".encode()),
    "before a full stop": lambda s: ("NOTICE", f"{WORDS}It is {s}.\n".encode()),
    "before a comma": lambda s: ("NOTICE", f"{WORDS}with '{s}', and\n".encode()),
    "end of a file": lambda s: ("NOTICE", f"{WORDS}{s}".encode()),
    "the whole file": lambda s: ("NOTICE", s.encode()),
    "Markdown, CRLF": lambda s: ("README.md", text_of(s).replace("\n", "\r\n").encode()),
    "LICENSE in Latin-1": lambda s: ("LICENSE", "Copyright © 2026 Ä. Ö.\n".encode("latin-1") + text_of(s).encode()),
    "UTF-8 with a stray byte": lambda s: ("NOTICE", "Übung\n".encode() + b"\xff\xfe\x80\n" + text_of(s).encode()),
    "stray byte before it": lambda s: ("NOTICE", b"\xe9" + s.encode() + b"\xe9"),
    "UTF-16": lambda s: ("NOTICE", text_of(s).encode("utf-16")),
    "UTF-16 BE, BOM": lambda s: ("NOTICE", b"\xfe\xff" + text_of(s).encode("utf-16-be")),
    "UTF-16 LE, no BOM": lambda s: ("NOTICE", text_of("Ωβ " + s).encode("utf-16-le")),
    "UTF-16 BE, no BOM": lambda s: ("NOTICE", text_of(s).encode("utf-16-be")),
    "UTF-32": lambda s: ("NOTICE", text_of(s).encode("utf-32")),
    "UTF-16 in a UTF-8 file": lambda s: ("NOTICE", WORDS.encode() + f"\n{s}\n".encode("utf-16-le") + TAIL.encode()),
    "zero bytes around it": lambda s: ("NOTICE", b"name\0" + s.encode() + b"\0more\0"),
    "JSON": lambda s: ("config.json", json.dumps({"model_type": "llama", "note": s}, indent=1).encode()),
    "JSON, after a line break": lambda s: ("config.json", json.dumps({"note": f"first\n{s}\nlast"}).encode()),
    "JSON, escaped characters": lambda s: ("reports/a.json", f'{{"note": "{_escaped(s)}"}}'.encode()),
    "JSON in JSON": lambda s: ("config.json", json.dumps({"log": json.dumps({"a": f"x\n{s}\ny"})}).encode()),
    "YAML": lambda s: ("CITATION.cff", ("cff-version: 1.2.0\nmessage: |\n  " + s.replace("\n", "\n  ")).encode()),
    "percent-encoded": lambda s: ("README.md", text_of("".join(f"%{b:02X}" for b in s.encode())).encode()),
    "base64": lambda s: ("README.md", text_of(base64.b64encode(s.encode()).decode()).encode()),
    "base64 over lines": lambda s: ("README.md", base64.encodebytes(text_of(s).encode())),
    "character references": lambda s: ("README.md", text_of("".join(f"&#{ord(c)};" for c in s)).encode()),
    "safetensors metadata": lambda s: ("model.safetensors", weights({"format": "pt", "note": s})),
    "safetensors tensor name": lambda s: ("model.safetensors", weights(name=s)),
    "PNG tEXt": lambda s: ("assets/a.png", png((b"tEXt", b"Comment\0" + s.encode()))),
    "PNG zTXt": lambda s: ("assets/a.png", png((b"zTXt", b"Comment\0\0" + zlib.compress(s.encode())))),
    "PNG iTXt": lambda s: ("assets/a.png", png((b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + s.encode()))),
    "PNG iTXt, packed": lambda s: ("assets/a.png", png((b"iTXt", b"Note\0\1\0en\0\0" + zlib.compress(s.encode())))),
    "PNG EXIF": lambda s: ("assets/a.png", png((b"eXIf", exif(s)))),
    "after a PNG's end": lambda s: ("assets/a.png", png(after=s.encode())),
    "JPEG comment": lambda s: ("assets/a.jpg", jpeg((0xFE, s.encode()))),
    "JPEG EXIF": lambda s: ("assets/a.jpg", jpeg((0xE1, b"Exif\0\0" + exif(s)))),
    "JPEG EXIF in UTF-16": lambda s: ("assets/a.jpg", jpeg((0xE1, b"Exif\0\0" + s.encode("utf-16-le")))),
    "after a JPEG's end": lambda s: ("assets/a.jpg", jpeg(after=s.encode())),
    "SVG text": lambda s: ("charts/a.svg", svg(xml(s))),
    "SVG comment": lambda s: ("charts/a.svg", svg("τ", comment=s)),
    "long line": lambda s: ("reports/a.json", b'{"a": "' + b"tau is 2.5, " * 20_000 + s.encode() + b' x" }'),
}
"""The places in one file, by name."""
