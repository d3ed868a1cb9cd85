"""The git commit a release was made from, and whether its files were what that commit holds."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path

from eagle3hub.checkpoint.source import PROVENANCE
from eagle3hub.checkpoint.staging import replace_file
from eagle3hub.system.documents import document_bytes

_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class SourceTree:
    """Where a release comes from.

    Attributes:
        commit: the last commit that changed the manifest's folder, so that others change nothing here.
        dirty: whether something in that folder differs from it, or the manifest is in no commit.
    """

    commit: str
    dirty: bool


@dataclass(frozen=True, slots=True)
class PublishedCommit:
    """A commit that others can fetch: its id, and the address of a remote that has it."""

    commit: str
    remote: str


def published_commit(checkout: Path) -> PublishedCommit | str:
    """The commit that a checkout is at, where its files are that commit's and a remote has it; else what is amiss.

    What the remote has is what it had when this checkout last talked to it.
    """
    commit = _git(checkout, "rev-parse", "--verify", "HEAD")
    changed = _git(checkout, "status", "--porcelain", "--untracked-files=no")
    if not commit or changed is None or _git(checkout, "ls-files", "--", "pyproject.toml") != "pyproject.toml":
        return "is in no git repository"
    if changed:
        return "has changes that are in no commit"
    branches = _git(checkout, "branch", "--remotes", "--contains", commit, "--format=%(refname:lstrip=2)") or ""
    for remote in dict.fromkeys(branch.partition("/")[0] for branch in branches.splitlines()):
        if address := _git(checkout, "remote", "get-url", remote):
            return PublishedCommit(commit, address)
    return f"is at the commit {commit[:12]}, which was not pushed"


def source_tree(manifest: Path) -> SourceTree | None:
    """The commit of a manifest's folder; None outside a git repository, without git, or before the first commit.

    Files that git does not know, such as weights that were never added, say nothing; the manifest itself does.
    """
    commit = _git(manifest.parent, "log", "-1", "--format=%H", "--", ".")
    changed = _git(manifest.parent, "status", "--porcelain", "--untracked-files=no", "--", ".")
    known = _git(manifest.parent, "ls-files", "--", manifest.name)
    if not commit or changed is None or known is None:
        return None
    return SourceTree(commit, bool(changed) or not known)


def record(folder: Path, tree: SourceTree) -> None:
    """Say in a head's provenance file where its release comes from."""
    path = folder / PROVENANCE
    document = {**json.loads(path.read_text(encoding="utf-8")), "release": asdict(tree)}
    replace_file(path, document_bytes(document))


def _git(folder: Path, *argv: str) -> str | None:
    command = ["git", "-C", str(folder), "-c", "core.fsmonitor=false", *argv]
    env = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
