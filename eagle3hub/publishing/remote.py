"""Write to the Hub through huggingface_hub, and turn every failure into one sentence.

The client finds the access token itself: from ``hf auth login``, from ``HF_TOKEN``, or in GitHub Actions as a token
for the repository that ``HF_OIDC_RESOURCE`` names. A token is never an argument here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eagle3hub._version import __version__
from eagle3hub.checkpoint.hub import client, endpoint, hub_errors, patiently
from eagle3hub.errors import HubError, SourceError
from eagle3hub.network import names
from eagle3hub.network.bounds import Exceeded, Operation

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_ANSWER_SECONDS = 10.0
"""How many seconds without a byte pass before a question is asked again."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file at a commit: its size in bytes, its git blob id, and for a large file its SHA-256."""

    size: int
    blob_id: str
    sha256: str | None


@dataclass(frozen=True, slots=True)
class RemoteState:
    """A repository before anything is sent.

    ``branches``, ``tags`` and ``pulls`` map names to commits. They are empty if the repository does not exist.
    """

    exists: bool
    private: bool = False
    gated: str | None = None
    branches: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    pulls: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Committed:
    """A commit that was made. ``pull`` is the address of its pull request, if it has one."""

    oid: str
    pull: str | None = None


def name_fault(repo_id: str) -> str | None:
    """Return why the Hub would not accept this name for a repository, or None."""
    try:
        client().validate_repo_id(repo_id)
    except client().HFValidationError:
        return (
            "names hold letters, digits, '-', '_' and '.', 96 characters at most, without '--', '..' or a final .git"
        )
    return None if repo_id.count("/") == 1 else "write owner/name"


def require_token(repo_id: str) -> None:
    """Raise HubError unless the client has an access token that may write to this repository."""
    import huggingface_hub

    only = os.environ.get("HF_OIDC_RESOURCE")
    if only and only != repo_id:
        raise HubError(
            f"HF_OIDC_RESOURCE asks for a token for {only}, which cannot write to {repo_id}",
            hint=f"set it to {repo_id}, or unset it to use another access token",
            code="hub-oidc",
        )
    with hub_errors(repo_id, repo_id, doing="write to"):
        token = huggingface_hub.get_token()
    if not token:
        raise HubError(
            f"there is no access token to write to {repo_id} with",
            hint="run `hf auth login`, set HF_TOKEN, or in GitHub Actions set HF_OIDC_RESOURCE to the repository",
            code="hub-no-token",
        )


