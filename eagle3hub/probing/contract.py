"""Make a probe's answers into what the preflight knows of a version, and say where that differs from before."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from eagle3hub._version import __version__
from eagle3hub.checkpoint.folder import open_checkpoint
from eagle3hub.checkpoint.scratch import scratch_folder
from eagle3hub.checkpoint.staging import replace_file
from eagle3hub.engines.environments import environment_python
from eagle3hub.engines.preflight import (
    DTYPE_TOLD,
    EngineContract,
    ExaminedHead,
    contracts,
    contracts_of,
    examine,
    judge,
    only_read,
    pinned_contracts,
    preflight_findings,
)
from eagle3hub.engines.preflight.case import PreflightCase
from eagle3hub.engines.preflight.probed import (
    SCHEMA,
    Answer,
    FoundEffect,
    FoundRule,
    FoundRunner,
    FoundTerm,
    Outcome,
    Probed,
)
from eagle3hub.engines.specs import engine_title, known_version
from eagle3hub.errors import UsageError
from eagle3hub.head.target import TargetFacts, read_target
from eagle3hub.probing.families import family_reading
from eagle3hub.probing.heads import LAYERS, TAPS
from eagle3hub.probing.heads import Probed as Head
from eagle3hub.probing.questions import Question, questions
from eagle3hub.probing.run import Probe, ask, write_targets
from eagle3hub.system.progress import Progress

_EFFECTS: Mapping[Outcome, FoundEffect] = {
    "right": "right",
    "silently_wrong": "silently_wrong",
    "refuses": "refuses",
    "crashes": "refuses",
}
_PROBED = ("vllm", "sglang", "trtllm", "sglang_jax", "llamacpp")
"""Engines that have a worker for probes."""
_ENVIRONMENT_FOR = {"sglang_jax": "tpu"}
"""By engine, the device whose environment runs a probe on a CPU as well, where nothing else runs on one."""
Asked = Sequence[tuple[Question, Answer]]


@dataclasses.dataclass(frozen=True, slots=True)
class Examined:
    """The head of each question, and its target, as the preflight sees them."""

    heads: Mapping[str, ExaminedHead]
    targets: Mapping[str, TargetFacts]

    def case(self, question: Question, terms: EngineContract) -> PreflightCase:
        """Return the head of a question, to be checked against a contract."""
        head, target = self.heads[question.name], self.targets[question.target]
        devices = int(question.settings.get("tensor_parallel", 1))
        return PreflightCase(head.files, head.truth, terms, target, None, devices)

    def predicted(self, question: Question, terms: EngineContract, among: Sequence[EngineContract]) -> str:
        """Return the verdict that a contract leads to for the head of a question, as a kind of verdict."""
        head, target = self.heads[question.name], self.targets[question.target]
        devices = int(question.settings.get("tensor_parallel", 1))
        verdict = judge(head, terms, target, None, devices, among)
        told = [key for key, value in question.settings.items() if value is True]
        told += [] if "own_kernels" in question.settings else ["custom_ops"]
        told += [f"--dtype {question.settings['dtype']}"] if "dtype" in question.settings else []
        told.append(DTYPE_TOLD)  # a probe has head and target computed in one dtype
        kind = verdict.with_settings(told).kind
        return "right" if kind == "depends" else kind


def examined(names: Iterable[str]) -> Examined:
    """Return the heads of these questions as the preflight reads them."""
    return _examined(frozenset(names))


@cache
def _examined(names: frozenset[str]) -> Examined:
    """Write and read the heads; the same for every version, so once for those who ask the same questions."""
    asked = [questions()[name] for name in sorted(names)]
    with scratch_folder() as work:
        folders = write_targets(work / "targets")
        targets = {name: read_target(folder) for name, folder in folders.items()}
        opened = {
            name: open_checkpoint(folder) for name, folder in folders.items() if any(folder.glob("*.safetensors"))
        }
        heads = {}
        for question in asked:
            made = question.made()
            seen = examine(
                open_checkpoint(made.write(work / "heads" / question.name)), target=opened.get(question.target)
            )
            heads[question.name] = _with_truth(seen, made)
    return Examined(heads, targets)


def _with_truth(seen: ExaminedHead, made: Head) -> ExaminedHead:
    """Replace what the files suggest by what the head was trained to compute."""
    s, dims = made.truth.semantics, made.truth.dims
    scaling = s.rope.scaling
    truth = dataclasses.replace(
        seen.truth,
        hidden_size=dims.hidden_size,
        target_hidden_size=dims.target_hidden_size,
        vocab_size=dims.vocab_size,
        draft_vocab_size=dims.draft_vocab_size,
        num_layers=s.num_layers,
        kind="mla" if dims.mla is not None else "qwen3" if s.qk_norm else "llama",
        uses_aux=s.uses_aux,
        num_aux=0 if made.taps is None else len(made.taps),
        boundaries=made.taps,
        norm_before_residual=s.norm_before_residual,
        norm_before_fc=s.norm_before_fc,
        fc_norm=s.fc_norm,
        feedback=s.feedback,
        rope_theta=s.rope.theta,
        rope_scaling=seen.truth.rope_scaling if scaling is not None and _same(scaling, seen) else scaling,
        hidden_act=s.hidden_act,
        sliding_window=s.sliding_window is not None,
        parallel_drafting=s.parallel_drafting,
    )
    return ExaminedHead(seen.files, truth)


def _same(scaling: Mapping[str, object], seen: ExaminedHead) -> bool:
    """Whether the files state this scaling, perhaps with what transformers adds to it."""
    read = seen.truth.rope_scaling
    return read is not None and all(read.get(key) == value for key, value in scaling.items())


# Terms


def _right(asked: Asked) -> list[Any]:
    """The values of the questions that the engine is right about, or cannot be compared on, in their order."""
    return [question.value for question, answer in asked if answer.outcome in ("right", "runs")]


def _flag(asked: Asked) -> bool:
    return bool(_right(asked))


def _captures_last(asked: Asked) -> bool:
    """Whether the engine captures something where the last layer is listed."""
    return any({LAYERS, "?"} & set(answer.taps) for _, answer in asked)


def _first(asked: Asked) -> Any:
    return next(iter(_right(asked)), None)


def _where(condition: Callable[[Answer], bool]) -> Callable[[Asked], list[Any]]:
    return lambda asked: [question.value for question, answer in asked if condition(answer)]


def _builds_o_bias(answer: Answer) -> bool:
    return any(name.endswith("o_proj.bias") for name in answer.not_loaded)


def _default_taps(asked: Asked) -> list[int] | None:
    taps = asked[0][1].taps
    if len(taps) != len(TAPS) or not all(isinstance(tap, int) for tap in taps):
        return None
    first, middle, last = (int(tap) for tap in taps)
    return [first, middle - LAYERS // 2, last - LAYERS]


def _nested_flags(asked: Asked) -> dict[str, bool]:
    read = {q.value for q, answer in asked if answer.outcome == "right" and not q.value.endswith("?")}
    assumed = {q.value.rstrip("?"): answer.matched for q, answer in asked if q.value.endswith("?")}
    flags = dict.fromkeys(q.value for q, _ in asked)
    return {flag: assumed.get(flag) == "takes it as true" for flag in flags if flag in read}


def _reader(asked: Asked) -> str:
    return "standard" if _flag(asked) else "top_level"


def _merged(asked: Asked) -> dict[str, object]:
    return {key: value for found in _right(asked) for key, value in found.items()}


_READ: Mapping[str, Callable[[Asked], Any]] = {
    **dict.fromkeys(
        (
            *("model_prefix", "reads_nested", "aux_norm_alias", "attention_bias", "fc_bias"),
            *("own_embedding_if_other_width", "aux.as_listed"),
        ),
        _flag,
    ),
    "later_norm": _first,
    "rope.reader": _reader,
    "rope.ignored": lambda asked: _where(lambda answer: answer.matched == "rotates without scaling")(asked) or None,
    "rope.partial": _where(lambda answer: answer.outcome == "silently_wrong"),
    "aux.default": _default_taps,
    "aux.last_layer": _captures_last,
    "aux.last_unfilled": lambda asked: not _flag(asked),
    "o_proj_bias": _where(_builds_o_bias),
    "dropped": _where(lambda answer: answer.outcome == "silently_wrong"),
    "mtp_types": _where(lambda answer: answer.outcome in ("refuses", "crashes")),
    "mtp_of_mla": lambda asked: not _flag(asked),
    "count_keys": _where(lambda answer: answer.stage not in ("config", "load")),
    "mlp_width": _merged,
}
"""By term, how its value follows from the answers; otherwise it is the list of values that the engine is right
about."""


def _terms(answers: Mapping[str, Answer], engine: str) -> dict[str, FoundTerm]:
    """Return the terms that the answers decide: those of which every question was asked and says something."""
    asked: dict[str, list[Question]] = {}
    for question in (one for one in questions().values() if engine in (one.engines or (engine,))):
        for path in (what.removeprefix("terms.") for what in question.asks if what.startswith("terms.")):
            asked.setdefault(path, []).append(question)
    found: dict[str, FoundTerm] = {}
    for path, listed in asked.items():
        if any(question.name not in answers or answers[question.name].outcome == "not_run" for question in listed):
            continue
        pairs = [(question, answers[question.name]) for question in listed]
        reader: Callable[[Asked], Any] = _READ.get(path, _right)
        if path == "aux.places":
            value: Any = _places(pairs, answers)
        elif path.startswith("nested_norms."):
            value = _nested_flags(pairs)
        elif path.startswith("aux_of."):
            value = family_reading({question.value: answer.taps for question, answer in pairs})
        else:
            value = reader(pairs)
        if value is not None:
            found[path] = FoundTerm(value, tuple(question.name for question in listed))
    return found


def _places(asked: Asked, answers: Mapping[str, Answer]) -> list[list[str]]:
    """Return the keys that list aux layers, each with its numbering, from what was captured for lists in one key."""
    found = []
    for question, answer in asked:
        shift = _shift((3, 7, 10), answer.taps)
        if shift is None:
            continue
        numbering = "after" if shift else "boundary"
        if question.value.startswith("eagle_config.eagle_aux"):
            from_one = answers.get("ids-in-eagle-config-that-begin-with-1")
            to_last = answers.get("ids-in-eagle-config-up-to-the-last-layer")
            if not shift and from_one is not None and _shift((1, 6, 10), from_one.taps) == 1:
                numbering = "after-if-first-is-1"
            elif shift and to_last is not None and _shift((2, 6, LAYERS), to_last.taps) == 0:
                numbering = "boundary-if-last-layer"
        found.append([question.value, numbering])
    return found


def _shift(listed: Sequence[int], captured: Sequence[int | str]) -> int | None:
    """Return by how much each captured boundary exceeds its listed id; None if it is not the same for all."""
    if len(listed) != len(captured) or not all(isinstance(tap, int) for tap in captured):
        return None
    steps = {int(tap) - own for tap, own in zip(captured, listed, strict=True)}
    return steps.pop() if len(steps) == 1 and steps <= {0, 1} else None


# Rules


def _rules(answers: Mapping[str, Answer], terms: EngineContract, seen: Examined) -> dict[str, FoundRule]:
    """Return, by code, the effect of each finding that a question's head has under these terms.

    A finding that has no rule so far gets none where another finding of the same head has one of the same effect, and
    explains it. Where questions disagree, one whose answer no other finding explains decides.
    """
    found: dict[str, list[str]] = {}
    alone: dict[str, str] = {}
    for question in questions().values():
        codes = [what.removeprefix("rules.") for what in question.asks if what.startswith("rules.")]
        answer = answers.get(question.name)
        if not codes or answer is None or answer.outcome not in _EFFECTS:
            continue
        effect = _EFFECTS[answer.outcome]
        there = {finding.code for finding in preflight_findings(seen.case(question, terms))}
        explained = {code for code in there if code in terms.rules and terms.rules[code].effect == effect != "right"}
        for code in codes:
            if code in there and (code in terms.rules or not explained - {code}):
                found.setdefault(code, []).append(question.name)
                if not explained - {code}:
                    alone.setdefault(code, question.name)
    for code, names in found.items():
        decides = alone.get(code, names[0])
        if answers[decides].outcome != answers[names[0]].outcome:
            names.sort(key=lambda name: name != decides)
    return {
        code: FoundRule(_EFFECTS[answers[names[0]].outcome], tuple(names)) for code, names in sorted(found.items())
    }


# The contract


def probed_contract(probe: Probe, date: str, runners: Sequence[str]) -> Probed:
    """Make the contract that follows from a probe. ``date``: ISO; ``runners``: names, the executed one first."""
    main = probe.answers[runners[0]]
    seen = examined(main)
    base = known_version(probe.engine, probe.version, "contract.toml").version
    bare = Probed(
        schema=SCHEMA,
        engine=probe.engine,
        version=probe.version,
        device=probe.device,
        date=date,
        environment={**probe.environment, "eagle3hub": __version__},
        rules={},
        terms=_terms(main, probe.engine),
        answers=dict(main),
        reading_from=None if base == probe.version else base,
        runner=runners[0] or None,
        runners={
            name: FoundRunner(
                terms=_changed(_terms(main, probe.engine), _terms(probe.answers[name], probe.engine)),
                answers={n: a for n, a in probe.answers[name].items() if a != main[n]},
            )
            for name in runners[1:]
        },
    )
    by_runner = {_runner(terms, probe.version): terms for terms in contracts_of(bare)}
    rules = _rules(main, by_runner[runners[0]], seen)
    others = {}
    for name in runners[1:]:
        own = _rules(probe.answers[name], by_runner[name], seen)
        differing = {
            code: rule for code, rule in own.items() if code not in rules or rule.effect != rules[code].effect
        }
        others[name] = dataclasses.replace(bare.runners[name], rules=differing)
    return dataclasses.replace(bare, rules=rules, runners=others)


def _runner(terms: EngineContract, version: str) -> str:
    return terms.version.removeprefix(version).strip()


def _changed(main: Mapping[str, FoundTerm], own: Mapping[str, FoundTerm]) -> dict[str, FoundTerm]:
    return {path: term for path, term in own.items() if path not in main or main[path].value != term.value}


def to_json(found: Probed) -> dict[str, Any]:
    """Return a probed contract as plain data, without what is empty."""
    return {key: _plain(value) for key, value in dataclasses.asdict(found).items() if value not in (None, {}, ())}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items() if k == "value" or v not in (None, (), {})}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


# Differences


def differences(found: Probed, runners: Sequence[str]) -> list[str]:
    """Say where a probed contract differs from the one held for this version, or for the nearest known one."""
    base = found.reading_from or found.version
    known = {_runner(terms, base): terms for terms in contracts() if _of(terms, found.engine, base)}
    said = []
    for terms in contracts_of(found):
        name = _runner(terms, found.version)
        if name not in known or name not in runners:
            continue
        old, called = known[name], f"{name}: " if name else ""
        own = found.runners.get(name)
        for code, rule in (found.rules if own is None else own.rules).items():
            before = old.rules[code].effect if code in old.rules else "right"
            if before != rule.effect:
                evidence = {**found.answers, **(own.answers if own is not None else {})}[rule.questions[0]]
                said.append(
                    f"{called}{code}: held to be {_words(before)}, found to be {_words(rule.effect)} "
                    f"({rule.questions[0]}: {evidence.evidence})"
                )
        for path, term in (found.terms if own is None else own.terms).items():
            was, now = _term(old, path), _term(terms, path)
            if was != now:
                said.append(
                    f"{called}{path}: held to be {_shown(was)}, found to be {_shown(now)} ({term.questions[0]} …)"
                )
    return said


def surprises(found: Probed, runners: Sequence[str]) -> list[str]:
    """Say which answers the probed contract as a whole does not lead to: something that its rules and terms lack."""
    seen = examined(found.answers)
    among = contracts_of(found)
    said = []
    for terms in among:
        name = _runner(terms, found.version)
        if name not in runners:
            continue
        own = found.runners.get(name)
        answers = {**found.answers, **(own.answers if own is not None else {})}
        for asked, answer in answers.items():
            kernels = "own_kernels" in questions()[asked].settings  # which another device does not have
            if answer.outcome not in _EFFECTS or kernels:
                continue
            predicted = seen.predicted(questions()[asked], terms, among)
            if predicted != _EFFECTS[answer.outcome]:
                called = f"{name}: " if name else ""
                said.append(
                    f"{called}{asked}: the contract says {_words(predicted)}, and it is "
                    f"{_words(_EFFECTS[answer.outcome])} ({answer.evidence})"
                )
    return said


def _of(terms: EngineContract, engine: str, version: str) -> bool:
    return terms.engine == engine and terms.version.partition(" ")[0] == version


def _words(effect: str) -> str:
    return {"right": "right", "silently_wrong": "silently wrong", "refuses": "refused"}.get(effect, effect)


def _term(terms: EngineContract, path: str) -> Any:
    found: Any = terms
    if path.startswith("aux_of."):
        own = terms.aux_by_target.get(path.partition(".")[2], terms.aux)
        return {f.name: getattr(own, f.name) for f in dataclasses.fields(own)}
    for part in path.split("."):
        found = found.get(part, ()) if isinstance(found, Mapping) else getattr(found, part)
    return set(found) if isinstance(found, Collection) and not isinstance(found, str | Mapping | tuple) else found


def _shown(value: Any) -> str:
    if isinstance(value, str | bool | int):
        return str(value)
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_shown(v)}" for key, v in value.items()) or "nothing"
    listed = sorted(map(_shown, value)) if isinstance(value, set | frozenset) else list(map(_shown, value))
    return ", ".join(listed) or "nothing"


# A whole probe


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """A probe, and what follows from it."""

    contract: Probed
    differences: tuple[str, ...]
    surprises: tuple[str, ...]
    executed: int
    rules: int
    seconds: float

    @property
    def summary(self) -> str:
        """How much was found, in a sentence."""
        found = self.contract
        return (
            f"{found.where}: {len(found.answers)} questions in {self.seconds:.0f} s; {self.executed} of {self.rules} "
            f"rules and {len(found.terms)} terms executed; {len(self.differences) or 'no'} differences from what is "
            f"held for {found.reading_from or found.version}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return everything by name."""
        return {
            "contract": to_json(self.contract),
            "differences": list(self.differences),
            "surprises": list(self.surprises),
            "executed": self.executed,
            "rules": self.rules,
        }


