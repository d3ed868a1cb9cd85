"""The draft head in plain torch: RoPE, attention, one forward pass, and loading its weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F

from eagle3hub.checkpoint.folder import read_tensor
from eagle3hub.checkpoint.pickles import StridedRef
from eagle3hub.checkpoint.safetensors import BITS, TORCH_NAME
from eagle3hub.errors import Refusal, TensorError
from eagle3hub.head.rope import ORIGINAL, Scaling, from_original, lacking, with_original

if TYPE_CHECKING:
    from eagle3hub.checkpoint.safetensors import TensorRef
    from eagle3hub.head import Dims, Head, Rope, Semantics

# Rotary position embedding of a draft head: plain, partial, and the scaled kinds linear, llama3 and yarn.
#
# A scaled kind changes the frequencies; yarn also changes the length of the rotated vectors. Formulas and key names
# are those of transformers ``modeling_rope_utils.py``, which vLLM and SGLang follow.


Table = tuple[torch.Tensor, torch.Tensor]
"""Cosines and sines, float32 [..., 1, rotated dimensions / 2]: one of each for every position and frequency."""


def rotary_table(
    rope: Rope, head_dim: int, positions: torch.Tensor, context: int | None, *, mla: bool = False
) -> Table:
    """Compute the rotation at positions [...] (int64).

    ``context`` is the head's ``max_position_embeddings``, for scaled kinds that do not state the trained length.
    ``mla``: the head has MLA attention, where yarn's length follows DeepSeek's formula.
    Raises Refusal (``reference-rope``) for a kind that the reference does not compute, or one that lacks parameters.
    """
    inverse, length, _ = _frequencies(rope.theta, _plain(rope), head_dim, context, mla)
    angles = positions[..., None, None].float() * inverse.to(positions.device)
    return angles.cos() * length, angles.sin() * length


def mla_weight(rope: Rope, head_dim: int, context: int | None) -> float:
    """The factor of MLA's attention scores beside 1 / sqrt(length of a query): 1 but for yarn.

    Arguments and errors as for `rotary_table`.
    """
    return _frequencies(rope.theta, _plain(rope), head_dim, context, True)[2]


def rotate(x: torch.Tensor, table: Table) -> torch.Tensor:
    """Rotate [..., heads, head_dim]: pairs (i, i + n/2) of the first n dimensions; the others stay as they are."""
    cos, sin = (part.to(x.dtype) for part in table)
    half = cos.shape[-1]
    a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], dim=-1)


def rotate_neighbours(x: torch.Tensor, table: Table) -> torch.Tensor:
    """Rotate all of [..., heads, head_dim] in pairs (2i, 2i + 1), as MLA heads do."""
    cos, sin = (part.to(x.dtype) for part in table)
    a, b = x[..., ::2], x[..., 1::2]
    return torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(-2)


def _plain(rope: Rope) -> tuple[tuple[str, Any], ...]:
    return tuple(sorted((k, v) for k, v in (rope.scaling or {}).items() if isinstance(v, (str, int, float))))


@lru_cache(maxsize=64)
def _frequencies(
    theta: float, scaling: tuple[tuple[str, Any], ...], head_dim: int, context: int | None, mla: bool
) -> tuple[torch.Tensor, float, float]:
    """Return radians per position, the factor on the length of rotated vectors, and that of MLA's attention scores.

    The radians are float32 [rotated dimensions / 2].
    """
    given: Scaling = {**dict(scaling), "rope_theta": theta}
    kind = given.get("rope_type", "default")
    if kind not in _SCALED and kind != "default":
        raise Refusal(
            f"the head's RoPE is of type {kind!r}, which the reference cannot compute",
            hint=f"types it knows: default, {', '.join(_SCALED)}",
            code="reference-rope",
        )
    given = with_original(given, context) or given
    if kind == "yarn" and given.get("factor") is None and context is not None:  # as transformers; engines stop at it
        given["factor"] = context / given[ORIGINAL]
    needs = (*lacking(given), *((ORIGINAL,) if from_original(given) else ()))
    missing = [key for key in needs if given.get(key) is None]
    if missing:
        raise Refusal(
            f"the head's RoPE is of type {kind!r} but its config does not say {' or '.join(missing)}",
            hint="add it to rope_scaling in the head's config.json, as trained",
            code="reference-rope",
        )
    rotated = int(head_dim * float(given.get("partial_rotary_factor", 1.0)))
    inverse = 1.0 / theta ** (torch.arange(0, rotated, 2).float() / rotated)
    if kind == "default":
        return inverse, 1.0, 1.0
    slowed, length = _SCALED[kind](inverse, given)
    return (slowed, *(_mla_yarn(given) if mla and kind == "yarn" else (length, 1.0)))


def _linear(inverse: torch.Tensor, given: Scaling) -> tuple[torch.Tensor, float]:
    return inverse / given["factor"], 1.0


def _llama3(inverse: torch.Tensor, given: Scaling) -> tuple[torch.Tensor, float]:
    """Slow down frequencies below ``low_freq_factor`` turns within the trained length, with a blend to the others."""
    turns = given["original_max_position_embeddings"] * inverse / (2 * math.pi)
    low, high = given["low_freq_factor"], given["high_freq_factor"]
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return inverse * kept + inverse / given["factor"] * (1 - kept), 1.0


def _yarn(inverse: torch.Tensor, given: Scaling) -> tuple[torch.Tensor, float]:
    """Scale like llama3, with a blend that is linear in the index of the dimension (arXiv:2309.00071, section 3)."""
    factor, rotated = given["factor"], 2 * len(inverse)

    def index_that_turns(times: float) -> float:
        trained = given["original_max_position_embeddings"]
        return rotated * math.log(trained / (times * 2 * math.pi)) / (2 * math.log(given["rope_theta"]))

    low, high = index_that_turns(given.get("beta_fast") or 32), index_that_turns(given.get("beta_slow") or 1)
    if given.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rotated - 1)
    slowed = ((torch.arange(len(inverse)) - low) / max(high - low, 0.001)).clamp(0, 1)
    length = given.get("attention_factor")
    if length is None:
        some, every = given.get("mscale"), given.get("mscale_all_dim")
        length = _mscale(factor, some) / _mscale(factor, every) if some and every else _mscale(factor, 1)
    return inverse * (1 - slowed) + inverse / factor * slowed, float(length)


def _mla_yarn(given: Scaling) -> tuple[float, float]:
    """The length of rotated vectors and the factor of all scores.

    Without mscale and mscale_all_dim, DeepSeek takes 1 and 0 (the modeling code of DeepSeek-V2 and Kimi-K2, and vLLM's
    ``rotary_embedding/deepseek_scaling_rope.py``).
    """
    factor, some, every = given["factor"], given.get("mscale", 1.0), given.get("mscale_all_dim", 0.0)
    all_scores = _mscale(factor, every or 0.0)
    return _mscale(factor, some) / all_scores, all_scores**2


def _mscale(factor: float, weight: float) -> float:
    return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0


_SCALED = {"linear": _linear, "llama3": _llama3, "yarn": _yarn}


# The two memories of a draft head's attention: for one growing draft, and for drafts at all positions of a text.
#
# Keys and values of a draft position that come from the target's own aux states are the same for every draft; only the
# entries that a draft appends to itself are its own. `Memory` keeps one sequence and drops what verification rejected.
# `Everywhere` keeps the shared part of all positions once, and beside it each draft's own few entries, so that all
# positions of many texts draft at the same time, as in training-time test.


_CHUNK = 1 << 24
"""Most attention scores held at a time, in elements: 64 MiB in float32, of which a few copies exist at once."""


@dataclass(slots=True)
class Memory:
    """Keys and values of one draft, position by position: [length, kv heads, head_dim] per layer.

    ``windows[layer]`` limits how far back a layer sees, in positions, itself included; None means no limit.
    """

    windows: tuple[int | None, ...]
    keys: dict[int, torch.Tensor] = field(default_factory=dict)
    values: dict[int, torch.Tensor] = field(default_factory=dict)

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Append n positions; each attends to everything up to itself. All arguments are [n, heads, head_dim]."""
        if layer in self.keys:
            k, v = torch.cat([self.keys[layer], k]), torch.cat([self.values[layer], v])
        self.keys[layer], self.values[layer] = k, v
        q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
        return _causal(q, k, v, self.windows[layer])[0].transpose(0, 1)

    def forget(self, length: int) -> None:
        """Keep only the first ``length`` positions."""
        for layer in self.keys:
            self.keys[layer] = self.keys[layer][:length]
            self.values[layer] = self.values[layer][:length]


