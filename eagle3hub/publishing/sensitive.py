r"""Find secrets in the files of a release: every byte is searched, whatever the file's kind or encoding.

Each file is searched in several views:

- the bytes as they are, so that no encoding hides ASCII text;
- the bytes without zero bytes, for UTF-16 and UTF-32 with or without a byte order mark;
- the text with escapes undone twice (``\u0068``, ``\x68``, ``\n``, ``&#104;``, ``%68``, ``\_``);
- the text joined where a line ends, a string is put together, or a mark or tag stands inside a word;
- base64 and hexadecimal digits decoded, and what gzip, zlib or a PNG picture packs inside them;
- the compressed texts of PNG pictures;
- every path.

The numbers of tensors are not searched, because they contain every short text somewhere: of a safetensors file only
the header is searched, and only tensors may follow it. Pixels are searched only as the bytes in the file. A file that
cannot be searched is a problem, just like a secret.

Files are read in pieces that overlap by more than the longest secret. No message contains a part of a secret.
"""

from __future__ import annotations

import base64
import binascii
import io
import re
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import BinaryIO

from eagle3hub.errors import CheckpointError, Problem
from eagle3hub.publishing import content
from eagle3hub.publishing.content import header_bytes, recognised_archive
from eagle3hub.publishing.files import LocalFile
from eagle3hub.publishing.secrets import find_secrets

SECRET_GATE = "publish-secret"
_HINT = "remove it, and revoke it if others may have seen it; in an example, write $HF_TOKEN or <your token>"
_PIECE = 8 << 20
_OVERLAP = 64 << 10
_BLOCK = 64 << 10
_MOST = 50
_ESCAPE = re.compile(
    rb"\\u\{?0{0,4}([2-7][0-9a-fA-F])\}?|\\x([2-7][0-9a-fA-F])|&#0{0,4}(\d{2,3});|&#[xX]0{0,4}([2-7][0-9a-fA-F]);"
    rb"|%([2-7][0-9a-fA-F])|\\U0{6}([2-7][0-9a-fA-F])|\\(0?[4-7][0-7]|1[0-7]{2})"
    rb"|(\\[nrtbfv0])|\\([!-/:-@\[-`{-~])|&(amp|quot|apos|lt|gt);"
)
_WIDE = re.compile(rb"(?:[^\0]\0{1,3}){4,}|(?:\0{1,3}[^\0]){4,}")
"""ASCII in UTF-16 or UTF-32, in either byte order and from any offset."""
_NAMED = {b"amp": b"&", b"quot": b'"', b"apos": b"'", b"lt": b"<", b"gt": b">"}
_IN_WORD = rb"[A-Za-z0-9_.+/=~\-]"
_BEFORE, _AFTER = 12, 8
"""The fewest characters of a word on both sides of an end of a line that may tear it."""
_LINE_ENDS = rb"|".join(
    rb"%b(?<=%b{%d}%b)" % (end, _IN_WORD, _BEFORE, end) for end in (rb"\n", rb"\r\n", rb"\\\n", rb"\\\r\n")
)
_TORN = re.compile(
    rb"(?P<line>(?:%b)[ \t>#]{0,16})(?=%b{%d})"
    % (_LINE_ENDS, _IN_WORD, _AFTER)
    + rb"|\"[ \t+]{0,4}(?:\\?\r?\n[ \t+]{0,16})?\"|'[ \t+]{0,4}(?:\\?\r?\n[ \t+]{0,16})?'"
    rb"|(?:</?[A-Za-z][^<>]{0,200}>|<!--[^<>]{0,80}-->|<!\[CDATA\[|\]\]>){1,9}|\*{1,3}"
    rb"|(?:\xe2\x80[\x8b-\x8f]|\xe2\x81[\xa0-\xa4]|\xc2\xad|\xef\xbb\xbf)+"
)
"""What may stand inside a secret that was wrapped, marked up or put together, such as the end of a line."""
_WORD = re.compile(_IN_WORD + rb"*")
_END_OF_WORD = re.compile(_IN_WORD + rb"*$")
_BASE64 = re.compile(
    rb"[A-Za-z0-9+/_\-]{16,}(?:(?:[\"']?\\?\r?\n[ \t>#\"']{0,20}| {2,4}|\"[ \t]{0,3}\")[A-Za-z0-9+/_\-]{4,})*"
)
_NOT_BASE64 = re.compile(rb"[^A-Za-z0-9+/_\-]+")
_HEX = re.compile(rb"[0-9a-fA-F]{40,}")
_UNPACKED = 32 << 20
"""The most bytes that the packed parts of one piece may unpack to; the rest is not searched."""
_PACKED_ONE = 4 << 20


