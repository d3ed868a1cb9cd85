"""Plan a publication file by file, before anything is sent."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from eagle3hub._version import __version__
from eagle3hub.card.folder import MANIFEST, RECORD
from eagle3hub.card.manifest import Manifest, PublishSettings
from eagle3hub.checkpoint import hub
from eagle3hub.errors import HubError, InputError, Problem, UsageError
from eagle3hub.publishing import remote
from eagle3hub.publishing.derived import gate_problem, own_manifest
from eagle3hub.publishing.files import CARD, SUMS, LocalFile, digest_list, head_folders, read_digest_list, read_folder
from eagle3hub.publishing.gates import check_gate_codes, failed_gates
from eagle3hub.publishing.remote import RemoteFile, RemoteState
from eagle3hub.publishing.sensitive import safe_path
from eagle3hub.publishing.signing import UNSIGNED, sign_folder
from eagle3hub.system.progress import Progress, silent

_LOADED = re.compile(
    r".+\.(safetensors|bin|pt|pth|py)|.+\.index\.json|(config|generation_config|adapter_config)\.json"
)
"""The names of files that engines look for beside a config.json and load."""
FileState = Literal["new", "changed", "unchanged", "removed", "kept", "unknown"]
MAIN = "main"
_SHARED = (
    "LICENSE", "NOTICE", "reports/", "benchmarks/", "charts/", "assets/", "images/", "imported/", "templates/",
    MANIFEST, RECORD,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class PublishOptions:
    """How to publish.

    Attributes:
        create_pr: propose the commit as a pull request instead of making it.
        stage: keep a new repository private until everything in it has been verified.
        private: keep a new repository private.
        branch_per_layout: put layouts in sub-folders on branches of their names, not into folders on ``main``.
        tag: the tag for the commit on ``main``.
        message: the first line of the commit message; None for one that names the repository.
        allow: the codes of the gates to waive.
        gated: ``auto`` or ``manual`` if readers must ask for access; None to leave it as it is.
        collection: the slug of the Hub collection that the repository is added to.
        sign: the private key for `sign_if_asked`, or ``sigstore`` to sign with the identity of this job.
    """

    create_pr: bool = False
    stage: bool = False
    private: bool = False
    branch_per_layout: bool = False
    tag: str | None = None
    message: str | None = None
    allow: tuple[str, ...] = ()
    gated: str | None = None
    collection: str | None = None
    sign: Path | None = None

    def __post_init__(self) -> None:
        check_gate_codes(self.allow)
        if self.stage and self.private:
            raise UsageError(
                "--stage ends with a public repository, --private with a private one", hint="give one of them"
            )
        if self.create_pr and (self.tag or self.branch_per_layout or self.stage or self.gated or self.collection):
            raise UsageError(
                "--create-pr proposes one commit to main and does nothing else", hint="do the rest when it is merged"
            )
        if self.sign is not None and self.branch_per_layout:
            raise UsageError(
                "a signature covers one tree, and --branch-per-layout makes several", hint="give one of them"
            )
        if self.gated not in (None, "auto", "manual"):
            raise UsageError(f"gated access cannot be {self.gated}", hint="use auto or manual")

    def with_intent(self, said: PublishSettings | None) -> PublishOptions:
        """Return these options together with what a release says of how it is published.

        With a pull request, only ``private`` is taken from the release. Options add to what the release says and may
        be stricter. Raises UsageError (``usage-intent``) if an option would make the release public, or open it to
        more readers, than the release allows.
        """
        if said is None:
            return self
        if said.private and self.stage:
            raise UsageError(
                "--stage ends with a public repository, but the release is to stay private",
                hint="leave it out, or change publish.private in the manifest and make the release again",
                code="usage-intent",
            )
        if said.gated == "manual" and self.gated == "auto":
            raise UsageError(
                "--gated auto admits readers whom the release wants to admit by hand",
                hint="leave it out, or change publish.gated in the manifest and make the release again",
                code="usage-intent",
            )
        private = self.private or said.private
        if self.create_pr:
            return replace(self, private=private)
        return replace(
            self,
            stage=self.stage or (said.stage and not private),
            private=private,
            branch_per_layout=self.branch_per_layout or said.branch_per_layout,
            gated=self.gated or said.gated,
            collection=self.collection or said.collection,
            tag=self.tag or said.tag,
        )

    def intent(self) -> PublishSettings:
        """Return the options that are written into a release folder."""
        return PublishSettings(
            stage=self.stage,
            private=self.private,
            branch_per_layout=self.branch_per_layout,
            gated=self.gated,
            collection=self.collection,
            tag=self.tag,
        )


DEFAULTS = PublishOptions()


@dataclass(frozen=True, slots=True)
class BranchPlan:
    """One commit: the files of a branch and what becomes of each.

    Attributes:
        files: every file that must be on the branch.
        states: the state by path. ``removed`` files are from an earlier publication, ``kept`` files are somebody
            else's, ``unknown`` files were not compared.
        heads: the folders on the branch that hold a head.
        parent: the commit that the branch is at, or None if the branch does not exist.
    """

    branch: str
    files: Sequence[LocalFile]
    states: Mapping[str, FileState]
    heads: Sequence[str]
    parent: str | None

    def having(self, *states: FileState) -> list[str]:
        """Return the paths in one of these states."""
        return [path for path, state in self.states.items() if state in states]

    @property
    def changes(self) -> bool:
        """Whether a commit is needed."""
        return bool(self.having("new", "changed", "removed", "unknown"))


@dataclass(frozen=True, slots=True)
class PublishPlan:
    """A planned publication.

    Attributes:
        problems: the gates that do not hold and were not waived. Nothing is sent while there are any.
        waived: the gates that do not hold and were waived.
        collected: whether the repository is in the collection already.
        uncompared: one sentence on why the folder was not compared with the Hub, or None if it was.
    """

    repo: str
    options: PublishOptions
    remote: RemoteState
    parts: Sequence[BranchPlan]
    message: str
    description: str
    problems: Sequence[Problem] = ()
    waived: Sequence[Problem] = field(default=())
    collected: bool = False
    uncompared: str | None = None

    @property
    def visibility(self) -> str:
        """What the repository will be: ``public``, ``private``, or private first and public when verified."""
        if self.options.stage and (not self.remote.exists or self.remote.private):
            return "private, public when verified"
        if self.remote.exists:
            return "private" if self.remote.private else "public"
        return "private" if self.options.private else "public"

    def to_json(self) -> dict[str, Any]:
        """Return the document that ``publish --dry-run --json`` prints."""
        return {
            "repo": self.repo,
            "compared": self.uncompared is None,
            "exists": self.remote.exists if self.uncompared is None else None,
            "visibility": self.visibility,
            "gated": self.options.gated or self.remote.gated or None,
            "collection": self.options.collection,
            "collected": self.collected,
            "create_pr": self.options.create_pr,
            "tag": self.options.tag,
            "message": self.message,
            "description": self.description,
            "commits": [
                {
                    "branch": part.branch,
                    "parent": part.parent,
                    "needed": part.changes,
                    "files": [
                        {"path": safe_path(f.path), "size": f.size, "sha256": f.sha256, "state": part.states[f.path]}
                        for f in part.files
                    ],
                    "removed": part.having("removed"),
                    "kept": part.having("kept"),
                }
                for part in self.parts
            ],
            "problems": [p.to_json() for p in self.problems],
            "waived": [p.to_json() for p in self.waived],
        }


def plan_publication(
    folder: str | Path,
    repo_id: str,
    options: PublishOptions = DEFAULTS,
    *,
    manifest: Manifest | None = None,
    hub_needed: bool = True,
    progress: Progress = silent,
) -> PublishPlan:
    """Read a folder, check every gate, and compare the folder with the repository. This writes nothing.

    Args:
        manifest: the manifest that the folder must have been made from. It may also say how to publish.
        hub_needed: if False and the Hub cannot be reached, plan without comparing. That also happens if a gate
            does not hold, since nothing will be sent.

    Raises SourceError if the folder cannot be read, HubError, and UsageError if the tag is taken.
    """
    folder = Path(folder)
    files, links = read_folder(folder, progress)
    said = [read_intent(folder), manifest.publish if manifest is not None else None]
    for intent in said:
        options = options.with_intent(intent)
    asked = {intent.gated for intent in said if intent is not None}
    gated = "manual" if "manual" in asked else "auto" if "auto" in asked else None
    progress("making reports' numbers, card and charts again")
    found = failed_gates(folder, repo_id, files, links, manifest)
    problems = [p for p in found if p.code not in options.allow]
    waived = [p for p in found if p.code in options.allow]
    split = _split(files, options.branch_per_layout)
    state, collected, uncompared = RemoteState(exists=False), False, None
    try:
        if not any(p.code == "publish-name" for p in found):
            progress(f"asking the Hub about {repo_id}")
            state = remote.read_state(repo_id)
            if (options.gated, state.gated) == ("auto", "manual"):  # the Hub is stricter already
                options = replace(options, gated=None)
            found += _visibility(repo_id, options, gated, state)
        parts = [_part(repo_id, branch, mine, state) for branch, mine in split.items()]
        found += _beside(parts)
        problems = [p for p in found if p.code not in options.allow]
        waived = [p for p in found if p.code in options.allow]
        _check_tag(options.tag, state, parts[-1])
        collected = options.collection is not None and remote.in_collection(repo_id, options.collection)
    except HubError as e:
        if not hub.unreachable(e) or (hub_needed and not problems):
            raise
        uncompared = e.message
        parts = [_uncompared(branch, mine) for branch, mine in split.items()]
    return PublishPlan(
        repo_id,
        options,
        state,
        parts,
        options.message or f"Publish {repo_id.rpartition('/')[2]}",
        _description(files, waived),
        problems,
        waived,
        collected,
        uncompared,
    )


def made_for(folder: str | Path) -> str | None:
    """Return the repository that a release folder was made for, or None if its manifest cannot be read."""
    own = _readable_manifest(Path(folder))
    return None if own is None else own.release.repo


def read_intent(folder: Path) -> PublishSettings | None:
    """Return how the release in ``folder`` says it is published, or None if its manifest cannot be read."""
    own = _readable_manifest(folder)
    return None if own is None else own.publish


def _readable_manifest(folder: Path) -> Manifest | None:
    try:
        return own_manifest(folder)
    except InputError:  # a gate reports what is wrong with it
        return None


def _visibility(repo_id: str, options: PublishOptions, gated: str | None, state: RemoteState) -> Iterator[Problem]:
    """Yield the ways in which the repository is open to more readers than the release, gated by ``gated``, allows."""
    code = "publish-visibility"
    change = "in the manifest and make the release again"
    if options.private and state.exists and not state.private:
        yield gate_problem(
            code,
            f"{repo_id} is public, but the release is to stay private",
            f"make the repository private in its settings, or change publish.private {change}",
        )
    if options.create_pr and gated and (not state.exists or state.gated not in (gated, "manual")):
        yield gate_problem(
            code,
            f"a pull request shows its files to all readers of {repo_id}, but the release asks for gated access",
            f"publish without --create-pr, gate the repository in its settings, or change publish.gated {change}",
        )


def _beside(parts: Sequence[BranchPlan]) -> Iterator[Problem]:
    """Yield a problem for each of somebody else's files on the Hub that engines would load with the heads."""
    for part in parts:
        for path in engine_files(part.having("kept"), part.heads):
            yield gate_problem(
                "publish-outside",
                f"{path} is on the Hub already, on {part.branch}, and engines would load it with this head",
                "delete it there",
            )


