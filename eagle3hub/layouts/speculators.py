"""The layout of vLLM's speculators library: a nested config, and embeddings of its own."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from eagle3hub.checkpoint.folder import Checkpoint, read_tensor
from eagle3hub.checkpoint.safetensors import TensorRef
from eagle3hub.errors import ConfigError, Hint, Problem, Refusal
from eagle3hub.head import Assumption, Head
from eagle3hub.head.aux_defaults import AUX_IDS
from eagle3hub.head.fields import Fields
from eagle3hub.head.rope import ROPE_THETA
from eagle3hub.layouts.aux_layers import Taps, taps_from, taps_or_fault
from eagle3hub.layouts.base import (
    AS_FOUND,
    Contract,
    LayoutFiles,
    Match,
    Need,
    ReadOptions,
    WriteOptions,
    refuse_inexpressible,
)
from eagle3hub.layouts.flat import tensors_to_write, with_quantization
from eagle3hub.layouts.hf_config import llama_fields, parse_llama, rope_fields, with_defaults
from eagle3hub.layouts.interpret import (
    Interpretation,
    build_head,
    earlier_files,
    interpreted,
    plain_semantics,
    rewritten,
    taps_of,
    torch_dtype,
)
from eagle3hub.layouts.tensors import by_research_code

# Reading and writing the config.json of speculators.


SCHEMA_VERSION = "0.9.0"
"""The release of speculators whose config we write."""

SETTLE_RESIDUAL = Hint("give --norm-before-residual", "--norm-before-residual")
"""The hint for a doubtful norm_before_residual."""

_KINDS = ("eagle3", "peagle")
_OF_VLLM = ("dflash", "dflash2", "dspark")  # transformers_utils/configs/speculators/algos.py of its pinned version
_MODEL_TYPES = ("llama", "qwen3")
_MODELOPT_EXPORT = "0.1.0.dev14"


def interpret_config(config: Mapping[str, Any]) -> Interpretation:
    """The meaning of a config. Raises ConfigError."""
    c = Fields(config)
    kind = c.text("speculators_model_type")
    if kind not in _KINDS:
        raise ConfigError(
            f"config.json says speculators_model_type: {kind}; this version reads {' and '.join(_KINDS)}",
            hint="name the folder of an EAGLE-3 or P-EAGLE head" + ("; vLLM serves this one" * (kind in _OF_VLLM)),
            code="config-kind",
        )
    if c.mapping("transformer_layer_config") is None:
        raise ConfigError(
            "config.json has no transformer_layer_config", hint="it must be an object", code="config-missing"
        )
    given = c.section("transformer_layer_config")
    layer_type = given.text("model_type", default="llama")
    if layer_type not in _MODEL_TYPES:
        raise ConfigError(
            f"config.json: transformer_layer_config: model_type is {layer_type}; this version reads "
            f"{' and '.join(_MODEL_TYPES)} layers",
            code="config-kind",
        )
    layer = Fields(with_defaults(given.data, layer_type), given.where)
    width = c.number("target_hidden_size", default=None)
    llama = parse_llama(
        Fields({**layer.data, **({"target_hidden_size": width} if width else {})}, layer.where), rope_theta=ROPE_THETA
    )
    before_fc, fc_norm = c.flag("norm_before_fc", default=False), c.flag("fc_norm", default=False)
    if before_fc and fc_norm:
        raise ConfigError(
            "config.json says both norm_before_fc and fc_norm, which exclude each other", code="config-norms"
        )
    before_residual, assumptions = _norm_before_residual(c)
    taps = taps_or_fault(lambda: _taps(c))
    verifier = c.section("speculators_config").section("verifier")
    names = verifier.get("architectures")
    return Interpretation(
        llama=llama,
        semantics=plain_semantics(
            llama,
            norm_before_residual=before_residual,
            norm_before_fc=before_fc,
            fc_norm=fc_norm,
            feedback="post_norm" if c.flag("norm_output", default=False) else "pre_norm",
            qk_norm=layer_type == "qwen3",
            parallel_drafting=kind == "peagle",
        ),
        **taps_of(taps),
        draft_vocab_size=c.number("draft_vocab_size", default=None),
        mask_token_id=token_id(c),
        target_name=verifier.text("name_or_path", default=None),
        target_architectures=[a for a in names if isinstance(a, str)] if isinstance(names, list) else [],
        speculative_tokens=_speculative_tokens(c),
        assumptions=assumptions,
        problems=taps.problems,
    )


def _taps(config: Fields) -> Taps:
    ids = config.layer_ids(AUX_IDS)
    return Taps() if ids is None else taps_from(ids, "boundary", "config", where=config.where)


def version_of(config: Mapping[str, object]) -> tuple[int, int] | None:
    """Major and minor of ``speculators_version``, or None."""
    match = re.match(r"(\d+)\.(\d+)", str(config.get("speculators_version") or ""))
    return (int(match[1]), int(match[2])) if match else None


def token_id(config: Fields) -> int | None:
    """mask_token_id, which may be 0."""
    value = config.token_ids("mask_token_id")
    return value if isinstance(value, int) else None


def _norm_before_residual(config: Fields) -> tuple[bool, list[Assumption]]:
    stated = config.flag("norm_before_residual", default=None)
    if stated is None:
        why = "the key is missing: the speculators library takes false, but vLLM takes true for such a folder"
        return False, [Assumption("norm_before_residual", False, why, SETTLE_RESIDUAL)]
    if stated and config.get("speculators_version") == _MODELOPT_EXPORT:
        why = (
            f"config.json says so, but its speculators_version {_MODELOPT_EXPORT} is that of ModelOpt's own "
            "converter, which writes true for every head, and ModelOpt trains with false"
        )
        return True, [Assumption("norm_before_residual", True, why, SETTLE_RESIDUAL)]
    return stated, []


def write_config(head: Head, options: WriteOptions) -> dict[str, Any]:
    """config.json of a head. Raises Refusal without a verifier, a number of draft tokens or P-EAGLE's mask token."""
    tokens = options.speculative_tokens or head.speculative_tokens
    if head.target_name is None:
        raise Refusal(
            "a speculators config names the verifier, and neither the source nor an option says which it is",
            hint="give --target, a folder or Hub id of the target model",
            code="refused-no-target",
        )
    if tokens is None:
        raise Refusal(
            "a speculators config says how many tokens to draft (vLLM requires it), and no number is safe to guess",
            hint="give --speculative-tokens K",
            code="refused-no-speculative-tokens",
        )
    s, d = head.semantics, head.dims
    if s.parallel_drafting and head.mask_token_id is None:
        raise Refusal(
            "a P-EAGLE config names the token that stands for positions not drafted yet (vLLM requires it), and the "
            "source does not (SpecForge keeps it in its training state only)",
            hint=Hint("give --mask-token-id", "--mask-token-id"),
            code="refused-no-mask-token",
        )
    kind = "peagle" if s.parallel_drafting else "eagle3"
    layer = {
        "architectures": ["Qwen3ForCausalLM" if s.qk_norm else "LlamaForCausalLM"],
        **llama_fields(s, d),
        **({"max_position_embeddings": head.max_position_embeddings} if head.max_position_embeddings else {}),
        **head.token_ids,
        **rope_fields(s.rope),
        "tie_word_embeddings": False,
    }
    return {
        "architectures": ["PEagleSpeculator" if s.parallel_drafting else "Eagle3Speculator"],
        "speculators_model_type": kind,
        "speculators_version": SCHEMA_VERSION,
        "draft_vocab_size": d.draft_vocab_size,
        "norm_before_residual": s.norm_before_residual,
        "norm_before_fc": s.norm_before_fc,
        "fc_norm": s.fc_norm,
        "norm_output": s.feedback == "post_norm",
        **({"mask_token_id": head.mask_token_id} if s.parallel_drafting else {}),
        **({AUX_IDS: head.aux.boundary} if head.aux is not None else {}),
        "tie_word_embeddings": False,
        "dtype": torch_dtype(head),
        "transformer_layer_config": layer,
        "speculators_config": {
            "algorithm": kind,
            "default_proposal_method": "greedy",
            "proposal_methods": [_proposal(tokens)],
            "verifier": {"name_or_path": head.target_name, "architectures": head.target_architectures},
        },
    }


