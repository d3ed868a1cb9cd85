"""TorchSpec (lightseekorg/TorchSpec 6f21829, ``tools/convert_to_hf.py``, ``models/draft``).

``midlayer.*`` names (``layers.0.*`` with ``--vllm``), the target's embeddings along; over the full vocabulary neither
d2t nor t2d. The config is the draft config that training began with, with draft_vocab_size added; since April 2026
``_torchspec_version`` in it and ``torchspec_version`` in the header say where it comes from. The trainer taps the
default layers unless a run names others (``aux_hidden_states_layers``), which the export does not record. It trains
with the target's embeddings and never changes them (``training/eagle3_trainer.py``); exports without a version may
hold random numbers in their place. Its checkpoints are FSDP's, so that nothing of it reads an export again:
it is not written here.

For a kimi_k2 head ``--vllm`` also makes boundary ids of those in ``eagle_config``. Its MLA drafts
(``models/draft/deepseek_eagle.py``, since April 2026) hand their scaled RoPE no base, which is then 10000.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from eagle3hub.checkpoint.folder import Checkpoint, read_tensor
from eagle3hub.checkpoint.safetensors import TensorRef
from eagle3hub.errors import Hint, Problem
from eagle3hub.head import Assumption, Head
from eagle3hub.head.aux_defaults import AUX_IDS
from eagle3hub.head.fields import Fields
from eagle3hub.layouts.base import AS_FOUND, Contract, Match, ReadOptions
from eagle3hub.layouts.flat import FlatReader
from eagle3hub.layouts.tensors import has_mla

_CONFIG_MARK, _HEADER_MARK = "_torchspec_version", "torchspec_version"
_ARCHITECTURES = (["LlamaForCausalLMEagle3"], ["Eagle3DeepseekV2ForCausalLM"])
_PROBED = 64
FOREIGN = (
    "embed_tokens.weight is not the target's, with which TorchSpec trains and which it never changes: some exports "
    "of before April 2026 wrote random numbers in its place"
)
NOT_FOREIGN = Hint(
    "--drop-embeddings leaves it out, so that engines use the target's; if another trainer made the head, say --from "
    "flat",
    "--drop-embeddings",
    "--from",
)
"""What is said of embeddings that an export of TorchSpec should have copied from the target, and did not."""
UNSURE = (
    "embed_tokens.weight should be the target's, with which TorchSpec trains, but some exports of before April 2026 "
    "wrote random numbers in its place, and vLLM and llama.cpp would use them"
)
TO_COMPARE = Hint("give --target a folder with the target's weights, and they are compared", "--target")
"""What is said of them where they cannot be compared."""
_BASE = 10000.0


class TorchSpec(FlatReader):
    """Reader of TorchSpec's exports."""

    name = "torchspec"
    contract = Contract(
        title="TorchSpec",
        tensor_prefix="midlayer.",
        forms=frozenset({"midlayer", "layers"}),
        expresses=frozenset(
            {
                *("hidden_act", "rope_scaling", "embed_tokens", "target_width", "aux_ids", "full_vocabulary"),
                *("mla", "fc_norm", "post_norm_feedback"),  # of MLA heads of its makers: aux_norm_low …, norm_output
                "quantization",  # not its own: published exports have been quantized afterwards
            }
        ),
        vocab_dtype="I64",
        has_t2d=True,
        identity_map=False,
        metadata={"format": "pt"},
        aux_ids="eagle_config (after-layer)",
        engines=("vllm", "sglang"),
        reads=("convert_to_hf of 6f21829, full or pruned vocabulary", "convert_to_hf --vllm"),
    )

    def detect(self, checkpoint: Checkpoint) -> Match | None:
        """Its version in config or header; else embeddings without a map, which no other trainer writes."""
        tensors, config, metadata = checkpoint.tensors, checkpoint.config, checkpoint.metadata
        if _is_marked(checkpoint):
            return Match(1.0, (f"{_CONFIG_MARK} or {_HEADER_MARK}",), certain=True)
        if config.get("architectures") not in _ARCHITECTURES or "embed_tokens.weight" not in tensors:
            return None
        eagle = config.get("eagle_config")
        foreign = isinstance(eagle, dict) and (not has_mla(tensors) or "next_layer_regular" in eagle)
        if not any(n.startswith("midlayer.") for n in tensors) or foreign:
            return None
        maps = {"d2t", "t2d"} & set(tensors)
        if not maps and (metadata or {}).get("format") == "pt" and "lm_head.weight" in tensors:
            return Match(0.75, ("midlayer.* names", "own embeddings and full lm_head", "neither d2t nor t2d"))
        if len(maps) == 2 and metadata is None and tensors["d2t"].dtype == "I64":
            return Match(0.75, ("midlayer.* names", "own embeddings", "d2t and t2d", "no header metadata"))
        return None

    def read(self, checkpoint: Checkpoint, options: ReadOptions = AS_FOUND) -> Head:
        """The head in the folder; a pruned lm_head whose rows were picked wrong is an error."""
        ids = _shifted_ids(checkpoint)
        head = super().read(checkpoint if ids is None else _with_ids(checkpoint, [i - 1 for i in ids]), options)
        if ids is not None:
            head.config = checkpoint.config
            head.problems = [p for p in head.problems if p.code != "aux-ids-nested-only"]
            message = f"the aux layers {ids} are boundary ids: convert_to_hf --vllm numbers those of a kimi_k2 head so"
            head.problems.append(Problem("info", "aux-boundary", message))
        if "embed_tokens.weight" in head.tensors:
            head.copied_embeddings = "yes" if _is_marked(checkpoint) else "unsure"
        scaling = head.semantics.rope.scaling
        if head.dims.mla is not None and scaling and head.semantics.rope.theta != _BASE and options.rope_theta is None:
            head.assumptions.append(_base(head.semantics.rope.theta, str(scaling.get("rope_type"))))
        if head.vocab_map is not None and _picked_by_offset(head):
            head.problems.append(
                Problem(
                    "warning" if options.allow_suspicious else "error",
                    "tensor-suspicious",
                    "rows of lm_head repeat wherever d2t does: TorchSpec's convert_to_hf since April 2026 (88ca60b) "
                    "takes row d2t[i] of the full lm_head for draft id i, and not row i + d2t[i], so that the head "
                    "scores other tokens than its map says",
                    "export the head without --prune-vocab, or with target ids in place of d2t in "
                    "_save_with_vocab_pruning",
                )
            )
        return head


