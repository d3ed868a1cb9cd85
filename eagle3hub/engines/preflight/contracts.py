"""Read what each version of an engine does with a head's files, and derive verdicts from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from string import Formatter
from typing import Any, Literal

from eagle3hub.engines import ENGINES
from eagle3hub.engines.preflight.probed import EXECUTED, Probed, overlaid, probed, usual_rules
from eagle3hub.engines.specs import (
    engine_data,
    engine_title,
    known_version,
    merge_tables,
    version_document,
    versions_with,
)
from eagle3hub.errors import UsageError
from eagle3hub.head import Assumption
from eagle3hub.head.aux_defaults import AUX_IDS, Layer, target_types
from eagle3hub.head.rope import Place, Reader
from eagle3hub.system.typed import build, build_each

CONTRACT = "contract.toml"
"""The file of a version that says how it reads a head."""

# What a verdict rests on beside the files: assumptions about the training


_NO_MATTER = frozenset({"num_target_layers", "speculators_config.verifier.name_or_path"})
"""Assumptions about what to write into a config, which change nothing that an engine computes."""


def _layers(value: Any) -> str:
    if not isinstance(value, list | tuple):
        return "trained on the default layers of its target, whose depth is not known"
    return f"trained on boundary ids {', '.join(str(i + 1) for i in value)}"


def _with(name: str) -> Callable[[Any], str]:
    return lambda value: f"trained {'with' if value else 'without'} {name}"


_CONDITIONS: dict[str, Callable[[Any], str]] = {
    "aux": _layers,
    AUX_IDS: _layers,
    "rope_theta": lambda value: f"trained with RoPE base {value:.15g}" if isinstance(value, int | float) else "",
    "rope_scaling": _with("RoPE scaling"),
    "feedback": lambda value: f"trained with {str(value).replace('_', '-')} feedback",
    "norm_before_residual": _with("norm_before_residual"),
    "norm_before_fc": _with("norm_before_fc"),
    "fc_norm": _with("fc_norm"),
    "mask_token_id": lambda value: f"trained with mask token {value}",
    "max_position_embeddings": lambda value: f"trained with a context of {value} tokens",
    "embed_tokens": lambda value: f"trained with {value} embeddings",
}
"""By field, what must hold of the training; layers are boundary ids, as in every sentence about aux layers."""

_SHOWN_BY: dict[str, tuple[str, ...]] = {
    "aux": ("aux-layers", "aux-order"),
    AUX_IDS: ("aux-layers", "aux-order"),
    "rope_theta": ("rope-theta",),
    "rope_scaling": ("rope-scaling",),
    "max_position_embeddings": ("rope-scaling",),
    "feedback": ("feedback",),
    "norm_before_residual": ("norm-before-residual",),
    "norm_before_fc": ("norm-before-fc",),
    "fc_norm": ("fc-norm",),
    "embed_tokens": ("embedding-",),
}
"""By field, the beginnings of the codes of findings that compare an engine with it."""


def doubts(assumptions: Sequence[Assumption]) -> tuple[Assumption, ...]:
    """The assumptions that a verdict depends on: doubtful ones about what the head was trained to compute."""
    return tuple(a for a in assumptions if a.doubtful and a.field not in _NO_MATTER)


def condition(assumption: Assumption) -> str:
    """What must hold for an assumption to be true, after "right if", such as ``trained on boundary ids 2, 40, 77``."""
    told = _CONDITIONS.get(assumption.field)
    return (told(assumption.value) if told else "") or f"{assumption.field} is {assumption.value}"


def shown_by(assumption: Assumption, code: str) -> bool:
    """Whether a finding of this code compares the engine with what was assumed."""
    return code.startswith(_SHOWN_BY.get(assumption.field, ("?",)))


# Verdicts of a preflight and their reasons


DTYPE_APART = "dtype-apart"
_OF_THE_TARGET = frozenset({"target-rope", "target-rope-scaling", "target-tokenizer", DTYPE_APART})
"""Findings about the target's own files, or about both models together, which the form of a folder cannot mend."""

