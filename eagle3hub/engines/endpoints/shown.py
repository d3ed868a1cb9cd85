"""What a server shows of its own configuration, held against what was asked for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from eagle3hub.checkpoint.digest import folder_digest
from eagle3hub.engines.base import Job
from eagle3hub.errors import Eagle3HubError, InputError
from eagle3hub.reading import read_bytes

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)
_IN_HUB_CACHE = re.compile(r"models--([\w.-]+?)--([\w.-]+?)(?:/|\Z)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Shown:
    """A server as it describes itself; None for what it does not show.

    Attributes:
        model: what requests call the target.
        target, head: names or paths, as they were given to the server.
        method: the speculative algorithm, lower case.
        draft_tokens, topk, num_draft_tokens: as in `Job`.
    """

    version: str
    model: str
    target: str | None = None
    head: str | None = None
    method: str | None = None
    draft_tokens: int | None = None
    topk: int | None = None
    num_draft_tokens: int | None = None
    dtype: str | None = None
    device: str | None = None


def unchecked(shown: Shown, job: Job, title: str, *, here: bool) -> tuple[str, ...]:
    """What of ``job`` the server does not show, as phrases, its loading first.

    ``here`` says whether the server runs on this machine, so that its paths mean something.

    Raises InputError (``endpoint-…``) for what it shows otherwise than the job has it.
    """
    if shown.method is not None and shown.method != "eagle3":
        raise _other("method", f"speculates with {shown.method}, not with eagle3", f"start {title} with EAGLE-3")
    numbers = (
        ("draft-tokens", "drafts {} tokens per round, not {}", shown.draft_tokens, job.draft_tokens),
        ("topk", "drafts with top-k {}, not {}", shown.topk, job.topk),
        ("num-draft-tokens", "verifies {} tokens per round, not {}", shown.num_draft_tokens, job.verified_tokens),
        ("dtype", "computes in {}, not in {}", shown.dtype, job.dtype),
    )
    for option, says, served, asked in numbers:
        if served is not None and served != asked:
            raise _other(option, says.format(served, asked), f"ask for what it serves: --{option} {served}")
    open_points = ["which tensors of the head the server loaded"]
    for what, theirs, ours in (("target", shown.target, job.target), ("head", shown.head, str(job.head))):
        same = None if theirs is None else _same(theirs, ours, what, here=here)
        if same is False:
            raise _other(
                what, f"serves the {what} {theirs!r}, not {ours!r}", f"name what it serves, or start {title} anew"
            )
        if same is None:
            open_points.append(f"whether it serves this {what}")
    open_points += [f"its {what}" for what in ("dtype", "device") if getattr(shown, what) is None]
    return tuple(open_points)


def _other(what: str, says: str, hint: str) -> InputError:
    return InputError(f"the server {says}", hint=hint, code=f"endpoint-{what}")


def _same(theirs: str, ours: str, what: str, *, here: bool) -> bool | None:
    """Whether two names or paths mean the same files; None where that cannot be told from here."""
    if here and Path(theirs).is_dir() and Path(ours).is_dir():
        return _same_folders(Path(theirs), Path(ours), what)
    names = _hub_id(theirs), _hub_id(ours)
    if None in names:
        return None
    return names[0] == names[1]


def _same_folders(theirs: Path, ours: Path, what: str) -> bool | None:
    if theirs.samefile(ours):
        return True
    try:
        if what == "head":
            return folder_digest(theirs)[0] == folder_digest(ours)[0]
        # A target's weights may be hundreds of gigabytes: another config is another target, the same proves nothing.
        return None if read_bytes(theirs / "config.json") == read_bytes(ours / "config.json") else False
    except (OSError, Eagle3HubError):
        return None


def _hub_id(text: str) -> str | None:
    """``owner/name`` in lower case, from itself or from a folder of the Hub's cache; None for another path."""
    cached = _IN_HUB_CACHE.search(text)
    if cached:
        return f"{cached[1]}/{cached[2]}".lower()
    return text.lower() if _HUB_ID.fullmatch(text) and not Path(text).exists() else None
