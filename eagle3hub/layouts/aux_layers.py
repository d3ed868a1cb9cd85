"""Aux layers as configs and users list them, the default where nobody does, and how a head fits its target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from eagle3hub.errors import ConfigError, Hint, Problem
from eagle3hub.head import Assumption, AuxOrigin, AuxTaps, Head
from eagle3hub.head.aux_defaults import AUX_IDS, aux_default, shown
from eagle3hub.head.fields import Fields
from eagle3hub.head.target import TargetFacts
from eagle3hub.layouts.base import READERS, aux_count

Convention = Literal["after", "boundary"]


@dataclass(frozen=True, slots=True)
class Taps:
    """Aux layers as read: the taps, the order of fc's column blocks if it is not ascending, problems to report."""

    aux: AuxTaps | None = None
    fc_order: tuple[int, ...] | None = None
    problems: list[Problem] = field(default_factory=list)


def taps_from(
    ids: Sequence[int], convention: Convention, origin: AuxOrigin, *, order_ignored: bool = False, where: str
) -> Taps:
    """Taps from a list of layer ids in any order.

    Every engine captures in ascending order. A head whose fc was trained on another order needs its columns permuted,
    which is an error here. ``order_ignored``: the trainer sorts the list and drops duplicates (ModelOpt), so its fc is
    in ascending order already.
    Raises ConfigError for ids that are no layers, and for duplicates that the trainer would not have dropped.
    """
    make = AuxTaps.from_boundary if convention == "boundary" else AuxTaps.from_after_layer
    if all(a < b for a, b in pairwise(ids)):
        return Taps(make(ids, origin))
    ascending = sorted(set(ids))
    taps = make(ascending, origin)
    if order_ignored:
        message = (
            f"{where} lists aux layers {list(ids)}; its trainer captures them as {ascending}, which is what is read"
        )
        return Taps(taps, None, [Problem("info", "aux-order-ignored", message)])
    if len(ascending) != len(ids):
        raise ConfigError(
            f"{where} lists aux layers {list(ids)}, some of them twice; engines capture each layer once, so fc would "
            "get fewer hidden states than it takes",
            hint=Hint("if the trainer captured each layer once, give the true list with --aux-layers", "--aux-layers"),
            code="config-aux-duplicate",
        )
    shift = 1 if convention == "boundary" else 0
    problem = Problem(
        "error",
        "config-aux-order",
        f"{where} lists aux layers {list(ids)}, not in ascending order: every engine captures in ascending order, so "
        "the column blocks of fc.weight would have to be permuted",
        Hint(
            "--sort-aux permutes them; if the trainer captured in ascending order anyway, give the sorted list with "
            "--aux-layers",
            "--sort-aux",
            "--aux-layers",
        ),
    )
    return Taps(taps, tuple(i - shift for i in ids), [problem])


def read_flat_taps(config: Fields, *, order_ignored: bool = False) -> Taps:
    """Aux layers of a flat config: boundary ids at top level, after-layer ids in ``eagle_config``.

    Raises ConfigError where both are there and name different layers.
    """
    top, nested = config.layer_ids(AUX_IDS), config.section("eagle_config").layer_ids(AUX_IDS)
    where = config.where
    inner = (
        Taps() if nested is None else taps_from(nested, "after", "config", order_ignored=order_ignored, where=where)
    )
    if top is None:
        return inner if nested is None else Taps(inner.aux, inner.fc_order, [*inner.problems, _nested_only(nested)])
    outer = taps_from(top, "boundary", "config", order_ignored=order_ignored, where=where)
    if (
        inner.aux is not None
        and outer.aux is not None
        and (outer.aux.taps, outer.fc_order)
        != (
            inner.aux.taps,
            inner.fc_order,
        )
    ):
        raise ConfigError(
            f"{where} names different aux layers: {top} at top level (boundary ids) and {nested} in eagle_config "
            f"(after-layer ids, so boundaries {inner.aux.boundary})",
            hint="SGLang would read one and vLLM the other: correct the list that is wrong",
            code="config-aux-conflict",
        )
    return outer


def _nested_only(nested: list[int]) -> Problem:
    return Problem(
        "warning",
        "aux-ids-nested-only",
        f"aux layer ids {nested} stand in eagle_config only: vLLM's CPU runner takes them one layer too low "
        "and its GPU runner ignores them",
        f"eagle3hub convert also writes {AUX_IDS}: {[i + 1 for i in sorted(nested)]} at top level",
    )


def trainer_default(head: Head, num_target_layers: int) -> tuple[AuxTaps, Assumption | None]:
    """The aux layers a trainer taps where nothing names them, and the assumption behind that (None if it is certain).

    Raises ConfigError where the target has no default that fits fc.
    """
    default, kind = aux_default(head.layout), head.target_model_type
    taps, count = AuxTaps.default_for(num_target_layers, head.layout, kind), aux_count(head)
    why: str | None = "the source names no aux layers: the trainer's default is taken, but a run may have set others"
    if default.fixed:
        title, special = READERS[head.layout].contract.title, next(iter(default.targets.items()), None)
        if kind and kind in default.targets:
            why = (
                f"{title} taps ({shown(default.targets[kind])}) for {kind} unless told otherwise, and records nothing"
            )
        elif special is not None and not kind:
            name, layers = special
            why = f"{title} taps ({shown(layers)}) of a {name} target, and the target's type is not known"
        elif not head.carried:
            why = None
    if len(taps) != count:
        raise ConfigError(
            f"the default aux layers of a target of {num_target_layers} layers are {taps.after_layer}, but fc.weight "
            f"takes {count} hidden states",
            hint=Hint("give the layers with --aux-layers", "--aux-layers"),
            code="config-aux-count",
        )
    return taps, None if why is None else Assumption("aux", taps.after_layer, why, _settle(head, taps))


def _settle(head: Head, taps: AuxTaps) -> str:
    """The hint that settles which layers a head taps, ready to be typed or pasted."""
    default = aux_default(head.layout)
    if default.targets and not head.target_model_type:
        return Hint("give --target or --aux-layers", "--aux-layers")
    words = Hint(
        f"check the training command; for these layers give --aux-layers {','.join(map(str, taps.after_layer))}",
        "--aux-layers",
    )
    if default.fixed:  # the trainer writes no list, so that one in its config would settle nothing
        return words
    return Hint.join([words, f'or write "{AUX_IDS}": {taps.boundary} at the top level of config.json'], ", ")


# A head and its target: the check that they fit, and what only the target knows.


AUX_SHIFTED = "aux-ids-shifted"
"""Code of the problem of aux layers that are the default ones shifted by one."""


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
