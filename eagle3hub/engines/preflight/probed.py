"""What a probe found of one version of an engine, and how it replaces what a contract says from reading.

A probe (``eagle3hub.probing``) runs small heads on the engine and writes what it did as ``probed.json``. For a rule or
a term that was probed, the probe decides; ``contract.toml`` has the words, and what was only read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

from eagle3hub.engines import specs
from eagle3hub.engines.specs import engine_title
from eagle3hub.errors import ManifestError
from eagle3hub.system.documents import read_document
from eagle3hub.system.resources import read_toml
from eagle3hub.system.typed import build

SCHEMA = 1
EXECUTED = re.compile(r"executed \([^()]+, (?:cpu|cuda|tpu)\): ")
"""How the source of a rule begins that a probe showed."""
_MAX_BYTES = 4 << 20
FoundEffect = Literal["right", "silently_wrong", "refuses"]
Outcome = Literal["right", "runs", "silently_wrong", "refuses", "crashes", "not_run"]
"""What became of one head. ``runs``: it loads and runs, and the reference cannot say what it should compute.
``not_run``: the engine is not right about the head that this one is a change of, so that the answer says nothing."""


@dataclass(frozen=True, slots=True)
class FoundRule:
    """The effect of a finding, with the questions that show it; the first one decided."""

    effect: FoundEffect
    questions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FoundTerm:
    """The value of a term, as ``contract.toml`` would state it, with the questions that show it."""

    value: Any
    questions: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What an engine did with the head of one question.

    Attributes:
        outcome: see `Outcome`.
        matched: ``trained``, or the alternative of the question whose logits are the engine's, or None.
        difference: the largest difference of a logit from the head's truth, or of a share where an engine tells
            no logits; None if nothing was computed, or other tokens were scored.
        stage, message: where and how it stopped, without paths; ``load`` without a message for a head that was loaded
            and not run.
        taps: boundary ids of the states that it captured, ``final`` for the final state after its norm, ``?`` for a
            state that is none of these. not_loaded: parameters it left as they were. ignored: tensors of the file that
            it did not read.
        context: the longest text in tokens that it serves.
    """

    outcome: Outcome
    matched: str | None = None
    difference: float | None = None
    stage: str | None = None
    message: str | None = None
    taps: tuple[int | str, ...] = ()
    not_loaded: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    context: int | None = None

    @property
    def evidence(self) -> str:
        """What shows the outcome, in a few words."""
        if self.message is not None:
            return f"dies ({self.message})" if self.outcome == "crashes" else self.message
        parts = []
        if self.matched not in (None, "trained"):
            parts.append(str(self.matched))
        elif self.difference and self.matched is None and self.outcome == "silently_wrong":
            parts.append(f"logits differ by {self.difference:g}")
        if self.not_loaded:
            parts.append(f"{', '.join(self.not_loaded[:2])} not filled")
        if self.stage == "load":
            lost = ", ".join(self.ignored[:2])
            return "; ".join(parts) or (
                f"drops {lost}" if self.outcome == "silently_wrong" else "every tensor is loaded"
            )
        if self.outcome == "silently_wrong" and not parts:
            told = self.matched or "?" in self.taps
            parts.append(f"captured {', '.join(map(str, self.taps))}" if told else "scores other tokens")
        return "; ".join(parts) or "the reference's logits"


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundRunner:
    """What a further runner of the version does otherwise; everything else was executed with the first runner."""

    rules: Mapping[str, FoundRule] = field(default_factory=dict)
    terms: Mapping[str, FoundTerm] = field(default_factory=dict)
    answers: Mapping[str, Answer] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    """A probe of one version of an engine.

    Attributes:
        engine, version: as the engine states it. device, date: where and when (ISO). environment: versions of torch
            or jax, of transformers and of eagle3hub.
        reading_from: the version whose contract states what was not probed; None where there is one of this version.
        runner: the runner that was executed, where the version has several; runners: the others.
        rules, terms: by code and by field of ``contract.toml``. answers: by question.
    """

    schema: int
    engine: str
    version: str
    device: str
    date: str
    environment: Mapping[str, str]
    rules: Mapping[str, FoundRule] = field(default_factory=dict)
    terms: Mapping[str, FoundTerm] = field(default_factory=dict)
    answers: Mapping[str, Answer] = field(default_factory=dict)
    reading_from: str | None = None
    runner: str | None = None
    runners: Mapping[str, FoundRunner] = field(default_factory=dict)

    @property
    def where(self) -> str:
        """Engine, version and device, such as ``vLLM 1.0 V1, cpu``."""
        return f"{engine_title(self.engine)} {self.version}{f' {self.runner}' if self.runner else ''}, {self.device}"


