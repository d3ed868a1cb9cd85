"""Layouts of checkpoints: the registry of codecs, detection, and opening a head."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from eagle3hub.checkpoint.folder import Checkpoint, open_checkpoint
from eagle3hub.checkpoint.source import READ, refuse_contents
from eagle3hub.errors import ConfigError, Hint, LayoutError, Problem, UsageError
from eagle3hub.head import Head
from eagle3hub.head.target import TargetFacts, depth_of, read_target
from eagle3hub.layouts import provenance
from eagle3hub.layouts.angelslim import AngelSlim
from eagle3hub.layouts.aux_layers import apply_depth, apply_target, numbered_by_target, target_notes, unnamed_layers
from eagle3hub.layouts.base import AS_FOUND, LAYOUTS, READERS, Layout, Match, Reader, ReadOptions
from eagle3hub.layouts.flat import UnknownTrainer
from eagle3hub.layouts.hf_config import MLA_CLASS, context_of
from eagle3hub.layouts.interpret import overridden
from eagle3hub.layouts.modelopt import ModelOpt
from eagle3hub.layouts.nemo import Nemo
from eagle3hub.layouts.safeailab import SafeAILab
from eagle3hub.layouts.specforge import SpecForge
from eagle3hub.layouts.specjax import SpecJax
from eagle3hub.layouts.speculators import Speculators
from eagle3hub.layouts.tensors import (
    MASK_HIDDEN,
    has_mla,
    layer_count,
    prepared,
    refuse_bare_layer,
    refuse_language_model,
    refuse_wrapped,
)
from eagle3hub.layouts.torchspec import TorchSpec
from eagle3hub.layouts.universal import Universal
from eagle3hub.system.documents import did_you_mean

# Checkpoints that are recognised and refused, each with its own message.


def refuse_recognised(checkpoint: Checkpoint) -> None:
    """Raise LayoutError if the folder is a kind of draft model that no codec of this version reads.

    Raises ConfigError for a head whose sizes stand in a part of its config.
    """
    refuse_contents(checkpoint.source, checkpoint.tensors, checkpoint.config, checkpoint.files)
    if "lm_head_layernorm.weight" in checkpoint.tensors and "speculators_model_type" not in checkpoint.config:
        raise LayoutError(
            f"{checkpoint.source} holds a raw head of speculators' research code (lm_head_layernorm); {READ}",
            hint="put the config.json of its speculators release into the folder",
            code="layout-research",
        )
    config = checkpoint.config
    _refuse_config_of_target(checkpoint)
    for part in ("text_config", "model"):
        inner = config.get(part)
        if "hidden_size" not in config and isinstance(inner, dict) and "hidden_size" in inner:
            raise ConfigError(
                f"config.json states the sizes of the head inside {part}; this version reads them at top level only",
                hint=f"move what {part} holds to the top level of config.json",
                code="config-part",
            )


_CLASS_OF_DRAFT = re.compile("eagle|draft|specul|nextn|mtp|medusa", re.IGNORECASE)
_KEY_OF_DRAFT = re.compile("eagle|draft|specul")
"""What the class, and some key, of a draft's config have in their names; targets state their MTP layers, too."""
_LEAST_DEEP = 4
"""Layers of the smallest model that a config is taken for, where the head beside it has fewer."""