def with_given(config: Mapping[str, Any], head: Head, options: WriteOptions) -> dict[str, Any]:
    """An earlier config with the verifier and the number of draft tokens that the user gives now, if any."""
    stated = config.get("speculators_config") or {}
    tokens = options.speculative_tokens
    changes: dict[str, Any] = {}
    if options.target_name is not None:
        named = {"name_or_path": options.target_name, "architectures": head.target_architectures}
        changes["verifier"] = {**(stated.get("verifier") or {}), **named}
    if tokens is not None:
        methods = stated.get("proposal_methods")
        first, *others = methods if isinstance(methods, list) and methods else [None]
        method = first if isinstance(first, dict) and first else _proposal(tokens)
        changes["proposal_methods"] = [{**method, "speculative_tokens": tokens}, *others]
    return {**config, "speculators_config": {**stated, **changes}} if changes else dict(config)


def _proposal(tokens: int) -> dict[str, object]:
    return {
        "proposal_type": "greedy",
        "speculative_tokens": tokens,
        "verifier_accept_k": 1,
        "accept_tolerance": 0.0,
    }


def _speculative_tokens(config: Fields) -> int | None:
    methods = config.section("speculators_config").get("proposal_methods")
    if not isinstance(methods, list) or not methods or not isinstance(methods[0], dict):
        return None
    return Fields(methods[0], "config.json: proposal_methods[0]").number("speculative_tokens", default=None)


