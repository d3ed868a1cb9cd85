"""The registry of layouts, detection, and opening a head in whatever layout it is."""

from __future__ import annotations

from pathlib import Path

from eagle3hub.checkpoint.folder import Checkpoint, open_checkpoint
from eagle3hub.errors import LayoutError, Problem, UsageError
from eagle3hub.head import Assumption, Head
from eagle3hub.layouts import provenance
from eagle3hub.layouts.angelslim import AngelSlim
from eagle3hub.layouts.base import AS_FOUND, LAYOUTS, Layout, Match, ReadOptions
from eagle3hub.layouts.fitting import apply_depth, apply_target
from eagle3hub.layouts.interpret import settled_by
from eagle3hub.layouts.modelopt import ModelOpt
from eagle3hub.layouts.prepare import prepared
from eagle3hub.layouts.recognised import refuse_recognised
from eagle3hub.layouts.safeailab import SafeAILab
from eagle3hub.layouts.specforge import SpecForge
from eagle3hub.layouts.specjax import SpecJax
from eagle3hub.layouts.speculators import Speculators
from eagle3hub.layouts.universal import Universal
from eagle3hub.target import TargetFacts, read_target

__all__ = ["LAYOUTS", "ReadOptions", "detect", "get_layout", "open_head"]

for _layout in (SpecJax(), SpecForge(), ModelOpt(), Speculators(), SafeAILab(), AngelSlim(), Universal()):
    LAYOUTS[_layout.name] = _layout


def get_layout(name: str) -> Layout:
    """The codec called ``name``. Raises UsageError listing the names there are."""
    if name not in LAYOUTS:
        raise UsageError(
            f"there is no layout called {name}",
            hint=f"choose one of {', '.join(LAYOUTS)}; vLLM, SGLang and TensorRT-LLM all serve universal",
            code="usage-layout",
        )
    return LAYOUTS[name]


def detect(checkpoint: Checkpoint) -> tuple[Layout, Match]:
    """The layout a folder is in. Raises LayoutError where none fits or two fit equally well."""
    written_as = provenance.written_layout(checkpoint)
    if written_as is not None and written_as in LAYOUTS:
        return LAYOUTS[written_as], Match(1.0, ("eagle3hub.json says so and matches the files",))
    refuse_recognised(checkpoint)
    matches = [(layout, m) for layout in LAYOUTS.values() if (m := layout.detect(checkpoint)) is not None]
    matches.sort(key=lambda pair: pair[1].rank, reverse=True)
    if not matches:
        raise LayoutError(
            f"{checkpoint.source} is in no layout this version knows (its tensors: {_some(checkpoint)})",
            hint=f"if you know which it is, name it with --from {'|'.join(LAYOUTS)}",
            code="layout-unknown",
        )
    if len(matches) > 1 and matches[0][1].rank == matches[1][1].rank:
        names = [layout.name for layout, m in matches if m.rank == matches[0][1].rank]
        raise LayoutError(
            f"{checkpoint.source} could be {' or '.join(names)}: its files do not decide it",
            hint=f"name the trainer's layout with --from {'|'.join(names)}",
            code="layout-ambiguous",
        )
    return matches[0]


def open_head(
    source: str | Path | Checkpoint,
    *,
    layout: str | None = None,
    target: TargetFacts | str | None = None,
    target_name: str | None = None,
    options: ReadOptions = AS_FOUND,
) -> Head:
    """Open the draft head in a folder or a Hub repository.

    Args:
        source: the folder, ``hf://owner/name[@revision][/subfolder]``, or what `open_checkpoint` opened.
        layout: its layout, where detection shall not decide.
        target: the target model (facts, folder or Hub id), to check the fit and to settle what the source leaves open.
        target_name: the Hub id to record for a target given as a folder, or not given.
        options: what the user says of the source.

    Returns a `Head` whose ``problems`` may hold errors (a wrong vocabulary map, a target that does not fit): call
    `Head.raise_for_errors` before relying on it.
    Raises InputError where the source cannot be read, UsageError for an unknown layout.
    """
    codec = None if layout is None else get_layout(layout)
    opened = source if isinstance(source, Checkpoint) else open_checkpoint(source)
    checkpoint = prepared(opened, options)
    if codec is None:
        codec = detect(checkpoint)[0]
    else:
        refuse_recognised(checkpoint)
    head = codec.read(checkpoint, options)
    head.opened = opened
    head.problems += checkpoint.problems
    provenance.restore(head, checkpoint)
    settled = settled_by(options)
    head.assumptions = [a for a in head.assumptions if a.field not in settled]
    head.target_name = target_name or head.target_name
    facts = target if isinstance(target, TargetFacts) or target is None else read_target(target, target_name)
    if facts is not None:
        if options.num_target_layers not in (None, facts.num_hidden_layers):
            raise UsageError(
                f"--num-target-layers {options.num_target_layers}: {facts.name} has {facts.num_hidden_layers} layers",
                hint="give one of the two",
            )
        apply_target(head, facts)
    elif options.num_target_layers is not None:
        apply_depth(head, options.num_target_layers)
    elif head.aux is None and all(a.field != "aux" for a in head.assumptions):
        why = "the source names no aux layers; engines then take their default, after layers (1, L//2-1, L-4)"
        head.assumptions.append(Assumption("aux", None, why, "give --target"))
    if head.max_position_embeddings is None:
        head.problems.append(
            Problem(
                "warning",
                "config-no-context",
                "the source states no max_position_embeddings: transformers assumes 2048, and SGLang refuses a draft "
                "with less context than its target",
                None if target is not None else "give --target: its context length is then written",
            )
        )
    return head


def _some(checkpoint: Checkpoint) -> str:
    names = sorted(checkpoint.tensors)
    return ", ".join(names[:3]) + (" …" if len(names) > 3 else "") if names else "none"
