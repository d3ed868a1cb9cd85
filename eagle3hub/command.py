"""The command line of a conversion, as it is published: it names no folder of anybody's machine."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eagle3hub.layouts.base import ReadOptions
from eagle3hub.target import TargetFacts
from eagle3hub.transforms import Transforms


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
