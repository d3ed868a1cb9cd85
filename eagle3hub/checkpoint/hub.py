"""The one place that talks to the Hub, through huggingface_hub; every failure becomes one sentence.

Access tokens, endpoint, cache and offline switch are the client's own (``HF_TOKEN``, ``HF_ENDPOINT``, ``HF_HOME``,
``HF_HUB_OFFLINE``). No message repeats a URL or a header: redirects carry signatures, requests carry tokens. What any
exchange may cost and say is bounded by `eagle3hub.network.bounds` and `eagle3hub.checkpoint.hub_rules`.
"""

from __future__ import annotations

import inspect
import re
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from logging import CRITICAL
from pathlib import Path
from typing import Any, TypeVar

from eagle3hub._version import __version__
from eagle3hub.checkpoint.hub_failures import OTHER_HUB, explain, is_misaddressed, transport_errors
from eagle3hub.checkpoint.hub_rules import LONGEST_WAIT, UNSTATED_SIZE, endpoint, install
from eagle3hub.checkpoint.stated import Stated, holds
from eagle3hub.errors import Eagle3HubError, HubError
from eagle3hub.network import names
from eagle3hub.network.bounds import Exceeded, Operation, operation
from eagle3hub.progress import Progress, silent, tell, tell_after

__all__ = ["Listing", "Stated", "download_file", "endpoint", "hub_errors", "list_files", "patiently", "read_range"]

T = TypeVar("T")
AGENT: dict[str, Any] = {"library_name": "eagle3hub", "library_version": __version__}
"""What every request says of its sender."""
_ATTEMPTS = 4
_ATTEMPTS_TO_CONNECT = 2
_SECONDS_PER_RANGE = 120.0
_CHECKED_AGAIN = 8 << 20
"""Files up to this many bytes are held to their digest every time, larger ones when they are fetched."""
_LARGEST_FILE = 1 << 40
_LARGE = (".safetensors", ".bin", ".pt")
_SILENCE = 2.0
"""Seconds after which a question that has no answer yet is told of."""
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})")


@dataclass(frozen=True, slots=True)
class Listing:
    """The files of a repository at one commit: path -> size in bytes, or None where the Hub does not say.

    ``stated`` has what the Hub says of each file's bytes.
    """

    commit: str
    sizes: dict[str, int | None]
    stated: dict[str, Stated] = field(default_factory=dict)


def download_file(
    repo_id: str,
    filename: str,
    revision: str | None = None,
    progress: Progress = silent,
    *,
    stated: Stated | None = None,
    cached_only: bool = False,
) -> Path:
    """Download one file of a model repository into the Hub cache, going on where a connection broke.

    Args:
        stated: what the listing says of the file; what comes is held to it, or else to the ETag it is served with.
        cached_only: do not ask the Hub.

    Returns where the file is. Raises HubError (no such repository or file, no access, no network, other bytes than
    the Hub states: then nothing of them stays in the cache).
    """
    from huggingface_hub import hf_hub_download

    stated = stated or Stated()
    options: dict[str, Any] = {"revision": revision, "local_files_only": cached_only, **AGENT}
    options |= bar_option(hf_hub_download, f"downloading {filename}", progress)
    most = _LARGEST_FILE if filename.endswith(_LARGE) else UNSTATED_SIZE
    with hub_errors(f"{filename} of {repo_id}", repo_id, revision, limits=transfer(stated.size, most)):
        names.path(filename)
        known = None if revision is None else cached_file(repo_id, filename, revision)
        path = patiently(lambda: Path(hf_hub_download(repo_id, filename, **options)))
        hold_to(path, stated, f"{filename} of {repo_id}", fresh=known is None and not cached_only)
    return path


def transfer(size: int | None, most: int = _LARGEST_FILE) -> Operation:
    """The limits of fetching a file of so many bytes, or else of as many as the Hub says then, up to ``most``."""
    return Operation(transfer=True, body=most if size is None else size)


def list_files(repo_id: str, revision: str | None = None) -> Listing:
    """The commit a revision stands for now, and its files. Raises HubError."""
    from huggingface_hub import HfApi, constants

    def ask() -> Listing:
        info = HfApi(**AGENT).model_info(
            repo_id, revision=revision, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT
        )
        stated = {names.path(s.rfilename): _stated(s) for s in info.siblings or []}
        if not isinstance(info.sha, str) or not names.OID.fullmatch(info.sha):
            raise Exceeded("strange", "it names no commit")
        return Listing(info.sha, {path: s.size for path, s in stated.items()}, stated)

    with hub_errors(repo_id, repo_id, revision):
        return patiently(ask)


def _stated(sibling: Any) -> Stated:
    lfs = sibling.lfs
    size, sha256 = (sibling.size, None) if lfs is None else (lfs.size, names.sha256(lfs.sha256, "SHA-256 of a file"))
    if size is not None and (type(size) is not int or not 0 <= size < _LARGEST_FILE):
        raise Exceeded("strange", f"it gives {sibling.rfilename} a size that no file has")
    blob_id = sibling.blob_id
    return Stated(size, None if blob_id is None else names.oid(blob_id, "id of a file"), sha256)


def hold_to(path: Path, stated: Stated, what: str, *, fresh: bool = True) -> None:
    """Remove a file that has other bytes than the Hub states, or than the name of its blob. Raises HubError."""
    blob = path.resolve()
    if not stated.digest:
        stated = Stated(
            None,
            blob.name if names.OID.fullmatch(blob.name) else None,
            blob.name if names.SHA256.fullmatch(blob.name) else None,
        )
    if (not fresh and blob.stat().st_size > _CHECKED_AGAIN) or holds(blob, stated):
        return
    path.unlink()
    if blob != path and blob.parent.name == "blobs":
        blob.unlink(missing_ok=True)
    raise HubError(
        f"what came for {what} is not the file the Hub states; nothing of it was kept",
        hint=OTHER_HUB,
        code="hub-digest",
    )