def probe_engine(
    engine: str, python: Path | None, device: str, date: str, only: Collection[str] | None, progress: Progress
) -> Finding:
    """Probe an engine in the environment of ``python``, by default the installed one; ``date``: today, ISO.

    Raises UsageError for an engine that cannot be probed, or a question that there is not; UnavailableError where the
    engine is not installed or does not run here.
    """
    if engine not in _PROBED:
        raise UsageError(
            f"{engine_title(engine)} cannot be probed", hint=f"one of {', '.join(_PROBED)}", code="usage-probe"
        )
    start = time.monotonic()
    made_for = _ENVIRONMENT_FOR.get(engine, device)
    interpreter = environment_python(engine, made_for) if python is None else python.expanduser()
    runners = _runners(engine)
    probe = ask(
        engine, engine_title(engine), interpreter, device=device, progress=progress, only=only, runners=runners
    )
    found = probed_contract(probe, date, runners)
    terms = contracts_of(found)[0]
    return Finding(
        found,
        tuple(differences(found, runners)),
        tuple(surprises(found, runners)),
        len(found.rules.keys() & terms.rules.keys()),
        only_read(terms)[0],
        time.monotonic() - start,
    )


def _runners(engine: str) -> tuple[str, ...]:
    """The runners of an engine's pinned version; the one that a CPU has comes first."""
    return tuple(terms.version.partition(" ")[2] for terms in pinned_contracts(engine))


def write_contract(found: Finding, path: Path) -> None:
    """Write the contract of a probe. Raises OutputError if that fails."""
    replace_file(path, (json.dumps(to_json(found.contract), indent=1, ensure_ascii=False) + "\n").encode())
