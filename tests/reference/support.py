"""Small targets and small draft heads that go together, and heads fitted to accept often."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from support import variants

from eagle3hub.head import FINAL_NORM, AuxTaps, Dims, MlaDims, Rope, Semantics
from eagle3hub.reference.model import DraftModel, Everywhere, StoredMatrix
from eagle3hub.reference.text import Batch, Text

PLAIN = Semantics(rope=Rope(500.0), rms_norm_eps=1e-5)
SIZES = {"hidden": 32, "inter": 48, "heads": 4, "kv": 2, "head_dim": 8, "vocab": 24, "draft": 24, "aux": 3}


def random_draft(
    semantics: Semantics = PLAIN, *, seed: int = 0, embeddings: torch.Tensor | None = None, **sizes: int
) -> DraftModel:
    """A head of any kind; no weight is a constant, so that whatever is left out shows."""
    d, s = {**SIZES, **sizes}, semantics
    has = variants.Has(
        layers=s.num_layers,
        attention_bias=s.attention_bias,
        fc_bias=s.fc_bias,
        qk_norm=s.qk_norm,
        input_norm=s.norm_before_fc,
        fc_norm=s.fc_norm,
        mask_hidden=s.parallel_drafting,
        uses_aux=s.uses_aux,
        joins=s.joins_embedding,
        mla=s.attention == "mla",
        q_lora=bool(d.get("q_lora_rank", 1)),
    )
    mla = MlaDims(**variants.mla_sizes(d) | ({} if has.q_lora else {"q_lora_rank": None})) if has.mla else None
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, like in variants.weights(d, has, torch.float32).items():
        draw = torch.randn(like.shape, generator=generator)
        if name.endswith("norm.weight") or "norm." in name:
            draw = 1 + 0.3 * draw
        elif name.endswith(".weight"):
            draw = draw / like.shape[-1] ** 0.5
        elif name.endswith(".bias"):
            draw = 0.3 * draw
        weights[name] = draw
    if embeddings is None:
        embeddings = torch.randn(d["vocab"], d["hidden"], generator=generator)
    reduced = d["draft"] < d["vocab"]
    ids = torch.randperm(d["vocab"], generator=generator)[: d["draft"]].sort().values
    return DraftModel(
        dims=Dims(
            hidden_size=d["hidden"],
            target_hidden_size=d["hidden"],
            intermediate_size=d["inter"],
            num_attention_heads=d["heads"],
            num_key_value_heads=d["kv"] if mla is None else d["heads"],
            head_dim=d["head_dim"] if mla is None else mla.qk_nope_head_dim + mla.qk_rope_head_dim,
            vocab_size=d["vocab"],
            draft_vocab_size=d["draft"],
            mla=mla,
        ),
        semantics=s,
        weights=weights,
        embeddings=embeddings,
        target_ids=ids if reduced else None,
        max_position_embeddings=64,
        mask_token_id=d["vocab"] - 1 if s.parallel_drafting else None,
    )


def wrong(model: DraftModel, **changes: Any) -> DraftModel:
    """The same weights, read with other semantics."""
    return replace(model, semantics=replace(model.semantics, **changes))


def fit(model: DraftModel, batch: Batch, *, draft_steps: int = 3, epochs: int = 30, rate: float = 0.02) -> DraftModel:
    """The head trained to know some texts of one length by heart, as in training-time test: it accepts often."""
    tokens = torch.tensor([t.token_ids for t in batch.texts])
    width = tokens.shape[1]
    ids = torch.arange(model.dims.vocab_size) if model.target_ids is None else model.target_ids
    draft_id = torch.full((model.dims.vocab_size,), -100).index_copy_(0, ids, torch.arange(len(ids)))
    weights = {name: w.clone().requires_grad_() for name, w in model.weights.items()}
    learner = replace(model, weights=weights)
    optimizer = torch.optim.Adam(weights.values(), lr=rate)
    starts = torch.arange(width - draft_steps - 1).expand(len(tokens), -1)
    everywhere = torch.arange(width - 1).expand(len(tokens), -1)
    for _ in range(epochs):
        memory = Everywhere(model.windows)
        features = learner.features(batch.aux[:, : width - 1])
        hidden = learner.hidden(features, tokens[:, 1:], everywhere, memory.shared)[:, : starts.shape[1]]
        memory.begin(starts)
        loss = torch.zeros(())
        for step in range(1, draft_steps + 1):
            follow = tokens.gather(1, starts + step + 1)
            logits = learner.logits(hidden).flatten(0, 1)
            loss = loss + torch.nn.functional.cross_entropy(logits, draft_id[follow].flatten())
            features = learner.feedback(hidden)
            if model.semantics.parallel_drafting:
                masked, token = learner.masked()
                features, follow = masked.expand_as(hidden), torch.full_like(follow, token)
            hidden = learner.hidden(features, follow, starts + step, memory.attend)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return replace(model, weights={name: w.detach() for name, w in weights.items()})


@dataclass
class LlamaTarget:
    """A random Llama of 8 layers whose greedy text is not a short cycle, and what it computes."""

    model: Any
    taps: AuxTaps

    @classmethod
    def build(cls, seed: int = 0, vocab: int = SIZES["vocab"], hidden: int = SIZES["hidden"]) -> LlamaTarget:
        from transformers import LlamaConfig, LlamaForCausalLM

        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=vocab,
            hidden_size=hidden,
            intermediate_size=48,
            num_hidden_layers=8,
            num_attention_heads=4,
            num_key_value_heads=2,
            initializer_range=0.35,
            max_position_embeddings=512,
        )
        return cls(LlamaForCausalLM(config).eval(), AuxTaps.default_for(8))

    @property
    def embeddings(self) -> torch.Tensor:
        return self.model.get_input_embeddings().weight.detach()

    def session(self) -> TransformersSession:
        return TransformersSession(self.model)

    @torch.no_grad()
    def greedy(self, prompt: Sequence[int], new: int) -> tuple[int, ...]:
        """The prompt and what follows it."""
        session, tokens = self.session(), list(prompt)
        logits, _ = session.advance(tokens, self.taps)
        for _ in range(new):
            tokens.append(int(logits[-1].argmax()))
            logits, _ = session.advance(tokens[-1:], self.taps)
        return tuple(tokens)

    def aux(self, tokens: Sequence[int], taps: AuxTaps) -> torch.Tensor:
        """One text, read at once: [T, taps * hidden]."""
        return self.session().advance(tokens, taps)[1]

    def batch(self, texts: Sequence[Text], taps: AuxTaps | None = None) -> Batch:
        states = [self.aux(t.token_ids, taps or self.taps) for t in texts]
        return Batch(tuple(range(len(texts))), tuple(texts), torch.nn.utils.rnn.pad_sequence(states, batch_first=True))


class TransformersSession:
    """One sequence in a transformers model, with its KV cache."""

    def __init__(self, model: Any) -> None:
        from transformers import DynamicCache

        self._model = model
        self._cache = DynamicCache(config=model.config)

    @torch.no_grad()
    def advance(self, token_ids: Sequence[int], taps: AuxTaps) -> tuple[torch.Tensor, torch.Tensor]:
        ids = torch.tensor([list(token_ids)])
        out = self._model(ids, past_key_values=self._cache, output_hidden_states=True)
        # the last of output_hidden_states is after the final norm
        states = [out.hidden_states[-1 if tap is FINAL_NORM else tap + 1][0] for tap in taps.taps]
        return out.logits[0].float(), torch.cat(states, dim=-1)

    def rewind(self, length: int) -> None:
        if surplus := self._cache.get_seq_length() - length:
            self._cache.crop(-surplus)


def whole(matrix: torch.Tensor | StoredMatrix) -> torch.Tensor:
    """All rows of a matrix, wherever it is."""
    return matrix.take(torch.arange(len(matrix))) if isinstance(matrix, StoredMatrix) else matrix
