"""What eagle3hub.json remembers of a head's earlier layouts, and whether it can be trusted.

A record counts only if config and headers of the weights in its folder are those it was written for.
"""

from __future__ import annotations

from typing import Any

from eagle3hub.address import is_hub_id
from eagle3hub.checkpoint.folder import Checkpoint
from eagle3hub.errors import InputError, Problem
from eagle3hub.head import Assumption, AuxTaps, Carried, Head
from eagle3hub.head.fields import TOKEN_IDS
from eagle3hub.head.vocab import BUFFER_DTYPES, of_maps
from eagle3hub.layouts.tensors import MAP_OF_VLLM

SCHEMA = "eagle3hub/provenance/1"
_NUMBERS = ("max_position_embeddings", "num_target_layers", "target_context", "speculative_tokens", "mask_token_id")
_TEXTS = ("target_name", "target_model_type")
"""Facts that a record fills in where the folder does not state them."""


def written_layout(checkpoint: Checkpoint) -> str | None:
    """The folder's layout by its record, if the record belongs to these files."""
    record = checkpoint.provenance
    if record is None or not _belongs(record, checkpoint):
        return None
    layout = record.get("layout")
    return layout if isinstance(layout, str) else None


def restore(head: Head, checkpoint: Checkpoint) -> None:
    """Restore what the record knows of the head; a record of other files is a problem to report."""
    record = checkpoint.provenance
    if record is None:
        return
    if not _belongs(record, checkpoint):
        head.problems.append(
            Problem("info", "provenance-stale", "eagle3hub.json was written for other files and is not used")
        )
        return
    try:
        carried = {name: _carried(entry) for name, entry in record.get("carried", {}).items()}
        _restore_facts(head, record)
        head.made_for = _engines(record.get("made_for", []))
    except (AttributeError, TypeError, KeyError, ValueError, InputError):
        head.problems.append(Problem("warning", "provenance-malformed", "eagle3hub.json is malformed and is not used"))
        return
    head.carried.update(carried)


def fingerprint(checkpoint: Checkpoint) -> dict[str, Any]:
    """The digests that tie a record to its files: of the config and of each weights file's header."""
    return {
        "config_sha256": checkpoint.config_sha256,
        "header_sha256": dict(zip((p.name for p in checkpoint.weights), checkpoint.header_sha256, strict=True)),
    }


def carried_after(head: Head) -> dict[str, dict[str, Any]]:
    """The ``carried`` object of a conversion's record: how this head's layout stores it, and how earlier ones did."""
    names = {name: on_disk for name, on_disk in head.other_names.items() if on_disk != MAP_OF_VLLM}
    own = Carried(head.config, of_maps(head.buffers), head.metadata, names)
    return {name: _as_json(c) for name, c in {**head.carried, head.layout: own}.items()}


def facts_of(head: Head) -> dict[str, Any]:
    """The ``facts`` object of a record: what must survive a layout that has no place for it."""
    return {
        "aux_after_layer": head.aux.after_layer if head.aux is not None and head.aux.numbered else None,
        "aux_origin": None if head.aux is None else head.aux.origin,
        "max_position_embeddings": head.max_position_embeddings,
        "token_ids": head.token_ids,
        "target_name": head.target_name if head.target_name and is_hub_id(head.target_name) else None,
        "target_architectures": head.target_architectures,
        "target_model_type": head.target_model_type,
        "num_target_layers": head.num_target_layers,
        "target_context": head.target_context,
        "speculative_tokens": head.speculative_tokens,
        "mask_token_id": head.mask_token_id,
        "assumptions": [a.to_json() for a in head.assumptions],
    }


def _restore_facts(head: Head, record: dict[str, Any]) -> None:
    """Take the record's facts. In a folder made from another layout, what a trainer usually does proves nothing."""
    facts = record.get("facts", {})
    _check_facts(facts)
    if record["source"]["layout"] != head.layout:
        head.assumptions = []
    ids = facts.get("aux_after_layer")
    aux = AuxTaps.from_after_layer(ids, facts.get("aux_origin") or "config") if ids else None
    known = {a.field for a in head.assumptions}
    inherited = [Assumption(**a) for a in facts.get("assumptions", []) if a["field"] not in known]
    token_ids = {**facts.get("token_ids", {}), **head.token_ids}
    architectures = [str(a) for a in facts.get("target_architectures", [])]
    head.aux = head.aux or aux
    head.assumptions += inherited
    head.token_ids = token_ids
    head.target_architectures = head.target_architectures or architectures
    for name in (*_NUMBERS, *_TEXTS):
        if getattr(head, name) is None:
            setattr(head, name, facts.get(name))


def _engines(listed: Any) -> tuple[str, ...]:
    """The engines that a record names. Raises TypeError for anything but a list of texts."""
    if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
        raise TypeError
    return tuple(listed)


def _check_facts(facts: dict[str, Any]) -> None:
    """Raise TypeError or ValueError where a fact is not of the kind it was written as."""
    for names, kind in ((_NUMBERS, int), (_TEXTS, str)):
        if any(type(facts.get(name)) not in (kind, type(None)) for name in names):
            raise TypeError
    if facts.get("aux_origin") not in (None, "config", "flag", "default"):
        raise ValueError
    for name, value in facts.get("token_ids", {}).items():
        if name not in TOKEN_IDS:
            raise ValueError
        if any(type(x) is not int for x in (value if isinstance(value, list) else [value])):
            raise TypeError
    for assumption in facts.get("assumptions", []):
        if any(not isinstance(assumption.get(name), str) for name in ("field", "why", "settle")):
            raise TypeError
        if type(assumption.get("doubtful", True)) is not bool:
            raise TypeError


def _as_json(c: Carried) -> dict[str, Any]:
    plain: dict[str, Any] = {"config": dict(c.config), "buffers": dict(c.buffers)}
    names = {"names": dict(c.names)} if c.names else {}
    return {**plain, **names, "metadata": c.metadata and dict(c.metadata)}


def _carried(entry: dict[str, Any]) -> Carried:
    buffers = _strings(entry.get("buffers")) or {}
    if any(dtype not in BUFFER_DTYPES.get(name, ()) for name, dtype in buffers.items()):
        raise ValueError
    names = _strings(entry.get("names")) or {}
    if len(set(names.values())) < len(names):
        raise ValueError
    return Carried(dict(entry["config"]), buffers, _strings(entry.get("metadata")), names)


def _belongs(record: dict[str, Any], checkpoint: Checkpoint) -> bool:
    return record.get("schema") == SCHEMA and record.get("fingerprint") == fingerprint(checkpoint)


def _strings(value: Any) -> dict[str, str] | None:
    if not isinstance(value, dict):
        return None
    return {str(k): str(v) for k, v in value.items()}
