"""Inspect a head: what it is, what is wrong with it, and what each engine will do with its files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from eagle3hub.checkpoint.folder import open_checkpoint
from eagle3hub.checkpoint.safetensors import TensorRef
from eagle3hub.engines import ENGINES
from eagle3hub.engines.preflight import (
    TOLD_BY_RECIPES,
    ExaminedHead,
    PreflightVerdict,
    Probed,
    Reason,
    examine,
    pinned_contracts,
    preflight,
    preflight_all,
    target_embeddings,
    told_layers,
)
from eagle3hub.engines.specs import engine_title
from eagle3hub.errors import Problem
from eagle3hub.head import Assumption, Head
from eagle3hub.head.target import TargetFacts, read_target
from eagle3hub.layouts import open_head
from eagle3hub.layouts.base import AS_FOUND, ReadOptions, aux_count
from eagle3hub.layouts.torchspec import FOREIGN, NOT_FOREIGN, TO_COMPARE, UNSURE
from eagle3hub.system.html import Cell, panel, rows
from eagle3hub.system.progress import Progress, silent
from eagle3hub.system.text import listed, readable_count


@dataclass(frozen=True, slots=True)
class InspectOptions:
    """How to inspect a head.

    Attributes:
        layout: its layout, to skip detection.
        target: target model (facts, a folder, or an address on the Hub) that the head must fit.
        read: what the user states about the source.
        versions: by engine, the version to judge, in place of the pinned one and its neighbours.
        probed: what probes of the user's own builds found; each takes the place of its engine's versions.
    """

    layout: str | None = None
    target: TargetFacts | str | Path | None = None
    read: ReadOptions = AS_FOUND
    versions: Mapping[str, str] = field(default_factory=dict)
    probed: Sequence[Probed] = ()


@dataclass(frozen=True, slots=True)
class Inspection:
    """A head, and what engines will do with its files.

    Attributes:
        head: the head. tensors: the tensors in its files, by their names in the files.
        engines: the verdict of each engine's preflight.
    """

    head: Head
    tensors: Mapping[str, TensorRef]
    engines: Sequence[PreflightVerdict]

    @property
    def problems(self) -> Sequence[Problem]:
        """What is wrong with the head; after a problem of severity ``error``, every other command refuses the head."""
        return self.head.problems

    @property
    def assumptions(self) -> Sequence[Assumption]:
        """Facts that the head depends on but its files do not state."""
        return self.head.assumptions

    @property
    def sound(self) -> bool:
        """Whether no problem is an error."""
        return not any(problem.severity == "error" for problem in self.problems)

    def to_json(self) -> dict[str, Any]:
        """Return the document ``inspect --json`` prints."""
        return describe(self.head, self.tensors, self.engines)

    def _repr_html_(self) -> str:
        head = self.head
        engines = [(v.title, Cell(v.words, v.kind), _why(v)) for v in self.engines]
        problems = [(Cell(p.severity, p.severity), p.message, p.hint or "") for p in self.problems]
        assumed = [(a.said, a.why) for a in self.assumptions]
        facts = [("layout", head.layout), ("parameters", readable_count(head.num_parameters)), ("dtype", head.dtype)]
        return panel(
            str(head.source),
            rows(facts),
            rows(engines, ("engine", "these files", "why")),
            rows(problems, ("problem", "what", "hint")),
            rows(assumed, ("assumed", "why")),
        )


DEFAULTS = InspectOptions()


def inspect(source: str | Path, options: InspectOptions = DEFAULTS, *, progress: Progress = silent) -> Inspection:
    """Inspect the head at ``source`` (`parse_address`); its weights are neither read nor downloaded from the Hub.

    Raises SourceError, ConfigError, CheckpointError or LayoutError for a head that cannot be read, UsageError for
    options that contradict each other or the target, and HubError. Faults of a readable head are in
    `Inspection.problems`.
    """
    checkpoint = open_checkpoint(source, headers_only=True, progress=progress)
    target = options.target
    facts = target if isinstance(target, TargetFacts | None) else read_target(target)
    head = open_head(checkpoint, layout=options.layout, target=facts, options=options.read)
    folder = None if isinstance(target, TargetFacts | None) else str(target)
    theirs = target_embeddings(head, folder)
    subject = examine(checkpoint, head, theirs)
    engines = preflight_all(subject, facts, options.versions, options.probed)
    if subject.truth.embedding == "foreign":
        head.problems.append(Problem("warning", "tensor-embeddings-foreign", FOREIGN, NOT_FOREIGN))
    elif head.copied_embeddings == "unsure" and theirs is None:
        head.problems.append(Problem("info", "tensor-embeddings-unsure", UNSURE, TO_COMPARE))
    wrong = {v.title: v for v in _not_as_made(subject, head, facts)}
    head.problems += [_made_for(verdict) for verdict in wrong.values()]
    engines = [v if not wrong or v.title in wrong else _spared(v, list(wrong)) for v in engines]
    head.problems += _served_by_none(head, facts, engines)
    return Inspection(head, checkpoint.tensors, engines)


def _not_as_made(subject: ExaminedHead, head: Head, target: TargetFacts | None) -> Iterator[PreflightVerdict]:
    """Yield the verdict of each engine that the folder was made for and that would not get it right."""
    for engine in (engine for engine in head.made_for if engine in ENGINES):
        for terms in pinned_contracts(engine):
            verdict = preflight(subject, engine, terms.version, target, told_layers(head, engine)).on_files
            if verdict.kind in ("silently_wrong", "refuses"):
                yield verdict


def _made_for(verdict: PreflightVerdict) -> Problem:
    return Problem(
        "error",
        "engine-made-for",
        f"eagle3hub.json says that this folder is made for {verdict.title}, which {verdict.reasons[0].sentence}",
        "convert the head again, and name the target with --target",
    )


def _spared(verdict: PreflightVerdict, wrong: Sequence[str]) -> PreflightVerdict:
    """The verdict of an engine that an error about other engines does not concern, which it says if it is right."""
    if verdict.kind not in ("right", "depends"):
        return verdict
    says = f"is not concerned by an error of the head (engine-made-for): that is about {' and '.join(wrong)}"
    reason = Reason("head-error-elsewhere", "right", says, "eagle3hub.json", None)
    return replace(verdict, reasons=(*verdict.reasons, reason))


def _served_by_none(head: Head, target: TargetFacts | None, verdicts: Sequence[PreflightVerdict]) -> list[Problem]:
    """Say it if no engine serves the target, or none serves the files as they are; and what would help."""
    told = [verdict.with_settings(TOLD_BY_RECIPES) for verdict in verdicts]
    if target is not None and (message := _target_of_none(target, verdicts)) is not None:
        return [Problem("info", "target-no-engine", message, _way(head, target, told))]
    if any(verdict.kind not in ("silently_wrong", "refuses") for verdict in told):
        return []
    message = "no engine known here gets these files right as they are"
    if not head.semantics.joins_embedding:
        message += (
            ": each builds hidden_norm, and q/k/v over the token's embedding and the target's state together, for a "
            "head without aux layers too, and this head has neither"
        )
    return [Problem("info", "head-no-engine", message, _way(head, target, told))]


_CANNOT_DRAFT = ("target-type", "target-newer", "no-eagle3")
"""Codes of the reasons of an engine that drafts for no such target, whatever the head is."""


def _target_of_none(target: TargetFacts, verdicts: Sequence[PreflightVerdict]) -> str | None:
    """A sentence about a target that no engine is known to draft for; None if one does."""
    cannot: dict[str, None] = {}
    unchecked: dict[str, None] = {}
    for verdict in verdicts:
        codes = {reason.code for reason in verdict.reasons}
        if "target-unchecked" in codes:
            unchecked[engine_title(verdict.engine)] = None
        elif codes.intersection(_CANNOT_DRAFT):
            cannot[engine_title(verdict.engine)] = None
        else:
            return None
    who = [title for title in cannot if title not in unchecked]
    kind = f"targets of type {target.model_type}"
    if not unchecked:
        return f"no engine known here drafts for {kind}, in whichever layout the head is"
    none = f"no engine is known to draft for {kind}: "
    return none + (f"{listed(who)} cannot, and " if who else "") + f"nobody checked {listed(list(unchecked))}"


def _way(head: Head, target: TargetFacts | None, verdicts: Sequence[PreflightVerdict]) -> str | None:
    """The conversion that more engines serve than serve the files as they are, as a hint.

    None where an error of the head comes first, or where the files are as good as any conversion of them.
    """
    if any(problem.severity == "error" for problem in head.problems):
        return None
    from eagle3hub.conversion.plan import served_ways  # only for a head that needs it

    may = {verdict.engine for verdict in verdicts if verdict.kind == "unknown"}
    ways = [way for way in served_ways(head, target) if way.right or not may.issuperset(way.may)]
    if not ways:
        alone = "eagle3hub validate computes the head without an engine"
        return alone if may else f"no conversion of this version would change that; {alone}"
    best = ways[0]
    right, others = (listed([engine_title(engine) for engine in engines]) for engines in (best.right, best.may))
    serves = f"{right} {'get' if len(best.right) > 1 else 'gets'} right" if right else f"{others} may serve"
    doubts = ["they draft for the target"] * (target is None) + ["what is assumed holds"] * any(
        assumption.doubtful for assumption in head.assumptions
    )
    provided = f", if {listed(doubts)}" if doubts else ""
    return f"run eagle3hub convert {best.how}: it makes a folder that {serves}{provided}"


def _why(verdict: PreflightVerdict) -> str:
    assumed = [a.why for a in verdict.depends] if verdict.kind == "depends" else []
    return "; ".join([*assumed, *(r.sentence for r in verdict.reasons if r.effect == verdict.kind)])


def describe(head: Head, on_disk: Mapping[str, TensorRef], engines: Sequence[PreflightVerdict] = ()) -> dict[str, Any]:
    """Return everything a head states, and what engines will do with it, as data for JSON.

    ``on_disk`` holds the tensors in its files, by their names in the files; the vocabulary buffers come from it.
    """
    buffers = {name: on_disk[head.other_names.get(name, name)] for name in head.buffers}
    vocab = head.vocab_map
    aux = head.aux if head.aux is not None and head.aux.numbered else None
    return {
        "source": head.source,
        "layout": head.layout,
        "parameters": head.num_parameters,
        "dtype": head.dtype,
        "dims": head.dims.to_json(),
        "semantics": head.semantics_to_json(),
        "aux": {
            "count": aux_count(head),
            "after_layer": None if aux is None else aux.after_layer,
            "boundary": None if aux is None else aux.boundary,
            "origin": None if head.aux is None else head.aux.origin,
            **({"final_norm": True} if head.aux is not None and not head.aux.numbered else {}),
            **({"fc_order": list(head.fc_order)} if head.fc_order is not None else {}),
        },
        "vocab_map": {
            "status": head.vocab_status,
            "sorted": None if vocab is None else vocab.is_sorted,
            "spelling": None if vocab is None else vocab.stored_as,
            "draft_vocab_size": head.dims.draft_vocab_size,
            "vocab_size": head.dims.vocab_size,
            "buffers": head.buffers,
        },
        "max_position_embeddings": head.max_position_embeddings,
        "target": {
            "name": head.target_name,
            "architectures": head.target_architectures,
            "model_type": head.target_model_type,
            "num_hidden_layers": head.num_target_layers,
        },
        "speculative_tokens": head.speculative_tokens,
        "mask_token_id": head.mask_token_id,
        "tensors": [
            {"name": ref.name, "canonical": name, "dtype": ref.dtype, "shape": list(ref.shape), "bytes": ref.nbytes}
            for name, ref in sorted((buffers | head.tensors).items())
        ],
        "engines": [verdict.to_json() for verdict in engines],
        "assumptions": [a.to_json() for a in head.assumptions],
        "problems": [p.to_json() for p in head.problems],
    }