def _refuse_config_of_target(checkpoint: Checkpoint) -> None:
    """Raise ConfigError for a draft head's weights beside a config.json that is a whole model's, such as its target's.

    Such a config has the model's depth, and nothing in it is of a draft.
    """
    tensors, config = checkpoint.tensors, checkpoint.config
    layers, depth = layer_count(tensors), depth_of(config)
    is_head = "fc.weight" in tensors or any(name.endswith("hidden_norm.weight") for name in tensors)
    if not is_head or depth is None or depth < _LEAST_DEEP or depth <= layers:
        return
    stated = config.get("architectures")
    classes = [name for name in stated if isinstance(name, str)] if isinstance(stated, list) else []
    if any(map(_CLASS_OF_DRAFT.search, classes)) or any(map(_KEY_OF_DRAFT.search, config)):
        return
    mla = has_mla(tensors)
    fields = f'architectures ["{MLA_CLASS if mla else "LlamaForCausalLMEagle3"}"], model_type '
    fields += f"{'kimi_k2' if mla else 'llama'}, num_hidden_layers {layers}"
    fields += f", draft_vocab_size {tensors['lm_head.weight'].shape[0]}" if "lm_head.weight" in tensors else ""
    raise ConfigError(
        f"config.json of {checkpoint.source} is a whole model's ({', '.join([*classes, f'{depth} layers'])}), such as "
        f"the target's, but the weights beside it are a draft head's with {layers} decoder layer{'s' * (layers > 1)}: "
        "its own RoPE, norms and flags are stated nowhere",
        hint="put the config.json there that the head was trained with (of SpecForge, the file given as "
        f"--draft-model-config). If it is lost, write one: {fields}, and the sizes, RoPE and rms_norm_eps of the "
        "training",
        code="config-of-target",
    )


# The registry, detection, and opening a head.


__all__ = [
    "LAYOUTS",
    "READERS",
    "ReadOptions",
    "by_readers",
    "detect",
    "get_layout",
    "get_reader",
    "open_head",
    "read_head",
    "settle",
]

# To register a codec, import it and enter it here; help, tables and schemas follow this order.
for _layout in (SpecJax(), SpecForge(), ModelOpt(), Speculators(), SafeAILab(), AngelSlim(), Universal()):
    LAYOUTS[_layout.name] = READERS[_layout.name] = _layout
for _reader in (TorchSpec(), Nemo(), UnknownTrainer()):
    READERS[_reader.name] = _reader

_TOLD_BY = {
    "parallel_drafting": re.compile(MASK_HIDDEN),
    "qk_norm": re.compile(r".+\.q_norm\.weight"),
}
"""Features that a tensor's name tells, so that a layout without them is none of a folder's."""
_FLAGS = {
    "norm_before_residual": "norm_before_residual",
    "norm_before_fc": "norm_before_fc",
    "fc_norm": "fc_norm",
    "use_aux_norm": "fc_norm",
}
"""Likewise features that a flag of a flat config tells, unless the layout's trainer ignores the flag. Not norm_output,
which has two meanings: beside a trainer's marks the user has to settle it."""


def _may_be(reader: Reader, checkpoint: Checkpoint) -> bool:
    """Whether a layout has a place for all that the names of a folder's tensors and the flags of its config tell."""
    config = checkpoint.config
    told = {f for f, name in _TOLD_BY.items() if any(name.fullmatch(n) for n in checkpoint.tensors)}
    told |= {f for flag, f in _FLAGS.items() if config.get(flag) is True and flag not in reader.inert}
    return told <= reader.contract.expresses | set(reader.contract.held_for)


def by_readers() -> list[str]:
    """Names of all layouts, those that most engines read first."""
    return sorted(LAYOUTS, key=lambda name: -len(LAYOUTS[name].contract.engines))


def get_reader(name: str) -> Reader:
    """The codec called ``name``, which may be one that only reads. Raises UsageError listing the names there are."""
    if name not in READERS:
        raise UsageError(
            f"there is no layout called {name}{did_you_mean(name, list(READERS))}",
            hint=f"choose one of {', '.join(READERS)}",
            code="usage-layout",
        )
    return READERS[name]


def get_layout(name: str) -> Layout:
    """The codec called ``name``, which also writes. Raises UsageError listing the names there are."""
    if name in READERS and name not in LAYOUTS:
        raise UsageError(
            f"the layout {name} ({READERS[name].contract.title}) is read, not written",
            hint=f"choose one of {', '.join(LAYOUTS)}",
            code="usage-layout",
        )
    if name not in LAYOUTS:
        raise UsageError(
            f"there is no layout called {name}{did_you_mean(name, list(LAYOUTS))}",
            hint=f"choose one of {', '.join(LAYOUTS)}; vLLM, SGLang and TensorRT-LLM all serve universal",
            code="usage-layout",
        )
    return LAYOUTS[name]


