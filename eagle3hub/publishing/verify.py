"""Check that a repository or folder holds what was published: digests, heads, and all that can be derived."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from eagle3hub.address import HubAddress, parse_address, parse_hub_address
from eagle3hub.card.folder import MANIFEST
from eagle3hub.card.manifest import load_manifest
from eagle3hub.checkpoint import hub
from eagle3hub.checkpoint.digest import file_digest, release_digest
from eagle3hub.checkpoint.folder import open_checkpoint
from eagle3hub.checkpoint.scratch import scratch_folder
from eagle3hub.checkpoint.source import CONFIG, INDEX, PROVENANCE
from eagle3hub.engines.base import Verdict
from eagle3hub.errors import Eagle3HubError, HubError, InputError, SourceError, UsageError
from eagle3hub.layouts import open_head
from eagle3hub.lint.parse import parse_card
from eagle3hub.publishing import remote
from eagle3hub.publishing.derived import Derivation, derive_again, own_manifest
from eagle3hub.publishing.files import CARD, SUMS, LocalFile, head_folders, read_digest_list, read_folder, whole_digest
from eagle3hub.publishing.plan import MAIN, engine_files, has_same_bytes, made_for
from eagle3hub.publishing.signing import SIGNATURE, UNSIGNED, Identity, check_signature, is_by_identity, signed_digests
from eagle3hub.system.documents import parse_json
from eagle3hub.system.progress import Progress, silent


@dataclass(frozen=True, slots=True)
class Verified:
    """What verification found in a repository, or in a folder if ``commit`` is None.

    Attributes:
        files: (path, size in bytes) of every file whose digest is the published one.
        heads: (folder, layout) of every head that was read back.
        faults: one sentence for each thing that is not as published; empty if everything is.
        unlisted: the files that the list of digests does not name.
        signature: what is known of the signature; empty if there is none.
        waived: what does not hold, where the release itself says so.
        unchecked: what could not be derived here, and why.
    """

    source: str
    commit: str | None
    files: Sequence[tuple[str, int]]
    heads: Sequence[tuple[str, str]]
    faults: Sequence[str]
    unlisted: Sequence[str]
    signature: str = ""
    waived: Sequence[str] = ()
    unchecked: Sequence[str] = ()

    @property
    def verdict(self) -> Verdict:
        """``fail`` if there is a fault, ``inconclusive`` if something could not be checked, else ``pass``."""
        return "fail" if self.faults else "inconclusive" if self.unchecked else "pass"

    def to_json(self) -> dict[str, Any]:
        """Return the document that ``verify --json`` prints."""
        return {
            "source": self.source,
            "commit": self.commit,
            "verdict": self.verdict,
            "files": [{"path": path, "size": size} for path, size in self.files],
            "heads": [{"folder": folder, "layout": layout} for folder, layout in self.heads],
            "faults": list(self.faults),
            "unlisted": list(self.unlisted),
            "signature": self.signature or None,
            "waived": list(self.waived),
            "unchecked": list(self.unchecked),
        }


def verify_upload(
    repo_id: str, commit: str, files: Sequence[LocalFile], heads: Sequence[str], progress: Progress = silent
) -> None:
    """Compare a commit on the Hub with the files it was made of.

    This checks every file's digest as the Hub states it, the card's metadata, and every head through range requests.
    Raises HubError (``hub-verify``) if something differs.
    """
    progress("verifying what the Hub has")
    there = remote.list_files_at(repo_id, commit)
    for file in files:
        known = there.get(file.path)
        if known is None or not has_same_bytes(file, known):
            what = "is missing" if known is None else "has other bytes"
            raise _differs(repo_id, commit, f"{file.path} {what}")
    if any(f.path == CARD for f in files):
        text = hub.download_file(repo_id, CARD, commit).read_text(encoding="utf-8", errors="replace")
        if error := _card_error(text):
            raise _differs(repo_id, commit, error)
    for folder in heads:
        try:
            _layout(_address(repo_id, commit, folder))
        except HubError:
            raise
        except Eagle3HubError as e:
            raise _differs(repo_id, commit, f"the head in {folder or 'the root'} cannot be read: {e.message}") from e


@dataclass(frozen=True, slots=True)
class VerifyOptions:
    """What a release must be, beyond what it says of itself.

    Attributes:
        digest: the `release_digest` that its heads must have, as ``release`` printed it.
        whole_digest: the `whole_digest` that all files of a folder must have.
        by: the public key, or the identity, that must have signed a repository.
    """

    digest: str | None = None
    whole_digest: str | None = None
    by: Path | Identity | None = None


NOTHING_MORE = VerifyOptions()


def verify(source: str | Path, options: VerifyOptions = NOTHING_MORE, *, progress: Progress = silent) -> Verified:
    """Check a published repository or a release folder: digests, signature, heads, and all that follows from them.

    ``source`` is an address (`parse_address`). Every byte of a repository is downloaded and compared with its own list
    of digests. A folder has no such list yet: without a digest in the options it must be a release folder, whose
    numbers, card and charts are made again.

    Raises UsageError if nothing says what the folder should hold, or if an option does not apply. Raises SourceError
    if the folder cannot be read, or if this tool did not publish the repository. Raises HubError.
    """
    at = parse_address(source)
    if isinstance(at, HubAddress):
        if options.whole_digest is not None:
            raise UsageError(
                "a digest of all files is of a folder, not of a repository",
                hint="what was published has its SHA256SUMS",
            )
        return verify_repository(str(source), options.digest, progress, by=options.by)
    if options.digest is None and options.whole_digest is None and made_for(at.path) is None:
        raise UsageError(
            f"nothing says what {source} should hold",
            hint="give --digest or --whole-digest, a release folder, or hf://owner/name for what was published",
        )
    return verify_folder(at.text, options.digest, progress, whole=options.whole_digest)


def verify_folder(
    folder: str | Path, expected: str | None = None, progress: Progress = silent, *, whole: str | None = None
) -> Verified:
    """Check a release folder against its earlier digests, read its heads, and derive it again.

    A folder of heads alone, without a manifest, has nothing to derive.

    Args:
        expected: the `release_digest` of the heads, as ``release --until convert`` prints it; None to skip this
            check.
        whole: the `whole_digest` of all files; None to skip this check.

    Raises SourceError if the folder cannot be read.
    """
    files, links = read_folder(Path(folder), progress)
    faults = [f"{link} is a link or a special file" for link in links]
    if expected is not None:
        faults += _digest_fault({f.path: f.sha256 for f in files}, expected)
    if whole is not None and not links and (found := whole_digest(Path(folder), progress)) != whole:
        faults.append(f"the digest of the files is {found}, not {whole}")
    heads: list[tuple[str, str]] = []
    for inside in head_folders(files):
        try:
            heads.append((inside, _layout(str(Path(folder, inside)))))
        except InputError as e:
            faults.append(f"the head in {inside or 'the root'} cannot be read: {e.message}")
    derived = Derivation([])
    if any(f.path == MANIFEST for f in files):
        progress("deriving reports, card and charts again")
        derived = _derive_folder(Path(folder), files)
    everything = [(f.path, f.size) for f in files]
    return Verified(
        str(folder), None, everything, heads, [*faults, *derived.faults], [], "", derived.waived, derived.unchecked
    )


def _derive_folder(folder: Path, files: Sequence[LocalFile]) -> Derivation:
    try:
        own = own_manifest(folder)
    except InputError as e:
        return Derivation([e.message])
    return derive_again(folder, files, own.release.repo if own is not None else "")


def verify_repository(
    source: str, expected: str | None = None, progress: Progress = silent, *, by: Path | Identity | None = None
) -> Verified:
    """Download a published repository and derive it again.

    This compares every byte with the repository's own list of digests, reads every head, and makes the numbers and
    verdicts of the reports, the card and the charts again from the files alone (`derive_again`).

    Args:
        source: ``hf://owner/name[@revision]``.
        expected: the `release_digest` of the heads; with a branch for each layout, of the heads on all branches.
        by: the public key or the identity that must have signed; None to check which files the signature covers,
            but not who signed.

    Raises HubError, and SourceError if there is no list of digests, because then this tool did not publish the
    repository.
    """
    at = parse_hub_address(source)
    if at.folder:
        raise SourceError(f"{source} names a folder", hint="name the repository", code="source-hub-address")
    tree = _Tree.open(at.repo_id, at.revision, source, progress)
    whole = _put_together(at.repo_id, tree, progress)
    faults = [] if expected is None else _digest_fault(whole.listed, expected)
    faults += whole.faults
    if CARD in tree.paths:
        error = _card_error(tree.paths[CARD].read_text(encoding="utf-8", errors="replace"))
        faults += [error] if error else []
    heads: list[tuple[str, str]] = []
    for path in tree.listed:
        if path.rpartition("/")[2] == CONFIG and path in tree.sizes:
            folder = path.rpartition("/")[0]
            try:
                heads.append((folder, _layout(_address(at.repo_id, tree.commit, folder))))
            except HubError:
                raise
            except Eagle3HubError as e:
                faults.append(f"the head in {folder or 'the root'} cannot be read: {e.message}")
    said, fault = _signed(at.repo_id, tree.commit, tree.listed, by, progress)
    faults += [fault] if fault else []
    found = Derivation([])
    if not whole.faults:  # with other bytes, the derivation would differ anyway
        progress("deriving reports, card and charts again")
        with scratch_folder() as place:
            found = _derived(place, at.repo_id, whole)
    faults += [f for f in found.faults if f not in faults]
    known = {*tree.listed, SUMS, ".gitattributes"}
    unlisted = sorted(set(tree.sizes) - known)
    places = {path.rpartition("/")[0] for path in tree.listed if path.rpartition("/")[2] == CONFIG}
    faults += [
        f"{path} lies beside a head and is not on the list of digests: engines may load it"
        for path in engine_files(unlisted, places)
    ]
    good = [(path, file.stat().st_size) for path, file in tree.paths.items()]
    return Verified(source, tree.commit, good, heads, faults, unlisted, said, found.waived, found.unchecked)


@dataclass(frozen=True, slots=True)
class _Tree:
    """One commit of a repository.

    Attributes:
        listed: SHA-256 by path, from the list of digests.
        sizes: the size of every file, listed or not.
        paths: where each file lies on this machine, for the files whose bytes are as listed.
        faults: the other files, one sentence each.
    """

    commit: str
    listed: Mapping[str, str]
    sizes: Mapping[str, int | None]
    paths: Mapping[str, Path]
    faults: Sequence[str]

    @classmethod
    def open(cls, repo_id: str, revision: str | None, source: str, progress: Progress) -> _Tree:
        listing = hub.list_files(repo_id, revision)
        if SUMS not in listing.sizes:
            raise SourceError(
                f"there is no {SUMS} in {source}",
                hint="only releases that eagle3hub published have one; eagle3hub inspect reads any head",
                code="source-no-sums",
            )
        listed = read_digest_list(_download(repo_id, SUMS, listing.commit, progress))
        paths: dict[str, Path] = {}
        faults = []
        for path, sha256 in listed.items():
            if path not in listing.sizes:
                faults.append(f"{path} is missing")
                continue
            try:
                file = _download(repo_id, path, listing.commit, progress)
            except HubError as e:
                if e.code != "hub-digest":
                    raise
                faults.append(f"{path} has other bytes than were published")
                continue
            if file_digest(file)["sha256"] != sha256:
                faults.append(f"{path} has other bytes than were published")
            else:
                paths[path] = file
        return cls(listing.commit, listed, listing.sizes, paths, faults)


@dataclass(frozen=True, slots=True)
class _Whole:
    """The files of a release as they lay in its folder before it was published.

    Attributes:
        listed: SHA-256 by path, as published.
        paths: where each file lies on this machine, for the files whose bytes are as listed.
        faults: the other files, one sentence each.
        manifest: what is wrong with the manifest, or None.
    """

    listed: Mapping[str, str]
    paths: Mapping[str, Path]
    faults: Sequence[str]
    manifest: str | None = None


def _put_together(repo_id: str, tree: _Tree, progress: Progress) -> _Whole:
    """Put a release together from what was published.

    With a branch for each layout, every branch has the shared files, and its own head in its root.
    """
    alone = _Whole(tree.listed, tree.paths, tree.faults)
    if MANIFEST not in tree.paths:
        return alone
    try:
        own = load_manifest(tree.paths[MANIFEST])
    except InputError as e:
        return replace(alone, manifest=f"{MANIFEST}: {e.message}")
    if not (own.publish.branch_per_layout and own.layouts.also):
        return alone
    here = _written_layout(tree.paths)
    listed = {path: sha256 for path, sha256 in tree.listed.items() if "/" in path or not _of_a_head(path)}
    paths = {path: tree.paths[path] for path in listed if path in tree.paths}
    faults = list(tree.faults)
    for layout in own.layouts:
        folder = own.layouts.folder(layout)
        branch = folder or MAIN
        other = tree if layout == here else _Tree.open(repo_id, branch, str(HubAddress(repo_id, branch)), progress)
        faults += [] if other is tree else [f"on the branch {branch}, {fault}" for fault in other.faults]
        for path, sha256 in other.listed.items():
            if "/" not in path and _of_a_head(path):
                name = f"{folder}/{path}" if folder else path
                listed[name] = sha256
                if path in other.paths:
                    paths[name] = other.paths[path]
    return _Whole(listed, paths, faults)


def _derived(place: Path, repo_id: str, whole: _Whole) -> Derivation:
    """Put a release into the empty folder ``place``, and derive it again."""
    if whole.manifest is not None:
        return Derivation([whole.manifest])
    if MANIFEST not in whole.paths:
        return derive_again(place, [], repo_id)
    files = []
    for path, file in whole.paths.items():
        at = place / path
        try:
            at.parent.mkdir(parents=True, exist_ok=True)
            at.symlink_to(file.resolve())
        except OSError as e:  # a file and a folder of one name
            return Derivation([f"{path} cannot lie beside the other files: {e.strerror}"])
        files.append(LocalFile(path, at, file.stat().st_size, whole.listed[path], ""))
    return derive_again(place, files, repo_id, run_templates=False)


def _written_layout(parts: Mapping[str, Path]) -> str:
    """Return the layout of the head in the root of a tree, as the record beside the head says."""
    try:
        record = parse_json(parts[PROVENANCE].read_bytes()) if PROVENANCE in parts else {}
    except (ValueError, RecursionError):
        return ""
    return str(record.get("layout", "")) if isinstance(record, dict) else ""


def _of_a_head(name: str) -> bool:
    return name in {CONFIG, INDEX, PROVENANCE} or name.endswith(".safetensors")


def _signed(
    repo_id: str, commit: str, listed: Mapping[str, str], by: Path | Identity | None, progress: Progress
) -> tuple[str, str | None]:
    """Return what is known of a repository's signature, and what is wrong with it or None."""
    if SIGNATURE not in listed:
        return "", None if by is None else "there is no signature"
    path = _download(repo_id, SIGNATURE, commit, progress)
    files = {name: digest for name, digest in listed.items() if name not in UNSIGNED}
    try:
        if signed_digests(path.read_bytes()) != files:
            return "over other files", "the signature covers other files than those that were published"
    except SourceError as e:
        return "none that can be read", e.message
    if by is None:
        tells = "--identity and --issuer tell" if is_by_identity(path.read_bytes()) else "--key KEY tells"
        return f"over all {len(files)} files; by whom, {tells}", None
    progress("checking the signature")
    why = check_signature({name: _download(repo_id, name, commit, progress) for name in files}, path, by)
    return (f"by {by.name}, over all {len(files)} files", None) if why is None else ("not good", f"signature: {why}")


def _download(repo_id: str, path: str, commit: str, progress: Progress) -> Path:
    return hub.download_file(repo_id, path, commit, progress)


def _digest_fault(sha256: Mapping[str, str], digest: str) -> list[str]:
    found = release_digest(sha256)
    return [] if found == digest else [f"the digest of the heads is {found}, not {digest}"]


def _address(repo_id: str, commit: str, folder: str) -> str:
    return str(HubAddress(repo_id, commit, folder))


def _layout(address: str) -> str:
    """Return the layout of a head; on the Hub it is read by range requests. Raises InputError for a broken head."""
    head = open_head(open_checkpoint(address, headers_only=True))
    head.raise_for_errors()
    return head.layout


def _card_error(text: str) -> str | None:
    card = parse_card(text, CARD, None)
    if card.front is None:
        return f"{CARD} has no metadata that can be read"
    return None


def _differs(repo_id: str, commit: str, what: str) -> HubError:
    return HubError(
        f"{repo_id} at {commit[:12]} is not what was uploaded: {what}",
        hint="run the same command again: it uploads what differs",
        code="hub-verify",
    )
