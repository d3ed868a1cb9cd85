"""Carry out a planned publication: one commit per branch, then verification, tag, visibility and collection.

If this stops at any point, each branch holds either what it held before or everything new. Running it again goes on
from there: it finds uploaded large files by their digests, and recognises its own commit by the files in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eagle3hub.card.folder import MANIFEST
from eagle3hub.card.manifest import load_manifest
from eagle3hub.errors import FoundWanting, HubError, UsageError
from eagle3hub.publishing import remote
from eagle3hub.publishing.plan import (
    DEFAULTS,
    MAIN,
    BranchPlan,
    PublishOptions,
    PublishPlan,
    file_states,
    made_for,
    plan_publication,
    sign_if_asked,
)
from eagle3hub.publishing.remote import Committed, RemoteState
from eagle3hub.publishing.verify import verify_upload
from eagle3hub.system.progress import Progress, silent


@dataclass(frozen=True, slots=True)
class Published:
    """What was done.

    Attributes:
        commits: (branch or ref of the pull request, verified commit) for each branch of the plan.
        uploaded: the paths that were sent, by branch; empty if everything was there already.
        pull: the address of the new pull request, or None if none was made.
    """

    plan: PublishPlan
    commits: Sequence[tuple[str, str]]
    uploaded: dict[str, list[str]]
    visibility: str
    pull: str | None

    def to_json(self) -> dict[str, Any]:
        """Return the document that ``publish --json`` prints."""
        return {
            **self.plan.to_json(),
            "visibility": self.visibility,
            "published": [{"ref": ref, "commit": commit} for ref, commit in self.commits],
            "uploaded": self.uploaded,
            "pull_request": self.pull,
            "verified": True,
        }


def check_access(repo_id: str, options: PublishOptions, progress: Progress = silent) -> None:
    """Find out, before hours of work, whether the repository can be written to, as far as that can be known.

    Raises UsageError if the Hub does not accept the name. Raises HubError if there is no token, if the Hub cannot be
    asked, or if the collection does not exist.
    """
    if why := remote.name_fault(repo_id):
        raise UsageError(f"the Hub does not accept {repo_id} as the name of a repository", hint=why, code="usage-repo")
    remote.require_token(repo_id)
    progress(f"asking the Hub about {repo_id}")
    remote.read_state(repo_id)
    if options.collection is not None:
        remote.in_collection(repo_id, options.collection)


def publish(
    folder: str | Path,
    repo: str | None = None,
    options: PublishOptions = DEFAULTS,
    *,
    manifest: str | Path | None = None,
    dry_run: bool = False,
    progress: Progress = silent,
) -> Published | PublishPlan:
    """Publish a release folder to the Hub in one commit, and verify what the Hub then has.

    Args:
        folder: a folder that `release` made.
        repo: ``owner/name``; None for the repository that the folder, or else ``manifest``, was made for.
        options: how to publish, in addition to what the folder's own manifest says.
        manifest: the release.yaml that the folder must have been made from.
        dry_run: make the plan and send nothing. The gates are then checked even if the Hub cannot be reached.

    Returns the plan for a dry run, and also if a gate does not hold: then its ``problems`` say which, and nothing was
    sent. Raises UsageError, InputError, UnavailableError or HubError. After a HubError the branch holds either what it
    held before or everything new.
    """
    described = None if manifest is None else load_manifest(manifest)
    name = repo or made_for(folder) or (None if described is None else described.release.repo)
    if name is None:
        raise UsageError(
            f"there is no {MANIFEST} in {folder} that says where to publish", hint="give --repo OWNER/NAME"
        )
    sign_if_asked(folder, options, progress=progress)
    plan = plan_publication(folder, name, options, manifest=described, hub_needed=not dry_run, progress=progress)
    return plan if dry_run or plan.problems else upload(plan, progress)


def upload(plan: PublishPlan, progress: Progress = silent) -> Published:
    """Publish what a plan says, and verify it. Raises FoundWanting if a gate does not hold, HubError."""
    if plan.problems:
        first, more = plan.problems[0], len(plan.problems) - 1
        raise FoundWanting(
            first.message + (f" (and {more} more)" if more else ""),
            hint=(f"{first.hint}; " if first.hint else "")
            + f"--allow {first.code} waives it, and the release records that",
            code=first.code,
        )
    remote.require_token(plan.repo)
    state = plan.remote
    if not state.exists:
        progress(f"making the repository {plan.repo}")
        remote.create_repository(plan.repo, private=plan.options.stage or plan.options.private)
        state = remote.read_state(plan.repo)
    if plan.options.gated not in (None, state.gated):
        progress("letting readers ask for access")
        remote.gate_access(plan.repo, str(plan.options.gated))
    commits: list[tuple[str, str]] = []
    uploaded: dict[str, list[str]] = {}
    pull: str | None = None
    for part in plan.parts:
        ref, done, sent = _publish_part(plan, part, state, progress)
        verify_upload(plan.repo, done.oid, part.files, part.heads, progress)
        commits.append((ref, done.oid))
        pull = pull or done.pull
        if sent:
            uploaded[part.branch] = sent
    tag = plan.options.tag
    if tag is not None and tag not in state.tags:
        progress(f"tagging {tag}")
        _tag(plan.repo, tag, commits[-1][1])
    private = state.private
    if plan.options.stage and private:
        progress("making it public")
        remote.make_public(plan.repo)
        private = False
    if plan.options.collection is not None and not plan.collected:
        progress(f"adding it to {plan.options.collection}")
        remote.add_to_collection(plan.repo, plan.options.collection)
    return Published(plan, commits, uploaded, "private" if private else "public", pull)


def _publish_part(
    plan: PublishPlan, part: BranchPlan, state: RemoteState, progress: Progress
) -> tuple[str, Committed, list[str]]:
    """Bring one branch up to date. Returns its ref, the commit, and the paths that were sent."""
    parent = state.branches.get(part.branch)
    if parent is not None and not part.changes:
        return part.branch, Committed(parent), []
    if plan.options.create_pr and (found := _proposed(plan.repo, part, state)):
        return found[0], Committed(found[1]), []
    if parent is None:
        parent = state.branches[MAIN]
        remote.create_branch(plan.repo, part.branch, parent)
        inherited = remote.list_files_at(plan.repo, parent)
        states = file_states(part.files, inherited, dict.fromkeys(inherited, ""))
        part = BranchPlan(part.branch, part.files, states, part.heads, None)
    progress(f"uploading to {plan.repo}, {part.branch}")
    sources = {f.path: (f.source, f.sha256) for f in part.files}
    sent = part.having("new", "changed")
    try:
        done = remote.commit(
            plan.repo,
            part.branch,
            parent,
            add={path: sources[path] for path in sent},
            remove=part.having("removed"),
            message=plan.message,
            description=plan.description,
            create_pr=plan.options.create_pr,
        )
    except HubError:
        # the commit may have been made although its answer was lost: what the Hub has decides
        made = _made_after_all(plan, part, parent, state)
        if made is None:
            raise
        return *made, sent
    return f"pull request {done.pull}" if done.pull else part.branch, done, sent


def _made_after_all(
    plan: PublishPlan, part: BranchPlan, parent: str, state: RemoteState
) -> tuple[str, Committed] | None:
    try:
        now = remote.read_state(plan.repo)
        if plan.options.create_pr:
            fresh = RemoteState(True, pulls={r: c for r, c in now.pulls.items() if r not in state.pulls})
            found = _proposed(plan.repo, part, fresh)
            return None if found is None else (found[0], Committed(found[1]))
        head = now.branches.get(part.branch)
        if head is None or head == parent or not _holds(plan.repo, head, part):
            return None
    except HubError:
        return None
    return part.branch, Committed(head)


def _proposed(repo_id: str, part: BranchPlan, state: RemoteState) -> tuple[str, str] | None:
    """Return the newest pull request that holds exactly these files already, or None."""
    newest = sorted(state.pulls.items(), key=lambda pull: int(pull[0].rpartition("/")[2]), reverse=True)
    return next(((ref, oid) for ref, oid in newest[:10] if _holds(repo_id, oid, part)), None)


def _holds(repo_id: str, commit: str, part: BranchPlan) -> bool:
    gone = set(part.having("removed"))
    states = file_states(part.files, remote.list_files_at(repo_id, commit), dict.fromkeys(gone, ""))
    return not {"new", "changed", "removed"} & set(states.values())


def _tag(repo_id: str, tag: str, commit: str) -> None:
    try:
        remote.create_tag(repo_id, tag, commit)
    except HubError:
        if remote.read_state(repo_id).tags.get(tag) != commit:
            raise