class Everywhere:
    """Drafts that begin at chosen positions of B texts, all computed at once.

    First, `shared` stores one pass over every position [B, T]. Then `begin` takes ``starts`` [B, Q] (positions;
    padding is computed and thrown away), and each `attend` appends one entry to every draft. A draft that began at
    position i attends to the shared entries up to i and to its own. `keep` drops drafts.
    """

    def __init__(self, windows: tuple[int | None, ...]) -> None:
        self._windows = windows
        self._shared: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # [B, kv, T, d]
        self._own: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # [B, Q, s, kv, d]
        self._starts: torch.Tensor | None = None

    def shared(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Compute causal attention of every position [B, T, heads, head_dim], and store what all drafts share."""
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        self._shared[layer] = k, v
        return _causal(q, k, v, self._windows[layer]).transpose(1, 2)

    def begin(self, starts: torch.Tensor) -> None:
        """Begin a draft at each of ``starts``, int64 [B, Q]."""
        self._starts = starts
        self._own.clear()

    def keep(self, chosen: torch.Tensor) -> None:
        """Keep only the drafts at ``chosen`` of each text, int64 [B, Q'], indices into the present ones."""
        assert self._starts is not None
        self._starts = self._starts.gather(1, chosen)
        index = chosen[:, :, None, None, None]
        for layer, (k, v) in self._own.items():
            kept = (x.gather(1, index.expand(-1, -1, *x.shape[2:])) for x in (k, v))
            self._own[layer] = next(kept), next(kept)

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Append one more entry to every draft; arguments are [B, Q, heads, head_dim]."""
        assert self._starts is not None
        k, v = k.unsqueeze(2), v.unsqueeze(2)
        if layer in self._own:
            k, v = torch.cat([self._own[layer][0], k], dim=2), torch.cat([self._own[layer][1], v], dim=2)
        self._own[layer] = k, v
        texts, drafts, heads, _ = q.shape
        step = max(1, _CHUNK // (texts * heads * self._shared[layer][0].shape[2]))
        parts = [self._mix(layer, q[:, i : i + step], slice(i, i + step)) for i in range(0, drafts, step)]
        return torch.cat(parts, dim=1)

    def _mix(self, layer: int, q: torch.Tensor, part: slice) -> torch.Tensor:
        """Softmax over the shared and the draft's own entries together, for the drafts in ``part``."""
        assert self._starts is not None
        shared_k, shared_v = self._shared[layer]
        own_k, own_v = (x[:, part] for x in self._own[layer])
        starts, window = self._starts[:, part], self._windows[layer]
        texts, drafts, heads, size = q.shape
        kv_heads, length, own, width = shared_k.shape[1], shared_k.shape[2], own_k.shape[2], own_v.shape[-1]
        q = q.reshape(texts, drafts, kv_heads, heads // kv_heads, size) * size**-0.5

        far = q.permute(0, 2, 3, 1, 4).flatten(2, 3) @ shared_k.transpose(-1, -2)  # [B, kv, group * Q, T]
        far = far.view(texts, kv_heads, -1, drafts, length)
        near = torch.einsum("bqkgd,bqskd->bkgqs", q, own_k)
        at = torch.arange(length, device=q.device)
        hidden = at > starts[..., None]  # [B, Q, T]
        if window is not None:
            here = starts[..., None] + own  # the position of this draft's newest entry
            hidden = hidden | (here - at >= window)
            age = own - 1 - torch.arange(own, device=q.device)
            near = near.masked_fill(age >= window, float("-inf"))
        far = far.masked_fill_(hidden[:, None, None], float("-inf"))
        weights = torch.cat([far, near], dim=-1).float().softmax(-1).to(q.dtype)
        from_shared, from_own = weights[..., :length], weights[..., length:]
        mixed = (from_shared.flatten(2, 3) @ shared_v).view(texts, kv_heads, -1, drafts, width)
        mixed = mixed + torch.einsum("bkgqs,bqskd->bkgqd", from_own, own_v)
        return mixed.permute(0, 3, 1, 2, 4).flatten(2, 3)


def _causal(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int | None) -> torch.Tensor:
    """Compute attention [B, heads, n, d] of the last n positions in ``k``, in parts to limit memory."""
    texts, heads, new, _ = q.shape
    length = k.shape[2]
    step = max(1, _CHUNK // (texts * heads * length))
    parts = []
    for begin in range(length - new, length, step):
        end = min(begin + step, length)
        at, key = (torch.arange(*ends, device=q.device) for ends in ((begin, end), (0, end)))
        seen = key <= at[:, None]
        if window is not None:
            seen = seen & (at[:, None] - key < window)
        here = q[:, :, begin - (length - new) : end - (length - new)]
        parts.append(
            F.scaled_dot_product_attention(here, k[:, :, :end], v[:, :, :end], attn_mask=seen, enable_gqa=True)
        )
    return torch.cat(parts, dim=2)


# What an EAGLE-3 draft head computes, written in plain torch to be read.
#
# A draft head extends a text by one token at a time. To propose what follows token x[i+1] it takes
#
# - the **features** of position i: aux hidden states that the target computed there, concatenated in ascending order
#   of layers and projected by ``fc`` to the head's own hidden size, and
# - the **embedding** of token x[i+1],
#
# normalises both, joins them, and runs one decoder layer (rarely more) whose attention sees all earlier positions of
# the draft. ``norm`` and ``lm_head`` turn the result into logits over the draft vocabulary; ``d2t`` names the target
# token behind each. To draft further, the layer's own output takes the place of the features (*feedback*), with the
# token just drafted: no target is needed. (EAGLE-3, arXiv:2503.01840, section 3; the same arithmetic as vLLM's
# ``model_executor/models/llama_eagle3.py`` and SGLang's ``srt/models/llama_eagle3.py``; for heads with MLA attention,
# as theirs ``deepseek_eagle3.py`` and ``kimi_k25_eagle3.py``.)
#
# `DraftModel` holds the weights and does this arithmetic for the positions it is given. The caller decides what the
# earlier positions are and where their keys and values are kept (`Memory`, `Everywhere`): drafting one token after
# another, and drafting at all positions of a text at once, use the same head with a different memory.


_PART = 32 << 20
"""Most bytes of a stored matrix in memory at a time, as stored and as computed with."""
_STATES = 1 << 24
"""Most aux hidden states that are normed and projected at a time, in elements: 64 MiB in float32."""


@dataclass(frozen=True, slots=True)
class StoredMatrix:
    """A matrix that stays in its file, for weights larger than memory should hold: its rows are read when used.

    Attributes:
        ref: where its rows lie, one after the other. dtype: what they are converted to.
    """

    ref: TensorRef
    dtype: torch.dtype

    def __post_init__(self) -> None:
        assert self.may_hold(self.ref), "rows that follow one another in a local file"

    @staticmethod
    def may_hold(ref: TensorRef) -> bool:
        """Whether rows of a tensor can be read one by one: not over the network, nor from a view of another tensor."""
        return len(ref.shape) == 2 and ref.remote is None and not isinstance(ref, StridedRef)

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and columns."""
        return self.ref.shape

    @property
    def device(self) -> torch.device:
        """The device that computes with the rows."""
        return torch.device("cpu")

    def __len__(self) -> int:
        return self.shape[0]

    def first(self, rows: int) -> StoredMatrix:
        """The matrix of the first so many rows."""
        return replace(self, ref=self._ref(0, min(rows, len(self))))

    def parts(self) -> Iterator[tuple[int, torch.Tensor]]:
        """Yield all rows in parts of limited size, each with the number of its first row."""
        width = max(BITS[self.ref.dtype] // 8, self.dtype.itemsize)
        step = max(1, _PART // (width * self.shape[1]))
        for begin in range(0, len(self), step):
            yield begin, self._read(begin, min(begin + step, len(self)))

    def take(self, index: torch.Tensor) -> torch.Tensor:
        """Return the rows with numbers ``index`` [...] -> [..., columns]."""
        wanted, place = torch.unique(index, return_inverse=True)
        return torch.cat([self._read(row, row + 1) for row in wanted.tolist()])[place]

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``x`` [..., columns] times the transposed matrix -> [..., rows]."""
        out = x.new_empty(*x.shape[:-1], len(self))
        for begin, rows in self.parts():
            out[..., begin : begin + len(rows)] = F.linear(x, rows)
        return out

    def _ref(self, begin: int, end: int) -> TensorRef:
        row = self.ref.nbytes // self.shape[0]
        offset, nbytes = self.ref.offset + begin * row, (end - begin) * row
        return replace(self.ref, shape=(end - begin, self.shape[1]), offset=offset, nbytes=nbytes)

    def _read(self, begin: int, end: int) -> torch.Tensor:
        return _load(self._ref(begin, end), self.dtype)


Attend = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""(layer, queries [..., heads, d], keys [..., kv heads, d], values [..., kv heads, e]) -> mixed values.

The result is [..., heads, e]. Scores are divided by sqrt(d); d and e differ in MLA heads only.
"""

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "relu2": lambda x: F.relu(x).square(),
}


@dataclass(frozen=True, slots=True)
class DraftModel:
    """A draft head's weights and arithmetic.

    Attributes:
        weights: tensors by canonical name, all of one floating dtype on one device; some may stay in their files.
        embeddings: [target vocabulary, hidden size], the head's own or the target's, of any floating dtype: only the
            rows of the tokens at hand are converted to the dtype of the weights.
        target_ids: int64 [draft vocabulary], the target token behind each draft id; None for a full vocabulary.
        mask_token_id: stands for tokens not drafted yet (P-EAGLE only).

    Arguments may have any leading dimensions. Positions are absolute, but only their differences matter.
    """

    dims: Dims
    semantics: Semantics
    weights: Mapping[str, torch.Tensor | StoredMatrix]
    embeddings: torch.Tensor | StoredMatrix
    target_ids: torch.Tensor | None = None
    max_position_embeddings: int | None = None
    mask_token_id: int | None = None

    @property
    def device(self) -> torch.device:
        """The device of the weights and of results."""
        return self.embeddings.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that the head computes in."""
        return self.weights["lm_head.weight"].dtype

    @property
    def windows(self) -> tuple[int | None, ...]:
        """How far back each layer sees, in positions, itself included; None means no limit."""
        s = self.semantics
        return tuple(s.sliding_window if layer in s.sliding_layers else None for layer in range(s.num_layers))

    def features(self, aux: torch.Tensor) -> torch.Tensor:
        """Project aux hidden states [..., taps * target hidden size] to features [..., hidden size].

        The states may have another dtype than the head and be on another device, as a target may be.
        """
        if not self.semantics.uses_aux:  # the features are the target's final hidden state
            return aux.to(self.device, self.dtype)
        flat = aux.reshape(-1, aux.shape[-1])
        parts = [self._projected(part) for part in torch.split(flat, max(1, _STATES // aux.shape[-1]))]
        return torch.cat(parts).reshape(*aux.shape[:-1], -1)

    def _projected(self, aux: torch.Tensor) -> torch.Tensor:
        s = self.semantics
        aux = aux.to(self.device, self.dtype)
        if s.norm_before_fc:  # one norm over the concatenation
            aux = self._norm("input_norm", aux)
        if s.fc_norm:  # one norm per tap
            taps = aux.chunk(aux.shape[-1] // self.dims.target_hidden_size, dim=-1)
            aux = torch.cat([self._norm(f"fc_norm.{j}", tap) for j, tap in enumerate(taps)], dim=-1)
        return self._linear("fc", aux, bias=s.fc_bias)

    def hidden(
        self, features: torch.Tensor, token_ids: torch.Tensor, positions: torch.Tensor, attend: Attend
    ) -> torch.Tensor:
        """Run the decoder layers on features [..., hidden size] and the tokens that follow them -> [..., hidden size].

        ``token_ids`` and ``positions`` are int64 [...]. The result is before the final norm.
        """
        table = self.embeddings
        embeds = table.take(token_ids) if isinstance(table, StoredMatrix) else F.embedding(token_ids, table)
        embeds = embeds.to(self.dtype)
        mla = self.dims.mla
        size = self.dims.head_dim if mla is None else mla.qk_rope_head_dim
        rope, context = self.semantics.rope, self.max_position_embeddings
        rotation = rotary_table(rope, size, positions, context, mla=mla is not None)
        hidden = features
        for layer in range(self.semantics.num_layers):
            hidden = self._decoder_layer(layer, hidden, embeds, rotation, attend)
        return hidden

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return logits over the draft vocabulary [..., draft vocabulary] of hidden states before the final norm."""
        return self._linear("lm_head", self._norm("norm", hidden))

    def feedback(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return what replaces the features in the next step of drafting (see ``Semantics.feedback``)."""
        return self._norm("norm", hidden) if self.semantics.feedback == "post_norm" else hidden

    def masked(self) -> tuple[torch.Tensor, int]:
        """The features [hidden size] and the token that P-EAGLE uses for a position not drafted yet."""
        if self.mask_token_id is None:
            raise Refusal(
                "the head drafts in parallel, but no mask_token_id says which token stands for the others",
                hint="give it with --mask-token-id when converting the head",
                code="reference-mask-token",
            )
        return self.features(self._held("mask_hidden").flatten()), self.mask_token_id

    def to_target(self, draft_ids: torch.Tensor) -> torch.Tensor:
        """Return the target token ids of draft ids."""
        return draft_ids if self.target_ids is None else self.target_ids[draft_ids]

    def _decoder_layer(
        self,
        layer: int,
        hidden: torch.Tensor,
        embeds: torch.Tensor,
        rotation: Table,
        attend: Attend,
    ) -> torch.Tensor:
        s, at = self.semantics, f"layers.{layer}."
        residual = hidden
        if layer == 0 and s.joins_embedding:
            normed = self._norm(at + "hidden_norm", hidden)
            if s.norm_before_residual:
                residual = normed
            x = torch.cat([self._norm(at + "input_layernorm", embeds), normed], dim=-1)
        else:  # later layers do not get the embeddings, and the first one of some heads without aux states
            x = self._norm(at + "input_layernorm", hidden)
        own = self._attention if self.dims.mla is None else self._latent_attention
        hidden = residual + own(layer, x, rotation, attend)
        x = self._norm(at + "post_attention_layernorm", hidden)
        act = ACTIVATIONS[s.hidden_act]
        gated = act(self._linear(at + "mlp.gate_proj", x)) * self._linear(at + "mlp.up_proj", x)
        return hidden + self._linear(at + "mlp.down_proj", gated)

    def _attention(self, layer: int, x: torch.Tensor, rotation: Table, attend: Attend) -> torch.Tensor:
        at, size, bias = f"layers.{layer}.self_attn.", self.dims.head_dim, self.semantics.attention_bias
        q, k, v = (self._linear(f"{at}{which}_proj", x, bias=bias) for which in "qkv")
        q, k, v = (y.view(*y.shape[:-1], -1, size) for y in (q, k, v))
        if self.semantics.qk_norm:  # per head, before the rotation
            q, k = self._norm(at + "q_norm", q), self._norm(at + "k_norm", k)
        mixed = attend(layer, rotate(q, rotation), rotate(k, rotation), v)
        return self._linear(at + "o_proj", mixed.flatten(-2), bias=bias and f"{at}o_proj.bias" in self.weights)

    def _latent_attention(self, layer: int, x: torch.Tensor, rotation: Table, attend: Attend) -> torch.Tensor:
        """MLA (arXiv:2405.04434, section 2.1): keys and values from one latent vector a token, RoPE on a part.

        The norms of the latents have the head's own epsilon, as in engines; transformers' and Kimi's modeling code,
        with which ModelOpt trains, has 1e-6 there.
        """
        m, at, bias = self.dims.mla, f"layers.{layer}.self_attn.", self.semantics.attention_bias
        assert m is not None
        heads = self.dims.num_attention_heads
        if m.q_lora_rank is None:
            q = self._linear(at + "q_proj", x)
        else:
            latent = self._linear(at + "q_a_proj", x, bias=bias)
            q = self._linear(at + "q_b_proj", self._norm(at + "q_a_layernorm", latent))
        q = q.view(*q.shape[:-1], heads, -1)
        q_plain, q_turned = q[..., : m.qk_nope_head_dim], q[..., m.qk_nope_head_dim :]
        joined = self._linear(at + "kv_a_proj_with_mqa", x, bias=bias)
        latent, k_turned = joined[..., : m.kv_lora_rank], joined[..., m.kv_lora_rank :]
        kv = self._linear(at + "kv_b_proj", self._norm(at + "kv_a_layernorm", latent))
        kv = kv.view(*kv.shape[:-1], heads, -1)
        k_plain, v = kv[..., : m.qk_nope_head_dim], kv[..., m.qk_nope_head_dim :]
        k_turned = rotate_neighbours(k_turned.unsqueeze(-2), rotation)
        k = torch.cat([k_plain, k_turned.expand(*k_plain.shape[:-1], -1)], dim=-1)
        weight = mla_weight(self.semantics.rope, m.qk_rope_head_dim, self.max_position_embeddings)
        q = torch.cat([q_plain, rotate_neighbours(q_turned, rotation)], dim=-1) * weight
        return self._linear(at + "o_proj", attend(layer, q, k, v).flatten(-2), bias=bias)

    def _norm(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """Apply RMSNorm, computed in float32 and scaled in the weights' dtype, as trainers and engines do."""
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.semantics.rms_norm_eps)
        return self._held(f"{name}.weight") * wide.to(x.dtype)

    def _linear(self, name: str, x: torch.Tensor, *, bias: bool = False) -> torch.Tensor:
        weight, added = self.weights[f"{name}.weight"], self._held(f"{name}.bias") if bias else None
        if not isinstance(weight, StoredMatrix):
            return F.linear(x, weight, added)
        return weight.product(x) if added is None else weight.product(x) + added

    def _held(self, name: str) -> torch.Tensor:
        """Return a tensor that is always in memory: a norm, a bias, a vector."""
        found = self.weights[name]
        assert not isinstance(found, StoredMatrix)
        return found


# Make a `DraftModel` from a `Head`'s tensors, whatever the layout.


def load_draft(
    head: Head,
    embeddings: torch.Tensor | StoredMatrix | None = None,
    lm_head: torch.Tensor | StoredMatrix | None = None,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    room: int | None = None,
) -> DraftModel:
    """Load a head's weights to ``device`` as ``dtype``.

    Args:
        embeddings, lm_head: the target's, [vocabulary size or more, hidden size], for a head that lacks its own.
        room: on a CPU, most bytes of matrices to hold in memory; the largest of the others are read from their files
            each time that they are used. None holds all.

    Raises the first of the head's problems that is an error; Refusal for a head that the reference cannot compute
    (quantized, unknown activation, no embeddings that fit); TensorError (``tensor-not-finite``) for weights with NaN
    or infinity, in the file or as ``dtype``.
    """
    head.raise_for_errors()
    if head.semantics.quantization is not None:
        raise Refusal(
            f"the head's weights are quantized ({head.semantics.quantized_as}), which the reference does not compute",
            hint="measure the unquantized head, or use an engine that serves this format",
            code="reference-quantized",
        )
    if head.semantics.hidden_act not in ACTIVATIONS:
        raise Refusal(
            f"the head's activation {head.semantics.hidden_act!r} is not one the reference knows",
            hint=f"it knows {', '.join(ACTIVATIONS)}",
            code="reference-activation",
        )
    stays = _stay(head, dtype, None if torch.device(device).type != "cpu" else room)
    weights: dict[str, torch.Tensor | StoredMatrix] = {
        name: _left(ref, dtype) if name in stays else _load(ref, dtype).to(device)
        for name, ref in head.tensors.items()
    }
    own = weights.pop("embed_tokens.weight", None)
    if "lm_head.weight" not in weights:
        rows = _fitting(lm_head, head, "lm_head")
        if isinstance(rows, StoredMatrix):
            weights["lm_head.weight"] = replace(rows.first(head.dims.vocab_size), dtype=dtype)
        else:
            weights["lm_head.weight"] = rows[: head.dims.vocab_size].to(device, dtype)
    ids = None if head.vocab_map is None else torch.tensor(head.vocab_map.target_id, dtype=torch.int64, device=device)
    return DraftModel(
        dims=head.dims,
        semantics=head.semantics,
        weights=weights,
        embeddings=own if own is not None else _on(device, _fitting(embeddings, head)),
        target_ids=ids,
        max_position_embeddings=head.max_position_embeddings,
        mask_token_id=head.mask_token_id,
    )


def _on(device: str | torch.device, table: torch.Tensor | StoredMatrix) -> torch.Tensor | StoredMatrix:
    return table if isinstance(table, StoredMatrix) else table.to(device)


def _stay(head: Head, dtype: torch.dtype, room: int | None) -> set[str]:
    """Names of the tensors that stay in their files: the largest, so that the others fit into ``room`` bytes."""
    sizes = {name: ref.num_elements * dtype.itemsize for name, ref in head.tensors.items()}
    left, out = sum(sizes.values()), set()
    for name in sorted(sizes, key=lambda name: -sizes[name]):
        if room is None or left <= room:
            break
        if StoredMatrix.may_hold(head.tensors[name]):
            out.add(name)
            left -= sizes[name]
    return out


def _left(ref: TensorRef, dtype: torch.dtype) -> StoredMatrix:
    """Return a matrix that stays in its file, after one look at all of it: is it finite?"""
    found = StoredMatrix(ref, dtype)
    for _ in found.parts():
        pass
    return found


def _fitting(
    embeddings: torch.Tensor | StoredMatrix | None,
    head: Head,
    name: Literal["embed_tokens", "lm_head"] = "embed_tokens",
) -> torch.Tensor | StoredMatrix:
    rows, width = head.dims.vocab_size, head.dims.hidden_size
    what = "embeddings" if name == "embed_tokens" else "an lm_head"
    if embeddings is None:
        raise Refusal(
            f"the head has no {name}.weight of its own and none of a target were given",
            hint="name the target with --target",
            code="reference-embeddings",
        )
    if embeddings.shape[1] != width or len(embeddings) < rows:
        raise Refusal(
            f"the target has {what} of {len(embeddings)} tokens, {embeddings.shape[1]} numbers each, but the head "
            f"was trained with {rows} tokens of {width} numbers",
            hint="name the target the head was trained for",
            code="reference-embeddings",
        )
    return embeddings


def _load(ref: TensorRef, dtype: torch.dtype) -> torch.Tensor:
    stored = torch.frombuffer(bytearray(read_tensor(ref)), dtype=getattr(torch, TORCH_NAME[ref.dtype]))
    tensor = stored.to(dtype)
    bad = int((~torch.isfinite(tensor)).sum())
    if bad and bool(torch.isfinite(stored).all()):
        raise TensorError(
            f"{ref.path.name}: {bad} values of {ref.name} are beyond the range of {str(dtype).removeprefix('torch.')}",
            hint="run the reference in float32 or bfloat16",
            code="tensor-not-finite",
        )
    if bad:
        raise TensorError(
            f"{ref.path.name}: {ref.name} holds {bad} values that are NaN or infinite",
            hint="the training run diverged or the file is damaged: export an earlier checkpoint",
            code="tensor-not-finite",
        )
    return tensor.reshape(ref.shape)
