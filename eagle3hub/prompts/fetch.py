"""Fetch a prompt set into the cache once, and check its bytes on every read: the pinned ones, or the first that came.

``https_proxy`` and ``no_proxy`` are honoured. The files are small (40 MB at most), so a download that was cut off
starts again from the beginning.
"""

from __future__ import annotations

import hashlib
import json
import ssl
import time
from dataclasses import replace
from pathlib import Path

from eagle3hub._version import __version__
from eagle3hub.checkpoint.staging import replace_file
from eagle3hub.errors import Eagle3HubError, HubError, InputError, SourceError
from eagle3hub.network.bounds import Exceeded, Operation, operation
from eagle3hub.network.transport import bound, http_library, reason
from eagle3hub.prompts.sets import Dataset
from eagle3hub.system.progress import Progress, silent
from eagle3hub.system.reading import read_bytes

TIMEOUT = 30.0
"""Seconds without any data before a download fails; the whole may take four times as long, more if it is large."""
_COMMIT = "x-repo-commit"
"""The header in which the Hub names the commit that it answers from."""
_ATTEMPTS = 3
_SLOWEST = 256 << 10
"""Bytes a second, for which a large file may wait."""
_MARGIN = 1 << 20


def is_cached(dataset: Dataset) -> bool:
    """Whether the set's file is in the cache (its digest is checked when it is read)."""
    return dataset.path.is_file()


def read_dataset(dataset: Dataset, progress: Progress = silent) -> tuple[bytes, Dataset]:
    """Return the bytes of the set's file from the cache, and the set with its digest; fetch it first if need be.

    Where the package states no digest, the first fetch records it beside the file, and it holds from then on, also
    when the file itself is fetched again.

    Raises HubError if the file cannot be fetched or is not the pinned file (then nothing is kept), InputError
    (``prompts-digest``) if the file in the cache is not the pinned file, SourceError if it cannot be read, OutputError
    if the cache cannot be written.
    """
    path = dataset.path
    recorded = _recorded(dataset)
    try:
        raw: bytes | None = read_bytes(path)
    except FileNotFoundError:
        raw = None
    except OSError as error:
        raise SourceError(
            f"cannot read the prompts {str(path)!r}: {error.strerror or error}", code="source-prompts"
        ) from error
    if raw is None:
        progress(f"fetching {dataset.notice}")
        raw, commit = _download(recorded)
        replace_file(path, raw, parents=True)
        recorded = _record(recorded, raw, commit)
    elif recorded.sha256 is None:
        recorded = _record(recorded, raw, None)
    elif _digest(raw) != recorded.sha256:
        raise InputError(
            f"the file {_shown(dataset)} has {len(raw):,} bytes with SHA-256 {_digest(raw)[:16]}…, but the pinned "
            f"{dataset.name} has {_size(recorded)}{recorded.sha256[:16]}…",
            hint="delete the file to have it fetched again; give your own prompts by path",
            code="prompts-digest",
        )
    return raw, recorded


def _recorded(dataset: Dataset) -> Dataset:
    """The set with the digest that the package states, or that was recorded when it was fetched first."""
    if dataset.sha256 is not None:
        return dataset
    try:
        found = json.loads(read_bytes(dataset.pin))
        return replace(
            dataset, sha256=str(found["sha256"]), bytes=int(found["bytes"]), revision=str(found["revision"])
        )
    except FileNotFoundError:
        return dataset
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SourceError(
            f"cannot read what was recorded of {dataset.name} in {str(dataset.pin)!r}: {error}",
            hint="delete the file to record the set anew",
            code="source-prompts",
        ) from error


def _record(dataset: Dataset, raw: bytes, commit: str | None) -> Dataset:
    """Record the digest of a set that was fetched for the first time, and the commit that the server named."""
    if dataset.sha256 is not None:
        return dataset
    found = replace(dataset, sha256=_digest(raw), bytes=len(raw), revision=commit or dataset.revision)
    text = json.dumps({"sha256": found.sha256, "bytes": found.bytes, "revision": found.revision}) + "\n"
    replace_file(dataset.pin, text.encode(), parents=True)
    return found


