"""Aux layers as configs and users list them, the default where nobody does, and how a head fits its target."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal

from eagle3hub.errors import ConfigError, Hint, Problem
from eagle3hub.head import Assumption, AuxOrigin, AuxTaps, Head
from eagle3hub.head.aux_defaults import AUX_IDS, AuxDefault, aux_default, captured_by_sglang, shown, target_types
from eagle3hub.head.fields import Fields
from eagle3hub.head.rope import ROPE_THETA, beside_in_words, bound_by_context, of_whole_heads
from eagle3hub.head.target import TargetFacts
from eagle3hub.layouts.base import READERS, UNKNOWN_TRAINER, aux_count

Convention = Literal["after", "boundary"]


@dataclass(frozen=True, slots=True)
class Taps:
    """Aux layers as read.

    Attributes:
        aux: the taps. fc_order: after-layer ids in the order of fc's column blocks if that is not ascending.
        problems, assumptions: to report.
        listed: the ids as they stand in the list that decides.
        one_list: whether both lists of the config hold them, so that their numbering is open until the target's depth
            is known.
        fault: the error of lists that cannot be read, which counts unless the user names the layers.
    """

    aux: AuxTaps | None = None
    fc_order: tuple[int, ...] | None = None
    problems: list[Problem] = field(default_factory=list)
    assumptions: list[Assumption] = field(default_factory=list)
    listed: tuple[int, ...] | None = None
    one_list: bool = False
    fault: ConfigError | None = None


def taps_or_fault(read: Callable[[], Taps]) -> Taps:
    """The taps that ``read`` returns, or the ConfigError that it raises."""
    try:
        return read()
    except ConfigError as e:
        return Taps(fault=e)


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

    Equal lists in both places have one numbering (`numbering_of`), which the target's depth decides (`apply_depth`);
    until then it is an assumption. Raises ConfigError where the lists name different layers.
    """
    top, nested = config.layer_ids(AUX_IDS), config.section("eagle_config").layer_ids(AUX_IDS)
    where = config.where

    def taken(ids: list[int], convention: Convention) -> Taps:
        found = taps_from(ids, convention, "config", order_ignored=order_ignored, where=where)
        return replace(found, listed=tuple(ids))

    if top is None:
        if nested is None:
            return Taps()
        inner = taken(nested, "after")
        return replace(inner, problems=[*inner.problems, _nested_only(nested)])
    if top == nested:
        convention, why = numbering_of(top, None, None)
        found = taken(top, convention)
        assert found.aux is not None
        if why is not None:
            return found
        return replace(found, assumptions=[_assumed_numbering(top, found.aux, convention)], one_list=True)
    outer = taken(top, "boundary")
    if nested is not None:
        inner = taken(nested, "after")
        assert inner.aux is not None
        if outer.aux is None or (outer.aux.taps, outer.fc_order) != (inner.aux.taps, inner.fc_order):
            raise ConfigError(
                f"{where} names different aux layers: {top} at top level (boundary ids) and {nested} in eagle_config "
                f"(after-layer ids, so boundaries {inner.aux.boundary})",
                hint=Hint(
                    "SGLang would read one and vLLM the other: give the layers the head was trained on with "
                    "--aux-layers, or correct the list that is wrong",
                    "--aux-layers",
                ),
                code=AUX_CONFLICT,
            )
    return outer


AUX_CONFLICT = "config-aux-conflict"
"""Code of the error of two lists that name different layers."""


def numbering_of(ids: Sequence[int], layers: int | None, kind: str | None) -> tuple[Convention, str | None]:
    """The numbering of equal lists at top level and in ``eagle_config``, and what decides it.

    vLLM and llama.cpp read the first as boundary ids, SGLang the second as after-layer ids, but for some targets.

    Args:
        ids: the list. layers, kind: number of layers and model_type of the target, or None.

    Returns:
        The numbering, and the reason in words; None if nothing decides it and it is only the likelier one.
    """
    ascending = sorted(set(ids))
    if ascending[0] == 0:
        return "after", "a boundary id is 1 or more"
    if layers is None:
        return "after" if AuxTaps.from_after_layer(ascending, "config").is_default else "boundary", None
    if ascending[-1] == layers:
        return "boundary", f"the target has {layers} layers, and none numbered {layers} to tap the output of"
    try:
        default = AuxTaps.default_for(layers)
    except ConfigError:  # too small a target to have one
        pass
    else:
        usual = f"they are then the default layers of a target of {layers} layers"
        if ascending == default.boundary:
            return "boundary", usual
        if ascending == default.after_layer:
            return "after", usual
    if _sglang_takes_raw(kind, ascending):
        return "boundary", f"every engine takes them for such in a head for a {kind} target"
    return "boundary", None


