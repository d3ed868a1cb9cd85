"""A plan from options as they are typed."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from eagle3hub.bench.plan import BenchHead, BenchPlan, Settings
from eagle3hub.checkpoint.digest import folder_digest
from eagle3hub.checkpoint.folder import open_checkpoint
from eagle3hub.checkpoint.remote import parse_address
from eagle3hub.checkpoint.source import HUB
from eagle3hub.errors import SourceError, UsageError
from eagle3hub.layouts import open_head
from eagle3hub.progress import Progress, silent
from eagle3hub.prompts import datasets, is_cached, load_prompts
from eagle3hub.validation.subject import Target, identify_target

T = TypeVar("T")
_NAMED = re.compile(r"(?P<name>[A-Za-z0-9][\w.+-]*)=(?P<source>.+)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Asked:
    """The options of a benchmark, lists still as text with commas (``3,5,7``)."""

    heads: Sequence[str]
    target: str
    datasets: str
    draft_tokens: str
    temperatures: str
    engines: str
    num_prompts: int | None
    settings: Settings
    base: str | None
    target_name: str | None


def make_plan(asked: Asked, progress: Progress = silent) -> BenchPlan:
    """Read heads, target and prompts, and check the whole; the first head is the base unless one is named.

    Raises UsageError for lists and names that cannot be, and what reading heads, target and prompts raises.
    """
    drafts = listed("--draft-tokens", asked.draft_tokens, int, "whole numbers")
    temperatures = listed("--temperature", asked.temperatures, float, "numbers")
    engines = listed("--engine", asked.engines, str, "names")
    engines += [name for name in asked.settings.attached if name not in engines]
    names = listed("--datasets", asked.datasets, str, "names or files")
    target = identify_target(asked.target, asked.target_name)
    prompts = [load_prompts(name, asked.num_prompts, progress=progress) for name in names]
    heads = [read_head(text, target, progress) for text in asked.heads]
    return BenchPlan(
        heads=tuple(heads),
        target=target,
        datasets=tuple(prompts),
        draft_tokens=tuple(drafts),
        temperatures=tuple(temperatures),
        engines=tuple(engines),
        settings=asked.settings,
        base=asked.base if asked.base is not None else heads[0].name if heads else "",
    )


def listed(option: str, text: str, kind: Callable[[str], T], what: str) -> list[T]:
    """``"3,5,7"`` as ``[3, 5, 7]``; UsageError (``usage-bench``) for an empty part or one of another kind."""
    out = []
    for part in text.split(","):
        try:
            if not part.strip():
                raise ValueError
            out.append(kind(part.strip()))
        except ValueError:
            raise UsageError(
                f"{option} {text!r} is not a list of {what}", hint="write them with commas between", code="usage-bench"
            ) from None
    return out


def read_head(text: str, target: Target, progress: Progress = silent) -> BenchHead:
    """The head that ``FOLDER``, ``hf://owner/name`` or ``NAME=`` one of these stands for.

    Raises SourceError for what is no folder, the first error among the head's problems, and what reading it raises.
    """
    match = None if Path(text).expanduser().exists() else _NAMED.fullmatch(text)
    source = match["source"] if match else text
    on_hub = source.startswith(HUB)
    folder = Path(source).expanduser().resolve()
    if not on_hub and not folder.is_dir():
        raise SourceError(
            f"the head {source!r} is not a folder",
            hint="name the folder, or a repository as hf://owner/name",
            code="source-head",
        )
    own = parse_address(source).repo_id.split("/")[-1] if on_hub else folder.name
    name = match["name"] if match else own
    progress(f"reading {name}")
    checkpoint = open_checkpoint(source if on_hub else folder, progress=progress)
    head = open_head(checkpoint, target=target.source)
    for problem in head.problems:
        if problem.severity == "error":
            raise problem.to_error()
    return BenchHead(name, str(checkpoint.folder), head.layout, folder_digest(checkpoint.folder)[0])


def listing() -> list[dict[str, Any]]:
    """The sets that can be fetched, as plain data."""
    return [
        {
            "name": one.name,
            "title": one.title,
            "prompts": one.prompts,
            "bytes": one.bytes,
            "cached": is_cached(one),
            **one.to_json(),
        }
        for one in datasets().values()
    ]