@dataclass(frozen=True, slots=True)
class _View:
    """Bytes to search.

    ``line`` returns the line, from 0, of an offset. With ``forms``, only secrets with a form of their own are
    searched.
    """

    data: bytes
    line: Callable[[int], int]
    forms: bool = False


def secret_problems(file: LocalFile) -> Iterator[Problem]:
    """Yield a problem for each place in a file that may hold a secret, and for what cannot be searched."""
    name = safe_path(file.path)
    if name != file.path:
        yield _problem(f"the name of {name} holds what looks like a secret ({', '.join(_kinds_in_path(file.path))})")
    try:
        with open_file(file) as f:
            yield from _contents(file, name, f)
    except OSError as e:
        yield _problem(f"{name} cannot be searched for secrets: {e.strerror}", "make it readable")


@lru_cache(maxsize=4096)
def safe_path(path: str) -> str:
    """Return a path for messages. The parts that hold a secret are withheld."""
    if not _kinds_in_path(path):
        return path
    parts = ["(withheld)" if _kinds_in_path(part) else part for part in path.split("/")]
    return "/".join(parts) if "(withheld)" in parts else "(withheld)"


def withhold_secrets(problem: Problem, paths: Iterable[str]) -> Problem:
    """Return the problem with every path that holds a secret withheld from its message."""
    message = problem.message
    for path in paths:
        if safe_path(path) != path:
            for part in (path, *path.split("/")):
                message = message.replace(part, safe_path(part))
    return replace(problem, message=message)


def open_file(file: LocalFile) -> BinaryIO:
    """Open the bytes of a file for reading. Raises OSError."""
    return io.BytesIO(file.source) if isinstance(file.source, bytes) else file.source.open("rb")


def _contents(file: LocalFile, name: str, f: BinaryIO) -> Iterator[Problem]:
    if file.path.endswith(".safetensors"):
        try:
            header = header_bytes(file)
        except CheckpointError as e:
            yield _problem(
                f"{name} cannot be searched for secrets: {e.message}", "write it again with eagle3hub convert"
            )
            return
        for kinds in _places(_views(header, 0, first=True), lambda _: 0).values():
            yield _problem(f"{name} holds, in its header, what looks like a secret ({', '.join(kinds)})")
        return
    start = f.read(64)
    f.seek(0)
    if what := recognised_archive(start):
        yield _problem(
            f"{name} cannot be searched for secrets: it is {what}, which is compressed", "publish what is in it"
        )
    if start.startswith((content.PNG_START, content.JPEG_START)):
        problems, whole = _picture(file, name, f.read(content.MAX_PICTURE_BYTES))
        yield from problems
        if whole:
            return
        f.seek(0)
    found: dict[int, list[str]] = {}
    for views in _pieces(f):
        found = {**_places(views, None), **found}
        if len(found) > _MOST:
            break
    for line in sorted(found)[:_MOST]:
        yield _problem(f"{name}:{line + 1} holds what looks like a secret ({', '.join(found[line])})")
    if len(found) > _MOST:
        yield _problem(f"{name} holds what looks like secrets in more than {_MOST} lines; no more are listed")