def read_state(repo_id: str) -> RemoteState:
    """Return the repository's visibility, gated access, branches, tags and pull requests. Raises HubError."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    api = _api()
    with hub_errors(repo_id, repo_id, doing="look at"):
        try:
            info = patiently(lambda: api.model_info(repo_id, timeout=_ANSWER_SECONDS))
        except GatedRepoError:
            raise
        except RepositoryNotFoundError:
            return RemoteState(exists=False)
        refs = patiently(lambda: api.list_repo_refs(repo_id, include_pull_requests=True))
        if not isinstance(info.private, bool) or info.gated not in (None, False, "auto", "manual"):
            raise Exceeded("strange", "it does not say who may read the repository")
        return RemoteState(
            exists=True,
            private=info.private,
            gated=info.gated or None,
            branches=_commits(refs.branches, "branch"),
            tags=_commits(refs.tags, "tag"),
            pulls={
                names.pull(p.ref): names.oid(p.target_commit, "commit of a pull request")
                for p in refs.pull_requests or []
            },
        )


def _commits(refs: Sequence[Any], what: str) -> dict[str, str]:
    return {names.ref(r.name, what): names.oid(r.target_commit, f"commit of a {what}") for r in refs}


def list_files_at(repo_id: str, commit: str) -> dict[str, RemoteFile]:
    """Return every file of a commit by path. Raises HubError."""
    from huggingface_hub.hf_api import RepoFile

    def ask() -> dict[str, RemoteFile]:
        found: dict[str, RemoteFile] = {}
        for entry in _api().list_repo_tree(repo_id, recursive=True, revision=commit):
            if isinstance(entry, RepoFile):
                found[names.path(entry.path)] = _file(entry)
        return found

    with hub_errors(repo_id, repo_id, commit, doing="look at"):
        return patiently(ask)


def _file(entry: Any) -> RemoteFile:
    if type(entry.size) is not int or entry.size < 0:
        raise Exceeded("strange", f"it gives {entry.path} a size that no file has")
    sha256 = names.sha256(entry.lfs.sha256, "SHA-256 of a file") if entry.lfs else None
    return RemoteFile(entry.size, names.oid(entry.blob_id, "id of a file"), sha256)


def create_repository(repo_id: str, *, private: bool) -> None:
    """Make an empty repository. One that exists already stays as it is. Raises HubError."""
    with hub_errors(f"the repository {repo_id}", repo_id, doing="create"):
        patiently(lambda: _api().create_repo(repo_id, private=private, exist_ok=True))


def create_branch(repo_id: str, branch: str, start: str) -> None:
    """Make a branch that starts at a commit. One that exists already stays as it is. Raises HubError."""
    with hub_errors(f"the branch {branch} of {repo_id}", repo_id, doing="create"):
        patiently(lambda: _api().create_branch(repo_id, branch=branch, revision=start, exist_ok=True))


def create_tag(repo_id: str, tag: str, commit: str) -> None:
    """Tag a commit. Raises HubError, also if the tag exists."""
    with hub_errors(f"the tag {tag} of {repo_id}", repo_id, doing="create"):
        patiently(lambda: _api().create_tag(repo_id, tag=tag, revision=commit))


def make_public(repo_id: str) -> None:
    """Make the repository public. Raises HubError."""
    with hub_errors(f"the visibility of {repo_id}", repo_id, doing="change"):
        patiently(lambda: _api().update_repo_settings(repo_id, private=False))


def gate_access(repo_id: str, how: str) -> None:
    """Require readers to ask for access first: ``auto`` or ``manual``. Raises HubError."""
    gated: Any = how
    with hub_errors(f"who may read {repo_id}", repo_id, doing="change"):
        patiently(lambda: _api().update_repo_settings(repo_id, gated=gated))


def in_collection(repo_id: str, slug: str) -> bool:
    """Return whether a collection has the repository. Raises HubError, also if there is no such collection."""
    with hub_errors(f"collection {slug}", repo_id, doing="look at"):
        items = patiently(lambda: _api().get_collection(slug)).items
    return any(item.item_type == "model" and item.item_id == repo_id for item in items)


def add_to_collection(repo_id: str, slug: str) -> None:
    """Add the repository to a collection, if it is not in it yet. Raises HubError."""
    with hub_errors(f"the collection {slug}", repo_id, doing="change"):
        patiently(lambda: _api().add_collection_item(slug, repo_id, "model", exists_ok=True))


def commit(
    repo_id: str,
    branch: str,
    parent: str,
    *,
    add: Mapping[str, tuple[Path | bytes, str]],
    remove: Sequence[str],
    message: str,
    description: str,
    create_pr: bool,
) -> Committed:
    """Make one commit on a branch, or a pull request of one commit against it.

    Large files are sent first, and a later try finds them again. What the Hub has already is not sent.

    Args:
        parent: the commit that the branch must still be at.
        add: for each path in the repository, where its bytes are, and their SHA-256 as planned.

    Raises HubError, and SourceError if the bytes of a file are no longer those that were planned.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    operations: list[Any] = []
    for path, (source, sha256) in add.items():
        operation = CommitOperationAdd(path, source)
        if operation.upload_info.sha256.hex() != sha256:
            raise SourceError(f"{path} changed while it was being published", hint="run it again", code="source-moved")
        operations.append(operation)
    operations += [CommitOperationDelete(path) for path in remove]
    limits = Operation(transfer=True, slow="/commit/")
    with hub_errors(f"{repo_id}", repo_id, branch, doing="upload to", limits=limits), _no_bars(), _no_xet():
        done = patiently(
            lambda: _api().create_commit(
                repo_id,
                operations,
                commit_message=message,
                commit_description=description,
                revision=branch,
                parent_commit=parent,
                create_pr=create_pr,
            )
        )
        if not isinstance(done.oid, str) or not names.OID.fullmatch(done.oid):
            raise Exceeded("strange", "it names no commit")
        return Committed(done.oid, None if done.pr_url is None else names.address(done.pr_url, endpoint()))


def _api() -> HfApi:
    from huggingface_hub import HfApi

    return HfApi(library_name="eagle3hub", library_version=__version__)


@contextmanager
def _no_bars() -> Iterator[None]:
    """Turn off the client's own progress bars."""
    if client().are_progress_bars_disabled():
        yield
        return
    client().disable_progress_bars()
    try:
        yield
    finally:
        client().enable_progress_bars()


@contextmanager
def _no_xet() -> Iterator[None]:
    """Upload over HTTP, because Xet's client ignores our limits."""
    from huggingface_hub import constants

    before = constants.HF_HUB_DISABLE_XET
    constants.HF_HUB_DISABLE_XET = True
    try:
        yield
    finally:
        constants.HF_HUB_DISABLE_XET = before
