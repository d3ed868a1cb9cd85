"""What an EAGLE-3 draft head computes: the readable statement, in plain torch.

A draft head extends a text by one token at a time. To propose what follows token x[i+1] it takes

- the **features** of position i: aux hidden states that the target computed there, concatenated in ascending order
  of layers and projected by ``fc`` to the head's own hidden size, and
- the **embedding** of token x[i+1],

normalises both, joins them, and runs one decoder layer (rarely more) whose attention sees all earlier positions of
the draft. ``norm`` and ``lm_head`` turn the result into logits over the draft vocabulary; ``d2t`` names the target
token behind each. To draft further, the layer's own output takes the place of the features (*feedback*), with the
token just drafted: no target is needed. (EAGLE-3, arXiv:2503.01840, section 3; the same arithmetic as vLLM's
``model_executor/models/llama_eagle3.py`` and SGLang's ``srt/models/llama_eagle3.py``.)

`DraftModel` holds the weights and does this arithmetic for positions given to it. What earlier positions are, and
where their keys and values are kept, is the caller's business (`eagle3hub.reference.attention`): drafting one token
after another, and drafting at all positions of a text at once, are the same head with another memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from eagle3hub.errors import Refusal
from eagle3hub.reference.rotary import Table, rotary_table, rotate

if TYPE_CHECKING:
    from eagle3hub.head import Dims, Semantics

Attend = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""(layer, queries [..., heads, d], keys [..., kv heads, d], values like keys) -> mixed values, like queries."""

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
        weights: by canonical name, all of one floating dtype on one device.
        embeddings: [target vocabulary, hidden size]: the head's own, or the target's.
        target_ids: int64 [draft vocabulary], the target token behind each draft id; None for a full vocabulary.
        mask_token_id: stands for tokens not drafted yet (P-EAGLE only).

    Leading dimensions of every argument are free; positions are absolute and only their differences matter.
    """

    dims: Dims
    semantics: Semantics
    weights: Mapping[str, torch.Tensor]
    embeddings: torch.Tensor
    target_ids: torch.Tensor | None = None
    max_position_embeddings: int | None = None
    mask_token_id: int | None = None

    @property
    def device(self) -> torch.device:
        """Where the head is, and its results are."""
        return self.embeddings.device

    @property
    def windows(self) -> tuple[int | None, ...]:
        """How far back each layer sees, in positions, itself included; None is without limit."""
        s = self.semantics
        return tuple(s.sliding_window if layer in s.sliding_layers else None for layer in range(s.num_layers))

    def features(self, aux: torch.Tensor) -> torch.Tensor:
        """Project aux hidden states [..., taps * target hidden size] to features [..., hidden size].

        They may be of another dtype than the head, and on another device, as a target may be.
        """
        s = self.semantics
        aux = aux.to(self.device, self.embeddings.dtype)
        if not s.uses_aux:  # the target's final hidden state is the features
            return aux
        if s.norm_before_fc:  # one norm over the concatenation
            aux = self._norm("input_norm", aux)
        if s.fc_norm:  # one norm per tap
            taps = aux.chunk(aux.shape[-1] // self.dims.target_hidden_size, dim=-1)
            aux = torch.cat([self._norm(f"fc_norm.{j}", tap) for j, tap in enumerate(taps)], dim=-1)
        return self._linear("fc", aux, bias=s.fc_bias)

    def hidden(
        self, features: torch.Tensor, token_ids: torch.Tensor, positions: torch.Tensor, attend: Attend
    ) -> torch.Tensor:
        """Run the decoder layers: features [..., hidden size] with the tokens that follow them -> [..., hidden size].

        ``token_ids`` and ``positions`` are int64 [...]. The result is before the final norm.
        """
        embeds = F.embedding(token_ids, self.embeddings)
        rotation = rotary_table(self.semantics.rope, self.dims.head_dim, positions, self.max_position_embeddings)
        hidden = features
        for layer in range(self.semantics.num_layers):
            hidden = self._decoder_layer(layer, hidden, embeds, rotation, attend)
        return hidden

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits over the draft vocabulary [..., draft vocabulary] of hidden states before the final norm."""
        return self._linear("lm_head", self._norm("norm", hidden))

    def feedback(self, hidden: torch.Tensor) -> torch.Tensor:
        """What takes the place of features in the next step of drafting (see ``Semantics.feedback``)."""
        return self._norm("norm", hidden) if self.semantics.feedback == "post_norm" else hidden

    def masked(self) -> tuple[torch.Tensor, int]:
        """P-EAGLE: features [hidden size] and token that stand for a position not drafted yet."""
        if self.mask_token_id is None:
            raise Refusal(
                "the head drafts in parallel, but no mask_token_id says which token stands for the others",
                hint="give it with --mask-token-id when converting the head",
                code="reference-mask-token",
            )
        return self.features(self.weights["mask_hidden"].flatten()), self.mask_token_id

    def to_target(self, draft_ids: torch.Tensor) -> torch.Tensor:
        """Target token ids of draft ids."""
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
        if layer == 0 and s.uses_aux:
            normed = self._norm(at + "hidden_norm", hidden)
            if s.norm_before_residual:
                residual = normed
            x = torch.cat([self._norm(at + "input_layernorm", embeds), normed], dim=-1)
        else:  # later layers, and a head without aux states, do not see the embeddings
            x = self._norm(at + "input_layernorm", hidden)
        hidden = residual + self._attention(layer, x, rotation, attend)
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
        return self._linear(at + "o_proj", mixed.flatten(-2), bias=bias)

    def _norm(self, name: str, x: torch.Tensor) -> torch.Tensor:
        """RMSNorm, computed in float32 and scaled in the weights' dtype, as the trainers and engines do."""
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.semantics.rms_norm_eps)
        return self.weights[f"{name}.weight"] * wide.to(x.dtype)

    def _linear(self, name: str, x: torch.Tensor, *, bias: bool = False) -> torch.Tensor:
        return F.linear(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"] if bias else None)
