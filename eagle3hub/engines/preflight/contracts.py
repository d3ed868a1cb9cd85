"""What each version of an engine does with a head's files, as data, and the verdicts that follow."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any, Literal

from eagle3hub.engines import ENGINES
from eagle3hub.engines.specs import DATA, common, document, engine_title, merged, versions_with
from eagle3hub.errors import UsageError
from eagle3hub.head.aux_defaults import Layer, target_types
from eagle3hub.system.resources import read_toml
from eagle3hub.system.typed import build

# Verdicts of a preflight, and the reasons they rest on.


Effect = Literal["right", "unknown", "silently_wrong", "refuses"]
EFFECTS: tuple[Effect, ...] = ("right", "unknown", "silently_wrong", "refuses")
"""From best to worst; a head that is refused does no silent harm, so a refusal outweighs the rest."""


@dataclass(frozen=True, slots=True)
class Reason:
    """One thing an engine does with a head.

    Attributes:
        code: stable slug (``aux-layers``). effect: what it leads to.
        sentence: what happens; the engine is its subject.
        source: where in the engine (a file of the named version) this was read, or how it was executed.
        hint: what would mend it, or None.
    """

    code: str
    effect: Effect
    sentence: str
    source: str
    hint: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Every field by name."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one engine version will do with a head.

    ``kind``: ``right`` (loads, and computes what the head was trained to), ``silently_wrong`` (loads and serves, but
    not that: acceptance suffers), ``refuses`` (stops at start-up or at the first request), ``unknown`` (it depends on
    something not at hand). Reasons come worst first.
    """

    engine: str
    version: str
    title: str
    kind: Effect
    reasons: tuple[Reason, ...]

    def to_json(self) -> dict[str, Any]:
        """The verdict as an entry of ``engines`` in ``--json`` output."""
        return {
            "engine": self.engine,
            "version": self.version,
            "title": self.title,
            "verdict": self.kind,
            "reasons": [r.to_json() for r in self.reasons],
        }


def weigh(engine: str, version: str, title: str, reasons: Iterable[Reason]) -> Verdict:
    """The verdict that follows from ``reasons``: the worst effect decides."""
    ordered = sorted(reasons, key=lambda r: -EFFECTS.index(r.effect))
    return Verdict(engine, version, title, ordered[0].effect if ordered else "right", tuple(ordered))


# What each engine version reads, needs and silently ignores: its ``contract.toml`` in ``engines/data``, typed.
#
# ``engines/data/common/rules.toml`` holds, for each code a finding may have, what it usually leads to and how that is
# said. A contract lists the codes that matter to it, each with the place it was read from; what it does not list does
# no harm there. One that builds on another version's states what differs; a rule with the effect ``right`` lifts one.
# Where the runners of a version read files differently, ``[runners]`` states what differs for each.


Numbering = Literal["boundary", "after", "after-if-first-is-1", "boundary-if-last-layer"]
"""How an engine numbers listed ids: number of layers that have run, 0-based layer whose output is taken, the latter
only if the first id is 1, the latter unless the largest id is the number of layers."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What one finding leads to on one engine; ``says`` and ``hint`` are format strings over the finding's facts."""

    effect: Effect
    says: str
    source: str
    hint: str | None

    def reason(self, code: str, facts: Mapping[str, Any]) -> Reason:
        """The reason for a finding of this kind."""
        hint = None if self.hint is None else self.hint.format_map(facts)
        return Reason(code, self.effect, self.says.format_map(facts), self.source, hint)


