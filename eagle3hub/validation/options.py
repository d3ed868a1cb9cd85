"""Options of a validation as they are typed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from eagle3hub.checkpoint.destination import check_place
from eagle3hub.engines import ENGINES
from eagle3hub.engines.base import DEVICES, DTYPES
from eagle3hub.errors import UsageError

REFERENCE = "reference"
"""What our own reference is called among the engines."""


def engine_names(asked: str | Sequence[str], attached: Iterable[str] = ()) -> list[str]:
    """``"reference,vllm"`` or a list of names as a list; UsageError for an unknown, doubled or missing name.

    Engines whose servers are ``attached`` to come after, where they are not named.
    """
    parts = asked.split(",") if isinstance(asked, str) else asked
    names = [name.strip() for name in parts]
    known = (REFERENCE, *ENGINES)
    for name in names:
        if name not in known:
            raise UsageError(f"no engine is called {name!r}", hint=f"engines: {', '.join(known)}", code="usage-engine")
        if names.count(name) > 1:
            raise UsageError(f"--engine names {name} twice", code="usage-engine")
    return [*names, *(name for name in attached if name not in names)]


def check_options(
    device: str,
    dtype: str,
    max_new_tokens: int,
    draft_tokens: int,
    temperature: float,
    bar: float | None,
    timeout: float,
) -> None:
    """UsageError for a device or a dtype that does not exist, and for numbers that make no sense."""
    if device not in DEVICES:
        raise UsageError(f"no device is called {device!r}", hint=f"devices: {', '.join(DEVICES)}")
    if dtype not in DTYPES:
        raise UsageError(f"no dtype is called {dtype!r}", hint=f"dtypes: {', '.join(DTYPES)}")
    for option, value in (("--max-new-tokens", max_new_tokens), ("--draft-tokens", draft_tokens)):
        if value < 1:
            raise UsageError(f"{option} must be 1 or more, not {value}")
    if not temperature >= 0:
        raise UsageError(f"the temperature must be 0 or more, not {temperature}")
    if not timeout > 0:
        raise UsageError(f"--timeout must be more than 0 seconds, not {timeout:g}")
    if bar is not None and not 1 <= bar <= draft_tokens + 1:
        raise UsageError(
            f"--min-acceptance-length {bar:g} cannot be: with {draft_tokens} draft tokens the acceptance length lies "
            f"between 1 and {draft_tokens + 1}"
        )


def check_original(names: Sequence[str], original: str | Path | None) -> None:
    """UsageError for an original to hold engines against where none of the engines is the reference."""
    if original is not None and REFERENCE not in names:
        raise UsageError(
            "--reference-head says what the reference replays, but the reference is not among the engines",
            hint=f"--engine {REFERENCE},{','.join(names)}",
            code="usage-reference-head",
        )


def check_tree(draft_tokens: int, topk: int, num_draft_tokens: int | None) -> None:
    """UsageError for a tree that no engine drafts."""
    if topk < 1:
        raise UsageError(f"--topk must be 1 or more, not {topk}", code="usage-tree")
    if topk == 1 and num_draft_tokens not in (None, draft_tokens + 1):
        raise UsageError(
            f"--num-draft-tokens {num_draft_tokens}: a chain of {draft_tokens} verifies {draft_tokens + 1} tokens",
            hint="leave it out, or give --topk as well for a tree",
            code="usage-tree",
        )
    if topk > 1 and num_draft_tokens is None:
        raise UsageError(
            "--topk drafts a tree, but nothing says how many of its tokens are verified",
            hint="give --num-draft-tokens, the root included",
            code="usage-tree",
        )


def writable_report(path: Path) -> None:
    """Raise OutputError now, rather than after the run, if a report cannot be written to ``path``."""
    check_place(path)
