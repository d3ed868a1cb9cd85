"""Check what engines do with the files of a release: the preflight of each layout folder, as in ``inspect``.

It reads only the folders: their configs, the headers of their weights, and the target that eagle3hub.json names.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from eagle3hub.card import vocabulary
from eagle3hub.checkpoint.folder import open_checkpoint
from eagle3hub.conversion.edits.settings import target_of as known_target
from eagle3hub.engines.preflight import EFFECTS, ExaminedHead, HeadFiles, PreflightVerdict, examine, preflight
from eagle3hub.engines.specs import PARALLEL_DRAFTING, preflight_version, version_data
from eagle3hub.errors import InputError, UsageError
from eagle3hub.head import Head
from eagle3hub.head.aux_defaults import AUX_CAPTURE
from eagle3hub.head.quantization import QUANT_CONFIG, json_object
from eagle3hub.head.target import TargetFacts
from eagle3hub.layouts import LAYOUTS, by_readers, open_head
from eagle3hub.layouts.base import WriteOptions

if TYPE_CHECKING:
    from eagle3hub.card.manifest import Layouts

Kind = Literal["right", "depends", "unknown", "silently_wrong", "refuses", "unchecked"]
_DOES = {"refuses": "refuses {}", "silently_wrong": "serves {} silently wrong"}
_UNIVERSAL = "universal"
_SOME = 3
"""K for a layout that must name one, where its value does not matter."""


@dataclass(frozen=True, slots=True)
class Served:
    """One layout folder of a release, as an engine opens it; ``folder`` is empty for the repository's root."""

    folder: str
    layout: str
    subject: ExaminedHead
    target: TargetFacts | None
    head: Head = field(repr=False, compare=False)

    @property
    def place(self) -> str:
        """The folder in words."""
        where = f"the folder {self.folder}/" if self.folder else "the repository's root"
        return f"{where} ({vocabulary.layout(self.layout).title} layout)"


@dataclass(frozen=True, slots=True)
class Prospect:
    """What one engine version does with one folder.

    Attributes:
        kind: the preflight's verdict, or ``unchecked`` if nothing is known about that version.
        title: the engine with its version. why: what the engine does wrong, with the engine as subject; empty if
            nothing.
        condition: what must be true of the training if the verdict is ``depends``, such as ``trained on layers 2, 40,
            77``; else empty.
        warning: a sentence that says as which version it is judged, if its own is not known; else empty.
        but: a sentence on what another runner of the same version does with the same files, or empty.
    """

    kind: Kind
    title: str
    why: str = ""
    but: str = ""
    condition: str = ""
    warning: str = ""

    @property
    def works(self) -> bool:
        """Whether the engine may load these files correctly, as far as is known."""
        return self.kind in ("right", "depends", "unknown", "unchecked")

    @property
    def does_to_them(self) -> str:
        """What the engine does with the files, and why, without naming either."""
        return f"{_DOES[self.kind].format('them')}: it {self.why}"

    def says(self, place: str) -> str:
        """Say what the engine does wrong with the files in a place, and why."""
        return f"{self.title} {_DOES[self.kind].format(f'the files in {place}')}: it {self.why}"


def served(layouts: Layouts, heads: Mapping[str, Head], draft_tokens: int | None = None) -> tuple[Served, ...]:
    """Open the folders of a release as an engine would, the root first; folders that cannot be checked are left out.

    Each folder's target is the one in its eagle3hub.json, so anybody who has the folders gets the same result.

    Args:
        heads: opened heads by folder in the repository (the root is an empty string). If a layout is not among them,
            or its folder holds another layout, it is checked as eagle3hub would write it from the head in the root.
        draft_tokens: K to recommend if a layout must name one.
    """
    found = []
    for layout in layouts:
        folder = layouts.folder(layout)
        head = heads.get(folder)
        if head is not None and head.layout == layout:
            one = _read(folder, head)
        else:
            root = heads.get("")
            one = None if root is None else _in_layout(_read(folder, root), layout, draft_tokens)
        found += [one] if one is not None else []
    return tuple(found)


