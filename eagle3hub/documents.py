"""JSON documents this package writes, and reads again from wherever they have been since."""

from __future__ import annotations

import errno
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eagle3hub.errors import ManifestError, SourceError
from eagle3hub.reading import read_bytes


def document_bytes(document: Mapping[str, Any]) -> bytes:
    """A document as it lies in a file, in UTF-8; what that cannot hold (half of a surrogate pair) stays an escape."""
    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace")


def read_document(path: Path, kind: str, max_bytes: int) -> Any:
    """The JSON in a file of at most ``max_bytes``; ``kind`` ends or begins the codes of its errors.

    Raises SourceError (``source-KIND``) if the file cannot be read, ManifestError (``KIND-size``, ``KIND-json``) if it
    is too large or is not JSON that every reader understands alike (see `parse_json`).
    """
    try:
        raw = read_bytes(path, max_bytes)
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise ManifestError(
                f"{path.name}: larger than {max_bytes:,} bytes, which nothing of its kind is", code=f"{kind}-size"
            ) from error
        raise SourceError(f"cannot read {path}: {error.strerror or error}", code=f"source-{kind}") from error
    try:
        return parse_json(raw)
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{path.name}: not valid JSON: {error}", code=f"{kind}-json") from error


def parse_json(raw: bytes | str) -> Any:
    """Parse JSON strictly: no key twice in one object, and no number that is not finite.

    Readers disagree about both (RFC 8259, sections 4 and 6), so such a document says different things to different
    people. Raises ValueError, RecursionError where it is nested too deeply.
    """
    return json.loads(raw, object_pairs_hook=_object, parse_constant=_constant, parse_float=_finite)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} appears twice in one object")
        found[key] = value
    return found


def _constant(text: str) -> float:
    raise ValueError(f"{text} is not a number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:40]} is too large")
    return value


def alike(a: Any, b: Any) -> bool:
    """Whether two JSON values are equal, but for the last digits of numbers that were computed."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(alike(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(alike(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, bool) or isinstance(b, bool):
        return a is b
    if isinstance(a, int | float) and isinstance(b, int | float):
        return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12)
    return bool(a == b)
