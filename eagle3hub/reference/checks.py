"""Checks that a target model and its saved hidden states share."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from eagle3hub.errors import InputError
from eagle3hub.head import AuxTaps, Head, Tap
from eagle3hub.reference.text import Text


def check_fit(head: Head, name: str, *, hidden_size: int, vocab_size: int, num_hidden_layers: int) -> None:
    """Raise InputError (``reference-target-mismatch``) where the head was made for a target of other sizes."""
    for what, wanted, found in (
        ("hidden size", head.dims.target_hidden_size, hidden_size),
        ("vocabulary", head.dims.vocab_size, vocab_size),
    ):
        if wanted != found:
            raise _mismatch(f"the head is for a target of {what} {wanted}, but {name} has {found}")
    numbers = [tap for tap in head.aux.taps if isinstance(tap, int)] if head.aux else []
    if numbers and max(numbers) >= num_hidden_layers:
        raise _mismatch(
            f"the head reads the output of decoder layer {max(numbers)} (counted from 0), but {name} has "
            f"{num_hidden_layers} layers"
        )


def check_finite(aux: torch.Tensor, taps: AuxTaps, index: Sequence[int], texts: Sequence[Text]) -> None:
    """Raise InputError (``reference-states-not-finite``) naming the layer and the text of a state with NaN or inf.

    Args:
        aux: [B, T, taps * hidden size], padded on the right. index: what the texts are called.
    """
    if aux.isfinite().all():
        return
    width = aux.shape[-1] // len(taps)
    for number, states, text in zip(index, aux, texts, strict=True):
        bad = ~states[: len(text.token_ids)].isfinite()
        if bad.any():
            tap = taps.taps[int(bad.any(dim=0).nonzero()[0]) // width]
            raise InputError(
                f"the target's hidden states after {tap_name(tap)} are not finite in text {number}",
                hint="look at the target's weights; in float16 large models overflow, use --dtype bfloat16",
                code="reference-states-not-finite",
            )


def tap_name(tap: Tap) -> str:
    """A tap in words."""
    return f"decoder layer {tap}" if isinstance(tap, int) else "the final norm"


def _mismatch(message: str) -> InputError:
    return InputError(message, hint="name the target the head was trained for", code="reference-target-mismatch")
