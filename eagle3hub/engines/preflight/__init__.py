"""What each inference engine will do with a head's files as they are, decided without running it.

`examine` looks at a folder, `preflight` holds it against the contract of one engine version, `preflight_all` against
those of every engine's pinned version and its neighbours. The contracts are data, in ``engines/data``; each rule names
the place in the engine's source that it was read from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from eagle3hub.engines.preflight.case import Case, Finding
from eagle3hub.engines.preflight.contracts import (
    Contract,
    Effect,
    Reason,
    Verdict,
    contract,
    contracts,
    current_contracts,
    weigh,
)
from eagle3hub.engines.preflight.files import Files, Subject, Truth, examine, infer_truth, target_embeddings
from eagle3hub.engines.preflight.rules import configuration_findings, tensor_findings, wiring_findings
from eagle3hub.head.target import TargetFacts

__all__ = [
    "Contract",
    "Effect",
    "Files",
    "Finding",
    "Reason",
    "Subject",
    "Truth",
    "Verdict",
    "contract",
    "contracts",
    "current_contracts",
    "examine",
    "findings",
    "infer_truth",
    "preflight",
    "preflight_all",
    "target_embeddings",
    "weigh",
]


def preflight(
    subject: Subject,
    engine: str,
    version: str,
    target: TargetFacts | None = None,
    capture: Sequence[int] | None = None,
) -> Verdict:
    """What ``engine`` of ``version`` will do with the files of ``subject``.

    Without ``target``, what depends on it makes the verdict ``unknown``. ``capture`` are the after-layer ids that
    TensorRT-LLM's YAML names (``eagle3_layers_to_capture``), which no other engine is told. Raises UsageError for an
    engine or a version that no contract describes.
    """
    return _judge(subject, contract(engine, version), target, None if capture is None else tuple(capture))


def preflight_all(subject: Subject, target: TargetFacts | None = None) -> list[Verdict]:
    """`preflight` for every engine's pinned version and those beside it, in the order they are shown in."""
    return [_judge(subject, c, target) for c in current_contracts()]


def findings(case: Case) -> Iterator[Finding]:
    """Everything about a case that may matter to an engine; its contract says to which it does."""
    yield from configuration_findings(case)
    yield from tensor_findings(case)
    yield from wiring_findings(case)


def _judge(
    subject: Subject, terms: Contract, target: TargetFacts | None, capture: tuple[int, ...] | None = None
) -> Verdict:
    acting = terms
    if subject.truth.parallel_drafting and terms.parallel_drafting_by is not None:
        acting = contract(terms.engine, terms.parallel_drafting_by)
    reasons = []
    for found in findings(Case(subject.files, subject.truth, acting, target, capture)):
        rule = acting.rules.get(found.code)
        if rule is not None:
            reasons.append(rule.reason(found.code, found.facts))
    return weigh(terms.engine, terms.version, terms.title, reasons)