# The codec (vllm-project/speculators 0.1 to 0.9, ``models/eagle3/config.py``, ``models/eagle3/core.py``).
#
# ``layers.{i}.*`` names, metadata ``format: pt``, d2t (int64 offsets) and t2d (bool) only where the vocabulary is
# reduced; a nested config: ``transformer_layer_config`` holds the Llama or Qwen3 fields, ``speculators_config`` names
# the verifier and the number of speculative tokens, and the aux layer ids are boundary ids at top level.


__all__ = ["SCHEMA_VERSION", "Speculators"]

_RANDOM_WEIGHTS = ((0, 2), (0, 4))
"""Releases whose converter left the decoder layer at its random initial values (fixed in 0.5.0)."""
_NORMS = ("input_layernorm", "hidden_norm", "post_attention_layernorm")
_ONE = {"BF16": b"\x80\x3f", "F16": b"\x00\x3c", "F32": b"\x00\x00\x80\x3f"}


class Speculators:
    """Codec of speculators folders."""

    name = "speculators"
    inert: frozenset[str] = frozenset()
    contract = Contract(
        title="speculators",
        tensor_prefix="layers.0.",
        forms=frozenset({"layers", "research"}),
        expresses=frozenset(
            {
                *("norm_before_residual", "norm_before_fc", "fc_norm", "post_norm_feedback", "sliding_window"),
                *("hidden_act", "rope_scaling", "embed_tokens", "aux_ids", "aux_count", "several_layers"),
                *("full_vocabulary", "unsorted_vocabulary", "attention_bias", "qk_norm", "parallel_drafting"),
            }
        ),
        vocab_dtype="I64",
        has_t2d=True,
        identity_map=False,
        metadata={"format": "pt"},
        aux_ids="top level (boundary)",
        engines=("vllm",),
        needs=(
            Need("verifier", "--target", "refused-no-target"),
            Need("number of draft tokens", "--speculative-tokens", "refused-no-speculative-tokens"),
            Need(
                "mask token of a P-EAGLE head",
                "--mask-token-id",
                "refused-no-mask-token",
                "where the source does not state it",
            ),
        ),
        cannot={
            "target_width": "speculators' model sizes fc by the head's own hidden size",
            "permuted_vocabulary": "speculators has no map where the vocabulary is full, and vLLM crashes on one",
            "no_aux": "speculators' model always has fc and hidden_norm",
            "mla": "speculators' models have Llama and Qwen3 layers only",
            "no_lm_head": "speculators' models always have an lm_head of their own",
        },
        reads=("0.1 (research names too)", "0.2-0.4 (random layers refused)", "0.5-0.9", "P-EAGLE"),
        writes=SCHEMA_VERSION,
    )

    def detect(self, checkpoint: Checkpoint) -> Match | None:
        """speculators_model_type, which no other layout has."""
        kind = checkpoint.config.get("speculators_model_type")
        return None if kind is None else Match(1.0, (f"speculators_model_type: {kind}",), certain=True)

    def interpret(self, config: Mapping[str, object]) -> Interpretation:
        """The meaning of a config. Raises ConfigError."""
        return interpret_config(config)

    def _meaning(self, config: Mapping[str, object], names: Collection[str]) -> Interpretation:
        """The meaning of a config; research code, known by its names of tensors, has another norm_before_residual."""
        meaning = self.interpret(config)
        if config.get("norm_before_residual") is not None or not by_research_code(names):
            return meaning
        why = (
            "the key is missing, and speculators' research code, which used these names of tensors, trained with true"
        )
        doubt = Assumption("norm_before_residual", True, why, SETTLE_RESIDUAL)
        others = [a for a in meaning.assumptions if a.field != doubt.field]
        semantics = replace(meaning.semantics, norm_before_residual=True)
        return replace(meaning, semantics=semantics, assumptions=[*others, doubt])

    def read(self, checkpoint: Checkpoint, options: ReadOptions = AS_FOUND) -> Head:
        """The head in the folder."""
        meaning = interpreted(lambda c: self._meaning(c, checkpoint.tensors), checkpoint.config, options)
        head = build_head(self.name, self.contract, checkpoint, meaning, options)
        version = version_of(checkpoint.config)
        if version is not None and _RANDOM_WEIGHTS[0] <= version <= _RANDOM_WEIGHTS[1] and _untrained(head):
            head.problems.append(
                Problem(
                    "warning" if options.allow_suspicious else "error",
                    "tensor-suspicious",
                    f"the norms of layer 0 are exactly one and speculators_version is {version[0]}.{version[1]}, "
                    "a release whose converter left the decoder layer at random initial values",
                    "convert the original head again, with eagle3hub or speculators 0.5 and later",
                )
            )
        return head

    def write(self, head: Head, options: WriteOptions) -> LayoutFiles:
        """The files of the head for speculators. Raises Refusal without a verifier or a number of draft tokens."""
        refuse_inexpressible(head, self.name, self.contract)
        names = head.carried[self.name].names.values() if self.name in head.carried else ()
        before = earlier_files(head, self.name, lambda config: self._meaning(config, names))
        assumptions: list[Assumption] = []
        notes: list[str] = []
        if before is not None:
            config = with_given(before.config, head, options)
            how = "as it was" if config == before.config else "with the verifier and draft tokens that were given"
            notes.append(f"config.json is that of the speculators folder this head came from, {how}")
        else:
            config = write_config(head, options)
            if head.layout == self.name:
                fresh, config = config, rewritten(head, config, self.interpret)
                config["speculators_config"] = _filled(config["speculators_config"], fresh["speculators_config"])
                config = with_given(config, head, options)
            name = config["speculators_config"]["verifier"]["name_or_path"]
            if isinstance(name, str) and name.startswith(("/", ".", "~")):
                why = "it is a local folder: others cannot serve the head by its own name"
                settle = "name the target's Hub id with --target-name"
                assumptions.append(Assumption("speculators_config.verifier.name_or_path", name, why, settle))
        tensors, metadata, origin = tensors_to_write(head, self.name, self.contract, before)
        return with_quantization(LayoutFiles(config, tensors, metadata, origin, assumptions, notes), head)


def _filled(source: Mapping[str, object], fresh: Mapping[str, object]) -> dict[str, object]:
    """An object of the source, completed at any depth; null and an empty list count as missing."""
    out = dict(source)
    for key, value in fresh.items():
        have = out.get(key)
        if have is None or have == []:
            out[key] = value
        elif isinstance(have, dict) and isinstance(value, dict):
            out[key] = _filled(have, value)
    return out


def _untrained(head: Head) -> bool:
    return all(_all_ones(head.tensors[f"layers.0.{norm}.weight"]) for norm in _NORMS)


def _all_ones(ref: TensorRef) -> bool:
    one = _ONE.get(ref.dtype)
    return one is not None and read_tensor(ref) == one * ref.num_elements
