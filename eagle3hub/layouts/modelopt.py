"""NVIDIA ModelOpt: its Hugging Face export of every version, and its Megatron export.

Hugging Face (``export/plugins/hf_spec_export.py``): ``layers.{i}.*`` from 0.43 on, before that ``midlayer.*`` and
(0.41-0.42, several layers) ``midlayer.{i}.*``; no header metadata, d2t as int64 offsets only where the vocabulary is
reduced (often in frequency order), never t2d or embeddings; a flat Llama config whose unresolved keys are null, with
``eagle_config`` and after-layer ids. Aux layers are captured in ascending order, even if the list has another.
Megatron (``unified_export_megatron.py``): the same with header metadata, the input norm of layers 1 and up called
hidden_norm, and never a d2t (a misspelled attribute), so the map must be given.
"""

from __future__ import annotations

from functools import partial

from eagle3hub.checkpoint.folder import Checkpoint
from eagle3hub.errors import Hint, Problem, Refusal
from eagle3hub.head import Assumption, Head
from eagle3hub.head.aux_defaults import AUX_IDS
from eagle3hub.head.quantization import QUANT_CONFIG, UNSTATED
from eagle3hub.layouts.base import (
    AS_FOUND,
    Contract,
    LayoutFiles,
    Match,
    Need,
    ReadOptions,
    WriteOptions,
    alternatives,
)
from eagle3hub.layouts.flat import FlatLayout, common_config
from eagle3hub.layouts.hf_config import MLA_CLASS

_ARCHITECTURES = (["LlamaForCausalLMEagle3"], ["LlamaForCausalLMEagle3Deep"], [MLA_CLASS])


