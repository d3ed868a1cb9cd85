"""Predict what each inference engine will do with a head's files, without running the engine.

`examine` reads a folder, `preflight` checks it against the contract of one engine version, and `preflight_all` against
the contracts of every engine's pinned and neighbouring versions. The contracts are data, in ``engines/data``: what a
probe found, and what was read in the engine's source; each rule says which of both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from eagle3hub.engines import ENGINES
from eagle3hub.engines.preflight.case import PreflightCase, PreflightFinding
from eagle3hub.engines.preflight.contracts import (
    CONTRACT,
    DTYPE_APART,
    EFFECTS,
    Effect,
    EngineContract,
    PreflightVerdict,
    Reason,
    condition,
    contract,
    contracts,
    contracts_of,
    contracts_of_version,
    current_contracts,
    doubts,
    only_read,
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
from eagle3hub.engines.preflight.probed import Probed, read_probed
from eagle3hub.engines.preflight.rules import (
    configuration_findings,
    served_dtype,
    tensor_findings,
    unserved_findings,
    wiring_findings,
)
from eagle3hub.engines.specs import (
    PARALLEL_DRAFTING,
    engine_data,
    engine_title,
    known_version,
    version_data,
    versions_with,
)
from eagle3hub.errors import Problem, UsageError
from eagle3hub.head import Head
from eagle3hub.head.aux_defaults import AUX_CAPTURE, FINAL_STATE
from eagle3hub.head.target import TargetFacts

__all__ = [
    "DTYPE_APART",
    "DTYPE_TOLD",
    "EFFECTS",
    "TOLD_BY_RECIPES",
    "Effect",
    "EngineContract",
    "ExaminedHead",
    "HeadFiles",
    "PreflightFinding",
    "PreflightVerdict",
    "Probed",
    "Reason",
    "Truth",
    "condition",
    "contract",
    "contracts",
    "contracts_of",
    "current_contracts",
    "doubts",
    "engines_apart",
    "engines_serving",
    "engines_unchecked",
    "examine",
    "examine_written",
    "infer_truth",
    "judge",
    "only_read",
    "pinned_contracts",
    "preflight",
    "preflight_all",
    "preflight_findings",
    "read_probed",
    "runners_of",
    "served_dtype",
    "target_embeddings",
    "told_layers",
    "weigh",
]


DTYPE_TOLD = "serve both with --dtype"
"""What the hint says where an engine must be told one dtype for head and target."""
TOLD_BY_RECIPES = (PARALLEL_DRAFTING, AUX_CAPTURE, DTYPE_TOLD)
"""What a recipe tells an engine beside the files, so that these need not say it."""


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
    the number of devices that target and draft are split over. A version that is not known is judged as the one that
    `known_version` names, and the verdict says so. Raises UsageError for an engine without a contract.
    """
    told = None if capture is None else tuple(capture)
    verdict = judge(subject, contract(engine, version), target, told, tensor_parallel)
    return replace(verdict, warning=known_version(engine, version.partition(" ")[0], CONTRACT).warning)


def told_layers(head: Head, engine: str) -> tuple[int, ...] | None:
    """Return what an engine is told besides the files, as ``capture``: TensorRT-LLM's layers, if not the default."""
    if engine != "trtllm" or head.aux is None or head.has_default_aux:
        return None
    return tuple(head.aux.after_layer) if head.aux.numbered else FINAL_STATE


def preflight_all(
    subject: ExaminedHead,
    target: TargetFacts | None = None,
    versions: Mapping[str, str] | None = None,
    probed: Sequence[Probed] = (),
) -> list[PreflightVerdict]:
    """Run `preflight` for every engine's pinned and neighbouring versions, in the order of display.

    ``versions`` names, by engine, another version to judge in their place; ``probed`` are probes of builds to judge in
    the place of all that is known of their engines. Raises UsageError where an engine is in both.
    """
    own = {found.engine: found for found in probed}
    asked = versions or {}
    if both := own.keys() & asked.keys():
        engine = min(both)
        raise UsageError(
            f"--contract and --engine-version both say which {engine_title(engine)} to judge",
            hint="give one of them",
            code="usage-engine-version",
        )
    verdicts = [judge(subject, c, target) for c in current_contracts() if c.engine not in {*asked, *own}]
    for found in own.values():
        mine = contracts_of(found)
        said = f"{engine_title(found.engine)} {found.version} is judged by a probe of {found.date} on {found.device}"
        verdicts += [replace(judge(subject, c, target, among=mine), warning=said) for c in mine]
    for engine, version in asked.items():
        verdicts += [preflight(subject, engine, called, target) for called in runners_of(engine, version)]
    return sorted(verdicts, key=lambda verdict: ENGINES.index(verdict.engine))


def runners_of(engine: str, version: str) -> list[str]:
    """Return a version's name for each of its runners, such as ``0.19.0 V1``; see `known_version` for one not known.

    Raises UsageError for text that is no version.
    """
    known = known_version(engine, version, CONTRACT).version
    called = [c.version.partition(" ")[::2] for c in contracts() if c.engine == engine]
    return [f"{version} {runner}".strip() for number, runner in called if number == known]


