"""NVIDIA NeMo Automodel (NVIDIA-NeMo/Automodel 36044ad, ``components/speculative/eagle/draft_llama.py``).

``model.`` before embeddings, fc, layers and norms, never before lm_head, d2t, t2d and mask_hidden; int64 offsets in
order of frequency and the mask, both only where the vocabulary is reduced. The config is the target's own with the
fields of the draft added (``recipes/llm/train_eagle3.py:544-590``): its num_hidden_layers and layer_types are the
target's, though the trainer makes one layer with full attention. Heads of before June 2026 have their map beside the
weights only, as absolute ids in ``eagle_meta.pt``. The trainer taps the default layers unless a run names others
(``aux_layer_ids``), and records neither.
"""

from __future__ import annotations

from array import array
from dataclasses import replace
from pathlib import Path

from eagle3hub.checkpoint.folder import Checkpoint
from eagle3hub.errors import Hint, Problem
from eagle3hub.head import Head
from eagle3hub.layouts.base import AS_FOUND, Contract, Match, ReadOptions
from eagle3hub.layouts.flat import FlatReader
from eagle3hub.layouts.tensors import read_integers

ARCHITECTURE = "LlamaEagle3DraftModel"
SELECTED = "selected_token_ids"
"""The map in `META`: for each draft id the id of the target's token."""
META = ("eagle_meta.pt", "eagle3_meta.pt")
_MARKS = ("parallel_drafting", "norm_output", "fc_norm", "target_hidden_size")


class Nemo(FlatReader):
    """Reader of NeMo Automodel's checkpoints and of what its ``serve_vllm`` makes of them."""

    name = "nemo"
    contract = Contract(
        title="NeMo Automodel",
        tensor_prefix="layers.0.",
        forms=frozenset({"layers"}),
        expresses=frozenset(
            {
                *("hidden_act", "rope_scaling", "embed_tokens", "target_width", "aux_ids", "full_vocabulary"),
                *("unsorted_vocabulary", "attention_bias", "fc_norm", "post_norm_feedback", "parallel_drafting"),
                "several_layers",
            }
        ),
        vocab_dtype="I64",
        has_t2d=True,
        identity_map=False,
        metadata={"format": "pt"},
        aux_ids=None,
        full_title="NVIDIA NeMo Automodel",
        other_readers="NeMo Automodel's own recipes",
        cannot={"mla": "its drafts for DeepSeek targets were not read in its source"},
        trainer_sorts=False,
        reads=("checkpoints of train_eagle3 at 36044ad, EAGLE-3.1 and P-EAGLE too", "vllm_export of serve_vllm"),
    )

    def detect(self, checkpoint: Checkpoint) -> Match | None:
        """Its class, or the fields that its recipe adds to every draft config."""
        config = checkpoint.config
        if config.get("architectures") == [ARCHITECTURE]:
            return Match(1.0, (f"architecture {ARCHITECTURE}",), certain=True)
        if all(key in config for key in _MARKS) and "embed_tokens.weight" in checkpoint.tensors:
            return Match(1.0, (f"{', '.join(_MARKS)} in config.json", "own embeddings"))
        return None

    def read(self, checkpoint: Checkpoint, options: ReadOptions = AS_FOUND) -> Head:
        """The head in the folder, with the map that lies beside the weights if they have none."""
        place = None
        if options.d2t is None and "d2t" not in checkpoint.tensors:
            place = next((p for p in _places(checkpoint.folder) if p.is_file()), None)
        ids = None if place is None else read_integers_named(place)
        if ids is not None:
            options = replace(options, d2t=array("q", (t - i for i, t in enumerate(ids))))
        head = super().read(checkpoint, options)
        if ids is not None and head.vocab_map is not None:
            message = f"the vocabulary map is that of {place.name if place else META[0]}: the weights hold none"
            head.problems.append(Problem("info", "vocab-beside", message))
        head.problems = [_lost_map(p) if p.code == "vocab-missing" else p for p in head.problems]
        return head


def read_integers_named(path: Path) -> array[int] | None:
    """The ids in a checkpoint's ``eagle_meta.pt``, or None. Nothing in the file is run. Raises CheckpointError."""
    from eagle3hub.checkpoint.pickles import read_pickle_tensors

    ref = read_pickle_tensors(path).get(SELECTED)
    return None if ref is None else read_integers(ref)


def _places(folder: Path) -> list[Path]:
    """Where a checkpoint's map may lie: beside the weights, or where the trainer puts it, above ``model``."""
    above = {"consolidated": folder.parent.parent, "model": folder.parent}.get(folder.name)
    return [place / name for place in (folder, *([above] if above is not None else [])) for name in META]


def _lost_map(problem: Problem) -> Problem:
    message = f"{problem.message}; NeMo Automodel keeps it in {META[0]} of the checkpoint too"
    hint = Hint(f"put {META[0]} beside the weights, or give it with --d2t", "--d2t")
    return Problem(problem.severity, problem.code, message, hint)
