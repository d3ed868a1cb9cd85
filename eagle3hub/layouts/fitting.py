"""Check a head against its target, and fill in what only the target knows."""

from __future__ import annotations

from collections.abc import Sequence

from eagle3hub.errors import ConfigError, Hint, Problem
from eagle3hub.head import AuxTaps, Head
from eagle3hub.head.target import TargetFacts
from eagle3hub.layouts.aux_layers import trainer_default

AUX_SHIFTED = "aux-ids-shifted"


def apply_target(head: Head, target: TargetFacts) -> None:
    """Check that head and target fit, and fill in what only the target knows."""
    for what, of_head, of_target in (
        ("hidden size", head.dims.target_hidden_size, target.hidden_size),
        ("vocabulary", head.dims.vocab_size, target.vocab_size),
    ):
        if of_head != of_target:
            message = f"the head was made for a target with {what} {of_head}, but {target.name} has {of_target}"
            head.problems.append(_mismatch(message))
            return
    head.target_model_type = target.model_type or head.target_model_type
    apply_depth(head, target.num_hidden_layers, target.name)
    if head.max_position_embeddings is None:
        head.max_position_embeddings = target.max_position_embeddings
    head.target_context = target.max_position_embeddings or head.target_context
    head.token_ids = {**target.token_ids, **head.token_ids}
    head.target_name = target.name if not target.is_local or head.target_name is None else head.target_name
    head.target_architectures = list(target.architectures) or head.target_architectures


def apply_depth(head: Head, layers: int, name: str = "the target") -> None:
    """Use the target's number of layers: to check the aux layers, or to find them where none are named."""
    head.num_target_layers = layers
    if head.aux is None:
        _take_default(head, layers)
        return
    if not head.aux.numbered:
        return
    if head.target_model_type == "gpt_oss" and head.aux.origin == "config" and max(head.aux.after_layer) == layers:
        _read_as_boundary(head, layers)
    if max(head.aux.boundary) > layers:
        message = f"the head taps layer {max(head.aux.after_layer)}, but {name} has {layers} layers"
        head.problems.append(_mismatch(message))
    elif head.aux.origin == "config":
        _warn_of_shifted(head, head.aux, layers)


def _take_default(head: Head, layers: int) -> None:
    head.assumptions = [a for a in head.assumptions if a.field != "aux"]
    try:
        head.aux, assumed = trainer_default(head, layers)
    except ConfigError as e:
        head.problems.append(
            Problem("error", e.code, e.message, e.hint or Hint("give the layers with --aux-layers", "--aux-layers"))
        )
        return
    if assumed is not None:
        head.assumptions.append(assumed)


def _read_as_boundary(head: Head, layers: int) -> None:
    """Read the ids as boundaries: NVIDIA's gpt-oss heads use the numbering SGLang has for a list that ends with L."""
    assert head.aux is not None
    listed = head.aux.after_layer
    head.aux = AuxTaps.from_boundary(listed, "config")
    head.problems = [p for p in head.problems if p.code != "aux-ids-nested-only"]
    message = (
        f"the aux layers {listed} are boundary ids: the highest is the gpt_oss target's number of layers, {layers}"
    )
    head.problems.append(Problem("info", "aux-boundary", message))


def _warn_of_shifted(head: Head, aux: AuxTaps, layers: int) -> None:
    try:
        default = AuxTaps.default_for(layers)
    except ConfigError:  # too small a target to have one
        return
    for other, numbering in ((default.boundary, "boundary"), ([i - 1 for i in default.after_layer], "after-layer")):
        if aux.after_layer == other:
            head.problems.append(
                Problem(
                    "warning",
                    AUX_SHIFTED,
                    f"the aux layers are the default ones shifted by one layer, as if {numbering} ids stood in a list "
                    f"of the other convention; a target of {layers} layers has the default {default.after_layer}",
                    Hint(
                        f"give --aux-layers {_listed(default.after_layer)} if the head was trained on the default "
                        f"layers, or --aux-layers {_listed(aux.after_layer)} if on these",
                        "--aux-layers",
                    ),
                )
            )


def _listed(layers: Sequence[int]) -> str:
    return ",".join(map(str, layers))


def _mismatch(message: str) -> Problem:
    return Problem("error", "target-mismatch", message, "name the target the head was trained for")