def pinned_contracts(engine: str) -> list[EngineContract]:
    """Return the contracts of an engine's pinned version, one for each of its runners."""
    return list(contracts_of_version(engine, engine_data(engine).pinned))


def engines_serving(engines: Iterable[str], target: TargetFacts | None) -> dict[str, str | None]:
    """Say for each engine, in its pinned version, why it cannot draft for a target at all; None if it may.

    Without ``target``, an engine is left out only if it drafts for no target. If one runner of a version can serve the
    target, the engine can.
    """
    return _about_target(engines, target, "refuses")


def engines_unchecked(engines: Iterable[str], target: TargetFacts | None) -> dict[str, str]:
    """Name each engine of which nobody checked whether its pinned version drafts for a target."""
    found = _about_target(engines, target, "unknown")
    return {engine: reason for engine, reason in found.items() if reason is not None}


def engines_apart(engines: Sequence[str]) -> dict[str, str]:
    """Say of each engine that stops without a d2t for a full vocabulary that it does, if others stop with one."""
    rules = {engine: [terms.rules for terms in pinned_contracts(engine)] for engine in engines}
    if not any("d2t-with-full-vocabulary" in own for several in rules.values() for own in several):
        return {}
    absent = {engine: several[0].get("d2t-absent") for engine, several in rules.items()}
    return {engine: rule.says for engine, rule in absent.items() if rule is not None}


def _about_target(engines: Iterable[str], target: TargetFacts | None, effect: Effect) -> dict[str, str | None]:
    """What an engine does with a target, whatever the head is, if it has this effect in all runners of its version."""
    found: dict[str, str | None] = {}
    for engine in engines:
        reasons = [_of_target(terms, target, effect) for terms in pinned_contracts(engine)]
        found[engine] = next(iter(reasons), None) if all(reasons) else None
    return found


def _of_target(terms: EngineContract, target: TargetFacts | None, effect: Effect) -> str | None:
    for finding in unserved_findings(terms, target):
        rule = terms.rules.get(finding.code)
        unfit = effect == "refuses" and finding.code == "target-rope-scaling"  # another model, whatever its files say
        if rule is not None and (unfit or rule.effect == effect):
            return rule.reason(finding.code, finding.facts).sentence
    return None


def preflight_findings(case: PreflightCase) -> Iterator[PreflightFinding]:
    """Yield everything about a case that may matter to an engine; the contract decides what does matter."""
    yield from configuration_findings(case)
    yield from tensor_findings(case)
    yield from wiring_findings(case)


def judge(
    subject: ExaminedHead,
    terms: EngineContract,
    target: TargetFacts | None,
    capture: tuple[int, ...] | None = None,
    tensor_parallel: int = 1,
    among: Sequence[EngineContract] = (),
) -> PreflightVerdict:
    """Do what `preflight` does, with a contract that was probed; ``among``: those of the version's other runners."""
    acting = terms
    if subject.truth.parallel_drafting and terms.parallel_drafting_by is not None:
        other = next((c for c in among if c.version == terms.parallel_drafting_by), None)
        acting = contract(terms.engine, terms.parallel_drafting_by) if other is None else other
    reasons = []
    case = PreflightCase(subject.files, subject.truth, acting, target, capture, tensor_parallel)
    for found in preflight_findings(case):
        rule = acting.rules.get(found.code)
        if rule is not None:
            reasons.append(rule.reason(found.code, found.facts))
    reasons += _of_errors(subject.errors, acting, reasons)
    verdict = weigh(terms.engine, terms.version, terms.title, reasons, subject.assumptions)
    return replace(verdict, note=_fault(terms))


def _fault(terms: EngineContract) -> str | None:
    """Say what a version does wrong with every head; None if nothing is known."""
    number = terms.version.partition(" ")[0]
    known = number in versions_with(terms.engine, "engine.toml")
    wrong = version_data(terms.engine, number).drafts_wrongly if known else ""
    return f"{terms.title} {wrong}, whatever the head" if wrong else None


def _of_errors(errors: Sequence[Problem], terms: EngineContract, found: Sequence[Reason]) -> Iterator[Reason]:
    """Yield what errors of reading mean to an engine: no verdict is ``right`` where `inspect` finds an error.

    An error counts where no other reason speaks against the engine; those that do not concern it are named with the
    reason.
    """
    doomed = any(EFFECTS.index(reason.effect) > EFFECTS.index("depends") for reason in found)
    for error in dict.fromkeys(errors):
        why, source = terms.unconcerned.get(error.code), "eagle3hub inspect, which calls it an error"
        if why is not None:
            spared = f"is not concerned by an error of the head ({error.code}): it {why}"
            yield Reason("head-error-elsewhere", "right", spared, source, None)
        elif not doomed:
            wrong = f"gets a head that is in error: {error.message} ({error.code})"
            yield Reason("head-error", "unknown", wrong, source, error.hint)
