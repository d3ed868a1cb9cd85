"""A Hub repository as a source: its files are read in ranges, or downloaded with resume."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from eagle3hub.address import HubAddress, missing
from eagle3hub.checkpoint import hub
from eagle3hub.checkpoint.digest import file_digest
from eagle3hub.checkpoint.hub import Stated
from eagle3hub.checkpoint.safetensors import ByteReader, open_local, truncated
from eagle3hub.checkpoint.source import (
    CONFIG,
    INDEX,
    MAX_JSON_BYTES,
    PICKLE_INDEX,
    gaps,
    listed,
    parse_json_object,
    read_small,
    refuse_files,
)
from eagle3hub.errors import ConfigError, HubError, SourceError
from eagle3hub.network import names
from eagle3hub.system.progress import Progress, silent

# Downloads of weights that continue where an earlier run stopped.
#
# A draft head is one file of up to gigabytes, and huggingface_hub goes on with a file only within a run: its temporary
# file has a name of its own each time and is removed when the run fails (2.4.0 ``file_download.py``). So what has come
# is kept here beside the blobs of the repository's cache, and becomes the blob once it has the digest the Hub names,
# where the client finds it.


_LARGE = 1 << 20


def download_weights(
    repo_id: str,
    filename: str,
    revision: str | None = None,
    progress: Progress = silent,
    *,
    stated: Stated | None = None,
) -> Path:
    """Like `hub.download_file`, but continues a large file that an earlier run fetched in part."""
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


# A repository on the Hub as a source: small files and ranges to inspect it, whole files to work with it.


_FIRST_READ = 16 << 10
_MAX_BYTES = 32 << 20
_MAX_REQUESTS = 256
_SIDE_FILE_BYTES = 64 << 10
_MAX_SIDE_FILES = 16
_MAX_SHARDS = 10_000
_WEIGHTS = (".safetensors", ".bin", ".pt")


class HubSource:
    """The files of a repository (or of a folder in it) at one commit.

    The revision is resolved once, on opening; everything after that is read at that commit. Where the Hub cannot be
    asked, what the cache has of the revision is taken. Small JSON files beside config.json are downloaded with it,
    since a layout may look for one (``hf_quant_config.json``) in ``folder``.

    Raises HubError, or SourceError where there is no config.json.
    """

    def __init__(self, asked: HubAddress, *, headers_only: bool = False, progress: Progress = silent) -> None:
        self._headers_only = headers_only
        self._progress = progress
        self._sizes: dict[str, int | None] | None = None
        self._stated: dict[str, Stated] = {}
        commit: str | None = None
        config = asked.file(CONFIG)
        try:
            listing = _listing(asked)
            commit, self._sizes, self._stated = listing.commit, listing.sizes, listing.stated
            if config not in self._sizes:
                start = asked.file("")
                refuse_files(str(asked), [n.removeprefix(start) for n in self._sizes if n.startswith(start)])
                raise SourceError(
                    f"there is no {CONFIG} in {asked}", hint=_where(asked, self._sizes), code="source-no-config"
                )
            self._check_small(config, asked)
            local = hub.download_file(asked.repo_id, config, asked.revision)
        except HubError as e:
            offline = commit is None and hub.unreachable(e)
            there = _from_cache(asked, config) if offline else None
            if there is None and asked.bare and (offline or hub.no_repository(e)):
                raise missing(asked.model_id) from e  # more likely a path with a mistake in it
            if there is None:
                raise
            local = there
        self.folder = local.parent
        snapshot = local.parents[config.count("/")]
        if snapshot.name != commit:  # the branch moved between two requests, or only the cache was asked
            commit = snapshot.name
            if self._sizes is not None:
                listing = hub.list_files(asked.repo_id, commit)
                self._sizes, self._stated = listing.sizes, listing.stated
        if config in self._stated:
            hub.hold_to(local, self._stated[config], f"{config} of {asked.repo_id}")
        self._at = HubAddress(asked.repo_id, commit, asked.folder)
        self._commit = commit
        self.name = str(self._at)
        self._fetch_side_files()
        if self._sizes is None and not any(n.endswith(_WEIGHTS) for n in self.names()):
            raise HubError(
                "the Hub cannot be reached, or HF_HUB_OFFLINE is set, and the cache does not have the weights of "
                f"{asked}",
                hint="check the network, or name a local folder",
                code="hub-offline",
            )

    def names(self) -> set[str]:
        """Names of the files directly in it; offline, of those in the cache and of weights that these name."""
        if self._sizes is None:
            return self._known_offline()
        return self._beside(self._at.file(""))

    def below(self) -> list[str]:
        """Paths of the files in it and in folders in it, sorted; offline, of those directly in it."""
        start = self._at.file("")
        return sorted({n.removeprefix(start) for n in self._sizes or () if n.startswith(start)} or self.names())

    def _beside(self, start: str) -> set[str]:
        """Names of the files directly in a folder of the repository, whose path is ``start``."""
        names = self._sizes or {}
        return {n.removeprefix(start) for n in names if n.startswith(start) and "/" not in n[len(start) :]}

    def small(self, name: str) -> bytes | None:
        """A small file, downloaded into the cache, or None where there is none of that name."""
        if name not in self.names():
            return None
        path = self._at.file(name)
        self._check_small(path, self._at)
        return read_small(hub.download_file(self._at.repo_id, path, self._commit, stated=self._stated.get(path)))

    def weights(self, name: str) -> AbstractContextManager[ByteReader]:
        """A weights file: downloaded, or (``headers_only``) read in ranges unless the cache has it."""
        path = self._at.file(name)
        if not self._headers_only:
            return open_local(self._download(path))
        local = hub.cached_file(self._at.repo_id, path, self._commit)
        if local is not None:
            return open_local(local)
        return nullcontext(RemoteReader(self._at, name, self.folder / name))

    def _download(self, path: str) -> Path:
        stated = self._stated.get(path)
        return download_weights(self._at.repo_id, path, self._commit, self._progress, stated=stated)

    def shown(self, name: str) -> str:
        """The name of a file in messages."""
        return f"{self.name}/{name}"

    def _known_offline(self) -> set[str]:
        """The files in the cache, and the weights files that an index or numbered names imply."""
        cached = {p.name for p in self.folder.iterdir() if p.is_file()}
        numbered = islice(chain.from_iterable(lacking for lacking, _ in gaps(cached)), _MAX_SHARDS)
        index = next((name for name in (INDEX, PICKLE_INDEX) if name in cached), None)
        raw = None if index is None else read_small(self.folder / index)
        weight_map = None if raw is None else parse_json_object(raw, self.shown(str(index))).get("weight_map")
        indexed = weight_map.values() if isinstance(weight_map, dict) else ()
        return cached.union(numbered, (file for file in indexed if isinstance(file, str)))

    def _fetch_side_files(self) -> None:
        sizes = self._sizes or {}
        side = [n for n in sorted(self.names()) if n.endswith(".json") and n != CONFIG]
        small = [n for n in side if (sizes.get(self._at.file(n)) or MAX_JSON_BYTES) <= _SIDE_FILE_BYTES]
        for name in small[:_MAX_SIDE_FILES]:
            self.small(name)

    def _check_small(self, path: str, where: HubAddress) -> None:
        size = (self._sizes or {}).get(path)
        if size is not None and size > MAX_JSON_BYTES:
            raise ConfigError(f"{path} of {where} is larger than {MAX_JSON_BYTES} bytes", code="config-json")


_OF_A_MODEL = (".json", ".safetensors", ".txt", ".model", ".jinja", ".tiktoken")
"""Ends of the names of files that loading a model takes; never code."""


def local_copy(at: HubAddress, progress: Progress = silent) -> tuple[Path, str]:
    """Download a model at one commit into the cache; returns its folder and the commit.

    Pickles are fetched only where there are no safetensors. Raises HubError, and SourceError without config.json.
    """
    listing = hub.list_files(at.repo_id, at.revision)
    names = [name for name in sorted(listing.sizes) if "/" not in name]
    if CONFIG not in names:
        raise SourceError(f"there is no {CONFIG} in {at}", hint=_where(at, listing.sizes), code="source-no-config")
    wanted = [name for name in names if name.endswith(_OF_A_MODEL)]
    if not any(name.endswith(".safetensors") for name in wanted):
        wanted += [name for name in names if name.endswith(_WEIGHTS)]
    for name in wanted:
        path = download_weights(at.repo_id, name, listing.commit, progress, stated=listing.stated.get(name))
    return path.parent, listing.commit


class RemoteReader:
    """A `ByteReader` of a file on the Hub; the total it reads is bounded."""

    def __init__(self, at: HubAddress, name: str, path: Path) -> None:
        self.path = path
        self.shown = f"{at}/{name}"
        self._repo_id, self._file, self._commit = at.repo_id, at.file(name), at.revision or ""
        self._requests, self._bytes = 0, 0
        start, self.size = self._ask(0, _FIRST_READ)
        self._blocks = [(0, start)]  # everything read so far: the total is bounded

    def remote(self, offset: int, count: int) -> bytes:
        """The function that a `TensorRef` reads its bytes with."""
        return self.read(offset, count)

    def read(self, offset: int, count: int) -> bytes:
        """Exactly ``count`` bytes from ``offset``. Raises CheckpointError where the file ends before, HubError."""
        if offset < 0 or count < 0 or offset + count > self.size:
            raise truncated(self)
        for at, block in self._blocks:
            if at <= offset and offset + count <= at + len(block):
                return block[offset - at : offset - at + count]
        data, size = self._ask(offset, count)
        if size != self.size:
            raise HubError(f"{self.shown} changed its size while it was read", code="hub-protocol")
        self._blocks.append((offset, data))
        return data

    def _ask(self, offset: int, count: int) -> tuple[bytes, int]:
        self._requests += 1
        self._bytes += count
        if self._requests > _MAX_REQUESTS or self._bytes > _MAX_BYTES:
            raise HubError(
                f"{self.shown} would need more than {_MAX_REQUESTS} requests or {_MAX_BYTES >> 20} MiB to look into",
                hint="download it (hf download) and name the folder",
                code="hub-too-much",
            )
        return hub.read_range(self._repo_id, self._file, self._commit, offset, count)


def _where(asked: HubAddress, names: Iterable[str]) -> str:
    """A hint at folders with a config.json, for an address without; ``names``: the files of the whole repository."""
    inside = sorted(n.removesuffix(f"/{CONFIG}") for n in names if n.endswith(f"/{CONFIG}"))
    if not inside:
        return "no folder of the repository has one, and weights alone do not say what the head computes"
    return f"name a folder of the repository that has one: {listed([str(replace(asked, folder=f)) for f in inside])}"


def _from_cache(asked: HubAddress, name: str) -> Path | None:
    try:
        return hub.download_file(asked.repo_id, name, asked.revision, cached_only=True)
    except HubError:
        return None


_LISTINGS: dict[tuple[str, str, str], hub.Listing] = {}


def _listing(at: HubAddress) -> hub.Listing:
    """The files at an address; the answer is kept if the address names a commit, which cannot change."""
    known = _LISTINGS.get((hub.endpoint(), at.repo_id, at.revision or ""))
    if known is not None:
        return known
    listing = hub.list_files(at.repo_id, at.revision)
    if len(_LISTINGS) >= 32:
        _LISTINGS.clear()
    _LISTINGS[hub.endpoint(), at.repo_id, listing.commit] = listing
    return listing
