"""The catalogue of questions: small heads, each of which an engine treats in one of a few ways that can be told apart.

A question is a head that is right but for one thing. What the engine computes from it is compared with what the head
was trained to compute, and with named alternatives (``instead``) that say what the engine did.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

import torch

from eagle3hub.head import Rope
from eagle3hub.head.aux_defaults import AUX_COUNT, AUX_IDS
from eagle3hub.probing.families import FAMILIES, LISTINGS
from eagle3hub.probing.heads import (
    DRAFT,
    HIDDEN,
    INTER,
    KV,
    LAYERS,
    MASK,
    SIZE,
    TAPS,
    VOCAB,
    WIDE,
    Change,
    Probed,
    adds,
    as_pickle,
    beside,
    both,
    called,
    drops,
    fused,
    head,
    holding_file,
    holds,
    in_two_parts,
    mapped,
    nested,
    omits,
    packed,
    quantized,
    renames,
    states,
    states_eagle,
    stray,
    target_embeddings,
    target_lm_head,
    trained,
    unchanged,
    weighing,
)


@dataclass(frozen=True, kw_only=True)
class Question:
    """One head to be run.

    Attributes:
        name: stable slug. base: the head that it is a change of, a key of `BASES`; if an engine is not right about
            that one, its answer means nothing.
        change: what is done to it. instead: by name, what else an engine may compute; the name completes "the
            engine …".
        asks: what the answer decides: ``rules.CODE`` of ``engines/data/common/rules.toml``, or ``terms.FIELD`` of
            `eagle3hub.engines.preflight.contracts.ContractTerms`.
        value: for a term, what the engine has of it if it is right about this head.
        target: name of the target. settings: what the engine is told beside the files.
        comparable: whether the reference can compute what the head was trained for.
        close: absolute and relative tolerance, where weights or inputs are rounded on the way; None is the usual one.
        engines: the engines that are asked; all of them, if it is empty.
        needs: tensors without which the head cannot be what it was trained to be, where it is not comparable.
    """

    name: str
    base: str
    asks: tuple[str, ...]
    change: Change = unchanged
    instead: Mapping[str, Change] = field(default_factory=dict)
    value: Any = None
    target: str = "llama"
    settings: Mapping[str, Any] = field(default_factory=dict)
    comparable: bool = True
    close: float | None = None
    engines: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()

    def made(self) -> Probed:
        """Make the head."""
        return self.change(BASES[self.base].make())


@dataclass(frozen=True, kw_only=True)
class _Base:
    """A head that questions change, and is a question of its own."""

    make: Callable[[], Probed]
    asks: tuple[str, ...] = ()
    value: Any = None
    instead: Mapping[str, Change] = field(default_factory=dict)
    target: str = "llama"
    settings: Mapping[str, Any] = field(default_factory=dict)
    close: float | None = None
    engines: tuple[str, ...] = ()


NESTED_IDS = f"eagle_config.{AUX_IDS}"
_LATER = ("input_layernorm", "hidden_norm")
_WINDOW = {"layer_types": ["sliding_attention"], "sliding_window": 4, "use_sliding_window": True}
_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
_LLAMA3 = {
    "rope_type": "llama3",
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
_LINEAR = {"rope_type": "linear", "factor": 4.0}
_DEEP = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "beta_fast": 32.0, "beta_slow": 1.0}
_MSCALES = {"mscale": 1.0, "mscale_all_dim": 1.0}
_PARALLEL = {"parallel_drafting": True}
_STOPPING = ("vllm", "sglang", "trtllm", "sglang_jax")
"""Engines that stop at RoPE that they do not compute; llama.cpp rotates without it, and has questions of its own."""


def _roped(scaling: Mapping[str, object] | None, theta: float = 1e4) -> Rope:
    plain = None if scaling is None else {k: v for k, v in scaling.items() if k not in ("type", "rope_theta")}
    if scaling is not None and "type" in scaling:
        plain = {"rope_type": scaling["type"], **(plain or {})}
    return Rope(theta, plain)


def _scaled(scaling: Mapping[str, object], theta: float = 1e4) -> Change:
    """State and train a scaled RoPE."""
    return both(states(rope_scaling=dict(scaling)), trained(rope=_roped(scaling, theta)))


BASES: Mapping[str, _Base] = {
    "plain": _Base(make=head),
    "full-vocabulary": _Base(make=lambda: head(full=True)),
    "full-vocabulary-and-its-d2t": _Base(
        make=lambda: holds(d2t=torch.zeros(VOCAB, dtype=torch.int64))(head(full=True)),
        asks=("rules.d2t-with-full-vocabulary",),
        engines=("sglang_jax",),
    ),
    "two-layers": _Base(
        make=lambda: head(layers=2),
        asks=("terms.later_norm", "rules.later-norm", "rules.several-layers"),
        value="input_layernorm",
        instead={"norms later layers with ones": weighing(layers__1__input_layernorm__weight=1.0)},
    ),
    "two-layers-of-megatron": _Base(
        make=lambda: renames("layers.1.input_layernorm", "layers.1.hidden_norm")(head(layers=2)),
        asks=("terms.later_norm", "rules.later-norm"),
        value="hidden_norm",
        instead={"norms later layers with ones": weighing(layers__1__input_layernorm__weight=1.0)},
    ),
    "two-layers-with-both-norms": _Base(
        make=lambda: _copied("layers.1.input_layernorm.weight", "layers.1.hidden_norm.weight")(head(layers=2)),
    ),
    "norm-before-residual": _Base(
        make=lambda: head(norm_before_residual=True),
        asks=("rules.norm-before-residual",),
        instead={"adds the un-normed state": trained(norm_before_residual=False)},
    ),
    "norm-before-fc": _Base(
        make=lambda: head(norm_before_fc=True),
        asks=("rules.norm-before-fc",),
        instead={"leaves out the norm before fc": trained(norm_before_fc=False)},
    ),
    "fc-norm": _Base(
        make=lambda: head(fc_norm=True),
        asks=("rules.fc-norm",),
        instead={"leaves out the norms of the aux hidden states": trained(fc_norm=False)},
    ),
    "post-norm-feedback": _Base(
        make=lambda: head(feedback="post_norm"),
        asks=("rules.feedback",),
        instead={"feeds back the un-normed state": trained(feedback="pre_norm")},
    ),
    "eagle-3-1": _Base(make=lambda: head(feedback="post_norm", fc_norm=True)),
    "biases": _Base(
        make=lambda: head(attention_bias=True),
        asks=("terms.attention_bias", "rules.attention-bias-stated"),
        value=True,
        instead={
            "drops the biases": trained(attention_bias=False),
            "drops the biases of q, k and v": weighing(
                **{f"layers__0__self_attn__{x}_proj__bias": 0.0 for x in ("q", "k", "v")}
            ),
        },
    ),
    "fc-bias": _Base(
        make=lambda: states(bias=True)(head(fc_bias=True)),
        asks=("terms.fc_bias",),
        value=True,
        instead={"drops the bias of fc": trained(fc_bias=False)},
    ),
    "qk-norms": _Base(
        make=lambda: head(qk_norm=True),
        instead={"drops the q/k norms": trained(qk_norm=False)},
    ),
    "own-embeddings": _Base(
        make=lambda: head(own_embeddings=True),
        asks=("rules.embedding-differs",),
        instead={"embeds with the target's": lambda made: _embedding(made, target_embeddings())},
    ),
    "wide-target": _Base(
        make=lambda: head(own_embeddings=True, target_hidden=WIDE),
        asks=("terms.own_embedding_if_other_width", "rules.embedding-width"),
        value=True,
        target="wide",
    ),
    "four-taps": _Base(make=lambda: head(taps=(2, 5, 7, 9))),
    "four-taps-qk-norms": _Base(make=lambda: head(taps=(2, 5, 7, 9), qk_norm=True)),
    "one-tap": _Base(
        make=lambda: head(taps=(6,)),
        asks=("rules.single-feature",),
        instead={"skips fc": lambda made: weighing(fc__weight=torch.eye(HIDDEN))(made)},
    ),
    "final-state": _Base(make=lambda: head(taps=None), asks=("rules.final-norm",)),
    "window": _Base(
        make=lambda: states(**_WINDOW)(head(sliding_window=4, sliding_layers=(0,))),
        asks=("rules.sliding-window",),
        instead={"attends to everything": trained(sliding_window=None, sliding_layers=())},
    ),
    "mla": _Base(make=lambda: _scaled({**_DEEP, **_MSCALES})(head(mla=True))),
    "mla-full-vocabulary": _Base(make=lambda: _scaled(_DEEP)(head(mla=True, full=True))),
    "p-eagle": _Base(
        make=lambda: head(parallel_drafting=True),
        settings=_PARALLEL,
        instead={"drafts one token after the other": trained(parallel_drafting=False)},
    ),
    "nested": _Base(make=lambda: nested(head()), asks=("terms.reads_nested", "rules.nested-config"), value=True),
    "nested-qk-norms": _Base(make=lambda: nested(head(qk_norm=True))),
    "nested-p-eagle": _Base(make=lambda: nested(head(parallel_drafting=True)), settings=_PARALLEL),
    "int8": _Base(
        make=lambda: quantized(head(), "int8"), close=0.15, asks=("rules.quantized",), settings={"dtype": "bfloat16"}
    ),
}
"""Heads by name. Each is also a question of its own."""


@cache
def questions() -> Mapping[str, Question]:
    """Return every question by its name."""
    listed = [
        *_bases(),
        *_tensors(),
        *_names(),
        *_vocabulary(),
        *_norms(),
        *_nested(),
        *_aux(),
        *_counts(),
        *_rope(),
        *_config(),
        *_classes(),
        *_mla(),
        *_parallel(),
        *_quantized(),
        *_targets(),
        *_refused_bases(),
        *_of_llamacpp(),
    ]
    named = {question.name: question for question in listed}
    assert len(named) == len(listed), "two questions have one name"
    return named


def _ask(name: str, base: str, *asks: str, change: Change = unchanged, **more: Any) -> Question:
    """Return a question with the settings, the target, the tolerance and the engines of its base."""
    own = BASES[base]
    told = {"target": own.target, "settings": own.settings, "close": own.close, "engines": own.engines, **more}
    return Question(name=name, base=base, asks=asks, change=change, **told)


def _bases() -> Iterator[Question]:
    for name, base in BASES.items():
        yield _ask(name, name, *base.asks, value=base.value, instead=base.instead)


def _copied(old: str, new: str) -> Change:
    return lambda made: replace(made, tensors={**made.tensors, new: made.tensors[old].clone()})


def _without_o_bias(made: Probed) -> Probed:
    kept = {name: tensor for name, tensor in made.truth.weights.items() if not name.endswith("o_proj.bias")}
    return replace(made, truth=replace(made.truth, weights=kept))


def _embedding(made: Probed, table: torch.Tensor) -> Probed:
    return replace(made, truth=replace(made.truth, embeddings=table))


# Tensors: missing, unknown, of other shapes


def _tensors() -> Iterator[Question]:
    yield _ask(
        "no-hidden-norm", "plain", "rules.tensor-missing", change=drops("hidden_norm.weight"),
        instead={"norms with ones": weighing(layers__0__hidden_norm__weight=1.0)},
    )  # fmt: skip
    for matrix in ("fc", "q_proj"):
        yield _ask(
            f"no-{matrix.replace('_', '-')}", "plain", "rules.tensor-missing", "rules.matrix-missing",
            change=drops(f"{matrix}.weight"),
        )  # fmt: skip
    yield _ask(
        "a-tensor-nobody-knows", "plain", "rules.tensor-unknown", change=adds(extra_norm__weight=(HIDDEN,)),
        comparable=False, needs=("extra_norm.weight",),
    )  # fmt: skip
    yield _ask(
        "a-tensor-of-the-target", "plain", "rules.tensor-leftover", change=adds(target_model__norm__weight=(HIDDEN,))
    )
    yield _ask("a-leftover-of-old-rope", "plain", change=adds(midlayer__self_attn__rotary_emb__inv_freq=(SIZE // 2,)))
    yield _ask(
        "fc-norm-without-the-flag", "fc-norm", "rules.tensor-without-flag", change=omits("fc_norm"),
        instead={"leaves out the norms of the aux hidden states": trained(fc_norm=False)},
    )  # fmt: skip
    yield _ask(
        "input-norm-without-the-flag", "norm-before-fc", "terms.dropped", "rules.norm-before-fc", value="input_norm.",
        change=both(omits("norm_before_fc"), states_eagle(norm_before_fc=False)),
        instead={"leaves out the norm before fc": trained(norm_before_fc=False)},
    )  # fmt: skip
    yield _ask(
        "biases-without-the-flag", "biases", "rules.bias", change=states(attention_bias=False),
        instead={"drops the biases": trained(attention_bias=False)},
    )  # fmt: skip
    yield _ask(
        "a-bias-of-fc-without-the-flag", "plain", "rules.bias", change=_become(lambda: head(fc_bias=True)),
        instead={"drops the bias of fc": trained(fc_bias=False)},
    )  # fmt: skip
    for flag in ("attention_bias", "bias"):
        base = "plain" if flag == "bias" else "biases"
        change = _become(BASES["fc-bias"].make) if flag == "bias" else both(_without_o_bias, drops("o_proj.bias"))
        yield _ask(
            f"no-bias-of-o-and-{flag.replace('_', '-')}", base, "rules.o-proj-bias", "terms.o_proj_bias",
            change=change, value=flag,
        )  # fmt: skip
    yield _ask(
        "fc-of-no-whole-number-of-states", "plain", "rules.fc-width", change=holds(fc__weight=torch.ones(HIDDEN, 200))
    )
    narrow = {f"midlayer__self_attn__{x}_proj__weight": n for x, n in (("q", 4 * SIZE), ("k", KV * SIZE))}
    yield _ask(
        "q-and-k-as-narrow-as-a-later-layers", "plain", "rules.qkv-width",
        change=holds(**{name: torch.ones(rows, HIDDEN) for name, rows in narrow.items()}),
    )  # fmt: skip
    yield _ask("heads-read-wider", "plain", "rules.head-dim", change=states(head_dim=SIZE * 2))
    yield _ask("heads-read-narrower", "plain", "rules.head-dim-narrower", change=states(head_dim=SIZE // 2))
    yield _ask("no-head-dim", "plain", "rules.head-dim-narrower", change=omits("head_dim"))
    yield _ask("an-mlp-read-wider", "plain", "rules.mlp-width", change=states(intermediate_size=INTER * 2))
    yield _ask(
        "an-mlp-read-narrower", "plain", "rules.mlp-width-narrower", change=states(intermediate_size=INTER // 2)
    )
    yield _ask(
        "llama-4s-width-of-an-mlp", "plain", "terms.mlp_width", value={"llama4_text": "intermediate_size_mlp"},
        change=states(model_type="llama4_text", intermediate_size=INTER * 2, intermediate_size_mlp=INTER),
    )  # fmt: skip
    yield _ask(
        "no-num-hidden-layers", "two-layers-with-both-norms", "rules.no-num-hidden-layers",
        change=omits("num_hidden_layers"), instead={"computes one layer": trained(num_layers=1)},
    )  # fmt: skip
    yield _ask("a-pickle-called-safetensors", "plain", "rules.mislabelled-pickle", change=as_pickle)
    yield _ask("weights-of-two-exports", "plain", "rules.weights-overlaid", change=beside("older.safetensors"))
    yield _ask(
        "weights-of-an-export-that-sorts-first",
        "plain",
        "rules.weights-overlaid-first",
        change=beside("before.safetensors"),
    )
    for name, folder in (
        ("a-folder-named-after-the-method-and-mistral", "Mistral-7B-EAGLE3"),
        ("a-folder-named-after-mistral-small-4", "head-of-Mistral-Small-4"),
    ):
        yield _ask(name, "plain", "rules.mistral-name", change=called(folder))
    yield _ask("weights-beside-something-else", "plain", "rules.weights-stray", change=stray("ema.safetensors"))
    yield _ask(
        "weights-beside-consolidated-ones", "plain", "rules.weights-alone", change=beside("consolidated.safetensors"),
        engines=("vllm", "sglang", "llamacpp"),  # sglang-jax takes a tensor from the first file that has it
    )  # fmt: skip
    yield _ask(
        "weights-beside-something-consolidated", "plain", "rules.weights-alone-foreign",
        change=stray("consolidated.safetensors"),
    )  # fmt: skip
    yield _ask("matrices-of-several-parts", "plain", "rules.tensor-fused", change=fused)
    yield _ask("matrices-of-several-parts-and-biases", "biases", "rules.tensor-fused", change=fused)


# Names of tensors


def _names() -> Iterator[Question]:
    for prefix in ("midlayer.", "layers.{i}.", "midlayer.{i}."):
        slug = prefix.replace("{i}", "i").strip(".").replace(".", "-")
        asks = ("terms.layer_names", *(("rules.layer-names",) if prefix == "midlayer.{i}." else ()))
        yield _ask(
            f"names-{slug}", "plain", *asks, value=prefix, change=renames("midlayer.", prefix.format(i=0))
        )  # fmt: skip
        if prefix == "midlayer.":
            yield _ask(
                "names-of-two-layers-midlayer", "two-layers-with-both-norms", "terms.several_layer_names",
                value=prefix, change=renames("layers.0.", prefix),
            )  # fmt: skip
        else:
            renamed = both(*(renames(f"layers.{i}.", prefix.format(i=i)) for i in range(2)))
            yield _ask(
                f"names-of-two-layers-{slug}", "two-layers-with-both-norms", "terms.several_layer_names",
                value=prefix, change=renamed,
            )  # fmt: skip
    kept = ("d2t", "t2d", "lm_head.weight")
    yield _ask(
        "names-that-begin-with-model", "plain", "terms.model_prefix", "rules.model-prefix", value=True,
        change=renames("", "model.", but=kept),
    )  # fmt: skip
    yield _ask(
        "lm-head-that-begins-with-model", "plain", "rules.lm-head-prefix",
        change=renames("lm_head", "model.lm_head"),
        instead={"scores with the first rows of the target's lm_head": _of_target()},
    )  # fmt: skip
    aliases = zip(("low", "mid", "high"), range(3), strict=True)
    yield _ask(
        "norms-called-aux-norm", "fc-norm", "terms.aux_norm_alias", value=True,
        change=both(*(renames(f"fc_norm.{j}.", f"aux_norm_{name}.") for name, j in aliases)),
        instead={"leaves out the norms of the aux hidden states": trained(fc_norm=False)},
    )  # fmt: skip


def _of_target() -> Change:
    return weighing(lm_head__weight=target_lm_head()[:DRAFT])


# Vocabulary


def _vocabulary() -> Iterator[Question]:
    ids = head().truth.target_ids
    assert ids is not None
    at = torch.arange(DRAFT)
    rounded = (ids - at).to(torch.bfloat16)
    yield _ask(
        "no-d2t", "plain", "rules.d2t-missing", change=drops("d2t"),
        instead={"takes draft ids as target ids": mapped(at)},
    )  # fmt: skip
    yield _ask(
        "d2t-under-vllms-own-name", "plain", "rules.d2t-name",
        change=both(drops("d2t"), holds(draft_id_to_target_id=ids - at)),
        instead={"takes draft ids as target ids": mapped(at)},
    )  # fmt: skip
    yield _ask(
        "d2t-of-absolute-ids", "plain", "rules.d2t-wrong", change=holds(d2t=ids),
        instead={"adds draft ids to target ids": mapped(ids + at)},
    )  # fmt: skip
    yield _ask(
        "d2t-out-of-range",
        "plain",
        "rules.d2t-out-of-range",
        change=holds(d2t=ids - at + VOCAB),
        instead={},
    )
    yield _ask(
        "d2t-in-bfloat16", "plain", "rules.d2t-float", change=holds(d2t=rounded),
        instead={
            "casts rounded offsets": mapped(rounded.long() + at),
            "rounds target ids": mapped((rounded + at).long()),
        },
    )  # fmt: skip
    yield _ask("d2t-in-float32", "plain", change=holds(d2t=(ids - at).to(torch.float32)))
    yield _ask("d2t-too-short", "plain", "rules.d2t-short", change=holds(d2t=(ids - at)[:-1].clone()))
    yield _ask("d2t-too-long", "plain", "rules.d2t-long", change=holds(d2t=torch.cat([ids - at, ids[:1]])))
    same = ids.clone()
    same[1] = same[0]
    yield _ask(
        "d2t-that-collides", "plain", "rules.d2t-collides", change=holds(d2t=same - at),
        instead={"drafts one token for two draft ids": mapped(same)},
    )  # fmt: skip
    yield _ask("d2t-in-int32", "plain", change=holds(d2t=(ids - at).to(torch.int32)))
    shuffled = ids.flip(0)
    yield _ask(
        "d2t-in-no-order", "plain", change=both(holds(d2t=shuffled - at), mapped(shuffled)),
        instead={"sorts the map": mapped(ids)},
    )  # fmt: skip
    yield _ask("no-t2d", "plain", change=drops("t2d"))
    yield _ask(
        "d2t-of-a-full-vocabulary", "full-vocabulary", "rules.d2t-with-full-vocabulary",
        change=holds(d2t=torch.zeros(VOCAB, dtype=torch.int64)),
    )  # fmt: skip
    first_rows = {"scores with the first rows of the target's lm_head": _of_target()}
    theirs = {"scores with the target's lm_head": weighing(lm_head__weight=target_lm_head())}
    yield _ask(
        "no-lm-head-reduced", "plain", "rules.no-lm-head-reduced", change=drops("lm_head.weight"), instead=first_rows
    )
    yield _ask("lm-head-of-other-rows", "plain", "rules.lm-head-rows", change=states(draft_vocab_size=DRAFT + 8))
    gone, null = omits("draft_vocab_size"), states(draft_vocab_size=None)
    yield _ask("no-draft-vocab-size-reduced", "plain", "rules.no-draft-vocab-size-reduced", change=gone)
    for base, slug in (("full-vocabulary", ""), ("full-vocabulary-and-its-d2t", "-beside-a-d2t")):
        yield _ask(
            f"no-lm-head{slug}", base, "rules.no-lm-head",
            change=both(drops("lm_head.weight"), theirs["scores with the target's lm_head"]),
        )  # fmt: skip
        yield _ask(f"no-draft-vocab-size{slug}", base, "rules.no-draft-vocab-size", change=gone, instead=theirs)
        yield _ask(f"draft-vocab-size-null{slug}", base, "rules.null-draft-vocab-size", change=null, instead=theirs)
        yield _ask(f"tied{slug}", base, "rules.tied", change=states(tie_word_embeddings=True), instead=theirs)
        yield _ask(
            f"no-lm-head-and-tied{slug}", base, "rules.no-lm-head-tied",
            change=both(
                drops("lm_head.weight"), states(tie_word_embeddings=True), theirs["scores with the target's lm_head"]
            ),
            instead={"scores with the target's embeddings": weighing(lm_head__weight=target_embeddings())},
        )  # fmt: skip
    yield _ask("no-d2t-of-a-full-vocabulary", "full-vocabulary-and-its-d2t", "rules.d2t-absent", change=drops("d2t"))
    yield _ask(
        "no-embeddings-of-a-wider-target", "wide-target", "rules.no-embedding", change=drops("embed_tokens.weight")
    )
    yield _ask(
        "embeddings-of-the-target", "own-embeddings",
        change=lambda made: _embedding(
            holds(embed_tokens__weight=target_embeddings())(made), target_embeddings()
        ),
    )  # fmt: skip


# Norms and feedback: every key for each flag, and flags that a head does not have


def _put(key: str, value: Any) -> Change:
    place, _, name = key.rpartition(".")
    return states_eagle(**{name: value}) if place else states(**{name: value})


_FLAGS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "norm_before_residual": ("norm-before-residual", ("eagle_config.norm_before_residual", "norm_before_residual")),
    "norm_before_fc": ("norm-before-fc", ("eagle_config.norm_before_fc", "norm_before_fc")),
    "fc_norm": ("fc-norm", ("fc_norm", "use_aux_norm")),
    "norm_output": ("post-norm-feedback", ("eagle_config.return_hidden_post_norm", "norm_output")),
}


def _norms() -> Iterator[Question]:
    for flag, (base, keys) in _FLAGS.items():
        nowhere = both(*(_removed(key) for key in keys))
        for key in keys:
            slug = key.replace("_", "-").replace(".", "-")
            yield _ask(
                f"flag-{slug}", base, f"terms.norms.{flag}", value=key, change=both(nowhere, _put(key, True)),
                instead=BASES[base].instead,
            )  # fmt: skip
    yield _ask(
        "norm-before-residual-that-the-head-lacks", "plain", "rules.norm-before-residual-stated",
        change=states(norm_before_residual=True),
        instead={"adds the normed state": trained(norm_before_residual=True)},
    )  # fmt: skip
    yield _ask(
        "norm-output-that-the-head-lacks", "plain", "rules.feedback", change=states(norm_output=True),
        instead={"feeds back the normed state": trained(feedback="post_norm")},
    )  # fmt: skip
    normed = head(norm_before_fc=True)
    yield _ask(
        "norm-before-fc-that-the-head-lacks", "plain", "rules.norm-before-fc-stated",
        change=lambda made: replace(made, config=normed.config, tensors=_shared(made, normed)),
        instead={"norms before fc": _weights_of(normed, norm_before_fc=True)},
    )  # fmt: skip
    each = head(fc_norm=True)
    yield _ask(
        "fc-norm-that-the-head-lacks", "plain", "rules.fc-norm-stated",
        change=lambda made: replace(made, config=each.config, tensors=_shared(made, each)),
        instead={"norms the aux hidden states": _weights_of(each, fc_norm=True)},
    )  # fmt: skip
    yield _ask(
        "norm-before-fc-false-in-eagle-config", "norm-before-fc",
        change=both(states(norm_before_fc=True), states_eagle(norm_before_fc=False)),
        instead=BASES["norm-before-fc"].instead,
    )  # fmt: skip
    yield _ask(
        "norm-before-fc-null-in-eagle-config", "norm-before-fc",
        change=both(states(norm_before_fc=True), states_eagle(norm_before_fc=None)),
        instead=BASES["norm-before-fc"].instead,
    )  # fmt: skip
    yield _ask(
        "fc-norm-without-its-tensors", "fc-norm", "rules.tensor-missing",
        change=drops(*(f"fc_norm.{j}.weight" for j in range(3))),
        instead={"norms with ones": weighing(**{f"fc_norm__{j}__weight": 1.0 for j in range(3)})},
    )  # fmt: skip
    yield _ask(
        "trained-with-norm-before-residual", "plain", "rules.norm-before-residual",
        change=trained(norm_before_residual=True), instead=BASES["norm-before-residual"].instead,
    )  # fmt: skip
    yield _ask(
        "trained-with-fc-norm", "plain", "rules.fc-norm", change=_weights_of(each, fc_norm=True),
        instead={"leaves out the norms of the aux hidden states": trained(fc_norm=False)},
    )  # fmt: skip
    large = {"takes another epsilon": trained(rms_norm_eps=1e-5)}
    yield _ask(
        "a-large-epsilon", "plain", change=both(states(rms_norm_eps=1e-2), trained(rms_norm_eps=1e-2)), instead=large
    )


def _removed(key: str) -> Change:
    place, _, name = key.rpartition(".")
    if not place:
        return omits(name)

    def change(made: Probed) -> Probed:
        own = {k: v for k, v in (made.config.get(place) or {}).items() if k != name}
        return replace(made, config={**made.config, place: own})

    return change


def _shared(made: Probed, other: Probed) -> Mapping[str, torch.Tensor]:
    """The tensors of ``made``, with those that only ``other`` has."""
    return {**other.tensors, **made.tensors}


def _weights_of(other: Probed, **semantics: Any) -> Change:
    """Compute with the norms of ``other`` as well."""

    def change(made: Probed) -> Probed:
        weights = {**other.truth.weights, **made.truth.weights}
        return trained(**semantics)(replace(made, truth=replace(made.truth, weights=weights)))

    return change


# Nested configs, as the speculators library writes them


def _nested() -> Iterator[Question]:
    for kind, base, flags in (
        ("eagle3", "nested", _FLAGS),
        ("peagle", "nested-p-eagle", {k: v for k, v in _FLAGS.items() if k != "norm_output"}),
    ):
        for flag, (flat, _) in flags.items():
            meaning: dict[str, object] = {"feedback": "post_norm"} if flag == "norm_output" else {flag: True}
            slug = f"{kind}-{flag.replace('_', '-')}"
            yield _ask(
                f"nested-{slug}", base, f"terms.nested_norms.{kind}", value=flag,
                change=_become(partial(_nested_with, flag, meaning, kind == "peagle")), instead=BASES[flat].instead,
            )  # fmt: skip
            assumed = flag == "norm_before_residual" and kind == "eagle3"
            asks = (f"terms.nested_norms.{kind}", *(("rules.norm-before-residual-assumed",) if assumed else ()))
            true = {} if flag in ("norm_before_fc", "fc_norm") else {"takes it as true": trained(**meaning)}
            yield _ask(f"nested-{slug}-left-out", base, *asks, value=f"{flag}?", change=omits(flag), instead=true)
    yield _ask(
        "nested-without-proposal-methods", "nested", "rules.nested-incomplete",
        change=states(speculators_config={"proposal_methods": [], "verifier": {"name_or_path": "owner/target"}}),
    )  # fmt: skip
    yield _ask("nested-without-its-type", "nested", "rules.nested-untyped", change=omits("speculators_model_type"))
    yield _ask("nested-own-embeddings", "nested", change=_become(lambda: nested(head(own_embeddings=True))))
    four = (2, 5, 7, 9)
    yield _ask("nested-four-taps", "nested", change=_become(lambda: nested(head(taps=four))))
    window = {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 4, "use_sliding_window": True}
    yield _ask(
        "nested-qk-norms-post-norm-feedback", "nested-qk-norms",
        change=_become(
            lambda: nested(head(qk_norm=True, layers=2, feedback="post_norm", norm_before_residual=True))
        ),
        instead={"feeds back the un-normed state": trained(feedback="pre_norm")},
    )  # fmt: skip
    yield _ask(
        "nested-window-in-the-second-layer", "nested",
        change=_become(lambda: nested(states(**window)(head(layers=2, sliding_window=4, sliding_layers=(1,))))),
        instead={"attends to everything": trained(sliding_window=None, sliding_layers=())},
    )  # fmt: skip


def _nested_with(flag: str, meaning: Mapping[str, Any], parallel: bool) -> Probed:
    return states(**{flag: True})(nested(head(parallel_drafting=parallel, **meaning)))


def _become(make: Callable[[], Probed]) -> Change:
    """Put another head in place of the base's."""
    return lambda _made: make()


