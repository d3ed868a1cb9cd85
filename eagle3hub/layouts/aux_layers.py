"""Aux layers as configs and users list them (two conventions, any order), and the default where nobody does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from eagle3hub.errors import ConfigError, Hint, Problem
from eagle3hub.head import Assumption, AuxOrigin, AuxTaps, Head
from eagle3hub.head.aux_defaults import AUX_IDS, aux_default, shown
from eagle3hub.head.fields import Fields
from eagle3hub.layouts.base import LAYOUTS, aux_count

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
        title, special = LAYOUTS[head.layout].contract.title, next(iter(default.targets.items()), None)
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