def _picture(file: LocalFile, name: str, data: bytes) -> tuple[list[Problem], bool]:
    """Search what a picture says besides its pixels, unpacked.

    Returns the problems, and whether that covers the whole picture.
    """
    try:
        if file.size > len(data):
            raise content.Malformed(f"is larger than {content.MAX_PICTURE_BYTES} bytes")
        if data.startswith(content.JPEG_START):
            said = [(s, data[s.start : s.end].removeprefix(b"Exif\0\0")) for s in content.jpeg_segments(data)]
        else:
            said = list(content.chunk_texts(data).items())
    except content.Malformed as e:
        return [_problem(f"{name} cannot be searched for secrets: it {e}", "draw it again")], False
    found: dict[str, None] = {}
    for part, text in said:
        for kinds in _places(_views(text, 0, first=True), lambda _: 0, anywhere=True).values():
            found[
                f"{name} holds, in its part {part.printable_name}, what looks like a secret ({', '.join(kinds)})"
            ] = None
    if not found:
        for kinds in _places(iter([_View(data, lambda _: 0, forms=True)]), None).values():
            found[f"{name} holds, among its pixels, what looks like a secret ({', '.join(kinds)})"] = None
    return [_problem(message) for message in found], True


def _pieces(f: BinaryIO) -> Iterator[Iterator[_View]]:
    """Yield the views of each piece of a file. Neighbouring pieces overlap."""
    before, lines, first = b"", 0, True
    while data := f.read(_PIECE):
        piece = before + data
        yield _views(piece, lines, first=first)
        before = piece[-_OVERLAP:]
        lines += piece.count(b"\n", 0, len(piece) - len(before))
        first = False


def _views(piece: bytes, lines: int, *, first: bool, depth: int = 2) -> Iterator[_View]:
    """Yield the views of a piece that begins at line ``lines``.

    ``depth`` is how many times base64 inside base64 is decoded.
    """
    yield _lined(piece, lines)
    last = piece
    if b"\0" in piece:
        last = _WIDE.sub(lambda run: run[0].replace(b"\0", b""), piece)
        yield _lined(last, lines)
    yield from _joined(last, lines)
    plain = last
    for _ in range(2):
        undone = _ESCAPE.sub(_undone, last) if any(c in last for c in (b"\\", b"&", b"%")) else last
        if undone == last:
            break
        yield _lined(undone, lines)
        last = undone
    if last is not plain:
        yield from _joined(last, lines)
    if depth:
        line = _line_in(last, lines)
        decoded, origins = _decoded(last)
        for view in _views(decoded, 0, first=first, depth=depth - 1) if decoded else ():
            yield _View(view.data, _through(view.line, origins, line), view.forms)


def _through(inner: Callable[[int], int], origins: list[int], line: Callable[[int], int]) -> Callable[[int], int]:
    """Map lines of a view of decoded runs, where each run is one line, to lines of the file."""
    return lambda at: line(origins[min(inner(at), len(origins) - 1)])


def _joined(data: bytes, lines: int) -> Iterator[_View]:
    """Yield the bytes without what stands inside words, if there is any such thing."""
    pieces, starts, origins, at, size = [], [0], [0], 0, 0
    for match in _TORN.finditer(data):
        before = _END_OF_WORD.search(data, max(at, match.start() - _BEFORE), match.start())
        after = _WORD.match(data, match.end(), match.end() + _AFTER)
        least = (_BEFORE, _AFTER) if match["line"] is not None else (4, 4)
        if before is None or after is None or len(before[0]) < least[0] or len(after[0]) < least[1]:
            continue
        pieces.append(data[at : match.start()])
        size += len(pieces[-1])
        at = match.end()
        starts.append(size)
        origins.append(at)
    if not pieces:
        return
    line = _line_in(data, lines)

    def of(found: int) -> int:
        i = bisect_right(starts, found) - 1
        return line(origins[i] + found - starts[i])

    yield _View(b"".join([*pieces, data[at:]]), of, forms=True)


def _lined(data: bytes, lines: int) -> _View:
    return _View(data, _line_in(data, lines))


