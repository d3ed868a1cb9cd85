"""Spell a head's tensors for one layout: names, vocabulary buffers, header metadata."""

from __future__ import annotations

from eagle3hub.checkpoint.writer import OutTensor
from eagle3hub.head import Carried, Head
from eagle3hub.layouts.base import Contract
from eagle3hub.layouts.llama import disk_name

SpelledTensors = tuple[list[OutTensor], dict[str, str] | None, dict[str, str | None]]


def spell_tensors(head: Head, name: str, contract: Contract, before: Carried | None) -> SpelledTensors:
    """Tensors, header metadata and origin of each tensor for layout ``name``.

    Weights are renamed, never changed. Buffers are computed from the map; their dtypes and the metadata are those
    of an earlier spelling where there is one, else the layout's own.
    """
    tensors: list[OutTensor] = []
    origin: dict[str, str | None] = {}
    for canonical, ref in head.tensors.items():
        spelled = disk_name(canonical, contract.tensor_prefix)
        tensors.append(OutTensor(spelled, ref.dtype, ref.shape, ref))
        origin[spelled] = canonical
    if before is not None:
        buffers, metadata = dict(before.buffers), before.metadata
    elif head.layout == name:
        buffers, metadata = head.buffers, head.metadata
    else:
        buffers, metadata = {}, contract.metadata
    for buffer in _buffers(head, contract, buffers):
        tensors.append(buffer)
        origin[buffer.name] = None
    return tensors, None if metadata is None else dict(metadata), origin


def _buffers(head: Head, contract: Contract, dtypes: dict[str, str]) -> list[OutTensor]:
    v, vd, vocab = head.dims.vocab_size, head.dims.draft_vocab_size, head.vocab_map
    d2t_dtype, t2d_dtype = dtypes.get("d2t", contract.vocab_dtype), dtypes.get("t2d", "BOOL")
    if vocab is not None:
        d2t, t2d = vocab.d2t_bytes(d2t_dtype), vocab.t2d_bytes()
    elif contract.identity_map:
        d2t, t2d = bytes(vd * (4 if d2t_dtype == "I32" else 8)), b"\x01" * v
    else:
        return []
    out = [OutTensor("d2t", d2t_dtype, (vd,), d2t)]
    return [*out, OutTensor("t2d", t2d_dtype, (v,), t2d)] if contract.has_t2d else out
