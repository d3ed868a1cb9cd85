"""Read a head's files as an engine would, and find out what the head was trained to compute."""

from __future__ import annotations

import re
import sys
from array import array
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeVar

from eagle3hub.address import HubAddress, parse_address
from eagle3hub.checkpoint.folder import Checkpoint, open_checkpoint, read_tensor
from eagle3hub.checkpoint.safetensors import TensorRef, is_pickle
from eagle3hub.checkpoint.source import INDEX, PICKLE_INDEX
from eagle3hub.engines.preflight.contracts import doubts
from eagle3hub.errors import InputError, Problem
from eagle3hub.head import Assumption, Head
from eagle3hub.head.aux_defaults import AUX_IDS
from eagle3hub.head.fields import is_whole
from eagle3hub.head.quantization import (
    EIGHT_BITS,
    PACKED,
    PACKED_VALUES,
    QUANT_CONFIG,
    Scheme,
    json_object,
    scheme_in,
    stated_beside,
)
from eagle3hub.head.rope import ROPE_THETA, of_whole_heads, read_rope
from eagle3hub.head.vocab import check_vocab_map
from eagle3hub.layouts.base import LayoutFiles
from eagle3hub.layouts.hf_config import context_of, is_parted, joined
from eagle3hub.layouts.tensors import read_mask
from eagle3hub.system.reading import opened

# Compare embeddings: several engines always use the target's embed_tokens, even if the head has its own


Embedding = Literal["none", "own", "differs", "same", "foreign"]

_OF_HEAD = ("embed_tokens.weight", "model.embed_tokens.weight")
_OF_TARGET = ("model.embed_tokens.weight", "model.language_model.embed_tokens.weight", "embed_tokens.weight")
_CHUNK = 4 << 20


def target_embeddings(head: Head, target: str | None) -> Checkpoint | None:
    """Open the target's folder if the head has embeddings to compare with; otherwise return None."""
    if target is None or "embed_tokens.weight" not in head.tensors:
        return None
    at = parse_address(target)
    if isinstance(at, HubAddress) or not at.path.is_dir():
        return None
    try:
        return open_checkpoint(at)
    except InputError:
        return None


def compare_embeddings(head: Checkpoint, target: Checkpoint) -> Literal["differs", "same"] | None:
    """Compare two embeddings byte for byte; None if one is missing, or if dtypes or shapes differ."""
    ours, theirs = _first(head, _OF_HEAD), _first(target, _OF_TARGET)
    if ours is None or theirs is None or ours.remote is not None:
        return None
    if (ours.dtype, ours.shape) != (theirs.dtype, theirs.shape):
        return None
    return "same" if _same(ours, theirs) else "differs"


def _first(checkpoint: Checkpoint, names: tuple[str, ...]) -> TensorRef | None:
    return next((checkpoint.tensors[n] for n in names if n in checkpoint.tensors), None)


def _same(a: TensorRef, b: TensorRef) -> bool:
    with opened(a.path) as one, opened(b.path) as two:
        one.seek(a.offset)
        two.seek(b.offset)
        left = a.nbytes
        while left:
            count = min(_CHUNK, left)
            if one.read(count) != two.read(count):
                return False
            left -= count
    return True


# The files of a folder as an engine sees them, and what the head in it was trained to compute


T = TypeVar("T")
_NESTED_KEYS = (
    *("draft_vocab_size", "target_hidden_size", "norm_before_residual", "norm_before_fc", "fc_norm", "norm_output"),
    *(AUX_IDS, "tie_word_embeddings"),
)
_ON_MAP_ALONE = frozenset({"zero", "arange", "absolute", "double-subtracted", "out-of-range", "duplicate"})
_TYPECODES = {"I32": "i", "I64": "q"}
_NUMBERED = re.compile(r"(?:model\.)?(?:midlayer|layers)\.(\d{1,9})\.")
QUANTIZED_NAME = re.compile(
    r"_scale(_\d+|_inv)?$|_zero_point$|\.(qweight|qzeros|scales|g_idx|weight_packed|weight_shape|weight_g_idx)$"
    r"|\.(nested_)?(absmax|quant_map)$|\.quant_state\."
)
"""Names of tensors that accompany or replace a quantized weight: scales, zero points, packed values."""
_QUANTIZED = PACKED | EIGHT_BITS
PACKED_NAME = re.compile(rf"\.({'|'.join(PACKED_VALUES)})$")
"""Names of packed values, which stand for a weight."""


