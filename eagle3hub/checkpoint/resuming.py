"""Weights on the Hub whose download goes on where an earlier run stopped.

A draft head is one file of up to gigabytes, and huggingface_hub goes on with a file only within a run: its temporary
file has a name of its own each time and is removed when the run fails (2.4.0 ``file_download.py``). So what has come
is kept here beside the blobs of the repository's cache, and becomes the blob once it has the digest the Hub names,
where the client finds it.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from eagle3hub.checkpoint import hub
from eagle3hub.checkpoint.digest import file_digest
from eagle3hub.checkpoint.stated import Stated
from eagle3hub.errors import HubError
from eagle3hub.network import names
from eagle3hub.progress import Progress, silent

_LARGE = 1 << 20


def download_weights(
    repo_id: str,
    filename: str,
    revision: str | None = None,
    progress: Progress = silent,
    *,
    stated: Stated | None = None,
) -> Path:
    """As `hub.download_file`, and what an earlier run fetched of a large file is not fetched again."""
    if not _offline() and (revision is None or hub.cached_file(repo_id, filename, revision) is None):
        limits = hub.transfer(None if stated is None else stated.size)
        with hub.hub_errors(f"{filename} of {repo_id}", repo_id, revision, limits=limits):
            names.path(filename)
            hub.patiently(lambda: _fetch_rest(repo_id, filename, revision, progress))
    return hub.download_file(repo_id, filename, revision, progress, stated=stated)


def _offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _fetch_rest(repo_id: str, filename: str, revision: str | None, progress: Progress) -> None:
    """Fetch what is missing of a blob. Small files, files not in LFS and files another process fetches are left alone.

    Raises HubError where the file is not the one the Hub announced, and what the client raises.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import repo_folder_name

    url = hf_hub_url(repo_id, filename, revision=revision)
    about = get_hf_file_metadata(url, **hub.AGENT)
    if about.size is None or about.size < _LARGE or not names.SHA256.fullmatch(about.etag or ""):
        return
    blob = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=repo_id, repo_type="model"), "blobs", str(about.etag))
    blob.parent.mkdir(parents=True, exist_ok=True)
    part = blob.with_name(f"{blob.name}.eagle3hub")
    if blob.exists():
        return
    with part.open("ab") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return
        if os.fstat(f.fileno()).st_size > about.size:
            f.truncate(0)
        _append(f, url, about, f"downloading {Path(filename).name}", progress)
        f.flush()
        if file_digest(part)["sha256"] != about.etag:
            part.unlink()
            raise HubError(
                f"what was fetched of {filename} of {repo_id} is not the file the Hub announced",
                hint="run the same command again: it is then fetched anew",
                code="hub-digest",
            )
        part.replace(blob)


def _append(f: BinaryIO, url: str, about: Any, message: str, progress: Progress) -> None:
    from huggingface_hub.file_download import http_get

    headers = hub.client().build_hf_headers(**hub.AGENT)
    if urlsplit(about.location).netloc != urlsplit(url).netloc:
        headers.pop("authorization", None)  # the address is signed, and the token none of its business
    http_get(
        about.location,
        f,
        resume_size=os.fstat(f.fileno()).st_size,
        headers=headers,
        expected_size=about.size,
        **hub.bar_option(http_get, message, progress),
    )
