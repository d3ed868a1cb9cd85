"""The registry of layouts, detection, and opening a head in whatever layout it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from eagle3hub.checkpoint.folder import Checkpoint, open_checkpoint
from eagle3hub.errors import LayoutError, Problem, UsageError
from eagle3hub.head import Assumption, AuxTaps, Head
from eagle3hub.layouts import provenance
from eagle3hub.layouts.base import Layout, Match
from eagle3hub.layouts.interpret import AUX_IDS
from eagle3hub.layouts.modelopt import ModelOpt
from eagle3hub.layouts.recognised import refuse_recognised
from eagle3hub.layouts.specforge import SpecForge
from eagle3hub.layouts.specjax import SpecJax
from eagle3hub.layouts.speculators import Speculators
from eagle3hub.target import TargetFacts, read_target

LAYOUTS: Mapping[str, Layout] = {layout.name: layout for layout in (SpecJax(), SpecForge(), ModelOpt(), Speculators())}


def get_layout(name: str) -> Layout:
    """The codec called ``name``. Raises UsageError listing the names there are."""
    if name not in LAYOUTS:
        raise UsageError(
            f"there is no layout called {name}", hint=f"choose one of {', '.join(LAYOUTS)}", code="usage-layout"
        )
    return LAYOUTS[name]


def detect(checkpoint: Checkpoint) -> tuple[Layout, Match]:
    """The layout a folder is in. Raises LayoutError where none fits or two fit equally well."""
    written_as = provenance.written_layout(checkpoint)
    if written_as is not None and written_as in LAYOUTS:
        return LAYOUTS[written_as], Match(1.0, ("eagle3hub.json says so and matches the files",))
    refuse_recognised(checkpoint)
    matches = [(layout, m) for layout in LAYOUTS.values() if (m := layout.detect(checkpoint)) is not None]
    matches.sort(key=lambda pair: -pair[1].score)
    if not matches:
        raise LayoutError(
            f"{checkpoint.source} is in no layout this version knows (its tensors: {_some(checkpoint)})",
            hint=f"if you know which it is, name it with --from {'|'.join(LAYOUTS)}",
            code="layout-unknown",
        )
    if len(matches) > 1 and matches[0][1].score == matches[1][1].score:
        names = [layout.name for layout, m in matches if m.score == matches[0][1].score]
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
) -> Head:
    """Open the draft head in a folder or a Hub repository.

    Args:
        source: the folder, ``hf://owner/name[@revision][/subfolder]``, or what `open_checkpoint` opened.
        layout: its layout, where detection shall not decide.
        target: the target model (facts, folder or Hub id), to check the fit and to settle what the source leaves open.
        target_name: the Hub id to record for a target given as a folder.

    Returns a `Head` whose ``problems`` may hold errors (a wrong vocabulary map, a target that does not fit): call
    `Head.raise_for_errors` before relying on it.
    Raises InputError where the source cannot be read, UsageError for an unknown layout.
    """
    codec = None if layout is None else get_layout(layout)
    checkpoint = source if isinstance(source, Checkpoint) else open_checkpoint(source)
    head = (codec or detect(checkpoint)[0]).read(checkpoint)
    provenance.restore(head, checkpoint)
    if target is not None:
        facts = target if isinstance(target, TargetFacts) else read_target(target, target_name)
        _apply_target(head, facts)
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


def _apply_target(head: Head, target: TargetFacts) -> None:
    """Check that head and target fit, and fill in what only the target knows."""
    for what, of_head, of_target in (
        ("hidden size", head.dims.target_hidden_size, target.hidden_size),
        ("vocabulary", head.dims.vocab_size, target.vocab_size),
    ):
        if of_head != of_target:
            message = f"the head was made for a target with {what} {of_head}, but {target.name} has {of_target}"
            head.problems.append(
                Problem("error", "target-mismatch", message, "name the target the head was trained for")
            )
            return
    if head.aux is None:
        head.assumptions = [a for a in head.assumptions if a.field != "aux"]
        head.aux = _trainer_default(head, target)
    elif head.aux is not None and max(head.aux.boundary) > target.num_hidden_layers:
        message = (
            f"the head taps layer {max(head.aux.after_layer)}, but {target.name} has {target.num_hidden_layers} layers"
        )
        head.problems.append(Problem("error", "target-mismatch", message, "name the target the head was trained for"))
    if head.max_position_embeddings is None:
        head.max_position_embeddings = target.max_position_embeddings
    head.token_ids = {**target.token_ids, **head.token_ids}
    head.target_name = target.name if not target.is_local or head.target_name is None else head.target_name
    head.target_architectures = list(target.architectures) or head.target_architectures


def _trainer_default(head: Head, target: TargetFacts) -> AuxTaps:
    """The aux layers a trainer takes where nothing is recorded; SpecJAX alone leaves no choice."""
    n = target.num_hidden_layers
    if head.layout == "specjax" and target.model_type == "qwen3_next":
        why = "SpecJAX taps (3, L//2-1, L-1) for qwen3_next unless told otherwise, and records nothing"
        taps = AuxTaps.from_after_layer([3, n // 2 - 1, n - 1], "default")
    else:
        why = "the source names no aux layers: the trainer's default is taken, but a run may have set others"
        taps = AuxTaps.default_for(n)
        if head.layout == "specjax" and not head.carried:
            return taps
    settle = f"check the training command, and write {AUX_IDS} into config.json"
    head.assumptions.append(Assumption("aux", taps.after_layer, why, settle))
    return taps


def _some(checkpoint: Checkpoint) -> str:
    names = sorted(checkpoint.tensors)
    return ", ".join(names[:3]) + (" …" if len(names) > 3 else "") if names else "none"
