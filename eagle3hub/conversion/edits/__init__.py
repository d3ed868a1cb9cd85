"""Edits of a head, each made only on request: a pure function from a head to a new head and a record of the change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from eagle3hub.conversion.edits.change import ON_COMMAND_LINE, Change
from eagle3hub.conversion.edits.embeddings import drop_embeddings, include_embeddings, leave_out_targets
from eagle3hub.conversion.edits.reorder import change_dtype, resort_vocab, sort_aux
from eagle3hub.conversion.edits.repair import repair_vocab, supply_map
from eagle3hub.errors import UsageError
from eagle3hub.head import Head
from eagle3hub.layouts.base import ReadOptions


@dataclass(frozen=True, slots=True)
class Transforms:
    """The edits to make during a conversion; the default is none.

    Attributes:
        repair: names of vocabulary repairs (`eagle3hub.conversion.edits.repair.REPAIRS`).
        d2t: file with the vocabulary map that the source lacks.
        resort_vocab: put the draft vocabulary into ascending order of target ids.
        sort_aux: put the aux hidden states into ascending order of layers.
        include_embeddings: safetensors file, model folder or Hub id to take token embeddings from.
        drop_embeddings: leave out the head's own token embeddings.
        dtype: ``bf16``, ``fp16`` or ``fp32``.
    """

    repair: tuple[str, ...] = ()
    d2t: str | Path | None = None
    resort_vocab: bool = False
    sort_aux: bool = False
    include_embeddings: str | None = None
    drop_embeddings: bool = False
    dtype: str | None = None


def apply_transforms(head: Head, asked: Transforms, target: str | None = None) -> tuple[Head, list[Change]]:
    """Apply the edits in the order of the fields of `Transforms`.

    ``target`` is the target as the user named it, for comparing embeddings. The head may have problems that an edit
    solves; the caller raises those that remain. Raises InputError if an edit does not fit, and UsageError if two
    contradict each other.
    """
    if asked.repair and asked.d2t is not None:
        raise UsageError("--repair and --d2t both say what the vocabulary map is", hint="give one of them")
    if asked.drop_embeddings and asked.include_embeddings is not None:
        raise UsageError("--include-embeddings and --drop-embeddings contradict each other", hint="give one of them")
    changes: list[Change] = []
    cast = asked.dtype is not None
    if asked.repair:
        head, done = repair_vocab(head, asked.repair)
        changes += done
    steps: list[tuple[bool, Callable[[Head], tuple[Head, Change | None]]]] = [
        (asked.d2t is not None, lambda h: supply_map(h, asked.d2t or "")),
        (asked.resort_vocab, resort_vocab),
        (asked.sort_aux, sort_aux),
        (asked.drop_embeddings, lambda h: drop_embeddings(h, target)),
        (
            asked.include_embeddings is not None,
            lambda h: include_embeddings(h, asked.include_embeddings or "", cast=cast),
        ),
        (cast, lambda h: change_dtype(h, asked.dtype or "")),
    ]
    for wanted, step in steps:
        if wanted:
            head, change = step(head)
            changes += [change] if change is not None else []
    return head, changes


def overrides(options: ReadOptions) -> list[Change]:
    """Record the user's overrides; the command line is their only evidence."""
    o, residual = options, options.norm_before_residual
    suspicious = "permission to read weights that look random was given" if o.allow_suspicious else None
    facts: list[tuple[str, object, str]] = [
        ("aux-layers", o.aux_layers and list(o.aux_layers), f"the list of aux layers ({o.aux_convention} numbering)"),
        ("num-target-layers", o.num_target_layers, "the target's number of layers"),
        ("norm-output", o.norm_output, "the hidden state fed back, relative to the head's final norm,"),
        ("norm-before-residual", None if residual is None else str(residual).lower(), "norm_before_residual"),
        ("mask-token-id", o.mask_token_id, "the token of positions not drafted yet"),
        ("rope-theta", o.rope_theta, "the RoPE base"),
        ("drop", o.drop and list(o.drop), "the list of tensors that are no part of the head"),
    ]
    given = [(name, f"{what} was given as {value}") for name, value, what in facts if value not in (None, ())]
    given += [("allow-suspicious", suspicious)] if suspicious else []
    return [Change(name, what, ON_COMMAND_LINE, list(o.drop) if name == "drop" else []) for name, what in given]


__all__ = ["Change", "Transforms", "apply_transforms", "leave_out_targets", "overrides"]