Effect = Literal["right", "depends", "unknown", "silently_wrong", "refuses"]
EFFECTS: tuple[Effect, ...] = ("right", "depends", "unknown", "silently_wrong", "refuses")
"""From weakest to strongest: a refusal outweighs the rest, because a refused head does no silent harm."""


@dataclass(frozen=True, slots=True)
class Reason:
    """One thing an engine does with a head.

    Attributes:
        code: stable slug (``aux-layers``). effect: its consequence.
        sentence: what happens; the engine is the subject.
        source: the place in the engine (a file of the named version) that shows this, or how it was executed.
        hint: how to fix it, or None.
    """

    code: str
    effect: Effect
    sentence: str
    source: str
    hint: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return every field by name."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class PreflightVerdict:
    """What one engine version will do with a head.

    ``kind``: ``right`` (it loads the head and computes what the head was trained for), ``depends`` (the same, if what
    ``depends`` lists is true of the training), ``silently_wrong`` (it loads and serves the head but computes something
    else, so acceptance suffers), ``refuses`` (it stops at start-up or at the first request), ``unknown`` (not known
    here: it needs something we do not have). The worst reason comes first. ``depends`` lists the assumptions that
    the verdict rests on, ``assumed`` all that the truth about the head rests on. ``warning`` says, where another
    version was asked about, that it is judged as this one (`known_version`). ``note`` says what the version does wrong
    with every head; it is said where the verdict is not against these files.
    """

    engine: str
    version: str
    title: str
    kind: Effect
    reasons: tuple[Reason, ...]
    depends: tuple[Assumption, ...] = ()
    warning: str | None = None
    note: str | None = None
    assumed: tuple[Assumption, ...] = field(default=(), repr=False, compare=False)

    @property
    def condition(self) -> str:
        """What must be true of the training, to follow the verdict and "if"; empty if nothing is assumed."""
        return " and ".join(dict.fromkeys(condition(a) for a in self.depends))

    @property
    def words(self) -> str:
        """The verdict in words, such as ``right if trained on boundary ids 2, 40, 77``."""
        said = "right" if self.kind == "depends" else self.kind.replace("_", " ")
        return f"{said} if {self.condition}" if self.depends else said

    @property
    def noted(self) -> str | None:
        """The note, if the verdict is not against these files; None if there is no note."""
        return self.note if self.kind in ("right", "depends") else None

    @property
    def on_files(self) -> PreflightVerdict:
        """The verdict without what is wrong with the target's own config, which no file of a head can mend."""
        mendable = [reason for reason in self.reasons if reason.code not in _OF_THE_TARGET]
        return self._with(mendable)

    def with_settings(self, keys: Collection[str]) -> PreflightVerdict:
        """Return the verdict on the files together with a command that states these settings.

        What a reason's hint would have the user set no longer counts.
        """
        reasons = [r for r in self.reasons if not any(key in (r.hint or "") for key in keys)]
        return self._with(reasons)

    def _with(self, reasons: Iterable[Reason]) -> PreflightVerdict:
        found = weigh(self.engine, self.version, self.title, reasons, self.assumed)
        return dataclasses.replace(found, warning=self.warning, note=self.note)

    def to_json(self) -> dict[str, Any]:
        """Return the verdict as an entry of ``engines`` in ``--json`` output."""
        return {
            "engine": self.engine,
            "version": self.version,
            "title": self.title,
            "verdict": self.kind,
            "reasons": [r.to_json() for r in self.reasons],
            **({"depends": [a.to_json() for a in self.depends]} if self.depends else {}),
            **({"warning": self.warning} if self.warning else {}),
            **({"note": self.noted} if self.noted else {}),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> PreflightVerdict:
        """Read what `to_json` wrote; ``assumed`` is not in it."""
        return cls(
            engine=data["engine"],
            version=data["version"],
            title=data["title"],
            kind=data["verdict"],
            reasons=tuple(Reason(**reason) for reason in data["reasons"]),
            depends=tuple(Assumption(**assumed) for assumed in data.get("depends", ())),
            warning=data.get("warning"),
            note=data.get("note"),
        )


def weigh(
    engine: str, version: str, title: str, reasons: Iterable[Reason], assumed: Sequence[Assumption] = ()
) -> PreflightVerdict:
    """Return the verdict that follows from ``reasons``: the worst effect decides.

    ``assumed`` are the assumptions about the training that are doubtful (`doubts`). What would be right depends on
    them; another verdict rests on those that its deciding reasons compare the engine with.
    """
    ordered = sorted(reasons, key=lambda r: -EFFECTS.index(r.effect))
    kind = ordered[0].effect if ordered else "right"
    deciding = [r.code for r in ordered if r.effect == kind]
    if kind in ("right", "depends"):
        rests = tuple(assumed)
        kind = "depends" if rests else kind
    elif all(any(shown_by(a, code) for a in assumed) for code in deciding):
        rests = tuple(a for a in assumed if any(shown_by(a, code) for code in deciding))
    else:
        rests = ()
    return PreflightVerdict(engine, version, title, kind, tuple(ordered), rests, assumed=tuple(assumed))


# Contracts: what each engine version reads, needs and silently ignores
#
# ``engines/data/common/rules.toml`` holds the usual effect and sentence for each code of a finding. The
# ``contract.toml`` of a version lists the codes that matter to this version, each with its source; a code that is not
# listed does no harm there. A contract that builds on another version's states only the differences; a rule with the
# effect ``right`` and no words of its own cancels an inherited one. If the runners of a version read files differently
# from each other, ``[runners]`` states the differences for each.


Numbering = Literal["boundary", "after", "after-if-first-is-1", "boundary-if-last-layer"]
"""How an engine reads listed ids: ``boundary`` counts the layers that have run, ``after`` is the 0-based layer whose
output is taken. The last two mean ``after`` only if the first id is 1, and unless the largest id is the number of
layers.
"""


@dataclass(frozen=True, slots=True)
class ContractRule:
    """The effect of one finding on one engine; the finding's facts fill the format strings ``says`` and ``hint``."""

    effect: Effect
    says: str
    source: str
    hint: str | None

    @property
    def executed(self) -> bool:
        """Whether a probe showed it."""
        return EXECUTED.match(self.source) is not None

    def reason(self, code: str, facts: Mapping[str, object]) -> Reason:
        """Return the reason for a finding of this kind; without the hint where a fact that it names is None."""
        named = [field for _, field, _, _ in Formatter().parse(self.hint or "") if field is not None]
        unknown = any(facts.get(field, "") is None for field in named)
        hint = None if self.hint is None or unknown else self.hint.format_map(facts)
        return Reason(code, self.effect, self.says.format_map(facts), self.source, hint)


@dataclass(frozen=True, slots=True)
class AuxReading:
    """How an engine finds the aux layers.

    Attributes:
        places: config keys that may list ids, each with its numbering; the first key that has a list decides.
        default: boundary ids if no key has a list, as (first, L//2 + middle, L + last).
        last_layer: whether boundary L (after the last layer, before the final norm) can be captured.
        last_unfilled: whether what is captured there is memory that nothing fills.
        as_listed: whether states are taken in the listed order, and twice if listed twice; otherwise each state is
            taken once, in the order of the layers.
        branch: whether what a layer adds is captured, without what came before, in place of the state after it.
    """

    places: tuple[tuple[str, Numbering], ...]
    default: tuple[int, int, int]
    last_layer: bool
    as_listed: bool = False
    branch: bool = False
    last_unfilled: bool = False

    @property
    def default_layers(self) -> tuple[Layer, ...]:
        """The default as boundary ids of a target of L layers."""
        return tuple(Layer(of, plus) for of, plus in zip(("", "L//2", "L"), self.default, strict=True))


@dataclass(frozen=True, slots=True)
class RopeReading:
    """How an engine finds RoPE.

    Attributes:
        reader: ``standard`` or ``top_level``; see `eagle3hub.head.rope`.
        types: the types that it computes, by the names that it takes. ignored: those that it takes, and rotates
            without.
        partial: where it looks for ``partial_rotary_factor``.
        original: what it takes for ``original_max_position_embeddings`` where no key states it, if not the context.
    """

    reader: Reader
    types: frozenset[str]
    ignored: frozenset[str] = frozenset()
    partial: frozenset[Place] = frozenset()
    original: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodReading:
    """How an engine reads one method of quantization.

    Attributes:
        excludes, includes: keys whose list names what is left out, or what alone is quantized; the first that has one
            decides.
        unlisted: whether, where no list is stated, the engine makes one of the names that the file has.
        matching: how an entry is compared with the name of a module (`eagle3hub.head.quantization.MATCHINGS`).
        by_shards: fused modules (``qkv``, ``gate_up``) that are also compared by the names of their parts.
        dynamic: whether it obeys the expressions of ``dynamic`` that leave modules out.
        lm_head: whether it is quantized ``never``, ``as others`` are, or only ``if asked`` (``lm_head: true``).
        targeted: whether ``config_groups`` say what is quantized. untargeted: what happens to a linear module that no
            target names.
        needs: dotted keys without which the engine stops; alternatives separated by ``|``.
        forms: forms of numbers that it has code for. forms_of_some_devices: those that only some devices run.
        settings: by key, the values that it has code for (1 for true, 0 for false). any_precision: by key, the values
            that it serves in every precision; weights with others are served in float16 alone.
        whole_blocks: whether it stops where a weight of a fused module ends within a block of FP8.
    """

    matching: Literal[
        "equal", "equal-or-regex", "suffix-or-regex", "path", "substring", "glob-or-substring", "path-or-glob-of-part"
    ]
    excludes: tuple[str, ...] = ()
    includes: tuple[str, ...] = ()
    unlisted: bool = False
    dynamic: bool = False
    by_shards: frozenset[str] = frozenset()
    lm_head: Literal["never", "as others", "if asked"] = "never"
    targeted: bool = False
    untargeted: Literal["plain", "refuses"] = "plain"
    needs: tuple[str, ...] = ()
    forms: frozenset[str] = frozenset()
    forms_of_some_devices: frozenset[str] = frozenset()
    settings: Mapping[str, frozenset[int]] = field(default_factory=dict)
    any_precision: Mapping[str, frozenset[int]] = field(default_factory=dict)
    whole_blocks: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizationReading:
    """How an engine reads quantized drafts.

    Attributes:
        modules: names of the modules that can hold quantized weights, by kind (``fc``, ``lm_head``, ``qkv``, ``o``,
            ``gate_up``, ``down``); ``{n}`` is the number of the target's layers plus that of the draft's layer.
        methods: every ``quant_method`` that it knows (empty: not known). read: those whose code was read.
    """

    modules: Mapping[str, str] = field(default_factory=dict)
    methods: frozenset[str] = frozenset()
    read: Mapping[str, MethodReading] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ContractTerms:
    """How an engine reads files, as a contract states it.

    Attributes:
        architectures: accepted names, by kind of draft class (``llama``, ``qwen3``, ``mla``).
        any_architecture: whether every name is accepted.
        class_prefix: what it puts before a name that neither begins nor ends with it, to find the class.
        reads_nested: whether the engine understands speculators' nested config.
        layer_names, several_layer_names: prefixes of layer tensors that it maps (``midlayer.``, ``midlayer.{i}.``,
            ``layers.{i}.``), in a draft of one layer and of several layers (empty: the same as for one layer).
        model_prefix: whether names may begin with ``model.``. lm_head_prefix: whether that of lm_head may.
        flattens_d2t: whether it takes a d2t of several dimensions for a list.
        aux_norm_alias: whether aux_norm_low/mid/high are fc_norm.0/1/2.
        dropped: prefixes of names that it drops silently unless a flag asks for them.
        aux: how it reads aux layers.
        count_keys, count_lists: keys that set the width of fc (a number; else the length of a list; else 3).
        class_count_lists: the same lists, for a draft class that has its own.
        norms: keys for each norm flag; the first that is present decides.
        nested_norms: by speculators_model_type, the flags read from a nested config, each with its default (empty: as
            in a flat config).
        rope: how it reads RoPE.
        later_norm: norm before attention in layers after the first.
        attention_bias, fc_bias: whether it loads the biases of q/k/v/o (if ``attention_bias`` is set) and of fc (if
            ``bias`` is set). o_proj_bias: flags that make it build a bias of o_proj.
        mlp_width: by the draft's model type, the key for the width of its MLP where it is not ``intermediate_size``.
        own_embedding_if_other_width: whether it uses the file's embed_tokens if the widths differ.
        parallel_drafting_by: the runner that takes over for P-EAGLE heads, or None.
        quantization: how it reads quantized drafts.
        unconcerned: by code, errors of reading that do not concern the engine, each with the reason.
        mtp_types: model types of a draft's config that it takes for a model with multi-token prediction, and refuses;
            mtp_of_mla: of a draft with MLA attention, too.
        sets_dtype: architectures of targets whose dtype it sets itself, and the draft's with it.
    """

    architectures: Mapping[str, frozenset[str]]
    aux: AuxReading
    rope: RopeReading
    any_architecture: bool = False
    class_prefix: str = ""
    reads_nested: bool = False
    layer_names: frozenset[str] = frozenset()
    several_layer_names: frozenset[str] = frozenset()
    model_prefix: bool = False
    lm_head_prefix: bool = False
    flattens_d2t: bool = False
    aux_norm_alias: bool = False
    dropped: tuple[str, ...] = ()
    count_keys: tuple[str, ...] = ()
    count_lists: tuple[str, ...] = ()
    class_count_lists: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    norms: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    nested_norms: Mapping[str, Mapping[str, bool]] = field(default_factory=dict)
    later_norm: str = "input_layernorm"
    attention_bias: bool = False
    fc_bias: bool = False
    o_proj_bias: tuple[str, ...] = ()
    mlp_width: Mapping[str, str] = field(default_factory=dict)
    own_embedding_if_other_width: bool = False
    parallel_drafting_by: str | None = None
    quantization: QuantizationReading = QuantizationReading()
    unconcerned: Mapping[str, str] = field(default_factory=dict)
    mtp_types: frozenset[str] = frozenset()
    mtp_of_mla: bool = True
    sets_dtype: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineContract(ContractTerms):
    """What one version of one engine does with the files of a draft head.

    Attributes:
        engine, version: which engine (vLLM's two model runners count as versions). title: its name in messages.
        aux_by_target: by model type of the target, how it reads aux layers.
        only_targets: the only model types of targets that it drafts for (empty: no known limit).
        known_targets, not_targets: model types of targets that its source supports, and does not support (empty:
            unknown). newer_targets: types that came after it.
        rules: by code, the effect of a finding.
    """

    engine: str
    version: str
    title: str
    aux_by_target: Mapping[str, AuxReading]
    only_targets: frozenset[str]
    known_targets: frozenset[str]
    not_targets: frozenset[str]
    newer_targets: frozenset[str]
    rules: Mapping[str, ContractRule]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Differences:
    """How aux layers are read for a target, where it is another way."""

    places: tuple[tuple[str, Numbering], ...] | None = None
    default: tuple[int, int, int] | None = None
    last_layer: bool | None = None
    as_listed: bool | None = None
    branch: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Special(_Differences):
    """The same for several types of targets."""

    model_types: str | frozenset[str]


@dataclass(frozen=True, slots=True)
class _Ruling:
    """What a contract says about a finding, where it differs from the usual."""

    source: str | None = None
    effect: Effect | None = None
    says: str | None = None
    hint: str | None = None


@dataclass(frozen=True, slots=True)
class _Usual:
    """The usual effect of a finding; ``always`` means on every engine.

    ``executable``: whether it is about what an engine does, so that a probe can show it, not about what is known here.
    """

    effect: Effect
    says: str
    source: str | None = None
    hint: str | None = None
    always: bool = False
    executable: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class _File(ContractTerms):
    """A ``contract.toml`` for one runner. ``called`` replaces the version, or the runner's name, in messages.

    A string in place of a list of target types names a list in ``aux_defaults.toml``. ``aux_of`` is by type of target,
    and comes before ``aux_by_target``.
    """

    rules: Mapping[str, _Ruling]
    called: str | None = None
    aux_by_target: tuple[_Special, ...] = ()
    aux_of: Mapping[str, _Differences] = field(default_factory=dict)
    only_targets: str | frozenset[str] = frozenset()
    known_targets: str | frozenset[str] = frozenset()
    not_targets: str | frozenset[str] = frozenset()
    newer_targets: str | frozenset[str] = frozenset()


@cache
def contracts() -> tuple[EngineContract, ...]:
    """Return every contract, engine by engine, from the oldest version to the newest."""
    versions = ((engine, version) for engine in ENGINES for version in versions_with(engine, CONTRACT))
    return tuple(found for engine, version in versions for found in contracts_of_version(engine, version))


@cache
def contracts_of_version(engine: str, version: str) -> tuple[EngineContract, ...]:
    """Return the contracts of one version, one for each of its runners; none of a version that has no contract."""
    known = version in versions_with(engine, CONTRACT)
    return tuple(_contracts(engine, version, _document(engine, version))) if known else ()


@cache
def current_contracts() -> tuple[EngineContract, ...]:
    """Return the contracts of each engine's pinned version, and of the versions that its data name beside it."""
    return tuple(
        found
        for engine in ENGINES
        for version in versions_with(engine, CONTRACT)
        if version in (engine_data(engine).pinned, *engine_data(engine).beside)
        for found in contracts_of_version(engine, version)
    )


@cache
def _known_types() -> frozenset[str]:
    listed = [c.known_targets | c.not_targets | c.newer_targets | c.only_targets | c.mtp_types for c in contracts()]
    return frozenset[str]().union(*listed)


def is_known_type(kind: str) -> bool:
    """Whether a model_type is one that some version of transformers has, as far as the contracts list them."""
    return kind in _known_types() or kind.endswith("_text")


def contract(engine: str, version: str) -> EngineContract:
    """Return the contract of one engine version, such as ``0.19.0 V1``; see `known_version` for one not known.

    Raises UsageError, which lists the known versions.
    """
    number, _, runner = version.partition(" ")
    called = f"{known_version(engine, number, CONTRACT).version} {runner}".strip()
    for found in contracts_of_version(engine, called.partition(" ")[0]) if engine in ENGINES else ():
        if found.version == called:
            return found
    known = ", ".join(f"{c.engine} {c.version}" for c in contracts())
    raise UsageError(f"no contract describes {engine} {version}", hint=f"known: {known}", code="usage-engine-version")


@cache
def common_rules() -> Mapping[str, _Usual]:
    """Return, by code, the usual effect, sentence and hint; ``always`` marks rules that hold for every engine."""
    return build_each(_Usual, usual_rules(), "engines/data/common/rules.toml")


def only_read(terms: EngineContract) -> tuple[int, list[str]]:
    """Return how many rules of a contract are about what the engine does, and the codes of those never executed."""
    rules = {code: rule for code, rule in terms.rules.items() if common_rules()[code].executable}
    return len(rules), [code for code, rule in rules.items() if not rule.executed]


def _document(engine: str, version: str) -> dict[str, object]:
    """Return what a version's contract states, with what a probe found in place of what was read."""
    return version_document(engine, version, CONTRACT, _probed_over)


def _probed_over(engine: str, version: str, stated: dict[str, object]) -> dict[str, object]:
    found = probed(engine, version)
    return stated if found is None else overlaid(stated, found)


def contracts_of(found: Probed) -> list[EngineContract]:
    """Return the contracts of a version that somebody probed, one for each runner; the rest is from reading.

    Raises UsageError if ``found`` was made for a version of which nothing is known here.
    """
    base = found.reading_from or found.version
    if base not in versions_with(found.engine, CONTRACT):
        raise UsageError(
            f"no contract describes {engine_title(found.engine)} {base}, which {found.version} was read from",
            hint="probe the engine again with this eagle3hub",
            code="usage-engine-version",
        )
    return _contracts(found.engine, found.version, overlaid(_document(found.engine, base), found))


def _contracts(engine: str, version: str, stated: Mapping[str, Any]) -> list[EngineContract]:
    """Return the contracts of one version, one for each runner. Raises ValueError for a wrong file."""
    place = f"engines/data/{engine}/{version}/contract.toml"
    shared = {key: value for key, value in stated.items() if key != "runners"}
    if "runners" not in stated:
        return [_contract(engine, version, version, build(_File, shared, place))]
    files = {
        runner: build(_File, merge_tables(shared, own), f"{place}, runners.{runner}")
        for runner, own in stated["runners"].items()
    }
    return [_contract(engine, f"{version} {runner}", version, file) for runner, file in files.items()]


def _contract(engine: str, version: str, number: str, file: _File) -> EngineContract:
    rules = _rules(file.rules)
    lacking = _norm_codes(file) - set(rules)
    if lacking:
        raise ValueError(f"{engine} {version} reads norms and has no rules for {sorted(lacking)}")
    terms = {f.name: getattr(file, f.name) for f in dataclasses.fields(ContractTerms)}
    runner = version.removeprefix(number).strip()
    taken_over = file.parallel_drafting_by
    called = f"{number} {file.called or runner}" if runner else file.called or number
    return EngineContract(
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
        newer_targets=_types(file.newer_targets),
        rules=rules,
    )


def _norm_codes(terms: ContractTerms) -> set[str]:
    """Return the codes of all findings about the norm flags that an engine reads."""
    nested = terms.nested_norms.values()
    codes = {f"{flag}-assumed" for read in nested for flag, default in read.items() if default}
    for flag in {*terms.norms, *(flag for read in nested for flag in read)}:
        codes |= {"feedback", "feedback-open"} if flag == "norm_output" else {flag, f"{flag}-stated"}
    return {code.replace("_", "-") for code in codes}


def _aux_by_target(file: _File) -> dict[str, AuxReading]:
    found: dict[str, AuxReading] = {}
    for special in file.aux_by_target:
        for kind in _types(special.model_types):
            found[kind] = dataclasses.replace(found.get(kind, file.aux), **_stated(special))
    for kind, own in file.aux_of.items():
        read = dataclasses.replace(file.aux, **_stated(own))
        found |= {kind: read} if read != found.get(kind, file.aux) else {}
    return found


def _stated(own: _Differences) -> dict[str, Any]:
    found = {f.name: getattr(own, f.name) for f in dataclasses.fields(own) if f.name != "model_types"}
    return {name: value for name, value in found.items() if value is not None}


def _types(listed: str | frozenset[str]) -> frozenset[str]:
    return target_types(listed) if isinstance(listed, str) else listed


def _rules(own: Mapping[str, _Ruling]) -> dict[str, ContractRule]:
    usual = common_rules()
    rules: dict[str, ContractRule] = {}
    for code, always in usual.items():
        if not always.always and code not in own:
            continue
        said = own.get(code, _Ruling())
        if said.effect == "right" != always.effect and said.says is None:
            continue
        source = said.source or always.source
        if source is None:
            raise ValueError(f"the rule {code} does not say where it was read")
        hint = always.hint if said.hint is None else said.hint or None
        rules[code] = ContractRule(said.effect or always.effect, said.says or always.says, source, hint)
    unknown = set(own) - set(usual)
    if unknown:
        raise ValueError(f"rules for codes no finding has: {sorted(unknown)}")
    return rules
