"""SpecForge (sgl-project/SpecForge a6b6b02, ``modeling/draft/llama3_eagle.py``, ``export/to_sglang.py``).

``midlayer.*`` names, safetensors metadata ``format: pt``, d2t as int64 offsets and t2d as bool (always both, also
for a full vocabulary), embeddings in ``--to hf`` exports only; a flat Llama config with the architecture
``LlamaForCausalLMEagle3`` and, if at all, after-layer ids in ``eagle_config``. Its P-EAGLE heads
(``modeling/draft/peagle.py``) are called ``layers.{i}.*`` and keep mask_hidden and their trained embeddings.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from eagle3hub.checkpoint.folder import Checkpoint
from eagle3hub.errors import Hint, Problem
from eagle3hub.head import OPEN_FEEDBACK, Assumption, Head
from eagle3hub.head.aux_defaults import AUX_IDS
from eagle3hub.head.fields import Fields
from eagle3hub.head.rope import ROPE_THETA, read_rope
from eagle3hub.layouts.base import Contract, LayoutFiles, Match, WriteOptions
from eagle3hub.layouts.flat import FlatLayout, common_config
from eagle3hub.layouts.interpret import Interpretation
from eagle3hub.layouts.tensors import MASK_HIDDEN

PARALLEL = "PEagleDraftModel"
_LLAMA, _MLA = "LlamaForCausalLMEagle3", "DeepseekV3ForCausalLMEagle3"
"""The classes of EAGLE-3 heads; the second is that of sgl-project/SpecForge#640, never merged."""
_NORM_OUTPUT = {
    True: Problem(
        "error",
        OPEN_FEEDBACK,
        "config.json says norm_output: true, which SpecForge gave two meanings: the norm before lm_head (up to 0.2.0) "
        "or post-norm feedback (September 2026 and later)",
        Hint(
            "say which it is: --norm-output pre for a head trained with 0.2.0 or earlier, --norm-output post for a "
            "later one",
            "--norm-output",
        ),
    ),
    False: Problem(
        "error",
        OPEN_FEEDBACK,
        "config.json says norm_output: false, which SpecForge gave two meanings: no norm before lm_head, which every "
        "engine applies (up to 0.2.0), or pre-norm feedback (September 2026 and later)",
        Hint(
            "say --norm-output pre for a later head; one trained with 0.2.0 or earlier fits no layout and no engine",
            "--norm-output",
        ),
    ),
}
"""The problem of each value of norm_output, whose meaning changed."""
_EAGLE_3_1 = Assumption(
    "feedback",
    "post_norm",
    "config.json asks for EAGLE-3.1 (fc_norm and norm_output): the next draft step gets the normed state. SpecForge "
    "fed such heads the un-normed one in training until 15 September 2026 (pull request 879)",
    Hint(
        "say --norm-output post for a head trained after that, --norm-output pre for one trained before",
        "--norm-output",
    ),
)
"""SpecForge introduced fc_norm and norm_output together, as EAGLE-3.1 (pull request 568)."""


_OBEYED_BY, _OBEYED_BY_LLAMA3, _OBEYED_BY_SCALED = "30 October 2025", "12 November 2025", "24 July 2026"
"""The days since which SpecForge rotates with the base that a config states: without scaling (pull request 270), with
scaling of type llama3 (287), with any other (702)."""
_OF_OLD_CODE, _OF_NEW_CODE, _OF_LAST = (4, 54), (4, 57, 1), (5,)
"""Transformers releases that SpecForge asked for: the first from August 2025 to 4 November 2025 (up to 4.55.2), the
second from then to 29 June 2026, the third since. Configs copied from a target may name any release before the first.
"""


