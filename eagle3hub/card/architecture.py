"""The architecture table, computed from the head's own tensors."""

from __future__ import annotations

import re
from dataclasses import dataclass

from eagle3hub.head import AuxTaps, Head, Semantics

_DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64", "F8_E4M3": "float8 (e4m3)"}
_LAYER = re.compile(r"layers\.(\d+)\.(self_attn|mlp)\.")
_FIRST_LAYER = re.compile(r"^layers\.0\.")


@dataclass(frozen=True, slots=True)
class Part:
    """A group of tensors: its name, each tensor with its shape, and how many parameters they hold."""

    name: str
    tensors: tuple[str, ...]
    parameters: str


@dataclass(frozen=True, slots=True)
class Architecture:
    """What the card prints about the network: ``facts`` are (label, text) rows."""

    parts: tuple[Part, ...]
    parameters: str
    dtype: str
    size_bytes: int
    facts: tuple[tuple[str, str], ...]


def describe(head: Head) -> Architecture:
    """The architecture of a head, from its tensors' names and shapes and its semantics."""
    groups: dict[str, list[str]] = {}
    for name in sorted(head.tensors, key=lambda n: (_rank(n), _layer(n), n)):
        groups.setdefault(_part_name(name), []).append(name)
    refs = head.tensors
    parts = tuple(
        Part(
            part,
            tuple(f"{_short(n)} {_shape(refs[n].shape)}" for n in names),
            f"{sum(refs[n].num_parameters for n in names):,}",
        )
        for part, names in groups.items()
    )
    return Architecture(
        parts,
        f"{head.num_parameters:,}",
        _DTYPES.get(head.dtype, head.dtype),
        sum(t.nbytes for t in head.tensors.values()),
        tuple(_facts(head)),
    )


def _part_name(name: str) -> str:
    """The part a tensor belongs to, by its canonical name."""
    if match := _LAYER.match(name):
        return f"Layer {match[1]}, {'attention' if match[2] == 'self_attn' else 'MLP'}"
    if name.startswith("fc."):
        return "Fusion of the target's hidden states"
    if "norm" in name:
        return "Norms"
    return {"lm_head": "Output head", "embed_tokens": "Token embedding"}.get(name.split(".")[0], "Other")


def _rank(name: str) -> int:
    order = ("embed_tokens.", "fc.", "layers.", "norm", "lm_head.")
    if "norm" in name and ".self_attn." not in name:
        return order.index("norm")
    return next((i for i, prefix in enumerate(order) if name.startswith(prefix)), len(order))


def _layer(name: str) -> tuple[int, bool]:
    match = _LAYER.match(name)
    return (int(match[1]), match[2] == "mlp") if match else (0, False)


def _short(name: str) -> str:
    return _FIRST_LAYER.sub("", _LAYER.sub("", name)).removesuffix(".weight")


def _shape(shape: tuple[int, ...]) -> str:
    return " × ".join(str(n) for n in shape) if shape else "scalar"


def _facts(head: Head) -> list[tuple[str, str]]:
    d, s = head.dims, head.semantics
    layers = "one decoder layer" if s.num_layers == 1 else f"{s.num_layers} decoder layers"
    rows = [
        (
            "Draft network",
            f"{layers}, hidden size {d.hidden_size:,}, MLP size {d.intermediate_size:,}, {s.hidden_act}",
        ),
        ("Attention", f"{d.num_attention_heads} heads, {d.num_key_value_heads} key-value heads of {d.head_dim}"),
        ("Hidden states read", _aux(head.aux) if s.uses_aux else "the target's last hidden state only"),
        ("Draft vocabulary", _vocabulary(head)),
        ("Token embedding", _embedding(head)),
        ("Position embedding", _rope(s)),
        ("Norms", f"RMSNorm, epsilon {s.rms_norm_eps:g}"),
    ]
    if head.max_position_embeddings:
        rows.append(("Longest context", f"{head.max_position_embeddings:,} tokens"))
    return rows + _variants(s)


def _aux(aux: AuxTaps | None) -> str:
    if aux is None:
        return "not recorded"
    names = [str(tap) if isinstance(tap, int) else "the final norm" for tap in aux.taps]
    counted = all(isinstance(tap, int) for tap in aux.taps)
    origin = " (the default choice; the files name none)" if aux.origin == "default" else ""
    also = f"; hidden_states indices {', '.join(str(i) for i in aux.boundary)}" if counted else ""
    return f"after target layers {', '.join(names)}, counted from 0{also}{origin}"


def _vocabulary(head: Head) -> str:
    d = head.dims
    if d.draft_vocab_size == d.vocab_size:
        return f"the target's {d.vocab_size:,} tokens"
    return f"{d.draft_vocab_size:,} of the target's {d.vocab_size:,} tokens ({d.draft_vocab_size / d.vocab_size:.1%})"


def _embedding(head: Head) -> str:
    return "its own" if "embed_tokens.weight" in head.tensors else "shared with the target, not stored"


def _rope(s: Semantics) -> str:
    text = f"RoPE, theta {s.rope.theta:,.0f}"
    if not s.rope.scaling:
        return text
    return f"{text}, {', '.join(f'{key} {value}' for key, value in sorted(s.rope.scaling.items()))}"


def _variants(s: Semantics) -> list[tuple[str, str]]:
    rows = [
        ("Attention bias", "yes" if s.attention_bias else ""),
        ("Query and key norms", "yes" if s.qk_norm else ""),
        ("Norm before the residual", "yes" if s.norm_before_residual else ""),
        ("Norm before the fusion", "yes" if s.norm_before_fc else ""),
        ("Norm of each hidden state", "yes" if s.fc_norm else ""),
        ("Fed back between draft steps", "the normed hidden state" if s.feedback == "post_norm" else ""),
        ("Sliding window", f"{s.sliding_window:,} tokens" if s.sliding_window else ""),
        ("Quantization", s.quantization or ""),
        ("Parallel drafting", "yes" if s.parallel_drafting else ""),
    ]
    return [(label, text) for label, text in rows if text]