def _read(folder: str, head: Head) -> Served | None:
    """Read a head's folder; None for a head that was not read from files."""
    if head.opened is None:
        return None
    return Served(folder, head.layout, examine(head.opened, head), target_of(head), head)


def _in_layout(one: Served | None, layout: str, draft_tokens: int | None) -> Served | None:
    """Return the same head as eagle3hub would write it in another layout; None if it cannot be written."""
    if one is None or layout not in LAYOUTS:
        return None
    try:
        written = LAYOUTS[layout].write(one.head, WriteOptions(draft_tokens or one.head.speculative_tokens))
    except InputError:
        return None
    files = HeadFiles(
        config=json.loads(json.dumps(written.config)),
        tensors={t.name: (t.dtype, tuple(t.shape)) for t in written.tensors},
        weights=("model.safetensors",),
        quant_file=json_object(written.side_files[QUANT_CONFIG]) if QUANT_CONFIG in written.side_files else None,
    )
    return replace(one, layout=layout, subject=replace(one.subject, files=files))


def open_folders(root: Path, folders: Sequence[str]) -> tuple[Served, ...]:
    """Open the folders below ``root`` that hold a head, each as it is; unreadable ones are left out."""
    found = []
    for folder in folders:
        try:
            one = _read(folder, open_head(open_checkpoint(root / folder)))
        except InputError:
            continue
        found += [one] if one is not None else []
    return tuple(found)


def target_of(head: Head) -> TargetFacts | None:
    """Return what a head's files say about its target; None if they do not give the target's depth."""
    known = known_target(head)
    return None if known is None else replace(known, name="the target")


def prospect(
    one: Served,
    engine: str,
    version: str,
    device: str | None = None,
    capture: Sequence[int] | None = None,
    tensor_parallel: int = 1,
) -> Prospect:
    """Predict what an engine version does with a folder.

    Args:
        device: where it runs. If it is None, or its runner is not known, the best of the engine's runners counts, and
            ``but`` says what the others do.
        capture: after-layer ids in TensorRT-LLM's YAML.
        tensor_parallel: the number of devices that the draft is split over.
    """
    title = f"{vocabulary.engine(engine)} {version}".strip()
    told = tuple(capture) if capture is not None and engine == "trtllm" else None
    try:
        verdicts = [
            preflight(one.subject, engine, v, one.target, told, tensor_parallel=tensor_parallel).with_settings(
                [PARALLEL_DRAFTING]
            )
            for v in _runners(engine, version, device)
        ]
    except UsageError:
        return Prospect("unchecked", title)
    best = min(verdicts, key=lambda v: EFFECTS.index(v.kind))
    others = [v for v in verdicts if v.kind != best.kind and v.kind in _DOES]
    but = "; ".join(f"{v.title} {_DOES[v.kind].format('them')}: it {_why(v)}" for v in others)
    if best.warning:
        title = f"{title} (judged as {best.version.partition(' ')[0]})"
    return Prospect(
        best.kind, title, _why(best), but, best.condition if best.kind == "depends" else "", best.warning or ""
    )


def captured(text: str) -> tuple[int, ...] | None:
    """Return the after-layer ids in a YAML for TensorRT-LLM; None if it has none, or is not valid."""
    import yaml

    try:
        document = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return None
    config = document.get("speculative_config") if isinstance(document, dict) else None
    listed = config.get(AUX_CAPTURE) if isinstance(config, dict) else None
    return tuple(listed) if isinstance(listed, list) and listed and all(type(i) is int for i in listed) else None


def _runners(engine: str, version: str, device: str | None) -> Iterator[str]:
    """Yield the preflight's names of a version, one for each runner.

    Raises UsageError for a version that nothing is known about.
    """
    runners = version_data(engine, version).runners
    if device in runners or not runners:
        yield preflight_version(engine, version, device or "")
    else:
        yield from (preflight_version(engine, version, one) for one in runners)


