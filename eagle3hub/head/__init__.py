"""What a draft head is, independent of every trainer's files.

`Head` is the one canonical description that every layout codec reads into and writes from. Nothing here
knows a file format, and nothing here holds tensor data: a `TensorRef` says where the bytes lie.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from eagle3hub.checkpoint.safetensors import TensorRef, main_dtype
from eagle3hub.errors import ConfigError, Problem
from eagle3hub.head.aux_defaults import aux_default, shown
from eagle3hub.head.vocab import VocabMap
from eagle3hub.system.html import Cell, panel, rows
from eagle3hub.system.text import readable_count

if TYPE_CHECKING:
    from eagle3hub.checkpoint.folder import Checkpoint
    from eagle3hub.head.target import TargetFacts


class _FinalNorm(Enum):
    FINAL_NORM = "final_norm"


FINAL_NORM = _FinalNorm.FINAL_NORM
"""The tap that is not a number: the target's last hidden state *after* its final norm."""

OPEN_FEEDBACK = "config-norm-output"
"""Code of the problem of a norm_output with two meanings: it does not tell which state the head feeds back, or whether
the final norm comes before lm_head."""

Tap = int | Literal[_FinalNorm.FINAL_NORM]
AuxOrigin = Literal["config", "flag", "default"]
_IN_WORDS = {2: "two", 3: "three", 4: "four"}


@dataclass(frozen=True, slots=True)
class AuxTaps:
    """Which hidden states of the target feed the draft head, in the order of fc's column blocks.

    The canonical number of a tap is its *after-layer* id: tap k is the output of 0-based decoder layer k,
    before the final norm. `boundary` numbers are k + 1, the index into ``output_hidden_states`` and the
    convention of vLLM and speculators; SGLang, TensorRT-LLM, SpecForge, ModelOpt and SpecJAX use after-layer
    ids (vLLM ``model_executor/models/interfaces.py``; SGLang ``srt/models/llama.py``).
    Build one with `from_after_layer`, `from_boundary` or `default_for`, never from a bare list.
    """

    taps: tuple[Tap, ...]
    origin: AuxOrigin

    @classmethod
    def from_after_layer(cls, ids: Sequence[int], origin: AuxOrigin) -> AuxTaps:
        """Taps from after-layer ids (0-based layer whose output is tapped)."""
        return cls(_checked(ids, lowest=0), origin)

    @classmethod
    def from_boundary(cls, ids: Sequence[int], origin: AuxOrigin) -> AuxTaps:
        """Taps from boundary ids (number of layers that have run, 1 or more)."""
        return cls(tuple(i - 1 for i in _checked(ids, lowest=1)), origin)

    @classmethod
    def default_for(cls, num_target_layers: int, layout: str | None = None, model_type: str | None = None) -> AuxTaps:
        """The layers that ``aux_defaults.toml`` has for a target: everybody's, or those of one trainer.

        Args:
            layout: the trainer's layout. model_type: the target's.

        Raises ConfigError where the target has too few layers for different ascending taps.
        """
        default = aux_default(layout)
        ids = default.numbers(num_target_layers, model_type)
        if min(ids) < 0 or any(a >= b for a, b in pairwise(ids)):
            raise ConfigError(
                f"a target of {num_target_layers} layers has no default aux taps: "
                f"({shown(default.layers_for(model_type))}) = ({', '.join(map(str, ids))}) is not "
                f"{_IN_WORDS.get(len(ids), len(ids))} different layers in ascending order",
                code="config-aux-collapsed",
            )
        return cls(tuple(ids), "default")

    @classmethod
    def final_norm(cls, origin: AuxOrigin) -> AuxTaps:
        """The single tap of a head that reads the target's final post-norm hidden state instead of aux layers."""
        return cls((FINAL_NORM,), origin)

    @property
    def numbered(self) -> bool:
        """Whether every tap is a layer's output and so has a number."""
        return FINAL_NORM not in self.taps

    @property
    def after_layer(self) -> list[int]:
        """After-layer ids. Raises ConfigError if one of the taps is `FINAL_NORM`, which has no number."""
        ids = [tap for tap in self.taps if isinstance(tap, int)]
        if len(ids) != len(self.taps):
            raise ConfigError(
                "the head reads the target's final post-norm hidden state, which no list of layer ids can name",
                code="config-aux-final-norm",
            )
        return ids

    @property
    def boundary(self) -> list[int]:
        """Boundary ids: after-layer ids plus one."""
        return [i + 1 for i in self.after_layer]

    @property
    def is_default(self) -> bool:
        """Whether these are the default taps of *some* target depth, so that naming no ids may mean them."""
        return self.numbered and self.is_default_of(self.default_depth)

    @property
    def default_depth(self) -> int:
        """The only depth of a target that can have these taps as its default: the one whose last tap this is."""
        return self.after_layer[-1] - aux_default().layers[-1].plus

    def is_default_of(self, num_target_layers: int) -> bool:
        """Whether these are the default taps of a target of this depth."""
        return list(self.taps) == aux_default().numbers(num_target_layers)

    def __len__(self) -> int:
        return len(self.taps)


