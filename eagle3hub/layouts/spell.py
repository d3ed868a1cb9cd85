"""Spell a head's tensors for one layout: names, vocabulary buffers, header metadata."""

from __future__ import annotations

from collections.abc import Mapping

from eagle3hub.checkpoint.writer import OutTensor
from eagle3hub.head import Carried, Head
from eagle3hub.layouts.base import Contract
from eagle3hub.layouts.names import spelled
from eagle3hub.vocab import mask_as

SpelledTensors = tuple[list[OutTensor], dict[str, str] | None, dict[str, str | None]]


def spell_tensors(head: Head, name: str, contract: Contract, before: Carried | None) -> SpelledTensors:
    """Tensors, header metadata and origin of each tensor for layout ``name``.

    Weights are renamed, never changed. Buffers are computed from the map; which there are, their dtypes, names that
    are not today's, and the metadata are those of an earlier spelling where there is one, else the layout's own.
    """
    names: Mapping[str, str] = {} if before is None else before.names
    tensors: list[OutTensor] = []
    origin: dict[str, str | None] = {}
    for canonical, ref in head.tensors.items():
        on_disk = names.get(canonical) or spelled(canonical, contract.tensor_prefix)
        tensors.append(OutTensor(on_disk, ref.dtype, ref.shape, ref))
        origin[on_disk] = canonical
    dtypes, metadata = _habits(head, name, contract, before)
    for buffer, dtype in dtypes.items():
        on_disk = names.get(buffer, buffer)
        tensors.append(_buffer(head, buffer, dtype, on_disk))
        origin[on_disk] = None
    return tensors, None if metadata is None else dict(metadata), origin


def _habits(
    head: Head, name: str, contract: Contract, before: Carried | None
) -> tuple[dict[str, str], Mapping[str, str] | None]:
    """Dtype of each buffer to write, and the header metadata."""
    full = head.vocab_map is None
    known: dict[str, str] = head.buffers
    metadata: Mapping[str, str] | None = head.metadata
    if before is not None:
        known, metadata = dict(before.buffers), before.metadata
        if known.get("d2t") or (full and not known) or _mask_is_enough(head, known):
            return known, metadata
    elif head.layout != name:
        known, metadata = {}, contract.metadata
    elif full:
        return dict(known) if contract.identity_map else {}, metadata
    if full and not contract.identity_map:
        return {}, metadata
    wanted = {"d2t": known.get("d2t", contract.vocab_dtype)}
    return {**wanted, "t2d": known.get("t2d", "BOOL")} if contract.has_t2d else wanted, metadata


def _mask_is_enough(head: Head, known: Mapping[str, str]) -> bool:
    return "t2d" in known and (head.vocab_map is None or head.vocab_map.is_sorted)


def _buffer(head: Head, buffer: str, dtype: str, name: str) -> OutTensor:
    v, vd, vocab = head.dims.vocab_size, head.dims.draft_vocab_size, head.vocab_map
    if buffer == "t2d":
        mask = b"\x01" * v if vocab is None else vocab.t2d_bytes()
        return OutTensor(name, dtype, (v,), mask_as(mask, dtype))
    identity = bytes(vd * (4 if dtype == "I32" else 8))
    return OutTensor(name, dtype, (vd,), identity if vocab is None else vocab.d2t_bytes(dtype))
