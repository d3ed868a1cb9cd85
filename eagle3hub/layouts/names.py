"""Names of tensors: every trainer's spelling to the canonical one, and back.

Canonical is ``layers.{i}.…``. ``midlayer.`` is the one-layer spelling of SafeAILab, SpecForge, SpecJAX, AngelSlim and
ModelOpt up to 0.42; ``midlayer.{i}.`` that of ModelOpt 0.41-0.42 and Megatron for several layers; research code of
speculators 0.1 used no prefix at all.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from eagle3hub.errors import TensorError
from eagle3hub.head import TensorRef

BUFFERS = ("d2t", "t2d")

_MIDLAYERS = re.compile(r"midlayer\.(\d+)\.(.+)")
_LAYER = re.compile(r"layers\.(\d+)\.")
_ALIASES = {
    "aux_norm_low.weight": "fc_norm.0.weight",  # SGLang, models/llama_eagle3.py
    "aux_norm_mid.weight": "fc_norm.1.weight",
    "aux_norm_high.weight": "fc_norm.2.weight",
}
_RESEARCH = {  # speculators 0.1, research/eagle3/convert_checkpoint.py
    "hidden_norm.weight": "layers.0.hidden_norm.weight",
    "input_layernorm.weight": "layers.0.input_layernorm.weight",
    "lm_head_layernorm.weight": "norm.weight",
}


def canonical_tensors(tensors: Mapping[str, TensorRef], forms: Collection[str]) -> dict[str, TensorRef]:
    """Every weight by its canonical name; names in a form that is not among ``forms`` get a leading question mark.

    Raises TensorError where two names mean the same tensor.
    """
    out: dict[str, TensorRef] = {}
    for name, ref in tensors.items():
        if name in BUFFERS:
            continue
        canonical = _canonical(name, forms)
        if canonical in out:
            raise TensorError(
                f"{out[canonical].name} and {ref.name} are two spellings of the same tensor",
                hint="keep the one the head was trained with, and leave the other out with --drop",
                code="tensor-duplicate",
            )
        out[canonical] = ref
    return out if "midlayers" not in forms else _without_deep_norms(out)


def by_research_code(names: Collection[str]) -> bool:
    """Whether tensors are called as the research code of speculators 0.1 called them, ``model.`` before it or not."""
    return any(name.removeprefix("model.") in _RESEARCH for name in names)


def spelled(canonical: str, prefix: str) -> str:
    """The name a tensor has on disk under a layout that spells ``layers.0.`` as ``prefix``."""
    return prefix + canonical.removeprefix("layers.0.") if canonical.startswith("layers.0.") else canonical


def layer_of(canonical: str) -> int | None:
    """The decoder layer a tensor belongs to, or None."""
    match = _LAYER.match(canonical)
    return int(match[1]) if match else None


def layer_count(names: Collection[str]) -> int:
    """Number of decoder layers that canonical names speak of, at least 1."""
    return 1 + max((i for n in names if (i := layer_of(n)) is not None), default=0)


def _canonical(name: str, forms: Collection[str]) -> str:
    if name in _ALIASES:
        return _ALIASES[name]
    if "research" in forms and name in _RESEARCH:
        return _RESEARCH[name]
    if name.startswith("layers."):
        return name if "layers" in forms else f"?{name}"
    match = _MIDLAYERS.fullmatch(name)
    if match:
        return f"layers.{match[1]}.{match[2]}" if "midlayers" in forms else f"?{name}"
    if name.startswith("midlayer."):
        return f"layers.0.{name.removeprefix('midlayer.')}" if "midlayer" in forms else f"?{name}"
    return name


def _without_deep_norms(tensors: dict[str, TensorRef]) -> dict[str, TensorRef]:
    """Megatron's "Deep" export calls the input norm of layers 1 and up ``hidden_norm`` (ModelOpt, mcore_llama.py)."""
    for i in range(1, layer_count(tensors)):
        deep, usual = f"layers.{i}.hidden_norm.weight", f"layers.{i}.input_layernorm.weight"
        if deep in tensors and usual not in tensors:
            tensors[usual] = tensors.pop(deep)
    return tensors