def sign_if_asked(
    folder: str | Path, options: PublishOptions, earlier: bytes | None = None, progress: Progress = silent
) -> None:
    """Sign the folder if the options name a key.

    A signature that is still good stays, also if it is the one in ``earlier``. Raises what `sign_folder` raises.
    """
    if options.sign is not None:
        files, _ = read_folder(Path(folder), progress)
        sign_folder(Path(folder), options.sign, {f.path: f.sha256 for f in files if f.path not in UNSIGNED}, earlier)


def file_states(
    files: Sequence[LocalFile], there: Mapping[str, RemoteFile], ours: Mapping[str, str]
) -> dict[str, FileState]:
    """Return the state of every path, local or on the Hub.

    ``ours`` maps the paths that an earlier publication left on the Hub to their digests.
    """
    states: dict[str, FileState] = {}
    for file in files:
        known = there.get(file.path)
        states[file.path] = "new" if known is None else "unchanged" if has_same_bytes(file, known) else "changed"
    for path in there:
        if path not in states and path != ".gitattributes":
            states[path] = "removed" if path in ours else "kept"
    return states


def engine_files(paths: Iterable[str], places: Collection[str]) -> list[str]:
    """Return the paths that an engine would load with a head in one of the folders ``places`` (empty: root)."""
    return [path for path in paths if path.rpartition("/")[0] in places and _LOADED.fullmatch(path.rpartition("/")[2])]