@dataclass(frozen=True, slots=True)
class AuxReading:
    """Where an engine takes the aux layers from.

    Attributes:
        places: config keys that may list ids, first come first served, each with its numbering.
        default: boundary ids where nothing is listed, as (first, L//2 + middle, L + last).
        last_layer: whether boundary L (after the last layer, before the final norm) can be captured.
        as_listed: whether states are taken in the order listed, one listed twice being taken twice; else each once,
            in the order the layers run.
    """

    places: tuple[tuple[str, Numbering], ...]
    default: tuple[int, int, int]
    last_layer: bool
    as_listed: bool = False

    @property
    def default_layers(self) -> tuple[Layer, ...]:
        """The default as layers of a target of L layers, by boundary ids."""
        return tuple(Layer(of, plus) for of, plus in zip(("", "L//2", "L"), self.default, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a contract states of how files are read.

    Attributes:
        architectures: accepted names by kind of draft class (``llama``, ``qwen3``, ``mla``); ``any_architecture``:
            the name does not matter.
        reads_nested: whether speculators' nested config is understood.
        layer_names, several_layer_names: spellings of a layer's tensors it maps (``midlayer.``, ``midlayer.{i}.``,
            ``layers.{i}.``) in a draft of one layer and of several (none: as in a draft of one).
        model_prefix: whether names may begin with ``model.``; aux_norm_alias: whether aux_norm_low/mid/high are
            fc_norm.0/1/2.
        dropped: prefixes of names it drops without a word where the flag that asks for them is not set.
        aux: how aux layers are read.
        count_keys, count_lists: keys that size fc (a number; else a list's length; else 3).
        class_count_lists: lists that size fc in a draft class of its own.
        norms: keys read for each norm flag, first come first served; nested_norms: by speculators_model_type, the
            flags read from a nested config, each with its default (empty: as in a flat one).
        rope: spellings read, first come first served. later_norm: norm before attention in layers after the first.
        attention_bias, fc_bias: whether biases of q/k/v/o (asked for by ``attention_bias``) and of fc (``bias``) are
            loaded. o_proj_bias: flags any of which makes it build a bias of o_proj.
        own_embedding_if_other_width: whether embed_tokens of the file is used where the widths differ.
        parallel_drafting_by: the runner that takes over for P-EAGLE heads, or None.
    """

    architectures: Mapping[str, frozenset[str]]
    aux: AuxReading
    any_architecture: bool = False
    reads_nested: bool = False
    layer_names: frozenset[str] = frozenset()
    several_layer_names: frozenset[str] = frozenset()
    model_prefix: bool = False
    aux_norm_alias: bool = False
    dropped: tuple[str, ...] = ()
    count_keys: tuple[str, ...] = ()
    count_lists: tuple[str, ...] = ()
    class_count_lists: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    norms: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    nested_norms: Mapping[str, Mapping[str, bool]] = field(default_factory=dict)
    rope: tuple[str, ...] = ()
    later_norm: str = "input_layernorm"
    attention_bias: bool = False
    fc_bias: bool = False
    o_proj_bias: tuple[str, ...] = ()
    own_embedding_if_other_width: bool = False
    parallel_drafting_by: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract(Terms):
    """What one version of one engine does with the files of a draft head.

    Attributes:
        engine, version: which one (vLLM's two model runners count as versions). title: what to call it.
        aux_by_target: how aux layers are read for targets of a model type.
        only_targets: model types of targets outside of which it drafts for none (empty: no such limit known).
        known_targets, not_targets: those it was seen to have what it takes for, and those it was seen not to (empty:
            nothing known).
        rules: by code, what a finding leads to.
    """

    engine: str
    version: str
    title: str
    aux_by_target: Mapping[str, AuxReading]
    only_targets: frozenset[str]
    known_targets: frozenset[str]
    not_targets: frozenset[str]
    rules: Mapping[str, Rule]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Special:
    """How aux layers are read for some targets: what differs."""

    model_types: str | frozenset[str]
    places: tuple[tuple[str, Numbering], ...] | None = None
    default: tuple[int, int, int] | None = None
    last_layer: bool | None = None
    as_listed: bool | None = None


@dataclass(frozen=True, slots=True)
class _Ruling:
    """What a contract says of a finding where it is not the usual."""

    source: str | None = None
    effect: Effect | None = None
    says: str | None = None
    hint: str | None = None


@dataclass(frozen=True, slots=True)
class _Usual:
    """What a finding usually leads to; ``always``: on every engine."""

    effect: Effect
    says: str
    source: str | None = None
    hint: str | None = None
    always: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _File(Terms):
    """A ``contract.toml`` for one runner. ``called`` is said in place of the version, or of the runner's name.

    A string in place of a list of target types names one of ``aux_defaults.toml``.
    """

    rules: Mapping[str, _Ruling]
    called: str | None = None
    aux_by_target: tuple[_Special, ...] = ()
    only_targets: str | frozenset[str] = frozenset()
    known_targets: str | frozenset[str] = frozenset()
    not_targets: str | frozenset[str] = frozenset()


@cache
def contracts() -> tuple[Contract, ...]:
    """Every contract, engine by engine, each engine's from its oldest version to its newest."""
    versions = ((engine, version) for engine in ENGINES for version in versions_with(engine, "contract.toml"))
    return tuple(
        found for engine, version in versions for found in _contracts(engine, version, _document(engine, version))
    )


@cache
def current_contracts() -> tuple[Contract, ...]:
    """Those of each engine's pinned version, and of the versions that its data name beside it."""
    current = {(engine, v) for engine in ENGINES for v in (common(engine).pinned, *common(engine).beside)}
    return tuple(found for found in contracts() if (found.engine, found.version.partition(" ")[0]) in current)


def contract(engine: str, version: str) -> Contract:
    """The contract of one engine version. Raises UsageError listing those there are."""
    for found in contracts():
        if (found.engine, found.version) == (engine, version):
            return found
    known = ", ".join(f"{c.engine} {c.version}" for c in contracts())
    raise UsageError(f"no contract describes {engine} {version}", hint=f"known: {known}", code="usage-engine-version")


@cache
def common_rules() -> Mapping[str, _Usual]:
    """By code: usual effect, sentence and hint; ``always`` marks those that hold for every engine."""
    place = "engines/data/common/rules.toml"
    return {
        code: build(_Usual, found, f"{place}, {code}") for code, found in read_toml(DATA / "common/rules.toml").items()
    }


def _document(engine: str, version: str) -> dict[str, Any]:
    return document(engine, version, "contract.toml")


def _contracts(engine: str, version: str, stated: Mapping[str, Any]) -> list[Contract]:
    """The contracts of one version, one for each of its runners; raises ValueError for a file that is wrong."""
    place = f"engines/data/{engine}/{version}/contract.toml"
    shared = {key: value for key, value in stated.items() if key != "runners"}
    if "runners" not in stated:
        return [_contract(engine, version, version, build(_File, shared, place))]
    files = {
        runner: build(_File, merged(shared, own), f"{place}, runners.{runner}")
        for runner, own in stated["runners"].items()
    }
    return [_contract(engine, f"{version} {runner}", version, file) for runner, file in files.items()]


def _contract(engine: str, version: str, number: str, file: _File) -> Contract:
    rules = _rules(file.rules)
    lacking = _norm_codes(file) - set(rules)
    if lacking:
        raise ValueError(f"{engine} {version} reads norms and has no rules for {sorted(lacking)}")
    terms = {f.name: getattr(file, f.name) for f in dataclasses.fields(Terms)}
    runner = version.removeprefix(number).strip()
    taken_over = file.parallel_drafting_by
    called = f"{number} {file.called or runner}" if runner else file.called or number
    return Contract(
        **{
            **terms,
            "several_layer_names": file.several_layer_names or file.layer_names,
            "parallel_drafting_by": taken_over and f"{number} {taken_over}",
        },
        engine=engine,
        version=version,
        title=f"{engine_title(engine)} {called}",
        aux_by_target=_aux_by_target(file),
        only_targets=_types(file.only_targets),
        known_targets=_types(file.known_targets),
        not_targets=_types(file.not_targets),
        rules=rules,
    )


def _norm_codes(terms: Terms) -> set[str]:
    """The codes of every finding about the norm flags that an engine reads."""
    nested = terms.nested_norms.values()
    codes = {f"{flag}-assumed" for read in nested for flag, default in read.items() if default}
    for flag in {*terms.norms, *(flag for read in nested for flag in read)}:
        codes |= {"feedback", "feedback-open"} if flag == "norm_output" else {flag, f"{flag}-stated"}
    return {code.replace("_", "-") for code in codes}


def _aux_by_target(file: _File) -> dict[str, AuxReading]:
    found: dict[str, AuxReading] = {}
    for special in file.aux_by_target:
        own = {f.name: getattr(special, f.name) for f in dataclasses.fields(special) if f.name != "model_types"}
        stated = {name: value for name, value in own.items() if value is not None}
        for kind in _types(special.model_types):
            found[kind] = dataclasses.replace(found.get(kind, file.aux), **stated)
    return found


def _types(listed: str | frozenset[str]) -> frozenset[str]:
    return target_types(listed) if isinstance(listed, str) else listed


def _rules(own: Mapping[str, _Ruling]) -> dict[str, Rule]:
    usual = common_rules()
    rules: dict[str, Rule] = {}
    for code, always in usual.items():
        if not always.always and code not in own:
            continue
        said = own.get(code, _Ruling())
        source = said.source or always.source
        if source is None:
            raise ValueError(f"the rule {code} does not say where it was read")
        rules[code] = Rule(said.effect or always.effect, said.says or always.says, source, said.hint or always.hint)
    unknown = set(own) - set(usual)
    if unknown:
        raise ValueError(f"rules for codes no finding has: {sorted(unknown)}")
    return rules