def _checked(ids: Sequence[int], lowest: int) -> tuple[int, ...]:
    bad = [i for i in ids if isinstance(i, bool) or not isinstance(i, int) or i < lowest]
    if bad or not ids:
        raise ConfigError(f"aux layer ids {list(ids)!r} are not integers of {lowest} or more", code="config-aux-ids")
    if any(a >= b for a, b in pairwise(ids)):
        raise ConfigError(
            f"aux layer ids {list(ids)} are not ascending and distinct; every engine captures in ascending order, "
            "so fc's column blocks cannot be in this order",
            code="config-aux-order",
        )
    return tuple(ids)


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary position embedding as trained: base ``theta`` and, if any, the scaling parameters.

    ``scaling`` holds the keys of transformers' ``rope_scaling`` (``rope_type``, ``factor``, …), never the
    theta; None means plain RoPE. Llama heads rotate the two halves of a vector against each other ("neox"), MLA heads
    its neighbouring numbers ("interleaved", "gptj").
    """

    theta: float
    scaling: Mapping[str, object] | None = None


@dataclass(frozen=True, slots=True)
class Semantics:
    """What the head computes, apart from shapes and bytes.

    ``uses_aux: false`` is a head that reads the target's final post-norm hidden state instead of aux layers: it has
    no fc. ``joins_embedding: false`` is one whose first layer does not join this state with the token's embedding
    either, so that it has no hidden_norm and q/k/v over H; every other head joins them. ``attention_bias`` puts a bias
    on q, k and v, and on o where the head has one for it; ``fc_bias`` puts one on fc. ``sliding_layers`` are the draft
    layers whose attention is limited to ``sliding_window`` tokens.
    ``quantization`` is the method by which weights are quantized, as the config calls it (``modelopt``, ``quark``,
    ``compressed-tensors``, ``fp8``, ``gptq``, ``awq``, or another; ``unknown`` where it says nothing), and
    ``quantized_as`` are the formats of their numbers (``FP8``, ``INT8``, ``NVFP4``, several joined by ``+``); both are
    None for plain weights.
    ``feedback`` says which hidden state the next draft step receives: the one before the head's final norm
    (``pre_norm``, EAGLE-3) or after it (``post_norm``, EAGLE-3.1; engines spell it ``norm_output: true``).
    ``attention`` is ``gqa`` (Llama's, and Qwen3's with ``qk_norm``) or ``mla`` (DeepSeek's multi-head latent
    attention, whose sizes are in `Dims.mla`); biases of MLA are those of q_a_proj, kv_a_proj_with_mqa and o_proj.
    """

    rope: Rope
    rms_norm_eps: float
    hidden_act: str = "silu"
    norm_before_residual: bool = False
    norm_before_fc: bool = False
    fc_norm: bool = False
    feedback: Literal["pre_norm", "post_norm"] = "pre_norm"
    uses_aux: bool = True
    joins_embedding: bool = True
    attention_bias: bool = False
    fc_bias: bool = False
    qk_norm: bool = False
    sliding_window: int | None = None
    sliding_layers: tuple[int, ...] = ()
    num_layers: int = 1
    quantization: str | None = None
    quantized_as: str | None = None
    parallel_drafting: bool = False
    attention: Literal["gqa", "mla"] = "gqa"

    def to_json(self) -> dict[str, Any]:
        """Every field by name, ``rope`` as an object."""
        out: dict[str, object] = asdict(self)
        out["sliding_layers"] = list(self.sliding_layers)
        out["rope"] = {"theta": self.rope.theta, "scaling": dict(self.rope.scaling) if self.rope.scaling else None}
        return out


@dataclass(frozen=True, slots=True)
class MlaDims:
    """Sizes of multi-head latent attention (DeepSeek-V2, arXiv:2405.04434, section 2.1).

    Keys and values of all heads come from one vector of ``kv_lora_rank`` numbers a token, queries from one of
    ``q_lora_rank`` (None: straight from the input, by q_proj). In each head, query and key have ``qk_nope_head_dim``
    numbers without a rotation, then ``qk_rope_head_dim`` with one (the key's are the same in all heads); a value has
    ``v_head_dim``.
    """

    q_lora_rank: int | None
    kv_lora_rank: int
    qk_nope_head_dim: int
    qk_rope_head_dim: int
    v_head_dim: int


@dataclass(frozen=True, slots=True)
class Dims:
    """Sizes of a head. ``vocab_size`` is the target's (as in its config), ``draft_vocab_size`` the head's.

    With ``mla``, ``head_dim`` is the length of a query, and ``num_key_value_heads`` is ``num_attention_heads``.
    """

    hidden_size: int
    target_hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    draft_vocab_size: int
    mla: MlaDims | None = None

    def to_json(self) -> dict[str, Any]:
        """Every size by name; ``mla`` only where there are such."""
        return {name: size for name, size in asdict(self).items() if name != "mla" or size is not None}


def assumed_in_words(name: str, value: Any) -> str:
    """What an assumption with this field and value takes for true, in words."""
    if name == "aux":
        return "the default aux layers" if value is None else f"aux layers after {', '.join(map(str, value))}"
    if value is None:
        return f"{name}, which is not known"
    shown = f"{value:.15g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else value
    return f"{name} = {shown}"


@dataclass(frozen=True, slots=True)
class Assumption:
    """A fact that the source does not state and that a result depends on; ``--strict`` refuses it.

    Attributes:
        field: what it is about. value: what is taken for it, or None. why: the reason. settle: how to make it certain.
        doubtful: whether an engine's verdict that rests on it says so (``depends``). False where the trainer's code
            leaves no doubt that matters.
    """

    field: str
    value: Any
    why: str
    settle: str
    doubtful: bool = True

    @property
    def said(self) -> str:
        """What is assumed, in words, to follow "assumed"."""
        return assumed_in_words(self.field, self.value)

    def to_json(self) -> dict[str, Any]:
        """The assumption as an entry of ``assumptions`` in ``--json`` output and in the provenance file."""
        found = {"field": self.field, "value": self.value, "why": self.why, "settle": self.settle}
        return found if self.doubtful else {**found, "doubtful": False}


@dataclass(frozen=True, slots=True)
class Carried:
    """How one layout stored this head earlier, so that it can be written the same again.

    ``config`` is that layout's config.json, ``buffers`` the dtype of each vocabulary buffer it held
    (``{"d2t": "I32", "t2d": "BOOL"}``), ``metadata`` its safetensors header metadata, ``names`` the name on disk of
    each tensor (by canonical name) whose name is not the one that layout uses today.
    """

    config: Mapping[str, object]
    buffers: Mapping[str, str]
    metadata: Mapping[str, str] | None
    names: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Head:
    """One EAGLE-3 draft head.

    Attributes:
        layout: name of the layout it was read from.
        source: what was opened, as the user typed it.
        dims: sizes.
        semantics: what it computes.
        aux: which target layers feed it, or None where neither the source nor the user said.
        fc_order: after-layer ids in the order of fc's column blocks where that is not ascending (then ``problems``
            holds the error ``config-aux-order``), or None.
        one_list: aux layer ids that stand in two lists of the config that mean different numberings, as long as the
            numbering is assumed; else None.
        vocab_map: draft-to-target map, or None for a head over the full vocabulary (or with a wrong map).
        vocab_status: ``ok``, ``full``, or what is wrong with the map.
        tensors: canonical name -> where the bytes lie; weights only, vocabulary buffers excluded.
        buffers: dtype of each vocabulary buffer found (``d2t``, ``t2d``).
        metadata: metadata of the safetensors header, or None.
        config: the source's config.json, verbatim.
        max_position_embeddings: longest context in tokens the config states, or None.
        token_ids: bos/eos/pad ids the config states.
        target_name: Hub id or path of the target named by the source, or None.
        target_architectures, target_model_type: the target's ``architectures`` and ``model_type``, where known.
        num_target_layers, target_context: its depth and its context in tokens, where known.
        speculative_tokens: K recommended by the source, or None.
        mask_token_id: token that stands for positions not drafted yet (P-EAGLE), or None.
        other_names: name on disk, by canonical name, of each tensor and buffer whose name is not today's.
        copied_embeddings: whether embed_tokens.weight is no part of the head, because its trainer uses the target's
            and keeps them as they are: the export copied them, or (``unsure``) may have written random numbers.
        side_files: small files that belong to the head besides config and weights, by name.
        carried: how earlier layouts stored it, from the provenance file.
        target: the target that the user named, if it fits.
        made_for: names of the engines that a folder was or shall be made for; empty means not for some only.
        assumptions, problems: what is not known, and what is wrong.
        opened: the folder as it was opened, every tensor included; None for a head that was not read from one.
    """

    layout: str
    source: str
    dims: Dims
    semantics: Semantics
    aux: AuxTaps | None
    vocab_map: VocabMap | None
    vocab_status: str
    tensors: dict[str, TensorRef]
    buffers: dict[str, str]
    metadata: dict[str, str] | None
    config: dict[str, object]
    max_position_embeddings: int | None = None
    token_ids: dict[str, int | list[int]] = field(default_factory=dict)
    target_name: str | None = None
    target_architectures: list[str] = field(default_factory=list)
    target_model_type: str | None = None
    num_target_layers: int | None = None
    target_context: int | None = None
    speculative_tokens: int | None = None
    mask_token_id: int | None = None
    fc_order: tuple[int, ...] | None = None
    one_list: tuple[int, ...] | None = None
    other_names: dict[str, str] = field(default_factory=dict)
    copied_embeddings: Literal["no", "unsure", "yes"] = "no"
    side_files: dict[str, bytes] = field(default_factory=dict)
    carried: dict[str, Carried] = field(default_factory=dict)
    made_for: tuple[str, ...] = ()
    target: TargetFacts | None = field(default=None, compare=False, repr=False)
    assumptions: list[Assumption] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    opened: Checkpoint | None = field(default=None, compare=False, repr=False)

    @property
    def has_default_aux(self) -> bool:
        """Whether a config that names no layers means these taps; without the target's depth, any default will do."""
        if self.aux is None or self.num_target_layers is None:
            return self.aux is None or self.aux.is_default
        return self.aux.is_default_of(self.num_target_layers)

    @property
    def feedback_is_open(self) -> bool:
        """Whether the source's norm_output has two meanings; ``semantics.feedback`` is then a guess."""
        return any(p.code == OPEN_FEEDBACK for p in self.problems)

    def semantics_to_json(self) -> dict[str, object]:
        """What it computes, as plain data; the feedback is ``open`` if the source leaves it open."""
        if not self.feedback_is_open:
            return self.semantics.to_json()
        denied = " (norm_output: false)" if self.config.get("norm_output") is False else ""
        return self.semantics.to_json() | {"feedback": f"open{denied}"}

    @property
    def num_parameters(self) -> int:
        """Number of weights; vocabulary buffers and the scales of quantized weights are none."""
        bits = {"INT2": 2, "INT3": 3, "INT8": 8}.get(self.semantics.quantized_as or "", 4)
        packed = [t for t in self.tensors.values() if t.dtype == "I32" and t.num_parameters]
        others = sum(t.num_parameters for t in self.tensors.values() if t.dtype != "I32")
        return others + sum(t.nbytes * 8 // bits for t in packed)

    @property
    def dtype(self) -> str:
        """Safetensors name of the dtype most weights have, counted in elements."""
        return main_dtype(self.tensors.values())

    def raise_for_errors(self) -> None:
        """Raise the first problem of severity ``error``, if there is one."""
        for problem in self.problems:
            if problem.severity == "error":
                raise problem.to_error()

    def _repr_html_(self) -> str:
        d, taps = self.dims, self.aux
        facts = [
            ("layout", self.layout),
            ("parameters", f"{readable_count(self.num_parameters)}, {self.dtype}"),
            ("sizes", f"hidden {d.hidden_size}, {d.num_attention_heads} heads of {d.head_dim}"),
            ("vocabulary", f"{d.draft_vocab_size:,} of {d.vocab_size:,} tokens, map {self.vocab_status}"),
            ("aux layers", "not named" if taps is None else ", ".join(str(tap) for tap in taps.taps)),
            ("target", self.target_name or "not named"),
        ]
        wrong = [(Cell(p.severity, p.severity), p.message) for p in self.problems]
        assumed = [(a.said, a.why) for a in self.assumptions]
        return panel(self.source, rows(facts), rows(wrong, ("problem", "")), rows(assumed, ("assumed", "why")))