# Aux layers: which of the target's states feed the head


def _tapping(taps: tuple[int, ...]) -> Change:
    return lambda made: replace(made, taps=taps)


def _listing(**lists: Any) -> Change:
    """List aux layers at these places alone: ``top``, or a key of ``eagle_config``, or another key (``own_KEY``)."""
    top = {AUX_IDS: lists["top"]} if "top" in lists else {}
    own = {key.removeprefix("own_"): value for key, value in lists.items() if key.startswith("own_")}
    inner = {key: value for key, value in lists.items() if key != "top" and not key.startswith("own_")}
    bare = omits(AUX_IDS, "eagle_config")
    return both(bare, states(**top, **own), *((states(eagle_config=inner),) if inner else ()))


def _aux() -> Iterator[Question]:
    other = (3, 7, 10)
    after = [tap - 1 for tap in other]
    places: Mapping[str, Callable[[list[int]], Change]] = {
        AUX_IDS: lambda ids: _listing(top=ids),
        NESTED_IDS: lambda ids: _listing(**{AUX_IDS: ids}),
        "target_layer_ids": lambda ids: _listing(own_target_layer_ids=ids),
        "eagle_config.layer_ids": lambda ids: _listing(layer_ids=ids),
    }
    for key, listing in places.items():
        slug = key.replace("_", "-").replace(".", "-")
        yield _ask(
            f"ids-in-{slug}", "plain", "terms.aux.places", value=key,
            change=both(listing(list(other)), _tapping(other)),
        )  # fmt: skip
    nested_only = places[NESTED_IDS]
    yield _ask(
        "ids-in-eagle-config-that-begin-with-1", "plain", change=both(nested_only([1, 6, 10]), _tapping((2, 7, 11)))
    )
    yield _ask(
        "ids-in-eagle-config-up-to-the-last-layer", "plain",
        change=both(nested_only([2, 6, LAYERS]), _tapping((2, 6, LAYERS))),
    )  # fmt: skip
    yield _ask(
        "ids-with-a-point", "plain", "rules.aux-floats",
        change=both(_listing(top=[float(i) for i in other], **{AUX_IDS: [float(i) for i in after]}), _tapping(other)),
    )  # fmt: skip
    yield _ask("no-ids", "plain", "terms.aux.default", value=list(TAPS), change=_listing())
    yield _ask(
        "ids-of-the-trainer-in-eagle-config-alone", "plain", "rules.aux-layers",
        change=both(nested_only(after), _tapping(other)),
    )  # fmt: skip
    yield _ask(
        "ids-in-both-places", "plain", "rules.aux-agree",
        change=both(_listing(top=list(other), **{AUX_IDS: after}), _tapping(other)),
    )  # fmt: skip
    yield _ask("no-ids-and-other-layers", "plain", "rules.aux-layers", change=both(_listing(), _tapping(other)))
    last = (2, 6, LAYERS)
    yield _ask(
        "the-last-layer", "plain", "terms.aux.last_layer", value=True,
        change=both(_listing(top=list(last), **{AUX_IDS: [tap - 1 for tap in last]}), _tapping(last)),
    )  # fmt: skip
    beyond = (2, 6, LAYERS + 1)
    yield _ask(
        "beyond-the-last-layer", "plain", "rules.aux-range",
        change=both(_listing(top=list(beyond), **{AUX_IDS: [tap - 1 for tap in beyond]}), _tapping(beyond)),
    )  # fmt: skip
    down = (9, 2, 6)
    yield _ask(
        "ids-in-no-order", "plain", "terms.aux.as_listed", "rules.aux-order", value=True,
        change=both(_listing(top=list(down), **{AUX_IDS: [tap - 1 for tap in down]}), _tapping(down)),
    )  # fmt: skip
    twice = (2, 6, 6)
    yield _ask(
        "the-same-id-twice", "plain", change=both(_listing(top=list(twice), **{AUX_IDS: [1, 5, 5]}), _tapping(twice))
    )
    yield _ask("no-ids-in-an-empty-list", "plain", "rules.aux-empty", change=_listing(**{AUX_IDS: []}))
    yield _ask("four-ids-for-three-states", "plain", "rules.aux-count", change=_listing(top=[2, 5, 7, 9]))