_MOST = 1000
"""Limit on the layers or hidden states that a hostile file can make us count; no real head comes near it."""


@dataclass(frozen=True, slots=True)
class HeadFiles:
    """A folder as an engine opens it.

    Attributes:
        config: the parsed config.json, including nulls. tensors: dtype and shape by name on disk.
        weights: names of the weights files. mislabelled: torch pickles among them that are named ``.safetensors``.
        quant_file: what ModelOpt's hf_quant_config.json holds; None where there is no such file.
        indexed: whether an index beside them names them. part: the key in a torch pickle under which they stand.
        stray: names of safetensors files beside the weights, without an index, that hold no part of the head.
        overlaid: whether a safetensors file that comes after the weights by its name holds a tensor of the same name
            with different contents. overlaid_first: the name of one that comes before them, or None.
        name: what the user calls the folder, empty for one that is only planned.
        alone: the name of a file beside the weights that vLLM loads in place of them, or None; foreign: whether it
            holds tensors that they do not have.
        more: the tensors of a head that only another file in the folder holds, which no index names, and that file.
        parted: whether config.json has the fields of the model in a part of their own (`is_parted`); ``config`` is
            then joined as vLLM does, with the ``method`` that it states.
        nested: whether config.json has speculators' nested form. fields: the Llama fields and the EAGLE-3 fields in
            one mapping, as readers of a nested config merge them.
    """

    config: Mapping[str, object]
    tensors: Mapping[str, tuple[str, tuple[int, ...]]]
    weights: tuple[str, ...]
    mislabelled: tuple[str, ...] = ()
    quant_file: Mapping[str, object] | None = None
    overlaid: bool = False
    overlaid_first: str | None = None
    indexed: bool = False
    part: str | None = None
    stray: tuple[str, ...] = ()
    name: str = field(default="", compare=False)
    alone: str | None = None
    foreign: bool = False
    more: Mapping[str, str] = field(default_factory=dict)
    parted: bool = False
    nested: bool = field(init=False)
    fields: Mapping[str, object] = field(init=False)

    def __post_init__(self) -> None:
        nested = self.config.get("transformer_layer_config")
        own = {k: v for k in _NESTED_KEYS if (v := self.config.get(k)) is not None}
        object.__setattr__(self, "nested", isinstance(nested, dict))
        object.__setattr__(self, "fields", {**nested, **own} if isinstance(nested, dict) else self.config)

    @property
    def serves_parallel(self) -> bool:
        """Whether it is a P-EAGLE head in speculators' format with target and draft tokens, which is served alone."""
        own = self.config.get("speculators_config")
        if self.config.get("speculators_model_type") != "peagle" or not (self.nested and isinstance(own, dict)):
            return False
        methods, verifier = own.get("proposal_methods"), own.get("verifier")
        first = methods[0] if isinstance(methods, list) and methods else None
        asked = first.get("speculative_tokens") if isinstance(first, dict) else None
        return type(asked) is int and isinstance(verifier, dict) and isinstance(verifier.get("name_or_path"), str)

    @property
    def says_quantized(self) -> str | None:
        """The place in the files that asks for quantized layers, or None.

        A null in config.json is no request, nor is ModelOpt's file where it names no form.
        """
        if self.config.get("quantization_config"):
            return "quantization_config"
        if self.quant_file is None or (self.scheme is not None and not self.scheme.fields.get("quant_algo")):
            return None
        return QUANT_CONFIG

    @property
    def scheme(self) -> Scheme | None:
        """How these files say that the weights are quantized, or None."""
        return scheme_in(self.config, self.quant_file)

    @property
    def says_sliding(self) -> bool:
        """Whether ``layer_types`` limits the attention of a layer."""
        kinds = self.fields.get("layer_types")
        return isinstance(kinds, list) and "sliding_attention" in kinds