def has_same_bytes(file: LocalFile, there: RemoteFile) -> bool:
    """Return whether the Hub has these bytes, by SHA-256 for large files and by git's blob id for others."""
    if there.sha256 is not None:
        return file.sha256 == there.sha256
    return file.blob_id == there.blob_id


def _split(files: Sequence[LocalFile], branch_per_layout: bool) -> dict[str, list[LocalFile]]:
    """Return the files of each branch, ``main`` last, each with its list of digests."""
    parts: dict[str, list[LocalFile]] = {}
    rest = list(files)
    if branch_per_layout:
        shared = [f for f in files if f.path == CARD or f.path.startswith(_SHARED)]
        for folder in filter(None, head_folders(files)):
            mine = [f for f in files if f.path.startswith(f"{folder}/")]
            moved = [_at(f, f.path[len(folder) + 1 :]) for f in mine]
            parts[folder] = [*(f for f in shared if f.path not in {m.path for m in moved}), *moved]
            rest = [f for f in rest if f not in mine]
    parts[MAIN] = rest
    return {branch: [*mine, digest_list(mine)] for branch, mine in parts.items()}


def _at(file: LocalFile, path: str) -> LocalFile:
    return LocalFile(path, file.source, file.size, file.sha256, file.blob_id)


def _part(repo_id: str, branch: str, files: Sequence[LocalFile], state: RemoteState) -> BranchPlan:
    parent = state.branches.get(branch)
    there = remote.list_files_at(repo_id, parent) if parent else {}
    ours: dict[str, str] = {}
    mine = next(f for f in files if f.path == SUMS)
    if parent and SUMS in there and not has_same_bytes(mine, there[SUMS]):
        try:
            ours = read_digest_list(_fetched(repo_id, SUMS, parent, there[SUMS]))
        except InputError:
            ours = {}
    return BranchPlan(branch, files, file_states(files, there, ours), list(head_folders(files)), parent)


def _fetched(repo_id: str, path: str, commit: str, there: RemoteFile) -> Path:
    stated = hub.Stated(there.size, there.blob_id, there.sha256)
    return hub.download_file(repo_id, path, commit, stated=stated)


def _uncompared(branch: str, files: Sequence[LocalFile]) -> BranchPlan:
    states: dict[str, FileState] = dict.fromkeys((f.path for f in files), "unknown")
    return BranchPlan(branch, files, states, list(head_folders(files)), None)


def _check_tag(tag: str | None, state: RemoteState, main: BranchPlan) -> None:
    if tag is not None and tag in state.tags and (main.changes or state.tags[tag] != main.parent):
        raise UsageError(
            f"the tag {tag} exists already, at another commit than this publication",
            hint="choose another tag: a tag that people may have downloaded is not moved",
            code="usage-tag",
        )


def _description(files: Sequence[LocalFile], waived: Sequence[Problem]) -> str:
    lines = [f"eagle3hub {__version__}"]
    lines += [f"{digest}  {folder or 'root'}" for folder, digest in head_folders(files).items()]
    lines += [f"Waived: {p.code}: {p.message}" for p in waived]
    return "\n".join(lines)