@cache
def probed(engine: str, version: str) -> Probed | None:
    """Return what a probe found of a version whose data we hold, or None if it was never probed."""
    file = specs.DATA / engine / version / "probed.json"
    if not file.is_file():
        return None
    return build(Probed, json.loads(file.read_text(encoding="utf-8")), f"engines/data/{engine}/{version}/probed.json")


def read_probed(path: Path) -> Probed:
    """Read what a probe wrote. Raises SourceError or ManifestError (``contract-…``) for a file that is none."""
    document = read_document(path, "contract", _MAX_BYTES)
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise ManifestError(
            f"{path.name} is not a contract that eagle3hub engines probe wrote, of schema {SCHEMA}",
            hint="make one: eagle3hub engines probe vllm --output contract.json",
            code="contract-schema",
        )
    try:
        return build(Probed, document, path.name)
    except ValueError as error:
        raise ManifestError(str(error), hint="probe the engine again", code="contract-form") from error


def overlaid(stated: Mapping[str, Any], found: Probed) -> dict[str, Any]:
    """Return a contract's document with what a probe found in place of what was read.

    What the executed runner states for itself is replaced there, so that it is not said of the others.
    """
    named = {name: dict(table) for name, table in stated.get("runners", {}).items()}
    own = named.get(found.runner or "", {}).get("rules", {})
    apart = {code: rule for code, rule in found.rules.items() if code in own}
    shared = {code: rule for code, rule in found.rules.items() if code not in own}
    out = _with(stated, stated.get("rules", {}), shared, found.terms, found.answers, found.where)
    if not named:
        return out
    runners = {found.runner or "": FoundRunner(rules=apart), **found.runners}
    for name, runner in runners.items():
        answers = {**found.answers, **runner.answers}
        base = {**out, **named.get(name, {})}
        changed = _with(base, named.get(name, {}).get("rules", {}), runner.rules, runner.terms, answers, found.where)
        tops = {path.partition(".")[0] for path in runner.terms}
        named[name] = {**named.get(name, {}), "rules": changed["rules"], **{top: changed[top] for top in tops}}
    return {**out, "runners": named}


def _with(
    stated: Mapping[str, Any],
    ruled: Mapping[str, Any],
    rules: Mapping[str, FoundRule],
    terms: Mapping[str, FoundTerm],
    answers: Mapping[str, Answer],
    where: str,
) -> dict[str, Any]:
    out = dict(stated)
    out["rules"] = dict(ruled)
    for code, rule in rules.items():
        out["rules"][code] = _ruling(code, ruled.get(code, {}), rule, answers[rule.questions[0]], where)
    for path, term in terms.items():
        *places, name = path.split(".")
        table = out
        for place in places:
            table[place] = dict(table.get(place, {}))
            table = table[place]
        table[name] = term.value
    return out


def _ruling(code: str, own: Mapping[str, Any], rule: FoundRule, answer: Answer, where: str) -> dict[str, Any]:
    """Return the entry of ``contract.toml`` for a rule that was probed.

    ``own`` is its entry so far: its words stay where they are for the effect that was found, its own or the usual one.
    Otherwise the usual words do, or a sentence about the answer.
    """
    usual = usual_rules().get(code, {})
    fits = own.get("effect", usual.get("effect")) == rule.effect
    kept = {key: value for key, value in own.items() if fits or key not in ("says", "hint")}
    if rule.effect != "right" and "says" not in kept:
        same = usual.get("effect") == rule.effect
        kept["says"] = usual["says"] if same else _plain_words(rule.effect, answer.evidence)
        kept.setdefault("hint", usual.get("hint", "") if same else "")
    place = own.get("source", "")
    read = f"; {place}" if place and not EXECUTED.match(place) else ""
    return {**kept, "effect": rule.effect, "source": f"executed ({where}): {answer.evidence}{read}"}


@cache
def usual_rules() -> dict[str, Any]:
    """Return ``engines/data/common/rules.toml``: by code, the usual effect, sentence and hint of a rule."""
    return read_toml(specs.DATA / "common/rules.toml")


def _plain_words(effect: str, evidence: str) -> str:
    """Return a sentence for an effect that no file has words for; the engine is the subject."""
    said = evidence.replace("{", "{{").replace("}", "}}")
    return f"stops at it: {said}" if effect == "refuses" else f"computes something else: {said}"