def _download(dataset: Dataset) -> tuple[bytes, str | None]:
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(0.2 * 2**attempt)
        try:
            raw, commit = _get(dataset)
            break
        except _CutOff as error:
            last: Eagle3HubError = error
    else:
        raise last
    if dataset.bytes is None and len(raw) > dataset.most_bytes:
        raise HubError(
            f"what came for {dataset.name} is larger than {dataset.most_bytes >> 20} MB; nothing was kept",
            hint=_by_hand(dataset),
            code="hub-dataset-digest",
        )
    if dataset.sha256 is not None and _digest(raw) != dataset.sha256:
        raise HubError(
            f"what came for {dataset.name} is not the pinned file: {len(raw):,} bytes with SHA-256 "
            f"{_digest(raw)[:16]}…, not {_size(dataset)}{dataset.sha256[:16]}…; nothing was kept",
            hint=f"a proxy may have answered in its place; {_by_hand(dataset)}",
            code="hub-dataset-digest",
        )
    return raw, commit


class _CutOff(HubError):
    """The connection ended or stalled before the file was complete; another try may succeed."""


def _get(dataset: Dataset) -> tuple[bytes, str | None]:
    """Return the body of one answer, at most one byte longer than the pinned file, and the commit that it names."""
    library = http_library()
    received = bytearray()
    status, commit, length = 0, None, dataset.bytes
    most = (dataset.most_bytes if dataset.bytes is None else dataset.bytes) + 1
    verify = ssl.create_default_context() if dataset.url.startswith("https:") else False
    headers = {"User-Agent": f"eagle3hub/{__version__}"}
    try:
        with (
            operation(Operation(seconds=4 * TIMEOUT + most / _SLOWEST, small=most + _MARGIN)),
            bound(library.Client(follow_redirects=True, timeout=TIMEOUT, verify=verify)) as client,
            client.stream("GET", dataset.url, headers=headers) as answer,
        ):
            status = answer.status_code
            commit = next((c for one in (*answer.history, answer) if (c := one.headers.get(_COMMIT))), None)
            length = length or int(answer.headers.get("content-length", 0)) or None
            for chunk in answer.iter_bytes() if status == 200 else ():
                received += chunk
                if len(received) >= most:
                    break
    except (library.TimeoutException, TimeoutError) as error:
        raise _timed_out(dataset) from error
    except Exceeded as error:
        if error.kind == "time":
            raise _timed_out(dataset) from error
        raise HubError(
            f"{dataset.name} cannot be fetched: {error.says}", hint=_by_hand(dataset), code="hub-dataset"
        ) from error
    except (library.HTTPError, library.InvalidURL, OSError) as error:
        if isinstance(error, library.RemoteProtocolError | library.ReadError) or received:
            raise _cut_off(dataset, len(received), length) from error
        raise HubError(
            f"{dataset.name} is not in the cache and cannot be fetched: {reason(error)}",
            hint=f"check the network and https_proxy, or {_by_hand(dataset)}",
            code="hub-dataset-offline",
        ) from error
    if status != 200:
        raise HubError(
            f"the server of {dataset.name} answered {status} for its pinned revision",
            hint=_by_hand(dataset),
            code="hub-dataset-missing" if status in (404, 410) else "hub-dataset",
        )
    return bytes(received[:most]), commit


def _cut_off(dataset: Dataset, received: int, length: int | None) -> _CutOff:
    whole = "" if length is None else f" of the {length:,}"
    return _CutOff(
        f"the connection ended after {received:,}{whole} bytes of {dataset.name}; nothing was kept",
        hint=f"try again, or {_by_hand(dataset)}",
        code="hub-dataset-cut",
    )


def _timed_out(dataset: Dataset) -> HubError:
    return HubError(
        f"fetching {dataset.name} took too long; nothing was kept",
        hint=f"try again, or {_by_hand(dataset)}",
        code="hub-dataset-timeout",
    )


def _by_hand(dataset: Dataset) -> str:
    return f"put the file from {dataset.url} at {_shown(dataset)} yourself"


def _size(dataset: Dataset) -> str:
    """The size that a file must have, as the beginning of a phrase that its digest ends."""
    return "" if dataset.bytes is None else f"{dataset.bytes:,} with "


def _shown(dataset: Dataset) -> str:
    """Return the file's path as documented, which is the same on every machine."""
    return str(Path("$EAGLE3HUB_CACHE") / dataset.cache_name)


def _digest(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()
