"""Collect what Jobs measured: sealed reports in their logs, checked against the head that was sent."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
import time
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from eagle3hub.address import parse_hub_address
from eagle3hub.checkpoint.folder import open_checkpoint
from eagle3hub.errors import (
    Eagle3HubError,
    FoundWanting,
    HubError,
    InputError,
    SourceError,
    UnavailableError,
    UsageError,
)
from eagle3hub.jobs import api
from eagle3hub.jobs.plan import Expected, check_bound, expected_digest, parse_command
from eagle3hub.validation.matrix import MATRIX_SCHEMA, Matrix
from eagle3hub.validation.report import Report

# A document in the log of a Job, between marks that nothing else in the log can imitate.
#
#     … --json | python -m eagle3hub.jobs.collect NONCE
#
# A log mixes the lines of all processes, and may be cut off or sent again. So the document is compressed and printed
# in short numbered lines that carry a nonce made for this job, and its SHA-256.


MARK = "eagle3hub-report"
_LINE_BYTES = 720
_MAX_BYTES = 64 << 20


def seal(document: bytes, nonce: str) -> list[str]:
    """Return the lines to print for a document."""
    packed = base64.b64encode(zlib.compress(document, 9)).decode("ascii")
    chunks = [packed[i : i + _LINE_BYTES] for i in range(0, len(packed), _LINE_BYTES)]
    start = f"{MARK} {nonce}"
    ends = f"{len(chunks)} {hashlib.sha256(document).hexdigest()}"
    body = [f"{start} {i} {chunk}" for i, chunk in enumerate(chunks, start=1)]
    return [f"{start} begin {ends}", *body, f"{start} end {ends}"]


class Sealed:
    """Reads a log line by line. Lines may come in any order, and more than once."""

    def __init__(self, nonce: str) -> None:
        self._line = re.compile(rf"{MARK} {re.escape(nonce)} (?:(begin|end) (\d+) ([0-9a-f]{{64}})|(\d+) (\S+))\s*")
        self._chunks: dict[int, str] = {}
        self._count: int | None = None
        self._sha256 = ""

    def take(self, line: str) -> bool:
        """Read a line of the log. Returns whether it belongs to the document."""
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
        """Whether any line of the document has been read."""
        return self._count is not None or bool(self._chunks)

    @property
    def complete(self) -> bool:
        """Whether every line of the document has been read."""
        return self._count is not None and all(i in self._chunks for i in range(1, self._count + 1))

    def document(self) -> bytes:
        """Return the document. Raises HubError if lines are missing or the bytes are not those that were sealed."""
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
                "the report in the log of the job is damaged: its SHA-256 differs", code="job-report-damaged"
            )
        return document


def main() -> int:
    """Print standard input, sealed; the exit status is 1 if it is empty."""
    document = sys.stdin.buffer.read()
    if not document.strip():
        sys.stderr.write("the validation ended without a report\n")
        return 1
    sys.stdout.write("\n".join(seal(document, sys.argv[1])) + "\n")
    sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())


# Follow a Job to its end and take its report from the log.


_SECONDS_BETWEEN_LOOKS = 3.0
_ERRORS: dict[int, type[Eagle3HubError]] = {
    kind.exit_code: kind for kind in (FoundWanting, UsageError, InputError, UnavailableError, HubError)
}


def expected_of(job: api.Job) -> Expected:
    """Return the head and target that a running job was started for, from its own command.

    Raises InputError for a job that this tool did not start as a validation, and HubError.
    """
    command = parse_command(job.command)
    if command is None:
        raise SourceError(
            f"the job {job.name} is not a validation that this tool started",
            hint="give the OWNER/ID that --detach printed",
            code="job-foreign",
        )
    words = command.words
    head = words[1]
    target = _value(words, "--target-name") or parse_hub_address(_value(words, "--target") or "").repo_id
    return Expected(command.nonce, head, expected_digest(open_checkpoint(head, headers_only=True)), target)


def collect(job: api.Job, expected: Expected, say: Callable[[str], object]) -> Report | Matrix:
    """Wait for a job and return its report, checked against its schema and the expected head.

    Args:
        say: called with every line of the log that is not part of the report, as it comes.

    Raises:
        HubError: the Hub failed, the job ended without a report, or its log is cut off.
        ManifestError: the job made something that is not a report, or a report of another head.
        Eagle3HubError: the error that stopped the validation inside the job, with its exit code there.
    """
    sealed = Sealed(expected.nonce)
    tail: deque[str] = deque(maxlen=1)

    def take(line: str) -> None:
        if not sealed.take(line):
            if line.strip():
                tail.append(line.strip())
            say(line)

    try:
        log = api.Log(job.name)
        while not sealed.complete:
            log.follow(take)
            job = api.inspect(job.name)
            if job.ended:
                break
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        if sealed.begun and not sealed.complete:
            log.again(sealed.take)
    except HubError as error:
        hint = f"the job may go on: `eagle3hub jobs collect {job.name}`, or `hf jobs cancel {job.name}`"
        raise HubError(error.message, hint=hint, code=error.code) from error
    if not sealed.begun:
        raise _without_report(job, tail[0] if tail else None)
    return _read(sealed.document(), job, expected)


def _read(raw: bytes, job: api.Job, expected: Expected) -> Report | Matrix:
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise HubError(f"the job {job.name} made no report but something else", code="job-report-damaged")
    if isinstance(document.get("error"), dict):
        raise error_inside(document["error"])
    found = Matrix.from_json(document) if document.get("schema") == MATRIX_SCHEMA else Report.from_json(document)
    check_bound(found.document, expected)
    return found


def error_inside(error: dict[str, Any], where: str = "in the job") -> Eagle3HubError:
    """Return the error that stopped a command elsewhere, from its ``error`` object; the message says where."""
    kind = _ERRORS.get(error.get("exit_code", 0), HubError)
    hint = error.get("hint")
    return kind(
        f"{where}: {error.get('message')}",
        hint=None if hint is None else str(hint),
        code=str(error.get("code") or kind.default_code),
    )


def _without_report(job: api.Job, last: str | None) -> HubError:
    why = f": {job.message}" if job.message else ""
    told = f"; the last line of its log: {last}" if last else ""
    hint = f"see all of its log with `hf jobs logs {job.name}`"
    if job.stage in ("CANCELED", "DELETED"):
        return HubError(f"the job {job.name} was cancelled before it made a report{why}", code="job-cancelled")
    if job.message and "timeout" in job.message.lower().replace(" ", ""):
        return HubError(
            f"the job {job.name} reached its time limit before it made a report{told}",
            hint="give it more minutes with --time-limit",
            code="job-timeout",
        )
    return HubError(
        f"the job {job.name} ended ({job.stage}) without a report{why}{told}", hint=hint, code="job-failed"
    )


def _value(words: Sequence[str], option: str) -> str | None:
    return words[words.index(option) + 1] if option in words[:-1] else None
