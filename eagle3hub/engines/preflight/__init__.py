"""Predict what each inference engine will do with a head's files, without running the engine.

`examine` reads a folder, `preflight` checks it against the contract of one engine version, and `preflight_all` against
the contracts of every engine's pinned and neighbouring versions. The contracts are data, in ``engines/data``; each
rule names the place in the engine's source that it comes from.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from eagle3hub.engines.preflight.case import PreflightCase, PreflightFinding
from eagle3hub.engines.preflight.contracts import (
    Effect,
    EngineContract,
    PreflightVerdict,
    Reason,
    contract,
    contracts,
    current_contracts,
    weigh,
)
from eagle3hub.engines.preflight.files import (
    ExaminedHead,
    HeadFiles,
    Truth,
    examine,
    examine_written,
    infer_truth,
    target_embeddings,
)
from eagle3hub.engines.preflight.rules import (
    configuration_findings,
    tensor_findings,
    unserved_findings,
    wiring_findings,
)
from eagle3hub.engines.specs import engine_data
from eagle3hub.head.target import TargetFacts

__all__ = [
    "Effect",
    "EngineContract",
    "ExaminedHead",
    "HeadFiles",
    "PreflightFinding",
    "PreflightVerdict",
    "Reason",
    "Truth",
    "contract",
    "contracts",
    "current_contracts",
    "engines_serving",
    "examine",
    "examine_written",
    "infer_truth",
    "pinned_contracts",
    "preflight",
    "preflight_all",
    "preflight_findings",
    "target_embeddings",
    "weigh",
]


def preflight(
    subject: ExaminedHead,
    engine: str,
    version: str,
    target: TargetFacts | None = None,
    capture: Sequence[int] | None = None,
    tensor_parallel: int = 1,
) -> PreflightVerdict:
    """Predict what ``version`` of ``engine`` will do with the files of ``subject``.

    Without ``target``, the verdict is ``unknown`` if it depends on the target. ``capture`` holds the after-layer ids
    that TensorRT-LLM's YAML names (``eagle3_layers_to_capture``); no other engine takes them. ``tensor_parallel`` is
    the number of devices that target and draft are split over. Raises UsageError for an engine or a version without a
    contract.
    """
    told = None if capture is None else tuple(capture)
    return _judge(subject, contract(engine, version), target, told, tensor_parallel)


def preflight_all(subject: ExaminedHead, target: TargetFacts | None = None) -> list[PreflightVerdict]:
    """Run `preflight` for every engine's pinned and neighbouring versions, in the order of display."""
    return [_judge(subject, c, target) for c in current_contracts()]


def pinned_contracts(engine: str) -> list[EngineContract]:
    """Return the contracts of an engine's pinned version, one for each of its runners."""
    pinned = engine_data(engine).pinned
    return [c for c in contracts() if c.engine == engine and c.version.partition(" ")[0] == pinned]


def engines_serving(engines: Iterable[str], target: TargetFacts | None) -> dict[str, str | None]:
    """Say for each engine, in its pinned version, why it cannot draft for a target at all; None if it may.

    Without ``target``, an engine is left out only if it drafts for no target. If one runner of a version can serve the
    target, the engine can.
    """
    found: dict[str, str | None] = {}
    for engine in engines:
        reasons = [_unserved(terms, target) for terms in pinned_contracts(engine)]
        found[engine] = next(iter(reasons), None) if all(reasons) else None
    return found


def _unserved(terms: EngineContract, target: TargetFacts | None) -> str | None:
    for finding in unserved_findings(terms, target):
        rule = terms.rules.get(finding.code)
        if rule is not None and rule.effect == "refuses":
            return rule.reason(finding.code, finding.facts).sentence
    return None


def preflight_findings(case: PreflightCase) -> Iterator[PreflightFinding]:
    """Yield everything about a case that may matter to an engine; the contract decides what does matter."""
    yield from configuration_findings(case)
    yield from tensor_findings(case)
    yield from wiring_findings(case)


def _judge(
    subject: ExaminedHead,
    terms: EngineContract,
    target: TargetFacts | None,
    capture: tuple[int, ...] | None = None,
    tensor_parallel: int = 1,
) -> PreflightVerdict:
    acting = terms
    if subject.truth.parallel_drafting and terms.parallel_drafting_by is not None:
        acting = contract(terms.engine, terms.parallel_drafting_by)
    reasons = []
    case = PreflightCase(subject.files, subject.truth, acting, target, capture, tensor_parallel)
    for found in preflight_findings(case):
        rule = acting.rules.get(found.code)
        if rule is not None:
            reasons.append(rule.reason(found.code, found.facts))
    return weigh(terms.engine, terms.version, terms.title, reasons)
