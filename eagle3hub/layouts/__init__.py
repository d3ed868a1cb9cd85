"""Layouts of checkpoints: the registry of codecs, detection, and opening a head."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from eagle3hub.checkpoint.folder import Checkpoint, open_checkpoint
from eagle3hub.checkpoint.safetensors import TensorRef
from eagle3hub.errors import Hint, LayoutError, Problem, UsageError
from eagle3hub.head import Assumption, Head
from eagle3hub.head.aux_defaults import aux_default, shown
from eagle3hub.head.target import TargetFacts, read_target
from eagle3hub.layouts import provenance
from eagle3hub.layouts.angelslim import AngelSlim
from eagle3hub.layouts.aux_layers import apply_depth, apply_target
from eagle3hub.layouts.base import AS_FOUND, LAYOUTS, Layout, Match, ReadOptions
from eagle3hub.layouts.interpret import overridden
from eagle3hub.layouts.modelopt import ModelOpt
from eagle3hub.layouts.safeailab import SafeAILab
from eagle3hub.layouts.specforge import SpecForge
from eagle3hub.layouts.specjax import SpecJax
from eagle3hub.layouts.speculators import Speculators
from eagle3hub.layouts.target_notes import target_notes
from eagle3hub.layouts.tensors import prepared
from eagle3hub.layouts.universal import Universal

# Checkpoints that are recognised and refused, each with its own message.


_MEDUSA = re.compile(r"(.+\.)?[0-9]+\.[0-9]+\.linear\.weight|lm_heads\.[0-9]+\.weight")
_ADAPTER = ("adapter_config.json", "adapter_model.safetensors")


def refuse_recognised(checkpoint: Checkpoint) -> None:
    """Raise LayoutError if the folder is a kind of draft model that no codec of this version reads."""
    tensors, config = checkpoint.tensors, checkpoint.config
    stated = config.get("architectures")
    architectures = stated if isinstance(stated, list) else []

    def named(*parts: str) -> bool:
        return any(part in name for name in tensors for part in parts)

    def of_class(part: str) -> bool:
        return any(isinstance(name, str) and part in name for name in architectures)

    if named("eh_proj.") or of_class("NextN") or of_class("MTP") or any(n.startswith("mtp.") for n in tensors):
        raise _not_read(checkpoint, "layers for multi-token prediction (MTP)", "mtp")
    if config.get("dflash_config") or of_class("DFlash"):
        raise _not_read(checkpoint, "a DFlash draft model", "dflash")
    if named("kv_a_proj_with_mqa", "q_a_proj") or "Eagle3DeepseekV2ForCausalLM" in architectures:
        raise _not_read(
            checkpoint,
            "an MLA draft head (DeepSeek-style attention)",
            "mla",
            "serve it as it is: vLLM, SGLang and TensorRT-LLM load it in the layout it was exported in",
        )
    if named("parallel_draft_heads."):
        raise _not_read(checkpoint, "an EAGLE-3 head with Medusa heads (parallel_draft_heads)", "medusa")
    if config.get("medusa_num_heads") or of_class("Medusa") or any(_MEDUSA.fullmatch(n) for n in tensors):
        raise _not_read(checkpoint, "Medusa heads", "medusa")
    if _is_eagle1(tensors):
        raise _not_read(checkpoint, "an EAGLE-1 or EAGLE-2 head, not an EAGLE-3 head", "eagle1")
    if named("enorm.", "hnorm.") or architectures == ["LlamaForCausalLMEagle"]:
        raise _not_read(checkpoint, "an EAGLE-1 head (enorm / hnorm), not an EAGLE-3 head", "eagle1")
    if any((checkpoint.folder / name).exists() for name in _ADAPTER):
        raise _not_read(
            checkpoint,
            "a head trained together with a LoRA adapter of the target (adapter_config.json)",
            "lora",
            "it is right only for the adapted target: merge the adapter into the target, move it out of this folder, "
            "and validate the head against the merged target",
        )
    if "lm_head_layernorm.weight" in tensors and "speculators_model_type" not in config:
        raise _not_read(
            checkpoint,
            "a raw head of speculators' research code (lm_head_layernorm)",
            "research",
            "put the config.json of its speculators release into the folder",
        )


def _is_eagle1(tensors: Mapping[str, TensorRef]) -> bool:
    """Whether fc joins a token's embedding with one hidden state, and attention reads one state as wide as fc's."""
    fc, query = tensors.get("fc.weight"), tensors.get("layers.0.self_attn.q_proj.weight")
    if fc is None or query is None or any("hidden_norm" in name for name in tensors):
        return False
    return len(fc.shape) == 2 and fc.shape[1] == 2 * fc.shape[0] and query.shape[1:] == fc.shape[:1]


def _not_read(checkpoint: Checkpoint, what: str, code: str, hint: str | None = None) -> LayoutError:
    return LayoutError(
        f"{checkpoint.source} holds {what}; this version reads Llama-style EAGLE-3 and P-EAGLE heads",
        hint=hint,
        code=f"layout-{code}",
    )


# The registry, detection, and opening a head.


__all__ = ["LAYOUTS", "ReadOptions", "by_readers", "detect", "get_layout", "open_head"]

# To register a codec, import it and enter it here; help, tables and schemas follow this order.
for _layout in (SpecJax(), SpecForge(), ModelOpt(), Speculators(), SafeAILab(), AngelSlim(), Universal()):
    LAYOUTS[_layout.name] = _layout


def by_readers() -> list[str]:
    """Names of all layouts, those that most engines read first."""
    return sorted(LAYOUTS, key=lambda name: -len(LAYOUTS[name].contract.engines))


def get_layout(name: str) -> Layout:
    """The codec called ``name``. Raises UsageError listing the names there are."""
    if name not in LAYOUTS:
        raise UsageError(
            f"there is no layout called {name}",
            hint=f"choose one of {', '.join(LAYOUTS)}; vLLM, SGLang and TensorRT-LLM all serve universal",
            code="usage-layout",
        )
    return LAYOUTS[name]


def detect(checkpoint: Checkpoint) -> tuple[Layout, Match]:
    """The layout of a folder, and the evidence. Raises LayoutError where none fits or two fit equally well."""
    written_as = provenance.written_layout(checkpoint)
    if written_as is not None and written_as in LAYOUTS:
        return LAYOUTS[written_as], Match(1.0, ("eagle3hub.json says so and matches the files",))
    refuse_recognised(checkpoint)
    matches = [(layout, m) for layout in LAYOUTS.values() if (m := layout.detect(checkpoint)) is not None]
    matches.sort(key=lambda pair: pair[1].rank, reverse=True)
    if not matches:
        raise LayoutError(
            f"{checkpoint.source} is in no layout this version knows (its tensors: {_some(checkpoint)})",
            hint=Hint(f"if you know which it is, name it with --from {'|'.join(LAYOUTS)}", "--from"),
            code="layout-unknown",
        )
    if len(matches) > 1 and matches[0][1].rank == matches[1][1].rank:
        names = [layout.name for layout, m in matches if m.rank == matches[0][1].rank]
        raise LayoutError(
            f"{checkpoint.source} could be {' or '.join(names)}: its files do not decide it",
            hint=Hint(f"name the trainer's layout with --from {'|'.join(names)}", "--from"),
            code="layout-ambiguous",
        )
    return matches[0]


def open_head(
    source: str | Path | Checkpoint,
    *,
    layout: str | None = None,
    target: TargetFacts | str | Path | None = None,
    target_name: str | None = None,
    options: ReadOptions = AS_FOUND,
) -> Head:
    """Open the draft head in a folder or a Hub repository.

    Args:
        source: the folder, ``hf://owner/name[@revision][/subfolder]``, or what `open_checkpoint` opened.
        layout: its layout; without it, detection decides.
        target: the target model (facts, folder or Hub id), to check the fit and to settle what the source leaves open.
        target_name: the Hub id to record for a target that is given as a folder, or not given.
        options: the user's overrides.

    Returns a `Head` whose ``problems`` may hold errors (a wrong vocabulary map, a target that does not fit): call
    `Head.raise_for_errors` before relying on it.
    Raises InputError where the source cannot be read, UsageError for an unknown layout.
    """
    codec = None if layout is None else get_layout(layout)
    opened = source if isinstance(source, Checkpoint) else open_checkpoint(source)
    checkpoint = prepared(opened, options)
    if codec is None:
        codec = detect(checkpoint)[0]
    else:
        refuse_recognised(checkpoint)
    head = codec.read(checkpoint, options)
    head.opened = opened
    head.problems += checkpoint.problems
    provenance.restore(head, checkpoint)
    settled = overridden(options)
    head.assumptions = [a for a in head.assumptions if a.field not in settled]
    head.target_name = target_name or head.target_name
    facts = target if isinstance(target, TargetFacts) or target is None else read_target(target, target_name)
    if facts is not None:
        if options.num_target_layers not in (None, facts.num_hidden_layers):
            raise UsageError(
                f"--num-target-layers {options.num_target_layers}: {facts.name} has {facts.num_hidden_layers} layers",
                hint="give one of the two",
            )
        notes = list(target_notes(head, facts))
        apply_target(head, facts)
        head.problems += notes
    elif options.num_target_layers is not None:
        apply_depth(head, options.num_target_layers)
    elif head.aux is None and all(a.field != "aux" for a in head.assumptions):
        default = shown(aux_default().layers)
        why = f"the source names no aux layers; engines then take their default, after layers ({default})"
        head.assumptions.append(Assumption("aux", None, why, "give --target"))
    if head.max_position_embeddings is None:
        head.problems.append(
            Problem(
                "warning",
                "config-no-context",
                "the source states no max_position_embeddings: transformers assumes 2048, and SGLang refuses a draft "
                "with less context than its target",
                None if target is not None else "give --target: its context length is then written",
            )
        )
    return head


def _some(checkpoint: Checkpoint) -> str:
    names = sorted(checkpoint.tensors)
    return ", ".join(names[:3]) + (" …" if len(names) > 3 else "") if names else "none"