def _trained_base(meaning: Interpretation, config: Mapping[str, object]) -> Assumption | None:
    """What is assumed of a RoPE base that SpecForge's code may not have obeyed; None where it surely did.

    Its code (``modeling/draft/llama3_eagle.py``, ``_init_rope``) began with `ROPE_THETA` whatever the config said, and
    transformers 5 hid the stated base from it once more (pull requests 605 to 702). The release of transformers that
    saved a folder tells its time. So does fc_norm, which came four days before the last of these changes, and a base
    in both forms, which exports write since August 2026 (``export/checkpoint_io.py``).
    """
    rope, new_form = meaning.semantics.rope, config.get("rope_parameters")
    if "rope_theta" in config and isinstance(new_form, dict) and "rope_theta" in new_form:
        return None
    if rope.theta == ROPE_THETA or meaning.semantics.fc_norm or meaning.llama.mla is not None:
        return None
    release = _release(config.get("transformers_version"))
    kind = None if meaning.semantics.parallel_drafting else read_rope(config).kind
    if kind in (None, "default", "llama3"):
        if release is not None and _OF_NEW_CODE <= release < _OF_LAST:
            return None
        since = _OBEYED_BY_LLAMA3 if kind == "llama3" else _OBEYED_BY
        ignored = release is not None and _OF_OLD_CODE <= release < _OF_NEW_CODE
        when = f"before {since}, and with transformers 5 from 29 June to {_OBEYED_BY_SCALED},"
    else:
        ignored = release is None or release < _OF_LAST
        when = f"before {_OBEYED_BY_SCALED}, under this scaling,"
    stated, old = f"{rope.theta:.15g}", f"{ROPE_THETA:.15g}"
    dated = (
        f"transformers {config['transformers_version']}, which it names, is that of such a head"
        if ignored and release is not None and release >= _OF_OLD_CODE
        else "config.json does not say when this head was trained"
    )
    return Assumption(
        "rope_theta",
        rope.theta,
        f"config.json says so, but {when} SpecForge trained with base {old} whatever a config said; {dated}",
        Hint(f"give --rope-theta {old} for such a head, --rope-theta {stated} for any other", "--rope-theta"),
        doubtful=ignored,
    )


def _release(stated: object) -> tuple[int, ...] | None:
    """The numbers of a release, such as ``4.57.0.dev0``; None for what states none."""
    numbers = re.match(r"(\d{1,4})\.(\d{1,4})(?:\.(\d{1,4}))?", stated) if isinstance(stated, str) else None
    return None if numbers is None else tuple(int(n or 0) for n in numbers.groups())


def _other_count(checkpoint: Checkpoint) -> bool:
    """Whether fc takes another number of states than three, which SpecForge's trainer never makes."""
    config, fc = checkpoint.config, checkpoint.tensors.get("fc.weight")
    width = config.get("target_hidden_size") or config.get("hidden_size")
    if fc is None or len(fc.shape) != 2 or type(width) is not int or width < 1:
        return False
    return fc.shape[1] % width == 0 and fc.shape[1] != 3 * width


