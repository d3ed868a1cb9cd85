"""Whether a repository on the Hub holds what was published: digests, card, head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eagle3hub.card.lint.parse import parse_card
from eagle3hub.checkpoint import hub
from eagle3hub.checkpoint.digest import file_digest
from eagle3hub.checkpoint.folder import open_checkpoint
from eagle3hub.checkpoint.remote import parse_address
from eagle3hub.errors import CheckpointError, Eagle3HubError, HubError, InputError, SourceError
from eagle3hub.layouts import open_head
from eagle3hub.progress import Progress, silent
from eagle3hub.publishing import remote
from eagle3hub.publishing.files import (
    CARD,
    SUMS,
    LocalFile,
    head_folders,
    parse_sums,
    read_folder,
    release_digest,
)
from eagle3hub.publishing.keyless import Identity, by_certificate
from eagle3hub.publishing.plan import same
from eagle3hub.publishing.signing import SIGNATURE, UNSIGNED, check_signature, covered


@dataclass(frozen=True, slots=True)
class Verified:
    """What was found in a repository, or with no ``commit`` in a folder.

    Attributes:
        files: (path, size in bytes) of every file whose digest is the published one.
        heads: (folder, layout) of every head that was read back.
        faults: what is not as published, one sentence each; empty: everything is.
        unlisted: files that the list of digests does not name.
        signature: what is known of its signature; empty where there is none.
    """

    source: str
    commit: str | None
    files: Sequence[tuple[str, int]]
    heads: Sequence[tuple[str, str]]
    faults: Sequence[str]
    unlisted: Sequence[str]
    signature: str = ""

    def to_json(self) -> dict[str, Any]:
        """The document ``verify --json`` prints."""
        return {
            "source": self.source,
            "commit": self.commit,
            "verdict": "fail" if self.faults else "pass",
            "files": [{"path": path, "size": size} for path, size in self.files],
            "heads": [{"folder": folder, "layout": layout} for folder, layout in self.heads],
            "faults": list(self.faults),
            "unlisted": list(self.unlisted),
            "signature": self.signature or None,
        }


def verify_upload(
    repo_id: str, commit: str, files: Sequence[LocalFile], heads: Sequence[str], progress: Progress = silent
) -> None:
    """Hold a commit on the Hub against the files it was made of.

    Every file's digest as the Hub states it, the card's metadata, and every head as range requests see it. Raises
    HubError, code ``hub-verify``, where something differs.
    """
    progress("verifying what the Hub has")
    there = remote.tree(repo_id, commit)
    for file in files:
        known = there.get(file.path)
        if known is None or not same(file, known):
            what = "is missing" if known is None else "has other bytes"
            raise _differs(repo_id, commit, f"{file.path} {what}")
    if any(f.path == CARD for f in files):
        text = hub.download_file(repo_id, CARD, commit).read_text(encoding="utf-8")
        if error := _card_error(text):
            raise _differs(repo_id, commit, error)
    for folder in heads:
        try:
            _layout(_address(repo_id, commit, folder))
        except HubError:
            raise
        except Eagle3HubError as e:
            raise _differs(repo_id, commit, f"the head in {folder or 'the root'} cannot be read: {e.message}") from e


def verify_folder(folder: str | Path, expected: str, progress: Progress = silent) -> Verified:
    """Hold the heads of a release folder against the digest that they had elsewhere, and read them.

    Args:
        expected: `release_digest` of the heads, as ``release --until convert`` tells it.

    Raises SourceError where the folder cannot be read.
    """
    files, links = read_folder(Path(folder), progress)
    faults = [f"{link} is a link or a special file" for link in links]
    faults += _digest_fault({f.path: f.sha256 for f in files}, expected)
    heads: list[tuple[str, str]] = []
    for inside in head_folders(files):
        try:
            heads.append((inside, _layout(str(Path(folder, inside)))))
        except InputError as e:
            faults.append(f"the head in {inside or 'the root'} cannot be read: {e.message}")
    return Verified(str(folder), None, [(f.path, f.size) for f in files], heads, faults, [])


def verify_repository(
    source: str, expected: str | None = None, progress: Progress = silent, *, by: Path | Identity | None = None
) -> Verified:
    """Download a published repository and hold every byte against its own list of digests, then read its heads.

    Args:
        source: ``hf://owner/name[@revision]``.
        expected: `release_digest` that its heads must have.
        by: public key or identity that it must be signed with; None: a signature is held against the files and not
            its signer.

    Raises HubError, SourceError (no list of digests: it was not published by this tool).
    """
    at = parse_address(source)
    if at.folder:
        raise SourceError(f"{source} names a folder", hint="name the repository", code="source-hub-address")
    listing = hub.list_files(at.repo_id, at.revision)
    if SUMS not in listing.sizes:
        raise SourceError(
            f"there is no {SUMS} in {source}",
            hint="only what eagle3hub published carries one; eagle3hub inspect reads any head",
            code="source-no-sums",
        )
    commit = listing.commit
    listed = parse_sums(hub.download_file(at.repo_id, SUMS, commit).read_text(encoding="utf-8"))
    good: list[tuple[str, int]] = []
    faults = [] if expected is None else _digest_fault(listed, expected)
    for path, sha256 in listed.items():
        if path not in listing.sizes:
            faults.append(f"{path} is missing")
            continue
        try:
            digest = file_digest(_download(at.repo_id, path, commit, progress))
        except HubError as e:
            if e.code != "hub-digest":
                raise
            faults.append(f"{path} has other bytes than were published")
            continue
        if digest["sha256"] != sha256:
            faults.append(f"{path} has other bytes than were published")
        else:
            good.append((path, digest["size"]))
    if CARD in listed and CARD in listing.sizes:
        error = _card_error(
            _download(at.repo_id, CARD, commit, progress).read_text(encoding="utf-8", errors="replace")
        )
        faults += [error] if error else []
    heads: list[tuple[str, str]] = []
    for path in listed:
        if path.rpartition("/")[2] == "config.json" and path in listing.sizes:
            folder = path.rpartition("/")[0]
            try:
                heads.append((folder, _layout(_address(at.repo_id, commit, folder))))
            except HubError:
                raise
            except Eagle3HubError as e:
                faults.append(f"the head in {folder or 'the root'} cannot be read: {e.message}")
    said, fault = _signed(at.repo_id, commit, listed, by, progress)
    faults += [fault] if fault else []
    known = {*listed, SUMS, ".gitattributes"}
    return Verified(source, commit, good, heads, faults, sorted(set(listing.sizes) - known), said)


def _signed(
    repo_id: str, commit: str, listed: Mapping[str, str], by: Path | Identity | None, progress: Progress
) -> tuple[str, str | None]:
    """What is known of a repository's signature, and what is wrong with it."""
    if SIGNATURE not in listed:
        return "", None if by is None else "there is no signature"
    path = _download(repo_id, SIGNATURE, commit, progress)
    files = {name: digest for name, digest in listed.items() if name not in UNSIGNED}
    try:
        if covered(path.read_bytes()) != files:
            return "over other files", "the signature is over other files than those that were published"
    except SourceError as e:
        return "none that can be read", e.message
    if by is None:
        tells = "--identity and --issuer tell" if by_certificate(path.read_bytes()) else "--key KEY tells"
        return f"over all {len(files)} files; by whom, {tells}", None
    progress("checking the signature")
    why = check_signature({name: _download(repo_id, name, commit, progress) for name in files}, path, by)
    return (f"by {by.name}, over all {len(files)} files", None) if why is None else ("not good", f"signature: {why}")


def _download(repo_id: str, path: str, commit: str, progress: Progress) -> Path:
    return hub.download_file(repo_id, path, commit, progress)


def _digest_fault(sha256: Mapping[str, str], digest: str) -> list[str]:
    found = release_digest(sha256)
    return [] if found == digest else [f"the heads amount to {found}, not to {digest}"]


def _address(repo_id: str, commit: str, folder: str) -> str:
    return f"hf://{repo_id}@{commit}" + (f"/{folder}" if folder else "")


def _layout(address: str) -> str:
    """Layout of a head, on the Hub looked into by range requests. Raises InputError where it is not sound."""
    head = open_head(open_checkpoint(address, headers_only=True))
    head.raise_for_errors()
    if not head.tensors:
        raise CheckpointError(f"there are no tensors in {address}", code="checkpoint-empty")
    return head.layout


def _card_error(text: str) -> str | None:
    card = parse_card(text, CARD, None)
    if card.front is None:
        return f"{CARD} has no metadata that can be read"
    return None


def _differs(repo_id: str, commit: str, what: str) -> HubError:
    return HubError(
        f"{repo_id} at {commit[:12]} is not what was uploaded: {what}",
        hint="run the same command again: what differs is uploaded anew",
        code="hub-verify",
    )
