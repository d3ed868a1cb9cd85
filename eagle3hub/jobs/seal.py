"""A document in the log of a Job, between marks that nothing else in the log can be taken for.

    … --json | python -m eagle3hub.jobs.seal NONCE

A log mixes what every process prints, one line at a time, and may be cut off or sent again. So the document goes out
compressed, in short numbered lines that carry a nonce made for this job, and with its SHA-256.
"""

from __future__ import annotations

import base64
import hashlib
import re
import sys
import zlib

from eagle3hub.errors import HubError

MARK = "eagle3hub-report"
_LINE_BYTES = 720
_MAX_BYTES = 64 << 20


def seal(document: bytes, nonce: str) -> list[str]:
    """The lines to print for a document."""
    packed = base64.b64encode(zlib.compress(document, 9)).decode("ascii")
    chunks = [packed[i : i + _LINE_BYTES] for i in range(0, len(packed), _LINE_BYTES)]
    start = f"{MARK} {nonce}"
    ends = f"{len(chunks)} {hashlib.sha256(document).hexdigest()}"
    body = [f"{start} {i} {chunk}" for i, chunk in enumerate(chunks, start=1)]
    return [f"{start} begin {ends}", *body, f"{start} end {ends}"]


class Sealed:
    """Takes a log line by line, and has the document once all of its lines came by, in any order, however often."""

    def __init__(self, nonce: str) -> None:
        self._line = re.compile(rf"{MARK} {re.escape(nonce)} (?:(begin|end) (\d+) ([0-9a-f]{{64}})|(\d+) (\S+))\s*")
        self._chunks: dict[int, str] = {}
        self._count: int | None = None
        self._sha256 = ""

    def take(self, line: str) -> bool:
        """Look at a line of the log; says whether it is one of the document's."""
        found = self._line.fullmatch(line.strip())
        if found is None:
            return False
        if found[1]:
            self._count, self._sha256 = int(found[2]), found[3]
        else:
            self._chunks[int(found[4])] = found[5]
        return True

    @property
    def begun(self) -> bool:
        """Whether any line of the document came by."""
        return self._count is not None or bool(self._chunks)

    @property
    def complete(self) -> bool:
        """Whether every line did."""
        return self._count is not None and all(i in self._chunks for i in range(1, self._count + 1))

    def document(self) -> bytes:
        """The document. Raises HubError where lines are missing or the bytes are not those that were sealed."""
        if not self.complete:
            raise HubError(
                "the log of the job breaks off inside the report", hint="collect it again", code="job-report-cut"
            )
        packed = "".join(self._chunks[i] for i in range(1, (self._count or 0) + 1))
        try:
            unpack = zlib.decompressobj()
            document = unpack.decompress(base64.b64decode(packed, validate=True), _MAX_BYTES)
        except (ValueError, zlib.error):
            document = b""
        if hashlib.sha256(document).hexdigest() != self._sha256:
            raise HubError(
                "the report in the log of the job is damaged: its SHA-256 is another", code="job-report-damaged"
            )
        return document


def main() -> int:
    """Print what comes in on standard input, sealed; exit status 1 where nothing came."""
    document = sys.stdin.buffer.read()
    if not document.strip():
        sys.stderr.write("the validation ended without a report\n")
        return 1
    sys.stdout.write("\n".join(seal(document, sys.argv[1])) + "\n")
    sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
