"""What a file is by its first bytes, in words, where that can be told."""

from __future__ import annotations

import re

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
FIRST = 1024
"""How many bytes of a file `recognised` looks at."""


def recognised(start: bytes) -> str | None:
    """What a file with these first bytes is: ``a ZIP archive``; None where nothing is recognised."""
    return next((what for pattern, what in _KINDS if pattern.match(start)), None)


def packed(start: bytes) -> str | None:
    """What a file with these first bytes is, if its contents are compressed."""
    what = recognised(start)
    return what if what in {name for _, name in _PACKED} else None