def read_range(repo_id: str, filename: str, commit: str, offset: int, count: int) -> tuple[bytes, int]:
    """Up to ``count`` bytes of a file on the Hub, fewer only at its end, and the file's size. Raises HubError."""
    from huggingface_hub import hf_hub_url

    url = hf_hub_url(repo_id, filename, revision=commit)
    headers = client().build_hf_headers(**AGENT)
    headers["Range"] = f"bytes={offset}-{offset + count - 1}"
    headers["Accept-Encoding"] = "identity"
    with hub_errors(f"{filename} of {repo_id}", repo_id, commit, limits=transfer(None)):
        return patiently(lambda: _read_once(url, headers, offset, count))


def cached_file(repo_id: str, filename: str, commit: str) -> Path | None:
    """Where a file is in the Hub cache, or None."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo_id, filename, revision=commit)
    return Path(found) if isinstance(found, str) else None


def unreachable(error: HubError) -> bool:
    """Whether the Hub could not be asked at all, so that what is in the cache may stand in for its answer."""
    return error.code in {"hub-offline", "hub-timeout", "hub-server", "hub-network", "hub-busy"}


@contextmanager
def hub_errors(
    what: str, repo_id: str, revision: str | None = None, doing: str = "get", limits: Operation | None = None
) -> Iterator[None]:
    """Turn whatever the client raises inside the block into HubError; what it says itself (with URLs) is silenced.

    Args:
        doing: the verb for what could not be done to ``what``.
        limits: what the whole block may cost; default: one question with a small answer.
    """
    install()
    logging = client().logging
    level = logging.get_verbosity()
    logging.set_verbosity(CRITICAL)
    try:
        with (
            warnings.catch_warnings(),
            operation(limits or Operation()),
            tell_after(_SILENCE, f"waiting for the Hub, to {doing} {what}"),
        ):
            warnings.simplefilter("ignore", UserWarning)
            yield
    except Eagle3HubError:
        raise
    except Exception as e:  # the client leaks its HTTP library's exceptions, ValueError, OSError and more
        raise explain(e, what, repo_id, revision, doing) from e
    finally:
        logging.set_verbosity(level)


def client() -> Any:
    """The client's helpers, which it exports without saying so to type checkers."""
    import huggingface_hub.utils

    return huggingface_hub.utils


class _Cut(Exception):
    """The connection ended before the bytes that were promised."""


def _read_once(url: str, headers: dict[str, str], offset: int, count: int) -> tuple[bytes, int]:
    from huggingface_hub import constants

    deadline = time.monotonic() + _SECONDS_PER_RANGE
    with (
        client()
        .get_session()
        .stream("GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT) as response
    ):
        client().hf_raise_for_status(response)
        given = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if response.status_code != 206 or given is None or int(given[1]) != offset:
            raise HubError(
                "the Hub, or a proxy before it, does not serve parts of files",
                hint="download the repository (hf download) and name the folder",
                code="hub-no-ranges",
            )
        size = int(given[3])
        wanted = min(count, size - offset)
        data = bytearray()
        for chunk in response.iter_bytes():
            data += chunk
            if len(data) >= wanted:
                break
            if time.monotonic() > deadline:
                raise TimeoutError
    if len(data) < wanted:
        raise _Cut
    return bytes(data[:wanted]), size


def patiently(ask: Callable[[], T]) -> T:
    """Ask again a few times where the Hub is busy or the connection failed, for as long as it says, within reason."""
    for attempt in range(1, _ATTEMPTS):
        try:
            return ask()
        except Exception as e:
            wait = _wait_before_retry(e, attempt)
            if wait is None or wait > LONGEST_WAIT:
                raise
            tell(f"the Hub gave no good answer: asking again in {wait:g} seconds ({attempt + 1} of {_ATTEMPTS})")
            time.sleep(wait)
    return ask()


def _wait_before_retry(e: Exception, attempt: int) -> float | None:
    """Seconds, or None where asking again is of no use."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if isinstance(e, HfHubHTTPError):
        status = e.response.status_code
        if status != 429 and status < 500:
            return None
        after = e.response.headers.get("Retry-After", "")
        return float(after) if after.isdecimal() else 2.0 ** (attempt - 1)
    failures = (transport_errors(), ConnectionError, TimeoutError, _Cut)
    if isinstance(e, OfflineModeIsEnabled) or not isinstance(e, failures) or is_misaddressed(e):
        return None
    if type(e).__name__ in {"ConnectError", "ConnectTimeout", "ProxyError"} and attempt >= _ATTEMPTS_TO_CONNECT:
        return None
    return 2.0 ** (attempt - 1)


def bar_option(function: Callable[..., Any], message: str, progress: Progress) -> dict[str, Any]:
    """The option that makes a function of the client report to ``progress``; none where its version has none."""
    known = "tqdm_class" in inspect.signature(function).parameters
    return {"tqdm_class": _bar(message, progress)} if known else {}


def _bar(message: str, progress: Progress) -> type[Any]:
    """A class with the interface of a tqdm bar that reports to ``progress``."""
    base: Any = client().tqdm

    class Bar(base):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            self._done, self._whole = options.get("initial") or 0, options.get("total")
            super().__init__(*args, **{**options, "disable": True})
            progress(message, self._done / self._whole if self._whole else None)

        def update(self, n: float | None = 1) -> bool | None:
            self._done += n or 0
            progress(message, min(self._done / self._whole, 1.0) if self._whole else None)
            return None

    return Bar
