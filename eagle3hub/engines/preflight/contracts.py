"""What each version of an engine does with a head's files, as data, and the verdicts that follow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from eagle3hub.errors import UsageError
from eagle3hub.head.aux_defaults import Layer, target_types
from eagle3hub.system.resources import read_toml

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


# What each engine version reads, needs and silently ignores: the ``.toml`` files in ``terms/``, typed.
#
# ``common.toml`` holds, for each code a finding may have, what it usually leads to and how that is said. An engine's
# file lists the codes that matter to it, each with the place it was read from; what it does not list does no harm
# there. A version may build on another one of the same file (``builds_on``); a rule with the effect ``right`` lifts
# one.


_TERMS = Path(__file__).resolve().parent / "terms"
ENGINES = ("vllm", "sglang", "trtllm", "sglang_jax", "llamacpp")

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
        default: boundary ids where nothing is listed.
        last_layer: whether boundary L (after the last layer, before the final norm) can be captured.
        as_listed: whether states are taken in the order listed, one listed twice being taken twice; else each once,
            in the order the layers run.
    """

    places: tuple[tuple[str, Numbering], ...]
    default: tuple[Layer, ...]
    last_layer: bool
    as_listed: bool = False


@dataclass(frozen=True, slots=True)
class Contract:
    """What one version of one engine does with the files of a draft head.

    Attributes:
        engine, version: which one (vLLM's two model runners count as versions). title: what to call it.
        architectures: accepted names by kind of draft class (``llama``, ``qwen3``, ``mla``); ``any_architecture``:
            the name does not matter.
        reads_nested: whether speculators' nested config is understood.
        layer_names, several_layer_names: spellings of a layer's tensors it maps (``midlayer.``, ``midlayer.{i}.``,
            ``layers.{i}.``) in a draft of one layer and of several.
        model_prefix: whether names may begin with ``model.``; aux_norm_alias: whether aux_norm_low/mid/high are
            fc_norm.0/1/2.
        dropped: prefixes of names it drops without a word where the flag that asks for them is not set.
        aux, aux_by_target: how aux layers are read, in general and for targets of a model type.
        count_keys, count_lists: keys that size fc (a number; else a list's length; else 3).
        class_count_lists: lists that size fc in a draft class of its own.
        norms: keys read for each norm flag, first come first served; nested_norms: by speculators_model_type, the
            flags read from a nested config, each with its default (empty: as in a flat one).
        rope: spellings read, first come first served. later_norm: norm before attention in layers after the first.
        attention_bias, fc_bias: whether biases of q/k/v/o (asked for by ``attention_bias``) and of fc (``bias``) are
            loaded. o_proj_bias: flags any of which makes it build a bias of o_proj.
        own_embedding_if_other_width: whether embed_tokens of the file is used where the widths differ.
        only_targets: model types of targets outside of which it drafts for none (empty: no such limit known).
        known_targets, not_targets: those it was seen to have what it takes for, and those it was seen not to (empty:
            nothing known).
        parallel_drafting_by: the version that takes over for P-EAGLE heads, or None.
        rules: by code, what a finding leads to.
    """

    engine: str
    version: str
    title: str
    architectures: Mapping[str, frozenset[str]]
    any_architecture: bool
    reads_nested: bool
    layer_names: frozenset[str]
    several_layer_names: frozenset[str]
    model_prefix: bool
    aux_norm_alias: bool
    dropped: tuple[str, ...]
    aux: AuxReading
    aux_by_target: Mapping[str, AuxReading]
    count_keys: tuple[str, ...]
    count_lists: tuple[str, ...]
    class_count_lists: Mapping[str, tuple[str, ...]]
    norms: Mapping[str, tuple[str, ...]]
    nested_norms: Mapping[str, Mapping[str, bool]]
    rope: tuple[str, ...]
    later_norm: str
    attention_bias: bool
    fc_bias: bool
    o_proj_bias: tuple[str, ...]
    own_embedding_if_other_width: bool
    only_targets: frozenset[str]
    known_targets: frozenset[str]
    not_targets: frozenset[str]
    parallel_drafting_by: str | None
    rules: Mapping[str, Rule]


@cache
def contracts() -> tuple[Contract, ...]:
    """Every contract, engine by engine, in the order of their files."""
    return tuple(c for engine in ENGINES for c in _engine(engine))


def contract(engine: str, version: str) -> Contract:
    """The contract of one engine version. Raises UsageError listing those there are."""
    for found in contracts():
        if (found.engine, found.version) == (engine, version):
            return found
    known = ", ".join(f"{c.engine} {c.version}" for c in contracts())
    raise UsageError(f"no contract describes {engine} {version}", hint=f"known: {known}", code="usage-engine-version")


def _load(name: str) -> dict[str, Any]:
    return read_toml(_TERMS / f"{name}.toml")