# The width of fc


def _counts() -> Iterator[Question]:
    four, after = [2, 5, 7, 9], [1, 4, 6, 8]
    for base, field_name in (("four-taps", "count_lists"), ("four-taps-qk-norms", "class_count_lists.qwen3")):
        slug = "" if base == "four-taps" else "-qk-norms"
        gone = omits(AUX_COUNT)
        yield _ask(
            f"four-ids-at-top-level-uncounted{slug}", base, f"terms.{field_name}", value=AUX_IDS,
            change=both(gone, _listing(top=four)),
        )  # fmt: skip
        yield _ask(
            f"four-ids-counted-by-eagle-config{slug}", base, f"terms.{field_name}", value=NESTED_IDS,
            change=both(gone, _listing(top=four, **{AUX_IDS: after})),
        )  # fmt: skip
    yield _ask(
        "four-ids-and-their-number", "four-taps", "terms.count_keys", value=AUX_COUNT,
        change=_listing(top=four),
    )  # fmt: skip


# RoPE


def _rope() -> Iterator[Question]:
    base = Rope(300.0)
    takes_default = {"rotates with base 10000": trained(rope=Rope(1e4))}
    other = both(omits("rope_theta"), trained(rope=base))
    yield _ask("a-rope-base", "plain", change=both(other, states(rope_theta=300.0)), instead=takes_default)
    yield _ask(
        "the-rope-base-in-rope-parameters", "plain", "terms.rope.reader", "rules.rope-theta", value="standard",
        change=both(other, states(rope_parameters={"rope_type": "default", "rope_theta": 300.0})),
        instead=takes_default,
    )  # fmt: skip
    yield _ask(
        "trained-with-another-rope-base", "plain", "rules.rope-theta", change=trained(rope=base), instead=takes_default
    )
    yield _ask("no-rope-base", "plain", change=omits("rope_theta"))
    yield _ask("rope-base-null", "plain", "rules.null-rope-theta", change=states(rope_theta=None))
    plain = {"rotates without scaling": trained(rope=Rope(1e4))}
    for name, scaling in (("linear", _LINEAR), ("yarn", _YARN), ("llama3", _LLAMA3)):
        yield _ask(
            f"rope-{name}", "plain", "terms.rope.types", "terms.rope.ignored", value=name, change=_scaled(scaling),
            instead=plain,
        )  # fmt: skip
    yield _ask(
        "rope-default",
        "plain",
        "terms.rope.types",
        value="default",
        change=states(rope_scaling={"rope_type": "default"}),
    )
    yield _ask(
        "trained-with-rope-scaling", "plain", "rules.rope-scaling", change=trained(rope=_roped(_LINEAR)), instead=plain
    )
    yield _ask(
        "rope-scaling-in-rope-parameters", "plain", "rules.rope-scaling", instead=plain,
        change=both(
            omits("rope_theta"), states(rope_parameters={**_YARN, "rope_theta": 1e4}), trained(rope=_roped(_YARN))
        ),
    )  # fmt: skip
    yield _ask(
        "rope-type-in-the-old-word", "plain", change=both(
            states(rope_scaling={"type": "linear", "factor": 4.0}), trained(rope=_roped(_LINEAR))
        ), instead=plain,
    )  # fmt: skip
    long = {"short_factor": [1.0] * (SIZE // 2), "long_factor": [4.0] * (SIZE // 2)}
    uncompared: Mapping[str, Mapping[str, object]] = {
        "dynamic": {"factor": 2.0},
        "longrope": {**long, "original_max_position_embeddings": 64},
        "su": {**long, "original_max_position_embeddings": 64},
        "mrope": {"mrope_section": [4, 6, 6]},
        "proportional": {},
        "ntk": {"factor": 2.0},
        "deepseek_yarn": {"factor": 4.0, "original_max_position_embeddings": 16},
        "telechat3-yarn": {"factor": 4.0, "original_max_position_embeddings": 16},
    }
    for name, more in uncompared.items():
        yield _ask(
            f"rope-{name.replace('_', '-')}", "plain", "terms.rope.types", value=name, comparable=False,
            change=states(rope_scaling={"rope_type": name, **more}), engines=() if name == "mrope" else _STOPPING,
        )  # fmt: skip
    yield _ask(
        "rope-of-no-known-type", "plain", "rules.rope-type", comparable=False, engines=_STOPPING,
        change=states(rope_scaling={"rope_type": "foo", "factor": 2.0}),
    )  # fmt: skip
    for name, lacking in (("linear", {}), ("yarn", {"original_max_position_embeddings": 16}), ("llama3", {})):
        yield _ask(
            f"rope-{name}-without-its-factor", "plain", "rules.rope-incomplete", comparable=False,
            change=states(rope_scaling={"rope_type": name, **lacking}), engines=_STOPPING,
        )  # fmt: skip
    yield _ask(
        "rope-by-kind-of-layer", "plain", "rules.rope-by-layer", comparable=False, engines=_STOPPING,
        change=both(omits("rope_theta"), states(rope_parameters={"full_attention": {"rope_theta": 1e4}})),
    )  # fmt: skip
    half = {
        "rotates half of each head": trained(rope=Rope(1e4, {"rope_type": "default", "partial_rotary_factor": 0.5}))
    }
    yield _ask(
        "heads-rotated-in-part-at-top-level", "plain", "rules.partial-rotary", "terms.rope.partial",
        value="top_level", change=states(partial_rotary_factor=0.5), instead=half,
    )  # fmt: skip
    yield _ask(
        "heads-rotated-in-part-inside", "plain", "rules.partial-rotary", "terms.rope.partial", value="inside",
        change=states(rope_scaling={"rope_type": "default", "partial_rotary_factor": 0.5}), instead=half,
    )  # fmt: skip
    yield _ask(
        "heads-rotated-in-part-by-another-name", "plain", "rules.partial-rotary", "terms.rope.partial",
        value="other_name", change=states(rotary_pct=0.5), instead=half,
    )  # fmt: skip


# Other keys of the config


def _config() -> Iterator[Question]:
    yield _ask(
        "target-hidden-size-null", "plain", "rules.null-target-hidden-size", change=states(target_hidden_size=None)
    )
    yield _ask(
        "use-aux-hidden-state-null", "plain", "rules.null-use-aux-hidden-state",
        change=states_eagle(use_aux_hidden_state=None),
    )  # fmt: skip
    yield _ask(
        "eagle-config-null",
        "plain",
        "rules.null-eagle-config",
        change=both(omits("eagle_config"), states(eagle_config=None)),
    )
    yield _ask(
        "config-in-two-parts", "plain", "rules.parted-config", change=in_two_parts(method="eagle3"),
    )  # fmt: skip
    yield _ask("a-model-type-nobody-has", "plain", "rules.model-type", change=states(model_type="llamaeagle3"))
    yield _ask("a-dtype-that-torch-has-not", "plain", "rules.dtype-name", change=states(torch_dtype="bf16"))
    yield _ask("silu-called-swish", "plain", "rules.hidden-act-name", change=states(hidden_act="swish"))
    yield _ask("config-in-two-parts-and-no-method", "plain", "rules.parted-method", change=in_two_parts())
    yield _ask("mlp-bias-null", "plain", "rules.null-strict", change=states(mlp_bias=None))
    yield _ask("no-model-type", "plain", "rules.no-model-type", change=omits("model_type"))
    yield _ask(
        "gelu", "plain", "rules.hidden-act", change=both(states(hidden_act="gelu"), trained(hidden_act="gelu")),
        instead={"computes silu": trained(hidden_act="silu")},
    )  # fmt: skip
    window = {"limits attention to a window": trained(sliding_window=4, sliding_layers=(0,))}
    yield _ask(
        "a-window-that-the-head-lacks",
        "plain",
        "rules.sliding-window-stated",
        change=states(**_WINDOW),
        instead=window,
    )
    yield _ask(
        "a-window-without-layer-types", "window", "rules.sliding-window-unstated", change=omits("layer_types"),
        instead=BASES["window"].instead,
    )  # fmt: skip
    yield _ask(
        "a-context-shorter-than-the-targets", "plain", "rules.context", change=states(max_position_embeddings=256)
    )
    yield _ask("no-context", "plain", change=omits("max_position_embeddings"))
    yield _ask(
        "three-devices", "wide-target", "rules.tensor-parallel", target="six-heads", settings={"tensor_parallel": 3}
    )


# Draft classes


def _classes() -> Iterator[Question]:
    names = {
        "plain": (
            "llama",
            (
                *(
                    "LlamaForCausalLMEagle3",
                    "Eagle3LlamaForCausalLM",
                    "LlamaForCausalLM",
                    "Eagle3MiniMaxM2ForCausalLM",
                ),
                *("Eagle3Qwen2_5vlForCausalLM", "Eagle3Qwen3vlForCausalLM", "Eagle3Speculator", "Eagle3DraftModel"),
            ),
        ),
        "qk-norms": ("qwen3", ("Eagle3Qwen3ForCausalLM", "Qwen3ForCausalLM")),
        "mla": (
            "mla",
            ("Eagle3DeepseekV2ForCausalLM", "Eagle3DeepseekV3ForCausalLM", "DeepseekV3ForCausalLMEagle3"),
        ),
    }
    for base, (kind, listed) in names.items():
        for name in listed:
            asks = ("rules.architecture-plain",) if name == "LlamaForCausalLM" else ()
            slug = name.lower().replace("_", "-")
            yield _ask(
                f"{kind}-called-{slug}", base, f"terms.architectures.{kind}", *asks, value=name,
                change=states(architectures=[name]),
            )  # fmt: skip
    yield _ask(
        "a-class-nobody-has", "plain", "rules.architecture", change=states(architectures=["Qwen3ForCausalLMEagle3"])
    )
    yield _ask(
        "q-k-norms-in-a-llama-class", "plain", "rules.qk-norm", instead=BASES["qk-norms"].instead,
        change=both(
            _become(BASES["qk-norms"].make), states(architectures=["LlamaForCausalLMEagle3"], model_type="llama")
        ),
    )  # fmt: skip
    yield _ask(
        "no-q-k-norms-in-a-qwen3-class", "plain", "rules.tensor-missing",
        change=states(architectures=["Eagle3Qwen3ForCausalLM"], model_type="qwen3"),
    )  # fmt: skip
    yield _ask(
        "mla-in-a-llama-class", "mla", "rules.mla",
        change=states(architectures=["LlamaForCausalLMEagle3"], model_type="llama", head_dim=SIZE),
    )  # fmt: skip
    for kind in (
        "deepseek_v3",
        "deepseek_v32",
        "deepseek_v4",
        "deepseek_v41",
        "glm_moe_dsa",
    ):
        slug = kind.replace("_", "-")
        yield _ask(
            f"model-type-{slug}", "plain", "terms.mtp_types", "rules.mtp-type", value=kind,
            change=states(model_type=kind),
        )  # fmt: skip
    yield _ask(
        "mla-of-model-type-deepseek-v3", "mla", "terms.mtp_of_mla", "rules.mtp-type", value=False,
        change=states(model_type="deepseek_v3"),
    )  # fmt: skip
    yield _ask("mla-of-model-type-deepseek-v2", "mla", change=states(model_type="deepseek_v2"))
    yield _ask("a-stray-size-of-mla", "plain", "rules.mla-stray", change=states(kv_lora_rank=512))


# MLA


def _mla() -> Iterator[Question]:
    plain = {"rotates without scaling": trained(rope=Rope(1e4))}
    yield _ask("mla-of-two-layers", "mla", "rules.mla-several-layers", change=_become(_mla_of_two_layers))
    yield _ask(
        "mla-post-norm-feedback", "mla", change=both(states(norm_output=True), trained(feedback="post_norm")),
        instead={"feeds back the un-normed state": trained(feedback="pre_norm")},
    )  # fmt: skip
    yield _ask(
        "mla-fc-norm", "mla", change=_become(lambda: _scaled({**_DEEP, **_MSCALES})(head(mla=True, fc_norm=True)))
    )
    yield _ask(
        "mla-norm-before-fc", "mla", "rules.mla-norm-before-fc",
        change=_become(lambda: _scaled({**_DEEP, **_MSCALES})(head(mla=True, norm_before_fc=True))),
        instead={"leaves out the norm before fc": trained(norm_before_fc=False)},
    )  # fmt: skip
    yield _ask(
        "mla-of-the-final-state", "mla", "rules.mla-final-norm",
        change=_become(lambda: _scaled({**_DEEP, **_MSCALES})(head(mla=True, taps=None))),
    )  # fmt: skip
    yield _ask(
        "mla-without-a-latent-of-queries", "mla", "rules.mla-query",
        change=_become(lambda: _scaled({**_DEEP, **_MSCALES})(head(mla=True, query_latent=False))),
    )  # fmt: skip
    unscaled = both(omits("rope_scaling"), trained(rope=Rope(1e4)))
    yield _ask("mla-without-rope-scaling", "mla", change=unscaled)
    yield _ask(
        "mla-without-rope-scaling-own-kernels", "mla", change=unscaled,
        settings={"own_kernels": True},
    )  # fmt: skip
    yield _ask(
        "mla-llama3", "mla", "rules.mla-rope", change=_scaled(_LLAMA3),
        instead={
            "rotates as DeepSeek's YaRN": trained(
                rope=_roped({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16})
            ),
        },
    )  # fmt: skip
    for name, more in (
        ("of-deepseek-v2", {"mscale": 0.9, "mscale_all_dim": 0.707}),
        ("without-all-dims", {"mscale": 0.5, "mscale_all_dim": 0.0}),
        ("without-mscale", {}),
    ):
        yield _ask(f"mla-yarn-{name}", "mla", change=_scaled({**_DEEP, **more}), instead=plain)
    for name, change in (
        ("a-large-epsilon", both(states(rms_norm_eps=1e-2), trained(rms_norm_eps=1e-2))),
        ("own-embeddings", _become(lambda: _scaled({**_DEEP, **_MSCALES})(head(mla=True, own_embeddings=True)))),
        (
            "yarn-in-rope-parameters",
            both(
                omits("rope_theta", "rope_scaling"),
                states(rope_parameters={**_DEEP, **_MSCALES, "rope_theta": 700.0}),
                trained(rope=_roped({**_DEEP, **_MSCALES}, 700.0)),
            ),
        ),
    ):
        yield _ask(f"mla-{name}", "mla", change=change)
    yield _ask(
        "mla-no-lm-head", "mla-full-vocabulary", "rules.no-lm-head-unsized",
        change=both(
            drops("lm_head.weight"), weighing(lm_head__weight=target_lm_head()), states(draft_vocab_size=None)
        ),
    )  # fmt: skip
    yield _ask(
        "mla-no-draft-vocab-size", "mla-full-vocabulary", "rules.mla-no-draft-vocab-size",
        change=omits("draft_vocab_size"),
        instead={"scores with the target's lm_head": weighing(lm_head__weight=target_lm_head())},
    )  # fmt: skip
    yield _ask(
        "mla-names-that-begin-with-model", "mla", "rules.mla-model-prefix",
        change=renames("", "model.", but=("d2t", "t2d", "lm_head.weight")),
    )  # fmt: skip
    yield _ask(
        "mla-a-norm-missing", "mla", "rules.tensor-missing", change=drops("kv_a_layernorm.weight"),
        instead={"norms with ones": weighing(layers__0__self_attn__kv_a_layernorm__weight=1.0)},
    )  # fmt: skip


def _mla_of_two_layers() -> Probed:
    return _scaled({**_DEEP, **_MSCALES})(head(mla=True, layers=2))


# P-EAGLE


def _parallel() -> Iterator[Question]:
    one_by_one = BASES["p-eagle"].instead
    yield _ask(
        "p-eagle-not-told", "plain", "rules.parallel-drafting", change=_become(BASES["p-eagle"].make),
        instead=one_by_one,
    )  # fmt: skip
    yield _ask("p-eagle-no-mask-token", "p-eagle", "rules.no-mask-token", change=omits("mask_token_id"))
    for key in ("pard_token", "ptd_token_id"):
        slug = key.replace("_", "-")
        yield _ask(
            f"p-eagle-{slug}", "p-eagle", instead=one_by_one,
            change=both(omits("mask_token_id"), states(**{key: MASK})),
        )  # fmt: skip
    yield _ask("p-eagle-no-mask-state", "p-eagle", "rules.no-mask-state", change=drops("mask_hidden"))
    for name in ("PEagleDraftModel", "PeagleLlamaForCausalLM"):
        yield _ask(f"p-eagle-called-{name.lower()}", "p-eagle", change=states(architectures=[name]))
    yield _ask(
        "p-eagle-norm-before-fc", "p-eagle",
        change=_become(lambda: head(parallel_drafting=True, norm_before_fc=True)),
        instead=BASES["norm-before-fc"].instead,
    )  # fmt: skip
    yield _ask(
        "p-eagle-of-two-layers-with-biases", "p-eagle",
        change=_become(lambda: head(parallel_drafting=True, attention_bias=True, layers=2, own_embeddings=True)),
        instead={"drops the biases": trained(attention_bias=False)},
    )  # fmt: skip


# Quantized heads


def _quantized() -> Iterator[Question]:
    yield _ask(
        "a-config-of-quantized-weights-alone", "plain", "rules.quantized-config-alone",
        change=lambda made: replace(made, config=quantized(made, "int8").config), settings={"dtype": "bfloat16"},
        # sglang-jax treats a config of fp8 otherwise than this one
        close=0.15, engines=("vllm", "sglang", "trtllm", "llamacpp"),
    )  # fmt: skip
    nothing = {"quant_algo": None, "kv_cache_quant_algo": None}
    yield _ask(
        "a-config-of-quantized-weights-that-names-no-form", "plain", "rules.quantized-config-null",
        change=states(quantization_config={"quant_method": "modelopt", **nothing}),
    )  # fmt: skip
    yield _ask(
        "a-file-of-modelopt-that-names-no-form", "plain",
        change=holding_file(
            "hf_quant_config.json", {"producer": {"name": "modelopt", "version": "0.37"}, "quantization": nothing}
        ),
    )  # fmt: skip
    yield _ask("quantized-and-nothing-says-so", "int8", "rules.quantized-untold", change=omits("quantization_config"))
    yield _ask(
        "a-method-nobody-knows", "int8", "rules.quantization-method",
        change=states(quantization_config={"quant_method": "nobodys"}),
    )  # fmt: skip
    yield _ask(
        "int8-but-for-fc-by-its-plain-name", "int8", "rules.quantized-where-plain",
        change=_become(lambda: quantized(head(), "int8", ignore=["fc", "re:.*lm_head"])),
    )  # fmt: skip
    yield _ask(
        "fp8-and-the-whole-draft-an-exception", "int8", "rules.plain-where-quantized",
        change=_become(
            lambda: quantized(head(), "fp8", quant_method="modelopt", quant_algo="FP8", ignore=["model*", "lm_head"])
        ),
    )  # fmt: skip
    yield _ask(
        "int8-no-target-for-attention", "int8", "rules.quantization-target",
        change=_become(lambda: quantized(head(), "int8", targets=["re:.*down_proj"])),
    )  # fmt: skip
    yield _ask(
        "half-a-config-of-quark", "int8", "rules.quantization-incomplete",
        change=_become(lambda: quantized(head(), "fp8", quant_method="quark", exclude=["re:.*fc"])),
    )  # fmt: skip
    yield _ask(
        "fp8-over-int4", "int8", "rules.quantization-form",
        change=_become(
            lambda: quantized(
                head(), "fp8", quant_method="quark", exclude=["re:.*fc", "re:.*lm_head"],
                export={"kv_cache_group": [], "pack_method": "reorder"}, layer_quant_config={},
                layer_type_quant_config={},
                global_quant_config={"weight": [{"dtype": "fp8_e4m3"}, {"dtype": "int4"}]},
            )
        ),
    )  # fmt: skip
    yield _ask(
        "4-bit-weights-and-nothing-says-so", "int8", "rules.packed-untold",
        change=_become(lambda: omits("quantization_config")(quantized(head(), "nvfp4"))),
    )  # fmt: skip
    yield _ask(
        "fp8-of-quark", "int8", engines=("vllm", "sglang"),
        change=_of_quark("re:.*fc", "re:.*lm_head"),
    )  # fmt: skip
    yield _ask(
        "fp8-of-quark-but-for-fc-by-its-plain-name", "int8", "rules.quantized-where-plain", engines=("vllm", "sglang"),
        change=_of_quark("fc", "lm_head"),
    )  # fmt: skip
    for name, (make, asks) in _PACKED.items():
        yield _ask(name, "int8", *asks, change=_become(make), engines=("vllm", "sglang"))
    yield _ask(
        "int8-of-gptq", "int8", change=_become(partial(packed, "gptq", bits=8, keys=_NAMED)), engines=("sglang",)
    )
    yield _ask(
        "int4-of-awq-in-groups-of-16-in-float16", "int8", change=_become(partial(packed, "awq", group=16)),
        settings={"dtype": "float16"}, engines=("vllm", "sglang"),
    )  # fmt: skip
    yield _ask(
        "fc-in-int8-too", "int8", "rules.fc-quantized", change=both(_fc_in_int8, _exceptions("re:.*lm_head")),
        engines=("sglang",),
    )  # fmt: skip
    fp8, nvfp4 = ({"quant_method": "modelopt", "quant_algo": algorithm} for algorithm in ("FP8", "NVFP4"))
    half = torch.ones(HIDDEN, len(TAPS) * HIDDEN // 2, dtype=torch.uint8)
    yield _ask(
        "fc-in-4-bits-too", "int8", "rules.fc-packed", engines=("sglang",),
        change=both(_become(lambda: quantized(head(), "nvfp4", **nvfp4, ignore=["lm_head"])), holds(fc__weight=half)),
    )  # fmt: skip
    yield _ask(
        "fp8-of-modelopt", "int8", engines=("sglang",),
        change=both(_become(lambda: quantized(head(), "fp8", **fp8, ignore=["fc", "lm_head"])), _by_tensor),
    )  # fmt: skip
    yield _ask(
        "fp8-and-no-exceptions", "int8", "rules.quantized-where-plain", engines=("sglang",),
        change=both(_become(lambda: quantized(head(), "fp8", **fp8, ignore=["nothing"])), _by_tensor),
    )  # fmt: skip
    blocks = {"quant_method": "fp8", "activation_scheme": "dynamic", "ignored_layers": ["fc", "lm_head"]}
    yield _ask(
        "fp8-in-blocks", "int8", engines=("sglang",),
        change=_become(lambda: quantized(head(), "blocks", **blocks, weight_block_size=[32, 32])),
    )  # fmt: skip
    yield _ask(
        "fp8-in-blocks-that-cut-the-keys", "int8", "rules.quantization-blocks", engines=("sglang",),
        change=_become(lambda: quantized(head(), "blocks", **blocks, weight_block_size=[128, 128])),
    )  # fmt: skip
    int4 = {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "ignore": ["fc", "lm_head"],
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32},
            }
        },
    }
    yield _ask(
        "int4-of-compressed-tensors", "int8", engines=("sglang",),
        change=_become(lambda: quantized(head(), "int4", **int4)),
    )  # fmt: skip
    yield _ask(
        "nvfp4-of-modelopt", "int8", engines=("sglang",), settings={"dtype": "bfloat16", "capability": [10, 0]},
        change=both(
            _become(lambda: quantized(head(), "nvfp4", **nvfp4, ignore=["fc", "lm_head"], group_size=16)),
            _input_scales,
        ),
    )  # fmt: skip
    yield _ask(
        "mla-and-a-config-of-quantized-weights", "mla", "rules.mla-quantized", engines=("sglang",),
        change=states(quantization_config={**fp8, "ignore": ["fc", "lm_head"]}), settings={"dtype": "bfloat16"},
    )  # fmt: skip


