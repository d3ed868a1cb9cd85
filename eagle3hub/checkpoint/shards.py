"""Split a checkpoint into shards of bounded size, as the Hub's libraries do, and index them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from eagle3hub.checkpoint.source import WEIGHTS
from eagle3hub.checkpoint.writer import OutTensor, in_file_order
from eagle3hub.documents import document_bytes
from eagle3hub.errors import UsageError

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}


@dataclass(frozen=True, slots=True)
class Shard:
    """One weights file to write: its name and its tensors in file order."""

    name: str
    tensors: list[OutTensor]


def split(tensors: Sequence[OutTensor], max_bytes: int | None) -> list[Shard]:
    """Cut tensors, in file order, into shards of at most ``max_bytes`` of data.

    A single shard is called model.safetensors, several model-0000i-of-0000n.safetensors. A tensor larger than
    ``max_bytes`` gets a shard of its own.
    """
    parts: list[list[OutTensor]] = []
    size = 0
    for t in in_file_order(tensors):
        if not parts or (max_bytes is not None and size + t.nbytes > max_bytes):
            parts.append([])
            size = 0
        parts[-1].append(t)
        size += t.nbytes
    if len(parts) == 1:
        return [Shard(WEIGHTS, parts[0])]
    return [Shard(f"model-{i:05d}-of-{len(parts):05d}.safetensors", part) for i, part in enumerate(parts, 1)]


def encode_index(shards: Sequence[Shard]) -> bytes:
    """The index that says which shard holds which tensor (transformers' ``model.safetensors.index.json``)."""
    weight_map = {t.name: shard.name for shard in shards for t in shard.tensors}
    total = sum(t.nbytes for shard in shards for t in shard.tensors)
    return document_bytes({"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))})


def parse_size(text: str) -> int:
    """Bytes from ``5GB``, ``500MB``, ``2GiB`` or a plain number. Raises UsageError."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(|[KMG]I?)B?\s*", text.upper())
    size = int(float(found[1]) * _UNITS[found[2]]) if found else 0
    if size < 1:
        raise UsageError(f"{text!r} is not a size", hint="write it like 5GB, 500MB or 2GiB", code="usage-size")
    return size
