"""Several weights files as one head: none may be missing, and an index, where there is one, must agree with them.

The index of Hugging Face's libraries maps each tensor to its file (``weight_map``). Engines do not compare the two:
they load what they find, and a tensor that got lost keeps the values it was initialised with.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from eagle3hub.checkpoint.header import Header
from eagle3hub.checkpoint.tensors import TensorRef
from eagle3hub.errors import CheckpointError, SourceError

_NUMBERED = re.compile(r"(.+)-([0-9]{1,5})-of-([0-9]{1,5})(\.safetensors|\.bin)")
_SHOWN = 3
_MIXED = (
    "the folder mixes two exports, or was copied or downloaded in part: fetch all of it again, or export again into "
    "an empty folder"
)


@dataclass(frozen=True, slots=True)
class Index:
    """An index: what messages call it, and the name of the file that holds each tensor."""

    shown: str
    weight_map: Mapping[str, str]


def check_files(names: Sequence[str], present: set[str], shown: str, index: Index | None) -> None:
    """Raise SourceError where a weights file is missing: one of the index's, or one of a numbered series.

    Args:
        names: the weights files that count; of a series (``model-00001-of-00002.safetensors``) all must be among them.
        present: every file there is. shown: what messages call the folder.
    """
    absent = [name for name in names if name not in present]
    if index is not None and absent:
        raise _incomplete(f"{index.shown} names {listed(absent)}, which {_are(absent)} not there")
    for missing, count in gaps(names):
        some = f"{count - len(missing)} of {count} weights files"
        raise _incomplete(
            f"{shown} has {some}: {listed(missing)} {_are(missing)} not there"
            if index is None
            else f"{index.shown} names {some}, without {listed(missing)}"
        )


def gaps(names: Iterable[str]) -> Iterator[tuple[list[str], int]]:
    """For each numbered series among the names of files that is not whole: the names it lacks, and its length."""
    numbered: dict[tuple[str, str, str], dict[int, int]] = {}
    for name in names:
        if match := _NUMBERED.fullmatch(name):
            stem, number, count, suffix = match.groups()
            numbered.setdefault((stem, count, suffix), {})[int(number)] = len(number)
    for (stem, count, suffix), widths in numbered.items():
        first = 0 if 0 in widths else 1
        width = max(widths.values())
        expected = range(first, first + int(count))
        if missing := [f"{stem}-{i:0{width}}-of-{count}{suffix}" for i in expected if i not in widths]:
            yield missing, len(expected)


def merge(names: Sequence[str], headers: Sequence[Header], index: Index | None) -> dict[str, TensorRef]:
    """The tensors of all files. Raises CheckpointError where two hold the same one, or where the index disagrees."""
    merged: dict[str, TensorRef] = {}
    place: dict[str, str] = {}
    for file, header in zip(names, headers, strict=True):
        for name, ref in header.tensors.items():
            if name in merged:
                raise CheckpointError(
                    f"tensor {name!r} is in both {place[name]} and {file}",
                    hint="engines take whichever they read last: remove the file that is left from another export",
                    code="checkpoint-duplicate",
                )
            merged[name], place[name] = ref, file
    if index is not None:
        _agree(place, index)
    return merged


def _agree(place: Mapping[str, str], index: Index) -> None:
    lost = [name for name, file in index.weight_map.items() if place.get(name) != file]
    if lost:
        found = f"it is in {place[lost[0]]}" if lost[0] in place else "it is not there"
        raise CheckpointError(
            f"{index.shown} says that {index.weight_map[lost[0]]} holds {_tensors(lost)}, but {found}",
            hint=_MIXED,
            code="checkpoint-index",
        )
    unnamed = [name for name in place if name not in index.weight_map]
    if unnamed:
        raise CheckpointError(
            f"{place[unnamed[0]]} holds {_tensors(unnamed)}, which {index.shown} does not name",
            hint=_MIXED,
            code="checkpoint-index",
        )


def _incomplete(message: str) -> SourceError:
    return SourceError(
        message,
        hint="weights would be lost: fetch the whole folder again, or remove what is left of another export",
        code="source-incomplete",
    )


def _tensors(names: Sequence[str]) -> str:
    return f"tensor {names[0]!r}" + (f" (and {len(names) - 1} more)" if len(names) > 1 else "")


def listed(names: Sequence[str]) -> str:
    """The first few of some names, and how many more there are."""
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _are(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"
