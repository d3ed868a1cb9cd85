"""JSON documents this package writes, and reads again from wherever they have been since."""

from __future__ import annotations

import errno
import json
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
    is too large or no JSON.
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
        return json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{path.name}: not valid JSON: {error}", code=f"{kind}-json") from error