class ModelOpt(FlatLayout):
    """Codec of ModelOpt folders."""

    name = "modelopt"
    one_layer = False
    order_ignored = True
    contract = Contract(
        title="ModelOpt",
        tensor_prefix="layers.0.",
        forms=frozenset({"layers", "midlayer", "midlayers"}),
        expresses=frozenset(
            {
                *("hidden_act", "rope_scaling", "aux_ids", "aux_count", "full_vocabulary", "unsorted_vocabulary"),
                *("several_layers", "attention_bias", "fc_bias", "norm_before_fc", "no_aux", "quantization", "mla"),
                "no_lm_head",
            }
        ),
        vocab_dtype="I64",
        has_t2d=False,
        identity_map=False,
        metadata=None,
        aux_ids="eagle_config (after-layer) and top level (boundary)",
        full_title="NVIDIA ModelOpt",
        engines=("trtllm", "sglang", "vllm"),
        trainer_sorts=False,
        needs=(Need("aux layer ids", "--target", "refused-aux-unknown", "where the source does not name them"),),
        cannot={"embed_tokens": "ModelOpt exports no embeddings: engines take the target's"},
        reads=("Hugging Face export 0.37-0.42 (midlayer)", "Hugging Face export 0.43 and later", "Megatron export"),
        writes="Hugging Face export 0.43 and later",
    )

    def detect(self, checkpoint: Checkpoint) -> Match | None:
        """ModelOpt's eagle_config, and names without t2d and embeddings."""
        tensors, config = checkpoint.tensors, checkpoint.config
        if "speculators_model_type" in config or "t2d" in tensors:
            return None
        style = next((s for s in ("layers.0.", "midlayer.") if any(n.startswith(s) for n in tensors)), None)
        d2t = tensors.get("d2t")
        if style is None or (d2t is not None and d2t.dtype != "I64"):
            return None
        named = config.get("architectures") in _ARCHITECTURES
        eagle = config.get("eagle_config")
        evidence = [f"{style}* names"]
        if isinstance(eagle, dict) and ("next_layer_regular" in eagle or "use_last_layernorm" in eagle):
            evidence.append("eagle_config of ModelOpt")
        elif config.get("norm_output") is True or "t2d" in checkpoint.beside.more:
            return None  # what others write, in a config without ModelOpt's marks
        elif not named or (d2t is not None and "embed_tokens.weight" in tensors):
            return None
        if "embed_tokens.weight" not in tensors:
            evidence.append("neither t2d nor embed_tokens")
        if named:
            evidence.append(f"architecture {config['architectures'][0]}")
        return Match((len(evidence) - 1) / 3, tuple(evidence)) if len(evidence) > 1 else None

    def read(self, checkpoint: Checkpoint, options: ReadOptions = AS_FOUND) -> Head:
        """The head in the folder, with the facts that only ModelOpt's own files hold."""
        head = super().read(checkpoint, options)
        if "t2d" not in head.buffers:  # no exporter of ModelOpt writes one: with it, another program made the file
            head.problems = [_lost_map(p) if p.code == "vocab-missing" else p for p in head.problems]
        if head.semantics.quantization is not None:
            if head.semantics.quantization == UNSTATED:
                head.problems.append(_no_quantization_config(str(head.semantics.quantized_as)))
        elif checkpoint.config.get("quantization_config"):
            rope = head.semantics.rope
            scaling = "no scaling" if rope.scaling is None else f"scaling {rope.scaling.get('rope_type')}"
            why = (
                "config.json has the quantization_config that ModelOpt's Megatron exporter copies from another model, "
                f"whose rope_theta {rope.theta:.15g}, {scaling} and rms_norm_eps {head.semantics.rms_norm_eps:g} may "
                "be what was copied and not what the head was trained with"
            )
            settle = Hint(
                "compare them with the training run and correct config.json; --rope-theta gives the theta alone",
                "--rope-theta",
            )
            head.assumptions.append(Assumption("rope_theta", rope.theta, why, settle))
        return head

    def write(self, head: Head, options: WriteOptions) -> LayoutFiles:
        """The head as ModelOpt 0.43 and later export it. Raises Refusal, also where d2t alone tells no map."""
        vocab = head.vocab_map
        if vocab is not None and list(vocab.target_id) == list(range(vocab.draft_vocab_size)):
            raise Refusal(
                f"the draft vocabulary is the first {vocab.draft_vocab_size} tokens of the target's, so every offset "
                "in d2t is zero; without t2d, which ModelOpt does not write, that is a map nobody filled in",
                hint=partial(alternatives, head, self.name),
                code="refused-prefix-vocabulary",
            )
        return super().write(head, options)

    def new_config(self, head: Head) -> dict[str, object]:
        """A flat config with ModelOpt's eagle_config."""
        if head.aux is None:
            raise Refusal(
                "a ModelOpt config names its aux layers, and neither the source nor a target says which they are",
                hint="give --target: the trainer's default layers follow from its number of layers",
                code="refused-aux-unknown",
            )
        s = head.semantics
        return {
            **common_config(head, "LlamaForCausalLMEagle3" if s.attention == "gqa" else MLA_CLASS),
            **({"bias": True} if s.fc_bias else {}),
            "eagle_config": {
                AUX_IDS: head.aux.after_layer if head.aux.numbered else [],
                "use_aux_hidden_state": s.uses_aux,
                "use_input_layernorm_in_first_layer": True,
                "use_last_layernorm": True,
                "use_mtp_layernorm": False,
                "next_layer_regular": True,
                "parallel_draft_step": 1,
                "parallel_draft_heads_num_layers": 1,
                **({"norm_before_fc": True} if s.norm_before_fc else {}),
            },
        }


def _lost_map(problem: Problem) -> Problem:
    message = f"{problem.message}; ModelOpt's Megatron exporter never writes the map (a misspelled attribute)"
    hint = Hint("give the d2t.pt of the training run with --d2t FILE", "--d2t")
    return Problem(problem.severity, problem.code, message, hint)


def _no_quantization_config(kind: str) -> Problem:
    return Problem(
        "error",
        "config-quantization-missing",
        f"the weights are quantized ({kind}), and neither quantization_config in config.json nor {QUANT_CONFIG} says "
        "how: engines would stop, or take the packed values for weights",
        f"copy {QUANT_CONFIG} from the export into the folder",
    )
