"""Plan a conversion: the command, the head in its new layout, and every file to write."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from eagle3hub.checkpoint.folder import open_checkpoint
from eagle3hub.checkpoint.source import CONFIG, INDEX, PICKLE_INDEX, State, file_states
from eagle3hub.checkpoint.writer import OutTensor, Shard, in_file_order, split
from eagle3hub.conversion.edits import Change, Transforms, apply_transforms, overrides
from eagle3hub.conversion.edits.settings import apply_settings
from eagle3hub.errors import Refusal, UsageError
from eagle3hub.head import Assumption, Head
from eagle3hub.head.target import TargetFacts, is_hub_id
from eagle3hub.layouts import get_layout, open_head, provenance
from eagle3hub.layouts.aux_layers import AUX_SHIFTED
from eagle3hub.layouts.base import AS_FOUND, LayoutFiles, ReadOptions, WriteOptions, alternatives

# The command line of a conversion, as it is published: it names no folder of anybody's machine.


def public_name(path: str | Path) -> str:
    """What a path is called in files that get published: Hub names as they are, folders by their last component.

    It is text whatever the locale took the bytes of the name for; what is no UTF-8 in them is replaced.
    """
    text = str(path)
    if text.startswith("hf://") or not Path(text).expanduser().exists():
        return text
    return os.fsencode(Path(text).expanduser().resolve().name).decode("utf-8", "replace")


def command_words(
    source: str | Path,
    to: str,
    *,
    layout: str | None,
    target: TargetFacts | str | None,
    target_name: str | None,
    speculative_tokens: int | None,
    strict: bool,
    read: ReadOptions,
    transforms: Transforms,
    settings: Sequence[tuple[str, Any]],
    max_shard_size: int | None,
) -> list[str]:
    """The words of the command that makes the same conversion; DEST stands for the destination."""
    options: list[tuple[str, Any]] = [
        ("--from", layout),
        ("--target", _target_word(target, target_name)),
        ("--target-name", target_name if target is None else None),
        ("--speculative-tokens", speculative_tokens),
        ("--strict", strict),
        ("--aux-layers", ",".join(map(str, read.aux_layers or ()))),
        ("--aux-convention", read.aux_convention if read.aux_layers else None),
        ("--num-target-layers", read.num_target_layers),
        ("--norm-output", read.norm_output),
        ("--norm-before-residual", _word(read.norm_before_residual)),
        ("--mask-token-id", read.mask_token_id),
        ("--rope-theta", None if read.rope_theta is None else f"{read.rope_theta:g}"),
        *(("--drop", name) for name in read.drop),
        ("--allow-suspicious", read.allow_suspicious),
        *(("--repair", name) for name in transforms.repair),
        ("--d2t", None if transforms.d2t is None else public_name(transforms.d2t)),
        ("--resort-vocab", transforms.resort_vocab),
        ("--sort-aux", transforms.sort_aux),
        ("--drop-embeddings", transforms.drop_embeddings),
        ("--include-embeddings", transforms.include_embeddings and public_name(transforms.include_embeddings)),
        ("--dtype", transforms.dtype),
        *(("--set", f"{key}={json.dumps(value)}") for key, value in settings),
        ("--max-shard-size", max_shard_size),
    ]
    words = ["eagle3hub", "convert", public_name(source), "DEST", "--to", to]
    for option, value in options:
        if value is True:
            words.append(option)
        elif value is not None and value is not False and value != "":
            words += [option, str(value)]
    return words


def _word(flag: bool | None) -> str | None:
    return None if flag is None else str(flag).lower()


def _target_word(target: TargetFacts | str | None, name: str | None) -> str | None:
    if target is None:
        return None
    return target.name if isinstance(target, TargetFacts) else name or public_name(target)


# What a conversion will do: which bytes go where, settled before anything is written.


UNCHANGED = Transforms()


@dataclass(frozen=True, slots=True)
class Plan:
    """What a conversion will do: the head as it shall be, and its spelling in the layout asked for.

    Attributes:
        head: the head after everything that was asked to be changed; its tensors say where their bytes come from.
        to: the layout. spelled: config and tensors as they will lie there.
        command: the command line, folders by their last component.
        speculative_tokens: K that is recommended, or None.
        changes: what was asked to be changed, in order. shards: the weights files.
        fingerprint: digests of what was read of the source. seen: the files it will be read from, as they were then.
    """

    head: Head
    to: str
    spelled: LayoutFiles
    command: list[str]
    speculative_tokens: int | None
    fingerprint: Mapping[str, Any]
    seen: Mapping[Path, State]
    changes: list[Change] = field(default_factory=list)
    shards: list[Shard] = field(default_factory=list)

    @property
    def tensors(self) -> list[OutTensor]:
        """The tensors in the order they will lie in the file."""
        return in_file_order(self.spelled.tensors)

    @property
    def assumptions(self) -> list[Assumption]:
        """What the result depends on and the source does not say."""
        return [*self.head.assumptions, *self.spelled.assumptions]

    @property
    def nbytes(self) -> int:
        """Size of the weights in bytes."""
        return sum(t.nbytes for t in self.spelled.tensors)


def make_plan(
    source: str | Path,
    to: str,
    *,
    layout: str | None = None,
    target: TargetFacts | str | None = None,
    target_name: str | None = None,
    speculative_tokens: int | None = None,
    strict: bool = False,
    read: ReadOptions = AS_FOUND,
    transforms: Transforms = UNCHANGED,
    settings: Sequence[tuple[str, Any]] = (),
    max_shard_size: int | None = None,
) -> Plan:
    """Read the source and work out its spelling in layout ``to``, without writing anything.

    Raises InputError where the source is unreadable or wrong, Refusal where the layout cannot keep what it has or
    (``strict``) where something would have to be assumed.
    """
    codec = get_layout(to)
    if target_name is not None and not is_hub_id(target_name):
        raise UsageError(f"--target-name {target_name!r} is not a Hub id", hint="write it as owner/name")
    checkpoint = open_checkpoint(source, headers_only=True)
    seen = file_states([*checkpoint.weights, *(checkpoint.folder / name for name in (CONFIG, INDEX, PICKLE_INDEX))])
    head = open_head(checkpoint, layout=layout, target=target, target_name=target_name, options=read)
    head, changes = apply_transforms(head, transforms, target if isinstance(target, str) else None)
    head.raise_for_errors()
    try:
        spelled = codec.write(head, WriteOptions(speculative_tokens, _said_name(head, target, target_name)))
    except Refusal as e:
        if e.code != "refused-embed-tokens" or transforms.include_embeddings is None:
            raise
        raise Refusal(
            f"--include-embeddings: with them {e.message}",
            hint=partial(alternatives, head, to, "embed_tokens", remedy="leave the option out"),
            code=e.code,
        ) from e
    head, spelled, done = apply_settings(head, spelled, to, settings)
    plan = Plan(
        head,
        to,
        spelled,
        command_words(
            source,
            to,
            layout=layout,
            target=target,
            target_name=target_name,
            speculative_tokens=speculative_tokens,
            strict=strict,
            read=read,
            transforms=transforms,
            settings=settings,
            max_shard_size=max_shard_size,
        ),
        speculative_tokens or head.speculative_tokens,
        provenance.fingerprint(checkpoint),
        file_states({ref.path for ref in head.tensors.values()}) | seen,
        [*overrides(read), *changes, *done],
        split(spelled.tensors, max_shard_size),
    )
    if codec.contract.single_file and len(plan.shards) > 1:
        raise Refusal(
            f"--max-shard-size: {codec.contract.title} reads a single model.safetensors, and this would be "
            f"{len(plan.shards)} files",
            hint="leave the option out, or choose another layout",
            code="refused-shards",
        )
    shifted = next((p for p in head.problems if p.code == AUX_SHIFTED), None)
    if strict and shifted is not None:
        raise Refusal(f"--strict: {shifted.message}", hint=shifted.hint, code="refused-assumption")
    if strict and plan.assumptions:
        first = plan.assumptions[0]
        more = f" (and {len(plan.assumptions) - 1} more)" if len(plan.assumptions) > 1 else ""
        raise Refusal(
            f"--strict: {first.field} would have to be assumed{more}: {first.why}",
            hint=first.settle,
            code="refused-assumption",
        )
    return plan


def _said_name(head: Head, target: TargetFacts | str | None, target_name: str | None) -> str | None:
    """What the user calls the target, other than by its folder on this machine."""
    if target_name is not None or target is None:
        return target_name
    is_local = target.is_local if isinstance(target, TargetFacts) else Path(target).expanduser().is_dir()
    return None if is_local else head.target_name