def detect(checkpoint: Checkpoint) -> tuple[Reader, Match]:
    """The layout of a folder, and the evidence. Raises LayoutError where none fits or two fit equally well."""
    written_as = provenance.written_layout(checkpoint)
    if written_as is not None and written_as in LAYOUTS:
        return LAYOUTS[written_as], Match(1.0, ("eagle3hub.json says so and matches the files",))
    refuse_recognised(checkpoint)
    able = [reader for reader in READERS.values() if _may_be(reader, checkpoint)]
    matches = [(layout, m) for layout in able if (m := layout.detect(checkpoint)) is not None]
    matches.sort(key=lambda pair: pair[1].rank, reverse=True)
    if not matches:
        refuse_language_model(checkpoint)
        refuse_bare_layer(checkpoint)
        refuse_wrapped(checkpoint)
        raise LayoutError(
            f"{checkpoint.source} is in no layout this version knows (its tensors: {_some(checkpoint)})",
            hint=Hint(f"if you know which it is, name it with --from {'|'.join(READERS)}", "--from"),
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
    codec = None if layout is None else get_reader(layout)
    opened = source if isinstance(source, Checkpoint) else open_checkpoint(source)
    head = read_head(opened, codec, options)
    return settle(head, opened, target=target, target_name=target_name, options=options)


def read_head(opened: Checkpoint, codec: Reader | None = None, options: ReadOptions = AS_FOUND) -> Head:
    """The head as config and weights alone tell it; ``codec`` is that of its layout, found out if it is None.

    Raises InputError where the files cannot be read as a head.
    """
    checkpoint = prepared(opened, options)
    if codec is None:
        codec = detect(checkpoint)[0]
    else:
        refuse_recognised(checkpoint)
    return codec.read(checkpoint, options)


def settle(
    head: Head,
    opened: Checkpoint,
    *,
    target: TargetFacts | str | Path | None = None,
    target_name: str | None = None,
    options: ReadOptions = AS_FOUND,
) -> Head:
    """Complete a head with what its record (`Checkpoint.provenance`), its target and the user know; see `open_head`.

    ``opened`` is the folder that the head was read from. Returns the same object.
    """
    head.opened = opened
    head.problems = [_with_map_beside(problem, opened.files) for problem in head.problems]
    head.problems += opened.problems
    provenance.restore(head, opened)
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
        head.assumptions.append(unnamed_layers(head))
    if (doubt := numbered_by_target(head)) is not None:
        head.assumptions.append(doubt)
    if head.max_position_embeddings is None:
        head.problems.append(
            Problem(
                "warning",
                "config-no-context",
                f"the source states no max_position_embeddings: transformers assumes {context_of(head.config)}, and "
                "SGLang refuses a draft with less context than its target",
                None if target is not None else "give --target: its context length is then written",
            )
        )
    return head


_MAP_BESIDE = re.compile(r"(.*token_map.*|.*vocab_mapping.*|d2t)\.(pt|npy|safetensors)")


def _with_map_beside(problem: Problem, files: Collection[str]) -> Problem:
    """The problem of a missing map with a hint at a file of the folder that by its name holds one."""
    beside = sorted(name for name in files if _MAP_BESIDE.fullmatch(name))
    if problem.code != "vocab-missing" or not beside:
        return problem
    return replace(problem, hint=Hint(f"{beside[0]} in the folder may hold it: give it with --d2t FILE", "--d2t"))


def _some(checkpoint: Checkpoint) -> str:
    names = sorted(checkpoint.tensors)
    return ", ".join(names[:3]) + (" …" if len(names) > 3 else "") if names else "none"