_FP8 = {"dtype": "fp8_e4m3", "qscheme": "per_channel", "symmetric": True}
_QUARK: Mapping[str, Any] = {
    "algo_config": None,
    "export": {"kv_cache_group": [], "min_kv_scale": 0.0, "pack_method": "reorder", "weight_merge_groups": None},
    "global_quant_config": {
        "weight": {**_FP8, "ch_axis": 0, "is_dynamic": False},
        "input_tensors": {**_FP8, "ch_axis": 1, "is_dynamic": True},
        "output_tensors": None,
        "bias": None,
    },
    "kv_cache_quant_config": {},
    "layer_quant_config": {},
    "layer_type_quant_config": {},
    "quant_mode": "eager_mode",
}
"""What Quark 0.11 writes of FP8 by channel, with inputs by token."""
_MODULES = ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]
_NAMED = {"modules_in_block_to_quantize": _MODULES}
"""What vLLM asks for: the modules as it calls them."""
_PACKED: Mapping[str, tuple[Callable[[], Probed], tuple[str, ...]]] = {
    "int4-of-gptq": (partial(packed, "gptq", keys=_NAMED), ()),
    "int4-of-gptq-and-no-names-of-modules": (partial(packed, "gptq"), ("rules.plain-where-quantized",)),
    "int4-of-gptq-and-its-lm-head": (
        partial(
            packed,
            "gptq",
            also=("lm_head",),
            full=True,
            keys={"modules_in_block_to_quantize": [*_MODULES, "lm_head"], "lm_head": True},
        ),
        (),
    ),
    "int4-of-gptq-not-symmetric": (
        partial(packed, "gptq", keys={**_NAMED, "sym": False}),
        ("rules.quantization-setting",),
    ),
    "int4-of-gptq-in-groups-of-16": (partial(packed, "gptq", group=16, keys=_NAMED), ("rules.quantization-setting",)),
    "int4-of-gptq-in-an-order-of-inputs": (partial(packed, "gptq", keys={**_NAMED, "desc_act": True}), ()),
    "int4-of-gptq-and-no-symmetry-stated": (
        partial(packed, "gptq", keys={**_NAMED, "sym": None}),
        ("rules.quantization-incomplete",),
    ),
    "int4-of-awq": (partial(packed, "awq"), ()),
    "int4-of-awq-and-exceptions": (partial(packed, "awq", keys={"modules_to_not_convert": ["fc", "lm_head"]}), ()),
    "int4-of-awq-by-other-keys": (
        partial(packed, "awq", keys={"bits": None, "group_size": None, "w_bit": 4, "q_group_size": 32}),
        ("rules.quantization-float16",),
    ),
    "int4-of-awq-without-zero-points": (
        partial(packed, "awq", keys={"zero_point": False}),
        ("rules.quantization-float16",),
    ),
    "int4-of-awq-in-groups-of-16": (partial(packed, "awq", group=16), ("rules.quantization-float16",)),
    "int8-of-awq": (partial(packed, "awq", bits=8), ("rules.quantization-form",)),
    "fc-of-gptq-too": (
        partial(packed, "gptq", also=("fc",), keys={"modules_in_block_to_quantize": ["fc", *_MODULES]}),
        ("rules.fc-renamed",),
    ),
}
"""Heads of 4-bit and 8-bit weights, with what the answer decides."""