def _why(verdict: PreflightVerdict) -> str:
    told = [reason.sentence for reason in verdict.reasons if reason.effect == verdict.kind not in ("right", "depends")]
    more = f" (and {len(told) - 2} more)" if len(told) > 2 else ""
    return f"{'; it '.join(told[:2])}{more}"


def layout_that_works(
    one: Served, engine: str, version: str, capture: Sequence[int] | None = None, tensor_parallel: int = 1
) -> str | None:
    """Return a layout in which this engine version reads the head correctly, or None.

    Each layout is written in memory and checked. What the head's training leaves open is open in every layout.
    """
    for name in by_readers():
        other = None if name == one.layout else _in_layout(one, name, _SOME)
        if other is None:
            continue
        if prospect(other, engine, version, None, capture, tensor_parallel).kind in ("right", "depends"):
            return name
    return None


def fewer_devices(tensor_parallel: int) -> str:
    """Say what to do where an engine only cannot split a draft over so many devices."""
    return f"Split the draft over fewer than {tensor_parallel} devices: a number that divides its sizes, or 1."


def _remedy(one: Served, engine: str, version: str, capture: Sequence[int] | None, tensor_parallel: int) -> str:
    """Return a sentence that says which layout, or how many devices, would work."""
    if tensor_parallel > 1 and prospect(one, engine, version, None, capture).works:
        return fewer_devices(tensor_parallel)
    out = layout_that_works(one, engine, version, capture, tensor_parallel)
    if out is not None:
        title = vocabulary.layout(out).title
        return f"It takes this head in the {title} layout, which eagle3hub convert --to {out} makes of them."
    if one.target is None and engine in LAYOUTS[_UNIVERSAL].contract.engines:
        return f"The universal layout is written for it: eagle3hub convert --to {_UNIVERSAL} --target TARGET makes it."
    return "It takes this head in no layout that eagle3hub writes."


@dataclass(frozen=True, slots=True)
class Choice:
    """The folder to serve an engine from, and remarks about it.

    ``folder`` is None if no folder works; ``remarks`` are whole sentences.
    """

    folder: Served | None
    remarks: tuple[str, ...]


def choose(
    folders: Sequence[Served],
    engine: str,
    version: str,
    capture: Sequence[int] | None = None,
    *,
    tensor_parallel: int = 1,
    settled: bool = False,
) -> Choice | None:
    """Return the first folder that an engine version reads correctly, the root first; None without folders.

    ``tensor_parallel``: devices of the command. ``settled``: whether a measurement that passed has shown that what the
    files leave open is as assumed.
    """
    if not folders:
        return None
    looked = [(one, prospect(one, engine, version, None, capture, tensor_parallel)) for one in folders]
    if settled:
        looked = [(one, replace(p, kind="right") if p.kind == "depends" else p) for one, p in looked]
    first, main = looked[0]
    if main.works:
        return Choice(first, tuple(_expected(main)))
    what = f"{main.says(first.place)}."
    for one, found in looked[1:]:
        if found.works:
            title = vocabulary.layout(one.layout).title
            instead = f"The command below fetches and serves the {title} layout of this repository instead."
            return Choice(one, (what, instead, *_expected(found, "its files")))
    if len(looked) > 1:
        what += " It gets none of the other layouts of this repository right either."
    remedy = _remedy(first, engine, version, capture, tensor_parallel)
    return Choice(None, (f"No command is printed: {what}", remedy))


def _expected(found: Prospect, files: str = "these files") -> Iterator[str]:
    if found.kind == "right":
        yield f"By the preflight, which reads files and runs no engine, {found.title} takes {files} as they are."
    elif found.kind == "depends":
        yield (
            f"By the preflight, which reads files and runs no engine, {found.title} gets {files} right if the "
            f"head was {found.condition}, which they do not say."
        )
    elif found.kind == "unknown":
        yield (
            "The preflight, which reads files and runs no engine, cannot tell whether "
            f"{found.title} gets {files} right: it {found.why}."
        )
    else:
        yield f"Not checked: nothing is known of how {found.title} reads files."
    if found.but:
        yield f"But {found.but}."
