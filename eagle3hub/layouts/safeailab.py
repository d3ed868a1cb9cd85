"""SafeAILab/EAGLE (cb7e084, ``eagle/traineagle3``): the reference implementation of EAGLE-3.

``midlayer.*`` names in half precision, d2t as int64 offsets and t2d as bool; embeddings only where the head's width
is not the target's. The trainer writes no config.json: users put its own ``config.json`` beside the weights, a plain
Llama's with neither rope_theta nor head_dim. It always trains with a RoPE base of 10000.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import partial

from eagle3hub.checkpoint.folder import Checkpoint
from eagle3hub.errors import Hint, Refusal
from eagle3hub.head import Assumption, Head
from eagle3hub.layouts.base import Contract, LayoutFiles, Match, WriteOptions, alternatives, refuse_inexpressible
from eagle3hub.layouts.flat import FlatLayout
from eagle3hub.layouts.interpret import Interpretation, torch_dtype

TRAINED_THETA = 10000.0
_SCALINGS = ("linear", "dynamic")


class SafeAILab(FlatLayout):
    """Codec of SafeAILab folders."""

    name = "safeailab"
    certain_theta = TRAINED_THETA
    inert = frozenset({"bias"})
    contract = Contract(
        title="SafeAILab",
        tensor_prefix="midlayer.",
        forms=frozenset({"midlayer"}),
        expresses=frozenset({"hidden_act", "rope_scaling", "embed_tokens", "target_width", "full_vocabulary"}),
        vocab_dtype="I64",
        has_t2d=True,
        identity_map=False,
        metadata=None,
        aux_ids=None,
        full_title="SafeAILab EAGLE",
        other_readers="SafeAILab's own EAGLE code",
        single_file=True,
        cannot={
            "aux_ids": "SafeAILab's code always taps the default layers",
            "aux_count": "SafeAILab's fc takes exactly 3 aux hidden states",
            "unsorted_vocabulary": "SafeAILab takes row r of lm_head for the r-th true entry of t2d",
            "several_layers": "SafeAILab knows one decoder layer (midlayer)",
        },
        reads=("EAGLE-3 training output with its config.json",),
        writes="EAGLE-3 training output, as safetensors",
    )

    def detect(self, checkpoint: Checkpoint) -> Match | None:
        """Midlayer names with t2d, a plain Llama config as the trainer's own, half precision."""
        tensors, config = checkpoint.tensors, checkpoint.config
        if not any(n.startswith("midlayer.") for n in tensors) or "t2d" not in tensors or "eagle_config" in config:
            return None
        if config.get("architectures") != ["LlamaForCausalLM"]:
            return None
        scaling = config.get("rope_scaling")
        if isinstance(scaling, dict) and scaling.get("rope_type", scaling.get("type")) not in _SCALINGS:
            return None  # its trainer could not have made it
        evidence = ["midlayer.* names", "architecture LlamaForCausalLM"]
        if "d2t" in tensors and tensors["d2t"].dtype == "I64":
            evidence.append("int64 d2t with t2d")
        if "head_dim" not in config or "F16" in {ref.dtype for ref in tensors.values()}:
            evidence.append("half precision or no head_dim")
        if "max_position_embeddings" in config:
            evidence.append("max_position_embeddings")
        return Match((len(evidence) - 1) / 4, tuple(evidence))

    def interpret(self, config: Mapping[str, object], *, names: Collection[str] = ()) -> Interpretation:
        """As every flat config; a RoPE base other than the trained one is an assumption."""
        meaning = super().interpret(config, names=names)
        theta = meaning.semantics.rope.theta
        if theta == TRAINED_THETA:
            return meaning
        why = f"SafeAILab's training code has a RoPE base of 10000 whatever the config says, which is {theta:.15g}"
        doubt = Assumption(
            "rope_theta",
            theta,
            why,
            Hint("give --rope-theta 10000, or the base if the code was changed", "--rope-theta"),
        )
        return replace(meaning, assumptions=[*meaning.assumptions, doubt])

    def write(self, head: Head, options: WriteOptions) -> LayoutFiles:
        """As every flat layout. Raises Refusal for embeddings and RoPE scalings SafeAILab's code would not use."""
        refuse_inexpressible(head, self.name, self.contract)
        same_width = head.dims.hidden_size == head.dims.target_hidden_size
        if same_width and "embed_tokens.weight" in head.tensors:
            raise Refusal(
                "the head has its own embed_tokens.weight, and SafeAILab takes the target's wherever they fit",
                hint=partial(alternatives, head, self.name, "embed_tokens"),
                code="refused-embed-tokens",
            )
        scaling = head.semantics.rope.scaling
        if scaling and scaling.get("rope_type") not in _SCALINGS:
            raise Refusal(
                f"the head has RoPE scaling of type {scaling.get('rope_type')}, and SafeAILab knows linear and "
                "dynamic only",
                hint=partial(alternatives, head, self.name),
                code="refused-rope-scaling",
            )
        files = super().write(head, options)
        return files if head.semantics.rope.theta == TRAINED_THETA else self.noting_base(files, head)

    def new_config(self, head: Head) -> dict[str, object]:
        """The fields of the trainer's config.json, plus those it leaves out where their value is not its default."""
        d, s = head.dims, head.semantics
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            **head.token_ids,
            "hidden_act": s.hidden_act,
            "hidden_size": d.hidden_size,
            **({"target_hidden_size": d.target_hidden_size} if d.target_hidden_size != d.hidden_size else {}),
            "intermediate_size": d.intermediate_size,
            **({"max_position_embeddings": head.max_position_embeddings} if head.max_position_embeddings else {}),
            "num_attention_heads": d.num_attention_heads,
            "num_key_value_heads": d.num_key_value_heads,
            "num_hidden_layers": 1,
            **({"head_dim": d.head_dim} if d.head_dim * d.num_attention_heads != d.hidden_size else {}),
            "rms_norm_eps": s.rms_norm_eps,
            **({"rope_theta": s.rope.theta} if s.rope.theta != TRAINED_THETA else {}),
            **({"rope_scaling": dict(s.rope.scaling)} if s.rope.scaling else {}),
            "tie_word_embeddings": False,
            "torch_dtype": torch_dtype(head),
            "vocab_size": d.vocab_size,
            "draft_vocab_size": d.draft_vocab_size,
        }
