"""Fields of the written config set by hand, as long as the tensors agree."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from eagle3hub.checkpoint.dtypes import TORCH_NAME
from eagle3hub.checkpoint.folder import CONFIG, WEIGHTS, open_checkpoint
from eagle3hub.checkpoint.writer import encode_header, in_file_order
from eagle3hub.errors import InputError, Refusal, UsageError
from eagle3hub.head import Head
from eagle3hub.layouts import get_layout
from eagle3hub.layouts.base import AS_FOUND, Spelled
from eagle3hub.layouts.prepare import prepared
from eagle3hub.transforms.change import Change


def parse_setting(text: str) -> tuple[str, Any]:
    """``KEY=VALUE``: a dotted key, and a value that is JSON or else a plain string. Raises UsageError."""
    key, equals, raw = text.partition("=")
    if not equals or not all(key.split(".")):
        raise UsageError(f"--set {text}: it must be KEY=VALUE", hint="--set rms_norm_eps=1e-6", code="usage-set")
    try:
        return key, json.loads(raw, parse_constant=_no_constant)
    except ValueError:
        return key, raw


def apply_settings(
    head: Head, spelled: Spelled, layout: str, settings: Sequence[tuple[str, Any]]
) -> tuple[Head, Spelled, list[Change]]:
    """Set config fields and read the result as an engine's reader would, before anything is written.

    A field that contradicts the tensors, or that has an option of its own, is refused. One that changes what the head
    computes is allowed, and recorded as such: the head returned has the new semantics.
    """
    changes: list[Change] = []
    for key, value in settings:
        config = deepcopy(spelled.config)
        before = _put(config, key, value)
        back = _read_back(head, replace(spelled, config=config), layout, key)
        changed = [
            f"{f.name} from {getattr(head.semantics, f.name)} to {getattr(back.semantics, f.name)}"
            for f in fields(head.semantics)
            if getattr(head.semantics, f.name) != getattr(back.semantics, f.name)
        ]
        what = f"config field {key} was set to {json.dumps(value)}" + (
            "" if before is None else f" (it was {json.dumps(before)})"
        )
        if changed:
            what += f", which changes what the head computes: {'; '.join(changed)}"
        changes.append(Change(f"set:{key}", what, "said on the command line", [], not changed))
        settled = {key, key.rpartition(".")[2]}
        head = replace(
            head, semantics=back.semantics, assumptions=[a for a in head.assumptions if a.field not in settled]
        )
        spelled = replace(
            spelled, config=config, assumptions=[a for a in spelled.assumptions if a.field not in settled]
        )
    return head, spelled, changes


def _put(config: dict[str, Any], key: str, value: Any) -> Any:
    *path, last = key.split(".")
    place: Any = config
    for i, part in enumerate(path):
        place = place.get(part) if isinstance(place, dict) else None
        if not isinstance(place, dict):
            raise Refusal(
                f"--set {key}: config.json has no object {'.'.join(path[: i + 1])}",
                hint="look at the config with --dry-run --json",
                code="refused-set",
            )
    before = place.get(last)
    place[last] = value
    return before


def _read_back(head: Head, spelled: Spelled, layout: str, key: str) -> Head:
    """What the folder would say. Raises Refusal where that contradicts the tensors."""
    flat = _flattened(spelled.config)
    stated = {v for k, v in flat if k in {"torch_dtype", "dtype"} and v is not None}
    if not stated <= {TORCH_NAME.get(head.dtype), head.dtype}:
        raise _refused(key, f"the weights are {TORCH_NAME.get(head.dtype, head.dtype)}", "cast them with --dtype")
    if any(v is True for k, v in flat if k == "tie_word_embeddings"):
        raise _refused(key, "the head has its own lm_head.weight, which engines would then ignore", "leave it out")
    codec = get_layout(layout)
    try:
        with TemporaryDirectory(prefix="eagle3hub-") as folder:
            _rehearse(Path(folder), spelled)
            back = codec.read(prepared(open_checkpoint(folder), AS_FOUND), AS_FOUND)
        back.raise_for_errors()
    except InputError as e:
        raise _refused(key, e.message, "leave it out") from e
    if back.dims != head.dims:
        a, b = head.dims.to_json(), back.dims.to_json()
        differs = ", ".join(f"{n} is {a[n]}" for n in a if a[n] != b[n])
        raise _refused(key, f"it contradicts the tensors: {differs}", "leave it out")
    if (
        codec.contract.aux_ids is not None
        and head.aux is not None
        and (back.aux is None or back.aux.taps != head.aux.taps)
    ):
        raise _refused(key, "it names other aux layers than the head's", "say which layers feed fc with --aux-layers")
    return back


def _rehearse(folder: Path, spelled: Spelled) -> None:
    """A folder like the one to be written, with holes in place of the weights: it takes no room on the disk."""
    (folder / CONFIG).write_text(json.dumps(spelled.config, ensure_ascii=False), encoding="utf-8")
    ordered = in_file_order(spelled.tensors)
    header = encode_header(ordered, spelled.metadata)
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


def _flattened(config: Mapping[str, Any]) -> list[tuple[str, Any]]:
    out: list[tuple[str, Any]] = []
    for key, value in config.items():
        if isinstance(value, dict):
            out += _flattened(value)
        elif not isinstance(value, list):
            out.append((key, value))
    return out


def _refused(key: str, why: str, hint: str) -> Refusal:
    return Refusal(f"--set {key} is refused: {why}", hint=hint, code="refused-set")


def _no_constant(name: str) -> Any:
    raise ValueError(name)
