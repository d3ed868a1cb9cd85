"""Set fields of the config to write, as long as the tensors agree."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from eagle3hub.checkpoint.folder import open_checkpoint
from eagle3hub.checkpoint.safetensors import TORCH_NAME
from eagle3hub.checkpoint.scratch import scratch_folder
from eagle3hub.checkpoint.source import CONFIG, WEIGHTS
from eagle3hub.checkpoint.writer import encode_header, in_file_order
from eagle3hub.conversion.edits.change import ON_COMMAND_LINE, Change
from eagle3hub.engines.preflight import PreflightVerdict, examine, preflight_all
from eagle3hub.engines.preflight.contracts import EFFECTS
from eagle3hub.errors import Hint, InputError, LayoutError, Refusal, UsageError
from eagle3hub.head import Head
from eagle3hub.head.aux_defaults import AUX_COUNT, AUX_IDS
from eagle3hub.head.rope import bound_by_context
from eagle3hub.head.target import TargetFacts
from eagle3hub.layouts import detect
from eagle3hub.layouts.base import AS_FOUND, LAYOUTS, LayoutFiles
from eagle3hub.layouts.tensors import prepared
from eagle3hub.system.documents import document_bytes

_OPTION = {
    "norm_output": "--norm-output",
    "return_hidden_post_norm": "--norm-output",
    "norm_before_residual": "--norm-before-residual",
    "rope_theta": "--rope-theta",
    "dtype": "--dtype",
    "torch_dtype": "--dtype",
    "mask_token_id": "--mask-token-id",
    AUX_IDS: "--aux-layers",
    AUX_COUNT: "--aux-layers",
}
"""The option that sets a field, by the last part of the field's key."""
_AT_THE_SOURCE = "leave it out, or correct the config.json of the source where that is wrong"


def parse_setting(text: str) -> tuple[str, Any]:
    """Read ``KEY=VALUE``: a dotted key, and a value that is JSON or else a plain string. Raises UsageError."""
    key, equals, raw = text.partition("=")
    if not equals or not all(key.split(".")):
        hint = "--set bos_token_id=1"
        raise UsageError(f"--set {text}: it must be KEY=VALUE", hint=hint, code="usage-set")
    try:
        return key, json.loads(raw, parse_constant=_no_constant)
    except ValueError:
        return key, raw


def apply_settings(
    head: Head, files: LayoutFiles, layout: str, settings: Sequence[tuple[str, Any]]
) -> tuple[Head, LayoutFiles, list[Change]]:
    """Set config fields, and check the result before anything is written.

    After each field, the folder is read back and every engine's verdict is compared. A field may change the semantics
    only where they had to be assumed; the returned head then has the new semantics, and the change is recorded. Raises
    Refusal for a field that contradicts the tensors or the head, has an option of its own, or makes an engine's
    verdict worse.
    """
    changes: list[Change] = []
    seen = _look(head, files, layout) if settings else None
    for key, value in settings:
        config = deepcopy(files.config)
        before = _put(config, key, value)
        edited = replace(files, config=config)
        try:
            after = _look(head, edited, layout)
            after.head.raise_for_errors()
        except InputError as e:
            raise _refused(key, e.message) from e
        _hold(key, head, edited, layout, after)
        changed = _semantics_changed(key, head, after.head)
        assert seen is not None
        _hold_engines(key, seen, after)
        what = f"config field {key} was set to {json.dumps(value)}" + (
            "" if before is None else f" (it was {json.dumps(before)})"
        )
        if changed:
            what += f", which changes what the head computes: {'; '.join(changed)}"
        changes.append(Change(f"set:{key}", what, ON_COMMAND_LINE, [], not changed))
        settled = {key, key.rpartition(".")[2]}
        head = replace(
            head, semantics=after.head.semantics, assumptions=[a for a in head.assumptions if a.field not in settled]
        )
        files = replace(edited, assumptions=[a for a in files.assumptions if a.field not in settled])
    return head, files, changes


def _put(config: dict[str, object], key: str, value: Any) -> Any:
    *path, last = key.split(".")
    place: Any = config
    for i, part in enumerate(path):
        place = place.get(part) if isinstance(place, dict) else None
        if not isinstance(place, dict):
            raise Refusal(
                f"--set {key}: config.json has no object {'.'.join(path[: i + 1])}",
                hint="without this --set, --dry-run --json shows the fields there are, under config",
                code="refused-set",
            )
    before = place.get(last)
    if _has_null(value):
        raise _refused(key, "engines take a JSON null for a value", "leave the field out")
    lost = _lost(before, value)
    if lost:
        raise _refused(key, f"it would drop {', '.join(lost)}", f"set one field of it, as {key}.NAME=VALUE")
    if last == "model_type" and value != before:
        raise _refused(key, "engines choose the code that runs the head by it")
    place[last] = value
    return before


def _has_null(value: Any) -> bool:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return value is None or any(_has_null(v) for v in inside)


def _lost(before: Any, value: Any) -> list[str]:
    """List the fields of an object that its new value no longer has."""
    if not isinstance(before, dict):
        return []
    return sorted(before) if not isinstance(value, dict) else sorted(set(before) - set(value))


@dataclass(frozen=True, slots=True)
class _Seen:
    """What reading a folder gives: the head in it, its detected layout (None: none), every engine's verdict."""

    head: Head
    layout: str | None
    verdicts: list[PreflightVerdict]