@dataclass(frozen=True, slots=True)
class Truth:
    """What the head was trained to compute, whatever an engine does.

    Attributes:
        hidden_size, target_hidden_size, vocab_size, draft_vocab_size, num_layers: sizes.
        kind: its attention: ``llama``, ``qwen3`` (q/k norms) or ``mla``.
        uses_aux: False for a head whose input is the target's final post-norm state.
        num_aux: number of hidden states that its fc takes.
        boundaries: boundary ids of these states, in the order of fc's columns; None means the trainer's default.
        norm_before_residual, norm_before_fc, fc_norm: its norms.
        feedback: the hidden state that the next draft step gets; None if the files leave this open.
        rope_theta, rope_scaling: as trained; every trainer rotates whole attention heads. hidden_act: activation.
        sliding_window, parallel_drafting: whether it has them.
        quantized: whether its tensors are quantized, even if the config does not say so.
        map_fault: the fault of d2t (code without ``vocab-``), or None. map_doubt: a conflict between t2d and d2t, or
            None.
        map_known: whether a codec read a map, from d2t or another place.
        map_fits: whether draft id + d2t stays inside the vocabulary and never collides; None if not checked.
        embedding: ``none`` (not in the files), ``own`` (in the files, not compared), ``differs`` from the target's, or
            the ``same``; ``foreign`` if they differ and the head was trained with the target's.
    """

    hidden_size: int
    target_hidden_size: int
    vocab_size: int
    draft_vocab_size: int
    num_layers: int
    kind: Literal["llama", "qwen3", "mla"]
    uses_aux: bool
    num_aux: int
    boundaries: tuple[int, ...] | None
    norm_before_residual: bool
    norm_before_fc: bool
    fc_norm: bool
    feedback: Literal["pre_norm", "post_norm"] | None
    rope_theta: float
    rope_scaling: Mapping[str, object] | None
    hidden_act: str
    sliding_window: bool
    quantized: bool
    parallel_drafting: bool
    embedding: Embedding
    map_fault: str | None = None
    map_doubt: str | None = None
    map_fits: bool | None = None
    map_known: bool = field(default=False, compare=False)

    @property
    def reduced(self) -> bool:
        """Whether the draft vocabulary is smaller than the target's."""
        return self.draft_vocab_size != self.vocab_size


@dataclass(frozen=True, slots=True)
class ExaminedHead:
    """A head's files, and what the head was trained to compute.

    ``assumptions`` are the doubtful ones that ``truth`` rests on; ``errors`` are the errors that reading found.
    """

    files: HeadFiles
    truth: Truth
    assumptions: tuple[Assumption, ...] = field(default=(), compare=False)
    errors: tuple[Problem, ...] = ()


def examine(checkpoint: Checkpoint, head: Head | None = None, target: Checkpoint | None = None) -> ExaminedHead:
    """Read an opened folder for a preflight, with the head that a codec read from it, if one could.

    Without ``head``, what the head computes is inferred from the files by the trainers' conventions (flat configs list
    after-layer ids in ``eagle_config`` and boundary ids at top level). With the target's weights, the head's
    embed_tokens is compared with the target's, byte for byte.
    """
    files = HeadFiles(
        config=_as_read(checkpoint.config),
        tensors={name: (ref.dtype, ref.shape) for name, ref in checkpoint.tensors.items()},
        weights=tuple(path.name for path in checkpoint.weights),
        mislabelled=tuple(path.name for path in checkpoint.weights if _is_mislabelled(path)),
        quant_file=stated_beside(checkpoint) if (checkpoint.folder / QUANT_CONFIG).is_file() else None,
        overlaid=checkpoint.beside.overlaid,
        overlaid_first=checkpoint.beside.overlaid_first,
        indexed=bool(checkpoint.files & {INDEX, PICKLE_INDEX}),
        part=checkpoint.part,
        stray=checkpoint.beside.stray,
        name=checkpoint.source,
        alone=checkpoint.beside.alone,
        foreign=checkpoint.beside.foreign,
        more=checkpoint.beside.more,
        parted=is_parted(checkpoint.config),
    )
    truth = _with_map(infer_truth(files), checkpoint)
    if truth.embedding != "none" and target is not None:
        truth = replace(truth, embedding=compare_embeddings(checkpoint, target) or truth.embedding)
    errors = tuple(p for p in (checkpoint if head is None else head).problems if p.severity == "error")
    if head is None:
        return ExaminedHead(files, truth, errors=errors)
    return ExaminedHead(files, _with_head(truth, head), doubts(head.assumptions), errors)


def examine_written(head: Head, written: LayoutFiles, weights: Sequence[str]) -> ExaminedHead:
    """Examine a folder that is planned and not yet written: the files of ``head`` in some layout.

    ``weights``: names of the weights files to be written.
    """
    tensors = {tensor.name: (tensor.dtype, tuple(tensor.shape)) for tensor in written.tensors}
    beside = json_object(written.side_files[QUANT_CONFIG]) if QUANT_CONFIG in written.side_files else None
    files = HeadFiles(written.config, tensors, tuple(weights), quant_file=beside)
    return ExaminedHead(files, _with_head(infer_truth(files), head), doubts(head.assumptions))


