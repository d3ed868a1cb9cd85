"""Fetch a prompt set into the cache once, and check its bytes against the pinned digest on every read.

``https_proxy`` and ``no_proxy`` are honoured. The files are small (at most 300 kB), so a download that was cut off
starts again from the beginning.
"""

from __future__ import annotations

import hashlib
import ssl
import time
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
"""Seconds without any data before a download fails; the whole download may take four times as long."""
_ATTEMPTS = 3
_MARGIN = 1 << 20


def is_cached(dataset: Dataset) -> bool:
    """Whether the set's file is in the cache (its digest is checked when it is read)."""
    return dataset.path.is_file()


def read_dataset(dataset: Dataset, progress: Progress = silent) -> bytes:
    """Return the bytes of the set's file from the cache; fetch it first if it is not there.

    Raises HubError if the file cannot be fetched or is not the pinned file (then nothing is kept), InputError
    (``prompts-digest``) if the file in the cache is not the pinned file, SourceError if it cannot be read, OutputError
    if the cache cannot be written.
    """
    path = dataset.path
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
        raw = _download(dataset)
        replace_file(path, raw, parents=True)
    elif _digest(raw) != dataset.sha256:
        raise InputError(
            f"the file {_shown(dataset)} has {len(raw):,} bytes with SHA-256 {_digest(raw)[:16]}…, but the pinned "
            f"{dataset.name} has {dataset.bytes:,} with {dataset.sha256[:16]}…",
            hint="delete the file to have it fetched again; give your own prompts by path",
            code="prompts-digest",
        )
    return raw


def _download(dataset: Dataset) -> bytes:
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(0.2 * 2**attempt)
        try:
            raw = _get(dataset)
            break
        except _CutOff as error:
            last: Eagle3HubError = error
    else:
        raise last
    if _digest(raw) != dataset.sha256:
        raise HubError(
            f"what came for {dataset.name} is not the pinned file: {len(raw):,} bytes with SHA-256 "
            f"{_digest(raw)[:16]}…, not {dataset.bytes:,} with {dataset.sha256[:16]}…; nothing was kept",
            hint=f"a proxy may have answered in its place; {_by_hand(dataset)}",
            code="hub-dataset-digest",
        )
    return raw


class _CutOff(HubError):
    """The connection ended or stalled before the file was complete; another try may succeed."""


def _get(dataset: Dataset) -> bytes:
    """Return the body of one answer, at most one byte longer than the pinned file."""
    library = http_library()
    received = bytearray()
    status, most = 0, dataset.bytes + 1
    verify = ssl.create_default_context() if dataset.url.startswith("https:") else False
    headers = {"User-Agent": f"eagle3hub/{__version__}"}
    try:
        with (
            operation(Operation(seconds=4 * TIMEOUT, small=most + _MARGIN)),
            bound(library.Client(follow_redirects=True, timeout=TIMEOUT, verify=verify)) as client,
            client.stream("GET", dataset.url, headers=headers) as answer,
        ):
            status = answer.status_code
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
            raise _cut_off(dataset, len(received)) from error
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
    return bytes(received[:most])


def _cut_off(dataset: Dataset, received: int) -> _CutOff:
    return _CutOff(
        f"the connection ended after {received:,} of the {dataset.bytes:,} bytes of {dataset.name}; nothing was kept",
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


def _shown(dataset: Dataset) -> str:
    """Return the file's path as documented, which is the same on every machine."""
    return str(Path("$EAGLE3HUB_CACHE") / dataset.cache_name)


def _digest(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()
