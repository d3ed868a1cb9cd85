"""Put a folder's tensor names in order before any codec looks at them: prefixes, leftovers, what shall be dropped."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import replace

from eagle3hub.checkpoint.folder import Checkpoint
from eagle3hub.checkpoint.tensors import is_scale
from eagle3hub.errors import LayoutError, Refusal, TensorError, UsageError
from eagle3hub.head import Head
from eagle3hub.layouts.base import ReadOptions
from eagle3hub.layouts.tensors import several

_LEAKED = re.compile(r"(^|\.)(target_model\.|rotary_emb\.inv_freq$)|^verifier_(lm_head|norm)\.")
_PREFIX = "model."
_MAP = "--repair takes the vocabulary map from the other buffer where this one is wrong, --d2t from a file"
_OWN = {
    "embed_tokens.weight": "--drop-embeddings leaves them out where they are the target's",
    "fc.bias": "leave the option out",
    "d2t": _MAP,
    "t2d": _MAP,
}
"""Tensors that only some heads have whatever their config says, and what to do instead of leaving them out."""


def prepared(checkpoint: Checkpoint, options: ReadOptions) -> Checkpoint:
    """The checkpoint without dropped tensors and without a ``model.`` that every name begins with.

    Raises UsageError for a tensor to drop that is not there, TensorError for leftovers of the target model,
    LayoutError where some names begin with ``model.`` and others do not.
    """
    absent = sorted(set(options.drop) - set(checkpoint.tensors))
    if absent:
        raise UsageError(f"{checkpoint.source} holds no {several(absent)} to drop", code="usage-drop")
    tensors = {name: ref for name, ref in checkpoint.tensors.items() if name not in options.drop}
    leaked = sorted(name for name in tensors if _LEAKED.search(name))
    if leaked:
        raise TensorError(
            f"{checkpoint.source} holds {several(leaked)}: leftovers of the target model that training saved along, "
            "no part of the head",
            hint="leave them out with " + " ".join(f"--drop {name}" for name in leaked),
            code="tensor-leaked",
        )
    return without_prefix(replace(checkpoint, tensors=tensors))


def refuse_own(head: Head, dropped: Collection[str]) -> None:
    """Raise Refusal where one of the tensors that were left out is one the head can be read without but has.

    One it cannot be read without is missing by now; another spelling of the same tensor may take its place.
    """
    there = {ref.name for ref in head.tensors.values()}
    prefix = _PREFIX if all(name.startswith(_PREFIX) for name in there) else ""
    for name in sorted(dropped):
        bare = name.removeprefix(prefix)
        scales = is_scale(bare) and f"{name.rpartition('.')[0]}.weight" in there
        if bare in _OWN or (scales and head.semantics.quantization is not None):
            raise Refusal(
                f"--drop {name}: the tensor is a part of the head, which would be another head without it",
                hint=_OWN.get(bare, "leave the option out"),
                code="refused-drop",
            )


def without_prefix(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint without a ``model.`` that every name begins with. Raises LayoutError where only some do."""
    tensors = checkpoint.tensors
    prefixed = [name for name in tensors if name.startswith(_PREFIX)]
    if prefixed and len(prefixed) == len(tensors):
        stripped = {name.removeprefix(_PREFIX): ref for name, ref in tensors.items()}
        if _is_language_model(stripped):
            raise _whole_model(checkpoint)
        return replace(checkpoint, tensors=stripped)
    if prefixed:
        if _is_language_model({name.removeprefix(_PREFIX) for name in tensors}):
            raise _whole_model(checkpoint)
        bare = sorted(set(tensors) - set(prefixed))
        raise LayoutError(
            f"in {checkpoint.source} some names begin with model. ({prefixed[0]}) and others do not ({bare[0]}): "
            "engines put model. before every name, so neither reading is safe",
            hint="rename the tensors so that all of them or none of them begin with model.",
            code="layout-prefixed",
        )
    return checkpoint


def _is_language_model(names: Collection[str]) -> bool:
    return "embed_tokens.weight" in names and not any("fc." in name for name in names)


def _whole_model(checkpoint: Checkpoint) -> LayoutError:
    return LayoutError(
        f"{checkpoint.source} holds a whole language model, not a draft head",
        hint="name the folder of the head; the target model goes to --target",
        code="layout-language-model",
    )