def _sglang_takes_raw(kind: str | None, ids: Sequence[int]) -> bool:
    """Whether SGLang takes ids in ``eagle_config`` for boundary ids in a head for a target of this type."""
    return kind in target_types("sglang_boundary_unless_1") and ids[0] > 1


_NUMBERINGS: dict[Convention, str] = {"after": "after-layer ids", "boundary": "boundary ids"}


def _assumed_numbering(ids: Sequence[int], aux: AuxTaps, convention: Convention) -> Assumption:
    why = (
        f"config.json lists the aux layers {list(ids)} at top level, where engines take them for boundary ids, and in "
        f"eagle_config, where engines take them for after-layer ids: they are taken for {_NUMBERINGS[convention]}"
    )
    other = [i - 1 for i in aux.after_layer] if convention == "after" else aux.boundary
    settle = Hint(
        f"give --target, whose depth may decide it; else --aux-layers {_listed(aux.after_layer)} or, for the other "
        f"numbering, --aux-layers {_listed(other)}",
        "--aux-layers",
    )
    return Assumption("aux", aux.after_layer, why, settle)


_NESTED_ONLY = "aux-ids-nested-only"
"""Code of the problem of ids that stand in ``eagle_config`` and nowhere else."""


def _nested_only(nested: list[int]) -> Problem:
    return Problem(
        "warning",
        _NESTED_ONLY,
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
    other = _other_list(head)
    why: str | None = _why_default(head, default)
    doubtful = default.unnamed != "certain"
    if default.fixed:
        doubtful = True
        special = next(iter(default.targets.items()), None)
        if kind and kind in default.targets:
            why = f"{_NAMED_NOWHERE}: {_taps(head)} these of a {kind} target unless the run says otherwise"
        elif special is not None and not kind:
            name, layers = special
            why = (
                f"{_NAMED_NOWHERE}: {_taps(head)} {shown(default.layers)} of a target's L layers, but {shown(layers)} "
                f"of a {name} target, and the type of this head's target is not known"
            )
        elif not head.carried:
            why = None
    if len(taps) != count:
        listed = "" if other is None else f"; config.json lists {other[1]} under {other[0]}, which may be these layers"
        raise ConfigError(
            f"the default aux layers of a target of {num_target_layers} layers are {taps.after_layer}, but fc.weight "
            f"takes {count} hidden states{listed}",
            hint=Hint("give the layers with --aux-layers", "--aux-layers"),
            code="config-aux-count",
        )
    if other is not None and other[1] not in (taps.after_layer, taps.boundary):
        why, doubtful = _why_other(*other), True
    return taps, None if why is None else Assumption("aux", taps.after_layer, why, _settle(head, taps), doubtful)


_LISTS_LAYERS = re.compile(r"(?=.*(layer|captur))(?=.*(aux|captur|draft|eagle|feature|hidden|target|tap))")
"""What the name of a key says that lists the layers of a target which feed its head, whoever writes it."""


def _other_list(head: Head) -> tuple[str, list[int]] | None:
    """A list of as many layers as fc takes states, with its key, in a key that is not read for the aux layers."""
    inner = head.config.get("eagle_config")
    for place, table in (("", head.config), ("eagle_config.", inner if isinstance(inner, dict) else {})):
        for key, value in table.items():
            ids = value if isinstance(value, list) and all(type(i) is int for i in value) else []
            if len(ids) == aux_count(head) and key != AUX_IDS and _LISTS_LAYERS.search(key.lower()):
                return f"{place}{key}", ids
    return None


def _why_other(key: str, ids: list[int]) -> str:
    return (
        f"config.json lists layers {ids} under {key}, which is not known to name the aux layers: the usual default is "
        "taken instead"
    )


def _taps(head: Head) -> str:
    """The trainer of a head and what it does, to begin a sentence; every trainer where the layout tells none."""
    return "trainers tap" if head.layout == UNKNOWN_TRAINER else f"{READERS[head.layout].contract.title} taps"


_NAMED_NOWHERE = "the files name none"


def _why_default(head: Head, default: AuxDefault) -> str:
    """Why the default layers are an assumption, by what it means that nothing names any (`AuxDefault.unnamed`)."""
    layers = shown(default.layers)
    if default.unnamed == "suspicious":
        return (
            f"{_NAMED_NOWHERE}, though {READERS[head.layout].contract.title} always writes them down: these are "
            f"its default, {layers} of a target's L layers, and the run may have tapped others"
        )
    return f"{_NAMED_NOWHERE}: {_taps(head)} {layers} of a target's L layers unless the run says otherwise"


def unnamed_layers(head: Head) -> Assumption:
    """The assumption that a head taps its trainer's default layers, where neither they nor the depth are known."""
    default = aux_default(head.layout)
    layers = shown(aux_default().layers)
    why = f"{_NAMED_NOWHERE}: engines then tap {layers} of the target's L layers, and its depth is not known here"
    if (other := _other_list(head)) is not None:
        return Assumption("aux", None, _why_other(*other), Hint("give --aux-layers", "--aux-layers"))
    return Assumption("aux", None, why, "give --target", default.unnamed != "certain" or bool(default.targets))


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
            padded = what == "vocabulary" and of_target > of_head
            head.problems.append(_mismatch(message, of_target if padded else None))
            return
    head.target = target
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
    if head.one_list is not None:
        _decide_numbering(head, head.one_list, layers)
    if head.aux is None:
        _take_default(head, layers)
        return
    if not head.aux.numbered:
        return
    if head.target_model_type == "gpt_oss" and head.aux.origin == "config" and max(head.aux.after_layer) == layers:
        _read_as_boundary(head, layers)
    captured = _read_as_captured(head)
    if max(head.aux.boundary) > layers:
        message = f"the head taps layer {max(head.aux.after_layer)}, but {name} has {layers} layers"
        head.problems.append(_mismatch(message))
    elif head.aux.origin == "config" and not captured:
        _warn_of_shifted(head, head.aux, layers)


def _decide_numbering(head: Head, ids: tuple[int, ...], layers: int) -> None:
    """Number equal lists by the target's depth; where that decides nothing, the likelier numbering stays assumed."""
    convention, why = numbering_of(ids, layers, head.target_model_type)
    make, shift = (AuxTaps.from_boundary, 1) if convention == "boundary" else (AuxTaps.from_after_layer, 0)
    head.aux = make(sorted(set(ids)), "config")
    head.fc_order = None if head.fc_order is None else tuple(i - shift for i in ids)
    head.assumptions = [a for a in head.assumptions if a.field != "aux"]
    if why is None:
        head.assumptions.append(_assumed_numbering(ids, head.aux, convention))
        return
    head.one_list = None
    message = f"config.json lists the aux layers {list(ids)} twice: they are {_NUMBERINGS[convention]}, since {why}"
    head.problems.append(Problem("info", "aux-one-numbering", message))


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
    listed = _taken_for_boundaries(head)
    message = (
        f"the aux layers {listed} are boundary ids: the highest is the gpt_oss target's number of layers, {layers}"
    )
    head.problems.append(Problem("info", "aux-boundary", message))


def _taken_for_boundaries(head: Head) -> list[int]:
    """Take the ids that were read as after-layer ids for boundary ids, and return them."""
    assert head.aux is not None
    listed = head.aux.after_layer
    head.aux = AuxTaps.from_boundary(listed, "config")
    head.fc_order = None if head.fc_order is None else tuple(i - 1 for i in head.fc_order)
    head.problems = [p for p in head.problems if p.code != _NESTED_ONLY]
    head.assumptions = [a for a in head.assumptions if a.field not in ("aux", AUX_IDS)]
    return listed


def _read_as_captured(head: Head) -> bool:
    """Read ids as SGLang does where it captured the training data; whether it takes them for boundary ids.

    Other programs that may have captured count after layers, so that the numbering stays an assumption.
    """
    aux, kind = head.aux, head.target_model_type
    if aux is None or not _open_to_capture(head, aux) or not _sglang_takes_raw(kind, aux.after_layer):
        return False
    listed = _taken_for_boundaries(head)
    why = (
        f"eagle_config lists the aux layers {listed}: they are taken for boundary ids, as SGLang takes a list that "
        f"does not begin with 1 for a {kind} target, in training and in serving; another program that captured the "
        "states takes them for after-layer ids"
    )
    settle = Hint(
        f"give --aux-layers {_listed([i - 1 for i in listed])} if SGLang captured the states for training, or "
        f"--aux-layers {_listed(listed)} if another program counted after layers",
        "--aux-layers",
    )
    head.assumptions.append(Assumption("aux", [i - 1 for i in listed], why, settle))
    return True


def numbered_by_target(head: Head) -> Assumption | None:
    """The assumption that ids are after-layer ids where the target's type, which is not known, may say otherwise."""
    aux = head.aux
    if aux is None or head.target_model_type or not _open_to_capture(head, aux) or aux.after_layer[0] < 2:
        return None
    if any(a.field in ("aux", AUX_IDS) for a in head.assumptions):
        return None
    listed = aux.after_layer
    why = (
        f"eagle_config lists the aux layers {listed}: they are taken for after-layer ids, but SGLang, which may have "
        "captured the states for training, takes such a list for boundary ids in targets of some types (Kimi, "
        "DeepSeek, GLM-lite)"
    )
    return Assumption(
        "aux", listed, why, Hint("give --target, whose type decides it, or --aux-layers", "--aux-layers")
    )


def _open_to_capture(head: Head, aux: AuxTaps) -> bool:
    """Whether SGLang may have numbered the ids of a head, which stand in ``eagle_config`` alone."""
    alone = any(p.code == _NESTED_ONLY for p in head.problems)
    return aux.origin == "config" and aux.numbered and alone and captured_by_sglang(head.layout)


def _warn_of_shifted(head: Head, aux: AuxTaps, layers: int) -> None:
    try:
        default = AuxTaps.default_for(layers)
    except ConfigError:  # too small a target to have one
        return
    for other, numbering, belong in (
        (default.boundary, "boundary", "after-layer"),
        ([i - 1 for i in default.after_layer], "after-layer", "boundary"),
    ):
        if aux.after_layer == other:
            message = (
                f"the aux layers are the default ones shifted by one layer, after {_words(aux.after_layer)} where a "
                f"target of {layers} layers has {_words(default.after_layer)}: {numbering} ids may stand where "
                f"{belong} ids belong"
            )
            settle = Hint(
                f"give --aux-layers {_listed(default.after_layer)} if the head was trained on the default "
                f"layers, or --aux-layers {_listed(aux.after_layer)} if on these",
                "--aux-layers",
            )
            head.problems.append(Problem("warning", AUX_SHIFTED, message, settle))
            head.assumptions = [a for a in head.assumptions if a.field not in ("aux", AUX_IDS)]
            head.assumptions.append(Assumption("aux", aux.after_layer, message, settle))


def _words(layers: Sequence[int]) -> str:
    return ", ".join(map(str, layers))


def _listed(layers: Sequence[int]) -> str:
    return ",".join(map(str, layers))


def _mismatch(message: str, padded: int | None = None) -> Problem:
    """The error of another target; ``padded``: the size of its vocabulary, which may be the head's and padding."""
    hint = "name the target the head was trained for"
    if padded is not None:
        hint += f"; if it is this one, and the rest of its vocabulary is padding, write vocab_size: {padded}"
    return Problem("error", "target-mismatch", message, hint)


# Notes on a head beside its target: where its RoPE and its context are others than the target's.


def target_notes(head: Head, target: TargetFacts) -> Iterator[Problem]:
    """Yield a note (severity ``info``) for each fact that differs; none of them is a fault.

    ``head`` as it was read, before anything of the target was filled in.
    """
    yield from _other_rope(head, target)
    yield from _shorter_context(head, target)


def _other_rope(head: Head, target: TargetFacts) -> Iterator[Problem]:
    own, theirs = head.semantics.rope, target.rope()
    if theirs is None:
        return
    base = ROPE_THETA if theirs.theta is None else theirs.theta
    if (own.theta, of_whole_heads(own.scaling or {})) == (base, theirs.scaling):
        return
    both = beside_in_words(own.theta, own.scaling, base, theirs.scaling)
    message = (
        f"the head's RoPE has {both}: engines rotate a draft by its own, which is right if the head was trained so"
    )
    if own.theta == ROPE_THETA != base:
        message += f" (some trainers always take base {ROPE_THETA:.15g})"
    yield Problem("info", "target-rope", message)


def _shorter_context(head: Head, target: TargetFacts) -> Iterator[Problem]:
    own, theirs, scaling = head.max_position_embeddings, target.max_position_embeddings, head.semantics.rope.scaling
    if own is None or theirs is None or own >= theirs:
        return
    if bound_by_context(scaling):
        how = "the head's RoPE scaling is computed from it, so it cannot be raised"
    elif scaling and scaling.get("rope_type") == "yarn":
        how = "from 0.33 on, vLLM's GPU runner serves the shorter one, because of the head's YaRN"
    else:  # vLLM raises it, and what SGLang does with it is in its verdict
        return
    message = f"the head's context is {own} tokens, its target's {theirs}: SGLang refuses that, and {how}"
    yield Problem("info", "target-context", message)