@cache
def common_rules() -> Mapping[str, Mapping[str, Any]]:
    """By code: usual effect, sentence and hint; ``always`` marks those that hold for every engine."""
    return _load("common")


def _engine(engine: str) -> list[Contract]:
    document = _load(engine)
    versions: dict[str, dict[str, Any]] = {}
    for version, terms in document["versions"].items():
        base = versions[terms["builds_on"]] if "builds_on" in terms else {}
        versions[version] = _merged(base, terms)
    return [_contract(engine, version, terms) for version, terms in versions.items()]


def _merged(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    out = dict(base)
    for key, value in own.items():
        whole = key in {"aux", "architectures"} or not isinstance(value, dict)
        out[key] = value if whole else _merged(out.get(key, {}), value)
    return out


def _contract(engine: str, version: str, terms: Mapping[str, Any]) -> Contract:
    def names(key: str) -> tuple[str, ...]:
        return tuple(terms.get(key, ()))

    aux, rules = _aux(terms["aux"]), _rules(terms["rules"])
    lacking = _norm_codes(terms) - set(rules)
    if lacking:
        raise ValueError(f"{engine} {version} reads norms and has no rules for {sorted(lacking)}")
    return Contract(
        engine=engine,
        version=version,
        title=terms["title"],
        architectures={kind: frozenset(found) for kind, found in terms["architectures"].items()},
        any_architecture=terms.get("any_architecture", False),
        reads_nested=terms.get("reads_nested", False),
        layer_names=frozenset(names("layer_names")),
        several_layer_names=frozenset(names("several_layer_names") or names("layer_names")),
        model_prefix=terms.get("model_prefix", False),
        aux_norm_alias=terms.get("aux_norm_alias", False),
        dropped=names("dropped"),
        aux=aux,
        aux_by_target=_aux_by_target(terms),
        count_keys=names("count_keys"),
        count_lists=names("count_lists"),
        class_count_lists={k: tuple(v) for k, v in terms.get("class_count_lists", {}).items()},
        norms={flag: tuple(keys) for flag, keys in terms.get("norms", {}).items()},
        nested_norms=terms.get("nested_norms", {}),
        rope=names("rope"),
        later_norm=terms.get("later_norm", "input_layernorm"),
        attention_bias=terms.get("attention_bias", False),
        fc_bias=terms.get("fc_bias", False),
        o_proj_bias=names("o_proj_bias"),
        own_embedding_if_other_width=terms.get("own_embedding_if_other_width", False),
        only_targets=_types(terms.get("only_targets", [])),
        known_targets=_types(terms.get("known_targets", [])),
        not_targets=_types(terms.get("not_targets", [])),
        parallel_drafting_by=terms.get("parallel_drafting_by"),
        rules=rules,
    )


def _norm_codes(terms: Mapping[str, Any]) -> set[str]:
    """The codes of every finding about the norm flags that an engine reads."""
    nested = terms.get("nested_norms", {}).values()
    codes = {f"{flag}-assumed" for read in nested for flag, default in read.items() if default}
    for flag in {*terms.get("norms", {}), *(flag for read in nested for flag in read)}:
        codes |= {"feedback", "feedback-open"} if flag == "norm_output" else {flag, f"{flag}-stated"}
    return {code.replace("_", "-") for code in codes}


def _aux(terms: Mapping[str, Any]) -> AuxReading:
    default = tuple(Layer(of, plus) for of, plus in zip(("", "L//2", "L"), terms["default"], strict=True))
    places = tuple((key, numbering) for key, numbering in terms["places"])
    return AuxReading(places, default, terms["last_layer"], terms.get("as_listed", False))


def _aux_by_target(terms: Mapping[str, Any]) -> dict[str, AuxReading]:
    found: dict[str, dict[str, Any]] = {}
    for special in terms.get("aux_by_target", []):
        for kind in _types(special["model_types"]):
            found[kind] = {**found.get(kind, terms["aux"]), **special}
    return {kind: _aux(merged) for kind, merged in found.items()}


def _types(listed: str | list[str]) -> frozenset[str]:
    return target_types(listed) if isinstance(listed, str) else frozenset(listed)


def _rules(own: Mapping[str, Mapping[str, Any]]) -> dict[str, Rule]:
    usual = common_rules()
    rules: dict[str, Rule] = {}
    for code, always in usual.items():
        if not always.get("always") and code not in own:
            continue
        said = {**always, **own.get(code, {})}
        if said["effect"] not in EFFECTS:
            raise ValueError(f"{code}: {said['effect']} is no effect")
        rules[code] = Rule(said["effect"], said["says"], said["source"], said.get("hint"))
    unknown = set(own) - set(usual)
    if unknown:
        raise ValueError(f"rules for codes no finding has: {sorted(unknown)}")
    return rules