def _of_quark(*exceptions: str) -> Change:
    return _become(lambda: quantized(head(), "fp8", quant_method="quark", exclude=list(exceptions), **_QUARK))


def _fc_in_int8(made: Probed) -> Probed:
    """Quantize fc as the decoder layers are."""
    weight = made.tensors["fc.weight"].float()
    scale = weight.abs().amax(dim=1, keepdim=True) / 127
    return holds(fc__weight=(weight / scale).round().to(torch.int8), fc__weight_scale=scale)(made)


def _by_tensor(made: Probed) -> Probed:
    """Give every quantized weight one scale, and one for what it is multiplied with, as ModelOpt does."""
    scales = {name: torch.tensor(0.5) for name in made.tensors if name.endswith("weight_scale")}
    return _input_scales(replace(made, tensors={**made.tensors, **scales}))


def _input_scales(made: Probed) -> Probed:
    """Give every quantized weight a scale for what it is multiplied with."""
    names = [name for name in made.tensors if name.endswith("weight_scale")]
    inputs = {name.replace("weight_scale", "input_scale"): torch.tensor(0.25) for name in names}
    return replace(made, tensors={**made.tensors, **inputs})


def _exceptions(*entries: str) -> Change:
    """Leave only these modules out of what is quantized."""
    return lambda made: states(quantization_config={**made.config["quantization_config"], "ignore": list(entries)})(
        made
    )