def _as_read(config: Mapping[str, object]) -> Mapping[str, object]:
    """The config, in one part as vLLM joins it (``transformers_utils/configs/eagle.py``)."""
    if not is_parted(config):
        return config
    flat = joined(config)
    stated = flat.get("architectures")
    names = [name for name in stated if isinstance(name, str)] if isinstance(stated, list) else []
    named = [name if name.startswith("Eagle3") or name.endswith("Eagle3") else f"Eagle3{name}" for name in names]
    return {**flat, "architectures": named, "method": config.get("method")}


def _is_mislabelled(path: Path) -> bool:
    if path.suffix != ".safetensors" or not path.is_file():
        return False
    with opened(path) as f:
        return is_pickle(f.read(9))


def infer_truth(files: HeadFiles) -> Truth:
    """Infer what the head computes from its files alone, without reading the contents of the vocabulary map."""
    f, names = files.fields, files.tensors
    eagle = nested_object(files.config, "eagle_config")
    hidden = positive_int(f, "hidden_size", 0)
    target_hidden = positive_int(f, "target_hidden_size", hidden)
    vocab = positive_int(f, "vocab_size", 0)
    fc_inputs = inputs_of(files, "fc.weight")
    uses_aux = eagle.get("use_aux_hidden_state") is not False
    listed = layer_ids(f, AUX_IDS)
    after = None if files.nested else layer_ids(eagle, AUX_IDS)
    boundaries = listed if listed is not None else None if after is None else tuple(i + 1 for i in after)
    rope = read_rope(f, context=context_of(f))
    mla = any("kv_a_proj_with_mqa" in n or "kv_b_proj" in n for n in names)
    post = f.get("norm_output") is True or eagle.get("return_hidden_post_norm") is True
    return Truth(
        hidden_size=hidden,
        target_hidden_size=target_hidden,
        vocab_size=vocab,
        draft_vocab_size=_draft_vocab(files, f, vocab),
        num_layers=min(positive_int(f, "num_hidden_layers", _layers_held(names)), _MOST),
        kind="mla" if mla else "qwen3" if any("q_norm" in n for n in names) else "llama",
        uses_aux=uses_aux,
        num_aux=min(fc_inputs // target_hidden, _MOST) if fc_inputs is not None and target_hidden else 3,
        boundaries=boundaries if uses_aux else None,
        norm_before_residual=f.get("norm_before_residual") is True,
        norm_before_fc=f.get("norm_before_fc") is True
        or eagle.get("norm_before_fc") is True
        or shape_of(files, "input_norm.weight") is not None,
        fc_norm=f.get("fc_norm") is True or any("fc_norm." in n or "aux_norm_" in n for n in names),
        feedback="post_norm" if post else "pre_norm",
        rope_theta=ROPE_THETA if rope.theta is None else rope.theta,
        rope_scaling=rope.scaling,
        hidden_act=str(f.get("hidden_act") or "silu"),
        sliding_window=files.says_sliding,
        quantized=packed_weights(files) or any(QUANTIZED_NAME.search(n) for n in names),
        parallel_drafting=any("mask_hidden" in n for n in names),
        embedding=_embedding(files),
    )


def _layers_held(names: Iterable[str]) -> int:
    return max((int(found[1]) for name in names if (found := _NUMBERED.match(name))), default=0) + 1


_COPIED: Mapping[tuple[str, Embedding], Embedding] = {
    ("yes", "own"): "same",
    ("unsure", "own"): "same",
    ("unsure", "differs"): "foreign",
}
"""What embeddings in the files are, by whether the export copied the target's and what comparing them found."""


def _with_head(truth: Truth, head: Head) -> Truth:
    """Correct the truth with what a codec, the user or the target knows better than the files."""
    s = head.semantics
    known = replace(
        truth,
        norm_before_residual=s.norm_before_residual,
        norm_before_fc=s.norm_before_fc,
        fc_norm=s.fc_norm,
        feedback=None if head.feedback_is_open else s.feedback,
        rope_theta=s.rope.theta,
        rope_scaling=of_whole_heads(s.rope.scaling or {}),
        uses_aux=s.uses_aux,
        hidden_act=s.hidden_act,
        sliding_window=s.sliding_window is not None,
        draft_vocab_size=head.dims.draft_vocab_size,
        map_known=head.vocab_map is not None,
        embedding=_COPIED.get((head.copied_embeddings, truth.embedding), truth.embedding),
    )
    if not s.uses_aux:
        return replace(known, boundaries=None)
    if head.aux is None:
        return known
    if not head.aux.numbered:
        return replace(known, uses_aux=False, boundaries=None)
    return replace(known, boundaries=tuple(i + 1 for i in head.fc_order or head.aux.after_layer))


def _with_map(truth: Truth, checkpoint: Checkpoint) -> Truth:
    d2t, t2d = find_tensor(checkpoint.tensors, "d2t"), find_tensor(checkpoint.tensors, "t2d")
    if d2t is None or d2t.dtype not in _TYPECODES or d2t.shape != (truth.draft_vocab_size,):
        return truth
    values = array(_TYPECODES[d2t.dtype])
    values.frombytes(read_tensor(d2t))
    if sys.byteorder == "big":
        values.byteswap()
    return with_map_values(truth, values, None if t2d is None else read_mask(t2d))


def with_map_values(truth: Truth, d2t: Sequence[int], t2d: bytes | None) -> Truth:
    """Add the result of checking the contents of d2t, and of t2d if there is one."""
    _, status, _ = check_vocab_map(d2t, t2d, vocab_size=truth.vocab_size, draft_vocab_size=truth.draft_vocab_size)
    mapped = [i + x for i, x in enumerate(d2t)]
    fits = len(set(mapped)) == len(mapped) and all(0 <= t < truth.vocab_size for t in mapped)
    if status not in _ON_MAP_ALONE | {"ok", "full"}:  # t2d is at fault, and d2t may be by itself too
        _, alone, _ = check_vocab_map(d2t, None, vocab_size=truth.vocab_size, draft_vocab_size=truth.draft_vocab_size)
        status = alone if alone in _ON_MAP_ALONE else status
    fault = status if status in _ON_MAP_ALONE else None
    doubt = None if fault or status in {"ok", "full"} else status
    return replace(truth, map_fault=fault, map_doubt=doubt, map_fits=fits)


def _draft_vocab(files: HeadFiles, fields: Mapping[str, object], vocab: int) -> int:
    for name in ("lm_head.weight", "d2t"):
        shape = shape_of(files, name)
        if shape:
            return shape[0]
    return positive_int(fields, "draft_vocab_size", vocab)


def _embedding(files: HeadFiles) -> Embedding:
    if shape_of(files, "embed_tokens.weight") is None:
        return "none"
    return "differs" if files.config.get("embed_requires_grad") is True else "own"


def find_tensor(tensors: Mapping[str, T], name: str) -> T | None:
    """Return a tensor by its name, with or without the prefix ``model.``, or None."""
    return tensors.get(name) or tensors.get(f"model.{name}")


def shape_of(files: HeadFiles, name: str) -> tuple[int, ...] | None:
    """Return the shape of a tensor, with or without the prefix ``model.``, or None."""
    found = find_tensor(files.tensors, name)
    return None if found is None else found[1]


def inputs_of(files: HeadFiles, name: str) -> int | None:
    """Return the number of inputs of a matrix (``U8`` holds two 4-bit values per byte), or None if it is no matrix.

    Also None for values that are packed another way.
    """
    dtype, shape = find_tensor(files.tensors, name) or ("", ())
    return shape[1] * (2 if dtype == "U8" else 1) if len(shape) == 2 and dtype != "I32" else None


def packed_weights(files: HeadFiles, dtypes: Collection[str] = _QUANTIZED, of: str = ".weight") -> bool:
    """Whether a tensor whose name ends in ``of``, or replaces it, holds quantized values in one of these dtypes."""
    names = {PACKED_NAME.sub(".weight", name): dtype for name, (dtype, _) in files.tensors.items()}
    return any(name.endswith(of) and dtype in dtypes for name, dtype in names.items())


def nested_object(config: Mapping[str, object], name: str) -> Mapping[str, object]:
    """Return a nested object; empty if it is absent or null."""
    found = config.get(name)
    return found if isinstance(found, dict) else {}


def positive_int(fields: Mapping[str, object], name: str, default: int) -> int:
    """Return a positive integer, or the default if there is none."""
    found = fields.get(name)
    return found if type(found) is int and found > 0 else default


def layer_ids(fields: Mapping[str, object], name: str) -> tuple[int, ...] | None:
    """Return a list of layer ids, or None if it is absent or empty."""
    return whole_numbers(fields.get(name))


def whole_numbers(found: object) -> tuple[int, ...] | None:
    """Return a list of whole numbers, or None for anything else and for an empty list."""
    return tuple(map(int, found)) if isinstance(found, list) and found and all(map(is_whole, found)) else None