class SpecForge(FlatLayout):
    """Codec of SpecForge folders."""

    name = "specforge"
    theta_by_library = True
    inert = frozenset({"norm_output"})
    contract = Contract(
        title="SpecForge",
        tensor_prefix="midlayer.",
        forms=frozenset({"midlayer"}),
        expresses=frozenset(
            {
                *("fc_norm", "hidden_act", "rope_scaling", "embed_tokens", "target_width", "aux_ids"),
                *("full_vocabulary", "parallel_drafting", "mla"),
            }
        ),
        vocab_dtype="I64",
        has_t2d=True,
        identity_map=True,
        metadata={"format": "pt"},
        aux_ids="eagle_config (after-layer) and top level (boundary)",
        engines=("sglang", "vllm", "trtllm"),
        cannot={
            "aux_count": "SpecForge's fc takes exactly 3 aux hidden states",
            "unsorted_vocabulary": "SpecForge takes row r of lm_head for the r-th true entry of t2d",
            "several_layers": "SpecForge makes EAGLE-3 heads of one decoder layer (midlayer)",
            "attention_bias": "SpecForge never makes biases, even if attention_bias is true",
            "post_norm_feedback": "SpecForge's norm_output has two meanings, so nobody could read it back",
        },
        reads=("training output up to 0.2.0", "export --to hf", "export --to sglang", "P-EAGLE"),
        writes="export --to sglang",
    )
    parallel_contract = replace(
        contract,
        title="SpecForge P-EAGLE",
        tensor_prefix="layers.0.",
        engines=(),
        other_readers="SpecForge's own trainer",
        forms=frozenset({"layers", "midlayer"}),
        expresses=contract.expresses - {"mla", "rope_scaling"} | {"several_layers", "norm_before_residual"},
        cannot={**contract.cannot, "rope_scaling": "SpecForge's P-EAGLE drafts know no RoPE scaling"},
    )

    def contract_for(self, parallel_drafting: bool) -> Contract:
        """P-EAGLE heads may have several layers and norm_before_residual."""
        return self.parallel_contract if parallel_drafting else self.contract

    def detect(self, checkpoint: Checkpoint) -> Match | None:
        """Midlayer names with t2d, pt metadata, int64 d2t and the Eagle3 architecture name; or P-EAGLE's."""
        tensors, config = checkpoint.tensors, checkpoint.config
        if "speculators_model_type" in config:  # the speculators trainer calls its P-EAGLE class by the same name
            return None
        midlayer, masks = any(n.startswith("midlayer.") for n in tensors), MASK_HIDDEN in tensors
        if (
            config.get("architectures") == [PARALLEL]
            and not midlayer
            and not any(n.endswith(".bias") for n in tensors)
        ):
            return Match(1.0, (f"architecture {PARALLEL}",), certain=True)
        if not midlayer or "t2d" not in tensors or masks or _is_foreign(config.get("architectures")):
            return None
        if _other_count(checkpoint):
            return None
        evidence = ["midlayer.* names"]
        if config.get("architectures") in ([_LLAMA], [_MLA]):
            evidence.append(f"architecture {config['architectures'][0]}")
        if (checkpoint.metadata or {}).get("format") == "pt":
            evidence.append("header metadata format: pt")
        if "d2t" in tensors and tensors["d2t"].dtype == "I64":
            evidence.append("int64 d2t with t2d")
        return Match((len(evidence) - 1) / 3, tuple(evidence)) if len(evidence) > 1 else None

    def interpret(self, config: Mapping[str, object], *, names: Collection[str] = ()) -> Interpretation:
        """As every flat config, with a doubt of the RoPE base where SpecForge may not have obeyed it.

        norm_output has two meanings, and beside fc_norm (EAGLE-3.1) one is likelier.
        """
        meaning = super().interpret({k: v for k, v in config.items() if k != "norm_output"}, names=names)
        if (doubt := _trained_base(meaning, config)) is not None:
            meaning = replace(meaning, assumptions=[*meaning.assumptions, doubt])
        stated = Fields(config).flag("norm_output", default=None)
        if stated is None:
            return meaning
        if stated and meaning.semantics.fc_norm:
            semantics = replace(meaning.semantics, feedback="post_norm")
            return replace(meaning, semantics=semantics, assumptions=[*meaning.assumptions, _EAGLE_3_1])
        return replace(meaning, problems=[*meaning.problems, _NORM_OUTPUT[stated]])

    def write(self, head: Head, options: WriteOptions) -> LayoutFiles:
        """The files of the head for SpecForge. Raises Refusal."""
        files = super().write(head, options)
        if head.dims.mla is None:
            return files
        note = f"no engine has the class {_MLA} of SpecForge's MLA drafts: --to universal writes what engines serve"
        return replace(files, notes=[*files.notes, note])

    def new_config(self, head: Head) -> dict[str, object]:
        """A flat config that SpecForge and every engine read alike."""
        s = head.semantics
        own = PARALLEL if s.parallel_drafting else _LLAMA if s.attention == "gqa" else _MLA
        return {
            **common_config(head, own),
            **({} if s.attention == "gqa" else {"model_type": "deepseek_v3"}),
            "eagle_config": {
                "use_aux_hidden_state": True,
                **({AUX_IDS: head.aux.after_layer} if head.aux is not None else {}),
            },
        }


def _is_foreign(stated: Any) -> bool:
    """Whether a config names a class that SpecForge's exports never have: a plain Llama's, or one of vLLM's own."""
    names = [name for name in stated if isinstance(name, str)] if isinstance(stated, list) else []
    return any(name.startswith("Eagle3") or name == "LlamaForCausalLM" for name in names)