# Targets


def _targets() -> Iterator[Question]:
    yield _ask("a-target-that-hands-out-no-states", "plain", "rules.target-type", target="gemma")
    yield _ask("a-target-of-qwen3", "plain", target="qwen3")
    yield _ask(
        "a-target-whose-lm-head-is-its-embeddings",
        "plain",
        "rules.target-tied",
        target="tied",
        engines=("sglang_jax",),
    )
    for kind in FAMILIES:
        for name, ids in LISTINGS.items():
            taps = TAPS if ids is None else tuple(after + 1 for after in ids)
            yield _ask(
                f"{kind.replace('_', '-')}-with-{name}", "plain", f"terms.aux_of.{kind}", "rules.aux-branch",
                change=both(_listing(**({} if ids is None else {AUX_IDS: list(ids)})), _tapping(taps)),
                value=name, target=f"{kind}-family", engines=("sglang",), comparable=False,
            )  # fmt: skip


# Asked of sglang-jax and llama.cpp, which refuse the heads that other engines' questions about the same begin with


def _refused_bases() -> Iterator[Question]:
    alone, both_of_them = ("sglang_jax",), ("sglang_jax", "llamacpp")
    yield _ask(
        "mla-in-place-of-llamas-attention", "plain", "rules.mla", engines=both_of_them,
        change=both(_become(BASES["mla"].make), states(model_type="llama", architectures=["LlamaForCausalLMEagle3"])),
    )  # fmt: skip
    yield _ask(
        "one-layer-and-no-number-of-layers", "plain", "rules.no-num-hidden-layers", engines=both_of_them,
        change=omits("num_hidden_layers"),
    )  # fmt: skip
    yield _ask(
        "a-wider-target-and-no-embeddings", "plain", "rules.no-embedding", target="wide", engines=alone,
        change=both(_become(BASES["wide-target"].make), drops("embed_tokens.weight")),
    )  # fmt: skip
    yield _ask(
        "model-type-llama4-text", "plain", "terms.mtp_types", "rules.mtp-type", value="llama4_text", engines=alone,
        change=states(model_type="llama4_text"),
    )  # fmt: skip


# Asked of llama.cpp alone


def _of_llamacpp() -> Iterator[Question]:
    alone, plain = ("llamacpp",), {"rotates without scaling": trained(rope=Rope(1e4))}
    for name, code, scaling in (
        ("rope-called-by-no-known-type", "rope-type", {"rope_type": "foo", "factor": 4.0}),
        ("rope-stated-without-its-factor", "rope-incomplete", {"rope_type": "linear"}),
    ):
        yield _ask(
            name, "plain", f"rules.{code}", engines=alone, instead=plain,
            change=both(states(rope_scaling=scaling), trained(rope=_roped(_LINEAR))),
        )  # fmt: skip
    yield _ask(
        "norms-of-states-and-no-flag", "plain", "rules.tensor-without-flag", engines=alone,
        change=_become(lambda: omits("fc_norm")(head(fc_norm=True))),
    )  # fmt: skip
    last = (2, 6, LAYERS)
    yield _ask(
        "the-last-layer-of-a-llama", "plain", "terms.aux.last_unfilled", "rules.aux-last-unfilled", value=False,
        engines=alone, change=both(_listing(top=list(last)), _tapping(last)),
    )  # fmt: skip