def _line_in(data: bytes, lines: int) -> Callable[[int], int]:
    """Return a function from an offset to its line. It counts lines by blocks, and only when it is called."""
    before: list[int] = []

    def line(at: int) -> int:
        while len(before) <= at // _BLOCK:
            end = len(before) * _BLOCK
            before.append(before[-1] + data.count(b"\n", end - _BLOCK, end) if before else lines)
        return before[at // _BLOCK] + data.count(b"\n", at // _BLOCK * _BLOCK, at)

    return line


def _undone(match: re.Match[bytes]) -> bytes:
    """Return what an escape stands for if that is an ASCII character, or spaces for a line break."""
    unicode, byte, decimal, entity, percent, long, octal, control, plain, named = match.groups()
    if code := unicode or byte or entity or percent or long:
        return bytes.fromhex(code.decode())
    if octal:
        return bytes([int(octal, 8)])
    if decimal:
        return bytes([int(decimal)]) if 32 <= int(decimal) < 127 else match[0]
    return b"  " if control else plain or _NAMED[named]


def _decoded(data: bytes) -> tuple[bytes, list[int]]:
    """Decode everything in ``data`` that may be base64 or hexadecimal.

    Returns one line for each decoded run, and where each run began. Text before base64 may look like a part of it, so
    each run is decoded from each of its first four characters on.
    """
    runs: list[bytes] = []
    origins: list[int] = []
    left = _UNPACKED

    def add(plain: bytes, origin: int) -> None:
        nonlocal left
        inside = _unpacked(plain, min(left, _PACKED_ONE))
        left -= len(inside)
        for found in (plain, inside):
            if found:
                runs.append(found.replace(b"\n", b" "))
                origins.append(origin)

    for match in _BASE64.finditer(data):
        text = _NOT_BASE64.sub(b"", match[0]).translate(_STANDARD)
        if len(text) >= 24:
            for skipped in range(4):
                add(_of_base64(text[skipped:]), match.start())
    for match in _HEX.finditer(data):
        for skipped in range(2):
            digits = match[0][skipped:]
            add(bytes.fromhex(digits[: len(digits) // 2 * 2].decode()), match.start())
    return b"\n".join(runs), origins


_STANDARD = bytes.maketrans(b"-_", b"+/")


def _of_base64(text: bytes) -> bytes:
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4))
    except binascii.Error:
        return base64.b64decode(text[: len(text) // 4 * 4])


def _unpacked(data: bytes, most: int) -> bytes:
    """Return what a PNG picture says or what gzip or zlib packed, up to ``most`` bytes; else nothing."""
    try:
        if data.startswith(content.PNG_START):
            return b" ".join(content.chunk_texts(data).values())[:most]
        if data[:2] in (b"\x1f\x8b", b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda"):
            return zlib.decompressobj(47).decompress(data, most) if most > 0 else b""
    except (content.Malformed, zlib.error):
        pass
    return b""


def _places(
    views: Iterator[_View], line: Callable[[int], int] | None, *, anywhere: bool = False
) -> dict[int, list[str]]:
    """Return the kinds by line, from 0. A line that one view found is left out of the later views."""
    found: dict[int, list[str]] = {}
    for view in views:
        here: dict[int, list[tuple[int, str, bool]]] = {}
        for at, kind, sure in find_secrets(view.data, anywhere=anywhere, forms=view.forms):
            place = (line or view.line)(at)
            if place not in found:
                here.setdefault(place, []).append((at, kind, sure))
            if len(here) > 2 * _MOST:
                break
        found |= {place: _named(hits) for place, hits in here.items()}
    return found


def _named(hits: list[tuple[int, str, bool]]) -> list[str]:
    """Return the kinds found in one place, one for each secret."""
    near: set[int] = set()
    kinds: set[str] = set()
    for at, kind, sure in sorted(hits, key=lambda hit: not hit[2]):
        if sure or at // 64 not in near:
            near |= {at // 64 - 1, at // 64, at // 64 + 1}
            kinds.add(kind)
    return sorted(kinds)


@lru_cache(maxsize=4096)
def _kinds_in_path(path: str) -> tuple[str, ...]:
    """Return the kinds of secrets in a path: in the whole path, and between any two marks in it."""
    marks = [mark.start() for mark in re.finditer(r"[^A-Za-z0-9]", path)] + [len(path)]
    starts = [0, *(mark + 1 for mark in marks[:-1])]
    pieces = [path[start:end] for i, start in enumerate(starts) for end in marks[i : i + 8] if end - start >= 8]
    views = _views("\n".join([path, *pieces]).encode("utf-8", "surrogateescape"), 0, first=True)
    return tuple(sorted({kind for kinds in _places(views, lambda _: 0).values() for kind in kinds}))


def _problem(message: str, hint: str = _HINT) -> Problem:
    return Problem("error", SECRET_GATE, message, hint)
