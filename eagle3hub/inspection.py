"""What can be said of a head as plain data: the document ``inspect --json`` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eagle3hub.checkpoint.safetensors import TensorRef
from eagle3hub.engines.preflight import Verdict
from eagle3hub.head import Head
from eagle3hub.layouts.base import aux_count


def describe(head: Head, on_disk: Mapping[str, TensorRef], engines: Sequence[Verdict] = ()) -> dict[str, Any]:
    """Everything a head says of itself, and what engines will do with it, as JSON-ready data.

    ``on_disk``: the tensors of its files by their names there, of which its vocabulary buffers are taken.
    """
    buffers = {name: on_disk[head.other_names.get(name, name)] for name in head.buffers}
    vocab = head.vocab_map
    aux = head.aux if head.aux is not None and head.aux.numbered else None
    return {
        "source": head.source,
        "layout": head.layout,
        "parameters": head.num_parameters,
        "dtype": head.dtype,
        "dims": head.dims.to_json(),
        "semantics": head.semantics_to_json(),
        "aux": {
            "count": aux_count(head),
            "after_layer": None if aux is None else aux.after_layer,
            "boundary": None if aux is None else aux.boundary,
            "origin": None if head.aux is None else head.aux.origin,
            **({"final_norm": True} if head.aux is not None and not head.aux.numbered else {}),
            **({"fc_order": list(head.fc_order)} if head.fc_order is not None else {}),
        },
        "vocab_map": {
            "status": head.vocab_status,
            "sorted": None if vocab is None else vocab.is_sorted,
            "spelling": None if vocab is None else vocab.stored_as,
            "draft_vocab_size": head.dims.draft_vocab_size,
            "vocab_size": head.dims.vocab_size,
            "buffers": head.buffers,
        },
        "max_position_embeddings": head.max_position_embeddings,
        "target": {
            "name": head.target_name,
            "architectures": head.target_architectures,
            "model_type": head.target_model_type,
            "num_hidden_layers": head.num_target_layers,
        },
        "speculative_tokens": head.speculative_tokens,
        "mask_token_id": head.mask_token_id,
        "tensors": [
            {"name": ref.name, "canonical": name, "dtype": ref.dtype, "shape": list(ref.shape), "bytes": ref.nbytes}
            for name, ref in sorted((buffers | head.tensors).items())
        ],
        "engines": [verdict.to_json() for verdict in engines],
        "assumptions": [a.to_json() for a in head.assumptions],
        "problems": [p.to_json() for p in head.problems],
    }