def _is_marked(checkpoint: Checkpoint) -> bool:
    """Whether config or header say which version exported the head, as all do since April 2026."""
    return _CONFIG_MARK in checkpoint.config or _HEADER_MARK in (checkpoint.metadata or {})


def _shifted_ids(checkpoint: Checkpoint) -> list[int] | None:
    """The ids in ``eagle_config`` where the export has made boundary ids of them, else None."""
    if not _is_marked(checkpoint) or checkpoint.config.get("model_type") != "kimi_k2":
        return None
    if not any(name.startswith("layers.") for name in checkpoint.tensors):
        return None
    ids = Fields(checkpoint.config).section("eagle_config").layer_ids(AUX_IDS)
    return ids if ids and min(ids) > 0 else None


def _with_ids(checkpoint: Checkpoint, ids: list[int]) -> Checkpoint:
    eagle = {**checkpoint.config["eagle_config"], AUX_IDS: ids}
    return replace(checkpoint, config={**checkpoint.config, "eagle_config": eagle})


def _base(theta: float, kind: str) -> Assumption:
    why = (
        f"TorchSpec's MLA drafts rotate with base 10000 under a RoPE scaling ({kind}), whatever rope_theta says "
        "(models/draft/deepseek_eagle.py, April 2026): this base is right only if other code trained the head"
    )
    settle = Hint("give --rope-theta 10000 if that code trained it, or the base it was trained with", "--rope-theta")
    return Assumption("rope_theta", theta, why, settle)


def _picked_by_offset(head: Head) -> bool:
    """Whether draft ids of equal offsets have equal rows of lm_head, as only an index by offset makes them."""
    assert head.vocab_map is not None
    offsets = [t - i for i, t in enumerate(head.vocab_map.target_id)]
    equal = [i for i, (a, b) in enumerate(pairwise(offsets)) if a == b][:_PROBED]
    lm_head = head.tensors["lm_head.weight"]
    return bool(equal) and all(_row(lm_head, i) == _row(lm_head, i + 1) for i in equal)


def _row(ref: TensorRef, i: int) -> bytes:
    width = ref.nbytes // ref.shape[0]
    return read_tensor(
        TensorRef(ref.name, ref.dtype, ref.shape[1:], ref.path, ref.offset + i * width, width, ref.remote)
    )