def _look(head: Head, files: LayoutFiles, layout: str) -> _Seen:
    with scratch_folder() as folder:
        _rehearse(folder, files)
        checkpoint = open_checkpoint(folder)
        back = LAYOUTS[layout].read(prepared(checkpoint, AS_FOUND), AS_FOUND)
        try:
            found = detect(checkpoint)[0].name
        except LayoutError:
            found = None
        truth = replace(head, semantics=back.semantics)
        return _Seen(back, found, preflight_all(examine(checkpoint, truth), target_of(head)))


def target_of(head: Head) -> TargetFacts | None:
    """Return the known facts of the target, or None if its depth is unknown."""
    if head.num_target_layers is None:
        return None
    return TargetFacts(
        name=head.target_name or "the target",
        is_local=False,
        num_hidden_layers=head.num_target_layers,
        hidden_size=head.dims.target_hidden_size,
        vocab_size=head.dims.vocab_size,
        max_position_embeddings=head.target_context,
        model_type=head.target_model_type or "",
        architectures=tuple(head.target_architectures),
        token_ids={},
    )


def _hold(key: str, head: Head, files: LayoutFiles, layout: str, after: _Seen) -> None:
    """Raise Refusal if the folder would contradict the tensors, or name other layers, tokens or maps."""
    back = after.head
    flat = _flattened(files.config)
    stated = {v for k, v in flat if k in {"torch_dtype", "dtype"} and v is not None}
    if not stated <= {TORCH_NAME.get(head.dtype), head.dtype}:
        raise _refused(key, f"the weights are {TORCH_NAME.get(head.dtype, head.dtype)}")
    if any(v is True for k, v in flat if k == "tie_word_embeddings"):
        raise _refused(key, "the head has its own lm_head.weight, which engines would then ignore")
    if back.dims != head.dims:
        a, b = head.dims.to_json(), back.dims.to_json()
        differs = ", ".join(f"{n} is {a[n]}" for n in a if a[n] != b[n])
        raise _refused(key, f"it contradicts the tensors: {differs}")
    if (
        LAYOUTS[layout].contract.aux_ids is not None
        and head.aux is not None
        and (back.aux is None or back.aux.taps != head.aux.taps)
    ):
        raise _refused(key, "it names other aux layers than the head's")
    if back.max_position_embeddings != head.max_position_embeddings and bound_by_context(head.semantics.rope.scaling):
        raise _refused(key, "the head's RoPE scaling is computed from it")
    if back.mask_token_id not in (head.mask_token_id, None):
        raise _refused(key, f"the head's mask token is {head.mask_token_id}")


def _semantics_changed(key: str, head: Head, back: Head) -> list[str]:
    """Say how the semantics changed. Raises Refusal unless what changed had been assumed."""
    a, b = head.semantics, back.semantics
    differ = [f.name for f in fields(a) if getattr(a, f.name) != getattr(b, f.name)]
    changed = [f"{name} from {getattr(a, name)} to {getattr(b, name)}" for name in differ]
    assumed = {"rope" if found.field == "rope_theta" else found.field for found in head.assumptions}
    for name, how in zip(differ, changed, strict=True):
        if name not in assumed:
            hint = None if key.rpartition(".")[2] in _OPTION else _AT_THE_SOURCE
            raise _refused(key, f"it would change what the head computes: {how}", hint)
    return changed


def _hold_engines(key: str, before: _Seen, after: _Seen) -> None:
    """Raise Refusal if an engine's verdict gets worse, or if another layout is detected."""
    for was, now in zip(before.verdicts, after.verdicts, strict=True):
        if EFFECTS.index(now.kind) > EFFECTS.index(was.kind):
            reason = now.reasons[0]
            raise _refused(key, f"{now.title} {reason.sentence}")
    if after.layout != before.layout and before.layout is not None:
        seems = f"like {after.layout}" if after.layout else "like no layout"
        raise _refused(key, f"the folder would look {seems} instead of {before.layout}")


def _rehearse(folder: Path, files: LayoutFiles) -> None:
    """Write a folder like the real one, but with sparse files for the weights, which take no room on the disk."""
    (folder / CONFIG).write_bytes(document_bytes(files.config))
    ordered = in_file_order(files.tensors)
    header = encode_header(ordered, files.metadata)
    with (folder / WEIGHTS).open("wb") as f:
        f.write(header)
        at = len(header)
        for t in ordered:
            if isinstance(t.data, bytes):
                f.seek(at)
                f.write(t.data)
            at += t.nbytes
        f.flush()
        os.ftruncate(f.fileno(), at)


def _flattened(config: Mapping[str, object]) -> list[tuple[str, Any]]:
    out: list[tuple[str, Any]] = []
    for key, value in config.items():
        if isinstance(value, dict):
            out += _flattened(value)
        elif not isinstance(value, list):
            out.append((key, value))
    return out


def _refused(key: str, why: str, hint: str | None = None) -> Refusal:
    option = _OPTION.get(key.rpartition(".")[2])
    own = Hint(f"leave it out: {option} is there for that", option) if option else "leave it out"
    return Refusal(f"--set {key} is refused: {why}", hint=hint or own, code="refused-set")


def _no_constant(name: str) -> Any:
    raise ValueError(name)
