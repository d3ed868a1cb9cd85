"""Edits of order and dtype: aux layers, rows of the draft vocabulary, and the weights' dtype."""

from __future__ import annotations

from array import array
from dataclasses import replace

from eagle3hub.checkpoint.numbers import is_exact
from eagle3hub.checkpoint.safetensors import FLOATS, TORCH_NAME, TensorRef, is_scale
from eagle3hub.checkpoint.writer import cast, reordered
from eagle3hub.conversion.edits.change import Change, edited_configs, with_map
from eagle3hub.errors import ConfigError, Hint, Refusal, UsageError, VocabMapError
from eagle3hub.head import AuxTaps, Head
from eagle3hub.head.aux_defaults import AUX_IDS
from eagle3hub.head.vocab import VocabMap

# Cast the weights to another dtype.


DTYPES = {"bf16": "BF16", "fp16": "F16", "fp32": "F32"}
"""Dtype names on the command line, and in safetensors."""


def change_dtype(head: Head, name: str) -> tuple[Head, Change | None]:
    """Cast every weight whose dtype is not ``name``, rounding to nearest even; the change is None if all have it.

    Raises UsageError for an unknown name, Refusal for a quantized head.
    """
    if name not in DTYPES:
        raise UsageError(f"there is no dtype {name}", hint=f"choose one of {', '.join(DTYPES)}", code="usage-dtype")
    dtype = DTYPES[name]
    other = sorted({t.dtype for t in head.tensors.values()} - FLOATS)
    if other or head.semantics.quantization is not None:
        raise Refusal(
            f"--dtype {name}: the head is quantized ({', '.join(other) or head.semantics.quantization}), and casting "
            "its numbers would not dequantize it",
            hint="leave the option out, or export the head unquantized",
            code="refused-dtype-quantized",
        )
    changed = {n: t for n, t in head.tensors.items() if t.dtype != dtype}
    if not changed:
        return head, None
    lossy = sorted({t.dtype for t in changed.values() if not is_exact(t.dtype, dtype)})
    sources = ", ".join(sorted({t.dtype for t in changed.values()}))
    what = f"{len(changed)} of {len(head.tensors)} weights were cast from {sources} to {dtype}, " + (
        f"which is lossy: {', '.join(lossy)} holds numbers that {dtype} rounds"
        if lossy
        else "which is exact: every number keeps its value"
    )
    tensors = {n: cast(t, dtype) for n, t in head.tensors.items()}
    out = edited_configs(
        replace(head, tensors=tensors), dict.fromkeys(("torch_dtype", "dtype"), lambda _: TORCH_NAME[dtype])
    )
    names = sorted(t.name for t in changed.values())
    evidence = "rounded to nearest, ties to even" if lossy else f"{dtype} has every value of {sources}"
    return out, Change(f"dtype:{name}", what, evidence, names, not lossy)


# Sort a head's draft vocabulary or its aux hidden states without changing what the head computes.


def resort_vocab(head: Head) -> tuple[Head, Change]:
    """Permute the rows of lm_head and the entries of d2t together, so that target ids ascend.

    Every row keeps its bytes, and every target token keeps its logit. Raises VocabMapError if there is no map to sort
    by, and Refusal for a quantized lm_head.
    """
    vocab = head.vocab_map
    if vocab is None:
        head.raise_for_errors()
        raise VocabMapError(
            "--resort-vocab: the head covers the target's full vocabulary in its order, so there is nothing to sort",
            hint="leave the option out",
            code="vocab-nothing-to-sort",
        )
    if vocab.is_sorted:
        raise VocabMapError(
            "--resort-vocab: the draft vocabulary is in ascending order already",
            hint="leave the option out",
            code="vocab-nothing-to-sort",
        )
    touched = [n for n in head.tensors if n.startswith("lm_head.")]
    if touched != ["lm_head.weight"] or head.tensors["lm_head.weight"].dtype not in FLOATS:
        raise Refusal(
            f"--resort-vocab permutes the rows of lm_head.weight, and this head also has {', '.join(touched)}",
            hint="convert to a layout that keeps the order: --to modelopt or --to speculators",
            code="refused-resort-quantized",
        )
    lm_head = head.tensors["lm_head.weight"]
    order = sorted(range(len(vocab.target_id)), key=vocab.target_id.__getitem__)
    moved = sum(1 for i, j in enumerate(order) if i != j)
    rows = reordered(lm_head, order, lm_head.nbytes // lm_head.shape[0])
    ids = array("q", sorted(vocab.target_id))
    full = len(ids) == vocab.vocab_size
    out = with_map(head, None if full else VocabMap(ids, vocab.vocab_size, "offset"))
    out = replace(out, tensors={**head.tensors, "lm_head.weight": rows})
    what = f"{moved} of {len(ids)} rows of lm_head were moved, with their entries of d2t, so that target ids ascend"
    return out, Change("resort-vocab", what, "every row keeps its bytes", [lm_head.name, "d2t"])


def sort_aux(head: Head) -> tuple[Head, Change]:
    """Permute the weights of each aux hidden state so that layer ids ascend.

    These are the column blocks of fc, parts of input_norm and mask_hidden, and the fc_norm of each state. Raises
    ConfigError if the order is ascending already, and Refusal for a quantized fc.
    """
    ids = head.fc_order
    if ids is None:
        raise ConfigError(
            "--sort-aux: the aux layers are in ascending order already, or none are named",
            hint=Hint(
                "leave the option out, or give the order of fc's column blocks with --aux-layers", "--aux-layers"
            ),
            code="config-aux-sorted",
        )
    order = sorted(range(len(ids)), key=ids.__getitem__)
    tensors = dict(head.tensors)
    touched: list[str] = []
    quantized = [
        n for n in tensors if n.startswith("fc.") and (is_scale(n) or "packed" in n or tensors[n].dtype not in FLOATS)
    ]
    if quantized:
        raise Refusal(
            f"--sort-aux permutes the columns of fc, which is quantized ({', '.join(quantized)})",
            hint="export the head unquantized",
            code="refused-sort-quantized",
        )
    for name in ("fc.weight", "input_norm.weight", "mask_hidden"):
        if name in tensors:
            ref = tensors[name]
            width = ref.nbytes // ref.num_elements * ref.shape[-1] // len(ids)
            tensors[name] = reordered(ref, order, width)
            touched.append(ref.name)
    norms: dict[str, TensorRef] = {}
    for new, old in enumerate(order):
        ref_or_none = tensors.get(f"fc_norm.{old}.weight")
        if ref_or_none is not None and new != old:
            norms[f"fc_norm.{new}.weight"] = ref_or_none
            touched.append(ref_or_none.name)
    what = f"the column blocks of fc were put from the order {list(ids)} into {sorted(ids)}"
    change = Change("sort-aux", what, "every block keeps its bytes and stays with its layer", touched)
    out = edited_configs(head, {AUX_IDS: sorted})
    problems = [p for p in head.problems if p.code != "config-aux-order"]
    aux = AuxTaps.from_after_layer(sorted(ids), head.aux.origin if head.aux is not None else "config")
    return replace(out, tensors={**tensors, **norms}, problems=problems, aux=aux, fc_order=None), change
